"""Summaries without a loop of one's own: a post-hook for Agno's agents and teams.

    agent = Agent(db=db, post_hooks=[summary_hook(db, policy=SummaryPolicy(max_messages=20))])

Agno's own `enable_session_summaries` makes a summary after every turn, in every process; this one, when the policy says
so, in one process. Use one of them. `add_session_summary_to_context=True` puts the summary into the prompt either way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from agno.session.summary import SessionSummaryManager

from agno_docstores.domains.summaries import Hook, Manager, Summaries, SummaryPolicy
from agno_docstores.facade import AsyncDocstore, Docstore
from agno_docstores.io import run

__all__ = ["SummaryPolicy", "summary_hook"]

log = logging.getLogger("agno_docstores")


def summary_hook(
    db: Docstore | AsyncDocstore, manager: Manager | None = None, policy: SummaryPolicy | None = None
) -> Callable[..., Any]:
    """A function for `post_hooks` of an agent or team on this store: after a turn, summarize the session if it is due.

    `manager`: as `summarize_session` takes it; by default Agno's, with the model of the agent or team. `policy`: when;
    by default after every turn. Both are also what `end_session` and `summarize_session` of `db` use for sessions of
    that agent or team when they are given none.

    Agno calls post-hooks before it stores the run: the run counts nevertheless, and the manager sees it. A session's
    first turn is the exception, because the session itself is not stored before its end: it is summarized with the
    second (or by `end_session`). The run waits for the summary; Agno's decorator `hook(run_in_background=True)` around
    the function changes that under AgentOS. A failure is logged with the session's id, and the run goes on. A turn
    after which nothing is due costs 1 request.

    For an async store it is a coroutine function: `arun`. For a sync store it is a plain one, which Agno calls on the
    event loop under `arun`, and that waits for the model meanwhile, as for every other call of a sync store.
    """
    summaries: Summaries = db._engine.domains["Summaries"]  # which is no operation yet
    summaries.use(Hook(manager, policy), None)

    def chosen(component: Any) -> Manager:
        used = manager or SessionSummaryManager(model=component.model)
        if component is not None:
            summaries.use(Hook(used, policy), component.id)
        return used

    def failed(session: Any, error: Exception) -> None:
        log.warning("session %r was not summarized: %r", getattr(session, "session_id", None), error)

    if isinstance(db, AsyncDocstore):

        async def summarize_async(run_output: Any, session: Any, agent: Any = None, team: Any = None) -> None:
            try:
                await summaries.summarize_turn(session, run_output, chosen(agent or team), policy)
            except Exception as error:  # noqa: BLE001 - a summary that fails must not fail the run
                failed(session, error)

        return summarize_async

    def summarize(run_output: Any, session: Any, agent: Any = None, team: Any = None) -> None:
        try:
            run(summaries.summarize_turn(session, run_output, chosen(agent or team), policy))
        except Exception as error:  # noqa: BLE001 - a summary that fails must not fail the run
            failed(session, error)

    return summarize

"""Summaries of sessions: when one is due, who makes it, and how it is stored, beyond `BaseDb`.

Invariants: of the processes that find a summary due, one makes it. It claims the session first, in one step with the
look that found it due, for as long as a lease lasts; a claim whose process died is taken over when the lease has
passed, and what an outrun process still comes up with is dropped. A summary is stored in one step that changes the
summary, its bookkeeping, `updated_at` and the version of the session, and nothing else: neither a run nor what others
wrote meanwhile. What is stored is what Agno reads. A session that was deleted does not come back.

What a summary covers is a revision of the history: what has been written since is what counts. Of that, the messages of
users and assistants count, of the runs that Agno's own history has (`get_messages`): no members' runs, no failed ones.
"""

from __future__ import annotations

import inspect
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, cast

from agno.db.base import SessionType
from agno.db.utils import owner_key
from agno.run.agent import RunOutput
from agno.run.team import TeamRunOutput
from agno.session import AgentSession, TeamSession
from agno.session.summary import SessionSummary, SessionSummaryManager

from agno_docstores.codec import NULL, Json
from agno_docstores.domains.sessions import CONTEXT_RUNS, run_dicts
from agno_docstores.errors import DocstoreError, OwnershipError, SessionNotFoundError
from agno_docstores.history import Histories, session_ref
from agno_docstores.io import AsyncIo
from agno_docstores.kernel import Kernel, new_token
from agno_docstores.keys import check_id
from agno_docstores.port import Stored
from agno_docstores.session_records import (
    Readings,
    changed,
    commit_session,
    may_replace,
    readable,
    to_session,
    version_of,
)

log = logging.getLogger("agno_docstores")

#: Makes a summary of a session: Agno's manager, or a function of the session (with its runs and its last summary) that
#: gives a `SessionSummary`, a dict of its fields, a text, or None for "nothing to say"; of an async store also async.
Manager = SessionSummaryManager | Callable[[Any], Any]
MOST_HOOKS = 256  # agents that are remembered, for some programs make a new one for each request
#: Where no claim and no summary is.
FREE = {"summarizing": None, "summarizing_until": None}


@dataclass(frozen=True, slots=True)
class SummaryPolicy:
    """When a summary is due: as soon as one of these is reached, and something was said since the last.

    `max_messages`, `max_chars`: of users and assistants since the last summary, this many or more. `interval`: seconds
    (or a `timedelta`) since the last summary, or since the session was created. `on_end`: at `end_session`. None of
    them: never, but by `force`. `lease`: seconds that a process has to make a summary before another may: more than the
    slowest answer of the model takes, and than the clocks of two processes differ by.

    Raises `ValueError` for what is not positive.
    """

    max_messages: int | None = None
    max_chars: int | None = None
    interval: int | float | timedelta | None = None
    on_end: bool = False
    lease: int | float | timedelta = 300

    def __post_init__(self) -> None:
        for name in ("max_messages", "max_chars", "interval", "lease"):
            value = getattr(self, name)
            if isinstance(value, timedelta):
                value = value.total_seconds()
                object.__setattr__(self, name, value)
            if value is None and name != "lease":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ValueError(f"{name} must be a positive number, not {value!r}")

    @property
    def by_length(self) -> bool:
        return self.max_messages is not None or self.max_chars is not None

    def waited_enough(self, seconds: float) -> bool:
        return self.interval is not None and seconds >= cast(float, self.interval)

    def long_enough(self, messages: int, chars: int) -> bool:
        return (self.max_messages is not None and messages >= self.max_messages) or (
            self.max_chars is not None and chars >= self.max_chars
        )


@dataclass(frozen=True, slots=True)
class Occasion:
    """What a summary is asked for on: the policy (None: the asking is reason enough), and whether the session ends."""

    policy: SummaryPolicy | None
    force: bool = False
    ended: bool = False
    #: A run that is over and counts, stored or not.
    run: RunOutput | TeamRunOutput | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """A session as claimed; its history's head as read before, the revision up to which that is complete; the claim's
    token."""

    session: Stored
    head: Stored
    revision: int
    token: str


@dataclass(frozen=True, slots=True)
class Covered:
    """What the last summary covers: the runs up to a revision, and one more; when it was made, epoch seconds."""

    revision: int
    run_id: str | None
    at: float


@dataclass(frozen=True, slots=True)
class Hook:
    """What the turns of an agent or team are summarized by, and when."""

    manager: Manager | None
    policy: SummaryPolicy | None


class Summaries:
    def __init__(self, kernel: Kernel, histories: Histories, readings: Readings) -> None:
        self.kernel = kernel
        self.histories = histories
        self._readings = readings
        self._hooks: OrderedDict[str | None, Hook] = OrderedDict()

    def use(self, hook: Hook, component_id: str | None) -> None:
        """What a call takes that names none for the sessions of this agent or team (None: of those not known)."""
        self._hooks[component_id] = hook
        self._hooks.move_to_end(component_id)
        if len(self._hooks) > MOST_HOOKS:
            del self._hooks[next(id for id in self._hooks if id is not None)]

    async def summarize_session(
        self,
        session_id: str,
        manager: Manager | None = None,
        force: bool = False,
        *,
        policy: SummaryPolicy | None = None,
        user_id: str | None = None,
    ) -> SessionSummary | None:
        """Make and store a summary of a session if one is due; the summary, or None.

        Due: as `policy` says, or that of the session's agent's hook (`summary_hook`; of an agent that this process has
        not run, the hook made last for this object); without either, if anything was said since the last summary; with
        `force`, if anything was ever said. `manager`: Agno's
        `SessionSummaryManager`, or a function of the session, which comes with all its runs (of Agno's manager with
        `last_n_runs`, only those are read), and with the last summary in `session.summary`; it gives a
        `SessionSummary`, a dict of its fields, or a text. Default: the hook's, too.

        None as well where another process is making it, or was given the session over because this one took longer
        than the policy's `lease` (its result is dropped, and logged), where the session was deleted meanwhile, and
        where the manager gives None. What the manager raises is raised, and the session is free for the next.

        Raises `SessionNotFoundError`, `OwnershipError` with a `user_id` whose session it is not, `TypeError` for what
        is no summary, and for a workflow's session (Agno's have none), `ValueError` without a manager. Linearizable.
        What is not due costs 1 request where nothing was said, or the policy asks for no length, else at most 2, with
        the runs since the last summary (none of them where this handle knows the history). A summary: 2 more, and
        reading the history.
        """

        def ask(session: Stored) -> tuple[Manager, Occasion]:
            used, when = self._known(session, manager, policy)
            return used, Occasion(when, force)

        made = await self._summarize(session_id, ask, _reader(session_id, user_id))
        return made[0] if made is not None else None

    async def end_session(
        self,
        session_id: str,
        manager: Manager | None = None,
        *,
        policy: SummaryPolicy | None = None,
        force: bool = False,
        user_id: str | None = None,
    ) -> SessionSummary | None:
        """Say that a session is over: it is summarized if anything was said since the last summary, and `policy` says
        `on_end`, or `force`. The summary, or None; all else is as in `summarize_session`.

        Without a policy, and a hook's, the call is reason enough. The session stays as it is, and can go on.
        """

        def ask(session: Stored) -> tuple[Manager, Occasion]:
            used, when = self._known(session, manager, policy)
            return used, Occasion(when, force, ended=True)

        made = await self._summarize(session_id, ask, _reader(session_id, user_id))
        return made[0] if made is not None else None

    async def summarize_turn(
        self,
        session: AgentSession | TeamSession,
        run: RunOutput | TeamRunOutput | None,
        manager: Manager,
        policy: SummaryPolicy | None,
    ) -> SessionSummary | None:
        """`summarize_session` from within a turn of Agno's loop, where the run is over and not stored yet: it counts,
        and the manager sees it. `session` is the loop's own object, and is saved after this: it gets the summary, and
        counts as read with it, so that the save neither undoes nor meets a conflict over it.

        A session that is not stored yet either, as in its first turn, has no summary before the second. Raises
        `OwnershipError` where the session is not one that the object's user may save.
        """
        user_id = owner_key(session.user_id)

        def check(stored: Stored) -> None:
            if not may_replace(stored, user_id):
                raise OwnershipError("session", session.session_id, user_id)

        try:
            occasion = Occasion(policy, run=run)
            made = await self._summarize(session.session_id, lambda stored: (manager, occasion), check)
        except SessionNotFoundError:
            return None
        if made is None:
            return None
        summary, stored = made
        session.summary = summary
        reading = self._readings.of(session)
        if reading is not None and reading.version == version_of(stored) - 1:
            body = {**reading.body, "summary": (stored.body or {})["summary"]}
            self._readings.note(session, replace(reading, version=version_of(stored), body=body))
        return summary

    def _known(
        self, session: Stored, manager: Manager | None, policy: SummaryPolicy | None
    ) -> tuple[Manager, SummaryPolicy | None]:
        """What is to be used of what was given, and of the hook of the session's agent or team."""
        component = session.fields.get("component")
        hook = self._hooks.get(component if isinstance(component, str) else None) or self._hooks.get(None)
        manager = manager or (hook.manager if hook is not None else None)
        if manager is None:
            raise ValueError("no summary without a manager: pass a SessionSummaryManager, or a function of the session")
        return manager, policy or (hook.policy if hook is not None else None)

    # --- Deciding ---------------------------------------------------------------------------------------------------

    async def _summarize(
        self, session_id: str, ask: Callable[[Stored], tuple[Manager, Occasion]], check: Callable[[Stored], None]
    ) -> tuple[SessionSummary, Stored] | None:
        """The summary that was made, and the session's record with it."""
        check_id("session_id", session_id)

        async def attempt(fresh: bool) -> tuple[Claim, Manager, Occasion] | None:
            session, head = await self.histories.heads(session_id)
            if session is None or head is None:
                raise SessionNotFoundError(session_id)
            check(session)
            if session.fields.get("session_type") == SessionType.WORKFLOW.value:
                raise TypeError(f"session {session_id!r} is a workflow's; Agno's sessions of workflows have no summary")
            manager, occasion = ask(session)
            until = session.fields.get("summarizing_until")
            if isinstance(until, int | float) and until > self.kernel.io.now():
                return None
            revision = await self._due(occasion, session, head)
            if revision is None:
                return None
            token, lease = new_token(), (occasion.policy or SummaryPolicy()).lease
            claimed = {"summarizing": token, "summarizing_until": self.kernel.io.now() + cast(float, lease)}
            return Claim(await self._mark(session, claimed), head, revision, token), manager, occasion

        found = await self.kernel.transact(f"claim of session {session_id!r} for a summary", attempt)
        if found is None:
            return None
        claim, manager, occasion = found
        try:
            summary, covered = await self._made(claim, manager, occasion)
            stored = await self._store(claim, summary, covered) if summary is not None else None
        except BaseException:
            await self._release(claim)
            raise
        if summary is None:
            await self._release(claim)
        return (summary, stored) if summary is not None and stored is not None else None

    async def _due(self, occasion: Occasion, session: Stored, head: Stored) -> int | None:
        """The revision that a summary would cover, or None if none is due. Reads only what was written since the last,
        and only if it depends on that."""
        policy, last = occasion.policy, _covered(session)
        if policy is None or occasion.force:
            by_anything = True
        elif occasion.ended:
            by_anything = policy.on_end
        else:
            by_anything = policy.waited_enough(self.kernel.io.now() - last.at)
        by_length = policy is not None and policy.by_length and not occasion.ended
        # The two records are no snapshot: the summary may cover more than this head tells of.
        newest: Any = head.fields["revision"]
        something_new = newest > last.revision or occasion.run is not None or occasion.force
        if not something_new or not (by_anything or by_length):
            return None
        runs, revision = await self.histories.written_after(session.ref.id, head, last.revision)
        revision = max(revision, last.revision)
        if occasion.force:
            return revision
        new = [run for run in runs if run.ref.id != last.run_id]
        said = _said(_with_runs(session, new, occasion.run))
        long_enough = by_length and policy is not None and policy.long_enough(len(said), sum(map(len, said)))
        return revision if said and (by_anything or long_enough) else None

    # --- Making and storing -----------------------------------------------------------------------------------------

    async def _made(
        self, claim: Claim, manager: Manager, occasion: Occasion
    ) -> tuple[SessionSummary | None, dict[str, Any]]:
        """What the manager makes of the session, and the bookkeeping of it: what it covers."""
        session_id, run = claim.session.ref.id, occasion.run
        if isinstance(manager, SessionSummaryManager) and manager.last_n_runs is not None:
            runs = await self.histories.last(session_id, claim.head, CONTEXT_RUNS, manager.last_n_runs)
        else:
            runs = await self.histories.load(session_id, claim.head)
        session = _with_runs(claim.session, runs, run)
        unstored = run is not None and all(stored.ref.id != run.run_id for stored in runs)
        covered = {
            "summarized_to": claim.revision,
            "summarized_run": run.run_id if run is not None and unstored else None,
            "summarized_at": self.kernel.now(),
        }
        if not _said(session):
            return None, covered
        if not isinstance(manager, SessionSummaryManager):
            made = manager(session)
        elif isinstance(self.kernel.io, AsyncIo):
            made = manager.acreate_session_summary(session)
        else:
            made = manager.create_session_summary(session)
        if inspect.isawaitable(made):
            made = await self._awaited(made)
        return _summary_of(made, datetime.fromtimestamp(self.kernel.now())), covered

    async def _awaited(self, made: Awaitable[Any]) -> Any:
        if isinstance(self.kernel.io, AsyncIo):
            return await made
        if inspect.iscoroutine(made):
            made.close()
        raise TypeError("an async manager of summaries needs an async store")

    async def _store(self, claim: Claim, summary: SessionSummary, covered: dict[str, Any]) -> Stored | None:
        """Store the summary under its claim; the session's record with it, or None where the claim is not ours."""
        part = Json.of(summary.to_dict(), "summary")

        async def attempt(fresh: bool) -> Stored | None:
            session = await self._claimed(claim, fresh)
            if session is None:
                log.warning(
                    "a summary of session %r was dropped: it took longer than its lease, and another process went on, "
                    "or the session was deleted",
                    claim.session.ref.id,
                )
                return None
            fields, body = changed(session, {"summary": part}, updated_at=self.kernel.now(), **covered, **FREE)
            return await commit_session(self.histories, session, fields, body, None)

        return await self.kernel.transact(f"summary of session {claim.session.ref.id!r}", attempt)

    async def _release(self, claim: Claim) -> None:
        async def attempt(fresh: bool) -> None:
            session = await self._claimed(claim, fresh)
            if session is not None:
                await self._mark(session, FREE)

        session_id = claim.session.ref.id
        try:
            await self.kernel.transact(f"release of session {session_id!r}", attempt)
        except DocstoreError as error:
            log.warning("session %r stays claimed for a summary until the lease has passed: %s", session_id, error)

    async def _claimed(self, claim: Claim, fresh: bool) -> Stored | None:
        """The session's record as it is, if the claim on it still stands. Whether it does not is never told from what
        is remembered."""
        known = None if fresh else self.kernel.recent.get(session_ref(claim.session.ref.id))
        if isinstance(known, Stored) and known.fields.get("summarizing") == claim.token:
            return known
        session, _ = await self.histories.heads(claim.session.ref.id)
        return session if session is not None and session.fields.get("summarizing") == claim.token else None

    async def _mark(self, session: Stored, fields: dict[str, Any]) -> Stored:
        """Change fields that are no content: the version stays."""
        return await commit_session(self.histories, session, {**session.fields, **fields}, session.body or {}, None)


def _reader(session_id: str, user_id: str | None) -> Callable[[Stored], None]:
    def check(session: Stored) -> None:
        if not readable(session, user_id):
            raise OwnershipError("session", session_id, user_id)

    return check


def _covered(session: Stored) -> Covered:
    """What the stored summary covers. One that Agno itself wrote covers nothing that we know of, but has its time."""
    fields, created_at = session.fields, session.fields.get("created_at")
    start = created_at if isinstance(created_at, int | float) else 0
    stored = (session.body or {}).get("summary", NULL).value()
    if stored is None:  # none was made, or it was cleared
        return Covered(0, None, start)
    revision, run_id, at = (fields.get(f"summarized_{name}") for name in ("to", "run", "at"))
    if not isinstance(at, int | float):
        at = _time_of(stored.get("updated_at") if isinstance(stored, dict) else None, start)
    return Covered(revision if isinstance(revision, int) else 0, run_id if isinstance(run_id, str) else None, at)


def _time_of(text: Any, otherwise: float) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        return otherwise


def _with_runs(stored: Stored, runs: list[Stored], run: RunOutput | TeamRunOutput | None) -> AgentSession | TeamSession:
    session = cast(AgentSession | TeamSession, to_session(stored, None, run_dicts(runs)))
    if run is not None:
        session.upsert_run(cast(Any, run))
    return session


def _said(session: AgentSession | TeamSession) -> list[str]:
    """What users and assistants said in the session's runs."""
    messages = session.get_messages(skip_roles=["system", "tool"])
    return [message.get_content_string() for message in messages]


def _summary_of(made: Any, now: datetime) -> SessionSummary | None:
    """The summary that a manager's answer stands for; raises `TypeError` for what Agno could not read back."""
    if made is None:
        return None
    if isinstance(made, str):
        made = {"summary": made}
    if isinstance(made, SessionSummary):
        made = vars(made)
    if not isinstance(made, dict) or not made.keys() <= {"summary", "topics", "updated_at"}:
        raise TypeError(f"a manager of summaries gives a SessionSummary, a dict of its fields, or a text, not {made!r}")
    text, topics, updated_at = made.get("summary"), made.get("topics"), made.get("updated_at")
    if isinstance(updated_at, str):
        updated_at = datetime.fromisoformat(updated_at)
    if not isinstance(text, str) or not isinstance(updated_at, datetime | None):
        raise TypeError("a summary is a text, and its updated_at a datetime")
    if topics is not None and not (
        isinstance(topics, list | tuple) and all(isinstance(topic, str) for topic in topics)
    ):
        raise TypeError("the topics of a summary are a list of texts")
    return SessionSummary(text, None if topics is None else list(topics), updated_at or now)

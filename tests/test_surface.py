"""Agno's interface is the one that we were written against, and our classes have its methods as it has them."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from agno_docstores import AsyncMemoryDocstore, MemoryDocstore
from agno_docstores.facade import AsyncDocstore, Docstore
from tests import surface

FACADES: list[tuple[type[Any], type[Any]]] = [
    (Docstore, surface.BASES[0]),
    (AsyncDocstore, surface.BASES[1]),
]


def test_agno_has_the_recorded_surface() -> None:
    found = surface.difference(surface.recorded(), surface.installed())
    if found:
        pytest.fail(
            f"the interface of the installed Agno has changed:\n{found}\n"
            "Serve what is new, follow what changed, then record it: python -m tests.surface --write",
            pytrace=False,
        )


def test_a_difference_names_what_is_new_gone_and_changed() -> None:
    before = {"BaseDb": {"get": "def (self, id)", "gone": "def (self)"}}
    after = {"BaseDb": {"get": "def (self, id, user_id=None)", "new": "async def (self)"}}
    assert set(surface.difference(before, after).splitlines()) == {
        "-BaseDb.get: def (self, id)",
        "+BaseDb.get: def (self, id, user_id=None)",
        "-BaseDb.gone: def (self)",
        "+BaseDb.new: async def (self)",
    }
    assert surface.difference(before, before) == ""


def incompatible(ours: Any, theirs: Any) -> str | None:
    """Why a caller of Agno's method could not call ours the same way; None if he can."""
    if inspect.iscoroutinefunction(ours) != inspect.iscoroutinefunction(theirs):
        return "one is async, the other is not"
    mine = list(inspect.signature(ours).parameters.values())
    wanted = list(inspect.signature(theirs).parameters.values())
    if any(p.kind is p.VAR_KEYWORD for p in mine) and not any(p.kind is p.VAR_KEYWORD for p in wanted):
        return "it takes any keyword, so that a misspelt one is ignored"
    for position, parameter in enumerate(wanted[1:], 1):
        if position >= len(mine):
            return f"{parameter.name} is missing"
        own = mine[position]
        if (own.name, own.kind, own.default) != (parameter.name, parameter.kind, parameter.default):
            return f"it has {own} where Agno has {parameter}"
    required = [p.name for p in mine[len(wanted) :] if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    return f"it needs {required} besides" if required else None


def own_methods() -> list[Any]:
    """The methods of Agno's bases that a facade has its own of."""
    return [
        pytest.param(facade, base, name, id=f"{facade.__name__}.{name}")
        for facade, base in FACADES
        for name in surface.methods(base)
        if name != "__init__" and getattr(facade, name) is not getattr(base, name)
    ]


@pytest.mark.parametrize(("facade", "base", "name"), own_methods())
def test_a_method_is_called_as_agno_calls_it(facade: type[Any], base: type[Any], name: str) -> None:
    assert incompatible(getattr(facade, name), getattr(base, name)) is None


#: Public names of ours that Agno's bases lack: what Agno looks for by `getattr` on a store, and the gateway.
BESIDES = {
    "conflicts",
    "get_session_data",
    "save_session",
    "summarize_session",
    "end_session",
    "update_session",
    "update_session_data",
    "get_messages",
    "get_chat_history",
    "get_tool_calls",
    "get_agent_history",
    "get_team_history",
    "get_workflow_history",
    "cache_stats",
    "clear_cache",
    "count_sessions",
    "drop",
    "get_all_sessions",
    "get_recent_sessions",
    "iter_runs",
    "purge_user",
    "touch_session",
    "get_expired_sessions",
    "sweep",
    "append_run_to_session_if_absent",
    "delete_eval_run",
    "insert_session_if_absent",
    "io",
    "update_run_in_session",
    "serializes_sessions",
    "ensure_jobs_table",
    "enqueue_job",
    "claim_job",
    "heartbeat_jobs",
    "complete_job",
    "retry_or_fail_job",
    "settle_paused_job",
    "cancel_job",
    "sweep_exhausted_jobs",
    "acquire_sweep",
    "settle_swept_job",
    "get_job",
    "count_queued_jobs",
    "continue_job",
    "session_blocker",
    "list_jobs",
    "requeue_job",
    "queue_stats",
    "cleanup_jobs",
}


@pytest.mark.parametrize("facade", [facade for facade, _ in FACADES])
def test_public_methods_have_names_of_agno(facade: type[Any]) -> None:
    """What only one of Agno's classes has may be on both of ours."""
    known = {name for cls in surface.BASES for name in dir(cls)}
    beside = BESIDES | ({"db_url"} if facade is AsyncDocstore else set())
    assert {name for name in dir(facade) if not name.startswith("_")} - known == beside


@pytest.mark.parametrize("cls", [MemoryDocstore, AsyncMemoryDocstore])
def test_what_is_not_served_says_so(cls: type[Any]) -> None:
    """`NotImplementedError` is how Agno learns that a store cannot; an empty answer it would take for data."""
    store = cls()
    refused = [name for name in surface.unserved(cls) if vars(type(store)).get(name) is None]
    for name in refused:
        method = getattr(store, name)
        required = [
            p
            for p in inspect.signature(method).parameters.values()
            if p.default is p.empty and p.kind is not p.VAR_KEYWORD
        ]
        positional = [None for p in required if p.kind is p.POSITIONAL_OR_KEYWORD]
        keywords = {p.name: None for p in required if p.kind is p.KEYWORD_ONLY}
        with pytest.raises(NotImplementedError):
            result = method(*positional, **keywords)
            if inspect.iscoroutine(result):
                result.send(None)


@pytest.mark.parametrize("cls", [MemoryDocstore, AsyncMemoryDocstore])
def test_what_is_served_and_what_is_not_is_everything(cls: type[Any]) -> None:
    count, total = surface.served(cls)
    assert count + len(surface.unserved(cls)) == total
    assert "get_session" not in surface.unserved(cls)
    assert count > 0

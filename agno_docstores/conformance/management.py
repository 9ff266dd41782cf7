"""Management: walks through everything, counts, the removal of all that is a user's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from agno.run.agent import RunOutput
from agno.session import AgentSession, TeamSession, WorkflowSession

from agno_docstores.conformance.approvals import approval_of
from agno_docstores.conformance.auth_tokens import token_of
from agno_docstores.conformance.compactions import compaction, offered
from agno_docstores.conformance.evals import eval_of
from agno_docstores.conformance.knowledge import content_of
from agno_docstores.conformance.memories import memory_of
from agno_docstores.conformance.metrics import at, used
from agno_docstores.conformance.runs import run_ids
from agno_docstores.conformance.schedules import execution_of, schedule_of
from agno_docstores.conformance.service_accounts import account_of
from agno_docstores.conformance.sessions import agent_session, run_of
from agno_docstores.conformance.tool_results import result_of
from agno_docstores.conformance.traces import span, trace
from agno_docstores.errors import InvalidIdError, StoreError
from agno_docstores.history import history_ref, session_ref
from agno_docstores.port import EVERYTHING, Delete, Put, Span
from agno_docstores.schema import KINDS


async def listed(iterator: Any) -> list[Any]:
    """All that an iterator of either kind gives."""
    if hasattr(iterator, "__aiter__"):
        return [item async for item in iterator]
    return list(iterator)


async def following(iterator: Any) -> Any:
    """The next item of an iterator of either kind; None at its end."""
    return await anext(iterator, None) if hasattr(iterator, "__anext__") else next(iterator, None)


async def pages(db: Any, *args: Any, **options: Any) -> list[list[str]]:
    """The ids of the pages of `get_all_sessions`."""
    found = await listed(await db.get_all_sessions(*args, **options))
    return [[session.session_id for session in page] for page in found]


async def several_sessions(db: Any) -> None:
    """s0 to s6, in this order, of two users and nobody; team and workflow sessions among them."""
    for number in range(7):
        values: dict[str, Any] = {"user_id": ("u", "v", None)[number % 3], "created_at": 1000 + number // 2}
        if number == 3:
            await db.upsert_session(TeamSession(session_id="s3", team_id="t", **values))
        elif number == 5:
            await db.upsert_session(WorkflowSession(session_id="s5", workflow_id="w", **values))
        else:
            await db.upsert_session(agent_session(f"s{number}", agent_id=f"a{number % 2}", **values))


# --- Walks ------------------------------------------------------------------------------------------------------------


async def test_all_sessions_come_in_pages_the_oldest_first(db: Any) -> None:
    assert await pages(db) == []
    await several_sessions(db)
    assert await pages(db, page_size=3) == [["s0", "s1", "s2"], ["s3", "s4", "s5"], ["s6"]]
    assert await pages(db) == [["s0", "s1", "s2", "s3", "s4", "s5", "s6"]]
    assert await pages(db, page_size=7) == [["s0", "s1", "s2", "s3", "s4", "s5", "s6"]]
    types = [type(session) for (page) in await listed(await db.get_all_sessions(page_size=6)) for session in page]
    assert (types[3], types[5], types[6]) == (TeamSession, WorkflowSession, AgentSession)


async def test_a_walk_is_of_what_all_filters_hold_for(db: Any) -> None:
    await several_sessions(db)
    assert await pages(db, "u", page_size=2) == [["s0", "s3"], ["s6"]]
    assert await pages(db, "u", session_type="agent") == [["s0", "s6"]]
    assert await pages(db, component_id="a0", page_size=3) == [["s0", "s2", "s4"], ["s6"]]
    assert await pages(db, component_id="a0", session_type="agent", user_id="v") == [["s4"]]
    assert await pages(db, component_id="t", session_type="agent") == []
    assert await pages(db, "u.*") == []
    with pytest.raises(ValueError, match="nonsense"):
        await db.get_all_sessions(session_type="nonsense")
    with pytest.raises(ValueError, match="page_size"):
        await db.get_all_sessions(page_size=0)


async def test_a_walk_neither_repeats_nor_skips_what_is_there_throughout(db: Any, another: Callable[[], Any]) -> None:
    await several_sessions(db)
    walk = await db.get_all_sessions(page_size=2)
    seen = [session.session_id for session in await following(walk)]
    other = another()
    await other.upsert_session(agent_session("early", created_at=1))
    await other.upsert_session(agent_session("s10", created_at=5000))
    await other.delete_session("s0")
    await other.upsert_session(agent_session("s2", metadata={"changed": True}))
    await other.delete_session("s4")
    for page in await listed(walk):
        seen += [session.session_id for session in page]
    # What is added where the walk has been already may be left out (or come late, where an index is in several parts).
    assert [id for id in seen if id != "early"] == ["s0", "s1", "s2", "s3", "s5", "s6", "s10"]
    assert seen.count("early") <= 1


async def test_a_walk_reads_no_page_before_it_is_asked_for(db: Any) -> None:
    await several_sessions(db)
    db.io.calls.clear()
    walk = await db.get_all_sessions("u", page_size=1)
    assert db.io.calls.total() == 0
    await following(walk)
    first = db.io.calls.total()
    assert 1 <= first <= 2
    await following(walk)
    assert db.io.calls.total() <= 2 * first


async def test_runs_come_with_a_walk_only_when_they_are_asked_for(db: Any) -> None:
    await db.upsert_session(agent_session(user_id="u"))
    await db.upsert_session(agent_session("empty", user_id="u"))
    for number in range(3):
        await db.upsert_run(run_of(f"r{number}"), "s1", "u")
    await db.delete_run("r1")
    (page,) = await listed(await db.get_all_sessions("u"))
    assert len(page) == 2 and not any(session.runs for session in page)
    (page,) = await listed(await db.get_all_sessions("u", include_runs=True))
    by_id = {session.session_id: session for session in page}
    assert [run.run_id for run in by_id["s1"].runs] == ["r0", "r2"]
    assert all(isinstance(run, RunOutput) for run in by_id["s1"].runs)
    assert not by_id["empty"].runs


async def test_runs_of_a_session_are_walked_through_in_order(db: Any) -> None:
    assert await listed(await db.iter_runs("s1")) == []
    await db.upsert_session(agent_session(user_id="u"))
    await db.upsert_session(agent_session("other"))
    assert await listed(await db.iter_runs("s1")) == []
    for number in range(5):
        await db.upsert_run(run_of(f"r{4 - number}"), "s1", "u")
    await db.upsert_run(run_of("elsewhere"), "other")
    await db.delete_run("r2")
    runs = await listed(await db.iter_runs("s1", page_size=2))
    assert [run.run_id for run in runs] == ["r4", "r3", "r1", "r0"]
    assert all(isinstance(run, RunOutput) for run in runs)
    rows = await listed(await db.iter_runs("s1", user_id="u", deserialize=False))
    assert [(row["run_id"], row["run_data"]["content"]) for row in rows[:1]] == [("r4", "content of r4")]
    assert await listed(await db.iter_runs("s1", user_id="stranger")) == []
    with pytest.raises(InvalidIdError):
        await db.iter_runs("")


async def test_a_walk_through_runs_sees_what_comes_and_ends_with_the_session(
    db: Any, another: Callable[[], Any]
) -> None:
    other = another()
    await db.upsert_session(agent_session())
    for number in range(3):
        await db.upsert_run(run_of(f"r{number}"), "s1")
    walk = await db.iter_runs("s1", page_size=1)
    assert (await following(walk)).run_id == "r0"
    await other.upsert_run(run_of("r3"), "s1")
    await other.upsert_run(run_of("r2", content="changed"), "s1")
    assert [(run.run_id, run.content) for run in await listed(walk)][1:] == [
        ("r2", "changed"),
        ("r3", "content of r3"),
    ]
    walk = await db.iter_runs("s1", page_size=1)
    await following(walk)
    await other.delete_session("s1")
    await other.upsert_session(agent_session())
    await other.upsert_run(run_of("new0"), "s1")
    await other.upsert_run(run_of("new1"), "s1")
    assert await listed(walk) == []


# --- Recent, counts ---------------------------------------------------------------------------------------------------


async def test_recent_sessions_are_those_that_changed_last(db: Any) -> None:
    assert await db.get_recent_sessions() == []
    sessions = [
        agent_session(f"s{n}", user_id="u" if n % 2 else "v", created_at=1000 - n, updated_at=2000 + n)
        for n in range(8)
    ]
    # Twice: the first write of a session sets `updated_at` to its `created_at`.
    await db.upsert_sessions(sessions, preserve_updated_at=True)
    await db.upsert_sessions(sessions, preserve_updated_at=True)
    await db.upsert_run(run_of("r1"), "s7")

    async def recent(*args: Any, **filters: Any) -> list[str]:
        return [session.session_id for session in await db.get_recent_sessions(*args, **filters)]

    assert await recent() == ["s7", "s6", "s5", "s4", "s3"]
    assert await recent(3, "v") == ["s6", "s4", "s2"]
    assert await recent(limit=2, user_id="u", session_type="agent", component_id="a1") == ["s7", "s5"]
    assert await recent(limit=2, session_type="team") == []
    assert await recent(limit=0) == []
    assert not (await db.get_recent_sessions(1))[0].runs
    with pytest.raises(ValueError, match="limit"):
        await db.get_recent_sessions(-1)


async def test_sessions_are_counted_under_all_filters(db: Any) -> None:
    assert await db.count_sessions() == 0
    await several_sessions(db)
    assert await db.count_sessions() == 7
    assert await db.count_sessions("u") == 3
    assert await db.count_sessions(user_id="u", session_type="agent") == 2
    assert await db.count_sessions(session_type="team") == 1
    assert await db.count_sessions(component_id="a0") == 4
    assert await db.count_sessions(component_id="a0", session_type="agent", user_id="u") == 2
    assert await db.count_sessions("nobody") == 0
    await db.delete_session("s0")
    assert await db.count_sessions("u") == 2


# --- Removal of a user ------------------------------------------------------------------------------------------------

Contents = dict[tuple[str, str], tuple[dict[str, Any], dict[str, Any]]]


async def contents(db: Any) -> Contents:
    """Every record of the store."""
    kernel = db.raw._engine.kernel
    return {
        (kind, record.ref.id): (record.fields, {name: part.value() for name, part in record.body.items()})
        for kind in KINDS
        for record in await kernel.span(Span(kind, EVERYTHING))
    }


async def everything_of(db: Any, user: str | None) -> None:
    """A record of this user's in every domain, two sessions among them: of today, and of an earlier day."""
    name = user or "free"
    for ago in (0, 3):
        session = agent_session(f"{name}-s{ago}", user_id=user, created_at=at(ago), session_data=used(input_tokens=1))
        await db.upsert_session(session)
        for number in range(2):
            await db.upsert_run(run_of(f"{name}-r{ago}{number}"), f"{name}-s{ago}", user)
    await db.delete_run(f"{name}-r01")
    await db.upsert_user_memory(memory_of(f"{name}-m", user_id=user))
    await db.upsert_knowledge_content(content_of(f"{name}-k", user_id=user))
    await db.create_eval_run(eval_of(f"{name}-e", agent_id="a1"))
    if user is not None:
        await db.update_eval_run_user_id(f"{name}-e", user)
    await db.upsert_trace(trace(f"{name}-t", user_id=user))
    await db.create_spans([span(f"{name}-x{number}", f"{name}-t") for number in range(2)])
    await db.upsert_learning(id=f"{name}-l", learning_type="fact", content={"text": "x"}, user_id=user)
    await db.create_schedule(schedule_of(f"{name}-c", user_id=user))
    await db.create_schedule_run(execution_of(f"{name}-cr", f"{name}-c", user_id=user))
    await db.create_approval(approval_of(f"{name}-a", user_id=user))
    await db.create_service_account(account_of(f"{name}-sa", user_id=user))
    await db.upsert_auth_token(token_of(user_id=user))
    for home in (f"{name}-s0", f"{name}-unsaved"):  # also of a turn that died before it saved its session
        await db.upsert_tool_result(result_of(f"{name}-o-{home}", home, user_id=user))
        if offered(db):
            await db.upsert_compaction(compaction(f"{name}-f-{home}", home, user_id=user))


def is_of(user: str, kind: str, id: str, fields: dict[str, Any]) -> bool:
    """Whether a record of `everything_of` has to go with a user."""
    if kind in ("runs", "spans", "histories", "tallies"):
        return str(fields.get("session_id") or fields.get("trace_id") or id).startswith(f"{user}-")
    if kind.endswith("_claims"):
        return str(fields["target"]).startswith(f"{user}-")
    return fields.get("user_id") == user


async def test_all_of_a_user_is_removed_and_nothing_else(db: Any, another: Callable[[], Any]) -> None:
    for user in ("u", "v", None):
        await everything_of(db, user)
    await db.upsert_run(run_of("u-guest"), "free-s0", "u")
    await db.calculate_metrics()
    before = await contents(db)
    expected = {
        "sessions": 2, "runs": 3, "memories": 1, "knowledge": 1, "evals": 1, "traces": 1, "spans": 2, "learnings": 1,
        "metrics": 2, "schedule_runs": 1, "schedules": 1, "approvals": 1, "service_accounts": 1, "auth_tokens": 1,
        "tasks": 0, "projects": 0, "sources": 0, "products": 0, "components": 0, "component_configs": 0, "jobs": 0,
        "compactions": 2 if offered(db) else 0, "tool_results": 2,
    }  # fmt: skip
    found = await db.purge_user("u", dry_run=True)
    assert (found.user_id, found.dry_run, found.failures, found.complete) == ("u", True, (), True)
    assert found.removed == expected
    assert await contents(db) == before
    report = await another().purge_user("u")
    assert report.removed == expected
    assert (report.dry_run, report.failures, report.complete) == (False, (), True)
    assert report.seconds >= 0
    after = await contents(db)
    kept = {key: record for key, record in before.items() if not is_of("u", *key, record[0])}
    assert after == kept
    assert ("runs", "u-guest") in after and len(after) < len(before)
    assert await db.get_session("u-s0") is None
    assert await run_ids(db, "free-s0") == ["free-r00", "u-guest"]
    assert await db.get_tool_result("u-o-u-unsaved") is None
    assert await db.get_tool_results_for_session("free-unsaved") == [result_of("free-o-free-unsaved", "free-unsaved")]
    assert (await db.purge_user("u")).removed == dict.fromkeys(expected, 0)


async def test_a_user_is_purged_of_what_he_has_in_sessions_of_others(db: Any) -> None:
    """A tool result, a compaction is its user's; what of a session is nobody's goes with the session."""
    for user in ("u", "v"):
        await db.upsert_session(agent_session(user, user_id=user))
        for owner in ("u", "v", None):
            await db.upsert_tool_result(result_of(f"{owner} in {user}", user, user_id=owner))
            if offered(db):
                await db.upsert_compaction(compaction(f"{owner} in {user}", user, user_id=owner))
    report = await db.purge_user("u")
    assert (report.removed["tool_results"], report.removed["compactions"]) == (2, 2 if offered(db) else 0)
    left = {(kind, id) for kind, id in await contents(db) if kind in ("tool_results", "compactions")}
    kinds = ("tool_results", "compactions") if offered(db) else ("tool_results",)
    assert left == {(kind, f"{owner} in v") for kind in kinds for owner in ("v", None)}


async def test_only_a_user_can_be_purged(db: Any) -> None:
    await db.upsert_session(agent_session())
    for bad in (None, "", "\ud800"):
        with pytest.raises(InvalidIdError):
            await db.purge_user(bad)
    for name in ("nobody", "u.*", "%", "$ne"):
        report = await db.purge_user(name)
        assert report.complete and not any(report.removed.values())
    assert await db.count_sessions() == 1


async def test_a_user_may_begin_anew_after_a_purge(db: Any, another: Callable[[], Any]) -> None:
    await db.upsert_session(agent_session(user_id="u"))
    await db.upsert_run(run_of("old"), "s1", "u")
    assert (await another().purge_user("u")).complete
    assert await db.get_session("s1", user_id="u") is None
    await db.upsert_session(agent_session(user_id="v", metadata={"n": 1}))
    await db.upsert_run(run_of("new"), "s1", "v")
    assert await run_ids(db) == ["new"]
    assert (await db.purge_user("u")).removed["sessions"] == 0
    assert await run_ids(db) == ["new"]


async def test_a_purge_finishes_deletions_that_were_interrupted(db: Any) -> None:
    """What is left of them is a history that is marked, and some of its runs."""
    for user in ("u", "v"):
        await db.upsert_session(agent_session(f"{user}1", user_id=user))
        await db.upsert_run(run_of(f"{user}-r"), f"{user}1", user)
    await db.calculate_metrics()
    kernel = db.raw._engine.kernel
    for user in ("u", "v"):
        session, head = await kernel.get_many([session_ref(f"{user}1"), history_ref(f"{user}1")])
        marked = {**head.fields, "uncounted": True, "deleting": True}
        await kernel.commit([Delete(session.ref, session.rev), Put(head.ref, marked, {}, head.rev)])
        db.raw.clear_cache()
    report = await db.purge_user("u")
    assert (report.complete, report.removed["sessions"], report.removed["runs"]) == (True, 1, 1)
    left = {key for key in await contents(db) if key[0] in ("sessions", "histories", "runs", "tallies")}
    assert left == {("histories", "v1"), ("runs", "v-r"), ("tallies", "v1")}


async def test_what_cannot_be_removed_is_told_and_the_rest_is_removed(
    db: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await everything_of(db, "u")
    kernel = db.raw._engine.kernel
    commit = kernel.commit

    async def refused(writes: Any) -> Any:
        if any(write.ref.id in ("u-m", "u-s3") for write in writes):
            raise StoreError("commit", "test", "refused")
        return await commit(writes)

    monkeypatch.setattr(kernel, "commit", refused)
    report = await db.purge_user("u")
    assert not report.complete
    assert {(failure.kind, failure.id, type(failure.error)) for failure in report.failures} == {
        ("memories", "u-m", StoreError),
        ("sessions", "u-s3", StoreError),
    }
    assert (report.removed["sessions"], report.removed["memories"], report.removed["learnings"]) == (1, 0, 1)
    assert "u-m" in caplog.text and "u-s3" in caplog.text
    monkeypatch.undo()
    again = await db.purge_user("u")
    assert again.complete
    assert (again.removed["sessions"], again.removed["runs"], again.removed["memories"]) == (1, 2, 1)
    assert await contents(db) == {}


# --- Dropping ---------------------------------------------------------------------------------------------------------


async def test_a_store_is_dropped_when_its_id_is_given_and_can_be_used_on(db: Any) -> None:
    await everything_of(db, "u")
    for wrong in ("", "yes", db.id.upper() + "x", None, True):
        with pytest.raises(ValueError, match=r"confirm="):
            await db.drop(wrong)
    assert await db.count_sessions() == 2
    assert await db.drop(confirm=db.id) is None
    assert await contents(db) == {}
    assert await db.table_exists(db.session_table_name) is False
    assert await db.get_session("u-s0") is None
    await db.drop(confirm=db.id)
    await db.upsert_session(agent_session("u-s0", user_id="v"))
    await db.upsert_run(run_of("r", content="new"), "u-s0", "v")
    assert await run_ids(db, "u-s0") == ["r"]
    assert await db.get_user_memories() == []
    assert await pages(db) == [["u-s0"]]


# --- Cache ------------------------------------------------------------------------------------------------------------


async def test_the_cache_tells_what_it_saved(db: Any, another: Callable[[], Any]) -> None:
    await db.upsert_session(agent_session(user_id="u"))
    for number in range(4):
        await db.upsert_run(run_of(f"r{number}", content="x" * 1000), "s1", "u")
    other = another()
    assert await run_ids(other) == ["r0", "r1", "r2", "r3"]
    first = other.cache_stats
    assert (first.hits, first.updates, first.misses, first.evictions, first.bytes_saved) == (0, 0, 1, 0, 0)
    assert first.entries == 1 and 4000 < first.bytes_held < 8000 < first.limit
    assert await run_ids(other) == ["r0", "r1", "r2", "r3"]
    second = other.cache_stats
    assert (second.hits, second.updates, second.misses) == (1, 0, 1)
    assert second.bytes_saved == second.bytes_held == first.bytes_held
    await db.upsert_run(run_of("r1", content="changed"), "s1", "u")
    await db.upsert_run(run_of("r4"), "s1", "u")
    assert [run.content[:7] for run in (await other.get_session("s1")).runs][1] == "changed"
    third = other.cache_stats
    assert (third.hits, third.updates, third.misses) == (1, 1, 1)
    assert 3000 < third.bytes_saved - second.bytes_saved < first.bytes_held
    other.raw.clear_cache()
    assert (other.cache_stats.entries, other.cache_stats.bytes_held, other.cache_stats.hits) == (0, 0, 1)
    assert await run_ids(other) == ["r0", "r1", "r2", "r3", "r4"]
    assert other.cache_stats.misses == 2

"""Every public method under a store that does not answer: none is forgotten, for they are those of the surface.

A failed read raises and is never "empty"; a failed write raises; both within a bounded number of calls and a bounded
time. The few methods that Agno's contract wants silent answer what the contract says, and say in the log what happened.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from agno.session import TeamSession, WorkflowSession

from agno_docstores.conformance.evals import eval_of
from agno_docstores.conformance.knowledge import content_of
from agno_docstores.conformance.management import contents, everything_of, listed
from agno_docstores.conformance.memories import memory_of
from agno_docstores.conformance.plugin import Awaitable as Handle
from agno_docstores.conformance.sessions import agent_session, run_of
from agno_docstores.conformance.summaries import manager_of
from agno_docstores.conformance.traces import span, trace
from agno_docstores.errors import (
    Conflict,
    ContentionError,
    StoreUnavailableError,
)
from tests import surface
from tests.faults import Down, Patience

#: One cell of each driver, both modes among them: what is looked at is what the core makes of a driver's errors.
CELLS = pytest.mark.cells(
    "memory-sync*", "memory-async", "mongo-sync-standalone", "dynamo-sync-moto", "firestore-async-embedded"
)
IN_PROCESS = pytest.mark.cells("memory-sync*")

Call = Callable[[Any], Any]

READS: dict[str, Call] = {
    "count_sessions": lambda db: db.count_sessions("u"),
    "get_agent_history": lambda db: db.get_agent_history("u-s0"),
    "get_all_memory_topics": lambda db: db.get_all_memory_topics("u"),
    "get_all_sessions": lambda db: all_of(db.get_all_sessions("u", include_runs=True)),
    "get_chat_history": lambda db: db.get_chat_history("u-s0"),
    "get_eval_run": lambda db: db.get_eval_run("u-e"),
    "get_eval_runs": lambda db: db.get_eval_runs(user_id="u", limit=1, deserialize=False),
    "get_expired_sessions": lambda db: db.get_expired_sessions(),
    "get_knowledge_content": lambda db: db.get_knowledge_content("u-k"),
    "get_knowledge_contents": lambda db: db.get_knowledge_contents(user_id="u", limit=1),
    "get_latest_schema_version": lambda db: db.get_latest_schema_version("sessions"),
    "get_learning": lambda db: db.get_learning("fact", user_id="u"),
    "get_learning_by_id": lambda db: db.get_learning_by_id("u-l"),
    "get_learnings": lambda db: db.get_learnings(user_id="u"),
    "get_learnings_user_stats": lambda db: db.get_learnings_user_stats(),
    "get_messages": lambda db: db.get_messages("u-s0"),
    "get_metrics": lambda db: db.get_metrics(user_id="u"),
    "get_recent_sessions": lambda db: db.get_recent_sessions(user_id="u"),
    "get_run": lambda db: db.get_run("u-r00"),
    "get_runs": lambda db: db.get_runs(session_id="u-s0", deserialize=False, limit=1),
    "get_session": lambda db: db.get_session("u-s0"),
    "get_session_data": lambda db: db.get_session_data("u-s0"),
    "get_sessions": lambda db: db.get_sessions(user_id="u", deserialize=False, limit=1),
    "get_span": lambda db: db.get_span("u-x0"),
    "get_span_stats": lambda db: db.get_span_stats(),
    "get_spans": lambda db: db.get_spans("u-t"),
    "get_team_history": lambda db: db.get_team_history("u-team"),
    "get_tool_calls": lambda db: db.get_tool_calls("u-s0"),
    "get_trace": lambda db: db.get_trace("u-t"),
    "get_trace_stats": lambda db: db.get_trace_stats(),
    "get_traces": lambda db: db.get_traces(user_id="u"),
    "get_user_memories": lambda db: db.get_user_memories(user_id="u", limit=1, deserialize=False),
    "get_user_memory": lambda db: db.get_user_memory("u-m"),
    "get_user_memory_stats": lambda db: db.get_user_memory_stats(),
    "get_workflow_history": lambda db: db.get_workflow_history("u-flow"),
    "iter_runs": lambda db: all_of(db.iter_runs("u-s0", deserialize=False)),
    "list_learnings": lambda db: db.list_learnings(user_id="u"),
    "search_learnings": lambda db: db.search_learnings("x", user_id="u"),
    "table_exists": lambda db: db.table_exists("unheard_of"),
}
WRITES: dict[str, Call] = {
    "append_run_to_session_if_absent": lambda db: db.append_run_to_session_if_absent(
        "u-s0", {"run_id": "new", "agent_id": "a1"}, user_id="u"
    ),
    "calculate_metrics": lambda db: db.calculate_metrics(),
    "cancel_pending_run": lambda db: db.cancel_pending_run(
        "u-r00", session_id="u-s0", reason="x", user_id="u", expected_status="RUNNING"
    ),
    "clear_memories": lambda db: db.clear_memories(),
    "create_eval_run": lambda db: db.create_eval_run(eval_of("new")),
    "create_span": lambda db: db.create_span(span("new", "u-t")),
    "create_spans": lambda db: db.create_spans([span("new", "u-t")]),
    "delete_eval_run": lambda db: db.delete_eval_run("u-e"),
    "delete_eval_runs": lambda db: db.delete_eval_runs(["u-e"]),
    "delete_knowledge_content": lambda db: db.delete_knowledge_content("u-k"),
    "delete_learning": lambda db: db.delete_learning("u-l"),
    "delete_run": lambda db: db.delete_run("u-r00"),
    "delete_runs": lambda db: db.delete_runs(["u-r00"]),
    "delete_session": lambda db: db.delete_session("u-s0"),
    "delete_sessions": lambda db: db.delete_sessions(["u-s0"]),
    "delete_user_learnings": lambda db: db.delete_user_learnings("u"),
    "delete_user_memories": lambda db: db.delete_user_memories(["u-m"]),
    "delete_user_memory": lambda db: db.delete_user_memory("u-m"),
    "drop": lambda db: db.drop(db.raw.id),
    "end_session": lambda db: db.end_session("u-s0", manager_of(db), force=True),
    "insert_session_if_absent": lambda db: db.insert_session_if_absent(agent_session("new")),
    "purge_user": lambda db: db.purge_user("u"),
    "reassign_session_owner": lambda db: db.reassign_session_owner("u-team", previous_user_id="u", user_id="w"),
    "rename_eval_run": lambda db: db.rename_eval_run("u-e", "x"),
    "rename_session": lambda db: db.rename_session("u-s0", None, "x"),
    "save_session": lambda db: db.save_session(agent_session("new")),
    "summarize_session": lambda db: db.summarize_session("u-s0", manager_of(db), force=True),
    "sweep": lambda db: db.sweep(),
    "touch_session": lambda db: db.touch_session("u-s0", ttl=60),
    "update_eval_run_user_id": lambda db: db.update_eval_run_user_id("u-e", "w"),
    "update_learning": lambda db: db.update_learning("u-l", {"n": 1}),
    "update_run_in_session": lambda db: db.update_run_in_session("u-s0", "u-r00", {"content": "y"}, user_id="u"),
    "update_session": lambda db: db.update_session("u-s0", lambda session: None),
    "update_session_data": lambda db: db.update_session_data("u-s0", increment={"n": 1}),
    "upsert_knowledge_content": lambda db: db.upsert_knowledge_content(content_of("u-k", name="x")),
    "upsert_learning": lambda db: db.upsert_learning("u-l", "fact", {"n": 1}, user_id="u"),
    "upsert_memories": lambda db: db.upsert_memories([memory_of("u-m", user_id="u")]),
    "upsert_run": lambda db: db.upsert_run(run_of("u-r00", content="y"), "u-s0", "u"),
    "upsert_schema_version": lambda db: db.upsert_schema_version("sessions", "9"),
    "upsert_session": lambda db: db.upsert_session(agent_session("u-s0", user_id="u")),
    "upsert_sessions": lambda db: db.upsert_sessions([agent_session("u-s0", user_id="u")]),
    "upsert_trace": lambda db: db.upsert_trace(trace("u-t")),
    "upsert_user_memory": lambda db: db.upsert_user_memory(memory_of("u-m", user_id="u")),
}
CALLS = {**READS, **WRITES}
#: Methods that do not go to the store, or only to say good-bye.
LOCAL = {"__init__", "clear_cache", "close", "from_dict", "to_dict", "get_latest_configs"}
#: The error policy of Agno's contract: what answers, and logs, instead of raising. AgentOS and the exporters of traces
#: rely on it. Nothing is written back on the ground of such an answer.
SILENT: dict[str, Any] = {
    "create_span": None,
    "create_spans": None,
    "delete_learning": False,
    "get_learning": None,
    "get_learnings": [],
    "get_span": None,
    "get_span_stats": ([], 0),
    "get_spans": [],
    "get_trace": None,
    "get_trace_stats": ([], 0),
    "get_traces": ([], 0),
    "upsert_learning": None,
    "upsert_trace": None,
}
#: What goes on with the rest when something fails, and reports all that failed.
REPORTING = {"purge_user", "sweep"}
ATTEMPTS, WAITED = 5, 0.3  # of one operation of the driver's against a store that does not answer; seconds between them
#: Methods that go on after an operation that failed, and with how many: `purge_user` with each kind of record, metrics
#: are read although they could not be brought up to date, a user's contents and the shared ones are read at once.
OPERATIONS = {"purge_user": 9, "get_metrics": 2, "get_knowledge_contents": 2}
LOSSES, LOST_WAITED = 40, 17.7  # of one transaction against other writers; seconds between them, at most
#: What takes more than one transaction: an insert, which is tried before anything is read; each record of a user's.
MOST_CONFLICTS = {"insert_session_if_absent": 1.1, "purge_user": 9}
#: What answers, where it lost each time. A session that somebody else is counting is left to him, or to the next count.
WHEN_LOST = {**SILENT, "calculate_metrics": None}
PARTITIONS = 5  # of an index that DynamoDB's driver has divided: an operation reads as many, at once where it can


async def prepared(db: Any) -> None:
    """A record of u's in every domain, and a session of each type."""
    await everything_of(db, "u")
    await db.upsert_sessions(
        [
            TeamSession(session_id="u-team", team_id="t1", user_id="u"),
            WorkflowSession(session_id="u-flow", workflow_id="w1", user_id="u"),
        ]
    )


async def all_of(walk: Any) -> list[Any]:
    return await listed(await walk)


async def stored(db: Any) -> dict[Any, Any]:
    """Every record, but the heads of histories: a revision that was taken for a run in vain stays taken."""
    return {key: record for key, record in (await contents(db)).items() if key[0] != "histories"}


def served(cls: type[Any]) -> set[str]:
    """The public methods that go to the store."""
    return surface.methods(cls).keys() - set(surface.unserved(cls)) - LOCAL


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@CELLS
async def test_the_tables_name_every_method(db: Any) -> None:
    assert READS.keys() & WRITES.keys() == set()
    assert served(type(db.raw)) == CALLS.keys()
    assert SILENT.keys() | REPORTING <= CALLS.keys()


@CELLS
@pytest.mark.parametrize("kind", ["timed out", "throttled"])
async def test_a_store_that_does_not_answer_is_told_by_every_method_in_bounded_time(
    db: Any, another: Callable[[], Any], kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await prepared(db)
    warm, cold = db, another()
    await warm.get_session("u-s0")
    store = db.raw._engine.driver.store
    for handle in (warm, cold):
        patience = Patience(handle.io, monkeypatch)
        for name, call in CALLS.items():
            if store == "memory" and name == "table_exists":
                continue  # known without a call
            down = Down(store, kind)
            handle.io.hooks.append(down)
            patience.seconds = 0
            caplog.clear()
            if name in SILENT:
                assert await call(handle) == SILENT[name], name
                assert told(caplog), f"{name} said nothing"
            elif name in REPORTING:
                report = await call(handle)
                assert not report.complete
                assert all(isinstance(failure.error, StoreUnavailableError) for failure in report.failures)
            else:
                with pytest.raises(StoreUnavailableError) as caught:
                    await call(handle)
                assert caught.value.operation and caught.value.address, name
            operations = OPERATIONS.get(name, 1)
            assert 1 <= down.count <= operations * ATTEMPTS * (PARTITIONS if store == "dynamo" else 1), name
            assert patience.seconds <= operations * WAITED + 0.01, name
            handle.io.hooks.clear()
    # None of it was done, and the handles are as good as new.
    assert [run.run_id for run in (await warm.get_session("u-s0")).runs] == ["u-r00"]


@CELLS
async def test_a_read_whose_later_calls_fail_is_not_answered_in_part(
    db: Any, another: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await prepared(db)
    store, struck, reader = db.raw._engine.driver.store, 0, another()
    Patience(reader.io, monkeypatch)
    for name, call in READS.items():
        for since in range(2, 40):
            await reader.clear_cache()
            down = Down(store, "throttled", since=since)
            reader.io.hooks.append(down)
            caplog.clear()
            try:
                answer = await call(reader)
            except StoreUnavailableError:
                assert down.struck and name not in SILENT
            else:
                assert not down.struck or (answer == SILENT[name] and told(caplog)), f"{name} from call {since} on"
            reader.io.hooks.clear()
            struck += down.struck
            if not down.struck:
                break
        else:
            raise AssertionError(f"{name} makes more than 40 calls")
    assert struck > 10


class Losing:
    """A `commit` of a driver's that somebody else always comes before."""

    count = 0

    async def __call__(self, writes: Any, token: str) -> Any:
        self.count += 1
        raise Conflict([write.ref for write in writes])


@IN_PROCESS
async def test_a_writer_that_always_loses_gives_up_in_bounded_time(
    cell: Any, runner: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gave_up = 0
    for name, call in WRITES.items():
        with cell.storage() as storage:
            db = Handle(cell.open(storage))
            await prepared(db)
            before = await stored(db)
            patience, losing = Patience(db.io, monkeypatch), Losing()
            monkeypatch.setattr(db.raw._engine.driver, "commit", losing)
            caplog.clear()
            try:
                answer = await call(db)
            except ContentionError as error:
                assert error.attempts == LOSSES, name
                assert name not in SILENT and await stored(db) == before, name
            else:
                if name in REPORTING:
                    assert answer.complete is (losing.count == 0), name
                    assert all(isinstance(failure.error, ContentionError) for failure in answer.failures)
                elif losing.count:  # else it asks for no conditions, and was done
                    assert answer == WHEN_LOST[name], name
                    assert told(caplog) or name == "calculate_metrics", name
            gave_up += losing.count >= LOSSES
            assert losing.count <= LOSSES * MOST_CONFLICTS.get(name, 1), name
            assert patience.seconds <= LOST_WAITED * MOST_CONFLICTS.get(name, 1), name
    assert gave_up > 25

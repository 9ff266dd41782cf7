"""Many writers at once: threads on a sync store, tasks on an async one, and two handles on one storage.

Needs the fixture `open_another`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from agno.db.utils import is_unique_violation

from agno_docstores.conformance.evals import eval_of
from agno_docstores.conformance.knowledge import content_of
from agno_docstores.conformance.linearizability import Call, History
from agno_docstores.conformance.linearizability import at_once as together
from agno_docstores.conformance.linearizability import check_order as check_history
from agno_docstores.conformance.memories import memory_of
from agno_docstores.conformance.runs import run_ids
from agno_docstores.conformance.sessions import agent_session, run_of
from agno_docstores.conformance.traces import at, span, trace
from agno_docstores.errors import SessionConflictError, StateConditionError

WRITERS = 50


async def at_once(db: Any, calls: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]]) -> list[Any]:
    """The results, or exceptions, of calls made concurrently: in threads for sync methods, else as tasks."""
    if db.is_async:
        pending: list[Awaitable[Any]] = [fn(*args, **kwargs) for fn, args, kwargs in calls]
        return list(await asyncio.gather(*pending, return_exceptions=True))

    def call(item: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]) -> Any:
        fn, args, kwargs = item
        try:
            return fn(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the test looks at it
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(call, calls))


async def check_order(db: Any, expected: set[str]) -> None:
    rows, total = await db.get_runs(session_id="s1", deserialize=False)
    places = [row["run_index"] for row in rows]
    assert {row["run_id"] for row in rows} == expected and total == len(expected)
    assert len(set(places)) == len(places), "two runs share a place"
    assert places == sorted(places)
    assert await run_ids(db) == [row["run_id"] for row in rows]


async def test_fifty_writers_lose_nothing(db: Any) -> None:
    await db.upsert_session(agent_session(user_id="u"))
    calls: list[Any] = [(db.raw.upsert_run, (run_of(f"r{n}"), "s1", "u", 0), {}) for n in range(WRITERS)]
    assert [error for error in await at_once(db, calls) if error is not None] == []
    await check_order(db, {f"r{n}" for n in range(WRITERS)})


async def test_fifty_writers_on_two_handles_lose_nothing(db: Any, another: Callable[[], Any]) -> None:
    other = another()
    await db.upsert_session(agent_session(user_id="u"))
    await other.get_session("s1")
    handles = [db.raw, other.raw]
    calls: list[Any] = [(handles[n % 2].upsert_run, (run_of(f"r{n}"), "s1", "u"), {}) for n in range(WRITERS)]
    assert [error for error in await at_once(db, calls) if error is not None] == []
    await check_order(db, {f"r{n}" for n in range(WRITERS)})
    await check_order(other, {f"r{n}" for n in range(WRITERS)})
    third = another()
    await check_order(third, {f"r{n}" for n in range(WRITERS)})


async def test_readers_during_writes_miss_nothing_acknowledged(db: Any, another: Callable[[], Any]) -> None:
    other = another()
    await db.upsert_session(agent_session())
    for batch in range(5):
        calls: list[Any] = [(db.raw.upsert_run, (run_of(f"r{batch}-{n}"), "s1"), {}) for n in range(6)]
        calls += [(other.raw.get_session, ("s1",), {}) for _ in range(4)]
        results = await at_once(db, calls)
        assert [result for result in results if isinstance(result, Exception)] == []
        expected = {f"r{b}-{n}" for b in range(batch + 1) for n in range(6)}
        assert set(await run_ids(other)) == expected
        assert set(await run_ids(db)) == expected


async def test_updates_and_new_runs_mix(db: Any, another: Callable[[], Any]) -> None:
    other = another()
    await db.upsert_session(agent_session())
    for number in range(10):
        await db.upsert_run(run_of(f"r{number}", status="RUNNING"), "s1")
    calls: list[Any] = []
    for number in range(10):
        handle = (db.raw, other.raw)[number % 2]
        calls.append((handle.upsert_run, (run_of(f"r{number}", status="COMPLETED", content="done"), "s1"), {}))
        calls.append((handle.upsert_run, (run_of(f"n{number}", status="COMPLETED", content="done"), "s1"), {}))
    assert [error for error in await at_once(db, calls) if error is not None] == []
    for handle in (db, other, another()):
        runs = (await handle.get_session("s1")).runs
        assert [run.run_id for run in runs[:10]] == [f"r{n}" for n in range(10)]
        assert {run.run_id for run in runs[10:]} == {f"n{n}" for n in range(10)}
        assert {run.content for run in runs} == {"done"}


async def test_one_of_many_cancellations_wins(db: Any, another: Callable[[], Any]) -> None:
    other = another()
    await db.upsert_session(agent_session())
    await db.upsert_run(run_of("r1", status="PENDING"), "s1")
    calls: list[Any] = [
        ((db.raw, other.raw)[n % 2].cancel_pending_run, ("r1",), {"session_id": "s1", "reason": str(n)})
        for n in range(10)
    ]
    results = await at_once(db, calls)
    assert sorted(map(str, results)) == ["False"] * 9 + ["True"]


async def test_of_many_first_writers_one_owns(db: Any, another: Callable[[], Any]) -> None:
    other = another()
    calls: list[Any] = [
        ((db.raw, other.raw)[n % 2].upsert_session, (agent_session(user_id=f"u{n}"),), {}) for n in range(12)
    ]
    results = await at_once(db, calls)
    won = [result.user_id for result in results if result is not None]
    assert len(won) == 1
    assert (await db.get_session("s1")).user_id == won[0]


async def test_upserts_of_one_session_all_succeed(db: Any, another: Callable[[], Any]) -> None:
    other = another()
    await db.upsert_session(agent_session(user_id="u"))
    calls: list[Any] = [
        ((db.raw, other.raw)[n % 2].upsert_session, (agent_session(user_id="u", metadata={"n": n}),), {})
        for n in range(20)
    ]
    results = await at_once(db, calls)
    assert sorted(result.metadata["n"] for result in results) == list(range(20))
    assert (await db.get_session("s1")).metadata in [{"n": n} for n in range(20)]


async def test_sessions_do_not_disturb_each_other(db: Any) -> None:
    for number in range(10):
        await db.upsert_session(agent_session(f"s{number}"))
    calls: list[Any] = [(db.raw.upsert_run, (run_of(f"r{s}-{n}"), f"s{s}"), {}) for n in range(5) for s in range(10)]
    assert [error for error in await at_once(db, calls) if error is not None] == []
    for number in range(10):
        assert set(await run_ids(db, f"s{number}")) == {f"r{number}-{n}" for n in range(5)}


# --- Histories --------------------------------------------------------------------------------------------------------


def data_model(state: Any, call: Call) -> Any:
    """A session's data: a counter and a value. Every answer tells both as they are afterwards."""
    number, value = state
    kind, *arguments = call.operation
    if kind == "add":
        after = (number + 1, value)
    elif kind == "swap":
        expected, new = arguments
        after = (number, new) if value == expected else (number, value)
        if call.answered and call.answer[0] is not (value == expected):
            return None
        return after if not call.answered or call.answer[1] == after else None
    else:
        after = state
    return after if not call.answered or call.answer == after else None


async def test_state_updates_are_linearizable(db: Any, another: Callable[[], Any]) -> None:
    handles, history = [db, another()], History()
    await db.upsert_session(agent_session(session_data={"n": 0, "v": 0}))

    async def add(handle: Any) -> Any:
        data = await handle.update_session_data("s1", increment={"n": 1})
        return data["n"], data["v"]

    async def swap(handle: Any, expected: int, new: int) -> Any:
        try:
            data = await handle.update_session_data("s1", set={"v": new}, when={"v": expected})
        except StateConditionError as refused:
            return False, (refused.found["n"], refused.found["v"])
        return True, (data["n"], data["v"])

    async def read(handle: Any) -> Any:
        data = await handle.get_session_data("s1")
        return data["n"], data["v"]

    async def work(worker: int) -> None:
        chooser, handle, seen = random.Random(worker), handles[worker % 2], 0
        for step in range(4):
            kind = chooser.choice(("add", "swap", "swap", "read"))
            if kind == "add":
                _, seen = await history.of((kind,), lambda: add(handle))
            elif kind == "read":
                _, seen = await history.of((kind,), lambda: read(handle))
            else:
                pair = (seen, 10 * worker + step + 1)
                _, (_, seen) = await history.of((kind, *pair), lambda pair=pair: swap(handle, *pair))  # type: ignore[misc]

    await together(db, [lambda worker=worker: work(worker) for worker in range(6)])  # type: ignore[misc]
    assert len(history.calls) == 24
    check_history(history, (0, 0), data_model)


def saved_model(state: Any, call: Call) -> Any:
    """A session under its version."""
    version, _ = state
    kind, *arguments = call.operation
    if kind == "read":
        return state if call.answer == state else None
    expected, value = arguments
    if call.answer is True:
        return (version + 1, value) if version == expected else None
    return state if call.answer == version != expected else None


async def test_saves_under_a_version_are_linearizable(db: Any, another: Callable[[], Any]) -> None:
    handles, history = [db, another()], History()
    await db.upsert_session(agent_session(metadata={"v": 0}))
    first = (await db.get_session("s1", deserialize=False))["version"]

    async def read(handle: Any) -> Any:
        row = await handle.get_session("s1", deserialize=False)
        return row["version"] - first, row["metadata"]["v"]

    async def save(handle: Any, expected: int, value: int) -> Any:
        try:
            session = agent_session(metadata={"v": value})
            return await handle.save_session(session, expected_version=first + expected)
        except SessionConflictError as refused:
            return refused.found - first if refused.found is not None else None

    async def work(worker: int) -> None:
        handle = handles[worker % 2]
        for step in range(2):
            version, _ = await history.of(("read",), lambda: read(handle))
            pair = (version, 10 * worker + step + 1)
            await history.of(("save", *pair), lambda pair=pair: save(handle, *pair))  # type: ignore[misc]

    await together(db, [lambda worker=worker: work(worker) for worker in range(6)])  # type: ignore[misc]
    check_history(history, (0, 0), saved_model)


def presence_model(there: Any, call: Call) -> Any:
    """Whether a session is there."""
    (kind,) = call.operation
    if kind == "read":
        return there if call.answer is there else None
    if kind == "insert":
        return True if call.answer is not there else None
    return False if call.answer is there else None


async def test_inserts_and_deletions_of_one_session_are_linearizable(db: Any, another: Callable[[], Any]) -> None:
    handles, history = [db, another()], History()
    await db.upsert_session(agent_session("other"))  # the storage is there

    async def read(handle: Any) -> bool:
        return await handle.get_session("s1") is not None

    async def work(worker: int) -> None:
        chooser, handle = random.Random(worker), handles[worker % 2]
        for _ in range(3):
            kind = chooser.choice(("insert", "insert", "delete", "read"))
            call = {
                "insert": lambda: handle.insert_session_if_absent(agent_session()),
                "delete": lambda: handle.delete_session("s1"),
                "read": lambda: read(handle),
            }[kind]
            await history.of((kind,), call)

    await together(db, [lambda worker=worker: work(worker) for worker in range(6)])  # type: ignore[misc]
    check_history(history, False, presence_model)


def run_model(status: Any, call: Call) -> Any:
    """The status of a run that is cancelled and completed."""
    (kind,) = call.operation
    if kind == "read":
        return status if call.answer == status else None
    if kind == "cancel":
        return ("CANCELLED" if call.answer else status) if call.answer is (status == "PENDING") else None
    if status == "CANCELLED":
        return status if call.answer == "terminal_refused" else None
    return "COMPLETED" if call.answer == "updated" else None


async def test_a_run_is_cancelled_or_completed_once_for_all_to_see(db: Any, another: Callable[[], Any]) -> None:
    handles, history = [db, another()], History()
    await db.upsert_session(agent_session())
    await db.upsert_run(run_of("r1", status="PENDING", content=None), "s1")

    async def complete(handle: Any) -> str:
        outcome = await handle.update_run_in_session("s1", "r1", {"status": "COMPLETED"})
        return str(outcome.value)

    async def read(handle: Any) -> str:
        return str((await handle.get_run("r1", deserialize=False))["status"])

    async def work(worker: int) -> None:
        handle = handles[worker % 2]
        order = [
            ("read", lambda: read(handle)),
            ("cancel", lambda: handle.cancel_pending_run("r1", session_id="s1", reason="x")),
            ("complete", lambda: complete(handle)),
        ]
        for kind, call in order[worker % 3 :] + order[: worker % 3]:
            await history.of((kind,), call)

    await together(db, [lambda worker=worker: work(worker) for worker in range(6)])  # type: ignore[misc]
    check_history(history, "PENDING", run_model)
    assert [call.answer for call in history.calls if call.operation == ("cancel",)].count(True) <= 1


# --- Memories, knowledge contents, eval runs --------------------------------------------------------------------------


async def test_writers_of_one_memory_are_all_told_the_truth(db: Any, another: Callable[[], Any]) -> None:
    handles = [db.raw, another().raw]
    await db.upsert_user_memory(memory_of(user_id="u", memory="before"))
    before = await db.get_user_memory("m1")
    contents = {f"text {n}": [f"topic {n}"] for n in range(10)}
    calls: list[Any] = [
        (handles[n % 2].upsert_user_memory, (memory_of(user_id=("u", None)[n % 2], memory=text, topics=topics),), {})
        for n, (text, topics) in enumerate(contents.items())
    ]
    results = await at_once(db, calls)
    assert [(result.memory, result.topics, result.user_id) for result in results] == [
        (text, topics, "u") for text, topics in contents.items()
    ]
    found = await db.get_user_memory("m1")
    assert found.topics == contents[found.memory], "the content of one writer, whole"
    assert (found.user_id, found.created_at) == ("u", before.created_at)
    assert [memory.memory_id for memory in await db.get_user_memories()] == ["m1"]


async def test_writers_of_many_memories_lose_none(db: Any, another: Callable[[], Any]) -> None:
    handles = [db.raw, another().raw]
    calls: list[Any] = [
        (handles[n % 2].upsert_user_memory, (memory_of(f"m{n:02}", user_id=f"u{n % 3}"),), {}) for n in range(16)
    ]
    both = [memory_of("both", user_id="u0"), *(memory_of(f"bulk{n}", user_id="u1") for n in range(4))]
    calls += [(handle.upsert_memories, (both,), {}) for handle in handles]
    results = await at_once(db, calls)
    assert [result for result in results if isinstance(result, Exception)] == []
    assert [len(result) for result in results[16:]] == [5, 5]
    expected = {f"m{n:02}" for n in range(16)} | {"both"} | {f"bulk{n}" for n in range(4)}
    memories = await db.get_user_memories()
    assert len(memories) == len(expected) and {memory.memory_id for memory in memories} == expected
    stats, users = await db.get_user_memory_stats()
    assert ({row["user_id"]: row["total_memories"] for row in stats}, users) == ({"u0": 7, "u1": 9, "u2": 5}, 3)


async def test_an_eval_run_is_created_once_and_its_owner_and_name_both_set(db: Any, another: Callable[[], Any]) -> None:
    handles = [db.raw, another().raw]
    calls: list[Any] = [(handles[n % 2].create_eval_run, (eval_of(name=f"n{n}"),), {}) for n in range(8)]
    results = await at_once(db, calls)
    created = [result for result in results if not isinstance(result, Exception)]
    assert len(created) == 1 and all(is_unique_violation(r) for r in results if isinstance(r, Exception))
    assert (await db.get_eval_run("e1")).name == created[0].name
    calls = [(handles[n % 2].update_eval_run_user_id, ("e1", "u"), {}) for n in range(5)]
    calls += [(handles[n % 2].rename_eval_run, ("e1", "renamed"), {}) for n in range(5)]
    results = await at_once(db, calls)
    assert [result for result in results if isinstance(result, Exception)] == []
    row = await db.get_eval_run("e1", deserialize=False, user_id="u")
    assert (row["name"], row["user_id"], row["eval_data"]) == ("renamed", "u", {"score": 1})


async def test_writers_of_different_columns_of_one_content_lose_none(db: Any, another: Callable[[], Any]) -> None:
    handles = [db.raw, another().raw]
    await db.upsert_knowledge_content(content_of(user_id="u"))
    columns: dict[str, Any] = {
        "status": "done",
        "size": 5,
        "type": "pdf",
        "external_id": "x",
        "status_message": "m",
        "access_count": 1,
    }
    calls: list[Any] = [
        (handles[n % 2].upsert_knowledge_content, (content_of("c1", **{name: value}),), {})
        for n, (name, value) in enumerate(columns.items())
    ]
    assert [result for result in await at_once(db, calls) if isinstance(result, Exception)] == []
    assert await db.get_knowledge_content("c1", user_id="u") == content_of(user_id="u", **columns)


async def test_exports_of_one_trace_at_once_lose_nothing(db: Any, another: Callable[[], Any]) -> None:
    handles = [db.raw, another().raw]
    calls: list[Any] = []
    for n in range(16):
        ids = {"user_id": f"u{n}"} if n % 2 else {"session_id": f"s{n}"}
        calls.append((handles[n % 2].upsert_trace, (trace("t1", start=n, end=40 - n, **ids),), {}))
        # Each span is sent twice, and every batch has one that all have.
        spans = [span(f"s{n // 2}-{k}", "t1", k, status_code="ERROR" if k == 1 else "OK") for k in range(3)]
        calls.append((handles[n % 2].create_spans, ([*spans, span("shared", "t1")],), {}))
    assert [result for result in await at_once(db, calls) if result is not None] == []
    for handle in (db, another()):
        found = await handle.get_trace("t1")
        assert (found.start_time, found.end_time, found.duration_ms) == (at(0), at(40), 40_000)
        assert found.user_id in {f"u{n}" for n in range(1, 16, 2)}
        assert found.session_id in {f"s{n}" for n in range(0, 16, 2)}
        assert (found.total_spans, found.error_count) == (25, 8)
        stored = {one.span_id for one in await handle.get_spans("t1")}
        assert stored == {"shared", *(f"s{n}-{k}" for n in range(8) for k in range(3))}
    first = await db.get_trace("t1")
    await db.upsert_trace(trace("t1", user_id="late", session_id="late"))
    last = await db.get_trace("t1")
    assert (last.user_id, last.session_id, last.total_spans) == (first.user_id, first.session_id, 25)
    assert (await db.get_traces(user_id=first.user_id))[1] == 1


async def test_a_span_that_two_traces_claim_at_once_is_in_one(db: Any, another: Callable[[], Any]) -> None:
    handles = [db.raw, another().raw]
    for trace_id in ("t0", "t1"):
        await db.upsert_trace(trace(trace_id))
    calls: list[Any] = [(handles[n % 2].create_spans, ([span("s1", f"t{n % 2}")],), {}) for n in range(8)]
    await at_once(db, calls)
    home = (await db.get_span("s1")).trace_id
    totals = {one.trace_id: one.total_spans for one in (await db.get_traces())[0]}
    assert totals == {"t0": 0, "t1": 0, home: 1}

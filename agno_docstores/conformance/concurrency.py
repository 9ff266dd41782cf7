"""Many writers at once: threads on a sync store, tasks on an async one, and two handles on one storage.

Needs the fixture `open_another`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from agno_docstores.conformance.runs import run_ids
from agno_docstores.conformance.sessions import agent_session, run_of

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

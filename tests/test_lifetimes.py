"""What a sweep holds against: stores that reap by themselves, kills, other sweepers, writers with a slower clock.

Whatever happens: what has not expired is not touched, what was acknowledged is there, and in the end nothing is left of
what has expired.
"""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from agno_docstores import (
    AsyncMemoryDocstore,
    DocstoreError,
    MemoryDocstore,
    SessionConfig,
    SessionNotFoundError,
    summary_hook,
)
from agno_docstores.conformance.compactions import offered
from agno_docstores.conformance.lifetimes import LIFE, Clock, clock, ids, leave, left, only, talk  # noqa: F401
from agno_docstores.conformance.plugin import Awaitable, close
from agno_docstores.conformance.runs import run_ids
from agno_docstores.conformance.sessions import agent_session, run_of
from agno_docstores.conformance.tool_results import result_of
from agno_docstores.conformance.transcripts import KEY, append
from agno_docstores.domains.lifetimes import CLAIM, Lifetimes
from agno_docstores.history import GRACE, history_ref, run_ref, session_ref
from agno_docstores.kernel import new_token
from agno_docstores.lifetimes import HELD
from agno_docstores.port import EVERYTHING, Delete, Span
from agno_docstores.schema import KINDS, reminder_ref
from agno_docstores.tallies import tally_ref
from tests.faults import CRASHES, MOST_CALLS, Between, Crashed, Fault, places, replays

CELLS = pytest.mark.cells("memory-sync*", "mongo-sync-standalone", "dynamo-sync-moto", "firestore-async-embedded")
EVERYWHERE = pytest.mark.cells("memory-*", "mongo-*", "dynamo-*", "firestore-*")


async def contents(db: Any) -> set[tuple[str, str]]:
    """Kind and id of everything that is stored, expired or not."""
    driver = db._engine.driver
    found = set()
    for kind in KINDS:
        cursor: Any = None
        while True:
            page = await driver.scan(Span(kind, EVERYTHING, body=False, after=cursor))
            found |= {(record.ref.kind, record.ref.id) for record in page.records}
            cursor = page.cursor
            if cursor is None:
                break
    return found


def of_session(session_id: str, *runs: str) -> set[tuple[str, str]]:
    """What is stored of a session with a lifetime."""
    refs = [session_ref(session_id), history_ref(session_id), reminder_ref("sessions", session_id)]
    return {(ref.kind, ref.id) for ref in (*refs, *map(run_ref, runs))}


async def reap(db: Any, session_id: str) -> None:
    """What the store's own reaper does: it removes the session, on MongoDB with all that its document holds."""
    driver = db._engine.driver
    refs = [session_ref(session_id)]
    if not driver.atomic:
        refs += [history_ref(session_id), tally_ref(session_id)]
    await driver.commit([Delete(ref) for ref in refs], new_token())


# --- The store's own reaper -------------------------------------------------------------------------------------------


@EVERYWHERE
async def test_what_the_store_reaps_leaves_nothing_behind(db: Any, clock: Clock) -> None:  # noqa: F811
    db = clock.open()
    await talk(db, "s1", "r1", "r2")
    await talk(db, "s2", "r3")
    (session,) = await db._engine.kernel.get_many([session_ref("s1")])
    assert session.expires_at == clock.now + LIFE, "the store's own expiry"
    clock.move(LIFE)
    await talk(db, "young", "r4")
    await reap(db, "s1")
    await reap(db, "s2")
    for reader in (db, clock.open()):
        assert await reader.get_session("s1") is None and await reader.get_run("r1") is None
        assert [run.run_id for run in await reader.get_runs()] == ["r4"]
        assert await reader.get_runs(session_id="s1") == [] and await reader.delete_run("r1") is False
        with pytest.raises(SessionNotFoundError):
            await reader.upsert_run(run_of("r1"), "s1", "u")
    other = clock.open()
    await talk(other, "s2", "r3", "n1", user_id="v")  # begun anew, and a run of the same id with it
    assert await run_ids(db, "s2") == ["r3", "n1"]
    swept = await other.sweep()
    assert (swept.sessions, swept.runs, swept.complete) == (1, 2, True)
    assert await contents(other) == of_session("s2", "r3", "n1") | of_session("young", "r4")
    clock.move(LIFE)
    assert (await other.sweep()).sessions == 2
    assert await contents(other) == set()


@pytest.mark.cells("memory-*", "mongo-*-secantus", "mongo-sync-standalone", "dynamo-*-local", "firestore-*-google")
@pytest.mark.parametrize("put_off", [False, True], ids=["as first due", "put off since"])
async def test_what_goes_with_a_session_is_not_seen_when_the_store_has_reaped_it(
    db: Any,
    clock: Clock,  # noqa: F811
    put_off: bool,
) -> None:
    db = clock.open()
    await talk(db, "s1", "r1")
    await leave(db, "first")
    if put_off:
        clock.move(LIFE // 2)
        await talk(db, "s1")
        clock.move(LIFE // 2 + 1)  # later than its first expiry, of which the reminder tells
        await leave(db, "old")
        await db.upsert_run(run_of("r2"), "s1", "u")
    clock.move(LIFE)
    names = ("first", "old", "other", "new")
    await talk(db, "s2")
    await leave(db, "other", "s2")
    await reap(db, "s1")
    for reader in (db, clock.open(), clock.open(session_config=None)):
        assert await left(reader, *names) == only(db, "other")
    clock.move(1)
    await leave(db, "new")
    for reader in (db, clock.open(), clock.open(session_config=None)):
        assert await left(reader, *names) == only(db, "other", "new")
    await talk(db, "s1", user_id="v")
    assert await left(db, *names) == only(db, "other", "new")
    await clock.open().sweep()
    assert await left(db, *names) == only(db, "other", "new")
    stored = {id for kind, id in await contents(db) if kind in ("compactions", "tool_results")}
    assert stored == {"other", "new"}
    clock.move(LIFE + CLAIM)
    await reap(db, "s1")
    await clock.open().sweep()
    assert await left(db, *names) == {read: [] for read in only(db)}


@EVERYWHERE
async def test_a_sweep_of_what_the_store_reaped_leaves_what_the_next_turn_has_written(
    db: Any,
    clock: Clock,  # noqa: F811
) -> None:
    db = clock.open()
    await talk(db, "s1", "r1")
    await leave(db, "old")
    clock.move(LIFE)
    await reap(db, "s1")
    clock.move(1)
    await leave(db, "new")
    assert (await clock.open().sweep()).complete
    assert await left(db, "old", "new") == only(db, "new")
    await talk(db, "s1", user_id="v")
    assert await left(db, "old", "new") == only(db, "new")


# --- Kills and others at work -----------------------------------------------------------------------------------------


async def prepared(db: Any, clock: Clock) -> set[tuple[str, str]]:  # noqa: F811
    """Three sessions that are over, one of them reaped; one that lives, one that is held. What has to stay."""
    await talk(db, "old1", "a1", "a2")
    await talk(db, "old2", "b1")
    await db.upsert_run(run_of("b2", status="PAUSED"), "old2", "u")
    await db.upsert_run(run_of("b2", status="COMPLETED"), "old2", "u")
    await talk(db, "old3", "c1")
    await talk(db, "held", "d1")
    await db.upsert_run(run_of("d2", status="PAUSED"), "held", "u")
    clock.move(LIFE)
    await talk(db, "young", "e1")
    await reap(db, "old3")
    return of_session("young", "e1") | of_session("held", "d1", "d2")


@CELLS
@pytest.mark.parametrize("kind", ["unreachable", "lost reply", "repeated", "crash before", "crash after"])
async def test_a_sweep_that_is_struck_at_any_call_is_finished_by_the_next(
    cell: Any,
    runner: Any,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async for replay in replays(cell, [kind]):
        time = Clock(replay.open, monkeypatch)
        db, survivor = time.open(), time.open()
        staying = await prepared(db, time)
        swept = 0
        try:
            report = await replay.strike(db, lambda db: db.sweep())
            swept = report.sessions
            assert report.complete, report.failures
        except Crashed:
            pass
        assert await ids(survivor) == ["held", "young"]
        time.move(CLAIM)  # what a process has claimed and not done is due again then
        again = await survivor.sweep()
        assert swept + again.sessions == 3 or (kind.startswith("crash") and again.sessions <= 3)
        assert again.complete
        assert await contents(survivor) == staying, str(replay)
        assert await run_ids(survivor, "held") == ["d1", "d2"] and await run_ids(survivor, "young") == ["e1"]


@pytest.mark.cells("memory-sync*", "mongo-sync-standalone")
@pytest.mark.parametrize("reaped", [False, True], ids=["not reaped", "reaped"])
@pytest.mark.parametrize("kind", CRASHES)
async def test_the_next_session_has_what_its_turn_wrote_wherever_the_removal_of_the_last_stops(
    cell: Any, runner: Any, kind: str, reaped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async for replay in replays(cell, [kind]):
        time = Clock(replay.open, monkeypatch)
        db, survivor = time.open(), time.open()
        await talk(db, "s1", "r1")
        await leave(db, "old")
        time.move(LIFE)
        if reaped:
            await reap(db, "s1")
        time.move(1)
        await leave(db, "new")
        with suppress(Crashed):
            await replay.strike(db, lambda db: db.upsert_session(agent_session("s1", user_id="v")))
        assert await left(survivor, "old", "new") == only(survivor, "new"), str(replay)
        await survivor.upsert_session(agent_session("s1", user_id="v"))
        assert await left(survivor, "old", "new") == only(survivor, "new"), str(replay)
        stored = {id for kind, id in await contents(survivor) if kind in ("compactions", "tool_results", "runs")}
        assert stored == {"new"}, str(replay)


def write_run(db: Any) -> bool:
    try:
        db.upsert_run(run_of("late", status="COMPLETED"), "old1", "u")
    except SessionNotFoundError:
        return False
    return True


def write_state(db: Any) -> bool:
    try:
        db.update_session_data("old1", {"late": True})
    except SessionNotFoundError:
        return False
    return True


def write_session(db: Any) -> bool:
    db.upsert_session(agent_session("old1", user_id="u", session_data={"late": True}))
    return True


ACTIONS: list[Callable[[Any], bool]] = [
    lambda db: db.touch_session("old1"), write_run, write_state, write_session,
]  # fmt: skip


@pytest.mark.cells("memory-sync*")  # what is replayed is the order of calls: whole commits, and one document each
@pytest.mark.parametrize("slower", [5, 0], ids=["clock behind", "clocks agree"])
@pytest.mark.parametrize("action", ACTIONS, ids=["touch", "run", "state", "session"])
async def test_a_writer_with_a_slower_clock_loses_nothing_that_was_acknowledged(
    cell: Any, runner: Any, action: Callable[[Any], bool], slower: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer still sees the session that the sweep finds expired. One of them wins, wholly."""
    for at in range(1, MOST_CALLS):
        with cell.storage() as name:
            time = Clock(lambda name=name, **options: Awaitable(cell.open(name, **options)), monkeypatch)
            db, writer = time.open(), time.open()
            writer.io.now = lambda time=time: time.now - slower
            await talk(db, "old1", "a1")
            time.move(LIFE)
            await writer.get_session("old1")
            hook = Between(at, lambda writer=writer: action(writer.raw))
            db.io.hooks.append(hook)
            report = await db.sweep()
            db.io.hooks.clear()
            assert report.complete
            reader = time.open()
            row = await reader.get_session("old1", deserialize=False)
            if hook.done and hook.answer:
                assert row is not None, f"acknowledged at call {at}, and gone"
                there = [run["run_id"] for run in row["runs"]]
                if action is write_run:
                    assert there == ["a1", "late"]
                elif action is write_state:
                    assert row["session_data"]["late"] is True and there == ["a1"]
                elif action is write_session:
                    assert row["session_data"]["late"] is True and there in ([], ["a1"])
                else:
                    assert there == ["a1"]
            else:
                assert row is None
            time.move(LIFE + CLAIM)
            await reader.sweep()
            assert await contents(reader) == set(), f"at call {at}"
            for handle in (db, writer, reader):
                await close(handle.raw)
        if not hook.done:
            break
    else:
        raise AssertionError(f"more than {MOST_CALLS} calls")


@pytest.mark.cells("memory-sync*", "mongo-sync-standalone")
async def test_sweeps_at_once_count_each_session_once(cell: Any, runner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for at in places(cell, "unreachable", MOST_CALLS):
        with cell.storage() as name:
            time = Clock(lambda name=name, **options: Awaitable(cell.open(name, **options)), monkeypatch)
            db, other = time.open(), time.open()
            staying = await prepared(db, time)
            hook = Between(at, other.raw.sweep)
            db.io.hooks.append(hook)
            report = await db.sweep()
            db.io.hooks.clear()
            assert report.complete and (hook.answer is None or hook.answer.complete)
            both = report.sessions + (hook.answer.sessions if hook.answer is not None else 0)
            assert both == 3, f"at call {at}"
            assert await contents(other) == staying, f"at call {at}"
            await close(db.raw)
            await close(other.raw)
        if not hook.done:
            break


@pytest.mark.cells("memory-sync*")
async def test_a_hold_whose_writer_died_is_let_go(cell: Any, runner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that comes to wait holds its session first. Killed in between, nothing waits; a sweep finds out."""
    for at in range(1, MOST_CALLS):
        fault = Fault("crash before", at)
        with cell.storage() as name:
            time = Clock(lambda name=name, **options: Awaitable(cell.open(name, **options)), monkeypatch)
            db = time.open()
            await talk(db, "s1", "r1")
            db.io.hooks.append(fault)
            try:
                await db.upsert_run(run_of("p1", status="PAUSED"), "s1", "u")
            except Crashed:
                other = time.open()
                (session,) = await other._engine.kernel.get_many([session_ref("s1")])
                time.move(LIFE)
                swept = (await other.sweep()).sessions
                assert swept == (0 if session.expires_at == HELD else 1)
                time.move(GRACE)
                swept += (await other.sweep()).sessions  # the second look
                time.move(LIFE)
                swept += (await other.sweep()).sessions
                assert swept == 1 and await contents(other) == set(), f"at call {at}"
                await close(other.raw)
            await close(db.raw)
        if not fault.struck:
            break


async def test_what_cannot_be_removed_is_reported_and_passed_over(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    db = MemoryDocstore(session_config={"ttl": LIFE})
    time = Clock(lambda **options: Awaitable(db), monkeypatch)
    handle = time.open()
    for session_id in ("s1", "s2", "s3"):
        await talk(handle, session_id, f"r-{session_id}")
    time.move(LIFE)
    purge = db._engine.histories.purge

    async def failing(session_id: str, head: Any, **options: Any) -> None:
        if session_id == "s2":
            raise DocstoreError("no")
        await purge(session_id, head, **options)

    monkeypatch.setattr(db._engine.histories, "purge", failing)
    report = db.sweep()
    assert (report.sessions, report.complete) == (2, False)
    assert [(failure.session_id, str(failure.error)) for failure in report.failures] == [("s2", "no")]
    assert "'s2'" in caplog.text
    monkeypatch.undo()
    time.move(CLAIM)
    db.io.now = lambda: time.now
    assert db.sweep().sessions == 1 and await contents(handle) == set()


# --- What it costs ----------------------------------------------------------------------------------------------------


@pytest.mark.cells("memory-sync*", "mongo-sync-standalone", "dynamo-sync-moto", "firestore-async-embedded")
async def test_a_lifetime_costs_a_turn_nothing(db: Any, clock: Clock) -> None:  # noqa: F811
    counts = {}
    for name, config in (("without", None), ("with", {"ttl": LIFE})):
        handle = clock.open(session_config=config)
        await talk(handle, name, *(f"{name}{number}" for number in range(3)))
        steps = []
        for number in range(2):
            clock.move(LIFE // 2)
            for step in ("get_session", "upsert_session", "upsert_run"):
                before = sum(handle.io.calls.values())
                if step == "get_session":
                    session = await handle.get_session(name)
                elif step == "upsert_session":
                    await handle.upsert_session(session)
                else:
                    await handle.upsert_run(run_of(f"{name}-turn{number}"), name, "u")
                steps.append(sum(handle.io.calls.values()) - before)
        before = sum(handle.io.calls.values())
        clock.move(LIFE // 2)
        await handle.upsert_run(run_of(f"{name}-alone"), name, "u")  # without a save of the session before it
        counts[name] = steps, sum(handle.io.calls.values()) - before
    assert counts["with"][0] == counts["without"][0]
    separate = 0 if db._engine.driver.atomic else 1
    assert counts["with"][1] == counts["without"][1] + separate


@CELLS
async def test_a_sweep_costs_what_is_due_and_not_what_is_there(db: Any, clock: Clock) -> None:  # noqa: F811
    db = clock.open()
    costs = []
    for many in (3, 12):
        for number in range(many):
            await talk(db, f"s{many}-{number}")
        before = sum(db.io.calls.values())
        report = await db.sweep()
        costs.append(sum(db.io.calls.values()) - before)
        assert report.sessions == 0
    shards = 3 if db._engine.driver.store in ("dynamo", "firestore") else 1
    assert costs[0] == costs[1] <= 3 * shards, costs


@pytest.mark.cells("memory-*", "mongo-sync-standalone", "dynamo-*-local", "firestore-sync-google")
@pytest.mark.parametrize("life", [LIFE, None])
async def test_whether_a_session_has_ended_costs_a_read_of_what_it_has_one_request(
    db: Any,
    clock: Clock,  # noqa: F811
    life: int | None,
) -> None:
    db = clock.open(session_config=None if life is None else {"ttl": life})
    for session, name in (("s1", "a"), ("s2", "b")):
        await talk(db, session)
        await leave(db, name, session)
    dynamo = db._engine.driver.store == "dynamo"  # which finds a child by its id in two reads, and bodies by an index
    reads: dict[str, tuple[int, tuple[str, ...]]] = {
        "get_tool_result": (2 + dynamo, ("a",)),
        "get_tool_results_for_session": (2, ("s1",)),
        "get_transcript_entries": (3, KEY),
        "list_transcript_sessions": (2 + dynamo, KEY[:2]),
        "list_transcript_subpaths": (2, KEY),
    }
    if offered(db):
        reads |= {
            "get_compaction": (2 + dynamo, ("a",)),
            "get_compactions_for_session": (2, ("s1",)),
            "search_compactions": (2, ("s1", "said")),
        }
    for name, (requests, arguments) in reads.items():
        before = db.io.calls.total()
        assert await getattr(db, name)(*arguments)
        assert db.io.calls.total() - before == requests, name
    before = db.io.calls.total()
    await db.upsert_tool_result(result_of("new", "s1"))
    await append(db, "more")
    assert db.io.calls.total() - before == (3 if db._engine.driver.atomic else 6), "what they cost without"


# --- The timer --------------------------------------------------------------------------------------------------------


class Watched:
    """Counts the sweeps that a timer makes; the first of them fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.second = threading.Event()
        self.count = 0
        watched = self

        async def sweep(self: Lifetimes) -> None:
            watched.count += 1
            if watched.count == 1:
                raise DocstoreError("the first")
            watched.second.set()

        monkeypatch.setattr(Lifetimes, "sweep", sweep)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "agno-docstores-sweep"]


def test_a_sync_store_sweeps_on_a_thread_when_asked(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    watched = Watched(monkeypatch)
    MemoryDocstore(session_config={"ttl": 5}).get_session("s1")
    db = MemoryDocstore(session_config=SessionConfig(cleanup_interval=0.01))
    assert threads() == [], "nobody asked, or nothing was done yet"
    db.get_session("s1")
    db.get_session("s1")
    (thread,) = threads()
    assert thread.daemon and watched.second.wait(30)
    assert "the first" in caplog.text
    db.close()
    thread.join(30)
    assert threads() == []
    db.get_session("s1")
    (thread,) = threads()
    del db
    gc.collect()
    thread.join(30)
    assert threads() == [], "a store that nobody holds does not sweep"


def test_a_hook_that_is_made_is_no_operation_yet() -> None:
    """An agent is often built before there is a loop."""
    for kind in (MemoryDocstore, AsyncMemoryDocstore):
        summary_hook(kind(session_config={"ttl": 100, "cleanup_interval": 60}))
    assert threads() == []


async def test_an_async_store_sweeps_on_its_loop_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    watched = Watched(monkeypatch)
    db = AsyncMemoryDocstore(session_config={"cleanup_interval": 0.01})
    await db.get_session("s1")
    (task,) = [task for task in asyncio.all_tasks() if task.get_name() == "agno-docstores-sweep"]
    await asyncio.wait_for(asyncio.to_thread(watched.second.wait, 30), 31)
    assert threads() == []
    await db.close()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_store_says_how_long_sessions_live() -> None:
    db = MemoryDocstore(session_config={"ttl": 60, "max_inactive_days": 2})
    told = json.loads(json.dumps(db.to_dict()))
    assert told["session_config"] == {"ttl": 60, "max_inactive_days": 2}
    again = MemoryDocstore.from_dict(told)
    assert again.to_dict()["session_config"] == told["session_config"]  # type: ignore[attr-defined]
    assert "session_config" not in MemoryDocstore().to_dict()
    assert SessionConfig.of({"ttl": 60}).life == 60 and SessionConfig(max_inactive_days=1).life == 86_400
    assert SessionConfig(ttl=10, max_inactive_days=1).life == 10 and SessionConfig().life is None
    for wrong in ([], "1d", SimpleNamespace(ttl=5)):
        with pytest.raises(TypeError):
            MemoryDocstore(session_config=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tll"):
        MemoryDocstore(session_config={"tll": 5})

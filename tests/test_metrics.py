"""Metrics count exactly once, whoever counts, wherever he is interrupted; and cost what changed."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from agno.session import AgentSession

from agno_docstores.codec import Json
from agno_docstores.conformance.metrics import at, counts, day, rows_of, used
from agno_docstores.conformance.plugin import Awaitable
from agno_docstores.conformance.sessions import agent_session, run_of
from agno_docstores.errors import CorruptRecordError
from agno_docstores.history import GRACE, fresh_head, history_ref, session_ref
from agno_docstores.port import Expect, Put, Stored
from agno_docstores.schema import SESSIONS
from agno_docstores.tallies import Bucket, Contribution, Figures, Tally
from tests.faults import Crashed, Fault, places
from tests.harness import Cell
from tests.meters import ON_THE_WIRE

OURS = pytest.mark.cells("memory-*", "mongo-*", "dynamo-*", "firestore-*")
# One cell of each driver, both modes among them: what is replayed is the order of calls, which no server changes.
ONE_OF_EACH = pytest.mark.cells("memory-sync*", "mongo-sync-standalone", "dynamo-sync-moto", "firestore-async-embedded")


async def some_sessions(db: Any) -> None:
    """Sessions of u and nobody, today and earlier, with runs."""
    for name, owner, ago in (("a", "u", 0), ("b", "u", 0), ("old", "u", 2), ("free", None, 0)):
        session = agent_session(name, user_id=owner, created_at=at(ago), session_data=used(input_tokens=1))
        await db.upsert_session(session)
        await db.upsert_run(run_of(f"{name}1", model="m", model_provider="P"), name, owner)


EXPECTED = {
    (day(0), "u"): (2, 0, 0, 2, 0, 0),
    (day(2), "u"): (1, 0, 0, 1, 0, 0),
    (day(0), None): (1, 0, 0, 1, 0, 0),
}


async def check(db: Any, expected: dict[Any, tuple[int, ...]]) -> None:
    """The rows are these, and tokens and models agree: each session has a token, each run the model m."""
    rows = {key: row for key, row in (await rows_of(db)).items() if any(counts(row))}
    assert {key: counts(row) for key, row in rows.items()} == expected
    for row in rows.values():
        sessions, _, _, runs, _, _ = counts(row)
        assert row["token_metrics"]["input_tokens"] == sessions
        assert sum(model["count"] for model in row["model_metrics"]) == runs


# --- Interrupted ------------------------------------------------------------------------------------------------------


@ONE_OF_EACH
@pytest.mark.parametrize("kind", ["unreachable", "lost reply", "repeated", "crash before", "crash after"])
async def test_an_interrupted_count_is_finished_by_another_process(
    cell: Cell, storage: str, kind: str, open_another: Callable[..., Any]
) -> None:
    """At each call of a count: of new sessions; or of one that goes on, and one that changes its owner."""
    struck, moved = 0, {(day(0), "u"): (3, 0, 0, 4, 0, 0), (day(2), "u"): (1, 0, 0, 1, 0, 0)}
    for again, expected in ((False, EXPECTED), (True, moved)):
        for at_call in (calls := places(cell, kind, 80)):
            name = f"t{at_call}_{again}"
            options = {"session_table": f"{name}_s", "metrics_table": f"{name}_m", "runs_table": f"{name}_r"}
            db = Awaitable(open_another(**options))
            await some_sessions(db)
            if again:
                await db.calculate_metrics()
                await db.upsert_run(run_of("a2", model="m", model_provider="P"), "a", "u")
                await db.upsert_session(agent_session("free", user_id="u", session_data=used(input_tokens=1)))
            fault = Fault(kind, at_call)
            db.io.hooks.append(fault)
            with contextlib.suppress(Crashed):
                await db.calculate_metrics()
            db.io.hooks.clear()
            other = Awaitable(open_another(**options))
            await check(other, expected)
            await check(db, expected)
            if fault.count < at_call:
                break
            struck += fault.struck
    assert struck >= 12 / calls.step


@ONE_OF_EACH
@pytest.mark.parametrize("kind", ["crash before", "crash after", "lost reply"])
async def test_an_interrupted_deletion_takes_a_session_out_once(
    cell: Cell, storage: str, kind: str, open_another: Callable[..., Any]
) -> None:
    struck = 0
    for at_call in (calls := places(cell, kind, 40)):
        options = {"session_table": f"t{at_call}_s", "metrics_table": f"t{at_call}_m", "runs_table": f"t{at_call}_r"}
        db = Awaitable(open_another(**options))
        await some_sessions(db)
        await db.calculate_metrics()
        fault = Fault(kind, at_call)
        db.io.hooks.append(fault)
        with contextlib.suppress(Crashed):
            await db.delete_session("a")
        db.io.hooks.clear()
        other = Awaitable(open_another(**options))
        await other.delete_session("a")
        await check(other, {**EXPECTED, (day(0), "u"): (1, 0, 0, 1, 0, 0)})
        await other.upsert_session(agent_session("a", user_id="u", created_at=at(0), session_data=used(input_tokens=1)))
        await check(other, {**EXPECTED, (day(0), "u"): (2, 0, 0, 1, 0, 0)})
        if fault.count < at_call:
            break
        struck += fault.struck
    assert struck >= 4 / calls.step


@pytest.mark.cells("memory-*-standalone", "mongo-sync-standalone")
async def test_a_run_that_is_being_written_is_not_passed_over(
    db: Any, another: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the revision is taken before the run is stored, a count may come between the two."""
    writer = another()
    await db.upsert_session(agent_session("a", user_id="u", created_at=at(0), session_data=used(input_tokens=1)))
    await writer.get_session("a")
    fault = Fault("crash after", 1)
    writer.io.hooks.append(fault)
    with pytest.raises(Crashed):
        await writer.upsert_run(run_of("lost", model="m", model_provider="P"), "a", "u")
    writer.io.hooks.clear()
    await check(db, {(day(0), "u"): (1, 0, 0, 0, 0, 0)})
    await writer.upsert_run(run_of("lost", model="m", model_provider="P"), "a", "u")
    await check(db, {(day(0), "u"): (1, 0, 0, 1, 0, 0)})
    later = db.io.now() + GRACE + 10
    monkeypatch.setattr(db.io, "now", lambda: later)
    await db.calculate_metrics()
    before = db.io.calls.total()
    await db.calculate_metrics()
    assert db.io.calls.total() - before <= 2, "the number that the dead writer took is given up"


# --- At once ----------------------------------------------------------------------------------------------------------


@OURS
async def test_processes_that_count_at_once_agree(db: Any, another: Callable[[], Any]) -> None:
    """While a writer goes on: nothing is counted twice, and nothing is left out."""
    handles = [db, another(), another()]
    writer = another()
    await some_sessions(db)

    async def write() -> None:
        for number in range(4):
            await writer.upsert_session(
                agent_session(f"new{number}", user_id="u", created_at=at(0), session_data=used(input_tokens=1))
            )
            await writer.upsert_run(run_of(f"a{number + 2}", model="m", model_provider="P"), "a", "u")

    async def count(handle: Any) -> None:
        for _ in range(2):
            await handle.calculate_metrics()

    await together(db, write(), *(count(handle) for handle in handles))
    expected = {**EXPECTED, (day(0), "u"): (6, 0, 0, 6, 0, 0)}
    for handle in handles:
        await check(handle, expected)


async def together(db: Any, *work: Any) -> None:
    """Run these at once: as tasks of an async store, in threads over a sync one."""
    if db.is_async:
        await asyncio.gather(*work)
        return
    failures: list[BaseException] = []

    def run(one: Any) -> None:
        try:
            asyncio.run(one)
        except BaseException as error:  # noqa: BLE001 - raised again below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


# --- Cost -------------------------------------------------------------------------------------------------------------


async def seed_counted(db: Any, count: int) -> None:
    """Sessions of 20 users, of today, with a state of some size, counted already; stored in bulk."""
    await db._create_all_tables()
    kernel = db.raw._engine.kernel
    puts: list[Put] = []
    totals: dict[str, int] = {}
    for number in range(count):
        id, owner = f"s{number}", f"u{number % 20}"
        totals[owner] = totals.get(owner, 0) + 1
        fields = {
            **dict.fromkeys(SESSIONS.fields),
            "session_type": "agent",
            "agent_id": "a1",
            "component": "a1",
            "components": ("a1",),
            "user_id": owner,
            "created_at": at(0),
            "updated_at": at(0),
            "touched_at": at(0),
        }
        body = {name: Json.of(None) for name in SESSIONS.body}
        body["session_data"] = Json.of({"state": "x" * 300, **used(input_tokens=1)})
        puts.append(Put(session_ref(id), fields, body))
        puts.append(Put(history_ref(id), {**fresh_head(owner, f"i{number}"), "uncounted": None}))
        figures = Figures.of({"counts": {"agent_sessions_count": 1}, "tokens": {"input_tokens": 1}})
        contribution = Contribution(Bucket(day(0).isoformat(), owner), figures, f"i{number}", 0, 0)
        tally = Tally(None).put(id, contribution)
        puts.append(Put(tally.ref, tally.fields, tally.body))
    for owner, number in totals.items():
        bucket = Bucket(day(0).isoformat(), owner)
        figures = Figures.of({"counts": {"agent_sessions_count": number}, "tokens": {"input_tokens": number}})
        fields = {
            "metric_id": owner,
            "date": bucket.date,
            "user_id": owner,
            "open": True,
            "figures": Json.of(figures.to_json()).text,
            "created_at": at(0),
            "updated_at": at(0),
        }
        puts.append(Put(bucket.ref, fields, {"applied": Json.of({})}, Expect.ANY))
    assert await kernel.write_many(puts) == []


@ON_THE_WIRE
async def test_counting_costs_what_changed(cell: Cell, open_metered: Any) -> None:
    async with open_metered() as (db, meter):
        await seed_counted(db, 2000)
        await db.get_session("s7")
        meter.start()
        rows = await db.calculate_metrics()
        nothing = meter.stop()
        assert sum(row["agent_sessions_count"] for row in rows) == 2000 and len(rows) == 20
        assert nothing.requests <= 5
        await db.upsert_session(
            AgentSession(session_id="s7", agent_id="a1", user_id="u7", session_data=used(input_tokens=5))
        )
        await db.upsert_run(run_of("r1", model="m", model_provider="P"), "s7", "u7")
        meter.start()
        rows = await db.calculate_metrics()
        one = meter.stop()
        (changed,) = [row for row in rows if row["user_id"] == "u7"]
        assert (counts(changed), changed["token_metrics"]["input_tokens"]) == ((100, 0, 0, 1, 0, 0), 104)
        print(f"BUDGET metrics of 2,000 sessions, nothing new: {nothing}; after one changed session: {one}")
        assert one.requests <= nothing.requests + 9
        assert one.records <= nothing.records + 10


@pytest.mark.cells("memory-sync", "memory-sync-standalone")
async def test_a_long_history_is_not_read_again_for_one_more_run(db: Any) -> None:
    await db.upsert_session(agent_session("a", user_id="u", created_at=at(0), session_data=used(input_tokens=1)))
    for number in range(60):
        await db.upsert_run(run_of(f"r{number}", model="m", model_provider="P"), "a", "u")
    await check(db, {(day(0), "u"): (1, 0, 0, 60, 0, 0)})
    driver = db.raw._engine.driver
    scanned: list[Stored] = []
    scan = driver.scan

    async def counting(span: Any) -> Any:
        page = await scan(span)
        scanned.extend(record for record in page.records if record.ref.kind == "runs")
        return page

    driver.scan = counting
    await db.upsert_run(run_of("one more", model="m", model_provider="P"), "a", "u")
    await check(db, {(day(0), "u"): (1, 0, 0, 61, 0, 0)})
    assert len(scanned) == 1


async def test_the_day_of_a_session_is_utc(db: Any) -> None:
    moment = datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC)
    await db.upsert_session(agent_session("a", user_id="u", created_at=int(moment.timestamp())))
    await db.upsert_session(agent_session("b", user_id="u", created_at=int(moment.timestamp()) + 1))
    assert {str(key[0]) for key in await rows_of(db)} == {"2024-02-29", "2024-03-01"}


@pytest.mark.cells("memory-*", "mongo-sync-standalone", "dynamo-sync-local", "firestore-sync-embedded")
async def test_a_record_that_cannot_be_read_is_reported_and_blocks_no_other(
    db: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await some_sessions(db)
    driver = db.raw._engine.driver
    get_many = driver.get_many

    async def broken_many(refs: Any) -> Any:
        if session_ref("b") in refs:
            raise CorruptRecordError("sessions", "b", "flipped bits")
        return await get_many(refs)

    monkeypatch.setattr(driver, "get_many", broken_many)
    await check(db, {**EXPECTED, (day(0), "u"): (1, 0, 0, 1, 0, 0)})
    assert "'b' is left out of the metrics" in caplog.text
    monkeypatch.undo()
    await check(db, EXPECTED)

"""Bodies in chunks on the stores themselves: what they cost, and that nothing of them is left."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from agno.db.schemas import UserMemory

from agno_docstores.chunks import GRACE, SLICE_BYTES, collect
from agno_docstores.codec import Json
from agno_docstores.conformance.large import MB, noise
from agno_docstores.conformance.sessions import agent_session, run_of
from agno_docstores.kernel import Query
from agno_docstores.port import EVERYTHING, Put, Ref, Span
from agno_docstores.schema import MEMORIES
from tests.faults import Crashed
from tests.harness import Cell
from tests.meters import KB, ON_THE_WIRE


def kernel_of(db: Any) -> Any:
    return db.raw._engine.kernel


async def left(db: Any) -> tuple[int, int]:
    """How many chunks, and reminders of some, the store has."""
    spans = [Span(kind, EVERYTHING, body=False) for kind in ("chunks", "reminders")]
    chunks, reminders = [await kernel_of(db).span(span) for span in spans]
    return len(chunks), len(reminders)


async def memory(db: Any, text: str) -> None:
    await db.upsert_user_memory(UserMemory(memory_id="m", memory=text, user_id="u"))
    assert (await db.get_user_memory("m")).memory == text


@ON_THE_WIRE
async def test_the_life_of_a_large_value(cell: Cell, open_metered: Any) -> None:
    async with open_metered() as (db, meter):
        kernel, driver = kernel_of(db), db.raw._engine.driver
        driver.item_bytes = min(driver.item_bytes, SLICE_BYTES)  # on MongoDB, what 16 MB would be
        await memory(db, "small")
        meter.start()
        await memory(db, noise(5 * MB, 1))
        cost = meter.stop()
        print(f"BUDGET 5 MB over a small value, and read: {cost}")
        count, reminders = await left(db)
        assert (count, reminders) == (-(-5 * MB // (359_000 if cell.store == "dynamo" else 990_000)), 1)
        # Before, 1 read; a reminder, the chunks by the megabyte, the head; and the same to read. Small ones 3 in all.
        assert cost.requests <= 3 + 1 + 2 * 8, "a megabyte of text at a time"
        assert cost.bytes <= 2.8 * 5 * MB

        meter.start()
        (header,) = await kernel.page(Query(MEMORIES), body=False)
        assert await kernel.count(Query(MEMORIES)) == 1
        assert [one.ref for one in await kernel.headers([header.ref])] == [header.ref]
        cost = meter.stop()
        assert cost.bytes <= 20 * KB, "headers fetch no chunks"

        await memory(db, noise(4 * MB, 2))
        assert (await left(db))[1] == 1
        await memory(db, "small")
        assert await left(db) == (0, 0)

        # A process that ends after the chunks, before the head.
        class Ends:
            def before(self, operation: str) -> None:
                if sum(driver.io.calls[name] for name in HEADS[cell.store]) > made:
                    raise Crashed

            def after(self, operation: str) -> None:
                pass

        made = sum(driver.io.calls[name] for name in HEADS[cell.store])
        db.io.hooks.append(Ends())
        with pytest.raises(Crashed):
            await db.upsert_user_memory(UserMemory(memory_id="m", memory=noise(2 * MB, 3), user_id="u"))
        db.io.hooks.clear()
        count, reminders = await left(db)
        assert count > 1 and reminders == 1
        assert (await db.get_user_memory("m")).memory == "small"
        later = db.io.now() + GRACE + 1
        db.io.now = lambda: later
        removed = [
            await collect(kernel, one)
            for one in await kernel.span(Span("reminders", "due", ("chunks",), high=int(later)))
        ]
        assert [(one.chunks, one.bytes) for one in removed] == [(count, 2 * MB + len('""nullnull'))]
        assert await left(db) == (0, 0)

        # Children go with their parent.
        await db.upsert_session(agent_session(session_data={"x": noise(2 * MB, 4)}))
        await db.upsert_run(run_of("r", content=noise(2 * MB, 5)), "s1")
        assert (await left(db))[1] == 2
        await db.delete_session("s1")
        assert await left(db) == (0, 0)


#: The requests that store a head, and no chunk.
HEADS = {
    "mongo": ("insert_one", "update_one"),
    "dynamo": ("put_item", "transact_write_items"),
    "firestore": ("commit",),
}


@pytest.mark.cells("mongo-sync-secantus", "mongo-async-secantus", "mongo-sync-mongomock")
async def test_a_run_of_20_megabytes_on_mongodb(db: Any, another: Any) -> None:
    text = noise(20 * MB, 6)
    await db.upsert_session(agent_session(user_id="u"))
    await db.upsert_run(run_of("r", status="COMPLETED", content=text), "s1", "u")
    assert (await left(db))[0] == 21
    assert (await another().get_session("s1")).runs[0].content == text
    await db.delete_run("r")
    assert await left(db) == (0, 0)


@pytest.mark.cells("mongo-sync-secantus", "dynamo-sync-local", "firestore-sync-google")
async def test_memory_stays_within_three_times_the_value(db: Any) -> None:
    kernel, ref = kernel_of(db), Ref("memories", "m")
    await kernel.commit([Put(ref, {}, {"memory": Json.of("opens connections")})])
    size = 20 * MB if db.raw._engine.driver.store == "mongo" else 5 * MB
    put = Put(ref, {}, {"memory": Json.of(noise(size, 7))})
    peaks = {}
    for name, call in (("writing", lambda: kernel.commit([put])), ("reading", lambda: kernel.get(ref))):
        tracemalloc.start()
        try:
            found = await call()
            peaks[name] = tracemalloc.get_traced_memory()[1] / size
        finally:
            tracemalloc.stop()
    assert found.body == put.body
    print(f"BUDGET memory for a value of {size} bytes, in times that: {peaks}")
    assert max(peaks.values()) <= 3

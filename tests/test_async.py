"""What an async store owes its event loop: it does not hold it up, and a task that is cancelled leaves nothing behind.

How long the loop was held is measured as CPU time between two turns of it, which other processes do not lengthen: of
all threads, for one that works beside the loop holds it up, too, while it does not let go of the interpreter. Without
the garbage collector, whose time depends on what else the process holds.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from agno.models.message import Message

from agno_docstores.codec import dumps, loads
from agno_docstores.conformance.plugin import Awaitable as Handle
from agno_docstores.conformance.plugin import close
from agno_docstores.conformance.runs import run_ids
from agno_docstores.conformance.sessions import agent_session, run_of
from agno_docstores.io import AsyncIo, SyncIo
from tests.faults import places
from tests.harness import Cell

#: Nothing may hold the loop for 20 ms on a machine that takes 12 for the yardstick.
MOST = 20 / 12
OBJECTS = [{"id": number, "name": f"name {number}", "values": [number, 0.5, None, True]} for number in range(8000)]
ASYNC = pytest.mark.cells(
    "memory-async", "mongo-async-secantus", "dynamo-async-local", "dynamo-threads-local", "firestore-async-google"
)


def yardstick() -> float:
    """CPU seconds of writing and reading 8,000 small objects as JSON, by the standard library alone."""
    started = time.thread_time()
    json.loads(json.dumps(OBJECTS))
    return time.thread_time() - started


class Heartbeat:
    """The longest CPU time of the process between two turns of a loop, in yardsticks."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def __aenter__(self) -> Heartbeat:
        gc.collect()
        gc.disable()
        self._yardstick = yardstick()
        self._task = asyncio.create_task(self._beat())
        await asyncio.sleep(0)
        self.longest = 0.0
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0)
        self._task.cancel()
        self.longest /= (self._yardstick + yardstick()) / 2
        gc.enable()

    async def _beat(self) -> None:
        last = time.process_time()
        while True:
            await asyncio.sleep(0)
            now = time.process_time()
            self.longest = max(self.longest, now - last)
            last = time.process_time()


async def held(work: Callable[[], Awaitable[Any]], tries: int = 15) -> float:
    """How long some work holds the loop: the best of some tries, for a busy machine may have kept the loop waiting
    while threads that do not need the interpreter went on, or the first that is short enough."""
    longest: list[float] = []
    while not longest or (min(longest) > MOST and len(longest) < tries):
        async with Heartbeat() as heartbeat:
            await work()
        longest.append(heartbeat.longest)
    return min(longest)


def turn(number: int) -> Any:
    """A run of some 4 KB."""
    messages = [
        Message(role="user", content=f"q{number} " + "word " * 300),
        Message(role="assistant", content="a " * 1200),
    ]
    return run_of(f"r{number:03}", status="COMPLETED", messages=messages)


@ASYNC
async def test_a_long_history_does_not_hold_the_loop(db: Any) -> None:
    await db.upsert_session(agent_session("s1", user_id="u"))
    for number in range(150):
        await db.upsert_run(turn(number), "s1", "u")
    session = await db.get_session("s1")

    async def cold() -> None:
        await db.clear_cache()
        await db.get_session("s1")

    work: dict[str, Callable[[], Awaitable[Any]]] = {
        "read cold": cold,
        "read warm": lambda: db.get_session("s1"),
        "read as rows": lambda: db.get_session("s1", deserialize=False),
        "save": lambda: db.upsert_session(session),
        "save a run": lambda: db.upsert_run(turn(7), "s1", "u"),
        "list runs": lambda: db.get_runs(session_id="s1", deserialize=False),
        "messages": lambda: db.get_messages("s1"),
    }
    found = {name: round(await held(one), 2) for name, one in work.items()}
    print(f"\nlongest hold of the loop, in yardsticks: {found}")
    assert max(found.values()) <= MOST, found


def large(kind: str) -> Any:
    """A value of 5 MB: one text, or many small ones."""
    if kind == "text":
        return "".join(f"word {number} " for number in range(420_000))
    return [{"id": number, "name": f"name {number}", "values": [number, 0.5, None, True]} for number in range(85_000)]


SHAPES: dict[str, Callable[[], Any]] = {
    "objects": lambda: large("list"),
    "text": lambda: large("text"),
    "floats": lambda: [number * 0.123456789 for number in range(250_000)],
    "a matrix": lambda: [[number * 0.37, number, -number] for number in range(150_000)],
    "words": lambda: [f"word {number}" for number in range(300_000)],
    "keys": lambda: {f"key {number}": number for number in range(250_000)},
    "deep": lambda: functools.reduce(lambda inner, number: {"n": number, "of": [inner]}, range(100), large("list")),
    "surrogates": lambda: ["\ud800", *large("list")],
    "an object with a form of its own": lambda: {"list": tuple(large("list")), 7: Message(role="user", content="m")},
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_json_of_megabytes_is_made_and_read_beside_the_loop(shape: str) -> None:
    value, io = SHAPES[shape](), AsyncIo()
    text = dumps(value)
    assert await io.work(True, dumps, value) == text
    assert await io.work(True, loads, text) == loads(text)
    found = {
        "made": round(await held(lambda: io.work(True, dumps, value)), 2),
        "read": round(await held(lambda: io.work(True, loads, text)), 2),
    }
    print(f"\nlongest hold of the loop by {len(text)} characters of {shape}, in yardsticks: {found}")
    assert max(found.values()) <= MOST, found


def test_a_value_that_contains_itself_is_refused_beside_the_loop_as_elsewhere() -> None:
    value: list[Any] = ["x" * 100_000]
    value.append({"in": value})
    for io in (SyncIo(), AsyncIo()):
        with pytest.raises(ValueError, match="Circular"):
            asyncio.run(io.work(True, dumps, value))


@ASYNC
async def test_a_value_of_megabytes_does_not_hold_the_loop(cell: Cell, db: Any) -> None:
    """All that is done with one in the core, which is the same on each store; and what each driver does with it."""
    await _not_held_by(cell, db, "list")


@pytest.mark.cells("memory-async")
async def test_a_text_of_megabytes_does_not_hold_the_loop(cell: Cell, db: Any) -> None:
    await _not_held_by(cell, db, "text")


async def _not_held_by(cell: Cell, db: Any, kind: str) -> None:
    value = large(kind)
    await db.upsert_session(agent_session("s1", user_id="u"))
    run = run_of("r1", status="COMPLETED", content=value)
    session = agent_session("s2", user_id="u", session_data={"x": value})

    async def cold() -> None:
        await db.clear_cache()
        await db.get_session("s1")

    work: dict[str, Callable[[], Awaitable[Any]]] = {
        "save a run": lambda: db.upsert_run(run, "s1", "u"),
        "read a run": lambda: db.get_run("r1"),
        "read cold": cold,
        "save a session": lambda: db.upsert_session(session),
        "read its data": lambda: db.get_session_data("s2"),
    }
    if cell.store == "memory":
        work |= {
            "read warm": lambda: db.get_session("s1"),
            "replace its data": lambda: db.update_session_data("s2", {"x": value}, mode="overwrite"),
            "change its data": lambda: db.update_session_data("s2", increment={"n": 1}),
            "change a run": lambda: db.update_run_in_session("s1", "r1", {"metadata": {"n": 1}}, user_id="u"),
        }
    found = {name: round(await held(one), 2) for name, one in work.items()}
    print(f"\nlongest hold of the loop by 5 MB of {kind}, in yardsticks: {found}")
    assert max(found.values()) <= MOST, found


class Cancels:
    """A hook of the gateway that cancels the task at its n-th call: while it is made, or when the answer is there."""

    def __init__(self, at: int, *, after: bool) -> None:
        self.at, self.late, self.count, self.struck = at, after, 0, False

    def before(self, operation: str) -> None:
        self.count += 1
        if self.count == self.at and not self.late:
            self._strike()

    def after(self, operation: str) -> None:
        if self.count == self.at and self.late:
            self._strike()

    def _strike(self) -> None:
        self.struck = True
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_soon(task.cancel)  # when it waits, as others' cancellations come


async def save_run(db: Any) -> None:
    await db.upsert_run(run_of("new", status="COMPLETED"), "s1", "u")


async def save_state(db: Any) -> None:
    await db.update_session_data("s1", set={"n": 1}, user_id="u")


async def delete(db: Any) -> None:
    await db.delete_session("s1", user_id="u")


async def seen(db: Any) -> Any:
    row = await db.get_session("s1", deserialize=False)
    return None if row is None else (row["session_data"], [run["run_id"] for run in row["runs"]])


# The memory store never waits, so nothing in it can be cancelled.
@pytest.mark.cells("mongo-async-secantus", "dynamo-async-moto", "dynamo-threads-local", "firestore-async-embedded")
@pytest.mark.parametrize("operation", [save_run, save_state, delete])
async def test_a_cancelled_task_leaves_no_lock_and_no_half_write(
    cell: Any, runner: Any, operation: Callable[[Any], Awaitable[None]]
) -> None:
    expected: Any = None
    for late in (False, True):
        for at in places(cell, "none" if cell.store != "dynamo" else "crash after", 40):
            hook = Cancels(at, after=late)
            with cell.storage() as name:
                db, reader = Handle(cell.open(name)), Handle(cell.open(name))
                await db.upsert_session(agent_session("s1", user_id="u", session_data={"n": 0}))
                await db.upsert_run(run_of("r1", status="COMPLETED"), "s1", "u")
                before = await seen(reader)
                db.io.hooks.append(hook)
                task = asyncio.create_task(operation(db))  # type: ignore[arg-type]
                await asyncio.wait([task])
                db.io.hooks.clear()
                if not task.cancelled():  # it came to no other point where it could be
                    assert task.exception() is None and (hook.late or not hook.struck)
                between = await seen(reader)
                # The same handle goes on, and nothing that the task held is in its way.
                await asyncio.wait_for(operation(db), 60)
                after = await seen(reader)
                expected = expected or (after,)
                assert (after,) == expected, f"call {at}"
                assert between in (before, after) if task.cancelled() else between == after, f"call {at}"
                if operation is save_run:
                    assert await run_ids(db) == ["r1", "new"]
                await close(db.raw)
                await close(reader.raw)
            if not hook.struck:
                break
        else:
            raise AssertionError("more calls than that")

"""A load of writes that keeps account of what it asked for and what was acknowledged, and what must be true afterwards.

`work` is one process of it: before each operation it tells what it will do, and after it that it is done, until it is
killed. Ids are used once, so that a record that was deleted and is seen again has come back by itself.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Any

from agno_docstores.conformance.memories import memory_of
from agno_docstores.conformance.plugin import Awaitable as Handle
from agno_docstores.conformance.sessions import agent_session, run_of
from agno_docstores.conformance.traces import span, trace
from agno_docstores.errors import StoreUnavailableError
from tests.harness import CELLS, Cell

#: What is done, and for whom: a kind, the record's id, the id of what it belongs to.
Operation = tuple[str, str, str]
SHARED = "shared"  # the session that all workers write to
SPANS = 3  # of a trace
WEIGHTS = {"run": 5, "add": 4, "session": 2, "memory": 2, "drop_run": 2, "forget": 1, "drop_session": 1, "trace": 1}


class At:
    """A server of the matrix, at an address where another process has started it, or something in front of it."""

    def __init__(self, address: str) -> None:
        self.start = lambda: address


def reached(cell: Cell, address: str) -> Cell:
    return replace(cell, server=At(address))  # type: ignore[arg-type]


async def prepare(db: Any) -> None:
    await db.upsert_session(agent_session(SHARED, session_data={"n": 0, "marks": {}}))


async def perform(db: Any, operation: Operation) -> None:
    kind, id, of = operation
    if kind == "session":
        await db.upsert_session(agent_session(id, session_data={"of": id}))
    elif kind == "run":
        await db.upsert_run(run_of(id, status="COMPLETED"), of)
    elif kind == "drop_run":
        await db.delete_run(id)
    elif kind == "drop_session":
        await db.delete_session(id)
    elif kind == "add":
        await db.update_session_data(SHARED, increment={"n": 1}, set={("marks", id): 1})
    elif kind == "memory":
        await db.upsert_user_memory(memory_of(id, user_id="u"))
    elif kind == "forget":
        await db.delete_user_memory(id)
    else:
        assert kind == "trace"
        await db.upsert_trace(trace(id))
        await db.create_spans([span(f"{id}-{number}", id) for number in range(SPANS)])


def operations(name: str, seed: int, without: Sequence[str] = ()) -> Iterator[Operation]:
    """What one worker does, for ever; each operation is taken to have been done when the next is asked for."""
    chooser = random.Random(f"{name} {seed}")
    weights = {kind: weight for kind, weight in WEIGHTS.items() if kind not in without}
    sessions: list[str] = [SHARED]
    runs: list[tuple[str, str]] = []
    memories: list[str] = []
    number = 0
    while True:
        (kind,) = chooser.choices(list(weights), list(weights.values()))
        number += 1
        id, of = f"{name}-{number}", ""
        if kind == "run":
            of = chooser.choice(sessions)
            runs.append((id, of))
        elif kind == "session":
            sessions.append(id)
        elif kind == "memory":
            memories.append(id)
        elif kind == "drop_run" and runs:
            id, of = runs.pop(chooser.randrange(len(runs)))
        elif kind == "forget" and memories:
            id = memories.pop(chooser.randrange(len(memories)))
        elif kind == "drop_session" and len(sessions) > 1:
            id = sessions.pop(chooser.randrange(1, len(sessions)))
            runs = [run for run in runs if run[1] != id]
        elif kind not in ("add", "trace"):
            continue
        yield kind, id, of


@dataclass
class Ledger:
    """What workers asked for: `done` was acknowledged, `maybe` was not, and may have taken effect or not."""

    done: list[Operation] = field(default_factory=list)
    maybe: list[Operation] = field(default_factory=list)

    def take(self, told: Iterable[Operation | None]) -> None:
        """What one worker told, in order: an operation when it was begun, None when it was done."""
        asked: Operation | None = None
        for operation in told:
            if operation is None:
                assert asked is not None
                self.done.append(asked)
            asked = operation
        if asked is not None:
            self.maybe.append(asked)

    def made(self, kind: str, operations: Iterable[Operation]) -> dict[str, str]:
        return {id: of for what, id, of in operations if what == kind}


async def check(db: Any, ledger: Ledger) -> set[str]:
    """That the store holds what was acknowledged and nothing that was deleted, and of what was not acknowledged all or
    nothing; the ids of the additions that it has."""
    rows, total = await db.get_sessions(deserialize=False)
    sessions = {row["session_id"]: row for row in rows}
    assert total == len(rows) == len(sessions)
    done, maybe = ledger.done, ledger.maybe

    dropped, perhaps_dropped = ledger.made("drop_session", done), ledger.made("drop_session", maybe)
    _between(
        "sessions",
        sessions.keys() - {SHARED},
        ledger.made("session", done).keys() - dropped.keys(),
        ledger.made("session", maybe).keys(),
        perhaps_dropped.keys(),
    )
    for id, row in sessions.items():
        assert id == SHARED or row["session_data"] == {"of": id}

    runs, places = {}, Counter[tuple[str, int]]()
    for row in (await db.get_runs(deserialize=False))[0]:
        runs[row["run_id"]] = row["session_id"]
        places[row["session_id"], row["run_index"]] += 1
        assert row["status"] == "COMPLETED" and row["run_data"]["content"] == f"content of {row['run_id']}"
    assert max(places.values(), default=1) == 1, "two runs share a place"
    for id, row in sessions.items():
        found = [run["run_id"] for run in row["runs"]]
        listed = {run for run, session in runs.items() if session == id}
        assert set(found) == listed, (
            f"runs of {id!r}: {set(found) - listed} are in its history only, {listed - set(found)} not"
        )
        assert [run.run_id for run in (await db.get_session(id)).runs] == found
    gone = dropped.keys() | (perhaps_dropped.keys() - sessions.keys())
    _between(
        "runs",
        {run for run, session in runs.items() if session not in gone},
        {run for run, of in ledger.made("run", done).items() if of not in gone} - ledger.made("drop_run", done).keys(),
        ledger.made("run", maybe).keys(),
        ledger.made("drop_run", maybe).keys(),
    )
    assert not [run for run, session in runs.items() if session in dropped], "runs of a deleted session are back"

    memories = {memory.memory_id for memory in await db.get_user_memories()}
    _between(
        "memories",
        memories,
        ledger.made("memory", done).keys() - ledger.made("forget", done).keys(),
        ledger.made("memory", maybe).keys(),
        ledger.made("forget", maybe).keys(),
    )

    traces, _ = await db.get_traces(limit=None)
    _between(
        "traces",
        {one.trace_id for one in traces},
        ledger.made("trace", done).keys(),
        ledger.made("trace", maybe).keys(),
        (),
    )
    spans = Counter(one.trace_id for one in await db.get_spans(limit=None))
    for one in traces:
        assert one.total_spans == spans[one.trace_id] <= SPANS
        assert one.total_spans == SPANS or one.trace_id in ledger.made("trace", maybe)

    data = await db.get_session_data(SHARED)
    marks = set(data["marks"])
    assert data["n"] == len(marks), "an addition was applied twice, or in part"
    _between("additions", marks, ledger.made("add", done).keys(), ledger.made("add", maybe).keys(), ())
    return marks


def _between(what: str, found: Any, acknowledged: Any, perhaps_made: Any, perhaps_gone: Any) -> None:
    found = set(found)
    required = set(acknowledged) - set(perhaps_gone)
    assert required <= found, f"{what} that were acknowledged are lost: {sorted(required - found)}"
    allowed = set(acknowledged) | set(perhaps_made) | set(perhaps_gone)
    assert found <= allowed, f"{what} are there that were deleted, or never asked for: {sorted(found - allowed)}"


async def settle(db: Any, ledger: Ledger) -> None:
    """Repeat what was not acknowledged: it converges, whether it had been done or not."""
    marks = await check(db, ledger)
    for operation in ledger.maybe:
        if operation[0] != "add" or operation[1] not in marks:
            await perform(db, operation)
        ledger.done.append(operation)
    ledger.maybe.clear()
    await check(db, ledger)


# --- Processes --------------------------------------------------------------------------------------------------------

#: Forks of a process that has imported all this once, and nothing else: each a process of its own, quickly there.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.workload", "pymongo", "boto3"])


def handle(cell_id: str, address: str, storage: str) -> Handle:
    """In a process of its own: a handle on the storage of a cell. Of an async cell, to be called on its loop."""
    cell = next(one for one in CELLS if one.id == cell_id)
    if cell.store == "firestore":
        # The environment is that of the process which all are forks of: as it was when the first test needed one.
        os.environ["FIRESTORE_EMULATOR_HOST"] = address
    return Handle(reached(cell, address).open(storage))


async def reachable(db: Any) -> None:
    """Wait for the server's first answer, which a busy machine gives late; a driver does not wait long for that."""
    for _ in range(5):
        with suppress(StoreUnavailableError):
            await db.get_session("nobody")
            return


def work(cell_id: str, address: str, storage: str, name: str, seed: int, tell: Connection) -> None:
    async def on_and_on() -> None:
        db = handle(cell_id, address, storage)
        await reachable(db)
        for operation in operations(name, seed):
            tell.send(operation)
            await perform(db, operation)
            tell.send(None)

    asyncio.run(on_and_on())

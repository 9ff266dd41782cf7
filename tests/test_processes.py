"""Real processes that share a server: ten at once make its storage, and then write what only one of them may."""

from __future__ import annotations

import asyncio
from collections import Counter
from multiprocessing.connection import Connection, wait
from typing import Any

import pytest

from agno_docstores.conformance.concurrency import data_model
from agno_docstores.conformance.linearizability import History, check_order
from agno_docstores.conformance.plugin import Awaitable as Handle
from agno_docstores.conformance.runs import run_ids
from agno_docstores.conformance.sessions import agent_session, run_of
from tests.harness import Cell
from tests.workload import PROCESSES, handle, reachable

PROCESSES_AT_ONCE = 10


def take_part(cell_id: str, address: str, storage: str, name: str, line: Connection) -> None:
    """One process: says that it is ready, waits for the signal, tells what it was answered."""

    async def act() -> tuple[bool | None, bool, History]:
        db, history = handle(cell_id, address, storage), History()
        await reachable(db)
        line.send("ready")
        line.recv()
        inserted = await db.insert_session_if_absent(agent_session(session_data={"n": 0, "v": 0}))
        await db.append_run_to_session_if_absent("s1", run_of("pending", status="PENDING", content=None).to_dict())
        await db.upsert_run(run_of(name, status="COMPLETED"), "s1")

        async def add() -> Any:
            data = await db.update_session_data("s1", increment={"n": 1})
            return data["n"], data["v"]

        async def read() -> Any:
            data = await db.get_session_data("s1")
            return data["n"], data["v"]

        await history.of(("add",), add)
        await history.of(("read",), read)
        await history.of(("add",), add)
        cancelled = await db.cancel_pending_run("pending", session_id="s1", reason=name)
        return inserted, cancelled, history

    line.send(asyncio.run(act()))


@pytest.mark.cells("mongo-sync-secantus", "dynamo-sync-local", "firestore-sync-google")
async def test_ten_processes_at_once_make_the_storage_and_agree(db: Handle, cell: Cell, storage: str) -> None:
    address, lines = cell.server.start(), []
    for number in range(PROCESSES_AT_ONCE):
        ours, its = PROCESSES.Pipe()
        arguments = (cell.id, address, storage, f"r{number}", its)
        PROCESSES.Process(target=take_part, args=arguments, daemon=True).start()
        its.close()
        lines.append(ours)
    for line in lines:
        assert line.recv() == "ready"
    for line in lines:
        line.send("go")
    history, inserted, cancelled = History(), Counter[bool | None](), Counter[bool]()
    left = list(lines)
    while left:
        for line in wait(left):
            assert isinstance(line, Connection)
            made, won, calls = line.recv()
            inserted[made] += 1
            cancelled[won] += 1
            history.calls += calls.calls
            left.remove(line)
    assert (inserted, cancelled) == ({True: 1, False: PROCESSES_AT_ONCE - 1}, {True: 1, False: PROCESSES_AT_ONCE - 1})
    check_order(history, (0, 0), data_model)
    rows, _ = await db.get_runs(session_id="s1", deserialize=False)
    assert {row["run_id"] for row in rows} == {"pending", *(f"r{number}" for number in range(PROCESSES_AT_ONCE))}
    assert len({row["run_index"] for row in rows}) == len(rows)
    assert await run_ids(db) == [row["run_id"] for row in rows]
    assert (await db.get_session_data("s1"))["n"] == 2 * PROCESSES_AT_ONCE

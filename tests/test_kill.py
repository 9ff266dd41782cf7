"""Processes that are killed while they write: what was acknowledged is there, what was not is whole or absent."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import pytest

from agno_docstores.conformance.plugin import Awaitable as Handle
from tests.faults import Crashed, Fault
from tests.harness import Cell
from tests.workload import PROCESSES, Ledger, Operation, check, operations, perform, prepare, settle, work

ROUNDS, SEED = 2, 20_261
#: How many operations each of the workers does, at least and at most, until it is killed.
WORKERS = ((4, 10), (8, 16), (12, 24))


def heard(ear: Connection, most: int | None = None) -> list[Operation | None]:
    """What a worker tells: so much, or all there is of one that has ended."""
    told: list[Operation | None] = []
    while most is None or len(told) < most:
        try:
            told.append(ear.recv())
        except EOFError:
            assert most is None, "the worker ended by itself"
            break
    return told


@pytest.mark.cells("mongo-sync-secantus", "mongo-sync-standalone", "dynamo-sync-local", "firestore-sync-google")
async def test_processes_that_are_killed_lose_nothing_acknowledged(
    db: Any, cell: Cell, storage: str, another: Callable[[], Any]
) -> None:
    await prepare(db)
    ledger, chooser, address = Ledger(), random.Random(SEED), cell.server.start()
    for number in range(ROUNDS):
        workers = []
        for which in range(len(WORKERS)):
            ear, tell = PROCESSES.Pipe(duplex=False)
            process = PROCESSES.Process(
                target=work, args=(cell.id, address, storage, f"w{number}{which}", SEED, tell), daemon=True
            )
            process.start()
            tell.close()
            workers.append((process, ear))
        # One dies after the other, each when it has just begun an operation or ended one; the others go on.
        for (process, ear), (least, most) in zip(workers, WORKERS, strict=True):
            told = heard(ear, 2 * chooser.randint(least, most) + chooser.randint(0, 1))
            process.kill()
            ledger.take(told + heard(ear))
            process.join()
            assert process.exitcode == -signal.SIGKILL
        await check(db, ledger)
        await settle(another(), ledger)
    await check(db, ledger)
    assert len(ledger.done) >= ROUNDS * sum(least for least, _ in WORKERS)


@pytest.mark.cells("memory-sync*")
async def test_processes_that_die_at_any_call_of_a_long_load_lose_nothing(cell: Cell, storage: str) -> None:
    db, ledger, chooser = Handle(cell.open(storage)), Ledger(), random.Random(SEED)
    await prepare(db)
    fault, crashes = Fault("none", 0), 0
    for number, operation in enumerate(operations("w", SEED)):
        if not fault.struck and fault.count >= fault.at:
            fault = Fault(chooser.choice(("crash before", "crash after")), chooser.randint(1, 30))
            db.io.hooks[:] = [fault]
        try:
            await perform(db, operation)
            ledger.done.append(operation)
        except Crashed:
            crashes += 1
            ledger.maybe.append(operation)
            db, fault = Handle(cell.open(storage)), Fault("none", 0)
            await settle(db, ledger)
        if number == 600:
            break
    db.io.hooks.clear()
    await check(db, ledger)
    assert crashes > 50


@pytest.mark.cells("memory-sync")
@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (("run", "never", "shared"), "runs that were acknowledged are lost"),
        (("drop_run", "r1", "shared"), "runs are there that were deleted"),
        (("session", "never", ""), "sessions that were acknowledged are lost"),
        (("drop_session", "s1", ""), "sessions are there that were deleted"),
        (("memory", "never", ""), "memories that were acknowledged are lost"),
        (("forget", "m1", ""), "memories are there that were deleted"),
        (("add", "never", ""), "additions that were acknowledged are lost"),
        (("trace", "never", ""), "traces that were acknowledged are lost"),
    ],
)
async def test_the_account_notices_what_is_lost_or_has_come_back(db: Any, wrong: Operation, told: str) -> None:
    await prepare(db)
    ledger = Ledger([("session", "s1", ""), ("run", "r1", "shared"), ("memory", "m1", ""), ("add", "a1", "")])
    for operation in ledger.done:
        await perform(db, operation)
    ledger.maybe.append(wrong)
    await check(db, ledger)
    ledger.done.append(ledger.maybe.pop())
    with pytest.raises(AssertionError, match=told):
        await check(db, ledger)

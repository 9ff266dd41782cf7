"""A server that is stopped and started, or out of reach for a while, under a load: clients keep their handles.

What was acknowledged is there afterwards; what was asked for meanwhile succeeded, or raised `StoreUnavailableError` and
converges when it is repeated. SecantusDB and DynamoDB Local keep their data in files and are stopped for good,
SecantusDB also by a kill; DynamoDB Local acknowledges a write before it is in its file, so that a kill takes the last
ones of bare boto3 too, and says nothing of what the service's clients owe. Google's emulator keeps them in memory (it
can write them out when it is stopped in good order, which is no crash), so it stays up and every connection to it is
broken instead.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from agno_docstores.conformance.plugin import Awaitable as Handle
from agno_docstores.errors import StoreUnavailableError
from agno_docstores.io import run
from tests.harness import Cell
from tests.meters import Metered
from tests.servers import DynamoDBLocal, Secantus
from tests.workload import Ledger, check, operations, perform, prepare, reached, settle

WORKERS, BEFORE, AFTER, SEED = 2, 15, 15, 20_262
Disturb = Callable[[threading.Event], None]


class Load:
    """Threads that share a handle, each with operations of its own, until they are told that it is enough."""

    def __init__(self, db: Handle, number: int) -> None:
        self.db = db
        self.ledger = Ledger()
        self.failures: list[BaseException] = []
        self.unavailable = threading.Event()
        self._changed = threading.Condition()
        self._enough = False
        self._threads = [
            threading.Thread(target=self._work, args=(f"w{number}{which}",), daemon=True) for which in range(WORKERS)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough = True
        for thread in self._threads:
            thread.join()

    def _work(self, name: str) -> None:
        try:
            # Exporters of traces take no error: theirs are in the log, and nothing here would repeat them.
            for operation in operations(name, SEED, without=("trace",)):
                while not self._done(operation):
                    if self._enough:
                        return
                if self._enough:
                    return
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.failures.append(error)
        finally:
            self._tell()

    def _done(self, operation: Any) -> bool:
        """Whether there is nothing left to do: an addition is not repeated, everything else is."""
        try:
            run(perform(self.db, operation))
        except StoreUnavailableError:
            self.unavailable.set()
            if operation not in self.ledger.maybe:
                self.ledger.maybe.append(operation)
            return bool(operation[0] == "add")
        if operation in self.ledger.maybe:
            self.ledger.maybe.remove(operation)
        self.ledger.done.append(operation)
        self._tell()
        return True

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def wait(self, more: int) -> None:
        """Until so many more operations were acknowledged, or a worker has failed."""
        until = len(self.ledger.done) + more
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.ledger.done) >= until or self.failures, 120)


@contextmanager
def disturbed(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Cell, str, list[Callable[[Load], None]]]]:
    """The cell on a server of its own, the name of storage there, and what is done to the server."""
    if cell.store == "firestore":
        with cell.storage() as storage:
            server = Metered(cell.server)
            monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", server.address)

            def cut(load: Load) -> None:
                server.proxy.cut()
                assert load.unavailable.wait(60)
                server.proxy.mend()

            try:
                yield reached(cell, server.address), storage, [cut]
            finally:
                server.proxy.close()
        return
    program, ends = (
        (Secantus(durable=True), (signal.SIGTERM, signal.SIGKILL))
        if cell.store == "mongo"
        else (DynamoDBLocal(durable=True), (signal.SIGTERM, signal.SIGTERM))
    )
    try:
        steps = [lambda load, how=how: program.restart(how) for how in ends]
        yield reached(cell, program.start()), "restarted", steps
    finally:
        program.stop()


@pytest.mark.cells("mongo-sync-secantus", "dynamo-sync-local", "firestore-sync-google")
def test_a_server_that_goes_and_comes_back_has_lost_nothing_acknowledged(
    cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    with disturbed(cell, monkeypatch) as (own, storage, disturbances):
        db = Handle(own.open(storage))
        run(prepare(db))
        ledger = Ledger()
        for number, disturb in enumerate(disturbances):
            with Load(db, number) as load:
                load.wait(BEFORE)
                disturb(load)
                load.wait(AFTER)
            assert load.failures == []
            ledger.done += load.ledger.done
            ledger.maybe += load.ledger.maybe
            run(check(db, ledger))
            run(settle(db, ledger))
        other = Handle(own.open(storage))
        run(check(other, ledger))
        run(db.close())
        run(other.close())

"""Fixtures of the matrix. A test that takes `db`, `docstore`, `driver` or `cell` runs once for each cell of the run.

`--cells=PATTERN,...` selects cells by id, `--tier=embedded|strict` by what they need; `@pytest.mark.cells("mongo-*")`
keeps a test to some of them.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import botocore.loaders
import pytest
from sqlalchemy import Engine, event

from agno_docstores.conformance.plugin import Awaitable, close
from agno_docstores.port import Driver
from tests.harness import EMBEDDED, STRICT, Cell, Matrix
from tests.meters import Meter, metered
from tests.servers import Unreachable
from tests.support import SupportReport

pytest_plugins = ["agno_docstores.conformance.plugin"]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("matrix")
    group.addoption("--cells", help="run on these cells only: comma-separated patterns of their ids")
    group.addoption("--write-support", action="store_true", help="write the README's support matrix after a whole run")
    group.addoption("--tier", choices=["all", EMBEDDED, STRICT], default="all", help="run on the cells of one tier")


# Reading a service's model takes the SDK longer than most tests take; one loader keeps what it has read.
botocore.loaders.create_loader = functools.cache(botocore.loaders.create_loader)


@event.listens_for(Engine, "connect")
def _without_fsync(connection: Any, record: Any) -> None:
    """No test cuts the power of Agno's SqliteDb, whose files live no longer than a test."""
    if "sqlite" in type(connection).__module__:
        connection.execute("PRAGMA synchronous = OFF")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cells(pattern, ...): the cells of the matrix that this test is for")
    config.pluginmanager.register(Matrix(config), "matrix")
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(SupportReport(config), "support")
    if threading.current_thread() is threading.main_thread():
        # Ended by a signal, the session still stops its servers.
        signal.signal(signal.SIGTERM, lambda *_: pytest.exit("terminated", returncode=143))


def pytest_collection_finish() -> None:
    """The collected tests and what was imported for them, millions of objects, stay to the end: the garbage collector
    is not to go through them again and again, which took a third of a worker's time. What tests make besides, some
    AgentOS with all their models among it, it goes through less often than it would."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 20, 20)


@pytest.fixture
def storage(cell: Cell) -> Iterator[str]:
    """New, empty storage of the cell: its name."""
    try:
        cell.server.start()
    except Unreachable as error:
        # An error of each test of the cell, told in one line: a traceback a thousand times over says no more.
        pytest.fail(str(error), pytrace=False)
    with cell.storage() as name:
        yield name


@pytest.fixture
def docstore(cell: Cell, storage: str, runner: asyncio.Runner) -> Any:
    """The database under test. Whoever asks for it closes it: `db` and `driver` do."""

    async def on_the_loop() -> Any:
        return cell.open(storage)

    try:
        return runner.run(on_the_loop())
    except Unreachable as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def open_another(cell: Cell, storage: str) -> Callable[..., Any]:
    """One more handle on the same storage; of an async cell, to be called on the test's loop."""
    return lambda **options: cell.open(storage, **options)


@pytest.fixture
def driver(docstore: Any, runner: asyncio.Runner) -> Iterator[Driver]:
    """The driver under the docstore."""
    yield docstore._engine.driver
    runner.run(close(docstore))


@pytest.fixture
def open_metered(cell: Cell, storage: str, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A context manager that gives a new handle through a proxy, and its meter."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[tuple[Awaitable, Meter]]:
        with metered(cell, monkeypatch) as (proxied, traffic):
            proxied._stacks.update(cell._stacks)
            db = Awaitable(proxied.open(storage))
            try:
                yield db, Meter(db, traffic)
            finally:
                await close(db.raw)

    return opened

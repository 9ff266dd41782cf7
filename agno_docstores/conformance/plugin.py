"""The pytest plugin of the conformance suite: runs `async def` tests, and gives sync stores awaitable methods.

A test and its fixtures share one event loop (an `asyncio.Runner`), because an async client belongs to the loop that it
was made on; the store is closed on that loop.
"""

from __future__ import annotations

import asyncio
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from agno.db.base import AsyncBaseDb

import agno_docstores.conformance

# The bodies live in a package, where pytest by itself would not explain a failing `assert`.
pytest.register_assert_rewrite(
    *(
        f"{agno_docstores.conformance.__name__}.{module.name}"
        for module in pkgutil.iter_modules(agno_docstores.conformance.__path__)
        if module.name != "plugin"
    )
)


class Awaitable:
    """A database whose methods can be awaited: those of a sync class run in place, those of an async class as is.

    `raw` is the database itself.
    """

    def __init__(self, raw: Any) -> None:
        self.raw = raw

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.raw, name)
        if not inspect.isroutine(value) or inspect.iscoroutinefunction(value):
            return value

        async def call(*args: Any, **kwargs: Any) -> Any:
            return value(*args, **kwargs)

        return call

    @property
    def is_async(self) -> bool:
        return isinstance(self.raw, AsyncBaseDb)


async def close(raw: Any) -> None:
    """Close a database of either kind."""
    result = raw.close()
    if inspect.isawaitable(result):
        await result


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """The event loop of one test."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def docstore() -> Any:
    """To be overridden: the database under test, on empty storage."""
    raise pytest.UsageError("define a fixture `docstore` that returns the database under test")


@pytest.fixture
def open_another() -> Callable[[], Any]:
    """To be overridden: a function that opens one more handle on the storage of `docstore`."""
    raise pytest.UsageError("define a fixture `open_another`: a function that opens another handle on the same storage")


@pytest.fixture
def db(docstore: Any, runner: asyncio.Runner) -> Iterator[Awaitable]:
    """The database under test with awaitable methods; closed at the end."""
    yield Awaitable(docstore)
    runner.run(close(docstore))


@pytest.fixture
def another(open_another: Callable[..., Any], runner: asyncio.Runner) -> Iterator[Callable[..., Awaitable]]:
    """A function that opens one more handle on the storage of `db`, as another process would; closed at the end. It
    takes the constructor's settings, such as `session_config`."""
    opened: list[Any] = []

    def make(**options: Any) -> Awaitable:
        raw = open_another(**options)
        opened.append(raw)
        return Awaitable(raw)

    yield make
    for raw in opened:
        runner.run(close(raw))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an `async def` test on the runner of its fixtures."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    runner = pyfuncitem.funcargs.get("runner")
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    if isinstance(runner, asyncio.Runner):
        runner.run(pyfuncitem.obj(**arguments))
    else:
        asyncio.run(pyfuncitem.obj(**arguments))
    return True

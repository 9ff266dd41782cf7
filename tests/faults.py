"""Faults at the gateway: the n-th call of an operation fails, loses its reply, is made twice, or the process ends; or
the store is gone from there on. `native` is what a store's own client raises, for the driver to translate.

`replays` does an operation again and again, on new storage each time, until each of its calls has been struck.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from agno_docstores.conformance.plugin import Awaitable as Handle
from agno_docstores.conformance.plugin import close
from agno_docstores.errors import StoreUnavailableError
from agno_docstores.io import Io, Repeat, run
from tests.harness import Cell

TRANSIENT = ("unreachable", "lost reply", "repeated")  # an operation goes on, as if nothing had been
CRASHES = ("crash before", "crash after")
FAULTS = (*TRANSIENT, *CRASHES)
MOST_CALLS = 80  # of one operation
EVERY = 4  # of so many calls a kind of fault strikes one, where it does not strike them all


def places(cell: Cell, kind: str, most: int) -> range:
    """Which calls of an operation a fault of this kind is to strike: each of them on the memory store, which commits in
    both ways, whole and one document at a time, so that it makes the calls that any store makes; on the others, where
    what a call leaves behind is what is looked at, each of them by one kind of fault or two (DynamoDB: each third)."""
    if cell.store == "memory" or kind == "none":
        return range(1, most)
    # DynamoDB's stand-in is slower by far, and takes more calls.
    step = 3 * EVERY if cell.store == "dynamo" else EVERY
    return range(1 + FAULTS.index(kind) % EVERY, most, step)


class Crashed(Exception):
    """The process died here: nothing of the operation goes on."""


def _caller() -> Any:
    """Who makes a call: the task, or the thread."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return threading.get_ident()


@dataclass
class Fault:
    """A hook of the gateway. `kind`: "unreachable" and "crash before" strike before the call reaches the store, "lost
    reply" and "crash after" when it has taken effect, "repeated" has it made twice. `struck`: whether it came to it."""

    kind: str
    at: int
    count: int = 0
    struck: bool = False
    _caller: Any = None  # of the call that is to be struck: others may be under way at the same time

    def before(self, operation: str) -> None:
        self.count += 1
        if self.count != self.at:
            return
        self._caller = _caller()
        if self.kind == "unreachable":
            self.struck = True
            raise StoreUnavailableError(operation, "test", "unreachable")
        if self.kind == "crash before":
            self.struck = True
            raise Crashed

    def after(self, operation: str) -> None:
        if self.struck or self._caller is None or self._caller != _caller():
            return
        if self.kind == "lost reply":
            self.struck = True
            raise StoreUnavailableError(operation, "test", "the reply was lost", maybe_applied=True)
        if self.kind == "crash after":
            self.struck = True
            raise Crashed
        if self.kind == "repeated":
            self.struck = True
            raise Repeat


class Between:
    """A hook of the gateway: before the n-th call, something else is done by another: `act`, which may be a coroutine
    of a sync store. `answer`: what it gave."""

    def __init__(self, at: int, act: Callable[[], Any]) -> None:
        self.at = at
        self.act = act
        self.count = 0
        self.done = False
        self.answer: Any = None

    def before(self, operation: str) -> None:
        self.count += 1
        if self.count != self.at:
            return
        self.done = True
        answer = self.act()
        self.answer = run(answer) if asyncio.iscoroutine(answer) else answer

    def after(self, operation: str) -> None:
        pass


@dataclass
class Replay:
    """One time that an operation is done: on storage of its own, with the fault that is to strike it."""

    cell: Cell
    storage: str
    fault: Fault
    arrange: Callable[[Any], Any]
    handles: list[Any] = field(default_factory=list)

    def open(self, **options: Any) -> Any:
        """One more handle on the storage. It is closed when the replay is over."""
        handle = Handle(self.arrange(self.cell.open(self.storage, **options)))
        self.handles.append(handle)
        return handle

    async def strike(self, db: Any, operation: Callable[[Any], Awaitable[Any]]) -> Any:
        """What the operation answers with the fault. Raises `Crashed`, and whatever the operation does."""
        db.io.hooks.append(self.fault)
        try:
            return await operation(db)
        finally:
            db.io.hooks.clear()

    def __str__(self) -> str:
        return f"{self.fault.kind} at call {self.fault.at}"


async def replays(
    cell: Cell,
    kinds: Sequence[str],
    *,
    most: int = MOST_CALLS,
    fault: Callable[[str, int], Fault] = Fault,
    arrange: Callable[[Any], Any] = lambda raw: raw,
) -> AsyncIterator[Replay]:
    """A replay for each kind of fault at each call that it is to strike (`places`). Of the kind "none" there is one, to
    see what comes of the operation by itself. `arrange`: what is done to each database that is opened."""
    struck = 0
    for kind in kinds:
        for at in places(cell, kind, most):
            with cell.storage() as storage:
                replay = Replay(cell, storage, fault(kind, at), arrange)
                yield replay
                for handle in replay.handles:
                    await close(handle.raw)
            struck += replay.fault.struck
            if not replay.fault.struck:
                break
        else:
            raise AssertionError(f"more than {most} calls")
    assert struck, "no call was struck"


async def unnoticed(
    cell: Cell,
    operation: Callable[[Any], Awaitable[Any]],
    prepared: Callable[[Any], Awaitable[Any]],
    observed: Callable[[Any], Awaitable[Any]],
    **options: Any,
) -> Any:
    """Check that passing faults change nothing: neither the answer nor what is observed then. Both, as they are."""
    expected: Any = None
    async for replay in replays(cell, ("none", *TRANSIENT), **options):
        db = replay.open()
        await prepared(db)
        found = (await replay.strike(db, operation), await observed(db))
        expected = expected or found
        assert found == expected, str(replay)
    return expected


async def whole(
    cell: Cell,
    operation: Callable[[Any], Awaitable[Any]],
    prepared: Callable[[Any], Awaitable[Any]],
    observed: Callable[[Any], Awaitable[dict[Any, Any]]],
    *,
    when_done: tuple[type[Exception], ...] = (),
    kinds: Sequence[str] = CRASHES,
    halfway: Callable[[dict[Any, Any]], None] = lambda between: None,
    after: Callable[[Any], Awaitable[Any]] | None = None,
    **options: Any,
) -> None:
    """Check that whatever a process that died has touched is as before or as after, and all of it as after once another
    process repeats the operation. That may raise `when_done`, where the first had taken effect. What else is to hold:
    `halfway`, of what is observed between the two, unless it is all as before; `after`, in the end."""
    expected: dict[Any, Any] | None = None
    async for replay in replays(cell, ("none", *kinds), **options):
        db = replay.open()
        await prepared(db)
        before = await observed(db)
        survivor = replay.open()
        try:
            await replay.strike(db, operation)
            assert not (replay.fault.struck and replay.fault.kind in CRASHES), "nobody may catch the end of a process"
            expected = expected or await observed(survivor)
        except Crashed:
            assert expected is not None
            between = await observed(survivor)
            for thing in before.keys() | expected.keys() | between.keys():
                steps = (before.get(thing), expected.get(thing))
                assert between.get(thing) in steps, f"{replay}: {thing}"
            if between != before:
                halfway(between)
            with contextlib.suppress(*when_done):
                await operation(survivor)
        assert await observed(survivor) == expected, str(replay)
        if after is not None:
            await after(survivor)


def native(store: str, kind: str, operation: str) -> Exception:
    """What the client of a store raises when a call is "throttled" or has "timed out"."""
    throttled = kind == "throttled"
    if store == "mongo":
        from pymongo.errors import NetworkTimeout, OperationFailure

        return OperationFailure("Request rate is large", 16500) if throttled else NetworkTimeout("timed out")
    if store == "dynamo":
        from botocore.exceptions import ClientError, ReadTimeoutError

        if not throttled:
            return ReadTimeoutError(endpoint_url="http://test")
        refused = {"Code": "ProvisionedThroughputExceededException", "Message": "too fast"}
        return ClientError({"Error": refused, "ResponseMetadata": {"HTTPStatusCode": 400}}, operation)  # type: ignore[typeddict-item]
    if store == "firestore":
        from google.api_core.exceptions import DeadlineExceeded, ResourceExhausted

        return ResourceExhausted("too fast") if throttled else DeadlineExceeded("timed out")  # type: ignore[no-untyped-call]
    return StoreUnavailableError(operation, "test", kind, maybe_applied=not throttled)


@dataclass
class Down:
    """A hook of the gateway: from the n-th call on, the store answers none, as its own client says it. Calls that
    "timed out" may have taken effect (`applied`), or not."""

    store: str
    kind: str = "timed out"
    since: int = 1
    applied: bool = False
    count: int = 0
    operations: set[str] = field(default_factory=set)

    def before(self, operation: str) -> None:
        self.count += 1
        if self.count >= self.since and not self.applied:
            self._strike(operation)

    def after(self, operation: str) -> None:
        if self.count >= self.since and self.applied:
            self._strike(operation)

    def _strike(self, operation: str) -> None:
        self.operations.add(operation)
        raise native(self.store, self.kind, operation)

    @property
    def struck(self) -> bool:
        return self.count >= self.since


class Patience:
    """What a handle waits, without waiting: each wait is as long as it can be, and added up in `seconds`."""

    def __init__(self, io: Io, patch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        patch.setattr(io, "jitter", lambda: 1.0)
        patch.setattr(io, "sleep", self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.seconds += seconds

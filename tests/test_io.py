"""The gateway: one source for sync and async, errors translated, calls counted, faults injected."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from agno_docstores import AsyncMemoryDocstore, MemoryDocstore
from agno_docstores.bridge import awaiting, blocking
from agno_docstores.domains.runs import Runs
from agno_docstores.domains.sessions import Sessions
from agno_docstores.io import AsyncIo, Io, Repeat, Suspended, SyncIo, ThreadIo, run


class Spy:
    """A hook that notes what it sees, and does on the n-th call (from 1) what it is told to."""

    def __init__(self, *, before: Exception | None = None, after: type[Exception] | None = None, at: int = 1) -> None:
        self.seen: list[str] = []
        self._before, self._after, self._at = before, after, at
        self._calls = 0

    def before(self, operation: str) -> None:
        self._calls += 1
        self.seen.append(f"before {operation}")
        if self._before is not None and self._calls == self._at:
            raise self._before

    def after(self, operation: str) -> None:
        self.seen.append(f"after {operation}")
        if self._after is not None and self._calls == self._at:
            raise self._after


class LostReply(Exception):
    pass


def double(value: int) -> int:
    return value * 2


async def double_later(value: int) -> int:
    await asyncio.sleep(0)
    return value * 2


def drive(io: Io, coroutine: Any) -> Any:
    """The result of a coroutine, on an event loop where the gateway is one for loops."""
    return run(coroutine) if isinstance(io, SyncIo) else asyncio.run(coroutine)


GATEWAYS: list[type[Any]] = [SyncIo, AsyncIo, ThreadIo]
each_gateway = pytest.mark.parametrize("gateway", GATEWAYS)


# --- Driving a coroutine ----------------------------------------------------------------------------------------------


def test_run_returns_what_the_coroutine_returns() -> None:
    async def inner() -> int:
        return await SyncIo()(double, 4)

    async def outer() -> list[int]:
        return [await inner(), await inner()]

    assert run(outer()) == [8, 8]


def test_run_passes_errors_on_as_they_are() -> None:
    async def failing() -> None:
        await SyncIo()(int, "x")

    with pytest.raises(ValueError, match="'x'"):
        run(failing())


def test_run_needs_no_event_loop_and_disturbs_none() -> None:
    async def blocking_user() -> int:
        return run(SyncIo()(double, 2))

    assert asyncio.run(blocking_user()) == 4


def test_a_coroutine_that_suspends_under_run_raises_at_once() -> None:
    finished = []

    async def waits() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            finished.append("cleaned up")

    async def outer() -> None:
        await asyncio.sleep(0)

    started = time.monotonic()
    with pytest.raises(Suspended):
        run(outer())
    with pytest.raises((Suspended, RuntimeError)):
        run(waits())
    assert time.monotonic() - started < 60, "not the hour that it would have slept"
    assert finished == ["cleaned up"]


def test_sync_sleep_gather_and_lock_do_not_suspend() -> None:
    io = SyncIo()

    async def everything() -> list[int]:
        await io.sleep(0)
        async with io.lock("key"):
            return await io.gather(io(double, 1), io(double, 2))

    assert run(everything()) == [2, 4]


# --- The three gateways -----------------------------------------------------------------------------------------------


@each_gateway
def test_a_call_returns_the_clients_answer(gateway: type[Any]) -> None:
    io = gateway()
    assert drive(io, io(double, 21)) == 42


def test_async_io_awaits_the_client() -> None:
    io = AsyncIo()
    assert asyncio.run(io(double_later, 21)) == 42


def test_async_io_gathers_concurrently() -> None:
    io = AsyncIo()

    async def both() -> list[str]:
        arrived = asyncio.Event()

        async def first() -> str:
            await asyncio.wait_for(arrived.wait(), 5)  # only comes if the second runs meanwhile
            return "first"

        async def second() -> str:
            arrived.set()
            return "second"

        return await io.gather(io(first), io(second))

    assert asyncio.run(both()) == ["first", "second"]


@pytest.mark.parametrize("gateway", [AsyncIo, ThreadIo])
def test_nothing_of_a_gathering_goes_on_behind_a_failure(gateway: type[Any]) -> None:
    """Whoever is told of the failure may repeat or undo the whole: no straggler must write after that."""
    done: list[str] = []

    async def fails(name: str) -> None:
        raise ValueError(name)

    async def takes_longer() -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        done.append("straggler")

    async def both() -> None:
        with pytest.raises(ValueError, match="first"):
            await gateway().gather(takes_longer(), fails("first"), fails("second"))
        assert done == ["straggler"]

    asyncio.run(both())


def test_thread_io_does_not_block_the_loop() -> None:
    io = ThreadIo()
    release = threading.Event()

    def wait_for_the_loop() -> int:
        assert release.wait(5), "the loop was blocked"
        return threading.get_ident()

    async def both() -> int:
        task = asyncio.create_task(io(wait_for_the_loop))
        await asyncio.sleep(0.01)
        release.set()
        return await task

    assert asyncio.run(both()) != threading.get_ident()


@each_gateway
def test_the_clock_is_the_wall_clock(gateway: type[Any]) -> None:
    assert abs(gateway().now() - time.time()) < 5


def test_clients_belong_to_a_loop_only_where_they_are_async() -> None:
    async def key(io: Io) -> int:
        return io.loop_key()

    assert SyncIo().loop_key() == 0
    assert asyncio.run(key(ThreadIo())) == 0
    with asyncio.Runner() as one, asyncio.Runner() as other:
        io = AsyncIo()
        assert one.run(key(io)) == one.run(key(io)) != other.run(key(io))


# --- Counting and faults ----------------------------------------------------------------------------------------------


@each_gateway
def test_calls_are_counted_by_operation(gateway: type[Any]) -> None:
    io = gateway()
    for _ in range(3):
        drive(io, io(double, 1))
    drive(io, io(double, 1, op="get"))
    assert io.calls == {"double": 3, "get": 1}


@each_gateway
def test_hooks_see_each_call_before_and_after(gateway: type[Any]) -> None:
    io, spy = gateway(), Spy()
    io.hooks.append(spy)
    drive(io, io(double, 1, op="get"))
    assert spy.seen == ["before get", "after get"]


@each_gateway
def test_a_failure_before_the_call_prevents_it(gateway: type[Any]) -> None:
    io, made = gateway(), []
    io.hooks.append(Spy(before=ConnectionError("refused"), at=2))
    drive(io, io(made.append, 1))
    with pytest.raises(ConnectionError):
        drive(io, io(made.append, 2))
    drive(io, io(made.append, 3))
    assert made == [1, 3]


@each_gateway
def test_a_lost_reply_is_an_error_of_a_call_that_was_made(gateway: type[Any]) -> None:
    io, made = gateway(), []
    io.hooks.append(Spy(after=LostReply))
    with pytest.raises(LostReply):
        drive(io, io(made.append, 1))
    assert made == [1]


@each_gateway
def test_a_repeated_call_is_made_twice_and_answered_once(gateway: type[Any]) -> None:
    io, made = gateway(), []

    def note(value: int) -> int:
        made.append(value)
        return len(made)

    io.hooks.append(Spy(after=Repeat))
    assert drive(io, io(note, 7)) == 2
    assert made == [7, 7]
    assert io.calls == {"note": 2}


@each_gateway
def test_errors_are_translated_and_keep_their_cause(gateway: type[Any]) -> None:
    class Translated(Exception):
        pass

    def translate(operation: str, error: Exception) -> Exception | None:
        return Translated(operation) if isinstance(error, ValueError) else None

    io = gateway(translate)
    with pytest.raises(Translated, match="parse") as caught:
        drive(io, io(int, "x", op="parse"))
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(TypeError):
        drive(io, io(int, None))


@each_gateway
def test_injected_errors_are_translated_like_the_clients_own(gateway: type[Any]) -> None:
    io = gateway(lambda operation, error: KeyError(operation))
    io.hooks.append(Spy(before=ConnectionError("refused")))
    with pytest.raises(KeyError, match="get"):
        drive(io, io(double, 1, op="get"))


# --- Locks ------------------------------------------------------------------------------------------------------------


def overlap(enter: Callable[[Any], None]) -> int:
    """The most that were inside at once, of eight threads that `enter` lets run a critical section."""
    inside, most, guard = 0, 0, threading.Lock()

    class Section:
        def __enter__(self) -> None:
            nonlocal inside, most
            with guard:
                inside += 1
                most = max(most, inside)
            time.sleep(0.002)

        def __exit__(self, *_: object) -> None:
            nonlocal inside
            with guard:
                inside -= 1

    threads = [threading.Thread(target=enter, args=(Section,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return most


def test_threads_exclude_each_other_by_key() -> None:
    io = SyncIo()

    async def enter(section: Any) -> None:
        async with io.lock("key"):
            with section():
                pass

    assert overlap(lambda section: run(enter(section))) == 1


@pytest.mark.parametrize("gateway", [AsyncIo, ThreadIo])
def test_tasks_exclude_each_other_by_key(gateway: type[Any]) -> None:
    io = gateway()
    inside = most = 0

    async def enter() -> None:
        nonlocal inside, most
        async with io.lock("key"):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.001)
            inside -= 1

    async def all_of_them() -> None:
        await asyncio.gather(*(enter() for _ in range(8)))

    asyncio.run(all_of_them())
    assert most == 1


@pytest.mark.parametrize("gateway", [AsyncIo, ThreadIo])
def test_other_keys_do_not_wait(gateway: type[Any]) -> None:
    io = gateway()

    async def nested() -> bool:
        async with io.lock("one"), asyncio.timeout(5), io.lock("other"):
            return True

    assert asyncio.run(nested())


@pytest.mark.parametrize("gateway", [AsyncIo, ThreadIo])
def test_a_lock_serves_one_loop_after_another(gateway: type[Any]) -> None:
    io = gateway()

    async def contended() -> int:
        entered = 0

        async def enter() -> None:
            nonlocal entered
            async with io.lock("key"):
                await asyncio.sleep(0)
                entered += 1

        await asyncio.gather(*(enter() for _ in range(3)))
        return entered

    assert [asyncio.run(contended()) for _ in range(3)] == [3, 3, 3]


@each_gateway
def test_a_lock_is_released_when_its_holder_fails(gateway: type[Any]) -> None:
    io = gateway()

    async def failing() -> None:
        async with io.lock("key"):
            raise KeyError

    async def after() -> bool:
        async with io.lock("key"):
            return True

    with pytest.raises(KeyError):
        drive(io, failing())
    assert drive(io, after())


# --- The facades ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [Sessions.get_session, Sessions.upsert_session, Runs.upsert_run, Runs.get_runs])
@pytest.mark.parametrize("wrap", [blocking, awaiting])
def test_a_facade_method_keeps_name_signature_and_docstring(wrap: Any, method: Any) -> None:
    wrapped = wrap(method)
    assert inspect.signature(wrapped) == inspect.signature(method)
    assert (wrapped.__name__, wrapped.__doc__) == (method.__name__, method.__doc__)


def test_async_methods_are_coroutine_functions_and_sync_methods_are_none() -> None:
    names = {name for name in vars(AsyncMemoryDocstore.__mro__[1]) if name.startswith(("get_", "upsert_", "delete_"))}
    assert "get_session" in names
    names.remove("get_all_sessions")  # gives an iterator, async on the async store
    sync, asynchronous = MemoryDocstore(), AsyncMemoryDocstore()
    for name in names:
        assert inspect.iscoroutinefunction(getattr(asynchronous, name)), name
        assert not inspect.iscoroutinefunction(getattr(sync, name)), name


def test_a_sync_store_works_inside_a_running_loop() -> None:
    async def on_a_loop() -> Any:
        return MemoryDocstore().get_session("s1")

    assert asyncio.run(on_a_loop()) is None

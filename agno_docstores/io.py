"""The gateway to the outside: the only place where domains, kernel and drivers wait, sleep, or read a clock.

Everything above is written once, as `async def`. What a call does is decided here:

- `AsyncIo` awaits the async client.
- `SyncIo` calls the blocking client. The coroutine then never suspends, and `run` drives it to its end.
- `ThreadIo` runs a blocking client's call in a worker thread, for async users of a client that has no async twin.

It is also the only place that translates a client's errors, counts calls, and lets a test inject faults.
"""

from __future__ import annotations

import asyncio
import functools
import random
import threading
import time
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Suspended(RuntimeError):
    """A coroutine really suspended under the sync gateway: something in it waits by other means than the gateway."""


class _Thread(threading.local):
    works_beside_loop = False


_thread = _Thread()


def works_beside_loop() -> bool:
    """Whether this is a thread in which `Io.work` has something long done beside an event loop. A single call of
    compiled code holds up the loop from there as well, for as long as it does not let go of the interpreter."""
    return _thread.works_beside_loop


def _beside_loop(fn: Callable[..., T], *args: Any) -> T:
    _thread.works_beside_loop = True
    try:
        return fn(*args)
    finally:
        _thread.works_beside_loop = False


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never suspends; raises `Suspended` at once if it does, rather than hang."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    coroutine.close()
    raise Suspended(f"{coroutine!r} suspended; it may only wait through its gateway")


class Hook(Protocol):
    """Sees each call of the client. `before` may raise instead of the call; `after` may raise although it was made."""

    def before(self, operation: str) -> None: ...

    def after(self, operation: str) -> None: ...


class Repeat(Exception):
    """Raised by a hook's `after` to have the call made once more, as a network layer that resends would."""


class _Locks:
    """One lock per key for as long as somebody holds or awaits it."""

    def __init__(self, make: Callable[[], AbstractAsyncContextManager[None]]) -> None:
        self._make = make
        self._locks: weakref.WeakValueDictionary[str, AbstractAsyncContextManager[None]] = weakref.WeakValueDictionary()
        self._guard = threading.Lock()

    def get(self, key: str) -> AbstractAsyncContextManager[None]:
        with self._guard:
            lock = self._locks.get(key)
            if lock is None:
                lock = self._locks[key] = self._make()
            return lock


class _AsyncLock:
    def __init__(self) -> None:
        self.lock = asyncio.Lock()

    async def __aenter__(self) -> None:
        await self.lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        self.lock.release()


class _SyncLock:
    def __init__(self) -> None:
        self.lock = threading.Lock()

    async def __aenter__(self) -> None:
        self.lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        self.lock.release()


class Io:
    """Calls, counts and clocks. `calls` counts operations by name, `seconds` adds up the time spent in them."""

    def __init__(self, translate: Callable[[str, Exception], Exception | None] | None = None) -> None:
        self.translate = translate
        self.calls: Counter[str] = Counter()
        self.seconds = 0.0
        self.hooks: list[Hook] = []

    async def __call__(self, fn: Callable[..., Any], *args: Any, op: str | None = None, **kwargs: Any) -> Any:
        """Make one call of the client. `op` names it where the function's own name says too little.

        The call must be one that can be made again (not the rest of an open cursor): a network may deliver it twice.
        """
        operation: str = op or getattr(fn, "__name__", None) or type(fn).__name__
        while True:
            self.calls[operation] += 1
            started = time.perf_counter()
            try:
                for hook in self.hooks:
                    hook.before(operation)
                result = await self._invoke(fn, args, kwargs)
                for hook in self.hooks:
                    hook.after(operation)
                return result
            except Repeat:
                continue
            except Exception as error:
                translated = self.translate(operation, error) if self.translate else None
                if translated is None:
                    raise
                raise translated from error
            finally:
                self.seconds += time.perf_counter() - started

    async def _invoke(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        raise NotImplementedError

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError

    async def gather(self, *awaitables: Awaitable[T]) -> list[T]:
        """Their results in order; concurrently where the gateway can, one after the other where it cannot. The first
        failure is raised when all have ended, so that nothing goes on, or writes, behind the back of who is told."""
        raise NotImplementedError

    async def work(self, long: bool | Callable[[], bool], fn: Callable[..., T], *args: Any) -> T:
        """The result of a function that computes; if for `long`, in a worker thread where there is an event loop that
        it would hold up, else in place. `long` may be a function that tells: asked only where it matters."""
        return fn(*args)

    def lock(self, key: str) -> AbstractAsyncContextManager[None]:
        """Mutual exclusion by key within this gateway. A help against contention, never what correctness rests on."""
        raise NotImplementedError

    def loop_key(self) -> int:
        """What a loop-bound client belongs to: 0 where clients are not bound to an event loop."""
        return 0

    def now(self) -> float:
        """Wall clock, epoch seconds."""
        return time.time()

    def jitter(self) -> float:
        """A random number in [0, 1)."""
        return random.random()

    async def back_off(self, attempt: int, first: float, most: float) -> None:
        """Wait a random part of the time that an attempt stands for, counted from 0: `first` seconds, doubled with each
        attempt, up to `most`."""
        await self.sleep(self.jitter() * min(most, first * 2**attempt))


class SyncIo(Io):
    def __init__(self, translate: Callable[[str, Exception], Exception | None] | None = None) -> None:
        super().__init__(translate)
        self._locks = _Locks(_SyncLock)

    async def _invoke(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return fn(*args, **kwargs)

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    async def gather(self, *awaitables: Awaitable[T]) -> list[T]:
        results: list[T] = []
        try:
            for awaitable in awaitables:
                results.append(await awaitable)
        finally:
            for left in awaitables[len(results) :]:
                if isinstance(left, Coroutine):
                    left.close()
        return results

    def lock(self, key: str) -> AbstractAsyncContextManager[None]:
        return self._locks.get(key)


class AsyncIo(Io):
    def __init__(self, translate: Callable[[str, Exception], Exception | None] | None = None) -> None:
        super().__init__(translate)
        self._locks = _Locks(_AsyncLock)

    async def _invoke(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        task = asyncio.current_task()
        asked = task.cancelling() if task is not None else 0
        result = fn(*args, **kwargs)
        if isinstance(result, Awaitable):
            result = await result
        if task is not None and task.cancelling() > asked:
            # The client has swallowed it: `asyncio.wait_for` of Python 3.11, which PyMongo sends with, does that.
            raise asyncio.CancelledError
        return result

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def gather(self, *awaitables: Awaitable[T]) -> list[T]:
        tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
        try:
            return list(await asyncio.gather(*tasks))
        except BaseException:
            await asyncio.wait(tasks)
            raise

    async def work(self, long: bool | Callable[[], bool], fn: Callable[..., T], *args: Any) -> T:
        takes_long = long() if callable(long) else long
        return await asyncio.to_thread(_beside_loop, fn, *args) if takes_long else fn(*args)

    def lock(self, key: str) -> AbstractAsyncContextManager[None]:
        # An asyncio lock belongs to one loop; two loops that use one store exclude each other by the store alone.
        return self._locks.get(f"{id(asyncio.get_running_loop())}/{key}")

    def loop_key(self) -> int:
        return id(asyncio.get_running_loop())


class ThreadIo(AsyncIo):
    """`AsyncIo` over a blocking client: each call runs in a worker thread, so that the loop never blocks."""

    async def _invoke(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return await asyncio.to_thread(functools.partial(fn, *args, **kwargs))

    def loop_key(self) -> int:
        # The client is a blocking one and serves every loop.
        return 0

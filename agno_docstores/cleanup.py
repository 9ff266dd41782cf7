"""Sweeps on a timer, for a store whose `session_config` asks for them, and for no other.

Of a sync store a daemon thread, of an async store a task on the loop that uses it: begun by the first operation, ended
by `close()`, and by itself when nobody holds the store any more. A process that was forked begins a timer of its own.
What a sweep cannot do is logged, and the next tries again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

from agno_docstores.io import run

log = logging.getLogger("agno_docstores")

#: By how much of itself an interval varies, so that processes that were started together do not sweep together.
SPREAD = 0.1
Sweep = Callable[[], Coroutine[Any, Any, Any]]


def _spread(interval: float) -> float:
    return interval * random.uniform(1 - SPREAD, 1 + SPREAD)


class Timer:
    """The timer of one store. `sweep` is a bound method; it is held weakly."""

    def __init__(self, interval: float, sweep: Sweep) -> None:
        self.interval = interval
        self._sweep: Callable[[], Sweep | None] = weakref.WeakMethod(sweep)

    def begin(self) -> None:
        """See to it that the timer runs. Called at each operation, so it costs next to nothing where it does."""
        raise NotImplementedError

    def end(self) -> None:
        """Stop; a sweep under way comes to its end by itself."""
        raise NotImplementedError


class ThreadTimer(Timer):
    def __init__(self, interval: float, sweep: Sweep) -> None:
        super().__init__(interval, sweep)
        self._lock = threading.Lock()
        self._stop: threading.Event | None = None
        self._process: int | None = None

    def begin(self) -> None:
        if self._process == os.getpid():
            return
        with self._lock:
            if self._process == os.getpid():
                return
            self._process, self._stop = os.getpid(), threading.Event()
            arguments = (self._stop, self.interval, self._sweep)
            threading.Thread(target=_sweep_until, args=arguments, name="agno-docstores-sweep", daemon=True).start()

    def end(self) -> None:
        with self._lock:
            if self._stop is not None:
                self._stop.set()
            self._stop = self._process = None


def _sweep_until(stop: threading.Event, interval: float, method: Callable[[], Sweep | None]) -> None:
    while not stop.wait(_spread(interval)):
        sweep = method()
        if sweep is None:
            return
        try:
            run(sweep())
        except Exception as error:  # noqa: BLE001 - whatever it was, the next sweep tries again
            log.error("the timed sweep failed: %s", str(error))  # not the error, whose traceback holds the store
        del sweep


class TaskTimer(Timer):
    def __init__(self, interval: float, sweep: Sweep) -> None:
        super().__init__(interval, sweep)
        self._tasks: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[None]] = (
            weakref.WeakKeyDictionary()
        )

    def begin(self) -> None:
        loop = asyncio.get_running_loop()
        task = self._tasks.get(loop)
        if task is None or task.done():
            sweeping = _sweep_for_ever(self.interval, self._sweep)
            self._tasks[loop] = loop.create_task(sweeping, name="agno-docstores-sweep")

    def end(self) -> None:
        for loop, task in list(self._tasks.items()):
            if not loop.is_closed():
                loop.call_soon_threadsafe(task.cancel)
        self._tasks.clear()


async def _sweep_for_ever(interval: float, method: Callable[[], Sweep | None]) -> None:
    while True:
        await asyncio.sleep(_spread(interval))
        sweep = method()
        if sweep is None:
            return
        try:
            await sweep()
        except Exception as error:  # noqa: BLE001 - whatever it was, the next sweep tries again
            log.error("the timed sweep failed: %s", str(error))  # not the error, whose traceback holds the store
        del sweep

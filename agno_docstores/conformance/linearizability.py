"""Whether what concurrent callers saw could have come about one call after the other.

A history is linearizable if each call can be given one instant between its beginning and its end, such that the calls,
done in the order of these instants on a plain object, give the answers that were seen. A count at the end tells only
that nothing was lost; a history tells also of an answer that was wrong when it was given.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from agno_docstores.io import run


@dataclass(frozen=True, slots=True)
class Call:
    """One call as its caller saw it. `began`, `ended`: seconds of a clock that all callers share; a call that was never
    answered has no end, and may have taken effect at any time, or never."""

    began: float
    ended: float
    operation: tuple[Any, ...]
    answer: Any = None

    @property
    def answered(self) -> bool:
        return self.ended != math.inf


#: The object that the callers share: its state after an operation that was answered so, or None where that answer is
#: wrong in this state. Of a call without an answer, the state that it makes.
Model = Callable[[Any, Call], Hashable | None]


class History:
    """What was called and answered. Threads and tasks may add to it at once."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    async def of(self, operation: tuple[Any, ...], call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Make a call, and note it with its answer; the answer."""
        began = time.perf_counter()
        answer = await call()
        self.calls.append(Call(began, time.perf_counter(), operation, answer))
        return answer


async def at_once(db: Any, workers: Sequence[Callable[[], Coroutine[Any, Any, None]]]) -> None:
    """Run workers concurrently: in a thread each over a sync store, whose methods never suspend, else as tasks."""
    if db.is_async:
        await asyncio.gather(*(worker() for worker in workers))
        return
    with ThreadPoolExecutor(len(workers)) as pool:
        for done in [pool.submit(lambda worker=worker: run(worker())) for worker in workers]:  # type: ignore[misc]
            done.result()


def order_of(calls: Sequence[Call], initial: Hashable, model: Model) -> list[Call] | None:
    """An order of the calls that explains their answers; None if there is none.

    The search of Wing and Gong: the first is one that began before any had ended; what was tried is not tried again.
    Its cost may be exponential in the number of calls at once, where answers say little about the order.
    """
    todo = (1 << len(calls)) - 1
    tried: set[tuple[int, Hashable]] = set()
    path: list[tuple[int, Hashable, list[int]]] = [(todo, initial, _first(calls, todo))]
    chosen: list[int] = []
    while path:
        todo, state, candidates = path[-1]
        if not any(todo >> i & 1 and call.answered for i, call in enumerate(calls)):
            return [calls[i] for i in chosen]
        while candidates:
            number = candidates.pop()
            after = model(state, calls[number])
            left = todo & ~(1 << number)
            if after is not None and (left, after) not in tried:
                tried.add((left, after))
                chosen.append(number)
                path.append((left, after, _first(calls, left)))
                break
        else:
            path.pop()
            if chosen:
                chosen.pop()
    return None


def _first(calls: Sequence[Call], todo: int) -> list[int]:
    """Those of the calls that may come first: no other had ended before they began."""
    open_calls = [i for i in range(len(calls)) if todo >> i & 1]
    earliest = min((calls[i].ended for i in open_calls), default=math.inf)
    # Popped from the end: the one that ended first is the likeliest.
    return sorted((i for i in open_calls if calls[i].began <= earliest), key=lambda i: -calls[i].ended)


def check_order(history: History, initial: Hashable, model: Model) -> None:
    """That there is such an order."""
    calls = sorted(history.calls, key=lambda call: call.began)
    shown = "\n".join(f"{call.began:.6f} to {call.ended:.6f}: {call.operation} -> {call.answer}" for call in calls)
    assert order_of(calls, initial, model) is not None, f"no order of these calls gives these answers:\n{shown}"

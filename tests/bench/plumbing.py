"""What facade, kernel and domain add to a call of the store: CPU per port operation, over the memory driver.

`python -m tests.bench.plumbing` prints it; `--profile` where the time goes. The driver's own work, which is inside the
gateway's calls, is taken off, and so is what Agno does with its own objects, which is told beside it. What it costs to
make JSON text of values is in it.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import time
from collections.abc import Callable
from typing import Any

from agno.db.base import SessionType
from agno.db.schemas.memory import UserMemory
from agno.db.utils import build_single_run_row, deserialize_run, deserialize_session

from agno_docstores import MemoryDocstore
from tests.bench.work import OWNER, run_of, session_of

TIMES, ROUNDS = 300, 7


class Watched:
    """A memory docstore, and what its gateway's calls come to."""

    def __init__(self) -> None:
        self.db = MemoryDocstore()
        self.calls = 0
        self.inside = 0.0
        invoke = self.db.io._invoke

        async def timed(fn: Any, args: Any, kwargs: Any) -> Any:
            started = time.thread_time()
            try:
                return await invoke(fn, args, kwargs)
            finally:
                self.inside += time.thread_time() - started
                self.calls += 1

        self.db.io._invoke = timed  # type: ignore[method-assign]

    def cost(self, act: Callable[[], Any], agnos: Callable[[], Any]) -> tuple[float, float, float]:
        """Port operations of an act, and for each of them the microseconds of plumbing, and those of what Agno does
        with its own objects: the least of some rounds, taken in turns."""
        plumbing, own = [], []
        for _ in range(ROUNDS):
            before = _cpu(agnos)
            self.calls, self.inside = 0, 0.0
            spent = _cpu(act) - self.inside
            own.append(before / self.calls * 1e6)
            plumbing.append((spent - before) / self.calls * 1e6)
        return self.calls / TIMES, min(plumbing), min(own)


def _cpu(act: Callable[[], Any]) -> float:
    started = time.thread_time()
    for _ in range(TIMES):
        act()
    return time.thread_time() - started


def acts(db: Any) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """What is measured, by name; and the part of it that is Agno's: its objects to dictionaries, and back."""
    bare, full, run = session_of("bare", session_data=None), session_of("full"), run_of("full", 0, 20)
    memory = UserMemory("likes bees", memory_id="m", user_id=OWNER)
    db.upsert_session(bare)
    db.upsert_session(full)
    db.upsert_run(run, "full", OWNER, 0)
    db.upsert_user_memory(memory)
    row = {name: db.get_session(name, SessionType.AGENT, deserialize=False) for name in ("bare", "full")}

    def to_session(name: str) -> Callable[[], Any]:
        return lambda: deserialize_session(SessionType.AGENT, dict(row[name]))

    return {
        "get_session": (lambda: db.get_session("bare", SessionType.AGENT), to_session("bare")),
        "get_session, as a row": (lambda: db.get_session("bare", SessionType.AGENT, deserialize=False), lambda: None),
        "get_session, 600 bytes and a run": (lambda: db.get_session("full", SessionType.AGENT), to_session("full")),
        "upsert_session": (
            lambda: db.upsert_session(bare),
            to_session("bare"),
        ),
        "upsert_session, 600 bytes": (
            lambda: db.upsert_session(full),
            lambda: deserialize_session(SessionType.AGENT, {**row["full"], "runs": None}),
        ),
        "upsert_run": (
            lambda: db.upsert_run(run, "full", OWNER, 0),
            lambda: build_single_run_row(run, "full", OWNER, 0),
        ),
        "get_run": (
            lambda: db.get_run(run.run_id),
            lambda: deserialize_run("agent", row["full"]["runs"][0]),
        ),
        "get_user_memory": (lambda: db.get_user_memory("m"), lambda: UserMemory.from_dict(memory.to_dict())),
        "upsert_user_memory": (lambda: db.upsert_user_memory(memory), memory.to_dict),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.plumbing", description=__doc__)
    parser.add_argument("--profile", metavar="ACT", help="profile this one instead")
    options = parser.parse_args(arguments)
    watched = Watched()
    for name, (act, agnos) in acts(watched.db).items():
        if options.profile is None:
            operations, spent, own = watched.cost(act, agnos)
            told = f"{spent:5.1f} us of plumbing, {own:5.1f} of Agno's"
            print(f"{name:35} {operations:3.0f} port operations, for each {told}")
        elif options.profile == name:
            profile = cProfile.Profile()
            profile.enable()
            for _ in range(3000):
                act()
            profile.disable()
            pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Whether what an operation costs depends on how much is stored: counts at 10, 1,000 and 100,000 sessions.

`python -m tests.bench.growth` does the same work on a memory store of each size, counts the requests of the gateway and
the records that come back, and prints a table and a chart. Each user has ten sessions, each agent those of as many
users as there are; what is listed is a page of 20.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agno.db.base import SessionType

from agno_docstores import MemoryDocstore
from agno_docstores.io import run
from agno_docstores.memory import MemoryStore
from agno_docstores.port import Put, Span
from agno_docstores.schema import HISTORIES
from agno_docstores.tallies import Bucket, today
from tests.bench.work import run_of, session_of

SIZES = (10, 1_000, 100_000)
SESSIONS_EACH = 10  # of one user
AGENTS = 5


@dataclass(frozen=True)
class Cost:
    requests: int
    records: int

    def __str__(self) -> str:
        return f"{self.requests}, {self.records}"


class Meter:
    """A memory docstore whose driver tells what it gives back."""

    def __init__(self, atomic: bool) -> None:
        self.records = 0
        self.store = MemoryStore(atomic=atomic)
        self.db = self.open()

    def open(self) -> Any:
        db = MemoryDocstore(store=self.store)
        driver = db._engine.driver
        for name in ("scan", "get", "get_many"):
            setattr(driver, name, self._counting(getattr(driver, name)))
        return db

    def _counting(self, method: Callable[..., Any]) -> Callable[..., Any]:
        async def counted(*args: Any) -> Any:
            answer = await method(*args)
            found = answer.records if hasattr(answer, "records") else answer if isinstance(answer, list) else [answer]
            self.records += sum(record is not None for record in found)
            return answer

        return counted

    def cost(self, act: Callable[[Any], Any], *, cold: bool = False) -> Cost:
        db = self.open() if cold else self.db
        self.records, before = 0, db.io.calls.total()
        act(db)
        return Cost(db.io.calls.total() - before, self.records)


def owner_of(number: int) -> str:
    return f"user-{number // SESSIONS_EACH}"


def fill(db: Any, sessions: int) -> None:
    """So many sessions of today with a run each, as they are when the metrics have counted them: nothing is marked, and
    each owner has a row."""
    for number in range(sessions):
        id, owner = f"s{number}", owner_of(number)
        session = session_of(id, number, user_id=owner, agent_id=f"agent-{number % AGENTS}", session_data={"n": number})
        db.upsert_session(session, deserialize=False)
        db.upsert_run({**RUN, "run_id": f"{id}-r0", "session_id": id, "user_id": owner}, id, owner, 0)
    kernel = db._engine.kernel
    now = kernel.now()
    marked = run(kernel.span(Span(HISTORIES.name, "uncounted", (True,))))
    writes = [Put(head.ref, {**head.fields, "uncounted": None}) for head in marked]
    for owner in sorted({owner_of(number) for number in range(sessions)}):
        row = {"metric_id": owner, "date": today(now), "user_id": owner, "open": True, "figures": "{}"}
        writes.append(Put(Bucket(today(now), owner).ref, {**row, "created_at": now, "updated_at": now}))
    assert run(kernel.write_many(writes)) == []


RUN = run_of("any", 0, 100).to_dict()


def works(sessions: int) -> dict[str, tuple[Callable[[Any], Any], bool]]:
    """What is done to session 1 of user 0, and whether by a new handle."""
    newest: dict[str, Any] = {
        "limit": 20,
        "page": 1,
        "sort_by": "created_at",
        "sort_order": "desc",
        "include_runs": False,
    }
    owner = owner_of(1)

    def one_turn(db: Any) -> None:
        session = db.get_session("s1", SessionType.AGENT, user_id=owner)
        number = len(session.runs)
        run = {**RUN, "run_id": f"s1-r{number}", "session_id": "s1", "user_id": owner}
        db.upsert_session(session)
        db.upsert_run(run, "s1", owner, number)

    return {
        "turn, cold": (one_turn, True),
        "another, which makes this handle warm": (one_turn, False),
        "turn, warm": (one_turn, False),
        "get_session(runs_limit=1), cold": (lambda db: db.get_session("s1", runs_limit=1), True),
        "get_run": (lambda db: db.get_run("s1-r0"), False),
        "20 sessions": (lambda db: db.get_sessions(**newest), False),
        "20 sessions of a user": (lambda db: db.get_sessions(user_id=owner, **newest), False),
        "20 sessions of an agent": (lambda db: db.get_sessions(component_id="agent-1", **newest), False),
        "get_metrics of a user, when something changed": (lambda db: db.get_metrics(user_id=owner), True),
        "get_metrics of a user, nothing new": (lambda db: db.get_metrics(user_id=owner), True),
        "calculate_metrics, nothing new: answers with a row of each owner": (lambda db: db.calculate_metrics(), False),
        "rename_session": (lambda db: db.rename_session("s1", SessionType.AGENT, "another"), False),
        "delete_session": (lambda db: db.delete_session(f"s{sessions - 1}"), False),
    }


def measured(sizes: tuple[int, ...], *, atomic: bool, tell: Callable[[str], None]) -> dict[str, list[Cost]]:
    """The cost of each work at each size."""
    found: dict[str, list[Cost]] = {}
    for sessions in sizes:
        meter = Meter(atomic)
        tell(f"{sessions} sessions")
        fill(meter.db, sessions)
        for name, (act, cold) in works(sessions).items():
            found.setdefault(name, []).append(meter.cost(act, cold=cold))
    del found["another, which makes this handle warm"]
    return found


def markdown(found: dict[str, list[Cost]], sizes: tuple[int, ...]) -> str:
    charted = {name: costs for name, costs in found.items() if "each owner" not in name}
    lines = [
        "| requests, records | " + " | ".join(f"{size:,} sessions" for size in sizes) + " |",
        "|---" * (len(sizes) + 1) + "|",
        *(f"| {name} | {' | '.join(map(str, costs))} |" for name, costs in found.items()),
        "",
        "```mermaid",
        "xychart-beta",
        '  title "records read, by the number of sessions"',
        f"  x-axis [{', '.join(f'{size:,}'.replace(',', ' ') for size in sizes)}]",
        f"  y-axis 0 --> {max(cost.records for costs in charted.values() for cost in costs) + 5}",
        *(f"  line [{', '.join(str(cost.records) for cost in costs)}]" for costs in charted.values()),
        "```",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.growth", description=__doc__)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="numbers of sessions")
    options = parser.parse_args(arguments)
    sizes = tuple(int(size) for size in options.sizes.split(","))
    started = time.monotonic()

    def tell(text: str) -> None:
        print(f"{time.monotonic() - started:6.0f} s  {text}", file=sys.stderr, flush=True)

    logging.getLogger("agno").setLevel(logging.CRITICAL)
    print(markdown(measured(sizes, atomic=True, tell=tell), sizes))
    return 0


if __name__ == "__main__":
    sys.exit(main())

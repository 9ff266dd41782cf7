"""Whether what an operation costs depends on how much is stored: counts at 10, 1,000 and 100,000 sessions.

`python -m tests.bench.growth` does the same work on a memory store of each size, counts the requests of the gateway and
the records that come back, and prints a table; `--page` writes it to a page of the docs, and the plot beside it. Each
user has ten sessions, each agent those of as many users as there are; what is listed is a page of 20.
"""

from __future__ import annotations

import argparse
import html
import logging
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agno.db.base import SessionType

from agno_docstores import MemoryDocstore
from agno_docstores.io import run
from agno_docstores.memory import MemoryStore
from agno_docstores.port import Put, Span
from agno_docstores.schema import HISTORIES
from agno_docstores.tallies import Bucket, today
from tests.bench.report import between_markers
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
        "calculate_metrics, nothing new; answers with a row of each owner": (lambda db: db.calculate_metrics(), False),
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
    lines = [
        "| requests, records read | " + " | ".join(f"{size:,} sessions" for size in sizes) + " |",
        "|---" * (len(sizes) + 1) + "|",
        *(f"| {name} | {' | '.join(map(str, costs))} |" for name, costs in found.items()),
    ]
    return "\n".join(lines) + "\n"


PLOT = "growth.svg"
LEFT, RIGHT, TOP, BOTTOM, WIDTH, LINE = 60, 380, 30, 330, 1000, 16  # of the plot, in pixels


def plot(found: dict[str, list[Cost]], sizes: tuple[int, ...]) -> str:
    """The records read, by the number of sessions, as SVG; both axes are logarithmic. Works that read the same are one
    line."""
    lines: dict[tuple[int, ...], list[str]] = {}
    for name, costs in found.items():
        lines.setdefault(tuple(cost.records for cost in costs), []).append(name)
    decades = max(1, math.ceil(math.log10(max(max(line) for line in lines))))

    def x(size: int) -> float:
        return LEFT + (RIGHT - LEFT) * math.log(size / sizes[0]) / math.log(sizes[-1] / sizes[0])

    def y(records: int) -> float:
        return BOTTOM - (BOTTOM - TOP) * math.log10(max(records, 1)) / decades

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {BOTTOM + 50}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{BOTTOM + 50}" fill="white"/>',
        f'<text x="{LEFT}" y="{TOP - 12}">records read</text>',
        f'<text x="{RIGHT}" y="{BOTTOM + 38}" text-anchor="end">sessions stored</text>',
    ]
    for tick in (10**n for n in range(decades + 1)):
        parts.append(f'<path d="M{LEFT} {y(tick):.1f}H{RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:,}</text>')
    for size in sizes:
        parts.append(f'<path d="M{x(size):.1f} {TOP}V{BOTTOM}" stroke="#ddd"/>')
        parts.append(f'<text x="{x(size):.1f}" y="{BOTTOM + 20}" text-anchor="middle">{size:,}</text>')
    lowest = BOTTOM + LINE  # where the label below stands; labels are moved up as far as they would meet
    for number, (line, names) in enumerate(sorted(lines.items(), key=lambda entry: entry[0][-1])):
        colour = f"hsl({number * 137 % 360},65%,38%)"
        points = " ".join(f"{x(size):.1f},{y(records):.1f}" for size, records in zip(sizes, line, strict=True))
        lowest = min(lowest - LINE, y(line[-1]))
        label = html.escape("; ".join(names))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{RIGHT + 8}" y="{lowest + 4:.1f}" fill="{colour}">{line[-1]:,}: {label}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.growth", description=__doc__)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="numbers of sessions")
    parser.add_argument(
        "--page", type=Path, help="write the table between the markers of this file, the plot beside it"
    )
    options = parser.parse_args(arguments)
    sizes = tuple(int(size) for size in options.sizes.split(","))
    started = time.monotonic()

    def tell(text: str) -> None:
        print(f"{time.monotonic() - started:6.0f} s  {text}", file=sys.stderr, flush=True)

    logging.getLogger("agno").setLevel(logging.CRITICAL)
    found = measured(sizes, atomic=True, tell=tell)
    text = markdown(found, sizes)
    print(text)
    if options.page:
        options.page.write_text(between_markers(options.page.read_text(), "growth", text))
        options.page.with_name(PLOT).write_text(plot(found, sizes))
    return 0


if __name__ == "__main__":
    sys.exit(main())

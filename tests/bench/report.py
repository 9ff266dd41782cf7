"""What was counted, as tables: both sides, our goals, and money."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from tests.bench.counting import Counts
from tests.bench.prices import PRICES, monthly
from tests.bench.sides import AGNO, FLOOR, OURS

#: By store, side and work.
Found = dict[str, dict[str, dict[str, Counts]]]
NAMES = {"mongo": "MongoDB", "dynamo": "DynamoDB", "firestore": "Firestore"}
BILLED = {"dynamo": "units read, written", "firestore": "billed reads, writes"}
#: What writes each part of a page of the docs.
PARTS = {
    "cost": "make bench ARGS='--page docs/cost.md'",
    "growth": "python -m tests.bench.growth --page docs/scale.md",
    "scale": "python -m tests.bench.scale --page docs/scale.md",
    "queue": "python -m tests.bench.scale --page docs/scale.md",
}
KB = 1024


def dump(found: Found) -> Any:
    return {
        s: {n: {w: c.to_dict() for w, c in rows.items()} for n, rows in sides.items()} for s, sides in found.items()
    }


def load(text: str) -> Found:
    def counts(raw: dict[str, Any]) -> Counts:
        return Counts(**{**raw, "requests": Counter(raw["requests"])})

    return {
        s: {n: {w: counts(c) for w, c in rows.items()} for n, rows in sides.items()}
        for s, sides in json.loads(text).items()
    }


def markers(part: str) -> tuple[str, str]:
    """The lines between which a page has a part."""
    return f"<!-- {part}: written by `{PARTS[part]}` -->\n", f"<!-- end of {part} -->\n"


def between_markers(page: str, part: str, text: str) -> str:
    """The page with the text as this part of it. Raises `ValueError` where it has no such part."""
    begin, end = markers(part)
    start, stop = page.index(begin) + len(begin), page.index(end)
    return f"{page[:start]}\n{text.strip()}\n\n{page[stop:]}"


def markdown(found: Found) -> str:
    """The tables. Each figure is ours, then Agno's own; times only as the quotient of the two."""
    parts = [
        _compared(store, found[store], found.get("sqlite", {}).get(FLOOR, {})) for store in NAMES if store in found
    ]
    parts += [_goals(found), _money(found)]
    return "\n".join(part for part in parts if part)


def requests_by_kind(found: Found) -> str:
    lines = []
    for store, sides in found.items():
        for side, rows in sides.items():
            for work, counts in rows.items():
                kinds = ", ".join(f"{count} {kind}" for kind, count in counts.requests.most_common())
                lines.append(f"{store:9} {side:5} {work:50} {kinds or '-'}")
    return "\n".join(lines)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _compared(store: str, sides: dict[str, dict[str, Counts]], floor: dict[str, Counts]) -> str:
    billed = BILLED.get(store)
    head = [f"{NAMES[store]}: ours / Agno's", "requests", "KB up", "KB down", "read", "written"]
    head += [*([billed] if billed else []), "CPU", "time", "SqliteDb's time"]
    rows = []
    ours, agno = sides[OURS], sides[AGNO]
    for work in dict.fromkeys((*ours, *agno)):
        a, b = ours.get(work), agno.get(work)
        if a is not None and b is not None and a.value is not None and b.value is not None and not a.requests:
            rows.append([f"{work}: {a.value:,.0f} / {b.value:,.0f}", *[""] * (len(head) - 1)])
            continue
        silent = a is not None and b is not None and not a.requests and not b.requests  # only its time was taken
        row = [work, *("-" if silent else _both(a, b, column) for column in COLUMNS)]
        failures = [f"{side}: {one.failure}" for side, one in ((OURS, a), ("Agno's", b)) if one and one.failure]
        if failures:
            row[1] += f" ({'; '.join(failures)})"
        if billed:
            row.append("-" if silent else _both(a, b, _units))
        row += [_ratio(a, b, "cpu"), _ratio(a, b, "seconds"), _ratio(floor.get(work), a, "seconds")]
        rows.append(row)
    return _table(head, rows)


COLUMNS: tuple[Callable[[Counts], str], ...] = (
    lambda counts: f"{counts.total:,}",
    lambda counts: _kb(counts.up),
    lambda counts: _kb(counts.down),
    lambda counts: f"{counts.read:,}",
    lambda counts: f"{counts.written:,}",
)


def _kb(size: int) -> str:
    return f"{size / KB:,.1f}" if size < 100 * KB else f"{size / KB:,.0f}"


def _units(counts: Counts) -> str:
    written = (counts.write_units or 0) + counts.deletes
    return f"{counts.read_units or 0:,.10g}, {'?' if math.isnan(written) else f'{written:,.10g}'}"


def _both(a: Counts | None, b: Counts | None, told: Callable[[Counts], str]) -> str:
    return " / ".join("-" if one is None or one.failure else told(one) for one in (a, b))


def _ratio(a: Counts | None, b: Counts | None, name: str) -> str:
    if a is None or b is None or a.failure or b.failure or not getattr(a, name) or not getattr(b, name):
        return "-"
    return f"{getattr(a, name) / getattr(b, name):.2f}"


# --- Goals ------------------------------------------------------------------------------------------------------------


def goals(found: Found) -> Iterator[tuple[str, str, str, bool]]:
    """Of each goal and store: what is wanted, what was counted, and whether that is met. Of what was not measured at
    its full size, nothing."""
    for store in [store for store in NAMES if store in found]:
        ours, agno = found[store][OURS], found[store][AGNO]
        short, warm = ours.get("turn, warm, 10 runs"), ours.get("turn, warm, 1000 runs")
        theirs = agno.get("turn, warm, 1000 runs")
        if short and warm and theirs:
            quotient = theirs.bytes / warm.bytes
            yield "warm turn at 1,000 runs: Agno's bytes >= 150 of ours", store, f"{quotient:.0f}", quotient >= 150
            told = f"{warm.total} against {theirs.total}"
            yield "warm turn: requests not more than Agno's", store, told, warm.total <= theirs.total
            same = short.total == warm.total and abs(warm.bytes - short.bytes) <= 0.1 * short.bytes
            told = f"{_kb(short.bytes)} KB at 10, {_kb(warm.bytes)} KB at 1,000"
            yield "warm turn: the same whatever the history", store, told, same
        cold, theirs = ours.get("turn, cold, 1000 runs"), agno.get("turn, cold, 1000 runs")
        if theirs and theirs.failure:  # it found no history; a warm turn of Agno's reads it, too
            theirs = agno["turn, warm, 1000 runs"]
        if cold and theirs:
            if store != "mongo":
                part = cold.bytes / theirs.bytes
                yield "cold turn at 1,000 runs: <= 1/3 of Agno's bytes", store, f"{part:.2f}", part <= 1 / 3
            told = f"{cold.total} against {theirs.total}"
            yield "cold turn: requests not more than Agno's", store, told, cold.total <= theirs.total
        for name in ("page 1", "by user", "by agent"):
            if one := ours.get(f"20 of 2000 sessions, {name}"):
                told = f"{one.total}, {_kb(one.bytes)} KB, {one.read}"
                met = one.total <= 3 and one.bytes <= 40 * KB and one.read <= 40
                yield f"20 of 2,000 sessions, {name}: <= 3 requests, 40 KB, 40 reads", store, told, met
        again = ours.get("metrics again, nothing new")
        if again and cold:
            yield "metrics again, nothing new: <= 5 requests", store, str(again.total), again.total <= 5
        if (one := ours.get("upsert_session, 1000 runs")) and one.client_cpu:
            part = one.whole_cpu / one.client_cpu
            yield "upsert_session: CPU <= 2 of the bare client call's", store, f"{part:.2f}", part <= 2
        run = ours.get("upsert_run of 5 KB")
        if store == "dynamo" and run and cold:
            units = run.write_units or 0
            yield "a run of 5 KB: <= 12 write units", store, f"{units:g}", units <= 12


def _goals(found: Found) -> str:
    rows = [[goal, NAMES[store], told, "yes" if met else "NO"] for goal, store, told, met in goals(found)]
    return _table(["goal", "store", "counted", "met"], rows) if rows else ""


# --- Money ------------------------------------------------------------------------------------------------------------


def _money(found: Found) -> str:
    rows = []
    for store in PRICES:
        if store not in found:
            continue
        for work in [work for work in found[store][OURS] if work.startswith("turn, ")]:
            row = [NAMES[store], work]
            for side in (OURS, AGNO):
                turn, kept = found[store][side].get(work), found[store][side].get("stored bytes of a run of 4 KB")
                if turn is None or turn.failure or kept is None:
                    row.append("-" if turn is None else turn.failure or "-")
                    continue
                operations, storage = monthly(store, turn, kept.value or 0)
                row.append("not told" if math.isnan(operations) else f"${operations:,.2f} + ${storage:,.2f}")
            rows.append(row)
    if not rows:
        return ""
    table = _table(["", "a million of these a month: operations + storage", "ours", "Agno's"], rows)
    notes = "; ".join(
        f"{price.what}, as published in {price.dated} ({price.source})"
        for store, price in PRICES.items()
        if store in found
    )
    return f"{table}\nPrices: {notes}.\n"

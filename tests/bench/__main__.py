"""`make bench`: measure, print, write. See `--help`."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench import report
from tests.bench.counting import Counts
from tests.bench.sides import AGNO, FLOOR, OURS, floor, servers, side
from tests.bench.work import SMALL, Bench, Sizes


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="make bench ARGS=...", description="Our classes beside Agno's own, as counts."
    )
    parser.add_argument("--small", action="store_true", help="few records, on embedded servers: that it works at all")
    parser.add_argument("--stores", default="mongo,dynamo,firestore", help="comma-separated: mongo,dynamo,firestore")
    parser.add_argument("--json", type=Path, help="write everything that was counted to this file")
    parser.add_argument("--kinds", action="store_true", help="tell the kinds of requests, too")
    parser.add_argument("--from-json", type=Path, help="measure nothing, tell of what --json wrote")
    parser.add_argument("--markdown", type=Path, help="write the tables to this file")
    parser.add_argument("--page", type=Path, help="write the tables between the markers of this file")
    options = parser.parse_args(arguments)

    def keep(found: report.Found) -> None:
        if options.json:
            options.json.write_text(json.dumps(report.dump(found), indent=1) + "\n")

    if options.from_json:
        found = report.load(options.from_json.read_text())
    else:
        sizes = SMALL if options.small else Sizes()
        found = measured(options.stores.split(","), sizes, strict=not options.small, keep=keep)
    text = report.markdown(found)
    print(text)
    if options.kinds:
        print(report.requests_by_kind(found))
    if options.markdown:
        options.markdown.write_text(text)
    if options.page:
        options.page.write_text(report.between_markers(options.page.read_text(), "cost", text))
    return 0


def measured(
    stores: list[str], sizes: Sizes, *, strict: bool, keep: Callable[[report.Found], None] = lambda found: None
) -> report.Found:
    """The counts by store, side and work. Tells on stderr how far it is; `keep` gets what there is, store by store."""
    # Agno's adapters log what they swallow; the table tells it by what is missing afterwards.
    logging.getLogger("agno").setLevel(logging.CRITICAL + 1)
    started = time.monotonic()

    def tell(text: str) -> None:
        print(f"{time.monotonic() - started:6.0f} s  {text}", file=sys.stderr, flush=True)

    found: report.Found = {}
    with floor() as sqlite:
        found["sqlite"] = {FLOOR: Bench(sqlite, sizes, lambda text: tell(f"sqlite, {text}")).measure()}
    for store, server in servers(strict=strict).items():
        if store not in stores:
            continue
        try:
            sides: dict[str, dict[str, Counts]] = {}
            for name in (OURS, AGNO):
                with side(store, name, server) as one:
                    sides[name] = Bench(one, sizes, lambda text, store=store: tell(f"{store}, {text}")).measure()
            found[store] = sides
            keep(found)
        finally:
            server.stop()
    return found


if __name__ == "__main__":
    sys.exit(main())

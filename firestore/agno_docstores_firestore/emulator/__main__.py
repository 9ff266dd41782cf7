"""Run the emulator by itself: `python -m agno_docstores_firestore.emulator --host-port 127.0.0.1:8080`."""

from __future__ import annotations

import argparse
import signal
import sys
import threading

from agno_docstores_firestore.emulator.service import FirestoreEmulator


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m agno_docstores_firestore.emulator", description=__doc__)
    parser.add_argument(
        "--host-port", default="127.0.0.1:8080", help="where to listen; port 0 takes a free one (default: %(default)s)"
    )
    parser.add_argument(
        "--composite-indexes",
        action="store_true",
        help="answer queries that need a composite index instead of refusing them",
    )
    arguments = parser.parse_args()
    stopped = threading.Event()
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, lambda *_: stopped.set())
    with FirestoreEmulator(arguments.host_port, composite_indexes=arguments.composite_indexes) as address:
        print(f"export FIRESTORE_EMULATOR_HOST={address}", flush=True)
        stopped.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())

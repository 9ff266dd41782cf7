"""What smaller encodings of runs would buy: `python -m tests.bench.encodings`.

Of two histories: runs of prose alone, as the bench has them, and runs as an agent of Agno's stores them, with its
instructions, the calls of a tool and what it said in them. For each, the compressed part of the text: of each run by
itself, with the session's first run as a dictionary (so that each can still be read and changed alone), and of several
runs together.
"""

from __future__ import annotations

import bz2
import lzma
import sys
import zlib
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from agno.agent import Agent
from agno.tools import tool

from agno_docstores import MemoryDocstore
from agno_docstores.codec import dumps
from agno_docstores.conformance.scripted import ScriptedModel
from tests.bench.work import run_of
from tests.meters import KB, prose

RUNS = 100
TOGETHER = (1, 5, 20, 100)
WINDOW = 32 * KB  # the longest dictionary of zlib

ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "zlib, level 6": lambda data: zlib.compress(data, 6),
    "bz2": bz2.compress,
    "lzma": lzma.compress,
}


def runs_of_prose() -> list[bytes]:
    return [dumps(run_of(f"r{number}", number, 4 * KB).to_dict()).encode() for number in range(RUNS)]


def runs_of_an_agent() -> list[bytes]:
    """Of an agent with 1 KB of instructions, which answers with 2 KB and looks something up in every third answer."""

    @tool
    def look_up(word: str) -> str:
        """Look a word up."""
        return prose(KB, int(word))

    answers = count()

    def script(messages: list[Any]) -> Any:
        number = next(answers)
        asks = messages[-1].role == "user" and number % 3 == 0
        return ("look_up", f'{{"word": "{number}"}}') if asks else prose(2 * KB, number)

    db = MemoryDocstore()
    agent = Agent(
        id="a",
        model=ScriptedModel(script=script),
        tools=[look_up],
        db=db,
        add_history_to_context=True,
        instructions=prose(KB, RUNS),
        telemetry=False,
    )
    for number in range(RUNS):
        agent.run(prose(300, 1000 + number), session_id="s", user_id="u")
    row: Any = db.get_session("s", deserialize=False)
    return [dumps(run).encode() for run in row["runs"]]


def with_dictionary(runs: Sequence[bytes]) -> float:
    def packed(run: bytes) -> int:
        compressor = zlib.compressobj(6, zdict=runs[0][-WINDOW:])
        return len(compressor.compress(run) + compressor.flush())

    return sum(map(packed, runs[1:])) / sum(map(len, runs[1:]))


def markdown(histories: dict[str, list[bytes]]) -> str:
    lines = [
        "| history | bytes of a run | encoding | " + " | ".join(f"{number} together" for number in TOGETHER) + " |",
        "|---" * (3 + len(TOGETHER)) + "|",
    ]
    for name, runs in histories.items():
        whole = sum(map(len, runs))
        for encoding, encode in ENCODINGS.items():
            parts = [
                sum(len(encode(b"".join(runs[start : start + size]))) for start in range(0, len(runs), size)) / whole
                for size in TOGETHER
            ]
            cells = " | ".join(f"{part:.2f}" for part in parts)
            lines.append(f"| {name} | {whole / len(runs):,.0f} | {encoding} | {cells} |")
        cells = " | ".join([f"{with_dictionary(runs):.2f}", *("-" for _ in TOGETHER[1:])])
        lines.append(f"| {name} | {whole / len(runs):,.0f} | zlib, the first run as dictionary | {cells} |")
    return "\n".join(lines)


def main() -> int:
    print(markdown({"prose": runs_of_prose(), "an agent's": runs_of_an_agent()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

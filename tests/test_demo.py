"""`make demo`, as a user runs it: two processes for each store and mode, and an exit code that means something."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from tests import demo


def test_the_demonstration_succeeds_and_shows_what_it_promises() -> None:
    done = subprocess.run([sys.executable, "-m", "tests.demo"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for title in demo.TITLES.values():
        assert f"As stored in {title}" in done.stdout
    assert done.stdout.count("all of it") == 6
    assert "Every store gave the same history." in done.stdout
    for outcome in (
        "hives = 2",
        "refused: {'session_state.hives': (3, 2)}",
        '"honey": "lavender"',
        '"season": "spring"',
        "Ada keeps bees (4 turns).",
        "none is due",
        "2 sessions",
        "None, 1 session",
        "1 session removed, 0 failures",
    ):
        assert outcome in done.stdout
    assert "refused: changed ('session_data.session_state.honey',)" in done.stdout


def test_it_fails_where_a_store_loses_history(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Nowhere:
        def start(self) -> str:
            return "nowhere"

        def stop(self) -> None:
            pass

    def forgetful(store: str, mode: str, address: str, part: str) -> dict[str, Any]:
        asked = list(demo.FIRST_PROCESS + demo.SECOND_PROCESS)
        lost = asked[1:] if (store, mode) == ("dynamo", "async") else asked
        return {
            "prompt": lost,
            "name": "Bees",
            "runs": len(lost),
            "requests": 1,
            "bytes": 1,
            "history": lost,
            "shown": [],
        }

    monkeypatch.setattr(demo, "servers", lambda: {name: Nowhere() for name in demo.TITLES})
    monkeypatch.setattr(demo, "run_child", forgetful)
    monkeypatch.setattr(demo, "stored", lambda store, address: {})
    assert demo.main() == 1
    assert "The stores differ." in capsys.readouterr().out

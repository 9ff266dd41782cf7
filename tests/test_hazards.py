"""The table of hazards names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "hazards.md"


def names_in(module: str) -> set[str]:
    sources = (ROOT / "agno_docstores" / "conformance" / f"{module}.py", ROOT / "tests" / f"test_{module}.py")
    texts = [source.read_text() for source in sources if source.exists()]
    return {name for text in texts for name in re.findall(r"^(?:async )?def (test_\w+)", text, re.MULTILINE)}


def test_every_hazard_names_tests_that_exist() -> None:
    rows = [line.split("|")[1:3] for line in TABLE.read_text().splitlines() if line.startswith("| ")]
    hazards = {hazard.strip(): re.findall(r"`(\w+)::(\w+)`", tests) for hazard, tests in rows if hazard != " hazard "}
    assert len(hazards) > 30
    assert [hazard for hazard, tests in hazards.items() if not tests] == []
    named = {test for tests in hazards.values() for test in tests}
    assert [f"{module}::{test}" for module, test in sorted(named) if test not in names_in(module)] == []

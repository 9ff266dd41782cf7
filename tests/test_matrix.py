"""The harness's own rules: nothing is green because it did not run, and an excuse has to stay true."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import CELLS, select

ROOT = Path(__file__).parent.parent


def run(*arguments: str, tmp_path: Path, **environment: str) -> tuple[int, str]:
    """A pytest run of its own: exit code and output."""
    command = [sys.executable, "-m", "pytest", "-n", "0", *arguments]
    variables = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", **environment}
    variables.pop("AGNO_DOCSTORES_REQUIRE_STRICT", None)
    variables.update(environment)
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def test_a_pattern_that_names_no_cell_is_an_error() -> None:
    with pytest.raises(ValueError, match="mongodb"):
        select(["mongodb-*"], "all", False)


def test_with_everything_required_no_cell_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    selected, left_out = select([], "all", True)
    assert selected == CELLS and left_out == {}


def test_a_requested_server_that_cannot_start_is_an_error(tmp_path: Path) -> None:
    code, said = run(
        "--cells=firestore-sync-google", "tests/test_conformance_identity.py", tmp_path=tmp_path, PATH=str(tmp_path)
    )
    assert code == 1
    assert "gcloud is not installed" in said and "passed" not in said.splitlines()[-1]


def test_a_cell_that_ran_nothing_fails_the_run(tmp_path: Path) -> None:
    code, said = run("--cells=memory-sync", "tests/test_surface.py", tmp_path=tmp_path)
    assert code == 1
    assert "cell memory-sync ran no test" in said


@pytest.mark.parametrize(
    ("gap", "complaint"),
    [
        (("memory-sync", "identity::test_closing_is_idempotent"), "XPASS(strict)"),
        (("sqlite-sync", "sessions::test_the_search_by_name_sees_names_only"), ""),
    ],
)
def test_a_gap_that_passes_fails_the_run(tmp_path: Path, gap: tuple[str, str], complaint: str) -> None:
    plugin = f"from tests import known_gaps\nknown_gaps.GAPS[{gap!r}] = 'said to fail'\n"
    (tmp_path / "one_more_gap.py").write_text(plugin)
    module, test = gap[1].split("::")
    code, said = run(
        "-p", "one_more_gap", f"--cells={gap[0]}", f"tests/test_conformance_{module}.py::{test}", tmp_path=tmp_path
    )
    assert code == (1 if complaint else 0), said
    assert complaint in said


def test_a_skip_within_the_matrix_fails_the_run(tmp_path: Path) -> None:
    plugin = (
        "import pytest\n\n@pytest.hookimpl(tryfirst=True)\ndef pytest_runtest_setup(item):\n"
        "    if 'closing' in item.name:\n        pytest.skip('no server')\n"
    )
    (tmp_path / "without_server.py").write_text(plugin)
    code, said = run(
        "-p", "without_server", "--cells=memory-sync", "tests/test_conformance_identity.py", tmp_path=tmp_path
    )
    assert code == 1, said

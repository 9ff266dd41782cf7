"""A user's type checker understands our classes; ours understands us. (`make check` has pyright do the same.)"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def mypy(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "mypy", *arguments], cwd=ROOT, capture_output=True, text=True)


def test_everything_passes_mypy_strict() -> None:
    """The consumer's file among it: which files, and how strictly, pyproject.toml says."""
    done = mypy()
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_wrong_use_is_refused(tmp_path: Path) -> None:
    """The checker is not fed with `Any`: what a user gets wrong, he is told."""
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "from agno_docstores_mongo import AsyncMongoDocstore, MongoDocstore\n"
        "MongoDocstore(db_url='', session_tabel='x')\n"
        "MongoDocstore(db_url='').get_session(session_id=1)\n"
        "MongoDocstore(db_url='').delete_session('s', unknown=1)\n"
        "async def use() -> bool:\n"
        "    return AsyncMongoDocstore(db_url='').delete_session('s')\n"
    )
    said = mypy("--strict", str(wrong)).stdout
    assert [int(line.split(":")[1]) for line in said.splitlines() if ": error:" in line] == [2, 3, 4, 6], said

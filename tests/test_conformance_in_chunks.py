"""The contract of sessions, runs and memories where hardly any body fits into one record."""

from __future__ import annotations

from typing import Any

import pytest

from agno_docstores.conformance.memories import *  # noqa: F403
from agno_docstores.conformance.runs import *  # noqa: F403
from agno_docstores.conformance.sessions import *  # noqa: F403

pytestmark = pytest.mark.cells("memory-sync", "memory-async-standalone")


@pytest.fixture(autouse=True)
def tiny_records(cell: Any, storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest takes more than this: what is in chunks is told by the others."""
    cell.server.store(storage).item_limit = 80
    monkeypatch.setattr("agno_docstores.memory.MemoryDriver._check_size", lambda self, write: None)

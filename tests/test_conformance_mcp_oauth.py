import pytest

from agno_docstores.conformance.mcp_oauth import *  # noqa: F403

# Sync stores only: Agno's async class has no such methods.
pytestmark = pytest.mark.cells("*-sync*")

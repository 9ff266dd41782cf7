import pytest

from agno_docstores.conformance.components import *  # noqa: F403

# Sync stores only: Agno's async class has plain functions in their place, which raise.
pytestmark = pytest.mark.cells("*-sync*")

import pytest

from agno_docstores.conformance.summaries import *  # noqa: F403
from tests.harness import OF_OURS

# Not on the oracle: it has no such methods.
pytestmark = pytest.mark.cells(*OF_OURS)

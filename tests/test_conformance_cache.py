import pytest

from agno_docstores.conformance.cache import *  # noqa: F403
from tests.harness import OF_OURS

# Not on the oracle: it has no such thing.
pytestmark = pytest.mark.cells(*OF_OURS)

import pytest

from agno_docstores.conformance.domains import *  # noqa: F403
from tests.harness import OF_A_DOMAIN

# Agno's tracing works on event loops of its own, which Motor's client does not.
pytestmark = pytest.mark.cells(*OF_A_DOMAIN, "mongo-motor-*")

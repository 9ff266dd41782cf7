import pytest

from agno_docstores.conformance.metrics import *  # noqa: F403
from tests.harness import OF_A_DOMAIN

pytestmark = pytest.mark.cells(*OF_A_DOMAIN)

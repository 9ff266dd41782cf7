import pytest

from agno_docstores.conformance.tool_results import *  # noqa: F403
from tests.harness import OF_A_DOMAIN

pytestmark = pytest.mark.cells(*OF_A_DOMAIN)

import pytest

from agno_docstores.conformance.lifetimes import *  # noqa: F403

# Not on the oracle: it has no such methods.
pytestmark = pytest.mark.cells("memory-*", "mongo-*", "dynamo-*", "firestore-*")

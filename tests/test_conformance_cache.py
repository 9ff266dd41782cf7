import pytest

from agno_docstores.conformance.cache import *  # noqa: F403

# Not on the oracle: it has no such thing.
pytestmark = pytest.mark.cells("memory-*", "mongo-*", "dynamo-*", "firestore-*")

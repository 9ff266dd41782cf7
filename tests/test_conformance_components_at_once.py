import pytest

from agno_docstores.conformance.components_at_once import *  # noqa: F403

# Sync stores only, and not on the oracle, as with all that has many writers.
pytestmark = pytest.mark.cells("memory-sync*", "mongo-sync*", "dynamo-sync*", "firestore-sync*")

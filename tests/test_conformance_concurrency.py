import pytest

from agno_docstores.conformance.concurrency import *  # noqa: F403

# Not on the oracle: SQLite answers many writers with "database is locked", or creates a table twice, as it happens.
pytestmark = pytest.mark.cells("memory-*", "mongo-*", "dynamo-*", "firestore-*")

import pytest

from agno_docstores.conformance.jobs import *  # noqa: F403

# Not on the oracle: SqliteDb has no queue. Agno's own InMemoryQueueStore takes its place in test_jobs.
pytestmark = pytest.mark.cells("memory-*", "mongo-*", "dynamo-*", "firestore-*")

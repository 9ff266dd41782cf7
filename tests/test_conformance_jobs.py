import pytest

from agno_docstores.conformance.jobs import *  # noqa: F403

# Not on the oracle: SqliteDb has no queue; Agno's own InMemoryQueueStore takes its place in test_jobs. Of
# DynamoDB, whose stand-ins are the slowest, each client once, and both servers.
pytestmark = pytest.mark.cells(
    "memory-*", "mongo-*", "dynamo-sync-moto", "dynamo-async-local", "dynamo-threads-local", "firestore-*"
)

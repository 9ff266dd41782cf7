"""A company in AgentOS on every store."""

import pytest

from agno_docstores.conformance.agentos_company import *  # noqa: F403

# As AgentOS else, and a MongoDB that has transactions also for the sync class.
pytestmark = pytest.mark.cells(
    "memory-sync", "memory-async", "mongo-sync-standalone", "mongo-sync-secantus", "mongo-async-secantus",
    "dynamo-sync-local", "dynamo-async-local", "dynamo-async-moto", "firestore-sync-google",
    "firestore-async-embedded", "sqlite-*",
)  # fmt: skip

"""The queue of AgentOS on every store."""

import pytest

from agno_docstores.conformance.agentos_queue import *  # noqa: F403

pytestmark = pytest.mark.cells(
    "memory-sync", "memory-async", "mongo-sync-standalone", "mongo-async-secantus", "dynamo-sync-local",
    "dynamo-async-local", "dynamo-async-moto", "firestore-sync-google", "firestore-async-embedded", "sqlite-*",
)  # fmt: skip

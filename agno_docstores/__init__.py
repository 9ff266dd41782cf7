"""Document stores for Agno agents, teams and workflows: MongoDB, DynamoDB, Firestore, and memory.

The stores live in distributions of their own (`agno_docstores_mongo`, `agno_docstores_dynamo`,
`agno_docstores_firestore`); here are the errors that all of them raise, and the memory store.
"""

from agno_docstores.errors import (
    ContentionError,
    CorruptRecordError,
    DocstoreError,
    InvalidIdError,
    OwnershipError,
    PayloadTooLargeError,
    ProvisioningError,
    SessionConflictError,
    SessionNotFoundError,
    SnapshotError,
    StateConditionError,
    StoreError,
    StoreUnavailableError,
    UnserializableValueError,
    UnsupportedTopologyError,
)
from agno_docstores.facade import CacheStats, PurgeReport, SweepReport
from agno_docstores.memory import AsyncMemoryDocstore, MemoryDocstore, MemoryStore
from agno_docstores.merging import MISSING
from agno_docstores.options import SessionConfig
from agno_docstores.persistence import JsonFile
from agno_docstores.summaries import SummaryPolicy, summary_hook

__version__ = "0.1.0"

__all__ = [
    "MISSING",
    "AsyncMemoryDocstore",
    "CacheStats",
    "ContentionError",
    "CorruptRecordError",
    "DocstoreError",
    "InvalidIdError",
    "JsonFile",
    "MemoryDocstore",
    "MemoryStore",
    "OwnershipError",
    "PayloadTooLargeError",
    "ProvisioningError",
    "PurgeReport",
    "SessionConfig",
    "SessionConflictError",
    "SessionNotFoundError",
    "SnapshotError",
    "StateConditionError",
    "StoreError",
    "StoreUnavailableError",
    "SummaryPolicy",
    "SweepReport",
    "UnserializableValueError",
    "UnsupportedTopologyError",
    "summary_hook",
]

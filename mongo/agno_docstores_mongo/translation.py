"""What PyMongo's errors mean to us: one table by class and server code.

Invariants: no message holds a credential or a stored value (a duplicate key's message does, so it is dropped); whether
a write may have taken effect is answered by "it may" unless the server or the driver said that it did not.
"""

from __future__ import annotations

import re

from bson.errors import BSONError
from pymongo.errors import (
    BulkWriteError,
    ConnectionFailure,
    DocumentTooLarge,
    DuplicateKeyError,
    ExecutionTimeout,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
    WriteConcernError,
    WTimeoutError,
)

from agno_docstores.errors import Conflict, DocstoreError, PayloadTooLargeError, StoreError, StoreUnavailableError
from agno_docstores_mongo.layout import ITEM_LIMIT

#: Server codes by what they mean for the caller.
DUPLICATE = frozenset({11000, 11001, 12582})
#: Another writer, or the end of a transaction, came in between; nothing was applied.
RACES = frozenset({112, 225, 244, 246, 251})  # WriteConflict, TransactionTooOld/Aborted, SnapshotUnavailable, NoSuch-
TOO_LARGE = frozenset({10334, 17419, 17420})
#: Refused before anything was done: not the primary, throttled (16500: Cosmos DB), locked, cursor gone.
REFUSED_FOR_NOW = frozenset({10058, 10107, 13435, 13436, 16500, 24, 46, 43, 134})
#: Interrupted: may have been done.
INTERRUPTED = frozenset({6, 7, 50, 89, 91, 189, 262, 9001, 11600, 11602, 64})
NOT_AUTHORIZED = frozenset({13, 18, 8000})

#: Operations that change nothing, by the names that the driver gives them.
READS = frozenset({"find", "find_one", "count_documents", "list_indexes", "list_collection_names", "hello"})
_REASON = 400  # characters of a server's explanation that are passed on


def translate(address: str, operation: str, error: Exception) -> Exception | None:
    """Our error for one that a client's call raised; None for what is not the client's (it passes as it is)."""
    if isinstance(error, DocstoreError | BulkWriteError):
        return None  # a bulk write's failures are looked at one by one, by whoever sent it
    if isinstance(error, DocumentTooLarge):
        return PayloadTooLargeError("document", "", _size(str(error)), ITEM_LIMIT)
    if isinstance(error, ServerSelectionTimeoutError):
        # PyMongo raises the first failure instead where a retry of its own could not find a server.
        return _unavailable(operation, address, error, maybe_applied=False, retryable=False)
    if isinstance(error, WaitQueueTimeoutError):
        return _unavailable(operation, address, error, maybe_applied=False)
    if isinstance(error, WTimeoutError | WriteConcernError):
        # On the primary, but not confirmed by as many as were asked for; sending it again does not change that.
        return _unavailable(operation, address, error, maybe_applied=True, retryable=False)
    if isinstance(error, NotPrimaryError):
        code = (error.details or {}).get("code") if isinstance(error.details, dict) else None
        return _unavailable(operation, address, error, maybe_applied=code not in REFUSED_FOR_NOW)
    if isinstance(error, OperationFailure | DuplicateKeyError):
        return of_code(address, operation, error.code or 0, error)
    if isinstance(error, ConnectionFailure):
        return _unavailable(operation, address, error, maybe_applied=True)
    if isinstance(error, PyMongoError | BSONError):
        return StoreError(operation, address, _reason(error))
    return None


def of_code(address: str, operation: str, code: int, error: Exception) -> DocstoreError:
    """Our error for a refusal with a server's code."""
    if isinstance(error, DuplicateKeyError) or code in DUPLICATE or code in RACES:
        return Conflict()
    if code in TOO_LARGE:
        return PayloadTooLargeError("document", "", _size(str(error)), ITEM_LIMIT)
    if code in REFUSED_FOR_NOW:
        return _unavailable(operation, address, error, maybe_applied=False)
    labels = error if isinstance(error, PyMongoError) else PyMongoError()
    if labels.has_error_label("UnknownTransactionCommitResult"):
        return _unavailable(operation, address, error, maybe_applied=True)
    if labels.has_error_label("TransientTransactionError"):
        return Conflict()
    if code in INTERRUPTED or isinstance(error, ExecutionTimeout) or labels.has_error_label("RetryableWriteError"):
        return _unavailable(operation, address, error, maybe_applied=True)
    return StoreError(operation, address, _reason(error))


def is_unauthorized(error: StoreError) -> bool:
    """Whether the server refused for want of a right."""
    cause = error.__cause__
    return isinstance(cause, OperationFailure) and cause.code in NOT_AUTHORIZED


def _unavailable(
    operation: str, address: str, error: Exception, *, maybe_applied: bool, retryable: bool = True
) -> StoreUnavailableError:
    applied = maybe_applied and operation not in READS
    return StoreUnavailableError(operation, address, _reason(error), maybe_applied=applied, retryable=retryable)


def _reason(error: Exception) -> str:
    """The server's own words, with its code, shortened; of a topology error, without the dump of the topology."""
    if isinstance(error, OperationFailure):
        details = error.details if isinstance(error.details, dict) else {}
        text = str(details.get("errmsg") or error).partition(", full error:")[0]
        text = f"{details.get('codeName') or 'code'} ({error.code}): {text}" if error.code else text
    else:
        text = str(error).partition(", Topology Description:")[0] or type(error).__name__
    return text if len(text) <= _REASON else text[:_REASON] + "..."


def _size(text: str) -> int:
    """The size that an error about a document too large names; else, that it is above the limit."""
    found = [int(number) for number in re.findall(r"\d{7,}", text)]
    return max(found, default=ITEM_LIMIT + 1)

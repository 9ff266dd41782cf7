"""Documents, their versions, and the commits and transactions that make them.

Invariants
- One lock, one clock: commits are serial, and every commit and every read has its own microsecond, so a read's time
  tells exactly which commits it has seen and `update_time` alone identifies a version.
- A version is never changed once it is in the store; readers get the stored message and must not write to it.
- A write that leaves a document as it was makes no version: `update_time` stays, as the API documents.
- A commit applies all of its writes or none. BatchWrite is the service's loop over commits.
- Transactions are optimistic: the first read fixes the snapshot that all reads of the transaction see; a commit
  answers ABORTED if a document read, or the result of a query run, has changed since. Nothing ever waits for a lock.
- Past versions live as long as a reader may ask for them: VERSION_RETENTION, or the oldest open transaction.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from google.cloud.firestore_v1 import types

from agno_docstores_firestore.emulator import values
from agno_docstores_firestore.emulator.values import Document, Key, Path, Refused, Value, invalid

TRANSACTION_LIFETIME: Final = 270.0
TRANSACTION_IDLE: Final = 60.0
VERSION_RETENTION: Final = 60_000_000
"""Microseconds. The service keeps an hour; an embedded store that holds all in memory keeps a minute."""

Ids = tuple[str, ...]
WriteResult: Any = types.WriteResult.pb()
_SERVER_VALUE = types.DocumentTransform.FieldTransform.ServerValue


def set_micros(timestamp: Any, micros: int) -> None:
    """Fill a protobuf timestamp."""
    timestamp.seconds, rest = divmod(micros, 1_000_000)
    timestamp.nanos = rest * 1_000


def to_micros(timestamp: Any) -> int:
    """Read a protobuf timestamp."""
    return int(timestamp.seconds) * 1_000_000 + int(timestamp.nanos) // 1_000


class Version:
    """A document as one commit left it; `document` is None where the commit deleted it."""

    __slots__ = ("_keys", "document", "ids", "name_key", "time")

    def __init__(self, ids: Ids, time: int, document: Any | None) -> None:
        self.ids = ids
        self.time = time
        self.document = document
        self.name_key: Key = values.name_key(ids)
        self._keys: dict[Path, Key | None] = {}

    def key(self, path: Path) -> Key | None:
        """The order key of the field at a path, or of the name; None if there is no such field."""
        if path == ("__name__",):
            return self.name_key
        if path not in self._keys:
            value = None if self.document is None else values.value_at(self.document.fields, path)
            self._keys[path] = None if value is None else values.order_key(value)
        return self._keys[path]


@dataclass
class Transaction:
    """What an open transaction has read so far."""

    id: bytes
    database: str
    read_only: bool
    snapshot: int | None
    started: float
    used: float
    documents: set[Ids] = field(default_factory=set)
    queries: list[tuple[Callable[[], Hashable], Hashable]] = field(default_factory=list)

    def watch(self, run: Callable[[], Hashable], seen: Hashable) -> None:
        """Remember what a query gave; `run` gives what it would give now."""
        self.queries.append((run, seen))


@dataclass(frozen=True)
class Write:
    """One write of a commit, checked: all but its precondition and the size of its result is known to be right."""

    ids: Ids
    delete: bool
    fields: Any | None
    mask: tuple[Path, ...] | None
    transforms: tuple[tuple[Path, Any], ...]
    exists: bool | None
    update_time: int | None


def check_write(message: Any, database: str) -> Write:
    """A write as the API sends it, checked against the limits and the grammar; INVALID_ARGUMENT where it fails."""
    operation = message.WhichOneof("operation")
    match operation:
        case "update":
            name = message.update.name
        case "delete":
            name = message.delete
        case "transform":
            name = message.transform.document
        case _:
            raise invalid("empty write operation")
    of, ids = values.split_name(name)
    if of != database:
        raise invalid(f'Document name "{name}" is not in the database "{database}".')

    fields: Any | None = None
    mask: tuple[Path, ...] | None = None
    sent: Iterable[Any] = message.update_transforms
    if operation == "update":
        values.admit_fields(message.update.fields)
        fields = message.update.fields
        if message.HasField("update_mask"):
            mask = tuple(values.parse_path(path) for path in message.update_mask.field_paths)
    elif operation == "transform":
        mask = ()
        sent = message.transform.field_transforms
        if not sent:
            raise invalid("The list of FieldTransform must not be empty.")
    transforms = tuple((_transform_path(one.field_path), _check_transform(one)) for one in sent)
    if operation == "delete" and transforms:
        raise invalid("A delete cannot have transforms.")

    condition = message.current_document.WhichOneof("condition_type")
    return Write(
        ids=ids,
        delete=operation == "delete",
        fields=fields,
        mask=mask,
        transforms=transforms,
        exists=message.current_document.exists if condition == "exists" else None,
        update_time=to_micros(message.current_document.update_time) if condition == "update_time" else None,
    )


def _transform_path(text: str) -> Path:
    path = values.parse_path(text)
    for name in path:
        values.check_field_name(name)
    return path


def _check_transform(transform: Any) -> Any:
    match kind := transform.WhichOneof("transform_type"):
        case "set_to_server_value":
            if transform.set_to_server_value != _SERVER_VALUE.REQUEST_TIME:
                raise invalid("Unknown server value.")
        case "increment" | "maximum" | "minimum":
            operand = getattr(transform, kind)
            if operand.WhichOneof("value_type") not in ("integer_value", "double_value"):
                raise invalid("Input must be int64 or double.")
        case "append_missing_elements" | "remove_all_from_array":
            elements = Document(name="")
            elements.fields["values"].array_value.CopyFrom(getattr(transform, kind))
            values.admit_fields(elements.fields)
        case _:
            raise invalid("Operation type must be specified for field transformation.")
    return transform


class Store:
    """Every database of an emulator, by name (`projects/P/databases/D`); a database is made by being named."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._clock = 0
        # database -> collection path -> document id -> versions, oldest first
        self._databases: dict[str, dict[Ids, dict[str, list[Version]]]] = {}
        self._superseded: deque[tuple[int, str, Ids]] = deque()
        self._open: dict[bytes, Transaction] = {}
        self._nonce = os.urandom(4)
        self._issued = 0

    def clear(self) -> None:
        """Forget every document and close every transaction."""
        with self.lock:
            self._databases.clear()
            self._superseded.clear()
            self._open.clear()

    def tick(self) -> int:
        """A microsecond that no commit and no read has had before."""
        with self.lock:
            self._clock = max(time.time_ns() // 1_000, self._clock + 1)
            return self._clock

    # --- reading -----------------------------------------------------------------------------------------------------

    def version(self, database: str, ids: Ids, at: int | None = None) -> Version | None:
        """The live version of a document now or at a moment; None where there was no document."""
        with self.lock:
            versions = self._databases.get(database, {}).get(ids[:-1], {}).get(ids[-1], ())
            return _live(versions, at)

    def collection(self, database: str, path: Ids, at: int | None = None) -> Iterator[Version]:
        """The live versions of one collection, in no order. The caller holds the lock."""
        for versions in self._databases.get(database, {}).get(path, {}).values():
            version = _live(versions, at)
            if version is not None:
                yield version

    def collections(self, database: str, parent: Ids) -> list[Ids]:
        """The paths of all collections below a document or the root, at any depth. The caller holds the lock."""
        return [path for path in self._databases.get(database, {}) if path[: len(parent)] == parent]

    # --- transactions ------------------------------------------------------------------------------------------------

    def begin(self, database: str, options: Any) -> Transaction:
        """Open a transaction as TransactionOptions asks (read-write where it asks nothing)."""
        read_only = options.WhichOneof("mode") == "read_only"
        with self.lock:
            retried = options.read_write.retry_transaction
            if retried and not self._was_issued(retried):
                raise invalid("Invalid transaction.")
            snapshot = None
            if read_only and options.read_only.HasField("read_time"):
                snapshot = self.check_read_time(options.read_only.read_time)
            self._issued += 1
            now = time.monotonic()
            opened = Transaction(
                id=self._nonce + self._issued.to_bytes(8, "big"),
                database=database,
                read_only=read_only,
                snapshot=snapshot,
                started=now,
                used=now,
            )
            self._open[opened.id] = opened
            return opened

    def _was_issued(self, id: bytes) -> bool:
        return id[:4] == self._nonce and len(id) == 12 and 0 < int.from_bytes(id[4:], "big") <= self._issued

    def transaction(self, database: str, id: bytes) -> Transaction:
        """The open transaction of that id; INVALID_ARGUMENT if it is unknown, closed or expired."""
        with self.lock:
            if not self._was_issued(id):
                raise invalid("Invalid transaction.")
            now = time.monotonic()
            found = self._open.get(id)
            if found is None or found.database != database:
                raise invalid("Transaction is invalid or closed.")
            if _expired(found, now):
                del self._open[id]
                raise invalid("The referenced transaction has expired or is no longer valid.")
            found.used = now
            return found

    def rollback(self, database: str, id: bytes) -> None:
        """Close a transaction; one that is closed already is left so."""
        with self.lock:
            if not self._was_issued(id):
                raise invalid("Invalid transaction.")
            found = self._open.get(id)
            if found is not None and found.database == database:
                del self._open[id]

    def snapshot(self, transaction: Transaction) -> int:
        """The moment that all reads of the transaction see: that of its first read."""
        with self.lock:
            if transaction.snapshot is None:
                transaction.snapshot = self.tick()
            return transaction.snapshot

    def check_read_time(self, timestamp: Any) -> int:
        """A moment that a caller wants to read at, within what is kept."""
        with self.lock:
            moment, now = to_micros(timestamp), self.tick()
            if moment > now:
                raise invalid("The requested 'read_time' cannot be in the future.")
            if moment < now - VERSION_RETENTION:
                raise Refused(grpc.StatusCode.FAILED_PRECONDITION, "The requested snapshot version is too old.")
            return moment

    # --- writing -----------------------------------------------------------------------------------------------------

    def commit(self, database: str, writes: Iterable[Write], transaction: bytes = b"") -> tuple[list[Any], int]:
        """Apply the writes in order, all or none; returns (a WriteResult for each, the commit's time).

        ABORTED: what the transaction read has changed. ALREADY_EXISTS, NOT_FOUND, FAILED_PRECONDITION: a precondition
        does not hold. INVALID_ARGUMENT: a resulting document is over a limit. All of these close the transaction.
        """
        writes = list(writes)
        with self.lock:
            if transaction:
                opened = self.transaction(database, transaction)
                if opened.read_only and writes:
                    raise invalid("Cannot modify entities in a read-only transaction.")
                del self._open[transaction]
                if not opened.read_only:
                    self._check_unchanged(opened)
            moment = self.tick()
            pending = _Pending(self, database, moment)
            results = [pending.apply(write) for write in writes]
            for result, write in zip(results, writes, strict=True):
                # Several writes to one document report what the commit left: nothing if that is no document.
                left = pending.after(write.ids)
                if left is not None:
                    set_micros(result.update_time, left.time)
            for version in pending.changed():
                self._keep(database, version)
            self._prune(moment)
            return results, moment

    def _check_unchanged(self, opened: Transaction) -> None:
        if opened.snapshot is None:
            return
        changed = any(self._changed_since(opened.database, ids, opened.snapshot) for ids in opened.documents)
        if changed or any(run() != seen for run, seen in opened.queries):
            raise Refused(grpc.StatusCode.ABORTED, "Too much contention on these documents. Please try again.")

    def _changed_since(self, database: str, ids: Ids, moment: int) -> bool:
        versions = self._databases.get(database, {}).get(ids[:-1], {}).get(ids[-1])
        return versions is not None and versions[-1].time > moment

    def _keep(self, database: str, version: Version) -> None:
        documents = self._databases.setdefault(database, {}).setdefault(version.ids[:-1], {})
        versions = documents.setdefault(version.ids[-1], [])
        versions.append(version)
        if len(versions) > 1 or version.document is None:
            self._superseded.append((version.time, database, version.ids))

    def _prune(self, now: int) -> None:
        """Let go of versions that no reader may ask for any more."""
        alive = time.monotonic()
        for expired in [one.id for one in self._open.values() if _expired(one, alive)]:
            del self._open[expired]
        oldest = min((one.snapshot for one in self._open.values() if one.snapshot is not None), default=now)
        keep_from = min(oldest, now - VERSION_RETENTION)
        while self._superseded and self._superseded[0][0] <= keep_from:
            _, database, ids = self._superseded.popleft()
            collections = self._databases.get(database, {})
            documents = collections.get(ids[:-1], {})
            versions = documents.get(ids[-1])
            if versions is None:
                continue
            # The newest version at or before keep_from is the one that a reader at keep_from sees.
            seen = max((i for i, one in enumerate(versions) if one.time <= keep_from), default=0)
            del versions[:seen]
            if len(versions) == 1 and versions[0].document is None and versions[0].time <= keep_from:
                del documents[ids[-1]]
                if not documents:
                    del collections[ids[:-1]]


def _live(versions: Sequence[Version], at: int | None) -> Version | None:
    for version in reversed(versions):
        if at is None or version.time <= at:
            return version if version.document is not None else None
    return None


def _expired(transaction: Transaction, now: float) -> bool:
    return now - transaction.started > TRANSACTION_LIFETIME or now - transaction.used > TRANSACTION_IDLE


class _Pending:
    """The documents of one commit while its writes are applied one after the other."""

    def __init__(self, store: Store, database: str, moment: int) -> None:
        self._store = store
        self._database = database
        self._moment = moment
        self._before: dict[Ids, Version | None] = {}
        self._after: dict[Ids, Version | None] = {}
        self._transforms: dict[Ids, int] = {}

    def after(self, ids: Ids) -> Version | None:
        return self._after[ids]

    def changed(self) -> Iterator[Version]:
        """The new versions, in no order; a document that the commit made and deleted again leaves none."""
        for ids, after in self._after.items():
            before = self._before[ids]
            if after is None and before is not None:
                yield Version(ids, self._moment, None)
            elif after is not None and after is not before:
                yield after

    def apply(self, write: Write) -> Any:
        """Apply one write; returns its WriteResult, without the update time that only the whole commit decides."""
        ids = write.ids
        first = ids not in self._after
        if first:
            self._before[ids] = self._after[ids] = self._store.version(self._database, ids)
        current = self._after[ids]
        deleted_here = not first and current is None
        self._check_precondition(write, current, deleted_here)
        result = WriteResult()
        if write.delete:
            self._after[ids] = None
            return result

        name = f"{self._database}/documents/{'/'.join(ids)}"
        document = Document(name=name)
        if write.mask is None:
            document.fields.MergeFrom(write.fields)
        else:
            if current is not None:
                document.CopyFrom(current.document)
            for path in write.mask:
                sent = values.value_at(write.fields, path) if write.fields is not None else None
                if sent is not None:
                    values.put_at(document.fields, path, sent)
                else:
                    values.remove_at(document.fields, path)
        self._transforms[ids] = self._transforms.get(ids, 0) + len(write.transforms)
        if self._transforms[ids] > values.MAX_TRANSFORMS_PER_DOCUMENT:
            raise invalid(
                f"The maximum number of field transformations on one document is {values.MAX_TRANSFORMS_PER_DOCUMENT}."
            )
        for path, transform in write.transforms:
            result.transform_results.append(_transform(document.fields, path, transform, self._moment))
        self._after[ids] = self._version(ids, document, current)
        return result

    def _check_precondition(self, write: Write, current: Version | None, deleted_here: bool) -> None:
        path = "/".join(write.ids)
        wants_document = write.exists is True or write.update_time is not None
        if deleted_here and wants_document and not write.delete:
            raise invalid("Cannot delete then update an entity in the same request.")
        if write.exists is True and current is None:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"No document to update: {self._database}/documents/{path}")
        if write.exists is False and current is not None:
            raise Refused(grpc.StatusCode.ALREADY_EXISTS, f"Document already exists: {self._database}/documents/{path}")
        if write.update_time is not None:
            # Against the version that the commit found: its own earlier writes have no time that a caller could know.
            before = self._before[write.ids]
            stored = 0 if before is None else before.time
            if stored != write.update_time:
                raise Refused(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    f"the stored version ({stored}) does not match the required base version ({write.update_time})",
                )

    def _version(self, ids: Ids, document: Any, current: Version | None) -> Version:
        if current is not None and current.document is not None:
            document.create_time.CopyFrom(current.document.create_time)
            document.update_time.CopyFrom(current.document.update_time)
            # Bytes, not ==: NaN equals nothing, and 0.0 equals -0.0.
            if document.SerializeToString(deterministic=True) == current.document.SerializeToString(deterministic=True):
                return current
        else:
            set_micros(document.create_time, self._moment)
        set_micros(document.update_time, self._moment)
        if values.document_size(ids, document.fields) > values.MAX_DOCUMENT_BYTES:
            raise invalid(f"maximum entity size is {values.MAX_DOCUMENT_BYTES} bytes")
        if values.index_entries(document.fields) > values.MAX_INDEX_ENTRIES:
            raise invalid(f"too many index entries for entity: the maximum is {values.MAX_INDEX_ENTRIES}")
        return Version(ids, self._moment, document)


def _transform(fields: Any, path: Path, transform: Any, moment: int) -> Any:
    """Apply one field transform to a document's fields; returns what the API reports as its result."""
    current = values.value_at(fields, path)
    match kind := transform.WhichOneof("transform_type"):
        case "set_to_server_value":
            result = Value()
            # The server's time has a resolution of milliseconds, though commits have one of microseconds.
            set_micros(result.timestamp_value, moment - moment % 1_000)
        case "append_missing_elements" | "remove_all_from_array":
            wanted = getattr(transform, kind).values
            kept = list(current.array_value.values) if current is not None else []
            if kind == "append_missing_elements":
                seen = {values.order_key(one, None) for one in kept}
                for one in wanted:
                    if (key := values.order_key(one, None)) not in seen:
                        seen.add(key)
                        kept.append(one)
            else:
                gone = {values.order_key(one, None) for one in wanted}
                kept = [one for one in kept if values.order_key(one, None) not in gone]
            changed = Value()
            changed.array_value.SetInParent()
            changed.array_value.values.extend(kept)
            values.put_at(fields, path, changed)
            return Value(null_value=0)
        case _:
            result = _arithmetic(kind, current, getattr(transform, kind))
    values.put_at(fields, path, result)
    return result


def _arithmetic(kind: str, current: Any | None, operand: Any) -> Any:
    """increment, maximum or minimum: a field that holds no number takes the operand; integers saturate at 64 bits."""
    result = Value()
    stored = None if current is None else current.WhichOneof("value_type")
    if current is None or stored not in ("integer_value", "double_value"):
        result.CopyFrom(operand)
        return result
    left, right = getattr(current, stored), getattr(operand, operand.WhichOneof("value_type"))
    if kind == "increment":
        total = left + right
        if isinstance(total, float):
            result.double_value = total
        else:
            result.integer_value = min(max(total, values.INT64_MIN), values.INT64_MAX)
    elif math.isnan(left) or math.isnan(right):
        result.double_value = math.nan
    elif (right > left) if kind == "maximum" else (right < left):
        result.CopyFrom(operand)
    else:
        result.CopyFrom(current)
    return result

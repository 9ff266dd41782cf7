"""The Firestore driver: the port over six RPCs, which commit atomically across documents and read strongly.

It speaks through the generated client that `google.cloud.firestore.Client` holds, with that client's credentials,
channel and metadata, because the layer above it cannot do what the port asks: replace a document under a precondition,
leave out the SDK's own retries (a Commit that is sent twice after a lost reply fails on its own success; the kernel
recognises that by the commit's token), bound every call in time. One code path serves the sync and the async client.

How the port maps: a `Rev` is the document's `update_time`, checked by the server as the commit's precondition; every
write stores a new token, so every write changes it. All reads, queries included, are strongly consistent. No query
needs a composite index (documents.py). Billed: a read for each document returned or missing, 1 for each 1,000 counted.

Collections need no creation. An operator may, for each collection: leave `body` out of the automatic indexes, which
saves two index entries a document, and have Firestore remove what has expired (readers ignore it anyway):

    gcloud firestore indexes fields update body --collection-group=agno_runs --disable-indexes
    gcloud firestore fields ttls update expires_at --collection-group=agno_runs --enable-ttl

The declared fields are for people and their ad-hoc queries; the driver queries `ix_` fields, and `expires_at` where
sessions have a lifetime, so the others may be exempted likewise. Above 500 writes a second to one collection those that
ascend with time (`created_at`, `updated_at`, `touched_at`) have to be: Firestore takes no more at the end of one index.
So it is with each `ix_` field by time of few values: `listing_shards` and `component_shards` divide them.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

from google.api_core import exceptions as gcp
from google.auth.exceptions import GoogleAuthError
from google.cloud.firestore_v1 import types

from agno_docstores import keys
from agno_docstores.codec import LONG, LONG_PACKED, packed_size
from agno_docstores.errors import (
    Conflict,
    PayloadTooLargeError,
    ProvisioningError,
    StoreError,
    StoreUnavailableError,
)
from agno_docstores.io import Io
from agno_docstores.port import (
    EVERYTHING,
    Condition,
    Delete,
    Driver,
    Expect,
    Failed,
    Fields,
    Kind,
    Page,
    Put,
    Ref,
    Rev,
    Span,
    Stored,
    Touch,
    Write,
    added,
    field_bytes,
)
from agno_docstores_firestore import documents
from agno_docstores_firestore.clients import Clients

FIRST_TIMEOUT: Final = 9.0  # seconds of a call before any was answered: a server that is not there is reported soon
TIMEOUT: Final = 30.0
STREAM_TIMEOUT: Final = 120.0
PAGE, HEADER_PAGE = 300, 1_000  # documents of one query, with bodies and without
GET_BATCH: Final = 300
MAX_WRITES: Final = 500  # of one BatchWrite
MAX_REQUEST: Final = 10 * 1024 * 1024 - 4_096  # bytes; the rest is left to what surrounds the writes
MAX_BATCH: Final = 4 * 1024 * 1024 - 65_536  # bytes of one BatchWrite; Google's emulator takes no larger message
ATTEMPTS: Final = 6  # of writes that the store did not process, and of an addition against other writers
BACKOFF: Final = 0.02, 2.0  # seconds: of the first attempt, and at most (`Io.back_off`)

_WRITES: Final = frozenset({"commit", "batch_write"})
_NAME: Final = "__name__"
# Codes of google.rpc.Status, per write of a BatchWrite.
_OK: Final = 0
_CONFLICTS: Final = frozenset({5, 6, 9})  # not found, already exists, failed precondition
_UNPROCESSED: Final = frozenset({4, 8, 10, 13, 14})  # deadline, exhausted, aborted, internal, unavailable

# The raw protobuf classes: proto-plus wrappers cost several times as much for each field access.
_WritePb: Any = types.Write.pb()
_QueryPb: Any = types.StructuredQuery.pb()
_Filter: Any = types.StructuredQuery.FieldFilter.Operator
_Direction: Any = types.StructuredQuery.Direction


@dataclass(slots=True)
class Lane:
    """What a scan has read of one shard of an index, and where it goes on there."""

    shard: int
    after: str | None
    more: bool = True
    found: deque[tuple[str, Stored]] = field(default_factory=deque)  # by position


class FirestoreDriver(Driver):
    """`compress`: keep long bodies compressed; both forms are read, whatever the setting. `listing_shards`,
    `component_shards`: among how many ranges an index is divided whose entries all have one value, or few, or one of
    which may have most."""

    store = "firestore"
    atomic = True
    implicit_tables = False
    optional_indexes = True
    pushes = frozenset()
    item_bytes = documents.ITEM_BYTES

    def __init__(
        self,
        io: Io,
        kinds: Mapping[str, Kind],
        tables: Mapping[str, str],
        clients: Clients,
        *,
        compress: bool = True,
        listing_shards: int = 1,
        component_shards: int = 1,
    ) -> None:
        super().__init__(io, kinds, tables)
        for name, shards in (("listing_shards", listing_shards), ("component_shards", component_shards)):
            if shards < 1:
                raise ValueError(f"{name} must be at least 1, not {shards}")
        self.shards = (listing_shards, component_shards)
        io.translate = self._translated
        self.clients = clients
        self.collections = documents.collections(kinds, tables)
        self._compress = compress
        self._answered = False

    def stored_bytes(self, put: Put) -> int:
        return packed_size(put.body, documents.ITEM_BYTES, compress=self._compress) + field_bytes(put.fields)

    def address(self) -> str:
        return str(self.clients.place)

    def create_command(self, kind: str) -> str:
        """The database has to exist; the rest is optional: indexes not needed, and removal of what has expired."""
        place = self.clients.place
        where = f"--project={place.project or 'PROJECT'} --database='{place.database}'"
        group = f"--collection-group={self.collections[kind]} {where}"
        return " && ".join(
            (
                f"gcloud firestore databases create --location=LOCATION {where}",
                f"gcloud firestore indexes fields update body {group} --disable-indexes",
                f"gcloud firestore fields ttls update expires_at {group} --enable-ttl",
            )
        )

    async def open(self) -> None:
        """Make the client: no request of ours, though the SDK may look for credentials."""
        self._client()

    async def close(self) -> None:
        await self.clients.close()

    async def ensure(self, kinds: Sequence[Kind]) -> None:
        """Nothing to create: one read of at most one key shows that the database is there and may be read."""
        for kind in kinds[:1]:
            await self.exists(self.tables[kind.name])

    async def exists(self, table: str) -> bool:
        """A collection exists while it holds a document. 1 request, 1 read."""
        query = self._query_from(documents.segment(table))
        query.select.fields.add(field_path=_NAME)
        query.limit.value = 1
        return bool(await self._run_query(query))

    async def drop(self) -> None:
        """A query for each 1,000 documents and a BatchWrite for each 500; billed a read and a delete for each. A
        collection that holds documents of another origin stays with them."""
        for collection in dict.fromkeys(self.collections.values()):
            after: str | None = None
            while True:
                query = self._query_from(collection)
                query.order_by.add(direction=_Direction.ASCENDING).field.field_path = _NAME
                for name in (documents.ID, documents.REV):
                    query.select.fields.add(field_path=name)
                query.limit.value = HEADER_PAGE
                if after is not None:
                    query.start_at.values.add().reference_value = after
                found = await self._run_query(query)
                await self._remove([document.name for document in found if documents.is_record(document)])
                if len(found) < HEADER_PAGE:
                    break
                after = found[-1].name

    async def _remove(self, names: Sequence[str]) -> None:
        """Delete documents by their full names, whatever is in them."""
        for start in range(0, len(names), MAX_WRITES):
            left = list(names[start : start + MAX_WRITES])
            for attempt in range(ATTEMPTS):
                statuses = await self._batch_write([_WritePb(delete=name) for name in left])
                failed = [status for status in statuses if status.code != _OK]
                left = [name for name, status in zip(left, statuses, strict=True) if status.code != _OK]
                if not left:
                    break
                await self.io.back_off(attempt, *BACKOFF)
            else:
                raise StoreUnavailableError("batch_write", self.address(), failed[0].message)

    # --- Reading ----------------------------------------------------------------------------------------------------

    async def get(self, ref: Ref) -> Stored | None:
        """1 request, 1 read."""
        return (await self._get([ref], "get"))[0]

    async def get_many(self, refs: Sequence[Ref]) -> list[Stored | None]:
        """1 request for each 300, over any number of kinds; a read for each."""
        batches = [self._get(refs[n : n + GET_BATCH], "get_all") for n in range(0, len(refs), GET_BATCH)]
        return [record for batch in await self.io.gather(*batches) for record in batch]

    async def _get(self, refs: Sequence[Ref], op: str) -> list[Stored | None]:
        names = [self._name(ref) for ref in refs]
        request = types.BatchGetDocumentsRequest.pb()(database=self._database())
        request.documents.extend(dict.fromkeys(names))
        wanted = {documents.BODY: None}
        for kind in {ref.kind: self.kinds[ref.kind] for ref in refs}.values():
            wanted |= dict.fromkeys(documents.header_fields(kind))
        request.mask.field_paths.extend(wanted)
        answers = await self._stream(op, "batch_get_documents", types.BatchGetDocumentsRequest.wrap(request))
        found: dict[str, Any] = {}
        for answer in map(types.BatchGetDocumentsResponse.pb, answers):
            if answer.WhichOneof("result") == "found":
                found[answer.found.name] = answer.found
            elif answer.WhichOneof("result") == "missing":
                found[answer.missing] = None
        if len(found) < len(request.documents):  # not there is what the store says, not what it leaves out
            raise StoreUnavailableError(op, self.address(), "the answer is incomplete")
        return [
            await self._record(found[name], ref.kind, body=True) if found[name] is not None else None
            for ref, name in zip(refs, names, strict=True)
        ]

    async def _record(self, document: Any, kind: str, *, body: bool) -> Stored:
        long = body and documents.body_size(document) >= LONG_PACKED
        return await self.io.work(long, functools.partial(documents.read, body=body), document, self.kinds[kind])

    async def scan(self, span: Span) -> Page:
        """Strong for every index. 1 request for each shard of the index, and a read for each record; where `where`
        drops records of a limited page, it asks again for a multiple, so that few matches cost few requests."""
        lanes = [Lane(shard, span.after) for shard in range(self._shards(span))]
        if len(lanes) == 1:
            await self._fill(lanes[0], span, span.limit)
            return Page([record for _, record in lanes[0].found], lanes[0].after)
        want = span.limit or (PAGE if span.body else HEADER_PAGE)
        ask = keys.share(want, len(lanes))
        records: list[Stored] = []
        cursor: str | None = None
        while len(records) < want:
            dry = [lane for lane in lanes if lane.more and not lane.found]
            if dry:
                await self.io.gather(*(self._fill(lane, span, ask) for lane in dry))
                ask = want - len(records)  # whose share is used up has more than its share
                continue
            ready = [lane for lane in lanes if lane.found]
            if not ready:
                return Page(records, None)
            lane = (max if span.descending else min)(ready, key=lambda lane: lane.found[0][0])
            cursor, record = lane.found.popleft()
            records.append(record)
        return Page(records, cursor if any(lane.found or lane.more for lane in lanes) else None)

    def _shards(self, span: Span) -> int:
        return 1 if span.index == EVERYTHING else self.kinds[span.kind].index(span.index).shards(*self.shards)

    async def _fill(self, lane: Lane, span: Span, want: int | None) -> None:
        """The next records of a lane that match: as many as wanted; without a number, what one query gives."""
        most = PAGE if span.body else HEADER_PAGE
        size = min(want or most, most)
        while True:
            found = await self._run_query(self._query(span, lane.shard, lane.after, size))
            end = self._position(span, found[-1]) if len(found) == size else None
            for document in found:
                if not documents.is_record(document):
                    continue
                record = await self._record(document, span.kind, body=span.body)
                if not all(condition.holds(record.fields) for condition in span.where):
                    continue
                lane.found.append((self._position(span, document), record))
                if want is not None and len(lane.found) == want:
                    lane.after = None if document is found[-1] and end is None else lane.found[-1][0]
                    lane.more = lane.after is not None
                    return
            lane.after, lane.more = end, end is not None
            if end is None or want is None:
                return
            size = min(most, size * (2 if span.body else 4))

    async def count(self, span: Span) -> int:
        """1 request for each shard of the index, a read for each 1,000 entries; under `alive_at` 1 more, and a read for
        each document of the kind that has expired and is still there."""
        if span.alive_at is None:
            return await self._count(span)
        entries, expired = await self.io.gather(self._count(span), self._count_expired(span, span.alive_at))
        return entries - expired

    async def _count_expired(self, span: Span, now: int) -> int:
        """Of the entries of a span, those of documents that have expired. A condition on two fields would need a
        composite index, so what has expired is read, and looked through here."""
        kind = self.kinds[span.kind]
        index = None if span.index == EVERYTHING else kind.index(span.index)
        path = None if index is None else documents.index_path(kind, index, span.eq)
        ranges = [documents.index_range(span.eq, span.low, span.high, shard) for shard in range(self._shards(span))]
        found = 0
        after: Any = None
        while True:
            query = self._query_from(self.collections[span.kind])
            query.where.field_filter.field.field_path = documents.EXPIRES_AT
            query.where.field_filter.op = _Filter.LESS_THAN_OR_EQUAL
            query.where.field_filter.value.timestamp_value.seconds = now
            for name in (documents.EXPIRES_AT, _NAME):
                query.order_by.add(direction=_Direction.ASCENDING).field.field_path = name
            for name in (documents.ID, documents.REV, documents.EXPIRES_AT, *([".".join(path)] if path else [])):
                query.select.fields.add(field_path=name)
            if after is not None:
                query.start_at.values.add().CopyFrom(after.fields[documents.EXPIRES_AT])
                query.start_at.values.add().reference_value = after.name
            query.limit.value = HEADER_PAGE
            page = await self._run_query(query)
            for document in filter(documents.is_record, page):
                text = None if path is None else _entry(document, path)
                found += path is None or (text is not None and any(first <= text < last for first, last in ranges))
            if len(page) < HEADER_PAGE:
                return found
            after = page[-1]

    async def _count(self, span: Span) -> int:
        return sum(await self.io.gather(*(self._count_shard(span, shard) for shard in range(self._shards(span)))))

    async def _count_shard(self, span: Span, shard: int) -> int:
        request = types.RunAggregationQueryRequest.pb()(parent=self._documents())
        query = self._query(span, shard, None, None)
        query.ClearField("select")
        request.structured_aggregation_query.structured_query.CopyFrom(query)
        request.structured_aggregation_query.aggregations.add(alias="n").count.SetInParent()
        wrapped = types.RunAggregationQueryRequest.wrap(request)
        answers = await self._stream("count", "run_aggregation_query", wrapped)
        for answer in map(types.RunAggregationQueryResponse.pb, answers):
            if "n" in answer.result.aggregate_fields:
                return int(answer.result.aggregate_fields["n"].integer_value)
        raise StoreUnavailableError("count", self.address(), "the answer is incomplete")

    def _query_from(self, collection: str) -> Any:
        query = _QueryPb()
        query.from_.add(collection_id=collection)
        return query

    def _query(self, span: Span, shard: int, after: str | None, limit: int | None) -> Any:
        """The query of a span in a shard: one range over one field, in the order of that field."""
        kind = self.kinds[span.kind]
        query = self._query_from(self.collections[span.kind])
        wanted = [*documents.header_fields(kind), *([documents.BODY] if span.body else [])]
        if span.index == EVERYTHING:
            query.order_by.add(direction=_Direction.ASCENDING).field.field_path = _NAME
        else:
            path = ".".join(documents.index_path(kind, kind.index(span.index), span.eq))
            wanted.append(path)
            first, last = documents.index_range(span.eq, span.low, span.high, shard)
            bounds = query.where.composite_filter
            bounds.op = types.StructuredQuery.CompositeFilter.Operator.AND
            for operator, text in ((_Filter.GREATER_THAN_OR_EQUAL, first), (_Filter.LESS_THAN, last)):
                bound = bounds.filters.add().field_filter
                bound.field.field_path, bound.op, bound.value.string_value = path, operator, text
            direction = _Direction.DESCENDING if span.descending else _Direction.ASCENDING
            query.order_by.add(direction=direction).field.field_path = path
        for name in wanted:
            query.select.fields.add(field_path=name)
        if after is not None:
            # `before` is False: the page starts behind the position.
            position = query.start_at.values.add()
            if span.index == EVERYTHING:
                position.reference_value = f"{self._documents()}/{self.collections[span.kind]}/{after}"
            else:
                position.string_value = documents.positioned(after, shard)
        if limit is not None:
            query.limit.value = limit
        return query

    def _position(self, span: Span, document: Any) -> str:
        """Where a document of a page is, among those of all shards: by the text of its index entry, or by its id."""
        if span.index == EVERYTHING:
            return str(document.name.rpartition("/")[2])
        kind = self.kinds[span.kind]
        text = _entry(document, documents.index_path(kind, kind.index(span.index), span.eq))
        return documents.position(text or "")

    async def _run_query(self, query: Any) -> list[Any]:
        request = types.RunQueryRequest.pb()(parent=self._documents())
        request.structured_query.CopyFrom(query)
        answers = await self._stream("run_query", "run_query", types.RunQueryRequest.wrap(request))
        raw = map(types.RunQueryResponse.pb, answers)
        return [answer.document for answer in raw if answer.HasField("document")]

    # --- Writing ----------------------------------------------------------------------------------------------------

    async def commit(self, writes: Sequence[Write], token: str) -> list[Rev | None]:
        """1 request, whatever the number of documents."""
        writes = await self._dated(writes)
        request = types.CommitRequest.pb()(database=self._database())
        request.writes.extend(
            [
                await self.io.work(functools.partial(_is_long, write), self._write, write, token, self._name(write.ref))
                for write in writes
            ]
        )

        def largest() -> int:
            return max(range(len(writes)), key=lambda n: request.writes[n].ByteSize())

        if writes and request.ByteSize() > MAX_REQUEST:
            ref = writes[largest()].ref
            raise PayloadTooLargeError(ref.kind, ref.id, request.ByteSize(), MAX_REQUEST)
        conditional = [write.ref for write in writes if write.expect is not Expect.ANY or isinstance(write, Touch)]
        try:
            response = await self._call("commit", "commit", types.CommitRequest.wrap(request))
        except Conflict as conflict:
            if not conditional:  # contention alone: nothing that reading again would change
                raise StoreUnavailableError("commit", self.address(), str(conflict.__cause__)) from conflict
            raise Conflict(conditional) from conflict.__cause__
        except StoreError as error:
            if writes and _is_too_large(error.reason):
                number = largest()
                ref, size = writes[number].ref, request.writes[number].ByteSize()
                raise PayloadTooLargeError(ref.kind, ref.id, size, documents.MAX_DOCUMENT) from error
            raise
        results = types.CommitResponse.pb(response).write_results
        return [
            None if isinstance(write, Delete) else Rev(token, documents.update_time(result.update_time))
            for write, result in zip(writes, results, strict=True)
        ]

    async def write_many(self, writes: Sequence[Write], token: str) -> list[Failed]:
        """1 request for each 500 writes or 4 MiB, each write on its own (BatchWrite)."""
        failed: list[Failed] = []
        pending: list[tuple[Write, Any]] = []
        for write in await self._dated(writes):
            try:
                pending.append(
                    (write, await self.io.work(_is_long(write), self._write, write, token, self._name(write.ref)))
                )
            except PayloadTooLargeError as error:
                failed.append(Failed(write, error))
        sent = False
        for attempt in range(ATTEMPTS):
            unprocessed: list[tuple[Write, Any]] = []
            errors: list[Failed] = []
            for batch in _batches(pending):
                try:
                    statuses = await self._batch_write([message for _, message in batch])
                except StoreError as error:
                    if not sent:
                        raise  # nothing of it is known to be applied: the kernel tries it all again
                    failed += [Failed(write, error) for write, _ in batch]
                    continue
                sent = True
                for (write, message), status in zip(batch, statuses, strict=True):
                    if status.code == _OK:
                        continue
                    if status.code in _CONFLICTS:
                        failed.append(Failed(write, Conflict([write.ref])))
                    elif status.code in _UNPROCESSED:
                        unprocessed.append((write, message))
                        unavailable = StoreUnavailableError("batch_write", self.address(), status.message)
                        errors.append(Failed(write, unavailable))
                    else:
                        failed.append(Failed(write, StoreError("batch_write", self.address(), status.message)))
            if not unprocessed:
                return failed
            pending = unprocessed
            await self.io.back_off(attempt, *BACKOFF)
        return failed + errors

    async def _batch_write(self, messages: Sequence[Any]) -> Sequence[Any]:
        request = types.BatchWriteRequest.pb()(database=self._database())
        request.writes.extend(messages)
        response = await self._call("batch_write", "batch_write", types.BatchWriteRequest.wrap(request))
        statuses: Sequence[Any] = types.BatchWriteResponse.pb(response).status
        return statuses

    async def add(
        self,
        ref: Ref,
        deltas: Mapping[str, int],
        guard: Sequence[Condition],
        token: str,
        also: Fields = MappingProxyType({}),
    ) -> Stored | None:
        """Firestore has no increment under a condition on other fields, so this reads and commits under the revision.
        2 requests, 2 more for each lost race. A repetition after a lost reply finds its own token and adds nothing."""
        for attempt in range(ATTEMPTS):
            current = await self.get(ref)
            if current is not None and current.rev.token == token:
                return current
            if current is None or not all(condition.holds(current.fields) for condition in guard):
                return None
            fields = added(current, deltas, also)
            try:
                revs = await self.commit(
                    [Put(current.ref, fields, current.body or {}, current.rev, current.expires_at)], token
                )
            except Conflict:
                await self.io.back_off(attempt, *BACKOFF)
                continue
            assert revs[0] is not None
            return replace(current, rev=revs[0], fields=fields)
        raise Conflict([ref])

    def _write(self, write: Write, token: str, name: str) -> Any:
        message = _WritePb()
        if isinstance(write, Delete):
            message.delete = name
        else:
            message.update.name = name
            if isinstance(write, Put):
                # No update mask: the document is replaced whole.
                kind = self.kinds[write.ref.kind]
                documents.fill(message.update, kind, write, token, compress=self._compress, shards=self.shards)
            else:
                message.update.fields[documents.REV].string_value = token
                documents.fill_expiry(message.update, write.expires_at)
                # Named in the mask and not given: the field is removed.
                message.update_mask.field_paths.extend([documents.REV, documents.EXPIRES_AT])
        if isinstance(write.expect, Rev):
            seconds, nanos = divmod(write.expect.at, 1_000_000_000)
            message.current_document.update_time.seconds = seconds
            message.current_document.update_time.nanos = nanos
        elif write.expect is Expect.ABSENT:
            message.current_document.exists = False
        elif isinstance(write, Touch):
            message.current_document.exists = True
        return message

    async def _dated(self, writes: Sequence[Write]) -> list[Write]:
        """The same writes, with the time that a revision known by its token alone has in the store."""
        undated = [w for w in writes if isinstance(w.expect, Rev) and not isinstance(w.expect.at, int)]
        if not undated:
            return list(writes)
        found = await self.get_many([write.ref for write in undated])
        current = {record.ref: record.rev for record in found if record is not None}
        lost = [write.ref for write in undated if current.get(write.ref) != write.expect]
        if lost:
            raise Conflict(lost)
        return [replace(w, expect=current[w.ref]) if w in undated else w for w in writes]

    # --- Names and calls --------------------------------------------------------------------------------------------

    def _client(self) -> Any:
        try:
            return self.clients.current()
        except (GoogleAuthError, OSError) as error:  # OSError: no project named anywhere
            raise StoreError("connect", self.address(), str(error)) from error

    def _database(self) -> str:
        database: str = self._client()._database_string
        return database

    def _documents(self) -> str:
        return f"{self._database()}/documents"

    def _name(self, ref: Ref) -> str:
        return f"{self._documents()}/{self.collections[ref.kind]}/{documents.segment(ref.id)}"

    async def _call(self, op: str, method: str, request: Any) -> Any:
        client = self._client()
        timeout = TIMEOUT if self._answered else FIRST_TIMEOUT
        answer = await self.io(
            getattr(client._firestore_api, method),
            request=request,
            retry=None,
            timeout=timeout,
            metadata=client._rpc_metadata,
            op=op,
        )
        self._answered = True
        return answer

    async def _stream(self, op: str, method: str, request: Any) -> list[Any]:
        client = self._client()
        timeout = STREAM_TIMEOUT if self._answered else FIRST_TIMEOUT
        answers: list[Any] = await self.io(
            self.clients.drain,
            getattr(client._firestore_api, method),
            request=request,
            retry=None,
            timeout=timeout,
            metadata=client._rpc_metadata,
            op=op,
        )
        self._answered = True
        return answers

    def _translated(self, operation: str, error: Exception) -> Exception | None:
        """What an error of the SDK means to the kernel; None: nothing of the SDK's."""
        where, write = self.address(), operation in _WRITES
        if isinstance(error, GoogleAuthError):
            return StoreError(operation, where, f"no usable credentials: {error}")
        if not isinstance(error, gcp.GoogleAPICallError):
            return None
        reason = f"{type(error).__name__}: {error.message}"
        if isinstance(error, gcp.NotFound) and "database" in error.message and "does not exist" in error.message:
            command = self.create_command(next(iter(self.kinds))).split(" && ")[0]
            return ProvisioningError(self.clients.place.database, command, "is no database of this project")
        if write and _is_lost_race(error):
            return Conflict()
        if isinstance(error, gcp.ResourceExhausted | gcp.Aborted) and not _is_too_large(reason):
            return StoreUnavailableError(operation, where, reason)
        if isinstance(error, gcp.DeadlineExceeded):
            # Before any answer, this is a server that is not there, and has been waited for already.
            return StoreUnavailableError(operation, where, reason, maybe_applied=write, retryable=self._answered)
        if isinstance(error, gcp.ServerError | gcp.Cancelled) and not isinstance(
            error, gcp.MethodNotImplemented | gcp.DataLoss
        ):
            return StoreUnavailableError(operation, where, reason, maybe_applied=write)
        if isinstance(error, gcp.PermissionDenied | gcp.Unauthenticated):
            reason += " (these credentials need the role roles/datastore.user on the project)"
        return StoreError(operation, where, reason)


def _is_long(write: Write) -> bool:
    """Whether to make a document of a write takes long enough to hold up an event loop."""
    return isinstance(write, Put) and sum(len(part.text) for part in write.body.values()) >= LONG


def _entry(document: Any, path: tuple[str, ...]) -> str | None:
    """The text of a document's index entry; None if it has none."""
    name, *slot = path
    value = document.fields.get(name)
    if value is not None and slot:
        value = value.map_value.fields.get(slot[0])
    return None if value is None else str(value.string_value)


def _is_lost_race(error: gcp.GoogleAPICallError) -> bool:
    """Whether a write was refused because of what is stored, or of who writes at the same time."""
    if isinstance(error, gcp.FailedPrecondition):
        # The same code says that the deployment cannot do this at all; no reading again would help there.
        return not any(sign in error.message for sign in ("Datastore Mode", "index", "billing"))
    return isinstance(error, gcp.AlreadyExists | gcp.NotFound | gcp.Aborted)


def _is_too_large(reason: str) -> bool:
    """Whether it was refused for its size: of a value, a document, a request, a message of gRPC."""
    signs = ("is longer than", "exceeds the maximum", "payload size exceeds", "exceeds maximum size")
    return any(sign in reason for sign in signs)


def _batches(pending: Sequence[tuple[Write, Any]]) -> list[list[tuple[Write, Any]]]:
    """Writes in groups that one BatchWrite takes: 500, `MAX_BATCH`, no document twice."""
    batches: list[list[tuple[Write, Any]]] = []
    names: set[str] = set()
    room = 0
    for write, message in pending:
        name = message.delete or message.update.name
        size = message.ByteSize() + 8
        if not batches or len(batches[-1]) == MAX_WRITES or size > room or name in names:
            batches.append([])
            names, room = set(), MAX_BATCH
        batches[-1].append((write, message))
        names.add(name)
        room -= size
    return batches

"""The gRPC service `google.firestore.v1.Firestore` over a store, and `FirestoreEmulator`, which runs it.

Invariants
- What is not served answers UNIMPLEMENTED; nothing is half served.
- An answer is complete before its first message leaves, so a stream is one moment of the store.
- Counters count what production bills: a read for each document returned, skipped by an offset or found missing (at
  least one a query), one for each started thousand of index entries of an aggregation, a write or a delete for each
  that was carried out.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import string
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Final

import grpc
from google.cloud.firestore_v1 import types
from google.protobuf import empty_pb2
from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from agno_docstores_firestore.emulator import values
from agno_docstores_firestore.emulator.query import Aggregation, Query
from agno_docstores_firestore.emulator.store import Ids, Store, Transaction, Version, check_write, set_micros
from agno_docstores_firestore.emulator.values import Document, Refused, invalid

SERVICE: Final = "google.firestore.v1.Firestore"
WORKERS: Final = 16
LIST_PAGE_SIZE: Final = 300
_ID_ALPHABET: Final = string.ascii_letters + string.digits

_StructuredQuery = types.StructuredQuery.pb()
_Cursor = types.Cursor.pb()
_Write = types.Write.pb()
_ListDocumentsResponse = types.ListDocumentsResponse.pb()
_BatchGetDocumentsResponse = types.BatchGetDocumentsResponse.pb()
_BeginTransactionResponse = types.BeginTransactionResponse.pb()
_CommitResponse = types.CommitResponse.pb()
_RunQueryResponse = types.RunQueryResponse.pb()
_RunAggregationQueryResponse = types.RunAggregationQueryResponse.pb()
_BatchWriteResponse = types.BatchWriteResponse.pb()
_ListCollectionIdsResponse = types.ListCollectionIdsResponse.pb()


class FirestoreEmulator:
    """A Firestore in this process, for tests.

        with FirestoreEmulator() as address:  # "127.0.0.1:PORT"
            os.environ["FIRESTORE_EMULATOR_HOST"] = address
            client = google.cloud.firestore.Client(project="any")

    Projects and databases need no setup: each that a client names exists, empty, and apart from the others. Documents
    live as long as the object: `stop` and `start` keep them, `clear` drops them.

    `composite_indexes=True` answers queries that need a composite index, as if every index had been declared; by
    default they are refused, as production refuses them until it is.

    `reads`, `writes` and `deletes` count what production would bill, `requests` counts calls by RPC name.
    `before_call`, if set, is called with the name of each RPC before it runs, in a thread of the server; a `Refused`
    that it raises is the answer.
    """

    def __init__(self, host_port: str = "127.0.0.1:0", *, composite_indexes: bool = False) -> None:
        self._host_port = host_port
        self._composite_indexes = composite_indexes
        self._store = Store()
        self._server: grpc.Server | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._address: str | None = None
        self._counting = threading.Lock()
        self.before_call: Callable[[str], None] | None = None
        self.reads = 0
        self.writes = 0
        self.deletes = 0
        self.requests: Counter[str] = Counter()

    @property
    def address(self) -> str:
        """Where the emulator listens; RuntimeError while it does not."""
        if self._address is None:
            raise RuntimeError("the emulator is not running")
        return self._address

    def start(self) -> str:
        """Listen; returns the address. OSError if the port cannot be had."""
        if self._server is not None:
            raise RuntimeError("the emulator is running already")
        pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="firestore-emulator")
        # The limit on a request is checked per call, so that it is answered as the service answers it.
        options = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ]
        server = grpc.server(pool, options=options)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, self._handlers()),))
        try:
            port = server.add_insecure_port(self._host_port)
        except RuntimeError as error:
            pool.shutdown()
            raise OSError(f"cannot listen on {self._host_port}") from error
        server.start()
        self._server, self._pool = server, pool
        self._address = f"{self._host_port.rpartition(':')[0]}:{port}"
        return self._address

    def stop(self, grace: float = 1.0) -> None:
        """Stop listening, give running calls `grace` seconds, end every thread. Does nothing if it is not running."""
        if self._server is None or self._pool is None:
            return
        self._server.stop(grace).wait()
        self._pool.shutdown(wait=True)
        self._server = self._pool = self._address = None

    def wait(self) -> None:
        """Block until the emulator stops."""
        if self._server is not None:
            self._server.wait_for_termination()

    def __enter__(self) -> str:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def reset_counts(self) -> None:
        """Set every counter to zero."""
        with self._counting:
            self.reads = self.writes = self.deletes = 0
            self.requests.clear()

    def clear(self) -> None:
        """Drop all documents of all databases and close all transactions; the counters stay."""
        self._store.clear()

    # --- gRPC --------------------------------------------------------------------------------------------------------

    def _handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        unary: dict[str, tuple[Any, Any, Callable[[Any], Any]]] = {
            "GetDocument": (types.GetDocumentRequest, Document, self._get_document),
            "ListDocuments": (types.ListDocumentsRequest, _ListDocumentsResponse, self._list_documents),
            "CreateDocument": (types.CreateDocumentRequest, Document, self._create_document),
            "UpdateDocument": (types.UpdateDocumentRequest, Document, self._update_document),
            "DeleteDocument": (types.DeleteDocumentRequest, empty_pb2.Empty, self._delete_document),
            "BeginTransaction": (types.BeginTransactionRequest, _BeginTransactionResponse, self._begin_transaction),
            "Commit": (types.CommitRequest, _CommitResponse, self._commit),
            "Rollback": (types.RollbackRequest, empty_pb2.Empty, self._rollback),
            "BatchWrite": (types.BatchWriteRequest, _BatchWriteResponse, self._batch_write),
            "ListCollectionIds": (
                types.ListCollectionIdsRequest,
                _ListCollectionIdsResponse,
                self._list_collection_ids,
            ),
        }
        streams: dict[str, tuple[Any, Any, Callable[[Any], list[Any]]]] = {
            "BatchGetDocuments": (types.BatchGetDocumentsRequest, _BatchGetDocumentsResponse, self._batch_get),
            "RunQuery": (types.RunQueryRequest, _RunQueryResponse, self._run_query),
            "RunAggregationQuery": (
                types.RunAggregationQueryRequest,
                _RunAggregationQueryResponse,
                self._run_aggregation,
            ),
        }
        handlers: dict[str, grpc.RpcMethodHandler] = {}
        for name, (request, response, method) in unary.items():
            handlers[name] = grpc.unary_unary_rpc_method_handler(
                self._unary(name, method), request.pb().FromString, response.SerializeToString
            )
        for name, (request, response, method) in streams.items():
            handlers[name] = grpc.unary_stream_rpc_method_handler(
                self._stream(name, method), request.pb().FromString, response.SerializeToString
            )
        # The others of the API are not here: gRPC answers them with UNIMPLEMENTED of itself.
        return handlers

    def _unary(self, name: str, method: Callable[[Any], Any]) -> Callable[[Any, grpc.ServicerContext], Any]:
        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            try:
                self._enter(name, request)
                return method(request)
            except Refused as refused:
                context.abort(refused.code, refused.message)

        return answer

    def _stream(
        self, name: str, method: Callable[[Any], list[Any]]
    ) -> Callable[[Any, grpc.ServicerContext], Iterator[Any]]:
        def answer(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            try:
                self._enter(name, request)
                messages = method(request)
            except Refused as refused:
                context.abort(refused.code, refused.message)
            yield from messages

        return answer

    def _enter(self, name: str, request: Any) -> None:
        with self._counting:
            self.requests[name] += 1
        if self.before_call is not None:
            self.before_call(name)
        if request.ByteSize() > values.MAX_REQUEST_BYTES:
            raise invalid(f"Request payload size exceeds the limit: {values.MAX_REQUEST_BYTES} bytes.")

    def _bill(self, *, reads: int = 0, writes: int = 0, deletes: int = 0) -> None:
        with self._counting:
            self.reads += reads
            self.writes += writes
            self.deletes += deletes

    # --- consistency -------------------------------------------------------------------------------------------------

    def _moment(self, database: str, request: Any) -> tuple[Transaction | None, int | None, bool]:
        """Where a request reads: its transaction, its moment (None: now), and whether the transaction is new."""
        match request.WhichOneof("consistency_selector"):
            case "transaction":
                transaction = self._store.transaction(database, request.transaction)
                return transaction, self._store.snapshot(transaction), False
            case "new_transaction":
                transaction = self._store.begin(database, request.new_transaction)
                return transaction, self._store.snapshot(transaction), True
            case "read_time":
                return None, self._store.check_read_time(request.read_time), False
            case _:
                return None, None, False

    def _check_indexes(self, query: Query) -> None:
        if not self._composite_indexes:
            query.check_indexes()

    # --- documents ---------------------------------------------------------------------------------------------------

    def _get_document(self, request: Any) -> Any:
        database, ids = values.split_name(request.name)
        paths = _paths(request.mask) if request.HasField("mask") else None
        with self._store.lock:
            transaction, at, _ = self._moment(database, request)
            if transaction is not None:
                transaction.documents.add(ids)
            version = self._store.version(database, ids, at)
        self._bill(reads=1)
        if version is None:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"Document ({request.name}) not found.")
        return _shown(version, paths)

    def _batch_get(self, request: Any) -> list[Any]:
        database = values.database_of(request.database)
        paths = _paths(request.mask) if request.HasField("mask") else None
        names = list(dict.fromkeys(request.documents))
        wanted = [(name, _within(database, name)) for name in names]
        answers: list[Any] = []
        with self._store.lock:
            transaction, at, is_new = self._moment(database, request)
            read_time = at if at is not None else self._store.tick()
            if is_new and transaction is not None:
                answers.append(_BatchGetDocumentsResponse(transaction=transaction.id))
            for name, ids in wanted:
                if transaction is not None:
                    transaction.documents.add(ids)
                version = self._store.version(database, ids, at)
                answer = _BatchGetDocumentsResponse()
                if version is None:
                    answer.missing = name
                else:
                    answer.found.CopyFrom(_shown(version, paths))
                set_micros(answer.read_time, read_time)
                answers.append(answer)
        self._bill(reads=len(wanted))
        return answers

    def _list_documents(self, request: Any) -> Any:
        database, parent = values.split_name(request.parent, collection=True)
        if request.show_missing and request.order_by:
            raise invalid("cannot specify an order when show_missing is true")
        size = request.page_size or LIST_PAGE_SIZE
        if size < 0:
            raise invalid("page_size is negative")
        paths = _paths(request.mask) if request.HasField("mask") else None
        query = Query(database, parent, self._listing(request))
        self._check_indexes(query)
        with self._store.lock:
            transaction, at, _ = self._moment(database, request)
            found, _ = query.run(self._store, at)
            seen = _fingerprint(found)
            if request.show_missing:
                found = self._with_missing(query, found, at)
                if request.page_token:
                    after = values.name_key(
                        values.split_name(_untoken(request.page_token, _Cursor).values[0].reference_value)[1]
                    )
                    found = [version for version in found if version.name_key > after]
            if transaction is not None:
                transaction.watch(lambda: _fingerprint(query.run(self._store, None)[0]), seen)
        answer = _ListDocumentsResponse()
        page = found[:size]
        answer.documents.extend(_shown(version, paths) for version in page)
        if len(found) > size:
            answer.next_page_token = _token(query.cursor_after(page[-1]))
        self._bill(reads=max(1, len(page)))
        return answer

    def _listing(self, request: Any) -> Any:
        """ListDocuments as a query whose order is spelt out down to the name, so that a page token is a cursor."""
        if not request.collection_id:
            raise Refused(grpc.StatusCode.UNIMPLEMENTED, "ListDocuments needs a collection_id in this emulator.")
        message = _StructuredQuery()
        message.from_.add(collection_id=request.collection_id)
        for clause in filter(None, request.order_by.split(",")):
            field, _, direction = clause.strip().partition(" ")
            if direction.strip().lower() not in ("", "asc", "desc"):
                raise invalid(f'Invalid order_by clause "{clause}".')
            message.order_by.add(
                field={"field_path": field},
                direction="DESCENDING" if direction.strip().lower() == "desc" else "ASCENDING",
            )
        if not any(one.field.field_path == "__name__" for one in message.order_by):
            direction = message.order_by[-1].direction if message.order_by else 1
            message.order_by.add(field={"field_path": "__name__"}, direction=direction)
        if request.page_token and not request.show_missing:
            message.start_at.CopyFrom(_untoken(request.page_token, _Cursor))
        return message

    def _with_missing(self, query: Query, found: Iterable[Version], at: int | None) -> list[Version]:
        """The documents, and in their order those that do not exist but have some below them."""
        collection = (*query.parent, query.collection_id)
        listed = {version.ids: version for version in found}
        for path in self._store.collections(query.database, collection):
            ids = path[: len(collection) + 1]
            if (
                len(path) > len(collection)
                and ids not in listed
                and any(self._store.collection(query.database, path, at))
            ):
                listed[ids] = Version(ids, 0, Document(name=f"{query.database}/documents/{'/'.join(ids)}"))
        return sorted(listed.values(), key=lambda version: version.name_key)

    def _create_document(self, request: Any) -> Any:
        if request.document.name:
            raise invalid("document.name must not be set")
        if not request.collection_id:
            raise invalid("collection_id must be set")
        document_id = request.document_id or "".join(secrets.choice(_ID_ALPHABET) for _ in range(20))
        write = _Write()
        write.update.CopyFrom(request.document)
        write.update.name = f"{request.parent}/{request.collection_id}/{document_id}"
        write.current_document.exists = False
        return self._write_one(write, request)

    def _update_document(self, request: Any) -> Any:
        write = _Write()
        write.update.CopyFrom(request.document)
        if request.HasField("update_mask"):
            write.update_mask.CopyFrom(request.update_mask)
        write.current_document.CopyFrom(request.current_document)
        return self._write_one(write, request)

    def _write_one(self, message: Any, request: Any) -> Any:
        database, ids = values.split_name(message.update.name)
        paths = _paths(request.mask) if request.HasField("mask") else None
        write = check_write(message, database)
        with self._store.lock:
            self._store.commit(database, [write])
            version = self._store.version(database, ids)
        self._bill(writes=1)
        assert version is not None
        return _shown(version, paths)

    def _delete_document(self, request: Any) -> Any:
        message = _Write(delete=request.name)
        message.current_document.CopyFrom(request.current_document)
        database, _ = values.split_name(request.name)
        self._store.commit(database, [check_write(message, database)])
        self._bill(deletes=1)
        return empty_pb2.Empty()

    # --- commits -----------------------------------------------------------------------------------------------------

    def _begin_transaction(self, request: Any) -> Any:
        database = values.database_of(request.database)
        return _BeginTransactionResponse(transaction=self._store.begin(database, request.options).id)

    def _rollback(self, request: Any) -> Any:
        self._store.rollback(values.database_of(request.database), request.transaction)
        return empty_pb2.Empty()

    def _commit(self, request: Any) -> Any:
        database = values.database_of(request.database)
        limit = values.MAX_WRITES_PER_COMMIT
        if limit is not None and len(request.writes) > limit:
            raise invalid(f"maximum {limit} writes allowed per request")
        writes = [check_write(one, database) for one in request.writes]
        results, moment = self._store.commit(database, writes, request.transaction)
        deletes = sum(write.delete for write in writes)
        self._bill(writes=len(writes) - deletes, deletes=deletes)
        answer = _CommitResponse(write_results=results)
        set_micros(answer.commit_time, moment)
        return answer

    def _batch_write(self, request: Any) -> Any:
        database = values.database_of(request.database)
        limit = values.MAX_WRITES_PER_BATCH_WRITE
        if len(request.writes) > limit:
            raise invalid(f"maximum {limit} writes allowed per request")
        writes = [check_write(one, database) for one in request.writes]
        if len({write.ids for write in writes}) < len(writes):
            raise invalid("the same document cannot be written more than once in a single request")
        answer = _BatchWriteResponse()
        for write in writes:
            try:
                results, _ = self._store.commit(database, [write])
            except Refused as refused:
                answer.write_results.add()
                answer.status.append(status_pb2.Status(code=refused.code.value[0], message=refused.message))
            else:
                answer.write_results.extend(results)
                answer.status.add()
                self._bill(writes=int(not write.delete), deletes=int(write.delete))
        return answer

    # --- queries -----------------------------------------------------------------------------------------------------

    def _run_query(self, request: Any) -> list[Any]:
        database, parent = values.split_name(request.parent, collection=True)
        if request.HasField("explain_options"):
            raise Refused(grpc.StatusCode.UNIMPLEMENTED, "Query explain is not part of this emulator.")
        query = Query(database, parent, request.structured_query)
        self._check_indexes(query)
        answers: list[Any] = []
        with self._store.lock:
            transaction, at, is_new = self._moment(database, request)
            read_time = at if at is not None else self._store.tick()
            if is_new and transaction is not None:
                answers.append(_RunQueryResponse(transaction=transaction.id))
            found, skipped = query.run(self._store, at)
            if transaction is not None:
                transaction.watch(lambda: _fingerprint(query.run(self._store, None)[0]), _fingerprint(found))
        # An empty result is one message too: the time of the read, and what the offset skipped.
        results = [_RunQueryResponse() for _ in range(max(1, len(found)))]
        for result, version in zip(results, found, strict=False):
            result.document.CopyFrom(_shown(version, query.projection))
        for result in results:
            set_micros(result.read_time, read_time)
        results[0].skipped_results = skipped
        results[-1].done = True
        answers += results
        self._bill(reads=max(1, len(found) + skipped))
        return answers

    def _run_aggregation(self, request: Any) -> list[Any]:
        database, parent = values.split_name(request.parent, collection=True)
        if request.HasField("explain_options"):
            raise Refused(grpc.StatusCode.UNIMPLEMENTED, "Query explain is not part of this emulator.")
        aggregation = Aggregation(database, parent, request.structured_aggregation_query)
        self._check_indexes(aggregation.query)
        answer = _RunAggregationQueryResponse()
        with self._store.lock:
            transaction, at, is_new = self._moment(database, request)
            set_micros(answer.read_time, at if at is not None else self._store.tick())
            results, entries = aggregation.run(self._store, at)
            if transaction is not None:
                transaction.watch(lambda: _frozen(aggregation.run(self._store, None)[0]), _frozen(results))
                if is_new:
                    answer.transaction = transaction.id
        for alias, value in results.items():
            answer.result.aggregate_fields[alias].CopyFrom(value)
        self._bill(reads=max(1, -(-entries // 1_000)))
        return [answer]

    def _list_collection_ids(self, request: Any) -> Any:
        database, parent = values.split_name(request.parent, collection=True)
        with self._store.lock:
            at = None
            if request.WhichOneof("consistency_selector") == "read_time":
                at = self._store.check_read_time(request.read_time)
            found = {
                path[len(parent)]
                for path in self._store.collections(database, parent)
                if any(self._store.collection(database, path, at))
            }
        ids = sorted(found, key=str.encode)
        if request.page_token:
            after = _untoken(request.page_token, _Cursor).values[0].string_value.encode()
            ids = [one for one in ids if one.encode() > after]
        size = request.page_size if request.page_size > 0 else LIST_PAGE_SIZE
        answer = _ListCollectionIdsResponse(collection_ids=ids[:size])
        if len(ids) > size:
            last = _Cursor()
            last.values.add(string_value=ids[size - 1])
            answer.next_page_token = _token(last)
        self._bill(reads=1)
        return answer


def _within(database: str, name: str) -> Ids:
    of, ids = values.split_name(name)
    if of != database:
        raise invalid(f'Document name "{name}" is not in the database "{database}".')
    return ids


def _paths(mask: Any) -> list[values.Path]:
    return [values.parse_path(path) for path in mask.field_paths]


def _shown(version: Version, paths: list[values.Path] | None) -> Any:
    return version.document if paths is None else values.masked(version.document, paths)


def _fingerprint(found: Iterable[Version]) -> tuple[tuple[Ids, int], ...]:
    """What a transaction keeps of a result, to tell later whether it is still the same."""
    return tuple((version.ids, version.time) for version in found)


def _frozen(results: dict[str, Any]) -> tuple[tuple[str, bytes], ...]:
    return tuple((alias, value.SerializeToString(deterministic=True)) for alias, value in results.items())


def _token(cursor: Any) -> str:
    return base64.urlsafe_b64encode(cursor.SerializeToString()).decode()


def _untoken(token: str, message: Any) -> Any:
    try:
        cursor = message.FromString(base64.urlsafe_b64decode(token.encode()))
    except (binascii.Error, DecodeError) as error:
        raise invalid("invalid page token") from error
    if not cursor.values:
        raise invalid("invalid page token")
    return cursor

"""The MongoDB driver: what of the port is a call of PyMongo, and which.

Guarantees beyond the port's: every read is from the primary and every write confirmed by a majority, so that a read
sees each acknowledged write; a commit to one document is one atomic operation on any deployment, and does not rely on
retryable writes (the `Rev` of a record tells whose write it is); a commit to several documents is a transaction, for
which a standalone server is not enough. Documents of another origin in a collection are neither read, counted nor
removed.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from pymongo import DeleteOne, IndexModel, InsertOne, ReturnDocument, UpdateOne
from pymongo.errors import BulkWriteError, PyMongoError
from pymongo.read_concern import ReadConcern

from agno_docstores.codec import LONG
from agno_docstores.errors import (
    Conflict,
    DocstoreError,
    PayloadTooLargeError,
    ProvisioningError,
    StoreError,
    StoreUnavailableError,
    UnsupportedTopologyError,
)
from agno_docstores.io import Io
from agno_docstores.port import (
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
    Write,
    added,
    is_insert,
)
from agno_docstores_mongo.clients import Clients, Place
from agno_docstores_mongo.layout import ITEM_LIMIT, PUSHES, ROOM, Change, Document, Layout, Shape
from agno_docstores_mongo.translation import DUPLICATE, is_unauthorized, of_code, translate
from agno_docstores_mongo.values import encode_field

BATCH = 1000  # documents that one reply may bring; also the ids that one read asks for
ATTEMPTS = 5  # at what only a race with another writer can make fail
OVERREAD = 500  # headers read at once where conditions have to be applied here


class MongoDriver(Driver):
    store = "mongo"
    atomic = False
    implicit_tables = True
    unique = True
    pushes = PUSHES
    item_bytes = ITEM_LIMIT - ROOM

    def __init__(
        self, io: Io, kinds: Mapping[str, Kind], tables: Mapping[str, str], clients: Clients, place: Place
    ) -> None:
        super().__init__(io, kinds, tables)
        self.layout = Layout(kinds, tables)
        self.clients = clients
        self.place = place
        self._transactions: bool | None = None  # whether the deployment has them, once asked

    def storage(self, kind: str) -> str:
        return self.layout.shapes[kind].collection

    def address(self) -> str:
        return str(self.place)

    def create_command(self, kind: str) -> str:
        return f"agno-docstores provision mongo --db-url {self.place.url} --db-name {self.place.db_name}"

    async def open(self) -> None:
        try:
            self.clients.current()
        except (PyMongoError, OSError) as error:  # of a URL's options, files or DNS record
            raise translate(self.address(), "connect", error) or StoreError(
                "connect", self.address(), str(error)
            ) from error

    async def close(self) -> None:
        await self.clients.close()

    def _collection(self, name: str) -> Any:
        return self.clients.current().database[name]

    # --- Storage ----------------------------------------------------------------------------------------------------

    async def ensure(self, kinds: Sequence[Kind]) -> None:
        unneeded = {kind.claims for kind in self.kinds.values()}  # unique indexes do what claims are for
        wanted = [kind.name for kind in kinds if kind.name not in unneeded]
        collections = dict.fromkeys(self.layout.shapes[name].collection for name in wanted)
        await self.io.gather(*(self._ensure(name) for name in collections))

    async def _ensure(self, collection: str) -> None:
        """Create the indexes that are missing. 1 request where none is, else 2."""
        kind = next(shape.kind.name for shape in self.layout.sharing(collection))
        try:
            missing = await self._missing(collection, kind)
            if missing:
                models = [IndexModel(list(keys), name=name, **options) for name, keys, options in missing]
                try:
                    await self.io(self._collection(collection).create_indexes, models, op="create_indexes")
                except StoreError as error:
                    # Another process may have made the same indexes under other names meanwhile.
                    if isinstance(error, StoreUnavailableError) or await self._missing(collection, kind):
                        raise
        except StoreUnavailableError:
            raise
        except StoreError as error:
            reason = "may not be created or looked at" if is_unauthorized(error) else "cannot be set up"
            reason = f"{reason} ({error.reason})"
            raise ProvisioningError(collection, self.create_command(kind), reason) from error

    async def _missing(
        self, collection: str, kind: str
    ) -> list[tuple[str, tuple[tuple[str, int], ...], dict[str, Any]]]:
        """The declared indexes that are not there. Raises `ProvisioningError` where one is that we cannot live with."""
        there = set()
        own = [(("_id", 1),), *(keys for _, keys, options in self.layout.indexes(collection) if "unique" in options)]
        found = await self.io(self._collection(collection).index_information, op="list_indexes")
        for name, index in found.items():
            keys = tuple((field, direction) for field, direction in index["key"])
            if index.get("unique") and keys not in own and "partialFilterExpression" not in index:
                raise ProvisioningError(
                    collection,
                    self.create_command(kind),
                    f"has the unique index {name!r} of another application (Agno's own MongoDb makes such), "
                    "which our documents cannot satisfy; use another db_name or another name of this table",
                )
            there.add((keys, index.get("expireAfterSeconds")))
        return [
            (name, keys, options)
            for name, keys, options in self.layout.indexes(collection)
            if (keys, options.get("expireAfterSeconds")) not in there
        ]

    async def exists(self, table: str) -> bool:
        connection = self.clients.current()
        # mongomock's filtered list has the collections that were only looked at, too.
        only = {} if connection.mock else {"filter": {"name": {"$eq": table}}}
        return table in await self.io(connection.database.list_collection_names, op="list_collection_names", **only)

    async def drop(self) -> None:
        """2 requests for each collection. One that holds documents of another origin stays, with them and its indexes;
        the server looks through it for such."""
        for collection in dict.fromkeys(shape.collection for shape in self.layout.shapes.values()):
            ours = [shape.present for shape in self.layout.sharing(collection)]
            found = self._collection(collection)
            if await self.io(found.find_one, {"$nor": ours}, {"_id": 1}, op="find_one") is None:
                await self.io(found.drop, op="drop")
            else:
                await self.io(found.delete_many, {"$or": ours}, op="delete_many")

    # --- Reads ------------------------------------------------------------------------------------------------------

    async def get(self, ref: Ref) -> Stored | None:
        return (await self.get_many([ref]))[0]

    async def get_many(self, refs: Sequence[Ref]) -> list[Stored | None]:
        """1 request for each collection: a session and its history are one document."""
        wanted: dict[str, tuple[dict[str, None], set[str]]] = {}
        for ref in refs:
            ids, kinds = wanted.setdefault(self.layout.shapes[ref.kind].collection, ({}, set()))
            ids[ref.id] = None
            kinds.add(ref.kind)
        reads = [
            (collection, list(ids)[start : start + BATCH], sorted(kinds))
            for collection, (ids, kinds) in wanted.items()
            for start in range(0, len(ids), BATCH)
        ]
        answers = await self.io.gather(*(self._by_ids(*read) for read in reads))
        documents = {
            (collection, document["_id"]): document
            for (collection, _, _), found in zip(reads, answers, strict=True)
            for document in found
        }
        records: list[Stored | None] = []
        for ref in refs:
            shape = self.layout.shapes[ref.kind]
            document = documents.get((shape.collection, ref.id))
            records.append(None if document is None else await self._record(shape, document))
        return records

    async def _record(self, shape: Shape, document: Document, *, body: bool = True) -> Stored | None:
        long = body and shape.has_long_text(document)
        return await self.io.work(long, functools.partial(shape.stored, body=body), document)

    async def _by_ids(self, collection: str, ids: list[str], kinds: list[str]) -> list[dict[str, Any]]:
        projection = self.layout.projection(collection, kinds)
        if len(ids) == 1:
            found = await self.io(
                self._collection(collection).find_one, {"_id": {"$eq": ids[0]}}, projection, op="find_one"
            )
            return [] if found is None else [found]
        return await self._find(collection, {"_id": {"$in": ids}}, projection, batch_size=BATCH + 1)

    async def _find(self, collection: str, where: Any, projection: Any, **options: Any) -> list[dict[str, Any]]:
        found = self._collection(collection)

        def read() -> Any:
            # The cursor is made within the call, so that a call made twice reads twice.
            cursor = found.find(where, projection, **options)
            return cursor.to_list(None) if hasattr(cursor, "to_list") else list(cursor)

        return await self.io(read, op="find")  # type: ignore[no-any-return]

    async def scan(self, span: Span) -> Page:
        """1 request for a page. Conditions that no filter expresses are applied here, on more than the page if need be:
        a page under them costs headers, not requests."""
        shape = self.layout.shapes[span.kind]
        rest = [condition for condition in span.where if type(condition) not in PUSHES]
        asked = span.limit if span.limit is None or not rest else max(span.limit, OVERREAD)
        where, order = self.layout.span(span)
        if span.after is not None:
            where["$and"].append(self.layout.after(span))
        projection = self.layout.projection(shape.collection, [span.kind], body=span.body)
        limited = {} if asked is None else {"limit": asked}
        # One more than the limit: a reply that is full at the limit leaves the cursor open.
        batch = BATCH if asked is None else asked + 1
        found = await self._find(shape.collection, where, projection, sort=order, batch_size=batch, **limited)
        made = [await self._record(shape, document, body=span.body) for document in found]
        read = [record for record in made if record is not None]
        records = [record for record in read if all(condition.holds(record.fields) for condition in rest)]
        if span.limit is not None and len(records) > span.limit:
            records = records[: span.limit]
            return Page(records, self.layout.cursor(span, records[-1]))
        more = asked is not None and len(found) == asked and bool(read)
        return Page(records, self.layout.cursor(span, read[-1]) if more else None)

    async def page_and_count(self, span: Span, offset: int) -> tuple[list[Stored], int] | None:
        """1 request."""
        if any(type(condition) not in PUSHES for condition in span.where):
            return None
        shape = self.layout.shapes[span.kind]
        where, order = self.layout.span(span)
        page: list[dict[str, Any]] = [{"$skip": offset}] if offset else []
        page += [{"$limit": span.limit}] if span.limit is not None else []
        page.append({"$project": self.layout.projection(shape.collection, [span.kind], body=False)})
        facets = {"page": page, "total": [{"$count": "n"}]}
        pipeline = [{"$match": where}, {"$sort": dict(order)}, {"$facet": facets}]
        (found,) = await self._aggregate(shape.collection, pipeline)
        records = [record for document in found["page"] if (record := shape.stored(document, body=False)) is not None]
        return records, sum(row["n"] for row in found["total"])

    async def _aggregate(self, collection: str, pipeline: list[dict[str, Any]]) -> list[dict[str, Any]]:
        found = self._collection(collection)

        def read() -> Any:
            # PyMongo's async client has to be awaited for the cursor, and then for what it holds.
            cursor = found.aggregate(pipeline)
            if isinstance(cursor, Awaitable):
                return _listed(cursor)
            return cursor.to_list(None) if hasattr(cursor, "to_list") else list(cursor)

        return await self.io(read, op="aggregate")  # type: ignore[no-any-return]

    async def count(self, span: Span) -> int:
        where, _ = self.layout.span(span)
        collection = self._collection(self.layout.shapes[span.kind].collection)
        return int(await self.io(collection.count_documents, where, op="count_documents"))

    # --- Writes -----------------------------------------------------------------------------------------------------

    async def commit(self, writes: Sequence[Write], token: str) -> list[Rev | None]:
        """1 request for one document."""
        changes = await self.io.work(lambda: _is_long(writes), self.layout.changes, writes, token)
        if len(changes) > 1:
            await self._together(changes)
        for change in changes if len(changes) == 1 else ():
            if not await self._apply(change):
                raise Conflict(change.refs)
        return [None if isinstance(write, Delete) else Rev(token) for write in writes]

    async def _apply(self, change: Change, session: Any = None) -> bool:
        """Make a change of one document; False if what it requires is not so."""
        collection = self._collection(change.collection)
        extra = {} if session is None else {"session": session}
        unconditional = all(write.expect is Expect.ANY for write in change.writes)
        for _ in range(ATTEMPTS):
            try:
                return await self._once(collection, change, extra)
            except Conflict:
                # Two writers made the document at once; without an expectation, the later one writes over the other.
                if not unconditional or session is not None:
                    raise Conflict(change.refs) from None
            except PayloadTooLargeError as error:
                ref = change.refs[0]
                raise PayloadTooLargeError(ref.kind, ref.id, error.size, ITEM_LIMIT) from error
        raise Conflict(change.refs)

    async def _once(self, collection: Any, change: Change, extra: dict[str, Any]) -> bool:
        if change.insert is not None:
            await self.io(collection.insert_one, change.insert, op="insert_one", **extra)
            return True
        if change.update is not None:
            result = await self.io(
                collection.update_one, change.where, change.update, upsert=change.upsert, op="update_one", **extra
            )
            return bool(result.matched_count) or change.upsert
        # Whether another record shares the document may change between two looks at it; each look is one operation that
        # takes the record away, or does nothing.
        looks = 1 if change.unless_alone is None else 3
        for look in range(looks):
            if look % 2 == 0:
                removed = await self.io(collection.delete_one, change.where, op="delete_one", **extra)
                done = bool(removed.deleted_count)
            else:
                assert change.unless_alone is not None
                where, update = change.unless_alone
                result = await self.io(collection.update_one, where, update, op="update_one", **extra)
                done = bool(result.matched_count)
            if done:
                return True
        return not change.required

    async def _together(self, changes: Sequence[Change]) -> None:
        """Make changes of several documents in one transaction."""
        if not await self._has_transactions():
            raise UnsupportedTopologyError(
                f"{len(changes)} documents have to change at once, which a standalone MongoDB server cannot do; "
                f"{self.place} has to be a replica set (of one member, at least)"
            )
        connection = self.clients.current()
        session = await _settled(connection.client.start_session())
        try:
            await _settled(
                session.start_transaction(
                    read_concern=ReadConcern("snapshot"), write_concern=connection.database.write_concern
                )
            )
            for change in sorted(changes, key=lambda change: (change.collection, change.refs[0].id)):
                if not await self._apply(change, session):
                    raise Conflict(change.refs)
            await self.io(session.commit_transaction, op="commit_transaction")
        except Conflict as conflict:
            raise conflict if conflict.refs else Conflict([r for c in changes for r in c.refs]) from None
        finally:
            await _settled(session.end_session())  # aborts what was not committed

    async def _has_transactions(self) -> bool:
        if self._transactions is None:
            connection = self.clients.current()
            if connection.mock:
                return False
            hello = await self.io(connection.database.command, "hello", op="hello")
            self._transactions = "setName" in hello or hello.get("msg") == "isdbgrid"
        return self._transactions

    async def write_many(self, writes: Sequence[Write], token: str) -> list[Failed]:
        """1 request for each collection (PyMongo splits what is too much for one)."""
        if any(write.expect is not Expect.ANY and not is_insert(write) for write in writes):
            raise ValueError("write_many takes writes without expectations only, and puts of what is not there")
        failed: list[Failed] = []
        batches: dict[str, list[Change]] = {}
        for group in self.layout.by_document(writes):
            try:
                change = self.layout.change(group, token)
            except PayloadTooLargeError as error:
                failed += [Failed(write, error) for write in group]
            else:
                batches.setdefault(change.collection, []).append(change)
        for collection, changes in batches.items():
            mock = self.clients.current().mock
            failed += await (self._singly(changes) if mock else self._in_bulk(collection, changes))
        return failed

    async def _in_bulk(self, collection: str, changes: Sequence[Change]) -> list[Failed]:
        operations: list[tuple[Any, Change]] = []
        for change in changes:
            operations += [(operation, change) for operation in _operations(change)]
        requests = [operation for operation, _ in operations]
        try:
            await self.io(self._collection(collection).bulk_write, requests, ordered=False, op="bulk_write")
        except BulkWriteError as error:
            details: Mapping[str, Any] = error.details or {}
            unconfirmed = details.get("writeConcernErrors")
            if unconfirmed:
                reason = str(unconfirmed[0].get("errmsg", "write concern error"))
                raise StoreUnavailableError("bulk_write", self.address(), reason, maybe_applied=True) from error
            return await self._after_bulk(operations, details.get("writeErrors", ()), error)
        return []

    async def _after_bulk(self, operations: Any, refused: Any, error: Exception) -> list[Failed]:
        again: list[Change] = []
        failed: list[Failed] = []
        for entry in refused:
            change: Change = operations[entry["index"]][1]
            code = int(entry.get("code", 0))
            if code in DUPLICATE:
                again.append(change)  # two writers made the document at once
                continue
            ours = of_code(self.address(), "bulk_write", code, _Refused(str(entry.get("errmsg", ""))))
            ours.__cause__ = error
            failed += [Failed(write, ours) for write in change.writes]
        return failed + await self._singly(again)

    async def _singly(self, changes: Sequence[Change]) -> list[Failed]:
        failed: list[Failed] = []
        for change in changes:
            try:
                await self._apply(change)
            except StoreUnavailableError:
                raise
            except DocstoreError as error:
                failed += [Failed(write, error) for write in change.writes]
        return failed

    async def add(
        self,
        ref: Ref,
        deltas: Mapping[str, int],
        guard: Sequence[Condition],
        token: str,
        also: Fields = MappingProxyType({}),
    ) -> Stored | None:
        """1 request; 1 more to tell why, where nothing was there to add to or the guard does not hold."""
        shape = self.layout.shapes[ref.kind]
        if all(type(condition) in PUSHES for condition in guard):
            where = [{"_id": {"$eq": ref.id}}, shape.present]
            where += [self.layout.matching(shape, condition) for condition in guard]
            where += [{shape.path(name): {"$ne": None}} for name in deltas]
            found = await self.io(
                self._collection(shape.collection).find_one_and_update,
                {"$and": where},
                {
                    "$inc": {shape.path(name): delta for name, delta in deltas.items()},
                    "$set": {
                        **{shape.path(name): encode_field(value) for name, value in also.items()},
                        shape.rev: token,
                    },
                },
                projection=self.layout.projection(shape.collection, [ref.kind]),
                return_document=ReturnDocument.AFTER,
                op="find_one_and_update",
            )
            if found is not None:
                return shape.stored(found)
        # No record, a guard that does not hold, or what `$inc` does not take: a null, which counts as 0.
        for _ in range(ATTEMPTS):
            current = await self.get(ref)
            if current is None or not all(condition.holds(current.fields) for condition in guard):
                return None
            fields = added(current, deltas, also)
            try:
                await self.commit([Put(ref, fields, current.body or {}, current.rev, current.expires_at)], token)
            except Conflict:
                continue
            return replace(current, fields=fields, rev=Rev(token))
        raise Conflict([ref])

    async def delete_children(self, parent: str, kind: Kind, where: Sequence[Condition] = ()) -> bool:
        """1 request, whatever their number; the server reads neither them nor us their bodies."""
        shape = self.layout.shapes[kind.name]
        if kind.parent is None or shape.part is not None or len(self.layout.sharing(shape.collection)) > 1:
            return False
        if any(type(condition) not in PUSHES for condition in where):
            return False
        clauses = [{kind.parent: {"$eq": parent}}, shape.present]
        clauses += [self.layout.matching(shape, condition) for condition in where]
        await self.io(self._collection(shape.collection).delete_many, {"$and": clauses}, op="delete_many")
        return True

    async def totals(
        self, kind: Kind, parents: Sequence[str], sums: Sequence[str]
    ) -> dict[str, tuple[int, ...]] | None:
        """1 request; the server reads the children, of which only the totals cross the wire."""
        shape = self.layout.shapes[kind.name]
        if kind.parent is None or shape.part is not None:
            return None
        alive = self.layout.alive(shape, int(self.io.now()))
        pipeline = [
            {"$match": {kind.parent: {"$in": list(parents)}, **shape.present, **alive}},
            {"$group": {"_id": f"${kind.parent}", "n": {"$sum": 1}, **{name: {"$sum": f"${name}"} for name in sums}}},
        ]
        rows = await self._aggregate(shape.collection, pipeline)
        return {row["_id"]: (row["n"], *(row[name] for name in sums)) for row in rows}


def _is_long(writes: Sequence[Write]) -> bool:
    """Whether to make documents of these takes long enough to hold up an event loop."""
    return sum(len(part.text) for w in writes if isinstance(w, Put) for part in w.body.values()) >= LONG


class _Refused(Exception):
    """One refusal of a bulk write."""


def _operations(change: Change) -> list[Any]:
    """A change as requests of an unordered bulk write, right in whichever order they are made."""
    if change.insert is not None:
        return [InsertOne(change.insert)]
    if change.update is not None:
        return [UpdateOne(change.where, change.update, upsert=change.upsert)]
    beside = [] if change.unless_alone is None else [UpdateOne(*change.unless_alone)]
    return [DeleteOne(change.where), *beside]


async def _listed(cursor: Awaitable[Any]) -> Any:
    return await (await cursor).to_list(None)


async def _settled(result: Any) -> Any:
    """The result of a client's method that makes no request, which async clients may give as a coroutine."""
    return await result if isinstance(result, Awaitable) else result

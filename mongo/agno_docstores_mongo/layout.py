"""How records lie in documents: one collection for a table, the logical id as `_id`, natural fields at the top.

Invariants: a record exists where its `_rev` is a string, so that documents of another origin are not records and are
never touched. A kind `within` another lives in a sub-document of the other's document, named by its own singular
(`histories` -> `history`); each of the two comes and goes without the other, and the document goes with the last of
them. All writes of one commit to one document are one `Change`: one atomic operation that holds every expectation. What
a caller handed in stands in a filter only under `$eq`, `$in` and the like, never as a filter.

Nothing here talks to a server.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import bson

from agno_docstores.codec import LONG
from agno_docstores.errors import CorruptRecordError, PayloadTooLargeError
from agno_docstores.port import (
    EVERYTHING,
    Condition,
    Contains,
    Delete,
    Eq,
    Expect,
    Has,
    In,
    Kind,
    NotIn,
    Predicate,
    Put,
    Range,
    Ref,
    Rev,
    Span,
    Stored,
    Touch,
    Write,
)
from agno_docstores_mongo.values import (
    as_text,
    decode,
    decode_field,
    decode_time,
    encode,
    encode_field,
    encode_time,
    marked,
)

Document = dict[str, Any]
Filter = dict[str, Any]

REV = "_rev"
EXPIRES = "_expires_at"  # not a declared name of any kind; `expires_at` is one
ITEM_LIMIT = 16 * 1024 * 1024 - 64 * 1024  # bytes: the server's 16 MiB, less a command around it and the other record
ROOM = 1_000_000  # bytes of that which one record leaves to others that share its document
_LOOK_CLOSER = 2_000_000  # characters of JSON from which on a document is measured before it is sent
#: The conditions that `matching` expresses completely. `Contains` would take a regular expression.
PUSHES: frozenset[type] = frozenset({Eq, Has, Range, In, NotIn})


@dataclass(frozen=True, slots=True)
class Shape:
    """Where the records of a kind are: a collection, and the sub-document (None: the document itself)."""

    kind: Kind
    collection: str
    part: str | None

    def path(self, name: str) -> str:
        return name if self.part is None else f"{self.part}.{name}"

    @property
    def rev(self) -> str:
        return self.path(REV)

    @property
    def present(self) -> Filter:
        return {self.rev: {"$type": "string"}}

    def stored(self, document: Document, *, body: bool = True) -> Stored | None:
        """The record of this kind in a document; None if there is none. Raises `CorruptRecordError`."""
        id = document.get("_id")
        record = document if self.part is None else document.get(self.part)
        token = record.get(REV) if isinstance(record, dict) else None
        if not isinstance(record, dict) or not isinstance(token, str) or not isinstance(id, str):
            return None
        kind = self.kind
        try:
            fields = {name: decode_field(record.get(name)) for name in kind.fields}
            parts = {name: decode(record[name]) for name in kind.parts if name in record} if body else None
            expires_at = decode_time(record.get(EXPIRES))
        except ValueError as error:
            raise CorruptRecordError(kind.name, id, str(error)) from error
        parent, order = fields.get(kind.parent or ""), fields.get(kind.order or "")
        ref = Ref(kind.name, id, parent if isinstance(parent, str) else None, order if isinstance(order, int) else None)
        return Stored(ref, Rev(token), fields, parts, expires_at)

    def has_long_text(self, document: Document) -> bool:
        """Whether a part of the record in a document is in the marked form, and long."""
        record = document if self.part is None else document.get(self.part)
        texts = (marked(record.get(name)) for name in self.kind.parts) if isinstance(record, dict) else ()
        return any(text is not None and len(text) >= LONG for text in texts)

    def record(self, put: Put, token: str, *, text: bool) -> Document:
        """What a put stores; `text`: all body parts in the marked form."""
        turn = as_text if text else encode
        document: Document = {}
        for name in self.kind.fields:
            value = put.fields.get(name)
            if value is not None:
                document[name] = encode_field(value)
            elif name not in self.kind.unique:
                document[name] = None
        document.update((name, turn(put.body[name])) for name in self.kind.parts if name in put.body)
        document[REV] = token
        if put.expires_at is not None:
            document[EXPIRES] = encode_time(put.expires_at)
        return document

    def names(self) -> tuple[str, ...]:
        return (*self.kind.fields, *self.kind.parts, REV, EXPIRES)


@dataclass(frozen=True, slots=True)
class Change:
    """All writes of a commit to one document, as one operation.

    `insert`, or `update` under `where`, or the removal of what is at `where`. `required`: no match is a conflict.
    `unless_alone`: of a removal that leaves another record of the document standing, if there is one: the filter that
    finds such, and the update that takes only this record away.
    """

    collection: str
    writes: tuple[Write, ...]
    where: Filter
    insert: Document | None = None
    update: Document | None = None
    upsert: bool = False
    required: bool = False
    unless_alone: tuple[Filter, Document] | None = None

    @property
    def refs(self) -> list[Ref]:
        return [write.ref for write in self.writes]


class Layout:
    """The shapes of all kinds, and the translation of what crosses the port into filters, documents and updates."""

    def __init__(self, kinds: Mapping[str, Kind], tables: Mapping[str, str]) -> None:
        self.shapes: dict[str, Shape] = {}
        owners: dict[str, str] = {}
        for name, kind in kinds.items():
            if kind.within is None:
                # A second kind of documents under one table name gets a collection beside it: ids must not meet.
                owner = owners.setdefault(tables[name], name)
                collection = tables[name] if owner == name else f"{tables[name]}.{name}"
                self.shapes[name] = Shape(kind, collection, None)
        for name, kind in kinds.items():
            if kind.within is not None:
                self.shapes[name] = Shape(kind, self.shapes[kind.within].collection, _singular(name))

        self._sharing: dict[str, list[Shape]] = {}
        for shape in self.shapes.values():
            self._sharing.setdefault(shape.collection, []).append(shape)

    def sharing(self, collection: str) -> list[Shape]:
        """The shapes in the documents of a collection."""
        return self._sharing[collection]

    # --- Writes -----------------------------------------------------------------------------------------------------

    def changes(self, writes: Sequence[Write], token: str) -> list[Change]:
        """The writes of a commit by document. Raises `PayloadTooLargeError`."""
        return [self.change(group, token) for group in self.by_document(writes)]

    def by_document(self, writes: Iterable[Write]) -> list[list[Write]]:
        groups: dict[tuple[str, str], list[Write]] = {}
        for write in writes:
            groups.setdefault((self.shapes[write.ref.kind].collection, write.ref.id), []).append(write)
        return list(groups.values())

    def change(self, writes: Sequence[Write], token: str) -> Change:
        """The one operation that makes these writes to one document. Raises `PayloadTooLargeError`."""
        text = self._measure(writes, token)
        collection = self.shapes[writes[0].ref.kind].collection
        sharing = self.sharing(collection)
        id = writes[0].ref.id
        where: Filter = {"_id": {"$eq": id}}
        for write in writes:
            where.update(self._expectation(write))
        if all(isinstance(write, Delete) for write in writes):
            return self._removal(collection, sharing, writes, where)
        puts = [write for write in writes if isinstance(write, Put)]
        if len(puts) == len(sharing) and all(put.expect is Expect.ABSENT for put in puts):
            return Change(collection, tuple(writes), where, insert=self._inserted(id, puts, token, text=text))
        # Where each record may be absent, the document may be: then it is made, and `_id` excludes another maker.
        upsert = bool(puts) and all(isinstance(w.expect, Expect) and not isinstance(w, Touch) for w in writes)
        update = self._update(writes, token, text=text)
        return Change(collection, tuple(writes), where, update=update, upsert=upsert, required=not upsert)

    def _expectation(self, write: Write) -> Filter:
        shape = self.shapes[write.ref.kind]
        if isinstance(write.expect, Rev):
            return {shape.rev: {"$eq": write.expect.token}}
        if write.expect is Expect.ABSENT:
            return {shape.rev: {"$exists": False}}
        return shape.present if isinstance(write, Touch) else {}

    def _removal(self, collection: str, sharing: list[Shape], writes: Sequence[Write], where: Filter) -> Change:
        required = any(isinstance(write.expect, Rev) for write in writes)
        going = {write.ref.kind for write in writes}
        staying = [shape for shape in sharing if shape.kind.name not in going]
        if not staying:
            # `$type` as well: a document of another origin that has this id is not ours to remove.
            ours = where if required else {**where, "$or": [shape.present for shape in sharing]}
            return Change(collection, tuple(writes), ours, required=required)
        alone = {**where, **{shape.rev: {"$exists": False} for shape in staying}}
        if not required:
            alone["$or"] = [self.shapes[kind].present for kind in sorted(going)]
        taken: dict[str, str] = {}
        for kind in going:
            taken.update(self._unset(self.shapes[kind], ()))
        beside = ({**where, "$or": [shape.present for shape in staying]}, {"$unset": taken})
        return Change(collection, tuple(writes), alone, required=required, unless_alone=beside)

    def _inserted(self, id: str, puts: Sequence[Put], token: str, *, text: bool) -> Document:
        document: Document = {"_id": id}
        for put in sorted(puts, key=lambda put: self.shapes[put.ref.kind].part is not None):
            shape = self.shapes[put.ref.kind]
            record = shape.record(put, token, text=text)
            document.update(record if shape.part is None else {shape.part: record})
        return document

    def _update(self, writes: Sequence[Write], token: str, *, text: bool) -> Document:
        new: Document = {}
        gone: dict[str, str] = {}
        for write in writes:
            shape = self.shapes[write.ref.kind]
            if isinstance(write, Delete):
                gone.update(self._unset(shape, ()))
            elif isinstance(write, Touch):
                new[shape.rev] = token
                if write.expires_at is None:
                    gone[shape.path(EXPIRES)] = ""
                else:
                    new[shape.path(EXPIRES)] = encode_time(write.expires_at)
            elif shape.part is not None:
                new[shape.part] = shape.record(write, token, text=text)
            else:
                record = shape.record(write, token, text=text)
                new.update(record)
                gone.update(self._unset(shape, record))
        return {name: operand for name, operand in (("$set", new), ("$unset", gone)) if operand}

    @staticmethod
    def _unset(shape: Shape, keep: Iterable[str]) -> dict[str, str]:
        if shape.part is not None:
            return {shape.part: ""}
        return {name: "" for name in shape.names() if name not in keep}

    def _measure(self, writes: Sequence[Write], token: str) -> bool:
        """Whether the bodies have to be stored as text to fit (a list of numbers takes several times its text when it
        is native). Raises `PayloadTooLargeError` if they do not fit as that either."""
        puts = [write for write in writes if isinstance(write, Put)]
        if sum(len(part.text) for put in puts for part in put.body.values()) < _LOOK_CLOSER:
            return False
        for text in (False, True):
            # Surely too large; do not build it to find out.
            size = max(len(part.text) for put in puts for part in put.body.values()) if text else 0
            if size <= ITEM_LIMIT:
                size = len(bson.encode(self._inserted(puts[0].ref.id, puts, token, text=text)))
            if size <= ITEM_LIMIT:
                return text
        largest = max(puts, key=lambda put: sum(len(part.text) for part in put.body.values()))
        raise PayloadTooLargeError(largest.ref.kind, largest.ref.id, size, ITEM_LIMIT)

    # --- Reads ------------------------------------------------------------------------------------------------------

    def projection(self, collection: str, kinds: Iterable[str], *, body: bool = True) -> dict[str, int] | None:
        """What to read of a document for these kinds; None for all of it."""
        wanted = [self.shapes[kind] for kind in kinds]
        if body:
            parts = {shape.part for shape in self.sharing(collection)}
            needed = {shape.part for shape in wanted}
            if None in needed:
                return dict.fromkeys(sorted(filter(None, parts - needed)), 0) or None
            return dict.fromkeys(sorted(filter(None, needed)), 1)
        names = [shape.path(name) for shape in wanted for name in (*shape.kind.fields, REV, EXPIRES)]
        return dict.fromkeys(names, 1)

    def span(self, span: Span) -> tuple[Filter, list[tuple[str, int]]]:
        """The filter of a span (without its cursor), and its order."""
        shape = self.shapes[span.kind]
        clauses: list[Filter] = [shape.present]
        clauses += [self.matching(shape, condition) for condition in span.where if type(condition) in PUSHES]
        if span.alive_at is not None:
            clauses.append(self.alive(shape, span.alive_at))
        direction = -1 if span.descending else 1
        if span.index == EVERYTHING:
            return {"$and": clauses}, [("_id", direction)]
        index = shape.kind.index(span.index)
        for name, value in zip(index.eq, span.eq, strict=True):
            # Null has no entry, and neither has what is missing.
            clauses.append({shape.path(name): {"$eq": encode_field(value)} if value is not None else {"$in": []}})
        bounds = {
            operator: encode_field(value)
            for operator, value in (("$gte", span.low), ("$lte", span.high))
            if value is not None
        }
        if bounds:
            clauses.append({shape.path(index.sort): bounds})
        return {"$and": clauses}, [(shape.path(index.sort), direction), ("_id", direction)]

    @staticmethod
    def alive(shape: Shape, now: int) -> Filter:
        """That a record has not expired by then."""
        path = shape.path(EXPIRES)
        return {"$or": [{path: None}, {path: {"$gt": encode_time(now)}}]}

    def after(self, span: Span) -> Filter:
        """What comes after the cursor `(sort value, id)` of a span, in its order. Null is the least."""
        shape = self.shapes[span.kind]
        beyond = "$lt" if span.descending else "$gt"
        value, id = span.after
        if span.index == EVERYTHING:
            return {"_id": {beyond: id}}
        path = shape.path(shape.kind.index(span.index).sort)
        same: Filter = {path: {"$eq": value}, "_id": {beyond: id}}
        if value is None:
            return same if span.descending else {"$or": [same, {path: {"$ne": None}}]}
        # A comparison is between values of one type, so null has to be named. The second clause follows from the
        # first; it is what an index can begin at.
        further: Filter = {path: {beyond: value}}
        if span.descending:
            return {"$or": [further, same, {path: {"$eq": None}}], path: {"$not": {"$gt": value}}}
        return {"$or": [further, same], path: {"$gte": value}}

    def cursor(self, span: Span, last: Stored) -> Any:
        """The cursor behind a record of a span."""
        if span.index == EVERYTHING:
            return (None, last.ref.id)
        return (encode_field(last.fields.get(self.shapes[span.kind].kind.index(span.index).sort)), last.ref.id)

    def matching(self, shape: Shape, condition: Condition) -> Filter:
        """The filter of a condition of `PUSHES`."""
        match condition:
            case Eq() | Has():
                return {shape.path(condition.field): {"$eq": encode_field(condition.value)}}
            case In():
                return {shape.path(condition.field): {"$in": [encode_field(value) for value in condition.values]}}
            case NotIn():
                return {shape.path(condition.field): {"$nin": [encode_field(value) for value in condition.values]}}
            case Range():
                bounds = {
                    operator: encode_field(value)
                    for operator, value in (("$gte", condition.low), ("$lte", condition.high))
                    if value is not None
                }
                return {shape.path(condition.field): bounds or {"$ne": None}}
            case Contains() | Predicate():
                raise TypeError(f"{type(condition).__name__} is not expressed as a filter")

    # --- Storage ----------------------------------------------------------------------------------------------------

    def indexes(self, collection: str) -> list[tuple[str, tuple[tuple[str, int], ...], dict[str, Any]]]:
        """The indexes of a collection: name, keys in equality-sort order, options."""
        wanted: list[tuple[str, tuple[tuple[str, int], ...], dict[str, Any]]] = []
        for shape in self.sharing(collection):
            for index in shape.kind.indexes:
                keys = (*((shape.path(name), 1) for name in (*index.eq, index.sort)), ("_id", 1))
                wanted.append((index.name if shape.part is None else f"{shape.part}_{index.name}", keys, {}))
            for name in shape.kind.unique:
                # Sparse: null is not stored, so it has no entry.
                wanted.append((f"only_{name}", ((shape.path(name), 1),), {"unique": True, "sparse": True}))
        # Sparse: only what expires has an entry.
        wanted.append(("expiry", ((EXPIRES, 1),), {"expireAfterSeconds": 0, "sparse": True}))
        return wanted


def _singular(name: str) -> str:
    return name[:-3] + "y" if name.endswith("ies") else name.removesuffix("s")

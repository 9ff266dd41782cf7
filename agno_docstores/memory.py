"""The memory store: the reference implementation of the port, and the place to simulate what real stores do.

`MemoryStore` holds the data, so that several handles can share it. What it can be told to simulate: commits of one
document only (`atomic=False`, as on a MongoDB standalone), indexes that lag behind (`lag_indexes()`), a limit on record
size. Requests are counted by the gateway, as for every store.

Data survive a restart where the store is given hooks (`persistence.py`): what they load it begins with, and after every
write it saves the whole, before the write is acknowledged. A write that could not be saved is taken back and raises.
"""

from __future__ import annotations

import secrets
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any, Unpack

from agno_docstores import keys
from agno_docstores.codec import Json
from agno_docstores.errors import Conflict, PayloadTooLargeError, StoreError, UnsupportedTopologyError
from agno_docstores.facade import AsyncDocstore, Docstore, StorePlugin
from agno_docstores.io import AsyncIo, Io, SyncIo
from agno_docstores.options import StoreOptions
from agno_docstores.persistence import Hooks, Persistence, Records, Snapshot, restored, snapshot_of
from agno_docstores.port import (
    EVERYTHING,
    Condition,
    Contains,
    Delete,
    Driver,
    Eq,
    Expect,
    Failed,
    Fields,
    FieldValue,
    Has,
    In,
    Kind,
    NotIn,
    Page,
    Put,
    Range,
    Ref,
    Rev,
    Span,
    Stored,
    Write,
    added,
    as_int,
)


@dataclass
class MemoryStore:
    """The data behind one or more handles. `item_limit`: bytes of one record's body, None for no limit. `persistence`:
    where the data come from and go to; what it loads is loaded now. `name` tells this store from others, also after a
    restart."""

    atomic: bool = True
    item_limit: int | None = None
    records: Records = field(default_factory=dict)
    tables: set[str] = field(default_factory=set)
    lock: threading.RLock = field(default_factory=threading.RLock)
    persistence: Persistence | None = None
    name: str = field(default_factory=lambda: secrets.token_hex(10))
    saves: int = 0
    _lagging: Records | None = None

    def __post_init__(self) -> None:
        found = self.persistence.load() if self.persistence is not None else None
        if found is not None:
            self.name, self.saves, self.tables, self.records = restored(found)

    @contextmanager
    def writing(self, operation: str) -> Iterator[None]:
        """A change of the data, alone; saved at the end, and taken back if it, or its saving, fails."""
        with self.lock:
            if self.persistence is None:
                yield
                return
            before, tables = {space: dict(records) for space, records in self.records.items()}, set(self.tables)
            try:
                yield
                if self.records != before or self.tables != tables:
                    self._save(self.persistence, operation)
            except BaseException:
                self.records, self.tables = before, tables
                raise

    def _save(self, persistence: Persistence, operation: str) -> None:
        try:
            persistence.save(snapshot_of(self.name, self.saves + 1, self.tables, self.records))
        except Exception as error:
            raise StoreError(operation, "memory", f"not stored, because it could not be saved: {error}") from error
        self.saves += 1

    def lag_indexes(self) -> None:
        """From now on, index reads that are not declared strong see the store as it is at this moment."""
        with self.lock:
            self._lagging = {space: dict(records) for space, records in self.records.items()}

    def catch_up(self) -> None:
        self._lagging = None

    def indexed(self, space: str, strong: bool) -> dict[str, Stored]:
        source = self.records if strong or self._lagging is None else self._lagging
        return source.get(space, {})


class MemoryDriver(Driver):
    store = "memory"
    implicit_tables = False
    pushes = frozenset({Eq, Has, Range, In, NotIn, Contains})

    def __init__(self, io: Io, kinds: Mapping[str, Kind], tables: Mapping[str, str], store: MemoryStore) -> None:
        super().__init__(io, kinds, tables)
        self.data = store
        self.atomic = store.atomic
        self.unique = not store.atomic

    @property
    def item_bytes(self) -> int | None:  # type: ignore[override]
        return self.data.item_limit

    def stored_bytes(self, put: Put) -> int:
        return 2 + sum(len(name) + 4 + part.size for name, part in put.body.items())

    def address(self) -> str:
        return "memory"

    def create_command(self, kind: str) -> str:
        return "agno-docstores provision memory"

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def ensure(self, kinds: Sequence[Kind]) -> None:
        with self.data.writing("ensure"):
            self.data.tables |= {self.tables[kind.name] for kind in kinds}

    async def drop(self) -> None:
        await self.io(self._drop, op="drop")

    async def exists(self, table: str) -> bool:
        return table in self.data.tables

    async def get(self, ref: Ref) -> Stored | None:
        found: list[Stored | None] = await self.io(self._get, [ref], op="get")
        return found[0]

    async def get_many(self, refs: Sequence[Ref]) -> list[Stored | None]:
        return await self.io(self._get, refs, op="get_many")  # type: ignore[no-any-return]

    async def commit(self, writes: Sequence[Write], token: str) -> list[Rev | None]:
        return await self.io(self._commit, writes, token, op="commit")  # type: ignore[no-any-return]

    async def write_many(self, writes: Sequence[Write], token: str) -> list[Failed]:
        return await self.io(self._write_many, writes, token, op="write_many")  # type: ignore[no-any-return]

    async def scan(self, span: Span) -> Page:
        return await self.io(self._scan, span, op="scan")  # type: ignore[no-any-return]

    async def count(self, span: Span) -> int:
        return len((await self.io(self._scan, replace(span, body=False, limit=None), op="count")).records)

    async def add(
        self,
        ref: Ref,
        deltas: Mapping[str, int],
        guard: Sequence[Condition],
        token: str,
        also: Fields = MappingProxyType({}),
    ) -> Stored | None:
        return await self.io(self._add, ref, deltas, guard, token, also, op="add")  # type: ignore[no-any-return]

    async def totals(
        self, kind: Kind, parents: Sequence[str], sums: Sequence[str]
    ) -> dict[str, tuple[int, ...]] | None:
        """1 request. Where commits span records, None: there the kernel keeps the totals with what they count."""
        if self.atomic:
            return None
        return await self.io(self._totals, kind, parents, sums, op="totals")  # type: ignore[no-any-return]

    async def page_and_count(self, span: Span, offset: int) -> tuple[list[Stored], int] | None:
        """1 request. Where commits span records, None: two requests stand for those stores that need them."""
        if self.atomic:
            return None
        whole = replace(span, body=False, limit=None, after=None)
        found: list[Stored] = (await self.io(self._scan, whole, op="page_and_count")).records
        return found[offset : None if span.limit is None else offset + span.limit], len(found)

    # --- The store itself, under its lock ---------------------------------------------------------------------------

    def _space(self, kind: str) -> str:
        return f"{self.tables[kind]}/{kind}"

    def _get(self, refs: Sequence[Ref]) -> list[Stored | None]:
        with self.data.lock:
            return [self._copy(self.data.records.get(self._space(ref.kind), {}).get(ref.id), True) for ref in refs]

    def _commit(self, writes: Sequence[Write], token: str) -> list[Rev | None]:
        documents = {(self.kinds[w.ref.kind].within or w.ref.kind, w.ref.id) for w in writes}
        if len(documents) > 1 and not self.data.atomic:
            raise UnsupportedTopologyError(f"{len(documents)} documents in one commit")
        for write in writes:
            self._check_size(write)
        with self.data.writing("commit"):
            failed = [write.ref for write in writes if not self._expected(write) or self._is_taken(write)]
            if failed:
                raise Conflict(failed)
            return [self._apply(write, token) for write in writes]

    def _write_many(self, writes: Sequence[Write], token: str) -> list[Failed]:
        failed = []
        with self.data.writing("write_many"):
            for write in writes:
                try:
                    self._check_size(write)
                    if not self._expected(write) or self._is_taken(write):
                        raise Conflict([write.ref])
                    self._apply(write, token)
                except (PayloadTooLargeError, Conflict) as error:
                    failed.append(Failed(write, error))
        return failed

    def _drop(self) -> None:
        with self.data.writing("drop"):
            self.data.tables -= set(self.tables.values())
            for kind in self.kinds:
                self.data.records.pop(self._space(kind), None)

    def _check_size(self, write: Write) -> None:
        if self.data.item_limit is not None and isinstance(write, Put):
            size = self.stored_bytes(write)
            if size > self.data.item_limit:
                raise PayloadTooLargeError(write.ref.kind, write.ref.id, size, self.data.item_limit)

    def _expected(self, write: Write) -> bool:
        current = self.data.records.get(self._space(write.ref.kind), {}).get(write.ref.id)
        if write.expect is Expect.ANY:
            return isinstance(write, Put | Delete) or current is not None
        if write.expect is Expect.ABSENT:
            return current is None
        return current is not None and current.rev == write.expect

    def _is_taken(self, write: Write) -> bool:
        """Whether another record has a value that must be unique, where it is this driver that sees to it."""
        names = self.kinds[write.ref.kind].unique if self.unique and isinstance(write, Put) else ()
        others = self.data.records.get(self._space(write.ref.kind), {}).values() if names else ()
        return any(
            other.ref.id != write.ref.id and other.fields.get(name) == value
            for name in names
            if isinstance(write, Put) and (value := write.fields.get(name)) is not None
            for other in others
        )

    def _apply(self, write: Write, token: str) -> Rev | None:
        space = self.data.records.setdefault(self._space(write.ref.kind), {})
        self.data.tables.add(self.tables[write.ref.kind])
        if isinstance(write, Delete):
            space.pop(write.ref.id, None)
            return None
        kind = self.kinds[write.ref.kind]
        rev = Rev(token)
        if not isinstance(write, Put):
            space[write.ref.id] = replace(space[write.ref.id], expires_at=write.expires_at, rev=rev)
            return rev
        fields = {name: write.fields.get(name) for name in kind.fields}
        body: dict[str, Json] = {name: write.body[name] for name in kind.parts if name in write.body}
        parent, order = fields.get(kind.parent or ""), fields.get(kind.order or "")
        ref = Ref(
            write.ref.kind,
            write.ref.id,
            parent if isinstance(parent, str) else None,
            order if isinstance(order, int) else None,
        )
        space[write.ref.id] = Stored(ref, rev, fields, body, write.expires_at)
        return rev

    def _totals(self, kind: Kind, parents: Sequence[str], sums: Sequence[str]) -> dict[str, tuple[int, ...]]:
        now = self.io.now()
        with self.data.lock:
            records = list(self.data.records.get(self._space(kind.name), {}).values())
        children: dict[str, list[Stored]] = {parent: [] for parent in parents}
        for record in records:
            if record.ref.parent in children and (record.expires_at is None or record.expires_at > now):
                children[record.ref.parent].append(record)
        return {
            parent: (len(own), *(sum(as_int(record.fields.get(name)) for record in own) for name in sums))
            for parent, own in children.items()
        }

    def _add(
        self, ref: Ref, deltas: Mapping[str, int], guard: Sequence[Condition], token: str, also: Fields
    ) -> Stored | None:
        with self.data.writing("add"):
            space = self.data.records.get(self._space(ref.kind), {})
            current = space.get(ref.id)
            if current is None or not all(condition.holds(current.fields) for condition in guard):
                return None
            space[ref.id] = replace(current, fields=added(current, deltas, also), rev=Rev(token))
            return self._copy(space[ref.id], True)

    def _scan(self, span: Span) -> Page:
        kind = self.kinds[span.kind]
        strong = span.index != EVERYTHING and kind.index(span.index).strong
        with self.data.lock:
            entries = sorted(self._entries(kind, span, self.data.indexed(self._space(span.kind), strong)))
            if span.descending:
                entries.reverse()
                start = 0 if span.after is None else sum(1 for entry in entries if entry[0] >= span.after)
            else:
                start = 0 if span.after is None else bisect_right([entry[0] for entry in entries], span.after)
            entries = entries[start:]
            more = span.limit is not None and len(entries) > span.limit
            entries = entries[: span.limit]
            space = self.data.indexed(self._space(span.kind), strong)
            records = [self._copy(space[id], span.body) for _, id in entries]
        return Page([r for r in records if r is not None], entries[-1][0] if more and entries else None)

    def _entries(self, kind: Kind, span: Span, records: dict[str, Stored]) -> list[tuple[str, str]]:
        found = []
        for id, record in records.items():
            if not all(condition.holds(record.fields) for condition in span.where):
                continue
            if span.alive_at is not None and record.expires_at is not None and record.expires_at <= span.alive_at:
                continue
            if span.index == EVERYTHING:
                found.append((keys.encode((id,)), id))
                continue
            index = kind.index(span.index)
            if all(self._agrees(record.fields.get(f), v) for f, v in zip(index.eq, span.eq, strict=True)):
                value = record.fields.get(index.sort)
                if value is None and (span.low is not None or span.high is not None):
                    continue
                sort = keys.encode((None if isinstance(value, tuple) else value,))
                if span.low is not None and sort < keys.encode((span.low,)):
                    continue
                if span.high is not None and sort > keys.encode((span.high,)):
                    continue
                found.append((sort + keys.encode((id,)), id))
        return found

    @staticmethod
    def _agrees(stored: FieldValue, asked: Any) -> bool:
        return asked in stored if isinstance(stored, tuple) else stored is not None and stored == asked

    @staticmethod
    def _copy(record: Stored | None, body: bool) -> Stored | None:
        if record is None:
            return None
        return replace(record, fields=dict(record.fields), body=dict(record.body or {}) if body else None)


def _store(
    store: MemoryStore | None,
    load: Callable[[], Snapshot | None] | None,
    save: Callable[[Snapshot], None] | None,
    persist: Persistence | None,
) -> MemoryStore:
    """The store that a docstore's arguments mean."""
    given = [name for name, value in (("store", store), ("persist", persist), ("load/save", load or save)) if value]
    if len(given) > 1:
        raise ValueError(f"give one of {', '.join(given)}")
    if store is not None:
        return store
    if load is not None or save is not None:
        persist = Hooks(load, save)
    if persist is not None and not all(callable(getattr(persist, name, None)) for name in ("load", "save")):
        raise TypeError(f"persist must have load and save, as JsonFile has: {persist!r}")
    return MemoryStore(persistence=persist)


class MemoryDocstore(Docstore):
    """Everything in this process's memory: for development and tests, and as the reference of the other stores."""

    def __init__(
        self,
        *,
        store: MemoryStore | None = None,
        load: Callable[[], Snapshot | None] | None = None,
        save: Callable[[Snapshot], None] | None = None,
        persist: Persistence | None = None,
        **options: Unpack[StoreOptions],
    ) -> None:
        """`store`: the data, to be shared by several handles. Or hooks, by which new data survive a restart:
        `load()` gives a snapshot (a dict that JSON can hold) or None, and is called here; `save(snapshot)` is called
        after every write with all there is, in the writer's thread, before the write is acknowledged; what it raises
        becomes a `StoreError`, and the write is taken back. `persist`: an object with both, such as `JsonFile(path)`.

        Each write costs time in proportion to all data: some 20 ms for each megabyte with a `JsonFile`.
        """
        self.store = _store(store, load, save, persist)
        super().__init__(
            lambda kinds, tables: MemoryDriver(SyncIo(), kinds, tables, self.store),
            identity=("memory", str(options.get("id") or self.store.name)),
            **options,
        )


class AsyncMemoryDocstore(AsyncDocstore):
    """`MemoryDocstore` for async agents."""

    def __init__(
        self,
        *,
        store: MemoryStore | None = None,
        load: Callable[[], Snapshot | None] | None = None,
        save: Callable[[Snapshot], None] | None = None,
        persist: Persistence | None = None,
        **options: Unpack[StoreOptions],
    ) -> None:
        """As `MemoryDocstore`. The hooks are plain functions here, too (a coroutine function is a `TypeError`), and the
        event loop waits for them: a store for development."""
        self.store = _store(store, load, save, persist)
        super().__init__(
            lambda kinds, tables: MemoryDriver(AsyncIo(), kinds, tables, self.store),
            identity=("memory", str(options.get("id") or self.store.name)),
            blocking=partial(MemoryDocstore, store=self.store),
            **options,
        )


STORE = StorePlugin("memory", MemoryDocstore, AsyncMemoryDocstore)

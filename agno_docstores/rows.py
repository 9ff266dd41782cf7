"""Tables whose rows are written and read as they are: schedules, approvals, accounts and the like.

A row is a dict of a table's columns. Its record holds it whole, as JSON, in one body part; header fields are copies of
the columns that filters and orders look at, and what a domain derives from them. Invariants: a row has all columns of
its table and no other; a change is one atomic step on the row as it is; a listing's total is that of the filtered set;
what the contract has a method swallow is logged with its ids, so that a failure can be seen.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, TypeVar

from agno_docstores.codec import NULL, Json
from agno_docstores.domains.listing import label, plain
from agno_docstores.errors import Conflict, ContentionError, CorruptRecordError, StoreError
from agno_docstores.kernel import Kernel, Query
from agno_docstores.keys import check_id
from agno_docstores.port import Condition, Delete, Expect, Expectation, Fields, FieldValue, Kind, Put, Ref, Rev, Stored

log = logging.getLogger("agno_docstores")

Row = dict[str, Any]
T = TypeVar("T")
#: What a store fails with, as opposed to what a caller does wrong.
FAILURES = (StoreError, ContentionError, CorruptRecordError)


@dataclass(frozen=True, slots=True)
class Table:
    """A table as a kind. `columns`: all of it, in Agno's order, the first its key. `required`: of these, what may not
    be null. `defaults`: what a new row has that does not say. `derive`: header fields that are functions of the row.
    """

    kind: Kind
    columns: tuple[str, ...]
    required: frozenset[str]
    defaults: Mapping[str, Any]
    derive: Callable[[Row], Mapping[str, FieldValue]]

    @property
    def key(self) -> str:
        return self.columns[0]

    def ref(self, id: Any) -> Ref:
        """Raises `InvalidIdError`."""
        return Ref(self.kind.name, check_id(self.key, id))

    def row(self, stored: Stored) -> Row:
        """The row that a record stands for. Fresh objects each time."""
        (part,) = self.kind.body[:1]
        values = (stored.body or {}).get(part, NULL).value()
        return {name: values.get(name) for name in self.columns}

    def new(self, row: Mapping[str, Any]) -> Row:
        """A row as it is to be inserted. Raises `ValueError` for a column that there is not, or that is missing."""
        self.check(row)
        whole = {**dict.fromkeys(self.columns), **self.defaults, **row}
        missing = sorted(name for name in self.required if whole[name] is None)
        if missing:
            raise ValueError(f"a row of {self.kind.name} needs {', '.join(missing)}")
        return {name: plain(whole[name]) for name in self.columns}

    def check(self, columns: Mapping[str, Any]) -> None:
        unknown = sorted(set(columns) - set(self.columns))
        if unknown:
            raise ValueError(f"{self.kind.name} have no columns {', '.join(unknown)}")

    def allows(self, id: Any, columns: Mapping[str, Any]) -> bool:
        """Whether these columns of a row may be set, for a method that answers nothing where they may not: there are
        all of them, none becomes null that may not be, and the key stays."""
        wrong = {name for name in columns if name not in self.columns}
        wrong |= {name for name in self.required & columns.keys() if columns[name] is None}
        wrong |= {self.key} if columns.get(self.key, id) != id else set()
        if wrong:
            log.warning("%s %r was not changed: %s cannot be set so", self.kind.name, id, ", ".join(sorted(wrong)))
        return not wrong

    def put(self, row: Row, expect: Expectation, also: Fields = MappingProxyType({})) -> Put:
        """The record of a row, with header fields that neither it nor `derive` tells. Raises
        `UnserializableValueError`, `InvalidIdError`, `TypeError`."""
        part = self.kind.body[0]
        copied: dict[str, FieldValue] = {name: _scalar(name, row[name]) for name in self.kind.fields if name in row}
        fields = {**copied, **self.derive(row), **also}
        parent = fields[self.kind.parent] if self.kind.parent is not None else None
        ref = replace(self.ref(row[self.key]), parent=None if parent is None else str(parent))
        return Put(ref, fields, {part: Json.of(row, part)}, expect)


def _scalar(name: str, value: Any) -> FieldValue:
    """A column's value as a header has it."""
    value = plain(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return label(name, value)
    raise TypeError(f"{name} must be a text or a number, not {type(value).__name__}")


class Rows:
    """The rows of one table. The empty text is no key, so nothing is there under it; what is no text at all, and so
    might be meant for something else, raises `InvalidIdError`."""

    def __init__(self, kernel: Kernel, table: Table) -> None:
        self.kernel = kernel
        self.table = table

    async def insert(self, row: Mapping[str, Any]) -> Row:
        """Store a new row; as stored. Raises `ValueError` for a row that cannot be, `DuplicateError` if its key, or a
        value that must be unique, is in use: nothing is written then. 1 request."""
        return (await self.add(row))[0]

    async def add(self, row: Mapping[str, Any], also: Fields = MappingProxyType({})) -> tuple[Row, Rev]:
        """The same with header fields besides; the revision, too."""
        new = self.table.new(row)
        put = self.table.put(new, Expect.ABSENT, also)

        async def attempt(fresh: bool) -> Rev:
            try:
                return await self._put(put)
            except Conflict:
                if await self.kernel.get(put.ref) is None:
                    raise
                from agno_docstores.errors import DuplicateError

                raise DuplicateError(self.table.kind.name, put.ref.id) from None

        return new, await self.kernel.transact(f"insertion into {self.table.kind.name} of {put.ref.id!r}", attempt)

    async def _put(self, put: Put) -> Rev:
        (rev,) = await self.kernel.commit([put])
        assert rev is not None
        return rev

    async def get(self, id: Any) -> Row | None:
        """1 read."""
        stored = await self.kernel.get(self.table.ref(id)) if id != "" else None
        return None if stored is None else self.table.row(stored)

    async def change(self, id: Any, decide: Callable[[Row], Mapping[str, Any] | None]) -> Row | None:
        """Set the columns that `decide` gives for the row as it is, in one atomic step; the row then. None if there is
        no such row, or `decide` gives None; it may be called again. Raises as `insert` does. 2 requests."""
        changed = await self.step(id, decide)
        return None if changed is None else changed[0]

    async def step(self, id: Any, decide: Callable[[Row], Mapping[str, Any] | None]) -> tuple[Row, Rev] | None:
        """The same; the revision, too."""
        if id == "":
            return None
        ref = self.table.ref(id)

        async def attempt(fresh: bool) -> tuple[Row, Rev] | None:
            stored = await self.kernel.get(ref)
            if stored is None:
                return None
            row = self.table.row(stored)
            columns = decide(dict(row))
            if columns is None:
                return None
            self.table.check(columns)
            after = self.table.new({**row, **columns})
            return after, await self._put(self.table.put(after, stored.rev))

        return await self.kernel.transact(f"change of {self.table.kind.name} {ref.id!r}", attempt)

    async def upsert(self, row: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
        """Store a new row, or set the columns of `changes` where one of its key is there, in one atomic step. Raises as
        `insert` does. 2 requests."""
        ref = self.table.ref(row[self.table.key])

        async def attempt(fresh: bool) -> None:
            stored = await self.kernel.get(ref)
            before = {} if stored is None else self.table.row(stored)
            after = self.table.new({**before, **(row if stored is None else changes)})
            await self.kernel.commit([self.table.put(after, Expect.ABSENT if stored is None else stored.rev)])

        await self.kernel.transact(f"writing of {self.table.kind.name} {ref.id!r}", attempt)

    async def delete(self, id: Any, may: Callable[[Row], bool] = lambda row: True) -> bool:
        """Remove a row that `may` be; whether it was there and might. 2 requests."""
        if id == "":
            return False
        ref = self.table.ref(id)

        async def attempt(fresh: bool) -> bool:
            stored = await self.kernel.get(ref)
            if stored is None or not may(self.table.row(stored)):
                return False
            await self.kernel.commit([Delete(stored.ref, stored.rev)])
            return True

        return await self.kernel.transact(f"removal of {self.table.kind.name} {ref.id!r}", attempt)

    async def page(
        self, where: Sequence[Condition], sort: str, limit: int | None, page: int, *, descending: bool = True
    ) -> tuple[list[Row], int]:
        """A page (the first is 1) of the rows that satisfy the conditions, and the number of all of them. A page costs
        its own entries where an index covers the conditions, else the headers of what matches those that one does."""
        query = Query(self.table.kind, tuple(where), sort, descending)
        offset = (max(page, 1) - 1) * limit if limit is not None else 0
        found, total = await self.kernel.page_and_total(query, offset=offset, limit=limit)
        return [self.table.row(stored) for stored in found], total

    async def all(self, where: Sequence[Condition], sort: str | None = None, *, descending: bool = False) -> list[Row]:
        """All rows that satisfy the conditions."""
        query = Query(self.table.kind, tuple(where), sort, descending)
        return [self.table.row(stored) for stored in await self.kernel.page(query)]


async def answered(work: Awaitable[T], otherwise: T, what: str) -> T:
    """The result of some work on the store; where the store fails, what the contract has the method answer then."""
    try:
        return await work
    except FAILURES as error:
        log.warning("%s: %s", what, error)
        return otherwise

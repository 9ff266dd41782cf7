"""What every domain needs of a store, whatever the store: transactions, retries, provisioning, queries, expiry.

Invariants: a read that fails raises, "empty" is only the store's own answer; a commit applies once or not at all,
also when its reply was lost; whatever a driver pushed down, the conditions are applied here again; retries are bounded
in number and time. Nothing here knows Agno or a driver's client.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from agno_docstores import keys
from agno_docstores.errors import (
    Conflict,
    ProvisioningError,
    SessionConflictError,
    StorageMissingError,
    StoreUnavailableError,
)
from agno_docstores.io import Io
from agno_docstores.port import (
    EVERYTHING,
    Condition,
    Delete,
    Driver,
    Eq,
    Expect,
    Failed,
    Has,
    Index,
    Kind,
    Page,
    Put,
    Range,
    Ref,
    Rev,
    Span,
    Stored,
    Write,
)

T = TypeVar("T")

UNAVAILABLE_ATTEMPTS = 5  # of one operation against a store that throttles or drops connections
CONFLICT_ATTEMPTS = 40  # of one transaction against other writers
BACKOFF, BACKOFF_CAP = 0.02, 0.5  # seconds; each wait is a random part of min(cap, BACKOFF * 2**n)
WRITE_BATCH = 500  # writes handed to a driver at once
SEARCH_PAGE = 500  # headers asked for at a time where most may not match


@dataclass(frozen=True, slots=True)
class Query:
    """Records of a kind that satisfy all conditions, in the order of a field, then the id ("id": of the id alone);
    None: no order asked. `implied`: conditions that follow from `where`, for an index that knows only those."""

    kind: Kind
    where: tuple[Condition, ...] = ()
    sort: str | None = None
    descending: bool = False
    implied: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """How a query is answered: the span to read, what is left to check on it, and whether it comes in order."""

    span: Span
    residual: tuple[Condition, ...]
    ordered: bool


class Recent:
    """The last versions seen of some records, so that an optimistic write need not read first.

    Never an answer to a reader: whoever writes on what is found here does so under its `Rev`, and a stale entry costs a
    conflict, not correctness. `ABSENT` stands for a record that was seen not to be there.
    """

    def __init__(self, size: int = 512) -> None:
        self._size = size
        self._entries: OrderedDict[tuple[str, str], Stored | Expect] = OrderedDict()

    def get(self, ref: Ref) -> Stored | Expect | None:
        return self._entries.get((ref.kind, ref.id))

    def note(self, ref: Ref, record: Stored | None) -> None:
        key = (ref.kind, ref.id)
        self._entries[key] = Expect.ABSENT if record is None else record
        self._entries.move_to_end(key)
        while len(self._entries) > self._size:
            try:
                self._entries.popitem(last=False)
            except KeyError:  # another thread emptied it meanwhile
                break

    def forget(self, ref: Ref) -> None:
        self._entries.pop((ref.kind, ref.id), None)


class Kernel:
    def __init__(self, driver: Driver, *, provision: bool = True, table_options: str = "") -> None:
        """`table_options`: what the command that creates storage has to be told of tables with names of their own."""
        self.driver = driver
        self.provision = provision
        self._table_options = table_options
        self.recent = Recent()
        self._ensured: set[str] = set()

    @property
    def io(self) -> Io:
        return self.driver.io

    def now(self) -> int:
        """Epoch seconds."""
        return int(self.io.now())

    # --- Reads ------------------------------------------------------------------------------------------------------

    async def get(self, ref: Ref) -> Stored | None:
        """Linearizable read; None if the store has no such record, or only an expired one. 1 read."""
        return (await self.get_many([ref]))[0]

    async def get_many(self, refs: Sequence[Ref]) -> list[Stored | None]:
        """The same for several, in order, in as few requests as the store has."""
        if not refs:
            return []

        async def read() -> list[Stored | None]:
            if len(refs) == 1:
                return [await self.driver.get(refs[0])]
            return await self.driver.get_many(refs)

        nothing: list[Stored | None] = [None] * len(refs)
        found = await self._reading(read, nothing)
        return [self._alive(record) for record in found]

    async def exists(self, table: str) -> bool:
        return await self._retried(lambda: self.driver.exists(table))

    async def page(self, query: Query, *, offset: int = 0, limit: int | None = None, body: bool = True) -> list[Stored]:
        """The matching records from `offset` on, at most `limit`. Without `body`, headers only.

        Cost where an index gives the order: the entries up to the page's end, headers only, and the page's bodies.
        Where none does: the headers of all that match.
        """
        plan = self.plan(query)
        end = None if limit is None else offset + limit
        exact = plan.ordered and (end is None or all(type(c) in self.driver.pushes for c in plan.residual))
        if exact and offset == 0:
            return await self._collect(plan, end, body=body)
        headers = await self._collect(plan, end if plan.ordered else None, body=False)
        if not plan.ordered:
            headers = self._sorted(query, headers)
        headers = headers[offset:end]
        return await self._with_bodies(query, headers) if body else headers

    async def page_and_total(
        self, query: Query, *, offset: int = 0, limit: int | None = None, body: bool = True
    ) -> tuple[list[Stored], int]:
        """A page, and the number of all records that match. The count is the store's own where an index covers the
        conditions; else all headers are read once for both."""
        if limit is None and offset == 0:
            records = await self.page(query, body=body)
            return records, len(records)
        plan = self.plan(query)
        if plan.ordered and not plan.residual:
            total = await self._reading(lambda: self.driver.count(plan.span), 0)
            return (await self.page(query, offset=offset, limit=limit, body=body) if total > offset else []), total
        headers = self._sorted(query, await self._collect(plan, None, body=False))
        total = len(headers)
        headers = headers[offset : None if limit is None else offset + limit]
        return (await self._with_bodies(query, headers) if body else headers), total

    async def span(self, span: Span) -> list[Stored]:
        """All records of a span, over as many pages as there are, conditions applied."""
        return await self._collect(Plan(span, span.where, True), span.limit, body=span.body)

    def plan(self, query: Query) -> Plan:
        """The index that narrows most, then the one that also gives the order asked for."""
        equal: dict[str, Any] = {}
        for condition in (*query.where, *query.implied):
            if isinstance(condition, Eq | Has) and condition.value is not None:
                equal.setdefault(condition.field, condition)
        usable = [
            index
            for index in query.kind.indexes
            if all(name in equal for name in index.eq) and (self.driver.optional_indexes or not index.optional)
        ]
        if not usable:
            span = Span(query.kind.name, EVERYTHING, where=query.where)
            return Plan(span, query.where, ordered=query.sort is None)

        def rank(index: Index) -> tuple[int, bool]:
            return len(index.eq), query.sort in (None, index.sort)

        index = max(usable, key=rank)
        bounds = next((c for c in query.where if isinstance(c, Range) and c.field == index.sort), None)
        covered = [equal[name] for name in index.eq] + ([bounds] if bounds else [])
        residual = tuple(condition for condition in query.where if condition not in covered)
        span = Span(
            query.kind.name,
            index.name,
            tuple(equal[name].value for name in index.eq),
            low=bounds.low if bounds else None,
            high=bounds.high if bounds else None,
            descending=query.descending and query.sort == index.sort,
            where=query.where,
        )
        return Plan(span, residual, ordered=query.sort in (None, index.sort))

    async def _collect(self, plan: Plan, need: int | None, *, body: bool) -> list[Stored]:
        found: list[Stored] = []
        seen: set[str] = set()
        cursor: Any = None
        pushed = all(type(condition) in self.driver.pushes for condition in plan.residual)
        while True:
            ask = None if need is None else need - len(found)
            if ask is not None and not body and not pushed:
                ask = max(ask, SEARCH_PAGE)
            span = replace(plan.span, after=cursor, limit=ask, body=body)
            page = await self._reading(partial(self.driver.scan, span), Page([]))
            for record in page.records:
                if record.ref.id in seen or self._alive(record) is None:
                    continue
                if all(condition.holds(record.fields) for condition in plan.span.where):
                    seen.add(record.ref.id)
                    found.append(record)
            cursor = page.cursor
            if cursor is None or (need is not None and len(found) >= need):
                return found[:need]

    async def _with_bodies(self, query: Query, headers: Sequence[Stored]) -> list[Stored]:
        if not query.kind.body:
            return list(headers)
        full = await self.get_many([header.ref for header in headers])
        # A record may have changed since its header was read; what no longer matches does not belong on the page.
        return [r for r in full if r is not None and all(c.holds(r.fields) for c in query.where)]

    def _sorted(self, query: Query, records: list[Stored]) -> list[Stored]:
        if query.sort is None:
            return records
        sort = query.sort

        def key(record: Stored) -> str:
            value = record.fields.get(sort)
            return keys.encode((value if not isinstance(value, tuple) else None, record.ref.id))

        return sorted(records, key=key, reverse=query.descending)

    def _alive(self, record: Stored | None) -> Stored | None:
        if record is not None and record.expires_at is not None and record.expires_at <= self.io.now():
            return None
        return record

    # --- Writes -----------------------------------------------------------------------------------------------------

    async def commit(self, writes: Sequence[Write]) -> list[Rev | None]:
        """All or nothing; raises `Conflict` if an expectation fails.

        A conflict may be with an earlier delivery of this very commit, sent again below us after its reply was lost:
        then the store shows its token, and it has succeeded. So a conflict costs one read; success costs none.
        """
        token = new_token()
        attempt = 0
        while True:
            try:
                await self.driver.open()
                await self._ensure_before_write(writes)
                return await self.driver.commit(writes, token)
            except Conflict:
                current = await self._retried(partial(self.driver.get_many, [write.ref for write in writes]))
                revs = _revs_if_applied(writes, current, token)
                if revs is not None:
                    return revs
                renewed = self._over_expired(writes, current)
                if renewed is None:
                    raise
                writes = renewed
            except StorageMissingError:
                await self._provision(writes)
            except StoreUnavailableError as error:
                if not error.retryable or attempt + 1 >= UNAVAILABLE_ATTEMPTS:
                    raise
                await self._back_off(attempt)
            attempt += 1
            if attempt > UNAVAILABLE_ATTEMPTS:
                raise Conflict([write.ref for write in writes])

    async def write_many(self, writes: Iterable[Write]) -> list[Failed]:
        """Unordered, idempotent writes in batches; what failed is returned, never dropped."""
        failed: list[Failed] = []
        pending = list(writes)
        for start in range(0, len(pending), WRITE_BATCH):
            batch = pending[start : start + WRITE_BATCH]
            token = new_token()
            await self._ensure_before_write(batch)
            try:
                failed += await self._retried(partial(self.driver.write_many, batch, token))
            except StorageMissingError:
                await self._provision(batch)
                failed += await self._retried(partial(self.driver.write_many, batch, token))
        return failed

    async def add(self, ref: Ref, deltas: dict[str, int], guard: Sequence[Condition]) -> Stored | None:
        """Atomic counters under a condition; the record afterwards, or None. May count twice after a lost reply, so
        it serves numbers that have to grow, not to be exact."""
        token = new_token()
        return await self._reading(lambda: self.driver.add(ref, deltas, guard, token), None)

    async def transact(self, what: str, attempt: Callable[[bool], Awaitable[T]]) -> T:
        """Run an optimistic transaction until it commits: `attempt(fresh)` reads, decides and commits; on `Conflict` it
        is run again with fresh=True (trust nothing remembered). Bounded, with jittered backoff."""
        for number in range(CONFLICT_ATTEMPTS):
            try:
                return await attempt(number > 0)
            except Conflict:
                if number:
                    await self._back_off(number - 1)
        raise SessionConflictError(what, CONFLICT_ATTEMPTS)

    async def purge_children(self, parent: str, kind: Kind, index: Index) -> None:
        """Remove all children of a parent, headers only read. Stops at the first failure; repeating it goes on."""
        done = await self._reading(lambda: self.driver.delete_children(parent, kind), True)
        if done:
            return
        headers = await self.span(Span(kind.name, index.name, (parent,), body=False))
        failed = await self.write_many(Delete(header.ref) for header in headers)
        if failed:
            raise failed[0].error

    # --- Storage ----------------------------------------------------------------------------------------------------

    async def provision_all(self, kinds: Iterable[Kind]) -> None:
        """Create all storage now, whatever `provision` says: whoever calls this asks for it."""
        kinds = list(kinds)
        await self._retried(lambda: self.driver.ensure(kinds))
        self._ensured |= {self.driver.tables[kind.name] for kind in kinds}

    async def close(self) -> None:
        await self.driver.close()

    async def _ensure_before_write(self, writes: Sequence[Write]) -> None:
        if not self.driver.implicit_tables:
            return
        missing = {w.ref.kind for w in writes if self.driver.tables[w.ref.kind] not in self._ensured}
        if not missing:
            return
        if self.provision:
            await self._provision(writes)
            return
        for kind in sorted(missing):
            table = self.driver.tables[kind]
            if not await self.driver.exists(table):
                raise self._missing(kind)
            self._ensured.add(table)

    def _missing(self, kind: str) -> ProvisioningError:
        command = f"{self.driver.create_command(kind)} {self._table_options}".rstrip()
        return ProvisioningError(self.driver.tables[kind], command)

    async def _provision(self, writes: Sequence[Write]) -> None:
        tables = {self.driver.tables[write.ref.kind] for write in writes}
        if not self.provision:
            for write in writes:
                table = self.driver.tables[write.ref.kind]
                if not await self.driver.exists(table):
                    raise self._missing(write.ref.kind)
        kinds = [kind for kind in self.driver.kinds.values() if self.driver.tables[kind.name] in tables]
        await self._retried(lambda: self.driver.ensure(kinds))
        self._ensured |= tables

    # --- Retries ----------------------------------------------------------------------------------------------------

    async def _reading(self, read: Callable[[], Awaitable[T]], empty: T) -> T:
        """A read; storage that is not there holds nothing, and is not created by being looked at."""
        try:
            return await self._retried(read)
        except StorageMissingError:
            return empty

    async def _retried(self, operation: Callable[[], Awaitable[T]]) -> T:
        attempt = 0
        while True:
            try:
                await self.driver.open()
                return await operation()
            except StoreUnavailableError as error:
                if not error.retryable or attempt + 1 >= UNAVAILABLE_ATTEMPTS:
                    raise
                await self._back_off(attempt)
                attempt += 1

    async def _back_off(self, attempt: int) -> None:
        await self.io.sleep(self.io.jitter() * min(BACKOFF_CAP, BACKOFF * 2**attempt))

    def _over_expired(self, writes: Sequence[Write], current: Sequence[Stored | None]) -> list[Write] | None:
        """The same writes, with "must be absent" turned into "must be this expired record" where that is what is there
        (the store's own reaper comes late). None if that is not why the commit failed."""
        renewed: list[Write] = []
        changed = False
        for write, record in zip(writes, current, strict=True):
            if (
                isinstance(write, Put)
                and write.expect is Expect.ABSENT
                and record is not None
                and self._alive(record) is None
            ):
                write = replace(write, expect=record.rev)
                changed = True
            renewed.append(write)
        return renewed if changed else None


def _revs_if_applied(writes: Sequence[Write], current: Sequence[Stored | None], token: str) -> list[Rev | None] | None:
    """The revisions that a commit of this token has left, if the store shows that it was applied."""
    if not any(record is not None and record.rev.token == token for record in current):
        only_deletes = all(isinstance(write, Delete) for write in writes)
        if not only_deletes or any(record is not None for record in current):
            return None
    return [
        None if isinstance(write, Delete) or record is None else record.rev
        for write, record in zip(writes, current, strict=True)
    ]


def new_token() -> str:
    """96 random bits: the name of a commit, of an incarnation."""
    return secrets.token_urlsafe(12)

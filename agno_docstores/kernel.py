"""What every domain needs of a store, whatever the store: transactions, retries, provisioning, queries, expiry.

Invariants: a read that fails raises, "empty" is only the store's own answer; a commit applies once or not at all,
also when its reply was lost; whatever a driver pushed down, the conditions are applied here again; retries are bounded
in number and time. Nothing here knows Agno or a driver's client.
"""

from __future__ import annotations

import functools
import math
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from types import MappingProxyType
from typing import Any, Concatenate, ParamSpec, TypeVar

from agno_docstores import chunks, keys, uniqueness
from agno_docstores.errors import (
    Conflict,
    ContentionError,
    ProvisioningError,
    StorageMissingError,
    StoreError,
    StoreUnavailableError,
)
from agno_docstores.io import Io
from agno_docstores.port import (
    EVERYTHING,
    MANIFEST,
    Condition,
    Delete,
    Driver,
    Eq,
    Expect,
    Failed,
    Fields,
    Has,
    In,
    Index,
    Kind,
    Page,
    Put,
    Range,
    Ref,
    Rev,
    Span,
    Stored,
    Touch,
    Write,
    as_int,
    looks_at,
)

T = TypeVar("T")
P = ParamSpec("P")
About = TypeVar("About")

#: Seconds before each further attempt of one operation against a store that throttles or drops connections, of each a
#: random part: most of such trouble passes in milliseconds, and a partition that has become too hot in a few seconds.
PATIENCE = (0.05, 0.2, 0.8, 3.2)
UNAVAILABLE_ATTEMPTS = len(PATIENCE) + 1
CONFLICT_ATTEMPTS = 40  # of one transaction against other writers
BACKOFF = 0.02, 0.5  # seconds: of the first conflict, and at most (`Io.back_off`)
WRITE_BATCH = 500  # writes handed to a driver at once
SEARCH_PAGE = 500  # headers asked for at a time where most may not match
TEST_PAGE = 100  # whole records asked for at a time, likewise
SHOWN = 5  # records that an error names
MOST_SPANS = 10  # that a query may be divided into


@dataclass(frozen=True, slots=True)
class Query:
    """Records of a kind that satisfy all conditions, in the order of a field, then the id ("id": of the id alone);
    None: no order asked. `implied`: conditions that follow from `where`, for an index that knows only those.
    `test`: a condition on the whole record, its body included, for what no header tells."""

    kind: Kind
    where: tuple[Condition, ...] = ()
    sort: str | None = None
    descending: bool = False
    implied: tuple[Condition, ...] = ()
    test: Callable[[Stored], bool] | None = None

    def matches(self, record: Stored) -> bool:
        """Whether a record read whole belongs to the answer."""
        return all(c.holds(record.fields) for c in self.where) and (self.test is None or self.test(record))


@dataclass(frozen=True, slots=True)
class Plan:
    """How a query is answered: the spans to read (no record is in two), what is left to check, and whether each of them
    comes in order."""

    spans: tuple[Span, ...]
    residual: tuple[Condition, ...]
    ordered: bool


class Recent:
    """The last versions seen of some records, so that an optimistic write need not read first.

    Never an answer to a reader: whoever writes on what is found here does so under its `Rev`, and a stale entry costs a
    conflict, not correctness. `ABSENT` stands for a record that was seen not to be there.
    """

    def __init__(self, now: Callable[[], float], size: int = 512) -> None:
        self._now = now
        self._size = size
        self._entries: OrderedDict[tuple[str, str], Stored | Expect] = OrderedDict()

    def get(self, ref: Ref) -> Stored | Expect | None:
        found = self._entries.get((ref.kind, ref.id))
        return None if isinstance(found, Stored) and expired(found, self._now()) else found

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

    def clear(self) -> None:
        self._entries.clear()


def _concerning(
    method: Callable[Concatenate[Kernel, About, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Kernel, About, P], Coroutine[Any, Any, T]]:
    """Have a store's error name what the first argument of a method of the kernel is about."""

    @functools.wraps(method)
    async def call(self: Kernel, about: About, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await method(self, about, *args, **kwargs)
        except StoreError as error:
            error.concerning(_shown(about))
            raise

    return call


def _shown(about: object) -> str:
    """Records by their kinds and ids, the first of many; of a query, its kind and the ids that it asks for."""
    if isinstance(about, Ref):
        return f"{about.kind} {about.id!r}"
    if isinstance(about, Query):
        asked = [f"{c.field} {c.value!r}" for c in about.where if isinstance(c, Eq) and isinstance(c.value, str)]
        return " with ".join([about.kind.name, *asked])
    if isinstance(about, Span):
        return " of ".join([about.kind, *(repr(value) for value in about.eq if value is not None)])
    if isinstance(about, Sequence) and not isinstance(about, str):
        named = [_shown(one if isinstance(one, Ref) else one.ref) for one in about[:SHOWN]]
        return ", ".join(named) + (f" and {len(about) - SHOWN} more" if len(about) > SHOWN else "")
    return repr(about)


class Kernel:
    def __init__(
        self,
        driver: Driver,
        *,
        provision: bool = True,
        table_options: str = "",
        max_value_bytes: int = chunks.MAX_VALUE_BYTES,
    ) -> None:
        """`table_options`: what the command that creates storage has to be told of tables with names of their own.
        `max_value_bytes`: of the JSON text of one record's body."""
        self.driver = driver
        self.max_value_bytes = max_value_bytes
        self.provision = provision
        self._table_options = table_options
        #: Names of the kinds whose records expire in the ordinary course: what is counted of them has to be alive.
        self.expiring: frozenset[str] = frozenset()
        self.recent = Recent(lambda: self.io.now())
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

    async def get_many(self, refs: Sequence[Ref], *, expired: bool = False) -> list[Stored | None]:
        """The same for several, in order, in as few requests as the store has, and those of bodies in chunks.
        `expired`: also what has expired and is still there, for whoever removes it."""
        found = await self.read_records(refs)
        if expired:
            return list(await self._whole(found))
        return [self._alive(record) for record in await self._whole([self._alive(record) for record in found])]

    async def headers(self, refs: Sequence[Ref]) -> list[Stored | None]:
        """The same without bodies, so that none is fetched that is in chunks."""
        found = [self._alive(record) for record in await self.read_records(refs)]
        return [None if record is None else replace(chunks.noted(record), body=None) for record in found]

    @_concerning
    async def read_records(self, refs: Sequence[Ref]) -> list[Stored | None]:
        """Records as the store has them: expired ones, too, and the body of a large one as its manifest."""
        if not refs:
            return []

        async def read() -> list[Stored | None]:
            if len(refs) == 1:
                return [await self.driver.get(refs[0])]
            return await self.driver.get_many(refs)

        nothing: list[Stored | None] = [None] * len(refs)
        return [self._noted(record) for record in await self.reading(read, nothing)]

    async def _whole(self, records: Sequence[Stored | None]) -> Sequence[Stored | None]:
        """Records as read, their bodies fetched where those are in chunks."""
        if not any(record is not None and record.body and MANIFEST in record.body for record in records):
            return records
        return await self.io.gather(*(chunks.whole(self, record) for record in records))

    async def exists(self, table: str) -> bool:
        """Whether a table is there. What was created here is, also where the store keeps no empty one (Firestore)."""
        return table in self._ensured or await self._retried(lambda: self.driver.exists(table))

    async def page(self, query: Query, *, offset: int = 0, limit: int | None = None, body: bool = True) -> list[Stored]:
        """The matching records from `offset` on, at most `limit`. Without `body`, headers only.

        Cost where an index gives the order: the entries up to the page's end, headers only, and the page's bodies.
        Where none does: the headers of all that match. With a `test`: the bodies of all up to the page's end.
        """
        if limit == 0:  # no store reads a page of nothing
            return []
        plan = self.plan(query)
        end = None if limit is None else offset + limit
        if query.test is not None:
            return (await self._tested(query, plan, end))[offset:end]
        exact = plan.ordered and (end is None or all(type(c) in self.driver.pushes for c in plan.residual))
        if exact and offset == 0 and len(plan.spans) == 1:
            return await self._collect(query, plan, end, body=body)
        headers = (await self._in_order(query, plan, end))[offset:end]
        return await self._with_bodies(query, headers) if body else headers

    @_concerning
    async def page_and_total(
        self, query: Query, *, offset: int = 0, limit: int | None = None, body: bool = True
    ) -> tuple[list[Stored], int]:
        """A page, and the number of all records that match. The count is the store's own where an index covers the
        conditions; else all headers (with a `test`: all bodies) are read once for both."""
        if limit == 0:
            _, total = await self.page_and_total(query, limit=1, body=False)
            return [], total
        end = None if limit is None else offset + limit
        plan = self.plan(query)
        if query.test is not None:
            found = await self._tested(query, plan, None)
            return found[offset:end], len(found)
        if limit is None and offset == 0:
            records = await self.page(query, body=body)
            return records, len(records)
        if plan.ordered and len(plan.spans) == 1:
            asked = replace(plan.spans[0], limit=limit, body=False)
            nothing: tuple[list[Stored], int] | None = ([], 0)
            both = await self.reading(lambda: self.driver.page_and_count(asked, offset), nothing)
            if both is not None:
                headers, total = both
                headers = [header for header in headers if self._alive(header) is not None]
                return (await self._with_bodies(query, headers) if body else headers), total
        if plan.ordered and not plan.residual:
            total = await self._counted(plan)
            return (await self.page(query, offset=offset, limit=limit, body=body) if total > offset else []), total
        headers = await self._in_order(query, plan, None)
        page = headers[offset:end]
        return (await self._with_bodies(query, page) if body else page), len(headers)

    @_concerning
    async def count(self, query: Query) -> int:
        """The number of records that match: the store's own count where an index covers the conditions, else that of
        the headers read."""
        plan = self.plan(query)
        if plan.residual or query.test is not None:
            return len(await self.page(query, body=False))
        return await self._counted(plan)

    async def stretch(self, query: Query, cursor: Any, limit: int, *, body: bool = True) -> tuple[list[Stored], Any]:
        """The next `limit` matching records of a listing that an index gives in order, and where to go on: a cursor for
        the next call (the first gets None), None when there is no more.

        Records are found by their place, not by their number: what is added or removed between two stretches neither
        repeats nor skips another. Each costs its own records, and those passed over that only some conditions hold for.
        Raises `ValueError` where no index gives the order.
        """
        plan = self.plan(query)
        if not plan.ordered or len(plan.spans) != 1:
            raise ValueError(f"no index gives {query.kind.name} in the order of {query.sort!r} under these conditions")
        found: list[Stored] = []
        while True:
            asked = replace(plan.spans[0], after=cursor, limit=limit - len(found), body=body)
            page = await self._scan(asked)
            found += [r for r in page.records if self._alive(r) is not None and query.matches(r)]
            cursor = page.cursor
            if cursor is None or len(found) >= limit:
                return found, cursor

    async def first_of(
        self,
        queries: Iterable[Query],
        size: int,
        take: Callable[[list[tuple[Stored, Query]]], Awaitable[T | None]],
        *,
        body: bool = True,
    ) -> T | None:
        """What `take` makes of the records that listings find, the next `size` of each at a time, with the listing that
        each is of, until it makes something of them; else None. A stretch of each listing at a time, all at once."""
        pending: list[tuple[Query, Any]] = [(query, None) for query in queries]
        while pending:
            pages = await self.io.gather(*(self.stretch(query, after, size, body=body) for query, after in pending))
            found = [(record, query) for (query, _), (page, _) in zip(pending, pages, strict=True) for record in page]
            taken = await take(found)
            if taken is not None:
                return taken
            cursors = [cursor for _, cursor in pages]
            pending = [(query, at) for (query, _), at in zip(pending, cursors, strict=True) if at is not None]
        return None

    async def _counted(self, plan: Plan) -> int:
        counts = await self.io.gather(*(self.reading(partial(self.driver.count, span), 0) for span in plan.spans))
        return sum(counts)

    async def _tested(self, query: Query, plan: Plan, need: int | None) -> list[Stored]:
        """The first records that also pass the query's test, read whole a stretch at a time."""
        if not plan.ordered or len(plan.spans) > 1:
            headers = await self._in_order(query, plan, None)
            found: list[Stored] = []
            for start in range(0, len(headers), TEST_PAGE):
                found += await self._with_bodies(query, headers[start : start + TEST_PAGE])
                if need is not None and len(found) >= need:
                    break
            return found[:need]
        return await self._collect(query, plan, need, body=True)

    async def span(self, span: Span) -> list[Stored]:
        """All records of a span, over as many pages as there are, conditions applied."""
        return await self._read_span(span, span.limit, body=span.body)

    async def totals(self, kind: Kind, parents: Sequence[str], sums: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """Of each parent, the number of its children and the sums of int fields of theirs. 1 request where the store
        adds up, else all of them are read: an index by the parent may tell too little of a child."""
        nothing: dict[str, tuple[int, ...]] | None = {}
        found = await self.reading(lambda: self.driver.totals(kind, parents, sums), nothing)
        if found is not None:
            return found
        index = next(index for index in kind.indexes if index.eq == (kind.parent,))

        async def children_of(parent: str) -> list[Stored]:
            entries = await self.span(Span(kind.name, index.name, (parent,), body=False))
            return [child for child in await self.headers([entry.ref for entry in entries]) if child is not None]

        children = await self.io.gather(*map(children_of, parents))

        def total(records: list[Stored], name: str) -> int:
            return sum(as_int(record.fields.get(name)) for record in records)

        return {
            parent: (len(own), *(total(own, name) for name in sums))
            for parent, own in zip(parents, children, strict=True)
        }

    def plan(self, query: Query) -> Plan:
        """The index that narrows most, then the one that also gives the order asked for, then the first declared. "One
        of these values" is a span for each of them, where an index begins with the field."""
        equal: dict[str, tuple[Condition, tuple[Any, ...]]] = {}
        for condition in (*query.where, *query.implied):
            _check_operands(condition)
            values = _values_of(condition, query.kind)
            if values:
                equal.setdefault(looks_at(condition)[0], (condition, values))
        usable = [
            index
            for index in query.kind.indexes
            if all(name in equal for name in index.eq)
            and (self.driver.optional_indexes or not index.optional)
            and math.prod(len(equal[name][1]) for name in index.eq) <= MOST_SPANS
        ]
        alive_at = self.now() if query.kind.name in self.expiring else None
        if not usable:
            span = Span(query.kind.name, EVERYTHING, where=query.where, alive_at=alive_at)
            return Plan((span,), query.where, ordered=query.sort is None)

        def rank(index: Index) -> tuple[int, bool]:
            return len(index.eq), query.sort in (None, index.sort)

        index = max(usable, key=rank)
        bounds = next((c for c in query.where if isinstance(c, Range) and c.field == index.sort), None)
        covered = [equal[name][0] for name in index.eq] + ([bounds] if bounds else [])
        residual = tuple(condition for condition in query.where if condition not in covered)
        spans = tuple(
            Span(
                query.kind.name,
                index.name,
                eq,
                low=bounds.low if bounds else None,
                high=bounds.high if bounds else None,
                descending=query.descending and query.sort == index.sort,
                where=query.where,
                alive_at=alive_at,
            )
            for eq in product(*(equal[name][1] for name in index.eq))
        )
        return Plan(spans, residual, ordered=query.sort in (None, index.sort))

    async def _in_order(self, query: Query, plan: Plan, need: int | None) -> list[Stored]:
        """The headers of the first `need` records in the query's order; all of them where no index gives it."""
        if plan.ordered:
            return await self._collect(query, plan, need, body=False)
        headers = await self._collect(query, plan, None, body=False)
        if query.sort not in (None, "id") and any(query.sort not in header.fields for header in headers):
            # An index entry may lack what changes often.
            full = await self.headers([header.ref for header in headers])
            headers = [header for header in full if header is not None and query.matches(header)]
        return self._sorted(query, headers)

    async def _collect(self, query: Query, plan: Plan, need: int | None, *, body: bool) -> list[Stored]:
        """The first `need` records of a plan; those of several spans in the query's order."""
        pushed = all(type(condition) in self.driver.pushes for condition in plan.residual)
        found = await self.io.gather(
            *(self._read_span(span, need, body=body, pushed=pushed, test=query.test) for span in plan.spans)
        )
        if len(found) == 1:
            return found[0]
        return self._sorted(query, [record for records in found for record in records])[:need]

    async def _read_span(
        self,
        span: Span,
        need: int | None,
        *,
        body: bool,
        pushed: bool = True,
        test: Callable[[Stored], bool] | None = None,
    ) -> list[Stored]:
        found: list[Stored] = []
        seen: set[str] = set()
        cursor: Any = None
        while True:
            ask = None if need is None else need - len(found)
            if ask is not None and not body and not pushed:
                ask = max(ask, SEARCH_PAGE)
            if ask is not None and test is not None:
                ask = max(ask, TEST_PAGE)
            page = await self._scan(replace(span, after=cursor, limit=ask, body=body))
            for record in page.records:
                if record.ref.id in seen or self._alive(record) is None:
                    continue
                if all(condition.holds(record.fields) for condition in span.where) and (test is None or test(record)):
                    seen.add(record.ref.id)
                    found.append(record)
            cursor = page.cursor
            if cursor is None or (need is not None and len(found) >= need):
                return found[:need]

    @_concerning
    async def _scan(self, span: Span) -> Page:
        """A page of the driver's, with the bodies in chunks of those records that satisfy the conditions."""
        page = await self.reading(partial(self.driver.scan, span), Page([]))
        if not span.body:
            return page
        if self.driver.kinds[span.kind].unique:
            kind = self.driver.kinds[span.kind]
            page = replace(page, records=[uniqueness.noted(kind, record) for record in page.records])
        alive = [record for record in page.records if self._alive(record) is not None]
        wanted = [r for r in alive if all(condition.holds(r.fields) for condition in span.where)]
        found = await self._whole(wanted)
        return page if found is wanted else Page([r for r in found if r is not None], page.cursor)

    async def _with_bodies(self, query: Query, headers: Sequence[Stored]) -> list[Stored]:
        if not query.kind.body and not any(query.kind.volatile - header.fields.keys() for header in headers):
            return list(headers)
        full = await self.get_many([header.ref for header in headers])
        # A record may have changed since its header was read; what no longer matches does not belong on the page.
        return [record for record in full if record is not None and query.matches(record)]

    def _sorted(self, query: Query, records: list[Stored]) -> list[Stored]:
        if query.sort is None:
            return records
        sort = query.sort

        def key(record: Stored) -> tuple[Any, str]:
            value = record.fields.get(sort)
            return keys.rank(None if isinstance(value, tuple) else value), record.ref.id

        return sorted(records, key=key, reverse=query.descending)

    def _noted(self, record: Stored | None) -> Stored | None:
        return None if record is None else uniqueness.noted(self.driver.kinds[record.ref.kind], record)

    def _alive(self, record: Stored | None) -> Stored | None:
        return None if record is not None and expired(record, self.io.now()) else record

    # --- Writes -----------------------------------------------------------------------------------------------------

    async def commit(self, writes: Sequence[Write]) -> list[Rev | None]:
        """All or nothing; raises `Conflict` if an expectation fails.

        A conflict may be with an earlier delivery of this very commit, sent again below us after its reply was lost:
        then the store shows its token, and it has succeeded. So a conflict costs one read; success costs none. Where
        somebody else has written since and hides the token, nobody can tell: it is not tried again, which might apply
        it twice, nor taken for a race that was lost, but raises `StoreUnavailableError` (`maybe_applied`).

        A body that is too large for one record of the store is stored in several, and what it replaces removed: 1
        request for a reminder of each, and those of its pieces. Raises `PayloadTooLargeError`, before anything is
        written, for one over `max_value_bytes`.
        """
        return await chunks.commit(self, writes)

    @_concerning
    async def commit_records(self, writes: Sequence[Write]) -> list[Rev | None]:
        """The same for records as the store is to have them."""
        token = new_token()
        unanswered: StoreUnavailableError | None = None
        attempt = 0
        asked = list(writes)
        if not self.driver.unique:
            writes = [*asked, *uniqueness.claims(self.driver.kinds, asked)]
        while True:
            try:
                await self.driver.open()
                await self._ensure_before_write(writes)
                return self._holding(asked, await self.driver.commit(writes, token))
            except Conflict as conflict:
                current = await self._retried(partial(self.driver.get_many, [write.ref for write in writes]))
                revs = _revs_if_applied(writes, current, token)
                if revs is not None:
                    return self._holding(asked, revs)
                renewed = self._over_expired(writes, current)
                sent_before = unanswered is not None or conflict.resent
                if renewed is None and sent_before and not any(map(_still_holds, writes, current)):
                    lost = unanswered or StoreUnavailableError("commit", self.driver.address(), "no answer")
                    reason = f"{lost.reason}; somebody else has written since, so it may have been done or not"
                    raise StoreUnavailableError(
                        lost.operation, lost.address, reason, maybe_applied=True, retryable=False
                    ) from (unanswered or conflict)
                if renewed is None:
                    duplicate = await self._retried(lambda: uniqueness.taken(self, asked))
                    if duplicate is not None:
                        raise duplicate from None
                    raise
                writes = renewed
            except StorageMissingError:
                await self._provision(writes)
            except StoreUnavailableError as error:
                unanswered = error if error.maybe_applied else unanswered
                error.maybe_applied = unanswered is not None  # by an attempt before this one, if not by this
                await self._wait_for_store(error, attempt)
            attempt += 1
            if attempt > UNAVAILABLE_ATTEMPTS:
                raise Conflict([write.ref for write in writes])

    def _holding(self, writes: Sequence[Write], revs: Sequence[Rev | None]) -> list[Rev | None]:
        """The revisions of these writes, the first of a commit, each noting which unique values its record has."""
        noted: list[Rev | None] = []
        for write, rev in zip(writes, revs, strict=False):
            kind = self.driver.kinds[write.ref.kind]
            if rev is not None and isinstance(write, Touch) and isinstance(write.expect, Rev):
                rev = replace(rev, manifest=write.expect.manifest)  # its body stays where it is
            if rev is not None and kind.unique:
                known = write.expect.held if isinstance(write.expect, Rev) else None
                rev = replace(rev, held=uniqueness.held(kind, write.fields) if isinstance(write, Put) else known)
            noted.append(rev)
        return noted

    async def write_many(self, writes: Iterable[Write]) -> list[Failed]:
        """Unordered, idempotent writes in batches; what failed is returned, never dropped. Large bodies as in `commit`;
        what they, or deletions, replace of others is left to a sweep."""
        return await chunks.write_many(self, list(writes))

    async def remove(self, records: Iterable[Stored]) -> list[Failed]:
        """Delete records as read, in batches, whatever they are now; what could not be deleted is returned."""
        return await chunks.remove(self, list(records))

    @_concerning
    async def write_records(self, writes: Sequence[Write]) -> list[Failed]:
        """As `write_many`, for records as the store is to have them."""
        failed: list[Failed] = []
        for start in range(0, len(writes), WRITE_BATCH):
            batch = writes[start : start + WRITE_BATCH]
            token = new_token()
            await self._ensure_before_write(batch)
            try:
                outcome = await self._retried(partial(self.driver.write_many, batch, token))
            except StorageMissingError as error:
                outcome = [Failed(write, error) for write in batch]
            # Where others are just creating the storage, some of the writes may have found it, and some not.
            missed = [failure.write for failure in outcome if isinstance(failure.error, StorageMissingError)]
            failed += [failure for failure in outcome if not isinstance(failure.error, StorageMissingError)]
            if missed:
                await self._provision(missed)
                failed += await self._retried(partial(self.driver.write_many, missed, token))
        for failure in failed:
            if isinstance(failure.error, StoreError):
                failure.error.concerning(_shown(failure.write.ref))
        return failed

    @_concerning
    async def add(
        self, ref: Ref, deltas: dict[str, int], guard: Sequence[Condition], also: Fields = MappingProxyType({})
    ) -> Stored | None:
        """Atomic counters under a condition, and the fields of `also` set with them; the record afterwards, or None.
        May count twice after a lost reply, so it serves numbers that have to grow, not to be exact."""
        token = new_token()
        return await self.reading(lambda: self.driver.add(ref, deltas, guard, token, also), None)

    async def transact(self, what: str, attempt: Callable[[bool], Awaitable[T]]) -> T:
        """Run an optimistic transaction until it commits: `attempt(fresh)` reads, decides and commits; on `Conflict` it
        is run again with fresh=True (trust nothing remembered). Bounded, with jittered backoff."""
        for number in range(CONFLICT_ATTEMPTS):
            try:
                return await attempt(number > 0)
            except Conflict:
                if number:
                    await self.back_off(number - 1)
        raise ContentionError(what, CONFLICT_ATTEMPTS)

    @_concerning
    async def purge_children(self, parent: str, kind: Kind, index: Index, where: tuple[Condition, ...] = ()) -> None:
        """Remove all children of a parent, or those for which conditions hold; headers only read. Stops at the first
        failure; repeating it goes on. 1 request more to see whether bodies of theirs are in chunks."""
        if where:
            large = await chunks.large_children(self, parent, kind, index, where)
            await self._delete_children(parent, kind, index, where)
            await chunks.remove_of(self, large)
            return
        await self._delete_children(parent, kind, index, where)
        if kind.body and await chunks.purge(self, parent, kind) and not self.driver.atomic:
            # A child may have been stored between the two, and looked whether its chunks are there, before they went.
            await self._delete_children(parent, kind, index, where)

    async def _delete_children(self, parent: str, kind: Kind, index: Index, where: tuple[Condition, ...]) -> None:
        done = await self.reading(lambda: self.driver.delete_children(parent, kind, where), True)
        if done:
            return
        headers = await self.span(Span(kind.name, index.name, (parent,), body=False, where=where))
        failed = await self.write_records([Delete(header.ref) for header in headers])
        if failed:
            raise failed[0].error

    # --- Storage ----------------------------------------------------------------------------------------------------

    async def provision_all(self, kinds: Iterable[Kind]) -> None:
        """Create all storage now, whatever `provision` says: whoever calls this asks for it."""
        kinds = list(kinds)
        await self._retried(lambda: self.driver.ensure(kinds))
        self._ensured |= {self.driver.storage(kind.name) for kind in kinds}

    async def drop(self) -> None:
        """Remove all storage of this driver, and what is remembered of it. The next write provisions anew."""
        try:
            await self._retried(self.driver.drop)
        finally:
            self._ensured.clear()
            self.recent.clear()

    async def close(self) -> None:
        await self.driver.close()

    async def _ensure_before_write(self, writes: Sequence[Write]) -> None:
        if not self.driver.implicit_tables:
            return
        missing = {w.ref.kind for w in writes if self.driver.storage(w.ref.kind) not in self._ensured}
        if not missing:
            return
        if self.provision:
            await self._provision(writes)
            return
        for kind in sorted(missing):
            table = self.driver.storage(kind)
            if not await self.driver.exists(table):
                raise self._missing(kind)
            self._ensured.add(table)

    def _missing(self, kind: str) -> ProvisioningError:
        command = f"{self.driver.create_command(kind)} {self._table_options}".rstrip()
        return ProvisioningError(self.driver.storage(kind), command)

    async def _provision(self, writes: Sequence[Write]) -> None:
        tables = {self.driver.storage(write.ref.kind) for write in writes}
        if not self.provision:
            for write in writes:
                table = self.driver.storage(write.ref.kind)
                if not await self.driver.exists(table):
                    raise self._missing(write.ref.kind)
        kinds = [kind for kind in self.driver.kinds.values() if self.driver.storage(kind.name) in tables]
        await self._retried(lambda: self.driver.ensure(kinds))
        self._ensured |= tables

    # --- Retries ----------------------------------------------------------------------------------------------------

    async def reading(self, read: Callable[[], Awaitable[T]], empty: T) -> T:
        """A read; storage that is not there holds nothing, and is not created by being looked at."""
        try:
            return await self._retried(read)
        except StorageMissingError:
            return empty

    async def _retried(self, operation: Callable[[], Awaitable[T]]) -> T:
        attempt, maybe_applied = 0, False
        while True:
            try:
                await self.driver.open()
                return await operation()
            except StoreUnavailableError as error:
                error.maybe_applied = maybe_applied = maybe_applied or error.maybe_applied
                await self._wait_for_store(error, attempt)
                attempt += 1

    async def _wait_for_store(self, error: StoreUnavailableError, attempt: int) -> None:
        """Wait before another attempt, or raise where there is none. What was given up here is not worth the time of
        whoever tries again further up: retries within retries would multiply."""
        if not error.retryable or attempt + 1 >= UNAVAILABLE_ATTEMPTS:
            error.retryable = False
            raise error
        await self.io.sleep(self.io.jitter() * PATIENCE[attempt])

    async def back_off(self, attempt: int) -> None:
        """Wait a while of random length before another attempt, the longer the more there were."""
        await self.io.back_off(attempt, *BACKOFF)

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
    # Where another writer has been since, the revision that this commit left is gone; whoever writes on it loses.
    return [
        None if isinstance(write, Delete) else record.rev if record and record.rev.token == token else Rev(token)
        for write, record in zip(writes, current, strict=True)
    ]


def _still_holds(write: Write, record: Stored | None) -> bool:
    """Whether a record is as a commit expects it, so that the commit has not been applied. (What was deleted since
    could look absent; what is deleted while others may write it leaves something behind.)"""
    if isinstance(write.expect, Rev):
        return record is not None and record.rev == write.expect
    return write.expect is Expect.ABSENT and record is None


def _check_operands(condition: Condition) -> None:
    """Raises `TypeError` for a condition on what no field can be: no store compares with that, and some take it for an
    operator."""
    operands: tuple[Any, ...] = ()
    if isinstance(condition, Eq):
        operands = (condition.value,)
    elif isinstance(condition, Range):
        operands = (condition.low, condition.high)
    for operand in operands:
        if operand is not None and not isinstance(operand, str | int | float):
            raise TypeError(f"{condition.field} cannot be compared with a {type(operand).__name__}")  # type: ignore[union-attr]


def _values_of(condition: Condition, kind: Kind) -> tuple[Any, ...]:
    """The values of which a condition says that the field has one; none if it says no such thing, or says it of null,
    or of a field of several values, which would bring one record twice."""
    if isinstance(condition, Eq | Has):
        return () if condition.value is None else (condition.value,)
    if isinstance(condition, In) and condition.field not in kind.multi and None not in condition.values:
        return tuple(dict.fromkeys(condition.values))
    return ()


def expired(record: Stored, now: float) -> bool:
    return record.expires_at is not None and record.expires_at <= now


def new_token() -> str:
    """96 random bits: the name of a commit, of an incarnation."""
    return secrets.token_urlsafe(12)

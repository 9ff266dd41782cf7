"""Traces and spans: what `BaseDb` says of them (contract 1.8).

Invariants: a trace is merged under its revision, so that of concurrent writers none is lost: the first id that is not
null stays, times only widen, the status is the latest; a span is stored once, in one trace, for good; `total_spans` and
`error_count` are those of the spans that are stored, at every read, also of spans that came before their trace; times
are ISO 8601 text in UTC, so that texts sort as times do, and a time without zone is taken as UTC.

Tracing must not break what it watches: a write that fails, and a trace or span that cannot be stored, is logged with
its ids, and nothing is raised; a read that fails is logged and answered as empty. What is wrong with a `filter_expr` or
a grouping is the caller's, and raises `ValueError`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from agno_docstores.domains import trace_filters, trace_stats
from agno_docstores.domains.trace_records import (
    merged,
    span_put,
    text_id,
    to_span,
    to_trace,
    trace_put,
    trace_ref,
    utc,
)
from agno_docstores.errors import DocstoreError
from agno_docstores.kernel import Kernel, Query
from agno_docstores.keys import check_id
from agno_docstores.port import Condition, Eq, In, Predicate, Put, Range, Ref, Stored
from agno_docstores.schema import SPANS, TRACES
from agno_docstores.totals import add_children, totals_of

if TYPE_CHECKING:
    from agno.tracing.schemas import Span, Trace

log = logging.getLogger("agno_docstores")

Row = dict[str, Any]

SUMS = ("errors",)  # of its spans, what a trace adds up besides their number
#: A failed read. Agno's tracing is installed apart; without it there is no `Trace` to answer with.
FAILED = (DocstoreError, ImportError)


# --- What is asked for ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scope:
    """Which traces are asked for: those that satisfy `where`, and `test` if there is one. `trace_id`: no other trace
    can be meant."""

    where: tuple[Condition, ...]
    trace_id: str | None
    test: Callable[[Stored], bool] | None

    @classmethod
    def of(
        cls,
        equal: Mapping[str, str | None],
        bounds: Mapping[str, tuple[Any, Any]] = MappingProxyType({}),
        tree: trace_filters.Node | None = None,
    ) -> Scope:
        """All that is given: fields and their values (None: not given), times between others, and a `filter_expr`. What
        of that a condition on an index says exactly becomes one, the rest is tested on what the index gives."""
        where: list[Condition] = [Eq(name, text_id(name, value)) for name, value in equal.items() if value is not None]
        times: dict[str, Range] = {}
        for name, (low, high) in bounds.items():
            if low is not None or high is not None:
                times[name] = Range(name, utc(low) if low else None, utc(high) if high else None)
        trace_id: str | None = None
        rest: list[trace_filters.Node] = []
        for node in trace_filters.conjuncts(tree) if tree is not None else ():
            condition = trace_filters.as_condition(node)
            if isinstance(condition, Range):
                times[condition.field] = _within(times.get(condition.field), condition)
            elif condition is not None and condition.field != "trace_id":
                where.append(condition)
            else:
                rest.append(node)
                if isinstance(condition, Eq):
                    trace_id = str(condition.value)
        columns = {column for node in rest for column in node.columns()}
        # The id is no field of the record, so what looks at it is tested on the record as a whole.
        named = "trace_id" in columns
        if rest and not named:
            where.append(Predicate(tuple(columns), lambda fields: all(node.truth(fields) is True for node in rest)))

        def test(record: Stored) -> bool:
            row = {**record.fields, "trace_id": record.ref.id}
            return all(node.truth(row) is True for node in rest)

        return cls((*where, *times.values()), trace_id, test if named else None)

    def query(self, sort: str | None = None) -> Query:
        """The latest first, by `sort`. Every trace is `known`; what is not is a placeholder for spans."""
        return Query(TRACES, self.where, sort, sort is not None, (Eq("known", True),), self.test)

    @property
    def selective(self) -> bool:
        """Whether an index narrows it to the traces of somebody or something."""
        fields = {condition.field for condition in self.where if isinstance(condition, Eq | In)}
        return any(fields.issuperset(index.eq) for index in TRACES.indexes)


def _within(outer: Range | None, inner: Range) -> Range:
    """The times that are between both bounds."""
    if outer is None:
        return inner
    lows = [low for low in (outer.low, inner.low) if low is not None]
    highs = [high for high in (outer.high, inner.high) if high is not None]
    return Range(inner.field, max(map(str, lows), default=None), min(map(str, highs), default=None))


def _stretch(limit: int | None, page: int | None) -> tuple[int, int | None]:
    """Offset and length of a page, as Agno's SQL has it: page 0 or none is the first; no or a negative limit, all."""
    if limit is None or limit < 0:
        return 0, None
    return max(((page or 1) - 1) * limit, 0), limit


class Traces:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    # --- Traces -----------------------------------------------------------------------------------------------------

    async def upsert_trace(self, trace: Trace) -> None:
        """Store a trace, or merge it with what is stored of it (see the module).

        `duration_ms` becomes that of the merged times; `total_spans` and `error_count` of the argument are ignored.
        Never raises on a trace that cannot be stored or a store that fails: that is logged. 1 request for a trace that
        is new or that this handle wrote last, else 4.
        """
        try:
            new = trace_put(trace)
        except Exception as error:  # noqa: BLE001 - a caller's objects, on which copying and encoding may raise anything
            log.error("trace %r was not stored: %s", getattr(trace, "trace_id", None), error)
            return

        async def attempt(fresh: bool) -> None:
            known = await self.kernel.get(new.ref) if fresh else self.kernel.recent.get(new.ref)
            put = merged(new, known if isinstance(known, Stored) else None)
            (rev,) = await self.kernel.commit([put])
            assert rev is not None
            self.kernel.recent.note(new.ref, Stored(new.ref, rev, dict(put.fields), {}, put.expires_at))

        try:
            await self.kernel.transact(f"upsert of trace {new.ref.id!r}", attempt)
        except DocstoreError as error:
            log.error("trace %r was not stored: %s", new.ref.id, error)

    async def get_trace(self, trace_id: str | None = None, run_id: str | None = None) -> Trace | None:
        """Read one trace by its id, or, where that is not given, the latest of a run. None if there is none, if
        neither is given, or (logged) if the read failed.

        By id linearizable, 1 request; by run eventually consistent on DynamoDB, 1 request; 1 more on MongoDB, which
        counts the spans when asked.
        """
        try:
            if trace_id:
                record = await self.kernel.get(trace_ref(check_id("trace_id", trace_id)))
                found = [record] if record is not None and record.fields.get("known") else []
            elif run_id:
                scope = Scope.of({"run_id": run_id})
                found = await self.kernel.page(scope.query("start_time"), limit=1, body=False)
            else:
                found = []
            return next(iter(await self._to_traces(found)), None)
        except FAILED as error:
            log.error("trace %r (run %r) could not be read: %s", trace_id, run_id, error)
            return None

    async def get_traces(
        self,
        run_id: str | None = None,
        session_id: str | None = None,
        user_id: str | None = None,
        agent_id: str | None = None,
        team_id: str | None = None,
        workflow_id: str | None = None,
        status: str | None = None,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        limit: int | None = 20,
        page: int | None = 1,
        filter_expr: Row | None = None,
    ) -> tuple[list[Trace], int]:
        """A page of traces, the latest start first, and how many match in all. All filters apply; an empty text is
        none, except of `user_id`. `start_time`: not started before; `end_time`: not ended after. No limit: all.

        Raises `ValueError` for a `filter_expr` that is wrong; ([], 0) and a log entry where the read failed. Eventually
        consistent on DynamoDB. With one of the ids (also as EQ under a top-level AND of `filter_expr`) and no other
        filter but `start_time`, 2 requests, and the page's headers; with more, the headers of all that have this id.
        Without an id, likewise over all traces: on DynamoDB 2 requests for each of the `listing_shards` (2).
        """
        equal = {
            "run_id": run_id or None,
            "session_id": session_id or None,
            "user_id": user_id,
            "agent_id": agent_id or None,
            "team_id": team_id or None,
            "workflow_id": workflow_id or None,
            "status": status or None,
        }
        bounds = {"start_time": (start_time, None), "end_time": (None, end_time)}
        tree = trace_filters.parse(filter_expr) if filter_expr else None
        offset, length = _stretch(limit, page)
        try:
            scope = Scope.of(equal, bounds, tree)
            if scope.trace_id is not None:
                found = await self._all(scope)
                records, total = found[offset : None if length is None else offset + length], len(found)
            else:
                query = scope.query("start_time")
                records, total = await self.kernel.page_and_total(query, offset=offset, limit=length, body=False)
            return await self._to_traces(records), total
        except FAILED as error:
            log.error("traces could not be read: %s", error)
            return [], 0

    async def get_trace_stats(
        self,
        user_id: str | None = None,
        agent_id: str | None = None,
        team_id: str | None = None,
        workflow_id: str | None = None,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        limit: int | None = 20,
        page: int | None = 1,
        filter_expr: Row | None = None,
        group_by: Literal["session", "agent", "team", "workflow", "endpoint"] = "session",
    ) -> tuple[list[Row], int]:
        """A page of statistics, and how many groups there are: see `trace_stats.trace_groups`. All filters apply, times
        (`datetime`, inclusive) to `created_at`; `first_trace_at` and `last_trace_at` are `datetime` in UTC.

        Raises `ValueError` for an unknown grouping or a wrong `filter_expr`; ([], 0) and a log entry where the read
        failed. Reads the headers of all that match the most selective of the ids, or the times where none is given.
        """
        if group_by not in trace_stats.GROUPS:
            raise ValueError(f"Invalid group_by value: {group_by!r}. Allowed: {', '.join(trace_stats.GROUPS)}")
        equal = {
            "user_id": user_id,
            "agent_id": agent_id or None,
            "team_id": team_id or None,
            "workflow_id": workflow_id or None,
        }
        tree = trace_filters.parse(filter_expr) if filter_expr else None
        offset, length = _stretch(limit, page)
        try:
            scope = Scope.of(equal, {"created_at": (start_time, end_time)}, tree)
            rows = trace_stats.trace_groups(await self._all(scope), group_by)
        except DocstoreError as error:
            log.error("traces could not be read: %s", error)
            return [], 0
        return rows[offset : None if length is None else offset + length], len(rows)

    async def _all(self, scope: Scope) -> list[Stored]:
        """The headers of all traces of a scope, in no order that counts."""
        if scope.trace_id is None:
            return await self.kernel.page(scope.query(None if scope.selective else "created_at"), body=False)
        record = await self.kernel.get(trace_ref(scope.trace_id)) if scope.trace_id else None
        is_meant = record is not None and record.fields.get("known") and scope.query().matches(record)
        return [record] if record is not None and is_meant else []

    async def _to_traces(self, records: list[Stored]) -> list[Trace]:
        totals = await totals_of(self.kernel, SPANS, records, SUMS)
        return [to_trace(record, *own) for record, own in zip(records, totals, strict=True)]

    # --- Spans ------------------------------------------------------------------------------------------------------

    async def create_span(self, span: Span) -> None:
        """`create_spans` of one."""
        await self.create_spans([span])

    async def create_spans(self, spans: list[Span]) -> None:
        """Store spans, of one trace or several, stored already or not. A span whose id is stored stays as it is, and
        where it is; so a repetition changes nothing.

        Never raises on a span that cannot be stored or a store that fails: that is logged, span by span, and the others
        are stored. Requests for each trace: 1 on MongoDB, 1 for each 45 spans elsewhere; 1 more where this handle has
        not written the trace.
        """
        by_trace: dict[str, list[Put]] = {}
        for span in spans or ():
            try:
                put = span_put(span)
            except Exception as error:  # noqa: BLE001 - as above
                ids = getattr(span, "span_id", None), getattr(span, "trace_id", None)
                log.error("span %r of trace %r was not stored: %s", *ids, error)
            else:
                by_trace.setdefault(str(put.fields["trace_id"]), []).append(put)
        for trace_id, puts in by_trace.items():
            for failure in await add_children(self.kernel, trace_ref(trace_id), puts, SUMS):
                log.error("span %r of trace %r was not stored: %s", failure.write.ref.id, trace_id, failure.error)

    async def get_span(self, span_id: str) -> Span | None:
        """Read one span. None if there is none, or (logged) if the read failed. Linearizable. 1 request, 2 on
        DynamoDB."""
        try:
            record = await self.kernel.get(Ref(SPANS.name, check_id("span_id", span_id)))
            return None if record is None else to_span(record)
        except FAILED as error:
            log.error("span %r could not be read: %s", span_id, error)
            return None

    async def get_spans(
        self, trace_id: str | None = None, parent_span_id: str | None = None, limit: int | None = 1000
    ) -> list[Span]:
        """The spans of a trace, of a parent span, of both, or all; the earliest start first, at most `limit` (0 or
        None: all). Empty, and logged, where the read failed.

        Of a trace strongly consistent, 1 request for each page of its spans; else eventually consistent on DynamoDB.
        """
        try:
            given = {"trace_id": trace_id or None, "parent_span_id": parent_span_id or None}
            where = tuple(Eq(name, text_id(name, value)) for name, value in given.items() if value is not None)
            most = limit if limit and limit > 0 else None
            records = await self.kernel.page(Query(SPANS, where, "start_time"), limit=most)
            return [to_span(record) for record in records]
        except FAILED as error:
            log.error("spans of trace %r (parent %r) could not be read: %s", trace_id, parent_span_id, error)
            return []

    async def get_span_stats(
        self,
        agent_id: str | None = None,
        team_id: str | None = None,
        workflow_id: str | None = None,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        name: str | None = None,
        span_type: str | None = None,
        limit: int | None = 20,
        page: int | None = 1,
        sort_by: str = "total_calls",
        sort_order: str = "desc",
    ) -> tuple[list[Row], int]:
        """A page of statistics of spans by name and type, and how many groups there are: see `trace_stats.span_groups`.
        Ids are those of the spans' traces; times (inclusive) are the starts of spans. `span_type` is the attribute
        `openinference.span.kind`.

        ([], 0), and a log entry, where the read failed. Reads the headers of all spans in that time, and those of the
        traces that have the ids; attributes are never read.
        """
        equal = {"agent_id": agent_id or None, "team_id": team_id or None, "workflow_id": workflow_id or None}
        where: list[Condition] = [Eq(n, v) for n, v in (("name", name), ("span_type", span_type)) if v]
        if start_time or end_time:
            where.append(
                Range("start_time", utc(start_time) if start_time else None, utc(end_time) if end_time else None)
            )
        offset, length = _stretch(limit, page)
        try:
            if any(equal.values()):
                traces = await self._all(Scope.of(equal))
                ids = {trace.ref.id for trace in traces}
                where.append(Predicate(("trace_id",), lambda fields: fields.get("trace_id") in ids))
                if not ids:
                    return [], 0
            spans = await self.kernel.page(Query(SPANS, tuple(where)), body=False)
        except DocstoreError as error:
            log.error("spans could not be read: %s", error)
            return [], 0
        rows = trace_stats.span_groups(spans, sort_by, sort_order)
        return rows[offset : None if length is None else offset + length], len(rows)

"""What tracing costs: requests, bytes, records. Traces are written at every turn, and listed among many."""

from __future__ import annotations

from typing import Any

from agno_docstores.conformance.traces import at, both, cond, no, span, trace
from agno_docstores.domains.trace_records import span_put, trace_put
from agno_docstores.port import Put
from tests.harness import Cell
from tests.meters import KB, ON_THE_WIRE, Cost, prose

SHARDS = 2  # listing_shards of DynamoDB, by default


async def seed(db: Any, count: int, *, spans: int = 3, owner: str = "u", prefix: str = "trace") -> None:
    """Traces of ten users, five agents and ten sessions, each with some spans of 1 KB, the last of which failed; stored
    in bulk as the domain would have stored them one by one."""
    await db._create_all_tables()
    traces, children = [], []
    for number in range(count):
        ids = {
            "user_id": f"{owner}{number % 10}",
            "agent_id": f"{owner}{number % 5}",
            "session_id": f"{owner}{number % 10}",
        }
        put = trace_put(trace(f"{prefix}-{number:05}", number, **ids))
        traces.append(Put(put.ref, {**put.fields, "children": spans, "errors": 1}))
        for step in range(spans):
            status = "ERROR" if step == spans - 1 else "OK"
            id, attributes = f"{prefix}-span-{number:05}-{step}", {"text": prose(KB, number)}
            children.append(span_put(span(id, put.ref.id, number, status_code=status, attributes=attributes)))
    kernel = db.raw._engine.kernel
    assert await kernel.write_many(traces) == []
    assert await kernel.write_many(children) == []


FILTERS: dict[str, dict[str, Any]] = {
    "user": {"user_id": "u3"},
    "session": {"session_id": "u3"},
    "agent": {"agent_id": "u3"},
    "tenant": {"filter_expr": cond("EQ", "user_id", "u3")},
    "tenant, since": {"filter_expr": both(cond("EQ", "user_id", "u3"), cond("GTE", "start_time", at(50).isoformat()))},
}


@ON_THE_WIRE
async def test_a_page_of_traces_costs_a_page(open_metered: Any) -> None:
    """And the same when there are twice as many of others."""
    async with open_metered() as (db, meter):
        await seed(db, 300, spans=1)
        costs: dict[str, list[Cost]] = {name: [] for name in FILTERS}
        for others in (False, True):
            if others:
                await seed(db, 300, spans=1, owner="v", prefix="other")
            await db.get_traces(user_id="u3")
            for name, filters in FILTERS.items():
                meter.start()
                found, total = await db.get_traces(**filters)
                costs[name].append(meter.stop())
                assert (len(found), total) == (20, {"agent": 60, "tenant, since": 25}.get(name, 30))
                assert {(one.total_spans, one.error_count) for one in found} == {(1, 1)}
    for name, (before, after) in costs.items():
        print(f"BUDGET page of 20 of 600 traces by {name}: {after}")
        assert before.requests == after.requests <= 2, name
        assert after.records <= 20, name
        assert after.bytes <= before.bytes + KB <= 24 * KB, name


@ON_THE_WIRE
async def test_a_page_of_all_traces(cell: Cell, open_metered: Any) -> None:
    async with open_metered() as (db, meter):
        await seed(db, 200, spans=1)
        await db.get_traces(user_id="u3")
        for options, first in (({}, 199), ({"page": 3}, 159), ({"start_time": at(100)}, 199)):
            meter.start()
            found, _ = await db.get_traces(**options)
            cost = meter.stop()
            assert [one.trace_id for one in found] == [f"trace-{n:05}" for n in range(first, first - 20, -1)]
            print(f"BUDGET page of 20 of all traces {options}: {cost}")
            assert cost.requests <= (2 * SHARDS if cell.store == "dynamo" else 2)
            assert cost.bytes <= 60 * KB


@ON_THE_WIRE
async def test_a_trace_with_its_spans_costs_two_requests(open_metered: Any) -> None:
    async with open_metered() as (db, meter):
        await db.upsert_trace(trace("warm"))
        await db.create_span(span("warm", "warm"))
        spans = [span(f"s{n}", start=n, attributes={"text": prose(KB, n)}) for n in range(30)]
        meter.start()
        await db.upsert_trace(trace(user_id="u"))
        await db.create_spans(spans)
        whole = meter.stop()
        meter.start()
        await db.upsert_trace(trace(end=9))
        await db.create_spans([span("more", start=9)])
        later = meter.stop()
        found = await db.get_trace("t1")
        assert (found.total_spans, found.end_time) == (31, at(9))
    print(f"BUDGET trace with 30 spans: {whole}; one more: {later}")
    assert (whole.requests, later.requests) == (2, 2)
    assert whole.records == later.records == 0, "nothing is read to write it"
    assert whole.bytes <= 100 * KB


@ON_THE_WIRE
async def test_a_trace_with_its_spans_is_read_at_once(cell: Cell, open_metered: Any) -> None:
    async with open_metered() as (db, meter):
        await seed(db, 60)
        await db.get_trace("nobody")
        meter.start()
        assert (await db.get_trace("trace-00007")).total_spans == 3
        one = meter.stop()
        meter.start()
        assert len(await db.get_spans("trace-00007")) == 3
        spans = meter.stop()
        meter.start()
        assert (await db.get_span("trace-span-00007-1")).trace_id == "trace-00007"
        span_ = meter.stop()
    print(f"BUDGET trace: {one}; its spans: {spans}; a span: {span_}")
    assert one.requests == (2 if cell.store == "mongo" else 1)
    assert (spans.requests, spans.records) == (1, 3)
    assert span_.requests == (2 if cell.store == "dynamo" else 1)


@ON_THE_WIRE
async def test_statistics_read_headers_of_what_they_are_about(cell: Cell, open_metered: Any) -> None:
    async with open_metered() as (db, meter):
        await seed(db, 200, spans=2)
        await db.get_trace_stats(user_id="u3")
        costs = {}
        for name, call in {
            "a user's sessions": lambda: db.get_trace_stats(user_id="u3"),
            "a tenant's agents": lambda: db.get_trace_stats(group_by="agent", filter_expr=cond("EQ", "user_id", "u3")),
            "an hour's agents": lambda: db.get_trace_stats(group_by="agent", start_time=at(180), end_time=at(199)),
            "an hour's spans": lambda: db.get_span_stats(start_time=at(190), end_time=at(199)),
        }.items():
            meter.start()
            rows, _ = await call()
            costs[name] = meter.stop()
            assert sum(row.get("total_traces") or row["total_calls"] for row in rows) == 20
    print(f"BUDGET statistics: {costs}")
    for name, cost in costs.items():
        by_time = name.startswith("an hour")
        assert cost.requests <= (SHARDS if by_time and cell.store == "dynamo" else 1), name
        assert cost.records <= 20, name
        assert cost.bytes <= 24 * KB, f"{name}: attributes are not read"


@ON_THE_WIRE
async def test_a_search_by_trace_id_reads_that_trace(open_metered: Any) -> None:
    async with open_metered() as (db, meter):
        await seed(db, 60, spans=1)
        await db.get_trace("nobody")
        expression = both(cond("EQ", "user_id", "u7"), cond("EQ", "trace_id", "trace-00007"))
        meter.start()
        found, total = await db.get_traces(filter_expr=expression)
        cost = meter.stop()
        assert ([one.trace_id for one in found], total) == (["trace-00007"], 1)
        print(f"BUDGET search by trace id: {cost}")
        assert cost.requests <= 2 and cost.bytes <= 3 * KB
        assert await db.get_traces(filter_expr=both(cond("EQ", "user_id", "u8"), no(no(expression)))) == ([], 0)

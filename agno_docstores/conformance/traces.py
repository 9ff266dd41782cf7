"""Traces and spans, as `BaseDb` has them: merging, counting, listings, `filter_expr`, statistics.

Needs Agno's tracing (OpenTelemetry) to be installed.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from agno.tracing import DatabaseSpanExporter
from agno.tracing.schemas import Span, Trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import Status, StatusCode

START = datetime(2026, 1, 1, tzinfo=UTC)
SPAN_TYPE = "openinference.span.kind"


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def trace(trace_id: str = "t1", start: float = 0, end: float | None = None, **values: Any) -> Trace:
    """A trace that starts and ends so many seconds after START, by default one second later."""
    end = start + 1 if end is None else end
    fields: dict[str, Any] = {
        "name": "Agent.run",
        "status": "OK",
        "duration_ms": round((end - start) * 1000),
        "total_spans": 0,
        "error_count": 0,
        **dict.fromkeys(("run_id", "session_id", "user_id", "agent_id", "team_id", "workflow_id")),
        "created_at": at(start),
    }
    return Trace(trace_id=trace_id, start_time=at(start), end_time=at(end), **{**fields, **values})


def span(span_id: str = "s1", trace_id: str = "t1", start: float = 0, end: float | None = None, **values: Any) -> Span:
    end = start + 1 if end is None else end
    fields: dict[str, Any] = {
        "parent_span_id": None,
        "name": "step",
        "span_kind": "INTERNAL",
        "status_code": "OK",
        "status_message": None,
        "duration_ms": round((end - start) * 1000),
        "attributes": {},
        "created_at": at(start),
    }
    return Span(span_id=span_id, trace_id=trace_id, start_time=at(start), end_time=at(end), **{**fields, **values})


def cond(op: str, key: Any, value: Any) -> dict[str, Any]:
    return {"op": op, "key": key, "values" if op == "IN" else "value": value}


def both(*conditions: dict[str, Any]) -> dict[str, Any]:
    return {"op": "AND", "conditions": list(conditions)}


def either(*conditions: dict[str, Any]) -> dict[str, Any]:
    return {"op": "OR", "conditions": list(conditions)}


def no(condition: dict[str, Any]) -> dict[str, Any]:
    return {"op": "NOT", "condition": condition}


async def ids(db: Any, **filters: Any) -> str:
    """The ids of the traces that are found, sorted and joined; their number has to be the total."""
    found, total = await db.get_traces(**{"limit": None, **filters})
    assert total == len(found)
    return " ".join(sorted(one.trace_id for one in found))


async def counts(db: Any, trace_id: str = "t1") -> tuple[int, int]:
    """Spans and errors of a trace; a listing has to say the same."""
    found = await db.get_trace(trace_id)
    listed = [one for one in (await db.get_traces(limit=None))[0] if one.trace_id == trace_id]
    assert [(one.total_spans, one.error_count) for one in listed] == [(found.total_spans, found.error_count)]
    return found.total_spans, found.error_count


# --- One trace, one span ----------------------------------------------------------------------------------------------


async def test_reads_on_empty_storage_are_empty(db: Any) -> None:
    assert await db.get_trace("nobody") is None
    assert await db.get_trace(run_id="nobody") is None
    assert await db.get_trace() is None
    assert await db.get_traces() == ([], 0)
    assert await db.get_traces(user_id="u", filter_expr=cond("EQ", "trace_id", "nobody")) == ([], 0)
    assert await db.get_trace_stats() == ([], 0)
    assert await db.get_span("nobody") is None
    assert await db.get_spans() == []
    assert await db.get_spans("nobody") == []
    assert await db.get_span_stats() == ([], 0)
    assert await db.get_span_stats(agent_id="a1") == ([], 0)
    assert await db.create_spans([]) is None


async def test_a_trace_comes_back_whole(db: Any) -> None:
    stored = trace(
        "t1",
        0.123456,
        2.5,
        name="Workflow.arun \x00 日本 😀",
        status="ERROR",
        total_spans=7,
        error_count=3,
        run_id="r1",
        session_id="s/1",
        user_id="$ne",
        agent_id="a.1",
        team_id="",
        created_at=at(9),
    )
    assert await db.upsert_trace(stored) is None
    found = await db.get_trace("t1")
    assert type(found) is Trace
    assert found == Trace(**{**vars(stored), "total_spans": 0, "error_count": 0})
    assert (await db.get_traces())[0] == [found]
    assert (found.start_time.utcoffset(), found.workflow_id) == (timedelta(0), None)


async def test_a_span_comes_back_whole(db: Any) -> None:
    attributes = {
        SPAN_TYPE: "LLM",
        "llm.token.count": 3,
        "a": {"b.c": [1, 1.0, None, True, {"": "\x00"}], "$d": 2**70},
        "__x__": "é\u0301 😀",
    }
    await db.upsert_trace(trace())
    stored = span(
        parent_span_id="p1",
        name="chat",
        span_kind="CLIENT",
        status_code="ERROR",
        status_message="why \x00",
        start=0.25,
        end=0.75,
        attributes=attributes,
        created_at=at(5),
    )
    assert await db.create_span(stored) is None
    found = await db.get_span("s1")
    assert type(found) is Span and found == stored
    assert repr(found.attributes) == repr(attributes)
    assert await db.get_spans("t1") == [stored]
    found.attributes["a"]["b.c"].append("changed")
    attributes["a"] = "changed"
    assert (await db.get_span("s1")).attributes["a"]["b.c"] == [1, 1.0, None, True, {"": "\x00"}]


async def test_times_are_instants_whatever_their_zone(db: Any) -> None:
    east, west = timezone(timedelta(hours=5)), timezone(timedelta(hours=-5))
    for trace_id, seconds, zone in (("a", 0, east), ("b", 1, west), ("c", 2, UTC)):
        times = [at(seconds + offset).astimezone(zone) for offset in (0, 1)]
        one = trace(trace_id, session_id=trace_id)
        one.start_time, one.end_time, one.created_at = *times, times[0]
        await db.upsert_trace(one)
        await db.create_span(Span(**{**vars(span(f"s-{trace_id}", trace_id)), "start_time": times[0]}))
    one = trace("d")
    one.start_time = one.end_time = one.created_at = at(3).replace(tzinfo=None)  # without a zone: UTC
    await db.upsert_trace(one)
    found, _ = await db.get_traces()
    assert [(one.trace_id, one.start_time) for one in found] == [(id, at(n)) for n, id in enumerate("abcd")][::-1]
    assert {one.start_time.utcoffset() for one in found} == {timedelta(0)}
    assert await ids(db, start_time=at(1).astimezone(east)) == "b c d"
    assert await ids(db, end_time=at(2).astimezone(west)) == "a b"
    assert await ids(db, start_time=at(2).replace(tzinfo=None)) == "c d"
    assert await ids(db, filter_expr=cond("EQ", "start_time", at(1).astimezone(west).isoformat())) == "b"
    rows, total = await db.get_trace_stats(start_time=at(1).astimezone(east), end_time=at(2).astimezone(west))
    assert ([row["session_id"] for row in rows], total) == (["c", "b"], 2)
    assert rows[0]["last_trace_at"].utcoffset() == timedelta(0)
    assert (await db.get_span("s-a")).start_time.utcoffset() == timedelta(0)
    assert (await db.get_span_stats(start_time=at(1).astimezone(east)))[0][0]["total_calls"] == 2


# --- Merging ----------------------------------------------------------------------------------------------------------


async def test_later_writes_of_a_trace_are_merged(db: Any) -> None:
    await db.upsert_trace(trace(start=10, end=20, status="ERROR", session_id="s1", user_id="u1", created_at=at(1)))
    await db.upsert_trace(
        trace(start=5, end=12, status="OK", session_id="s2", user_id="u2", run_id="r1", agent_id="a1", created_at=at(2))
    )
    found = await db.get_trace("t1")
    assert (found.start_time, found.end_time, round(found.duration_ms)) == (at(5), at(20), 15_000)
    assert (found.session_id, found.user_id) == ("s1", "u1"), "the first stays"
    assert (found.run_id, found.agent_id, found.team_id) == ("r1", "a1", None)
    assert (found.status, found.created_at) == ("OK", at(1))
    await db.upsert_trace(trace(start=7, end=31, status="UNSET"))
    found = await db.get_trace("t1")
    assert (found.start_time, found.end_time, round(found.duration_ms)) == (at(5), at(31), 26_000)
    assert (found.session_id, found.user_id, found.run_id, found.agent_id) == ("s1", "u1", "r1", "a1")
    assert (found.status, found.created_at) == ("UNSET", at(1))
    assert await ids(db, user_id="u1", session_id="s1", agent_id="a1") == "t1"
    assert await ids(db, user_id="u2") == ""


async def test_the_highest_component_names_the_trace(db: Any) -> None:
    agent = trace(name="Agent.run", agent_id="a1")
    team = trace(name="Team.arun", team_id="m1", agent_id="a1")
    workflow = trace(name="Workflow.run", workflow_id="w1")
    other = trace(name="Other.run", agent_id="a2")
    child = trace(name="tool call", agent_id="a1", team_id="m1", workflow_id="w1")
    expected = [
        ([agent, team], "Team.arun"),
        ([team, agent], "Team.arun"),
        ([agent, other], "Agent.run"),
        ([agent, workflow, team], "Workflow.run"),
        ([child, agent], "Agent.run"),
        ([agent, child], "Agent.run"),
        ([child, trace(name="GET /run")], "tool call"),
    ]
    for number, (writes, name) in enumerate(expected):
        for one in writes:
            await db.upsert_trace(trace(**{**_given(one), "trace_id": f"t{number}"}))
        assert (await db.get_trace(f"t{number}")).name == name, [one.name for one in writes]


def _given(one: Trace) -> dict[str, Any]:
    return {name: getattr(one, name) for name in ("name", "agent_id", "team_id", "workflow_id")}


async def test_a_merged_duration_is_whole_milliseconds(db: Any) -> None:
    await db.upsert_trace(trace(start=0, end=0.1007))
    await db.upsert_trace(trace(start=0.05, end=0.2))
    found = await db.get_trace("t1")
    assert (type(found.duration_ms), found.duration_ms) == (int, 200)


async def test_a_trace_that_cannot_be_stored_raises_nothing(db: Any) -> None:
    await db.upsert_trace(trace("kept"))
    for broken in (
        trace("bad", name=None),
        trace("bad", status={"code": 1}),
        trace("bad", user_id="\ud800"),
        trace("bad", session_id=["s1"]),
        trace(None),  # type: ignore[arg-type]
        Trace(**{**vars(trace("bad")), "start_time": None}),
        {"trace_id": "bad"},
    ):
        assert await db.upsert_trace(broken) is None
    assert await db.get_trace("bad") is None
    assert await ids(db) == "kept"


# --- Spans ------------------------------------------------------------------------------------------------------------


async def test_spans_and_errors_are_counted(db: Any) -> None:
    await db.upsert_trace(trace())
    await db.upsert_trace(trace("t2", start=5))
    assert await counts(db) == (0, 0)
    await db.create_spans([span("s1"), span("s2", status_code="ERROR"), span("s3", status_code="UNSET")])
    assert await counts(db) == (3, 1)
    await db.create_spans([span("s4", status_code="ERROR"), span("x1", "t2"), span("s5")])
    await db.create_span(span("x2", "t2", status_code="ERROR"))
    assert await counts(db) == (5, 2)
    await db.upsert_trace(trace(end=9, total_spans=99, error_count=99))
    assert await counts(db) == (5, 2), "a later write of the trace keeps what is counted"
    assert await counts(db, "t2") == (2, 1)
    assert sorted(one.span_id for one in await db.get_spans("t1")) == ["s1", "s2", "s3", "s4", "s5"]


async def test_a_span_is_stored_and_counted_once(db: Any) -> None:
    await db.upsert_trace(trace())
    await db.create_spans([span("s1"), span("s2", name="first", status_code="ERROR"), span("s2", name="second")])
    assert await counts(db) == (2, 1)
    await db.create_spans([span("s2", name="third"), span("s3", status_code="ERROR"), span("s1")])
    await db.create_span(span("s3"))
    assert await counts(db) == (3, 2)
    assert (await db.get_span("s2")).name == "first"
    assert len(await db.get_spans("t1")) == 3


async def test_a_span_stays_in_its_trace(db: Any) -> None:
    await db.upsert_trace(trace("t1"))
    await db.upsert_trace(trace("t2"))
    await db.create_span(span("s1", "t1"))
    await db.create_span(span("s1", "t2", status_code="ERROR"))
    assert (await db.get_span("s1")).trace_id == "t1"
    assert (await counts(db, "t1"), await counts(db, "t2")) == ((1, 0), (0, 0))
    assert await db.get_spans("t2") == []


async def test_spans_that_come_before_their_trace_count_when_it_comes(db: Any) -> None:
    await db.create_spans([span("s1"), span("s2", status_code="ERROR")])
    assert [one.span_id for one in await db.get_spans("t1")] == ["s1", "s2"]
    assert await db.get_trace("t1") is None
    assert await db.get_traces() == ([], 0)
    assert await db.get_traces(filter_expr=cond("EQ", "trace_id", "t1")) == ([], 0)
    assert await db.get_traces(filter_expr=no(cond("EQ", "trace_id", "t2"))) == ([], 0)
    assert await db.get_trace_stats(group_by="endpoint") == ([], 0)
    await db.upsert_trace(trace(user_id="u1", start=3, end=4))
    found = await db.get_trace("t1")
    assert (found.start_time, found.user_id, found.created_at) == (at(3), "u1", at(3))
    assert await counts(db) == (2, 1)
    await db.create_span(span("s3"))
    assert await counts(db) == (3, 1)
    assert await ids(db, user_id="u1") == "t1"


async def test_a_span_that_cannot_be_stored_does_not_lose_the_others(db: Any) -> None:
    await db.upsert_trace(trace())
    broken: list[Any] = [
        span("bad", attributes={"tags": {1, 2}}),
        span("bad", attributes={"deep": [{"lock": object()}]}),
        span(""),
        span(None),  # type: ignore[arg-type]
        span("bad", trace_id=None),  # type: ignore[arg-type]
        span("bad", name=None),
        span("bad", duration_ms="long"),
        span("bad", parent_span_id="\ud800"),
        Span(**{**vars(span("bad")), "end_time": None}),
        None,
    ]
    assert await db.create_spans([span("s1"), *broken, span("s2")]) is None
    assert sorted(one.span_id for one in await db.get_spans()) == ["s1", "s2"]
    assert await counts(db) == (2, 0)


async def test_many_spans_of_several_traces_in_one_call(db: Any) -> None:
    for trace_id in ("t1", "t2"):
        await db.upsert_trace(trace(trace_id))
    status = {0: "ERROR"}
    spans = [
        span(f"s{n}", f"t{n % 2 + 1}", start=n, status_code=status.get(n % 10, "OK"), attributes={"n": n})
        for n in range(200)
    ]
    await db.create_spans(spans)
    assert (await counts(db, "t1"), await counts(db, "t2")) == ((100, 20), (100, 0))
    found = await db.get_spans("t1")
    assert sorted(one.attributes["n"] for one in found) == list(range(0, 200, 2))


async def test_get_spans_by_trace_and_parent(db: Any) -> None:
    for trace_id in ("t1", "t2"):
        await db.upsert_trace(trace(trace_id))
    await db.create_spans(
        [
            span("root", "t1", 0),
            span("child", "t1", 1, parent_span_id="root"),
            span("leaf", "t1", 2, parent_span_id="child"),
            span("guest", "t2", 3, parent_span_id="root"),
        ]
    )

    async def found(*args: Any, **kwargs: Any) -> list[str]:
        return sorted(one.span_id for one in await db.get_spans(*args, **kwargs))

    assert await found("t1") == ["child", "leaf", "root"]
    assert await found(parent_span_id="root") == ["child", "guest"]
    assert await found("t1", "root") == ["child"]
    assert await found("t2", "child") == []
    assert await found() == await found("", "") == ["child", "guest", "leaf", "root"]
    assert (await db.get_spans("t1", "child"))[0] == span("leaf", "t1", 2, parent_span_id="child")


async def test_get_spans_takes_a_limit(db: Any) -> None:
    await db.upsert_trace(trace())
    await db.create_spans([span(f"s{n}", start=9 - n, parent_span_id="p", attributes={"n": n}) for n in range(6)])
    for filters in ({"trace_id": "t1"}, {"parent_span_id": "p"}, {}):
        found = await db.get_spans(**filters, limit=2)
        assert [(one.span_id, one.attributes) for one in found] == [("s5", {"n": 5}), ("s4", {"n": 4})]
        assert len(await db.get_spans(**filters, limit=None)) == len(await db.get_spans(**filters, limit=0)) == 6


async def test_what_agnos_exporter_sends_is_one_trace_with_its_spans(db: Any) -> None:
    """Spans end, and are exported, before those that they are part of; an async store gets them all at once."""
    await db.upsert_trace(trace("first"))
    await db.create_span(span("first", "first"))
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(DatabaseSpanExporter(db.raw)))
    tracer = provider.get_tracer("conformance")
    before = asyncio.all_tasks()
    who = {"session.id": "s1", "user.id": "u1", "agno.agent.id": "a1", "agno.run.id": "r1"}
    with tracer.start_as_current_span("Agent.run", attributes=who):
        with tracer.start_as_current_span("model", attributes={SPAN_TYPE: "LLM", "llm.token_count.total": 7}):
            pass
        with tracer.start_as_current_span("tool", attributes={SPAN_TYPE: "TOOL"}) as tool:
            tool.set_status(Status(StatusCode.ERROR, "it broke"))
    await asyncio.gather(*(asyncio.all_tasks() - before))
    found = await db.get_trace(run_id="r1")
    assert (found.name, found.session_id, found.user_id, found.agent_id) == ("Agent.run", "s1", "u1", "a1")
    assert (found.total_spans, found.error_count) == (3, 1)
    spans = {one.name: one for one in await db.get_spans(found.trace_id)}
    assert set(spans) == {"Agent.run", "model", "tool"}
    assert spans["model"].attributes == {SPAN_TYPE: "LLM", "llm.token_count.total": 7}
    assert (spans["tool"].status_code, spans["tool"].status_message) == ("ERROR", "it broke")
    assert spans["tool"].parent_span_id == spans["model"].parent_span_id == spans["Agent.run"].span_id
    assert (found.start_time, found.end_time) == (spans["Agent.run"].start_time, spans["Agent.run"].end_time)


# --- Listings ---------------------------------------------------------------------------------------------------------


async def test_get_trace_by_run_gives_the_latest(db: Any) -> None:
    await db.upsert_trace(trace("old", 1, run_id="r1"))
    await db.upsert_trace(trace("new", 9, run_id="r1"))
    await db.upsert_trace(trace("mid", 5, run_id="r1"))
    await db.create_span(span("s1", "new"))
    found = await db.get_trace(run_id="r1")
    assert (found.trace_id, found.total_spans) == ("new", 1)
    assert (await db.get_trace("old", "r1")).trace_id == "old"
    assert (await db.get_trace("old", "another")).trace_id == "old", "the id alone decides"
    assert await db.get_trace("nobody", "r1") is None
    assert (await db.get_trace("", "r1")).trace_id == "new"
    assert await db.get_trace("", "") is None


async def test_every_filter_is_applied(db: Any) -> None:
    names = ("run_id", "session_id", "user_id", "agent_id", "team_id", "workflow_id")
    every: dict[str, Any] = dict.fromkeys(names, "x")
    await db.upsert_trace(trace("a", 0, **every, status="ERROR"))
    for number, name in enumerate(names, 1):
        await db.upsert_trace(trace(f"no-{name}", number, **{**every, name: "other"}))
    assert await ids(db, **every) == "a"
    assert await ids(db, **every, status="OK") == ""
    assert await ids(db, status="ERROR") == "a"
    for name in names:
        assert await ids(db, **{name: "other"}) == f"no-{name}"
        assert await ids(db, **{name: "nobody"}) == ""
        assert len((await ids(db, **{name: "x"})).split()) == 6
        another = "agent_id" if name == "user_id" else "user_id"
        assert await ids(db, **{name: "x", another: "other"}) == f"no-{another}"
        assert await ids(db, **{name: "other", another: "other"}) == ""
        assert await ids(db, **{name: "x"}, status="ERROR", start_time=at(0), end_time=at(1)) == "a"
    assert await ids(db, user_id="") == ""
    assert await ids(db, session_id="", user_id="x", status="ERROR") == "a"


async def test_times_bound_a_listing(db: Any) -> None:
    for number in range(5):
        await db.upsert_trace(trace(f"t{number}", number, number + 2, user_id="u" if number % 2 else "v"))
    assert await ids(db, start_time=at(2)) == "t2 t3 t4"
    assert await ids(db, end_time=at(4)) == "t0 t1 t2"
    assert await ids(db, start_time=at(1), end_time=at(5)) == "t1 t2 t3"
    assert await ids(db, start_time=at(1), end_time=at(5), user_id="u") == "t1 t3"
    assert await ids(db, start_time=at(2.5), end_time=at(3)) == ""


async def test_pages_are_in_order_and_totals_those_of_all(db: Any) -> None:
    for number in range(7):
        await db.upsert_trace(trace(f"t{number}", 3 if number in (3, 4) else number, user_id="u", agent_id="a"))
    await db.upsert_trace(trace("other", 4.5, user_id="v"))
    scope = cond("EQ", "user_id", "u")
    for filters in (
        {"user_id": "u"},
        {"user_id": "u", "agent_id": "a"},
        {"filter_expr": scope},
        {"filter_expr": both(scope, no(cond("CONTAINS", "user_id", "v")))},
        {"filter_expr": both(scope, cond("STARTSWITH", "trace_id", "t"))},
        {"filter_expr": cond("IN", "user_id", ["u", "w"])},
    ):
        pages = []
        for page in (1, 2, 3, 4, 5):
            found, total = await db.get_traces(**filters, limit=2, page=page)
            assert total == 7
            pages.append([one.trace_id for one in found])
        assert [len(page) for page in pages] == [2, 2, 2, 1, 0]
        flat = [id for page in pages for id in page]
        assert flat[:2] + sorted(flat[2:4]) + flat[4:] == ["t6", "t5", "t3", "t4", "t2", "t1", "t0"]
        assert len(set(flat)) == 7
        assert len((await db.get_traces(**filters, limit=None, page=3))[0]) == 7
        assert await db.get_traces(**filters, limit=0) == ([], 7)
        for odd in (0, None, -1):
            assert [one.trace_id for one in (await db.get_traces(**filters, limit=2, page=odd))[0]] == ["t6", "t5"]
        assert len((await db.get_traces(**filters, limit=-1))[0]) == 7
    assert len((await db.get_traces())[0]) == 8, "20 by default"


async def test_ids_are_text_and_nothing_else(db: Any) -> None:
    texts = ["$ne", "a/b", "a!b", '"', "__x__", "..", "%", "ü", "null", "5", "\x00", "x" * 3000, "x" * 3000 + "y"]
    for number, text in enumerate(texts):
        await db.upsert_trace(trace(text, number, user_id=text, session_id=f"s{number % 2}"))
        await db.create_span(span(text, text, number, parent_span_id=text))
    for text in texts:
        assert (await db.get_trace(text)).user_id == text
        assert await ids(db, user_id=text) == text
        assert await ids(db, filter_expr=both(cond("EQ", "user_id", text), cond("EQ", "trace_id", text))) == text
        assert (await db.get_span(text)).trace_id == text
        assert [one.span_id for one in await db.get_spans(text, text)] == [text]
        assert [one.span_id for one in await db.get_spans(parent_span_id=text)] == [text]
    await db.upsert_trace(trace("number", user_id=5))
    assert await ids(db, user_id=5) == await ids(db, user_id="5") == "5 number"
    assert await ids(db, user_id="\ud800") == ""
    assert await db.get_trace("\ud800") is None and await db.get_span("\ud800") is None


# --- filter_expr ------------------------------------------------------------------------------------------------------


async def seed_filtered(db: Any) -> None:
    await db.upsert_trace(trace("a", 0, 0.15, user_id="Anna", agent_id="x", name="Agent.run"))
    await db.upsert_trace(trace("b", 1, 1.05, user_id="5", status="ERROR", name="100%_sure"))
    await db.upsert_trace(trace("c", 2, 4, user_id="anna b", session_id="s", name="Team.run", created_at=at(99)))
    await db.upsert_trace(trace("d", 3, 3.007, agent_id="x", status="UNSET"))


async def test_filters_compare_columns_with_values(db: Any) -> None:
    await seed_filtered(db)
    for expression, expected in [
        (cond("EQ", "user_id", "Anna"), "a"),
        (cond("EQ", "user_id", "anna"), ""),
        (cond("NEQ", "user_id", "Anna"), "b c"),
        (cond("GT", "user_id", "Anna"), "c"),
        (cond("GTE", "user_id", "Anna"), "a c"),
        (cond("LT", "user_id", "Anna"), "b"),
        (cond("LTE", "user_id", "Anna"), "a b"),
        (cond("IN", "user_id", ["Anna", "5", "nobody"]), "a b"),
        (cond("IN", "user_id", []), ""),
        (cond("IN", "status", ("OK", "UNSET")), "a c d"),
        (cond("CONTAINS", "user_id", "NN"), "a c"),
        (cond("STARTSWITH", "user_id", "ANNA "), "c"),
        (cond("STARTSWITH", "user_id", "nna"), ""),
        (cond("CONTAINS", "name", "%"), "b"),
        (cond("CONTAINS", "name", "0_s"), ""),
        (cond("CONTAINS", "name", ".RUN"), "a c d"),
        (cond("CONTAINS", "user_id", ""), "a b c"),
        (cond("EQ", "duration_ms", 150), "a"),
        (cond("NEQ", "duration_ms", 150), "b c d"),
        (cond("GT", "duration_ms", 50), "a c"),
        (cond("GTE", "duration_ms", 50), "a b c"),
        (cond("LT", "duration_ms", 50.5), "b d"),
        (cond("LTE", "duration_ms", 7), "d"),
        (cond("IN", "duration_ms", [7, 50]), "b d"),
        (cond("EQ", "trace_id", "b"), "b"),
        (cond("NEQ", "trace_id", "b"), "a c d"),
        (cond("IN", "trace_id", ["b", "c", "z"]), "b c"),
        (cond("CONTAINS", "trace_id", "A"), "a"),
        (cond("GT", "trace_id", "b"), "c d"),
        (cond("EQ", "created_at", at(99).isoformat()), "c"),
        (cond("LT", "created_at", at(99).isoformat()), "a b d"),
        (cond("GTE", "start_time", at(1).isoformat()), "b c d"),
        (cond("GT", "start_time", at(1).isoformat()), "c d"),
        (cond("LTE", "end_time", "2026-01-01T00:00:01.05Z"), "a b"),
        (cond("LT", "end_time", "2026-01-01T05:00:01.050000+05:00"), "a"),
        (cond("NEQ", "start_time", "2025-12-31T19:00:00-05:00"), "b c d"),
        (cond("GTE", "start_time", "2026-01-01"), "a b c d"),
        (cond("IN", "start_time", ["2026-01-01T00:00:00Z", "2026-01-01 00:00:03"]), "a d"),
        (cond("STARTSWITH", "start_time", "2026-01-01T00:00:0"), "a b c d"),
    ]:
        assert await ids(db, filter_expr=expression) == expected, expression
    assert await ids(db, filter_expr={}) == await ids(db, filter_expr=None) == "a b c d"


async def test_filters_combine_as_sql_does_with_nulls(db: Any) -> None:
    await seed_filtered(db)
    anna, error, agent = cond("EQ", "user_id", "Anna"), cond("EQ", "status", "ERROR"), cond("EQ", "agent_id", "x")
    for expression, expected in [
        (both(anna, agent), "a"),
        (both(error, agent), ""),
        (both(anna), "a"),
        (either(anna, error), "a b"),
        (either(error, agent), "a b d"),
        (both(either(anna, error), no(agent)), ""),
        (no(anna), "b c"),
        (no(no(anna)), "a"),
        (no(agent), ""),
        (no(error), "a c d"),
        (no(both(anna, error)), "a b c d"),
        (no(both(anna, agent)), "b c"),
        (no(either(anna, error)), "c"),
        (no(cond("CONTAINS", "user_id", "a")), "b"),
        (no(cond("GT", "user_id", "A")), "b"),
        (cond("IN", "user_id", ["Anna", None]), "a"),
        (no(cond("IN", "user_id", ["Anna", None])), ""),
        (no(cond("IN", "user_id", ["Anna"])), "b c"),
        (no(cond("IN", "user_id", [])), "a b c d"),
        (both(no(either(anna, agent)), cond("GTE", "start_time", at(0).isoformat())), ""),
        (both(cond("GTE", "start_time", at(1).isoformat()), cond("LTE", "start_time", at(2).isoformat())), "b c"),
        (both(cond("EQ", "trace_id", "a"), error), ""),
        (both(cond("EQ", "trace_id", "a"), cond("EQ", "trace_id", "b")), ""),
        (both(cond("EQ", "trace_id", "a"), agent, both(anna, no(error))), "a"),
        (either(cond("EQ", "trace_id", "d"), anna), "a d"),
    ]:
        assert await ids(db, filter_expr=expression) == expected, expression
    deep = anna
    for _ in range(5):
        deep = no(no(deep))
    assert await ids(db, filter_expr=deep) == "a"


async def test_filters_take_values_of_any_type_as_their_column_does(db: Any) -> None:
    await seed_filtered(db)
    await db.upsert_trace(trace("e", 5, user_id="1"))
    for expression, expected in [
        (cond("EQ", "user_id", 5), "b"),
        (cond("IN", "user_id", [5, "Anna"]), "a b"),
        (cond("EQ", "user_id", 5.0), ""),
        (cond("GT", "user_id", 4), "a b c"),
        (cond("EQ", "user_id", True), "e"),
        (cond("IN", "user_id", [5, True]), "b e"),
        (cond("EQ", "duration_ms", "150"), "a"),
        (cond("EQ", "duration_ms", " 1.5e2 "), "a"),
        (cond("GT", "duration_ms", "99"), "a c e"),
        (cond("LT", "duration_ms", "soon"), "a b c d e"),
        (cond("GT", "duration_ms", "soon"), ""),
        (cond("IN", "duration_ms", ["150", 7.0]), "a d"),
        (cond("CONTAINS", "duration_ms", 5), "a b"),
        (cond("STARTSWITH", "duration_ms", "2000"), "c"),
        (cond("CONTAINS", "user_id", 5), "b"),
        (cond("GT", "start_time", "2025"), "a b c d e"),
        (cond("LT", "start_time", 2027), "a b c d e"),
        (cond("EQ", "start_time", at(2)), "c"),
        (cond("EQ", "start_time", "yesterday"), ""),
    ]:
        assert await ids(db, filter_expr=expression) == expected, expression


async def test_text_is_searched_without_case_beyond_ascii(db: Any) -> None:
    await db.upsert_trace(trace(user_id="ÉTÉ"))
    assert await ids(db, filter_expr=cond("CONTAINS", "user_id", "té")) == "t1"
    assert await ids(db, filter_expr=cond("STARTSWITH", "user_id", "ét")) == "t1"


async def test_a_filter_is_applied_beside_the_other_filters(db: Any) -> None:
    await seed_filtered(db)
    anything = either(cond("EQ", "status", "OK"), cond("NEQ", "status", "OK"))
    assert await ids(db, filter_expr=anything) == "a b c d"
    assert await ids(db, user_id="Anna", filter_expr=anything) == "a"
    assert await ids(db, user_id="Anna", filter_expr=cond("EQ", "user_id", "5")) == ""
    assert await ids(db, user_id="Anna", filter_expr=cond("EQ", "trace_id", "b")) == ""
    assert await ids(db, agent_id="x", filter_expr=cond("EQ", "user_id", "Anna")) == "a"
    assert await ids(db, start_time=at(1), filter_expr=cond("LTE", "start_time", at(2).isoformat())) == "b c"
    assert await ids(db, start_time=at(1), filter_expr=cond("GTE", "start_time", at(0).isoformat())) == "b c d"
    assert await ids(db, end_time=at(2), filter_expr=cond("LTE", "end_time", at(4).isoformat())) == "a b"
    scope = both(cond("EQ", "user_id", "Anna"), anything)
    rows, total = await db.get_trace_stats(group_by="agent", filter_expr=scope)
    assert ([(row["agent_id"], row["total_traces"]) for row in rows], total) == ([("x", 1)], 1)
    assert await db.get_trace_stats(group_by="agent", filter_expr=both(scope, cond("EQ", "trace_id", "d"))) == ([], 0)
    rows, _ = await db.get_trace_stats(group_by="agent", filter_expr=cond("EQ", "trace_id", "d"))
    assert [(row["agent_id"], row["total_traces"]) for row in rows] == [("x", 1)]
    assert await db.get_trace_stats(agent_id="x", filter_expr=cond("EQ", "user_id", "5")) == ([], 0)


async def test_a_wrong_filter_is_an_error(db: Any) -> None:
    await db.upsert_trace(trace(user_id="u"))
    good = cond("EQ", "user_id", "u")
    deep = good
    for _ in range(11):
        deep = no(deep)
    wrong: list[Any] = [
        "user_id = 'u'",
        ["EQ", "user_id", "u"],
        {"key": "user_id", "value": "u"},
        {"op": "LIKE", "key": "user_id", "value": "u"},
        {"op": "eq", "key": "user_id", "value": "u"},
        {"op": ["EQ"], "key": "user_id", "value": "u"},
        {"op": "EQ", "value": "u"},
        {"op": "EQ", "key": "user_id"},
        cond("EQ", "user_id", None),
        cond("CONTAINS", "user_id", None),
        cond("EQ", "total_spans", 1),
        cond("EQ", "known", True),
        cond("EQ", ["user_id"], "u"),
        cond("EQ", "user_id", ["u"]),
        cond("EQ", "user_id", {"$ne": ""}),
        cond("GT", "user_id", True),
        {"op": "IN", "key": "user_id", "value": ["u"]},
        cond("IN", "user_id", "u"),
        cond("IN", "user_id", [["u"]]),
        cond("IN", "nowhere", ["u"]),
        {"op": "AND"},
        {"op": "AND", "conditions": []},
        {"op": "AND", "conditions": 5},
        {"op": "OR", "conditions": [good, "x"]},
        {"op": "NOT"},
        {"op": "NOT", "condition": [good]},
        both(good, {"op": "LIKE", "key": "user_id", "value": "u"}),
        either(good, cond("EQ", "nowhere", "u")),
        deep,
    ]
    for expression in wrong:
        with pytest.raises(ValueError):
            await db.get_traces(filter_expr=expression)
        with pytest.raises(ValueError):
            await db.get_trace_stats(user_id="u", filter_expr=expression)


# --- Statistics -------------------------------------------------------------------------------------------------------


async def seed_statistics(db: Any) -> None:
    component = {"agent_id": "a1", "session_id": "s1"}
    await db.upsert_trace(trace("t1", 0, 0.1, **component, user_id="u1"))
    await db.upsert_trace(trace("t2", 1, 1.3, **component, user_id="u2", team_id="m1", status="ERROR"))
    await db.upsert_trace(trace("t3", 2, 2.2, agent_id="a1", session_id="s2", user_id="u1", created_at=at(50)))
    await db.upsert_trace(trace("t4", 3, 4, agent_id="a2", workflow_id="w1", session_id="s1"))
    await db.upsert_trace(trace("t5", 4, 4.5, agent_id="a0"))
    await db.upsert_trace(trace("t6", 5, 5.5, name="GET /a", session_id="s3", user_id="u1"))
    await db.upsert_trace(trace("t7", 6, 6.25, name="GET /a", status="ERROR"))
    await db.upsert_trace(trace("t8", 7, 7.1, name="GET /b"))


async def test_statistics_by_session(db: Any) -> None:
    await seed_statistics(db)
    rows, total = await db.get_trace_stats()
    assert total == 3
    assert [row["session_id"] for row in rows] == ["s2", "s3", "s1"], "the latest active first"
    assert rows[2] == {
        "session_id": "s1",
        "user_id": "u2",
        "agent_id": "a2",
        "team_id": "m1",
        "workflow_id": "w1",
        "total_traces": 3,
        "first_trace_at": at(0),
        "last_trace_at": at(3),
    }
    assert (rows[1]["agent_id"], rows[1]["total_traces"]) == (None, 1)
    cases: list[tuple[dict[str, Any], dict[str, int]]] = [
        ({"user_id": "u1"}, {"s1": 1, "s2": 1, "s3": 1}),
        ({"agent_id": "a1"}, {"s1": 2, "s2": 1}),
        ({"team_id": "m1"}, {"s1": 1}),
        ({"workflow_id": "w1", "agent_id": "a2"}, {"s1": 1}),
        ({"workflow_id": "w1", "agent_id": "a1"}, {}),
        ({"user_id": "u1", "agent_id": "a1"}, {"s1": 1, "s2": 1}),
        ({"start_time": at(1)}, {"s1": 2, "s2": 1, "s3": 1}),
        ({"end_time": at(3)}, {"s1": 3}),
        ({"start_time": at(3), "end_time": at(5)}, {"s1": 1, "s3": 1}),
        ({"user_id": "u1", "end_time": at(0)}, {"s1": 1}),
        ({"filter_expr": cond("EQ", "status", "ERROR")}, {"s1": 1}),
        ({"filter_expr": cond("GTE", "created_at", at(50).isoformat())}, {"s2": 1}),
    ]
    for filters, expected in cases:
        rows, total = await db.get_trace_stats(**filters)
        assert {row["session_id"]: row["total_traces"] for row in rows} == expected, filters
        assert total == len(expected)


async def test_statistics_by_component(db: Any) -> None:
    await seed_statistics(db)
    rows, total = await db.get_trace_stats(group_by="agent")
    assert ([(row["agent_id"], row["total_traces"]) for row in rows], total) == ([("a1", 3), ("a0", 1), ("a2", 1)], 3)
    del rows[0]["p95_duration_ms"]
    assert rows[0] == {
        "agent_id": "a1",
        "total_traces": 3,
        "total_sessions": 2,
        "avg_duration_ms": 200.0,
        "max_duration_ms": 300,
        "error_traces": 1,
        "first_trace_at": at(0),
        "last_trace_at": at(50),
    }
    assert rows[1]["total_sessions"] == 0
    cases: list[tuple[str, dict[str, Any], list[tuple[str, int, int]]]] = [
        ("team", {}, [("m1", 1, 1)]),
        ("team", {"user_id": "u1"}, []),
        ("workflow", {}, [("w1", 1, 0)]),
        ("workflow", {"start_time": at(4)}, []),
        ("endpoint", {}, [("GET /a", 2, 1), ("GET /b", 1, 0)]),
        ("endpoint", {"user_id": "u1"}, [("GET /a", 1, 0)]),
        ("endpoint", {"agent_id": "a1"}, []),
        ("agent", {"user_id": "u2"}, [("a1", 1, 1)]),
    ]
    for group_by, filters, expected in cases:
        key = "name" if group_by == "endpoint" else f"{group_by}_id"
        rows, total = await db.get_trace_stats(group_by=group_by, **filters)
        assert [(row[key], row["total_traces"], row["error_traces"]) for row in rows] == expected, (group_by, filters)
        assert total == len(expected)
    with pytest.raises(ValueError, match="group_by"):
        await db.get_trace_stats(group_by="user")


async def test_pages_of_statistics(db: Any) -> None:
    for number in range(5):
        await db.upsert_trace(trace(f"t{number}", 1, session_id=f"s{number}", agent_id=f"a{number}"))
    for group_by, key in (("session", "session_id"), ("agent", "agent_id")):
        pages = [await db.get_trace_stats(group_by=group_by, limit=2, page=page) for page in (1, 2, 3, 4)]
        assert [total for _, total in pages] == [5] * 4
        assert [len(rows) for rows, _ in pages] == [2, 2, 1, 0]
        flat = [row[key] for rows, _ in pages for row in rows]
        assert flat == [f"{group_by[0]}{number}" for number in range(5)], "ties are in the order of the ids"
        assert len((await db.get_trace_stats(group_by=group_by, limit=None))[0]) == 5
        assert await db.get_trace_stats(group_by=group_by, limit=0) == ([], 5)


async def test_percentiles_are_interpolated(db: Any) -> None:
    for number, milliseconds in enumerate((100, 300)):
        await db.upsert_trace(trace(f"t{number}", 0, milliseconds / 1000, agent_id="a"))
    for number, milliseconds in enumerate((10, 20, 30, 40, 1000)):
        await db.create_span(span(f"s{number}", "t0", 0, milliseconds / 1000))
    rows, _ = await db.get_trace_stats(group_by="agent")
    assert (rows[0]["p95_duration_ms"], rows[0]["avg_duration_ms"]) == (290.0, 200.0)
    rows, _ = await db.get_span_stats()
    assert (rows[0]["p95_duration_ms"], rows[0]["avg_duration_ms"]) == (808.0, 220.0)
    await db.create_spans([span(f"x{number}", "t1", 0, 0.5, name="steady") for number in range(3)])
    rows, _ = await db.get_span_stats(sort_by="p95_duration_ms")
    assert [row["name"] for row in rows] == ["step", "steady"]
    rows, _ = await db.get_span_stats(sort_by="p95_duration_ms", sort_order="asc")
    assert [row["name"] for row in rows] == ["steady", "step"]


async def test_statistics_of_spans(db: Any) -> None:
    await db.upsert_trace(trace("t1", agent_id="a1", team_id="m1"))
    await db.upsert_trace(trace("t2", agent_id="a2", workflow_id="w1"))
    llm, tool = {SPAN_TYPE: "LLM", "llm.text": "x"}, {SPAN_TYPE: "TOOL"}
    await db.create_spans(
        [
            span("s1", "t1", 0, 0.1, name="chat", attributes=llm),
            span("s2", "t1", 1, 1.2, name="chat", attributes=llm, status_code="ERROR"),
            span("s3", "t1", 2, 5, name="search", attributes=tool),
            span("s4", "t1", 3, 3.4, name="search"),
        ]
    )
    await db.create_spans(
        [
            span("s5", "t2", 4, 4.3, name="chat", attributes=llm),
            span("s6", "t2", 5, 5.1, name="chat", attributes=tool, status_code="ERROR"),
        ]
    )

    async def found(**options: Any) -> list[tuple[str, str | None, int]]:
        rows, total = await db.get_span_stats(**options)
        assert total == len(rows)
        return [(row["name"], row["span_type"], row["total_calls"]) for row in rows]

    chat, search, untyped, by_tool = ("chat", "LLM", 3), ("search", "TOOL", 1), ("search", None, 1), ("chat", "TOOL", 1)
    rows, _ = await db.get_span_stats()
    del rows[0]["p95_duration_ms"]
    assert rows[0] == {
        "name": "chat",
        "span_type": "LLM",
        "total_calls": 3,
        "avg_duration_ms": 200.0,
        "max_duration_ms": 300,
        "error_count": 1,
        "last_called_at": at(4),
    }
    assert await found() == [chat, by_tool, untyped, search]
    assert await found(sort_by="no such column", sort_order="asc") == [by_tool, untyped, search, chat]
    assert await found(sort_order="asc") == [by_tool, untyped, search, chat]
    assert await found(sort_by="avg_duration_ms") == [search, untyped, chat, by_tool]
    assert await found(sort_by="max_duration_ms", sort_order="asc") == [by_tool, chat, untyped, search]
    assert await found(sort_by="error_count") == [chat, by_tool, untyped, search]
    assert await found(sort_by="last_called_at") == [by_tool, chat, untyped, search]
    assert await found(name="chat") == [chat, by_tool]
    assert await found(span_type="TOOL") == [by_tool, search]
    assert await found(agent_id="a1") == [("chat", "LLM", 2), untyped, search]
    assert await found(agent_id="a1", team_id="m1", span_type="TOOL") == [search]
    assert await found(agent_id="a2", workflow_id="w1", name="chat") == [("chat", "LLM", 1), by_tool]
    assert await found(agent_id="a1", workflow_id="w1") == []
    assert await found(start_time=at(1), end_time=at(3)) == [("chat", "LLM", 1), untyped, search]
    assert await found(start_time=at(1), end_time=at(4), agent_id="a2") == [("chat", "LLM", 1)]
    rows, total = await db.get_span_stats(limit=3, page=2)
    assert ([row["span_type"] for row in rows], total) == (["TOOL"], 4)
    assert await db.get_span_stats(limit=3, page=3) == ([], 4)

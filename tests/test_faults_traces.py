"""Tracing under faults: an export is replayed with a fault at each of its calls, and repeated as exporters do.

Whatever the fault: nothing is raised, what a reader sees is what was stored, no span is lost or counted twice once the
export was repeated, and what was not stored is in the log.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agno_docstores import totals
from agno_docstores.conformance.traces import at, cond, span, trace
from agno_docstores.errors import StoreUnavailableError
from tests.faults import FAULTS, Crashed, replays

# One cell of each driver, both modes among them: what is replayed is the order of calls, which no server changes.
CELLS = pytest.mark.cells("memory-sync*", "mongo-sync-standalone", "dynamo-sync-moto", "firestore-async-embedded")


async def prepared(db: Any) -> None:
    """A trace with two spans, written by somebody else."""
    await db.upsert_trace(trace("t1", 5, 6, user_id="u", created_at=at(1)))
    await db.create_spans([span("s1", status_code="ERROR"), span("s2")])


async def further(db: Any) -> None:
    """A later export of the same trace, in more than one batch; one of its spans had come before."""
    await db.upsert_trace(trace("t1", 3, 9, user_id="v", session_id="s", status="ERROR"))
    await db.create_spans([span("s2"), span("s3", status_code="ERROR"), span("s4")])


async def fresh(db: Any) -> None:
    """The first export of a trace."""
    await db.upsert_trace(trace("t2", 3, 9, user_id="v"))
    await db.create_spans([span("n1", "t2"), span("n2", "t2", status_code="ERROR")])


async def spans_first(db: Any) -> None:
    """An export whose spans overtake their trace."""
    await db.create_spans([span("n1", "t2"), span("n2", "t2", status_code="ERROR")])
    await db.upsert_trace(trace("t2", 3, 9, user_id="v"))


async def of_two_traces(db: Any) -> None:
    await db.create_spans([span("n1", "t2"), span("s3", "t1"), span("n2", "t2")])
    await db.upsert_trace(trace("t2"))


EXPORTS: list[Callable[[Any], Awaitable[None]]] = [further, fresh, spans_first, of_two_traces]


async def state(db: Any) -> dict[str, Any]:
    """All that can be read; the totals have to be those of the spans that are stored."""
    traces, total = await db.get_traces(limit=None)
    assert total == len(traces)
    spans = await db.get_spans(limit=None)
    for one in traces:
        own = [(found.span_id, found.status_code) for found in spans if found.trace_id == one.trace_id]
        assert one.total_spans == len(own) == len(await db.get_spans(one.trace_id))
        assert one.error_count == [status for _, status in own].count("ERROR")
        assert await db.get_trace(one.trace_id) == one
    return {"traces": sorted(map(repr, traces)), "spans": sorted(map(repr, spans))}


@CELLS
@pytest.mark.parametrize("export", EXPORTS, ids=lambda export: export.__name__)
async def test_an_export_converges_whatever_happens(
    cell: Any, runner: Any, export: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(totals, "MOST_CHILDREN", 2)
    expected: dict[str, Any] = {}
    async for replay in replays(cell, ("none", *FAULTS)):
        other, db = replay.open(), replay.open()
        await prepared(other)
        crashed = False
        try:
            await replay.strike(db, export)
        except Crashed:
            crashed = True
        between = await state(other)
        expected = expected or between
        assert crashed or between == expected, f"{replay} was noticed"
        for handle in (db, other):
            await export(handle)
        assert await state(db) == expected, f"{replay}, repeated"


class Down:
    """A store that cannot be reached."""

    def before(self, operation: str) -> None:
        raise StoreUnavailableError(operation, "test", "no route", retryable=False)

    def after(self, operation: str) -> None:
        pass


@pytest.mark.cells("memory-sync*", "mongo-sync-standalone", "dynamo-sync-moto", "firestore-async-embedded")
async def test_an_outage_is_logged_and_not_raised(db: Any, caplog: pytest.LogCaptureFixture) -> None:
    await prepared(db)
    db.io.hooks.append(Down())
    calls: list[tuple[Callable[[], Any], Any, str]] = [
        (lambda: db.upsert_trace(trace("t9")), None, "'t9'"),
        (lambda: db.create_span(span("s9", "t9")), None, "'s9'"),
        (lambda: db.create_spans([span("s8", "t1"), span("s9", "t9")]), None, "'s8'"),
        (lambda: db.get_trace("t1"), None, "'t1'"),
        (lambda: db.get_trace(run_id="r1"), None, "'r1'"),
        (lambda: db.get_traces(), ([], 0), "no route"),
        (lambda: db.get_traces(filter_expr=cond("EQ", "trace_id", "t1")), ([], 0), "no route"),
        (lambda: db.get_trace_stats(), ([], 0), "no route"),
        (lambda: db.get_span("s1"), None, "'s1'"),
        (lambda: db.get_spans("t1"), [], "'t1'"),
        (lambda: db.get_span_stats(), ([], 0), "no route"),
    ]
    for call, answer, told in calls:
        caplog.clear()
        assert await call() == answer
        errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
        assert errors and told in errors[0], errors
    with pytest.raises(ValueError):
        await db.get_traces(filter_expr={"op": "LIKE"})
    db.io.hooks.clear()
    assert ((await db.get_traces())[1], len(await db.get_spans())) == (1, 2)


@pytest.mark.cells("memory-sync", "dynamo-sync-moto")
async def test_what_cannot_be_stored_is_named_in_the_log(db: Any, caplog: pytest.LogCaptureFixture) -> None:
    await db.upsert_trace(trace("t1"))
    await db.upsert_trace(trace("bad", name=None))
    await db.create_spans([span("s1"), span("odd", attributes={"a": [{"tags": {"secret"}}]}), span("s2")])
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "'bad'" in messages[0] and "name must be a str" in messages[0]
    assert "'odd' of trace 't1'" in messages[1] and "attributes.a[0].tags is a set" in messages[1]
    assert "secret" not in "".join(messages)


def test_without_opentelemetry_the_rest_works() -> None:
    """Agno's tracing is installed apart. Whoever has it not can still look at an empty list."""
    script = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from agno_docstores import MemoryDocstore\n"
        "db = MemoryDocstore()\n"
        "assert (db.get_traces(), db.get_trace('t1'), db.get_spans('t1')) == (([], 0), None, [])\n"
        "assert 'agno.tracing' not in sys.modules\n"
        "db.delete_session('s1')\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)

"""Statistics over headers of traces and of spans, as Agno's SQL groups, aggregates and orders them.

Pure: what belongs to the statistics has been selected before. Durations are milliseconds; averages and percentiles are
rounded to one decimal; the 95th percentile is interpolated linearly, as PostgreSQL's `percentile_cont` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from agno_docstores.port import FieldValue, Stored

Row = dict[str, Any]

GROUPS = ("session", "agent", "team", "workflow", "endpoint")
COMPONENTS = ("agent_id", "team_id", "workflow_id")
SPAN_SORTS = ("total_calls", "avg_duration_ms", "p95_duration_ms", "max_duration_ms", "error_count", "last_called_at")
ROUNDED = frozenset({"avg_duration_ms", "p95_duration_ms"})


def trace_groups(traces: Iterable[Stored], group_by: str) -> list[Row]:
    """A row for each session, the latest active first; or for each agent, team, workflow, or name of the traces that
    belong to none of these, those with the most traces first. Traces that have no such id are left out."""
    key = "name" if group_by == "endpoint" else f"{group_by}_id"
    if group_by == "endpoint":
        traces = (trace for trace in traces if all(trace.fields.get(name) is None for name in COMPONENTS))
    groups = _grouped(traces, lambda trace: trace.fields.get(key))
    groups.pop(None, None)
    if group_by == "session":
        rows = [_session_row(id, own) for id, own in sorted(groups.items())]
        return sorted(rows, key=lambda row: row["last_trace_at"], reverse=True)  # stable: ties stay by id
    rows = [{key: id, **_component_row(own)} for id, own in sorted(groups.items())]
    return sorted(rows, key=lambda row: -row["total_traces"])


def span_groups(spans: Iterable[Stored], sort_by: str, sort_order: str) -> list[Row]:
    """A row for each name and type of spans. Unknown `sort_by`: by the number of calls. Ties: by name, then type, null
    first."""
    groups = _grouped(spans, lambda span: (span.fields["name"], span.fields.get("span_type")))
    by_key = sorted(groups.items(), key=lambda group: (group[0][0], group[0][1] is not None, group[0][1] or ""))
    rows = [{"name": name, "span_type": type_, **_span_row(own)} for (name, type_), own in by_key]
    sort = sort_by if sort_by in SPAN_SORTS else "total_calls"
    rows.sort(key=lambda row: row[sort], reverse=sort_order != "asc")  # stable, also in reverse
    return [{name: round(value, 1) if name in ROUNDED else value for name, value in row.items()} for row in rows]


def percentile(values: Iterable[float], fraction: float) -> float:
    """The value below which this fraction of the values lies, interpolated between the two nearest."""
    ordered = sorted(values)
    place = fraction * (len(ordered) - 1)
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low + (place - math.floor(place)) * (high - low)


def _grouped(records: Iterable[Stored], key: Callable[[Stored], Any]) -> dict[Any, list[Stored]]:
    groups: dict[Any, list[Stored]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return groups


def _session_row(id: FieldValue, traces: list[Stored]) -> Row:
    return {
        "session_id": id,
        **{name: max(_values(traces, name), default=None) for name in ("user_id", *COMPONENTS)},
        "total_traces": len(traces),
        **_activity(traces),
    }


def _component_row(traces: list[Stored]) -> Row:
    durations = _values(traces, "duration_ms")
    return {
        "total_traces": len(traces),
        "total_sessions": len(set(_values(traces, "session_id"))),
        "avg_duration_ms": round(sum(durations) / len(durations), 1),
        "p95_duration_ms": round(percentile(durations, 0.95), 1),
        "max_duration_ms": max(durations),
        "error_traces": _values(traces, "status").count("ERROR"),
        **_activity(traces),
    }


def _activity(traces: list[Stored]) -> Row:
    times = _values(traces, "created_at")
    return {
        "first_trace_at": datetime.fromisoformat(min(times)),
        "last_trace_at": datetime.fromisoformat(max(times)),
    }


def _span_row(spans: list[Stored]) -> Row:
    durations = _values(spans, "duration_ms")
    return {
        "total_calls": len(spans),
        "avg_duration_ms": sum(durations) / len(durations),
        "p95_duration_ms": percentile(durations, 0.95),
        "max_duration_ms": max(durations),
        "error_count": _values(spans, "status_code").count("ERROR"),
        "last_called_at": datetime.fromisoformat(max(_values(spans, "start_time"))),
    }


def _values(records: list[Stored], name: str) -> list[Any]:
    """The values of a field that are not null."""
    return [value for record in records if (value := record.fields.get(name)) is not None]

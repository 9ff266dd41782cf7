"""Records of traces and of spans: how they are made of Agno's objects, merged, and turned back.

Times are ISO 8601 text in UTC, so that texts sort as times do; a time without zone is taken as UTC. What a caller hands
in is checked here, and refused with the name of what is wrong, before anything is sent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from agno.utils.dttm import parse_datetime_utc

from agno_docstores.codec import NULL, Json
from agno_docstores.errors import InvalidIdError
from agno_docstores.keys import check_id, encodable
from agno_docstores.port import Expect, FieldValue, Put, Ref, Stored
from agno_docstores.schema import SPANS, TRACES

if TYPE_CHECKING:
    from agno.tracing.schemas import Span, Trace

IDS = ("run_id", "session_id", "user_id", "agent_id", "team_id", "workflow_id")
SPAN_TYPE = "openinference.span.kind"


def trace_ref(trace_id: str) -> Ref:
    return Ref(TRACES.name, trace_id)


def trace_put(trace: Trace) -> Put:
    """A trace as the record that it is, if it is new. Raises whatever taking it apart raises."""
    row = trace.to_dict()
    fields: dict[str, FieldValue] = {"known": True, "duration_ms": _milliseconds(row["duration_ms"])}
    fields.update({name: _text(name, row[name]) for name in ("name", "status")})
    fields.update({name: utc(row[name]) for name in ("start_time", "end_time", "created_at")})
    fields.update({name: _optional_id(name, row[name]) for name in IDS})
    return Put(trace_ref(check_id("trace_id", row["trace_id"])), fields, expect=Expect.ABSENT)


def merged(new: Put, before: Stored | None) -> Put:
    """A trace over what is stored of it: the first id that is not null, the earliest start and the latest end, the
    latest status, the name given by the highest component; the counts of its spans are kept."""
    if before is None:
        return new
    fields = {**before.fields, **new.fields}
    if before.fields.get("known"):
        old = before.fields
        start = min(str(old["start_time"]), str(new.fields["start_time"]))
        end = max(str(old["end_time"]), str(new.fields["end_time"]))
        duration = datetime.fromisoformat(end) - datetime.fromisoformat(start)
        fields.update({name: new.fields[name] if old.get(name) is None else old[name] for name in IDS})
        fields.update({"start_time": start, "end_time": end, "duration_ms": duration // timedelta(milliseconds=1)})
        fields["created_at"] = old["created_at"]
        if _level(new.fields) <= _level(old):
            fields["name"] = old["name"]
    return Put(new.ref, fields, {}, before.rev, before.expires_at)


def _level(trace: Mapping[str, FieldValue]) -> int:
    """The rank of the component whose run a trace was named after; 0 where it is not named after a run."""
    name = str(trace["name"])
    if ".run" not in name and ".arun" not in name:
        return 0
    ranked = ("agent_id", "team_id", "workflow_id")
    return max((rank for rank, id in enumerate(ranked, 1) if trace.get(id) is not None), default=0)


def span_put(span: Span) -> Put:
    """A span as the record that it is. Raises whatever taking it apart raises."""
    row = span.to_dict()
    trace_id = check_id("trace_id", row["trace_id"])
    attributes = row["attributes"]
    kind = attributes.get(SPAN_TYPE) if isinstance(attributes, dict) else None
    fields: dict[str, FieldValue] = {
        "trace_id": trace_id,
        "parent_span_id": _optional_id("parent_span_id", row["parent_span_id"]),
        **{name: _text(name, row[name]) for name in ("name", "span_kind", "status_code")},
        **{name: utc(row[name]) for name in ("start_time", "end_time", "created_at")},
        "duration_ms": _milliseconds(row["duration_ms"]),
        "span_type": kind if kind is None or isinstance(kind, str) else json.dumps(kind),
    }
    fields["errors"] = int(fields["status_code"] == "ERROR")
    body = {name: Json.of(row[name], name) for name in SPANS.body}
    return Put(Ref(SPANS.name, check_id("span_id", row["span_id"]), trace_id), fields, body, Expect.ABSENT)


def _text(name: str, value: Any) -> str:
    value = getattr(value, "value", value)  # of an enum
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not a {type(value).__name__}")
    return value


def text_id(name: str, value: Any) -> str:
    """An id that an index may be asked for, as text; unlike an id of ours it may be empty. Raises `InvalidIdError`."""
    text = str(value) if isinstance(value, int) else _text(name, value)
    if not encodable(text):
        raise InvalidIdError(name, value, "must not hold a lone surrogate")
    return text


def _optional_id(name: str, value: Any) -> str | None:
    return None if value is None else text_id(name, value)


def _milliseconds(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"duration_ms must be a number, not a {type(value).__name__}")
    return round(value)


def utc(value: Any) -> str:
    return parse_datetime_utc(value).isoformat()


def to_trace(record: Stored, total_spans: int, error_count: int) -> Trace:
    """The trace that a record stands for, with the totals of its spans."""
    from agno.tracing.schemas import Trace

    totals = {"total_spans": total_spans, "error_count": error_count}
    return Trace.from_dict({"trace_id": record.ref.id, **record.fields, **totals})


def to_span(record: Stored) -> Span:
    """The span that a record stands for. Fresh objects each time."""
    from agno.tracing.schemas import Span

    body = {name: (record.body or {}).get(name, NULL).value() for name in SPANS.body}
    return Span.from_dict({"span_id": record.ref.id, **record.fields, **body})

"""What holds of all domains alike: reads create nothing, names of tables are taken, listings use an index."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from agno.db.schemas import UserMemory
from agno.db.schemas.evals import EvalFilterType, EvalRunRecord, EvalType
from agno.db.schemas.knowledge import KnowledgeRow
from agno.tracing.schemas import Span, Trace

from agno_docstores.conformance.plugin import Awaitable, close
from agno_docstores.conformance.sessions import agent_session, run_of

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

Read = tuple[str, dict[str, Any]]

#: Every read of every domain, with every filter that it has, one at a time.
LISTINGS: list[Read] = [
    *(
        ("get_sessions", {**filters, "deserialize": False, "limit": 2, "page": 1})
        for filters in (
            {},
            {"user_id": "u"},
            {"component_id": "a"},
            {"session_name": "x"},
            {"session_type": "agent"},
            {"start_timestamp": 1},
            {"sort_by": "updated_at"},
        )
    ),
    ("get_runs", {"session_id": "s"}),
    ("get_runs", {"session_id": "s", "status": "COMPLETED", "user_id": "u", "deserialize": False}),
    *(
        ("get_user_memories", {**filters, "deserialize": False, "limit": 2, "page": 1})
        for filters in (
            {},
            {"user_id": "u"},
            {"agent_id": "a"},
            {"team_id": "t"},
            {"topics": ["x"]},
            {"search_content": "x"},
            {"sort_by": "updated_at"},
            {"sort_by": "created_at"},
        )
    ),
    ("get_user_memory_stats", {}),
    ("get_user_memory_stats", {"user_id": "u"}),
    ("get_all_memory_topics", {}),
    ("get_all_memory_topics", {"user_id": "u"}),
    ("get_metrics", {}),
    ("get_metrics", {"user_id": "u", "starting_date": NOW.date()}),
    ("calculate_metrics", {}),
    *(
        ("get_knowledge_contents", {**filters, "limit": 2, "page": 1})
        for filters in (
            {},
            {"user_id": "u"},
            {"linked_to": "k"},
            {"user_id": "u", "linked_to": "k"},
            {"sort_by": "name"},
        )
    ),
    *(
        ("get_eval_runs", {**filters, "deserialize": False, "limit": 2, "page": 1})
        for filters in (
            {},
            {"agent_id": "a"},
            {"team_id": "t"},
            {"workflow_id": "w"},
            {"model_id": "m"},
            {"user_id": "u"},
            {"filter_type": EvalFilterType.AGENT},
            {"eval_type": [EvalType.ACCURACY]},
            {"sort_by": "name"},
        )
    ),
    *(
        ("get_traces", filters)
        for filters in (
            {},
            {"run_id": "r"},
            {"session_id": "s"},
            {"user_id": "u"},
            {"agent_id": "a"},
            {"team_id": "t"},
            {"workflow_id": "w"},
            {"status": "OK"},
            {"start_time": NOW},
            {"end_time": NOW},
            {"filter_expr": {"op": "EQ", "key": "user_id", "value": "u"}},
        )
    ),
    ("get_trace", {"run_id": "r"}),
    *(
        ("get_trace_stats", {"group_by": group, "start_time": NOW})
        for group in ("session", "agent", "team", "workflow", "endpoint")
    ),
    ("get_spans", {"trace_id": "t"}),
    ("get_spans", {"parent_span_id": "p"}),
    ("get_spans", {}),
    ("get_span_stats", {"agent_id": "a", "start_time": NOW}),
    *(
        ("get_learnings", {name: "x"})
        for name in ("learning_type", "user_id", "agent_id", "team_id", "session_id", "namespace", "entity_id")
    ),
    ("get_learnings", {"entity_type": "person"}),
    ("get_learning", {"learning_type": "x", "user_id": "u"}),
    ("search_learnings", {"query": "x", "user_id": "u"}),
    ("search_learnings", {"query": "x"}),
    ("list_learnings", {"user_id": "u", "include_global": True}),
    ("list_learnings", {}),
    ("get_learnings_user_stats", {}),
]
KEYED: list[Read] = [
    ("get_session", {"session_id": "s"}),
    ("get_run", {"run_id": "r"}),
    ("get_user_memory", {"memory_id": "m"}),
    ("get_knowledge_content", {"id": "k"}),
    ("get_eval_run", {"eval_run_id": "e"}),
    ("get_trace", {"trace_id": "t"}),
    ("get_span", {"span_id": "x"}),
    ("get_learning_by_id", {"id": "l"}),
    ("get_latest_schema_version", {"table_name": "agno_sessions"}),
]
NAMES = {
    name: f"my_{name}"
    for name in (
        "session_table",
        "runs_table",
        "memory_table",
        "metrics_table",
        "eval_table",
        "knowledge_table",
        "traces_table",
        "spans_table",
        "versions_table",
        "learnings_table",
    )
}


async def something_of_each(db: Any) -> None:
    """A record of each kind."""
    await db.upsert_session(agent_session("s", user_id="u", created_at=int(NOW.timestamp())))
    await db.upsert_run(run_of("r"), "s", "u")
    await db.upsert_user_memory(UserMemory(memory="x", memory_id="m", user_id="u"))
    await db.calculate_metrics()
    await db.create_eval_run(EvalRunRecord(run_id="e", eval_type=EvalType.ACCURACY, eval_data={}))
    await db.upsert_knowledge_content(KnowledgeRow(id="k", name="n", description="d"))
    await db.upsert_trace(
        Trace("t", "a.run", "OK", NOW, NOW, 0, 0, 0, "r", "s", "u", "a", None, None, NOW),
    )
    await db.create_span(Span("x", "t", None, "a.run", "INTERNAL", "OK", None, NOW, NOW, 0, {"a.b": 1}, NOW))
    await db.upsert_schema_version("agno_sessions", "3.0.0")
    await db.upsert_learning(id="l", learning_type="user_profile", content={"name": "x"}, user_id="u")


def is_empty(answer: Any) -> bool:
    return answer in (None, [], ([], 0), ([], None))


@pytest.mark.cells("memory-*", "mongo-*", "dynamo-sync-local", "dynamo-async-moto", "firestore-*")
async def test_reads_of_storage_that_is_not_there_are_empty_and_create_nothing(db: Any) -> None:
    for name, arguments in [*LISTINGS, *KEYED]:
        answer = await getattr(db, name)(**arguments)
        assert is_empty(answer) or name == "get_latest_schema_version", (name, arguments, answer)
    for attribute in sorted(vars(db.raw)):
        if attribute.endswith("_table_name"):
            assert not await db.table_exists(getattr(db, attribute)), attribute


@pytest.mark.cells("memory-*", "mongo-*", "dynamo-*", "firestore-*")
async def test_every_domain_takes_a_table_name(db: Any, open_another: Callable[..., Any]) -> None:
    named = Awaitable(open_another(**NAMES))
    await something_of_each(named)
    for table in NAMES.values():
        assert await db.table_exists(table), table
    for name, arguments in KEYED[:-1]:
        assert await getattr(named, name)(**arguments) is not None, name
        assert await getattr(db, name)(**arguments) is None, name
    assert [total.total_spans for total in (await named.get_traces())[0]] == [1]
    await close(named.raw)


@pytest.mark.cells("dynamo-sync-local", "dynamo-async-moto")
async def test_no_listing_reads_the_whole_table(db: Any) -> None:
    """DynamoDB's Scan reads, and bills, every item of every kind."""
    await something_of_each(db)
    db.io.calls.clear()
    for name, arguments in [*LISTINGS, *KEYED]:
        await getattr(db, name)(**arguments)
        assert db.io.calls["scan"] == 0, (name, arguments)
    await db.clear_memories()
    await db.delete_user_learnings("u")
    assert db.io.calls["scan"] == 0

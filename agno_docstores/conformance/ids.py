"""Hostile ids: distinct ids never meet and never leave their place, whatever they look like and in whichever column.

Where an id costs several requests, a run takes the closest of them only; with `AGNO_DOCSTORES_IDS=all` all of them.
Needs Agno's tracing (OpenTelemetry) to be installed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import pytest
from agno.db.sqlite import AsyncSqliteDb

from agno_docstores.conformance.evals import eval_of
from agno_docstores.conformance.knowledge import content_of
from agno_docstores.conformance.memories import memory_of
from agno_docstores.conformance.metrics import counts, rows_of
from agno_docstores.conformance.sessions import agent_session, run_of
from agno_docstores.conformance.traces import span, trace

LONG = 1600  # bytes of the longest

#: One or two of each sort, close to each other.
CLOSEST = [
    "/", "a/b", "a#b", "a|b", ".", "..", "__x__", "%2F", '"#', "$gt", "a", "a ", "A", "a\0", "\x1f", "é", "e\u0301",
    "日本", "a!4b", "x" * LONG, "x" * (LONG - 1) + "y", "x" * (LONG - 1),
]  # fmt: skip

IDS = [
    *CLOSEST,
    # what separates, escapes, means or ends something somewhere
    "a//b", "/a", "a.b", "...", "__", "____", "_", "%", "a%b", "a%2Fb", "a%252Fb", "a%2fb", "!", "a!", '"', "~", "$",
    "{}", "*", "?", "\\", "'", "a:b", "a,b",
    # what is hard to see
    " ", " a", "a\t", "\0", "a\0b", "\x01", "\n", "\r\n", "\x7f", "\x80", "\u200b", "a\u200b", "\ufeffa",
    # what folding or normalising would make one of
    "É", "ß", "ss", "SS", "ı", "i", "I", "İ", "ﬁ", "fi", "K", "k", "\u212a", "ﾆﾎﾝ", "😀", "\ud7ff", "\uffff",
    "\U0010ffff",
    # what looks like another type, or like a name of the store's own
    "0", "00", "1", "01", "1.0", "true", "null", "None", "id", "_id", "sessions", "claim", "4a!", "__id7__", "a/b/c",
    # what is longer
    "x" * 200, "x" * 201, "é" * (LONG // 2), "é" * (LONG // 2 - 1) + "e\u0301",
]  # fmt: skip
SOME = IDS if os.environ.get("AGNO_DOCSTORES_IDS") == "all" else CLOSEST


@pytest.fixture(autouse=True)
def storage_of_ids(db: Any, runner: asyncio.Runner) -> None:
    """AsyncSqliteDb, alone, saves no memory before it has been told to make its tables."""
    if isinstance(db.raw, AsyncSqliteDb):
        runner.run(db._create_all_tables())


def is_exactly(found: Sequence[Any], ids: Sequence[str], name: str) -> bool:
    """Whether these objects or rows have these ids, each once."""
    return sorted(one[name] if isinstance(one, dict) else getattr(one, name) for one in found) == sorted(ids)


async def sessions_and_runs_stay_apart(db: Any, ids: Sequence[str]) -> None:
    for id in ids:
        await db.upsert_session(agent_session(id, user_id=id, agent_id=id, session_data={"id": id}))
        await db.upsert_run(run_of(id, agent_id=id, content=id), id, id)
    assert is_exactly(await db.get_sessions(include_runs=False), ids, "session_id")
    for id in ids:
        (row,), total = await db.get_sessions(user_id=id, component_id=id, deserialize=False)
        assert (row["session_id"], row["user_id"], row["agent_id"], row["session_data"]) == (id, id, id, {"id": id})
        assert total == 1
        assert [(run["run_id"], run["content"]) for run in row["runs"]] == [(id, id)]
        row = await db.get_run(id, deserialize=False)
        assert (row["run_id"], row["session_id"], row["user_id"], row["run_data"]["content"]) == (id, id, id, id)
    removed, kept = ids[::2], ids[1::2]
    for id in removed:
        assert await db.get_session(id, user_id=f"{id}?") is None
        assert await db.delete_session(id, user_id=f"{id}?") is False
        assert await db.delete_session(id, user_id=id) is True
    rows, _ = await db.get_sessions(deserialize=False)
    assert is_exactly(rows, kept, "session_id")
    assert [row["session_id"] for row in rows] == [run["run_id"] for row in rows for run in row["runs"]]
    for id in removed:
        assert await db.get_run(id) is None


async def memories_stay_apart(db: Any, ids: Sequence[str], asked: Sequence[str]) -> None:
    """`asked`: those of the ids that are asked for one by one."""
    await db.upsert_memories(
        [memory_of(id, memory=id, user_id=id, agent_id=id, team_id=id, topics=[id, "all"]) for id in ids]
    )
    assert is_exactly(await db.get_user_memories(topics=["all"]), ids, "memory_id")
    assert all(memory.memory == memory.user_id == memory.memory_id for memory in await db.get_user_memories())
    for number, id in enumerate(asked):
        by = [{"user_id": id}, {"agent_id": id}, {"team_id": id}][number % 3]
        assert is_exactly(await db.get_user_memories(**by), [id], "memory_id")
        assert (await db.get_user_memory(id, user_id=id)).memory == id
    assert is_exactly((await db.get_user_memory_stats())[0], ids, "user_id")
    await db.delete_user_memories(list(ids), user_id="nobody")
    assert len(await db.get_user_memories()) == len(ids)
    await db.delete_user_memories(list(ids[::2]))
    assert is_exactly(await db.get_user_memories(), ids[1::2], "memory_id")


async def records_stay_apart(db: Any, ids: Sequence[str]) -> None:
    """Contents, eval runs, learnings."""
    for id in ids:
        await db.upsert_knowledge_content(content_of(id, name=id, user_id=id, linked_to=id))
        await db.create_eval_run(eval_of(id, name=id, agent_id=id, model_id=id))
        await db.upsert_learning(id, "fact", {"id": id}, user_id=id, namespace=id, entity_id=id)
    assert is_exactly((await db.get_knowledge_contents())[0], ids, "id")
    assert is_exactly(await db.get_eval_runs(), ids, "run_id")
    assert is_exactly(await db.get_learnings(), ids, "learning_id")
    for number, id in enumerate(ids):
        by = [{"user_id": id}, {"linked_to": id}][number % 2]
        assert is_exactly((await db.get_knowledge_contents(**by))[0], [id], "id")
        assert (await db.get_knowledge_content(id, user_id=id)).name == id
        by = [{"agent_id": id}, {"model_id": id}][number % 2]
        assert is_exactly(await db.get_eval_runs(**by), [id], "run_id")
        assert (await db.get_eval_run(id)).name == id
        by = [{"user_id": id}, {"namespace": id}, {"entity_id": id}][number % 3]
        assert is_exactly(await db.get_learnings(**by), [id], "learning_id")
        assert (await db.get_learning_by_id(id))["content"] == {"id": id}
    for id in ids[::2]:
        await db.delete_knowledge_content(id)
        await db.delete_eval_run(id)
        assert await db.delete_learning(id) is True
    assert is_exactly((await db.get_knowledge_contents())[0], ids[1::2], "id")
    assert is_exactly(await db.get_eval_runs(), ids[1::2], "run_id")
    assert is_exactly(await db.get_learnings(), ids[1::2], "learning_id")


async def traces_stay_apart(db: Any, ids: Sequence[str]) -> None:
    for id in ids:
        await db.upsert_trace(trace(id, run_id=id, session_id=id, user_id=id, agent_id=id))
    await db.create_spans([span(id, id, parent_span_id=id, name=id) for id in ids])
    found, total = await db.get_traces(limit=len(ids))
    assert is_exactly(found, ids, "trace_id") and total == len(ids)
    for number, id in enumerate(ids):
        by = [{"run_id": id}, {"session_id": id}, {"user_id": id}, {"agent_id": id}][number % 4]
        (found,), total = await db.get_traces(**by)
        assert (found.trace_id, found.total_spans, total) == (id, 1, 1)
        assert is_exactly(await db.get_spans(id), [id], "span_id")
        assert (await db.get_span(id)).trace_id == id


async def test_ids_of_sessions_and_runs_stay_apart(db: Any) -> None:
    await sessions_and_runs_stay_apart(db, SOME)


async def test_metrics_of_users_stay_apart(db: Any) -> None:
    users = ["a", "a ", "A", "é", "e\u0301", "a!4b", "\0", "__x__", "x" * LONG, "x" * (LONG - 1) + "y"]
    for user in users:
        await db.upsert_session(agent_session(user, user_id=user))
    found = await rows_of(db)
    assert sorted(user for _, user in found if user is not None) == sorted(users)
    assert all(counts(row)[0] == 1 for row in found.values())
    for user in users[:4]:
        assert [one for _, one in await rows_of(db, user_id=user)] == [user]


async def test_ids_of_memories_stay_apart(db: Any) -> None:
    await memories_stay_apart(db, IDS, SOME)


async def test_ids_of_contents_eval_runs_and_learnings_stay_apart(db: Any) -> None:
    await records_stay_apart(db, SOME)


async def test_ids_of_traces_and_spans_stay_apart(db: Any) -> None:
    await traces_stay_apart(db, SOME)

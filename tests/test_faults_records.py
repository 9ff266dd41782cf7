"""Writes of memories, knowledge contents and eval runs, replayed with a fault at each of their calls.

Whatever the fault: each record is as before or as written, never between; another process can go on, and repeating the
operation converges.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agno_docstores.conformance.evals import eval_of
from agno_docstores.conformance.knowledge import content_of
from agno_docstores.conformance.memories import memory_of
from agno_docstores.errors import DuplicateError
from tests.faults import unnoticed, whole
from tests.test_faults import CELLS

Operation = Callable[[Any], Awaitable[Any]]


async def prepared(db: Any) -> None:
    """Two memories, a content and an eval run of u, and a memory of v."""
    await db.upsert_memories([memory_of(f"m{number}", user_id="u" if number < 2 else "v") for number in range(3)])
    await db.upsert_knowledge_content(content_of(user_id="u"))
    await db.create_eval_run(eval_of(name="name"))
    await db.update_eval_run_user_id("e1", "u")


async def state(db: Any) -> dict[str, Any]:
    """All that can be read, by id, without the times at which it was written."""
    memories, _ = await db.get_user_memories(deserialize=False)
    contents, _ = await db.get_knowledge_contents()
    evals, _ = await db.get_eval_runs(deserialize=False)
    found = {row["memory_id"]: {**row, "updated_at": None} for row in memories}
    found |= {row["run_id"]: {**row, "updated_at": None, "created_at": None} for row in evals}
    return found | {content.id: content.model_dump() for content in contents}


async def new_memory(db: Any) -> Any:
    return (await db.upsert_user_memory(memory_of("new", user_id="u"))).memory


async def changed_memory(db: Any) -> Any:
    return (await db.upsert_user_memory(memory_of("m0", memory="changed"))).user_id


async def several_memories(db: Any) -> Any:
    memories = [memory_of(f"m{number}", user_id="u", memory="changed") for number in range(5)]
    return [memory.memory_id for memory in await db.upsert_memories(memories)]


async def removal_of_memories(db: Any) -> Any:
    return await db.delete_user_memories(["m0", "m1", "m2"], user_id="u")


async def removal_of_all_memories(db: Any) -> Any:
    return await db.clear_memories()


async def changed_content(db: Any) -> Any:
    return (await db.upsert_knowledge_content(content_of(name="changed", status="done"))).id


async def new_eval_run(db: Any) -> Any:
    return (await db.create_eval_run(eval_of("new"))).run_id


async def owner_of_eval_run(db: Any) -> Any:
    return await db.update_eval_run_user_id("e1", "v")


OPERATIONS: list[Operation] = [
    new_memory, changed_memory, several_memories, removal_of_memories, removal_of_all_memories, changed_content,
    new_eval_run, owner_of_eval_run,
]  # fmt: skip


@CELLS
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
async def test_passing_faults_are_not_noticed(cell: Any, runner: Any, operation: Operation) -> None:
    await unnoticed(cell, operation, prepared, state)


@CELLS
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
async def test_a_crash_at_any_call_leaves_whole_records_and_can_be_repeated(
    cell: Any, runner: Any, operation: Operation
) -> None:
    await whole(cell, operation, prepared, state, when_done=(DuplicateError,))

"""Values of megabytes: each comes back equal, whatever the store takes in one record."""

from __future__ import annotations

import random
from typing import Any

from agno.db.schemas import UserMemory
from agno.db.schemas.knowledge import KnowledgeRow

from agno_docstores.conformance.memories import storage_of_memories  # noqa: F401 - a fixture
from agno_docstores.conformance.sessions import agent_session, run_of
from agno_docstores.conformance.traces import span, trace

MB = 1_000_000


def noise(size: int, seed: int) -> str:
    """Text of so many characters that hardly compresses to less than three quarters."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
    return random.Random(seed).randbytes(size).translate(bytes(ord(letters[n % 64]) for n in range(256))).decode()


def awkward(size: int) -> str:
    """Text of so many characters that takes more bytes than that, and more again when it is escaped."""
    return ('"\\\n\x00é€😀' * (size // 7 + 1))[:size]


async def test_a_session_and_its_runs_of_megabytes(db: Any) -> None:
    first = {"noise": noise(5 * MB, 1), "nested": [{"a.b": awkward(1_000)}] * 3}
    await db.upsert_session(agent_session(session_data=first, metadata={"kept": [1, 2.5, None]}))
    await db.upsert_run(run_of("large", status="RUNNING", content=noise(5 * MB, 2)), "s1")
    await db.upsert_run(run_of("small", status="COMPLETED"), "s1")
    found = await db.get_session("s1")
    assert (found.session_data, found.metadata) == (first, {"kept": [1, 2.5, None]})
    assert [run.run_id for run in found.runs] == ["large", "small"]
    assert found.runs[0].content == noise(5 * MB, 2)
    # Large over large, and large to small.
    second = {"noise": awkward(MB), "x": 1}
    found.session_data = second
    await db.upsert_session(found)
    await db.upsert_run(run_of("large", status="COMPLETED", content="short"), "s1")
    found = await db.get_session("s1")
    assert (found.session_data, found.metadata) == (second, {"kept": [1, 2.5, None]})
    assert [run.content for run in found.runs] == ["short", "content of small"]
    assert await db.delete_session("s1") is True
    assert await db.get_session("s1") is None
    assert await db.get_run("large") is None


async def test_rows_of_megabytes(db: Any) -> None:
    """Small to large, large to small, and removal, of what is one record each."""
    memory = UserMemory(memory_id="m", memory="small", user_id="u", topics=["t"], input="kept")
    for text in ("small", noise(5 * MB, 3), awkward(MB), "small again"):
        memory.memory = text
        await db.upsert_user_memory(memory)
        found = await db.get_user_memory("m")
        assert (found.memory, found.topics, found.input) == (text, ["t"], "kept")
    await db.upsert_memories([UserMemory(memory_id=f"m{n}", memory=noise(2 * MB, n), user_id="v") for n in range(2)])
    found = {memory.memory_id: memory.memory for memory in await db.get_user_memories(user_id="v")}
    assert found == {f"m{n}": noise(2 * MB, n) for n in range(2)}
    await db.delete_user_memories(["m0", "m1"])
    assert [memory.memory_id for memory in await db.get_user_memories()] == ["m"]

    metadata = {"pages": [awkward(MB // 7)] * 7, "text": "x" * 4 * MB}
    await db.upsert_knowledge_content(KnowledgeRow(id="k", name="book", description="d", metadata=metadata))
    row = await db.get_knowledge_content("k")
    assert (row.name, row.metadata) == ("book", metadata)
    (rows, total) = await db.get_knowledge_contents()
    assert ([row.id for row in rows], total) == (["k"], 1)

    content = {"facts": [noise(5 * MB, 4)], "x": {"y": None}}
    await db.upsert_learning("l", "user_profile", content, user_id="u")
    assert (await db.get_learning("user_profile", user_id="u"))["content"] == content
    await db.upsert_learning("l", "user_profile", {"facts": []}, user_id="u")
    assert (await db.get_learning("user_profile", user_id="u"))["content"] == {"facts": []}


async def test_a_span_of_megabytes(db: Any) -> None:
    await db.upsert_trace(trace("t"))
    attributes = {"input.value": noise(5 * MB, 5), "n": 1}
    large, small = span("large", "t"), span("small", "t")
    large.attributes = attributes
    await db.create_spans([small, large])
    assert (await db.get_span("large")).attributes == attributes
    assert {one.span_id for one in await db.get_spans(trace_id="t")} == {"large", "small"}
    assert (await db.get_trace("t")).total_spans == 2

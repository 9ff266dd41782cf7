"""Memories, knowledge contents and eval runs: what is ours beyond the contract. Errors by name, writes between the read
and the write of another, and failures in the middle of several writes."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from agno_docstores import DocstoreError, InvalidIdError, OwnershipError, UnserializableValueError
from agno_docstores.conformance.evals import eval_of
from agno_docstores.conformance.knowledge import content_of
from agno_docstores.conformance.memories import memory_of
from agno_docstores.errors import DuplicateError, StorageMissingError, StoreError
from agno_docstores.port import Failed, Write
from tests.test_bad_input import BAD_IDS

Call = Callable[[], Awaitable[Any]]


async def everything(db: Any) -> dict[str, Any]:
    """All rows of the three kinds, by id."""
    memories, _ = await db.get_user_memories(deserialize=False)
    contents, _ = await db.get_knowledge_contents()
    evals, _ = await db.get_eval_runs(deserialize=False)
    found = {row["memory_id"]: row for row in memories} | {row["run_id"]: row for row in evals}
    return found | {content.id: content for content in contents}


def just_before_the_write_of(db: Any, other: Call) -> None:
    """Have `other` done between what the next call of `db` reads and what it writes."""
    driver = db.raw._engine.driver
    commit = driver.commit

    async def interrupted(writes: Sequence[Write], token: str) -> Any:
        driver.commit = commit
        await other()
        return await commit(writes, token)

    driver.commit = interrupted


def failing_at(db: Any, id: str) -> None:
    """Have the store refuse each write to the record of this id."""
    driver = db.raw._engine.driver
    commit, write_many = driver.commit, driver.write_many
    error = StoreError("write", "test", "refused")

    async def commit_but(writes: Sequence[Write], token: str) -> Any:
        if any(write.ref.id == id for write in writes):
            raise error
        return await commit(writes, token)

    async def write_many_but(writes: Sequence[Write], token: str) -> list[Failed]:
        failed = [Failed(write, error) for write in writes if write.ref.id == id]
        return failed + list(await write_many([write for write in writes if write.ref.id != id], token))

    driver.commit, driver.write_many = commit_but, write_many_but


# --- Bad input --------------------------------------------------------------------------------------------------------


def calls_with(db: Any, bad: Any) -> list[Call]:
    """A call of each method that takes an id, with this one."""
    calls: list[Call] = [
        lambda: db.get_user_memory(bad),
        lambda: db.delete_user_memory(bad),
        lambda: db.delete_user_memories(["m1", bad]),
        lambda: db.get_knowledge_content(bad),
        lambda: db.delete_knowledge_content(bad),
        lambda: db.get_eval_run(bad),
        lambda: db.rename_eval_run(bad, "name"),
        lambda: db.update_eval_run_user_id(bad, "u"),
        lambda: db.delete_eval_run(bad),
        lambda: db.delete_eval_runs(["e1", bad]),
    ]
    if bad is not None:
        calls.append(lambda: db.upsert_user_memory(memory_of(bad)))
        calls.append(lambda: db.upsert_memories([memory_of("m2"), memory_of(bad)]))
    return calls


async def test_ids_must_be_non_empty_text(db: Any) -> None:
    await db.upsert_user_memory(memory_of())
    await db.create_eval_run(eval_of())
    before = await everything(db)
    for bad in BAD_IDS:
        for call in calls_with(db, bad):
            with pytest.raises(InvalidIdError):
                await call()
    assert await everything(db) == before


async def test_owners_and_other_ids_must_be_text_that_a_store_can_hold(db: Any) -> None:
    await db.create_eval_run(eval_of())
    calls: list[Call] = [
        lambda: db.update_eval_run_user_id("e1", ""),
        lambda: db.upsert_user_memory(memory_of(user_id="")),
        lambda: db.upsert_user_memory(memory_of(user_id="\ud800")),
        lambda: db.upsert_knowledge_content(content_of(user_id="")),
        lambda: db.upsert_user_memory(memory_of(agent_id="\ud800")),
        lambda: db.upsert_knowledge_content(content_of(linked_to="\ud800")),
        lambda: db.create_eval_run(eval_of("e2", model_id="\ud800")),
        lambda: db.get_user_memories(user_id="\ud800"),
        lambda: db.get_knowledge_contents(user_id="\ud800", linked_to="base"),
        lambda: db.get_eval_runs(agent_id="\ud800"),
    ]
    for call in calls:
        with pytest.raises(ValueError):
            await call()
    assert list(await everything(db)) == ["e1"]


async def test_a_lone_surrogate_in_a_text_comes_back_and_breaks_no_listing(db: Any) -> None:
    await db.upsert_memories([memory_of("m1", memory="\ud800", topics=["\ud800"], input="\ud800"), memory_of("m2")])
    assert (await db.get_user_memory("m1")).topics == ["\ud800"]
    assert [memory.memory for memory in await db.get_user_memories(sort_by="memory", sort_order="asc")] == [
        "text of m2", "\ud800",
    ]  # fmt: skip
    assert [memory.memory_id for memory in await db.get_user_memories(search_content="\ud800")] == ["m1"]
    assert await db.get_all_memory_topics() == ["\ud800"]


async def test_errors_name_the_record_and_tell_nothing_of_it(db: Any) -> None:
    await db.upsert_user_memory(memory_of(user_id="owner", memory="secret"))
    with pytest.raises(OwnershipError) as refused:
        await db.upsert_user_memory(memory_of(user_id="stranger"))
    assert (refused.value.kind, refused.value.id, refused.value.user_id) == ("memory", "m1", "stranger")
    await db.create_eval_run(eval_of(name="secret"))
    with pytest.raises(DuplicateError) as twice:
        await db.create_eval_run(eval_of())
    assert (twice.value.kind, twice.value.id, str(twice.value)) == ("eval run", "e1", "eval run 'e1' is there already")
    assert isinstance(twice.value, DocstoreError)
    assert not {"secret", "owner"} & set(str(refused.value).split() + str(twice.value).split())
    with pytest.raises(UnserializableValueError, match=r"memory\.tags\[1\] is a set"):
        await db.upsert_user_memory(memory_of(memory={"tags": [1, {2}]}))
    with pytest.raises(UnserializableValueError, match=r"metadata\.k is a bytes"):
        await db.upsert_knowledge_content(content_of(metadata={"k": b"x"}))
    with pytest.raises(UnserializableValueError, match=r"eval_data\.k is a set"):
        await db.create_eval_run(eval_of("e2", eval_data={"k": {1}}))
    with pytest.raises(TypeError, match="UserMemory"):
        await db.upsert_user_memory({"memory_id": "m2"})
    with pytest.raises(ValueError, match="limit"):
        await db.get_user_memories(limit=-1)


async def test_a_refused_memory_of_several_is_logged_by_its_id(db: Any, caplog: pytest.LogCaptureFixture) -> None:
    await db.upsert_user_memory(memory_of(user_id="owner"))
    with caplog.at_level(logging.WARNING, "agno_docstores"):
        assert await db.upsert_memories([memory_of(user_id="stranger")]) == []
    assert [record.message for record in caplog.records] == [
        "memory 'm1' belongs to another user than 'stranger' and was not changed"
    ]


# --- Between the read and the write -----------------------------------------------------------------------------------


async def test_a_memory_that_changes_hands_meanwhile_is_not_overwritten(db: Any, another: Callable[[], Any]) -> None:
    other = another()

    async def taken_by_another() -> None:
        await other.delete_user_memory("m1")
        await other.upsert_user_memory(memory_of(user_id="stranger", memory="his"))

    await db.upsert_user_memory(memory_of(user_id="u"))
    just_before_the_write_of(db, taken_by_another)
    with pytest.raises(OwnershipError):
        await db.upsert_user_memory(memory_of(user_id="u", memory="mine"))
    for call in (lambda: db.delete_user_memory("m1", "u"), lambda: db.upsert_memories([memory_of(user_id="u")])):
        await db.delete_user_memory("m1")
        await db.upsert_user_memory(memory_of(user_id="u"))
        just_before_the_write_of(db, taken_by_another)
        await call()
        found = await db.get_user_memory("m1")
        assert (found.user_id, found.memory) == ("stranger", "his")


async def test_a_content_that_changes_hands_meanwhile_stays_as_it_is(db: Any, another: Callable[[], Any]) -> None:
    other = another()

    async def taken_by_another() -> None:
        await other.delete_knowledge_content("c1")
        await other.upsert_knowledge_content(content_of(user_id="stranger", name="his"))

    for call in (
        lambda: db.upsert_knowledge_content(content_of(user_id="u", name="mine")),
        lambda: db.delete_knowledge_content("c1", "u"),
    ):
        await db.delete_knowledge_content("c1")
        await db.upsert_knowledge_content(content_of(user_id="u"))
        just_before_the_write_of(db, taken_by_another)
        try:
            await call()
        except ValueError as error:
            assert str(error) == "Knowledge content c1 not found"
        assert await db.get_knowledge_content("c1") == content_of(user_id="stranger", name="his")


async def test_an_eval_run_that_changes_hands_meanwhile_stays_as_it_is(db: Any, another: Callable[[], Any]) -> None:
    other = another()
    await db.create_eval_run(eval_of(name="n"))
    for call in (
        lambda: db.rename_eval_run("e1", "stolen", user_id="u"),
        lambda: db.delete_eval_runs(["e1"], user_id="u"),
    ):
        await db.update_eval_run_user_id("e1", "u")
        just_before_the_write_of(db, lambda: other.update_eval_run_user_id("e1", "stranger"))
        assert await call() is None
        row = await db.get_eval_run("e1", deserialize=False)
        assert (row["user_id"], row["name"]) == ("stranger", "n")


# --- Several writes, of which one fails -------------------------------------------------------------------------------


@pytest.mark.cells("memory-*")
async def test_what_of_several_memories_was_not_stored_is_told(db: Any) -> None:
    await db.upsert_memories([memory_of("m1"), memory_of("m2")])
    failing_at(db, "m2")
    with pytest.raises(StoreError) as caught:
        await db.upsert_memories([memory_of(f"m{n}", memory="new") for n in (1, 2, 3)])
    assert caught.value.__notes__ == ["not stored: 'm2'; all others were stored"]
    assert {memory.memory_id: memory.memory for memory in await db.get_user_memories()} == {
        "m1": "new", "m2": "text of m2", "m3": "new",
    }  # fmt: skip
    failing_at(db, "m4")
    with pytest.raises(StoreError, match="refused"):
        await db.upsert_memories([memory_of("m4"), memory_of("m5")])
    assert [memory.memory_id for memory in await db.get_user_memories()] == ["m1", "m2", "m3", "m5"]


@pytest.mark.cells("memory-*")
@pytest.mark.parametrize("user_id", ["u", None])
async def test_what_of_several_records_was_not_removed_is_told(db: Any, user_id: str | None) -> None:
    await db.upsert_memories([memory_of(f"m{n}", user_id="u") for n in (1, 2, 3)])
    failing_at(db, "m2")
    with pytest.raises(StoreError) as caught:
        await db.delete_user_memories(["m1", "m2", "m3"], user_id)
    assert caught.value.__notes__ == ["not removed: 'm2'; all others were removed"]
    assert [memory.memory_id for memory in await db.get_user_memories()] == ["m2"]
    with pytest.raises(StoreError, match="refused"):
        await db.clear_memories()


@pytest.mark.cells("memory-*")
async def test_writes_that_missed_storage_just_being_created_are_made_again(db: Any) -> None:
    driver = db.raw._engine.driver
    write_many = driver.write_many
    seen: list[int] = []

    async def half(writes: Sequence[Write], token: str) -> list[Failed]:
        driver.write_many = write_many
        seen.append(len(writes))
        missing = StorageMissingError("write", "test", "not found")
        return [Failed(write, missing) for write in writes[1:]] + list(await write_many(writes[:1], token))

    driver.write_many = half
    assert len(await db.upsert_memories([memory_of(f"m{n}") for n in range(3)])) == 3
    assert seen == [3] and len(await db.get_user_memories()) == 3


# --- Listings ---------------------------------------------------------------------------------------------------------


async def test_memories_of_one_moment_keep_their_order(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db.io, "now", lambda: 1_800_000_000.0)
    inserted = ["m3", "m1", "m4", "m0", "m2"]
    for memory_id in inserted[:3]:
        await db.upsert_user_memory(memory_of(memory_id))
    await db.upsert_memories([memory_of(memory_id) for memory_id in inserted[3:]])
    assert [memory.memory_id for memory in await db.get_user_memories()] == inserted


async def test_looking_creates_no_storage_and_neither_does_removing_nothing(db: Any) -> None:
    await db.get_user_memories(user_id="u", search_content="x")
    await db.get_knowledge_contents(user_id="u", sort_by="status")
    await db.get_eval_runs(sort_by="name")
    await db.delete_user_memories(["m1"])
    await db.clear_memories()
    await db.delete_knowledge_content("c1")
    await db.delete_eval_runs(["e1"], user_id="u")
    for table in (db.memory_table_name, db.knowledge_table_name, db.eval_table_name):
        assert await db.table_exists(table) is False

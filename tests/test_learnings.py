"""Learnings under bad input and on a failing store: what is refused, what is told, what a repetition finds."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agno_docstores import InvalidIdError, StoreUnavailableError, UnserializableValueError
from agno_docstores.conformance.learnings import ids, save
from tests.faults import unnoticed, whole
from tests.test_bad_input import BAD_IDS
from tests.test_faults import CELLS


@pytest.mark.parametrize("bad", BAD_IDS, ids=repr)
async def test_ids_must_be_non_empty_text(db: Any, bad: Any) -> None:
    await save(db, "l1", user_id="u")
    calls: list[Callable[[], Any]] = [
        lambda: db.upsert_learning(id=bad, learning_type="fact", content={}),
        lambda: db.get_learning_by_id(bad),
        lambda: db.update_learning(bad, {}),
        lambda: db.delete_learning(bad),
    ]
    if bad in ("", None, "\ud800"):  # of the rest, the text that SqliteDb too would make of it
        calls.append(lambda: db.upsert_learning(id="l2", learning_type=bad, content={}))
        calls.append(lambda: db.delete_user_learnings(bad))
    if bad in ("", "\ud800"):
        calls.append(lambda: db.upsert_learning(id="l2", learning_type="fact", content={}, user_id=bad))
    if bad == "\ud800":
        calls += [lambda: db.get_learning(bad), lambda: db.get_learnings(entity_id=bad)]
        calls += [lambda: db.list_learnings(user_id=bad), lambda: db.search_learnings("x", namespace=bad)]
    for call in calls:
        with pytest.raises(InvalidIdError):
            await call()
    assert ids(await db.get_learnings()) == ["l1"]


async def test_a_user_is_the_text_of_his_id(db: Any) -> None:
    await save(db, "l1", user_id=5, entity_id=7)
    assert (await db.get_learning_by_id("l1"))["user_id"] == "5"
    for user_id in (5, "5"):
        assert await db.get_learning("fact", user_id=user_id, entity_id=7) == {"content": {"text": "l1"}}
        await save(db, "l1", user_id=user_id)
    assert await db.delete_user_learnings(5) == 1


async def test_an_update_names_what_json_cannot_hold(db: Any) -> None:
    await save(db, "l1")
    with pytest.raises(UnserializableValueError, match=r"content\.items\[1\] is a set"):
        await db.update_learning("l1", {"items": [1, {2}]})
    with pytest.raises(UnserializableValueError, match=r"metadata\.blob is a bytes"):
        await db.update_learning("l1", {}, {"blob": b"x"})


class Outage:
    """A hook of the gateway under which no call reaches the store."""

    def before(self, operation: str) -> None:
        raise StoreUnavailableError(operation, "test", "unreachable", retryable=False)

    def after(self, operation: str) -> None: ...


@CELLS
async def test_an_outage_is_raised_or_told_as_the_contract_says(db: Any, caplog: pytest.LogCaptureFixture) -> None:
    await save(db, "l1", user_id="u")
    db.io.hooks.append(Outage())
    raising: list[Awaitable[Any]] = [
        db.search_learnings("text", user_id="u"),
        db.list_learnings(user_id="u"),
        db.get_learning_by_id("l1"),
        db.get_learnings_user_stats(),
        db.update_learning("l1", {}),
        db.delete_user_learnings("u"),
    ]
    for call in raising:
        with pytest.raises(StoreUnavailableError):
            await call
    silent: list[tuple[Awaitable[Any], Any, str]] = [
        (db.get_learning("fact", user_id="u"), None, "'u'"),
        (db.get_learnings(user_id="u"), [], "'u'"),
        (db.upsert_learning("l2", "fact", {}, user_id="u"), None, "'l2'"),
        (db.delete_learning("l1"), False, "'l1'"),
    ]
    for call, answer, named in silent:
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="agno_docstores"):
            assert await call == answer
        (told,) = (record.getMessage() for record in caplog.records)
        assert named in told and "unreachable" in told
    db.io.hooks.clear()
    assert ids(await db.get_learnings()) == ["l1"]


class Refusal:
    """A hook of the gateway under which one call, the n-th, does not reach the store, and is not made again."""

    def __init__(self, at: int) -> None:
        self.left = at

    def before(self, operation: str) -> None:
        self.left -= 1
        if self.left == 0:
            raise StoreUnavailableError(operation, "test", "refused", retryable=False)

    def after(self, operation: str) -> None: ...


@CELLS
async def test_a_deletion_that_fails_in_part_says_what_is_left_and_goes_on(db: Any) -> None:
    for id in ("l1", "l2", "l3"):
        await save(db, id, user_id="u")
    await save(db, "foreign", user_id="v")
    db.io.hooks.append(Refusal(at=3))  # after the list and the learnings on it, the first deletion
    with pytest.raises(StoreUnavailableError) as caught:
        await db.delete_user_learnings("u")
    db.io.hooks.clear()
    (left,) = ids(await db.get_learnings(user_id="u"))
    assert repr(left) in "".join(caught.value.__notes__)
    assert await db.delete_user_learnings("u") == 1
    assert ids(await db.get_learnings()) == ["foreign"]


# --- Faults -----------------------------------------------------------------------------------------------------------


async def prepared(db: Any) -> None:
    """Two learnings of u, one of v, one of nobody."""
    for id, user_id in (("l1", "u"), ("l2", "u"), ("foreign", "v"), ("shared", None)):
        await save(db, id, user_id=user_id)


async def state(db: Any) -> dict[str, Any]:
    """All that can be read, times aside."""
    rows, total = await db.list_learnings()
    assert total == len(rows)
    return {row["learning_id"]: (row["user_id"], row["content"]) for row in rows}


async def insert(db: Any) -> Any:
    return await db.upsert_learning("new", "fact", {"n": 1}, user_id="u")


async def replace(db: Any) -> Any:
    return await db.upsert_learning("l1", "fact", {"n": 1}, user_id="u")


async def steal(db: Any) -> Any:
    return await db.upsert_learning("foreign", "fact", {"n": 1}, user_id="u")


async def update(db: Any) -> Any:
    return await db.update_learning("l1", {"n": 1})


async def delete(db: Any) -> Any:
    return await db.delete_learning("l1")


async def delete_all(db: Any) -> Any:
    return await db.delete_user_learnings("u")


OPERATIONS = [insert, replace, steal, update, delete, delete_all]


@CELLS
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
async def test_passing_faults_are_not_noticed(cell: Any, runner: Any, operation: Callable[[Any], Any]) -> None:
    _, found = await unnoticed(cell, operation, prepared, state)
    assert found["foreign"] == ("v", {"text": "foreign"})


@CELLS
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
async def test_a_crash_at_any_call_loses_nothing_and_can_be_repeated(
    cell: Any, runner: Any, operation: Callable[[Any], Any]
) -> None:
    await whole(cell, operation, prepared, state)


@pytest.mark.cells("memory-*")
async def test_what_was_just_saved_is_read_although_an_index_lags_behind(db: Any) -> None:
    """The next prompt holds what the last turn has learned, and an erasure does not leave it."""
    data = db.raw._engine.driver.data
    await save(db, "user_profile_u", learning_type="user_profile", user_id="u", content={"n": 1})
    data.lag_indexes()
    await save(db, "user_profile_u", learning_type="user_profile", user_id="u", content={"n": 2})
    await save(db, "memories_u", learning_type="user_memory", user_id="u", content={"n": 3})
    assert await db.get_learning("user_profile", user_id="u") == {"content": {"n": 2}}
    assert await db.get_learning("user_memory", user_id="u") == {"content": {"n": 3}}
    assert await db.delete_user_learnings("u") == 2
    data.catch_up()
    assert await db.get_learnings() == []

"""State and versions of sessions: what a docstore does beyond `BaseDb`, so that two writers do not undo each other."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from agno.session.summary import SessionSummary

from agno_docstores.conformance.sessions import agent_session, run_of
from agno_docstores.errors import (
    OwnershipError,
    SessionConflictError,
    SessionNotFoundError,
    StateConditionError,
    UnserializableValueError,
)
from agno_docstores.merging import MISSING


async def with_state(db: Any, state: dict[str, Any], session_id: str = "s1", **values: Any) -> None:
    await db.upsert_session(agent_session(session_id, session_data={"session_state": state, "kept": 1}, **values))


async def state_of(db: Any, session_id: str = "s1") -> Any:
    data = await db.get_session_data(session_id)
    return data["session_state"]


# --- Session data -----------------------------------------------------------------------------------------------------


async def test_session_data_is_read_without_runs(db: Any) -> None:
    await with_state(db, {"a": [1, 2.5, None]}, user_id="u")
    await db.upsert_run(run_of("r1"), "s1", "u")
    assert await db.get_session_data("s1") == {"session_state": {"a": [1, 2.5, None]}, "kept": 1}
    assert await db.get_session_data("s1", user_id="u") is not None
    assert await db.get_session_data("s1", user_id="stranger") is None
    assert await db.get_session_data("nobody") is None
    await db.upsert_session(agent_session("empty"))
    assert await db.get_session_data("empty") == {}


async def test_an_update_merges_what_it_is_given_and_keeps_the_rest(db: Any) -> None:
    await with_state(db, {"a": 1, "deep": {"x": 1, "y": {"z": 2}}, "list": [1]})
    after = await db.update_session_data(
        "s1", {"session_state": {"b": 2, "deep": {"y": {"w": 3}}, "list": [2]}, "n": None}
    )
    expected = {
        "session_state": {"a": 1, "b": 2, "deep": {"x": 1, "y": {"z": 2, "w": 3}}, "list": [2]},
        "kept": 1,
        "n": None,
    }
    assert after == expected
    assert await db.get_session_data("s1") == expected


async def test_an_overwrite_replaces_all(db: Any) -> None:
    await with_state(db, {"a": 1})
    assert await db.update_session_data("s1", {"session_state": {"b": 2}}, mode="overwrite") == {
        "session_state": {"b": 2}
    }
    assert await db.get_session_data("s1") == {"session_state": {"b": 2}}
    assert await db.update_session_data("s1", {}, mode="overwrite") == {}
    with pytest.raises(ValueError, match="overwrite"):
        await db.update_session_data("s1", mode="overwrite")
    with pytest.raises(ValueError, match="replace"):
        await db.update_session_data("s1", {}, mode="replace")


async def test_paths_are_set_removed_counted_and_appended_to(db: Any) -> None:
    await with_state(db, {"cart": {"items": ["a"], "total": 1.5}, "gone": {"x": 1}, "a.b": 1})
    after = await db.update_session_data(
        "s1",
        set={"session_state.cart.owner": {"name": "n"}, ("session_state", "a.b"): 2, "session_state.new.deep": 1},
        unset=["session_state.gone", "session_state.not.there", "kept"],
        increment={"session_state.cart.total": 2, "session_state.visits": 1},
        append={"session_state.cart.items": ["b", {"c": 1}], "session_state.log": ["first"]},
    )
    assert after == {
        "session_state": {
            "cart": {"items": ["a", "b", {"c": 1}], "total": 3.5, "owner": {"name": "n"}},
            "a.b": 2,
            "new": {"deep": 1},
            "visits": 1,
            "log": ["first"],
        }
    }
    assert await db.get_session_data("s1") == after


async def test_what_cannot_be_done_changes_nothing(db: Any) -> None:
    await with_state(db, {"text": "t", "list": [1], "flag": True})
    before = await db.get_session("s1", deserialize=False)
    for arguments, error in (
        ({"increment": {"session_state.text": 1}}, "session_state.text is no number"),
        ({"increment": {"session_state.flag": 1}}, "session_state.flag is no number"),
        ({"append": {"session_state.text": ["x"]}}, "session_state.text is no list"),
        ({"set": {"session_state.text.deeper": 1}}, "leads through"),
        ({"data": {"session_state": {"x": {1, 2}}}}, "set"),
        ({"set": {"session_state.x": b"bytes"}, "increment": {"session_state.n": 1}}, "bytes"),
        ({"unset": [()]}, "path"),
    ):
        with pytest.raises((TypeError, UnserializableValueError), match=error):
            await db.update_session_data("s1", **arguments)
    assert await db.get_session("s1", deserialize=False) == before


async def test_an_argument_of_another_kind_is_refused(db: Any) -> None:
    """A text is a sequence, too: of letters, which nobody means."""
    await with_state(db, {"s": 1, "log": ["x"]})
    before = await db.get_session("s1", deserialize=False)
    for arguments, error in (
        ({"unset": "session_state.s"}, "unset"),
        ({"append": {"session_state.log": "paid"}}, "session_state.log"),
        ({"append": {"session_state.log": {"paid": 1}}}, "session_state.log"),
        ({"append": {"session_state.log": 5}}, "session_state.log"),
        ({"data": "abc"}, "data"),
        ({"set": ["session_state.s"]}, "set"),
        ({"increment": "session_state.s"}, "increment"),
    ):
        with pytest.raises(TypeError, match=error):
            await db.update_session_data("s1", **arguments)
    assert await db.get_session("s1", deserialize=False) == before
    await db.update_session_data("s1", append={"session_state.log": (y for y in ("y", "z"))})
    assert await state_of(db) == {"s": 1, "log": ["x", "y", "z"]}


async def test_a_conditional_update_happens_or_changes_nothing(db: Any) -> None:
    await with_state(db, {"step": 1, "done": False})
    after = await db.update_session_data(
        "s1", {"session_state": {"step": 2}}, when={"session_state.step": 1, "session_state.none": MISSING}
    )
    assert after["session_state"] == {"step": 2, "done": False}
    with pytest.raises(StateConditionError) as caught:
        await db.update_session_data(
            "s1", {"session_state": {"step": 3}}, when={"session_state.step": 1, "session_state.done": False, "x.y": 0}
        )
    assert caught.value.unmet == {"session_state.step": (1, 2), "x.y": (0, MISSING)}
    assert caught.value.session_id == "s1" and caught.value.found["session_state"]["step"] == 2
    for wrong in (2.0, "2", None, MISSING, True):
        with pytest.raises(StateConditionError):
            await db.update_session_data("s1", set={"session_state.step": 9}, when={"session_state.step": wrong})
    with pytest.raises(StateConditionError) as caught:
        await db.update_session_data("s1", set={"session_state.step": 9}, when=lambda data: data["kept"] == 2)
    assert caught.value.unmet == {}
    assert (await state_of(db))["step"] == 2
    await db.update_session_data("s1", set={"session_state.step": 9}, when=lambda data: data["kept"] == 1)
    assert (await state_of(db))["step"] == 9


async def test_a_condition_is_checked_against_what_is_stored_now(db: Any, another: Callable[[], Any]) -> None:
    other = another()
    await with_state(db, {"step": 1})
    await db.get_session("s1")
    await other.update_session_data("s1", set={"session_state.step": 2})
    with pytest.raises(StateConditionError):
        await db.update_session_data("s1", set={"session_state.step": 3}, when={"session_state.step": 1})
    await other.update_session_data("s1", set={"session_state.step": 5})
    await db.update_session_data("s1", set={"session_state.step": 6}, when={"session_state.step": 5})
    assert await state_of(other) == {"step": 6}


async def test_a_predicate_judges_what_is_stored_now_and_changes_nothing(db: Any, another: Callable[[], Any]) -> None:
    other = another()
    await with_state(db, {})
    await db.get_session("s1")
    await other.update_session_data("s1", {"session_state": {"step": 2}})
    # What this handle remembers has no step.
    await db.update_session_data("s1", {"n": 1}, when=lambda data: data["session_state"]["step"] == 2)
    await db.update_session_data("s1", {"n": 2}, when=lambda data: data.setdefault("left", 5) == 5)
    assert await db.get_session_data("s1") == {"session_state": {"step": 2}, "kept": 1, "n": 2}
    with pytest.raises(KeyError, match="nothing"):
        await db.update_session_data("s1", {"n": 3}, when=lambda data: data["nothing"])

    async def never(data: Any) -> bool:
        return False

    with pytest.raises(TypeError, match="coroutine"):
        await db.update_session_data("s1", {"n": 4}, when=never)
    assert (await db.get_session_data("s1"))["n"] == 2


async def test_state_is_changed_by_its_owner_only(db: Any) -> None:
    await with_state(db, {"secret": 1}, user_id="owner")
    await with_state(db, {"free": 1}, "unowned")
    for session_id in ("s1", "unowned"):
        with pytest.raises(OwnershipError) as caught:
            await db.update_session_data(session_id, {"x": 1}, user_id="stranger")
        assert (caught.value.kind, caught.value.id, caught.value.user_id) == ("session", session_id, "stranger")
        with pytest.raises(OwnershipError):
            await db.update_session(session_id, lambda session: None, user_id="stranger")
    with pytest.raises(SessionNotFoundError):
        await db.update_session_data("nobody", {"x": 1})
    with pytest.raises(SessionNotFoundError):
        await db.update_session("nobody", lambda session: None)
    assert (await db.update_session_data("s1", {"x": 1}, user_id="owner"))["x"] == 1
    assert await state_of(db) == {"secret": 1}


async def test_an_update_of_state_leaves_the_rest_of_the_session(db: Any) -> None:
    await db.upsert_session(
        agent_session(
            user_id="u",
            created_at=1000,
            session_data={"session_name": "Before"},
            agent_data={"a": 1},
            metadata={"m": 1},
            summary=SessionSummary(summary="so far"),
        )
    )
    await db.upsert_run(run_of("r1"), "s1", "u")
    await db.update_session_data("s1", {"session_name": "After"}, user_id="u")
    found = await db.get_session("s1")
    assert (found.agent_data, found.metadata, found.summary.summary) == ({"a": 1}, {"m": 1}, "so far")
    assert (found.user_id, found.created_at, [run.run_id for run in found.runs]) == ("u", 1000, ["r1"])
    assert [session.session_id for session in await db.get_sessions(session_name="after")] == ["s1"]


# --- Versions ---------------------------------------------------------------------------------------------------------


async def version_in(db: Any, session_id: str = "s1") -> int:
    row = await db.get_session(session_id, deserialize=False)
    return int(row["version"])


async def test_every_write_of_a_session_is_a_version(db: Any) -> None:
    await db.upsert_session(agent_session(user_id="u"))
    seen = [await version_in(db)]
    writes: list[Callable[[], Any]] = [
        lambda: db.upsert_session(agent_session(user_id="u", metadata={"m": 1})),
        lambda: db.rename_session("s1", None, "name"),
        lambda: db.update_session_data("s1", {"a": 1}),
        lambda: db.reassign_session_owner("s1", previous_user_id="u", user_id="v"),
        lambda: db.update_session("s1", lambda session: None),
    ]
    for write in writes:
        await write()
        seen.append(await version_in(db))
    assert [version - seen[0] for version in seen] == [0, 1, 2, 3, 4, 5]
    await db.upsert_run(run_of("r1"), "s1", "v")
    assert await version_in(db) == seen[-1], "a run is no change of the session"


async def test_a_session_is_saved_if_nobody_else_has(db: Any, another: Callable[[], Any]) -> None:
    await with_state(db, {"a": 1}, user_id="u")
    mine, theirs = await db.get_session("s1"), await another().get_session("s1")
    theirs.session_data["session_state"]["b"] = 2
    assert await another().save_session(theirs) is True
    mine.session_data["session_state"]["a"] = 9
    with pytest.raises(SessionConflictError) as caught:
        await db.save_session(mine)
    error, now = caught.value, await version_in(db)
    assert (error.session_id, error.expected, error.found) == ("s1", now - 1, now)
    assert error.changed == ("session_data.session_state.b",)
    assert await state_of(db) == {"a": 1, "b": 2}
    fresh = await db.get_session("s1")
    fresh.session_data["session_state"]["a"] = 9
    assert await db.save_session(fresh) is True
    fresh.session_data["session_state"]["a"] = 10
    assert await db.save_session(fresh) is True, "it counts as read when it was saved"
    assert await state_of(db) == {"a": 10, "b": 2}


async def test_the_version_travels_with_copies(db: Any) -> None:
    await with_state(db, {"a": 1})
    read = await db.get_session("s1")
    copies = [copy.copy(read), copy.deepcopy(read)]
    copies[0].metadata = {"first": 1}
    assert await db.save_session(copies[0]) is True
    copies[1].metadata = {"second": 1}
    with pytest.raises(SessionConflictError) as caught:
        await db.save_session(copies[1])
    assert caught.value.changed == ("metadata",)
    with pytest.raises(SessionConflictError):
        await db.save_session(read)


async def test_rows_carry_their_version(db: Any) -> None:
    await with_state(db, {"a": 1})
    row = await db.get_session("s1", deserialize=False)
    first, plain = row["version"], {name: value for name, value in row.items() if name != "version"}
    row["metadata"] = {"m": 1}
    assert await db.save_session(row) is True
    assert row["version"] == first + 1 == await version_in(db)
    row["metadata"] = {"m": 2}
    assert await db.save_session(row) is True, "it counts as read when it was saved"
    with pytest.raises(SessionConflictError) as caught:
        await db.save_session({**plain, "version": first})
    assert (caught.value.expected, caught.value.found, caught.value.changed) == (first, first + 2, None)
    assert await db.save_session(plain, expected_version=first + 2) is True
    with pytest.raises(SessionConflictError):
        await db.save_session({**plain, "version": None}, expected_version=first + 2)
    (listed,), _ = await db.get_sessions(deserialize=False)
    assert listed["version"] == first + 3


async def test_a_row_says_what_it_was_read_at_and_all_it_is(db: Any) -> None:
    await with_state(db, {"a": 1})
    row = await db.get_session("s1", deserialize=False)
    with pytest.raises(ValueError, match="expected_version"):
        await db.save_session({**row, "version": None})
    for missing in ("agent_id", "user_id", "session_data", "agent_data", "metadata", "summary"):
        with pytest.raises(ValueError, match=missing):
            await db.save_session({name: value for name, value in row.items() if name != missing})
    for version in ("1", 1.0, True):
        with pytest.raises(TypeError, match="version"):
            await db.save_session(row, expected_version=version)
    assert await db.get_session("s1", deserialize=False) == row


async def test_what_was_never_read_must_be_new(db: Any) -> None:
    assert await db.save_session(agent_session(user_id="u", metadata={"n": 1})) is True
    with pytest.raises(SessionConflictError) as caught:
        await db.save_session(agent_session(user_id="u", metadata={"n": 2}))
    first = await version_in(db)
    assert (caught.value.expected, caught.value.found) == (0, first)
    read = await db.get_session("s1")
    await db.delete_session("s1")
    with pytest.raises(SessionConflictError) as caught:
        await db.save_session(read)
    assert (caught.value.expected, caught.value.found) == (first, None)
    assert await db.get_session("s1") is None


async def test_a_session_begun_anew_is_not_the_one_that_was_read(db: Any, another: Callable[..., Any]) -> None:
    """Whether it is saved under its version, changed by a function, or upserted by whom conflicts are to be told."""
    other, strict = another(), another(on_conflict="raise")

    async def begin_anew(text: str) -> None:
        await other.delete_session("s1")
        await other.upsert_session(agent_session(session_data={"text": text}))

    await begin_anew("old")
    held, told = await db.get_session("s1"), await strict.get_session("s1")
    row = await db.get_session("s1", deserialize=False)
    await begin_anew("new")
    held.metadata = told.metadata = row["metadata"] = {"m": 1}
    saves: list[Callable[[], Any]] = [
        lambda: db.save_session(held),
        lambda: db.save_session(row),
        lambda: strict.upsert_session(told),
    ]
    for save in saves:
        with pytest.raises(SessionConflictError) as caught:
            await save()
        assert caught.value.found == await version_in(db) != caught.value.expected
    found = await db.get_session("s1")
    assert (found.session_data, found.metadata) == ({"text": "new"}, None)


async def test_a_session_inserted_counts_as_read(db: Any, another: Callable[[], Any]) -> None:
    session = agent_session(session_data={"session_state": {"n": 1}})
    assert await db.insert_session_if_absent(session) is True
    await another().update_session_data("s1", {"session_state": {"theirs": 1}})
    assert session.session_data is not None
    session.session_data["session_state"]["mine"] = 1
    await db.upsert_session(session)
    assert await state_of(db) == {"n": 1, "theirs": 1, "mine": 1}
    new = agent_session("s2")
    assert await db.insert_session_if_absent(new) is True
    new.metadata = {"m": 1}
    assert await db.save_session(new) is True
    assert await db.insert_session_if_absent(new) is False


async def test_a_strangers_session_is_not_saved(db: Any) -> None:
    await with_state(db, {"a": 1}, user_id="owner")
    read = await db.get_session("s1")
    read.user_id = "stranger"
    with pytest.raises(OwnershipError):
        await db.save_session(read)
    row = await db.get_session("s1", deserialize=False)
    with pytest.raises(OwnershipError):
        await db.save_session({**row, "user_id": None})
    assert (await db.get_session("s1")).user_id == "owner"


async def test_an_update_by_function_is_tried_again(db: Any, another: Callable[[], Any]) -> None:
    other = another()
    await with_state(db, {"n": 0})
    calls = []

    def outrun(session: Any) -> None:
        calls.append(session.session_data["session_state"]["n"])
        session.session_data["session_state"]["mine"] = True

    left = [1, 1]
    driver = db.raw._engine.driver
    commit = driver.commit

    async def too_late(writes: Any, token: str) -> Any:
        if left:
            await other.update_session_data("s1", increment={"session_state.n": left.pop()})
        return await commit(writes, token)

    driver.commit = too_late
    saved = await db.update_session("s1", outrun)
    driver.commit = commit
    assert calls == [0, 1, 2]
    assert saved.session_data["session_state"] == {"n": 2, "mine": True}
    assert await state_of(other) == {"n": 2, "mine": True}


async def test_an_update_by_function_gives_up(db: Any, another: Callable[[], Any]) -> None:
    other = another()
    await with_state(db, {"n": 0})
    driver = db.raw._engine.driver
    commit = driver.commit
    rounds = []

    async def too_late(writes: Any, token: str) -> Any:
        await other.update_session_data("s1", increment={"session_state.n": 1})
        return await commit(writes, token)

    def change(session: Any) -> Any:
        rounds.append(session)
        return agent_session(session_data={"replaced": True})

    driver.commit = too_late
    with pytest.raises(SessionConflictError):
        await db.update_session("s1", change, max_retries=2)
    driver.commit = commit
    assert len(rounds) == 3
    saved = await db.update_session("s1", change)
    assert saved.session_data == {"replaced": True}

    def fail(session: Any) -> None:
        raise KeyError("of the function")

    with pytest.raises(KeyError, match="of the function"):
        await db.update_session("s1", fail)


async def test_an_async_store_takes_an_async_function(db: Any) -> None:
    await with_state(db, {"n": 0})

    async def change(session: Any) -> None:
        session.metadata = {"async": True}

    if db.is_async:
        assert (await db.update_session("s1", change)).metadata == {"async": True}
    else:
        assert (await db.update_session("s1", lambda session: setattr(session, "metadata", {"sync": 1}))).metadata
        with pytest.raises(TypeError, match="async store"):
            await db.update_session("s1", change)


async def test_an_update_by_function_is_of_the_session_it_names(db: Any) -> None:
    await with_state(db, {"n": 1})
    await with_state(db, {"n": 2}, "s2")

    def become_another(session: Any) -> None:
        session.session_id = "s2"

    for change in (become_another, lambda session: agent_session("s2", session_data={})):
        with pytest.raises(ValueError, match="'s1'"):
            await db.update_session("s1", change)
    with pytest.raises(ValueError, match="max_retries"):
        await db.update_session("s1", lambda session: None, max_retries=-1)
    assert (await state_of(db), await state_of(db, "s2")) == ({"n": 1}, {"n": 2})


# --- Two turns at once ------------------------------------------------------------------------------------------------


async def test_two_turns_that_change_different_keys_both_survive(db: Any, another: Callable[[], Any]) -> None:
    other = another()
    tokens = {"session_metrics": {"input_tokens": 10}}
    session = agent_session(
        session_data={"session_state": {"a": 1, "b": {"x": 1}, "gone": 1}, **tokens},
        metadata={"m": 1},
    )
    await db.upsert_session(session)
    mine, theirs = await db.get_session("s1"), await other.get_session("s1")
    theirs.session_data["session_state"]["b"]["y"] = 2
    theirs.session_data["session_state"]["theirs"] = True
    theirs.session_data["session_metrics"]["input_tokens"] = 15
    theirs.summary = SessionSummary(summary="theirs")
    await other.upsert_session(theirs)
    mine.session_data["session_state"]["a"] = 2
    del mine.session_data["session_state"]["gone"]
    mine.session_data["session_metrics"]["input_tokens"] = 13
    mine.metadata["mine"] = 1
    stored = await db.upsert_session(mine)
    expected = {
        "session_state": {"a": 2, "b": {"x": 1, "y": 2}, "theirs": True},
        "session_metrics": {"input_tokens": 18},
    }
    assert stored.session_data == expected
    found = await other.get_session("s1")
    assert (found.session_data, found.metadata, found.summary.summary) == (expected, {"m": 1, "mine": 1}, "theirs")
    assert db.conflicts == {"merged": 1, "overwritten": 0}
    # The object that was saved does not hold what the other turn wrote; saving it again does not undo that.
    mine.session_data["session_state"]["a"] = 3
    await db.upsert_session(mine)
    assert (await state_of(other)) == {"a": 3, "b": {"x": 1, "y": 2}, "theirs": True}
    with pytest.raises(SessionConflictError):
        await db.save_session(mine)


async def test_of_two_turns_that_change_one_key_the_later_wins_and_it_is_told(
    db: Any, another: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    other = another()
    await with_state(db, {"a": 1, "b": 1})
    mine, theirs = await db.get_session("s1"), await other.get_session("s1")
    theirs.session_data["session_state"].update(a=2, b=2)
    mine.session_data["session_state"].update(a=3, b=2)
    await other.upsert_session(theirs)
    await db.upsert_session(mine)
    assert await state_of(db) == {"a": 3, "b": 2}
    assert db.conflicts["overwritten"] == 1
    assert "session_data.session_state.a" in caplog.text and "'s1'" in caplog.text
    assert other.conflicts == {"merged": 0, "overwritten": 0}


@pytest.mark.parametrize("handles", [1, 2])
async def test_first_turns_of_one_session_all_survive(db: Any, another: Callable[..., Any], handles: int) -> None:
    """In one process, as of AgentOS, or in several."""
    turns = {"a": db, "b": db if handles == 1 else another(), "c": db}
    for turn in turns.values():
        assert await turn.get_session("s1") is None
    for number, (name, turn) in enumerate(turns.items()):
        data = {"session_state": {name: number}, "session_metrics": {"input_tokens": 10}}
        await turn.upsert_session(agent_session(session_data=data))
    assert await db.get_session_data("s1") == {
        "session_state": {"a": 0, "b": 1, "c": 2},
        "session_metrics": {"input_tokens": 30},
    }
    await db.upsert_session(agent_session(session_data={"session_state": {"d": 3}}))
    assert await db.get_session_data("s1") == {"session_state": {"d": 3}}, "which nobody had asked for"


async def test_a_first_turn_is_told_of_another(db: Any, another: Callable[..., Any]) -> None:
    strict = another(on_conflict="raise")
    assert await strict.get_session("s1") is None and await strict.get_session("s1") is None
    await strict.upsert_session(agent_session(session_data={"a": 1}))
    with pytest.raises(SessionConflictError) as caught:
        await strict.upsert_session(agent_session(session_data={"b": 1}))
    assert (caught.value.expected, caught.value.found) == (0, await version_in(db))
    assert await db.get_session_data("s1") == {"a": 1}


async def test_what_two_turns_count_is_added_up(db: Any, another: Callable[[], Any], caplog: Any) -> None:
    """Tokens of each model, as Agno keeps them; also where both counted the same."""

    def metrics(tokens: int, cost: float, **models: int) -> dict[str, Any]:
        details = [{"id": name, "provider": "p", "input_tokens": own} for name, own in models.items()]
        return {"input_tokens": tokens, "output_tokens": 5, "cost": cost, "details": {"model": details}}

    other = another()
    await db.upsert_session(agent_session(session_data={"session_metrics": metrics(10, 0.5, m1=10)}))
    mine, theirs = await db.get_session("s1"), await other.get_session("s1")
    theirs.session_data["session_metrics"] = {**metrics(20, 1.0, m1=10, m2=10), "output_tokens": 10}
    mine.session_data["session_metrics"] = {**metrics(20, 1.0, m1=13, m3=7), "output_tokens": 10}
    await other.upsert_session(theirs)
    await db.upsert_session(mine)
    found = (await db.get_session_data("s1"))["session_metrics"]
    found["details"]["model"].sort(key=lambda model: model["id"])
    assert found == {**metrics(30, 1.5, m1=13, m2=10, m3=7), "output_tokens": 15}
    assert db.conflicts == {"merged": 1, "overwritten": 0} and "written over" not in caplog.text


@pytest.mark.parametrize("read", [True, False])
async def test_a_shallow_copy_is_the_same_writer(db: Any, another: Callable[..., Any], read: bool) -> None:
    """As Agno's teams save a session that they hold over many turns: what a copy has saved is no one else's."""
    other = another()
    session: Any = agent_session(session_data={"session_state": {}, "session_metrics": {"input_tokens": 0}})
    if read:
        await db.upsert_session(session)
        session = await db.get_session("s1")
    for turn in range(1, 4):
        session.session_data["session_metrics"]["input_tokens"] += 10
        session.session_data["session_state"][f"turn{turn}"] = turn
        for _ in range(2):
            await db.upsert_session(copy.copy(session))
        session.metadata = {"turn": turn}
        await db.upsert_session(copy.copy(session))
        theirs = await other.get_session("s1")
        theirs.session_data["session_metrics"]["input_tokens"] += 5
        theirs.session_data["session_state"]["theirs"] = turn
        await other.upsert_session(theirs)
    found = await db.get_session("s1")
    assert found.session_data["session_metrics"] == {"input_tokens": 45}
    assert found.session_data["session_state"] == {"turn1": 1, "turn2": 2, "turn3": 3, "theirs": 3}
    assert found.metadata == {"turn": 3} and db.conflicts["overwritten"] == 0


async def test_a_shallow_copy_is_in_no_conflict_with_what_it_is_of(db: Any, another: Callable[..., Any]) -> None:
    strict = another(on_conflict="raise")
    session: Any = agent_session(session_data={"n": 0}, metadata={"m": 0})
    for number in range(1, 4):
        session.session_data["n"] = session.metadata["m"] = number
        await strict.upsert_session(copy.copy(session))
        await strict.upsert_session(session)
    assert await strict.save_session(copy.copy(session)) is True
    session.session_data["n"] = 9
    assert await strict.save_session(session) is True
    await db.update_session_data("s1", {"theirs": 1})
    with pytest.raises(SessionConflictError):
        await strict.upsert_session(copy.copy(session))
    assert await db.get_session_data("s1") == {"n": 9, "theirs": 1}


async def test_of_two_summaries_one_stays_whole(db: Any, another: Callable[[], Any]) -> None:
    other = another()
    await db.upsert_session(agent_session(summary=SessionSummary(summary="first", topics=["first"])))
    mine, theirs = await db.get_session("s1"), await other.get_session("s1")
    theirs.summary = SessionSummary(summary="theirs", topics=["theirs"])
    mine.summary = SessionSummary(summary="mine")
    await other.upsert_session(theirs)
    await db.upsert_session(mine)
    row = await db.get_session("s1", deserialize=False)
    assert row["summary"] == {"summary": "mine"}
    assert db.conflicts["overwritten"] == 1


async def test_a_turn_is_told_that_its_session_was_deleted(db: Any, another: Callable[..., Any]) -> None:
    strict = another(on_conflict="raise")
    await with_state(db, {"a": 1})
    held = await strict.get_session("s1")
    await db.delete_session("s1")
    with pytest.raises(SessionConflictError) as caught:
        await strict.upsert_session(held)
    assert caught.value.found is None
    assert await db.get_session("s1") is None


async def test_an_object_that_was_not_read_replaces_what_is_there(db: Any) -> None:
    """As the contract has it: there is nothing to tell what its writer knew."""
    await with_state(db, {"a": 1})
    await db.upsert_session(agent_session(session_data={"session_state": {"b": 2}}))
    assert await state_of(db) == {"b": 2}


async def test_what_a_conflict_does_can_be_chosen(db: Any, open_another: Callable[..., Any]) -> None:
    from agno_docstores.conformance.plugin import Awaitable, close

    strict = Awaitable(open_another(on_conflict="raise"))
    careless = Awaitable(open_another(on_conflict="last_wins"))
    await with_state(db, {"a": 1})
    first, second = await strict.get_session("s1"), await careless.get_session("s1")
    await db.update_session_data("s1", {"session_state": {"b": 2}})
    first.session_data["session_state"]["a"] = 2
    with pytest.raises(SessionConflictError) as caught:
        await strict.upsert_session(first)
    assert caught.value.changed == ("session_data.session_state.b",)
    second.session_data["session_state"]["a"] = 3
    await careless.upsert_session(second)
    assert await state_of(db) == {"a": 3}
    again = await strict.get_session("s1")
    again.session_data["session_state"]["a"] = 4
    await strict.upsert_session(again)
    again.session_data["session_state"]["a"] = 5
    await strict.upsert_session(again)
    assert await state_of(db) == {"a": 5}
    await strict.upsert_session(agent_session("new"))
    for handle in (strict, careless):
        await close(handle.raw)
    with pytest.raises(ValueError, match="on_conflict"):
        open_another(on_conflict="maybe")

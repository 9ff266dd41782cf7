"""Bad input gets a clear error that names what is wrong, and changes nothing: on every cell."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from agno_docstores import (
    DocstoreError,
    InvalidIdError,
    OwnershipError,
    SessionNotFoundError,
    StoreUnavailableError,
    UnserializableValueError,
)
from agno_docstores.conformance.runs import run_ids
from agno_docstores.conformance.sessions import agent_session, run_of

BAD_IDS: list[Any] = ["", None, 5, b"x", ["s1"], {"$ne": ""}, "\ud800"]


@pytest.mark.parametrize("bad", BAD_IDS, ids=repr)
async def test_ids_must_be_non_empty_text(db: Any, bad: Any) -> None:
    await db.upsert_session(agent_session())
    calls: list[Callable[[], Any]] = [
        lambda: db.get_session(bad),
        lambda: db.upsert_session(agent_session(bad)),
        lambda: db.rename_session(bad, None, "x"),
        lambda: db.delete_session(bad),
        lambda: db.delete_sessions([bad]),
        lambda: db.reassign_session_owner(bad, previous_user_id="u", user_id="v"),
        lambda: db.get_run(bad),
        lambda: db.upsert_run(run_of("r"), bad),
        lambda: db.delete_run(bad),
        lambda: db.delete_runs([bad]),
        lambda: db.cancel_pending_run(bad, session_id="s1", reason="x"),
        lambda: db.update_run_in_session("s1", bad, {}),
        lambda: db.append_run_to_session_if_absent(bad, {"run_id": "r"}),
    ]
    if bad is not None:
        calls.append(lambda: db.upsert_run({"run_id": bad, "agent_id": "a"}, "s1"))
        calls.append(lambda: db.get_runs(session_id=bad))
    for call in calls:
        with pytest.raises(InvalidIdError) as caught:
            await call()
        assert isinstance(caught.value, ValueError) and isinstance(caught.value, DocstoreError)
    assert [session.session_id for session in await db.get_sessions()] == ["s1"]
    assert await run_ids(db) == []


async def test_a_value_that_json_cannot_hold_is_named_by_its_path(db: Any) -> None:
    await db.upsert_session(agent_session(session_data={"kept": 1}))
    with pytest.raises(UnserializableValueError, match=r"session_data\.state\.items\[1\]\.tags is a set") as caught:
        await db.upsert_session(agent_session(session_data={"state": {"items": [1, {"tags": {1, 2}}]}}))
    assert caught.value.path == "session_data.state.items[1].tags"
    assert isinstance(caught.value, TypeError)
    with pytest.raises(UnserializableValueError, match=r"run_data\.blob is a bytes"):
        await db.upsert_run({"run_id": "r1", "agent_id": "a1", "blob": b"x"}, "s1")
    with pytest.raises(UnserializableValueError, match=r"key \(1, 2\) of metadata"):
        await db.upsert_session(agent_session(metadata={(1, 2): 3}))
    found = await db.get_session("s1")
    assert (found.session_data, found.metadata, found.runs) == ({"kept": 1}, None, [])


async def test_a_value_that_contains_itself_is_refused(db: Any) -> None:
    await db.upsert_session(agent_session())
    loop: dict[str, Any] = {"run_id": "r1", "agent_id": "a1"}
    loop["self"] = loop
    with pytest.raises(UnserializableValueError, match=r"run_data\.self"):
        await db.upsert_run(loop, "s1")
    assert await run_ids(db) == []


async def test_a_run_of_a_strangers_session_is_refused_by_name(db: Any) -> None:
    await db.upsert_session(agent_session(user_id="owner"))
    with pytest.raises(OwnershipError) as caught:
        await db.upsert_run(run_of("r1"), "s1", "stranger")
    assert (caught.value.kind, caught.value.id, caught.value.user_id) == ("session", "s1", "stranger")
    assert "owner" not in str(caught.value)
    with pytest.raises(OwnershipError):
        await db.append_run_to_session_if_absent("s1", {"run_id": "r1", "agent_id": "a1"}, user_id="stranger")
    assert await run_ids(db) == []


async def test_a_run_of_no_session_is_refused_by_name(db: Any) -> None:
    with pytest.raises(SessionNotFoundError) as caught:
        await db.upsert_run(run_of("r1"), "nobody", "u")
    assert caught.value.session_id == "nobody"
    assert await db.get_run("r1") is None


async def test_only_sessions_are_saved_as_sessions(db: Any) -> None:
    with pytest.raises(TypeError, match="AgentSession"):
        await db.upsert_session({"session_id": "s1"})
    assert await db.get_sessions() == []


async def test_constructor_arguments_are_checked(db: Any, open_another: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="sesion_table"):
        open_another(sesion_table="x")
    with pytest.raises(ValueError, match="session_table"):
        open_another(session_table="x", session_collection="y")
    with pytest.raises(ValueError, match="session_table"):
        open_another(session_table="")


async def test_either_spelling_of_a_table_name_works(db: Any, another: Callable[[], Any], open_another: Any) -> None:
    from agno_docstores.conformance.plugin import Awaitable, close

    handles = [
        Awaitable(open_another(session_table="my_chats")),
        Awaitable(open_another(session_collection="my_chats")),
    ]
    assert {handle.session_table_name for handle in handles} == {"my_chats"}
    assert {handle.runs_table_name for handle in handles} == {"my_chats_runs"}
    await handles[0].upsert_session(agent_session())
    await handles[0].upsert_run(run_of("r1"), "s1")
    assert await run_ids(handles[1]) == ["r1"]
    assert await db.get_session("s1") is None
    for handle in handles:
        await close(handle.raw)


@pytest.mark.cells("mongo-sync-secantus", "mongo-async-secantus", "dynamo-sync-local", "dynamo-async-local",
                   "dynamo-sync-moto", "firestore-*-embedded")  # fmt: skip
async def test_a_server_that_is_not_there_is_named_in_time(
    cell: Any, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agno_docstores.conformance.plugin import Awaitable, close

    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", "127.0.0.1:9")
    options: dict[str, Any] = {
        "mongo": {"db_url": "mongodb://name:hunter2@127.0.0.1:9/?authSource=admin"},
        "dynamo": {
            "endpoint_url": "http://127.0.0.1:9",
            "region_name": "us-east-1",
            "aws_access_key_id": "AKIAEXAMPLE",
            "aws_secret_access_key": "hunter2",
        },
        "firestore": {"project_id": storage},
    }[cell.store]
    handle = type(cell.open(storage))
    db = Awaitable(handle(**options))
    for call in (lambda: db.get_session("s1"), lambda: db.upsert_session(agent_session())):
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError) as caught:
            await call()
        assert time.monotonic() - started < 30
        assert "127.0.0.1:9" in str(caught.value)
        assert "hunter2" not in str(caught.value) + repr(caught.value) + repr(db.raw) + db.id + str(db.raw.to_dict())
    await close(db.raw)

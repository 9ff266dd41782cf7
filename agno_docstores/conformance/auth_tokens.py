"""Tokens that tools got by OAuth: one of a provider, a user and a service."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from agno_docstores.conformance.concurrency import at_once
from agno_docstores.conformance.schedules import HOSTILE, T0

KEY = {"provider": "google", "user_id": "u", "service": "gmail"}


def token_of(**values: Any) -> dict[str, Any]:
    """A row as tools give it."""
    return {**KEY, "token_data": {"access": "x"}, **values}


async def read(db: Any, **values: Any) -> Any:
    key = {**KEY, **values}
    return await db.get_auth_token(key["provider"], key["user_id"], key["service"])


async def test_a_token_is_stored_replaced_and_deleted(db: Any) -> None:
    """Also on storage that is not there yet."""
    assert await read(db) is None
    assert await db.delete_auth_token("google", "u", "gmail") is False
    began = int(time.time())
    given = token_of(token_data=HOSTILE, granted_scopes=["a", ""], created_at=T0)
    answer = await db.upsert_auth_token(given)
    first = await read(db)
    assert answer == first == {**given, "id": first["id"], "updated_at": first["updated_at"]}
    assert first["updated_at"] >= began and "id" not in given
    assert tuple(first) == (
        *("id", "provider", "user_id", "service", "token_data", "granted_scopes", "created_at", "updated_at"),
    )
    # Id and age are of the first time; scopes that are not given are gone.
    answer = await db.upsert_auth_token(token_of(id="mine", token_data={"n": 1}))
    second = await read(db)
    assert second == {**first, "token_data": {"n": 1}, "granted_scopes": None, "updated_at": second["updated_at"]}
    assert answer["token_data"] == {"n": 1} and answer["id"] not in ("mine", first["id"])
    assert answer["created_at"] >= began
    assert await db.upsert_auth_token({**KEY}) is None, "there is no token in it"
    assert await db.upsert_auth_token(token_of(nonsense=1)) is None
    assert await db.upsert_auth_token(token_of(token_data={"x": {1}})) is None
    assert await read(db) == second
    assert await db.delete_auth_token("google", "u", "gmail") is True
    assert await db.delete_auth_token("google", "u", "gmail") is False
    assert await read(db) is None
    await db.upsert_auth_token(token_of())
    assert (await read(db))["id"] != first["id"]


async def test_a_token_is_of_a_provider_a_user_and_a_service(db: Any) -> None:
    keys: list[dict[str, Any]] = [
        {}, {"user_id": "v"}, {"user_id": None}, {"service": "drive"}, {"provider": "xai"}, {"service": ""},
        {"provider": "google!", "user_id": "u"}, {"provider": "googleu", "user_id": "", "service": "x"},
    ]  # fmt: skip
    for number, key in enumerate(keys):
        assert await db.upsert_auth_token(token_of(**key, token_data={"n": number})) is not None
    for number, key in enumerate(keys):
        assert (await read(db, **key))["token_data"] == {"n": number}
    assert (await read(db, user_id=None))["user_id"] == ""
    assert await read(db, user_id="") == await read(db, user_id=None)
    assert await read(db, user_id="u.*") is None
    assert await db.delete_auth_token("google", None, "gmail") is True
    assert await read(db, user_id=None) is None and await read(db) is not None


async def test_writers_of_one_token_at_once_leave_one(db: Any, another: Callable[[], Any]) -> None:
    handles = [db.raw, another().raw]
    await db.upsert_auth_token(token_of(service="drive"))
    calls: list[Any] = [
        (handles[n % 2].upsert_auth_token, (token_of(token_data={"n": n}, granted_scopes=[str(n)]),), {})
        for n in range(20)
    ]
    results = await at_once(db, calls)
    assert [result["token_data"]["n"] for result in results] == list(range(20))
    found = await read(db)
    assert found["granted_scopes"] == [str(found["token_data"]["n"])], "the content of one writer, whole"
    assert found["id"] in {result["id"] for result in results}

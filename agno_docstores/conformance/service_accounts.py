"""Service accounts: tokens, names, revocation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from agno.db.schemas.service_accounts import ServiceAccount
from sqlalchemy.exc import IntegrityError

from agno_docstores.conformance.concurrency import at_once
from agno_docstores.conformance.schedules import T0, ids


def account_of(id: str = "sa1", name: str | None = None, **values: Any) -> dict[str, Any]:
    """A row; its name is its id, its token that of its id, where none is given."""
    given = {"id": id, "name": name or id, "token_hash": f"hash-{id}", "token_prefix": "agno_", "created_at": T0}
    return ServiceAccount(**{**given, "scopes": ["agents:run"], **values}).to_dict()


async def test_an_account_comes_back_as_it_was_given_by_id_token_and_name(db: Any) -> None:
    """Also on storage that is not there yet."""
    assert await db.get_service_account("sa1") is None
    assert await db.get_service_account_by_token_hash("hash-sa1") is None
    assert await db.get_service_account_by_name("sa1") is None
    assert await db.get_service_accounts() == ([], 0)
    assert await db.update_service_account("sa1", last_used_at=1) is None
    assert await db.delete_service_account("sa1") is False
    row = account_of(scopes=["a.b:c", "$x", ""], user_id="u", expires_at=T0 + 9, created_by="boss")
    assert await db.create_service_account(row) == row
    assert await db.get_service_account("sa1") == row
    assert await db.get_service_account_by_token_hash("hash-sa1") == row
    assert await db.get_service_account_by_name("sa1") == row
    assert await db.get_service_account_by_name("sa1", include_revoked=True) == row
    for unknown in ("hash-sa", "hash-.*", "%", "sa1"):
        assert await db.get_service_account_by_token_hash(unknown) is None
    await db.create_service_account(account_of("sa2", scopes=[]))
    assert (await db.get_service_account("sa2"))["scopes"] == []
    assert await db.delete_service_account("sa1") is True
    assert await db.delete_service_account("sa1") is False
    assert await db.get_service_account_by_token_hash("hash-sa1") is None
    await db.create_service_account(row)
    assert await db.get_service_account_by_token_hash("hash-sa1") == row


async def test_a_token_is_one_accounts_and_a_name_one_active_accounts(db: Any) -> None:
    await db.create_service_account(account_of("sa1", "bot"))
    for duplicate in (
        account_of("sa1", "other", token_hash="h"),
        account_of("sa2", "other", token_hash="hash-sa1"),
        account_of("sa2", "bot", user_id="u"),
    ):
        with pytest.raises(IntegrityError):
            await db.create_service_account(duplicate)
    assert (await db.get_service_accounts())[1] == 1
    # A name is free again when its account is revoked; a token never is.
    revoked = await db.update_service_account("sa1", revoked_at=T0 + 5)
    assert revoked == {**account_of("sa1", "bot"), "revoked_at": T0 + 5}
    assert await db.get_service_account_by_token_hash("hash-sa1") == revoked, (
        "whoever asks has to see that it is revoked"
    )
    assert await db.get_service_account_by_name("bot") is None
    assert await db.get_service_account_by_name("bot", include_revoked=True) == revoked
    await db.create_service_account(account_of("sa2", "bot", created_at=T0 + 1))
    assert (await db.get_service_account_by_name("bot"))["id"] == "sa2"
    assert (await db.get_service_account_by_name("bot", include_revoked=True))["id"] == "sa2"
    with pytest.raises(IntegrityError):
        await db.create_service_account(account_of("sa3", "third", token_hash="hash-sa1"))
    # What is revoked already takes no name.
    await db.create_service_account(account_of("sa4", "bot", revoked_at=T0, created_at=T0 + 2))
    assert (await db.get_service_account_by_name("bot"))["id"] == "sa2"
    assert (await db.get_service_account_by_name("bot", include_revoked=True))["id"] == "sa4"


async def test_an_update_notes_use_and_revocation_and_nothing_else(db: Any) -> None:
    await db.create_service_account(account_of())
    used = await db.update_service_account("sa1", last_used_at=T0 + 3)
    assert used == {**account_of(), "last_used_at": T0 + 3}
    assert await db.update_service_account("sa1", return_record=False, last_used_at=T0 + 4) is None
    assert (await db.get_service_account("sa1"))["last_used_at"] == T0 + 4
    both = await db.update_service_account("sa1", last_used_at=None, revoked_at=T0 + 5)
    assert (both["last_used_at"], both["revoked_at"]) == (None, T0 + 5)
    for columns in ({}, {"scopes": ["*"]}, {"name": "x", "last_used_at": 1}, {"revoked_at": None}, {"token_hash": "x"}):
        with pytest.raises(ValueError, match=r"update_service_account|revoked_at"):
            await db.update_service_account("sa1", **columns)
    assert await db.get_service_account("sa1") == both
    assert await db.update_service_account("nothing", revoked_at=1) is None
    assert await db.get_service_account("nothing") is None


async def test_a_reader_sees_own_accounts_and_nobodys(db: Any) -> None:
    owners = {"sa0": "u", "sa1": "v", "sa2": None, "sa3": "u", "sa4": None}
    for number, (id, user_id) in enumerate(owners.items()):
        values = {"created_at": T0 + number, "revoked_at": T0 if number in (2, 3) else None}
        await db.create_service_account(account_of(id, f"n{9 - number}", user_id=user_id, **values))
    await db.update_service_account("sa0", last_used_at=T0 + 2)
    await db.update_service_account("sa4", last_used_at=T0 + 1)
    assert (await db.get_service_account("sa0", user_id="u"))["id"] == "sa0"
    assert (await db.get_service_account("sa2", user_id="u"))["id"] == "sa2"
    assert await db.get_service_account("sa1", user_id="u") is None
    assert ids(await db.get_service_accounts()) == ["sa4", "sa3", "sa2", "sa1", "sa0"]
    assert await db.get_service_accounts(limit=2, page=3) == ([await db.get_service_account("sa0")], 5)
    assert await db.get_service_accounts(limit=2, page=4) == ([], 5)
    assert ids(await db.get_service_accounts(user_id="u")) == ["sa4", "sa3", "sa2", "sa0"]
    assert ids(await db.get_service_accounts(user_id="u", sort_order="asc")) == ["sa0", "sa2", "sa3", "sa4"]
    found, total = await db.get_service_accounts(user_id="u", limit=3, page=2)
    assert ([row["id"] for row in found], total) == (["sa0"], 4)
    assert ids(await db.get_service_accounts(user_id="u", include_revoked=False)) == ["sa4", "sa0"]
    assert ids(await db.get_service_accounts(include_revoked=False)) == ["sa4", "sa1", "sa0"]
    assert ids(await db.get_service_accounts(sort_by="name", limit=2)) == ["sa0", "sa1"]
    assert ids(await db.get_service_accounts(sort_by="name", sort_order="asc", user_id="v")) == ["sa4", "sa2", "sa1"]
    assert ids(await db.get_service_accounts(sort_by="last_used_at", limit=2)) == ["sa0", "sa4"]
    assert ids(await db.get_service_accounts(sort_by="last_used_at", sort_order="asc", limit=5))[3:] == ["sa4", "sa0"]
    assert ids(await db.get_service_accounts(sort_by="token_hash; drop", limit=1)) == ["sa4"]


async def test_of_twenty_accounts_at_once_one_has_the_name(db: Any, another: Callable[[], Any]) -> None:
    handles = [db.raw, another().raw]
    await db.create_service_account(account_of("before"))
    calls: list[Any] = [
        (handles[n % 2].create_service_account, (account_of(f"sa{n}", "wanted"),), {}) for n in range(20)
    ]
    results = await at_once(db, calls)
    errors = [result for result in results if isinstance(result, Exception)]
    assert len(errors) == 19 and all(isinstance(error, IntegrityError) for error in errors)
    (winner,) = [result["id"] for result in results if isinstance(result, dict)]
    assert (await db.get_service_account_by_name("wanted"))["id"] == winner
    assert await db.get_service_account_by_token_hash(f"hash-{winner}") == await db.get_service_account(winner)
    assert (await db.get_service_accounts())[1] == 2
    # Notes of use that race with a revocation do not undo it.
    calls = [
        (handles[n % 2].update_service_account, (winner,), {"last_used_at": T0 + n, "return_record": False})
        for n in range(10)
    ]
    calls.insert(5, (handles[0].update_service_account, (winner,), {"revoked_at": T0 + 50}))
    await at_once(db, calls)
    assert (await db.get_service_account_by_token_hash(f"hash-{winner}"))["revoked_at"] == T0 + 50


async def test_what_nothing_can_be_under_is_not_there(db: Any) -> None:
    await db.create_service_account(account_of("sa1", "bot"))
    await db.create_service_account(account_of("sa2", "his", user_id="u"))
    assert await db.get_service_account("") is None and await db.get_service_account("sa2", user_id="") is None
    assert (await db.get_service_account("sa1", user_id=""))["id"] == "sa1", "which is nobody's"
    assert await db.get_service_account_by_token_hash("") is None
    assert await db.get_service_account_by_name("") is None
    assert await db.get_service_account_by_name("", include_revoked=True) is None
    assert [row["id"] for row in (await db.get_service_accounts(user_id=""))[0]] == ["sa1"]
    assert await db.update_service_account("", last_used_at=1) is None
    assert await db.delete_service_account("") is False

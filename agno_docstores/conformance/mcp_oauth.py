"""Contract 1.17, the store of AgentOS' OAuth server for MCP, as Agno's SqliteDb has it. For sync stores: Agno's async
class has no such methods."""

from __future__ import annotations

from typing import Any

import pytest
from agno.db.utils import is_unique_violation

NOW = 1_000_000


async def client(db: Any, id: str, now: int = NOW, *, ttl: int = 100, most: int = 3) -> Any:
    return await db.create_mcp_oauth_client(
        client_id=id, client_metadata=f'{{"of":"{id}"}}', now=now, unconsumed_ttl=ttl, max_clients=most
    )


async def transaction(db: Any, id: str, expires_at: int, now: int = NOW, most: int = 3) -> None:
    await db.store_mcp_oauth_transaction(
        txn_id=id, client_id="c", params=f"params of {id}", expires_at=expires_at, now=now, max_pending=most
    )


async def code(db: Any, id: str, expires_at: int, now: int = NOW) -> None:
    await db.store_mcp_oauth_code(code_hash=id, payload=f"payload of {id}", expires_at=expires_at, now=now)


async def refresh(db: Any, id: str, expires_at: int, now: int = NOW, family: str = "f") -> None:
    await db.store_mcp_oauth_refresh(
        token_hash=id, client_id="c", scopes='["a b"]', expires_at=expires_at, now=now, family_id=family
    )


async def test_reads_on_empty_storage_are_empty(db: Any) -> None:
    assert await db.get_mcp_oauth_client("x") is await db.get_mcp_oauth_transaction("x") is None
    assert await db.get_mcp_oauth_code("x") is await db.get_mcp_oauth_refresh("x") is None
    assert await db.consume_mcp_oauth_transaction("x", NOW) is None
    assert await db.delete_mcp_oauth_code("x") is await db.delete_mcp_oauth_refresh("x") is False
    assert await db.delete_mcp_oauth_refresh_family("x") == 0
    assert await db.get_mcp_oauth_keys() == []
    await db.mark_mcp_oauth_client_consumed("x", NOW)


async def test_clients_that_were_not_used_are_limited_and_go(db: Any) -> None:
    for id in ("a", "b"):
        assert await client(db, id) is True
    assert await db.get_mcp_oauth_client("a") == '{"of":"a"}'
    await db.mark_mcp_oauth_client_consumed("a", NOW + 1)
    await db.mark_mcp_oauth_client_consumed("a", NOW + 2)
    assert await client(db, "c") is True and await client(db, "d", most=2) is False
    assert await db.get_mcp_oauth_client("d") is None
    with pytest.raises(Exception) as caught:
        await client(db, "a", most=9)
    assert is_unique_violation(caught.value)
    assert await client(db, "e", NOW + 100) is True, "what is as old as the limit stays"
    assert await db.get_mcp_oauth_client("b") is not None
    assert await client(db, "f", NOW + 101) is True
    found = {id: await db.get_mcp_oauth_client(id) is not None for id in "abcef"}
    assert found == {"a": True, "b": False, "c": False, "e": True, "f": True}


async def test_a_transaction_is_consumed_once_and_expires(db: Any) -> None:
    await transaction(db, "t", NOW + 5)
    assert await db.get_mcp_oauth_transaction("t") == ("params of t", NOW + 5)
    with pytest.raises(Exception) as caught:
        await transaction(db, "t", NOW + 9)
    assert is_unique_violation(caught.value)
    assert await db.consume_mcp_oauth_transaction("t", NOW + 6) is None
    assert await db.get_mcp_oauth_transaction("t") is not None, "what has expired is left where it is"
    assert await db.consume_mcp_oauth_transaction("t", NOW + 5) == ("params of t", NOW + 5)
    assert await db.consume_mcp_oauth_transaction("t", NOW) is await db.get_mcp_oauth_transaction("t") is None
    await transaction(db, "t", NOW + 5)
    assert await db.consume_mcp_oauth_transaction("t", NOW) == ("params of t", NOW + 5)


async def test_transactions_make_room_for_new_ones(db: Any) -> None:
    for number, expires_at in enumerate((NOW - 1, NOW + 9, NOW, NOW + 5)):
        await transaction(db, f"t{number}", expires_at, NOW - 2, most=9)
    await transaction(db, "t4", NOW + 1)

    async def there() -> list[int]:
        return [n for n in range(7) if await db.get_mcp_oauth_transaction(f"t{n}") is not None]

    assert await there() == [1, 3, 4], "the expired goes, then what expires first"
    await transaction(db, "t5", NOW + 20, NOW + 5)
    assert await there() == [1, 3, 5]
    await transaction(db, "t6", NOW + 2, NOW, most=1)
    assert await there() == [6]


async def test_codes_and_tokens_are_taken_once_and_swept_when_they_expired(db: Any) -> None:
    await code(db, "c", NOW)
    await refresh(db, "r", NOW)
    assert await db.get_mcp_oauth_code("c") == ("payload of c", NOW)
    assert await db.get_mcp_oauth_refresh("r") == ("c", '["a b"]', NOW)
    for again in (code, refresh):
        with pytest.raises(Exception) as caught:
            await again(db, "c" if again is code else "r", NOW)
        assert is_unique_violation(caught.value)
    await code(db, "c2", NOW + 9)
    await refresh(db, "r2", NOW + 9)
    assert await db.delete_mcp_oauth_code("c") is True and await db.delete_mcp_oauth_code("c") is False
    assert await db.delete_mcp_oauth_refresh("r") is True and await db.delete_mcp_oauth_refresh("r") is False
    assert await db.get_mcp_oauth_code("c") is await db.get_mcp_oauth_refresh("r") is None
    await code(db, "c3", NOW + 99, NOW + 10)
    await refresh(db, "r3", NOW + 99, NOW + 10)
    assert await db.get_mcp_oauth_code("c2") is await db.get_mcp_oauth_refresh("r2") is None
    assert await db.delete_mcp_oauth_code("c3") is await db.delete_mcp_oauth_refresh("r3") is True


async def test_a_family_of_tokens_is_revoked_together(db: Any) -> None:
    for number in range(4):
        await refresh(db, f"r{number}", NOW + number, family="f" if number else "other")
    assert await db.delete_mcp_oauth_refresh("r1") is True
    assert await db.delete_mcp_oauth_refresh_family("f") == 2
    assert await db.delete_mcp_oauth_refresh_family("f") == 0
    assert [await db.get_mcp_oauth_refresh(f"r{number}") is not None for number in range(4)] == [True, *[False] * 3]


async def test_keys_come_the_latest_first(db: Any) -> None:
    for kid, created_at in (("b", 5), ("a", 7), ("c", 6)):
        assert await db.insert_mcp_oauth_key(kid=kid, secret=f"secret {kid}", created_at=created_at) is True
    assert await db.insert_mcp_oauth_key(kid="a", secret="other", created_at=9) is False
    assert await db.get_mcp_oauth_keys() == [("a", "secret a"), ("c", "secret c"), ("b", "secret b")]

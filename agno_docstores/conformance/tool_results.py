"""Contract 1.12, the index of tool results: upserts, unique addresses, listings, expiry, and the end of a session."""

from __future__ import annotations

from typing import Any

import pytest
from agno.db.utils import is_unique_violation

from agno_docstores.conformance.concurrency import at_once
from agno_docstores.conformance.sessions import agent_session

WORKERS = 20


def result_of(id: str, session_id: str = "s1", created_at: int = 1000, **values: Any) -> dict[str, Any]:
    return {
        "result_id": id, "namespace": "results", "path": f"/{id}", "session_id": session_id, "run_id": "r",
        "tool_call_id": "t", "tool_name": "search", "args_hash": "h", "content_type": "text/plain", "size_bytes": 2**40,
        "line_count": 0, "preview": "", "user_id": None, "created_at": created_at, "expires_at": None, **values,
    }  # fmt: skip


async def ids(db: Any, session_id: str = "s1", **arguments: Any) -> list[str]:
    return [row["result_id"] for row in await db.get_tool_results_for_session(session_id, **arguments)]


async def test_results_are_stored_changed_listed_and_deleted(db: Any) -> None:
    assert await db.get_tool_result("a") is None and await ids(db) == []
    assert await db.delete_tool_results(["a"]) == await db.delete_tool_results([]) == 0
    assert await db.get_expired_tool_results(10**10) == []
    first = result_of("a", preview="é\u0301 日本 \x00", user_id="u", expires_at=500)
    await db.upsert_tool_result(first)
    assert await db.get_tool_result("a") == first
    await db.upsert_tool_result({**first, "preview": "new", "expires_at": None, "user_id": None})
    assert await db.get_tool_result("a") == {**first, "preview": "new", "expires_at": None, "user_id": None}
    for id, created_at in (("d", 1000), ("c", 1000), ("old", 999), ("new", 20_000)):
        await db.upsert_tool_result(result_of(id, created_at=created_at))
    await db.upsert_tool_result(result_of("other", "s2", expires_at=700))
    assert await ids(db) == ["new", "a", "c", "d", "old"]
    assert await ids(db, limit=3) == ["new", "a", "c"]
    await db.upsert_tool_result(result_of("old", created_at=30_000, expires_at=600))
    assert await ids(db, limit=2) == ["old", "new"]
    expired = [{row["result_id"] for row in await db.get_expired_tool_results(now)} for now in (599, 600, 701)]
    assert expired == [set(), {"old"}, {"old", "other"}]
    assert (await db.get_expired_tool_results(600))[0] == result_of("old", created_at=30_000, expires_at=600)
    assert await db.delete_tool_results(["a", "nobody", "other"]) == 2
    assert await ids(db) == ["old", "new", "c", "d"] and await ids(db, "s2") == []
    for bad in ({"column": 1}, {"path": None}, {"created_at": None}):
        with pytest.raises(Exception, match=r"column|path|created_at"):
            await db.upsert_tool_result({**result_of("bad"), **bad})
    assert await db.get_tool_result("bad") is None


async def test_two_results_never_share_an_address(db: Any) -> None:
    await db.upsert_tool_result(result_of("a"))
    await db.upsert_tool_result(result_of("b"))
    for clash in (result_of("c", path="/a"), result_of("b", path="/a"), result_of("c", "s2", path="/a")):
        with pytest.raises(Exception) as caught:
            await db.upsert_tool_result(clash)
        assert is_unique_violation(caught.value)
    assert await db.get_tool_result("c") is None and await db.get_tool_result("b") == result_of("b")
    await db.upsert_tool_result(result_of("c", namespace="results/a", path=""))
    await db.upsert_tool_result(result_of("a", path="/elsewhere"))
    await db.upsert_tool_result(result_of("b", path="/a"))
    assert await db.delete_tool_results(["b"]) == 1
    calls: list[Any] = [(db.raw.upsert_tool_result, (result_of(f"w{n}", path="/a"),), {}) for n in range(WORKERS)]
    outcomes = await at_once(db, calls)
    assert outcomes.count(None) == 1
    assert all(is_unique_violation(error) for error in outcomes if error is not None)
    (winner,) = [row["result_id"] for row in await db.get_tool_results_for_session("s1") if row["path"] == "/a"]
    assert winner == f"w{outcomes.index(None)}"


async def test_a_result_stays_with_its_session(db: Any) -> None:
    await db.upsert_tool_result(result_of("a"))
    with pytest.raises(ValueError, match="another session"):
        await db.upsert_tool_result(result_of("a", "s2"))
    assert await ids(db) == ["a"] and await ids(db, "s2") == []


async def test_results_go_with_their_session(db: Any) -> None:
    for session in ("s1", "s2"):
        await db.upsert_session(agent_session(session, user_id="u"))
        for number in range(3):
            await db.upsert_tool_result(result_of(f"{session}-{number}", session))
    assert await db.delete_session("s1", user_id="stranger") is False
    await db.delete_sessions(["s1"], user_id="stranger")
    assert len(await ids(db)) == 3
    assert await db.delete_session("s1") is True
    assert await ids(db) == [] and await db.get_tool_result("s1-0") is None
    await db.upsert_tool_result(result_of("next", "s2", path="/s1-0"))  # its address is free
    await db.delete_sessions(["s2", "no session"])
    assert await ids(db, "s2") == []
    await db.upsert_tool_result(result_of("left", "no session"))
    await db.delete_sessions(["no session"])
    assert await ids(db, "no session") == []

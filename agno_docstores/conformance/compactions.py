"""Contract 1.13, compactions: written once, the latest first, searched as text, and gone with their session."""

from __future__ import annotations

from typing import Any

import pytest

from agno_docstores.conformance.sessions import agent_session

METHODS = ("upsert_compaction", "get_compaction", "get_compactions_for_session", "search_compactions")


def compaction(id: str, session_id: str = "s1", created_at: int = 1000, **values: Any) -> dict[str, Any]:
    return {
        "compaction_id": id, "session_id": session_id, "run_id": None, "user_id": None, "first_kept_message_id": None,
        "summary": None, "archived_messages": f"said in {id}", "messages_compacted": None, "tokens_before": None,
        "tokens_after": None, "created_at": created_at, **values,
    }  # fmt: skip


def offered(db: Any) -> bool:
    """Whether the class has compactions: a sync one must, an async one must not, for Agno awaits none of them."""
    assert [name for name in METHODS if hasattr(type(db.raw), name)] == ([] if db.is_async else list(METHODS))
    return not db.is_async


async def ids(db: Any, session_id: str = "s1", **arguments: Any) -> list[str]:
    return [row["compaction_id"] for row in await db.get_compactions_for_session(session_id, **arguments)]


async def test_a_compaction_is_written_once_and_listed_the_latest_first(db: Any) -> None:
    if not offered(db):
        return
    assert await db.get_compaction("c") is None and await ids(db) == []
    assert await db.search_compactions("s1", "x") == [] and await db.delete_compactions_for_session("s1") == 0
    whole = compaction(
        "whole", run_id="r", user_id="u", first_kept_message_id="m", summary="é\u0301 日本", created_at=1500,
        archived_messages="a.b $ \x00 😀 " * 10, messages_compacted=0, tokens_before=2**40, tokens_after=7,
    )  # fmt: skip
    await db.upsert_compaction(whole)
    await db.upsert_compaction(compaction("whole", "s2", summary="another", created_at=9000))
    assert await db.get_compaction("whole") == whole and await ids(db, "s2") == []
    await db.upsert_compaction({"compaction_id": "bare", "session_id": "s1", "created_at": 1500})
    assert await db.get_compaction("bare") == compaction("bare", created_at=1500, archived_messages=None)
    for id, created_at in (("old", 999), ("tie 2", 1500), ("tie 1", 1500), ("new", 10_000)):
        await db.upsert_compaction(compaction(id, created_at=created_at))
    await db.upsert_compaction(compaction("other", "s2"))
    assert await ids(db) == ["new", "tie 1", "tie 2", "bare", "whole", "old"]
    assert await ids(db, limit=2) == ["new", "tie 1"]
    assert (await db.get_compactions_for_session("s1"))[4] == whole
    for bad in ({"created_at": None}, {"session_id": None}, {"column": 1}):
        with pytest.raises(Exception, match=r"created_at|session_id|column"):
            await db.upsert_compaction({**compaction("bad"), **bad})
    assert await db.delete_compactions_for_session("s1") == 6
    assert await ids(db) == [] and await ids(db, "s2") == ["other"]


async def test_the_search_finds_any_term_within_one_session(db: Any) -> None:
    if not offered(db):
        return
    for number in range(12):
        await db.upsert_compaction(
            compaction(f"c{number:02}", created_at=number, archived_messages=f"The Word, no {number}.")
        )
    await db.upsert_compaction(compaction("other", "s2", archived_messages="word"))
    await db.upsert_compaction(compaction("none", archived_messages=None, summary="word"))

    async def found(query: Any, **arguments: Any) -> list[str]:
        return [row["compaction_id"] for row in await db.search_compactions("s1", query, **arguments)]

    assert await found("wORD") == [f"c{number:02}" for number in range(11, 1, -1)]
    assert await found("word", limit=3) == ["c11", "c10", "c09"]
    assert await found(["no 3.", "", "NO 11", "nowhere"]) == ["c11", "c03"]
    for nothing in ("", [], ["", ""], "nowhere", ["no 3x"]):
        assert await found(nothing) == []


async def test_the_search_takes_text_as_text(db: Any) -> None:
    if not offered(db):
        return
    await db.upsert_compaction(compaction("plain", archived_messages="100 percent ÄRGER"))
    await db.upsert_compaction(compaction("odd", archived_messages="100% a_b .* [x]"))

    async def found(query: Any) -> list[str]:
        return [row["compaction_id"] for row in await db.search_compactions("s1", query)]

    assert [await found(text) for text in ("%", "_", ".*", "[x]")] == [["odd"]] * 4
    assert await found("ärger") == ["plain"]


async def test_compactions_go_with_their_session(db: Any) -> None:
    if not offered(db):
        return
    for session in ("s1", "s2"):
        await db.upsert_session(agent_session(session, user_id="u"))
        await db.upsert_compaction(compaction(f"of {session}", session))
    await db.delete_sessions(["s1", "s2"], user_id="stranger")
    assert await db.delete_session("s1", user_id="stranger") is False
    assert await ids(db) == ["of s1"]
    assert await db.delete_session("s1") is True
    await db.upsert_session(agent_session("s1", user_id="v"))
    assert await ids(db) == [] and await db.search_compactions("s1", "said") == []
    assert await ids(db, "s2") == ["of s2"]
    await db.delete_sessions(["s2"], user_id="u")
    assert await ids(db, "s2") == [] and await db.get_compaction("of s2") is None

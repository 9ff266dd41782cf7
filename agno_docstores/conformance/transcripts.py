"""Contract 1.20, transcripts of external agents: order, uuids, listings, removal, and that they go with the session."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from agno_docstores.conformance.concurrency import at_once
from agno_docstores.conformance.sessions import agent_session

WORKERS = 20
KEY = ("claude", "project", "c1")


def entry(uuid: str | None, text: Any = None) -> dict[str, Any]:
    return {"type": "user", "text": text if text is not None else uuid, **({"uuid": uuid} if uuid else {})}


async def texts(db: Any, *key: str, subpath: str | None = None) -> list[Any]:
    """What a transcript says, in order: the text of each entry."""
    return [found.get("text") for found in await db.get_transcript_entries(*(key or KEY), subpath=subpath)]


async def append(db: Any, *said: str, session: str = "s1", subpath: str | None = None, key: Any = KEY) -> None:
    await db.append_transcript_entries(*key, [entry(text) for text in said], session, subpath)


async def test_a_transcript_keeps_each_entry_once_and_in_order(db: Any) -> None:
    assert await db.get_transcript_entries(*KEY) == []
    assert await db.list_transcript_sessions("claude", "project") == []
    assert await db.list_transcript_subpaths(*KEY) == []
    await db.append_transcript_entries(*KEY, [], "s1")
    assert await db.list_transcript_sessions("claude", "project") == []
    hostile = {"uuid": "u1", "a.b": {"$set": [1.0, 2**70, None]}, "": {}, "nul": "a\x00", "e": [], "deep": [[1], [[]]]}
    before = int(time.time() * 1000)
    await db.append_transcript_entries(
        framework="claude", project_key="project", session_id="c1", agno_session_id="s1",
        entries=[hostile, entry(None, "x"), entry("u2"), entry("u2", "twice in one call"), entry(None, "x")],
    )  # fmt: skip
    assert await db.get_transcript_entries(*KEY) == [hostile, entry(None, "x"), entry("u2"), entry(None, "x")]
    await db.append_transcript_entries(*KEY, [entry("u3"), entry("u1", "again"), entry(None, "x"), entry("u4")], "s1")
    assert (await texts(db))[1:] == ["x", "u2", "x", "u3", "x", "u4"]
    assert (await db.get_transcript_entries(*KEY))[0] == hostile
    (listed,) = await db.list_transcript_sessions("claude", "project")
    assert listed["session_id"] == "c1" and before <= listed["mtime"] <= time.time() * 1000 and listed.keys() == {
        "session_id", "mtime",
    }  # fmt: skip
    await append(db, *(f"m{n}" for n in range(100)), session="s2")
    assert (await texts(db))[7:] == [f"m{n}" for n in range(100)]


async def test_a_transcript_is_known_by_every_part_of_its_name(db: Any) -> None:
    names = [
        ("claude", "p", "c"), ("claude", "p", "c!"), ("claude", "p/c", "x"), ("claude", "p", "c/x"),
        ("codex", "p", "c"), ("claude", "P", "c"), ("claude", "p" * 900 + "1", "c"), ("claude", "p" * 900 + "2", "c"),
    ]  # fmt: skip
    for number, name in enumerate(names):
        await append(db, "same", f"n{number}", key=name)
    for number, name in enumerate(names):
        assert await texts(db, *name) == ["same", f"n{number}"]
    listed = await db.list_transcript_sessions("claude", "p")
    assert {found["session_id"] for found in listed} == {"c", "c!", "c/x"}
    for subpath in ("subagents/b", "subagents/a", "é\u0301 日本", "x" * 900):
        await append(db, "same", subpath, key=names[0], subpath=subpath)
    await append(db, "main", key=names[0], subpath="")
    assert await db.list_transcript_subpaths(*names[0]) == sorted(
        ["subagents/b", "subagents/a", "é\u0301 日本", "x" * 900]
    )
    assert await db.list_transcript_subpaths(*names[1]) == []
    assert await texts(db, *names[0], subpath="x" * 900) == ["same", "x" * 900]
    assert await texts(db, *names[0], subpath="") == await texts(db, *names[0]) == ["same", "n0", "main"]
    # A subpath alone makes no session of the listing.
    await append(db, "only", key=("claude", "p", "sub only"), subpath="a")
    assert len(await db.list_transcript_sessions("claude", "p")) == 3


async def test_a_transcript_is_deleted_by_subpath_or_whole(db: Any) -> None:
    await db.delete_transcript(*KEY)
    for subpath in (None, "a", "b"):
        await append(db, "1", "2", subpath=subpath)
    await append(db, "other", key=("claude", "project", "c2"))
    await db.delete_transcript(*KEY, subpath="a")
    await db.delete_transcript(*KEY, subpath="a")
    assert await db.list_transcript_subpaths(*KEY) == ["b"] and await texts(db) == ["1", "2"]
    await db.delete_transcript(*KEY, subpath="")
    assert await texts(db) == [] and await texts(db, subpath="b") == ["1", "2"]
    assert [found["session_id"] for found in await db.list_transcript_sessions("claude", "project")] == ["c2"]
    await append(db, "2", "3")
    assert await texts(db) == ["2", "3"]
    await db.delete_transcript(*KEY)
    assert await texts(db) == [] and await db.list_transcript_subpaths(*KEY) == []
    assert await texts(db, "claude", "project", "c2") == ["other"]


async def test_entries_go_with_the_session_that_they_belong_to(db: Any) -> None:
    for session in ("s1", "s2"):
        await db.upsert_session(agent_session(session, user_id="u"))
    await append(db, "1", "2")
    await append(db, "3", session="s2")
    await append(db, "2", "4")
    await append(db, "sub", subpath="a")
    assert await db.delete_session("s1", user_id="stranger") is False
    await db.delete_sessions(["s1"], user_id="stranger")
    assert await texts(db) == ["1", "2", "3", "4"]
    assert await db.delete_session("s1", user_id="u") is True
    assert await texts(db) == ["3"]
    assert await db.list_transcript_subpaths(*KEY) == []
    # What is gone is gone for the next session of that id as well, and its uuids are free.
    await db.upsert_session(agent_session("s1", user_id="v"))
    assert await texts(db) == ["3"]
    await append(db, "2", "3", "5")
    assert await texts(db) == ["3", "2", "5"]
    await db.delete_sessions(["s1", "s2", "no session"])
    assert await texts(db) == [] and await db.list_transcript_sessions("claude", "project") == []
    await append(db, "left", session="no session")
    await db.delete_sessions(["no session"], user_id="u")
    assert await texts(db) == ["left"]
    await db.delete_sessions(["no session"])
    assert await texts(db) == []


async def test_of_many_appends_at_once_none_is_lost_doubled_or_divided(db: Any, another: Callable[[], Any]) -> None:
    handles = [db.raw, another().raw]
    await append(db, "first")
    calls: list[Any] = []
    for worker in range(WORKERS):
        entries = [entry(f"{worker}-0"), entry("shared"), entry(f"{worker}-1")]
        arguments = (*KEY, entries, f"s{worker % 3}")
        calls.append((handles[worker % 2].append_transcript_entries, arguments, {}))
    assert [error for error in await at_once(db, calls) if error is not None] == []
    found = await texts(db)
    assert found.count("shared") == 1 and len(found) == 2 * WORKERS + 2 and found[0] == "first"
    own = [text for text in found if text != "shared"]
    for worker in range(WORKERS):
        place = own.index(f"{worker}-0")
        assert own[place + 1] == f"{worker}-1"

"""The cache of histories, which a handle keeps: what it saves, its limit and switch, and that it is never believed
without a look at the store. Beyond `BaseDb`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agno_docstores.conformance.sessions import agent_session, run_of


async def converse(db: Any, session_id: str, *run_ids: str, size: int = 1000) -> None:
    await db.upsert_session(agent_session(session_id, user_id="u"))
    for run_id in run_ids:
        await db.upsert_run(run_of(run_id, content=run_id.ljust(size, ".")), session_id, "u")


async def contents(db: Any, session_id: str = "s1") -> list[str]:
    session = await db.get_session(session_id)
    return [run.content.rstrip(".") for run in session.runs]


async def test_what_was_read_is_not_read_again(db: Any, another: Callable[..., Any]) -> None:
    await converse(db, "s1", "r1", "r2")
    reader = another()
    assert await contents(reader) == ["r1", "r2"]
    stats = reader.cache_stats
    assert (stats.misses, stats.hits, stats.entries, stats.bytes_saved) == (1, 0, 1, 0)
    assert 2000 <= stats.bytes_held <= stats.limit == 64_000_000
    for _ in range(3):
        assert await contents(reader) == ["r1", "r2"]
    assert reader.cache_stats.hits == 3 and reader.cache_stats.bytes_saved == 3 * stats.bytes_held
    await reader.clear_cache()
    assert reader.cache_stats.bytes_held == reader.cache_stats.entries == 0
    assert await contents(reader) == ["r1", "r2"]
    assert reader.cache_stats.misses == 2


async def test_what_others_write_is_seen_at_once(db: Any, another: Callable[..., Any]) -> None:
    """Only what changed is read: a run more, a run rewritten, one that is gone, a session begun anew."""
    other = another()
    await converse(db, "s1", "r1", "r2")
    assert await contents(db) == ["r1", "r2"]
    before = db.cache_stats
    await other.upsert_run(run_of("r3", content="r3"), "s1", "u")
    assert await contents(db) == ["r1", "r2", "r3"]
    await other.upsert_run(run_of("r1", content="changed"), "s1", "u")
    assert await contents(db) == ["changed", "r2", "r3"]
    assert await other.delete_run("r2") is True
    assert await contents(db) == ["changed", "r3"]
    after = db.cache_stats
    assert (after.misses, after.updates) == (before.misses, before.updates + 3)
    assert await other.delete_session("s1") is True
    assert await db.get_session("s1") is None
    await converse(other, "s1", "new")
    assert await contents(db) == ["new"]


async def test_a_handle_without_a_cache_keeps_nothing(db: Any, another: Callable[..., Any]) -> None:
    await converse(db, "s1", "r1", "r2")
    bare = another(cache_bytes=0)
    for _ in range(2):
        assert await contents(bare) == ["r1", "r2"]
    stats = bare.cache_stats
    assert (stats.entries, stats.bytes_held, stats.hits, stats.bytes_saved, stats.limit) == (0, 0, 0, 0, 0)
    assert stats.misses == 2


async def test_a_cache_keeps_to_its_limit(db: Any, another: Callable[..., Any]) -> None:
    for name in ("a", "b", "c"):
        await converse(db, name, f"{name}1", f"{name}2")
    small = another(cache_bytes=5500)
    for name in ("a", "b", "a", "c"):  # b is the one that was not read for longest
        assert await contents(small, name) == [f"{name}1", f"{name}2"]
        assert small.cache_stats.bytes_held <= 5500
    assert (small.cache_stats.entries, small.cache_stats.evictions) == (2, 1)
    for name, misses in (("a", 3), ("c", 3), ("b", 4)):
        await contents(small, name)
        assert small.cache_stats.misses == misses

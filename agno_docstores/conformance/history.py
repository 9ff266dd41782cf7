"""What a handle remembers of a history never shows: two handles on one storage always read the same, at once.

Needs the fixture `open_another`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agno_docstores.conformance.runs import run_ids
from agno_docstores.conformance.sessions import agent_session, run_of


async def conversation(db: Any, runs: int) -> None:
    await db.upsert_session(agent_session(user_id="u"))
    for number in range(runs):
        await db.upsert_run(run_of(f"r{number}", status="COMPLETED"), "s1", "u", run_index=number)


async def test_another_handle_reads_what_was_acknowledged(db: Any, another: Callable[[], Any]) -> None:
    other = another()
    await conversation(db, 3)
    assert await run_ids(other) == ["r0", "r1", "r2"]
    await db.upsert_run(run_of("r3"), "s1", "u")
    assert await run_ids(other) == ["r0", "r1", "r2", "r3"]
    await other.upsert_run(run_of("r4"), "s1", "u")
    assert await run_ids(db) == ["r0", "r1", "r2", "r3", "r4"]


async def test_another_handle_sees_a_changed_run(db: Any, another: Callable[[], Any]) -> None:
    other = another()
    await conversation(db, 3)
    await run_ids(other)
    await db.upsert_run(run_of("r1", status="REGENERATED", content="changed"), "s1", "u")
    found = {run.run_id: run for run in (await other.get_session("s1")).runs}
    assert found["r1"].content == "changed"
    assert await run_ids(other) == ["r0", "r1", "r2"]
    assert await run_ids(other, runs_limit=5) == ["r0", "r2"]


async def test_another_handle_sees_a_deleted_run(db: Any, another: Callable[[], Any]) -> None:
    other = another()
    await conversation(db, 4)
    await run_ids(other)
    await db.delete_runs(["r0", "r2"])
    assert await run_ids(other) == ["r1", "r3"]
    await db.upsert_run(run_of("r2", content="again"), "s1", "u")
    assert await run_ids(other) == ["r1", "r3", "r2"]


async def test_another_handle_sees_that_a_deleted_run_has_begun_anew_elsewhere(db: Any, another: Any) -> None:
    other = another()
    for session_id in ("s1", "s2"):
        await db.upsert_session(agent_session(session_id, user_id="u"))
    for run_id in ("r1", "r2"):
        await db.upsert_run(run_of(run_id, status="COMPLETED"), "s1", "u")
    assert await run_ids(other, "s1") == ["r1", "r2"] and await run_ids(other, "s2") == []
    await db.delete_run("r1")
    await db.upsert_run(run_of("r1", status="COMPLETED"), "s2", "u")
    for handle in (other, db):
        assert await run_ids(handle, "s1") == ["r2"] and await run_ids(handle, "s2") == ["r1"]
        assert [run.run_id for run in (await handle.get_session("s1")).runs] == ["r2"]
    await other.upsert_run(run_of("r3", status="COMPLETED"), "s1", "u")
    for handle in (other, db):
        assert await run_ids(handle, "s1") == ["r2", "r3"]


async def test_another_handle_sees_a_cancelled_run(db: Any, another: Callable[[], Any]) -> None:
    other = another()
    await db.upsert_session(agent_session())
    await db.upsert_run(run_of("r0", status="PENDING"), "s1")
    await run_ids(other)
    assert await db.cancel_pending_run("r0", session_id="s1", reason="x") is True
    (run,) = (await other.get_session("s1")).runs
    assert run.status == "CANCELLED"
    assert await other.cancel_pending_run("r0", session_id="s1", reason="x") is False


async def test_a_session_deleted_and_begun_anew_elsewhere_starts_empty(db: Any, another: Callable[[], Any]) -> None:
    other = another()
    await conversation(db, 3)
    assert len(await run_ids(other)) == 3
    await db.delete_session("s1")
    assert await other.get_session("s1") is None
    await db.upsert_session(agent_session(user_id="v"))
    await db.upsert_run(run_of("new"), "s1", "v")
    assert await run_ids(other) == ["new"]
    await other.upsert_run(run_of("newer"), "s1", "v")
    assert await run_ids(db) == ["new", "newer"]


async def test_a_handle_that_read_before_does_not_write_over_a_later_change(
    db: Any, another: Callable[[], Any]
) -> None:
    other = another()
    await db.upsert_session(agent_session(user_id="u", metadata={"v": 1}, created_at=1))
    await other.get_session("s1")
    await db.rename_session("s1", None, "renamed")
    stored = await other.upsert_session(agent_session(user_id="u", metadata={"v": 2}))
    assert (stored.metadata, stored.created_at) == ({"v": 2}, 1)
    assert (await db.get_session("s1")).metadata == {"v": 2}


async def test_a_transferred_session_refuses_its_former_owner_on_every_handle(
    db: Any, another: Callable[[], Any]
) -> None:
    other = another()
    await conversation(db, 1)
    await other.get_session("s1", user_id="u")
    assert await db.reassign_session_owner("s1", previous_user_id="u", user_id="v") is True
    assert await other.get_session("s1", user_id="u") is None
    assert await other.upsert_session(agent_session(user_id="u")) is None
    with pytest.raises(PermissionError):
        await other.upsert_run(run_of("late"), "s1", "u")
    await other.upsert_run(run_of("mine"), "s1", "v")
    assert await run_ids(db) == ["r0", "mine"]


async def test_a_run_written_to_a_session_deleted_elsewhere_is_refused(db: Any, another: Callable[[], Any]) -> None:
    other = another()
    await conversation(db, 1)
    await other.get_session("s1")
    await db.delete_session("s1")
    with pytest.raises(Exception, match=r".+"):
        await other.upsert_run(run_of("late"), "s1", "u")
    assert await db.get_run("late") is None
    restored = await other.upsert_session(agent_session(user_id="w"))
    assert restored.user_id == "w"
    assert await run_ids(db) == []

"""Runs, as `BaseDb` has them: order, updates, ownership, listings, cancellation, and the run primitives."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from agno.db.base import SessionType
from agno.run.agent import RunOutput
from agno.run.base import RunStatus
from agno.run.status_persist import RunPersistOutcome
from agno.run.team import TeamRunOutput
from agno.run.workflow import WorkflowRunOutput

from agno_docstores.conformance.sessions import agent_session, run_of


async def run_ids(db: Any, session_id: str = "s1", **options: Any) -> list[str]:
    return [run.run_id for run in (await db.get_session(session_id, **options)).runs or []]


async def indexes(db: Any, session_id: str = "s1") -> dict[str, int]:
    rows, _ = await db.get_runs(session_id=session_id, deserialize=False)
    return {row["run_id"]: row["run_index"] for row in rows}


# --- Writing and reading ----------------------------------------------------------------------------------------------


async def test_reads_of_no_runs_are_empty(db: Any) -> None:
    assert await db.get_run("nobody") is None
    assert await db.get_runs() == []
    assert await db.get_runs(session_id="nobody") == []
    assert await db.get_runs(deserialize=False) == ([], 0)
    assert await db.delete_run("nobody") is False
    assert await db.delete_runs(["nobody"]) is None


async def test_a_run_comes_back_as_object_and_as_row(db: Any) -> None:
    await db.upsert_session(agent_session(user_id="u"))
    run = run_of("r1", status=RunStatus.completed, created_at=1_700_000_000, metadata={"a.b": [1, 2.5]})
    await db.upsert_run(run, "s1", "u", run_index=0)
    found = await db.get_run("r1")
    assert isinstance(found, RunOutput)
    assert (found.run_id, found.content, found.metadata) == ("r1", "content of r1", {"a.b": [1, 2.5]})
    row = await db.get_run("r1", deserialize=False)
    assert type(row) is dict
    assert {name: row[name] for name in ("run_id", "session_id", "run_type", "agent_id", "user_id", "status")} == {
        "run_id": "r1", "session_id": "s1", "run_type": "agent", "agent_id": "a1", "user_id": "u",
        "status": "COMPLETED",
    }  # fmt: skip
    assert (row["team_id"], row["workflow_id"], row["parent_run_id"], row["run_index"]) == (None, None, None, 0)
    assert row["created_at"] == 1_700_000_000
    assert row["run_data"] == run.to_dict()


async def test_runs_may_be_dicts_and_keep_null_keys(db: Any) -> None:
    await db.upsert_session(agent_session())
    data: dict[str, Any] = {
        "run_id": "r1",
        "agent_id": "a1",
        "team_id": None,
        "content": None,
        "status": "COMPLETED",
        "custom": {},
    }
    await db.upsert_run(data, "s1")
    row = await db.get_run("r1", deserialize=False)
    assert row["run_data"] == data


@pytest.mark.parametrize(
    ("run", "type_"),
    [
        (TeamRunOutput(run_id="r1", team_id="t1", content="x"), TeamRunOutput),
        (WorkflowRunOutput(run_id="r1", workflow_id="w1", content="x"), WorkflowRunOutput),
    ],
)
async def test_the_type_of_a_run_is_kept(db: Any, run: Any, type_: type) -> None:
    await db.upsert_session(agent_session())
    await db.upsert_run(run, "s1")
    assert type(await db.get_run("r1")) is type_
    assert [type(found) for found in await db.get_runs(session_id="s1")] == [type_]


async def test_a_run_without_id_is_refused(db: Any) -> None:
    await db.upsert_session(agent_session())
    with pytest.raises(ValueError, match="run_id"):
        await db.upsert_run({"agent_id": "a1", "content": "x"}, "s1")
    assert await db.get_runs(session_id="s1") == []


async def test_a_run_of_no_session_is_refused(db: Any) -> None:
    await db.upsert_session(agent_session("other"))
    with pytest.raises(Exception, match=r".+"):
        await db.upsert_run(run_of("r1"), "nobody")
    assert await db.get_run("r1") is None


@pytest.mark.parametrize("value", [{1}, b"x", object()])
async def test_a_run_that_json_cannot_hold_is_refused(db: Any, value: Any) -> None:
    await db.upsert_session(agent_session())
    await db.upsert_run({"run_id": "r0", "agent_id": "a1"}, "s1")
    with pytest.raises(Exception, match=r".+"):
        await db.upsert_run({"run_id": "r1", "agent_id": "a1", "bad": [value]}, "s1")
    assert await db.get_run("r1") is None
    assert await run_ids(db) == ["r0"]


async def test_an_update_replaces_the_data_and_keeps_the_place(db: Any) -> None:
    await db.upsert_session(agent_session())
    await db.upsert_run(run_of("r1", status="RUNNING", created_at=100, metadata={"old": 1}), "s1")
    await db.upsert_run(run_of("r2", status="RUNNING", created_at=200), "s1")
    before = int(time.time())
    await db.upsert_run(
        run_of("r1", status="COMPLETED", created_at=999, content="done", agent_id="a2"), "s1", run_index=9
    )
    row = await db.get_run("r1", deserialize=False)
    assert (row["status"], row["run_data"]["content"]) == ("COMPLETED", "done")
    assert "old" not in (row["run_data"].get("metadata") or {})
    assert (row["run_index"], row["created_at"], row["agent_id"], row["session_id"]) == (0, 100, "a1", "s1")
    assert row["updated_at"] >= before
    assert await run_ids(db) == ["r1", "r2"]


async def test_an_update_may_set_parent_and_owner(db: Any) -> None:
    await db.upsert_session(agent_session())
    await db.upsert_run(run_of("r1"), "s1")
    await db.upsert_run(run_of("r1", parent_run_id="p"), "s1", "u")
    row = await db.get_run("r1", deserialize=False)
    assert (row["parent_run_id"], row["user_id"]) == ("p", "u")


async def test_a_run_stays_in_its_session(db: Any) -> None:
    await db.upsert_session(agent_session("s1", user_id="u"))
    await db.upsert_session(agent_session("s2", user_id="u"))
    await db.upsert_run(run_of("r1"), "s1", "u")
    await db.upsert_run(run_of("r1", content="new"), "s2", "u")
    assert await run_ids(db, "s1") == ["r1"] and await run_ids(db, "s2") == []
    row = await db.get_run("r1", deserialize=False)
    assert (row["session_id"], row["run_data"]["content"]) == ("s1", "new")


async def test_a_turn_of_the_same_run_in_one_handle_reads_what_it_wrote(db: Any) -> None:
    await db.upsert_session(agent_session())
    for status in ("PENDING", "RUNNING", "COMPLETED"):
        await db.upsert_run(run_of("r1", status=status, content=status), "s1")
        (found,) = (await db.get_session("s1")).runs
        assert found.content == status


# --- Order ------------------------------------------------------------------------------------------------------------


async def test_runs_without_index_are_appended(db: Any) -> None:
    await db.upsert_session(agent_session())
    for number in range(4):
        await db.upsert_run(run_of(f"r{number}", created_at=100 - number), "s1")
    assert await indexes(db) == {"r0": 0, "r1": 1, "r2": 2, "r3": 3}
    assert await run_ids(db) == ["r0", "r1", "r2", "r3"]


async def test_a_given_index_is_kept_where_it_is_free(db: Any) -> None:
    await db.upsert_session(agent_session())
    await db.upsert_run(run_of("r0"), "s1", run_index=0)
    await db.upsert_run(run_of("r1"), "s1", run_index=1)
    await db.upsert_run(run_of("r5"), "s1", run_index=5)
    await db.upsert_run(run_of("r6"), "s1")
    assert await indexes(db) == {"r0": 0, "r1": 1, "r5": 5, "r6": 6}


async def test_the_index_of_the_run_itself_counts_as_given(db: Any) -> None:
    await db.upsert_session(agent_session())
    await db.upsert_run({"run_id": "r", "agent_id": "a1", "run_index": 3}, "s1")
    assert await indexes(db) == {"r": 3}


async def test_two_turns_with_one_index_get_two_places(db: Any) -> None:
    """Agno's loop passes the number of runs that it loaded: two turns at once pass the same."""
    await db.upsert_session(agent_session())
    await db.upsert_run(run_of("r0"), "s1", run_index=0)
    await db.upsert_run(run_of("a"), "s1", run_index=1)
    await db.upsert_run(run_of("b"), "s1", run_index=1)
    found = await indexes(db)
    assert len(set(found.values())) == 3
    assert await run_ids(db) == ["r0", "a", "b"]


async def test_after_deletions_a_new_run_comes_last(db: Any) -> None:
    await db.upsert_session(agent_session())
    for number in range(4):
        await db.upsert_run(run_of(f"r{number}"), "s1", run_index=number)
    await db.delete_runs(["r0", "r1"])
    loaded = len((await db.get_session("s1")).runs)
    await db.upsert_run(run_of("new"), "s1", run_index=loaded)
    assert await run_ids(db) == ["r2", "r3", "new"]
    assert len(set((await indexes(db)).values())) == 3


# --- Status -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ended", ["COMPLETED", "CANCELLED"])
@pytest.mark.parametrize("late", ["PENDING", "RUNNING", "PAUSED"])
async def test_a_late_write_does_not_reopen_an_ended_run(db: Any, ended: str, late: str) -> None:
    await db.upsert_session(agent_session())
    await db.upsert_run(run_of("r1", status=ended, content="final"), "s1")
    await db.upsert_run(run_of("r1", status=late, content="stale"), "s1")
    row = await db.get_run("r1", deserialize=False)
    assert (row["status"], row["run_data"]["status"], row["run_data"]["content"]) == (ended, ended, "final")


async def test_an_ended_run_may_be_written_again_as_ended(db: Any) -> None:
    await db.upsert_session(agent_session())
    await db.upsert_run(run_of("r1", status="COMPLETED"), "s1")
    await db.upsert_run(run_of("r1", status="REGENERATED"), "s1")
    assert (await db.get_run("r1", deserialize=False))["status"] == "REGENERATED"


@pytest.mark.parametrize("status", ["ERROR", "PAUSED"])
async def test_a_run_that_may_go_on_goes_on(db: Any, status: str) -> None:
    await db.upsert_session(agent_session())
    await db.upsert_run(run_of("r1", status=status), "s1")
    await db.upsert_run(run_of("r1", status="RUNNING"), "s1")
    assert (await db.get_run("r1", deserialize=False))["status"] == "RUNNING"


# --- Ownership --------------------------------------------------------------------------------------------------------


async def test_a_stranger_cannot_write_into_a_session(db: Any) -> None:
    await db.upsert_session(agent_session(user_id="owner"))
    with pytest.raises(PermissionError):
        await db.upsert_run(run_of("evil"), "s1", "stranger")
    assert await run_ids(db) == [] and await db.get_run("evil") is None
    await db.upsert_run(run_of("good"), "s1", "owner")
    assert await run_ids(db) == ["good"]


async def test_a_stranger_cannot_take_over_a_run_by_its_id(db: Any) -> None:
    await db.upsert_session(agent_session("s1", user_id="owner"))
    await db.upsert_session(agent_session("s2", user_id="stranger"))
    await db.upsert_run(run_of("r1", content="mine"), "s1", "owner")
    with pytest.raises(PermissionError):
        await db.upsert_run(run_of("r1", content="stolen"), "s2", "stranger")
    row = await db.get_run("r1", deserialize=False)
    assert (row["session_id"], row["user_id"], row["run_data"]["content"]) == ("s1", "owner", "mine")


async def test_a_write_without_user_keeps_the_owner(db: Any) -> None:
    await db.upsert_session(agent_session(user_id="u"))
    await db.upsert_run(run_of("r1"), "s1", "u")
    await db.upsert_run(run_of("r1", content="again"), "s1")
    row = await db.get_run("r1", deserialize=False)
    assert (row["user_id"], row["run_data"]["content"]) == ("u", "again")


async def test_an_unowned_session_takes_runs_of_anybody(db: Any) -> None:
    await db.upsert_session(agent_session())
    await db.upsert_run(run_of("r1"), "s1", "u")
    await db.upsert_run(run_of("r2"), "s1", "v")
    assert await run_ids(db) == ["r1", "r2"]


async def test_a_session_that_was_adopted_refuses_others(db: Any) -> None:
    await db.upsert_session(agent_session())
    await db.upsert_run(run_of("r1"), "s1", "v")
    await db.upsert_session(agent_session(user_id="u"))
    with pytest.raises(PermissionError):
        await db.upsert_run(run_of("r2"), "s1", "v")
    assert await run_ids(db) == ["r1"]


# --- Listings ---------------------------------------------------------------------------------------------------------


async def seed(db: Any) -> None:
    await db.upsert_session(agent_session("s1"))
    await db.upsert_session(agent_session("s2"))
    for number in range(8):
        await db.upsert_run(
            run_of(
                f"r{number}",
                agent_id=f"a{number % 2}",
                status="COMPLETED" if number % 4 else "ERROR",
                created_at=1000 - number,
            ),
            "s1" if number < 6 else "s2",
            f"u{number % 3}",
        )
    await db.upsert_run(TeamRunOutput(run_id="team", team_id="t1", status=RunStatus.running, created_at=1), "s2", "u0")
    await db.upsert_run(
        WorkflowRunOutput(run_id="flow", workflow_id="w1", status=RunStatus.running, created_at=2), "s2"
    )


async def test_run_filters_all_apply(db: Any) -> None:
    await seed(db)

    async def listed(**filters: Any) -> list[str]:
        rows, total = await db.get_runs(deserialize=False, **filters)
        assert total == len(rows)
        assert [run.run_id for run in await db.get_runs(**filters)] == [row["run_id"] for row in rows]
        return [row["run_id"] for row in rows]

    assert len(await listed()) == 10
    assert await listed(session_id="s1") == [f"r{n}" for n in range(6)]
    assert sorted(await listed(user_id="u0")) == ["r0", "r3", "r6", "team"]
    assert sorted(await listed(agent_id="a1")) == ["r1", "r3", "r5", "r7"]
    assert await listed(team_id="t1") == ["team"]
    assert await listed(workflow_id="w1") == ["flow"]
    assert sorted(await listed(status=RunStatus.error)) == ["r0", "r4"]
    assert sorted(await listed(status="ERROR")) == ["r0", "r4"]
    assert await listed(session_id="s1", user_id="u0", agent_id="a0") == ["r0"]
    assert await listed(session_id="s2", status=RunStatus.running) == ["team", "flow"]
    assert await listed(user_id="u1", status=RunStatus.error) == ["r4"]
    assert await listed(user_id="$ne") == []


async def test_run_pages_have_no_gaps(db: Any) -> None:
    await seed(db)
    for filters, total in (({"session_id": "s1"}, 6), ({"user_id": "u0"}, 4), ({}, 10)):
        for options in (
            {},
            {"sort_by": "created_at", "sort_order": "desc"},
            {"sort_by": "status", "sort_order": "asc"},
        ):
            seen: list[str] = []
            for page in range(1, 5):
                rows, count = await db.get_runs(limit=3, page=page, deserialize=False, **filters, **options)
                assert count == total
                seen += [row["run_id"] for row in rows]
            assert len(seen) == len(set(seen)) == total
    found = await db.get_runs(session_id="s1", sort_by="created_at", sort_order="asc", limit=2)
    assert [run.run_id for run in found] == ["r5", "r4"]
    assert await db.get_runs(session_id="s1", limit=3, page=9, deserialize=False) == ([], 6)
    with pytest.raises(ValueError):
        await db.get_runs(page=2)


# --- Deletion ---------------------------------------------------------------------------------------------------------


async def test_deleted_runs_are_gone_from_every_read(db: Any) -> None:
    await db.upsert_session(agent_session())
    for number in range(4):
        await db.upsert_run(run_of(f"r{number}"), "s1", "u")
    assert len((await db.get_session("s1")).runs) == 4
    assert await db.delete_run("r1") is True
    assert await db.delete_run("r1") is False
    await db.delete_runs(["r2", "nobody"])
    assert await run_ids(db) == ["r0", "r3"]
    assert await run_ids(db, runs_limit=5) == ["r0", "r3"]
    assert await db.get_run("r1") is None
    assert [run.run_id for run in await db.get_runs(session_id="s1")] == ["r0", "r3"]
    assert sorted(run.run_id for run in await db.get_runs(user_id="u")) == ["r0", "r3"]
    assert (await db.get_runs(deserialize=False))[1] == 2


async def test_a_deleted_run_id_may_be_used_again(db: Any) -> None:
    await db.upsert_session(agent_session())
    await db.upsert_run(run_of("r1", status="COMPLETED"), "s1")
    await db.upsert_run(run_of("r2"), "s1")
    await db.delete_run("r1")
    await db.upsert_run(run_of("r1", status="RUNNING", content="new"), "s1")
    assert await run_ids(db) == ["r2", "r1"]
    assert (await db.get_run("r1")).content == "new"


async def test_a_run_id_of_a_deleted_session_may_be_used_again(db: Any) -> None:
    await db.upsert_session(agent_session("s1", user_id="u"))
    await db.upsert_run(run_of("r1"), "s1", "u")
    await db.delete_session("s1")
    await db.upsert_session(agent_session("s2", user_id="v"))
    await db.upsert_run(run_of("r1", content="new"), "s2", "v")
    row = await db.get_run("r1", deserialize=False)
    assert (row["session_id"], row["user_id"], row["run_data"]["content"]) == ("s2", "v", "new")


# --- Cancellation -----------------------------------------------------------------------------------------------------


async def test_cancelling_a_pending_run(db: Any) -> None:
    await db.upsert_session(agent_session(user_id="u"))
    await db.upsert_run(run_of("r1", status="PENDING", content=None), "s1", "u")
    assert await db.cancel_pending_run("r1", session_id="s1", reason="why", user_id="u") is True
    row = await db.get_run("r1", deserialize=False)
    assert (row["status"], row["run_data"]["status"], row["run_data"]["content"]) == ("CANCELLED", "CANCELLED", "why")
    assert await db.cancel_pending_run("r1", session_id="s1", reason="again", user_id="u") is False
    assert [run.content for run in (await db.get_session("s1")).runs] == ["why"]


async def test_cancelling_keeps_content_and_the_rest(db: Any) -> None:
    await db.upsert_session(agent_session())
    await db.upsert_run(run_of("r1", status="RUNNING", content="half", metadata={"k": 1}), "s1")
    assert await db.cancel_pending_run("r1", session_id="s1", reason="x", expected_status="RUNNING") is True
    row = await db.get_run("r1", deserialize=False)
    assert (row["run_data"]["content"], row["run_data"]["metadata"]) == ("half", {"k": 1})


async def test_cancelling_matches_everything_it_is_told(db: Any) -> None:
    await db.upsert_session(agent_session("s1", user_id="u"))
    await db.upsert_run(run_of("r1", status="PENDING"), "s1", "u")
    for options in (
        {"session_id": "s1", "user_id": "stranger"},
        {"session_id": "s1", "user_id": None},
        {"session_id": "s2", "user_id": "u"},
        {"session_id": "s1", "user_id": "u", "expected_status": "RUNNING"},
    ):
        assert await db.cancel_pending_run("r1", reason="x", **options) is False
    assert await db.cancel_pending_run("nobody", session_id="s1", reason="x") is False
    assert (await db.get_run("r1", deserialize=False))["status"] == "PENDING"
    with pytest.raises(ValueError):
        await db.cancel_pending_run("r1", session_id="s1", reason="x", user_id="u", expected_status="COMPLETED")


async def test_an_unowned_run_may_be_cancelled_by_a_user(db: Any) -> None:
    await db.upsert_session(agent_session())
    await db.upsert_run(run_of("r1", status="PENDING"), "s1")
    assert await db.cancel_pending_run("r1", session_id="s1", reason="x", user_id="anybody") is True


async def test_cancelling_has_one_winner(db: Any) -> None:
    await db.upsert_session(agent_session())
    await db.upsert_run(run_of("r1", status="PENDING"), "s1")
    results = await asyncio.gather(
        *(asyncio.create_task(db.cancel_pending_run("r1", session_id="s1", reason=f"{n}")) for n in range(8))
    )
    assert sorted(results) == [False] * 7 + [True]


# --- Primitives of queued execution -----------------------------------------------------------------------------------


async def test_update_run_in_session_merges_fields(db: Any) -> None:
    await db.upsert_session(agent_session(user_id="u"))
    await db.upsert_run(run_of("r1", status="PENDING", content=None, metadata={"k": 1}), "s1", "u")
    outcome = await db.update_run_in_session(
        "s1", "r1", {"status": "running", "events": [1]}, expected_attempt=2, user_id="u", content_if_absent="filled"
    )
    assert outcome is RunPersistOutcome.UPDATED
    row = await db.get_run("r1", deserialize=False)
    data = row["run_data"]
    assert (row["status"], data["status"], data["events"], data["metadata"]) == ("RUNNING", "RUNNING", [1], {"k": 1})
    assert (data["content"], data["queue_attempt"]) == ("filled", 2)
    assert await db.update_run_in_session("s1", "r1", {"x": 1}, user_id="u", content_if_absent="no") is (
        RunPersistOutcome.UPDATED
    )
    assert (await db.get_run("r1", deserialize=False))["run_data"]["content"] == "filled"


async def test_update_run_in_session_is_fenced(db: Any) -> None:
    await db.upsert_session(agent_session(user_id="u"))
    await db.upsert_run(run_of("r1", status="RUNNING"), "s1", "u")
    update = db.update_run_in_session
    assert await update("s1", "r1", {"a": 1}, expected_attempt=3, user_id="u") is RunPersistOutcome.UPDATED
    assert await update("s1", "r1", {"a": 2}, expected_attempt=2, user_id="u") is RunPersistOutcome.STALE_ATTEMPT
    assert await update("s1", "r1", {"status": "COMPLETED"}, user_id="u") is RunPersistOutcome.UPDATED
    assert await update("s1", "r1", {"status": "ERROR"}, user_id="u") is RunPersistOutcome.TERMINAL_REFUSED
    assert await update("s1", "r1", {"note": 1}, user_id="u") is RunPersistOutcome.UPDATED
    data = (await db.get_run("r1", deserialize=False))["run_data"]
    assert (data["a"], data["status"], data["note"]) == (1, "COMPLETED", 1)


async def test_update_run_in_session_finds_only_the_callers(db: Any) -> None:
    await db.upsert_session(agent_session(user_id="u"))
    await db.upsert_run(run_of("r1", status="RUNNING"), "s1", "u")
    update = db.update_run_in_session
    for session_id, run_id, user in (("s1", "r1", "v"), ("s1", "r1", None), ("s2", "r1", "u"), ("s1", "r2", "u")):
        assert await update(session_id, run_id, {"a": 1}, user_id=user) is RunPersistOutcome.MISSING
    assert "a" not in (await db.get_run("r1", deserialize=False))["run_data"]


async def test_update_run_in_session_may_replace_the_session_data(db: Any) -> None:
    await db.upsert_session(agent_session(user_id="u", session_data={"old": 1}, metadata={"m": 1}))
    await db.upsert_run(run_of("r1", status="RUNNING"), "s1", "u")
    outcome = await db.update_run_in_session("s1", "r1", {"status": "COMPLETED"}, user_id="u", session_data={"new": 2})
    assert outcome is RunPersistOutcome.UPDATED
    found = await db.get_session("s1", SessionType.AGENT)
    assert (found.session_data, found.metadata) == ({"new": 2}, {"m": 1})
    outcome = await db.update_run_in_session("s1", "r1", {"status": "ERROR"}, user_id="u", session_data={"bad": 2})
    assert outcome is RunPersistOutcome.TERMINAL_REFUSED
    assert (await db.get_session("s1")).session_data == {"new": 2}


async def test_append_run_if_absent(db: Any) -> None:
    append = db.append_run_to_session_if_absent
    assert await append("s1", {"run_id": "r1", "agent_id": "a1"}, user_id="u") is None
    await db.upsert_session(agent_session(user_id="u"))
    assert await append("s1", {"run_id": "r1", "agent_id": "a1", "content": "x"}, user_id="u") is True
    assert await append("s1", {"run_id": "r1", "agent_id": "a1", "content": "y"}, user_id="u") is False
    assert await append("s1", {"run_id": "r2", "agent_id": "a1"}, user_id="u") is True
    assert await indexes(db) == {"r1": 0, "r2": 1}
    assert (await db.get_run("r1", deserialize=False))["run_data"]["content"] == "x"


async def test_insert_session_if_absent(db: Any) -> None:
    assert await db.insert_session_if_absent(agent_session(user_id="u", session_data={"a": 1})) is True
    assert await db.insert_session_if_absent(agent_session(user_id="v", session_data={"a": 2})) is False
    found = await db.get_session("s1")
    assert (found.user_id, found.session_data) == ("u", {"a": 1})
    await db.delete_session("s1")
    assert await db.insert_session_if_absent(agent_session(user_id="w")) is True
    assert (await db.get_session("s1")).user_id == "w"

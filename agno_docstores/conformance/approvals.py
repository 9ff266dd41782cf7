"""Approvals: rows, filters, decisions that one makes, and the status of their run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from agno.db.utils import is_unique_violation
from agno.run.base import RunStatus

from agno_docstores.conformance.concurrency import at_once
from agno_docstores.conformance.schedules import HOSTILE, T0, ids

COLUMNS = (
    *("id", "run_id", "session_id", "status", "source_type", "approval_type", "pause_type", "tool_name", "tool_args"),
    *("expires_at", "agent_id", "team_id", "workflow_id", "user_id", "schedule_id", "schedule_run_id", "source_name"),
    *("requirements", "context", "resolution_data", "resolved_by", "resolved_at", "created_at", "updated_at"),
    "run_status",
)


def approval_of(id: str = "a1", **values: Any) -> dict[str, Any]:
    """A row as Agno makes it."""
    return {
        "id": id,
        "run_id": "r1",
        "session_id": "s1",
        "status": "pending",
        "source_type": "agent",
        "approval_type": "required",
        "pause_type": "confirmation",
        "agent_id": "ag1",
        "created_at": T0,
        "updated_at": T0,
        **values,
    }


async def test_an_approval_comes_back_as_it_was_given(db: Any) -> None:
    """Also on storage that is not there yet."""
    assert await db.get_approval("a1") is None
    assert await db.get_approvals() == ([], 0)
    assert (await db.get_pending_approval_count(), await db.delete_approval("a1")) == (0, False)
    assert await db.update_approval("a1", status="approved") is None
    assert await db.update_approval_run_status("r1", RunStatus.completed) == 0
    given = approval_of(tool_args=HOSTILE, requirements=[HOSTILE], context={}, tool_name="", expires_at=T0 + 1)
    assert await db.create_approval(given) == given
    assert await db.get_approval("a1") == {**dict.fromkeys(COLUMNS), **given}
    assert tuple(await db.get_approval("a1")) == COLUMNS
    began = int(time.time())
    made = await db.create_approval(
        {k: v for k, v in approval_of("a2").items() if k not in ("created_at", "updated_at")}
    )
    assert made["created_at"] >= began and made["updated_at"] >= began
    assert (await db.get_approval("a2"))["created_at"] == made["created_at"]
    with pytest.raises(Exception) as caught:
        await db.create_approval(approval_of("a1", run_id="r2", session_id="other"))
    assert is_unique_violation(caught.value)
    assert (await db.get_approval("a1"))["session_id"] == "s1"
    assert await db.delete_approval("a1") is True
    assert await db.delete_approval("a1") is False
    assert ids(await db.get_approvals()) == ["a2"]


async def test_every_filter_is_applied_and_the_latest_comes_first(db: Any) -> None:
    variants: list[dict[str, Any]] = [
        {},
        {"status": "approved"},
        {"source_type": "team", "team_id": "t1", "agent_id": None},
        {"approval_type": "audit"},
        {"approval_type": None, "pause_type": "external_execution"},
        {"workflow_id": "w1", "user_id": "u"},
        {"user_id": "u", "schedule_id": "sc1", "run_id": "r2"},
        {"agent_id": "ag2", "run_id": "r2", "user_id": "v", "status": "approved"},
    ]
    rows = {f"a{n}": approval_of(f"a{n}", created_at=T0 + n, **values) for n, values in enumerate(variants)}
    for row in rows.values():
        await db.create_approval(row)

    filters: list[dict[str, Any]] = [
        {"status": "pending"},
        {"status": "approved", "run_id": "r2"},
        {"status": "approved", "run_id": "r1", "user_id": "v"},
        {"source_type": "team"},
        {"approval_type": "required", "run_id": "r2"},
        {"pause_type": "external_execution"},
        {"agent_id": "ag1", "pause_type": "confirmation"},
        {"team_id": "t1"},
        {"workflow_id": "w1", "user_id": "u"},
        {"user_id": "u"},
        {"user_id": "u", "status": "pending", "schedule_id": "sc1"},
        {"run_id": "r2", "status": "pending", "approval_type": "required", "agent_id": "ag1"},
        {"run_id": "r.*"},
        {"user_id": "nobody", "run_id": "r1"},
        {},
    ]
    for given in filters:
        wanted = [id for id, row in rows.items() if given.items() <= row.items()][::-1]
        found = await db.get_approvals(**given)
        assert (ids(found), found[1]) == (wanted, len(wanted)), given
        first, total = await db.get_approvals(**given, limit=1)
        assert ([row["id"] for row in first], total) == (wanted[:1], len(wanted)), given
    pages = [await db.get_approvals(limit=3, page=page) for page in (1, 2, 3, 4)]
    assert [ids(page) for page in pages] == [["a7", "a6", "a5"], ["a4", "a3", "a2"], ["a1", "a0"], []]
    assert {page[1] for page in pages} == {8}
    assert ids(await db.get_approvals(run_id="r1", limit=2, page=2)) == ["a3", "a2"]
    assert await db.get_pending_approval_count() == 6
    assert await db.get_pending_approval_count(user_id="u") == 2
    assert await db.get_pending_approval_count("v") == 0


async def test_a_decision_is_made_under_the_status_that_was_seen(db: Any) -> None:
    await db.create_approval(approval_of(user_id="u", context={"keep": 1}))
    began = int(time.time())
    decided = {"status": "approved", "resolved_by": "boss", "resolved_at": T0 + 9, "resolution_data": HOSTILE}
    assert await db.update_approval("a1", expected_status="rejected", **decided) is None
    assert await db.update_approval("a1", expected_status="pending", nonsense=1) is None
    assert (await db.get_approval("a1"))["status"] == "pending"
    row = await db.update_approval("a1", expected_status="pending", **decided)
    assert row == await db.get_approval("a1")
    assert row["updated_at"] >= began
    expected = {**dict.fromkeys(COLUMNS), **approval_of(user_id="u", context={"keep": 1}), **decided}
    assert {**row, "updated_at": T0} == expected
    assert await db.update_approval("a1", expected_status="pending", status="rejected") is None
    assert (await db.get_approval("a1"))["resolved_by"] == "boss"
    assert ids(await db.get_approvals(status="approved")) == ["a1"]
    assert await db.get_approvals(status="pending") == ([], 0)
    assert await db.get_pending_approval_count() == 0
    # Without a status to expect it is a plain change, also of the run that it belongs to.
    assert (await db.update_approval("a1", run_id="r2", resolution_data=None))["run_id"] == "r2"
    assert ids(await db.get_approvals(run_id="r2")) == ["a1"]
    assert await db.get_approvals(run_id="r1") == ([], 0)
    assert (await db.get_approval("a1"))["resolution_data"] is None
    assert await db.update_approval("nothing", status="approved") is None


async def test_of_twenty_decisions_at_once_one_is_made(db: Any, another: Callable[[], Any]) -> None:
    handles = [db.raw, another().raw]
    await db.create_approval(approval_of())
    calls: list[Any] = [
        (handles[n % 2].update_approval, ("a1",), {
            "expected_status": "pending", "status": ("approved", "rejected")[n % 3 == 0], "resolved_by": f"b{n}",
        })
        for n in range(20)
    ]  # fmt: skip
    results = await at_once(db, calls)
    (won,) = [result for result in results if result is not None]
    assert won == await db.get_approval("a1")
    assert won["status"] == ("approved", "rejected")[int(won["resolved_by"][1:]) % 3 == 0]


async def test_what_became_of_a_run_is_told_to_its_approvals(db: Any) -> None:
    for number in range(5):
        await db.create_approval(approval_of(f"a{number}", run_id=("r1", "r2")[number == 4], created_at=T0 + number))
    began = int(time.time())
    assert await db.update_approval_run_status("r1", RunStatus.paused) == 4
    assert await db.update_approval_run_status("nothing", RunStatus.paused) == 0
    rows = (await db.get_approvals())[0]
    assert [row["run_status"] for row in rows] == [None, "PAUSED", "PAUSED", "PAUSED", "PAUSED"]
    assert [row["updated_at"] >= began for row in rows] == [False, True, True, True, True]
    assert await db.update_approval_run_status("r1", RunStatus.completed) == 4
    assert {row["run_status"] for row in (await db.get_approvals(run_id="r1"))[0]} == {"COMPLETED"}
    assert {row["status"] for row in rows} == {"pending"}, "it decides nothing"


async def test_what_has_to_be_there_cannot_be_taken_away(db: Any) -> None:
    await db.create_approval(approval_of("a1"))
    row = await db.get_approval("a1")
    for column in ("id", "run_id", "session_id", "status", "source_type", "pause_type", "created_at"):
        assert await db.update_approval("a1", resolved_by="x", **{column: None}) is None
    assert await db.get_approval("a1") == row
    changed = await db.update_approval("a1", expected_status="pending", id="a1", status="approved")
    assert changed == {**row, "status": "approved", "updated_at": changed["updated_at"]}
    assert await db.update_approval("a1", id="other") is None


async def test_what_nothing_can_be_under_is_not_there(db: Any) -> None:
    await db.create_approval(approval_of("a1"))
    assert await db.get_approval("") is None and await db.update_approval("", status="approved") is None
    assert await db.delete_approval("") is False
    assert await db.get_pending_approval_count(user_id="") == 0 and await db.get_pending_approval_count() == 1
    assert await db.update_approval_run_status("", RunStatus.completed) == 0
    assert await db.get_approvals(run_id="") == await db.get_approvals(user_id="") == ([], 0)

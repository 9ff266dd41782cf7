"""Schedules and their runs: rows, names, owners, claims."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

import pytest
from agno.db.schemas.scheduler import Schedule, ScheduleRun
from agno.db.utils import is_unique_violation

from agno_docstores.conformance.concurrency import at_once

T0 = 1_700_000_000  # long ago
HOSTILE: dict[str, Any] = {"a.b": [1, 2.5, None], "$c": {"": "é\x00"}, "__d__": [[]], "big": 2**70, "one": 1.0}


def schedule_of(id: str = "s1", name: str | None = None, **values: Any) -> dict[str, Any]:
    """A row; its name is its id where none is given."""
    return Schedule(
        **{
            "id": id,
            "name": name or id,
            "cron_expr": "* * * * *",
            "endpoint": "/agents/a1/runs",
            "created_at": T0,
            **values,
        }
    ).to_dict()


def execution_of(id: str = "r1", schedule_id: str = "s1", **values: Any) -> dict[str, Any]:
    """A row of a schedule's run."""
    return ScheduleRun(
        **{"id": id, "schedule_id": schedule_id, "status": "running", "created_at": T0, **values}
    ).to_dict()


def ids(found: Any) -> list[str]:
    """The ids of a page, in its order."""
    return [row["id"] for row in found[0]]


async def refused(call: Any) -> bool:
    """Whether a write is refused because a value that must be unique is taken."""
    with pytest.raises(Exception) as caught:
        await call
    return is_unique_violation(caught.value)


async def test_a_schedule_comes_back_as_it_was_given(db: Any) -> None:
    """Also on storage that is not there yet, and one that leaves out what may be null."""
    assert await db.get_schedule("s1") is None
    assert await db.get_schedules() == ([], 0)
    assert await db.update_schedule("s1", description="x") is None
    assert await db.claim_due_schedule("w") is None
    assert (await db.delete_schedule("s1"), await db.release_schedule("s1")) == (False, False)
    assert await db.disable_schedules_for_target("agent", "a1") == 0
    row = schedule_of(payload=HOSTILE, description="", next_run_at=T0 + 5, user_id="u", managed_by="studio")
    assert await db.create_schedule(row) == row
    assert await db.get_schedule("s1") == row
    short = {name: value for name, value in schedule_of("s2").items() if value is not None}
    await db.create_schedule(short)
    assert await db.get_schedule("s2") == schedule_of("s2")
    assert await refused(db.create_schedule(schedule_of("s1", "another")))
    assert (await db.get_schedules())[1] == 2


async def test_a_name_is_an_owners_once_and_nobodys_once(db: Any) -> None:
    for id, user_id in [("s1", "u"), ("s2", "v"), ("s3", None)]:
        await db.create_schedule(schedule_of(id, "daily", user_id=user_id))
        assert await refused(db.create_schedule(schedule_of(id + "x", "daily", user_id=user_id)))
    assert (await db.get_schedule_by_name("daily", "u"))["id"] == "s1"
    assert (await db.get_schedule_by_name("daily", user_id="v"))["id"] == "s2"
    assert (await db.get_schedule_by_name("daily"))["id"] == "s3", "without a user: nobody's, not anybody's"
    assert await db.get_schedule_by_name("daily", "w") is None
    await db.create_schedule(schedule_of("s4", "weekly", user_id="u"))
    assert await db.get_schedule_by_name("weekly") is None
    assert await refused(db.update_schedule("s4", name="daily"))
    assert (await db.get_schedule("s4"))["name"] == "weekly"
    assert (await db.update_schedule("s1", name="renamed"))["name"] == "renamed"
    assert (await db.update_schedule("s4", name="daily"))["name"] == "daily"
    assert (await db.get_schedule_by_name("daily", "u"))["id"] == "s4"
    assert await db.delete_schedule("s4") is True
    await db.create_schedule(schedule_of("s5", "daily", user_id="u"))
    assert (await db.get_schedule_by_name("daily", "u"))["id"] == "s5"


async def test_a_listing_is_of_what_all_filters_hold_for_the_latest_first(db: Any) -> None:
    for number in range(7):
        owner = ("u", "v", None)[number % 3]
        await db.create_schedule(
            schedule_of(f"s{number}", user_id=owner, enabled=number % 2 == 0, created_at=T0 + number // 2)
        )
    assert ids(await db.get_schedules()) == ["s6", "s5", "s4", "s3", "s2", "s1", "s0"], "ties: the higher id first"
    pages = [await db.get_schedules(limit=3, page=page) for page in (1, 2, 3, 4)]
    assert [ids(page) for page in pages] == [["s6", "s5", "s4"], ["s3", "s2", "s1"], ["s0"], []]
    assert {page[1] for page in pages} == {7}
    assert ids(await db.get_schedules(user_id="u", raise_on_error=True)) == ["s6", "s3", "s0"]
    assert ids(await db.get_schedules(enabled=True)) == ["s6", "s4", "s2", "s0"]
    assert await db.get_schedules(enabled=False, user_id="u") == ([await db.get_schedule("s3")], 1)
    found, total = await db.get_schedules(enabled=True, user_id="u", limit=1, page=2)
    assert ([row["id"] for row in found], total) == (["s0"], 2)
    await db.update_schedule("s3", enabled=True)
    assert ids(await db.get_schedules(enabled=True, user_id="u")) == ["s6", "s3", "s0"]


async def test_a_schedule_is_its_owners(db: Any) -> None:
    await db.create_schedule(schedule_of("s1", user_id="u"))
    await db.create_schedule_run(execution_of("r1", user_id="u"))
    for stranger in ("v", "u.*"):
        assert await db.get_schedule("s1", user_id=stranger) is None
        assert await db.update_schedule("s1", user_id=stranger, description="stolen") is None
        assert await db.delete_schedule("s1", user_id=stranger) is False
        assert await db.get_schedule_run("r1", user_id=stranger) is None
        assert await db.get_schedule_runs("s1", user_id=stranger) == ([], 0)
    assert (await db.get_schedule("s1", user_id="u"))["description"] is None
    assert (await db.get_schedule_run("r1", user_id="u"))["id"] == "r1"
    assert (await db.update_schedule("s1", user_id="u", description="mine"))["description"] == "mine"
    assert await db.delete_schedule("s1", user_id="u") is True
    assert await db.get_schedule("s1") is None and await db.get_schedule_run("r1") is None


async def test_an_update_changes_what_it_may_and_nothing_else(db: Any) -> None:
    row = schedule_of(user_id="u", payload={"keep": 1}, next_run_at=T0, updated_at=T0)
    await db.create_schedule(row)
    began = int(time.time())
    changed = await db.update_schedule("s1", enabled=False, disabled_reason="why", payload={"b": [None]})
    assert changed == await db.get_schedule("s1")
    assert changed["updated_at"] >= began
    expected = {**row, "enabled": False, "disabled_reason": "why", "payload": {"b": [None]}}
    assert {**changed, "updated_at": T0} == expected
    assert (await db.update_schedule("s1", enabled=True))["disabled_reason"] is None, "enabling retires the reason"
    assert (await db.update_schedule("s1", description="x"))["enabled"] is True
    for column in ("id", "created_at", "locked_by", "managed_by", "target_id", "nonsense"):
        with pytest.raises(ValueError, match=column):
            await db.update_schedule("s1", **{column: "x"})
    moved = {"endpoint": "/teams/t1/runs", "target_type": "team", "target_id": "t1"}
    assert (await db.update_schedule("s1", **moved))["target_id"] == "t1"
    with pytest.raises(ValueError, match="target_id"):
        await db.update_schedule("s1", **{**moved, "target_id": "other"})

    provenance = {"managed_by": "studio", "target_type": "agent", "target_id": "a1", "created_by_run_id": "r"}
    assert await db.stamp_schedule_provenance("s1", **provenance) is True
    assert provenance.items() <= (await db.get_schedule("s1")).items()
    assert await db.stamp_schedule_provenance("nothing", managed_by="studio") is False
    with pytest.raises(ValueError, match="endpoint"):
        await db.stamp_schedule_provenance("s1", endpoint="/x")


async def test_what_is_aimed_at_a_component_is_disabled_whosever_it_is(db: Any) -> None:
    aimed = {"target_type": "agent", "target_id": "a1"}
    rows = [
        schedule_of("by-target", endpoint="/elsewhere", user_id="u", **aimed),
        schedule_of("by-endpoint", user_id="v"),
        schedule_of("by-endpoint-slash", endpoint="/agents/a1/runs/"),
        schedule_of("both", **aimed),
        schedule_of("off-already", enabled=False, disabled_reason="mine", **aimed),
        schedule_of("other-type", endpoint="/teams/a1/runs", target_type="team", target_id="a1"),
        schedule_of("other-id", endpoint="/agents/a10/runs"),
        schedule_of("two-slashes", endpoint="/agents/a1/runs//"),
        schedule_of("deeper", endpoint="/agents/a1/runs/r1"),
    ]
    for row in rows:
        await db.create_schedule(row)
    assert await db.disable_schedules_for_target("agent", "a1", reason="target_archived") == 4
    found = {row["id"]: (row["enabled"], row["disabled_reason"]) for row in (await db.get_schedules())[0]}
    disabled = {"by-target", "by-endpoint", "by-endpoint-slash", "both"}
    assert found == {
        row["id"]: (False, "target_archived" if row["id"] in disabled else "mine")
        if row["id"] in disabled | {"off-already"}
        else (True, None)
        for row in rows
    }
    assert await db.disable_schedules_for_target("agent", "a1") == 0


async def test_what_nothing_can_be_under_is_not_there(db: Any) -> None:
    await db.create_schedule(schedule_of())
    await db.create_schedule_run(execution_of())
    assert await db.get_schedule("") is None and await db.get_schedule("s1", user_id="") is None
    assert await db.get_schedule_by_name("") is None and await db.get_schedule_by_name("s1", user_id="") is None
    assert await db.get_schedules(user_id="", raise_on_error=True) == ([], 0)
    assert await db.update_schedule("", description="x") is None
    assert await db.update_schedule("s1", user_id="", description="x") is None
    assert not await db.delete_schedule("") and not await db.delete_schedule("s1", user_id="")
    assert not await db.release_schedule("") and not await db.stamp_schedule_provenance("", managed_by="studio")
    assert await db.get_schedule_run("") is None and await db.get_schedule_run("r1", user_id="") is None
    assert await db.update_schedule_run("", error="x") is None
    assert await db.get_schedule_runs("") == await db.get_schedule_runs("s1", user_id="") == ([], 0)
    assert await db.get_latest_schedule_runs(["", "s1"]) == {"s1": await db.get_schedule_run("r1")}
    assert await db.delete_schedule_runs("", before=T0 + 1) == 0
    with pytest.raises(Exception, match=r"(?i)foreign key|schedule_id"):
        await db.create_schedule_run(execution_of("r2", ""))
    assert await db.get_schedule("s1") == schedule_of() and (await db.get_schedule_runs("s1"))[1] == 1


async def test_what_has_to_be_there_cannot_be_taken_away_and_that_is_no_duplicate(db: Any) -> None:
    await db.create_schedule(schedule_of())
    for column in ("name", "method", "cron_expr", "enabled", "timeout_seconds"):
        with pytest.raises(ValueError, match=column) as caught:
            await db.update_schedule("s1", **{column: None})
        assert not is_unique_violation(caught.value)
    assert await db.get_schedule("s1") == schedule_of()


async def test_an_update_of_a_run_that_would_take_away_what_has_to_be_there_does_nothing(db: Any) -> None:
    await db.create_schedule(schedule_of())
    await db.create_schedule_run(execution_of())
    for column in ("id", "schedule_id", "status", "attempt", "created_at"):
        assert await db.update_schedule_run("r1", error="x", **{column: None}) is None
    assert await db.get_schedule_run("r1") == execution_of()


async def test_a_run_stays_with_its_schedule_and_keeps_its_id(db: Any) -> None:
    for id in ("s1", "s2"):
        await db.create_schedule(schedule_of(id))
    await db.create_schedule_run(execution_of())
    assert await db.update_schedule_run("r1", schedule_id="ghost", error="x") is None
    assert await db.get_schedule_run("r1") == execution_of()
    done = await db.update_schedule_run("r1", id="r1", schedule_id="s1", status="success")
    assert done == {**execution_of(), "status": "success"}
    began = time.monotonic()
    assert await db.update_schedule_run("r1", id="other", error="x") is None
    assert time.monotonic() - began < 5, "at once"


async def test_no_run_of_a_schedule_outlives_it(db: Any) -> None:
    """Whosever it is; a schedule that is created later under that id begins with none."""
    await db.create_schedule(schedule_of("s1", user_id="u"))
    for number, user in enumerate(("u", "v", None)):
        await db.create_schedule_run(execution_of(f"r{number}", user_id=user))
    assert not await db.delete_schedule("s1", user_id="w") and (await db.get_schedule_runs("s1"))[1] == 3
    assert await db.delete_schedule("s1", user_id="u")
    assert [await db.get_schedule_run(f"r{number}") for number in range(3)] == [None] * 3
    await db.create_schedule(schedule_of("s1", user_id="v"))
    assert await db.get_schedule_runs("s1") == ([], 0)


# --- Claims -----------------------------------------------------------------------------------------------------------


async def test_what_has_been_due_longest_is_claimed_first_and_once(db: Any) -> None:
    now = int(time.time())
    for row in (
        schedule_of("second", next_run_at=T0 + 1, user_id="u"),
        schedule_of("first", next_run_at=T0),
        schedule_of("off", next_run_at=T0 - 1, enabled=False),
        schedule_of("never", next_run_at=None),
        schedule_of("later", next_run_at=now + 1000),
        schedule_of("just", next_run_at=now - 1),
    ):
        await db.create_schedule(row)
    claimed = await db.claim_due_schedule("w1")
    assert claimed == await db.get_schedule("first"), "the row as claimed"
    assert claimed["locked_by"] == "w1" and claimed["locked_at"] >= now
    assert [(await db.claim_due_schedule("w2"))["id"] for _ in range(2)] == ["second", "just"]
    assert await db.claim_due_schedule("w3") is None

    # A lock is respected for the grace, and taken over after it.
    assert await db.claim_due_schedule("w3", lock_grace_seconds=1000) is None
    assert (await db.claim_due_schedule("w3", lock_grace_seconds=0))["id"] == "first"
    taken = await db.get_schedule("first")
    assert taken["locked_by"] == "w3"

    # Only who holds it releases it.
    assert await db.release_schedule("first", T0 + 9, worker_id="w1") is False
    assert await db.release_schedule("first", T0 + 9, worker_id="w3", locked_at=taken["locked_at"] - 1) is False
    assert (await db.get_schedule("first"))["locked_by"] == "w3"
    assert await db.release_schedule("first", now + 900, worker_id="w3", locked_at=taken["locked_at"]) is True
    released = await db.get_schedule("first")
    assert (released["locked_by"], released["locked_at"], released["next_run_at"]) == (None, None, now + 900)
    assert await db.claim_due_schedule("w4") is None

    # Without a time it is due when it was; without a cron never again, whatever the time.
    assert await db.release_schedule("second") is True
    assert (await db.get_schedule("second"))["next_run_at"] == T0 + 1
    assert (await db.claim_due_schedule("w5"))["id"] == "second"
    await db.update_schedule("second", cron_expr="")
    assert await db.release_schedule("second", next_run_at=T0 + 7, worker_id="w5") is True
    assert (await db.get_schedule("second"))["next_run_at"] is None
    assert await db.claim_due_schedule("w6") is None

    # What is enabled or moved becomes due.
    await db.update_schedule("off", enabled=True)
    assert (await db.claim_due_schedule("w7"))["id"] == "off"
    await db.update_schedule("later", next_run_at=now - 5)
    assert (await db.claim_due_schedule("w8"))["id"] == "later"
    assert inspect.signature(db.raw.release_schedule).parameters.keys() >= {"worker_id", "locked_at"}


async def test_a_lock_that_has_run_out_is_taken_over_in_its_turn(db: Any) -> None:
    now = int(time.time())
    for row in (
        schedule_of("waits", next_run_at=T0 + 5),
        schedule_of("left", next_run_at=T0, locked_by="gone", locked_at=now - 400),
        schedule_of("left later", next_run_at=T0 + 9, locked_by="gone", locked_at=now - 500),
        schedule_of("at work", next_run_at=T0 - 1, locked_by="busy", locked_at=now - 200),
        schedule_of("put off", next_run_at=now + 900, locked_by="gone", locked_at=now - 600),
        schedule_of("for ever", next_run_at=T0 - 2, locked_by="odd", locked_at=None),
        schedule_of("off", next_run_at=T0 - 3, locked_by="gone", locked_at=now - 700, enabled=False),
        schedule_of("marked", next_run_at=T0 + 7, locked_by=None, locked_at=now),
        schedule_of("put off and left", next_run_at=now - 20, locked_by="gone", locked_at=now - 310),
    ):
        await db.create_schedule(row)
    claimed = [await db.claim_due_schedule("w") for _ in range(5)]
    assert [(row["id"], row["locked_by"]) for row in claimed] == [
        ("left", "w"),
        ("waits", "w"),
        ("marked", "w"),
        ("left later", "w"),
        ("put off and left", "w"),
    ]
    assert await db.claim_due_schedule("w") is None
    assert await db.claim_due_schedule("w", lock_grace_seconds=500) is None
    assert (await db.claim_due_schedule("w", lock_grace_seconds=100))["id"] == "at work"


async def test_of_twenty_workers_each_due_schedule_has_one(db: Any, another: Callable[[], Any]) -> None:
    handles = [db.raw, another().raw]
    for number in range(3):
        await db.create_schedule(schedule_of(f"s{number}", next_run_at=T0 + number))
    calls: list[Any] = [(handles[n % 2].claim_due_schedule, (f"w{n}",), {}) for n in range(20)]
    results = await at_once(db, calls)
    assert [result for result in results if isinstance(result, Exception)] == []
    won = {result["id"]: result["locked_by"] for result in results if result is not None}
    assert len(won) == len([result for result in results if result is not None]), "nothing was claimed twice"
    # Whoever loses every race may be told that there is nothing; the next who asks gets what is left.
    while (left := await db.claim_due_schedule("late")) is not None:
        assert left["id"] not in won
        won[left["id"]] = "late"
    assert won == {f"s{n}": (await db.get_schedule(f"s{n}"))["locked_by"] for n in range(3)}
    locked_at = (await db.get_schedule("s0"))["locked_at"]
    calls = [
        (handles[n % 2].release_schedule, ("s0", T0 + 50), {"worker_id": won["s0"], "locked_at": locked_at})
        for n in range(10)
    ]
    assert sorted(await at_once(db, calls)) == [False] * 9 + [True]


async def test_a_name_that_many_want_at_once_is_ones(db: Any, another: Callable[[], Any]) -> None:
    handles = [db.raw, another().raw]
    await db.create_schedule(schedule_of("before", "other"))
    calls: list[Any] = [
        (handles[n % 2].create_schedule, (schedule_of(f"s{n}", "wanted", user_id="u"),), {}) for n in range(20)
    ]
    results = await at_once(db, calls)
    errors = [result for result in results if isinstance(result, Exception)]
    assert len(errors) == 19 and all(map(is_unique_violation, errors))
    (winner,) = [result["id"] for result in results if isinstance(result, dict)]
    assert (await db.get_schedule_by_name("wanted", "u"))["id"] == winner
    assert (await db.get_schedules())[1] == 2


# --- Runs -------------------------------------------------------------------------------------------------------------


async def test_runs_of_a_schedule(db: Any) -> None:
    assert await db.get_schedule_run("r1") is None
    assert await db.get_schedule_runs("s1") == ([], 0)
    assert await db.get_latest_schedule_runs(["s1"]) == {}
    assert await db.get_latest_schedule_runs([]) == {}
    assert await db.delete_schedule_runs("s1", before=T0) == 0
    for id in ("s1", "s2", "s3"):
        await db.create_schedule(schedule_of(id))
    row = execution_of("r0", input=HOSTILE, output={"o": [HOSTILE]}, requirements=[{"a.b": 1}], user_id="u", attempt=2)
    assert await db.create_schedule_run(row) == row
    assert await db.get_schedule_run("r0") == row
    assert await refused(db.create_schedule_run(execution_of("r0", "s2")))
    assert (await db.get_schedule_run("r0"))["schedule_id"] == "s1"
    done = await db.update_schedule_run("r0", status="success", completed_at=T0 + 60, output=None, error="")
    assert done == {**row, "status": "success", "completed_at": T0 + 60, "output": None, "error": ""}
    assert await db.get_schedule_run("r0") == done
    assert await db.update_schedule_run("nothing", status="x") is None
    assert await db.update_schedule_run("r0", nonsense=1) is None

    for number in range(1, 6):
        completed = None if number == 5 else T0 + 60 + number
        values: dict[str, Any] = {"created_at": T0 + number, "triggered_at": T0 + number % 4, "completed_at": completed}
        await db.create_schedule_run(execution_of(f"r{number}", user_id=("u", None)[number % 2], **values))
    await db.create_schedule_run(execution_of("q1", "s2"))
    await db.create_schedule_run(execution_of("q2", "s2", triggered_at=1, created_at=T0 + 1))
    pages = [await db.get_schedule_runs("s1", limit=4, page=page) for page in (1, 2, 3)]
    assert [ids(page) for page in pages] == [["r5", "r4", "r3", "r2"], ["r1", "r0"], []]
    assert {page[1] for page in pages} == {6}
    assert ids(await db.get_schedule_runs("s1", user_id="u")) == ["r4", "r2", "r0"]
    latest = await db.get_latest_schedule_runs(["s2", "s1", "s3", "nothing"])
    assert {id: run["id"] for id, run in latest.items()} == {"s1": "r3", "s2": "q2"}
    assert latest["s1"] == await db.get_schedule_run("r3")
    assert await db.delete_schedule_runs("s1", before=T0 + 62) == 2, "completed before, not at, that time"
    assert ids(await db.get_schedule_runs("s1")) == ["r5", "r4", "r3", "r2"]
    assert await db.delete_schedule_runs("s1", before=T0 + 1000) == 3, "what has not ended stays"
    assert ids(await db.get_schedule_runs("s1")) == ["r5"]

    assert await db.delete_schedule("s1") is True
    assert await db.get_schedule_run("r5") is None
    assert ids(await db.get_schedule_runs("s2")) == ["q2", "q1"]
    assert await db.delete_schedule("s1") is False


async def test_the_latest_run_is_told_by_creation_then_id_where_several_were_triggered_at_once(db: Any) -> None:
    for id in ("s1", "s2"):
        await db.create_schedule(schedule_of(id))
    for id, created in [("b", 2), ("a", 2), ("c", 1)]:
        await db.create_schedule_run(execution_of(id, "s1", triggered_at=T0, created_at=created))
        await db.create_schedule_run(execution_of(id * 2, "s2", created_at=created))
    latest = await db.get_latest_schedule_runs(["s1", "s2"])
    assert {id: run["id"] for id, run in latest.items()} == {"s1": "b", "s2": "bb"}


async def test_a_run_needs_its_schedule(db: Any) -> None:
    await db.create_schedule(schedule_of())
    with pytest.raises(Exception, match=r"(?i)foreign key|s0"):
        await db.create_schedule_run(execution_of("r1", "s0"))
    assert await db.get_schedule_run("r1") is None
    assert await db.get_schedule_runs("s0") == ([], 0)


def test_agno_can_tell_how_to_call_it(docstore: Any) -> None:
    """By whether it is a coroutine function, method by method."""
    from agno.db.base import AsyncBaseDb

    for name in ("get_schedule", "claim_due_schedule", "release_schedule", "update_schedule", "create_schedule_run"):
        assert asyncio.iscoroutinefunction(getattr(docstore, name)) is isinstance(docstore, AsyncBaseDb)

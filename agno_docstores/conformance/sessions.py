"""Sessions, as `BaseDb` has them: reads, writes, ownership, listings, removal."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from agno.db.base import SessionType
from agno.run.agent import RunOutput
from agno.run.team import TeamRunOutput
from agno.run.workflow import WorkflowRunOutput
from agno.session import AgentSession, TeamSession, WorkflowSession
from agno.session.summary import SessionSummary


def agent_session(session_id: str = "s1", **values: Any) -> AgentSession:
    return AgentSession(session_id=session_id, **{"agent_id": "a1", **values})


def run_of(run_id: str, **values: Any) -> RunOutput:
    return RunOutput(run_id=run_id, **{"agent_id": "a1", "content": f"content of {run_id}", **values})


def named(session_id: str, name: str, **values: Any) -> AgentSession:
    return agent_session(session_id, session_data={"session_name": name}, **values)


# --- One session ------------------------------------------------------------------------------------------------------


async def test_reads_on_empty_storage_are_empty(db: Any) -> None:
    assert await db.get_session("nobody") is None
    assert await db.get_session("nobody", deserialize=False) is None
    assert await db.get_sessions() == []
    assert await db.get_sessions(deserialize=False) == ([], 0)
    assert await db.rename_session("nobody", SessionType.AGENT, "name") is None
    assert await db.delete_session("nobody") is False
    assert await db.delete_sessions(["nobody"]) is None


async def test_an_agent_session_comes_back_whole(db: Any) -> None:
    session = agent_session(
        user_id="u1",
        session_data={"session_state": {"a.b": [1, 2.5, None]}, "session_name": "First"},
        agent_data={"agent_id": "a1", "model": {"id": "m"}},
        metadata={"k": "v"},
        summary=SessionSummary(summary="so far", topics=["t"]),
        created_at=1_700_000_000,
    )
    await db.upsert_session(session)
    found = await db.get_session("s1", SessionType.AGENT)
    assert isinstance(found, AgentSession)
    assert (found.session_id, found.agent_id, found.user_id) == ("s1", "a1", "u1")
    assert found.session_data == session.session_data
    assert found.agent_data == session.agent_data
    assert found.metadata == {"k": "v"}
    assert found.summary is not None and (found.summary.summary, found.summary.topics) == ("so far", ["t"])
    assert found.created_at == 1_700_000_000
    assert not found.runs


@pytest.mark.parametrize(
    ("session", "type_"),
    [
        (TeamSession(session_id="s1", team_id="t1", team_data={"team_id": "t1"}), SessionType.TEAM),
        (WorkflowSession(session_id="s1", workflow_id="w1", workflow_data={"x": 1}), SessionType.WORKFLOW),
    ],
)
async def test_team_and_workflow_sessions_come_back(db: Any, session: Any, type_: SessionType) -> None:
    await db.upsert_session(session)
    found = await db.get_session("s1")
    assert type(found) is type(session)
    row = await db.get_session("s1", deserialize=False)
    assert row["session_type"] == type_.value
    assert row[f"{type_.value}_id"] == {"team": "t1", "workflow": "w1"}[type_.value]
    assert row[f"{type_.value}_data"] == getattr(session, f"{type_.value}_data")


async def test_a_row_has_every_column_and_the_runs(db: Any) -> None:
    await db.upsert_session(agent_session(user_id="u"))
    await db.upsert_run(run_of("r1"), "s1", "u")
    row = await db.get_session("s1", deserialize=False)
    assert type(row) is dict
    expected = {
        "session_id", "session_type", "agent_id", "team_id", "workflow_id", "user_id", "session_data", "agent_data",
        "team_data", "workflow_data", "metadata", "summary", "created_at", "updated_at", "runs",
    }  # fmt: skip
    assert set(row) - {"version"} == expected, "a store may number the versions besides"
    assert [run["run_id"] for run in row["runs"]] == ["r1"]


async def test_without_created_at_a_session_is_created_now(db: Any) -> None:
    before = int(time.time())
    stored = await db.upsert_session(agent_session())
    assert before <= stored.created_at <= time.time() + 1
    assert stored.updated_at == stored.created_at


async def test_on_insert_updated_at_is_created_at(db: Any) -> None:
    stored = await db.upsert_session(agent_session(created_at=1000, updated_at=2000))
    assert (stored.created_at, stored.updated_at) == (1000, 1000)


async def test_an_update_keeps_created_at_and_moves_updated_at(db: Any) -> None:
    await db.upsert_session(agent_session(created_at=1000))
    before = int(time.time())
    stored = await db.upsert_session(agent_session(created_at=5000))
    assert stored.created_at == 1000
    assert stored.updated_at >= before
    found = await db.get_session("s1")
    assert (found.created_at, found.updated_at) == (1000, stored.updated_at)


async def test_an_update_with_none_clears(db: Any) -> None:
    await db.upsert_session(
        agent_session(
            metadata={"a": 1}, session_data={"b": 2}, agent_data={"c": 3}, summary=SessionSummary(summary="x")
        )
    )
    await db.upsert_session(agent_session())
    row = await db.get_session("s1", deserialize=False)
    assert (row["metadata"], row["session_data"], row["agent_data"], row["summary"]) == (None, None, None, None)


async def test_an_update_replaces_json_whole(db: Any) -> None:
    await db.upsert_session(agent_session(session_data={"session_state": {"gone": 1, "kept": {"deep": 1}}}))
    await db.upsert_session(agent_session(session_data={"session_state": {"kept": {"new": 2}}}))
    found = await db.get_session("s1")
    assert found.session_data == {"session_state": {"kept": {"new": 2}}}


async def test_another_type_of_session_keeps_the_first_ones_columns(db: Any) -> None:
    await db.upsert_session(agent_session(agent_data={"a": 1}))
    await db.upsert_session(TeamSession(session_id="s1", team_id="t1", team_data={"t": 1}))
    row = await db.get_session("s1", deserialize=False)
    assert row["session_type"] == "agent"
    assert (row["agent_id"], row["team_id"]) == ("a1", "t1")
    assert (row["agent_data"], row["team_data"]) == ({"a": 1}, {"t": 1})


async def test_session_type_does_not_filter_but_chooses_the_class(db: Any) -> None:
    await db.upsert_session(agent_session())
    assert isinstance(await db.get_session("s1", SessionType.TEAM), TeamSession)
    assert isinstance(await db.get_session("s1", SessionType.AGENT), AgentSession)


async def test_upsert_does_not_write_runs_and_returns_those_passed(db: Any) -> None:
    session = agent_session(runs=[run_of("r1")])
    stored = await db.upsert_session(session)
    assert [run.run_id for run in stored.runs] == ["r1"]
    row = await db.upsert_session(session, deserialize=False)
    assert [run["run_id"] for run in row["runs"]] == ["r1"]
    found = await db.get_session("s1")
    assert not found.runs


async def test_returned_objects_are_the_callers_own(db: Any) -> None:
    await db.upsert_session(agent_session(session_data={"state": {"x": 1}}))
    await db.upsert_run(run_of("r1", metadata={"k": [1]}), "s1")
    first = await db.get_session("s1", deserialize=False)
    first["session_data"]["state"]["x"] = 2
    first["runs"][0]["metadata"]["k"].append(2)
    first["runs"].clear()
    second = await db.get_session("s1", deserialize=False)
    assert second["session_data"] == {"state": {"x": 1}}
    assert second["runs"][0]["metadata"] == {"k": [1]}


async def test_what_was_passed_in_is_not_kept_by_reference(db: Any) -> None:
    state = {"x": 1}
    await db.upsert_session(agent_session(session_data={"state": state}))
    state["x"] = 2
    found = await db.get_session("s1")
    assert found.session_data == {"state": {"x": 1}}


# --- Ownership --------------------------------------------------------------------------------------------------------


async def test_a_stranger_reads_nothing(db: Any) -> None:
    await db.upsert_session(agent_session(user_id="owner"))
    assert await db.get_session("s1", user_id="stranger") is None
    assert await db.get_session("s1", user_id="stranger", deserialize=False) is None
    assert await db.get_sessions(user_id="stranger") == []
    found = await db.get_session("s1", user_id="owner")
    assert found is not None


async def test_a_scoped_read_does_not_see_unowned_sessions(db: Any) -> None:
    await db.upsert_session(agent_session())
    assert await db.get_session("s1", user_id="u") is None
    assert await db.get_session("s1") is not None


@pytest.mark.parametrize("intruder", ["stranger", None])
async def test_an_upsert_on_anothers_session_is_refused(db: Any, intruder: str | None) -> None:
    await db.upsert_session(agent_session(user_id="owner", session_data={"mine": 1}))
    assert await db.upsert_session(agent_session(user_id=intruder, session_data={"stolen": 1})) is None
    assert await db.upsert_session(agent_session(user_id=intruder), deserialize=False) is None
    found = await db.get_session("s1")
    assert (found.user_id, found.session_data) == ("owner", {"mine": 1})


async def test_an_unowned_session_is_adopted(db: Any) -> None:
    await db.upsert_session(agent_session())
    stored = await db.upsert_session(agent_session(user_id="u"))
    assert stored.user_id == "u"
    assert await db.get_session("s1", user_id="u") is not None
    assert await db.upsert_session(agent_session(user_id="v")) is None


async def test_owners_are_compared_as_text(db: Any) -> None:
    await db.upsert_session(agent_session(user_id=5))
    found = await db.get_session("s1", user_id="5")
    assert found is not None and found.user_id == "5"


async def test_of_two_first_writers_one_owns(db: Any) -> None:
    results = await asyncio.gather(
        *(asyncio.create_task(db.upsert_session(agent_session(user_id=f"u{n}"))) for n in range(8))
    )
    won = [result.user_id for result in results if result is not None]
    found = await db.get_session("s1")
    assert len(won) == 1 and found.user_id == won[0]


async def test_a_stranger_renames_and_deletes_nothing(db: Any) -> None:
    await db.upsert_session(named("s1", "mine", user_id="owner"))
    await db.upsert_run(run_of("r1"), "s1", "owner")
    assert await db.rename_session("s1", SessionType.AGENT, "stolen", user_id="stranger") is None
    assert await db.delete_session("s1", user_id="stranger") is False
    await db.delete_sessions(["s1"], user_id="stranger")
    found = await db.get_session("s1")
    assert found.session_data == {"session_name": "mine"}
    assert [run.run_id for run in found.runs] == ["r1"]


# --- Bulk -------------------------------------------------------------------------------------------------------------


async def test_upsert_sessions_stores_all_in_groups(db: Any) -> None:
    sessions: list[Any] = [
        WorkflowSession(session_id="w", workflow_id="w1"),
        agent_session("a", created_at=1),
        TeamSession(session_id="t", team_id="t1"),
        agent_session("b", created_at=2),
    ]
    for session in sessions:
        session.created_at = session.created_at or 5
    stored = await db.upsert_sessions(sessions)
    assert [s.session_id for s in stored] == ["a", "b", "t", "w"]
    rows = await db.upsert_sessions(sessions, deserialize=False)
    assert [row["session_id"] for row in rows] == ["a", "b", "t", "w"]
    assert {s.session_id for s in await db.get_sessions()} == {"a", "b", "t", "w"}
    assert await db.upsert_sessions([]) == []


async def test_upsert_sessions_checks_the_owner_of_each(db: Any) -> None:
    await db.upsert_session(agent_session("mine", user_id="owner", session_data={"x": 1}))
    stored = await db.upsert_sessions(
        [
            agent_session("mine", user_id="stranger", session_data={"x": 2}, created_at=1),
            agent_session("free", user_id="stranger", created_at=1),
        ]
    )
    assert [s.session_id for s in stored] == ["free"]
    found = await db.get_session("mine")
    assert (found.user_id, found.session_data) == ("owner", {"x": 1})


async def test_upsert_sessions_can_preserve_updated_at(db: Any) -> None:
    await db.upsert_sessions([agent_session("s1", created_at=1, updated_at=77)], preserve_updated_at=True)
    assert (await db.get_session("s1")).updated_at == 77
    before = int(time.time())
    await db.upsert_sessions([agent_session("s1", created_at=1, updated_at=77)])
    assert (await db.get_session("s1")).updated_at >= before


# --- Listings ---------------------------------------------------------------------------------------------------------


async def seed(db: Any) -> None:
    for number in range(12):
        await db.upsert_session(
            agent_session(
                f"s{number:02}",
                user_id=f"u{number % 2}",
                agent_id=f"a{number % 3}",
                created_at=1000 + (number * 5) % 12,
                session_data={"session_name": f"Name {number}"},
            )
        )
    await db.upsert_session(TeamSession(session_id="team", team_id="a0", user_id="u0", created_at=500))
    await db.upsert_session(WorkflowSession(session_id="flow", workflow_id="w0", created_at=5000))


async def test_filters_all_apply(db: Any) -> None:
    await seed(db)

    async def listed(**filters: Any) -> set[str]:
        rows, total = await db.get_sessions(deserialize=False, **filters)
        assert total == len(rows)
        sessions = await db.get_sessions(**filters)
        assert {s.session_id for s in sessions} == {row["session_id"] for row in rows}
        return {row["session_id"] for row in rows}

    assert len(await listed()) == 14
    assert await listed(session_type=SessionType.TEAM) == {"team"}
    assert await listed(user_id="u1") == {f"s{n:02}" for n in range(1, 12, 2)}
    assert await listed(session_type=SessionType.AGENT, component_id="a0") == {"s00", "s03", "s06", "s09"}
    assert await listed(component_id="a0") == {"s00", "s03", "s06", "s09", "team"}
    assert await listed(component_id="a0", user_id="u0") == {"s00", "s06", "team"}
    assert await listed(component_id="a0", user_id="u1", session_type=SessionType.TEAM) == set()
    assert await listed(start_timestamp=1000, end_timestamp=1001) == {"s00", "s05"}
    assert await listed(start_timestamp=1012) == {"flow"}
    assert await listed(end_timestamp=500, user_id="u0") == {"team"}
    assert await listed(session_name="name 1") == {"s01", "s10", "s11"}
    assert await listed(session_name="NAME 1", user_id="u1") == {"s01", "s11"}


async def test_session_type_may_be_text(db: Any) -> None:
    await seed(db)
    assert [s.session_id for s in await db.get_sessions(session_type="team")] == ["team"]


@pytest.mark.parametrize("text", ["%", "_", "100%", ".*", "[", "\\", "a%b"])
async def test_the_search_by_name_takes_text_as_text(db: Any, text: str) -> None:
    await db.upsert_session(named("plain", "abc 100 axb"))
    await db.upsert_session(named("exact", f"x {text} y"))
    found = await db.get_sessions(session_name=text)
    assert [s.session_id for s in found] == ["exact"]


async def test_the_search_by_name_sees_names_only(db: Any) -> None:
    await db.upsert_session(
        agent_session("state", session_data={"session_state": {"k": "needle"}, "session_name": "x"})
    )
    await db.upsert_session(agent_session("null"))
    await db.upsert_session(named("name", "has NEEDLE in it"))
    assert [s.session_id for s in await db.get_sessions(session_name="needle")] == ["name"]


@pytest.mark.parametrize("sort_order", ["asc", "desc"])
async def test_pages_by_created_at_have_no_gaps(db: Any, sort_order: str) -> None:
    for number in range(10):
        await db.upsert_session(agent_session(f"s{number}", user_id="u", created_at=1000 + number // 4))
    for filters in ({}, {"user_id": "u"}, {"component_id": "a1"}, {"session_type": SessionType.AGENT}):
        seen: list[str] = []
        times: list[int] = []
        for page in range(1, 6):
            rows, total = await db.get_sessions(
                limit=3, page=page, sort_by="created_at", sort_order=sort_order, deserialize=False, **filters
            )
            assert total == 10
            seen += [row["session_id"] for row in rows]
            times += [row["created_at"] for row in rows]
        assert sorted(seen) == [f"s{n}" for n in range(10)]
        assert times == sorted(times, reverse=sort_order == "desc")


async def test_pages_by_updated_at_are_in_order(db: Any) -> None:
    times = {"a": 30, "b": 10, "c": None, "d": 40}
    created = {"a": 1, "b": 2, "c": 20, "d": 4}
    await db.upsert_sessions(
        [agent_session(s, user_id="u", created_at=created[s], updated_at=times[s]) for s in times],
        preserve_updated_at=True,
    )
    for filters in ({}, {"user_id": "u"}, {"component_id": "a1"}):
        found = await db.get_sessions(sort_by="updated_at", sort_order="asc", limit=10, **filters)
        assert [s.session_id for s in found] == ["b", "c", "a", "d"]
        found = await db.get_sessions(sort_by="updated_at", sort_order="desc", limit=2, page=1, **filters)
        assert [s.session_id for s in found] == ["d", "a"]


async def test_other_columns_sort_too(db: Any) -> None:
    for number, user in enumerate(["b", "c", "a"]):
        await db.upsert_session(agent_session(f"s{number}", user_id=user))
    found = await db.get_sessions(sort_by="user_id", sort_order="asc", limit=2, page=1)
    assert [s.user_id for s in found] == ["a", "b"]
    found = await db.get_sessions(sort_by="session_id", sort_order="desc")
    assert [s.session_id for s in found] == ["s2", "s1", "s0"]


async def test_an_unknown_sort_column_is_ignored(db: Any) -> None:
    await seed(db)
    assert len(await db.get_sessions(sort_by="nonsense", sort_order="asc")) == 14


async def test_totals_hold_past_the_end(db: Any) -> None:
    await seed(db)
    assert await db.get_sessions(limit=5, page=9, deserialize=False, sort_by="created_at") == ([], 14)
    rows, total = await db.get_sessions(limit=5, deserialize=False)
    assert (len(rows), total) == (5, 14)
    rows, total = await db.get_sessions(session_name="Name 1", limit=2, page=2, deserialize=False, sort_by="created_at")
    assert (len(rows), total) == (1, 3)


@pytest.mark.parametrize("arguments", [{"page": 2}, {"limit": 5, "page": 0}])
async def test_pages_are_checked(db: Any, arguments: Any) -> None:
    with pytest.raises(ValueError):
        await db.get_sessions(**arguments)


async def test_listings_attach_runs_unless_told_not_to(db: Any) -> None:
    await db.upsert_session(agent_session("s1"))
    await db.upsert_session(agent_session("s2"))
    await db.upsert_run(run_of("r1"), "s1")
    found = {s.session_id: s for s in await db.get_sessions()}
    assert [run.run_id for run in found["s1"].runs] == ["r1"] and not found["s2"].runs
    for session in await db.get_sessions(include_runs=False):
        assert not session.runs
    rows, _ = await db.get_sessions(include_runs=False, deserialize=False)
    assert [row["runs"] for row in rows] == [None, None]


# --- Rename, delete, transfer -----------------------------------------------------------------------------------------


async def test_rename_sets_the_name_and_nothing_else(db: Any) -> None:
    await db.upsert_session(agent_session(session_data={"session_state": {"x": 1}}, metadata={"m": 1}, user_id="u"))
    await db.upsert_run(run_of("r1"), "s1", "u")
    renamed = await db.rename_session("s1", SessionType.AGENT, "New", user_id="u")
    assert isinstance(renamed, AgentSession)
    assert renamed.session_data == {"session_state": {"x": 1}, "session_name": "New"}
    found = await db.get_session("s1")
    assert (found.session_data, found.metadata, found.user_id) == (renamed.session_data, {"m": 1}, "u")
    assert [run.run_id for run in found.runs] == ["r1"]
    row = await db.rename_session("s1", SessionType.AGENT, "Newer", deserialize=False)
    assert row["session_data"]["session_name"] == "Newer"
    assert [s.session_id for s in await db.get_sessions(session_name="newer")] == ["s1"]


async def test_rename_creates_session_data(db: Any) -> None:
    await db.upsert_session(agent_session())
    renamed = await db.rename_session("s1", None, "Name")
    assert renamed.session_data == {"session_name": "Name"}


async def test_delete_takes_the_runs_along(db: Any) -> None:
    await db.upsert_session(agent_session("s1"))
    await db.upsert_session(agent_session("s2"))
    for number in range(5):
        await db.upsert_run(run_of(f"r{number}"), "s1")
    await db.upsert_run(run_of("other"), "s2")
    assert await db.delete_session("s1") is True
    assert await db.delete_session("s1") is False
    assert await db.get_session("s1") is None
    assert await db.get_run("r3") is None
    assert await db.get_runs(session_id="s1") == []
    assert await db.get_run("other") is not None


async def test_a_session_id_used_again_starts_empty(db: Any) -> None:
    await db.upsert_session(agent_session(user_id="u1"))
    await db.upsert_run(run_of("r1"), "s1", "u1")
    await db.get_session("s1")
    await db.delete_session("s1")
    await db.upsert_session(agent_session(user_id="u2"))
    found = await db.get_session("s1")
    assert found.user_id == "u2" and not found.runs
    await db.upsert_run(run_of("r2"), "s1", "u2")
    assert [run.run_id for run in (await db.get_session("s1")).runs] == ["r2"]


async def test_delete_sessions_takes_only_the_owners(db: Any) -> None:
    for session_id, user in (("a", "u"), ("b", "v"), ("c", None), ("d", "u")):
        await db.upsert_session(agent_session(session_id, user_id=user))
        await db.upsert_run(run_of(f"r-{session_id}"), session_id, user)
    assert await db.delete_sessions(["a", "b", "c"], user_id="u") is None
    assert {s.session_id for s in await db.get_sessions()} == {"b", "c", "d"}
    assert await db.get_run("r-a") is None and await db.get_run("r-b") is not None
    await db.delete_sessions(["b", "c", "d", "nobody"])
    assert await db.get_sessions() == []


async def test_reassign_moves_an_idle_session_of_the_named_owner(db: Any) -> None:
    await db.upsert_session(agent_session(user_id="u1"))
    await db.upsert_run(run_of("r1", status="COMPLETED"), "s1", "u1")
    assert await db.reassign_session_owner("s1", previous_user_id="wrong", user_id="u2") is False
    assert await db.reassign_session_owner("nobody", previous_user_id="u1", user_id="u2") is False
    assert await db.reassign_session_owner("s1", previous_user_id="u1", user_id="u2") is True
    assert await db.get_session("s1", user_id="u1") is None
    found = await db.get_session("s1", user_id="u2")
    assert [run.run_id for run in found.runs] == ["r1"]
    assert await db.upsert_session(agent_session(user_id="u1")) is None
    await db.upsert_run(run_of("r2", status="COMPLETED"), "s1", "u2")
    assert await db.reassign_session_owner("s1", previous_user_id="u2", user_id=None) is True
    assert (await db.get_session("s1")).user_id is None


@pytest.mark.parametrize("status", ["PENDING", "RUNNING", "PAUSED"])
async def test_reassign_leaves_a_busy_session(db: Any, status: str) -> None:
    await db.upsert_session(agent_session(user_id="u1"))
    await db.upsert_run(run_of("r1", status=status), "s1", "u1")
    assert await db.reassign_session_owner("s1", previous_user_id="u1", user_id="u2") is False
    assert (await db.get_session("s1")).user_id == "u1"


# --- Runs limit -------------------------------------------------------------------------------------------------------


async def test_runs_limit_counts_context_runs_oldest_first(db: Any) -> None:
    await db.upsert_session(agent_session())
    plan = [
        ("r0", "COMPLETED", None), ("r1", "PAUSED", None), ("r2", "COMPLETED", None), ("r3", "COMPLETED", "r2"),
        ("r4", "ERROR", None), ("r5", "RUNNING", None), ("r6", "CANCELLED", None), ("r7", "COMPLETED", None),
        ("r8", "REGENERATED", None),
    ]  # fmt: skip
    for run_id, status, parent in plan:
        await db.upsert_run(run_of(run_id, status=status, parent_run_id=parent), "s1")
    for limit, expected in ((1, ["r7"]), (2, ["r5", "r7"]), (3, ["r2", "r5", "r7"]), (50, ["r0", "r2", "r5", "r7"])):
        found = await db.get_session("s1", runs_limit=limit)
        assert [run.run_id for run in found.runs] == expected
        row = await db.get_session("s1", runs_limit=limit, deserialize=False)
        assert [run["run_id"] for run in row["runs"]] == expected


async def test_without_runs_limit_every_run_comes_in_order(db: Any) -> None:
    await db.upsert_session(TeamSession(session_id="s1", team_id="t1"))
    await db.upsert_run(TeamRunOutput(run_id="team", team_id="t1", content="x"), "s1")
    await db.upsert_run(run_of("member", parent_run_id="team", status="PAUSED"), "s1")
    found = await db.get_session("s1", SessionType.TEAM)
    assert [(type(run), run.run_id) for run in found.runs] == [(TeamRunOutput, "team"), (RunOutput, "member")]


async def test_workflow_runs_come_back_as_such(db: Any) -> None:
    await db.upsert_session(WorkflowSession(session_id="s1", workflow_id="w1"))
    await db.upsert_run(WorkflowRunOutput(run_id="w", workflow_id="w1", content="x"), "s1")
    found = await db.get_session("s1", SessionType.WORKFLOW)
    assert [(type(run), run.run_id) for run in found.runs] == [(WorkflowRunOutput, "w")]

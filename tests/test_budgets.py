"""What operations cost, as counts: requests, bytes over the wire, records read. The README's cost table is these.

Requests are the gateway's calls, bytes are counted by a proxy, and the two histories of a test are compared in one run.
"""

from __future__ import annotations

import time
from typing import Any

import pytest
from agno.run.agent import RunOutput
from agno.session import AgentSession

from agno_docstores.codec import Json
from agno_docstores.port import Expect, Put, Ref
from agno_docstores.schema import RUNS, SESSIONS
from tests.harness import Cell
from tests.meters import KB, ON_THE_WIRE, Cost, prose


def run_of(number: int, size: int = 4 * KB) -> RunOutput:
    return RunOutput(
        run_id=f"r{number}", agent_id="a1", status="COMPLETED", content=prose(size, number), created_at=1000 + number
    )


async def seed_history(db: Any, runs: int) -> None:
    """A session with so many runs of 4 KB, stored in bulk as the domain would have stored them one by one."""
    await db.upsert_session(AgentSession(session_id="s1", agent_id="a1", user_id="u", session_data={"state": {"n": 1}}))
    kernel = db.raw._engine.kernel
    head = await kernel.get(Ref("histories", "s1"))
    puts = []
    for number in range(runs):
        data = run_of(number).to_dict()
        fields = {
            **dict.fromkeys(RUNS.fields),
            "session_id": "s1",
            "run_type": "agent",
            "agent_id": "a1",
            "user_id": "u",
            "status": "COMPLETED",
            "run_index": number,
            "revision": number + 1,
            "incarnation": head.fields["incarnation"],
            "deleted": False,
            "created_at": 1000 + number,
            "updated_at": 1000 + number,
        }
        puts.append(Put(Ref("runs", f"r{number}", "s1", number), fields, {"run_data": Json.of(data)}))
    assert await kernel.write_many(puts) == []
    await kernel.commit([Put(head.ref, {**head.fields, "revision": runs, "next_index": runs}, {}, head.rev)])


async def seed_sessions(db: Any, count: int) -> None:
    """Sessions of 50 users and 40 agents with some state each."""
    await db._create_all_tables()
    puts = []
    for number in range(count):
        fields = {
            **dict.fromkeys(SESSIONS.fields),
            "session_type": "agent",
            "agent_id": f"a{number % 40}",
            "user_id": f"u{number % 50}",
            "component": f"a{number % 40}",
            "components": (f"a{number % 40}",),
            "session_name": f"Session {number}",
            "created_at": 1000 + number,
            "updated_at": 9000 - number,
            "touched_at": 9000 - number,
        }
        body = {name: Json.of(None) for name in SESSIONS.body}
        body["session_data"] = Json.of({"session_name": f"Session {number}", "state": prose(600, number)})
        puts.append(Put(Ref("sessions", f"s{number}"), fields, body, Expect.ANY))
    assert await db.raw._engine.kernel.write_many(puts) == []


async def turn(db: Any, number: int) -> None:
    """One turn of Agno's loop, as far as it reaches the store."""
    session = await db.get_session("s1", user_id="u")
    run = run_of(number)
    session.upsert_run(run)
    session.session_data["state"] = {"n": number}
    assert await db.upsert_session(session) is not None
    await db.upsert_run(run, "s1", "u", run_index=len(session.runs) - 1)


@ON_THE_WIRE
async def test_a_warm_turn_costs_the_same_whatever_the_history(open_metered: Any, storage: str) -> None:
    costs: dict[int, Cost] = {}
    for runs in (10, 1000):
        async with open_metered() as (db, meter):
            await db.delete_session("s1")
            await seed_history(db, runs)
            await turn(db, runs)  # loads the history, and opens connections
            meter.start()
            await turn(db, runs + 1)
            costs[runs] = meter.stop()
    print(f"BUDGET warm turn: {costs}")
    assert costs[10].requests == costs[1000].requests <= 4
    assert costs[10].bytes <= 30 * KB and costs[1000].bytes <= 30 * KB
    assert abs(costs[1000].bytes - costs[10].bytes) <= 0.1 * costs[10].bytes


@ON_THE_WIRE
async def test_a_cold_read_of_the_last_runs_reads_little_more(open_metered: Any) -> None:
    async with open_metered() as (db, _):
        await seed_history(db, 1000)
    async with open_metered() as (db, meter):
        await db.get_run("nobody")  # opens connections
        meter.start()
        session = await db.get_session("s1", runs_limit=3)
        cost = meter.stop()
        assert [run.run_id for run in session.runs] == ["r997", "r998", "r999"]
    print(f"BUDGET cold read of 3 runs: {cost}")
    assert cost.requests <= 2
    assert cost.bytes <= 40 * KB


@ON_THE_WIRE
async def test_a_page_of_sessions_costs_a_page(open_metered: Any) -> None:
    """Of a user, of a component, of all."""
    async with open_metered() as (db, meter):
        await seed_sessions(db, 2000)
        await db.get_session("s1")
        costs = {}
        for filters in ({"user_id": "u7"}, {"component_id": "a7"}, {}):
            for sort_by in ("created_at", "updated_at"):
                for order in ("asc", "desc"):
                    meter.start()
                    page = await db.get_sessions(
                        limit=20, page=1, include_runs=False, sort_by=sort_by, sort_order=order, **filters
                    )
                    cost = costs[(*filters, sort_by, order)] = meter.stop()
                    assert len(page) == 20
                    times = [getattr(session, sort_by) for session in page]
                    assert times == sorted(times, reverse=order == "desc")
                    assert cost.requests <= 3
                    assert cost.bytes <= 40 * KB
                    assert cost.records <= 40
        meter.start()
        assert len(await db.get_sessions(limit=20, page=1, include_runs=False, user_id="u7")) == 20
        unsorted = meter.stop()
        assert unsorted.requests <= 3 and unsorted.bytes <= 40 * KB and unsorted.records <= 40
    worst = max(costs.values(), key=lambda cost: cost.bytes)
    print(f"BUDGET page of 20 of 2,000 sessions: {worst}")


@ON_THE_WIRE
async def test_deleting_a_session_does_not_read_bodies(cell: Cell, open_metered: Any) -> None:
    async with open_metered() as (db, meter):
        await seed_history(db, 500)
        meter.start()
        assert await db.delete_session("s1") is True
        cost = meter.stop()
        assert await db.get_run("r17") is None
    print(f"BUDGET deletion of 500 runs: {cost}")
    assert cost.requests <= (44 if cell.store == "dynamo" else 10)
    assert cost.down <= 450 * KB, "500 runs of 4 KB would be 2,000 KB, or 1,000 KB compressed"


@pytest.mark.cells("memory-sync", "mongo-sync-secantus", "dynamo-sync-local", "firestore-sync-google")
async def test_saving_a_session_costs_no_cpu_for_its_history(db: Any) -> None:
    sessions = {}
    for runs in (10, 1000):
        sessions[runs] = AgentSession(
            session_id=f"s{runs}",
            agent_id="a1",
            session_data={"state": "x" * 500},
            runs=[run_of(n) for n in range(runs)],
        )
        await db.upsert_session(sessions[runs])
    spent: dict[int, list[float]] = {10: [], 1000: []}
    for _ in range(9):  # in turns, and the quickest of each, so that a busy machine weighs on both alike
        for runs, session in sessions.items():
            started = time.process_time()
            for _ in range(10):
                await db.upsert_session(session)
            spent[runs].append(time.process_time() - started)
    ratio = min(spent[1000]) / min(spent[10])
    print(f"BUDGET CPU of upsert_session, 1,000 runs over 10: {ratio:.2f}")
    assert ratio <= 1.5

"""AgentOS' durable job queue over HTTP on a store, answering as it does on Agno's own queue store.

The store under test keeps sessions and jobs. Agno's SqliteDb keeps no jobs, so that the oracle's are in Agno's
`InMemoryQueueStore`, which it names the reference of that contract, beside sessions in SqliteDb.

Needs what `agentos` does.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agno.db.schemas.jobs import QueuedJob
from agno.job_queue.config import QueueConfig
from agno.job_queue.store import InMemoryQueueStore
from agno.os import AgentOS
from agno.os.authz import Authorization
from agno.registry import Registry
from agno.team import Team
from agno.tools import tool
from agno.workflow import Step, Workflow

from agno_docstores.conformance.agentos import (
    SECRET,
    T0,
    Both,
    Side,
    agent,
    application,
    entered,
    oracle_for,
    quiet,  # noqa: F401 - a fixture
    started,
    stored_agent,
)
from agno_docstores.conformance.plugin import Awaitable
from agno_docstores.conformance.scripted import ScriptedModel, echo

PATIENCE = 60


def _queueing(raw: Any, guarded: bool) -> AgentOS:
    @tool(requires_confirmation=True)
    def launch() -> str:
        """Launch it."""
        return "launched"

    def launching(messages: list[Any]) -> Any:
        if messages[-1].role == "tool":
            return "it flies"
        return ("launch", "{}") if messages[-1].content == "go" else echo(messages)

    def failing(messages: list[Any]) -> Any:
        raise ValueError("this model never answers")

    return AgentOS(
        id="os",
        db=raw,
        agents=[
            agent("echo", db=raw, add_history_to_context=True),
            agent("pilot", db=raw, model=ScriptedModel(script=launching), tools=[launch]),
            agent("mute", db=raw, model=ScriptedModel(script=failing)),
        ],
        teams=[Team(id="t1", name="t1", members=[agent("member")], model=ScriptedModel(), db=raw, telemetry=False)],
        workflows=[
            Workflow(id="w1", name="w1", steps=[Step(name="one", agent=agent("step"))], db=raw, telemetry=False)
        ],
        registry=Registry(models=[ScriptedModel()]),
        authorization=guarded and Authorization(verification_keys=[SECRET], algorithm="HS256"),
        user_isolation=guarded,
        queue=QueueConfig(durable=True, db=InMemoryQueueStore()),
        telemetry=False,
    )


def jobs_of(side: Side) -> Any:
    """A side's store of jobs, with awaitable methods."""
    return side.app.state.queue_worker.store


def fenced(side: Side) -> bool:
    """Whether a side's store can refuse a late write to a run: SqliteDb cannot."""
    return hasattr(side.store.raw, "update_run_in_session")


def pausable(app: Any) -> asyncio.Lock:
    """A lock that keeps an application's worker, once it has started, from taking a job."""
    lock, worker = asyncio.Lock(), app.state.queue_worker
    claim = worker._claim_burst

    async def claim_in_turn() -> None:
        async with lock:
            await claim()

    worker._claim_burst = claim_in_turn
    return lock


class Queues(Both):
    """The two, with what takes its time in between."""

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """A time in which no worker takes a job, so that an answer does not depend on which is faster."""
        async with self.oracle.app.state.pausing, self.ours.app.state.pausing:
            yield

    async def start(self, path: str, message: str, session_id: str, **form: str) -> str:
        """Have a run accepted; its id."""
        form = {"message": message, "background": "true", "stream": "false", "session_id": session_id, **form}
        answer = await self.post(f"{path}/runs", form=form, status=202)
        assert answer["status"] == "PENDING"
        run_id: str = answer["run_id"]
        return run_id

    async def settled(self, run_id: str, status: str, *sides: Side) -> None:
        """Wait until the workers are done with a job; what ran is of its last attempt, where that can be stamped."""
        for side in sides or (self.oracle, self.ours):
            async with asyncio.timeout(PATIENCE):
                while (job := await jobs_of(side).get_job(side.own(run_id)))["status"] in ("queued", "running"):
                    side.app.state.queue_worker.wake()  # by itself it looks once an hour
                    await asyncio.sleep(0.02)
            assert job["status"] == status, f"{type(side.store.raw).__name__}: {job}"
            if status != "cancelled" and fenced(side):
                run = await side.store.get_run(job["id"], deserialize=False)
                assert run["run_data"]["queue_attempt"] == job["attempt"]

    async def accept(self, job: QueuedJob) -> None:
        """Have both stores keep a job that came to them otherwise."""
        for side in (self.oracle, self.ours):
            assert (await jobs_of(side).enqueue_job(job.to_dict()))["accepted"] is True


def with_jobs(agent_os: AgentOS, app: Any, raw: Any) -> Any:
    """An application, before its start: it will keep its jobs in this database, or beside it if it cannot keep any."""
    jobs = raw if hasattr(raw, "claim_job") else InMemoryQueueStore()
    agent_os.queue = QueueConfig(durable=True, db=jobs, poll_interval=3600, max_queue_depth=3)
    return app


def comparable(side: Side) -> Side:
    """One of the two, once it has started. SqliteDb cannot stamp a run with its attempt: `settled` looks at that."""
    side.measured |= {"queue_attempt", "oldest_queued_age_seconds"}
    side.app.state.pausing = pausable(side.app)
    return side


@asynccontextmanager
async def queues(
    raw: Any, folder: Path, build: Callable[..., AgentOS], *, guarded: bool = False
) -> AsyncIterator[Queues]:
    """AgentOS as `build` makes it, with its queue on this database, and with that of the oracle."""
    oracle = oracle_for(raw, folder)
    raw.id = oracle.id = "os-db"
    apps = [
        with_jobs(*application(which, db, build, guarded), db)
        for which, db in (("oracle", oracle), ("under test", raw))
    ]
    # Agno has one of its workers be the process' own, and some routes ask that one: it has to be ours.
    async with started(apps[0], oracle) as theirs, started(apps[1], raw) as ours:
        yield Queues(comparable(ours), comparable(theirs))


@pytest.fixture
def queueing(db: Awaitable, tmp_path: Path, runner: asyncio.Runner, quiet: None) -> Iterator[Queues]:  # noqa: F811
    """An AgentOS with a durable queue that lets everybody do everything."""
    yield from entered(runner, queues(db.raw, tmp_path, _queueing))


@pytest.fixture
def guarded_queueing(db: Awaitable, tmp_path: Path, runner: asyncio.Runner, quiet: None) -> Iterator[Queues]:  # noqa: F811
    """The same, whose callers name themselves by a token, and see what is theirs."""
    yield from entered(runner, queues(db.raw, tmp_path, _queueing, guarded=True))


async def test_background_runs_go_through_the_queue_as_on_sqlite(queueing: Queues) -> None:
    both = queueing
    assert await both.get("/queue/stats") == {"counts": {}, "oldest_queued_age_seconds": None}
    assert (await both.get("/queue/jobs"))["data"] == []
    keyed = replace(both, headers={"Idempotency-Key": "k"})
    first = await keyed.start("/agents/echo", "m0", "s1", user_id="u1")
    await both.settled(first, "completed")
    form = {"message": "m0", "background": "true", "stream": "false", "session_id": "s1", "user_id": "u1"}
    assert (await keyed.post("/agents/echo/runs", form=form, status=202))["status"] == "COMPLETED"
    await keyed.post("/agents/pilot/runs", form=form, status=409)
    async with both.held():
        runs = [first, *[await both.start("/agents/echo", f"m{number}", "s1", user_id="u1") for number in (1, 2)]]
        assert (await both.get(f"/agents/echo/runs/{runs[2]}?session_id=s1"))["waiting_on"] == runs[1]
    for number, run_id in enumerate(runs):
        await both.settled(run_id, "completed")
        found = await both.get(f"/agents/echo/runs/{run_id}?session_id=s1")
        assert found["content"] == f"{number + 1} asked, last: m{number}"
        job = await both.get(f"/queue/jobs/{run_id}")
        assert (job["status"], job["attempt"], job["payload"]["input"]) == ("completed", 1, f"m{number}")
    assert [run["status"] for run in await both.get("/sessions/s1/runs")] == ["COMPLETED"] * 3
    for path, session in (("/teams/t1", "st"), ("/workflows/w1", "sw")):
        run_id = await both.start(path, "hello", session)
        await both.settled(run_id, "completed")
        assert (await both.get(f"{path}/runs/{run_id}?session_id={session}"))["status"] == "COMPLETED"
        await both.get(f"/queue/jobs/{run_id}")
        await both.get(f"/sessions/{session}")
    streamed = {"message": "now", "background": "true", "stream": "true", "session_id": "ss"}
    events = await both.post("/agents/echo/runs", form=streamed)
    assert [event["event"] for event in events][-1] == "RunCompleted"
    run_id = events[0]["data"]["run_id"]
    await both.settled(run_id, "completed")
    await both.get(f"/queue/jobs/{run_id}")
    assert await both.get("/queue/stats") == {"counts": {"completed": 6}, "oldest_queued_age_seconds": None}
    if not both.ours.store.is_async:  # Agno stores no agents in an async database
        body = {"component_type": "agent", "component_id": "kept", "name": "kept", "config": stored_agent("kept")}
        await both.post("/components", {**body, "stage": "published"}, status=201)
        run_id = await both.start("/agents/kept", "hello", "sk")
        await both.settled(run_id, "completed")
        assert (await both.get(f"/queue/jobs/{run_id}"))["payload"]["scope"]["source"] == "db"
        assert (await both.get(f"/agents/kept/runs/{run_id}?session_id=sk"))["status"] == "COMPLETED"


async def test_a_paused_run_holds_its_session_until_it_goes_on_or_is_cancelled_as_on_sqlite(queueing: Queues) -> None:
    both = queueing
    head = await both.start("/agents/pilot", "go", "s1")
    await both.settled(head, "paused")
    behind = [await both.start("/agents/pilot", f"m{number}", "s1") for number in range(3)]
    form = {"message": "m3", "background": "true", "stream": "false", "session_id": "s1"}
    await both.post("/agents/pilot/runs", form=form, status=429)
    waiting = await both.get(f"/agents/pilot/runs/{behind[1]}?session_id=s1")
    assert (waiting["status"], waiting["waiting_on"]) == ("PENDING", head)
    assert [job["id"] for job in (await both.get("/queue/jobs?status=paused"))["data"]] == [head]
    listed = await both.get(
        "/queue/jobs?status=queued&status=paused&session_id=s1&sort_by=status&sort_order=asc&limit=1"
    )
    assert ([job["id"] for job in listed["data"]], listed["meta"]["total_count"]) == ([head], 4)
    assert (await both.get("/queue/stats"))["counts"] == {"queued": 3, "paused": 1}
    await both.post(f"/queue/jobs/{behind[1]}/requeue", status=400)
    await both.post(f"/agents/pilot/runs/{behind[1]}/cancel?session_id=s1")
    await both.settled(behind[1], "cancelled")
    assert (await both.get(f"/agents/pilot/runs/{behind[1]}?session_id=s1"))["status"] == "CANCELLED"

    paused = await both.get(f"/agents/pilot/runs/{head}?session_id=s1")
    tools = json.dumps([{**call, "confirmed": True} for call in paused["tools"]]).replace('"now"', str(T0))
    resume = {"tools": tools, "session_id": "s1", "stream": "false"}
    await both.post(f"/agents/pilot/runs/{head}/continue", form=resume, status=409)
    durable = {**resume, "background": "true"}
    assert (await both.post(f"/agents/pilot/runs/{head}/continue", form=durable, status=202))["run_id"] == head
    for run_id in (head, behind[0], behind[2]):
        await both.settled(run_id, "completed")
    assert (await both.get(f"/agents/pilot/runs/{head}?session_id=s1"))["content"] == "it flies"
    assert (await both.get(f"/queue/jobs/{head}"))["attempt"] == 2
    assert (await both.get(f"/agents/pilot/runs/{behind[2]}?session_id=s1"))["status"] == "COMPLETED"
    await both.get("/sessions/s1")

    other = await both.start("/agents/pilot", "go", "s2")
    await both.settled(other, "paused")
    await both.post(f"/agents/pilot/runs/{other}/cancel?session_id=s2")
    await both.settled(other, "cancelled")
    await both.post(f"/agents/pilot/runs/{other}/continue", form={**durable, "session_id": "s2"}, status=409)
    await both.get(f"/agents/pilot/runs/{other}?session_id=s2")
    async with both.held():
        await both.post(f"/queue/jobs/{other}/requeue?clear_cancellation=true")
    for side in (both.oracle, both.ours):
        # A run that was cancelled stays so where that can be told when the job is taken, as on Postgres. On SqliteDb it
        # is run once more, and waits again.
        status = "cancelled" if fenced(side) else "paused"
        await both.settled(other, status, side)
        path = f"/agents/pilot/runs/{side.own(other)}?session_id=s2"
        assert (await side.client.get(path)).json()["status"] == status.upper()


async def test_jobs_that_fail_and_jobs_of_others_are_listed_and_requeued_as_on_sqlite(queueing: Queues) -> None:
    both = queueing
    run_id = await both.start("/agents/mute", "hello", "s1")
    await both.settled(run_id, "failed")
    assert (await both.get(f"/agents/mute/runs/{run_id}?session_id=s1"))["status"] == "ERROR"
    assert (await both.get(f"/queue/jobs/{run_id}"))["error"] is not None
    await both.post(f"/queue/jobs/{run_id}/requeue", status=409)
    await both.post(f"/queue/jobs/{run_id}/requeue?clear_cancellation=true", status=409)
    async with both.held():
        await both.post(f"/queue/jobs/{run_id}/requeue?force=true")
        await both.get("/queue/stats")
    await both.settled(run_id, "failed")
    assert [job["attempt"] for job in (await both.get("/queue/jobs?status=failed"))["data"]] == [2]

    for number in range(3):
        row: dict[str, Any] = {
            "component_type": "agent",
            "component_id": "echo",
            "session_id": f"x{number}",
            "deployment_id": "elsewhere",
            "user_id": ("u1", None)[number % 2],
            "payload": {"input": "é", "kwargs": {"a.b": [None, 1.5, {"$c": ""}]}, "stream": False},
            "created_at": T0 + number,
        }
        await both.accept(QueuedJob(id=f"j{number}", **row))

    async def listed(query: str) -> list[str]:
        return [job["id"] for job in (await both.get(f"/queue/jobs?{query}"))["data"]]

    assert await listed("") == [run_id, "j2", "j1", "j0"]
    assert await listed("sort_order=asc&limit=2&page=2") == ["j2", run_id]
    assert (await both.get("/queue/jobs?limit=2&page=9"))["meta"]["total_count"] == 4
    assert await listed("status=queued&user_id=u1") == ["j2", "j0"]
    assert await listed("session_id=x0&session_id=x1&sort_by=session_id&sort_order=asc") == ["j0", "j1"]
    assert await listed("status=running") == []
    for wrong in ("status=nonsense", "session_id=", "user_id="):
        await both.get(f"/queue/jobs?{wrong}", status=400)
    for wrong in ("limit=0", "page=0", "sort_order=up"):
        await both.get(f"/queue/jobs?{wrong}", status=422)
    await both.get("/queue/jobs/nothing", status=404)
    await both.post("/queue/jobs/nothing/requeue", status=400)
    # Accepted, and without a run so far: what is told of it is told from its job.
    assert (await both.get("/agents/echo/runs/j0?session_id=x0"))["status"] == "PENDING"
    await both.get("/agents/echo/runs/j0?session_id=x1", status=404)
    await both.get("/agents/pilot/runs/j0?session_id=x0", status=404)
    await both.post("/agents/echo/runs/j0/cancel?session_id=x0")
    await both.settled("j0", "cancelled")
    await both.get("/agents/echo/runs/j0?session_id=x0")
    await both.get("/queue/jobs/j0")
    assert (await both.get("/queue/stats"))["counts"] == {"failed": 1, "queued": 2, "cancelled": 1}
    for side in (both.oracle, both.ours):
        stats = (await side.client.get("/queue/stats")).json()
        assert abs(time.time() - (T0 + 1) - stats["oldest_queued_age_seconds"]) < 10
    assert both.unasked("Queue") == set()


async def test_a_caller_has_own_background_runs_and_no_queue_as_on_sqlite(guarded_queueing: Queues) -> None:
    both = guarded_queueing
    scopes = ("agents:run", "agents:read", "sessions:read")
    u1, u2 = both.calling("u1", *scopes), both.calling("u2", *scopes)
    root = both.calling("root", "agent_os:admin")
    for path in ("/queue/jobs", "/queue/stats"):
        await both.get(path, status=401)
        await u1.get(path, status=403)
        await root.get(path)
    head = await u1.start("/agents/pilot", "go", "s1", user_id="u2")
    await both.settled(head, "paused")
    job = await root.get(f"/queue/jobs/{head}")
    assert job["user_id"] == "u1"
    await u1.get(f"/queue/jobs/{head}", status=403)
    await u1.post(f"/queue/jobs/{head}/requeue", status=403)
    # A key is one user's: that of another is another.
    keys = [replace(call, headers={**call.headers, "Idempotency-Key": "k"}) for call in (u1, u2)]
    mine, yours = [await call.start("/agents/echo", "hello", f"own-{n}") for n, call in enumerate(keys)]
    assert mine != yours
    for run_id in (mine, yours):
        await both.settled(run_id, "completed")
    await u2.get(f"/agents/pilot/runs/{head}?session_id=s1", status=404)
    await u2.post(f"/agents/pilot/runs/{head}/cancel?session_id=s1", status=404)
    await u2.post(f"/agents/pilot/runs/{head}/cancel", status=400)
    form = {"tools": "[]", "session_id": "s1", "stream": "false", "background": "true"}
    await u2.post(f"/agents/pilot/runs/{head}/continue", form=form, status=404)
    await both.accept(
        QueuedJob(
            id="j0", component_type="agent", component_id="echo", session_id="x", user_id="u1", deployment_id="far"
        )
    )
    assert (await u1.get("/agents/echo/runs/j0?session_id=x"))["status"] == "PENDING"
    await u2.get("/agents/echo/runs/j0?session_id=x", status=404)
    await root.get("/agents/echo/runs/j0?session_id=x")
    await u1.post(f"/agents/pilot/runs/{head}/cancel?session_id=s1")
    await both.settled(head, "cancelled")
    listed = await root.get("/queue/jobs?user_id=u1&sort_by=session_id")
    assert [job["session_id"] for job in listed["data"]] == ["x", "s1", "own-0"]

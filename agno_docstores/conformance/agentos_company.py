"""A company in AgentOS over HTTP on a store, answering as it does on Agno's own SqliteDb.

Products with their sources and routines, projects, tasks from backlog to done, whose runs go through the durable queue.
The queue is compared as `agentos_queue` has it. Agno keeps a company's wiki in a file system, which it makes of SQL
databases only: on other stores its routes answer that there is none, and no task starts, for its prompt quotes it. So
that what else a task's run takes is compared, the wiki is in an SQL database in one test.

Every test changes a hierarchy, which takes commits of several documents. Needs what `agentos` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import agno.company.playbook
import pytest
from agno.agent import Agent
from agno.company.config import CompanyConfig
from agno.db.sqlite import SqliteDb
from agno.fs import FileSystem
from agno.job_queue.config import QueueConfig
from agno.job_queue.store import InMemoryQueueStore
from agno.os import AgentOS
from agno.os.authz import Authorization

from agno_docstores.conformance.agentos import (
    SECRET,
    T0,
    entered,
    quiet,  # noqa: F401 - a fixture
)
from agno_docstores.conformance.agentos_queue import Queues, queues
from agno_docstores.conformance.company import task_row
from agno_docstores.conformance.plugin import Awaitable
from agno_docstores.conformance.scripted import ScriptedModel

AGENT = {"executor_type": "agent", "executor_id": "worker"}


def _company(raw: Any, guarded: bool) -> AgentOS:
    def failing(messages: list[Any]) -> Any:
        raise ValueError("this model never answers")

    def agent(id: str, **options: Any) -> Agent:
        return Agent(id=id, name=id, db=raw, telemetry=False, **{"model": ScriptedModel(), **options})

    return AgentOS(
        id="os",
        db=raw,
        agents=[
            agent("worker", model=ScriptedModel(script=lambda messages: "done")),
            agent("mute", model=ScriptedModel(script=failing)),
        ],
        company=CompanyConfig(),
        authorization=guarded and Authorization(verification_keys=[SECRET], algorithm="HS256"),
        user_isolation=guarded,
        queue=QueueConfig(durable=True, db=InMemoryQueueStore()),
        scheduler=True,
        scheduler_poll_interval=3600,
        scheduler_base_url="http://os",
        telemetry=False,
    )


@pytest.fixture
def company(db: Awaitable, tmp_path: Path, runner: Any, quiet: None) -> Iterator[Queues]:  # noqa: F811
    """A company that lets everybody do everything."""
    yield from entered(runner, queues(db.raw, tmp_path, _company))


@pytest.fixture
def guarded_company(db: Awaitable, tmp_path: Path, runner: Any, quiet: None) -> Iterator[Queues]:  # noqa: F811
    """The same, whose callers name themselves by a token, and may do what it says."""
    yield from entered(runner, queues(db.raw, tmp_path, _company, guarded=True))


@pytest.fixture
def wiki(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the wiki in an SQL database, whatever the company is in."""
    made: dict[int, SqliteDb] = {}

    def files(db: Any, **options: Any) -> FileSystem:
        kept = made.setdefault(id(db), SqliteDb(db_file=str(tmp_path / f"wiki-{len(made)}.db")))
        return FileSystem(kept, **options)

    monkeypatch.setattr(agno.company.playbook, "FileSystem", files)


async def seed_company(both: Queues) -> None:
    """Two products, three projects and three tasks, of two owners and of none."""
    for number in range(2):
        row = {"id": f"p{number}", "name": f"product {number}", "created_at": T0 + number}
        await both.seed("create_product", {**row, "user_id": ("u1", None)[number], "metadata": {"a.b": [1.5, None]}})
    for number in range(3):
        row = {"id": f"j{number}", "product_id": f"p{number // 2}", "name": f"project {number}", "status": "proposed"}
        await both.seed("create_project", {**row, "transitions": [], "created_at": T0 + number, "user_id": "u1"})
        task = task_row(f"t{number}", product_id="p0", project_id=f"j{number % 2}", session_id=f"s{number}")
        await both.seed("create_task", {**task, "created_at": T0 + number, "user_id": ("u1", "u2")[number % 2]})


async def ids(both: Queues, path: str) -> list[str]:
    answer = await both.get(f"/company/{path}")
    return [row["id"] for row in answer["data"]]


async def test_products_and_their_sources_answer_as_on_sqlite(company: Queues) -> None:
    both = company
    assert await ids(both, "products") == await ids(both, "sources") == []
    await seed_company(both)
    assert await ids(both, "products") == ["p1", "p0"]
    assert await ids(both, "products?sort_order=asc&limit=1&page=2") == ["p1"]
    assert (await both.get("/company/products?limit=1&page=9"))["meta"]["total_count"] == 2
    for wrong in ("limit=0", "page=0", "sort_by=name"):
        await both.get(f"/company/products?{wrong}", status=422)
    assert (await both.get("/company/products/p0"))["counts"]["projects"] == 2
    made = await both.post("/company/products", {"name": "new", "metadata": {"x": []}}, status=201)
    await both.post("/company/products", {"name": " "}, status=422)
    await both.patch(f"/company/products/{made['id']}", {"purpose": "for this", "metadata": {"y": 1}})
    await both.patch(f"/company/products/{made['id']}", {})
    await both.patch(f"/company/products/{made['id']}", {"name": None}, status=422)
    for method, path in ((both.get, ""), (both.patch, ""), (both.delete, ""), (both.post, "/restore")):
        body = {"name": "x"} if method == both.patch else None
        await method(f"/company/products/nothing{path}", **({"body": body} if body else {}), status=404)
    await both.delete(f"/company/products/{made['id']}", status=204)
    await both.get(f"/company/products/{made['id']}", status=404)
    await both.get(f"/company/products/{made['id']}?include_deleted=true")
    await both.post(f"/company/products/{made['id']}/restore")
    await both.post(f"/company/products/{made['id']}/restore", status=409)
    assert await ids(both, "products") == [made["id"], "p1", "p0"]

    docs = {"product_id": "p0", "type": "markdown", "reference": "/docs", "config": {"paths": ["a.md"]}}
    source = await both.post("/company/sources", docs, status=201)
    await both.post("/company/sources", {**docs, "product_id": "nothing"}, status=404)
    for wrong_fields in ({"type": "nothing"}, {"reference": ""}, {"credential_ref": "a b"}, {"reference": "/a?b"}):
        await both.post("/company/sources", {**docs, **wrong_fields}, status=422)
    for number in range(2):
        row = {"id": f"c{number}", "product_id": "p1", "reference": "/docs", "type": "markdown", "config": None}
        await both.seed("create_source", {**row, "created_at": T0 + number})
    assert await ids(both, "sources") == [source["id"], "c1", "c0"]
    assert await ids(both, "sources?product_id=p1&limit=1&page=2") == ["c0"]
    await both.delete("/company/sources/c0", status=204)
    await both.delete("/company/sources/c0", status=404)
    assert await ids(both, "sources?include_deleted=true&product_id=p1") == ["c1", "c0"]
    await both.post("/company/sources/c0/restore")
    await both.post("/company/sources/c0/restore", status=409)
    await both.post("/company/sources/nothing/restore", status=404)
    # An archive takes along what is in it, but not what is under way.
    await both.post("/company/tasks/t0/transitions", {"target": "ready", "reason": "go", **AGENT})
    await both.delete("/company/products/p0", status=409)
    await both.post("/company/tasks/t0/transitions", {"target": "backlog", "reason": "wait"})
    await both.delete("/company/products/p0", status=204)
    assert await ids(both, "sources") == ["c1", "c0"] and await ids(both, "tasks?include_deleted=true") == []
    await both.post("/company/sources", docs, status=404)
    await both.post("/company/products/p0/restore")
    assert await ids(both, "tasks") == ["t2", "t1", "t0"]
    assert both.unasked("Products") == set()
    assert {route for route in both.unasked("Company heartbeat") if "/sources" in route} == set()


async def test_projects_and_tasks_answer_as_on_sqlite(company: Queues) -> None:
    both = company
    assert await ids(both, "projects") == await ids(both, "tasks") == []
    await seed_company(both)
    assert await ids(both, "projects") == ["j2", "j1", "j0"]
    assert await ids(both, "projects?product_id=p0&sort_order=asc&limit=1&page=2") == ["j1"]
    assert (await both.get("/company/projects/j0"))["counts"]["tasks"]["backlog"] == 2
    made = await both.post("/company/projects", {"product_id": "p1", "name": "new", "target_date": 5}, status=201)
    await both.post("/company/projects", {"product_id": "nothing", "name": "new"}, status=404)
    await both.post("/company/projects", {"product_id": "p1", "name": ""}, status=422)
    await both.patch(f"/company/projects/{made['id']}", {"outcome": "o", "target_date": None})
    await both.patch(f"/company/projects/{made['id']}", {"status": "done"}, status=422)
    path = f"/company/projects/{made['id']}/transitions"
    await both.post(path, {"target": "done", "reason": "x"}, status=409)
    await both.post(path, {"target": "active", "reason": " "}, status=422)
    for target in ("active", "done"):
        answer = await both.post(path, {"target": target, "reason": f"is {target}"})
        assert (answer["status"], answer["transitions"][-1]["reason"]) == (target, f"is {target}")
    assert await ids(both, "projects?status=done") == [made["id"]]
    await both.post("/company/projects/j0/transitions", {"target": "active", "reason": "x"})
    await both.post("/company/projects/j0/transitions", {"target": "done", "reason": "x"}, status=409)
    for part in ("projects", "tasks"):
        await both.get(f"/company/{part}/nothing", status=404)
        await both.patch(f"/company/{part}/nothing", {"brief" if part == "tasks" else "name": "x"}, status=404)
        await both.delete(f"/company/{part}/nothing", status=404)
        await both.post(f"/company/{part}/nothing/restore", status=404)
        await both.post(f"/company/{part}/nothing/transitions", {"target": "cancelled", "reason": "x"}, status=404)

    task = {"product_id": "p0", "project_id": "j0", "title": "new", "evidence": [{"a.b": None}]}
    new = await both.post("/company/tasks", {**task, **AGENT}, status=201)
    await both.post("/company/tasks", {**task, "project_id": "nothing"}, status=404)
    await both.post("/company/tasks", {**task, "project_id": "j2"}, status=422)
    await both.post("/company/tasks", {**task, "executor_type": "nobody"}, status=422)
    assert await ids(both, "tasks") == [new["id"], "t2", "t1", "t0"]
    assert await ids(both, "tasks?project_id=j0&limit=2&page=2") == ["t0"]
    assert await ids(both, "tasks?product_id=p1") == await ids(both, "tasks?failed=true") == []
    await both.patch(f"/company/tasks/{new['id']}", {"brief": "b", "project_id": "j1"})
    await both.patch(f"/company/tasks/{new['id']}", {"project_id": "j2"}, status=422)
    await both.patch(f"/company/tasks/{new['id']}", {})
    path = f"/company/tasks/{new['id']}/transitions"
    await both.post(path, {"target": "ready", "reason": "go"}, status=422)
    await both.post(path, {"target": "ready", "reason": "go", **AGENT, "executor_id": "nobody"}, status=409)
    await both.post(path, {"target": "done", "reason": "x"}, status=409)
    ready = await both.post(path, {"target": "ready", "reason": "go", **AGENT})
    assert (ready["status"], ready["executor_id"], ready["accepted_at"]) == ("ready", "worker", "now")
    await both.post(path, {"target": "in_progress", "reason": "go"}, status=409)
    if not hasattr(both.ours.store.raw, "db_engine"):  # without a wiki it does not start, and is as it was
        refusal = await both.ours.client.post(both.ours.own(f"/company/tasks/{new['id']}/runs"))
        assert (refusal.status_code, refusal.json()["detail"]) == (
            503,
            "Company wiki is not supported by the configured database",
        )
        await both.get(f"/company/tasks/{new['id']}")
    await both.patch(f"/company/tasks/{new['id']}", {"brief": "more"}, status=409)
    assert await ids(both, "tasks?status=ready") == [new["id"]]
    await both.get("/company/attention")
    await both.get("/company/attention?product_id=p1")
    await both.delete("/company/projects/j1", status=409)
    await both.post(path, {"target": "cancelled", "reason": "no"})
    await both.post(path, {"target": "backlog", "reason": "yes"}, status=409)
    await both.delete(f"/company/tasks/{new['id']}", status=204)
    await both.get(f"/company/tasks/{new['id']}?include_deleted=true")
    await both.delete("/company/projects/j1", status=204)
    assert await ids(both, "tasks") == ["t2", "t0"]
    await both.post("/company/tasks/t1/restore", status=409)
    await both.post("/company/projects/j1/restore")
    await both.post("/company/projects/j1/restore", status=409)
    await both.post(f"/company/tasks/{new['id']}/restore")
    await both.post("/company/tasks/t0/restore", status=409)
    assert both.unasked("Projects") == both.unasked("Tasks") == set()


async def test_routines_decisions_and_the_wiki_answer_as_on_sqlite(company: Queues) -> None:
    both = company
    source = {"type": "markdown", "reference": "/docs"}
    routine = {"name": "weekly", "cron_expr": "0 0 1 1 *", "instructions": "look", **AGENT}
    setup = {"name": "first", "purpose": "p", "sources": [source], "routines": [routine]}
    await both.post("/company/setup", {**setup, "routines": [{**routine, "executor_id": "nobody"}]}, status=422)
    first = await both.post("/company/setup", setup, status=201)
    assert first["id"] == "company-setup"
    await both.post("/company/setup", setup)
    await both.get("/company/sources")
    (declared,) = (await both.get("/company/routines"))["data"]
    made = await both.post("/company/routines", {**routine, "product_id": first["id"], "name": "own"}, status=201)
    await both.post("/company/routines", {**routine, "product_id": "nothing"}, status=404)
    await both.post("/company/routines", {**routine, "product_id": first["id"], "cron_expr": "x"}, status=422)
    assert (await both.get("/company/products/company-setup"))["metadata"]["routine_ids"] == [
        declared["id"],
        made["id"],
    ]
    path = f"/company/routines/{made['id']}"
    await both.patch(path, {"name": "renamed", "instructions": "look twice", "cron_expr": None})
    await both.patch(path, {"cron_expr": ""}, status=422)
    await both.patch(path, {"executor_id": "nobody"}, status=422)
    await both.post(f"{path}/pause")
    await both.post(f"{path}/trigger", status=409)
    await both.post(f"{path}/resume")
    await both.get(f"{path}/runs")
    assert len((await both.get("/company/routines?product_id=nothing"))["data"]) == 0
    assert (await both.get("/company/routines?limit=1&page=9"))["meta"]["total_count"] == 2
    for method, part in ((both.get, ""), (both.get, "/runs"), (both.post, "/pause"), (both.post, "/trigger")):
        await method(f"/company/routines/nothing{part}", status=404)
    await both.patch(f"/schedules/{made['id']}", {"name": "x"}, status=409)
    await both.delete(f"/schedules/{made['id']}", status=409)
    for side in (both.oracle, both.ours):  # what it runs, it runs by requests to itself, under ids of its own making
        answer = await side.client.post(side.own(f"{path}/trigger"))
        found = answer.json()
        assert (found["status"], found["status_code"]) == ("success", 200), found
        run = (await side.client.get(side.own(f"{path}/runs"))).json()["data"][0]
        assert (run["id"], run["status"]) == (found["id"], "success")
        assert (await side.client.get(side.own(path))).json()["last_run"]["status"] == "success"

    assert (await both.get("/company/decisions"))["data"] == []
    decided = await both.post(
        "/company/decisions", {"decision": "go", "reasoning": "why not", "context": "é"}, status=201
    )
    await both.post("/company/decisions", {"decision": ""}, status=422)
    assert (await both.get("/company/decisions?query=why&days=1"))["data"][0]["id"] == decided["id"]
    assert (await both.get("/company/decisions?query=nothing"))["data"] == []

    page = {"content": "# text", "expected_version": 0}
    sql = hasattr(both.ours.store.raw, "db_engine")
    why = "" if sql else "a wiki is in a file system, which Agno makes of SQL databases only"
    for name in ("/company/wiki", "/company/products/company-setup/wiki"):
        await both.put(f"{name}/a.md", page, refusable=why)
        for found in (name, f"{name}/a.md", f"{name}/brief.md"):
            await both.get(found, refusable=why)
        if not sql:
            assert (await both.ours.client.get(name)).status_code == 503
            assert (await both.ours.client.put(f"{name}/a.md", json=page)).status_code == 503
    assert both.unasked("Company playbook") == set()
    assert {route for route in both.unasked("Company heartbeat") if "/sources" not in route} == set()


async def test_tasks_run_through_the_queue_as_on_sqlite(wiki: None, company: Queues) -> None:
    both = company
    await seed_company(both)
    path = "/company/tasks/t0"
    await both.post(f"{path}/runs", status=409)
    await both.post(f"{path}/transitions", {"target": "ready", "reason": "go", **AGENT})
    await both.post(f"{path}/runs", {"attempt": 2}, status=409)
    async with both.held():
        first = await both.post(f"{path}/runs", status=202)
        assert (first["status"], first["session_id"]) == ("PENDING", "s0")
        assert (await both.post(f"{path}/runs", status=202))["run_id"] == first["run_id"]
        assert (await both.get(path))["status"] == "in_progress"
        await both.get(f"/company/runs/{first['run_id']}")
    await both.settled(first["run_id"], "completed")
    reviewed = await both.get(path)
    assert (reviewed["status"], reviewed["result"]["status"]) == ("in_review", "COMPLETED")
    assert (await both.get(f"/company/runs/{first['run_id']}"))["run_data"]["content"] == "done"
    assert (await both.get(f"{path}/runs"))["meta"]["total_count"] == 1
    await both.get("/company/attention")
    await both.post(f"{path}/transitions", {"target": "backlog", "reason": "once more"})
    await both.post(f"{path}/transitions", {"target": "ready", "reason": "go", **AGENT})
    second = await both.post(f"{path}/runs", {"attempt": 2}, status=202)
    await both.settled(second["run_id"], "completed")
    await both.post(f"{path}/transitions", {"target": "done", "reason": "well done"})
    assert (await both.get(f"{path}/runs"))["meta"]["total_count"] == 2
    await both.post(f"{path}/runs", {"attempt": 3}, status=409)
    await both.get(path)

    mute = {**AGENT, "executor_id": "mute"}
    await both.post("/company/tasks/t1/transitions", {"target": "ready", "reason": "go", **mute})
    failed = await both.post("/company/tasks/t1/runs", status=202)
    await both.settled(failed["run_id"], "failed")
    assert (await both.get("/company/tasks/t1"))["result"]["status"] == "ERROR"
    assert await ids(both, "tasks?failed=true") == ["t1"]

    await both.post("/company/tasks/t2/transitions", {"target": "ready", "reason": "go", **AGENT})
    async with both.held():
        third = await both.post("/company/tasks/t2/runs", status=202)
        await both.delete("/company/projects/j0", status=409)
        await both.post(f"/company/runs/{third['run_id']}/cancel")
    await both.settled(third["run_id"], "cancelled")
    assert (await both.get("/company/tasks/t2"))["result"]["status"] == "CANCELLED"
    await both.get(f"/agents/worker/runs/{third['run_id']}?session_id=s2")
    await both.get("/company/runs/nothing", status=404)
    await both.get("/company/tasks/nothing/runs", status=404)
    await both.get("/company/products/p0")
    await both.get("/company/attention")
    assert both.unasked("Company execution") == set()


async def test_a_caller_does_in_a_company_what_his_token_says_as_on_sqlite(guarded_company: Queues) -> None:
    both = guarded_company
    await seed_company(both)
    parts = ("products", "projects", "tasks", "sources")
    reader = both.calling("u2", *(f"{part}:read" for part in parts))
    writer = both.calling("u2", *(f"{part}:{action}" for part in parts for action in ("read", "write")), "agents:run")
    root = both.calling("root", "agent_os:admin")
    await both.get("/company/products", status=401)
    for part, id in (("products", "p0"), ("projects", "j0"), ("tasks", "t0")):
        # A company is one for all who may look at it: whose a record is is told, and keeps nobody away.
        assert [await ids(call, part) for call in (reader, writer)] == [await ids(root, part)] * 2
        assert (await reader.get(f"/company/{part}/{id}"))["user_id"] == "u1"
        name = {"title" if part == "tasks" else "name": "changed"}
        await reader.patch(f"/company/{part}/{id}", name, status=403)
        assert (await writer.patch(f"/company/{part}/{id}", name))["user_id"] == "u1"
        await writer.delete(f"/company/{part}/{id}", status=403)
    made = await writer.post("/company/products", {"name": "own"}, status=201)
    assert made["user_id"] == "u2"
    ready = {"target": "ready", "reason": "go", **AGENT}
    await reader.post("/company/tasks/t0/transitions", ready, status=403)
    assert (await writer.post("/company/tasks/t0/transitions", ready))["accepted_by"] == "u2"
    await root.delete("/company/tasks/t1", status=204)
    await root.delete(f"/company/products/{made['id']}", status=204)
    await reader.get("/company/routines", status=403)
    await reader.get("/company/decisions", status=403)
    await root.get("/company/routines")
    await root.get("/company/decisions")

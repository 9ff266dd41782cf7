"""Contract 1.19, a company's products, sources, projects and tasks: rows, visibility, archives, lifecycles, races.

Every test changes a hierarchy, which takes commits of several documents.
"""

from __future__ import annotations

from typing import Any

import pytest
from agno.db.schemas.tasks import TASK_TRANSITIONS, task_run_id
from agno.db.utils import is_unique_violation

from agno_docstores.conformance.concurrency import at_once

WORKERS = 20
NONE = dict.fromkeys(TASK_TRANSITIONS, 0)
AGENT = {"executor_type": "agent", "executor_id": "a1"}


async def product(db: Any, id: str = "p1", **values: Any) -> Any:
    return await db.create_product({"id": id, "name": f"product {id}", "created_at": 1000, **values})


async def project(db: Any, id: str = "j1", **values: Any) -> Any:
    row = {"id": id, "product_id": "p1", "name": id, "status": "proposed", "transitions": [], "created_at": 1000}
    return await db.create_project({**row, **values})


def task_row(id: str = "t1", **values: Any) -> dict[str, Any]:
    row = {
        "id": id,
        "product_id": "p1",
        "title": f"do {id}",
        "status": "backlog",
        "transitions": [],
        "created_at": 1000,
    }
    return {**row, **values}


async def task(db: Any, id: str = "t1", **values: Any) -> Any:
    return await db.create_task(task_row(id, **values))


async def source(db: Any, id: str = "c1", **values: Any) -> Any:
    row = {"id": id, "product_id": "p1", "reference": "/docs", "type": "markdown", "config": None, "created_at": 1000}
    return await db.create_source({**row, **values})


def ids(listed: tuple[list[dict[str, Any]], int]) -> list[str]:
    rows, total = listed
    assert total == len(rows)
    return [row["id"] for row in rows]


async def refused(call: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        await call


async def test_products_and_sources(db: Any) -> None:
    assert await db.get_product("p1") is None and await db.get_products() == ([], 0)
    assert await db.update_product("p1", name="x") is None and await db.delete_product("p1") is False
    created = await product(db, user_id="u", metadata={"a.b": [2**70]})
    assert created == {
        "id": "p1", "name": "product p1", "purpose": None, "user_id": "u", "created_at": 1000, "updated_at": None,
        "metadata": {"archive_window_days": 14, "a.b": [2**70]}, "deleted_at": None,
    }  # fmt: skip
    assert await db.get_product("p1") == await db.get_product("p1", user_id="u") == created
    assert await db.get_product("p1", user_id="v") is None
    with pytest.raises(Exception) as caught:
        await product(db, name="another")
    assert is_unique_violation(caught.value)
    await product(db, "p2", user_id="v")
    await product(db, "p3", created_at=900)
    assert ids(await db.get_products()) == ["p2", "p1", "p3"] and ids(await db.get_products(user_id="u")) == ["p1"]
    assert await db.get_products(limit=1, page=2) == ([created], 3)
    assert (await db.get_products(limit=2, page=9))[0] == []
    assert ids(await db.get_products(sort_by="created_at", sort_order="asc")) == ["p3", "p1", "p2"]
    changed = await db.update_product("p3", purpose="new", metadata={"k": 1})
    assert changed["purpose"] == "new" and changed["metadata"] == {"archive_window_days": 14, "k": 1}
    assert ids(await db.get_products(sort_by="updated_at")) == ["p3", "p2", "p1"]
    for arguments in ({"limit": 0}, {"page": 0}, {"sort_by": "name"}, {"sort_order": "up"}):
        await refused(db.get_products(**arguments), "must be")
    await refused(db.update_product("p1", user_id="u", deleted_at=1), "Unsupported")
    assert await db.update_product("p1", user_id="v", name="x") is None
    linked = await db.add_product_routine("p1", "r1")
    assert await db.add_product_routine("p1", "r1") == linked and linked["metadata"]["routine_ids"] == ["r1"]
    assert (await db.update_product("p1", metadata={}))["metadata"]["routine_ids"] == ["r1"]
    await refused(db.add_product_routine("nobody", "r1"), "missing")
    # Sources
    first = await source(db, user_id="u", config={"paths": ["a.md"]})
    assert first["deleted_at"] is None and await db.get_source("c1") == await db.get_source("c1", user_id="u") == first
    assert await db.get_source("c1", user_id="v") is None
    assert await source(db, "c2", config={"paths": ["a.md"]}) != first
    await refused(source(db, "c3", product_id="nobody"), "missing or archived")
    same = {"id": "c3", "product_id": "p1", "reference": "/new", "type": "markdown", "created_at": 1}
    new = await db.create_source(same, reuse=True)
    assert await db.create_source({**same, "id": "c4"}, reuse=True) == new
    for other in ({"type": "git"}, {"credential_ref": "X"}, {"config": {"paths": ["b"]}}):
        await refused(db.create_source({**same, "id": "c4", **other}, reuse=True), "c3 already uses")
    assert ids(await db.get_sources()) == ids(await db.get_sources(product_id="p1")) == ["c2", "c1", "c3"]
    assert ids(await db.get_sources(user_id="u")) == ["c1"] and ids(await db.get_sources(product_id="p2")) == []
    updated = await db.update_source("c1", user_id="u", reference="/other")
    assert updated["reference"] == "/other" and updated["updated_at"] is not None
    await refused(db.update_source("c1", type="nothing"), "type")
    assert await db.update_source("c1", user_id="v", reference="/x") is None
    assert await db.delete_source("c1", user_id="v") is False and await db.delete_source("c1") is True
    assert await db.delete_source("c1") is False and await db.get_source("c1") is None
    assert (await db.get_source("c1", include_deleted=True))["deleted_at"] is not None
    assert ids(await db.get_sources()) == ["c2", "c3"]
    assert ids(await db.get_sources(include_deleted=True)) == ["c2", "c1", "c3"]
    assert (await db.restore_source("c1"))["deleted_at"] is None and await db.restore_source("c1") is None
    assert await db.delete_product("p1", user_id="v") is False and await db.delete_product("p1") is True
    assert ids(await db.get_sources()) == ids(await db.get_sources(include_deleted=True)) == []
    assert await db.get_source("c1") is not None
    await refused(source(db, "c9"), "missing or archived")
    assert await db.delete_product("p1") is False and await db.get_product("p1") is None
    assert ids(await db.get_products()) == ["p3", "p2"] or ids(await db.get_products()) == ["p2", "p3"]
    assert set(ids(await db.get_products(include_deleted=True))) == {"p1", "p2", "p3"}


async def test_projects_and_tasks_are_made_changed_and_listed(db: Any) -> None:
    await product(db)
    await product(db, "p2")
    made = await project(db, user_id="u")
    assert made["status"] == "proposed" and await db.get_project("j1", user_id="u") == made
    assert await db.get_project("j1", user_id="v") is None
    assert await db.create_project({**made, "name": "again"}, reuse=True) == made
    await refused(db.create_project({**made, "product_id": "p2"}, reuse=True), "another Product")
    with pytest.raises(Exception) as caught:
        await project(db)
    assert is_unique_violation(caught.value)
    await refused(project(db, "j9", product_id="nobody"), "missing or archived")
    await project(db, "j2", created_at=2000, status="active")
    await project(db, "j3", product_id="p2", created_at=3000)
    assert ids(await db.get_projects()) == ["j3", "j2", "j1"] and ids(await db.get_projects(user_id="u")) == ["j1"]
    assert ids(await db.get_projects(product_id="p1", sort_by="created_at", sort_order="asc")) == ["j1", "j2"]
    assert ids(await db.get_projects(status="active")) == ids(await db.get_projects(product_id="p1", status="active"))
    assert (await db.update_project("j1", name="new", target_date=5))["name"] == "new"
    assert await db.update_project("j1", expected_status="active", name="x") is None
    assert await db.update_project("j1", user_id="v", name="x") is None and await db.update_project("nobody") is None
    await refused(db.update_project("j1", status="done"), "Unsupported")
    # Tasks
    first = await task(db, project_id="j1", user_id="u", dedupe_key="k", session_id="s1", evidence=[{"a": 1}])
    assert first["transitions"] == [] and first["evidence"] == [{"a": 1}] and await db.get_task("t1") == first
    assert await task(db, "t2", dedupe_key="k", title="other") == first and await db.get_task("t2") is None
    assert (await task(db, "t2", product_id="p2", dedupe_key="k", created_at=2000))["id"] == "t2"
    await task(db, "t3", created_at=3000)
    for bad, match in (
        ({"product_id": "nobody"}, "Product is missing"), ({"project_id": "nobody"}, "Project is missing"),
        ({"project_id": "j3"}, "same Product"),
    ):  # fmt: skip
        await refused(task(db, "t9", **bad), match)
    with pytest.raises(Exception) as caught:
        await task(db, "t3")
    assert is_unique_violation(caught.value)
    assert ids(await db.get_tasks()) == ["t3", "t2", "t1"] and ids(await db.get_tasks(product_id="p1")) == ["t3", "t1"]
    for filters in ({"project_id": "j1"}, {"session_id": "s1"}, {"user_id": "u"}, {"project_id": "j1", "user_id": "u"}):
        assert ids(await db.get_tasks(**filters)) == ["t1"]
    assert ids(await db.get_tasks(project_id="j1", user_id="v")) == []
    assert ids(await db.get_tasks(status="backlog", product_id="p2")) == ["t2"]
    moved = await db.update_task("t3", project_id="j2", brief="b")
    assert (moved["project_id"], moved["brief"]) == ("j2", "b")
    assert ids(await db.get_tasks(sort_by="updated_at")) == ["t3", "t2", "t1"]
    assert (await db.get_tasks(limit=1, page=2))[1] == 3
    await refused(db.update_task("t3", project_id="j3"), "same Product")
    await refused(db.update_task("t3", status="done"), "Unsupported")
    assert await db.update_task("t3", user_id="v", brief="x") is None and await db.update_task("nobody") is None
    assert await db.delete_task("t3", updated_before=10**11) is False
    assert await db.delete_task("t3", user_id="v") is False and await db.delete_task("t3") is True
    assert await db.delete_task("t3") is False and await db.get_task("t3") is None
    assert ids(await db.get_tasks()) == ["t2", "t1"] and ids(await db.get_tasks(include_deleted=True))[0] == "t3"
    assert await db.get_product_counts([]) == {} == await db.get_project_counts([])
    assert await db.get_product_counts(["p1", "p2", "nobody"]) == {
        "p1": {"projects": 2, "tasks": {**NONE, "backlog": 1}}, "p2": {"projects": 1, "tasks": {**NONE, "backlog": 1}},
        "nobody": {"projects": 0, "tasks": NONE},
    }  # fmt: skip
    assert (await db.get_project_counts(["j1", "j2"]))["j2"] == {"tasks": NONE}
    restored = await db.restore_task("t3")
    assert restored["deleted_at"] is None and restored["transitions"] == [] and await db.restore_task("t3") is None
    assert (await db.get_project_counts(["j2"]))["j2"] == {"tasks": {**NONE, "backlog": 1}}


async def test_an_archive_takes_the_children_along_and_a_restoration_gives_them_back(db: Any) -> None:
    await product(db)
    await project(db)
    await project(db, "j2")
    for id, values in (("t1", {"project_id": "j1"}), ("t2", {"project_id": "j1"}), ("t3", {}), ("t4", {})):
        await task(db, id, **values)
    await db.transition_task("t3", "ready", "go", **AGENT)
    with pytest.raises(ValueError) as caught:
        await db.delete_product("p1")
    assert caught.value.args[0]["tasks"] == [{"id": "t3", "title": "do t3"}]
    assert await db.get_product("p1") is not None and ids(await db.get_projects()) == ["j2", "j1"]
    await db.transition_task("t3", "backlog", "not yet")
    assert await db.delete_task("t2") is True
    assert await db.delete_project("j1", user_id="v") is False and await db.delete_project("nobody") is False
    assert await db.delete_project("j1", updated_before=10**11) is False
    assert await db.delete_project("j1") is True and await db.delete_project("j1") is False
    gone = await db.get_task("t1", include_deleted=True)
    assert gone["transitions"][-1]["archived_by"] == {"type": "project", "id": "j1"} and gone["status"] == "backlog"
    assert (await db.get_project("j1", include_deleted=True))["transitions"][-1]["action"] == "archive"
    assert ids(await db.get_tasks()) == ids(await db.get_tasks(include_deleted=True)) == ["t4", "t3"]
    assert ids(await db.get_projects()) == ["j2"] and ids(await db.get_projects(include_deleted=True)) == ["j2", "j1"]
    for call in (db.restore_task("t1"), task(db, "t9", project_id="j1"), db.update_task("t4", project_id="j1")):
        await refused(call, "Project is missing or archived")
    assert await db.delete_product("p1", user_id="v") is False and await db.delete_product("p1") is True
    assert await db.get_tasks(include_deleted=True) == await db.get_projects(include_deleted=True) == ([], 0)
    assert await db.get_product_counts(["p1"]) == {"p1": {"projects": 0, "tasks": NONE}}
    for call in (task(db, "t9"), project(db, "j9"), db.restore_project("j1"), db.restore_task("t4")):
        await refused(call, "Product is missing or archived")
    assert await db.restore_product("p1", user_id="v") is None
    assert (await db.restore_product("p1"))["deleted_at"] is None and await db.restore_product("p1") is None
    # What was archived otherwise stays archived.
    assert ids(await db.get_projects()) == ["j2"] and ids(await db.get_tasks()) == ["t4", "t3"]
    assert [entry.get("action") for entry in (await db.get_task("t4"))["transitions"]] == ["archive", "restore"]
    assert (await db.restore_project("j1"))["deleted_at"] is None and await db.restore_project("j1") is None
    assert ids(await db.get_tasks(project_id="j1")) == ["t1"]
    assert (await db.get_task("t2", include_deleted=True))["deleted_at"] is not None
    # Ended work goes after its time.
    await db.transition_task("t1", "cancelled", "no")
    await db.transition_task("t2", "cancelled", "no")
    assert await db.delete_project("j1", updated_before=10**11) is False  # it is not ended
    await db.restore_task("t2")
    await db.transition_task("t2", "cancelled", "no")
    await db.transition_project("j1", "cancelled", "no")
    assert await db.delete_project("j1", updated_before=1) is False
    assert await db.delete_task("t1", updated_before=10**11) is True
    assert await db.delete_project("j1", updated_before=10**11) is True


async def test_lifecycles_follow_the_history_that_was_seen(db: Any) -> None:
    await product(db)
    await project(db, user_id="u")
    await task(db, project_id="j1", user_id="u")
    assert await db.transition_task("nobody", "ready", "x") is None
    await refused(db.transition_task("t1", "done", "x"), "Invalid task transition")
    await refused(db.transition_task("t1", "ready", " ", **AGENT), "reason")
    assert await db.transition_task("t1", "ready", "go", user_id="v", **AGENT) is None
    assert await db.transition_task("t1", "ready", "go", expected_updated_at=5, **AGENT) is None
    ready = await db.transition_task(
        "t1", "ready", "go", user_id="u", accepted_by="u", expected_updated_at=None, **AGENT
    )
    assert (ready["status"], ready["accepted_by"], ready["executor_id"]) == ("ready", "u", "a1")
    assert await db.update_task("t1", brief="x") is None  # no longer in the backlog
    # Runs
    assert await db.start_task_run("t1", 1, []) is None and await db.start_task_run("nobody", 1, []) is None
    await refused(db.start_task_run("t1", 2, ready["transitions"]), "attempt")
    started = await db.start_task_run("t1", 1, ready["transitions"], user_id="u", run_db_id="d")
    assert (started["status"], started["job_id"], started["result"]) == ("in_progress", task_run_id("t1", 1), None)
    assert await db.start_task_run("t1", 1, ready["transitions"]) is None
    job, history = started["job_id"], started["transitions"]
    assert await db.complete_task_run("t1", "another job", {"status": "COMPLETED"}) is None
    assert await db.complete_task_run("t1", job, {"status": "COMPLETED"}, expected_transitions=[]) is None
    assert ids(await db.get_tasks(failed=True)) == [] and ids(await db.get_tasks(failed=False)) == ["t1"]
    failed = await db.complete_task_run("t1", job, {"status": "ERROR"}, history)
    assert (failed["status"], failed["transitions"]) == ("in_progress", history)
    assert ids(await db.get_tasks(failed=True)) == ["t1"] and ids(await db.get_tasks(failed=False)) == []
    assert await db.complete_task_run("t1", job, {"status": "COMPLETED"}) is None  # it has a result
    again = await db.start_task_run("t1", 2, history)
    assert again["result"] is None and again["session_id"] == started["session_id"]
    done = await db.complete_task_run("t1", again["job_id"], {"status": "COMPLETED"}, checkout={"ref": "x"})
    assert (done["status"], done["metadata"], done["result"]) == (
        "in_review", {"checkout": {"ref": "x"}}, {"status": "COMPLETED"},
    )  # fmt: skip
    # Projects
    assert await db.transition_project("nobody", "active", "x") is None
    await refused(db.transition_project("j1", "done", "x"), "Invalid project transition")
    assert await db.transition_project("j1", "active", "go", user_id="v") is None
    assert (await db.transition_project("j1", "active", "go", user_id="u"))["status"] == "active"
    await refused(db.transition_project("j1", "done", "x"), "open Tasks")
    await db.transition_task("t1", "done", "good")
    finished = await db.transition_project("j1", "done", "all done", accepted_by="u")
    assert [entry["target"] for entry in finished["transitions"]] == ["active", "done"]
    await refused(task(db, "t2", project_id="j1"), "completed or cancelled Project")
    # Acceptance on a routine's account
    budget = {"routine_id": "r1", "policy": "low", "max_acceptances": 1}
    for id in ("t3", "t4"):
        await task(db, id, routine_id="r1")
    await refused(db.transition_task("t3", "ready", "x", auto_accept=budget, **AGENT), "expected_updated_at")
    accepted = await db.transition_task("t3", "ready", "x", auto_accept=budget, expected_updated_at=None, **AGENT)
    assert accepted["transitions"][-1]["auto_accept"] == budget
    await refused(
        db.transition_task("t4", "ready", "x", auto_accept=budget, expected_updated_at=None, **AGENT), "limit reached"
    )
    assert await db.count_company_acceptances("r1", "low", "t4") == 1
    assert await db.count_company_acceptances("r1", "low", "t3") == 0
    assert await db.count_company_acceptances("r1", "high", "t4") == 0
    assert await db.count_company_acceptances("r1", "low", "t4", user_id="u") == 0
    await project(db, "j2", status="active")
    now = (await db.get_project("j2"))["updated_at"]
    await refused(
        db.transition_project("j2", "done", "x", auto_accept=budget, expected_updated_at=now), "limit reached"
    )
    wider = {**budget, "max_acceptances": 2}
    await db.transition_project("j2", "done", "x", auto_accept=wider, expected_updated_at=now)
    assert await db.count_company_acceptances("r1", "low", "nobody") == 2


async def test_steps_of_what_is_missing_or_archived(db: Any) -> None:
    for id in ("p1", "p2", "p3"):
        await product(db, id)
        await project(db, f"{id}-j", product_id=id, status="active")
        await project(db, f"{id}-gone", product_id=id, status="active")
        await task(db, f"{id}-t", product_id=id, routine_id="r1")
        await task(db, f"{id}-gone", product_id=id, routine_id="r1")
        await task(db, f"{id}-of", product_id=id, project_id=f"{id}-gone", routine_id="r1")
        assert await db.delete_project(f"{id}-gone") and await db.delete_task(f"{id}-gone")
    assert await db.delete_product("p2") is True
    archived = ("p1-gone", "p1-of", "p2-t", "p2-gone", "p2-of")
    for id in ("nobody", *archived):
        assert await db.transition_task(id, "ready", "go", **AGENT) is None
        assert await db.transition_task(id, "ready", "go", expected_updated_at=None, **AGENT) is None
    assert await db.transition_project("nobody", "done", "x") is None
    assert await db.transition_project("p1-gone", "done", "x") is None
    for id in ("p2-j", "p2-gone"):
        await refused(db.transition_project(id, "done", "x"), "Product is missing or archived")
    # On a routine's account, parents and the limit are looked at first.
    budget = {"routine_id": "r1", "policy": "low", "max_acceptances": 1}
    account = {"auto_accept": budget, "expected_updated_at": None}
    for id in ("nobody", "p1-t", "p1-gone"):
        await refused(db.transition_task(id, "ready", "go", auto_accept=budget, **AGENT), "expected_updated_at")
    for id in ("nobody", "p1-j", "p1-gone"):
        await refused(db.transition_project(id, "done", "x", auto_accept=budget), "expected_updated_at")
        await refused(db.transition_project(id, "active", "x", **account), "expected_updated_at")
    for id in ("nobody", "p1-gone"):
        assert await db.transition_task(id, "ready", "go", **account, **AGENT) is None
        assert await db.transition_project(id, "done", "x", **account) is None
    await refused(db.transition_task("p1-of", "ready", "go", **account, **AGENT), "Project is missing or archived")
    await refused(db.transition_task("p2-t", "ready", "go", **account, **AGENT), "Product is missing or archived")
    assert (await db.transition_task("p3-t", "ready", "go", **account, **AGENT))["status"] == "ready"
    for id in ("nobody", "p1-t", "p1-gone"):
        await refused(db.transition_task(id, "ready", "go", **account, **AGENT), "limit reached")
    for id in ("nobody", "p1-j", "p1-gone"):
        await refused(db.transition_project(id, "done", "x", **account), "limit reached")
    # What has an acceptance spends no other.
    back = await db.transition_task("p3-t", "backlog", "not yet")
    again = {**account, "expected_updated_at": back["updated_at"]}
    assert (await db.transition_task("p3-t", "ready", "go", **again, **AGENT))["status"] == "ready"


async def test_a_routines_limit_holds_over_all_products(db: Any) -> None:
    """Of many that are accepted at once, each in a product of its own, and a second time."""
    for number in range(6):
        await product(db, f"p{number}")
        await task(db, f"t{number}", product_id=f"p{number}", routine_id="r1")
    budget = {"routine_id": "r1", "policy": "low", "max_acceptances": 2}
    accept = {"auto_accept": budget, "expected_updated_at": None, **AGENT}
    calls: list[Any] = [(db.raw.transition_task, (f"t{number}", "ready", "go"), accept) for number in range(6)]
    for expected in (2, 0):
        outcomes = await at_once(db, calls)
        assert len([row for row in outcomes if isinstance(row, dict)]) == expected
    assert len(ids(await db.get_tasks(status="ready"))) == 2


async def test_of_many_at_once_one_wins(db: Any) -> None:
    await product(db)
    await project(db, status="active")
    calls: list[Any] = [(db.raw.create_task, (task_row(f"w{n}", dedupe_key="k"),), {}) for n in range(WORKERS)]
    rows = await at_once(db, calls)
    assert len({row["id"] for row in rows}) == 1 and ids(await db.get_tasks()) == [rows[0]["id"]]
    id = rows[0]["id"]
    ready = await db.transition_task(id, "ready", "go", **AGENT)
    calls = [(db.raw.start_task_run, (id, 1, ready["transitions"]), {}) for n in range(WORKERS)]
    assert len([row for row in await at_once(db, calls) if row is not None]) == 1
    budget = {"routine_id": "r1", "policy": "low", "max_acceptances": 2}
    for number in range(6):
        await task(db, f"r{number}", routine_id="r1")
    accept = {"auto_accept": budget, "expected_updated_at": None, **AGENT}
    calls = [(db.raw.transition_task, (f"r{number}", "ready", "go"), accept) for number in range(6)]
    outcomes = await at_once(db, calls)
    assert len([row for row in outcomes if isinstance(row, dict)]) == 2
    assert [str(error) for error in outcomes if not isinstance(error, dict)] == ["Routine acceptance limit reached"] * 4
    calls = [(db.raw.add_product_routine, ("p1", f"r{number}"), {}) for number in range(6)]
    assert [row for row in await at_once(db, calls) if not isinstance(row, dict)] == []
    assert set((await db.get_product("p1"))["metadata"]["routine_ids"]) == {f"r{number}" for number in range(6)}

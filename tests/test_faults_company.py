"""A company's hierarchy beyond the conformance suite: faults at each call, more children than a commit takes, and what
a store says that cannot commit several documents."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agno_docstores import UnsupportedTopologyError
from agno_docstores.conformance.company import AGENT, ids, product, project, source, task
from tests.faults import FAULTS, Crashed, replays

Operation = Callable[[Any], Awaitable[Any]]


async def prepared(db: Any) -> None:
    """A product with a project and two tasks, one of them in the project; and another, archived in the same shape."""
    for id in ("p1", "p2"):
        await product(db, id)
        await project(db, f"{id}-j", product_id=id)
        await task(db, f"{id}-t1", product_id=id, project_id=f"{id}-j", dedupe_key="k")
        await task(db, f"{id}-t2", product_id=id)
    await db.delete_product("p2")


async def state(db: Any) -> dict[str, Any]:
    """All rows as far as they are no matter of the clock."""
    found: dict[str, Any] = {}
    for get, names in (
        (db.get_product, ("p1", "p2")),
        (db.get_project, ("p1-j", "p2-j")),
        (db.get_task, ("p1-t1", "p1-t2", "p2-t1", "p2-t2", "new")),
    ):
        for name in names:
            row = await get(name, include_deleted=True)
            if row is not None:
                history = [(entry.get("action"), entry["target"]) for entry in row.get("transitions") or []]
                found[name] = (row.get("status"), row["deleted_at"] is None, history, row.get("project_id"))
    return found


async def archive(db: Any) -> Any:
    await db.delete_product("p1")


async def archive_of_a_project(db: Any) -> Any:
    await db.delete_project("p1-j")


async def restoration(db: Any) -> Any:
    await db.restore_product("p2")


async def transition(db: Any) -> Any:
    if (await db.get_task("p1-t1"))["status"] == "backlog":
        await db.transition_task("p1-t1", "ready", "go", **AGENT)


async def proposal(db: Any) -> Any:
    await task(db, "new", project_id="p1-j", dedupe_key="new")


async def move(db: Any) -> Any:
    await db.update_task("p1-t2", project_id="p1-j")


OPERATIONS: list[Operation] = [archive, archive_of_a_project, restoration, transition, proposal, move]


@pytest.mark.cells("memory-sync")
@pytest.mark.parametrize("most", [40, 1])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
async def test_a_fault_at_any_call_leaves_rows_whole_and_a_repetition_converges(
    cell: Any, runner: Any, operation: Operation, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a hierarchy fits into a commit, all of it is as before or as after."""
    monkeypatch.setattr("agno_docstores.domains.company.MOST_CHILDREN", most)
    expected: dict[str, Any] = {}
    async for replay in replays(cell, ("none", *FAULTS)):
        db, survivor = replay.open(), replay.open()
        await prepared(db)
        before = await state(db)
        try:
            await replay.strike(db, operation)
            expected = expected or await state(db)
        except Crashed:
            between = await state(survivor)
            if most > 1:
                assert between in (before, expected), str(replay)
            for row in between:
                assert between[row] in (before.get(row), expected[row]), f"{replay}: {row}"
            await operation(survivor)
        assert await state(survivor) == expected != before, str(replay)


@pytest.mark.cells("memory-sync", "mongo-sync-secantus", "dynamo-sync-local", "firestore-sync-embedded")
async def test_an_archive_of_more_than_a_commit_takes(db: Any) -> None:
    await product(db)
    for number in range(45):
        await task(db, f"t{number:02}")
    assert await db.delete_product("p1") is True
    assert ids(await db.get_tasks(limit=100)) == []
    assert (await db.get_task("t44", include_deleted=True))["transitions"][-1]["action"] == "archive"
    assert (await db.restore_product("p1"))["deleted_at"] is None
    assert len(ids(await db.get_tasks(limit=100))) == 45


@pytest.mark.cells("memory-*-standalone", "mongo-sync-standalone")
async def test_where_a_commit_holds_one_document_a_hierarchy_is_refused_by_name(db: Any) -> None:
    made = await product(db)
    for call in (source, project, task):
        with pytest.raises(UnsupportedTopologyError):
            await call(db)
    assert await db.get_product("p1") == made
    assert await db.get_sources() == await db.get_projects() == await db.get_tasks() == ([], 0)

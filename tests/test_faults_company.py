"""A company's hierarchy beyond the conformance suite: faults at each call, others between any two calls, more children
than a commit takes, and what a store says that cannot commit several documents."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agno_docstores import UnsupportedTopologyError
from agno_docstores.conformance.company import AGENT, ids, product, project, source, task, task_row
from tests.faults import FAULTS, Between, Crashed, Fault, replays

Operation = Callable[[Any], Awaitable[Any]]
#: One acceptance on a routine's account, which then is spent.
ON_ACCOUNT: dict[str, Any] = {
    "expected_updated_at": None,
    "auto_accept": {"routine_id": "r", "policy": "low", "max_acceptances": 1},
}


async def prepared(db: Any) -> None:
    """A product with a project and two tasks, one of them in the project; and another, archived in the same shape."""
    for id in ("p1", "p2"):
        await product(db, id)
        await project(db, f"{id}-j", product_id=id)
        await task(db, f"{id}-t1", product_id=id, project_id=f"{id}-j", dedupe_key="k")
        await task(db, f"{id}-t2", product_id=id, routine_id="r")
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


async def acceptance_on_account(db: Any) -> Any:
    if (await db.get_task("p1-t2"))["status"] == "backlog":
        await db.transition_task("p1-t2", "ready", "go", **ON_ACCOUNT, **AGENT)


OPERATIONS: list[Operation] = [
    archive, archive_of_a_project, restoration, transition, proposal, move, acceptance_on_account,
]  # fmt: skip


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


# --- Another between any two calls, where a move takes many commits ---------------------------------------------------

Act = Callable[[Any], Any]
TASKS = ("t1", "t2", "t3", "t4", "new")


def archive_product(db: Any) -> Any:
    return db.delete_product("p1")


def restore_product(db: Any) -> Any:
    return db.restore_product("p1") is not None


def archive_project(db: Any) -> Any:
    return db.delete_project("j1")


def restore_project(db: Any) -> Any:
    return db.restore_project("j1") is not None


def new_task(db: Any) -> Any:
    return db.create_task(task_row("new", project_id="j1"))["id"]


def acceptance(db: Any) -> Any:
    return (db.transition_task("t2", "ready", "go", **AGENT) or {}).get("status")


def removal_of_a_task(db: Any) -> Any:
    return db.delete_task("t2")


def new_name(db: Any) -> Any:
    return (db.update_product("p1", name="new") or {}).get("name")


MOVES: list[Act] = [archive_product, restore_product, archive_project, restore_project]
OTHERS: list[Act] = [*MOVES, new_task, acceptance, removal_of_a_task, new_name]


def arranged(db: Any, move: Act) -> None:
    """A product with a project, tasks in and beside it, one of them archived by itself, such that the move is one."""
    db.create_product({"id": "p1", "name": "p", "created_at": 1})
    row = {"id": "j1", "product_id": "p1", "name": "j", "status": "proposed", "transitions": [], "created_at": 1}
    db.create_project(row)
    for id, of in (("t1", "j1"), ("t2", "j1"), ("t3", "j1"), ("t4", None)):
        db.create_task(task_row(id, project_id=of))
    db.delete_task("t3")
    if move is restore_product:
        db.delete_product("p1")
    if move is restore_project:
        db.delete_project("j1")


def outcome(act: Act, db: Any) -> Any:
    try:
        return act(db)
    except ValueError as error:
        return str(error)


def rows(db: Any) -> dict[str, Any]:
    """All rows as far as they are no matter of the clock, and what is listed."""
    found: dict[str, Any] = {"listed": {row["id"] for row in db.get_tasks()[0] + db.get_projects()[0]}}
    found["counts"] = db.get_product_counts(["p1"]), db.get_project_counts(["j1"])
    for get, names in ((db.get_product, ("p1",)), (db.get_project, ("j1",)), (db.get_task, TASKS)):
        for name in names:
            row = get(name, include_deleted=True)
            if row is not None:
                history = [(entry.get("action"), entry["target"]) for entry in row.get("transitions") or []]
                found[name] = (row.get("name"), row.get("status"), row["deleted_at"] is None, history)
    return found


def in_turn(cell: Any, move: Act, *acts: Act) -> dict[Act, Any]:
    """What each of some acts answers, done one after the other, and the rows then."""
    with cell.storage() as name:
        db = cell.open(name)
        arranged(db, move)
        answers: dict[Any, Any] = {act: outcome(act, db) for act in acts}
        answers |= {rows: rows(db)}
        db.close()
    return answers


@pytest.mark.cells("memory-sync")
@pytest.mark.parametrize("other", OTHERS, ids=lambda act: act.__name__)
@pytest.mark.parametrize("move", MOVES, ids=lambda act: act.__name__)
def test_a_move_in_many_commits_and_another_act_are_as_if_one_came_after_the_other(
    cell: Any, move: Act, other: Act, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Done by another before each call of the move; what either answers, and what is left, is that of one order."""
    monkeypatch.setattr("agno_docstores.domains.company.MOST_CHILDREN", 1)
    allowed = [in_turn(cell, move, move, other), in_turn(cell, move, other, move)]
    if move is other:
        allowed = [in_turn(cell, move, move)]
    for at in itertools.count(1):
        with cell.storage() as name:
            db, survivor = cell.open(name), cell.open(name)
            arranged(db, move)
            between = Between(at, lambda survivor=survivor: outcome(other, survivor))  # type: ignore[misc]
            db.io.hooks.append(between)
            answer = outcome(move, db)
            db.io.hooks.clear()
            if between.done and move is not other:
                assert {move: answer, other: between.answer, rows: rows(db)} in allowed, f"before call {at}"
            elif between.done:
                assert {answer, between.answer} == {True, False}, f"before call {at}"
                assert rows(db) == allowed[0][rows], f"before call {at}"
            db.close()
            survivor.close()
        if not between.done:
            assert at > 5
            break


@pytest.mark.cells("memory-sync")
@pytest.mark.parametrize("other", OTHERS, ids=lambda act: act.__name__)
@pytest.mark.parametrize("move", MOVES, ids=lambda act: act.__name__)
def test_whoever_comes_after_a_move_that_crashed_finds_it_done_or_not_begun(
    cell: Any, move: Act, other: Act, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks at the parent, that is; in the end the repetition of the move does."""
    monkeypatch.setattr("agno_docstores.domains.company.MOST_CHILDREN", 1)
    allowed = [in_turn(cell, move, *acts)[rows] for acts in ((move, other, move), (other, move))]
    for at in itertools.count(1):
        with cell.storage() as name:
            db, survivor = cell.open(name), cell.open(name)
            arranged(db, move)
            fault = Fault("crash after", at)
            db.io.hooks.append(fault)
            try:
                move(db)
            except Crashed:
                outcome(other, survivor)
                outcome(move, survivor)
                assert rows(survivor) in allowed, f"after call {at}"
            db.io.hooks.clear()
            db.close()
            survivor.close()
        if not fault.struck:
            assert at > 5
            break


@pytest.mark.cells("memory-sync")
@pytest.mark.parametrize("move", MOVES, ids=lambda act: act.__name__)
def test_nobody_ever_sees_a_live_child_of_an_archived_parent(
    cell: Any, move: Act, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agno_docstores.domains.company.MOST_CHILDREN", 1)

    def look(db: Any) -> None:
        seen = rows(db)
        live = {name: row[2] for name, row in seen.items() if name not in ("listed", "counts")}
        assert seen["listed"] == {name for name, alive in live.items() if alive and name != "p1"}
        assert live["j1"] or not (live["t1"] or live["t2"])
        assert live["p1"] or not any(live.values())

    for at in itertools.count(1):
        with cell.storage() as name:
            db, reader = cell.open(name), cell.open(name)
            arranged(db, move)
            between = Between(at, lambda reader=reader: look(reader))  # type: ignore[misc]
            db.io.hooks.append(between)
            move(db)
            db.io.hooks.clear()
            look(reader)
            db.close()
            reader.close()
        if not between.done:
            assert at > 5
            break


@pytest.mark.cells("mongo-sync-secantus", "dynamo-sync-local", "firestore-sync-embedded")
@pytest.mark.parametrize(("move", "other"), [(restore_product, archive_product), (archive_project, restore_project)])
def test_another_move_between_the_parts_of_one(
    cell: Any, move: Act, other: Act, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On each store that such a hierarchy is on: the part after it is refused, and nothing is done twice."""
    monkeypatch.setattr("agno_docstores.domains.company.MOST_CHILDREN", 1)
    allowed = in_turn(cell, move, move, other)
    with cell.storage() as name:
        db, survivor = cell.open(name), cell.open(name)
        arranged(db, move)
        commit, parts = db._engine.kernel.commit, itertools.count(1)
        answers: dict[Act, Any] = {}

        async def then_another(writes: Any) -> Any:
            done = await commit(writes)
            if next(parts) == 1:
                answers[other] = outcome(other, survivor)
            return done

        monkeypatch.setattr(db._engine.kernel, "commit", then_another)
        answers[move] = outcome(move, db)
        assert {**answers, rows: rows(survivor)} == allowed
        db.close()
        survivor.close()


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


@pytest.mark.cells("memory-sync")
def test_a_routines_limit_holds_though_an_index_shows_its_acceptances_late(cell: Any) -> None:
    """As on DynamoDB; the rows that it has already are those of an index, too, for some come with their history."""
    with cell.storage() as name:
        db = cell.open(name)
        entry = {"target": "ready", "auto_accept": ON_ACCOUNT["auto_accept"]}
        for number in range(3):
            db.create_product({"id": f"p{number}", "name": "p", "created_at": 1})
            db.create_task(task_row(f"t{number}", product_id=f"p{number}", routine_id="r"))
            db.create_project(
                {"id": f"j{number}", "product_id": f"p{number}", "name": "j", "status": "active", "created_at": 1}
            )
        db.store.lag_indexes()
        assert db.transition_task("t0", "ready", "go", **ON_ACCOUNT, **AGENT)["status"] == "ready"
        with pytest.raises(ValueError, match="limit reached"):
            db.transition_task("t1", "ready", "go", **ON_ACCOUNT, **AGENT)
        with pytest.raises(ValueError, match="limit reached"):
            db.transition_project("j1", "done", "x", **ON_ACCOUNT)
        db.store.catch_up()
        db.create_task(task_row("t", product_id="p2", routine_id="r", status="done", transitions=[entry]))
        wider = {**ON_ACCOUNT, "auto_accept": {**ON_ACCOUNT["auto_accept"], "max_acceptances": 2}}
        with pytest.raises(ValueError, match="limit reached"):
            db.transition_task("t2", "ready", "go", **wider, **AGENT)
        db.close()


@pytest.mark.cells("memory-*-standalone", "mongo-sync-standalone")
async def test_where_a_commit_holds_one_document_a_hierarchy_is_refused_by_name(db: Any) -> None:
    made = await product(db)
    for call in (source, project, task):
        with pytest.raises(UnsupportedTopologyError):
            await call(db)
    assert await db.get_product("p1") == made
    assert await db.get_sources() == await db.get_projects() == await db.get_tasks() == ([], 0)

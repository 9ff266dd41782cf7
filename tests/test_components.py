"""Components beyond the conformance suite: faults at each call, another writer between any two calls, purges, costs."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from agno.db.base import ComponentDependencyError

from agno_docstores.catalog import TOGETHER
from agno_docstores.conformance.components import AGENT, create, link, schedule, schedule_row
from agno_docstores.conformance.plugin import Awaitable as Handle
from agno_docstores.domains.components import DEPTH
from agno_docstores.errors import StoreUnavailableError
from agno_docstores.port import EVERYTHING, Span
from agno_docstores.schema import COMPONENTS, CONFIGS
from tests.faults import CRASHES, Between, Crashed, replays, unnoticed

# What is replayed is the order of calls, which no server changes; both modes of commit.
REPLAYED = pytest.mark.cells("memory-sync*")
ONE_OF_EACH = pytest.mark.cells("memory-sync*", "mongo-sync-standalone", "dynamo-sync-moto", "firestore-sync-embedded")

Operation = Callable[[Any], Awaitable[Any]]


async def prepared(db: Any) -> None:
    """A child, a parent that has it in a published version and a draft, an archived one that has it; schedules."""
    await create(db, "child", user_id="u")
    await create(db, "parent", link("child"), user_id="u")
    await db.upsert_config("parent", {"name": "draft"}, label="l", links=[link("child"), link("code", kind="tool")])
    await create(db, "old", link("child"), user_id="u")
    await schedule(db, "s1", target_type="agent", target_id="parent")
    await schedule(db, "s2", endpoint="/agents/parent/runs")
    await schedule(db, "s3", target_type="agent", target_id="old")
    await db.delete_component("old")


async def state(db: Any) -> dict[str, Any]:
    """All that can be read, without the times at which it was written."""
    found: dict[str, Any] = {}
    for row in (await db.list_components(include_deleted=True))[0]:
        id = row["component_id"]
        graph = await db.load_component_graph(id)
        found[id] = (
            {**row, "created_at": None, "updated_at": None, "deleted_at": row["deleted_at"] is not None},
            [
                (config["version"], config["stage"], config["label"], config["notes"], config["config"])
                for config in await db.list_configs(id, include_config=True, include_deleted=True)
            ],
            [sorted(one["child_component_id"] for one in await db.get_links(id, version)) for version in range(1, 5)],
            graph and graph["resolved_versions"],
        )
    found["dependents"] = {
        id: [(row["parent_component_id"], row["parent_version"]) for row in await db.get_dependents(id)]
        for id in ("child", "code", "parent")
    }
    return found


async def schedules(db: Any) -> dict[str, bool]:
    return {row["id"]: row["enabled"] for row in (await db.get_schedules())[0]}


async def creation(db: Any) -> Any:
    return (await create(db, "new", link("child"), link("code", position=1, kind="tool")))[1]["version"]


async def plain_creation(db: Any) -> Any:
    return (await db.upsert_component("new", AGENT, name="n"))["name"]


async def append(db: Any) -> Any:
    return (await db.upsert_config("child", {"n": 1}, expected_latest_version=1))["version"]


async def edit(db: Any) -> Any:
    return (await db.upsert_config("parent", {"name": "edited"}, version=2, links=[link("child")]))["config"]


async def publication(db: Any) -> Any:
    return (await db.upsert_config("parent", version=2, stage="published"))["stage"]


async def removal_of_draft(db: Any) -> Any:
    return await db.delete_config("parent", 2)


async def archive(db: Any) -> Any:
    return await db.delete_component("parent")


async def restoration(db: Any) -> Any:
    return await db.restore_component("old")


async def removal(db: Any) -> Any:
    return await db.delete_component("parent", hard_delete=True)


async def removal_of_what_is_pinned(db: Any) -> Any:
    return await db.delete_component("child", hard_delete=True, require_no_dependents=False)


async def purge(db: Any) -> Any:
    return (await db.purge_user("u")).complete


OPERATIONS: list[Operation] = [
    creation, plain_creation, append, edit, publication, removal_of_draft, archive, restoration, removal,
    removal_of_what_is_pinned, purge,
]  # fmt: skip


async def observed(db: Any) -> tuple[Any, Any]:
    return await state(db), await schedules(db)


@REPLAYED
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
async def test_passing_faults_are_not_noticed(cell: Any, runner: Any, operation: Operation) -> None:
    await unnoticed(cell, operation, prepared, observed)


@REPLAYED
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
async def test_a_crash_at_any_call_is_before_or_after_and_can_be_repeated(
    cell: Any, runner: Any, operation: Operation
) -> None:
    """Components are as before or as after, but for a removal of several; schedules may follow with the repetition."""
    expected: tuple[Any, Any] | None = None
    whole = operation not in (purge, removal_of_what_is_pinned)
    async for replay in replays(cell, ("none", *CRASHES)):
        db, survivor = replay.open(), replay.open()
        await prepared(db)
        before = await state(db)
        try:
            await replay.strike(db, operation)
            assert not replay.fault.struck
            expected = expected or await observed(db)
        except Crashed:
            assert expected is not None
            between = await state(survivor)
            assert not whole or between in (before, expected[0]), str(replay)
            try:
                await operation(survivor)
            except ValueError:  # the crashed one had taken effect already
                assert between == expected[0]
            assert await observed(survivor) == expected, str(replay)


# --- Another writer between any two calls -----------------------------------------------------------------------------


@contextmanager
def two_handles(cell: Any) -> Iterator[tuple[Any, Any]]:
    with cell.storage() as name:
        first, second = cell.open(name), cell.open(name)
        yield Handle(first), second
        first.close()
        second.close()


def archived(db: Any) -> bool:
    return db.delete_component("child") is True


def removed(db: Any) -> bool:
    return db.delete_component("child", hard_delete=True) is True


def linked(db: Any) -> bool:
    return bool(db.upsert_config("parent", {}, links=[link("child")]))


def linked_by_new(db: Any) -> bool:
    return bool(db.create_component_with_config("new", AGENT, "new", {}, links=[link("child")]))


def restored(db: Any) -> bool:
    return db.restore_component("old") is True


def as_answer(call: Callable[[Any], bool], db: Any) -> Any:
    try:
        return call(db)
    except ValueError as error:
        return error


@REPLAYED
@pytest.mark.parametrize("gone", [archived, removed])
@pytest.mark.parametrize("pinning", [linked, linked_by_new, restored])
def test_nothing_live_pins_what_is_archived_at_the_same_time(
    cell: Any, gone: Callable[[Any], bool], pinning: Callable[[Any], bool]
) -> None:
    """Each of the two, done before any call of the other: one of them is refused, or the removal had come first."""
    for first, second in ((gone, pinning), (pinning, gone)):
        for at in itertools.count(1):
            with cell.storage() as name:
                db, other = cell.open(name), cell.open(name)
                for id in ("child", "parent", "code"):
                    db.create_component_with_config(id, AGENT, id, {}, stage="published")
                if pinning is restored:
                    db.create_component_with_config("old", AGENT, "old", {}, stage="published", links=[link("child")])
                    db.delete_component("old")
                between = Between(at, lambda other=other, second=second: as_answer(second, other))  # type: ignore[misc]
                db.io.hooks.append(between)
                answers = {first: as_answer(first, db)}
                db.io.hooks.clear()
                answers[second] = between.answer
                child = db.get_component("child", include_deleted=True)
                pins = db.get_dependents("child", active_parents_only=True)
                live = child is not None and child["deleted_at"] is None
                if between.done:
                    where = f"{second.__name__} before call {at} of {first.__name__}: {answers}, {pins}"
                    assert True in answers.values() and (live or not pins or child is None), where
                    assert live is (answers[gone] is not True), where
                    assert bool(pins) is (answers[pinning] is True), where
                db.close()
                other.close()
            if not between.done:
                assert at > 2
                break


@REPLAYED
def test_two_that_link_to_one_another_at_the_same_time_close_no_cycle(cell: Any) -> None:
    for at in itertools.count(1):
        with cell.storage() as name:
            db, other = cell.open(name), cell.open(name)
            for id in ("a", "b"):
                db.create_component_with_config(id, AGENT, id, {})
            back = partial(as_answer, lambda db: bool(db.upsert_config("b", {}, links=[link("a")])), other)
            between = Between(at, back)
            db.io.hooks.append(between)
            answer = as_answer(lambda db: bool(db.upsert_config("a", {}, links=[link("b")])), db)
            db.io.hooks.clear()
            links = db.get_dependents("a") + db.get_dependents("b")
            assert len(links) == 1, f"before call {at}: {answer}, {between.answer}"
            db.close()
            other.close()
        if not between.done:
            assert at > 3
            break


class LostBehind:
    """A hook of the gateway: the reply to the n-th call is lost, and before anybody asks again another has written."""

    def __init__(self, at: int, act: Callable[[], Any]) -> None:
        self.at = at
        self.act = act
        self.count = 0

    def before(self, operation: str) -> None:
        self.count += 1

    def after(self, operation: str) -> None:
        if self.count == self.at:
            self.act()
            raise StoreUnavailableError(operation, "test", "the reply was lost", maybe_applied=True)


@REPLAYED
@pytest.mark.parametrize("created", [True, False])
def test_a_version_whose_reply_was_lost_is_written_once_though_others_wrote_since(cell: Any, created: bool) -> None:
    for at in itertools.count(1):
        with cell.storage() as name:
            db, other = cell.open(name), cell.open(name)
            if not created:
                db.create_component_with_config("c", AGENT, "c", {})
            fault = LostBehind(at, lambda other=other: other.upsert_config("p", {}, links=[link("c")]))  # type: ignore[misc]
            db.create_component_with_config("p", AGENT, "p", {})
            db.io.hooks.append(fault)
            if created:
                _, row = db.create_component_with_config("c", AGENT, "c", {"own": 1})
            else:
                row = db.upsert_config("c", {"own": 1}, label="l")
            db.io.hooks.clear()
            assert db.get_config("c", version=row["version"]) == row and row["config"] == {"own": 1}
            assert [one["version"] for one in db.list_configs("c")] == [row["version"], *([] if created else [1])]
            db.close()
            other.close()
        if fault.count < at:
            assert at > 3
            break


# --- Schedules of what is archived ------------------------------------------------------------------------------------


@REPLAYED
@pytest.mark.parametrize("gone", [archived, removed])
@pytest.mark.parametrize("aimed", [{"target_type": "agent", "target_id": "child"}, {"endpoint": "/agents/child/runs/"}])
def test_no_schedule_is_claimed_once_its_target_is_gone(
    cell: Any, gone: Callable[[Any], bool], aimed: dict[str, str]
) -> None:
    """A poller asks before each call of the archive: what it gets, it gets while the component is there."""

    def poll(db: Any) -> bool:
        claimed = db.claim_due_schedule("w")
        assert claimed is None or db.get_component("child") is not None
        return claimed is not None

    for at in itertools.count(1):
        with cell.storage() as name:
            db, other = cell.open(name), cell.open(name)
            db.create_component_with_config("child", AGENT, "child", {}, stage="published")
            db.create_schedule(schedule_row("s", next_run_at=5, **aimed))
            between = Between(at, lambda other=other: poll(other))  # type: ignore[misc]
            db.io.hooks.append(between)
            assert gone(db)
            db.io.hooks.clear()
            assert poll(other) is False and other.get_schedule("s")["enabled"] is False
            db.close()
            other.close()
        if not between.done:
            assert at > 4
            break


@pytest.mark.cells("memory-sync")
def test_a_schedule_that_an_index_shows_too_late_for_the_archive_never_runs(cell: Any) -> None:
    """As on DynamoDB: it is disabled by whoever comes to it next, a worker, a repetition or a restoration."""
    for step in ("claim", "repetition", "restoration"):
        with cell.storage() as name:
            db = cell.open(name)
            db.create_component_with_config("c", AGENT, "c", {}, stage="published")
            db.store.lag_indexes()
            db.create_schedule(schedule_row("s", next_run_at=5, target_type="agent", target_id="c"))
            db.create_schedule(schedule_row("of a team", next_run_at=6, endpoint="/teams/c/runs"))
            stats: dict[str, int] = {}
            assert db.delete_component("c", cascade_stats=stats) and stats == {"schedules_disabled": 0}
            db.store.catch_up()
            if step == "repetition":
                assert db.delete_component("c", cascade_stats=stats) is False and stats == {"schedules_disabled": 1}
            if step == "restoration":
                assert db.restore_component("c") is True
            assert db.claim_due_schedule("w")["id"] == "of a team" and db.claim_due_schedule("w") is None
            row = db.get_schedule("s")
            assert (row["enabled"], row["locked_by"]) == (False, None)
            assert row["disabled_reason"] == "target_archived:agent:c"
            db.close()


@pytest.mark.cells("memory-sync", "mongo-sync-secantus", "dynamo-sync-local", "firestore-sync-embedded")
async def test_an_archive_and_its_schedules_are_one_commit(db: Any) -> None:
    await create(db, "c")
    await schedule(db, "s", target_type="agent", target_id="c")
    commits: list[int] = []
    kernel = db.raw._engine.kernel
    commit = kernel.commit

    async def counted(writes: Any) -> Any:
        commits.append(len(writes))
        return await commit(writes)

    kernel.commit = counted
    assert await db.delete_component("c") is True
    assert commits == [2] and (await db.get_schedule("s"))["enabled"] is False


# --- What is left -----------------------------------------------------------------------------------------------------


async def records(db: Any) -> dict[str, list[str]]:
    kernel = db.raw._engine.kernel
    return {
        kind.name: sorted(record.ref.id for record in await kernel.span(Span(kind.name, EVERYTHING)))
        for kind in (COMPONENTS, CONFIGS)
    }


@ONE_OF_EACH
async def test_a_removed_component_leaves_nothing_behind(db: Any) -> None:
    await create(db, "child")
    configs = (await records(db))["component_configs"]
    await create(db, "c", link("child"), link("code", position=1, kind="tool"))
    await db.upsert_config("c", {"n": 1})
    await db.upsert_config("c", {"n": 2}, version=2)
    with pytest.raises(ComponentDependencyError):
        await db.upsert_config("c", {"n": 3}, version=2, stage="published", links=[link("code", kind="member")])
    assert len((await records(db))["component_configs"]) == 3
    assert await db.delete_component("c", hard_delete=True) is True
    assert await records(db) == {"components": ["child"], "component_configs": configs}


@ONE_OF_EACH
async def test_a_purge_takes_a_users_components_and_leaves_others_as_they_are(db: Any) -> None:
    await create(db, "mine", user_id="u")
    await db.upsert_config("mine", {"n": 2})
    await create(db, "gone", user_id="u")
    await db.delete_component("gone")
    await create(db, "theirs", link("mine"), user_id="v")
    await create(db, "free")
    await schedule(db, "s", target_type="agent", target_id="mine")
    before = await db.get_component("theirs"), await db.get_config("theirs"), await db.get_links("theirs", 1)
    found = await db.purge_user("u", dry_run=True)
    report = await db.purge_user("u")
    assert report.complete and report.removed == found.removed
    assert (report.removed["components"], report.removed["component_configs"]) == (2, 3)
    assert (await db.get_schedule("s"))["enabled"] is False
    after = await db.get_component("theirs"), await db.get_config("theirs"), await db.get_links("theirs", 1)
    assert after == before
    assert [row["parent_component_id"] for row in await db.get_dependents("mine")] == ["theirs"]
    assert {row["component_id"] for row in (await db.list_components(include_deleted=True))[0]} == {"theirs", "free"}
    assert (await create(db, "mine", user_id="w"))[0]["user_id"] == "w"
    assert not any((await db.purge_user("u")).removed.values())


@ONE_OF_EACH
async def test_more_schedules_than_a_commit_takes_are_disabled(db: Any) -> None:
    await create(db, "c")
    for number in range(TOGETHER + 2):
        await schedule(db, f"s{number}", target_type="agent", target_id="c")
    stats: dict[str, int] = {}
    assert await db.delete_component("c", cascade_stats=stats) is True
    assert stats == {"schedules_disabled": TOGETHER + 2}
    assert await db.get_schedules(enabled=True) == ([], 0)


# --- Costs ------------------------------------------------------------------------------------------------------------


@pytest.mark.cells("memory-sync", "mongo-sync-secantus", "dynamo-sync-local", "firestore-sync-embedded")
async def test_what_components_cost_in_requests(db: Any) -> None:
    """A graph costs a request for each level, a page its own: neither depends on what else there is."""
    await db._create_all_tables()

    async def requests(what: str, call: Callable[[], Awaitable[Any]]) -> int:
        before = db.io.calls.total()
        await call()
        print(f"BUDGET {what}: {db.io.calls.total() - before} requests")
        return int(db.io.calls.total()) - before

    await create(db, "bottom")
    for name in "abc":
        await create(db, f"leaf{name}", link("bottom"))
    top = [link(f"leaf{name}", position=number) for number, name in enumerate("abc")]
    assert await requests("component with 3 links", lambda: create(db, "top", *top)) <= 9
    assert await requests("graph of 3 levels", lambda: db.load_component_graph("top")) == 4
    assert await requests("config", lambda: db.get_config("top")) == 2
    assert await requests("latest configs of 4", lambda: db.get_latest_configs({"leafa", "leafb", "leafc", "top"})) == 2
    assert await requests("list of versions", lambda: db.list_configs("top")) == 1
    assert await requests("links", lambda: db.get_links("top", 1)) == 1
    assert await requests("dependents", lambda: db.get_dependents("bottom")) == 2
    assert await requests("append", lambda: db.upsert_config("bottom", {})) == 3
    assert await requests("publication", lambda: db.upsert_config("bottom", version=2, stage="published")) == 3
    few = await requests("page of 2", lambda: db.list_components(limit=2, user_id="u"))
    for number in range(30):
        await db.upsert_component(f"more{number}", AGENT, user_id="v")
    assert await requests("page of 2 among more", lambda: db.list_components(limit=2, user_id="u")) <= few


@pytest.mark.cells("memory-sync")
async def test_a_graph_is_loaded_to_its_bound(db: Any) -> None:
    await create(db, "c0")
    for number in range(1, DEPTH + 5):
        await create(db, f"c{number}", link(f"c{number - 1}"))
    graph, depth = await db.load_component_graph(f"c{DEPTH + 4}"), 0
    while graph is not None:
        depth += 1
        (child,) = graph["children"]
        graph = child["graph"]
    assert depth == DEPTH

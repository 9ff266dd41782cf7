"""Contract 1.14, components, configs and links, as Agno's SqliteDb has them. For sync stores: Agno's async class has no
such methods."""

from __future__ import annotations

import time
from typing import Any

import pytest
from agno.db.base import (
    ComponentArchivedError,
    ComponentCycleError,
    ComponentDependencyError,
    ComponentDraftRequiredError,
    ComponentLastConfigError,
    ComponentType,
    ComponentVersionConflictError,
)

AGENT, TEAM, WORKFLOW = ComponentType.AGENT, ComponentType.TEAM, ComponentType.WORKFLOW


def link(child: str, version: int = 1, position: int = 0, kind: str = "member", **values: Any) -> dict[str, Any]:
    return {
        "link_kind": kind, "link_key": f"{child}-{position}", "child_component_id": child, "child_version": version,
        "position": position, **values,
    }  # fmt: skip


async def create(db: Any, id: str, *links: dict[str, Any], stage: str = "published", **values: Any) -> Any:
    given = {"component_type": AGENT, "name": id, "config": {"of": id}, **values}
    return await db.create_component_with_config(id, stage=stage, links=list(links), **given)


def schedule_row(id: str, **values: Any) -> dict[str, Any]:
    return {
        "id": id, "name": id, "method": "POST", "endpoint": f"/x/{id}", "cron_expr": "* * * * *", "timezone": "UTC",
        "timeout_seconds": 5, "max_retries": 0, "retry_delay_seconds": 1, "enabled": True, "created_at": 1, **values,
    }  # fmt: skip


async def schedule(db: Any, id: str, **values: Any) -> None:
    await db.create_schedule(schedule_row(id, **values))


async def listed(db: Any, **arguments: Any) -> list[str]:
    rows, total = await db.list_components(**arguments)
    assert "limit" in arguments or total == len(rows)
    return [row["component_id"] for row in rows]


# --- Components -------------------------------------------------------------------------------------------------------


async def test_reads_on_empty_storage_are_empty(db: Any) -> None:
    assert await db.get_component("x") is None
    assert await db.list_components() == ([], 0)
    assert (
        await db.get_config("x") is await db.get_config("x", version=1) is await db.get_config("x", label="l") is None
    )
    assert await db.get_current_config("x") is await db.get_latest_config("x") is None
    assert await db.get_latest_configs({"x", "y"}) == {"x": None, "y": None}
    assert await db.list_configs("x") == await db.get_links("x", 1) == await db.get_dependents("x") == []
    assert await db.load_component_graph("x") is None
    assert await db.delete_component("x") is await db.delete_component("x", hard_delete=True) is False
    assert await db.restore_component("x") is await db.delete_config("x", 1) is False
    assert await db.set_current_version("x", 1) is False
    with pytest.raises(ValueError):
        await db.upsert_config("x", {})


async def test_a_component_is_created_and_changed(db: Any) -> None:
    with pytest.raises(ValueError):
        await db.upsert_component("c")
    before = int(time.time())
    odd = {"dotted.key": {"$a": 2**70, "": [[1.0]]}, "nul": "a\x00b"}
    row = await db.upsert_component("c", AGENT, current_version=7, metadata=odd, user_id="u")
    assert before <= row["created_at"] <= time.time()
    assert row == {
        "component_id": "c", "component_type": "agent", "name": "c", "user_id": "u", "description": None,
        "current_version": None, "metadata": odd, "created_at": row["created_at"], "updated_at": None,
        "deleted_at": None,
    }  # fmt: skip
    assert await db.get_component("c") == row and type(row) is dict
    changed = await db.upsert_component("c", name="new", description="text", user_id="u")
    assert changed == {**row, "name": "new", "description": "text", "updated_at": changed["updated_at"]}
    assert changed["updated_at"] >= before
    assert (await db.upsert_component("c", AGENT, description="", metadata={}))["metadata"] == {}
    assert (await db.get_component("c"))["description"] == ""
    for wrong in ({"component_type": TEAM}, {"name": "x", "user_id": "v"}):
        with pytest.raises(ValueError):
            await db.upsert_component("c", **wrong)
    await db.upsert_component("free", AGENT)
    with pytest.raises(ValueError):
        await db.upsert_component("free", name="x", user_id="u")
    assert (await db.get_component("c"))["name"] == "new"


async def test_who_sees_and_who_writes_a_component(db: Any) -> None:
    await create(db, "own", stage="draft", user_id="u")
    await create(db, "shared", stage="draft")
    await create(db, "draft", stage="draft", user_id="v")
    await create(db, "live", component_type=TEAM, user_id="v", name="same")
    await create(db, "gone", user_id="v", name="same")
    assert await db.delete_component("gone", user_id="u") is False
    assert await db.delete_component("gone", user_id="v") is True
    for id, seen in (("own", True), ("shared", True), ("draft", False), ("live", True), ("gone", False)):
        assert (await db.get_component(id, user_id="u", include_deleted=True) is not None) is seen, id
    assert set(await listed(db, user_id="u")) == {"own", "shared", "live"}
    assert set(await listed(db, user_id="u", include_deleted=True)) == {"own", "shared", "live"}
    assert set(await listed(db, user_id="v", include_deleted=True)) == {"shared", "draft", "live", "gone"}
    assert await listed(db, user_id="u", component_type=TEAM) == ["live"] == await listed(db, name="same")
    assert set(await listed(db, name="same", include_deleted=True)) == {"live", "gone"}
    assert await db.get_component("live", AGENT) is None and await db.get_component("live", TEAM) is not None
    assert await db.get_component("gone") is None
    for id in ("shared", "live"):
        assert await db.delete_component(id, user_id="u") is False
        assert await db.delete_config(id, 1, user_id="u") is False
        assert await db.set_current_version(id, 1, user_id="u") is False
        with pytest.raises(ValueError, match="not found"):
            await db.upsert_config(id, {}, user_id="u")
    assert await db.restore_component("gone", user_id="u") is False
    assert await db.restore_component("gone", user_id="v") is True
    with pytest.raises(ValueError, match="not available"):
        await create(db, "live", user_id="u")


async def test_pages_hold_each_component_once_and_totals_are_of_all(db: Any) -> None:
    for number in range(7):
        await create(
            db, f"c{number}", stage="draft" if number % 2 else "published", user_id="u" if number < 4 else None
        )
    rows, total = await db.list_components()
    assert total == 7 and rows == sorted(rows, key=lambda row: (-row["created_at"], row["component_id"]))
    ids = [row["component_id"] for row in rows]
    pages = [await db.list_components(limit=3, offset=offset) for offset in (0, 3, 6, 9)]
    assert [row["component_id"] for page, _ in pages for row in page] == ids
    assert {total for _, total in pages} == {7}
    for_v, total = await db.list_components(user_id="v", limit=2, offset=1)
    visible = [id for id in ids if id not in ("c1", "c3")]
    assert ([row["component_id"] for row in for_v], total) == (visible[1:3], 5)
    assert await listed(db, exclude_component_ids={"c0", "c6"}) == [id for id in ids if id not in ("c0", "c6")]
    assert (await db.list_components(limit=2, exclude_component_ids={"c0"}))[1] == 6


# --- Configs ----------------------------------------------------------------------------------------------------------


async def test_a_component_begins_with_its_first_version(db: Any) -> None:
    config = {"name": "x", "dotted.key": [None, 2**70], "": {}}
    component, first = await db.create_component_with_config(
        "c", TEAM, "shown", config, "text", {"m": 1}, "l", "published", "n", None, "u"
    )
    assert (component["current_version"], component["name"], component["metadata"]) == (1, "shown", {"m": 1})
    assert first == {
        "component_id": "c", "version": 1, "label": "l", "stage": "published", "config": config, "notes": "n",
        "created_at": component["created_at"], "updated_at": None,
    }  # fmt: skip
    assert await db.get_component("c") == component and await db.get_config("c") == first
    draft, _ = await create(db, "d", stage="draft")
    assert draft["current_version"] is None
    assert await db.get_current_config("d") is None and (await db.get_config("d"))["version"] == 1
    for wrong in ({"stage": "live"}, {"links": [link("c", None)]}):  # type: ignore[arg-type]
        with pytest.raises(ValueError):
            await db.create_component_with_config("e", AGENT, "e", {}, **wrong)
    assert await db.get_component("e", include_deleted=True) is None


async def test_versions_are_appended_edited_and_published(db: Any) -> None:
    await create(db, "c")
    second = await db.upsert_config("c", {"name": "later", "description": "d", "metadata": {"m": 1}}, label="l")
    assert (second["version"], second["stage"], second["updated_at"]) == (2, "draft", None)
    assert (await db.get_component("c"))["name"] == "c"
    edited = await db.upsert_config("c", version=2, notes="n")
    assert edited == {**second, "notes": "n", "updated_at": edited["updated_at"]} and edited["updated_at"] is not None
    assert (await db.upsert_config("c", {"name": "last"}, version=2))["config"] == {"name": "last"}
    assert await db.get_config("c", version=2) == await db.get_config("c", label="l") == await db.get_latest_config("c")
    assert (await db.get_config("c"))["version"] == 1
    with pytest.raises(ValueError, match="draft"):
        await db.set_current_version("c", 2)
    with pytest.raises(ValueError, match="Label"):
        await db.upsert_config("c", {}, label="l")
    published = await db.upsert_config("c", version=2, stage="published")
    assert (published["stage"], published["config"]) == ("published", {"name": "last"})
    component = await db.get_component("c")
    assert (component["current_version"], component["name"]) == (2, "last")
    for wrong in ({"version": 2, "notes": "x"}, {"version": 9, "notes": "x"}, {"stage": "live", "config": {}}, {}):
        with pytest.raises(ValueError):
            await db.upsert_config("c", **wrong)
    assert await db.set_current_version("c", 1) is True and await db.set_current_version("c", 9) is False
    moved = await db.get_component("c")
    assert (moved["current_version"], moved["name"]) == (1, "last"), "the pointer moves, what is shown stays"
    with pytest.raises(ValueError):
        await db.upsert_component("c", current_version=9)
    assert (await db.upsert_component("c", current_version=2))["current_version"] == 2
    rows = await db.list_configs("c", include_config=True)
    assert [(row["version"], row["config"]) for row in rows] == [(2, {"name": "last"}), (1, {"of": "c"})]
    assert await db.list_configs("c") == [{n: v for n, v in row.items() if n != "config"} for row in rows]
    assert (await db.get_latest_configs({"c", "x"})) == {"c": published, "x": None}


async def test_guards_compare_what_is_stored(db: Any) -> None:
    await create(db, "c", stage="draft")
    for wrong in ({"expected_latest_version": 2}, {"stage": "published", "expected_current_version": 1}):
        with pytest.raises(ComponentVersionConflictError):
            await db.upsert_config("c", {"n": 1}, **wrong)
    assert len(await db.list_configs("c")) == 1, "a refused write leaves nothing"
    assert (await db.upsert_config("c", {}, expected_latest_version=1))["version"] == 2
    await db.upsert_config("c", version=1, stage="published", expected_current_version=0)
    with pytest.raises(ComponentVersionConflictError):
        await db.upsert_config("c", version=2, stage="published", expected_current_version=0)
    await db.upsert_config("c", version=2, stage="published", expected_current_version=1)
    with pytest.raises(ComponentVersionConflictError):
        await db.set_current_version("c", 1, expected_current_version=0)
    with pytest.raises(ComponentVersionConflictError):
        await db.delete_component("c", expected_current_version=1)
    assert await db.set_current_version("c", 1, expected_current_version=2) is True
    assert await db.delete_component("c", expected_current_version=1) is True


async def test_a_deleted_draft_keeps_its_number(db: Any) -> None:
    await create(db, "c")
    await create(db, "child")
    await db.upsert_config("c", {"n": 2}, label="l", links=[link("child")])
    with pytest.raises(ComponentDraftRequiredError):
        await db.delete_config("c", 1)
    assert await db.delete_config("c", 2) is True and await db.delete_config("c", 2) is False
    assert await db.get_config("c", version=2) is await db.get_config("c", label="l") is None
    tombstone = await db.get_config("c", version=2, include_deleted=True)
    assert (tombstone["stage"], tombstone["label"], tombstone["config"]) == ("_deleted", None, {"n": 2})
    assert await db.get_links("c", 2) == await db.get_dependents("child") == []
    with pytest.raises(ValueError):
        await db.upsert_config("c", {}, version=2)
    assert (await db.upsert_config("c", {}, label="l"))["version"] == 3
    assert [row["version"] for row in await db.list_configs("c")] == [3, 1]
    assert [row["version"] for row in await db.list_configs("c", include_deleted=True)] == [3, 2, 1]
    await create(db, "d", stage="draft")
    with pytest.raises(ComponentLastConfigError):
        await db.delete_config("d", 1)
    await create(db, "parent", link("d"), stage="draft")
    await db.upsert_config("d", {})
    with pytest.raises(ComponentDependencyError):
        await db.delete_config("d", 1)
    assert await db.delete_component("parent") is True
    assert await db.delete_config("d", 1) is True, "an archived parent pins nothing"


# --- Links ------------------------------------------------------------------------------------------------------------


async def test_links_are_of_a_version_and_seen_from_both_ends(db: Any) -> None:
    await create(db, "a")
    await create(db, "b")
    await create(
        db, "p", link("b", position=1, meta={"k.1": 1}), link("a"), link("code", kind="tool"), component_type=TEAM
    )
    rows = await db.get_links("p", 1)
    assert [row["child_component_id"] for row in rows][-1] == "b"
    assert rows[-1] == {
        "parent_component_id": "p", "parent_version": 1, "link_kind": "member", "link_key": "b-1",
        "child_component_id": "b", "child_version": 1, "position": 1, "meta": {"k.1": 1},
        "created_at": rows[-1]["created_at"], "updated_at": None,
    }  # fmt: skip
    assert [row["child_component_id"] for row in await db.get_links("p", 1, "tool")] == ["code"]
    assert (
        await db.get_dependents("b") == [rows[-1]] == await db.get_dependents("b", version=1, active_parents_only=True)
    )
    assert len(await db.get_dependents("code")) == 1 and await db.get_dependents("b", version=2) == []
    await db.upsert_config("p", {}, links=[link("a")])
    await db.upsert_config("p", version=2, links=[link("b")])
    assert [row["parent_version"] for row in await db.get_dependents("b")] == [1, 2]
    assert [row["parent_version"] for row in await db.get_dependents("a")] == [1]
    await db.upsert_config("p", version=2, notes="links stay")
    assert len(await db.get_links("p", 2)) == 1
    await db.upsert_config("p", version=2, links=[])
    assert await db.get_links("p", 2) == []
    assert await db.upsert_component("code", AGENT) and len(await db.get_dependents("code")) == 1


async def test_links_are_refused_that_cannot_be(db: Any) -> None:
    await create(db, "a")
    await create(db, "b", link("a"))
    await create(db, "c", link("b"))
    await create(db, "old")
    await create(db, "draft", stage="draft")
    await db.delete_component("old")
    for error, links in (
        (ComponentCycleError, [link("a")]),
        (ComponentCycleError, [link("c")]),
        (ComponentArchivedError, [link("old")]),
        (ValueError, [link("b2", None)]),  # type: ignore[arg-type]
    ):
        with pytest.raises(error):
            await db.upsert_config("a", {}, links=links)
    for child in ("draft", "code"):
        with pytest.raises(ComponentDependencyError):
            await create(db, "new", link(child))
        with pytest.raises(ComponentDependencyError):
            await db.upsert_config("a", {}, stage="published", links=[link(child)])
    assert [row["version"] for row in await db.list_configs("a")] == [1]
    assert await db.get_component("new", include_deleted=True) is None
    assert await db.get_dependents("draft") == await db.get_dependents("code") == []
    await create(db, "new", link("draft", kind="step_agent"), stage="draft")
    with pytest.raises(ComponentDependencyError):
        await db.upsert_config("new", version=1, stage="published")
    await db.upsert_config("draft", version=1, stage="published")
    assert (await db.upsert_config("new", version=1, stage="published"))["stage"] == "published"


async def test_a_graph_holds_all_below(db: Any) -> None:
    await create(db, "leaf")
    await db.upsert_config("leaf", {"v": 2}, stage="published")
    await create(db, "mid", link("leaf"))
    await create(db, "top", link("mid", position=1), link("leaf", 2), link("code", kind="tool", position=2))
    graph = await db.load_component_graph("top")
    assert graph["component"] == await db.get_component("top") and graph["config"] == await db.get_config("top")
    assert [child["link"] for child in graph["children"]] == await db.get_links("top", 1)
    leaf, mid, code = (child["graph"] for child in graph["children"])
    assert leaf["config"]["config"] == {"v": 2} and code is None
    assert mid["children"][0]["graph"]["config"]["config"] == {"of": "leaf"}
    assert graph["resolved_versions"] == {"top": 1, "mid": 1, "leaf": 1, "code": 1}
    assert (await db.load_component_graph("leaf", version=1))["config"]["version"] == 1
    assert await db.load_component_graph("leaf", version=7) is None
    await create(db, "draft", stage="draft")
    assert await db.load_component_graph("draft") is None
    assert (await db.load_component_graph("draft", version=1))["resolved_versions"] == {"draft": 1}


async def test_a_graph_is_found_by_label(db: Any) -> None:
    await create(db, "c", label="old")
    await db.upsert_config("c", {}, stage="published")
    assert (await db.load_component_graph("c", label="old"))["config"]["version"] == 1
    assert await db.load_component_graph("c", label="none") is None


# --- Archive ----------------------------------------------------------------------------------------------------------


async def test_an_archive_reserves_the_id_and_is_undone(db: Any) -> None:
    await create(db, "c", user_id="u")
    before = await db.get_component("c")
    assert await db.delete_component("c") is True and await db.delete_component("c") is False
    assert await db.delete_component("c", user_id="u") is False
    assert await db.get_component("c") is await db.get_config("c") is await db.load_component_graph("c") is None
    assert await db.get_latest_config("c") is None and await db.list_configs("c") == [] == await listed(db)
    assert await db.set_current_version("c", 1) is False
    archived = await db.get_component("c", include_deleted=True)
    assert archived == {**before, "deleted_at": archived["deleted_at"], "updated_at": archived["deleted_at"]}
    for write, given in ((db.upsert_component, (AGENT,)), (db.upsert_config, ({},)), (db.delete_config, (1,))):
        with pytest.raises(ComponentArchivedError):
            await write("c", *given)
    with pytest.raises(ValueError, match="not available"):
        await create(db, "c")
    assert await db.restore_component("c") is True and await db.restore_component("c") is False
    assert (await db.get_config("c"))["version"] == 1
    assert {**await db.get_component("c"), "updated_at": None} == before


async def test_schedules_go_off_with_their_target(db: Any) -> None:
    for id in ("c", "d"):
        await create(db, id)
    await schedule(db, "target", target_type="agent", target_id="c")
    await schedule(db, "endpoint", endpoint="/agents/c/runs/", user_id="u")
    await schedule(db, "off", target_type="agent", target_id="c", enabled=False)
    await schedule(db, "other", target_type="team", target_id="c", endpoint="/agents/c2/runs")
    await schedule(db, "d", endpoint="/agents/d/runs")
    stats: dict[str, int] = {}
    assert await db.delete_component("c", cascade_stats=stats) is True
    assert stats == {"schedules_disabled": 2}
    rows = {row["id"]: row for row in (await db.get_schedules())[0]}
    assert {id for id, row in rows.items() if row["enabled"]} == {"other", "d"}
    assert {rows[id]["disabled_reason"] for id in ("target", "endpoint")} == {"target_archived:agent:c"}
    await db.restore_component("c")
    assert (await db.get_schedule("target"))["enabled"] is False
    assert await db.delete_component("d", hard_delete=True, cascade_stats=stats) is True
    assert stats == {"schedules_disabled": 1} and (await db.get_schedule("d"))["enabled"] is False


async def test_what_others_pin_is_not_taken_from_them(db: Any) -> None:
    await create(db, "child", user_id="u")
    await create(db, "parent", link("child"), user_id="u")
    await create(db, "foreign", link("child"), stage="draft", user_id="v")
    for hard in (False, True):
        with pytest.raises(ComponentDependencyError):
            await db.delete_component("child", hard_delete=hard)
    assert await db.delete_component("parent", user_id="u") is True
    with pytest.raises(ComponentDependencyError):
        await db.delete_component("child")
    assert await db.delete_component("child", user_id="u") is True, "a stranger's draft does not hinder an owner"
    with pytest.raises(ComponentDependencyError):
        await db.restore_component("parent")
    await db.restore_component("child")
    assert await db.restore_component("parent") is True
    assert await db.delete_component("child", require_no_dependents=False) is True
    with pytest.raises(ComponentDependencyError):
        await db.set_current_version("parent", 1)
    with pytest.raises(ComponentDependencyError):
        await db.delete_component("child", hard_delete=True, user_id="u")
    assert await db.delete_component("child", hard_delete=True, require_no_dependents=False) is True
    assert await db.get_links("parent", 1) == await db.get_links("foreign", 1) == await db.get_dependents("child") == []
    assert await db.get_component("child", include_deleted=True) is None


async def test_a_removed_component_leaves_its_id_free(db: Any) -> None:
    await create(db, "child")
    await create(db, "c", link("child"), user_id="u")
    await db.upsert_config("c", {})
    assert await db.delete_component("c", hard_delete=True, user_id="v") is False
    assert await db.delete_component("c", hard_delete=True, user_id="u") is True
    assert await db.delete_component("c", hard_delete=True) is False
    assert await db.get_dependents("child") == await db.get_links("c", 1) == []
    component, config = await create(db, "c", stage="draft", user_id="v", config={"new": 1})
    assert (component["user_id"], config["version"]) == ("v", 1)
    assert [row["version"] for row in await db.list_configs("c", include_deleted=True)] == [1]
    assert (await db.get_config("c"))["config"] == {"new": 1}
    assert await db.delete_component("child") is True

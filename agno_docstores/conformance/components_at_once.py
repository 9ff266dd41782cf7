"""Contract 1.14 with many writers at once: of those that cannot all be, one wins, and nothing is lost.

For sync stores. Needs the fixture `open_another`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from agno_docstores.conformance.components import AGENT, create, link
from agno_docstores.conformance.concurrency import at_once


async def test_of_many_at_once_one_wins(db: Any, another: Callable[[], Any]) -> None:
    handles = [db.raw, another().raw]

    async def outcomes(method: str, calls: list[tuple[tuple[Any, ...], dict[str, Any]]]) -> Counter[str]:
        found = await at_once(
            db, [(getattr(handles[n % 2], method), args, kwargs) for n, (args, kwargs) in enumerate(calls)]
        )
        return Counter(type(one).__name__ if isinstance(one, Exception) else str(one) for one in found)

    made = await outcomes("create_component_with_config", [(("c", AGENT, f"n{n}", {"n": n}), {}) for n in range(20)])
    assert made.pop("ValueError") == 19 and made.total() == 1
    assert len(await db.list_configs("c")) == 1
    appended = [(("c", {"n": n}), {"expected_latest_version": 1}) for n in range(20)]
    assert (await outcomes("upsert_config", appended)).pop("ComponentVersionConflictError") == 19
    assert [row["version"] for row in await db.list_configs("c")] == [2, 1]
    guard = {"stage": "published", "expected_current_version": 0}
    published = [(("c",), {"config": {"name": f"p{n}"}, **guard}) for n in range(20)]
    assert (await outcomes("upsert_config", published)).pop("ComponentVersionConflictError") == 19
    assert (await db.get_component("c"))["name"] == (await db.get_config("c"))["config"]["name"]
    assert await outcomes("delete_component", [(("c",), {})] * 20) == {"True": 1, "False": 19}
    assert await outcomes("restore_component", [(("c",), {})] * 20) == {"True": 1, "False": 19}
    gone = await outcomes("delete_component", [(("c",), {"hard_delete": True})] * 20)
    assert gone == {"True": 1, "False": 19}


async def test_appends_at_once_are_all_kept(db: Any, another: Callable[[], Any]) -> None:
    await create(db, "c")
    handles = [db.raw, another().raw]
    found = await at_once(db, [(handles[n % 2].upsert_config, ("c", {"n": n}), {}) for n in range(20)])
    assert sorted(row["version"] for row in found) == list(range(2, 22))
    rows = await db.list_configs("c", include_config=True)
    assert {row["version"]: row["config"] for row in found} == {
        row["version"]: row["config"] for row in rows if row["version"] > 1
    }


async def test_a_child_is_pinned_or_archived_not_both(db: Any, another: Callable[[], Any]) -> None:
    handles = [db.raw, another().raw]
    for attempt in range(4):
        await create(db, f"child{attempt}")
        await create(db, f"old{attempt}", link(f"child{attempt}"))
        await db.delete_component(f"old{attempt}")
        calls: list[Any] = []
        for n in range(3):
            new: tuple[Any, ...] = (f"p{attempt}-{n}", AGENT, "p", {})
            calls.append((handles[n % 2].create_component_with_config, new, {"links": [link(f"child{attempt}")]}))
            calls.append((handles[n % 2].delete_component, (f"child{attempt}",), {}))
        calls.append((handles[1].restore_component, (f"old{attempt}",), {}))
        found = await at_once(db, calls)
        assert all(not isinstance(one, Exception) or isinstance(one, ValueError) for one in found), found
        archived = await db.get_component(f"child{attempt}") is None
        pins = await db.get_dependents(f"child{attempt}", active_parents_only=True)
        assert archived is not bool(pins), (archived, pins)

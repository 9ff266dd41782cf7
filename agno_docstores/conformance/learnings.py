"""Learnings, as `BaseDb` has them: reads, writes, ownership, listings, search, removal.

Needs the fixture `open_another`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
from agno.db.base import SessionType
from agno.learn.utils import build_learning_id
from agno.os.schema import SortOrder

from agno_docstores.conformance.concurrency import at_once

NOW = 1_800_000_000
VALUES: list[Any] = [{"dotted.key": 1, "$dollar": 2, "": [[]]}, "a\x00b", 2**70, 1, 1.0, True, None, "é\u0301"]
COLUMNS = {
    "learning_type": "fact",
    "namespace": "global",
    "user_id": "u",
    "agent_id": "a",
    "team_id": "t",
    "session_id": "s",
    "entity_id": "e",
    "entity_type": "person",
}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A function that stops this process's clock so many seconds after `NOW`; `updated_at` is what orders learnings."""

    def stop(seconds: int) -> None:
        monkeypatch.setattr(time, "time", lambda: float(NOW + seconds))

    stop(0)
    return stop


async def save(db: Any, id: str, **values: Any) -> None:
    """Store a learning, with a type and content of its own unless others are given."""
    assert await db.upsert_learning(id=id, **{"learning_type": "fact", "content": {"text": id}, **values}) is None


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["learning_id"] for row in rows]


# --- One learning -----------------------------------------------------------------------------------------------------


async def test_reads_on_empty_storage_are_empty_and_create_nothing(db: Any) -> None:
    assert await db.get_learning("fact", user_id="u") is None
    assert await db.get_learnings() == []
    assert await db.get_learning_by_id("nothing") is None
    assert await db.list_learnings() == ([], 0)
    assert await db.list_learnings(user_id="u", include_global=True) == ([], 0)
    assert await db.get_learnings_user_stats() == ([], 0)
    assert await db.update_learning("nothing", {"text": "new"}) is False
    assert await db.delete_learning("nothing") is False
    assert await db.delete_user_learnings("u") == 0
    assert await db.table_exists(db.raw.learnings_table_name) is False


async def test_a_learning_comes_back_whole(db: Any, clock: Callable[[int], None]) -> None:
    await save(db, "l1", **COLUMNS, content={"text": "likes tea"}, metadata={"source": "chat"})
    row = await db.get_learning_by_id("l1")
    assert type(row) is dict
    assert row == {
        "learning_id": "l1",
        **COLUMNS,
        "workflow_id": None,
        "content": {"text": "likes tea"},
        "metadata": {"source": "chat"},
        "created_at": NOW,
        "updated_at": NOW,
    }
    await save(db, "bare")
    bare = await db.get_learning_by_id("bare")
    assert {name: bare[name] for name in COLUMNS} == {**dict.fromkeys(COLUMNS), "learning_type": "fact"}
    assert bare["metadata"] is None


async def test_a_second_write_replaces_content_and_keeps_what_the_learning_is_of(
    db: Any, clock: Callable[[int], None]
) -> None:
    await save(db, "l1", **COLUMNS, content={"old": 1, "gone": {"deep": 1}}, metadata={"source": "chat"})
    clock(5)
    others = {name: f"other {value}" for name, value in COLUMNS.items()}
    await save(db, "l1", **{**others, "user_id": "u"}, content={"new": 2})
    row = await db.get_learning_by_id("l1")
    assert {name: row[name] for name in COLUMNS} == COLUMNS
    assert (row["content"], row["metadata"]) == ({"new": 2}, None)
    assert (row["created_at"], row["updated_at"]) == (NOW, NOW + 5)
    assert await db.list_learnings(user_id="u") == ([row], 1)


async def test_json_comes_back_equal_and_is_the_callers_own(db: Any) -> None:
    content, metadata = {"values": VALUES, "tuple": (1, 2), 3: "key"}, {"a.b": [1.0, {"$c": None}]}
    await save(db, "l1", content=content, metadata=metadata)
    expected = {"values": VALUES, "tuple": [1, 2], "3": "key"}
    row = await db.get_learning_by_id("l1")
    assert row["content"] == expected and repr(row["content"]) == repr(expected)
    assert repr(row["metadata"]) == repr(metadata)
    row["content"]["values"].clear()
    row["metadata"]["a.b"].append(2)
    metadata["a.b"].append(3)
    again = await db.get_learning_by_id("l1")
    assert (again["content"], again["metadata"]) == (expected, {"a.b": [1.0, {"$c": None}]})
    for empty in ({}, {"nothing": None}, {"text": ""}):
        await save(db, "l1", content=empty, metadata=empty)
        row = await db.get_learning_by_id("l1")
        assert (row["content"], row["metadata"]) == (empty, empty)


async def test_what_json_cannot_hold_is_not_stored(db: Any) -> None:
    await save(db, "l1", content={"kept": 1}, metadata={"kept": 2})
    for bad in ({"deep": [{"bad": {1, 2}}]}, {"blob": b"x"}):
        await save(db, "l1", content=bad)
        await save(db, "l1", content={"new": 1}, metadata=bad)
        await save(db, "l2", content=bad)
        with pytest.raises(Exception, match=r".+"):
            await db.update_learning("l1", bad)
    row = await db.get_learning_by_id("l1")
    assert (row["content"], row["metadata"]) == ({"kept": 1}, {"kept": 2})
    assert await db.get_learning_by_id("l2") is None


async def test_what_is_just_saved_is_found_by_what_it_is_of(db: Any) -> None:
    """As Agno's stores save and read: under an id made of what the learning is of, which the reader does not pass."""
    entity = {"entity_id": "sarah_chen", "entity_type": "person"}
    keys: list[tuple[str, dict[str, Any]]] = [
        ("user_profile", {"user_id": "u"}),
        ("user_memory", {"user_id": "u"}),
        ("session_context", {"session_id": "s"}),
        ("entity_memory", {**entity, "namespace": "global"}),
        ("entity_memory", {**entity, "namespace": "user", "user_id": "u"}),
        ("entity_memory", {**entity, "namespace": "user", "user_id": "v"}),
    ]
    for number, (kind, key) in enumerate(keys):
        assert await db.get_learning(kind, **key) is None
        id = build_learning_id(kind, **key)
        assert id is not None
        for state in ("first", "second"):
            await save(db, id, learning_type=kind, **key, agent_id="a", content={state: number})
            assert await db.get_learning(kind, **key) == {"content": {state: number}}
        assert await db.get_learning(kind, **key, agent_id="a") == {"content": {"second": number}}
        assert await db.get_learning(kind, **key, agent_id="another") is None
        assert await db.get_learning("another", **key) is None
    await save(db, "d1", learning_type="decision_log", namespace="company", entity_id="d1", content={"chosen": "tea"})
    found = await db.get_learning("decision_log", namespace="company", entity_id="d1")
    assert found == {"content": {"chosen": "tea"}}
    assert len(await db.get_learnings()) == len(keys) + 1


async def test_every_filter_that_is_given_applies(db: Any) -> None:
    await save(db, "l1", **COLUMNS)
    await save(db, "l2", **{name: f"other {value}" for name, value in COLUMNS.items()})
    await save(db, "l3", learning_type="fact")
    calls: list[Callable[..., Any]] = [
        db.get_learnings,
        lambda **filters: db.list_learnings(**filters, include_global=False),
        lambda **filters: db.get_learning(**{"learning_type": "fact", **filters}),
    ]
    for number, call in enumerate(calls):
        expected: Any = [await db.get_learning_by_id("l1")]
        expected = [expected, (expected, 1), {"content": {"text": "l1"}}][number]
        nothing: Any = [[], ([], 0), None][number]
        assert await call(**COLUMNS) == expected
        for name, value in COLUMNS.items():
            if name != "learning_type":
                assert await call(**{name: value}) == expected, name
            assert await call(**{**COLUMNS, name: "nobody"}) == nothing, name
            assert await call(**{**COLUMNS, name: f"other {value}"}) == nothing, name
        assert await call(user_id="u", session_id="other s") == nothing
    assert await db.get_learning("fact", user_id="u", workflow_id="w") is None
    assert await db.get_learnings(user_id="u", workflow_id="w") == []
    assert await db.get_learnings(user_id="") == []


async def test_ids_and_filters_are_values_never_patterns(db: Any) -> None:
    odd = ("a/b", "a#b", "..", "__x__", "$gt", '{"$ne": ""}', "%", "_", "é\u0301 日本 😀", "x" * 300)
    for text in odd:
        await save(db, text, user_id=text, entity_id=text, session_id=text, content={"text": text})
    for text in odd:
        assert (await db.get_learning_by_id(text))["content"] == {"text": text}
        for name in ("user_id", "entity_id", "session_id"):
            assert ids(await db.get_learnings(**{name: text})) == [text]
        assert await db.get_learning("fact", user_id=text, session_id=text) == {"content": {"text": text}}
    assert await db.update_learning("$gt", {"text": "new"}) is True
    assert await db.delete_user_learnings("%") == 1
    assert len(await db.get_learnings()) == len(odd) - 1


# --- Ownership --------------------------------------------------------------------------------------------------------


async def test_a_stranger_cannot_write_over_a_learning_by_its_id(db: Any, another: Callable[[], Any]) -> None:
    other = another()
    assert await other.get_learning_by_id("l1") is None
    await save(db, "l1", user_id="owner", content={"mine": 1}, metadata={"mine": 1})
    before = await db.get_learning_by_id("l1")
    for handle in (db, other):
        await save(handle, "l1", user_id="stranger", content={"stolen": 1})
        await save(handle, "l1", user_id="OWNER", content={"stolen": 2})
        assert await handle.get_learning_by_id("l1") == before
    assert await db.list_learnings(user_id="stranger") == ([], 0)


async def test_a_write_without_a_user_updates_and_keeps_the_owner(db: Any) -> None:
    await save(db, "l1", user_id="owner", content={"n": 1})
    await save(db, "l1", content={"n": 2})
    row = await db.get_learning_by_id("l1")
    assert (row["user_id"], row["content"]) == ("owner", {"n": 2})
    await save(db, "l1", user_id="owner", content={"n": 3})
    assert await db.get_learning("fact", user_id="owner") == {"content": {"n": 3}}
    await save(db, "shared", content={"n": 1})
    await save(db, "shared", user_id="u", content={"n": 2})
    row = await db.get_learning_by_id("shared")
    assert (row["user_id"], row["content"]) == (None, {"n": 2})


async def test_what_was_not_written_is_told_in_the_log(db: Any, caplog: pytest.LogCaptureFixture) -> None:
    await save(db, "l1", user_id="owner")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        await save(db, "l1", user_id="stranger", content={"secret": "x"})
        await save(db, "l2", user_id="owner", content={"deep": [{"bad": {1}}]})
    refused, bad = (record.getMessage() for record in caplog.records)
    assert "'l1'" in refused and "'stranger'" in refused
    assert "'l2'" in bad and "'owner'" in bad and "content.deep[0].bad" in bad
    assert "secret" not in refused and "'owner'" not in refused


async def test_many_writers_of_one_learning_get_through(db: Any, another: Callable[[], Any]) -> None:
    handles = [db.raw, another().raw]
    calls: list[Any] = [
        (handles[n % 2].upsert_learning, (), {"id": "l1", "learning_type": "fact", "content": {"n": n}, "user_id": "u"})
        for n in range(8)
    ]
    assert await at_once(db, calls) == [None] * 8
    rows, total = await db.list_learnings()
    assert total == 1 and rows[0]["content"]["n"] in range(8)
    results = await at_once(db, [(handle.update_learning, ("l1", {"n": 8}), {}) for handle in handles * 3])
    assert results == [True] * 6
    assert (await db.get_learning_by_id("l1"))["content"] == {"n": 8}


# --- Listings ---------------------------------------------------------------------------------------------------------


async def test_what_changed_last_comes_first(db: Any, clock: Callable[[int], None]) -> None:
    for number in range(4):
        clock(number)
        await save(db, f"l{number}", user_id="u", agent_id=f"a{number % 2}")
    clock(10)
    await save(db, "l1", user_id="u", content={"text": "changed"})
    clock(11)
    assert await db.update_learning("l0", {"text": "updated"}) is True
    assert ids(await db.get_learnings()) == ["l0", "l1", "l3", "l2"]
    assert ids(await db.get_learnings(user_id="u", limit=3)) == ["l0", "l1", "l3"]
    assert ids(await db.get_learnings(user_id="u", agent_id="a1", limit=1)) == ["l1"]
    assert ids(await db.get_learnings(learning_type="fact", limit=0)) == []
    assert ids((await db.list_learnings())[0]) == ["l0", "l1", "l3", "l2"]
    assert ids((await db.list_learnings(user_id="u", sort_by="updated_at", sort_order="asc"))[0]) == [
        "l2", "l3", "l1", "l0",
    ]  # fmt: skip


async def test_pages_have_the_total_of_all_that_match(db: Any, clock: Callable[[int], None]) -> None:
    for number in range(5):
        clock(number)
        await save(db, f"l{number}", user_id="u", learning_type=("fact", "plan")[number % 2])
    await save(db, "foreign", user_id="v")
    for filters, expected in (
        ({"user_id": "u"}, ["l4", "l3", "l2", "l1", "l0"]),
        ({"user_id": "u", "learning_type": "fact"}, ["l4", "l2", "l0"]),
        ({"learning_type": "plan"}, ["l3", "l1"]),
    ):
        seen: list[str] = []
        for page in range(1, 5):
            rows, total = await db.list_learnings(**filters, limit=2, page=page)
            assert total == len(expected)
            assert ids(rows) == expected[2 * page - 2 : 2 * page]
            seen += ids(rows)
        assert seen == expected
    assert await db.list_learnings(user_id="nobody", limit=2, page=3) == ([], 0)


async def test_a_listing_is_sorted_by_the_column_asked_for(db: Any, clock: Callable[[int], None]) -> None:
    for number, (id, kind) in enumerate([("b", "x"), ("c", "z"), ("a", "y")]):
        clock(number)
        await save(db, id, learning_type=kind, user_id="u", entity_id=f"e{3 - number}")
    clock(9)
    await save(db, "b", content={"text": "changed"})
    for filters in ({}, {"user_id": "u"}):
        for sort_by, ascending in (
            ("created_at", ["b", "c", "a"]),
            ("updated_at", ["c", "a", "b"]),
            ("learning_id", ["a", "b", "c"]),
            ("learning_type", ["b", "a", "c"]),
            ("entity_id", ["a", "c", "b"]),
        ):
            orders: list[Any] = ["asc", SortOrder.ASC]
            for order in orders:
                rows, total = await db.list_learnings(**filters, sort_by=sort_by, sort_order=order, limit=2)
                assert (ids(rows), total) == (ascending[:2], 3)
            orders = ["desc", SortOrder.DESC, None]
            for order in orders:
                rows, _ = await db.list_learnings(**filters, sort_by=sort_by, sort_order=order, limit=2, page=2)
                assert ids(rows) == ascending[:1]
        rows, total = await db.list_learnings(**filters, sort_by="no such column")
        assert (sorted(ids(rows)), total) == (["a", "b", "c"], 3)


async def test_a_users_listing_may_include_what_nobody_owns(db: Any, clock: Callable[[int], None]) -> None:
    for number, user_id in enumerate(["u", None, "v", "u", None]):
        clock(number)
        await save(db, f"l{number}", user_id=user_id, learning_type="fact" if number else "plan")
    assert ids((await db.list_learnings(user_id="u"))[0]) == ["l3", "l0"]
    rows, total = await db.list_learnings(user_id="u", include_global=True)
    assert (ids(rows), total) == (["l4", "l3", "l1", "l0"], 4)
    for page, expected in ((1, ["l4", "l3", "l1"]), (2, ["l0"]), (3, [])):
        rows, total = await db.list_learnings(user_id="u", include_global=True, limit=3, page=page)
        assert (ids(rows), total) == (expected, 4)
    rows, total = await db.list_learnings(user_id="u", include_global=True, learning_type="fact", limit=1, page=2)
    assert (ids(rows), total) == (["l3"], 3)
    rows, total = await db.list_learnings(include_global=True, limit=2)
    assert (ids(rows), total) == (["l4", "l3"], 5)


async def test_the_owners_are_listed_with_the_time_of_their_last_learning(
    db: Any, clock: Callable[[int], None]
) -> None:
    for number, (user_id, kind) in enumerate([("b", "fact"), ("a", "plan"), ("b", "plan"), (None, "fact"), ("c", "x")]):
        clock(number)
        await save(db, f"l{number}", user_id=user_id, learning_type=kind)
    clock(9)
    await save(db, "l0", user_id="b")
    a, b, c = (
        {"user_id": user_id, "last_learning_updated_at": NOW + at} for user_id, at in (("a", 1), ("b", 9), ("c", 4))
    )
    assert await db.get_learnings_user_stats() == ([b, c, a], 3)
    assert await db.get_learnings_user_stats(sort_order="asc") == ([a, c, b], 3)
    assert await db.get_learnings_user_stats(sort_by="user_id", sort_order="asc") == ([a, b, c], 3)
    assert await db.get_learnings_user_stats(sort_by="user_id", sort_order=SortOrder.DESC) == ([c, b, a], 3)
    assert await db.get_learnings_user_stats(limit=2, page=1) == ([b, c], 3)
    assert await db.get_learnings_user_stats(limit=2, page=2) == ([a], 3)
    assert await db.get_learnings_user_stats(limit=2, page=3) == ([], 3)
    assert await db.get_learnings_user_stats(learning_type="plan") == (
        [{**b, "last_learning_updated_at": NOW + 2}, a],
        2,
    )
    assert await db.get_learnings_user_stats(user_id="a", limit=5) == ([a], 1)
    assert await db.get_learnings_user_stats(user_id="a", learning_type="fact") == ([], 0)
    assert await db.get_learnings_user_stats(user_id="nobody") == ([], 0)
    for wrong in ({"page": 1}, {"limit": 5, "page": 0}):
        with pytest.raises(ValueError, match="page"):
            await db.get_learnings_user_stats(**wrong)


async def test_there_is_no_page_before_the_first(db: Any) -> None:
    await save(db, "l1")
    with pytest.raises(Exception, match=r".+"):
        await db.list_learnings(page=0)


# --- Search -----------------------------------------------------------------------------------------------------------


async def test_search_crosses_case_and_separators(db: Any, clock: Callable[[int], None]) -> None:
    for number, text in enumerate(
        ["Sarah Chen", "sarah_chen", "SARAH-CHEN", "Sarahchen", "Le Café Ωmega ΟΣ", "STRASSE"]
    ):
        clock(number)
        await save(db, f"l{number}", content={"text": text, "n": number})
    for query in ("sarah chen", "SARAH_CHEN", "sarah - chen", "  Sarah__Chen "):
        assert ids(await db.search_learnings(query)) == ["l2", "l1", "l0"], query
    for query in ("café", "CAFÉ", "le CAFÉ ωMEGA", "Ωmega οσ"):
        assert ids(await db.search_learnings(query)) == ["l4"], query
    (row,) = await db.search_learnings("sarahchen")
    assert row == await db.get_learning_by_id("l3")
    assert ids(await db.search_learnings("strasse")) == ["l5"]
    assert await db.search_learnings("nothing of the kind") == []


async def test_search_looks_at_the_json_text_of_the_content(db: Any) -> None:
    await save(
        db,
        "l1",
        content={"name": "Sarah Chen", "aliases": ["SC", "S. Chen"], "facts": [{"n": 1, "ok": True}]},
        metadata={"hidden": "metadata"},
    )
    await save(db, "l2", content={"text": "Sarah Chen said SC", "name": "Other"})
    for fragment, expected in (
        ('name": "Sarah Chen', ["l1"]),
        ('NAME": "sarah chen"', ["l1"]),
        ('"SC"', ["l1"]),
        ('["SC", "S. Chen"]', ["l1"]),
        ('{"n": 1, "ok": true}', ["l1"]),
        ('"name": "other"}', ["l2"]),
        ('name":"Sarah', []),
        ("hidden", []),
        ("l1", []),
    ):
        assert ids(await db.search_learnings(fragment)) == expected, fragment


async def test_search_takes_text_as_text(db: Any) -> None:
    contents = ["100% of it", "1000 of it", "a.c [x]* (y", "abc", r"C:\temp", 'he said "yes" twice', "two\nlines"]
    for number, text in enumerate(contents):
        await save(db, f"l{number}", content={"text": text})
    for query, expected in (
        ("100%", ["l0"]),
        ("0% o", ["l0"]),
        ("a.c", ["l2"]),
        ("[x]* (", ["l2"]),
        ("b%", []),
        (r"c:\temp", ["l4"]),
        ('said "yes"', ["l5"]),
        ("two\nlines", ["l6"]),
    ):
        assert ids(await db.search_learnings(query)) == expected, query
    for nothing in ("", "  ", "%", "_", "%_ %", "\n"):
        assert await db.search_learnings(nothing) == [], repr(nothing)


async def test_search_finds_no_look_alikes(db: Any) -> None:
    await save(db, "l1", content={"text": "a café"})
    await save(db, "l2", content={"text": "a cafeteria"})
    await save(db, "l3", content={"text": "a caféteria"})
    await save(db, "l4", content={"text": "ΟΣ"})
    assert sorted(ids(await db.search_learnings("a café"))) == ["l1", "l3"]
    assert ids(await db.search_learnings("ος")) == ["l4"]
    assert await db.search_learnings(" - ") == []


async def test_search_is_within_the_filters(db: Any, clock: Callable[[int], None]) -> None:
    for number in range(6):
        clock(number)
        own = {name: f"{value}{number % 2}" for name, value in COLUMNS.items()}
        await save(db, f"l{number}", **own, content={"text": "tea" if number < 4 else "coffee"})
    clock(9)
    await save(db, "l0", content={"text": "green tea"})
    first = {name: f"{value}0" for name, value in COLUMNS.items()}
    assert ids(await db.search_learnings("tea")) == ["l0", "l3", "l2", "l1"]
    assert ids(await db.search_learnings("tea", limit=2)) == ["l0", "l3"]
    assert ids(await db.search_learnings("tea", limit=0)) == []
    assert ids(await db.search_learnings("tea", **first)) == ["l0", "l2"]
    assert ids(await db.search_learnings("tea", **first, limit=1)) == ["l0"]
    for name, value in first.items():
        assert ids(await db.search_learnings("tea", **{name: value})) == ["l0", "l2"], name
        assert ids(await db.search_learnings("tea", **{**first, name: "nobody"})) == [], name
    assert await db.search_learnings("tea", workflow_id="w") == []


# --- Update and removal -----------------------------------------------------------------------------------------------


async def test_an_update_replaces_content_and_metadata_of_what_is_there(db: Any, clock: Callable[[int], None]) -> None:
    await save(db, "l1", **COLUMNS, content={"old": 1}, metadata={"source": "chat"})
    clock(3)
    assert await db.update_learning("l1", {"new": 1}, {"source": "form"}) is True
    row = await db.get_learning_by_id("l1")
    assert (row["content"], row["metadata"]) == ({"new": 1}, {"source": "form"})
    assert {name: row[name] for name in COLUMNS} == COLUMNS
    assert (row["created_at"], row["updated_at"]) == (NOW, NOW + 3)
    assert await db.update_learning("l1", content={"new": 2}) is True
    assert (await db.get_learning_by_id("l1"))["metadata"] is None
    assert await db.update_learning("l2", {"new": 1}) is False
    assert await db.get_learning_by_id("l2") is None


async def test_what_another_handle_deleted_is_neither_updated_nor_kept(db: Any, another: Callable[[], Any]) -> None:
    other = another()
    await save(db, "l1", user_id="u", content={"old": 1})
    assert await other.delete_learning("l1") is True
    assert await db.delete_learning("l1") is False
    assert await db.update_learning("l1", {"new": 1}) is False
    assert await db.get_learning_by_id("l1") is None
    assert await db.get_learning("fact", user_id="u") is None
    assert await db.get_learnings(user_id="u") == []
    await save(other, "l1", user_id="v", content={"next": 1})
    assert await db.get_learning("fact", user_id="u") is None
    assert await db.delete_user_learnings("u") == 0
    assert (await db.get_learning_by_id("l1"))["content"] == {"next": 1}
    assert await other.delete_learning("l1") is True
    await save(db, "l1", user_id="w", content={"last": 1})
    assert await other.get_learning("fact", user_id="w") == {"content": {"last": 1}}


async def test_all_learnings_of_a_user_are_deleted_and_no_others(db: Any) -> None:
    await save(db, "user_profile_u", user_id="u", learning_type="user_profile")
    await save(db, "memories_u", user_id="u", learning_type="user_memory")
    for number in range(3):
        await save(db, f"l{number}", user_id="u", learning_type=("fact", "plan")[number % 2])
    await save(db, "foreign", user_id="v")
    await save(db, "shared")
    assert await db.delete_user_learnings("u", learning_type="plan") == 1
    assert sorted(ids(await db.get_learnings())) == [
        "foreign", "l0", "l2", "memories_u", "shared", "user_profile_u",
    ]  # fmt: skip
    assert await db.delete_user_learnings("u", learning_type="user_profile") == 1
    assert await db.delete_user_learnings("u") == 3
    assert await db.delete_user_learnings("u") == 0
    assert sorted(ids(await db.get_learnings())) == ["foreign", "shared"]
    assert await db.list_learnings(user_id="u") == ([], 0)


async def test_learnings_do_not_disturb_sessions(db: Any) -> None:
    """Ids may be the same: a learning is no session."""
    await save(db, "s1", session_id="s1", user_id="u")
    assert await db.get_session("s1", SessionType.AGENT) is None
    assert await db.delete_session("s1") is False
    assert (await db.get_learning_by_id("s1"))["session_id"] == "s1"

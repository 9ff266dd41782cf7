"""Contract 1.4, user memories, as Agno's SqliteDb has them: writes, ownership, listings, search, removal."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from agno.db.schemas.memory import UserMemory
from agno.db.sqlite import AsyncSqliteDb


@pytest.fixture(autouse=True)
def storage_of_memories(db: Any, runner: asyncio.Runner) -> None:
    """AsyncSqliteDb, alone, saves no memory before it has been told to make its tables."""
    if isinstance(db.raw, AsyncSqliteDb):
        runner.run(db._create_all_tables())


def memory_of(memory_id: str | None = "m1", **values: Any) -> UserMemory:
    return UserMemory(memory_id=memory_id, **{"memory": f"text of {memory_id}", "created_at": 1000, **values})


async def ids(db: Any, **filters: Any) -> list[str]:
    """The ids of a listing, in order; the total of the same listing has to agree."""
    memories = await db.get_user_memories(**filters)
    rows, total = await db.get_user_memories(**filters, deserialize=False)
    assert [memory.memory_id for memory in memories] == [row["memory_id"] for row in rows]
    if "limit" not in filters:
        assert total == len(rows)
    return [memory.memory_id for memory in memories]


# --- One memory -------------------------------------------------------------------------------------------------------


async def test_reads_on_empty_storage_are_empty(db: Any) -> None:
    assert await db.get_user_memory("nobody") is None
    assert await db.get_user_memory("nobody", deserialize=False) is None
    assert await db.get_user_memories() == []
    assert await db.get_user_memories(limit=5, page=2, sort_by="updated_at", deserialize=False) == ([], 0)
    assert await db.get_user_memory_stats() == ([], 0)
    assert await db.get_all_memory_topics() == []
    assert await db.delete_user_memory("nobody") is None
    assert await db.delete_user_memories(["nobody"], user_id="u") is None
    assert await db.clear_memories() is None
    assert await db.upsert_memories([]) == []


async def test_a_memory_comes_back_whole(db: Any) -> None:
    memory = memory_of(
        user_id="u", agent_id="a", team_id="t", topics=["food", "drink"], input="I said so", feedback="good"
    )
    stored = await db.upsert_user_memory(memory)
    assert isinstance(stored, UserMemory)
    found = await db.get_user_memory("m1")
    assert stored == found == UserMemory(
        memory="text of m1", memory_id="m1", topics=["food", "drink"], user_id="u", input="I said so",
        created_at=1000, updated_at=1000, feedback="good", agent_id="a", team_id="t",
    )  # fmt: skip


async def test_a_row_is_a_dict_of_every_column(db: Any) -> None:
    expected = {
        "memory_id": "m1", "memory": "text of m1", "input": None, "agent_id": None, "team_id": None, "user_id": None,
        "topics": None, "feedback": None, "created_at": 1000, "updated_at": 1000,
    }  # fmt: skip
    upserted = await db.upsert_user_memory(memory_of(), deserialize=False)
    found = await db.get_user_memory("m1", deserialize=False)
    rows, total = await db.get_user_memories(deserialize=False)
    assert [upserted, found, rows] == [expected, expected, [expected]]
    assert (type(upserted), type(found), type(rows[0]), total) == (dict, dict, dict, 1)


async def test_a_memory_without_id_gets_one_and_is_told(db: Any) -> None:
    first, second = memory_of(None), memory_of(None)
    stored = await db.upsert_user_memory(first)
    await db.upsert_memories([second])
    assert first.memory_id == stored.memory_id
    assert len({first.memory_id, second.memory_id}) == 2
    assert set(await ids(db)) == {first.memory_id, second.memory_id}


async def test_an_update_replaces_everything_but_created_at(db: Any) -> None:
    await db.upsert_user_memory(memory_of(topics=["a"], input="i", feedback="f", agent_id="a1", team_id="t1"))
    before = int(time.time())
    await db.upsert_user_memory(memory_of(memory="new", created_at=5000, agent_id="a2"))
    row = dict(await db.get_user_memory("m1", deserialize=False))
    assert row.pop("updated_at") >= before
    assert row == {
        "memory_id": "m1", "memory": "new", "input": None, "agent_id": "a2", "team_id": None, "user_id": None,
        "topics": None, "feedback": None, "created_at": 1000,
    }  # fmt: skip
    assert await ids(db, agent_id="a1") == [] and await ids(db, team_id="t1") == []
    assert await db.get_all_memory_topics() == []


async def test_memory_and_topics_may_be_any_json(db: Any) -> None:
    values: list[Any] = [
        {"dotted.key": 1, "$dollar": 2, "": 3, "big": 2**70, "nul": "a\x00b"},
        ["list", [1, [2.0]], None, True],
        'é\u0301 日本 😀 \x00 {"not": "json"}',
        "",
        [],
    ]
    for number, value in enumerate(values):
        await db.upsert_user_memory(memory_of(f"m{number}", memory=value, topics=value))
        found = await db.get_user_memory(f"m{number}")
        assert found.memory == value and repr(found.memory) == repr(value)
        assert found.topics == value and repr(found.topics) == repr(value)
    assert [memory.topics for memory in await db.get_user_memories()] == values
    for column in ("memory", "topics"):
        assert len(await ids(db, sort_by=column)) == len(values)


@pytest.mark.parametrize("column", ["memory", "topics"])
async def test_what_json_cannot_hold_is_refused_and_nothing_written(db: Any, column: str) -> None:
    await db.upsert_user_memory(memory_of())
    with pytest.raises(Exception, match="set"):
        await db.upsert_user_memory(memory_of("m1", **{column: ["x", {1, 2}]}))
    rows, _ = await db.get_user_memories(deserialize=False)
    assert [(row["memory_id"], row["memory"], row["topics"]) for row in rows] == [("m1", "text of m1", None)]


async def test_returned_objects_are_the_callers_own(db: Any) -> None:
    topics = ["a"]
    stored = await db.upsert_user_memory(memory_of(topics=topics))
    topics.append("b")
    stored.topics.append("c")
    (await db.get_user_memory("m1")).topics.append("d")
    assert (await db.get_user_memory("m1")).topics == ["a"]


# --- Ownership --------------------------------------------------------------------------------------------------------


async def test_a_stranger_reads_and_deletes_nothing(db: Any) -> None:
    await db.upsert_memories([memory_of("m1", user_id="owner", topics=["x"]), memory_of("m2")])
    for memory_id in ("m1", "m2"):  # what nobody owns is not everybody's
        assert await db.get_user_memory(memory_id, user_id="stranger") is None
        await db.delete_user_memory(memory_id, user_id="stranger")
        await db.delete_user_memories([memory_id], user_id="stranger")
    assert await ids(db, user_id="stranger") == []
    assert await db.get_all_memory_topics(user_id="stranger") == []
    assert await db.get_user_memory_stats(user_id="stranger") == ([], 0)
    assert await ids(db) == ["m1", "m2"]
    assert (await db.get_user_memory("m1", user_id="owner")).user_id == "owner"


async def test_the_owner_is_the_first_writers_for_good(db: Any) -> None:
    await db.upsert_memories([memory_of("m1", user_id="owner"), memory_of("m2")])
    stored = await db.upsert_user_memory(memory_of(memory="of nobody", user_id=None))
    assert (stored.memory, stored.user_id) == ("of nobody", "owner")
    stored = await db.upsert_user_memory(memory_of("m2", memory="of somebody", user_id="u"))
    assert (stored.memory, stored.user_id) == ("of somebody", None)
    (stored,) = await db.upsert_memories([memory_of("m1", memory="in bulk")])
    assert (stored.memory, stored.user_id) == ("in bulk", "owner")
    assert await ids(db, user_id="owner") == ["m1"] and await ids(db, user_id="u") == []


async def test_another_user_cannot_overwrite_a_memory(db: Any) -> None:
    await db.upsert_user_memory(memory_of(user_id="owner", topics=["mine"]))
    with pytest.raises(PermissionError):
        await db.upsert_user_memory(memory_of(user_id="stranger", memory="stolen", topics=["stolen"]))
    found = await db.get_user_memory("m1")
    assert (found.user_id, found.memory, found.topics) == ("owner", "text of m1", ["mine"])


async def test_a_bulk_write_leaves_out_what_is_anothers(db: Any) -> None:
    await db.upsert_user_memory(memory_of(user_id="owner"))
    stored = await db.upsert_memories(
        [
            memory_of("m1", user_id="stranger", memory="stolen"),
            memory_of("m2", user_id="stranger"),
            memory_of("m2", user_id="owner", memory="stolen"),
        ]
    )
    assert [(memory.memory_id, memory.memory) for memory in stored] == [("m2", "text of m2")]
    assert [memory.memory for memory in await db.get_user_memories()] == ["text of m1", "text of m2"]


async def test_owners_are_compared_as_text(db: Any) -> None:
    await db.upsert_user_memory(memory_of(user_id=5))
    assert (await db.get_user_memory("m1", user_id="5")).user_id == "5"
    assert await ids(db, user_id=5) == ["m1"]


async def test_ids_and_owners_are_values_never_patterns(db: Any) -> None:
    odd = ["a/b", "a#b", "..", "__x__", "$gt", "{}", "%", "_", "a%2Fb", "x" * 1600]
    await db.upsert_memories([memory_of(text, user_id=text, agent_id=text, topics=[text]) for text in odd])
    assert await ids(db) == odd
    for text in odd:
        assert (await db.get_user_memory(text, user_id=text)).memory_id == text
        assert await ids(db, user_id=text, agent_id=text) == [text]
    await db.delete_user_memories(odd[1:])
    assert await ids(db) == odd[:1]


# --- Bulk -------------------------------------------------------------------------------------------------------------


async def test_a_bulk_write_inserts_and_updates_each_id_once(db: Any) -> None:
    await db.upsert_user_memory(memory_of("m2", user_id="u"))
    memories = [memory_of("m1"), memory_of("m2", memory="new"), memory_of("m3"), memory_of("m1", memory="last")]
    before = int(time.time())
    rows = [dict(row) for row in await db.upsert_memories(memories, deserialize=False)]
    assert {row["memory_id"]: row["memory"] for row in rows} == {"m1": "last", "m2": "new", "m3": "text of m3"}
    assert len(rows) == 3 and all(row["updated_at"] >= before and row["created_at"] == 1000 for row in rows)
    assert await ids(db) == ["m2", "m1", "m3"]


async def test_a_bulk_write_can_preserve_updated_at(db: Any) -> None:
    await db.upsert_user_memory(memory_of("m1"))
    await db.upsert_memories(
        [memory_of("m1", updated_at=70), memory_of("m2", updated_at=80), memory_of("m3")], preserve_updated_at=True
    )
    rows, _ = await db.get_user_memories(deserialize=False)
    assert [row["updated_at"] for row in rows] == [70, 80, None]


async def test_a_bulk_write_that_is_refused_writes_nothing(db: Any) -> None:
    with pytest.raises(Exception, match="set"):
        await db.upsert_memories([memory_of("m1"), memory_of("m2", memory=[{1, 2}])])
    assert await ids(db) == []


async def test_a_bulk_write_of_many_stores_all(db: Any) -> None:
    stored = await db.upsert_memories([memory_of(f"m{n:03}", user_id=f"u{n % 2}") for n in range(120)])
    assert len(stored) == 120
    assert await ids(db, user_id="u1") == [f"m{n:03}" for n in range(1, 120, 2)]


# --- Listings ---------------------------------------------------------------------------------------------------------


async def seed(db: Any) -> None:
    """m0 to m8, of three users, two agents and two teams, in an order that neither id nor time has."""
    for number in (4, 1, 7, 0, 3, 8, 6, 2, 5):
        await db.upsert_user_memory(
            memory_of(
                f"m{number}",
                memory=f"Likes number {number}",
                user_id=(None, "u1", "u2")[number % 3],
                agent_id=f"a{number % 2}",
                team_id="t" if number < 4 else None,
                topics=[f"t{number % 2}", "all"] if number < 6 else None,
                created_at=1000 + number // 2,
            )
        )


async def test_filters_all_apply(db: Any) -> None:
    await seed(db)
    assert sorted(await ids(db, user_id="u1")) == ["m1", "m4", "m7"]
    assert sorted(await ids(db, agent_id="a1")) == ["m1", "m3", "m5", "m7"]
    assert sorted(await ids(db, team_id="t")) == ["m0", "m1", "m2", "m3"]
    assert sorted(await ids(db, user_id="u1", agent_id="a1")) == ["m1", "m7"]
    assert sorted(await ids(db, user_id="u1", agent_id="a1", team_id="t")) == ["m1"]
    assert sorted(await ids(db, user_id="u2", topics=["all"])) == ["m2", "m5"]
    assert sorted(await ids(db, topics=["all", "t1"], search_content="number 3")) == ["m3"]
    assert sorted(await ids(db, search_content="NUMBER", user_id="u2", agent_id="a0")) == ["m2", "m8"]
    assert await ids(db, user_id="u1", topics=["nothing"]) == []
    assert len(await ids(db, topics=[])) == 9


async def test_unsorted_memories_come_in_the_order_of_insertion(db: Any) -> None:
    await seed(db)
    await db.upsert_user_memory(memory_of("m7", memory="Likes something else now", user_id="u1"))
    inserted = ["m4", "m1", "m7", "m0", "m3", "m8", "m6", "m2", "m5"]
    assert await ids(db) == inserted
    assert await ids(db, sort_by="nonsense", sort_order="asc") == inserted
    assert await ids(db, user_id="u1") == ["m4", "m1", "m7"]
    assert await ids(db, limit=4, page=2) == ["m3", "m8", "m6", "m2"]
    assert await ids(db, search_content="likes", limit=2, page=3) == ["m3", "m8"]


async def test_sorted_memories_come_in_that_order(db: Any) -> None:
    times = {"m1": (10, 40), "m2": (30, None), "m3": (20, 50), "m4": (5, 15), "m5": (5, 12)}
    memories = [memory_of(m, user_id="u", created_at=c, updated_at=u) for m, (c, u) in times.items()]
    await db.upsert_memories(memories, preserve_updated_at=True)
    for filters in ({}, {"user_id": "u"}):
        assert await ids(db, sort_by="updated_at", sort_order="asc", **filters) == ["m5", "m4", "m2", "m1", "m3"]
        assert await ids(db, sort_by="updated_at", limit=2, page=1, **filters) == ["m3", "m1"]
        assert await ids(db, sort_by="created_at", sort_order="desc", limit=3, **filters) == ["m2", "m3", "m1"]
        assert await ids(db, sort_by="created_at", sort_order="asc", limit=2, page=2, **filters) == ["m1", "m3"]
        assert await ids(db, sort_by="memory_id", sort_order="desc", **filters) == ["m5", "m4", "m3", "m2", "m1"]
        assert await ids(db, sort_by="memory", sort_order="asc", limit=2, **filters) == ["m1", "m2"]


async def test_pages_neither_repeat_nor_skip_and_totals_are_of_all(db: Any) -> None:
    await seed(db)
    for sort_by in (None, "created_at", "updated_at", "agent_id"):
        seen: list[str] = []
        for page in range(1, 5):
            rows, total = await db.get_user_memories(limit=3, page=page, sort_by=sort_by, deserialize=False)
            seen += [row["memory_id"] for row in rows]
            if page < 4:
                assert total == 9
        assert sorted(seen) == [f"m{n}" for n in range(9)]
    rows, total = await db.get_user_memories(user_id="u1", search_content="likes", limit=2, page=2, deserialize=False)
    assert (len(rows), total) == (1, 3)
    for limit, page in ((None, 2), (5, 0)):
        with pytest.raises(ValueError):
            await db.get_user_memories(limit=limit, page=page)
        with pytest.raises(ValueError):
            await db.get_user_memory_stats(limit=limit, page=page)


async def test_totals_hold_past_the_end(db: Any) -> None:
    await seed(db)
    assert await db.get_user_memories(limit=5, page=9, deserialize=False) == ([], 9)
    assert await db.get_user_memories(limit=5, page=9, sort_by="created_at", deserialize=False) == ([], 9)
    assert await db.get_user_memories(limit=0, user_id="u1", deserialize=False) == ([], 3)
    assert await db.get_user_memory_stats(limit=5, page=9) == ([], 2)


# --- Search -----------------------------------------------------------------------------------------------------------


async def test_the_search_takes_text_as_text_without_case(db: Any) -> None:
    texts = ["abc 100 axb cafe", "x 100% y", "x a_b y", "x .* y", "x [z] y", "x Café y", 'x "quoted" y', "x Straße y"]
    await db.upsert_memories([memory_of(f"m{number}", memory=text) for number, text in enumerate(texts)])
    for text, expected in {
        "%": ["m1"], "100%": ["m1"], "100": ["m0", "m1"], "_": ["m2"], "A_B": ["m2"], ".*": ["m3"], "[": ["m4"],
        "a%b": [], "CAFÉ": ["m5"], "CAF": ["m0", "m5"], '"': ["m6"], '"QUOTED" y': ["m6"], "STRASSE": ["m7"],
    }.items():  # fmt: skip
        assert await ids(db, search_content=text) == expected
    assert len(await ids(db, search_content="")) == len(texts)


async def test_a_topic_is_matched_whole(db: Any) -> None:
    topics = ["food", "Food", "foodie", 'say "hi"', "café", "100%", "a\\b"]
    await db.upsert_memories([memory_of(f"m{n}", topics=["other", topic]) for n, topic in enumerate(topics)])
    assert [await ids(db, topics=[topic]) for topic in topics] == [[f"m{n}"] for n in range(len(topics))]
    for pattern in ("%", "foo", "fo_d", 'other", "food'):
        assert await ids(db, topics=[pattern]) == []


async def test_topics_are_listed_once_each(db: Any) -> None:
    await db.upsert_memories(
        [
            memory_of("m1", user_id="u", topics=["b", "a"]),
            memory_of("m2", user_id="u", topics=["a", "c", ""]),
            memory_of("m3", topics=["d"]),
            memory_of("m4", user_id="u"),
        ]
    )
    assert sorted(await db.get_all_memory_topics()) == ["", "a", "b", "c", "d"]
    assert sorted(await db.get_all_memory_topics(user_id="u")) == ["", "a", "b", "c"]


# --- Statistics and removal -------------------------------------------------------------------------------------------


async def test_statistics_are_by_user_the_latest_first(db: Any) -> None:
    plan = [("u1", 10), ("u2", 30), ("u1", 20), (None, 90), ("u3", 5), ("u3", 25), ("u1", 15)]
    await db.upsert_memories(
        [memory_of(f"m{n}", user_id=user, updated_at=at) for n, (user, at) in enumerate(plan)], preserve_updated_at=True
    )
    expected = [
        {"user_id": "u2", "total_memories": 1, "last_memory_updated_at": 30},
        {"user_id": "u3", "total_memories": 2, "last_memory_updated_at": 25},
        {"user_id": "u1", "total_memories": 3, "last_memory_updated_at": 20},
    ]
    assert await db.get_user_memory_stats() == (expected, 3)
    assert await db.get_user_memory_stats(limit=2, page=2) == (expected[2:], 3)
    assert await db.get_user_memory_stats(user_id="u3") == (expected[1:2], 1)


async def test_deletions_take_what_is_the_users(db: Any) -> None:
    owners = {"m1": "u", "m2": "v", "m3": None, "m4": "u", "m5": "u"}
    await db.upsert_memories([memory_of(m, user_id=user) for m, user in owners.items()])
    assert await db.delete_user_memory("m1", user_id="u") is None
    assert await db.delete_user_memories(["m1", "m2", "m3", "m4", "m4", "nobody"], user_id="u") is None
    assert await ids(db) == ["m2", "m3", "m5"]
    await db.delete_user_memory("m3")
    await db.delete_user_memories(["m2", "nobody"])
    assert await ids(db) == ["m5"]
    assert await db.get_user_memory("m2") is None
    await db.delete_user_memories([])


async def test_clear_deletes_every_memory(db: Any) -> None:
    await seed(db)
    assert await db.clear_memories() is None
    assert await ids(db) == [] and await db.get_user_memory("m4") is None
    assert await db.get_user_memory_stats() == ([], 0)
    await db.upsert_user_memory(memory_of("m4", user_id="another"))
    assert await ids(db, user_id="another") == ["m4"]

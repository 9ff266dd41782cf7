"""Contract 1.6, knowledge contents, as Agno's SqliteDb has them: writes, ownership, listings, removal."""

from __future__ import annotations

from typing import Any

import pytest
from agno.db.schemas.knowledge import KnowledgeRow


def content_of(id: str = "c1", **values: Any) -> KnowledgeRow:
    return KnowledgeRow(id=id, **{"name": f"name of {id}", "description": f"about {id}", **values})


async def ids(db: Any, **arguments: Any) -> list[str]:
    """The ids of a listing, in order; without paging, the total has to agree."""
    contents, total = await db.get_knowledge_contents(**arguments)
    assert "limit" in arguments or total == len(contents)
    return [content.id for content in contents]


async def store(db: Any, *contents: KnowledgeRow) -> None:
    for content in contents:
        await db.upsert_knowledge_content(content)


# --- One content ------------------------------------------------------------------------------------------------------


async def test_reads_on_empty_storage_are_empty(db: Any) -> None:
    assert await db.get_knowledge_content("nobody") is None
    assert await db.get_knowledge_content("nobody", user_id="u") is None
    assert await db.get_knowledge_contents() == ([], 0)
    assert await db.get_knowledge_contents(limit=5, page=2, sort_by="created_at", user_id="u") == ([], 0)
    assert await db.delete_knowledge_content("nobody") is None
    assert await db.delete_knowledge_content("nobody", user_id="u") is None


async def test_a_content_comes_back_whole(db: Any) -> None:
    content = content_of(
        metadata={"a.b": [1, 2.5, None], "$k": {"": 2**70}}, type="pdf", size=2**40, linked_to="base", access_count=0,
        status="processing", status_message="page 1\x00", user_id="u", created_at=1000, updated_at=2000,
        external_id="x1",
    )  # fmt: skip
    stored = await db.upsert_knowledge_content(content)
    assert stored is content
    assert await db.get_knowledge_content("c1") == content
    assert await db.get_knowledge_contents() == ([content], 1)


async def test_what_is_left_out_is_none_and_times_are_the_callers(db: Any) -> None:
    content = KnowledgeRow(name="", description="é\u0301 日本 😀")
    await db.upsert_knowledge_content(content)
    found = await db.get_knowledge_content(content.id)
    assert found == KnowledgeRow(id=content.id, name="", description="é\u0301 日本 😀")
    assert (found.created_at, found.updated_at, found.metadata) == (None, None, None)


async def test_an_update_writes_what_is_given_and_clears_nothing(db: Any) -> None:
    first = content_of(
        metadata={"k": 1}, type="pdf", size=5, linked_to="base", access_count=7, status="processing",
        status_message="m", user_id="u", created_at=1000, updated_at=1000, external_id="x1",
    )  # fmt: skip
    await store(db, first, content_of(name="new", access_count=0, status="done", status_message="", updated_at=3000))
    assert await db.get_knowledge_content("c1") == first.model_copy(
        update={"name": "new", "access_count": 0, "status": "done", "status_message": "", "updated_at": 3000}
    )
    await store(db, content_of(metadata={}, linked_to="other", created_at=5, user_id="u"))
    found = await db.get_knowledge_content("c1")
    assert (found.metadata, found.linked_to, found.created_at, found.size) == ({}, "other", 5, 5)
    assert await ids(db, linked_to="base") == [] and await ids(db, linked_to="other") == ["c1"]


async def test_what_json_cannot_hold_is_refused_and_nothing_written(db: Any) -> None:
    await store(db, content_of(metadata={"kept": 1}))
    with pytest.raises(Exception, match="set"):
        await db.upsert_knowledge_content(content_of(name="new", metadata={"deep": [{1, 2}]}))
    found = await db.get_knowledge_content("c1")
    assert (found.name, found.metadata) == ("name of c1", {"kept": 1})


async def test_a_row_that_breaks_its_own_schema_is_refused_rather_than_every_listing(db: Any) -> None:
    await store(db, content_of("c1"))
    broken = content_of("c2")
    broken.size = "big"  # type: ignore[assignment]
    with pytest.raises(ValueError, match="size"):
        await db.upsert_knowledge_content(broken)
    assert await ids(db) == ["c1"]


async def test_returned_objects_are_the_callers_own(db: Any) -> None:
    content = content_of(metadata={"k": [1]})
    await store(db, content)
    content.metadata["k"].append(2)  # type: ignore[index]
    found = await db.get_knowledge_content("c1")
    found.metadata["k"].append(3)
    assert (await db.get_knowledge_content("c1")).metadata == {"k": [1]}


async def test_ids_are_values_never_patterns(db: Any) -> None:
    odd = ["a/b", "..", "__x__", "$gt", "{}", "%", "_", "a%2Fb", "x" * 1600]
    await store(db, *(content_of(text, linked_to=text, user_id=text, created_at=n) for n, text in enumerate(odd)))
    assert await ids(db) == odd
    for text in odd:
        assert (await db.get_knowledge_content(text, user_id=text)).id == text
        assert await ids(db, linked_to=text, user_id=text) == [text]
        await db.delete_knowledge_content(text, user_id=text)
    assert await ids(db) == []


# --- Ownership --------------------------------------------------------------------------------------------------------


async def seed(db: Any) -> None:
    """Of u, of v, and shared; linked to "base", to "other", and to none; in an order that ids do not have."""
    for number, id in enumerate(["c5", "c2", "c0", "c7", "c4", "c1", "c8", "c3", "c6"]):
        n = int(id[1])
        await db.upsert_knowledge_content(
            content_of(
                id,
                user_id=("u", "v", None)[n % 3],
                linked_to=("base", "other", "base", None)[n % 4],
                created_at=1000 + number,
                updated_at=9000 - number * 10,
            )
        )


async def test_a_reader_sees_his_own_and_what_is_shared(db: Any) -> None:
    await store(db, content_of("mine", user_id="u"), content_of("shared"), content_of("theirs", user_id="v"))
    seen = {id: await db.get_knowledge_content(id, user_id="u") is not None for id in ("mine", "shared", "theirs")}
    assert seen == {"mine": True, "shared": True, "theirs": False}
    assert sorted(await ids(db, user_id="u")) == ["mine", "shared"]
    assert sorted(await ids(db, user_id="nobody")) == sorted(await ids(db, user_id="")) == ["shared"]
    assert sorted(await ids(db)) == ["mine", "shared", "theirs"]


async def test_a_user_changes_his_own_alone(db: Any) -> None:
    await store(db, content_of("shared"), content_of("theirs", user_id="v"), content_of("mine", user_id="u"))
    for id in ("shared", "theirs"):
        with pytest.raises(ValueError, match=f"Knowledge content {id} not found"):
            await db.upsert_knowledge_content(content_of(id, name="stolen", user_id="u"))
    await store(db, content_of("mine", name="new", user_id="u"))
    names = {content.id: (content.name, content.user_id) for content in (await db.get_knowledge_contents())[0]}
    assert names == {"shared": ("name of shared", None), "theirs": ("name of theirs", "v"), "mine": ("new", "u")}


async def test_a_write_without_user_changes_any_and_keeps_the_owner(db: Any) -> None:
    await store(db, content_of("theirs", user_id="v"), content_of("shared"))
    await store(db, content_of("theirs", name="new"), content_of("shared", name="new"))
    found = {content.id: (content.name, content.user_id) for content in (await db.get_knowledge_contents())[0]}
    assert found == {"theirs": ("new", "v"), "shared": ("new", None)}
    assert await ids(db, user_id="u") == ["shared"]


async def test_a_user_deletes_strictly_his_own(db: Any) -> None:
    await store(db, content_of("mine", user_id="u"), content_of("shared"), content_of("theirs", user_id="v"))
    for id in ("mine", "shared", "theirs"):
        assert await db.delete_knowledge_content(id, user_id="u") is None
        assert await db.delete_knowledge_content(id, user_id="") is None
    assert sorted(await ids(db)) == ["shared", "theirs"]
    await db.delete_knowledge_content("shared")
    await db.delete_knowledge_content("theirs")
    assert await ids(db) == []


# --- Listings ---------------------------------------------------------------------------------------------------------


async def test_filters_all_apply(db: Any) -> None:
    await seed(db)
    assert sorted(await ids(db, linked_to="base")) == ["c0", "c2", "c4", "c6", "c8"]
    assert sorted(await ids(db, linked_to="base", user_id="u")) == ["c0", "c2", "c6", "c8"]
    assert sorted(await ids(db, linked_to="other", user_id="v")) == ["c1", "c5"]
    assert sorted(await ids(db, user_id="v")) == ["c1", "c2", "c4", "c5", "c7", "c8"]
    assert await ids(db, linked_to="bas") == [] and await ids(db, linked_to="BASE") == []
    assert await ids(db, linked_to="") == []


async def test_contents_sort_by_time(db: Any) -> None:
    await seed(db)
    created = ["c5", "c2", "c0", "c7", "c4", "c1", "c8", "c3", "c6"]
    assert await ids(db, sort_by="created_at", sort_order="asc") == created
    assert await ids(db, sort_by="created_at", sort_order="desc") == created[::-1]
    assert await ids(db, sort_by="created_at") == created[::-1]
    assert await ids(db, sort_by="created_at", sort_order="asc", user_id="u") == ["c5", "c2", "c0", "c8", "c3", "c6"]
    assert await ids(db, sort_by="created_at", sort_order="desc", user_id="u", linked_to="base", limit=3) == [
        "c6", "c8", "c0",
    ]  # fmt: skip
    for filters in ({}, {"user_id": "u"}, {"linked_to": "base"}, {"user_id": "u", "linked_to": "base"}):
        found = await ids(db, sort_by="created_at", sort_order="asc", **filters)
        assert await ids(db, sort_by="updated_at", sort_order="desc", **filters) == found
        assert await ids(db, sort_by="updated_at", sort_order="asc", limit=2, page=2, **filters) == found[::-1][2:4]


async def test_contents_sort_by_numbers_as_numbers(db: Any) -> None:
    sizes = {"a": 10, "b": 9, "d": 100, "e": 0}
    await store(db, *(content_of(id, size=size, access_count=size, created_at=1) for id, size in sizes.items()))
    for column in ("size", "access_count"):
        assert await ids(db, sort_by=column, sort_order="asc") == ["e", "b", "a", "d"]
        assert await ids(db, sort_by=column, sort_order="desc", limit=2, page=1) == ["d", "a"]
    await store(db, content_of("c"))
    assert await ids(db, sort_by="size", sort_order="asc", limit=2) == ["c", "e"]


async def test_contents_sort_by_text_as_it_is(db: Any) -> None:
    texts = {"a": "b", "b": "B", "c": "a", "d": "é", "e": "x" * 300 + "2", "f": "x" * 300 + "10"}
    values = ("name", "description", "status", "status_message", "external_id", "type")
    await store(db, *(content_of(id, **dict.fromkeys(values, text)) for id, text in texts.items()))
    for column in values:
        assert await ids(db, sort_by=column, sort_order="asc") == ["b", "c", "a", "f", "e", "d"]
        assert await ids(db, sort_by=column, sort_order="desc", limit=4, page=1) == ["d", "e", "f", "a"]
    assert await ids(db, sort_by="id", sort_order="desc", limit=3) == ["f", "e", "d"]


async def test_an_unset_updated_at_sorts_as_created_at(db: Any) -> None:
    times = {"a": (10, 40), "b": (45, None), "c": (20, 50)}
    await store(db, *(content_of(id, created_at=c, updated_at=u) for id, (c, u) in times.items()))
    for filters in ({}, {"user_id": "u"}):
        assert await ids(db, sort_by="updated_at", sort_order="asc", **filters) == ["a", "b", "c"]


async def test_an_unknown_sort_column_is_ignored(db: Any) -> None:
    await store(db, content_of("a", created_at=2), content_of("b", created_at=1))
    assert sorted(await ids(db, sort_by="nonsense", sort_order="asc")) == ["a", "b"]


async def test_pages_neither_repeat_nor_skip_and_totals_are_of_all(db: Any) -> None:
    for number in range(7):
        await db.upsert_knowledge_content(
            content_of(f"c{number}", user_id="u" if number % 2 else None, created_at=1000 + number // 3, type="t")
        )
    for sort_by in (None, "created_at", "updated_at"):
        seen: list[str] = []
        for page in (1, 2, 3):
            contents, total = await db.get_knowledge_contents(limit=3, page=page, user_id="u", sort_by=sort_by)
            seen += [content.id for content in contents]
            assert total == 7
        assert sorted(seen) == [f"c{n}" for n in range(7)]
    assert await db.get_knowledge_contents(limit=5, page=9, sort_by="created_at") == ([], 7)
    assert await db.get_knowledge_contents(limit=5, page=9, user_id="v") == ([], 4)
    assert await db.get_knowledge_contents(limit=0) == ([], 7)
    for limit, page in ((None, 2), (5, 0)):
        with pytest.raises(ValueError):
            await db.get_knowledge_contents(limit=limit, page=page)

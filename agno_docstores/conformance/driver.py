"""The driver contract: the guarantees that `agno_docstores.port.Driver` states, one test each.

Fixture: `driver`, on empty storage, made for the kinds of `agno_docstores.schema`.
"""

from __future__ import annotations

import base64
import contextlib
import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from agno_docstores import keys
from agno_docstores.codec import Json
from agno_docstores.errors import Conflict, PayloadTooLargeError, StorageMissingError, UnsupportedTopologyError
from agno_docstores.port import (
    EVERYTHING,
    MANIFEST,
    Contains,
    Delete,
    Driver,
    Eq,
    Expect,
    Has,
    In,
    NotIn,
    Predicate,
    Put,
    Range,
    Ref,
    Rev,
    Span,
    Stored,
    Touch,
)
from agno_docstores.schema import CHUNKS, HISTORIES, KINDS, RUNS, SESSIONS, SPANS, TRACES, VERSIONS


async def ready(driver: Driver) -> Driver:
    await driver.open()
    await driver.ensure(list(KINDS.values()))
    return driver


def session(id: str, *, expect: Any = Expect.ABSENT, body: dict[str, Any] | None = None, **fields: Any) -> Put:
    values = {"session_type": "agent", "created_at": 1, "updated_at": 1, "touched_at": 1, "components": (), **fields}
    parts = {name: Json.of((body or {}).get(name)) for name in SESSIONS.body}
    return Put(Ref("sessions", id), values, parts, expect)


def trace(id: str, *, expect: Any = Expect.ABSENT, **fields: Any) -> Put:
    values = {**dict.fromkeys(TRACES.fields), "known": True, "start_time": "1", "children": 0, "errors": 0, **fields}
    return Put(Ref("traces", id), values, {}, expect)


def span(id: str, trace_id: str, *, expect: Any = Expect.ABSENT, **fields: Any) -> Put:
    values = {
        **dict.fromkeys(SPANS.fields),
        "trace_id": trace_id,
        "start_time": "1",
        "duration_ms": 10,
        "errors": 0,
        **fields,
    }
    return Put(Ref("spans", id, trace_id), values, {"attributes": Json.of({"a.b": 1})}, expect)


def history(id: str, *, expect: Any = Expect.ABSENT, **fields: Any) -> Put:
    values = {"user_id": None, "incarnation": "i", "next_index": 0, "revision": 0, "deleting": False, **fields}
    return Put(Ref("histories", id), values, {}, expect)


def run(id: str, parent: str, index: int, *, expect: Any = Expect.ABSENT, data: Any = None, **fields: Any) -> Put:
    values = {
        "session_id": parent,
        "run_index": index,
        "revision": index + 1,
        "incarnation": "i",
        "deleted": False,
        "run_type": "agent",
        "created_at": 1,
        "updated_at": 1,
        **fields,
    }
    return Put(
        Ref("runs", id, parent, index), values, {"run_data": Json.of({"run_id": id} if data is None else data)}, expect
    )


async def store(driver: Driver, *puts: Put) -> list[Rev]:
    """Store each in a commit of its own."""
    revs = []
    for number, put in enumerate(puts):
        (rev,) = await driver.commit([put], f"token-{put.ref.kind}-{put.ref.id}-{number}")
        assert rev is not None
        revs.append(rev)
    return revs


async def scanned(driver: Driver, span: Span, page: int | None = None) -> list[Stored]:
    """All records of a span, page by page."""
    records: list[Stored] = []
    cursor = None
    for _ in range(1000):
        answer = await driver.scan(replace(span, after=cursor, limit=page))
        records += answer.records
        cursor = answer.cursor
        if cursor is None:
            return records
    raise AssertionError("the cursor does not come to an end")


def ids(records: Iterable[Stored | None]) -> list[str]:
    return [record.ref.id for record in records if record is not None]


# --- Records ----------------------------------------------------------------------------------------------------------


async def test_a_record_comes_back_as_it_was_put(driver: Driver) -> None:
    await ready(driver)
    body = {"session_data": {"a": [1, 2.0, None, True, "x"]}, "metadata": {}, "summary": None}
    put = session("s1", user_id="u", agent_id="a1", components=("a1", "t1"), session_name="Name", body=body)
    (rev,) = await store(driver, put)
    found = await driver.get(Ref("sessions", "s1"))
    assert found is not None
    assert found.ref == put.ref and found.rev == rev
    assert {name: found.fields.get(name) for name in SESSIONS.fields} == {
        name: put.fields.get(name) for name in SESSIONS.fields
    }
    assert {name: part.value() for name, part in (found.body or {}).items()} == {
        **dict.fromkeys(SESSIONS.body),
        **body,
    }


async def test_a_put_replaces_the_whole_record(driver: Driver) -> None:
    await ready(driver)
    (rev,) = await store(
        driver, session("s1", user_id="u", body={"metadata": {"a": 1}, "session_data": {"b": {"c": 1}}})
    )
    await driver.commit([session("s1", expect=rev, body={"session_data": {"d": 2}})], "t2")
    found = await driver.get(Ref("sessions", "s1"))
    assert found is not None and found.body is not None
    assert found.fields.get("user_id") is None
    assert found.body["session_data"].value() == {"d": 2}
    assert found.body["metadata"].value() is None


async def test_null_false_zero_and_empty_are_told_apart(driver: Driver) -> None:
    await ready(driver)
    await store(
        driver,
        history("none", user_id=None, next_index=0, deleting=False),
        history("values", user_id="", next_index=1, deleting=True),
    )
    none, values = await driver.get_many([Ref("histories", "none"), Ref("histories", "values")])
    assert none is not None and values is not None
    assert (none.fields["user_id"], none.fields["next_index"], none.fields["deleting"]) == (None, 0, False)
    assert (values.fields["user_id"], values.fields["next_index"], values.fields["deleting"]) == ("", 1, True)
    assert none.fields["deleting"] is False and values.fields["deleting"] is True


async def test_get_of_nothing_is_none_and_get_many_keeps_the_order(driver: Driver) -> None:
    await ready(driver)
    assert await driver.get(Ref("sessions", "nobody")) is None
    await store(driver, session("a"), session("b"), history("a"))
    refs = [
        Ref("sessions", "b"),
        Ref("sessions", "x"),
        Ref("histories", "a"),
        Ref("sessions", "a"),
        Ref("histories", "b"),
    ]
    found = await driver.get_many(refs)
    assert [record.ref if record else None for record in found] == [refs[0], None, refs[2], refs[3], None]


async def test_a_child_is_found_by_its_id_alone(driver: Driver) -> None:
    await ready(driver)
    await store(driver, run("r1", "s1", 0), run("r2", "s1", 1))
    found = await driver.get(Ref("runs", "r2"))
    assert found is not None
    assert (found.ref.parent, found.ref.order, found.fields["run_index"]) == ("s1", 1, 1)


HOSTILE_IDS = [
    "a/b", "a#b", "a|b", "a.b", ".", "..", "__x__", "$where", "%2F", "a b", "\x01\x7f", "\u00e9", "e\u0301", "Ω",
    "日本語", "😀", "'; drop", "{}", "x" * 1600, "x" * 1600 + "y", "sessions", "!", '"', '"#', "~",
]  # fmt: skip


async def test_hostile_ids_stay_apart_and_in_their_place(driver: Driver) -> None:
    await ready(driver)
    await store(driver, *(session(id, agent_id=id) for id in HOSTILE_IDS))
    await store(driver, *(run(id, id, 0) for id in HOSTILE_IDS))
    for id in HOSTILE_IDS:
        found = await driver.get(Ref("sessions", id))
        assert found is not None and found.ref.id == id and found.fields["agent_id"] == id
        child = await driver.get(Ref("runs", id))
        assert child is not None and child.ref.id == id and child.fields["session_id"] == id
        assert ids(await scanned(driver, Span("runs", "order", (id,)))) == [id]


@pytest.mark.parametrize(
    "value",
    [
        {"a.b": 1, "$c": {"$d": 2}, "__x__": 3, "": 4, "e": {"": {".": 1}}},
        {"nul": "a\x00b", "surrogate": "\ud800", "emoji": "😀"},
        {"big": 2**70, "negative": -(2**70), "limit": 2**63 - 1, "over": 2**63},
        {"int": 1, "float": 1.0, "true": True, "zero": -0.0, "tiny": 5e-324, "huge": 1.7976931348623157e308},
        {"inf": float("inf"), "minus": float("-inf")},
        {"empty": "", "list": [], "dict": {}, "null": None, "nested": [[1, [2, []]], [[]]]},
        {"date": "2026-01-01T00:00:00Z", "number": "1", "oid": "507f1f77bcf86cd799439011", "json": '{"a": 1}'},
        {"__json__": "x", "n": {"__json__": '{"a":1}'}},
        [1, "two", [3]],
        "text",
        7,
        False,
        {"a": {"b": 1}, "a.b": 2},
    ],
)
async def test_json_values_come_back_equal_and_of_the_same_type(driver: Driver, value: Any) -> None:
    await ready(driver)
    await store(driver, session("s", body={"session_data": value}), run("r", "s", 0, data=value))
    found = await driver.get(Ref("sessions", "s"))
    child = await driver.get(Ref("runs", "r"))
    assert found is not None and found.body is not None and child is not None and child.body is not None
    for part in (found.body["session_data"], child.body["run_data"]):
        assert part.value() == value
        assert repr(part.value()) == repr(value)


async def test_deep_values_come_back(driver: Driver) -> None:
    await ready(driver)
    value: Any = "bottom"
    for level in range(200):
        value = {"d": value} if level % 2 else [value]
    await store(driver, session("s", body={"metadata": value}))
    found = await driver.get(Ref("sessions", "s"))
    assert found is not None and found.body is not None and found.body["metadata"].value() == value


async def test_nan_comes_back(driver: Driver) -> None:
    await ready(driver)
    await store(driver, session("s", body={"metadata": {"nan": float("nan")}}))
    found = await driver.get(Ref("sessions", "s"))
    assert found is not None and found.body is not None
    value = found.body["metadata"].value()["nan"]
    assert value != value


# --- Commits ----------------------------------------------------------------------------------------------------------


async def test_absent_admits_one_writer(driver: Driver) -> None:
    await ready(driver)
    await store(driver, session("s", user_id="first"))
    with pytest.raises(Conflict):
        await driver.commit([session("s", user_id="second")], "t2")
    found = await driver.get(Ref("sessions", "s"))
    assert found is not None and found.fields["user_id"] == "first"


async def test_a_child_id_is_unique_over_all_parents(driver: Driver) -> None:
    await ready(driver)
    await store(driver, run("r", "s1", 0))
    with pytest.raises(Conflict):
        await driver.commit([run("r", "s2", 0)], "t2")
    assert ids(await scanned(driver, Span("runs", "order", ("s2",)))) == []


async def test_a_revision_admits_one_writer(driver: Driver) -> None:
    await ready(driver)
    (first,) = await store(driver, session("s", user_id="1"))
    (second,) = await driver.commit([session("s", user_id="2", expect=first)], "t2")
    assert second is not None and second != first
    with pytest.raises(Conflict):
        await driver.commit([session("s", user_id="3", expect=first)], "t3")
    found = await driver.get(Ref("sessions", "s"))
    assert found is not None and found.fields["user_id"] == "2" and found.rev == second


async def test_a_revision_read_is_as_good_as_one_returned(driver: Driver) -> None:
    await ready(driver)
    await store(driver, run("r", "s", 0))
    found = await driver.get(Ref("runs", "r"))
    assert found is not None
    (rev,) = await driver.commit([run("r", "s", 0, status="DONE", expect=found.rev)], "t2")
    by_scan = (await scanned(driver, Span("runs", "order", ("s",))))[0]
    assert by_scan.rev == rev and by_scan.fields["status"] == "DONE"
    await driver.commit([run("r", "s", 0, status="MORE", expect=by_scan.rev)], "t3")
    by_change = (await scanned(driver, Span("runs", "changes", ("s",))))[0]
    await driver.commit([run("r", "s", 0, status="LAST", expect=by_change.rev)], "t4")


async def test_a_put_of_what_is_gone_conflicts(driver: Driver) -> None:
    await ready(driver)
    (rev,) = await store(driver, session("s"))
    await driver.commit([Delete(Ref("sessions", "s"), rev)], "t2")
    with pytest.raises(Conflict):
        await driver.commit([session("s", expect=rev)], "t3")
    assert await driver.get(Ref("sessions", "s")) is None


async def test_a_commit_of_session_and_history_is_all_or_nothing(driver: Driver) -> None:
    """These two share their document where a store has documents, so every store must be able to do it."""
    await ready(driver)
    revs = await driver.commit([session("s", user_id="u"), history("s", user_id="u")], "t1")
    assert all(rev is not None for rev in revs)
    with pytest.raises(Conflict):
        await driver.commit([session("s", user_id="v", expect=revs[0]), history("s")], "t2")
    with pytest.raises(Conflict):
        await driver.commit([session("s"), history("s", user_id="v", expect=revs[1])], "t3")
    found, head = await driver.get_many([Ref("sessions", "s"), Ref("histories", "s")])
    assert found is not None and found.fields["user_id"] == "u"
    assert head is not None and head.fields["user_id"] == "u"


async def test_session_and_history_change_apart(driver: Driver) -> None:
    await ready(driver)
    revs = await driver.commit([session("s", body={"metadata": {"a": 1}}), history("s")], "t1")
    assert revs[0] is not None and revs[1] is not None
    await driver.commit([history("s", revision=1, expect=revs[1])], "t2")
    (again,) = await driver.commit([session("s", user_id="u", body={"metadata": {"a": 2}}, expect=revs[0])], "t3")
    found, head = await driver.get_many([Ref("sessions", "s"), Ref("histories", "s")])
    assert found is not None and head is not None and found.body is not None
    assert (found.body["metadata"].value(), head.fields["revision"]) == ({"a": 2}, 1)
    await driver.commit([Delete(Ref("sessions", "s"), again or Expect.ANY)], "t4")
    found, head = await driver.get_many([Ref("sessions", "s"), Ref("histories", "s")])
    assert found is None and head is not None and head.fields["revision"] == 1
    assert ids(await scanned(driver, Span("sessions", "all_created", ()))) == []
    await driver.commit([session("s", user_id="again")], "t5")
    found, head = await driver.get_many([Ref("sessions", "s"), Ref("histories", "s")])
    assert found is not None and head is not None and head.fields["revision"] == 1
    await driver.commit([Delete(Ref("histories", "s"), head.rev)], "t6")
    found, head = await driver.get_many([Ref("sessions", "s"), Ref("histories", "s")])
    assert found is not None and head is None


async def test_deleting_session_and_history_together_leaves_nothing(driver: Driver) -> None:
    await ready(driver)
    revs = await driver.commit([session("s"), history("s")], "t1")
    await driver.commit(
        [Delete(Ref("sessions", "s"), revs[0] or Expect.ANY), Delete(Ref("histories", "s"), revs[1] or Expect.ANY)],
        "t2",
    )
    assert await driver.get_many([Ref("sessions", "s"), Ref("histories", "s")]) == [None, None]
    await driver.commit([session("s"), history("s")], "t3")


async def test_a_commit_of_several_documents_is_all_or_nothing_or_refused(driver: Driver) -> None:
    await ready(driver)
    (rev,) = await store(driver, history("s"))
    good = [run("r1", "s", 0), history("s", revision=1, expect=rev)]
    if not driver.atomic:
        try:
            await driver.commit(good, "t2")
        except UnsupportedTopologyError:
            assert await driver.get(Ref("runs", "r1")) is None
            return
    else:
        await driver.commit(good, "t2")
    with pytest.raises(Conflict):
        await driver.commit([run("r2", "s", 1), history("s", revision=2, expect=rev)], "t3")
    assert await driver.get(Ref("runs", "r2")) is None
    head = await driver.get(Ref("histories", "s"))
    assert head is not None and head.fields["revision"] == 1
    with pytest.raises(Conflict):
        await driver.commit([run("r1", "s", 5), history("s", revision=2, expect=head.rev)], "t4")
    head = await driver.get(Ref("histories", "s"))
    assert head is not None and head.fields["revision"] == 1


async def test_the_token_becomes_the_revision(driver: Driver) -> None:
    """So that whoever lost a reply can tell his own write from another's."""
    await ready(driver)
    (rev,) = await driver.commit([session("s")], "my-token")
    found = await driver.get(Ref("sessions", "s"))
    assert rev is not None and rev.token == "my-token"
    assert found is not None and found.rev.token == "my-token"


async def test_a_deleted_record_stays_deleted(driver: Driver) -> None:
    await ready(driver)
    await store(driver, session("s", user_id="u"), run("r", "s", 0))
    await driver.commit([Delete(Ref("sessions", "s"))], "t2")
    await driver.commit([Delete(Ref("sessions", "s"))], "t3")
    await driver.commit([Delete(Ref("runs", "r", "s", 0))], "t4")
    assert await driver.get(Ref("sessions", "s")) is None and await driver.get(Ref("runs", "r")) is None
    assert await scanned(driver, Span("sessions", "user_created", ("u",))) == []
    await store(driver, run("r", "s2", 0))
    found = await driver.get(Ref("runs", "r"))
    assert found is not None and found.fields["session_id"] == "s2"


async def test_a_child_may_take_another_place_under_its_revision(driver: Driver) -> None:
    await ready(driver)
    revs = await store(driver, run("r1", "s", 0), run("r2", "s", 1))
    await driver.commit([run("r1", "s", 5, expect=revs[0])], "t2")
    assert ids(await scanned(driver, Span("runs", "order", ("s",)))) == ["r2", "r1"]
    found = await driver.get(Ref("runs", "r1"))
    assert found is not None and found.fields["run_index"] == 5


async def test_touch_changes_nothing_but_the_expiry(driver: Driver) -> None:
    await ready(driver)
    (rev,) = await store(driver, session("s", user_id="u", body={"metadata": {"a": 1}}))
    await driver.commit([Touch(Ref("sessions", "s"), 4_000_000_000, rev)], "t2")
    found = await driver.get(Ref("sessions", "s"))
    assert found is not None and found.body is not None
    assert (found.expires_at, found.fields["user_id"]) == (4_000_000_000, "u")
    assert found.body["metadata"].value() == {"a": 1}
    await driver.commit([Touch(Ref("sessions", "s"), None)], "t3")
    found = await driver.get(Ref("sessions", "s"))
    assert found is not None and found.expires_at is None
    with pytest.raises(Conflict):
        await driver.commit([Touch(Ref("sessions", "s"), 5, rev)], "t4")
    with pytest.raises(Conflict):
        await driver.commit([Touch(Ref("sessions", "nobody"), 5)], "t5")


async def test_expiry_is_kept_with_a_put(driver: Driver) -> None:
    await ready(driver)
    await driver.commit([replace(session("s"), expires_at=4_000_000_000)], "t")
    found = await driver.get(Ref("sessions", "s"))
    assert found is not None and found.expires_at == 4_000_000_000


async def test_write_many_is_idempotent_and_unordered(driver: Driver) -> None:
    await ready(driver)
    puts = [session(f"s{n:03}", expect=Expect.ANY, user_id="u", created_at=n) for n in range(120)]
    assert await driver.write_many(puts, "t1") == []
    assert await driver.write_many(puts[:60], "t2") == []
    assert len(await scanned(driver, Span("sessions", "user_created", ("u",)))) == 120
    assert await driver.write_many([Delete(put.ref) for put in puts[:110]], "t3") == []
    assert await driver.write_many([Delete(put.ref) for put in puts[:110]], "t4") == []
    assert len(await scanned(driver, Span("sessions", "user_created", ("u",)))) == 10


async def test_write_many_inserts_what_is_not_there_and_says_what_is(driver: Driver) -> None:
    await ready(driver)
    await store(driver, span("x1", "t", name="first"), session("s1", user_id="u"))
    puts = [*(span(f"x{n}", "t", name="second") for n in range(60)), session("s1"), session("s2")]
    failed = await driver.write_many(puts, "t1")
    assert {(f.write.ref.kind, f.write.ref.id) for f in failed} == {("spans", "x1"), ("sessions", "s1")}
    assert all(isinstance(failure.error, Conflict) for failure in failed)
    found = await scanned(driver, Span("spans", "trace_started", ("t",)))
    assert len(found) == 60
    assert {record.fields["name"] for record in found if record.ref.id != "x1"} == {"second"}
    (first, kept) = await driver.get_many([Ref("spans", "x1"), Ref("sessions", "s1")])
    assert first is not None and first.fields["name"] == "first"
    assert kept is not None and kept.fields["user_id"] == "u"


async def test_totals_of_children_are_exact_where_the_store_adds_up(driver: Driver) -> None:
    await ready(driver)
    await store(driver, *(span(f"x{n}", f"t{n % 3}", errors=n % 2) for n in range(12)))
    found = await driver.totals(SPANS, ["t0", "t2", "nobody"], ["errors", "duration_ms"])
    if found is None:
        return
    expected = {}
    for parent in ("t0", "t2"):
        own = await scanned(driver, Span("spans", "trace_started", (parent,)))
        expected[parent] = (len(own), *(sum(r.fields[name] for r in own) for name in ("errors", "duration_ms")))  # type: ignore[misc]
    assert {parent: totals for parent, totals in found.items() if totals[0]} == expected
    assert expected["t0"] == (4, 2, 40)


async def test_every_kind_with_a_body_has_a_place_for_a_manifest(driver: Driver) -> None:
    await ready(driver)
    manifest = {"generation": "g", "parts": {"session_data": 1}}
    large = replace(session("s1", user_id="u"), body={MANIFEST: Json.of(manifest)})
    child = replace(run("r1", "s1", 0), body={MANIFEST: Json.of(manifest)})
    (rev, *_) = await store(driver, large, child)
    for record in await driver.get_many([large.ref, Ref("runs", "r1")]):
        assert record is not None and record.body == {MANIFEST: Json.of(manifest)}
    spans = (Span("sessions", "user_created", ("u",)), Span("runs", "order", ("s1",)))
    for one in spans:
        (record,) = await scanned(driver, one)
        assert record.body == {MANIFEST: Json.of(manifest)}
        (record,) = await scanned(driver, replace(one, body=False))
        assert record.body is None
    await driver.commit([session("s1", expect=rev, user_id="u")], "t2")
    found = await driver.get(large.ref)
    assert found is not None and found.body is not None and found.body.keys() == set(SESSIONS.body)


async def test_nested_children_are_found_by_their_parent(driver: Driver) -> None:
    """As large as the driver says that a record may be, whatever they hold; written and removed in batches."""
    await ready(driver)
    size = min(driver.item_bytes or 100_000, 1_000_000) - 1_000

    def chunk(owner: str, number: int) -> Put:
        fields = {"owner": owner, "place": f"g{number % 2}.{number:06d}.{size}"}
        text = f"{number:06d}" + '"' * (size // 2) if number % 2 else "€" * (size // 3)
        return Put(Ref("chunks", f"{owner}.{number}", owner), fields, {"slice": Json.of(text)})

    puts = [chunk("o1", number) for number in range(6)] + [chunk("o2", 7)]
    for token in ("t1", "t2"):  # once more: they may be there
        assert await driver.write_many(puts, token) == []
    missing = Ref("chunks", "o1.9", "o1")
    found = await driver.get_many([*(put.ref for put in reversed(puts)), missing])
    assert [record and record.body for record in found] == [*(put.body for put in reversed(puts)), None]
    every = Span(CHUNKS.name, "places", ("o1",), body=False)
    assert ids(await scanned(driver, every, 4)) == [f"o1.{number}" for number in (0, 2, 4, 1, 3, 5)]
    one = replace(every, low="g1.", high="g1/")
    headers = await scanned(driver, one)
    assert [header.fields["place"] for header in headers] == [f"g1.{number:06d}.{size}" for number in (1, 3, 5)]
    assert await driver.write_many([Delete(header.ref) for header in headers] + [Delete(missing)], "t3") == []
    assert ids(await scanned(driver, every)) == ["o1.0", "o1.2", "o1.4"]
    assert ids(await scanned(driver, replace(every, eq=("o2",)))) == ["o2.7"]


async def test_an_oversize_record_is_refused_and_nothing_written(driver: Driver) -> None:
    await ready(driver)
    if driver.store == "memory":
        driver.data.item_limit = 1_000_000  # type: ignore[attr-defined]
    noise = base64.b64encode(random.Random(1).randbytes(13_125_000)).decode()
    with pytest.raises(PayloadTooLargeError) as caught:
        await driver.commit([session("big", body={"session_data": {"noise": noise}})], "t")
    assert (caught.value.kind, caught.value.id) == ("sessions", "big")
    assert caught.value.size > caught.value.limit > 0
    assert await driver.get(Ref("sessions", "big")) is None


# --- Scans ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("page", [None, 1, 3, 7, 100])
async def test_pages_have_no_duplicates_and_no_gaps(driver: Driver, page: int | None, descending: bool) -> None:
    await ready(driver)
    times = [5, 3, 3, 3, 9, 1, 1, 20, -4, 100, 1000, 0]
    await store(driver, *(session(f"s{n:02}", user_id="u", created_at=time) for n, time in enumerate(times)))
    await store(driver, session("other", user_id="v", created_at=3), session("nobody", created_at=3))
    expected = sorted(range(len(times)), key=lambda n: (times[n], f"s{n:02}"), reverse=descending)
    found = await scanned(driver, Span("sessions", "user_created", ("u",), descending=descending), page)
    assert ids(found) == [f"s{n:02}" for n in expected]


async def test_an_index_over_everything_is_in_order(driver: Driver) -> None:
    await ready(driver)
    await store(driver, *(session(f"s{n:02}", created_at=(n * 7) % 20) for n in range(20)))
    expected = [f"s{n:02}" for n in sorted(range(20), key=lambda n: (n * 7) % 20)]
    assert ids(await scanned(driver, Span("sessions", "all_created", ()), 6)) == expected
    assert ids(await scanned(driver, Span("sessions", "all_created", (), descending=True), 6)) == expected[::-1]


async def test_everything_is_scanned_once(driver: Driver) -> None:
    await ready(driver)
    await store(driver, *(session(f"s{n}", components=("a", "b")) for n in range(9)), history("h"), run("r", "s1", 0))
    assert sorted(ids(await scanned(driver, Span("sessions", EVERYTHING), 4))) == [f"s{n}" for n in range(9)]
    assert ids(await scanned(driver, Span("histories", EVERYTHING))) == ["h"]
    assert ids(await scanned(driver, Span("runs", EVERYTHING))) == ["r"]


async def test_a_multi_valued_field_has_an_entry_for_each_value(driver: Driver) -> None:
    await ready(driver)
    revs = await store(
        driver,
        session("both", components=("a", "t"), created_at=2),
        session("agent", components=("a",), created_at=1),
        session("three", components=("a", "t", "w"), created_at=3),
        session("none", components=(), created_at=4),
    )
    for value, expected in (("a", ["agent", "both", "three"]), ("t", ["both", "three"]), ("w", ["three"]), ("x", [])):
        for page in (None, 1):
            assert ids(await scanned(driver, Span("sessions", "component_created", (value,)), page)) == expected
    await driver.commit([session("three", components=("w",), created_at=3, expect=revs[2])], "t2")
    assert ids(await scanned(driver, Span("sessions", "component_created", ("t",)))) == ["both"]
    assert ids(await scanned(driver, Span("sessions", "component_created", ("w",)))) == ["three"]
    await driver.commit([Delete(Ref("sessions", "both"), revs[0])], "t3")
    assert ids(await scanned(driver, Span("sessions", "component_created", ("t",)))) == []


async def test_bounds_are_inclusive(driver: Driver) -> None:
    await ready(driver)
    await store(driver, *(session(f"s{n}", user_id="u", created_at=n * 10) for n in range(6)))
    span = Span("sessions", "user_created", ("u",), low=10, high=40)
    assert ids(await scanned(driver, span, 2)) == ["s1", "s2", "s3", "s4"]
    assert ids(await scanned(driver, replace(span, high=None), 2)) == ["s1", "s2", "s3", "s4", "s5"]
    assert ids(await scanned(driver, replace(span, low=None, descending=True), 2)) == ["s4", "s3", "s2", "s1", "s0"]


async def test_a_record_with_a_null_in_the_index_has_no_entry(driver: Driver) -> None:
    await ready(driver)
    (rev,) = await store(driver, session("s", user_id="u"))
    assert ids(await scanned(driver, Span("sessions", "user_created", ("u",)))) == ["s"]
    await driver.commit([session("s", user_id=None, expect=rev)], "t2")
    assert ids(await scanned(driver, Span("sessions", "user_created", ("u",)))) == []


async def test_a_scan_for_headers_has_no_bodies_and_true_fields(driver: Driver) -> None:
    await ready(driver)
    await store(driver, session("s", user_id="u", agent_id="a", session_name="n", body={"metadata": {"a": 1}}))
    (header,) = await scanned(driver, Span("sessions", "user_created", ("u",), body=False))
    assert header.body is None
    assert (header.fields["user_id"], header.fields["agent_id"], header.fields["session_name"]) == ("u", "a", "n")
    assert header.fields["created_at"] == 1
    (full,) = await scanned(driver, Span("sessions", "user_created", ("u",)))
    assert full.body is not None and full.body["metadata"].value() == {"a": 1}


async def test_children_are_read_in_order_both_ways_and_at_once(driver: Driver) -> None:
    """Strongly consistent: what was acknowledged is there, in the very next read."""
    await ready(driver)
    for number in (3, 0, 11, 2, 10, 1):
        await store(driver, run(f"r{number}", "s", number))
        found = await scanned(driver, Span("runs", "order", ("s",)))
        assert f"r{number}" in ids(found)
    assert ids(await scanned(driver, Span("runs", "order", ("s",)), 2)) == ["r0", "r1", "r2", "r3", "r10", "r11"]
    last = await driver.scan(Span("runs", "order", ("s",), descending=True, limit=2))
    assert ids(last.records) == ["r11", "r10"]


async def test_changes_are_read_from_a_revision_on(driver: Driver) -> None:
    await ready(driver)
    revs = await store(driver, *(run(f"r{n}", "s", n, revision=n + 1) for n in range(12)))
    await driver.commit([run("r2", "s", 2, revision=13, expect=revs[2])], "t")
    changed = await scanned(driver, Span("runs", "changes", ("s",), low=11), 2)
    assert ids(changed) == ["r10", "r11", "r2"]
    assert changed[-1].body is not None and changed[-1].fields["revision"] == 13
    headers = await scanned(driver, Span("runs", "changes", ("s",), body=False))
    assert len(headers) == 12
    assert all(header.ref.parent == "s" and header.ref.order is not None for header in headers)


async def test_conditions_pushed_down_are_applied_in_full(driver: Driver) -> None:
    await ready(driver)
    await store(
        driver,
        run("r0", "s", 0, status="DONE"),
        run("r1", "s", 1, status=None),
        run("r2", "s", 2, status="ERROR", parent_run_id="r0"),
        run("r3", "s", 3, status="OPEN", user_id="u", created_at=50),
    )
    cases: list[tuple[Any, set[str]]] = [
        (Eq("status", "DONE"), {"r0"}),
        (Eq("status", None), {"r1"}),
        (Eq("parent_run_id", None), {"r0", "r1", "r3"}),
        (Eq("deleted", False), {"r0", "r1", "r2", "r3"}),
        (NotIn("status", ("DONE", "ERROR")), {"r1", "r3"}),
        (In("status", ("DONE", "OPEN")), {"r0", "r3"}),
        (In("user_id", (None, "u")), {"r0", "r1", "r2", "r3"}),
        (Range("created_at", 2, 50), {"r3"}),
        (NotIn("status", ()), {"r0", "r1", "r2", "r3"}),
        (In("status", ()), set()),
        (Range("created_at", 10**40, None), set()),
        (Eq("status", "$ne"), set()),
        (Contains("status", "on"), {"r0"}),
    ]
    for condition, expected in cases:
        span = Span("runs", "order", ("s",), where=(condition,))
        found = {r.ref.id for r in await scanned(driver, span) if condition.holds(r.fields)}
        assert found == expected, condition
        if type(condition) in driver.pushes:
            assert set(ids(await scanned(driver, span))) == expected, condition
    await store(driver, session("x", components=("a", "b")))
    assert ids(await scanned(driver, Span("sessions", "all_created", (), where=(Has("components", "b"),)))) == ["x"]


async def test_count_is_exact(driver: Driver) -> None:
    await ready(driver)
    await store(driver, *(session(f"s{n:02}", user_id="u" if n % 3 else "v", created_at=n) for n in range(25)))
    assert await driver.count(Span("sessions", "user_created", ("u",))) == 16
    assert await driver.count(Span("sessions", "user_created", ("u",), low=5, high=10)) == 4
    assert await driver.count(Span("sessions", "all_created", ())) == 25
    assert await driver.count(Span("sessions", "user_created", ("w",))) == 0


def schedule(id: str, name: str | None, *, expect: Any = Expect.ABSENT, **fields: Any) -> Put:
    values = {"name": name, "unique_name": name, "enabled": True, "created_at": 1, **fields}
    return Put(Ref("schedules", id), values, {"schedule": Json.of({"name": name})}, expect)


async def test_a_driver_that_sees_to_unique_values_lets_no_two_records_share_one(driver: Driver) -> None:
    """The others leave it to the kernel, which needs commits that span records for it."""
    await ready(driver)
    if not driver.unique:
        assert driver.atomic
        return
    (first,) = await store(driver, schedule("s1", "a"))
    await store(driver, schedule("s2", None), schedule("s3", None), schedule("s4", "b"))
    for put in (schedule("s5", "a"), schedule("s1", "b", expect=first)):
        with pytest.raises(Conflict):
            await driver.commit([put], f"t-{put.ref.id}")
    assert await driver.get(Ref("schedules", "s5")) is None
    found = await driver.get(Ref("schedules", "s1"))
    assert found is not None and found.fields["name"] == "a" and found.rev == first
    (second,) = await driver.commit([schedule("s1", "c", expect=first)], "renamed")
    await store(driver, schedule("s5", "a"))
    await driver.commit([schedule("s1", None, expect=second)], "unnamed")
    await store(driver, schedule("s6", "c"))
    failed = await driver.write_many([schedule("s7", "c"), schedule("s8", "d")], "many")
    assert [(failure.write.ref.id, type(failure.error)) for failure in failed] == [("s7", Conflict)]
    assert await driver.get(Ref("schedules", "s8")) is not None


async def test_a_count_may_leave_out_what_has_expired(driver: Driver) -> None:
    await ready(driver)
    now = int(driver.io.now()) + 1_000_000
    for n in range(6):
        at = {0: None, 1: now, 2: now + 1, 3: now - 5}.get(n, now - 10)
        values: dict[str, Any] = {"user_id": "u" if n < 5 else "v", "created_at": n, "components": ("c",)}
        await store(driver, replace(session(f"s{n}", **values), expires_at=at))
    driver.io.now = lambda: float(now)  # type: ignore[method-assign]  # DynamoDB's driver never counts what has expired
    for index, eq, expected in (
        ("user_created", ("u",), 2),
        ("component_created", ("c",), 2),
        ("all_created", (), 2),
        ("user_created", ("v",), 0),
        (EVERYTHING, (), 2),
    ):
        assert await driver.count(Span("sessions", index, eq, alive_at=now)) == expected, index
    assert await driver.count(Span("sessions", "user_created", ("u",), low=1, high=3, alive_at=now)) == 1
    both = await driver.page_and_count(Span("sessions", "user_created", ("u",), limit=1, body=False, alive_at=now), 1)
    if both is not None:
        assert (ids(both[0]), both[1]) == (["s2"], 2)


async def test_an_index_of_few_values_is_in_order(driver: Driver) -> None:
    """However a driver spreads its entries."""
    await ready(driver)
    await store(
        driver, *(trace(f"t{n:02}", start_time=f"{(n * 7) % 20:02}") for n in range(20)), trace("no", known=None)
    )
    expected = [f"t{n:02}" for n in sorted(range(20), key=lambda n: (n * 7) % 20)]
    assert ids(await scanned(driver, Span("traces", "all_started", (True,)), 6)) == expected
    assert ids(await scanned(driver, Span("traces", "all_started", (True,), descending=True), 6)) == expected[::-1]
    assert await driver.count(Span("traces", "all_started", (True,))) == 20
    assert ids(await scanned(driver, Span("traces", "all_started", (True,), low="05", high="07"))) == expected[5:8]


async def test_an_index_is_in_order_however_its_entries_are_dealt(driver: Driver) -> None:
    """Dealt by a hash of the id, say: all in one place, all that match in one place, or one place after the other."""
    await ready(driver)
    numbered = [f"d{n:03}" for n in range(200)]
    even, odd = ([id for id in numbered if int(keys.digest(id, 8), 16) % 2 == half] for half in (0, 1))
    deals: dict[str, list[tuple[str, str]]] = {
        "alone": [(id, "OK") for id in even[:40]],
        "matching": [
            one for pair in zip(even[:20], odd[:20], strict=True) for one in ((pair[0], "OK"), (pair[1], "NO"))
        ],
        "apart": [(id, "OK") for id in (*even[:25], *odd[:25], *even[25:30])],
    }
    for number, (deal, dealt) in enumerate(deals.items()):
        low, high = f"{number}", f"{number}~"
        puts = [
            trace(id, expect=Expect.ANY, start_time=f"{number}{place:03}", status=status, session_id=deal)
            for place, (id, status) in enumerate(dealt)
        ]
        assert await driver.write_many(puts, f"token-{number}") == []
        whole = Span("traces", "all_started", (True,), low=low, high=high)
        for where in ((), (Eq("status", "OK"),)):
            expected = [id for id, status in dealt if not where or status == "OK"]
            for page in (7, 20, None):
                for descending in (False, True):
                    asked = replace(whole, where=where, descending=descending)
                    for body in (False, True):
                        found = await scanned(driver, replace(asked, body=body), page)
                        told = [r.ref.id for r in found if all(c.holds(r.fields) for c in where)]
                        assert told == expected[:: -1 if descending else 1], (deal, where, page, descending)


async def test_a_header_lacks_volatile_fields_only(driver: Driver) -> None:
    await ready(driver)
    await store(driver, trace("t", user_id="u", status="OK", children=3, errors=1))
    (header,) = await scanned(driver, Span("traces", "user_started", ("u",), body=False))
    full = await driver.get(Ref("traces", "t"))
    assert full is not None and header.fields == full.fields


async def test_a_test_of_several_fields_is_never_refused(driver: Driver) -> None:
    await ready(driver)
    await store(driver, *(session(f"s{n}", user_id="u", created_at=n, updated_at=9 - n) for n in range(9)))
    condition = Predicate(("created_at", "updated_at"), lambda fields: fields["created_at"] > fields["updated_at"])  # type: ignore[operator]
    for index, eq in (("user_created", ("u",)), ("all_created", ()), (EVERYTHING, ())):
        found = await scanned(driver, Span("sessions", index, eq, where=(condition,)))
        assert {r.ref.id for r in found if condition.holds(r.fields)} == {"s5", "s6", "s7", "s8"}


async def test_a_page_with_its_count_is_what_the_two_are(driver: Driver) -> None:
    await ready(driver)
    await store(
        driver, *(trace(f"t{n:02}", start_time=f"{n:02}", status="OK" if n % 4 else "ERROR") for n in range(30))
    )
    whole = Span("traces", "all_started", (True,), low="03", descending=True)
    for where in ((), (Eq("status", "OK"),), (Contains("status", "ok"),)):
        span_ = replace(whole, where=where)
        every = [r for r in await scanned(driver, replace(span_, body=False)) if all(c.holds(r.fields) for c in where)]
        for offset, limit in ((0, 5), (7, 10), (25, 10), (100, 5), (3, None)):
            found = await driver.page_and_count(replace(span_, limit=limit), offset)
            if found is not None:
                assert ids(found[0]) == ids(every[offset : None if limit is None else offset + limit])
                assert found[1] == len(every)


# --- Counters ---------------------------------------------------------------------------------------------------------


async def test_add_counts_atomically_and_returns_the_result(driver: Driver) -> None:
    await ready(driver)
    await store(driver, history("h", user_id="u"))
    first = await driver.add(Ref("histories", "h"), {"revision": 1, "next_index": 3}, [], "t1")
    assert first is not None and (first.fields["revision"], first.fields["next_index"]) == (1, 3)
    second = await driver.add(Ref("histories", "h"), {"revision": 2}, [Eq("deleting", False)], "t2")
    assert second is not None and (second.fields["revision"], second.fields["next_index"]) == (3, 3)
    assert second.rev != first.rev
    found = await driver.get(Ref("histories", "h"))
    assert found is not None and found.rev == second.rev and found.fields == second.fields


async def test_add_sets_other_fields_in_the_same_step(driver: Driver) -> None:
    await ready(driver)
    await store(driver, history("h", user_id="u"), session("s", user_id="u"))
    found = await driver.add(Ref("histories", "h"), {"revision": 1}, [], "t1", {"uncounted": True})
    assert found is not None and (found.fields["revision"], found.fields["uncounted"]) == (1, True)
    assert ids(await scanned(driver, Span("histories", "uncounted", (True,)))) == ["h"]
    assert (
        await driver.add(Ref("histories", "h"), {"revision": 1}, [Eq("user_id", "v")], "t2", {"user_id": "x"}) is None
    )
    found = await driver.add(Ref("histories", "h"), {"revision": 1}, [], "t3", {"uncounted": None, "user_id": "v"})
    assert found is not None and found == await driver.get(Ref("histories", "h"))
    assert (found.fields["revision"], found.fields["uncounted"], found.fields["user_id"]) == (2, None, "v")
    assert ids(await scanned(driver, Span("histories", "uncounted", (True,)))) == []


async def test_add_is_refused_where_the_guard_does_not_hold(driver: Driver) -> None:
    await ready(driver)
    await store(driver, history("h", user_id="u"), history("free"))
    mine = In("user_id", (None, "u"))
    other = In("user_id", (None, "v"))
    assert await driver.add(Ref("histories", "h"), {"revision": 1}, [mine], "t1") is not None
    assert await driver.add(Ref("histories", "h"), {"revision": 1}, [other], "t2") is None
    assert await driver.add(Ref("histories", "free"), {"revision": 1}, [other], "t3") is not None
    assert await driver.add(Ref("histories", "h"), {"revision": 1}, [Eq("deleting", True)], "t4") is None
    assert await driver.add(Ref("histories", "nobody"), {"revision": 1}, [], "t5") is None
    found = await driver.get(Ref("histories", "h"))
    assert found is not None and found.fields["revision"] == 1
    assert await driver.get(Ref("histories", "nobody")) is None


# --- Storage ----------------------------------------------------------------------------------------------------------


async def test_ensure_is_idempotent_and_keeps_what_is_there(driver: Driver) -> None:
    await ready(driver)
    await store(driver, session("s"))
    await driver.ensure(list(KINDS.values()))
    assert await driver.get(Ref("sessions", "s")) is not None
    assert await driver.exists(driver.tables["sessions"])
    assert not await driver.exists("agno_of_nothing")


async def test_dropping_removes_every_record_and_can_be_repeated(driver: Driver) -> None:
    await ready(driver)
    await store(driver, session("s"), history("s"), run("r", "s", 0), trace("t"), span("x", "t"))
    expired = replace(session("old"), expires_at=1)
    await driver.commit([expired, history("alone")], "t2") if driver.atomic else await store(driver, expired)
    await driver.drop()
    for table in set(driver.tables.values()):
        assert not await driver.exists(table)
    await driver.drop()
    await driver.ensure(list(KINDS.values()))
    for kind in KINDS:
        assert await scanned(driver, Span(kind, EVERYTHING)) == []
    assert await driver.get(Ref("runs", "r")) is None
    await store(driver, run("r", "s", 0), session("s"))
    assert ids(await scanned(driver, Span("runs", "order", ("s",)))) == ["r"]


async def test_reading_storage_that_is_not_there_creates_nothing(driver: Driver) -> None:
    await driver.open()
    with contextlib.suppress(StorageMissingError):
        assert await driver.get(Ref("versions", "x")) is None
    assert not await driver.exists(driver.tables["versions"])


async def test_children_can_be_removed_without_their_bodies(driver: Driver) -> None:
    await ready(driver)
    await store(driver, *(run(f"r{n}", "s", n) for n in range(7)), run("keep", "s2", 0))
    some = (In("run_index", (1, 2)),)
    if await driver.delete_children("s", RUNS, some):
        assert ids(await scanned(driver, Span("runs", "order", ("s",)))) == ["r0", "r3", "r4", "r5", "r6"]
        assert not await driver.delete_children("s", RUNS, (Contains("status", "x"),)), "it cannot tell"
    if not await driver.delete_children("s", RUNS):
        headers = await scanned(driver, Span("runs", "changes", ("s",), body=False))
        assert await driver.write_many([Delete(header.ref) for header in headers], "t") == []
    assert ids(await scanned(driver, Span("runs", "order", ("s",)))) == []
    assert ids(await scanned(driver, Span("runs", "order", ("s2",)))) == ["keep"]
    assert await driver.get(Ref("runs", "r3")) is None


async def test_open_and_close_are_idempotent(driver: Driver) -> None:
    await ready(driver)
    await driver.open()
    await store(driver, Put(Ref("versions", "v"), {"version": "1"}))
    await driver.close()
    await driver.close()
    await driver.open()
    found = await driver.get(Ref("versions", "v"))
    assert found is not None and found.fields["version"] == "1"


def test_the_kinds_are_the_ones_the_contract_needs(driver: Driver) -> None:
    assert {SESSIONS.name, HISTORIES.name, RUNS.name, VERSIONS.name} <= set(driver.kinds)

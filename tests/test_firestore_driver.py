"""What is Firestore's alone: the stored document, ids, queries without composite indexes, errors, clients, identity.

What every store has to do is in the conformance suite; the tests here that need a server run on each Firestore cell.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest
from agno.session import AgentSession
from google.api_core import exceptions as gcp
from google.auth.exceptions import DefaultCredentialsError, RefreshError
from google.cloud import firestore

from agno_docstores.codec import Json
from agno_docstores.conformance.plugin import Awaitable, close
from agno_docstores.errors import (
    Conflict,
    CorruptRecordError,
    DocstoreError,
    PayloadTooLargeError,
    ProvisioningError,
    StoreError,
    StoreUnavailableError,
)
from agno_docstores.io import SyncIo, run
from agno_docstores.kernel import UNAVAILABLE_ATTEMPTS, Kernel, Query
from agno_docstores.port import (
    EVERYTHING,
    Delete,
    Driver,
    Eq,
    Expect,
    Has,
    Index,
    Kind,
    Put,
    Range,
    Ref,
    Rev,
    Span,
    Touch,
)
from agno_docstores.schema import KINDS, SESSIONS, VERSIONS
from agno_docstores_firestore import AsyncFirestoreDocstore, FirestoreDocstore, documents
from agno_docstores_firestore import driver as driver_module
from agno_docstores_firestore.clients import Clients
from agno_docstores_firestore.driver import FirestoreDriver
from agno_docstores_firestore.emulator import FirestoreEmulator, Refused

everywhere = pytest.mark.cells("firestore-*")
in_process = pytest.mark.cells("firestore-*-embedded")


def session(id: str, *, expect: Any = Expect.ANY, body: dict[str, Any] | None = None, **fields: Any) -> Put:
    values = {"session_type": "agent", "created_at": 7, "updated_at": 8, "touched_at": 8, "components": (), **fields}
    return Put(Ref("sessions", id), values, {name: Json.of(value) for name, value in (body or {}).items()}, expect)


def history(id: str, **fields: Any) -> Put:
    return Put(Ref("histories", id), {"user_id": None, "revision": 0, "next_index": 0, "deleting": False, **fields})


def a_run(id: str, index: int = 0, **fields: Any) -> Put:
    values = {"session_id": "s1", "run_index": index, "revision": index + 1, "deleted": False, **fields}
    return Put(Ref("runs", id, "s1", index), values, {"run_data": Json.of({"run_id": id})})


async def rev_of(driver: Driver, put: Put, token: str = "t0") -> Rev:
    (rev,) = await driver.commit([put], token)
    assert rev is not None
    return rev


@contextmanager
def people(driver: Any) -> Iterator[Any]:
    """A client of the vendor's own on the same database, to look at documents as people see them."""
    place = driver.clients.place
    client = firestore.Client(project=place.project, database=place.database)
    try:
        yield client
    finally:
        client._firestore_api.transport.close()


def documents_of(driver: Any, kind: str) -> dict[str, dict[str, Any]]:
    with people(driver) as client:
        return {found.id: found.to_dict() for found in client.collection(driver.collections[kind]).stream()}


def offline(project: str = "p", **options: Any) -> FirestoreDriver:
    """A driver that never needs its client."""
    clients = Clients(firestore.Client, None, project, None, None)
    return FirestoreDriver(options.pop("io", SyncIo()), KINDS, TABLES, clients, **options)


TABLES = {"sessions": "agno_sessions", "histories": "agno_sessions", "runs": "agno_runs", "versions": "agno_versions"}
TABLES |= {kind.name: f"agno_{kind.name}" for kind in KINDS.values() if kind.name not in TABLES}


@pytest.fixture
def no_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRESTORE_EMULATOR_HOST", "GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)


# --- The stored document ----------------------------------------------------------------------------------------------


@pytest.mark.cells("firestore-sync-*", "firestore-async-google", "firestore-async-service")  # the other has shards
async def test_the_stored_document_is_this_one(driver: Any) -> None:
    """A golden snapshot: whoever changes the layout changes it here, and has to say how old documents are read."""
    driver._compress = False
    put = session(
        "s/1",
        user_id="u",
        agent_id="a1",
        component="a1",
        components=("a1", "t1"),
        session_name="Näme",
        body={"session_data": {"a.b": [1, 2.5]}, "metadata": None},
    )
    await driver.commit([replace(put, expires_at=4_000_000_000), history("s/1", user_id="u")], "token")
    await driver.commit([a_run("r1", 3, user_id="u", status="COMPLETED", created_at=7)], "other")
    found = documents_of(driver, "sessions")
    assert found["s%2F1"].pop("expires_at").timestamp() == 4_000_000_000
    assert found == {
        "s%2F1": {
            "id": "s/1",
            "rev": "token",
            "session_type": "agent",
            "agent_id": "a1",
            "user_id": "u",
            "session_name": "Näme",
            "component": "a1",
            "components": ["a1", "t1"],
            "created_at": 7,
            "updated_at": 8,
            "touched_at": 8,
            "body": '{"session_data":{"a.b":[1,2.5]},"metadata":null}',
            "ix_user_created": "4u!3p0017!4s/1!",
            "ix_user_touched": "4u!3p0018!4s/1!",
            "ix_component_created": {
                "vfcc14ee17adb49c5697b052d144f9aae": "4a1!3p0017!4s/1!",
                "v1140f292af699bf39052f1b0a14bcc7b": "4t1!3p0017!4s/1!",
            },
            "ix_component_touched": {
                "vfcc14ee17adb49c5697b052d144f9aae": "4a1!3p0018!4s/1!",
                "v1140f292af699bf39052f1b0a14bcc7b": "4t1!3p0018!4s/1!",
            },
            "ix_all_created": "3p0017!4s/1!",
            "ix_all_touched": "3p0018!4s/1!",
            "ix_user_type_created": "4u!4agent!3p0017!4s/1!",
            "ix_user_type_touched": "4u!4agent!3p0018!4s/1!",
            "ix_component_type_created": "4a1!4agent!3p0017!4s/1!",
            "ix_component_type_touched": "4a1!4agent!3p0018!4s/1!",
        }
    }
    assert documents_of(driver, "histories") == {
        "s%2F1": {"id": "s/1", "rev": "token", "user_id": "u", "revision": 0, "next_index": 0, "deleting": False}
    }
    assert documents_of(driver, "runs") == {
        "r1": {
            "id": "r1",
            "rev": "other",
            "session_id": "s1",
            "user_id": "u",
            "status": "COMPLETED",
            "run_index": 3,
            "revision": 4,
            "deleted": False,
            "created_at": 7,
            "body": '{"run_data":{"run_id":"r1"}}',
            "ix_order": "4s1!3p0013!4r1!",
            "ix_changes": "4s1!3p0014!4r1!",
            "ix_user_created": "4u!3p0017!4r1!",
            "ix_status_created": "4COMPLETED!3p0017!4r1!",
        }
    }


@everywhere
async def test_compressed_and_readable_bodies_are_both_read(driver: Any) -> None:
    body = {"session_data": {"text": "word " * 2_000}}
    for compress in (True, False):
        driver._compress = compress
        await driver.commit([session(f"s{compress}", body=body)], "t")
    kinds = {id: type(found["body"]) for id, found in documents_of(driver, "sessions").items()}
    assert kinds == {"sTrue": bytes, "sFalse": str}
    for record in await driver.get_many([Ref("sessions", "sTrue"), Ref("sessions", "sFalse")]):
        assert record.body["session_data"].value() == body["session_data"]


@everywhere
async def test_fields_that_firestore_has_no_value_for_come_back(driver: Driver) -> None:
    hostile = {"session_name": "\ud800", "created_at": 2**70, "updated_at": -(2**63), "agent_id": "a\x00b"}
    await driver.commit([session("s", **hostile)], "t")
    found = await driver.get(Ref("sessions", "s"))
    assert found is not None
    assert {name: found.fields[name] for name in hostile} == hostile


def test_a_declared_field_with_a_name_of_ours_keeps_its_own_place() -> None:
    kind = Kind("tokens", "t", fields=("id", "rev", "body", "expires_at"))
    values = {"id": "theirs", "rev": "theirs", "body": "theirs", "expires_at": 5}
    document = documents.types.Document.pb()(name="projects/p/databases/d/documents/tokens/x")
    put = Put(Ref("tokens", "x"), values, expires_at=9)
    documents.fill(document, kind, put, "token", compress=True)
    found = documents.read(document, kind, body=True)
    assert (found.ref.id, found.rev.token, found.fields, found.expires_at) == ("x", "token", values, 9)


@everywhere
async def test_a_document_of_somebody_else_is_reported_and_never_overwritten(driver: Any) -> None:
    """Agno's own adapter uses the same names of collections."""
    await driver.commit([session("ours")], "t")
    with people(driver) as client:
        client.collection("agno_sessions").document("theirs").set({"session_id": "theirs", "created_at": 1})
    with pytest.raises(CorruptRecordError):
        await driver.get(Ref("sessions", "theirs"))
    with pytest.raises(Conflict):
        await driver.commit([session("theirs", expect=Expect.ABSENT)], "t2")
    for index in (EVERYTHING, "all_created"):
        page = await driver.scan(Span("sessions", index))
        assert [record.ref.id for record in page.records] == ["ours"]


@everywhere
async def test_a_body_that_cannot_be_decoded_is_not_read_as_missing(driver: Any) -> None:
    await driver.commit([session("s", body={"metadata": {"a": 1}})], "t")
    with people(driver) as client:
        client.collection("agno_sessions").document("s").update({"body": b"not ours"})
    with pytest.raises(CorruptRecordError, match="'s'"):
        await driver.get(Ref("sessions", "s"))


# --- Ids and names ----------------------------------------------------------------------------------------------------

IDS = [
    "a", "a/b", "a%2Fb", "a%2fb", "%", "%25", ".", "..", "...", "%2E", "%2E.", "__x__", "__id7__", "____", "__", "_",
    "%5F_x__", "\x00", "%00", "\n", " ", "é", "e\u0301", "日本語", "😀", "x" * 1_500, "x" * 1_501, "x" * 1_502,
    "é" * 750, "é" * 751, "/" * 500, "/" * 501, "%~", "x%~y",
]  # fmt: skip


def test_ids_never_share_a_document_and_are_legal() -> None:
    rnd = random.Random(5)
    made = ["".join(rnd.choices("a/%.~_2F5E\x00é", k=rnd.randint(1, 8))) for _ in range(20_000)]
    segments = {id: documents.segment(id) for id in [*IDS, *made]}
    assert len(set(segments.values())) == len(segments)
    for segment in segments.values():
        assert 0 < len(segment.encode()) <= 1_500
        assert "/" not in segment and segment not in (".", "..") and not re.fullmatch("__.*__", segment, re.DOTALL)


def test_a_long_id_cannot_be_imitated_by_another() -> None:
    shortened = documents.segment("x" * 3_000)
    assert documents.segment(shortened) != shortened
    assert documents.segment("x" * 3_000) != documents.segment("x" * 2_999 + "y")


@everywhere
async def test_ids_are_kept_whatever_they_are(driver: Driver) -> None:
    await driver.write_many([session(id, agent_id=id, components=(id,)) for id in IDS], "t")
    found = await driver.get_many([Ref("sessions", id) for id in IDS])
    assert [record.ref.id if record else None for record in found] == IDS
    for id in IDS:
        page = await driver.scan(Span("sessions", "component_created", (id,)))
        assert [record.ref.id for record in page.records] == [id]


def test_the_prefix_names_collections_without_a_name_of_their_own(no_emulator: None) -> None:
    db = FirestoreDocstore(project_id="p", collection_prefix="team", runs_table="agno_runs_of_mine")
    collections = db._engine.driver.collections  # type: ignore[attr-defined]
    assert collections["sessions"] == "team_sessions"
    assert collections["histories"] == "team_sessions_histories"
    assert collections["runs"] == "agno_runs_of_mine"
    with pytest.raises(ValueError, match="collection_prefix"):
        FirestoreDocstore(project_id="p", collection_prefix="")


def test_a_table_name_is_one_segment_of_the_path(no_emulator: None) -> None:
    db = FirestoreDocstore(project_id="p", session_table="a/b", runs_table="__x__")
    collections = db._engine.driver.collections  # type: ignore[attr-defined]
    assert (collections["sessions"], collections["runs"]) == ("a%2Fb", "%5F_x__")


@pytest.mark.parametrize("names", [("t", "t"), ("t", "t_histories")])
def test_table_names_that_would_mix_two_kinds_are_refused(names: tuple[str, str], no_emulator: None) -> None:
    with pytest.raises(ValueError, match="share the collection"):
        FirestoreDocstore(project_id="p", session_table=names[0], runs_table=names[1])


# --- Queries ----------------------------------------------------------------------------------------------------------


def spans() -> Iterator[Span]:
    """Every shape of scan that the kinds allow."""
    for kind in KINDS.values():
        yield Span(kind.name, EVERYTHING)
        yield Span(kind.name, EVERYTHING, after="x", limit=5, body=False)
        for index in kind.indexes:
            eq = ("v",) * len(index.eq)
            for low, high, descending, after in itertools.product((None, 1), (None, 9), (False, True), (None, "after")):
                # What is asked of each document, and of how many, is no matter of an index.
                limit, body = (5, False) if descending == (after is None) else (None, True)
                yield Span(kind.name, index.name, eq, low, high, descending, after, limit, body)


def test_every_query_is_a_range_of_one_field_in_the_order_of_that_field(no_emulator: None) -> None:
    """So the automatic single-field indexes serve it; a composite index would have to be declared by an operator."""
    driver = offline()
    driver._database = lambda: "projects/p/databases/(default)"  # type: ignore[method-assign]
    for span, shard in itertools.product(spans(), (0, 1)):
        query = driver._query(span, shard, span.after, span.limit)
        paths = {one.field_filter.field.field_path for one in query.where.composite_filter.filters}
        (order,) = query.order_by
        assert paths <= {order.field.field_path}, span
        if span.index == EVERYTHING:
            assert (order.field.field_path, order.direction) == ("__name__", 1) and not paths


@pytest.mark.cells("firestore-sync-google", "firestore-async-embedded")  # it asks some thousand queries
async def test_every_query_and_count_is_answered(driver: Driver) -> None:
    """The embedded emulator refuses what needs a composite index; Google's takes any query that is well-formed."""
    for span in spans():
        assert (await driver.scan(span)).records == []
        if span.after is None:
            assert await driver.count(span) == 0


@everywhere
async def test_every_plan_of_the_kernel_is_answered(driver: Driver) -> None:
    kernel = Kernel(driver)
    await driver.write_many([session(f"s{n}", user_id="u", components=("a",), created_at=n) for n in range(9)], "t")
    conditions = [Eq("user_id", "u"), Has("components", "a"), Eq("session_type", "agent"), Range("created_at", 2, 6)]
    for size in range(len(conditions) + 1):
        for where in itertools.combinations(conditions, size):
            for sort in (None, "created_at", "touched_at", "agent_id"):
                query = Query(SESSIONS, where, sort, descending=sort is not None)
                found, total = await kernel.page_and_total(query, offset=1, limit=3)
                assert total == (5 if conditions[3] in where else 9)
                assert len(found) == 3


@everywhere
async def test_bounds_leave_out_null_and_what_is_beyond(driver: Driver) -> None:
    values = [None, -5, 0, 1, 1.5, 2, 10, 2**70]
    await driver.write_many([session(f"s{n}", user_id="u", created_at=value) for n, value in enumerate(values)], "t")

    async def between(low: Any, high: Any) -> list[Any]:
        span = Span("sessions", "user_created", ("u",), low, high)
        found = [record.fields["created_at"] for record in (await driver.scan(span)).records]
        assert await driver.count(span) == len(found)
        return found

    assert await between(None, None) == values
    assert await between(None, 1) == [-5, 0, 1]
    assert await between(1, None) == [1, 1.5, 2, 10, 2**70]
    assert await between(1, 2) == [1, 1.5, 2]
    assert await between(3, 2) == []


@everywhere
async def test_an_equal_value_is_no_prefix_of_another(driver: Driver) -> None:
    users = ["u", "u!", 'u"', "u1", "U", "", " ", "u/", "v", "x" * 200, "x" * 201, "x" * 202, "4u", "é"]
    await driver.write_many([session(f"s{n}", user_id=user) for n, user in enumerate(users)], "t")
    for number, user in enumerate(users):
        page = await driver.scan(Span("sessions", "user_created", (user,)))
        assert [record.ref.id for record in page.records] == [f"s{number}"]


@everywhere
async def test_an_index_text_stays_within_what_firestore_indexes(driver: Driver) -> None:
    """Beyond 1,500 bytes it would order by a prefix, and two records could share one place."""
    spaces = " " * 200  # each is escaped, so takes two
    await driver.write_many([session(spaces + str(n), user_id=spaces, created_at=10**600 + n) for n in range(3)], "t")
    found = []
    cursor = None
    for _ in range(3):
        page = await driver.scan(Span("sessions", "user_created", (spaces,), after=cursor, limit=1))
        found += [record.ref.id for record in page.records]
        cursor = page.cursor
    assert sorted(found) == [spaces + str(n) for n in range(3)]
    for stored in documents_of(driver, "sessions").values():
        assert len(stored["ix_user_created"].encode()) <= 1_500


@everywhere
async def test_a_record_of_several_values_is_found_once_by_each_in_one_request(driver: Any) -> None:
    await driver.commit([session("s", components=("a", "b", "c", "d", "e"), created_at=3)], "t")
    for value in "abcde":
        driver.io.calls.clear()
        page = await driver.scan(Span("sessions", "component_created", (value,), low=3, high=3))
        assert [record.ref.id for record in page.records] == ["s"]
        assert await driver.count(Span("sessions", "component_created", (value,))) == 1
        assert driver.io.calls == {"run_query": driver.shards[1], "count": driver.shards[1]}


# --- Shards -----------------------------------------------------------------------------------------------------------


async def paged(driver: Driver, span: Span, size: int) -> list[str]:
    found: list[str] = []
    while True:
        page = await driver.scan(replace(span, limit=size))
        assert len(page.records) <= size
        found += [record.ref.id for record in page.records]
        if page.cursor is None:
            return found
        span = replace(span, after=page.cursor)


@everywhere
async def test_a_page_of_a_divided_index_asks_each_shard_for_its_share(open_another: Any) -> None:
    db = open_another(listing_shards=6, component_shards=2)  # half of them for what is written once
    driver = db._engine.driver
    await driver.write_many([session(f"s{n:03}", created_at=100 + n // 2, components=("a",)) for n in range(100)], "t")
    texts = [stored["ix_all_created"] for stored in documents_of(driver, "sessions").values()]
    assert {text.split("!")[0] for text in texts if text.startswith("~")} == {"~1", "~2"}
    assert len([text for text in texts if text.startswith("~")]) < 90, "a third lies as it does without shards"
    expected = [f"s{n:03}" for n in range(100)]
    for span in (Span("sessions", "all_created", ()), Span("sessions", "component_created", ("a",))):
        assert await paged(driver, span, 7) == await paged(driver, span, 300) == expected
        assert await paged(driver, replace(span, descending=True), 33) == expected[::-1]
        assert await paged(driver, replace(span, low=110, high=112, descending=True), 2) == expected[25:19:-1]
        assert await driver.count(span) == 100 and await driver.count(replace(span, low=110, high=112)) == 6
        assert await driver.count(replace(span, alive_at=1)) == 100
    read: list[int] = []
    query = driver._run_query

    async def counted(asked: Any) -> Any:
        answer = await query(asked)
        read.append(len(answer))
        return answer

    driver._run_query = counted
    page = await driver.scan(Span("sessions", "all_created", (), limit=20))
    assert len(page.records) == 20 and len(read) == 3 and sum(read) <= 40, "a query for each, of what it may have"
    await close(db)


@everywhere
async def test_an_index_can_be_divided_later(open_another: Any) -> None:
    """What was stored before stays in the listings, and leaves its place with its next write."""
    db, wide = Awaitable(open_another(listing_shards=1, component_shards=1)), Awaitable(open_another(listing_shards=8))
    for number in range(12):
        await db.upsert_session(AgentSession(session_id=f"s{number:02}", agent_id="a", created_at=100 + number))
    driver = wide.raw._engine.driver
    assert not any(one["ix_all_created"].startswith("~") for one in documents_of(driver, "sessions").values())
    for number in range(6, 18):
        await wide.upsert_session(AgentSession(session_id=f"s{number:02}", agent_id="a", created_at=100 + number))
    places = {id: one["ix_all_created"][:2] for id, one in documents_of(driver, "sessions").items()}
    assert {places[f"s{number:02}"] for number in range(6)} == {"3p"} and len(set(places.values())) > 2
    listing = {"sort_by": "created_at", "sort_order": "asc", "limit": 5}
    pages = [await wide.get_sessions(page=page, **listing) for page in (1, 2, 3, 4)]
    assert [one.session_id for page in pages for one in page] == [f"s{number:02}" for number in range(18)]
    assert await wide.count_sessions() == 18
    assert await wide.delete_session("s03") and await wide.delete_session("s11") and await wide.count_sessions() == 16
    await close(db.raw)
    await close(wide.raw)


def test_shards_are_counted_from_one(no_emulator: None) -> None:
    for name in ("listing_shards", "component_shards"):
        with pytest.raises(ValueError, match=name):
            FirestoreDocstore(project_id="p", **{name: 0})
    told = FirestoreDocstore(project_id="p", listing_shards=4).to_dict()
    assert (told["listing_shards"], told["component_shards"]) == (4, 1)
    assert FirestoreDocstore.from_dict(told).to_dict() == told


def test_a_field_of_several_values_that_is_not_declared_so_is_refused() -> None:
    kind = Kind("tagged", "t", fields=("tags", "at"), indexes=(Index("by_tag", ("tags",), "at"),))
    document = documents.types.Document.pb()(name="projects/p/databases/d/documents/tagged/x")
    with pytest.raises(TypeError, match="by_tag"):
        documents.fill(document, kind, Put(Ref("tagged", "x"), {"tags": ("a",), "at": 1}), "t", compress=True)


@everywhere
async def test_few_matches_in_a_long_index_cost_few_requests(driver: Driver) -> None:
    puts = [a_run(f"r{n:03}", n, status="DONE" if n % 200 == 0 else "SKIP") for n in range(401)]
    assert await driver.write_many(puts, "t") == []
    driver.io.calls.clear()
    where = (Eq("status", "DONE"),)
    page = await driver.scan(Span("runs", "order", ("s1",), descending=True, limit=3, body=False, where=where))
    assert [record.ref.id for record in page.records] == ["r400", "r200", "r000"]
    assert driver.io.calls["run_query"] <= 6
    page = await driver.scan(Span("runs", "order", ("s1",), descending=True, limit=2, where=where))
    assert [record.ref.id for record in page.records] == ["r400", "r200"]
    page = await driver.scan(Span("runs", "order", ("s1",), descending=True, limit=2, where=where, after=page.cursor))
    assert [record.ref.id for record in page.records] == ["r000"]
    assert page.cursor is None


@everywhere
async def test_many_records_are_read_in_few_requests(driver: Driver) -> None:
    puts = [a_run(f"r{n:04}", n) for n in range(700)]
    assert await driver.write_many(puts, "t") == []
    driver.io.calls.clear()
    found = await driver.get_many([put.ref for put in reversed(puts)])
    assert [record.ref.id if record else None for record in found] == [put.ref.id for put in reversed(puts)]
    assert driver.io.calls == {"get_all": 3}
    found = await driver.get_many([puts[0].ref, Ref("runs", "none"), puts[0].ref])
    assert [record.ref.id if record else None for record in found] == ["r0000", None, "r0000"]


# --- Commits ----------------------------------------------------------------------------------------------------------


@everywhere
async def test_a_revision_known_by_its_token_alone_is_checked(driver: Driver) -> None:
    """Such a revision comes from whoever kept the token and not the driver's own note."""
    await driver.commit([session("s", user_id="1")], "token")
    with pytest.raises(Conflict):
        await driver.commit([session("s", user_id="2", expect=Rev("another"))], "t2")
    with pytest.raises(Conflict):
        await driver.commit([session("nobody", expect=Rev("token"))], "t2")
    await driver.commit([session("s", user_id="3", expect=Rev("token"))], "t3")
    found = await driver.get(Ref("sessions", "s"))
    assert found is not None and (found.fields["user_id"], found.rev.token) == ("3", "t3")


@everywhere
async def test_a_revision_of_a_former_document_of_the_same_id_is_refused(driver: Driver) -> None:
    rev = await rev_of(driver, session("s"), "same")
    await driver.commit([Delete(Ref("sessions", "s"))], "t")
    await driver.commit([session("s")], "same")
    with pytest.raises(Conflict):
        await driver.commit([session("s", expect=rev)], "t2")
    with pytest.raises(Conflict):
        await driver.commit([Delete(Ref("sessions", "s"), rev)], "t3")


class Lost:
    """A network that delivers the next calls of an operation and loses their replies."""

    def __init__(self, operation: str, error: Exception, times: int = 1) -> None:
        self.operation, self.error, self.times = operation, error, times

    def before(self, operation: str) -> None: ...

    def after(self, operation: str) -> None:
        if operation == self.operation and self.times:
            self.times -= 1
            raise self.error


@everywhere
@pytest.mark.parametrize(
    "error", [gcp.ServiceUnavailable("gone"), gcp.InternalServerError("oops"), gcp.DeadlineExceeded("late")]
)
async def test_a_commit_whose_reply_is_lost_is_recognised_by_its_token(driver: Driver, error: Exception) -> None:
    kernel = Kernel(driver)
    first = await rev_of(driver, history("h"))
    driver.io.hooks.append(Lost("commit", error))
    put = replace(history("h", revision=1), expect=first)
    revs = await kernel.commit([replace(session("new"), expect=Expect.ABSENT), put])
    driver.io.hooks.clear()
    found, head = await driver.get_many([Ref("sessions", "new"), Ref("histories", "h")])
    assert found is not None and head is not None
    assert [found.rev, head.rev] == revs and head.fields["revision"] == 1
    await kernel.commit([replace(put, expect=revs[1] or Expect.ANY)])


@everywhere
async def test_an_addition_whose_reply_is_lost_counts_once(driver: Driver) -> None:
    kernel = Kernel(driver)
    await driver.commit([history("h")], "t")
    driver.io.hooks.append(Lost("commit", gcp.ServiceUnavailable("gone"), times=2))
    counted = await kernel.add(Ref("histories", "h"), {"revision": 1}, [])
    driver.io.hooks.clear()
    found = await driver.get(Ref("histories", "h"))
    assert counted is not None and found is not None
    assert counted.fields["revision"] == found.fields["revision"] == 1


@in_process
async def test_the_sdk_sends_a_commit_once(driver: Any, cell: Any) -> None:
    """Its own retry would apply a commit twice, or answer a success with ALREADY_EXISTS."""
    emulator: FirestoreEmulator = cell.server._emulator
    await driver.commit([session("s")], "t")
    emulator.reset_counts()

    def unavailable(name: str) -> None:
        raise Refused(grpc.StatusCode.UNAVAILABLE, "try again")

    emulator.before_call = unavailable
    try:
        for call, name in (
            (driver.commit([session("s")], "t"), "Commit"),
            (driver.write_many([session("s")], "t"), "BatchWrite"),
            (driver.get(Ref("sessions", "s")), "BatchGetDocuments"),
            (driver.scan(Span("sessions", EVERYTHING)), "RunQuery"),
            (driver.count(Span("sessions", EVERYTHING)), "RunAggregationQuery"),
        ):
            with pytest.raises(StoreUnavailableError) as caught:
                await call
            assert caught.value.maybe_applied is (name in ("Commit", "BatchWrite"))
            assert emulator.requests[name] == 1
    finally:
        emulator.before_call = None


@in_process
async def test_contention_without_expectations_is_tried_again(driver: Any, cell: Any) -> None:
    emulator: FirestoreEmulator = cell.server._emulator
    refusals = iter(["once", "twice"])

    def aborted(name: str) -> None:
        if name == "Commit" and next(refusals, None):
            raise Refused(grpc.StatusCode.ABORTED, "too much contention")

    emulator.before_call = aborted
    try:
        (rev,) = await Kernel(driver).commit([session("s")])
    finally:
        emulator.before_call = None
    assert rev is not None


# --- Many writes ------------------------------------------------------------------------------------------------------


@everywhere
async def test_writes_are_independent_and_what_failed_is_told(driver: Driver) -> None:
    driver._compress = False  # type: ignore[attr-defined]
    big = session("big", body={"metadata": "x" * 1_100_000})
    rev = await rev_of(driver, session("changed"))
    await driver.commit([session("changed", expect=rev)], "t1")
    stale = session("changed", user_id="lost", expect=rev)
    untouched = Touch(Ref("sessions", "nobody"), 5)
    failed = await driver.write_many([session("a"), big, stale, untouched, Delete(Ref("sessions", "none"))], "t2")
    assert {one.write.ref.id: type(one.error) for one in failed} == {
        "big": PayloadTooLargeError,
        "changed": Conflict,
        "nobody": Conflict,
    }
    found = await driver.get_many([Ref("sessions", "a"), Ref("sessions", "big"), Ref("sessions", "changed")])
    assert [record is not None for record in found] == [True, False, True]
    assert found[2] is not None and found[2].fields["user_id"] is None


@everywhere
async def test_many_writes_go_in_batches_that_the_store_takes(driver: Driver) -> None:
    driver.io.calls.clear()
    assert await driver.write_many([session(f"s{n}") for n in range(1_001)], "t") == []
    assert driver.io.calls == {"batch_write": 3}
    assert await driver.count(Span("sessions", "all_created")) == 1_001
    driver.io.calls.clear()
    assert await driver.write_many([session("same", user_id=str(n)) for n in range(3)], "t") == []
    assert driver.io.calls == {"batch_write": 3}
    found = await driver.get(Ref("sessions", "same"))
    assert found is not None and found.fields["user_id"] == "2"


@everywhere
async def test_a_batch_stays_below_the_size_of_a_request(driver: Driver) -> None:
    driver._compress = False  # type: ignore[attr-defined]
    puts = [session(f"s{n:02}", body={"metadata": "x" * 1_000_000}) for n in range(12)]
    driver.io.calls.clear()
    assert await driver.write_many(puts, "t") == []
    assert driver.io.calls == {"batch_write": 3}
    with pytest.raises(PayloadTooLargeError) as caught:
        await driver.commit(puts, "t2")
    assert caught.value.size > caught.value.limit


@everywhere
async def test_what_the_store_did_not_process_is_sent_again(driver: Any) -> None:
    sent = driver._batch_write
    refused = {"s1": 2, "s2": 99}

    async def unreliable(messages: Any) -> Any:
        statuses = []
        for message in messages:
            id = message.update.name.rpartition("/")[2]
            refused[id] = refused.get(id, 0) - 1
            status = driver_module.types.BatchWriteResponse.pb()().status.add(code=10, message="contention")
            statuses.append(status if refused[id] >= 0 else (await sent([message]))[0])
        return statuses

    driver._batch_write = unreliable
    failed = await driver.write_many([session(f"s{n}") for n in range(4)], "t")
    assert [(one.write.ref.id, type(one.error)) for one in failed] == [("s2", StoreUnavailableError)]
    found = await driver.get_many([Ref("sessions", f"s{n}") for n in range(4)])
    assert [record is not None for record in found] == [True, True, False, True]


@in_process
async def test_a_batch_that_cannot_be_sent_is_told_apart_from_those_that_were(driver: Any, cell: Any) -> None:
    emulator: FirestoreEmulator = cell.server._emulator
    calls = itertools.count()

    def second_fails(name: str) -> None:
        if name == "BatchWrite" and next(calls) == 1:
            raise Refused(grpc.StatusCode.UNAVAILABLE, "gone")

    emulator.before_call = second_fails
    try:
        failed = await driver.write_many([session(f"s{n}") for n in range(1_200)], "t")
    finally:
        emulator.before_call = None
    assert {one.write.ref.id for one in failed} == {f"s{n}" for n in range(500, 1_000)}
    assert await driver.count(Span("sessions", "all_created")) == 700


# --- Sizes ------------------------------------------------------------------------------------------------------------


@everywhere
async def test_the_largest_document_is_stored_and_one_byte_more_is_refused_before_it_is_sent(driver: Any) -> None:
    driver._compress = False
    name = f"projects/p/databases/d/documents/{driver.collections['versions']}/v"
    version = documents.types.Document.pb()(name=name)
    documents.fill(version, VERSIONS, Put(Ref("versions", "v"), {"version": ""}), "t", compress=False)
    room = documents.MAX_DOCUMENT - documents.document_size(version)
    await driver.commit([Put(Ref("versions", "v"), {"version": "x" * room})], "t")
    found = await driver.get(Ref("versions", "v"))
    assert found.fields["version"] == "x" * room
    driver.io.calls.clear()
    with pytest.raises(PayloadTooLargeError) as caught:
        await driver.commit([Put(Ref("versions", "v"), {"version": "x" * (room + 1)})], "t")
    assert (caught.value.kind, caught.value.id) == ("versions", "v")
    assert (caught.value.size, caught.value.limit) == (1_048_577, 1_048_576)
    assert not driver.io.calls


@everywhere
@pytest.mark.parametrize("compress", [False, True])
async def test_a_body_over_the_limit_of_a_value_is_refused(driver: Any, compress: bool) -> None:
    driver._compress = compress
    noise = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=2_500_000))
    with pytest.raises(PayloadTooLargeError) as caught:
        await driver.commit([session("s", body={"metadata": noise})], "t")
    assert caught.value.limit == 1_048_487
    assert await driver.get(Ref("sessions", "s")) is None


@everywhere
async def test_a_size_that_only_the_server_refuses_is_the_same_error(
    driver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver._compress = False
    monkeypatch.setattr(documents, "MAX_VALUE", 10**9)
    monkeypatch.setattr(documents, "MAX_DOCUMENT", 10**9)
    with pytest.raises(PayloadTooLargeError) as caught:
        await driver.commit([session("small"), session("big", body={"metadata": "x" * 1_200_000})], "t")
    assert caught.value.id == "big"
    assert await driver.get(Ref("sessions", "small")) is None


# --- Errors -----------------------------------------------------------------------------------------------------------

ERRORS: list[tuple[str, Exception, type[DocstoreError], dict[str, Any]]] = [
    ("commit", gcp.AlreadyExists("Document already exists: x"), Conflict, {}),
    ("commit", gcp.FailedPrecondition("the stored version (1) does not match the required base version"), Conflict, {}),
    ("commit", gcp.NotFound("No document to update: x"), Conflict, {}),
    ("commit", gcp.Aborted("contention"), Conflict, {}),
    ("commit", gcp.ServiceUnavailable("x"), StoreUnavailableError, {"maybe_applied": True, "retryable": True}),
    ("commit", gcp.DeadlineExceeded("x"), StoreUnavailableError, {"maybe_applied": True, "retryable": False}),
    ("commit", gcp.InternalServerError("x"), StoreUnavailableError, {"maybe_applied": True, "retryable": True}),
    ("commit", gcp.ResourceExhausted("quota"), StoreUnavailableError, {"maybe_applied": False, "retryable": True}),
    ("batch_write", gcp.ServiceUnavailable("x"), StoreUnavailableError, {"maybe_applied": True}),
    ("commit", gcp.ResourceExhausted("gRPC message exceeds maximum size 4194304: 10003134"), StoreError, {}),
    ("get", gcp.ServiceUnavailable("x"), StoreUnavailableError, {"maybe_applied": False, "retryable": True}),
    ("get", gcp.Aborted("x"), StoreUnavailableError, {"maybe_applied": False}),
    ("get", gcp.Cancelled("x"), StoreUnavailableError, {"maybe_applied": False}),
    ("get", gcp.Unknown("x"), StoreUnavailableError, {"maybe_applied": False}),
    ("get", gcp.MethodNotImplemented("x"), StoreError, {}),
    ("get", gcp.InvalidArgument("x"), StoreError, {}),
    ("get", gcp.PermissionDenied("Missing or insufficient permissions."), StoreError, {}),
    ("get", gcp.Unauthenticated("x"), StoreError, {}),
    ("get", RefreshError("x"), StoreError, {}),
    ("get", DefaultCredentialsError("x"), StoreError, {}),
    ("run_query", gcp.FailedPrecondition("The query requires an index. You can create it here: x"), StoreError, {}),
    ("commit", gcp.FailedPrecondition("not available for Firestore in Datastore Mode"), StoreError, {}),
    ("commit", gcp.NotFound("The database (default) does not exist for project p"), ProvisioningError, {}),
    ("get", gcp.NotFound("The database (default) does not exist for project p"), ProvisioningError, {}),
]


@pytest.mark.parametrize("operation, error, expected, attributes", ERRORS, ids=lambda value: type(value).__name__)
def test_what_an_error_of_the_sdk_means(
    operation: str, error: Exception, expected: type[DocstoreError], attributes: dict[str, Any], no_emulator: None
) -> None:
    driver = offline()

    def fails() -> None:
        raise error

    with pytest.raises(DocstoreError) as caught:
        run(driver.io(fails, op=operation))  # type: ignore[arg-type]
    assert type(caught.value) is expected
    assert {name: getattr(caught.value, name) for name in attributes} == attributes
    assert caught.value.__cause__ is error


def test_errors_of_others_pass_through(no_emulator: None) -> None:
    def fails() -> None:
        raise ValueError("not the SDK's")

    with pytest.raises(ValueError, match="not the SDK's"):
        run(offline().io(fails))  # type: ignore[arg-type]


def test_an_answer_that_leaves_a_document_out_is_a_failed_read(no_emulator: None) -> None:
    driver = offline()

    async def cut_short(op: str, method: str, request: Any) -> list[Any]:
        return []

    driver._stream = cut_short  # type: ignore[method-assign]
    driver._database = lambda: "projects/p/databases/(default)"  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailableError):
        run(driver.get(Ref("sessions", "s")))
    with pytest.raises(StoreUnavailableError):
        run(driver.count(Span("sessions", EVERYTHING)))


@contextmanager
def listening(answering: bool) -> Iterator[str]:
    """An address that nobody listens at, or one that takes connections and never says a word."""
    server = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{server.getsockname()[1]}"
    if not answering:
        server.close()
    try:
        yield address
    finally:
        server.close()


@pytest.mark.parametrize("kind", [FirestoreDocstore, AsyncFirestoreDocstore])
@pytest.mark.parametrize("mute", [False, True])
@pytest.mark.parametrize("write", [False, True])
def test_a_server_that_is_not_there_is_reported_in_bounded_time(
    kind: Any, mute: bool, write: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_module, "FIRST_TIMEOUT", 1.5)
    assert UNAVAILABLE_ATTEMPTS < 10
    with listening(mute) as address:
        monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", address)
        db = kind(project_id="p")

        async def call() -> None:
            made = db.upsert_session(AgentSession(session_id="s", agent_id="a")) if write else db.get_session("s")
            try:
                await made if asyncio.iscoroutine(made) else None
            finally:
                await closed(db)

        started = time.monotonic()
        with pytest.raises(StoreUnavailableError) as caught:
            asyncio.run(call())
        assert time.monotonic() - started < 20
    assert address in str(caught.value)


async def closed(db: Any) -> None:
    result = db.close()
    if asyncio.iscoroutine(result):
        await result


@pytest.mark.parametrize("kind", [FirestoreDocstore, AsyncFirestoreDocstore])
def test_missing_credentials_are_named_at_the_first_call(
    kind: Any, no_emulator: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "nothing.json"))
    db = kind(project_id="p")

    async def call() -> None:
        made = db.get_session("s")
        if asyncio.iscoroutine(made):
            await made

    with pytest.raises(StoreError, match=r"nothing\.json"):
        asyncio.run(call())


# --- Clients ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [FirestoreDocstore, AsyncFirestoreDocstore])
def test_a_constructor_looks_for_nothing(kind: Any, no_emulator: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("I/O in a constructor")

    monkeypatch.setattr("google.auth.default", forbidden)
    monkeypatch.setattr(firestore.Client, "__init__", forbidden)
    monkeypatch.setattr(firestore.AsyncClient, "__init__", forbidden)
    db = kind()
    assert repr(db) and db.id and db.to_dict()


def test_a_client_of_the_other_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", "127.0.0.1:1")
    plain, aio = firestore.Client(project="p"), firestore.AsyncClient(project="p")
    with pytest.raises(TypeError, match=r"firestore\.Client"):
        FirestoreDocstore(aio)
    with pytest.raises(TypeError, match=r"firestore\.AsyncClient"):
        AsyncFirestoreDocstore(plain)
    for extra in ({"project_id": "p"}, {"database": "d"}, {"credentials": object()}):
        with pytest.raises(ValueError, match="db_client"):
            FirestoreDocstore(plain, **extra)  # type: ignore[arg-type]


@everywhere
async def test_a_client_that_was_handed_in_stays_open(cell: Any, storage: str) -> None:
    if cell.mode == "sync":
        client = firestore.Client(project=storage)
        db = FirestoreDocstore(client)
        db.upsert_session(AgentSession(session_id="s", agent_id="a"))
        db.close()
        assert client.collection("agno_sessions").document("s").get().exists
        assert db.get_session("s") is not None
        client._firestore_api.transport.close()
    else:
        aio = firestore.AsyncClient(project=storage)
        adb = AsyncFirestoreDocstore(aio)
        await adb.upsert_session(AgentSession(session_id="s", agent_id="a"))
        await adb.close()
        assert (await aio.collection("agno_sessions").document("s").get()).exists
        assert await adb.get_session("s") is not None
        await aio._firestore_api.transport.close()


@everywhere
async def test_a_client_of_ours_is_closed_and_made_again(driver: Any) -> None:
    await driver.commit([session("s")], "t")
    client = driver.clients.current()
    assert driver.clients.current() is client
    await driver.close()
    assert driver.clients._slots == {}
    assert await driver.get(Ref("sessions", "s")) is not None
    assert driver.clients.current() is not client


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[FirestoreEmulator]:
    emulator = FirestoreEmulator()
    with emulator as address:
        monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", address)
        yield emulator


def test_each_event_loop_has_a_client_of_its_own_and_none_outlives_its_loop(emulator: FirestoreEmulator) -> None:
    db = AsyncFirestoreDocstore(project_id="p")
    clients = db._engine.driver.clients  # type: ignore[attr-defined]
    seen = []

    async def turn(number: int) -> None:
        await db.upsert_session(AgentSession(session_id=f"s{number}", agent_id="a"))
        assert await db.get_session("s0") is not None
        seen.append(clients.current())

    for number in range(6):
        asyncio.run(turn(number))
        assert len(clients._slots) == 1
    assert len({id(client) for client in seen}) == 6
    asyncio.run(db.close())
    assert clients._slots == {}


def test_clients_of_loops_that_run_elsewhere_are_closed_there(emulator: FirestoreEmulator) -> None:
    db = AsyncFirestoreDocstore(project_id="p")
    clients = db._engine.driver.clients  # type: ignore[attr-defined]
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(db.get_session("s"), loop).result(10)

        async def close_from_here() -> None:
            await db.get_session("s")
            assert len(clients._slots) == 2
            await db.close()

        asyncio.run(close_from_here())
        assert clients._slots == {}
        assert asyncio.run_coroutine_threadsafe(db.get_session("s"), loop).result(10) is None
        asyncio.run_coroutine_threadsafe(db.close(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_threads_share_one_client(emulator: FirestoreEmulator) -> None:
    db = FirestoreDocstore(project_id="p")
    clients = db._engine.driver.clients  # type: ignore[attr-defined]
    barrier, used = threading.Barrier(8), []

    def use() -> None:
        barrier.wait()
        db.get_session("s")
        used.append(clients.current())

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(used) == 8 and len({id(client) for client in used}) == 1
    db.close()


# --- Identity ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [FirestoreDocstore, AsyncFirestoreDocstore])
def test_the_id_says_where_the_data_lies(kind: Any, no_emulator: None, monkeypatch: pytest.MonkeyPatch) -> None:
    base = kind(project_id="p").id
    assert kind(project_id="p").id == base
    assert kind(project_id="p", database="(default)", credentials=object(), compress=False).id == base
    others = [kind(project_id="q"), kind(project_id="p", database="d"), kind(project_id="p", collection_prefix="x")]
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "p")
    assert kind().id == base
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", "127.0.0.1:1")
    others.append(kind(project_id="p"))
    client = (firestore.Client if kind is FirestoreDocstore else firestore.AsyncClient)(project="p")
    assert kind(client).id == others[-1].id
    assert len({db.id for db in others} | {base}) == 5
    assert kind(id="mine").id == "mine"


@pytest.mark.parametrize("kind", [FirestoreDocstore, AsyncFirestoreDocstore])
def test_a_store_comes_back_from_its_dict(kind: Any, no_emulator: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "from-environment")
    secret = type("Credentials", (), {"project_id": "p", "token": "s3cret"})()
    db = kind(credentials=secret, database="d", collection_prefix="x", compress=False, session_table="mine")
    data = db.to_dict()
    assert "s3cret" not in repr(data) + repr(db) + db._engine.driver.address()
    again = kind.from_dict(data)
    assert (again.id, again.to_dict(), again.session_table_name) == (db.id, data, "mine")
    del data["id"]
    assert kind.from_dict(data).id == db.id
    assert again._engine.driver._compress is False
    assert again._engine.driver.address() == "firestore.googleapis.com/projects/p/databases/d"


def test_the_operator_is_told_the_commands(no_emulator: None) -> None:
    command = FirestoreDocstore(project_id="p", database="d")._engine.driver.create_command("histories")
    assert "gcloud firestore databases create" in command
    assert "--collection-group=agno_sessions_histories --project=p --database='d'" in command

"""What is MongoDB's alone: how documents look, which are ours, what a standalone server can do, errors, clients.

What holds of every store is in the conformance suite, which runs on the cells of MongoDB as on all others.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import mongomock
import pymongo
import pytest
from agno.run.agent import RunOutput
from agno.session import AgentSession
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import errors as client_errors
from pymongo.monitoring import CommandListener

from agno_docstores.codec import Json
from agno_docstores.errors import (
    Conflict,
    CorruptRecordError,
    PayloadTooLargeError,
    ProvisioningError,
    StoreError,
    StoreUnavailableError,
    UnsupportedTopologyError,
)
from agno_docstores.io import run
from agno_docstores.port import (
    EVERYTHING,
    Delete,
    Driver,
    Eq,
    Expect,
    Has,
    In,
    Kind,
    Put,
    Ref,
    Rev,
    Span,
    Touch,
    Write,
)
from agno_docstores.schema import KINDS
from agno_docstores_mongo import AsyncMongoDocstore, MongoDocstore
from agno_docstores_mongo.layout import ITEM_LIMIT, Layout
from agno_docstores_mongo.translation import translate
from agno_docstores_mongo.values import decode, decode_field, encode, encode_field
from tests.harness import Cell
from tests.servers import free_port

SERVER = pytest.mark.cells("mongo-sync-secantus")
STANDALONE = pytest.mark.cells("mongo-sync-standalone")
SYNC = pytest.mark.cells("mongo-sync-*")


@pytest.fixture
def raw(cell: Cell, storage: str) -> Iterator[Any]:
    """The database of the test, beside our code."""
    if cell.id.endswith("mongomock"):
        yield cell.server.client[storage]  # type: ignore[attr-defined]
        return
    with pymongo.MongoClient(cell.server.start()) as client:
        yield client[storage]


class Commands(CommandListener):
    """The commands that go over the wire."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def started(self, event: Any) -> None:
        self.names.append(event.command_name)

    def succeeded(self, event: Any) -> None: ...

    def failed(self, event: Any) -> None: ...


def session(id: str, expect: Any = Expect.ABSENT, body: dict[str, Any] | None = None, **fields: Any) -> Put:
    parts = {name: Json.of(value) for name, value in (body or {}).items()}
    return Put(Ref("sessions", id), {"session_type": "agent", "created_at": 1, **fields}, parts, expect)


def history(id: str, expect: Any = Expect.ABSENT, **fields: Any) -> Put:
    return Put(Ref("histories", id), {"next_index": 0, "revision": 0, "deleting": False, **fields}, {}, expect)


def commit(driver: Driver, token: str, *writes: Write) -> list[Rev | None]:
    return run(driver.commit(writes, token))


# --- Documents --------------------------------------------------------------------------------------------------------


@SYNC
def test_documents_look_like_this(docstore: Any, driver: Driver, raw: Any) -> None:
    """A change here is a change of the layout: documents of before have to stay readable."""
    docstore.upsert_session(
        AgentSession(
            session_id="s1",
            agent_id="a1",
            user_id="u1",
            session_data={"session_name": "Trip", "session_state": {"count": 1, "tags": ["x", 2.5, None]}},
            metadata={"dotted.key": 1},
            created_at=1_700_000_000,
        )
    )
    docstore.upsert_run(
        {"run_id": "r1", "agent_id": "a1", "content": "Hello", "status": "COMPLETED", "created_at": 1_700_000_001},
        "s1",
        user_id="u1",
    )
    found = raw["agno_sessions"].find_one({"_id": "s1"})
    incarnation = found["history"]["incarnation"]
    assert time.time() - 60 < found.pop("version") / 1e6 <= time.time(), "the microsecond of the first save"
    assert isinstance(found.pop("_rev"), str) and isinstance(found["history"].pop("_rev"), str)
    assert found == {
        "_id": "s1",
        "session_type": "agent",
        "agent_id": "a1",
        "team_id": None,
        "workflow_id": None,
        "user_id": "u1",
        "session_name": "Trip",
        "component": "a1",
        "components": ["a1"],
        "created_at": 1_700_000_000,
        "updated_at": 1_700_000_000,
        "touched_at": 1_700_000_000,
        "summarized_to": None,
        "summarized_run": None,
        "summarized_at": None,
        "summarizing": None,
        "summarizing_until": None,
        "session_data": {"session_name": "Trip", "session_state": {"count": 1, "tags": ["x", 2.5, None]}},
        "agent_data": None,
        "team_data": None,
        "workflow_data": None,
        "metadata": {"__json__": '{"dotted.key":1}'},
        "summary": None,
        "history": {
            "user_id": "u1",
            "incarnation": incarnation,
            "next_index": 1,
            "revision": 1,
            "deleting": False,
            "uncounted": True,
            "mortal": None,
            "ended_at": None,
            "epoch": None,
        },
    }
    found = raw["agno_runs"].find_one({"_id": "r1"})
    assert isinstance(found.pop("_rev"), str) and isinstance(found.pop("updated_at"), int)
    assert found == {
        "_id": "r1",
        "session_id": "s1",
        "run_type": "agent",
        "agent_id": "a1",
        "team_id": None,
        "workflow_id": None,
        "user_id": "u1",
        "parent_run_id": None,
        "status": "COMPLETED",
        "run_index": 0,
        "revision": 1,
        "replaces": None,
        "incarnation": incarnation,
        "deleted": False,
        "model": None,
        "model_provider": None,
        "size": 94,
        "created_at": 1_700_000_001,
        "run_data": {
            "run_id": "r1",
            "agent_id": "a1",
            "content": "Hello",
            "status": "COMPLETED",
            "created_at": 1_700_000_001,
        },
    }


NATIVE: list[Any] = [
    None, True, 0, -1, 2**63 - 1, -(2**63), 0.5, -0.0, 1.0, float("inf"), "", "text", "$where", "a.b", "nul \x00", "😀",
    [], {}, [[1, [2, []]], {"a": {"b": [None]}}], {"_id": 1, "a b": {"é": "x", "__x__": 2}}, {"__json__": 1},
    {"__json__": "x", "y": 1},
]  # fmt: skip
MARKED: list[Any] = [
    2**63, -(2**63) - 1, 10**40, "\ud800", {"a.b": 1}, {"": 1}, {"$set": {}}, {"x": [{"$ref": 1}]}, {"nul\x00": 1},
    [2**64], {"__json__": "x"}, {"__json__": "{}"}, {"k": "\udfff"},
]  # fmt: skip


@pytest.mark.parametrize("value", NATIVE, ids=repr)
def test_values_that_bson_keeps_are_native(value: Any) -> None:
    assert encode(Json.of(value)) == value


@pytest.mark.parametrize("value", MARKED, ids=ascii)
def test_values_that_bson_would_harm_are_marked_text(value: Any) -> None:
    assert encode(Json.of(value)) == {"__json__": Json.of(value).text}


def test_deep_values_are_marked_text() -> None:
    deep: Any = 1
    for _ in range(120):
        deep = {"d": deep}
    assert encode(Json.of(deep)) == {"__json__": Json.of(deep).text}


@SYNC
def test_values_come_back_in_value_and_type_in_either_form(driver: Driver, raw: Any) -> None:
    deep: Any = 1
    for _ in range(88):
        deep = [deep]
    values = [*NATIVE, *MARKED, float("nan"), deep]
    commit(driver, "t", *[session("s", body={"session_data": values})])
    for number, value in enumerate(values):
        commit(driver, "t", session(f"s{number}", body={"session_data": value}))
        found = run(driver.get(Ref("sessions", f"s{number}")))
        assert found is not None and found.body is not None
        assert repr(found.body["session_data"].value()) == repr(value)
        assert found.body["session_data"] == Json.of(value)
    # A reader takes the marked form of what it would itself store natively.
    raw["agno_sessions"].update_one({"_id": "s0"}, {"$set": {"session_data": {"__json__": '{"a":[1,2.0]}'}}})
    found = run(driver.get(Ref("sessions", "s0")))
    assert found is not None and found.body is not None and found.body["session_data"].value() == {"a": [1, 2.0]}


@pytest.mark.parametrize("value", ["x", "\ud800", "", 2**70, -(2**70), 7, 1.5, True, None, ("a", "\udc00")], ids=ascii)
def test_fields_come_back_as_they_were(value: Any) -> None:
    stored = encode_field(value)
    assert decode_field(stored) == value and type(decode_field(stored)) is type(value)


def test_what_cannot_be_decoded_is_not_guessed() -> None:
    for value in ({"__json__": "{"}, datetime.now(UTC), b"x"):
        with pytest.raises(ValueError):
            decode_field(value)
    with pytest.raises(ValueError):
        decode({"__json__": "{"})


@SYNC
def test_a_document_edited_beyond_recognition_is_an_error_and_not_missing(driver: Driver, raw: Any) -> None:
    commit(driver, "t", session("s"))
    raw["agno_sessions"].update_one({"_id": "s"}, {"$set": {"user_id": {"first": "name"}}})
    with pytest.raises(CorruptRecordError) as caught:
        run(driver.get(Ref("sessions", "s")))
    assert (caught.value.kind, caught.value.id) == ("sessions", "s")


@SERVER
def test_expiry_is_a_date_under_a_ttl_index(driver: Driver, raw: Any) -> None:
    run(driver.ensure(list(KINDS.values())))
    commit(driver, "t", Put(Ref("runs", "r"), {"session_id": "s"}, {}, Expect.ABSENT, 4_000_000_000))
    assert raw["agno_runs"].find_one()["_expires_at"] == datetime.fromtimestamp(4_000_000_000, UTC).replace(tzinfo=None)
    commit(driver, "t2", Touch(Ref("runs", "r"), None))
    assert "_expires_at" not in raw["agno_runs"].find_one()
    for name in ("agno_sessions", "agno_runs", "agno_schema_versions"):
        ttl = raw[name].index_information()["expiry"]
        assert (ttl["key"], ttl["expireAfterSeconds"], ttl["sparse"]) == ([("_expires_at", 1)], 0, True)


@SYNC
def test_an_expiry_that_no_date_can_tell_is_the_last_that_one_can(driver: Driver) -> None:
    for number, (given, kept) in enumerate(((4_000_000_000, 4_000_000_000), (10**12, 253_402_300_799))):
        commit(driver, "t", Put(Ref("versions", f"v{number}"), {}, {}, Expect.ABSENT, given))
        found = run(driver.get(Ref("versions", f"v{number}")))
        assert found is not None and found.expires_at == kept


# --- Two records in one document --------------------------------------------------------------------------------------


@SYNC
def test_a_session_and_its_history_come_and_go_without_each_other(driver: Driver, raw: Any) -> None:
    sessions = raw["agno_sessions"]
    s, h = Ref("sessions", "x"), Ref("histories", "x")
    commit(driver, "1", session("x", user_id="u", body={"session_data": {"a": 1}}))
    commit(driver, "2", history("x", incarnation="i"))  # the document is there, the record was not
    assert sessions.count_documents({}) == 1
    commit(driver, "3", Delete(s, Rev("1")))
    assert sessions.find_one() == {
        "_id": "x",
        "history": {
            "user_id": None,
            "incarnation": "i",
            "next_index": 0,
            "revision": 0,
            "deleting": False,
            "uncounted": None,
            "mortal": None,
            "ended_at": None,
            "epoch": None,
            "_rev": "2",
        },
    }
    commit(driver, "4", session("x", user_id="v"))
    commit(driver, "5", Delete(h, Rev("2")))
    found = sessions.find_one()
    assert (found["user_id"], found["_rev"]) == ("v", "4") and "history" not in found
    with pytest.raises(Conflict):
        commit(driver, "6", Delete(s, Rev("1")))
    commit(driver, "7", Delete(s, Rev("4")))
    assert sessions.find_one() is None
    commit(driver, "8", session("x"), history("x"))
    commit(driver, "9", Delete(s, Rev("8")), Delete(h, Rev("8")))
    assert sessions.find_one() is None
    commit(driver, "10", Delete(s), Delete(h))
    commit(driver, "11", Delete(h))


@SYNC
def test_a_commit_to_one_document_holds_all_expectations(driver: Driver) -> None:
    commit(driver, "1", session("x", user_id="u"), history("x"))
    for writes in (
        [session("x", Rev("1")), history("x", Rev("0"))],
        [session("x", Rev("0")), history("x", Rev("1"))],
        [session("x", Expect.ABSENT), history("x", Rev("1"))],
        [session("x", Expect.ABSENT), history("x", Expect.ABSENT)],
        [Delete(Ref("sessions", "x"), Rev("0")), history("x", Rev("1"), deleting=True)],
        [Delete(Ref("sessions", "x"), Rev("1")), Delete(Ref("histories", "x"), Rev("0"))],
    ):
        with pytest.raises(Conflict):
            commit(driver, "2", *writes)
        found = run(driver.get_many([Ref("sessions", "x"), Ref("histories", "x")]))
        assert [record.rev.token for record in found if record] == ["1", "1"]


@SERVER
def test_requests_over_the_wire_are_those_that_the_gateway_counts(cell: Cell, storage: str) -> None:
    commands = Commands()
    with pymongo.MongoClient(cell.server.start(), event_listeners=[commands]) as client:
        db = MongoDocstore(client, db_name=storage)

        def cost(call: Callable[[], Any]) -> list[str]:
            commands.names.clear()
            before = db.io.calls.total()
            call()
            assert db.io.calls.total() - before == len(commands.names)
            return list(commands.names)

        def turn(number: int) -> None:
            known = db.get_session("s1", user_id="u1")
            assert isinstance(known, AgentSession)
            db.upsert_session(known)
            db.upsert_run(RunOutput(run_id=f"r{number}", agent_id="a1", content="x"), "s1", user_id="u1")

        db.upsert_session(AgentSession(session_id="s1", agent_id="a1", user_id="u1"))
        turn(0)
        assert cost(lambda: turn(1)) == ["find", "update", "findAndModify", "insert"]
        for number in range(2, 200):
            turn(number)
        assert cost(lambda: turn(200)) == ["find", "update", "findAndModify", "insert"]
        assert cost(lambda: db.get_sessions(user_id="u1", limit=20, page=1, include_runs=False)) == ["find"]
        listing = cost(lambda: db.get_sessions(user_id="u1", limit=20, page=1, include_runs=False, deserialize=False))
        assert listing == ["aggregate", "find"]
        db = MongoDocstore(client, db_name=storage)
        assert cost(lambda: db.get_session("s1", runs_limit=3)) == ["find", "find"]
        db = MongoDocstore(client, db_name=storage)
        assert cost(lambda: db.get_session("s1")) == ["find", "find"]
        deletion = cost(lambda: db.delete_session("s1"))
        # A handle's first write looks once whether the indexes are there. Three are for what goes with the session.
        assert len([name for name in deletion if name != "listIndexes"]) <= 9
        assert cost(lambda: db.get_session("s1")) == ["find"]


# --- What is not ours -------------------------------------------------------------------------------------------------


@SYNC
def test_documents_of_another_origin_are_not_seen_and_not_touched(docstore: Any, driver: Driver, raw: Any) -> None:
    run(driver.ensure(list(KINDS.values())))
    others = [
        {"_id": "theirs", "user_id": "u", "session_id": "theirs", "created_at": 5},
        {"user_id": "u", "session_id": "s2", "created_at": 6, "runs": [{"run_id": "r"}]},
        {"_id": 7, "user_id": "u", "_rev": 3, "created_at": "yesterday"},
    ]
    raw["agno_sessions"].insert_many([dict(other) for other in others])
    raw["agno_runs"].insert_many([{**other, "session_id": "s1"} for other in others])
    docstore.upsert_session(AgentSession(session_id="s1", agent_id="a", user_id="u"))
    rows, total = docstore.get_sessions(user_id="u", limit=10, page=1, deserialize=False)
    assert [row["session_id"] for row in rows] == ["s1"] and total == 1
    assert docstore.get_session("theirs") is None
    assert [r.ref.id for r in run(driver.scan(Span("sessions", EVERYTHING))).records] == ["s1"]
    assert run(driver.scan(Span("runs", "order", ("s1",)))).records == []
    assert docstore.delete_session("theirs") is False
    commit(driver, "t", Delete(Ref("sessions", "theirs")))
    commit(driver, "t", Delete(Ref("sessions", "theirs")), Delete(Ref("histories", "theirs")))
    assert run(driver.write_many([Delete(Ref("sessions", "theirs"))], "t")) == []
    assert docstore.delete_session("s1") is True
    assert raw["agno_sessions"].count_documents({}) == 3 and raw["agno_runs"].count_documents({}) == 3


@SERVER
def test_a_collection_with_agnos_own_unique_index_is_refused_in_words(docstore: Any, raw: Any) -> None:
    raw["agno_sessions"].create_index("session_id", unique=True)
    with pytest.raises(ProvisioningError, match="session_id_1") as caught:
        docstore.upsert_session(AgentSession(session_id="s1", agent_id="a"))
    assert caught.value.table == "agno_sessions"


@SYNC
def test_values_of_a_caller_are_never_operators(docstore: Any, driver: Driver) -> None:
    commit(driver, "t", session("s", user_id="u", components=("a",)), history("s", user_id="u"))
    hostile: list[Any] = [{"$ne": ""}, {"$gt": ""}, {"$exists": True}, {"$regex": ".*"}, "$user_id", "u.*"]
    for value in hostile:
        for condition in (Eq("user_id", value), Has("components", value), In("user_id", (value,))):
            assert run(driver.scan(Span("sessions", EVERYTHING, where=(condition,)))).records == []
        assert run(driver.scan(Span("sessions", "user_created", (value,)))).records == []
        assert run(driver.count(Span("sessions", "user_created", (value,)))) == 0
        assert run(driver.add(Ref("histories", "s"), {"revision": 1}, [Eq("user_id", value)], "t")) is None
    found = run(driver.get(Ref("histories", "s")))
    assert found is not None and found.fields["revision"] == 0


def test_two_kinds_of_documents_under_one_name_get_two_collections() -> None:
    kinds = {name: Kind(name, "t", ("x",)) for name in ("first", "second")}
    layout = Layout(kinds, {"first": "same", "second": "same"})
    assert [layout.shapes[name].collection for name in kinds] == ["same", "same.second"]


# --- What the deployment can do ---------------------------------------------------------------------------------------


@STANDALONE
def test_a_standalone_server_says_that_several_documents_need_a_replica_set(driver: Driver) -> None:
    with pytest.raises(UnsupportedTopologyError, match="replica set"):
        commit(driver, "t", session("a"), session("b"))
    assert run(driver.get_many([Ref("sessions", "a"), Ref("sessions", "b")])) == [None, None]


@pytest.mark.cells("mongo-*-secantus")
async def test_several_documents_are_one_transaction_on_a_replica_set(driver: Driver) -> None:
    await driver.ensure(list(KINDS.values()))
    version = Put(Ref("versions", "v"), {"version": "1"}, {}, Expect.ABSENT)
    await driver.commit([session("a"), history("a"), version], "1")
    for failing in (
        [session("b"), Put(version.ref, {"version": "2"}, {}, Expect.ABSENT)],
        [session("b"), Put(version.ref, {"version": "2"}, {}, Rev("0"))],
        [session("a", Rev("1")), Delete(version.ref, Rev("0"))],
    ):
        with pytest.raises(Conflict):
            await driver.commit(failing, "2")
    assert await driver.get(Ref("sessions", "b")) is None
    found = await driver.get_many([Ref("sessions", "a"), Ref("histories", "a"), version.ref])
    assert [record.rev.token for record in found if record] == ["1", "1", "1"]
    await driver.commit([Delete(Ref("sessions", "a"), Rev("1")), Delete(version.ref, Rev("1"))], "3")
    assert await driver.get_many([Ref("sessions", "a"), version.ref]) == [None, None]


@SERVER
def test_each_declared_index_serves_its_scans(driver: Driver, raw: Any) -> None:
    """The server has the index, and reads by it just the entries of the span. (SecantusDB takes an index of its own
    accord only for a filter of nothing else, so the index is named here; that it is the natural choice is seen from its
    keys: what is compared for equality, then what is sorted by.)"""
    run(driver.ensure(list(KINDS.values())))
    layout: Layout = driver.layout  # type: ignore[attr-defined]
    for kind in KINDS.values():
        shape = layout.shapes[kind.name]
        for index in kind.indexes:
            fields: dict[str, Any] = dict.fromkeys(set(kind.fields) - set(kind.unique), "other")
            puts = [
                Put(Ref(kind.name, f"{index.name}{n:02}"), {**fields, **dict.fromkeys(index.eq, "x"), index.sort: n})
                for n in range(12)
            ]
            assert run(driver.write_many(puts, "t")) == []
            span = Span(kind.name, index.name, ("x",) * len(index.eq), low=3, descending=True, limit=4)
            where, order = layout.span(span)
            name = index.name if shape.part is None else f"{shape.part}_{index.name}"
            keys = list(raw[shape.collection].index_information()[name]["key"])
            assert [path for path, _ in keys] == [*map(shape.path, index.eq), *(path for path, _ in order)]
            explained = raw[shape.collection].find(where).sort(order).hint(name).explain()
            stages = [stage["stage"] for stage in _stages(explained["queryPlanner"]["winningPlan"])]
            assert "IXSCAN" in stages and "COLLSCAN" not in stages
            assert explained["executionStats"]["totalKeysExamined"] <= 12 if index.eq else True
            raw[shape.collection].delete_many({})


def _stages(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    if "inputStage" in plan:
        yield from _stages(plan["inputStage"])


@SERVER
def test_indexes_that_are_there_under_another_name_are_taken(driver: Driver, raw: Any) -> None:
    raw["agno_sessions"].create_index([("user_id", 1), ("created_at", 1), ("_id", 1)], name="by_hand")
    run(driver.ensure(list(KINDS.values())))
    before = raw["agno_sessions"].index_information()
    assert "by_hand" in before and "user_created" not in before and "user_touched" in before
    calls = driver.io.calls.copy()
    run(driver.ensure(list(KINDS.values())))
    assert set(driver.io.calls - calls) == {"list_indexes"}


@SERVER
def test_pages_of_an_order_with_nulls_have_no_gaps(driver: Driver) -> None:
    times = [None, None, None, -1, -1, 5, 5, 7]
    for number, when in enumerate(times):
        commit(driver, "t", session(f"s{number}", touched_at=when, user_id="u"))
    for index, eq in (("user_touched", ("u",)), ("all_touched", ())):
        for descending in (False, True):
            for limit in (1, 2, 3, 8):
                found, cursor = [], None
                for _ in range(10):
                    page = run(driver.scan(Span("sessions", index, eq, None, None, descending, cursor, limit)))
                    found += [record.ref.id for record in page.records]
                    cursor = page.cursor
                    if cursor is None:
                        break
                expected = [f"s{number}" for number in range(8)]
                assert found == (expected[::-1] if descending else expected)


# --- Size -------------------------------------------------------------------------------------------------------------


@SERVER
def test_what_is_too_large_is_refused_before_anything_is_sent(cell: Cell, storage: str) -> None:
    commands = Commands()
    with pymongo.MongoClient(cell.server.start(), event_listeners=[commands]) as client:
        driver = MongoDocstore(client, db_name=storage)._engine.driver
        large = session("large", Expect.ANY, body={"session_data": "x" * (ITEM_LIMIT + 1)})
        with pytest.raises(PayloadTooLargeError) as caught:
            commit(driver, "t", large)
        assert (caught.value.kind, caught.value.id, caught.value.limit) == ("sessions", "large", ITEM_LIMIT)
        assert caught.value.size > ITEM_LIMIT
        assert commands.names == []
        (failed,) = run(driver.write_many([large, session("small", Expect.ANY)], "t"))
        assert failed.write is large and isinstance(failed.error, PayloadTooLargeError)
        assert run(driver.get(Ref("sessions", "small"))) is not None
        fits = session("fits", Expect.ABSENT, body={"session_data": "x" * (ITEM_LIMIT - 2000)})
        commit(driver, "t", fits, history("fits"))
        commit(driver, "t2", fits.__class__(fits.ref, fits.fields, fits.body, Rev("t")), history("fits", Rev("t")))


@SERVER
def test_what_is_too_large_only_natively_is_stored_as_text(driver: Driver, raw: Any) -> None:
    numbers = [1] * 2_000_000  # 4 MB of JSON, 25 MB of BSON
    commit(driver, "t", session("s", body={"session_data": numbers, "metadata": {"a": 1}}))
    assert list(raw["agno_sessions"].find_one()["session_data"]) == ["__json__"]
    found = run(driver.get(Ref("sessions", "s")))
    assert found is not None and found.body is not None and found.body["session_data"].value() == numbers


# --- Errors -----------------------------------------------------------------------------------------------------------

E = client_errors


def refusal(code: int, *labels: str, **details: str) -> E.OperationFailure:
    return E.OperationFailure("refused", code, {**details, "errorLabels": list(labels)})


def unavailable(retryable: bool, maybe_applied: bool) -> tuple[type[Exception], dict[str, Any]]:
    return StoreUnavailableError, {"retryable": retryable, "maybe_applied": maybe_applied}


TABLE: list[tuple[str, Exception, tuple[type[Exception], dict[str, Any]]]] = [
    ("update_one", E.ServerSelectionTimeoutError("h:1: refused"), unavailable(False, False)),
    ("update_one", E.AutoReconnect("connection closed"), unavailable(True, True)),
    ("insert_one", E.NetworkTimeout("timed out"), unavailable(True, True)),
    ("find", E.NetworkTimeout("timed out"), unavailable(True, False)),
    ("update_one", E.WaitQueueTimeoutError("pool"), unavailable(True, False)),
    ("update_one", E.ExecutionTimeout("slow", 50, {}), unavailable(True, True)),
    ("update_one", E.NotPrimaryError("no", {"code": 10107}), unavailable(True, False)),
    ("update_one", E.NotPrimaryError("no", {"code": 11602}), unavailable(True, True)),
    ("update_one", E.WTimeoutError("w", 64, {}), unavailable(False, True)),
    ("update_one", refusal(16500), unavailable(True, False)),
    ("update_one", refusal(1, "RetryableWriteError"), unavailable(True, True)),
    ("commit_transaction", refusal(1, "UnknownTransactionCommitResult"), unavailable(True, True)),
    ("find", E.CursorNotFound("gone", 43, {}), unavailable(True, False)),
    ("insert_one", E.DuplicateKeyError("E11000", 11000, {}), (Conflict, {})),
    ("update_one", refusal(112), (Conflict, {})),
    ("update_one", refusal(1, "TransientTransactionError"), (Conflict, {})),
    ("insert_one", E.DocumentTooLarge("too large (17000000 bytes)"), (PayloadTooLargeError, {"size": 17_000_000})),
    ("update_one", E.WriteError("is larger: 16777300", 17419, {}), (PayloadTooLargeError, {"size": 16_777_300})),
    ("find", refusal(13, codeName="Unauthorized", errmsg="no"), (StoreError, {"reason": "Unauthorized (13): no"})),
    ("find", E.InvalidOperation("closed"), (StoreError, {"reason": "closed"})),
]


@pytest.mark.parametrize(("operation", "error", "expected"), TABLE)
def test_errors_of_the_client_become_ours(
    operation: str, error: Exception, expected: tuple[type[Exception], dict[str, Any]]
) -> None:
    kind, attributes = expected
    ours = translate("h:1/db", operation, error)
    assert type(ours) is kind
    assert {name: getattr(ours, name) for name in attributes} == attributes


def test_errors_that_are_not_the_clients_pass() -> None:
    assert translate("h:1/db", "find", KeyError("x")) is None
    assert translate("h:1/db", "find", Conflict()) is None


def test_messages_hold_no_stored_value_of_a_duplicate_key() -> None:
    error = E.DuplicateKeyError("E11000 dup key: { _id: 'secret' }", 11000, {"keyValue": {"_id": "secret"}})
    assert "secret" not in str(translate("h:1/db", "insert_one", error))


@pytest.mark.parametrize("kind", [MongoDocstore, AsyncMongoDocstore])
def test_a_server_that_is_not_there_is_named_within_a_bounded_time(kind: Any) -> None:
    port = free_port()

    async def read() -> None:
        db = kind(db_url=f"mongodb://me:s3cret@127.0.0.1:{port}/?serverSelectionTimeoutMS=700", db_name="x")
        try:
            result = db.get_session("s")
            await result if asyncio.iscoroutine(result) else None
        finally:
            closing = db.close()
            await closing if asyncio.iscoroutine(closing) else None

    started = time.monotonic()
    with pytest.raises(StoreUnavailableError) as caught:
        asyncio.run(read())
    assert time.monotonic() - started < 20
    assert caught.value.retryable is False and caught.value.maybe_applied is False
    assert f"127.0.0.1:{port}" in str(caught.value)
    assert "s3cret" not in str(caught.value) and "me" not in str(caught.value).split("failed")[0].split(" on ")[1]


def test_a_server_that_accepts_and_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        db = MongoDocstore(db_url=f"mongodb://127.0.0.1:{silent.getsockname()[1]}/?serverSelectionTimeoutMS=700")
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError):
            db.upsert_session(AgentSession(session_id="s", agent_id="a"))
        assert time.monotonic() - started < 20
        db.close()


def test_waiting_is_bounded_unless_the_url_says_otherwise() -> None:
    db = MongoDocstore(db_url="mongodb://localhost:27017")
    options = db._engine.driver.clients.current().client.options  # type: ignore[attr-defined]
    assert options.server_selection_timeout == 5 and options.pool_options.socket_timeout == 30
    db.close()
    db = MongoDocstore(db_url="mongodb://localhost:27017/?serverSelectionTimeoutMS=100&socketTimeoutMS=200")
    options = db._engine.driver.clients.current().client.options  # type: ignore[attr-defined]
    assert options.server_selection_timeout == 0.1 and options.pool_options.socket_timeout == 0.2
    db.close()


# --- Clients ----------------------------------------------------------------------------------------------------------


def test_one_connection_has_to_be_given() -> None:
    client = mongomock.MongoClient()
    for kind in (MongoDocstore, AsyncMongoDocstore):
        with pytest.raises(ValueError, match="neither"):
            kind()
        with pytest.raises(ValueError, match="both"):
            kind(db_client=client, db_url="mongodb://localhost")
        with pytest.raises(ValueError, match="db_name"):
            kind(db_url="mongodb://localhost", db_name="")
        for url in ("http://localhost", "mongodb://", "mongodb://u:pa/ss@host", "localhost", "mongodb://h:99999999"):
            with pytest.raises(ValueError, match="db_url") as caught:
                kind(db_url=url)
            assert "pa" not in str(caught.value).replace("password", "")


async def test_a_client_of_the_other_kind_is_refused() -> None:
    sync, other = pymongo.MongoClient(connect=False), pymongo.AsyncMongoClient()  # type: ignore[var-annotated]
    motor: Any = AsyncIOMotorClient()
    for wrong in (other, motor, "mongodb://localhost", object()):
        with pytest.raises(TypeError, match=r"MongoDocstore must be a pymongo\.MongoClient"):
            MongoDocstore(wrong)
    for wrong in (sync, mongomock.MongoClient(), "mongodb://localhost"):
        with pytest.raises(TypeError, match="AsyncMongoDocstore must be a"):
            AsyncMongoDocstore(wrong)
    for right in (other, motor):
        AsyncMongoDocstore(right)
    sync.close()
    motor.close()
    await other.close()


def test_constructing_does_no_input_or_output() -> None:
    code = (
        "import socket, threading\n"
        "from agno_docstores_mongo import MongoDocstore, AsyncMongoDocstore\n"
        "def refuse(*a, **k): raise AssertionError('I/O')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "for kind in (MongoDocstore, AsyncMongoDocstore):\n"
        "    kind(db_url='mongodb://nowhere.invalid')\n"
        "    kind(db_url='mongodb+srv://nowhere.invalid')\n"
        "assert threading.active_count() == 1\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ), check=False
    )
    assert done.returncode == 0, done.stderr


async def test_the_id_tells_the_place_and_not_the_way_there() -> None:
    url = "mongodb://b:27018,a/?replicaSet=rs"
    sync, other = pymongo.MongoClient(url, connect=False), pymongo.AsyncMongoClient(url)  # type: ignore[var-annotated]
    motor: Any = AsyncIOMotorClient(url)
    same = [
        MongoDocstore(db_url=url),
        AsyncMongoDocstore(db_url=url),
        MongoDocstore(db_url="mongodb://user:secret@a:27017,b:27018/db?replicaSet=rs&authSource=admin"),
        MongoDocstore(sync),
        AsyncMongoDocstore(other),
        AsyncMongoDocstore(motor),
    ]
    assert len({db.id for db in same}) == 1
    assert MongoDocstore(mongomock.MongoClient("a")).id == MongoDocstore(db_url="mongodb://a").id
    record = "mongodb+srv://me:secret@cluster.example.invalid/?retryWrites=true"
    different = [
        same[0],
        MongoDocstore(sync, db_name="other"),
        MongoDocstore(db_url="mongodb://a"),
        MongoDocstore(db_url="mongodb://b"),
        MongoDocstore(db_url=record),
    ]
    assert len({db.id for db in different}) == len(different)
    assert repr(different[-1]).endswith("at='cluster.example.invalid/agno')")
    sync.close()
    motor.close()
    await other.close()


def test_a_store_comes_back_from_its_dict_which_holds_no_secret() -> None:
    secrets = "mongodb://me:s3cret@a:27017,b:27018/admin?replicaSet=rs&authSource=admin&authMechanism=SCRAM-SHA-256"
    secrets += "&tlsCertificateKeyFilePassword=s3cret&authMechanismProperties=AWS_SESSION_TOKEN:s3cret&tls=true"
    for kind in (MongoDocstore, AsyncMongoDocstore):
        db = kind(db_url=secrets, db_name="agents", session_table="mine")
        data = db.to_dict()
        assert "s3cret" not in repr(data) and "me:" not in repr(data)
        assert (data["db_name"], data["db_url"]) == ("agents", "mongodb://a:27017,b:27018/admin?replicaSet=rs&tls=true")
        again = kind.from_dict(data)
        assert again.id == db.id and again.to_dict() == data
        del data["id"]
        assert kind.from_dict(data).id == db.id
    assert "s3cret" not in db._engine.driver.create_command("sessions")


@SERVER
def test_a_client_that_was_handed_in_stays_open(cell: Cell, storage: str) -> None:
    with pymongo.MongoClient(cell.server.start()) as client:
        db = MongoDocstore(client, db_name=storage)
        db.upsert_session(AgentSession(session_id="s", agent_id="a"))
        db.close()
        assert client[storage]["agno_sessions"].count_documents({}) == 1
        assert db.get_session("s") is not None


@pytest.mark.cells("mongo-async-secantus")
@pytest.mark.parametrize("motor", [False, True])
async def test_an_async_client_that_was_handed_in_stays_open(cell: Cell, storage: str, motor: bool) -> None:
    url = cell.server.start()
    client: Any = AsyncIOMotorClient(url) if motor else pymongo.AsyncMongoClient(url)
    db = AsyncMongoDocstore(client, db_name=storage)
    await db.upsert_session(AgentSession(session_id="s", agent_id="a"))
    await db.close()
    assert await client[storage]["agno_sessions"].count_documents({}) == 1
    assert await db.get_session("s") is not None
    closing = client.close()
    await closing if closing is not None else None


@pytest.mark.cells("mongo-async-secantus")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_each_loop_gets_a_client_of_its_own_and_none_is_left_behind(cell: Cell, storage: str) -> None:
    db = AsyncMongoDocstore(db_url=cell.server.start(), db_name=storage)

    async def use() -> None:
        await db.upsert_session(AgentSession(session_id="s", agent_id="a"))
        assert await db.get_session("s") is not None

    def files() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    asyncio.run(use())
    before = files()
    for _ in range(8):
        asyncio.run(use())
    assert files() <= before + 2
    assert len(db._engine.driver.clients._slots) == 1  # type: ignore[attr-defined]

    async def use_and_close() -> None:
        await use()
        await db.close()
        await use()
        await db.close()

    asyncio.run(use_and_close())
    assert db._engine.driver.clients._slots == {}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", {"w": "majority", "wtimeout": 20_000}),
        ("&w=0", {"w": "majority", "wtimeout": 20_000}),
        ("&w=1&journal=true", {"w": "majority", "wtimeout": 20_000, "j": True}),
        ("&w=3&wtimeoutMS=5", {"w": 3, "wtimeout": 5}),
        ("&w=everywhere", {"w": "everywhere", "wtimeout": 20_000}),
    ],
)
def test_writes_are_confirmed_by_a_majority_and_reads_are_from_the_primary(options: str, expected: Any) -> None:
    url = f"mongodb://h/?readPreference=secondaryPreferred&readConcernLevel=available{options}"
    client: Any = pymongo.MongoClient(url, connect=False, document_class=dict, tz_aware=False)
    database = MongoDocstore(client)._engine.driver.clients.current().database  # type: ignore[attr-defined]
    assert database.write_concern.document == expected
    assert database.read_preference == pymongo.ReadPreference.PRIMARY
    assert database.read_concern.level == "local"
    client.close()

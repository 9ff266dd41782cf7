"""What only DynamoDB has: its layout, its units, its batches and error codes, its tables, and its clients."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import botocore.session
import pytest
from agno.run.agent import RunOutput
from agno.session import AgentSession
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, EndpointConnectionError
from botocore.loaders import JSONFileLoader

from agno_docstores import keys
from agno_docstores.codec import Json
from agno_docstores.conformance.compactions import compaction
from agno_docstores.conformance.driver import history, ids, run, scanned, session, store
from agno_docstores.conformance.plugin import Awaitable, close
from agno_docstores.conformance.tool_results import result_of
from agno_docstores.errors import (
    Conflict,
    PayloadTooLargeError,
    ProvisioningError,
    StoreError,
    StoreUnavailableError,
)
from agno_docstores.io import AsyncIo, SyncIo, ThreadIo
from agno_docstores.io import run as drive
from agno_docstores.port import EVERYTHING, Delete, Driver, Eq, Expect, Has, In, Put, Ref, Rev, Span, Touch
from agno_docstores.schema import KINDS, RUNS, SESSIONS
from agno_docstores_dynamo import AsyncDynamoDocstore, DynamoDocstore
from agno_docstores_dynamo.connection import Blocking, Given, PerLoop
from agno_docstores_dynamo.layout import Layout, from_value, item_bytes, last_scalar, to_value
from tests.harness import Cell

LOCAL = pytest.mark.cells("dynamo-sync-local")
ANY_DYNAMO = pytest.mark.cells("dynamo-*")
CONTROL_PLANE = ("create_table", "describe_table", "describe_time_to_live", "update_time_to_live")


async def ready(driver: Driver) -> Driver:
    await driver.ensure(list(KINDS.values()))
    return driver


async def items(driver: Any) -> list[dict[str, Any]]:
    """All items of the table, by key."""
    found = await driver._call("scan", TableName=driver.tables["runs"], ConsistentRead=True)
    return sorted(found["Items"], key=lambda item: (item["pk"]["S"], item["sk"]["S"]))


def keys_of(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(item["pk"]["S"], item["sk"]["S"]) for item in found]


# --- Layout -----------------------------------------------------------------------------------------------------------


@ANY_DYNAMO
async def test_stored_items_look_like_this(driver: Driver) -> None:
    await ready(driver)
    await driver.commit(
        [
            session("s1", user_id="u", agent_id="a1", components=("a1",), body={"metadata": {"k": 1}}),
            history("s1", user_id="u", revision=1),
            replace(run("r1", "s1", 0, status="COMPLETED", data={"x": 1}), expires_at=2_000_000_000),
        ],
        "token",
    )
    shard = int(keys.digest("s1", 8), 16) % 4
    head = {"session_type": {"S": "agent"}, "agent_id": {"S": "a1"}, "user_id": {"S": "u"}, "created_at": {"N": "1"}}
    nothing = dict.fromkeys(("session_data", "agent_data", "team_data", "workflow_data", "summary"))
    stored = dict(zip(keys_of(await items(driver)), await items(driver), strict=True))
    record = stored[("4s1!", "4sessions!")]
    body = json.loads(record.pop("body")["S"])
    assert body == {**nothing, "metadata": {"k": 1}}
    assert stored == {
        ("4s1!", "4sessions!"): {
            "pk": {"S": "4s1!"},
            "sk": {"S": "4sessions!"},
            "id": {"S": "s1"},
            "rev": {"S": "token"},
            "head": {"M": {**head, "components": {"L": [{"S": "a1"}]}}},
            "updated_at": {"N": "1"},
            "touched_at": {"N": "1"},
            "gsi1pk": {"S": "4sessions!4user_created!4u!"},
            "gsi1sk": {"S": "3p0011!4s1!"},
            "gsi2pk": {"S": "4sessions!4user_touched!4u!"},
            "gsi2sk": {"S": "3p0011!4s1!"},
            "gsi3pk": {"S": "4sessions!4component_created!4a1!"},
            "gsi3sk": {"S": "3p0011!4s1!"},
            "gsi4pk": {"S": "4sessions!4component_touched!4a1!"},
            "gsi4sk": {"S": "3p0011!4s1!"},
            "gsi5pk": {"S": keys.encode(("sessions", "all_created", shard))},
            "gsi5sk": {"S": "3p0011!4s1!"},
            "gsi6pk": {"S": keys.encode(("sessions", "all_touched", shard))},
            "gsi6sk": {"S": "3p0011!4s1!"},
        },
        ("4s1!", "4histories!"): {
            "pk": {"S": "4s1!"},
            "sk": {"S": "4histories!"},
            "id": {"S": "s1"},
            "rev": {"S": "token"},
            "head": {"M": {"user_id": {"S": "u"}, "incarnation": {"S": "i"}, "deleting": {"BOOL": False}}},
            "next_index": {"N": "0"},
            "revision": {"N": "1"},
        },
        ("4s1!", "4runs!3p000!4r1!"): {
            "pk": {"S": "4s1!"},
            "sk": {"S": "4runs!3p000!4r1!"},
            "lsi": {"S": "4runs!3p0011!4r1!"},
            "id": {"S": "r1"},
            "rev": {"S": "token"},
            "head": {
                "M": {
                    "session_id": {"S": "s1"},
                    "run_type": {"S": "agent"},
                    "run_index": {"N": "0"},
                    "incarnation": {"S": "i"},
                    "deleted": {"BOOL": False},
                    "created_at": {"N": "1"},
                }
            },
            "status": {"S": "COMPLETED"},
            "revision": {"N": "1"},
            "updated_at": {"N": "1"},
            "expires_at": {"N": "2000000000"},
            "body": {"S": '{"run_data":{"x":1}}'},
        },
        ("4runs!4id!4r1!", "claim"): {
            "pk": {"S": "4runs!4id!4r1!"},
            "sk": {"S": "claim"},
            "at": {"S": "4s1!"},
            "place": {"S": "4runs!3p000!4r1!"},
            "expires_at": {"N": "2000000000"},
        },
    }


@pytest.mark.parametrize(
    "value",
    ["", "text", "\ud800", True, False, 0, -1, 10**37, 10**40, -(10**40), 1.5, 1.0, -0.5, 1e300, 5e-324, float("inf")],
)
def test_a_field_comes_back_equal_and_of_the_same_type(value: Any) -> None:
    back = from_value(to_value(value))
    assert back == value and type(back) is type(value)


@pytest.mark.parametrize("value", [None, True, False, 0, 7, 10**9, -1, -120, 1.5, -2.25, "", "a!b", '"', "x\ny"])
def test_a_key_tells_the_value_it_was_made_of(value: Any) -> None:
    assert last_scalar(keys.encode((value, "id")), 2) == value


def test_the_size_of_an_item_is_counted_as_documented() -> None:
    # Names and texts by their UTF-8 bytes, a number by half its digits, maps 3 bytes and 1 for each entry.
    assert item_bytes({"pk": {"S": "é"}, "n": {"N": "1234"}, "b": {"B": b"123"}, "t": {"BOOL": True}}) == 4 + 4 + 4 + 2
    assert item_bytes({"m": {"M": {"a": {"S": "b"}}}, "l": {"L": [{"S": "cc"}]}}) == (1 + 3 + 1 + 2) + (1 + 3 + 1 + 2)


def test_more_indexes_than_a_table_has_are_refused() -> None:
    indexes = tuple(replace(SESSIONS.indexes[0], name=f"i{number}") for number in range(9))
    with pytest.raises(ValueError, match="more indexes"):
        Layout(replace(SESSIONS, indexes=indexes), "table", shards=1, compress=True)


# --- Units and requests -----------------------------------------------------------------------------------------------


class Units:
    """The capacity that a client's requests consume, by DynamoDB's own account."""

    def __init__(self, client: Any) -> None:
        self.requests: list[str] = []
        self.by_index: Counter[str] = Counter()
        self.answers: list[Any] = []
        self.total = 0.0
        events = client.meta.events
        for name in ("PutItem", "UpdateItem", "TransactWriteItems", "GetItem", "BatchGetItem", "Query"):
            events.register(f"provide-client-params.dynamodb.{name}", self._ask)
        events.register("after-call.dynamodb", self._count)

    @staticmethod
    def _ask(params: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {**params, "ReturnConsumedCapacity": "INDEXES"}

    def _count(self, parsed: Any, model: Any, **_: Any) -> None:
        self.requests.append(model.name)
        self.answers.append(parsed)
        consumed = parsed.get("ConsumedCapacity") or []
        for one in consumed if isinstance(consumed, list) else [consumed]:
            self.total += one["CapacityUnits"]

    def reset(self) -> None:
        self.__init__(SimpleNamespace(meta=SimpleNamespace(events=SimpleNamespace(register=lambda *_: None))))  # type: ignore[misc]


def client_of(db: Any) -> Any:
    return drive(db._engine.driver._connection.client())


@LOCAL
async def test_a_run_of_5_kb_costs_12_units_in_one_request(db: Any) -> None:
    from tests.test_budgets import prose

    await db.upsert_session(AgentSession(session_id="s1", agent_id="a1", user_id="u"))
    await db.get_session("s1")
    units = Units(client_of(db.raw))
    run_id = "0123456789abcdef0123456789abcdef0123"
    await db.upsert_run(RunOutput(run_id=run_id, agent_id="a1", status="COMPLETED", content=prose(5000, 1)), "s1", "u")
    assert units.requests == ["TransactWriteItems"]
    # The server's account, and ours by the documented rules: two units for each KB of an item, and of an index entry.
    assert 0 < units.total <= 12
    written = [i for i in await items(db.raw._engine.driver) if i["sk"]["S"] != keys.encode(("sessions",))]
    assert len(written) == 3
    assert sum(2 * -(-item_bytes(item) // 1024) + (2 if "lsi" in item else 0) for item in written) <= 12


@LOCAL
async def test_that_a_tool_result_or_a_compaction_is_a_users_costs_one_index_entry(db: Any) -> None:
    await db.upsert_tool_result(result_of("first"))
    await db.upsert_compaction(compaction("first"))
    units, costs = Units(client_of(db.raw)), {}
    for user in (None, "u"):
        await db.upsert_tool_result(result_of(f"of {user}", user_id=user))
        results = units.total
        await db.upsert_compaction(compaction(f"of {user}", user_id=user))
        costs[user] = (results, units.total - results)
        units.total = 0
    print("BUDGET write units of a tool result, of a compaction:", costs)
    assert [own - nobodys for own, nobodys in zip(costs["u"], costs[None], strict=True)] == [2, 2]


@LOCAL
async def test_deleting_a_session_reads_no_bodies(db: Any) -> None:
    await db.upsert_session(AgentSession(session_id="s1", agent_id="a1"))
    for number in range(3):
        await db.upsert_run(RunOutput(run_id=f"r{number}", status="COMPLETED", content="secret"), "s1")
    units = Units(client_of(db.raw))
    assert await db.delete_session("s1") is True
    assert not any("body" in item for answer in units.answers for item in answer.get("Items", ()))
    assert await items(db.raw._engine.driver) == []


@LOCAL
async def test_no_control_plane_call_on_a_warm_path(db: Any) -> None:
    await db._create_all_tables()
    before = Counter(db.io.calls)
    await db.upsert_session(AgentSession(session_id="s1", agent_id="a1", user_id="u"))
    await db.upsert_run(RunOutput(run_id="r1", agent_id="a1", status="COMPLETED"), "s1", "u")
    await db.get_session("s1")
    await db.get_sessions(user_id="u")
    await db.delete_session("s1")
    made = Counter(db.io.calls) - before
    assert made and not set(CONTROL_PLANE) & made.keys()


# --- Aliases and shards -----------------------------------------------------------------------------------------------


@ANY_DYNAMO
async def test_a_session_of_several_components_is_found_by_each(driver: Driver) -> None:
    await ready(driver)
    (rev,) = await store(driver, session("s1", components=("a", "t", "w"), user_id="u"))

    async def found(component: str) -> list[str]:
        span = Span("sessions", "component_created", (component,), where=(Has("components", component),))
        assert ids(await scanned(driver, replace(span, body=False))) == ids(await scanned(driver, span))
        return ids(await scanned(driver, span))

    assert [await found(c) for c in ("a", "t", "w")] == [["s1"]] * 3
    assert ids(await scanned(driver, Span("sessions", "user_created", ("u",)))) == ["s1"]
    assert ids(await scanned(driver, Span("sessions", "all_created", ()))) == ["s1"]
    assert await driver.count(Span("sessions", "component_created", ("t",))) == 1
    (rev,) = await driver.commit([session("s1", components=("t",), expect=rev)], "t2")
    assert [await found(c) for c in ("a", "t", "w")] == [[], ["s1"], []]
    assert len(await items(driver)) == 1
    await driver.commit([session("s1", components=("a", "t"), expect=Expect.ANY)], "t3")
    assert [await found(c) for c in ("a", "t", "w")] == [["s1"], ["s1"], []]


@ANY_DYNAMO
@pytest.mark.parametrize("remove", ["revision", "any", "batch", "overwritten in a batch"])
async def test_aliases_go_with_their_record(driver: Driver, remove: str) -> None:
    await ready(driver)
    (rev,) = await store(driver, session("s1", components=("a", "b", "c")))
    assert len(await items(driver)) == 3
    ref = Ref("sessions", "s1")
    if remove == "revision":
        await driver.commit([Delete(ref, rev)], "t2")
    elif remove == "any":
        await driver.commit([Delete(ref)], "t2")
    elif remove == "batch":
        assert await driver.write_many([Delete(ref)], "t2") == []
    else:
        assert await driver.write_many([session("s1", components=("a",), expect=Expect.ANY)], "t2") == []
        assert len(await items(driver)) == 1
        return
    assert await items(driver) == []


@ANY_DYNAMO
async def test_a_touch_takes_aliases_and_claims_along(driver: Driver) -> None:
    await ready(driver)
    await store(driver, session("s1", components=("a", "b")), run("r1", "s1", 0))
    await driver.commit([Touch(Ref("sessions", "s1"), 2_000_000_000), Touch(Ref("runs", "r1"), 2_000_000_000)], "t2")
    assert [item["expires_at"]["N"] for item in await items(driver)] == ["2000000000"] * 4
    await driver.commit([Touch(Ref("sessions", "s1"), None), Touch(Ref("runs", "r1"), None)], "t3")
    assert not any("expires_at" in item for item in await items(driver))
    found = await driver.get(Ref("runs", "r1"))
    assert found is not None and found.rev == Rev("t3")


@ANY_DYNAMO
async def test_shards_are_merged_in_order(driver: Driver) -> None:
    await ready(driver)
    times = {n: {"created_at": 100 + n // 2, "touched_at": 100 + n // 2} for n in range(30)}
    await driver.write_many([session(f"s{n:02d}", expect=Expect.ANY, **times[n]) for n in range(30)], "t")
    stored = await items(driver)
    assert len({item["gsi6pk"]["S"] for item in stored}) == 2, "what changes with each turn"
    assert len({item["gsi5pk"]["S"] for item in stored}) == 1, "what is written once takes half as many"
    expected = [f"s{n:02d}" for n in range(30)]
    for index in ("all_created", "all_touched"):
        for page in (1, 7, 30, 50, None):
            span = Span("sessions", index, (), body=False)
            assert ids(await scanned(driver, span, page)) == expected
            assert ids(await scanned(driver, replace(span, descending=True), page)) == expected[::-1]
        assert await driver.count(Span("sessions", index, ())) == 30
    bounded = Span("sessions", "all_touched", (), low=105, high=107, descending=True)
    assert ids(await scanned(driver, bounded, 4)) == [f"s{n:02d}" for n in range(15, 9, -1)]
    assert sorted(ids(await scanned(driver, Span("sessions", EVERYTHING), 7))) == expected


@ANY_DYNAMO
@pytest.mark.parametrize("shards", [1, 2, 4])
async def test_a_page_asks_each_shard_once_for_its_share(open_another: Any, shards: int) -> None:
    """Again only where a shard had more of the page than its share; then for all that is missing."""
    db = open_another(listing_shards=shards)
    driver: Any = db._engine.driver
    asked: list[int] = []
    call = driver._call

    async def counted(operation: str, **params: Any) -> Any:
        if operation == "query":
            asked.append(params["Limit"])
        return await call(operation, **params)

    driver._call = counted
    try:
        await driver.open()
        await ready(driver)
        ids_ = [f"n{n}" for n in range(400)]
        lots = [[id for id in ids_ if int(keys.digest(id, 8), 16) % shards == lot][:40] for lot in range(shards)]
        dealt = [id for turn in zip(*lots, strict=True) for id in turn]
        puts = [session(id, expect=Expect.ANY, touched_at=1000 - n) for n, id in enumerate(dealt)]
        # Those of one shard alone.
        puts += [session(id, expect=Expect.ANY, touched_at=100 - n) for n, id in enumerate(lots[0][20:])]
        assert await driver.write_many(puts, "t") == []
        page = await driver.scan(Span("sessions", "all_touched", (), descending=True, limit=20))
        assert ids(page.records) == dealt[:20]
        assert asked == {1: [20], 2: [17, 17], 4: [11] * 4}[shards]
        asked.clear()
        skewed = Span("sessions", "all_touched", (), high=100, descending=True, limit=20, body=False)
        assert ids((await driver.scan(skewed)).records) == lots[0][20:]
        assert asked == {1: [20], 2: [17, 17, 3], 4: [11] * 4 + [9]}[shards]
    finally:
        await close(db)


@ANY_DYNAMO
async def test_an_entry_of_a_record_that_is_read_itself_crosses_the_wire_without_its_header(db: Any) -> None:
    for n in range(3):
        await db.upsert_session(AgentSession(session_id=f"s{n}", agent_id="a", user_id="u", created_at=100 + n))
    driver: Any = db.raw._engine.driver
    sent: list[Any] = []
    call = driver._call

    async def watched(operation: str, **params: Any) -> Any:
        reply = await call(operation, **params)
        if operation == "query":
            sent.append(reply["Items"])
        return reply

    driver._call = watched
    for filters in ({}, {"user_id": "u"}, {"component_id": "a"}):
        sent.clear()
        found = await db.get_sessions(
            limit=2, page=1, sort_by="created_at", sort_order="asc", include_runs=False, **filters
        )
        assert [one.session_id for one in found] == ["s0", "s1"]
        assert [len(entries) for entries in sent] == [2] and not any("head" in entry for entry in sent[0])


@ANY_DYNAMO
async def test_a_component_can_be_given_more_partitions_later(db: Any, open_another: Any) -> None:
    """What was stored before stays in the listing, and one component's writes go to several partitions."""

    def saved(number: int) -> AgentSession:
        return AgentSession(session_id=f"s{number:02d}", agent_id="a", created_at=100 + number // 2)

    for number in range(10):
        await db.upsert_session(saved(number))
    wide = Awaitable(open_another(component_shards=3))
    try:
        for number in range(10, 30):
            await wide.upsert_session(saved(number))
        await wide.upsert_session(saved(3))
        partitions = {item["gsi3pk"]["S"] for item in await items(db.raw._engine.driver) if "gsi3pk" in item}
        assert len(partitions) == 3
        expected = [f"s{number:02d}" for number in range(30)]
        for order in ("asc", "desc"):
            listing = {"component_id": "a", "sort_by": "created_at", "sort_order": order}
            pages = [await wide.get_sessions(limit=8, page=page, **listing) for page in (1, 2, 3, 4)]
            assert [one.session_id for page in pages for one in page] == expected[:: 1 if order == "asc" else -1]
        assert await wide.count_sessions(component_id="a") == 30
        assert await wide.delete_session("s03") and await wide.count_sessions(component_id="a") == 29
    finally:
        await close(wide.raw)


@ANY_DYNAMO
async def test_headers_of_an_index_tell_the_field_they_are_sorted_by(driver: Driver) -> None:
    await ready(driver)
    await store(driver, session("s1", user_id="u", touched_at=77, updated_at=76))
    (header,) = await scanned(driver, Span("sessions", "user_touched", ("u",), body=False))
    assert header.fields["touched_at"] == 77 and header.fields["user_id"] == "u" and header.body is None
    assert "updated_at" not in header.fields  # volatile, so not in the index: missing, and not null
    (filtered,) = await scanned(
        driver, Span("sessions", "user_created", ("u",), body=False, where=(Eq("updated_at", 76),))
    )
    assert filtered.fields["updated_at"] == 76 and filtered.body is None
    assert await scanned(driver, Span("sessions", "user_created", ("u",), where=(Eq("updated_at", 75),))) == []


@ANY_DYNAMO
async def test_bounds_that_exclude_everything_give_nothing(driver: Driver) -> None:
    await ready(driver)
    await store(driver, session("s1", user_id="u"), run("r1", "s1", 0))
    for index, eq in (("order", ("s1",)), ("changes", ("s1",))):
        assert await scanned(driver, Span("runs", index, eq, low=9, high=1)) == []
    assert await scanned(driver, Span("sessions", "user_created", ("u",), low=9, high=1)) == []


# --- Claims -----------------------------------------------------------------------------------------------------------


@ANY_DYNAMO
async def test_a_tombstone_gives_its_id_to_another_place(driver: Driver) -> None:
    await ready(driver)
    (rev,) = await store(driver, run("r", "s1", 0))
    (dead,) = await driver.commit([replace(run("r", "s1", 0, deleted=True, expect=rev), expires_at=2**31)], "t2")
    (again,) = await driver.commit([run("r", "s2", 4, expect=dead)], "t3")
    found = await driver.get(Ref("runs", "r"))
    assert found is not None and (found.ref.parent, found.ref.order, found.expires_at) == ("s2", 4, None)
    assert keys_of(await items(driver)) == [("4runs!4id!4r!", "claim"), ("4s2!", "4runs!3p0014!4r!")]
    assert not any("expires_at" in item for item in await items(driver))
    # Whoever remembers the old place finds the new one.
    assert (await driver.get(Ref("runs", "r", "s1", 0))) == found
    await driver.commit([run("r", "s2", 4, status="X", expect=again)], "t4")


@ANY_DYNAMO
@pytest.mark.parametrize("reaped", ["claim", "child"])
async def test_what_the_reaper_left_over_blocks_nothing(driver: Any, reaped: str) -> None:
    await ready(driver)
    await store(driver, replace(run("r", "s1", 0), expires_at=1))
    claim, child = ({"pk": i["pk"], "sk": i["sk"]} for i in await items(driver))
    await driver._call("delete_item", TableName=driver.tables["runs"], Key=claim if reaped == "claim" else child)
    assert await driver.get(Ref("runs", "r")) is None
    await driver.commit([run("r", "s2", 3)], "t2")
    found = await driver.get(Ref("runs", "r"))
    assert found is not None and found.ref.parent == "s2"
    with pytest.raises(Conflict):
        await driver.commit([run("r", "s3", 0)], "t3")


@ANY_DYNAMO
async def test_a_tombstone_without_its_claim_can_be_written_again(driver: Any) -> None:
    await ready(driver)
    await store(driver, replace(run("r", "s1", 0), expires_at=1))
    claim = (await items(driver))[0]
    await driver._call("delete_item", TableName=driver.tables["runs"], Key={"pk": claim["pk"], "sk": claim["sk"]})
    there = await driver.get(Ref("runs", "r", "s1", 0))
    assert there is not None
    await driver.commit([run("r", "s1", 0, expect=there.rev)], "t2")
    assert await driver.get(Ref("runs", "r")) is not None


@ANY_DYNAMO
async def test_deleting_children_in_bulk_spares_a_claim_that_is_in_use_elsewhere(driver: Driver) -> None:
    await ready(driver)
    (rev,) = await store(driver, run("r", "s1", 0))
    (header,) = await scanned(driver, Span("runs", "changes", ("s1",), body=False))
    (dead,) = await driver.commit([replace(run("r", "s1", 0, deleted=True, expect=rev), expires_at=2**31)], "t2")
    await driver.commit([run("r", "s2", 0, expect=dead)], "t3")
    await store(driver, run("other", "s1", 1))
    (other,) = await scanned(driver, Span("runs", "changes", ("s1",), body=False))
    assert await driver.write_many([Delete(header.ref), Delete(other.ref)], "t4") == []
    found = await driver.get(Ref("runs", "r"))
    assert found is not None and found.ref.parent == "s2"
    assert await driver.get(Ref("runs", "other")) is None


@ANY_DYNAMO
async def test_children_are_written_and_deleted_without_expectations(driver: Driver) -> None:
    await ready(driver)
    puts = [run(f"r{n}", "s1", n, expect=Expect.ANY) for n in range(70)]
    assert await driver.write_many(puts, "t1") == []
    assert await driver.write_many(puts, "t2") == []
    assert await driver.count(Span("runs", "order", ("s1",))) == 70
    await driver.commit([run("r0", "s2", 5, expect=Expect.ANY)], "t3")
    assert ids(await scanned(driver, Span("runs", "order", ("s2",)))) == ["r0"]
    await driver.commit([Delete(Ref("runs", "r0"))], "t4")
    await driver.commit([Delete(Ref("runs", "r0"))], "t5")
    assert await driver.write_many([Delete(Ref("runs", f"r{n}")) for n in range(75)], "t6") == []
    assert await items(driver) == []


# --- Commits ----------------------------------------------------------------------------------------------------------


@pytest.mark.cells("dynamo-*-local")
async def test_a_commit_sent_again_is_applied_once(driver: Driver) -> None:
    """The SDK sends a request again whose reply it lost; neither it nor the kernel learns whether it was applied."""
    await ready(driver)
    both = [run("r", "s", 0), history("s")]
    assert await driver.commit(both, "t1") == await driver.commit(both, "t1")
    one = [session("s1")]
    first = await driver.commit(one, "t2")
    assert await driver.commit(one, "t2") == first
    gone = [Delete(Ref("sessions", "s1"), first[0] or Expect.ANY)]
    assert await driver.commit(gone, "t3") == await driver.commit(gone, "t3") == [None]
    with pytest.raises(Conflict):
        await driver.commit(gone, "t4")
    with pytest.raises(Conflict):
        await driver.commit([run("r", "s", 0)], "t5")


@ANY_DYNAMO
async def test_an_oversize_record_is_refused_before_it_is_sent(driver: Driver) -> None:
    await ready(driver)
    before = driver.io.calls.total()
    noise = "".join(keys.digest(str(number), 64) for number in range(13_000))
    with pytest.raises(PayloadTooLargeError) as refused:
        await driver.commit([session("s", body={"metadata": noise})], "t")
    assert refused.value.limit == 409_600 < refused.value.size
    (failed,) = await driver.write_many([session("s", body={"metadata": noise}, expect=Expect.ANY), session("k")], "t2")
    assert isinstance(failed.error, PayloadTooLargeError)
    assert driver.io.calls["put_item"] == 1  # that of `k`, which expects to be absent and so is no batch's
    assert driver.io.calls.total() > before
    assert await driver.get(Ref("sessions", "k")) is not None


@ANY_DYNAMO
async def test_a_commit_of_too_many_items_is_refused(driver: Driver) -> None:
    await ready(driver)
    with pytest.raises(StoreError, match="102 items"):
        await driver.commit([run(f"r{n}", "s", n) for n in range(51)], "t")
    with pytest.raises(StoreError, match="bytes in one commit"):
        noise = "".join(keys.digest(str(number), 64) for number in range(10_000))
        await driver.commit([session(f"s{n}", body={"metadata": noise}) for n in range(15)], "t")


@ANY_DYNAMO
async def test_a_counter_that_is_part_of_a_key_moves_the_record_in_its_index(driver: Driver) -> None:
    await ready(driver)
    await store(driver, session("s1", user_id="u", components=("a", "b")), run("r1", "s1", 0))
    after = await driver.add(Ref("sessions", "s1"), {"touched_at": 9}, [Eq("user_id", "u")], "t2")
    assert after is not None and after.fields["touched_at"] == 10
    (found,) = await scanned(driver, Span("sessions", "user_touched", ("u",), low=10))
    assert found == after
    assert await driver.add(Ref("sessions", "s1"), {"touched_at": 1}, [Eq("user_id", "v")], "t3") is None
    run_after = await driver.add(Ref("runs", "r1"), {"revision": 4}, [In("incarnation", ("i", None))], "t4")
    assert run_after is not None and run_after.fields["revision"] == 5
    assert ids(await scanned(driver, Span("runs", "changes", ("s1",), low=5))) == ["r1"]


# --- What a server at hand does not do --------------------------------------------------------------------------------


class Stub:
    """A client that answers from a script: by operation, a list of answers or errors."""

    def __init__(self, **answers: list[Any]) -> None:
        self.meta = SimpleNamespace(
            region_name="eu-west-1",
            endpoint_url="https://dynamodb.eu-west-1.amazonaws.com",
            config=Config(retries={"total_max_attempts": 1}),
        )
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.closed = False
        self._answers = answers
        for operation in ("get_item", "put_item", "delete_item", "update_item", "query", "scan", *CONTROL_PLANE):
            setattr(self, operation, self._answering(operation))
        for operation in ("transact_write_items", "batch_write_item", "batch_get_item"):
            setattr(self, operation, self._answering(operation))

    def _answering(self, operation: str) -> Callable[..., Any]:
        def call(**params: Any) -> Any:
            self.calls.append((operation, params))
            script = self._answers.get(operation, [{"Responses": {}, "Items": []}])
            answer = script.pop(0) if len(script) > 1 else script[0]
            if callable(answer):
                answer = answer(params)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call

    def close(self) -> None:
        self.closed = True


def client_error(code: str, status: int = 400, **more: Any) -> ClientError:
    body = {"Error": {"Code": code, "Message": "why"}, "ResponseMetadata": {"HTTPStatusCode": status}, **more}
    return ClientError(body, "Operation")


def stubbed(**answers: list[Any]) -> tuple[Stub, Driver]:
    stub = Stub(**answers)
    driver = DynamoDocstore(stub)._engine.driver

    async def at_once(seconds: float) -> None:
        assert seconds >= 0

    driver.io.sleep = at_once  # type: ignore[method-assign]
    return stub, driver


def test_what_a_batch_leaves_unprocessed_is_sent_again() -> None:
    def half(params: dict[str, Any]) -> dict[str, Any]:
        ((table, requests),) = params["RequestItems"].items()
        return {"UnprocessedItems": {table: requests[len(requests) // 2 :]} if len(requests) > 1 else {}}

    stub, driver = stubbed(batch_write_item=[half])
    puts = [Put(Ref("versions", f"v{n}"), {"version": "1"}) for n in range(30)]
    assert drive(driver.write_many(puts, "t")) == []
    sent = [len(params["RequestItems"]["agno"]) for _, params in stub.calls]
    assert sent == [25, 13, 7, 4, 2, 1, 5, 3, 2, 1]


def test_what_stays_unprocessed_is_reported() -> None:
    def never_the_first(params: dict[str, Any]) -> dict[str, Any]:
        first = [r for r in params["RequestItems"]["agno"] if r["PutRequest"]["Item"]["id"]["S"] == "v0"]
        return {"UnprocessedItems": {"agno": first} if first else {}}

    _, driver = stubbed(batch_write_item=[never_the_first])
    puts = [Put(Ref("versions", f"v{n}"), {"version": "1"}) for n in range(3)]
    (failed,) = drive(driver.write_many(puts, "t"))
    assert failed.write is puts[0] and isinstance(failed.error, StoreUnavailableError)


def test_keys_left_unprocessed_are_asked_for_again() -> None:
    def one(params: dict[str, Any]) -> dict[str, Any]:
        asked = params["RequestItems"]["agno"]
        first, *rest = asked["Keys"]
        item = {**first, "id": {"S": first["pk"]["S"][1:-1]}, "rev": {"S": "t"}, "head": {"M": {}}}
        return {"Responses": {"agno": [item]}, "UnprocessedKeys": {"agno": {**asked, "Keys": rest}} if rest else {}}

    stub, driver = stubbed(batch_get_item=[one])
    assert ids(drive(driver.get_many([Ref("versions", n) for n in "abc"]))) == ["a", "b", "c"]
    assert len(stub.calls) == 3
    _, driver = stubbed(batch_get_item=[lambda p: {"Responses": {}, "UnprocessedKeys": p["RequestItems"]}])
    with pytest.raises(StoreUnavailableError):
        drive(driver.get_many([Ref("versions", n) for n in "abc"]))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("ConditionalCheckFailed", Conflict),
        ("TransactionConflict", Conflict),
        ("ThrottlingError", StoreUnavailableError),
        ("ProvisionedThroughputExceeded", StoreUnavailableError),
        ("ItemCollectionSizeLimitExceeded", StoreError),
        ("ValidationError", StoreError),
    ],
)
def test_why_a_transaction_was_cancelled(code: str, expected: type[Exception]) -> None:
    reasons = [{"Code": "None"}, {"Code": code, "Message": "why"}]
    _, driver = stubbed(
        transact_write_items=[client_error("TransactionCanceledException", CancellationReasons=reasons)]
    )
    with pytest.raises(expected) as refused:
        drive(driver.commit([session("s"), history("s")], "t"))
    if code == "ConditionalCheckFailed":
        assert [ref.kind for ref in refused.value.refs] == ["histories"]  # type: ignore[attr-defined]
    if isinstance(refused.value, StoreUnavailableError):
        assert refused.value.retryable and not refused.value.maybe_applied
    else:
        assert not isinstance(refused.value, StoreUnavailableError)


def test_an_item_that_only_dynamodb_finds_too_large_is_named() -> None:
    why = "Item size has exceeded the maximum allowed size"
    reasons = [{"Code": "ValidationError", "Message": why}, {"Code": "None"}]
    _, driver = stubbed(
        transact_write_items=[client_error("TransactionCanceledException", CancellationReasons=reasons)]
    )
    with pytest.raises(PayloadTooLargeError) as refused:
        drive(driver.commit([session("s", body={"metadata": "x" * 500}), history("s")], "t"))
    assert (refused.value.kind, refused.value.id) == ("sessions", "s")


@pytest.mark.parametrize(
    ("error", "retryable", "maybe_applied"),
    [
        (client_error("ProvisionedThroughputExceededException"), True, False),
        (client_error("ThrottlingException"), True, False),
        (client_error("RequestLimitExceeded"), True, False),
        (client_error("InternalServerError", 500), True, True),
        (client_error("Whatever", 503), True, True),
        (client_error("TransactionInProgressException"), True, True),
    ],
)
def test_what_may_be_tried_again(error: ClientError, retryable: bool, maybe_applied: bool) -> None:
    _, driver = stubbed(put_item=[error])
    with pytest.raises(StoreUnavailableError) as refused:
        drive(driver.commit([session("s")], "t"))
    assert (refused.value.retryable, refused.value.maybe_applied) == (retryable, maybe_applied)


def test_credentials_that_are_refused_are_no_outage() -> None:
    _, driver = stubbed(get_item=[client_error("ExpiredTokenException")])
    with pytest.raises(StoreError, match="credentials") as refused:
        drive(driver.get(Ref("sessions", "s")))
    assert not isinstance(refused.value, StoreUnavailableError)


def test_one_missing_table_does_not_hide_what_another_holds() -> None:
    def by_table(params: dict[str, Any]) -> Any:
        if "own_runs" in params["RequestItems"]:
            return client_error("ResourceNotFoundException")
        raise AssertionError

    there = {"pk": {"S": "4s!"}, "sk": {"S": "4histories!"}, "id": {"S": "s"}, "rev": {"S": "t"}, "head": {"M": {}}}

    def get(params: dict[str, Any]) -> Any:
        return {"Item": there} if params["TableName"] == "agno" else client_error("ResourceNotFoundException")

    stub = Stub(batch_get_item=[by_table], get_item=[get])
    driver = DynamoDocstore(stub, runs_table="own_runs")._engine.driver
    found = drive(driver.get_many([Ref("runs", "r"), Ref("histories", "s")]))
    assert found[0] is None and found[1] is not None


# --- Tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.cells("dynamo-sync-*")
def test_ten_threads_may_create_the_table_at_once(cell: Any, storage: str) -> None:
    handles = [cell.open(storage) for _ in range(10)]
    barrier = threading.Barrier(10)

    def write(number: int) -> None:
        barrier.wait()
        handles[number].upsert_session(AgentSession(session_id=f"s{number}", agent_id="a"))

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(write, range(10)))
    assert len(handles[0].get_sessions()) == 10
    description = handles[0]._engine.driver
    table = drive(description._describe(storage))
    assert table["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    alive = client_of(handles[0]).describe_time_to_live(TableName=storage)["TimeToLiveDescription"]
    assert (alive["TimeToLiveStatus"], alive["AttributeName"]) == ("ENABLED", "expires_at")
    for handle in handles:
        handle.close()


@ANY_DYNAMO
async def test_without_provision_a_missing_table_is_an_error_that_tells_the_command(
    open_another: Callable[..., Any], storage: str
) -> None:
    db = Awaitable(open_another(provision=False))
    assert await db.get_session("s1") is None
    with pytest.raises(ProvisioningError) as refused:
        await db.upsert_session(AgentSession(session_id="s1", agent_id="a"))
    assert refused.value.table == storage
    assert refused.value.command.startswith("agno-docstores provision dynamo ")
    assert await db.table_exists("agno_sessions") is False
    await db._create_all_tables()
    await db._create_all_tables()
    assert await db.table_exists("agno_sessions") is True
    assert await db.table_exists("x") is False
    assert await db.upsert_session(AgentSession(session_id="s1", agent_id="a")) is not None
    await close(db.raw)


@ANY_DYNAMO
async def test_a_table_of_somebody_else_is_refused_and_left_alone(docstore: Any, storage: str) -> None:
    driver = docstore._engine.driver
    await driver._call(
        "create_table",
        TableName=storage,
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    with pytest.raises(ProvisioningError, match="another key schema"):
        await driver.ensure(list(KINDS.values()))
    assert (await driver._describe(storage))["KeySchema"] == [{"AttributeName": "id", "KeyType": "HASH"}]
    await close(docstore)


def test_without_the_right_to_create_the_error_tells_the_command() -> None:
    missing, denied = client_error("ResourceNotFoundException"), client_error("AccessDeniedException")
    _, driver = stubbed(describe_table=[missing], create_table=[denied])
    with pytest.raises(ProvisioningError, match="agno-docstores provision dynamo"):
        drive(driver.ensure([RUNS]))


def test_without_the_right_to_enable_expiry_the_table_serves(caplog: pytest.LogCaptureFixture) -> None:
    from agno_docstores_dynamo.layout import table_definition

    definition = {**table_definition("agno"), "TableStatus": "ACTIVE"}
    indexes = [{**index, "IndexStatus": "ACTIVE"} for index in definition["GlobalSecondaryIndexes"]]
    _, driver = stubbed(
        describe_table=[{"Table": {**definition, "GlobalSecondaryIndexes": indexes}}],
        describe_time_to_live=[client_error("AccessDeniedException")],
    )
    drive(driver.ensure([RUNS]))
    assert "time to live" in caplog.text


def test_a_table_that_is_being_created_is_waited_for() -> None:
    from agno_docstores_dynamo.layout import table_definition

    definition = table_definition("agno")

    def state(table: str, index: str) -> dict[str, Any]:
        indexes = [{**one, "IndexStatus": index} for one in definition["GlobalSecondaryIndexes"]]
        return {"Table": {**definition, "TableStatus": table, "GlobalSecondaryIndexes": indexes}}

    missing, in_use = client_error("ResourceNotFoundException"), client_error("ResourceInUseException")
    states = [missing, state("CREATING", "CREATING"), state("ACTIVE", "CREATING"), state("ACTIVE", "ACTIVE")]
    stub, driver = stubbed(
        describe_table=states,
        create_table=[in_use],
        describe_time_to_live=[{"TimeToLiveDescription": {"TimeToLiveStatus": "ENABLED"}}],
    )
    drive(driver.ensure([RUNS]))
    assert [operation for operation, _ in stub.calls].count("describe_table") == 4


# --- Clients ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[pytest.MonkeyPatch]:
    """An environment that says nothing about AWS."""
    import os

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    yield monkeypatch


KEYS = {"aws_access_key_id": "AKIDEXAMPLE", "aws_secret_access_key": "hush", "aws_session_token": "token-hush"}


def test_the_client_gets_what_was_given(bare: pytest.MonkeyPatch) -> None:
    config = Config(connect_timeout=1, retries={"mode": "adaptive", "total_max_attempts": 7}, user_agent_extra="mine")
    db = DynamoDocstore(region_name="eu-west-3", endpoint_url="http://127.0.0.1:9", config=config, **KEYS)
    client = client_of(db)
    assert client.meta.region_name == "eu-west-3" and client.meta.endpoint_url == "http://127.0.0.1:9"
    credentials = client._request_signer._credentials
    assert (credentials.access_key, credentials.secret_key, credentials.token) == tuple(KEYS.values())
    assert (client.meta.config.connect_timeout, client.meta.config.read_timeout) == (1, 10)
    assert client.meta.config.retries == {"mode": "adaptive", "total_max_attempts": 7}
    assert client.meta.config.user_agent_extra == "mine" and client.meta.config.max_pool_connections >= 50
    db.close()


async def test_the_async_client_gets_the_same(bare: pytest.MonkeyPatch) -> None:
    config = Config(connect_timeout=1, user_agent_extra="mine")
    db = AsyncDynamoDocstore(region_name="eu-west-3", endpoint_url="http://127.0.0.1:9", config=config, **KEYS)
    client = await db._engine.driver._connection.client()  # type: ignore[attr-defined]
    assert client.meta.region_name == "eu-west-3" and client.meta.endpoint_url == "http://127.0.0.1:9"
    assert (client.meta.config.connect_timeout, client.meta.config.read_timeout) == (1, 10)
    assert client.meta.config.user_agent_extra == "mine" and client.meta.config.retries["total_max_attempts"] == 1
    credentials = await client._request_signer._credentials.get_frozen_credentials()
    assert credentials.token == "token-hush"
    await db.close()


def test_nothing_given_is_the_chain_of_the_sdk(bare: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "config").write_text("[profile blue]\nregion = sa-east-1\n")
    (tmp_path / "credentials").write_text("[blue]\naws_access_key_id = A\naws_secret_access_key = B\n")
    by_profile = DynamoDocstore(profile_name="blue")
    assert client_of(by_profile).meta.region_name == "sa-east-1"
    assert client_of(by_profile)._request_signer._credentials.access_key == "A"
    bare.setenv("AWS_REGION", "eu-north-1")
    assert DynamoDocstore().id == DynamoDocstore(region_name="eu-north-1").id
    bare.setenv("AWS_PROFILE", "blue")
    assert client_of(DynamoDocstore())._request_signer._credentials.access_key == "A"


def test_missing_credentials_are_an_error_that_helps(bare: pytest.MonkeyPatch) -> None:
    db = DynamoDocstore(region_name="eu-west-1")
    with pytest.raises(StoreError, match="AWS_PROFILE"):
        db.get_session("s1")
    with pytest.raises(StoreError, match="region"):
        DynamoDocstore(**KEYS).get_session("s1")  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="ProfileNotFound"):
        DynamoDocstore(profile_name="nobody", region_name="eu-west-1").get_session("s1")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_unreachable_endpoint_is_an_error_in_bounded_time(bare: pytest.MonkeyPatch, asynchronous: bool) -> None:
    arguments: dict[str, Any] = {"endpoint_url": "http://user:hunter2@127.0.0.1:9", "region_name": "eu-west-1", **KEYS}
    started = time.monotonic()
    with pytest.raises(StoreUnavailableError) as refused:
        if asynchronous:

            async def read() -> None:
                db = AsyncDynamoDocstore(**arguments)
                try:
                    await db.get_session("s1")
                finally:
                    await db.close()

            asyncio.run(read())
        else:
            DynamoDocstore(**arguments).get_session("s1")
    assert time.monotonic() - started < 30
    assert "127.0.0.1:9" in str(refused.value)
    assert not any(secret in str(refused.value) for secret in ("hunter2", "user:", "hush", "AKID"))


def test_where_the_data_lies_is_the_identity_and_no_secret_is_told(bare: pytest.MonkeyPatch) -> None:
    db = DynamoDocstore(
        region_name="eu-west-1",
        endpoint_url="https://u:p@db.example:8000/",
        table_name="mine",
        listing_shards=4,
        component_shards=3,
        session_table="my_sessions",
        **KEYS,  # type: ignore[arg-type]
    )
    told = db.to_dict()
    assert told["table_name"] == "mine" and told["endpoint_url"] == "https://db.example:8000"
    assert told["region_name"] == "eu-west-1" and told["listing_shards"] == 4 and "compress" not in told
    assert told["component_shards"] == 3
    assert not any(secret in json.dumps(told) + repr(db) for secret in (*KEYS.values(), "u:p"))
    again = DynamoDocstore.from_dict(json.loads(json.dumps({key: value for key, value in told.items() if key != "id"})))
    assert again.id == db.id and again._engine.driver.tables == db._engine.driver.tables  # type: ignore[attr-defined]
    assert AsyncDynamoDocstore.from_dict(told).id == db.id
    others = [
        DynamoDocstore(region_name="eu-west-1", table_name="mine"),
        DynamoDocstore(region_name="eu-west-2", table_name="mine"),
        DynamoDocstore(region_name="eu-west-1", table_name="other"),
    ]
    plain = DynamoDocstore.from_dict(others[0].to_dict())
    assert plain._engine.driver.tables == others[0]._engine.driver.tables  # type: ignore[attr-defined]
    assert len({db.id, *(other.id for other in others)}) == 4
    same = DynamoDocstore(Stub(), table_name="mine")
    assert same.id == others[0].id


def test_tables_are_named_by_their_arguments() -> None:
    tables = DynamoDocstore(Stub())._engine.driver.tables
    assert set(tables.values()) == {"agno"}
    tables = DynamoDocstore(Stub(), table_name="all", versions_table="own")._engine.driver.tables
    assert (tables["versions"], tables["sessions"], tables["runs"]) == ("own", "all", "all")
    with pytest.raises(ValueError, match="no DynamoDB table name"):
        DynamoDocstore(Stub(), versions_table="ab")


def test_arguments_that_contradict_are_refused() -> None:
    with pytest.raises(ValueError, match="region_name"):
        DynamoDocstore(Stub(), region_name="eu-west-1")
    with pytest.raises(ValueError, match="listing_shards"):
        DynamoDocstore(Stub(), listing_shards=0)
    with pytest.raises(ValueError, match="component_shards"):
        DynamoDocstore(Stub(), component_shards=0)
    with pytest.raises(TypeError, match="DynamoDB client"):
        DynamoDocstore(object())
    with pytest.raises(ValueError, match="table_name"):
        DynamoDocstore(Stub(), table_name="")


def test_a_client_that_was_handed_in_stays_open() -> None:
    stub = Stub()
    db = DynamoDocstore(stub)
    db.get_session("s1")
    db.close()
    assert not stub.closed
    assert isinstance(db._engine.driver._connection, Given)  # type: ignore[attr-defined]


def test_the_constructor_makes_no_client(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a client was made")

    monkeypatch.setattr(botocore.session.Session, "create_client", refuse)
    DynamoDocstore(region_name="eu-west-1")
    AsyncDynamoDocstore(region_name="eu-west-1")


def test_many_threads_make_one_client(bare: pytest.MonkeyPatch) -> None:
    db = DynamoDocstore(region_name="eu-west-1", **KEYS)  # type: ignore[arg-type]
    with ThreadPoolExecutor(8) as pool:
        clients = list(pool.map(lambda _: client_of(db), range(16)))
    assert len({id(client) for client in clients}) == 1
    db.close()
    assert client_of(db) is not clients[0]


@pytest.mark.parametrize("installed", [True, False])
def test_async_falls_back_to_threads(monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "agno_docstores_dynamo.connection.find_spec",
        lambda name: found(name) if installed or name != "aiobotocore" else None,
    )
    db = AsyncDynamoDocstore(region_name="eu-west-1")
    driver: Any = db._engine.driver
    assert isinstance(driver._connection, PerLoop if installed else Blocking)
    assert type(db.io) is (AsyncIo if installed else ThreadIo)


async def test_an_injected_boto3_client_runs_in_threads() -> None:
    stub = Stub()
    db = AsyncDynamoDocstore(stub)
    assert type(db.io) is ThreadIo
    assert await db.get_session("s1") is None
    await db.close()
    assert not stub.closed
    assert type(DynamoDocstore(Stub()).io) is SyncIo


def test_each_event_loop_has_its_own_client(bare: pytest.MonkeyPatch) -> None:
    db = AsyncDynamoDocstore(region_name="eu-west-1", **KEYS)  # type: ignore[arg-type]
    connection: Any = db._engine.driver._connection  # type: ignore[attr-defined]

    async def twice() -> Any:
        first, second = await asyncio.gather(connection.client(), connection.client())
        assert first is second
        return first

    clients = [asyncio.run(twice()) for _ in range(3)]
    assert len({id(client) for client in clients}) == 3
    assert len(connection._slots) == 1  # those of the loops that ended are dropped
    asyncio.run(db.close())
    assert not connection._slots


@pytest.mark.parametrize("kind", [DynamoDocstore, AsyncDynamoDocstore])
def test_a_second_handle_does_not_read_the_description_of_the_service_again(
    kind: Any, bare: pytest.MonkeyPatch
) -> None:
    """Megabytes of JSON: most of the time that it takes to make a client."""
    read: list[str] = []
    load = JSONFileLoader.load_file

    def counted(self: Any, path: str) -> Any:
        found = load(self, path)
        if found is not None:
            read.append(path)
        return found

    bare.setattr(JSONFileLoader, "load_file", counted)

    async def opened() -> list[str]:
        read.clear()
        db = kind(region_name="eu-west-1", **KEYS)
        await db._engine.driver.open()
        await close(db)
        return read

    asyncio.run(opened())
    assert asyncio.run(opened()) == []


def test_a_sync_store_refuses_an_async_client(bare: pytest.MonkeyPatch) -> None:
    from aiobotocore.session import get_session

    async def main() -> None:
        async with get_session().create_client("dynamodb", region_name="eu-west-1") as client:
            with pytest.raises(TypeError, match="aiobotocore"):
                DynamoDocstore(client)
            db = AsyncDynamoDocstore(client)
            assert type(db.io) is AsyncIo
            assert await db._engine.driver._connection.client() is client  # type: ignore[attr-defined]
            await db.close()

    asyncio.run(main())


def test_a_body_is_compressed_or_readable() -> None:
    put = session("s", body={"metadata": "a word " * 400})
    packed, plain = (
        Layout(SESSIONS, "table", shards=4, compress=how).encode(put, "t").item["body"] for how in (True, False)
    )
    assert set(packed) == {"B"} and len(packed["B"]) < 300
    assert json.loads(plain["S"])["metadata"] == "a word " * 400
    for compress in (True, False):  # and read, whatever the setting is now
        layout = Layout(SESSIONS, "table", shards=4, compress=compress)
        for body in (packed, plain):
            item = {**layout.encode(put, "t").item, "body": body}
            assert (layout.decode(item).body or {})["metadata"] == Json.of("a word " * 400)


class Unanswered:
    """What happens to writes of a client: the first is delivered, then somebody else writes, and then the connection
    breaks before there is an answer; those after it find the server, or (`gone`) find nobody."""

    def __init__(self, db: DynamoDocstore, meanwhile: Callable[[], Any], *, gone: bool) -> None:
        self.client, self.meanwhile, self.gone, self.sent = client_of(db), meanwhile, gone, 0
        self.client.meta.events.register("before-send.dynamodb", self)

    def __call__(self, request: Any, **_: Any) -> None:
        target = request.headers["X-Amz-Target"]
        if not target.endswith((b"PutItem", b"UpdateItem", b"TransactWriteItems")):
            return
        self.sent += 1
        if self.sent == 1:
            assert self.client._endpoint.http_session.send(request).status_code == 200
            self.meanwhile()
            raise ConnectionClosedError(endpoint_url="http://test")
        if self.gone:
            raise EndpointConnectionError(endpoint_url="http://test")


@pytest.mark.cells("dynamo-sync-local")
@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("attempts", [None, 4])
def test_a_write_without_an_answer_is_not_made_twice_nor_called_undone(
    cell: Cell, storage: str, attempts: int | None, gone: bool
) -> None:
    other = cell.open(storage)
    other.upsert_session(AgentSession(session_id="s1", session_data={"n": 0}))
    # The SDK's own attempts, or the kernel's: neither tells by an answer that the first had been delivered.
    resending = {} if attempts is None else {"config": Config(retries={"total_max_attempts": attempts})}
    db = cell.open(storage, **resending)
    assert db.get_session_data("s1") == {"n": 0}
    unanswered = Unanswered(db, lambda: other.update_session_data("s1", increment={"n": 10}), gone=gone)
    with pytest.raises(StoreUnavailableError) as caught:
        db.update_session_data("s1", increment={"n": 1})
    assert caught.value.maybe_applied and unanswered.sent > 1
    assert other.get_session_data("s1") == {"n": 11}
    db.close()
    other.close()

"""Management beyond the conformance suite: interrupted purges, what a drop leaves alone, costs; data of a memory store
that survive a restart; the cache's limits."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agno.db.base import ComponentType

from agno_docstores import AsyncMemoryDocstore, MemoryDocstore, MemoryStore, ProvisioningError, StoreError
from agno_docstores.conformance.company import AGENT, product, project, source, task
from agno_docstores.conformance.jobs import job_of
from agno_docstores.conformance.management import contents, everything_of, is_of, listed
from agno_docstores.conformance.metrics import at, counts, rows_of
from agno_docstores.conformance.plugin import Awaitable, close
from agno_docstores.conformance.runs import run_ids
from agno_docstores.conformance.sessions import agent_session, run_of
from agno_docstores.conformance.tool_results import result_of
from agno_docstores.domains.management import OWNED
from agno_docstores.errors import SnapshotError
from agno_docstores.io import run
from agno_docstores.persistence import JsonFile
from agno_docstores.schema import HISTORIES, KINDS, RUNS, SESSIONS, TALLIES
from tests.faults import Crashed, Fault
from tests.harness import Cell
from tests.meters import KB, ON_THE_WIRE
from tests.test_budgets import seed_history, seed_sessions, turn

OURS = pytest.mark.cells("memory-*", "mongo-*", "dynamo-*", "firestore-*")
# One cell of each driver, both modes among them: what is replayed is the order of calls, which no server changes.
ONE_OF_EACH = pytest.mark.cells("memory-sync*", "mongo-sync-standalone", "dynamo-sync-moto", "firestore-async-embedded")


# --- Purge ------------------------------------------------------------------------------------------------------------


def test_every_kind_that_has_an_owner_is_purged() -> None:
    """Runs go with their session, tallies and histories too; what belongs to a trace goes with it."""
    owned = {kind.name for kind in KINDS.values() if "user_id" in kind.fields}
    assert {"compactions", "tool_results"} <= owned
    assert owned == {kind.name for kind, _ in OWNED} | {SESSIONS.name, HISTORIES.name, RUNS.name, TALLIES.name}


@ONE_OF_EACH
async def test_a_session_that_was_transferred_is_counted_with_its_new_owner_after_a_purge(db: Any) -> None:
    """The metrics of its former owner, which still counted it, are gone: there is nothing to take it out of."""
    for name in ("s1", "s2"):
        await db.upsert_session(agent_session(name, user_id="u", created_at=at(0)))
    await db.calculate_metrics()
    for name in ("s1", "s2"):
        assert await db.reassign_session_owner(name, previous_user_id="u", user_id="v") is True
    assert (await db.purge_user("u")).removed["metrics"] == 1
    await db.delete_session("s2")
    rows = await rows_of(db)
    assert {user: counts(row)[0] for (_, user), row in rows.items()} == {"v": 1}


@ONE_OF_EACH
@pytest.mark.parametrize("kind", ["unreachable", "lost reply", "crash before", "crash after"])
async def test_an_interrupted_purge_is_finished_by_another_process(cell: Cell, kind: str) -> None:
    struck = 0
    for at_call in range(1, 400, {"memory": 7, "dynamo": 61}.get(cell.store, 23)):
        with cell.storage() as name:
            db, other = Awaitable(cell.open(name)), Awaitable(cell.open(name))
            await everything_of(db, "u")
            await everything_of(db, "v")
            await db.calculate_metrics()
            before = await contents(db)
            fault = Fault(kind, at_call)
            db.io.hooks.append(fault)
            try:
                assert (await db.purge_user("u")).complete
            except Crashed:
                assert (await other.purge_user("u")).complete
            kept = {key for key, (fields, _) in before.items() if not is_of("u", *key, fields)}
            assert (await contents(other)).keys() == kept, f"{kind} at call {at_call}"
            await close(db.raw)
            await close(other.raw)
        struck += fault.struck
        if not fault.struck:
            break
    assert struck >= 2


@pytest.mark.cells("memory-sync", "mongo-sync-secantus", "dynamo-sync-local", "firestore-sync-google")
async def test_what_management_costs_in_requests(db: Any) -> None:
    await seed_sessions(db, 600)
    await db.count_sessions()

    async def requests(what: str, call: Callable[[], Any]) -> int:
        before = db.io.calls.total()
        await call()
        print(f"BUDGET {what}: {db.io.calls.total() - before} requests")
        return int(db.io.calls.total()) - before

    async def walk(*args: Any) -> None:
        found = [session.session_id for page in await listed(await db.get_all_sessions(*args)) for session in page]
        assert len(found) == len(set(found)) == (600 if not args else 12)

    assert await requests("walk through 600 sessions", walk) <= 7 * 6
    assert await requests("walk through the 12 of a user", lambda: walk("u7")) <= 2
    assert await requests("5 recent sessions of a user", lambda: db.get_recent_sessions(user_id="u7")) <= 2
    assert await requests("count of 600", db.count_sessions) <= 4
    assert await requests("count of a user's", lambda: db.count_sessions("u7")) == 1
    await everything_of(db, "u")
    assert await requests("purge of 2 sessions and 6 records", lambda: db.purge_user("u")) <= 100


# --- Drop -------------------------------------------------------------------------------------------------------------


@OURS
async def test_a_drop_leaves_tables_of_other_names_alone(db: Any, open_another: Callable[..., Any]) -> None:
    other = Awaitable(open_another(session_table="their_sessions", runs_table="their_runs"))
    try:
        await db.upsert_session(agent_session(user_id="u"))
        await other.upsert_session(agent_session(user_id="v"))
        await other.upsert_run(run_of("r"), "s1", "v")
        await db.drop(db.id)
        assert await db.get_session("s1") is None
        assert await run_ids(other) == ["r"]
    finally:
        await other.drop(other.id)
        await close(other.raw)


@pytest.mark.cells("mongo-sync-*")
async def test_a_drop_on_mongodb_leaves_documents_of_another_origin(db: Any) -> None:
    database = db.raw._engine.driver.clients.current().database
    await everything_of(db, "u")
    theirs = [{"_id": "theirs", "user_id": "u"}, {"_id": 7, "_rev": 3, "history": {"_rev": None}}]
    database["agno_sessions"].insert_many([dict(document) for document in theirs])
    database["elsewhere"].insert_one({"_id": 1})
    await db.drop(db.id)
    assert sorted(database["agno_sessions"].find({}), key=str) == sorted(theirs, key=str)
    assert set(database.list_collection_names()) == {"agno_sessions", "elsewhere"}
    await db.upsert_session(agent_session())
    assert await db.count_sessions() == 1


@pytest.mark.cells("firestore-sync-*")
async def test_a_drop_on_firestore_leaves_documents_of_another_origin(db: Any) -> None:
    client = db.raw._engine.driver.clients.current()
    await everything_of(db, "u")
    client.collection("agno_sessions").document("theirs").set({"session_id": "theirs"})
    await db.drop(db.id)
    assert [document.id for document in client.collection("agno_sessions").stream()] == ["theirs"]
    assert [collection.id for collection in client.collections()] == ["agno_sessions"]


@pytest.mark.cells("firestore-*-embedded")
async def test_a_drop_on_firestore_takes_more_documents_than_a_query_gives(
    db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agno_docstores_firestore.driver.HEADER_PAGE", 3)
    monkeypatch.setattr("agno_docstores_firestore.driver.MAX_WRITES", 2)
    for number in range(7):
        await db.upsert_session(agent_session(f"s{number}"))
    await db.drop(db.id)
    assert await contents(db) == {}


@pytest.mark.cells("dynamo-sync-local")
async def test_a_table_of_another_shape_is_not_dropped(docstore: Any, storage: str) -> None:
    driver = docstore._engine.driver
    await driver._call(
        "create_table",
        TableName=storage,
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    with pytest.raises(ProvisioningError, match="another key schema"):
        docstore.drop(docstore.id)
    assert docstore.table_exists(storage)
    docstore.close()


# --- Data of a memory store -------------------------------------------------------------------------------------------


def stored(db: Any) -> Any:
    """All of a memory store, revisions, places and expiry among it."""
    return {space: records for space, records in db.store.records.items() if records}


def full(db: MemoryDocstore) -> None:
    """A record of every kind but the versions', which has no user."""
    handle = Awaitable(db)
    run(everything_of(handle, "u"))
    run(everything_of(handle, None))
    db.calculate_metrics()
    db.upsert_schema_version("agno_sessions", "v1")
    db.append_transcript_entries("claude", "project", "c", [{"uuid": "u1"}], "u-s0")
    db.upsert_compaction({"compaction_id": "c", "session_id": "u-s0", "created_at": 1})
    db.upsert_tool_result(result_of("t", "u-s0"))
    for make in (product, project, source):
        run(make(handle))
    run(task(handle, dedupe_key="k", routine_id="r"))
    account = {"routine_id": "r", "policy": "p", "max_acceptances": 1}
    run(handle.transition_task("t1", "ready", "go", expected_updated_at=None, auto_accept=account, **AGENT))
    db.delete_run("u-r00")  # a tombstone, which expires
    db.set_authz_role_policies("r", [("x", "run", "allow")])
    db.assign_authz_role("u", "r")
    db.upsert_authz_role_meta("r", {"is_default": True, "created_at": 1, "updated_at": 1})
    db.set_authz_user_disabled("u", True)
    event = {"event_id": "e", "created_at": 1, "action": "x"}
    db.record_authz_audit_event(event)
    db.record_authz_decision(event)
    db.create_component_with_config("component", ComponentType.AGENT, "name", {"x": 1}, user_id="u")
    db.create_mcp_oauth_client(client_id="c", client_metadata="{}", now=1, unconsumed_ttl=9, max_clients=9)
    db.store_mcp_oauth_transaction(txn_id="t", client_id="c", params="{}", expires_at=9, now=1, max_pending=9)
    db.store_mcp_oauth_code(code_hash="h", payload="{}", expires_at=9, now=1)
    db.store_mcp_oauth_refresh(token_hash="h", client_id="c", scopes="", expires_at=9, now=1, family_id="f")
    db.insert_mcp_oauth_key(kid="k", secret="s", created_at=1)
    db.enqueue_job(job_of("j", turn=True, user_id="u", idempotency_key="k"))


def test_data_survive_a_restart_in_a_json_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "dev.json"
    db = MemoryDocstore(persist=JsonFile(path), session_config={"ttl": 86_400})
    assert not path.exists()
    full(db)
    odd = {
        "ü": "😀",
        "nul": "a\x00",
        "surrogate": "\ud800",
        "big": 2**70,
        "float": 1.0,
        "e": [],
        "n": None,
        "": {"": 0},
    }
    db.upsert_session(agent_session("odd", session_data=odd, metadata={}, created_at=5))
    assert {name.partition("/")[2] for name in stored(db)} == set(KINDS) - {"chunks"}  # nothing here is large
    again = MemoryDocstore(persist=JsonFile(path))
    assert stored(again) == stored(db)
    assert any(record.expires_at for record in stored(again)["agno_runs/runs"].values())
    assert repr(again.get_session("odd").session_data) == repr(odd)
    assert (again.id, again.store.tables) == (db.id, db.store.tables)
    again.upsert_run(run_of("later"), "odd")  # under revisions that were loaded
    assert run(run_ids(Awaitable(MemoryDocstore(persist=JsonFile(path))), "odd")) == ["later"]
    assert [child.name for child in path.parent.iterdir()] == ["dev.json"]


def test_a_json_file_is_for_people_to_read(tmp_path: Path) -> None:
    db = MemoryDocstore(persist=JsonFile(tmp_path / "dev.json"))
    db.upsert_session(agent_session(session_data={"session_state": {"name": "Zoë"}}))
    text = (tmp_path / "dev.json").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if "Zoë" in line]
    record = json.loads(line.rstrip(","))
    assert (record["id"], record["body"]["session_data"]) == ("s1", {"session_state": {"name": "Zoë"}})
    assert json.loads(text)["version"] == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no JSON"),
        ('{"format": "agno-docstores memory store", "ver', "no JSON"),
        ("[]", "no snapshot"),
        ("null", "no snapshot"),
        ('{"format": "agno-docstores memory store", "version": 2}', "version 2"),
        ('{"format": "agno-docstores memory store", "version": 1, "name": "x"}', "without saves, tables, records"),
        (
            '{"format": "agno-docstores memory store", "version": 1, "name": "x", "saves": 1, "tables": [],'
            ' "records": {"a/sessions": [{"id": "s"}]}}',
            "a/sessions",
        ),
    ],
)
def test_what_is_no_snapshot_is_refused_and_left_as_it_is(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "dev.json"
    path.write_text(text)
    for kind in (MemoryDocstore, AsyncMemoryDocstore):
        with pytest.raises(SnapshotError, match=says):
            kind(persist=JsonFile(path))
    assert path.read_text() == text


def test_hooks_get_a_snapshot_after_every_write_that_changes_something() -> None:
    saved: list[Any] = []
    db = MemoryDocstore(save=lambda snapshot: saved.append(json.dumps(snapshot)))
    assert db.get_session("s1") is None and not saved
    db.upsert_session(agent_session())
    db.upsert_run(run_of("r"), "s1")
    writes = len(saved)
    assert [json.loads(text)["saves"] for text in saved] == list(range(1, writes + 1))
    db.get_session("s1")
    db.delete_run("nobody")
    assert len(saved) == writes
    again = MemoryDocstore(load=lambda: json.loads(saved[-1]))
    assert stored(again) == stored(db)
    again.upsert_run(run_of("r2"), "s1")  # without `save`, nothing is kept
    assert len(saved) == writes
    assert MemoryDocstore(load=lambda: None).get_sessions() == []


def test_a_write_that_cannot_be_saved_is_taken_back() -> None:
    full_disk = False

    def save(snapshot: Any) -> None:
        if full_disk:
            raise OSError("no space left")

    db = MemoryDocstore(save=save)
    db.upsert_session(agent_session(metadata={"n": 1}))
    db.upsert_run(run_of("r"), "s1")
    before = {space: dict(records) for space, records in stored(db).items()}
    full_disk = True
    writes: list[Callable[[], Any]] = [
        lambda: db.upsert_session(agent_session(metadata={"n": 2})),
        lambda: db.upsert_session(agent_session("s2")),
        lambda: db.upsert_run(run_of("r2"), "s1"),
        lambda: db.delete_session("s1"),
        lambda: db.drop(db.id),
    ]
    for write in writes:
        with pytest.raises(StoreError, match="no space left"):
            write()
        assert stored(db) == before
    full_disk = False
    db.upsert_session(agent_session(metadata={"n": 3}))
    assert db.get_session("s1").metadata == {"n": 3}
    assert run(run_ids(Awaitable(db))) == ["r"]


async def test_handles_on_one_store_share_its_data_and_its_file(tmp_path: Path) -> None:
    file = JsonFile(tmp_path / "dev.json")
    store = MemoryStore(persistence=file)
    sync, other = MemoryDocstore(store=store), AsyncMemoryDocstore(store=store)
    sync.upsert_session(agent_session())
    await other.upsert_run(run_of("r"), "s1")
    assert [one.run_id for one in sync.get_session("s1").runs] == ["r"]
    assert sync.id == other.id
    again = AsyncMemoryDocstore(load=file.load, save=file.save)
    assert [one.run_id for one in (await again.get_session("s1")).runs] == ["r"]


def test_two_stores_do_not_write_over_each_others_file(tmp_path: Path) -> None:
    path = tmp_path / "dev.json"
    file = JsonFile(path)
    for first, second in ((file, file), (JsonFile(path), JsonFile(path))):
        path.unlink(missing_ok=True)
        one, two = MemoryDocstore(persist=first), MemoryDocstore(persist=second)
        one.upsert_session(agent_session("mine"))
        with pytest.raises(StoreError, match="changed by another store"):
            two.upsert_session(agent_session("theirs"))
        assert two.get_session("theirs") is None
        one.upsert_session(agent_session("more"))
        kept = MemoryDocstore(persist=JsonFile(path)).get_sessions()
        assert sorted(session.session_id for session in kept) == ["mine", "more"]


def test_arguments_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    file = JsonFile(tmp_path / "dev.json")
    for options in ({"store": MemoryStore(), "persist": file}, {"load": file.load, "persist": file}):
        with pytest.raises(ValueError, match="give one of"):
            MemoryDocstore(**options)

    async def save(snapshot: Any) -> None:
        raise AssertionError("never called")

    with pytest.raises(TypeError, match="plain function"):
        AsyncMemoryDocstore(save=save)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="JsonFile"):
        MemoryDocstore(persist="dev.json")  # type: ignore[arg-type]
    for size in ("5", -1, 1.5, True):
        with pytest.raises(ValueError, match="cache_bytes"):
            MemoryDocstore(cache_bytes=size)  # type: ignore[arg-type]
    for limit in (None, -1, "5"):
        with pytest.raises(ValueError, match="limit"):
            MemoryDocstore().get_recent_sessions(limit=limit)


def test_writers_in_threads_leave_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "dev.json"
    db = MemoryDocstore(persist=JsonFile(path))
    threads = [
        threading.Thread(target=lambda n=n: [db.upsert_session(agent_session(f"s{n}-{m}")) for m in range(5)])
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(MemoryDocstore(persist=JsonFile(path)).get_sessions()) == 30


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "dev.json"
    db = MemoryDocstore(persist=JsonFile(path))
    db.upsert_session(agent_session())
    before = path.read_text()

    def fsync(number: int) -> None:
        raise OSError("I/O error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StoreError, match="I/O error"):
        db.upsert_session(agent_session("s2"))
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


# --- Cache ------------------------------------------------------------------------------------------------------------


def conversation(db: Any, session_id: str, size: int, runs: int = 2) -> None:
    db.upsert_session(agent_session(session_id))
    for number in range(runs):
        db.upsert_run(run_of(f"{session_id}-{number}", content="x" * (size // runs)), session_id)


def test_without_a_cache_nothing_is_kept() -> None:
    db = MemoryDocstore(cache_bytes=0)
    db.upsert_session(agent_session("empty"))
    conversation(db, "s1", 1000)
    for _ in range(2):
        assert len(db.get_session("s1").runs) == 2
        assert db.get_session("empty").runs == []
    stats = db.cache_stats
    assert (stats.entries, stats.bytes_held, stats.hits, stats.updates, stats.evictions) == (0, 0, 0, 0, 0)
    assert (stats.misses, stats.bytes_saved, stats.limit) == (2, 0, 0)


def test_the_cache_keeps_to_its_limit_and_drops_what_was_not_read_for_longest() -> None:
    db = MemoryDocstore(cache_bytes=7000)
    for name in ("a", "b", "c"):
        conversation(db, name, 2000)
        assert db.cache_stats.bytes_held <= 7000
    db.get_session("a")
    conversation(db, "d", 2000)
    stats = db.cache_stats
    assert stats.bytes_held <= 7000 and stats.evictions == 4 - stats.entries > 0
    misses = stats.misses
    db.get_session("a")
    assert db.cache_stats.misses == misses
    db.get_session("b")
    assert db.cache_stats.misses == misses + 1


def test_a_history_larger_than_the_cache_drives_out_no_other() -> None:
    db = MemoryDocstore(cache_bytes=5000)
    conversation(db, "small", 1000)
    conversation(db, "large", 20_000, runs=4)
    assert len(db.get_session("large").runs) == 4
    stats = db.cache_stats
    assert (stats.entries, stats.evictions) == (1, 1)
    db.get_session("small")
    assert db.cache_stats.hits == stats.hits + 1


async def test_a_cache_forgotten_between_two_writes_changes_nothing() -> None:
    store = MemoryStore()
    db, other = MemoryDocstore(store=store), MemoryDocstore(store=store, cache_bytes=0)
    conversation(db, "s1", 1000)
    other.upsert_run(run_of("s1-1", content="changed"), "s1")
    db.clear_cache()
    db.upsert_run(run_of("more"), "s1")
    for handle in (db, other):
        assert [(one.run_id, one.content[:7]) for one in handle.get_session("s1").runs] == [
            ("s1-0", "xxxxxxx"),
            ("s1-1", "changed"),
            ("more", "content"),
        ]


@ON_THE_WIRE
async def test_a_warm_turn_with_a_cache_moves_a_turn_and_without_one_the_history(
    open_metered: Any, open_another: Callable[..., Any]
) -> None:
    async with open_metered() as (db, meter):
        await seed_history(db, 200)
        await turn(db, 200)
        saved = db.cache_stats.bytes_saved
        meter.start()
        await turn(db, 201)
        warm, stats = meter.stop(), db.cache_stats
        db.raw._engine.histories._cache_bytes = 0
        db.raw._engine.histories.clear()
        await turn(db, 202)
        meter.start()
        await turn(db, 203)
        bare = meter.stop()
        assert db.cache_stats.entries == 0
    print(
        f"BUDGET warm turn over 200 runs of 4 KB: with cache {warm}; without {bare}; saved {stats.bytes_saved - saved}"
    )
    assert stats.bytes_saved - saved >= 200 * 4 * KB
    assert warm.requests <= bare.requests and warm.bytes <= 30 * KB < 200 * KB < bare.bytes

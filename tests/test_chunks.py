"""Bodies in chunks, on a store whose records are tiny: wherever a process ends or another comes between, a reader sees
the old value or the new, what heads refer to is there, and a sweep leaves nothing else.

The gateway's calls are struck one by one; time is moved by hand.
"""

from __future__ import annotations

import random
import tracemalloc
from collections import Counter
from collections.abc import Awaitable as Coroutine
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace as changed
from typing import Any

import pytest
from agno.db.schemas import UserMemory
from agno.db.schemas.evals import EvalRunRecord, EvalType
from agno.db.schemas.knowledge import KnowledgeRow

from agno_docstores import CorruptRecordError, DocstoreError, PayloadTooLargeError, SessionNotFoundError
from agno_docstores.chunks import CHECK, GRACE, LEASE, Collected, collect
from agno_docstores.codec import Json
from agno_docstores.conformance.plugin import Awaitable, close
from agno_docstores.conformance.sessions import agent_session, run_of
from agno_docstores.errors import Conflict
from agno_docstores.port import EVERYTHING, MANIFEST, Delete, Expect, Put, Ref, Span
from agno_docstores.schema import RUNS, SPANS
from agno_docstores.totals import add_children
from tests.faults import CRASHES, MOST_CALLS, TRANSIENT, Between, Crashed, Fault, replays

pytestmark = pytest.mark.cells("memory-sync", "memory-sync-standalone")

LIMIT = 500  # bytes of a record: a manifest and a reminder fit, little else does

Operation = Callable[[Any], Coroutine[Any]]


def text(seed: str, size: int = 1_500) -> str:
    """Text in which quotes, escapes and letters beyond ASCII are frequent."""
    return seed + "".join(random.Random(seed).choices('ab"\\\n\té€😀\x00', k=size))


def narrowed(raw: Any) -> Any:
    raw.store.item_limit = LIMIT
    return raw


def opened(cell: Any, storage: str, **options: Any) -> Any:
    return Awaitable(narrowed(cell.open(storage, **options)))


def kernel_of(db: Any) -> Any:
    return db.raw._engine.kernel


def at_time(db: Any, now: float) -> Any:
    db.io.now = lambda: now
    return db


async def every(db: Any, kind: str) -> list[Any]:
    """The records of a kind as the store has them."""
    return list((await db.raw._engine.driver.scan(Span(kind, EVERYTHING))).records)


async def account(db: Any) -> tuple[set[str], set[str], set[str]]:
    """The generations that heads name, those of which there are chunks, and those that there are reminders of. What a
    head names is there whole, and there is no chunk without a reminder."""
    stored: dict[str, int] = {}
    for chunk in await every(db, "chunks"):
        generation = chunk.ref.id.partition(".")[0]
        stored[generation] = stored.get(generation, 0) + 1
    reminded = {str(r.fields["target"]) for r in await every(db, "reminders") if r.fields["about"] == "chunks"}
    named = set()
    for kind in db.raw._engine.driver.kinds:
        for record in await every(db, kind):
            if MANIFEST in (record.body or {}):
                manifest = record.body[MANIFEST].value()
                named.add(manifest["generation"])
                assert stored[manifest["generation"]] == manifest["chunks"] > 1
    assert stored.keys() <= reminded
    return named, set(stored), reminded


async def sweep(db: Any, now: float) -> Collected:
    """What a sweep does about chunks: a look at each reminder that is due."""
    at_time(db, now)
    total = Collected()
    kernel = kernel_of(db)
    for reminder in await kernel.span(Span("reminders", "due", ("chunks",), high=int(now))):
        one = await collect(kernel, reminder)
        total = Collected(total.chunks + one.chunks, total.bytes + one.bytes)
    return total


async def swept(db: Any, now: float) -> None:
    """A sweep leaves what heads refer to and nothing else, and finds nothing more to do until the next look is due."""
    await sweep(db, now + GRACE + 1)
    named, stored, reminded = await account(db)
    assert named == stored == reminded
    assert await sweep(db, now + GRACE + 2) == Collected()
    due = [record.fields["due_at"] for record in await every(db, "reminders")]
    assert all(when > now + CHECK for when in due), "a head that has its chunks is looked at again much later"
    assert await sweep(db, now + GRACE + CHECK + 10) == Collected()
    assert await account(db) == (named, stored, reminded)


# --- Operations -------------------------------------------------------------------------------------------------------


async def prepared(db: Any) -> None:
    await db.upsert_session(agent_session(user_id="u", session_data={"x": text("old")}))
    await db.upsert_run(run_of("r0", status="COMPLETED", content=text("r0")), "s1", "u")
    await db.upsert_run(run_of("r1", status="COMPLETED", content="small"), "s1", "u")
    await db.upsert_user_memory(UserMemory(memory_id="m", memory=text("memory"), user_id="u"))
    await db.upsert_session(agent_session("small", user_id="u", session_data={"x": 1}))


async def state(db: Any) -> dict[str, Any]:
    sessions = {
        row["session_id"]: (row["session_data"], [run["run_id"] for run in row["runs"]])
        for row in (await db.get_sessions(deserialize=False))[0]
    }
    runs = {run["run_id"]: run["run_data"]["content"] for run in (await db.get_runs(deserialize=False))[0]}
    memories = {memory.memory_id: memory.memory for memory in await db.get_user_memories()}
    return {"sessions": sessions, "runs": runs, "memories": memories}


async def insert(db: Any) -> Any:
    return (await db.upsert_session(agent_session("new", user_id="u", session_data={"x": text("n")}))).session_data


async def overwrite(db: Any) -> Any:
    return (await db.upsert_session(agent_session(user_id="u", session_data={"x": text("new")}))).session_data


async def shrink(db: Any) -> Any:
    return (await db.upsert_session(agent_session(user_id="u", session_data={"x": 1}))).session_data


async def grow(db: Any) -> Any:
    return (await db.upsert_session(agent_session("small", user_id="u", session_data={"x": text("g")}))).session_data


async def new_run(db: Any) -> Any:
    await db.upsert_run(run_of("new", status="COMPLETED", content=text("new run")), "s1", "u")


async def overwritten_run(db: Any) -> Any:
    await db.upsert_run(run_of("r0", status="COMPLETED", content=text("other")), "s1", "u")


async def shrunk_run(db: Any) -> Any:
    await db.upsert_run(run_of("r0", status="COMPLETED", content="short"), "s1", "u")


async def deleted_run(db: Any) -> Any:
    await db.delete_run("r0")


async def deleted_memory(db: Any) -> Any:
    await db.delete_user_memory("m")


async def memories(db: Any) -> Any:
    batch = [UserMemory(memory_id=f"m{n}", memory=text(f"m{n}"), user_id="u") for n in range(2)]
    await db.upsert_memories(batch, preserve_updated_at=True)


async def delete(db: Any) -> Any:
    await db.delete_session("s1", user_id="u")


OPERATIONS: list[Operation] = [
    insert, overwrite, shrink, grow, new_run, overwritten_run, shrunk_run, deleted_run, deleted_memory, memories,
    delete,
]  # fmt: skip
every_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)


@every_operation
async def test_without_a_fault_nothing_is_left_for_a_sweep(cell: Any, storage: str, operation: Operation) -> None:
    db = opened(cell, storage)
    await prepared(db)
    before = await state(db)
    await operation(db)
    named, stored, reminded = await account(db)
    assert named == stored == reminded
    after = await state(db)
    assert after != before
    await swept(db, db.io.now())
    assert await state(db) == after == await state(opened(cell, storage))


@every_operation
async def test_a_process_that_ends_anywhere_leaves_the_old_value_or_the_new(
    cell: Any, runner: Any, operation: Operation
) -> None:
    """... and a sweep removes the rest, be the operation repeated before or not."""
    expected: dict[str, Any] = {}
    async for replay in replays(cell, ("none", *CRASHES), arrange=narrowed):
        db = replay.open()
        await prepared(db)
        before = await state(db)
        now = db.io.now()
        try:
            await replay.strike(db, operation)
            assert not replay.fault.struck
            expected = expected or await state(db)
        except Crashed:
            survivor = replay.open()
            between = await state(survivor)
            for part, value in between.items():
                for id, one in value.items():
                    old, new = before[part].get(id), expected[part].get(id)
                    assert one in (old, new) or operation is delete, f"{replay}: {part} {id}"
            await account(survivor)
            if replay.fault.at % 2:
                await swept(survivor, now)
                assert await state(survivor) == between
            await operation(survivor)
            assert await state(survivor) == expected, str(replay)
            await swept(survivor, now + 5 * CHECK)
            assert await state(replay.open()) == expected


@every_operation
async def test_passing_faults_are_not_noticed(cell: Any, runner: Any, operation: Operation) -> None:
    expected: dict[str, Any] = {}
    async for replay in replays(cell, ("none", *TRANSIENT), arrange=narrowed):
        db = replay.open()
        await prepared(db)
        await replay.strike(db, operation)
        found = await state(db)
        expected = expected or found
        assert found == expected == await state(replay.open()), str(replay)
        await swept(db, db.io.now())
        assert await state(db) == expected


async def test_a_sweep_that_ends_anywhere_can_be_repeated(cell: Any, runner: Any) -> None:
    async for replay in replays(cell, CRASHES, arrange=narrowed):
        db, other = replay.open(), replay.open()
        await prepared(db)
        db.io.hooks.append(Fault("crash before", 3))
        with pytest.raises(Crashed):
            await insert(db)
        db.io.hooks.clear()
        expected, now = await state(db), db.io.now()
        try:
            await replay.strike(other, lambda other, now=now: sweep(other, now + GRACE + 1))  # type: ignore[misc]
        except Crashed:
            assert await state(db) == expected
            await account(db)
        await swept(db, now)
        assert await state(replay.open()) == expected


async def test_a_sweep_tells_what_it_removed_and_waits_for_writers(cell: Any, storage: str) -> None:
    db = opened(cell, storage)
    value = {"x": text("x")}
    await db.upsert_session(agent_session(session_data=value))
    now = db.io.now()
    (head,) = await every(db, "sessions")
    manifest = head.body[MANIFEST].value()
    driver = db.raw._engine.driver
    await driver.commit([Delete(head.ref)], "behind our back")  # as the store's own expiry does
    assert await sweep(db, now + GRACE - 10) == Collected(), "its writer may be about to store the head"
    assert await sweep(db, now + GRACE + 1) == Collected(manifest["chunks"], manifest["size"])
    assert await account(db) == (set(), set(), set())


async def test_chunks_of_what_expires_go_after_it(cell: Any, storage: str) -> None:
    db = opened(cell, storage)
    kernel, now = kernel_of(db), db.io.now()
    ref, soon = Ref("memories", "m"), int(now) + 10 * GRACE
    await kernel.commit([Put(ref, {}, {"memory": Json.of(text("x"))}, Expect.ABSENT, soon)])
    assert await sweep(db, now + GRACE + 1) == Collected()
    (reminder,) = await every(db, "reminders")
    assert soon < reminder.fields["due_at"] <= soon + GRACE, "the next look is when it has expired"
    assert (await kernel.get(ref)).body == {"memory": Json.of(text("x"))}
    assert await sweep(db, soon + GRACE + 1) == Collected(), "it is for the store to remove what has expired"
    await kernel.driver.commit([Delete(ref)], "reaper")
    assert (await sweep(db, soon + 3 * GRACE)).chunks > 1
    assert (await every(db, "chunks"), await every(db, "reminders")) == ([], [])


async def test_no_domain_leaves_chunks_behind(cell: Any, storage: str) -> None:
    """Rows of every sort, large over large, and removed."""
    db = opened(cell, storage)
    for seed in ("first", "second"):
        await db.upsert_knowledge_content(KnowledgeRow(id="k", name="n", description=text(seed)))
        await db.upsert_learning("l", "fact", {"text": text(seed)}, user_id="u")
        await db.upsert_session(agent_session(session_data={"x": text(seed)}))
        await db.rename_session("s1", None, seed)
        await db.upsert_run(run_of("r", status="COMPLETED", content=text(seed)), "s1")
    await db.create_eval_run(
        EvalRunRecord(run_id="e", eval_type=EvalType.ACCURACY, eval_data={"x": text("e")}, name="n")
    )
    await db.rename_eval_run("e", "renamed")
    named, stored, reminded = await account(db)
    assert named == stored == reminded and len(named) == 5
    await db.delete_knowledge_content("k")
    await db.delete_learning("l")
    await db.delete_eval_runs(["e"])
    await db.delete_sessions(["s1"])
    assert await account(db) == (set(), set(), set())


# --- Others who come between ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [overwrite, shrink, delete], ids=lambda operation: operation.__name__)
async def test_a_reader_sees_no_half_of_what_is_overwritten_meanwhile(
    cell: Any, runner: Any, change: Operation
) -> None:
    for at in range(1, MOST_CALLS):
        with cell.storage() as name:
            db, other = opened(cell, name), opened(cell, name)
            await prepared(db)
            reader = opened(cell, name)
            hook = Between(at, lambda other=other: change(other))  # type: ignore[misc]
            reader.io.hooks.append(hook)
            found = await reader.get_session("s1")
            values = [{"x": text("old")}, {"x": text("new")}, {"x": 1}]
            assert found.session_data in values if found is not None else change is delete
            reader.io.hooks.clear()
            assert await state(reader) == await state(db)
        if not hook.done:
            break
    assert at > 3, "between the head and its chunks, too"


async def test_a_listing_sees_no_half_of_what_is_overwritten_meanwhile(cell: Any, runner: Any) -> None:
    for at in range(1, MOST_CALLS):
        with cell.storage() as name:
            db, other = opened(cell, name), opened(cell, name)
            await prepared(db)
            hook = Between(at, lambda other=other: overwritten_run(other))  # type: ignore[misc]
            db.raw.clear_cache()
            db.io.hooks.append(hook)
            rows, _ = await db.get_runs(session_id="s1", deserialize=False)
            contents = {row["run_id"]: row["run_data"]["content"] for row in rows}
            assert contents["r0"] in (text("r0"), text("other")) and contents["r1"] == "small"
        if not hook.done:
            break
    assert at > 3


@pytest.mark.parametrize("operation", [overwrite, overwritten_run, new_run], ids=lambda operation: operation.__name__)
@pytest.mark.parametrize("change", [overwrite, shrunk_run, delete], ids=lambda operation: operation.__name__)
async def test_two_writers_at_once(cell: Any, runner: Any, operation: Operation, change: Operation) -> None:
    """Whoever comes between: what is stored can be read, and of the chunks of the one that lost nothing is left."""
    for at in range(1, MOST_CALLS):
        with cell.storage() as name:
            db, other = opened(cell, name), opened(cell, name)
            await prepared(db)
            now = db.io.now()
            hook = Between(at, lambda other=other: change(other))  # type: ignore[misc]
            db.io.hooks.append(hook)
            try:
                await operation(db)
            except SessionNotFoundError:
                assert change is delete
            db.io.hooks.clear()
            named, stored, reminded = await account(db)
            assert named == stored == reminded, f"at call {at}"
            found = await state(opened(cell, name))
            assert found == await state(db)
            if change is not delete:
                overwritten = operation is overwrite or (change is overwrite and hook.done)
                assert (found["sessions"]["s1"][0] == {"x": text("new")}) is overwritten
            await swept(db, now)
            assert await state(opened(cell, name)) == found
        if not hook.done:
            break
    assert at > 3


async def test_a_run_that_comes_while_its_session_is_deleted_is_whole_or_gone(cell: Any, runner: Any) -> None:
    """Where run and history are two commits, a writer who has taken his revision may come at any time; where they are
    one, he has lost."""
    for at in range(1, MOST_CALLS):
        with cell.storage() as name:
            db, other = opened(cell, name), opened(cell, name)
            await prepared(db)
            fields = {"session_id": "s1", "run_index": 9, "revision": 9, "incarnation": "late"}
            late = Put(Ref("runs", "late", "s1", 9), fields, {"run_data": Json.of(text("late"))}, Expect.ABSENT)
            writes = [late]
            if other.raw._engine.driver.atomic:
                head = await kernel_of(other).get(Ref("histories", "s1"))
                writes.append(Put(head.ref, {**head.fields, "revision": 9}, {}, head.rev))

            async def comes(other: Any = other, writes: Any = writes) -> None:
                with suppress(Conflict):
                    await kernel_of(other).commit(writes)

            hook = Between(at, comes)
            db.io.hooks.append(hook)
            await delete(db)
            db.io.hooks.clear()
            await account(db)
            assert await kernel_of(db).get(late.ref) is None or hook.done
            await swept(db, db.io.now())
        if not hook.done:
            break
    assert at > 5


async def test_a_writer_who_is_too_slow_gives_up(cell: Any, storage: str) -> None:
    db = opened(cell, storage)
    await prepared(db)
    before, now = await state(db), db.io.now()

    async def hours_later() -> None:
        at_time(db, now + LEASE + 1)

    db.io.hooks.append(Between(2, hours_later))
    with pytest.raises(DocstoreError, match="took more than"):
        await kernel_of(db).commit([Put(Ref("memories", "slow"), {}, {"memory": Json.of(text("x"))})])
    db.io.hooks.clear()
    assert await state(db) == before
    await swept(db, now)


# --- What is wrong with it --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["missing", "changed", "manifest"])
async def test_a_body_that_is_not_all_there_is_an_error_never_a_part(cell: Any, storage: str, damage: str) -> None:
    db = opened(cell, storage)
    await prepared(db)
    driver = db.raw._engine.driver
    if damage == "manifest":
        (head,) = [r for r in await every(db, "memories") if r.ref.id == "m"]
        wrong = Put(head.ref, head.fields, {MANIFEST: Json.of({"generation": "g"})})
    else:
        chunk = next(r for r in await every(db, "chunks") if r.fields["owner"].startswith("4memories"))
        wrong = Put(chunk.ref, chunk.fields, {"slice": Json.of("xx")})
    await driver.commit([Delete(wrong.ref) if damage == "missing" else wrong], "t")
    with pytest.raises(CorruptRecordError) as caught:
        await db.get_user_memory("m")
    assert (caught.value.kind, caught.value.id) == ("memories", "m")
    assert (await db.get_session("s1")).session_data == {"x": text("old")}, "the others are not concerned"


async def test_chunks_that_are_seen_later_than_their_head_are_waited_for(
    cell: Any, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As with DynamoDB's `consistent_reads=False`: each piece is there, and a read of it may be answered from a place
    # where it is not yet, or, of a value that was overwritten, the head from where it is still the old one.
    db = opened(cell, storage)
    await prepared(db)
    old_head = await kernel_of(db).driver.get(Ref("memories", "m"))
    await db.upsert_user_memory(UserMemory(memory_id="m", memory=text("new"), user_id="u"))
    driver, seen = db.raw._engine.driver, Counter[str]()
    read = driver.get_many

    async def late(refs: Any) -> Any:
        found = list(await read(refs))
        for number, ref in enumerate(refs):
            seen[ref.kind] += 1
            if ref.kind == "chunks" and seen[ref.kind] <= 2:
                found[number] = None
            if ref == old_head.ref and seen[ref.kind] == 1:
                found[number] = old_head
        return found

    async def late_one(ref: Any) -> Any:
        return (await late([ref]))[0]

    monkeypatch.setattr(driver, "get_many", late)
    monkeypatch.setattr(driver, "get", late_one)
    memory = await db.get_user_memory("m")
    assert memory.memory == text("new") and seen["memories"] > 1 and seen["chunks"] > 2


async def test_what_is_over_the_limit_is_refused_before_anything_is_written(cell: Any, storage: str) -> None:
    db = opened(cell, storage, max_value_bytes=10_000)
    await prepared(db)
    before, calls = await state(db), sum(db.io.calls[name] for name in ("commit", "write_many"))
    euro = "€" * 3_500
    with pytest.raises(PayloadTooLargeError) as caught:
        await kernel_of(db).commit([Put(Ref("memories", "large"), {}, {"memory": Json.of(euro)})])
    error = caught.value
    assert (error.kind, error.id, error.size, error.limit) == ("memories", "large", 10_502, 10_000), "bytes, in UTF-8"
    with pytest.raises(PayloadTooLargeError):
        await db.upsert_session(agent_session(user_id="u", session_data={"x": euro}))
    with pytest.raises(PayloadTooLargeError):
        await db.upsert_memories([UserMemory(memory_id=f"n{n}", memory="x" * n) for n in (1, 15_000, 2)])
    assert sum(db.io.calls[name] for name in ("commit", "write_many")) == calls
    assert await state(db) == before
    for wrong in (0, -1, 1.5, "1"):
        with pytest.raises(ValueError, match="max_value_bytes"):
            cell.open(storage, max_value_bytes=wrong)


# --- What it costs ----------------------------------------------------------------------------------------------------


async def test_small_bodies_pay_nothing(cell: Any, storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    db = opened(cell, storage)
    db.raw.store.item_limit = 100_000
    monkeypatch.setattr(db.raw._engine.driver, "stored_bytes", None)
    kernel = kernel_of(db)
    monkeypatch.setattr(db.raw._engine.driver, "_check_size", lambda write: None)
    (rev,) = await kernel.commit([Put(Ref("memories", "m"), {"user_id": "u"}, {"memory": Json.of("x" * 20_000)})])
    await kernel.write_many([Put(Ref("memories", "n"), {}, {"memory": Json.of("y")})])
    assert [record is not None for record in await kernel.get_many([Ref("memories", "m"), Ref("memories", "n")])]
    await kernel.commit([Delete(Ref("memories", "m"), rev)])
    assert db.io.calls == {"commit": 2, "write_many": 1, "get_many": 1}


async def test_headers_and_deletions_fetch_no_chunks(cell: Any, storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    db = opened(cell, storage)
    await prepared(db)
    kernel, asked = kernel_of(db), []
    driver = db.raw._engine.driver
    get = driver._get

    def watched(refs: Any) -> Any:
        asked.extend(refs)
        return get(refs)

    await shrink(db)
    monkeypatch.setattr(driver, "_get", watched)
    spans = [Put(Ref("spans", "x", "t"), {"trace_id": "t", "start_time": "1"}, {"attributes": Json.of(text("x"))})]
    await add_children(kernel, Ref("traces", "t"), [changed(put, expect=Expect.ABSENT) for put in spans], ())
    assert len(await kernel.span(Span("runs", "order", ("s1",), body=False))) == 2
    assert [header.body for header in await kernel.headers([Ref("memories", "m")])] == [None]
    assert (await kernel.totals(SPANS, ["t"], ()))["t"] == (1,)
    await db.delete_user_memory("m", "u")
    await db.delete_session("s1", user_id="u")
    await kernel.purge_children("t", SPANS, SPANS.index("trace_started"))
    assert [ref for ref in asked if ref.kind == "chunks"] == []
    assert await account(db) == (set(), set(), set())


async def test_a_body_that_stays_as_it_is_keeps_its_chunks(cell: Any, storage: str) -> None:
    db = opened(cell, storage)
    await prepared(db)
    kernel = kernel_of(db)
    record = await kernel.get(Ref("memories", "m"))
    before, calls = await account(db), db.io.calls["write_many"]
    for agent in ("a", "b"):
        fields = {**record.fields, "agent_id": agent}
        (rev,) = await kernel.commit([Put(record.ref, fields, record.body, record.rev)])
        record = changed(record, rev=rev, fields=fields)
    assert (await account(db), db.io.calls["write_many"]) == (before, calls)
    assert (await kernel.get(record.ref)).fields["agent_id"] == "b"
    assert (await kernel.get(record.ref)).body == record.body


@pytest.mark.parametrize("value", ["x", "é", "😀", '"', "\\", "\x00", "\n"], ids=ascii)
async def test_every_character_fits(cell: Any, storage: str, value: str) -> None:
    db = opened(cell, storage)
    for size in (0, 1, 400, 5_000):
        written = {"x": value * size, "y": [value]}
        await db.upsert_session(agent_session(session_data=written, metadata={"z": value * size}))
        found = await opened(cell, storage).get_session("s1")
        assert (found.session_data, found.metadata) == (written, {"z": value * size})
    named, stored, reminded = await account(db)
    assert named == stored == reminded


async def test_memory_stays_within_three_times_the_value(cell: Any, storage: str) -> None:
    db = opened(cell, storage)
    db.raw.store.item_limit = 400_000
    noise = random.Random(1).randbytes(2_500_000).hex()
    kernel, ref = kernel_of(db), Ref("runs", "r", "s", 0)
    put = Put(ref, {"session_id": "s", "run_index": 0}, {"run_data": Json.of(noise)})
    kept = len(noise)  # the memory store itself keeps what it is given
    tracemalloc.start()
    try:
        await kernel.commit([put])
        writing = tracemalloc.get_traced_memory()[1] - kept
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        found = await kernel.get(ref)
        reading = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert found.body == put.body
    print(f"BUDGET memory for {len(noise)} bytes: {writing} beside what is stored, {reading} to read")
    assert max(writing, reading) <= 3 * len(noise)
    assert RUNS.body == ("run_data",)
    await close(db.raw)

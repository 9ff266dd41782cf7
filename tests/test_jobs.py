"""The job queue beyond the contract: workers that die, faults at each call, what a claim costs, jobs of AgentOS.

Time is a clock of the test's own, so that nothing waits for a grace to pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from agno.job_queue.store import InMemoryQueueStore

from agno_docstores import MemoryDocstore
from agno_docstores.conformance import jobs as conformance
from agno_docstores.conformance.jobs import STALE, claim, done, enqueue, job_of, status_of
from agno_docstores.conformance.plugin import Awaitable as Handle
from agno_docstores.conformance.plugin import close
from agno_docstores.domains.jobs import MOST_PATIENCE, PATIENCE
from agno_docstores.errors import DuplicateError, StoreUnavailableError
from agno_docstores.memory import MemoryStore
from tests.faults import Crashed, Fault, places
from tests.test_faults import CRASHES, MOST_CALLS, TRANSIENT
from tests.test_lifetimes import contents

#: Both ways to commit: what is replayed is the order of calls, which no store changes.
CELLS = pytest.mark.cells("memory-sync*")
GRACE = 60
T0 = 2_000_000_000

SINGLE = [
    test
    for name, test in vars(conformance).items()
    if name.startswith("test_") and test.__code__.co_varnames[: test.__code__.co_argcount] == ("db",)
]


@pytest.mark.parametrize("test", SINGLE, ids=lambda test: test.__name__)
async def test_agnos_own_queue_passes_the_same_tests(test: Callable[[Any], Awaitable[None]]) -> None:
    await test(InMemoryQueueStore())


@dataclass
class Clock:
    now: float = T0

    def on(self, raw: Any) -> Any:
        raw.io.now = lambda: self.now
        return raw


async def kept(db: Any) -> set[str]:
    """The kinds of which something of the queue is stored."""
    return {kind for kind, _ in await contents(db.raw) if kind in ("jobs", "jobs_claims", "turns")}


# --- Workers that die -------------------------------------------------------------------------------------------------


@dataclass
class Ledger:
    """Who runs what, by what the workers say. `order`: of each session, its jobs in the order of acceptance."""

    order: dict[str, list[str]] = field(default_factory=dict)
    running: dict[str, str] = field(default_factory=dict)
    started: Counter[str] = field(default_factory=Counter)
    ended: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def starts(self, job: dict[str, Any], worker: str) -> None:
        with self.lock:
            id, line = job["id"], self.order.get(job["session_id"], [])
            if id in self.running:
                self.faults.append(f"{worker} starts {id}, which {self.running[id]} runs")
            if id in self.ended:
                self.faults.append(f"{id} starts after it had ended")
            if id in line:
                place = line.index(id)
                if any(other in self.running for other in line):
                    self.faults.append(f"{id} starts while its session is busy")
                if any(self.started[later] for later in line[place + 1 :]):
                    self.faults.append(f"{id} starts after one behind it")
                if any(not self.started[earlier] for earlier in line[:place]):
                    self.faults.append(f"{id} starts before one ahead of it")
            self.running[id] = worker
            self.started[id] += 1

    def stops(self, id: str) -> None:
        with self.lock:
            self.running.pop(id, None)


@dataclass
class Worker:
    """Claims and runs jobs until there are none, and dies now and then: at work, or at any call of the store. Then
    another takes its place, who knows of nothing."""

    db: Any
    ledger: Ledger
    random: random.Random
    deaths: int = 0

    @property
    def name(self) -> str:
        return f"{id(self)}-{self.deaths}"

    def before(self, operation: str) -> None:
        if self.random.random() < 0.01:
            raise Crashed

    after = before

    async def work(self) -> None:
        job: dict[str, Any] | None = None
        while True:
            try:
                job = await self.db.claim_job(self.name, GRACE)
                if job is None:
                    return
                self.ledger.starts(job, self.name)
                if self.random.random() < 0.1:
                    raise Crashed
                self.ledger.stops(job["id"])
                if self.random.random() < 0.1:
                    await self.db.retry_or_fail_job(job["id"], self.name, job["attempt"], "again", 0)
                elif await self.db.complete_job(job["id"], self.name, job["attempt"], "completed"):
                    self.ledger.ended.add(job["id"])
            except Crashed:
                self.deaths += 1
                if job is not None:
                    self.ledger.stops(job["id"])


@pytest.mark.cells("memory-sync*", "mongo-sync-standalone", "mongo-async-secantus", "dynamo-sync-local",
                   "firestore-async-embedded")  # fmt: skip
async def test_jobs_of_workers_that_die_are_neither_lost_nor_run_twice_at_a_time(cell: Any, runner: Any) -> None:
    total = 1000 if cell.store == "memory" else 24
    clock, ledger = Clock(), Ledger()
    with cell.storage() as storage:
        raws = [clock.on(cell.open(storage)) for _ in range(8)]
        first = Handle(raws[0])
        for number in range(total):
            # Every second one takes turns with others of its session.
            id, turn, session_id = f"j{number:04}", number % 2 == 0, f"s{number % (total // 12)}"
            await enqueue(
                first, id, turn=turn, session_id=session_id, max_attempts=1000, created_at=T0, available_at=T0
            )
            if turn:
                ledger.order.setdefault(session_id, []).append(id)
        workers = [Worker(Handle(raw), ledger, random.Random(number)) for number, raw in enumerate(raws)]
        for worker in workers:
            worker.db.io.hooks.append(worker)
        for _ in range(60):
            if cell.mode == "sync":
                with ThreadPoolExecutor(len(workers)) as pool:
                    list(pool.map(lambda worker: asyncio.run(worker.work()), workers))
            else:
                await asyncio.gather(*(worker.work() for worker in workers))
            assert ledger.faults == []
            # Nobody is at work now; whoever died has been silent for long enough.
            clock.now += MOST_PATIENCE + GRACE
            survivor = Handle(clock.on(cell.open(storage)))
            left = (await survivor.list_jobs(["queued", "running"], limit=1, raise_on_error=True))[1]
            if left:
                await close(survivor.raw)
                continue
            assert await survivor.queue_stats() == {"counts": {"completed": total}, "oldest_queued_age_seconds": None}
            assert ledger.started.keys() == {f"j{number:04}" for number in range(total)}
            assert sum(worker.deaths for worker in workers) > total // 20, "they were to die"
            assert await survivor.cleanup_jobs(STALE) == total and await kept(survivor) == set()
            await close(survivor.raw)
            break
        else:
            raise AssertionError("jobs are left")
        for raw in raws:
            await close(raw)


# --- Faults -----------------------------------------------------------------------------------------------------------


async def prepared(db: Any) -> None:
    """Of one session, a job that runs and three that wait for it; of another, one that failed, and one that waits."""
    await enqueue(db, "a", "b", "c", "d", turn=True, created_at=9, available_at=9, max_attempts=9)
    await enqueue(db, "x", "y", turn=True, session_id="s2", created_at=5, available_at=5, max_attempts=9)
    assert [await claim(db), await claim(db)] == ["x", "a"]
    await done(db, "x", "failed")


async def state(db: Any) -> dict[str, Any]:
    rows, _ = await db.list_jobs(limit=100, raise_on_error=True)
    return {row["id"]: row for row in rows}


async def submission(db: Any) -> Any:
    new = job_of("new", turn=True, idempotency_key="k", user_id="u", created_at=9, available_at=9, max_attempts=9)
    return await db.enqueue_job(new)


async def claiming(db: Any) -> Any:
    return await db.claim_job("w")


async def completion(db: Any) -> Any:
    return await db.complete_job("a", "w", 1, "completed"), await claim(db), await claim(db)


async def cancellation(db: Any) -> Any:
    return await db.cancel_job("b"), await db.session_blocker("c")


async def requeueing(db: Any) -> Any:
    return await db.requeue_job("x"), await db.session_blocker("x")


async def pause(db: Any) -> Any:
    return await db.complete_job("a", "w", 1, "paused"), await db.continue_job("a", {"n": 1}), await claim(db)


async def cleaning(db: Any) -> Any:
    return await db.cleanup_jobs(STALE)


OPERATIONS: list[Callable[[Any], Awaitable[Any]]] = [
    submission, claiming, completion, cancellation, requeueing, pause, cleaning,
]  # fmt: skip


@CELLS
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
async def test_passing_faults_are_not_noticed(cell: Any, runner: Any, operation: Any) -> None:
    expected: tuple[Any, dict[str, Any]] | None = None
    for kind in ("none", *TRANSIENT):
        for at in places(cell, kind, MOST_CALLS):
            fault = Fault(kind, at)
            with cell.storage() as name:
                db = Handle(Clock().on(cell.open(name)))
                await prepared(db)
                db.io.hooks.append(fault)
                answer = await operation(db)
                db.io.hooks.clear()
                found = (answer, await state(db))
                await close(db.raw)
            expected = expected or found
            if not fault.struck:
                break
            assert found == expected, f"{kind} at call {at}"
        else:
            raise AssertionError(f"more than {MOST_CALLS} calls")


@CELLS
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
async def test_after_a_crash_at_any_call_every_job_has_its_turn(cell: Any, runner: Any, operation: Any) -> None:
    """Another process repeats what was asked, and then works through the queue: in order, one of a session at a time,
    and in the end nothing is left."""
    for kind in ("none", *CRASHES):
        for at in places(cell, kind, MOST_CALLS):
            fault, clock = Fault(kind, at), Clock()
            with cell.storage() as name:
                db = Handle(clock.on(cell.open(name)))
                await prepared(db)
                db.io.hooks.append(fault)
                with contextlib.suppress(Crashed):
                    await operation(db)
                db.io.hooks.clear()
                survivor = Handle(clock.on(cell.open(name)))
                await operation(survivor)
                for job in (await state(survivor)).values():
                    if job["status"] == "paused":
                        await survivor.continue_job(job["id"], {})
                await worked_through(survivor, clock, f"{kind} at call {at}")
                await close(survivor.raw)
                await close(db.raw)
            if not fault.struck:
                break
        else:
            raise AssertionError(f"more than {MOST_CALLS} calls")


async def worked_through(db: Any, clock: Clock, where: str) -> None:
    """Work until nothing is left; nobody else does."""
    ran: dict[str, list[int]] = {}
    live: set[str] = {job["id"] for job in (await state(db)).values() if job["status"] in ("queued", "running")}
    for _ in range(20):
        clock.now += MOST_PATIENCE + GRACE
        for job in await db.sweep_exhausted_jobs(GRACE):
            assert await db.acquire_sweep(job["id"], "last", GRACE), where
            assert await db.settle_swept_job(job["id"], "last", "failed"), where
            live.discard(job["id"])
        while job := await db.claim_job("last", GRACE):
            ran.setdefault(job["session_id"], []).append(job["payload"]["session_seq"])
            # Whoever else is let in while it runs, was let in too early.
            other = await db.claim_job("other", GRACE)
            assert other is None or other["session_id"] != job["session_id"], where
            for one in (job, other):
                if one is not None:
                    live.discard(one["id"])
                    assert await db.complete_job(one["id"], one["locked_by"], one["attempt"], "completed"), where
            if other is not None:
                ran.setdefault(other["session_id"], []).append(other["payload"]["session_seq"])
        if not live:
            break
    assert not live, f"{where}: {live} never ran"
    assert all(numbers == sorted(set(numbers)) for numbers in ran.values()), f"{where}: {ran}"
    await db.cleanup_jobs(STALE)
    assert await kept(db) == set(), where


# --- What a claim costs, and sees -------------------------------------------------------------------------------------


@pytest.mark.parametrize("atomic", [True, False])
async def test_a_claim_costs_the_same_whatever_waits(atomic: bool) -> None:
    clock = Clock()
    db = Handle(clock.on(MemoryDocstore(store=MemoryStore(atomic=atomic))))

    async def cost(turn: bool) -> Counter[str]:
        await enqueue(db, "mine", turn=turn, created_at=T0, available_at=T0, session_id="mine")
        before = Counter(db.io.calls)
        assert await claim(db) == "mine"
        spent = Counter(db.io.calls) - before
        await done(db, "mine")
        assert await db.cleanup_jobs(STALE) == 1
        return spent

    alone = await cost(False), await cost(True)
    assert alone == (Counter(scan=2, commit=1), Counter(scan=2, get=1, commit=2))
    early = {"created_at": T0 - 9, "available_at": T0 - 9}
    await enqueue(db, *(f"turn{n}" for n in range(60)), turn=True, **early)
    assert await claim(db) == "turn0"
    await enqueue(db, *(f"elsewhere{n}" for n in range(60)), deployment_id="d", **early)
    await enqueue(db, *(f"later{n}" for n in range(60)), **{**early, "available_at": T0 + 9})
    held = {"status": "running", "locked_by": "x", "locked_at": T0, "attempt": 1}
    await enqueue(db, *(f"held{n}" for n in range(60)), **held, **early)
    assert (await cost(False), await cost(True)) == alone
    # Some of those that wait for their turn look whether it has come, and then not again for a while.
    clock.now += PATIENCE
    assert await claim(db, deployment_id="e") == "later0"
    spent = Counter(db.io.calls)
    assert await claim(db) == "later1"
    assert Counter(db.io.calls) - spent == alone[0]


async def test_what_an_index_shows_late_is_claimed_by_one_and_not_when_it_has_ended() -> None:
    store, clock = MemoryStore(), Clock()
    db, other = (Handle(clock.on(MemoryDocstore(store=store))) for _ in range(2))
    await enqueue(db, "a", "b", available_at=T0 - 9)
    await enqueue(db, "c", "d", turn=True, available_at=T0 - 9)
    clock.now += PATIENCE
    store.lag_indexes()
    assert {await claim(db) for _ in range(4)} == {"a", "b", "c", None}
    assert await claim(other) is None
    for id in ("a", "b", "c"):
        await done(db, id)
    assert await claim(other) is None
    store.catch_up()
    assert await claim(other) == "d"
    assert [await status_of(other, id) for id in "abcd"] == ["completed"] * 3 + ["running"]


async def test_a_call_that_is_lost_is_made_up_for_by_looking() -> None:
    """Whoever ends a job calls the next one of its session; if that fails, the job has ended all the same."""
    clock = Clock()
    db = Handle(clock.on(MemoryDocstore()))
    await enqueue(db, "a", "b", "c", turn=True, created_at=T0, available_at=T0)
    assert await claim(db) == "a"

    class Outage:
        commits = 0

        def before(self, operation: str) -> None:
            self.commits += operation == "commit"
            if self.commits > 1:
                raise StoreUnavailableError(operation, "test", "unreachable", retryable=False)

        def after(self, operation: str) -> None:
            pass

    db.io.hooks.append(Outage())
    assert await db.complete_job("a", "w", 1, "completed")
    db.io.hooks.clear()
    assert await claim(db) is None and await db.session_blocker("b") is None
    clock.now += PATIENCE
    assert await claim(db) == "b" and await claim(db) is None


async def test_looking_for_work_that_fails_is_no_empty_queue() -> None:
    db = Handle(MemoryDocstore())
    await enqueue(db, "a")

    class Outage:
        def before(self, operation: str) -> None:
            raise StoreUnavailableError(operation, "test", "unreachable", retryable=False)

        def after(self, operation: str) -> None:
            pass

    db.io.hooks.append(Outage())
    for call in (
        db.claim_job("w"), db.sweep_exhausted_jobs(), db.enqueue_job(job_of("b")), db.continue_job("a", {}),
        db.get_job("a", strict=True), db.list_jobs(raise_on_error=True), db.session_blocker("a"),
    ):  # fmt: skip
        with pytest.raises(StoreUnavailableError):
            await call
    assert await db.get_job("a") is None and await db.list_jobs() == ([], 0) and await db.count_queued_jobs() == 0
    assert await db.heartbeat_jobs("w", ["a"]) == 0 and not await db.complete_job("a", "w", 1, "completed")
    assert not await db.cancel_job("a") and await db.retry_or_fail_job("a", "w", 1, "e") is None
    db.io.hooks.clear()
    assert await claim(db) == "a"


async def test_what_cannot_be_a_job_is_refused_and_leaves_nothing() -> None:
    db = Handle(MemoryDocstore())
    for wrong in ({"id": ""}, {"id": None}, {"payload": {1, 2}}, {"max_attempts": None}, {"colour": "red"}):
        with pytest.raises((ValueError, TypeError)):
            await db.enqueue_job({**job_of("a"), **wrong})
    await enqueue(db, "a", turn=True)
    with pytest.raises(DuplicateError):
        await db.enqueue_job(job_of("a", turn=True, session_id="s2"))
    with pytest.raises(DuplicateError):
        await db.enqueue_job(job_of("a", turn=True))
    with pytest.raises(ValueError, match="queued"):
        await db.complete_job("a", "w", 1, "queued")
    assert await claim(db) == "a"
    await done(db, "a")
    assert await db.cleanup_jobs(STALE) == 1 and await kept(db) == set()


async def test_jobs_of_a_user_go_with_him_and_give_way_to_others() -> None:
    clock = Clock()
    db = Handle(clock.on(MemoryDocstore()))
    await enqueue(db, "a", "b", turn=True, user_id="u", idempotency_key=None)
    await enqueue(db, "keyed", user_id="u", idempotency_key="k")
    await enqueue(db, "c", turn=True, user_id="v")
    await enqueue(db, "e", turn=True, session_id="s2", user_id="u")
    assert (await db.purge_user("u", dry_run=True)).removed["jobs"] == 4
    assert (await db.purge_user("u")).removed["jobs"] == 4
    clock.now += MOST_PATIENCE
    assert await claim(db) == "c" and await claim(db) is None
    await done(db, "c")
    assert await kept(db) == {"jobs"} and await db.cleanup_jobs(STALE) == 1 and await kept(db) == set()

"""The job queue beyond the contract: workers that die, faults at each call, what a claim costs, jobs of AgentOS.

Time is a clock of the test's own, so that nothing waits for a grace to pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import httpx
import pytest
from agno.agent import Agent
from agno.job_queue import QueueConfig
from agno.job_queue.store import InMemoryQueueStore
from agno.os import AgentOS
from agno.os.job_queue import QueueWorker
from agno.tools import tool

from agno_docstores import AsyncMemoryDocstore, MemoryDocstore
from agno_docstores.conformance import jobs as conformance
from agno_docstores.conformance.agentos import quiet  # noqa: F401 - a fixture
from agno_docstores.conformance.jobs import STALE, claim, done, enqueue, job_of, status_of
from agno_docstores.conformance.plugin import Awaitable as Handle
from agno_docstores.conformance.plugin import close
from agno_docstores.conformance.scripted import ScriptedModel
from agno_docstores.domains.jobs import PATIENCE, Jobs
from agno_docstores.errors import DuplicateError, StoreUnavailableError
from agno_docstores.memory import MemoryStore
from tests.faults import CRASHES, Crashed, replays, unnoticed
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
        sweep = True
        while True:
            try:
                if sweep:
                    assert await self.db.sweep_exhausted_jobs(GRACE) == []
                    sweep = False
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


@pytest.mark.cells("memory-sync*", "mongo-sync-standalone", "mongo-async-secantus", "dynamo-threads-local",
                   "firestore-async-embedded")  # fmt: skip
async def test_jobs_of_workers_that_die_are_neither_lost_nor_run_twice_at_a_time(cell: Any, runner: Any) -> None:
    total, wave = (1000, 200) if cell.store == "memory" else (24, 24) if cell.store != "dynamo" else (12, 12)
    clock, ledger = Clock(), Ledger()
    with cell.storage() as storage:
        raws = [clock.on(cell.open(storage)) for _ in range(8)]
        first, accepted = Handle(clock.on(cell.open(storage))), 0
        workers = [Worker(Handle(raw), ledger, random.Random(number)) for number, raw in enumerate(raws)]
        for worker in workers:
            worker.db.io.hooks.append(worker)
        for _ in range(60):
            for number in range(accepted, min(accepted + wave, total)):
                # Every second one takes turns with others of its session.
                id, turn, session_id = f"j{number:04}", number % 2 == 0, f"s{number % (total // 12)}"
                job = job_of(id, turn=turn, session_id=session_id, max_attempts=1000, created_at=T0, available_at=T0)
                assert (await first.enqueue_job(job))["accepted"]
                if turn:
                    ledger.order.setdefault(session_id, []).append(id)
            accepted = min(accepted + wave, total)
            if cell.mode == "sync":
                with ThreadPoolExecutor(len(workers)) as pool:
                    list(pool.map(lambda worker: asyncio.run(worker.work()), workers))
            else:
                await asyncio.gather(*(worker.work() for worker in workers))
            assert ledger.faults == []
            # Nobody is at work now; whoever died has been silent for long enough.
            clock.now += PATIENCE + GRACE
            left = (await first.list_jobs(["queued", "running"], limit=1, raise_on_error=True))[1]
            if left or accepted < total:
                continue
            assert await first.queue_stats() == {"counts": {"completed": total}, "oldest_queued_age_seconds": None}
            assert ledger.started.keys() == {f"j{number:04}" for number in range(total)}
            assert sum(worker.deaths for worker in workers) > total // 20, "they were to die"
            assert await first.cleanup_jobs(STALE) == total and await kept(first) == set()
            break
        else:
            raise AssertionError("jobs are left")
        for raw in (*raws, first.raw):
            await close(raw)


# --- Faults -----------------------------------------------------------------------------------------------------------


async def prepared(db: Any) -> None:
    """Of one session, a job that runs and three that wait for it; of another, one that failed, and one that waits; of
    a third, three that wait, of which the first and the last are a user's."""
    await enqueue(db, "a", "b", "c", "d", turn=True, created_at=9, available_at=9, max_attempts=9)
    await enqueue(db, "x", "y", turn=True, session_id="s2", created_at=5, available_at=5, max_attempts=9)
    for id, user in (("p", "u"), ("q", None), ("r", "u")):
        await enqueue(db, id, turn=True, session_id="s3", user_id=user, created_at=99, available_at=5, max_attempts=9)
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


async def purging(db: Any) -> Any:
    await db.purge_user("u")
    return await db.session_blocker("q")


OPERATIONS: list[Callable[[Any], Awaitable[Any]]] = [
    submission, claiming, completion, cancellation, requeueing, pause, cleaning, purging,
]  # fmt: skip


@CELLS
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
async def test_passing_faults_are_not_noticed(cell: Any, runner: Any, operation: Any) -> None:
    await unnoticed(cell, operation, prepared, state, arrange=Clock().on)


@CELLS
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
async def test_after_a_crash_at_any_call_every_job_has_its_turn(cell: Any, runner: Any, operation: Any) -> None:
    """Another process repeats what was asked, and then works through the queue: in order, one of a session at a time,
    and in the end nothing is left."""
    clock = Clock()
    async for replay in replays(cell, ("none", *CRASHES), arrange=clock.on):
        clock.now = T0
        db, survivor = replay.open(), replay.open()
        await prepared(db)
        with contextlib.suppress(Crashed):
            await replay.strike(db, operation)
        await operation(survivor)
        for job in (await state(survivor)).values():
            if job["status"] == "paused":
                await survivor.continue_job(job["id"], {})
        await worked_through(survivor, clock, str(replay))


async def worked_through(db: Any, clock: Clock, where: str) -> None:
    """Work until nothing is left; nobody else does."""
    ran: dict[str, list[int]] = {}
    live: set[str] = {job["id"] for job in (await state(db)).values() if job["status"] in ("queued", "running")}
    for _ in range(20):
        clock.now += PATIENCE + GRACE
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


# --- One in the middle of another -------------------------------------------------------------------------------------


@dataclass
class Interloper:
    """Has another do something whole before the n-th call of whoever this hook is on."""

    act: Callable[[], Any]
    at: int
    count: int = 0

    def before(self, operation: str) -> None:
        self.count += 1
        if self.count == self.at:
            self.act()

    def after(self, operation: str) -> None:
        pass


def ends_and_requeues(db: Any, clock: Clock) -> None:
    """Whoever is running fails, is queued again and claimed, or others are."""
    for job in db.list_jobs("running")[0]:
        db.complete_job(job["id"], job["locked_by"], job["attempt"], "failed")
    for job in db.list_jobs("failed", sort_order="asc")[0]:
        db.requeue_job(job["id"])
        db.claim_job("other")


def requeues_and_ends(db: Any, clock: Clock) -> None:
    """A failed job is queued again, and all run to their end; the last goes on running."""
    for job in db.list_jobs("failed")[0]:
        db.requeue_job(job["id"])
    while job := db.claim_job("other"):
        if db.count_queued_jobs() == 0:
            return
        db.complete_job(job["id"], "other", job["attempt"], "completed")


def cancels_and_requeues(db: Any, clock: Clock) -> None:
    """What waits is cancelled, comes back in another order, and is claimed."""
    for job in db.list_jobs("queued", sort_order="asc")[0]:
        db.cancel_job(job["id"])
    for job in db.list_jobs("cancelled")[0]:
        db.requeue_job(job["id"])
    db.claim_job("other")


def submits(db: Any, clock: Clock) -> None:
    """Another job comes, and looks whether its turn has come while the one before it is not stored yet."""
    db.enqueue_job(job_of("new", turn=True, created_at=9, available_at=9, max_attempts=9))
    clock.now += PATIENCE
    db.claim_job("other", 999)


def requeues_and_submits(db: Any, clock: Clock) -> None:
    """A failed job is queued again and claimed, and another comes behind it."""
    for job in db.list_jobs("failed")[0]:
        db.requeue_job(job["id"])
    db.claim_job("other")
    db.enqueue_job(job_of("new", turn=True, created_at=9, available_at=9, max_attempts=9))


@pytest.mark.parametrize("atomic", [True, False])
@pytest.mark.parametrize(
    "act", [requeues_and_submits, ends_and_requeues, requeues_and_ends, cancels_and_requeues, submits]
)
@pytest.mark.parametrize(
    "operation",
    [
        lambda db: db.complete_job("a", "w", 1, "failed"),
        lambda db: db.requeue_job("z"),
        lambda db: db.cancel_job("b"),
        lambda db: db.claim_job("w2"),
        lambda db: db.enqueue_job(job_of("late", turn=True, created_at=9, available_at=9, max_attempts=9)),
    ],
    ids=["complete", "requeue", "cancel", "claim", "enqueue"],
)
def test_what_others_do_in_between_lets_no_two_jobs_of_a_session_run(operation: Any, act: Any, atomic: bool) -> None:
    for ids, running in itertools.product((("z",), ("z", "a"), ("z", "a", "b", "c")), (True, False)):
        for at in count(1):
            store, clock = MemoryStore(atomic=atomic), Clock()
            db, other = (clock.on(MemoryDocstore(store=store)) for _ in range(2))
            for id in ids:
                db.enqueue_job(job_of(id, turn=True, created_at=9, available_at=9, max_attempts=9))
            job = db.claim_job("w")
            assert job["id"] == "z" and db.complete_job("z", "w", 1, "failed")
            if running and "a" in ids:
                assert db.claim_job("w")["id"] == "a"
            interloper = Interloper(partial(act, other, clock), at)
            db.io.hooks.append(interloper)
            operation(db)
            db.io.hooks.clear()
            assert db.enqueue_job(job_of("last", turn=True, created_at=9, available_at=9))["accepted"]
            # None is lost: one after the other they come to their end.
            while other.count_queued_jobs() or other.list_jobs("running")[1]:
                for patience in (0, PATIENCE):
                    clock.now += patience
                    other.claim_job("other", 999)
                    busy = other.list_jobs("running", raise_on_error=True)[0]
                    assert len(busy) <= 1, f"{[one['id'] for one in busy]} run, {act.__name__} before call {at}"
                assert busy, f"nothing runs, {act.__name__} before call {at}"
                assert other.complete_job(busy[0]["id"], busy[0]["locked_by"], busy[0]["attempt"], "completed")
            if interloper.count < at:
                break


@dataclass
class Crowd:
    """Some who do this and that with the jobs of one session, each call of theirs in the midst of those of others."""

    seed: int
    atomic: bool
    clock: Clock = field(default_factory=Clock)
    running: set[str] = field(default_factory=set)
    accepted: int = 0

    def __post_init__(self) -> None:
        self.random, self.store = random.Random(self.seed), MemoryStore(atomic=self.atomic)

    def open(self) -> AsyncMemoryDocstore:
        db = self.clock.on(AsyncMemoryDocstore(store=self.store))
        driver = db._engine.driver
        for name in ("get", "commit", "scan"):
            setattr(driver, name, self._interrupted(getattr(driver, name)))
        db.io.sleep, db.io.jitter = self._others_go_first, self.random.random
        return db  # type: ignore[no-any-return]

    def _interrupted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        async def interrupted(*arguments: Any) -> Any:
            await self._others_go_first()
            try:
                return await call(*arguments)
            finally:
                await self._others_go_first()

        return interrupted

    async def _others_go_first(self, _: float = 0) -> None:
        for _ in range(self.random.choice((0, 0, 0, 0, 1, 2, 300))):  # now and then all that they are about to do
            await asyncio.sleep(0)

    async def enqueue(self, db: Any) -> None:
        self.accepted += 1
        user_id = self.random.choice(["u", None])
        await db.enqueue_job(job_of(f"j{self.accepted}", turn=True, user_id=user_id, available_at=9, max_attempts=99))

    async def work(self, db: Any, worker: str) -> None:
        job = await db.claim_job(worker, 9999)
        if job is None:
            return
        assert not self.running, f"{job['id']} runs at once with {self.running}"
        self.running.add(job["id"])
        await self._others_go_first()
        self.running.clear()
        status = self.random.choice(["completed", "failed", "paused", "again"])
        if status == "again":
            await db.retry_or_fail_job(job["id"], worker, job["attempt"], "again", 0)
        elif await db.complete_job(job["id"], worker, job["attempt"], status) and status == "paused":
            await db.continue_job(job["id"], {})

    async def act(self, worker: str) -> None:
        db = self.open()
        for _ in range(4):
            id = f"j{self.random.randrange(1, self.accepted + 2)}"
            what = self.random.choice(["enqueue", "enqueue", "work", "work", "cancel", "requeue", "purge", "clean"])
            if what == "enqueue":
                await self.enqueue(db)
            elif what == "work":
                await self.work(db, worker)
            elif what == "cancel":
                await db.cancel_job(id)
            elif what == "requeue":
                await db.requeue_job(id)
            elif what == "purge" and self.random.random() < 0.2:
                await db.purge_user("u")
            elif what == "clean":
                await db.cleanup_jobs(STALE)


@pytest.mark.parametrize("atomic", [True, False])
async def test_whatever_many_do_at_once_no_job_is_forgotten_and_no_two_run(atomic: bool) -> None:
    """Nobody dies, so no sweep has to make up for anything."""
    for seed in range(60):
        crowd = Crowd(seed, atomic)
        await crowd.enqueue(crowd.open())
        await asyncio.gather(*(crowd.act(f"w{number}") for number in range(4)))
        db = crowd.open()
        crowd.clock.now += PATIENCE
        while job := await db.claim_job("last", 9999):
            assert await db.claim_job("other", 9999) is None, f"two run, {seed=}"
            assert await db.complete_job(job["id"], "last", job["attempt"], "completed")
        assert await db.list_jobs(["queued", "running", "paused"], raise_on_error=True) == ([], 0), f"{seed=}"


# --- What a claim costs, and sees -------------------------------------------------------------------------------------


async def spent(db: Any, call: Callable[[], Awaitable[Any]]) -> Counter[str]:
    """The requests that a call makes."""
    before = Counter(db.io.calls)
    await call()
    return Counter(db.io.calls) - before


@pytest.mark.parametrize("atomic", [True, False])
async def test_a_claim_costs_the_same_whatever_waits(atomic: bool) -> None:
    clock = Clock()
    db = Handle(clock.on(MemoryDocstore(store=MemoryStore(atomic=atomic))))

    async def cost(turn: bool) -> Counter[str]:
        await enqueue(db, "mine", turn=turn, created_at=T0, available_at=T0, session_id="mine")

        async def mine() -> None:
            assert await claim(db, "mine") == "mine"

        requests = await spent(db, mine)
        await done(db, "mine", worker="mine")
        assert await db.cleanup_jobs(STALE) == 1
        return requests

    alone = await cost(False), await cost(True)
    assert alone == (Counter(scan=2, get=1, commit=1), Counter(scan=2, get=2, commit=1))
    early = {"created_at": T0 - 9, "available_at": T0 - 9}
    await enqueue(db, *(f"turn{n}" for n in range(60)), turn=True, **early)
    assert await claim(db) == "turn0"
    await enqueue(db, *(f"elsewhere{n}" for n in range(60)), deployment_id="d", **early)
    await enqueue(db, *(f"later{n}" for n in range(60)), **{**early, "available_at": T0 + 9})
    held = {"status": "running", "locked_by": "x", "locked_at": T0, "attempt": 1}
    await enqueue(db, *(f"held{n}" for n in range(60)), **held, **early)
    assert (await cost(False), await cost(True)) == alone


async def paused_with_one_behind_each(db: Any, number: int) -> None:
    ids = [f"p{n:03}" for n in range(number)]
    for id in ids:
        await enqueue(db, id, turn=True, session_id=id, available_at=T0)
    for _ in ids:
        await done(db, str(await claim(db)), "paused")
    for id in ids:
        await enqueue(db, f"behind-{id}", turn=True, session_id=id, available_at=T0)


async def one_that_runs_and_a_long_line(db: Any, number: int) -> None:
    await enqueue(db, *(f"l{n:03}" for n in range(number)), turn=True, available_at=T0)
    assert await claim(db) == "l000"


@pytest.mark.parametrize("atomic", [True, False])
@pytest.mark.parametrize("situation", [paused_with_one_behind_each, one_that_runs_and_a_long_line])
async def test_nobody_comes_across_what_waits_for_its_turn_however_long(situation: Any, atomic: bool) -> None:
    """Of 10 as of 100, now and after an hour: a claim that finds something, one that finds nothing, a sweep."""
    found: list[list[Counter[str]]] = []
    for number in (10, 100):
        clock = Clock()
        db = Handle(clock.on(MemoryDocstore(store=MemoryStore(atomic=atomic))))
        await situation(db, number)
        found.append([])
        for seconds in (1, 31, 31, 301, 301, 3600, 3600):
            clock.now += seconds
            await db.heartbeat_jobs("w", ["l000"])
            nothing = await spent(db, lambda db=db: db.claim_job("w2"))
            assert nothing == Counter(scan=2)
            await enqueue(db, "free", created_at=clock.now, available_at=clock.now)
            found[-1] += [nothing, await spent(db, lambda db=db: db.claim_job("w2"))]
            await done(db, "free", worker="w2")
            assert await db.cleanup_jobs(STALE) == 1
            found[-1].append(await spent(db, db.sweep_exhausted_jobs))
        assert await db.count_queued_jobs() == (number if situation is paused_with_one_behind_each else number - 1)
    assert found[0] == found[1]


async def test_what_waits_in_a_line_costs_its_place_and_its_call() -> None:
    db = Handle(MemoryDocstore())
    assert await spent(db, lambda: enqueue(db, "free")) == Counter(commit=1)
    assert await spent(db, lambda: enqueue(db, "a", turn=True)) == Counter(get=1, commit=2)
    assert await spent(db, lambda: enqueue(db, "b", turn=True)) == Counter(get=2, commit=3)
    assert await spent(db, lambda: enqueue(db, "c", turn=True)) == Counter(get=2, commit=3)
    assert {await claim(db), await claim(db)} == {"free", "a"}
    assert await spent(db, lambda: db.complete_job("a", "w", 1, "completed")) == Counter(get=4, commit=4)
    assert await claim(db) == "b"
    assert await spent(db, lambda: db.complete_job("b", "w", 1, "paused")) == Counter(get=1, commit=1)
    assert await spent(db, lambda: db.cancel_job("c")) == Counter(get=4, commit=3)
    assert await spent(db, lambda: db.cancel_job("b")) == Counter(get=3, commit=3)
    assert await spent(db, lambda: db.requeue_job("b")) == Counter(get=2, commit=3)
    assert await spent(db, lambda: db.requeue_job("c")) == Counter(get=3, commit=3)


async def test_what_an_older_version_has_put_off_has_its_turn() -> None:
    """It let what waits come up again and again in the queue of what may be started."""
    clock = Clock()
    db = Handle(clock.on(MemoryDocstore()))
    await enqueue(db, *"abc", turn=True, created_at=T0, available_at=T0)
    rows = Jobs(db.raw._engine.kernel).jobs
    for number, id in enumerate("bc", 1):
        row = await rows.get(id)
        ref = rows.table.ref(id)
        stored = await rows.kernel.get(ref)
        await rows.kernel.commit([rows.table.put(row, stored.rev, {"due_at": T0 + 30 * number})])
    assert await claim(db) == "a"
    clock.now += 61
    await db.heartbeat_jobs("w", ["a"])
    assert await claim(db) is None and await spent(db, lambda: db.claim_job("w")) == Counter(scan=2)
    for id, after in ("ab", "bc"):
        await done(db, id)
        assert await claim(db) == after and await claim(db) is None


class Moving:
    """A hook: each request takes its time."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock, self.seconds = clock, seconds

    def before(self, operation: str) -> None:
        self.clock.now += self.seconds

    def after(self, operation: str) -> None:
        pass


@pytest.mark.parametrize("sort", ["first claim", "of a line", "taken over"])
async def test_a_lock_is_as_old_as_the_attempt_that_took_it(sort: str) -> None:
    """However many candidates the call has looked at before, and lost to others: else another would take the job over
    while the first begins with it."""
    clock, store = Clock(), MemoryStore()
    db, other = (Handle(clock.on(MemoryDocstore(store=store))) for _ in range(2))
    held = {"status": "running", "locked_by": "gone", "locked_at": T0 - 500, "attempt": 1, "max_attempts": 9}
    await enqueue(db, *(f"j{n:02}" for n in range(20)), available_at=T0 - 99, created_at=T0 - 99)
    columns = held if sort == "taken over" else {"turn": sort == "of a line"}
    await enqueue(db, "last", available_at=T0 - 99, created_at=T0, **columns)

    def others_take_it() -> None:
        for n in range(20):
            other.raw.cancel_job(f"j{n:02}")

    # Whoever claims has just read what there is.
    interloper = Interloper(others_take_it, 3)
    db.io.jitter = lambda: 0.0
    db.io.hooks += [interloper, Moving(clock, 4)]
    job = await db.claim_job("w", GRACE)
    db.io.hooks.clear()
    assert job["id"] == "last" and clock.now > T0 + GRACE, "the call took longer than the grace"
    assert clock.now - job["locked_at"] <= 4
    assert await claim(other, "w2", lock_grace_seconds=GRACE) is None
    clock.now += GRACE + 1
    assert await claim(other, "w2", lock_grace_seconds=GRACE) == "last"


async def test_every_time_is_that_of_the_attempt_that_writes_it() -> None:
    clock, store = Clock(), MemoryStore()
    db, other = (Handle(clock.on(MemoryDocstore(store=store))) for _ in range(2))
    await enqueue(db, "a", "b", "c", "d", "e", available_at=T0 - 9, max_attempts=2)
    for _ in range(4):
        assert await claim(db)

    async def delayed(call: Callable[[], Awaitable[Any]], id: str) -> dict[str, Any]:
        """What a call has written whose first attempt another has come before, and which took a long time."""
        clock.now += 1000

        def meanwhile() -> None:
            clock.now += 500
            other.raw.heartbeat_jobs("w", [id])

        db.io.hooks.append(Interloper(meanwhile, 2))
        assert await call()
        db.io.hooks.clear()
        row: dict[str, Any] = await db.get_job(id)
        return row

    row = await delayed(lambda: db.heartbeat_jobs("w", ["a"]), "a")
    assert row["locked_at"] == clock.now
    row = await delayed(lambda: db.complete_job("a", "w", 1, "completed"), "a")
    assert row["completed_at"] == row["updated_at"] == clock.now
    row = await delayed(lambda: db.retry_or_fail_job("b", "w", 1, "e", 30), "b")
    assert row["available_at"] == clock.now + 30 and row["updated_at"] == clock.now


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
    assert await claim(other) is None, "it has been called, but that is not to be seen yet"
    store.catch_up()
    assert await claim(other) == "d"
    assert [await status_of(other, id) for id in "abcd"] == ["completed"] * 3 + ["running"]


@pytest.mark.parametrize("requeued", [False, True])
async def test_a_call_that_is_lost_is_made_up_for_by_a_sweep(requeued: bool) -> None:
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
    assert await db.complete_job("a", "w", 1, "failed")
    db.io.hooks.clear()
    assert await claim(db) is None and await db.session_blocker("b") is None
    if requeued:
        # It comes back behind the others, and calls them, although nobody has taken it out of the line.
        assert await db.requeue_job("a") and await db.session_blocker("b") is None
        assert await db.session_blocker("a") == "b"
    else:
        assert await db.sweep_exhausted_jobs(GRACE) == [] and await claim(db) is None, "it may be about to be called"
        clock.now += GRACE
        assert await db.sweep_exhausted_jobs(GRACE) == []
        assert await spent(db, lambda: db.sweep_exhausted_jobs(GRACE)) == Counter(scan=1), "once"
    assert await claim(db) == "b" and await claim(db) is None


async def test_what_could_not_be_given_its_place_is_not_accepted() -> None:
    db = Handle(MemoryDocstore())
    await enqueue(db, "a", turn=True)

    class Outage:
        commits = 0

        def before(self, operation: str) -> None:
            self.commits += operation == "commit"
            if self.commits == 2:
                raise StoreUnavailableError(operation, "test", "unreachable", retryable=False)

        def after(self, operation: str) -> None:
            pass

    db.io.hooks.append(Outage())
    with pytest.raises(StoreUnavailableError):
        await db.enqueue_job(job_of("b", turn=True))
    db.io.hooks.clear()
    assert await db.get_job("b") is None
    await enqueue(db, "b", turn=True)
    assert await claim(db) == "a"
    await done(db, "a")
    assert await claim(db) == "b"


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
    clock.now += PATIENCE
    assert await claim(db) == "c" and await claim(db) is None
    await done(db, "c")
    assert await kept(db) == {"jobs"} and await db.cleanup_jobs(STALE) == 1 and await kept(db) == set()


# --- AgentOS ----------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def agent_os(db: Any) -> AsyncIterator[httpx.AsyncClient]:
    """An AgentOS whose background runs go through a durable queue on this store."""

    @tool(requires_confirmation=True)
    def launch() -> str:
        """Launch it."""
        return "launched"

    def launching(messages: list[Any]) -> Any:
        return "it flies" if messages[-1].role == "tool" else ("launch", "{}")

    agents: list[Any] = [
        Agent(id="echo", model=ScriptedModel(), db=db, add_history_to_context=True, telemetry=False),
        Agent(id="pilot", model=ScriptedModel(script=launching), tools=[launch], db=db, telemetry=False),
    ]
    queue = QueueConfig(durable=True, poll_interval=0.02)
    app = AgentOS(id="os", db=db, agents=agents, queue=queue, telemetry=False).get_app()
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://os") as client,
    ):
        yield client


@pytest.mark.cells("memory-sync", "memory-async", "mongo-sync-standalone", "mongo-async-secantus",
                   "dynamo-threads-local", "firestore-async-embedded")  # fmt: skip
@pytest.mark.usefixtures("quiet")
async def test_agentos_runs_its_background_work_through_the_queue(db: Any) -> None:
    async with agent_os(db.raw) as client:

        async def start(agent: str, message: str, session_id: str, **headers: str) -> dict[str, Any]:
            form = {"message": message, "background": "true", "stream": "false", "session_id": session_id}
            answer = await client.post(f"/agents/{agent}/runs", data=form, headers=headers)
            assert answer.status_code == 202, answer.text
            found: dict[str, Any] = answer.json()
            return found

        async def ended(agent: str, run_id: str, session_id: str, status: str = "COMPLETED") -> dict[str, Any]:
            async with asyncio.timeout(60):
                while True:
                    answer = await client.get(f"/agents/{agent}/runs/{run_id}", params={"session_id": session_id})
                    found: dict[str, Any] = answer.json()
                    if found.get("status") not in ("PENDING", "RUNNING"):
                        assert found["status"] == status, found
                        return found

        async def settled(run_id: str, status: str) -> None:
            async with asyncio.timeout(60):
                while await status_of(db, run_id) != status:
                    await asyncio.to_thread(lambda: None)  # the worker's turn

        runs = [await start("echo", f"m{number}", "s1") for number in range(3)]
        again = await start("echo", "once", "s2", **{"Idempotency-Key": "k"})
        assert (await start("echo", "once", "s2", **{"Idempotency-Key": "k"}))["run_id"] == again["run_id"]
        # One turn at a time, in order: each has the history of those before it.
        contents = [(await ended("echo", run["run_id"], "s1"))["content"] for run in runs]
        assert contents == ["1 asked, last: m0", "2 asked, last: m1", "3 asked, last: m2"]
        assert (await ended("echo", again["run_id"], "s2"))["content"] == "1 asked, last: once"
        pilot = await start("pilot", "go", "s3")
        paused = await ended("pilot", pilot["run_id"], "s3", "PAUSED")
        await settled(pilot["run_id"], "paused")
        tools = [{**paused["tools"][0], "confirmed": True}]
        form = {"tools": json.dumps(tools), "session_id": "s3", "background": "true", "stream": "false"}
        answer = await client.post(f"/agents/pilot/runs/{pilot['run_id']}/continue", data=form)
        assert answer.status_code == 202, answer.text
        await settled(pilot["run_id"], "completed")
        assert (await ended("pilot", pilot["run_id"], "s3"))["content"] == "it flies"
        for run in (*runs, again):
            await settled(run["run_id"], "completed")
        assert (await client.get("/queue/stats")).json()["counts"] == {"completed": 5}
        listed = (await client.get("/queue/jobs", params={"session_id": "s1"})).json()
        assert {job["id"] for job in listed["data"]} == {run["run_id"] for run in runs}
        assert [job["attempt"] for job in listed["data"]] == [1, 1, 1] and listed["meta"]["total_count"] == 3
        assert (await client.post(f"/queue/jobs/{pilot['run_id']}/requeue")).status_code == 400


@pytest.mark.cells("memory-async", "mongo-async-secantus", "dynamo-async-local", "dynamo-threads-local",
                   "firestore-async-google", "firestore-async-embedded")  # fmt: skip
@pytest.mark.usefixtures("quiet")
async def test_the_heart_of_a_queue_beats_while_a_run_holds_the_loop(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    complaints: list[str] = []
    for level in ("warning", "error"):
        monkeypatch.setattr(f"agno.os.job_queue.log_{level}", complaints.append)
    await enqueue(db, "j", available_at=0, created_at=0)
    claimed = await db.claim_job("w")  # before the worker is there, who would be as quick
    # A second for a beat, which is a third of the grace.
    config = QueueConfig(durable=True, lock_grace_seconds=3, poll_interval=60)
    worker = QueueWorker(db.raw, lambda *_: None, config, worker_id="w", stop_timeout=1)
    await worker.start()
    try:
        worker._in_flight["j"] = asyncio.create_task(asyncio.sleep(60))
        with contextlib.closing(db.raw._blocking()) as elsewhere:
            held = time.monotonic() + 30
            while elsewhere.get_job("j")["locked_at"] == claimed["locked_at"] and time.monotonic() < held:
                time.sleep(0.05)  # holding the loop
            assert elsewhere.get_job("j")["locked_at"] > claimed["locked_at"]
    finally:
        worker._in_flight.pop("j").cancel()
        await worker.stop()
    assert not complaints


@pytest.mark.cells("mongo-motor-secantus")
async def test_a_client_of_an_event_loop_beats_there(db: Any) -> None:
    assert db.raw.db_url is None

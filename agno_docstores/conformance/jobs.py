"""The job queue: acceptance, claims, fences, turns of a session, sweeps and listings, as Agno's worker relies on them.

Agno's own `InMemoryQueueStore` passes the same tests. A grace of -1 second makes every lock stale at once, one of a
minute none that is new, so that nothing here waits for time to pass. Some tests need the fixture `open_another`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from agno.db.schemas.jobs import QueuedJob

from agno_docstores.conformance.concurrency import at_once

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
STALE = -1  # seconds of grace: whatever was locked, was locked long ago


def job_of(id: str = "j1", *, turn: bool = False, **columns: Any) -> dict[str, Any]:
    """A row as Agno enqueues it. `turn`: it is to run one at a time with others of its session."""
    payload = {"input": "x", **({"serialize_session": True} if turn else {})}
    defaults: dict[str, Any] = {
        "component_type": "agent", "component_id": "a", "session_id": "s1", "payload": payload, "max_attempts": 2,
    }  # fmt: skip
    return QueuedJob(id=id, **{**defaults, **columns}).to_dict()


async def enqueue(db: Any, *ids: str, turn: bool = False, **columns: Any) -> None:
    for id in ids:
        assert (await db.enqueue_job(job_of(id, turn=turn, **columns)))["accepted"]


async def claim(db: Any, worker: str = "w", **options: Any) -> str | None:
    job = await db.claim_job(worker, **options)
    return None if job is None else str(job["id"])


async def status_of(db: Any, id: str = "j1") -> str:
    return str((await db.get_job(id, strict=True))["status"])


async def done(db: Any, id: str, status: str = "completed", worker: str = "w") -> None:
    attempt = (await db.get_job(id))["attempt"]
    assert await db.complete_job(id, worker, attempt, status)


async def test_a_job_is_accepted_once_and_comes_back_as_it_is(db: Any) -> None:
    assert await db.get_job("j1", strict=True) is None and await db.claim_job("w") is None
    assert await db.list_jobs() == ([], 0) and await db.count_queued_jobs() == 0
    odd = {"a.b": {"$x": [1.0, None, "\x00"]}, "": {}, "__x__": 2**70}
    row = job_of(user_id="u", deployment_id="d", payload=odd, error=None)
    answer = await db.enqueue_job(row)
    assert answer == {"accepted": True, "reason": None, "job": row}
    stored = await db.get_job("j1", strict=True)
    assert stored == row and type(stored) is dict and list(stored["payload"]) == list(odd)
    with pytest.raises(Exception, match="j1"):
        await db.enqueue_job(job_of(payload={"other": 1}))
    assert await db.get_job("j1") == row
    assert (await db.enqueue_job(job_of("j2", idempotency_key="")))["job"]["idempotency_key"] is None
    assert (await db.enqueue_job(job_of("j3", idempotency_key="")))["accepted"]


async def test_an_idempotency_key_is_an_owners_once_also_when_the_queue_is_full(db: Any) -> None:
    first = job_of(idempotency_key="k", user_id="u")
    assert (await db.enqueue_job(first, max_depth=2))["accepted"]
    again = await db.enqueue_job(job_of("j2", idempotency_key="k", user_id="u", turn=True), max_depth=1)
    assert again == {"accepted": False, "reason": "duplicate", "job": first}
    assert await db.enqueue_job(job_of("j2"), max_depth=1) == {"accepted": False, "reason": "queue_full", "job": None}
    # Another's key, and nobody's, are keys of their own.
    await enqueue(db, "j3", idempotency_key="k", user_id="v")
    await enqueue(db, "j4", idempotency_key="k")
    assert (await db.enqueue_job(job_of("j5", idempotency_key="k")))["job"]["id"] == "j4"
    assert await db.count_queued_jobs() == 3
    # Ended, it is still the answer; cleaned away, the key is free.
    claimed = await db.claim_job("w")
    await done(db, claimed["id"])
    assert (await db.enqueue_job({**first, "id": "j6"}))["job"]["status"] == "completed"
    assert await db.cleanup_jobs(STALE) == 1
    assert (await db.enqueue_job({**first, "id": "j6"}))["accepted"]


async def test_the_oldest_that_is_available_and_for_this_deployment_is_claimed(db: Any) -> None:
    now = int(time.time())
    await enqueue(db, "late", created_at=now - 5, available_at=now - 1)
    await enqueue(db, "b", "a", created_at=now - 9, available_at=now - 9)
    await enqueue(db, "later", created_at=now - 99, available_at=now + 99)
    await enqueue(db, "elsewhere", created_at=now - 99, deployment_id="d2")
    await enqueue(db, "here", created_at=now - 7, deployment_id="d1", available_at=now - 7)
    held: dict[str, Any] = {"status": "running", "locked_by": "gone", "attempt": 1, "created_at": now - 99}
    await enqueue(db, "held and later", available_at=now + 99, locked_at=now - 99, **held)
    await enqueue(db, "held for ever", locked_at=None, **held)
    claimed = await db.claim_job("w1")
    expected = {**job_of("a", created_at=now - 9, available_at=now - 9), "status": "running", "locked_by": "w1"}
    assert claimed == {**expected, "attempt": 1, "locked_at": claimed["locked_at"], "updated_at": claimed["updated_at"]}
    assert now <= claimed["locked_at"] == claimed["updated_at"] <= time.time()
    assert await db.get_job("a") == claimed
    assert [await claim(db, deployment_id="d1") for _ in range(4)] == ["b", "here", "late", None]
    assert await claim(db) is None and await claim(db, deployment_id="d2") == "elsewhere"


async def test_only_who_holds_a_job_in_this_attempt_can_settle_it(db: Any) -> None:
    await enqueue(db, "j1")
    assert not await db.complete_job("j1", "w", 0, "completed"), "it was not claimed"
    assert await claim(db) == "j1" and await claim(db, lock_grace_seconds=60) is None
    for worker, attempt in (("other", 1), ("w", 2), ("w", 0)):
        assert not await db.complete_job("j1", worker, attempt, "completed")
        assert await db.retry_or_fail_job("j1", worker, attempt, "e") is None
    assert not await db.complete_job("none", "w", 1, "completed")
    # Its worker is silent: another takes over, and what the first says no longer counts.
    assert await claim(db, "w2", lock_grace_seconds=STALE) == "j1"
    assert not await db.complete_job("j1", "w", 1, "completed") and await status_of(db) == "running"
    assert await db.complete_job("j1", "w2", 2, "failed", "why")
    job = await db.get_job("j1")
    assert (job["status"], job["error"], job["locked_by"], job["locked_at"]) == ("failed", "why", None, None)
    assert job["completed_at"] == job["updated_at"] is not None
    assert not await db.complete_job("j1", "w2", 2, "completed"), "it has ended"
    assert await claim(db, lock_grace_seconds=STALE) is None


async def test_a_job_is_tried_again_while_it_has_attempts(db: Any) -> None:
    await enqueue(db, "j1")
    assert await claim(db) == "j1"
    assert await db.retry_or_fail_job("j1", "w", 1, "e1", retry_delay_seconds=100) == "queued"
    job = await db.get_job("j1")
    assert (job["error"], job["locked_by"], job["attempt"]) == ("e1", None, 1)
    assert job["available_at"] == job["updated_at"] + 100 and await claim(db) is None
    await db.cancel_job("j1")
    await enqueue(db, "j2")
    assert await claim(db) == "j2" and await db.retry_or_fail_job("j2", "w", 1, "e1", 0) == "queued"
    assert await claim(db) == "j2" and await db.retry_or_fail_job("j2", "w", 2, "e2", 0) == "failed"
    assert (await db.get_job("j2"))["completed_at"] is not None and await claim(db) is None
    # An operator's one attempt more.
    assert await db.requeue_job("j2") and not await db.requeue_job("j2") and not await db.requeue_job("none")
    job = await db.get_job("j2")
    assert (job["status"], job["attempt"], job["max_attempts"], job["completed_at"]) == ("queued", 2, 3, None)
    assert await claim(db) == "j2" and not await db.requeue_job("j2")
    assert await db.retry_or_fail_job("j2", "w", 3, "e3", 0) == "failed"


async def test_a_heartbeat_keeps_what_the_worker_holds(db: Any) -> None:
    long_ago = int(time.time()) - 1000
    held: dict[str, Any] = {"status": "running", "locked_by": "w", "locked_at": long_ago, "attempt": 1}
    await enqueue(db, "j1", "j2", **held)
    await enqueue(db, "j3", **{**held, "locked_by": "other"})
    await enqueue(db, "j4")
    assert await db.heartbeat_jobs("w", ["j1", "j1x", "j3", "j4"]) == 1
    assert await db.heartbeat_jobs("w", []) == 0
    assert (await db.get_job("j1"))["locked_at"] > long_ago and (await db.get_job("j3"))["locked_at"] == long_ago
    assert {await claim(db, "w2") for _ in range(4)} == {"j2", "j3", "j4", None}


async def test_what_has_no_attempt_left_is_swept_by_one(db: Any) -> None:
    now = int(time.time())
    held: dict[str, Any] = {"status": "running", "locked_by": "w", "attempt": 2}
    for number in range(3):
        await enqueue(db, f"j{number}", locked_at=now - 1000 + number, **held)
    await enqueue(db, "fresh", locked_at=now, **held)
    await enqueue(db, "left", locked_at=now - 1000, **{**held, "attempt": 1})
    assert [job["id"] for job in await db.sweep_exhausted_jobs()] == ["j0", "j1", "j2"]
    assert [job["id"] for job in await db.sweep_exhausted_jobs(limit=2)] == ["j0", "j1"]
    assert not await db.acquire_sweep("fresh", "x") and not await db.acquire_sweep("left", "x")
    assert not await db.acquire_sweep("none", "x")
    assert await db.acquire_sweep("j0", "x") and not await db.acquire_sweep("j0", "y")
    assert not await db.settle_swept_job("j0", "y", "failed"), "x holds it"
    assert not await db.settle_swept_job("j0", "x", "queued"), "no such end"
    assert [job["id"] for job in await db.sweep_exhausted_jobs()] == ["j1", "j2"]
    assert await db.settle_swept_job("j0", "x", "completed") and not await db.settle_swept_job("j0", "x", "failed")
    assert await db.acquire_sweep("j1", "x") and await db.settle_swept_job("j1", "x", "paused", "p")
    job = await db.get_job("j1")
    assert (job["status"], job["error"], job["locked_by"]) == ("paused", "p", None)
    assert await claim(db) == "left"


async def test_a_paused_job_waits_as_long_as_it_takes(db: Any) -> None:
    await enqueue(db, "j1", "j2", "j3")
    for id in ("j1", "j2", "j3"):
        assert await claim(db) == id
    assert await db.continue_job("j1", {"n": 1}) == {"outcome": "attach", "job": await db.get_job("j1")}
    for id in ("j1", "j2", "j3"):
        await done(db, id, "paused")
    assert await db.cleanup_jobs(STALE) == 0 and await claim(db, lock_grace_seconds=STALE) is None
    answer = await db.continue_job("j1", {"n": 1})
    assert (answer["outcome"], answer["job"]) == ("queued", await db.get_job("j1"))
    assert answer["job"]["payload"] == {"input": "x", "continue": {"n": 1}}
    assert (answer["job"]["max_attempts"], answer["job"]["completed_at"]) == (2, None)
    assert (await db.continue_job("j1", {"n": 2}))["outcome"] == "attach"
    assert await claim(db) == "j1" and (await db.get_job("j1"))["payload"]["continue"] == {"n": 1}
    await done(db, "j1", "paused")
    assert (await db.continue_job("j1", {"m": 3}))["job"]["payload"]["continue"] == {"m": 3}
    assert not await db.settle_paused_job("j1", "completed"), "its continuation is under way"
    assert not await db.settle_paused_job("j2", "queued") and await db.settle_paused_job("j2", "completed", "late")
    assert await db.cancel_job("j3") and not await db.cancel_job("j3") and not await db.cancel_job("none")
    assert await db.continue_job("j3", {}) == {"outcome": "conflict", "job": await db.get_job("j3")}
    assert await db.continue_job("none", {}) == {"outcome": "conflict", "job": None}
    assert [await status_of(db, id) for id in ("j1", "j2", "j3")] == ["queued", "completed", "cancelled"]
    assert await db.cancel_job("j1") and await db.cleanup_jobs(1000) == 0 and await db.cleanup_jobs(STALE) == 3
    assert await db.list_jobs() == ([], 0)


async def test_jobs_of_a_session_take_turns_in_the_order_of_acceptance(db: Any) -> None:
    await enqueue(db, "c", "b", "a", turn=True)
    await enqueue(db, "z", turn=True, session_id="s2")
    await enqueue(db, "free")
    numbers = [(await db.get_job(id))["payload"]["session_seq"] for id in ("c", "b", "a", "z")]
    assert numbers == [1, 2, 3, 1] and "session_seq" not in (await db.get_job("free"))["payload"]
    assert [await db.session_blocker(id) for id in ("c", "b", "a", "z", "free", "none")] == [
        None,
        "c",
        "c",
        *[None] * 3,
    ]
    assert {await claim(db) for _ in range(4)} == {"c", "z", "free", None}
    assert await db.session_blocker("b") == "c" and await db.session_blocker("c") is None
    # Paused, or to be tried again later, it holds its turn.
    await done(db, "c", "paused")
    assert await claim(db) is None and await db.session_blocker("a") == "c"
    await db.continue_job("c", {})
    assert await claim(db) == "c" and await claim(db) is None
    assert await claim(db, "w2", lock_grace_seconds=STALE) != "b"
    await db.cleanup_jobs(STALE)
    job = await db.get_job("c")
    assert await db.complete_job("c", job["locked_by"], job["attempt"], "completed")
    assert await db.session_blocker("b") is None and await db.session_blocker("a") == "b"
    assert await claim(db) == "b" and await claim(db) is None
    assert await db.retry_or_fail_job("b", "w", 1, "e", retry_delay_seconds=100) == "queued"
    assert await claim(db) is None and await db.session_blocker("a") == "b"
    # It gives its turn up when it is cancelled, and comes back behind the others.
    assert await db.cancel_job("b") and await claim(db) == "a"
    assert await db.requeue_job("b") and (await db.get_job("b"))["payload"]["session_seq"] > 3
    await enqueue(db, "d", turn=True)
    assert await db.session_blocker("b") == "a" and await db.session_blocker("d") in ("a", "b")
    assert await claim(db) is None
    await done(db, "a", "failed")
    assert await claim(db) == "b"
    await done(db, "b")
    assert await claim(db) == "d"
    await done(db, "d")
    await enqueue(db, "e", turn=True)
    assert await claim(db) == "e"


async def test_a_job_in_the_middle_of_a_line_can_be_cancelled(db: Any) -> None:
    await enqueue(db, "a", "b", "c", turn=True)
    assert await db.cancel_job("b") and await db.session_blocker("c") == "a"
    assert await claim(db) == "a" and await claim(db) is None
    assert (await db.enqueue_job(job_of("d", turn=True)))["job"]["payload"]["session_seq"] == 4
    await done(db, "a")
    assert await claim(db) == "c"
    await done(db, "c")
    assert await claim(db) == "d"


async def test_listings_apply_every_filter_and_total_what_matches(db: Any) -> None:
    now = int(time.time())
    for number in range(6):
        await enqueue(
            db, f"j{number}", created_at=now - number, available_at=now - number, session_id=f"s{number % 3}",
            user_id="u" if number % 2 else None,
        )  # fmt: skip
    assert await claim(db) == "j5" and await db.cancel_job("j4")

    async def ids(**options: Any) -> tuple[list[str], int]:
        rows, total = await db.list_jobs(**options, raise_on_error=True)
        return [row["id"] for row in rows], total

    assert await ids() == ([f"j{number}" for number in range(6)], 6)
    assert await ids(limit=2, page=2) == (["j2", "j3"], 6) and await ids(limit=2, page=9) == ([], 6)
    assert await ids(sort_order="asc", limit=2) == (["j5", "j4"], 6)
    assert (await ids(sort_by="updated_at", sort_order="asc"))[0][:3] == ["j3", "j2", "j1"]
    assert await ids(status="running") == (["j5"], 1)
    assert await ids(status=["running", "cancelled"]) == (["j4", "j5"], 2)
    assert await ids(session_id="s0") == (["j0", "j3"], 2)
    assert await ids(session_id=["s0", "s1"], user_id="u") == (["j1", "j3"], 2)
    assert await ids(session_id=["s0", "s1"], user_id="u", status="queued", limit=1) == (["j1"], 2)
    assert await ids(user_id="nobody") == ([], 0) and await ids(status=[]) == ([], 0)
    assert (await ids(sort_by="nonsense"))[1] == 6
    stats = await db.queue_stats()
    assert stats["counts"] == {"queued": 4, "running": 1, "cancelled": 1}
    assert 3 <= stats["oldest_queued_age_seconds"] <= 3 + time.time() - now
    assert await db.count_queued_jobs() == 4


async def test_jobs_that_tie_are_listed_in_the_order_of_their_ids(db: Any) -> None:
    """Whichever way is sorted, and over pages that begin and end among them; so are all that are not sorted."""
    now = int(time.time())
    ids = {f"a{n}": now - 5 for n in range(4)} | {f"b{n}": now - 3 for n in range(3)} | {"c": now - 1}
    states = {"a1": "paused", "a2": "failed", "b1": "completed"}
    for id, created in ids.items():
        ended: dict[str, Any] = {"completed_at": created} if id in ("a2", "b1") else {}
        await enqueue(db, id, created_at=created, status=states.get(id, "queued"), **ended)

    async def listed(limit: int = 99, **options: Any) -> list[str]:
        """All pages of so many."""
        found: list[str] = []
        for page in range(1, 12):
            rows, total = await db.list_jobs(limit=limit, page=page, raise_on_error=True, **options)
            found += [row["id"] for row in rows]
            if page * limit >= total:
                break
        assert len(found) == total
        return found

    first, second, last = [f"a{n}" for n in range(4)], [f"b{n}" for n in range(3)], ["c"]
    for limit in (1, 2, 3, 5, 8, 99):
        assert await listed(limit) == last + second + first
        assert await listed(limit, sort_order="asc") == first + second + last
        assert await listed(limit, session_id="s1", status=["queued", "paused"]) == ["c", "b0", "b2", "a0", "a1", "a3"]
    assert await listed(2, sort_by=None) == await listed(3, sort_by="nonsense") == first + second + last
    assert await listed(3, sort_by="id") == last + second[::-1] + first[::-1]
    assert await listed(3, sort_by="status", sort_order="asc") == ["b1", "a2", "a1", "a0", "a3", "b0", "b2", "c"]
    unended = ["a0", "a1", "a3", "b0", "b2", "c"]
    assert await listed(3, sort_by="completed_at") == [*unended, "b1", "a2"], "null comes first downwards"
    assert await listed(3, sort_by="completed_at", sort_order="asc") == ["a2", "b1", *unended]
    assert await listed(3, sort_by="locked_by") == first + second + last


async def test_what_nothing_can_be_under_is_not_there(db: Any) -> None:
    await enqueue(db, "j1")
    assert await db.get_job("") is None and await db.get_job("", strict=True) is None
    nobodys: list[dict[str, Any]] = [
        {"user_id": ""},
        {"session_id": ""},
        {"status": []},
        {"status": ""},
        {"session_id": ["", "none"]},
    ]
    for nobody in nobodys:
        assert await db.list_jobs(**nobody, raise_on_error=True) == ([], 0)
    assert not await db.cancel_job("") and not await db.requeue_job("") and await db.session_blocker("") is None
    assert not await db.complete_job("", "w", 1, "completed") and not await db.acquire_sweep("", "w")
    assert await db.retry_or_fail_job("", "w", 1, "e") is None and await db.heartbeat_jobs("w", [""]) == 0
    assert await db.continue_job("", {}) == {"outcome": "conflict", "job": None}


#: The states a job can be in, as it is stored.
STATES: dict[str, dict[str, Any] | None] = {
    "none": None,
    "queued": {},
    "running": {"status": "running", "locked_by": "w", "attempt": 1},
    "silent": {"status": "running", "locked_by": "w", "attempt": 1, "locked_at": 1},
    "spent": {"status": "running", "locked_by": "w", "attempt": 1, "locked_at": 1, "max_attempts": 1},
    "busy": {"status": "running", "locked_by": "w", "attempt": 1, "max_attempts": 1},
    "unlocked": {"status": "running", "locked_by": None, "locked_at": None, "attempt": 1},
    "paused": {"status": "paused", "attempt": 1, "error": "p"},
    "completed": {"status": "completed", "attempt": 1, "completed_at": 9},
    "failed": {"status": "failed", "attempt": 1, "completed_at": 9, "error": "f"},
    "cancelled": {"status": "cancelled", "attempt": 0, "completed_at": 9},
}
HELD = ("running", "silent", "spent", "busy")
NOW = "the time"
Columns = dict[str, Any]


def settled(status: str) -> Columns:
    """What a job's columns become that somebody settles."""
    return {
        "status": status, "error": "e", "locked_by": None, "locked_at": None, "completed_at": NOW, "updated_at": NOW,
    }  # fmt: skip


def queued(**columns: Any) -> Columns:
    return {"status": "queued", "available_at": NOW, "updated_at": NOW, **columns}


GIVEN_BACK = queued(error="e", locked_by=None, locked_at=None)
CANCELLED = {"status": "cancelled", "completed_at": NOW, "updated_at": NOW}
#: What Agno's PostgresDb answers, by its source (3.1.10), since none is here to ask. Of each call the states in which
#: it does something, with its answer and what becomes of the columns; and the answer in all others, in which it changes
#: nothing. Ours differ where a claim or a sweep fails, or a job is to be completed as what is no end: they raise.
POSTGRES: list[tuple[str, tuple[Any, ...], dict[str, tuple[Any, Columns]], Any]] = [
    *(
        ("complete_job", ("w", 1, status, "e"), {state: (True, settled(status)) for state in HELD}, False)
        for status in ("completed", "failed", "cancelled", "paused")
    ),
    ("complete_job", ("other", 1, "completed"), {}, False),
    ("complete_job", ("w", 2, "completed"), {}, False),
    ("complete_job", ("w", 0, "completed"), {}, False),
    (
        "retry_or_fail_job",
        ("w", 1, "e", 0),
        {
            **dict.fromkeys(("running", "silent"), ("queued", GIVEN_BACK)),
            **{state: ("failed", settled("failed")) for state in ("spent", "busy")},
        },
        None,
    ),
    ("retry_or_fail_job", ("other", 1, "e"), {}, None),
    ("retry_or_fail_job", ("w", 2, "e"), {}, None),
    ("settle_paused_job", ("failed", "e"), {"paused": (True, settled("failed"))}, False),
    ("settle_paused_job", ("paused",), {}, False),
    ("settle_paused_job", ("queued",), {}, False),
    ("cancel_job", (), dict.fromkeys(("queued", "paused"), (True, CANCELLED)), False),
    ("acquire_sweep", ("x",), {"spent": (True, {"locked_by": "x", "locked_at": NOW, "updated_at": NOW})}, False),
    ("settle_swept_job", ("w", "paused", "e"), {state: (True, settled("paused")) for state in HELD}, False),
    ("settle_swept_job", ("x", "failed"), {}, False),
    ("settle_swept_job", ("w", "running"), {}, False),
    (
        "requeue_job",
        (),
        {
            "failed": (True, queued(max_attempts=2, completed_at=None)),
            "cancelled": (True, queued(max_attempts=1, completed_at=None)),
        },
        False,
    ),
    ("session_blocker", (), {}, None),
]
#: Likewise of a job that is to be continued; with the row, and that is changed by the first only.
CONTINUED = {
    "paused": "queued",
    **dict.fromkeys(("queued", "unlocked", *HELD), "attach"),
    **dict.fromkeys(("none", "completed", "failed", "cancelled"), "conflict"),
}


async def test_every_call_in_every_state_answers_as_postgres_does(db: Any) -> None:
    began = int(time.time())

    async def stored(id: str, state: str) -> Columns | None:
        columns = STATES[state]
        if columns is None:
            return None
        if columns.get("status") == "running":
            columns = {"locked_at": began, **columns}
        row = job_of(id, session_id=id, available_at=began - 9, created_at=began - 9, **columns)
        assert (await db.enqueue_job(row))["accepted"]
        return row

    for number, (method, arguments, does, otherwise) in enumerate(POSTGRES):
        for state in STATES:
            id, where = f"{state}-{number}", f"{method}{arguments} of a job that is {state}"
            before = await stored(id, state)
            answer, changes = does.get(state, (otherwise, {}))
            assert await getattr(db, method)(id, *arguments) == answer, where
            after = await db.get_job(id, strict=True)
            times = {name for name, value in changes.items() if value is NOW}
            assert all(began <= after[name] <= time.time() for name in times), where
            expected = None if before is None else {**before, **changes, **{name: after[name] for name in times}}
            assert after == expected, where
    for state, outcome in CONTINUED.items():
        before = await stored(state, state)
        assert await db.continue_job(state, {}) == {"outcome": outcome, "job": await db.get_job(state)}, state
        after = await db.get_job(state)
        if before is not None and outcome == "queued":
            changes = queued(payload={**before["payload"], "continue": {}}, available_at=after["available_at"])
            before = {**before, **changes, "max_attempts": 2, "updated_at": after["updated_at"]}
        assert after == before, state


# --- Many at once -----------------------------------------------------------------------------------------------------

WORKERS = 20


async def everybody(db: Any, another: Callable[[], Any], call: Callable[[Any, int], Call]) -> list[Any]:
    """What each of twenty callers, on two handles, got; none may have got an exception."""
    handles = [db.raw, another().raw]
    results = await at_once(db, [call(handles[n % 2], n) for n in range(WORKERS)])
    assert [result for result in results if isinstance(result, Exception)] == []
    return results


async def test_of_twenty_workers_one_gets_a_job_and_one_takes_it_over(db: Any, another: Callable[[], Any]) -> None:
    now = int(time.time())
    ids = [f"j{number}" for number in range(4)]
    await enqueue(db, *ids)
    got = await everybody(db, another, lambda handle, n: (handle.claim_job, (f"w{n}",), {}))
    assert sorted(job["id"] for job in got if job) == ids, "all have a worker, each has one"
    for job in (job for job in got if job):
        assert await db.get_job(job["id"]) == job and job["attempt"] == 1
        assert await db.complete_job(job["id"], job["locked_by"], 1, "completed")
    lost: dict[str, Any] = {"status": "running", "locked_by": "dead", "locked_at": now - 1000, "attempt": 1}
    await enqueue(db, "lost", **lost)
    got = [job for job in await everybody(db, another, lambda handle, n: (handle.claim_job, (f"w{n}",), {})) if job]
    assert [(job["id"], job["attempt"]) for job in got] == [("lost", 2)]
    assert not await db.complete_job("lost", "dead", 1, "completed")
    await enqueue(db, "spent", **{**lost, "attempt": 2})
    took = await everybody(db, another, lambda handle, n: (handle.acquire_sweep, ("spent", f"w{n}"), {}))
    assert sum(took) == 1
    settled = await everybody(
        db, another, lambda handle, n: (handle.settle_swept_job, ("spent", f"w{n}", "failed", str(n)), {})
    )
    assert settled == took and (await db.get_job("spent"))["error"] == str(took.index(True))


async def test_of_twenty_changes_of_one_job_one_wins(db: Any, another: Callable[[], Any]) -> None:
    submitted = await everybody(
        db, another, lambda handle, n: (handle.enqueue_job, (job_of(f"j{n}", idempotency_key="k", turn=True),), {})
    )
    (accepted,) = [answer["job"] for answer in submitted if answer["accepted"]]
    assert {answer["job"]["id"] for answer in submitted} == {accepted["id"]}
    assert await db.list_jobs() == ([accepted], 1)
    id = accepted["id"]
    assert await claim(db) == id, "those that were refused are not in its way"
    settled = await everybody(db, another, lambda handle, n: (handle.complete_job, (id, "w", 1, "paused", str(n)), {}))
    assert sum(settled) == 1 and (await db.get_job(id))["error"] == str(settled.index(True))
    answers = await everybody(db, another, lambda handle, n: (handle.continue_job, (id, {"n": n}), {}))
    outcomes = [answer["outcome"] for answer in answers]
    assert sorted(outcomes) == ["attach"] * (WORKERS - 1) + ["queued"]
    assert (await db.get_job(id))["payload"]["continue"] == {"n": outcomes.index("queued")}
    assert sum(await everybody(db, another, lambda handle, n: (handle.cancel_job, (id,), {}))) == 1
    assert sum(await everybody(db, another, lambda handle, n: (handle.requeue_job, (id,), {}))) == 1
    assert await claim(db) == id and (await db.get_job(id))["attempt"] == 2


async def test_twenty_workers_run_one_job_of_a_session_at_a_time(db: Any, another: Callable[[], Any]) -> None:
    def submission(handle: Any, n: int) -> Call:
        return handle.enqueue_job, (job_of(f"j{n:02}", turn=True, session_id=f"s{n % 7}"),), {}

    jobs = [answer["job"] for answer in await everybody(db, another, submission)]
    ran: dict[str, list[int]] = {}
    for turn in range(3):
        got = [job for job in await everybody(db, another, lambda handle, n: (handle.claim_job, (f"w{n}",), {})) if job]
        sessions = [job["session_id"] for job in got]
        assert sorted(sessions) == [f"s{n}" for n in range(7 if turn < 2 else 6)], "one of each that has any left"
        for job in got:
            ran.setdefault(job["session_id"], []).append(job["payload"]["session_seq"])
        ends: list[Call] = [(db.raw.complete_job, (job["id"], job["locked_by"], 1, "completed"), {}) for job in got]
        assert await at_once(db, ends) == [True] * len(got)
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in ran.values())
    accepted = sorted((job["session_id"], job["payload"]["session_seq"]) for job in jobs)
    assert accepted == sorted((session_id, number) for session_id, numbers in ran.items() for number in numbers)
    assert await claim(db) is None

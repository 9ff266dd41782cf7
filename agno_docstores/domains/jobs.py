"""The job queue: what Agno asks of a store that keeps background runs (contract 1.21), over the kernel.

Invariants: a job has one worker at a time, and what a worker says of it counts only while it holds the job, in that
attempt; a job that was accepted is there until it has ended and is cleaned away, a paused one for as long as it takes;
of the jobs of a session that are to take turns one is running or paused, and they go in the order of acceptance
(`turns.py`); an idempotency key is an owner's once, and nobody's once. Looking for work that fails is never "no work".

Where a job waits. The header field `queue` names one of four queues, or none, and `due_at` the place in it, so that one
index serves all who look for jobs, and none of them passes over what is not for him:

- ("waiting", deployment), by `available_at`: what may be started, by whom.
- ("running", deployment), by `locked_at`: what may be taken over when its worker has not been heard of for a while.
- ("exhausted",): what a sweep has to look at after that while. By `locked_at`, what is running with all its attempts
  used; by `completed_at`, what has ended and had a turn, from the same commit on that ends it until the next of its
  session has been called. So a call that was lost, because its process died, is made up for by the next sweep.
- ("ended",), by `completed_at`: what is cleaned away.

A job that has to wait for its turn is in none, so nobody comes across it, however many there are: whoever ends the job
ahead calls it (`turns.py` has why none is forgotten). Between its storage and its place in the line it is put off.

Times are those of the machine that calls, in epoch seconds, and of the attempt that writes them, however long the call
has taken: no port has the store's own clock. Workers' clocks may differ by less than the grace that they give each
other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

from agno.db.schemas.jobs import JOB_STATUSES

from agno_docstores import keys, turns
from agno_docstores.domains.listing import label, order_of, page_by_id_where_tied, stretch, touched_at
from agno_docstores.domains.owned import owner
from agno_docstores.errors import Conflict
from agno_docstores.kernel import Kernel, Query
from agno_docstores.keys import rank
from agno_docstores.port import Condition, Delete, Eq, Fields, FieldValue, In, Range, Rev, Stored, as_int
from agno_docstores.rows import FAILURES, Row, Rows, Table, answered
from agno_docstores.schema import JOBS, KINDS
from agno_docstores.uniqueness import holder

ENDED = frozenset({"completed", "failed", "cancelled"})
LIVE = frozenset({"queued", "running", "paused"})
CANDIDATES = 20  # jobs that are looked at together for one to claim
PATIENCE = 30  # seconds after which a job is looked at that was stored, and was given no place in its line
PARKED: Fields = MappingProxyType({"queue": None, "due_at": None})  # what waits for its turn
CLEANUP_PAGE = 100


COLUMNS = (
    "id",
    "component_type",
    "job_type",
    "deployment_id",
    "component_id",
    "session_id",
    "user_id",
    "payload",
    "status",
    "attempt",
    "max_attempts",
    "idempotency_key",
    "available_at",
    "locked_by",
    "locked_at",
    "error",
    "created_at",
    "updated_at",
    "completed_at",
)
SORTABLE = frozenset(COLUMNS) - {"payload"}


def _queue(*name: str | None) -> str:
    return keys.encode(name)


def _place(row: Row) -> tuple[str | None, FieldValue]:
    """The queue that a job is in, and where."""
    status = row["status"]
    if status == "queued":
        return _queue("waiting", label("deployment_id", row["deployment_id"])), row["available_at"]
    if status == "running":
        left = as_int(row["attempt"]) < as_int(row["max_attempts"])
        deployment = label("deployment_id", row["deployment_id"])
        return _queue("running", deployment) if left else _queue("exhausted"), row["locked_at"]
    if status in ENDED:
        # Of a line, it is yet to be told that it has ended.
        return _queue("exhausted") if _line(row) is not None else _queue("ended"), row["completed_at"]
    return None, None


def _submission(row: Mapping[str, Any]) -> str | None:
    """What may be submitted once: an owner's idempotency key. The empty text is no key."""
    key = row.get("idempotency_key")
    return keys.encode((owner(row.get("user_id")), str(key))) if key else None


def _derived(row: Row) -> Mapping[str, FieldValue]:
    queue, due_at = _place(row)
    return {"queue": queue, "due_at": due_at, "submission": _submission(row), "touched_at": touched_at(row)}


TABLE = Table(
    JOBS,
    COLUMNS,
    frozenset(
        {
            "id",
            "component_type",
            "job_type",
            "component_id",
            "session_id",
            "payload",
            "status",
            "attempt",
            "max_attempts",
            "available_at",
            "created_at",
        }
    ),
    {},
    _derived,
)


# --- Lines ----------------------------------------------------------------------------------------------------------


def _line(row: Row) -> str | None:
    """The session in whose line a job is to stand; None if it takes no turns."""
    takes_turns = (row["payload"] or {}).get("serialize_session") is True
    return label("session_id", row["session_id"]) or None if takes_turns else None


def _in_line(kernel: Kernel, session_id: str) -> turns.Live:
    async def live(job_id: str) -> bool:
        return _live(await kernel.get(TABLE.ref(job_id)), session_id)

    return live


def _live(stored: Stored | None, session_id: str) -> bool:
    row = TABLE.row(stored) if stored is not None else None
    return row is not None and row["status"] in LIVE and _line(row) == session_id


async def _leave(kernel: Kernel, row: Row) -> None:
    """Take a job that has ended out of its line, if it takes turns, and call the next."""
    session_id = _line(row)
    if session_id is not None:
        left = await turns.leave(kernel, session_id, row["id"], _in_line(kernel, session_id))
        await _call_next(kernel, row["id"], left)


async def _call_next(kernel: Kernel, job_id: str, left: turns.Left) -> None:
    """Call the first of a line that has not ended, unless it came before the one that left, which it did not wait for:
    then it calls the next itself when it ends."""
    line = left.line
    ahead = left.first if left.there and left.first != job_id else None
    while line.first is not None and not await _call(kernel, line.session_id, line.first, found=line.first == ahead):
        line = line.without(line.first)


async def _call(kernel: Kernel, session_id: str, job_id: str, found: bool) -> bool:
    """Have a queued job found by whoever looks for work, unless it is `found`; whether there is one that has not
    ended. It is written in any case: who is about to park it by what he saw before has to look again."""
    ref = TABLE.ref(job_id)

    async def attempt(fresh: bool) -> bool:
        stored = await kernel.get(ref)
        if stored is None or not _live(stored, session_id):
            return False
        row = TABLE.row(stored)
        if row["status"] == "queued" and not found:
            await kernel.commit([TABLE.put(row, stored.rev)])
        return True

    return await kernel.transact(f"call of job {job_id!r}", attempt)


async def _announce(kernel: Kernel, row: Row, rev: Rev) -> None:
    """Tell the line of a job that it has ended, and note that this is done. Doing it again does no harm."""
    await _leave(kernel, row)
    with suppress(Conflict):  # somebody else has noted it, or queued the job again
        await kernel.commit([TABLE.put(row, rev, {"queue": _queue("ended")})])


async def withdraw(kernel: Kernel, record: Stored) -> Rev:
    """End a job that is about to be removed, in whatever state, and call the next of its session; the revision to
    remove it under. Raises `Conflict` if it has changed since it was read. No request, or up to 6 where it has a turn.
    """
    return await _end(kernel, TABLE.row(record), record.rev, record.fields["queue"] == _queue("ended"))


async def _end(kernel: Kernel, row: Row, rev: Rev, announced: bool = False) -> Rev:
    if _line(row) is None or announced:
        return rev
    if row["status"] in LIVE:
        now = kernel.now()
        row = {**row, "status": "cancelled", "completed_at": now, "updated_at": now}
        (written,) = await kernel.commit([TABLE.put(row, rev)])
        assert written is not None
        rev = written
    await _leave(kernel, row)
    return rev


# --- The queue ------------------------------------------------------------------------------------------------------


class Jobs:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.jobs = Rows(kernel, TABLE)

    async def ensure_jobs_table(self) -> None:
        """Create the queue's storage now and wait until it is ready. Idempotent. Raises `ProvisioningError`."""
        await self.kernel.provision_all(kind for kind in KINDS.values() if kind.table == JOBS.table)

    # --- Acceptance -------------------------------------------------------------------------------------------------

    async def enqueue_job(self, job: Row, max_depth: int = 0) -> Row:
        """Accept a job: {"accepted", "reason", "job"}.

        Not accepted, with reason "duplicate" and the job there is, if its owner has submitted one under its
        `idempotency_key`; else "queue_full", if `max_depth` (0: any number) or more are waiting. That number is no
        lock: submissions at once may go some beyond it. A job that takes turns (`payload["serialize_session"]`) is
        accepted with its number in the session's line (`payload["session_seq"]`). Raises `DuplicateError` if the id is
        in use, `ValueError` for a column that there is not, or that is missing, `TypeError` for a payload that is no
        dict, and on any failure. 1 request; 2 more for a key, 2 for a line, 4 where it has to wait there, and the count
        of what is waiting (DynamoDB: their index entries).
        """
        from agno_docstores.errors import DuplicateError

        row = {**job, "idempotency_key": job.get("idempotency_key") or None, "user_id": owner(job.get("user_id"))}
        row = TABLE.new(row)
        if not isinstance(row["payload"], Mapping):
            raise TypeError(f"a job's payload must be a dict, not {type(row['payload']).__name__}")
        TABLE.ref(row["id"])
        existing = await self._submitted(row)
        if existing is not None:
            return {"accepted": False, "reason": "duplicate", "job": existing}
        if max_depth > 0 and await self._waiting() >= max_depth:
            return {"accepted": False, "reason": "queue_full", "job": None}
        session_id = _line(row) if row["status"] in LIVE else None
        line = await turns.read(self.kernel, session_id) if session_id is not None else None
        if line is not None:
            row["payload"] = {**row["payload"], "session_seq": line.next}
        try:
            stored, rev = await self.jobs.add(row, self._put_off(row) if line is not None and line.first else {})
        except DuplicateError as error:
            existing = await self._submitted(row) if error.field is not None else None
            if existing is None:
                raise
            return {"accepted": False, "reason": "duplicate", "job": existing}
        if line is not None:
            try:
                stored = await self._stand(stored, rev, line)
            except FAILURES:
                what = f"job {row['id']!r} is not accepted, and not removed"
                if await answered(self._take_back(stored, rev), True, what):
                    raise
        return {"accepted": True, "reason": None, "job": stored}

    async def _stand(self, row: Row, rev: Rev, line: turns.Line, *, found: bool | None = None) -> Row:
        """Give a live job that has just been stored its place in its line, as read a moment before; the row then.
        `found`: whether it is where it is looked for; by itself, if nobody was in line."""
        session_id, id, number = line.session_id, row["id"], row["payload"]["session_seq"]
        place = await turns.admit(self.kernel, session_id, id, None, _in_line(self.kernel, session_id), line)
        waits = place.ahead > 0 and row["status"] == "queued"
        found = line.first is None if found is None else found
        if (found or row["status"] != "queued") and not waits and number == place.number:
            return row

        def numbered(row: Row) -> Row:
            return {**row, "payload": {**row["payload"], "session_seq": place.number}}

        async def attempt(fresh: bool) -> None:
            if not fresh:
                await self.kernel.commit([TABLE.put(numbered(row), rev, PARKED if waits else {})])
                return
            # Somebody has been at it since, and so it is for others to say where it waits.
            stored = await self.kernel.get(TABLE.ref(id))
            if stored is not None and (TABLE.row(stored)["payload"] or {}).get("session_seq") == number:
                where = {name: stored.fields[name] for name in PARKED}
                await self.kernel.commit([TABLE.put(numbered(TABLE.row(stored)), stored.rev, where)])

        await self.kernel.transact(f"placing of job {id!r}", attempt)
        return numbered(row)

    async def _take_back(self, row: Row, rev: Rev) -> bool:
        """Remove a job that could not be accepted; False if others have taken it up."""
        try:
            rev = await _end(self.kernel, row, rev)
            await self.kernel.commit([Delete(TABLE.ref(row["id"]), rev)])
        except Conflict:
            return False
        return True

    async def _submitted(self, row: Row) -> Row | None:
        """The job that was submitted under this one's key."""
        submission = _submission(row)
        id = await holder(self.kernel, JOBS, "submission", submission) if submission is not None else None
        return await self.jobs.get(id) if id is not None else None

    async def _waiting(self) -> int:
        return await self.kernel.count(Query(JOBS, (Eq("status", "queued"),)))

    def _put_off(self, row: Row) -> Fields:
        """The place of a queued job that is about to get one in its line."""
        later = self.kernel.now() + PATIENCE
        return {"due_at": max(as_int(row["available_at"]), later)} if row["status"] == "queued" else {}

    # --- Work -------------------------------------------------------------------------------------------------------

    async def claim_job(
        self, worker_id: str, lock_grace_seconds: int = 60, deployment_id: str | None = None
    ) -> Row | None:
        """Claim a job: one that is waiting, available, of no deployment or this one, and whose turn it is; or one that
        was claimed, has attempts left, and whose worker has not been heard of for the grace. The row as claimed; None
        if there is none, or others were faster.

        Of the 20 of each sort that have been due longest, the one that was created first (then by id); whoever loses it
        to another worker goes for any of the rest. Of any number of workers one gets it. The lock is as old as the
        attempt to write it. The cost does not depend on how many wait, for their turn, for another deployment or for a
        later time: 2 requests for headers (4 with a deployment; on DynamoDB each for each shard of the index), and 2;
        with a line 1 more, or 2. Raises on a failed read: that is not "no work".
        """
        now = self.kernel.now()
        deployments = [None] if deployment_id is None else [None, label("deployment_id", deployment_id)]
        sources = [
            Query(JOBS, (Eq("queue", _queue(state, deployment)), Range("due_at", None, until)), "due_at")
            for state, until in (("waiting", now), ("running", now - lock_grace_seconds))
            for deployment in deployments
        ]
        claim = partial(self._claim_one, worker_id)
        return await self.kernel.first_of(sources, CANDIDATES, claim, body=False)

    async def _claim_one(self, worker_id: str, candidates: list[tuple[Stored, Query]]) -> Row | None:
        left = sorted(candidates, key=lambda found: (as_int(found[0].fields["created_at"]), found[0].ref.id))
        next = 0
        while left:
            header, source = left.pop(next)
            stored = await self.kernel.get(header.ref)
            try:
                if stored is None or not source.matches(stored):
                    raise Conflict([header.ref])
                row = TABLE.row(stored)
                available = as_int(row["available_at"]) <= self.kernel.now()
                if not available or (row["status"] == "queued" and not await self._may_start(stored, row)):
                    next = 0
                    continue
                now = self.kernel.now()
                attempt = as_int(row["attempt"]) + 1
                lock = {"locked_by": worker_id, "locked_at": now, "updated_at": now}
                claimed = {**row, **lock, "status": "running", "attempt": attempt}
                await self.kernel.commit([TABLE.put(claimed, stored.rev)])
            except Conflict:
                # Others are at work here, and would go for the next one as well.
                next = int(self.kernel.io.jitter() * len(left))
                continue
            return claimed
        return None

    async def _may_start(self, stored: Stored, row: Row) -> bool:
        """Whether it is a queued job's turn. If not, it waits to be called. Raises `Conflict` if it has changed since
        it was read."""
        session_id = _line(row)
        if session_id is None:
            return True
        number = as_int(row["payload"].get("session_seq"))
        live = _in_line(self.kernel, session_id)
        place = await turns.admit(self.kernel, session_id, stored.ref.id, number, live)
        if place.ahead:
            await self.kernel.commit([TABLE.put(row, stored.rev, PARKED)])
        return not place.ahead

    async def heartbeat_jobs(self, worker_id: str, job_ids: list[str]) -> int:
        """Say that a worker is still at work on these jobs; how many of them it holds. 2 requests for each. A failure
        is logged, and does not keep the others."""

        def beat(row: Row) -> Row | None:
            held = row["locked_by"] == worker_id and row["status"] == "running"
            return {"locked_at": self.kernel.now()} if held else None

        beats = (
            answered(self.jobs.change(id, beat), None, f"heartbeat of job {id!r} failed")
            for id in dict.fromkeys(job_ids)
        )
        return sum(row is not None for row in await self.kernel.io.gather(*beats))

    async def complete_job(
        self, job_id: str, worker_id: str, attempt: int, status: str, error: str | None = None
    ) -> bool:
        """End a job ("completed", "failed", "cancelled") or pause it ("paused"); whether this worker holds it, in this
        attempt. Raises `ValueError` for another status. A failure is logged, and False. 2 requests; 4 more where it
        ends and takes turns, 6 where another waits for it."""
        if status not in ENDED and status != "paused":
            raise ValueError(f"a job is not completed as {status!r}")

        def ended(row: Row) -> Row | None:
            return self._ended(status, error) if _held(row, worker_id, attempt) else None

        work = self._change(job_id, ended)
        return await answered(work, None, f"job {job_id!r} was not settled as {status!r}") is not None

    async def retry_or_fail_job(
        self, job_id: str, worker_id: str, attempt: int, error: str, retry_delay_seconds: int = 30
    ) -> str | None:
        """Give a job back: "queued", to be available again after the delay, if it has attempts left, else "failed".
        None if this worker does not hold it in this attempt; a failure is logged, and None. 2 requests; 4 to 6 more if
        it failed and takes turns."""

        def given_back(row: Row) -> Row | None:
            if not _held(row, worker_id, attempt):
                return None
            if as_int(row["attempt"]) >= as_int(row["max_attempts"]):
                return self._ended("failed", error)
            now = self.kernel.now()
            free = {"locked_by": None, "locked_at": None}
            available = now + retry_delay_seconds
            return {"status": "queued", "error": error, **free, "available_at": available, "updated_at": now}

        changed = await answered(self._change(job_id, given_back), None, f"job {job_id!r} was not given back")
        return None if changed is None else str(changed["status"])

    def _ended(self, status: str, error: str | None) -> Row:
        now = self.kernel.now()
        free = {"locked_by": None, "locked_at": None}
        return {"status": status, "error": error, **free, "completed_at": now, "updated_at": now}

    async def _change(self, job_id: str, decide: Callable[[Row], Mapping[str, Any] | None]) -> Row | None:
        """Change a job in one step; if that ends it, the next one of its session has its turn."""
        changed = await self.jobs.step(job_id, decide)
        if changed is None:
            return None
        row, rev = changed
        if row["status"] in ENDED and _line(row) is not None:
            # The job has ended, whatever comes of this: a sweep makes up for it.
            await answered(_announce(self.kernel, row, rev), None, f"the job after {job_id!r} was not called")
        return row

    # --- Pauses, cancellation, repetition ---------------------------------------------------------------------------

    async def settle_paused_job(self, job_id: str, status: str, error: str | None = None) -> bool:
        """End a paused job; whether it was paused, and the status is one that ends it. A failure is logged, and False.
        2 requests; 4 to 6 more where it takes turns."""
        if status not in ENDED:
            return False
        work = self._change(job_id, lambda row: self._ended(status, error) if row["status"] == "paused" else None)
        return await answered(work, None, f"job {job_id!r} was not settled as {status!r}") is not None

    async def cancel_job(self, job_id: str) -> bool:
        """Cancel a job that is queued or paused, so that it will not run (again); whether it was. A failure is logged,
        and False. 2 requests; 4 to 6 more where it takes turns."""

        def cancelled(row: Row) -> Row | None:
            now = self.kernel.now()
            columns = {"status": "cancelled", "completed_at": now, "updated_at": now}
            return columns if row["status"] in ("queued", "paused") else None

        work = self._change(job_id, cancelled)
        return await answered(work, None, f"job {job_id!r} was not cancelled") is not None

    async def continue_job(self, job_id: str, continue_payload: Row) -> Row:
        """Queue a paused job for one more attempt: {"outcome", "job"}. `payload["continue"]` becomes what is given.

        "queued": done; "attach": it is queued or running already; "conflict": it has ended, or there is none. It keeps
        its turn. Raises on a failure. 2 requests.
        """
        outcome, found = "conflict", None

        def continued(row: Row) -> Row | None:
            nonlocal outcome, found
            found = row
            if row["status"] != "paused":
                outcome = "conflict" if row["status"] in ENDED else "attach"
                return None
            outcome = "queued"
            payload = {**(row["payload"] or {}), "continue": dict(continue_payload)}
            return {**self._once_more(row), "payload": payload}

        changed = await self.jobs.change(job_id, continued)
        return {"outcome": outcome, "job": found if changed is None else changed}

    async def requeue_job(self, job_id: str) -> bool:
        """Queue a failed or cancelled job for one more attempt, behind what its session has in line; whether it was
        one. A failure is logged, and False. 2 requests, 5 where it takes turns, 6 where it has to wait."""
        return await answered(self._requeue(job_id), False, f"job {job_id!r} was not queued again")

    async def _requeue(self, job_id: str) -> bool:
        if job_id == "":
            return False
        ref = TABLE.ref(job_id)

        async def attempt(fresh: bool) -> tuple[Row, Rev, turns.Line | None] | None:
            stored = await self.kernel.get(ref)
            row = TABLE.row(stored) if stored is not None else None
            if stored is None or row is None or row["status"] not in ("failed", "cancelled"):
                return None
            after, session_id, line = {**row, **self._once_more(row)}, _line(row), None
            also: Fields = {}
            if session_id is not None:
                left = await turns.leave(self.kernel, session_id, job_id, _in_line(self.kernel, session_id))
                if left.there or stored.fields["queue"] != _queue("ended"):
                    await _call_next(self.kernel, job_id, left)
                line = await turns.read(self.kernel, session_id) if left.there else left.line
                after["payload"] = {**row["payload"], "session_seq": line.next}
                also = self._put_off(after)  # nobody is to claim it out of line
            (rev,) = await self.kernel.commit([TABLE.put(after, stored.rev, also)])
            assert rev is not None
            return after, rev, line

        changed = await self.kernel.transact(f"requeueing of job {job_id!r}", attempt)
        if changed is None:
            return False
        after, rev, line = changed
        if line is not None:
            # It is queued, whatever comes of this: who looks for work comes across it before long.
            await answered(self._stand(after, rev, line, found=False), None, f"job {job_id!r} was given no place")
        return True

    def _once_more(self, row: Row) -> Row:
        now = self.kernel.now()
        free = {"locked_by": None, "locked_at": None, "completed_at": None}
        attempts = as_int(row["attempt"]) + 1
        return {"status": "queued", "max_attempts": attempts, "available_at": now, **free, "updated_at": now}

    # --- Sweeps -----------------------------------------------------------------------------------------------------

    async def sweep_exhausted_jobs(self, lock_grace_seconds: int = 60, limit: int = 20) -> list[Row]:
        """Running jobs whose worker has not been heard of for the grace and that have no attempt left, the longest
        first. Eventually consistent on DynamoDB. 1 request (DynamoDB: one for each shard of the index, and 1). Raises
        on a failed read.

        Where somebody ended a job so long ago, and died before he had called the next of its session, it is called
        here, up to 8 requests: so a turn that was lost is delayed by the grace and the time until the next sweep. A
        failure of that is logged, and the next sweep tries again.
        """
        return await self._sweep(self.kernel.now() - lock_grace_seconds, limit)

    async def _sweep(self, until: int, limit: int | None) -> list[Row]:
        query = Query(JOBS, (Eq("queue", _queue("exhausted")), Range("due_at", None, until)), "due_at")
        rows: list[Row] = []
        cursor: Any = None
        while limit is None or len(rows) < limit:
            page = CLEANUP_PAGE if limit is None else limit - len(rows)
            found, cursor = await self.kernel.stretch(query, cursor, page)
            for stored in found:
                row = TABLE.row(stored)
                if row["status"] in ENDED:
                    what = f"the job after {stored.ref.id!r} was not called"
                    await answered(_announce(self.kernel, row, stored.rev), None, what)
                else:
                    rows.append(row)
            if cursor is None:
                break
        return rows

    async def acquire_sweep(self, job_id: str, worker_id: str, lock_grace_seconds: int = 60) -> bool:
        """Take over a job that `sweep_exhausted_jobs` would name; whether it still is one. Of several workers one gets
        it. A failure is logged, and False. 2 requests."""

        def taken(row: Row) -> Row | None:
            now = self.kernel.now()
            stale = row["locked_at"] is not None and as_int(row["locked_at"]) <= now - lock_grace_seconds
            if row["status"] != "running" or not stale or as_int(row["attempt"]) < as_int(row["max_attempts"]):
                return None
            return {"locked_by": worker_id, "locked_at": now, "updated_at": now}

        return await answered(self.jobs.change(job_id, taken), None, f"job {job_id!r} was not taken over") is not None

    async def settle_swept_job(self, job_id: str, worker_id: str, status: str, error: str | None = None) -> bool:
        """End or pause a job that this worker has taken over; whether it holds it, and the status is one of these. A
        failure is logged, and False. 2 requests; 4 to 6 more where it ends and takes turns."""
        if status not in ENDED and status != "paused":
            return False

        def settled(row: Row) -> Row | None:
            held = row["status"] == "running" and row["locked_by"] == worker_id
            return self._ended(status, error) if held else None

        what = f"job {job_id!r} was not settled as {status!r}"
        return await answered(self._change(job_id, settled), None, what) is not None

    async def cleanup_jobs(self, older_than_seconds: int = 86400) -> int:
        """Delete jobs that ended so long ago, never a paused one; how many. What an interrupted call leaves, its
        repetition removes; a failure is logged, and 0. 1 request, 1 for 100 jobs, 1 for each, 1
        for each turn."""
        return await answered(self._cleanup(older_than_seconds), 0, "the queue was not cleaned of all that has ended")

    async def _cleanup(self, older_than_seconds: int) -> int:
        until = self.kernel.now() - older_than_seconds
        await self._sweep(until, None)  # among them may be what has ended, and its session does not know
        query = Query(JOBS, (Eq("queue", _queue("ended")), Range("due_at", None, until)), "due_at")
        removed, cursor = 0, None
        while True:
            found, cursor = await self.kernel.stretch(query, cursor, CLEANUP_PAGE)
            removed += sum(await self.kernel.io.gather(*(self._delete(record) for record in found)))
            if cursor is None:
                return removed

    async def _delete(self, record: Stored) -> bool:
        session_id = _line(TABLE.row(record))
        if session_id is not None:
            # Who was about to claim it when it ended may have put it in line again.
            await turns.leave(self.kernel, session_id, record.ref.id, _in_line(self.kernel, session_id))
        try:
            await self.kernel.commit([Delete(record.ref, record.rev)])
        except Conflict:  # it was queued again meanwhile, or another worker cleans up as well
            return False
        return True

    # --- Reading ----------------------------------------------------------------------------------------------------

    async def get_job(self, job_id: str, strict: bool = False) -> Row | None:
        """Read one job; None if there is none. Linearizable. 1 request. A failed read raises if `strict`, else it is
        logged, and None."""
        work = self.jobs.get(job_id)
        return await work if strict else await answered(work, None, f"job {job_id!r} could not be read")

    async def session_blocker(self, job_id: str) -> str | None:
        """The id of the job that a queued one waits behind in its session; None if it does not. Linearizable. 1
        request, and 2 or more where it takes turns. Raises on a failed read."""
        row = await self.jobs.get(job_id)
        session_id = _line(row) if row is not None and row["status"] == "queued" else None
        if session_id is None:
            return None
        return await turns.blocker(self.kernel, session_id, job_id, _in_line(self.kernel, session_id))

    async def count_queued_jobs(self) -> int:
        """How many jobs are queued. Eventually consistent on DynamoDB. The store's own count in 1 request. A failure
        is logged, and 0."""
        return await answered(self._waiting(), 0, "queued jobs could not be counted")

    async def list_jobs(
        self,
        status: str | list[str] | None = None,
        limit: int = 20,
        page: int = 1,
        sort_by: str | None = "created_at",
        sort_order: str | None = "desc",
        *,
        session_id: str | list[str] | None = None,
        user_id: str | None = None,
        raise_on_error: bool = False,
    ) -> tuple[list[Row], int]:
        """A page of jobs, the latest first, and how many match in all; every filter given is applied, a list as "one of
        these". Jobs that tie are in the order of their ids, whichever way is sorted, and so are all without a column to
        sort by; null comes last, or downwards first. Eventually consistent on DynamoDB. 1 to 6 requests by one filter
        and `created_at`, for which all jobs of the page's first and last second are looked at; else the headers of what
        the most selective filter leaves, or by a column that those have not, the jobs. A failed read is logged, and
        empty, unless `raise_on_error`."""
        where: list[Condition] = [] if user_id is None else [Eq("user_id", label("user_id", user_id))]
        for name, given in (("status", status), ("session_id", session_id)):
            if given is not None:
                values = [given] if isinstance(given, str) else list(given)
                if not values:
                    return [], 0
                where.append(In(name, tuple(label(name, value) for value in values)))
        sort, descending = order_of(sort_by, sort_order, SORTABLE, "id", ("id", False))
        query = Query(JOBS, tuple(where), sort, descending)

        async def listed() -> tuple[list[Row], int]:
            if sort in JOBS.fields or sort == "id":
                found, total = await page_by_id_where_tied(self.kernel, query, limit, max(page, 1))
                return [TABLE.row(stored) for stored in found], total
            offset, end = stretch(limit, max(page, 1))
            rows = [TABLE.row(stored) for stored in await self.kernel.page(replace(query, sort="id", descending=False))]
            rows.sort(key=lambda row: (row[sort] is None, rank(row[sort])), reverse=descending)
            return rows[offset:end], len(rows)

        return await listed() if raise_on_error else await answered(listed(), ([], 0), "jobs could not be listed")

    async def queue_stats(self) -> Row:
        """How many jobs there are by status (where there are any), and the age in seconds of the one that has been
        queued longest: {"counts", "oldest_queued_age_seconds"}. Eventually consistent on DynamoDB. 7 requests. A
        failure is logged, and empty."""
        nothing: Row = {"counts": {}, "oldest_queued_age_seconds": None}
        return await answered(self._stats(), nothing, "the queue's figures could not be read")

    async def _stats(self) -> Row:
        queries = [Query(JOBS, (Eq("status", status),), "created_at") for status in JOB_STATUSES]
        numbers = await self.kernel.io.gather(*map(self.kernel.count, queries))
        counts = {status: number for status, number in zip(JOB_STATUSES, numbers, strict=True) if number}
        oldest = await self.kernel.page(queries[JOB_STATUSES.index("queued")], limit=1, body=False)
        age = self.kernel.now() - as_int(oldest[0].fields["created_at"]) if oldest else None
        return {"counts": counts, "oldest_queued_age_seconds": age}


def _held(row: Row, worker_id: str, attempt: int) -> bool:
    """Whether it is this worker, in this attempt, that holds a job."""
    return (row["status"], row["locked_by"], row["attempt"]) == ("running", worker_id, attempt)

"""Sessions that expire, and the sweep that removes what is left of them: what is asked of a store beyond `BaseDb`.

Invariants: what has not expired is never removed, whatever a clock, a crash or another process does between two steps:
a session is taken away under the revision that was found expired; runs go after it, by the history they belong to. A
sweep goes by reminders, which are there before what they are about and go after it, so that one that is killed, and the
store's own reaper, leave nothing that the next does not find. Processes that sweep at once share the work: each claims
a session for a while before it removes it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agno.db.utils import owner_key

from agno_docstores import chunks
from agno_docstores.codec import NULL, Json
from agno_docstores.errors import Conflict, DocstoreError
from agno_docstores.history import GRACE, WAITS, Histories, history_ref, live, session_ref
from agno_docstores.kernel import Kernel, Query, expired
from agno_docstores.keys import check_id
from agno_docstores.lifetimes import HELD, Seconds, due, ended_at, is_held, reminder, seconds_of
from agno_docstores.port import Delete, Eq, Put, Range, Stored, Touch, Write, as_int
from agno_docstores.schema import REMINDERS, RUNS, SESSIONS, reminder_ref
from agno_docstores.session_records import Session, commit_reminded, readable, to_session

log = logging.getLogger("agno_docstores")

PAGE = 100  # reminders, or sessions, that are looked at together
CLAIM = 300  # seconds that a process has to remove a session before another takes it up


@dataclass(frozen=True, slots=True)
class SweepFailure:
    """A session that is still there, wholly or in part, and why. `session_id` None: a lookup failed."""

    session_id: str | None
    error: Exception


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What a sweep removed, or would remove (`dry_run`).

    `sessions`: how many; `runs`: how many of theirs. `bytes`: of the JSON text of both, and of pieces of large values
    without their record, uncompressed and without what a store adds. `seconds`: how long it took. `failures`: what
    could not be removed; the next sweep tries again.
    """

    dry_run: bool
    sessions: int
    runs: int
    bytes: int
    seconds: float
    failures: tuple[SweepFailure, ...]

    @property
    def complete(self) -> bool:
        """Whether nothing failed."""
        return not self.failures


@dataclass(frozen=True, slots=True)
class Found:
    """A session that has expired: its record and history, as far as they are there, and the runs that go with it."""

    session_id: str
    session: Stored | None
    head: Stored | None
    runs: Sequence[Stored]

    @property
    def size(self) -> int:
        body = self.session.body or {} if self.session is not None else {}
        large = self.session.rev.manifest if self.session is not None else None
        own: int = large.size if large is not None else sum(part.size for part in body.values())
        return own + sum(as_int(run.fields.get("size")) for run in self.runs)


@dataclass(slots=True)
class _Sweep:
    """A sweep under way."""

    limit: int | None
    dry_run: bool
    sessions: int = 0
    runs: int = 0
    bytes: int = 0
    failures: list[SweepFailure] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    @property
    def over(self) -> bool:
        return self.limit is not None and self.sessions + len(self.failures) >= self.limit

    def count(self, found: Found) -> None:
        self.sessions += 1
        self.runs += len(found.runs)
        self.bytes += found.size


class Lifetimes:
    def __init__(self, kernel: Kernel, histories: Histories) -> None:
        self.kernel = kernel
        self.histories = histories

    async def touch_session(self, session_id: str, *, ttl: Seconds | None = None, user_id: str | None = None) -> bool:
        """Put off the expiry of a session, as a write of it would: it is as from now, plus the lifetime of sessions, or
        plus `ttl` (seconds, or a `timedelta`), which may be shorter. Nothing else of it changes.

        True if it was done; also where a run awaits a human, and the session does not expire before that goes on. False
        if there is no such session of this user, or it has expired: nothing brings that back. Raises `ValueError`
        where neither `ttl` nor the store's `session_config` says how long. 2 requests.
        """
        check_id("session_id", session_id)
        life = self.histories.life if ttl is None else seconds_of("ttl", ttl)
        if life is None:
            raise ValueError("this store's sessions have no lifetime: pass ttl, or set session_config")

        async def attempt(fresh: bool) -> bool:
            session, head = await self.histories.heads(session_id)
            if session is None or head is None or not readable(session, user_id):
                return False
            if not is_held(session):
                await self._set_expiry(session, head, self.kernel.now() + life)
            return True

        return await self.kernel.transact(f"touch of session {session_id!r}", attempt)

    async def _set_expiry(self, session: Stored, head: Stored, expires_at: int) -> Stored:
        """Change the expiry of a session that is as it was read, and nothing else; its record then."""
        session_id = session.ref.id
        writes: list[Write] = [Touch(session.ref, expires_at, session.rev)]
        if not head.fields.get("mortal"):
            writes.append(Put(head.ref, {**head.fields, "mortal": True}, {}, head.rev))
        reminding: list[Write] = []
        if session.expires_at is None or expires_at < session.expires_at:
            reminding.append(self.histories.reminder(session_id, expires_at))
        self.histories.forget_heads(session_id)
        rev, *_ = await commit_reminded(self.kernel, writes, reminding)
        assert rev is not None
        return replace(session, rev=rev, expires_at=expires_at)

    async def get_expired_sessions(self, limit: int | None = None, *, user_id: str | None = None) -> list[Session]:
        """The sessions that have expired and that no sweep has removed yet, without their runs, the longest due first;
        with them those that were written before there was a lifetime, and that a sweep would remove.

        No other read shows them. Those that the store's own reaper has removed are not among them, though a sweep has
        their runs to remove. 1 request for each 100 sessions that are due to be looked at, and 3 for each.
        """
        if limit is not None and limit < 0:
            raise ValueError(f"`limit` must not be negative; got {limit}.")
        whose = owner_key(user_id)
        sessions: list[Session] = []
        seen: set[str] = set()
        for query in self._queries():
            cursor: Any = None
            while limit is None or len(sessions) < limit:
                ids, cursor = await self._due(query, cursor)
                for session_id in ids:
                    found = await self._expired(session_id)
                    session = found.session if found is not None else None
                    if session is None or not readable(session, whose) or session_id in seen:
                        continue
                    seen.add(session_id)
                    (whole,) = await self.kernel.get_many([session.ref], expired=True)
                    if whole is not None:
                        sessions.append(to_session(whole, None, None))
                if cursor is None:
                    break
        return sessions[:limit]

    async def sweep(self, limit: int | None = None, *, dry_run: bool = False) -> SweepReport:
        """Remove the sessions that have expired, with their runs; what the store's own reaper has left of others;
        whatever an interrupted sweep or deletion of such has left; and the pieces of large values, of whatever kind,
        that a writer who was killed, or a deletion, left without their record.

        At most `limit` sessions. `dry_run`: nothing is written, the report says what would be removed. Any number of
        processes may sweep at once, and be killed: what one has begun, the next sweep goes on with, after some minutes
        at most. A session that cannot be removed is reported, logged and passed over. Sessions from before there was a
        lifetime get one, from their last write or run on, and go if it is over. A session whose run awaits a human
        stays. Requests: 1 for each 100 sessions due to be looked at, each of which is due once in its lifetime: 2 for
        one that lives, some 8 and its runs for one that has expired. Eventually consistent on DynamoDB.
        """
        if limit is not None and limit < 0:
            raise ValueError(f"`limit` must not be negative; got {limit}.")
        started = self.kernel.io.now()
        sweep = _Sweep(limit, dry_run)
        for query in self._queries():
            await self._sweep(sweep, query)
        if not dry_run:
            await self._collect(sweep)
        return SweepReport(
            dry_run,
            sweep.sessions,
            sweep.runs,
            sweep.bytes,
            self.kernel.io.now() - started,
            tuple(sweep.failures),
        )

    async def _collect(self, sweep: _Sweep) -> None:
        """Remove the pieces of large values that have lost their head."""
        query = due(self.kernel.now(), about=chunks.ABOUT)
        cursor: Any = None
        while True:
            try:
                records, cursor = await self.kernel.stretch(query, cursor, PAGE)
            except DocstoreError as error:
                log.error("sweep: what is due could not be looked up: %s", error)
                sweep.failures.append(SweepFailure(None, error))
                return
            for record in records:
                try:
                    sweep.bytes += (await chunks.collect(self.kernel, record)).bytes
                except DocstoreError as error:
                    log.error("sweep: pieces of a large value not removed: %s", error)
                    sweep.failures.append(SweepFailure(None, error))
            if cursor is None:
                return

    def _queries(self) -> list[Query]:
        """Where to look: at the reminders that are due; and at the sessions that were last written longer ago than a
        life, among which are those that were never given an expiry."""
        queries = [due(self.kernel.now(), about=SESSIONS.name)]
        if self.histories.life is not None:
            old = Range("touched_at", None, self.kernel.now() - self.histories.life)
            queries.append(Query(SESSIONS, (old,), "touched_at"))
        return queries

    async def _due(self, query: Query, cursor: Any) -> tuple[dict[str, Stored | None], Any]:
        """The sessions of a stretch of one of these, each with its reminder if that is how it was found."""
        by_reminder = query.kind is REMINDERS
        records, further = await self.kernel.stretch(query, cursor, PAGE, body=by_reminder)
        if by_reminder:
            return {str(record.fields["target"]): record for record in records}, further
        return {record.ref.id: None for record in records if record.expires_at is None}, further

    async def _sweep(self, sweep: _Sweep, query: Query) -> None:
        cursor: Any = None
        while not sweep.over:
            try:
                ids, cursor = await self._due(query, cursor)
            except DocstoreError as error:
                log.error("sweep: what is due could not be looked up: %s", error)
                sweep.failures.append(SweepFailure(None, error))
                return
            for session_id, reminding in ids.items():
                if sweep.over or session_id in sweep.seen:
                    continue
                sweep.seen.add(session_id)
                try:
                    await self._look(sweep, session_id, reminding)
                except Conflict:
                    continue  # somebody wrote to it, or removes it: it is due again when it is
                except DocstoreError as error:
                    log.error("sweep: session %r not removed: %s", session_id, error)
                    sweep.failures.append(SweepFailure(session_id, error))
            if cursor is None:
                return

    async def _look(self, sweep: _Sweep, session_id: str, reminding: Stored | None) -> None:
        """Look at one session that is due: remove it if it has expired, else see to it that it is looked at again."""
        found = await self._expired(session_id, settle=not sweep.dry_run, reminding=reminding)
        if found is None:
            return
        if not sweep.dry_run:
            if reminding is None:
                reminding = await self.kernel.get(reminder_ref(SESSIONS.name, session_id))
            # Before the claim, which takes the place of what the reminder says.
            now, life = self.kernel.io.now(), self.histories.life
            ended = ended_at(found.session, found.head, reminding, now, life)
            if reminding is not None:
                claim = replace(reminder(session_id, self.kernel.now() + CLAIM), expect=reminding.rev)
                (rev,) = await self.kernel.commit([claim])
                assert rev is not None
                reminding = replace(reminding, rev=rev)
            await self.remove(found, reminding, ended)
        sweep.count(found)

    async def _expired(self, session_id: str, *, settle: bool = False, reminding: Stored | None = None) -> Found | None:
        """A session with all that is left of it, if it has expired; else None, and with `settle` it gets the expiry and
        the reminder that are due to it. Raises `Conflict` where it changes meanwhile."""
        # A large body is not put together: what is to be removed need not be whole.
        refs = [session_ref(session_id), history_ref(session_id)]
        session, head = (
            chunks.noted(record) if record is not None else None for record in await self.kernel.read_records(refs)
        )
        now, life = self.kernel.now(), self.histories.life
        alive = session is not None and not expired(session, now)
        if head is None:
            if alive:
                return None
            strays = await self.kernel.page(Query(RUNS, (Eq("session_id", session_id),), "run_index"), body=False)
            return Found(session_id, session, None, [run for run in strays if live(run)])
        if session is not None and alive and session.expires_at is not None and not is_held(session):
            if settle and reminding is not None:
                await self._remind(reminding, session.expires_at)
            return None
        runs, complete = await self.histories.headers(session_id, head)
        runs = [run for run in runs if live(run)]
        found = Found(session_id, session, head, runs)
        waits = any(run.fields.get("status") == WAITS for run in runs)
        if session is None or head.fields.get("deleting") or not (alive or waits):
            return found
        if waits:
            expires_at = HELD  # also if it was let expire by a writer who gives sessions no lifetime
        elif is_held(session):
            if life is None or not (complete or _seen(reminding) == session.rev.token):
                # The run that waits may just be being written. If this is so at the next look, its writer has died.
                if settle and reminding is not None:
                    await self._remind(reminding, now + GRACE, seen=session.rev.token)
                return None
            expires_at = now + life
        elif life is None:
            # Begun anew by somebody who gives sessions no lifetime.
            if settle and reminding is not None:
                await self.kernel.commit([Delete(reminding.ref, reminding.rev)])
            return None
        else:
            written = [as_int(record.fields.get("updated_at")) for record in runs]
            expires_at = max([as_int(session.fields.get("touched_at")), *written]) + life
        if not settle:
            return found if expires_at <= now else None
        if expires_at != session.expires_at:
            session = await self._set_expiry(session, head, expires_at)
            head = await self.kernel.get(head.ref)
        if expires_at <= now:
            return replace(found, session=session, head=head)
        if reminding is not None:
            await self._remind(reminding, expires_at)
        return None

    async def _remind(self, reminding: Stored, expires_at: int, *, seen: str | None = None) -> None:
        """Set a reminder to a later time. `seen`: the version of the session that it was then."""
        put = self.histories.reminder(str(reminding.fields["target"]), expires_at)
        await self.kernel.commit([replace(put, body={"what": Json.of(seen)}, expect=reminding.rev)])

    async def remove(self, found: Found, reminding: Stored | None, ended: int | None) -> None:
        """Remove an expired session as it was found. `ended`: when it did, microseconds since the epoch. Raises
        `Conflict` if it is no longer as it was found."""
        if found.head is None:
            if found.session is not None:
                await self.kernel.commit([Delete(found.session.ref, found.session.rev)])
            await self.histories.purge_strays(found.session_id, ended)
            if reminding is not None:
                await self.kernel.commit([Delete(reminding.ref, reminding.rev)])
            return
        head = found.head
        if not head.fields.get("deleting"):
            head = await self.histories.condemn(found.session, head, ended)
        await self.histories.purge(found.session_id, head, begun_anew=True)


def _seen(reminding: Stored | None) -> Any:
    return (reminding.body or {}).get("what", NULL).value() if reminding is not None else None

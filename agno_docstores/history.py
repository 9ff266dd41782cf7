"""The history of a session: its runs in order, cached so that a read moves only what changed.

Every write of a run takes the next *revision* of the session's history. Where a commit can span records (DynamoDB,
Firestore) the run and the revision are one commit, so whoever reads revision R first and the runs after it sees every
run up to R. Where it cannot (MongoDB without transactions) the revision is taken first and the run written after it:

- a reader may see R before run R is there, and a writer may die in between. So a cache believes only what it saw
  without a gap (`_believed`), and asks again for everything above. A gap costs one small read, never a run.
- a gap is closed when later runs have been there for longer than a writer may take: a writer that has not finished
  within `WRITE_LEASE` of taking a revision takes another one.

Rewriting a run takes a new revision and notes the one it replaces; deleting one is rewriting it as a tombstone, which
other processes' caches see like any change, and which expires. An *incarnation*, drawn when the session is created,
marks its runs, so that a run written by a straggler after a session was deleted never shows up in the next session of
that id.

Where sessions have a lifetime, the write of a run checks that the session has not expired, and moves its expiry: by a
touch of the session's record, in the same commit, or where a commit holds one record, between the revision and the run.
A run that waits for a human holds the session: its expiry is put off beyond all time until the last such run goes on.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

from agno_docstores.codec import LONG, Json
from agno_docstores.companions import remove_companions
from agno_docstores.errors import Conflict, DocstoreError, OwnershipError, SessionNotFoundError
from agno_docstores.kernel import Kernel
from agno_docstores.lifetimes import HELD, SLACK, SLACK_PART, UNKNOWN_LIFE, ended_at, is_held, micros, reminder
from agno_docstores.port import (
    Condition,
    Delete,
    Eq,
    Expect,
    FieldValue,
    In,
    Put,
    Ref,
    Span,
    Stored,
    Touch,
    Write,
    as_int,
)
from agno_docstores.schema import HISTORIES, RUNS, SESSIONS, reminder_ref
from agno_docstores.tallies import withdraw

log = logging.getLogger("agno_docstores")

WRITE_LEASE = 120  # seconds a writer has between taking a revision and storing its run
GRACE = 600  # seconds after which a revision that never appeared is given up; clocks may differ by the rest
TOMBSTONE_LIFE = 7 * 86_400  # seconds that a deleted run is remembered for other processes' caches
#: In a history, that something has changed that the metrics count.
MARKED: Mapping[str, FieldValue] = {"uncounted": True}
WAITS = "PAUSED"  # the status of a run that awaits a human
MOST_RUNS = 100  # asked for at a time where a walk may end early
CACHE_LIFE = 86_400  # seconds after which a cached history that was not looked at is dropped; far below the above


def session_ref(session_id: str) -> Ref:
    return Ref(SESSIONS.name, session_id)


def history_ref(session_id: str) -> Ref:
    return Ref(HISTORIES.name, session_id)


def run_ref(run_id: str, session_id: str | None = None, order: int | None = None) -> Ref:
    return Ref(RUNS.name, run_id, session_id, order)


def live(run: Stored | None) -> bool:
    """Whether this is a run, and not nothing or the tombstone of one."""
    return run is not None and not run.fields.get("deleted")


def is_long_to_read(records: Iterable[Stored]) -> bool:
    """Whether to make objects of these takes long enough to hold up an event loop."""
    return sum(len(part.text) for record in records for part in (record.body or {}).values()) >= LONG


@dataclass(frozen=True, slots=True)
class RunDraft:
    """What a decision about a run comes to: the new fields and body, and the run_index asked for (for a new run)."""

    fields: Mapping[str, FieldValue]
    run_data: Json
    run_index: int | None = None
    expires_at: int | None = None
    #: Fields of the session's own record and body that change together with the run.
    session: tuple[Mapping[str, FieldValue], Mapping[str, Json]] | None = None


@dataclass(frozen=True, slots=True)
class Before:
    """What the write of a run finds: the session it goes to and the head of its history; `session`: its record, where
    it may have an expiry; `existing`: what is stored under the run's id, be it a tombstone or another history's."""

    session_id: str
    head: Stored
    session: Stored | None
    existing: Stored | None
    #: The head of another history that is there, where `existing` is a tombstone of that.
    left: Stored | None = None
    #: Whether what is stored is of this history, and not left behind by a session that had this id before.
    is_own: bool = field(init=False)
    #: The run as it is.
    run: Stored | None = field(init=False)

    def __post_init__(self) -> None:
        there = self.existing
        is_own = there is not None and there.fields.get("incarnation") == self.head.fields["incarnation"]
        object.__setattr__(self, "is_own", is_own)
        object.__setattr__(self, "run", there if is_own and live(there) else None)

    @property
    def waits(self) -> bool:
        return self.run is not None and self.run.fields.get("status") == WAITS


@dataclass(frozen=True, slots=True)
class CachedHistory:
    """Runs of one session by id, complete and current up to the revision `believed`. Replaced whole, never changed."""

    incarnation: str
    believed: int
    runs: dict[str, Stored]
    checked_at: int
    size: int
    epoch: int = 0

    def ordered(self) -> list[Stored]:
        return sorted(self.runs.values(), key=_position)


def _position(run: Stored) -> tuple[int, int, str]:
    return _int(run, "run_index"), _int(run, "created_at"), run.ref.id


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What a handle's cache of histories has done since the handle was made.

    A history that is to be read is found as it is now ("hits": no run is read), found with a gap ("updates": only the
    runs that changed are), or not found ("misses": all that are asked for are read). Sizes are characters of the runs'
    JSON text, which are bytes but for letters beyond ASCII.
    """

    hits: int
    updates: int
    misses: int
    evictions: int  # histories that made room for others
    bytes_saved: int  # of runs that were answered without being read
    entries: int  # histories that are held now
    bytes_held: int  # now
    limit: int  # `cache_bytes`: what `bytes_held` does not exceed; 0: nothing is kept


class Histories:
    """The histories of one docstore. `cache_bytes` bounds the text of the runs that are kept; 0: none are.

    The cache is never believed without a look at the history's record, which every read makes anyway: so what other
    processes write is seen at once.
    """

    def __init__(
        self, kernel: Kernel, *, life: int | None = None, cache_bytes: int = 64_000_000, cache_sessions: int = 256
    ) -> None:
        """`life`: seconds from the last write of a session to its expiry; None: this handle gives it none."""
        self.kernel = kernel
        self.life = life
        self._cache_bytes = cache_bytes
        self._cache_sessions = cache_sessions
        self._cache: OrderedDict[str, CachedHistory] = OrderedDict()
        self._events: Counter[str] = Counter()

    # --- Reading ----------------------------------------------------------------------------------------------------

    async def heads(self, session_id: str) -> tuple[Stored | None, Stored | None]:
        """The session's record and its history's, read now. 1 request. A session being deleted is not there."""
        session, head = await self.kernel.get_many([session_ref(session_id), history_ref(session_id)])
        self.kernel.recent.note(session_ref(session_id), session)
        self.kernel.recent.note(history_ref(session_id), head)
        if head is not None and head.fields.get("deleting"):
            return None, head
        return session, head

    async def load(self, session_id: str, head: Stored) -> list[Stored]:
        """All runs in order, `head` having been read before. 0 requests if the cache is current, else those of the
        runs that changed; without a cache, all of them."""
        history, read = await self._current(session_id, head)
        self._events["saved"] += history.size - sum(_size(run) for run in read if run.ref.id in history.runs)
        return history.ordered()

    async def _current(self, session_id: str, head: Stored) -> tuple[CachedHistory, list[Stored]]:
        """The history up to `head`, and the runs that had to be read for it."""
        known = self._known(session_id, head)
        read: list[Stored] = []
        if known is None and _int(head, "revision") == 0:
            known = _nothing_of(head)  # no run was ever written
        elif known is None:
            self._events["misses"] += 1
            read = await self.kernel.span(Span(RUNS.name, "order", (session_id,)))
            known = self._merged(_nothing_of(head), read, head)
        elif known.believed < _int(head, "revision"):
            self._events["updates"] += 1
            read = await self.kernel.span(Span(RUNS.name, "changes", (session_id,), low=known.believed + 1))
            known = self._merged(known, read, head)
        else:
            self._events["hits"] += 1
        self._remember(session_id, replace(known, checked_at=self.kernel.now()))
        return known, read

    async def last(self, session_id: str, head: Stored, where: tuple[Condition, ...], limit: int) -> list[Stored]:
        """The last `limit` runs that satisfy the conditions, oldest first. From the cache if there is one; else a scan
        from the end that reads little more than those."""
        found: list[Stored] = []

        def take(run: Stored) -> bool:
            found.append(run)
            return len(found) >= limit

        if limit > 0:
            await self.walk(session_id, head, where, take, page=limit)
        return sorted(found, key=_position)

    async def walk(
        self,
        session_id: str,
        head: Stored,
        where: tuple[Condition, ...],
        take: Callable[[Stored], bool],
        *,
        page: int,
        from_end: bool = True,
        few: bool = False,
    ) -> bool:
        """Hand the runs that satisfy the conditions to `take`, the newest first (or the oldest), until it says that it
        has enough; whether it did.

        0 or 1 requests if this handle has the history; else one for each page, the first of `page` runs and each twice
        as long as that before. `few` runs may satisfy the conditions: where the store cannot filter, the headers of all
        are read first, and then the bodies of those.
        """
        conditions = (*where, Eq("incarnation", head.fields["incarnation"]))  # type: ignore[arg-type]

        def enough(runs: Iterable[Stored | None]) -> bool:
            return any(
                run is not None and live(run) and all(c.holds(run.fields) for c in conditions) and take(run)
                for run in runs
            )

        if self._known(session_id, head) is not None:
            history, read = await self._current(session_id, head)
            new, known = {run.ref.id for run in read}, history.ordered()
            return enough(self._saving(reversed(known) if from_end else known, new))
        self._events["misses"] += 1
        span = Span(RUNS.name, "order", (session_id,), descending=from_end, where=conditions)
        if few and not all(type(condition) in self.kernel.driver.pushes for condition in conditions):
            headers = await self.kernel.span(replace(span, body=False))
            for start, end in _pages(len(headers), page):
                if enough(await self.kernel.get_many([header.ref for header in headers[start:end]])):
                    return True
            return False
        while True:
            runs = await self.kernel.span(replace(span, limit=page))
            if enough(runs):
                return True
            edge = _int(runs[-1], "run_index") if runs else 0  # unique in a session
            if len(runs) < page or (from_end and edge == 0):
                return False
            span = replace(span, high=edge - 1) if from_end else replace(span, low=edge + 1)
            page = min(2 * page, MOST_RUNS)

    def _saving(self, runs: Iterable[Stored], read: Collection[str]) -> Iterator[Stored]:
        """These runs, each counted as saved when it is looked at, unless it was read just now."""
        for run in runs:
            if run.ref.id not in read:
                self._events["saved"] += _size(run)
            yield run

    def _known(self, session_id: str, head: Stored) -> CachedHistory | None:
        known = self._cache.get(session_id)
        if known is None or known.incarnation != head.fields.get("incarnation") or known.epoch != _int(head, "epoch"):
            return None
        if known.checked_at + CACHE_LIFE < self.kernel.now() or known.believed > _int(head, "revision"):
            return None
        return known

    def _merged(self, known: CachedHistory, changed: list[Stored], head: Stored) -> CachedHistory:
        runs = dict(known.runs)
        size = known.size
        own = [run for run in changed if run.fields.get("incarnation") == known.incarnation]
        for run in own:
            before = runs.pop(run.ref.id, None)
            size -= _size(before)
            if live(run):
                runs[run.ref.id] = run
                size += _size(run)
        return replace(
            known, believed=self._believed(known, own, head), runs=runs, checked_at=self.kernel.now(), size=size
        )

    def _believed(self, known: CachedHistory, changed: list[Stored], head: Stored) -> int:
        """Up to which revision nothing can be missing, `changed` having been read after `head`."""
        revision = _int(head, "revision")
        if self.kernel.driver.atomic:
            return revision
        accounted = {_int(run, name) for run in changed for name in ("revision", "replaces")}
        settled = self.kernel.now() - GRACE
        old = [_int(run, "revision") for run in changed if _int(run, "updated_at") < settled]
        for number in range(max([known.believed, *old]) + 1, revision + 1):
            if number not in accounted:
                return number - 1
        return revision

    def _remember(self, session_id: str, history: CachedHistory) -> None:
        if self._cache_bytes <= 0 or history.size > self._cache_bytes:
            # Kept, it would drive out all others, and then itself.
            self._events["evictions"] += self._cache.pop(session_id, None) is not None
            return
        self._cache[session_id] = history
        self._cache.move_to_end(session_id)
        total = sum(entry.size for entry in list(self._cache.values()))
        while self._cache and (total > self._cache_bytes or len(self._cache) > self._cache_sessions):
            try:
                _, dropped = self._cache.popitem(last=False)
            except KeyError:  # another thread emptied it meanwhile
                break
            total -= dropped.size
            self._events["evictions"] += 1

    def stats(self) -> CacheStats:
        held = list(self._cache.values())
        counted = {name: self._events[name] for name in ("hits", "updates", "misses", "evictions")}
        size = sum(history.size for history in held)
        limit = max(self._cache_bytes, 0)
        return CacheStats(**counted, bytes_saved=self._events["saved"], entries=len(held), bytes_held=size, limit=limit)

    def clear(self) -> None:
        """Forget all histories; what was counted stays."""
        self._cache.clear()

    def forget(self, session_id: str) -> None:
        self._cache.pop(session_id, None)
        self.forget_heads(session_id)

    def forget_heads(self, session_id: str) -> None:
        self.kernel.recent.forget(session_ref(session_id))
        self.kernel.recent.forget(history_ref(session_id))

    def begin(self, session_id: str, head: Stored) -> None:
        """A session was created just now: its history is known to be empty."""
        self._remember(session_id, replace(_nothing_of(head), checked_at=self.kernel.now()))

    # --- Writing ----------------------------------------------------------------------------------------------------

    async def write_run(
        self,
        run_id: str,
        session_id: str,
        user_id: str | None,
        decide: Callable[[Stored | None, Stored], RunDraft | None],
        *,
        look_first: bool = False,
    ) -> Stored | None:
        """Store a run under the condition that its session is unowned or `user_id`'s; the run as stored.

        `decide(existing, head)` says what to store, or None for nothing; it may be called again. A run that exists
        stays in the session it is in. Assumes that an unknown run is new, unless `look_first`. Order and revision come
        from the session's history. Raises `SessionNotFoundError`, `OwnershipError`. 1 request where the history was
        read by this handle before and commits are atomic, 2 otherwise.
        """

        async def attempt(fresh: bool) -> Stored | None:
            before = await self._before_write(run_id, session_id, user_id, fresh or look_first)
            there = () if before.run is None else (before.run,)
            draft = await self.kernel.io.work(partial(is_long_to_read, there), decide, before.run, before.head)
            if draft is None:
                return None
            stored = await self._store(run_id, user_id, before, draft)
            if before.waits and not _waits(draft):
                await self._let_go(before.session_id)
            return stored

        async with self.kernel.io.lock(f"history/{session_id}"):
            return await self.kernel.transact(f"write of run {run_id!r} to session {session_id!r}", attempt)

    async def _before_write(self, run_id: str, session_id: str, user_id: str | None, look: bool) -> Before:
        """What is written to, as remembered or read. Nothing is refused on remembered state."""
        head = self.kernel.recent.get(history_ref(session_id))
        session = self.kernel.recent.get(session_ref(session_id))
        existing: Stored | None = None
        if not look and isinstance(head, Stored):
            known = self._known(session_id, head)
            existing = known.runs.get(run_id) if known is not None else None
        if (
            look
            or not isinstance(head, Stored)
            or not self._may_write(head, user_id)
            or (self._is_mortal(head) and not isinstance(session, Stored))
        ):
            refs = [run_ref(run_id), history_ref(session_id)]
            mortal = self.life is not None or (isinstance(head, Stored) and self._is_mortal(head))
            existing, head, *more = await self.kernel.get_many([*refs, session_ref(session_id)] if mortal else refs)
            session = more[0] if more else None
            self.kernel.recent.note(history_ref(session_id), head)
        home = str(existing.fields["session_id"]) if existing is not None and live(existing) else session_id
        elsewhere, session_id, left = home != session_id, home, None
        if elsewhere:
            session, head = await self.heads(session_id)
        elif existing is not None and existing.fields["session_id"] != session_id:
            # A tombstone, from which other processes learn of the deletion: nobody else may take it away, and whoever
            # may has them read that history anew.
            _, left = await self.heads(str(existing.fields["session_id"]))
            if left is not None and not _owned_or_free(left, user_id):
                raise OwnershipError("run", run_id, user_id)
            if left is not None and left.fields["incarnation"] != existing.fields.get("incarnation"):
                left = None  # begun anew since, and never had that run
        if head is None or head.fields.get("deleting"):
            raise SessionNotFoundError(session_id)
        if self._is_mortal(head):
            if not isinstance(session, Stored):
                session = await self.kernel.get(session_ref(session_id))
            if session is None:  # it has expired, or the store has removed it for that
                raise SessionNotFoundError(session_id)
            self.kernel.recent.note(session.ref, session)
        if not self._may_write(head, user_id):
            # Of another's run it is not told which session it is in.
            raise OwnershipError(*(("run", run_id) if elsewhere else ("session", session_id)), user_id)
        before = Before(session_id, head, session if isinstance(session, Stored) else None, existing, left)
        if before.run is not None and not _owned_or_free(before.run, user_id):
            raise OwnershipError("run", run_id, user_id)
        return before

    def _is_mortal(self, head: Stored) -> bool:
        """Whether a session may have an expiry."""
        return self.life is not None or bool(head.fields.get("mortal"))

    @staticmethod
    def _may_write(head: Stored, user_id: str | None) -> bool:
        return _owned_or_free(head, user_id) and not head.fields.get("deleting")

    async def _store(self, run_id: str, user_id: str | None, before: Before, draft: RunDraft) -> Stored:
        session_id, head, existing = before.session_id, before.head, before.existing
        atomic = self.kernel.driver.atomic
        keeps_place = before.run is not None or (before.is_own and bool(draft.fields.get("deleted")))
        step = 0
        if not keeps_place:
            step = max(1, (draft.run_index if draft.run_index is not None else -1) + 1 - _int(head, "next_index"))
        expires_at = self._moved(before, draft)
        changes: dict[str, FieldValue] = {**MARKED}
        if expires_at is not None:
            changes["mortal"] = True
        if atomic:
            counted = {"revision": _int(head, "revision") + 1, "next_index": _int(head, "next_index") + step}
            after = replace(head, fields={**head.fields, **changes, **counted})
        else:
            after = await self._take_revision(session_id, head, user_id, step, changes)
        started = self.kernel.io.now()
        index = _int(existing, "run_index") if keeps_place and existing is not None else _int(after, "next_index") - 1
        fields: dict[str, FieldValue] = {
            **draft.fields,
            "session_id": session_id,
            "run_index": index,
            "revision": after.fields["revision"],
            "replaces": existing.fields.get("revision") if existing is not None else None,
            "incarnation": after.fields["incarnation"],
            "size": draft.run_data.size if not draft.fields.get("deleted") else 0,
        }
        put = Put(
            run_ref(run_id, session_id, index),
            fields,
            {"run_data": draft.run_data},
            existing.rev if existing is not None else Expect.ABSENT,
            draft.expires_at,
        )
        session = await self._session_change(before, draft, expires_at)
        first = session is not None and before.session is not None and before.session.expires_at is None
        due = [self.reminder(session_id, expires_at)] if expires_at is not None and first else []
        away = [self._without_tombstone(before.left)] if before.left is not None else []
        if atomic:
            own = [put, Put(history_ref(session_id), after.fields, {}, head.rev)]
            revs = await self.kernel.commit([*own, *([session] if session is not None else []), *due, *away])
            head_rev, session_rev = revs[1], revs[2] if session is not None else None
        else:
            for write in (*due, *away):
                await self.kernel.commit([write])
            session_rev = (await self.kernel.commit([session]))[0] if session is not None else None
            revs, head_rev = await self.kernel.commit([put]), None
        if not atomic and self.kernel.io.now() - started > WRITE_LEASE:
            # Readers may have given this revision up: store the run again under a new one.
            self.kernel.recent.forget(history_ref(session_id))
            raise Conflict([put.ref])
        rev = revs[0]
        assert rev is not None
        if isinstance(session, Touch) and before.session is not None and session_rev is not None:
            touched = replace(before.session, rev=session_rev, expires_at=session.expires_at)
            self.kernel.recent.note(session.ref, touched)
        stored = Stored(put.ref, rev, dict(fields), {"run_data": draft.run_data}, draft.expires_at)
        self._note_write(session_id, replace(after, rev=head_rev or after.rev), stored)
        return stored

    @staticmethod
    def _without_tombstone(head: Stored) -> Put:
        """Another history, of which a tombstone is taken away: caches that have not seen it are to be read anew."""
        return Put(head.ref, {**head.fields, "epoch": _int(head, "epoch") + 1}, {}, head.rev)

    async def _session_change(self, before: Before, draft: RunDraft, expires_at: int | None) -> Put | Touch | None:
        """What becomes of the session's own record with a run: its content where the draft says so, its expiry, or
        nothing."""
        if draft.session is None:
            if expires_at is None:
                return None
            assert before.session is not None
            return Touch(before.session.ref, expires_at, before.session.rev)
        session = await self.kernel.get(session_ref(before.session_id))
        if session is None:
            raise SessionNotFoundError(before.session_id)
        fields, body = draft.session
        self.kernel.recent.forget(session.ref)
        return Put(
            session.ref,
            {**session.fields, **fields, "version": _int(session, "version") + 1},
            {**(session.body or {}), **body},
            session.rev,
            expires_at if expires_at is not None else session.expires_at,
        )

    async def _take_revision(
        self, session_id: str, head: Stored, user_id: str | None, step: int, also: Mapping[str, FieldValue]
    ) -> Stored:
        guard: list[Condition] = [Eq("deleting", False), Eq("incarnation", head.fields["incarnation"])]  # type: ignore[arg-type]
        if user_id is not None:
            guard.append(In("user_id", (None, user_id)))
        after = await self.kernel.add(history_ref(session_id), {"revision": 1, "next_index": step}, guard, also)
        if after is None:  # the owner changed, or the session went: look again and say which
            self.kernel.recent.forget(history_ref(session_id))
            raise Conflict([history_ref(session_id)])
        return after

    # --- The end ----------------------------------------------------------------------------------------------------

    async def ends(self, session_ids: Collection[str]) -> dict[str, int]:
        """Of those of these sessions that have ended: when (`lifetimes.ended_at`). 1 request; 1 more for those that the
        store has reaped or that are not there, and where sessions have no lifetime here for those that have one."""
        ids = list(dict.fromkeys(session_ids))
        refs = [history_ref(id) for id in ids]
        if self.life is not None:
            both = await self.kernel.read_records([*refs, *map(session_ref, ids)])
            heads, sessions = dict(zip(ids, both, strict=False)), dict(zip(ids, both[len(ids) :], strict=True))
        else:
            # A session's state may be large: it is left alone where the history says that it has no expiry.
            heads = dict(zip(ids, await self.kernel.read_records(refs), strict=True))
            mortal = [id for id, head in heads.items() if head is not None and head.fields.get("mortal")]
            found = await self.kernel.read_records([session_ref(id) for id in mortal])
            sessions = dict(zip(mortal, found, strict=True))
        reaped = [id for id in ids if self._may_be_reaped(sessions.get(id), heads[id])]
        reminders = await self.kernel.read_records([reminder_ref(SESSIONS.name, id) for id in reaped])
        reminding = dict(zip(reaped, reminders, strict=True))
        now = self.kernel.io.now()
        ended = {id: ended_at(sessions.get(id), heads[id], reminding.get(id), now, self.life) for id in ids}
        return {id: at for id, at in ended.items() if at is not None}

    async def _ended_at(self, session_id: str, session: Stored | None, head: Stored | None) -> int | None:
        """The same of one session, whose record and history have been read. 0 or 1 requests."""
        reminding = None
        if self._may_be_reaped(session, head):
            reminding = await self.kernel.get(reminder_ref(SESSIONS.name, session_id))
        return ended_at(session, head, reminding, self.kernel.io.now(), self.life)

    def _may_be_reaped(self, session: Stored | None, head: Stored | None) -> bool:
        """Whether the store may have removed a session that had expired: the history stays there, but where both are
        one document."""
        if head is None:
            return session is None and not self.kernel.driver.atomic
        return session is None and bool(head.fields.get("mortal")) and not head.fields.get("deleting")

    # --- Expiry -----------------------------------------------------------------------------------------------------

    def stamp(self, session: Stored | None) -> int | None:
        """When a session that is written now expires, as it was before (None: it is new)."""
        if session is not None and (self.life is None or is_held(session)):
            return session.expires_at
        return None if self.life is None else self.kernel.now() + self.life

    def _due_at(self, expires_at: int) -> int:
        """When to look whether a session with this expiry has expired."""
        return expires_at if expires_at != HELD else self.kernel.now() + (self.life or UNKNOWN_LIFE)

    def reminder(self, session_id: str, expires_at: int) -> Put:
        return reminder(session_id, self._due_at(expires_at))

    def _moved(self, before: Before, draft: RunDraft) -> int | None:
        """To when a run moves the expiry of its session; None: it stays as it is."""
        session = before.session
        if session is None:
            return None
        if _waits(draft):
            return HELD  # also where it is held: whoever is just letting it go has to notice
        expires_at = self.stamp(session)
        if expires_at is None or session.expires_at is None:
            return expires_at
        slack = min(SLACK, (self.life or 0) // SLACK_PART)
        return expires_at if expires_at - session.expires_at > slack else None

    async def _let_go(self, session_id: str) -> None:
        """A run that waited goes on: give its session its expiry back, if none of its runs waits any more. Should this
        fail, the next sweep does it. 2 requests and the runs' headers."""
        life = self.life
        if life is None:
            return

        async def attempt(fresh: bool) -> None:
            session, head = await self.heads(session_id)
            if session is None or head is None or not is_held(session):
                return
            # Read after the session: a run that comes to wait meanwhile touches the session.
            if await self.any_run(session_id, head, (WAITS,)):
                return
            touch = Touch(session.ref, self.kernel.now() + life, session.rev)
            (rev,) = await self.kernel.commit([touch])
            assert rev is not None
            self.kernel.recent.note(session.ref, replace(session, rev=rev, expires_at=touch.expires_at))

        try:
            await self.kernel.transact(f"expiry of session {session_id!r}", attempt)
        except DocstoreError as error:
            log.warning("session %r stays held by a run that waits no more, until a sweep: %s", session_id, error)

    async def any_run(self, session_id: str, head: Stored, statuses: tuple[str, ...]) -> bool:
        """Whether a run of the history is in one of these states, or may be, for it is just being written."""
        found = Span(RUNS.name, "order", (session_id,), body=False, limit=1, where=(In("status", statuses),))
        return bool(await self.kernel.span(found)) or await self.in_flight(session_id, head)

    # --- Bookkeeping ------------------------------------------------------------------------------------------------

    def _note_write(self, session_id: str, head: Stored, run: Stored) -> None:
        self.kernel.recent.note(history_ref(session_id), head)
        known = self._cache.get(session_id)
        if known is None or known.incarnation != run.fields["incarnation"]:
            return
        if known.believed + 1 != run.fields["revision"]:
            return  # somebody else wrote in between; the next read fetches both
        runs = dict(known.runs)
        size = known.size - _size(runs.pop(run.ref.id, None))
        if live(run):
            runs[run.ref.id] = run
            size += _size(run)
        seen = replace(known, believed=known.believed + 1, runs=runs, checked_at=self.kernel.now(), size=size)
        self._remember(session_id, seen)

    async def in_flight(self, session_id: str, head: Stored) -> bool:
        """Whether a run may have taken a revision that is not stored yet. Always False where commits are atomic."""
        if self.kernel.driver.atomic:
            return False
        _, complete = await self.headers(session_id, head)
        return not complete

    async def headers(self, session_id: str, head: Stored) -> tuple[list[Stored], bool]:
        """The headers of all runs, tombstones included, `head` having been read before; and whether none can be
        missing, because a writer has taken its revision and not stored it yet."""
        return await self._seen(Span(RUNS.name, "order", (session_id,), body=False), _nothing_of(head), head)

    async def since(self, session_id: str, head: Stored, revision: int) -> tuple[list[Stored], bool]:
        """The runs written after a revision, likewise. No request if there can be none."""
        if revision == _int(head, "revision"):
            return [], True
        span = Span(RUNS.name, "changes", (session_id,), low=revision + 1)
        return await self._seen(span, replace(_nothing_of(head), believed=revision), head)

    async def written_after(self, session_id: str, head: Stored, revision: int) -> tuple[list[Stored], int]:
        """The runs there are that were written after a revision, in order; and the revision up to which none of them
        can be missing. 0 or 1 requests: from the cache where this handle has the history, else those runs alone."""
        if revision == 0 or self._known(session_id, head) is not None:
            history, read = await self._current(session_id, head)
            later = [run for run in history.ordered() if _int(run, "revision") > revision]
            return list(self._saving(later, {run.ref.id for run in read})), history.believed
        if revision == _int(head, "revision"):
            return [], revision
        since = replace(_nothing_of(head), believed=revision)
        runs = await self.kernel.span(Span(RUNS.name, "changes", (session_id,), low=revision + 1))
        own = self._merged(since, runs, head)
        return own.ordered(), own.believed

    async def _seen(self, span: Span, known: CachedHistory, head: Stored) -> tuple[list[Stored], bool]:
        runs = [run for run in await self.kernel.span(span) if run.fields.get("incarnation") == known.incarnation]
        return runs, self._believed(known, runs, head) >= _int(head, "revision")

    # --- Removal ----------------------------------------------------------------------------------------------------

    async def condemn(self, session: Stored | None, head: Stored, ended: int | None = None) -> Stored:
        """Take a session away and mark its history as deleting, in one commit, if both are still as they were read;
        the history as it is then. From here on nobody reads the session or adds to it. `ended`: when it did, where that
        is known already (microseconds since the epoch). Raises `Conflict`."""
        if ended is None:
            ended = await self._ended_at(head.ref.id, session, head)
        at = ended if ended is not None else micros(self.kernel.io.now())
        fields = {**head.fields, **MARKED, "deleting": True, "ended_at": at}
        writes: list[Write] = [Put(head.ref, fields, {}, head.rev)]
        if session is not None:
            writes.insert(0, Delete(session.ref, session.rev))
        revs = await self.kernel.commit(writes)
        assert revs[-1] is not None
        self.forget(head.ref.id)
        return Stored(head.ref, revs[-1], fields, {})

    async def purge(self, session_id: str, head: Stored, *, begun_anew: bool = False) -> None:
        """Take a session marked as deleting out of the metrics, remove its runs and what else goes with it, then the
        mark, and its reminder. Repeating it goes on where it stopped. `begun_anew`: a turn of the next session of this
        id may be under way, so that what was written since the end of this one stays.

        Others may do the same at once, and one of them be late: what he finds then may be a session that was begun anew
        under the id: its runs are not touched, and `Conflict` raised."""
        due = reminder_ref(SESSIONS.name, session_id)
        mortal, atomic = bool(head.fields.get("mortal")), self.kernel.driver.atomic
        reminding = await self.kernel.get(due) if mortal and not atomic else None
        await withdraw(self.kernel, session_id)
        own = (Eq("incarnation", str(head.fields["incarnation"])),)
        await self.kernel.purge_children(session_id, RUNS, RUNS.index("order"), own)
        ended = head.fields.get("ended_at") if begun_anew else None
        await remove_companions(self.kernel, session_id, ended if isinstance(ended, int) else None)
        last: list[Write] = [Delete(history_ref(session_id), head.rev)]
        await self.kernel.commit([*last, Delete(due)] if mortal and atomic else last)
        if reminding is not None:
            with suppress(Conflict):  # the session was begun anew
                await self.kernel.commit([Delete(due, reminding.rev)])
        self.forget(session_id)

    async def purge_strays(self, session_id: str, ended: int | None = None) -> list[Stored]:
        """Remove runs, and what else goes with a session, of which the store has reaped session and history; what the
        runs were. A session that is begun anew under the id meanwhile keeps its own. `ended` as in `condemn`. 6
        requests and the runs' headers."""
        if ended is None:
            ended = await self._ended_at(session_id, None, None)
        if ended is not None:
            await remove_companions(self.kernel, session_id, ended)
        found = await self.kernel.span(Span(RUNS.name, "order", (session_id,), body=False))
        if not found:
            return []
        # Read after the runs: a run of a history that is there now was written after it.
        head = await self.kernel.get(history_ref(session_id))
        own = head.fields.get("incarnation") if head is not None else None
        strays = [run for run in found if run.fields.get("incarnation") != own]
        gone = tuple({str(run.fields["incarnation"]) for run in strays})
        if gone:
            where = (In("incarnation", gone),)
            await self.kernel.purge_children(session_id, RUNS, RUNS.index("order"), where)
        return [run for run in strays if live(run)]


def fresh_head(user_id: str | None, incarnation: str) -> dict[str, FieldValue]:
    """The fields of a new history."""
    return {
        "user_id": user_id,
        "incarnation": incarnation,
        "next_index": 0,
        "revision": 0,
        "deleting": False,
        **MARKED,
    }


def _nothing_of(head: Stored) -> CachedHistory:
    return CachedHistory(str(head.fields["incarnation"]), 0, {}, 0, 0, _int(head, "epoch"))


def _pages(count: int, first: int) -> Iterator[tuple[int, int]]:
    """Start and end of stretches that double in length."""
    start, length = 0, first
    while start < count:
        yield start, start + length
        start, length = start + length, min(2 * length, MOST_RUNS)


def _waits(draft: RunDraft) -> bool:
    return draft.fields.get("status") == WAITS and not draft.fields.get("deleted")


def _owned_or_free(record: Stored, user_id: str | None) -> bool:
    owner = record.fields.get("user_id")
    return owner is None or user_id is None or owner == user_id


def _int(record: Stored | None, name: str) -> int:
    return as_int(record.fields.get(name)) if record is not None else 0


def _size(run: Stored | None) -> int:
    return sum(len(part.text) for part in (run.body or {}).values()) if run is not None else 0

"""Sessions: what `BaseDb` says of them (contract 1.2), over the kernel.

Invariants: the owner check and the write are one atomic step; a session's runs are never written here; a write replaces
the columns of the session's own type whole, including with None, and leaves the rest; a failed read raises.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

from agno.db.base import SessionType
from agno.db.utils import HISTORY_SKIP_STATUSES, owner_key, validate_pagination
from agno.session import AgentSession, TeamSession, WorkflowSession

from agno_docstores.codec import NULL, Json
from agno_docstores.companions import remove_companions
from agno_docstores.domains.listing import ascending, between, text
from agno_docstores.errors import Conflict, StoreUnavailableError
from agno_docstores.history import MARKED, Histories, history_ref, is_long_to_read, session_ref
from agno_docstores.kernel import Kernel, Query
from agno_docstores.keys import check_id
from agno_docstores.merging import Path, shown
from agno_docstores.port import Condition, Contains, Eq, Expect, NotIn, Range, Stored
from agno_docstores.schema import SESSIONS
from agno_docstores.session_records import (
    Incoming,
    Reading,
    Readings,
    Row,
    Session,
    begun_anew,
    changed,
    commit_session,
    conflict_over,
    filters,
    insert_session,
    marked_head,
    may_replace,
    merged,
    readable,
    remove_session,
    to_row,
    to_session,
    version_of,
)

log = logging.getLogger("agno_docstores")

#: What a save does where another writer saved the session since it was read: it puts both together, refuses, or wins.
OnConflict = Literal["merge", "raise", "last_wins"]
#: Runs that belong to a conversation's context, as Agno's own "last N runs" defines them.
CONTEXT_RUNS: tuple[Condition, ...] = (
    Eq("parent_run_id", None),
    NotIn("status", tuple(HISTORY_SKIP_STATUSES)),
    Eq("deleted", False),
)
ACTIVE = ("PENDING", "RUNNING", "PAUSED")
# Columns by which a listing may be sorted; the rest of Agno's columns are JSON.
SORTABLE = ("session_id", "session_type", "agent_id", "team_id", "workflow_id", "user_id", "created_at", "updated_at")


def run_dicts(runs: list[Stored]) -> list[Row]:
    return [(run.body or {})["run_data"].value() for run in runs]


class _Absences:
    """How often this handle has answered lately that a session is not there, to somebody who has not saved it since.

    Of two turns that begin one session at once on one handle, the second to save was told so, too; whoever saves an
    object out of nothing without having asked replaces what is there.
    """

    LATELY = 600  # seconds, of a turn
    MOST = 512

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        # Each step on these is one of the interpreter, so threads need no lock.
        self._told: OrderedDict[str, deque[int]] = OrderedDict()

    def tell(self, session_id: str) -> None:
        self._told.setdefault(session_id, deque(maxlen=self.MOST)).append(self._now())
        while len(self._told) > self.MOST:
            with suppress(KeyError):  # another thread emptied it meanwhile
                self._told.popitem(last=False)

    def take(self, session_id: str) -> bool:
        """Whether somebody was told, who is not waited for any longer."""
        since, times = self._now() - self.LATELY, self._told.get(session_id)
        with suppress(IndexError):
            while times is not None:
                if times.popleft() >= since:
                    return True
        return False


class Sessions:
    def __init__(
        self, kernel: Kernel, histories: Histories, readings: Readings, on_conflict: OnConflict = "merge"
    ) -> None:
        self.kernel = kernel
        self.histories = histories
        self._readings = readings
        self.on_conflict = on_conflict
        self._absences = _Absences(kernel.now)
        #: Of this handle's saves: those that kept another writer's change ("merged"), and the changes that they wrote
        #: over ("overwritten").
        self.conflicts: Counter[str] = Counter()

    # --- Reading ----------------------------------------------------------------------------------------------------

    async def get_session(
        self,
        session_id: str,
        session_type: SessionType | None = None,
        user_id: str | None = None,
        deserialize: bool | None = True,
        runs_limit: int | None = None,
    ) -> Session | Row | None:
        """Read one session with its runs, in order. None if it does not exist or is not `user_id`'s.

        `session_type` chooses the class of the result, it does not filter. `runs_limit`: only the last so many
        top-level runs that a conversation's context uses. Linearizable. 1 request if this handle knows the history and
        nothing changed, else 2 (and one more for each page of runs). Raises on a failed read.
        """
        check_id("session_id", session_id)
        session, head = await self.histories.heads(session_id)
        if session is None:
            self._absences.tell(session_id)
        if session is None or head is None or not readable(session, user_id):
            return None
        if runs_limit is not None:
            runs = await self.histories.last(session_id, head, CONTEXT_RUNS, runs_limit)
        else:
            runs = await self.histories.load(session_id, head)
        return await self.kernel.io.work(
            lambda: is_long_to_read((session, *runs)), _answer, session, runs, session_type, deserialize
        )

    async def get_sessions(
        self,
        session_type: SessionType | None = None,
        user_id: str | None = None,
        component_id: str | None = None,
        session_name: str | None = None,
        start_timestamp: int | None = None,
        end_timestamp: int | None = None,
        limit: int | None = None,
        page: int | None = None,
        sort_by: str | None = None,
        sort_order: str | None = None,
        deserialize: bool | None = True,
        include_runs: bool = True,
    ) -> list[Session] | tuple[list[Row], int]:
        """List sessions; all filters apply. Without `deserialize`: rows, and how many match in all.

        Timestamps are epoch seconds of `created_at`, inclusive; `session_name` is a case-insensitive substring. Sorted
        by `created_at` or `updated_at`, a page costs its own entries (1 to 3 requests); by another column, the headers
        of all that match. Eventually consistent on DynamoDB. With `include_runs`, each session's history besides.
        """
        validate_pagination(limit, page)
        kind = _session_type(session_type)
        where, implied = filters(user_id, kind, component_id)
        where += between("created_at", start_timestamp, end_timestamp)
        if session_name is not None:
            where.append(Contains("session_name", text("session_name", session_name)))
        sort = "touched_at" if sort_by == "updated_at" else sort_by if sort_by in SORTABLE else None
        if sort is None and where and isinstance(where[-1], Range):
            sort = "created_at"
        descending = sort is not None and sort_by is not None and not ascending(sort_order)
        query = Query(SESSIONS, tuple(where), "id" if sort == "session_id" else sort, descending, tuple(implied))
        offset = ((page or 1) - 1) * limit if limit is not None else 0
        total = 0
        if deserialize:
            records = await self.kernel.page(query, offset=offset, limit=limit)
        else:
            records, total = await self.kernel.page_and_total(query, offset=offset, limit=limit)
        runs: list[Any] = [None] * len(records)
        if include_runs:
            runs = await self._runs_of([record.ref.id for record in records])
        if deserialize:
            return [to_session(record, kind, own) for record, own in zip(records, runs, strict=True)]
        return [{**to_row(record), "runs": own} for record, own in zip(records, runs, strict=True)], total

    async def _runs_of(self, session_ids: list[str]) -> list[list[Row]]:
        """The runs of each. 1 request for all, and those of the histories that are not known or have changed."""
        heads = await self.kernel.get_many([history_ref(session_id) for session_id in session_ids])

        async def load(head: Stored | None) -> list[Row]:
            if head is None or head.fields.get("deleting"):
                return []
            return run_dicts(await self.histories.load(head.ref.id, head))

        return await self.kernel.io.gather(*map(load, heads))

    # --- Writing ----------------------------------------------------------------------------------------------------

    async def upsert_session(self, session: Session, deserialize: bool | None = True) -> Session | Row | None:
        """Insert or replace a session; None (and a warning in the log) if it belongs to somebody else.

        Runs are not written, those of the argument come back with the result. An unowned session is adopted by the
        incoming `user_id`. `created_at` stays, `updated_at` becomes now (on insert: `created_at`). 1 request if this
        handle has read the session before, else 2.
        """
        incoming = await Incoming.taken(self.kernel, session)
        stored = await self._save(session, incoming, None)
        if stored is None:
            return None
        return await self.kernel.io.work(lambda: is_long_to_read((stored,)), _with_runs, stored, session, deserialize)

    async def upsert_sessions(
        self,
        sessions: list[Session],
        deserialize: bool | None = True,
        preserve_updated_at: bool = False,
    ) -> list[Session | Row]:
        """`upsert_session` for several; what belongs to somebody else is left out of the result, and logged.

        Result order: agent, team, workflow sessions. All are checked before the first is written; a failure while
        writing raises, and the sessions before it are stored. Requests: 1 or 2 for each.
        """
        order = (AgentSession, TeamSession, WorkflowSession)
        grouped = [s for cls in order for s in sessions if isinstance(s, cls)]
        checked = [(await Incoming.taken(self.kernel, session), session) for session in grouped]
        results: list[Session | Row] = []
        for incoming, session in checked:
            stored = await self._save(session, incoming, (incoming.updated_at,) if preserve_updated_at else None)
            if stored is not None:
                results.append(_with_runs(stored, session, deserialize))
        return results

    async def insert_session_if_absent(self, session: Session) -> bool | None:
        """Insert a session unless there is one of this id: True if inserted, False if there was. 1 request."""
        incoming = await Incoming.taken(self.kernel, session)
        try:
            stored: Stored | None = await insert_session(self.histories, incoming, None, None)
        except Conflict:
            stored = await self.kernel.transact(
                f"insert of session {incoming.session_id!r}", lambda fresh: self._insert_unless_there(incoming)
            )
        if stored is not None:
            self._readings.note_saved(session, Reading.of(stored))
        return stored is not None

    async def _insert_unless_there(self, incoming: Incoming) -> Stored | None:
        current, head = await self.histories.heads(incoming.session_id)
        if current is not None:
            return None
        return await insert_session(self.histories, incoming, None, head)

    async def _save(self, session: Session, incoming: Incoming, updated_at: tuple[int | None] | None) -> Stored | None:
        """Insert or replace; the record as stored, or None if it is somebody else's."""
        ref = session_ref(incoming.session_id)
        reading = self._readings.of(session, incoming.body)
        # Should somebody else make the session first, a writer that was told of none knew of nothing in it.
        told_absent = reading is None and self._absences.take(incoming.session_id)

        async def attempt(fresh: bool) -> Stored | None:
            nonlocal told_absent
            known = None if fresh else self.kernel.recent.get(ref)
            head: Stored | None = None
            current = known if isinstance(known, Stored) else None
            if known is None or (current is not None and not may_replace(current, incoming.user_id)):
                # Nothing is refused on remembered state: the owner may have changed since.
                current, head = await self.histories.heads(incoming.session_id)
            if current is None:
                told_absent = told_absent or known is Expect.ABSENT
                return await insert_session(self.histories, self._inserted(incoming, reading), updated_at, head)
            if not may_replace(current, incoming.user_id):
                log.warning(
                    "session %r was not saved: it belongs to another user than %r",
                    incoming.session_id,
                    incoming.user_id,
                )
                return None
            base = reading.body if reading is not None else {} if told_absent else None
            reconciled, lost = self._reconciled(incoming, base, reading, current)
            replaced = await self._replace(reconciled, updated_at, current)
            self._tell(incoming, reconciled, lost)
            return replaced

        try:
            stored = await self.kernel.transact(f"upsert of session {incoming.session_id!r}", attempt)
        except StoreUnavailableError as error:
            if reading is not None and error.maybe_applied:
                self._readings.note(session, replace(reading, unsure=True))
            raise
        if stored is not None:
            # What the object holds from now on differs from what is stored where another writer's change was kept.
            own = {**(stored.body or {}), **incoming.body}
            read_at = version_of(stored) if own == stored.body else reading.version if reading is not None else 0
            self._readings.note_saved(session, replace(Reading.of(stored), version=read_at, body=own))
        return stored

    def _inserted(self, incoming: Incoming, reading: Reading | None) -> Incoming:
        """What is to be stored where no session is, be it that the one which this writer has read is gone."""
        if reading is None or self.on_conflict == "last_wins":
            return incoming
        if self.on_conflict == "raise":
            raise conflict_over(None, incoming.session_id, reading.version, reading.body)
        ended = reading.expires_at is not None and reading.expires_at <= self.kernel.now()
        return begun_anew(incoming, reading) if ended else incoming

    def _reconciled(
        self, incoming: Incoming, base: Mapping[str, Json] | None, reading: Reading | None, current: Stored
    ) -> tuple[Incoming, list[Path]]:
        """What is to be stored over `current`, which somebody else may have written since this writer read `base`; and
        the paths of what is lost of that."""
        if base is None or self.on_conflict == "last_wins":
            return incoming, []
        if self.on_conflict == "raise":
            read_at = reading.version if reading is not None else 0
            if read_at != version_of(current):
                raise conflict_over(current, incoming.session_id, read_at, base)
            return incoming, []
        body, lost = merged(base, incoming.body, current.body or {}, again=reading is not None and reading.unsure)
        return incoming if body == incoming.body else replace(incoming, body=body), lost

    def _tell(self, incoming: Incoming, stored: Incoming, lost: list[Path]) -> None:
        """Count, and log, what a save that succeeded has kept and lost of others' changes."""
        if stored.body != incoming.body:
            self.conflicts["merged"] += 1
        if lost:
            self.conflicts["overwritten"] += len(lost)
            log.warning(
                "session %r: another writer's change of %s was written over by a later save",
                incoming.session_id,
                ", ".join(map(shown, lost)),
            )

    async def _replace(self, incoming: Incoming, updated_at: tuple[int | None] | None, current: Stored) -> Stored:
        fields, body = incoming.over(
            current,
            created_at=current.fields["created_at"],  # type: ignore[arg-type]
            updated_at=updated_at[0] if updated_at is not None else self.kernel.now(),
            version=version_of(current) + 1,
        )
        head = await marked_head(self.kernel, current, body, incoming.user_id)
        return await commit_session(self.histories, current, fields, body, head)

    async def rename_session(
        self,
        session_id: str,
        session_type: SessionType | None,
        session_name: str,
        user_id: str | None = None,
        deserialize: bool | None = True,
    ) -> Session | Row | None:
        """Set `session_data["session_name"]` and nothing else of the session's data; None if it is not there or not
        `user_id`'s. A concurrent change of the session is kept. 2 requests, and those of reading the history."""
        check_id("session_id", session_id)

        async def attempt(fresh: bool) -> tuple[Stored, Stored] | None:
            current, head = await self.histories.heads(session_id)
            if current is None or head is None or not readable(current, user_id):
                return None
            data = (current.body or {}).get("session_data", NULL).value()
            data = data if isinstance(data, dict) else {}
            named = {"session_data": Json.of({**data, "session_name": session_name}, "session_data")}
            fields, body = changed(current, named, updated_at=self.kernel.now())
            return await commit_session(self.histories, current, fields, body, None), head

        renamed = await self.kernel.transact(f"rename of session {session_id!r}", attempt)
        if renamed is None:
            return None
        stored, head = renamed
        runs = await self.histories.load(session_id, head)
        long = is_long_to_read((stored, *runs))
        return await self.kernel.io.work(long, _answer, stored, runs, session_type, deserialize)

    # --- Removal and transfer ---------------------------------------------------------------------------------------

    async def delete_session(self, session_id: str, user_id: str | None = None) -> bool:
        """Delete a session with its runs, its part of transcripts, its compactions and the index of its tool results;
        True if it existed and was `user_id`'s (or no user was named).

        From the first write on nobody can read the session or add to it; the runs follow. If that is interrupted, the
        same call, or the next session of that id, goes on with it. Bodies are not read.
        """
        check_id("session_id", session_id)
        return await remove_session(self.histories, session_id, user_id)

    async def delete_sessions(self, session_ids: list[str], user_id: str | None = None) -> None:
        """`delete_session` for several; sessions of somebody else, and their runs, stay. Without a user, what went with
        a session that is gone already goes, too. Repeating it goes on."""
        for session_id in session_ids:
            check_id("session_id", session_id)
        for session_id in session_ids:
            if not await self.delete_session(session_id, user_id) and user_id is None:
                await remove_companions(self.kernel, session_id)

    async def reassign_session_owner(self, session_id: str, *, previous_user_id: str, user_id: str | None) -> bool:
        """Transfer a session if `previous_user_id` owns it and none of its runs is pending, running or paused.

        The check and the transfer are one step: a run that starts meanwhile makes it be looked at again. Runs stay as
        they are. 1 request, the run headers, and 1.
        """
        check_id("session_id", session_id)
        new_owner = None if user_id is None else check_id("user_id", owner_key(user_id))

        async def attempt(fresh: bool) -> bool:
            current, head = await self.histories.heads(session_id)
            if current is None or head is None or current.fields.get("user_id") != owner_key(previous_user_id):
                return False
            if await self.histories.any_run(session_id, head, ACTIVE):
                return False
            fields, body = changed(current, {}, user_id=new_owner)
            owner = ({**head.fields, **MARKED, "user_id": new_owner}, head.rev)
            await commit_session(self.histories, current, fields, body, owner)
            return True

        return await self.kernel.transact(f"transfer of session {session_id!r}", attempt)


def _with_runs(stored: Stored, session: Session, deserialize: bool | None) -> Session | Row:
    if not deserialize:
        runs: list[Any] = list(session.runs or [])
        return {**to_row(stored), "runs": [run if isinstance(run, dict) else run.to_dict() for run in runs]}
    result = to_session(stored, None, None)
    result.runs = session.runs
    return result


def _answer(
    stored: Stored, runs: list[Stored], session_type: SessionType | None, deserialize: bool | None
) -> Session | Row:
    if deserialize:
        return to_session(stored, _session_type(session_type), run_dicts(runs))
    return {**to_row(stored), "runs": run_dicts(runs)}


def _session_type(value: Any) -> SessionType | None:
    return None if value is None else SessionType(value)

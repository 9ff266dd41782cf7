"""Sessions: what `BaseDb` says of them (contract 1.2), over the kernel.

Invariants: the owner check and the write are one atomic step; a session's runs are never written here; a write replaces
the columns of the session's own type whole, including with None, and leaves the rest; a failed read raises.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agno.db.base import SessionType
from agno.db.utils import HISTORY_SKIP_STATUSES, deserialize_session, owner_key, validate_pagination
from agno.session import AgentSession, TeamSession, WorkflowSession

from agno_docstores.codec import NULL, Json
from agno_docstores.errors import Conflict
from agno_docstores.history import MARKED, Histories, fresh_head, history_ref, session_ref
from agno_docstores.kernel import Kernel, Query, new_token
from agno_docstores.keys import check_id
from agno_docstores.port import (
    Condition,
    Contains,
    Delete,
    Eq,
    Expect,
    FieldValue,
    Has,
    In,
    NotIn,
    Put,
    Range,
    Span,
    Stored,
    Write,
)
from agno_docstores.schema import RUNS, SESSIONS

log = logging.getLogger("agno_docstores")

Session = AgentSession | TeamSession | WorkflowSession
Row = dict[str, Any]

#: Runs that belong to a conversation's context, as Agno's own "last N runs" defines them.
CONTEXT_RUNS: tuple[Condition, ...] = (
    Eq("parent_run_id", None),
    NotIn("status", tuple(HISTORY_SKIP_STATUSES)),
    Eq("deleted", False),
)
ACTIVE = ("PENDING", "RUNNING", "PAUSED")
# Columns by which a listing may be sorted; the rest of Agno's columns are JSON.
SORTABLE = ("session_id", "session_type", "agent_id", "team_id", "workflow_id", "user_id", "created_at", "updated_at")


_METRICS = re.compile(r'"session_metrics":')
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Incoming:
    """A session as handed in, checked and in canonical form."""

    session_id: str
    session_type: str
    user_id: str | None
    component: tuple[str, str | None]  # the column of the session's own component id, and the id
    body: dict[str, Json]  # the parts that this type of session writes
    created_at: int | None
    updated_at: int | None

    @classmethod
    def of(cls, session: Session) -> Incoming:
        if isinstance(session, AgentSession):
            kind = SessionType.AGENT.value
        elif isinstance(session, TeamSession):
            kind = SessionType.TEAM.value
        elif isinstance(session, WorkflowSession):
            kind = SessionType.WORKFLOW.value
        else:
            raise TypeError(f"expected an AgentSession, TeamSession or WorkflowSession, not {type(session).__name__}")
        check_id("session_id", session.session_id)
        row = session.to_dict(include_runs=False)
        user_id = owner_key(row.get("user_id"))
        if user_id is not None:
            check_id("user_id", user_id)
        component = row.get(f"{kind}_id")
        parts = ("session_data", f"{kind}_data", "metadata", "summary")
        return cls(
            session.session_id,
            kind,
            user_id,
            (f"{kind}_id", component if component in (None, "") else check_id(f"{kind}_id", str(component))),
            {name: Json.of(row.get(name), name) for name in parts},
            row.get("created_at"),
            row.get("updated_at"),
        )

    def over(self, stored: Stored | None, *, created_at: int, updated_at: int | None) -> tuple[Row, dict[str, Json]]:
        """Fields and body of the record after this write."""
        before = stored.fields if stored is not None else {}
        fields: Row = {name: before.get(name) for name in SESSIONS.fields}
        fields.update(
            {
                "session_type": before.get("session_type") or self.session_type,
                "user_id": self.user_id,
                self.component[0]: self.component[1],
                "created_at": created_at,
                "updated_at": updated_at,
            }
        )
        body = dict.fromkeys(SESSIONS.body, NULL)
        body.update(stored.body or {} if stored is not None else {})
        body.update(self.body)
        return derived(fields, body), body


def derived(fields: Row, body: Mapping[str, Json]) -> Row:
    """The fields that are functions of the others."""
    own = fields.get(f"{fields['session_type']}_id")
    components = [own, fields.get("agent_id"), fields.get("team_id"), fields.get("workflow_id")]
    name = session_name_of(body.get("session_data", NULL))
    touched = fields.get("updated_at")
    return {
        **fields,
        "component": own or None,
        "components": tuple(dict.fromkeys(c for c in components if c)),
        "session_name": name,
        "touched_at": touched if touched is not None else fields.get("created_at"),
    }


def session_name_of(session_data: Json) -> str | None:
    """The session's name, if its data has one that is text."""
    if '"session_name"' not in session_data.text:
        return None
    data = session_data.value()
    name = data.get("session_name") if isinstance(data, dict) else None
    # A lone surrogate has no place in an index; the name itself keeps it.
    return name.encode(errors="replace").decode() if isinstance(name, str) else None


def _session_metrics(session_data: Json) -> list[Any]:
    """What stands under "session_metrics", wherever in the data: found in the text, for the data may be large. If it
    changes, this does; it may say so of a key of that name further inside, too, which costs a write."""
    found = []
    for match in _METRICS.finditer(session_data.text):
        value, _ = _DECODER.raw_decode(session_data.text, match.end())
        found.append(value)
    return found


def to_row(stored: Stored) -> Row:
    """The row of `agno_sessions` that a record stands for. Fresh objects each time."""
    fields, body = stored.fields, stored.body or {}
    return {
        "session_id": stored.ref.id,
        **{name: fields.get(name) for name in ("session_type", "agent_id", "team_id", "workflow_id", "user_id")},
        **{name: body.get(name, NULL).value() for name in SESSIONS.body},
        "created_at": fields.get("created_at"),
        "updated_at": fields.get("updated_at"),
    }


def run_dicts(runs: list[Stored]) -> list[Row]:
    return [(run.body or {})["run_data"].value() for run in runs]


class Sessions:
    def __init__(self, kernel: Kernel, histories: Histories) -> None:
        self.kernel = kernel
        self.histories = histories

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
        if session is None or head is None or not _readable(session, user_id):
            return None
        if runs_limit is not None:
            runs = await self.histories.last(session_id, head, CONTEXT_RUNS, runs_limit)
        else:
            runs = await self.histories.load(session_id, head)
        row = {**to_row(session), "runs": run_dicts(runs)}
        return deserialize_session(_session_type(session_type), row) if deserialize else row

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
        where: list[Condition] = []
        implied: list[Condition] = []
        kind = _session_type(session_type)
        if user_id is not None:
            where.append(Eq("user_id", user_id))
        if component_id is not None:
            # Of one type, the session's own component; else any of the ids that it has.
            any_of_its_ids = Has("components", component_id)
            if kind is not None:
                where.append(Eq("component", component_id))
                implied.append(any_of_its_ids)
            else:
                where.append(any_of_its_ids)
        if kind is not None:
            where.append(Eq("session_type", kind.value))
        if start_timestamp is not None or end_timestamp is not None:
            where.append(Range("created_at", start_timestamp, end_timestamp))
        if session_name is not None:
            where.append(Contains("session_name", session_name))
        sort = "touched_at" if sort_by == "updated_at" else sort_by if sort_by in SORTABLE else None
        if sort is None and where and isinstance(where[-1], Range):
            sort = "created_at"
        descending = sort is not None and sort_by is not None and not _ascending(sort_order)
        query = Query(SESSIONS, tuple(where), "id" if sort == "session_id" else sort, descending, tuple(implied))
        offset = ((page or 1) - 1) * limit if limit is not None else 0
        total = 0
        if deserialize:
            records = await self.kernel.page(query, offset=offset, limit=limit)
        else:
            records, total = await self.kernel.page_and_total(query, offset=offset, limit=limit)
        rows = [to_row(record) for record in records]
        if include_runs:
            histories = await self.kernel.io.gather(*(self._runs_of(record.ref.id) for record in records))
            for row, runs in zip(rows, histories, strict=True):
                row["runs"] = runs
        else:
            for row in rows:
                row["runs"] = None
        if not deserialize:
            return rows, total
        return [deserialize_session(kind, row) for row in rows]

    async def _runs_of(self, session_id: str) -> list[Row]:
        head = await self.kernel.get(history_ref(session_id))
        if head is None or head.fields.get("deleting"):
            return []
        return run_dicts(await self.histories.load(session_id, head))

    # --- Writing ----------------------------------------------------------------------------------------------------

    async def upsert_session(self, session: Session, deserialize: bool | None = True) -> Session | Row | None:
        """Insert or replace a session; None (and a warning in the log) if it belongs to somebody else.

        Runs are not written, those of the argument come back with the result. An unowned session is adopted by the
        incoming `user_id`. `created_at` stays, `updated_at` becomes now (on insert: `created_at`). 1 request if this
        handle has read the session before, else 2.
        """
        incoming = Incoming.of(session)
        stored = await self._upsert(incoming, None)
        if stored is None:
            return None
        return _with_runs(stored, session, deserialize)

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
        checked = [(Incoming.of(session), session) for session in grouped]
        results: list[Session | Row] = []
        for incoming, session in checked:
            stored = await self._upsert(incoming, (incoming.updated_at,) if preserve_updated_at else None)
            if stored is not None:
                results.append(_with_runs(stored, session, deserialize))
        return results

    async def insert_session_if_absent(self, session: Session) -> bool | None:
        """Insert a session unless there is one of this id: True if inserted, False if there was. 1 request."""
        incoming = Incoming.of(session)
        try:
            await self._insert(incoming, None, None)
        except Conflict:
            return await self.kernel.transact(
                f"insert of session {incoming.session_id!r}", lambda fresh: self._insert_unless_there(incoming)
            )
        return True

    async def _insert_unless_there(self, incoming: Incoming) -> bool:
        current, head = await self.histories.heads(incoming.session_id)
        if current is not None:
            return False
        await self._insert(incoming, None, head)
        return True

    async def _upsert(self, incoming: Incoming, updated_at: tuple[int | None] | None) -> Stored | None:
        ref = session_ref(incoming.session_id)

        async def attempt(fresh: bool) -> Stored | None:
            known = None if fresh else self.kernel.recent.get(ref)
            head: Stored | None = None
            current = known if isinstance(known, Stored) else None
            if known is None or (current is not None and not _may_replace(current, incoming.user_id)):
                # Nothing is refused on remembered state: the owner may have changed since.
                current, head = await self.histories.heads(incoming.session_id)
            if current is None:
                return await self._insert(incoming, updated_at, head)
            if not _may_replace(current, incoming.user_id):
                log.warning(
                    "session %r was not saved: it belongs to another user than %r",
                    incoming.session_id,
                    incoming.user_id,
                )
                return None
            return await self._replace(incoming, updated_at, current)

        return await self.kernel.transact(f"upsert of session {incoming.session_id!r}", attempt)

    async def _insert(self, incoming: Incoming, updated_at: tuple[int | None] | None, head: Stored | None) -> Stored:
        if head is not None:
            # The id was used before, and the removal of its runs was not finished: finish it first.
            await self.histories.purge(incoming.session_id, head)
        created_at = incoming.created_at or self.kernel.now()
        fields, body = incoming.over(
            None, created_at=created_at, updated_at=updated_at[0] if updated_at is not None else created_at
        )
        first = fresh_head(incoming.user_id, new_token())
        stored, new_head = await self._commit(incoming.session_id, fields, body, Expect.ABSENT, (first, Expect.ABSENT))
        assert new_head is not None
        self.histories.begin(incoming.session_id, new_head)
        return stored

    async def _replace(self, incoming: Incoming, updated_at: tuple[int | None] | None, current: Stored) -> Stored:
        fields, body = incoming.over(
            current,
            created_at=current.fields["created_at"],  # type: ignore[arg-type]
            updated_at=updated_at[0] if updated_at is not None else self.kernel.now(),
        )
        head = await self._head_change(incoming, current)
        stored, _ = await self._commit(incoming.session_id, fields, body, current.rev, head, current.expires_at)
        return stored

    async def _head_change(self, incoming: Incoming, current: Stored) -> tuple[Row, Any] | None:
        """What a save changes of the session's history: its owner, and the mark that the metrics have to count it
        again; None if that is as it is. 1 read, where the owner changes or the history was not read before."""
        adopted = current.fields.get("user_id") != incoming.user_id
        before = (current.body or {}).get("session_data", NULL)
        if not adopted and _session_metrics(before) == _session_metrics(incoming.body["session_data"]):
            return None
        ref = history_ref(incoming.session_id)
        known = None if adopted else self.kernel.recent.get(ref)
        head = known if isinstance(known, Stored) else await self.kernel.get(ref)
        if head is None or head.fields.get("deleting"):
            self.kernel.recent.forget(ref)
            raise Conflict([ref])
        if not adopted and head.fields.get("uncounted"):
            return None
        return {**head.fields, **MARKED, "user_id": incoming.user_id}, head.rev

    async def _commit(
        self,
        session_id: str,
        fields: Mapping[str, FieldValue],
        body: Mapping[str, Json],
        expect: Any,
        head: tuple[Mapping[str, FieldValue], Any] | None,
        expires_at: int | None = None,
    ) -> tuple[Stored, Stored | None]:
        ref, head_at = session_ref(session_id), history_ref(session_id)
        writes: list[Write] = [Put(ref, fields, body, expect, expires_at)]
        if head is not None:
            writes.append(Put(head_at, head[0], {}, head[1]))
        try:
            revs = await self.kernel.commit(writes)
        except Conflict:
            self.kernel.recent.forget(ref)
            self.kernel.recent.forget(head_at)
            raise
        assert revs[0] is not None
        stored = Stored(ref, revs[0], dict(fields), dict(body), expires_at)
        self.kernel.recent.note(ref, stored)
        if head is None:
            return stored, None
        assert revs[1] is not None
        new_head = Stored(head_at, revs[1], dict(head[0]), {})
        self.kernel.recent.note(head_at, new_head)
        return stored, new_head

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
            if current is None or head is None or not _readable(current, user_id):
                return None
            body = dict(current.body or {})
            data = body.get("session_data", NULL).value()
            data = data if isinstance(data, dict) else {}
            body["session_data"] = Json.of({**data, "session_name": session_name}, "session_data")
            fields = derived({**current.fields, "updated_at": self.kernel.now()}, body)
            stored, _ = await self._commit(session_id, fields, body, current.rev, None, current.expires_at)
            return stored, head

        renamed = await self.kernel.transact(f"rename of session {session_id!r}", attempt)
        if renamed is None:
            return None
        stored, head = renamed
        row = {**to_row(stored), "runs": run_dicts(await self.histories.load(session_id, head))}
        return deserialize_session(_session_type(session_type), row) if deserialize else row

    # --- Removal and transfer ---------------------------------------------------------------------------------------

    async def delete_session(self, session_id: str, user_id: str | None = None) -> bool:
        """Delete a session with its runs; True if it existed and was `user_id`'s (or no user was named).

        From the first write on nobody can read the session or add to it; the runs follow. If that is interrupted, the
        same call, or the next session of that id, goes on with it. Bodies are not read.
        """
        check_id("session_id", session_id)

        async def attempt(fresh: bool) -> Stored | None:
            current, head = await self.histories.heads(session_id)
            if head is None:
                return None
            if head.fields.get("deleting"):
                return head if user_id is None or head.fields.get("user_id") == user_id else None
            if current is not None and not _readable(current, user_id):
                return None
            fields = {**head.fields, "deleting": True}
            writes: list[Write] = [Put(head.ref, fields, {}, head.rev)]
            if current is not None:
                writes.insert(0, Delete(current.ref, current.rev))
            revs = await self.kernel.commit(writes)
            assert revs[-1] is not None
            self.histories.forget(session_id)
            return Stored(head.ref, revs[-1], fields, {})

        marked = await self.kernel.transact(f"deletion of session {session_id!r}", attempt)
        if marked is None:
            return False
        await self.histories.purge(session_id, marked)
        return True

    async def delete_sessions(self, session_ids: list[str], user_id: str | None = None) -> None:
        """`delete_session` for several; sessions of somebody else, and their runs, stay. Repeating it goes on."""
        for session_id in session_ids:
            check_id("session_id", session_id)
        for session_id in session_ids:
            await self.delete_session(session_id, user_id)

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
            active = Span(RUNS.name, "order", (session_id,), body=False, limit=1, where=(In("status", ACTIVE),))
            if await self.kernel.span(active) or await self.histories.in_flight(session_id, head):
                return False
            fields = derived({**current.fields, "user_id": new_owner}, current.body or {})
            owner = ({**head.fields, **MARKED, "user_id": new_owner}, head.rev)
            await self._commit(session_id, fields, current.body or {}, current.rev, owner, current.expires_at)
            return True

        return await self.kernel.transact(f"transfer of session {session_id!r}", attempt)


def _with_runs(stored: Stored, session: Session, deserialize: bool | None) -> Session | Row:
    row = to_row(stored)
    if not deserialize:
        runs: list[Any] = list(session.runs or [])
        return {**row, "runs": [run if isinstance(run, dict) else run.to_dict() for run in runs]}
    result = deserialize_session(None, row)
    result.runs = session.runs
    return result


def _readable(session: Stored, user_id: str | None) -> bool:
    """A read for a user sees that user's sessions, not the unowned ones."""
    return user_id is None or session.fields.get("user_id") == str(user_id)


def _may_replace(session: Stored, user_id: str | None) -> bool:
    return session.fields.get("user_id") in (None, user_id)


def _session_type(value: Any) -> SessionType | None:
    return None if value is None else SessionType(value)


def _ascending(sort_order: Any) -> bool:
    return bool(getattr(sort_order, "value", sort_order) == "asc")

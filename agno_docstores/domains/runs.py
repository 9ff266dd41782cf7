"""Runs: what `BaseDb` says of them (contract 1.3), and the three run primitives of queued execution (1.21).

Invariants: a run is written only under the condition that its session is unowned or the caller's; its place in the
history is assigned by the store, unique and increasing; a run that has ended does not go back to an earlier status; a
run id belongs to one session for good.
"""

from __future__ import annotations

import logging
from typing import Any

from agno.db.utils import (
    build_single_run_row,
    canonical_run_status,
    deserialize_run,
    validate_pagination,
)
from agno.run.agent import RunOutput
from agno.run.base import RunStatus
from agno.run.status_persist import RunPersistOutcome
from agno.run.team import TeamRunOutput
from agno.run.workflow import WorkflowRunOutput

from agno_docstores.codec import NULL, Json, is_long
from agno_docstores.domains.listing import equal, label
from agno_docstores.errors import OwnershipError, SessionNotFoundError
from agno_docstores.history import (
    TOMBSTONE_LIFE,
    Histories,
    RunDraft,
    is_long_to_read,
    live,
    run_ref,
)
from agno_docstores.kernel import Kernel, Query
from agno_docstores.keys import as_id, check_id, check_time, encodable, text_of
from agno_docstores.lifetimes import expired_ids
from agno_docstores.port import Condition, Eq, FieldValue, NotIn, Stored
from agno_docstores.schema import RUNS
from agno_docstores.session_records import session_name_of

log = logging.getLogger("agno_docstores")

Run = RunOutput | TeamRunOutput | WorkflowRunOutput
Row = dict[str, Any]

#: A run in one of these has ended. An errored run has not: it may be continued from its checkpoint.
ENDED = frozenset({"COMPLETED", "CANCELLED", "REGENERATED"})
UNFINISHED = frozenset({"PENDING", "RUNNING", "PAUSED"})
FIXED = ("run_type", "agent_id", "team_id", "workflow_id", "created_at")  # as first stored, whatever is written later
MOST_RUNS = 2**53  # a `run_index` from here on is none: counting on from it would leave what stores count exactly
TEXTS = ("agent_id", "team_id", "workflow_id", "parent_run_id", "status")
COLUMNS = (
    "run_type",
    "agent_id",
    "team_id",
    "workflow_id",
    "user_id",
    "parent_run_id",
    "status",
    "run_index",
)


def to_row(run: Stored) -> Row:
    """The row of `agno_runs` that a record stands for. Fresh objects each time."""
    fields = run.fields
    return {
        "run_id": run.ref.id,
        "session_id": fields["session_id"],
        **{name: fields.get(name) for name in COLUMNS},
        "run_data": (run.body or {}).get("run_data", NULL).value(),
        "created_at": fields.get("created_at"),
        "updated_at": fields.get("updated_at"),
    }


def _answer(run: Stored, deserialize: bool | None) -> Run | Row:
    return _object(run) if deserialize else to_row(run)


def _object(run: Stored) -> Run:
    row = to_row(run)
    made: Run = deserialize_run(row["run_type"], row["run_data"])
    return made


def _model_of(run_data: Row) -> dict[str, FieldValue]:
    """The fields by which the metrics count runs."""
    found = {name: run_data.get(name) for name in ("model", "model_provider")}
    return {name: value if isinstance(value, str) and encodable(value) else None for name, value in found.items()}


class Runs:
    def __init__(self, kernel: Kernel, histories: Histories) -> None:
        self.kernel = kernel
        self.histories = histories

    # --- Reading ----------------------------------------------------------------------------------------------------

    async def get_run(self, run_id: str, deserialize: bool | None = True) -> Run | Row | None:
        """Read one run by its id: the object, or the whole row. None if there is none. Linearizable. 1 request (2 on
        DynamoDB); where sessions have a lifetime 1 more, for a run goes with its session. Raises on a failed read. No
        owner check: the contract leaves it to the caller."""
        check_id("run_id", run_id)
        run = await self.kernel.get(run_ref(run_id))
        if run is None or not live(run) or (self.histories.life is not None and not await self._in_session(run)):
            return None
        return await self.kernel.io.work(is_long_to_read((run,)), _answer, run, deserialize)

    async def get_runs(
        self,
        session_id: str | None = None,
        user_id: str | None = None,
        agent_id: str | None = None,
        team_id: str | None = None,
        workflow_id: str | None = None,
        status: RunStatus | None = None,
        limit: int | None = None,
        page: int | None = None,
        sort_by: str | None = None,
        sort_order: str | None = None,
        deserialize: bool | None = True,
    ) -> list[Run] | tuple[list[Row], int]:
        """List runs; all filters apply. Without `deserialize`: rows, and how many match in all.

        Default order: `run_index`, then `created_at`. Of one session, strongly consistent, a page costs its own runs
        and those before it. Without a session on DynamoDB, which bills every index entry of every run, this is a scan.
        """
        validate_pagination(limit, page)
        where: list[Condition] = [Eq("deleted", False)]
        if session_id is not None:
            session, head = await self.histories.heads(check_id("session_id", session_id))
            if session is None or head is None:
                return [] if deserialize else ([], 0)
            where.append(Eq("session_id", session_id))
            where.append(Eq("incarnation", str(head.fields["incarnation"])))
        elif self.histories.life is not None:
            where.append(NotIn("session_id", await expired_ids(self.kernel)))
        where += equal(user_id=user_id, agent_id=agent_id, team_id=team_id, workflow_id=workflow_id, status=status)
        sortable = (*COLUMNS, "session_id", "created_at", "updated_at")
        sort = "run_index" if sort_by is None else sort_by if sort_by in sortable else None
        if sort_by == "run_id":
            sort = "id"
        descending = sort_by is not None and getattr(sort_order, "value", sort_order) != "asc"
        query = Query(RUNS, tuple(where), sort, descending)
        offset = ((page or 1) - 1) * limit if limit is not None else 0
        if deserialize:
            found = await self.kernel.page(query, offset=offset, limit=limit)
            return await self.kernel.io.work(is_long_to_read(found), lambda: [_object(run) for run in found])
        runs, total = await self.kernel.page_and_total(query, offset=offset, limit=limit)
        return await self.kernel.io.work(is_long_to_read(runs), lambda: list(map(to_row, runs))), total

    async def _in_session(self, run: Stored) -> bool:
        """Whether the session that a run was written to is still there."""
        session, head = await self.histories.heads(str(run.fields["session_id"]))
        return session is not None and head is not None and head.fields["incarnation"] == run.fields["incarnation"]

    # --- Writing ----------------------------------------------------------------------------------------------------

    async def upsert_run(
        self,
        run: Run | Row,
        session_id: str,
        user_id: str | None = None,
        run_index: int | None = None,
    ) -> None:
        """Store one run of a session.

        A new run takes the next place in the history; a `run_index` given is kept only where it is beyond every place
        given out. An existing run keeps its session, type, component ids, place and `created_at`, and its owner unless
        it has none. A late write that would take an ended run back to PENDING, RUNNING or PAUSED is dropped and logged.
        Raises `ValueError` for a run without id, `SessionNotFoundError`, `OwnershipError`, `UnserializableValueError`,
        `PayloadTooLargeError`; nothing is written then. 1 request on DynamoDB and Firestore when this handle has read
        the session, else 2; 2 on MongoDB.
        """
        row, data = await self.kernel.io.work(lambda: is_long(run), self._taken, run, session_id, user_id, run_index)

        def decide(existing: Stored | None, head: Stored) -> RunDraft | None:
            if existing is not None and self._goes_back(existing, row["status"]):
                log.warning(
                    "run %r of session %r has ended as %s; a late write of %s was dropped",
                    row["run_id"],
                    session_id,
                    existing.fields["status"],
                    row["status"],
                )
                return None
            return RunDraft(self._fields(row, existing), data, row["run_index"])

        await self.histories.write_run(row["run_id"], session_id, row["user_id"], decide)

    @classmethod
    def _taken(cls, run: Run | Row, session_id: str, user_id: str | None, run_index: int | None) -> tuple[Row, Json]:
        """The row of a run, and its data in canonical form."""
        row = cls._row(run, session_id, user_id, run_index)
        return row, Json.of(row["run_data"], "run_data")

    @staticmethod
    def _row(run: Run | Row, session_id: str, user_id: str | None, run_index: int | None) -> Row:
        check_id("session_id", session_id)
        row = build_single_run_row(run, session_id, user_id, run_index)
        check_id("run_id", row["run_id"])
        if row["user_id"] is not None:
            row["user_id"] = as_id("user_id", row["user_id"])
        index = row["run_index"]
        counted = isinstance(index, int) and not isinstance(index, bool) and 0 <= index < MOST_RUNS
        row["run_index"] = index if counted else None
        for name in TEXTS:
            row[name] = label(name, row[name])
        row["created_at"] = check_time("created_at", row["created_at"])
        return row

    @staticmethod
    def _goes_back(existing: Stored, status: str | None) -> bool:
        return existing.fields.get("status") in ENDED and status in UNFINISHED

    @staticmethod
    def _fields(row: Row, existing: Stored | None) -> dict[str, FieldValue]:
        fields: dict[str, FieldValue] = {
            name: row[name] for name in (*FIXED, "user_id", "parent_run_id", "status", "updated_at")
        }
        fields |= {"deleted": False, **_model_of(row["run_data"])}
        if existing is not None:
            fields.update({name: existing.fields.get(name) for name in FIXED})
            if fields["user_id"] is None:
                fields["user_id"] = existing.fields.get("user_id")
        return fields

    async def cancel_pending_run(
        self,
        run_id: str,
        *,
        session_id: str,
        reason: str,
        user_id: str | None = None,
        expected_status: str = "PENDING",
    ) -> bool:
        """Cancel a run that is still as observed: one compare-and-set, so that of several callers one gets True.

        Matches a run of this session, in `expected_status` (PENDING or RUNNING, else `ValueError`), owned by `user_id`
        or unowned, and so the session where a user is named. `reason` becomes its content only if it has none.
        """
        if expected_status not in {"PENDING", "RUNNING"}:
            raise ValueError("Only Pending or Running runs can be cancelled by recovery")
        check_id("run_id", run_id)
        check_id("session_id", session_id)

        def decide(existing: Stored | None, head: Stored) -> RunDraft | None:
            if existing is None or not self._matches(existing, session_id, user_id):
                return None
            if existing.fields.get("status") != expected_status:
                return None
            data = (existing.body or {})["run_data"].value()
            data["status"] = RunStatus.cancelled.value
            if not data.get("content"):
                data["content"] = reason
            fields = {**existing.fields, "status": RunStatus.cancelled.value, "updated_at": self.kernel.now()}
            return RunDraft(fields, Json.of(data, "run_data"))

        return await self._patch(run_id, session_id, user_id, decide) is not None

    async def _patch(self, run_id: str, session_id: str, user_id: str | None, decide: Any) -> Stored | None:
        """A write that only changes an existing run, in a session that is unowned or `user_id`'s; None if it may not.
        What else there is to be looked at, `decide` does."""
        try:
            return await self.histories.write_run(run_id, session_id, text_of(user_id), decide, look_first=True)
        except (SessionNotFoundError, OwnershipError):
            return None

    @staticmethod
    def _matches(run: Stored, session_id: str, user_id: str | None) -> bool:
        owner = run.fields.get("user_id")
        return run.fields["session_id"] == session_id and (owner is None or owner == text_of(user_id))

    # --- Removal ----------------------------------------------------------------------------------------------------

    async def delete_run(self, run_id: str) -> bool:
        """Delete one run; True if it existed. Its place in the history is not given out again. 2 or 3 requests."""
        check_id("run_id", run_id)
        run = await self.kernel.get(run_ref(run_id))
        if run is None or not live(run):
            return False
        session_id = str(run.fields["session_id"])

        def decide(existing: Stored | None, head: Stored) -> RunDraft | None:
            if existing is None:
                return None
            now = self.kernel.now()
            return RunDraft({"deleted": True, "updated_at": now}, NULL, expires_at=now + TOMBSTONE_LIFE)

        return await self._patch(run_id, session_id, None, decide) is not None

    async def delete_runs(self, run_ids: list[str]) -> None:
        """`delete_run` for several. A failure raises; repeating the call goes on."""
        for run_id in run_ids:
            check_id("run_id", run_id)
        for run_id in run_ids:
            await self.delete_run(run_id)

    # --- Primitives of queued execution -----------------------------------------------------------------------------

    async def update_run_in_session(
        self,
        session_id: str,
        run_id: str,
        fields: Row,
        expected_attempt: int | None = None,
        user_id: str | None = None,
        content_if_absent: str | None = None,
        session_data: Row | None = None,
    ) -> RunPersistOutcome:
        """Merge `fields` into one run's data, atomically and fenced, and optionally replace the session's data with it.

        MISSING: no such run of this session that is `user_id`'s or unowned, or the session is another user's.
        STALE_ATTEMPT: a newer attempt (`queue_attempt`) has written. TERMINAL_REFUSED: the run is completed or
        cancelled and `fields` names another status. Else UPDATED. On MongoDB `session_data` is stored just before the
        run, in a write of its own.
        Raises `RuntimeError` if `session_data` is given for no user and the session has one.
        """
        check_id("session_id", session_id)
        check_id("run_id", run_id)
        if fields.get("status") is not None:
            fields = {**fields, "status": canonical_run_status(fields["status"])}
        await self.kernel.io.work(is_long(fields), Json.of, fields, "fields")
        data_part = await self.kernel.io.work(is_long(session_data), Json.of, session_data, "session_data")
        outcome = RunPersistOutcome.MISSING

        def decide(existing: Stored | None, head: Stored) -> RunDraft | None:
            nonlocal outcome
            outcome = RunPersistOutcome.MISSING
            if existing is None or not self._matches(existing, session_id, user_id):
                return None
            run = (existing.body or {})["run_data"].value()
            stored_attempt = run.get("queue_attempt")
            if expected_attempt is not None and stored_attempt is not None and stored_attempt > expected_attempt:
                outcome = RunPersistOutcome.STALE_ATTEMPT
                return None
            stored_status = str(run.get("status") or existing.fields.get("status") or "").lower()
            incoming = str(fields.get("status") or "").lower()
            if stored_status in ("completed", "cancelled") and incoming and incoming != stored_status:
                outcome = RunPersistOutcome.TERMINAL_REFUSED
                return None
            run.update(fields)
            if content_if_absent is not None and not run.get("content"):
                run["content"] = content_if_absent
            if expected_attempt is not None:
                run["queue_attempt"] = expected_attempt
            now = self.kernel.now()
            columns = {**existing.fields, **_model_of(run), "updated_at": now}
            if fields.get("status") is not None:
                columns["status"] = fields["status"]
            session = None
            if session_data is not None:
                owner = head.fields.get("user_id")
                if owner is not None and owner != text_of(user_id):
                    raise RuntimeError("Cannot persist run metadata without its owned session")
                name = session_name_of(data_part)
                session = ({"updated_at": now, "touched_at": now, "session_name": name}, {"session_data": data_part})
            outcome = RunPersistOutcome.UPDATED
            return RunDraft(columns, Json.of(run, "run_data"), session=session)

        if await self._patch(run_id, session_id, user_id, decide) is None and outcome is RunPersistOutcome.UPDATED:
            outcome = RunPersistOutcome.MISSING
        return outcome

    async def append_run_to_session_if_absent(
        self, session_id: str, run_dict: Row, user_id: str | None = None
    ) -> bool | None:
        """Store a run unless there is one of this id: True if stored, False if there was, None if there is no session.
        Raises `OwnershipError`."""
        row, data = await self.kernel.io.work(is_long(run_dict), self._taken, run_dict, session_id, user_id, None)
        found = False

        def decide(existing: Stored | None, head: Stored) -> RunDraft | None:
            nonlocal found
            found = existing is not None
            return None if found else RunDraft(self._fields(row, None), data, row["run_index"])

        try:
            stored = await self.histories.write_run(row["run_id"], session_id, row["user_id"], decide)
        except SessionNotFoundError:
            return None
        return stored is not None and not found

"""What an operator does with a store, beyond `BaseDb`: walk through everything, count, remove all of a user.

Invariants: a walk asks for what it gives, a page at a time, and repeats and skips nothing of what is there throughout;
removal of a user touches nothing of anybody else, checks the owner in the very step that removes, goes on with the rest
where one record fails, tells what is left, and converges when it is repeated.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from agno.db.base import SessionType
from agno.db.utils import deserialize_run
from agno.run.agent import RunOutput
from agno.run.team import TeamRunOutput
from agno.run.workflow import WorkflowRunOutput

from agno_docstores import catalog, turns
from agno_docstores.domains.owned import owner
from agno_docstores.domains.runs import to_row
from agno_docstores.domains.sessions import run_dicts
from agno_docstores.errors import DocstoreError
from agno_docstores.history import Histories, history_ref, session_ref
from agno_docstores.kernel import Kernel, Query, expired
from agno_docstores.keys import check_id
from agno_docstores.lifetimes import due
from agno_docstores.port import Delete, Eq, Kind, Stored
from agno_docstores.schema import (
    APPROVALS,
    AUTH_TOKENS,
    COMPACTIONS,
    COMPONENTS,
    CONFIGS,
    EVALS,
    HISTORIES,
    JOBS,
    KNOWLEDGE,
    LEARNINGS,
    MEMORIES,
    METRICS,
    PRODUCTS,
    PROJECTS,
    RUNS,
    SCHEDULE_RUNS,
    SCHEDULES,
    SERVICE_ACCOUNTS,
    SESSIONS,
    SOURCES,
    SPANS,
    TASKS,
    TOOL_RESULTS,
    TRACES,
)
from agno_docstores.session_records import Session, filters, readable, remove_rest, remove_session, to_session
from agno_docstores.totals import totals_of

log = logging.getLogger("agno_docstores")

Row = dict[str, Any]
Run = RunOutput | TeamRunOutput | WorkflowRunOutput
T = TypeVar("T")
#: Reads a page of a walk: given the cursor that came with the page before (None: the first), the page and its cursor
#: (None: the last).
Reader = Callable[[Any], Coroutine[Any, Any, tuple[list[T], Any]]]

PAGE = 100  # records that a purge looks at together
#: What goes with a session, and is looked for before it: also where the session was never saved.
COMPANIONS: tuple[tuple[Kind, str], ...] = ((COMPACTIONS, "user_id"), (TOOL_RESULTS, "user_id"))
#: The kinds besides sessions whose records have an owner, with the field, indexed, that says who it is.
OWNED: tuple[tuple[Kind, str], ...] = (
    *COMPANIONS,
    (MEMORIES, "user_id"),
    (KNOWLEDGE, "owner"),
    (EVALS, "user_id"),
    (TRACES, "user_id"),
    (LEARNINGS, "owner"),
    (METRICS, "user_id"),
    (SCHEDULE_RUNS, "user_id"),
    (SCHEDULES, "user_id"),
    (APPROVALS, "user_id"),
    (SERVICE_ACCOUNTS, "owner"),
    (AUTH_TOKENS, "user_id"),
    (TASKS, "user_id"),
    (PROJECTS, "user_id"),
    (SOURCES, "user_id"),
    (PRODUCTS, "user_id"),
    (COMPONENTS, "user_id"),
    (CONFIGS, "user_id"),
    (JOBS, "user_id"),
)


@dataclass(frozen=True, slots=True)
class PurgeFailure:
    """A record of the user that is still there, and why. `id` None: records of the kind could not be looked up."""

    kind: str
    id: str | None
    error: Exception


@dataclass(frozen=True, slots=True)
class PurgeReport:
    """What `purge_user` removed, or would remove (`dry_run`).

    `removed`: number of records by kind ("sessions", "runs", "memories", "knowledge", "evals", "traces", "spans",
    "learnings", "metrics", "schedule_runs", "schedules", "approvals", "service_accounts", "auth_tokens", "tasks",
    "projects", "sources", "products", "components", "component_configs", "jobs", "compactions", "tool_results"); a kind
    of which there was nothing has 0. What went with a session and names no user is not counted.
    `seconds`: how long it took.
    """

    user_id: str
    dry_run: bool
    removed: Mapping[str, int]
    failures: tuple[PurgeFailure, ...]
    seconds: float

    @property
    def complete(self) -> bool:
        """Whether nothing failed. If not, call again: what is done is done."""
        return not self.failures


@dataclass(slots=True)
class _Purge:
    """A purge under way."""

    user_id: str
    dry_run: bool
    removed: Counter[str] = field(default_factory=Counter)
    failures: list[PurgeFailure] = field(default_factory=list)


class Management:
    def __init__(self, kernel: Kernel, histories: Histories) -> None:
        self.kernel = kernel
        self.histories = histories

    # --- Walks and counts -------------------------------------------------------------------------------------------

    def get_all_sessions(
        self,
        user_id: str | None = None,
        *,
        session_type: SessionType | str | None = None,
        component_id: str | None = None,
        include_runs: bool = False,
        page_size: int = 100,
    ) -> Reader[Session]:
        """All sessions, the oldest first (by `created_at`, then id): an iterator of pages, lists of `page_size` session
        objects, each read when it is asked for. Of an async store it is an async iterator, and not awaited itself.

        All filters apply. A session that is there throughout comes exactly once, whatever is written, added or deleted
        meanwhile; one that is added meanwhile may come or not. Runs are not read unless `include_runs`; then each
        session has all of its own. A page costs 1 request (DynamoDB: 2, without filters 5), with runs 1 besides and
        those of each history. Eventually consistent on DynamoDB. The iterator may be left at any time. Raises
        `ValueError` at once for a `page_size` below 1.
        """
        query = _listing(user_id, session_type, component_id, "created_at")
        _check_size(page_size)

        async def read(cursor: Any) -> tuple[list[Session], Any]:
            records, further = await self.kernel.stretch(query, cursor, page_size)
            runs: Sequence[list[Row] | None] = [None] * len(records)
            if include_runs:
                heads = await self.kernel.get_many([history_ref(record.ref.id) for record in records])
                runs = await self.kernel.io.gather(*map(self._all_runs, heads))
            return [to_session(record, None, own) for record, own in zip(records, runs, strict=True)], further

        return read

    async def _all_runs(self, head: Stored | None) -> list[Row]:
        """The runs of a history, past the cache: a walk through a whole store would fill it with what nobody needs."""
        if head is None or head.fields.get("deleting"):
            return []
        return run_dicts(await self.kernel.page(_runs_of(head)))

    def iter_runs(
        self, session_id: str, *, user_id: str | None = None, page_size: int = 100, deserialize: bool = True
    ) -> Reader[Run | Row]:
        """The runs of a session in order: an iterator of run objects (rows without `deserialize`), of which never more
        than `page_size` are read ahead. Of an async store it is an async iterator, and not awaited itself.

        Nothing, if there is no such session or it is not `user_id`'s. Strongly consistent: a run that was acknowledged
        before the iterator comes to its place is there. If the session is deleted meanwhile, the iterator ends; runs of
        a session that is begun anew under the id do not follow. 1 request for each page, and 1. Raises `ValueError` for
        a `page_size` below 1, `InvalidIdError`; both at once.
        """
        check_id("session_id", session_id)
        _check_size(page_size)
        query: Query | None = None

        async def read(cursor: Any) -> tuple[list[Run | Row], Any]:
            nonlocal query
            if query is None:
                session, head = await self.histories.heads(session_id)
                if session is None or head is None or not readable(session, user_id):
                    return [], None
                query = _runs_of(head)
            records, further = await self.kernel.stretch(query, cursor, page_size)
            rows = [to_row(record) for record in records]
            if not deserialize:
                return list(rows), further
            return [deserialize_run(row["run_type"], row["run_data"]) for row in rows], further

        return read

    async def get_recent_sessions(
        self,
        limit: int = 5,
        user_id: str | None = None,
        *,
        session_type: SessionType | str | None = None,
        component_id: str | None = None,
    ) -> list[Session]:
        """The sessions that changed last, the latest first (by `updated_at`, or `created_at` where that is null),
        without their runs. All filters apply. 1 request (DynamoDB: 2, without filters 5). Eventually consistent on
        DynamoDB. Raises `ValueError` for a negative `limit`."""
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
            raise ValueError(f"limit must be an int that is not negative, not {limit!r}")
        query = _listing(user_id, session_type, component_id, "touched_at", descending=True)
        found = await self.kernel.page(query, limit=limit) if limit else []
        return [to_session(record, None, None) for record in found]

    async def count_sessions(
        self,
        user_id: str | None = None,
        *,
        session_type: SessionType | str | None = None,
        component_id: str | None = None,
    ) -> int:
        """How many sessions there are, of those that all filters given apply to. The store's own count in 1 request
        where an index covers the filters (a user; a component; on MongoDB and Firestore each of them with a type), else
        the index entries of one of them are read. Eventually consistent on DynamoDB."""
        return await self.kernel.count(_listing(user_id, session_type, component_id))

    # --- Removal of a user ------------------------------------------------------------------------------------------

    async def purge_user(self, user_id: str, *, dry_run: bool = False) -> PurgeReport:
        """Remove everything that belongs to a user: sessions with all their runs, whoever wrote them; memories,
        knowledge contents (not what a vector store holds of them), eval runs, traces with their spans, learnings,
        schedules with their runs, approvals, service accounts, tokens of tools, what a company has of his, components
        with their configs, compactions and the index of tool results, whosever session they are of and whether it was
        ever saved (not the content of the results, which lies elsewhere), and the rows of the metrics that count the
        user's sessions.

        What stays: the administrator's, which is roles, the directory in which a user may be disabled, and the records
        of authorization, whose `actor` a user may be, for they are the evidence of who did what. Transcripts of
        external agents name no user: those of his sessions go with them, those of a session that was never saved stay
        until `delete_sessions` is given its id, or `delete_transcript` their name. What is unowned or another user's,
        also the runs that the user has in such sessions: they belong to the session. Of compactions and tool results
        from before their user was indexed, those of sessions that are not stored are not found.

        A record that cannot be removed is reported, logged and passed over; repeating the call goes on,
        also with deletions that were interrupted, and removes what the user wrote meanwhile. `dry_run` counts only.
        Requests: 2 or more for each record, some 6 and its runs for a session; the histories that the metrics have not
        counted yet are looked through for interrupted deletions. Lookups are eventually consistent on DynamoDB: what
        was written in the last second may take another call. Raises `InvalidIdError`.
        """
        whose = check_id("user_id", owner(user_id))
        started = self.kernel.io.now()
        purge = _Purge(whose, dry_run)
        for kind, name in COMPANIONS:  # before their sessions, with which they would go uncounted
            await self._each(purge, _owned(kind, name, whose), self._purge_record)
        await self._each(purge, Query(SESSIONS, (Eq("user_id", whose),), "created_at"), self._purge_session)
        interrupted = (Eq("uncounted", True), Eq("user_id", whose), Eq("deleting", True))
        await self._each(purge, Query(HISTORIES, interrupted, "incarnation"), self._purge_session)
        await self._each(purge, due(self.kernel.now(), about=SESSIONS.name), self._purge_expired, body=True)
        for kind, name in OWNED[len(COMPANIONS) :]:
            remove = {TRACES.name: self._purge_trace, COMPONENTS.name: self._purge_component}.get(
                kind.name, self._purge_record
            )
            # Sessions first: that takes them out of the metrics of today.
            await self._each(purge, _owned(kind, name, whose), remove)
        kinds = (SESSIONS, RUNS, SPANS, *(kind for kind, _ in OWNED))
        return PurgeReport(
            whose,
            dry_run,
            {kind.name: purge.removed[kind.name] for kind in kinds},
            tuple(purge.failures),
            self.kernel.io.now() - started,
        )

    async def _each(
        self,
        purge: _Purge,
        query: Query,
        remove: Callable[[_Purge, Stored], Coroutine[Any, Any, None]],
        *,
        body: bool = False,
    ) -> None:
        """Remove the records of a query; what fails is noted."""
        cursor: Any = None
        while True:
            try:
                records, cursor = await self.kernel.stretch(query, cursor, PAGE, body=body)
            except DocstoreError as error:
                self._note(purge, query.kind, None, error)
                return
            for record in records:
                try:
                    await remove(purge, record)
                except DocstoreError as error:
                    self._note(purge, query.kind, record.ref.id, error)
            if cursor is None:
                return

    @staticmethod
    def _note(purge: _Purge, kind: Kind, id: str | None, error: Exception) -> None:
        name = SESSIONS.name if kind is HISTORIES else kind.name
        log.error("purge of user %r: %s %r not removed: %s", purge.user_id, name, id, error)
        purge.failures.append(PurgeFailure(name, id, error))

    async def _purge_session(self, purge: _Purge, header: Stored) -> None:
        session_id = header.ref.id
        runs = await self.kernel.count(Query(RUNS, (Eq("session_id", session_id), Eq("deleted", False))))
        interrupted = header.ref.kind == HISTORIES.name  # somebody else took it away, and left the rest
        if purge.dry_run or await remove_session(self.histories, session_id, purge.user_id) or interrupted:
            purge.removed[SESSIONS.name] += 1
            purge.removed[RUNS.name] += runs

    async def _purge_expired(self, purge: _Purge, reminding: Stored) -> None:
        """A session that may have expired, which no read shows any more."""
        session_id = str(reminding.fields["target"])
        session, head = await self.kernel.read_records([session_ref(session_id), history_ref(session_id)])
        if head is None or (session is not None and not expired(session, self.kernel.now())):
            return
        if head.fields.get("user_id") != purge.user_id:
            return
        runs = await self.kernel.count(Query(RUNS, (Eq("session_id", session_id), Eq("deleted", False))))
        if not purge.dry_run:
            await remove_rest(self.histories, head)
        purge.removed[SESSIONS.name] += 1
        purge.removed[RUNS.name] += runs

    async def _purge_record(self, purge: _Purge, header: Stored) -> None:
        if purge.dry_run or await self._remove(header, purge.user_id):
            purge.removed[header.ref.kind] += 1

    async def _purge_trace(self, purge: _Purge, header: Stored) -> None:
        ((spans, *_),) = await totals_of(self.kernel, SPANS, [header], ["errors"])
        if purge.dry_run or await self._remove(header, purge.user_id):
            purge.removed[TRACES.name] += 1
            purge.removed[SPANS.name] += spans

    async def _purge_component(self, purge: _Purge, header: Stored) -> None:
        if purge.dry_run:
            # The configs are counted as such.
            purge.removed[COMPONENTS.name] += 1
            return
        configs = await catalog.purge(self.kernel, header.ref.id, purge.user_id)
        if configs is not None:
            purge.removed[COMPONENTS.name] += 1
            purge.removed[CONFIGS.name] += configs

    async def _remove(self, header: Stored, user_id: str) -> bool:
        """Remove a record if it is (still) the user's, a trace after its spans, a job after its place in a line: so it
        is found until all is gone."""

        async def attempt(fresh: bool) -> bool:
            record = await self.kernel.get(header.ref)
            if record is None or record.fields.get("user_id") != user_id:
                return False
            if record.ref.kind == TRACES.name:
                await self.kernel.purge_children(record.ref.id, SPANS, SPANS.index("trace_started"))
            if record.ref.kind == JOBS.name:
                await turns.withdraw(self.kernel, str(record.fields["session_id"]), record.ref.id)
            await self.kernel.commit([Delete(record.ref, record.rev)])
            self.kernel.recent.forget(record.ref)
            return True

        return await self.kernel.transact(f"removal of {header.ref.kind} {header.ref.id!r}", attempt)


def _owned(kind: Kind, name: str, user_id: str) -> Query:
    index = next(index for index in kind.indexes if index.eq == (name,))
    return Query(kind, (Eq(name, user_id),), index.sort)


def _listing(
    user_id: str | None,
    session_type: SessionType | str | None,
    component_id: str | None,
    sort: str | None = None,
    descending: bool = False,
) -> Query:
    """Sessions under the filters as `get_sessions` takes them. Raises `ValueError` for a type that there is not."""
    kind = None if session_type is None else SessionType(session_type)
    where, implied = filters(user_id, kind, component_id)
    return Query(SESSIONS, tuple(where), sort, descending, tuple(implied))


def _runs_of(head: Stored) -> Query:
    """The runs of a history in order, without those that others of that id have left behind."""
    incarnation = str(head.fields["incarnation"])
    where = (Eq("session_id", head.ref.id), Eq("incarnation", incarnation), Eq("deleted", False))
    return Query(RUNS, where, "run_index")


def _check_size(page_size: int) -> None:
    if page_size < 1:
        raise ValueError(f"`page_size` must be at least 1; got {page_size}.")

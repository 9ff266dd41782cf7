"""The classes that users meet: `BaseDb` and `AsyncBaseDb` over one set of domain objects.

A method here is one line that names the domain method it stands for; names, parameters, defaults and docstring are
that method's, and mypy compares them with Agno's. Nothing here knows storage. Constructors do no I/O.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from agno.db.base import AsyncBaseDb, BaseDb

from agno_docstores.bridge import aiterating, apaging, awaiting, blocking, iterating, paging
from agno_docstores.cleanup import TaskTimer, ThreadTimer, Timer
from agno_docstores.domains.approvals import Approvals
from agno_docstores.domains.evals import Evals
from agno_docstores.domains.jobs import Jobs
from agno_docstores.domains.knowledge import Knowledge
from agno_docstores.domains.learnings import Learnings
from agno_docstores.domains.lifetimes import Lifetimes
from agno_docstores.domains.management import Management
from agno_docstores.domains.memories import Memories
from agno_docstores.domains.messages import Messages
from agno_docstores.domains.metrics import Metrics
from agno_docstores.domains.runs import Runs
from agno_docstores.domains.schedules import Schedules
from agno_docstores.domains.sessions import OnConflict, Sessions
from agno_docstores.domains.state import State
from agno_docstores.domains.summaries import Summaries
from agno_docstores.domains.traces import Traces
from agno_docstores.domains.versions import Versions
from agno_docstores.history import CacheStats, Histories
from agno_docstores.io import Io, run
from agno_docstores.kernel import Kernel
from agno_docstores.lifetimes import SessionConfig
from agno_docstores.options import NOT_ON_ASYNC, TABLE_ARGUMENTS, StoreOptions, agno_names, attribute, split
from agno_docstores.port import Driver, Kind
from agno_docstores.schema import KINDS, SESSIONS

Row = dict[str, Any]

MakeDriver = Callable[[Mapping[str, Kind], Mapping[str, str]], Driver]
#: The physical name of a table: given its name, and whether the user chose it.
Naming = Callable[[str, bool], str]


@dataclass(frozen=True, slots=True)
class StorePlugin:
    """What an entry point of the group `agno_docstores.stores` announces."""

    name: str
    sync: type[Docstore]
    asynchronous: type[AsyncDocstore]


class Engine:
    """What the two facades share: driver, kernel, domains, table names, identity."""

    def __init__(
        self,
        driver: Driver,
        naming: Naming,
        provision: bool,
        cache_bytes: int,
        on_conflict: OnConflict,
        session_config: SessionConfig,
        table_options: str,
    ) -> None:
        self.driver = driver
        self.naming = naming
        self.kernel = Kernel(driver, provision=provision, table_options=table_options)
        self.session_config = session_config
        if session_config.life is not None:
            self.kernel.expiring = frozenset({SESSIONS.name})
        self.histories = histories = Histories(self.kernel, life=session_config.life, cache_bytes=cache_bytes)
        self.domains: dict[str, Any] = {
            "Sessions": Sessions(self.kernel, histories, on_conflict),
            "State": State(self.kernel, histories),
            "Summaries": Summaries(self.kernel, histories),
            "Messages": Messages(self.kernel, histories),
            "Lifetimes": Lifetimes(self.kernel, histories),
            "Management": Management(self.kernel, histories),
            "Runs": Runs(self.kernel, histories),
            "Versions": Versions(self.kernel),
            "Memories": Memories(self.kernel),
            "Knowledge": Knowledge(self.kernel),
            "Evals": Evals(self.kernel),
            "Traces": Traces(self.kernel),
            "Learnings": Learnings(self.kernel),
            "Metrics": Metrics(self.kernel, histories),
            "Schedules": Schedules(self.kernel),
            "Approvals": Approvals(self.kernel),
            "Jobs": Jobs(self.kernel),
            "Engine": self,
        }
        self.table_names: dict[str, str] = {}
        self.timer: Timer | None = None

    def domain(self, name: str) -> Any:
        """The domain whose method is about to be called."""
        if self.timer is not None and name != "Engine":
            self.timer.begin()
        return self.domains[name]

    @property
    def settings(self) -> Row:
        """What another process has to be told besides where the data lie."""
        config = self.session_config.to_dict()
        return {"session_config": config} if config else {}

    async def table_exists(self, table_name: str) -> bool:
        """Whether the physical table or collection behind this name exists. 1 request; none if this handle made it."""
        physical = self.table_names.get(table_name) or self.naming(table_name, True)
        return await self.kernel.exists(physical)

    async def _create_all_tables(self) -> None:
        """Create all storage now and wait until it is ready. Idempotent; AgentOS calls it at startup."""
        await self.kernel.provision_all(KINDS.values())

    def clear_cache(self) -> None:
        self.histories.clear()
        self.kernel.recent.clear()

    async def drop(self, confirm: str, id: str) -> None:
        """Delete everything that this store holds: its own tables (collections), under the names that this object has.

        `confirm`: the store's `id`, so that nobody drops another store than he means; else `ValueError`, and nothing is
        done. Idempotent. This object can be used on: the next write creates the storage anew; open other handles anew.
        MongoDB and Firestore: documents of another origin stay, and their collection with them. DynamoDB: the tables
        are deleted, whatever else is in them, and waited for; a table that has not our keys and indexes is left alone
        (`ProvisioningError`). Nobody should write meanwhile: what is written then may go or stay.
        """
        if not isinstance(confirm, str) or confirm != id:
            raise ValueError(f"to drop this store, pass its id: confirm={id!r}; got {confirm!r}")
        try:
            await self.kernel.drop()
        finally:
            self.histories.clear()

    async def close(self) -> None:
        """End the timer of sweeps, if there is one, and close the clients that this object created; a client that was
        handed in stays open."""
        if self.timer is not None:
            self.timer.end()
        await self.kernel.close()


def _engine(
    db: Any, make_driver: MakeDriver, naming: Naming, tables: Mapping[str, Any], options: Mapping[str, Any]
) -> Engine:
    # `to_dict` names every table, so what `from_dict` passes may be Agno's own names, which nobody chose.
    tables = {argument: name for argument, name in tables.items() if name not in agno_names()}
    chosen = {getattr(db, attribute(argument)) for argument in tables}
    if "session_table" in tables:
        chosen.add(db.runs_table_name)  # Agno derives it from the session table's name
    names = {getattr(db, attribute(a)) for a in TABLE_ARGUMENTS if hasattr(db, attribute(a))}
    physical = {name: naming(name, name in chosen) for name in names}
    engine = Engine(
        make_driver(KINDS, {kind.name: physical[getattr(db, kind.table)] for kind in KINDS.values()}),
        naming,
        options.get("provision", True),
        options.get("cache_bytes", 64_000_000),
        options.get("on_conflict", "merge"),
        options["session_config"],
        " ".join(f"--{argument.replace('_', '-')} {shlex.quote(name)}" for argument, name in tables.items()),
    )
    engine.table_names = physical
    interval = engine.session_config.cleanup_interval
    if interval is not None:
        timer = TaskTimer if isinstance(db, AsyncBaseDb) else ThreadTimer
        engine.timer = timer(cast(float, interval), engine.domains["Lifetimes"].sweep)
    return engine


def store_id(store: str, identity: tuple[str, ...]) -> str:
    """An id that the same storage always gets, in every process, and no other storage."""
    digest = hashlib.sha256("\x00".join(identity).encode()).hexdigest()[:20]
    return f"{store}-{digest}"


def _as_named(name: str, custom: bool) -> str:
    return name


class Docstore(BaseDb):
    """Base of the sync document stores."""

    def __init__(
        self,
        make_driver: MakeDriver,
        *,
        identity: tuple[str, ...],
        naming: Naming = _as_named,
        settings: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        tables, others = split(options)
        BaseDb.__init__(self, **tables, id=others.get("id"))
        self._engine = _engine(self, make_driver, naming, tables, others)
        self._settings = dict(settings or {})
        self.id = others.get("id") or store_id(self._engine.driver.store, identity)

    @property
    def io(self) -> Io:
        """The gateway: `io.calls` counts requests by operation, `io.hooks` sees each of them."""
        return self._engine.driver.io

    @property
    def conflicts(self) -> dict[str, int]:
        """Of this object's saves: how many kept another writer's change ("merged"), and how many such changes they
        wrote over because both had changed the same key ("overwritten"; each is logged)."""
        return {"merged": 0, "overwritten": 0, **self._engine.domains["Sessions"].conflicts}

    @property
    def cache_stats(self) -> CacheStats:
        """What this handle's cache of histories holds and has saved so far. `cache_bytes` bounds or ends it."""
        return self._engine.histories.stats()

    def clear_cache(self) -> None:
        """Forget what this handle remembers of sessions and runs. It is never needed for correctness."""
        self._engine.clear_cache()

    def to_dict(self) -> Row:
        """Id, table names, where the data lies, and how long sessions live: what `from_dict` needs. No credentials."""
        return {**super().to_dict(), **self._settings, **self._engine.settings}

    @classmethod
    def from_dict(cls, data: Row) -> BaseDb:
        """The store of a `to_dict`; credentials come from the environment. Unknown keys are ignored."""
        return cls(**_known(cls, data))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(id={self.id!r}, at={self._engine.driver.address()!r})"

    table_exists = blocking(Engine.table_exists)
    _create_all_tables = blocking(Engine._create_all_tables)
    close = blocking(Engine.close)

    def drop(self, confirm: str) -> None:
        run(self._engine.drop(confirm, self.id))

    drop.__doc__ = Engine.drop.__doc__

    get_latest_schema_version = blocking(Versions.get_latest_schema_version)
    upsert_schema_version = blocking(Versions.upsert_schema_version)

    get_session = blocking(Sessions.get_session)
    get_sessions = blocking(Sessions.get_sessions)
    upsert_session = blocking(Sessions.upsert_session)
    upsert_sessions = blocking(Sessions.upsert_sessions)
    rename_session = blocking(Sessions.rename_session)
    delete_session = blocking(Sessions.delete_session)
    delete_sessions = blocking(Sessions.delete_sessions)
    reassign_session_owner = blocking(Sessions.reassign_session_owner)
    insert_session_if_absent = blocking(Sessions.insert_session_if_absent)

    get_session_data = blocking(State.get_session_data)
    update_session_data = blocking(State.update_session_data)
    save_session = blocking(State.save_session)
    update_session = blocking(State.update_session)

    summarize_session = blocking(Summaries.summarize_session)
    end_session = blocking(Summaries.end_session)

    touch_session = blocking(Lifetimes.touch_session)
    get_expired_sessions = blocking(Lifetimes.get_expired_sessions)
    sweep = blocking(Lifetimes.sweep)

    get_all_sessions = paging(Management.get_all_sessions)
    get_recent_sessions = blocking(Management.get_recent_sessions)
    count_sessions = blocking(Management.count_sessions)
    iter_runs = iterating(Management.iter_runs)
    purge_user = blocking(Management.purge_user)

    get_messages = blocking(Messages.get_messages)
    get_chat_history = blocking(Messages.get_chat_history)
    get_tool_calls = blocking(Messages.get_tool_calls)
    get_agent_history = blocking(Messages.get_agent_history)
    get_team_history = blocking(Messages.get_team_history)
    get_workflow_history = blocking(Messages.get_workflow_history)

    get_run = blocking(Runs.get_run)
    get_runs = blocking(Runs.get_runs)
    upsert_run = blocking(Runs.upsert_run)
    delete_run = blocking(Runs.delete_run)
    delete_runs = blocking(Runs.delete_runs)
    cancel_pending_run = blocking(Runs.cancel_pending_run)
    update_run_in_session = blocking(Runs.update_run_in_session)
    append_run_to_session_if_absent = blocking(Runs.append_run_to_session_if_absent)

    upsert_user_memory = blocking(Memories.upsert_user_memory)
    upsert_memories = blocking(Memories.upsert_memories)
    get_user_memory = blocking(Memories.get_user_memory)
    get_user_memories = blocking(Memories.get_user_memories)
    get_user_memory_stats = blocking(Memories.get_user_memory_stats)
    get_all_memory_topics = blocking(Memories.get_all_memory_topics)
    delete_user_memory = blocking(Memories.delete_user_memory)
    delete_user_memories = blocking(Memories.delete_user_memories)
    clear_memories = blocking(Memories.clear_memories)

    get_metrics = blocking(Metrics.get_metrics)
    calculate_metrics = blocking(Metrics.calculate_metrics)

    get_knowledge_content = blocking(Knowledge.get_knowledge_content)
    get_knowledge_contents = blocking(Knowledge.get_knowledge_contents)
    upsert_knowledge_content = blocking(Knowledge.upsert_knowledge_content)
    delete_knowledge_content = blocking(Knowledge.delete_knowledge_content)

    create_eval_run = blocking(Evals.create_eval_run)
    get_eval_run = blocking(Evals.get_eval_run)
    get_eval_runs = blocking(Evals.get_eval_runs)
    rename_eval_run = blocking(Evals.rename_eval_run)
    delete_eval_run = blocking(Evals.delete_eval_run)
    delete_eval_runs = blocking(Evals.delete_eval_runs)
    update_eval_run_user_id = blocking(Evals.update_eval_run_user_id)

    upsert_trace = blocking(Traces.upsert_trace)
    get_trace = blocking(Traces.get_trace)
    get_traces = blocking(Traces.get_traces)
    get_trace_stats = blocking(Traces.get_trace_stats)
    create_span = blocking(Traces.create_span)
    create_spans = blocking(Traces.create_spans)
    get_span = blocking(Traces.get_span)
    get_spans = blocking(Traces.get_spans)
    get_span_stats = blocking(Traces.get_span_stats)

    upsert_learning = blocking(Learnings.upsert_learning)
    get_learning = blocking(Learnings.get_learning)
    get_learnings = blocking(Learnings.get_learnings)
    search_learnings = blocking(Learnings.search_learnings)
    get_learning_by_id = blocking(Learnings.get_learning_by_id)
    list_learnings = blocking(Learnings.list_learnings)
    update_learning = blocking(Learnings.update_learning)
    delete_learning = blocking(Learnings.delete_learning)
    delete_user_learnings = blocking(Learnings.delete_user_learnings)
    get_learnings_user_stats = blocking(Learnings.get_learnings_user_stats)

    get_schedule = blocking(Schedules.get_schedule)
    get_schedule_by_name = blocking(Schedules.get_schedule_by_name)
    get_schedules = blocking(Schedules.get_schedules)
    create_schedule = blocking(Schedules.create_schedule)
    update_schedule = blocking(Schedules.update_schedule)
    delete_schedule = blocking(Schedules.delete_schedule)
    disable_schedules_for_target = blocking(Schedules.disable_schedules_for_target)
    stamp_schedule_provenance = blocking(Schedules.stamp_schedule_provenance)
    claim_due_schedule = blocking(Schedules.claim_due_schedule)
    release_schedule = blocking(Schedules.release_schedule)
    create_schedule_run = blocking(Schedules.create_schedule_run)
    update_schedule_run = blocking(Schedules.update_schedule_run)
    get_schedule_run = blocking(Schedules.get_schedule_run)
    get_schedule_runs = blocking(Schedules.get_schedule_runs)
    get_latest_schedule_runs = blocking(Schedules.get_latest_schedule_runs)
    delete_schedule_runs = blocking(Schedules.delete_schedule_runs)

    create_approval = blocking(Approvals.create_approval)
    get_approval = blocking(Approvals.get_approval)
    get_approvals = blocking(Approvals.get_approvals)
    update_approval = blocking(Approvals.update_approval)
    delete_approval = blocking(Approvals.delete_approval)
    get_pending_approval_count = blocking(Approvals.get_pending_approval_count)
    update_approval_run_status = blocking(Approvals.update_approval_run_status)

    serializes_sessions = True  # what Agno's worker asks of a queue before it relies on turns
    ensure_jobs_table = blocking(Jobs.ensure_jobs_table)
    enqueue_job = blocking(Jobs.enqueue_job)
    claim_job = blocking(Jobs.claim_job)
    heartbeat_jobs = blocking(Jobs.heartbeat_jobs)
    complete_job = blocking(Jobs.complete_job)
    retry_or_fail_job = blocking(Jobs.retry_or_fail_job)
    settle_paused_job = blocking(Jobs.settle_paused_job)
    cancel_job = blocking(Jobs.cancel_job)
    sweep_exhausted_jobs = blocking(Jobs.sweep_exhausted_jobs)
    acquire_sweep = blocking(Jobs.acquire_sweep)
    settle_swept_job = blocking(Jobs.settle_swept_job)
    get_job = blocking(Jobs.get_job)
    count_queued_jobs = blocking(Jobs.count_queued_jobs)
    continue_job = blocking(Jobs.continue_job)
    session_blocker = blocking(Jobs.session_blocker)
    list_jobs = blocking(Jobs.list_jobs)
    requeue_job = blocking(Jobs.requeue_job)
    queue_stats = blocking(Jobs.queue_stats)
    cleanup_jobs = blocking(Jobs.cleanup_jobs)


class AsyncDocstore(AsyncBaseDb):
    """Base of the async document stores."""

    def __init__(
        self,
        make_driver: MakeDriver,
        *,
        identity: tuple[str, ...],
        naming: Naming = _as_named,
        settings: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        tables, others = split(options)
        accepted = {name: value for name, value in tables.items() if name not in NOT_ON_ASYNC}
        AsyncBaseDb.__init__(self, id=others.get("id"), **accepted)
        for name in NOT_ON_ASYNC:
            setattr(self, attribute(name), tables.get(name) or f"agno_{name.removesuffix('_table')}")
        self._engine = _engine(self, make_driver, naming, tables, others)
        self._settings = dict(settings or {})
        self.id = others.get("id") or store_id(self._engine.driver.store, identity)

    @property
    def io(self) -> Io:
        """The gateway: `io.calls` counts requests by operation, `io.hooks` sees each of them."""
        return self._engine.driver.io

    @property
    def conflicts(self) -> dict[str, int]:
        """Of this object's saves: how many kept another writer's change ("merged"), and how many such changes they
        wrote over because both had changed the same key ("overwritten"; each is logged)."""
        return {"merged": 0, "overwritten": 0, **self._engine.domains["Sessions"].conflicts}

    @property
    def cache_stats(self) -> CacheStats:
        """What this handle's cache of histories holds and has saved so far. `cache_bytes` bounds or ends it."""
        return self._engine.histories.stats()

    def clear_cache(self) -> None:
        """Forget what this handle remembers of sessions and runs. It is never needed for correctness."""
        self._engine.clear_cache()

    def to_dict(self) -> Row:
        """Id, table names, where the data lies, and how long sessions live: what `from_dict` needs. No credentials."""
        return {**super().to_dict(), **self._settings, **self._engine.settings}

    @classmethod
    def from_dict(cls, data: Row) -> AsyncBaseDb:
        """The store of a `to_dict`; credentials come from the environment. Unknown keys are ignored."""
        return cls(**_known(cls, data))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(id={self.id!r}, at={self._engine.driver.address()!r})"

    table_exists = awaiting(Engine.table_exists)
    _create_all_tables = awaiting(Engine._create_all_tables)
    close = awaiting(Engine.close)

    async def drop(self, confirm: str) -> None:
        await self._engine.drop(confirm, self.id)

    drop.__doc__ = Engine.drop.__doc__

    get_latest_schema_version = awaiting(Versions.get_latest_schema_version)
    upsert_schema_version = awaiting(Versions.upsert_schema_version)

    get_session = awaiting(Sessions.get_session)
    get_sessions = awaiting(Sessions.get_sessions)
    upsert_session = awaiting(Sessions.upsert_session)
    upsert_sessions = awaiting(Sessions.upsert_sessions)
    rename_session = awaiting(Sessions.rename_session)
    delete_session = awaiting(Sessions.delete_session)
    delete_sessions = awaiting(Sessions.delete_sessions)
    reassign_session_owner = awaiting(Sessions.reassign_session_owner)
    insert_session_if_absent = awaiting(Sessions.insert_session_if_absent)

    get_session_data = awaiting(State.get_session_data)
    update_session_data = awaiting(State.update_session_data)
    save_session = awaiting(State.save_session)
    update_session = awaiting(State.update_session)

    summarize_session = awaiting(Summaries.summarize_session)
    end_session = awaiting(Summaries.end_session)

    touch_session = awaiting(Lifetimes.touch_session)
    get_expired_sessions = awaiting(Lifetimes.get_expired_sessions)
    sweep = awaiting(Lifetimes.sweep)

    get_all_sessions = apaging(Management.get_all_sessions)
    get_recent_sessions = awaiting(Management.get_recent_sessions)
    count_sessions = awaiting(Management.count_sessions)
    iter_runs = aiterating(Management.iter_runs)
    purge_user = awaiting(Management.purge_user)

    get_messages = awaiting(Messages.get_messages)
    get_chat_history = awaiting(Messages.get_chat_history)
    get_tool_calls = awaiting(Messages.get_tool_calls)
    get_agent_history = awaiting(Messages.get_agent_history)
    get_team_history = awaiting(Messages.get_team_history)
    get_workflow_history = awaiting(Messages.get_workflow_history)

    get_run = awaiting(Runs.get_run)
    get_runs = awaiting(Runs.get_runs)
    upsert_run = awaiting(Runs.upsert_run)
    delete_run = awaiting(Runs.delete_run)
    delete_runs = awaiting(Runs.delete_runs)
    cancel_pending_run = awaiting(Runs.cancel_pending_run)
    update_run_in_session = awaiting(Runs.update_run_in_session)
    append_run_to_session_if_absent = awaiting(Runs.append_run_to_session_if_absent)

    upsert_user_memory = awaiting(Memories.upsert_user_memory)
    upsert_memories = awaiting(Memories.upsert_memories)
    get_user_memory = awaiting(Memories.get_user_memory)
    get_user_memories = awaiting(Memories.get_user_memories)
    get_user_memory_stats = awaiting(Memories.get_user_memory_stats)
    get_all_memory_topics = awaiting(Memories.get_all_memory_topics)
    delete_user_memory = awaiting(Memories.delete_user_memory)
    delete_user_memories = awaiting(Memories.delete_user_memories)
    clear_memories = awaiting(Memories.clear_memories)

    get_metrics = awaiting(Metrics.get_metrics)
    calculate_metrics = awaiting(Metrics.calculate_metrics)

    get_knowledge_content = awaiting(Knowledge.get_knowledge_content)
    get_knowledge_contents = awaiting(Knowledge.get_knowledge_contents)
    upsert_knowledge_content = awaiting(Knowledge.upsert_knowledge_content)
    delete_knowledge_content = awaiting(Knowledge.delete_knowledge_content)

    create_eval_run = awaiting(Evals.create_eval_run)
    get_eval_run = awaiting(Evals.get_eval_run)
    get_eval_runs = awaiting(Evals.get_eval_runs)
    rename_eval_run = awaiting(Evals.rename_eval_run)
    delete_eval_run = awaiting(Evals.delete_eval_run)
    delete_eval_runs = awaiting(Evals.delete_eval_runs)
    update_eval_run_user_id = awaiting(Evals.update_eval_run_user_id)

    upsert_trace = awaiting(Traces.upsert_trace)
    get_trace = awaiting(Traces.get_trace)
    get_traces = awaiting(Traces.get_traces)
    get_trace_stats = awaiting(Traces.get_trace_stats)
    create_span = awaiting(Traces.create_span)
    create_spans = awaiting(Traces.create_spans)
    get_span = awaiting(Traces.get_span)
    get_spans = awaiting(Traces.get_spans)
    get_span_stats = awaiting(Traces.get_span_stats)

    upsert_learning = awaiting(Learnings.upsert_learning)
    get_learning = awaiting(Learnings.get_learning)
    get_learnings = awaiting(Learnings.get_learnings)
    search_learnings = awaiting(Learnings.search_learnings)
    get_learning_by_id = awaiting(Learnings.get_learning_by_id)
    list_learnings = awaiting(Learnings.list_learnings)
    update_learning = awaiting(Learnings.update_learning)
    delete_learning = awaiting(Learnings.delete_learning)
    delete_user_learnings = awaiting(Learnings.delete_user_learnings)
    get_learnings_user_stats = awaiting(Learnings.get_learnings_user_stats)

    get_schedule = awaiting(Schedules.get_schedule)
    get_schedule_by_name = awaiting(Schedules.get_schedule_by_name)
    get_schedules = awaiting(Schedules.get_schedules)
    create_schedule = awaiting(Schedules.create_schedule)
    update_schedule = awaiting(Schedules.update_schedule)
    delete_schedule = awaiting(Schedules.delete_schedule)
    disable_schedules_for_target = awaiting(Schedules.disable_schedules_for_target)
    stamp_schedule_provenance = awaiting(Schedules.stamp_schedule_provenance)
    claim_due_schedule = awaiting(Schedules.claim_due_schedule)
    release_schedule = awaiting(Schedules.release_schedule)
    create_schedule_run = awaiting(Schedules.create_schedule_run)
    update_schedule_run = awaiting(Schedules.update_schedule_run)
    get_schedule_run = awaiting(Schedules.get_schedule_run)
    get_schedule_runs = awaiting(Schedules.get_schedule_runs)
    get_latest_schedule_runs = awaiting(Schedules.get_latest_schedule_runs)
    delete_schedule_runs = awaiting(Schedules.delete_schedule_runs)

    create_approval = awaiting(Approvals.create_approval)
    get_approval = awaiting(Approvals.get_approval)
    get_approvals = awaiting(Approvals.get_approvals)
    update_approval = awaiting(Approvals.update_approval)
    delete_approval = awaiting(Approvals.delete_approval)
    get_pending_approval_count = awaiting(Approvals.get_pending_approval_count)
    update_approval_run_status = awaiting(Approvals.update_approval_run_status)

    serializes_sessions = True  # what Agno's worker asks of a queue before it relies on turns
    ensure_jobs_table = awaiting(Jobs.ensure_jobs_table)
    enqueue_job = awaiting(Jobs.enqueue_job)
    claim_job = awaiting(Jobs.claim_job)
    heartbeat_jobs = awaiting(Jobs.heartbeat_jobs)
    complete_job = awaiting(Jobs.complete_job)
    retry_or_fail_job = awaiting(Jobs.retry_or_fail_job)
    settle_paused_job = awaiting(Jobs.settle_paused_job)
    cancel_job = awaiting(Jobs.cancel_job)
    sweep_exhausted_jobs = awaiting(Jobs.sweep_exhausted_jobs)
    acquire_sweep = awaiting(Jobs.acquire_sweep)
    settle_swept_job = awaiting(Jobs.settle_swept_job)
    get_job = awaiting(Jobs.get_job)
    count_queued_jobs = awaiting(Jobs.count_queued_jobs)
    continue_job = awaiting(Jobs.continue_job)
    session_blocker = awaiting(Jobs.session_blocker)
    list_jobs = awaiting(Jobs.list_jobs)
    requeue_job = awaiting(Jobs.requeue_job)
    queue_stats = awaiting(Jobs.queue_stats)
    cleanup_jobs = awaiting(Jobs.cleanup_jobs)


def _known(cls: type[Any], data: Mapping[str, Any]) -> Row:
    """The entries of a `to_dict` that the constructor takes."""
    own = set(cast(Any, cls.__init__).__code__.co_varnames) | set(StoreOptions.__annotations__)
    own -= {"self", "options"}
    return {name: value for name, value in data.items() if name in own and value is not None}

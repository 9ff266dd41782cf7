"""The classes that users meet: `BaseDb` and `AsyncBaseDb` over one set of domain objects.

A method here is one line that names the domain method it stands for; names, parameters, defaults and docstring are
that method's, and mypy compares them with Agno's. Nothing here knows storage. Constructors do no I/O.
"""

from __future__ import annotations

import hashlib
import shlex
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

from agno.db.base import AsyncBaseDb, BaseDb

from agno_docstores.bridge import aiterating, apaging, awaiting, blocking, iterating, paging
from agno_docstores.chunks import MAX_VALUE_BYTES
from agno_docstores.cleanup import TaskTimer, ThreadTimer, Timer
from agno_docstores.domains.approvals import Approvals
from agno_docstores.domains.auth_tokens import AuthTokens
from agno_docstores.domains.compactions import Compactions
from agno_docstores.domains.company import Company
from agno_docstores.domains.components import Components
from agno_docstores.domains.directory import Directory
from agno_docstores.domains.evals import Evals
from agno_docstores.domains.jobs import Jobs
from agno_docstores.domains.knowledge import Knowledge
from agno_docstores.domains.learnings import Learnings
from agno_docstores.domains.lifetimes import Lifetimes, SweepReport
from agno_docstores.domains.management import Management, PurgeReport
from agno_docstores.domains.mcp_oauth import McpOAuth
from agno_docstores.domains.memories import Memories
from agno_docstores.domains.messages import Messages
from agno_docstores.domains.metrics import Metrics
from agno_docstores.domains.roles import Roles
from agno_docstores.domains.runs import Runs
from agno_docstores.domains.schedules import Schedules
from agno_docstores.domains.service_accounts import ServiceAccounts
from agno_docstores.domains.sessions import OnConflict, Sessions
from agno_docstores.domains.state import State
from agno_docstores.domains.summaries import Summaries
from agno_docstores.domains.tool_results import ToolResults
from agno_docstores.domains.traces import Traces
from agno_docstores.domains.transcripts import Transcripts
from agno_docstores.domains.versions import Versions
from agno_docstores.history import CacheStats, Histories
from agno_docstores.io import Io, run
from agno_docstores.kernel import Kernel
from agno_docstores.lifetimes import SessionConfig
from agno_docstores.options import NOT_ON_ASYNC, TABLE_ARGUMENTS, StoreOptions, agno_names, attribute, split
from agno_docstores.port import Driver, Kind
from agno_docstores.schema import KINDS, SESSIONS
from agno_docstores.session_records import Readings

__all__ = [
    "AsyncDocstore",
    "CacheStats",
    "Docstore",
    "Engine",
    "MakeDriver",
    "Naming",
    "PurgeReport",
    "StorePlugin",
    "SweepReport",
    "agno_names",
    "store_id",
]

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
        max_value_bytes: int,
        on_conflict: OnConflict,
        session_config: SessionConfig,
        table_options: str,
    ) -> None:
        self.driver = driver
        self.naming = naming
        self.kernel = Kernel(driver, provision=provision, table_options=table_options, max_value_bytes=max_value_bytes)
        self.session_config = session_config
        if session_config.life is not None:
            self.kernel.expiring = frozenset({SESSIONS.name})
        self.histories = histories = Histories(self.kernel, life=session_config.life, cache_bytes=cache_bytes)
        readings = Readings()
        self.domains: dict[str, Any] = {
            "Sessions": Sessions(self.kernel, histories, readings, on_conflict),
            "State": State(self.kernel, histories, readings),
            "Summaries": Summaries(self.kernel, histories, readings),
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
            "ServiceAccounts": ServiceAccounts(self.kernel),
            "AuthTokens": AuthTokens(self.kernel),
            "Roles": Roles(self.kernel),
            "Directory": Directory(self.kernel),
            "Transcripts": Transcripts(self.kernel, histories),
            "Compactions": Compactions(self.kernel, histories),
            "ToolResults": ToolResults(self.kernel, histories),
            "Company": Company(self.kernel),
            "Components": Components(self.kernel),
            "McpOAuth": McpOAuth(self.kernel),
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
    names |= {getattr(db, kind.table) for kind in KINDS.values()}  # a few of which no argument names
    physical = {name: naming(name, name in chosen) for name in names}
    engine = Engine(
        make_driver(KINDS, {kind.name: physical[getattr(db, kind.table)] for kind in KINDS.values()}),
        naming,
        options.get("provision", True),
        options.get("cache_bytes", 64_000_000),
        options.get("max_value_bytes", MAX_VALUE_BYTES),
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

    create_service_account = blocking(ServiceAccounts.create_service_account)
    get_service_account = blocking(ServiceAccounts.get_service_account)
    get_service_account_by_token_hash = blocking(ServiceAccounts.get_service_account_by_token_hash)
    get_service_account_by_name = blocking(ServiceAccounts.get_service_account_by_name)
    get_service_accounts = blocking(ServiceAccounts.get_service_accounts)
    update_service_account = blocking(ServiceAccounts.update_service_account)
    delete_service_account = blocking(ServiceAccounts.delete_service_account)

    get_auth_token = blocking(AuthTokens.get_auth_token)
    upsert_auth_token = blocking(AuthTokens.upsert_auth_token)
    delete_auth_token = blocking(AuthTokens.delete_auth_token)

    get_authz_policies = blocking(Roles.get_authz_policies)
    get_authz_role_policies = blocking(Roles.get_authz_role_policies)
    set_authz_role_policies = blocking(Roles.set_authz_role_policies)
    upsert_authz_policy = blocking(Roles.upsert_authz_policy)
    delete_authz_policy = blocking(Roles.delete_authz_policy)
    get_authz_direct_roles = blocking(Roles.get_authz_direct_roles)
    get_authz_direct_roles_many = blocking(Roles.get_authz_direct_roles_many)
    list_authz_role_subjects = blocking(Roles.list_authz_role_subjects)
    authz_name_is_role = blocking(Roles.authz_name_is_role)
    assign_authz_role = blocking(Roles.assign_authz_role)
    unassign_authz_role = blocking(Roles.unassign_authz_role)
    replace_authz_subject_roles = blocking(Roles.replace_authz_subject_roles)
    list_authz_roles = blocking(Roles.list_authz_roles)
    delete_authz_role = blocking(Roles.delete_authz_role)
    get_authz_role_meta = blocking(Roles.get_authz_role_meta)
    list_authz_role_meta = blocking(Roles.list_authz_role_meta)
    upsert_authz_role_meta = blocking(Roles.upsert_authz_role_meta)
    delete_authz_role_meta = blocking(Roles.delete_authz_role_meta)

    get_authz_user = blocking(Directory.get_authz_user)
    is_authz_user_disabled = blocking(Directory.is_authz_user_disabled)
    upsert_authz_user = blocking(Directory.upsert_authz_user)
    set_authz_user_disabled = blocking(Directory.set_authz_user_disabled)
    delete_authz_user = blocking(Directory.delete_authz_user)
    list_authz_users = blocking(Directory.list_authz_users)
    count_authz_users = blocking(Directory.count_authz_users)
    count_authz_users_by_status = blocking(Directory.count_authz_users_by_status)
    list_authz_user_ids = blocking(Directory.list_authz_user_ids)
    count_authz_users_by_day = blocking(Directory.count_authz_users_by_day)
    record_authz_audit_event = blocking(Directory.record_authz_audit_event)
    record_authz_decision = blocking(Directory.record_authz_decision)
    read_authz_audit_events = blocking(Directory.read_authz_audit_events)
    count_authz_audit_events = blocking(Directory.count_authz_audit_events)
    append_transcript_entries = blocking(Transcripts.append_transcript_entries)
    get_transcript_entries = blocking(Transcripts.get_transcript_entries)
    list_transcript_sessions = blocking(Transcripts.list_transcript_sessions)
    list_transcript_subpaths = blocking(Transcripts.list_transcript_subpaths)
    delete_transcript = blocking(Transcripts.delete_transcript)

    upsert_compaction = blocking(Compactions.upsert_compaction)
    get_compaction = blocking(Compactions.get_compaction)
    get_compactions_for_session = blocking(Compactions.get_compactions_for_session)
    delete_compactions_for_session = blocking(Compactions.delete_compactions_for_session)
    search_compactions = blocking(Compactions.search_compactions)

    upsert_tool_result = blocking(ToolResults.upsert_tool_result)
    get_tool_result = blocking(ToolResults.get_tool_result)
    get_tool_results_for_session = blocking(ToolResults.get_tool_results_for_session)
    delete_tool_results = blocking(ToolResults.delete_tool_results)
    get_expired_tool_results = blocking(ToolResults.get_expired_tool_results)

    create_product = blocking(Company.create_product)
    get_product = blocking(Company.get_product)
    get_products = blocking(Company.get_products)
    update_product = blocking(Company.update_product)
    add_product_routine = blocking(Company.add_product_routine)
    get_product_counts = blocking(Company.get_product_counts)
    delete_product = blocking(Company.delete_product)
    restore_product = blocking(Company.restore_product)
    create_source = blocking(Company.create_source)
    get_source = blocking(Company.get_source)
    get_sources = blocking(Company.get_sources)
    update_source = blocking(Company.update_source)
    delete_source = blocking(Company.delete_source)
    restore_source = blocking(Company.restore_source)
    create_project = blocking(Company.create_project)
    get_project = blocking(Company.get_project)
    get_projects = blocking(Company.get_projects)
    update_project = blocking(Company.update_project)
    get_project_counts = blocking(Company.get_project_counts)
    delete_project = blocking(Company.delete_project)
    restore_project = blocking(Company.restore_project)
    transition_project = blocking(Company.transition_project)
    create_task = blocking(Company.create_task)
    get_task = blocking(Company.get_task)
    get_tasks = blocking(Company.get_tasks)
    update_task = blocking(Company.update_task)
    delete_task = blocking(Company.delete_task)
    restore_task = blocking(Company.restore_task)
    transition_task = blocking(Company.transition_task)
    start_task_run = blocking(Company.start_task_run)
    complete_task_run = blocking(Company.complete_task_run)
    count_company_acceptances = blocking(Company.count_company_acceptances)
    get_component = blocking(Components.get_component)
    upsert_component = blocking(Components.upsert_component)
    delete_component = blocking(Components.delete_component)
    restore_component = blocking(Components.restore_component)
    list_components = blocking(Components.list_components)
    create_component_with_config = blocking(Components.create_component_with_config)
    get_config = blocking(Components.get_config)
    get_current_config = blocking(Components.get_current_config)
    get_latest_config = blocking(Components.get_latest_config)
    get_latest_configs = blocking(Components.get_latest_configs)
    upsert_config = blocking(Components.upsert_config)
    delete_config = blocking(Components.delete_config)
    list_configs = blocking(Components.list_configs)
    set_current_version = blocking(Components.set_current_version)
    get_links = blocking(Components.get_links)
    get_dependents = blocking(Components.get_dependents)
    load_component_graph = blocking(Components.load_component_graph)

    get_mcp_oauth_client = blocking(McpOAuth.get_mcp_oauth_client)
    create_mcp_oauth_client = blocking(McpOAuth.create_mcp_oauth_client)
    mark_mcp_oauth_client_consumed = blocking(McpOAuth.mark_mcp_oauth_client_consumed)
    store_mcp_oauth_transaction = blocking(McpOAuth.store_mcp_oauth_transaction)
    get_mcp_oauth_transaction = blocking(McpOAuth.get_mcp_oauth_transaction)
    consume_mcp_oauth_transaction = blocking(McpOAuth.consume_mcp_oauth_transaction)
    store_mcp_oauth_code = blocking(McpOAuth.store_mcp_oauth_code)
    get_mcp_oauth_code = blocking(McpOAuth.get_mcp_oauth_code)
    delete_mcp_oauth_code = blocking(McpOAuth.delete_mcp_oauth_code)
    store_mcp_oauth_refresh = blocking(McpOAuth.store_mcp_oauth_refresh)
    get_mcp_oauth_refresh = blocking(McpOAuth.get_mcp_oauth_refresh)
    delete_mcp_oauth_refresh = blocking(McpOAuth.delete_mcp_oauth_refresh)
    delete_mcp_oauth_refresh_family = blocking(McpOAuth.delete_mcp_oauth_refresh_family)
    get_mcp_oauth_keys = blocking(McpOAuth.get_mcp_oauth_keys)
    insert_mcp_oauth_key = blocking(McpOAuth.insert_mcp_oauth_key)
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


class Heartbeat:
    """What AgentOS's queue says through, from a thread of its own, that a worker is alive: a blocking handle, since no
    event loop runs there between two beats, which clients of an event loop do not bear. AgentOS looks at the name of
    the table, and disposes of what it takes for an SQL engine."""

    def __init__(self, db: Docstore) -> None:
        self._db = db
        self.job_table_name = db.job_table_name
        self.heartbeat_jobs = db.heartbeat_jobs
        self.db_engine = self

    async def dispose(self) -> None:
        self._db.close()


_ADDRESS = "agno-docstores:"
_ADDRESSED: weakref.WeakValueDictionary[str, AsyncDocstore] = weakref.WeakValueDictionary()


def _for_the_queue(blocking: Callable[..., Docstore], options: Mapping[str, Any]) -> Callable[[], Docstore]:
    """Makes the handle of a heartbeat: without a second timer, and keeping nothing. A function, because it holds what
    the connection is made with, which nobody is to be told."""
    return lambda: blocking(**{**options, "session_config": None, "cache_bytes": 0})


class AsyncDocstore(AsyncBaseDb):
    """Base of the async document stores."""

    def __new__(cls, *args: Any, **arguments: Any) -> Self:
        url = arguments.get("db_url")
        if isinstance(url, str) and url.startswith(_ADDRESS):
            # AgentOS, which makes a second handle of `db_url` to beat the heart of its queue. Not being of this class,
            # what it gets is not initialized again.
            return cast(Self, _ADDRESSED[url]._heartbeat())
        return super().__new__(cls)

    def __init__(
        self,
        make_driver: MakeDriver,
        *,
        identity: tuple[str, ...],
        naming: Naming = _as_named,
        settings: Mapping[str, Any] | None = None,
        blocking: Callable[..., Docstore] | None = None,
        **options: Any,
    ) -> None:
        """`blocking`: makes a blocking handle on the same data, where the connection allows for one."""
        tables, others = split(options)
        accepted = {name: value for name, value in tables.items() if name not in NOT_ON_ASYNC}
        AsyncBaseDb.__init__(self, id=others.get("id"), **accepted)
        for name in NOT_ON_ASYNC:
            setattr(self, attribute(name), tables.get(name) or f"agno_{name.removesuffix('_table')}")
        self._engine = _engine(self, make_driver, naming, tables, others)
        self._settings = dict(settings or {})
        self.id = others.get("id") or store_id(self._engine.driver.store, identity)
        self._blocking = None if blocking is None else _for_the_queue(blocking, options)

    @property
    def db_url(self) -> str | None:
        """The name by which AgentOS opens this handle's data a second time, from the thread in which the durable queue
        says that it is alive; good in this process, while this handle lives. None if this handle was given a client
        that is bound to an event loop: then the queue beats on that loop, and AgentOS warns."""
        if self._blocking is None:
            return None
        url = f"{_ADDRESS}{self.id}/{id(self):x}"
        _ADDRESSED[url] = self
        return url

    def _heartbeat(self) -> Heartbeat:
        assert self._blocking is not None
        return Heartbeat(self._blocking())

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

    create_service_account = awaiting(ServiceAccounts.create_service_account)
    get_service_account = awaiting(ServiceAccounts.get_service_account)
    get_service_account_by_token_hash = awaiting(ServiceAccounts.get_service_account_by_token_hash)
    get_service_account_by_name = awaiting(ServiceAccounts.get_service_account_by_name)
    get_service_accounts = awaiting(ServiceAccounts.get_service_accounts)
    update_service_account = awaiting(ServiceAccounts.update_service_account)
    delete_service_account = awaiting(ServiceAccounts.delete_service_account)

    get_auth_token = awaiting(AuthTokens.get_auth_token)
    upsert_auth_token = awaiting(AuthTokens.upsert_auth_token)
    delete_auth_token = awaiting(AuthTokens.delete_auth_token)

    get_authz_policies = awaiting(Roles.get_authz_policies)
    get_authz_role_policies = awaiting(Roles.get_authz_role_policies)
    set_authz_role_policies = awaiting(Roles.set_authz_role_policies)
    upsert_authz_policy = awaiting(Roles.upsert_authz_policy)
    delete_authz_policy = awaiting(Roles.delete_authz_policy)
    get_authz_direct_roles = awaiting(Roles.get_authz_direct_roles)
    get_authz_direct_roles_many = awaiting(Roles.get_authz_direct_roles_many)
    list_authz_role_subjects = awaiting(Roles.list_authz_role_subjects)
    authz_name_is_role = awaiting(Roles.authz_name_is_role)
    assign_authz_role = awaiting(Roles.assign_authz_role)
    unassign_authz_role = awaiting(Roles.unassign_authz_role)
    replace_authz_subject_roles = awaiting(Roles.replace_authz_subject_roles)
    list_authz_roles = awaiting(Roles.list_authz_roles)
    delete_authz_role = awaiting(Roles.delete_authz_role)
    get_authz_role_meta = awaiting(Roles.get_authz_role_meta)
    list_authz_role_meta = awaiting(Roles.list_authz_role_meta)
    upsert_authz_role_meta = awaiting(Roles.upsert_authz_role_meta)
    delete_authz_role_meta = awaiting(Roles.delete_authz_role_meta)

    get_authz_user = awaiting(Directory.get_authz_user)
    is_authz_user_disabled = awaiting(Directory.is_authz_user_disabled)
    upsert_authz_user = awaiting(Directory.upsert_authz_user)
    set_authz_user_disabled = awaiting(Directory.set_authz_user_disabled)
    delete_authz_user = awaiting(Directory.delete_authz_user)
    list_authz_users = awaiting(Directory.list_authz_users)
    count_authz_users = awaiting(Directory.count_authz_users)
    count_authz_users_by_status = awaiting(Directory.count_authz_users_by_status)
    list_authz_user_ids = awaiting(Directory.list_authz_user_ids)
    count_authz_users_by_day = awaiting(Directory.count_authz_users_by_day)
    record_authz_audit_event = awaiting(Directory.record_authz_audit_event)
    record_authz_decision = awaiting(Directory.record_authz_decision)
    read_authz_audit_events = awaiting(Directory.read_authz_audit_events)
    count_authz_audit_events = awaiting(Directory.count_authz_audit_events)
    append_transcript_entries = awaiting(Transcripts.append_transcript_entries)
    get_transcript_entries = awaiting(Transcripts.get_transcript_entries)
    list_transcript_sessions = awaiting(Transcripts.list_transcript_sessions)
    list_transcript_subpaths = awaiting(Transcripts.list_transcript_subpaths)
    delete_transcript = awaiting(Transcripts.delete_transcript)

    # No compactions: Agno calls those methods without awaiting them, and asks whether the class has any.

    upsert_tool_result = awaiting(ToolResults.upsert_tool_result)
    get_tool_result = awaiting(ToolResults.get_tool_result)
    get_tool_results_for_session = awaiting(ToolResults.get_tool_results_for_session)
    delete_tool_results = awaiting(ToolResults.delete_tool_results)
    get_expired_tool_results = awaiting(ToolResults.get_expired_tool_results)

    create_product = awaiting(Company.create_product)
    get_product = awaiting(Company.get_product)
    get_products = awaiting(Company.get_products)
    update_product = awaiting(Company.update_product)
    add_product_routine = awaiting(Company.add_product_routine)
    get_product_counts = awaiting(Company.get_product_counts)
    delete_product = awaiting(Company.delete_product)
    restore_product = awaiting(Company.restore_product)
    create_source = awaiting(Company.create_source)
    get_source = awaiting(Company.get_source)
    get_sources = awaiting(Company.get_sources)
    update_source = awaiting(Company.update_source)
    delete_source = awaiting(Company.delete_source)
    restore_source = awaiting(Company.restore_source)
    create_project = awaiting(Company.create_project)
    get_project = awaiting(Company.get_project)
    get_projects = awaiting(Company.get_projects)
    update_project = awaiting(Company.update_project)
    get_project_counts = awaiting(Company.get_project_counts)
    delete_project = awaiting(Company.delete_project)
    restore_project = awaiting(Company.restore_project)
    transition_project = awaiting(Company.transition_project)
    create_task = awaiting(Company.create_task)
    get_task = awaiting(Company.get_task)
    get_tasks = awaiting(Company.get_tasks)
    update_task = awaiting(Company.update_task)
    delete_task = awaiting(Company.delete_task)
    restore_task = awaiting(Company.restore_task)
    transition_task = awaiting(Company.transition_task)
    start_task_run = awaiting(Company.start_task_run)
    complete_task_run = awaiting(Company.complete_task_run)
    count_company_acceptances = awaiting(Company.count_company_acceptances)
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

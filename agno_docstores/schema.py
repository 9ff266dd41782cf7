"""The kinds of records and their indexes: what is stored, declared once.

A session is two records with one id. `sessions` holds what Agno saves (state, metadata, summary). `histories` holds
what every run changes: the order counter and the revision of the history, with the owner beside them, so that a run is
written under a condition on its session's owner without touching, or paying for, the session's state.
"""

from __future__ import annotations

from agno_docstores import keys
from agno_docstores.port import Index, Kind, Ref

SESSIONS = Kind(
    name="sessions",
    table="session_table_name",
    fields=(
        "session_type",
        "agent_id",
        "team_id",
        "workflow_id",
        "user_id",
        "session_name",  # copy of session_data["session_name"], for the search by name
        "component",  # the id of the agent, team or workflow, whichever the session's type says
        "components",  # the agent, team and workflow ids there are, for the search by any of them
        "created_at",
        "updated_at",
        "touched_at",  # updated_at, or created_at where that is null: what "sort by updated_at" means
        "version",  # of the content: counts its writes
        "summarized_to",  # the revision of the history up to which the summary covers its runs, and
        "summarized_run",  # a run that it covers besides, which was stored after it
        "summarized_at",  # epoch seconds
        "summarizing",  # the token of the process that makes a summary, until
        "summarizing_until",  # epoch seconds; then another may
    ),
    body=("session_data", "agent_data", "team_data", "workflow_data", "metadata", "summary"),
    indexes=(
        Index("user_created", ("user_id",), "created_at"),
        Index("user_touched", ("user_id",), "touched_at"),
        Index("component_created", ("components",), "created_at"),
        Index("component_touched", ("components",), "touched_at"),
        Index("all_created", (), "created_at"),
        Index("all_touched", (), "touched_at"),
        # What AgentOS lists by: with these, its pages and totals need no look at other types' sessions.
        Index("user_type_created", ("user_id", "session_type"), "created_at", optional=True),
        Index("user_type_touched", ("user_id", "session_type"), "touched_at", optional=True),
        Index("component_type_created", ("component", "session_type"), "created_at", optional=True),
        Index("component_type_touched", ("component", "session_type"), "touched_at", optional=True),
    ),
    multi=frozenset({"components"}),
    volatile=frozenset(
        {
            "updated_at",
            "touched_at",
            "version",
            "summarized_to",
            "summarized_run",
            "summarized_at",
            "summarizing",
            "summarizing_until",
        }
    ),
)

HISTORIES = Kind(
    name="histories",
    table="session_table_name",
    fields=(
        "user_id",  # the session's owner, as in its `sessions` record
        "incarnation",  # drawn anew when a session id is used again, so that nothing of its past resurfaces
        "next_index",  # the run_index of the next new run
        "revision",  # counts the writes of runs; a run carries the revision of its last write
        "deleting",  # the session is gone, its runs are being removed
        "uncounted",  # True: something changed since the metrics counted this session; else null
        "mortal",  # True: the session has, or had, an expiry, and a reminder
    ),
    indexes=(Index("uncounted", ("uncounted",), "incarnation", spread=True),),
    within="sessions",
    volatile=frozenset({"next_index", "revision"}),
)

RUNS = Kind(
    name="runs",
    table="runs_table_name",
    fields=(
        "session_id",
        "run_type",
        "agent_id",
        "team_id",
        "workflow_id",
        "user_id",
        "parent_run_id",
        "status",
        "run_index",
        "revision",
        "replaces",  # the revision that this write took the place of
        "incarnation",
        "deleted",  # a tombstone, kept a while so that other processes' caches learn of the deletion
        "model",  # this and the next: what the metrics count runs by
        "model_provider",
        "size",  # bytes of the run's JSON text
        "created_at",
        "updated_at",
    ),
    body=("run_data",),
    indexes=(
        Index("order", ("session_id",), "run_index", strong=True),
        Index("changes", ("session_id",), "revision", strong=True),
        Index("user_created", ("user_id",), "created_at", optional=True),
        Index("agent_created", ("agent_id",), "created_at", optional=True),
        Index("team_created", ("team_id",), "created_at", optional=True),
        Index("workflow_created", ("workflow_id",), "created_at", optional=True),
        Index("status_created", ("status",), "created_at", optional=True),
    ),
    parent="session_id",
    order="run_index",
    volatile=frozenset({"status", "revision", "replaces", "size", "updated_at"}),
)

VERSIONS = Kind(
    name="versions",
    table="versions_table_name",
    fields=("version", "created_at", "updated_at"),
)

MEMORIES = Kind(
    name="memories",
    table="memory_table_name",
    fields=(
        "user_id",
        "agent_id",
        "team_id",
        "topics",
        "inserted_at",  # microseconds since the epoch: the order of insertion, which Agno's memory manager leans on
        "created_at",
        "updated_at",
        "touched_at",  # updated_at, or created_at where that is null
    ),
    body=(
        "memory",
        "topics_as_given",  # where they are no list of texts, which the field would tell: MongoDB has one name for each
        "input",
        "feedback",
    ),
    indexes=(
        Index("user_inserted", ("user_id",), "inserted_at"),
        Index("user_touched", ("user_id",), "touched_at"),
        Index("team_inserted", ("team_id",), "inserted_at", spread=True),
        Index("agent_inserted", ("agent_id",), "inserted_at", spread=True),
        Index("all_inserted", (), "inserted_at"),
        Index("all_touched", (), "touched_at"),
    ),
    multi=frozenset({"topics"}),
    volatile=frozenset({"updated_at", "touched_at"}),
)

KNOWLEDGE = Kind(
    name="knowledge",
    table="knowledge_table_name",
    fields=(
        "name",
        "type",
        "size",
        "linked_to",
        "access_count",
        "status",
        "external_id",
        "user_id",
        "owner",  # user_id, or "" for what is shared: a reader sees his own and the shared
        "created_at",
        "updated_at",
        "touched_at",
    ),
    body=("description", "metadata", "status_message"),
    indexes=(
        Index("owner_linked_created", ("owner", "linked_to"), "created_at"),
        Index("owner_created", ("owner",), "created_at"),
        Index("linked_created", ("linked_to",), "created_at", spread=True),
        Index("all_created", (), "created_at"),
        Index("owner_linked_touched", ("owner", "linked_to"), "touched_at", optional=True),
        Index("owner_touched", ("owner",), "touched_at", optional=True),
        Index("linked_touched", ("linked_to",), "touched_at", optional=True),
        Index("all_touched", (), "touched_at", optional=True),
    ),
    volatile=frozenset({"access_count", "status", "updated_at", "touched_at"}),
)

EVALS = Kind(
    name="evals",
    table="eval_table_name",
    fields=(
        "eval_type",
        "name",
        "agent_id",
        "team_id",
        "workflow_id",
        "model_id",
        "model_provider",
        "evaluated_component_name",
        "user_id",
        "created_at",
        "updated_at",
        "touched_at",
    ),
    body=("eval_data", "eval_input"),
    indexes=(
        Index("user_created", ("user_id",), "created_at"),
        Index("agent_created", ("agent_id",), "created_at"),
        Index("team_created", ("team_id",), "created_at"),
        Index("workflow_created", ("workflow_id",), "created_at"),
        Index("model_created", ("model_id",), "created_at", spread=True),
        Index("all_created", (), "created_at"),
    ),
    volatile=frozenset({"updated_at", "touched_at"}),
)

TRACES = Kind(
    name="traces",
    table="trace_table_name",
    fields=(
        "known",  # True once the trace itself was stored; null while only spans of it have come, which it then counts
        "name",
        "status",
        "start_time",  # this and the others: ISO 8601 text in UTC, so that texts sort as times do
        "end_time",
        "duration_ms",
        "run_id",
        "session_id",
        "user_id",
        "agent_id",
        "team_id",
        "workflow_id",
        "created_at",
        "children",  # how many spans it has, and
        "errors",  # how many of them failed: kept here where one commit can hold trace and spans (`totals.py`)
    ),
    # Nothing is volatile: a listing is answered from the index entries alone, which costs writes instead.
    indexes=(
        Index("run_started", ("run_id",), "start_time"),
        Index("session_started", ("session_id",), "start_time"),
        Index("user_started", ("user_id",), "start_time"),
        Index("agent_started", ("agent_id",), "start_time"),
        Index("team_started", ("team_id",), "start_time"),
        Index("workflow_started", ("workflow_id",), "start_time"),
        Index("all_started", ("known",), "start_time", spread=True),
        Index("all_created", ("known",), "created_at", spread=True),
    ),
)

SPANS = Kind(
    name="spans",
    table="span_table_name",
    fields=(
        "trace_id",
        "parent_span_id",
        "name",
        "span_kind",
        "span_type",  # attributes["openinference.span.kind"], which the statistics group by
        "status_code",
        "errors",  # 1 if status_code is ERROR, else 0: what the trace's total adds up
        "start_time",
        "end_time",
        "duration_ms",
        "created_at",
    ),
    body=("attributes", "status_message"),
    indexes=(
        Index("trace_started", ("trace_id",), "start_time", strong=True),
        Index("parent_started", ("parent_span_id",), "start_time"),
        Index("all_started", (), "start_time"),
    ),
    parent="trace_id",
)

LEARNINGS = Kind(
    name="learnings",
    table="learnings_table_name",
    fields=(
        "learning_type",
        "namespace",
        "user_id",
        "owner",  # user_id, or "" for what is global
        "agent_id",
        "team_id",
        "workflow_id",
        "session_id",
        "entity_id",
        "entity_type",
        "created_at",
        "updated_at",
        "touched_at",
    ),
    body=("content", "metadata"),
    indexes=(
        Index("entity_touched", ("entity_id",), "touched_at"),
        Index("session_touched", ("session_id",), "touched_at"),
        Index("owner_touched", ("owner",), "touched_at"),
        Index("namespace_touched", ("namespace",), "touched_at", spread=True),
        Index("agent_touched", ("agent_id",), "touched_at", spread=True),
        Index("team_touched", ("team_id",), "touched_at", spread=True),
        Index("type_touched", ("learning_type",), "touched_at", spread=True),
        Index("all_touched", (), "touched_at"),
        Index("owner_type_touched", ("owner", "learning_type"), "touched_at", optional=True),
    ),
    volatile=frozenset({"updated_at", "touched_at"}),
)

METRICS = Kind(
    name="metrics",
    table="metrics_table_name",
    fields=(
        "metric_id",
        "date",  # ISO 8601, a day in UTC
        "user_id",  # "" for what nobody owns
        "open",  # True while the day is not over; else null
        "figures",  # counts, tokens and models as JSON text: so a listing is answered from index entries alone
        "created_at",
        "updated_at",
    ),
    body=("applied",),  # by session, the contribution that is in the figures, until the session's tally says so too
    indexes=(
        Index("user_date", ("user_id",), "date"),
        Index("user_updated", ("user_id",), "updated_at"),
        Index("open_date", ("open",), "date"),
        Index("all_date", (), "date"),
        Index("all_updated", (), "updated_at"),
    ),
)

TALLIES = Kind(
    name="tallies",
    table="session_table_name",
    fields=("date", "user_id"),  # of the metrics row that counts the session
    body=("counted", "pending"),  # what that row holds of it, and what it is about to hold (`tallies.py`)
    within="sessions",
)

SCHEDULES = Kind(
    name="schedules",
    table="schedules_table_name",
    fields=(
        "name",
        "unique_name",  # owner and name: a name is an owner's once, and nobody's once
        "enabled",
        "due_at",  # next_run_at of an enabled schedule, else null: what is looked through for work
        "next_run_at",
        "locked_by",
        "locked_at",
        "user_id",
        "managed_by",
        "target_type",
        "target_id",
        "endpoint",
        "created_at",
        "updated_at",
    ),
    body=("schedule",),  # the row
    indexes=(
        Index("user_created", ("user_id",), "created_at"),
        Index("target_created", ("target_id",), "created_at"),
        Index("endpoint_created", ("endpoint",), "created_at"),
        Index("all_created", (), "created_at"),
        Index("due", (), "due_at"),
    ),
    volatile=frozenset({"next_run_at", "locked_by", "locked_at", "updated_at"}),
    unique=("unique_name",),
    claims="schedules_claims",
)


SCHEDULE_RUNS = Kind(
    name="schedule_runs",
    table="schedule_runs_table_name",
    fields=("schedule_id", "status", "user_id", "triggered_at", "completed_at", "created_at"),
    body=("run",),  # the row
    indexes=(
        Index("schedule_created", ("schedule_id",), "created_at"),
        Index("schedule_triggered", ("schedule_id",), "triggered_at"),
        Index("user_created", ("user_id",), "created_at"),
    ),
)

APPROVALS = Kind(
    name="approvals",
    table="approvals_table_name",
    fields=(
        "run_id",
        "session_id",
        "status",
        "source_type",
        "approval_type",
        "pause_type",
        "agent_id",
        "team_id",
        "workflow_id",
        "user_id",
        "schedule_id",
        "created_at",
        "updated_at",
    ),
    body=("approval",),  # the row
    indexes=(
        Index("run_created", ("run_id",), "created_at"),
        Index("user_created", ("user_id",), "created_at"),
        Index("schedule_created", ("schedule_id",), "created_at"),
        Index("agent_created", ("agent_id",), "created_at"),
        Index("team_created", ("team_id",), "created_at"),
        Index("workflow_created", ("workflow_id",), "created_at"),
        Index("status_created", ("status",), "created_at", spread=True),
        Index("all_created", (), "created_at"),
        Index("user_status_created", ("user_id", "status"), "created_at", optional=True),
    ),
    volatile=frozenset({"updated_at"}),
)

JOBS = Kind(
    name="jobs",
    table="job_table_name",
    fields=(
        "status",
        "queue",  # which of the queues that are looked through it is in, if any: see `domains/jobs.py`
        "due_at",  # its place there, epoch seconds
        "session_id",
        "user_id",
        "component_type",
        "component_id",
        "attempt",
        "available_at",
        "created_at",
        "updated_at",
        "touched_at",  # updated_at, or created_at where that is null
        "completed_at",
        "submission",  # owner and idempotency key: a key is an owner's once
    ),
    body=("job",),  # the row
    indexes=(
        Index("session_created", ("session_id",), "created_at"),
        Index("user_created", ("user_id",), "created_at"),
        Index("queue_due", ("queue",), "due_at", spread=True),
        Index("status_created", ("status",), "created_at", spread=True),
        Index("all_created", (), "created_at"),
    ),
    volatile=frozenset({"due_at", "attempt", "available_at", "updated_at", "touched_at", "completed_at"}),
    unique=("submission",),
    claims="jobs_claims",
)

#: The jobs of a session that run one at a time, in their order: see `turns.py`. The id is the session's.
TURNS = Kind(
    name="turns",
    table="job_table_name",
    fields=("admitted",),  # the job whose turn it is
    body=("line",),  # all of them, as [number, id], in order
)


def claims_of(kind: Kind) -> Kind:
    """The companion of a kind with fields whose values are unique: who has which value."""
    assert kind.claims is not None
    return Kind(name=kind.claims, table=kind.table, fields=("target",))


#: That something has to be looked at by a certain time: that a session may have expired, that parts of a large value
#: may have lost their head. It is written before what it is about and removed after it, so that a sweep finds what any
#: process left behind, at a cost that depends on what is due and not on what there is. Looking may be in vain: then the
#: reminder is set to a later time, and nothing that is written often has to move it.
REMINDERS = Kind(
    name="reminders",
    table="session_table_name",
    fields=(
        "about",  # what sort of thing it is about, and
        "target",  # which of them
        "due_at",  # epoch seconds
    ),
    body=("what",),  # what else the sort of thing needs to be found
    indexes=(Index("due", (), "due_at"),),
)


def reminder_ref(about: str, target: str) -> Ref:
    return Ref(REMINDERS.name, keys.encode((about, target)))


KINDS = {
    kind.name: kind
    for kind in (
        SESSIONS,
        HISTORIES,
        RUNS,
        VERSIONS,
        MEMORIES,
        KNOWLEDGE,
        EVALS,
        TRACES,
        SPANS,
        LEARNINGS,
        METRICS,
        TALLIES,
        REMINDERS,
        SCHEDULES,
        SCHEDULE_RUNS,
        APPROVALS,
        JOBS,
        TURNS,
    )
}
KINDS |= {kind.claims: claims_of(kind) for kind in list(KINDS.values()) if kind.claims is not None}

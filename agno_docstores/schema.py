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
        Index("component_created", ("components",), "created_at", crowded=True),
        Index("component_touched", ("components",), "touched_at", crowded=True),
        Index("all_created", (), "created_at", once=True),
        Index("all_touched", (), "touched_at"),
        # What AgentOS lists by: with these, its pages and totals need no look at other types' sessions.
        Index("user_type_created", ("user_id", "session_type"), "created_at", optional=True),
        Index("user_type_touched", ("user_id", "session_type"), "touched_at", optional=True),
        Index("component_type_created", ("component", "session_type"), "created_at", optional=True, crowded=True),
        Index("component_type_touched", ("component", "session_type"), "touched_at", optional=True, crowded=True),
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
        "ended_at",  # of what is being removed: microseconds since the epoch at which the session ended
        "epoch",  # counts the tombstones that were taken away early: what a cache holds of an earlier one is stale
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
        Index("agent_created", ("agent_id",), "created_at", optional=True, crowded=True),
        Index("team_created", ("team_id",), "created_at", optional=True, crowded=True),
        Index("workflow_created", ("workflow_id",), "created_at", optional=True, crowded=True),
        Index("status_created", ("status",), "created_at", optional=True, spread=True),
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
        "queue",  # which of those that are looked through for work an enabled one is in: "waiting" or "claimed"
        "due_at",  # its place there, epoch seconds: when it runs next; if it is claimed, see `domains/schedules.py`
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
        Index("queue_due", ("queue",), "due_at", spread=True),
        Index("enabled_created", ("enabled",), "created_at", spread=True),
    ),
    volatile=frozenset({"due_at", "next_run_at", "locked_by", "locked_at", "updated_at"}),
    unique=("unique_name",),
    claims="schedules_claims",
)


SCHEDULE_RUNS = Kind(
    name="schedule_runs",
    table="schedule_runs_table_name",
    fields=("schedule_id", "status", "user_id", "triggered_at", "completed_at", "created_at"),
    body=("run",),  # the row
    indexes=(
        # Strong: whoever deletes a schedule has to see all its runs.
        Index("schedule_created", ("schedule_id",), "created_at", strong=True),
        Index("schedule_triggered", ("schedule_id",), "triggered_at"),
        Index("user_created", ("user_id",), "created_at"),
    ),
    parent="schedule_id",
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
        # Strong: that a run has no approval pending is a permission to go on.
        Index("run_created", ("run_id",), "created_at", strong=True),
        Index("user_created", ("user_id",), "created_at"),
        Index("schedule_created", ("schedule_id",), "created_at"),
        Index("agent_created", ("agent_id",), "created_at"),
        Index("team_created", ("team_id",), "created_at"),
        Index("workflow_created", ("workflow_id",), "created_at"),
        Index("status_created", ("status",), "created_at", spread=True),
        Index("all_created", (), "created_at"),
        Index("user_status_created", ("user_id", "status"), "created_at", optional=True),
    ),
    parent="run_id",
    volatile=frozenset({"updated_at"}),
)

SERVICE_ACCOUNTS = Kind(
    name="service_accounts",
    table="service_accounts_table_name",
    fields=(
        "name",
        "active_name",  # the name, of an account that is not revoked: one such has it
        "token_hash",
        "user_id",
        "owner",  # user_id, or "" for nobody's: a reader sees his own and nobody's
        "active",  # whether it is not revoked
        "created_at",
        "expires_at",
        "last_used_at",
    ),
    body=("account",),  # the row
    indexes=(
        Index("owner_created", ("owner",), "created_at"),
        Index("name_created", ("name",), "created_at"),
        Index("active_created", ("active",), "created_at", spread=True),
        Index("all_created", (), "created_at"),
    ),
    volatile=frozenset({"last_used_at"}),
    unique=("token_hash", "active_name"),
    claims="service_accounts_claims",
)

AUTH_TOKENS = Kind(
    name="auth_tokens",
    table="auth_tokens_table_name",
    fields=("provider", "user_id", "service", "created_at"),
    body=("token",),  # the row
    indexes=(Index("user_created", ("user_id",), "created_at"),),
)

#: What a role may do, as a whole: so it changes in one step.
AUTHZ_POLICIES = Kind(
    name="authz_policies",
    table="authz_policy_table_name",
    fields=("role",),
    body=("rows",),  # [resource, action, effect] each
    indexes=(Index("all_roles", (), "role"),),
)

#: The roles that a subject holds, as a whole.
AUTHZ_GROUPING = Kind(
    name="authz_grouping",
    table="authz_grouping_table_name",
    fields=("subject", "roles"),
    indexes=(
        Index("all_subjects", (), "subject"),
        Index("role_subjects", ("roles",), "subject", optional=True),  # needless where there are members
    ),
    multi=frozenset({"roles"}),
)

#: That a subject holds a role, as the role's: kept where it can be committed with the subject's record.
AUTHZ_MEMBERS = Kind(
    name="authz_members",
    table="authz_grouping_table_name",
    fields=("role", "subject"),
    indexes=(Index("role_subjects", ("role",), "subject", strong=True),),
    parent="role",
)

AUTHZ_ROLES = Kind(
    name="authz_roles",
    table="authz_roles_table_name",
    fields=("home", "slug"),  # `home` is the same for all: as children they are listed strongly
    body=("role",),  # the row
    indexes=(Index("all_slugs", ("home",), "slug", strong=True),),
    parent="home",
)

AUTHZ_USERS = Kind(
    name="authz_users",
    table="authz_users_table_name",
    fields=("key", "email", "name", "disabled", "created_at", "updated_at"),  # `key`: the id
    body=("user",),  # the row
    indexes=(
        Index("disabled_created", ("disabled",), "created_at", spread=True),
        Index("all_created", (), "created_at"),
    ),
    volatile=frozenset({"updated_at"}),
)

AUTHZ_AUDIT = Kind(
    name="authz_audit",
    table="authz_audit_table_name",
    fields=("actor", "action", "target", "created_at"),
    body=("event",),  # the row
    indexes=(Index("all_created", (), "created_at"),),
)

AUTHZ_DECISIONS = Kind(
    name="authz_decisions",
    table="authz_decisions_table_name",
    fields=("actor", "action", "target", "created_at"),
    body=("event",),  # the row
    indexes=(Index("all_created", (), "created_at"),),
)

TRANSCRIPTS = Kind(
    name="transcripts",
    table="transcripts_table_name",
    fields=(
        "conversation",  # framework, project and session of the external agent: the main transcript and its subpaths
        "project",  # framework and project
        "listed",  # the project of a main transcript that has entries, else null
        "session_id",
        "subpath",  # "" is the main transcript
        "position",  # of the last entry
        "mtime",  # epoch milliseconds of the last write
    ),
    body=(
        "links",  # by Agno session: the token that its entries carry, and the time of the last of them
        "gone",  # sessions and tokens of entries that are being removed
        "pending",  # entries that are to be found here until they are records (`transcript_records.py`)
    ),
    indexes=(
        Index("subpaths", ("conversation",), "subpath", strong=True),
        Index("listed_session", ("listed",), "session_id"),
    ),
    parent="conversation",
    volatile=frozenset({"position"}),
)

TRANSCRIPT_ENTRIES = Kind(
    name="transcript_entries",
    table="transcripts_table_name",
    fields=("transcript", "position", "link", "created_at"),
    body=("entry",),
    indexes=(Index("order", ("transcript",), "position", strong=True),),
    parent="transcript",
    order="position",
)

#: That an Agno session has entries in a transcript, by which its deletion finds them.
TRANSCRIPT_LINKS = Kind(
    name="transcript_links",
    table="transcripts_table_name",
    fields=("agno_session_id", "transcript", "conversation", "linked_at"),  # microseconds since the epoch
    indexes=(Index("session", ("agno_session_id",), "linked_at", strong=True),),
    parent="agno_session_id",
)

COMPACTIONS = Kind(
    name="compactions",
    table="compactions_table_name",
    fields=(
        "session_id",
        "place",  # created_at, then the microsecond of insertion: the order of a session's compactions
        "user_id",  # missing, as in TOOL_RESULTS, in records from before there was the field
        "created_at",
    ),
    body=("compaction",),  # the row
    indexes=(
        Index("session_place", ("session_id",), "place", strong=True),
        Index("user_created", ("user_id",), "created_at"),  # asked by when a user is purged only
    ),
    parent="session_id",
)

TOOL_RESULTS = Kind(
    name="tool_results",
    table="tool_results_table_name",
    fields=(
        "session_id",
        "address",  # namespace and path: two results never share a payload
        "age",  # created_at below zero: the latest first, and by id where that is the same
        "inserted_at",  # microseconds since the epoch: when it was written last
        "user_id",
        "expires_at",  # epoch seconds; what has expired is there until it is deleted
    ),
    body=("result",),  # the row
    indexes=(
        Index("session_age", ("session_id",), "age", strong=True),
        Index("user_age", ("user_id",), "age"),
        Index("due", (), "expires_at"),
    ),
    parent="session_id",
    unique=("address",),
    claims="tool_results_claims",
)

#: What all of a company's rows have for listings: `live` says whether a row is not archived.
_LISTED = ("user_id", "live", "created_at", "updated_at", "touched_at")
_TOUCHED = frozenset({"updated_at", "touched_at"})
#: Of a product or project: "archive" or "restore" while one of it and its children takes more than one commit.
_MOVING = "moving"

PRODUCTS = Kind(
    name="products",
    table="products_table_name",
    fields=(_MOVING, *_LISTED),
    body=("product",),  # the row
    indexes=(
        Index("user_live_created", ("user_id", "live"), "created_at", optional=True),
        Index("user_created", ("user_id",), "created_at"),
        Index("live_created", ("live",), "created_at", spread=True),
    ),
    volatile=_TOUCHED | {_MOVING},
)

SOURCES = Kind(
    name="sources",
    table="sources_table_name",
    fields=("product_id", *_LISTED),
    body=("source",),  # the row
    indexes=(
        Index("product_live_created", ("product_id", "live"), "created_at"),
        Index("user_created", ("user_id",), "created_at"),
        Index("live_created", ("live",), "created_at", spread=True),
        Index("of_product", ("product_id",), "created_at", strong=True),
    ),
    parent="product_id",
    volatile=_TOUCHED,
)

PROJECTS = Kind(
    name="projects",
    table="projects_table_name",
    fields=(
        "product_id",
        "status",
        "routines",  # of which it has acceptances
        _MOVING,
        *_LISTED,
    ),
    body=("project",),  # the row
    indexes=(
        Index("product_live_created", ("product_id", "live"), "created_at"),
        Index("user_live_created", ("user_id", "live"), "created_at", optional=True),
        Index("user_created", ("user_id",), "created_at"),
        Index("routine_created", ("routines",), "created_at"),
        Index("live_created", ("live",), "created_at", spread=True),
        Index("of_product", ("product_id",), "created_at", strong=True),
    ),
    parent="product_id",
    multi=frozenset({"routines"}),
    volatile=_TOUCHED | {_MOVING},
)

TASKS = Kind(
    name="tasks",
    table="tasks_table_name",
    fields=(
        "product_id",
        "project_id",
        "status",
        "failed",  # whether it is in progress, and its last run failed
        "session_id",
        "routine_id",
        "proposal",  # product and dedupe_key, if it has one: a product has each proposal once
        *_LISTED,
    ),
    body=("task",),  # the row
    indexes=(
        Index("session_live_created", ("session_id", "live"), "created_at"),
        Index("project_live_created", ("project_id", "live"), "created_at"),
        Index("product_live_created", ("product_id", "live"), "created_at"),
        Index("user_live_created", ("user_id", "live"), "created_at", optional=True),
        Index("user_created", ("user_id",), "created_at"),
        Index("routine_created", ("routine_id",), "created_at"),
        Index("status_live_created", ("status", "live"), "created_at", spread=True),
        Index("live_created", ("live",), "created_at", spread=True),
        Index("of_product", ("product_id",), "created_at", strong=True),
    ),
    parent="product_id",
    unique=("proposal",),
    claims="tasks_claims",
    volatile=_TOUCHED,
)

#: What was accepted on a routine's account. The id is the routine's; so that its limit holds over all products, an
#: acceptance is one commit with this.
ACCEPTANCES = Kind(
    name="acceptances",
    table="tasks_table_name",
    fields=("number",),
    body=("accepted",),  # all of them, as [policy, "task" or "project", id]
)

COMPONENTS = Kind(
    name="components",
    table="components_table_name",
    fields=(
        "component_id",
        "known",  # True; null where there is no component (yet, or any more), but others have links to its id
        "live",  # True unless it is archived; then null
        "seen_by",  # "": everybody, for it is nobody's, or published and live; else its owner
        "component_type",
        "name",
        "user_id",
        "newest",  # minus created_at: so that the latest come first, and of those that tie the lowest id
        "created_at",
        "updated_at",
        "incarnation",  # drawn anew when an id is used again
        "leaving",  # the component is gone, what belongs to it is being removed: "unlink", or "keep" links to it
        "cascading",  # True: it is archived, not all of the schedules that are aimed at it are disabled yet
    ),
    body=(
        "component",  # the row
        "versions",  # each with its links: all of a component that has to change in one step is one record
        "pinned_by",  # ids of components that have, or had, or were about to have, links to this one
    ),
    indexes=(
        Index("name_newest", ("name",), "newest"),
        Index("user_newest", ("user_id",), "newest"),
        Index("seen_live_newest", ("seen_by", "live"), "newest", spread=True),
        Index("live_newest", ("live",), "newest", spread=True),
        Index("known_newest", ("known",), "newest", spread=True),
        Index("seen_live_type_newest", ("seen_by", "live", "component_type"), "newest", optional=True),
        Index("live_type_newest", ("live", "component_type"), "newest", optional=True),
    ),
    volatile=frozenset({"updated_at", "cascading"}),
)

#: The configs of a component's versions; which is of which version, the component's record says.
CONFIGS = Kind(
    name="component_configs",
    table="component_configs_table_name",
    fields=("component_id", "incarnation", "user_id", "created_at"),
    body=("config",),
    indexes=(
        Index("component", ("component_id",), "created_at", strong=True),
        Index("user_created", ("user_id",), "created_at"),
    ),
    parent="component_id",
)

OAUTH_CLIENTS = Kind(
    name="mcp_oauth_clients",
    table="mcp_oauth_clients_table_name",
    fields=(
        "pending",  # True: it has not been used yet; else null, as with the kinds below
        "created_at",
        "consumed_at",
    ),
    body=("client_metadata",),
    indexes=(Index("pending_created", ("pending",), "created_at", spread=True),),
)

OAUTH_TRANSACTIONS = Kind(
    name="mcp_oauth_transactions",
    table="mcp_oauth_transactions_table_name",
    fields=(
        "pending",
        "client_id",
        "until",  # its expires_at, epoch seconds; past it, a record is shown until it is swept
    ),
    body=("params",),
    indexes=(Index("pending_until", ("pending",), "until", spread=True),),
)

OAUTH_CODES = Kind(
    name="mcp_oauth_codes",
    table="mcp_oauth_codes_table_name",
    fields=("pending", "until"),
    body=("payload",),
    indexes=(Index("pending_until", ("pending",), "until", spread=True),),
)

OAUTH_REFRESH = Kind(
    name="mcp_oauth_refresh_tokens",
    table="mcp_oauth_refresh_tokens_table_name",
    fields=("pending", "client_id", "until", "family_id"),
    body=("scopes",),
    indexes=(
        Index("family_until", ("family_id",), "until", strong=True),  # what is revoked together is found at once
        Index("pending_until", ("pending",), "until", spread=True),
    ),
    parent="family_id",
)

OAUTH_KEYS = Kind(
    name="mcp_oauth_keys",
    table="mcp_oauth_keys_table_name",
    fields=(
        "ring",  # the same for all: the few there are have to be read strongly consistent
        "created_at",
    ),
    body=("secret",),
    indexes=(Index("ring_created", ("ring",), "created_at", strong=True),),
    parent="ring",
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
    indexes=(Index("due", ("about",), "due_at", spread=True),),
)


#: A piece of a body that is too large for one record (`chunks.py`).
CHUNKS = Kind(
    name="chunks",
    table="session_table_name",
    fields=(
        "owner",  # kind and parent of the record whose body it is; of one without a parent, kind and id
        "place",  # generation, number, and bytes of the slice: "GENERATION.000017.1834000"
    ),
    body=("slice",),
    indexes=(Index("places", ("owner",), "place", strong=True),),
    parent="owner",
    nested=True,
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
        CHUNKS,
        SERVICE_ACCOUNTS,
        AUTH_TOKENS,
        AUTHZ_POLICIES,
        AUTHZ_GROUPING,
        AUTHZ_MEMBERS,
        AUTHZ_ROLES,
        AUTHZ_USERS,
        AUTHZ_AUDIT,
        AUTHZ_DECISIONS,
        TRANSCRIPTS,
        TRANSCRIPT_ENTRIES,
        TRANSCRIPT_LINKS,
        COMPACTIONS,
        TOOL_RESULTS,
        PRODUCTS,
        SOURCES,
        PROJECTS,
        TASKS,
        ACCEPTANCES,
        COMPONENTS,
        CONFIGS,
        OAUTH_CLIENTS,
        OAUTH_TRANSACTIONS,
        OAUTH_CODES,
        OAUTH_REFRESH,
        OAUTH_KEYS,
        JOBS,
        TURNS,
    )
}
KINDS |= {kind.claims: claims_of(kind) for kind in list(KINDS.values()) if kind.claims is not None}

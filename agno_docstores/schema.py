"""The kinds of records and their indexes: what is stored, declared once.

A session is two records with one id. `sessions` holds what Agno saves (state, metadata, summary). `histories` holds
what every run changes: the order counter and the revision of the history, with the owner beside them, so that a run is
written under a condition on its session's owner without touching, or paying for, the session's state.
"""

from __future__ import annotations

from agno_docstores.port import Index, Kind

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
    volatile=frozenset({"updated_at", "touched_at"}),
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
    ),
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
    volatile=frozenset({"status", "revision", "replaces", "updated_at"}),
)

VERSIONS = Kind(
    name="versions",
    table="versions_table_name",
    fields=("version", "created_at", "updated_at"),
)

KINDS = {kind.name: kind for kind in (SESSIONS, HISTORIES, RUNS, VERSIONS)}

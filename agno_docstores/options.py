"""The arguments that every docstore takes besides its connection: names of tables, and our settings.

Names are `BaseDb`'s; where Agno's own adapters for document stores say `session_collection`, that works too.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, TypedDict, get_args

from agno.db.base import BaseDb

from agno_docstores.domains.sessions import OnConflict
from agno_docstores.lifetimes import SessionConfig

__all__ = ["NOT_ON_ASYNC", "TABLE_ARGUMENTS", "SessionConfig", "StoreOptions", "agno_names", "attribute", "split"]

#: Every table-name argument of `BaseDb`.
TABLE_ARGUMENTS = tuple(
    f"{name}_table"
    for name in [
        "session",
        "runs",
        "memory",
        "metrics",
        "eval",
        "knowledge",
        "traces",
        "spans",
        "versions",
        "components",
        "component_configs",
        "component_links",
        "learnings",
        "schedules",
        "products",
        "sources",
        "projects",
        "tasks",
        "schedule_runs",
        "job",
        "approvals",
        "auth_tokens",
        "service_accounts",
        "mcp_oauth_clients",
        "mcp_oauth_transactions",
        "mcp_oauth_codes",
        "mcp_oauth_refresh_tokens",
        "mcp_oauth_keys",
    ]
)
#: Those that `AsyncBaseDb.__init__` has no parameter for, though the attribute exists or is read by name.
NOT_ON_ASYNC = frozenset(name for name in TABLE_ARGUMENTS if name.startswith(("component_", "mcp_oauth_")))


class StoreOptions(TypedDict, total=False):
    """Arguments that every docstore takes besides its connection.

    `id`: identity of the store for AgentOS; by default derived from where the data lies, so that it survives a restart.
    `provision`: create missing tables and indexes at the first write (True), or raise `ProvisioningError` (False).
    `cache_bytes`: upper bound for the text of the runs that a handle keeps to save reading them again; 0 for none. What
    it saves is in `cache_stats`. A read looks at the store first, so that what other processes write is seen at once.
    `max_value_bytes`: of one record's JSON text in UTF-8, at most; 64 MB by default. More raises `PayloadTooLargeError`
    before anything is written. What the store itself would not take in one record is stored in several.
    `on_conflict`: what `upsert_session` does where another writer saved the session since this object was read: put
    both together ("merge"), raise `SessionConflictError` ("raise"), or write over it ("last_wins").
    `session_config`: how long sessions live (`SessionConfig`, or a dict of its fields); the same in every process that
    opens the store, so that all of them move and heed the expiry of a session.
    The rest are names of tables (collections), as `BaseDb` has them; `session_collection` and the like are accepted
    for `session_table` and the like, because Agno's own adapters for document stores spell them so.
    """

    id: str | None
    provision: bool
    cache_bytes: int
    max_value_bytes: int
    on_conflict: OnConflict
    session_config: SessionConfig | Mapping[str, Any] | None
    session_table: str | None
    runs_table: str | None
    memory_table: str | None
    metrics_table: str | None
    eval_table: str | None
    knowledge_table: str | None
    traces_table: str | None
    spans_table: str | None
    versions_table: str | None
    components_table: str | None
    component_configs_table: str | None
    component_links_table: str | None
    learnings_table: str | None
    schedules_table: str | None
    products_table: str | None
    sources_table: str | None
    projects_table: str | None
    tasks_table: str | None
    schedule_runs_table: str | None
    job_table: str | None
    approvals_table: str | None
    auth_tokens_table: str | None
    service_accounts_table: str | None
    mcp_oauth_clients_table: str | None
    mcp_oauth_transactions_table: str | None
    mcp_oauth_codes_table: str | None
    mcp_oauth_refresh_tokens_table: str | None
    mcp_oauth_keys_table: str | None
    session_collection: str | None
    runs_collection: str | None
    memory_collection: str | None
    metrics_collection: str | None
    eval_collection: str | None
    knowledge_collection: str | None
    traces_collection: str | None
    spans_collection: str | None
    versions_collection: str | None
    learnings_collection: str | None
    schedules_collection: str | None
    schedule_runs_collection: str | None


def split(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Table names, and the other options; resolves the two spellings of a table name."""
    tables: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for name, value in options.items():
        table = name.removesuffix("_collection") + "_table" if name.endswith("_collection") else name
        if table not in TABLE_ARGUMENTS:
            others[name] = value
            continue
        if value is None:
            continue
        if table in tables:
            raise ValueError(f"{table} was given twice: as {table} and as {table.removesuffix('_table')}_collection")
        if not isinstance(value, str) or not value:
            raise ValueError(f"{name} must be a non-empty str, not {value!r}")
        tables[table] = value
    unknown = others.keys() - {"id", "provision", "cache_bytes", "max_value_bytes", "on_conflict", "session_config"}
    if unknown:
        raise TypeError(f"unknown arguments: {', '.join(sorted(unknown))}")
    for name, least in (("max_value_bytes", 1), ("cache_bytes", 0)):
        size = others.get(name, least)
        if isinstance(size, bool) or not isinstance(size, int) or size < least:
            raise ValueError(f"{name} must be an int of at least {least}, not {size!r}")
    if others.get("on_conflict", "merge") not in get_args(OnConflict):
        raise ValueError(f"on_conflict must be one of {get_args(OnConflict)}, not {others['on_conflict']!r}")
    others["session_config"] = SessionConfig.of(others.get("session_config"))
    return tables, others


def attribute(argument: str) -> str:
    """The attribute of `BaseDb` that a table-name argument sets."""
    singular = {"traces_table": "trace_table", "spans_table": "span_table"}
    return singular.get(argument, argument) + "_name"


@functools.cache
def agno_names() -> frozenset[str]:
    """The names that Agno gives to tables by itself."""
    unnamed: Any = SimpleNamespace()
    BaseDb.__init__(unnamed)
    return frozenset(value for name, value in vars(unnamed).items() if name.endswith("_table_name"))

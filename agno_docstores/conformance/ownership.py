"""Ownership: a stranger who knows every id reads nothing of others and changes nothing, and is told so.

The tables name every method by which a user could reach another's data, how he calls it, and what he gets: an answer,
or an error. What is read and what is refused is compared with all that the store holds; no text that belongs to the
owner may appear in an answer, an error or the log.

A call that names no user is the application's own: Agno's contract checks no owner then, but none is stripped either.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from agno.db.base import AsyncBaseDb, ComponentType, SessionType
from agno.db.sqlite import AsyncSqliteDb
from agno.models.message import Message
from agno.run.status_persist import RunPersistOutcome
from agno.session import AgentSession
from sqlalchemy import Engine, MetaData, create_engine
from sqlalchemy.exc import IntegrityError

from agno_docstores.conformance.auth_tokens import token_of
from agno_docstores.conformance.compactions import compaction, offered
from agno_docstores.conformance.company import product, project, source, task, task_row
from agno_docstores.conformance.components import create, link
from agno_docstores.conformance.evals import eval_of
from agno_docstores.conformance.jobs import job_of
from agno_docstores.conformance.knowledge import content_of
from agno_docstores.conformance.management import listed
from agno_docstores.conformance.memories import memory_of
from agno_docstores.conformance.service_accounts import account_of
from agno_docstores.conformance.sessions import agent_session, run_of
from agno_docstores.conformance.tool_results import result_of
from agno_docstores.conformance.traces import span, trace
from agno_docstores.errors import OwnershipError
from agno_docstores.port import EVERYTHING, Span
from agno_docstores.schema import KINDS

OWNER, STRANGER = "alice", "mallory"
SECRET = "wonderland"  # in whatever the owner stored
OWN = f"of {STRANGER}"  # the stranger's own session


class Attempt(NamedTuple):
    """How a stranger calls a method, and what he gets: an answer, or an error of this class."""

    method: str
    call: Callable[[Callable[..., Any]], Any]
    gets: Any


# --- What the owner has -----------------------------------------------------------------------------------------------


def secret_session(session_id: str, **values: Any) -> AgentSession:
    data = {"session_name": SECRET, "session_state": {"cart": [SECRET]}}
    return agent_session(session_id, **{"user_id": OWNER, "session_data": data, "metadata": {"m": SECRET}, **values})


async def conversations(db: Any) -> None:
    """Two sessions of the owner; in the first a finished run of his, and one that is pending and that nobody is named
    for. A session of the stranger's."""
    for session_id in ("s1", "s2"):
        await db.upsert_session(secret_session(session_id))
    said = [Message(role="user", content=SECRET), Message(role="assistant", content=SECRET)]
    await db.upsert_run(run_of("r1", content=SECRET, messages=said, status="COMPLETED"), "s1", OWNER)
    await db.upsert_run(run_of("r2", content=SECRET, status="PENDING"), "s1")
    await db.upsert_run(run_of("r3", content=SECRET, status="COMPLETED"), "s2", OWNER)
    await db.upsert_session(agent_session(OWN, user_id=STRANGER, agent_id="own"))


async def records(db: Any) -> None:
    """Two of the owner's in each domain of records."""
    if isinstance(db.raw, AsyncSqliteDb):
        await db._create_all_tables()  # alone of all, it saves no memory before
    for n in "12":
        await db.upsert_user_memory(memory_of(f"m{n}", user_id=OWNER, agent_id="a1", memory=SECRET, topics=[SECRET]))
        await db.upsert_knowledge_content(content_of(f"k{n}", user_id=OWNER, name=SECRET, metadata={"m": SECRET}))
        await db.create_eval_run(eval_of(f"e{n}", name=SECRET, agent_id="a1"))
        await db.update_eval_run_user_id(f"e{n}", OWNER)
        await db.upsert_learning(
            id=f"l{n}", learning_type="fact", content={"text": SECRET}, user_id=OWNER, session_id="s1", namespace="ns",
            entity_id="x", entity_type="person",
        )  # fmt: skip
        await db.upsert_trace(trace(f"t{n}", name=SECRET, user_id=OWNER, session_id="s1", agent_id="a1"))
        await db.create_spans([span(f"x{n}", f"t{n}", attributes={"a": SECRET})])
    await db.create_schedule(schedule_of(OWNER, payload={"m": SECRET}))
    await db.create_schedule_run(schedule_run_of(OWNER, error=SECRET))
    await db.create_approval(approval_of(OWNER, context={"m": SECRET}))


def schedule_of(user: str, **values: Any) -> dict[str, Any]:
    times = {"timezone": "UTC", "timeout_seconds": 60, "max_retries": 0, "retry_delay_seconds": 1, "created_at": 1}
    call = {"method": "POST", "endpoint": "/agents/a1/runs", "cron_expr": "0 0 * * *"}
    return {"id": "c1", "name": "nightly", "enabled": True, "user_id": user, **call, **times, **values}


def schedule_run_of(user: str, **values: Any) -> dict[str, Any]:
    row = {"id": "q1", "schedule_id": "c1", "attempt": 1, "status": "success", "created_at": 1, "user_id": user}
    return {**row, **values}


def approval_of(user: str, **values: Any) -> dict[str, Any]:
    row = {"id": "p1", "run_id": "r1", "session_id": "s1", "status": "pending", "source_type": "agent", "user_id": user}
    return {**row, "pause_type": "confirmation", **values}


async def machines(db: Any) -> None:
    """The owner's token and service account. A token of the stranger's."""
    await db.upsert_auth_token(token_of(user_id=OWNER, token_data={"access": SECRET}))
    await db.upsert_auth_token(token_of(user_id=STRANGER))
    await db.create_service_account(account_of("a1", SECRET, user_id=OWNER))


async def jobs(db: Any) -> None:
    """A job of the owner's, and one that the stranger submitted under the same key."""
    for id, user, session_id, said in (("j1", OWNER, "s1", SECRET), ("j2", STRANGER, OWN, "x")):
        job = job_of(id, user_id=user, session_id=session_id, idempotency_key="key", payload={"input": said})
        assert (await db.enqueue_job(job))["accepted"]


async def companies(db: Any) -> None:
    """A product of the owner's with its source, projects and tasks, one of which a routine accepted; and of each an
    archived one."""
    accepted = [{"target": "done", "auto_accept": {"routine_id": "routine", "policy": "policy"}}]
    for n in "12":
        await product(db, f"p{n}", name=SECRET, user_id=OWNER)
        await source(db, f"c{n}", reference=f"/{SECRET}/{n}", user_id=OWNER)
        await project(db, f"j{n}", name=SECRET, user_id=OWNER)
        await task(db, f"t{n}", title=SECRET, user_id=OWNER, session_id="s1", dedupe_key=n)
    await task(db, "t3", title=SECRET, user_id=OWNER, status="done", transitions=accepted, routine_id="routine")
    await project(db, "j3", name=SECRET, user_id=OWNER, status="cancelled")
    assert await db.delete_source("c2") and await db.delete_project("j2") and await db.delete_task("t2")
    assert await db.delete_product("p2")


async def components(db: Any) -> None:
    """Of the owner's: a draft, which has a link to a published component that has a draft besides, and one that is
    archived. One of nobody's, which all may see."""
    told: dict[str, Any] = {"description": SECRET, "metadata": {"m": SECRET}, "config": {"m": SECRET}}
    await create(db, "open", user_id=OWNER, **told)
    await db.upsert_config("open", {"m": SECRET}, label="next")
    await create(db, "draft", link("open"), stage="draft", user_id=OWNER, label="label", **told)
    await create(db, "gone", user_id=OWNER, **told)
    assert await db.delete_component("gone")
    await create(db, "shared", **told)
    for id in ("draft", "shared"):
        await db.upsert_config(id, {"m": SECRET})


async def everything(db: Any) -> dict[tuple[str, str], tuple[Any, Any]]:
    """All that a store holds, by kind and id: the user, and the rest. Of one of ours each record with its revision, as
    its driver gives them; of Agno's each row of each table."""
    engine = getattr(db.raw, "_engine", None)
    if engine is None:
        engine = db.raw.db_engine
        if isinstance(engine, Engine):
            return rows_of(engine)
        other = create_engine(engine.url.set(drivername="sqlite"))
        try:
            return rows_of(other)
        finally:
            other.dispose()
    kernel = engine.kernel
    found = await kernel.io.gather(*(kernel.span(Span(kind, EVERYTHING)) for kind in KINDS))
    records = [record for of_a_kind in found for record in of_a_kind]
    return {(record.ref.kind, record.ref.id): (record.fields.get("user_id"), record) for record in records}


def rows_of(engine: Engine) -> dict[tuple[str, str], tuple[Any, Any]]:
    found: dict[tuple[str, str], tuple[Any, Any]] = {}
    tables = MetaData()
    with engine.connect() as connection:
        tables.reflect(connection)
        for table in tables.sorted_tables:
            for row in connection.execute(table.select()).mappings():
                key = repr([row[column.name] for column in table.primary_key] or dict(row))
                found[table.name, key] = (row.get("user_id"), dict(row))
    return found


# --- What a stranger tries --------------------------------------------------------------------------------------------


def called(*args: Any, **kwargs: Any) -> Callable[[Callable[..., Any]], Any]:
    """A call with these arguments; for attempts that are made by a loop."""
    return lambda method: method(*args, **kwargs)


NO_PAGE: tuple[list[Any], int] = ([], 0)
MISSING = RunPersistOutcome.MISSING

#: Reads that take a user: of the contract, and of ours.
READS = (
    Attempt("get_session", lambda m: m("s1", user_id=STRANGER), None),
    Attempt("get_session", lambda m: m("s1", user_id=STRANGER, deserialize=False, runs_limit=5), None),
    Attempt("get_sessions", lambda m: m(user_id=STRANGER, component_id="a1"), []),
    Attempt("get_sessions", lambda m: m(SessionType.AGENT, STRANGER, session_name=SECRET, deserialize=False), NO_PAGE),
    Attempt("get_sessions", lambda m: m(user_id="", limit=5), []),
    Attempt("get_runs", lambda m: m("s1", STRANGER), []),
    Attempt("get_runs", lambda m: m(session_id="s1", user_id=STRANGER, agent_id="a1", deserialize=False), NO_PAGE),
    Attempt("get_user_memory", lambda m: m("m1", user_id=STRANGER), None),
    Attempt("get_user_memories", lambda m: m(user_id=STRANGER, agent_id="a1"), []),
    Attempt("get_user_memories", lambda m: m(STRANGER, topics=[SECRET], search_content=SECRET), []),
    Attempt("get_user_memory_stats", lambda m: m(user_id=STRANGER), NO_PAGE),
    Attempt("get_all_memory_topics", lambda m: m(user_id=STRANGER), []),
    Attempt("get_metrics", lambda m: m(user_id=STRANGER), ([], None)),
    Attempt("get_knowledge_content", lambda m: m("k1", user_id=STRANGER), None),
    Attempt("get_knowledge_contents", lambda m: m(user_id=STRANGER), NO_PAGE),
    Attempt("get_eval_run", lambda m: m("e1", user_id=STRANGER), None),
    Attempt("get_eval_runs", lambda m: m(agent_id="a1", user_id=STRANGER, deserialize=False), NO_PAGE),
    Attempt("get_traces", lambda m: m(session_id="s1", user_id=STRANGER), NO_PAGE),
    Attempt(
        "get_traces",
        lambda m: m(agent_id="a1", filter_expr={"op": "EQ", "key": "user_id", "value": STRANGER}),
        NO_PAGE,
    ),
    Attempt("get_trace_stats", lambda m: m(user_id=STRANGER, group_by="agent"), NO_PAGE),
    Attempt("get_learning", lambda m: m("fact", user_id=STRANGER, session_id="s1"), None),
    Attempt("get_learning", lambda m: m("fact", user_id=STRANGER, entity_id="x", entity_type="person"), None),
    Attempt("get_learnings", lambda m: m(user_id=STRANGER, namespace="ns"), []),
    Attempt("list_learnings", lambda m: m(user_id=STRANGER, include_global=True), NO_PAGE),
    Attempt("search_learnings", lambda m: m(SECRET, user_id=STRANGER), []),
    Attempt("get_learnings_user_stats", lambda m: m(user_id=STRANGER), NO_PAGE),
    Attempt("get_schedule", lambda m: m("c1", STRANGER), None),
    Attempt("get_schedule_by_name", lambda m: m("nightly", STRANGER), None),
    Attempt("get_schedule_by_name", lambda m: m("nightly"), None),
    Attempt("get_schedules", lambda m: m(enabled=True, user_id=STRANGER), NO_PAGE),
    Attempt("get_schedule_run", lambda m: m("q1", STRANGER), None),
    Attempt("get_schedule_runs", lambda m: m("c1", user_id=STRANGER), NO_PAGE),
    Attempt("get_approvals", lambda m: m(run_id="r1", user_id=STRANGER), NO_PAGE),
    Attempt("get_pending_approval_count", lambda m: m(STRANGER), 0),
)
OUR_READS = (
    Attempt("get_session_data", lambda m: m("s1", user_id=STRANGER), None),
    Attempt("get_messages", lambda m: m("s1", user_id=STRANGER), []),
    Attempt("get_messages", lambda m: m("s1", 2, max_chars=100, user_id=STRANGER), []),
    Attempt("get_chat_history", lambda m: m("s1", user_id=STRANGER), []),
    Attempt("get_tool_calls", lambda m: m("s1", user_id=STRANGER), []),
    Attempt("get_agent_history", lambda m: m("s1", user_id=STRANGER), []),
    Attempt("get_team_history", lambda m: m("s1", user_id=STRANGER), []),
    Attempt("get_workflow_history", lambda m: m("s1", user_id=STRANGER), []),
    Attempt("iter_runs", lambda m: m("s1", user_id=STRANGER), []),
    Attempt("get_all_sessions", lambda m: m(user_id=STRANGER, component_id="a1", include_runs=True), []),
    Attempt("get_recent_sessions", lambda m: m(5, STRANGER, component_id="a1"), []),
    Attempt("count_sessions", lambda m: m(STRANGER, component_id="a1"), 0),
    Attempt("get_expired_sessions", lambda m: m(user_id=STRANGER), []),
)

#: Writes, by domain.
SESSIONS = (
    Attempt("upsert_session", lambda m: m(secret_session("s1", user_id=STRANGER, metadata={})), None),
    Attempt("upsert_session", lambda m: m(agent_session("s1"), deserialize=False), None),
    Attempt(
        "upsert_sessions",
        lambda m: m([agent_session("s1", user_id=STRANGER), agent_session("s2")], preserve_updated_at=True),
        [],
    ),
    Attempt("rename_session", lambda m: m("s1", SessionType.AGENT, "taken", user_id=STRANGER), None),
    Attempt("reassign_session_owner", lambda m: m("s2", previous_user_id=STRANGER, user_id=STRANGER), False),
    Attempt("delete_session", lambda m: m("s1", user_id=STRANGER), False),
    Attempt("delete_sessions", lambda m: m(["s1", "s2"], user_id=STRANGER), None),
)
RUNS = (
    Attempt("upsert_run", lambda m: m(run_of("new", content="text"), "s1", STRANGER), PermissionError),
    Attempt("upsert_run", lambda m: m(run_of("r1", content="text"), "s1", STRANGER), PermissionError),
    Attempt("upsert_run", lambda m: m(run_of("r2", content="text"), "s1", STRANGER), PermissionError),
    Attempt("upsert_run", lambda m: m(run_of("r3", content="text"), OWN, STRANGER), PermissionError),
    Attempt("upsert_run", lambda m: m({"run_id": "r2", "agent_id": "a1"}, OWN, STRANGER, 0), PermissionError),
    Attempt("cancel_pending_run", lambda m: m("r2", session_id="s1", reason="", user_id=STRANGER), False),
    Attempt("cancel_pending_run", lambda m: m("r2", session_id=OWN, reason="", user_id=STRANGER), False),
)
OUR_RUNS = (
    Attempt("insert_session_if_absent", lambda m: m(agent_session("s1", user_id=STRANGER)), False),
    Attempt(
        "append_run_to_session_if_absent",
        lambda m: m("s1", {"run_id": "new", "agent_id": "a1"}, user_id=STRANGER),
        PermissionError,
    ),
    Attempt(
        "append_run_to_session_if_absent",
        lambda m: m(OWN, {"run_id": "r3", "agent_id": "a1"}, user_id=STRANGER),
        PermissionError,
    ),
    Attempt("update_run_in_session", lambda m: m("s1", "r1", {"content": ""}, user_id=STRANGER), MISSING),
    Attempt("update_run_in_session", lambda m: m("s1", "r2", {"content": ""}, user_id=STRANGER), MISSING),
    Attempt("update_run_in_session", lambda m: m("s1", "r2", {}, None, STRANGER, session_data={"a": 1}), MISSING),
    Attempt("update_run_in_session", lambda m: m(OWN, "r1", {"content": ""}, user_id=STRANGER), MISSING),
)
OUR_SESSIONS = (
    Attempt("update_session_data", lambda m: m("s1", {"a": 1}, user_id=STRANGER), OwnershipError),
    Attempt("update_session_data", lambda m: m("s1", {}, when={"x": 1}, user_id=STRANGER), OwnershipError),
    Attempt("save_session", lambda m: m(agent_session("s1", user_id=STRANGER)), OwnershipError),
    Attempt("save_session", lambda m: m(agent_session("s1", user_id=STRANGER), 1), OwnershipError),
    Attempt("save_session", lambda m: m(agent_session("s1")), OwnershipError),
    Attempt("update_session", lambda m: m("s1", never_called, user_id=STRANGER), OwnershipError),
    Attempt("summarize_session", lambda m: m("s1", never_called, True, user_id=STRANGER), OwnershipError),
    Attempt("end_session", lambda m: m("s1", never_called, force=True, user_id=STRANGER), OwnershipError),
    Attempt("touch_session", lambda m: m("s1", ttl=1, user_id=STRANGER), False),
)
MEMORIES = (
    Attempt("upsert_user_memory", lambda m: m(memory_of("m1", user_id=STRANGER, memory="text")), PermissionError),
    Attempt("upsert_memories", lambda m: m([memory_of("m1", user_id=STRANGER)], preserve_updated_at=True), []),
    Attempt("delete_user_memory", lambda m: m("m1", user_id=STRANGER), None),
    Attempt("delete_user_memories", lambda m: m(["m1", "m2"], user_id=STRANGER), None),
)
KNOWLEDGE_AND_EVALS = (
    Attempt("upsert_knowledge_content", lambda m: m(content_of("k1", user_id=STRANGER, name="text")), ValueError),
    Attempt("delete_knowledge_content", lambda m: m("k1", user_id=STRANGER), None),
    Attempt("create_eval_run", lambda m: m(eval_of("e1", name="text")), IntegrityError),
    Attempt("rename_eval_run", lambda m: m("e1", "text", user_id=STRANGER), None),
    Attempt("delete_eval_runs", lambda m: m(["e1", "e2"], user_id=STRANGER), None),
)
LEARNINGS = (
    Attempt(
        "upsert_learning",
        lambda m: m(id="l1", learning_type="fact", content={"text": "new"}, user_id=STRANGER),
        None,
    ),
    Attempt("delete_user_learnings", lambda m: m(STRANGER, "fact"), 0),
)
SCHEDULES = (
    Attempt("create_schedule", lambda m: m(schedule_of(STRANGER)), IntegrityError),
    Attempt("update_schedule", lambda m: m("c1", STRANGER, description="text"), None),
    Attempt("delete_schedule", lambda m: m("c1", STRANGER), False),
    Attempt("create_schedule_run", lambda m: m(schedule_run_of(STRANGER)), IntegrityError),
    Attempt("create_approval", lambda m: m(approval_of(STRANGER)), IntegrityError),
)


#: Here and of jobs: `dict` where the answer is the stranger's own row.
MACHINES = (
    Attempt("get_auth_token", lambda m: m("google", None, "gmail"), None),
    Attempt("get_auth_token", lambda m: m("google", STRANGER, "gmail"), dict),
    Attempt("upsert_auth_token", lambda m: m(token_of(user_id=STRANGER, token_data={"access": "new"})), dict),
    Attempt("delete_auth_token", lambda m: m("google", None, "gmail"), False),
    Attempt("get_service_account", lambda m: m("a1", STRANGER), None),
    Attempt("get_service_accounts", lambda m: m(user_id=STRANGER, sort_by="name"), NO_PAGE),
    Attempt("create_service_account", lambda m: m(account_of("a1", token_hash="h", user_id=STRANGER)), IntegrityError),
    Attempt(
        "create_service_account",
        lambda m: m(account_of("a2", token_hash="hash-a1", user_id=STRANGER)),
        IntegrityError,
    ),
)
JOBS = (
    Attempt("list_jobs", lambda m: m(user_id=STRANGER, session_id="s1", raise_on_error=True), NO_PAGE),
    Attempt("list_jobs", lambda m: m("queued", user_id=STRANGER, session_id=["s1", "s2"]), NO_PAGE),
    Attempt("enqueue_job", lambda m: m(job_of("j1", user_id=STRANGER)), IntegrityError),
    Attempt("enqueue_job", lambda m: m(job_of("new", user_id=STRANGER, idempotency_key="key")), dict),
)
#: Not who may add to a product: callers read it first. With `reuse`, or for an equal proposal, the contract gives back
#: the row that is there, whoever asks (1.19).
CHILD = {"product_id": "p1", "user_id": STRANGER, "created_at": 1}
COMPANIES = (
    *(
        Attempt(f"get_{kind}", called(id, STRANGER, archived), None)
        for kind, letter in (("product", "p"), ("source", "c"), ("project", "j"), ("task", "t"))
        for id, archived in ((f"{letter}1", False), (f"{letter}2", True))
    ),
    Attempt("get_products", lambda m: m(STRANGER, include_deleted=True, sort_by="updated_at"), NO_PAGE),
    *(
        Attempt(f"get_{kind}", called(STRANGER, include_deleted=archived, product_id="p1"), NO_PAGE)
        for kind in ("sources", "projects", "tasks")
        for archived in (False, True)
    ),
    Attempt("get_projects", lambda m: m(user_id=STRANGER, status="proposed"), NO_PAGE),
    Attempt("get_tasks", lambda m: m(user_id=STRANGER, session_id="s1"), NO_PAGE),
    Attempt("get_tasks", lambda m: m(user_id=STRANGER, failed=False), NO_PAGE),
    Attempt("count_company_acceptances", lambda m: m("routine", "policy", "t1", STRANGER), 0),
    Attempt(
        "create_product", lambda m: m({"id": "p1", "name": "x", "user_id": STRANGER, "created_at": 1}), IntegrityError
    ),
    Attempt("create_source", lambda m: m({**CHILD, "id": "c1", "reference": "/x", "type": "markdown"}), IntegrityError),
    Attempt("create_project", lambda m: m({**CHILD, "id": "j1", "name": "x", "status": "proposed"}), IntegrityError),
    Attempt("create_task", lambda m: m(task_row("t1", user_id=STRANGER)), IntegrityError),
    Attempt("update_product", lambda m: m("p1", STRANGER, name="text"), None),
    Attempt("update_product", lambda m: m("p1", STRANGER, metadata={}), None),
    Attempt("update_source", lambda m: m("c1", STRANGER, reference="/text"), None),
    Attempt("update_project", lambda m: m("j1", STRANGER, "proposed", name="text"), None),
    Attempt("update_task", lambda m: m("t1", STRANGER, title="text"), None),
    Attempt("transition_project", lambda m: m("j1", "active", "reason", STRANGER, accepted_by=STRANGER), None),
    Attempt("transition_task", lambda m: m("t1", "ready", "reason", STRANGER, STRANGER, "agent", "a1"), None),
    Attempt("transition_task", lambda m: m("t3", "nowhere", "", STRANGER), None),
    *(
        Attempt(f"{verb}_{kind}", called(id, STRANGER), gets)
        for kind, letter in (("product", "p"), ("source", "c"), ("project", "j"), ("task", "t"))
        for verb, id, gets in (("delete", f"{letter}1", False), ("restore", f"{letter}2", None))
    ),
    Attempt("delete_project", lambda m: m("j3", STRANGER, 2**40), False),
    Attempt("delete_task", lambda m: m("t3", STRANGER, 2**40), False),
)
#: An acceptance on a routine's account, within its limit.
ON_ACCOUNT: dict[str, Any] = {
    "expected_updated_at": None,
    "auto_accept": {"routine_id": "routine", "policy": "policy", "max_acceptances": 99},
}
#: Of children of an archived product: its owner is told that it is.
ARCHIVED = (
    Attempt("update_project", lambda m: m("j4", STRANGER, name="text"), None),
    Attempt("delete_project", lambda m: m("j4", STRANGER), False),
    Attempt("restore_project", lambda m: m("j4", STRANGER), None),
    Attempt("transition_project", lambda m: m("j4", "active", "reason", STRANGER), None),
    Attempt("update_task", lambda m: m("t4", STRANGER, title="text"), None),
    Attempt("delete_task", lambda m: m("t4", STRANGER), False),
    Attempt("restore_task", lambda m: m("t4", STRANGER), None),
    Attempt("transition_task", lambda m: m("t4", "ready", "reason", STRANGER), None),
    Attempt("update_task", lambda m: m("t1", STRANGER, project_id="j2"), None),
    Attempt("transition_task", lambda m: m("t1", "ready", "reason", STRANGER, **ON_ACCOUNT), None),
    Attempt("transition_project", lambda m: m("j1", "done", "reason", STRANGER, **ON_ACCOUNT), None),
)
AGENT = ComponentType.AGENT
#: Writes are the very owner's: what all may see nobody else changes, nor what is nobody's.
COMPONENTS = (
    Attempt("get_component", lambda m: m("draft", user_id=STRANGER), None),
    Attempt("get_component", lambda m: m("gone", AGENT, STRANGER, include_deleted=True), None),
    Attempt("list_components", lambda m: m(user_id=STRANGER, exclude_component_ids={"open", "shared"}), NO_PAGE),
    Attempt("list_components", lambda m: m(AGENT, True, user_id=STRANGER, name="draft"), NO_PAGE),
    Attempt("list_components", lambda m: m(include_deleted=True, user_id=STRANGER, name="gone"), NO_PAGE),
    Attempt("get_dependents", lambda m: m("open", 1, parent_user_id=STRANGER), []),
    *(
        attempt
        for id in ("draft", "open", "gone", "shared")
        for attempt in (
            Attempt("upsert_component", called(id, AGENT, "text", user_id=STRANGER), ValueError),
            Attempt("upsert_component", called(id, current_version=1, user_id=STRANGER), ValueError),
            Attempt("delete_component", called(id, user_id=STRANGER), False),
            Attempt("delete_component", called(id, True, STRANGER, require_no_dependents=False), False),
            Attempt("restore_component", called(id, STRANGER), False),
            Attempt("create_component_with_config", called(id, AGENT, "x", {}, user_id=STRANGER), ValueError),
            Attempt("upsert_config", called(id, {"a": 1}, user_id=STRANGER), ValueError),
            Attempt("upsert_config", called(id, version=1, stage="published", user_id=STRANGER), ValueError),
            Attempt("delete_config", called(id, 1, STRANGER), False),
            Attempt("delete_config", called(id, 2, STRANGER), False),
            Attempt("set_current_version", called(id, 1, user_id=STRANGER), False),
        )
    ),
)
#: Records that go with a session, and have ids of their own.
OF_SESSIONS = (
    Attempt("upsert_tool_result", lambda m: m(result_of("o1", OWN, user_id=STRANGER, preview="x")), ValueError),
    Attempt("upsert_tool_result", lambda m: m(result_of("o9", OWN, path="/o1", user_id=STRANGER)), IntegrityError),
)
COMPACTIONS = (
    Attempt("upsert_compaction", lambda m: m(compaction("f1", OWN, user_id=STRANGER, summary="text")), None),
    Attempt("get_compactions_for_session", lambda m: m(OWN), []),
    Attempt("search_compactions", lambda m: m(OWN, SECRET), []),
)


def never_called(*_: Any) -> Any:
    raise AssertionError("the stranger's function was given the owner's session")


async def refused(db: Any, attempts: tuple[Attempt, ...], caplog: pytest.LogCaptureFixture) -> None:
    """Make the attempts. Each gets what it has to get, none a word of the owner's; nothing is added to the store, and
    what is not the stranger's own stays as it is."""
    before = await everything(db)
    assert before
    caplog.clear()
    with caplog.at_level(logging.DEBUG, logger="agno_docstores"):
        for method, call, gets in attempts:
            told = await outcome(call, getattr(db, method))
            if isinstance(gets, type):
                assert isinstance(told, gets), (method, told)
            else:
                assert told == gets, method
            assert SECRET not in repr(told) + str(told) and OWNER not in repr(told) + str(told), method
    after = await everything(db)
    assert after.keys() == before.keys()
    assert others(after) == others(before)
    logged = "".join(record.getMessage() for record in caplog.records if record.name == "agno_docstores")
    assert SECRET not in logged and OWNER not in logged


def others(found: dict[tuple[str, str], tuple[Any, Any]]) -> dict[tuple[str, str], tuple[Any, Any]]:
    return {key: record for key, record in found.items() if record[0] != STRANGER}


async def outcome(call: Callable[[Callable[..., Any]], Any], method: Callable[..., Any]) -> Any:
    """What a call answers, or the error that it raises."""
    try:
        answer = await call(method)
        return await listed(answer) if hasattr(answer, "__anext__") or hasattr(answer, "__next__") else answer
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what the stranger gets
        return error


# --- Tests ------------------------------------------------------------------------------------------------------------


async def test_a_stranger_reads_nothing_of_others(db: Any, caplog: pytest.LogCaptureFixture) -> None:
    await conversations(db)
    await records(db)
    await db.delete_session(OWN)
    await db.calculate_metrics()
    found = await db.get_metrics(user_id=OWNER)
    assert found[0] and await db.get_sessions(user_id=OWNER, session_name=SECRET)
    unserved = () if hasattr(db.raw, "_engine") else ("search_learnings",)
    await refused(db, tuple(attempt for attempt in READS if attempt.method not in unserved), caplog)


async def test_a_stranger_changes_no_session(db: Any, caplog: pytest.LogCaptureFixture) -> None:
    await conversations(db)
    await refused(db, SESSIONS, caplog)


async def test_a_stranger_changes_no_run_and_adds_none(
    db: Any, another: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    await conversations(db)
    for handle in (db, another()):  # what the one remembers, the other has to read
        await refused(handle, RUNS, caplog)


async def test_a_stranger_changes_no_memory(db: Any, caplog: pytest.LogCaptureFixture) -> None:
    await records(db)
    await refused(db, MEMORIES, caplog)


async def test_a_stranger_changes_no_knowledge_and_no_eval_run(db: Any, caplog: pytest.LogCaptureFixture) -> None:
    await records(db)
    await refused(db, KNOWLEDGE_AND_EVALS, caplog)


async def test_a_stranger_changes_no_learning(db: Any, caplog: pytest.LogCaptureFixture) -> None:
    await records(db)
    await refused(db, LEARNINGS, caplog)


async def test_a_stranger_changes_no_schedule_and_no_approval(db: Any, caplog: pytest.LogCaptureFixture) -> None:
    await records(db)
    await refused(db, SCHEDULES, caplog)


async def test_a_stranger_gets_no_token_and_no_service_account(db: Any, caplog: pytest.LogCaptureFixture) -> None:
    await machines(db)
    await refused(db, MACHINES, caplog)
    assert (await db.get_auth_token("google", OWNER, "gmail"))["token_data"] == {"access": SECRET}
    assert (await db.get_auth_token("google", STRANGER, "gmail"))["token_data"] == {"access": "new"}


async def test_a_stranger_gets_no_job(db: Any, caplog: pytest.LogCaptureFixture) -> None:
    await jobs(db)
    await refused(db, JOBS, caplog)
    own, total = await db.list_jobs(user_id=STRANGER)
    assert (total, [job["id"] for job in own]) == (1, ["j2"])


async def test_a_stranger_takes_no_part_in_a_company(db: Any, caplog: pytest.LogCaptureFixture) -> None:
    await companies(db)
    assert await db.count_company_acceptances("routine", "policy", "t1", OWNER) == 1
    await refused(db, COMPANIES, caplog)


async def test_a_stranger_is_not_told_what_is_archived(db: Any, caplog: pytest.LogCaptureFixture) -> None:
    await companies(db)
    await product(db, "p4", name=SECRET, user_id=OWNER)
    await project(db, "j4", name=SECRET, user_id=OWNER, product_id="p4")
    await task(db, "t4", title=SECRET, user_id=OWNER, product_id="p4")
    assert await db.delete_product("p4")
    with pytest.raises(ValueError, match="archived"):
        await db.restore_task("t4", OWNER)
    await refused(db, ARCHIVED, caplog)


async def test_a_stranger_sees_what_is_published_and_changes_no_component(
    db: Any, caplog: pytest.LogCaptureFixture
) -> None:
    if db.is_async:  # Agno's async class has none, but functions in their place, which raise
        methods = [name for name in {attempt.method for attempt in COMPONENTS} if hasattr(AsyncBaseDb, name)]
        assert all(getattr(type(db.raw), name) is getattr(AsyncBaseDb, name) for name in methods)
        return
    await components(db)
    seen, total = await db.list_components(user_id=STRANGER)
    assert (total, {row["component_id"] for row in seen}) == (2, {"open", "shared"})
    for row in seen:
        assert await db.get_component(row["component_id"], user_id=STRANGER) == row
    assert [found["parent_component_id"] for found in await db.get_dependents("open", 1)] == ["draft"]
    await refused(db, COMPONENTS, caplog)
    for id in ("draft", "open", "gone", "shared"):
        for write in (db.upsert_component, db.upsert_config):
            with pytest.raises(ValueError, match=f"^Component {id} not found$"):
                await write(id, user_id=STRANGER)


async def test_a_stranger_takes_no_tool_result_to_his_session(db: Any, caplog: pytest.LogCaptureFixture) -> None:
    await db.upsert_tool_result(result_of("o1", user_id=OWNER, preview=SECRET))
    await refused(db, OF_SESSIONS, caplog)


async def test_a_stranger_takes_no_compaction_to_his_session(db: Any, caplog: pytest.LogCaptureFixture) -> None:
    if not offered(db):
        return
    await db.upsert_compaction(compaction("f1", user_id=OWNER, summary=SECRET, archived_messages=SECRET))
    await refused(db, COMPACTIONS, caplog)


async def test_a_write_without_a_user_strips_no_owner(db: Any) -> None:
    await records(db)
    owners = {key: user for key, (user, _) in (await everything(db)).items()}
    await db.upsert_user_memory(memory_of("m1", memory="text"))
    await db.upsert_memories([memory_of("m2", memory="text")])
    await db.upsert_knowledge_content(content_of("k1", name="text"))
    await db.rename_eval_run("e1", "text")
    await db.upsert_learning(id="l1", learning_type="fact", content={"text": "text"})
    await db.upsert_trace(trace("t1", status="ERROR"))
    assert {key: user for key, (user, _) in (await everything(db)).items()} == owners
    assert (await db.get_user_memory("m1", user_id=OWNER)).memory == "text"
    assert await db.get_knowledge_content("k1", user_id=STRANGER) is None
    assert await db.list_learnings(user_id=STRANGER, include_global=True) == NO_PAGE


async def test_what_was_not_deleted_is_told_in_the_log(db: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The contract has these methods return None, whatever they did."""
    await conversations(db)
    await records(db)
    calls: tuple[tuple[Callable[..., Any], list[str]], ...] = (
        (db.delete_sessions, ["s1", "s2"]),
        (db.delete_user_memories, ["m1", "m2"]),
        (db.delete_eval_runs, ["e1", "e2"]),
    )
    for delete, ids in calls:
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            await delete([*ids, "nobody's"], user_id=STRANGER)
        told = [record.getMessage() for record in caplog.records]
        assert len(told) == len(ids)
        assert all(repr(id) in line and repr(STRANGER) in line for id, line in zip(ids, told, strict=True))


async def test_a_stranger_gets_nothing_by_what_only_these_stores_have(
    db: Any, another: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    await conversations(db)
    await refused(db, OUR_READS, caplog)
    for handle in (db, another()):
        await refused(handle, (*OUR_SESSIONS, *OUR_RUNS), caplog)


async def test_a_purge_of_a_stranger_takes_only_his_own(db: Any) -> None:
    await conversations(db)
    for what in (records, machines, jobs, *(() if db.is_async else (components,))):
        await what(db)
    before = await everything(db)
    removed = (await db.purge_user(STRANGER)).removed
    assert {kind: count for kind, count in removed.items() if count} == {"sessions": 1, "auth_tokens": 1, "jobs": 1}
    claims = {key for key in before if key[0] == "jobs_claims" and STRANGER in key[1]}  # to his idempotency key
    assert await everything(db) == {key: record for key, record in others(before).items() if key not in claims}

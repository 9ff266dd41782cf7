"""Every public method under a store that does not answer: none is forgotten, for they are those of the surface.

A failed read raises and is never "empty"; a failed write raises; both within a bounded number of calls and a bounded
time. The few methods that Agno's contract wants silent answer what the contract says, and say in the log what happened.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from agno.db.schemas.tasks import task_run_id
from agno.run.base import RunStatus
from agno.session import TeamSession, WorkflowSession

from agno_docstores.conformance.approvals import approval_of
from agno_docstores.conformance.auth_tokens import token_of
from agno_docstores.conformance.authz import event_of, user_of
from agno_docstores.conformance.compactions import compaction
from agno_docstores.conformance.company import AGENT as EXECUTOR
from agno_docstores.conformance.company import product, project, source, task
from agno_docstores.conformance.components import AGENT, create, link
from agno_docstores.conformance.evals import eval_of
from agno_docstores.conformance.jobs import STALE, enqueue, job_of
from agno_docstores.conformance.knowledge import content_of
from agno_docstores.conformance.management import contents, everything_of, listed
from agno_docstores.conformance.mcp_oauth import NOW, client, code, refresh, transaction
from agno_docstores.conformance.memories import memory_of
from agno_docstores.conformance.plugin import Awaitable as Handle
from agno_docstores.conformance.schedules import execution_of, schedule_of
from agno_docstores.conformance.service_accounts import account_of
from agno_docstores.conformance.sessions import agent_session, run_of
from agno_docstores.conformance.summaries import manager_of
from agno_docstores.conformance.tool_results import result_of
from agno_docstores.conformance.traces import span, trace
from agno_docstores.conformance.transcripts import KEY as TRANSCRIPT
from agno_docstores.conformance.transcripts import append, entry
from agno_docstores.errors import (
    Conflict,
    ContentionError,
    StoreUnavailableError,
)
from tests import surface
from tests.faults import Down, Patience

#: One cell of each driver, both modes among them: what is looked at is what the core makes of a driver's errors.
CELLS = pytest.mark.cells(
    "memory-sync*", "memory-async", "mongo-sync-standalone", "dynamo-sync-moto", "firestore-async-embedded"
)
IN_PROCESS = pytest.mark.cells("memory-sync*")

Call = Callable[[Any], Any]

READS: dict[str, Call] = {
    "authz_name_is_role": lambda db: db.authz_name_is_role("role"),
    "count_authz_audit_events": lambda db: db.count_authz_audit_events(search="x"),
    "count_authz_users": lambda db: db.count_authz_users(),
    "count_authz_users_by_day": lambda db: db.count_authz_users_by_day(),
    "count_authz_users_by_status": lambda db: db.count_authz_users_by_status(),
    "count_company_acceptances": lambda db: db.count_company_acceptances("routine", "low", "other"),
    "count_queued_jobs": lambda db: db.count_queued_jobs(),
    "count_sessions": lambda db: db.count_sessions("u"),
    "get_agent_history": lambda db: db.get_agent_history("u-s0"),
    "get_all_memory_topics": lambda db: db.get_all_memory_topics("u"),
    "get_all_sessions": lambda db: all_of(db.get_all_sessions("u", include_runs=True)),
    "get_approval": lambda db: db.get_approval("u-a"),
    "get_approvals": lambda db: db.get_approvals(status="pending", limit=1),
    "get_auth_token": lambda db: db.get_auth_token("google", "u", "gmail"),
    "get_authz_direct_roles": lambda db: db.get_authz_direct_roles("u"),
    "get_authz_direct_roles_many": lambda db: db.get_authz_direct_roles_many(["u", "v"]),
    "get_authz_policies": lambda db: db.get_authz_policies(["role", "other"]),
    "get_authz_role_meta": lambda db: db.get_authz_role_meta("role"),
    "get_authz_role_policies": lambda db: db.get_authz_role_policies("role"),
    "get_authz_user": lambda db: db.get_authz_user("u"),
    "get_chat_history": lambda db: db.get_chat_history("u-s0"),
    "get_compaction": lambda db: db.get_compaction("u-k"),
    "get_compactions_for_session": lambda db: db.get_compactions_for_session("u-s0", limit=1),
    "get_component": lambda db: db.get_component("whole"),
    "get_config": lambda db: db.get_config("whole", version=1),
    "get_current_config": lambda db: db.get_current_config("whole"),
    "get_dependents": lambda db: db.get_dependents("part"),
    "get_eval_run": lambda db: db.get_eval_run("u-e"),
    "get_eval_runs": lambda db: db.get_eval_runs(user_id="u", limit=1, deserialize=False),
    "get_expired_sessions": lambda db: db.get_expired_sessions(),
    "get_expired_tool_results": lambda db: db.get_expired_tool_results(2**40),
    "get_job": lambda db: db.get_job("queued"),
    "get_knowledge_content": lambda db: db.get_knowledge_content("u-k"),
    "get_knowledge_contents": lambda db: db.get_knowledge_contents(user_id="u", limit=1),
    "get_latest_config": lambda db: db.get_latest_config("whole"),
    "get_latest_schedule_runs": lambda db: db.get_latest_schedule_runs(["u-c"]),
    "get_latest_schema_version": lambda db: db.get_latest_schema_version("sessions"),
    "get_learning": lambda db: db.get_learning("fact", user_id="u"),
    "get_learning_by_id": lambda db: db.get_learning_by_id("u-l"),
    "get_learnings": lambda db: db.get_learnings(user_id="u"),
    "get_learnings_user_stats": lambda db: db.get_learnings_user_stats(),
    "get_links": lambda db: db.get_links("whole", 1),
    "get_mcp_oauth_client": lambda db: db.get_mcp_oauth_client("client"),
    "get_mcp_oauth_code": lambda db: db.get_mcp_oauth_code("code"),
    "get_mcp_oauth_keys": lambda db: db.get_mcp_oauth_keys(),
    "get_mcp_oauth_refresh": lambda db: db.get_mcp_oauth_refresh("refresh"),
    "get_mcp_oauth_transaction": lambda db: db.get_mcp_oauth_transaction("transaction"),
    "get_messages": lambda db: db.get_messages("u-s0"),
    "get_metrics": lambda db: db.get_metrics(user_id="u"),
    "get_pending_approval_count": lambda db: db.get_pending_approval_count("u"),
    "get_product": lambda db: db.get_product("p1"),
    "get_product_counts": lambda db: db.get_product_counts(["p1"]),
    "get_products": lambda db: db.get_products(limit=1),
    "get_project": lambda db: db.get_project("j1"),
    "get_project_counts": lambda db: db.get_project_counts(["j1"]),
    "get_projects": lambda db: db.get_projects(product_id="p1", limit=1),
    "get_recent_sessions": lambda db: db.get_recent_sessions(user_id="u"),
    "get_run": lambda db: db.get_run("u-r00"),
    "get_runs": lambda db: db.get_runs(session_id="u-s0", deserialize=False, limit=1),
    "get_schedule": lambda db: db.get_schedule("u-c"),
    "get_schedule_by_name": lambda db: db.get_schedule_by_name("u-c", "u"),
    "get_schedule_run": lambda db: db.get_schedule_run("u-cr"),
    "get_schedule_runs": lambda db: db.get_schedule_runs("u-c", limit=1),
    "get_schedules": lambda db: db.get_schedules(user_id="u", limit=1),
    "get_service_account": lambda db: db.get_service_account("u-sa"),
    "get_service_account_by_name": lambda db: db.get_service_account_by_name("u-sa"),
    "get_service_account_by_token_hash": lambda db: db.get_service_account_by_token_hash("hash-u-sa"),
    "get_service_accounts": lambda db: db.get_service_accounts(limit=1),
    "get_session": lambda db: db.get_session("u-s0"),
    "get_session_data": lambda db: db.get_session_data("u-s0"),
    "get_sessions": lambda db: db.get_sessions(user_id="u", deserialize=False, limit=1),
    "get_source": lambda db: db.get_source("c1"),
    "get_sources": lambda db: db.get_sources(product_id="p1", limit=1),
    "get_span": lambda db: db.get_span("u-x0"),
    "get_span_stats": lambda db: db.get_span_stats(),
    "get_spans": lambda db: db.get_spans("u-t"),
    "get_task": lambda db: db.get_task("t1"),
    "get_tasks": lambda db: db.get_tasks(product_id="p1", limit=1),
    "get_team_history": lambda db: db.get_team_history("u-team"),
    "get_tool_calls": lambda db: db.get_tool_calls("u-s0"),
    "get_tool_result": lambda db: db.get_tool_result("u-o"),
    "get_tool_results_for_session": lambda db: db.get_tool_results_for_session("u-s0", limit=1),
    "get_trace": lambda db: db.get_trace("u-t"),
    "get_trace_stats": lambda db: db.get_trace_stats(),
    "get_traces": lambda db: db.get_traces(user_id="u"),
    "get_transcript_entries": lambda db: db.get_transcript_entries(*TRANSCRIPT),
    "get_user_memories": lambda db: db.get_user_memories(user_id="u", limit=1, deserialize=False),
    "get_user_memory": lambda db: db.get_user_memory("u-m"),
    "get_user_memory_stats": lambda db: db.get_user_memory_stats(),
    "get_workflow_history": lambda db: db.get_workflow_history("u-flow"),
    "is_authz_user_disabled": lambda db: db.is_authz_user_disabled("u"),
    "iter_runs": lambda db: all_of(db.iter_runs("u-s0", deserialize=False)),
    "list_authz_role_meta": lambda db: db.list_authz_role_meta(),
    "list_authz_role_subjects": lambda db: db.list_authz_role_subjects("role"),
    "list_authz_roles": lambda db: db.list_authz_roles(),
    "list_authz_user_ids": lambda db: db.list_authz_user_ids(),
    "list_authz_users": lambda db: db.list_authz_users(limit=1),
    "list_components": lambda db: db.list_components(limit=1),
    "list_configs": lambda db: db.list_configs("whole", include_config=True),
    "list_jobs": lambda db: db.list_jobs(status="queued", limit=1),
    "list_learnings": lambda db: db.list_learnings(user_id="u"),
    "list_transcript_sessions": lambda db: db.list_transcript_sessions(*TRANSCRIPT[:2]),
    "list_transcript_subpaths": lambda db: db.list_transcript_subpaths(*TRANSCRIPT),
    "load_component_graph": lambda db: db.load_component_graph("whole"),
    "queue_stats": lambda db: db.queue_stats(),
    "read_authz_audit_events": lambda db: db.read_authz_audit_events(limit=1),
    "search_compactions": lambda db: db.search_compactions("u-s0", "said"),
    "search_learnings": lambda db: db.search_learnings("x", user_id="u"),
    "session_blocker": lambda db: db.session_blocker("queued"),
    "sweep_exhausted_jobs": lambda db: db.sweep_exhausted_jobs(STALE),
    "table_exists": lambda db: db.table_exists("unheard_of"),
}
WRITES: dict[str, Call] = {
    "acquire_sweep": lambda db: db.acquire_sweep("exhausted", "other", STALE),
    "add_product_routine": lambda db: db.add_product_routine("p1", "u-c"),
    "append_run_to_session_if_absent": lambda db: db.append_run_to_session_if_absent(
        "u-s0", {"run_id": "new", "agent_id": "a1"}, user_id="u"
    ),
    "append_transcript_entries": lambda db: db.append_transcript_entries(*TRANSCRIPT, [entry("new")], "u-s0"),
    "assign_authz_role": lambda db: db.assign_authz_role("u", "other"),
    "calculate_metrics": lambda db: db.calculate_metrics(),
    "cancel_job": lambda db: db.cancel_job("queued"),
    "cancel_pending_run": lambda db: db.cancel_pending_run(
        "u-r00", session_id="u-s0", reason="x", user_id="u", expected_status="RUNNING"
    ),
    "claim_due_schedule": lambda db: db.claim_due_schedule("w"),
    "claim_job": lambda db: db.claim_job("w"),
    "cleanup_jobs": lambda db: db.cleanup_jobs(STALE),
    "clear_memories": lambda db: db.clear_memories(),
    "complete_job": lambda db: db.complete_job("running", "w", 1, "completed"),
    "complete_task_run": lambda db: db.complete_task_run("t3", task_run_id("t3", 1), {"status": "COMPLETED"}),
    "consume_mcp_oauth_transaction": lambda db: db.consume_mcp_oauth_transaction("transaction", NOW),
    "continue_job": lambda db: db.continue_job("paused", {"n": 1}),
    "create_approval": lambda db: db.create_approval(approval_of("new")),
    "create_component_with_config": lambda db: db.create_component_with_config("new", AGENT, "new", {}),
    "create_eval_run": lambda db: db.create_eval_run(eval_of("new")),
    "create_mcp_oauth_client": lambda db: client(db, "new"),
    "create_product": lambda db: product(db, "new"),
    "create_project": lambda db: project(db, "new"),
    "create_schedule": lambda db: db.create_schedule(schedule_of("new")),
    "create_schedule_run": lambda db: db.create_schedule_run(execution_of("new", "u-c")),
    "create_service_account": lambda db: db.create_service_account(account_of("new")),
    "create_source": lambda db: source(db, "new", reference="/new"),
    "create_span": lambda db: db.create_span(span("new", "u-t")),
    "create_spans": lambda db: db.create_spans([span("new", "u-t")]),
    "create_task": lambda db: task(db, "new"),
    "delete_approval": lambda db: db.delete_approval("u-a"),
    "delete_auth_token": lambda db: db.delete_auth_token("google", "u", "gmail"),
    "delete_authz_policy": lambda db: db.delete_authz_policy(role="role"),
    "delete_authz_role": lambda db: db.delete_authz_role("role"),
    "delete_authz_role_meta": lambda db: db.delete_authz_role_meta("role"),
    "delete_authz_user": lambda db: db.delete_authz_user("u"),
    "delete_compactions_for_session": lambda db: db.delete_compactions_for_session("u-s0"),
    "delete_component": lambda db: db.delete_component("whole"),
    "delete_config": lambda db: db.delete_config("whole", 2),
    "delete_eval_run": lambda db: db.delete_eval_run("u-e"),
    "delete_eval_runs": lambda db: db.delete_eval_runs(["u-e"]),
    "delete_knowledge_content": lambda db: db.delete_knowledge_content("u-k"),
    "delete_learning": lambda db: db.delete_learning("u-l"),
    "delete_mcp_oauth_code": lambda db: db.delete_mcp_oauth_code("code"),
    "delete_mcp_oauth_refresh": lambda db: db.delete_mcp_oauth_refresh("refresh"),
    "delete_mcp_oauth_refresh_family": lambda db: db.delete_mcp_oauth_refresh_family("f"),
    "delete_product": lambda db: db.delete_product("p2"),
    "delete_project": lambda db: db.delete_project("j1"),
    "delete_run": lambda db: db.delete_run("u-r00"),
    "delete_runs": lambda db: db.delete_runs(["u-r00"]),
    "delete_schedule": lambda db: db.delete_schedule("u-c"),
    "delete_schedule_runs": lambda db: db.delete_schedule_runs("u-c", before=2**40),
    "delete_service_account": lambda db: db.delete_service_account("u-sa"),
    "delete_session": lambda db: db.delete_session("u-s0"),
    "delete_sessions": lambda db: db.delete_sessions(["u-s0"]),
    "delete_source": lambda db: db.delete_source("c1"),
    "delete_task": lambda db: db.delete_task("t1"),
    "delete_tool_results": lambda db: db.delete_tool_results(["u-o"]),
    "delete_transcript": lambda db: db.delete_transcript(*TRANSCRIPT),
    "delete_user_learnings": lambda db: db.delete_user_learnings("u"),
    "delete_user_memories": lambda db: db.delete_user_memories(["u-m"]),
    "delete_user_memory": lambda db: db.delete_user_memory("u-m"),
    "disable_schedules_for_target": lambda db: db.disable_schedules_for_target("agent", "a1"),
    "drop": lambda db: db.drop(db.raw.id),
    "end_session": lambda db: db.end_session("u-s0", manager_of(db), force=True),
    "enqueue_job": lambda db: db.enqueue_job(job_of("new", turn=True)),
    "ensure_jobs_table": lambda db: db.ensure_jobs_table(),
    "heartbeat_jobs": lambda db: db.heartbeat_jobs("w", ["running"]),
    "insert_mcp_oauth_key": lambda db: db.insert_mcp_oauth_key(kid="new", secret="s", created_at=NOW),
    "insert_session_if_absent": lambda db: db.insert_session_if_absent(agent_session("new")),
    "mark_mcp_oauth_client_consumed": lambda db: db.mark_mcp_oauth_client_consumed("client", NOW),
    "purge_user": lambda db: db.purge_user("u"),
    "reassign_session_owner": lambda db: db.reassign_session_owner("u-team", previous_user_id="u", user_id="w"),
    "record_authz_audit_event": lambda db: db.record_authz_audit_event(event_of("new")),
    "record_authz_decision": lambda db: db.record_authz_decision(decision_of("new")),
    "release_schedule": lambda db: db.release_schedule("u-c", 5),
    "rename_eval_run": lambda db: db.rename_eval_run("u-e", "x"),
    "rename_session": lambda db: db.rename_session("u-s0", None, "x"),
    "replace_authz_subject_roles": lambda db: db.replace_authz_subject_roles("u", "other"),
    "requeue_job": lambda db: db.requeue_job("failed"),
    "restore_component": lambda db: db.restore_component("archived"),
    "restore_product": lambda db: db.restore_product("p9"),
    "restore_project": lambda db: db.restore_project("j9"),
    "restore_source": lambda db: db.restore_source("c9"),
    "restore_task": lambda db: db.restore_task("t9"),
    "retry_or_fail_job": lambda db: db.retry_or_fail_job("running", "w", 1, "x"),
    "save_session": lambda db: db.save_session(agent_session("new")),
    "set_authz_role_policies": lambda db: db.set_authz_role_policies("role", [("x", "y", "deny")]),
    "set_authz_user_disabled": lambda db: db.set_authz_user_disabled("u", True),
    "set_current_version": lambda db: db.set_current_version("whole", 3),
    "settle_paused_job": lambda db: db.settle_paused_job("paused", "completed"),
    "settle_swept_job": lambda db: db.settle_swept_job("exhausted", "w", "failed"),
    "stamp_schedule_provenance": lambda db: db.stamp_schedule_provenance("u-c", target_id="a2"),
    "start_task_run": lambda db: db.start_task_run("t2", 1, []),
    "store_mcp_oauth_code": lambda db: code(db, "new", NOW + 10),
    "store_mcp_oauth_refresh": lambda db: refresh(db, "new", NOW + 10),
    "store_mcp_oauth_transaction": lambda db: transaction(db, "new", NOW + 10),
    "summarize_session": lambda db: db.summarize_session("u-s0", manager_of(db), force=True),
    "sweep": lambda db: db.sweep(),
    "touch_session": lambda db: db.touch_session("u-s0", ttl=60),
    "transition_project": lambda db: db.transition_project("j1", "active", "go"),
    "transition_task": lambda db: db.transition_task("t1", "ready", "go", **EXECUTOR),
    "unassign_authz_role": lambda db: db.unassign_authz_role("u", "role"),
    "update_approval": lambda db: db.update_approval("u-a", expected_status="pending", status="approved"),
    "update_approval_run_status": lambda db: db.update_approval_run_status("r1", RunStatus.completed),
    "update_eval_run_user_id": lambda db: db.update_eval_run_user_id("u-e", "w"),
    "update_learning": lambda db: db.update_learning("u-l", {"n": 1}),
    "update_product": lambda db: db.update_product("p1", name="x"),
    "update_project": lambda db: db.update_project("j1", name="x"),
    "update_run_in_session": lambda db: db.update_run_in_session("u-s0", "u-r00", {"content": "y"}, user_id="u"),
    "update_schedule": lambda db: db.update_schedule("u-c", description="x"),
    "update_schedule_run": lambda db: db.update_schedule_run("u-cr", status="success"),
    "update_service_account": lambda db: db.update_service_account("u-sa", last_used_at=NOW),
    "update_session": lambda db: db.update_session("u-s0", lambda session: None),
    "update_session_data": lambda db: db.update_session_data("u-s0", increment={"n": 1}),
    "update_source": lambda db: db.update_source("c1", reference="/x"),
    "update_task": lambda db: db.update_task("t1", brief="x"),
    "upsert_auth_token": lambda db: db.upsert_auth_token(token_of(user_id="u")),
    "upsert_authz_policy": lambda db: db.upsert_authz_policy(role="role", resource="x", action="y", effect="deny"),
    "upsert_authz_role_meta": lambda db: db.upsert_authz_role_meta("role", {"name": "x"}),
    "upsert_authz_user": lambda db: db.upsert_authz_user("u", {"name": "x"}),
    "upsert_compaction": lambda db: db.upsert_compaction(compaction("new", "u-s0")),
    "upsert_component": lambda db: db.upsert_component("whole", name="x"),
    "upsert_config": lambda db: db.upsert_config("whole", {"n": 2}),
    "upsert_knowledge_content": lambda db: db.upsert_knowledge_content(content_of("u-k", name="x")),
    "upsert_learning": lambda db: db.upsert_learning("u-l", "fact", {"n": 1}, user_id="u"),
    "upsert_memories": lambda db: db.upsert_memories([memory_of("u-m", user_id="u")]),
    "upsert_run": lambda db: db.upsert_run(run_of("u-r00", content="y"), "u-s0", "u"),
    "upsert_schema_version": lambda db: db.upsert_schema_version("sessions", "9"),
    "upsert_session": lambda db: db.upsert_session(agent_session("u-s0", user_id="u")),
    "upsert_sessions": lambda db: db.upsert_sessions([agent_session("u-s0", user_id="u")]),
    "upsert_tool_result": lambda db: db.upsert_tool_result(result_of("u-o", "u-s0", preview="x")),
    "upsert_trace": lambda db: db.upsert_trace(trace("u-t")),
    "upsert_user_memory": lambda db: db.upsert_user_memory(memory_of("u-m", user_id="u")),
}
CALLS = {**READS, **WRITES}
#: Methods that do not go to the store, or only to say good-bye.
LOCAL = {"__init__", "clear_cache", "close", "from_dict", "to_dict", "get_latest_configs"}
#: The error policy of Agno's contract: what answers, and logs, instead of raising. AgentOS and the exporters of traces
#: rely on it. Nothing is written back on the ground of such an answer.
SILENT: dict[str, Any] = {
    "acquire_sweep": False,
    "cancel_job": False,
    "cleanup_jobs": 0,
    "complete_job": False,
    "count_queued_jobs": 0,
    "create_span": None,
    "create_spans": None,
    "delete_approval": False,
    "delete_auth_token": False,
    "delete_learning": False,
    "delete_schedule": False,
    "delete_service_account": False,
    "get_approval": None,
    "get_auth_token": None,
    "get_job": None,
    "get_learning": None,
    "get_learnings": [],
    "get_pending_approval_count": 0,
    "get_schedule": None,
    "get_schedule_by_name": None,
    "get_schedule_run": None,
    "get_schedule_runs": ([], 0),
    "get_schedules": ([], 0),
    "get_service_account": None,
    "get_service_account_by_name": None,
    "get_service_accounts": ([], 0),
    "get_span": None,
    "get_span_stats": ([], 0),
    "get_spans": [],
    "get_trace": None,
    "get_trace_stats": ([], 0),
    "get_traces": ([], 0),
    "heartbeat_jobs": 0,
    "list_jobs": ([], 0),
    "queue_stats": {"counts": {}, "oldest_queued_age_seconds": None},
    "release_schedule": False,
    "requeue_job": False,
    "retry_or_fail_job": None,
    "settle_paused_job": False,
    "settle_swept_job": False,
    "update_approval": None,
    "update_approval_run_status": 0,
    "update_schedule": None,
    "update_schedule_run": None,
    "update_service_account": None,
    "upsert_auth_token": None,
    "upsert_learning": None,
    "upsert_trace": None,
}
#: What the contract has answer None or nothing, and Agno's own classes do: here it raises, for "no work" would have a
#: worker go idle while there is some.
RAISING = {"claim_due_schedule", "claim_job", "sweep_exhausted_jobs"}
#: What changes a company, which takes commits of several documents: on a server without them there is none
#: (`test_faults_company` has what it says).
WHOLE = {
    *("add_product_routine", "complete_task_run", "start_task_run", "transition_project", "transition_task"),
    *(
        f"{verb}_{thing}"
        for verb in ("create", "update", "delete", "restore")
        for thing in ("product", "project", "source", "task")
    ),
}
#: What Agno's async class does not have, or refuses: components, compactions, the OAuth server's records.
SYNC_ONLY = {
    name for name in CALLS if "mcp_oauth" in name or "compaction" in name or "component" in name or "config" in name
} | {"get_dependents", "get_links", "set_current_version"}
#: What goes on with the rest when something fails, and reports all that failed.
REPORTING = {"purge_user", "sweep"}
#: Of one operation of the driver's against a store that does not answer: attempts, and seconds between them.
ATTEMPTS, WAITED = 5, 4.25
#: Methods that go on after an operation that failed, and with how many: `purge_user` with each kind of record, `sweep`
#: with what is no session; metrics are read although they could not be brought up to date. The others ask for several
#: things at once: a user's contents and the shared ones, what a session has and whether it lives, jobs that wait and
#: jobs whose worker is lost.
OPERATIONS = {
    "authz_name_is_role": 2,
    "claim_due_schedule": 2,
    "claim_job": 2,
    "count_authz_users_by_status": 2,
    "ensure_jobs_table": 2,
    "get_knowledge_contents": 2,
    "get_metrics": 2,
    "get_tool_results_for_session": 2,
    "list_authz_roles": 2,
    "purge_user": 23,
    "queue_stats": 6,
    "sweep": 2,
}
LOSSES, LOST_WAITED = 40, 17.7  # of one transaction against other writers; seconds between them, at most
#: What takes more than one transaction: an insert, which is tried before anything is read; each record of a user's.
MOST_CONFLICTS = {"insert_session_if_absent": 1.1, "purge_user": 18}
#: What says nothing where it lost: a session that somebody else is counting is left to him, or to the next count; a
#: schedule to the worker that was faster; a job that ended to whoever cleans up as well.
LEFT_TO_OTHERS: dict[str, Any] = {"calculate_metrics": None, "claim_due_schedule": None, "cleanup_jobs": 0}
WHEN_LOST = {**SILENT, **LEFT_TO_OTHERS}
UNSETTLED = {"histories", "transcript_entries"}  # kinds whose records alone tell nothing
PARTITIONS = 5  # of an index that a driver has divided: an operation reads as many, at once where it can
DIVIDED = ("dynamo", "firestore")


async def prepared(db: Any) -> None:
    """A record of u's in every domain, and a session of each type."""
    await everything_of(db, "u")
    await db.upsert_sessions(
        [
            TeamSession(session_id="u-team", team_id="t1", user_id="u"),
            WorkflowSession(session_id="u-flow", workflow_id="w1", user_id="u"),
        ]
    )
    await append(db, "said", session="u-s0")
    await db.upsert_tool_result(result_of("u-o", "u-s0"))
    await db.update_schedule("u-c", next_run_at=1)
    await db.update_schedule_run("u-cr", completed_at=1)
    await _jobs(db)
    await _access(db)
    if not db.is_async:
        await _of_sync_classes(db)
    if db.raw._engine.driver.atomic:
        await _company(db)


async def _jobs(db: Any) -> None:
    """A job in each state that a method asks for, each named as its state."""
    for name, attempts, ended in (
        ("running", 2, ""),
        ("exhausted", 1, ""),
        ("paused", 2, "paused"),
        ("failed", 1, "failed"),
    ):
        await enqueue(db, name, session_id=name, max_attempts=attempts)
        assert (await db.claim_job("w"))["id"] == name
        assert not ended or await db.complete_job(name, "w", 1, ended)
    await enqueue(db, "queued", turn=True)


async def _access(db: Any) -> None:
    """A role of u's, and what is known of both."""
    await db.set_authz_role_policies("role", [("agents", "run", "allow")])
    await db.assign_authz_role("u", "role")
    await db.upsert_authz_role_meta("role", {"name": "x", "is_default": False, "created_at": NOW, "updated_at": NOW})
    await db.upsert_authz_user("u", user_of())
    await db.record_authz_audit_event(event_of("e"))


async def _of_sync_classes(db: Any) -> None:
    """Compactions, components and the OAuth server's records: Agno's async class has no such methods."""
    await db.upsert_compaction(compaction("u-k", "u-s0"))
    await create(db, "part")
    await create(db, "whole", link("part"))
    await db.upsert_config("whole", {"n": 1})
    await db.upsert_config("whole", {"n": 1}, stage="published")
    await db.set_current_version("whole", 1)
    await create(db, "archived")
    await db.delete_component("archived")
    await client(db, "client")
    await transaction(db, "transaction", NOW + 10)
    await code(db, "code", NOW + 10)
    await refresh(db, "refresh", NOW + 10)
    await db.insert_mcp_oauth_key(kid="key", secret="s", created_at=NOW)


async def _company(db: Any) -> None:
    """A product with a task in each state that a method asks for; and of each kind something that is archived."""
    for id in ("p1", "p2", "p9"):
        await product(db, id)
    await source(db)
    await project(db)
    await task(db, project_id="j1")
    await task(db, "t2", status="ready", **EXECUTOR)
    await task(db, "t3", status="in_progress", job_id=task_run_id("t3", 1), **EXECUTOR)
    await source(db, "c9", reference="/other")
    await project(db, "j9")
    await task(db, "t9")
    assert await db.delete_source("c9") and await db.delete_project("j9") and await db.delete_task("t9")
    assert await db.delete_product("p9")


async def all_of(walk: Any) -> list[Any]:
    return await listed(await walk)


async def stored(db: Any) -> dict[Any, Any]:
    """Every record, but the heads of histories: a revision that was taken for a run in vain stays taken; and the
    entries of transcripts: those that a head holds are stored by the next append, be it in vain."""
    return {key: record for key, record in (await contents(db)).items() if key[0] not in UNSETTLED}


def decision_of(event_id: str) -> dict[str, Any]:
    return {"event_id": event_id, "created_at": NOW, "action": "run"}


def served(cls: type[Any]) -> set[str]:
    """The public methods that go to the store."""
    return surface.methods(cls).keys() - set(surface.unserved(cls)) - LOCAL


def calls(db: Any, table: dict[str, Call]) -> dict[str, Call]:
    """Those of these methods that a database of this class has, on a server of its kind."""
    refused = set() if db.raw._engine.driver.atomic else WHOLE
    return {name: call for name, call in table.items() if name in served(type(db.raw)) - refused}


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@CELLS
async def test_the_tables_name_every_method(db: Any) -> None:
    assert READS.keys() & WRITES.keys() == set()
    assert served(type(db.raw)) == CALLS.keys() - (SYNC_ONLY if db.is_async else set())
    assert SILENT.keys() | REPORTING | RAISING | WHOLE | SYNC_ONLY <= CALLS.keys()
    assert SILENT.keys() & RAISING == set()


@CELLS
@pytest.mark.parametrize("kind", ["timed out", "throttled"])
async def test_a_store_that_does_not_answer_is_told_by_every_method_in_bounded_time(
    db: Any, another: Callable[[], Any], kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await prepared(db)
    warm, cold = db, another()
    await warm.get_session("u-s0")
    store = db.raw._engine.driver.store
    for handle in (warm, cold):
        patience = Patience(handle.io, monkeypatch)
        for name, call in calls(handle, CALLS).items():
            if store == "memory" and name in ("ensure_jobs_table", "table_exists"):
                continue  # known without a call
            down = Down(store, kind)
            handle.io.hooks.append(down)
            patience.seconds = 0
            caplog.clear()
            if name in SILENT:
                assert await call(handle) == SILENT[name], name
                assert told(caplog), f"{name} said nothing"
            elif name in REPORTING:
                report = await call(handle)
                assert not report.complete
                assert all(isinstance(failure.error, StoreUnavailableError) for failure in report.failures)
            else:
                with pytest.raises(StoreUnavailableError) as caught:
                    await call(handle)
                assert caught.value.operation and caught.value.address, name
            operations = OPERATIONS.get(name, 1)
            assert 1 <= down.count <= operations * ATTEMPTS * (PARTITIONS if store in DIVIDED else 1), name
            assert patience.seconds <= operations * WAITED + 0.01, name
            handle.io.hooks.clear()
    # None of it was done, and the handles are as good as new.
    assert [run.run_id for run in (await warm.get_session("u-s0")).runs] == ["u-r00"]


@CELLS
async def test_a_read_whose_later_calls_fail_is_not_answered_in_part(
    db: Any, another: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await prepared(db)
    store, struck, reader = db.raw._engine.driver.store, 0, another()
    Patience(reader.io, monkeypatch)
    for name, call in calls(reader, READS).items():
        for since in range(2, 40):
            await reader.clear_cache()
            down = Down(store, "throttled", since=since)
            reader.io.hooks.append(down)
            caplog.clear()
            try:
                answer = await call(reader)
            except StoreUnavailableError:
                assert down.struck and name not in SILENT
            else:
                assert not down.struck or (answer == SILENT[name] and told(caplog)), f"{name} from call {since} on"
            reader.io.hooks.clear()
            struck += down.struck
            if not down.struck:
                break
        else:
            raise AssertionError(f"{name} makes more than 40 calls")
    assert struck > 10


class Losing:
    """A `commit` of a driver's that somebody else always comes before."""

    count = 0

    async def __call__(self, writes: Any, token: str) -> Any:
        self.count += 1
        raise Conflict([write.ref for write in writes])


@IN_PROCESS
async def test_a_writer_that_always_loses_gives_up_in_bounded_time(
    cell: Any, runner: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gave_up = 0
    with cell.storage() as model:
        await prepared(Handle(cell.open(model)))
        data = cell.server.store(model)
    for name, call in WRITES.items():
        with cell.storage() as storage:
            cell.server.fill(storage, data)
            db = Handle(cell.open(storage))
            if name not in calls(db, WRITES):
                continue
            before = await stored(db)
            patience, losing = Patience(db.io, monkeypatch), Losing()
            monkeypatch.setattr(db.raw._engine.driver, "commit", losing)
            caplog.clear()
            try:
                answer = await call(db)
            except ContentionError as error:
                assert error.attempts == LOSSES, name
                assert name not in SILENT and await stored(db) == before, name
            else:
                if name in REPORTING:
                    assert answer.complete is (losing.count == 0), name
                    assert all(isinstance(failure.error, ContentionError) for failure in answer.failures)
                elif losing.count:  # else it asks for no conditions, and was done
                    assert answer == WHEN_LOST[name], name
                    assert told(caplog) or name in LEFT_TO_OTHERS, name
            gave_up += losing.count >= LOSSES
            assert losing.count <= LOSSES * MOST_CONFLICTS.get(name, 1), name
            assert patience.seconds <= LOST_WAITED * MOST_CONFLICTS.get(name, 1), name
    assert gave_up > 80

"""Ownership: no method by which a user could reach another's data is left out of the tables of strangers' attempts, and
what a refusal tells."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from agno_docstores import OwnershipError
from agno_docstores.conformance import ownership
from agno_docstores.conformance.ownership import OWN, OWNER, STRANGER, conversations
from agno_docstores.conformance.sessions import run_of
from agno_docstores.facade import AsyncDocstore, Docstore
from tests import surface

TABLES: tuple[ownership.Attempt, ...] = (
    *ownership.READS,
    *ownership.OUR_READS,
    *ownership.SESSIONS,
    *ownership.RUNS,
    *ownership.OUR_RUNS,
    *ownership.OUR_SESSIONS,
    *ownership.MEMORIES,
    *ownership.KNOWLEDGE_AND_EVALS,
    *ownership.LEARNINGS,
    *ownership.SCHEDULES,
    *ownership.MACHINES,
    *ownership.JOBS,
    *ownership.COMPANIES,
    *ownership.ARCHIVED,
    *ownership.COMPONENTS,
    *ownership.OF_SESSIONS,
    *ownership.COMPACTIONS,
)

_NO_OWNER = "has no parameter for an owner; callers check (Agno reads the run first, contract 1.3)"
_TRACING = "tracing names no caller: ids are drawn by the exporter, the first user stays (contract 1.8)"
_LEARNING = "has no parameter for a user; AgentOS reads the row and checks it first (contract 1.9)"
_SCHEDULER = "is the scheduler's, which works for all owners (contract 1.10)"
_APPROVAL = "has no parameter for a user; AgentOS reads the row and checks it first (contract 1.11)"
_ADMINISTRATION = "names no record of a user: it is the operator's"
_SESSION = "has no parameter for a user; Agno asks for what is of the session at hand (contracts 1.12 and 1.13)"
_TRANSCRIPT = "is addressed by the agent's own session, and has no parameter for a user (contract 1.20)"
_VERSION = "has no parameter for a user; AgentOS reads the component as the user first (contract 1.14)"
_ACCOUNT = "authenticates, or has no parameter for a user: AgentOS reads the account as the user first (contract 1.16)"
_SECRET = "is the authorization server's: addressed by an id or hash of what only its holder has (contract 1.17)"
_ACCESS = "is the administration of access: a user in it is whom it is about, not who calls (contract 1.18)"
_COMPANY = "has no parameter for whose it has to be; callers read the product or project first (contract 1.19)"
_RESERVATION = "is the worker's: fenced by the history that the job was submitted with (contract 1.19)"
_WORKER = "is the worker's, which works for all owners, or fenced by its lock (contract 1.21)"
_JOB = (
    "has no parameter for a user; AgentOS checks the run first, and keeps the queue to administrators (contract 1.21)"
)
#: The methods with parameters that no stranger's attempt is made of, and why that is right.
EXEMPT = {
    "get_run": _NO_OWNER,
    "delete_run": _NO_OWNER,
    "delete_runs": _NO_OWNER,
    "get_trace": _TRACING,
    "get_span": _TRACING,
    "get_spans": _TRACING,
    "get_span_stats": "has no filter for a user; names and durations by kind of span (contract 1.8)",
    "upsert_trace": _TRACING,
    "create_span": _TRACING,
    "create_spans": _TRACING,
    "get_learning_by_id": _LEARNING,
    "update_learning": _LEARNING,
    "delete_learning": _LEARNING,
    "update_eval_run_user_id": "sets the owner, whoever it is, as AgentOS does after a run (contract 1.7)",
    "delete_eval_run": "takes an id alone; AgentOS calls delete_eval_runs with the user (contract 1.7)",
    "claim_due_schedule": _SCHEDULER,
    "release_schedule": _SCHEDULER,
    "stamp_schedule_provenance": _SCHEDULER,
    "disable_schedules_for_target": _SCHEDULER,
    "update_schedule_run": _SCHEDULER,
    "get_latest_schedule_runs": _SCHEDULER,
    "delete_schedule_runs": _SCHEDULER,
    "get_approval": _APPROVAL,
    "update_approval": _APPROVAL,
    "delete_approval": _APPROVAL,
    "update_approval_run_status": _APPROVAL,
    "purge_user": "removes what is that user's: test_a_purge_of_a_stranger_takes_only_his_own",
    "get_latest_schema_version": _ADMINISTRATION,
    "upsert_schema_version": _ADMINISTRATION,
    "table_exists": _ADMINISTRATION,
    "drop": _ADMINISTRATION,
    "sweep": _ADMINISTRATION,
    "from_dict": "makes a store",
    "get_tool_result": _SESSION,
    "get_tool_results_for_session": _SESSION,
    "delete_tool_results": _SESSION,
    "get_expired_tool_results": _SESSION,
    "get_compaction": _SESSION,
    "delete_compactions_for_session": _SESSION,
    "append_transcript_entries": _TRANSCRIPT,
    "get_transcript_entries": _TRANSCRIPT,
    "list_transcript_sessions": _TRANSCRIPT,
    "list_transcript_subpaths": _TRANSCRIPT,
    "delete_transcript": _TRANSCRIPT,
    "get_config": _VERSION,
    "get_current_config": _VERSION,
    "get_latest_config": _VERSION,
    "get_latest_configs": _VERSION,
    "list_configs": _VERSION,
    "get_links": _VERSION,
    "load_component_graph": _VERSION,
    "get_service_account_by_token_hash": _ACCOUNT,
    "get_service_account_by_name": _ACCOUNT,
    "update_service_account": _ACCOUNT,
    "delete_service_account": _ACCOUNT,
    "get_mcp_oauth_client": _SECRET,
    "create_mcp_oauth_client": _SECRET,
    "mark_mcp_oauth_client_consumed": _SECRET,
    "store_mcp_oauth_transaction": _SECRET,
    "get_mcp_oauth_transaction": _SECRET,
    "consume_mcp_oauth_transaction": _SECRET,
    "store_mcp_oauth_code": _SECRET,
    "get_mcp_oauth_code": _SECRET,
    "delete_mcp_oauth_code": _SECRET,
    "store_mcp_oauth_refresh": _SECRET,
    "get_mcp_oauth_refresh": _SECRET,
    "delete_mcp_oauth_refresh": _SECRET,
    "delete_mcp_oauth_refresh_family": _SECRET,
    "insert_mcp_oauth_key": _SECRET,
    "get_authz_policies": _ACCESS,
    "get_authz_role_policies": _ACCESS,
    "set_authz_role_policies": _ACCESS,
    "upsert_authz_policy": _ACCESS,
    "delete_authz_policy": _ACCESS,
    "get_authz_direct_roles": _ACCESS,
    "get_authz_direct_roles_many": _ACCESS,
    "list_authz_role_subjects": _ACCESS,
    "authz_name_is_role": _ACCESS,
    "assign_authz_role": _ACCESS,
    "unassign_authz_role": _ACCESS,
    "replace_authz_subject_roles": _ACCESS,
    "delete_authz_role": _ACCESS,
    "get_authz_role_meta": _ACCESS,
    "upsert_authz_role_meta": _ACCESS,
    "delete_authz_role_meta": _ACCESS,
    "get_authz_user": _ACCESS,
    "list_authz_users": _ACCESS,
    "count_authz_users": _ACCESS,
    "list_authz_user_ids": _ACCESS,
    "count_authz_users_by_day": _ACCESS,
    "upsert_authz_user": _ACCESS,
    "set_authz_user_disabled": _ACCESS,
    "delete_authz_user": _ACCESS,
    "is_authz_user_disabled": _ACCESS,
    "record_authz_audit_event": _ACCESS,
    "record_authz_decision": _ACCESS,
    "read_authz_audit_events": _ACCESS,
    "count_authz_audit_events": _ACCESS,
    "add_product_routine": _COMPANY,
    "get_product_counts": _COMPANY,
    "get_project_counts": _COMPANY,
    "start_task_run": _RESERVATION,
    "complete_task_run": _RESERVATION,
    "claim_job": _WORKER,
    "heartbeat_jobs": _WORKER,
    "complete_job": _WORKER,
    "retry_or_fail_job": _WORKER,
    "sweep_exhausted_jobs": _WORKER,
    "acquire_sweep": _WORKER,
    "settle_swept_job": _WORKER,
    "settle_paused_job": _WORKER,
    "cleanup_jobs": _WORKER,
    "session_blocker": _WORKER,
    "get_job": _JOB,
    "cancel_job": _JOB,
    "continue_job": _JOB,
    "requeue_job": _JOB,
}


def with_parameters() -> set[str]:
    """The public methods that are our own and take more than themselves."""
    found = set()
    for facade, base in ((Docstore, surface.BASES[0]), (AsyncDocstore, surface.BASES[1])):
        for name, method in surface.methods(facade).items():
            own = getattr(base, name, None) is not getattr(facade, name)
            if own and name != "__init__" and set(inspect.signature(method).parameters) - {"self"}:
                found.add(name)
    return found


def test_every_method_is_tried_by_a_stranger_or_exempt_with_a_reason() -> None:
    tried = {attempt.method for attempt in TABLES}
    assert not tried & EXEMPT.keys()
    assert with_parameters() == tried | EXEMPT.keys()


def test_a_method_that_takes_a_user_is_tried_as_one() -> None:
    """Nor does an exemption hide a method by which a user could be told from another; a user of these is not the
    caller, but whom it is about."""
    about = {"purge_user", "update_eval_run_user_id", "start_task_run"}
    about |= {name for name, reason in EXEMPT.items() if reason is _ACCESS}
    for name in with_parameters() & EXEMPT.keys() - about:
        assert "user_id" not in inspect.signature(getattr(Docstore, name)).parameters, name


async def test_a_refusal_names_what_was_asked_for_and_nothing_else(db: Any) -> None:
    await conversations(db)
    refused = []
    for run_id, session_id in (("new", "s1"), ("r1", "s1"), ("r3", OWN)):
        for write in (
            lambda: db.upsert_run(run_of(run_id), session_id, STRANGER),  # noqa: B023 - called at once
            lambda: db.append_run_to_session_if_absent(session_id, {"run_id": run_id}, STRANGER),  # noqa: B023
        ):
            with pytest.raises(OwnershipError) as caught:
                await write()
            assert OWNER not in str(caught.value) and "s2" not in str(caught.value)
            refused.append((caught.value.kind, caught.value.id, caught.value.user_id))
    session, run = ("session", "s1", STRANGER), ("run", "r3", STRANGER)
    assert refused == [session] * 4 + [run] * 2


async def test_the_id_of_anothers_deleted_run_is_not_to_be_had(db: Any, another: Callable[[], Any]) -> None:
    """It is what tells the owner's other processes of the deletion."""
    await conversations(db)
    other = another()
    assert [run.run_id for run in (await other.get_session("s2")).runs] == ["r3"]
    await db.delete_run("r3")
    with pytest.raises(OwnershipError):
        await db.upsert_run(run_of("r3"), OWN, STRANGER)
    assert (await other.get_session("s2")).runs == []
    await db.delete_session("s2")
    await db.upsert_run(run_of("r3"), OWN, STRANGER)
    assert [run.run_id for run in (await other.get_session(OWN)).runs] == ["r3"]

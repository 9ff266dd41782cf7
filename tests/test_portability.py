"""The suite outside this repository's tests: on a store that is not ours, with nothing but its one fixture.

Agno's own `MongoDb` is the subject. What it fails is what this project is for; that it passes the rest shows that the
suite asks for the contract and not for our internals.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CONFTEST = """
import os, uuid
import pymongo, pytest
from agno.db.mongo import MongoDb

pytest_plugins = ["agno_docstores.conformance.plugin"]

@pytest.fixture
def open_another():
    name = "t" + uuid.uuid4().hex[:10]
    # It closes the client that it was given, so each handle gets one.
    yield lambda: MongoDb(db_client=pymongo.MongoClient(os.environ["MONGO_URL"]), db_name=name)
    with pymongo.MongoClient(os.environ["MONGO_URL"]) as client:
        client.drop_database(name)

@pytest.fixture
def docstore(open_another):
    return open_another()
"""
MODULES = ("sessions", "runs", "history", "framework", "values")

#: Failures that a user of that adapter meets; each a test of the suite.
EXPECTED_FAILURES = {
    "test_a_stranger_cannot_write_into_a_session",
    "test_a_stranger_cannot_take_over_a_run_by_its_id",
    "test_a_conversation_of_another_user_is_not_seen",
    "test_upsert_sessions_checks_the_owner_of_each",
    "test_two_turns_with_one_index_get_two_places",
    "test_a_late_write_does_not_reopen_an_ended_run",
    "test_cancelling_a_pending_run",
    "test_runs_limit_counts_context_runs_oldest_first",
    "test_a_value_comes_back_as_json_reads_it",
    "test_a_value_comes_back_alone",
    "test_a_run_of_no_session_is_refused",
}
EXPECTED_PASSES = {
    "test_an_agent_session_comes_back_whole",
    "test_an_agent_remembers_its_conversation",
    "test_a_workflow_keeps_its_runs",
    "test_a_stranger_reads_nothing",
    "test_delete_takes_the_runs_along",
}


@pytest.mark.cells("mongo-sync-secantus")
def test_the_suite_runs_on_agnos_own_adapter(cell: Any, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    for module in MODULES:
        (tmp_path / f"test_{module}.py").write_text(f"from agno_docstores.conformance.{module} import *\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--tb=no", "-rA", "--rootdir", "."]
    # A generated value that fails is looked for once; how many there are is nothing to this test.
    environment = {**os.environ, "MONGO_URL": cell.server.start(), "AGNO_DOCSTORES_VALUES": "20"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    outcomes = {
        match[2]: match[1] for match in re.finditer(r"^(PASSED|FAILED|ERROR) \S+::(\w+(?:\[.*?\])?)", done.stdout, re.M)
    }
    failed = {name.partition("[")[0] for name, outcome in outcomes.items() if outcome == "FAILED"}
    passed = {name.partition("[")[0] for name, outcome in outcomes.items() if outcome == "PASSED"}
    assert not [name for name, outcome in outcomes.items() if outcome == "ERROR"], done.stdout[-3000:]
    assert done.returncode == 1
    assert failed >= EXPECTED_FAILURES, f"passed meanwhile: {EXPECTED_FAILURES - failed}"
    assert passed >= EXPECTED_PASSES, f"failed: {EXPECTED_PASSES - passed}"
    print(f"{len(outcomes)} tests: {sum(o == 'FAILED' for o in outcomes.values())} fail")

"""The README's support matrix, written from what the suite ran.

The plugin notes, of every report, which part of the suite it belongs to, on which store and in which mode. A run of the
whole matrix that finds the README saying otherwise fails; `make test ARGS=--write-support` brings it up to date.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.surface import served

README = Path(__file__).parent.parent / "README.md"
BEGIN = "<!-- support matrix: written by `make test ARGS=--write-support` from what the suite ran -->\n"
END = "<!-- end of the support matrix -->\n"

PARTS = {
    "sessions": "sessions",
    "runs": "runs, run primitives",
    "identity": "identity, schema versions",
    "memories": "user memories",
    "metrics": "metrics",
    "knowledge": "knowledge contents",
    "evals": "eval runs",
    "components": "components, configs, links",
    "mcp_oauth": "MCP OAuth",
    "traces": "traces, spans",
    "learnings": "learnings",
    "schedules": "schedules, their runs",
    "approvals": "approvals",
    "service_accounts": "service accounts",
    "auth_tokens": "tokens of tools",
    "authz": "roles, policies, user directory, audit",
    "company": "products, sources, projects, tasks",
    "transcripts": "transcripts of external agents",
    "compactions": "compactions (sync classes)",
    "tool_results": "index of tool results",
    "state": "state updates, versions, conflicts",
    "summaries": "summaries",
    "lifetimes": "expiry, sweeps",
    "large": "values of megabytes",
    "values": "hostile values",
    "ids": "hostile ids",
    "messages": "messages, tool calls, exchanges of a history",
    "cache": "cache of histories",
    "management": "walks, counts, removal of a user",
    "jobs": "job queue",
    "history": "several handles on one storage",
    "concurrency": "50 writers at once",
    "framework": "Agent, Team, Workflow",
    "domains": "memory manager, knowledge, evals, tracing, learning stores",
    "agentos": "AgentOS over HTTP",
    "agentos_queue": "its durable queue over HTTP",
    "agentos_company": "its company over HTTP",
    "driver": "driver contract",
}
COLUMNS = [(store, mode) for store in ("memory", "mongo", "dynamo", "firestore") for mode in ("sync", "async")]
ORACLE = ("sqlite", "sync")
NAMES = {"memory": "memory", "mongo": "MongoDB", "dynamo": "DynamoDB", "firestore": "Firestore", "sqlite": "SqliteDb"}


def _classes() -> dict[tuple[str, str], type]:
    from agno_docstores.cli import plugins

    found: dict[tuple[str, str], type] = {}
    for name, plugin in plugins().items():
        found[name, "sync"], found[name, "async"] = plugin.sync, plugin.asynchronous
    return found


def render(outcomes: Mapping[tuple[str, str, str], set[str]]) -> str:
    """The table. `outcomes`: by part, store and mode, what its tests came to ("passed", "failed", "gap")."""
    columns = [*COLUMNS, ORACLE]
    lines = [
        "| | "
        + " | ".join(f"{NAMES[store]} {mode}" if store != "sqlite" else NAMES[store] for store, mode in columns)
        + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for part, title in PARTS.items():
        cells = []
        for store, mode in columns:
            seen = outcomes.get((part, store, mode), set())
            word = "differs" if store == "sqlite" else "with gaps"
            cells.append("-" if not seen else "FAILS" if "failed" in seen else word if "gap" in seen else "yes")
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    classes = _classes()
    counts = ["{} of {}".format(*served(classes[column])) for column in COLUMNS]
    lines.append("| methods of the contract served | " + " | ".join(counts) + " | the oracle |")
    return "\n".join(lines) + "\n"


class SupportReport:
    """The pytest plugin; in a run of several processes, of the controller only."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.outcomes: dict[tuple[str, str, str], set[str]] = {}
        self.complaint = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        cell = dict(report.user_properties).get("cell")
        module = report.nodeid.partition("::")[0].rpartition("test_conformance_")[2].removesuffix(".py")
        if not isinstance(cell, str) or module not in PARTS or (report.when != "call" and not report.failed):
            return
        store, mode = cell.split("-")[:2]
        outcome = "gap" if hasattr(report, "wasxfail") else report.outcome
        key = (module, store, "sync" if mode == "sync" else "async")
        self.outcomes.setdefault(key, set()).add(outcome)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        matrix = self.config.pluginmanager.get_plugin("matrix")
        if matrix is None or not matrix.whole or matrix.named or matrix.left_out:
            return
        text = README.read_text()
        start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
        table = "\n" + render(self.outcomes) + "\n"
        if text[start:end] == table:
            return
        if self.config.getoption("write_support"):
            README.write_text(text[:start] + table + text[end:])
            return
        self.complaint = "the README's support matrix is not what this run found: make test ARGS=--write-support"
        if session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.complaint:
            terminalreporter.write_line(self.complaint, red=True)

"""The matrix: every store, sync and async, on every server at hand; which of it runs, and what came of it.

A `Cell` is one way to reach one store. `select` decides which cells a run has to test, `Matrix` keeps the account: a
requested cell that cannot be reached is an error, a requested cell that ran nothing fails the run, a skipped test of
the matrix is a failure, and what is excused stands in `known_gaps`.
"""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from tests import known_gaps, surface
from tests.servers import (
    EMBEDDED,
    SERVICE,
    STRICT,
    DynamoDBLocal,
    DynamoService,
    EmbeddedFirestore,
    FirestoreService,
    GoogleFirestore,
    Memory,
    Mongomock,
    MongoService,
    Moto,
    MotoServer,
    Secantus,
    Server,
    Sqlite,
    Unreachable,
)

#: A handle of storage of that name at that address. What it makes for the handle, and the handle will not close, it
#: puts on the stack.
Make = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Cell:
    """A store in a mode on a server. `oracle`: not ours, but what we are compared with."""

    id: str
    store: str
    mode: str
    server: Server
    make: Make
    oracle: bool = False
    #: The classes of the handles that were opened.
    classes: set[type[Any]] = field(default_factory=set, repr=False)
    _stacks: dict[str, ExitStack] = field(default_factory=dict, repr=False)

    @property
    def tiers(self) -> frozenset[str]:
        return self.server.tiers

    @contextmanager
    def storage(self) -> Iterator[str]:
        """The name of new and empty storage, forgotten afterwards. Handles on it are to be closed before."""
        self.server.start()
        name = f"t{uuid.uuid4().hex[:12]}"
        with self.server.around(name), ExitStack() as stack:
            stack.callback(self.server.wipe, name)
            self._stacks[name] = stack
            try:
                yield name
            finally:
                del self._stacks[name]

    def open(self, storage: str, **options: Any) -> Any:
        """A new handle on storage that `storage` named. Of an async cell: to be called on the loop that will use it."""
        try:
            handle = self.make(self, storage, **options)
        except ImportError as error:
            raise Unreachable(f"{self.id}: {error}") from error
        self.classes.add(type(handle))
        return handle

    def later(self, storage: str, callback: Callable[[], Any]) -> None:
        """Have something done when the storage is given up."""
        self._stacks[storage].callback(callback)

    def __str__(self) -> str:
        return self.id


# --- Handles ----------------------------------------------------------------------------------------------------------


def _memory(cell: Cell, storage: str, **options: Any) -> Any:
    from agno_docstores import AsyncMemoryDocstore, MemoryDocstore

    assert isinstance(cell.server, Memory)
    kind = MemoryDocstore if cell.mode == "sync" else AsyncMemoryDocstore
    return kind(store=cell.server.store(storage), **options)


def _sqlite(cell: Cell, storage: str, **options: Any) -> Any:
    from agno.db.sqlite import AsyncSqliteDb, SqliteDb

    file = f"{cell.server.start()}/{storage}.db"
    return SqliteDb(db_file=file, **options) if cell.mode == "sync" else AsyncSqliteDb(db_file=file, **options)


def _mongo(cell: Cell, storage: str, **options: Any) -> Any:
    from agno_docstores_mongo import AsyncMongoDocstore, MongoDocstore

    kind = MongoDocstore if cell.mode == "sync" else AsyncMongoDocstore
    return kind(db_url=cell.server.start(), db_name=storage, **options)


def _mongomock(cell: Cell, storage: str, **options: Any) -> Any:
    from agno_docstores_mongo import MongoDocstore

    cell.server.start()
    assert isinstance(cell.server, Mongomock)
    handle = MongoDocstore(db_client=cell.server.client, db_name=storage, **options)
    # mongomock finds and modifies in two steps, between which another thread may do the same: one call at a time.
    invoke, turn = handle.io._invoke, cell.server.turn

    async def one_at_a_time(fn: Any, args: Any, kwargs: Any) -> Any:
        with turn:
            return await invoke(fn, args, kwargs)

    handle.io._invoke = one_at_a_time  # type: ignore[method-assign]
    return handle


def _motor(cell: Cell, storage: str, **options: Any) -> Any:
    from motor.motor_asyncio import AsyncIOMotorClient

    from agno_docstores_mongo import AsyncMongoDocstore

    client: Any = AsyncIOMotorClient(cell.server.start())
    cell.later(storage, client.close)
    return AsyncMongoDocstore(db_client=client, db_name=storage, **options)


def _at(cell: Cell) -> dict[str, Any]:
    """How to reach DynamoDB: at a local server, or, with the SDK's own credentials, in a region."""
    address = cell.server.start()
    if isinstance(cell.server, DynamoService):
        return {"region_name": address}
    keys = {"aws_access_key_id": "local", "aws_secret_access_key": "local"}
    endpoint = {} if isinstance(cell.server, Moto) else {"endpoint_url": address}
    return {**endpoint, "region_name": "us-east-1", **keys}


def _dynamo(cell: Cell, storage: str, **options: Any) -> Any:
    from agno_docstores_dynamo import AsyncDynamoDocstore, DynamoDocstore

    kind = DynamoDocstore if cell.mode == "sync" else AsyncDynamoDocstore
    return kind(**_at(cell), table_name=storage, **options)


def _dynamo_threads(cell: Cell, storage: str, **options: Any) -> Any:
    import boto3

    from agno_docstores_dynamo import AsyncDynamoDocstore

    client = boto3.client("dynamodb", **_at(cell))
    cell.later(storage, client.close)
    return AsyncDynamoDocstore(db_client=client, table_name=storage, **options)


def _firestore(cell: Cell, storage: str, **options: Any) -> Any:
    from agno_docstores_firestore import AsyncFirestoreDocstore, FirestoreDocstore

    kind = FirestoreDocstore if cell.mode == "sync" else AsyncFirestoreDocstore
    address = cell.server.start()
    if isinstance(cell.server, FirestoreService):
        return kind(project_id=address, collection_prefix=storage, **options)
    # The project tells storage apart, so that collections have the names that users see.
    return kind(project_id=storage, **options)


def _firestore_in_shards(cell: Cell, storage: str, **options: Any) -> Any:
    """A cell in which every listing is divided, as by an operator of many turns a second: the same tests hold."""
    return _firestore(cell, storage, **{"listing_shards": 3, "component_shards": 2, **options})


# --- The cells --------------------------------------------------------------------------------------------------------


def _cells() -> list[Cell]:
    memory, single = Memory(atomic=True), Memory(atomic=False)
    sqlite = Sqlite()
    secantus, standalone = Secantus(), Secantus(standalone=True)
    dynamodb, google, embedded = DynamoDBLocal(), GoogleFirestore(), EmbeddedFirestore()
    cells = [
        Cell("memory-sync", "memory", "sync", memory, _memory),
        Cell("memory-async", "memory", "async", memory, _memory),
        Cell("memory-sync-standalone", "memory", "sync", single, _memory),
        Cell("memory-async-standalone", "memory", "async", single, _memory),
        Cell("mongo-sync-secantus", "mongo", "sync", secantus, _mongo),
        Cell("mongo-async-secantus", "mongo", "async", secantus, _mongo),
        Cell("mongo-motor-secantus", "mongo", "async", secantus, _motor),
        Cell("mongo-sync-standalone", "mongo", "sync", standalone, _mongo),
        Cell("mongo-sync-mongomock", "mongo", "sync", Mongomock(), _mongomock),
        Cell("dynamo-sync-local", "dynamo", "sync", dynamodb, _dynamo),
        Cell("dynamo-async-local", "dynamo", "async", dynamodb, _dynamo),
        Cell("dynamo-threads-local", "dynamo", "async", dynamodb, _dynamo_threads),
        Cell("dynamo-sync-moto", "dynamo", "sync", Moto(), _dynamo),
        Cell("dynamo-async-moto", "dynamo", "async", MotoServer(), _dynamo),
        Cell("firestore-sync-google", "firestore", "sync", google, _firestore),
        Cell("firestore-async-google", "firestore", "async", google, _firestore),
        Cell("firestore-sync-embedded", "firestore", "sync", embedded, _firestore),
        Cell("firestore-async-embedded", "firestore", "async", embedded, _firestore_in_shards),
        Cell("sqlite-sync", "sqlite", "sync", sqlite, _sqlite, oracle=True),
        Cell("sqlite-async", "sqlite", "async", sqlite, _sqlite, oracle=True),
    ]
    services: list[tuple[type[Any], str, Make]] = [
        (MongoService, "mongo", _mongo),
        (DynamoService, "dynamo", _dynamo),
        (FirestoreService, "firestore", _firestore),
    ]
    for service, store, make in services:
        if service.named():
            server = service()
            cells += [Cell(f"{store}-{mode}-service", store, mode, server, make) for mode in ("sync", "async")]
    return cells


CELLS = _cells()

#: The cells of a domain: all but three, which show nothing of it that no other cell does: Motor, and of DynamoDB worker
#: threads, and moto behind HTTP. What a call is there, sessions, runs, histories and the driver contract tell.
OF_A_DOMAIN = (
    "memory-*", "mongo-sync-*", "mongo-async-*", "dynamo-sync-*", "dynamo-async-local", "dynamo-async-service",
    "firestore-*", "sqlite-*",
)  # fmt: skip
#: Those of what is ours, and the oracle has not.
OF_OURS = tuple(cell for cell in OF_A_DOMAIN if not cell.startswith("sqlite"))


def select(patterns: Sequence[str], tier: str, all_required: bool) -> tuple[list[Cell], dict[Cell, str]]:
    """The cells that a run has to test, and those that it leaves out with the reason.

    Named cells, those of a named tier, and the embedded ones are owed; so are all with `all_required`. A strict one
    else is tested where this machine can start its server. Raises `ValueError` for a pattern that names no cell.
    """
    for pattern in patterns:
        if not any(fnmatchcase(cell.id, pattern) for cell in CELLS):
            raise ValueError(f"no cell is named {pattern!r}; there are: {', '.join(cell.id for cell in CELLS)}")
    selected, left_out = [], {}
    for cell in CELLS:
        if patterns and not any(fnmatchcase(cell.id, pattern) for pattern in patterns):
            continue
        if tier != "all" and tier not in cell.tiers:
            continue
        owed = bool(patterns) or tier != "all" or all_required or cell.tiers != {STRICT}
        reason = None if owed else cell.server.why_not()
        if reason is None:
            selected.append(cell)
        else:
            left_out[cell] = reason
    return selected, left_out


# --- The account ------------------------------------------------------------------------------------------------------


def name_of(item: pytest.Item) -> tuple[str, str]:
    """`module::test[parameters]` without the cell, and `module::test`."""
    module = item.path.stem.removeprefix("test_").removeprefix("conformance_")
    callspec = getattr(item, "callspec", None)
    cell = cell_of(item)
    others = [part for part in (callspec._idlist if callspec else ()) if cell is None or part != cell.id]
    test = getattr(item, "originalname", None) or item.name
    parameters = f"[{'-'.join(others)}]" if others else ""
    return f"{module}::{test}{parameters}", f"{module}::{test}"


def _wants_cell(item: pytest.Item) -> bool:
    return "cell" in getattr(getattr(item, "callspec", None), "params", {})


def cell_of(item: pytest.Item) -> Cell | None:
    """The cell that a test runs on; None of a test outside the matrix."""
    callspec = getattr(item, "callspec", None)
    cell = callspec.params.get("cell") if callspec else None
    return cell if isinstance(cell, Cell) else None


def _cell_named(nodeid: str) -> str | None:
    """The id of the cell in the name of a test, as far as a name tells: the longest that fits."""
    parameters = f"-{nodeid.partition('[')[2].removesuffix(']')}-"
    return max((cell.id for cell in CELLS if f"-{cell.id}-" in parameters), key=len, default=None)


@dataclass
class Tally:
    """What came of one cell."""

    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def count(self, report: pytest.TestReport) -> None:
        self.seconds += report.duration
        if report.when == "call":
            self.outcomes["known gap" if hasattr(report, "wasxfail") else report.outcome] += 1
        elif report.failed:
            self.outcomes["error"] += 1

    @property
    def ran(self) -> int:
        """Tests whose body ran to an end, whichever."""
        return self.outcomes["passed"] + self.outcomes["failed"] + self.outcomes["known gap"]


class Matrix:
    """The pytest plugin that chooses, excuses and counts.

    Of a run in several processes (pytest-xdist), each worker chooses and excuses by itself, and the controller counts
    what their reports say. A cell stays in one worker, or two, so that it starts as few servers as can be.
    """

    def __init__(self, config: pytest.Config) -> None:
        patterns = [p.strip() for p in (config.getoption("cells") or "").split(",") if p.strip()]
        tier: str = config.getoption("tier")
        required = os.environ.get("AGNO_DOCSTORES_REQUIRE_STRICT", "") not in ("", "0")
        try:
            self.selected, self.left_out = select(patterns, tier, required)
        except ValueError as error:
            raise pytest.UsageError(str(error)) from None
        self.config = config
        self.named = bool(patterns) or tier != "all"
        # Whether the run is of everything, so that what is missing in it is missing indeed.
        narrowed = any(config.getoption(name, None) for name in ("keyword", "markexpr", "deselect", "ignore"))
        everything = {Path(config.invocation_params.dir, arg).resolve() for arg in config.args}
        self.whole = everything == {config.rootpath / "tests"} and not narrowed
        self.tallies: dict[str, Tally] = {cell.id: Tally() for cell in self.selected}
        self.used: set[tuple[str, str]] = set()
        self.served: set[tuple[str, int, int]] = set()
        self.complaints: set[str] = set()

    # --- Choosing ---

    def cells_for(self, metafunc: pytest.Metafunc) -> list[Cell]:
        """The selected cells that this test runs on: the oracle's only for a conformance test of a domain."""
        conformance = metafunc.function.__module__.startswith("agno_docstores.conformance.")
        domain = conformance and "driver" not in metafunc.fixturenames
        patterns = [p for mark in metafunc.definition.iter_markers("cells") for p in mark.args]
        return [
            cell
            for cell in self.selected
            if (domain or not cell.oracle) and (not patterns or any(fnmatchcase(cell.id, p) for p in patterns))
        ]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "cell" in metafunc.fixturenames:
            cells = self.cells_for(metafunc)
            # Without a cell there is nothing to run; the item is taken out below rather than counted as skipped.
            metafunc.parametrize("cell", cells or [None], ids=[cell.id for cell in cells] or ["none"])

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        without = {item for item in items if _wants_cell(item) and cell_of(item) is None}
        if without:
            config.hook.pytest_deselected(items=list(without))
            items[:] = [item for item in items if item not in without]
        for item in items:
            cell = cell_of(item)
            if cell is not None:
                item.user_properties.append(("cell", cell.id))
                self._excuse(item, cell)
        if self.whole and not self.named:
            self._check_gaps()

    def _excuse(self, item: pytest.Item, cell: Cell) -> None:
        gaps = known_gaps.DEVIATIONS if cell.oracle else known_gaps.GAPS
        for (cells, tests), reason in gaps.items():
            if fnmatchcase(cell.id, cells) and any(_matches(name, tests) for name in name_of(item)):
                self.used.add((cells, tests))
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))

    def _check_gaps(self) -> None:
        """Complain about entries that excuse nothing, unless they are of cells that this machine leaves out."""
        for entry in known_gaps.GAPS.keys() | known_gaps.DEVIATIONS.keys():
            if entry not in self.used and not any(fnmatchcase(cell.id, entry[0]) for cell in self.left_out):
                self.complaints.add(f"known gap {entry} matches no test")

    # --- Counting ---

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Green by skip is not green, and a known gap excuses the test, not what was set up for it."""
        report = yield
        if cell_of(item) is not None and report.skipped:
            excused = hasattr(report, "wasxfail")
            if not excused:
                report.longrepr = f"a test of the matrix must not skip; name it in known_gaps.py\n{report.longrepr}"
            elif report.when != "call" and call.excinfo is not None:
                del report.wasxfail
                report.longrepr = item.repr_failure(call.excinfo)
            if not excused or report.when != "call":
                report.outcome = "failed"
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        tally = self.tallies.get(str(dict(report.user_properties).get("cell")))
        if tally is not None:
            tally.count(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        classes = {cls for cell in self.selected for cls in cell.classes}
        self.served |= {(cls.__name__, *surface.served(cls)) for cls in classes}
        output = getattr(self.config, "workeroutput", None)
        if output is not None:  # in a worker: the controller judges
            output["matrix"] = {"served": sorted(self.served), "complaints": sorted(self.complaints)}
            return
        if not session.config.option.collectonly and not session.shouldfail:
            self._check_cells()
        if self.complaints and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over what a worker found out."""
        found = getattr(node, "workeroutput", {}).get("matrix", {"served": [], "complaints": []})
        self.served |= {(name, count, total) for name, count, total in found["served"]}
        self.complaints |= set(found["complaints"])

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        from xdist.scheduler import LoadScopeScheduling

        class ByCell(LoadScopeScheduling):
            def _split_scope(self, nodeid: str) -> str:
                cell, module = _cell_named(nodeid), nodeid.split("::")[0]
                if cell is None:
                    return module
                # The suite in one scope, what is ours alone in another: else the slowest cell would be the last to end.
                return cell if "test_conformance_" in module else f"{cell}, more"

        return ByCell(config, log)

    def _check_cells(self) -> None:
        """A cell that was asked for, by name or by running everything, has to have run something."""
        for cell_id, tally in self.tallies.items():
            if tally.ran == 0 and (self.whole or self.named or tally.outcomes):
                self.complaints.add(f"cell {cell_id} ran no test")

    def pytest_unconfigure(self) -> None:
        for server in {id(cell.server): cell.server for cell in CELLS}.values():
            server.stop()

    # --- Telling ---

    def pytest_report_header(self) -> list[str]:
        import agno_docstores

        lines = [
            f"under test: agno-docstores {agno_docstores.__version__}, {len(self.selected)} cells: "
            + " ".join(cell.id for cell in self.selected)
        ]
        return lines + [f"not run: {cell.id}: {reason}" for cell, reason in self.left_out.items()]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if any(tally.outcomes for tally in self.tallies.values()):
            terminalreporter.section("matrix")
            for line in self.table():
                terminalreporter.write_line(line)
        for complaint in sorted(self.complaints):
            terminalreporter.write_line(f"MATRIX FAILURE: {complaint}", red=True)

    def table(self) -> list[str]:
        """A line for each cell that ran, then for each that did not and why; then what the classes serve."""
        rows = [("cell", "server", "ran", "failed", "errors", "gaps", "seconds")]
        for cell in self.selected:
            tally = self.tallies[cell.id]
            counts = (tally.ran, tally.outcomes["failed"], tally.outcomes["error"], tally.outcomes["known gap"])
            if tally.outcomes or self.whole:
                server = f"{cell.server.name} {_version(cell.server)}"
                rows.append((cell.id, server, *map(str, counts), f"{tally.seconds:.1f}"))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "  ".join(
                value.ljust(width) if column < 2 else value.rjust(width)
                for column, (value, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        lines += [f"{cell.id}  not run: {reason}" for cell, reason in self.left_out.items()]
        counts_of: dict[tuple[int, int], list[str]] = {}
        for name, count, total in sorted(self.served):
            counts_of.setdefault((count, total), []).append(name)
        return lines + [
            f"methods served: {count} of {total} by {', '.join(names)}"
            for (count, total), names in sorted(counts_of.items())
        ]


def _matches(name: str, pattern: str) -> bool:
    """`fnmatch`, but a bracket of the pattern may be the bracket of a test's parameters."""
    return name == pattern or fnmatchcase(name, pattern) or fnmatchcase(name, pattern.replace("[", "[[]"))


def _version(server: Server) -> str:
    try:
        return server.version()
    except Exception as error:  # noqa: BLE001 - a table must not fail for want of a version
        return f"({type(error).__name__})"


__all__ = ["CELLS", "EMBEDDED", "SERVICE", "STRICT", "Cell", "Matrix", "cell_of", "name_of", "select"]

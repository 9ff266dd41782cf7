"""The servers of the test matrix: how each is started, found ready, emptied and stopped.

Every server listens on 127.0.0.1 where it lets itself be told so, on a port that was free, in a process group of its
own that is stopped by its id. One instance serves a whole pytest session; it is started by the first test that needs
it, and a failed start is remembered, so that a broken server costs one attempt and not one for each test.

Storage is told apart by a name that `wipe` forgets: a database, tables, a project.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import importlib.metadata
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DYNAMODB_LOCAL_VERSION = "3.1.0"

#: Needs nothing but this project's Python environment.
EMBEDDED = "embedded"
#: As strict as the store itself; may need Java or the Google Cloud CLI.
STRICT = "strict"
#: A real service, reached because an environment variable names it.
SERVICE = "service"


class Unreachable(Exception):
    """A store that was asked for and is not there. Always an error of the test, never a skip."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server(ABC):
    """One server; `start` and `stop` may be called any number of times."""

    name: str
    tiers: frozenset[str]
    #: The Python modules that it cannot do without.
    modules: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._address: str | None = None
        self._failure: Unreachable | None = None

    @abstractmethod
    def version(self) -> str: ...

    @abstractmethod
    def _start(self) -> str:
        """Start it, wait until it answers, return its address."""

    def _stop(self) -> None:  # noqa: B027 - in this process there may be nothing to do
        """Stop what `_start` started, half started or not at all."""

    def wipe(self, storage: str) -> None:  # noqa: B027
        """Forget all data of this storage name."""

    def around(self, storage: str) -> AbstractContextManager[None]:
        """What a test of this storage has to run in."""
        return contextlib.nullcontext()

    def _why_not(self) -> str | None:
        return None

    @functools.cached_property
    def _reason(self) -> str | None:
        missing = [module for module in self.modules if not _importable(module)]
        if missing:
            return f"Python packages are missing: {', '.join(missing)} (uv sync installs them)"
        return self._why_not()

    def why_not(self) -> str | None:
        """Why this machine cannot start the server, or None where it can, as far as one can tell before it is done."""
        return self._reason

    def start(self) -> str:
        """The address, of the server that is running afterwards. Raises `Unreachable`."""
        if self._failure is not None:
            raise self._failure
        if self._address is None:
            try:
                reason = self.why_not()
                if reason is not None:
                    raise Unreachable(f"{self.name}: {reason}")
                self._address = self._start()
            except Exception as error:
                self._stop()
                self._failure = error if isinstance(error, Unreachable) else Unreachable(f"{self.name}: {error!r}")
                raise self._failure from error
        return self._address

    def stop(self) -> None:
        if self._address is not None:
            self._address = None
            self._stop()


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


#: Of a server in Java that lives for minutes: code that is compiled quickly, not well, takes half of the CPU.
SHORT_LIVED = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")


class Process(Server):
    """A server that is a program. `command` and `ping` are what differs."""

    seconds = 60.0

    def __init__(self) -> None:
        super().__init__()
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._port = 0

    @abstractmethod
    def command(self, port: int, folder: Path) -> list[str]:
        """The command line; `folder` is empty and its own."""

    @abstractmethod
    def ping(self, address: str) -> None:
        """Raise unless the server at `address` answers."""

    def address_of(self, port: int) -> str:
        return f"http://127.0.0.1:{port}"

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def _start(self) -> str:
        # A port that is free now may be taken a moment later by another process; then the program ends at once.
        for attempt in range(3):
            port = free_port()
            if self._launch(port):
                return self.address_of(port)
            if attempt < 2:
                self._stop()
        raise Unreachable(f"{self.name} ended or did not answer within {self.seconds:.0f} s; it said: {self._said()}")

    def _launch(self, port: int) -> bool:
        self._folder = tempfile.TemporaryDirectory(prefix="docstores-", ignore_cleanup_errors=True)
        (Path(self._folder.name) / "data").mkdir()
        return self._run(port)

    def _run(self, port: int) -> bool:
        assert self._folder is not None
        folder, self._port = Path(self._folder.name), port
        with (folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(port, folder / "data"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment(),
                cwd=folder,
                start_new_session=True,
            )
        deadline = time.monotonic() + self.seconds
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                self.ping(self.address_of(port))
                return True
            except Exception:  # noqa: BLE001 - not ready yet, in whichever way the client says so
                time.sleep(0.05)
        return False

    def restart(self, how: signal.Signals) -> None:
        """End the program as an operator does, or as a crash; then start it again at its address, on what it has kept
        in its folder."""
        assert self._process is not None
        os.killpg(self._process.pid, how)
        self._process.wait(30)
        if not self._run(self._port):
            raise Unreachable(f"{self.name} did not come back; it said: {self._said()}")

    def _said(self) -> str:
        if self._folder is None:
            return ""
        return (Path(self._folder.name) / "log").read_text(errors="replace")[-2000:]

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            # The group, not the process: some are a shell around a shell around Java.
            for one in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, one)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def _installed(distribution: str) -> str:
    return importlib.metadata.version(distribution)


# --- In this process --------------------------------------------------------------------------------------------------


class Memory(Server):
    """The memory store of the core. `atomic=False`: commits of one document only, as on a MongoDB standalone."""

    tiers = frozenset({EMBEDDED})

    def __init__(self, *, atomic: bool) -> None:
        super().__init__()
        self.name = "memory" if atomic else "memory, one document a commit"
        self._atomic = atomic
        self._stores: dict[str, Any] = {}

    def version(self) -> str:
        import agno_docstores

        return agno_docstores.__version__

    def _start(self) -> str:
        return "memory"

    def store(self, storage: str) -> Any:
        """The `MemoryStore` of that name."""
        from agno_docstores.memory import MemoryStore

        if storage not in self._stores:
            self._stores[storage] = MemoryStore(atomic=self._atomic)
        return self._stores[storage]

    def fill(self, storage: str, model: Any) -> None:
        """Give this storage the data of a store that was prepared, which takes longer."""
        store = self.store(storage)
        store.tables = set(model.tables)
        store.records = {space: dict(records) for space, records in model.records.items()}

    def wipe(self, storage: str) -> None:
        self._stores.pop(storage, None)


class Sqlite(Server):
    """The oracle: Agno's own SqliteDb, a file for each storage. The address is the folder of the files."""

    name = "SqliteDb of Agno"
    tiers = frozenset({EMBEDDED})
    modules = ("sqlalchemy", "aiosqlite")

    def __init__(self) -> None:
        super().__init__()
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def version(self) -> str:
        return _installed("agno")

    def _start(self) -> str:
        self._folder = tempfile.TemporaryDirectory(prefix="docstores-", ignore_cleanup_errors=True)
        return self._folder.name

    def _stop(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def wipe(self, storage: str) -> None:
        for file in Path(self.start()).glob(f"{storage}.*"):
            file.unlink()


class Mongomock(Server):
    """mongomock: one client that holds all data."""

    name = "mongomock"
    tiers = frozenset({EMBEDDED})
    modules = ("mongomock",)
    client: Any = None

    def __init__(self) -> None:
        super().__init__()
        #: Held by whoever calls it: it does in several steps what a server does in one.
        self.turn = threading.RLock()

    def version(self) -> str:
        return _installed("mongomock")

    def _start(self) -> str:
        import mongomock

        self.client = mongomock.MongoClient()
        return "mongomock"

    def wipe(self, storage: str) -> None:
        self.client.drop_database(storage)


class Moto(Server):
    """moto in this process. It intercepts botocore, so it is only on during a test of its own cell."""

    name = "moto"
    tiers = frozenset({EMBEDDED})
    modules = ("moto", "boto3")

    def version(self) -> str:
        return _installed("moto")

    def _start(self) -> str:
        return "moto"

    @contextlib.contextmanager
    def around(self, storage: str) -> Iterator[None]:
        from moto import mock_aws
        from moto.core.botocore_stubber import BotocoreStubber

        # moto's tables are plain dictionaries, which threads change under each other: one request at a time.
        answer, turn = BotocoreStubber.__call__, threading.RLock()

        def one_at_a_time(stubber: Any, event_name: str, request: Any, **kwargs: Any) -> Any:
            with turn:
                return answer(stubber, event_name, request, **kwargs)

        BotocoreStubber.__call__ = one_at_a_time
        try:
            with mock_aws():  # each begins with no tables
                yield
        finally:
            BotocoreStubber.__call__ = answer


class EmbeddedFirestore(Server):
    """Our own Firestore emulator."""

    name = "embedded Firestore emulator"
    tiers = frozenset({EMBEDDED})
    modules = ("agno_docstores_firestore.emulator",)

    def __init__(self) -> None:
        super().__init__()
        self._emulator: Any = None

    def version(self) -> str:
        return _own_version()

    def _start(self) -> str:
        from agno_docstores_firestore.emulator import FirestoreEmulator

        self._emulator = FirestoreEmulator()
        return str(self._emulator.start())

    def _stop(self) -> None:
        if self._emulator is not None:
            self._emulator.stop()
            self._emulator = None

    def around(self, storage: str) -> AbstractContextManager[None]:
        return _emulator_host(self.start())


def _own_version() -> str:
    import agno_docstores

    return agno_docstores.__version__


@contextlib.contextmanager
def _emulator_host(address: str) -> Iterator[None]:
    """Where the Firestore client looks, when it is made, for an emulator."""
    before = os.environ.get("FIRESTORE_EMULATOR_HOST")
    os.environ["FIRESTORE_EMULATOR_HOST"] = address
    try:
        yield
    finally:
        if before is None:
            del os.environ["FIRESTORE_EMULATOR_HOST"]
        else:
            os.environ["FIRESTORE_EMULATOR_HOST"] = before


# --- Programs ---------------------------------------------------------------------------------------------------------


class Secantus(Process):
    """SecantusDB: MongoDB's wire protocol with transactions (it reports a replica set of one), or as a standalone."""

    tiers = frozenset({EMBEDDED, STRICT})
    modules = ("secantus", "pymongo")

    def __init__(self, *, standalone: bool = False, durable: bool = False) -> None:
        """`durable`: a write is on disk when it is acknowledged, as MongoDB has it of one that a majority confirms;
        SecantusDB by itself loses the last some 50 ms when it is killed."""
        super().__init__()
        self.name = "SecantusDB, standalone" if standalone else "SecantusDB"
        self._standalone = standalone
        self._durable = durable
        self._client: Any = None

    def version(self) -> str:
        return _installed("secantusdb")

    def command(self, port: int, folder: Path) -> list[str]:
        program = str(Path(sys.executable).parent / "secantusd-py")
        arguments = ["--host", "127.0.0.1", "--port", str(port), "--storage-path", str(folder)]
        arguments += ["--standalone"] if self._standalone else []
        return [program, *arguments, *(["--sync-on-commit"] if self._durable else [])]

    def address_of(self, port: int) -> str:
        return f"mongodb://127.0.0.1:{port}"

    def ping(self, address: str) -> None:
        import pymongo

        if self._client is None:
            self._client = pymongo.MongoClient(address, serverSelectionTimeoutMS=500)
        self._client.admin.command("ping")

    def wipe(self, storage: str) -> None:
        self._client.drop_database(storage)

    def _stop(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
        super()._stop()


class Dynamo(Process):
    """A local server of the DynamoDB protocol; its data is ours alone, so `wipe` leaves no table at all."""

    _client: Any = None

    def _made(self, address: str) -> Any:
        if self._client is None:
            import boto3
            from botocore.config import Config

            self._client = boto3.client(
                "dynamodb",
                endpoint_url=address,
                region_name="us-east-1",
                aws_access_key_id="local",
                aws_secret_access_key="local",
                config=Config(connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 1}),
            )
        return self._client

    def ping(self, address: str) -> None:
        self._made(address).list_tables()

    def wipe(self, storage: str) -> None:
        for table in self._client.list_tables()["TableNames"]:
            self._client.delete_table(TableName=table)

    def _stop(self) -> None:
        self._client = None
        super()._stop()


class MotoServer(Dynamo):
    """moto over HTTP, for clients that moto cannot intercept.

    It answers one request at a time: its transactions put whole tables back when they fail, and would take along what
    another request has written meanwhile.
    """

    name = "moto_server"
    tiers = frozenset({EMBEDDED})
    modules = ("moto", "flask", "boto3")

    def version(self) -> str:
        return _installed("moto")

    def command(self, port: int, folder: Path) -> list[str]:
        program = (
            "from moto.server import *; app = DomainDispatcherApplication(create_backend_app); "
            f"run_simple('127.0.0.1', {port}, app, threaded=False, request_handler=MotoRequestHandler)"
        )
        return [sys.executable, "-c", program]


class DynamoDBLocal(Dynamo):
    """Amazon's DynamoDB Local. It cannot be told an interface and listens on all of them, without credentials, so it
    holds test data only and lives no longer than the session."""

    name = "DynamoDB Local"
    tiers = frozenset({STRICT})
    modules = ("boto3",)
    folder = ROOT / ".cache" / "dynamodb-local"

    def __init__(self, *, durable: bool = False) -> None:
        """`durable`: its data are in files, and are there again when it is restarted."""
        super().__init__()
        self._durable = durable

    def version(self) -> str:
        return DYNAMODB_LOCAL_VERSION

    def _why_not(self) -> str | None:
        if shutil.which("java") is None:
            return "java is not installed"
        try:
            self.fetch()
        except Unreachable as error:
            return str(error)
        return None

    def fetch(self) -> Path:
        """The folder of the jars, brought by Maven if they are not there. Safe when two processes do it at once."""
        wanted = self.folder / DYNAMODB_LOCAL_VERSION
        if wanted.is_dir():
            return wanted
        maven = shutil.which("mvn")
        if maven is None:
            raise Unreachable("mvn is not installed, which fetches it once")
        self.folder.mkdir(parents=True, exist_ok=True)
        # One at a time, as Maven's own repository wants it; renamed when complete, as an interrupted fetch wants it.
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if wanted.is_dir():
                return wanted
            with tempfile.TemporaryDirectory(dir=self.folder, ignore_cleanup_errors=True) as name:
                pom = Path(name) / "pom.xml"
                pom.write_text(_POM)
                jars = Path(name) / "jars"
                goal = ["dependency:copy-dependencies", f"-DoutputDirectory={jars}"]
                try:
                    done = subprocess.run(
                        [maven, "-q", "-B", "-f", str(pom), *goal], capture_output=True, text=True, timeout=300
                    )
                except subprocess.TimeoutExpired:
                    raise Unreachable("Maven did not fetch it within 300 s") from None
                if done.returncode != 0:
                    raise Unreachable(f"Maven could not fetch it: {(done.stdout + done.stderr).strip()[-600:]}")
                jars.rename(wanted)
        return wanted

    def command(self, port: int, folder: Path) -> list[str]:
        jars = self.fetch()
        return [
            "java",
            *SHORT_LIVED,
            "-Xmx1g",
            f"-Djava.library.path={jars}",
            "-cp",
            f"{jars}/*",
            "software.amazon.dynamodb.services.local.main.ServerRunner",
            *(("-dbPath", str(folder)) if self._durable else ("-inMemory",)),
            *("-sharedDb", "-disableTelemetry", "-port", str(port)),
        ]


_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>tests</groupId><artifactId>dynamodb-local</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies><dependency>
    <groupId>software.amazon.dynamodb</groupId><artifactId>DynamoDBLocal</artifactId>
    <version>{DYNAMODB_LOCAL_VERSION}</version>
  </dependency></dependencies>
</project>
"""


class GoogleFirestore(Process):
    """The Firestore emulator of the Google Cloud CLI. Storage is a project; every project exists, empty."""

    name = "Google's Firestore emulator"
    tiers = frozenset({STRICT})

    def version(self) -> str:
        return str(_gcloud_components().get("cloud-firestore-emulator", "unknown"))

    def _why_not(self) -> str | None:
        if shutil.which("gcloud") is None:
            return "gcloud is not installed"
        if shutil.which("java") is None:
            return "java is not installed"
        if "cloud-firestore-emulator" not in _gcloud_components():
            return "gcloud's component cloud-firestore-emulator is not installed"
        return None

    def command(self, port: int, folder: Path) -> list[str]:
        return ["gcloud", "emulators", "firestore", "start", f"--host-port=127.0.0.1:{port}"]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "CLOUDSDK_CORE_DISABLE_PROMPTS": "1", "JAVA_TOOL_OPTIONS": " ".join(SHORT_LIVED)}

    def address_of(self, port: int) -> str:
        return f"127.0.0.1:{port}"

    def ping(self, address: str) -> None:
        with urllib.request.urlopen(f"http://{address}/", timeout=2) as answer:
            answer.read()

    def around(self, storage: str) -> AbstractContextManager[None]:
        return _emulator_host(self.start())


@functools.cache
def _gcloud_components() -> dict[str, Any]:
    try:
        said = subprocess.run(["gcloud", "version", "--format=json"], capture_output=True, text=True, timeout=60)
        return dict(json.loads(said.stdout or "{}"))
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return {}


# --- Real services ----------------------------------------------------------------------------------------------------


class Service(Server):
    """A store that somebody else runs, named by an environment variable; it is in the matrix only where that is set."""

    tiers = frozenset({SERVICE})
    variable: str

    @classmethod
    def named(cls) -> str | None:
        """What the environment names, if it does."""
        return os.environ.get(cls.variable) or None

    def _start(self) -> str:
        return self.named() or ""

    def version(self) -> str:
        return f"as {self.variable} says"


class MongoService(Service):
    name = "MongoDB service"
    variable = "AGNO_DOCSTORES_MONGO_URL"

    def _start(self) -> str:
        import pymongo

        address = super()._start()
        self._client: Any = pymongo.MongoClient(address, serverSelectionTimeoutMS=10_000)
        self._client.admin.command("ping")
        return address

    def version(self) -> str:
        self.start()
        return str(self._client.admin.command("buildInfo")["version"])

    def wipe(self, storage: str) -> None:
        self._client.drop_database(storage)


class DynamoService(Service):
    """Amazon's, with the credentials that the SDK finds by itself."""

    name = "DynamoDB service"
    variable = "AGNO_DOCSTORES_DYNAMO_REGION"

    def _start(self) -> str:
        import boto3

        region = super()._start()
        self._client: Any = boto3.client("dynamodb", region_name=region)
        self._client.list_tables(Limit=1)
        return region

    def wipe(self, storage: str) -> None:
        for page in self._client.get_paginator("list_tables").paginate():
            for table in page["TableNames"]:
                if table.startswith(storage):
                    self._client.delete_table(TableName=table)


class FirestoreService(Service):
    """Google's, with the credentials that the SDK finds by itself. Storage is a prefix of collections."""

    name = "Firestore service"
    variable = "AGNO_DOCSTORES_FIRESTORE_PROJECT"

    def _start(self) -> str:
        from google.cloud import firestore

        project = super()._start()
        self._client: Any = firestore.Client(project=project)
        next(iter(self._client.collections()), None)
        return project

    def wipe(self, storage: str) -> None:
        for collection in self._client.collections():
            if collection.id.startswith(storage):
                self._client.recursive_delete(collection)

"""AgentOS over HTTP on a store, answering as it does on Agno's own SqliteDb.

The same AgentOS is built twice: on the database under test, and on a fresh `SqliteDb` (`AsyncSqliteDb` where that
database is an async one). Both get the same rows and the same requests, and status and JSON of every answer have to be
equal, once what no two servers can have in common is given names: ids that were made up, times that are now, measured
durations (`Side.plain`). Nothing else is overlooked; rows have fixed ids and times, so that little has to be.

Needs the fixture `open_another`, a function that opens one more handle and takes `session_table`, and `agno[os]`,
`httpx`, `sqlalchemy` and `aiosqlite` installed.
"""

from __future__ import annotations

import asyncio
import copy
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from types import CellType, FunctionType, MethodType
from typing import Any, Self

import httpx
import jwt
import pytest
from agno.agent import Agent
from agno.agents.claude.session_store import AgnoSessionStore
from agno.api.api import api as agno_api
from agno.db.base import AsyncBaseDb, BaseDb, ComponentType
from agno.db.schemas.evals import EvalRunRecord, EvalType
from agno.db.schemas.knowledge import KnowledgeRow
from agno.db.schemas.memory import UserMemory
from agno.db.sqlite import AsyncSqliteDb, SqliteDb
from agno.knowledge.document import Document
from agno.knowledge.knowledge import Knowledge
from agno.os import AgentOS
from agno.os.authz import Authorization
from agno.os.utils import flatten_routes
from agno.registry import Registry
from agno.session import AgentSession, TeamSession, WorkflowSession
from agno.session.summary import SessionSummary
from agno.team import Team
from agno.tools import tool
from agno.tracing.schemas import Span, Trace
from agno.vectordb.base import VectorDb
from agno.workflow import Step, Workflow

from agno_docstores.conformance.approvals import approval_of
from agno_docstores.conformance.plugin import Awaitable
from agno_docstores.conformance.schedules import execution_of, schedule_of
from agno_docstores.conformance.scripted import ScriptedModel
from agno_docstores.conformance.service_accounts import account_of
from agno_docstores.conformance.sessions import agent_session, run_of

SECRET = "a key of these tests, long enough for HS256 to take it"
#: When rows were created: long ago, so that it is never taken for now.
T0 = 1_700_000_000

# --- The comparison ---------------------------------------------------------------------------------------------------

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NAME = re.compile(r"generated-\d+")
_ISO = re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+(?:Z|[+-]\d\d:\d\d)?")
#: Where an answer holds a measured duration.
_MEASURED = frozenset({"duration", "time_to_first_token", "search_time_ms"})


def differences(ours: Any, theirs: Any, where: str = "answer") -> Iterator[str]:
    """A line for each place at which two JSON values differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in {**ours, **theirs}:
            if key not in ours or key not in theirs:
                yield f"{where}.{key}: only {'the oracle has it' if key in theirs else 'the store under test has it'}"
            else:
                yield from differences(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list):
        if len(ours) != len(theirs):
            yield f"{where}: {len(ours)} items, the oracle has {len(theirs)}"
        for index, (one, other) in enumerate(zip(ours, theirs, strict=False)):
            yield from differences(one, other, f"{where}[{index}]")
    elif type(ours) is not type(theirs) or ours != theirs:
        yield f"{where}: {ours!r}, the oracle has {theirs!r}"


@dataclass
class Side:
    """One of the two: an AgentOS on its store. `names` are those of the ids that it made up, in order of appearance;
    of a number under one of the keys `measured` only that it is one can be compared."""

    store: Awaitable
    app: Any
    client: httpx.AsyncClient
    began: float = field(default_factory=time.time)
    names: dict[str, str] = field(default_factory=dict)
    measured: frozenset[str] = _MEASURED

    def plain(self, value: Any, key: str = "") -> Any:
        """A JSON value with names for what no two servers have in common."""
        if isinstance(value, dict):
            return {self.plain(k): self.plain(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [self.plain(item, key) for item in value]
        if isinstance(value, str):
            if _ISO.fullmatch(value):
                return "now" if self.is_now(datetime.fromisoformat(value).timestamp()) else value
            return _UUID.sub(lambda found: self.names.setdefault(found[0], f"generated-{len(self.names)}"), value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            if key in self.measured:
                return "measured"
            if self.is_now(value):
                return "now"
        return value

    def is_now(self, seconds: float) -> bool:
        """Whether a time lies within this test."""
        return self.began - 1 <= seconds <= time.time() + 1

    def own(self, text: str) -> str:
        """A request's text with this side's ids for their names."""
        ids = {name: value for value, name in self.names.items()}
        return _NAME.sub(lambda found: ids[found[0]], text)


def _content(response: httpx.Response) -> Any:
    """An answer's JSON; of a stream the events with the JSON of each; else the text."""
    kind = response.headers.get("content-type", "")
    if kind.startswith("text/event-stream"):
        events = [block.splitlines() for block in response.text.split("\n\n") if block.strip()]
        return [
            {
                "event": lines[0].removeprefix("event: "),
                "data": json.loads("".join(line.removeprefix("data: ") for line in lines[1:])),
            }
            for lines in events
        ]
    return response.json() if response.content and kind.startswith("application/json") else response.text


@dataclass
class Both:
    """The store under test and the oracle, to be asked the same things."""

    ours: Side
    oracle: Side
    headers: dict[str, str] = field(default_factory=dict)
    requested: set[tuple[str, str]] = field(default_factory=set)

    async def seed(self, method: str, *args: Any, **kwargs: Any) -> None:
        """Call a method of both stores."""
        for side in (self.oracle, self.ours):
            await getattr(side.store, method)(*copy.deepcopy(args), **copy.deepcopy(kwargs))

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        form: dict[str, str] | None = None,
        status: int = 200,
        unordered: bool = False,
        refusable: str = "",
    ) -> Any:
        """Send one request to both; the answer that both gave, with names for what was made up.

        A name may be used in later requests. `unordered`: the answer is a set, written as a list. `refusable`: why a
        store may refuse what the oracle does; the answer is the oracle's then, and it is for the test to go on from it.
        """
        self.requested.add((method, httpx.URL(path).path))
        answers: list[Any] = []
        for side in (self.oracle, self.ours):
            request = side.client.build_request(
                method,
                side.own(path),
                content=None if body is None else side.own(json.dumps(body)),
                data=None if form is None else {key: side.own(value) for key, value in form.items()},
                headers=self.headers | ({} if body is None else {"content-type": "application/json"}),
            )
            response = await side.client.send(request)
            if refusable and side is self.ours and response.status_code >= 400:
                return answers[0]
            found = side.plain(_content(response))
            assert response.status_code == status, f"{type(side.store.raw).__name__}: {method} {path}: {found}"
            answers.append(sorted(found) if unordered else found)
        theirs, ours = answers
        lines = list(differences(ours, theirs))
        assert not lines, f"{method} {path} is answered otherwise than on the oracle:\n" + "\n".join(lines)
        return ours

    async def get(self, path: str, **options: Any) -> Any:
        return await self.ask("GET", path, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> Any:
        return await self.ask("POST", path, body, **options)

    async def patch(self, path: str, body: Any = None, **options: Any) -> Any:
        return await self.ask("PATCH", path, body, **options)

    async def put(self, path: str, body: Any = None, **options: Any) -> Any:
        return await self.ask("PUT", path, body, **options)

    async def delete(self, path: str, body: Any = None, **options: Any) -> Any:
        return await self.ask("DELETE", path, body, **options)

    def calling(self, user: str, *scopes: str) -> Self:
        """The same two, asked by this user."""
        token = jwt.encode({"sub": user, "scopes": list(scopes)}, SECRET, algorithm="HS256")
        return replace(self, headers={"Authorization": f"Bearer {token}"})

    def unasked(self, tag: str) -> set[str]:
        """The routes of one part of AgentOS that were not requested."""
        return {
            f"{method} {route.path}"
            for route in flatten_routes(self.ours.app.routes)
            if tag in (getattr(route, "tags", None) or ())
            for method in route.methods
            if not any(asked == method and route.path_regex.fullmatch(path) for asked, path in self.requested)
        }


# --- The two servers --------------------------------------------------------------------------------------------------


class Words(VectorDb):
    """A vector database of as much as the routes need: documents in a list, found by a word in them."""

    def __init__(self) -> None:
        super().__init__(id="words", name="words")
        self.documents: list[tuple[str, str | None, Document]] = []

    def create(self) -> None:
        pass

    async def async_create(self) -> None:
        pass

    def exists(self) -> bool:
        return True

    async def async_exists(self) -> bool:
        return True

    def name_exists(self, name: str) -> bool:
        return False

    def async_name_exists(self, name: str) -> bool:
        return False

    def id_exists(self, id: str) -> bool:
        return False

    def content_hash_exists(self, content_hash: str, user_id: str | None = None) -> bool:
        return any((hashed, owner) == (content_hash, user_id) for hashed, owner, _ in self.documents)

    def insert(self, content_hash: str, documents: list[Document], filters: Any = None, user_id: Any = None) -> None:
        self.documents += [(content_hash, user_id, document) for document in documents]

    async def async_insert(
        self, content_hash: str, documents: list[Document], filters: Any = None, user_id: Any = None
    ) -> None:
        self.insert(content_hash, documents, filters, user_id)

    def upsert(self, content_hash: str, documents: list[Document], filters: Any = None, user_id: Any = None) -> None:
        self.insert(content_hash, documents, filters, user_id)

    async def async_upsert(
        self, content_hash: str, documents: list[Document], filters: Any = None, user_id: Any = None
    ) -> None:
        self.insert(content_hash, documents, filters, user_id)

    def search(self, query: str, limit: int = 5, filters: Any = None, user_id: Any = None) -> list[Document]:
        visible = [document for _, owner, document in self.documents if user_id is None or owner in (None, user_id)]
        return [document for document in visible if query in document.content][:limit]

    async def async_search(
        self, query: str, limit: int = 5, filters: Any = None, user_id: Any = None
    ) -> list[Document]:
        return self.search(query, limit, filters, user_id)

    def drop(self) -> None:
        self.documents.clear()

    async def async_drop(self) -> None:
        self.documents.clear()

    def delete(self) -> bool:
        self.documents.clear()
        return True

    def delete_by_id(self, id: str) -> bool:
        return True

    def delete_by_name(self, name: str) -> bool:
        return True

    def delete_by_metadata(self, metadata: dict[str, Any]) -> bool:
        return True

    def delete_by_content_id(self, content_id: str, user_id: str | None = None) -> bool:
        self.documents = [entry for entry in self.documents if entry[2].content_id != content_id]
        return True

    def update_metadata(self, content_id: str, metadata: dict[str, Any]) -> None:
        pass

    def get_supported_search_types(self) -> list[str]:
        return ["keyword"]


def agent(id: str, **options: Any) -> Agent:
    """An agent of this id, which answers with what it was asked unless `options` say something else."""
    return Agent(id=id, name=id, telemetry=False, **{"model": ScriptedModel(), **options})


def _agent_os(raw: Any, guarded: bool, managed: bool) -> AgentOS:
    @tool(requires_confirmation=True)
    def launch() -> str:
        """Launch it."""
        return "launched"

    def launching(messages: list[Any]) -> Any:
        return "it flies" if messages[-1].role == "tool" else ("launch", "{}")

    def leading(messages: list[Any]) -> Any:
        if messages[-1].role == "tool":
            return "the team says hi"
        return ("delegate_task_to_member", json.dumps({"member_id": "member", "task": "say hi"}))

    return AgentOS(
        id="os",
        db=raw,
        agents=[
            agent("a1", db=raw, add_history_to_context=True),
            agent("a2", db=raw, model=ScriptedModel(script=launching), tools=[launch]),
        ],
        teams=[
            Team(
                id="t1",
                name="t1",
                members=[agent("member", model=ScriptedModel(script=lambda messages: "hi"))],
                model=ScriptedModel(script=leading),
                db=raw,
                store_member_responses=True,
                telemetry=False,
            )
        ],
        workflows=[
            Workflow(id="w1", name="w1", steps=[Step(name="one", agent=agent("step"))], db=raw, telemetry=False)
        ],
        knowledge=[Knowledge(name="handbook", vector_db=Words(), contents_db=raw)],
        registry=Registry(models=[ScriptedModel()]),
        authorization=guarded
        # The claim, which no token has, makes roles decide also where the database is an async one.
        and Authorization(
            verification_keys=[SECRET], algorithm="HS256", audit=managed, roles_claim="role" if managed else None
        ),
        user_directory=managed,
        user_isolation=guarded,
        telemetry=False,
        scheduler=True,
        scheduler_poll_interval=3600,
        scheduler_base_url="http://os",
    )


#: An AgentOS for each kind that was needed, its application, and the database that they are on: to build 130 routes
#: takes longer than to ask them all.
_BUILT: dict[tuple[Any, ...], tuple[AgentOS, Any, Any]] = {}
#: Whose objects may keep a database for themselves.
_KEEPERS = ("agno.", "fastapi.", "starlette.", "agno_docstores.conformance.")


def _move(agent_os: AgentOS, app: Any, old: Any, new: Any) -> None:
    """Have an AgentOS use another database of its kind, wherever it keeps the one that it was built on: most routes are
    closures over it. Its models, which count their calls, begin anew."""
    seen: dict[int, Any] = {}
    ahead: list[Any] = [agent_os, app]
    while ahead:
        thing = ahead.pop()
        if id(thing) in seen:
            continue
        seen[id(thing)] = thing
        if isinstance(thing, FunctionType):
            for cell in thing.__closure__ or ():
                if cell == CellType():
                    continue
                if cell.cell_contents is old:
                    cell.cell_contents = new
                ahead.append(cell.cell_contents)
            ahead += (thing.__defaults__, thing.__kwdefaults__, thing.__dict__)
        elif isinstance(thing, MethodType):
            ahead += (thing.__self__, thing.__func__)
        elif isinstance(thing, partial):
            ahead += (thing.func, thing.args, thing.keywords)
        elif isinstance(thing, dict | list):
            for key, value in list(thing.items() if isinstance(thing, dict) else enumerate(thing)):
                if value is old:
                    thing[key] = new
                ahead.append(thing[key])
        elif isinstance(thing, tuple | set | frozenset):
            assert all(value is not old for value in thing), f"a database in a {type(thing).__name__} cannot be moved"
            ahead += thing
        elif isinstance(thing, ScriptedModel):
            thing.prompts.clear()
        elif not isinstance(thing, type | BaseDb | AsyncBaseDb) and type(thing).__module__.startswith(_KEEPERS):
            ahead.append(getattr(thing, "__dict__", None))


def application(which: str, raw: Any, build: Callable[..., AgentOS], *arguments: Any) -> tuple[AgentOS, Any]:
    """An AgentOS as `build` makes it of a database and the `arguments`, and its application.

    One that was built before for the same purpose (`which`) moves to this database.
    """
    kind = (which, build, *arguments, isinstance(raw, AsyncBaseDb))
    if kind in _BUILT:
        agent_os, app, old = _BUILT[kind]
        _move(agent_os, app, old, raw)
    else:
        agent_os = build(raw, *arguments)
        app = agent_os.get_app()
    _BUILT[kind] = agent_os, app, raw
    return agent_os, app


@asynccontextmanager
async def started(app: Any, raw: Any) -> AsyncIterator[Side]:
    """An application on this database, started, and stopped in the end."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://os") as client,
    ):
        if hasattr(app.state, "scheduler_executor"):
            app.state.scheduler_executor._client = httpx.AsyncClient(transport=transport)
            app.state.scheduler_executor.poll_interval = 0.05  # not half a minute until it sees that a run has ended
        yield Side(Awaitable(raw), app, client)


@asynccontextmanager
async def serving(
    which: str,
    raw: Any,
    *others: Any,
    guarded: bool = False,
    managed: bool = False,
) -> AsyncIterator[Side]:
    """AgentOS on a database, started, and stopped in the end.

    It runs schedules, by requests to itself. `others`: more handles under the same id. `guarded`: callers have to name
    themselves and see what is theirs. `managed`: of a guarded one, what a caller may do is what roles in the database
    say, not his token.
    """
    for db in (raw, *others):
        db.id = "os-db"
    agent_os, app = application(which, raw, _agent_os, guarded, managed)
    for handles in (*agent_os.dbs.values(), *agent_os.knowledge_dbs.values()):
        handles[:] = [raw, *others]
    for knowledge in agent_os.knowledge or ():
        knowledge.vector_db = Words()
    async with started(app, raw) as side:
        if managed:
            roles = agent_os._authz_role_store
            await roles.aset_role_scopes("admin", ["agent_os:admin"])
            await roles.aset_role_scopes("viewer", ["sessions:read"])
            await roles.aassign("root", "admin")
        yield side


def oracle_for(raw: Any, folder: Path, **options: Any) -> Any:
    """Agno's own database of the same kind, sync or async, on empty storage."""
    kind = AsyncSqliteDb if Awaitable(raw).is_async else SqliteDb
    return kind(db_file=str(folder / "oracle.db"), **options)


@asynccontextmanager
async def compared(raw: Any, folder: Path, **options: bool) -> AsyncIterator[Both]:
    """AgentOS on this database and on the oracle; `options` as `serving` has them."""
    async with (
        serving("under test", raw, **options) as ours,
        serving("oracle", oracle_for(raw, folder), **options) as oracle,
    ):
        yield Both(ours, oracle)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings from outside, and no reports home. (Evals started by a route report, whatever AgentOS was told.)"""
    for name in ("OS_SECURITY_KEY", "JWT_VERIFICATION_KEY", "JWT_JWKS_FILE"):
        monkeypatch.delenv(name, raising=False)

    async def nothing(*args: Any, **kwargs: Any) -> None:
        return None

    monkeypatch.setattr(agno_api, "post_in_background", lambda *args, **kwargs: None)
    monkeypatch.setattr(agno_api, "apost_in_background", nothing)


def entered(runner: asyncio.Runner, context: Any) -> Iterator[Any]:
    """A fixture that is this context, on the loop of the test."""
    stack = AsyncExitStack()
    yield runner.run(stack.enter_async_context(context))
    runner.run(stack.aclose())


@pytest.fixture
def both(db: Awaitable, tmp_path: Path, runner: asyncio.Runner, quiet: None) -> Iterator[Both]:
    """An AgentOS that lets everybody do everything, on the store under test and on the oracle."""
    yield from entered(runner, compared(db.raw, tmp_path))


@pytest.fixture
def guarded(db: Awaitable, tmp_path: Path, runner: asyncio.Runner, quiet: None) -> Iterator[Both]:
    """An AgentOS whose callers name themselves by a token, and see what is theirs."""
    yield from entered(runner, compared(db.raw, tmp_path, guarded=True))


@pytest.fixture
def managed(db: Awaitable, tmp_path: Path, runner: asyncio.Runner, quiet: None) -> Iterator[Both]:
    """The same, where roles in the database say what callers may do."""
    yield from entered(runner, compared(db.raw, tmp_path, guarded=True, managed=True))


# --- Sessions and runs ------------------------------------------------------------------------------------------------


async def seed_sessions(both: Both) -> None:
    """Two agent sessions of two users, a team's and a workflow's, with runs."""
    await both.seed(
        "upsert_session",
        agent_session(
            "s1",
            user_id="u1",
            session_data={
                "session_name": "Alpha plan",
                "session_state": {"a.b": [1, 2.5, None, {"$c": "é"}]},
                "session_metrics": {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7},
            },
            agent_data={"agent_id": "a1", "name": "a1", "model": {"id": "m", "provider": "p"}},
            metadata={"k": {"x": 1.0}},
            summary=SessionSummary(summary="so far", topics=["t"]),
            created_at=T0,
        ),
    )
    await both.seed("upsert_session", agent_session("s2", agent_id="a2", user_id="u2", created_at=T0 + 100))
    team = TeamSession(session_id="ts", team_id="t1", user_id="u1", team_data={"name": "t1"}, created_at=T0 + 200)
    flow = WorkflowSession(
        session_id="ws",
        workflow_id="w1",
        session_data={"session_name": "ALPHABET"},
        workflow_data={"name": "w1"},
        created_at=T0 + 300,
    )
    await both.seed("upsert_session", team)
    await both.seed("upsert_session", flow)
    for number, status in enumerate(["COMPLETED", "PAUSED", "COMPLETED"]):
        run = run_of(f"r{number}", session_id="s1", user_id="u1", status=status, created_at=T0 + number)
        await both.seed("upsert_run", run, "s1", "u1")
    await both.seed("upsert_run", {"run_id": "tr", "team_id": "t1", "content": "x", "created_at": T0}, "ts", "u1")
    await both.seed("upsert_run", {"run_id": "wr", "workflow_id": "w1", "content": "y", "created_at": T0}, "ws")


async def test_sessions_answer_as_on_sqlite(both: Both) -> None:
    assert (await both.get("/sessions"))["data"] == []
    await seed_sessions(both)

    async def listed(query: str) -> list[str]:
        return [row["session_id"] for row in (await both.get(f"/sessions?{query}"))["data"]]

    assert await listed("") == ["ws", "ts", "s2", "s1"]
    assert await listed("type=agent") == ["s2", "s1"]
    assert await listed("type=team&component_id=t1") == ["ts"]
    assert await listed("component_id=a1") == ["s1"]
    assert await listed("user_id=u1&sort_order=asc") == ["s1", "ts"]
    assert await listed("session_name=alpha") == ["ws", "s1"]
    assert await listed("session_name=alpha&user_id=u1&type=agent&component_id=a1") == ["s1"]
    assert await listed("limit=3&page=2") == ["s1"]
    assert await listed("limit=3&page=3") == []
    assert (await both.get("/sessions?limit=3&page=3"))["meta"]["total_count"] == 4
    assert await listed("sort_by=updated_at&sort_order=asc") == ["s1", "s2", "ts", "ws"]
    assert await listed("sort_by=session_id&sort_order=asc") == ["s1", "s2", "ts", "ws"]
    await both.get("/sessions?page=0", status=500)
    await both.get("/sessions?limit=0", status=422)
    await both.get("/sessions?type=nonsense", status=422)

    detail = await both.get("/sessions/s1")
    assert detail["session_state"] == {"a.b": [1, 2.5, None, {"$c": "é"}]}
    for path in ["s1?type=agent&user_id=u1", "ts", "ts?type=team", "ws", "ws?type=workflow&db_id=os-db"]:
        await both.get(f"/sessions/{path}")
    for path in ["s1?user_id=u2", "s1?type=agent&user_id=u2", "nobody", "s1/runs?user_id=u2", "s1/runs/nothing"]:
        await both.get(f"/sessions/{path}", status=404)
    await both.get("/sessions/s1?db_id=other", status=404)

    assert [run["run_id"] for run in await both.get("/sessions/s1/runs")] == ["r0", "r1", "r2"]
    assert [run["run_id"] for run in await both.get("/sessions/s1/runs?status=paused")] == ["r1"]
    assert len(await both.get(f"/sessions/s1/runs?created_after={T0 + 1}&created_before={T0 + 1}")) == 1
    await both.get("/sessions/s1/runs?status=nonsense", status=400)
    for path in ["ts/runs", "ws/runs?type=workflow", "s1/run-previews", "ts/run-previews", "s1/runs/r1?user_id=u1"]:
        await both.get(f"/sessions/{path}")
    for path in ["ts/runs/tr", "ws/runs/wr?type=workflow", "s1/runs/r2?type=agent"]:
        await both.get(f"/sessions/{path}")
    await both.get("/sessions/s2/runs/r1", status=404)

    body = {"session_id": "new", "session_name": "New", "session_state": {"n": 1}, "metadata": {"m": []}}
    await both.post("/sessions?type=agent", {**body, "agent_id": "a1", "user_id": "u3"}, status=201)
    await both.post("/sessions?type=agent", {**body, "agent_id": "a1", "user_id": "u3"}, status=409)
    await both.post("/sessions?type=team", {"team_id": "t1", "session_id": "nt", "user_id": "u3"}, status=201)
    made = await both.post("/sessions?type=workflow", {"workflow_id": "w1", "session_state": {}}, status=201)
    assert made["session_id"] == "generated-0"
    await both.get(f"/sessions/{made['session_id']}")

    await both.patch("/sessions/s1", {"session_name": "Beta", "session_state": {"fresh": None}})
    changes = {"metadata": {}, "summary": {"summary": "all", "topics": []}}
    await both.patch("/sessions/s1?type=agent&user_id=u1", changes)
    await both.patch("/sessions/s1?user_id=u2", {"session_name": "stolen"}, status=404)
    await both.patch("/sessions/ws", {"session_state": {"step": 1}})
    detail = await both.get("/sessions/s1")
    assert (detail["session_name"], detail["session_state"]) == ("Beta", {"fresh": None})

    await both.post("/sessions/s1/rename", {"session_name": "100% _ée"})
    await both.post("/sessions/ts/rename?type=team&user_id=u1", {"session_name": "Gamma"})
    await both.post("/sessions/s1/rename?user_id=u2", {"session_name": "stolen"}, status=404)
    await both.post("/sessions/nobody/rename", {"session_name": "x"}, status=404)
    assert (await both.get("/sessions/ts"))["session_name"] == "Gamma"
    assert [run["run_id"] for run in await both.get("/sessions/s1/runs")] == ["r0", "r1", "r2"]

    await both.delete("/sessions/s1?user_id=u2", status=204)
    await both.get("/sessions/s1")
    await both.delete("/sessions/s1?user_id=u1", status=204)
    await both.get("/sessions/s1", status=404)
    await both.get("/sessions/s1/runs", status=404)
    await both.delete("/sessions/s1", status=204)
    await both.delete("/sessions", {"session_ids": ["s2", "ts"], "session_types": ["agent"]}, status=400)
    mixed = {"session_ids": ["s2", "ts", "nobody"], "session_types": ["agent", "team", "agent"]}
    await both.delete("/sessions?user_id=u1", mixed, status=204)
    await both.get("/sessions/s2")
    await both.get("/sessions/ts", status=404)
    await both.delete("/sessions", mixed, status=204)
    left = await both.get("/sessions?sort_by=session_id&limit=5")
    assert left["meta"]["total_count"] == 4
    assert [row["session_id"] for row in left["data"]][1:] == ["nt", "new", "generated-0"]
    assert both.unasked("Sessions") == set()


async def test_agents_teams_and_workflows_run_as_on_sqlite(both: Both) -> None:
    talk = {"stream": "false", "session_id": "talk", "user_id": "u1"}
    first = await both.post("/agents/a1/runs", form={**talk, "message": "one"})
    second = await both.post("/agents/a1/runs", form={**talk, "message": "two", "session_state": '{"mood": "good"}'})
    assert (first["content"], second["content"]) == ("1 asked, last: one", "2 asked, last: two")
    streamed = await both.post("/agents/a1/runs", form={**talk, "message": "three", "stream": "true"})
    assert streamed[-1]["event"] == "RunCompleted"
    detail = await both.get("/sessions/talk")
    assert [message["content"] for message in detail["chat_history"] if message["role"] == "user"] == [
        "one",
        "two",
        "three",
    ]
    await both.get("/sessions/talk/runs")
    await both.get("/sessions/talk/run-previews")
    await both.get("/agents/a1/runs?session_id=talk")
    await both.get(f"/agents/a1/runs/{first['run_id']}?session_id=talk")
    await both.get("/agents/a1/runs/nothing?session_id=talk", status=404)
    forked = await both.post("/agents/a1/sessions/talk/fork?user_id=u1")
    assert len(await both.get(f"/sessions/{forked['session_id']}/runs")) == 3

    paused = await both.post("/agents/a2/runs", form={"message": "go", "stream": "false", "session_id": "flight"})
    assert paused["status"] == "PAUSED"
    tools = json.dumps([{**call, "confirmed": True} for call in paused["tools"]]).replace('"now"', str(T0))
    form = {"tools": tools, "session_id": "flight", "stream": "false"}
    finished = await both.post(f"/agents/a2/runs/{paused['run_id']}/continue", form=form)
    assert (finished["status"], finished["content"]) == ("COMPLETED", "it flies")
    assert [run["status"] for run in await both.get("/sessions/flight/runs")] == ["COMPLETED"]
    await both.post(f"/agents/a2/runs/{paused['run_id']}/cancel?session_id=flight")

    team = await both.post("/teams/t1/runs", form={"message": "hello", "stream": "false", "session_id": "tt"})
    assert team["content"] == "the team says hi"
    assert len(await both.get("/sessions/tt/runs?type=team")) == 2
    await both.get(f"/teams/t1/runs/{team['run_id']}?session_id=tt")
    flow = await both.post("/workflows/w1/runs", form={"message": "hello", "stream": "false", "session_id": "ww"})
    assert flow["status"] == "COMPLETED"
    await both.get("/sessions/ww/runs")
    await both.get(f"/workflows/w1/runs/{flow['run_id']}?session_id=ww")
    await both.get("/sessions/ww")


async def test_a_table_is_addressed_by_name_as_on_sqlite(
    db: Awaitable, open_another: Callable[..., Any], tmp_path: Path, quiet: None
) -> None:
    archive, archived = open_another(session_table="archived"), oracle_for(db.raw, tmp_path, session_table="archived")
    async with (
        serving("under test", db.raw, archive) as ours,
        serving("oracle", oracle_for(db.raw, tmp_path), archived) as oracle,
    ):
        both = Both(ours, oracle)
        await both.seed("upsert_session", agent_session("here", user_id="u", created_at=T0))
        for store in (archive, archived):
            await Awaitable(store).upsert_session(agent_session("there", user_id="u", created_at=T0))
        names = {
            table: [row["session_id"] for row in (await both.get(f"/sessions?db_id=os-db&table={table}"))["data"]]
            for table in ("agno_sessions", "archived")
        }
        assert names == {"agno_sessions": ["here"], "archived": ["there"]}
        await both.get("/sessions/there?db_id=os-db&table=archived")
        await both.get("/sessions/here?db_id=os-db&table=archived", status=404)
        await both.get("/sessions?db_id=os-db&table=nothing", status=404)
        await both.get("/sessions?table=archived", status=400)
        await both.get("/memories?db_id=os-db&table=agno_memories")
        await both.get("/memories?db_id=os-db&table=agno_runs", status=404)
        await both.delete("/sessions/there?db_id=os-db&table=archived", status=204)
        assert (await both.get("/sessions?db_id=os-db&table=archived"))["data"] == []
        tables = [entry["tables"] for entry in (await both.get("/config"))["session"]["dbs"]]
        assert [sorted(names) for names in tables] == [["agno_sessions", "archived"]]


# --- Memories ---------------------------------------------------------------------------------------------------------


async def seed_memories(both: Both) -> None:
    rows: list[dict[str, Any]] = [
        {"memory_id": "m1", "memory": "Likes Honey", "user_id": "u1", "agent_id": "a1", "topics": ["food", "bees"]},
        {"memory_id": "m2", "memory": "Lives in Kraków", "user_id": "u1", "team_id": "t1", "topics": ["places"]},
        {"memory_id": "m3", "memory": "Hates honey", "user_id": "u2", "agent_id": "a1", "topics": ["food"]},
        {"memory_id": "m4", "memory": "Owned by nobody", "topics": []},
        {"memory_id": "m5", "memory": "Has no topics", "user_id": "u2", "topics": None},
    ]
    for number, row in enumerate(rows):
        await both.seed("upsert_user_memory", UserMemory(created_at=T0 + number * 10, **row))


async def test_memories_answer_as_on_sqlite(both: Both) -> None:
    assert (await both.get("/memories"))["meta"]["total_count"] == 0
    assert await both.get("/memory_topics") == []
    assert (await both.get("/user_memory_stats"))["data"] == []
    await seed_memories(both)

    async def listed(query: str) -> list[str]:
        return [row["memory_id"] for row in (await both.get(f"/memories?{query}"))["data"]]

    assert await listed("") == ["m5", "m4", "m3", "m2", "m1"]
    assert await listed("sort_by=created_at&sort_order=asc&limit=2&page=2") == ["m3", "m4"]
    assert await listed("sort_by=memory_id&limit=2") == ["m5", "m4"]
    assert await listed("user_id=u1") == ["m2", "m1"]
    assert await listed("user_id=u1&agent_id=a1") == ["m1"]
    assert await listed("team_id=t1") == ["m2"]
    assert await listed("topics=food") == ["m3", "m1"]
    assert await listed("topics=food,bees") == ["m1"]
    assert await listed("search_content=HONEY") == ["m3", "m1"]
    assert await listed("search_content=honey&user_id=u2") == ["m3"]
    assert await listed("user_id=nobody") == []
    await both.get("/memories?page=0", status=500)
    await both.get("/memories?limit=0", status=422)

    await both.get("/memories/m1")
    await both.get("/memories/m1?user_id=u1")
    await both.get("/memories/m1?user_id=u2", status=404)
    await both.get("/memories/nothing", status=404)
    assert await both.get("/memory_topics", unordered=True) == ["bees", "food", "places"]
    assert await both.get("/memory_topics?user_id=u2", unordered=True) == ["food"]
    stats = await both.get("/user_memory_stats")
    assert [(row["user_id"], row["total_memories"]) for row in stats["data"]] == [("u2", 2), ("u1", 2)]
    await both.get("/user_memory_stats?limit=1&page=2")
    await both.get("/user_memory_stats?user_id=u1")
    await both.get("/user_memory_stats?user_id=nobody")

    made = await both.post("/memories", {"memory": "Sings", "user_id": "u3", "topics": ["music"]})
    await both.post("/memories", {"memory": "Owned by nobody"}, status=400)
    await both.get(f"/memories/{made['memory_id']}?user_id=u3")
    changed = await both.patch(f"/memories/{made['memory_id']}", {"memory": "Sings well", "user_id": "u3"})
    assert (changed["memory"], changed["topics"]) == ("Sings well", [])
    honey = {"memory": "Likes honey", "topics": ["food"]}
    theft = "a memory is not for other users to overwrite; SqliteDb lets them, and leaves it whose it is"
    assert (await both.patch("/memories/m1", {**honey, "user_id": "u2"}, refusable=theft))["user_id"] == "u1"
    assert (await both.patch("/memories/m1", {**honey, "user_id": "u1"}))["user_id"] == "u1"
    await both.patch("/memories/m1", {"memory": "Owned by nobody"}, status=400)
    assert await listed("") == await listed("sort_by=updated_at&sort_order=desc")
    await both.post("/optimize-memories", {"user_id": "nobody"}, status=404)

    await both.delete("/memories/m1?user_id=u2", status=204)
    await both.get("/memories/m1")
    await both.delete("/memories/m1?user_id=u1", status=204)
    await both.get("/memories/m1", status=404)
    await both.delete("/memories", {"memory_ids": ["m2", "m3"], "user_id": "u2"}, status=204)
    await both.get("/memories/m2")
    await both.delete("/memories", {"memory_ids": ["m2", "m3", "nothing"]}, status=204)
    await both.delete(f"/memories/{made['memory_id']}", status=204)
    assert await listed("") == ["m5", "m4"]
    assert both.unasked("Memory") == set()


# --- Metrics ----------------------------------------------------------------------------------------------------------


async def test_metrics_answer_as_on_sqlite(both: Both) -> None:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    days = [today - timedelta(days=number) for number in range(3)]

    async def session(session_id: str, day: datetime, user_id: str | None, kind: type = AgentSession) -> None:
        tokens = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
        key = {AgentSession: "agent_id", TeamSession: "team_id", WorkflowSession: "workflow_id"}[kind]
        values = {key: "x", "session_data": {"session_metrics": tokens}, "created_at": int(day.timestamp()) + 60}
        await both.seed("upsert_session", kind(session_id=session_id, user_id=user_id, **values))
        for number in range(2):
            run = {key: "x", "run_id": f"{session_id}-{number}", "model": "m", "model_provider": "p", "content": "."}
            await both.seed("upsert_run", {**run, "created_at": values["created_at"]}, session_id, user_id)

    assert (await both.get("/metrics"))["metrics"] == []
    await session("s1", days[2], "u1")
    await session("s2", days[2], "u2", TeamSession)
    await session("s3", days[1], "u1", WorkflowSession)
    await session("s4", days[1], None)
    refreshed = await both.post("/metrics/refresh")
    assert [row["users_count"] for row in refreshed] == [2, 1]
    assert await both.post("/metrics/refresh") == []
    assert (await both.get("/metrics/refresh/status"))["status"] == "completed"
    assert len((await both.get("/metrics"))["metrics"]) == 2
    await both.get("/metrics?user_id=u1")
    await both.get("/metrics?user_id=nobody")
    await both.get("/metrics?user_id=")
    first, last = (date.isoformat(day.date()) for day in (days[2], days[1]))
    assert len((await both.get(f"/metrics?starting_date={last}"))["metrics"]) == 1
    assert len((await both.get(f"/metrics?ending_date={first}"))["metrics"]) == 1
    assert len((await both.get(f"/metrics?starting_date={first}&ending_date={last}&user_id=u1"))["metrics"]) == 2
    await both.get("/metrics?starting_date=nonsense", status=422)
    await both.get("/metrics?db_id=os-db&table=agno_metrics&user_id=u2")

    await session("s5", days[0], "u1")
    for user in ("u1", "u1", "u2"):
        assert len(await both.post(f"/metrics/refresh?user_id={user}")) == (user == "u1")
    assert len((await both.get("/metrics"))["metrics"]) == 3
    await session("s6", days[0], "u3")
    assert await both.post("/metrics/refresh?background=true", status=202) == {
        "status": "started",
        "message": "Metrics refresh started in background",
    }
    assert (await both.get("/metrics?user_id=u3"))["metrics"][0]["agent_sessions_count"] == 1
    assert both.unasked("Metrics") == set()


# --- Knowledge --------------------------------------------------------------------------------------------------------


async def test_knowledge_answers_as_on_sqlite(both: Both) -> None:
    assert (await both.get("/knowledge/content"))["data"] == []
    for number in range(3):
        row = KnowledgeRow(
            id=f"k{number}",
            name=f"name {number}",
            description="",
            metadata={"a.b": [number, None]} if number else None,
            type="text",
            size=number,
            linked_to="handbook" if number < 2 else "another",
            status="completed",
            status_message="",
            created_at=T0 + number,
            updated_at=T0 + number,
        )
        await both.seed("upsert_knowledge_content", row)
    form = {"name": "bees", "text_content": "Bees make honey.", "metadata": '{"topic": "bees"}', "description": "short"}
    made = await both.post("/knowledge/content", form=form, status=202)
    await both.post("/knowledge/content", form={"name": "empty"}, status=400)
    assert (await both.get(f"/knowledge/content/{made['id']}/status"))["status"] == "completed"
    assert (await both.get(f"/knowledge/content/{made['id']}"))["metadata"]["topic"] == "bees"
    found = await both.post("/knowledge/search", {"query": "honey"})
    assert [hit["content"] for hit in found["data"]] == ["Bees make honey."]

    listed = await both.get("/knowledge/content")
    assert [row["id"] for row in listed["data"]] == [made["id"], "k1", "k0"]
    assert [row["id"] for row in (await both.get("/knowledge/content?limit=1&page=2"))["data"]] == ["k1"]
    await both.get("/knowledge/content?limit=2&page=9")
    await both.get("/knowledge/content?sort_by=size&sort_order=asc&limit=2")
    await both.get("/knowledge/content?parent_id=nothing")
    await both.get("/knowledge/content?page=0", status=500)
    await both.get("/knowledge/content/k1?db_id=os-db")
    await both.get("/knowledge/content/nothing", status=404)
    await both.get("/knowledge/content/nothing/status", status=404)
    await both.get("/knowledge/content?knowledge_id=nothing", status=404)

    changed = await both.patch("/knowledge/content/k0", form={"name": "other", "metadata": '{"new": true}'})
    assert (changed["name"], changed["metadata"]) == ("other", {"new": True})
    await both.get("/knowledge/content/k0")
    await both.patch("/knowledge/content/nothing", form={"name": "other"}, status=404)
    await both.post("/knowledge/content/k0/refresh", status=400)
    await both.post("/knowledge/content/nothing/refresh", status=404)
    config = await both.get("/knowledge/config")
    assert set(config["filters"]) >= {"a.b", "topic"}
    await both.post("/knowledge/remote-content", form={"config_id": "nothing", "path": "x"}, status=400)

    await both.delete("/knowledge/content/k0")
    await both.delete("/knowledge/content/k0", status=404)
    await both.delete(f"/knowledge/content/{made['id']}")
    assert (await both.post("/knowledge/search", {"query": "honey"}))["data"] == []
    await both.delete("/knowledge/content")
    assert (await both.get("/knowledge/content"))["meta"]["total_count"] == 0
    sources = {"GET /knowledge/{knowledge_id}/sources", "GET /knowledge/{knowledge_id}/sources/{source_id}/files"}
    assert both.unasked("Knowledge") == sources, "these two do not ask the database"


# --- Components -------------------------------------------------------------------------------------------------------


def stored_agent(id: str, **config: Any) -> dict[str, Any]:
    """The configuration of an agent in the database."""
    model = {"id": "scripted", "name": "ScriptedModel", "provider": "scripted"}
    return {"id": id, "name": id, "model": model, **config}


async def test_components_answer_as_on_sqlite(both: Both) -> None:
    if both.ours.store.is_async:
        # Agno's builder is for sync databases; of an async one it knows nothing, whatever that could do.
        await both.get("/components", status=503)
        return
    assert (await both.get("/components"))["meta"]["total_count"] == 0
    agent = {"name": "Writer", "component_type": "agent"}
    made = await both.post("/components", {**agent, "component_id": "writer", "stage": "published"}, status=201)
    assert made["current_version"] == 1
    await both.post("/components", {**agent, "component_id": "writer"}, status=400)
    await both.post("/components", {**agent, "component_id": "x", "stage": "live"}, status=400)
    draft = {**agent, "component_id": "reader", "config": {"k.1": {"$a": 1}}, "label": "l", "metadata": {"m": 1}}
    await both.post("/components", draft, status=201)
    team = {"name": "Desk", "component_type": "team", "config": {"members": [{"type": "agent", "agent_id": "writer"}]}}
    await both.post("/components", {**team, "component_id": "desk", "stage": "published"}, status=201)

    # All were made at about the same time: which is the latest depends on the clock.
    found = await both.get("/components?component_type=team")
    assert [row["component_id"] for row in found["data"]] == ["desk"]
    assert (await both.get("/components?page=2"))["meta"]["total_count"] == 3
    await both.get("/components/reader")
    await both.get("/components/nobody", status=404)
    await both.patch("/components/reader", {"name": "Reads", "description": "d"})
    await both.patch("/components/reader", {"component_type": "team"}, status=400)
    await both.patch("/components/reader", {"current_version": 1}, status=400)
    await both.patch("/components/nobody", {"name": "x"}, status=404)

    await both.post("/components/writer/configs", {"config": {"name": "Second"}, "label": "l"}, status=201)
    await both.post("/components/writer/configs", {"config": {}, "label": "l"}, status=400)
    stale = {"config": {}, "guard": {"latest_version": 1}}
    await both.post("/components/writer/configs", stale, status=409)
    await both.post("/components/nobody/configs", {"config": {}}, status=404)
    await both.patch("/components/writer/configs/2", {"notes": "n", "config": {"name": "Edited"}})
    await both.patch("/components/writer/configs/1", {"notes": "n"}, status=400)
    await both.get("/components/writer/configs")
    await both.get("/components/writer/configs?include_config=true")
    await both.get("/components/writer/configs/current")
    await both.get("/components/reader/configs/current")
    await both.get("/components/writer/configs/2")
    await both.get("/components/writer/configs/9", status=404)
    await both.post("/components/writer/configs/2/set-current", status=400)
    await both.patch("/components/writer/configs/2", {"stage": "published"})
    assert (await both.get("/components/writer"))["name"] == "Edited"
    await both.post("/components/writer/configs/1/set-current", {"guard": {"current_version": 1}}, status=409)
    await both.post("/components/writer/configs/1/set-current", {"guard": {"current_version": 2}})
    await both.delete("/components/writer/configs/1", status=400)
    await both.delete("/components/reader/configs/1", status=409)
    await both.post("/components/reader/configs", {"config": {}}, status=201)
    await both.delete("/components/reader/configs/2", status=204)
    await both.delete("/components/reader/configs/2", status=404)

    await both.delete("/components/writer", status=409)
    await both.delete("/components/desk?expected_current_version=7", status=409)
    await both.delete("/components/desk", status=204)
    await both.get("/components/desk", status=404)
    await both.delete("/components/desk", status=404)
    await both.post("/components", {**team, "component_id": "desk"}, status=400)
    await both.delete("/components/writer", status=204)
    await both.post("/components/desk/restore", status=409)
    await both.post("/components/writer/restore")
    await both.post("/components/desk/restore")
    await both.post("/components/desk/restore", status=409)
    assert both.unasked("Components") == set()


# --- Evals ------------------------------------------------------------------------------------------------------------


async def test_evals_answer_as_on_sqlite(both: Both) -> None:
    assert (await both.get("/eval-runs"))["data"] == []
    rows: list[dict[str, Any]] = [
        {"run_id": "e1", "agent_id": "a1", "eval_type": EvalType.ACCURACY, "model_id": "m1", "model_provider": "p"},
        {"run_id": "e2", "team_id": "t1", "eval_type": EvalType.RELIABILITY, "model_id": "m2"},
        {"run_id": "e3", "workflow_id": "w1", "eval_type": EvalType.PERFORMANCE, "eval_input": {"a.b": [1.0, None]}},
    ]
    for row in rows:
        data = {"score": 0.5, "$x": [], "nested": {"": None}}
        await both.seed("create_eval_run", EvalRunRecord(**{"eval_data": data, "name": f"eval {row['run_id']}", **row}))

    async def listed(query: str) -> list[str]:
        answer = await both.get(f"/eval-runs?sort_by=name&sort_order=asc&{query}")
        return [row["id"] for row in answer["data"]]

    assert await listed("") == ["e1", "e2", "e3"]
    assert await listed("limit=2&page=2") == ["e3"]
    assert await listed("agent_id=a1") == ["e1"]
    assert await listed("team_id=t1") == ["e2"]
    assert await listed("workflow_id=w1") == ["e3"]
    assert await listed("model_id=m2") == ["e2"]
    assert await listed("type=agent") == ["e1"]
    assert await listed("type=team&model_id=m1") == []
    assert await listed("eval_types=accuracy,performance") == ["e1", "e3"]
    await both.get("/eval-runs?eval_types=nonsense", status=422)
    await both.get("/eval-runs?page=0", status=500)
    await both.get("/eval-runs/e3?db_id=os-db&table=agno_eval_runs")
    await both.get("/eval-runs/nothing", status=404)

    assert (await both.patch("/eval-runs/e1", {"name": "renamed %_"}))["name"] == "renamed %_"
    await both.patch("/eval-runs/nothing", {"name": "x"}, status=404)
    await both.patch("/eval-runs/e1", {"name": ""}, status=422)
    started = {"agent_id": "a1", "eval_type": "reliability", "input": "hello", "expected_tool_calls": ["launch"]}
    made = await both.post("/eval-runs", {**started, "name": "tools"})
    assert made["eval_data"]["eval_status"] == "FAILED"
    await both.get(f"/eval-runs/{made['id']}")
    await both.post("/eval-runs", {"eval_type": "reliability", "input": "hello"}, status=400)

    await both.delete("/eval-runs", {"eval_run_ids": ["e1", "nothing"]}, status=204)
    await both.get("/eval-runs/e1", status=404)
    assert await listed("") == ["e2", "e3", made["id"]]
    assert both.unasked("Evals") == set()


# --- Traces -----------------------------------------------------------------------------------------------------------


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(T0 + seconds, tz=UTC)


def trace_of(trace_id: str, began: float, lasted: float, **values: Any) -> Trace:
    names = ("run_id", "session_id", "user_id", "agent_id", "team_id", "workflow_id")
    return Trace(
        **{
            "trace_id": trace_id,
            "name": "a1.run",
            "status": "OK",
            "start_time": moment(began),
            "end_time": moment(began + lasted),
            "duration_ms": int(lasted * 1000),
            "total_spans": 0,
            "error_count": 0,
            "created_at": moment(began + lasted),
            **dict.fromkeys(names),
            **values,
        }
    )


def span_of(span_id: str, trace_id: str, parent: str | None, began: float, kind: str, **values: Any) -> Span:
    attributes = {"openinference.span.kind": kind, "input.value": "q", "output.value": "a", **values.pop("more", {})}
    return Span(
        **{
            "span_id": span_id,
            "trace_id": trace_id,
            "parent_span_id": parent,
            "name": f"{kind} {span_id}",
            "span_kind": "INTERNAL",
            "status_code": "OK",
            "status_message": None,
            "start_time": moment(began),
            "end_time": moment(began + 0.25),
            "duration_ms": 250,
            "attributes": attributes,
            "created_at": moment(began + 1),
            **values,
        }
    )


async def seed_traces(both: Both) -> None:
    for trace in (
        trace_of("x1", 0, 1.5, run_id="r1", session_id="s1", user_id="u1", agent_id="a1"),
        trace_of("x2", 100, 2, run_id="r2", session_id="s1", user_id="u1", agent_id="a2", status="ERROR"),
        trace_of("x3", 200.5, 0.01, session_id="s2", user_id="u2", team_id="t1", name="T1.run"),
        trace_of("x4", 300, 90, session_id="s3", workflow_id="w1", name="w1.run"),
        trace_of("x5", 400, 1, user_id="u1", name="GET /health"),
    ):
        await both.seed("upsert_trace", trace)
    tokens = {"llm.token_count.prompt": 5, "llm.token_count.completion": 6, "llm.model_name": "m"}
    failed = {"status_code": "ERROR", "status_message": "broken"}
    await both.seed(
        "create_spans",
        [
            span_of("p1", "x1", None, 0, "AGENT", more={"agno.run.id": "r1"}),
            span_of("p2", "x1", "p1", 0.5, "LLM", more=tokens),
            span_of("p3", "x1", "p1", 0.25, "TOOL", more={"tool.name": "launch", "tool.parameters": "{}"}),
            span_of("p4", "x1", "p3", 0.3, "LLM", more=tokens),
        ],
    )
    await both.seed("create_spans", [span_of("q1", "x2", None, 100, "AGENT", **failed)])
    steps = {"agno.workflow.steps_count": 1, "agno.workflow.step_types": ["Step"]}
    await both.seed("create_span", span_of("w1", "x4", None, 300, "CHAIN", more=steps))
    await both.seed("create_span", span_of("w2", "x4", "w1", 301, "AGENT"))


async def test_traces_answer_as_on_sqlite(both: Both) -> None:
    assert (await both.get("/traces"))["data"] == []
    await seed_traces(both)

    async def listed(query: str) -> list[str]:
        return [row["trace_id"] for row in (await both.get(f"/traces?{query}"))["data"]]

    assert await listed("") == ["x5", "x4", "x3", "x2", "x1"]
    assert await listed("limit=2&page=2") == ["x3", "x2"]
    assert (await both.get("/traces?limit=2&page=9"))["meta"]["total_count"] == 5
    assert await listed("session_id=s1&status=ERROR") == ["x2"]
    assert await listed("user_id=u1&agent_id=a1") == ["x1"]
    assert await listed("team_id=t1") == ["x3"]
    assert await listed("workflow_id=w1") == ["x4"]
    assert await listed("run_id=r2") == ["x2"]
    window = f"start_time={moment(100).isoformat()}&end_time={moment(250).isoformat()}".replace("+", "%2B")
    assert await listed(window) == ["x3", "x2"]
    await both.get("/traces?start_time=nonsense", status=500)

    detail = await both.get("/traces/x1")
    assert [node["id"] for node in detail["tree"][0]["spans"]] == ["p3", "p2"]
    assert detail["tree"][0]["metadata"] == {"total_input_tokens": 10, "total_output_tokens": 12}
    for path in ["x2", "x3", "x4", "x1?span_id=p4", "x1?run_id=r1"]:
        await both.get(f"/traces/{path}")
    for path in ["nothing", "x1?span_id=nothing", "x2?span_id=p1"]:
        await both.get(f"/traces/{path}", status=404)

    stats = await both.get("/trace_session_stats")
    assert [(row["session_id"], row["total_traces"]) for row in stats["data"]] == [("s3", 1), ("s2", 1), ("s1", 2)]
    await both.get("/trace_session_stats?limit=1&page=2")
    await both.get("/trace_session_stats?user_id=u1&agent_id=a1")
    await both.get("/trace_session_stats?workflow_id=w1")
    await both.get(f"/trace_session_stats?{window}")

    await both.get("/traces/filter-schema")

    async def found(filter: Any, **options: Any) -> list[str]:
        answer = await both.post("/traces/search", {"filter": filter, **options})
        return [row["session_id" if options.get("group_by") == "session" else "trace_id"] for row in answer["data"]]

    def is_(key: str, value: Any, op: str = "EQ") -> dict[str, Any]:
        return {"op": op, "key": key, "value": value}

    assert await found(None) == ["x5", "x4", "x3", "x2", "x1"]
    assert await found(None, limit=2, page=3) == ["x1"]
    assert await found(is_("status", "ERROR")) == ["x2"]
    assert await found(is_("name", "t1.RUN", "CONTAINS")) == ["x3"]
    assert await found(is_("name", "get", "STARTSWITH")) == ["x5"]
    assert await found(is_("duration_ms", 1500, "GTE")) == ["x4", "x2", "x1"]
    assert await found(is_("start_time", moment(200).isoformat(), "LT")) == ["x2", "x1"]
    assert await found({"op": "IN", "key": "agent_id", "values": ["a1", "a2"]}) == ["x2", "x1"]
    either = {"op": "OR", "conditions": [is_("team_id", "t1"), is_("workflow_id", "w1")]}
    assert await found(either) == ["x4", "x3"]
    assert await found({"op": "NOT", "condition": is_("user_id", "u1")}) == ["x3"]
    assert await found({"op": "AND", "conditions": [is_("user_id", "u1"), {"op": "NOT", "condition": either}]}) == []
    assert await found(is_("user_id", "u1"), group_by="session") == ["s1"]
    assert await found(None, group_by="session", limit=2, page=2) == ["s1"]
    for wrong in ({"op": "NONSENSE"}, {"op": "EQ", "key": "status"}, {"op": "IN", "key": "status"}, {"value": 1}):
        await both.post("/traces/search", {"filter": wrong}, status=400)
    await both.post("/traces/search", {"limit": 0}, status=422)
    assert both.unasked("Traces") == set()


# --- Learnings --------------------------------------------------------------------------------------------------------


async def test_learnings_answer_as_on_sqlite(both: Both) -> None:
    assert (await both.get("/learnings"))["data"] == []
    assert (await both.get("/learnings/users"))["data"] == []
    profile = {"learning_type": "user_profile", "content": {"name": "Ada", "a.b": [1.0, None]}}
    made = await both.post("/learnings", {**profile, "user_id": "u1", "metadata": {"by": "hand"}}, status=201)
    await both.post("/learnings", {**profile, "user_id": "u1"}, status=409)
    await both.post("/learnings", profile, status=422)
    memory = {"learning_type": "user_memory", "content": {"memories": []}, "user_id": "u2", "agent_id": "a1"}
    await both.post("/learnings", memory, status=201)
    entity = {"learning_type": "entity_memory", "content": {"facts": []}, "entity_id": "e1", "entity_type": "person"}
    shared = await both.post("/learnings", entity, status=201)
    assert (shared["namespace"], shared["user_id"]) == ("global", None)
    log = {"learning_type": "decision_log", "content": {"decision": "go"}, "user_id": "u1", "session_id": "s1"}
    logged = await both.post("/learnings", {**log, "team_id": "t1", "namespace": "custom"}, status=201)

    async def listed(query: str) -> list[str]:
        answer = await both.get(f"/learnings?sort_by=learning_type&sort_order=asc&{query}")
        return [row["learning_type"] for row in answer["data"]]

    assert await listed("") == ["decision_log", "entity_memory", "user_memory", "user_profile"]
    assert await listed("limit=3&page=2") == ["user_profile"]
    assert await listed("user_id=u1") == ["decision_log", "user_profile"]
    assert await listed("learning_type=user_memory&agent_id=a1") == ["user_memory"]
    assert await listed("team_id=t1&session_id=s1&namespace=custom") == ["decision_log"]
    assert await listed("entity_id=e1&entity_type=person") == ["entity_memory"]
    assert await listed("entity_id=e1&user_id=u1") == []
    assert (await both.get("/learnings?limit=3&page=3&sort_by=learning_type"))["meta"]["total_count"] == 4
    await both.get("/learnings?page=0", status=422)
    users = await both.get("/learnings/users?sort_by=user_id&sort_order=asc")
    assert [row["user_id"] for row in users["data"]] == ["u1", "u2"]
    await both.get("/learnings/users?limit=1&page=2&sort_by=user_id")
    await both.get("/learnings/users?learning_type=decision_log")
    await both.get("/learnings/users?user_id=u2")

    await both.get(f"/learnings/{made['learning_id']}?db_id=os-db&table=agno_learnings")
    await both.get("/learnings/nothing", status=404)
    kept = await both.patch(f"/learnings/{made['learning_id']}", {"content": {"name": "Ada L."}})
    assert (kept["content"], kept["metadata"]) == ({"name": "Ada L."}, {"by": "hand"})
    assert (await both.patch(f"/learnings/{made['learning_id']}", {"metadata": None}))["metadata"] is None
    await both.patch(f"/learnings/{made['learning_id']}", {"content": None}, status=422)
    await both.patch(f"/learnings/{made['learning_id']}", {})
    await both.patch("/learnings/nothing", {"content": {}}, status=404)

    await both.delete(f"/learnings/{shared['learning_id']}", status=204)
    await both.delete(f"/learnings/{shared['learning_id']}", status=404)
    await both.delete("/learnings/users/u1?learning_type=user_profile", status=204)
    await both.get(f"/learnings/{made['learning_id']}", status=404)
    await both.get(f"/learnings/{logged['learning_id']}")
    await both.delete("/learnings/users/u1", status=204)
    await both.delete("/learnings/users/nobody", status=204)
    assert await listed("") == ["user_memory"]
    assert both.unasked("Learnings") == set()


# --- Schedules and approvals ------------------------------------------------------------------------------------------


async def test_schedules_and_approvals_answer_as_on_sqlite(both: Both) -> None:
    assert (await both.get("/schedules"))["data"] == []
    yearly = {"cron_expr": "0 0 1 1 *", "endpoint": "/health", "method": "GET", "payload": {"a.b": [None, 1.5]}}
    made = await both.post("/schedules", {"name": "daily", **yearly}, status=201)
    assert (made["id"], made["created_at"], made["enabled"]) == ("generated-0", "now", True)
    await both.post("/schedules", {"name": "daily", **yearly}, status=409)
    await both.post("/schedules", {"name": "wrong", **yearly, "cron_expr": "x"}, status=422)
    for number in range(3):
        row = schedule_of(f"s{number}", endpoint="/health", method="GET", cron_expr="0 0 1 1 *", created_at=T0 + number)
        await both.seed("create_schedule", {**row, "user_id": ("u1", None)[number % 2]})
    assert [row["id"] for row in (await both.get("/schedules"))["data"]] == ["generated-0", "s2", "s1", "s0"]
    assert [row["id"] for row in (await both.get("/schedules?limit=2&page=2"))["data"]] == ["s1", "s0"]
    assert (await both.get("/schedules?limit=2&page=3"))["meta"]["total_count"] == 4
    await both.get("/schedules/s1")
    await both.get("/schedules/nothing", status=404)
    await both.post("/schedules/s1/disable")
    assert [row["id"] for row in (await both.get("/schedules?enabled=false"))["data"]] == ["s1"]
    await both.post("/schedules/s1/trigger", status=409)
    assert (await both.post("/schedules/s1/enable"))["next_run_at"] > T0
    changed = await both.patch("/schedules/s1", {"name": "renamed", "payload": {"x": []}, "timeout_seconds": 5})
    assert (changed["name"], changed["payload"], changed["updated_at"]) == ("renamed", {"x": []}, "now")
    await both.patch("/schedules/s1", {"name": "s0"}, status=200)  # another owner's
    await both.patch("/schedules/s1", {"name": "daily"}, status=409)
    for path in ["disable", "enable", "trigger"]:
        await both.post(f"/schedules/nothing/{path}", status=404)
    for method in (both.patch, both.delete):
        await method("/schedules/nothing", {"name": "x"}, status=404)

    for number in range(3):
        run = execution_of(f"r{number}", "s0", output={"n": number}, created_at=T0 + number, completed_at=T0 + 5)
        await both.seed("create_schedule_run", {**run, "status": "success"})
    assert [row["id"] for row in (await both.get("/schedules/s0/runs?limit=2"))["data"]] == ["r2", "r1"]
    assert (await both.get("/schedules/s0/runs?limit=2&page=3"))["meta"]["total_count"] == 3
    assert (await both.get("/schedules/s0/runs/r1"))["output"] == {"n": 1}
    await both.get("/schedules/s1/runs/r1", status=404)
    await both.get("/schedules/nothing/runs", status=404)

    # What is triggered, and what is due, is run by requests of AgentOS to itself. Its runs have ids of its own making.
    for side in (both.oracle, both.ours):
        triggered = (await side.client.post("/schedules/s2/trigger")).json()
        assert (triggered["status"], triggered["status_code"], triggered["user_id"]) == ("success", 200, "u1")
        found = (await side.client.get(f"/schedules/s2/runs/{triggered['id']}")).json()
        # Agno reads the clock once for the answer and once for the row.
        assert {**found, "completed_at": None} == {**triggered, "completed_at": None}
        await side.store.update_schedule("s2", next_run_at=T0)
        poller = side.app.state.scheduler_poller
        await poller._poll_once()
        await asyncio.gather(*poller._in_flight)
        row = await side.store.get_schedule("s2")
        assert (row["locked_by"], row["locked_at"]) == (None, None) and row["next_run_at"] > T0
        assert [run["status"] for run in (await side.store.get_schedule_runs("s2"))[0]] == ["success"] * 2
    both.requested.add(("POST", "/schedules/s2/trigger"))
    await both.delete("/schedules/s2", status=204)
    await both.get("/schedules/s2/runs", status=404)
    assert both.unasked("Schedules") == set()

    assert await both.get("/approvals/count") == {"count": 0}
    for number in range(4):
        values = {"user_id": ("u1", "u2")[number % 2], "run_id": f"r{number // 2}", "context": {"a.b": [number]}}
        await both.seed("create_approval", approval_of(f"a{number}", created_at=T0 + number, **values))

    async def listed(query: str) -> list[str]:
        return [row["id"] for row in (await both.get(f"/approvals?{query}"))["data"]]

    assert await listed("") == ["a3", "a2", "a1", "a0"]
    assert await listed("limit=3&page=2") == ["a0"]
    assert await listed("user_id=u1&run_id=r1&status=pending&agent_id=ag1&approval_type=required") == ["a2"]
    assert await listed("team_id=t1") == await listed("schedule_id=s") == await listed("pause_type=x") == []
    await both.get("/approvals?status=nonsense", status=422)
    assert await both.get("/approvals/count?user_id=u1") == {"count": 2}
    await both.get("/approvals/a1")
    await both.get("/approvals/a1/status")
    decision = {"status": "approved", "resolved_by": "boss", "resolution_data": {"values": [{"$x": None}]}}
    assert (await both.post("/approvals/a1/resolve", decision))["resolved_at"] == "now"
    await both.post("/approvals/a1/resolve", {"status": "rejected"}, status=409)
    await both.post("/approvals/nothing/resolve", {"status": "rejected"}, status=404)
    assert (await both.get("/approvals/a1/status"))["status"] == "approved"
    assert await both.get("/approvals/count") == {"count": 3}
    for path in ["nothing", "nothing/status"]:
        await both.get(f"/approvals/{path}", status=404)
    await both.delete("/approvals/a0", status=204)
    await both.delete("/approvals/a0", status=500)
    assert await listed("status=pending") == ["a3", "a2"]
    assert both.unasked("Approvals") == set()


async def test_callers_and_service_accounts_see_own_schedules_and_approvals_as_on_sqlite(
    guarded: Both,
) -> None:
    both = guarded
    for number, user in enumerate(["u1", "u2", None]):
        await both.seed("create_schedule", schedule_of(f"s{number}", user_id=user, created_at=T0 + number))
        await both.seed("create_schedule_run", execution_of(f"r{number}", f"s{number}", user_id=user))
        await both.seed("create_approval", approval_of(f"a{number}", user_id=user, created_at=T0 + number))
    own = [f"{part}:{action}" for part in ("schedules", "approvals") for action in ("read", "write", "delete")]
    u1, admin = both.calling("u1", *own, "sessions:read"), both.calling("root", "agent_os:admin")
    await both.get("/schedules", status=401)
    assert [row["id"] for row in (await u1.get("/schedules"))["data"]] == ["s0"]
    assert [row["id"] for row in (await admin.get("/schedules"))["data"]] == ["s2", "s1", "s0"]
    assert [row["id"] for row in (await u1.get("/approvals?user_id=u2"))["data"]] == ["a0"]
    assert await u1.get("/approvals/count") == {"count": 1} and await admin.get("/approvals/count") == {"count": 3}
    for path in ["schedules/s1", "schedules/s1/runs", "schedules/s1/runs/r1", "approvals/a1", "approvals/a1/status"]:
        await u1.get(f"/{path}", status=404)
        await admin.get(f"/{path}")
    await u1.patch("/schedules/s1", {"description": "stolen"}, status=404)
    await u1.delete("/schedules/s1", status=404)
    await u1.post("/schedules/s2/disable", status=404)
    await u1.post("/approvals/a0/resolve", {"status": "approved"}, status=404)
    await u1.delete("/schedules/s0", status=204)
    assert (await admin.post("/approvals/a0/resolve", {"status": "approved"}))["resolved_by"] == "root"

    body = {"name": "bot", "scopes": [{"scope": "sessions:read", "effect": "allow"}]}
    await both.post("/service-accounts", body, status=401)
    await u1.post("/service-accounts", body, status=403)
    for side in (both.oracle, both.ours):  # a token is drawn by chance, and told once
        made = (await side.client.post("/service-accounts", json=body, headers=admin.headers)).json()
        bearer = {"Authorization": f"Bearer {made['token']}"}
        assert (await side.client.get("/sessions", headers=bearer)).status_code == 200
        assert (await side.client.get("/schedules", headers=bearer)).status_code == 403
        assert (await side.client.post("/service-accounts", json=body, headers=admin.headers)).status_code == 409
        (row,) = (await side.store.get_service_accounts())[0]
        assert row["last_used_at"] is not None and row["token_hash"] != made["token"]
        revoked = await side.client.delete(f"/service-accounts/{row['id']}", headers=admin.headers)
        assert revoked.status_code == 204
        again = (await side.client.post("/service-accounts", json=body, headers=admin.headers)).json()
        assert again["id"] != row["id"]
        assert (await side.store.get_service_account_by_name("bot"))["id"] == again["id"]
        for id in (row["id"], again["id"]):
            assert await side.store.delete_service_account(id) is True
    for number in range(3):
        row = account_of(f"sa{number}", created_at=T0 + number, user_id=("u1", "u2", None)[number])
        await both.seed("create_service_account", row)
    listed = await admin.get("/service-accounts?sort_by=name&sort_order=asc&include_revoked=false&limit=2")
    assert [row["name"] for row in listed["data"]] == ["sa0", "sa1"] and listed["meta"]["total_count"] == 3
    assert (await admin.get("/service-accounts?limit=1&page=3"))["data"][0]["name"] == "sa0"
    await admin.delete("/service-accounts/sa1", status=204)
    await admin.delete("/service-accounts/nothing", status=404)


async def test_roles_users_and_trails_answer_as_on_sqlite(managed: Both) -> None:
    both = managed
    root, u1 = both.calling("root"), both.calling("u1")
    await both.get("/authz/roles", status=401)
    await u1.get("/authz/roles", status=403)
    assert [role["slug"] for role in (await root.get("/authz/roles"))["data"]] == ["admin", "viewer"]
    await root.post("/authz/roles", {"slug": "editor", "name": "Editor"}, status=201)
    await root.post("/authz/roles", {"slug": "editor"}, status=409)
    await root.put("/authz/roles/editor/scopes", {"scopes": ["sessions:read", "sessions:write"]})
    deny = {"scope": "agents:read", "effect": "deny"}
    await root.patch("/authz/roles/editor/scopes", {"upsert": [deny], "remove": ["sessions:write"]})
    changed = await root.patch("/authz/roles/editor", {"description": "edits", "is_default": False})
    assert (changed["description"], len(changed["scopes"])) == ("edits", 2)
    await root.get("/authz/roles/nothing", status=404)

    # What is granted, changed and taken away holds at the next request.
    await u1.get("/sessions", status=403)
    await root.get("/authz/subjects/u1/roles")
    await root.post("/authz/subjects/u1/roles", {"role": "editor"})
    await u1.get("/sessions")
    await root.post("/authz/subjects/u1/roles", {"role": "viewer"})
    assert (await root.get("/authz/subjects/u1/roles"))["role"] == "viewer"
    await root.put("/authz/roles/viewer/scopes", {"scopes": []})
    await u1.get("/sessions", status=403)
    await root.put("/authz/roles/viewer/scopes", {"scopes": ["sessions:read"]})
    await u1.get("/sessions")
    await root.patch("/users/u1", {"disabled": True})
    await u1.get("/sessions", status=403)
    await root.patch("/users/u1", {"disabled": False, "name": "U"})
    await u1.get("/sessions")
    await root.delete("/authz/subjects/u1/roles/viewer")
    await u1.get("/sessions", status=403)
    await root.delete("/authz/roles/editor")
    assert [role["slug"] for role in (await root.get("/authz/roles"))["data"]] == ["admin", "viewer"]

    await root.post("/users", {"id": "u2", "email": "Bob@x.org"})
    for query in ["?sort_by=id&order=asc", "?search=bob", "/u2", "/metrics", "?limit=1&page=2&sort_by=id"]:
        await root.get(f"/users{query}")
    await root.delete("/users/u2")
    await root.get("/users/u2", status=404)
    trails = []
    for side in (both.ours, both.oracle):  # events of one second are in no order
        events = (await side.client.get("/authz/audit?sort_by=action&sort_order=asc", headers=root.headers)).json()[
            "data"
        ]
        assert [event["action"] for event in events] == sorted(event["action"] for event in events)
        trails.append(sorted((event["action"], event["actor"] or "", event["target"]) for event in events))
    assert trails[0] == trails[1] and len(trails[0]) > 8
    assert (await root.get("/authz/audit?search=u2&page=99"))["meta"]["total_count"] >= 2
    assert (await root.get("/authz/decisions?search=denied&page=99"))["meta"]["total_count"] >= 4


# --- Scoped callers ---------------------------------------------------------------------------------------------------

#: What a caller who is nobody special may do.
EVERYTHING_OWN = (
    *(f"{part}:{action}" for part in ("sessions", "memories", "learnings", "evals") for action in ("read", "write")),
    *(f"{part}:delete" for part in ("sessions", "memories", "learnings", "evals")),
    *("knowledge:read", "knowledge:write", "knowledge:delete", "metrics:read", "metrics:write", "traces:read"),
    *("agents:run", "agents:read"),
)


async def test_a_caller_sees_own_sessions_memories_and_runs_as_on_sqlite(guarded: Both) -> None:
    await seed_sessions(guarded)
    await seed_memories(guarded)
    await guarded.get("/sessions", status=401)
    u1, u2 = guarded.calling("u1", *EVERYTHING_OWN), guarded.calling("u2", *EVERYTHING_OWN)
    admin = guarded.calling("root", "agent_os:admin")

    assert [row["session_id"] for row in (await u1.get("/sessions"))["data"]] == ["ts", "s1"]
    assert [row["session_id"] for row in (await u1.get("/sessions?user_id=u2"))["data"]] == ["ts", "s1"]
    assert (await admin.get("/sessions"))["meta"]["total_count"] == 4
    assert [row["session_id"] for row in (await admin.get("/sessions?user_id=u2"))["data"]] == ["s2"]
    for path in ["s1", "s1/runs", "s1/runs/r0", "s1/run-previews", "ws"]:
        await u2.get(f"/sessions/{path}", status=404)
        await admin.get(f"/sessions/{path}")
    await u2.patch("/sessions/s1", {"session_name": "stolen"}, status=404)
    await u2.post("/sessions/s1/rename", {"session_name": "stolen"}, status=404)
    await u2.post("/sessions", {"session_id": "s1", "agent_id": "a1"}, status=409)
    await u2.post("/sessions", {"session_id": "mine", "agent_id": "a1", "user_id": "u1"}, status=201)
    assert (await u2.get("/sessions/mine"))["user_id"] == "u2"
    await u2.delete("/sessions/s1", status=204)
    await u2.delete("/sessions", {"session_ids": ["s1", "ts"], "session_types": ["agent", "team"]}, status=204)
    assert (await u1.get("/sessions"))["meta"]["total_count"] == 2
    assert (await u1.get("/sessions/s1"))["session_name"] == "Alpha plan"

    talk = {"message": "hello", "stream": "false", "session_id": "talk"}
    run = await u1.post("/agents/a1/runs", form={**talk, "user_id": "u2"})
    assert (await admin.get("/sessions/talk"))["user_id"] == "u1"
    await u2.post("/agents/a1/runs", form=talk, status=404)
    await u2.get(f"/agents/a1/runs/{run['run_id']}?session_id=talk", status=404)
    assert len(await u1.get("/sessions/talk/runs")) == 1

    assert [row["memory_id"] for row in (await u1.get("/memories?user_id=u2"))["data"]] == ["m2", "m1"]
    assert [row["user_id"] for row in (await u1.get("/user_memory_stats"))["data"]] == ["u1"]
    assert await u2.get("/memory_topics?user_id=u1", unordered=True) == ["food"]
    await u2.get("/memories/m1", status=404)
    await u2.patch("/memories/m1", {"memory": "stolen", "user_id": "u1"}, status=404)
    await u2.delete("/memories/m1", status=204)
    await u2.delete("/memories", {"memory_ids": ["m1", "m2"], "user_id": "u1"}, status=204)
    assert (await u1.get("/memories"))["meta"]["total_count"] == 2
    made = await u2.post("/memories", {"memory": "mine", "user_id": "u1"})
    assert made["user_id"] == "u2"
    assert (await admin.get("/memories"))["meta"]["total_count"] == 6


async def test_a_caller_sees_own_traces_learnings_evals_metrics_and_knowledge_as_on_sqlite(guarded: Both) -> None:
    u1, u2 = guarded.calling("u1", *EVERYTHING_OWN), guarded.calling("u2", *EVERYTHING_OWN)
    admin = guarded.calling("root", "agent_os:admin")
    await seed_traces(guarded)
    assert [row["trace_id"] for row in (await u1.get("/traces?user_id=u2"))["data"]] == ["x5", "x2", "x1"]
    assert [row["session_id"] for row in (await u2.get("/trace_session_stats?user_id=u1"))["data"]] == ["s2"]
    everything = {"op": "OR", "conditions": [{"op": "EQ", "key": "user_id", "value": user} for user in ("u1", "u2")]}
    for filter_ in (None, everything):
        found = await u2.post("/traces/search", {"filter": filter_})
        assert [row["trace_id"] for row in found["data"]] == ["x3"]
        grouped = await u2.post("/traces/search", {"filter": filter_, "group_by": "session"})
        assert [row["session_id"] for row in grouped["data"]] == ["s2"]
    for path in ["x1", "x1?span_id=p1", "x4"]:
        await u2.get(f"/traces/{path}", status=404)
        await admin.get(f"/traces/{path}")

    profile = {"learning_type": "user_profile", "content": {"name": "Ada"}}
    await u1.post("/learnings", {**profile, "user_id": "u2"}, status=403)
    own = await u1.post("/learnings", profile, status=201)
    assert own["user_id"] == "u1"
    entity = {"learning_type": "entity_memory", "content": {}, "entity_id": "e1", "entity_type": "person"}
    shared = await admin.post("/learnings", entity, status=201)
    assert [row["learning_type"] for row in (await u2.get("/learnings"))["data"]] == ["entity_memory"]
    assert (await u1.get("/learnings?sort_by=learning_type"))["meta"]["total_count"] == 2
    await u2.get("/learnings?user_id=u1", status=403)
    await u2.get(f"/learnings/{shared['learning_id']}")
    for learning, status in ((own, 404), (shared, 403)):
        await u2.patch(f"/learnings/{learning['learning_id']}", {"content": {}}, status=status)
        await u2.delete(f"/learnings/{learning['learning_id']}", status=status)
    await u2.get(f"/learnings/{own['learning_id']}", status=404)
    await u2.delete("/learnings/users/u1", status=403)
    assert (await u2.get("/learnings/users"))["data"] == []

    for user in ("u1", "u2"):
        record = EvalRunRecord(run_id=f"e-{user}", eval_type=EvalType.ACCURACY, eval_data={}, agent_id="a1")
        await guarded.seed("create_eval_run", record)
        await guarded.seed("update_eval_run_user_id", f"e-{user}", user)
    assert [row["id"] for row in (await u1.get("/eval-runs"))["data"]] == ["e-u1"]
    await u2.get("/eval-runs/e-u1", status=404)
    await u2.patch("/eval-runs/e-u1", {"name": "stolen"}, status=404)
    await u2.delete("/eval-runs", {"eval_run_ids": ["e-u1"]}, status=204)
    assert (await admin.get("/eval-runs/e-u1"))["user_id"] == "u1"
    started = {"agent_id": "a1", "eval_type": "reliability", "input": "hello", "expected_tool_calls": []}
    made = await u1.post("/eval-runs", started)
    assert made["user_id"] == "u1"
    await u2.get(f"/eval-runs/{made['id']}", status=404)

    await guarded.seed("upsert_session", agent_session("s1", user_id="u1", created_at=int(time.time())))
    assert [row["users_count"] for row in await admin.post("/metrics/refresh")] == [1]
    assert len((await u1.get("/metrics?user_id=u2"))["metrics"]) == 1
    assert (await u2.get("/metrics?user_id=u1"))["metrics"] == []

    note = {"name": "note", "text_content": "Bees make honey."}
    mine = await u1.post("/knowledge/content", form=note, status=202)
    common = await admin.post("/knowledge/content", form={**note, "name": "common"}, status=202)
    for call, status in ((u1, 200), (u2, 404), (admin, 200)):
        await call.get(f"/knowledge/content/{mine['id']}", status=status)
        await call.get(f"/knowledge/content/{mine['id']}/status", status=status)
        await call.get(f"/knowledge/content/{common['id']}")
    assert (await u2.get("/knowledge/content"))["meta"]["total_count"] == 1
    assert (await u2.post("/knowledge/search", {"query": "honey"}))["meta"]["total_count"] == 1
    await u2.patch(f"/knowledge/content/{mine['id']}", form={"name": "stolen"}, status=404)
    await u2.patch(f"/knowledge/content/{common['id']}", form={"name": "stolen"}, status=403)
    await u2.delete(f"/knowledge/content/{mine['id']}", status=404)
    await u2.delete(f"/knowledge/content/{common['id']}", status=403)
    await u2.delete("/knowledge/content")
    assert (await u1.get("/knowledge/content?sort_by=name"))["meta"]["total_count"] == 2


#: What a caller may do with components; who has the first alone looks at them.
WITH_COMPONENTS = tuple(f"components:{action}" for action in ("read", "write", "delete"))


async def components_of_callers(both: Both, u1: Both, u2: Both, reader: Both, root: Both, *, apart: bool) -> None:
    """What each caller sees and may change of components of his own, of another, and of nobody. `apart`: so `root`,
    who else may do everything with all."""

    async def seen(call: Both, query: str = "") -> list[str]:
        # All are made at about the same time: which is the latest depends on the clock.
        found = []
        for side in (both.oracle, both.ours):
            answer = side.plain((await side.client.get(f"/components?{query}", headers=call.headers)).json())
            found.append(answer | {"data": sorted(answer["data"], key=lambda row: str(row["component_id"]))})
        assert not (lines := list(differences(found[1], found[0]))), lines
        return [row["component_id"] for row in found[1]["data"]]

    agent = {"component_type": "agent", "config": {"k.1": {"$a": 1}}}
    await both.get("/components", status=401)
    await reader.post("/components", {**agent, "name": "x"}, status=403)
    for number, stage in enumerate(("draft", "published")):
        values = {"component_type": ComponentType.AGENT, "name": "Shared", "config": {"n": number}, "stage": stage}
        await both.seed("create_component_with_config", component_id=f"shared-{number}", **values)
    assert (await u1.post("/components", {**agent, "name": "A", "component_id": "mine"}, status=201))["user_id"] == "u1"
    public = {**agent, "name": "B", "component_id": "public", "stage": "published"}
    await u1.post("/components", public, status=201)
    await u2.post("/components", {**agent, "name": "A", "component_id": "theirs"}, status=201)
    await u2.post("/components", public, status=400)
    named = [(await call.post("/components", {**agent, "name": "Same"}, status=201)) for call in (u1, u2)]
    assert named[0]["component_id"] != named[1]["component_id"]

    shared = ["public", "shared-0", "shared-1"]
    assert await seen(u1) == sorted(["mine", named[0]["component_id"], *shared])
    assert await seen(u2, "component_type=agent") == sorted(["theirs", named[1]["component_id"], *shared])
    assert await seen(reader) == shared and len(await seen(root)) == (3 if apart else 7)
    assert await seen(u2, "component_type=team") == []

    # A version that is published is shared; the next one is its owner's until it is, too.
    await u1.post("/components/public/configs", {"config": {"secret": "s"}, "label": "next"}, status=201)
    for call, versions in ((u1, 2), (u2, 1), (reader, 1), (root, 2)):
        assert len(await call.get("/components/public/configs")) == versions
        await call.get("/components/public")
        await call.get("/components/public/configs/2", status=200 if versions == 2 else 404)
        await call.get("/components/public/configs/3", status=404)
        await call.get("/components/shared-0/configs?include_config=true")
    # Of the database, whose settings differ, strangers see the tables.
    kept = {"component_id": "kept", "stage": "published", "config": {"db": {"id": "os-db", "session_table": "t"}}}
    for side in (both.oracle, both.ours):
        made = await side.client.post("/components", json={**agent, "name": "K", **kept}, headers=u1.headers)
        assert made.status_code == 201
        path = "/components/kept/configs/current"
        whole, cut = [(await side.client.get(path, headers=c.headers)).json()["config"]["db"] for c in (u1, u2)]
        assert cut == {key: whole[key] for key in whole if key in ("id", "type") or key.endswith("_table")}
        assert (cut["id"], cut["session_table"]) == ("os-db", "t")
    await u1.delete("/components/kept", status=204)

    # What may be seen may not be changed by all who see it.
    for id, status in (("mine", 404), ("public", 403), ("shared-0", 403), ("nothing", 404)):
        for call in (u2, reader):
            refused = status if call is u2 else 403
            await call.patch(f"/components/{id}", {"name": "stolen"}, status=refused)
            await call.delete(f"/components/{id}", status=refused)
            await call.post(f"/components/{id}/configs", {"config": {}}, status=refused)
            await call.patch(f"/components/{id}/configs/1", {"notes": "n"}, status=refused)
            await call.post(f"/components/{id}/configs/1/set-current", status=refused)
            await call.delete(f"/components/{id}/configs/1", status=refused)
    await u2.get("/components/mine", status=404)
    await u2.get("/components/mine/configs", status=404)
    await u2.get("/components/mine/configs/current", status=404)
    await root.patch("/components/mine", {"description": "seen"}, status=404 if apart else 200)

    # A team is made of what its maker may see.
    def team(*members: str) -> dict[str, Any]:
        config = {"members": [{"type": "agent", "agent_id": member} for member in members]}
        return {"name": "T", "component_type": "team", "component_id": "team", "config": config}

    await u2.post("/components", team("mine"), status=404)
    await u2.post("/components", team("public", "nobody"), status=400)
    await u2.post("/components", {**team("public", "theirs"), "stage": "published"}, status=201)
    link = {"link_kind": "member", "link_key": "m", "child_component_id": "public", "position": 0}
    for version, status in ((2, 404), (9, 404), (1.5, 400), (True, 400), (1, 201)):
        body = {"config": {}, "links": [{**link, "child_version": version}]}
        await u2.post("/components/team/configs", body, status=status)
    assert (await u1.get("/components/team"))["user_id"] == "u2"
    await u2.delete("/components/theirs", status=204)
    await root.delete("/components/public", status=403 if apart else 409)
    await u1.delete("/components/public", status=204)

    # What is archived is its owner's to see and to restore.
    await u1.get("/components/public", status=404)
    await u1.get("/components/public?include_deleted=true")
    assert "public" in await seen(u1, "include_deleted=true") and "public" not in await seen(u2, "include_deleted=true")
    await u2.get("/components/public?include_deleted=true", status=404)
    await u2.post("/components/public/restore", status=404)
    await reader.post("/components/public/restore", status=403)
    await u1.post("/components/public", status=405)
    await u1.post("/components/public/restore")
    await u1.post("/components/public/restore", status=409)
    await u2.post("/components/shared-0/restore", status=409)
    await u1.patch("/components/public/configs/2", {"stage": "published"})
    assert (await u2.get("/components/public/configs/current"))["version"] == 2
    await u1.post("/components/public/configs/1/set-current")
    assert (await u2.get("/components/public"))["current_version"] == 1


async def test_a_caller_sees_and_changes_own_components_as_on_sqlite(guarded: Both) -> None:
    u1, u2 = guarded.calling("u1", *WITH_COMPONENTS), guarded.calling("u2", *WITH_COMPONENTS)
    reader, root = guarded.calling("u3", WITH_COMPONENTS[0]), guarded.calling("root", "agent_os:admin")
    if guarded.ours.store.is_async:
        for call, status in ((guarded, 401), (guarded.calling("u4"), 403), (u1, 503), (root, 503)):
            await call.get("/components", status=status)
        return
    await components_of_callers(guarded, u1, u2, reader, root, apart=False)


async def test_who_may_change_components_is_told_by_roles_as_on_sqlite(managed: Both) -> None:
    root, u1, u2, u3 = (managed.calling(user) for user in ("root", "u1", "u2", "u3"))
    await root.post("/authz/roles", {"slug": "builder"}, status=201)
    await root.put("/authz/roles/builder/scopes", {"scopes": list(WITH_COMPONENTS)})
    await root.put("/authz/roles/viewer/scopes", {"scopes": [WITH_COMPONENTS[0]]})
    await u1.get("/components", status=403)
    for user, role in (("u1", "builder"), ("u2", "builder"), ("u3", "viewer")):
        await root.post(f"/authz/subjects/{user}/roles", {"role": role})
    if managed.ours.store.is_async:
        for call, status in ((managed, 401), (managed.calling("u4"), 403), (u1, 503), (root, 503)):
            await call.get("/components", status=status)
        return
    await components_of_callers(managed, u1, u2, u3, root, apart=True)


async def test_transcripts_of_external_agents_go_with_their_sessions_as_on_sqlite(guarded: Both) -> None:
    """No route tells them. Agno's own store for the SDK of such an agent writes them; who deletes a session, deletes
    them."""

    async def kept() -> list[str]:
        found: list[Any] = []
        for side in (guarded.oracle, guarded.ours):
            transcripts: list[Any] = []
            for number in range(4):
                store = AgnoSessionStore(side.store.raw, "project", f"s{number}")
                key = {"session_id": f"c{number}"}
                main, branch = await store.load(key), await store.load({**key, "subpath": "branch"})
                transcripts.append((main, branch, await store.list_subkeys(key)))
            listed = await store.list_sessions("project")
            assert all(side.is_now(row["mtime"] / 1000) for row in listed)
            found.append([transcripts, sorted(row["session_id"] for row in listed)])
        assert found[0] == found[1]
        names: list[str] = found[1][1]
        return names

    for number, user in enumerate(("u1", "u1", "u2", "u1")):
        await guarded.seed("upsert_session", agent_session(f"s{number}", user_id=user, created_at=T0 + number))
        for side in (guarded.oracle, guarded.ours):
            store = AgnoSessionStore(side.store.raw, "project", f"s{number}")
            entries = [{"uuid": f"e{n % 2}", "type": "user", "a.b": [None, 1.5, {"$c": "é"}]} for n in range(3)]
            for subpath in (None, "branch"):
                await store.append({"session_id": f"c{number}", "subpath": subpath}, entries)
    u1, root = guarded.calling("u1", *EVERYTHING_OWN), guarded.calling("root", "agent_os:admin")
    assert await kept() == ["c0", "c1", "c2", "c3"]
    await u1.delete("/sessions/s2", status=204)
    await u1.delete("/sessions", {"session_ids": ["s2"], "session_types": ["agent"]}, status=204)
    await u1.post("/sessions/s0/rename?type=agent", {"session_name": "other"})
    assert await kept() == ["c0", "c1", "c2", "c3"]
    await u1.delete("/sessions/s0", status=204)
    assert await kept() == ["c1", "c2", "c3"]
    await root.delete("/sessions", {"session_ids": ["s1", "s2"], "session_types": ["agent"] * 2}, status=204)
    assert await kept() == ["c3"]


async def test_a_stored_agent_runs_for_who_may_see_it_as_on_sqlite(guarded: Both) -> None:
    if guarded.ours.store.is_async:
        await guarded.calling("root", "agent_os:admin").get("/components", status=503)
        return
    scopes = (*WITH_COMPONENTS, *EVERYTHING_OWN)
    u1, u2 = guarded.calling("u1", *scopes), guarded.calling("u2", *scopes)
    for id, stage in (("draft", "draft"), ("public", "published")):
        body = {"component_type": "agent", "component_id": id, "name": id, "stage": stage, "config": stored_agent(id)}
        await u1.post("/components", body, status=201)
    talk = {"message": "hello", "stream": "false"}
    for call, user in ((u1, "u1"), (u2, "u2")):
        run = await call.post("/agents/public/runs", form={**talk, "session_id": f"of-{user}"})
        assert run["content"] == "1 asked, last: hello"
        assert (await call.get(f"/sessions/of-{user}"))["user_id"] == user
        await call.get(f"/agents/public/runs/{run['run_id']}?session_id=of-{user}")
        await call.post("/agents/draft/runs", form=talk, status=404)
    assert [agent["id"] for agent in await u2.get("/agents")] == ["a1", "a2", "public"]
    await u2.get("/sessions/of-u1", status=404)
    # A version is asked for by who may read it.
    changed = {"config": stored_agent("public", description="the next"), "stage": "draft"}
    await u1.post("/components/public/configs", changed, status=201)
    await u2.post("/agents/public/runs", form={**talk, "version": "2"}, status=404)
    await u1.post("/agents/public/runs", form={**talk, "version": "2", "session_id": "next"})
    await u1.get("/agents/public")
    await u2.get("/agents/public")
    await u1.delete("/components/public", status=204)
    await u2.post("/agents/public/runs", form=talk, status=404)


# --- The database itself ----------------------------------------------------------------------------------------------


async def test_the_database_is_described_and_migrated_as_on_sqlite(both: Both) -> None:
    config = await both.get("/config")
    assert config["databases"] == ["os-db"]
    for path in ("/agents", "/agents/a1", "/teams", "/teams/t1", "/workflows", "/workflows/w1"):
        await both.get(path)
    await both.seed("upsert_session", agent_session("s1", user_id="u1", created_at=T0))
    await both.post("/databases/os-db/migrate")
    await both.post("/databases/all/migrate")
    await both.post("/databases/os-db/migrate?target_version=3.0.0")
    await both.post("/databases/os-db/migrate?target_version=2.0.0")
    await both.post("/databases/os-db/migrate")
    await both.post("/databases/nothing/migrate", status=404)
    assert (await both.get("/sessions/s1"))["user_id"] == "u1"
    assert both.unasked("Database") == set()

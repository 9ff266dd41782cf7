"""The work that is measured: the same calls of `BaseDb`, with the same values, on either side.

Everything is written through the public methods, as an agent would have written it. Runs hold 4 KB of text unless
something else is said, sessions 600 bytes of state, memories 600, knowledge contents 600, evals and spans 1 KB.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agno.db.base import AsyncBaseDb, SessionType
from agno.db.schemas.evals import EvalRunRecord, EvalType
from agno.db.schemas.knowledge import KnowledgeRow
from agno.db.schemas.memory import UserMemory
from agno.run.agent import RunOutput
from agno.session import AgentSession

from agno_docstores.conformance.traces import span, trace
from tests.bench.counting import Counts
from tests.bench.sides import OURS, Side
from tests.meters import KB, prose

AGENT, OWNER = "agent-1", "user-1"
#: As AgentOS lists sessions: rows of one type, and how many there are of it.
TOTAL: dict[str, Any] = {"session_type": SessionType.AGENT, "deserialize": False}


@dataclass(frozen=True)
class Sizes:
    histories: tuple[int, ...] = (0, 10, 100, 1000)
    deleted: int = 500  # runs of the session that is deleted
    sessions: int = 2000
    counted: int = 200  # sessions that the metrics count
    records: int = 200  # memories, knowledge contents, evals, traces, of ten users
    large: int = 5_000_000  # bytes of the large run
    repeat: int = 5  # times that CPU and seconds are taken; the least is kept


SMALL = Sizes(histories=(0, 5), deleted=3, sessions=40, counted=3, records=10, large=500_000, repeat=1)


def run_of(session_id: str, number: int, size: int = 4 * KB) -> RunOutput:
    return RunOutput(
        run_id=f"{session_id}-r{number}",
        session_id=session_id,
        user_id=OWNER,
        agent_id=AGENT,
        status="COMPLETED",  # type: ignore[arg-type]
        content=prose(size, number),
        created_at=int(time.time()),
    )


def session_of(session_id: str, number: int = 0, **values: Any) -> AgentSession:
    return AgentSession(
        session_id=session_id,
        **{
            "agent_id": AGENT,
            "user_id": OWNER,
            "session_data": {"session_name": f"Session {number}", "session_state": {"text": prose(600, number)}},
            "created_at": int(time.time()),
            **values,
        },
    )


def turn(db: Any, session_id: str, number: int) -> bool:
    """One turn of Agno's loop, as far as it reaches the store; whether it found `number` runs."""
    session = db.get_session(session_id, SessionType.AGENT, user_id=OWNER)
    found = len(session.runs or [])
    run = run_of(session_id, number)
    session.upsert_run(run)
    session.session_data["session_state"]["turns"] = number
    db.upsert_session(session)
    db.upsert_run(run, session_id, OWNER, run_index=len(session.runs) - 1)
    return found == number


class Bench:
    """All work on one side, in an order in which nothing disturbs what is measured later."""

    def __init__(self, side: Side, sizes: Sizes, tell: Callable[[str], None]) -> None:
        self.side = side
        self.sizes = sizes
        self.rows: dict[str, Counts] = {}
        self._tell = tell

    def measure(self) -> dict[str, Counts]:
        """The counts of each work by its name."""
        for part in (self.metrics, self.turns, self.large, self.storage, self.delete, self.listings, self.records):
            self._tell(f"{self.side.name}: {part.__name__}")
            try:
                part()
            except Exception as error:  # noqa: BLE001 - what cannot even be prepared belongs in the table
                self.rows[f"prepare: {part.__name__}"] = Counts(failure=type(error).__name__)
        return self.rows

    def _take(
        self,
        name: str,
        act: Callable[[int], Any],
        right: Any = lambda answer: True,
        *,
        repeat: int = 1,
        later: bool = False,
    ) -> None:
        """Counts of the first time; CPU and seconds of the quickest. `act` is told which time it is. `later`: not in
        the second in which something was done before, where what is indexed by seconds would not have changed."""
        if later:
            time.sleep(1.01 - time.time() % 1)
        taken = [self.side.tally.take(lambda n=n: act(n), right) for n in range(repeat)]  # type: ignore[misc]
        first = taken[0]
        first.cpu, first.seconds = min(one.cpu for one in taken), min(one.seconds for one in taken)
        self.rows[name] = first

    def _converse(self, session_id: str, runs: int) -> Any:
        """A session with so many runs."""
        db = self.side.open()
        db.upsert_session(session_of(session_id))
        for number in range(runs):
            db.upsert_run(run_of(session_id, number), session_id, OWNER, run_index=number)
        return db

    # --- The parts --------------------------------------------------------------------------------------------------

    def metrics(self) -> None:
        db = self.side.open()
        for number in range(self.sizes.counted):
            id = f"counted-{number}"
            db.upsert_session(session_of(id, number, user_id=f"user-{number % 10}"))
            db.upsert_run(run_of(id, 0, 200), id, f"user-{number % 10}", run_index=0)
        self._take(f"metrics of {self.sizes.counted} new sessions", lambda _: db.calculate_metrics())
        self._take("metrics again, nothing new", lambda _: db.calculate_metrics())
        db.upsert_run(run_of("counted-1", 1, 200), "counted-1", "user-1", run_index=1)
        self._take("metrics again, one session changed", lambda _: db.calculate_metrics())

    def turns(self) -> None:
        repeat = self.sizes.repeat
        for runs in self.sizes.histories:
            id = f"history-{runs}"
            self._converse(id, runs)
            db = self.side.open()
            self._take(f"turn, cold, {runs} runs", lambda _: turn(db, id, runs), bool, later=True)  # noqa: B023
            self._take(
                f"turn, warm, {runs} runs",
                lambda n: turn(db, id, runs + 1 + n),  # noqa: B023
                bool,
                repeat=repeat,
                later=True,
            )
        there = runs + 1 + repeat

        def got(expected: int) -> Callable[[Any], bool]:
            return lambda session: len(session.runs) == expected

        def get(handle: Any, **limit: Any) -> Any:
            return handle.get_session(id, SessionType.AGENT, user_id=OWNER, **limit)

        name = f"{runs} runs"
        self._take(f"get_session, cold, {name}", lambda _: get(self.side.open()), got(there), repeat=repeat)
        self._take(
            f"get_session(runs_limit=3), cold, {name}",
            lambda _: get(self.side.open(), runs_limit=3),
            got(min(3, there)),
            repeat=repeat,
        )
        self._take(f"get_session, warm, {name}", lambda _: get(db), got(there), repeat=repeat)
        session = get(db)
        self._take(f"upsert_session, {name}", lambda _: db.upsert_session(session), repeat=5 * repeat, later=True)
        if self.side.name == OURS:
            direct = self.side.direct()
            own = get(direct)
            counts = self.rows[f"upsert_session, {name}"]
            counts.whole_cpu, counts.client_cpu = shares(direct, lambda: direct.upsert_session(own), 20 * repeat)
            direct.close()
        self._take(
            "upsert_run of 5 KB",
            lambda n: db.upsert_run(run_of(id, there + n, 5 * KB), id, OWNER, there + n),
            repeat=repeat,
        )
        stalls = [asyncio.run(self._stall(id)) for _ in range(repeat)]
        self.rows[f"event loop held by get_session, cold, {name}"] = Counts(
            seconds=min(stall for stall, _ in stalls),
            failure=None if all(session.runs for _, session in stalls) else "wrong answer",
        )

    async def _stall(self, session_id: str) -> tuple[float, Any]:
        db = self.side.open_async()
        for id in ("nobody", session_id):  # the first opens connections
            stall, session = await longest_stall(lambda id=id: db.get_session(id, SessionType.AGENT))  # type: ignore[misc]
        if isinstance(db, AsyncBaseDb):
            await db.close()
        return stall, session

    def large(self) -> None:
        db = self._converse("large", 0)
        size = self.sizes.large
        run = run_of("large", 0, size)
        self._take(f"upsert_run of {size / 1e6:g} MB", lambda _: db.upsert_run(run, "large", OWNER, run_index=0))
        self._take(
            f"get_run of {size / 1e6:g} MB",
            lambda _: self.side.open().get_run(run.run_id),
            lambda found: found is not None and found.content == run.content,
        )

    def storage(self) -> None:
        before = self.side.stored()
        runs = 20
        self._converse("stored", 0)
        empty = self.side.stored()
        db = self.side.open()
        for number in range(runs):
            db.upsert_run(run_of("stored", number), "stored", OWNER, run_index=number)
        after = self.side.stored()
        self.rows["stored bytes of a session"] = Counts(value=float(empty - before))
        self.rows["stored bytes of a run of 4 KB"] = Counts(value=(after - empty) / runs)

    def delete(self) -> None:
        self._converse("doomed", self.sizes.deleted)
        name = f"delete_session, {self.sizes.deleted} runs"
        self._take(name, lambda _: self.side.open().delete_session("doomed"), bool)

    def listings(self) -> None:
        db = self.side.open()
        count = self.sizes.sessions
        for number in range(count):
            owner = {"user_id": f"lister-{number % 50}", "agent_id": f"agent-{number % 40}"}
            db.upsert_session(session_of(f"listed-{number}", number, **owner))
            db.upsert_run(run_of(f"listed-{number}", 0, KB), f"listed-{number}", owner["user_id"], run_index=0)
        # Agno's adapters of document stores have no such argument, and read the runs.
        known = inspect.signature(db.get_sessions).parameters
        bare = {"include_runs": False} if "include_runs" in known else {}
        last = count // 20
        for name, expected, arguments in (
            ("page 1", 20, {"page": 1}),
            ("page 1 by updated_at", 20, {"page": 1, "sort_by": "updated_at"}),
            (f"page {last}", 20, {"page": last}),
            ("by user", min(20, count // 50), {"page": 1, "user_id": "lister-7"}),
            ("by agent", min(20, count // 40), {"page": 1, "component_id": "agent-7"}),
            ("by name", min(1, count), {"page": 1, "session_name": f"Session {count - 7}"}),
            ("by user and type, with total", min(20, count // 50), {"page": 1, "user_id": "lister-7", **TOTAL}),
            ("by agent and type, with total", min(20, count // 40), {"page": 1, "component_id": "agent-7", **TOTAL}),
            ("by type, with total", 20, {"page": 1, **TOTAL}),
        ):
            self._take(
                f"20 of {count} sessions, {name}",
                lambda _, arguments=arguments: db.get_sessions(  # type: ignore[misc]
                    **{"limit": 20, "sort_by": "created_at", "sort_order": "desc", **bare, **arguments}
                ),
                lambda answer, expected=expected: len(answer[0] if isinstance(answer, tuple) else answer) >= expected,
            )

    def records(self) -> None:
        db = self.side.open()
        count = self.sizes.records
        for number in range(count):
            owner, text = f"user-{number % 10}", prose(600, number)
            db.upsert_user_memory(UserMemory(text, memory_id=f"memory-{number}", user_id=owner, topics=["topic"]))
            db.upsert_knowledge_content(
                KnowledgeRow(id=f"content-{number}", name=f"Content {number}", description=text, user_id=owner)
            )
            evaluation = {"text": prose(KB, number)}
            db.create_eval_run(
                EvalRunRecord(
                    run_id=f"eval-{number}",
                    agent_id=f"agent-{number % 10}",
                    eval_type=EvalType.ACCURACY,
                    eval_data=evaluation,
                )
            )
            id = f"trace-{number}"
            db.upsert_trace(trace(id, number, user_id=owner, session_id=f"session-{number % 10}"))
            db.create_spans([span(f"{id}-{n}", id, number + n, attributes=evaluation) for n in range(3)])
        expected = min(20, count // 10)
        page: dict[str, Any] = {"limit": 20, "page": 1}
        for name, act in (
            ("memories", lambda: db.get_user_memories(user_id="user-3", deserialize=False, **page)),
            ("knowledge contents", lambda: db.get_knowledge_contents(user_id="user-3", **page)),
            ("evals", lambda: db.get_eval_runs(agent_id="agent-3", deserialize=False, **page)),
            ("traces", lambda: db.get_traces(user_id="user-3", **page)),
        ):
            self._take(
                f"{expected} of {count} {name}, by user"
                if name != "evals"
                else f"{expected} of {count} {name}, by agent",
                lambda _, act=act: act(),  # type: ignore[misc]
                lambda answer: len(answer[0]) == expected,
                repeat=self.sizes.repeat,
            )


def shares(db: Any, act: Callable[[], Any], times: int, rounds: int = 7) -> tuple[float, float]:
    """Seconds of CPU of an act, of all threads of this process, and the client's part of them: what the calling thread
    spends inside the client's calls, and all that other threads spend, for a client may send from one. Of the round
    with the least. No proxy may be between, nor a server in this process: they would count as the client's."""
    invoke, inside = db.io._invoke, 0.0

    async def timed(fn: Any, args: Any, kwargs: Any) -> Any:
        nonlocal inside
        started = time.thread_time()
        try:
            return await invoke(fn, args, kwargs)
        finally:
            inside += time.thread_time() - started

    for _ in range(times):
        act()
    db.io._invoke = timed
    found = []
    for _ in range(rounds):
        inside, whole, own = 0.0, time.process_time(), time.thread_time()
        for _ in range(times):
            act()
        whole, own = time.process_time() - whole, time.thread_time() - own
        found.append((whole / times, (inside + whole - own) / times))
    return min(found)


# --- The event loop ---------------------------------------------------------------------------------------------------


async def longest_stall(read: Callable[[], Any]) -> tuple[float, Any]:
    """The longest time, in seconds, for which a read kept the loop from all else (of a blocking class, all of it); and
    what it read."""
    longest, last, done = 0.0, time.perf_counter(), asyncio.Event()

    async def watch() -> None:
        nonlocal longest, last
        while not done.is_set():
            await asyncio.sleep(0)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now

    watcher = asyncio.create_task(watch())
    await asyncio.sleep(0)
    answer = read()
    if inspect.isawaitable(answer):
        answer = await answer
    done.set()
    await watcher
    return longest, answer

"""Summaries on a failing store, by processes that die, in every mode of conflicts; and what they cost."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from agno.run import RunContext
from agno.session.summary import SessionSummary, SessionSummaryManager

from agno_docstores import StoreUnavailableError, SummaryPolicy, session_records, summary_hook
from agno_docstores.conformance.framework import agent_on, ask
from agno_docstores.conformance.plugin import Awaitable as Handle
from agno_docstores.conformance.plugin import close
from agno_docstores.conformance.scripted import ScriptedModel
from agno_docstores.conformance.summaries import manager_of, summary_in, talked, turn_of
from tests.faults import CRASHES, Crashed, Fault, replays, unnoticed
from tests.meters import ON_THE_WIRE, Cost, prose
from tests.test_budgets import seed_history
from tests.test_faults import CELLS

# --- Faults -----------------------------------------------------------------------------------------------------------


@dataclass
class Killed(Fault):
    """A crash after which the process makes no call any more, not even to clean up."""

    def before(self, operation: str) -> None:
        if self.struck:
            raise Crashed
        super().before(operation)


async def state(db: Any) -> dict[str, Any]:
    """All that can be read of the session, but for times."""
    row = await db.get_session("s1", deserialize=False)
    summary = (row.pop("summary") or {}).get("summary")
    runs = [run["run_id"] for run in row.pop("runs")]
    del row["updated_at"]
    return {**row, "summary": summary, "runs": runs}


@pytest.fixture
def same_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The versions of every session begin with the same one, so that they can be compared."""
    monkeypatch.setattr(session_records, "first_version", lambda now: 1)


@CELLS
@pytest.mark.usefixtures("same_versions")
async def test_passing_faults_are_not_noticed(cell: Any, runner: Any) -> None:
    async def made(db: Any) -> str:
        manager = manager_of(db)
        summary = await db.summarize_session("s1", manager)
        assert len(manager.sessions) == 1
        return str(summary.summary)

    await unnoticed(cell, made, lambda db: talked(db, "r1", "r2", user_id="u"), state)


@CELLS
@pytest.mark.usefixtures("same_versions")
async def test_a_process_may_die_at_any_call(cell: Any, runner: Any) -> None:
    """Before the lease has passed another makes the summary or leaves it; then it is made. Nothing else changes."""
    done: dict[str, Any] = {}
    async for replay in replays(cell, ("none", *CRASHES), fault=Killed):
        db, survivor = replay.open(), replay.open()
        await talked(db, "r1", "r2", user_id="u")
        before = await state(db)
        manager = manager_of(db)
        try:
            await replay.strike(db, lambda db, manager=manager: db.summarize_session("s1", manager))  # type: ignore[misc]
            assert not replay.fault.struck
            done = done or await state(db)
        except Crashed:
            manager, found = manager_of(survivor), await state(survivor)
            assert found in (before, done), str(replay)
            if await survivor.summarize_session("s1", manager) is None and found == before:
                now = survivor.io.now
                survivor.io.now = lambda now=now: now() + 301
                assert await survivor.summarize_session("s1", manager) is not None
            assert await state(survivor) == done, str(replay)


@CELLS
async def test_a_store_that_cannot_be_reached_raises(db: Any, another: Callable[[], Any]) -> None:
    @dataclass
    class Down:
        def before(self, operation: str) -> None:
            raise StoreUnavailableError(operation, "test", "down", retryable=False)

        def after(self, operation: str) -> None: ...

    await talked(db, "r1")
    other = another()
    other.io.hooks.append(Down())
    with pytest.raises(StoreUnavailableError):
        await other.summarize_session("s1", manager_of(db))
    manager = manager_of(db)

    def fall() -> None:
        db.io.hooks.append(Down())

    async def fall_async() -> None:
        fall()

    manager.during = fall_async if db.is_async else fall
    with pytest.raises(StoreUnavailableError):
        await db.summarize_session("s1", manager)
    db.io.hooks.clear()
    other.io.hooks.clear()
    assert await other.summarize_session("s1", manager_of(db)) is None, "the claim could not be taken back"
    now = other.io.now() + 301
    other.io.now = lambda: now
    assert (await other.summarize_session("s1", manager_of(db))).summary == "summary 1"


@pytest.mark.cells("memory-*")
async def test_a_late_summary_that_nobody_overtook_is_stored(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    await talked(db, "r1")
    now = db.io.now()

    def wait() -> None:
        monkeypatch.setattr(db.io, "now", lambda: now + 1000)

    async def wait_async() -> None:
        wait()

    manager = manager_of(db, during=wait_async if db.is_async else wait)  # type: ignore[arg-type]
    assert await db.summarize_session("s1", manager) is not None
    assert await summary_in(db) is not None


@pytest.mark.cells("memory-*")
async def test_a_head_read_before_the_summary_it_covers_is_no_news(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session and its history are two records, and two reads are no snapshot."""
    await talked(db, "r1")
    histories = db.raw._engine.histories
    _, old = await histories.heads("s1")
    await talked(db, "r2")
    await db.summarize_session("s1", manager_of(db))
    session, _ = await histories.heads("s1")

    async def torn(session_id: str) -> tuple[Any, Any]:
        return session, old

    monkeypatch.setattr(histories, "heads", torn)
    assert await db.summarize_session("s1", manager_of(db)) is None


@pytest.mark.cells("memory-*-standalone", "mongo-sync-secantus")
@pytest.mark.parametrize("options", [{}, {"cache_bytes": 0}], ids=["cache", "no cache"])
async def test_a_run_that_comes_late_was_not_covered(db: Any, open_another: Any, options: dict[str, Any]) -> None:
    """Where order and run are two writes: a run that took its place before the summary and was stored after it."""
    slow, reader, manager = Handle(open_another()), Handle(open_another(**options)), manager_of(db)
    await talked(db, "r1")
    driver = slow.raw._engine.driver
    commit, held = driver.commit, []

    async def hold(writes: Any, token: str) -> Any:
        held.append((writes, token))
        raise Crashed

    driver.commit = hold
    with pytest.raises(Crashed):
        await slow.upsert_run(turn_of("slow"), "s1")
    await talked(db, "r3")
    assert await reader.summarize_session("s1", manager) is not None
    ((writes, token),) = held
    await commit(writes, token)
    policy = SummaryPolicy(max_messages=2)
    assert await reader.summarize_session("s1", manager, policy=policy) is not None
    assert [[run.run_id for run in session.runs] for session in manager.sessions] == [
        ["r1", "r3"],
        ["r1", "slow", "r3"],
    ]
    assert await reader.summarize_session("s1", manager) is None
    await close(slow.raw)
    await close(reader.raw)


@pytest.mark.cells("memory-async", "dynamo-threads-local", "mongo-async-secantus", "firestore-async-embedded")
async def test_a_cancelled_summary_leaves_the_session_free(db: Any) -> None:
    await talked(db, "r1")
    begun = asyncio.Event()

    async def forever(session: Any) -> str:
        begun.set()
        await asyncio.Event().wait()
        return "never"

    task = asyncio.create_task(db.summarize_session("s1", forever))
    await begun.wait()
    assert await db.summarize_session("s1", manager_of(db)) is None
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await db.summarize_session("s1", manager_of(db))).summary == "summary 1"


# --- Two processes ----------------------------------------------------------------------------------------------------

PROCESS = """
import sys
from agno_docstores_mongo import MongoDocstore
db = MongoDocstore(db_url=sys.argv[1], db_name=sys.argv[2])
made = []
def manager(session):
    made.append(session)
    return "by " + sys.argv[3]
print("ready", flush=True)
sys.stdin.readline()
result = db.summarize_session("s1", manager)
print(len(made), result.summary if result else None)
"""


@pytest.mark.cells("mongo-sync-secantus")
async def test_of_several_processes_one_makes_it(db: Any, cell: Any, storage: str) -> None:
    await talked(db, "r1")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, cell.server.start(), storage, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = sorted(process.communicate(timeout=60)[0].strip() for process in processes)
    made: Any = await summary_in(db)
    assert answers == ["0 None", "0 None", f"1 {made.summary}"]


# --- In Agno's loop ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_conflict", ["merge", "raise", "last_wins"])
@pytest.mark.cells("memory-*")
async def test_the_save_after_the_hook_keeps_the_summary(
    open_another: Any, cell: Any, on_conflict: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Agno saves the session that it read before the hook; no mode of conflicts lets that undo the summary, or fail."""
    db = Handle(open_another(on_conflict=on_conflict))

    def count(run_context: RunContext) -> str:
        """Count."""
        assert run_context.session_state is not None
        run_context.session_state["n"] += 1
        return "counted"

    def script(messages: list[Any]) -> Any:
        return "done" if messages[-1].role == "tool" else ("count", "{}")

    hook = summary_hook(db.raw, manager_of(db))
    agent = agent_on(db, post_hooks=[hook], tools=[count], session_state={"n": 0}, model=ScriptedModel(script=script))
    for number in range(3):
        await ask(agent, db, f"turn {number}")
    found = await db.get_session("s1")
    assert found.summary.summary == "summary 2"
    assert found.session_data["session_state"] == {"n": 3}
    assert [run.input.input_content for run in found.runs] == ["turn 0", "turn 1", "turn 2"]
    assert db.conflicts == {"merged": 0, "overwritten": 0}
    assert "ConflictError" not in caplog.text
    await close(db.raw)


@pytest.mark.cells("memory-*")
async def test_a_hook_after_the_run_was_stored_counts_it_once(db: Any) -> None:
    """As AgentOS calls a hook in the background."""
    manager = manager_of(db)
    hook = summary_hook(db.raw, manager, SummaryPolicy(max_messages=4))
    for run_id, made in (("r1", None), ("r2", "summary 1"), ("r3", "summary 1"), ("r4", "summary 2")):
        await talked(db, run_id)
        answer = hook(run_output=turn_of(run_id), session=await db.get_session("s1"), agent=None)
        if db.is_async:
            await answer
        assert getattr(await summary_in(db), "summary", None) == made
    assert [len(session.runs) for session in manager.sessions] == [2, 4]


# --- What it costs ----------------------------------------------------------------------------------------------------


async def seed(db: Any, runs: int) -> None:
    """A session with so many runs of 4 KB, the last of which was summarized, and one turn since."""
    await seed_history(db, runs)
    await talked(db, "last", user_id="u")
    made = await db.summarize_session("s1", manager_of(db, SessionSummary("so far", topics=["t"])))
    assert made.summary == "so far"
    await talked(db, "since", user_id="u")


@ON_THE_WIRE
async def test_what_is_not_due_costs_the_same_whatever_the_history(open_metered: Any) -> None:
    """On a handle that has never seen the session, and on one that has its history."""
    found: dict[tuple[int, str], Cost] = {}
    for runs in (10, 300):
        async with open_metered() as (db, _):
            await db.delete_session("s1")
            await seed(db, runs)
        async with open_metered() as (db, meter):
            await db.get_run("nobody")  # opens connections
            calls = (
                ("length", SummaryPolicy(max_messages=100, max_chars=1000)),
                ("time", SummaryPolicy(interval=3600)),
            )
            for name, policy in calls:
                meter.start()
                assert await db.summarize_session("s1", manager_of(db), policy=policy) is None
                found[runs, name] = meter.stop()
            await db.get_session("s1")
            meter.start()
            assert await db.summarize_session("s1", manager_of(db), policy=calls[0][1]) is None
            found[runs, "warm"] = meter.stop()
            assert await db.summarize_session("s1", manager_of(db)) is not None
            meter.start()
            assert await db.summarize_session("s1", manager_of(db)) is None
            found[runs, "nothing new"] = meter.stop()
    print(f"BUDGET of what is not due: {found}")
    for name, requests in (("length", 2), ("time", 1), ("warm", 1), ("nothing new", 1)):
        few, many = found[10, name], found[300, name]
        assert few.requests == many.requests <= requests, name
        assert abs(many.bytes - few.bytes) <= 0.1 * few.bytes + 200 and many.bytes < 20_000, name


@ON_THE_WIRE
async def test_a_summary_costs_two_requests_besides_reading(open_metered: Any) -> None:
    async with open_metered() as (db, meter):
        await talked(db, "r1", user_id="u")
        await db.upsert_run(turn_of("long", prose(4000, 1), prose(4000, 2)), "s1", "u")
        await db.get_session("s1")
        meter.start()
        assert await db.summarize_session("s1", manager_of(db)) is not None
        warm = meter.stop()
        print(f"BUDGET summary, warm: {warm}")
        assert warm.requests <= 3
        assert warm.bytes <= 12_000, "the history was not moved"
    async with open_metered() as (db, meter):
        await db.update_session_data("s1")  # opens connections, and makes sure of indexes
        meter.start()
        assert await db.summarize_session("s1", manager_of(db), True) is not None
        cold = meter.stop()
        print(f"BUDGET summary, cold: {cold}")
        assert cold.requests <= 4


@ON_THE_WIRE
async def test_a_manager_of_the_last_runs_has_those_read(open_metered: Any) -> None:
    manager = SessionSummaryManager(model=ScriptedModel(script=lambda _: '{"summary": "the last"}'), last_n_runs=1)
    async with open_metered() as (db, _):
        await seed(db, 300)
    async with open_metered() as (db, meter):
        await db.update_session_data("s1")  # opens connections, and makes sure of indexes
        meter.start()
        assert (await db.summarize_session("s1", manager)).summary == "the last"
        cost = meter.stop()
        assert "why?" in str(manager.model.prompts[-1][0].content)  # type: ignore[union-attr]
    print(f"BUDGET summary of the last run: {cost}")
    assert cost.requests <= 5 and cost.bytes < 20_000


@pytest.mark.cells("memory-sync", "memory-async")
async def test_a_turn_with_a_hook_that_finds_nothing_due_costs_one_request(db: Any) -> None:
    agent = agent_on(db)
    watched = agent_on(db, post_hooks=[summary_hook(db.raw, manager_of(db), SummaryPolicy(max_messages=100))])
    costs = []
    for component in (agent, agent, watched):
        before = db.io.calls.total()
        await ask(component, db, "hello")
        costs.append(db.io.calls.total() - before)
    assert costs[2] == costs[1] + 1

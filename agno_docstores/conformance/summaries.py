"""Summaries of sessions: when one is due, that one process makes it, and what is stored. Beyond `BaseDb`.

Needs the fixture `open_another`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from agno.agent import Agent
from agno.models.message import Message
from agno.run.agent import RunOutput
from agno.run.base import RunStatus
from agno.run.workflow import WorkflowRunOutput
from agno.session import WorkflowSession
from agno.session.summary import SessionSummary, SessionSummaryManager
from agno.team import Team

from agno_docstores.conformance.concurrency import at_once
from agno_docstores.conformance.framework import agent_on, ask, prompted
from agno_docstores.conformance.scripted import ScriptedModel
from agno_docstores.conformance.sessions import agent_session, run_of
from agno_docstores.errors import InvalidIdError, OwnershipError, SessionNotFoundError
from agno_docstores.summaries import SummaryPolicy, summary_hook


class Manager:
    """Makes summaries that count: "summary 1" of the first call. `sessions`: what it was given; `during`: what happens
    while it is at it."""

    def __init__(self, answer: Any = None, during: Callable[[], Any] | None = None) -> None:
        self.answer = answer
        self.during = during
        self.sessions: list[Any] = []

    def __call__(self, session: Any) -> Any:
        self.sessions.append(session)
        if self.during is not None:
            self.during()
        return f"summary {len(self.sessions)}" if self.answer is None else self.answer


class AsyncManager(Manager):
    async def __call__(self, session: Any) -> Any:
        self.sessions.append(session)
        if self.during is not None:
            await self.during()
        return f"summary {len(self.sessions)}" if self.answer is None else self.answer


def manager_of(db: Any, answer: Any = None, during: Callable[[Any], Any] | None = None) -> Manager:
    """A manager of the store's own kind; `during` is called with nothing, and awaited where the store is async."""
    return (AsyncManager if db.is_async else Manager)(answer, during)  # type: ignore[arg-type]


def turn_of(run_id: str, question: str = "why?", answer: str = "so.", **values: Any) -> RunOutput:
    messages = [
        Message(role="system", content="You help."),
        Message(role="user", content="said before", from_history=True),
        Message(role="user", content=question),
        Message(role="assistant", content=answer),
    ]
    return run_of(run_id, messages=messages, status="COMPLETED", **values)


async def talked(db: Any, *run_ids: str, session_id: str = "s1", user_id: str | None = None) -> None:
    """So many turns of a session, which is made if it is not there: each two messages of nine letters in all."""
    if await db.get_session_data(session_id) is None:
        await db.upsert_session(
            agent_session(session_id, user_id=user_id, created_at=1000, session_data={"session_state": {"n": 1}})
        )
    for run_id in run_ids:
        await db.upsert_run(turn_of(run_id), session_id, user_id)


async def summary_in(db: Any, session_id: str = "s1") -> SessionSummary | None:
    found: SessionSummary | None = (await db.get_session(session_id)).summary
    return found


# --- What is made and stored ------------------------------------------------------------------------------------------


async def test_a_summary_is_stored_and_nothing_else_changes(db: Any, another: Callable[[], Any]) -> None:
    await talked(db, "r1", "r2", user_id="u")
    before = await db.get_session("s1", deserialize=False)
    manager = manager_of(db, SessionSummary(summary="of things", topics=["a", "b"], updated_at=datetime(2026, 1, 2)))
    made = await db.summarize_session("s1", manager, user_id="u")
    assert made == SessionSummary(summary="of things", topics=["a", "b"], updated_at=datetime(2026, 1, 2))
    (given,) = manager.sessions
    assert ([run.run_id for run in given.runs], given.user_id, given.summary) == (["r1", "r2"], "u", None)
    after = await another().get_session("s1", deserialize=False)
    assert after["summary"] == {"summary": "of things", "topics": ["a", "b"], "updated_at": "2026-01-02T00:00:00"}
    assert after["updated_at"] > before["updated_at"] and after["version"] == before["version"] + 1
    for row in (before, after):
        del row["summary"], row["updated_at"], row["version"]
    assert after == before
    assert await summary_in(db) == made


async def test_a_manager_gives_a_text_or_fields(db: Any) -> None:
    await talked(db, "r1")
    started = datetime.now().replace(microsecond=0)
    made = await db.summarize_session("s1", manager_of(db, "plain"))
    assert (made.summary, made.topics) == ("plain", None) and made.updated_at >= started
    await talked(db, "r2")
    manager = manager_of(db, {"summary": "fields", "topics": ("t",), "updated_at": "2026-01-02T03:04:05+00:00"})
    made = await db.summarize_session("s1", manager)
    assert manager.sessions[0].summary.summary == "plain", "the last one is there to go on from"
    assert (made.summary, made.topics) == ("fields", ["t"])
    assert await summary_in(db) == made
    await talked(db, "r3")
    assert await db.summarize_session("s1", lambda session: None) is None
    assert await summary_in(db) == made


async def test_what_is_no_summary_is_refused_and_the_session_left_free(db: Any) -> None:
    await talked(db, "r1")
    before = await db.get_session("s1", deserialize=False)
    wrong: list[Any] = [7, {"topics": []}, {"summary": "s", "more": 1}, {"summary": "s", "topics": [1]}, {"summary": 1}]
    for answer in (*wrong, {"summary": "s", "updated_at": 5}):
        with pytest.raises(TypeError):
            await db.summarize_session("s1", manager_of(db, answer))
    assert await db.get_session("s1", deserialize=False) == before
    with pytest.raises(ValueError, match="manager"):
        await db.summarize_session("s1")
    with pytest.raises(InvalidIdError):
        await db.summarize_session("", manager_of(db))
    for name in ("max_messages", "max_chars", "interval", "lease"):
        wrong_value: dict[str, Any] = {name: 0}
        with pytest.raises(ValueError, match=name):
            SummaryPolicy(**wrong_value)
    if not db.is_async:
        with pytest.raises(TypeError, match="async"):
            await db.summarize_session("s1", AsyncManager())
    assert (await db.summarize_session("s1", manager_of(db))).summary == "summary 1"


async def test_agnos_manager_summarizes_and_agnos_agent_reads_it(db: Any, another: Callable[[], Any]) -> None:
    await ask(agent_on(db), db, "my name is Ada")
    model = ScriptedModel(script=lambda messages: json.dumps({"summary": "Ada was here", "topics": ["names"]}))
    made = await db.summarize_session("s1", SessionSummaryManager(model=model))
    assert (made.summary, made.topics) == ("Ada was here", ["names"])
    assert "User: my name is Ada" in str(model.prompts[0][0].content)
    other = another()
    agent: Any = agent_on(other, add_session_summary_to_context=True, add_history_to_context=False)
    await ask(agent, other, "who was here?")
    system = [str(message.content) for message in agent.model.prompts[-1] if message.role == "system"]
    assert "Ada was here" in system[0]
    found = await db.get_session("s1")
    assert (found.summary.summary, len(found.runs)) == ("Ada was here", 2)


async def test_a_workflow_has_no_summary(db: Any) -> None:
    """Agno's class for its sessions has no place for one: its next save would remove it."""
    await db.upsert_session(WorkflowSession("flow", workflow_id="w1"))
    await db.upsert_run(WorkflowRunOutput(run_id="r1", workflow_id="w1", input="go", content="gone"), "flow")
    manager = manager_of(db)
    for method in (db.summarize_session, db.end_session):
        with pytest.raises(TypeError, match="workflow"):
            await method("flow", manager, force=True)
    assert manager.sessions == []


# --- When -------------------------------------------------------------------------------------------------------------


async def test_a_call_summarizes_what_is_new_and_force_whatever_there_is(db: Any) -> None:
    manager = manager_of(db)
    with pytest.raises(SessionNotFoundError):
        await db.summarize_session("s1", manager)
    await talked(db)
    assert await db.summarize_session("s1", manager) is None
    assert await db.summarize_session("s1", manager, force=True) is None
    await db.upsert_run(turn_of("member", parent_run_id="r1"), "s1")
    await db.upsert_run(
        RunOutput("failed", agent_id="a1", status=RunStatus.error, messages=turn_of("failed").messages), "s1"
    )
    assert await db.summarize_session("s1", manager) is None
    assert await db.summarize_session("s1", manager, force=True) is None
    assert manager.sessions == [], "there was nothing to make it of"
    await talked(db, "r1")
    assert (await db.summarize_session("s1", manager)).summary == "summary 1"
    assert await db.summarize_session("s1", manager) is None
    await db.update_session_data("s1", {"session_name": "no news"})
    assert await db.summarize_session("s1", manager) is None
    assert (await db.summarize_session("s1", manager, True)).summary == "summary 2"
    await talked(db, "r2")
    assert await db.summarize_session("s1", manager, policy=SummaryPolicy()) is None
    assert (await db.summarize_session("s1", manager)).summary == "summary 3"
    assert [len(session.runs) for session in manager.sessions] == [3, 3, 4]


async def test_a_length_makes_it_due(db: Any, another: Callable[[], Any]) -> None:
    """Counted are messages of users and assistants since the last summary, on a handle that knows the history, and on
    one that does not."""
    manager = manager_of(db)
    by_messages, by_chars = SummaryPolicy(max_messages=4), SummaryPolicy(max_chars=14, interval=timedelta(days=30000))
    await talked(db, "r1")
    assert await db.summarize_session("s1", manager, policy=by_messages) is None
    assert await another().summarize_session("s1", manager, policy=by_chars) is None
    await talked(db, "r2")
    assert (await another().summarize_session("s1", manager, policy=by_messages)).summary == "summary 1"
    await talked(db, "r3")
    for handle in (db, another()):
        assert await handle.summarize_session("s1", manager, policy=by_messages) is None
        assert await handle.summarize_session("s1", manager, policy=by_chars) is None
    await talked(db, "r4")
    assert (await db.summarize_session("s1", manager, policy=by_chars)).summary == "summary 2"
    await db.delete_run("r1")
    assert await db.summarize_session("s1", manager) is None, "what is gone was not said"
    await db.upsert_run(turn_of("r2", "and why?", "because."), "s1")
    assert (await db.summarize_session("s1", manager, policy=SummaryPolicy(max_messages=2))).summary == "summary 3"


async def test_time_makes_it_due(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    manager, hourly = manager_of(db), SummaryPolicy(interval=3600)
    now = [1000.0]
    monkeypatch.setattr(db.io, "now", lambda: now[0])
    await talked(db, "r1")
    now[0] += 3599
    assert await db.summarize_session("s1", manager, policy=hourly) is None
    now[0] += 1
    assert (await db.summarize_session("s1", manager, policy=hourly)).summary == "summary 1"
    now[0] += 3600
    assert await db.summarize_session("s1", manager, policy=hourly) is None, "nothing was said"
    await talked(db, "r2")
    assert (await db.summarize_session("s1", manager, policy=hourly)).summary == "summary 2"
    await talked(db, "r3")
    now[0] += 3599
    assert await db.summarize_session("s1", manager, policy=hourly) is None
    assert await db.summarize_session("s1", manager, policy=SummaryPolicy(interval=timedelta(minutes=30))) is not None


async def test_a_summary_of_agnos_own_has_a_time_and_a_cleared_one_covers_nothing(
    db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, now = manager_of(db), [1_700_000_000.0]
    monkeypatch.setattr(db.io, "now", lambda: now[0])
    await talked(db, "r1")
    session = await db.get_session("s1")
    session.summary = SessionSummary(summary="Agno's", updated_at=datetime.fromtimestamp(now[0]))
    await db.upsert_session(session)
    now[0] += 60
    assert await db.summarize_session("s1", manager, policy=SummaryPolicy(interval=61)) is None
    assert await db.summarize_session("s1", manager, policy=SummaryPolicy(interval=60)) is not None
    session = await db.get_session("s1")
    session.summary = None
    await db.upsert_session(session)
    assert await summary_in(db) is None
    assert (await db.summarize_session("s1", manager)).summary == "summary 2"


async def test_the_end_of_a_session_makes_it_due(db: Any) -> None:
    manager, at_end = manager_of(db), SummaryPolicy(on_end=True)
    with pytest.raises(SessionNotFoundError):
        await db.end_session("s1", manager)
    await talked(db)
    assert await db.end_session("s1", manager) is None
    await talked(db, "r1")
    assert await db.summarize_session("s1", manager, policy=at_end) is None
    assert await db.end_session("s1", manager, policy=SummaryPolicy(max_messages=1)) is None
    assert (await db.end_session("s1", manager, policy=at_end)).summary == "summary 1"
    assert await db.end_session("s1", manager, policy=at_end) is None
    assert (await db.end_session("s1", manager, policy=at_end, force=True)).summary == "summary 2"
    await talked(db, "r2")
    assert (await db.end_session("s1", manager)).summary == "summary 3"
    with pytest.raises(ValueError, match="manager"):
        await db.end_session("s1")


# --- Who --------------------------------------------------------------------------------------------------------------


async def test_a_session_is_summarized_for_its_owner(db: Any) -> None:
    manager = manager_of(db)
    await talked(db, "r1", user_id="owner")
    await talked(db, "r2", session_id="unowned")
    for session_id in ("s1", "unowned"):
        for method in (db.summarize_session, db.end_session):
            with pytest.raises(OwnershipError) as caught:
                await method(session_id, manager, force=True, user_id="stranger")
            assert (caught.value.kind, caught.value.id, caught.value.user_id) == ("session", session_id, "stranger")
    assert manager.sessions == []
    assert await db.summarize_session("s1", manager, user_id="owner") is not None
    assert await db.end_session("unowned", manager) is not None


async def test_while_one_makes_it_others_do_not(db: Any, another: Callable[[], Any]) -> None:
    other = another()
    theirs, found = manager_of(db), []

    async def meanwhile() -> None:
        for force in (False, True):
            found.append(await other.summarize_session("s1", theirs, force))
        found.append(await other.end_session("s1", theirs))

    def in_place() -> None:
        for force in (False, True):
            found.append(other.raw.summarize_session("s1", theirs, force))
        found.append(other.raw.end_session("s1", theirs))

    await talked(db, "r1")
    mine = manager_of(db, during=meanwhile if db.is_async else in_place)  # type: ignore[arg-type]
    assert (await db.summarize_session("s1", mine)).summary == "summary 1"
    assert (found, theirs.sessions) == ([None, None, None], [])
    assert await other.summarize_session("s1", theirs) is None, "it is made"
    assert (await other.summarize_session("s1", theirs, force=True)).summary == "summary 1"


async def test_of_many_that_find_it_due_one_makes_it(db: Any, another: Callable[[], Any]) -> None:
    other, manager = another(), manager_of(db)
    await talked(db, "r1")
    handles = [db.raw, other.raw]
    calls: list[Any] = [(handles[n % 2].summarize_session, ("s1", manager), {}) for n in range(8)]
    results = await at_once(db, calls)
    assert sorted(getattr(result, "summary", repr(result)) for result in results) == ["None"] * 7 + ["summary 1"]
    assert len(manager.sessions) == 1
    assert (await summary_in(other)).summary == "summary 1"  # type: ignore[union-attr]


async def test_a_lease_that_has_passed_is_taken_over_and_the_late_result_dropped(
    db: Any, another: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other, found = another(), []
    theirs = manager_of(db, "in time")
    policy = SummaryPolicy(max_messages=1, lease=60)
    late: Callable[[], float] = db.io.now
    monkeypatch.setattr(other.io, "now", lambda: late() + 59)

    async def overtake() -> None:
        found.append(await other.summarize_session("s1", theirs, policy=policy))
        monkeypatch.setattr(other.io, "now", lambda: late() + 62)
        found.append(await other.summarize_session("s1", theirs, policy=policy))

    def in_place() -> None:
        found.append(other.raw.summarize_session("s1", theirs, policy=policy))
        monkeypatch.setattr(other.io, "now", lambda: late() + 62)
        found.append(other.raw.summarize_session("s1", theirs, policy=policy))

    await talked(db, "r1")
    before = await db.get_session("s1", deserialize=False)
    mine = manager_of(db, "too late", overtake if db.is_async else in_place)  # type: ignore[arg-type]
    assert await db.summarize_session("s1", mine, policy=policy) is None
    assert found[0] is None and found[1].summary == "in time"
    assert (await summary_in(db)).summary == "in time"  # type: ignore[union-attr]
    assert "'s1' was dropped" in caplog.text
    assert (await db.get_session("s1", deserialize=False))["version"] == before["version"] + 1
    monkeypatch.undo()
    await talked(db, "r2")
    assert await db.summarize_session("s1", theirs, policy=policy) is not None


async def test_a_manager_that_fails_raises_and_leaves_the_session_free(db: Any, another: Callable[[], Any]) -> None:
    await talked(db, "r1")
    before = await db.get_session("s1", deserialize=False)

    def fail(session: Any) -> Any:
        raise KeyError("of the manager")

    with pytest.raises(KeyError, match="of the manager"):
        await db.summarize_session("s1", fail)
    assert await another().get_session("s1", deserialize=False) == before
    assert (await another().summarize_session("s1", manager_of(db))).summary == "summary 1"


async def test_what_others_write_meanwhile_stays(db: Any, another: Callable[[], Any]) -> None:
    other = another()

    async def meanwhile() -> None:
        await other.update_session_data("s1", {"session_state": {"n": 2}, "session_name": "Named"})
        session = await other.get_session("s1")
        session.metadata = {"m": 1}
        await other.upsert_session(session)
        await other.upsert_run(turn_of("r2"), "s1")

    def in_place() -> None:
        other.raw.update_session_data("s1", {"session_state": {"n": 2}, "session_name": "Named"})
        session = other.raw.get_session("s1")
        session.metadata = {"m": 1}
        other.raw.upsert_session(session)
        other.raw.upsert_run(turn_of("r2"), "s1")

    await talked(db, "r1")
    before = await db.get_session("s1", deserialize=False)
    manager = manager_of(db, during=meanwhile if db.is_async else in_place)  # type: ignore[arg-type]
    assert (await db.summarize_session("s1", manager)).summary == "summary 1"
    row = await db.get_session("s1", deserialize=False)
    assert row["session_data"] == {"session_state": {"n": 2}, "session_name": "Named"}
    assert (row["metadata"], row["version"] - before["version"], row["summary"]["summary"]) == (
        {"m": 1},
        3,
        "summary 1",
    )
    assert [run["run_id"] for run in row["runs"]] == ["r1", "r2"]
    assert [session.session_id for session in await db.get_sessions(session_name="named")] == ["s1"]
    manager.during = None
    assert (await other.summarize_session("s1", manager)).summary == "summary 2", "the new run was not covered"


async def test_a_session_deleted_meanwhile_stays_deleted(db: Any, another: Callable[[], Any]) -> None:
    other = another()
    again: list[bool] = []

    async def delete() -> None:
        await other.delete_session("s1")
        if again:
            await other.upsert_session(agent_session())

    def in_place() -> None:
        other.raw.delete_session("s1")
        if again:
            other.raw.upsert_session(agent_session())

    manager = manager_of(db, during=delete if db.is_async else in_place)  # type: ignore[arg-type]
    await talked(db, "r1")
    assert await db.summarize_session("s1", manager) is None
    assert await db.get_session("s1") is None
    await talked(db, "r1")
    again.append(True)
    assert await db.summarize_session("s1", manager) is None
    assert await summary_in(db) is None and not (await db.get_session("s1")).runs


# --- In Agno's loop ---------------------------------------------------------------------------------------------------


async def test_a_hook_summarizes_when_it_is_due(db: Any, another: Callable[[], Any]) -> None:
    """A turn counts before it is stored, and once; a session that is not stored yet waits for its second turn."""
    manager = manager_of(db)
    hook = summary_hook(db.raw, manager, SummaryPolicy(max_messages=4))
    agent: Any = agent_on(db, post_hooks=[hook], add_session_summary_to_context=True)
    found = []
    for number in range(1, 7):
        await ask(agent, db, f"turn {number}")
        stored = await summary_in(db)
        found.append(stored.summary if stored is not None else None)
    assert found == [None, "summary 1", "summary 1", "summary 2", "summary 2", "summary 3"]
    assert [len(session.runs) for session in manager.sessions] == [2, 4, 6]
    assert [message.content for message in manager.sessions[0].get_chat_history()][2] == "turn 2"
    assert prompted(agent) == [f"turn {number}" for number in range(3, 7)]
    assert "summary 2" in str(agent.model.prompts[-1][0].content)
    session = await another().get_session("s1", user_id="u")
    assert [run.input.input_content for run in session.runs] == [f"turn {number}" for number in range(1, 7)]
    assert await db.end_session("s1") is None, "the hook's policy has no end"
    await ask(agent_on(db), db, "turn 7")
    assert await db.summarize_session("s1") is None, "the hook's policy wants more"
    made = await db.end_session("s1", policy=SummaryPolicy(on_end=True))
    assert made.summary == "summary 4", "by the hook's manager"


async def test_a_hook_uses_the_model_of_its_agent_or_team(db: Any) -> None:
    def script(messages: list[Any]) -> str:
        wanted = "Provide the summary" in str(messages[-1].content)
        return json.dumps({"summary": "made by the model", "topics": ["t"]}) if wanted else "fine"

    hook = summary_hook(db.raw)
    member = Agent(id="member", name="Member", model=ScriptedModel(), telemetry=False)
    model = ScriptedModel(script=script)
    team: Any = Team(
        id="t1", members=[member], model=model, db=db.raw, session_id="s1", user_id="u", post_hooks=[hook],
        telemetry=False,
    )  # fmt: skip
    agent = agent_on(db, model=ScriptedModel(script=script), session_id="s2", post_hooks=[hook])
    for component, session_id in ((team, "s1"), (agent, "s2")):
        await ask(component, db, "first")
        assert await summary_in(db, session_id) is None
        await ask(component, db, "second")
        made: Any = await summary_in(db, session_id)
        assert (made.summary, made.topics) == ("made by the model", ["t"])
        assert len((await db.get_session(session_id)).runs) == 2


async def test_each_agents_sessions_are_summarized_as_its_hook_says(db: Any) -> None:
    first, second = manager_of(db, "first"), manager_of(db, "second")
    hooks = [summary_hook(db.raw, manager, SummaryPolicy(on_end=True)) for manager in (first, second)]
    hooks.append(summary_hook(db.raw, second))  # whose agent is never run
    agents = [
        agent_on(db, id=f"agent{number}", session_id=f"s{number}", post_hooks=[hook])
        for number, hook in enumerate(hooks[:2])
    ]
    for number in (0, 1, 0, 1):
        await ask(agents[number], db, "hello")
    for number, name in enumerate(["first", "second"]):
        made = await db.end_session(f"s{number}")
        assert made.summary == name
    assert (len(first.sessions), len(second.sessions)) == (1, 1)


async def test_a_hook_that_fails_does_not_fail_the_run(db: Any, caplog: pytest.LogCaptureFixture) -> None:
    def fail(session: Any) -> Any:
        raise KeyError("of the manager")

    agent = agent_on(db, post_hooks=[summary_hook(db.raw, fail)])
    for number in range(2):
        answer = await ask(agent, db, f"turn {number}")
        assert answer.content == f"{number + 1} asked, last: turn {number}"
    assert "'s1' was not summarized" in caplog.text
    assert len((await db.get_session("s1")).runs) == 2
    assert (await db.summarize_session("s1", manager_of(db))).summary == "summary 1"


async def test_a_hook_lets_a_strangers_session_be(db: Any) -> None:
    manager = manager_of(db)
    await ask(agent_on(db), db, "secret")
    stranger = agent_on(db, user_id="stranger", post_hooks=[summary_hook(db.raw, manager)])
    await ask(stranger, db, "what was said?")
    found = await db.get_session("s1")
    assert (found.summary, found.user_id, manager.sessions) == (None, "u", [])

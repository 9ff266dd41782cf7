"""Unmodified Agno agents, teams and workflows on a store: conversations, resumption, state, pauses, cancellation.

Needs the fixture `open_another`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from agno.agent import Agent
from agno.db.base import SessionType
from agno.run import RunContext
from agno.run.base import RunStatus
from agno.team import Team
from agno.tools import tool
from agno.workflow import Step, Workflow

from agno_docstores.conformance.scripted import ScriptedModel
from agno_docstores.conformance.sessions import agent_session, run_of


async def ask(component: Any, db: Any, text: str, **options: Any) -> Any:
    """One turn, by the method that fits the kind of store."""
    if db.is_async:
        return await component.arun(text, **options)
    return component.run(text, **options)


def agent_on(db: Any, **options: Any) -> Agent:
    values: dict[str, Any] = {
        "id": "a1",
        "name": "Assistant",
        "model": ScriptedModel(),
        "session_id": "s1",
        "user_id": "u",
        "add_history_to_context": True,
        "telemetry": False,
        **options,
    }
    return Agent(db=db.raw, **values)


def prompted(agent: Any) -> list[str]:
    """What users said, as the agent's model last saw it."""
    return [str(message.content) for message in agent.model.prompts[-1] if message.role == "user"]


async def test_an_agent_remembers_its_conversation(db: Any) -> None:
    agent = agent_on(db)
    for number in range(4):
        answer = await ask(agent, db, f"turn {number}")
        assert answer.status == RunStatus.completed
    assert prompted(agent) == ["turn 0", "turn 1", "turn 2", "turn 3"]
    found = await db.get_session("s1", SessionType.AGENT, user_id="u")
    assert [run.input.input_content for run in found.runs] == [f"turn {n}" for n in range(4)]
    assert [run.content for run in found.runs] == [f"{n + 1} asked, last: turn {n}" for n in range(4)]


async def test_another_agent_resumes_the_conversation(db: Any, another: Callable[[], Any]) -> None:
    await ask(agent_on(db), db, "first")
    other = another()
    resumed = agent_on(other)
    await ask(resumed, other, "second")
    assert prompted(resumed) == ["first", "second"]
    back = agent_on(db)
    await ask(back, db, "third")
    assert prompted(back) == ["first", "second", "third"]


async def test_history_is_limited_by_runs(db: Any, another: Callable[[], Any]) -> None:
    for number in range(5):
        await ask(agent_on(db), db, f"turn {number}")
    other = another()
    agent = agent_on(other, num_history_runs=2)
    await ask(agent, other, "now")
    assert prompted(agent) == ["turn 3", "turn 4", "now"]


async def test_a_tool_changes_the_session_state(db: Any, another: Callable[[], Any]) -> None:
    def choose(run_context: RunContext, color: str) -> str:
        """Choose a color."""
        assert run_context.session_state is not None
        run_context.session_state["color"] = color
        run_context.session_state["deep"] = {"a.b": [1, {"$c": None}]}
        return "chosen"

    def script(messages: list[Any]) -> Any:
        return "done" if messages[-1].role == "tool" else ("choose", json.dumps({"color": "red"}))

    agent = agent_on(db, model=ScriptedModel(script=script), tools=[choose], session_state={"color": "none", "n": 1})
    answer = await ask(agent, db, "red, please")
    assert answer.content == "done"
    found = await another().get_session("s1", user_id="u")
    assert found.session_data["session_state"] == {"color": "red", "n": 1, "deep": {"a.b": [1, {"$c": None}]}}
    (run,) = found.runs
    assert [call.tool_name for call in run.tools] == ["choose"]


async def test_a_conversation_of_another_user_is_not_seen(db: Any) -> None:
    await ask(agent_on(db), db, "secret")
    stranger = agent_on(db, user_id="stranger")
    await ask(stranger, db, "what was said?")
    assert prompted(stranger) == ["what was said?"]
    found = await db.get_session("s1")
    assert found.user_id == "u"
    assert [run.input.input_content for run in found.runs] == ["secret"]


async def test_a_run_that_fails_does_not_lose_the_conversation(db: Any) -> None:
    def script(messages: list[Any]) -> str:
        raise RuntimeError("the model is down")

    await ask(agent_on(db), db, "first")
    failed = await ask(agent_on(db, model=ScriptedModel(script=script)), db, "second")
    assert failed.status == RunStatus.error
    after = agent_on(db)
    await ask(after, db, "third")
    assert "first" in prompted(after) and prompted(after)[-1] == "third"
    found = await db.get_session("s1")
    assert [run.status for run in found.runs] == [RunStatus.completed, RunStatus.error, RunStatus.completed]


async def test_a_paused_run_is_continued_by_another_handle(db: Any, another: Callable[[], Any]) -> None:
    @tool(requires_confirmation=True)
    def launch() -> str:
        """Launch it."""
        return "launched"

    def script(messages: list[Any]) -> Any:
        return "it is up" if messages[-1].role == "tool" else ("launch", "{}")

    paused = await ask(agent_on(db, model=ScriptedModel(script=script), tools=[launch]), db, "launch")
    assert paused.status == RunStatus.paused
    other = another()
    stored = (await other.get_session("s1")).runs[0]
    assert stored.status == RunStatus.paused
    for requirement in paused.requirements:
        requirement.confirm()
    agent = agent_on(other, model=ScriptedModel(script=script), tools=[launch])
    options: dict[str, Any] = {"run_id": paused.run_id, "requirements": paused.requirements, "session_id": "s1"}
    answer = await agent.acontinue_run(**options) if other.is_async else agent.continue_run(**options)
    assert (answer.status, answer.content) == (RunStatus.completed, "it is up")
    (run,) = (await db.get_session("s1")).runs
    assert (run.run_id, run.status) == (paused.run_id, RunStatus.completed)


async def test_a_cancelled_run_stays_out_of_the_context(db: Any) -> None:
    await ask(agent_on(db), db, "first")
    await db.upsert_run(run_of("pending", status="PENDING"), "s1", "u")
    assert await db.cancel_pending_run("pending", session_id="s1", reason="stale", user_id="u") is True
    agent = agent_on(db)
    await ask(agent, db, "second")
    assert prompted(agent) == ["first", "second"]
    statuses = [run.status for run in (await db.get_session("s1")).runs]
    assert [str(getattr(status, "value", status)) for status in statuses] == ["COMPLETED", "CANCELLED", "COMPLETED"]


async def test_a_session_is_renamed_between_turns(db: Any) -> None:
    await ask(agent_on(db), db, "first")
    await db.rename_session("s1", SessionType.AGENT, "My talk", user_id="u")
    agent = agent_on(db)
    await ask(agent, db, "second")
    found = await db.get_session("s1")
    assert found.session_data["session_name"] == "My talk"
    assert len(found.runs) == 2


async def test_a_team_keeps_its_members_runs(db: Any, another: Callable[[], Any]) -> None:
    def leader(messages: list[Any]) -> Any:
        if messages[-1].role == "tool":
            return "the team says hi"
        return ("delegate_task_to_member", json.dumps({"member_id": "member", "task": "say hi"}))

    def team_on(handle: Any) -> Team:
        member = Agent(id="member", name="Member", model=ScriptedModel(script=lambda messages: "hi"), telemetry=False)
        return Team(
            id="t1",
            name="Team",
            members=[member],
            model=ScriptedModel(script=leader),
            db=handle.raw,
            session_id="team-session",
            user_id="u",
            add_history_to_context=True,
            store_member_responses=True,
            telemetry=False,
        )

    answer = await ask(team_on(db), db, "greet")
    assert answer.content == "the team says hi"
    other = another()
    found = await other.get_session("team-session", SessionType.TEAM, user_id="u")
    team_runs = [run for run in found.runs if getattr(run, "team_id", None) == "t1" and run.parent_run_id is None]
    member_runs = [run for run in found.runs if run.parent_run_id is not None]
    assert len(team_runs) == 1
    assert [run.content for run in member_runs] == ["hi"]
    assert {run.parent_run_id for run in member_runs} == {team_runs[0].run_id}
    limited = await other.get_session("team-session", SessionType.TEAM, runs_limit=5)
    assert [run.run_id for run in limited.runs] == [team_runs[0].run_id]
    again = team_on(other)
    await ask(again, other, "again")
    assert "greet" in prompted(again)


async def test_a_workflow_keeps_its_runs(db: Any, another: Callable[[], Any]) -> None:
    def workflow_on(handle: Any) -> Workflow:
        step = Agent(id="step", name="Step", model=ScriptedModel(), telemetry=False)
        return Workflow(
            id="w1", name="Flow", steps=[Step(name="one", agent=step)], db=handle.raw, session_id="flow", user_id="u",
            telemetry=False,
        )  # fmt: skip

    answer = await ask(workflow_on(db), db, "go")
    assert answer.status == RunStatus.completed
    other = another()
    await ask(workflow_on(other), other, "go on")
    found = await db.get_session("flow", SessionType.WORKFLOW, user_id="u")
    assert [run.input for run in found.runs] == ["go", "go on"]
    assert {run.workflow_id for run in found.runs} == {"w1"}
    assert (await db.get_sessions(session_type=SessionType.WORKFLOW, component_id="w1"))[0].session_id == "flow"


async def test_sessions_of_agents_are_listed(db: Any) -> None:
    for number in range(3):
        await ask(agent_on(db, session_id=f"s{number}"), db, "hello")
    await db.upsert_session(agent_session("other", agent_id="a2", user_id="u"))
    rows, total = await db.get_sessions(
        session_type=SessionType.AGENT, component_id="a1", user_id="u", limit=2, page=1, sort_by="updated_at",
        sort_order="desc", deserialize=False, include_runs=False,
    )  # fmt: skip
    assert (len(rows), total) == (2, 3)

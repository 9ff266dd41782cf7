"""Histories read in part: messages, tool calls and exchanges, as Agno's methods have them of the loaded session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from agno.models.message import Message
from agno.run.agent import RunInput, RunOutput
from agno.run.base import RunStatus
from agno.run.team import TeamRunInput, TeamRunOutput
from agno.run.workflow import WorkflowRunOutput
from agno.session import TeamSession, WorkflowSession

from agno_docstores.conformance.sessions import agent_session
from agno_docstores.errors import InvalidIdError

CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def said(*messages: str) -> list[Message]:
    """Messages in short: "user: text", "history user: text" for one tagged as history, "call: id" for a tool call."""
    made = []
    for message in messages:
        role, _, text = message.partition(": ")
        if role == "call":
            made.append(Message(role="assistant", tool_calls=[{**CALL, "id": text}]))
        else:
            made.append(Message(role=role.split()[-1], content=text, from_history=role.startswith("history")))
    return made


def texts(messages: list[Message]) -> list[Any]:
    return [message.content or message.tool_calls[0]["id"] for message in messages]  # type: ignore[index]


def agent_run(run_id: str, *messages: str, **values: Any) -> RunOutput:
    return RunOutput(run_id, **{"agent_id": "a1", "status": RunStatus.completed, **values}, messages=said(*messages))


def team_run(run_id: str, *messages: str, **values: Any) -> TeamRunOutput:
    return TeamRunOutput(run_id, **{"team_id": "t1", "status": RunStatus.completed, **values}, messages=said(*messages))


async def conversation(db: Any, *runs: Any, session: Any = None) -> None:
    await db.upsert_session(session or agent_session(user_id="u"))
    for run in runs:
        await db.upsert_run(run, "s1", "u")


async def five_turns(db: Any) -> None:
    """A system message, a question and an answer in each of five runs, at 100, 200, ... 500."""
    await conversation(
        db,
        *(
            agent_run(f"r{n}", f"system: s{n}", f"user: q{n}", f"assistant: a{n}", created_at=100 * n)
            for n in range(1, 6)
        ),
    )


# --- Messages ---------------------------------------------------------------------------------------------------------


async def test_the_last_runs_are_told_with_their_first_system_message(db: Any) -> None:
    await five_turns(db)
    assert texts(await db.get_messages("s1", last_n=2)) == ["s4", "q4", "a4", "q5", "a5"]
    assert texts(await db.get_messages("s1", last_n=2, skip_roles=["system", "user"])) == ["a4", "a5"]
    assert await db.get_messages("s1", last_n=0) == []
    everything = ["s1", "q1", "a1", "q2", "a2", "q3", "a3", "q4", "a4", "q5", "a5"]
    assert texts(await db.get_messages("s1", last_n=50)) == everything
    assert texts(await db.get_messages("s1")) == everything
    (loaded,) = [run for run in (await db.get_session("s1")).runs if run.run_id == "r5"]
    assert await db.get_messages("s1", last_n=1) == loaded.messages


async def test_runs_that_are_no_context_do_not_count_among_the_last(db: Any, another: Callable[..., Any]) -> None:
    await conversation(
        db,
        agent_run("r1", "user: one"),
        agent_run("r2", "user: two"),
        agent_run("r3", "user: failed", status=RunStatus.error),
        agent_run("r4", "user: cancelled", status=RunStatus.cancelled),
        agent_run("r5", "user: of a member", parent_run_id="r2"),
        agent_run("r6", "history user: two", "user: running", status=RunStatus.running),
    )
    for handle in (db, another()):
        assert texts(await handle.get_messages("s1", last_n=2)) == ["two", "running"]
        assert texts(await handle.get_messages("s1", last_n=2, skip_statuses=[])) == ["cancelled", "running"]
        skipping = await handle.get_messages("s1", last_n=2, skip_statuses=[RunStatus.running, RunStatus.error])
        assert texts(skipping) == ["two", "cancelled"]
        assert texts(await handle.get_messages("s1", last_n=1, skip_history_messages=False)) == ["two", "running"]


async def test_messages_of_one_component_are_told_apart(db: Any, another: Callable[..., Any]) -> None:
    await conversation(
        db,
        agent_run("r1", "user: to a1"),
        agent_run("r2", "user: to a2", agent_id="a2"),
        team_run("r3", "user: to t1"),
        agent_run("r4", "user: again to a2", agent_id="a2"),
    )
    for handle in (db, another()):
        assert texts(await handle.get_messages("s1", last_n=1, agent_id="a1")) == ["to a1"]
        assert texts(await handle.get_messages("s1", agent_id="a2")) == ["to a2", "again to a2"]
        assert texts(await handle.get_messages("s1", max_messages=3, team_id="t1")) == ["to t1"]
        assert await handle.get_messages("s1", agent_id="a1", team_id="t1") == []


async def test_a_run_without_a_component_is_left_out_as_agno_leaves_it_out(db: Any) -> None:
    await conversation(db, agent_run("r1", "user: kept"))
    messages = [message.to_dict() for message in said("user: of nobody")]
    await db.upsert_run({"run_id": "r2", "messages": messages, "status": "COMPLETED"}, "s1", "u")
    await db.upsert_run({"run_id": "r3", "agent_id": None, "messages": messages, "status": "COMPLETED"}, "s1", "u")
    assert texts(await db.get_messages("s1")) == ["kept", "of nobody"]
    assert texts(await db.get_messages("s1", last_n=2)) == ["kept", "of nobody"]


async def test_since_and_until_are_times_of_runs_whatever_their_order(db: Any, another: Callable[..., Any]) -> None:
    await conversation(
        db,
        *(agent_run(f"r{n}", f"user: at {time}", created_at=time) for n, time in enumerate([300, 100, 500, 200, 400])),
    )
    for handle in (db, another()):
        assert texts(await handle.get_messages("s1", since=300)) == ["at 300", "at 500", "at 400"]
        assert texts(await handle.get_messages("s1", until=200)) == ["at 100", "at 200"]
        assert texts(await handle.get_messages("s1", since=200, until=400)) == ["at 300", "at 200", "at 400"]
        assert texts(await handle.get_messages("s1", since=199.5, until=300.5)) == ["at 300", "at 200"]
        assert texts(await handle.get_messages("s1", last_n=2, until=300)) == ["at 100", "at 200"]
        assert texts(await handle.get_messages("s1", since=200, max_messages=2)) == ["at 200", "at 400"]
        assert await handle.get_messages("s1", since=501) == []


async def test_a_budget_of_messages_counts_as_agnos_limit_does(db: Any, another: Callable[..., Any]) -> None:
    await five_turns(db)
    loaded = await db.get_session("s1")
    for handle in (db, another()):
        assert texts(await handle.get_messages("s1", max_messages=4)) == ["s1", "a4", "q5", "a5"]
        assert texts(await handle.get_messages("s1", max_messages=3, skip_roles=["system"])) == ["a4", "q5", "a5"]
        assert texts(await handle.get_messages("s1", last_n=2, max_messages=3)) == ["s4", "q5", "a5"]
        assert texts(await handle.get_messages("s1", max_messages=0)) == ["s1"]
        assert await handle.get_messages("s1", max_messages=0, skip_roles=["system"]) == []
        for budget in (1, 2, 7, 10, 11, 12, 100):
            assert await handle.get_messages("s1", max_messages=budget) == loaded.get_messages(limit=budget)


async def test_a_budget_of_characters_keeps_the_newest_whole_messages(db: Any, another: Callable[..., Any]) -> None:
    await conversation(
        db,
        agent_run("r1", "system: 12345", "user: oldest"),
        agent_run("r2", "user: much too long", "assistant: four"),
        agent_run("r3", "system: another", "user: five5", "assistant: six six"),
    )
    for handle in (db, another()):
        assert texts(await handle.get_messages("s1", max_chars=21)) == ["12345", "four", "five5", "six six"]
        assert texts(await handle.get_messages("s1", max_chars=20)) == ["12345", "five5", "six six"]
        assert texts(await handle.get_messages("s1", max_chars=4)) == []
        assert texts(await handle.get_messages("s1", max_chars=5)) == ["12345"]
        # "oldest" would fit again, behind the one that did not.
        without = await handle.get_messages("s1", max_chars=22, skip_roles=["system"])
        assert texts(without) == ["four", "five5", "six six"]
        assert texts(await handle.get_messages("s1", last_n=1, max_chars=14)) == ["another", "six six"]
        assert texts(await handle.get_messages("s1", max_messages=2, max_chars=1000)) == ["12345", "six six"]
        assert texts(await handle.get_messages("s1", max_chars=1000)) == [
            "12345", "oldest", "much too long", "four", "five5", "six six"
        ]  # fmt: skip


async def test_a_tools_result_is_not_told_without_its_call(db: Any) -> None:
    await conversation(db, agent_run("r1", "user: q", "call: c1", "tool: result", "assistant: done"))
    assert texts(await db.get_messages("s1", max_messages=3)) == ["c1", "result", "done"]
    assert texts(await db.get_messages("s1", max_messages=2)) == ["done"]
    assert texts(await db.get_messages("s1", max_chars=20)) == ["done"], "the call counts with its arguments"
    assert texts(await db.get_messages("s1", max_chars=200)) == ["q", "c1", "result", "done"]


# --- Ownership and freshness ------------------------------------------------------------------------------------------


async def test_a_history_is_told_to_its_owner_only(db: Any) -> None:
    await conversation(db, agent_run("r1", "user: secret", "call: c1", input=RunInput("secret"), content="told"))
    await db.upsert_session(agent_session("unowned"))
    await db.upsert_run(agent_run("r2", "user: secret"), "unowned")
    for session_id, user_id in (("s1", "stranger"), ("s1", ""), ("unowned", "u"), ("nobody", None), ("nobody", "u")):
        assert await db.get_messages(session_id, user_id=user_id) == []
        assert await db.get_messages(session_id, last_n=5, user_id=user_id) == []
        assert await db.get_messages(session_id, since=0, max_chars=1000, user_id=user_id) == []
        assert await db.get_chat_history(session_id, user_id=user_id) == []
        assert await db.get_tool_calls(session_id, num_calls=3, user_id=user_id) == []
        assert await db.get_agent_history(session_id, user_id=user_id) == []
        assert await db.get_team_history(session_id, user_id=user_id) == []
        assert await db.get_workflow_history(session_id, user_id=user_id) == []
    assert texts(await db.get_messages("s1", last_n=5, user_id="u")) == ["secret", "c1"]
    assert await db.get_agent_history("s1", user_id="u") == [("secret", "told")]
    for no_id in ("", "\ud800", None, 5):
        with pytest.raises(InvalidIdError):
            await db.get_messages(no_id, last_n=1)


async def test_what_another_handle_wrote_is_told_at_once(db: Any, another: Callable[..., Any]) -> None:
    other = another()
    await five_turns(db)
    assert texts(await other.get_messages("s1"))[-1] == "a5"
    await db.upsert_run(agent_run("r6", "user: q6", "call: c6"), "s1", "u")
    await db.delete_run("r5")
    for handle in (other, another(), db):
        assert texts(await handle.get_messages("s1", last_n=2, skip_roles=["system"])) == ["q4", "a4", "q6", "c6"]
        assert texts(await handle.get_messages("s1", max_messages=3)) == ["s1", "q6", "c6"]
        assert [call["id"] for call in await handle.get_tool_calls("s1", 1)] == ["c6"]
    await db.delete_session("s1")
    await conversation(db, agent_run("new", "user: anew"))
    for handle in (other, another()):
        assert texts(await handle.get_messages("s1", last_n=9)) == ["anew"]


# --- Other methods ----------------------------------------------------------------------------------------------------


async def test_chat_history_is_what_user_and_assistant_said(db: Any, another: Callable[..., Any]) -> None:
    await conversation(
        db,
        agent_run("r1", "system: s", "user: one", "call: c1", "tool: result", "assistant: two"),
        agent_run("r2", "user: three", status=RunStatus.error),
        agent_run("r3", "user: of a member", parent_run_id="r1"),
        agent_run("r4", "user: four", "assistant: five"),
    )
    for handle in (db, another()):
        assert texts(await handle.get_chat_history("s1")) == ["one", "c1", "two", "three", "four", "five"]
        assert texts(await handle.get_chat_history("s1", 2)) == ["three", "four", "five"]
        assert await handle.get_chat_history("s1", last_n_runs=0) == []


async def test_tool_calls_are_told_newest_run_first(db: Any, another: Callable[..., Any]) -> None:
    await conversation(
        db,
        agent_run("r1", "call: c1", "call: c2", status=RunStatus.error),
        *(agent_run(f"idle{n}", "user: nothing to call") for n in range(7)),
        agent_run("r2", "call: c3", "call: c4", parent_run_id="r1"),
    )
    for handle in (db, another()):
        for count, expected in (
            (1, ["c3"]),
            (2, ["c3", "c4"]),
            (3, ["c3", "c4", "c1"]),
            (9, ["c3", "c4", "c1", "c2"]),
            (None, ["c3", "c4", "c1", "c2"]),
            (0, ["c3", "c4", "c1", "c2"]),
        ):
            assert [call["id"] for call in await handle.get_tool_calls("s1", num_calls=count)] == expected


async def test_exchanges_are_input_and_answer_of_completed_runs(db: Any, another: Callable[..., Any]) -> None:
    await conversation(
        db,
        agent_run("r1", input=RunInput("first"), content="one"),
        agent_run("r2", input=RunInput({"k": 1}), content={"answer": 2}),
        agent_run("r3", input=RunInput("failed"), content="x", status=RunStatus.error),
        agent_run("r4", input=RunInput("nested"), content="x", parent_run_id="r2"),
        agent_run("r5", input=RunInput("still"), content="x", status=RunStatus.running),
        agent_run("r6", content="without input"),
    )
    pairs = [("first", "one"), ("{'k': 1}", "{'answer': 2}"), ("", "without input")]
    for handle in (db, another()):
        assert await handle.get_agent_history("s1") == pairs
        assert await handle.get_agent_history("s1", num_runs=2) == pairs[1:]
        assert await handle.get_agent_history("s1", num_runs=0) == []


# --- Teams and workflows ----------------------------------------------------------------------------------------------


async def test_a_teams_history_is_its_own_unless_members_are_asked_for(db: Any, another: Callable[..., Any]) -> None:
    def member(run_id: str, text: str) -> RunOutput:
        return agent_run(run_id, f"user: {text}", agent_id="m1", parent_run_id="r2", input=RunInput(text))

    told = {"input": TeamRunInput("hello"), "content": "told"}
    await conversation(
        db,
        member("m-own", "stored by itself"),
        team_run("r1", "user: one", "call: c1", **told),
        team_run("r2", "user: two", member_responses=[member("m-own", "again"), member("m-in", "nested")], **told),
        team_run("r3", "user: of the sub-team", team_id="t2", parent_run_id="r2", input=TeamRunInput("deep")),
        session=TeamSession("s1", team_id="t1", user_id="u"),
    )
    for handle in (db, another()):
        assert texts(await handle.get_messages("s1", last_n=1)) == ["two"]
        assert texts(await handle.get_messages("s1", last_n=2, skip_member_messages=False)) == [
            "two",
            "of the sub-team",
        ]
        assert texts(await handle.get_messages("s1", last_n=1, team_id="t2")) == ["of the sub-team"]
        assert texts(await handle.get_messages("s1", member_ids=["m1"])) == ["stored by itself", "nested"]
        assert texts(await handle.get_messages("s1", member_ids=["m1"], last_n=1)) == ["nested"]
        assert texts(await handle.get_messages("s1", member_ids=[], last_n=1)) == ["of the sub-team"]
        assert texts(await handle.get_chat_history("s1", 5)) == ["one", "c1", "two"]
        assert [call["id"] for call in await handle.get_tool_calls("s1", 1)] == ["c1"]
        assert await handle.get_team_history("s1") == [("hello", "told")] * 2
        assert await handle.get_team_history("s1", num_runs=1) == [("hello", "told")]
        assert await handle.get_team_history("s1", team_id="t2", num_runs=5) == [("deep", "")]


async def test_a_workflows_history_is_that_of_its_steps(db: Any, another: Callable[..., Any]) -> None:
    def run(number: int, status: RunStatus, *steps: Any) -> WorkflowRunOutput:
        return WorkflowRunOutput(
            run_id=f"w{number}", workflow_id="w1", input=f"in {number}", content=f"out {number}", status=status,
            step_executor_runs=list(steps),
        )  # fmt: skip

    await conversation(
        db,
        run(1, RunStatus.completed, agent_run("x1", "system: s", "user: one"), agent_run("x2", "user: two")),
        agent_run("x2", "user: a step's run, stored by itself"),
        run(2, RunStatus.completed, team_run("x3", "user: three"), agent_run("x4", "user: four", agent_id="a2")),
        run(3, RunStatus.error, agent_run("x5", "user: five", status=RunStatus.error)),
        session=WorkflowSession("s1", workflow_id="w1", user_id="u"),
    )
    for handle in (db, another()):
        assert texts(await handle.get_messages("s1", agent_id="a1")) == ["s", "one", "two", "five"]
        assert texts(await handle.get_messages("s1", agent_id="a1", last_n=2)) == ["two", "five"]
        assert texts(await handle.get_messages("s1", agent_id="a1", max_messages=2)) == ["s", "five"]
        only = await handle.get_messages("s1", agent_id="a1", last_n=1, skip_statuses=[RunStatus.error])
        assert texts(only) == ["two"]
        assert texts(await handle.get_messages("s1", team_id="t1", last_n=9)) == ["three"]
        assert await handle.get_workflow_history("s1") == [("in 1", "out 1"), ("in 2", "out 2")]
        assert await handle.get_workflow_history("s1", num_runs=1) == [("in 2", "out 2")]
        chat = await handle.get_chat_history("s1", 2)
        assert [(turn.input, turn.output) for turn in chat] == [("in 2", "out 2"), ("in 3", "out 3")]
        with pytest.raises(ValueError, match="must be provided"):
            await handle.get_messages("s1", last_n=1)
        with pytest.raises(ValueError, match="together"):
            await handle.get_messages("s1", agent_id="a1", team_id="t1")


async def test_what_a_type_of_session_does_not_have_is_refused(db: Any) -> None:
    await db.upsert_session(agent_session("agent"))
    await db.upsert_session(TeamSession("team", team_id="t1"))
    await db.upsert_session(WorkflowSession("workflow", workflow_id="w1"))
    for session_id, filters in (
        ("agent", {"member_ids": ["m"]}),
        ("agent", {"skip_member_messages": False}),
        ("team", {"agent_id": "a1"}),
        ("workflow", {"agent_id": "a1", "member_ids": ["m"]}),
    ):
        with pytest.raises(ValueError, match="are not told by"):
            await db.get_messages(session_id, last_n=1, **filters)
    for session_id, method in (
        ("agent", db.get_team_history),
        ("agent", db.get_workflow_history),
        ("team", db.get_agent_history),
        ("workflow", db.get_team_history),
        ("workflow", db.get_tool_calls),
    ):
        with pytest.raises(ValueError, match="has no get_"):
            await method(session_id)
    assert await db.get_messages("agent", last_n=3, max_chars=10) == []
    assert await db.get_messages("workflow", last_n=3) == [], "as Agno answers where there are no runs"

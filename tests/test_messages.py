"""Histories read in part: against Agno's own methods over generated histories, and what they cost."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from agno.models.message import Message
from agno.run.agent import RunInput, RunOutput
from agno.run.base import RunStatus
from agno.run.team import TeamRunInput, TeamRunOutput
from agno.run.workflow import WorkflowRunOutput
from agno.session import AgentSession, TeamSession, WorkflowSession
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from agno_docstores.codec import Json
from agno_docstores.conformance.plugin import Awaitable, close
from agno_docstores.port import Put, Ref
from agno_docstores.schema import RUNS
from tests.meters import KB, ON_THE_WIRE, Cost, prose

# --- Against Agno's own methods ---------------------------------------------------------------------------------------

CALLS = st.lists(
    st.sampled_from(["c1", "c2"]).map(lambda name: {"id": name, "function": {"name": name, "arguments": "{}"}}),
    min_size=1,
    max_size=2,
)
MESSAGES = st.lists(
    st.builds(
        Message,
        role=st.sampled_from(["user", "assistant", "assistant", "tool", "system"]),
        content=st.one_of(st.none(), st.text("ab", max_size=4), st.just([{"type": "text", "text": "part"}])),
        from_history=st.sampled_from([False, False, True]),
        tool_calls=st.one_of(st.none(), st.none(), CALLS),
    ),
    max_size=4,
)
COMMON: dict[str, Any] = {
    "status": st.sampled_from([RunStatus.completed, RunStatus.completed, *RunStatus]),
    "parent_run_id": st.sampled_from([None, None, "parent"]),
    "created_at": st.integers(1, 9),
    "messages": st.one_of(st.none(), MESSAGES, MESSAGES),
    "content": st.sampled_from([None, "said", {"k": 1}]),
}
AGENT_RUNS = st.builds(
    RunOutput,
    agent_id=st.sampled_from(["a1", "a1", "a2", None]),
    input=st.one_of(st.none(), st.just(RunInput("asked"))),
    **COMMON,
)
TEAM_RUNS = st.builds(
    TeamRunOutput,
    team_id=st.sampled_from(["t1", "t1", "t2"]),
    input=st.one_of(st.none(), st.just(TeamRunInput("asked"))),
    member_responses=st.lists(AGENT_RUNS, max_size=2),
    **COMMON,
)
WORKFLOW_RUNS = st.builds(
    WorkflowRunOutput,
    workflow_id=st.just("w1"),
    input=st.sampled_from([None, "asked"]),
    content=COMMON["content"],
    status=COMMON["status"],
    created_at=COMMON["created_at"],
    step_executor_runs=st.lists(st.one_of(AGENT_RUNS, TEAM_RUNS), max_size=3),
)
RUNS_OF = {
    AgentSession: st.one_of(AGENT_RUNS, AGENT_RUNS, TEAM_RUNS),
    TeamSession: st.one_of(TEAM_RUNS, TEAM_RUNS, AGENT_RUNS),
    WorkflowSession: st.one_of(WORKFLOW_RUNS, WORKFLOW_RUNS, AGENT_RUNS),
}
HISTORIES = st.sampled_from(list(RUNS_OF)).flatmap(
    lambda kind: st.tuples(st.just(kind), st.lists(RUNS_OF[kind], max_size=9))
)
#: Arguments of `get_messages` that every session has under these names, those of one type, and ours.
SHARED = st.fixed_dictionaries(
    {},
    optional={
        "skip_roles": st.lists(st.sampled_from(["system", "tool", "user"]), max_size=2),
        "skip_statuses": st.lists(st.sampled_from(list(RunStatus)), max_size=3),
        "skip_history_messages": st.booleans(),
    },
)
FILTERS_OF = {
    AgentSession: st.fixed_dictionaries(
        {}, optional={"agent_id": st.sampled_from(["a1", "a2"]), "team_id": st.sampled_from(["t1", "t2"])}
    ),
    TeamSession: st.fixed_dictionaries(
        {},
        optional={
            "team_id": st.sampled_from(["t1", "t2"]),
            "member_ids": st.sampled_from([[], ["a1"], ["a2", "a1"]]),
            "skip_member_messages": st.booleans(),
        },
    ),
    WorkflowSession: st.sampled_from(
        [{"agent_id": "a1"}, {"agent_id": "a2"}, {"team_id": "t1"}, {"team_id": "t1", "skip_member_messages": False}]
    ),
}
COUNT = st.one_of(st.none(), st.integers(0, 6))
WINDOW = st.fixed_dictionaries({}, optional={"since": st.integers(0, 9), "until": st.integers(0, 9)})
NUMBERS = itertools.count()


async def save(db: Any, kind: Any, runs: list[Any]) -> str:
    session_id = f"s{next(NUMBERS)}"
    component = {AgentSession: "agent_id", TeamSession: "team_id", WorkflowSession: "workflow_id"}[kind]
    await db.upsert_session(kind(session_id, **{component: "x1"}))
    for number, run in enumerate(runs):
        run.run_id = f"{session_id}-{number}"
        for inner, nested in enumerate(
            [*getattr(run, "member_responses", []), *(vars(run).get("step_executor_runs") or [])]
        ):
            # A member's run may be stored by itself as well, before or after the team's.
            nested.run_id = f"{session_id}-{(number + inner) % len(runs)}"
        await db.upsert_run(run, session_id)
    return session_id


def cut(messages: list[Message], max_chars: int) -> list[Message]:
    """The longest end of the messages that fits with the system message, told otherwise than the code tells it."""

    def size(parts: list[Message]) -> int:
        return sum(
            len(Json.of(value).text) if not isinstance(value, str) else len(value)
            for message in parts
            for value in (message.content, message.tool_calls)
            if value
        )

    system = [m for m in messages[:1] if m.role == "system"]
    others = messages[len(system) :]
    system = system if size(system) <= max_chars else []
    ends = [others[start:] for start in range(len(others) + 1)]
    fitting = next((end for end in ends if size([*system, *end]) <= max_chars), [])
    return [*system, *itertools.dropwhile(lambda m: m.role == "tool", fitting)]


async def check_messages(handles: list[Any], data: Any) -> None:
    kind, runs = data.draw(HISTORIES)
    session_id = await save(handles[0], kind, runs)
    for _ in range(3):
        filters = {**data.draw(SHARED), **data.draw(FILTERS_OF[kind])}
        window, last_n, max_messages = data.draw(WINDOW), data.draw(COUNT), data.draw(COUNT)
        max_chars = data.draw(st.one_of(st.none(), st.none(), st.integers(0, 60)))
        loaded = await handles[0].get_session(session_id)
        loaded.runs = [
            run for run in loaded.runs if window.get("since", 0) <= run.created_at <= window.get("until", 10)
        ]
        limit = 10**6 if max_messages is None and max_chars is not None else max_messages
        expected = loaded.get_messages(last_n_runs=last_n, limit=limit, **filters)
        if max_chars is not None:
            expected = cut(expected, max_chars)
        for handle in handles:
            found = await handle.get_messages(
                session_id, last_n=last_n, max_messages=max_messages, max_chars=max_chars, **window, **filters
            )
            assert found == expected


async def check_the_rest(handles: list[Any], data: Any) -> None:
    kind, runs = data.draw(HISTORIES)
    session_id = await save(handles[0], kind, runs)
    count = data.draw(st.one_of(st.none(), st.integers(-1, 6)))
    loaded = await handles[0].get_session(session_id)
    for handle in handles:
        assert await handle.get_chat_history(session_id, count) == loaded.get_chat_history(count)
        if kind is WorkflowSession:
            assert await handle.get_workflow_history(session_id, count) == loaded.get_workflow_history(count)
            continue
        assert await handle.get_tool_calls(session_id, count) == loaded.get_tool_calls(count)
        if kind is TeamSession:
            for team_id in (None, "t1"):
                found = await handle.get_team_history(session_id, team_id, count)
                assert found == loaded.get_team_history(team_id, count)


def check(examples: int, checked: Any, db: Any, runner: asyncio.Runner, open_another: Callable[..., Any]) -> None:
    """Over so many examples, on the handle that wrote the history and on one that keeps nothing of it."""

    async def opened() -> Any:
        return open_another(cache_bytes=0)

    forgetful = runner.run(opened())

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],  # shrinking such an example takes minutes
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def run(data: Any) -> None:
        runner.run(checked([db, Awaitable(forgetful)], data))

    try:
        run()
    finally:
        runner.run(close(forgetful))


EACH = pytest.mark.parametrize("checked", [check_messages, check_the_rest])


@EACH
@pytest.mark.cells("memory-*")
def test_a_part_is_what_agno_tells_of_the_whole(
    checked: Any, db: Any, runner: asyncio.Runner, open_another: Callable[..., Any]
) -> None:
    check(60, checked, db, runner, open_another)


@EACH
@pytest.mark.cells("mongo-async-secantus", "dynamo-sync-local", "firestore-sync-google")
def test_a_part_is_what_agno_tells_of_the_whole_on_each_store(
    checked: Any, db: Any, runner: asyncio.Runner, open_another: Callable[..., Any]
) -> None:
    check(6, checked, db, runner, open_another)


# --- What it costs ----------------------------------------------------------------------------------------------------

LONG = 1000  # runs of 4 KB


async def seed(db: Any, *, system: bool = True, members: int = 0) -> None:
    """A long history as the domain would have stored it: a question, an answer with a tool call; and so many runs of
    members after each."""
    await db.upsert_session(AgentSession(session_id="s1", agent_id="a1", user_id="u"))
    kernel = db.raw._engine.kernel
    head = await kernel.get(Ref("histories", "s1"))
    puts = []
    for number in range(LONG):
        messages = [
            Message(role="user", content=f"question {number}"),
            Message(role="assistant", content=prose(4 * KB, number), tool_calls=[{"id": f"c{number}"}]),
        ]
        if system:
            messages.insert(0, Message(role="system", content="You help."))
        parent = "r" if members and number % (members + 1) < members else None
        run = RunOutput(
            f"r{number}", agent_id="a1", status=RunStatus.completed, created_at=1000 + number, messages=messages,
            content="answer", parent_run_id=parent,
        )  # fmt: skip
        fields = {
            **dict.fromkeys(RUNS.fields),
            "session_id": "s1",
            "run_type": "agent",
            "agent_id": "a1",
            "user_id": "u",
            "parent_run_id": parent,
            "status": "COMPLETED",
            "run_index": number,
            "revision": number + 1,
            "incarnation": head.fields["incarnation"],
            "deleted": False,
            "created_at": 1000 + number,
            "updated_at": 1000 + number,
        }
        puts.append(Put(Ref("runs", f"r{number}", "s1", number), fields, {"run_data": Json.of(run.to_dict())}))
    assert await kernel.write_many(puts) == []
    await kernel.commit([Put(head.ref, {**head.fields, "revision": LONG, "next_index": LONG}, {}, head.rev)])


@ON_THE_WIRE
async def test_a_cold_read_of_a_part_costs_a_part(open_metered: Any) -> None:
    async with open_metered() as (db, _):
        await seed(db)
    limits: list[tuple[str, dict[str, Any], int, int, int]] = [
        # method, arguments, length of the answer; most requests and kilobytes
        ("get_messages", {"last_n": 5}, 11, 2, 60),
        ("get_messages", {"last_n": 5, "agent_id": "a1", "skip_roles": ["system"]}, 10, 2, 60),
        ("get_messages", {"max_messages": 10, "skip_roles": ["system"]}, 10, 2, 60),
        ("get_messages", {"max_messages": 11}, 11, 3, 90),
        ("get_messages", {"max_chars": 20 * KB, "skip_roles": ["system"]}, 8, 2, 60),
        ("get_chat_history", {"last_n_runs": 5}, 10, 2, 60),
        ("get_tool_calls", {"num_calls": 3}, 3, 2, 60),
        ("get_agent_history", {"num_runs": 5}, 5, 2, 60),
    ]
    async with open_metered() as (db, meter):
        await db.get_run("nobody")  # opens connections
        for method, arguments, length, requests, kilobytes in limits:
            meter.start()
            found = await getattr(db, method)("s1", user_id="u", **arguments)
            cost = meter.stop()
            print(f"BUDGET {method}({arguments}): {cost}")
            assert len(found) == length
            assert cost.requests <= requests, (method, arguments)
            assert cost.bytes <= kilobytes * KB, (method, arguments)


@ON_THE_WIRE
async def test_a_time_costs_what_was_said_then(cell: Any, open_metered: Any) -> None:
    """Where the store filters, a few requests; where it cannot, besides the headers of the history."""
    async with open_metered() as (db, _):
        await seed(db)
    async with open_metered() as (db, meter):
        await db.get_run("nobody")  # opens connections
        meter.start()
        found = await db.get_messages("s1", since=1000 + LONG - 3, skip_roles=["system"])
        cost = meter.stop()
    print(f"BUDGET get_messages(since=...): {cost}")
    assert [message.content for message in found if message.role == "user"] == [
        "question 997", "question 998", "question 999"
    ]  # fmt: skip
    assert cost.requests <= 9
    assert cost.bytes <= (1200 if cell.store == "firestore" else 60) * KB


@ON_THE_WIRE
async def test_runs_of_members_in_between_cost_few_requests(open_metered: Any) -> None:
    async with open_metered() as (db, _):
        await seed(db, members=9)
    costs: list[Cost] = []
    async with open_metered() as (db, meter):
        await db.get_run("nobody")  # opens connections
        meter.start()
        found = await db.get_messages("s1", last_n=5, skip_roles=["system"])
        costs.append(meter.stop())
        asked = [message.content for message in found if message.role == "user"]
        assert asked == ["question 959", "question 969", "question 979", "question 989", "question 999"]
    print(f"BUDGET get_messages(last_n=5) among members' runs: {costs}")
    assert costs[0].requests <= 5


@ON_THE_WIRE
async def test_a_handle_that_has_the_history_reads_no_run(open_metered: Any) -> None:
    async with open_metered() as (db, meter):
        await seed(db)
        await db.get_session("s1")
        for arguments in ({"last_n": 5}, {"max_messages": 10}, {"since": 1500}, {}):
            meter.start()
            assert await db.get_messages("s1", **arguments)
            assert meter.stop().requests == 1


@ON_THE_WIRE
async def test_a_history_without_system_message_is_looked_through_once(open_metered: Any) -> None:
    async with open_metered() as (db, _):
        await seed(db, system=False)
    async with open_metered() as (db, meter):
        assert len(await db.get_messages("s1", max_messages=10)) == 10
        meter.start()
        found = await db.get_messages("s1", max_messages=6)
        assert meter.stop().requests == 1
        assert [message.content for message in found if message.role == "user"] == [
            "question 997", "question 998", "question 999"
        ]  # fmt: skip

"""Hostile values: whatever JSON can hold comes back as the encoder of Agno's own SqliteDb writes it and `json.loads`
reads it, to the type and the sign of zero, wherever a user's values travel; the rest is refused, and nothing written.

`values()` is a hypothesis strategy of such values. `AGNO_DOCSTORES_VALUES` says how many of them a run writes (default
300), `AGNO_DOCSTORES_SEED` which (default 0).
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from functools import cache
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from agno.db.sqlite import AsyncSqliteDb
from agno.db.utils import CustomJSONEncoder
from agno.models.message import Message
from agno.run.agent import RunOutput
from agno.session import TeamSession, WorkflowSession
from agno.session.summary import SessionSummary
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from sqlalchemy.exc import StatementError

from agno_docstores.conformance.evals import eval_of
from agno_docstores.conformance.knowledge import content_of
from agno_docstores.conformance.memories import memory_of
from agno_docstores.conformance.sessions import agent_session
from agno_docstores.conformance.traces import span, trace


class Colour(Enum):
    RED = "red"


class Mood(StrEnum):
    GOOD = "good"


class Level(IntEnum):
    HIGH = 3


class Point(NamedTuple):
    x: int
    y: float


@dataclass
class Plain:
    x: int


class Model(BaseModel):
    x: int


def nested(levels: int, inside: Any = 1) -> Any:
    """Lists and objects in turn, so many of them around a value."""
    for level in range(levels):
        inside = {"a": inside} if level % 2 else [inside]
    return inside


NUMBERS = [
    0, 1, -1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 2**70, -(2**70), 10**38, 10**400,
    0.0, -0.0, 1.0, -1.0, 0.1, 1 / 3, 1e16, 1e22, 1e23, 2.0**63, 5e-324, 1.7976931348623157e308,
    float("inf"), float("-inf"), float("nan"), True, False, None,
]  # fmt: skip

#: Text as UTF-8 can hold it: what looks like something else, what an escape has to get right, what is hard to see.
TEXTS = [
    "", " ", " a ", "\0", "a\0b", "\0\0", "\t\r\n\x01\x1f\x7f\x85", "\\", '"', "\\u0000", "\\ud800", "'; DROP", "%s{}`",
    "1", "1.0", "-0", "1e5", "NaN", "Infinity", "null", "None", "true", "[]", "{}", '{"a": 1}', '"quoted"',
    "2026-01-01", "2026-01-01T00:00:00Z", "507f1f77bcf86cd799439011", "00000000-0000-0000-0000-000000000000",
    "$set", "a.b", "..", "/", "__x__", "a/b#c|d!e~f",
    "é", "e\u0301", "\ufeffbom", "\u2028\u2029", "\u200b\u202e", "\ufffe\uffff\U0010ffff", "日本", "👩‍👩‍👧", "x" * 2000,
]  # fmt: skip

#: Text with lone surrogates, which has no UTF-8; two that meet are one character once JSON has been read.
SURROGATES = ["\ud800", "a\udfffb", "\udc00\ud800", "\ud83d\ude00", "\\\ud800\\ud800"]

KEYS = [*TEXTS, *SURROGATES, "_id", "_rev", "$", "$$ROOT", "$inc", "a.$b", ".", "a.", ".a", "0", "__json__", "json"]

#: What a store may take for one of its own forms.
LOOK_ALIKES = [
    {"__json__": "1"}, {"__json__": "{"}, {"__json__": {"__json__": "1"}}, {"json": "1"}, {"json": {"S": "1"}},
    {"S": "x"}, {"N": "1"}, {"NULL": True}, {"M": {"json": {"S": "1"}}}, {"L": [{"S": "x"}]}, {"B": "eA=="},
    {"$oid": "507f1f77bcf86cd799439011"}, {"$date": 0}, {"$numberLong": "1"}, {"$numberDouble": "NaN"},
    {"$ref": "a", "$id": 1}, {"$undefined": True}, {"__type__": "x"}, {"py/object": "x"}, {"stringValue": "x"},
]  # fmt: skip

EMPTY = [[], {}, [[]], [{}], {"": {}}, {"a": []}, [[[]], []], [None], {"a": None}, [[1, [2, []]], []]]

#: What JSON has no form for, and Agno's encoder gives one, or `json` itself.
CONVERTED = [
    (), (1, (2.0, ())), Point(1, 2.0), {1: "int", 1.5: "float", False: "bool", None: "null"}, {1: "a", "1": "b"},
    {float("nan"): 1, -0.0: 2, 2**70: 3}, Mood.GOOD, Level.HIGH, {Mood.GOOD: Level.HIGH, Level.HIGH: 1},
    datetime(2026, 1, 1), datetime(2026, 1, 1, 1, 2, 3, 4, tzinfo=UTC), date(2026, 1, 1), UUID(int=1), int,
]  # fmt: skip

CORPUS: list[Any] = [*NUMBERS, *TEXTS, *SURROGATES, *EMPTY, *LOOK_ALIKES, *CONVERTED, nested(90), nested(190)]

_loop: list[Any] = []
_loop.append(_loop)

#: What neither has a form for. (Of what is 5,000 levels deep, or contains itself, nobody can find the end.)
UNSTORABLE: list[Any] = [
    {1, 2}, frozenset(), b"x", bytearray(b"x"), memoryview(b"x"), Decimal("1.5"), Fraction(1, 2), 1j, object(), len,
    range(3), iter([]), Ellipsis, time(1), timedelta(1), Colour.RED, Plain(1), Model(x=1), PurePosixPath("/"),
    ValueError("x"), 10**5000, {(1, 2): 3}, {b"k": 1}, {date(2026, 1, 1): 1}, {"late": {Colour.RED: 1}},
    _loop, nested(5000),
]  # fmt: skip
#: Which errors say so.
REFUSED = (TypeError, ValueError, RecursionError, StatementError)


@cache
def values() -> st.SearchStrategy[Any]:
    """Any value that can be stored: of every type that `json` or Agno's encoder has a form for, with hostile text."""
    text = st.one_of(st.sampled_from(KEYS), st.text(st.characters(exclude_categories=()), max_size=8))
    scalars = st.one_of(
        st.sampled_from(NUMBERS), text, st.integers(), st.floats(), st.datetimes(), st.dates(), st.uuids(),
        st.sampled_from([Mood.GOOD, Level.HIGH]),
    )  # fmt: skip
    keys = st.one_of(text, st.integers(), st.floats(), st.booleans(), st.none())

    def around(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.one_of(
            st.lists(children, max_size=4),
            st.dictionaries(keys, children, max_size=4),
            st.tuples(children, children),
            st.builds(nested, st.integers(0, 30), children),
        )

    return st.recursive(scalars, around, max_leaves=6)


@cache
def generated(count: int, number: int) -> list[Any]:
    """So many values, the same for the same number."""
    found: list[Any] = []

    @seed(number)
    @settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(values())
    def note(value: Any) -> None:
        found.append(value)

    note()
    return found


def as_json(value: Any) -> Any:
    """What becomes of a value that is stored as JSON."""
    return json.loads(json.dumps(value, cls=CustomJSONEncoder))


def assert_same(found: Any, stored: Any, where: str) -> None:
    """That each of the values of an object came back as JSON reads it, in its place."""
    expected = as_json(stored)
    assert isinstance(found, dict), f"{where}: {found!r}"
    wrong = [
        f"{key!a}: {found.get(key, 'missing')!a} for {value!a}"[:500]
        for key, value in expected.items()
        if repr(found.get(key, "missing")) != repr(value)
    ]
    assert not wrong, f"{where}: {wrong}"
    assert list(found) == list(expected), where


@pytest.fixture(autouse=True)
def storage_of_values(db: Any, runner: asyncio.Runner) -> None:
    """AsyncSqliteDb, alone, saves no memory before it has been told to make its tables."""
    if isinstance(db.raw, AsyncSqliteDb):
        runner.run(db._create_all_tables())


# --- Where values travel: each saves an object in every part that takes one, and gives each as read -------------------


async def in_sessions(db: Any, value: dict[Any, Any]) -> dict[str, Any]:
    parts: Any = {"session_data": value, "metadata": value}
    await db.upsert_session(agent_session(agent_data=value, **parts))
    await db.upsert_session(TeamSession(session_id="s2", team_id="t1", team_data=value, **parts))
    await db.upsert_session(WorkflowSession(session_id="s3", workflow_id="w1", workflow_data=value, **parts))
    found: dict[str, Any] = {}
    for own, id in (("agent", "s1"), ("team", "s2"), ("workflow", "s3")):
        row, session = await db.get_session(id, deserialize=False), await db.get_session(id)
        for name in ("session_data", "metadata", f"{own}_data"):
            found[f"{own} row {name}"] = row[name]
            found[f"{own} {name}"] = getattr(session, name)
    rows, _ = await db.get_sessions(deserialize=False)
    found.update({f"listed {row['session_id']}": row["session_data"] for row in rows})
    return found


async def in_runs(db: Any, value: dict[Any, Any]) -> dict[str, Any]:
    await db.upsert_session(agent_session("s4"))
    await db.upsert_run({"run_id": "r1", "agent_id": "a1", "payload": value}, "s4")
    await db.upsert_run(RunOutput(run_id="r2", agent_id="a1", session_state=value, content=value), "s4")
    row = await db.get_run("r1", deserialize=False)
    run = await db.get_run("r2")
    session = await db.get_session("s4", deserialize=False)
    return {
        "run_data": row["run_data"]["payload"],
        "session_state": run.session_state,
        "content": run.content,
        "history": session["runs"][0]["payload"],
    }


async def in_learnings(db: Any, value: dict[Any, Any]) -> dict[str, Any]:
    await db.upsert_learning("l1", "fact", value, metadata=value)
    row = await db.get_learning_by_id("l1")
    (listed,) = await db.get_learnings(learning_type="fact")
    return {"content": row["content"], "metadata": row["metadata"], "listed": listed["content"]}


async def in_memories(db: Any, value: dict[Any, Any]) -> dict[str, Any]:
    await db.upsert_user_memory(memory_of("m1", memory=value, topics=value))
    row = await db.get_user_memory("m1", deserialize=False)
    (listed,) = await db.get_user_memories()
    return {"memory": row["memory"], "topics": row["topics"], "listed": listed.memory}


async def in_knowledge(db: Any, value: dict[Any, Any]) -> dict[str, Any]:
    await db.upsert_knowledge_content(content_of(metadata=value))
    found = await db.get_knowledge_content("c1")
    (listed,), _ = await db.get_knowledge_contents()
    return {"metadata": found.metadata, "listed": listed.metadata}


async def in_evals(db: Any, value: dict[Any, Any]) -> dict[str, Any]:
    await db.create_eval_run(eval_of(eval_data=value, eval_input=value))
    found = await db.get_eval_run("e1")
    (listed,) = await db.get_eval_runs()
    return {"eval_data": found.eval_data, "eval_input": found.eval_input, "listed": listed.eval_data}


async def in_spans(db: Any, value: dict[Any, Any]) -> dict[str, Any]:
    await db.upsert_trace(trace())
    await db.create_span(span(attributes=value))
    found = await db.get_span("s1")
    (listed,) = await db.get_spans("t1")
    return {"attributes": found.attributes, "listed": listed.attributes}


PLACES = (in_sessions, in_runs, in_learnings, in_memories, in_knowledge, in_evals, in_spans)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
async def test_a_value_comes_back_as_json_reads_it(db: Any, place: Any) -> None:
    value = {
        **{str(number): one for number, one in enumerate(CORPUS)},
        **dict.fromkeys(KEYS, 1),
        "keys": dict.fromkeys(KEYS),
    }
    for where, found in (await place(db, value)).items():
        assert_same(found, value, f"{place.__name__}: {where}")


async def assert_alone(db: Any, values: Sequence[Any]) -> None:
    """That each value comes back where nothing else is with it: what a store does with one of them may depend on it."""
    pairs = {f"m{start}": values[start : start + 2] for start in range(0, len(values), 2)}
    await db.upsert_memories(
        [memory_of(id, memory={"one": pair[0]}, topics={"two": pair[-1]}) for id, pair in pairs.items()]
    )
    rows, total = await db.get_user_memories(deserialize=False)
    assert total == len(pairs)
    found = {row["memory_id"]: (row["memory"], row["topics"]) for row in rows}
    for id, pair in pairs.items():
        assert_same(found[id][0], {"one": pair[0]}, "memory")
        assert_same(found[id][1], {"two": pair[-1]}, "topics")


async def test_a_value_comes_back_alone(db: Any) -> None:
    await assert_alone(db, [*CORPUS, *({key: key} for key in KEYS)])


async def test_what_is_empty_is_neither_null_nor_missing(db: Any) -> None:
    """Also as the whole of what a column holds. (Not so a float: SQLite makes 0 of a column's 0.0.)"""
    await db.upsert_session(agent_session())
    whole: tuple[Any, ...] = ({}, [], "", 0, False, True, 1, "text", [None], [0.0], None)
    for value in whole:
        await db.upsert_session(agent_session(session_data=value, metadata=value, agent_data=value))
        await db.upsert_run({"run_id": "r1", "agent_id": "a1", "value": value}, "s1")
        await db.upsert_learning("l1", "fact", value, metadata=value)
        await db.upsert_user_memory(memory_of("m1", memory=[value], topics=value))
        row = await db.get_session("s1", deserialize=False)
        learning = await db.get_learning_by_id("l1")
        memory = await db.get_user_memory("m1", deserialize=False)
        found = [row["session_data"], row["metadata"], row["agent_data"], row["runs"][0]["value"]]
        found += [learning["content"], learning["metadata"], *memory["memory"], memory["topics"]]
        assert list(map(repr, found)) == [repr(value)] * len(found)
    await db.upsert_run({"run_id": "r1", "agent_id": "a1"}, "s1")
    assert "value" not in (await db.get_run("r1", deserialize=False))["run_data"]


async def test_text_comes_back_from_every_column_of_text(db: Any) -> None:
    numbered = {f"i{number}": text for number, text in enumerate(TEXTS)}
    await db.upsert_memories(
        [memory_of(id, memory=text, topics=[text, "t"], input=text, feedback=text) for id, text in numbered.items()]
    )
    memories = {memory.memory_id: memory for memory in await db.get_user_memories()}
    for id, text in numbered.items():
        memory = memories[id]
        assert (memory.memory, memory.topics, memory.input, memory.feedback) == (text, [text, "t"], text, text)
    assert set(await db.get_all_memory_topics()) == {*TEXTS, "t"}

    await db.upsert_trace(trace())
    await db.create_spans([span(id, name=text, status_message=text) for id, text in numbered.items()])
    spans = {one.span_id: (one.name, one.status_message) for one in await db.get_spans("t1")}
    assert spans == {id: (text, text) for id, text in numbered.items()}

    columns = ("name", "description", "type", "status", "status_message", "external_id")
    for start in range(0, len(TEXTS), len(columns)):
        texts = TEXTS[start : start + len(columns)]
        given_ = dict(zip(columns, texts, strict=False))
        await db.upsert_knowledge_content(content_of(**given_))
        found = await db.get_knowledge_content("c1")
        assert [getattr(found, name) for name in given_] == texts
        await db.create_eval_run(eval_of(f"e{start}", name=texts[0], evaluated_component_name=texts[-1]))
        run = await db.rename_eval_run(f"e{start}", texts[1])
        assert (run.name, run.evaluated_component_name) == (texts[1], texts[-1])
        await db.upsert_trace(trace(f"t{start}", name=texts[2]))
        assert (await db.get_trace(f"t{start}")).name == texts[2]


async def test_a_session_has_any_text_as_its_name_and_summary(db: Any) -> None:
    texts = [*TEXTS, *SURROGATES]
    summary = SessionSummary(summary="\0".join(TEXTS), topics=texts)
    await db.upsert_session(agent_session(summary=summary, session_data={"kept": 1.0}))
    for name in ("", "\0", "a.b", "$set", "null", "1", "e\u0301", "\ud800", "x" * 2000):
        await db.rename_session("s1", None, name)
        row = await db.get_session("s1", deserialize=False)
        assert repr(row["session_data"]) == repr(as_json({"kept": 1.0, "session_name": name}))
        assert repr(row["summary"]) == repr(as_json(summary.to_dict()))
    rows, total = await db.get_sessions(deserialize=False)
    assert (len(rows), total) == (1, 1)


# --- What cannot be stored --------------------------------------------------------------------------------------------


async def contents(db: Any) -> str:
    """Everything that the tests below may have written."""
    sessions, _ = await db.get_sessions(deserialize=False)
    memories, _ = await db.get_user_memories(deserialize=False)
    runs = [await db.get_run(id, deserialize=False) for id in ("r1", "r2")]
    learnings = [await db.get_learning_by_id(id) for id in ("l1", "l2")]
    others = [await db.get_knowledge_contents(), await db.get_eval_runs(), await db.get_spans("t1")]
    return repr((sessions, [dict(memory) for memory in memories], runs, learnings, others))


async def refused(call: Any) -> bool:
    try:
        await call
    except REFUSED:
        return True
    return False


async def test_what_cannot_be_stored_is_refused_and_nothing_written(db: Any) -> None:
    await db.upsert_session(agent_session(session_data={"kept": 1}))
    await db.upsert_run({"run_id": "r1", "agent_id": "a1", "kept": 1}, "s1")
    await db.upsert_learning("l1", "fact", {"kept": 1})
    await db.upsert_user_memory(memory_of("m1", topics=["kept"]))
    await db.upsert_trace(trace())
    before = await contents(db)
    for value in UNSTORABLE:
        for id in ("r1", "r2"):  # one that is there, and one that is not
            run = {"run_id": id, "agent_id": "a1", "fine": [1], "deep": [{"bad": value}]}
            assert await refused(db.upsert_run(run, "s1")), f"{type(value)} in a run"
        await db.upsert_learning("l1", "fact", {"deep": [{"bad": value}]})  # which raises nothing, as the contract says
        await db.upsert_learning("l2", "fact", {}, metadata={"bad": value})
        assert await refused(db.upsert_user_memory(memory_of("m1", topics=[value]))), type(value)
    for value in ({1, 2}, b"x", Decimal("1.5"), 1j, object(), _loop, nested(5000), {(1, 2): 3}, Model(x=1)):
        for bad in ({"session_data": {"bad": value}}, {"metadata": {"bad": [value]}}, {"agent_data": {"bad": value}}):
            session = agent_session(**bad)
            assert await refused(db.upsert_session(session)), f"{type(value)} in a session"
    for value in ({1, 2}, b"x", Decimal("1.5"), 1j):
        assert await refused(db.upsert_knowledge_content(content_of(metadata={"bad": value})))
        assert await refused(db.create_eval_run(eval_of(eval_data={"bad": value})))
        await db.create_span(span(attributes={"bad": value}))  # nor does this raise
    assert await contents(db) == before


async def test_objects_that_agno_itself_takes_apart_are_stored_as_it_does(db: Any) -> None:
    session = agent_session(session_data={"plain": Plain(1), "in": [Plain(2)]})
    await db.upsert_session(session)
    assert (await db.get_session("s1")).session_data == {"plain": {"x": 1}, "in": [{"x": 2}]}
    await db.create_eval_run(eval_of(eval_data={"model": Model(x=1), "plain": Plain(2)}))
    assert (await db.get_eval_run("e1")).eval_data == {"model": {"x": 1}, "plain": {"x": 2}}
    message = Message(role="user", content="x", id="m", created_at=1)
    await db.upsert_run({"run_id": "r1", "agent_id": "a1", "message": message}, "s1")
    assert (await db.get_run("r1", deserialize=False))["run_data"]["message"] == as_json(message.to_dict())


# --- Generated --------------------------------------------------------------------------------------------------------

DEFAULTS = {"VALUES": "300", "SEED": "0"}
PACKED = 100  # values in one write


async def test_generated_values_come_back_as_json_reads_them(db: Any) -> None:
    count, number = (int(os.environ.get(f"AGNO_DOCSTORES_{name}", default)) for name, default in DEFAULTS.items())
    drawn = generated(count, number)
    await db.upsert_session(agent_session())
    for start in range(0, len(drawn), PACKED):
        await assert_alone(db, drawn[start : start + PACKED])
        await db.clear_memories()
        some = {str(place): value for place, value in enumerate(drawn[start : start + PACKED], start)}
        await db.upsert_session(agent_session(session_data=some))
        await db.upsert_run({"run_id": "r1", "agent_id": "a1", **some}, "s1")
        await db.upsert_learning("l1", "fact", some)
        row = await db.get_session("s1", deserialize=False)
        assert_same(row["session_data"], some, "session_data")
        assert_same(row["runs"][0], {"run_id": "r1", "agent_id": "a1", **some}, "run_data")
        assert_same((await db.get_learning_by_id("l1"))["content"], some, "learning")

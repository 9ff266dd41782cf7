"""What our codec and keys promise beyond the contract: refusals by path, a bound on depth, keys that cannot meet."""

from __future__ import annotations

import copy
import functools
import json
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import pytest
from agno.metrics import SessionMetrics
from agno.session import AgentSession, TeamSession
from hypothesis import given, settings
from hypothesis import strategies as st

from agno_docstores import InvalidIdError, UnserializableValueError, keys
from agno_docstores.codec import MOST_LEVELS, Json, pack, unpack
from agno_docstores.conformance.ids import memories_stay_apart, sessions_and_runs_stay_apart, traces_stay_apart
from agno_docstores.conformance.memories import memory_of
from agno_docstores.conformance.plugin import Awaitable, close
from agno_docstores.conformance.runs import run_ids
from agno_docstores.conformance.sessions import agent_session, run_of
from agno_docstores.conformance.traces import span, trace
from agno_docstores.conformance.values import (
    CORPUS,
    KEYS,
    UNSTORABLE,
    Model,
    Mood,
    as_json,
    assert_same,
    in_runs,
    in_sessions,
    in_spans,
    nested,
    values,
)
from agno_docstores.merging import merge
from agno_docstores.session_records import Incoming


@pytest.mark.parametrize("value", UNSTORABLE, ids=lambda value: type(value).__name__)
def test_what_cannot_be_stored_is_named_by_its_path(value: Any) -> None:
    with pytest.raises(UnserializableValueError) as caught:
        Json.of({"fine": [nested(250), value], "later": {1, 2}}, "run_data")
    assert "run_data.fine[1]" in caught.value.path
    assert len(str(caught.value)) < 10_000


def test_the_path_is_exact_however_deep() -> None:
    with pytest.raises(UnserializableValueError, match=r" is a Model, which cannot be stored as JSON$") as caught:
        Json.of(nested(250, Model(x=1)), "run_data")
    assert caught.value.path == "run_data" + ".a[0]" * 125
    loop: dict[str, Any] = {"again": [1]}
    loop["again"].append(loop)
    with pytest.raises(UnserializableValueError, match=r"^v\.again\[1\] is a dict, which contains itself$"):
        Json.of(loop, "v")
    shared = {"x": 1}
    assert Json.of([shared, [shared]]).value() == [{"x": 1}, [{"x": 1}]]


@pytest.mark.parametrize("inside", [1, "[[[", {}, (), {"at": None}])
def test_depth_is_bounded_such_that_what_is_stored_can_be_read_and_merged(inside: Any) -> None:
    own = 0 if isinstance(inside, str | int) else 1
    most = nested(MOST_LEVELS - own, inside)
    part = Json.of(most)

    def further_down(frames: int) -> None:
        """With little of the stack left, as in a server under a framework."""
        if frames:
            return further_down(frames - 1)
        (read,) = unpack(pack({"part": part})).values()
        assert read == part
        other = copy.copy(most)
        merged, lost = merge(as_json(most), read.value(), as_json([other, 1]))
        assert (json.dumps(merged), lost) == (json.dumps([as_json(most), 1]), [])
        return None

    further_down(200)
    with pytest.raises(
        UnserializableValueError, match=rf"^value[.a\[0\]]+ is a \w+, more than {MOST_LEVELS} levels deep$"
    ):
        Json.of([most])


@settings(max_examples=200, database=None, deadline=None, derandomize=True)
@given(values())
def test_the_canonical_form_is_canonical(value: Any) -> None:
    part = Json.of(value)
    assert repr(part.value()) == repr(as_json(value))
    assert Json.parsed(part.value()) == Json.parsed(Json.parsed(part.value()).value())
    part.text.encode()
    for compress in (True, False):
        (read,) = unpack(pack({"part": part}, compress=compress, threshold=0)).values()
        assert repr(read.value()) == repr(part.value())


async def test_what_agno_cannot_take_apart_is_named_by_its_path_too(db: Any) -> None:
    loop: dict[str, Any] = {}
    loop["self"] = loop
    cases = [
        (iter([]), "session_data.bad"),
        ({"x": loop}, "session_data.bad.x.self"),
        (nested(5000), "session_data.bad"),
    ]
    for value, path in cases:
        with pytest.raises(UnserializableValueError) as caught:
            await db.upsert_session(agent_session(session_data={"bad": value}))
        assert caught.value.path.startswith(path)
    assert await db.get_sessions() == []
    await db.upsert_trace(trace())
    await db.create_spans(
        [span("s1", attributes={"bad": loop}), span("s2", attributes={"bad": nested(5000)}), span("s3")]
    )
    assert [one.span_id for one in await db.get_spans("t1")] == ["s3"]


@pytest.mark.cells("dynamo-sync-*", "firestore-sync-*")
async def test_values_come_back_from_readable_text_as_well(open_another: Any) -> None:
    db = Awaitable(open_another(compress=False))
    value = {**{str(number): one for number, one in enumerate(CORPUS)}, **dict.fromkeys(KEYS, 1)}
    try:
        for place in (in_sessions, in_runs, in_spans):
            for where, found in (await place(db, value)).items():
                assert_same(found, value, where)
    finally:
        await close(db.raw)


async def test_an_update_of_state_takes_any_value_under_any_key(db: Any) -> None:
    await db.upsert_session(agent_session())
    value = {**{str(number): one for number, one in enumerate(CORPUS)}, **dict.fromkeys(KEYS, 1)}
    names = list(as_json(dict.fromkeys(KEYS)))
    under = dict(zip(names, CORPUS, strict=False))
    await db.update_session_data("s1", {"merged": value}, set={("set", name): one for name, one in under.items()})
    data = await db.update_session_data(
        "s1", increment={("count", name): 1.0 for name in names}, append={"list": CORPUS}
    )
    assert_same(data, (await db.get_session("s1")).session_data, "stored")
    assert_same(data["merged"], value, "merged")
    assert_same(data["set"], under, "set")
    assert_same(data["count"], dict.fromkeys(names, 1.0), "count")
    assert repr(data["list"]) == repr(as_json(CORPUS))
    before = await db.get_session("s1", deserialize=False)
    for bad in UNSTORABLE:
        for change in ({"set": {("set", "a.b"): bad}}, {"append": {"list": [bad]}}, {"data": {"bad": bad}}):
            with pytest.raises(UnserializableValueError):
                await db.update_session_data("s1", **change)
    assert repr(await db.get_session("s1", deserialize=False)) == repr(before)


async def test_floats_are_kept_as_the_whole_of_a_part(db: Any) -> None:
    for value in (0.0, -0.0, 1.0, 2**70, 1e300, float("inf"), float("nan")):
        await db.upsert_session(agent_session(session_data=value, metadata=value))
        row = await db.get_session("s1", deserialize=False)
        assert (repr(row["session_data"]), repr(row["metadata"])) == (repr(value), repr(value))


# --- Keys -------------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=6)
SCALARS = st.one_of(
    TEXT, TEXT.map(lambda text: text * 60), st.integers(), st.floats(allow_nan=False), st.booleans(), st.none()
)


@settings(max_examples=500, database=None, deadline=None, derandomize=True)
@given(st.lists(SCALARS, max_size=3), st.lists(SCALARS, max_size=3))
def test_keys_meet_only_where_tuples_are_equal(one: list[Any], other: list[Any]) -> None:
    equal = [keys.rank(value) for value in one] == [keys.rank(value) for value in other] and [
        isinstance(value, bool) for value in one
    ] == [isinstance(value, bool) for value in other]
    assert (keys.encode(one) == keys.encode(other)) is equal


def test_no_id_is_what_another_is_abridged_to() -> None:
    """Else whoever knows a long id could choose one that is taken for it."""
    long = "x" * 1600
    (component,) = keys.encode((long,)).split("!")[:1]
    forged = component[1:]
    assert len(forged) <= 200
    known = {long, forged, long[:-1] + "y", long[:-1]}
    for _ in range(3):
        known |= {keys.fit(text, 200) for text in known}
    assert len({keys.encode((text,)) for text in known}) == len(known)


@pytest.mark.cells("*-sync", "mongo-sync-secantus", "dynamo-sync-local", "dynamo-sync-moto", "firestore-sync-*")
async def test_ids_in_the_forms_that_we_store_ids_in_stay_apart(db: Any) -> None:
    from agno_docstores_firestore.documents import segment

    long = "x" * 1600
    forms = [
        keys.fit(long, 200),
        keys.encode((long,)),
        segment(long),
        keys.digest(long),
        keys.fit(keys.fit(long, 200), 200),
    ]
    ids = [
        long,
        *forms,
        "a",
        keys.encode(("a",)),
        keys.encode(("sessions", "a")),
        segment("a/b"),
        "a/b",
        segment("%2F"),
    ]
    await sessions_and_runs_stay_apart(db, ids)
    await memories_stay_apart(db, ids, ids)
    await traces_stay_apart(db, ids)


# --- Columns of text and numbers --------------------------------------------------------------------------------------

NO_TEXTS: list[Any] = [b"x", [1], ("a",), {"a": 1}, {"$gt": ""}, {1}, 1j, object(), "\ud800"]
NO_TIMES: list[Any] = [
    "text",
    "5",
    True,
    b"x",
    [1],
    ("a",),
    {"$gt": 0},
    float("nan"),
    float("inf"),
    2**63,
    -(2**70),
    1j,
]


async def test_what_is_no_text_is_no_owner_no_label_and_no_filter(db: Any) -> None:
    """As SqliteDb has it; as text, it would be somebody's id all the same."""
    await db.upsert_session(agent_session(user_id="u"))
    await db.upsert_run(run_of("r1"), "s1", "u")

    def calls(bad: Any) -> Iterator[Any]:
        yield db.upsert_session(agent_session(user_id=bad))
        yield db.upsert_session(agent_session(agent_id=bad))
        yield db.upsert_run(run_of("r2"), "s1", bad)
        yield db.upsert_run({"run_id": "r2", "agent_id": "a1", "status": bad}, "s1", "u")
        yield db.upsert_user_memory(memory_of(user_id=bad))
        yield db.upsert_user_memory(memory_of(agent_id=bad))
        yield db.upsert_learning("l1", "fact", {}, user_id=bad)
        yield db.upsert_learning("l1", "fact", {}, namespace=bad)
        yield db.get_sessions(user_id=bad)
        yield db.get_sessions(component_id=bad)
        yield db.get_runs(user_id=bad)
        yield db.get_runs(session_id="s1", agent_id=bad)
        yield db.get_user_memories(user_id=bad)
        yield db.get_eval_runs(model_id=bad)

    for bad in NO_TEXTS:
        for call in calls(bad):
            with pytest.raises(InvalidIdError):
                await call
    assert [session.session_id for session in await db.get_sessions(user_id="u", component_id="a1")] == ["s1"]
    assert await run_ids(db) == ["r1"]
    assert await db.get_user_memories() == [] and await db.get_learnings() == []


async def test_a_number_as_an_id_is_its_text_also_as_a_filter(db: Any) -> None:
    given = [
        (5, "5"),
        (0, "0"),
        (2.5, "2.5"),
        (2**70, str(2**70)),
        (UUID(int=1), str(UUID(int=1))),
        (Mood.GOOD, "good"),
    ]
    for number, (id, text) in enumerate(given):
        await db.upsert_session(agent_session(f"s{number}", user_id=id, agent_id=id))
        await db.upsert_run(run_of(f"r{number}", agent_id=text), f"s{number}", id)
        for one in (id, text):
            for filters in ({"user_id": one}, {"component_id": one}):
                assert [s.session_id for s in await db.get_sessions(**filters)] == [f"s{number}"]
            assert [run.run_id for run in await db.get_runs(user_id=one, agent_id=one)] == [f"r{number}"]
            assert (await db.get_session(f"s{number}", user_id=one)).user_id == text


async def test_what_is_no_time_is_refused_rather_than_every_listing_by_time(db: Any) -> None:
    await db.upsert_session(agent_session())
    for bad in NO_TIMES:
        with pytest.raises(TypeError, match="created_at"):
            await db.upsert_session(agent_session("s2", created_at=bad))
        with pytest.raises(TypeError, match="updated_at"):
            await db.upsert_session(agent_session("s2", updated_at=bad))
        with pytest.raises(TypeError, match="created_at"):
            await db.upsert_run({"run_id": "r1", "agent_id": "a1", "created_at": bad}, "s1")
        await db.upsert_run({"run_id": "r2", "agent_id": "a1", "created_at": 5}, "s1", run_index=bad)
    assert [s.session_id for s in await db.get_sessions(start_timestamp=0, sort_by="updated_at")] == ["s1"]
    assert await run_ids(db) == ["r2"]
    await db.upsert_session(agent_session("s3", created_at=7.0))
    row = await db.get_session("s3", deserialize=False)
    assert repr((row["created_at"], row["updated_at"])) == "(7, 7)"


@dataclass
class Basket:
    """What a tool may leave in a session's state."""

    apples: int
    by: dict[str, Any]


class Level(StrEnum):
    HIGH = "high"


@pytest.mark.parametrize(
    "value",
    [
        {"text": "é", "numbers": [1, 1.5, float("inf"), 10**30, True, None], "": {"a.b": ["$"]}, 7: "key", None: 1},
        {"level": Level.HIGH, "pair": (1, 2), "mapping": OrderedDict(b=1, a=2)},
        {"basket": Basket(1, {"when": datetime(2026, 1, 1, tzinfo=UTC), "what": [Basket(2, {})]})},
        {"metrics": SessionMetrics(input_tokens=3)},
        {"surrogate": "\ud800", "key \udfff": 1},
        {"deep": functools.reduce(lambda below, _: [below], range(200), 1)},
    ],
)
@pytest.mark.parametrize("kind", [AgentSession, TeamSession])
def test_a_session_is_stored_as_its_to_dict_says(kind: Any, value: Any) -> None:
    """Although that is not asked where there is nothing but text and numbers in it."""
    own = f"{kind.__name__.removesuffix('Session').lower()}_data"
    session = kind(session_id="s", session_data={"session_state": value}, metadata=value, **{own: value})
    told = session.to_dict(include_runs=False)
    body = Incoming.of(session).body
    assert body == {name: Json.of(told.get(name), name) for name in ("session_data", own, "metadata", "summary")}

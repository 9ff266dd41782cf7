"""Writers of one session, in whatever order: nothing acknowledged is lost, and every lost race is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agno_docstores.conformance.plugin import Awaitable, close
from agno_docstores.conformance.sessions import agent_session, run_of
from agno_docstores.errors import SessionConflictError
from agno_docstores.memory import MemoryStore
from agno_docstores.merging import MISSING, differences, merge, same
from tests.harness import Cell
from tests.meters import ON_THE_WIRE
from tests.test_budgets import seed_history

scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([1.0, "", "x"])
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner), max_leaves=6
)
objects = st.dictionaries(st.sampled_from("abcd"), values, max_size=4)


@given(objects, objects, objects)
def test_what_only_one_has_changed_is_as_he_made_it(base: Any, mine: Any, theirs: Any) -> None:
    result, lost = merge(base, mine, theirs)
    for key in {**base, **mine, **theirs}:
        before, own, other = (side.get(key, MISSING) for side in (base, mine, theirs))
        now = result.get(key, MISSING)
        if same(before, other) or same(own, other):
            assert same(now, own)
        elif same(before, own):
            assert same(now, other)
        elif not (isinstance(own, dict) and isinstance(other, dict)):
            assert same(now, own) and (key,) in lost
    assert all(path[0] in {**base, **mine, **theirs} for path in lost)


@given(objects, objects)
def test_a_merge_with_nobody_changes_nothing(base: Any, mine: Any) -> None:
    assert merge(base, mine, base) == (mine, [])
    assert merge(base, base, mine) == (mine, [])
    assert merge(base, mine, mine) == (mine, [])
    assert not list(differences(mine, mine))
    assert bool(list(differences(base, mine))) != same(base, mine)


def test_types_are_told_apart() -> None:
    assert not same(1, 1.0) and not same(1, True) and not same(None, MISSING) and not same([], {})
    assert same(float("nan"), float("nan")) and same({"a": 1, "b": [2]}, {"b": [2], "a": 1})
    assert merge({"a": 1}, {"a": 1.0}, {"a": 1, "b": 2}) == ({"a": 1.0, "b": 2}, [])
    assert merge({"n": 1}, {"n": 5}, {"n": 3}, lambda path: path == ("n",)) == ({"n": 7}, [])
    assert merge({}, {"n": 5}, {"n": 3}, lambda path: True) == ({"n": 8}, [])


# A step: which writer, what he does ("read", or "save" after changing a key of his own or one that all share).
steps = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["read", "save own", "save shared", "save deep"])),
    min_size=4,
    max_size=24,
)


@pytest.mark.cells("memory-async", "memory-async-standalone")
@given(order=steps)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_change_of_a_key_of_ones_own_is_lost(cell: Cell, order: list[tuple[int, str]]) -> None:
    asyncio.run(_interleaved(cell, order))


async def _interleaved(cell: Cell, order: list[tuple[int, str]]) -> None:
    from agno_docstores import AsyncMemoryDocstore

    store = MemoryStore(atomic=not cell.id.endswith("standalone"))
    handles = [AsyncMemoryDocstore(store=store) for _ in range(4)]
    await handles[0].upsert_session(agent_session(session_data={"session_state": {"deep": {}, "shared": None}}))
    held: list[Any] = [await handle.get_session("s1") for handle in handles]
    expected: dict[str, int] = {}
    deep: dict[str, int] = {}
    shared_by: list[tuple[int, int]] = []  # the saves of the shared key: writer, and value
    seen_shared = [0] * 4  # how many of those each writer had seen when he read or last saved
    overwritten = 0
    for number, (writer, what) in enumerate(order):
        handle, session = handles[writer], held[writer]
        if what == "read":
            held[writer] = await handle.get_session("s1")
            seen_shared[writer] = len(shared_by)
            continue
        state = session.session_data["session_state"]
        if what == "save own":
            state[f"own{writer}"] = expected[f"own{writer}"] = number
        elif what == "save deep":
            state["deep"][f"own{writer}"] = deep[f"own{writer}"] = number
        else:
            state["shared"] = number
            others = [value for by, value in shared_by[seen_shared[writer] :] if by != writer]
            overwritten += bool(others)
            shared_by.append((writer, number))
            seen_shared[writer] = len(shared_by)
        before = handle.conflicts["overwritten"]
        assert await handle.upsert_session(session) is not None
        if what != "save shared":
            assert handle.conflicts["overwritten"] == before
    found = (await handles[0].get_session_data("s1"))["session_state"]  # type: ignore[index]
    assert {key: value for key, value in found.items() if key.startswith("own")} == expected
    assert found["deep"] == deep
    assert found["shared"] == (shared_by[-1][1] if shared_by else None)
    assert sum(handle.conflicts["overwritten"] for handle in handles) == overwritten


@pytest.mark.cells("memory-*", "mongo-*", "dynamo-*", "firestore-*")
async def test_writers_at_once_lose_nothing(db: Any, another: Callable[[], Any]) -> None:
    """By the merging save, by the save under a version, by the update in one step: all at once."""
    await db.upsert_session(agent_session(session_data={"session_state": {"n": 0}}))
    handles = [db, another(), another()]

    async def turn(number: int) -> None:
        session = await handles[number % 3].get_session("s1")
        session.session_data["session_state"][f"turn{number}"] = number
        await handles[number % 3].upsert_session(session)

    async def strict(number: int) -> None:
        def change(session: Any) -> None:
            session.session_data["session_state"][f"strict{number}"] = number

        while True:
            try:
                await handles[number % 3].update_session("s1", change)
                return
            except SessionConflictError:
                continue

    async def count(number: int) -> None:
        await handles[number % 3].update_session_data("s1", increment={"session_state.n": 1})

    work = [one(number) for number in range(4) for one in (turn, strict, count)]
    if db.is_async:
        await asyncio.gather(*work)
    else:
        from tests.test_metrics import together

        await together(db, *work)
    expected = {f"{name}{number}": number for name in ("turn", "strict") for number in range(4)}
    assert (await db.get_session_data("s1"))["session_state"] == {**expected, "n": 4}


@ON_THE_WIRE
async def test_an_update_of_state_costs_the_same_whatever_the_history(open_metered: Any) -> None:
    costs = {}
    for runs in (10, 500):
        async with open_metered() as (db, meter):
            await db.delete_session("s1")
            await seed_history(db, runs)
        async with open_metered() as (db, meter):
            await db.upsert_session(agent_session("other"))  # opens connections, and looks at the storage
            meter.start()
            await db.update_session_data("s1", {"state": {"n": 2}}, when={"state.n": 1}, user_id="u")
            cold = meter.stop()
            meter.start()
            await db.update_session_data("s1", {"state": {"n": 3}}, user_id="u")
            costs[runs] = (cold, meter.stop())
    print(f"BUDGET update of state, cold and warm, by runs of history: {costs}")
    for cold, warm in costs.values():
        assert (cold.requests, warm.requests) == (2, 1)
        assert cold.bytes <= 8_000
    assert abs(costs[500][0].bytes - costs[10][0].bytes) <= 200


async def test_a_run_in_between_is_no_conflict(db: Any, another: Callable[[], Any]) -> None:
    await db.upsert_session(agent_session(user_id="u"))
    session = await db.get_session("s1")
    other = another()
    await other.upsert_run(run_of("r1"), "s1", "u")
    session.metadata = {"a": 1}
    assert await db.save_session(session) is True
    await close(Awaitable(other.raw).raw)

"""Writers of one session, in whatever order: nothing acknowledged is lost, and every lost race is told."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agno_docstores.conformance.plugin import Awaitable, close
from agno_docstores.conformance.sessions import agent_session, run_of
from agno_docstores.errors import SessionConflictError
from agno_docstores.merging import MISSING, changes, differences, merge, same
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


@given(st.lists(st.integers(0, 3), max_size=4), st.lists(st.integers(0, 3), max_size=4), objects)
def test_what_was_made_since_is_all_that_differs(mine: list[int], theirs: list[int], base: Any) -> None:
    def counted(added: list[int]) -> dict[str, Any]:
        return {"n": 5 + sum(added), "of": [{"id": f"m{number}", "n": number} for number in sorted(set(added))]}

    before, own, other = {"n": 5, "of": []}, counted(mine), counted(theirs)
    result, lost = merge(before, own, other, lambda path: True)
    assert (result["n"], lost) == (5 + sum(mine) + sum(theirs), [])
    totals = {one["id"]: one["n"] for one in result["of"]}
    assert totals == {f"m{n}": n * ((n in mine) + (n in theirs)) for n in {*mine, *theirs}}
    assert changes(before, own, lambda path: True).get("n", 0) == sum(mine) if mine else own == before
    assert changes(base, base) is MISSING and same(changes(MISSING, base), base)


WRITERS = 5
STEPS = ("read", "save own", "save shared", "save deep", "count", "save strictly")
#: How many handles the writers share, whether the session is there when they begin, and who does what.
interleavings = st.tuples(
    st.integers(1, WRITERS),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, WRITERS - 1), st.sampled_from(STEPS)), min_size=4, max_size=24),
)


@pytest.mark.cells("memory-sync", "memory-async", "memory-async-standalone")
@given(order=interleavings)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_change_of_a_key_of_ones_own_is_lost(cell: Cell, order: tuple[int, bool, list[tuple[int, str]]]) -> None:
    asyncio.run(_interleaved(cell, *order))


async def _interleaved(cell: Cell, handles: int, there: bool, order: list[tuple[int, str]]) -> None:
    with cell.storage() as storage:
        opened = [Awaitable(cell.open(storage)) for _ in range(handles)]
        if there:
            await opened[0].upsert_session(agent_session(session_data={"session_state": {"deep": {}}}))
        model = _Model(opened)
        for number in range(WRITERS):
            await model.step(number, "read", 0)
        for value, (writer, what) in enumerate(order, 1):
            await model.step(writer, what, value)
        await model.check()


class _Model:
    """What the writers of one session have made of it, and what each must be told."""

    def __init__(self, handles: list[Any]) -> None:
        self.handles = handles
        self.held: dict[int, Any] = {}
        self.own: dict[str, int] = {}
        self.deep: dict[str, int] = {}
        self.tokens = 0
        self.shared: list[tuple[int, int]] = []  # the saves of the shared key: writer, and value
        self.seen = dict.fromkeys(range(WRITERS), 0)  # how many of those each had seen when he read or last saved
        self.version = 0
        self.read_at = dict.fromkeys(range(WRITERS), 0)
        self.overwritten = 0

    async def step(self, writer: int, what: str, value: int) -> None:
        db = self.handles[writer % len(self.handles)]
        if what == "read":
            found = await db.get_session("s1")
            self.held[writer] = found or agent_session(session_data={"session_state": {"deep": {}}})
            self.version = max(self.version, 1 if found else 0)
            self.seen[writer], self.read_at[writer] = len(self.shared), self.version
            return
        session = self.held[writer]
        data, before = session.session_data, copy.deepcopy(session.session_data)
        name, told = f"own{writer}", db.conflicts["overwritten"]
        if what in ("save own", "save strictly"):
            data["session_state"][name] = value
        elif what == "save deep":
            data["session_state"]["deep"][name] = value
        elif what == "save shared":
            data["session_state"]["shared"] = value
        else:
            metrics = data.setdefault("session_metrics", {})
            metrics["total_tokens"] = metrics.get("total_tokens", 0) + value % 3
        if what == "save strictly":
            if self.read_at[writer] != self.version:
                with pytest.raises(SessionConflictError):
                    await db.save_session(session)
                session.session_data = before
                return
            assert await db.save_session(session) is True
        else:
            assert await db.upsert_session(session) is not None
        self.version += 1
        if what == "save shared":
            self.overwritten += any(by != writer for by, _ in self.shared[self.seen[writer] :])
            self.shared.append((writer, value))
            self.seen[writer] = len(self.shared)
        else:
            assert db.conflicts["overwritten"] == told
        self.own |= {name: value} if what in ("save own", "save strictly") else {}
        self.deep |= {name: value} if what == "save deep" else {}
        self.tokens += value % 3 if what == "count" else 0
        if await db.get_session_data("s1") == session.session_data:
            self.read_at[writer] = self.version  # he holds all that there is

    async def check(self) -> None:
        found = await self.handles[0].get_session_data("s1")
        state = found["session_state"] if found is not None else {}
        assert {key: value for key, value in state.items() if key.startswith("own")} == self.own
        assert state.get("deep", {}) == self.deep
        assert state.get("shared") == (self.shared[-1][1] if self.shared else None)
        assert (found or {}).get("session_metrics", {}).get("total_tokens", 0) == self.tokens
        assert sum(handle.conflicts["overwritten"] for handle in self.handles) == self.overwritten
        for handle in self.handles:
            await close(handle.raw)


@pytest.mark.cells("memory-sync", "memory-async-standalone")
@given(
    order=st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["read", "save", "update", "upsert", "delete"])),
        min_size=4,
        max_size=24,
    )
)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_save_under_a_version_is_of_what_was_read(cell: Cell, order: list[tuple[int, str]]) -> None:
    asyncio.run(_under_versions(cell, order))


async def _under_versions(cell: Cell, order: list[tuple[int, str]]) -> None:
    """Each content that is stored has a number of its own; who saves must have read the one that is there."""
    with cell.storage() as storage:
        handles = [Awaitable(cell.open(storage)) for _ in range(3)]
        content: int | None = None
        held: dict[int, tuple[Any, int | None]] = {number: (agent_session(), None) for number in range(3)}
        for value, (writer, what) in enumerate(order, 1):
            db, (session, read) = handles[writer], held[writer]
            if what == "read":
                found = await db.get_session("s1")
                assert (found.metadata["v"] if found else None) == content
                held[writer] = (found or agent_session(), content)
            elif what == "save":
                session.metadata = {"v": value}
                if read == content:
                    assert await db.save_session(session) is True
                    content, held[writer] = value, (session, value)
                else:
                    with pytest.raises(SessionConflictError):
                        await db.save_session(session)
            elif what == "delete":
                assert await db.delete_session("s1") is (content is not None)
                content = None
            elif what == "upsert":
                await db.upsert_session(agent_session(metadata={"v": value}))
                content = value
            elif content is not None:
                await db.update_session("s1", lambda session, value=value: setattr(session, "metadata", {"v": value}))
                content = value
        for db in handles:
            await close(db.raw)


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

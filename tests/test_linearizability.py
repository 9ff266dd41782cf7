"""The checker of histories, which has to reject what could not have been, and many writers of many sessions."""

from __future__ import annotations

import math
from typing import Any

import pytest

from agno_docstores.conformance.concurrency import data_model, presence_model, run_model, saved_model
from agno_docstores.conformance.linearizability import Call, at_once, order_of
from agno_docstores.conformance.sessions import agent_session, run_of

ADD = ("add",)
READ = ("read",)


@pytest.mark.parametrize(
    ("model", "initial", "calls", "possible"),
    [
        (data_model, (0, 0), [Call(0, 1, ADD, (1, 0)), Call(2, 3, READ, (1, 0))], True),
        (data_model, (0, 0), [Call(0, 3, ADD, (2, 0)), Call(0, 3, ADD, (1, 0)), Call(1, 2, READ, (0, 0))], True),
        # Two that count to the same number; a read that misses what had ended; one that goes back.
        (data_model, (0, 0), [Call(0, 3, ADD, (1, 0)), Call(0, 3, ADD, (1, 0))], False),
        (data_model, (0, 0), [Call(0, 1, ADD, (1, 0)), Call(2, 3, READ, (0, 0))], False),
        (data_model, (0, 0), [Call(0, 9, ADD, (1, 0)), Call(1, 2, READ, (1, 0)), Call(3, 4, READ, (0, 0))], False),
        # Without an answer: it took effect, or never did, but not twice, and not before it began.
        (data_model, (0, 0), [Call(0, math.inf, ADD), Call(2, 3, READ, (1, 0)), Call(4, 5, READ, (1, 0))], True),
        (data_model, (0, 0), [Call(0, math.inf, ADD), Call(2, 3, READ, (0, 0))], True),
        (data_model, (0, 0), [Call(0, math.inf, ADD), Call(2, 3, READ, (2, 0))], False),
        (data_model, (0, 0), [Call(4, math.inf, ADD), Call(2, 3, READ, (1, 0))], False),
        # Of two that swap the same value one wins, and the other is told what he found.
        (data_model, (0, 0), [Call(0, 3, ("swap", 0, 1), (True, (0, 1))), Call(0, 3, ("swap", 0, 2), (False, (0, 1)))],
         True),
        (data_model, (0, 0), [Call(0, 3, ("swap", 0, 1), (True, (0, 1))), Call(0, 3, ("swap", 0, 2), (True, (0, 2)))],
         False),
        (saved_model, (1, 0), [Call(0, 3, ("save", 1, 5), True), Call(0, 3, ("save", 1, 6), 2)], True),
        (saved_model, (1, 0), [Call(0, 3, ("save", 1, 5), True), Call(0, 3, ("save", 1, 6), True)], False),
        (presence_model, False, [Call(0, 3, ("insert",), True), Call(0, 3, ("delete",), True)], True),
        (presence_model, True, [Call(0, 3, ("delete",), True), Call(0, 3, ("delete",), True)], False),
        (run_model, "PENDING", [Call(0, 3, ("cancel",), True), Call(0, 3, ("complete",), "terminal_refused")], True),
        (run_model, "PENDING", [Call(0, 3, ("cancel",), True), Call(0, 3, ("cancel",), True)], False),
        (run_model, "PENDING", [Call(0, 1, ("complete",), "updated"), Call(2, 3, ("cancel",), True)], False),
    ],
)  # fmt: skip
def test_a_history_is_accepted_if_some_order_explains_it(
    model: Any, initial: Any, calls: list[Call], possible: bool
) -> None:
    for given in (calls, calls[::-1]):
        found = order_of(given, initial, model)
        assert (found is not None) is possible
        state = initial
        for call in found or ():
            state = model(state, call)
            assert state is not None


def test_many_calls_at_once_are_ordered_by_their_answers() -> None:
    calls = [Call(0, 1, ADD, (number, 0)) for number in range(1, 201)]
    assert [call.answer[0] for call in order_of(calls, (0, 0), data_model) or ()] == list(range(1, 201))
    assert order_of([*calls, Call(0, 1, ADD, (200, 0))], (0, 0), data_model) is None


# DynamoDB's and Firestore's stand-ins take a second for every hundred; the suite has fifty writes at once for them.
@pytest.mark.cells("memory-*", "mongo-sync-standalone", "mongo-async-secantus")
async def test_twenty_writers_of_twenty_sessions_do_not_disturb_each_other(db: Any) -> None:
    await db.upsert_sessions([agent_session(f"s{number}") for number in range(20)])

    async def write(writer: int) -> None:
        for number in range(20):
            session = (number + writer) % 20
            await db.upsert_run(run_of(f"r{session}-{writer}"), f"s{session}")

    await at_once(db, [lambda writer=writer: write(writer) for writer in range(20)])  # type: ignore[misc]
    for number in range(20):
        rows, _ = await db.get_runs(session_id=f"s{number}", deserialize=False)
        assert {row["run_id"] for row in rows} == {f"r{number}-{writer}" for writer in range(20)}
        assert len({row["run_index"] for row in rows}) == 20

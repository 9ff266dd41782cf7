"""Multi-step operations, replayed with a fault at each of their calls.

Whatever the fault: what was acknowledged is there, what was not acknowledged is there whole or not at all, another
process can go on, repeating the operation converges, and nothing that was deleted comes back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agno_docstores.conformance.evals import eval_of
from agno_docstores.conformance.plugin import Awaitable as Handle
from agno_docstores.conformance.runs import run_ids
from agno_docstores.conformance.sessions import agent_session, run_of
from agno_docstores.errors import StoreUnavailableError
from agno_docstores.history import GRACE
from tests.faults import CRASHES, MOST_CALLS, TRANSIENT, Crashed, Fault, replays

# One cell of each driver, both modes among them: what is replayed is the order of calls, which no server changes.
CELLS = pytest.mark.cells("memory-sync*", "mongo-sync-standalone", "dynamo-sync-moto", "firestore-async-embedded")

Operation = Callable[[Any], Awaitable[Any]]


async def prepared(db: Any) -> None:
    """A session of u with three runs, the last of them pending; another session beside it."""
    await db.upsert_session(agent_session(user_id="u", session_data={"n": 0}))
    for number in range(3):
        status = "PENDING" if number == 2 else "COMPLETED"
        await db.upsert_run(run_of(f"r{number}", status=status, content=None), "s1", "u")
    await db.upsert_session(agent_session("other", user_id="u"))
    await db.upsert_run(run_of("o0", status="COMPLETED"), "other", "u")


async def state(db: Any) -> dict[str, Any]:
    """All that can be read, in a form that does not depend on time or places."""
    rows, total = await db.get_sessions(deserialize=False, sort_by="session_id", sort_order="asc")
    runs, count = await db.get_runs(deserialize=False, sort_by="run_id", sort_order="asc")
    assert (total, count) == (len(rows), len(runs))
    return {
        "sessions": {
            row["session_id"]: (row["user_id"], row["session_data"], [run["run_id"] for run in row["runs"]])
            for row in rows
        },
        "runs": {run["run_id"]: (run["session_id"], run["status"], run["run_data"].get("content")) for run in runs},
    }


async def insert(db: Any) -> Any:
    return (await db.upsert_session(agent_session("new", user_id="u", session_data={"n": 1}))).session_id


async def replace(db: Any) -> Any:
    return (await db.upsert_session(agent_session(user_id="u", session_data={"n": 1}))).session_data


async def new_run(db: Any) -> Any:
    return await db.upsert_run(run_of("new", status="COMPLETED", content="x"), "s1", "u")


async def changed_run(db: Any) -> Any:
    return await db.upsert_run(run_of("r2", status="COMPLETED", content="x"), "s1", "u")


async def rename(db: Any) -> Any:
    return (await db.rename_session("s1", None, "name")).session_data


async def cancel(db: Any) -> Any:
    return await db.cancel_pending_run("r2", session_id="s1", reason="x", user_id="u")


async def update(db: Any) -> Any:
    return await db.update_run_in_session("s1", "r2", {"status": "COMPLETED", "content": "y"}, user_id="u")


async def delete_run(db: Any) -> Any:
    return await db.delete_run("r1")


async def delete(db: Any) -> Any:
    return await db.delete_session("s1", user_id="u")


async def transfer(db: Any) -> Any:
    return await db.reassign_session_owner("other", previous_user_id="u", user_id="v")


OPERATIONS: list[Operation] = [
    insert, replace, new_run, changed_run, rename, cancel, update, delete_run, delete, transfer,
]  # fmt: skip
# What the same call answers when the crashed one had taken effect already.
ANSWER_WHEN_DONE = {cancel: False, delete_run: False, delete: False, transfer: False}


@CELLS
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
async def test_passing_faults_are_not_noticed(cell: Any, runner: Any, operation: Operation) -> None:
    """An unreachable moment, a lost reply, a call made twice: the operation succeeds, and has been done once."""
    expected: tuple[Any, dict[str, Any]] | None = None
    async for replay in replays(cell, ("none", *TRANSIENT)):
        db, reader = replay.open(), replay.open()
        await prepared(db)
        before = await run_ids(db)
        answer = await replay.strike(db, operation)
        found = (answer, await state(db))
        assert await state(reader) == found[1]
        if operation not in (delete, removal_of_several):
            assert [run for run in await run_ids(reader) if run in before] == [
                run for run in before if run in found[1]["runs"]
            ]
        expected = expected or found
        assert found == expected, str(replay)


@CELLS
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
async def test_a_crash_at_any_call_loses_nothing_and_can_be_repeated(
    cell: Any, runner: Any, operation: Operation
) -> None:
    expected: dict[str, Any] | None = None
    answered: Any = None
    async for replay in replays(cell, ("none", *CRASHES)):
        db, warm_reader, survivor = replay.open(), replay.open(), replay.open()
        await prepared(db)
        before = await state(db)
        await warm_reader.get_session("s1")
        if replay.fault.kind == "none":
            answered = await operation(db)
            expected = await state(db)
            continue
        assert expected is not None
        try:
            await replay.strike(db, operation)
            assert not replay.fault.struck
        except Crashed:
            between = await state(survivor)
            if operation is not delete:  # whose cascade may be half done, out of sight
                assert between in (before, expected)
            else:
                assert between["sessions"] in (before["sessions"], expected["sessions"])
            again = await operation(survivor)
            assert again in (answered, ANSWER_WHEN_DONE.get(operation, answered))
            assert await state(survivor) == expected, str(replay)
            assert await state(warm_reader) == expected, f"{replay}, seen by a warm cache"


@pytest.mark.cells("memory-*-standalone", "mongo-*")
async def test_a_revision_whose_run_comes_late_is_not_lost(db: Any, another: Callable[[], Any]) -> None:
    """Where order and run are two writes: a reader between the two must still get the run afterwards."""
    reader, slow = another(), another()
    await db.upsert_session(agent_session(user_id="u"))
    await db.upsert_run(run_of("r0"), "s1", "u")
    assert await run_ids(reader) == ["r0"]
    # The writer takes its revision, and stores its run only after others have written and read.
    driver = slow.raw._engine.driver
    assert not driver.atomic
    commit, held = driver.commit, []

    async def hold(writes: Any, token: str) -> Any:
        held.append((writes, token))
        raise Crashed

    driver.commit = hold
    with pytest.raises(Crashed):
        await slow.upsert_run(run_of("slow"), "s1", "u")
    assert await run_ids(reader) == ["r0"]
    await db.upsert_run(run_of("r2"), "s1", "u")
    assert await run_ids(reader) == ["r0", "r2"]
    before = reader.io.calls.total()
    assert await run_ids(reader) == ["r0", "r2"]
    assert reader.io.calls.total() - before <= 2, "a gap costs one small read"
    ((writes, token),) = held
    await commit(writes, token)
    assert await run_ids(reader) == ["r0", "slow", "r2"]
    assert await run_ids(db) == ["r0", "slow", "r2"]
    before = reader.io.calls.total()
    assert await run_ids(reader) == ["r0", "slow", "r2"]
    assert reader.io.calls.total() - before == 1, "the gap is closed"


@pytest.mark.cells("memory-*-standalone")
async def test_a_writer_that_died_is_given_up_after_a_while(
    db: Any, another: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = another()
    await db.upsert_session(agent_session(user_id="u"))
    await db.upsert_run(run_of("r0"), "s1", "u")
    db.io.hooks.append(Fault("crash after", 1))
    with pytest.raises(Crashed):
        await db.upsert_run(run_of("dead"), "s1", "u")
    db.io.hooks.clear()
    await db.upsert_run(run_of("r2"), "s1", "u")
    assert await run_ids(reader) == ["r0", "r2"]
    before = reader.io.calls.total()
    await run_ids(reader)
    assert reader.io.calls.total() - before == 2
    later = reader.io.now() + GRACE + 10
    monkeypatch.setattr(reader.io, "now", lambda: later)
    await run_ids(reader)
    before = reader.io.calls.total()
    assert await run_ids(reader) == ["r0", "r2"]
    assert reader.io.calls.total() - before == 1


# --- Lost replies that another writer hides ---------------------------------------------------------------------------


async def adds(db: Any) -> Any:
    return await db.update_session_data("s1", increment={"n": 1}, append={"log": ["mine"]})


async def adds_too(db: Any) -> Any:
    return await db.update_session_data("s1", increment={"n": 1}, append={"log": ["other's"]})


async def renames_new(db: Any) -> Any:
    return await db.rename_session("new", None, "other's")


async def inserts(db: Any) -> Any:
    return await db.insert_session_if_absent(agent_session("new", user_id="u"))


async def saves(db: Any) -> Any:
    session = await db.get_session("s1")
    session.session_data = {"n": 1}
    return await db.save_session(session)


async def counts_tokens(db: Any) -> Any:
    session = await db.get_session("s1")
    session.session_data = {"n": 0, "session_metrics": {"input_tokens": 5}}
    return (await db.upsert_session(session)).session_data["session_metrics"]["input_tokens"]


async def transfers_on(db: Any) -> Any:
    return await db.reassign_session_owner("other", previous_user_id="v", user_id="w")


async def creates(db: Any) -> Any:
    return (await db.create_eval_run(eval_of("new"))).run_id


async def renames_created(db: Any) -> Any:
    return (await db.rename_eval_run("new", "other's")).name


@pytest.mark.cells("memory-sync*")
@pytest.mark.parametrize(
    ("mine", "others"),
    [
        (adds, adds_too),
        (counts_tokens, adds_too),
        (saves, adds_too),
        (inserts, renames_new),
        (transfer, transfers_on),
        (creates, renames_created),
    ],
    ids=lambda operation: operation.__name__,
)
async def test_a_lost_reply_hidden_by_another_writer_is_neither_repeated_nor_denied(
    db: Any, another: Callable[[], Any], mine: Operation, others: Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write took effect, its reply was lost, and before the writer could look, another one wrote on top of it: he
    must not do it again, nor say that he lost. Where nothing tells what happened, he says that."""
    await prepared(db)
    answer = await mine(db)
    await others(db)
    expected = await everything(db)
    await db.drop(db.raw.id)
    await prepared(db)
    other, driver = another(), db.raw._engine.driver
    commit, struck = driver.commit, False

    async def overtaken(writes: Any, token: str) -> Any:
        nonlocal struck
        revs = await commit(writes, token)
        if not struck:
            struck = True
            await others(other)
            raise StoreUnavailableError("commit", "test", "the reply was lost", maybe_applied=True)
        return revs

    monkeypatch.setattr(driver, "commit", overtaken)
    try:
        assert await mine(db) == answer
    except StoreUnavailableError as error:
        assert error.maybe_applied
    assert struck
    assert await everything(db) == await everything(another()) == expected


@pytest.mark.cells("mongo-sync-standalone", "dynamo-sync-moto", "firestore-async-embedded")
async def test_an_addition_whose_reply_is_lost_and_hidden_counts_once(
    db: Any, another: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    await test_a_lost_reply_hidden_by_another_writer_is_neither_repeated_nor_denied(
        db, another, adds, adds_too, monkeypatch
    )


async def everything(db: Any) -> Any:
    evals = await db.get_eval_runs()
    return await state(db), [(run.run_id, run.name) for run in evals]


@pytest.mark.cells("memory-sync*", "mongo-sync-standalone", "dynamo-sync-moto", "firestore-sync-embedded")
async def test_a_late_deleter_spares_the_session_that_was_begun_anew(cell: Any, runner: Any) -> None:
    """At any of its calls another process finishes the deletion, and begins the session anew with a run in it."""
    for at in range(1, MOST_CALLS):
        with cell.storage() as name:
            db, other = Handle(cell.open(name)), Handle(cell.open(name))
            await prepared(db)
            meanwhile = Meanwhile(at, other.raw)
            db.io.hooks.append(meanwhile)
            taken = await db.delete_session("s1")
            db.io.hooks.clear()
            if not meanwhile.struck:
                assert taken is True
                break
            if await other.get_session("s1") is None:
                assert taken, "the session that was begun anew was deleted whole, by who had just looked"
            else:
                assert [taken, meanwhile.taken].count(True) == 1
                assert await run_ids(other) == await run_ids(Handle(cell.open(name))) == ["anew"]
    else:
        raise AssertionError(f"more than {MOST_CALLS} calls")


class Meanwhile:
    """A hook of the gateway: before the n-th call, another handle deletes the session and begins it anew."""

    def __init__(self, at: int, other: Any) -> None:
        self.left, self.other = at, other
        self.struck = self.taken = False

    def before(self, operation: str) -> None:
        self.left -= 1
        if self.left == 0:
            self.struck = True
            self.taken = self.other.delete_session("s1")
            self.other.upsert_session(agent_session(user_id="u"))
            self.other.upsert_run(run_of("anew", status="COMPLETED"), "s1", "u")

    def after(self, operation: str) -> None:
        pass


# --- More operations, where calls cost nothing ------------------------------------------------------------------------


async def several_sessions(db: Any) -> Any:
    sessions = [agent_session(user_id="u", session_data={"n": 2}), agent_session("new", user_id="u")]
    return [session.session_id for session in await db.upsert_sessions(sessions)]


async def removal_of_several(db: Any) -> Any:
    return await db.delete_sessions(["s1", "other", "nobody"], user_id="u")


async def updates(db: Any) -> Any:
    def count(session: Any) -> None:
        session.session_data["n"] += 1

    return (await db.update_session("s1", count)).session_data


async def appends(db: Any) -> Any:
    return await db.append_run_to_session_if_absent("s1", run_of("new", status="COMPLETED").to_dict(), user_id="u")


@pytest.mark.cells("memory-sync*")
@pytest.mark.parametrize(
    "operation",
    [adds, saves, updates, inserts, appends, several_sessions, removal_of_several],
    ids=lambda operation: operation.__name__,
)
async def test_passing_faults_of_these_are_not_noticed_either(cell: Any, runner: Any, operation: Operation) -> None:
    await test_passing_faults_are_not_noticed(cell, runner, operation)


async def drop(db: Any) -> Any:
    return await db.drop(db.raw.id)


@pytest.mark.cells("memory-sync*")
@pytest.mark.parametrize(
    "operation", [saves, inserts, several_sessions, removal_of_several, drop], ids=lambda operation: operation.__name__
)
async def test_what_a_dead_process_has_begun_is_finished_by_repeating_it(
    cell: Any, runner: Any, operation: Operation
) -> None:
    """Of several sessions some may be done, and some not: each is whole."""
    expected: dict[str, Any] = {}
    async for replay in replays(cell, ("none", *CRASHES)):
        db, survivor = replay.open(), replay.open()
        await prepared(db)
        before = await state(survivor)
        with contextlib.suppress(Crashed):
            await replay.strike(db, operation)
        between = await state(survivor)
        expected = expected or between
        for id, session in between["sessions"].items():
            assert session in (before["sessions"].get(id), expected["sessions"].get(id)), str(replay)
        await operation(survivor)
        assert await state(survivor) == expected, str(replay)

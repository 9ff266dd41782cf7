"""Sessions that expire: who sees them, what keeps them, and what removes them. Beyond `BaseDb`.

Needs the fixture `open_another`, which takes `session_config`. Nothing sleeps: the handles' clock is moved.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from agno.db.base import SessionType
from agno.run.base import RunStatus
from agno.run.status_persist import RunPersistOutcome
from agno.session.summary import SessionSummary

from agno_docstores.conformance.compactions import compaction, offered
from agno_docstores.conformance.plugin import Awaitable
from agno_docstores.conformance.runs import run_ids
from agno_docstores.conformance.sessions import agent_session, run_of
from agno_docstores.conformance.tool_results import result_of
from agno_docstores.conformance.transcripts import KEY, append, entry, texts
from agno_docstores.errors import SessionConflictError, SessionNotFoundError

LIFE = 100_000  # seconds; far more than a test takes, so that no store's own reaper has a part in it


class Clock:
    """The clock of every handle that `open` gives, and of Agno's own stamps: it stands still until it is moved."""

    def __init__(self, open_another: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
        self._open = open_another
        self.now = int(time.time())
        monkeypatch.setattr("agno.db.utils.time", SimpleNamespace(time=lambda: self.now))

    def open(self, **options: Any) -> Awaitable:
        """A handle on the storage; by default one that gives sessions a life of `LIFE`."""
        db: Awaitable = self._open(**{"session_config": {"ttl": LIFE}, **options})
        db.io.now = lambda: self.now
        return db

    def move(self, seconds: int) -> None:
        self.now += seconds


@pytest.fixture
def clock(another: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(another, monkeypatch)


async def talk(db: Any, session_id: str, *run_ids: str, user_id: str | None = "u", **values: Any) -> None:
    """A session with runs."""
    data = {"session_name": f"name of {session_id}", "session_state": {"n": 1}}
    await db.upsert_session(agent_session(session_id, user_id=user_id, session_data=data, **values))
    for run_id in run_ids:
        await db.upsert_run(run_of(run_id, status="COMPLETED"), session_id, user_id)


async def ids(db: Any, **filters: Any) -> list[str]:
    return sorted(session.session_id for session in await db.get_sessions(include_runs=False, **filters))


async def leave(db: Any, name: str, session_id: str = "s1") -> None:
    """What a turn writes besides runs, all of it under one name: in a transcript that others add to, in a subpath of it
    and in a transcript of its own; a tool result, the time of which is over; a compaction."""
    await append(db, name, session=session_id)
    await append(db, name, session=session_id, subpath=name)
    await append(db, name, session=session_id, key=(*KEY[:2], name))
    await db.upsert_tool_result(result_of(name, session_id, preview=f"preview of {name}", expires_at=1))
    if offered(db):
        await db.upsert_compaction(compaction(name, session_id))


async def left(db: Any, *names: str) -> dict[str, list[str]]:
    """Which of these names each read shows."""
    sessions, subpaths = await db.list_transcript_sessions(*KEY[:2]), await db.list_transcript_subpaths(*KEY)
    shown: dict[str, Any] = {
        "entries": await texts(db),
        "entries of a subpath": [name for name in names if await texts(db, subpath=name)],
        "entries of its own transcript": [name for name in names if await texts(db, *KEY[:2], name)],
        "transcripts": [one["session_id"] for one in sessions if one["session_id"] != KEY[2]],
        "subpaths": subpaths,
        "result": [name for name in names if await db.get_tool_result(name)],
    }
    results = [row for session in ("s1", "s2") for row in await db.get_tool_results_for_session(session)]
    assert all(row["preview"] == f"preview of {row['result_id']}" for row in results)
    shown["results"] = [row["result_id"] for row in results]
    if offered(db):
        shown["compaction"] = [name for name in names if await db.get_compaction(name)]
        for read, arguments in (("get_compactions_for_session", ()), ("search_compactions", ("said in",))):
            rows = [row for session in ("s1", "s2") for row in await getattr(db, read)(session, *arguments)]
            shown[read] = [row["compaction_id"] for row in rows]
    return {read: sorted(found) for read, found in shown.items()}


def only(db: Any, *names: str) -> dict[str, list[str]]:
    """What `left` gives if each read shows these, and no others."""
    reads = [
        "entries", "entries of a subpath", "entries of its own transcript", "transcripts", "subpaths",
        "result", "results",
    ]  # fmt: skip
    if offered(db):
        reads += ["compaction", "get_compactions_for_session", "search_compactions"]
    return dict.fromkeys(reads, sorted(names))


# --- Expired ----------------------------------------------------------------------------------------------------------


async def test_nothing_shows_a_session_that_has_expired(db: Any, clock: Clock) -> None:
    db = clock.open()
    await talk(db, "s1", "r1", "r2")
    await db.upsert_run(run_of("waiting", status="PENDING"), "s1", "u")
    await leave(db, "of s1")
    clock.move(LIFE // 2)
    await talk(db, "s2", "r3")
    await leave(db, "of s2", "s2")
    read_before = await db.get_session("s1")
    clock.move(LIFE - LIFE // 2 - 1)
    assert await run_ids(db, "s1") == ["r1", "r2", "waiting"] and await ids(db) == ["s1", "s2"]
    assert await left(db, "of s1", "of s2") == only(db, "of s1", "of s2")
    clock.move(1)
    for reader in (db, clock.open(), clock.open(session_config=None)):  # also one that gives sessions no lifetime
        assert await left(reader, "of s1", "of s2") == only(db, "of s2")
        # But that by which Agno deletes their content, which would else stay for good.
        assert {row["result_id"] for row in await reader.get_expired_tool_results(1)} == {"of s1", "of s2"}
    for reader in (db, clock.open()):  # what a handle remembers makes no difference
        for options in ({}, {"deserialize": False}, {"user_id": "u"}, {"runs_limit": 1}):
            assert await reader.get_session("s1", **options) is None
        assert await reader.get_session_data("s1") is None
        for filters in ({}, {"user_id": "u"}, {"session_type": SessionType.AGENT}, {"component_id": "a1"}):
            assert await ids(reader, **filters) == ["s2"]
            rows, total = await reader.get_sessions(deserialize=False, limit=1, page=1, **filters)
            assert ([row["session_id"] for row in rows], total) == (["s2"], 1)
            assert await reader.get_sessions(deserialize=False, limit=1, page=2, **filters) == ([], 1)
        assert await ids(reader, session_name="name of s1") == []
        assert await reader.count_sessions() == await reader.count_sessions("u") == 1
        assert [s.session_id for s in await reader.get_recent_sessions(user_id="u")] == ["s2"]
        assert await reader.get_run("r1") is None
        assert await reader.get_runs(session_id="s1") == []
        rows, total = await reader.get_runs(user_id="u", limit=1, deserialize=False)
        assert ([row["run_id"] for row in rows], total) == (["r3"], 1)
        assert [run.run_id for run in await reader.get_runs()] == ["r3"]
        assert await reader.rename_session("s1", None, "new") is None
        assert await reader.touch_session("s1") is False
        assert await reader.delete_run("r1") is False
        assert await reader.cancel_pending_run("waiting", session_id="s1", reason="x", user_id="u") is False
        outcome = await reader.update_run_in_session("s1", "r1", {"content": "x"}, user_id="u")
        assert outcome is RunPersistOutcome.MISSING
        assert await reader.append_run_to_session_if_absent("s1", {"run_id": "r9", "agent_id": "a1"}, "u") is None
        assert await reader.reassign_session_owner("s1", previous_user_id="u", user_id="v") is False
        assert await reader.delete_session("s1", user_id="u") is False
        with pytest.raises(SessionNotFoundError):
            await reader.upsert_run(run_of("r9"), "s1", "u")
        with pytest.raises(SessionNotFoundError):
            await reader.update_session_data("s1", {"x": 1})
        with pytest.raises(SessionNotFoundError):
            await reader.summarize_session("s1", lambda session: "summary")
        assert await reader.get_messages("s1") == await reader.get_tool_calls("s1") == []
        with pytest.raises(SessionConflictError):
            await reader.save_session(read_before)
    assert [session.session_id for session in await db.get_expired_sessions()] == ["s1"]
    assert await run_ids(db, "s2") == ["r3"]


async def test_a_turn_that_outlives_its_session_brings_nothing_of_it_back(db: Any, clock: Clock) -> None:
    """A save of an object that was read before: what its turn has made begins a new session."""
    db = clock.open()
    metrics = {"input_tokens": 10, "details": {"model": [{"id": "m", "input_tokens": 10}]}}
    data = {"session_state": {"secret": 1, "deep": {"old": 1}}, "session_name": "old", "session_metrics": metrics}
    told: dict[str, Any] = {"agent_data": {"name": "a"}, "metadata": {"m": 1, "n": 1}}
    await db.upsert_session(
        agent_session(user_id="u", session_data=data, summary=SessionSummary(summary="of old"), **told)
    )
    held, strict = await db.get_session("s1"), clock.open(on_conflict="raise")
    as_told = await strict.get_session("s1")
    clock.move(LIFE)
    held.session_data["session_state"]["deep"]["new"] = 2
    held.session_data["session_metrics"]["input_tokens"] = 17
    held.session_data["session_metrics"]["details"]["model"][0]["input_tokens"] = 17
    held.metadata["n"] = 2
    with pytest.raises(SessionConflictError):
        await strict.upsert_session(as_told)
    assert await db.upsert_session(held) is not None
    for reader in (db, clock.open()):
        row = await reader.get_session("s1", deserialize=False)
        assert row["session_data"] == {
            "session_state": {"deep": {"new": 2}},
            "session_metrics": {"input_tokens": 7, "details": {"model": [{"id": "m", "input_tokens": 7}]}},
        }
        assert (row["agent_data"], row["metadata"], row["summary"]) == ({"name": "a"}, {"n": 2}, None)
        assert row["created_at"] == clock.now
    held.session_data["session_state"]["deep"]["newer"] = 3
    await db.upsert_session(held)
    assert (await db.get_session_data("s1"))["session_state"] == {"deep": {"new": 2, "newer": 3}}


async def test_a_session_begun_anew_has_nothing_of_the_one_that_expired(db: Any, clock: Clock) -> None:
    for begin in ("upsert_session", "insert_session_if_absent", "save_session"):
        db = clock.open()
        await talk(db, begin, f"{begin}-old")
        clock.move(LIFE)
        other = clock.open()
        session = agent_session(begin, user_id="v", session_data={"fresh": True}, created_at=5)
        assert await getattr(other, begin)(session)
        await other.upsert_run(run_of(f"{begin}-new"), begin, "v")
        await other.upsert_run(run_of(f"{begin}-old", content="again"), begin, "v")
        for reader in (db, other):
            row = await reader.get_session(begin, deserialize=False)
            assert (row["user_id"], row["session_data"]) == ("v", {"fresh": True})
            assert [run["content"] for run in row["runs"]] == [f"content of {begin}-new", "again"]
            rows, _ = await reader.get_runs(session_id=begin, deserialize=False)
            assert [row["run_index"] for row in rows] == [0, 1]


async def test_what_was_written_since_a_session_expired_is_the_next_ones(db: Any, clock: Clock) -> None:
    """A turn saves its session last."""
    db = clock.open()
    await talk(db, "s1")
    await leave(db, "old")
    clock.move(LIFE // 2)
    await talk(db, "s2")
    await leave(db, "other", "s2")
    clock.move(LIFE // 2 + 1)
    await leave(db, "new")
    for reader in (db, clock.open()):
        assert await left(reader, "old", "new", "other") == only(db, "new", "other")
        assert [row["result_id"] for row in await reader.get_tool_results_for_session("s1", limit=1)] == ["new"]
        if offered(db):
            assert [row["compaction_id"] for row in await reader.get_compactions_for_session("s1", limit=1)] == ["new"]
    await talk(db, "s1", user_id="v")
    assert await left(db, "old", "new", "other") == only(db, "new", "other")
    assert (await clock.open().sweep()).sessions == 0
    assert await left(db, "old", "new", "other") == only(db, "new", "other")
    assert await db.delete_session("s1") is True
    assert await left(db, "old", "new", "other") == only(db, "other")


async def test_what_an_expired_session_left_is_in_nobodys_way(db: Any, clock: Clock) -> None:
    """Its ids may be used again, and what is written under them is new."""
    db = clock.open()
    await talk(db, "s1")
    for name in ("old", "taken", "moved"):
        await leave(db, name)
    await db.upsert_tool_result(result_of("partial", "s1", user_id="u"))
    clock.move(LIFE // 2)
    await talk(db, "s2")
    await leave(db, "other", "s2")
    clock.move(LIFE // 2 + 1)
    again = result_of("old", "s1", created_at=7)
    await db.upsert_tool_result(again)
    await db.upsert_tool_result(result_of("taken", "s2"))
    await db.upsert_tool_result(result_of("another", "s1", path="/moved"))
    with pytest.raises(ValueError, match="another session"):
        await db.upsert_tool_result(result_of("other", "s1"))
    with pytest.raises(ValueError, match="path"):  # as of a result that there is not: nothing of the old one is taken
        await db.upsert_tool_result({"result_id": "partial", "session_id": "s1", "preview": "new"})
    bare = {name: value for name, value in result_of("partial", "s1").items() if name not in ("user_id", "expires_at")}
    await db.upsert_tool_result(bare)
    await append(db, "taken", session="s2")
    await append(db, "old")
    if offered(db):
        await db.upsert_compaction(compaction("old", summary="new"))
        await db.upsert_compaction(compaction("taken", "s2", summary="new"))
        await db.upsert_compaction(compaction("other", "s1", summary="new"))
    for session in (None, "s1"):
        if session is not None:
            await talk(db, session, user_id="v")
            await clock.open().sweep()
        assert await db.get_tool_result("old") == again
        assert await db.get_tool_result("partial") == result_of("partial", "s1")
        assert await db.get_tool_result("moved") is None
        for of, names in (("s1", {"old", "another", "partial"}), ("s2", {"taken", "other"})):
            assert {row["result_id"] for row in await db.get_tool_results_for_session(of)} == names
        assert await db.get_transcript_entries(*KEY) == [entry("other"), entry("taken"), entry("old")]
        if offered(db):
            assert await db.get_compaction("old") == compaction("old", summary="new")
            assert await db.get_compaction("taken") == compaction("taken", "s2", summary="new")
            assert await db.get_compaction("other") == compaction("other", "s2")


async def test_every_write_puts_the_expiry_off_and_no_read_does(db: Any, clock: Clock) -> None:
    db = clock.open()
    await talk(db, "s1", "r1")

    async def lives(seconds: int) -> None:
        """It is there until so many seconds from now, and no longer."""
        clock.move(seconds - 1)
        assert (await db.get_session("s1")).session_id == "s1"
        assert await db.get_session_data("s1") is not None and await db.get_run("r1") is not None
        assert await clock.open().count_sessions("u") == 1
        clock.move(1)
        assert await db.get_session("s1") is None and await clock.open().get_session_data("s1") is None
        clock.move(-2)

    writes: list[Callable[[], Any]] = [
        lambda: db.upsert_session(agent_session("s1", user_id="u")),
        lambda: db.upsert_run(run_of("r1", status="COMPLETED"), "s1", "u"),
        lambda: clock.open().upsert_run(run_of("r2"), "s1", "u"),  # that knows nothing of the session
        lambda: db.update_session_data("s1", {"k": 1}),
        lambda: db.rename_session("s1", None, "named"),
        lambda: db.update_run_in_session("s1", "r1", {"content": "x"}, user_id="u", session_data={"k": 2}),
        lambda: db.update_session("s1", lambda session: None),
        lambda: db.touch_session("s1", user_id="u"),
        lambda: db.delete_run("r2"),
    ]
    for write in writes:
        await write()
        await lives(LIFE)
    assert await db.touch_session("s1", user_id="stranger") is False
    assert await db.touch_session("nobody") is False
    assert await db.touch_session("s1", ttl=timedelta(minutes=5)) is True  # may be shorter
    await lives(300)
    assert await db.touch_session("s1", ttl=3 * LIFE) is True
    await lives(3 * LIFE)
    with pytest.raises(ValueError, match="ttl"):
        await db.touch_session("s1", ttl=0)
    with pytest.raises(ValueError, match="lifetime"):
        await clock.open(session_config=None).touch_session("s1")


async def test_the_shorter_of_two_lives_counts(db: Any, clock: Clock) -> None:
    for config in ({"max_inactive_days": 2}, {"ttl": 172_800, "max_inactive_days": 30}, {"ttl": timedelta(days=2)}):
        db = clock.open(session_config=config)
        await talk(db, "s1")
        clock.move(172_799)
        assert await db.get_session("s1") is not None
        clock.move(1)
        assert await db.get_session("s1") is None
    for wrong in (
        {"tll": 5},
        {"ttl": 0},
        {"ttl": True},
        {"ttl": "5"},
        {"cleanup_interval": -1},
        {"max_inactive_days": 0},
    ):
        with pytest.raises(ValueError):
            clock.open(session_config=wrong)


# --- A run that waits for a human -------------------------------------------------------------------------------------


async def test_a_run_that_awaits_a_human_keeps_its_session(db: Any, clock: Clock) -> None:
    db = clock.open()
    await talk(db, "s1", "r1")
    await db.upsert_run(run_of("p1", status=RunStatus.paused), "s1", "u")
    await db.upsert_run(run_of("p2", status=RunStatus.paused), "s1", "u")
    await talk(db, "other", "o1")
    clock.move(50 * LIFE)
    other = clock.open()
    assert await run_ids(other, "s1") == ["r1", "p1", "p2"] and await ids(other) == ["s1"]
    await other.upsert_session(agent_session("s1", user_id="u"))  # a write leaves it held
    assert await other.touch_session("s1") is True
    clock.move(LIFE)
    assert [session.session_id for session in await other.get_expired_sessions()] == ["other"]
    assert (await other.sweep()).sessions == 1
    await other.upsert_run(run_of("p1", status="COMPLETED"), "s1", "u")
    clock.move(LIFE)
    assert await run_ids(db, "s1") == ["r1", "p1", "p2"], "another run still waits"
    assert (await other.sweep()).sessions == 0
    assert await db.delete_run("p2") is True
    clock.move(LIFE - 1)
    assert await run_ids(other, "s1") == ["r1", "p1"]
    clock.move(1)
    assert await other.get_session("s1") is None
    assert (await db.sweep()).sessions == 1


# --- The sweep --------------------------------------------------------------------------------------------------------


async def test_a_sweep_removes_what_has_expired_and_nothing_else(db: Any, clock: Clock) -> None:
    db = clock.open()
    for number in range(4):
        await talk(db, f"old{number}", f"a{number}", f"b{number}")
    clock.move(LIFE // 2)
    await talk(db, "old3", "c")
    await talk(db, "young", "r1")
    clock.move(LIFE // 2)
    other = clock.open()
    dry = await other.sweep(dry_run=True)
    assert (dry.dry_run, dry.sessions, dry.runs, dry.failures, dry.complete) == (True, 3, 6, (), True)
    assert dry.bytes > 6 * len("content of a0") and dry.seconds >= 0
    assert len(await other.get_expired_sessions()) == 3 == len(await other.get_expired_sessions(user_id="u"))
    assert len(await other.get_expired_sessions(2)) == 2 and await other.get_expired_sessions(user_id="v") == []
    first = await db.sweep(limit=2)
    second = await other.sweep()
    assert (first.sessions, second.sessions, first.runs + second.runs) == (2, 1, 6)
    assert first.bytes + second.bytes == dry.bytes and not first.dry_run
    assert await other.get_expired_sessions() == []
    again = await other.sweep()
    assert (again.sessions, again.runs, again.bytes, again.failures) == (0, 0, 0, ())
    assert await ids(other) == ["old3", "young"]
    assert await run_ids(other, "old3") == ["a3", "b3", "c"] and await run_ids(other, "young") == ["r1"]
    assert sorted(run.run_id for run in await other.get_runs()) == ["a3", "b3", "c", "r1"]
    with pytest.raises(ValueError):
        await db.sweep(limit=-1)


async def test_data_from_before_there_was_a_lifetime_get_one(db: Any, clock: Clock) -> None:
    before = clock.open(session_config=None)
    await talk(before, "idle", "r1")
    await talk(before, "waiting")
    await before.upsert_run(run_of("w1", status="PAUSED"), "waiting", "u")
    await talk(before, "running", "n1")
    await talk(before, "written")
    clock.move(LIFE - 10)
    await before.upsert_run(run_of("n2"), "running", "u")
    after = clock.open()
    await after.upsert_session(agent_session("written", user_id="u"))
    clock.move(20)
    assert (await before.sweep()).sessions == 0, "without a lifetime nothing expires"
    assert await ids(after) == ["idle", "running", "waiting", "written"], "what was never given an expiry has none"
    assert [session.session_id for session in await after.get_expired_sessions()] == ["idle"]
    assert (await after.sweep(dry_run=True)).sessions == 1 and await ids(after) == [
        "idle", "running", "waiting", "written",
    ]  # fmt: skip
    swept = await after.sweep()
    assert (swept.sessions, swept.runs) == (1, 1)
    assert await ids(after) == ["running", "waiting", "written"]
    clock.move(LIFE)
    assert await ids(after) == ["waiting"], "the others were given one"
    assert (await after.sweep()).sessions == 2
    await after.upsert_run(run_of("w1", status="COMPLETED"), "waiting", "u")
    clock.move(LIFE)
    assert await ids(after) == []


async def test_the_removal_of_a_user_includes_what_has_expired(db: Any, clock: Clock) -> None:
    db = clock.open()
    await talk(db, "s1", "r1", "r2")
    await talk(db, "s2", "r3", user_id="v")
    clock.move(LIFE)
    assert (await db.purge_user("u", dry_run=True)).removed["sessions"] == 1
    report = await db.purge_user("u")
    assert (report.removed["sessions"], report.removed["runs"], report.complete) == (1, 2, True)
    assert [session.session_id for session in await db.get_expired_sessions()] == ["s2"]
    assert (await db.sweep()).runs == 1

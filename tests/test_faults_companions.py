"""What goes with a session, replayed with a fault at each call: appends to transcripts, tool results, removals.

Whatever the fault: an append is there whole or not at all, a removal has taken each transcript, result and compaction
whole or not yet; another process can go on, and repeating the operation converges.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agno_docstores.conformance.compactions import compaction
from agno_docstores.conformance.plugin import Awaitable as Handle
from agno_docstores.conformance.plugin import close
from agno_docstores.conformance.sessions import agent_session
from agno_docstores.conformance.tool_results import result_of
from agno_docstores.conformance.transcripts import KEY, append, texts
from agno_docstores.domains.compactions import Compactions
from agno_docstores.io import run
from agno_docstores.port import EVERYTHING, Span, Stored
from agno_docstores.schema import COMPACTIONS, TOOL_RESULTS, TRANSCRIPT_ENTRIES, TRANSCRIPT_LINKS, TRANSCRIPTS
from tests.faults import FAULTS, Between, whole

Operation = Callable[[Any], Awaitable[Any]]
CELLS = pytest.mark.cells("memory-sync*")


async def prepared(db: Any) -> None:
    """Two sessions that share a transcript, and have a subpath, a compaction and two results each."""
    for session in ("s1", "s2"):
        await db.upsert_session(agent_session(session, user_id="u"))
        await append(db, f"{session}-1", f"{session}-2", session=session)
        await append(db, f"{session}-sub", session=session, subpath=session)
        await db.upsert_compaction(compaction(session, session))
        for number in range(2):
            await db.upsert_tool_result(result_of(f"{session}-{number}", session))


async def state(db: Any) -> dict[str, Any]:
    """All that can be read, by what it is."""
    found: dict[str, Any] = {"sessions": {session.session_id for session in await db.get_sessions()}}
    for subpath in ("", "s1", "s2"):
        said = await texts(db, subpath=subpath)
        # What each session said is one thing that is there or not.
        for session in ("s1", "s2"):
            found[f"{session} in {subpath!r}"] = [text for text in said if text.startswith(session)]
    found |= {f"subpath {subpath!r}": True for subpath in await db.list_transcript_subpaths(*KEY)}
    found["listed"] = [one["session_id"] for one in await db.list_transcript_sessions(*KEY[:2])]
    for session in ("s1", "s2"):
        for row in await db.get_tool_results_for_session(session):
            found[row["result_id"]] = row["path"]
        found[f"compactions of {session}"] = [
            row["compaction_id"] for row in await db.get_compactions_for_session(session)
        ]
    return found


async def left_of(db: Any) -> set[str]:
    """The kinds of which records of s1 are stored, read past every filter."""
    store = db.raw.store
    return {
        kind.name
        for kind in (TRANSCRIPTS, TRANSCRIPT_ENTRIES, TRANSCRIPT_LINKS, COMPACTIONS, TOOL_RESULTS)
        for record in store.records.get(f"{getattr(db.raw, kind.table)}/{kind.name}", {}).values()
        if "'s1" in repr((record.ref, record.fields)) or '"s1' in "".join(p.text for p in (record.body or {}).values())
    }


async def new_entries(db: Any) -> Any:
    await append(db, "s1-2", "s1-3", "s1-4")


async def entries_of_a_new_transcript(db: Any) -> Any:
    await append(db, "s1-a", "s1-b", subpath="new")


async def entries_of_another_session(db: Any) -> Any:
    await append(db, "s1-x", subpath="s2")


async def removal_of_a_transcript(db: Any) -> Any:
    await db.delete_transcript(*KEY)


async def removal_of_a_session(db: Any) -> Any:
    await db.delete_sessions(["s1"])


async def a_result_under_another_address(db: Any) -> Any:
    await db.upsert_tool_result(result_of("s1-0", path="/moved"))


async def removal_of_results(db: Any) -> Any:
    await db.delete_tool_results(["s1-0", "s2-1"])


async def removal_of_compactions(db: Any) -> Any:
    await db.delete_compactions_for_session("s1")


OPERATIONS: list[Operation] = [
    new_entries, entries_of_a_new_transcript, entries_of_another_session, removal_of_a_transcript,
    removal_of_a_session, a_result_under_another_address, removal_of_results, removal_of_compactions,
]  # fmt: skip


@CELLS
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
async def test_a_fault_at_any_call_leaves_whole_things_and_a_repetition_converges(
    cell: Any, runner: Any, operation: Operation
) -> None:
    async def after(db: Any) -> None:
        if operation is removal_of_a_session:
            assert await left_of(db) == set()
        if operation is removal_of_a_transcript:
            assert await left_of(db) <= {COMPACTIONS.name, TOOL_RESULTS.name, TRANSCRIPT_LINKS.name}

    await whole(cell, operation, prepared, state, kinds=FAULTS, after=after)


# --- A deletion between any two calls of an append --------------------------------------------------------------------


def of_a_transcript(db: Any) -> None:
    db.delete_transcript(*KEY)


def of_a_session(db: Any) -> None:
    db.delete_sessions(["s1"])


def said(db: Any, *uuids: str, session: str = "s1") -> None:
    db.append_transcript_entries(*KEY, [{"uuid": uuid, "text": uuid} for uuid in uuids], session)


def records(db: Any) -> list[Stored]:
    """What is stored of transcripts, read past every filter."""
    kernel = db._engine.kernel
    kinds = (TRANSCRIPTS, TRANSCRIPT_ENTRIES, TRANSCRIPT_LINKS)
    return [record for kind in kinds for record in run(kernel.span(Span(kind.name, EVERYTHING)))]


def texts_left(db: Any) -> list[str]:
    bodies = [part.text for record in records(db) for part in (record.body or {}).values()]
    return [text for text in bodies if '"s1-' in text]


@pytest.mark.cells("memory-sync*", "mongo-sync-standalone", "mongo-sync-secantus", "dynamo-sync-moto")
@pytest.mark.parametrize("again", [False, True], ids=["once", "said again"])
@pytest.mark.parametrize("deletion", [of_a_transcript, of_a_session])
def test_what_a_deletion_took_does_not_outlive_it(cell: Any, deletion: Callable[[Any], None], again: bool) -> None:
    """Done by another before each call of an append, and what it took perhaps said again: what was said before the
    deletion is gone for good, and what is said after it is there whatever the slow append does."""
    for at in itertools.count(1):
        with cell.storage() as name:
            db, other = cell.open(name), cell.open(name)
            db.upsert_session(agent_session("s1", user_id="u"))
            said(db, "s1-1")
            said(db, "s1-2")

            def act(other: Any = other) -> None:
                deletion(other)
                if again:
                    said(other, "s1-2")
                    said(other, "s1-3", session="s2")

            between = Between(at, act)
            db.io.hooks.append(between)
            said(db, "late")
            db.io.hooks.clear()
            expected = ["s1-2", "s1-3", "late"] if again else ["late"]
            if between.done:
                found = [row["text"] for row in other.get_transcript_entries(*KEY)]
                where = f"before call {at}: {found}"
                # An append that was done but for its last call came first.
                assert found in (expected, expected[:-1]), where
                said(other, "end", session="s3")
                assert [row["text"] for row in other.get_transcript_entries(*KEY)] == [*found, "end"], where
                if not again:
                    assert texts_left(other) == [], where
                other.delete_transcript(*KEY)
                assert {record.ref.kind for record in records(other)} <= {TRANSCRIPT_LINKS.name}, where
            db.close()
            other.close()
        if not between.done:
            assert at > 1
            break


@CELLS
async def test_a_turn_that_begins_a_session_anew_keeps_what_it_wrote_before_it_saved_it(
    cell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Agno saves a session at the end of its first turn. What the expired session of the id had, goes."""
    with cell.storage() as name:
        db = Handle(cell.open(name, session_config={"ttl": 100}))
        now = 1_700_000_000.0
        monkeypatch.setattr(type(db.raw.io), "now", lambda self: now)
        await prepared(db)
        now += 60
        await db.upsert_session(agent_session("s2", user_id="u"))
        now += 60
        await append(db, "s1-new", subpath="new")
        await append(db, "s1-next")
        await db.upsert_compaction(compaction("new", "s1"))
        await db.upsert_tool_result(result_of("new", "s1"))
        await db.upsert_session(agent_session("s1", user_id="v"))
        assert await texts(db, subpath="new") == ["s1-new"]
        assert await texts(db) == ["s2-1", "s2-2", "s1-next"] and await db.list_transcript_subpaths(*KEY) == [
            "new",
            "s2",
        ]
        assert [row["compaction_id"] for row in await db.get_compactions_for_session("s1")] == ["new"]
        assert [row["result_id"] for row in await db.get_tool_results_for_session("s1")] == ["new"]
        now += 60
        assert (await db.sweep()).sessions == 1
        assert await texts(db) == ["s1-next"] and await db.get_tool_results_for_session("s2") == []
        assert await db.get_compactions_for_session("s2") == []
        await close(db.raw)


def test_compactions_have_all_their_methods_on_the_sync_class_only() -> None:
    from agno_docstores.facade import AsyncDocstore, Docstore

    names = {name for name in vars(Compactions) if "compaction" in name and not name.startswith("_")}
    assert len(names) == 5
    assert all(name in vars(Docstore) and not hasattr(AsyncDocstore, name) for name in names)

"""What goes with a session besides its runs: its part of external agents' transcripts, its compactions, the index of
its tool results. All of them hold the conversation, so a session that is begun anew under the id must not find them.

They may be there before the session is, for a turn saves its session last. So they go by when they were written: what
was by the end of a session (`lifetimes.ended_at`) no reader finds from then on, removed or not; what was written since
stays, also where the session that has ended is removed at the beginning of the next.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from agno_docstores.kernel import Kernel
from agno_docstores.lifetimes import Ends
from agno_docstores.port import Condition, Delete, Fields, Kind, Predicate, Range, Ref, Span, Stored, as_int
from agno_docstores.schema import COMPACTIONS, TOOL_RESULTS
from agno_docstores.transcript_records import remove_of_session


async def remove_companions(kernel: Kernel, session_id: str, until: int | None = None) -> None:
    """Remove what a session has besides its runs, and was written by a time (microseconds since the epoch; None: ever).
    Repeating it goes on. 3 requests where there is nothing."""
    await kernel.io.gather(
        remove_of_session(kernel, session_id, until),
        remove_compactions(kernel, session_id, until),
        remove_tool_results_of(kernel, session_id, until),
    )


def written_at(kind: Kind, fields: Fields) -> int:
    """When a compaction or a tool result was written, microseconds since the epoch."""
    if kind is COMPACTIONS:
        return int(str(fields["place"]).rpartition(".")[2])
    return as_int(fields.get("inserted_at"))


def written(kind: Kind, *, until: int | None = None, since: int | None = None) -> Condition:
    """That a compaction or a tool result was written up to a time, or later than one."""
    if kind is TOOL_RESULTS:
        return Range("inserted_at", None if since is None else since + 1, until)

    def holds(fields: Fields) -> bool:
        at = written_at(kind, fields)
        return (until is None or at <= until) and (since is None or at > since)

    return Predicate(("place",), holds)


async def is_past(ends: Ends, kind: Kind, record: Stored) -> bool:
    """Whether a compaction or a tool result is that of a session that has ended. The requests of `ends`."""
    session_id = str(record.fields["session_id"])
    ended = (await ends([session_id])).get(session_id)
    return ended is not None and written_at(kind, record.fields) <= ended


async def present(kernel: Kernel, ends: Ends, kind: Kind, ref: Ref) -> Stored | None:
    """A compaction or a tool result, unless it is that of a session that has ended. 1 request, and those of `ends`."""
    record = await kernel.get(ref)
    return None if record is None or await is_past(ends, kind, record) else record


async def of_session(
    kernel: Kernel,
    ends: Ends,
    kind: Kind,
    session_id: str,
    read: Callable[[tuple[Condition, ...]], Awaitable[list[Stored]]],
) -> list[Stored]:
    """What `read` finds of a session, under the conditions that it is given, without what belongs to one that has
    ended. The requests of `ends` at the same time as those of `read`, and those of `read` once more where it has."""
    both: list[Awaitable[Any]] = [read(()), ends([session_id])]
    found, ended = await kernel.io.gather(*both)
    if not found or session_id not in ended:
        return list(found)
    return await read((written(kind, since=ended[session_id]),))


def place_of(created_at: int, inserted_at: int) -> str:
    """A compaction's place among its session's: by creation (epoch seconds), then insertion (microseconds)."""
    return f"{created_at:020d}.{inserted_at:020d}"


async def remove_compactions(kernel: Kernel, session_id: str, until: int | None = None) -> int:
    """Remove a session's compactions; how many there were. 1 request, and batches."""
    where = () if until is None else (written(COMPACTIONS, until=until),)
    found = await kernel.span(Span(COMPACTIONS.name, "session_place", (session_id,), body=False, where=where))
    failed = await kernel.write_many(Delete(record.ref) for record in found)
    if failed:
        raise failed[0].error
    return len(found)


async def remove_tool_results_of(kernel: Kernel, session_id: str, until: int | None) -> int:
    """Remove a session's tool results; how many there were. 1 request, and 2 for each of them: their addresses become
    free with them."""
    where = () if until is None else (written(TOOL_RESULTS, until=until),)
    found = await kernel.span(Span(TOOL_RESULTS.name, "session_age", (session_id,), where=where))
    return await remove_tool_results(kernel, [record.ref for record in found])


async def remove_tool_results(kernel: Kernel, refs: Iterable[Ref]) -> int:
    """Remove results, each as it was read, for its address has to become free with it; how many there were. 2 requests
    for each."""

    async def one(ref: Ref) -> bool:
        async def attempt(fresh: bool) -> bool:
            stored = await kernel.get(ref)
            if stored is None:
                return False
            await kernel.commit([Delete(stored.ref, stored.rev)])
            return True

        return await kernel.transact(f"removal of tool result {ref.id!r}", attempt)

    return sum(await kernel.io.gather(*map(one, refs)))

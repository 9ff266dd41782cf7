"""What goes with a session besides its runs: its part of external agents' transcripts, its compactions, the index of
its tool results. All of them hold the conversation, so a session that is begun anew under the id must not find them.

They may be there before the session is, for a turn saves its session last. So where a session that has ended earlier is
removed at the beginning of the next, what was written since its end stays.
"""

from __future__ import annotations

from collections.abc import Iterable

from agno_docstores.kernel import Kernel
from agno_docstores.port import Delete, Fields, Predicate, Range, Ref, Span
from agno_docstores.schema import COMPACTIONS, TOOL_RESULTS
from agno_docstores.transcript_records import remove_of_session


async def remove_companions(kernel: Kernel, session_id: str, until: int | None = None) -> None:
    """Remove what a session has besides its runs, and was written by a time (microseconds since the epoch; None: ever).
    Repeating it goes on. 3 requests where there is nothing."""
    await kernel.io.gather(
        remove_of_session(kernel, session_id, until),
        remove_compactions(kernel, session_id, until),
        _remove_tool_results(kernel, session_id, until),
    )


def place_of(created_at: int, inserted_at: int) -> str:
    """A compaction's place among its session's: by creation (epoch seconds), then insertion (microseconds)."""
    return f"{created_at:020d}.{inserted_at:020d}"


async def remove_compactions(kernel: Kernel, session_id: str, until: int | None = None) -> int:
    """Remove a session's compactions; how many there were. 1 request, and batches."""

    def is_old(fields: Fields) -> bool:
        return until is None or int(str(fields["place"]).rpartition(".")[2]) <= until

    where = (Predicate(("place",), is_old),)
    found = await kernel.span(Span(COMPACTIONS.name, "session_place", (session_id,), body=False, where=where))
    failed = await kernel.write_many(Delete(record.ref) for record in found)
    if failed:
        raise failed[0].error
    return len(found)


async def _remove_tool_results(kernel: Kernel, session_id: str, until: int | None) -> None:
    """1 request, and 1 for each of them: their addresses become free with them."""
    where = () if until is None else (Range("inserted_at", None, until),)
    found = await kernel.span(Span(TOOL_RESULTS.name, "session_age", (session_id,), where=where))
    await remove_tool_results(kernel, [record.ref for record in found])


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

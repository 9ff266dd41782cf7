"""Compactions: what was folded out of a conversation's context (contract 1.13), over the kernel.

Invariants: a record is written once and never changes; a session's are in the order of their creation, then of their
insertion; a search reaches one session only, and takes text as text. They go with their session, and nobody sees them
once it has expired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from agno_docstores.companions import is_past, of_session, place_of, present, remove_compactions
from agno_docstores.domains.listing import label, stretch
from agno_docstores.errors import Conflict
from agno_docstores.history import Histories
from agno_docstores.kernel import Kernel, Query
from agno_docstores.keys import check_id
from agno_docstores.port import Condition, Eq, Expect, Stored
from agno_docstores.rows import Row, Table
from agno_docstores.schema import COMPACTIONS

TABLE = Table(
    COMPACTIONS,
    (
        "compaction_id",
        "session_id",
        "run_id",
        "user_id",
        "first_kept_message_id",
        "summary",
        "archived_messages",
        "messages_compacted",
        "tokens_before",
        "tokens_after",
        "created_at",
    ),
    frozenset({"compaction_id", "session_id", "created_at"}),
    {},
    lambda row: {
        "session_id": check_id("session_id", row["session_id"]),
        "user_id": label("user_id", row["user_id"]),
    },
)


class Compactions:
    """Of sync stores only: Agno calls these methods without awaiting them, and so looks for none on an async store."""

    def __init__(self, kernel: Kernel, histories: Histories) -> None:
        self.kernel = kernel
        self.ends = histories.ends

    async def upsert_compaction(self, row: Row) -> None:
        """Store a compaction, unless its id is stored already: such stays as it is, but for one of a session that has
        expired, whose place this takes. Raises `ValueError` for a column that there is not, or that is missing. 1
        request; 2 more where the id is stored."""
        put = TABLE.put(TABLE.new(row), Expect.ABSENT)
        place = place_of(int(row["created_at"]), int(self.kernel.io.now() * 1e6))
        put = replace(put, fields={**put.fields, "place": place})

        async def attempt(fresh: bool) -> None:
            try:
                await self.kernel.commit([put])
            except Conflict:
                there = await self.kernel.get(put.ref)
                if there is None:
                    raise
                if await is_past(self.ends, COMPACTIONS, there):
                    await self.kernel.commit([replace(put, expect=there.rev)])

        await self.kernel.transact(f"insertion of compaction {put.ref.id!r}", attempt)

    async def get_compaction(self, compaction_id: str) -> Row | None:
        """Read one compaction; None if there is none, or its session has expired. Linearizable. 2 requests (DynamoDB:
        3)."""
        stored = await present(self.kernel, self.ends, COMPACTIONS, TABLE.ref(compaction_id))
        return TABLE.row(stored) if stored is not None else None

    async def get_compactions_for_session(self, session_id: str, limit: int | None = None) -> list[Row]:
        """The compactions of a session, the latest first; none of one that has expired. Strongly consistent. 1 request
        for each page of them, and 1 for whether the session lives, at the same time."""
        return [TABLE.row(stored) for stored in await self._latest(session_id, Query(COMPACTIONS), limit)]

    async def delete_compactions_for_session(self, session_id: str) -> int:
        """Delete the compactions of a session; how many there were. A failure raises; repeating the call goes on. 1
        request, and batches."""
        return await remove_compactions(self.kernel, check_id("session_id", session_id))

    async def search_compactions(self, session_id: str, query: str | Sequence[str], limit: int = 10) -> list[Row]:
        """The compactions of a session whose archived messages contain the text, or one of the texts, compared without
        case; the latest first; none of a session that has expired. No text, or an empty one, finds nothing. Strongly
        consistent. Reads the session's compactions whole, from the latest on, until there are enough; and at the same
        time, in 1 request, whether the session lives."""
        terms = [term.casefold() for term in ([query] if isinstance(query, str) else query) if term]
        if not terms:
            return []

        def found(stored: Stored) -> bool:
            archived = TABLE.row(stored)["archived_messages"]
            return isinstance(archived, str) and any(term in archived.casefold() for term in terms)

        asked = Query(COMPACTIONS, test=found)
        return [TABLE.row(stored) for stored in await self._latest(session_id, asked, limit)]

    async def _latest(self, session_id: Any, query: Query, limit: int | None) -> list[Stored]:
        of = check_id("session_id", session_id)
        _, limit = stretch(limit, None)

        async def read(conditions: tuple[Condition, ...]) -> list[Stored]:
            where = (Eq("session_id", of), *conditions)
            return await self.kernel.page(replace(query, where=where, sort="place", descending=True), limit=limit)

        return await of_session(self.kernel, self.ends, COMPACTIONS, of, read)

"""The index of tool results whose content lies elsewhere (contract 1.12), over the kernel.

Invariants: two results never share an address (namespace and path); a result stays with its session, and goes with it;
once that has expired, nobody sees it, and it is in nobody's way: its id and its address may be used again; a listing of
a session sees every acknowledged write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from agno_docstores import keys
from agno_docstores.companions import is_past, of_session, present, remove_tool_results, remove_tool_results_of
from agno_docstores.domains.listing import label, stretch
from agno_docstores.errors import Conflict, DuplicateError
from agno_docstores.history import Histories
from agno_docstores.kernel import Kernel, Query
from agno_docstores.keys import check_id
from agno_docstores.port import Condition, Eq, Expect, FieldValue, Range, Stored
from agno_docstores.rows import Row, Rows, Table
from agno_docstores.schema import TOOL_RESULTS


def _derived(row: Row) -> Mapping[str, FieldValue]:
    return {
        "session_id": check_id("session_id", row["session_id"]),
        "user_id": label("user_id", row["user_id"]),
        "address": keys.encode((str(row["namespace"]), str(row["path"]))),
        "age": -int(row["created_at"]),
    }


COLUMNS = (
    "result_id",
    "namespace",
    "path",
    "session_id",
    "run_id",
    "tool_call_id",
    "tool_name",
    "args_hash",
    "content_type",
    "size_bytes",
    "line_count",
    "preview",
    "user_id",
    "created_at",
    "expires_at",
)
TABLE = Table(TOOL_RESULTS, COLUMNS, frozenset(COLUMNS) - {"user_id", "expires_at"}, {}, _derived)


class ToolResults:
    def __init__(self, kernel: Kernel, histories: Histories) -> None:
        self.kernel = kernel
        self.ends = histories.ends
        self.results = Rows(kernel, TABLE)

    async def upsert_tool_result(self, row: Row) -> None:
        """Store a result, or change the columns given of the one with its id, in one step. Nothing is left of one whose
        session has expired: the result is new then.

        Raises `DuplicateError`, which Agno takes for a unique violation, if another result has the namespace and path;
        `ValueError` for a column that there is not, or that is missing, and for a result of another session. Nothing is
        written then. 2 requests (DynamoDB: 3 of a known result), 1 more where of a known one not all columns are given.
        """
        TABLE.check(row)
        ref = TABLE.ref(row.get("result_id"))

        async def attempt(fresh: bool) -> None:
            stored = await self.kernel.get(ref)
            before = await self._before(stored, row) if stored is not None else {}
            put = TABLE.put(TABLE.new({**before, **row}), stored.rev if stored is not None else Expect.ABSENT)
            if before and before["session_id"] != put.fields["session_id"]:
                raise ValueError(f"tool result {ref.id!r} is another session's")
            # Of each write: what a session's turn writes is that session's, whoever had the id before.
            put = replace(put, fields={**put.fields, "inserted_at": int(self.kernel.io.now() * 1e6)})
            try:
                await self.kernel.commit([put])
            except DuplicateError:
                session_id = str(put.fields["session_id"])
                ended = (await self.ends([session_id])).get(session_id)
                if ended is None or not await remove_tool_results_of(self.kernel, session_id, ended):
                    raise
                raise Conflict([put.ref]) from None  # the address may be free now: once more

        await self.kernel.transact(f"upsert of tool result {ref.id!r}", attempt)

    async def _before(self, stored: Stored, row: Row) -> Row:
        """The columns of a result that is there, as far as they count for what is written over it. Where all of them
        are written none do, unless the result is another session's."""
        before = TABLE.row(stored)
        if row.keys() >= set(COLUMNS) and row["session_id"] == before["session_id"]:
            return before
        return {} if await is_past(self.ends, TOOL_RESULTS, stored) else before

    async def get_tool_result(self, result_id: str) -> Row | None:
        """Read one result; None if there is none, or its session has expired. Linearizable. 2 requests (DynamoDB:
        3)."""
        stored = await present(self.kernel, self.ends, TOOL_RESULTS, TABLE.ref(result_id))
        return TABLE.row(stored) if stored is not None else None

    async def get_tool_results_for_session(self, session_id: str, limit: int | None = None) -> list[Row]:
        """The results of a session, the latest first; none of one that has expired. Strongly consistent. 1 request for
        each page of them, and 1 for whether the session lives, at the same time."""
        _, limit = stretch(limit, None)
        of = check_id("session_id", session_id)

        async def read(conditions: tuple[Condition, ...]) -> list[Stored]:
            query = Query(TOOL_RESULTS, (Eq("session_id", of), *conditions), "age")
            return await self.kernel.page(query, limit=limit)

        return [TABLE.row(stored) for stored in await of_session(self.kernel, self.ends, TOOL_RESULTS, of, read)]

    async def delete_tool_results(self, result_ids: list[str]) -> int:
        """Delete results, not their content; how many there were. A failure raises; repeating the call goes on. 2
        requests for each (DynamoDB: 3)."""
        return await remove_tool_results(self.kernel, [TABLE.ref(id) for id in dict.fromkeys(result_ids)])

    async def get_expired_tool_results(self, now: int) -> list[Row]:
        """The results that were to be kept until a time (epoch s) up to `now`. Eventually consistent on DynamoDB. 1
        request for each page of them.

        Also those of sessions that have expired: this is what Agno deletes the content by, which is elsewhere and knows
        of no session; left out, it would stay there for good."""
        return await self.results.all((Range("expires_at", None, now),), "expires_at")

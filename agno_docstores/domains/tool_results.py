"""The index of tool results whose content lies elsewhere (contract 1.12), over the kernel.

Invariants: two results never share an address (namespace and path); a result stays with its session, and goes with it;
a listing of a session sees every acknowledged write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from agno_docstores import keys
from agno_docstores.companions import remove_tool_results
from agno_docstores.domains.listing import stretch
from agno_docstores.kernel import Kernel, Query
from agno_docstores.keys import check_id
from agno_docstores.port import Eq, Expect, FieldValue, Range
from agno_docstores.rows import Row, Rows, Table
from agno_docstores.schema import TOOL_RESULTS


def _derived(row: Row) -> Mapping[str, FieldValue]:
    return {
        "session_id": check_id("session_id", row["session_id"]),
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
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.results = Rows(kernel, TABLE)

    async def upsert_tool_result(self, row: Row) -> None:
        """Store a result, or change the columns given of the one with its id, in one step.

        Raises `DuplicateError`, which Agno takes for a unique violation, if another result has the namespace and path;
        `ValueError` for a column that there is not, or that is missing, and for a result of another session. Nothing is
        written then. 2 requests (DynamoDB: 3 of a known result).
        """
        TABLE.check(row)
        ref = TABLE.ref(row.get("result_id"))

        async def attempt(fresh: bool) -> None:
            stored = await self.kernel.get(ref)
            before = TABLE.row(stored) if stored is not None else {}
            put = TABLE.put(TABLE.new({**before, **row}), stored.rev if stored is not None else Expect.ABSENT)
            inserted_at: FieldValue = int(self.kernel.io.now() * 1e6)
            if stored is not None:
                if stored.fields["session_id"] != put.fields["session_id"]:
                    raise ValueError(f"tool result {ref.id!r} is another session's")
                inserted_at = stored.fields["inserted_at"]
            await self.kernel.commit([replace(put, fields={**put.fields, "inserted_at": inserted_at})])

        await self.kernel.transact(f"upsert of tool result {ref.id!r}", attempt)

    async def get_tool_result(self, result_id: str) -> Row | None:
        """Read one result; None if there is none. Linearizable. 1 request (DynamoDB: 2)."""
        return await self.results.get(result_id)

    async def get_tool_results_for_session(self, session_id: str, limit: int | None = None) -> list[Row]:
        """The results of a session, the latest first. Strongly consistent. 1 request for each page of them."""
        _, limit = stretch(limit, None)
        query = Query(TOOL_RESULTS, (Eq("session_id", check_id("session_id", session_id)),), "age")
        return [TABLE.row(stored) for stored in await self.kernel.page(query, limit=limit)]

    async def delete_tool_results(self, result_ids: list[str]) -> int:
        """Delete results, not their content; how many there were. A failure raises; repeating the call goes on. 2
        requests for each (DynamoDB: 3)."""
        return await remove_tool_results(self.kernel, [TABLE.ref(id) for id in dict.fromkeys(result_ids)])

    async def get_expired_tool_results(self, now: int) -> list[Row]:
        """The results that were to be kept until a time (epoch s) up to `now`. Eventually consistent on DynamoDB. 1
        request for each page of them."""
        return await self.results.all((Range("expires_at", None, now),), "expires_at")

"""Contract 1.17 with many at once: what can be had once is had by one.

For sync stores. Needs the fixture `open_another`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from agno_docstores.conformance.concurrency import at_once
from agno_docstores.conformance.mcp_oauth import NOW, code, refresh, transaction


async def test_what_is_had_once_is_had_by_one(db: Any, another: Callable[[], Any]) -> None:
    handles = [db.raw, another().raw]

    async def outcomes(method: str, *args: Any, **kwargs: Any) -> Counter[Any]:
        return Counter(await at_once(db, [(getattr(handles[n % 2], method), args, kwargs) for n in range(20)]))

    await transaction(db, "t", NOW)
    await code(db, "c", NOW)
    await refresh(db, "r", NOW)
    assert await outcomes("consume_mcp_oauth_transaction", "t", NOW) == {("params of t", NOW): 1, None: 19}
    assert await outcomes("delete_mcp_oauth_code", "c") == {True: 1, False: 19}
    assert await outcomes("delete_mcp_oauth_refresh", "r") == {True: 1, False: 19}
    assert await outcomes("insert_mcp_oauth_key", kid="k", secret="s", created_at=NOW) == {True: 1, False: 19}
    assert await db.get_mcp_oauth_keys() == [("k", "s")]
    for number in range(6):
        await refresh(db, f"r{number}", NOW)
    revoked = await at_once(db, [(handles[n % 2].delete_mcp_oauth_refresh_family, ("f",), {}) for n in range(4)])
    assert sum(revoked) == 6, revoked

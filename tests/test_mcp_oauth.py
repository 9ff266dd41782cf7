"""The OAuth store beyond the conformance suite: what can be had once, with a fault at each call; what is left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agno_docstores.conformance.mcp_oauth import NOW, client, code, refresh, transaction
from agno_docstores.port import EVERYTHING, Span
from agno_docstores.schema import KINDS
from tests.faults import CRASHES, Crashed, replays, unnoticed

Operation = Callable[[Any], Awaitable[Any]]

REPLAYED = pytest.mark.cells("memory-sync*")  # what is replayed is the order of calls


async def prepared(db: Any) -> None:
    await client(db, "c")
    await transaction(db, "t", NOW)
    await code(db, "c", NOW)
    for number in range(3):
        await refresh(db, f"r{number}", NOW)


async def state(db: Any) -> dict[str, Any]:
    ids = ("c", "t", "new", "r0", "r1", "r2")
    found = {f"client {id}": await db.get_mcp_oauth_client(id) for id in ids}
    found |= {f"transaction {id}": await db.get_mcp_oauth_transaction(id) for id in ids}
    found |= {f"code {id}": await db.get_mcp_oauth_code(id) for id in ids}
    found |= {f"token {id}": await db.get_mcp_oauth_refresh(id) for id in ids}
    return {**found, "keys": await db.get_mcp_oauth_keys()}


async def consumption(db: Any) -> Any:
    return await db.consume_mcp_oauth_transaction("t", NOW)


async def taking_of_a_code(db: Any) -> Any:
    return await db.delete_mcp_oauth_code("c")


async def taking_of_a_token(db: Any) -> Any:
    return await db.delete_mcp_oauth_refresh("r1")


async def revocation(db: Any) -> Any:
    return await db.delete_mcp_oauth_refresh_family("f")


async def use_of_a_client(db: Any) -> Any:
    return await db.mark_mcp_oauth_client_consumed("c", NOW)


async def sweep(db: Any) -> Any:
    await refresh(db, "new", NOW + 9, NOW + 1, "g")
    await transaction(db, "new", NOW + 9, NOW + 1)
    return await client(db, "new", NOW + 500)


async def key(db: Any) -> Any:
    return await db.insert_mcp_oauth_key(kid="k", secret="s", created_at=1)


ONCE: list[Operation] = [consumption, taking_of_a_code, taking_of_a_token]
OPERATIONS: list[Operation] = [*ONCE, revocation, use_of_a_client, sweep, key]


@REPLAYED
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
async def test_passing_faults_are_not_noticed(cell: Any, runner: Any, operation: Operation) -> None:
    await unnoticed(cell, operation, prepared, state)


@REPLAYED
@pytest.mark.parametrize("operation", ONCE, ids=lambda operation: operation.__name__)
async def test_what_a_crash_took_is_not_given_again(cell: Any, runner: Any, operation: Operation) -> None:
    """What is still to be seen after the crash can be had, once; what is not was taken."""
    async for replay in replays(cell, CRASHES):
        db, survivor = replay.open(), replay.open()
        await prepared(db)
        before = await state(survivor)
        try:
            await replay.strike(db, operation)
            assert replay.fault.at > 2
        except Crashed:
            left = await state(survivor) == before
            assert bool(await operation(survivor)) is left, str(replay)
            assert not await operation(survivor)


@pytest.mark.cells("memory-sync*", "mongo-sync-standalone", "dynamo-sync-moto", "firestore-sync-embedded")
async def test_what_was_used_leaves_nothing_behind(db: Any) -> None:
    await prepared(db)
    before = db.io.calls.total()
    for operation in ONCE:
        assert await operation(db)
    assert await revocation(db) == 2
    print(f"BUDGET 3 uses, revocation of 2: {db.io.calls.total() - before} requests")
    kernel = db.raw._engine.kernel
    left = {name for name in KINDS for _ in await kernel.span(Span(name, EVERYTHING)) if name.startswith("mcp_oauth")}
    assert left == {"mcp_oauth_clients"}

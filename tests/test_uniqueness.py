"""Values that no two records share: of several writers one gets it, whether or not the store itself sees to it."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from agno_docstores.codec import Json
from agno_docstores.conformance.plugin import Awaitable, close
from agno_docstores.errors import Conflict, DuplicateError, StoreUnavailableError
from agno_docstores.io import run
from agno_docstores.port import EVERYTHING, Delete, Expect, Put, Ref, Rev, Span, Touch
from agno_docstores.schema import SCHEDULES
from tests.faults import FAULTS, Crashed, Fault

OURS = pytest.mark.cells("memory-*", "mongo-*", "dynamo-*", "firestore-*")
ONE_OF_EACH = pytest.mark.cells("memory-sync*", "mongo-sync-standalone", "dynamo-sync-moto", "firestore-async-embedded")


def named(id: str, name: str | None, expect: Any = Expect.ABSENT) -> Put:
    return Put(Ref("schedules", id), {"unique_name": name, "created_at": 1}, {"schedule": Json.of({"n": name})}, expect)


def kernel_of(db: Any) -> Any:
    return db._engine.kernel


async def names(kernel: Any) -> dict[str, Any]:
    """The names there are by id, and the claims, which must say the same."""
    records = {r.ref.id: r.fields["unique_name"] for r in await kernel.span(Span("schedules", EVERYTHING))}
    if not kernel.driver.unique:
        assert SCHEDULES.claims is not None
        claims = await kernel.span(Span(SCHEDULES.claims, EVERYTHING))
        assert sorted(str(claim.fields["target"]) for claim in claims) == sorted(id for id, n in records.items() if n)
    return records


@OURS
async def test_a_value_is_one_records_alone_as_long_as_it_has_it(db: Any) -> None:
    kernel = kernel_of(db)
    (first,) = await kernel.commit([named("s1", "a")])
    await kernel.commit([named("s2", None)])
    await kernel.commit([named("s3", None)])
    with pytest.raises(DuplicateError) as caught:
        await kernel.commit([named("s4", "a")])
    assert (caught.value.kind, caught.value.id, caught.value.field) == ("schedules", "s4", "unique_name")
    with pytest.raises(Conflict):
        await kernel.commit([named("s1", "other")])  # it is there: a conflict of another sort
    found = await kernel.get(Ref("schedules", "s2"))
    with pytest.raises(DuplicateError):
        await kernel.commit([named("s2", "a", found.rev)])
    (again,) = await kernel.commit([named("s1", "a", first)])  # its own
    with pytest.raises(Conflict):
        await kernel.commit([named("s1", "b", first)])
    (touched,) = await kernel.commit([Touch(Ref("schedules", "s1"), None, again)])
    (renamed,) = await kernel.commit([named("s1", "b", touched)])
    await kernel.commit([named("s2", "a", found.rev)])
    assert await names(kernel) == {"s1": "b", "s2": "a", "s3": None}
    await kernel.commit([Delete(Ref("schedules", "s1"), renamed)])
    (listed,) = [r for r in await kernel.span(Span("schedules", EVERYTHING)) if r.ref.id == "s3"]
    await kernel.commit([named("s3", "b", listed.rev)])
    assert await names(kernel) == {"s2": "a", "s3": "b"}


@OURS
async def test_of_writers_at_once_one_gets_the_value(db: Any) -> None:
    kernel = kernel_of(db)
    await kernel.commit([named("s0", None)])

    async def take(number: int) -> bool:
        try:
            await kernel.commit([named(f"s{number}", "wanted")])
        except (DuplicateError, Conflict):
            return False
        return True

    if db.is_async:
        won = await asyncio.gather(*map(take, range(1, 9)))
    else:
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda number: run(take(number)), range(1, 9)))
    assert sum(won) == 1
    assert sorted((await names(kernel)).values(), key=str) == [None, "wanted"]


@ONE_OF_EACH
@pytest.mark.parametrize("kind", FAULTS)
async def test_a_fault_at_any_call_leaves_names_and_records_in_step(cell: Any, runner: Any, kind: str) -> None:
    for at in range(1, 20):
        fault = Fault(kind, at)
        with cell.storage() as name:
            db = Awaitable(cell.open(name))
            kernel = kernel_of(db)
            (rev,) = await kernel.commit([named("s1", "a")])
            db.io.hooks.append(fault)
            try:
                (rev,) = await kernel.commit([named("s1", "b", rev)])
                await kernel.commit([named("s2", "a")])
                with pytest.raises(DuplicateError):
                    await kernel.commit([named("s3", "a")])
                await kernel.commit([Delete(Ref("schedules", "s1"), rev)])
                done = True
            except (Crashed, StoreUnavailableError):
                done = False
            db.io.hooks.clear()
            found = await names(kernel)
            if done:
                assert found == {"s2": "a"}
            else:
                assert found in ({"s1": "a"}, {"s1": "b"}, {"s1": "b", "s2": "a"}, {"s2": "a"})
            await close(db.raw)
        if not fault.struck:
            return
    raise AssertionError("more calls than that")


async def test_what_has_unique_values_is_written_only_as_it_was_read() -> None:
    from agno_docstores import MemoryDocstore

    kernel = MemoryDocstore()._engine.kernel
    for write in (named("s1", "a", Expect.ANY), named("s1", "a", Rev("t")), Delete(Ref("schedules", "s1"))):
        with pytest.raises(ValueError, match="unique"):
            await kernel.commit([write])

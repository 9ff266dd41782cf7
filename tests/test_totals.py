"""Totals of children, by themselves: whatever the size of a batch, and whoever else writes, each child is stored once
and counted once."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from agno_docstores.codec import Json
from agno_docstores.errors import PayloadTooLargeError, StoreUnavailableError
from agno_docstores.port import Expect, Failed, Put, Ref
from agno_docstores.schema import SPANS
from agno_docstores.totals import MOST_CHILDREN, add_children, totals_of
from tests.harness import Cell

OURS = pytest.mark.cells("memory-*", "mongo-*", "dynamo-*", "firestore-*")
ONE_OF_EACH = pytest.mark.cells(
    "memory-sync*", "mongo-sync-standalone", "dynamo-sync-local", "dynamo-sync-moto", "firestore-*-embedded"
)
PARENT = Ref("traces", "t1")


def child(id: str, error: bool = False, text: str = "", parent: str = "t1", name: str = "n") -> Put:
    fields = {"trace_id": parent, "name": name, "errors": int(error), "start_time": "2026-01-01T00:00:00+00:00"}
    return Put(Ref("spans", id, parent), fields, {"attributes": Json.of(text)}, Expect.ABSENT)


def kernel_of(db: Any) -> Any:
    return db.raw._engine.kernel


async def add(db: Any, puts: list[Put], parent: str = "t1") -> list[Failed]:
    return await add_children(kernel_of(db), Ref("traces", parent), puts, ("errors",))


async def totals(db: Any, parent: str = "t1") -> tuple[int, ...]:
    """As a reader has them, where the parent was stored before."""
    kernel = kernel_of(db)
    record = await kernel.get(Ref("traces", parent))
    (found,) = await totals_of(kernel, SPANS, [record], ("errors",))
    stored = await kernel.totals(SPANS, [parent], ())
    assert stored.get(parent, (0,))[0] == found[0], "as many as are stored"
    return tuple(found)


async def with_parent(db: Any) -> None:
    for parent in ("t1", "t2"):
        await kernel_of(db).commit([Put(Ref("traces", parent), {"known": True, "name": parent}, {}, Expect.ABSENT)])


@OURS
async def test_a_batch_larger_than_a_commit(db: Any) -> None:
    await with_parent(db)
    assert await add(db, [child(f"c{n}", n % 3 == 0) for n in range(2 * MOST_CHILDREN + 1)]) == []
    assert await totals(db) == (91, 31)
    assert (await kernel_of(db).get(PARENT)).fields["name"] == "t1", "the parent's own fields stay"


@OURS
async def test_children_are_counted_once_by_their_id(db: Any, another: Callable[[], Any]) -> None:
    await with_parent(db)
    assert await add(db, [child("a", True), child("b"), child("a", name="second")]) == []
    assert await totals(db) == (2, 1)
    assert await add(another(), [child("b", True), child("c"), child("a")]) == []
    assert await add(db, [child("c"), child("a")]) == []
    assert await totals(db) == (3, 1)
    assert await add(db, [child("a", parent="t2"), child("d", True, parent="t2")], "t2") == []
    assert (await totals(db), await totals(db, "t2")) == ((3, 1), (1, 1))
    record = await kernel_of(db).get(Ref("spans", "a"))
    assert (record.fields["trace_id"], record.fields["name"]) == ("t1", "n")


@ONE_OF_EACH
async def test_what_is_too_large_does_not_lose_the_others(cell: Cell, storage: str, runner: Any) -> None:
    from agno_docstores.conformance.plugin import Awaitable, close

    db = Awaitable(cell.open(storage, max_value_bytes=100_000))
    large = random.Random(1).randbytes(100_000).hex()
    await with_parent(db)
    batch = [child("a"), child("large", text=large), child("b", True), child("larger", text=large + large[:50_000])]
    failed = await add(db, batch)
    assert sorted((failure.write.ref.id, type(failure.error)) for failure in failed) == [
        ("large", PayloadTooLargeError),
        ("larger", PayloadTooLargeError),
    ]
    assert await totals(db) == (2, 1)
    assert len(await add(db, batch)) == 2
    assert await totals(db) == (2, 1)
    await close(db.raw)


@ONE_OF_EACH
async def test_a_batch_of_large_children_is_divided(db: Any) -> None:
    """Each of them fits, all of them are more than one commit takes: in their bodies, or in their fields."""
    await with_parent(db)
    words = random.Random(1).randbytes(150_000).hex()
    assert await add(db, [child(f"c{n}", text=words + str(n)) for n in range(20)]) == []
    assert await totals(db) == (20, 0)
    assert await add(db, [child(f"d{n}", name=words + str(n)) for n in range(15)]) == []
    assert await totals(db) == (35, 0)


@ONE_OF_EACH
async def test_a_store_that_fails_is_told_for_each_child(db: Any) -> None:
    await with_parent(db)

    class Down:
        def before(self, operation: str) -> None:
            raise StoreUnavailableError(operation, "test", "down", retryable=False)

        def after(self, operation: str) -> None:
            pass

    db.io.hooks.append(Down())
    failed = await add(db, [child("a"), child("b")])
    db.io.hooks.clear()
    assert [(failure.write.ref.id, type(failure.error)) for failure in failed] == [
        ("a", StoreUnavailableError),
        ("b", StoreUnavailableError),
    ]
    assert await totals(db) == (0, 0)
    assert await add(db, [child("a"), child("b")]) == []
    assert await totals(db) == (2, 0)


@pytest.mark.cells("memory-sync", "memory-sync-standalone", "mongo-sync-standalone", "dynamo-sync-moto",
                   "firestore-sync-embedded")  # fmt: skip
async def test_who_comes_between_a_commit_and_its_lost_reply_is_not_written_over(
    db: Any, another: Callable[[], Any]
) -> None:
    """The writer whose reply was lost finds his commit applied, and another's on top of it; what he writes next has to
    be on top of both."""
    await with_parent(db)
    other = another()
    assert await add(db, [child("a")]) == []

    class Between:
        """Lets another writer in after the first call that took effect, and loses its reply."""

        struck = False

        def before(self, operation: str) -> None:
            pass

        def after(self, operation: str) -> None:
            if not self.struck:
                self.struck = True
                assert other_run(other) == []
                raise StoreUnavailableError(operation, "test", "the reply was lost", maybe_applied=True)

    def other_run(handle: Any) -> list[Failed]:
        from agno_docstores.io import run

        return run(add(handle, [child("x", True), child("y")]))

    hook = Between()
    db.io.hooks.append(hook)
    assert await add(db, [child("b")]) == []
    db.io.hooks.clear()
    assert hook.struck
    assert await add(db, [child("c")]) == []
    assert await totals(db) == (5, 1)

"""Totals of a parent's children: how many there are, and the sums of int fields of theirs, exact at every read.

Where one commit can hold a parent and its children (DynamoDB, Firestore) the totals are fields of the parent, written
with the children that they count; a parent that is not there yet is made, with nothing but its totals. Where it cannot
(MongoDB), a counter beside the children would be wrong after a crash between the two: there the store counts when asked
(`Driver.totals`), or the kernel does. Children are only ever added, once each: a repetition changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agno_docstores.errors import Conflict, DocstoreError, PayloadTooLargeError
from agno_docstores.kernel import Kernel
from agno_docstores.port import Expect, Failed, FieldValue, Kind, Put, Ref, Stored, as_int

COUNT = "children"  # the field of a parent that holds the number of its children
# Of one commit: DynamoDB takes 100 items and 4 MB, a child is two items, a character of its text at most 4 bytes.
MOST_CHILDREN, MOST_TEXT = 45, 1_000_000


async def add_children(kernel: Kernel, parent: Ref, puts: Sequence[Put], sums: Sequence[str]) -> list[Failed]:
    """Store new children of a parent: puts under `ABSENT`. Those that are there already, be it with another parent,
    stay as they are; of several with one id the first is taken. Returns what could not be stored, and why; the rest is
    stored. 1 request for each 45 of them, 1 or 2 more where the parent or some of them are known to the store; on
    MongoDB 1 request."""
    first: dict[str, Put] = {}
    for put in puts:
        first.setdefault(put.ref.id, put)
    puts = list(first.values())
    failures: list[Failed] = []
    if not kernel.driver.atomic:
        while puts:
            try:
                failed = await kernel.write_many(puts)
                return failures + [failure for failure in failed if not isinstance(failure.error, Conflict)]
            except PayloadTooLargeError as error:
                oversize, puts = _without_oversize(puts, error)
                failures += oversize
            except DocstoreError as error:
                return failures + [Failed(put, error) for put in puts]
        return failures
    for batch in _batches(puts):
        failures += await _commit(kernel, parent, batch, sums)
    return failures


async def totals_of(
    kernel: Kernel, child: Kind, parents: Sequence[Stored], sums: Sequence[str]
) -> list[tuple[int, ...]]:
    """Of each of these parents, as just read: the number of its children, and the sums. No request where they are kept
    with the parent, else 1."""
    if kernel.driver.atomic:
        return [tuple(as_int(parent.fields.get(name)) for name in (COUNT, *sums)) for parent in parents]
    if not parents:
        return []
    ids = [parent.ref.id for parent in parents]
    found = await kernel.totals(child, ids, sums)
    return [found.get(id, (0,) * (1 + len(sums))) for id in ids]


async def _commit(kernel: Kernel, parent: Ref, puts: list[Put], sums: Sequence[str]) -> list[Failed]:
    failures: list[Failed] = []

    async def attempt(fresh: bool) -> None:
        new = list(puts)
        known = None if fresh else kernel.recent.get(parent)
        if known is None or fresh:
            refs = [put.ref for put in new] if fresh else []
            known, *there = await kernel.get_many([parent, *refs])
            new = [put for put, record in zip(new, there, strict=True) if record is None] if fresh else new
        if not new:
            return
        before = known if isinstance(known, Stored) else None
        fields: dict[str, FieldValue] = dict(before.fields) if before is not None else {}
        fields[COUNT] = as_int(fields.get(COUNT)) + len(new)
        for name in sums:
            fields[name] = as_int(fields.get(name)) + sum(as_int(put.fields.get(name)) for put in new)
        body = before.body or {} if before is not None else {}
        expires_at = before.expires_at if before is not None else None
        expect = before.rev if before is not None else Expect.ABSENT
        try:
            *_, rev = await kernel.commit([*new, Put(parent, fields, body, expect, expires_at)])
        except Conflict:
            kernel.recent.forget(parent)
            raise
        assert rev is not None
        kernel.recent.note(parent, Stored(parent, rev, fields, dict(body), expires_at))

    while puts:
        try:
            await kernel.transact(f"children of {parent.kind} {parent.id!r}", attempt)
            break
        except PayloadTooLargeError as error:
            oversize, puts = _without_oversize(puts, error)
            failures += oversize
        except DocstoreError as error:
            return failures + [Failed(put, error) for put in puts]
    return failures


def _without_oversize(puts: Sequence[Put], error: PayloadTooLargeError) -> tuple[list[Failed], list[Put]]:
    """What is too large, and the others, which are not to be lost for it."""
    oversize = [put for put in puts if (put.ref.kind, put.ref.id) == (error.kind, error.id)] or list(puts)
    return [Failed(put, error) for put in oversize], [put for put in puts if put not in oversize]


def _batches(puts: Sequence[Put]) -> Iterator[list[Put]]:
    batch: list[Put] = []
    size = 0
    for put in puts:
        length = sum(len(part.text) for part in put.body.values())
        length += sum(len(value) for value in put.fields.values() if isinstance(value, str))
        if batch and (len(batch) == MOST_CHILDREN or size + length > MOST_TEXT):
            yield batch
            batch, size = [], 0
        batch.append(put)
        size += length
    if batch:
        yield batch

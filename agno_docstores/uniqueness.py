"""Values that no two records share, where the store does not see to it itself (`Driver.unique`).

Of each such value there is a *claim*, a small record whose id is the value and which names its holder. It is put under
`ABSENT` in the commit that gives a record the value, and deleted in the one that takes it away; so of two writers at
once one loses. Which values a record had is known from its `Rev`, which every read of it and commit notes (`held`), so
that a write costs no additional read. Nothing is ever looked up first and written then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from agno_docstores import keys
from agno_docstores.port import (
    EVERYTHING,
    Delete,
    Driver,
    Eq,
    Expect,
    Fields,
    Kind,
    Put,
    Ref,
    Rev,
    Span,
    Stored,
    Touch,
    Write,
)

if TYPE_CHECKING:
    from agno_docstores.errors import DuplicateError
    from agno_docstores.kernel import Kernel

Held = tuple[tuple[str, str], ...]


def held(kind: Kind, fields: Fields) -> Held:
    """The values of a record that are its alone, by field."""
    return tuple((name, value) for name in kind.unique if isinstance(value := fields.get(name), str))


def noted(kind: Kind, record: Stored) -> Stored:
    """A record as read, its `Rev` noting what it holds."""
    return replace(record, rev=replace(record.rev, held=held(kind, record.fields))) if kind.unique else record


def claim_ref(kind: Kind, name: str, value: str) -> Ref:
    assert kind.claims is not None
    return Ref(kind.claims, keys.encode((name, value)))


def claims(kinds: Mapping[str, Kind], writes: Sequence[Write]) -> list[Write]:
    """What else has to be written in the commit of these writes. Raises `ValueError` for a write under `ANY` of a
    record that may hold something: what it held would stay claimed."""
    found: list[Write] = []
    for write in writes:
        kind = kinds[write.ref.kind]
        if not kind.unique or isinstance(write, Touch):
            continue
        if write.expect is Expect.ANY or (isinstance(write.expect, Rev) and write.expect.held is None):
            raise ValueError(f"a record of {kind.name!r} has unique values, and is written as it was read only")
        before = write.expect.held or () if isinstance(write.expect, Rev) else ()
        after = held(kind, write.fields) if isinstance(write, Put) else ()
        found += [Delete(claim_ref(kind, *value)) for value in before if value not in after]
        found += [
            Put(claim_ref(kind, *value), {"target": write.ref.id}, {}, Expect.ABSENT)
            for value in after
            if value not in before
        ]
    return found


async def taken(kernel: Kernel, writes: Sequence[Write]) -> DuplicateError | None:
    """Of writes that were refused, the error that says which of their unique values another record has; None if none
    is another's, so that the reason is another. 1 request for each value that is new."""
    from agno_docstores.errors import DuplicateError

    driver = kernel.driver
    for write in writes:
        kind = driver.kinds[write.ref.kind]
        if not kind.unique or not isinstance(write, Put):
            continue
        before = write.expect.held or () if isinstance(write.expect, Rev) else ()
        for name, value in held(kind, write.fields):
            if (name, value) in before:
                continue
            if await _holder(driver, kind, name, value) not in (None, write.ref.id):
                return DuplicateError(kind.name, write.ref.id, name)
    return None


async def holder(kernel: Kernel, kind: Kind, name: str, value: str) -> str | None:
    """The id of the record that has this value; None if none has. 1 request."""
    return await kernel.reading(lambda: _holder(kernel.driver, kind, name, value), None)


async def _holder(driver: Driver, kind: Kind, name: str, value: str) -> str | None:
    if not driver.unique:
        claim = await driver.get(claim_ref(kind, name, value))
        return None if claim is None else str(claim.fields["target"])
    span = Span(kind.name, EVERYTHING, limit=1, body=False, where=(Eq(name, value),))
    return next((record.ref.id for record in (await driver.scan(span)).records), None)

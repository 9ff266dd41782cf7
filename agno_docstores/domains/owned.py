"""Records that belong to a user: whose they are, and their removal.

Invariants: no owner is null, never the empty text; the owner check and the removal are one atomic step; what is left of
a removal of several is told.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from agno_docstores.errors import Conflict, DocstoreError
from agno_docstores.kernel import Kernel
from agno_docstores.keys import as_id, text_of
from agno_docstores.port import Delete, Kind, Ref, Stored, Write

log = logging.getLogger("agno_docstores")


def owner(user_id: Any) -> str | None:
    """An owner as stored, and as compared: text, or None for nobody. Raises `InvalidIdError`."""
    return None if user_id is None else as_id("user_id", user_id)


def belongs_to(record: Stored | None, user_id: Any) -> bool:
    """Whether there is a record and it is this very user's; any record is, where no user is named."""
    return record is not None and (user_id is None or record.fields.get("user_id") == text_of(user_id))


async def remove(kernel: Kernel, kind: Kind, ids: Sequence[str], user_id: Any = None) -> None:
    """Delete records of these ids; with a user, only what is his. What is not there is passed over, and so is what is
    not his, with a warning in the log.

    1 round of reads, and the deletions: one request each under an owner check, else in batches. Storage that is not
    there is not created. A failure raises when all have been tried, with a note of the ids that are left; repeating the
    call goes on.
    """
    pending = [Ref(kind.name, id) for id in dict.fromkeys(ids)]

    async def attempt(fresh: bool) -> None:
        nonlocal pending
        there = [record for record in await kernel.headers(pending) if record]
        found = [record for record in there if belongs_to(record, user_id)]
        for record in there:
            if record not in found:
                log.warning("%s %r was not removed: user %r does not own it", kind.name, record.ref.id, user_id)
        if user_id is None:
            failed = await kernel.remove(found)
            errors = [(failure.write.ref, failure.error) for failure in failed]
        else:
            writes = [Delete(record.ref, record.rev) for record in found]
            outcomes = await kernel.io.gather(*(_attempted(kernel, write) for write in writes))
            errors = [(write.ref, error) for write, error in zip(writes, outcomes, strict=True) if error is not None]
        pending = [ref for ref, error in errors if isinstance(error, Conflict)]
        if len(pending) < len(errors):
            raise_for({ref.id: error for ref, error in errors}, "removed")
        if pending:
            raise Conflict(pending)

    await kernel.transact(f"removal of {kind.name} {ids!r}", attempt)


def raise_for(errors: Mapping[str, Exception], done: str) -> None:
    """Raise one of these errors by id, such that says more than that a race was lost, with a note of all the ids.
    Nothing where there are none."""
    if errors:
        error = min(errors.values(), key=lambda error: isinstance(error, Conflict))
        error.add_note(f"not {done}: {', '.join(map(repr, errors))}; all others were {done}")
        raise error


async def _attempted(kernel: Kernel, write: Write) -> Exception | None:
    try:
        await kernel.commit([write])
    except DocstoreError as error:
        return error
    return None

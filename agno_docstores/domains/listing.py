"""What listings have in common: Agno's paging and sorting arguments, filters, and orders that no index gives.

Invariants: a page and its total are of one filtered set, also past the end; every filter given is applied; an order is
total, so that pages neither repeat nor skip: null comes first, numbers by value, text by code point, and records that
tie are in the listing's natural order, then by id.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from enum import Enum
from itertools import groupby
from typing import Any

from agno.db.utils import validate_pagination

from agno_docstores.kernel import Kernel, Query
from agno_docstores.keys import Scalar, as_id, check_time, rank
from agno_docstores.port import Condition, Eq, Fields, FieldValue, Range, Stored


def plain(value: Any) -> Any:
    """A member of an enumeration as the value that it stands for; anything else as it is."""
    return value.value if isinstance(value, Enum) else value


def label(name: str, value: Any) -> str | None:
    """A text of which an index may be made, such as an id of another record: None, or text that a store can hold.
    Compared, and so stored, as text. Raises `InvalidIdError`."""
    value = plain(value)
    return value if value is None or value == "" else as_id(name, value)


def equal(**given: Any) -> list[Condition]:
    """A condition for each filter that was given. Raises `InvalidIdError` for a text that no record can hold."""
    return [Eq(name, label(name, value)) for name, value in given.items() if value is not None]


def text(name: str, value: Any) -> str:
    """A text to search for. Raises `TypeError` for anything else, such as a pattern."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not a {type(value).__name__}")
    return value


def between(name: str, low: Any, high: Any) -> list[Condition]:
    """That a time lies between these, in epoch seconds; None is open. Raises `TypeError` for what is no time."""
    return [] if low is None and high is None else [Range(name, check_time(name, low), check_time(name, high))]


def ascending(sort_order: Any) -> bool:
    """Agno sorts downwards unless told "asc", be it as text or as a member of `SortOrder`."""
    return bool(plain(sort_order) == "asc")


def order_of(
    sort_by: Any, sort_order: Any, columns: Collection[str], id: str, natural: tuple[str, bool]
) -> tuple[str, bool]:
    """The field to sort by, and whether downwards. `id` is the column that the record's id is in; a column that is none
    is ignored, as Agno does. `updated_at` is `created_at` where it is null, and such is the field `touched_at`."""
    if sort_by == id:
        return "id", not ascending(sort_order)
    if sort_by not in columns:
        return natural
    return "touched_at" if sort_by == "updated_at" else str(sort_by), not ascending(sort_order)


def touched_at(fields: Fields) -> FieldValue:
    """What `updated_at` sorts by."""
    updated_at = fields.get("updated_at")
    return updated_at if updated_at is not None else fields.get("created_at")


def stretch(limit: int | None, page: int | None) -> tuple[int, int | None]:
    """Where a page begins and ends. Raises `ValueError` for one that cannot be."""
    validate_pagination(limit, page)
    if limit is None:
        return 0, None
    if limit < 0:
        raise ValueError(f"`limit` must not be negative; got {limit}.")
    offset = ((page or 1) - 1) * limit
    return offset, offset + limit


async def page_of(kernel: Kernel, query: Query, natural: str, limit: int | None, page: int | None) -> list[Stored]:
    """The records of a page (the first is 1), whole.

    `natural`: the field that puts records that tie in order, and that an index gives. The query may sort by any field,
    or by a part of the body. Where an index gives the order, a page costs its own entries and those before it; else the
    headers of all that match, or the whole records where headers do not have the column.
    """
    offset, end = stretch(limit, page)
    if kernel.plan(query).ordered:
        return await kernel.page(query, offset=offset, limit=limit)
    return await _whole(kernel, query, (await _sorted(kernel, query, natural))[offset:end])


async def page_and_total(
    kernel: Kernel, query: Query, natural: str, limit: int | None, page: int | None
) -> tuple[list[Stored], int]:
    """The same, and the number of all that match."""
    offset, end = stretch(limit, page)
    if kernel.plan(query).ordered:
        return await kernel.page_and_total(query, offset=offset, limit=limit)
    found = await _sorted(kernel, query, natural)
    return await _whole(kernel, query, found[offset:end]), len(found)


async def page_by_id_where_tied(
    kernel: Kernel, query: Query, limit: int | None, page: int | None
) -> tuple[list[Stored], int]:
    """The same with records that tie in the order of their ids, whichever way is sorted, and null last, or downwards
    first: as in SQL, where the id is appended to the order. Where an index gives the order, it gives ties downwards as
    well: so all that tie with the page's first and its last are looked at besides, 2 requests, and 1 for those of them
    that come instead of others."""
    offset, end = stretch(limit, page)
    if not kernel.plan(query).ordered:
        found = await _sorted(kernel, query, "id", null_last=True)
        return await _whole(kernel, query, found[offset:end]), len(found)
    found, total = await kernel.page_and_total(query, offset=offset, limit=limit)
    if not query.descending or not found:
        return found, total
    column = str(query.sort)
    edges = [found[0]] * (offset > 0) + [found[-1]] * (offset + len(found) < total)
    values = list(dict.fromkeys(_column(record, column) for record in edges))
    groups = await kernel.io.gather(
        *(
            kernel.page(replace(query, where=(*query.where, Range(column, value, value))), body=False)
            for value in values
        )
    )
    tied = dict(zip(values, groups, strict=True))
    known = {record.ref.id: record for record in found}
    placed: list[Stored] = []
    for value, same in groupby(found, lambda record: _column(record, column)):
        here = list(same)
        group = tied.get(value, here)
        ids = [record.ref.id for record in group]
        first = ids.index(here[0].ref.id) if here[0].ref.id in ids else 0
        placed += sorted(group, key=lambda record: record.ref.id)[first : first + len(here)]
    missing = [record for record in placed if record.ref.id not in known]
    known |= {record.ref.id: record for record in await _whole(kernel, query, missing)}
    return [known[record.ref.id] for record in placed if record.ref.id in known], total


async def _sorted(kernel: Kernel, query: Query, natural: str, *, null_last: bool = False) -> list[Stored]:
    """All that match, in order: headers, or whole records where those are needed to tell."""
    column = str(query.sort)
    needs_body = query.test is not None or column in query.kind.body
    found = await kernel.page(replace(query, sort=natural, descending=False), body=needs_body)
    # An index entry may lack what changes often.
    if column != "id" and not needs_body and any(column not in record.fields for record in found):
        found = await _whole(kernel, query, found)

    def key(record: Stored) -> tuple[bool, tuple[int, Any]]:
        value = _column(record, column)
        return null_last and value is None, rank(value)

    return sorted(found, key=key, reverse=query.descending)


async def _whole(kernel: Kernel, query: Query, found: Sequence[Stored]) -> list[Stored]:
    """The records that headers stand for, unless they changed meanwhile so that they do not belong to the answer."""
    if all(record.body is not None for record in found):
        return list(found)
    full = await kernel.get_many([record.ref for record in found])
    return [record for record in full if record is not None and query.matches(record)]


def _column(record: Stored, name: str) -> Scalar:
    if name == "id":
        return record.ref.id
    if name in record.fields:
        value = record.fields[name]
        return None if isinstance(value, tuple) else value
    part = (record.body or {}).get(name)
    value = None if part is None else part.value()
    # JSON of any other shape sorts as the text that it is.
    return value if part is None or value is None or isinstance(value, str | int | float) else part.text

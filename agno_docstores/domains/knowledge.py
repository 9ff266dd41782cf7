"""Knowledge contents: what `BaseDb` says of them (contract 1.6), over the kernel.

Invariants: a user sees his own contents and the shared ones, changes and deletes his own alone; the owner check and the
write are one atomic step; None never clears a column, and so never shares what somebody owns; a failed read raises.
"""

from __future__ import annotations

from typing import Any

from agno.db.schemas.knowledge import KnowledgeRow

from agno_docstores.codec import NULL, Json
from agno_docstores.domains.listing import equal, label, order_of, page_and_total, plain, touched_at
from agno_docstores.domains.owned import owner, remove
from agno_docstores.kernel import Kernel, Query
from agno_docstores.keys import check_id, text_of
from agno_docstores.port import Condition, Expect, FieldValue, In, Put, Ref, Stored
from agno_docstores.schema import KNOWLEDGE

COLUMNS = tuple(KnowledgeRow.model_fields)
SHARED = ""  # the field `owner` of what nobody owns
NATURAL = "created_at"  # the order of a listing that asks for none


def to_row(stored: Stored) -> KnowledgeRow:
    """The row that a record stands for. Fresh objects each time."""
    body = {name: part.value() for name, part in (stored.body or {}).items()}
    values: dict[str, Any] = {**stored.fields, **body, "id": stored.ref.id}
    return KnowledgeRow.model_validate({name: values.get(name) for name in COLUMNS})


class Knowledge:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    async def get_knowledge_content(self, id: str, user_id: str | None = None) -> KnowledgeRow | None:
        """Read one content; None if it does not exist or is another user's than `user_id`. What is shared is
        everybody's. Linearizable. 1 request. Raises on a failed read."""
        stored = await self.kernel.get(Ref(KNOWLEDGE.name, check_id("id", id)))
        if stored is None or (user_id is not None and stored.fields.get("user_id") not in (None, text_of(user_id))):
            return None
        return to_row(stored)

    async def get_knowledge_contents(
        self,
        limit: int | None = None,
        page: int | None = None,
        sort_by: str | None = None,
        sort_order: str | None = None,
        linked_to: str | None = None,
        user_id: str | None = None,
    ) -> tuple[list[KnowledgeRow], int]:
        """A page of contents, and how many match in all; with a user, his own and the shared ones.

        Sorted by `created_at`, which is the order of a listing that asks for none, a page costs its own entries (1 to 3
        requests, twice that with a user); so by `updated_at`, but for DynamoDB. By another column: the headers of all
        that match, or the contents themselves where the column is not in those. Eventually consistent on DynamoDB.
        """
        where: list[Condition] = equal(linked_to=linked_to)
        if user_id is not None:
            where.append(In("owner", (SHARED, str(label("user_id", user_id)))))
        sort, descending = order_of(sort_by, sort_order, COLUMNS, "id", (NATURAL, False))
        query = Query(KNOWLEDGE, tuple(where), sort, descending)
        found, total = await page_and_total(self.kernel, query, NATURAL, limit, page)
        return [to_row(stored) for stored in found], total

    async def upsert_knowledge_content(self, knowledge_row: KnowledgeRow) -> KnowledgeRow | None:
        """Insert a content, or write the columns that are not None over those stored; the row as handed in.

        Times are the caller's. A row with a user that is stored as another's, or as shared, raises `ValueError`; a row
        without one may change any, and leaves it whose it is. 2 requests.
        """
        given = KnowledgeRow.model_validate(knowledge_row.model_dump())
        ref = Ref(KNOWLEDGE.name, check_id("id", given.id))
        user_id = owner(given.user_id)
        values = {name: plain(getattr(given, name)) for name in COLUMNS}
        fields: dict[str, FieldValue] = {name: values[name] for name in COLUMNS if name in KNOWLEDGE.fields}
        fields.update(user_id=user_id, linked_to=label("linked_to", given.linked_to))
        body = {name: Json.of(values[name], name) for name in KNOWLEDGE.body}

        async def attempt(fresh: bool) -> None:
            stored = await self.kernel.get(ref)
            if stored is not None and user_id is not None and stored.fields.get("user_id") != user_id:
                raise ValueError(f"Knowledge content {ref.id} not found")
            before = stored.fields if stored is not None else {}
            merged = {name: before.get(name) if value is None else value for name, value in fields.items()}
            merged["owner"] = merged["user_id"] if merged["user_id"] is not None else SHARED
            merged["touched_at"] = touched_at(merged)
            parts = {**(stored.body or {} if stored is not None else {}), **_given(body)}
            if stored is None:
                await self.kernel.commit([Put(ref, merged, parts, Expect.ABSENT)])
            else:
                await self.kernel.commit([Put(ref, merged, parts, stored.rev, stored.expires_at)])

        await self.kernel.transact(f"upsert of knowledge content {ref.id!r}", attempt)
        return knowledge_row

    async def delete_knowledge_content(self, id: str, user_id: str | None = None) -> None:
        """Delete one content, if it is there and, with a user, strictly his: what is shared stays. 2 requests."""
        await remove(self.kernel, KNOWLEDGE, [check_id("id", id)], user_id)


def _given(body: dict[str, Json]) -> dict[str, Json]:
    return {name: part for name, part in body.items() if part != NULL}

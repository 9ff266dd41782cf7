"""Learnings: what Agno's learning stores keep of users, sessions, entities and decisions (contract 1.9).

Invariants: who owns a learning, what it is of and when it was made never change; the owner check and the write are one
atomic step; a write for one user never changes what is another's, and a write for none never strips an owner;
every filter given is applied; a search that fails raises. What the contract has these methods swallow is logged with
the ids, so that a refusal can be seen.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from agno.db.utils import learning_search_patterns
from agno.learn.utils import IDENTITY_KEYED_LEARNING_TYPES, build_learning_id

from agno_docstores.codec import NULL, Json
from agno_docstores.domains.listing import (
    ascending,
    equal,
    label,
    order_of,
    page_and_total,
    page_of,
    stretch,
    text,
)
from agno_docstores.domains.owned import owner, raise_for
from agno_docstores.errors import Conflict, DocstoreError
from agno_docstores.kernel import Kernel, Query
from agno_docstores.keys import check_id
from agno_docstores.port import Delete, Eq, Expect, FieldValue, In, NotIn, Put, Ref, Stored
from agno_docstores.schema import LEARNINGS

log = logging.getLogger("agno_docstores")

Row = dict[str, Any]

#: The columns of text: what a learning is of, as first stored.
COLUMNS = (
    "learning_type",
    "namespace",
    "user_id",
    "agent_id",
    "team_id",
    "workflow_id",
    "session_id",
    "entity_id",
    "entity_type",
)
SORTABLE = (*COLUMNS, "content", "metadata", "created_at", "updated_at")
NATURAL = "touched_at"  # downwards: the order of a listing that asks for none
REMOVED_AT_ONCE = 25  # learnings of a user, while all of them are deleted


def to_row(stored: Stored) -> Row:
    """The row of `agno_learnings` that a record stands for. Fresh objects each time."""
    fields, body = stored.fields, stored.body or {}
    return {
        "learning_id": stored.ref.id,
        **{name: fields.get(name) for name in COLUMNS},
        "content": _content(stored),
        "metadata": body.get("metadata", NULL).value(),
        "created_at": fields.get("created_at"),
        "updated_at": fields.get("updated_at"),
    }


class Learnings:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    # --- Reading ----------------------------------------------------------------------------------------------------

    async def get_learning(
        self,
        learning_type: str,
        user_id: str | None = None,
        agent_id: str | None = None,
        team_id: str | None = None,
        session_id: str | None = None,
        namespace: str | None = None,
        entity_id: str | None = None,
        entity_type: str | None = None,
        workflow_id: str | None = None,
    ) -> Row | None:
        """`{"content": ...}` of a learning that matches all filters, None if there is none.

        Agno's stores derive the ids of their records from these arguments: such a record is read by its id, which is
        linearizable, so that what was just saved is in the next prompt. 1 request. Else the one changed last, by an
        index: 1 or 2 more, eventually consistent on DynamoDB. A failed read is logged and answered with None.
        """
        given = {
            "user_id": user_id,
            "session_id": session_id,
            "entity_id": entity_id,
            "entity_type": entity_type,
            "namespace": namespace,
        }
        query = _query(
            {
                "learning_type": learning_type,
                "agent_id": agent_id,
                "team_id": team_id,
                "workflow_id": workflow_id,
                **given,
            }
        )
        if query is None:
            return None
        # A decision of a company is its own entity; no other type without an id of its making is read one by one.
        id = build_learning_id(learning_type, **given) or entity_id
        try:
            found = await self._read(str(id)) if id else None
            if found is None or not query.matches(found):
                found = next(iter(await self.kernel.page(query, limit=1)), None)
        except DocstoreError as error:
            log.warning("the %s learning of %s could not be read: %s", learning_type, _named(given), error)
            return None
        return None if found is None else {"content": _content(found)}

    async def get_learnings(
        self,
        learning_type: str | None = None,
        user_id: str | None = None,
        agent_id: str | None = None,
        team_id: str | None = None,
        session_id: str | None = None,
        namespace: str | None = None,
        entity_id: str | None = None,
        entity_type: str | None = None,
        limit: int | None = None,
        workflow_id: str | None = None,
    ) -> list[Row]:
        """The learnings that match all filters, whole rows, changed last first.

        1 or 2 requests for a page of an index; with several filters, the entries that match the most selective one.
        Eventually consistent on DynamoDB. A failed read is logged and answered with an empty list.
        """
        given = {
            "learning_type": learning_type,
            "user_id": user_id,
            "agent_id": agent_id,
            "team_id": team_id,
            "workflow_id": workflow_id,
            "session_id": session_id,
            "namespace": namespace,
            "entity_id": entity_id,
            "entity_type": entity_type,
        }
        query = _query(given)
        try:
            return await self._rows(query, limit)
        except DocstoreError as error:
            log.warning("learnings of %s could not be read: %s", _named(given), error)
            return []

    async def search_learnings(
        self,
        query: str,
        learning_type: str | None = None,
        user_id: str | None = None,
        agent_id: str | None = None,
        team_id: str | None = None,
        workflow_id: str | None = None,
        session_id: str | None = None,
        namespace: str | None = None,
        entity_id: str | None = None,
        entity_type: str | None = None,
        limit: int | None = None,
    ) -> list[Row]:
        """The learnings that match all filters and whose content holds the query, whole rows, changed last first.

        The query is looked for in the content's JSON text, as `json.dumps` spaces it and with every character as it is,
        so that `name": "Sarah Chen` finds a field; letters of either case are one, and a run of spaces, underscores and
        hyphens stands for any one character. A query of nothing but those finds nothing. Raises on a failed read.

        Contents are read newest first, 100 at a time, until there are `limit`: at worst all that match the filters.
        """
        holds = text_matcher(text("query", query))
        if holds is None:
            return []
        found = _query(
            {
                "learning_type": learning_type,
                "user_id": user_id,
                "agent_id": agent_id,
                "team_id": team_id,
                "workflow_id": workflow_id,
                "session_id": session_id,
                "namespace": namespace,
                "entity_id": entity_id,
                "entity_type": entity_type,
            },
            test=lambda learning: holds(_content(learning)),
        )
        return await self._rows(found, limit)

    async def get_learning_by_id(self, id: str) -> Row | None:
        """Read one learning, the whole row; None if there is none. Linearizable, 1 request. Raises on a failed read."""
        found = await self._read(id)
        return None if found is None else to_row(found)

    async def list_learnings(
        self,
        learning_type: str | None = None,
        user_id: str | None = None,
        agent_id: str | None = None,
        team_id: str | None = None,
        session_id: str | None = None,
        namespace: str | None = None,
        entity_id: str | None = None,
        entity_type: str | None = None,
        include_global: bool = False,
        limit: int = 100,
        page: int = 1,
        sort_by: str | None = None,
        sort_order: str | None = None,
    ) -> tuple[list[Row], int]:
        """A page of the learnings that match all filters, whole rows, and how many match in all.

        `include_global` adds to a user's learnings those that nobody owns. Sorted by `updated_at` (the default, and
        where `sort_by` names no column), a page costs its own entries and the count, 2 or 3 requests, twice that with
        `include_global`; by another column, or with several filters, the headers of all that match the most selective
        filter, and by content or metadata these learnings themselves.
        Eventually consistent on DynamoDB. Raises on a failed read, and `ValueError` for a page below 1.
        """
        query = _query(
            {
                "learning_type": learning_type,
                "user_id": user_id,
                "agent_id": agent_id,
                "team_id": team_id,
                "session_id": session_id,
                "namespace": namespace,
                "entity_id": entity_id,
                "entity_type": entity_type,
            },
            include_global=include_global,
            order=order_of(sort_by or "updated_at", sort_order, SORTABLE, "learning_id", (NATURAL, True)),
        )
        if query is None:
            return [], 0
        records, total = await page_and_total(self.kernel, query, NATURAL, limit, page)
        return [to_row(record) for record in records], total

    async def get_learnings_user_stats(
        self,
        learning_type: str | None = None,
        limit: int | None = None,
        page: int | None = None,
        user_id: str | None = None,
        sort_by: str | None = None,
        sort_order: str | None = None,
    ) -> tuple[list[Row], int]:
        """A page of the users that own learnings, `{"user_id", "last_learning_updated_at"}` (epoch seconds), and how
        many there are in all.

        Sorted by `last_learning_updated_at` (the default) or `user_id`. Of one user: 1 request; of all, the
        headers of every learning of the type, or of every learning. Eventually consistent on DynamoDB. Raises on a
        failed read.
        """
        start, end = stretch(limit, page)
        query = _query({"learning_type": learning_type, "user_id": user_id})
        if query is None:
            return [], 0
        if user_id is None:
            query = replace(query, where=(*query.where, NotIn("owner", ("",))))
        headers = await self.kernel.page(query, limit=None if user_id is None else 1, body=False)
        last: dict[str, Any] = {}
        for header in headers:  # newest first
            last.setdefault(str(header.fields["owner"]), header.fields.get("touched_at"))
        by_user = sort_by == "user_id"
        order = sorted(
            last, key=lambda user: user if by_user else (last[user], user), reverse=not ascending(sort_order)
        )
        return [{"user_id": user, "last_learning_updated_at": last[user]} for user in order[start:end]], len(order)

    async def _rows(self, query: Query | None, limit: int | None) -> list[Row]:
        if query is None:
            return []
        return [to_row(record) for record in await page_of(self.kernel, query, NATURAL, limit, None)]

    async def _read(self, id: str) -> Stored | None:
        ref = Ref(LEARNINGS.name, check_id("id", id))
        found = await self.kernel.get(ref)
        self._note(ref, found)
        return found

    def _note(self, ref: Ref, record: Stored | None) -> None:
        """Remember what the next write needs to know; it replaces the body, which is not kept."""
        self.kernel.recent.note(ref, None if record is None else replace(record, body={}))

    # --- Writing ----------------------------------------------------------------------------------------------------

    async def upsert_learning(
        self,
        id: str,
        learning_type: str,
        content: Row,
        user_id: str | None = None,
        agent_id: str | None = None,
        team_id: str | None = None,
        session_id: str | None = None,
        namespace: str | None = None,
        entity_id: str | None = None,
        entity_type: str | None = None,
        metadata: Row | None = None,
    ) -> None:
        """Store a learning. Of one that is there, content and metadata are replaced (None clears) and `updated_at`
        moves; the rest stays as first stored.

        Another user's learning is left alone; so is everything if the content cannot be stored, or the store fails:
        each with a warning in the log that names the ids, as the contract has this method raise nothing of the kind.
        Raises `InvalidIdError` alone. 1 request if this handle has read or written the learning before, else 2.
        """
        check_id("id", id)
        columns = {
            "learning_type": check_id("learning_type", label("learning_type", learning_type)),
            "namespace": label("namespace", namespace),
            "user_id": owner(user_id),
            "agent_id": label("agent_id", agent_id),
            "team_id": label("team_id", team_id),
            "session_id": label("session_id", session_id),
            "entity_id": label("entity_id", entity_id),
            "entity_type": label("entity_type", entity_type),
        }

        def over(stored: Stored | None) -> dict[str, FieldValue] | None:
            if stored is None:
                now = self.kernel.now()
                fields = dict.fromkeys(LEARNINGS.fields)
                return {**fields, **columns, "owner": columns["user_id"] or "", "created_at": now, **_touched(now)}
            if columns["user_id"] is not None and stored.fields.get("user_id") not in (None, columns["user_id"]):
                return None
            return {**stored.fields, **_touched(self.kernel.now())}

        try:
            if not await self._replace(id, content, metadata, over):
                log.warning("learning %r was not saved: it belongs to another user than %r", id, columns["user_id"])
        except DocstoreError as error:
            log.warning("learning %r of %s was not saved: %s", id, _named(columns), error)

    async def update_learning(self, id: str, content: Row, metadata: Row | None = None) -> bool:
        """Replace content and metadata (None clears) of a learning that is there; False if there is none.

        1 request if this handle has read or written it before, else 2. Raises `UnserializableValueError`,
        `PayloadTooLargeError` and what the store fails with; nothing is written then.
        """
        check_id("id", id)

        def over(stored: Stored | None) -> dict[str, FieldValue] | None:
            return None if stored is None else {**stored.fields, **_touched(self.kernel.now())}

        return await self._replace(id, content, metadata, over)

    async def _replace(
        self,
        id: str,
        content: Any,
        metadata: Any,
        over: Callable[[Stored | None], dict[str, FieldValue] | None],
    ) -> bool:
        """Write a body with the fields that `over` makes of what is stored, under the condition that this has not
        changed; False, and nothing written, if it makes none."""
        ref = Ref(LEARNINGS.name, id)
        body = {"content": Json.of(content, "content"), "metadata": Json.of(metadata, "metadata")}

        async def attempt(fresh: bool) -> bool:
            known = None if fresh else self.kernel.recent.get(ref)
            current = known if isinstance(known, Stored) else None
            fields = None if known is None else over(current)
            if fields is None:  # nothing is known, or it is to be refused, which what is remembered cannot decide
                current = await self.kernel.get(ref)
                fields = over(current)
            if fields is None:
                return False
            expect, expires_at = (Expect.ABSENT, None) if current is None else (current.rev, current.expires_at)
            try:
                (rev,) = await self.kernel.commit([Put(ref, fields, body, expect, expires_at)])
            except Conflict:
                self.kernel.recent.forget(ref)
                raise
            assert rev is not None
            self._note(ref, Stored(ref, rev, fields, None, expires_at))
            return True

        return await self.kernel.transact(f"write of learning {id!r}", attempt)

    # --- Removal ----------------------------------------------------------------------------------------------------

    async def delete_learning(self, id: str) -> bool:
        """Delete a learning; True if there was one. 2 requests. A failure is logged and answered with False."""
        ref = Ref(LEARNINGS.name, check_id("id", id))
        try:
            return await self._remove(ref, await self.kernel.get(ref), lambda learning: True)
        except DocstoreError as error:
            log.warning("learning %r could not be deleted: %s", id, error)
            return False

    async def delete_user_learnings(self, user_id: str, learning_type: str | None = None) -> int:
        """Delete all learnings that a user owns, or those of one type; how many they were. Those of nobody stay.

        Each is deleted under the condition that it is still this user's. If some cannot be deleted the others are
        all the same, and a failure is raised with a note of the ids left; repeating the call goes on. 1 request for
        the headers of the user's learnings, 1 for each 25 of them, and 1 for each. On DynamoDB the list is eventually
        consistent; the user's profile and memories, whose ids are known, are not missed for that.
        """
        user = check_id("user_id", owner(user_id))
        query = _query({"user_id": user, "learning_type": learning_type})
        assert query is not None
        ids = [header.ref.id for header in await self.kernel.page(query, body=False)]
        ids += [id for kind in sorted(IDENTITY_KEYED_LEARNING_TYPES) if (id := build_learning_id(kind, user_id=user))]
        refs = [Ref(LEARNINGS.name, id) for id in dict.fromkeys(ids)]

        errors: dict[str, Exception] = {}

        async def remove(record: Stored) -> bool:
            try:
                return await self._remove(record.ref, record, query.matches)
            except DocstoreError as error:
                errors[record.ref.id] = error
                return False

        removed: list[bool] = []
        for start in range(0, len(refs), REMOVED_AT_ONCE):
            records = await self.kernel.get_many(refs[start : start + REMOVED_AT_ONCE])
            removed += await self.kernel.io.gather(*(remove(record) for record in records if record is not None))
        raise_for(errors, "deleted")
        return removed.count(True)

    async def _remove(self, ref: Ref, record: Stored | None, belongs: Callable[[Stored], bool]) -> bool:
        """Delete a record as just read, if it belongs there; if it has changed meanwhile it is looked at again."""

        async def attempt(fresh: bool) -> bool:
            current = await self.kernel.get(ref) if fresh else record
            if current is None or not belongs(current):
                return False
            self.kernel.recent.forget(ref)
            await self.kernel.commit([Delete(ref, current.rev)])
            return True

        return await self.kernel.transact(f"deletion of learning {ref.id!r}", attempt)


# --- Text -------------------------------------------------------------------------------------------------------------


def text_matcher(query: str) -> Callable[[Any], bool] | None:
    """A test of whether the JSON text of a content holds a query; None for a query that can match nothing.

    Agno's patterns say what the query's separators cross. They are taken of the query as it is, which finds what spans
    JSON's own quotes, and of the query as JSON writes it within a text, which finds quotes and line breaks that were
    said. Agno's own pattern for the latter has wildcards for letters beyond ASCII, because SqliteDb stores those
    escaped; where they are read as they are, it would only bring what does not match.
    """
    stripped = query.strip()
    as_is = learning_search_patterns(stripped)[:1]
    if not as_is or not as_is[0].strip("%_"):
        return None
    within_text = learning_search_patterns(json.dumps(stripped, ensure_ascii=False)[1:-1])[:1]
    tests = [_like(pattern) for pattern in dict.fromkeys(as_is + within_text)]

    def holds(content: Any) -> bool:
        text = json.dumps(content, ensure_ascii=False).casefold()
        return any(test(text) for test in tests)

    return holds


def _like(pattern: str) -> Callable[[str], Any]:
    r"""The search for an SQL pattern `%...%`: `_` is any one character, `\` makes the next one stand for itself.

    What comes of it are literal characters and single wildcards only, so that a search takes no more steps than the
    pattern is long times the text, whatever they are.
    """
    literal = re.compile(r"\\(?P<escaped>.)|(?P<wildcard>_)|(?P<plain>[^\\_]+)", re.DOTALL)

    def expression(part: re.Match[str]) -> str:
        return "." if part["wildcard"] else re.escape((part["escaped"] or part["plain"]).casefold())

    return re.compile(literal.sub(expression, pattern[1:-1]), re.DOTALL).search


# --- Rows and conditions ----------------------------------------------------------------------------------------------


def _query(
    filters: Mapping[str, str | None],
    *,
    include_global: bool = False,
    order: tuple[str, bool] = (NATURAL, True),
    test: Callable[[Stored], bool] | None = None,
) -> Query | None:
    """The query of these filters, None where nothing can match. None as a value is no filter."""
    user_id = label("user_id", filters.get("user_id"))
    where = equal(**{name: value for name, value in filters.items() if name != "user_id"})
    if user_id == "" and not include_global:
        return None  # nobody is called so
    if user_id is not None:
        where.append(In("owner", ("", user_id)) if include_global else Eq("owner", user_id))
    sort, descending = order
    return Query(LEARNINGS, tuple(where), sort, descending, test=test)


def _content(stored: Stored) -> Any:
    return (stored.body or {}).get("content", NULL).value()


def _touched(now: int) -> dict[str, FieldValue]:
    return {"updated_at": now, "touched_at": now}


def _named(columns: Mapping[str, str | None]) -> str:
    """The ids among some columns, for a log."""
    return ", ".join(f"{name} {value!r}" for name, value in columns.items() if value is not None) or "all"

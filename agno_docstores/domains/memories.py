"""User memories: what `BaseDb` says of them (contract 1.4), over the kernel.

Invariants: a memory's owner and place in the order of insertion are those of its first write; the owner check and the
write are one atomic step; a write replaces all columns that it may, including with None; text is searched as text, and
topics are compared as wholes; a failed read raises.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from agno.db.schemas.memory import UserMemory
from agno.utils.dttm import to_epoch_s

from agno_docstores.codec import NULL, Json
from agno_docstores.domains.listing import (
    equal,
    label,
    order_of,
    page_and_total,
    page_of,
    stretch,
    text,
    touched_at,
)
from agno_docstores.domains.owned import belongs_to, owner, raise_for, remove
from agno_docstores.errors import Conflict, DocstoreError, OwnershipError
from agno_docstores.kernel import Kernel, Query
from agno_docstores.keys import check_id
from agno_docstores.port import Condition, Expect, FieldValue, Has, Put, Ref, Rev, Stored
from agno_docstores.schema import MEMORIES

log = logging.getLogger("agno_docstores")

Row = dict[str, Any]

#: The columns of `agno_memories`, in its order.
COLUMNS = (
    "memory_id",
    "memory",
    "input",
    "agent_id",
    "team_id",
    "user_id",
    "topics",
    "feedback",
    "created_at",
    "updated_at",
)
NATURAL = "inserted_at"  # the order of a listing that asks for none


@dataclass(frozen=True, slots=True)
class Incoming:
    """A memory as handed in, checked and in canonical form."""

    memory_id: str
    new: bool  # the id was made just now
    user_id: str | None
    fields: dict[str, FieldValue]  # those that every write replaces
    body: dict[str, Json]
    created_at: int
    inserted_at: int
    on_insert: int | None  # `updated_at` of a new memory
    on_update: int | None  # and of one that is there

    def over(self, stored: Stored | None) -> Put:
        """The write that makes it so, if the record is still as it was read. Raises `OwnershipError`."""
        ref = Ref(MEMORIES.name, self.memory_id)
        fixed: dict[str, FieldValue] = {
            "user_id": self.user_id,
            "created_at": self.created_at,
            "inserted_at": self.inserted_at,
        }
        if stored is not None:
            fixed = {name: stored.fields.get(name) for name in fixed}
            if fixed["user_id"] is not None and self.user_id not in (None, fixed["user_id"]):
                raise OwnershipError("memory", self.memory_id, self.user_id)
        fields = {**self.fields, **fixed, "updated_at": self.on_insert if stored is None else self.on_update}
        fields["touched_at"] = touched_at(fields)
        if stored is None:
            return Put(ref, fields, self.body, Expect.ABSENT)
        return Put(ref, fields, self.body, stored.rev, stored.expires_at)


def to_row(stored: Stored) -> Row:
    """The row of `agno_memories` that a record stands for. Fresh objects each time."""
    fields, body = stored.fields, stored.body or {}
    topics = fields.get("topics")
    values: Row = {
        "memory_id": stored.ref.id,
        **fields,
        **{name: body.get(name, NULL).value() for name in ("memory", "input", "feedback")},
        "topics": list(topics) if isinstance(topics, tuple) else None,
    }
    if "topics_as_given" in body:
        values["topics"] = body["topics_as_given"].value()
    return {name: values.get(name) for name in COLUMNS}


class Memories:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._inserted_last = 0

    # --- Writing ----------------------------------------------------------------------------------------------------

    async def upsert_user_memory(self, memory: UserMemory, deserialize: bool | None = True) -> UserMemory | Row | None:
        """Insert a memory, or replace what is there under its id: the memory as stored.

        Without an id it gets one, which is assigned to the object. The stored owner and `created_at` stay. Raises
        `OwnershipError` if the memory is another user's; a write without user may change any, and leaves it whose it
        is. `updated_at` is now, of a new memory its `created_at` (epoch s). 2 requests, 1 without an id.
        """
        incoming = await self._checked(memory)
        return _answer(await self._upsert(incoming, None, known=incoming.new), deserialize)

    async def upsert_memories(
        self, memories: list[UserMemory], deserialize: bool | None = True, preserve_updated_at: bool = False
    ) -> list[UserMemory | Row]:
        """`upsert_user_memory` for several: the memories as stored, in the order given, each id once.

        `updated_at` is now, or with `preserve_updated_at` that of each memory. All are checked before the first is
        written. One that is another user's is left as it is: it is missing in the result, and logged by its ids. If one
        cannot be stored for another reason, that is raised when all have been tried, with a note of the ids concerned.
        1 read of all; new memories are inserted in batches, others cost 1 request each.
        """
        checked = [await self._checked(memory, bulk=True, preserve=preserve_updated_at) for memory in memories]
        first: dict[str, Incoming] = {}
        again: list[Incoming] = []  # the same id once more
        for incoming in checked:
            if first.setdefault(incoming.memory_id, incoming) is not incoming:
                again.append(incoming)
        found = await self.kernel.get_many([Ref(MEMORIES.name, id) for id in first])
        there = {record.ref.id: record for record in found if record is not None}
        inserts = {id: incoming.over(None) for id, incoming in first.items() if id not in there}
        refused = {f.write.ref.id: f.error for f in await self.kernel.write_many(inserts.values())}
        outcomes: dict[str, Stored | Exception] = {
            id: refused.get(id) or Stored(put.ref, Rev(""), dict(put.fields), dict(put.body))
            for id, put in inserts.items()
        }
        # Somebody else inserted it meanwhile, or it was there before.
        others = [id for id in first if id in there or isinstance(outcomes[id], Conflict)]
        updates = (self._tried(first[id], there.get(id), known=id in there) for id in others)
        outcomes.update(zip(others, await self.kernel.io.gather(*updates), strict=True))
        for incoming in again:
            outcome = await self._tried(incoming, None, known=False)
            if not isinstance(outcome, OwnershipError) or not isinstance(outcomes[incoming.memory_id], Stored):
                outcomes[incoming.memory_id] = outcome
        raise_for(
            {
                id: outcome
                for id, outcome in outcomes.items()
                if isinstance(outcome, Exception) and not isinstance(outcome, OwnershipError)
            },
            "stored",
        )
        kept = [outcome for outcome in map(outcomes.get, first) if isinstance(outcome, Stored)]
        return [_answer(stored, deserialize) for stored in kept]

    async def _checked(self, memory: UserMemory, *, bulk: bool = False, preserve: bool = False) -> Incoming:
        if not isinstance(memory, UserMemory):
            raise TypeError(f"expected a UserMemory, not {type(memory).__name__}")
        user_id = owner(memory.user_id)
        topics = Json.of(memory.topics, "topics").value()
        texts = topics is None or (isinstance(topics, list) and all(isinstance(topic, str) for topic in topics))
        given = topics if isinstance(topics, list) else ()
        fields: dict[str, FieldValue] = {
            "agent_id": label("agent_id", memory.agent_id),
            "team_id": label("team_id", memory.team_id),
            "topics": None if topics is None else tuple(topic for topic in given if isinstance(topic, str)),
        }
        body = {name: Json.of(getattr(memory, name), name) for name in ("memory", "input", "feedback")}
        if not texts:
            body["topics_as_given"] = Json.of(topics, "topics")
        now = self.kernel.now()
        created_at = now if memory.created_at is None else to_epoch_s(memory.created_at)
        updated_at = None if memory.updated_at is None else to_epoch_s(memory.updated_at)
        new = memory.memory_id is None
        if new:
            memory.memory_id = str(uuid4())
        return Incoming(
            check_id("memory_id", memory.memory_id),
            new,
            user_id,
            fields,
            body,
            created_at,
            await self._next_place(),
            on_insert=updated_at if preserve else now if bulk else created_at,
            on_update=updated_at if preserve else now,
        )

    async def _next_place(self) -> int:
        """The time in microseconds, or just behind the last one given out."""
        async with self.kernel.io.lock("memories"):
            self._inserted_last = max(int(self.kernel.io.now() * 1_000_000), self._inserted_last + 1)
            return self._inserted_last

    async def _upsert(self, incoming: Incoming, stored: Stored | None, *, known: bool) -> Stored:
        """Write over `stored` if what is there is known, else over what a read finds."""

        async def attempt(fresh: bool) -> Stored:
            ref = Ref(MEMORIES.name, incoming.memory_id)
            put = incoming.over(stored if known and not fresh else await self.kernel.get(ref))
            (rev,) = await self.kernel.commit([put])
            assert rev is not None
            return Stored(ref, rev, dict(put.fields), dict(put.body), put.expires_at)

        return await self.kernel.transact(f"upsert of memory {incoming.memory_id!r}", attempt)

    async def _tried(self, incoming: Incoming, stored: Stored | None, *, known: bool) -> Stored | Exception:
        """The same as one of several: what went wrong is the result, and a refusal is logged."""
        try:
            return await self._upsert(incoming, stored, known=known)
        except OwnershipError as error:
            log.warning("%s and was not changed", error)
            return error
        except DocstoreError as error:
            return error

    # --- Reading ----------------------------------------------------------------------------------------------------

    async def get_user_memory(
        self, memory_id: str, deserialize: bool | None = True, user_id: str | None = None
    ) -> UserMemory | Row | None:
        """Read one memory; None if it does not exist or is not `user_id`'s. Linearizable. 1 request. Raises on a failed
        read."""
        stored = await self.kernel.get(Ref(MEMORIES.name, check_id("memory_id", memory_id)))
        return _answer(stored, deserialize) if stored is not None and belongs_to(stored, user_id) else None

    async def get_user_memories(
        self,
        user_id: str | None = None,
        agent_id: str | None = None,
        team_id: str | None = None,
        topics: list[str] | None = None,
        search_content: str | None = None,
        limit: int | None = None,
        page: int | None = None,
        sort_by: str | None = None,
        sort_order: str | None = None,
        deserialize: bool | None = True,
    ) -> list[UserMemory] | tuple[list[Row], int]:
        """List memories; all filters apply. Without `deserialize`: rows, and how many match in all.

        `topics`: all of them are among the memory's. `search_content`: a substring of the memory's text, compared
        without case. Order: of insertion, or by any column. Sorted by `updated_at` or not at all, a page costs its own
        entries (1 to 3 requests); by another column, the headers of all that match; a search reads the memories of all
        that the other filters leave. Eventually consistent on DynamoDB.
        """
        where: list[Condition] = equal(user_id=user_id, agent_id=agent_id, team_id=team_id)
        where += [Has("topics", str(topic)) for topic in topics or ()]
        sort, descending = order_of(sort_by, sort_order, COLUMNS, "memory_id", (NATURAL, False))
        test = _containing(text("search_content", search_content)) if search_content else None
        query = Query(MEMORIES, tuple(where), sort, descending, test=test)
        if deserialize:
            return [UserMemory.from_dict(to_row(m)) for m in await page_of(self.kernel, query, NATURAL, limit, page)]
        found, total = await page_and_total(self.kernel, query, NATURAL, limit, page)
        return [to_row(memory) for memory in found], total

    async def get_user_memory_stats(
        self, limit: int | None = None, page: int | None = None, user_id: str | None = None
    ) -> tuple[list[Row], int]:
        """For each user, the number of his memories and when the last of them changed (epoch s), the latest first; and
        the number of users. What nobody owns is not counted. Costs the headers of all memories, or of the user's."""
        offset, end = stretch(limit, page)
        counts: dict[str, int] = {}
        latest: dict[str, FieldValue] = {}
        for memory in await self._headers(user_id, Query(MEMORIES, sort="touched_at", descending=True)):
            user = memory.fields.get("user_id")
            if isinstance(user, str):
                counts[user] = counts.get(user, 0) + 1
                latest.setdefault(user, memory.fields.get("touched_at"))
        rows: list[Row] = [
            {"user_id": user, "total_memories": count, "last_memory_updated_at": latest[user]}
            for user, count in counts.items()
        ]
        return rows[offset:end], len(rows)

    async def get_all_memory_topics(self, user_id: str | None = None) -> list[str]:
        """All topics of a user's memories, or of everybody's, each once. Costs the headers of those memories."""
        memories = await self._headers(user_id, Query(MEMORIES, sort=NATURAL))
        topics = (memory.fields.get("topics") for memory in memories)
        return list(dict.fromkeys(topic for several in topics if isinstance(several, tuple) for topic in several))

    async def _headers(self, user_id: str | None, query: Query) -> list[Stored]:
        return await self.kernel.page(replace(query, where=tuple(equal(user_id=user_id))), body=False)

    # --- Removal ----------------------------------------------------------------------------------------------------

    async def delete_user_memory(self, memory_id: str, user_id: str | None = None) -> None:
        """Delete one memory, if it is there and `user_id`'s. 2 requests."""
        await self.delete_user_memories([memory_id], user_id)

    async def delete_user_memories(self, memory_ids: list[str], user_id: str | None = None) -> None:
        """Delete those of these memories that are there and `user_id`'s. 1 read of all; then batches, or with a user 1
        request each. A failure raises when all have been tried; repeating the call goes on."""
        await remove(self.kernel, MEMORIES, [check_id("memory_id", id) for id in memory_ids], user_id)

    async def clear_memories(self) -> None:
        """Delete every memory of everybody. Headers are read, and deleted in batches. Raises if one cannot be deleted;
        repeating the call goes on. On DynamoDB, a memory saved in the last moments may not be seen, and stay."""
        memories = await self.kernel.page(Query(MEMORIES), body=False)
        failed = await self.kernel.remove(memories)
        raise_for({failure.write.ref.id: failure.error for failure in failed}, "removed")


def _answer(stored: Stored, deserialize: bool | None) -> UserMemory | Row:
    row = to_row(stored)
    return UserMemory.from_dict(row) if deserialize else row


def _containing(text: str) -> Callable[[Stored], bool]:
    """Whether a memory's text contains this one, compared without case. What is no text is taken as its JSON."""
    wanted = text.casefold()

    def test(stored: Stored) -> bool:
        part = (stored.body or {}).get("memory", NULL)
        memory = part.value()
        return wanted in (memory if isinstance(memory, str) else part.text).casefold()

    return test

"""The driver: the port's operations as DynamoDB requests. Layout and keys are `layout.py`'s, errors `translate.py`'s.

Guarantees and what they rest on:

- `get`, `get_many`, and scans of a strong index are strongly consistent reads of the base table and its local index.
  Global indexes are eventually consistent, and serve listings only; bodies are then read from the base table.
- A commit is one conditional write, or one transaction. What was applied although its reply was lost is recognised,
  also when the SDK itself sent it again: a single put by the token in the record, a transaction by its request token.
- The id of a child is unique over all parents by its claim, written in the same transaction. A claim without its
  child, or a child without its claim (the reaper takes them one by one), blocks nothing.
- `write_many` deletes the claims of children first, each only if it points to the very child; then the children.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any

from agno_docstores import keys
from agno_docstores.codec import LONG, LONG_PACKED, packed_size
from agno_docstores.errors import (
    Conflict,
    DocstoreError,
    PayloadTooLargeError,
    ProvisioningError,
    StorageMissingError,
    StoreError,
    StoreUnavailableError,
)
from agno_docstores.io import Io
from agno_docstores.port import (
    EVERYTHING,
    Condition,
    Contains,
    Delete,
    Driver,
    Eq,
    Expect,
    Failed,
    Fields,
    Has,
    In,
    Index,
    Kind,
    NotIn,
    Page,
    Put,
    Range,
    Ref,
    Rev,
    Span,
    Stored,
    Touch,
    Write,
    added,
    field_bytes,
    looks_at,
)
from agno_docstores_dynamo.connection import Connection
from agno_docstores_dynamo.layout import (
    ABOVE,
    ABOVE_NULL,
    BATCH_READS,
    BATCH_WRITES,
    BODY_BYTES,
    CHANGES,
    ITEM_BYTES,
    TRANSACTION_BYTES,
    TRANSACTION_ITEMS,
    Expressions,
    Item,
    Layout,
    Place,
    alias_key,
    is_table_name,
    item_bytes,
    key,
    mismatch,
    table_definition,
)
from agno_docstores_dynamo.translate import Cancelled, ConditionFailed, DeniedError, InUseError, OversizeError

log = logging.getLogger("agno_docstores")

READY_SECONDS = 120  # that a table being created is waited for
POLL = 0.5  # seconds between two looks at it
MOST_ASKED = 1000  # entries, where most may not match
UNPROCESSED_ATTEMPTS = 8  # of a batch of which DynamoDB leaves something over
LOOKS = 10  # at a record that keeps moving, and attempts of a write that expects nothing of it
BACKOFF = 0.05, 2.0  # seconds: of the first attempt, and at most (`Io.back_off`)
LISTING_SHARDS, COMPONENT_SHARDS = 2, 1  # unless something else is said
DONE = "done"  # a lane of a scan that has been read to its end, in a cursor

Address = tuple[str, str, str]  # of an item: table, pk, sk


@dataclass(slots=True)
class Before:
    """What a write takes the record to be: nothing (`place` None), or at a place, under a token where that is known."""

    place: Place | None = None
    token: str | None = None
    #: Without aliases, although its kind may have some.
    plain: bool = False
    #: Where a claim points that was found without its child, and so may be taken over.
    dangling: Place | None = None


@dataclass(slots=True)
class Step:
    """One item's change, in the words that single writes and transactions share."""

    write: int  # number of the write that it belongs to
    operation: str  # "Put", "Delete" or "Update"
    table: str
    params: dict[str, Any]
    claim: bool = False

    @property
    def bytes(self) -> int:
        return item_bytes(self.params["Item"]) if self.operation == "Put" else 200


@dataclass(slots=True)
class Lane:
    """One Query (or the table's Scan), read page by page; a scan of the port merges several."""

    operation: str
    params: dict[str, Any]
    words: Expressions
    by: str  # the attribute that gives the order
    keys: tuple[str, ...]  # the attributes that make a cursor
    condition: str | None = None
    inhabited: bool = True  # False: its bounds exclude everything
    picky: bool = False  # True: conditions may leave little of what it reads
    filters: list[str] = field(default_factory=list)
    projection: list[str] | None = None
    start: Item | None = None  # where the next request goes on
    after: Item | None = None  # the last item that was taken
    done: bool = False
    buffer: deque[Item] = field(default_factory=deque)

    def arguments(self) -> dict[str, Any]:
        """Of the next request."""
        projection = ", ".join(self.words.path(name) for name in self.projection) if self.projection else None
        expressions = self.words.arguments(
            KeyConditionExpression=self.condition,
            FilterExpression=" AND ".join(self.filters),
            ProjectionExpression=projection,
        )
        start = {"ExclusiveStartKey": self.start} if self.start is not None else {}
        return {**self.params, **expressions, **start}

    def take(self) -> Item:
        item = self.buffer.popleft()
        self.after = {name: item[name] for name in self.keys}
        return item

    @property
    def cursor(self) -> Any:
        if self.buffer:
            return self.after
        return DONE if self.done else self.start


class DynamoDriver(Driver):
    store = "dynamo"
    atomic = True
    implicit_tables = False
    item_bytes = BODY_BYTES
    optional_indexes = False  # they would bill every run again
    pushes = frozenset({Eq, Has, Range, NotIn, In, Contains})

    def __init__(
        self,
        io: Io,
        kinds: Mapping[str, Kind],
        tables: Mapping[str, str],
        connection: Connection,
        address: str,
        command: str,
        *,
        compress: bool = True,
        consistent_reads: bool = True,
        listing_shards: int = LISTING_SHARDS,
        component_shards: int = COMPONENT_SHARDS,
    ) -> None:
        super().__init__(io, kinds, tables)
        for name, shards in (("listing_shards", listing_shards), ("component_shards", component_shards)):
            if shards < 1:
                raise ValueError(f"{name} must be at least 1, not {shards}")
        for table in tables.values():
            if not is_table_name(table):
                raise ValueError(f"{table!r} is no DynamoDB table name (3 to 255 of a-z, A-Z, 0-9, '_', '-', '.')")
        self._connection = connection
        self._address = address
        self._command = command
        self._consistent = consistent_reads
        self._projections: dict[frozenset[str], dict[str, Any]] = {}
        self._layouts = {
            name: Layout(
                kind, tables[name], shards=listing_shards, compress=compress, component_shards=component_shards
            )
            for name, kind in kinds.items()
        }

    def stored_bytes(self, put: Put) -> int:
        compress = self._layouts[put.ref.kind].compress
        return packed_size(put.body, BODY_BYTES, compress=compress) + field_bytes(put.fields)

    def address(self) -> str:
        return self._address

    def create_command(self, kind: str) -> str:
        return self._command

    async def open(self) -> None:
        await self._connection.client()

    async def close(self) -> None:
        await self._connection.close()

    async def _call(self, operation: str, **params: Any) -> Any:
        # The client is asked for each time: the loop may be another one than at `open`.
        client = await self._connection.client()
        return await self.io(getattr(client, operation), op=operation, **params)

    # --- Tables -----------------------------------------------------------------------------------------------------

    async def ensure(self, kinds: Sequence[Kind]) -> None:
        """Create the tables of these kinds, or verify them, wait until they and their indexes are active (at most
        120 s each), and have expired items removed. Control-plane requests: 2 for a table that is there."""
        for table in dict.fromkeys(self.tables[kind.name] for kind in kinds):
            try:
                await self._expire(table, made=await self._ready_table(table))
            except DeniedError as error:
                raise ProvisioningError(table, self._command, f"cannot be created ({error.reason})") from error

    async def exists(self, table: str) -> bool:
        return is_table_name(table) and await self._describe(table) is not None

    async def drop(self) -> None:
        """Delete the tables and wait until they are gone (at most 120 s each). Control-plane requests: 3 or more for
        each. A table of another shape is left alone; of one of our shape, everything in it goes."""
        for table in dict.fromkeys(self.tables.values()):
            for _ in range(int(READY_SECONDS / POLL)):
                there = await self._describe(table)
                if there is None:
                    break
                if there["TableStatus"] != "DELETING":
                    reason = mismatch(there)
                    if reason is not None:
                        raise ProvisioningError(table, self._command, f"{reason}, so it is not deleted")
                    # In use: being created or changed just now. Missing: somebody was faster.
                    with suppress(InUseError, StorageMissingError):
                        await self._call("delete_table", TableName=table)
                        continue
                await self.io.sleep(POLL)
            else:
                raise ProvisioningError(table, self._command, f"is not gone after {READY_SECONDS} s")

    async def _describe(self, table: str) -> dict[str, Any] | None:
        try:
            return (await self._call("describe_table", TableName=table))["Table"]  # type: ignore[no-any-return]
        except StorageMissingError:
            return None

    async def _ready_table(self, table: str) -> bool:
        """Wait for a table that is ours and ready, made if need be; whether it was made here."""
        made = False
        for _ in range(int(READY_SECONDS / POLL)):
            there = await self._describe(table)
            if there is None:
                with suppress(InUseError):  # somebody was faster
                    there = (await self._call("create_table", **table_definition(table)))["TableDescription"]
                    made = True
            if there is not None and there["TableStatus"] != "DELETING":
                reason = mismatch(there)
                if reason is not None:
                    raise ProvisioningError(table, self._command, reason)
                states = [there["TableStatus"], *(i["IndexStatus"] for i in there.get("GlobalSecondaryIndexes") or ())]
                if all(state in ("ACTIVE", "UPDATING") for state in states):
                    return made
            await self.io.sleep(POLL if there is not None else 0.05)
        raise ProvisioningError(table, self._command, f"is not ready after {READY_SECONDS} s")

    async def _expire(self, table: str, *, made: bool) -> None:
        """Have DynamoDB remove what has expired. Readers leave it out anyway, so failing here costs space only."""
        try:
            if not made:
                there = await self._call("describe_time_to_live", TableName=table)
                if there["TimeToLiveDescription"]["TimeToLiveStatus"] in ("ENABLED", "ENABLING"):
                    return
            await self._call(
                "update_time_to_live",
                TableName=table,
                TimeToLiveSpecification={"Enabled": True, "AttributeName": "expires_at"},
            )
        except StoreUnavailableError:
            raise
        except StoreError as error:
            log.warning("time to live of table %r could not be enabled: %s", table, error.reason)

    # --- Reads ------------------------------------------------------------------------------------------------------

    async def get(self, ref: Ref) -> Stored | None:
        return (await self.get_many([ref]))[0]

    async def get_many(self, refs: Sequence[Ref]) -> list[Stored | None]:
        """1 request for each 100 records; twice that for children known by id alone (a claim says where)."""
        found: list[Stored | None] = [None] * len(refs)
        looking: dict[int, Place | None] = {i: self._layouts[ref.kind].place(ref) for i, ref in enumerate(refs)}
        missed: dict[int, Place] = {}
        for _ in range(LOOKS):
            if not looking:
                return found
            at = {i: self._address_of(refs[i], place) for i, place in looking.items()}
            kinds = frozenset(refs[i].kind for i in looking)
            items = await self._read(list(dict.fromkeys(at.values())), kinds)
            further: dict[int, Place | None] = {}
            for i, place in looking.items():
                layout, item = self._layouts[refs[i].kind], items.get(at[i])
                if place is None:  # this is the claim
                    there = self._claimed(item)
                    if there is not None and there != missed.get(i):
                        further[i] = there
                elif item is not None and item.get("id") == {"S": refs[i].id}:
                    found[i] = await self.io.work(_is_long_item(item), layout.decode, item)
                elif layout.claimed:
                    # Moved since the caller, or the claim, said where it is: ask the claim (again).
                    missed[i], further[i] = place, None
            looking = further
        raise StoreUnavailableError("get", self._address, "records keep moving while they are read")

    def _address_of(self, ref: Ref, place: Place | None) -> Address:
        layout = self._layouts[ref.kind]
        if place is not None:
            return (layout.table, place.pk, place.sk)
        claim = layout.claim_key(ref.id)
        return (layout.table, claim["pk"]["S"], claim["sk"]["S"])

    @staticmethod
    def _claimed(claim: Item | None) -> Place | None:
        """The place that a claim names."""
        if claim is None:
            return None
        return Place(claim["at"]["S"], claim["place"]["S"])

    async def _read(self, addresses: list[Address], kinds: frozenset[str]) -> dict[Address, Item]:
        """The items at these addresses, records of these kinds or their claims."""
        tables = {address[0] for address in addresses}
        if len(tables) == 1:
            return await self._read_batches(addresses, kinds)
        try:
            return await self._read_batches(addresses, kinds)
        except StorageMissingError:
            # DynamoDB refuses the whole batch for one missing table; what the others hold must not be called missing.
            items: dict[Address, Item] = {}
            missing: list[StorageMissingError] = []
            for table in sorted(tables):
                try:
                    items |= await self._read_batches([a for a in addresses if a[0] == table], kinds)
                except StorageMissingError as error:
                    missing.append(error)
            if len(missing) == len(tables):
                raise missing[0] from None
            return items

    async def _read_batches(self, addresses: list[Address], kinds: frozenset[str]) -> dict[Address, Item]:
        parts = self._parts(kinds)
        if len(addresses) == 1:
            table, pk, sk = addresses[0]
            reply = await self._call("get_item", TableName=table, Key=key(pk, sk), **parts)
            return {addresses[0]: reply["Item"]} if "Item" in reply else {}
        starts = range(0, len(addresses), BATCH_READS)
        pages = await self.io.gather(*(self._read_batch(addresses[s : s + BATCH_READS], parts) for s in starts))
        return {address: item for page in pages for address, item in page.items()}

    def _parts(self, kinds: frozenset[str]) -> dict[str, Any]:
        """What is read of records of these kinds and of their claims: not the keys of index entries, which would be
        half of what crosses the wire."""
        parts = self._projections.get(kinds)
        if parts is None:
            words = Expressions()
            names = dict.fromkeys(name for kind in sorted(kinds) for name in self._layouts[kind].header_attributes)
            if any(self._layouts[kind].claimed for kind in kinds):
                names.update(dict.fromkeys(("at", "place")))
            text = ", ".join(words.path(name) for name in (*names, "body"))
            parts = {"ConsistentRead": self._consistent, **words.arguments(ProjectionExpression=text)}
            self._projections[kinds] = parts
        return parts

    async def _read_batch(self, addresses: list[Address], parts: Mapping[str, Any]) -> dict[Address, Item]:
        request: dict[str, Any] = {}
        for table, pk, sk in addresses:
            request.setdefault(table, {"Keys": [], **parts})["Keys"].append(key(pk, sk))
        items: dict[Address, Item] = {}
        attempt = 0
        while request:
            reply = await self._call("batch_get_item", RequestItems=request)
            got = 0
            for table, page in reply["Responses"].items():
                got += len(page)
                items.update({(table, item["pk"]["S"], item["sk"]["S"]): item for item in page})
            request = reply.get("UnprocessedKeys") or {}
            if not request:
                break
            # A reply is cut at 16 MB, then the rest is there for the asking; with nothing in it, it was throttled.
            attempt = 0 if got else attempt + 1
            if attempt >= UNPROCESSED_ATTEMPTS:
                raise StoreUnavailableError("batch_get_item", self._address, "keys are left unprocessed")
            if attempt:
                await self.io.back_off(attempt, *BACKOFF)
        return items

    # --- Commit -----------------------------------------------------------------------------------------------------

    async def commit(self, writes: Sequence[Write], token: str) -> list[Rev | None]:
        """1 request. One more for each write of a child, or of a record with aliases, that expects nothing (`ANY`): it
        has to be looked for first."""
        befores: list[Before | None] = [self._assumed(write) for write in writes]
        for attempt in range(LOOKS):
            await self._look(writes, befores)
            steps: list[Step] = []
            revs: list[Rev | None] = []
            for number, (write, before) in enumerate(zip(writes, befores, strict=True)):
                assert before is not None
                own, rev = await self.io.work(partial(_is_long, write), self._steps, number, write, before, token)
                steps += own
                revs.append(rev)
            try:
                await self._send(writes, steps, token, attempt)
                return revs
            except Cancelled as lost:
                failed = {steps[i].write: (steps[i], item) for i, item in lost.failed.items()}
                refs = [writes[i].ref for i in failed] or [write.ref for write in writes]
                for number, (step, item) in failed.items():
                    befores[number] = await self._second_look(writes[number], step, item)
                    if befores[number] is None and writes[number].expect is not Expect.ANY:
                        raise Conflict(refs, resent=lost.resent) from lost
                if lost.contended and any(write.expect is not Expect.ANY for write in writes):
                    raise Conflict(refs, resent=lost.resent) from lost
                await self.io.back_off(attempt, *BACKOFF)
        raise Conflict([write.ref for write in writes])

    def _assumed(self, write: Write) -> Before | None:
        """What is taken for granted about the record without looking; None: it has to be looked for."""
        if isinstance(write.expect, Rev):
            return Before(write.expect.at, write.expect.token) if isinstance(write.expect.at, Place) else None
        if write.expect is Expect.ABSENT:
            return Before()
        layout = self._layouts[write.ref.kind]
        # A record without a parent is where its id says; that it has no aliases is a condition of the write.
        return None if layout.claimed else Before(layout.place(write.ref), plain=layout.aliased)

    async def _look(self, writes: Sequence[Write], befores: list[Before | None]) -> None:
        unknown = [i for i, before in enumerate(befores) if before is None]
        if not unknown:
            return
        for i, record in zip(unknown, await self.get_many([writes[i].ref for i in unknown]), strict=True):
            expect = writes[i].expect
            if isinstance(expect, Rev) and (record is None or record.rev != expect):
                raise Conflict([writes[i].ref])
            befores[i] = Before() if record is None else Before(record.rev.at, record.rev.token)

    async def _second_look(self, write: Write, step: Step, item: Item | None) -> Before | None:
        """After a claim refused a new child: whether the child that it stands for is there at all. If not, the claim
        may be taken over, provided that it stays as it is."""
        if not step.claim or item is None or write.expect is not Expect.ABSENT:
            return None
        there = self._claimed(item)
        assert there is not None
        address = (step.table, there.pk, there.sk)
        child = (await self._read([address], frozenset({write.ref.kind}))).get(address)
        if child is not None and child.get("id") == {"S": write.ref.id}:
            return None
        return Before(dangling=there)

    def _steps(self, number: int, write: Write, before: Before, token: str) -> tuple[list[Step], Rev | None]:
        """The changes of items that a write comes to, and the revision afterwards."""
        layout = self._layouts[write.ref.kind]
        if isinstance(write, Put):
            return self._put_steps(number, write, layout, before, token)
        if isinstance(write, Delete):
            return self._delete_steps(number, write, layout, before), None
        return self._touch_steps(number, write, layout, before, token)

    def _put_steps(
        self, number: int, put: Put, layout: Layout, before: Before, token: str
    ) -> tuple[list[Step], Rev | None]:
        new = layout.encode(put, token)
        old = before.place
        size = item_bytes(new.item)
        if size > ITEM_BYTES:
            raise PayloadTooLargeError(put.ref.kind, put.ref.id, size, ITEM_BYTES)
        moved = old is not None and (old.pk, old.sk) != (new.place.pk, new.place.sk)
        condition = self._absent() if moved else self._expected(before)
        steps = [Step(number, "Put", layout.table, {"Item": new.item, **condition})]
        steps += [Step(number, "Put", layout.table, {"Item": alias}) for alias in new.aliases]
        if old is not None:
            if moved:
                params = {"Key": key(old.pk, old.sk), **self._expected(before)}
                steps.append(Step(number, "Delete", layout.table, params))
            for alias in range(1 if moved else new.place.aliases + 1, old.aliases + 1):
                steps.append(Step(number, "Delete", layout.table, {"Key": alias_key(old, alias)}))
        expiring = put.expires_at is not None or (old is not None and old.expires_at is not None)
        if new.claim is not None and (old is None or moved or expiring):
            condition = self._claim_condition(before)
            steps.append(Step(number, "Put", layout.table, {"Item": new.claim, **condition}, claim=True))
        return steps, Rev(token, new.place)

    def _delete_steps(self, number: int, write: Delete, layout: Layout, before: Before) -> list[Step]:
        place = before.place
        if place is None:
            known = layout.place(write.ref)
            if known is None or write.expect is Expect.ANY:
                return []
            return [Step(number, "Delete", layout.table, {"Key": key(known.pk, known.sk), **self._absent()})]
        steps = [Step(number, "Delete", layout.table, {"Key": key(place.pk, place.sk), **self._expected(before)})]
        for alias in range(1, place.aliases + 1):
            steps.append(Step(number, "Delete", layout.table, {"Key": alias_key(place, alias)}))
        if layout.claimed:
            condition = self._claim_condition(before)
            steps.append(
                Step(number, "Delete", layout.table, {"Key": layout.claim_key(write.ref.id), **condition}, claim=True)
            )
        return steps

    def _touch_steps(
        self, number: int, write: Touch, layout: Layout, before: Before, token: str
    ) -> tuple[list[Step], Rev | None]:
        place = before.place
        if place is None:
            raise Conflict([write.ref])

        def update(item_key: Item, before: Before | None, *, claim: bool = False) -> Step:
            words = Expressions()
            expiry = words.path("expires_at")
            texts = [] if claim else [f"{words.path('rev')} = {words.value(token)}"]
            removal = ""
            if write.expires_at is not None:
                texts.append(f"{expiry} = {words.value(int(write.expires_at))}")
            else:
                removal = f" REMOVE {expiry}"
            guards = []
            if claim:
                guards.append(self._same_claim(words, place))
            elif before is not None:
                guards.append(f"attribute_exists({words.path('pk')})")
                guards += filter(None, [self._same_record(words, before)])
            change = (f"SET {', '.join(texts)}" if texts else "") + removal
            params = words.arguments(UpdateExpression=change.strip(), ConditionExpression=" AND ".join(guards))
            return Step(number, "Update", layout.table, {"Key": item_key, **params}, claim=claim)

        steps = [update(key(place.pk, place.sk), before)]
        steps += [update(alias_key(place, alias), None) for alias in range(1, place.aliases + 1)]
        if layout.claimed:
            steps.append(update(layout.claim_key(write.ref.id), None, claim=True))
        return steps, Rev(token, replace(place, expires_at=write.expires_at))

    @staticmethod
    def _absent() -> dict[str, Any]:
        words = Expressions()
        return words.arguments(ConditionExpression=f"attribute_not_exists({words.path('pk')})")

    def _expected(self, before: Before) -> dict[str, Any]:
        if before.place is None:
            return self._absent()
        words = Expressions()
        condition = self._same_record(words, before)
        return words.arguments(ConditionExpression=condition) if condition else {}

    @staticmethod
    def _same_record(words: Expressions, before: Before) -> str:
        """That the record is what it is taken to be; empty if that is anything."""
        if before.token is not None:
            return f"{words.path('rev')} = {words.value(before.token)}"
        return f"attribute_not_exists({words.path('aliases')})" if before.plain else ""

    def _claim_condition(self, before: Before) -> dict[str, Any]:
        """Of the claim: that there is none, or that it stands for the record as it was (or for nothing)."""
        words = Expressions()
        text = f"attribute_not_exists({words.path('pk')})"
        place = before.place or before.dangling
        if place is not None:
            text += f" OR ({self._same_claim(words, place)})"
        return words.arguments(ConditionExpression=text)

    @staticmethod
    def _same_claim(words: Expressions, place: Place) -> str:
        return f"{words.path('at')} = {words.value(place.pk)} AND {words.path('place')} = {words.value(place.sk)}"

    async def _send(self, writes: Sequence[Write], steps: list[Step], token: str, attempt: int) -> None:
        if not steps:
            return
        # Deleting cannot be recognised as one's own afterwards, so under a revision it goes as a transaction of one,
        # which its request token makes repeatable.
        single = len(steps) == 1 and not (steps[0].operation == "Delete" and isinstance(writes[0].expect, Rev))
        try:
            if single:
                await self._send_single(steps[0], token)
            else:
                await self._send_transaction(steps, token, attempt)
        except OversizeError as error:
            largest = max(steps, key=lambda step: step.bytes)
            ref = writes[largest.write].ref
            raise PayloadTooLargeError(ref.kind, ref.id, largest.bytes, ITEM_BYTES) from error

    async def _send_single(self, step: Step, token: str) -> None:
        operation = {"Put": "put_item", "Delete": "delete_item", "Update": "update_item"}[step.operation]
        params = dict(step.params)
        if "ConditionExpression" in params:
            params["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD"
        try:
            await self._call(operation, TableName=step.table, **params)
        except ConditionFailed as lost:
            if lost.item is not None and lost.item.get("rev") == {"S": token}:
                return  # this very write had been applied before, its reply was lost
            raise Cancelled({0: lost.item}, contended=False, resent=lost.resent) from lost

    async def _send_transaction(self, steps: list[Step], token: str, attempt: int) -> None:
        """`attempt` counts what DynamoDB is known not to have applied: what is sent again for want of a reply keeps its
        request token, what is sent again after a refusal gets another."""
        size = sum(step.bytes for step in steps)
        if len(steps) > TRANSACTION_ITEMS or size > TRANSACTION_BYTES:
            reason = (
                f"{len(steps)} items of {size} bytes in one commit; DynamoDB takes {TRANSACTION_ITEMS} items and "
                f"{TRANSACTION_BYTES} bytes"
            )
            raise StoreError("commit", self._address, reason)
        items = []
        for step in steps:
            params = {"TableName": step.table, **step.params}
            if step.claim and "ConditionExpression" in params:
                params["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD"
            items.append({step.operation: params})
        # Bodies are left out of the digest: under one token they do not change, while conditions may.
        shape = repr(attempt) + repr([(s.operation, s.table, _without_item(s.params)) for s in steps])
        request = f"{keys.digest(token, 16)}-{keys.digest(shape, 19)}"
        await self._call("transact_write_items", TransactItems=items, ClientRequestToken=request)

    # --- Batches ----------------------------------------------------------------------------------------------------

    async def write_many(self, writes: Sequence[Write], token: str) -> list[Failed]:
        """Deletes, and puts of records without a claim, go 25 to a request; claims, conditionally, 100 to a request;
        puts of others as transactions of at most 33. Where a kind may have aliases, the records are looked at first.
        """
        last = {(write.ref.kind, write.ref.id): write for write in writes}
        if len(last) < len(writes):
            writes = list(last.values())  # a batch must not name an item twice; the last one wins
        loose = [write for write in writes if write.expect is Expect.ANY]
        deletes = [write for write in loose if isinstance(write, Delete)]
        puts = [w for w in loose if isinstance(w, Put) and not self._layouts[w.ref.kind].claimed]
        batched = {id(write) for write in (*deletes, *puts)}
        single = [write for write in writes if id(write) not in batched]
        grouped = [single[start : start + 33] for start in range(0, len(single), 33)]
        results = await self.io.gather(
            self._batch(deletes, token),
            self._batch(puts, token),
            *(self._commit_group(group, token) for group in grouped),
        )
        failed = [failure for result in results for failure in result]
        if writes and len(failed) == len(writes):
            for failure in failed:
                if isinstance(failure.error, StorageMissingError | StoreUnavailableError):
                    raise failure.error
        return failed

    async def _commit_group(self, group: Sequence[Write], token: str) -> list[Failed]:
        """All in one transaction if that works; else one by one, to tell which cannot be stored."""
        try:
            await self.commit(group, token)
            return []
        except DocstoreError as error:
            if len(group) == 1:
                return [Failed(group[0], error)]
        return [failure for write in group for failure in await self._commit_group([write], token)]

    async def _batch(self, writes: Sequence[Put | Delete], token: str) -> list[Failed]:
        """Unconditional puts and deletes, in three waves: claims go before their children, so that an interruption
        leaves children that are found again by their parent, and no claim that nobody removes."""
        if not writes:
            return []
        failed: dict[int, Failed] = {}
        try:
            places = await self._places(writes)
        except StoreError as error:
            return [Failed(write, error) for write in writes]
        claims = {
            i: self._claim_removal(i, write.ref, places[i])
            for i, write in enumerate(writes)
            if i in places and isinstance(write, Delete) and self._layouts[write.ref.kind].claimed
        }
        for i, reason in (await self._remove_claims(claims, token)).items():
            failed[i] = Failed(writes[i], reason)
        requests: list[tuple[int, str, dict[str, Any]]] = []
        for i, write in enumerate(writes):
            if i in failed:
                continue
            try:
                made = await self.io.work(_is_long(write), self._batch_requests, write, places.get(i), token)
                requests += [(i, *request) for request in made]
            except PayloadTooLargeError as error:
                failed[i] = Failed(write, error)
        pages = [requests[start : start + BATCH_WRITES] for start in range(0, len(requests), BATCH_WRITES)]
        for page in await self.io.gather(*(self._write_batch(page) for page in pages)):
            for i, reason in page.items():
                failed[i] = Failed(writes[i], reason)
        return list(failed.values())

    async def _places(self, writes: Sequence[Put | Delete]) -> dict[int, Place]:
        """Where the records are, with their aliases. Looked for only where the layout does not tell."""
        places: dict[int, Place] = {}
        unknown: list[int] = []
        for i, write in enumerate(writes):
            layout = self._layouts[write.ref.kind]
            place = layout.place(write.ref)
            if place is None or layout.aliased:
                unknown.append(i)
            else:
                places[i] = place
        for i, record in zip(unknown, await self.get_many([writes[i].ref for i in unknown]), strict=True):
            if record is not None:
                places[i] = record.rev.at
        return places

    def _batch_requests(self, write: Put | Delete, old: Place | None, token: str) -> list[tuple[str, dict[str, Any]]]:
        layout = self._layouts[write.ref.kind]
        requests: list[tuple[str, dict[str, Any]]] = []
        kept = 0
        if isinstance(write, Put):
            new = layout.encode(write, token)
            size = item_bytes(new.item)
            if size > ITEM_BYTES:
                raise PayloadTooLargeError(write.ref.kind, write.ref.id, size, ITEM_BYTES)
            requests = [(layout.table, {"PutRequest": {"Item": item}}) for item in (new.item, *new.aliases)]
            kept = len(new.aliases)
        elif old is not None:
            requests = [(layout.table, {"DeleteRequest": {"Key": key(old.pk, old.sk)}})]
        if old is not None:
            surplus = range(kept + 1, old.aliases + 1)
            requests += [(layout.table, {"DeleteRequest": {"Key": alias_key(old, alias)}}) for alias in surplus]
        return requests

    def _claim_removal(self, number: int, ref: Ref, place: Place) -> Step:
        layout = self._layouts[ref.kind]
        condition = self._claim_condition(Before(place))
        return Step(number, "Delete", layout.table, {"Key": layout.claim_key(ref.id), **condition}, claim=True)

    async def _remove_claims(self, claims: Mapping[int, Step], token: str) -> dict[int, Exception]:
        """Remove these claims, each provided that it points where it is thought to: an id may be in use again
        elsewhere by now, and that claim stays. Conditions need transactions: of 100, at twice the price of a batch."""
        steps = list(claims.values())
        starts = range(0, len(steps), TRANSACTION_ITEMS)
        pages = [self._remove_claim_page(steps[start : start + TRANSACTION_ITEMS], token) for start in starts]
        return {i: error for page in await self.io.gather(*pages) for i, error in page.items()}

    async def _remove_claim_page(self, steps: list[Step], token: str) -> dict[int, Exception]:
        for attempt in range(LOOKS):
            if not steps:
                return {}
            try:
                await self._send_transaction(steps, token, attempt)
                return {}
            except Cancelled as lost:
                steps = [step for i, step in enumerate(steps) if i not in lost.failed]
                if lost.contended:
                    await self.io.back_off(attempt, *BACKOFF)
            except StoreUnavailableError as error:
                if not error.retryable:
                    return {step.write: error for step in steps}
                await self.io.back_off(attempt, *BACKOFF)
            except StoreError as error:
                return {step.write: error for step in steps}
        busy = StoreUnavailableError("transact_write_items", self._address, "claims are busy")
        return {step.write: busy for step in steps}

    async def _write_batch(self, requests: list[tuple[int, str, dict[str, Any]]]) -> dict[int, Exception]:
        """One BatchWriteItem, and again what it left unprocessed; what failed for good, by number of the write."""
        pending = requests
        failure: Exception = StoreUnavailableError("batch_write_item", self._address, "writes are left unprocessed")
        for attempt in range(UNPROCESSED_ATTEMPTS):
            body: dict[str, list[dict[str, Any]]] = {}
            for _, table, request in pending:
                body.setdefault(table, []).append(request)
            try:
                reply = await self._call("batch_write_item", RequestItems=body)
            except StoreUnavailableError as error:
                failure = error
                if not error.retryable:
                    break
            except StoreError as error:
                failure = error
                break
            else:
                left = {
                    (table, _request_key(request))
                    for table, some in (reply.get("UnprocessedItems") or {}).items()
                    for request in some
                }
                if not left:
                    return {}
                pending = [entry for entry in pending if (entry[1], _request_key(entry[2])) in left]
            await self.io.back_off(attempt, *BACKOFF)
        return {number: failure for number, _, _ in pending}

    # --- Scans ------------------------------------------------------------------------------------------------------

    async def scan(self, span: Span) -> Page:
        """A page of an index. Requests: 1 of a parent's children; of a global index 1, and 1 for the bodies; of an
        index over everything 1 for each shard. Kinds without such an index are read by a Scan of their table."""
        lanes, decode = self._lanes(span)
        if isinstance(span.after, list | tuple):
            for lane, after in zip(lanes, span.after, strict=True):
                lane.done = after == DONE
                lane.start = lane.after = after if isinstance(after, dict) else None
        records = await self._merge(lanes, span, decode)
        cursors = [lane.cursor for lane in lanes]
        more = any(cursor != DONE for cursor in cursors)
        return Page(await self._completed(records, span), cursors if more else None)

    async def count(self, span: Span) -> int:
        """Requests: 1 for each megabyte of index entries (bodies are not in them). What has expired is not counted."""
        lanes, _ = self._lanes(replace(span, after=None, limit=None, where=(), body=False))

        async def count_lane(lane: Lane) -> int:
            expiry, now = lane.words.path("expires_at"), lane.words.value(int(self.io.now()))
            lane.filters.append(f"(attribute_not_exists({expiry}) OR {expiry} > {now})")
            lane.params = {**lane.params, "Select": "COUNT"}
            lane.projection = None
            total = 0
            while not lane.done:
                reply = await self._request(lane, None)
                total += reply["Count"]
            return total

        return sum(await self.io.gather(*(count_lane(lane) for lane in lanes)))

    def _lanes(self, span: Span) -> tuple[list[Lane], Callable[[Item], Stored]]:
        """The requests that a span comes to, and how their items are read. No lanes: nothing can be in it."""
        layout = self._layouts[span.kind]
        index = layout.listing if span.index == EVERYTHING else layout.kind.index(span.index)
        if index is None:
            return [self._table_lane(layout, span)], lambda item: layout.decode(item, body=span.body)
        if None in span.eq:
            return [], lambda item: layout.decode(item)
        if not index.strong:
            entry = index
            return self._slot_lanes(layout, index, span), lambda item: layout.decode_entry(item, entry, span.eq)
        pk = keys.encode(span.eq)
        if index is layout.order:
            lane = self._query(layout, pk, "sk", span, prefix=layout.prefix)
            self._push(lane, layout, span)
            if not span.body:
                lane.projection = layout.header_attributes
            return [lane] if lane.inhabited else [], lambda item: layout.decode(item, body=span.body)
        lane = self._query(layout, pk, "lsi", span, prefix=layout.prefix)
        lane.params["IndexName"] = CHANGES
        told = {layout.kind.parent, layout.kind.order, index.sort}
        if span.body or any(not told.issuperset(looks_at(condition)) for condition in span.where):
            lane.params["Select"] = "ALL_ATTRIBUTES"
        change, parent = index, span.eq[0]

        def decode_change(item: Item) -> Stored:
            # moto gives the bare entry whatever was selected; the record is then read as a global index's would be.
            return layout.decode(item, body=span.body) if "rev" in item else layout.decode_change(item, change, parent)

        return [lane] if lane.inhabited else [], decode_change

    def _query(self, layout: Layout, pk: str, by: str, span: Span, *, prefix: str = "", slot: str = "") -> Lane:
        """The Query of one partition, between the span's bounds of the sort key."""
        # Below a bound from above, null is left out: it is no value of the field.
        low = prefix + (keys.encode((span.low,)) if span.low is not None else "0" if span.high is None else ABOVE_NULL)
        high = prefix + (keys.encode((span.high,)) if span.high is not None else "") + ABOVE
        words = Expressions()
        condition = f"{words.path(f'{slot}pk')} = {words.value(pk)}"
        condition += f" AND {words.path(by)} BETWEEN {words.value(low)} AND {words.value(high)}"
        params: dict[str, Any] = {"TableName": layout.table, "ScanIndexForward": not span.descending}
        if not slot:
            params["ConsistentRead"] = self._consistent
        cursor = tuple(dict.fromkeys(("pk", "sk", f"{slot}pk", by)))
        return Lane("query", params, words, by, cursor, condition, inhabited=low <= high)

    def _slot_lanes(self, layout: Layout, index: Index, span: Span) -> list[Lane]:
        if index.name not in layout.slots:
            raise ValueError(f"index {index.name!r} of {layout.kind.name!r} is optional, and not kept here")
        slot, _ = layout.slots[index.name]
        lanes = [self._query(layout, pk, f"{slot}sk", span, slot=slot) for pk in layout.partitions(index, span.eq)]
        for lane in lanes:
            lane.params["IndexName"] = slot
            lane.picky = bool(_undecided(index, span))
            if span.body and not lane.picky and layout.kind.parent is None:
                # The records are read themselves; of their entries only the place is needed.
                lane.projection = [*lane.keys, "id", "expires_at"]
        return [lane for lane in lanes if lane.inhabited]

    def _table_lane(self, layout: Layout, span: Span) -> Lane:
        words = Expressions()
        lane = Lane("scan", {"TableName": layout.table, "ConsistentRead": self._consistent}, words, "sk", ("pk", "sk"))
        lane.filters.append(f"begins_with({words.path('sk')}, {words.value(layout.prefix)})")
        self._push(lane, layout, span)
        if not span.body:
            lane.projection = layout.header_attributes
        return lane

    @staticmethod
    def _push(lane: Lane, layout: Layout, span: Span) -> None:
        """Have DynamoDB leave out what does not match: it is billed, but does not cross the wire."""
        lane.picky = bool(span.where)
        lane.filters += filter(None, (lane.words.holds(layout, condition) for condition in span.where))

    async def _merge(self, lanes: list[Lane], span: Span, decode: Callable[[Item], Stored]) -> list[Stored]:
        """The next records over all lanes, in order: as many as asked for; without a limit, what one request gives.

        Each lane is asked for its share, and again only where the merge has used that up. Then it has more than its
        share, so it is asked for all that is missing; under conditions, for more and more: they may leave little of it.
        """
        want, ask = span.limit, None
        first = max if span.descending else min
        records: list[Stored] = []
        seen: set[str] = set()
        while want is None or len(records) < want:
            dry = [lane for lane in lanes if not lane.buffer and not lane.done]
            if dry:
                if want is None and records:
                    break
                if want is not None:
                    missing = want - len(records)
                    if ask is None:
                        ask = keys.share(missing, len(lanes))
                    else:
                        ask = min(4 * ask, MOST_ASKED) if dry[0].picky else missing
                await self.io.gather(*(self._fill(lane, ask) for lane in dry))
                continue
            ready = [lane for lane in lanes if lane.buffer]
            if not ready:
                break
            item = first(ready, key=lambda lane: lane.buffer[0][lane.by]["S"]).take()
            record = await self.io.work(_is_long_item(item), decode, item)
            if record.ref.id not in seen and _may_match(record, span.where):
                seen.add(record.ref.id)
                records.append(record)
        return records

    async def _fill(self, lane: Lane, ask: int | None) -> None:
        reply = await self._request(lane, ask)
        lane.buffer.extend(reply["Items"])

    async def _request(self, lane: Lane, ask: int | None) -> Any:
        params = lane.arguments()
        if ask is not None and lane.operation == "query":  # a Scan's limit counts what it passes over
            params["Limit"] = ask
        reply = await self._call(lane.operation, **params)
        lane.start = reply.get("LastEvaluatedKey")
        lane.done = lane.start is None
        return reply

    async def _completed(self, records: list[Stored], span: Span) -> list[Stored]:
        """Bodies, and the fields that index entries lack where a condition asks for one: read from the records
        themselves, leaving out those that are gone or no longer match."""
        asked = {name for condition in span.where for name in looks_at(condition)}
        lacking = any(not asked <= record.fields.keys() for record in records)
        if not records or not (lacking or (span.body and records[0].body is None)):
            return records
        full = await self.get_many([record.ref for record in records])
        matching = [r for r in full if r is not None and all(condition.holds(r.fields) for condition in span.where)]
        return matching if span.body else [replace(record, body=None) for record in matching]

    # --- Counters ---------------------------------------------------------------------------------------------------

    async def add(
        self,
        ref: Ref,
        deltas: Mapping[str, int],
        guard: Sequence[Condition],
        token: str,
        also: Fields = MappingProxyType({}),
    ) -> Stored | None:
        """1 request. Where a counter is part of a key, the record has aliases, or the guard is none that DynamoDB
        evaluates exactly: read, and written back under its revision."""
        layout = self._layouts[ref.kind]
        place = layout.place(ref)
        changed = deltas.keys() | also.keys()
        if place is not None and not layout.keyed & changed and all(_exact(condition) for condition in guard):
            try:
                return await self._add_blindly(layout, place, ref, deltas, guard, token, also)
            except ConditionFailed as refused:
                if layout.kind.parent is None and (refused.item is None or "aliases" not in refused.item):
                    return None
        for attempt in range(LOOKS):
            record = await self.get(ref)
            if record is None or not all(condition.holds(record.fields) for condition in guard):
                return None
            fields = added(record, deltas, also)
            put = Put(record.ref, fields, record.body or {}, record.rev, record.expires_at)
            try:
                (rev,) = await self.commit([put], token)
            except Conflict:
                await self.io.back_off(attempt, *BACKOFF)
                continue
            assert rev is not None
            return replace(record, rev=rev, fields=fields)
        raise Conflict([ref])

    async def _add_blindly(
        self,
        layout: Layout,
        place: Place,
        ref: Ref,
        deltas: Mapping[str, int],
        guard: Sequence[Condition],
        token: str,
        also: Fields,
    ) -> Stored:
        words = Expressions()
        changes = [f"{words.path('rev')} = {words.value(token)}"]
        changes += [f"{words.field(layout, name)} = {words.value(value)}" for name, value in also.items()]
        for name, delta in deltas.items():
            path = words.field(layout, name)
            changes.append(f"{path} = if_not_exists({path}, {words.value(0)}) + {words.value(delta)}")
        conditions = [
            f"{words.path('id')} = {words.value(ref.id)}",
            f"attribute_not_exists({words.path('aliases')})",
            *filter(None, (words.holds(layout, condition) for condition in guard)),
        ]
        reply = await self._call(
            "update_item",
            TableName=layout.table,
            Key=key(place.pk, place.sk),
            ReturnValues="ALL_NEW",
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
            **words.arguments(
                UpdateExpression=f"SET {', '.join(changes)}", ConditionExpression=" AND ".join(conditions)
            ),
        )
        return layout.decode(reply["Attributes"])


def _is_long(write: Write) -> bool:
    """Whether to make items of a write takes long enough to hold up an event loop."""
    return isinstance(write, Put) and sum(len(part.text) for part in write.body.values()) >= LONG


def _is_long_item(item: Item) -> bool:
    """Whether to read an item does."""
    return len(next(iter(item["body"].values()))) >= LONG_PACKED if "body" in item else False


def _undecided(index: Index, span: Span) -> list[Condition]:
    """The conditions that a record may fail although it is in the span."""
    given = dict(zip(index.eq, span.eq, strict=True))

    def decided(condition: Condition) -> bool:
        if isinstance(condition, Eq | Has):
            return condition.field in given and keys.encode((given[condition.field],)) == keys.encode(
                (condition.value,)
            )
        return isinstance(condition, Range) and (
            (condition.field, condition.low, condition.high) == (index.sort, span.low, span.high)
        )

    return [condition for condition in span.where if not decided(condition)]


def _may_match(record: Stored, where: Sequence[Condition]) -> bool:
    """Whether a record, or an index entry that lacks some fields, satisfies the conditions as far as it tells."""
    told = record.fields.keys()
    return all(condition.holds(record.fields) for condition in where if told >= set(looks_at(condition)))


def _exact(condition: Condition) -> bool:
    """Whether DynamoDB decides it as `condition.holds` does."""
    if isinstance(condition, Eq):
        return condition.value is None or isinstance(condition.value, str | bool)
    if isinstance(condition, In):
        return bool(condition.values) and all(v is None or isinstance(v, str | bool) for v in condition.values)
    return False


def _without_item(params: Mapping[str, Any]) -> dict[str, Any]:
    """What identifies a step: its key and its conditions, without what is stored."""
    item = params.get("Item")
    rest = {name: value for name, value in params.items() if name != "Item"}
    return rest if item is None else {**rest, "Key": {"pk": item["pk"], "sk": item["sk"]}}


def _request_key(request: Mapping[str, Any]) -> tuple[str, str]:
    item = request["PutRequest"]["Item"] if "PutRequest" in request else request["DeleteRequest"]["Key"]
    return item["pk"]["S"], item["sk"]["S"]

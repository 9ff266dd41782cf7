"""The store of AgentOS' own OAuth server for MCP (contract 1.17), over the kernel. Sync only, as in Agno.

Invariants: a transaction, a code, a refresh token is had by one of all that ask for it; what was had is gone at once.
That one is whose write takes the place of the record as it was, under its `Rev`; the removal after it is tidying. Times
are epoch seconds and the caller's. What ended before `now` has expired; what ends at it has not. Limits are there
against floods: on DynamoDB, whose indexes lag, and among several at once, they are kept about. Codes and refresh tokens
come here as hashes; of a transaction's id, which is in the URL of the consent and good for it, the hash is stored, and
is what errors and logs name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from agno_docstores.codec import NULL, Json
from agno_docstores.errors import Conflict, InvalidIdError
from agno_docstores.kernel import Kernel, Query
from agno_docstores.keys import check_id
from agno_docstores.port import Condition, Delete, Eq, Expect, Fields, Kind, Put, Range, Ref, Stored, as_int
from agno_docstores.rows import answered
from agno_docstores.schema import OAUTH_CLIENTS, OAUTH_CODES, OAUTH_KEYS, OAUTH_REFRESH, OAUTH_TRANSACTIONS

PENDING = Eq("pending", True)
GONE = 1  # epoch seconds: the expiry of what was had, which no read shows from then on
RING = "keys"  # the parent of all keys: so they are read strongly consistent


class McpOAuth:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    # --- Clients ----------------------------------------------------------------------------------------------------

    async def get_mcp_oauth_client(self, client_id: str) -> str | None:
        """The metadata of a client, as registered; None if there is none. Linearizable. 1 request."""
        stored = await self.kernel.get(_ref(OAUTH_CLIENTS, client_id))
        return _text(stored) if stored is not None else None

    async def create_mcp_oauth_client(
        self, *, client_id: str, client_metadata: str, now: int, unconsumed_ttl: int, max_clients: int
    ) -> bool:
        """Register a client; False if as many as `max_clients` are registered that have not been used yet. Of those,
        the ones older than `unconsumed_ttl` seconds are removed first. Raises `DuplicateError` if the id is in use. 3
        requests, and those of the removals."""
        await self._sweep(OAUTH_CLIENTS, PENDING, Range("created_at", None, now - unconsumed_ttl - 1))
        if await self.kernel.count(Query(OAUTH_CLIENTS, (PENDING,))) >= max_clients:
            return False
        fields = {"pending": True, "created_at": now, "consumed_at": None}
        await self._insert(_put(OAUTH_CLIENTS, client_id, fields, client_metadata))
        return True

    async def mark_mcp_oauth_client_consumed(self, client_id: str, now: int) -> None:
        """Note when a client was first used; from then on it counts for no limit, and stays. 2 requests."""
        ref = _ref(OAUTH_CLIENTS, client_id)

        async def attempt(fresh: bool) -> None:
            stored = await self.kernel.get(ref)
            if stored is not None and stored.fields.get("consumed_at") is None:
                fields = {**stored.fields, "pending": None, "consumed_at": now}
                await self.kernel.commit([Put(ref, fields, stored.body or {}, stored.rev)])

        await self.kernel.transact("use of an OAuth client", attempt)

    # --- Transactions -----------------------------------------------------------------------------------------------

    async def store_mcp_oauth_transaction(
        self, *, txn_id: str, client_id: str, params: str, expires_at: int, now: int, max_pending: int
    ) -> None:
        """Store a pending authorization. What has expired is removed first, and of the others those that expire first,
        until there is room for this one among `max_pending`. Raises `DuplicateError` if the id is in use. 3 requests,
        and those of the removals."""
        await self._sweep(OAUTH_TRANSACTIONS, PENDING, Range("until", None, now - 1))
        overflow = await self.kernel.count(Query(OAUTH_TRANSACTIONS, (PENDING,))) - (max_pending - 1)
        if overflow > 0:
            await self._sweep(OAUTH_TRANSACTIONS, PENDING, limit=overflow)
        fields: Fields = {"pending": True, "client_id": client_id, "until": expires_at}
        await self._insert(_put(OAUTH_TRANSACTIONS, _hashed(txn_id), fields, params))

    async def get_mcp_oauth_transaction(self, txn_id: str) -> tuple[str, int] | None:
        """Parameters and expiry of a pending authorization, also of one that has expired. Linearizable. 1 request."""
        stored = await self.kernel.get(_ref(OAUTH_TRANSACTIONS, _hashed(txn_id)))
        return (_text(stored), as_int(stored.fields.get("until"))) if stored is not None else None

    async def consume_mcp_oauth_transaction(self, txn_id: str, now: int) -> tuple[str, int] | None:
        """The same, once: None for whoever comes later, and if it has expired (then it stays). 3 requests."""
        stored = await self._take(
            _ref(OAUTH_TRANSACTIONS, _hashed(txn_id)), lambda stored: as_int(stored.fields.get("until")) >= now
        )
        return (_text(stored), as_int(stored.fields.get("until"))) if stored is not None else None

    # --- Codes ------------------------------------------------------------------------------------------------------

    async def store_mcp_oauth_code(self, *, code_hash: str, payload: str, expires_at: int, now: int) -> None:
        """Store an authorization code by its hash; what has expired is removed first. Raises `DuplicateError` if there
        is one. 2 requests, and those of the removals."""
        await self._sweep(OAUTH_CODES, PENDING, Range("until", None, now - 1))
        await self._insert(_put(OAUTH_CODES, code_hash, {"pending": True, "until": expires_at}, payload))

    async def get_mcp_oauth_code(self, code_hash: str) -> tuple[str, int] | None:
        """Payload and expiry of a code, also of one that has expired. Linearizable. 1 request."""
        stored = await self.kernel.get(_ref(OAUTH_CODES, code_hash))
        return (_text(stored), as_int(stored.fields.get("until"))) if stored is not None else None

    async def delete_mcp_oauth_code(self, code_hash: str) -> bool:
        """Take a code; True for one caller only. 3 requests."""
        return await self._take(_ref(OAUTH_CODES, code_hash)) is not None

    # --- Refresh tokens ---------------------------------------------------------------------------------------------

    async def store_mcp_oauth_refresh(
        self, *, token_hash: str, client_id: str, scopes: str, expires_at: int, now: int, family_id: str
    ) -> None:
        """Store a refresh token by its hash; what has expired is removed first. Raises `DuplicateError` if there is
        one. 2 requests, and those of the removals."""
        await self._sweep(OAUTH_REFRESH, PENDING, Range("until", None, now - 1))
        fields: Fields = {
            "pending": True,
            "client_id": client_id,
            "until": expires_at,
            "family_id": check_id("family_id", family_id),
        }
        await self._insert(_put(OAUTH_REFRESH, token_hash, fields, scopes))

    async def get_mcp_oauth_refresh(self, token_hash: str) -> tuple[str, str, int] | None:
        """Client, scopes and expiry of a refresh token, also of one that has expired. Linearizable. 1 request (DynamoDB
        2)."""
        stored = await self.kernel.get(_ref(OAUTH_REFRESH, token_hash))
        if stored is None:
            return None
        return str(stored.fields.get("client_id")), _text(stored), as_int(stored.fields.get("until"))

    async def delete_mcp_oauth_refresh(self, token_hash: str) -> bool:
        """Take a refresh token; True for one caller only. 3 requests."""
        return await self._take(_ref(OAUTH_REFRESH, token_hash)) is not None

    async def delete_mcp_oauth_refresh_family(self, family_id: str) -> int:
        """Take all refresh tokens of a family; how many this call took. Read strongly consistent: none that was stored
        before is left. A failure raises; repeating the call goes on. 1 request, and 3 for each."""
        family = (Eq("family_id", check_id("family_id", family_id)),)
        found = await self.kernel.page(Query(OAUTH_REFRESH, family), body=False)
        taken = [await self._take(record.ref) for record in found]
        return sum(record is not None for record in taken)

    # --- Keys -------------------------------------------------------------------------------------------------------

    async def get_mcp_oauth_keys(self) -> list[tuple[str, str]]:
        """All keys, id and secret, the latest first. Strongly consistent: who lost the race to insert one sees the
        winner's. 1 request."""
        found = await self.kernel.page(Query(OAUTH_KEYS, (Eq("ring", RING),), "created_at", descending=True))
        return [(record.ref.id, _text(record)) for record in found]

    async def insert_mcp_oauth_key(self, *, kid: str, secret: str, created_at: int) -> bool:
        """Store a key; False if there is one of this id. 1 request."""
        from agno_docstores.errors import DuplicateError

        try:
            await self._insert(_put(OAUTH_KEYS, kid, {"ring": RING, "created_at": created_at}, secret))
        except DuplicateError:
            return False
        return True

    # --- Steps ------------------------------------------------------------------------------------------------------

    async def _insert(self, put: Put) -> None:
        async def attempt(fresh: bool) -> None:
            try:
                await self.kernel.commit([put])
            except Conflict:
                if await self.kernel.get(put.ref) is None:
                    raise
                from agno_docstores.errors import DuplicateError

                raise DuplicateError(put.ref.kind, put.ref.id) from None

        await self.kernel.transact(f"insertion into {put.ref.kind}", attempt)

    async def _take(self, ref: Ref, may: Callable[[Stored], bool] = lambda stored: True) -> Stored | None:
        """The record, for one of all that want it; None for the others."""

        async def attempt(fresh: bool) -> tuple[Stored, Delete] | None:
            stored = await self.kernel.get(ref)
            if stored is None or not may(stored):
                return None
            kept = {name: value for name, value in stored.fields.items() if name == self._parent(ref)}
            (rev,) = await self.kernel.commit([Put(stored.ref, kept, {}, stored.rev, expires_at=GONE)])
            assert rev is not None
            return stored, Delete(stored.ref, rev)

        taken = await self.kernel.transact(f"use of {ref.kind}", attempt)
        if taken is None:
            return None
        stored, removal = taken
        await answered(self._tidy(removal), None, f"what was used of {ref.kind} is left to the store's reaper")
        return stored

    def _parent(self, ref: Ref) -> str | None:
        return self.kernel.driver.kinds[ref.kind].parent

    async def _tidy(self, removal: Delete) -> None:
        try:
            await self.kernel.commit([removal])
        except Conflict:
            return  # the store's reaper was faster, or something new is there

    async def _sweep(self, kind: Kind, *where: Condition, limit: int | None = None) -> None:
        """Remove the records for which the conditions (still) hold, the oldest first, at most `limit`."""
        (index,) = (index for index in kind.indexes if index.eq == ("pending",))
        query = Query(kind, where, index.sort)
        headers = await self.kernel.page(query, limit=limit, body=False)
        for stored in await self.kernel.get_many([header.ref for header in headers]):
            if stored is not None and query.matches(stored):
                await self._tidy(Delete(stored.ref, stored.rev))


def _hashed(txn_id: object) -> str:
    """Raises `InvalidIdError`, which does not tell the id either."""
    try:
        return hashlib.sha256(check_id("txn_id", txn_id).encode()).hexdigest()
    except InvalidIdError:
        pass
    raise InvalidIdError("txn_id", type(txn_id), "must be a non-empty str without a lone surrogate")


def _ref(kind: Kind, id: str) -> Ref:
    """Raises `InvalidIdError`."""
    return Ref(kind.name, check_id("id", id))


def _put(kind: Kind, id: str, fields: Fields, text: str) -> Put:
    """A new record, whose text no index sees."""
    (part,) = kind.body
    parent = fields.get(kind.parent) if kind.parent is not None else None
    ref = Ref(kind.name, check_id("id", id), str(parent) if parent is not None else None)
    return Put(ref, fields, {part: Json.of(text, part)}, Expect.ABSENT)


def _text(stored: Stored) -> str:
    (part,) = (stored.body or {"": NULL}).values()
    return str(part.value())

"""Tokens that tools got by OAuth (contract 1.15), over the kernel.

Invariants: there is one token of a provider, a user and a service; writing it again keeps its id and age. No message
holds a token.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import uuid4

from agno.db.utils import owner_key

from agno_docstores import keys
from agno_docstores.kernel import Kernel
from agno_docstores.port import Delete, Expect, Ref
from agno_docstores.rows import Row, Table, answered, log
from agno_docstores.schema import AUTH_TOKENS

TABLE = Table(
    AUTH_TOKENS,
    ("id", "provider", "user_id", "service", "token_data", "granted_scopes", "created_at", "updated_at"),
    frozenset({"id", "provider", "service", "token_data", "created_at"}),
    {"user_id": ""},
    lambda row: {},
)


def _ref(provider: Any, user_id: Any, service: Any) -> Ref:
    """Where the token is: its id is drawn anew by every writer, and so is no place."""
    return Ref(AUTH_TOKENS.name, keys.encode((str(provider), _user(user_id), str(service))))


def _user(user_id: Any) -> str:
    """Nobody is stored, and compared, as the empty text."""
    return "" if user_id is None else str(owner_key(user_id))


class AuthTokens:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    async def get_auth_token(self, provider: str, user_id: str | None, service: str) -> Row | None:
        """Read a user's token, or nobody's; None if there is none. Linearizable. 1 request. A failed read is logged,
        and None, as the contract has it."""
        ref = _ref(provider, user_id, service)
        stored = await answered(self.kernel.get(ref), None, _told(provider, user_id, service, "could not be read"))
        return None if stored is None else TABLE.row(stored)

    async def upsert_auth_token(self, token: Row) -> Row | None:
        """Store a token, or replace data, scopes (None where not given) and `updated_at` (now, epoch s) of the one that
        is there; what was given, with an id of its own. Whatever fails is logged, and None. 2 requests."""
        now = self.kernel.now()
        data = {"created_at": now, **token, "id": str(uuid4()), "updated_at": now}
        data["user_id"] = data.get("user_id") or ""
        what = _told(data.get("provider"), data["user_id"], data.get("service"), "was not stored")
        try:
            return await answered(self._upsert(data), None, what)
        except (TypeError, ValueError) as error:
            log.warning("%s: %s", what, error)
            return None

    async def _upsert(self, data: Row) -> Row:
        new = TABLE.new({**data, "user_id": _user(data["user_id"])})
        ref = _ref(new["provider"], new["user_id"], new["service"])

        async def attempt(fresh: bool) -> None:
            stored = await self.kernel.get(ref)
            kept = {} if stored is None else {name: TABLE.row(stored)[name] for name in ("id", "created_at")}
            put = TABLE.put({**new, **kept}, Expect.ABSENT if stored is None else stored.rev)
            await self.kernel.commit([replace(put, ref=ref)])

        await self.kernel.transact("writing of an auth token", attempt)
        return data

    async def delete_auth_token(self, provider: str, user_id: str | None, service: str) -> bool:
        """Delete a user's token, or nobody's; whether it was there. A failure is logged, and False. 2 requests."""
        ref = _ref(provider, user_id, service)

        async def attempt(fresh: bool) -> bool:
            stored = await self.kernel.get(ref)
            if stored is None:
                return False
            await self.kernel.commit([Delete(ref, stored.rev)])
            return True

        work = self.kernel.transact("removal of an auth token", attempt)
        return await answered(work, False, _told(provider, user_id, service, "was not deleted"))


def _told(provider: Any, user_id: Any, service: Any, what: str) -> str:
    return f"auth token of {user_id!r} for {service!r} of {provider!r} {what}"

"""Service accounts: machine identities behind opaque tokens (contract 1.16), over the kernel.

Invariants: a token is one account's, and a name one active account's; an account is looked up by its token with strong
reads on every request, and a read that fails raises there, for "unknown" and "cannot tell" are different answers; what
was revoked stays so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agno.db.schemas.service_accounts import resolve_service_account_sort_column, validate_service_account_update

from agno_docstores.domains.listing import ascending, label
from agno_docstores.domains.owned import owner
from agno_docstores.kernel import Kernel, Query
from agno_docstores.keys import check_id
from agno_docstores.port import Condition, Eq, FieldValue, In
from agno_docstores.rows import Row, Rows, Table, answered
from agno_docstores.schema import SERVICE_ACCOUNTS
from agno_docstores.uniqueness import holder


def _derived(row: Row) -> Mapping[str, FieldValue]:
    active = row["revoked_at"] is None
    return {"owner": owner(row["user_id"]) or "", "active": active, "active_name": row["name"] if active else None}


TABLE = Table(
    SERVICE_ACCOUNTS,
    (
        "id",
        "name",
        "user_id",
        "token_hash",
        "token_prefix",
        "scopes",
        "created_at",
        "expires_at",
        "last_used_at",
        "revoked_at",
        "created_by",
    ),
    frozenset({"id", "name", "token_hash", "token_prefix", "scopes", "created_at"}),
    {},
    _derived,
)


class ServiceAccounts:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.accounts = Rows(kernel, TABLE)

    async def create_service_account(self, account_data: Row) -> Row:
        """Store a new account, as given; what was given. Raises `DuplicateError`, which is SQLAlchemy's
        `IntegrityError` as well, if its id or token is in use, or an active account has its name; `ValueError` for a
        column that there is not, or that is missing. 1 request."""
        await self.accounts.insert(account_data)
        return account_data

    async def get_service_account(self, service_account_id: str, user_id: str | None = None) -> Row | None:
        """Read one account; with a user, if it is his or nobody's. Linearizable. 1 request. A failed read is logged,
        and None, as the contract has it."""
        what = f"service account {service_account_id!r} could not be read"
        found = await answered(self.accounts.get(service_account_id), None, what)
        return (
            found
            if found is not None and (user_id is None or found["user_id"] in (None, label("user_id", user_id)))
            else None
        )

    async def get_service_account_by_token_hash(self, token_hash: str) -> Row | None:
        """The account that this is the token of, also a revoked one; None if there is none. Linearizable: a revocation
        holds for whoever asks after it. 2 requests. Raises on a failed read."""
        if token_hash == "":
            return None
        id = await holder(self.kernel, SERVICE_ACCOUNTS, "token_hash", check_id("token_hash", token_hash))
        row = await self.accounts.get(id) if id is not None else None
        return row if row is not None and row["token_hash"] == token_hash else None

    async def get_service_account_by_name(self, name: str, include_revoked: bool = False) -> Row | None:
        """The active account of this name, by linearizable reads; with `include_revoked` the one created last of all
        that have it, eventually consistent on DynamoDB. 2 requests. A failed read is logged, and None."""
        if name == "":
            return None
        work = self._latest(name) if include_revoked else self._active(name)
        return await answered(work, None, f"service account {name!r} could not be read")

    async def _active(self, name: str) -> Row | None:
        id = await holder(self.kernel, SERVICE_ACCOUNTS, "active_name", check_id("name", name))
        row = await self.accounts.get(id) if id is not None else None
        # It may have been revoked between the two.
        return row if row is not None and row["revoked_at"] is None else None

    async def _latest(self, name: str) -> Row | None:
        query = Query(SERVICE_ACCOUNTS, (Eq("name", check_id("name", name)),), "created_at", descending=True)
        return next((TABLE.row(stored) for stored in await self.kernel.page(query, limit=1)), None)

    async def get_service_accounts(
        self,
        include_revoked: bool = True,
        limit: int = 20,
        page: int = 1,
        sort_by: str = "created_at",
        sort_order: str = "desc",
        user_id: str | None = None,
    ) -> tuple[list[Row], int]:
        """A page of accounts and how many match in all; with a user, his and nobody's. Sorted by `created_at`, `name`,
        `last_used_at` or `expires_at`, then id; by another column as by the first. Eventually consistent on DynamoDB.
        1 to 3 requests by `created_at`, else all that match are looked at. A failed read is logged, and empty."""
        where: list[Condition] = [] if user_id is None else [In("owner", (label("user_id", user_id), ""))]
        if not include_revoked:
            where.append(Eq("active", True))
        column, descending = resolve_service_account_sort_column(sort_by), not ascending(sort_order)
        work = self.accounts.page(where, column, limit, page, descending=descending)
        return await answered(work, ([], 0), "service accounts could not be listed")

    async def update_service_account(
        self, /, service_account_id: str, return_record: bool = True, **kwargs: Any
    ) -> Row | None:
        """Note when an account was used last, or revoke it; the row then, None if there is none, or it was not asked
        for. Raises `ValueError` for other columns, and for a revocation taken back. A failure is logged, and None. 2
        requests."""
        validate_service_account_update(kwargs)
        work = self.accounts.change(service_account_id, lambda row: kwargs)
        row = await answered(work, None, f"service account {service_account_id!r} was not changed")
        return row if return_record else None

    async def delete_service_account(self, service_account_id: str) -> bool:
        """Delete an account; whether it was there. A failure is logged, and False. 2 requests."""
        what = f"service account {service_account_id!r} was not deleted"
        return await answered(self.accounts.delete(service_account_id), False, what)

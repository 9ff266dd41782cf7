"""The directory of users, and the trails of what was changed and who was let in (contract 1.18), over the kernel.

Invariants: whether a user is disabled is changed by the method for it alone, and read anew, and linearizably, each
time; a trail is only ever added to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from agno_docstores.domains.listing import between, plain
from agno_docstores.domains.listing import text as searched
from agno_docstores.kernel import Kernel, Query
from agno_docstores.keys import check_time, rank
from agno_docstores.port import Condition, Eq, Fields, Predicate, as_int
from agno_docstores.rows import Row, Rows, Table
from agno_docstores.schema import AUTHZ_AUDIT, AUTHZ_DECISIONS, AUTHZ_USERS

USER_TABLE = Table(
    AUTHZ_USERS,
    ("id", "email", "name", "disabled", "created_at", "updated_at", "metadata"),
    frozenset({"id", "disabled", "created_at", "updated_at"}),
    {},
    lambda row: {"key": row["id"]},
)
AUDIT_TABLE = Table(
    AUTHZ_AUDIT,
    ("event_id", "created_at", "actor", "action", "target", "before", "after"),
    frozenset({"event_id", "created_at", "action"}),
    {},
    lambda row: {},
)
DECISION_TABLE = Table(
    AUTHZ_DECISIONS,
    ("event_id", "created_at", "actor", "action", "target", "token_ref", "required", "scopes"),
    frozenset({"event_id", "created_at", "action"}),
    {},
    lambda row: {},
)
LONGEST_SEARCH = 200  # characters of a search text that count
DAY = 86_400  # seconds


class Directory:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.users = Rows(kernel, USER_TABLE)
        self.audit = Rows(kernel, AUDIT_TABLE)
        self.decisions = Rows(kernel, DECISION_TABLE)

    # --- Users ------------------------------------------------------------------------------------------------------

    async def get_authz_user(self, user_id: str) -> Row | None:
        """Read one user; None if the directory does not have him. Linearizable. 1 request."""
        return await self.users.get(user_id)

    async def is_authz_user_disabled(self, user_id: str) -> bool:
        """Whether a user is disabled; one that the directory does not have is not. Linearizable. 1 request."""
        found = await self.users.get(user_id)
        return found is not None and bool(found["disabled"])

    async def upsert_authz_user(self, user_id: str, values: Row) -> None:
        """Store a user, or change what is given of him, in one step: never `disabled` of one who is there, and not
        `metadata` where None is given. Raises `ValueError` for a column that there is not, or that a new user lacks. 2
        requests."""
        given = {name: value for name, value in values.items() if name != "metadata" or value is not None}
        changes = {name: value for name, value in given.items() if name != "disabled"}
        await self.users.upsert({"id": user_id, **given}, changes)

    async def set_authz_user_disabled(self, user_id: str, disabled: bool) -> None:
        """Disable a user, or enable him again, in one step; also one that the directory does not have. 2 requests."""
        now = self.kernel.now()
        changes = {"disabled": bool(disabled), "updated_at": now}
        await self.users.upsert({"id": user_id, "created_at": now, **changes}, changes)

    async def delete_authz_user(self, user_id: str) -> None:
        """Remove a user from the directory, and with him that he is disabled. 2 requests."""
        await self.users.delete(user_id)

    async def list_authz_users(
        self,
        limit: int = 1000,
        offset: int = 0,
        include_disabled: bool = True,
        search: str | None = None,
        sort_by: str = "created_at",
        order: str = "desc",
    ) -> list[Row]:
        """A stretch of the directory, sorted by a column (an unknown one: by `created_at`), then id; null comes last
        either way. `search`: text that id, email or name contains, without case, of which 200 characters count.
        Eventually consistent on DynamoDB. By `created_at` up to the stretch's end, else all that match are read."""
        where = _user_filters(include_disabled, search)
        column = sort_by if sort_by in USER_TABLE.columns and sort_by != "metadata" else "created_at"
        return await _listed(self.users, where, column, plain(order) != "asc", limit, offset, nulls_last=True)

    async def count_authz_users(self, include_disabled: bool = True, search: str | None = None) -> int:
        """How many users there are, of those that match. The store's own count in 1 request; of a search the headers of
        all. Eventually consistent on DynamoDB."""
        return await self.kernel.count(Query(AUTHZ_USERS, tuple(_user_filters(include_disabled, search))))

    async def count_authz_users_by_status(self) -> dict[str, int]:
        """How many users there are ("total") and how many of them are disabled ("disabled"): the sum of two counts of
        the store's, and one of them, so that there are never more disabled than there are. 2 requests at once.
        Eventually consistent on DynamoDB."""
        disabled, active = await self.kernel.io.gather(
            *(self.kernel.count(Query(AUTHZ_USERS, (Eq("disabled", value),))) for value in (True, False))
        )
        return {"total": disabled + active, "disabled": disabled}

    async def list_authz_user_ids(self, include_disabled: bool = True) -> list[str]:
        """The ids of all users, sorted. Headers only. Eventually consistent on DynamoDB."""
        found = await self.kernel.page(Query(AUTHZ_USERS, tuple(_user_filters(include_disabled, None))), body=False)
        return sorted(header.ref.id for header in found)

    async def count_authz_users_by_day(
        self, starting_at: int | None = None, ending_before: int | None = None
    ) -> list[dict[str, int]]:
        """How many users were created on each day in UTC ("date": its beginning; "count"), the oldest day first, days
        without any left out; of those created from one time on and before another (epoch s). The headers of these.
        Eventually consistent on DynamoDB."""
        last = check_time("ending_before", ending_before)
        bounds = between("created_at", starting_at, None if last is None else last - 1)
        found = await self.kernel.page(Query(AUTHZ_USERS, tuple(bounds), "created_at"), body=False)
        days = Counter(as_int(header.fields["created_at"]) // DAY * DAY for header in found)
        return [{"date": day, "count": days[day]} for day in sorted(days)]

    # --- Trails -----------------------------------------------------------------------------------------------------

    async def record_authz_audit_event(self, values: Row) -> None:
        """Note that something was changed. An event that was noted already is not noted again, and no error. 1
        request."""
        await _record(self.audit, values)

    async def record_authz_decision(self, values: Row) -> None:
        """Note that somebody was let in, or not. The same otherwise."""
        await _record(self.decisions, values)

    async def read_authz_audit_events(
        self,
        limit: int = 100,
        offset: int = 0,
        search: str | None = None,
        sort_by: str = "created_at",
        order: str = "desc",
        decisions: bool = False,
    ) -> list[Row]:
        """A stretch of the trail of changes, or of decisions, sorted by a column (an unknown one: by `created_at`),
        then id. `search`: as of users, in actor, action and target. Eventually consistent on DynamoDB. By `created_at`
        up to the stretch's end, else all that match are read."""
        rows = self.decisions if decisions else self.audit
        column = sort_by if sort_by in rows.table.columns else "created_at"
        descending = str(plain(order)).lower() == "desc"
        return await _listed(rows, _event_filters(search), column, descending, limit, offset, nulls_last=False)

    async def count_authz_audit_events(self, search: str | None = None, decisions: bool = False) -> int:
        """How many events of the trail of changes, or of decisions, match. The store's own count; of a search the
        headers of all. Eventually consistent on DynamoDB."""
        kind = AUTHZ_DECISIONS if decisions else AUTHZ_AUDIT
        return await self.kernel.count(Query(kind, tuple(_event_filters(search))))


def _user_filters(include_disabled: bool, search: str | None) -> list[Condition]:
    active: list[Condition] = [] if include_disabled else [Eq("disabled", False)]
    return active + _search(search, ("key", "email", "name"))


def _event_filters(search: str | None) -> list[Condition]:
    return _search(search, ("actor", "action", "target"))


def _search(text: str | None, fields: tuple[str, ...]) -> list[Condition]:
    """That one of these fields contains a text, compared without case. The text is text: no wildcard, no pattern."""
    if not text:
        return []
    needle = searched("search", text)[:LONGEST_SEARCH].casefold()

    def contains(values: Fields) -> bool:
        return any(needle in str(values[name]).casefold() for name in fields if values.get(name) is not None)

    return [Predicate(fields, contains)]


async def _listed(
    rows: Rows,
    where: Sequence[Condition],
    column: str,
    descending: bool,
    limit: int,
    offset: int,
    *,
    nulls_last: bool,
) -> list[Row]:
    """A stretch of the rows that satisfy the conditions, by a column, then their key. Null is the least value, unless
    it comes last in any case."""
    table = rows.table
    if column == "created_at":
        query = Query(table.kind, tuple(where), column, descending)
        return [table.row(stored) for stored in await rows.kernel.page(query, offset=offset, limit=limit)]
    found = await rows.all(where, "created_at")
    known = [row for row in found if row[column] is not None]
    known.sort(key=lambda row: (rank(row[column]), row[table.key]), reverse=descending)
    unknown = sorted((row for row in found if row[column] is None), key=lambda row: str(row[table.key]))
    ordered = known + unknown if descending or nulls_last else unknown + known
    return ordered[offset : offset + limit]


async def _record(rows: Rows, values: Row) -> None:
    from agno_docstores.errors import DuplicateError

    with suppress(DuplicateError):
        await rows.insert(values)

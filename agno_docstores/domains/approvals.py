"""Approvals: what a run that awaits a human asks for, and what was decided (contract 1.11), over the kernel.

Invariants: a decision is one atomic step under the status that was seen; a listing that fails raises, for "none
pending" is a permission to go on.
"""

from __future__ import annotations

from typing import Any

from agno.run.base import RunStatus

from agno_docstores.domains.listing import equal, label, plain
from agno_docstores.kernel import Kernel, Query
from agno_docstores.keys import check_id
from agno_docstores.port import Condition, Eq
from agno_docstores.rows import Row, Rows, Table, answered
from agno_docstores.schema import APPROVALS

TABLE = Table(
    APPROVALS,
    (
        "id",
        "run_id",
        "session_id",
        "status",
        "source_type",
        "approval_type",
        "pause_type",
        "tool_name",
        "tool_args",
        "expires_at",
        "agent_id",
        "team_id",
        "workflow_id",
        "user_id",
        "schedule_id",
        "schedule_run_id",
        "source_name",
        "requirements",
        "context",
        "resolution_data",
        "resolved_by",
        "resolved_at",
        "created_at",
        "updated_at",
        "run_status",
    ),
    frozenset({"id", "run_id", "session_id", "status", "source_type", "pause_type", "created_at"}),
    {},
    lambda row: {},
)


class Approvals:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.approvals = Rows(kernel, TABLE)

    async def create_approval(self, approval_data: Row) -> Row | None:
        """Store a new approval; what was given, with `created_at` and `updated_at` (epoch s; now, where they are not
        given). Raises `DuplicateError` if the id is in use, `ValueError` for a column that there is not, or that is
        missing. 1 request."""
        now = self.kernel.now()
        row = {"created_at": now, "updated_at": now, **approval_data}
        await self.approvals.insert(row)
        return row

    async def get_approval(self, approval_id: str) -> Row | None:
        """Read one approval; None if there is none. Linearizable. 1 request. A failed read is logged, and None, as the
        contract has it."""
        return await answered(self.approvals.get(approval_id), None, f"approval {approval_id!r} could not be read")

    async def get_approvals(
        self,
        status: str | None = None,
        source_type: str | None = None,
        approval_type: str | None = None,
        pause_type: str | None = None,
        agent_id: str | None = None,
        team_id: str | None = None,
        workflow_id: str | None = None,
        user_id: str | None = None,
        schedule_id: str | None = None,
        run_id: str | None = None,
        limit: int = 100,
        page: int = 1,
    ) -> tuple[list[Row], int]:
        """A page of approvals, the latest first, and how many match in all; every filter is exact and applied. 1 to 3
        requests by one of run, user, schedule, component or status; by several, the headers of what the first of them
        leaves. Strongly consistent by run, which is how a gate asks; else eventually so on DynamoDB. Raises on a failed
        read."""
        where: list[Condition] = equal(
            run_id=run_id,
            user_id=user_id,
            schedule_id=schedule_id,
            agent_id=agent_id,
            team_id=team_id,
            workflow_id=workflow_id,
            status=status,
            source_type=source_type,
            approval_type=approval_type,
            pause_type=pause_type,
        )
        return await self.approvals.page(where, "created_at", limit, page)

    async def update_approval(
        self, /, approval_id: str, expected_status: str | None = None, **kwargs: Any
    ) -> Row | None:
        """Change columns of an approval if it is (still) in `expected_status`, in one step; the row then. None if there
        is no such approval or column, its status is another, or what has to be there is to be null. `updated_at`
        becomes now (epoch s). A failure is logged, and None. 2 requests."""
        if not TABLE.allows(approval_id, kwargs):
            return None
        columns = {**kwargs, "updated_at": self.kernel.now()}

        def changed(row: Row) -> Row | None:
            return columns if expected_status is None or row["status"] == plain(expected_status) else None

        work = self.approvals.change(approval_id, changed)
        return await answered(work, None, f"approval {approval_id!r} was not changed")

    async def delete_approval(self, approval_id: str) -> bool:
        """Delete an approval; whether it was there. A failure is logged, and False. 2 requests."""
        return await answered(self.approvals.delete(approval_id), False, f"approval {approval_id!r} was not deleted")

    async def get_pending_approval_count(self, user_id: str | None = None) -> int:
        """How many approvals are pending, of all or of a user. The store's own count in 1 request (of a user, on
        DynamoDB, the headers of his). A failure is logged, and 0."""
        where: list[Condition] = [Eq("status", "pending")]
        if user_id is not None:
            where.append(Eq("user_id", label("user_id", user_id)))
        work = self.kernel.count(Query(APPROVALS, tuple(where)))
        return await answered(work, 0, f"pending approvals of {user_id!r} could not be counted")

    async def update_approval_run_status(self, run_id: str, run_status: RunStatus) -> int:
        """Note what became of a run on each of its approvals; how many there are. Called at the end of every turn: 1
        request where the run has none, else 1 and 2 for each. A failure is logged, and 0."""
        if run_id == "":
            return 0
        what = f"approvals of run {run_id!r} were not told that it is {plain(run_status)}"
        return await answered(self._tell(check_id("run_id", run_id), plain(run_status)), 0, what)

    async def _tell(self, run_id: str, status: Any) -> int:
        found = await self.kernel.page(Query(APPROVALS, (Eq("run_id", run_id),)), body=False)
        columns = {"run_status": status, "updated_at": self.kernel.now()}
        changed = [await self.approvals.change(record.ref.id, lambda row: columns) for record in found]
        return sum(row is not None for row in changed)

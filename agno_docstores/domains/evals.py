"""Eval runs: what `BaseDb` says of them (contract 1.7), over the kernel.

Invariants: an id is used once; owner and name change by themselves, whatever else is written at the same time; the
owner check and the write are one atomic step; a failed read raises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agno.db.schemas.evals import EvalFilterType, EvalRunRecord, EvalType

from agno_docstores.codec import Json
from agno_docstores.domains.listing import equal, label, order_of, page_and_total, page_of, plain, touched_at
from agno_docstores.domains.owned import belongs_to, owner, remove
from agno_docstores.errors import Conflict
from agno_docstores.kernel import Kernel, Query
from agno_docstores.keys import check_id
from agno_docstores.port import Condition, Expect, FieldValue, In, Put, Range, Ref, Stored
from agno_docstores.schema import EVALS

Row = dict[str, Any]

#: The columns of `agno_eval_runs`, in its order.
COLUMNS = (
    "run_id",
    "eval_type",
    "eval_data",
    "eval_input",
    "name",
    "agent_id",
    "team_id",
    "workflow_id",
    "model_id",
    "model_provider",
    "evaluated_component_name",
    "user_id",
    "created_at",
    "updated_at",
)
LABELS = ("agent_id", "team_id", "workflow_id", "model_id")
NATURAL = "created_at"  # downwards: the order of a listing that asks for none


def to_row(stored: Stored) -> Row:
    """The row of `agno_eval_runs` that a record stands for. Fresh objects each time."""
    body = {name: part.value() for name, part in (stored.body or {}).items()}
    values: Row = {**stored.fields, **body, "run_id": stored.ref.id}
    return {name: values.get(name) for name in COLUMNS}


class Evals:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    # --- Writing ----------------------------------------------------------------------------------------------------

    async def create_eval_run(self, eval_run: EvalRunRecord) -> EvalRunRecord | None:
        """Store a new eval run; the record as handed in. `created_at` and `updated_at` are now (epoch s), its owner is
        set afterwards. Raises `DuplicateError`, which Agno takes for a unique violation, if the id is in use: nothing
        is changed then. 1 request."""
        given = EvalRunRecord.model_validate(eval_run.model_dump())
        ref = Ref(EVALS.name, check_id("run_id", given.run_id))
        now = self.kernel.now()
        fields: dict[str, FieldValue] = {
            name: plain(getattr(given, name)) for name in EVALS.fields if name in EvalRunRecord.model_fields
        }
        fields.update({name: label(name, fields[name]) for name in LABELS})
        fields.update(user_id=None, created_at=now, updated_at=now, touched_at=now)
        body = {name: Json.of(getattr(given, name), name) for name in EVALS.body}

        async def attempt(fresh: bool) -> None:
            try:
                await self.kernel.commit([Put(ref, fields, body, Expect.ABSENT)])
            except Conflict:
                if await self.kernel.get(ref) is None:
                    raise
                from agno_docstores.errors import DuplicateError

                raise DuplicateError("eval run", ref.id) from None

        await self.kernel.transact(f"creation of eval run {ref.id!r}", attempt)
        return eval_run

    async def rename_eval_run(
        self, eval_run_id: str, name: str, deserialize: bool | None = True, user_id: str | None = None
    ) -> EvalRunRecord | Row | None:
        """Set the name and nothing else; `updated_at` becomes now. The run as it is then; None if it does not exist or
        is not `user_id`'s. 2 requests."""
        new: dict[str, FieldValue] = {
            "name": None if name is None else str(plain(name)),
            "updated_at": self.kernel.now(),
        }

        def renamed(stored: Stored) -> dict[str, FieldValue] | None:
            return new if belongs_to(stored, user_id) else None

        stored = await self._change(eval_run_id, renamed)
        return None if stored is None else _answer(stored, deserialize)

    async def update_eval_run_user_id(self, eval_run_id: str, user_id: str) -> None:
        """Set the owner, whoever it is now, and nothing else. Nothing happens if there is no such run. 2 requests."""
        new = owner(user_id)
        await self._change(eval_run_id, lambda stored: {"user_id": new})

    async def _change(self, run_id: str, decide: Callable[[Stored], dict[str, FieldValue] | None]) -> Stored | None:
        """Set the fields that `decide` gives for the run as it is, in one atomic step; None where it gives none."""
        ref = Ref(EVALS.name, check_id("eval_run_id", run_id))

        async def attempt(fresh: bool) -> Stored | None:
            stored = await self.kernel.get(ref)
            new = decide(stored) if stored is not None else None
            if stored is None or new is None:
                return None
            fields = {**stored.fields, **new}
            fields["touched_at"] = touched_at(fields)
            put = Put(ref, fields, stored.body or {}, stored.rev, stored.expires_at)
            (rev,) = await self.kernel.commit([put])
            assert rev is not None
            return Stored(ref, rev, fields, dict(put.body), put.expires_at)

        return await self.kernel.transact(f"change of eval run {run_id!r}", attempt)

    # --- Reading ----------------------------------------------------------------------------------------------------

    async def get_eval_run(
        self, eval_run_id: str, deserialize: bool | None = True, user_id: str | None = None
    ) -> EvalRunRecord | Row | None:
        """Read one eval run; None if it does not exist or is not `user_id`'s. Linearizable. 1 request. Raises on a
        failed read."""
        stored = await self.kernel.get(Ref(EVALS.name, check_id("eval_run_id", eval_run_id)))
        return _answer(stored, deserialize) if stored is not None and belongs_to(stored, user_id) else None

    async def get_eval_runs(
        self,
        limit: int | None = None,
        page: int | None = None,
        sort_by: str | None = None,
        sort_order: str | None = None,
        agent_id: str | None = None,
        team_id: str | None = None,
        workflow_id: str | None = None,
        model_id: str | None = None,
        filter_type: EvalFilterType | None = None,
        eval_type: list[EvalType] | None = None,
        deserialize: bool | None = True,
        user_id: str | None = None,
    ) -> list[EvalRunRecord] | tuple[list[Row], int]:
        """List eval runs; all filters apply. Without `deserialize`: rows, and how many match in all.

        `filter_type`: those of agents, teams or workflows; `eval_type`: of one of these types, of any where the list is
        empty. Order: the latest first, or by any column. Sorted by `created_at`, a page costs its own entries (1 to 3
        requests) under one of the id filters; by another column, the headers of all that match, or the runs themselves
        where the column is not in those. Eventually consistent on DynamoDB. Raises `ValueError` for a `filter_type`
        that there is not.
        """
        where: list[Condition] = equal(
            user_id=user_id, agent_id=agent_id, team_id=team_id, workflow_id=workflow_id, model_id=model_id
        )
        if eval_type:
            where.append(In("eval_type", tuple(str(plain(one)) for one in eval_type)))
        if filter_type is not None:
            where.append(Range(f"{EvalFilterType(filter_type).value}_id"))
        sort, descending = order_of(sort_by, sort_order, COLUMNS, "run_id", (NATURAL, True))
        query = Query(EVALS, tuple(where), sort, descending)
        if deserialize:
            found = await page_of(self.kernel, query, NATURAL, limit, page)
            return [EvalRunRecord.model_validate(to_row(stored)) for stored in found]
        found, total = await page_and_total(self.kernel, query, NATURAL, limit, page)
        return [to_row(stored) for stored in found], total

    # --- Removal ----------------------------------------------------------------------------------------------------

    async def delete_eval_run(self, eval_run_id: str) -> None:
        """Delete one eval run, if it is there. 2 requests."""
        await self.delete_eval_runs([eval_run_id])

    async def delete_eval_runs(self, eval_run_ids: list[str], user_id: str | None = None) -> None:
        """Delete those of these runs that are there and `user_id`'s. 1 read of all; then batches, or with a user 1
        request each. A failure raises when all have been tried; repeating the call goes on."""
        await remove(self.kernel, EVALS, [check_id("eval_run_id", id) for id in eval_run_ids], user_id)


def _answer(stored: Stored, deserialize: bool | None) -> EvalRunRecord | Row:
    row = to_row(stored)
    return EvalRunRecord.model_validate(row) if deserialize else row

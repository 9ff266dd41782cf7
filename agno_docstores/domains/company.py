"""Products with their sources, projects and tasks (contract 1.19), over the kernel.

Rows are archived (`deleted_at`), never removed. Invariants: what changes a product's hierarchy (a new child, a move, a
transition, an archive, a restore) is one step with a touch of the product, so that of two such at once each sees the
other; an archived product or project has no live task, and gives back with its restoration what went with it, and
nothing else; a step of a lifecycle is taken under the history that was seen; a product has each proposal once.

What an archive or a restoration moves may be more than a commit takes. Then the first part marks the parent as
*moving*, each further part is under the parent as the one before left it, and the last takes the mark away. While it is
there the parent is live: it is archived with the last part, restored with the first. So it never has a live child while
it is archived, whoever looks, and a listing need not look at parents. Whoever is about to change something of a parent
with a mark finishes that move first; so moves come one after the other, and one whose process died is not left halfway.

Such steps span documents: on MongoDB they need a replica set, and raise `UnsupportedTopologyError` without.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from agno.db.base import _UNSET_UPDATED_AT
from agno.db.schemas.products import company_sort, product_metadata, validate_product_fields
from agno.db.schemas.projects import project_transition_fields, validate_project_fields
from agno.db.schemas.sources import validate_source_fields
from agno.db.schemas.tasks import (
    TASK_TRANSITIONS,
    _acceptance_count,
    task_run_fields,
    task_transition_fields,
    validate_task_fields,
)

from agno_docstores import keys
from agno_docstores.codec import NULL, Json
from agno_docstores.domains.listing import equal, touched_at
from agno_docstores.domains.owned import owner
from agno_docstores.errors import Conflict
from agno_docstores.kernel import Kernel, Query
from agno_docstores.keys import check_id
from agno_docstores.port import (
    Condition,
    Eq,
    Expect,
    FieldValue,
    Has,
    In,
    NotIn,
    Put,
    Ref,
    Span,
    Stored,
    Touch,
    Write,
    as_int,
)
from agno_docstores.rows import Row, Table
from agno_docstores.schema import ACCEPTANCES, PRODUCTS, PROJECTS, SOURCES, TASKS
from agno_docstores.uniqueness import holder

OPEN = ("ready", "in_progress", "in_review")
ENDED = ("done", "cancelled")
FAILED = ("ERROR", "CANCELLED")
ARCHIVE, RESTORE = "archive", "restore"  # what a parent with its children may be in the middle of
MOST_CHILDREN = 40  # that are archived or restored in one commit: DynamoDB takes 100 items
Columns = Mapping[str, Any] | None
Children = list[tuple[Stored, Row]]


def _listed(row: Row) -> dict[str, FieldValue]:
    return {"live": row["deleted_at"] is None, "user_id": owner(row["user_id"]), "touched_at": touched_at(row)}


def _of_product(row: Row) -> dict[str, FieldValue]:
    return {**_listed(row), "product_id": check_id("product_id", row["product_id"])}


def _project_fields(row: Row) -> dict[str, FieldValue]:
    accepted = [entry.get("auto_accept") or {} for entry in row["transitions"] or []]
    routines = tuple(dict.fromkeys(str(one["routine_id"]) for one in accepted if one.get("routine_id")))
    return {**_of_product(row), "routines": routines}


def _task_fields(row: Row) -> dict[str, FieldValue]:
    key, result = row["dedupe_key"], row["result"]
    status = result.get("status") if isinstance(result, dict) else None
    return {
        **_of_product(row),
        "failed": row["status"] == "in_progress" and status in FAILED,
        "proposal": None if key is None else _proposal(row["product_id"], key),
    }


def _proposal(product_id: Any, dedupe_key: Any) -> str:
    return keys.encode((str(product_id), str(dedupe_key)))


_TIMES = ("created_at", "updated_at", "deleted_at")
PRODUCT_TABLE = Table(
    PRODUCTS,
    ("id", "name", "purpose", "user_id", "metadata", *_TIMES),
    frozenset({"id", "name", "created_at"}),
    {},
    _listed,
)
SOURCE_TABLE = Table(
    SOURCES,
    ("id", "product_id", "reference", "type", "credential_ref", "user_id", "config", *_TIMES),
    frozenset({"id", "product_id", "reference", "type", "created_at"}),
    {},
    _of_product,
)
PROJECT_TABLE = Table(
    PROJECTS,
    ("id", "name", "outcome", "user_id", "transitions", *_TIMES, "product_id", "status", "target_date"),
    frozenset({"id", "name", "product_id", "status", "created_at"}),
    {"transitions": []},
    _project_fields,
)
TASK_TABLE = Table(
    TASKS,
    (
        "id",
        "product_id",
        "project_id",
        "title",
        "brief",
        "status",
        "user_id",
        "executor_type",
        "executor_id",
        "accepted_by",
        "accepted_at",
        "session_id",
        "job_id",
        "evidence",
        "result",
        "origin",
        "routine_id",
        "dedupe_key",
        "transitions",
        "metadata",
        *_TIMES,
    ),
    frozenset({"id", "product_id", "title", "status", "created_at"}),
    {"transitions": []},
    _task_fields,
)


class Company:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    # --- Products ---------------------------------------------------------------------------------------------------

    async def create_product(self, product_data: Row) -> Row:
        """Store a new product; the row. Its metadata say after how many days ended work is archived (14). Raises
        `DuplicateError`, which Agno takes for a unique violation, if the id is in use; `ValueError` for a column that
        there is not, or that is missing. 1 request."""
        data = {**product_data, "metadata": product_metadata(product_data.get("metadata"))}

        async def attempt(fresh: bool) -> Row:
            return await self._insert(PRODUCT_TABLE, data, [])

        return await self.kernel.transact(f"insertion into products of {data.get('id')!r}", attempt)

    async def get_product(
        self, product_id: str, user_id: str | None = None, include_deleted: bool = False
    ) -> Row | None:
        """Read one product; None if there is none, it is not `user_id`'s, or archived. Linearizable. 1 request."""
        return await self._one(PRODUCT_TABLE, product_id, user_id, include_deleted)

    async def get_products(
        self,
        user_id: str | None = None,
        limit: int = 20,
        page: int = 1,
        include_deleted: bool = False,
        sort_by: str | None = None,
        sort_order: str | None = None,
    ) -> tuple[list[Row], int]:
        """A page of products, the latest first unless another order is asked for, and how many match in all.
        Eventually consistent on DynamoDB. 1 to 3 requests; by `updated_at`, all that match. Raises `ValueError` for a
        page or an order that cannot be."""
        where = [_live(include_deleted), *_owner(user_id)]
        return await self._page(PRODUCT_TABLE, where, limit, page, sort_by, sort_order)

    async def update_product(self, /, product_id: str, user_id: str | None = None, **fields: Any) -> Row | None:
        """Change a product's name, purpose or metadata, which keep the routines linked to it; the row then, None if
        there is no such, not `user_id`'s, or archived. Raises `ValueError` for other fields. 2 requests."""
        validate_product_fields(fields)
        if "metadata" in fields:
            fields["metadata"] = product_metadata(fields["metadata"])

        async def changed(row: Row) -> Columns:
            if row["deleted_at"] is not None:
                return None
            columns = {**fields, "updated_at": self.kernel.now()}
            linked = (row["metadata"] or {}).get("routine_ids")
            if "metadata" in fields and "routine_ids" not in fields["metadata"] and linked:
                columns["metadata"] = {**fields["metadata"], "routine_ids": linked}
            return columns

        return await self._change(PRODUCT_TABLE, product_id, changed, user_id, lock=False)

    async def add_product_routine(self, product_id: str, schedule_id: str) -> Row:
        """Link a routine to a product, once; the row then. Raises `ValueError` if the product is missing or archived.
        2 requests."""

        async def linked(row: Row) -> Columns:
            if row["deleted_at"] is not None:
                return None
            metadata = product_metadata(row["metadata"])
            ids = list(metadata.get("routine_ids") or [])
            if schedule_id in ids:
                return {}
            return {"metadata": {**metadata, "routine_ids": [*ids, schedule_id]}, "updated_at": self.kernel.now()}

        found = await self._change(PRODUCT_TABLE, product_id, linked, lock=False)
        if found is None:
            raise ValueError("Product is missing or archived")
        return found

    async def get_product_counts(self, product_ids: list[str]) -> dict[str, Row]:
        """Of each product, how many proposed or active projects it has, and how many tasks in each status; zeros where
        there are none. Eventually consistent on DynamoDB. 2 requests for each, its index entries only."""

        async def count(product_id: str) -> Row:
            where = (Eq("product_id", check_id("product_id", product_id)), Eq("live", True))
            found = await self.kernel.page(Query(PROJECTS, (*where, In("status", ("proposed", "active")))), body=False)
            return {"projects": len(found), "tasks": await self._by_status(where)}

        ids = list(dict.fromkeys(product_ids))
        return dict(zip(ids, await self.kernel.io.gather(*map(count, ids)), strict=True))

    async def delete_product(self, product_id: str, user_id: str | None = None) -> bool:
        """Archive a product with its projects and tasks; whether it was there, live and `user_id`'s. Raises
        `ValueError`, with a message and the tasks, if some are ready, in progress or in review.

        Up to 40 of them go in one commit with the product. Of more, each 40 in one, the product with the last: it is
        live until then, and while some of them are archived already, whoever changes something of it finishes the
        archive first; so does the repetition of a call that was interrupted, which answers False. 4 requests, and 1 for
        each further 40; it reads all projects and tasks of the product.
        """

        async def attempt(fresh: bool) -> bool:
            at = await self._parent(PRODUCT_TABLE, product_id, user_id)
            if at is None or PRODUCT_TABLE.row(at)["deleted_at"] is not None:
                return False
            projects = await self._children(PROJECT_TABLE, product_id)
            for project, _ in projects:
                await self._settle(PROJECT_TABLE, project)
            tasks = await self._children(TASK_TABLE, product_id)
            _refuse_open(row for _, row in tasks)
            await self._move(PRODUCT_TABLE, at, ARCHIVE, [(PROJECT_TABLE, projects), (TASK_TABLE, tasks)])
            return True

        return await self.kernel.transact(f"archive of product {product_id!r}", attempt)

    async def restore_product(self, product_id: str, user_id: str | None = None) -> Row | None:
        """Restore an archived product, with the projects and tasks that were archived with it; the row then, None if it
        is not there, not archived or not `user_id`'s. Commits as `delete_product`, but that the product is live with
        the first."""

        async def attempt(fresh: bool) -> Row | None:
            at = await self._parent(PRODUCT_TABLE, product_id, user_id)
            if at is None or PRODUCT_TABLE.row(at)["deleted_at"] is None:
                return None
            return await self._move(PRODUCT_TABLE, at, RESTORE, await self._under(PRODUCT_TABLE, PRODUCT_TABLE.row(at)))

        return await self.kernel.transact(f"restoration of product {product_id!r}", attempt)

    # --- Sources ----------------------------------------------------------------------------------------------------

    async def create_source(self, source_data: Row, reuse: bool = False) -> Row:
        """Store a new source of a live product; the row. `reuse`: if the product has a source of this reference already
        it is given back, or `ValueError` raised if it differs or is archived. Raises as `create_product`. 2 requests;
        to reuse, the product's sources besides."""
        return await self._create(SOURCE_TABLE, source_data, self._same_source if reuse else None)

    async def _same_source(self, data: Row) -> Row | None:
        found = [row for _, row in await self._children(SOURCE_TABLE, data["product_id"])]
        same = sorted((row for row in found if row["reference"] == data["reference"]), key=lambda row: str(row["id"]))
        for row in same:
            if (
                row["deleted_at"] is not None
                or row["type"] != data["type"]
                or row["credential_ref"] != data.get("credential_ref")
                or _settings(row["config"]) != _settings(data.get("config"))
            ):
                raise ValueError(
                    f"Source {row['id']} already uses this reference with conflicting configuration or is archived"
                )
        return same[0] if same else None

    async def get_source(self, source_id: str, user_id: str | None = None, include_deleted: bool = False) -> Row | None:
        """Read one source; as `get_product`."""
        return await self._one(SOURCE_TABLE, source_id, user_id, include_deleted)

    async def get_sources(
        self,
        user_id: str | None = None,
        limit: int = 20,
        page: int = 1,
        include_deleted: bool = False,
        product_id: str | None = None,
    ) -> tuple[list[Row], int]:
        """A page of the sources of live products, the latest first, and how many match in all. Eventually consistent on
        DynamoDB. 2 to 4 requests."""
        where = [_live(include_deleted), *equal(product_id=product_id), *_owner(user_id)]
        return await self._page(SOURCE_TABLE, where, limit, page, None, None, parents=True)

    async def update_source(self, /, source_id: str, user_id: str | None = None, **fields: Any) -> Row | None:
        """Change a source's settings; the row then, None as `update_product`. Raises `ValueError` for what a source
        cannot be, and for another product: a source stays with its own. 2 requests."""

        async def changed(row: Row) -> Columns:
            if row["deleted_at"] is not None:
                return None
            candidate = {**{name: row[name] for name in ("type", "reference", "credential_ref", "config")}, **fields}
            if "config" not in fields and isinstance(candidate["config"], dict):
                candidate["config"] = _settings(candidate["config"])
            if "reference" not in fields and candidate["type"] == row["type"]:
                candidate.pop("reference")  # an old one need not satisfy a rule that is new
            validate_source_fields(candidate)
            if fields.get("product_id", row["product_id"]) != row["product_id"]:
                raise ValueError("A Source stays with its Product")
            return {**fields, "updated_at": self.kernel.now()}

        return await self._change(SOURCE_TABLE, source_id, changed, user_id, lock=False)

    async def delete_source(self, source_id: str, user_id: str | None = None) -> bool:
        """Archive a source; whether it was there, live and `user_id`'s. 2 requests."""
        return await self._shelve(SOURCE_TABLE, source_id, user_id, live=True) is not None

    async def restore_source(self, source_id: str, user_id: str | None = None) -> Row | None:
        """Restore an archived source; the row then, None if there is no such. 2 requests."""
        return await self._shelve(SOURCE_TABLE, source_id, user_id, live=False)

    async def _shelve(self, table: Table, id: str, user_id: str | None, *, live: bool) -> Row | None:
        async def changed(row: Row) -> Columns:
            if (row["deleted_at"] is None) is not live:
                return None
            now = self.kernel.now()
            return {"deleted_at": now if live else None, "updated_at": now}

        return await self._change(table, id, changed, user_id, lock=False)

    # --- Projects ---------------------------------------------------------------------------------------------------

    async def create_project(self, project_data: Row, reuse: bool = False) -> Row:
        """Store a new project of a live product; the row. `reuse`: if there is one of this id it is given back. Raises
        as `create_product`, and `ValueError` if the product is missing or archived, or not the project's. 2 requests.
        """

        async def same(data: Row) -> Row | None:
            found = await self._one(PROJECT_TABLE, data["id"], None, True)
            if found is not None and found["product_id"] != data["product_id"]:
                raise ValueError("Project identity belongs to another Product")
            return found

        return await self._create(PROJECT_TABLE, project_data, same if reuse else None)

    async def get_project(
        self, project_id: str, user_id: str | None = None, include_deleted: bool = False
    ) -> Row | None:
        """Read one project; as `get_product`."""
        return await self._one(PROJECT_TABLE, project_id, user_id, include_deleted)

    async def get_projects(
        self,
        user_id: str | None = None,
        limit: int = 20,
        page: int = 1,
        include_deleted: bool = False,
        product_id: str | None = None,
        status: str | None = None,
        sort_by: str | None = None,
        sort_order: str | None = None,
    ) -> tuple[list[Row], int]:
        """A page of projects, and how many match in all; as `get_products`. Those of archived products are not among
        them, even with `include_deleted`, which reads the archived products besides."""
        where = [_live(include_deleted), *equal(product_id=product_id, status=status), *_owner(user_id)]
        return await self._page(PROJECT_TABLE, where, limit, page, sort_by, sort_order, parents=include_deleted)

    async def update_project(
        self, /, project_id: str, user_id: str | None = None, expected_status: str | None = None, **fields: Any
    ) -> Row | None:
        """Change a project's name, outcome or date; the row then, None as `update_product`, or if its status is not
        the expected one. Raises `ValueError` for other fields, or an archived product. 3 requests."""
        validate_project_fields(fields)

        async def changed(row: Row) -> Columns:
            if row["deleted_at"] is not None:
                return None
            if expected_status is not None and row["status"] != expected_status:
                return None
            return {**fields, "updated_at": self.kernel.now()}

        return await self._change(PROJECT_TABLE, project_id, changed, user_id)

    async def get_project_counts(self, project_ids: list[str]) -> dict[str, Row]:
        """Of each project, how many tasks it has in each status, zeros included. Eventually consistent on DynamoDB. 1
        request for each, its index entries only."""

        async def count(project_id: str) -> Row:
            where = (Eq("project_id", check_id("project_id", project_id)), Eq("live", True))
            return {"tasks": await self._by_status(where)}

        ids = list(dict.fromkeys(project_ids))
        return dict(zip(ids, await self.kernel.io.gather(*map(count, ids)), strict=True))

    async def _by_status(self, where: tuple[Condition, ...]) -> dict[str, int]:
        found = await self.kernel.page(Query(TASKS, where), body=False)
        counts = Counter(str(record.fields["status"]) for record in found)
        return {**dict.fromkeys(TASK_TRANSITIONS, 0), **counts}

    async def delete_project(
        self, project_id: str, user_id: str | None = None, updated_before: int | None = None
    ) -> bool:
        """Archive a project with its tasks; whether it was there, live and `user_id`'s, and, with `updated_before`
        (epoch s), ended, last changed before it and without open tasks. Raises as `delete_product`, and `ValueError` if
        the product is archived. Commits as `delete_product`. 4 requests, and 1 for each further 40; it reads all
        tasks of the product."""

        async def attempt(fresh: bool) -> bool:
            at = await self.kernel.get(PROJECT_TABLE.ref(project_id))
            if at is None or not _owned(row := PROJECT_TABLE.row(at), user_id):
                return False
            touch = await self._lock(PROJECT_TABLE, row)
            await self._settle(PROJECT_TABLE, at)
            if row["deleted_at"] is not None:
                return False
            if updated_before is not None and not _is_old(row, updated_before):
                return False
            tasks = await self._tasks_of(row)
            _refuse_open(task for _, task in tasks)
            if updated_before is not None and any(task["status"] not in ENDED for _, task in tasks):
                return False
            await self._move(PROJECT_TABLE, at, ARCHIVE, [(TASK_TABLE, tasks)], touch)
            return True

        return await self.kernel.transact(f"archive of project {project_id!r}", attempt)

    async def restore_project(self, project_id: str, user_id: str | None = None) -> Row | None:
        """Restore an archived project of a live product, with the tasks that were archived with it; the row then, None
        if there is no such. Raises `ValueError` if the product is archived. Commits as `restore_product`; requests as
        `delete_project`."""

        async def attempt(fresh: bool) -> Row | None:
            at = await self.kernel.get(PROJECT_TABLE.ref(project_id))
            if at is None or not _owned(row := PROJECT_TABLE.row(at), user_id):
                return None
            touch = await self._lock(PROJECT_TABLE, row)
            await self._settle(PROJECT_TABLE, at)
            if row["deleted_at"] is None:
                return None
            return await self._move(PROJECT_TABLE, at, RESTORE, await self._under(PROJECT_TABLE, row), touch)

        return await self.kernel.transact(f"restoration of project {project_id!r}", attempt)

    async def transition_project(
        self,
        project_id: str,
        target: str,
        reason: str,
        user_id: str | None = None,
        accepted_by: str | None = None,
        expected_updated_at: int | None = _UNSET_UPDATED_AT,
        auto_accept: Row | None = None,
    ) -> Row | None:
        """Take a step of a project's lifecycle, if it is as it was when it was looked at; the row then. None if it is
        not there, archived, not `user_id`'s, or another's step came first.

        `expected_updated_at`: epoch s, or None for null, that `updated_at` has to be. `auto_accept`: the routine, its
        policy and limit on whose account a project is done; the limit holds over all products, whoever accepts at once.
        Raises `ValueError` for a step that there is not, for open tasks, for a product that is archived, and, be there
        such a project or not, for a limit reached. 3 requests; to be done, the product's tasks besides; with
        `auto_accept`, 3 more and the routine's tasks and the projects that it accepted.
        """

        if auto_accept is not None and (target != "done" or expected_updated_at is _UNSET_UPDATED_AT):
            raise ValueError("Automatic completion requires expected_updated_at and a Project with Tasks")

        async def step(row: Row) -> Row:
            unfinished: list[Row] = []
            if target == "done":
                unfinished = [task for _, task in await self._tasks_of(row) if task["status"] not in ENDED]
            return project_transition_fields(row, target, reason, accepted_by, tasks=unfinished)

        return await self._transition(PROJECT_TABLE, project_id, step, user_id, expected_updated_at, auto_accept)

    # --- Tasks ------------------------------------------------------------------------------------------------------

    async def create_task(self, task_data: Row) -> Row:
        """Store a new task of a live product, and project if it has one; the row. If the product has a task of this
        `dedupe_key` already, that one is given back. Raises as `create_product`, and `ValueError` if a parent is
        missing, archived, another product's, or ended while the task is not. 2 to 5 requests."""

        async def same(data: Row) -> Row | None:
            project_id, product_id = data.get("project_id"), data["product_id"]
            await self._check_project(project_id, product_id, None)
            if data.get("dedupe_key") is not None:
                id = await holder(self.kernel, TASKS, "proposal", _proposal(product_id, data["dedupe_key"]))
                found = await self._one(TASK_TABLE, id, None, True) if id is not None else None
                if found is not None:
                    return found
            await self._check_project(project_id, product_id, data.get("status", "backlog"))
            return None

        return await self._create(TASK_TABLE, task_data, same)

    async def get_task(self, task_id: str, user_id: str | None = None, include_deleted: bool = False) -> Row | None:
        """Read one task; as `get_product`."""
        return await self._one(TASK_TABLE, task_id, user_id, include_deleted)

    async def get_tasks(
        self,
        user_id: str | None = None,
        limit: int = 20,
        page: int = 1,
        include_deleted: bool = False,
        product_id: str | None = None,
        status: str | None = None,
        project_id: str | None = None,
        failed: bool | None = None,
        session_id: str | None = None,
        sort_by: str | None = None,
        sort_order: str | None = None,
    ) -> tuple[list[Row], int]:
        """A page of tasks, and how many match in all; as `get_products`. `failed`: whether a task is in progress and
        its last run failed. Those of archived products and projects are not among them, even with `include_deleted`,
        which reads the archived ones besides."""
        where = [
            _live(include_deleted),
            *equal(session_id=session_id, project_id=project_id, product_id=product_id, status=status),
            *_owner(user_id),
        ]
        if failed is not None:
            where.append(Eq("failed", bool(failed)))
        return await self._page(TASK_TABLE, where, limit, page, sort_by, sort_order, parents=include_deleted)

    async def update_task(self, /, task_id: str, user_id: str | None = None, **fields: Any) -> Row | None:
        """Change a task that is in the backlog; the row then, None as `update_product`, or if it is not. Raises
        `ValueError` for other fields, an archived parent, or a project it cannot go to. 3 to 5 requests."""
        validate_task_fields(fields)

        async def changed(row: Row) -> Columns:
            if fields.get("project_id") is not None:
                await self._check_project(fields["project_id"], row["product_id"], "backlog")
            if row["deleted_at"] is not None or row["status"] != "backlog":
                return None
            return {**fields, "updated_at": self.kernel.now()}

        return await self._change(TASK_TABLE, task_id, changed, user_id)

    async def delete_task(self, task_id: str, user_id: str | None = None, updated_before: int | None = None) -> bool:
        """Archive a task, whatever its status; whether it was there, live and `user_id`'s, and, with `updated_before`
        (epoch s), ended and last changed before it. Raises `ValueError` if a parent is archived. 3 or 4 requests."""

        async def changed(row: Row) -> Columns:
            if row["deleted_at"] is not None:
                return None
            if updated_before is not None and not _is_old(row, updated_before):
                return None
            now = self.kernel.now()
            return {"deleted_at": now, "updated_at": now}

        return await self._change(TASK_TABLE, task_id, changed, user_id) is not None

    async def restore_task(self, task_id: str, user_id: str | None = None) -> Row | None:
        """Restore an archived task; the row then, None if there is no such. Raises `ValueError` if a parent is
        archived. 3 or 4 requests."""

        async def changed(row: Row) -> Columns:
            if row["deleted_at"] is None:
                return None
            now = self.kernel.now()
            columns: Row = {"deleted_at": None, "updated_at": now}
            # What was archived alone has no event of it, for queued work is fenced by the history.
            history = row["transitions"] or []
            if history and history[-1].get("action") == "archive":
                columns["transitions"] = _event(row, "restore", now)
            return columns

        return await self._change(TASK_TABLE, task_id, changed, user_id)

    async def transition_task(
        self,
        task_id: str,
        target: str,
        reason: str,
        user_id: str | None = None,
        accepted_by: str | None = None,
        executor_type: str | None = None,
        executor_id: str | None = None,
        expected_updated_at: int | None = _UNSET_UPDATED_AT,
        auto_accept: Row | None = None,
    ) -> Row | None:
        """Take a step of a task's lifecycle; as `transition_project`, but without `auto_accept` what is archived is
        None whatever its product is. 3 or 4 requests; with `auto_accept`, 3 more and what has the routine."""

        if auto_accept is not None and expected_updated_at is _UNSET_UPDATED_AT:
            raise ValueError("Automatic acceptance requires expected_updated_at and a Product")

        async def step(row: Row) -> Row:
            return task_transition_fields(row, target, reason, accepted_by, executor_type, executor_id)

        return await self._transition(TASK_TABLE, task_id, step, user_id, expected_updated_at, auto_accept)

    async def start_task_run(
        self,
        task_id: str,
        attempt: int,
        expected_transitions: list[Row],
        user_id: str | None = None,
        run_db_id: str | None = None,
        session_user_id: str | None = None,
    ) -> Row | None:
        """Begin an attempt at a task, if its history is still the expected one; the row then, else None. Raises
        `ValueError` for an attempt that is not the next, or work that was not accepted. 2 requests."""

        async def started(row: Row) -> Columns:
            if row["deleted_at"] is not None or row["transitions"] != expected_transitions:
                return None
            return task_run_fields(row, attempt, user_id, run_db_id, session_user_id)

        return await self._change(TASK_TABLE, task_id, started, lock=False)

    async def complete_task_run(
        self,
        task_id: str,
        job_id: str,
        result: Row,
        expected_transitions: list[Row] | None = None,
        checkout: Row | None = None,
    ) -> Row | None:
        """Note the result of a task's run, once, and move a completed task to review; the row then. None if the task is
        no longer in progress with this job, has a result, or another history than the expected one. 2 requests."""

        async def completed(row: Row) -> Columns:
            current = row["job_id"] == job_id and row["status"] == "in_progress" and row["result"] is None
            if row["deleted_at"] is not None or not current:
                return None
            if expected_transitions is not None and row["transitions"] != expected_transitions:
                return None
            columns: Row = {"updated_at": self.kernel.now()}
            if result.get("status") == "COMPLETED":
                columns = task_transition_fields(row, "in_review", "Execution completed; human review required")
            if checkout is not None:
                columns["metadata"] = {**(row["metadata"] or {}), "checkout": checkout}
            return {**columns, "result": result}

        return await self._change(TASK_TABLE, task_id, completed, lock=False)

    async def count_company_acceptances(
        self, routine_id: str, policy: str, exclude_task_id: str, user_id: str | None = None
    ) -> int:
        """How many tasks and projects were accepted on a routine's account under a policy, archived ones among them,
        but for one task. Eventually consistent on DynamoDB. 2 requests, and what has the routine."""
        tasks, projects = await self._with_routine(check_id("routine_id", routine_id))
        rows = [row for row in tasks if row["id"] != exclude_task_id] + projects
        histories = [row["transitions"] for row in rows if _owned(row, user_id)]
        return _acceptances(histories, routine_id, policy)

    # --- What they have in common -----------------------------------------------------------------------------------

    async def _one(self, table: Table, id: Any, user_id: Any, include_deleted: bool) -> Row | None:
        stored = await self.kernel.get(table.ref(id))
        row = table.row(stored) if stored is not None else None
        if row is None or not _owned(row, user_id) or not (include_deleted or row["deleted_at"] is None):
            return None
        return row

    async def _page(
        self,
        table: Table,
        where: list[Condition],
        limit: int,
        page: int,
        sort_by: Any,
        sort_order: Any,
        *,
        parents: bool = False,
    ) -> tuple[list[Row], int]:
        """`parents`: look for what archived parents hide. Else there is no live row of such."""
        column, order = company_sort(sort_by, sort_order)
        if limit < 1 or page < 1:
            raise ValueError("limit and page must be positive")
        if parents:
            archived = await self._archived_ids(PRODUCTS)
            where.append(NotIn("product_id", archived))
            if table is TASK_TABLE:
                where.append(NotIn("project_id", await self._archived_ids(PROJECTS)))
        sort = "touched_at" if column == "updated_at" else column
        query = Query(table.kind, tuple(where), sort, order == "desc")
        offset = (page - 1) * limit
        found, total = await self.kernel.page_and_total(query, offset=offset, limit=limit)
        return [table.row(stored) for stored in found], total

    async def _archived_ids(self, kind: Any) -> tuple[str, ...]:
        return tuple(record.ref.id for record in await self.kernel.page(Query(kind, (Eq("live", False),)), body=False))

    async def _children(self, table: Table, product_id: str) -> Children:
        """All of a product, whole, as they are at this moment."""
        span = Span(table.kind.name, "of_product", (check_id("product_id", product_id),))
        return [(stored, table.row(stored)) for stored in await self.kernel.span(span)]

    async def _tasks_of(self, project: Row) -> Children:
        tasks = await self._children(TASK_TABLE, project["product_id"])
        return [(stored, row) for stored, row in tasks if row["project_id"] == project["id"]]

    async def _lock(self, table: Table, row: Row) -> list[Write]:
        """The write by which a change of a product's hierarchy is one step with all others; for a task, its project is
        looked at as well. Raises `ValueError` if one of them is missing or archived."""
        product = await self._parent(PRODUCT_TABLE, row["product_id"])
        if product is None or not product.fields["live"]:
            raise ValueError("Product is missing or archived")
        if table is TASK_TABLE:
            await self._check_project(row["project_id"], row["product_id"], None)
        return [Touch(product.ref, None, product.rev)]

    async def _check_project(self, project_id: Any, product_id: Any, task_status: str | None) -> None:
        if project_id is None:
            return
        project = await self._parent(PROJECT_TABLE, project_id)
        if project is None or not project.fields["live"]:
            raise ValueError("Project is missing or archived")
        row = PROJECT_TABLE.row(project)
        if row["product_id"] != product_id:
            raise ValueError("Task and Project must belong to the same Product")
        if task_status is not None and task_status not in ENDED and row["status"] in ENDED:
            raise ValueError("Cannot add open work to a completed or cancelled Project")

    async def _insert(self, table: Table, data: Row, touch: Sequence[Write]) -> Row:
        new = table.new(data)
        put = table.put(new, Expect.ABSENT)
        try:
            await self.kernel.commit([put, *touch])
        except Conflict:
            from agno_docstores.errors import DuplicateError

            if await self.kernel.get(put.ref) is not None:
                raise DuplicateError(table.kind.name, put.ref.id) from None
            raise
        return new

    async def _create(self, table: Table, data: Row, same: Callable[[Row], Awaitable[Row | None]] | None) -> Row:
        """Store a child of a live product, unless `same` finds that it is there."""
        table.new(data)

        async def attempt(fresh: bool) -> Row:
            touch = await self._lock(PRODUCT_TABLE, data)
            found = await same(data) if same is not None else None
            if found is not None:
                return found
            from agno_docstores.errors import DuplicateError

            try:
                return await self._insert(table, data, touch)
            except DuplicateError as error:
                if error.field is None:
                    raise
                raise Conflict([table.ref(data["id"])]) from error  # another made the proposal just now

        return await self.kernel.transact(f"insertion into {table.kind.name} of {data['id']!r}", attempt)

    async def _change(
        self,
        table: Table,
        id: str,
        decide: Callable[[Row], Awaitable[Columns]],
        user_id: str | None = None,
        *,
        lock: bool = True,
    ) -> Row | None:
        """Set the columns that `decide` gives for the row as it is, in one step, with `lock` with its product's
        hierarchy; the row then. None if there is no such row of `user_id`'s, who is told no more than that, or `decide`
        gives None; it may be called again."""
        ref = table.ref(id)

        async def attempt(fresh: bool) -> Row | None:
            stored = await self.kernel.get(ref)
            if stored is None:
                return None
            row = table.row(stored)
            if not _owned(row, user_id):
                return None
            await self._settle(table, stored)
            touch = await self._lock(table, row) if lock else []
            columns = await decide(dict(row))
            if not columns:
                return None if columns is None else row
            table.check(columns)
            after = table.new({**row, **columns})
            await self.kernel.commit([table.put(after, stored.rev), *touch])
            return after

        return await self.kernel.transact(f"change of {table.kind.name} {ref.id!r}", attempt)

    async def _transition(
        self,
        table: Table,
        id: str,
        step: Callable[[Row], Awaitable[Row]],
        user_id: str | None,
        expected_updated_at: int | None,
        auto_accept: Row | None,
    ) -> Row | None:
        ref = table.ref(id)
        seen: tuple[Any, Any] | None = None

        async def attempt(fresh: bool) -> Row | None:
            nonlocal seen
            at = await self.kernel.get(ref)
            if at is not None and not _owned(table.row(at), user_id):
                at = None
            live = at is not None and bool(at.fields["live"])
            if not live and table is TASK_TABLE and auto_accept is None:
                return None  # of all else the product, and the limit, are looked at first
            touch: list[Write] = []
            if at is not None:
                await self._settle(table, at)
                touch = await self._lock(table, table.row(at))
            routine = await self._within_limit(auto_accept, table, ref.id) if auto_accept is not None else None
            if at is None or not live:
                return None
            row = table.row(at)
            before, seen = seen, (row["status"], row["transitions"])
            if before not in (None, seen):
                return None  # another's step came first
            columns = await step(row)
            if expected_updated_at is not _UNSET_UPDATED_AT and row["updated_at"] != expected_updated_at:
                return None
            if auto_accept is not None and routine is not None:
                columns["transitions"][-1]["auto_accept"] = auto_accept
                touch += _accepted(routine, auto_accept, table, {**row, **columns})
            table.check(columns)
            after = table.new({**row, **columns})
            await self.kernel.commit([table.put(after, at.rev), *touch])
            return after

        return await self.kernel.transact(f"change of {table.kind.name} {ref.id!r}", attempt)

    async def _within_limit(self, auto_accept: Row, table: Table, id: str) -> tuple[Put, list[list[Any]]]:
        """The record of what a routine has accepted, to be written with one more, and what it has. Raises `ValueError`
        if the limit is reached; the row of this id does not count.

        What came with its history when it was created is in no such record. An index finds it, if late.
        """
        routine_id, policy = check_id("routine_id", auto_accept["routine_id"]), auto_accept["policy"]
        ref = Ref(ACCEPTANCES.name, routine_id)
        stored = await self.kernel.get(ref)
        noted = list((stored.body or {}).get("accepted", NULL).value() or ()) if stored is not None else []
        tasks, projects = await self._with_routine(routine_id)
        counted = {(kind, one) for accepted, kind, one in noted if accepted == policy}
        for kind, rows in ((TASKS.name, tasks), (PROJECTS.name, projects)):
            counted |= {(kind, row["id"]) for row in rows if _acceptances([row["transitions"]], routine_id, policy)}
        if len(counted - {(table.kind.name, id)}) >= auto_accept["max_acceptances"]:
            raise ValueError("Routine acceptance limit reached")
        return Put(ref, {}, {}, Expect.ABSENT if stored is None else stored.rev), noted

    async def _with_routine(self, routine_id: str) -> tuple[list[Row], list[Row]]:
        """The tasks of a routine, and the projects that it accepted."""
        tasks = await self.kernel.page(Query(TASKS, (Eq("routine_id", routine_id),)))
        projects = await self.kernel.page(Query(PROJECTS, (Has("routines", routine_id),)))
        return [TASK_TABLE.row(stored) for stored in tasks], [PROJECT_TABLE.row(stored) for stored in projects]

    # --- Archives and restorations ----------------------------------------------------------------------------------

    async def _parent(self, table: Table, id: Any, user_id: Any = None) -> Stored | None:
        """A product or project that no move is under way of; None if there is no such of `user_id`'s. Raises
        `Conflict`."""
        at = await self.kernel.get(table.ref(id))
        if at is None or not _owned(table.row(at), user_id):
            return None
        await self._settle(table, at)
        return at

    async def _settle(self, table: Table, at: Stored) -> None:
        """Finish the move that a product or project is in the middle of, if it is: then raises `Conflict`, to have the
        caller look again."""
        if at.fields.get("moving") is not None:
            await self._go_on(table, at)
            raise Conflict([at.ref])

    async def _go_on(self, table: Table, at: Stored) -> None:
        await self._move(table, at, str(at.fields["moving"]), await self._under(table, table.row(at)))

    async def _under(self, table: Table, row: Row) -> list[tuple[Table, Children]]:
        """The children that may go with a product, or a project: projects, then tasks."""
        if table is PROJECT_TABLE:
            return [(TASK_TABLE, await self._tasks_of(row))]
        return [(child, await self._children(child, row["id"])) for child in (PROJECT_TABLE, TASK_TABLE)]

    async def _move(
        self,
        table: Table,
        at: Stored,
        to: str,
        children: Sequence[tuple[Table, Children]],
        touch: Sequence[Write] = (),
    ) -> Row:
        """Archive or restore a parent with those of its children that go with it, or go on with that; its row then.
        `touch`: what the first step is one with. Raises `Conflict`, unless it is this call that began."""
        row, now = table.row(at), self.kernel.now()
        parent = {"type": "product" if table is PRODUCT_TABLE else "project", "id": row["id"]}
        # Projects come back before their tasks, and go after them.
        moved, order = (_archived, -1) if to == ARCHIVE else (_restored, 1)
        writes = [write for child, found in children[::order] for write in moved(child, found, parent, now)]
        after = row
        if (row["deleted_at"] is None) is (to == ARCHIVE):
            after = {**row, "deleted_at": now if to == ARCHIVE else None, "updated_at": now}
            if table is PROJECT_TABLE:
                after["transitions"] = _event(row, to, now)
        parts = [writes[start : start + MOST_CHILDREN] for start in range(0, len(writes), MOST_CHILDREN)] or [[]]
        marked, begun, rev = at.fields.get("moving") is not None, False, at.rev
        try:
            for part in parts[:-1]:
                live = table.put(row if to == ARCHIVE else after, rev, {"moving": to})
                (left, *_) = await self.kernel.commit([Touch(at.ref, None, rev) if marked else live, *touch, *part])
                assert left is not None
                marked, begun, rev, touch = True, begun or not marked, left, ()
            await self.kernel.commit([table.put(after, rev), *touch, *parts[-1]])
        except Conflict:
            if not begun:
                raise
            # Another changed a child, or went on with this; what comes after the move is not undone.
            await self.kernel.transact(f"{to} of {table.kind.name} {at.ref.id!r}", partial(self._finish, table, at.ref))
        return after

    async def _finish(self, table: Table, ref: Ref, fresh: bool) -> None:
        at = await self.kernel.get(ref)
        if at is not None and at.fields.get("moving") is not None:
            await self._go_on(table, at)


def _owned(row: Row, user_id: Any) -> bool:
    return user_id is None or row["user_id"] == owner(user_id)


def _owner(user_id: Any) -> list[Condition]:
    return [] if user_id is None else [Eq("user_id", owner(user_id))]


def _live(include_deleted: bool) -> Condition:
    return In("live", (True, False)) if include_deleted else Eq("live", True)


def _settings(config: Any) -> Row:
    """A source's configuration, without the notes of its readers."""
    return {key: value for key, value in (config or {}).items() if key != "metadata"}


def _acceptances(histories: Sequence[Any], routine_id: str, policy: Any) -> int:
    return int(_acceptance_count(histories, routine_id, policy))  # type: ignore[no-untyped-call]


def _accepted(routine: tuple[Put, list[list[Any]]], auto_accept: Row, table: Table, after: Row) -> list[Write]:
    """The write that notes an acceptance with its routine, if it counts."""
    put, noted = routine
    routine_id, entry = auto_accept["routine_id"], [auto_accept["policy"], table.kind.name, after["id"]]
    own = table is PROJECT_TABLE or after["routine_id"] == routine_id
    if entry in noted or not own or not _acceptances([after["transitions"]], routine_id, auto_accept["policy"]):
        return []
    accepted = [*noted, entry]
    return [replace(put, fields={"number": len(accepted)}, body={"accepted": Json.of(accepted, "accepted")})]


def _is_old(row: Row, before: int) -> bool:
    return row["status"] in ENDED and as_int(touched_at(row)) < before


def _refuse_open(tasks: Iterable[Row]) -> None:
    found = sorted((row["id"], row["title"]) for row in tasks if row["status"] in OPEN)
    if found:
        tasks = [{"id": id, "title": title} for id, title in found]
        raise ValueError({"message": "Cannot archive with active Tasks", "tasks": tasks})


def _event(row: Row, action: str, now: int, parent: Row | None = None) -> list[Row]:
    """A row's history with the event that it is archived or restored; `parent`: with which."""
    event = {
        "action": action,
        "from": row["status"],
        "target": row["status"],
        "reason": "Parent archived" if parent else ("Archived" if action == "archive" else "Restored"),
        "created_at": now,
        "user_id": None,
        "archived_by": parent,
    }
    return [*(row["transitions"] or []), event]


def _archived(table: Table, children: Children, parent: Row, now: int) -> list[Write]:
    """The archive of those that are live, with a parent."""
    return [
        table.put(
            {**row, "deleted_at": now, "updated_at": now, "transitions": _event(row, "archive", now, parent)}, at.rev
        )
        for at, row in children
        if row["deleted_at"] is None
    ]


def _restored(table: Table, children: Children, parent: Row, now: int) -> list[Write]:
    """The restoration of those that were last archived with this very parent."""
    found: list[Write] = []
    for at, row in children:
        last = (row["transitions"] or [{}])[-1]
        if row["deleted_at"] is None or last.get("action") != "archive" or last.get("archived_by") != parent:
            continue
        after = {**row, "deleted_at": None, "updated_at": now, "transitions": _event(row, "restore", now)}
        found.append(table.put(after, at.rev))
    return found

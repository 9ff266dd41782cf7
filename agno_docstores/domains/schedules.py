"""Schedules and their runs: what `BaseDb` says of them (contract 1.10), over the kernel.

Invariants: a name is an owner's once, and nobody's once; a due schedule is claimed by one of the workers that ask,
under all conditions at once, and released by the one that holds it only; none is claimed whose target is archived;
ownership, provenance and locks change by the methods for them alone; no run outlives its schedule. A read that fails is
never "nothing due".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agno.db.schemas.scheduler import RUN_ENDPOINT_RE, build_run_endpoint, validate_schedule_update

from agno_docstores import keys
from agno_docstores.domains.listing import label
from agno_docstores.domains.owned import owner
from agno_docstores.errors import Conflict, ScheduleNotFoundError
from agno_docstores.kernel import Kernel, Query
from agno_docstores.keys import check_id
from agno_docstores.port import Condition, Delete, Eq, FieldValue, Range, Ref, Stored, as_int
from agno_docstores.rows import Row, Rows, Table, answered
from agno_docstores.schema import COMPONENTS, SCHEDULE_RUNS, SCHEDULES
from agno_docstores.uniqueness import holder

PROVENANCE = frozenset(
    {
        "managed_by",
        "target_type",
        "target_id",
        "created_by_run_id",
        "created_by_session_id",
        "updated_by_run_id",
        "updated_by_session_id",
    }
)
CANDIDATES = 20  # due schedules that are looked at together for one to claim
GRACE = 300  # seconds after which Agno has a lock taken over: what the place of a locked schedule reckons with


def _name_of(user_id: Any, name: Any) -> str:
    return keys.encode((owner(user_id), str(name)))


def _derived(row: Row) -> Mapping[str, FieldValue]:
    queue: str | None
    if not row["enabled"] or row["next_run_at"] is None:
        queue, due = None, None
    elif row["locked_by"] is None:
        queue, due = "waiting", row["next_run_at"]
    else:
        # Apart, so that no claim has to look through what others are at work on; nor, where it was put off while it
        # was locked, through what is not due.
        queue, due = "claimed", row["locked_at"]
        due = None if due is None else max(as_int(due), as_int(row["next_run_at"]) - GRACE)
    return {
        "unique_name": _name_of(row["user_id"], row["name"]),
        "queue": queue,
        "due_at": due,
        "endpoint": str(row["endpoint"]).rstrip("/"),
    }


SCHEDULE_TABLE = Table(
    SCHEDULES,
    (
        "id",
        "name",
        "description",
        "method",
        "endpoint",
        "payload",
        "cron_expr",
        "timezone",
        "timeout_seconds",
        "max_retries",
        "retry_delay_seconds",
        "enabled",
        "next_run_at",
        "locked_by",
        "locked_at",
        "user_id",
        "managed_by",
        "target_type",
        "target_id",
        "created_by_run_id",
        "created_by_session_id",
        "updated_by_run_id",
        "updated_by_session_id",
        "disabled_reason",
        "created_at",
        "updated_at",
    ),
    frozenset(
        {
            "id",
            "name",
            "method",
            "endpoint",
            "cron_expr",
            "timezone",
            "timeout_seconds",
            "max_retries",
            "retry_delay_seconds",
            "enabled",
            "created_at",
        }
    ),
    {"enabled": True},
    _derived,
)
RUN_TABLE = Table(
    SCHEDULE_RUNS,
    (
        "id",
        "schedule_id",
        "attempt",
        "triggered_at",
        "completed_at",
        "status",
        "status_code",
        "run_id",
        "session_id",
        "error",
        "input",
        "output",
        "requirements",
        "user_id",
        "created_at",
    ),
    frozenset({"id", "schedule_id", "attempt", "status", "created_at"}),
    {},
    lambda row: {},
)


class Schedules:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.schedules = Rows(kernel, SCHEDULE_TABLE)
        self.runs = Rows(kernel, RUN_TABLE)

    # --- Schedules --------------------------------------------------------------------------------------------------

    async def get_schedule(self, schedule_id: str, user_id: str | None = None) -> Row | None:
        """Read one schedule; None if it does not exist or is not `user_id`'s. Linearizable. 1 request. A failed read is
        logged, and None, as the contract has it."""
        found = await answered(self.schedules.get(schedule_id), None, f"schedule {schedule_id!r} could not be read")
        return found if found is not None and _owned(found, user_id) else None

    async def get_schedule_by_name(self, name: str, user_id: str | None = None) -> Row | None:
        """The schedule of this name that is `user_id`'s; without a user, nobody's. 2 requests. A failed read is logged,
        and None."""
        if user_id == "":
            return None
        what = f"schedule {name!r} of {user_id!r} could not be read"
        return await answered(self._named(_name_of(user_id, name)), None, what)

    async def _named(self, unique_name: str) -> Row | None:
        id = await holder(self.kernel, SCHEDULES, "unique_name", unique_name)
        row = await self.schedules.get(id) if id is not None else None
        # It may have been renamed between the two.
        return row if row is not None and _name_of(row["user_id"], row["name"]) == unique_name else None

    async def get_schedules(
        self,
        enabled: bool | None = None,
        limit: int = 100,
        page: int = 1,
        user_id: str | None = None,
        raise_on_error: bool = False,
    ) -> tuple[list[Row], int]:
        """A page of schedules, the latest first, and how many match in all. Eventually consistent on DynamoDB. 1 to 3
        requests; by `enabled` and a user, the headers of his. A failed read is logged, and empty, unless
        `raise_on_error`."""
        where: list[Condition] = [] if user_id is None else [Eq("user_id", label("user_id", user_id))]
        if enabled is not None:
            where.append(Eq("enabled", enabled))
        work = self.schedules.page(where, "created_at", limit, page)
        if raise_on_error:
            return await work
        return await answered(work, ([], 0), "schedules could not be listed")

    async def create_schedule(self, schedule_data: Row) -> Row:
        """Store a new schedule, as given; what was given. Raises `DuplicateError`, which Agno takes for a unique
        violation, if the id is in use, or the owner has a schedule of this name; `ValueError` for a column that there
        is not, or that is missing. 2 requests.

        A run that was there before belongs to another schedule of that id, and its creator died before he saw that this
        one was gone: it is removed. A failure of that is logged."""
        id = SCHEDULE_TABLE.ref(SCHEDULE_TABLE.new(schedule_data)["id"]).id
        before = await self.kernel.page(Query(SCHEDULE_RUNS, (Eq("schedule_id", id),), "created_at"), body=False)
        # It is new, so there was none of that id, and what was read before is nobody's.
        await self.schedules.insert(schedule_data)
        await answered(self._remove_runs(before), 0, f"runs of a former schedule {id!r} were not removed")
        return schedule_data

    async def update_schedule(self, /, schedule_id: str, user_id: str | None = None, **kwargs: Any) -> Row | None:
        """Change a schedule's mutable columns; the row then, None if there is none or it is not `user_id`'s.

        `updated_at` becomes now (epoch s); enabling clears `disabled_reason`. Raises `ValueError` for other columns and
        for a null in one that may have none, `DuplicateError` for a name that the owner has given already. Another
        failure is logged, and None. 2 requests.
        """
        validate_schedule_update(kwargs)
        if kwargs.get("enabled") is True:
            kwargs.setdefault("disabled_reason", None)

        def changed(row: Row) -> Row | None:
            return {**kwargs, "updated_at": self.kernel.now()} if _owned(row, user_id) else None

        work = self.schedules.change(schedule_id, changed)
        return await answered(work, None, f"schedule {schedule_id!r} was not changed")

    async def delete_schedule(self, schedule_id: str, user_id: str | None = None) -> bool:
        """Delete a schedule and its runs, whosever they are; whether it was there and `user_id`'s. What an interrupted
        call leaves, its repetition removes. A failure is logged, and False. 5 requests, and the runs."""
        if schedule_id == "":
            return False
        return await answered(self._delete(schedule_id, user_id), False, f"schedule {schedule_id!r} was not deleted")

    async def _delete(self, schedule_id: str, user_id: str | None) -> bool:
        found = await self.schedules.get(schedule_id)
        if found is not None and not _owned(found, user_id):
            return False
        # The runs first: so the schedule is there to find them by until all are gone.
        where = (Eq("schedule_id", schedule_id),)
        await self._delete_runs(where)
        gone = await self.schedules.delete(schedule_id, lambda row: _owned(row, user_id))
        # Whoever stores a run looks afterwards whether the schedule is there; of those who still saw it, this is rid.
        await self._delete_runs(where)
        return gone

    async def disable_schedules_for_target(self, target_type: str, target_id: str, reason: str | None = None) -> int:
        """Disable every enabled schedule that is aimed at a component, by its target or its endpoint, whosever it is;
        how many. `reason` becomes their `disabled_reason`. A failure raises; repeating the call goes on. Eventually
        consistent on DynamoDB: it may miss one that was aimed there a moment ago. 2 requests, and 2 for each."""
        disabled = disabling(target_type, target_id, reason, self.kernel.now())
        aimed = await aimed_at(self.kernel, target_type, target_id)
        changed = [await self.schedules.change(stored.ref.id, disabled) for stored in aimed]
        return sum(row is not None for row in changed)

    async def stamp_schedule_provenance(self, /, schedule_id: str, **provenance: Any) -> bool:
        """Set columns that say where a schedule comes from and what it is aimed at; whether there is such a schedule.
        Raises `ValueError` for other columns, and on a failure. 2 requests."""
        rejected = sorted(set(provenance) - PROVENANCE)
        if rejected:
            raise ValueError(f"stamp_schedule_provenance cannot write {rejected}")
        columns = {**provenance, "updated_at": self.kernel.now()}
        return await self.schedules.change(schedule_id, lambda row: columns) is not None

    # --- Work -------------------------------------------------------------------------------------------------------

    async def claim_due_schedule(self, worker_id: str, lock_grace_seconds: int = 300) -> Row | None:
        """Claim the schedule that has been due longest, enabled, and not locked, or locked longer ago than the grace;
        the row as claimed, None if there is none, or others were faster.

        Of any number of workers one gets it: the conditions are checked again in the step that takes the lock, which is
        as old as that step. Of more than 20 whose locks have run out, those locked longest ago are looked at first. One
        that is aimed at a component that is archived is disabled, as the archive did with those that it saw, and not
        given. Raises on a failed read: that is not "nothing due". 3 requests, whatever is locked or due later
        (DynamoDB: two for each of the `listing_shards`, and 1), 1 more for one that is aimed at a component, and for
        each that another worker took first. With another grace than Agno's 300 s also what was locked between the two,
        or is left locked and due within their difference, is looked at.
        """
        now = self.kernel.now()
        queues = [
            Query(SCHEDULES, (Eq("queue", queue), Range("due_at", None, until)), "due_at")
            for queue, until in (("waiting", now), ("claimed", now - min(lock_grace_seconds, GRACE)))
        ]

        async def claim(found: list[tuple[Stored, Query]]) -> Row | None:
            candidates = [(SCHEDULE_TABLE.row(stored), stored) for stored, _ in found]
            due = [(row, stored) for row, stored in candidates if _claimable(row, now, lock_grace_seconds)]
            for row, stored in sorted(due, key=lambda one: (as_int(one[0]["next_run_at"]), one[1].ref.id)):
                claimed = {**row, "locked_by": worker_id, "locked_at": self.kernel.now()}
                try:
                    await self.kernel.commit([SCHEDULE_TABLE.put(claimed, stored.rev)])
                except Conflict:
                    continue
                if not await self._aims_at_what_is_gone(claimed):
                    return claimed
            return None

        return await self.kernel.first_of(queues, CANDIDATES, claim)

    async def _aims_at_what_is_gone(self, row: Row) -> bool:
        """Whether the component that a claimed schedule is aimed at is archived, or being removed: then it is disabled.

        The archive itself may have missed it: an index shows a new schedule late (DynamoDB), and where a commit holds
        one document only the schedules come after the component. Looked at once the lock is taken: so what is given was
        taken before the archive.
        """
        targets = targets_of(row)
        found = await self.kernel.headers([Ref(COMPONENTS.name, id) for _, id in targets])
        for (kind, id), component in zip(targets, found, strict=True):
            if component is None or component.fields.get("component_type") != kind or component.fields.get("live"):
                continue
            disabled = disabling(kind, id, archive_of(kind, id), self.kernel.now())

            def free(row: Row, disabled: Callable[[Row], Row | None] = disabled) -> Row | None:
                change = disabled(row)
                return None if change is None else {**change, "locked_by": None, "locked_at": None}

            await self.schedules.change(row["id"], free)
            return True
        return False

    async def release_schedule(
        self,
        schedule_id: str,
        next_run_at: int | None = None,
        *,
        worker_id: str | None = None,
        locked_at: int | None = None,
    ) -> bool:
        """Release a claim and say when the schedule is due next (None: as it is; never, if it has no cron); whether it
        was there, and locked by this worker, at this time, where these are named. A failure is logged, and False. 2
        requests."""

        def released(row: Row) -> Row | None:
            if worker_id is not None and row["locked_by"] != worker_id:
                return None
            if locked_at is not None and row["locked_at"] != locked_at:
                return None
            due = next_run_at if next_run_at is not None else row["next_run_at"]
            return {
                "locked_by": None,
                "locked_at": None,
                "next_run_at": None if row["cron_expr"] == "" else due,
                "updated_at": self.kernel.now(),
            }

        work = self.schedules.change(schedule_id, released)
        return await answered(work, None, f"schedule {schedule_id!r} was not released") is not None

    # --- Runs -------------------------------------------------------------------------------------------------------

    async def create_schedule_run(self, run_data: Row) -> Row:
        """Store a new run of a schedule, as given; what was given. Raises as `create_schedule`, and
        `ScheduleNotFoundError`. 2 requests."""
        check_id("schedule_id", RUN_TABLE.new(run_data)["schedule_id"])
        row = await self.runs.insert(run_data)
        if await self.schedules.get(row["schedule_id"]) is None:
            await self.runs.delete(row["id"])
            raise ScheduleNotFoundError(row["schedule_id"])
        return run_data

    async def update_schedule_run(self, /, schedule_run_id: str, **kwargs: Any) -> Row | None:
        """Change columns of a run; the row then. None if there is no such run or column, or what has to be there is to
        be null; it stays the run of its schedule. A failure is logged, and None. 2 requests."""
        if not RUN_TABLE.allows(schedule_run_id, kwargs):
            return None

        def changed(row: Row) -> Row | None:
            return kwargs if kwargs.get("schedule_id", row["schedule_id"]) == row["schedule_id"] else None

        work = self.runs.change(schedule_run_id, changed)
        return await answered(work, None, f"schedule run {schedule_run_id!r} was not changed")

    async def get_schedule_run(self, run_id: str, user_id: str | None = None) -> Row | None:
        """Read one run; None if it does not exist or is not `user_id`'s. Linearizable. 1 request. A failed read is
        logged, and None."""
        found = await answered(self.runs.get(run_id), None, f"schedule run {run_id!r} could not be read")
        return found if found is not None and _owned(found, user_id) else None

    async def get_schedule_runs(
        self, schedule_id: str, limit: int = 20, page: int = 1, user_id: str | None = None
    ) -> tuple[list[Row], int]:
        """A page of a schedule's runs, the latest first, and how many there are. Strongly consistent. 1 to 3 requests;
        of a user, the headers of the schedule's. A failed read is logged, and empty."""
        if schedule_id == "":
            return [], 0
        where: list[Condition] = [Eq("schedule_id", check_id("schedule_id", schedule_id))]
        if user_id is not None:
            where.append(Eq("user_id", label("user_id", user_id)))
        work = self.runs.page(where, "created_at", limit, page)
        return await answered(work, ([], 0), f"runs of schedule {schedule_id!r} could not be listed")

    async def get_latest_schedule_runs(self, schedule_ids: list[str]) -> dict[str, Row]:
        """The run of each schedule that was triggered last; schedules without runs are left out. Raises on a failed
        read. Eventually consistent on DynamoDB. 2 or 3 requests for each."""

        async def latest(schedule_id: str) -> Row | None:
            query = Query(SCHEDULE_RUNS, (Eq("schedule_id", schedule_id),), "triggered_at", descending=True)
            found = await self.kernel.page(query, limit=1)
            if not found:
                return None
            # Several may have been triggered in that second, or never.
            triggered = found[0].fields.get("triggered_at")
            same: tuple[Condition, ...] = (Eq("schedule_id", schedule_id), Eq("triggered_at", triggered))  # type: ignore[arg-type]
            rows = await self.runs.all(same, "triggered_at")
            return max(rows, key=lambda row: (as_int(row["created_at"]), row["id"]), default=None)

        ids = [check_id("schedule_id", id) for id in dict.fromkeys(schedule_ids) if id != ""]
        rows = await self.kernel.io.gather(*map(latest, ids))
        return {id: row for id, row in zip(ids, rows, strict=True) if row is not None}

    async def delete_schedule_runs(self, schedule_id: str, *, before: int) -> int:
        """Delete the runs of a schedule that were completed before a time (epoch s); how many. A failure raises;
        repeating the call goes on. The headers of the schedule's runs, and batches."""
        if schedule_id == "":
            return 0
        completed = Range("completed_at", None, before - 1)
        return await self._delete_runs((Eq("schedule_id", check_id("schedule_id", schedule_id)), completed))

    async def _delete_runs(self, where: Sequence[Condition]) -> int:
        return await self._remove_runs(
            await self.kernel.page(Query(SCHEDULE_RUNS, tuple(where), "created_at"), body=False)
        )

    async def _remove_runs(self, found: Sequence[Stored]) -> int:
        failed = await self.kernel.write_many(Delete(record.ref) for record in found)
        if failed:
            raise failed[0].error
        return len(found)


def _owned(row: Row, user_id: Any) -> bool:
    return user_id is None or row["user_id"] == label("user_id", user_id)


def _claimable(row: Row, now: int, grace: int) -> bool:
    """Whether a schedule is due and free: an index may be late, and one that is locked may have been put off."""
    if not row["enabled"] or row["next_run_at"] is None or as_int(row["next_run_at"]) > now:
        return False
    return row["locked_by"] is None or (row["locked_at"] is not None and as_int(row["locked_at"]) <= now - grace)


async def aimed_at(kernel: Kernel, target_type: str, target_id: str) -> list[Stored]:
    """The enabled schedules that are aimed at a component, by target or endpoint, whosever they are. Eventually
    consistent on DynamoDB. 2 requests, and theirs."""
    endpoint = build_run_endpoint(target_type, target_id)
    by_target = (Eq("target_id", target_id), Eq("target_type", target_type), Eq("enabled", True))
    by_endpoint = (Eq("endpoint", endpoint), Eq("enabled", True))
    found = [record for where in (by_target, by_endpoint) for record in await kernel.page(Query(SCHEDULES, where))]
    return list({record.ref.id: record for record in found}.values())


def targets_of(row: Row) -> list[tuple[str, str]]:
    """The components that a schedule is aimed at, by target and by endpoint, as type and id."""
    found = [(row["target_type"], row["target_id"])]
    endpoint = RUN_ENDPOINT_RE.fullmatch(str(row["endpoint"]))
    if endpoint is not None:
        found.append((endpoint.group(1).removesuffix("s"), endpoint.group(2)))
    return [(kind, id) for kind, id in dict.fromkeys(found) if isinstance(kind, str) and isinstance(id, str) and id]


def archive_of(target_type: str, target_id: str) -> str:
    """Why the schedules of a component that was archived, or removed, are disabled."""
    return f"target_archived:{target_type}:{target_id}"


def disabling(target_type: str, target_id: str, reason: str | None, now: int) -> Callable[[Row], Row | None]:
    """What disables a schedule that is (still) enabled and aimed at a component; None for another."""
    endpoint = build_run_endpoint(target_type, target_id)

    def disabled(row: Row) -> Row | None:
        aimed = (row["target_type"], row["target_id"]) == (target_type, target_id)
        if not row["enabled"] or not (aimed or row["endpoint"] in (endpoint, endpoint + "/")):
            return None
        return {"enabled": False, "disabled_reason": reason, "updated_at": now}

    return disabled

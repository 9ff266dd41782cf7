"""Schedules, approvals, accounts, tokens and roles beyond the conformance suite: faults at each call of what takes
several records, what an index that lags behind may not decide, what a failing store is answered with, and costs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from agno.run.base import RunStatus

from agno_docstores import MemoryDocstore
from agno_docstores.conformance.approvals import approval_of
from agno_docstores.conformance.auth_tokens import token_of
from agno_docstores.conformance.authz import ALLOW, DENY, event_of, user_of
from agno_docstores.conformance.plugin import Awaitable as Handle
from agno_docstores.conformance.plugin import close
from agno_docstores.conformance.schedules import T0, execution_of, schedule_of
from agno_docstores.conformance.service_accounts import account_of
from agno_docstores.errors import DuplicateError, ScheduleNotFoundError, StoreError
from agno_docstores.memory import MemoryStore
from tests.faults import CRASHES, Between, Crashed, replays, unnoticed, whole

CELLS = pytest.mark.cells("memory-sync*")
Operation = Callable[[Any], Awaitable[Any]]


async def prepared(db: Any) -> None:
    for id in ("s1", "s2"):
        await db.create_schedule(schedule_of(id, next_run_at=T0))
        for number in range(3):
            await db.create_schedule_run(execution_of(f"{id}-r{number}", id, completed_at=T0 + number))
    for number in range(2):
        await db.create_approval(approval_of(f"a{number}"))
    await db.create_service_account(account_of("sa1", "bot"))
    await db.upsert_auth_token(token_of())
    await db.set_authz_role_policies("r", [("x", "run", ALLOW)])
    await db.upsert_authz_role_meta("r", {"is_default": False, "created_at": T0, "updated_at": T0})
    for subject, role in [("u", "r"), ("u", "s"), ("v", "r"), ("r", "s")]:
        await db.assign_authz_role(subject, role)
    await db.upsert_authz_user("u", user_of())


def timeless(row: dict[str, Any] | None) -> Any:
    moments = ("updated_at", "created_at", "locked_at")
    return None if row is None else {name: value for name, value in row.items() if name not in moments}


async def state(db: Any) -> dict[str, Any]:
    """All that can be read, without times."""
    found: dict[str, Any] = {}
    for id in ("s1", "s2"):
        found[id] = timeless(await db.get_schedule(id))
        for run in (await db.get_schedule_runs(id))[0]:
            found[run["id"]] = timeless(run)
    found |= {row["id"]: timeless(row) for row in (await db.get_approvals())[0]}
    found |= {row["id"]: timeless(row) for row in (await db.get_service_accounts())[0]}
    found["bot"] = timeless(await db.get_service_account_by_name("bot"))
    token = timeless(await db.get_auth_token("google", "u", "gmail"))
    found["token"] = token and {**token, "id": None}
    for name in ("r", "s", "t"):
        found[f"policy of {name}"] = await db.get_authz_role_policies(name)
        found[f"shown of {name}"] = timeless(await db.get_authz_role_meta(name))
    holders = {name: await db.list_authz_role_subjects(name) for name in ("r", "s", "t")}
    for subject, roles in (await db.get_authz_direct_roles_many(["u", "v", "r"])).items():
        found[f"roles of {subject}"] = roles
        assert [name for name in holders if subject in holders[name]] == roles, "who holds a role, from either side"
    found["user"] = timeless(await db.get_authz_user("u"))
    return found


async def removal_of_a_schedule(db: Any) -> Any:
    return await db.delete_schedule("s1") or await db.get_schedule("s1") is None


async def removal_of_runs(db: Any) -> Any:
    return await db.delete_schedule_runs("s1", before=T0 + 2) is not None


async def disabling_of_what_is_aimed_at_an_agent(db: Any) -> Any:
    return await db.disable_schedules_for_target("agent", "a1") is not None


async def status_of_a_run(db: Any) -> Any:
    return await db.update_approval_run_status("r1", RunStatus.completed)


async def renaming(db: Any) -> Any:
    return (await db.update_schedule("s1", name="renamed"))["name"]


async def revocation(db: Any) -> Any:
    return (await db.update_service_account("sa1", revoked_at=T0))["revoked_at"]


async def replacement_of_a_token(db: Any) -> Any:
    return (await db.upsert_auth_token(token_of(token_data={"n": 1})))["token_data"]


async def replacement_of_roles(db: Any) -> Any:
    return await db.replace_authz_subject_roles("u", "t")


async def replacement_of_a_policy(db: Any) -> Any:
    return await db.set_authz_role_policies("r", [("y", "run", DENY)])


async def removal_of_a_role(db: Any) -> Any:
    return await db.delete_authz_role("r")


async def disabling_of_a_user(db: Any) -> Any:
    return await db.set_authz_user_disabled("u", True)


OPERATIONS: list[Operation] = [
    removal_of_a_schedule, removal_of_runs, disabling_of_what_is_aimed_at_an_agent, status_of_a_run, renaming,
    revocation, replacement_of_a_token, replacement_of_roles, replacement_of_a_policy, removal_of_a_role,
    disabling_of_a_user,
]  # fmt: skip


@CELLS
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
async def test_passing_faults_are_not_noticed(cell: Any, runner: Any, operation: Operation) -> None:
    await unnoticed(cell, operation, prepared, state)


@CELLS
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
async def test_a_crash_at_any_call_leaves_whole_records_and_can_be_repeated(
    cell: Any, runner: Any, operation: Operation
) -> None:
    def halfway(between: dict[Any, Any]) -> None:
        if operation is removal_of_a_role:
            assert between["policy of r"] == [], "from its first step on it grants nothing"

    await whole(cell, operation, prepared, state, halfway=halfway)


@CELLS
async def test_a_run_stored_while_its_schedule_is_deleted_does_not_outlive_it(cell: Any, runner: Any) -> None:
    """Whichever call of the one the whole of the other comes before."""

    def store(db: Any) -> bool:
        try:
            db.create_schedule_run(execution_of("late", "s1"))
        except ScheduleNotFoundError as error:
            assert error.schedule_id == "s1"
            return False
        return True

    outcomes: set[bool] = set()
    for first in ("deletion", "run"):
        for at in range(1, 12):
            with cell.storage() as name:
                db, other = Handle(cell.open(name)), Handle(cell.open(name))
                await prepared(db)
                if first == "deletion":
                    meanwhile = Between(at, lambda other=other: outcomes.add(store(other.raw)))
                    db.io.hooks.append(meanwhile)
                    assert await db.delete_schedule("s1") is True
                else:
                    meanwhile = Between(at, lambda other=other: other.raw.delete_schedule("s1"))
                    db.io.hooks.append(meanwhile)
                    outcomes.add(store(db.raw))
                db.io.hooks.clear()
                if meanwhile.done:
                    assert await other.get_schedule_run("late") is None
                    assert await other.get_schedule_runs("s1") == ([], 0)
                await close(db.raw)
                await close(other.raw)
    assert outcomes == {True, False}


@CELLS
async def test_a_run_whose_creator_has_died_is_not_the_next_schedules(cell: Any, runner: Any) -> None:
    """He saw the schedule, it was deleted, he stored the run, and died before he looked again."""
    async for replay in replays(cell, ("none", *CRASHES)):
        db, survivor = replay.open(), replay.open()
        await prepared(db)
        assert await survivor.delete_schedule("s1")
        with contextlib.suppress(Crashed, ScheduleNotFoundError):
            await replay.strike(db, lambda db: db.create_schedule_run(execution_of("late", "s1")))
        # Not those of a schedule that is there, whoever tries to create it again.
        with pytest.raises(DuplicateError):
            await survivor.create_schedule(schedule_of("s2"))
        assert (await survivor.get_schedule_runs("s2"))[1] == 3
        await survivor.create_schedule(schedule_of("s1"))
        assert await survivor.get_schedule_runs("s1") == ([], 0), str(replay)


# --- Strong reads -----------------------------------------------------------------------------------------------------


@pytest.mark.cells("memory-sync", "memory-async")
async def test_what_decides_does_not_rest_on_an_index_that_lags_behind(db: Any) -> None:
    """A gate, a cascade, a verifier, a policy engine: each sees what was acknowledged a moment ago."""
    await prepared(db)
    await db.create_schedule(schedule_of("s3"))
    db.raw.store.lag_indexes()
    await db.create_approval(approval_of("late", run_id="r9"))
    assert [row["id"] for row in (await db.get_approvals(run_id="r9", status="pending", limit=1))[0]] == ["late"]
    assert (await db.get_approvals(run_id="r9", approval_type="required"))[1] == 1
    assert await db.update_approval_run_status("r9", RunStatus.completed) == 1
    await db.update_approval("late", expected_status="pending", status="approved")
    assert await db.get_approvals(run_id="r9", status="pending") == ([], 0)
    await db.create_schedule_run(execution_of("s3-r", "s3", completed_at=T0))
    assert (await db.get_schedule_runs("s3"))[1] == 1
    assert await db.delete_schedule_runs("s3", before=T0 + 1) == 1
    await db.create_schedule_run(execution_of("s3-q", "s3"))
    assert await db.delete_schedule("s3") is True
    assert await db.get_schedule_run("s3-q") is None
    await db.update_schedule("s2", enabled=False)
    assert (await db.claim_due_schedule("w"))["id"] == "s1"
    assert await db.claim_due_schedule("w") is None, "what is disabled is not claimed, whatever the index says"
    await db.create_service_account(account_of("sa2", "late"))
    assert (await db.get_service_account_by_token_hash("hash-sa2"))["id"] == "sa2"
    assert (await db.get_service_account_by_name("late"))["id"] == "sa2"
    await db.update_service_account("sa1", revoked_at=T0)
    assert (await db.get_service_account_by_token_hash("hash-sa1"))["revoked_at"] == T0
    assert await db.get_service_account_by_name("bot") is None
    await db.assign_authz_role("late", "new-role")
    assert await db.authz_name_is_role("new-role") is True
    assert await db.list_authz_role_subjects("new-role") == ["late"]
    await db.upsert_authz_role_meta("new-role", {"is_default": True, "created_at": T0, "updated_at": T0})
    assert [row["slug"] for row in await db.list_authz_role_meta() if row["is_default"]] == ["new-role"]
    await db.assign_authz_role("w", "r")
    await db.delete_authz_role("r")
    assert await db.get_authz_direct_roles("w") == []


# --- A store that fails -----------------------------------------------------------------------------------------------

ANSWERS: list[tuple[str, tuple[Any, ...], dict[str, Any], Any]] = [
    ("get_schedule", ("s1",), {}, None),
    ("get_schedule_by_name", ("s1",), {}, None),
    ("get_schedules", (), {}, ([], 0)),
    ("update_schedule", ("s1",), {"description": "x"}, None),
    ("delete_schedule", ("s1",), {}, False),
    ("release_schedule", ("s1",), {}, False),
    ("update_schedule_run", ("s1-r0",), {"status": "x"}, None),
    ("get_schedule_run", ("s1-r0",), {}, None),
    ("get_schedule_runs", ("s1",), {}, ([], 0)),
    ("get_approval", ("a0",), {}, None),
    ("update_approval", ("a0",), {"status": "approved"}, None),
    ("delete_approval", ("a0",), {}, False),
    ("get_pending_approval_count", (), {}, 0),
    ("update_approval_run_status", ("r1", RunStatus.completed), {}, 0),
    ("get_service_account", ("sa1",), {}, None),
    ("get_service_account_by_name", ("bot",), {}, None),
    ("get_service_accounts", (), {}, ([], 0)),
    ("update_service_account", ("sa1",), {"last_used_at": 1}, None),
    ("delete_service_account", ("sa1",), {}, False),
    ("get_auth_token", ("google", "u", "gmail"), {}, None),
    ("upsert_auth_token", (token_of(token_data={"secret": "hunter2"}),), {}, None),
    ("delete_auth_token", ("google", "u", "gmail"), {}, False),
]
RAISING: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("get_schedules", (), {"raise_on_error": True}),
    ("create_schedule", (schedule_of("new"),), {}),
    ("disable_schedules_for_target", ("agent", "a1"), {}),
    ("stamp_schedule_provenance", ("s1",), {"managed_by": "studio"}),
    ("claim_due_schedule", ("w",), {}),
    ("create_schedule_run", (execution_of("new"),), {}),
    ("delete_schedule_runs", ("s1",), {"before": T0}),
    ("get_latest_schedule_runs", (["s1"],), {}),
    ("create_approval", (approval_of("new"),), {}),
    ("get_approvals", (), {"run_id": "r1"}),
    ("create_service_account", (account_of("new"),), {}),
    ("get_service_account_by_token_hash", ("hash-sa1",), {}),
    ("get_authz_policies", (["r"],), {}),
    ("get_authz_direct_roles", ("u",), {}),
    ("authz_name_is_role", ("r",), {}),
    ("is_authz_user_disabled", ("u",), {}),
    ("list_authz_role_meta", (), {}),
    ("delete_authz_role", ("r",), {}),
    ("record_authz_audit_event", (event_of("e1"),), {}),
]


class Refusing:
    """A hook: the store refuses every call."""

    def before(self, operation: str) -> None:
        raise StoreError(operation, "test", "refused")

    def after(self, operation: str) -> None:
        pass


@pytest.mark.cells("memory-sync", "memory-async")
async def test_a_failing_store_is_answered_as_the_contract_says_and_never_unseen(
    db: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await prepared(db)
    db.io.hooks.append(Refusing())
    for method, args, kwargs, answer in ANSWERS:
        caplog.clear()
        assert await getattr(db, method)(*args, **kwargs) == answer, method
        (told,) = [record for record in caplog.records if record.name == "agno_docstores"]
        assert "refused" in told.message and "hunter2" not in told.message
    for method, args, kwargs in RAISING:
        with pytest.raises(StoreError, match="refused"):
            await getattr(db, method)(*args, **kwargs)


@pytest.mark.cells("memory-*")
async def test_storage_that_is_not_there_is_no_failure(db: Any) -> None:
    """SqliteDb raises here, because it cannot tell the two; we can, and nothing is what there is."""
    assert await db.get_schedules(raise_on_error=True) == ([], 0)


@pytest.mark.cells("memory-*")
async def test_what_a_token_holds_is_in_no_message(db: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert await db.upsert_auth_token(token_of(token_data={"key": {"hunter2"}})) is None
    (told,) = [record.message for record in caplog.records if record.name == "agno_docstores"]
    assert "gmail" in told and "token_data.key is a set" in told and "hunter2" not in told


# --- Costs ------------------------------------------------------------------------------------------------------------


@pytest.mark.cells("memory-sync", "mongo-sync-secantus", "dynamo-sync-local", "firestore-sync-google")
async def test_what_is_asked_at_every_request_costs_little_whatever_there_is(db: Any) -> None:
    await prepared(db)
    for number in range(12):
        await db.create_service_account(account_of(f"x{number:02}"))
        await db.assign_authz_role(f"x{number:02}", "r")
        await db.create_approval(approval_of(f"x{number:02}", run_id=f"x{number}"))
        await db.create_schedule(schedule_of(f"x{number:02}", next_run_at=T0 + number))

    async def requests(call: Callable[[], Any]) -> int:
        before = db.io.calls.total()
        await call()
        return int(db.io.calls.total()) - before

    assert await requests(lambda: db.get_service_account_by_token_hash("hash-x07")) == 2
    assert await requests(lambda: db.get_authz_direct_roles("x07")) == 1
    assert await requests(lambda: db.get_authz_policies(["r", "s", "t"])) == 1
    assert await requests(lambda: db.is_authz_user_disabled("u")) == 1
    assert await requests(lambda: db.authz_name_is_role("r")) == 2
    assert await requests(lambda: db.update_approval_run_status("none", RunStatus.completed)) == 1
    assert await requests(lambda: db.get_approvals(run_id="x7", approval_type="required", limit=1)) <= 3
    alone = await requests(lambda: db.claim_due_schedule("w"))
    assert alone <= 7
    for number in range(60):
        await db.create_schedule(schedule_of(f"later{number:02}", next_run_at=int(time.time()) + 9000))
        held = {"locked_by": "x", "locked_at": int(time.time())}
        await db.create_schedule(schedule_of(f"held{number:02}", next_run_at=T0 - number, **held))
    assert await requests(lambda: db.claim_due_schedule("w")) == alone, "whatever others are at work on"


@pytest.mark.cells("memory-sync", "mongo-sync-secantus", "dynamo-sync-local", "firestore-sync-google")
async def test_a_page_of_enabled_schedules_is_no_look_at_all_of_them(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(60):
        await db.create_schedule(schedule_of(f"s{number:02}", enabled=number % 3 > 0, created_at=T0 + number))
    driver, read = db.raw._engine.driver, 0
    scan, page_and_count = driver.scan, driver.page_and_count

    async def scanned(span: Any) -> Any:
        nonlocal read
        page = await scan(span)
        read += len(page.records)
        return page

    async def counted(span: Any, offset: int) -> Any:
        nonlocal read
        found = await page_and_count(span, offset)
        read += len(found[0]) if found is not None else 0
        return found

    monkeypatch.setattr(driver, "scan", scanned)
    monkeypatch.setattr(driver, "page_and_count", counted)
    for enabled, total in ((True, 40), (False, 20)):
        read = 0
        rows, found = await db.get_schedules(enabled=enabled, limit=4)
        assert (len(rows), found) == (4, total) and 0 < read < 12


@pytest.mark.cells("memory-sync", "memory-sync-standalone", "mongo-sync-secantus", "firestore-sync-google")
async def test_a_claim_of_a_schedule_costs_the_same_whatever_was_left_locked_and_put_off(
    db: Any, another: Callable[[], Any]
) -> None:
    """As by somebody who changed its times while it was under way, and whose worker died."""
    now = int(time.time())
    found = []
    for more in (10, 90):
        for number in range(more):
            id = f"{more}-{number}"
            held = {"locked_by": "gone", "locked_at": now - 999}
            await db.create_schedule(schedule_of(id, next_run_at=now + 900, **held))
        await db.create_schedule(schedule_of(f"due{more}", next_run_at=T0))
        before = db.io.calls.total()
        assert (await db.claim_due_schedule("w"))["id"] == f"due{more}"
        assert await db.claim_due_schedule("w") is None
        found.append(db.io.calls.total() - before)
    assert found[0] == found[1] <= 6  # one of them a look at what the schedule is aimed at


async def test_a_lock_of_a_schedule_is_as_old_as_the_attempt_that_took_it() -> None:
    clock, store = [float(T0 + 9000)], MemoryStore()
    db, other = MemoryDocstore(store=store), MemoryDocstore(store=store)
    for one in (db, other):
        one.io.now = lambda: clock[0]
    for number in range(15):
        db.create_schedule(schedule_of(f"s{number:02}", next_run_at=T0 + number))

    def others_take_them() -> None:
        for _ in range(14):
            other.claim_due_schedule("other")

    class Slow:
        def before(self, operation: str) -> None:
            clock[0] += 30

        def after(self, operation: str) -> None:
            pass

    db.io.hooks += [Between(3, others_take_them), Slow()]
    claimed = db.claim_due_schedule("w")
    db.io.hooks.clear()
    # The step that took it, and the look at what it is aimed at.
    assert claimed["id"] == "s14" and clock[0] - claimed["locked_at"] <= 2 * 30
    assert clock[0] > T0 + 9000 + 300 and other.claim_due_schedule("other")["id"] != "s14"

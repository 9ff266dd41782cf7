"""Roles, their policies and holders; the directory of users; the trails of changes and decisions."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from agno_docstores.conformance.concurrency import at_once
from agno_docstores.conformance.schedules import HOSTILE, T0

ALLOW, DENY = "allow", "deny"
DAY = 86_400


def user_of(email: str | None = None, **values: Any) -> dict[str, Any]:
    """What is stored of a user."""
    return {"email": email, "name": None, "disabled": False, "created_at": T0, "updated_at": T0, **values}


def event_of(event_id: str, **values: Any) -> dict[str, Any]:
    """An event of the trail of changes."""
    return {"event_id": event_id, "created_at": T0, "actor": "boss", "action": "role.assign", "target": "u", **values}


# --- Policies ---------------------------------------------------------------------------------------------------------


async def test_what_a_role_may_do_is_set_changed_and_narrowed(db: Any) -> None:
    """Also on storage that is not there yet."""
    assert await db.get_authz_policies(["r", "s"]) == []
    assert await db.get_authz_policies([]) == []
    assert await db.get_authz_role_policies("r") == []
    await db.delete_authz_policy(role="r")
    rows = [("agents:*", "run", ALLOW), ("agents.a1", "run", DENY), ("$x", "", ALLOW), ("agents:*", "run", DENY)]
    await db.set_authz_role_policies("r", rows)
    assert sorted(await db.get_authz_role_policies("r")) == sorted(rows[1:]), "of two for one, the last"
    await db.upsert_authz_policy(role="r", resource="agents:*", action="run", effect=ALLOW)
    await db.upsert_authz_policy(role="r", resource="agents:*", action="read", effect=ALLOW)
    await db.upsert_authz_policy(role="r.*", resource="x", action="run", effect=ALLOW)
    await db.upsert_authz_policy(role="s", resource="x", action="run", effect=DENY)
    expected = [
        ("r", "$x", "", ALLOW), ("r", "agents.a1", "run", DENY), ("r", "agents:*", "read", ALLOW),
        ("r", "agents:*", "run", ALLOW), ("s", "x", "run", DENY),
    ]  # fmt: skip
    assert sorted(await db.get_authz_policies(["s", "r", "nobody", "s"])) == expected
    assert all(type(row) is tuple for row in await db.get_authz_role_policies("r"))
    await db.delete_authz_policy(role="r", resource="agents:*", action="read")
    await db.delete_authz_policy(role="r", action="")
    assert sorted(await db.get_authz_role_policies("r")) == [("agents.a1", "run", DENY), ("agents:*", "run", ALLOW)]
    await db.delete_authz_policy(role="r", resource="agents:*")
    assert await db.get_authz_role_policies("r") == [("agents.a1", "run", DENY)]
    await db.delete_authz_policy(role="s")
    assert await db.list_authz_roles() == ["r", "r.*"]
    await db.set_authz_role_policies("r", [])
    assert await db.get_authz_role_policies("r") == []
    assert await db.list_authz_roles() == ["r.*"] and await db.authz_name_is_role("r") is False


async def test_replacements_of_a_policy_at_once_never_add_up(db: Any, another: Callable[[], Any]) -> None:
    handles = [db.raw, another().raw]
    await db.set_authz_role_policies("r", [("start", "run", ALLOW)])
    calls: list[Any] = [
        (handles[n % 2].set_authz_role_policies, ("r", [(f"x{n}", "run", ALLOW), (f"x{n}", "read", DENY)]), {})
        for n in range(20)
    ]
    assert [result for result in await at_once(db, calls) if result is not None] == []
    left = await db.get_authz_role_policies("r")
    assert len(left) == 2 and len({resource for resource, _, _ in left}) == 1, "those of one writer"
    # Additions at once are all there.
    calls = [
        (handles[n % 2].upsert_authz_policy, (), {"role": "r", "resource": f"y{n}", "action": "run", "effect": ALLOW})
        for n in range(10)
    ]
    assert [result for result in await at_once(db, calls) if result is not None] == []
    assert len(await db.get_authz_role_policies("r")) == 12


# --- Holders ----------------------------------------------------------------------------------------------------------


async def test_who_holds_which_role(db: Any, another: Callable[[], Any]) -> None:
    """Also on storage that is not there yet; and as another replica sees it, at once."""
    other = another()
    assert await db.get_authz_direct_roles("u") == []
    assert await db.get_authz_direct_roles_many([]) == {}
    assert await db.get_authz_direct_roles_many(["u", "v"]) == {"u": [], "v": []}
    assert await db.list_authz_role_subjects("admin") == []
    assert await db.authz_name_is_role("__agno_authz_probe__") is False
    assert await db.list_authz_roles() == []
    await db.unassign_authz_role("u", "admin")
    for subject, role in [("u", "viewer"), ("u", "admin"), ("u", "admin"), ("v", "viewer"), ("admin", "base.*")]:
        await db.assign_authz_role(subject, role)
        assert role in await other.get_authz_direct_roles(subject)
        assert subject in await other.list_authz_role_subjects(role)
    assert sorted(await db.get_authz_direct_roles("u")) == ["admin", "viewer"]
    many = await db.get_authz_direct_roles_many(["v", "u", "nobody", "admin", "u"])
    assert many == {"u": ["admin", "viewer"], "v": ["viewer"], "nobody": [], "admin": ["base.*"]}
    assert sorted(await db.list_authz_role_subjects("viewer")) == ["u", "v"]
    assert await db.list_authz_role_subjects("view") == await db.list_authz_role_subjects("base") == []
    assert [await other.authz_name_is_role(name) for name in ("admin", "base.*", "base", "u")] == [
        True,
        True,
        False,
        False,
    ]
    await db.upsert_authz_policy(role="policy-only", resource="x", action="run", effect=ALLOW)
    assert await other.authz_name_is_role("policy-only") is True
    assert await db.list_authz_roles() == ["admin", "base.*", "policy-only", "viewer"]
    await db.unassign_authz_role("v", "viewer")
    await db.unassign_authz_role("v", "viewer")
    assert await other.get_authz_direct_roles("v") == []
    assert await other.list_authz_role_subjects("viewer") == ["u"]
    await db.replace_authz_subject_roles("u", "auditor")
    await db.replace_authz_subject_roles("w", "auditor")
    assert await other.get_authz_direct_roles("u") == ["auditor"]
    assert sorted(await other.list_authz_role_subjects("auditor")) == ["u", "w"]
    assert await other.authz_name_is_role("viewer") is False
    assert await db.list_authz_roles() == ["auditor", "base.*", "policy-only"]


async def test_a_role_is_deleted_with_all_that_speaks_of_it(db: Any) -> None:
    await db.set_authz_role_policies("r", [("x", "run", ALLOW), ("y", "run", DENY)])
    await db.upsert_authz_role_meta("r", {"name": "R", "is_default": False, "created_at": T0, "updated_at": T0})
    for number in range(12):
        await db.assign_authz_role(f"u{number:02}", "r")
    for subject, role in [("u00", "s"), ("r", "s"), ("r", "t"), ("v", "s")]:
        await db.assign_authz_role(subject, role)
    await db.delete_authz_role("r")
    await db.delete_authz_role("r")
    assert await db.get_authz_policies(["r"]) == [] and await db.get_authz_role_meta("r") is None
    assert await db.list_authz_role_subjects("r") == [] and await db.get_authz_direct_roles("r") == []
    assert await db.authz_name_is_role("r") is False
    assert await db.get_authz_direct_roles_many(["u00", "u11", "v"]) == {"u00": ["s"], "u11": [], "v": ["s"]}
    assert sorted(await db.list_authz_role_subjects("s")) == ["u00", "v"]
    assert await db.list_authz_roles() == ["s"]


async def test_of_replacements_at_once_one_role_is_left(db: Any, another: Callable[[], Any]) -> None:
    handles = [db.raw, another().raw]
    await db.assign_authz_role("before", "r0")
    calls: list[Any] = [(handles[n % 2].replace_authz_subject_roles, ("u", f"r{n % 10}"), {}) for n in range(20)]
    # Somebody who reads meanwhile sees one role, or none as long as there never was one.
    calls += [(handles[n % 2].get_authz_direct_roles, ("u",), {}) for n in range(6)]
    results = await at_once(db, calls)
    assert [result for result in results[:20] if result is not None] == []
    assert all(len(seen) <= 1 for seen in results[20:])
    (role,) = await db.get_authz_direct_roles("u")
    holding = [f"r{n}" for n in range(10) if "u" in await db.list_authz_role_subjects(f"r{n}")]
    assert holding == [role]
    # Different roles given at once are all held.
    calls = [(handles[n % 2].assign_authz_role, ("v", f"s{n}"), {}) for n in range(10)]
    calls += [(handles[n % 2].unassign_authz_role, ("u", role), {}) for n in range(3)]
    assert [result for result in await at_once(db, calls) if result is not None] == []
    assert sorted(await db.get_authz_direct_roles("v")) == sorted(f"s{n}" for n in range(10))
    assert await db.get_authz_direct_roles("u") == [] and await db.list_authz_role_subjects("s3") == ["v"]


async def test_how_a_role_is_shown(db: Any) -> None:
    assert await db.get_authz_role_meta("r") is None
    assert await db.list_authz_role_meta() == []
    await db.delete_authz_role_meta("r")
    given = {"name": "R", "description": "", "is_default": True, "created_at": T0, "updated_at": T0}
    await db.upsert_authz_role_meta("r", given)
    assert await db.get_authz_role_meta("r") == {"slug": "r", **given}
    await db.upsert_authz_role_meta("s", {"is_default": False, "created_at": T0, "updated_at": T0})
    shown = {"description": "new", "updated_at": T0 + 1, "is_default": False, "created_at": T0}
    await db.upsert_authz_role_meta("r", shown)
    assert await db.get_authz_role_meta("r") == {"slug": "r", **given, **shown}, "only what is given"
    found = sorted(await db.list_authz_role_meta(), key=lambda row: row["slug"])
    assert [row["slug"] for row in found] == ["r", "s"]
    assert found[1] == {
        "slug": "s",
        "name": None,
        "description": None,
        "is_default": False,
        "created_at": T0,
        "updated_at": T0,
    }
    await db.delete_authz_role_meta("r")
    assert await db.get_authz_role_meta("r") is None
    assert [row["slug"] for row in await db.list_authz_role_meta()] == ["s"]


# --- Users ------------------------------------------------------------------------------------------------------------


async def test_a_user_is_stored_changed_and_disabled(db: Any, another: Callable[[], Any]) -> None:
    other = another()
    assert await db.get_authz_user("u") is None
    assert await db.is_authz_user_disabled("u") is False
    await db.delete_authz_user("u")
    await db.upsert_authz_user("u", user_of("u@x", name="U", metadata=HOSTILE))
    assert await db.get_authz_user("u") == {"id": "u", **user_of("u@x", name="U"), "metadata": HOSTILE}
    began = int(time.time())
    await db.set_authz_user_disabled("u", True)
    assert await other.is_authz_user_disabled("u") is True
    assert (await db.get_authz_user("u"))["updated_at"] >= began
    # A change of the profile does not enable him, nor forget what it does not speak of.
    changes = user_of("new@x", name=None, disabled=False, created_at=T0 + 1, metadata=None)
    await db.upsert_authz_user("u", changes)
    assert await db.get_authz_user("u") == {"id": "u", **changes, "disabled": True, "metadata": HOSTILE}
    await db.upsert_authz_user("u", user_of("new@x", metadata={}))
    assert (await db.get_authz_user("u"))["metadata"] == {}
    await db.set_authz_user_disabled("u", False)
    assert await other.is_authz_user_disabled("u") is False
    # One that the directory has not seen leaves a trace that outlives his token; so may a new one be stored disabled.
    await db.set_authz_user_disabled("ghost", True)
    ghost = await db.get_authz_user("ghost")
    assert (ghost["disabled"], ghost["email"], ghost["metadata"]) == (True, None, None)
    assert ghost["created_at"] == ghost["updated_at"] >= began
    await db.upsert_authz_user("off", user_of(disabled=True))
    assert await other.is_authz_user_disabled("off") is True
    await db.delete_authz_user("ghost")
    assert await other.is_authz_user_disabled("ghost") is False


async def test_changes_of_a_profile_at_once_never_enable_who_is_disabled(db: Any, another: Callable[[], Any]) -> None:
    handles = [db.raw, another().raw]
    await db.upsert_authz_user("before", user_of())
    calls: list[Any] = [(handles[n % 2].upsert_authz_user, ("u", user_of(f"{n}@x")), {}) for n in range(16)]
    calls[8:8] = [(handles[n].set_authz_user_disabled, ("u", True), {}) for n in range(2)]
    assert [result for result in await at_once(db, calls) if result is not None] == []
    assert await db.is_authz_user_disabled("u") is True
    found = await db.get_authz_user("u")
    assert found["disabled"] is True and found["email"].endswith("@x")


async def test_the_directory_is_listed_searched_and_counted(db: Any) -> None:
    assert await db.list_authz_users() == [] and await db.count_authz_users() == 0
    assert await db.count_authz_users_by_status() == {"total": 0, "disabled": 0}
    assert await db.list_authz_user_ids() == await db.count_authz_users_by_day() == []
    people: list[tuple[str, str | None, str | None, bool]] = [
        ("u0", "Zoe@x.org", "Zoe", False), ("u1", None, "50% Bob", True), ("u2", "bob_b@x.org", None, False),
        ("u3", None, None, False), ("ADMIN", "al@y.org", "al", True), ("u5", "bobxb@y.org", "Al", False),
    ]  # fmt: skip
    for number, (id, email, name, disabled) in enumerate(people):
        times = {"created_at": T0 + number * DAY // 2, "updated_at": T0 + 10 - number}
        await db.upsert_authz_user(id, user_of(email, name=name, disabled=disabled, **times))

    async def listed(**options: Any) -> list[str]:
        return [row["id"] for row in await db.list_authz_users(**options)]

    assert await listed() == ["u5", "ADMIN", "u3", "u2", "u1", "u0"]
    assert await listed(order="asc", limit=2, offset=1) == ["u1", "u2"]
    assert await listed(limit=2, offset=5) == ["u0"] and await listed(offset=6) == []
    assert await listed(include_disabled=False) == ["u5", "u3", "u2", "u0"]
    assert await listed(sort_by="updated_at") == ["u0", "u1", "u2", "u3", "ADMIN", "u5"]
    assert await listed(sort_by="id", order="asc", limit=2) == ["ADMIN", "u0"]
    assert await listed(sort_by="nonsense", limit=1) == ["u5"]
    assert (await listed(sort_by="email", order="asc"))[:4] == ["u0", "ADMIN", "u2", "u5"]
    assert (await listed(sort_by="email"))[:4] == ["u5", "u2", "ADMIN", "u0"], "null comes last either way"
    searches = {
        "bob": ["u5", "u2", "u1"],
        "50%": ["u1"],
        "b_b": ["u2"],
        "%": ["u1"],
        "admin": ["ADMIN"],
        "AL": ["u5", "ADMIN"],
    }
    for text, wanted in searches.items():
        assert await listed(search=text) == wanted, text
        assert await db.count_authz_users(search=text) == len(wanted)
    assert await listed(search="bob", include_disabled=False, limit=1, offset=1) == ["u2"]
    assert await listed(search="x" * 300) == [] and await listed(search="") == await listed()
    assert await db.count_authz_users() == 6 and await db.count_authz_users(include_disabled=False) == 4
    assert await db.count_authz_users(include_disabled=False, search="bob") == 2
    assert await db.count_authz_users_by_status() == {"total": 6, "disabled": 2}
    assert await db.list_authz_user_ids() == ["ADMIN", "u0", "u1", "u2", "u3", "u5"]
    assert await db.list_authz_user_ids(include_disabled=False) == ["u0", "u2", "u3", "u5"]
    midnight = T0 // DAY * DAY
    assert T0 - midnight > DAY // 2, "two of them on a day, but for the first and the last"
    by_day = [{"date": midnight + n * DAY, "count": count} for n, count in enumerate([1, 2, 2, 1])]
    assert await db.count_authz_users_by_day() == by_day
    assert await db.count_authz_users_by_day(starting_at=T0 + DAY, ending_before=T0 + 2 * DAY) == [
        {"date": midnight + DAY, "count": 1},
        {"date": midnight + 2 * DAY, "count": 1},
    ]
    assert await db.count_authz_users_by_day(T0 + 99 * DAY) == []


# --- Trails -----------------------------------------------------------------------------------------------------------


async def test_a_trail_is_added_to_read_and_searched(db: Any) -> None:
    assert await db.read_authz_audit_events() == [] and await db.count_authz_audit_events(decisions=True) == 0
    for number, (actor, target) in enumerate([("boss", "50%"), ("Root", "u_1"), (None, "ux1"), ("boss", None)]):
        values = {"actor": actor, "target": target, "before": None, "after": '{"n": 1}', "created_at": T0 + number}
        await db.record_authz_audit_event(event_of(f"e{number}", **values))
    decision = event_of("d1", action="access.denied", target="GET /x", token_ref="t", required="[]", scopes='["a"]')
    await db.record_authz_decision(decision)
    await db.record_authz_audit_event(event_of("e0", actor="forged"))  # noted already: no error, and no change
    assert await db.read_authz_audit_events(decisions=True) == [decision]

    async def read(**options: Any) -> list[str]:
        return [row["event_id"] for row in await db.read_authz_audit_events(**options)]

    assert await read() == ["e3", "e2", "e1", "e0"]
    assert (await db.read_authz_audit_events(order="asc"))[0] == event_of(
        "e0", target="50%", before=None, after='{"n": 1}'
    )
    assert await read(limit=2, offset=1) == ["e2", "e1"] and await read(offset=4) == []
    assert await read(order="ASC", limit=1) == ["e0"]
    assert await read(sort_by="event_id", order="asc") == ["e0", "e1", "e2", "e3"]
    assert (await read(sort_by="target"))[:3] == ["e2", "e1", "e0"]
    assert await read(sort_by="nonsense", limit=1) == ["e3"]
    assert await read(search="BOSS") == ["e3", "e0"] and await read(search="u_") == ["e1"]
    assert await read(search="%") == ["e0"] and await read(search="role.ASS", limit=1, offset=3) == ["e0"]
    assert await db.count_authz_audit_events() == 4 and await db.count_authz_audit_events(search="boss") == 2
    assert await db.count_authz_audit_events(search="access", decisions=True) == 1
    assert await db.count_authz_audit_events(search="access") == 0

"""What roles may do, who holds them, and how they are shown (contract 1.18), over the kernel.

A role's policy is one record, and so are the roles of a subject: each changes in one atomic step, by compare-and-set,
so that two replacements never add up and nobody is seen between two roles. Who holds a role is read from its *members*,
children of the role that are committed with the subject's record; where a store commits one document at a time
(MongoDB), and its indexes show every acknowledged write, from an index of the subjects' records.
Invariants: every decision is read anew, and strongly, for a revocation on one replica has to hold at the next request
of another; a deletion that was interrupted is finished by repeating it, and grants nothing from its first step on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agno_docstores import keys
from agno_docstores.codec import Json
from agno_docstores.kernel import Kernel, Query
from agno_docstores.keys import check_id
from agno_docstores.port import Delete, Eq, Expect, Has, Put, Ref, Stored, Write
from agno_docstores.rows import Row, Rows, Table
from agno_docstores.schema import AUTHZ_GROUPING, AUTHZ_MEMBERS, AUTHZ_POLICIES, AUTHZ_ROLES

#: The effect of each resource and action.
Policy = dict[tuple[str, str], str]
ROLE_TABLE = Table(
    AUTHZ_ROLES,
    ("slug", "name", "description", "is_default", "created_at", "updated_at"),
    frozenset({"slug", "is_default", "created_at", "updated_at"}),
    {},
    lambda row: {"home": "roles"},
)
AT_ONCE = 10  # subjects of a role that is deleted which are seen to together


class Roles:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.metadata = Rows(kernel, ROLE_TABLE)

    # --- Policy: what a role may do ---------------------------------------------------------------------------------

    async def get_authz_policies(self, roles: list[str]) -> list[tuple[str, str, str, str]]:
        """The (role, resource, action, effect) rows of these roles. Linearizable. 1 round of reads."""
        found = await self.kernel.get_many([_policy_ref(role) for role in dict.fromkeys(roles)])
        return [
            (stored.ref.id, resource, action, effect)
            for stored in found
            if stored is not None
            for (resource, action), effect in _policy(stored).items()
        ]

    async def get_authz_role_policies(self, role: str) -> list[tuple[str, str, str]]:
        """A role's (resource, action, effect) rows. Linearizable. 1 request."""
        policy = _policy(await self.kernel.get(_policy_ref(role)))
        return [(resource, action, effect) for (resource, action), effect in policy.items()]

    async def set_authz_role_policies(self, role: str, rows: list[tuple[str, str, str]]) -> None:
        """Replace a role's rows by these, of several for one resource and action by the last, in one step. 2
        requests."""
        policy = {(resource, action): effect for resource, action, effect in rows}
        await self._change_policy(role, lambda before: policy)

    async def upsert_authz_policy(self, *, role: str, resource: str, action: str, effect: str) -> None:
        """Add a row, or change its effect, in one step. 2 requests."""
        await self._change_policy(role, lambda before: {**before, (resource, action): effect})

    async def delete_authz_policy(self, *, role: str, resource: str | None = None, action: str | None = None) -> None:
        """Remove a role's rows, of one resource and one action where they are given, in one step. 2 requests."""

        def others(before: Policy) -> Policy:
            return {
                row: effect
                for row, effect in before.items()
                if resource not in (None, row[0]) or action not in (None, row[1])
            }

        await self._change_policy(role, others)

    async def _change_policy(self, role: str, decide: Callable[[Policy], Policy]) -> None:
        ref = _policy_ref(role)

        async def attempt(fresh: bool) -> None:
            stored = await self.kernel.get(ref)
            before = _policy(stored)
            after = decide(before)
            if after == before:
                return
            expect = Expect.ABSENT if stored is None else stored.rev
            rows = [[resource, action, effect] for (resource, action), effect in after.items()]
            put = Put(ref, {"role": role}, {"rows": Json.of(rows, "rows")}, expect)
            await self.kernel.commit([put if after else Delete(ref, expect)])

        await self.kernel.transact(f"change of the policy of {role!r}", attempt)

    # --- Grouping: who holds which role -----------------------------------------------------------------------------

    async def get_authz_direct_roles(self, subject: str) -> list[str]:
        """The roles that a subject holds itself, sorted. Linearizable. 1 request."""
        return sorted(_roles(await self.kernel.get(_grouping_ref(subject))))

    async def get_authz_direct_roles_many(self, subjects: list[str]) -> dict[str, list[str]]:
        """The same for each of these subjects, none left out. 1 round of reads."""
        asked = list(dict.fromkeys(subjects))
        found = await self.kernel.get_many([_grouping_ref(subject) for subject in asked])
        return {subject: sorted(_roles(stored)) for subject, stored in zip(asked, found, strict=True)}

    async def list_authz_role_subjects(self, role: str) -> list[str]:
        """Who holds a role, sorted. Strongly consistent. Index entries only."""
        headers = await self.kernel.page(self._holders(role), body=False)
        return [str(header.fields["subject"]) for header in headers]

    async def authz_name_is_role(self, name: str) -> bool:
        """Whether a name is a role's: it has a policy, or somebody holds it. Strongly consistent. 2 requests at
        once."""
        policy, holders = await self.kernel.io.gather(
            self.kernel.get(_policy_ref(name)), self.kernel.page(self._holders(name), limit=1, body=False)
        )
        return policy is not None or bool(holders)

    async def assign_authz_role(self, subject: str, role: str) -> None:
        """Have a subject hold a role besides those that it holds. 2 requests; 1 if it does already."""
        await self._change_roles(subject, lambda before: before | {check_id("role", role)})

    async def unassign_authz_role(self, subject: str, role: str) -> None:
        """Have a subject hold a role no more. 2 requests; 1 if it does not."""
        await self._change_roles(subject, lambda before: before - {role})

    async def replace_authz_subject_roles(self, subject: str, role: str) -> None:
        """Have a subject hold this role and no other, in one step: it is never without, and of two replacements at once
        one is left. 2 requests."""
        await self._change_roles(subject, lambda before: frozenset({check_id("role", role)}))

    async def _change_roles(self, subject: str, decide: Callable[[frozenset[str]], frozenset[str]]) -> None:
        ref = _grouping_ref(subject)

        async def attempt(fresh: bool) -> None:
            stored = await self.kernel.get(ref)
            before = _roles(stored)
            after = decide(before)
            if after == before:
                return
            expect = Expect.ABSENT if stored is None else stored.rev
            put = Put(ref, {"subject": subject, "roles": tuple(sorted(after))}, {}, expect)
            writes: list[Write] = [put if after else Delete(ref, expect)]
            if self.kernel.driver.atomic:
                writes += [Put(_member_ref(subject, role), _member(subject, role)) for role in sorted(after - before)]
                writes += [Delete(_member_ref(subject, role)) for role in sorted(before - after)]
            await self.kernel.commit(writes)

        await self.kernel.transact(f"change of the roles of {subject!r}", attempt)

    def _holders(self, role: str) -> Query:
        """The records that tell who holds a role."""
        check_id("role", role)
        if self.kernel.driver.atomic:
            return Query(AUTHZ_MEMBERS, (Eq("role", role),), "subject")
        return Query(AUTHZ_GROUPING, (Has("roles", role),), "subject")

    # --- Roles ------------------------------------------------------------------------------------------------------

    async def list_authz_roles(self) -> list[str]:
        """Every role that has a policy or is held, sorted. Eventually consistent on DynamoDB. The headers of all
        policies and of all subjects."""
        policies, groupings = await self.kernel.io.gather(
            self.kernel.page(Query(AUTHZ_POLICIES, sort="role"), body=False),
            self.kernel.page(Query(AUTHZ_GROUPING, sort="subject"), body=False),
        )
        return sorted({header.ref.id for header in policies}.union(*map(_roles, groupings)))

    async def delete_authz_role(self, role: str) -> None:
        """Remove a role: its policy, the roles that it holds itself, then it from each subject that holds it, its
        metadata last. From the first step on it grants nothing. A failure raises; repeating the call goes on. 4
        requests, and 2 for each subject."""
        await self._change_policy(role, lambda before: {})
        await self._change_roles(role, lambda before: frozenset())
        subjects = await self.list_authz_role_subjects(role)
        for start in range(0, len(subjects), AT_ONCE):
            batch = subjects[start : start + AT_ONCE]
            await self.kernel.io.gather(*(self.unassign_authz_role(subject, role) for subject in batch))
        await self.metadata.delete(role)

    async def get_authz_role_meta(self, slug: str) -> Row | None:
        """How a role is shown; None if nothing is known. Linearizable. 1 request."""
        return await self.metadata.get(slug)

    async def list_authz_role_meta(self) -> list[Row]:
        """The same of all roles, by slug. Strongly consistent: which role is the default one is read from it. 1
        request."""
        return await self.metadata.all((Eq("home", "roles"),), "slug")

    async def upsert_authz_role_meta(self, slug: str, values: Row) -> None:
        """Store how a role is shown, or change what is given of it, in one step. Raises `ValueError` for a column that
        there is not, or that a new row lacks. 2 requests."""
        await self.metadata.upsert({"slug": slug, **values}, values)

    async def delete_authz_role_meta(self, slug: str) -> None:
        """Forget how a role is shown. 2 requests."""
        await self.metadata.delete(slug)


def _policy_ref(role: Any) -> Ref:
    return Ref(AUTHZ_POLICIES.name, check_id("role", role))


def _policy(stored: Stored | None) -> Policy:
    rows = [] if stored is None else (stored.body or {})["rows"].value()
    return {(resource, action): effect for resource, action, effect in rows}


def _grouping_ref(subject: Any) -> Ref:
    return Ref(AUTHZ_GROUPING.name, check_id("subject", subject))


def _roles(stored: Stored | None) -> frozenset[str]:
    roles = () if stored is None else stored.fields["roles"]
    assert isinstance(roles, tuple)
    return frozenset(roles)


def _member_ref(subject: str, role: str) -> Ref:
    return Ref(AUTHZ_MEMBERS.name, keys.encode((role, subject)), role)


def _member(subject: str, role: str) -> dict[str, str]:
    return {"role": role, "subject": subject}

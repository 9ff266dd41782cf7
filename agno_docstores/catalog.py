"""The record of a component: its row, its versions with their links, and who may have links to it.

All of a component that has to change in one step is one record, written under its `Rev`; so each step is atomic on any
store, and what a component's record does not name (a config that was written for a version that never came) nobody
sees. Between components, of which one has links to the other, invariants hold by an order of such steps. Who gives a
component links, or brings it to life, reads it, *pins* the children (writes its id into their records, under the `Rev`
under which they were found fit), then writes it. Who archives or deletes a child reads it, reads those who pinned it,
*fences* them (writes them as they are), then writes the child. So of two such at once one meets a changed record, and
looks again. A pin without a link is a hint that has grown old, and does no harm.

A record can stand for no component: of an id that others have links to although it is none (defined in code, say), or
that is about to be one, or was. What is removed is gone from the first step on; the rest can be finished by whoever
comes next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from agno_docstores.codec import NULL, Json
from agno_docstores.domains.listing import label
from agno_docstores.domains.schedules import SCHEDULE_TABLE, aimed_at, archive_of, disabling
from agno_docstores.errors import Conflict, UnsupportedTopologyError
from agno_docstores.kernel import Kernel
from agno_docstores.keys import check_id
from agno_docstores.port import Delete, Eq, Expect, Expectation, FieldValue, Put, Ref, Stored
from agno_docstores.rows import Row, Rows
from agno_docstores.schema import COMPONENTS, CONFIGS

DELETED = "_deleted"  # the stage of a version that was deleted; its number is not used again
PUBLISHED = "published"
COLUMNS = (
    "component_id",
    "component_type",
    "name",
    "user_id",
    "description",
    "current_version",
    "metadata",
    "created_at",
    "updated_at",
    "deleted_at",
)
UNLINK, KEEP = "unlink", "keep"  # what becomes of the links that others have to a component that is leaving
TOGETHER = 40  # schedules that are disabled in one commit with the archive of their target


@dataclass(frozen=True, slots=True)
class Component:
    """A record as read. `row` None: it stands for no component. `leaving`: nor does this one, any more."""

    id: str
    rev: Expectation
    row: Row | None = None
    versions: tuple[Row, ...] = ()
    pinned_by: tuple[str, ...] = ()
    incarnation: str | None = None
    leaving: str | None = None
    cascading: bool = False

    @property
    def known(self) -> bool:
        return self.row is not None and not self.leaving

    @property
    def archived(self) -> bool:
        return self.known and self.row is not None and self.row["deleted_at"] is not None

    @property
    def live(self) -> bool:
        return self.known and not self.archived

    def version(self, number: Any) -> Row | None:
        """What is known of a version, deleted ones among them; its config not included."""
        return next((entry for entry in self.versions if self.known and entry["version"] == number), None)

    @property
    def visible(self) -> list[Row]:
        """The versions that are not deleted, the oldest first."""
        return [entry for entry in self.versions if self.known and entry["stage"] != DELETED]

    def links(self, number: Any = None) -> list[Row]:
        """The links of a version, or of all, as rows."""
        return [
            {"parent_component_id": self.id, "parent_version": entry["version"], **link, "updated_at": None}
            for entry in self.versions
            if self.known and number in (None, entry["version"])
            for link in entry["links"]
        ]


def ref(component_id: Any) -> Ref:
    """Raises `InvalidIdError`."""
    return Ref(COMPONENTS.name, check_id("component_id", component_id))


def component_of(id: str, stored: Stored | None) -> Component:
    if stored is None:
        return Component(id, Expect.ABSENT)
    body = stored.body or {}
    incarnation, leaving = stored.fields.get("incarnation"), stored.fields.get("leaving")
    return Component(
        id,
        stored.rev,
        body.get("component", NULL).value(),
        tuple(body.get("versions", NULL).value() or ()),
        tuple(body.get("pinned_by", NULL).value() or ()),
        incarnation if isinstance(incarnation, str) else None,
        leaving if isinstance(leaving, str) else None,
        bool(stored.fields.get("cascading")),
    )


async def read(kernel: Kernel, component_id: Any) -> Component:
    """Linearizable. 1 request. Raises `InvalidIdError`."""
    at = ref(component_id)
    return component_of(at.id, await kernel.get(at))


async def read_all(kernel: Kernel, ids: Iterable[Any]) -> dict[str, Component]:
    """The same for several, in as few requests as the store has."""
    refs = [ref(id) for id in dict.fromkeys(ids)]
    found = await kernel.get_many(refs)
    return {at.id: component_of(at.id, stored) for at, stored in zip(refs, found, strict=True)}


def put(component: Component) -> Put:
    """The record. Raises `UnserializableValueError`, `InvalidIdError`."""
    row = component.row
    fields: dict[str, FieldValue] = {
        "component_id": component.id,
        "incarnation": component.incarnation,
        "leaving": component.leaving,
        "cascading": component.cascading or None,
    }
    if row is not None:  # also of what is leaving: by its owner it is found until all is removed
        fields |= {
            "user_id": row["user_id"],
            "newest": -row["created_at"],
            "component_type": label("component_type", row["component_type"]),
        }
    if row is not None and component.known:
        live = row["deleted_at"] is None
        shared = row["user_id"] is None or (live and row["current_version"] is not None)
        fields |= {
            "known": True,
            "live": True if live else None,
            "seen_by": "" if shared else row["user_id"],
            "name": label("name", row["name"]),
            "created_at": row["created_at"],
            "updated_at": row["updated_at"],
        }
    body = {
        "component": Json.of(row, "component"),
        "versions": Json.of(component.versions, "versions"),
        "pinned_by": Json.of(component.pinned_by, "pinned_by"),
    }
    return Put(ref(component.id), fields, body, component.rev)


async def write(kernel: Kernel, component: Component) -> Component:
    """Write the record if it is still as it was read; raises `Conflict` if not. 1 request."""
    (rev,) = await kernel.commit([put(component)])
    assert rev is not None
    return replace(component, rev=rev)


# --- Links between components -----------------------------------------------------------------------------------------


async def pin(kernel: Kernel, parent: Component, children: Iterable[Component]) -> Component:
    """Tell the children that the parent is about to have links to them; the parent as it is now to be written. Raises
    `Conflict` if a child changed since it was read. 1 request for each child (and 1 for a parent that is no record)."""
    children = list(children)
    if children and parent.rev is Expect.ABSENT:
        # What is no record nobody could fence.
        empty = await write(kernel, Component(parent.id, Expect.ABSENT))
        parent = replace(parent, rev=empty.rev)
    for child in children:
        await write(kernel, replace(child, pinned_by=tuple(sorted({*child.pinned_by, parent.id}))))
    return parent


async def dependents(
    kernel: Kernel, child: Component, *, version: int | None = None, active: bool = False, user_id: str | None = None
) -> tuple[list[Row], list[Component]]:
    """The links to a component, or to a version of it, by parent, version and position; and all that may have some.
    `active`: of versions that are not deleted, of parents that are not archived. `user_id`: of his parents and
    nobody's. 1 request."""
    parents = sorted((await read_all(kernel, child.pinned_by)).values(), key=lambda parent: parent.id)
    found: list[Row] = []
    for parent in parents:
        if not parent.known or parent.row is None or (active and parent.archived):
            continue
        if user_id is not None and parent.row["user_id"] not in (None, user_id):
            continue
        for entry in parent.versions:
            if active and entry["stage"] == DELETED:
                continue
            links = sorted(parent.links(entry["version"]), key=lambda link: link["position"])
            found += [
                link
                for link in links
                if link["child_component_id"] == child.id and version in (None, link["child_version"])
            ]
    return found, parents


async def fence(kernel: Kernel, parents: Iterable[Component]) -> None:
    """Have everybody fail who is about to write one of these as it was when it was read. Raises `Conflict` if one has
    been written since. 1 request for each."""
    for parent in parents:
        if parent.rev is not Expect.ABSENT:
            await write(kernel, parent)


# --- Archive and removal ----------------------------------------------------------------------------------------------


def reason_of(component: Component) -> tuple[str, str, str]:
    """What the schedules of a component that is gone are found by, and why they are disabled."""
    assert component.row is not None
    kind = str(component.row["component_type"])
    return kind, component.id, archive_of(kind, component.id)


async def retire(kernel: Kernel, component: Component, gone: Component) -> int:
    """Write a component as one that is gone, and disable the schedules that are aimed at it; how many.

    It is one commit, of the first 40 of them. Where a commit holds one document only (a standalone MongoDB), and of
    more, the component comes first and says that there are more to come: none is claimed any more from then on (see
    `Schedules.claim_due_schedule`), and what an interrupted call leaves is disabled by the repetition, or when it comes
    due. Likewise one that was aimed at the component a moment ago, if the index does not show it yet (DynamoDB). Raises
    `Conflict` if something changed since. 3 requests, and 2 for each schedule that is not in the commit, and 1.
    """
    target_type, target_id, reason = reason_of(component)
    aimed = await aimed_at(kernel, target_type, target_id)
    disabled = disabling(target_type, target_id, reason, kernel.now())
    rows = [(stored, SCHEDULE_TABLE.row(stored)) for stored in aimed[:TOGETHER]]
    changes = [(stored, row, disabled(row)) for stored, row in rows]
    together = [SCHEDULE_TABLE.put({**row, **change}, at.rev) for at, row, change in changes if change is not None]
    rest = len(aimed) > len(rows)
    gone = replace(gone, cascading=rest and not gone.leaving)
    try:
        await kernel.commit([put(gone), *together])
    except UnsupportedTopologyError:
        together, gone = [], replace(gone, cascading=not gone.leaving)
        await kernel.commit([put(gone)])
    return len(together) + (await cascade(kernel, gone) if gone.cascading else 0)


async def cascade(kernel: Kernel, component: Component) -> int:
    """Disable what is left of the schedules of a component that is gone, or has been aimed at it since; how many.
    Repeating it goes on. 2 requests, and 2 for each."""
    target_type, target_id, reason = reason_of(component)
    disabled = disabling(target_type, target_id, reason, kernel.now())
    schedules = Rows(kernel, SCHEDULE_TABLE)
    aimed = await aimed_at(kernel, target_type, target_id)
    changed = [await schedules.change(stored.ref.id, disabled) for stored in aimed]

    async def done(fresh: bool) -> None:
        now = await read(kernel, component.id)
        if now.cascading and now.incarnation == component.incarnation:
            await write(kernel, replace(now, cascading=False))

    if component.cascading:
        await kernel.transact(f"archive of component {component.id!r}", done)
    return sum(row is not None for row in changed)


async def finish(kernel: Kernel, component: Component) -> int:
    """Disable and remove what a component that is leaving has left: schedules that are aimed at it, its pins, its
    configs, the links that others have to it (`UNLINK`), at last its record; how many schedules. Any number may do it
    at once, and again."""
    disabled = await cascade(kernel, component)
    for child_id in sorted({link["child_component_id"] for entry in component.versions for link in entry["links"]}):
        await kernel.transact(f"removal of component {component.id!r}", partial(_unpin, kernel, component, child_id))
    (by_component,) = (index for index in CONFIGS.indexes if index.strong)
    await kernel.purge_children(component.id, CONFIGS, by_component, (Eq("incarnation", component.incarnation),))

    async def last(fresh: bool) -> None:
        now = await read(kernel, component.id)
        if not now.leaving or now.incarnation != component.incarnation:
            return
        links, parents = await dependents(kernel, now)
        left = {link["parent_component_id"] for link in links} if now.leaving == KEEP else set()
        # Who is about to give a parent a link to this id has to look again, and to pin it again.
        await fence(kernel, [_without_links_to(now.id, parent) for parent in parents if parent.id not in left])
        if left:
            await write(kernel, Component(now.id, now.rev, pinned_by=tuple(sorted(left))))
        else:
            assert not isinstance(now.rev, Expect)
            await kernel.commit([Delete(ref(now.id), now.rev)])

    await kernel.transact(f"removal of component {component.id!r}", last)
    return disabled


async def _unpin(kernel: Kernel, leaving: Component, child_id: str, fresh: bool) -> None:
    child = await read(kernel, child_id)
    if leaving.id not in child.pinned_by:
        return
    # Read after the child: who gives the id a new component pins the child after he has written that.
    parent = await read(kernel, leaving.id)
    if not parent.leaving or parent.incarnation != leaving.incarnation:
        return
    left = tuple(id for id in child.pinned_by if id != leaving.id)
    if left or child.row is not None:
        await write(kernel, replace(child, pinned_by=left))
    elif not isinstance(child.rev, Expect):
        await kernel.commit([Delete(ref(child_id), child.rev)])


def _without_links_to(child_id: str, parent: Component) -> Component:
    versions = [
        {**entry, "links": [link for link in entry["links"] if link["child_component_id"] != child_id]}
        for entry in parent.versions
    ]
    return replace(parent, versions=tuple(versions))


async def settled(kernel: Kernel, component_id: Any) -> Component:
    """A component as it is, once what is left of a removal of it is done. 1 request, if nothing is."""
    component = await read(kernel, component_id)
    while component.leaving:
        await finish(kernel, component)
        component = await read(kernel, component_id)
    return component


async def purge(kernel: Kernel, component_id: str, user_id: str) -> int | None:
    """Remove a user's component and its configs, whatever has links to it, and disable its schedules; how many
    versions it had. None if it is not there, or not his (any more). Others' components stay as they are, with their
    links to an id that is none."""

    async def attempt(fresh: bool) -> Component | None:
        component = await read(kernel, component_id)
        if component.row is None or component.row["user_id"] != user_id:
            return None
        if not component.leaving:
            await retire(kernel, component, replace(component, leaving=KEEP))
        return component

    component = await kernel.transact(f"removal of component {component_id!r}", attempt)
    if component is None:
        return None
    await finish(kernel, component)
    return len(component.versions)


# --- Configs ----------------------------------------------------------------------------------------------------------


def config_put(component: Component, at: str, config: Any, now: int) -> Put:
    """The config of a version, in a place that no other has."""
    user_id = component.row["user_id"] if component.row is not None else None
    fields: Mapping[str, FieldValue] = {
        "component_id": component.id,
        "incarnation": component.incarnation,
        "user_id": user_id,
        "created_at": now,
    }
    return Put(Ref(CONFIGS.name, at, component.id), fields, {"config": Json.of(config, "config")}, Expect.ABSENT)


async def configs(kernel: Kernel, wanted: Sequence[tuple[Component, Row]]) -> list[Row]:
    """These versions of components as rows, with their configs. Raises `Conflict` if one has another config by now. 1
    request."""
    refs = [Ref(CONFIGS.name, entry["at"], component.id) for component, entry in wanted]
    found = await kernel.get_many(refs)
    missing = [at for at, stored in zip(refs, found, strict=True) if stored is None]
    if missing:
        raise Conflict(missing)
    return [
        config_row(component, entry, (stored.body or {}).get("config", NULL).value())
        for (component, entry), stored in zip(wanted, found, strict=True)
        if stored is not None
    ]


def config_row(component: Component, entry: Row, config: Any) -> Row:
    return {
        "component_id": component.id,
        "version": entry["version"],
        "label": entry["label"],
        "stage": entry["stage"],
        "config": config,
        "notes": entry["notes"],
        "created_at": entry["created_at"],
        "updated_at": entry["updated_at"],
    }

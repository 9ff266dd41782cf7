"""Components, their configs and links (contract 1.14), over the records of the catalog (`catalog.py`).

Invariants: a number of a version is used once, a published config never changes, a label is one visible version's; the
current version is a published one; what is published pins published children, and what is live no archived ones, but
for those whom the contract lets be archived all the same; an archived component does not change. Each check and its
write are one step on the record as it is: of several at once that cannot both be, one fails.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from agno.db.base import (
    PIN_LINK_KINDS,
    ComponentArchivedError,
    ComponentCycleError,
    ComponentDependencyError,
    ComponentDraftRequiredError,
    ComponentLastConfigError,
    ComponentType,
    ComponentVersionConflictError,
    current_version_matches,
    project_config_identity,
)

from agno_docstores import catalog
from agno_docstores.catalog import COLUMNS, DELETED, PUBLISHED, Component, config_row, dependents, read, read_all
from agno_docstores.codec import Json
from agno_docstores.domains.listing import equal, plain
from agno_docstores.domains.owned import owner
from agno_docstores.errors import StoreUnavailableError
from agno_docstores.kernel import Kernel, Query, new_token
from agno_docstores.port import Condition, Delete, Eq, In, NotIn, Ref
from agno_docstores.rows import Row, answered
from agno_docstores.schema import COMPONENTS, CONFIGS

T = TypeVar("T")
DEPTH = 50  # levels of a graph that are loaded
STAGES = ("draft", PUBLISHED)


class Components:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    # --- Components -------------------------------------------------------------------------------------------------

    async def get_component(
        self,
        component_id: str,
        component_type: ComponentType | None = None,
        user_id: str | None = None,
        include_deleted: bool = False,
    ) -> Row | None:
        """Read one component; None if there is none, or it is archived (unless `include_deleted`), of another type, or
        not for `user_id` to see: his, nobody's, or published and not archived. Linearizable. 1 request."""
        component = await read(self.kernel, component_id)
        row = component.row
        if not component.known or row is None or (component.archived and not include_deleted):
            return None
        if component_type is not None and row["component_type"] != plain(component_type):
            return None
        published = row["current_version"] is not None and not component.archived
        return row if user_id is None or row["user_id"] in (None, owner(user_id)) or published else None

    async def upsert_component(
        self,
        component_id: str,
        component_type: ComponentType | None = None,
        name: str | None = None,
        description: str | None = None,
        current_version: int | None = None,
        metadata: dict[str, Any] | None = None,
        user_id: str | None = None,
    ) -> Row:
        """Create a component, or change what is not None of it; the row as written. A new one has no current version,
        and its id for a name if none is given. 2 requests.

        Raises `ValueError` for a new one without a type, another type, a `current_version` that is none of the
        published, or a component that is not `user_id`'s, as if there were none; `ComponentArchivedError`.
        """
        now = self.kernel.now()

        async def attempt(fresh: bool) -> Row:
            component = await catalog.settled(self.kernel, component_id)
            if not component.known or component.row is None:
                if component_type is None:
                    raise ValueError("component_type is required when creating a new component")
                row = _new_row(component_id, component_type, name or component_id, description, metadata, user_id, now)
                await catalog.write(self.kernel, _begun(component, row))
                return row
            row = component.row
            if user_id is not None and row["user_id"] != owner(user_id):
                raise ValueError(f"Component {component_id} not found")
            _refuse_archived(component)
            if component_type is not None and row["component_type"] != plain(component_type):
                raise ValueError(
                    f"Cannot change component {component_id} from {row['component_type']} to {plain(component_type)}; "
                    "a component's type is fixed at creation."
                )
            if current_version is not None:
                entry = component.version(current_version)
                if entry is None or entry["stage"] != PUBLISHED:
                    what = "missing" if entry is None else "deleted" if entry["stage"] == DELETED else "draft"
                    hint = ". Only published configs can be current." if what == "draft" else ""
                    raise ValueError(f"Cannot set {what} config {component_id} v{current_version} as current{hint}")
            given = {
                "name": name,
                "description": description,
                "current_version": current_version,
                "metadata": _canonical(metadata),
            }
            row = {**row, **{column: value for column, value in given.items() if value is not None}, "updated_at": now}
            await catalog.write(self.kernel, replace(component, row=row))
            return row

        return await self.kernel.transact(f"write of component {component_id!r}", attempt)

    async def delete_component(
        self,
        component_id: str,
        hard_delete: bool = False,
        user_id: str | None = None,
        expected_current_version: int | None = None,
        require_no_dependents: bool = True,
        cascade_stats: dict[str, int] | None = None,
    ) -> bool:
        """Archive a component: it keeps its id and versions, and can be restored. With `hard_delete`, remove it, its
        versions, and all links to it. Whether it was there, not archived before, and `user_id`'s.

        The schedules that are aimed at it are disabled in the same commit (on a standalone MongoDB, and beyond 40 of
        them, right after it; what an interrupted call leaves, its repetition goes on with), and none is claimed from
        that commit on; `cascade_stats["schedules_disabled"]` is how many. Raises `ComponentDependencyError` if others
        have links to it (an archive: live ones), of `user_id`'s and nobody's; `ComponentVersionConflictError` if the
        current version is not the expected one (0: none). Requests: 5, 1 for each component that has or had links to
        it, and 2 for each schedule after the commit; a removal, those of its children and versions besides.
        """
        whose = owner(user_id)

        async def attempt(fresh: bool) -> tuple[Component | None, int]:
            component = await read(self.kernel, component_id)
            if component.leaving:
                return None, await catalog.finish(self.kernel, component)
            row = component.row
            if not _may(component, whose):
                return None, 0
            if whose is not None and component.archived and not hard_delete:
                return None, await catalog.cascade(self.kernel, component)
            parents: list[Component] = []
            if require_no_dependents:
                found, parents = await dependents(self.kernel, component, active=not hard_delete, user_id=whose)
                _refuse_dependents(f"Cannot delete {component_id}: referenced by", found)
            if row is None:
                return None, 0
            current = row["current_version"]
            if expected_current_version is not None and not current_version_matches(current, expected_current_version):
                raise ComponentVersionConflictError(
                    f"Component {component_id} current version is {current}, expected {expected_current_version}"
                )
            if component.archived and not hard_delete:
                return None, await catalog.cascade(self.kernel, component)
            await catalog.fence(self.kernel, parents)
            if hard_delete:
                # Links that come later are to an id that is none, and stay.
                links, _ = await dependents(self.kernel, component)
                gone = replace(component, leaving=catalog.UNLINK if links else catalog.KEEP)
            else:
                now = self.kernel.now()
                gone = replace(component, row={**row, "deleted_at": now, "updated_at": now})
            return gone, await catalog.retire(self.kernel, component, gone)

        gone, disabled = await self.kernel.transact(f"removal of component {component_id!r}", attempt)
        if gone is not None and hard_delete:
            disabled += await catalog.finish(self.kernel, gone)
        if cascade_stats is not None and (gone is not None or disabled):
            cascade_stats["schedules_disabled"] = disabled
        return gone is not None

    async def restore_component(self, component_id: str, user_id: str | None = None) -> bool:
        """Bring an archived component back with all its versions, and its current one; whether it was archived, and
        `user_id`'s. Schedules stay disabled, and those that an index showed too late for the archive are disabled now.
        Raises `ComponentDependencyError` if the current version pins an archived child. 5 requests, and 1 for each
        child."""

        async def attempt(fresh: bool) -> bool:
            component = await read(self.kernel, component_id)
            if component.row is None or not component.archived or not _may(component, owner(user_id)):
                return False
            await catalog.cascade(self.kernel, component)
            if component.cascading:
                component = await read(self.kernel, component_id)
            row = {**(component.row or {}), "deleted_at": None, "updated_at": self.kernel.now()}
            current = row.get("current_version")
            if not component.archived:
                return False
            children = await self._pinned(component, current) if current is not None else {}
            _refuse_archived_children(f"Cannot restore {component_id}", children.values())
            component = await catalog.pin(self.kernel, component, children.values())
            await catalog.write(self.kernel, replace(component, row=row))
            return True

        return await self.kernel.transact(f"restoration of component {component_id!r}", attempt)

    async def list_components(
        self,
        component_type: ComponentType | None = None,
        include_deleted: bool = False,
        limit: int = 20,
        offset: int = 0,
        exclude_component_ids: set[str] | None = None,
        user_id: str | None = None,
        name: str | None = None,
    ) -> tuple[list[Row], int]:
        """A page of components, the latest first, of those that tie the lowest id, and how many match in all; with
        `user_id`, those he may see. Eventually consistent on DynamoDB. 2 or 3 requests, with `user_id` 5 (DynamoDB,
        which asks each shard: 17); by several of name, type, and excluded ids, the headers of what the others
        leave. Raises `ValueError` for a negative `limit` or `offset`."""
        if limit < 0 or offset < 0:
            raise ValueError(f"`limit` and `offset` must not be negative; got {limit} and {offset}.")
        where: list[Condition] = [Eq("known", True) if include_deleted else Eq("live", True)]
        where += equal(component_type=component_type, name=name)
        if user_id is not None:
            where.append(In("seen_by", ("", owner(user_id))))
        if exclude_component_ids:
            where.append(NotIn("component_id", tuple(sorted(exclude_component_ids))))
        query = Query(COMPONENTS, tuple(where), "newest")
        found, total = await self.kernel.page_and_total(query, offset=offset, limit=limit)
        rows = [catalog.component_of(stored.ref.id, stored).row for stored in found]
        return [row for row in rows if row is not None], total

    async def create_component_with_config(
        self,
        component_id: str,
        component_type: ComponentType,
        name: str | None,
        config: dict[str, Any],
        description: str | None = None,
        metadata: dict[str, Any] | None = None,
        label: str | None = None,
        stage: str = "draft",
        notes: str | None = None,
        links: list[dict[str, Any]] | None = None,
        user_id: str | None = None,
    ) -> tuple[Row, Row]:
        """Create a component with its first version, in one step; both as rows. Without a name it has its id for one.
        3 requests, and 2 for each child and level of theirs.

        Raises `ValueError` if the id is in use, also by an archived component, for another stage than "draft" and
        "published", and for a link without `child_version`; `ComponentArchivedError`, `ComponentCycleError`, and
        `ComponentDependencyError` if it is published and pins what is not.
        """
        _check_stage(stage)
        _check_links(links or ())
        now = self.kernel.now()
        written: list[str] = []

        async def attempt(fresh: bool) -> tuple[Row, Row]:
            component = await catalog.settled(self.kernel, component_id)
            own = _written(component, written)
            if own is not None and component.row is not None:
                return component.row, config_row(component, own, _canonical(config))
            if component.known:
                # Not whose: it must not confirm that another user has a component of this id.
                raise ValueError(f"Component ID {component_id} is not available")
            children = await self._fit(component_id, links or ())
            if stage == PUBLISHED:
                _refuse_unfit_pins(f"Cannot create {component_id} as published", links or (), children)
            shown = name if name is not None else component_id
            row = _new_row(component_id, component_type, shown, description, metadata, user_id, now)
            row["current_version"] = 1 if stage == PUBLISHED else None
            entry = _entry(1, label, stage, notes, links or (), new_token(), now)
            begun = replace(_begun(component, row), versions=(entry,))
            return row, await self._store(begun, entry, children, config, written)

        return await self._storing(f"creation of component {component_id!r}", component_id, written, attempt)

    # --- Configs ----------------------------------------------------------------------------------------------------

    async def get_config(
        self,
        component_id: str,
        version: int | None = None,
        label: str | None = None,
        include_deleted: bool = False,
    ) -> Row | None:
        """Read a config of a component that is not archived: of a version (a deleted one only if `include_deleted`),
        else of a label, else of the current version, else the latest. None if there is none. Linearizable. 2
        requests."""

        def chosen(component: Component) -> Row | None:
            if version is not None:
                entry = component.version(version)
                return entry if entry is not None and (include_deleted or entry["stage"] != DELETED) else None
            return _chosen(component, label)

        return (await self._configs([component_id], chosen))[component_id]

    async def get_current_config(self, component_id: str) -> Row | None:
        """The config of the current version; None if nothing is published, or the component is archived. 2 requests."""
        return (await self._configs([component_id], _current))[component_id]

    async def get_latest_config(self, component_id: str) -> Row | None:
        """The config of the latest version that is not deleted, be it published or not. 2 requests."""
        return (await self._configs([component_id], _latest))[component_id]

    async def get_latest_configs(self, component_ids: set[str]) -> dict[str, Row | None]:
        """The same of each of these components. 2 requests in all, in the store's batches."""
        return await self._configs(sorted(component_ids), _latest)

    async def upsert_config(
        self,
        component_id: str,
        config: dict[str, Any] | None = None,
        version: int | None = None,
        label: str | None = None,
        stage: str | None = None,
        notes: str | None = None,
        links: list[dict[str, Any]] | None = None,
        expected_latest_version: int | None = None,
        expected_current_version: int | None = None,
        user_id: str | None = None,
    ) -> Row:
        """Append a version (without `version`), or change what is not None of a draft; the row with its config.

        A number is never used again; of several that append at once, each gets its own. `stage="published"` makes it
        the current version, and gives the component its name, description and metadata, in the same step. `links`
        replace those that it has. 3 requests, and 2 for each child and level of theirs; for a draft, 1 more.

        Raises `ValueError` if there is no such component of `user_id`'s, or version, if it is published, or the label
        another's; `ComponentVersionConflictError` if the latest version is not the expected one, or, of a publication,
        the current (0: none); `ComponentArchivedError`, `ComponentCycleError`, and `ComponentDependencyError` for pins
        of what is not published.
        """
        if stage is not None:
            _check_stage(stage)
        now = self.kernel.now()
        written: list[str] = []

        async def attempt(fresh: bool) -> Row:
            at = new_token()
            component = await read(self.kernel, component_id)
            own = _written(component, written)
            if own is not None:
                return config_row(component, own, _canonical(config))
            row = component.row
            if not component.known or row is None or not _may(component, owner(user_id)):
                raise ValueError(f"Component {component_id} not found")
            _refuse_archived(component)
            latest = component.visible[-1]["version"] if component.visible else None
            if expected_latest_version is not None and latest != expected_latest_version:
                raise ComponentVersionConflictError(
                    f"Component {component_id} latest version is {latest}, expected {expected_latest_version}"
                )
            children = await self._fit(component_id, links or ())
            if label is not None and any(e["label"] == label and e["version"] != version for e in component.visible):
                raise ValueError(f"Label '{label}' already exists for {component_id}")
            _check_links(links or ())
            entry, content = await self._changed(component, version, config, label, stage, notes, links, at, now)
            if entry["stage"] == PUBLISHED:
                if links is None and version is not None:
                    children = await self._pinned(component, version)
                what = f"Cannot publish {component_id} v{entry['version']}"
                _refuse_unfit_pins(what, entry["links"], children)
                current = row["current_version"]
                if expected_current_version is not None and not current_version_matches(
                    current, expected_current_version
                ):
                    raise ComponentVersionConflictError(
                        f"Component {component_id} current version is {current}, expected {expected_current_version}"
                    )
                identity = project_config_identity(content) if isinstance(content, dict) else {}
                row = {**row, **identity, "current_version": entry["version"], "updated_at": now}
            versions = [e for e in component.versions if e["version"] != entry["version"]]
            after = replace(component, row=row, versions=tuple(sorted([*versions, entry], key=_number)))
            stored = await self._store(after, entry, children, content, written if entry["at"] == at else None)
            before = component.version(entry["version"])
            if before is not None and before["at"] != entry["at"]:
                written.insert(0, before["at"])
            return stored

        return await self._storing(f"config of component {component_id!r}", component_id, written, attempt)

    async def delete_config(self, component_id: str, version: int, user_id: str | None = None) -> bool:
        """Delete a draft: its number stays taken, its label is free, its links go. Whether it was there, and
        `user_id`'s. 3 requests.

        Raises `ComponentArchivedError`, `ComponentDraftRequiredError` if it is published, `ValueError` if it is
        current, `ComponentLastConfigError` if no other is left, `ComponentDependencyError` if a live component has a
        link to it.
        """

        async def attempt(fresh: bool) -> bool:
            component = await read(self.kernel, component_id)
            row = component.row
            if not component.known or row is None or not _may(component, owner(user_id)):
                return False
            _refuse_archived(component)
            entry = component.version(version)
            if entry is None or entry["stage"] == DELETED:
                return False
            what = f"{component_id} v{version}"
            if entry["stage"] == PUBLISHED:
                raise ComponentDraftRequiredError(f"Cannot delete published config {what}; only drafts are deletable")
            if row["current_version"] == version:
                raise ValueError(f"Cannot delete current config {what}")
            if len(component.visible) <= 1:
                raise ComponentLastConfigError(f"Cannot delete the last visible config of {component_id}")
            found, _ = await dependents(self.kernel, component, version=version, active=True)
            _refuse_dependents(f"Cannot delete {what}: pinned by", found)
            deleted = {**entry, "stage": DELETED, "label": None, "links": [], "updated_at": self.kernel.now()}
            versions = tuple(deleted if e["version"] == version else e for e in component.versions)
            await catalog.write(self.kernel, replace(component, versions=versions))
            return True

        return await self.kernel.transact(f"removal of config {version} of {component_id!r}", attempt)

    async def list_configs(
        self, component_id: str, include_config: bool = False, include_deleted: bool = False
    ) -> list[Row]:
        """All versions of a component that is not archived, the newest first, without `config` unless
        `include_config`; deleted ones only if `include_deleted`. Linearizable. 1 request, with configs 2."""

        async def attempt(fresh: bool) -> list[Row]:
            component = await read(self.kernel, component_id)
            if not component.live:
                return []
            found = list(component.versions) if include_deleted else component.visible
            found.reverse()
            if include_config:
                return await catalog.configs(self.kernel, [(component, entry) for entry in found])
            rows = [config_row(component, entry, None) for entry in found]
            return [{name: value for name, value in row.items() if name != "config"} for row in rows]

        return await self.kernel.transact(f"listing of configs of {component_id!r}", attempt)

    async def set_current_version(
        self,
        component_id: str,
        version: int,
        expected_current_version: int | None = None,
        user_id: str | None = None,
    ) -> bool:
        """Make a published version the current one, and change nothing else of the component but `updated_at`; whether
        there is such a version, of a component that is not archived, and `user_id`'s. 2 requests, and 1 for children.

        Raises `ValueError` for a version that is not published, `ComponentVersionConflictError` if the current one is
        not the expected (0: none), `ComponentDependencyError` if it pins an archived child.
        """

        async def attempt(fresh: bool) -> bool:
            component = await read(self.kernel, component_id)
            row = component.row
            if not component.live or row is None or not _may(component, owner(user_id)):
                return False
            entry = component.version(version)
            if entry is None:
                return False
            if entry["stage"] != PUBLISHED:
                raise ValueError(
                    f"Cannot set draft config {component_id} v{version} as current. "
                    "Only published configs can be current."
                )
            current = row["current_version"]
            if expected_current_version is not None and not current_version_matches(current, expected_current_version):
                raise ComponentVersionConflictError(
                    f"Component {component_id} current version is {current}, expected {expected_current_version}"
                )
            children = await self._pinned(component, version)
            _refuse_archived_children(f"Cannot make {component_id} v{version} current", children.values())
            row = {**row, "current_version": version, "updated_at": self.kernel.now()}
            await catalog.write(self.kernel, replace(component, row=row))
            return True

        return await self.kernel.transact(f"current version of component {component_id!r}", attempt)

    # --- Links ------------------------------------------------------------------------------------------------------

    async def get_links(self, component_id: str, version: int, link_kind: str | None = None) -> list[Row]:
        """The links of a version, by position. Linearizable. 1 request."""
        links = (await read(self.kernel, component_id)).links(version)
        found = [link for link in links if link_kind in (None, link["link_kind"])]
        return sorted(found, key=_position)

    async def get_dependents(
        self,
        component_id: str,
        version: int | None = None,
        active_parents_only: bool = False,
        parent_user_id: str | None = None,
    ) -> list[Row]:
        """The links to a component, or to one version of it, by parent, version and position. `active_parents_only`:
        of versions that are not deleted, of components that are not archived; `parent_user_id`: of his components and
        nobody's. Each parent's are read from its own record: linearizable. 2 requests, in the store's batches."""
        component = await read(self.kernel, component_id)
        found, _ = await dependents(
            self.kernel, component, version=version, active=active_parents_only, user_id=owner(parent_user_id)
        )
        return found

    async def load_component_graph(
        self, component_id: str, version: int | None = None, label: str | None = None
    ) -> Row | None:
        """A component, a config (of the version, else of the label, else the current), and so its children by their
        links, down to 50 levels: `{"component", "config", "children": [{"link", "graph"}], "resolved_versions"}`.

        None if there is no such component or config, or only drafts. A component within itself is a stub with
        `"cycle_detected": True`. Each component is read once, as it is then: no snapshot of all. 1 request for each
        level, and 1 for all configs, in the store's batches.
        """

        async def attempt(fresh: bool) -> Row | None:
            first = await read(self.kernel, component_id)
            if version is None and label is not None:
                entry = _chosen(first, label)
                chosen = _number(entry) if entry is not None else None
            else:
                chosen = _resolved(first, version)
            return await self._graph(first, chosen)

        return await self.kernel.transact(f"graph of component {component_id!r}", attempt)

    async def _graph(self, first: Component, version: int | None) -> Row | None:
        known = {first.id: first}
        reached: dict[tuple[str, int], Row] = {}
        level = [(first.id, version)]
        for _ in range(DEPTH):
            pairs = [
                (known[id], entry)
                for id, number in dict.fromkeys(level)
                if (id, number) not in reached and (entry := _readable(known[id], number)) is not None
            ]
            reached |= {(component.id, entry["version"]): entry for component, entry in pairs}
            links = [link for _, entry in pairs for link in entry["links"]]
            missing = {link["child_component_id"] for link in links} - known.keys()
            known |= await read_all(self.kernel, sorted(missing))
            level = [
                (id, _resolved(known[id], link["child_version"]))
                for link in links
                for id in [link["child_component_id"]]
            ]
            if not level:
                break
        rows = await catalog.configs(self.kernel, [(known[id], entry) for (id, _), entry in reached.items()])
        configs = dict(zip(reached, rows, strict=True))
        return _assembled(known, configs, first.id, version, ())

    # --- Steps ------------------------------------------------------------------------------------------------------

    async def _configs(self, ids: Sequence[str], chosen: Callable[[Component], Row | None]) -> dict[str, Row | None]:
        """Of each live component, the config of the version that `chosen` names."""

        async def attempt(fresh: bool) -> dict[str, Row | None]:
            found = await read_all(self.kernel, ids)
            wanted = [
                (component, entry)
                for component in found.values()
                if component.live and (entry := chosen(component)) is not None
            ]
            rows = await catalog.configs(self.kernel, wanted)
            return {**dict.fromkeys(ids), **{row["component_id"]: row for row in rows}}

        return await self.kernel.transact(f"read of configs of {', '.join(ids)}", attempt)

    async def _pinned(self, component: Component, version: Any) -> dict[str, Component]:
        """The children that a version pins."""
        links = component.links(version)
        return await read_all(
            self.kernel, (link["child_component_id"] for link in links if link["link_kind"] in PIN_LINK_KINDS)
        )

    async def _fit(self, parent_id: str, links: Sequence[Mapping[str, Any]]) -> dict[str, Component]:
        """The children of these links, none of which is archived, or leads back to the parent. What is no component
        may be one that is defined in code. Raises `ComponentCycleError`, `ComponentArchivedError`."""
        ids = list(dict.fromkeys(link["child_component_id"] for link in links if link.get("child_component_id")))
        if parent_id in ids:
            raise ComponentCycleError(f"Component {parent_id} cannot reference itself")
        children = await read_all(self.kernel, ids)
        for child in children.values():
            if child.archived:
                raise ComponentArchivedError(f"Cannot link {parent_id} to archived component {child.id}")
        seen = dict(children)
        level = list(children.values())
        while level:
            further: set[str] = set()
            for component in level:
                below = {link["child_component_id"] for link in component.links()}
                if parent_id in below:
                    raise ComponentCycleError(f"Linking {parent_id} -> {component.id} would close a reference cycle")
                further |= below - seen.keys()
            found = await read_all(self.kernel, sorted(further))
            seen |= found
            level = list(found.values())
        return children

    async def _changed(
        self,
        component: Component,
        version: int | None,
        config: Any,
        label: str | None,
        stage: str | None,
        notes: str | None,
        links: Sequence[Mapping[str, Any]] | None,
        at: str,
        now: int,
    ) -> tuple[Row, Any]:
        """A version as it is to be, and its config."""
        if version is None:
            if config is None:
                raise ValueError("config is required when creating a new version")
            number = max((entry["version"] for entry in component.versions), default=0) + 1
            return _entry(number, label, stage or "draft", notes, links or (), at, now), config
        entry = component.version(version)
        if entry is None or entry["stage"] == DELETED:
            raise ValueError(f"Config {component.id} v{version} not found")
        if entry["stage"] == PUBLISHED:
            raise ValueError(f"Cannot update published config {component.id} v{version}")
        given = {"label": label, "stage": stage, "notes": notes, "at": at if config is not None else None}
        after = {**entry, **{name: value for name, value in given.items() if value is not None}, "updated_at": now}
        if links is not None:
            after["links"] = _links(links, now)
        if config is None:
            (row,) = await catalog.configs(self.kernel, [(component, entry)])
            config = row["config"]
        return after, config

    async def _store(
        self,
        component: Component,
        entry: Row,
        children: Mapping[str, Component],
        config: Any,
        written: list[str] | None,
    ) -> Row:
        """Write a component whose version `entry` is new or changed; that as a row. The config goes before it, and is
        noted in `written` (None: it is stored already): until the component names it, nobody sees it."""
        if written is not None:
            written.append(entry["at"])
            await self.kernel.commit([catalog.config_put(component, entry["at"], config, self.kernel.now())])
        component = await catalog.pin(self.kernel, component, children.values())
        try:
            await catalog.write(self.kernel, component)
        except StoreUnavailableError as error:
            # Whatever others have written since the reply was lost: a version with this config is ours.
            if written is None or not error.maybe_applied:
                raise
            reading = read(self.kernel, component.id)
            found = await answered(reading, None, f"what became of a write of component {component.id!r} is not known")
            own = _written(found, [entry["at"]]) if found is not None else None
            if found is None or own is None:
                raise
            return config_row(found, own, _canonical(config))
        return config_row(component, entry, _canonical(config))

    async def _storing(
        self, what: str, component_id: str, written: list[str], attempt: Callable[[bool], Coroutine[Any, Any, T]]
    ) -> T:
        """A transaction that notes which configs it has `written`; those that no version came to have are removed."""
        try:
            result = await self.kernel.transact(what, attempt)
        except ValueError:
            await self._forget(component_id, written)
            raise
        if len(written) > 1:
            await self._forget(component_id, written)
        return result

    async def _forget(self, component_id: str, written: Sequence[str]) -> None:
        """Remove those of these configs that no version has. If that fails, they go with the component."""
        if not written:
            return
        component = await read(self.kernel, component_id)
        for at in sorted(set(written) - {entry["at"] for entry in component.versions}):
            removal = self.kernel.commit([Delete(Ref(CONFIGS.name, at, component_id))])
            await answered(removal, None, f"an unused config of component {component_id!r} was not removed")


# --- Versions ---------------------------------------------------------------------------------------------------------


def _entry(
    version: int,
    label: str | None,
    stage: str,
    notes: str | None,
    links: Sequence[Mapping[str, Any]],
    at: str,
    now: int,
) -> Row:
    """A new version as a component's record has it. `at`: where its config is."""
    return {
        "version": version,
        "label": label,
        "stage": stage,
        "notes": notes,
        "created_at": now,
        "updated_at": None,
        "at": at,
        "links": _links(links, now),
    }


def _written(component: Component, configs: Sequence[str]) -> Row | None:
    """The version that has one of these configs: an earlier attempt, whose reply was lost, had written it."""
    return next((entry for entry in component.versions if component.known and entry["at"] in configs), None)


def _links(links: Sequence[Mapping[str, Any]], now: int) -> list[Row]:
    return [
        {
            "link_kind": link["link_kind"],
            "link_key": link["link_key"],
            "child_component_id": link["child_component_id"],
            "child_version": link["child_version"],
            "position": link["position"],
            "meta": _canonical(link.get("meta")),
            "created_at": now,
        }
        for link in links
    ]


def _number(entry: Row) -> int:
    return int(entry["version"])


def _position(link: Row) -> Any:
    return link["position"]


def _latest(component: Component) -> Row | None:
    return component.visible[-1] if component.visible else None


def _readable(component: Component, number: int | None) -> Row | None:
    """A version of a live component, if there is one, and it is not deleted."""
    entry = component.version(number) if component.live else None
    return entry if entry is not None and entry["stage"] != DELETED else None


def _current(component: Component) -> Row | None:
    number = component.row["current_version"] if component.row is not None else None
    return _readable(component, number) if number is not None else None


def _chosen(component: Component, label: str | None) -> Row | None:
    """The version of a label; without one the current, else the latest."""
    if label is not None:
        return next((entry for entry in component.visible if entry["label"] == label), None)
    published = component.row is not None and component.row["current_version"] is not None
    return _current(component) if published else _latest(component)


def _resolved(component: Component, version: int | None) -> int | None:
    """The number of a version; the current one for None."""
    if version is not None or not component.known or component.row is None:
        return version
    current: int | None = component.row["current_version"]
    return current


def _assembled(
    known: Mapping[str, Component],
    configs: Mapping[tuple[str, int], Row],
    id: str,
    version: int | None,
    above: tuple[str, ...],
) -> Row | None:
    """The graph below a component, fresh objects throughout."""
    if id in above:
        return {
            "component": {"component_id": id},
            "config": None,
            "children": [],
            "resolved_versions": {},
            "cycle_detected": True,
        }
    component = known[id]
    if version is None or (id, version) not in configs or len(above) >= DEPTH:
        return None
    children: list[Row] = []
    resolved: dict[str, int | None] = {id: version}
    for link in sorted(component.links(version), key=_position):
        child_id = link["child_component_id"]
        number = _resolved(known[child_id], link["child_version"])
        resolved[child_id] = number
        graph = _assembled(known, configs, child_id, number, (*above, id))
        if graph is not None:
            resolved |= graph["resolved_versions"]
        children.append({"link": link, "graph": graph})
    return {
        "component": _canonical(component.row),
        "config": _canonical(configs[id, version]),
        "children": children,
        "resolved_versions": resolved,
    }


# --- Rules ------------------------------------------------------------------------------------------------------------


def _may(component: Component, user_id: str | None) -> bool:
    """Whether a user may write a component: it is his; anybody may, where no user is named."""
    return user_id is None or (component.row is not None and component.row["user_id"] == user_id)


def _check_stage(stage: Any) -> None:
    if stage not in STAGES:
        raise ValueError(f"Invalid stage: {stage}")


def _check_links(links: Sequence[Mapping[str, Any]]) -> None:
    """Raises `ValueError` for a link without the child's version, and for two of one kind and key."""
    for link in links:
        if link.get("child_version") is None:
            raise ValueError(f"child_version is required for link to {link['child_component_id']}")
    if len({(link["link_kind"], link["link_key"]) for link in links}) < len(links):
        raise ValueError("two links have the same link_kind and link_key")


def _refuse_archived(component: Component) -> None:
    if component.archived:
        raise ComponentArchivedError(
            f"Component {component.id} is archived; restore it explicitly before writing to it"
        )


def _refuse_dependents(what: str, links: Sequence[Row]) -> None:
    parents = sorted({link["parent_component_id"] for link in links})
    if parents:
        raise ComponentDependencyError(f"{what} {', '.join(parents)}")


def _refuse_archived_children(what: str, children: Any) -> None:
    archived = sorted(child.id for child in children if child.archived)
    if archived:
        raise ComponentDependencyError(
            f"{what}: pinned child(ren) {', '.join(archived)} are archived. Restore them first."
        )


def _refuse_unfit_pins(what: str, links: Sequence[Mapping[str, Any]], children: Mapping[str, Component]) -> None:
    """What is published pins published versions, of components that are not archived."""
    for link in links:
        if link["link_kind"] not in PIN_LINK_KINDS:
            continue
        child = children[link["child_component_id"]]
        entry = child.version(link["child_version"])
        if entry is None or entry["stage"] != PUBLISHED:
            raise ComponentDependencyError(
                f"{what}: pinned {link['link_kind']} '{child.id}' v{link['child_version']} is "
                f"{'missing' if entry is None else entry['stage']}; publish the child first."
            )
        if child.archived:
            raise ComponentDependencyError(
                f"{what}: pinned {link['link_kind']} '{child.id}' is archived; restore it first."
            )


def _canonical(value: Any) -> Any:
    """A value as a store gives it back."""
    return None if value is None else Json.of(value).value()


def _new_row(
    component_id: str,
    component_type: Any,
    name: str,
    description: str | None,
    metadata: Any,
    user_id: Any,
    now: int,
) -> Row:
    given = {
        "component_id": component_id,
        "component_type": plain(component_type),
        "name": name,
        "user_id": owner(user_id),
        "description": description,
        "metadata": _canonical(metadata),
        "created_at": now,
    }
    return {**dict.fromkeys(COLUMNS), **given}


def _begun(component: Component, row: Row) -> Component:
    """A new component in the place of a record that stands for none."""
    return replace(component, row=row, versions=(), incarnation=new_token())

"""Snapshots of a memory store, and a file that holds one: development data that survive a restart.

A snapshot is all that a store holds, as a dict that JSON can hold, readable as such: records by table and kind, their
bodies as the values that they are. Invariants: what is restored is what was saved, to the revision; what is no snapshot
is refused, never taken for an empty store, because the next save would write over it; a file is replaced whole or not
at all, and not by a store that has not seen what is in it.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from agno_docstores.codec import Json, dumps
from agno_docstores.errors import SnapshotError
from agno_docstores.port import FieldValue, Ref, Rev, Stored

FORMAT = "agno-docstores memory store"
VERSION = 1

Snapshot = dict[str, Any]
Records = dict[str, dict[str, Stored]]  # by table and kind name, then by id


class Persistence(Protocol):
    """Where a memory store keeps its data. Both are plain functions, called under the store's lock."""

    def load(self) -> Snapshot | None:
        """The snapshot that was saved last, or None if there is none yet. Raises whatever keeps it from telling."""

    def save(self, snapshot: Snapshot) -> None:
        """Keep a snapshot in place of the one before; `snapshot["saves"]` is one more than that one's. Raises whatever
        keeps it from being there when this returns."""


class Hooks:
    """`Persistence` of two functions, of which either may be left out."""

    def __init__(self, load: Callable[[], Snapshot | None] | None, save: Callable[[Snapshot], None] | None) -> None:
        for name, hook in (("load", load), ("save", save)):
            if hook is not None and (not callable(hook) or inspect.iscoroutinefunction(hook)):
                raise TypeError(f"{name} must be a plain function, not {hook!r}")
        self._load = load
        self._save = save

    def load(self) -> Snapshot | None:
        return self._load() if self._load is not None else None

    def save(self, snapshot: Snapshot) -> None:
        if self._save is not None:
            self._save(snapshot)


class JsonFile:
    """A snapshot in a JSON file, for one store of one process at a time; a record is a line.

    A missing file is an empty store; anything else that is no snapshot raises `SnapshotError`. A save writes beside the
    file and then puts that in its place, so that a crash leaves the one or the other; missing folders are made. A save
    over what this store has neither loaded nor saved (another process or store uses the file) raises `SnapshotError`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._saves: int | None = None  # of the snapshot that is in the file, if that is known
        self._seen: tuple[int, ...] | None = None  # the file then

    def load(self) -> Snapshot | None:
        try:
            with self.path.open(encoding="utf-8") as file:
                seen = _identity(os.fstat(file.fileno()))
                found = json.load(file)
        except FileNotFoundError:
            self._saves, self._seen = 0, None
            return None
        except ValueError as error:
            raise SnapshotError(str(self.path), f"is no JSON ({error}); move it away to begin anew") from error
        _check(found, str(self.path))
        self._saves, self._seen = found["saves"], seen
        return found  # type: ignore[no-any-return]

    def save(self, snapshot: Snapshot) -> None:
        if self._saves is not None and (snapshot["saves"] != self._saves + 1 or self._now() != self._seen):
            raise SnapshotError(
                str(self.path), "was changed by another store or process; handles in one process share a MemoryStore"
            )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(f"{self.path.name}.{os.getpid()}.new")
        try:
            with beside.open("w", encoding="utf-8") as file:
                file.writelines(_lines(snapshot))
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self.path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        self._saves, self._seen = snapshot["saves"], self._now()

    def _now(self) -> tuple[int, ...] | None:
        try:
            return _identity(self.path.stat())
        except FileNotFoundError:
            return None

    def __repr__(self) -> str:
        return f"JsonFile({str(self.path)!r})"


def _identity(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _lines(snapshot: Snapshot) -> list[str]:
    """JSON text with a line for each record."""
    head = {name: value for name, value in snapshot.items() if name != "records"}
    lines = [dumps(head)[:-1] + ',"records":{']
    for number, (space, records) in enumerate(snapshot["records"].items()):
        lines.append(("," if number else "") + f"\n{dumps(space)}:[")
        lines += [("," if n else "") + f"\n{dumps(record)}" for n, record in enumerate(records)]
        lines.append("\n]")
    return [*lines, "\n}}\n"]


# --- Snapshots --------------------------------------------------------------------------------------------------------


def snapshot_of(name: str, saves: int, tables: Collection[str], records: Records) -> Snapshot:
    """All that a store holds. Nothing in it is the store's own object."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": name,
        "saves": saves,
        "tables": sorted(tables),
        "records": {
            space: [_to_json(record) for record in own.values()] for space, own in sorted(records.items()) if own
        },
    }


def restored(snapshot: Snapshot, where: str = "what load() gave") -> tuple[str, int, set[str], Records]:
    """Name, number of saves, tables and records of the store that a snapshot was taken of. Raises `SnapshotError`."""
    _check(snapshot, where)
    records: Records = {}
    for space, own in snapshot["records"].items():
        kind = space.rpartition("/")[2]
        try:
            records[space] = {record["id"]: _of_json(kind, record) for record in own}
        except (KeyError, TypeError, AttributeError) as error:
            raise SnapshotError(where, f"has a record in {space!r} that is none ({error!r})") from error
    return snapshot["name"], snapshot["saves"], set(snapshot["tables"]), records


def _check(found: Any, where: str) -> None:
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise SnapshotError(where, "is no snapshot of a memory store")
    if found.get("version") != VERSION:
        raise SnapshotError(where, f"has version {found.get('version')!r} of the format; this is version {VERSION}")
    shape = {"name": str, "saves": int, "tables": list, "records": dict}
    wrong = [name for name, kind in shape.items() if not isinstance(found.get(name), kind)]
    if wrong:
        raise SnapshotError(where, f"is a snapshot without {', '.join(wrong)}")


def _to_json(record: Stored) -> dict[str, Any]:
    optional = {"parent": record.ref.parent, "order": record.ref.order, "expires_at": record.expires_at}
    return {
        "id": record.ref.id,
        "rev": record.rev.token,
        **{name: value for name, value in optional.items() if value is not None},
        "fields": {name: list(v) if isinstance(v, tuple) else v for name, v in record.fields.items()},
        "body": {name: part.value() for name, part in (record.body or {}).items()},
    }


def _of_json(kind: str, record: Mapping[str, Any]) -> Stored:
    fields: dict[str, FieldValue] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in record["fields"].items()
    }
    return Stored(
        Ref(kind, record["id"], record.get("parent"), record.get("order")),
        Rev(record["rev"]),
        fields,
        {name: Json.parsed(value) for name, value in record["body"].items()},
        record.get("expires_at"),
    )

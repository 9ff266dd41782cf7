"""The state of a session, changed such that no conflict undoes it: what is asked of a session store beyond `BaseDb`.

Invariants: each change is one atomic step, and never rewrites what it was not told to; a condition is checked in the
very step that writes; a session is read and changed by its owner only (a user sees his own sessions, not the unowned);
runs are neither read nor written. Costs do not depend on the history.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any, Literal

from agno_docstores.codec import NULL, Json, is_long
from agno_docstores.errors import (
    Conflict,
    OwnershipError,
    SessionConflictError,
    SessionNotFoundError,
    StateConditionError,
)
from agno_docstores.history import Histories, is_long_to_read, session_ref
from agno_docstores.io import SyncIo
from agno_docstores.kernel import Kernel
from agno_docstores.keys import check_id
from agno_docstores.merging import MISSING, same, shown
from agno_docstores.port import Stored
from agno_docstores.session_records import (
    Incoming,
    Reading,
    Readings,
    Row,
    Session,
    changed,
    commit_session,
    conflict_over,
    insert_session,
    marked_head,
    may_replace,
    readable,
    session_of_row,
    to_session,
    version_of,
)

#: Where in the session's data: keys with dots between, or a tuple of keys where one has a dot in it.
Path = str | tuple[str, ...]
Condition = Mapping[Path, Any] | Callable[[dict[str, Any]], bool]


class State:
    def __init__(self, kernel: Kernel, histories: Histories, readings: Readings) -> None:
        self.kernel = kernel
        self.histories = histories
        self._readings = readings

    # --- Session data -----------------------------------------------------------------------------------------------

    async def get_session_data(self, session_id: str, user_id: str | None = None) -> dict[str, Any] | None:
        """A session's `session_data`, without its runs: {} if it has none, None if there is no such session of this
        user. Linearizable. 1 request. Raises on a failed read."""
        session = await self._read(session_id)
        if session is None or not readable(session, user_id):
            return None
        return await self._data(session)

    async def _data(self, session: Stored) -> dict[str, Any]:
        return await self.kernel.io.work(is_long_to_read((session,)), _data_of, session)

    async def update_session_data(
        self,
        session_id: str,
        data: Mapping[str, Any] | None = None,
        *,
        mode: Literal["incremental", "overwrite"] = "incremental",
        set: Mapping[Path, Any] | None = None,
        unset: Sequence[Path] = (),
        increment: Mapping[Path, int | float] | None = None,
        append: Mapping[Path, Sequence[Any]] | None = None,
        when: Condition | None = None,
        user_id: str | None = None,
    ) -> dict[str, Any]:
        """Change `session_data` in one atomic step; the data afterwards.

        `mode="incremental"`: `data` is merged key by key, however deep ({"session_state": {"step": 2}} keeps the rest
        of the state); "overwrite": it replaces all. Then, each at its path ("session_state.cart", or a tuple of keys):
        `set` puts a value whole, `unset` removes one (that is not there is no error), `increment` adds to a number
        (missing counts as 0), `append` adds to the end of a list (missing counts as empty). Objects on the way to a
        path are made; a list is a value, no path leads into it. `when`: what has to be at paths now, in value and type
        (`MISSING`: nothing), or a predicate of the data, which is no coroutine, gets data of its own and may be called
        again; if it does not hold, nothing changes and `StateConditionError` says what was found.

        Raises `SessionNotFoundError`, `OwnershipError`, `StateConditionError`, `TypeError` where a path leads through,
        or an increment or append to, something that cannot take it, `UnserializableValueError`, and what a predicate
        raises. 1 request where this handle read the session before and nobody wrote it since, else 2.
        """
        for name, value in (("data", data), ("set", set), ("increment", increment), ("append", append)):
            if value is not None and not isinstance(value, Mapping):
                raise TypeError(f"{name} must be a mapping, not {type(value).__name__}")
        if isinstance(unset, str):
            raise TypeError(f"unset must be a sequence of paths: [{unset!r}]")
        for path, values in (append or {}).items():
            if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
                raise TypeError(f"what is appended to {_shown(path)} must be a list of values, not {values!r}")
        if mode not in ("incremental", "overwrite"):
            raise ValueError(f'mode must be "incremental" or "overwrite", not {mode!r}')
        if mode == "overwrite" and data is None:
            raise ValueError("mode='overwrite' needs the data that replace what is there")
        long = is_long((data, set, append))
        given = await self.kernel.io.work(long, lambda: Json.of(None if data is None else dict(data), "data").value())

        def change(found: dict[str, Any]) -> dict[str, Any]:
            self._check(session_id, found, when)
            merged_in = (given or {}) if mode == "overwrite" else _merged(found, given or {})
            after: dict[str, Any] = Json.of(merged_in).value()  # its own, whatever is changed in it
            for path, value in (set or {}).items():
                parent, key = _parent(after, path)
                parent[key] = value
            for path in unset:
                _remove(after, path)
            for path, amount in (increment or {}).items():
                parent, key = _parent(after, path)
                parent[key] = _number(path, parent.get(key, 0)) + _number(path, amount)
            for path, values in (append or {}).items():
                parent, key = _parent(after, path)
                there = parent.get(key, [])
                if not isinstance(there, list):
                    raise TypeError(f"{_shown(path)} is no list")
                parent[key] = [*there, *values]
            return after

        stored = await self._change(session_id, user_id, change, long)
        return await self._data(stored)

    @staticmethod
    def _check(session_id: str, found: dict[str, Any], when: Condition | None) -> None:
        if when is None:
            return
        if callable(when):
            holds = when(deepcopy(found))  # which is what is going to be changed
            if inspect.isawaitable(holds):
                if inspect.iscoroutine(holds):
                    holds.close()
                raise TypeError("the predicate of a condition must not be a coroutine")
            if not holds:
                raise StateConditionError(session_id, {}, found)
            return
        unmet = {}
        for path, expected in when.items():
            value = _at(found, path)
            wanted = expected if expected is MISSING else Json.of(expected, _shown(path)).value()
            if not same(value, wanted):
                unmet[_shown(path)] = (expected, value)
        if unmet:
            raise StateConditionError(session_id, unmet, found)

    async def _change(
        self, session_id: str, user_id: str | None, change: Callable[[dict[str, Any]], dict[str, Any]], long: bool
    ) -> Stored:
        """`long`: what is put into the data is, whatever is there."""

        async def attempt(fresh: bool) -> Stored:
            known = None if fresh else self.kernel.recent.get(session_ref(session_id))
            session = known if isinstance(known, Stored) and readable(known, user_id) else await self._read(session_id)
            if session is None:
                raise SessionNotFoundError(session_id)
            if not readable(session, user_id):
                raise OwnershipError("session", session_id, user_id)
            try:
                part = await self.kernel.io.work(
                    long or is_long_to_read((session,)),
                    lambda: Json.of(change(_data_of(session)), "session_data"),
                )
            except Exception:  # a predicate's own, too
                if session is known:
                    raise Conflict([session.ref]) from None  # nothing is refused on remembered state
                raise
            return await self._write(session, {"session_data": part})

        check_id("session_id", session_id)
        return await self.kernel.transact(f"update of session {session_id!r}", attempt)

    async def _write(self, session: Stored, parts: Mapping[str, Json]) -> Stored:
        fields, body = changed(session, parts, updated_at=self.kernel.now())
        owner = session.fields.get("user_id")
        head = await marked_head(self.kernel, session, body, owner if isinstance(owner, str) else None)
        return await commit_session(self.histories, session, fields, body, head)

    async def _read(self, session_id: str) -> Stored | None:
        session, _ = await self.histories.heads(check_id("session_id", session_id))
        return session

    # --- Sessions under their version -------------------------------------------------------------------------------

    async def save_session(self, session: Session | Row, expected_version: int | None = None) -> bool:
        """Save a session that was read earlier, if nobody wrote it since; True when it is stored.

        Which version it was read at travels with the object and its copies (`copy`, `deepcopy`, pickle; not with an
        object that is built anew from its parts, as by `from_dict` or `dataclasses.replace`: pass `expected_version`).
        A row carries it as "version", and has all columns. 0, and an object that was never read: there must be no
        such session yet. Runs are not written. Raises `SessionConflictError` with the version found and, of an object,
        what changed meanwhile; `OwnershipError`; `ValueError` for a row without a version or a column. Afterwards the
        object, or row, counts as read at the new version. 1 request where this handle has read the session, else 2.
        """
        if isinstance(session, dict):
            _check_row(session, expected_version)
        incoming = await Incoming.taken(self.kernel, session_of_row(session) if isinstance(session, dict) else session)
        if isinstance(session, dict):
            reading, read_at = None, session.get("version")
        else:
            reading = self._readings.of(session, incoming.body)
            read_at = reading.version if reading is not None else 0
        expected = read_at if expected_version is None else expected_version
        if isinstance(expected, bool) or not isinstance(expected, int):
            raise TypeError(f"the version that is expected must be an int, not {expected!r}")
        base = reading.body if reading is not None and reading.version == expected else None
        stored = await self._save(incoming, expected, base)
        if isinstance(session, dict):
            session["version"] = version_of(stored)
        else:
            self._readings.note_saved(session, Reading.of(stored))
        return True

    async def _save(self, incoming: Incoming, expected: int, base: Mapping[str, Json] | None) -> Stored:
        async def attempt(fresh: bool) -> Stored:
            known = None if fresh else self.kernel.recent.get(session_ref(incoming.session_id))
            if isinstance(known, Stored) and version_of(known) == expected:
                current: Stored | None = known
            else:
                current, head = await self.histories.heads(incoming.session_id)
                if current is None and expected == 0:
                    return await insert_session(self.histories, incoming, None, head)
            # First of all: a conflict tells the session's version, and what has changed in it.
            if current is not None and not may_replace(current, incoming.user_id):
                if current is known:
                    raise Conflict([current.ref])  # nothing is refused on remembered state
                raise OwnershipError("session", incoming.session_id, incoming.user_id)
            if current is None or version_of(current) != expected:
                raise conflict_over(current, incoming.session_id, expected, base)
            created_at: Any = current.fields["created_at"]
            fields, body = incoming.over(
                current, created_at=created_at, updated_at=self.kernel.now(), version=expected + 1
            )
            marked = await marked_head(self.kernel, current, body, incoming.user_id)
            return await commit_session(self.histories, current, fields, body, marked)

        return await self.kernel.transact(f"save of session {incoming.session_id!r}", attempt)

    async def update_session(
        self,
        session_id: str,
        fn: Callable[[Session], Any],
        max_retries: int = 3,
        *,
        user_id: str | None = None,
    ) -> Session:
        """Read a session (without its runs), apply `fn` to it, save it; again from the start, after a while of random
        length, if somebody else wrote it meanwhile, at most `max_retries` times. The session as saved.

        `fn` changes the object, or returns another to be saved in its place; of an async store it may be async; it may
        run several times. Raises `SessionNotFoundError`, `OwnershipError`, what `fn` raises, `ValueError` if it makes
        another session of it, and `SessionConflictError` when the retries are used up. 2 requests a round.
        """
        if max_retries < 0:
            raise ValueError(f"max_retries must not be negative: {max_retries}")
        for retry in range(max_retries + 1):
            stored = await self._read(session_id)
            if stored is None:
                raise SessionNotFoundError(session_id)
            if not readable(stored, user_id):
                raise OwnershipError("session", session_id, user_id)
            session = to_session(stored, None, None)
            result = fn(session)
            if inspect.isawaitable(result):
                result = await self._awaited(result)
            session = session if result is None else result
            if getattr(session, "session_id", session_id) != session_id:
                raise ValueError(f"session {session_id!r} was to be changed, not {session.session_id!r}")
            incoming = await Incoming.taken(self.kernel, session)
            try:
                saved = await self._save(incoming, version_of(stored), stored.body)
            except SessionConflictError:
                if retry == max_retries:
                    raise
                await self.kernel.back_off(retry)
            else:
                return to_session(saved, None, None)
        raise AssertionError("unreachable")

    async def _awaited(self, result: Awaitable[Any]) -> Any:
        if isinstance(self.kernel.io, SyncIo):
            if inspect.iscoroutine(result):
                result.close()
            raise TypeError("a function that is a coroutine needs an async store")
        return await result


def _check_row(row: Row, expected_version: int | None) -> None:
    if expected_version is None and row.get("version") is None:
        raise ValueError('the row has no "version": pass the one that it was read at as expected_version')
    kind = row.get("session_type") or next((kind for kind in ("team", "workflow") if row.get(f"{kind}_id")), "agent")
    columns = ("session_id", f"{kind}_id", "user_id", "session_data", f"{kind}_data", "metadata", "summary")
    missing = [name for name in columns if name not in row]
    if missing:
        raise ValueError(f"the row would remove what it does not name: {', '.join(missing)}")


def _data_of(session: Stored) -> dict[str, Any]:
    data = (session.body or {}).get("session_data", NULL).value()
    return data if isinstance(data, dict) else {}


def _merged(found: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The given fields over those found, key by key as deep as both are objects."""
    result = dict(found)
    for key, value in given.items():
        there = result.get(key)
        result[key] = _merged(there, value) if isinstance(there, dict) and isinstance(value, dict) else value
    return result


def _keys(path: Path) -> tuple[str, ...]:
    keys = tuple(path.split(".")) if isinstance(path, str) else tuple(path)
    if not keys or not all(isinstance(key, str) for key in keys):
        raise TypeError(f"a path is a str, or a tuple of them, not {path!r}")
    return keys


def _shown(path: Path) -> str:
    return shown(_keys(path))


def _at(data: dict[str, Any], path: Path) -> Any:
    """What is at a path; `MISSING` where nothing is."""
    value: Any = data
    for key in _keys(path):
        if not isinstance(value, dict) or key not in value:
            return MISSING
        value = value[key]
    return value


def _parent(data: dict[str, Any], path: Path) -> tuple[dict[str, Any], str]:
    """The object that holds the last key of a path; those on the way are made."""
    *way, last = _keys(path)
    value: Any = data
    for key in way:
        value = value.setdefault(key, {})
        if not isinstance(value, dict):
            raise TypeError(f"{_shown(path)} leads through {key!r}, which is no object")
    return value, last


def _remove(data: dict[str, Any], path: Path) -> None:
    *way, last = _keys(path)
    parent = _at(data, tuple(way)) if way else data
    if isinstance(parent, dict):
        parent.pop(last, None)


def _number(path: Path, value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{_shown(path)} is no number")
    return value

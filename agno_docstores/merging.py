"""Three-way merge of JSON values: what two writers made of one value, put together.

Pure. Of each key, whoever changed it since the common base wins; objects are merged key by key, however deep; where
both changed the same key to different values, mine wins, and its path is told. A key removed by one and left alone by
the other is gone. Values that differ in type differ: 1 is not 1.0, nor True.

Where numbers are *amounts* that grow, what each writer added is added, also where both added the same. The objects of a
list are told apart there by their texts ("id", "provider"), and merged one by one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

Path = tuple[str, ...]
#: Where numbers are amounts: by the path to them.
Additive = Callable[[Path], bool]


class _Missing:
    """The one object of its kind, also as a copy, and in another process."""

    def __repr__(self) -> str:
        return "MISSING"

    def __reduce__(self) -> str:
        return "MISSING"


MISSING: Any = _Missing()


def _nowhere(path: Path) -> bool:
    return False


def merge(base: Any, mine: Any, theirs: Any, additive: Additive = _nowhere, path: Path = ()) -> tuple[Any, list[Path]]:
    """What becomes of a value (`MISSING`: of one that is not there), and the paths at which both had changed it."""
    if same(base, theirs):
        return mine, []
    if same(base, mine):
        return theirs, []
    if isinstance(mine, dict) and isinstance(theirs, dict):
        common = base if isinstance(base, dict) else {}
        result: dict[str, Any] = {}
        lost: list[Path] = []
        for key in {**theirs, **mine}:
            before, own, other = (side.get(key, MISSING) for side in (common, mine, theirs))
            value, below = merge(before, own, other, additive, (*path, key))
            lost += below
            if value is not MISSING:
                result[key] = value
        return result, lost
    if additive(path):
        if all(map(_is_number, (mine, theirs))) and (base is MISSING or _is_number(base)):
            return theirs + mine - (0 if base is MISSING else base), []
        named, others = _by_name(mine), _by_name(theirs)
        if named is not None and others is not None:
            entries, lost = merge(_by_name(base) or {}, named, others, additive, path)
            return list(entries.values()), lost
    if same(mine, theirs):
        return mine, []
    return mine, [path]


def changes(base: Any, mine: Any, additive: Additive = _nowhere, path: Path = ()) -> Any:
    """What a writer made of a value, without all that was so before; `MISSING` if that is nothing."""
    if same(base, mine):
        return MISSING
    if isinstance(base, dict) and isinstance(mine, dict):
        made = {key: changes(base.get(key, MISSING), value, additive, (*path, key)) for key, value in mine.items()}
        return {key: value for key, value in made.items() if value is not MISSING}
    if additive(path):
        if _is_number(base) and _is_number(mine):
            return mine - base
        before, named = _by_name(base), _by_name(mine)
        if before is not None and named is not None:
            return [{**_texts(named[name]), **made} for name, made in changes(before, named, additive, path).items()]
    return mine


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal in value and type, whatever the order of keys."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) or (one != one and other != other)  # NaN is the same as NaN


def differences(before: Any, after: Any, path: Path = ()) -> Iterator[Path]:
    """The paths at which two values differ: as deep as both are objects."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in {**before, **after}:
            yield from differences(before.get(key, MISSING), after.get(key, MISSING), (*path, key))
    elif not same(before, after):
        yield path


def shown(path: Path) -> str:
    """A path as text, for messages: dots between keys, a key with a dot in quotes."""
    return ".".join(json.dumps(key, ensure_ascii=False) if "." in key or not key else key for key in path)


def _by_name(value: Any) -> dict[str, Any] | None:
    """The objects of a list by what tells them apart; None where that does not, or this is no such list."""
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        return None
    named = {json.dumps(_texts(one), sort_keys=True): one for one in value}
    return named if len(named) == len(value) else None


def _texts(one: dict[str, Any]) -> dict[str, str]:
    return {key: text for key, text in one.items() if isinstance(text, str)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

"""Three-way merge of JSON values: what two writers made of one value, put together.

Pure. Of each key, whoever changed it since the common base wins; objects are merged key by key, however deep; where
both changed the same key to different values, mine wins, and its path is told. A key removed by one and left alone by
the other is gone. Values that differ in type differ: 1 is not 1.0, nor True.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

Path = tuple[str, ...]
#: Where numbers are amounts that grow, so that what each writer added is added: by the path to them.
Additive = Callable[[Path], bool]


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Any = _Missing()


def merge(
    base: Any, mine: Any, theirs: Any, additive: Additive = lambda path: False, path: Path = ()
) -> tuple[Any, list[Path]]:
    """What becomes of a value (`MISSING`: of one that is not there), and the paths at which both had changed it."""
    if same(mine, theirs) or same(base, theirs):
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
    if additive(path) and all(map(_is_number, (mine, theirs))) and (base is MISSING or _is_number(base)):
        return theirs + mine - (0 if base is MISSING else base), []
    return mine, [path]


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


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

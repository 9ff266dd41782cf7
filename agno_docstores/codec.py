"""JSON values: one canonical form for everything that Agno treats as JSON.

What a store gives back is what `SqliteDb` gives back: the value as `json.dumps` with Agno's encoder writes it and
`json.loads` reads it (tuples become lists, keys become text, datetimes ISO text; NaN, integers of any size, dotted and
empty keys stay). What that encoder refuses, every store refuses, by the path of the value.
"""

from __future__ import annotations

import json
import zlib
from typing import Any

from agno.db.utils import CustomJSONEncoder

from agno_docstores.errors import UnserializableValueError

_COMPRESSED = b"z"


class Json:
    """An immutable JSON value, held as text. `value()` gives a fresh object each time, safe to mutate."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    @classmethod
    def of(cls, value: Any, path: str = "value") -> Json:
        """Canonical form of a value; raises `UnserializableValueError` naming the path of what JSON cannot hold."""
        if value is None:
            return NULL
        try:
            return cls(dumps(value))
        except (TypeError, ValueError, RecursionError) as error:
            found_path, found = _culprit(value, path, set())
            raise UnserializableValueError(found_path, found) from error

    @classmethod
    def parsed(cls, value: Any) -> Json:
        """The same for a value that came from a store, and so is canonical already."""
        return NULL if value is None else cls(dumps(value))

    def value(self) -> Any:
        return None if self.text == "null" else json.loads(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Json) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Json({len(self.text)} characters)"


NULL = Json("null")


def dumps(value: Any) -> str:
    """Compact JSON text that every store can hold: a lone surrogate, which UTF-8 has no form for, stays escaped."""
    text = _PLAIN.encode(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        return _ESCAPED.encode(value)
    return text


# Made once: `json.dumps` makes an encoder anew for each value.
_PLAIN = CustomJSONEncoder(ensure_ascii=False, separators=(",", ":"))
_ESCAPED = CustomJSONEncoder(separators=(",", ":"))


def pack(parts: dict[str, Json], *, compress: bool = True, threshold: int = 1024) -> str | bytes:
    """A body as one JSON text, or as compressed bytes where that is on, the text is long, and it helps."""
    text = "{" + ",".join(f"{json.dumps(name)}:{part.text}" for name, part in parts.items()) + "}"
    if compress and len(text) > threshold:
        packed = _COMPRESSED + zlib.compress(text.encode(), 6)
        if len(packed) < len(text):
            return packed
    return text


def unpack(packed: str | bytes) -> dict[str, Json]:
    """The inverse of `pack`; accepts both forms whatever the setting was. Raises `ValueError` on anything else."""
    if isinstance(packed, bytes):
        if packed[:1] != _COMPRESSED:
            raise ValueError("unknown body encoding")
        try:
            packed = zlib.decompress(packed[1:]).decode()
        except zlib.error as error:
            raise ValueError(str(error)) from error
    return {name: Json.parsed(value) for name, value in json.loads(packed).items()}


def _culprit(value: Any, path: str, seen: set[int]) -> tuple[str, Any]:
    """The first thing within a value that JSON cannot hold, with its path."""
    if isinstance(value, dict):
        items = [(key, f"{path}.{key}", item) for key, item in value.items()]
        for key, key_path, _ in items:
            if not isinstance(key, str | int | float | bool | None):
                return f"key {key!r} of {path}", key
            del key_path
        children = [(item_path, item) for _, item_path, item in items]
    elif isinstance(value, list | tuple):
        children = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    else:
        return path, value
    if id(value) in seen:
        return path, value
    seen = seen | {id(value)}
    for child_path, child in children:
        try:
            json.dumps(child, cls=CustomJSONEncoder)
        except (TypeError, ValueError, RecursionError):
            if len(seen) > 150:
                return child_path, child
            return _culprit(child, child_path, seen)
    return path, value

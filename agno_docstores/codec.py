"""JSON values: one canonical form for everything that Agno treats as JSON.

What a store gives back is what `SqliteDb` gives back: the value as `json.dumps` with Agno's encoder writes it and
`json.loads` reads it (tuples become lists, keys become text, datetimes ISO text; NaN, integers of any size, dotted and
empty keys stay). What that encoder refuses, every store refuses, by the path of the value; and
so it does what is nested too deep to be read again wherever it is asked for.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any

from agno.db.utils import CustomJSONEncoder

from agno_docstores.errors import UnserializableValueError
from agno_docstores.io import works_beside_loop
from agno_docstores.keys import encodable

#: Levels of lists and objects that a value may have. Python reads, compares and merges values on its stack, of which a
#: reader may have less than the writer had: what could be written could not be read, and break every listing.
MOST_LEVELS = 300

_UNFIT = "which cannot be stored as JSON"
_COMPRESSED = b"z"
_LEAVES = frozenset({str, int, float, bool, type(None)})
_encoder: json.JSONEncoder = CustomJSONEncoder()
_decoder = json.JSONDecoder()
_STEP = 100_000  # characters that are compressed at a time
_PIECE = 50_000  # characters, counted as for `LONG`, that are encoded at a time where an event loop waits
#: Characters of JSON text, or of what becomes such, from which on to work on it takes milliseconds: then it is for
#: `Io.work`. An item that is no text counts as so many.
LONG, _ITEM = 250_000, 10
LONG_PACKED = 30_000  # bytes of what `pack` makes of such


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
            text = dumps(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise UnserializableValueError(*_culprit(value, path)) from error
        if _may_be_deep(text) and _too_deep(value):
            raise UnserializableValueError(*_culprit(value, path))
        return cls(text)

    @classmethod
    def of_plain(cls, value: Any) -> Json | None:
        """The same for a value that has nothing but JSON's own types in it; None for any other, and for one that `of`
        had better look at closely."""
        if value is None:
            return NULL
        if works_beside_loop():
            return None
        try:
            text = _STRICT.encode(value)
        except (TypeError, ValueError, RecursionError):
            return None
        return None if _may_be_deep(text) or not encodable(text) else cls(text)

    @classmethod
    def parsed(cls, value: Any) -> Json:
        """The same for a value that came from a store, and so is canonical already."""
        return NULL if value is None else cls(dumps(value))

    def value(self) -> Any:
        return None if self.text == "null" else loads(self.text)

    @property
    def size(self) -> int:
        """Bytes of the text in UTF-8."""
        return len(self.text) if self.text.isascii() else len(self.text.encode())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Json) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Json({len(self.text)} characters)"


NULL = Json("null")


def dumps(value: Any) -> str:
    """Compact JSON text that every store can hold: a lone surrogate, which UTF-8 has no form for, stays escaped."""
    text = _encode(_PLAIN, value)
    return text if encodable(text) else _encode(_ESCAPED, value)


def loads(text: str) -> Any:
    """The value of JSON text; raises `ValueError` for what is none. A fresh one each time."""
    reader = _reader(text)
    try:
        value, end = reader.raw_decode(text)
    except ValueError:
        end = -1
    # Blanks around the value, or none at all: `decode` sees to it, and looks for blanks at each text.
    return value if end == len(text) else reader.decode(text)


# Made once: `json.dumps` makes an encoder anew for each value.
_PLAIN = CustomJSONEncoder(ensure_ascii=False, separators=(",", ":"))
_ESCAPED = CustomJSONEncoder(separators=(",", ":"))
_STRICT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))

# The C encoder and decoder of a value hold the interpreter from its beginning to its end, which an event loop beside
# waits for. So there, they are given a piece at a time to write, and reading they call a function of Python, before
# which others may go on, for each object and number.
_SHARING = json.JSONDecoder(
    object_hook=lambda value: value, parse_int=lambda text: int(text), parse_float=lambda text: float(text)
)


def _reader(text: str) -> json.JSONDecoder:
    return _SHARING if len(text) >= _PIECE and works_beside_loop() else _decoder


def _encode(encoder: json.JSONEncoder, value: Any) -> str:
    if not works_beside_loop():
        return encoder.encode(value)
    pieces: list[str] = []
    _encode_pieces(encoder, value, pieces.append, set())
    return "".join(pieces)


def _encode_pieces(encoder: json.JSONEncoder, value: Any, add: Callable[[str], None], within: set[int]) -> None:
    """The text of a value, no more than some `_PIECE` of it by one call of the encoder."""
    if _weight(value, _PIECE) < _PIECE:
        add(encoder.encode(value))
    elif type(value) is str:
        starts = range(0, len(value), _PIECE)
        add('"' + "".join(encoder.encode(value[start : start + _PIECE])[1:-1] for start in starts) + '"')
    elif not isinstance(value, dict | list | tuple):
        known = isinstance(value, str | int | float)  # a class of its own, which the encoder writes as what it is
        add(encoder.encode(value)) if known else _encode_pieces(encoder, encoder.default(value), add, within)
    elif id(value) in within:
        raise ValueError("Circular reference detected")
    else:
        within.add(id(value))
        is_object = isinstance(value, dict)
        batch: list[Any] = []
        weight, comma = 0, ""

        def flush() -> None:
            nonlocal weight, comma
            if batch:
                add(comma + encoder.encode(dict(batch) if is_object else batch)[1:-1])
                batch.clear()
                weight, comma = 0, ","

        add("{" if is_object else "[")
        for entry in value.items() if isinstance(value, dict) else value:
            child = entry[1] if is_object else entry
            size = _ITEM + _weight(child, _PIECE)
            if size >= _PIECE:
                flush()
                add(comma + (encoder.encode({entry[0]: None})[1:-5] if is_object else ""))
                _encode_pieces(encoder, child, add, within)
                comma = ","
            else:
                batch.append(entry)
                weight += size
                if weight >= _PIECE:
                    flush()
        flush()
        add("}" if is_object else "]")
        within.discard(id(value))


def pack(parts: Mapping[str, Json], *, compress: bool = True, threshold: int = 1024) -> str | bytes:
    """A body as one JSON text, or as compressed bytes where that is on, the text is long, and it helps."""
    text = "{" + ",".join(f"{json.dumps(name)}:{part.text}" for name, part in parts.items()) + "}"
    if compress and len(text) > threshold:
        packed = _COMPRESSED + zlib.compress(text.encode(), 6)
        if len(packed) < len(text):
            return packed
    return text


def packed_size(parts: Mapping[str, Json], most: int, *, compress: bool = True) -> int:
    """The bytes of what `pack` makes of these, or, where that is more than `most`, some number above it: found without
    making it, and compressing no more than is needed to tell."""
    plain = 2 + sum(len(name) + 4 + part.size for name, part in parts.items())
    if not compress or plain <= most:
        return plain
    packer = zlib.compressobj(6)
    size = 1
    for part in parts.values():
        for start in range(0, len(part.text), _STEP):
            size += len(packer.compress(part.text[start : start + _STEP].encode()))
            if size > most:
                return size
    return size + len(packer.flush())


def unpack(packed: str | bytes) -> dict[str, Json]:
    """The inverse of `pack`; accepts both forms whatever the setting was. Raises `ValueError` on anything else."""
    if isinstance(packed, bytes):
        if packed[:1] != _COMPRESSED:
            raise ValueError("unknown body encoding")
        try:
            packed = zlib.decompress(packed[1:]).decode()
        except zlib.error as error:
            raise ValueError(str(error)) from error
    return dict(_parts(packed))


def _parts(packed: str) -> Iterable[tuple[str, Json]]:
    """The parts of a packed body: their texts as they are, once it is seen that they are JSON."""
    place, end, reader = 1, len(packed) - 1, _reader(packed)
    if packed[:1] != "{" or packed[-1:] != "}":
        raise ValueError("no object")
    while place < end:
        name, place = _decoder.raw_decode(packed, place)
        if not isinstance(name, str) or packed[place] != ":":
            raise ValueError(f"no name of a part before character {place}")
        start = place + 1
        _, place = reader.raw_decode(packed, start)
        yield name, Json(packed[start:place])
        if place < end and packed[place] != ",":
            raise ValueError(f"no end of a part at character {place}")
        place += 1


def is_long(value: Any) -> bool:
    """Whether a value that is to be stored makes long JSON text. Looks at no more of it than is needed to tell."""
    return _weight(value, LONG) >= LONG


def _weight(value: Any, most: int) -> int:
    """About how many characters of JSON text a value makes; of one of more than `most`, some number above that."""
    weight, pending = 0, [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str | bytes):
            weight += len(item)
        elif isinstance(item, dict):
            weight += _ITEM * len(item)
            pending += item.values() if len(item) * _ITEM < most else ()
        elif isinstance(item, list | tuple):
            weight += _ITEM * len(item)
            pending += item if len(item) * _ITEM < most else ()
        elif hasattr(item, "__dict__") and not isinstance(item, type | Enum):
            pending.append(vars(item))
        if weight >= most:
            break
    return weight


def _may_be_deep(text: str) -> bool:
    """Whether JSON text has so many brackets that its value may have too many levels. Most has not."""
    return len(text) > MOST_LEVELS and text.count("[") + text.count("{") > MOST_LEVELS


def _too_deep(value: Any) -> bool:
    """Whether a value that can be stored has more than `MOST_LEVELS` levels."""
    level = [value]
    for _ in range(MOST_LEVELS):
        below: list[Any] = []
        for item in level:
            kind = type(item)
            children = item.values() if kind is dict else item if kind is list else _children(item)
            below += [child for child in children if type(child) not in _LEAVES]
        if not below:
            return False
        level = below
    return any(isinstance(_encoded(item), dict | list | tuple) for item in level)


def _children(item: Any) -> Iterable[Any]:
    item = _encoded(item)
    return item.values() if isinstance(item, dict) else item if isinstance(item, list | tuple) else ()


def _encoded(item: Any) -> Any:
    """What the encoder makes of an object that JSON has no form for."""
    while not isinstance(item, dict | list | tuple | str | int | float | None):
        item = _encoder.default(item)
    return item


def _culprit(value: Any, path: str) -> tuple[str, Any, str]:
    """The first thing within a value that cannot be stored, in the order of its text: its path, itself, and why."""
    # What is still to be looked at, and, below it in the stack, what it lies in: left when all within is looked at.
    pending: list[tuple[str, Any, bool]] = [(path, value, False)]
    within: set[int] = set()
    while pending:
        path, item, left = pending.pop()
        if left:
            within.discard(id(item))
            continue
        if not isinstance(item, dict | list | tuple):
            if not _fits(item):
                break
            continue
        if id(item) in within:
            return path, item, "which contains itself"
        if len(within) >= MOST_LEVELS:
            return path, item, f"more than {MOST_LEVELS} levels deep"
        within.add(id(item))
        pending.append((path, item, True))
        if isinstance(item, dict):
            for key in item:
                if not _fits({key: None}):
                    return f"key {key!r} of {path}", key, _UNFIT
            children = [(f"{path}.{key}", child, False) for key, child in item.items()]
        else:
            children = [(f"{path}[{index}]", child, False) for index, child in enumerate(item)]
        pending += reversed(children)
    return path, item, _UNFIT


def _fits(value: Any) -> bool:
    """Whether something that is no list and no object can be stored."""
    try:
        dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True

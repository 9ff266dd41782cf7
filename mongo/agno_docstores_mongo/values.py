"""JSON and field values as BSON: native where nothing is lost by it, else JSON text under a marker.

Invariant: `decode(encode(part)) == part`, in type too, whatever the part is. A value is native, and so pleasant to
look at and to aggregate over, if BSON and the server's query language give each of its keys, integers and strings back
unharmed; otherwise the whole part is `{"__json__": "<JSON text>"}`. Readers accept both forms at any time, and refuse
with `ValueError` what neither of them can be (somebody edited the document).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from bson.datetime_ms import DatetimeMS

from agno_docstores.codec import Json, dumps, loads
from agno_docstores.keys import encodable
from agno_docstores.port import FieldValue

MARK = "__json__"
#: Characters of JSON text up to which a part may be native. Beyond, nobody looks at it, and to make and read a
#: sub-document of many small values takes a hundred times as long as to copy their text.
MOST_NATIVE = 1_000_000
_DEPTH = 90  # levels of one part; the server refuses documents of more than 100
_MIN, _MAX = -(2**63), 2**63 - 1
# A lone surrogate has no UTF-8 form, so JSON text can hold it only as an escape (see `codec.dumps`).
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_LAST = 253_402_300_799  # the last second that a `datetime` can tell


def encode(part: Json) -> Any:
    """The BSON value of a JSON value."""
    if part.text == "null":
        return None
    if len(part.text) > MOST_NATIVE or _SURROGATE.search(part.text):
        return as_text(part)
    try:
        value = part.value()
    except RecursionError:
        return as_text(part)
    return value if _native(value) else as_text(part)


def as_text(part: Json) -> dict[str, str]:
    """The marked form of a JSON value."""
    return {MARK: part.text}


def decode(value: Any) -> Json:
    """The JSON value of a BSON value in either form. Raises `ValueError`."""
    text = marked(value)
    if text is not None:
        loads(text)
        return Json(text)
    try:
        return Json.parsed(value)
    except TypeError as error:
        raise ValueError(str(error)) from error


def encode_field(value: object) -> Any:
    """The BSON value of a field or of a condition's operand. What is no scalar at all becomes marked text: it is
    compared as a value, and equals nothing, rather than being read as an operator."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if _MIN <= value <= _MAX else {MARK: str(int(value))}
    if isinstance(value, str):
        return value if value.isascii() or encodable(value) else {MARK: dumps(value)}
    if isinstance(value, tuple):
        return [encode_field(item) for item in value]
    return as_text(Json.of(value))


def decode_field(value: Any) -> FieldValue:
    """The field of a BSON value. Raises `ValueError` for what no field can be."""
    if isinstance(value, list):
        return tuple(str(_scalar(item)) for item in value)
    return _scalar(value)


def encode_time(seconds: int) -> datetime:
    """Epoch seconds as a BSON date, which a TTL index can look at; beyond the year 9999, its end."""
    return datetime.fromtimestamp(min(max(seconds, 0), _LAST), UTC)


def decode_time(value: Any) -> int | None:
    """Epoch seconds of a BSON date."""
    if isinstance(value, datetime):
        return int((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp())
    if isinstance(value, DatetimeMS):
        return int(value) // 1000
    if value is None:
        return None
    raise ValueError(f"expiry is a {type(value).__name__}")


def _scalar(value: Any) -> str | int | float | bool | None:
    text = marked(value)
    if text is not None:
        value = loads(text)
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, int):
        return int(value)  # BSON's 64-bit integers come as a class of their own
    raise ValueError(f"a field is a {type(value).__name__}")


def marked(value: Any) -> str | None:
    if isinstance(value, dict) and len(value) == 1:
        text = value.get(MARK)
        return text if isinstance(text, str) else None
    return None


def _native(value: Any) -> bool:
    """Whether BSON gives this parsed JSON value back as it is."""
    if marked(value) is not None:
        return False
    pending = [(value, _DEPTH)]
    while pending:
        item, levels = pending.pop()
        kind = type(item)
        if kind is dict:
            if not levels or not all(map(_plain, item)):
                return False
            pending += [(child, levels - 1) for child in item.values() if type(child) in _DEEPER]
        elif kind is list:
            if not levels:
                return False
            pending += [(child, levels - 1) for child in item if type(child) in _DEEPER]
        elif kind is int and not _MIN <= item <= _MAX:
            return False
    return True


#: Types of parsed JSON that have to be looked into; text, floats, booleans and null are always native.
_DEEPER = frozenset({dict, list, int})


def _plain(key: str) -> bool:
    """Whether a key is a field name that no path, operator or C string gets wrong."""
    return key != "" and key[0] != "$" and "." not in key and "\0" not in key

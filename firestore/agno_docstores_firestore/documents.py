"""What a record looks like as a Firestore document. Nothing here does I/O.

A document lies in the collection of its kind, under its id (escaped, `segment`), and holds

    id          the record's id, as it is
    <field>     each declared field that is not None, natively typed (a tuple is an array)
    body        the body's parts, one text or compressed blob (`codec.pack`); absent if there are none
    rev         the token of the commit that wrote it
    expires_at  a timestamp, for a TTL policy; absent if the record does not expire
    ix_<index>  the record's place in a declared index

A declared field that has one of our names gets an underscore after it (`expires_at_`). What Firestore has no value for
(an integer beyond 64 bits, a text with a lone surrogate) is a map `{"json": ...}`.

Invariants:
- A span of a declared index is a range of ONE field, so the automatic single-field indexes serve every query and no
  composite index is ever needed. `ix_<index>` is the order-preserving text (keys.py) of the `eq` values, the sort value
  and the id. Of a multi-valued field it is a map with such a text for each value, under a digest of the value; each
  entry of a map is indexed as a field of its own, so this too is one range of one field.
- An index text takes at most 1,500 bytes: beyond that Firestore orders by a prefix. It ends with the id, so that no two
  records share it, and it serves as the cursor.
- Two ids never share a document; nothing of a caller can leave its place in a path.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from google.cloud.firestore_v1 import types

from agno_docstores import keys
from agno_docstores.codec import pack, unpack
from agno_docstores.errors import CorruptRecordError, PayloadTooLargeError
from agno_docstores.keys import Scalar, encodable
from agno_docstores.port import Fields, FieldValue, Index, Kind, Put, Ref, Rev, Stored

# https://cloud.google.com/firestore/quotas
MAX_DOCUMENT: Final = 1_048_576
MAX_VALUE: Final = 1_048_487
ITEM_BYTES: Final = 1_000_000  # of a record's body and texts: the rest is left to names and index texts
MAX_ID: Final = 1_500
MAX_INDEXED: Final = 1_500

ID, REV, BODY, EXPIRES_AT = "id", "rev", "body", "expires_at"
_OWN: Final = frozenset({ID, REV, BODY, EXPIRES_AT})
_FOREIGN: Final = "json"

_FORBIDDEN = re.compile(r"[%/\x00-\x1f\x7f]")
_RESERVED = re.compile(r"\.\.?|__.*__", re.DOTALL)

# The raw protobuf class: proto-plus wrappers cost several times as much for each field access.
_Value: Any = types.Value.pb()


def segment(text: str) -> str:
    """A collection or document id for any non-empty text, another for each text.

    `%` is always followed by two hexadecimal digits, except in the mark `%~` of a text that was too long: its beginning
    and a digest of the whole.
    """
    escaped = _FORBIDDEN.sub(lambda match: f"%{ord(match[0]):02X}", text)
    if _RESERVED.fullmatch(escaped):
        escaped = f"%{ord(escaped[0]):02X}{escaped[1:]}"
    raw = escaped.encode()
    if len(raw) <= MAX_ID:
        return escaped
    return raw[: MAX_ID - 66].decode(errors="ignore") + "%~" + keys.digest(text, 64)


def collections(kinds: Mapping[str, Kind], tables: Mapping[str, str]) -> dict[str, str]:
    """The collection of each kind: its table; where kinds share a table, the later ones add their name to it.

    Raises `ValueError` if table names chosen by the user make two kinds meet in one collection.
    """
    found: dict[str, str] = {}
    seen: set[str] = set()
    for kind in kinds.values():
        shares = kind.within is not None or kind.table in seen
        seen.add(kind.table)
        table = tables[kind.name]
        found[kind.name] = segment(f"{table}_{kind.name}" if shares else table)
    if len(set(found.values())) < len(found):
        twice = sorted(name for name in found.values() if list(found.values()).count(name) > 1)
        raise ValueError(f"two kinds of records would share the collection {twice[0]!r}; choose other table names")
    return found


def stored_name(field: str) -> str:
    """The name under which a declared field is stored."""
    return f"{field}_" if field in _OWN else field


def header_fields(kind: Kind) -> list[str]:
    """What a header consists of; with the body, a whole record. The index texts are nobody's to read."""
    return [ID, REV, EXPIRES_AT, *(stored_name(name) for name in kind.fields)]


# --- Indexes --------------------------------------------------------------------------------------------------------


def index_path(kind: Kind, index: Index, eq: tuple[Scalar, ...]) -> tuple[str, ...]:
    """The path of the one field that holds the entries of an index with these `eq` values."""
    several = _several(kind, index)
    if several is None:
        return (f"ix_{index.name}",)
    return f"ix_{index.name}", _slot(eq[index.eq.index(several)])


def index_text(eq: tuple[Scalar, ...], sort: Scalar, id: str) -> str:
    """The entry of a record; `id` as `keys.encode` writes it, once for all the entries of the record."""
    return keys.fit(keys.encode((*eq, sort)) + id, MAX_INDEXED)


def index_range(eq: tuple[Scalar, ...], low: Scalar, high: Scalar) -> tuple[str, str | None]:
    """The bounds of a span's texts: from the first (inclusive) to the second (exclusive; None: open).

    Null is within no bounds, so a span with an upper one alone begins behind it.
    """
    prefix = keys.encode(eq)
    first = keys.encode((*eq, low)) if low is not None else prefix + ("1" if high is not None else "")
    last = keys.encode((*eq, high)) if high is not None else prefix
    # Each component ends with "!", and continues with something higher than '"' or ends: so this is the next text.
    return first, last[:-1] + '"' if last else None


def _several(kind: Kind, index: Index) -> str | None:
    """The multi-valued field among those that an index agrees in; there is at most one."""
    multi = kind.multi
    return next((name for name in index.eq if name in multi), None)


def _slot(value: Scalar) -> str:
    return "v" + keys.digest(keys.encode((value,)))


def _index_values(kind: Kind, fields: Fields, id: str) -> dict[str, str | dict[str, str]]:
    """The `ix_` fields of a record: no entry where one of the `eq` fields is null."""
    entries: dict[str, str | dict[str, str]] = {}
    id = keys.encode((id,))
    for index in kind.indexes:
        eq = [fields.get(name) for name in index.eq]
        sort = fields.get(index.sort)
        order = None if isinstance(sort, tuple) else sort
        several = _several(kind, index)
        if None in eq:
            continue
        if several is None:
            if any(isinstance(value, tuple) for value in eq):
                raise TypeError(f"{kind.name}.{index.name}: a field of several values is not declared as such")
            entries[f"ix_{index.name}"] = index_text(tuple(eq), order, id)  # type: ignore[arg-type]
            continue
        place = index.eq.index(several)
        values = eq[place] if isinstance(eq[place], tuple) else (eq[place],)
        texts = {
            _slot(value): index_text((*eq[:place], value, *eq[place + 1 :]), order, id)  # type: ignore[arg-type]
            for value in values  # type: ignore[union-attr]
        }
        if texts:
            entries[f"ix_{index.name}"] = texts
    return entries


# --- Records --------------------------------------------------------------------------------------------------------


def fill(document: Any, kind: Kind, put: Put, token: str, *, compress: bool) -> None:
    """Make a (raw) document, whose name is set, the image of a record. Raises `PayloadTooLargeError`."""
    fields = document.fields
    fields[ID].string_value = put.ref.id
    fields[REV].string_value = token
    for name in kind.fields:
        value = put.fields.get(name)
        if value is not None:
            _encode(fields[stored_name(name)], value)
    fill_expiry(document, put.expires_at)
    for name, entry in _index_values(kind, put.fields, put.ref.id).items():
        if isinstance(entry, str):
            fields[name].string_value = entry
        else:
            for slot, text in entry.items():
                fields[name].map_value.fields[slot].string_value = text
    parts = {name: put.body[name] for name in kind.parts if name in put.body}
    if parts:
        _encode(fields[BODY], pack(parts, compress=compress))
    _check_size(document, put.ref)


def fill_expiry(document: Any, expires_at: int | None) -> None:
    if expires_at is not None:
        document.fields[EXPIRES_AT].timestamp_value.seconds = expires_at


def is_record(document: Any) -> bool:
    """Whether this document is one of ours, and not somebody else's in the same collection."""
    return ID in document.fields and REV in document.fields


def read(document: Any, kind: Kind, *, body: bool) -> Stored:
    """The record that a (raw) document is the image of. Raises `CorruptRecordError`."""
    stored = document.fields
    if not is_record(document):
        raise CorruptRecordError(kind.name, document.name.rpartition("/")[2], "not written by this package")
    id = stored[ID].string_value
    fields = {name: _decode(stored.get(stored_name(name))) for name in kind.fields}
    parent, order = fields.get(kind.parent or ""), fields.get(kind.order or "")
    ref = Ref(
        kind.name,
        id,
        parent if isinstance(parent, str) else None,
        order if isinstance(order, int) else None,
    )
    expires_at = stored[EXPIRES_AT].timestamp_value.seconds if EXPIRES_AT in stored else None
    packed = _decode_body(stored.get(BODY)) if body else None
    try:
        parts = None if not body else unpack(packed) if packed is not None else {}
    except (ValueError, AttributeError) as error:
        raise CorruptRecordError(kind.name, id, str(error)) from error
    return Stored(ref, Rev(stored[REV].string_value, update_time(document.update_time)), fields, parts, expires_at)


def body_size(document: Any) -> int:
    """The size of a (raw) document's body as it is stored."""
    body = document.fields.get(BODY)
    return 0 if body is None else len(body.bytes_value) or len(body.string_value)


def update_time(timestamp: Any) -> int:
    """A (raw) timestamp as nanoseconds: a message would keep alive the whole response that it came in."""
    return int(timestamp.seconds * 1_000_000_000 + timestamp.nanos)


def _encode(target: Any, value: FieldValue | bytes) -> None:
    if isinstance(value, bool):
        target.boolean_value = value
    elif isinstance(value, int) and -(2**63) <= value < 2**63:
        target.integer_value = value
    elif isinstance(value, float):
        target.double_value = value
    elif isinstance(value, bytes):
        target.bytes_value = value
    elif isinstance(value, str) and encodable(value):
        target.string_value = value
    elif isinstance(value, tuple):
        target.array_value.SetInParent()
        for item in value:
            _encode(target.array_value.values.add(), item)
    else:
        target.map_value.fields[_FOREIGN].string_value = json.dumps(value)


def _decode(value: Any | None) -> Any:
    if value is None:
        return None
    match value.WhichOneof("value_type"):
        case "string_value":
            return value.string_value
        case "integer_value":
            return value.integer_value
        case "boolean_value":
            return value.boolean_value
        case "double_value":
            return value.double_value
        case "array_value":
            return tuple(_decode(item) for item in value.array_value.values)
        case "map_value":
            return json.loads(value.map_value.fields[_FOREIGN].string_value)
    return None


def _decode_body(value: Any | None) -> str | bytes | None:
    if value is None:
        return None
    if value.WhichOneof("value_type") == "bytes_value":
        return bytes(value.bytes_value)
    return str(value.string_value)


# --- Sizes, as https://cloud.google.com/firestore/docs/storage-size counts them -------------------------------------


def _check_size(document: Any, ref: Ref) -> None:
    if 4 * document.ByteSize() < MAX_DOCUMENT:
        return  # no value counts for more than four times its bytes in the message, and to count takes longer
    body = document.fields.get(BODY)
    if body is not None and (size := len(body.bytes_value) or len(body.string_value.encode())) > MAX_VALUE:
        raise PayloadTooLargeError(ref.kind, ref.id, size, MAX_VALUE)
    if (size := document_size(document)) > MAX_DOCUMENT:
        raise PayloadTooLargeError(ref.kind, ref.id, size, MAX_DOCUMENT)


def document_size(document: Any) -> int:
    """Bytes of a (raw) document with its name, as the limit of 1 MiB counts them."""
    path = document.name.split("/documents/", 1)[1].split("/")
    return 16 + sum(_text_size(part) for part in path) + 32 + _map_size(document.fields)


def _map_size(fields: Any) -> int:
    return sum(_text_size(name) + _value_size(value) for name, value in fields.items())


def _value_size(value: Any) -> int:
    match value.WhichOneof("value_type"):
        case "string_value":
            return _text_size(value.string_value)
        case "bytes_value":
            return len(value.bytes_value)
        case "boolean_value" | "null_value" | None:
            return 1
        case "array_value":
            return sum(_value_size(item) for item in value.array_value.values)
        case "map_value":
            return _map_size(value.map_value.fields)
    return 8  # integer, double, timestamp


def _text_size(text: str) -> int:
    return len(text.encode()) + 1

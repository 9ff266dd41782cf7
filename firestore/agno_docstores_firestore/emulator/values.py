"""What Firestore says of values, whoever stores or queries them: their order, their size, their limits, their names.

Invariants
- `order_key` maps a value to nested tuples that Python compares as Firestore compares values: by type first (null,
  boolean, number, timestamp, string, bytes, reference, geo point, array, vector, map), then within the type. 1 and 1.0
  are one key; so are 0.0 and -0.0; NaN is a number below all others.
- `admit_fields` is the only door for values into a document: what it lets pass keeps every documented limit on names,
  nesting and value sizes, and has timestamps in whole microseconds, as the service stores them.
- A limit is declared here once, under a name, with the number that the documentation gives
  (https://cloud.google.com/firestore/quotas, https://cloud.google.com/firestore/docs/storage-size).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import grpc
from google.cloud.firestore_v1 import types

MAX_REQUEST_BYTES: Final = 10 * 1024 * 1024
MAX_DOCUMENT_BYTES: Final = 1_048_576
MAX_VALUE_BYTES: Final = 1_048_487
MAX_ID_BYTES: Final = 1_500
MAX_FIELD_PATH_BYTES: Final = 1_500
MAX_NAME_BYTES: Final = 6 * 1024
MAX_NAME_ELEMENTS: Final = 100
MAX_NESTING: Final = 20
MAX_INDEX_ENTRIES: Final = 40_000
INDEXED_VALUE_BYTES: Final = 1_500
"""Longer strings and bytes are indexed by this prefix: two that differ only behind it sort by document name."""
MAX_TRANSFORMS_PER_DOCUMENT: Final = 500
MAX_WRITES_PER_COMMIT: Final[int | None] = None
"""Not limited since 2023-03-29; MAX_REQUEST_BYTES is what holds a commit."""
MAX_WRITES_PER_BATCH_WRITE: Final = 500
MAX_DISJUNCTIONS: Final = 30
MAX_NOT_IN_VALUES: Final = 10
MAX_AGGREGATIONS: Final = 5
INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1

# The raw protobuf classes: the proto-plus wrappers cost several times as much for each field access.
Document: Any = types.Document.pb()
Value: Any = types.Value.pb()

NULL, BOOLEAN, NUMBER, TIMESTAMP, STRING, BYTES, REFERENCE, GEO_POINT, ARRAY, VECTOR, MAP = range(11)

Path = tuple[str, ...]
Key = tuple[Any, ...]
NULL_KEY: Final[Key] = (NULL,)
NAN_KEY: Final[Key] = (NUMBER, 0)

# Documented as __.*__, yet the service takes four underscores.
_RESERVED = re.compile(r"__.+__", re.DOTALL)
_NUMERIC_ID = re.compile(r"__id(-?[0-9]+)__")
_UNQUOTED = re.compile(r"[a-zA-Z_][a-zA-Z_0-9]*")
_SEGMENT = re.compile(r"[a-zA-Z_][a-zA-Z_0-9]*|`(?:[^`\\]|\\.)+`", re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


class Refused(Exception):
    """The service's answer to a call that it does not carry out: a gRPC status code and a message for people."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def invalid(message: str) -> Refused:
    """INVALID_ARGUMENT: the call can never succeed as it stands."""
    return Refused(grpc.StatusCode.INVALID_ARGUMENT, message)


# --- names -----------------------------------------------------------------------------------------------------------


def database_of(name: str) -> str:
    """The `projects/P/databases/D` that a resource name starts with; INVALID_ARGUMENT if it does not."""
    parts = name.split("/", 4)
    if len(parts) < 4 or parts[0] != "projects" or parts[2] != "databases" or not parts[1] or not parts[3]:
        raise invalid(f'Resource name "{name}" does not start with "projects/{{project}}/databases/{{database}}".')
    return "/".join(parts[:4])


def split_name(name: str, *, collection: bool = False) -> tuple[str, Path]:
    """A resource name as (database, ids), checked: ids alternate collection and document, and end in a document.

    `collection=True` wants a parent instead: a document, or the root of the database (no ids).
    """
    database = database_of(name)
    rest = name[len(database) + 1 :]
    if rest != "documents" and not rest.startswith("documents/"):
        raise invalid(f'Resource name "{name}" lacks "documents" at index {len(database) + 1}.')
    ids = tuple(rest.split("/")[1:])
    if not ids and not collection:
        raise invalid(f'Document name "{name}" names no document.')
    if len(ids) % 2:
        raise invalid(f'Document name "{name}" lacks "/" at index {len(name)}.')
    if len(ids) > 2 * MAX_NAME_ELEMENTS:
        raise invalid(f"Key path is too long. Cannot exceed {MAX_NAME_ELEMENTS} elements.")
    for index, one in enumerate(ids):
        check_id(one, "Resource id" if index % 2 else "Collection id")
    if ids and name_size(ids) > MAX_NAME_BYTES:
        raise invalid(f"The document name is longer than {MAX_NAME_BYTES} bytes.")
    return database, ids


def check_id(one: str, what: str) -> None:
    """A collection or document id within the documented constraints."""
    if one in ("", ".", "..") or "/" in one:
        raise invalid(f'{what} "{one}" is invalid.')
    if _RESERVED.fullmatch(one) and not _NUMERIC_ID.fullmatch(one):
        raise invalid(f'{what} "{one}" is invalid because it is reserved.')
    if len(one.encode()) > MAX_ID_BYTES:
        raise invalid(f"{what} is longer than {MAX_ID_BYTES} bytes.")


def name_key(ids: Iterable[str]) -> Key:
    """The order of `__name__`: id by id, numeric ids (`__id7__`) before text, text by its UTF-8 bytes."""
    return tuple(_id_key(one) for one in ids)


def _id_key(one: str) -> Key:
    numeric = _NUMERIC_ID.fullmatch(one)
    return (0, int(numeric[1])) if numeric else (1, one.encode())


def name_size(ids: Sequence[str]) -> int:
    """Bytes that a document name counts for."""
    return 16 + sum(8 if _NUMERIC_ID.fullmatch(one) else len(one.encode()) + 1 for one in ids)


# --- field paths -----------------------------------------------------------------------------------------------------


def parse_path(text: str) -> Path:
    """A field path as sent (`a.b`, with backquotes around what is not an identifier) as a tuple of field names."""
    if not text:
        raise invalid("Invalid empty property path string.")
    names: list[str] = []
    at = 0
    while True:
        segment = _SEGMENT.match(text, at)
        if segment is None:
            break
        found = segment[0]
        names.append(_ESCAPE.sub(r"\1", found[1:-1]) if found[0] == "`" else found)
        at = segment.end()
        if at == len(text):
            if sum(len(name.encode()) + 1 for name in names) - 1 > MAX_FIELD_PATH_BYTES:
                raise invalid(f"The property path is longer than {MAX_FIELD_PATH_BYTES} bytes.")
            return tuple(names)
        if text[at] != ".":
            break
        at += 1
    raise invalid(
        f'Invalid property path "{text}". Unquoted property paths must match regex ([a-zA-Z_][a-zA-Z_0-9]*), '
        "and quoted property paths must match regex (`(?:[^`\\\\]|(?:\\\\.))+`)"
    )


def format_path(path: Path) -> str:
    """The inverse of `parse_path`."""
    return ".".join(
        name if _UNQUOTED.fullmatch(name) else "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"
        for name in path
    )


def value_at(fields: Any, path: Path) -> Any | None:
    """The value at a path of a document's (or map's) fields; None where any step is missing or not a map."""
    for name in path[:-1]:
        if name not in fields or fields[name].WhichOneof("value_type") != "map_value":
            return None
        fields = fields[name].map_value.fields
    return fields.get(path[-1])


def put_at(fields: Any, path: Path, value: Any) -> None:
    """Set the value at a path; what stands in the way and is not a map is replaced by one."""
    for name in path[:-1]:
        step = fields[name]
        if step.WhichOneof("value_type") != "map_value":
            step.map_value.SetInParent()
        fields = step.map_value.fields
    fields[path[-1]].CopyFrom(value)


def remove_at(fields: Any, path: Path) -> None:
    """Remove the value at a path, if it is there; maps that become empty stay."""
    for name in path[:-1]:
        if name not in fields or fields[name].WhichOneof("value_type") != "map_value":
            return
        fields = fields[name].map_value.fields
    if path[-1] in fields:
        del fields[path[-1]]


def masked(document: Any, paths: Iterable[Path]) -> Any:
    """A copy of the document that has only the fields at these paths (`__name__` among them adds nothing)."""
    result = Document(name=document.name)
    if document.HasField("update_time"):
        result.create_time.CopyFrom(document.create_time)
        result.update_time.CopyFrom(document.update_time)
    for path in paths:
        value = value_at(document.fields, path)
        if value is not None:
            put_at(result.fields, path, value)
    return result


# --- order -----------------------------------------------------------------------------------------------------------


def order_key(value: Any, limit: int | None = INDEXED_VALUE_BYTES) -> Key:
    """The value's place in Firestore's order.

    Indexes hold a prefix of long strings and bytes; `limit=None` compares them whole, as writes do.
    """
    kind = value.WhichOneof("value_type")
    match kind:
        case "string_value":
            return (STRING, value.string_value.encode()[:limit])
        case "integer_value":
            return (NUMBER, 1, value.integer_value)
        case "null_value":
            return NULL_KEY
        case "boolean_value":
            return (BOOLEAN, value.boolean_value)
        case "double_value":
            # Python compares int with float exactly, as Firestore does, beyond 2**53 too.
            return NAN_KEY if math.isnan(value.double_value) else (NUMBER, 1, value.double_value)
        case "timestamp_value":
            return (TIMESTAMP, value.timestamp_value.seconds, value.timestamp_value.nanos)
        case "bytes_value":
            return (BYTES, value.bytes_value[:limit])
        case "reference_value":
            database, ids = split_name(value.reference_value)
            return (REFERENCE, database.encode(), name_key(ids))
        case "geo_point_value":
            return (GEO_POINT, value.geo_point_value.latitude, value.geo_point_value.longitude)
        case "array_value":
            return (ARRAY, tuple(order_key(one, limit) for one in value.array_value.values))
        case "map_value":
            fields = value.map_value.fields
            if is_vector(value):
                numbers = tuple(order_key(one, limit) for one in fields["value"].array_value.values)
                return (VECTOR, len(numbers), numbers)
            return (MAP, tuple(sorted((name.encode(), order_key(one, limit)) for name, one in fields.items())))
        case _:
            raise invalid(f"Cannot convert firestore.v1.Value with type {kind or 'unset'}.")


def is_vector(value: Any) -> bool:
    """Vectors travel as a map with a reserved key."""
    if value.WhichOneof("value_type") != "map_value":
        return False
    fields = value.map_value.fields
    return "__type__" in fields and fields["__type__"].string_value == "__vector__"


# --- size ------------------------------------------------------------------------------------------------------------


def document_size(ids: Sequence[str], fields: Any) -> int:
    """Bytes that a document counts for against MAX_DOCUMENT_BYTES."""
    return name_size(ids) + _fields_size(fields)


def _fields_size(fields: Any) -> int:
    return 32 + sum(len(name.encode()) + 1 + value_size(value) for name, value in fields.items())


def value_size(value: Any) -> int:
    """Bytes that a value counts for."""
    match value.WhichOneof("value_type"):
        case "string_value":
            return len(value.string_value.encode()) + 1
        case "bytes_value":
            return len(value.bytes_value)
        case "null_value" | "boolean_value":
            return 1
        case "integer_value" | "double_value" | "timestamp_value":
            return 8
        case "geo_point_value":
            return 16
        case "reference_value":
            return name_size(split_name(value.reference_value)[1])
        case "array_value":
            return sum(value_size(one) for one in value.array_value.values)
        case _:
            if is_vector(value):
                return 8 * len(value.map_value.fields["value"].array_value.values)
            return _fields_size(value.map_value.fields)


def index_entries(fields: Any) -> int:
    """Entries in the automatic indexes: ascending and descending for each plain field, one for each array element."""
    total = 0
    for value in fields.values():
        match value.WhichOneof("value_type"):
            case "array_value":
                total += len(value.array_value.values)
            case "map_value" if not is_vector(value):
                total += index_entries(value.map_value.fields)
            case _:
                total += 2
    return total


# --- the door into a document ----------------------------------------------------------------------------------------


def admit_fields(fields: Any) -> None:
    """Check a document's fields against every limit but its size; timestamps lose what is under a microsecond."""
    for path, value in _leaves(fields, (), 0):
        admit_value(path, value)


def _leaves(fields: Any, above: Path, depth: int) -> Iterator[tuple[Path, Any]]:
    for name, value in fields.items():
        path = (*above, name)
        check_field_name(name)
        if sum(len(one.encode()) + 1 for one in path) - 1 > MAX_FIELD_PATH_BYTES:
            raise invalid(f"The property.name is longer than {MAX_FIELD_PATH_BYTES} bytes.")
        yield from _descend(path, value, depth)


def _descend(path: Path, value: Any, depth: int, *, in_array: bool = False) -> Iterator[tuple[Path, Any]]:
    kind = value.WhichOneof("value_type")
    if kind == "map_value" and not is_vector(value):
        if depth >= MAX_NESTING:
            raise invalid(
                f"Property {format_path(path[:1])} contains an invalid nested entity: it is nested too deeply."
            )
        yield from _leaves(value.map_value.fields, path, depth + 1)
    elif kind == "array_value":
        if in_array:
            raise invalid("Cannot convert an array value in an array value.")
        if depth >= MAX_NESTING:
            raise invalid(
                f"Property {format_path(path[:1])} contains an invalid nested entity: it is nested too deeply."
            )
        for one in value.array_value.values:
            yield from _descend(path, one, depth + 1, in_array=True)
    else:
        yield path, value


def check_field_name(name: str) -> None:
    """A field name within the documented constraints; its length counts as part of its path's."""
    if not name:
        raise invalid("The property.name is the empty string.")
    if _RESERVED.fullmatch(name):
        raise invalid(f"field name '{name}' is reserved.")


def admit_value(path: Path, value: Any) -> None:
    """Check one value that is neither an array nor a map."""
    kind = value.WhichOneof("value_type")
    match kind:
        case "string_value" | "bytes_value":
            raw = value.string_value.encode() if kind == "string_value" else value.bytes_value
            if len(raw) > MAX_VALUE_BYTES:
                raise invalid(f'The value of property "{format_path(path)}" is longer than {MAX_VALUE_BYTES} bytes.')
        case "timestamp_value":
            moment = value.timestamp_value
            if not -62_135_596_800 <= moment.seconds <= 253_402_300_799:
                raise invalid("Timestamp seconds exceeds limit for field.")
            if not 0 <= moment.nanos < 1_000_000_000:
                raise invalid("Timestamp nanos exceeds limit for field.")
            moment.nanos -= moment.nanos % 1_000
        case "reference_value":
            split_name(value.reference_value)
        case "geo_point_value":
            point = value.geo_point_value
            if not -90 <= point.latitude <= 90:
                raise invalid(f"Geo point latitude '{point.latitude}' outside permitted range -90.0 to 90.0.")
            if not -180 <= point.longitude <= 180:
                raise invalid(f"Geo point longitude '{point.longitude}' outside permitted range -180.0 to 180.0.")
        case "map_value":
            for one in value.map_value.fields["value"].array_value.values:
                if one.WhichOneof("value_type") != "double_value":
                    raise invalid("Vector must only contain values of type 'double'")
        case "null_value" | "boolean_value" | "integer_value" | "double_value":
            pass
        case _:
            raise invalid(f"Cannot convert firestore.v1.Value with type {kind or 'unset'}.")

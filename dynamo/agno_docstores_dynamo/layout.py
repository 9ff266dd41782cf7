"""The physical layout: how a record becomes items of a table, and items become a record again. Pure: no I/O, no client.

One table shape serves every kind. An item is one of three:

- a *record*: `pk` is the id, or the parent's id for a child; `sk` is the kind, followed by order and id for a child. So
  what belongs to one id lies in one partition, and a parent's children are one strongly consistent Query, in order.
- an *alias*: one more index entry of a record that a multi-valued field (a session's components) puts into an index
  more than once. It holds the header and index keys only, lies in the record's partition and is written with it.
- a *claim*: says where the child with an id is (`at`, `place`: its keys). It makes ids unique over all parents, and
  serves the lookup by id alone; nested kinds do without.

Invariants: an item's key is a function of the record's identity (and order); texts in keys are `keys.encode`d, so
nothing of a caller can leave its place; the real id is kept in `id`. A null field is not stored. `head` holds the
fields that index entries carry; fields that change often (`Kind.volatile`) stay outside it, or every change would be
billed for each index entry again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from agno_docstores import keys
from agno_docstores.codec import pack, unpack
from agno_docstores.errors import CorruptRecordError
from agno_docstores.keys import Scalar, encodable
from agno_docstores.port import (
    Condition,
    Contains,
    Eq,
    Fields,
    FieldValue,
    Has,
    In,
    Index,
    Kind,
    NotIn,
    Predicate,
    Put,
    Range,
    Ref,
    Rev,
    Stored,
)

Value = dict[str, Any]  # a typed attribute value: {"S": "text"}
Item = dict[str, Value]

ITEM_BYTES = 409_600
BODY_BYTES = 360_000  # of a record's body and texts: the rest is left to names, keys and index entries
TRANSACTION_ITEMS, TRANSACTION_BYTES = 100, 4 * 1024 * 1024
BATCH_READS, BATCH_WRITES = 100, 25
SLOTS = 8  # secondary indexes gsi1..gsi8, shared by all kinds; DynamoDB takes 20 a table
CHANGES = "changes"  # the local index: a parent's children by one more field
RESERVED = frozenset({"pk", "sk", "lsi", "id", "rev", "head", "body", "aliases", "expires_at"})
CLAIM = "claim"
ABOVE_NULL = "1"  # sorts above null, and not above any other component
ABOVE = "5"  # sorts above every component of a key, so that `prefix + ABOVE` ends the prefix's stretch

_TABLE_NAME = re.compile(r"[a-zA-Z0-9_.-]{3,255}")
_COMPLEMENT = str.maketrans("0123456789", "9876543210")  # as `keys` writes the digits of numbers below zero
_EXACT = 10**38  # integers below this are DynamoDB numbers without loss


# --- The table ------------------------------------------------------------------------------------------------------


def is_table_name(name: str) -> bool:
    return _TABLE_NAME.fullmatch(name) is not None


def slot_name(number: int) -> str:
    return f"gsi{number}"


def table_definition(table: str) -> dict[str, Any]:
    """The arguments of `create_table`. On demand: an idle table, and an unused index, cost nothing."""
    slots = [slot_name(number) for number in range(1, SLOTS + 1)]
    attributes = ["pk", "sk", "lsi", *(f"{slot}{end}" for slot in slots for end in ("pk", "sk"))]

    def projected(*names: str) -> dict[str, Any]:
        return {"ProjectionType": "INCLUDE", "NonKeyAttributes": list(names)}

    return {
        "TableName": table,
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [{"AttributeName": name, "AttributeType": "S"} for name in attributes],
        "KeySchema": _key_schema("pk", "sk"),
        "LocalSecondaryIndexes": [
            {"IndexName": CHANGES, "KeySchema": _key_schema("pk", "lsi"), "Projection": projected("id", "expires_at")}
        ],
        "GlobalSecondaryIndexes": [
            {
                "IndexName": slot,
                "KeySchema": _key_schema(f"{slot}pk", f"{slot}sk"),
                "Projection": projected("head", "id", "expires_at"),
            }
            for slot in slots
        ],
    }


def mismatch(description: Mapping[str, Any]) -> str | None:
    """Why a table that exists is not one of ours, or None if it is. More indexes than ours are no harm."""
    wanted = table_definition(description["TableName"])
    if sorted(map(str, description["KeySchema"])) != sorted(map(str, wanted["KeySchema"])):
        return "has another key schema than pk, sk"
    types = {entry["AttributeName"]: entry["AttributeType"] for entry in description["AttributeDefinitions"]}
    for group in ("LocalSecondaryIndexes", "GlobalSecondaryIndexes"):
        there = {index["IndexName"]: index for index in description.get(group) or ()}
        for index in wanted[group]:
            name, found = index["IndexName"], there.get(index["IndexName"])
            if found is None:
                return f"has no index {name!r}"
            if sorted(map(str, found["KeySchema"])) != sorted(map(str, index["KeySchema"])):
                return f"has an index {name!r} with other keys"
            projection = found["Projection"]
            missing = set(index["Projection"]["NonKeyAttributes"]) - set(projection.get("NonKeyAttributes") or ())
            if projection["ProjectionType"] != "ALL" and missing:
                return f"has an index {name!r} without {', '.join(sorted(missing))}"
    for entry in wanted["AttributeDefinitions"]:
        if types.get(entry["AttributeName"]) != entry["AttributeType"]:
            return f"has a key attribute {entry['AttributeName']!r} of another type"
    return None


def _key_schema(partition: str, sort: str) -> list[dict[str, str]]:
    return [{"AttributeName": partition, "KeyType": "HASH"}, {"AttributeName": sort, "KeyType": "RANGE"}]


# --- Values ---------------------------------------------------------------------------------------------------------


def to_value(value: FieldValue) -> Value:
    """The typed form of a field. What DynamoDB's own types would change (1.0 becomes 1, 39 digits do not fit, a lone
    surrogate has no UTF-8) is kept as a map with the text."""
    if value is None:
        return {"NULL": True}
    if isinstance(value, bool):
        return {"BOOL": value}
    if isinstance(value, str):
        return {"S": value} if encodable(value) else {"M": {"json": {"S": json.dumps(value)}}}
    if isinstance(value, int):
        return {"N": str(value)} if -_EXACT < value < _EXACT else {"M": {"json": {"S": str(value)}}}
    if isinstance(value, float):
        exact = not value.is_integer() and 1e-100 < abs(value) < 1e100
        return {"N": repr(value)} if exact else {"M": {"json": {"S": json.dumps(value)}}}
    return {"L": [to_value(entry) for entry in value]}


def from_value(value: Value) -> FieldValue:
    ((kind, content),) = value.items()
    if kind in ("S", "BOOL"):
        return content  # type: ignore[no-any-return]
    if kind == "N":
        return int(content) if content.lstrip("-").isdigit() else float(content)
    if kind == "L":
        return tuple(str(from_value(entry)) for entry in content)
    if kind == "M":
        return json.loads(content["json"]["S"])  # type: ignore[no-any-return]
    return None


def item_bytes(item: Item) -> int:
    """The size by which DynamoDB bills and limits an item, with its entry in the local index, which counts as well."""
    size = sum(len(name.encode()) + _value_bytes(value) for name, value in item.items())
    if "lsi" in item:
        entry = [name for name in ("pk", "sk", "lsi", "id", "expires_at") if name in item]
        size += sum(len(name) + _value_bytes(item[name]) for name in entry)
    return size


def _value_bytes(value: Value) -> int:
    ((kind, content),) = value.items()
    if kind == "S":
        return len(content.encode())
    if kind == "B":
        return len(content)
    if kind == "N":
        digits = len(content.lstrip("-").replace(".", "").strip("0"))
        return (digits + 1) // 2 + 1 + int(content.startswith("-"))
    if kind == "L":
        return 3 + sum(1 + _value_bytes(entry) for entry in content)
    if kind == "M":
        return 3 + sum(1 + len(name.encode()) + _value_bytes(entry) for name, entry in content.items())
    return 1


# --- Keys -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record lies, and what else was written with it: `Rev.at` of this driver."""

    pk: str
    sk: str
    aliases: int = 0
    expires_at: int | None = None


def key(pk: str, sk: str) -> Item:
    return {"pk": {"S": pk}, "sk": {"S": sk}}


def alias_key(place: Place, number: int) -> Item:
    # The number first: were it last, a range over the records would meet the aliases among them.
    return key(place.pk, keys.encode(("alias", number)) + place.sk)


def last_scalar(text: str, back: int = 1) -> Scalar:
    """A component of an encoded key, counted from its end. Raises `ValueError` for a text that was too long for it."""
    component = text.split("!")[-1 - back]
    kind, rest = component[:1], component[1:]
    if kind == "4":
        plain = re.sub('"(.)', lambda found: chr(ord(found[1]) - 0x23), rest, flags=re.DOTALL)
        if keys.abridged(plain):
            raise ValueError("abridged")
        return plain
    if kind == "3" and rest[:1] in ("p", "n"):
        sign, digits = "", rest[4:]
        if rest[0] == "n":
            sign, digits = "-", digits.rstrip("~").translate(_COMPLEMENT)
        return float(sign + (digits or "0")) if "." in digits else int(sign + (digits or "0"))
    if kind == "3":
        return {"a": float("nan"), "z": float("inf"), "b": float("-inf")}[rest]
    return {"0": None, "1": False, "2": True}[kind]


# --- Records --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Encoded:
    """A record as items: its place, itself, its aliases, and its claim if its kind has such."""

    place: Place
    item: Item
    aliases: list[Item]
    claim: Item | None


class Layout:
    """How one kind lies in its table."""

    def __init__(self, kind: Kind, table: str, *, shards: int, compress: bool, component_shards: int = 1) -> None:
        self.kind = kind
        self.table = table
        self.shards = shards
        self.component_shards = component_shards
        self.compress = compress
        strong = [index for index in kind.indexes if index.strong]
        #: The index that the sort key of the children themselves is.
        self.order = next((index for index in strong if index.sort == kind.order), None)
        others = [index for index in strong if index is not self.order]
        #: The index that the table's local index is.
        self.changes = others[0] if others else None
        weak = [index for index in kind.indexes if not index.strong and not index.optional]
        #: The slot of each index that is kept in a global index.
        self.slots = {index.name: (slot_name(number), index) for number, index in enumerate(weak, 1)}
        if len(others) > 1 or len(weak) > SLOTS:
            raise ValueError(f"kind {kind.name!r} declares more indexes than a table has")
        #: Whether records of this kind may have aliases.
        self.aliased = any(kind.multi & set(index.eq) for index in weak)
        #: An index over all records, if there is one.
        self.listing = next((index for index in weak if not index.eq), None)
        #: Whether records of this kind have claims.
        self.claimed = kind.parent is not None and not kind.nested
        self.prefix = keys.encode((kind.name,))
        kept = [index for _, index in self.slots.values()] + [i for i in (self.changes,) if i is not None]
        #: The fields that are part of some key.
        self.keyed = {name for index in kept for name in (*index.eq, index.sort)}
        self.keyed |= {name for name in (kind.parent, kind.order) if name is not None}

    # Keys

    def place(self, ref: Ref) -> Place | None:
        """Where a record has to be: None for a child of which only the id is known."""
        if self.kind.parent is None:
            return Place(keys.encode((ref.id,)), self.prefix)
        if ref.parent is None or (self.kind.order is not None and ref.order is None):
            return None
        return Place(keys.encode((ref.parent,)), self._child_sk(ref.id, ref.order))

    def claim_key(self, id: str) -> Item:
        return key(keys.encode((self.kind.name, "id", id)), CLAIM)

    def _child_sk(self, id: str, order: FieldValue) -> str:
        """The order, then the id: so that a late deletion by key never meets another child that has taken the place."""
        if self.kind.order is None or isinstance(order, tuple):
            return self.prefix + keys.encode((id,))
        return self.prefix + keys.encode((order, id))

    def slot_pk(self, index: Index, eq: Sequence[Scalar], shard: int = 0) -> str:
        """The partition of an index. One that holds all records, or has few values, is spread over shards, or each
        write of the whole store would go to a single partition of DynamoDB's. So is a crowded one where that was asked
        for; its first shard is what it has without, so that it can be asked for later."""
        sharded = (shard,) if index.spread or not eq or shard else ()
        return keys.encode((self.kind.name, index.name, *eq, *sharded))

    def partitions(self, index: Index, eq: Sequence[Scalar]) -> list[str]:
        """All partitions that the entries with these values are in."""
        return [self.slot_pk(index, eq, shard) for shard in range(self._shards(index))]

    def _shards(self, index: Index) -> int:
        return index.shards(self.shards, self.component_shards)

    # Writing

    def encode(self, put: Put, token: str) -> Encoded:
        kind, id = self.kind, put.ref.id
        fields = {name: value for name in kind.fields if (value := put.fields.get(name)) is not None}
        common: Item = {
            "id": {"S": id},
            "rev": {"S": token},
            "head": {"M": {name: to_value(value) for name, value in fields.items() if name not in kind.volatile}},
        }
        if put.expires_at is not None:
            common["expires_at"] = {"N": str(int(put.expires_at))}
        pk, sk = self._record_key(put.ref, fields)
        entries = self._entries(id, fields)
        aliases = max([len(own) - 1 for own in entries.values()], default=0)
        place = Place(pk, sk, max(aliases, 0), put.expires_at)
        item: Item = {**key(pk, sk), **common, **self._slot_keys(entries, 0)}
        for name in sorted(kind.volatile):
            if name in fields:
                item[self.attribute(name)] = to_value(fields[name])
        if self.changes is not None:
            sort = fields.get(self.changes.sort)
            item["lsi"] = {"S": self.prefix + keys.encode((None if isinstance(sort, tuple) else sort, id))}
        if place.aliases:
            item["aliases"] = {"N": str(place.aliases)}
        body = {name: put.body[name] for name in kind.parts if name in put.body}
        if body:
            packed = pack(body, compress=self.compress)
            item["body"] = {"B": packed} if isinstance(packed, bytes) else {"S": packed}
        extra = [
            {**alias_key(place, number), **common, **self._slot_keys(entries, number)}
            for number in range(1, place.aliases + 1)
        ]
        return Encoded(place, item, extra, self._claim(put, place) if self.claimed else None)

    def _record_key(self, ref: Ref, fields: Fields) -> tuple[str, str]:
        if self.kind.parent is None:
            return keys.encode((ref.id,)), self.prefix
        parent = fields[self.kind.parent]
        order = fields.get(self.kind.order) if self.kind.order is not None else None
        return keys.encode((str(parent),)), self._child_sk(ref.id, order)

    def _claim(self, put: Put, place: Place) -> Item:
        claim = {**self.claim_key(put.ref.id), "at": {"S": place.pk}, "place": {"S": place.sk}}
        if put.expires_at is not None:
            claim["expires_at"] = {"N": str(int(put.expires_at))}
        return claim

    def _entries(self, id: str, fields: Fields) -> dict[str, list[tuple[str, str]]]:
        """The keys of this record's entries, by slot. None where an `eq` field is null."""
        entries, kind = {}, self.kind
        for slot, index in self.slots.values():
            choices = []
            for name in index.eq:
                value = fields.get(name)
                choices.append(list(dict.fromkeys(value)) if isinstance(value, tuple) else [value])
                assert name in kind.multi or len(choices[-1]) == 1, f"{kind.name}.{name} is not declared as multi"
            sort = fields.get(index.sort)
            sk = keys.encode((None if isinstance(sort, tuple) else sort, id))
            combined = [eq for eq in product(*choices) if None not in eq]
            entries[slot] = [(self.slot_pk(index, eq, keys.shard(id, self._shards(index))), sk) for eq in combined]
        return entries

    @staticmethod
    def _slot_keys(entries: Mapping[str, list[tuple[str, str]]], number: int) -> Item:
        item: Item = {}
        for slot, own in entries.items():
            if number < len(own):
                item[f"{slot}pk"], item[f"{slot}sk"] = {"S": own[number][0]}, {"S": own[number][1]}
        return item

    # Reading

    def attribute(self, name: str) -> str:
        """The top-level attribute of a volatile field."""
        return f"{name}_" if name in RESERVED or name.startswith("gsi") else name

    @property
    def header_attributes(self) -> list[str]:
        """The attributes of a record without its body."""
        volatile = sorted(self.attribute(name) for name in self.kind.volatile)
        return ["pk", "sk", "id", "rev", "head", "aliases", "expires_at", *volatile]

    def decode(self, item: Item, *, body: bool = True) -> Stored:
        """A record's item, read whole. Raises `CorruptRecordError`."""
        try:
            id = item["id"]["S"]
        except KeyError:
            raise CorruptRecordError(self.kind.name, item["pk"]["S"], "it has no id") from None
        try:
            head = item["head"]["M"]
            fields: dict[str, FieldValue] = {}
            for name in self.kind.fields:
                value = item.get(self.attribute(name)) if name in self.kind.volatile else head.get(name)
                fields[name] = None if value is None else from_value(value)
            expires_at = _expiry(item)
            place = Place(item["pk"]["S"], item["sk"]["S"], int(item.get("aliases", {"N": "0"})["N"]), expires_at)
            parts = unpack(next(iter(item["body"].values()))) if body and "body" in item else {}
            rev = Rev(item["rev"]["S"], place)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise CorruptRecordError(self.kind.name, id, f"{type(error).__name__} in its item") from error
        return Stored(self._ref(id, fields), rev, fields, parts if body else None, expires_at)

    def decode_entry(self, item: Item, index: Index, eq: Sequence[Scalar]) -> Stored:
        """An entry of a global index: a header, in which the volatile fields that the entry does not tell are missing
        from `fields` altogether. Its `Rev` is empty: a token in the entries would have each rewritten, and
        billed, with each save. Of an entry that was read without its header, all fields are missing."""
        if "head" not in item:
            return Stored(self._ref(item["id"]["S"], {}), Rev(""), {}, None, _expiry(item))
        head = item["head"]["M"]
        fields: dict[str, FieldValue] = {
            name: from_value(head[name]) if name in head else None
            for name in self.kind.fields
            if name not in self.kind.volatile
        }
        for name, value in zip(index.eq, eq, strict=True):
            if name in self.kind.volatile:
                fields[name] = value
        if index.sort in self.kind.volatile:
            self._fill_sort(fields, index, item[f"{self.slots[index.name][0]}sk"]["S"])
        return Stored(self._ref(item["id"]["S"], fields), Rev(""), fields, None, _expiry(item))

    def decode_change(self, item: Item, index: Index, parent: Scalar) -> Stored:
        """An entry of the local index: a child's place in the order, and the field it is sorted by; no `Rev` at all."""
        fields: dict[str, FieldValue] = {self.kind.parent or "": parent}
        self._fill_sort(fields, index, item["lsi"]["S"])
        if self.kind.order is not None:
            order = item["sk"]["S"].removeprefix(self.prefix)
            fields[self.kind.order] = last_scalar(order, order.count("!"))
        return Stored(self._ref(item["id"]["S"], fields), Rev(""), fields, None, _expiry(item))

    @staticmethod
    def _fill_sort(fields: dict[str, FieldValue], index: Index, text: str) -> None:
        try:
            fields[index.sort] = last_scalar(text, 2)
        except ValueError:  # too long to be in a key: it is missing, as the other volatile fields are
            fields.pop(index.sort, None)

    def _ref(self, id: str, fields: Fields) -> Ref:
        parent, order = fields.get(self.kind.parent or ""), fields.get(self.kind.order or "")
        return Ref(
            self.kind.name,
            id,
            parent if isinstance(parent, str) else None,
            order if isinstance(order, int) else None,
        )


def _expiry(item: Item) -> int | None:
    value = item.get("expires_at")
    return None if value is None else int(value["N"])


# --- Expressions ----------------------------------------------------------------------------------------------------


class Expressions:
    """Names and values of the expressions of one request; nothing of a caller becomes part of an expression's text."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.values: dict[str, Value] = {}

    def path(self, *parts: str) -> str:
        return ".".join(self._name(part) for part in parts)

    def _name(self, name: str) -> str:
        for placeholder, known in self.names.items():
            if known == name:
                return placeholder
        placeholder = f"#n{len(self.names)}"
        self.names[placeholder] = name
        return placeholder

    def value(self, value: FieldValue) -> str:
        placeholder = f":v{len(self.values)}"
        self.values[placeholder] = to_value(value)
        return placeholder

    def arguments(self, **expressions: str | None) -> dict[str, Any]:
        given: dict[str, Any] = {name: text for name, text in expressions.items() if text}
        if self.names:
            given["ExpressionAttributeNames"] = self.names
        if self.values:
            given["ExpressionAttributeValues"] = self.values
        return given

    def field(self, layout: Layout, name: str) -> str:
        return self.path(layout.attribute(name)) if name in layout.kind.volatile else self.path("head", name)

    def holds(self, layout: Layout, condition: Condition) -> str | None:
        """The condition as an expression, or None where DynamoDB has none for it. It never refuses a record that
        satisfies the condition, and is exact unless numbers are compared."""
        if isinstance(condition, Contains | Predicate):
            return None
        if isinstance(condition, Eq):
            return self._among(layout, condition.field, (condition.value,))
        if isinstance(condition, In):
            return self._among(layout, condition.field, condition.values)
        if isinstance(condition, NotIn):
            found = self._among(layout, condition.field, condition.values)
            return None if found is None else f"NOT {found}"
        if isinstance(condition, Range) and not _plain((condition.low, condition.high)):
            return None
        # From here on what is named is used, as DynamoDB demands.
        path = self.field(layout, condition.field)
        if isinstance(condition, Has):
            return f"contains({path}, {self.value(condition.value)})"
        bounds = [
            f"{path} {sign} {self.value(bound)}"
            for sign, bound in ((">=", condition.low), ("<=", condition.high))
            if bound is not None
        ]
        # A number that DynamoDB cannot hold as it is was stored as a map, which no bound compares with.
        inside = " AND ".join([f"attribute_exists({path})", *bounds])
        return f"(({inside}) OR attribute_type({path}, {self.value('M')}))"

    def _among(self, layout: Layout, name: str, values: Sequence[Scalar]) -> str | None:
        if not values or not _plain(values) or any(isinstance(value, float) for value in values):
            return None
        path = self.field(layout, name)
        wanted = [value for value in values if value is not None]
        parts = [f"attribute_not_exists({path})"] if None in values else []
        for start in range(0, len(wanted), 100):
            some = ", ".join(self.value(value) for value in wanted[start : start + 100])
            parts.append(f"{path} IN ({some})")
        if any(isinstance(value, int) and not isinstance(value, bool) for value in wanted):
            parts.append(f"attribute_type({path}, {self.value('M')})")  # 1 equals 1.0, which is stored as a map
        return f"({' OR '.join(parts)})" if parts else None


def _plain(values: Sequence[FieldValue]) -> bool:
    return all("M" not in to_value(value) for value in values)

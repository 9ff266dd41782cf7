"""Structured queries: what they mean, which of them the automatic indexes serve, and their results.

Invariants
- `Query` is built once from a StructuredQuery and refuses there what the service refuses; running it only reads.
- Without declared indexes the service has ascending, descending and array-contains indexes on each field, for one
  collection at a time. `Query.check_indexes` refuses, with FAILED_PRECONDITION, every query that these do not serve:
  Google's own emulator answers such a query, production does not.
- The order is total: the fields asked for, the fields with an inequality, the document's name. Cursors are prefixes
  of it.
- A document without one of the ordered fields is not in the index, so it is not in the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import grpc
from google.cloud.firestore_v1 import types

from agno_docstores_firestore.emulator import values
from agno_docstores_firestore.emulator.store import Ids, Store, Version
from agno_docstores_firestore.emulator.values import (
    ARRAY,
    INDEXED_VALUE_BYTES,
    NAN_KEY,
    NULL_KEY,
    Key,
    Path,
    Refused,
    Value,
    format_path,
    invalid,
    parse_path,
)

_SQ = types.StructuredQuery
_OP = _SQ.FieldFilter.Operator
_UNARY = _SQ.UnaryFilter.Operator
_AND = _SQ.CompositeFilter.Operator.AND
_OR = _SQ.CompositeFilter.Operator.OR
_DESCENDING = _SQ.Direction.DESCENDING

NAME: Final[Path] = ("__name__",)

_RANGES: Final[dict[int, Callable[[Key, Key], bool]]] = {
    _OP.LESS_THAN: lambda left, right: left < right,
    _OP.LESS_THAN_OR_EQUAL: lambda left, right: left <= right,
    _OP.GREATER_THAN: lambda left, right: left > right,
    _OP.GREATER_THAN_OR_EQUAL: lambda left, right: left >= right,
}
_LISTS: Final = {
    _OP.IN: values.MAX_DISJUNCTIONS,
    _OP.ARRAY_CONTAINS_ANY: values.MAX_DISJUNCTIONS,
    _OP.NOT_IN: values.MAX_NOT_IN_VALUES,
}
_CONTAINS: Final = frozenset({_OP.ARRAY_CONTAINS, _OP.ARRAY_CONTAINS_ANY})
_NEGATIVES: Final = frozenset({_OP.NOT_EQUAL, _OP.NOT_IN})


@dataclass(frozen=True)
class Condition:
    """One test of one field."""

    path: Path
    op: int
    """A FieldFilter operator. IS_NULL, IS_NAN and their negations are EQUAL and NOT_EQUAL with `unary` set."""
    operands: tuple[Key, ...]
    unary: bool

    @cached_property
    def _comparable(self) -> tuple[Key, ...]:
        # No comparison with null or NaN is true, nor a range over them; IS_NULL and IS_NAN ask for them.
        return tuple(one for one in self.operands if one not in (NULL_KEY, NAN_KEY))

    @property
    def is_range(self) -> bool:
        """Whether the condition reads a range of an index, so that the result is ordered by its field.

        One that never holds reads nothing: the service drops it first.
        """
        if self.op in _NEGATIVES:
            return self.unary or self.operands != (NULL_KEY,)
        return self.op in _RANGES and bool(self._comparable)

    @property
    def alternatives(self) -> int:
        """How many disjunctions the condition stands for."""
        return len(self.operands) if self.op in (_OP.IN, _OP.ARRAY_CONTAINS_ANY) else 1

    def holds(self, version: Version) -> bool:
        found = version.key(self.path)
        if found is None:
            return False
        if self.unary:
            return (
                (found in self.operands) if self.op == _OP.EQUAL else found != NULL_KEY and found not in self.operands
            )
        operands = self._comparable
        if self.op in (_OP.EQUAL, _OP.IN):
            return found in operands
        if self.op in _NEGATIVES:
            return found != NULL_KEY and NULL_KEY not in self.operands and found not in operands
        if self.op in _CONTAINS:
            return found[0] == ARRAY and any(one in operands for one in found[1])
        if self.path == NAME:
            return _RANGES[self.op](found, self.operands[0])
        return (
            bool(operands) and found != NAN_KEY and found[0] == operands[0][0] and _RANGES[self.op](found, operands[0])
        )


@dataclass(frozen=True)
class Composite:
    """A composite filter."""

    every: bool
    parts: tuple[Condition | Composite, ...]

    @property
    def alternatives(self) -> int:
        counts = [part.alternatives for part in self.parts]
        return math.prod(counts) if self.every else sum(counts)

    def holds(self, version: Version) -> bool:
        return (all if self.every else any)(part.holds(version) for part in self.parts)


@dataclass(frozen=True)
class Bound:
    """A cursor: a position before or after all that share its prefix of the order."""

    keys: tuple[Key, ...]
    before: bool


class Query:
    """A StructuredQuery below a parent, understood and checked.

    `aggregated`: fields to sum or average. The index that is read must have them, so they are part of the order.
    """

    def __init__(self, database: str, parent: Ids, message: Any, aggregated: Iterable[Path] = ()) -> None:
        if message.HasField("find_nearest"):
            raise Refused(grpc.StatusCode.UNIMPLEMENTED, "Vector search is not part of this emulator.")
        self.database = database
        self.parent = parent
        sources = message.from_
        if len(sources) > 1:
            raise invalid("StructuredQuery.from cannot have more than one collection selector.")
        self.collection_id: str = sources[0].collection_id if sources else ""
        # Without a collection the query is over every document below the parent.
        self.all_descendants: bool = sources[0].all_descendants if self.collection_id else True
        if self.collection_id:
            values.check_id(self.collection_id, "Collection id")
        elif sources and not sources[0].all_descendants:
            raise invalid("A collection selector without a collection id must select all descendants.")

        self.filter = self._read_filter(message.where) if message.HasField("where") else None
        self._conditions = [] if self.filter is None else list(_leaves(self.filter))
        self._check_filters()
        self.order = self._read_order(message.order_by, aggregated)
        self.start = self._read_bound(message.start_at, message.order_by) if message.HasField("start_at") else None
        self.end = self._read_bound(message.end_at, message.order_by) if message.HasField("end_at") else None
        if message.offset < 0:
            raise invalid("offset is negative")
        self.offset: int = message.offset
        self.limit: int | None = message.limit.value if message.HasField("limit") else None
        if self.limit is not None and self.limit < 0:
            raise invalid("limit is negative")
        self.projection: list[Path] | None = None
        if message.HasField("select"):
            self.projection = [parse_path(one.field_path) for one in message.select.fields]

    # --- reading the message -----------------------------------------------------------------------------------------

    def _read_filter(self, message: Any) -> Condition | Composite:
        match message.WhichOneof("filter_type"):
            case "composite_filter":
                composite = message.composite_filter
                if composite.op not in (_AND, _OR):
                    raise invalid("Unsupported CompositeFilter operator.")
                every = composite.op == _AND or not composite.filters
                return Composite(every, tuple(self._read_filter(one) for one in composite.filters))
            case "unary_filter":
                unary = message.unary_filter
                path = parse_path(unary.field.field_path)
                match unary.op:
                    case _UNARY.IS_NULL:
                        return Condition(path, _OP.EQUAL, (NULL_KEY,), True)
                    case _UNARY.IS_NAN:
                        return Condition(path, _OP.EQUAL, (NAN_KEY,), True)
                    case _UNARY.IS_NOT_NULL:
                        return Condition(path, _OP.NOT_EQUAL, (NULL_KEY,), True)
                    case _UNARY.IS_NOT_NAN:
                        return Condition(path, _OP.NOT_EQUAL, (NAN_KEY,), True)
                    case _:
                        raise invalid("Unknown UnaryFilter operator.")
            case "field_filter":
                return self._read_field_filter(message.field_filter)
            case _:
                raise invalid("Unknown Filter type.")

    def _read_field_filter(self, message: Any) -> Condition:
        path, op, value = parse_path(message.field.field_path), message.op, message.value
        if op in _LISTS:
            name = _OP(op).name
            if value.WhichOneof("value_type") != "array_value":
                raise invalid(f"'{name}' requires an ArrayValue.")
            if not value.array_value.values:
                raise invalid(f"'{name}' requires an non-empty ArrayValue.")
            if len(value.array_value.values) > _LISTS[op]:
                raise invalid(f"'{name}' supports up to {_LISTS[op]} comparison values.")
            operands = [self._operand(path, one) for one in value.array_value.values]
            return Condition(path, op, tuple(dict.fromkeys(operands)), False)
        if op not in _RANGES and op not in (_OP.EQUAL, _OP.NOT_EQUAL, _OP.ARRAY_CONTAINS):
            raise invalid("Unknown FieldFilter operator.")
        return Condition(path, op, (self._operand(path, value),), False)

    def _operand(self, path: Path, value: Any) -> Key:
        if path == NAME:
            return _name_operand(value, "__key__ filter value must be a Key")
        kind = value.WhichOneof("value_type")
        size = len(value.string_value.encode()) + 1 if kind == "string_value" else len(value.bytes_value)
        if size > INDEXED_VALUE_BYTES:
            raise invalid(f"value for {format_path(path)} is too large to be used in a query")
        return values.order_key(value)

    def _check_filters(self) -> None:
        negatives = sum(one.op in _NEGATIVES for one in self._conditions)
        if negatives > 1:
            raise invalid(
                "Only a single 'NOT_EQUAL', 'NOT_IN', 'IS_NOT_NAN', or 'IS_NOT_NULL' filter allowed per query."
            )
        operators = {one.op for one in self._conditions}
        disjunctive = operators & {_OP.IN, _OP.ARRAY_CONTAINS_ANY} or _has_or(self.filter)
        if _OP.NOT_IN in operators and disjunctive:
            raise invalid("'NOT_IN' cannot be used in the same query with 'IN', 'ARRAY_CONTAINS_ANY' or 'OR'.")
        if self.filter is not None and self.filter.alternatives > values.MAX_DISJUNCTIONS:
            raise invalid(
                f"Too many disjunctions after normalization. Result had {self.filter.alternatives} disjunctions "
                f"which is more than the maximum of {values.MAX_DISJUNCTIONS}"
            )
        for conjunction in _disjunctions(self.filter):
            if sum(one.op in _CONTAINS for one in conjunction) > 1:
                raise invalid("A maximum of 1 'ARRAY_CONTAINS' filter is allowed per disjunction.")

    def _read_order(self, sent: Iterable[Any], aggregated: Iterable[Path]) -> list[tuple[Path, bool]]:
        order: list[tuple[Path, bool]] = []
        for one in sent:
            path = parse_path(one.field.field_path)
            if any(path == known for known, _ in order):
                raise invalid(f"order by clause cannot contain duplicate fields {format_path(path)}")
            if order and order[-1][0] == NAME:
                raise invalid("order by clause cannot contain more fields after the key")
            order.append((path, one.direction == _DESCENDING))
        if order == [(NAME, True)] and all(one.path == NAME for one in self._conditions):
            # Not a matter of declared indexes: names alone are stored in one direction.
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, "Firestore does not support descending key scans")
        descending = order[-1][1] if order else False
        ordered = {path for path, _ in order}
        named = any(one.path == NAME for one in self._conditions)
        unequal = {one.path for one in self._conditions if one.is_range}
        if unequal - {NAME} and NAME not in unequal and named:
            raise invalid(
                "Equality on key is not allowed if there are other inequality fields "
                "and key does not appear in inequalities."
            )
        implied = sorted(unequal - ordered - {NAME})
        if implied and NAME in ordered:
            raise invalid("order by clause cannot contain more fields after the key")
        summed = sorted(set(aggregated) - ordered - unequal)
        if summed and (named or NAME in ordered):
            raise invalid(
                f"This query requires an index that has fields [{', '.join(map(format_path, summed))}] after __name__ "
                "and Firestore does not currently support such an index. "
                "Please try the query again with additional ordering on those fields."
            )
        if NAME not in ordered:
            order += [(path, descending) for path in (*implied, *summed)]
            order.append((NAME, descending))
        return order

    def _read_bound(self, cursor: Any, sent: Sequence[Any]) -> Bound:
        # A cursor speaks of the order as sent: what the service appends to it cannot be addressed.
        if len(cursor.values) > len(sent):
            raise invalid("Cursor has too many values.")
        keys = [
            _name_operand(value, "Cursor __key__ value is not a document reference.")
            if path == NAME
            else values.order_key(value)
            for value, (path, _) in zip(cursor.values, self.order, strict=False)
        ]
        return Bound(tuple(keys), cursor.before)

    # --- indexes -----------------------------------------------------------------------------------------------------

    def check_indexes(self) -> None:
        """FAILED_PRECONDITION unless the automatic single-field indexes serve the query.

        Equalities on any number of fields are merged from their indexes; one order or inequality needs the field's own
        index to hold everything else that the query names.
        """
        fields = {one.path for one in self._conditions} | {path for path, _ in self.order}
        if self.all_descendants and fields - {NAME}:
            raise _needs_index(
                f"fields are indexed for one collection, not for the collection group '{self.collection_id}'"
            )
        name_descends = self.order[-1][1]
        for conjunction in _disjunctions(self.filter):
            equal = {one.path for one in conjunction if one.op in (_OP.EQUAL, _OP.IN)}
            contained = {one.path for one in conjunction if one.op in _CONTAINS}
            # What one value is asked of needs no order; what is left must be one index.
            ranged = [(path, descends) for path, descends in self.order if path != NAME and path not in equal]
            needed = {path for path, _ in ranged}
            if any(one.path == NAME and one.is_range for one in conjunction) and ranged:
                needed.add(NAME)
            others = (equal - {NAME}) | contained
            if len(needed) > 1 or (needed and others):
                raise _needs_index(", ".join(format_path(path) for path in sorted(others | needed)))
            if name_descends and not ranged and not equal - {NAME}:
                raise _needs_index("only the index of a field's one value has names in descending order")
            if ranged and ranged[0][1] != name_descends:
                raise _needs_index(f"{format_path(ranged[0][0])} and __name__ in opposite directions")

    # --- running -----------------------------------------------------------------------------------------------------

    def run(self, store: Store, at: int | None) -> tuple[list[Version], int]:
        """The result in order at a moment (None: now), and how many the offset skipped.

        The caller holds the store's lock.
        """
        found = [
            version
            for version in self._candidates(store, at)
            if all(version.key(path) is not None for path, _ in self.order)
            and (self.filter is None or self.filter.holds(version))
        ]
        # Stable sorts from the last key to the first, because each key has its own direction.
        directions = {descends for _, descends in self.order}
        if len(directions) == 1:
            found.sort(key=self._position, reverse=directions == {True})
        else:
            for path, descends in reversed(self.order):
                found.sort(key=lambda version, path=path: version.key(path), reverse=descends)  # type: ignore[misc]
        if self.start is not None:
            start = self.start
            found = [
                one
                for one in found
                if (self._compare(one, start) >= 0 if start.before else self._compare(one, start) > 0)
            ]
        if self.end is not None:
            end = self.end
            found = [
                one for one in found if (self._compare(one, end) < 0 if end.before else self._compare(one, end) <= 0)
            ]
        skipped = min(self.offset, len(found))
        stop = None if self.limit is None else skipped + self.limit
        return found[skipped:stop], skipped

    def _candidates(self, store: Store, at: int | None) -> Iterable[Version]:
        if not self.all_descendants:
            return store.collection(self.database, (*self.parent, self.collection_id), at)
        return (
            version
            for path in store.collections(self.database, self.parent)
            if not self.collection_id or path[-1] == self.collection_id
            for version in store.collection(self.database, path, at)
        )

    def _position(self, version: Version) -> tuple[Key | None, ...]:
        return tuple(version.key(path) for path, _ in self.order)

    def _compare(self, version: Version, bound: Bound) -> int:
        """Negative, zero or positive: the version is before, in, or after all that share the bound's prefix."""
        for (path, descends), key in zip(self.order, bound.keys, strict=False):
            mine = version.key(path)
            assert mine is not None
            if mine != key:
                return 1 if (mine > key) != descends else -1
        return 0

    def cursor_after(self, version: Version) -> Any:
        """A Cursor just behind a result, for an order that was sent in full."""
        cursor = types.Cursor.pb()(before=False)
        for path, _ in self.order:
            if path == NAME:
                cursor.values.add(reference_value=version.document.name)  # type: ignore[union-attr]
            else:
                cursor.values.add().CopyFrom(values.value_at(version.document.fields, path))  # type: ignore[union-attr]
        return cursor


def _name_operand(value: Any, message: str) -> Key:
    if value.WhichOneof("value_type") != "reference_value":
        raise invalid(message)
    return values.name_key(values.split_name(value.reference_value)[1])


def _needs_index(what: str) -> Refused:
    return Refused(
        grpc.StatusCode.FAILED_PRECONDITION,
        "The query requires an index. The automatic single-field indexes do not serve it, "
        f"and this emulator has no others: {what}.",
    )


def _leaves(one: Condition | Composite) -> Iterable[Condition]:
    if isinstance(one, Condition):
        yield one
    else:
        for part in one.parts:
            yield from _leaves(part)


def _has_or(one: Condition | Composite | None) -> bool:
    return isinstance(one, Composite) and (not one.every or any(_has_or(part) for part in one.parts))


def _disjunctions(one: Condition | Composite | None) -> list[list[Condition]]:
    """The filter as an OR of ANDs. IN and ARRAY_CONTAINS_ANY stay whole: each of their values needs the same index."""
    if one is None:
        return [[]]
    if isinstance(one, Condition):
        return [[one]]
    if not one.every:
        return [conjunction for part in one.parts for conjunction in _disjunctions(part)]
    product: list[list[Condition]] = [[]]
    for part in one.parts:
        product = [left + right for left in product for right in _disjunctions(part)]
    return product


class Aggregation:
    """A StructuredAggregationQuery below a parent, understood and checked."""

    def __init__(self, database: str, parent: Ids, message: Any) -> None:
        if not message.aggregations:
            raise invalid("Aggregations can not be empty.")
        if len(message.aggregations) > values.MAX_AGGREGATIONS:
            raise invalid(
                f"The maximum number of aggregations allowed in an aggregation query is {values.MAX_AGGREGATIONS}."
            )
        self._operators: list[tuple[str, str, Path, int | None]] = []
        unnamed = 0
        for one in message.aggregations:
            alias = one.alias
            if not alias:
                unnamed += 1
                alias = f"field_{unnamed}"
            if any(alias == known for known, *_ in self._operators):
                raise invalid(f"Aggregation aliases contain duplicate alias: {alias}.")
            match kind := one.WhichOneof("operator"):
                case "count":
                    up_to = one.count.up_to.value if one.count.HasField("up_to") else None
                    if up_to is not None and up_to < 0:
                        raise invalid("up_to is negative")
                    self._operators.append((alias, kind, (), up_to))
                case "sum" | "avg":
                    self._operators.append((alias, kind, parse_path(getattr(one, kind).field.field_path), None))
                case _:
                    raise invalid("Unknown aggregation operator.")
        aggregated = {path for _, kind, path, _ in self._operators if kind != "count"}
        self.query = Query(database, parent, message.structured_query, aggregated)

    def run(self, store: Store, at: int | None) -> tuple[dict[str, Any], int]:
        """The result for each alias, and how many index entries it took. The caller holds the store's lock.

        Only documents that have every aggregated field count, for every aggregation of the query.
        """
        found, skipped = self.query.run(store, at)
        results: dict[str, Any] = {}
        for alias, kind, path, up_to in self._operators:
            if kind == "count":
                results[alias] = Value(integer_value=len(found) if up_to is None else min(up_to, len(found)))
            else:
                results[alias] = _aggregate(kind, [_number(version, path) for version in found])
        return results, len(found) + skipped


def _number(version: Version, path: Path) -> int | float | None:
    assert version.document is not None
    value = values.value_at(version.document.fields, path)
    kind = None if value is None else value.WhichOneof("value_type")
    return getattr(value, kind) if kind in ("integer_value", "double_value") else None


def _aggregate(kind: str, found: Iterable[int | float | None]) -> Any:
    numbers = [one for one in found if one is not None]
    if kind == "avg":
        return Value(double_value=_total(numbers) / len(numbers)) if numbers else Value(null_value=0)
    total = _total(numbers)
    if isinstance(total, int) and values.INT64_MIN <= total <= values.INT64_MAX:
        return Value(integer_value=total)
    return Value(double_value=float(total))


def _total(numbers: Sequence[int | float]) -> int | float:
    """Exact for integers; a double as soon as one of the numbers is one."""
    return sum(numbers)

"""`filter_expr`: a condition on the columns of a trace, as the tree of dicts that `agno.filters` and AgentOS make.

A tenant's scope arrives in such a tree, so nothing of one is ever left out: it is checked whole before anything is
read, what is wrong with it raises `ValueError`, and the rest holds as Agno's SQL has it. That is: the three values of
SQL's logic (a comparison with null is neither true nor false, and its negation neither); text columns compare as text,
whatever type the value is of; of the one number, `duration_ms`, a text that reads as a number is that number, and any
other text is beyond all numbers; times are normalised to UTC. Texts are texts: no wildcard, no pattern; CONTAINS and
STARTSWITH look at them without case.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from agno.db.filter_converter import DATETIME_COLUMNS, MAX_FILTER_DEPTH, TRACE_COLUMNS
from agno.utils.dttm import parse_datetime_utc

from agno_docstores.keys import encodable
from agno_docstores.port import Eq, FieldValue, In, Range

Row = Mapping[str, FieldValue]
Comparable = tuple[int, Any]  # a value as its column compares it: numbers (0, n) before texts (1, text)

NUMBERS = frozenset({"duration_ms"})
MOST_VALUES = 10  # of an IN that becomes a stretch of an index for each
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "EQ": operator.eq,
    "NEQ": operator.ne,
    "GT": operator.gt,
    "GTE": operator.ge,
    "LT": operator.lt,
    "LTE": operator.le,
}
SEARCHES: dict[str, Callable[[str, str], bool]] = {"CONTAINS": operator.contains, "STARTSWITH": str.startswith}
_NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*", re.ASCII)


class Node(Protocol):
    """A condition. `truth`: True, False, or None for neither."""

    def truth(self, row: Row) -> bool | None: ...

    def columns(self) -> frozenset[str]: ...


@dataclass(frozen=True, slots=True)
class Comparison:
    op: str
    column: str
    value: Comparable

    def truth(self, row: Row) -> bool | None:
        stored = row.get(self.column)
        return None if stored is None else COMPARISONS[self.op](comparable(self.column, stored), self.value)

    def columns(self) -> frozenset[str]:
        return frozenset({self.column})


@dataclass(frozen=True, slots=True)
class Search:
    op: str
    column: str
    text: str

    def truth(self, row: Row) -> bool | None:
        stored = row.get(self.column)
        return None if stored is None else SEARCHES[self.op](str(stored).casefold(), self.text)

    def columns(self) -> frozenset[str]:
        return frozenset({self.column})


@dataclass(frozen=True, slots=True)
class Among:
    """IN. A null among the values may be any value, so that "not among them" is never sure."""

    column: str
    values: tuple[Comparable | None, ...]

    def truth(self, row: Row) -> bool | None:
        stored = row.get(self.column)
        if not self.values:
            return False
        if stored is None:
            return None
        return True if comparable(self.column, stored) in self.values else None if None in self.values else False

    def columns(self) -> frozenset[str]:
        return frozenset({self.column})


@dataclass(frozen=True, slots=True)
class Junction:
    """AND (`decides` False: one false condition decides it) or OR (True)."""

    decides: bool
    nodes: tuple[Node, ...]

    def truth(self, row: Row) -> bool | None:
        truths = [node.truth(row) for node in self.nodes]
        return self.decides if self.decides in truths else None if None in truths else not self.decides

    def columns(self) -> frozenset[str]:
        return frozenset().union(*(node.columns() for node in self.nodes))


@dataclass(frozen=True, slots=True)
class Negation:
    node: Node

    def truth(self, row: Row) -> bool | None:
        truth = self.node.truth(row)
        return None if truth is None else not truth

    def columns(self) -> frozenset[str]:
        return self.node.columns()


def parse(expression: Any, depth: int = 0) -> Node:
    """The condition that a tree of dicts stands for. Raises `ValueError` for anything that is not one."""
    if depth > MAX_FILTER_DEPTH:
        raise ValueError(f"Filter expression exceeds maximum nesting depth of {MAX_FILTER_DEPTH}")
    if not isinstance(expression, dict) or "op" not in expression:
        raise ValueError(f"Invalid filter: must be a dict with 'op' key. Got: {expression!r}")
    op = expression["op"]
    if not isinstance(op, str):
        raise ValueError(f"Unknown filter operator: {op!r}")
    if op in ("AND", "OR"):
        conditions = expression.get("conditions")
        if not conditions or not isinstance(conditions, list | tuple):
            raise ValueError(f"{op} filter requires a list 'conditions'")
        return Junction(op == "OR", tuple(parse(condition, depth + 1) for condition in conditions))
    if op == "NOT":
        if not expression.get("condition"):
            raise ValueError("NOT filter requires 'condition' field")
        return Negation(parse(expression["condition"], depth + 1))
    if op == "IN":
        column, values = _operands(expression, "values")
        if not isinstance(values, list | tuple | set | frozenset):
            raise ValueError("IN filter requires a list 'values'")
        return Among(column, tuple(None if value is None else _operand(op, column, value) for value in values))
    if op in SEARCHES:
        column, value = _operands(expression, "value")
        return Search(op, column, str(_in_utc(column, value)).casefold())
    if op in COMPARISONS:
        column, value = _operands(expression, "value")
        return Comparison(op, column, _operand(op, column, value))
    raise ValueError(f"Unknown filter operator: {op!r}")


def conjuncts(node: Node) -> Iterator[Node]:
    """The conditions that all have to hold for the whole to hold."""
    if isinstance(node, Junction) and not node.decides:
        for inner in node.nodes:
            yield from conjuncts(inner)
    else:
        yield node


def as_condition(node: Node) -> Eq | In | Range | None:
    """The condition of the port that says exactly the same, if there is one that an index may serve."""
    if isinstance(node, Comparison) and _plain(node.column, node.value):
        if node.op == "EQ":
            return Eq(node.column, node.value[1])
        if node.op in ("GTE", "LTE") and node.column in DATETIME_COLUMNS:
            at = node.value[1]
            return Range(node.column, low=at) if node.op == "GTE" else Range(node.column, high=at)
    if isinstance(node, Among) and len(node.values) <= MOST_VALUES:
        # Where it has to be true, a null among the values adds nothing.
        values = tuple(value for value in node.values if value is not None)
        if all(_plain(node.column, value) for value in values):
            return In(node.column, tuple(text for _, text in values))
    return None


def _plain(column: str, value: Comparable) -> bool:
    """Whether the value is a text of a text column that can be part of an index's key."""
    return column not in NUMBERS and encodable(value[1])


def comparable(column: str, value: FieldValue) -> Comparable:
    """A value as its column compares it."""
    if column in NUMBERS:
        number = _number(value)
        if number is not None:
            return (0, number)
    return (1, str(int(value)) if isinstance(value, bool) else str(value))


def _number(value: FieldValue) -> int | float | None:
    if isinstance(value, int | float):
        return value
    if not isinstance(value, str) or not _NUMBER.fullmatch(value):
        return None
    return int(value) if value.strip().lstrip("+-").isdigit() else float(value)


def _operands(expression: Mapping[str, Any], name: str) -> tuple[str, Any]:
    column, value = expression.get("key"), expression.get(name)
    if column is None or value is None:
        raise ValueError(f"{expression['op']} filter requires 'key' and {name!r} fields")
    if not isinstance(column, str) or column not in TRACE_COLUMNS:
        raise ValueError(f"Invalid filter field: {column!r}. Allowed: {sorted(TRACE_COLUMNS)}")
    return column, value


def _operand(op: str, column: str, value: Any) -> Comparable:
    value = _in_utc(column, value)
    ordered = op not in ("EQ", "NEQ", "IN")
    if not isinstance(value, str | int | float) or (ordered and isinstance(value, bool)):
        raise ValueError(f"{op} filter cannot compare {column!r} with a {type(value).__name__}")
    return comparable(column, value)


def _in_utc(column: str, value: Any) -> Any:
    """A time as the columns of times hold it; what is no time stays as it is, and is compared as text."""
    if column in DATETIME_COLUMNS:
        try:
            return parse_datetime_utc(value).isoformat()
        except (TypeError, ValueError, OverflowError):
            pass
    return value

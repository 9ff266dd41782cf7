"""Faults at the gateway: the n-th call of an operation fails, loses its reply, is made twice, or the process ends."""

from __future__ import annotations

from dataclasses import dataclass

from agno_docstores.errors import StoreUnavailableError
from agno_docstores.io import Repeat
from tests.harness import Cell

KINDS = ("unreachable", "lost reply", "repeated", "crash before", "crash after")


def places(cell: Cell, kind: str, most: int) -> range:
    """Which calls of an operation a fault of this kind is to strike: each of them; on DynamoDB, whose stand-ins are the
    slowest, every third, from the first, second or third as the kind has it."""
    if cell.store != "dynamo" or kind == "none":
        return range(1, most)
    return range(1 + KINDS.index(kind) % 3, most, 3)


class Crashed(Exception):
    """The process died here: nothing of the operation goes on."""


@dataclass
class Fault:
    """A hook of the gateway. `kind`: "unreachable" and "crash before" strike before the call reaches the store, "lost
    reply" and "crash after" when it has taken effect, "repeated" has it made twice. `struck`: whether it came to it."""

    kind: str
    at: int
    count: int = 0
    struck: bool = False

    def before(self, operation: str) -> None:
        self.count += 1
        if self.count != self.at:
            return
        if self.kind == "unreachable":
            self.struck = True
            raise StoreUnavailableError(operation, "test", "unreachable")
        if self.kind == "crash before":
            self.struck = True
            raise Crashed

    def after(self, operation: str) -> None:
        if self.count != self.at or self.struck:
            return
        if self.kind == "lost reply":
            self.struck = True
            raise StoreUnavailableError(operation, "test", "the reply was lost", maybe_applied=True)
        if self.kind == "crash after":
            self.struck = True
            raise Crashed
        if self.kind == "repeated":
            self.struck = True
            raise Repeat

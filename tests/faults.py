"""Faults at the gateway: the n-th call of an operation fails, loses its reply, is made twice, or the process ends; or
the store is gone from there on. `native` is what a store's own client raises, for the driver to translate."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from agno_docstores.errors import StoreUnavailableError
from agno_docstores.io import Io, Repeat
from tests.harness import Cell

KINDS = ("unreachable", "lost reply", "repeated", "crash before", "crash after")


def places(cell: Cell, kind: str, most: int) -> range:
    """Which calls of an operation a fault of this kind is to strike: each of them on the memory store, which commits in
    both ways, whole and one document at a time, so that it makes the calls that any store makes; on the others, where
    what a call leaves behind is what is looked at, every third, from the first, second or third as the kind has it."""
    if cell.store == "memory" or kind == "none":
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


def native(store: str, kind: str, operation: str) -> Exception:
    """What the client of a store raises when a call is "throttled" or has "timed out"."""
    throttled = kind == "throttled"
    if store == "mongo":
        from pymongo.errors import NetworkTimeout, OperationFailure

        return OperationFailure("Request rate is large", 16500) if throttled else NetworkTimeout("timed out")
    if store == "dynamo":
        from botocore.exceptions import ClientError, ReadTimeoutError

        if not throttled:
            return ReadTimeoutError(endpoint_url="http://test")
        refused = {"Code": "ProvisionedThroughputExceededException", "Message": "too fast"}
        return ClientError({"Error": refused, "ResponseMetadata": {"HTTPStatusCode": 400}}, operation)  # type: ignore[typeddict-item]
    if store == "firestore":
        from google.api_core.exceptions import DeadlineExceeded, ResourceExhausted

        return ResourceExhausted("too fast") if throttled else DeadlineExceeded("timed out")  # type: ignore[no-untyped-call]
    return StoreUnavailableError(operation, "test", kind, maybe_applied=not throttled)


@dataclass
class Down:
    """A hook of the gateway: from the n-th call on, the store answers none, as its own client says it. Calls that
    "timed out" may have taken effect (`applied`), or not."""

    store: str
    kind: str = "timed out"
    since: int = 1
    applied: bool = False
    count: int = 0
    operations: set[str] = field(default_factory=set)

    def before(self, operation: str) -> None:
        self.count += 1
        if self.count >= self.since and not self.applied:
            self._strike(operation)

    def after(self, operation: str) -> None:
        if self.count >= self.since and self.applied:
            self._strike(operation)

    def _strike(self, operation: str) -> None:
        self.operations.add(operation)
        raise native(self.store, self.kind, operation)

    @property
    def struck(self) -> bool:
        return self.count >= self.since


class Patience:
    """What a handle waits, without waiting: each wait is as long as it can be, and added up in `seconds`."""

    def __init__(self, io: Io, patch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        patch.setattr(io, "jitter", lambda: 1.0)
        patch.setattr(io, "sleep", self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.seconds += seconds

"""Counts of what a client does, taken outside the code under test: the same listeners for whoever uses the client.

Requests are counted by kind and with what they carried: PyMongo's command listener, botocore's events, an interceptor
of the gRPC channel. Bytes are counted by a proxy in front of the server. CPU is that of the calling thread, so the
threads of proxy and gRPC are not in it; servers are processes of their own.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import grpc
from pymongo import monitoring

from tests.meters import Traffic


@dataclass
class Counts:
    """`read`, `written`: documents or items that the store looked at for the answer, and that it was told to change.
    `read_units`, `write_units`: what the store bills: DynamoDB's consumed capacity; Firestore's document reads, and its
    writes (`deletes` apart). None where nothing is billed by operations. Seconds of CPU and by the clock."""

    requests: Counter[str] = field(default_factory=Counter)
    up: int = 0
    down: int = 0
    read: int = 0
    written: int = 0
    read_units: float | None = None
    write_units: float | None = None
    deletes: int = 0
    cpu: float = 0.0
    seconds: float = 0.0
    #: Of ours, where it was taken: CPU of all threads of the process, and the client's part of it (`shares`).
    whole_cpu: float = 0.0
    client_cpu: float = 0.0
    #: What came instead of the answer: the class of an error, or "wrong answer".
    failure: str | None = None
    #: What came of it, where that is a number.
    value: float | None = None

    @property
    def total(self) -> int:
        return sum(self.requests.values())

    @property
    def bytes(self) -> int:
        return self.up + self.down

    def units(self, *, read: float = 0.0, write: float = 0.0) -> None:
        self.read_units = (self.read_units or 0.0) + read
        self.write_units = (self.write_units or 0.0) + write

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "requests": dict(self.requests)}


class Tally:
    """Where the listeners of one client write: the counts that are being taken."""

    def __init__(self, traffic: Traffic | None = None) -> None:
        self.traffic = traffic or Traffic()
        self.counts = Counts()

    def take(self, act: Callable[[], Any], right: Callable[[Any], bool] = lambda answer: True) -> Counts:
        """The counts of one act. What it raises, or an answer that is not right, is noted and not raised."""
        if self.traffic.total:
            time.sleep(0.02)  # what is still under way of the act before; a reply itself is counted before it is seen
        self.traffic.reset()
        counts = self.counts = Counts()
        started, cpu = time.perf_counter(), time.thread_time()
        try:
            answer = act()
            counts.cpu = time.thread_time() - cpu
            counts.seconds = time.perf_counter() - started
            if not right(answer):
                counts.failure = "wrong answer"
            if isinstance(answer, int | float) and not isinstance(answer, bool):
                counts.value = float(answer)
        except Exception as error:  # noqa: BLE001 - what a store cannot do belongs in the table
            counts.failure = type(error).__name__
        counts.up, counts.down = self.traffic.up, self.traffic.down
        self.counts = Counts()
        return counts


# --- MongoDB ----------------------------------------------------------------------------------------------------------


class MongoListener(monitoring.CommandListener):
    """For a `MongoClient(event_listeners=[...])`."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self._tally.counts.requests[event.command_name] += 1

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        counts, reply = self._tally.counts, event.reply
        cursor = reply.get("cursor") or {}
        counts.read += len(cursor.get("firstBatch") or cursor.get("nextBatch") or ())
        if event.command_name in ("insert", "update", "delete"):
            counts.written += reply.get("n", 0)
        elif event.command_name == "findAndModify":
            counts.written += (reply.get("lastErrorObject") or {}).get("n", 0)

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """It was counted when it started."""


# --- DynamoDB ---------------------------------------------------------------------------------------------------------

_READS = ("GetItem", "BatchGetItem", "Query", "Scan", "TransactGetItems")


def watch_dynamo(client: Any, tally: Tally, left_out: Callable[[dict[str, Any]], float] = lambda item: 0.0) -> None:
    """Count what a boto3 client sends, what it repeats by itself included, and ask for the consumed capacity.
    `left_out`: the write units of a new item that the server leaves out of what it tells of a transaction."""

    def asked(params: dict[str, Any], model: Any, **_: Any) -> dict[str, Any]:
        name = model.name
        if name == "TransactWriteItems":
            tally.counts.written += sum("ConditionCheck" not in item for item in params["TransactItems"])
            tally.counts.units(
                write=sum(left_out(item["Put"]["Item"]) for item in params["TransactItems"] if "Put" in item)
            )
        elif name == "BatchWriteItem":
            tally.counts.written += sum(len(requests) for requests in params["RequestItems"].values())
        elif name in ("PutItem", "UpdateItem", "DeleteItem"):
            tally.counts.written += 1
        if "ReturnConsumedCapacity" in model.input_shape.members:
            return {"ReturnConsumedCapacity": "TOTAL", **params}
        return params

    def sent(request: Any, event_name: str, **_: Any) -> None:
        tally.counts.requests[event_name.rpartition(".")[2]] += 1

    def answered(parsed: dict[str, Any], model: Any, **_: Any) -> None:
        name, counts = model.name, tally.counts
        consumed = parsed.get("ConsumedCapacity", [])
        units = sum(one["CapacityUnits"] for one in (consumed if isinstance(consumed, list) else [consumed]))
        if not consumed and name == "TransactWriteItems":
            units = math.nan  # moto does not tell
        if name in _READS:
            counts.units(read=units)
            found = parsed.get("Responses") or {}
            several = sum(len(items) for items in found.values()) if isinstance(found, dict) else len(found)
            counts.read += parsed.get("ScannedCount", 0) + several + ("Item" in parsed)
        else:
            counts.units(write=units)

    for event, handler in (
        ("provide-client-params.dynamodb", asked),
        ("before-send.dynamodb", sent),
        ("after-call.dynamodb", answered),
    ):
        client.meta.events.register(event, handler)


# --- Firestore --------------------------------------------------------------------------------------------------------


class FirestoreInterceptor(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """For the channel of a `firestore.Client`. Reads are counted as they are billed: each document of an answer, at
    least one a query, one for each begun thousand that a count went over, and a document asked for that is missing."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        counts = self._tally.counts
        name = self._begun(counts, details)
        call = continuation(details, request)
        if name in ("Commit", "BatchWrite") and call.exception() is None:
            deletes = sum(bool(write.delete) for write in _raw(request).writes)
            counts.written += len(_raw(request).writes)
            counts.deletes += deletes
            counts.units(write=len(_raw(request).writes) - deletes)
        return call

    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        counts = self._tally.counts
        name = self._begun(counts, details)
        return _Counted(continuation(details, request), lambda answers: _read(counts, name, answers))

    @staticmethod
    def _begun(counts: Counts, details: Any) -> str:
        method = details.method.decode() if isinstance(details.method, bytes) else details.method
        name = str(method.rpartition("/")[2])
        counts.requests[name] += 1
        return name


def _raw(message: Any) -> Any:
    """The protobuf message in a proto-plus wrapper."""
    return type(message).pb(message) if hasattr(type(message), "pb") else message


def _read(counts: Counts, name: str, answers: list[Any]) -> None:
    documents = sum(answer.HasField("document") for answer in answers) if name == "RunQuery" else 0
    if name == "BatchGetDocuments":
        documents = sum(answer.HasField("found") or bool(answer.missing) for answer in answers)
    if name == "RunAggregationQuery":
        counted = [v.integer_value for answer in answers for v in answer.result.aggregate_fields.values()]
        documents = sum(-(-number // 1000) for number in counted[:1])
    counts.read += documents
    counts.units(read=documents if name == "BatchGetDocuments" else max(1, documents))


class _Counted:
    """A stream of answers that is told of when it has ended."""

    def __init__(self, call: Any, ended: Callable[[list[Any]], None]) -> None:
        self._call = call
        self._ended = ended
        self._answers: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            answer = next(self._call)
        except StopIteration:
            self._ended(self._answers)
            raise
        self._answers.append(_raw(answer))
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


# --- SQLite -----------------------------------------------------------------------------------------------------------


def watch_sqlite(engine: Any, tally: Tally) -> None:
    """Count the statements of an SQLAlchemy engine by their first word."""
    from sqlalchemy import event

    @event.listens_for(engine, "before_cursor_execute")
    def executed(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        tally.counts.requests[statement.split(None, 1)[0].upper()] += 1

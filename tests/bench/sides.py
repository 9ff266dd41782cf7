"""Both sides of the comparison: our class and Agno's, on one server, each over a client of the same make.

A `Side` hands out new handles on the same storage over one client whose connections are open, as another process of a
service that has been running would have them: "cold" is a new handle, "warm" one that has done the same before.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from tests.bench.counting import FirestoreInterceptor, MongoListener, Tally, watch_dynamo, watch_sqlite
from tests.meters import Metered
from tests.servers import DynamoDBLocal, EmbeddedFirestore, GoogleFirestore, MotoServer, Secantus, Server

OURS, AGNO, FLOOR = "ours", "agno", "floor"
EMULATOR = "FIRESTORE_EMULATOR_HOST"
KEYS = {"aws_access_key_id": "local", "aws_secret_access_key": "local", "region_name": "us-east-1"}


@dataclass(frozen=True)
class Side:
    """`open` makes a handle; `tally` is where its client counts; `stored` is the bytes that its storage takes, as the
    store bills them; `open_async` makes a handle for the event loop that runs: of the blocking class, with a client of
    its own, where there is no async one; `direct` one of ours with a client of its own, whose requests are not
    counted."""

    name: str
    tally: Tally
    open: Callable[[], Any]
    stored: Callable[[], int]
    open_async: Callable[[], Any]
    direct: Callable[[], Any]


def servers(*, strict: bool) -> dict[str, Server]:
    """The server of each store: as strict as the store, or what needs no more than Python."""
    if strict:
        return {"mongo": Secantus(), "dynamo": DynamoDBLocal(), "firestore": GoogleFirestore()}
    return {"mongo": Secantus(), "dynamo": MotoServer(), "firestore": EmbeddedFirestore()}


@contextmanager
def side(store: str, name: str, server: Server) -> Iterator[Side]:
    """One side on new, empty storage, which is forgotten afterwards."""
    with ExitStack() as stack:
        yield {"mongo": _mongo, "dynamo": _dynamo, "firestore": _firestore}[store](name, server, stack)


@contextmanager
def floor() -> Iterator[Side]:
    """Agno's SqliteDb: what the same work costs without a network."""
    from agno.db.sqlite import AsyncSqliteDb, SqliteDb

    with tempfile.TemporaryDirectory() as folder:
        tally = Tally()
        first = SqliteDb(db_file=f"{folder}/floor.db")
        watch_sqlite(first.db_engine, tally)

        def stored() -> int:
            return sum(entry.stat().st_size for entry in os.scandir(folder))

        yield Side(
            FLOOR,
            tally,
            lambda: SqliteDb(db_engine=first.db_engine),
            stored,
            lambda: AsyncSqliteDb(db_file=f"{folder}/floor.db"),
            lambda: SqliteDb(db_engine=first.db_engine),
        )
        first.db_engine.dispose()


def _mongo(name: str, server: Server, stack: ExitStack) -> Side:
    import bson
    import pymongo
    from agno.db.mongo import AsyncMongoDb, MongoDb
    from bson.raw_bson import RawBSONDocument

    from agno_docstores_mongo import AsyncMongoDocstore, MongoDocstore

    metered = Metered(server)
    stack.callback(metered.proxy.close)
    tally = Tally(metered.proxy.traffic)
    # Heartbeats would be counted as bytes of whatever is going on.
    client: Any = pymongo.MongoClient(
        metered.address,
        event_listeners=[MongoListener(tally)],
        heartbeatFrequencyMS=3_600_000,
        serverMonitoringMode="poll",
    )
    stack.callback(client.close)
    storage = f"t{uuid.uuid4().hex[:12]}"
    stack.callback(client.drop_database, storage)
    raw: Any = client.get_database(storage, bson.CodecOptions(document_class=RawBSONDocument))

    def stored() -> int:
        return sum(len(document.raw) for table in raw.list_collection_names() for document in raw[table].find())

    kind: Any = MongoDocstore if name == OURS else MongoDb
    async_kind: Any = AsyncMongoDocstore if name == OURS else AsyncMongoDb
    return Side(
        name,
        tally,
        lambda: kind(db_client=client, db_name=storage),
        stored,
        lambda: async_kind(db_url=metered.address, db_name=storage),
        lambda: MongoDocstore(db_url=server.start(), db_name=storage),
    )


def _dynamo(name: str, server: Server, stack: ExitStack) -> Side:
    import boto3
    from agno.db.dynamo import DynamoDb

    from agno_docstores_dynamo import AsyncDynamoDocstore, DynamoDocstore
    from agno_docstores_dynamo.layout import item_bytes
    from tests.bench.scale import entry_of, units_of

    def left_out(item: dict[str, Any]) -> float:
        """DynamoDB Local does not tell of a local index's entries in a transaction, which the service bills twice."""
        kept = entry_of(item, "pk", "lsi")
        return 2 * units_of(kept) if kept else 0

    metered = Metered(server)
    stack.callback(metered.proxy.close)
    tally = Tally(metered.proxy.traffic)
    client: Any = boto3.client("dynamodb", endpoint_url=metered.address, **KEYS)
    watch_dynamo(client, tally, left_out)
    stack.callback(client.close)

    def drop() -> None:
        for table in client.list_tables()["TableNames"]:
            client.delete_table(TableName=table)

    stack.callback(drop)

    def stored() -> int:
        total = 0
        for table in client.list_tables()["TableNames"]:
            description = client.describe_table(TableName=table)["Table"]
            indexes = [
                index["IndexName"]
                for group in ("LocalSecondaryIndexes", "GlobalSecondaryIndexes")
                for index in description.get(group, ())
            ]
            for index in (None, *indexes):
                where = {"TableName": table, **({"IndexName": index} if index else {})}
                for page in client.get_paginator("scan").paginate(**where):
                    # 100 bytes are billed for each entry of an index besides what it holds.
                    total += sum(
                        item_bytes({k: v for k, v in item.items() if k != "lsi"}) + 100 * bool(index)
                        for item in page["Items"]
                    )
        return total

    def open() -> Any:
        return DynamoDocstore(db_client=client) if name == OURS else DynamoDb(db_client=client)

    def open_async() -> Any:
        return AsyncDynamoDocstore(endpoint_url=metered.address, **KEYS) if name == OURS else open()

    def direct() -> Any:
        return DynamoDocstore(endpoint_url=server.start(), **KEYS)

    return Side(name, tally, open, stored, open_async, direct)


def _firestore(name: str, server: Server, stack: ExitStack) -> Side:
    import grpc
    from agno.db.firestore import FirestoreDb
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import firestore

    from agno_docstores_firestore import AsyncFirestoreDocstore, FirestoreDocstore
    from agno_docstores_firestore.documents import document_size

    metered = Metered(server)
    stack.callback(metered.proxy.close)
    tally = Tally(metered.proxy.traffic)

    class Client(firestore.Client):  # type: ignore[misc]
        def _emulator_channel(self, transport: Any) -> Any:
            return grpc.intercept_channel(super()._emulator_channel(transport), FirestoreInterceptor(tally))

    project = f"t{uuid.uuid4().hex[:12]}"
    with mock.patch.dict(os.environ, {EMULATOR: metered.address}):
        client = Client(project=project, credentials=AnonymousCredentials())
    stack.callback(client.close)

    def stored() -> int:
        return sum(
            document_size(type(found).pb(found))
            for collection in client.collections()
            for answer in client._firestore_api.run_query(
                request={
                    "parent": client._database_string + "/documents",
                    "structured_query": {"from_": [{"collection_id": collection.id}]},
                },
                metadata=client._rpc_metadata,
            )
            if (found := answer.document)
        )

    kind: Any = FirestoreDocstore if name == OURS else FirestoreDb

    def open_async() -> Any:
        if name == AGNO:
            return kind(db_client=client)
        with mock.patch.dict(os.environ, {EMULATOR: metered.address}):
            return AsyncFirestoreDocstore(db_client=firestore.AsyncClient(project, AnonymousCredentials()))

    def direct() -> Any:
        with mock.patch.dict(os.environ, {EMULATOR: server.start()}):
            return FirestoreDocstore(db_client=firestore.Client(project=project, credentials=AnonymousCredentials()))

    return Side(name, tally, lambda: kind(db_client=client), stored, open_async, direct)

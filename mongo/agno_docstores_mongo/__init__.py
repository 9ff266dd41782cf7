"""Agno's database on MongoDB.

    from agno_docstores_mongo import MongoDocstore

    agent = Agent(db=MongoDocstore(db_url="mongodb://localhost:27017", db_name="agents"))

A collection for each table, natural fields, a standalone server is enough. Constructors do no I/O.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Unpack

from agno_docstores.facade import AsyncDocstore, Docstore, StorePlugin
from agno_docstores.io import AsyncIo, SyncIo
from agno_docstores.options import StoreOptions
from agno_docstores_mongo.clients import clients, settings
from agno_docstores_mongo.driver import MongoDriver
from agno_docstores_mongo.translation import translate


class MongoDocstore(Docstore):
    """Everything of an agent, team, workflow or AgentOS in one MongoDB database."""

    def __init__(
        self,
        db_client: Any = None,
        db_url: str | None = None,
        *,
        db_name: str = "agno",
        **options: Unpack[StoreOptions],
    ) -> None:
        """`db_client`: a `pymongo.MongoClient`, which stays the caller's to close. `db_url`: instead, a MongoDB URL;
        the client of it is made at the first use and closed by `close()`, gives up on finding a server after 5 s and on
        an answer after 30 s unless the URL says otherwise. `db_name`: the database; that of the URL is for
        authentication only. Raises `ValueError` unless one of the two is given, `TypeError` for an async client."""
        own, place = clients(db_client, db_url, db_name, asynchronous=False)
        super().__init__(
            lambda kinds, tables: MongoDriver(SyncIo(partial(translate, str(place))), kinds, tables, own, place),
            identity=place.identity,
            settings=settings(db_url, db_name),
            **options,
        )


class AsyncMongoDocstore(AsyncDocstore):
    """`MongoDocstore` for async agents."""

    def __init__(
        self,
        db_client: Any = None,
        db_url: str | None = None,
        *,
        db_name: str = "agno",
        **options: Unpack[StoreOptions],
    ) -> None:
        """As of `MongoDocstore`, but `db_client` is a `pymongo.AsyncMongoClient` or a Motor `AsyncIOMotorClient`. Of a
        `db_url`, each event loop gets a client of its own; `close()` closes them as far as their loops still run."""
        own, place = clients(db_client, db_url, db_name, asynchronous=True)
        super().__init__(
            lambda kinds, tables: MongoDriver(AsyncIo(partial(translate, str(place))), kinds, tables, own, place),
            identity=place.identity,
            settings=settings(db_url, db_name),
            blocking=partial(MongoDocstore, db_url=db_url, db_name=db_name) if db_url is not None else None,
            **options,
        )


STORE = StorePlugin("mongo", MongoDocstore, AsyncMongoDocstore)

__all__ = ["STORE", "AsyncMongoDocstore", "MongoDocstore"]

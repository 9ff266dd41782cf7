"""Storage for Agno agents, teams, workflows and AgentOS on Firestore (Native mode).

    from agno_docstores_firestore import AsyncFirestoreDocstore, FirestoreDocstore

    db = FirestoreDocstore(project_id="my-project")  # Application Default Credentials
    db = FirestoreDocstore(db_client=google.cloud.firestore.Client())  # stays yours: it is not closed

`FIRESTORE_EMULATOR_HOST` is honoured, as by every Firestore client.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Unpack

from google.cloud import firestore

from agno_docstores.facade import AsyncDocstore, Docstore, MakeDriver, Naming, StorePlugin
from agno_docstores.io import AsyncIo, Io, SyncIo
from agno_docstores.options import StoreOptions
from agno_docstores.port import Kind
from agno_docstores_firestore.clients import Clients
from agno_docstores_firestore.driver import FirestoreDriver

__all__ = ["STORE", "AsyncFirestoreDocstore", "FirestoreDocstore"]


class FirestoreDocstore(Docstore):
    """Agno storage on Firestore.

    `db_client`: a `google.cloud.firestore.Client`; or `project_id`, `database` and `credentials` to make one from,
    where what is not given comes from the environment (Application Default Credentials). `collection_prefix`: beginning
    of the names of collections that have no name of their own. `compress`: keep long values compressed; False leaves
    them readable in the console. The rest: `StoreOptions`.

    `id` says where the data lies: project, database, prefix, and emulator if there is one. A project that only the
    credentials found at run time tell is not part of it: name it (`project_id`, GOOGLE_CLOUD_PROJECT) to tell two
    apart.
    """

    def __init__(
        self,
        db_client: firestore.Client | None = None,
        *,
        project_id: str | None = None,
        database: str | None = None,
        credentials: Any | None = None,
        collection_prefix: str = "agno",
        compress: bool = True,
        **options: Unpack[StoreOptions],
    ) -> None:
        clients = Clients(firestore.Client, db_client, project_id, database, credentials)
        super().__init__(
            _driver(SyncIo(), clients, compress),
            identity=_identity(clients, collection_prefix),
            naming=_naming(collection_prefix),
            settings=_settings(clients, collection_prefix, compress),
            **options,
        )


class AsyncFirestoreDocstore(AsyncDocstore):
    """`FirestoreDocstore` for async agents. `db_client`: a `google.cloud.firestore.AsyncClient`, which serves the event
    loop that it is first used on; without one, each event loop gets a client of its own."""

    def __init__(
        self,
        db_client: firestore.AsyncClient | None = None,
        *,
        project_id: str | None = None,
        database: str | None = None,
        credentials: Any | None = None,
        collection_prefix: str = "agno",
        compress: bool = True,
        **options: Unpack[StoreOptions],
    ) -> None:
        clients = Clients(firestore.AsyncClient, db_client, project_id, database, credentials)
        blocking = partial(
            FirestoreDocstore,
            project_id=project_id,
            database=database,
            credentials=credentials,
            collection_prefix=collection_prefix,
            compress=compress,
        )
        super().__init__(
            _driver(AsyncIo(), clients, compress),
            identity=_identity(clients, collection_prefix),
            naming=_naming(collection_prefix),
            settings=_settings(clients, collection_prefix, compress),
            blocking=None if db_client is not None else blocking,
            **options,
        )


def _driver(io: Io, clients: Clients, compress: bool) -> MakeDriver:
    def make(kinds: Mapping[str, Kind], tables: Mapping[str, str]) -> FirestoreDriver:
        return FirestoreDriver(io, kinds, tables, clients, compress=compress)

    return make


def _identity(clients: Clients, prefix: str) -> tuple[str, ...]:
    place = clients.place
    return ("firestore", place.project, place.database, prefix, place.emulator)


def _naming(prefix: str) -> Naming:
    if not isinstance(prefix, str) or not prefix:
        raise ValueError(f"collection_prefix must be a non-empty str, not {prefix!r}")

    def name(table: str, custom: bool) -> str:
        return table if custom else f"{prefix}_{table.removeprefix('agno_')}"

    return name


def _settings(clients: Clients, prefix: str, compress: bool) -> dict[str, Any]:
    place = clients.place
    settings: dict[str, Any] = {
        "project_id": place.project or None,
        "database": place.database,
        "collection_prefix": prefix,
    }
    return settings if compress else {**settings, "compress": False}


STORE = StorePlugin("firestore", FirestoreDocstore, AsyncFirestoreDocstore)

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

    `listing_shards`: among how many ranges the indexes over all records, and those by a field of few values, are
    divided. Firestore takes some 500 writes a second at the end of one, which is what such a listing, newest first,
    bears without; each costs a query more for each page. `component_shards`: the same for the listings of one agent,
    team or workflow. Both may be raised at any time, never lowered.

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
        listing_shards: int = 1,
        component_shards: int = 1,
        **options: Unpack[StoreOptions],
    ) -> None:
        clients = Clients(firestore.Client, db_client, project_id, database, credentials)
        shards = {"listing_shards": listing_shards, "component_shards": component_shards}
        super().__init__(
            _driver(SyncIo(), clients, compress, shards),
            identity=_identity(clients, collection_prefix),
            naming=_naming(collection_prefix),
            settings=_settings(clients, collection_prefix, compress, shards),
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
        listing_shards: int = 1,
        component_shards: int = 1,
        **options: Unpack[StoreOptions],
    ) -> None:
        clients = Clients(firestore.AsyncClient, db_client, project_id, database, credentials)
        shards = {"listing_shards": listing_shards, "component_shards": component_shards}
        blocking = partial(
            FirestoreDocstore,
            project_id=project_id,
            database=database,
            credentials=credentials,
            collection_prefix=collection_prefix,
            compress=compress,
            listing_shards=listing_shards,
            component_shards=component_shards,
        )
        super().__init__(
            _driver(AsyncIo(), clients, compress, shards),
            identity=_identity(clients, collection_prefix),
            naming=_naming(collection_prefix),
            settings=_settings(clients, collection_prefix, compress, shards),
            blocking=None if db_client is not None else blocking,
            **options,
        )


def _driver(io: Io, clients: Clients, compress: bool, shards: Mapping[str, int]) -> MakeDriver:
    def make(kinds: Mapping[str, Kind], tables: Mapping[str, str]) -> FirestoreDriver:
        return FirestoreDriver(io, kinds, tables, clients, compress=compress, **shards)

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


def _settings(clients: Clients, prefix: str, compress: bool, shards: Mapping[str, int]) -> dict[str, Any]:
    place = clients.place
    settings: dict[str, Any] = {
        "project_id": place.project or None,
        "database": place.database,
        "collection_prefix": prefix,
    }
    if not compress:
        settings["compress"] = False
    return {**settings, **shards}  # the usual ones, too: another version may have others, and would miss records


STORE = StorePlugin("firestore", FirestoreDocstore, AsyncFirestoreDocstore)

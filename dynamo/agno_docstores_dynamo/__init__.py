"""agno-docstores on DynamoDB.

    from agno_docstores_dynamo import DynamoDocstore, AsyncDynamoDocstore

    agent = Agent(db=DynamoDocstore())  # region and credentials as the AWS SDK finds them

Everything lies in one table, `table_name`, billed on demand and created at the first write (`provision=False`: by you).
A table-name argument of Agno's (`session_table=` ...) moves that kind of record to a table of its own.

Settings of this store, besides those of every docstore:

- `compress`: bodies over 1 KB are stored compressed. False keeps them readable in the console, and costs write units.
- `consistent_reads`: strongly consistent reads wherever DynamoDB has them. False halves the price of reading, and lets
  an agent miss the turn just saved; what is written stays correct.
- `listing_shards`: partitions over which the indexes of all sessions are spread, 2 unless something else is said; that
  of all sessions by `created_at`, which is written once for a session, over half as many. Each takes some 500 turns a
  second, and costs one request more for each page of an unfiltered listing. It may be raised, never lowered, and by all
  processes at once: one that knows of fewer does not see what lies in the others.
- `component_shards`: the same for the listing of one agent's, team's or workflow's sessions, 1 unless something else is
  said. One component takes some 500 turns a second for each. It may be raised at any time, never lowered.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

from agno_docstores.facade import AsyncDocstore, Docstore, Naming, StorePlugin
from agno_docstores.io import AsyncIo, Io, SyncIo, ThreadIo
from agno_docstores.options import StoreOptions
from agno_docstores.port import Driver, Kind
from agno_docstores_dynamo.connection import (
    Blocking,
    Connection,
    Given,
    Location,
    PerLoop,
    Settings,
    async_client_installed,
    is_async,
    resends,
)
from agno_docstores_dynamo.driver import COMPONENT_SHARDS, LISTING_SHARDS, DynamoDriver
from agno_docstores_dynamo.translate import Translator

if TYPE_CHECKING:
    from botocore.config import Config

__all__ = ["STORE", "AsyncDynamoDocstore", "DynamoDocstore"]


class DynamoDocstore(Docstore):
    """Storage for Agno agents, teams and workflows on DynamoDB."""

    def __init__(
        self,
        db_client: Any | None = None,
        *,
        region_name: str | None = None,
        endpoint_url: str | None = None,
        profile_name: str | None = None,
        aws_access_key_id: str | None = None,
        aws_secret_access_key: str | None = None,
        aws_session_token: str | None = None,
        config: Config | None = None,
        table_name: str = "agno",
        compress: bool = True,
        consistent_reads: bool = True,
        listing_shards: int = LISTING_SHARDS,
        component_shards: int = COMPONENT_SHARDS,
        **options: Unpack[StoreOptions],
    ) -> None:
        """`db_client`: a boto3 client of DynamoDB, which stays yours. Or the arguments of one; or neither: the SDK's
        own chain of credentials and region. Makes no request and no client."""
        self._connect = Settings(
            region_name,
            endpoint_url,
            profile_name,
            aws_access_key_id,
            aws_secret_access_key,
            aws_session_token,
            config,
        )
        _check(db_client, self._connect, table_name)
        if db_client is not None and is_async(db_client):
            raise TypeError("DynamoDocstore takes a boto3 client; an aiobotocore client belongs to AsyncDynamoDocstore")
        location = Location.of(self._connect, db_client)
        translate = Translator(location.address, resends=resends(self._connect, db_client))
        io = SyncIo(translate)
        connection: Connection = (
            Given(db_client) if db_client is not None else Blocking(self._connect, translate, in_worker=False)
        )
        shards = {"listing_shards": listing_shards, "component_shards": component_shards}
        super().__init__(
            partial(_driver, io, connection, location, table_name, compress, consistent_reads, shards),
            identity=("dynamo", table_name, location.identity),
            naming=_naming(table_name),
            settings=_settings(self._connect, location, table_name, compress, consistent_reads, shards),
            **options,
        )


class AsyncDynamoDocstore(AsyncDocstore):
    """`DynamoDocstore` for async agents: on aiobotocore where it is installed, else on boto3 in worker threads."""

    def __init__(
        self,
        db_client: Any | None = None,
        *,
        region_name: str | None = None,
        endpoint_url: str | None = None,
        profile_name: str | None = None,
        aws_access_key_id: str | None = None,
        aws_secret_access_key: str | None = None,
        aws_session_token: str | None = None,
        config: Config | None = None,
        table_name: str = "agno",
        compress: bool = True,
        consistent_reads: bool = True,
        listing_shards: int = LISTING_SHARDS,
        component_shards: int = COMPONENT_SHARDS,
        **options: Unpack[StoreOptions],
    ) -> None:
        """`db_client`: a client of aiobotocore (for the event loop that it was made on) or of boto3 (for any), which
        stays yours. Otherwise as `DynamoDocstore`."""
        self._connect = Settings(
            region_name,
            endpoint_url,
            profile_name,
            aws_access_key_id,
            aws_secret_access_key,
            aws_session_token,
            config,
        )
        _check(db_client, self._connect, table_name)
        location = Location.of(self._connect, db_client)
        translate = Translator(location.address, resends=resends(self._connect, db_client))
        native = is_async(db_client) if db_client is not None else async_client_installed()
        io = AsyncIo(translate) if native else ThreadIo(translate)
        connection: Connection
        if db_client is not None:
            connection = Given(db_client)
        elif native:
            connection = PerLoop(self._connect, translate, io.loop_key)
        else:
            connection = Blocking(self._connect, translate, in_worker=True)
        shards = {"listing_shards": listing_shards, "component_shards": component_shards}
        connected = {name: getattr(self._connect, name) for name in self._connect.given()}
        if db_client is not None:
            connected["db_client"] = db_client
        kept: dict[str, Any] = {"compress": compress, "consistent_reads": consistent_reads, **shards}
        blocking = partial(DynamoDocstore, table_name=table_name, **connected, **kept)
        super().__init__(
            partial(_driver, io, connection, location, table_name, compress, consistent_reads, shards),
            identity=("dynamo", table_name, location.identity),
            naming=_naming(table_name),
            settings=_settings(self._connect, location, table_name, compress, consistent_reads, shards),
            blocking=None if db_client is not None and native else blocking,
            **options,
        )


def _check(db_client: Any | None, connect: Settings, table_name: str) -> None:
    if not isinstance(table_name, str) or not table_name:
        raise ValueError(f"table_name must be a non-empty str, not {table_name!r}")
    if db_client is None:
        return
    if connect.given():
        raise ValueError(f"give either db_client or {', '.join(connect.given())}, not both")
    if not hasattr(db_client, "transact_write_items"):
        raise TypeError(f"db_client must be a DynamoDB client, not {type(db_client).__name__}")


def _driver(
    io: Io,
    connection: Connection,
    location: Location,
    table_name: str,
    compress: bool,
    consistent_reads: bool,
    shards: Mapping[str, int],
    kinds: Mapping[str, Kind],
    tables: Mapping[str, str],
) -> Driver:
    return DynamoDriver(
        io,
        kinds,
        tables,
        connection,
        location.address,
        _command(location, table_name),
        compress=compress,
        consistent_reads=consistent_reads,
        **shards,
    )


def _command(location: Location, table_name: str) -> str:
    """How an operator creates the tables."""
    options = {"region-name": location.region, "endpoint-url": location.endpoint, "table-name": table_name}
    given = [f"--{name} {shlex.quote(value)}" for name, value in options.items() if value is not None]
    return " ".join(["agno-docstores provision dynamo", *given])


def _naming(table_name: str) -> Naming:
    return lambda name, custom: name if custom else table_name


def _settings(
    connect: Settings,
    location: Location,
    table_name: str,
    compress: bool,
    consistent_reads: bool,
    shards: Mapping[str, int],
) -> dict[str, Any]:
    """What `to_dict` tells: where the data lies and how it is kept, never by which keys it is reached."""
    settings: dict[str, Any] = {"table_name": table_name}
    optional = {
        "region_name": location.region,
        "endpoint_url": location.endpoint,
        "profile_name": connect.profile_name,
    }
    settings.update({name: value for name, value in optional.items() if value is not None})
    if not compress:
        settings["compress"] = False
    if not consistent_reads:
        settings["consistent_reads"] = False
    return {**settings, **shards}  # the usual ones, too: another version may have others, and would miss records


STORE = StorePlugin("dynamo", DynamoDocstore, AsyncDynamoDocstore)

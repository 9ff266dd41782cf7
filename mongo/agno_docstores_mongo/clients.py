"""Clients: where they lead, which of them is ours, and which belongs to which event loop.

Invariants: nothing here does I/O before `Clients.current`; a client that was handed in is never closed; a client that
we make belongs to the loop it was made on, and is closed or dropped with it. No text made here holds a credential.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode

from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo import AsyncMongoClient, MongoClient, ReadPreference
from pymongo.driver_info import DriverInfo
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.uri_parser import parse_uri, split_hosts
from pymongo.write_concern import WriteConcern

SELECTION_MS = 5_000  # to find a server
SOCKET_MS = 30_000  # to get an answer from one
WTIMEOUT_MS = 20_000  # for a majority to confirm a write

#: What `to_dict` keeps of a URL's options. None of them can hold a secret; an option not listed may.
_OPEN_OPTIONS = frozenset({
    "appname", "compressors", "connecttimeoutms", "directconnection", "heartbeatfrequencyms", "journal", "loadbalanced",
    "localthresholdms", "maxconnecting", "maxidletimems", "maxpoolsize", "minpoolsize", "readconcernlevel",
    "readpreference", "replicaset", "retryreads", "retrywrites", "serverselectiontimeoutms", "sockettimeoutms",
    "srvmaxhosts", "srvservicename", "ssl", "timeoutms", "tls", "tlsallowinvalidcertificates",
    "tlsallowinvalidhostnames", "tlscafile", "tlsinsecure", "w", "waitqueuetimeoutms", "wtimeoutms",
    "zlibcompressionlevel",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Place:
    """Where data lies: the hosts that a client was told, and the database; the same for a URL and a client of it."""

    hosts: tuple[str, ...]
    db_name: str

    def __str__(self) -> str:
        return f"{','.join(self.hosts)}/{self.db_name}"

    @property
    def url(self) -> str:
        """A URL to these hosts, without credentials; a name without port is one of DNS's service records."""
        service = len(self.hosts) == 1 and ":" not in self.hosts[0] and not self.hosts[0].startswith("/")
        return f"{'mongodb+srv' if service else 'mongodb'}://{','.join(self.hosts)}"

    @property
    def identity(self) -> tuple[str, ...]:
        return ("mongo", *self.hosts, self.db_name)


@dataclass(frozen=True, slots=True)
class Connection:
    """A client with its database set up as we need it. `mock`: mongomock, which cannot do everything."""

    client: Any
    database: Any
    mock: bool = False

    @classmethod
    def of(cls, client: Any, db_name: str) -> Connection:
        """Reads from the primary, writes confirmed by a majority, and BSON decoded in one way, whatever the client's
        own settings say; where those ask for more, they stand."""
        if _from(client, "mongomock"):
            return cls(client, client[db_name], mock=True)
        level = client.read_concern.level
        database = client.get_database(
            db_name,
            codec_options=CodecOptions(
                document_class=dict, tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_AUTO
            ),
            read_preference=ReadPreference.PRIMARY,
            write_concern=_confirmed(client.write_concern),
            read_concern=ReadConcern(level if level in ("majority", "linearizable") else "local"),
        )
        return cls(client, database)


def _confirmed(own: Any) -> WriteConcern:
    """At least a majority (which a standalone server takes as one), within a bounded time."""
    asked = own.document
    weak = asked.get("w") in (None, 0, 1)
    return WriteConcern(
        w="majority" if weak else asked["w"],
        wtimeout=asked.get("wtimeout") or WTIMEOUT_MS,
        j=asked.get("j"),
    )


class Clients(ABC):
    """The connection of whoever asks, now."""

    @abstractmethod
    def current(self) -> Connection: ...

    @abstractmethod
    async def close(self) -> None:
        """Close what is ours. `current` makes it anew."""


class Given(Clients):
    """A client that was handed in."""

    def __init__(self, client: Any, db_name: str) -> None:
        self._connection = Connection.of(client, db_name)

    def current(self) -> Connection:
        return self._connection

    async def close(self) -> None:
        pass


class Own(Clients):
    """One blocking client, made when first needed; PyMongo's serves all threads."""

    def __init__(self, make: Callable[[], Any], db_name: str) -> None:
        self._make = make
        self._db_name = db_name
        self._lock = threading.Lock()
        self._connection: Connection | None = None

    def current(self) -> Connection:
        connection = self._connection
        if connection is None:
            with self._lock:
                connection = self._connection
                if connection is None:
                    connection = self._connection = Connection.of(self._make(), self._db_name)
        return connection

    async def close(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.client.close()


class OwnByLoop(Clients):
    """One async client for each event loop.

    A slot holds its loop, so that the loop's `id` is not given to another one as long as the slot is there; slots of
    closed loops are dropped at the next look for a new one, their sockets with them.
    """

    def __init__(self, make: Callable[[], Any], db_name: str) -> None:
        self._make = make
        self._db_name = db_name
        self._lock = threading.Lock()
        self._slots: dict[int, tuple[asyncio.AbstractEventLoop, Connection]] = {}

    def current(self) -> Connection:
        loop = asyncio.get_running_loop()
        slot = self._slots.get(id(loop))
        if slot is not None and slot[0] is loop:
            return slot[1]
        with self._lock:
            self._slots = {key: slot for key, slot in self._slots.items() if not slot[0].is_closed()}
            connection = Connection.of(self._make(), self._db_name)
            self._slots[id(loop)] = (loop, connection)
        return connection

    async def close(self) -> None:
        here = asyncio.get_running_loop()
        with self._lock:
            slots, self._slots = list(self._slots.values()), {}
        for loop, connection in slots:
            if loop is here:
                await connection.client.close()
            elif loop.is_running():
                # Another thread's loop: it closes its client itself, as soon as it comes to it.
                asyncio.run_coroutine_threadsafe(connection.client.close(), loop)


def clients(db_client: Any, db_url: str | None, db_name: str, *, asynchronous: bool) -> tuple[Clients, Place]:
    """The clients of a docstore's arguments, and where they lead. No I/O. Raises `ValueError`, `TypeError`."""
    owner = "AsyncMongoDocstore" if asynchronous else "MongoDocstore"
    if not isinstance(db_name, str) or not db_name:
        raise ValueError(f"db_name must be a non-empty str, not {db_name!r}")
    if (db_client is None) == (db_url is None):
        given = "both were given" if db_url is not None else "neither was given"
        raise ValueError(f"{owner} takes either db_client or db_url (such as 'mongodb://localhost:27017'); {given}")
    if db_url is None:
        _check_client(db_client, owner, asynchronous)
        return Given(db_client, db_name), Place(_hosts_of_client(db_client), db_name)
    place = Place(_hosts_of_url(db_url), db_name)
    kind: Any = AsyncMongoClient if asynchronous else MongoClient

    def make() -> Any:
        return kind(db_url, **_defaults(db_url))

    return (OwnByLoop if asynchronous else Own)(make, db_name), place


def settings(db_url: str | None, db_name: str) -> Mapping[str, str]:
    """What `to_dict` says of the connection: enough to reach the same data, given credentials; no secret."""
    return {"db_name": db_name} if db_url is None else {"db_name": db_name, "db_url": _without_secrets(db_url)}


def _check_client(client: Any, owner: str, asynchronous: bool) -> None:
    is_async = isinstance(client, AsyncMongoClient) or _from(client, "motor", "mongomock_motor")
    is_sync = isinstance(client, MongoClient) or _from(client, "mongomock")
    if is_async if asynchronous else is_sync:
        return
    wanted = "pymongo.AsyncMongoClient or a Motor AsyncIOMotorClient" if asynchronous else "pymongo.MongoClient"
    other = "MongoDocstore" if asynchronous else "AsyncMongoDocstore"
    hint = f"; {other} takes this one" if is_async or is_sync else ""
    raise TypeError(f"db_client of {owner} must be a {wanted}, not a {type(client).__name__}{hint}")


def _from(client: Any, *packages: str) -> bool:
    """Whether the client's class is of one of these packages, which need not be installed."""
    return any(cls.__module__.partition(".")[0] in packages for cls in type(client).__mro__)


def _defaults(url: str) -> dict[str, Any]:
    """Client options that the URL leaves open: nothing waits for ever for a server that is not there."""
    given = {name.lower() for name, _ in _options(url)}
    options: dict[str, Any] = {"driver": DriverInfo("agno-docstores")}
    if "serverselectiontimeoutms" not in given:
        options["serverSelectionTimeoutMS"] = SELECTION_MS
    if not given & {"sockettimeoutms", "timeoutms"}:
        options["socketTimeoutMS"] = SOCKET_MS
    if "appname" not in given:
        options["appname"] = "agno-docstores"
    return options


# --- URLs and addresses -----------------------------------------------------------------------------------------------


def _split(url: str) -> tuple[str, str, str, str]:
    """Scheme, hosts, path and query of a URL, its userinfo left out."""
    scheme, _, rest = url.partition("://")
    before, _, query = rest.partition("?")
    authority, _, path = before.partition("/")
    return scheme, authority.rpartition("@")[2], path, query


def _options(url: str) -> list[tuple[str, str]]:
    return parse_qsl(_split(url)[3].replace(";", "&"), keep_blank_values=True)


def _hosts_of_url(url: str) -> tuple[str, ...]:
    """The hosts of a URL; of one that names a DNS record, that name. Raises `ValueError`, which tells nothing of it."""
    complaint = "db_url is not a valid MongoDB URL (user and password have to be percent-encoded)"
    if not isinstance(url, str):
        raise ValueError(complaint)
    scheme, hosts, _, _ = _split(url)
    try:
        if scheme == "mongodb+srv":
            nodes = split_hosts(hosts, default_port=None)  # what it stands for is asked of DNS later
        else:
            # Without the options, some of which name files that would be looked at.
            nodes = parse_uri(url.partition("?")[0])["nodelist"]
    except (PyMongoError, ValueError) as error:
        raise ValueError(f"{complaint}: {type(error).__name__}") from None
    return _named(nodes)


def _hosts_of_client(client: Any) -> tuple[str, ...]:
    """The hosts that a client was told, as far as it says so without I/O."""
    if _from(client, "mongomock"):
        return _named([(client.host, client.port)])
    if _from(client, "motor", "mongomock_motor"):
        client = client.delegate
    topology = getattr(client, "_topology_settings", None)
    record = getattr(topology, "fqdn", None) or getattr(client, "_resolve_srv_info", {}).get("fqdn")
    if record:
        return _named([(record, None)])
    return _named(getattr(topology, "seeds", None) or getattr(client, "_seeds", None) or [("unknown", None)])


def _named(nodes: Any) -> tuple[str, ...]:
    return tuple(sorted(host if port is None else f"{_bracketed(host)}:{port}" for host, port in nodes))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _without_secrets(url: str) -> str:
    """The URL without user and password, and with only those options that cannot hold a secret."""
    scheme, hosts, path, _ = _split(url)
    options = [(name, value) for name, value in _options(url) if name.lower() in _OPEN_OPTIONS]
    return f"{scheme}://{hosts}/{path}" + (f"?{urlencode(options)}" if options else "")

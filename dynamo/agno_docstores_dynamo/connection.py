"""Where the client comes from: handed in, or made from settings at the first request.

Invariants: nothing is made, and no file or address looked at, before the first request (but for the region's name); a
client that was handed in is never closed; an async client belongs to the event loop that it was made on and never
serves another. Credentials are the SDK's business: they are passed on, and neither kept elsewhere nor shown.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from typing import Any, Protocol
from urllib.parse import urlsplit

import botocore.loaders
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from botocore.session import Session

from agno_docstores_dynamo.translate import Translator

#: Bounded waiting, and a pool that does not make threads queue. What a user's own `config` says wins.
DEFAULTS: dict[str, Any] = {
    "connect_timeout": 5,
    "read_timeout": 10,
    # The kernel tries again: it knows by the token of a commit whether an earlier delivery took effect, and the SDK
    # tells nobody that there was one.
    "retries": {"mode": "standard", "total_max_attempts": 1},
    "max_pool_connections": 64,
}
CLOSING = 5  # seconds that the client of another event loop is given to close


@dataclass(frozen=True, slots=True)
class Settings:
    """The connection arguments of a docstore."""

    region_name: str | None = None
    endpoint_url: str | None = field(default=None, repr=False)  # it may hold a user and password
    profile_name: str | None = None
    aws_access_key_id: str | None = field(default=None, repr=False)
    aws_secret_access_key: str | None = field(default=None, repr=False)
    aws_session_token: str | None = field(default=None, repr=False)
    config: Config | None = None

    def given(self) -> list[str]:
        return [entry.name for entry in fields(self) if getattr(self, entry.name) is not None]

    def client_arguments(self) -> dict[str, Any]:
        names = ("region_name", "endpoint_url", "aws_access_key_id", "aws_secret_access_key", "aws_session_token")
        arguments = {name: value for name in names if (value := getattr(self, name)) is not None}
        if self.endpoint_url is not None:
            # DynamoDB knows signatures only, and aiohttp refuses to send one beside a user and password.
            parts = urlsplit(self.endpoint_url)
            arguments["endpoint_url"] = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        return arguments


@dataclass(frozen=True, slots=True)
class Location:
    """Where the data lies: an AWS region, or an endpoint of its own (without credentials)."""

    region: str | None
    endpoint: str | None

    @classmethod
    def of(cls, settings: Settings, client: Any | None) -> Location:
        if client is not None:
            return cls._at(client.meta.region_name, client.meta.endpoint_url)
        region = settings.region_name
        if region is None:
            try:
                region = botocore.session.Session(profile=settings.profile_name).get_config_variable("region")
            except BotoCoreError:  # no such profile: the first request says so
                region = None
            region = region or os.environ.get("AWS_REGION")
        return cls._at(region, settings.endpoint_url or _endpoint_from_environment())

    @classmethod
    def _at(cls, region: str | None, endpoint: str | None) -> Location:
        if endpoint is None:
            return cls(region, None)
        parts = urlsplit(endpoint)
        host = (parts.hostname or "").lower()
        if host == f"dynamodb.{region}.amazonaws.com":
            return cls(region, None)
        port = f":{parts.port}" if parts.port else ""
        return cls(region, f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}{parts.path.rstrip('/')}")

    @property
    def identity(self) -> str:
        return self.endpoint or self.region or "no region"

    @property
    def address(self) -> str:
        """Host and port, or the region's endpoint."""
        return urlsplit(self.endpoint).netloc if self.endpoint else f"dynamodb.{self.region or 'no-region'}"


def _endpoint_from_environment() -> str | None:
    if os.environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        return None
    return os.environ.get("AWS_ENDPOINT_URL_DYNAMODB") or os.environ.get("AWS_ENDPOINT_URL") or None


def resends(settings: Settings, client: Any | None) -> bool:
    """Whether the client sends a request again by itself."""
    config = client.meta.config if client is not None else settings.config
    retries = getattr(config, "retries", None)
    if not retries:
        return client is not None  # the SDK's own default is up to ten times
    total = retries.get("total_max_attempts", retries.get("max_attempts", 1) + 1)
    return bool(total > 1)


def is_async(client: Any) -> bool:
    """Whether this is a client of aiobotocore rather than of boto3."""
    return inspect.iscoroutinefunction(getattr(type(client), "_make_api_call", None))


def async_client_installed() -> bool:
    return find_spec("aiobotocore") is not None


def _described(session: Session) -> Session:
    """A session that reads the description of the service once a process: most of the time that a client takes to be
    made, which is made for each handle, and each event loop."""
    session.register_component("data_loader", _descriptions(session.get_config_variable("data_path")))
    return session


_descriptions = functools.cache(botocore.loaders.create_loader)


class Connection(Protocol):
    async def client(self) -> Any:
        """The client for the running event loop; made now if there is none yet."""

    async def close(self) -> None:
        """Close what was made here. The next request makes it anew."""


class Given:
    """A client that was handed in."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def client(self) -> Any:
        return self._client

    async def close(self) -> None:
        pass


class Blocking:
    """One boto3 client for all threads. `in_worker`: made in a worker thread, because making it reads files."""

    def __init__(self, settings: Settings, translate: Translator, *, in_worker: bool) -> None:
        self._settings = settings
        self._translate = translate
        self._in_worker = in_worker
        self._lock = threading.Lock()
        self._client: Any = None

    async def client(self) -> Any:
        if self._client is not None:
            return self._client
        return await asyncio.to_thread(self._make) if self._in_worker else self._make()

    async def close(self) -> None:
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _make(self) -> Any:
        with self._lock:
            if self._client is None:
                settings = self._settings
                try:
                    # A session of its own: boto3's default one is shared, and not safe to be used from threads.
                    session = _described(botocore.session.Session(profile=settings.profile_name))
                    config = Config(**DEFAULTS)
                    if settings.config is not None:
                        config = config.merge(settings.config)
                    self._client = session.create_client("dynamodb", config=config, **settings.client_arguments())
                except BotoCoreError as error:
                    raise self._translate("connect", error) or error from error
            return self._client


@dataclass(slots=True)
class Slot:
    """The client of one event loop. It holds the loop, so that no other loop can get the same `id` while it is here."""

    loop: asyncio.AbstractEventLoop
    lock: asyncio.Lock
    client: Any = None
    context: Any = None


class PerLoop:
    """One aiobotocore client per event loop."""

    def __init__(self, settings: Settings, translate: Translator, loop_key: Callable[[], int]) -> None:
        self._settings = settings
        self._translate = translate
        self._loop_key = loop_key
        self._guard = threading.Lock()
        self._slots: dict[int, Slot] = {}

    async def client(self) -> Any:
        key = self._loop_key()
        slot = self._slots.get(key)
        if slot is not None and slot.client is not None:
            return slot.client
        with self._guard:
            # Of a loop that was closed nothing can be closed any more.
            for stale in [key for key, slot in self._slots.items() if slot.loop.is_closed()]:
                del self._slots[stale]
            slot = self._slots.setdefault(key, Slot(asyncio.get_running_loop(), asyncio.Lock()))
        async with slot.lock:
            if slot.client is None:
                try:
                    context = self._context()
                    slot.client, slot.context = await context.__aenter__(), context
                except BotoCoreError as error:
                    raise self._translate("connect", error) or error from error
            return slot.client

    async def close(self) -> None:
        with self._guard:
            slots, self._slots = list(self._slots.values()), {}
        here = asyncio.get_running_loop()
        for slot in slots:
            if slot.context is None or slot.loop.is_closed():
                continue
            if slot.loop is here:
                await slot.context.__aexit__(None, None, None)
            elif slot.loop.is_running():
                ending = asyncio.run_coroutine_threadsafe(slot.context.__aexit__(None, None, None), slot.loop)
                await asyncio.wait([asyncio.wrap_future(ending)], timeout=CLOSING)

    def _context(self) -> Any:
        from aiobotocore.config import AioConfig
        from aiobotocore.session import AioSession

        settings = self._settings
        own = getattr(settings.config, "connector_args", None)
        config = AioConfig(connector_args=own, **DEFAULTS) if own else AioConfig(**DEFAULTS)
        if settings.config is not None:
            config = config.merge(settings.config)  # type: ignore[arg-type]  # it takes any Config
        session = _described(AioSession(profile=settings.profile_name))
        return session.create_client("dynamodb", config=config, **settings.client_arguments())

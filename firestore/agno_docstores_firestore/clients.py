"""The Firestore client of a store: the one that was handed in, or one made here on first use.

Invariants: no client is made before it is needed, because making one may look for credentials on the network; a client
that was handed in is never closed; a client made here serves one event loop (channels of grpc.aio belong to the loop
that they were made on), and is closed with the store, or dropped once its loop is gone.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from google.cloud import firestore

EMULATOR_HOST: Final = "FIRESTORE_EMULATOR_HOST"
DEFAULT_DATABASE: Final = "(default)"
_EMULATOR_PROJECT: Final = "google-cloud-firestore-emulator"  # the SDK's own choice, where nothing names another


@dataclass(frozen=True, slots=True)
class Place:
    """Where the data lies, as far as that is known without the network. `project` is empty where only the credentials
    that will be found tell it; `emulator` is the address of an emulator, or empty."""

    project: str
    database: str
    emulator: str

    def __str__(self) -> str:
        host = self.emulator or "firestore.googleapis.com"
        return f"{host}/projects/{self.project or '(of the credentials)'}/databases/{self.database}"


@dataclass(frozen=True, slots=True)
class _Slot:
    # The loop is held so that no other gets its identity while the client is here.
    loop: asyncio.AbstractEventLoop | None
    client: Any


class Clients:
    """The clients of one store. `kind`: `firestore.Client`, or `firestore.AsyncClient` for one client a loop."""

    def __init__(
        self,
        kind: type[Any],
        db_client: Any | None,
        project_id: str | None,
        database: str | None,
        credentials: Any | None,
    ) -> None:
        self._per_loop = kind is firestore.AsyncClient
        self._given = db_client
        self._slots: dict[int, _Slot] = {}
        if db_client is not None:
            if not isinstance(db_client, kind):
                raise TypeError(f"db_client must be a google.cloud.firestore.{kind.__name__}, not {type(db_client)!r}")
            if project_id is not None or database is not None or credentials is not None:
                raise ValueError("give either db_client, or project_id, database and credentials; not both")
            self.place = Place(db_client.project, db_client._database, db_client._emulator_host or "")
            return
        emulator = os.getenv(EMULATOR_HOST, "")
        project = (
            project_id
            or getattr(credentials, "project_id", None)
            or os.getenv("GOOGLE_CLOUD_PROJECT")
            or os.getenv("GCLOUD_PROJECT")
            or (_EMULATOR_PROJECT if emulator else "")
        )
        self.place = Place(project, database or DEFAULT_DATABASE, emulator)
        self._make: Callable[[], Any] = lambda: kind(
            project=self.place.project or None, database=self.place.database, credentials=credentials
        )

    def current(self) -> Any:
        """The client for the event loop that runs, made if there is none."""
        if self._given is not None:
            return self._given
        loop = asyncio.get_running_loop() if self._per_loop else None
        slot = self._slots.get(id(loop))
        if slot is None:
            for key, other in list(self._slots.items()):
                if other.loop is not None and other.loop.is_closed():
                    self._slots.pop(key, None)
            client = self._make()
            client._firestore_api  # noqa: B018 - makes the channel now, before two threads could make one each
            # Of two threads that came here at once, both use the client that is first in its place.
            slot = self._slots.setdefault(id(loop), _Slot(loop, client))
            if slot.client is not client:
                client._firestore_api.transport.close()
        return slot.client

    async def close(self) -> None:
        """Close what was made here, on every loop that still runs; afterwards `current` starts anew."""
        while self._slots:
            _, slot = self._slots.popitem()
            closing = slot.client._firestore_api.transport.close
            if slot.loop is None:
                closing()
            elif slot.loop is asyncio.get_running_loop():
                await closing()
            elif slot.loop.is_running():
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(closing(), slot.loop))

    @property
    def drain(self) -> Callable[..., Any]:
        """Call a method that answers with a stream, and collect the stream."""
        return _collect_async if self._per_loop else _collect


def _collect(method: Callable[..., Any], **arguments: Any) -> list[Any]:
    return list(method(**arguments))


async def _collect_async(method: Callable[..., Any], **arguments: Any) -> list[Any]:
    return [answer async for answer in await method(**arguments)]

"""What goes over the wire, counted outside the code under test: a loopback proxy between a client and its server."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from agno_docstores.conformance.plugin import Awaitable
from tests.harness import Cell


@dataclass
class Traffic:
    """Bytes since the last `reset`: `up` towards the server, `down` from it."""

    up: int = 0
    down: int = 0

    @property
    def total(self) -> int:
        return self.up + self.down

    def reset(self) -> None:
        self.up = self.down = 0


class Proxy:
    """Forwards TCP connections to an address and counts their bytes."""

    def __init__(self, host: str, port: int) -> None:
        self.traffic = Traffic()
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: set[socket.socket] = set()
        self._refusing = False
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            if self._refusing:
                client.close()
                continue
            server = socket.create_connection(self._target)
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets |= {client, server}
            threading.Thread(target=self._pump, args=(client, server, "up"), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, "down"), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, direction: str) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                setattr(self.traffic, direction, getattr(self.traffic, direction) + len(chunk))
                sink.sendall(chunk)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Break all connections, whatever is under way on them, and take no others until `mend`."""
        self._refusing = True
        for end in list(self._sockets):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self._refusing = False

    def close(self) -> None:
        self._listener.close()
        for end in self._sockets:
            end.close()


class Metered:
    """A server of the matrix, reached through a proxy."""

    def __init__(self, server: Any) -> None:
        self._server = server
        address = server.start()
        found = re.search(r"([\w.]+):(\d+)", address.partition("://")[2] or address)
        assert found, address
        self.proxy = Proxy(found[1], int(found[2]))
        self.address = address.replace(found[0], f"127.0.0.1:{self.proxy.port}")
        if address.startswith("mongodb://"):
            # The server names its own address to clients that ask; this one is to stay with the proxy.
            self.address += "/?directConnection=true"

    def start(self) -> str:
        return self.address

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)


@contextlib.contextmanager
def metered(cell: Cell, monkeypatch: Any) -> Iterator[tuple[Cell, Traffic]]:
    """The cell as reached through a proxy, and what passes it."""
    server = Metered(cell.server)
    if cell.store == "firestore":
        monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", server.address)
    try:
        yield replace(cell, server=server), server.proxy.traffic  # type: ignore[arg-type]
    finally:
        server.proxy.close()


# Each store on the strictest server, both modes among them: the requests are the same ones in either.
ON_THE_WIRE = pytest.mark.cells(
    "mongo-async-secantus", "dynamo-sync-local", "firestore-sync-google", "firestore-sync-embedded"
)
KB = 1024
_TEXT = (
    "the of and to in is that it was for on are with as his they be at one have this from or had by hot word but what "
    "some we can out other were all there when up use your how said an each she which do their time if will way about "
    "many then them write would like so these her long make thing see him two has look more day could go come did "
    "number sound no most people my over know water than call first who may down side been now find any new work part"
)
_WORDS = _TEXT.split()


def prose(size: int, seed: int) -> str:
    """English-like text of so many characters, so that it compresses as text does."""
    chooser = random.Random(seed)
    words: list[str] = []
    length = 0
    while length < size:
        word = chooser.choice(_WORDS)
        if chooser.random() < 0.15:  # names and numbers, which a compressor has to spell out
            word = "".join(chooser.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=chooser.randint(4, 9)))
        words.append(word)
        length += len(word) + 1
    return " ".join(words)[:size]


@dataclass
class Cost:
    requests: int
    up: int
    down: int
    records: int

    @property
    def bytes(self) -> int:
        return self.up + self.down


class Meter:
    """Measures what happens on one handle between `start` and `stop`."""

    def __init__(self, db: Awaitable, traffic: Traffic) -> None:
        self.db = db
        self.traffic = traffic
        self.records = 0
        driver = db.raw._engine.driver
        for name in ("scan", "get", "get_many"):
            setattr(driver, name, self._counting(getattr(driver, name)))

    def _counting(self, method: Callable[..., Any]) -> Callable[..., Any]:
        async def counted(*args: Any) -> Any:
            answer = await method(*args)
            found = answer.records if hasattr(answer, "records") else answer if isinstance(answer, list) else [answer]
            self.records += sum(record is not None for record in found)
            return answer

        return counted

    def start(self) -> None:
        time.sleep(0.05)  # what is still under way of the call before
        self.traffic.reset()
        self.records = 0
        self._calls = self.db.io.calls.total()

    def stop(self) -> Cost:
        time.sleep(0.05)
        return Cost(self.db.io.calls.total() - self._calls, self.traffic.up, self.traffic.down, self.records)

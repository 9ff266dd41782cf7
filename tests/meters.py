"""What goes over the wire, counted outside the code under test: a loopback proxy between a client and its server."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

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
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
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

"""A relay that makes a server as far away as a network would."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import sqlalchemy as sa


@contextmanager
def far(url: str, round_trip_ms: float) -> Iterator[str]:
    """Yield the URL by which a server's answers take so much longer."""
    there = sa.make_url(url)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accept = (listener, there, round_trip_ms / 2000)
        threading.Thread(target=_accept, args=accept, daemon=True).start()
        port = listener.getsockname()[1]
        here = there.set(host="127.0.0.1", port=port, query={})
        yield here.render_as_string(hide_password=False)


def _accept(listener: socket.socket, there: sa.URL, seconds: float) -> None:
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            server = _connect(there)
            for pair in ((client, server), (server, client)):
                threading.Thread(target=_pass_on, args=(*pair, seconds), daemon=True).start()


def _connect(there: sa.URL) -> socket.socket:
    host, port = there.host or str(there.query.get("host", "")), there.port or 5432
    if not host.startswith("/"):
        return socket.create_connection((host, port))
    server = socket.socket(socket.AF_UNIX)
    server.connect(f"{host}/.s.PGSQL.{port}")
    return server


def _pass_on(source: socket.socket, target: socket.socket, seconds: float) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            time.sleep(seconds)
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
    source.close()

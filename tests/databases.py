"""The databases of the tests: copies of templates that are filled once in a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

import sqlalchemy as sa
from pytest_postgresql.janitor import DatabaseJanitor

from .servers import RUN, Server, is_first_process, known_servers

_numbers = count(1)

#: The name that the server knows the connections of this module by.
_APPLICATION_NAME = "planwatch_tests"


@dataclass(frozen=True)
class Database:
    """A database of one test or module, as URLs for both drivers."""

    server: Server
    name: str

    @property
    def url(self) -> str:
        return self.url_for("psycopg2")

    def url_for(self, driver: str, **changes: object) -> str:
        url = self.server.url.set(drivername=f"postgresql+{driver}", database=self.name, **changes)
        return url.render_as_string(hide_password=False)

    def execute(self, *statements: str) -> None:
        """Run statements one by one in autocommit, outside every watched engine."""
        with _connection(self.url) as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def scalar(self, statement: str) -> object:
        """Return the first value of a query, asked outside every watched engine."""
        with _connection(self.url) as connection:
            return connection.exec_driver_sql(statement).scalar()

    def clients(self, condition: str = "true") -> set[int]:
        """Return the processes of the server that serve connections to the database.

        Without those of this class: one that has been closed takes a moment to end.
        """
        return set(
            self.scalar(
                "SELECT coalesce(json_agg(pid), '[]') FROM pg_stat_activity "
                "WHERE backend_type = 'client backend' AND datname = current_database() "
                f"AND application_name <> '{_APPLICATION_NAME}' AND {condition}"
            )
        )

    def install_hypopg(self) -> None:
        """Install HypoPG, if the server has it."""
        if self.scalar("SELECT count(*) FROM pg_available_extensions WHERE name = 'hypopg'"):
            self.execute("CREATE EXTENSION IF NOT EXISTS hypopg")


def make_database(server: Server, template: str | None) -> Iterator[Database]:
    """Make a database, a copy of the template if there is one, and drop it."""
    database = Database(server, f"planwatch_{os.getpid()}_{next(_numbers)}")
    _create(database, template)
    yield database
    _janitor(database).drop()


def template(
    server: Server, kind: str, fill: Callable[[Database], None], base: str | None = None
) -> str:
    """Return the name of a database of this kind, which `fill` fills once in a run.

    It begins as a copy of `base`, if there is one.
    """
    database = Database(server, f"planwatch_template_{RUN}_{kind}")
    with _maintenance(server) as connection:
        # The first process fills it, and the others wait.
        connection.execute(sa.text("SELECT pg_advisory_lock(hashtext(:n))"), {"n": database.name})
        if database.name not in _names(connection):
            _create(database, base)
            try:
                fill(database)
            except BaseException:
                _janitor(database).drop()
                raise
    return database.name


def drop_templates() -> None:
    """Drop this run's templates, if this is the process that began it."""
    if not is_first_process():
        return
    for server in known_servers():
        with _maintenance(server) as connection:
            names = _names(connection)
        for name in names:
            if name.startswith(f"planwatch_template_{RUN}_"):
                _janitor(Database(server, name)).drop()


def analyse_expressions(table: str) -> str:
    """Return what gathers the statistics of a table's indexes on expressions, and of little else.

    Those of its columns are known already, and take most of the time of an ANALYZE.
    """
    return f"""
        DO $$
        DECLARE
            names name[] := array(
                SELECT attname FROM pg_attribute WHERE attrelid = '{table}'::regclass
                AND attnum > 0 AND NOT attisdropped AND coalesce(attstattarget, -1) < 0
            );
            name name;
        BEGIN
            FOREACH name IN ARRAY names LOOP
                EXECUTE format('ALTER TABLE {table} ALTER %I SET STATISTICS 0', name);
            END LOOP;
            ANALYZE {table};
            FOREACH name IN ARRAY names LOOP
                EXECUTE format('ALTER TABLE {table} ALTER %I SET STATISTICS -1', name);
            END LOOP;
        END
        $$"""


def _create(database: Database, template: str | None) -> None:
    if template is None:
        _janitor(database).init()
        return
    with _maintenance(database.server) as connection:
        # Copies the files instead of logging each page: half of the time.
        connection.exec_driver_sql(
            f"CREATE DATABASE {database.name} TEMPLATE {template} STRATEGY file_copy"
        )


def _janitor(database: Database) -> DatabaseJanitor:
    url = database.server.url
    return DatabaseJanitor(
        user=url.username or "postgres",
        host=database.server.host,
        port=url.port or 5432,
        password=url.password or None,
        dbname=database.name,
        # pytest-postgresql asks the server itself if no version is given.
    )


def _names(connection: sa.Connection) -> list[str]:
    return list(connection.exec_driver_sql("SELECT datname FROM pg_database").scalars())


@contextmanager
def _connection(url: str | sa.URL) -> Iterator[sa.Connection]:
    engine = sa.create_engine(
        url,
        poolclass=sa.NullPool,
        isolation_level="AUTOCOMMIT",
        connect_args={"application_name": _APPLICATION_NAME},
    )
    with engine.connect().execution_options(no_parameters=True) as connection:
        yield connection


@contextmanager
def _maintenance(server: Server) -> Iterator[sa.Connection]:
    with _connection(server.url.set(drivername="postgresql+psycopg2")) as connection:
        yield connection

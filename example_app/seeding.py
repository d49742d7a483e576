"""The example's tables, and a hundred thousand people in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click
from flask_security import hash_password
from sqlalchemy import Connection, inspect, text

from .extensions import db

USERS = 100_000
DEMO_EMAIL = "user042042@example.com"
DEMO_PASSWORD = "correct horse battery"

_BATCH = 5_000
_ROLES = ("reader", "editor", "admin")
# Any number that is always the same, for PostgreSQL's advisory locks.
_SEEDING_LOCK = 20_230_225

_INSERT_USERS = text("""
    INSERT INTO "user" (id, email, password, active, confirmed_at, fs_uniquifier)
    SELECT n, 'user' || lpad(n::text, 6, '0') || '@example.com', :password, true,
           now() - n * interval '1 minute', replace(gen_random_uuid()::text, '-', '')
    FROM generate_series(CAST(:first AS int), CAST(:last AS int)) AS n
""")
_INSERT_ROLES = text("""
    INSERT INTO role (id, name)
    SELECT n, name FROM unnest(CAST(:names AS text[])) WITH ORDINALITY AS roles (name, n)
    ON CONFLICT DO NOTHING
""")
_INSERT_ROLES_USERS = text("""
    INSERT INTO roles_users (user_id, role_id)
    SELECT n, 1 + n % :roles
    FROM generate_series(CAST(:first AS int), CAST(:last AS int)) AS n
""")


def prepare(users: int = USERS) -> None:
    """Make the tables and those users that are still missing. Needs an app context.

    Each batch is committed with its rows in both tables, so that an interrupted start goes on
    where it stopped.
    """
    with db.engine.connect().execution_options(planwatch=False) as connection:
        _refuse_foreign(connection)
        with _alone(connection):
            db.metadata.create_all(connection)
            connection.execute(_INSERT_ROLES, {"names": list(_ROLES)})
            connection.commit()
            made = connection.execute(text('SELECT count(*) FROM "user"')).scalar_one()
            if made < users:
                _seed(connection, made, users)
    with db.engine.connect().execution_options(
        isolation_level="AUTOCOMMIT", planwatch=False
    ) as connection:
        # At each start: cheap, and right even if an earlier one was interrupted before this line.
        connection.execute(text('VACUUM ANALYZE "user", role, roles_users'))


def _seed(connection: Connection, made: int, users: int) -> None:
    # Hashing each password on its own would take minutes.
    password = hash_password(DEMO_PASSWORD)
    with click.progressbar(length=users - made, label=f"Making {users:,} users") as bar:
        while made < users:
            batch = {"first": made + 1, "last": min(made + _BATCH, users)}
            connection.execute(_INSERT_USERS, {**batch, "password": password})
            connection.execute(_INSERT_ROLES_USERS, {**batch, "roles": len(_ROLES)})
            connection.commit()
            bar.update(batch["last"] - made)
            made = batch["last"]


def _refuse_foreign(connection: Connection) -> None:
    """Stop before a hundred thousand made-up users end up among somebody's real ones."""
    foreign = set(inspect(connection).get_table_names()) - set(db.metadata.tables)
    if foreign:
        raise click.ClickException(
            "DATABASE_URL names a database with other tables in it "
            f"({', '.join(sorted(foreign))}). Give the example an empty one."
        )


@contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    """Keep another process that seeds the same database waiting."""
    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _SEEDING_LOCK})
    try:
        yield
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _SEEDING_LOCK})
        connection.rollback()

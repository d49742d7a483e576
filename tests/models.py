"""The tables of story 1, with what its twins need, as SQLAlchemy classes."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ENUM, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from .databases import Database

#: Rows of the large table: as many as in the story.
USERS = 100_000

#: Rows of the small one.
BADGES = 40

#: A third of the server's own: the values are even, and the tests run ANALYZE a thousand times.
STATISTICS_TARGET = 30


class Base(DeclarativeBase):
    pass


metadata = Base.metadata


class User(Base):
    """Named by a word that SQL reserves, with an attribute named unlike its column."""

    __tablename__ = "user"

    id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    email: Mapped[str] = mapped_column(sa.String(255), unique=True)
    nickname: Mapped[str] = mapped_column("nick", sa.Text)
    first: Mapped[str] = mapped_column(sa.Text)
    last: Mapped[str] = mapped_column(sa.Text)
    state: Mapped[str] = mapped_column(sa.Text)
    mood: Mapped[str] = mapped_column(ENUM("happy", "sad", name="mood"))
    created_at: Mapped[object] = mapped_column(sa.DateTime(timezone=True), index=True)
    local_at: Mapped[object] = mapped_column(sa.DateTime(timezone=False))
    points: Mapped[int] = mapped_column(sa.Integer, index=True)
    data: Mapped[dict] = mapped_column(JSONB)


class Badge(Base):
    """A table of forty rows."""

    __tablename__ = "badge"

    id: Mapped[int] = mapped_column(sa.Integer, primary_key=True)
    owner: Mapped[str] = mapped_column(sa.Text)


class Order(Base):
    """A partitioned table, in a schema and with names that need quotes."""

    __tablename__ = "Order"
    __table_args__ = {"schema": "Shop"}

    id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    Code: Mapped[str] = mapped_column("Order Code", sa.Text)


#: A table without a class.
roles_users = sa.Table(
    "roles_users",
    metadata,
    sa.Column("user_id", sa.BigInteger),
    sa.Column("label", sa.Text),
)

#: A function that calls itself IMMUTABLE, so that planning runs it, and writes to a table.
WRITES_WHILE_PLANNED = (
    "CREATE TABLE trace (a int)",
    "CREATE FUNCTION writes() RETURNS text LANGUAGE sql VOLATILE AS "
    "$$ INSERT INTO trace VALUES (1) RETURNING 'x' $$",
    "CREATE FUNCTION claims() RETURNS text LANGUAGE plpgsql IMMUTABLE AS "
    "$$ BEGIN RETURN writes(); END $$",
)

_ROWS = f"""
INSERT INTO "user" (id, email, nick, first, last, state, mood, created_at, local_at, points, data)
SELECT g, 'User' || g || '@Example.com', 'Nick' || g, 'First' || g, 'Last' || g,
       CASE WHEN g %% 100 = 0 THEN 'Retired' ELSE 'Active' END,
       CASE WHEN g %% 100 = 0 THEN 'sad' ELSE 'happy' END::mood,
       timestamptz '2020-01-01 00:00+00' + g * interval '10 minutes',
       timestamp '2020-01-01 00:00' + g * interval '10 minutes',
       g, jsonb_build_object('type', 'T' || g, 'n', g)
FROM generate_series(1, {USERS}) g
"""


def fill(database: Database) -> None:
    """Create the tables and their rows in an empty database."""
    engine = sa.create_engine(database.url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        run = connection.exec_driver_sql
        run('CREATE SCHEMA "Shop"')
        run(
            'CREATE TABLE "Shop"."Order" (id bigint NOT NULL, "Order Code" text NOT NULL) '
            "PARTITION BY RANGE (id)"
        )
        run(
            'CREATE TABLE "Shop"."Order 1" PARTITION OF "Shop"."Order" '
            "FOR VALUES FROM (0) TO (30000)"
        )
        run(
            'CREATE TABLE "Shop".order_2 PARTITION OF "Shop"."Order" '
            "FOR VALUES FROM (30000) TO (100000) PARTITION BY RANGE (id)"
        )
        run(
            'CREATE TABLE "Shop".order_2a PARTITION OF "Shop".order_2 '
            "FOR VALUES FROM (30000) TO (100000)"
        )
        ordinary = [table for table in metadata.sorted_tables if table.name != "Order"]
        metadata.create_all(connection, tables=ordinary)
        run(_ROWS)
        run(f"INSERT INTO badge SELECT g, 'Owner' || g FROM generate_series(1, {BADGES}) g")
        run('INSERT INTO "Shop"."Order" SELECT g, \'C\' || g FROM generate_series(1, 60000) g')
        run(f"INSERT INTO roles_users SELECT g, 'Role' || g FROM generate_series(1, {USERS}) g")
        for table in ordinary:
            for column in table.columns:
                name = connection.dialect.identifier_preparer.quote(column.name)
                run(f'ALTER TABLE "{table.name}" ALTER {name} SET STATISTICS {STATISTICS_TARGET}')
        run("VACUUM ANALYZE")
        # Its locks would be in the way of the tests' own.
        run('ALTER TABLE "user" SET (autovacuum_enabled = off)')
    database.install_hypopg()

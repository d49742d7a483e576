"""The tables of the specification: 50 000 rows and more, and no index but the primary keys.

Only `ticket` has indexes, for what exists already. The rows are the same in each run: a hash of
their number chooses each value, so that hardly any column follows the order of the rows on disk.
"""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, INT4RANGE, JSONB, TSTZRANGE, TSVECTOR, Range
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ..databases import Database

#: Rows of each large table.
ROWS = 50_000

#: Rows of the small one.
CATEGORIES = 40

#: Rows that ANALYZE reads: 300 for each unit of the largest statistics target of a table's
#: columns. With all rows in the sample, the statistics are the same in each run.
STATISTICS_TARGET = ROWS * 2 // 300 + 1

#: A collation that is not `C`, whatever the server's own is: LIKE cannot use a plain index.
HUMAN = "human"

Timestamp = sa.DateTime(timezone=True)
Text = sa.Text()


class Base(DeclarativeBase):
    type_annotation_map = {
        int: sa.BigInteger(),
        str: Text,
        datetime.datetime: Timestamp,
        Decimal: sa.Numeric(10, 2),
    }


metadata = Base.metadata


class Account(Base):
    """A person: 200 countries, 5000 cities, 20 languages; nearly all are active and pay nothing."""

    __tablename__ = "account"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(sa.String(255))
    name: Mapped[str]
    country: Mapped[str]
    city: Mapped[str]
    language: Mapped[str]
    time_zone: Mapped[int]
    plan: Mapped[str]
    active: Mapped[bool]
    newsletter: Mapped[bool]
    referrer_id: Mapped[int | None] = mapped_column(sa.ForeignKey("account.id"))
    deleted_at: Mapped[datetime.datetime | None]
    joined_at: Mapped[datetime.datetime]
    born: Mapped[datetime.date]
    score: Mapped[int]
    about: Mapped[str]


class Post(Base):
    """5000 users with 20 posts each, in 1000 blogs of 100 posts each."""

    __tablename__ = "post"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("account.id"))
    blog_id: Mapped[int]
    state: Mapped[str]
    title: Mapped[str] = mapped_column(sa.Text(collation=HUMAN))
    slug: Mapped[str] = mapped_column(sa.Text(collation="C"))
    body: Mapped[str]
    views: Mapped[int]
    rating: Mapped[Decimal]
    pinned: Mapped[bool]
    created_at: Mapped[datetime.datetime]
    published_at: Mapped[datetime.datetime | None]


class Comment(Base):
    """Two for each post, in the order of their time; half of them answer another one."""

    __tablename__ = "comment"

    id: Mapped[int] = mapped_column(primary_key=True)
    post_id: Mapped[int] = mapped_column(sa.ForeignKey("post.id"))
    account_id: Mapped[int] = mapped_column(sa.ForeignKey("account.id"))
    parent_id: Mapped[int | None]
    mood: Mapped[str]
    likes: Mapped[int]
    spam: Mapped[bool]
    body: Mapped[str]
    created_at: Mapped[datetime.datetime]


class Document(Base):
    """Documents, arrays, ranges and text to search in."""

    __tablename__ = "document"

    id: Mapped[int] = mapped_column(primary_key=True)
    data: Mapped[dict] = mapped_column(JSONB)
    tags: Mapped[list] = mapped_column(ARRAY(Text))
    numbers: Mapped[list] = mapped_column(ARRAY(sa.Integer))
    valid: Mapped[Range] = mapped_column(TSTZRANGE)
    pages: Mapped[Range] = mapped_column(INT4RANGE)
    search: Mapped[str] = mapped_column(TSVECTOR)
    content: Mapped[str]
    kind: Mapped[str]


class Measurement(Base):
    """Numbers of several types; 500 sensors with 200 rows each."""

    __tablename__ = "measurement"

    id: Mapped[int] = mapped_column(primary_key=True)
    sensor_id: Mapped[int] = mapped_column(sa.Integer)
    code: Mapped[int]
    value: Mapped[Decimal]
    ratio: Mapped[float]
    unit: Mapped[str] = mapped_column(sa.String(20))
    local_at: Mapped[datetime.datetime] = mapped_column(sa.DateTime(timezone=False))
    taken_at: Mapped[datetime.datetime]
    remark: Mapped[str]


class Event(Base):
    """Partitioned by the quarters of 2024."""

    __tablename__ = "event"

    id: Mapped[int] = mapped_column(primary_key=True)
    happened_at: Mapped[datetime.datetime] = mapped_column(primary_key=True)
    account_id: Mapped[int]
    kind: Mapped[str]
    payload: Mapped[str]


class LineItem(Base):
    """In a schema, and with names, that need quotes."""

    __tablename__ = "Line Item"
    __table_args__ = {"schema": "Stock"}

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column("Order Id")
    price: Mapped[Decimal] = mapped_column('Unit "net" Price')
    label: Mapped[str] = mapped_column("select")
    remark: Mapped[str]


class Ticket(Base):
    """The table that has indexes already."""

    __tablename__ = "ticket"
    __table_args__ = (
        sa.Index("ticket_queue_priority", "queue_id", "priority"),
        sa.Index("ticket_customer", "customer_id"),
        sa.Index("ticket_subject", sa.text("lower(subject)")),
        sa.Index("ticket_urgent", "team_id", postgresql_where=sa.text("priority = 4")),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[str] = mapped_column(unique=True)
    queue_id: Mapped[int]
    priority: Mapped[int]
    customer_id: Mapped[int]
    team_id: Mapped[int]
    subject: Mapped[str]
    opened_at: Mapped[datetime.datetime]


class Category(Base):
    """A table of forty rows."""

    __tablename__ = "category"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


def _of(column: sa.orm.InstrumentedAttribute[Any]) -> dict[str, Any]:
    """Tell which table's column a column of a view is."""
    return {"column": column.expression}


class PublishedPost(Base):
    """A view of one table."""

    __tablename__ = "published_post"
    __table_args__ = {"info": {"unfilled": True}}

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(info=_of(Post.user_id))
    title: Mapped[str] = mapped_column(info=_of(Post.title))
    created_at: Mapped[datetime.datetime] = mapped_column(info=_of(Post.created_at))


class AuthoredPost(Base):
    """A view that joins two tables."""

    __tablename__ = "authored_post"
    __table_args__ = {"info": {"unfilled": True}}

    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int] = mapped_column(info=_of(Post.user_id))
    title: Mapped[str] = mapped_column(info=_of(Post.title))
    body: Mapped[str] = mapped_column(info=_of(Post.body))
    views: Mapped[int] = mapped_column(info=_of(Post.views))
    email: Mapped[str] = mapped_column(info=_of(Account.email))
    name: Mapped[str] = mapped_column(info=_of(Account.name))
    about: Mapped[str] = mapped_column(info=_of(Account.about))


class BlogTotal(Base):
    """A view that adds up."""

    __tablename__ = "blog_total"
    __table_args__ = {"info": {"unfilled": True}}

    blog_id: Mapped[int] = mapped_column(primary_key=True, info=_of(Post.blog_id))
    views: Mapped[int]
    longest: Mapped[int]


class Imported(Base):
    """A foreign table: the lines that a program prints."""

    __tablename__ = "imported"
    __table_args__ = {"info": {"unfilled": True}}

    number: Mapped[int] = mapped_column(primary_key=True)


class Draft(Base):
    """A temporary table, which only the session that made it sees."""

    __tablename__ = "draft"
    __table_args__ = {"info": {"unfilled": True}}

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int]


_catalog = {"schema": "pg_catalog", "info": {"unfilled": True}}

#: A catalog.
pg_attribute = sa.Table(
    "pg_attribute",
    metadata,
    sa.Column("attrelid", sa.Integer),
    sa.Column("attname", sa.Text),
    sa.Column("attnum", sa.SmallInteger),
    sa.Column("atttypid", sa.Integer),
    **_catalog,
)

#: What makes the temporary table, in the session that reads it.
CREATE_DRAFT = (
    "CREATE TEMPORARY TABLE draft AS SELECT id, user_id FROM post",
    "ANALYZE draft",
)

_BEFORE = (
    "CREATE EXTENSION pg_trgm",
    "CREATE EXTENSION file_fdw",
    f"CREATE COLLATION {HUMAN} (provider = libc, locale = 'C.UTF-8')",
    'CREATE SCHEMA "Stock"',
    # A number from 0 to $3 - 1; $2 keeps the columns of a row independent.
    "CREATE FUNCTION pick(bigint, int, bigint) RETURNS bigint IMMUTABLE LANGUAGE sql AS "
    "$$ SELECT (hashint8extended($1, $2) & 2147483647) % $3 $$",
    "CREATE FUNCTION moment(bigint, int) RETURNS timestamptz IMMUTABLE LANGUAGE sql AS "
    "$$ SELECT timestamptz '2024-01-01 00:00+00' + pick($1, $2, 31622400) * interval '1 second' $$",
    "CREATE FUNCTION shout(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS "
    "$$ BEGIN RETURN upper($1); END $$",
    "CREATE FUNCTION in_local_currency(numeric) RETURNS numeric STABLE LANGUAGE plpgsql AS "
    "$$ BEGIN RETURN $1 * 2; END $$",
    "CREATE FUNCTION lottery(bigint) RETURNS bigint VOLATILE LANGUAGE plpgsql AS "
    "$$ BEGIN RETURN (random() * $1)::bigint; END $$",
    "CREATE TABLE event (id bigint NOT NULL, happened_at timestamptz NOT NULL, "
    "account_id bigint NOT NULL, kind text NOT NULL, payload text NOT NULL, "
    "PRIMARY KEY (id, happened_at)) PARTITION BY RANGE (happened_at)",
    *(
        f"CREATE TABLE event_{number} PARTITION OF event "
        f"FOR VALUES FROM ('2024-{first:02}-01 00:00+00') TO ('{last} 00:00+00')"
        for number, first, last in (
            (1, 1, "2024-04-01"),
            (2, 4, "2024-07-01"),
            (3, 7, "2024-10-01"),
            (4, 10, "2025-01-01"),
        )
    ),
    "CREATE SERVER files FOREIGN DATA WRAPPER file_fdw",
    f"CREATE FOREIGN TABLE imported (number bigint) SERVER files "
    f"OPTIONS (program 'seq {ROWS}', format 'csv')",
)

_VIEWS = (
    "CREATE VIEW published_post AS "
    "SELECT id, user_id, title, created_at FROM post WHERE state = 'published'",
    "CREATE VIEW authored_post AS "
    "SELECT p.id, p.user_id AS author_id, p.title, p.body, p.views, a.email, a.name, a.about "
    "FROM post p "
    "JOIN account a ON a.id = p.user_id",
    "CREATE VIEW blog_total AS "
    "SELECT blog_id, sum(views) AS views, max(length(body)) AS longest FROM post GROUP BY blog_id",
)

_ROWS = {
    Account: """
        id, 'User' || id || '@Example.com', 'Name ' || pick(id, 1, 30000),
        'Country ' || pick(id, 2, 200), 'City ' || pick(id, 3, 5000),
        'Language ' || pick(id, 14, 20), pick(id, 15, 24),
        CASE pick(id, 4, 100) WHEN 0 THEN 'enterprise' WHEN 1 THEN 'team' ELSE 'free' END,
        pick(id, 5, 200) <> 0, pick(id, 6, 2) = 0,
        CASE WHEN pick(id, 7, 10) = 0 THEN pick(id, 8, 20000) + 1 END,
        CASE WHEN pick(id, 9, 200) = 0 THEN moment(id, 10) END,
        moment(id, 11), date '1950-01-01' + pick(id, 12, 20000)::int, pick(id, 13, 100000),
        repeat('about ', 12) || id""",
    Post: """
        id, pick(id, 1, 5000) + 1, pick(id, 2, 1000) + 1,
        CASE pick(id, 3, 200) WHEN 0 THEN 'draft' WHEN 1 THEN 'archived' ELSE 'published' END,
        'Title ' || pick(id, 4, 50000), 'slug-' || pick(id, 5, 1000000), repeat('body ', 40) || id,
        pick(id, 6, 100000), pick(id, 7, 100000) / 100.0, pick(id, 8, 200) = 0,
        moment(id, 9), CASE WHEN pick(id, 10, 200) > 0 THEN moment(id, 9) END""",
    Comment: """
        id, pick(id, 1, 100000) + 1, pick(id, 2, 20000) + 1,
        CASE WHEN id > 1 AND pick(id, 3, 2) = 0 THEN pick(id, 4, id - 1) + 1 END,
        'Mood ' || pick(id, 7, 10),
        pick(id, 5, 1000), pick(id, 6, 100) = 0, repeat('comment ', 12) || id,
        timestamptz '2024-01-01 00:00+00' + id * interval '2 minutes'""",
    Document: """
        id,
        jsonb_build_object('type', 'Type ' || pick(id, 1, 1000), 'size', pick(id, 2, 100000),
            'owner', jsonb_build_object('name', 'Owner ' || pick(id, 3, 2000)))
            || CASE WHEN pick(id, 4, 500) = 0 THEN '{"urgent": true}' ELSE '{}' END::jsonb,
        ARRAY['tag' || pick(id, 5, 1000), 'tag' || pick(id, 6, 1000)],
        ARRAY[pick(id, 7, 2000), pick(id, 8, 2000), pick(id, 9, 2000)]::int[],
        tstzrange(moment(id, 10), moment(id, 10) + interval '1 hour'),
        int4range(pick(id, 11, 100000)::int, (pick(id, 11, 100000) + 20)::int),
        to_tsvector('simple', 'word' || pick(id, 12, 3000) || ' word' || pick(id, 13, 3000)),
        'Content of word' || pick(id, 12, 3000) || ' and word' || pick(id, 13, 3000),
        'Kind ' || pick(id, 14, 4)""",
    Measurement: """
        id, pick(id, 1, 500) + 1, pick(id, 2, 1000000), pick(id, 3, 1000000) / 100.0,
        pick(id, 4, 1000000) / 1000.0, 'Unit ' || pick(id, 5, 2000),
        moment(id, 6) AT TIME ZONE 'UTC', moment(id, 7), repeat('remark ', 12) || id""",
    Event: """
        id, moment(id, 1), pick(id, 2, 5000) + 1, 'Kind ' || pick(id, 3, 20),
        repeat('payload ', 10) || id""",
    LineItem: """
        id, pick(id, 1, 10000) + 1, pick(id, 2, 100000) / 100.0, 'Label ' || pick(id, 3, 5000),
        repeat('remark ', 12) || id""",
    Ticket: """
        id, 'T' || id, pick(id, 1, 500) + 1, pick(id, 2, 5), pick(id, 3, 5000) + 1,
        pick(id, 4, 200) + 1, 'Subject ' || pick(id, 6, 50000),
        moment(id, 7)""",
}

_COUNTS = {Comment: 2 * ROWS}


def fill(database: Database) -> None:
    """Create the tables and their rows in an empty database."""
    engine = sa.create_engine(database.url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect().execution_options(no_parameters=True) as connection:
        run = connection.exec_driver_sql
        run("SET maintenance_work_mem = '256MB'")
        for statement in _BEFORE:
            run(statement)
        tables = [table for table in metadata.sorted_tables if not table.info.get("unfilled")]
        metadata.create_all(connection, tables=tables)
        # The rows obey the foreign keys; looking that up for each of them takes time.
        run("SET session_replication_role = replica")
        for entity, values in _ROWS.items():
            table = _display(connection, entity.__table__)
            count = _COUNTS.get(entity, ROWS)
            run(f"INSERT INTO {table} SELECT {values} FROM generate_series(1, {count}) id")
        run("RESET session_replication_role")
        names = f"SELECT id, 'Category ' || id FROM generate_series(1, {CATEGORIES}) id"
        run(f"INSERT INTO category {names}")
        for statement in _VIEWS:
            run(statement)
        for table in tables:
            name = _display(connection, table)
            if table.name != "event":
                # Its locks would be in the way, and its statistics would change.
                run(f"ALTER TABLE {name} SET (autovacuum_enabled = off)")
            run(f"ALTER TABLE {name} ALTER id SET STATISTICS {STATISTICS_TARGET}")
        for number in (1, 2, 3, 4):
            run(f"ALTER TABLE event_{number} SET (autovacuum_enabled = off)")
            run(f"ALTER TABLE event_{number} ALTER id SET STATISTICS {STATISTICS_TARGET}")
        for table in tables:
            run(f"VACUUM ANALYZE {_display(connection, table)}")
        run("ANALYZE imported")


def _display(connection: sa.Connection, table: sa.Table) -> str:
    return connection.dialect.identifier_preparer.format_table(table)


def distinct_on(statement: sa.Select[Any], *columns: Any) -> sa.Select[Any]:
    """Add DISTINCT ON, as SQLAlchemy 2.0 and 2.1 each want it."""
    from sqlalchemy.dialects import postgresql

    if hasattr(postgresql, "distinct_on"):
        return statement.ext(postgresql.distinct_on(*columns))
    return statement.distinct(*columns)

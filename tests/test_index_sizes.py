"""The size of an index that is not built is near that of the built one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest
import sqlalchemy as sa

from flask_planwatch.indexes.btree import PAGE
from flask_planwatch.indexes.candidate import Candidate, Key, column_key
from flask_planwatch.plan.schema import Schema, Structural
from flask_planwatch.plan.tree import Plan
from flask_planwatch.server import sizes
from flask_planwatch.server.catalog import Catalog
from flask_planwatch.server.session import Session
from flask_planwatch.server.sizes import Sizes

from .databases import Database, make_database
from .servers import Server

pytestmark = pytest.mark.slow

#: How far the estimate may be from the size of the built index, as a share of that.
NEAR = 0.25

#: Orders of a shop, with texts in plain English: the server's own descriptions of its functions.
TABLES = (
    "SELECT setseed(0.5)",
    "CREATE TYPE mood AS ENUM ('new', 'paid', 'sent', 'returned')",
    "CREATE TABLE sentence AS SELECT row_number() OVER (ORDER BY objoid, objsubid) - 1 AS id, "
    "description AS text FROM pg_description WHERE classoid = 'pg_proc'::regclass",
    """
    CREATE TABLE purchase AS
    SELECT g AS id, g::bigint * 7919 AS number, (g * 37 % 1000)::smallint AS small,
        md5(g::text)::uuid AS token, md5((g % 3000)::text)::uuid AS tenant,
        (random() * 20000)::int AS customer_id,
        floor(power(random(), 3) * 5000)::int AS product_id,
        (ARRAY['new', 'paid', 'sent', 'returned'])[1 + floor(power(random(), 4) * 4)::int]::mood
            AS mood,
        (ARRAY['Bern', 'Zürich', 'Genève', 'Basel', 'Lausanne', 'Winterthur', 'Luzern'])
            [1 + floor(random() * random() * 7)::int] AS town,
        'user' || g || '@example.com' AS email,
        left(sentence.text, 20) AS title, sentence.text AS note,
        sentence.text || ' ' || repeat(md5(g::text), 4) AS long_note,
        'SKU-' || lpad((random() * 9999)::int::text, 4, '0') AS code,
        (random() < 0.5) AS gift, round((random() * 500)::numeric, 2) AS price,
        random() * 90 AS latitude,
        timestamp '2024-01-01' + random() * interval '700 days' AS created,
        timestamptz '2024-01-01' + g * interval '17 minutes' AS stamped,
        date '2024-01-01' + (random() * 700)::int AS day,
        CASE WHEN random() < 0.9 THEN NULL ELSE now() END AS deleted,
        CASE WHEN random() < 0.4 THEN (random() * 100000)::int END AS referrer_id,
        CASE WHEN random() < 0.5 THEN left(md5(g::text), 1 + (random() * 12)::int) END AS coupon,
        ARRAY[g, g % 7] AS numbers,
        jsonb_build_object('colour', (ARRAY['red', 'green', 'blue'])[1 + g % 3],
            'reference', md5((g * 3)::text),
            'merchant_id', 'merchant ' || g * 7919::bigint % 500) AS data
    FROM generate_series(1, 40000) g
    JOIN sentence ON sentence.id = g % (SELECT count(*) FROM sentence)
    """,
    "VACUUM ANALYZE purchase",
)

#: The keys of an index, what it includes, and its condition.
INDEXES = {
    "int, unique": (["id"], [], ""),
    "bigint, unique": (["number"], [], ""),
    "smallint, 1000 values": (["small"], [], ""),
    "uuid, unique": (["token"], [], ""),
    "uuid, 3000 values": (["tenant"], [], ""),
    "foreign key": (["customer_id"], [], ""),
    "skewed foreign key": (["product_id"], [], ""),
    "enum": (["mood"], [], ""),
    "seven towns": (["town"], [], ""),
    "e-mail": (["email"], [], ""),
    "short text": (["title"], [], ""),
    "text": (["note"], [], ""),
    "long text": (["long_note"], [], ""),
    "code": (["code"], [], ""),
    "boolean": (["gift"], [], ""),
    "numeric": (["price"], [], ""),
    "double precision": (["latitude"], [], ""),
    "timestamp": (["created"], [], ""),
    "timestamp with time zone": (["stamped"], [], ""),
    "date, 700 values": (["day"], [], ""),
    "mostly NULL": (["deleted"], [], ""),
    "half NULL": (["referrer_id"], [], ""),
    "half NULL, text": (["coupon"], [], ""),
    "jsonb": (["data"], [], ""),
    "array": (["numbers"], [], ""),
    "two integers": (["customer_id", "product_id"], [], ""),
    "few values, then many": (["mood", "id"], [], ""),
    "few values, then few": (["town", "mood"], [], ""),
    "few values, then a date": (["mood", "day"], [], ""),
    "text, then an integer": (["town", "customer_id"], [], ""),
    "boolean, uuid and timestamp": (["gift", "tenant", "created"], [], ""),
    "with NULLs, then an integer": (["referrer_id", "id"], [], ""),
    "four columns": (["town", "mood", "small", "day"], [], ""),
    "includes an integer": (["customer_id"], ["product_id"], ""),
    "includes texts": (["day"], ["email", "title"], ""),
    "includes one with NULLs": (["mood"], ["referrer_id"], ""),
    "lower of e-mail": (["lower(email)"], [], ""),
    "lower of a code": (["lower(code)"], [], ""),
    "a part of a text": (["substr(note, 1, 10)"], [], ""),
    "length": (["length(note)"], [], ""),
    "digest": (["md5(email)"], [], ""),
    "sum of two columns": (["id + customer_id"], [], ""),
    "two texts": (["title || code"], [], ""),
    "a key of JSON with few values": (["data ->> 'colour'"], [], ""),
    "a key of JSON with many values": (["data ->> 'reference'"], [], ""),
    "a key of JSON with some values": (["data ->> 'merchant_id'"], [], ""),
    "an element of an array": (["numbers[2]"], [], ""),
    "a part of an array": (["numbers[1] / 20"], [], ""),
    "days of a moment": (["(created)::date"], [], ""),
    "hours of a moment": (["date_trunc('hour', created)"], [], ""),
    "numbers of a text": (['"right"(code, 3)::integer'], [], ""),
    "no NULL": (["COALESCE(referrer_id, 0)"], [], ""),
    "an expression and a column": (["lower(title)", "stamped"], [], ""),
    "partial, by an enum": (["customer_id"], [], "mood <> 'new'::mood"),
    "partial, by NULL": (["id"], [], "deleted IS NULL"),
    "partial, without its own NULLs": (["referrer_id"], [], "referrer_id IS NOT NULL"),
    "partial, of text": (["email"], [], "gift"),
    "partial, of few rows": (["day", "town"], [], "deleted IS NOT NULL"),
}


@pytest.fixture(scope="module")
def shop(any_server: Server) -> Iterator[Database]:
    for database in make_database(any_server, None):
        database.execute(*TABLES)
        yield database


@pytest.fixture(scope="module")
def session(shop: Database) -> Iterator[Session]:
    engine = sa.create_engine(shop.url)
    session = Session(engine, url=None, statement_timeout_ms=9000, lock_timeout_ms=9000)
    yield session
    session.close()
    engine.dispose()


@pytest.fixture(scope="module")
def schema(session: Session) -> Schema:
    return schema_of(session, "purchase")


def schema_of(session: Session, table: str) -> Schema:
    """Return a table of the shop, with its partitions."""
    scan = {"Node Type": "Seq Scan", "Schema": "public", "Relation Name": table}
    return Catalog(session).schema(Plan.from_json({"Plan": scan}))


def made(
    schema: Schema, table: str, keys: list[str], include: list[str], predicate: str
) -> Candidate:
    """Return an index on a table of the shop."""
    relation = schema.relations[f"public.{table}"]
    columns = [
        column_key(relation, key) if relation.column(key) else Key(Structural(key)) for key in keys
    ]
    return Candidate(
        relation, tuple(columns), schema, frozenset(), include=tuple(include), predicate=predicate
    )


@pytest.mark.parametrize("name", INDEXES)
def test_is_near_that_of_the_built_index(name, shop, session, schema):
    index = made(schema, "purchase", *INDEXES[name])
    with session.transaction() as transaction:
        estimated = Sizes(transaction).of(index).bytes
    shop.execute(f"CREATE INDEX trial {index.definition}")
    built = shop.scalar("SELECT pg_relation_size('trial')")
    shop.execute("DROP INDEX trial")
    assert estimated == pytest.approx(built, rel=NEAR)


#: Visits of one, two, and five months, and one without any rows.
SEASONS = (
    "CREATE TABLE visit (id int, day date, page int, note text) PARTITION BY RANGE (day)",
    *(
        f"CREATE TABLE visit_{number} PARTITION OF visit FOR VALUES FROM ('{start}') TO ('{end}')"
        for number, (start, end) in enumerate(
            pairwise(("2024-01-01", "2024-02-01", "2024-04-01", "2024-09-01", "2025-01-01"))
        )
    ),
    "INSERT INTO visit SELECT g, date '2024-01-01' + abs(hashint4(g)) % 240, "
    "abs(hashint4(g + 1000000)) % 5000, md5(g::text) FROM generate_series(1, 60000) g",
    "VACUUM ANALYZE visit",
)

#: Keys of an index on all of them, what it includes, and its condition.
ON_PARTITIONS = {
    "few rows for each value": (["page"], [], ""),
    "values of one partition": (["day", "page"], [], ""),
    "an expression": (["lower(note)"], [], ""),
    "includes a text": (["page"], ["note"], ""),
    "partial": (["page"], [], "id < 20000"),
}


@pytest.fixture(scope="module")
def visits(shop: Database, session: Session) -> Schema:
    shop.execute(*SEASONS)
    return schema_of(session, "visit")


@pytest.mark.parametrize("asked", [20, 2], ids=["all", "the largest"])
@pytest.mark.parametrize("name", ON_PARTITIONS)
def test_is_the_sum_of_those_on_partitions(name, asked, shop, session, visits, monkeypatch):
    monkeypatch.setattr(sizes, "_MAX_LEAVES", asked)
    index = made(visits, "visit", *ON_PARTITIONS[name])
    with session.transaction() as transaction:
        estimated = Sizes(transaction).of(index).bytes
    shop.execute(f"CREATE INDEX trial {index.definition}")
    built = shop.scalar("SELECT sum(pg_relation_size(relid)) FROM pg_partition_tree('trial')")
    shop.execute("DROP INDEX trial")
    assert estimated == pytest.approx(int(built), rel=NEAR)


#: Columns of a table that was never analysed, and the pages of their indexes on 1,000 rows. Texts
#: are taken to have 16 bytes or some more or less.
UNKNOWN = {"id": 5, "token": 6, "note": 7, "lower(note)": 7}


def test_what_was_never_analysed_has_the_sizes_of_its_types(shop, session):
    shop.execute(
        "DROP TABLE IF EXISTS fresh",
        "CREATE TABLE fresh (id int, token uuid, note text) WITH (autovacuum_enabled = off)",
        "INSERT INTO fresh SELECT g, md5(g::text)::uuid, 'note ' || lpad(g::text, 10, '0') "
        "FROM generate_series(1, 1000) g",
    )
    schema = schema_of(session, "fresh")
    relation = replace(schema.relations["public.fresh"], rows=1000)
    schema = Schema({relation.key: relation})
    with session.transaction() as transaction:
        for text, pages in UNKNOWN.items():
            key = Key(Structural(text), text if relation.column(text) else None)
            index = Candidate(relation, (key,), schema, frozenset())
            assert Sizes(transaction).of(index).bytes == pages * PAGE


def test_one_that_the_role_may_not_read_has_the_sizes_of_its_types(shop, session, schema):
    relation = schema.relations["public.purchase"]
    index = Candidate(relation, (column_key(relation, "email"),), schema, frozenset())
    shop.execute(f"CREATE ROLE {shop.name}_reader")
    with session.transaction() as transaction:
        known = Sizes(transaction).of(index).bytes
        transaction.run(f"SET LOCAL ROLE {shop.name}_reader")
        unknown = Sizes(transaction).of(index).bytes
        partial = Sizes(transaction).of(replace(index, predicate="gift")).bytes
    shop.execute(f"DROP ROLE {shop.name}_reader")
    # The width is remembered, but not how long each value is.
    assert unknown == pytest.approx(known, rel=NEAR)
    assert partial == unknown

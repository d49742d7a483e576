"""What the catalog says is remembered, and read anew as soon as it has changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import sqlalchemy as sa

from flask_planwatch.plan.schema import Activity, Relation
from flask_planwatch.plan.tree import Plan
from flask_planwatch.server import catalog as module
from flask_planwatch.server.catalog import KEEP_SECONDS, Catalog
from flask_planwatch.server.explain import Query, explain
from flask_planwatch.server.session import Session
from flask_planwatch.server.transaction import Transaction

pytestmark = pytest.mark.slow

TABLES = (
    "CREATE TYPE mood AS ENUM ('happy', 'sad')",
    "CREATE TABLE thing (id int PRIMARY KEY, name text, mood mood, size int)",
    "CREATE INDEX thing_name ON thing (name)",
    "ALTER TABLE thing SET (autovacuum_enabled = off)",
    "INSERT INTO thing SELECT g, 'thing ' || g, 'sad', g % 7 FROM generate_series(1, 500) g",
    "CREATE TABLE part (id int, name text) PARTITION BY RANGE (id)",
    "CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (1) TO (100)",
    "CREATE TABLE spare AS TABLE thing",
)

CHANGES = {
    "index created": "CREATE INDEX thing_size ON thing (size)",
    "index dropped": "DROP INDEX thing_name",
    "index invalid": "UPDATE pg_index SET indisvalid = false "
    "WHERE indexrelid = 'thing_name'::regclass",
    "index renamed": "ALTER INDEX thing_name RENAME TO thing_by_name",
    "index rebuilt otherwise": "DROP INDEX thing_name; CREATE INDEX thing_name ON thing (mood)",
    "column added": "ALTER TABLE thing ADD COLUMN added int",
    "column dropped": "ALTER TABLE thing DROP COLUMN size",
    "column renamed": "ALTER TABLE thing RENAME COLUMN name TO title",
    "column retyped": "ALTER TABLE thing ALTER COLUMN size TYPE bigint",
    "analysed": "ANALYZE thing",
    "analysed twice": "ANALYZE thing; UPDATE thing SET size = id; ANALYZE thing",
    "filled": "INSERT INTO thing SELECT g, repeat('x', 99) FROM generate_series(501, 9999) g",
    "emptied": "TRUNCATE thing",
    "replaced": "ALTER TABLE thing RENAME TO old; ALTER TABLE spare RENAME TO thing",
    "made anew": "DROP TABLE thing; CREATE TABLE thing (id int, name text)",
    "partition added": "CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (100) TO (200)",
    "partition detached": "ALTER TABLE part DETACH PARTITION part_1",
}


class CountingSession(Session):
    """A session that counts the questions to the server."""

    asked = 0

    @contextmanager
    def transaction(self, **options: object) -> Iterator[Transaction]:
        with super().transaction(**options) as transaction:
            fetch = transaction.fetch

            def counted(*what):
                self.asked += 1
                return fetch(*what)

            transaction.fetch = counted
            yield transaction


@pytest.fixture
def session(database) -> Iterator[CountingSession]:
    database.execute(*TABLES)
    engine = sa.create_engine(database.url, poolclass=sa.NullPool)
    session = CountingSession(engine, url=None, statement_timeout_ms=9000, lock_timeout_ms=9000)
    yield session
    session.close()


def relations(catalog: Catalog, session: Session) -> dict[str, Relation]:
    """Return what a plan of both tables reads; what the server counts, it counts later."""
    tables = "thing, part" if session.partitioned else "thing, part_1"
    found = catalog.schema(plan_of(session, f"SELECT * FROM {tables}")).relations
    return {key: replace(one, activity=Activity()) for key, one in found.items()}


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_is_seen_at_once(database, session, change):
    session.partitioned = change != "partition detached"
    catalog = Catalog(session)
    before = relations(catalog, session)
    database.execute(*CHANGES[change].split("; "))
    after = relations(catalog, session)
    assert after == relations(Catalog(session), session)
    assert after != before


def test_what_is_known_takes_one_question(session):
    session.partitioned = True
    catalog = Catalog(session)
    relations(catalog, session)
    session.asked = 0
    relations(catalog, session)
    assert session.asked == 1


def test_growing_is_noticed_without_reading_columns_and_indexes_again(database, session):
    session.partitioned = True
    database.execute("VACUUM ANALYZE thing")
    catalog = Catalog(session)
    before = relations(catalog, session)["public.thing"]
    database.execute(CHANGES["filled"])
    session.asked = 0
    after = relations(catalog, session)["public.thing"]
    assert session.asked == 1
    assert after.rows > before.rows * 2
    assert after.columns is before.columns


def test_what_leaves_no_trace_is_seen_after_a_while(database, session):
    session.partitioned, now = True, 0.0
    catalog = Catalog(session, clock=lambda: now)
    relations(catalog, session)
    database.execute("ALTER TYPE mood RENAME TO temper")
    now = KEEP_SECONDS + 1
    column = relations(catalog, session)["public.thing"].column("mood")
    assert column.type == "temper"


def test_only_so_many_relations_are_remembered(session, monkeypatch):
    session.partitioned = True
    monkeypatch.setattr(module, "MAX_RELATIONS", 2)
    catalog = Catalog(session)
    assert len(relations(catalog, session)) == 3
    assert len(catalog._known) == 2
    session.asked = 0
    relations(Catalog(session), session)
    assert session.asked == 3


def test_what_was_read_a_moment_ago_is_remembered(database, session):
    now = 0.0
    catalog = Catalog(session, clock=lambda: now)
    plan = plan_of(session, "SELECT * FROM thing WHERE size = 3")
    assert catalog.remembered(plan) is None
    schema = catalog.schema(plan)
    session.asked = 0
    assert catalog.remembered(plan_of(session, "SELECT name FROM thing")) is schema
    assert catalog.remembered(plan_of(session, "SELECT * FROM part")) is None
    assert catalog.remembered(plan_of(session, "DELETE FROM thing")) is None
    assert session.asked == 0
    now = KEEP_SECONDS
    assert catalog.remembered(plan) is None
    catalog.schema(plan)
    assert catalog.remembered(plan) is not None


def test_a_plan_with_an_index_that_is_new_is_not_remembered(database, session):
    catalog = Catalog(session)
    by_id = "SELECT * FROM thing WHERE id = 7"
    catalog.schema(plan_of(session, by_id))
    assert catalog.remembered(plan_of(session, by_id)) is not None
    database.execute("DROP TABLE thing", "CREATE TABLE thing (id int CONSTRAINT key PRIMARY KEY)")
    plan = plan_of(session, by_id)
    assert {node.index for node in plan.nodes} & {"key"}
    assert catalog.remembered(plan) is None


def test_only_so_many_schemas_are_remembered(session, monkeypatch):
    monkeypatch.setattr(module, "MAX_REMEMBERED", 2)
    catalog = Catalog(session)
    plans = [plan_of(session, f"SELECT * FROM {table}") for table in ("part", "thing", "spare")]
    for plan in (*plans, plans[0]):
        catalog.schema(plan)
    assert [catalog.remembered(plan) is not None for plan in plans] == [True, False, True]


def plan_of(session: Session, text: str) -> Plan:
    return explain(session, Query(text, None, escaped=False))

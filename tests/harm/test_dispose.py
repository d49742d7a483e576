"""dispose() means go: nothing of PlanWatch's is left on the database, and nobody waits for it."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.ext.asyncio import create_async_engine

from flask_planwatch import PlanWatch
from flask_planwatch.server import session
from flask_planwatch.server.transaction import Transaction

from ..conditions import becomes

pytestmark = [pytest.mark.slow, pytest.mark.versions]

TABLE = (
    "CREATE TABLE item (id int PRIMARY KEY, v int, w text)",
    "INSERT INTO item SELECT g, g, g FROM generate_series(1, 20000) g",
    "ANALYZE item",
)


@pytest.fixture
def filled(database):
    database.execute(*TABLE)
    return database


def administer(database, *statements):
    """Run statements from another database of the server."""
    url = sa.make_url(database.url).set(database="postgres")
    engine = sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def ask(watched, number, first=0):
    with watched.app.app_context():
        for one in range(first, first + number):
            query = sa.text(f"SELECT count(*) AS c{one} FROM item WHERE v = :v AND w <> :w")
            watched.db.session.execute(query, {"v": one, "w": "x"}).all()
        watched.db.session.remove()


def dispose(watched):
    with watched.app.app_context():
        watched.db.engine.dispose()


@pytest.mark.parametrize("number", [1, 3, 30])
@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
@pytest.mark.parametrize("how", ["engine", "pool"])
def test_a_database_can_be_copied_and_dropped_at_once(filled, watch, number, driver, how):
    watched = watch(filled.url_for(driver))
    ask(watched, number)
    with watched.app.app_context():
        engine = watched.db.engine
    (engine if how == "engine" else engine.pool).dispose()
    copy = f"{filled.name}_copy"
    administer(filled, f"CREATE DATABASE {copy} TEMPLATE {filled.name}", f"DROP DATABASE {copy}")
    assert watched.planwatch.flush(120)
    assert becomes(lambda: not filled.clients())
    if how == "engine":
        stats = watched.planwatch.stats()
        assert stats["inspected"] + stats["skipped"].get("unwatched", 0) == number
        assert stats["errors"] == 0


def test_tables_can_be_dropped_right_after_it(filled, watch):
    watched = watch(filled.url)
    ask(watched, 10)
    dispose(watched)
    filled.execute("SET lock_timeout = 1000; DROP TABLE item")


def test_nothing_connects_again_before_the_application_does(filled, watch):
    watched = watch(filled.url)
    ask(watched, 5)
    assert watched.planwatch.flush(120)
    dispose(watched)
    assert becomes(lambda: not filled.clients())
    # Longer than a nap.
    time.sleep(1)
    assert not filled.clients()
    ask(watched, 5, first=5)
    assert watched.planwatch.flush(120)
    assert watched.planwatch.stats()["inspected"] == 10


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_it_does_not_wait_for_what_planwatch_is_doing(filled, watch, driver, monkeypatch):
    """Not for a command that takes long, and not for a thread that computes."""
    watched = watch(filled.url_for(driver))
    ask(watched, 1)
    assert watched.planwatch.flush(120)
    (engine,) = watched.app.extensions["planwatch"]._engines.values()
    began, failed = threading.Event(), []

    def sleep():
        with engine.session.transaction() as transaction:
            began.set()
            try:
                transaction.fetch("SELECT pg_sleep(20)")
            except session.ServerError as error:
                failed.append(error.reason)

    # What the thread does in an inspection.
    thread = threading.Thread(target=sleep)
    thread.start()
    assert began.wait(240)
    assert becomes(
        lambda: filled.scalar("SELECT count(*) FROM pg_stat_activity WHERE query ~ 'pg_sleep.20'")
    )
    waited = time.thread_time()
    dispose(watched)
    assert time.thread_time() - waited < 1
    assert thread.is_alive() or failed
    thread.join(240)
    assert not thread.is_alive(), "the connection is cut, whatever the server is doing"
    assert failed == ["connection-lost"]
    assert not engine.session.held


def test_the_patience_of_dispose_is_short():
    assert session.DISPOSE_PATIENCE < 0.05


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_an_event_loop_does_not_stand_still(filled, driver):
    app = Flask("tests.app")
    planwatch = PlanWatch(app)
    engine = create_async_engine(filled.url_for(driver))
    planwatch.watch(engine, app)

    async def main():
        for one in range(20):
            async with engine.connect() as connection:
                await connection.execute(sa.text(f"SELECT count(*) AS c{one} FROM item"))
        turns = 0

        async def count_turns():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count_turns())
        await engine.dispose()
        await asyncio.sleep(0)
        counting.cancel()
        return turns

    assert asyncio.run(main()) > 0
    assert planwatch.flush(120, app)
    assert becomes(lambda: not filled.clients())
    administer(filled, f"CREATE DATABASE {filled.name}_copy TEMPLATE {filled.name}")
    administer(filled, f"DROP DATABASE {filled.name}_copy")


def test_a_table_that_is_dropped_meanwhile_is_a_skip(filled, watch, monkeypatch):
    """Its row in the catalog is still seen, and its file is gone: there is no size of it."""
    watched = watch(filled.url)
    original, asked = Transaction.fetch, []

    def fetch(self, sql, parameters=None):
        if "pg_relation_size(c.oid)" in sql:
            asked.append(True)
            sql = sql.replace("pg_relation_size(c.oid)", "pg_relation_size(0)")
        return original(self, sql, parameters)

    monkeypatch.setattr(Transaction, "fetch", fetch)
    ask(watched, 1)
    assert watched.planwatch.flush(120)
    assert asked
    assert watched.planwatch.stats()["skipped"] == {"not-visible": 1}
    assert watched.planwatch.stats()["errors"] == 0


def test_a_table_that_is_dropped_before_it_is_looked_up_is_a_skip_or_no_news(filled, watch):
    watched = watch(filled.url)
    for number in range(20):
        filled.execute(f"CREATE TABLE gone_{number} (id int)")
        with watched.app.app_context():
            watched.db.session.execute(sa.text(f"SELECT id FROM gone_{number}")).all()
            watched.db.session.remove()
        filled.execute(f"DROP TABLE gone_{number}")
    assert watched.planwatch.flush(120)
    assert watched.planwatch.stats()["errors"] == 0

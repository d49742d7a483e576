"""Databases in other encodings, and engines with a reader of JSON of their own."""

from __future__ import annotations

import asyncio
from functools import partial
from itertools import count

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.ext.asyncio import create_async_engine

from flask_planwatch import PlanWatch

from ..databases import Database

pytestmark = [pytest.mark.slow, pytest.mark.versions]

_numbers = count(1)

#: A table, columns and values that are spelled with more than ASCII.
TABLES = (
    "SET client_encoding = 'UTF8'",
    'CREATE TABLE "café" (id int, "größe" text, name text)',
    "INSERT INTO \"café\" SELECT g, 'é' || g, 'n' || g FROM generate_series(1, 5000) g",
    'CREATE INDEX "café_größe" ON "café" ("größe")',
    'CREATE VIEW plain AS SELECT * FROM "café"',
    "ANALYZE",
)


@pytest.fixture(scope="module", params=["LATIN1", "SQL_ASCII", "UTF8"])
def encoded(request, any_server):
    """A database in an encoding, on each server."""
    name = f"planwatch_{request.param.lower()}_{next(_numbers)}"
    maintenance = Database(any_server, "postgres")
    drop = f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"
    maintenance.execute(
        drop,
        f"CREATE DATABASE {name} ENCODING '{request.param}' LC_COLLATE 'C' LC_CTYPE 'C' "
        "TEMPLATE template0",
    )
    database = Database(any_server, name)
    engine = sa.create_engine(database.url, client_encoding="utf8")
    with engine.begin() as connection:
        for statement in TABLES:
            connection.exec_driver_sql(statement)
    engine.dispose()
    yield request.param, database
    maintenance.execute(drop)


def inspect(url, statement, **options):
    """Run a statement, and return the statistics of PlanWatch and its findings."""
    app = Flask("tests.app")
    app.config.update(PLANWATCH_SAMPLE_INTERVAL=0, PLANWATCH_STATEMENT_TIMEOUT_MS=30_000)
    planwatch = PlanWatch(app)
    if "asyncpg" in url:
        engine = create_async_engine(url, **options)
        planwatch.watch(engine, app)
        asyncio.run(run_async(engine, statement, partial(planwatch.flush, 30, app)))
    else:
        engine = sa.create_engine(url, **options)
        planwatch.watch(engine, app)
        with engine.connect() as connection:
            connection.execute(statement).all()
    assert planwatch.flush(120, app)
    findings = planwatch.findings(app)
    planwatch.unwatch(engine, app)
    if "asyncpg" not in url:
        engine.dispose()
    return planwatch.stats(app), findings


async def run_async(engine, statement, flush):
    async with engine.connect() as connection:
        (await connection.execute(statement)).all()
    await asyncio.to_thread(flush)
    await engine.dispose()


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg", "asyncpg"])
def test_each_encoding(encoded, driver):
    encoding, database = encoded
    statement = sa.text("SELECT id FROM plain WHERE lower(name) = :x").bindparams(x="n7")
    # SQLAlchemy itself cannot read the server's version as psycopg's bytes.
    ascii_too = encoding == "SQL_ASCII" and driver == "psycopg"
    options = {"connect_args": {"client_encoding": "utf8"}} if ascii_too else {}
    stats, findings = inspect(database.url_for(driver), statement, **options)
    assert stats["errors"] == 0
    if encoding == "SQL_ASCII" and driver == "psycopg2":
        # psycopg2 reads such a database as ASCII, and the catalog has more.
        assert stats["skipped"] == {"explain-failed": 1}
    else:
        assert (stats["skipped"], stats["inspected"]) == ({}, 1)
        assert [(one.rule, one.relation) for one in findings] == [
            ("functional-predicate", '"café"')
        ]


def plain(text):
    raise AssertionError("the application's own reader is for its own documents")


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg", "asyncpg"])
def test_the_engines_own_reader_of_json_gets_no_plan(each_story, driver):
    statement = sa.text('SELECT id FROM "user" WHERE lower(email) = :x').bindparams(x="a")
    stats, findings = inspect(each_story.url_for(driver), statement, json_deserializer=plain)
    assert (stats["errors"], stats["skipped"], stats["inspected"]) == (0, {}, 1)
    assert [one.rule for one in findings] == ["functional-predicate"]

"""One statement of the application's is one warning, however long it is and whoever sends it."""

from __future__ import annotations

import asyncio
import logging
import uuid

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy import func
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import aliased

from flask_planwatch import PlanWatch
from flask_planwatch.signals import statement_inspected

from .models import User

pytestmark = pytest.mark.slow

DRIVERS = ("psycopg2", "psycopg", "asyncpg")
LENGTHS = (1, 2, 7)

rows = sa.select(User.id)
lowered = func.lower(User.email)


def emails(length):
    return [f"nobody{number}@example.com" for number in range(length)]


def values(length):
    given = sa.values(sa.column("email", sa.Text), name="given").data(
        [(e,) for e in emails(length)]
    )
    return rows.join(given, lowered == given.c.email)


def named(number):
    user = aliased(User, name=f"u{number}")
    return sa.select(user.id.label(f"x{number}")).where(func.lower(user.email) == "nobody")


#: One statement of an application each, by the length of what it holds.
STATEMENTS = {
    "IN": lambda n: rows.where(lowered.in_(emails(n))),
    "IN with literals": lambda n: rows.where(
        lowered.in_(sa.bindparam("emails", emails(n), expanding=True, literal_execute=True))
    ),
    "IN of rows": lambda n: rows.where(
        sa.tuple_(lowered, User.state).in_([(email, "active") for email in emails(n)])
    ),
    "ARRAY": lambda n: rows.where(lowered == sa.any_(array(emails(n)))),
    "one parameter": lambda n: rows.where(
        lowered == sa.any_(sa.literal(emails(n), sa.ARRAY(sa.Text)))
    ),
    "OR": lambda n: rows.where(sa.or_(*(lowered == email for email in emails(n)))),
    "VALUES": values,
    "CASE": lambda n: rows.where(
        lowered == "nobody", sa.case(dict.fromkeys(emails(n), 1), value=User.first, else_=2) == 1
    ),
    "UNION": lambda n: sa.union(*(rows.where(lowered == email) for email in emails(n + 1))),
    "UNION ALL": lambda n: sa.union_all(*(rows.where(lowered == email) for email in emails(n))),
    "aliases": named,
    "aliases without AS": lambda n: sa.text(
        f"SELECT u{n}.id x{n} FROM \"user\" u{n} WHERE lower(u{n}.email) = 'nobody' ORDER BY x{n}"
    ),
    "a trace's id": lambda n: rows.where(lowered == "nobody", User.id > 0).suffix_with(
        f"/*traceparent='00-{uuid.uuid4().hex}-01'*/"
    ),
    "LIMIT": lambda n: rows.where(lowered == "nobody").limit(n),
    "FETCH": lambda n: rows.where(lowered == "nobody").order_by(User.first).fetch(n),
}


def execute(url, statements, planwatch, app):
    """Execute statements one after the other, and wait until each was inspected."""
    if "asyncpg" not in url:
        engine = sa.create_engine(url)
        planwatch.watch(engine, app)
        for statement in statements:
            with engine.connect() as connection:
                connection.execute(statement).all()
            assert planwatch.flush(120, app)
        planwatch.unwatch(engine, app)
        engine.dispose()
        return

    async def main():
        engine = create_async_engine(url)
        planwatch.watch(engine, app)
        for statement in statements:
            async with engine.connect() as connection:
                (await connection.execute(statement)).all()
            assert await asyncio.to_thread(planwatch.flush, 120, app)
        planwatch.unwatch(engine, app)
        await engine.dispose()

    asyncio.run(main())


@pytest.mark.usefixtures("processor_time")
@pytest.mark.parametrize("driver", DRIVERS)
def test_one_statement_is_one_warning(story, caplog, driver):
    caplog.set_level(logging.WARNING, "flask_planwatch")
    app = Flask("tests.app")
    app.config.update(
        PLANWATCH_SAMPLE_INTERVAL=0,
        PLANWATCH_STATEMENT_TIMEOUT_MS=30_000,
        PLANWATCH_INSPECTIONS_PER_MINUTE=1000,
    )
    planwatch, fingerprints = PlanWatch(app), []

    def receive(sender, inspection):
        fingerprints.append(inspection.statement.fingerprint)

    statement_inspected.connect(receive, app)
    told = {}
    for name, build in STATEMENTS.items():
        fingerprints.clear()
        execute(story.url_for(driver), map(build, LENGTHS), planwatch, app)
        assert len(fingerprints) == len(LENGTHS), name
        told[name] = set(fingerprints)
    assert {name: len(known) for name, known in told.items()} == dict.fromkeys(STATEMENTS, 1)
    assert planwatch.stats(app)["errors"] == 0
    logged = [record.planwatch_id for record in caplog.records if hasattr(record, "planwatch_id")]
    assert logged
    assert len(logged) == len(set(logged))
    found = {finding.statement.fingerprint for finding in planwatch.findings(app)}
    assert all(known <= found for known in told.values())

"""What only the app's own session sees."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from ..models import WRITES_WHILE_PLANNED, User
from .comparing import accounts, compare, run, skipped

pytestmark = pytest.mark.slow


def test_a_temporary_table(watched):
    run(watched, "CREATE TEMP TABLE mine (a text)", "SELECT * FROM mine WHERE lower(a) = 'x'")
    assert skipped(watched) == {"not-visible": 1}


def test_an_uncommitted_table(watched):
    with watched.app.app_context(), watched.db.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE soon (a text)")
        connection.exec_driver_sql("SELECT * FROM soon")
        assert skipped(watched) in ({"not-visible": 1}, {"lock-timeout": 1})


def test_a_function_that_writes_while_planning_is_stopped(fresh_story, watch):
    fresh_story.execute(*WRITES_WHILE_PLANNED)
    watched = watch(fresh_story.url)
    run(watched, "SELECT * FROM badge WHERE owner = claims()")
    written = fresh_story.scalar("SELECT count(*) FROM trace")
    assert skipped(watched) == {"explain-failed": 1}
    assert fresh_story.scalar("SELECT count(*) FROM trace") == written


def test_the_second_try_of_a_text_statement_keeps_its_finding(fresh_story, watch):
    watched = watch(fresh_story.url, PLANWATCH_SAMPLE_INTERVAL=300, PLANWATCH_VERIFY="build")
    run(
        watched,
        sa.update(User).values(first="x").where(User.id == 7),
        sa.text("SELECT id FROM \"user\" WHERE lower(email) = 'x'"),
    )
    assert [finding.rule for finding in watched.findings()] == ["functional-predicate"]


@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TEMP TABLE mine ON COMMIT DROP AS SELECT 1 AS a", "SELECT a FROM mine"],
        ["CREATE TABLE soon (a int)", "SELECT a FROM soon"],
        ["CREATE SCHEMA soon", "CREATE TABLE soon.a AS SELECT 1", "TABLE soon.a"],
        ["CREATE FUNCTION one() RETURNS int RETURN 1", "SELECT one()"],
        ["CREATE TYPE size AS ENUM ('small')", "SELECT 'small'::size"],
        ["ALTER TABLE badge ADD level int DEFAULT 3", "SELECT level FROM badge WHERE id = 7"],
        ["ALTER TABLE badge ALTER id TYPE bigint", "SELECT id FROM badge WHERE id = 7"],
        ["ALTER TABLE badge RENAME TO award", "SELECT id FROM award WHERE id = 7"],
        ["DROP TABLE badge", "CREATE TABLE badge (id int)", "SELECT id FROM badge"],
        ["CREATE INDEX ON badge (owner)", "SELECT id FROM badge WHERE owner = 'Owner7'"],
    ],
)
def test_ddl_that_is_not_committed(small_server, watch, driver, statements):
    """What the app made itself is not there for PlanWatch, or it is locked."""

    def scenario(visits):
        with visits.watched.app.app_context():
            engine = visits.watched.db.engine
        with engine.connect() as connection:
            for statement in statements:
                result = connection.exec_driver_sql(statement)
            answers = [[tuple(row) for row in result]]
            # Before the end of the transaction.
            visits.watched.planwatch.flush(120)
            connection.rollback()
        return [*answers, visits("SELECT count(*) FROM badge")]

    stats = accounts(compare(watch, small_server.url(driver), scenario))
    assert stats["skipped"] in ({"not-visible": 1}, {"lock-timeout": 1})

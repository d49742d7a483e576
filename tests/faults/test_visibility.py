"""What only the app's own session sees."""

from __future__ import annotations

import sqlalchemy as sa

from ..models import WRITES_WHILE_PLANNED, User
from .comparing import run, skipped


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

"""EXPLAIN ANALYZE runs a statement again only where that can do no harm."""

from __future__ import annotations

import re

import pytest
import sqlalchemy as sa

from flask_planwatch.failure import ServerError
from flask_planwatch.finding import SkipReason
from flask_planwatch.server.explain import Query, analyse, explain
from flask_planwatch.server.session import Session
from flask_planwatch.signals import statement_inspected

from .models import Badge, User

OBJECTS = (
    "CREATE FUNCTION careless() RETURNS int LANGUAGE plpgsql VOLATILE AS $$ BEGIN RETURN 1; END $$",
    'CREATE FUNCTION "Careful"(int) RETURNS int LANGUAGE sql STABLE AS $$ SELECT $1 $$',
    "CREATE VIEW hidden AS SELECT id, careless() AS n FROM badge",
    "CREATE VIEW filtered AS SELECT id FROM badge WHERE careless() = 1",
    "CREATE VIEW made AS SELECT * FROM careless() AS one",
    "CREATE SEQUENCE numbers",
    "CREATE EXTENSION IF NOT EXISTS file_fdw",
    "CREATE SERVER files FOREIGN DATA WRAPPER file_fdw",
    "CREATE FOREIGN TABLE elsewhere (a text) SERVER files OPTIONS (filename '/dev/null')",
)


@pytest.fixture(scope="module")
def place(each_story):
    each_story.execute(*OBJECTS)
    return each_story


@pytest.fixture(params=["psycopg2", "psycopg"])
def session(request, place):
    engine = sa.create_engine(place.url_for(request.param))
    session = Session(engine, url=None, statement_timeout_ms=30_000, lock_timeout_ms=1000)
    yield session
    session.close()
    engine.dispose()


def run_again(session, sql, parameters=None, took_ms=1.0):
    query = Query(sql, parameters, escaped=parameters is not None)
    return analyse(session, query, explain(session, query), took_ms=took_ms)


def test_it_counts_what_each_step_did(session):
    plan = run_again(session, "SELECT * FROM badge WHERE id <= %(most)s", {"most": 7})
    (scan,) = plan.scans
    assert plan.analysed
    assert (scan.actual_rows, scan.actual_loops, scan.removed_rows) == (7, 1, 33)
    # From 18 on, the server counts rows with two decimals.
    assert re.search(r"\(actual rows=7(\.00)? loops=1\)", plan.as_text())


def test_what_never_ran(session):
    plan = run_again(
        session, "SELECT * FROM badge WHERE 1 = 2 UNION ALL SELECT * FROM badge LIMIT 0"
    )
    assert any(node.actual_loops == 0 for node in plan.nodes)
    assert "(never executed)" in plan.as_text()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT now(), lower(owner), count(*) FROM badge GROUP BY 2",
        'SELECT "Careful"(id) FROM badge',
        "SELECT coalesce(owner, ''), extract(year FROM now()) FROM badge WHERE id IN (1, 2)",
        "WITH few AS (SELECT id FROM badge) SELECT * FROM few",
        "VALUES (1)",
        "TABLE badge",
    ],
)
def test_plain_selects_are_run(session, sql):
    assert run_again(session, sql).analysed


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("UPDATE badge SET owner = owner", "writes"),
        ("DELETE FROM badge", "writes"),
        ("INSERT INTO badge SELECT * FROM badge", "writes"),
        ("WITH gone AS (DELETE FROM badge RETURNING *) SELECT * FROM gone", "writes"),
        ("SELECT * FROM badge FOR UPDATE", "locks"),
        ("SELECT * FROM badge FOR SHARE", "locks"),
        ("SELECT nextval('numbers')", "nextval is volatile"),
        ("SELECT pg_sleep(0)", "pg_sleep is volatile"),
        ("SELECT id FROM badge ORDER BY random()", "random is volatile"),
        ("SELECT id FROM badge WHERE careless() = 1", "careless is volatile"),
        ("SELECT * FROM careless()", "careless is volatile"),
        ("SELECT n FROM hidden", "careless is volatile"),
        ("SELECT id FROM filtered", "careless is volatile"),
        ("SELECT one FROM made", "careless is volatile"),
        ('SELECT public."careless"() FROM badge', "careless is volatile"),
        ("SELECT pg_advisory_lock(1)", "pg_advisory_lock is volatile"),
        ("SELECT a FROM elsewhere", "another server"),
    ],
)
def test_all_else_is_refused(session, sql, why):
    with pytest.raises(ServerError) as caught:
        run_again(session, sql)
    assert caught.value.reason is SkipReason.NOT_ANALYSED
    assert why in caught.value.detail


def test_a_slow_statement_is_refused(session):
    with pytest.raises(ServerError, match="PLANWATCH_STATEMENT_TIMEOUT_MS"):
        run_again(session, "SELECT 1", took_ms=30_000)


def test_what_takes_too_long_the_second_time_is_cancelled(place):
    engine = sa.create_engine(place.url)
    session = Session(engine, url=None, statement_timeout_ms=1000, lock_timeout_ms=1000)
    with pytest.raises(ServerError) as caught:
        run_again(session, 'SELECT count(*) FROM "user" a, badge b, badge c')
    assert caught.value.reason is SkipReason.NOT_ANALYSED
    session.close()


#: A plan of several steps, one of which reads all badges.
JOINED = sa.select(Badge.owner, User.email).join(User, User.id == Badge.id)


def skipped(watched):
    assert watched.planwatch.flush(120)
    return watched.planwatch.stats()["skipped"]


def scans(place, table):
    """Return how often the server read all of a table, as far as it has counted."""
    place.execute("SELECT pg_stat_force_next_flush()")
    return place.scalar(f"SELECT seq_scan FROM pg_stat_user_tables WHERE relname = '{table}'")


@pytest.mark.parametrize(("analyze", "times"), [(False, 1), (True, 2)])
def test_it_is_asked_for_by_the_setting(place, watch, analyze, times):
    watched = watch(place.url, PLANWATCH_ANALYZE=analyze, PLANWATCH_VERIFY="off")
    before = scans(place, "badge")
    watched.ask(JOINED)
    with watched.app.app_context():
        watched.db.engine.dispose()
    assert scans(place, "badge") - before == times
    assert skipped(watched) == {}


def test_it_has_a_budget_of_its_own(place, watch):
    watched = watch(place.url, PLANWATCH_ANALYZE=True, PLANWATCH_INSPECTIONS_PER_MINUTE=12)
    for number in range(1, 5):
        watched.ask(JOINED.limit(number).where(Badge.id > number))
        watched.ask(JOINED.where(User.id == number).order_by(User.id))
    stats = watched.planwatch.stats()
    assert stats["inspected"] == 8
    assert skipped(watched) == {"not-analysed": 6}


#: Without a run, nobody knows that so many rows pass the first conditions.
CORRELATED = sa.text(
    "SELECT count(*) FROM task t WHERE t.state = 'queued' AND t.kind = 'sub' "
    "AND (SELECT count(*) FROM task o WHERE o.account = t.account AND o.state <> 'done') > 0"
)


def test_what_a_run_has_shown_stays_until_another_run(place, watch, caplog):
    caplog.set_level("INFO", "flask_planwatch")
    place.execute(
        "CREATE TABLE task (account int, state text, kind text)",
        "INSERT INTO task SELECT g % 40, CASE g % 40 WHEN 0 THEN 'queued' ELSE 'done' END, "
        "CASE g % 40 WHEN 0 THEN 'sub' ELSE 'main' END FROM generate_series(1, 8000) g",
        "INSERT INTO task SELECT g % 40, 'work', 'main' FROM generate_series(1, 4000) g",
        "CREATE INDEX ON task (state, kind)",
        "CREATE INDEX ON task (account)",
        "ANALYZE task",
    )
    # One run in a minute.
    watched = watch(place.url, PLANWATCH_ANALYZE=True, PLANWATCH_INSPECTIONS_PER_MINUTE=6)
    found = [{finding.rule for finding in watched.ask(CORRELATED)} for _ in range(3)]
    assert found == [{"repeated-subplan"}] * 3
    assert skipped(watched) == {"not-analysed": 2}
    assert not any("resolved" in message for message in caplog.messages)


def test_why_it_was_not_run_is_counted_told_and_kept(place, watch, caplog):
    caplog.set_level("INFO", "flask_planwatch")
    watched = watch(place.url, PLANWATCH_ANALYZE=True)
    inspections = []

    def keep(sender, inspection):
        inspections.append(inspection)

    statement_inspected.connect(keep, watched.app)
    for _ in range(2):
        watched.ask(JOINED.add_columns(sa.func.random()))
    assert skipped(watched) == {"not-analysed": 2}
    (unanswered,) = inspections[0].unanswered
    assert unanswered.detail == "the function random is volatile"
    assert inspections[0].plan is not None
    told = [one for one in caplog.messages if "not-analysed" in one]
    assert len(told) == 1


def test_what_failed_is_not_run_again(place, watch):
    watched = watch(place.url, PLANWATCH_ANALYZE=True)
    with (
        watched.app.app_context(),
        watched.db.engine.connect() as connection,
        pytest.raises(sa.exc.DBAPIError),
    ):
        connection.execute(JOINED.add_columns(1 / (Badge.id - Badge.id), sa.func.random()))
    # Otherwise it would be told that random() is volatile.
    assert skipped(watched) == {}
    assert watched.planwatch.stats()["inspected"] == 1

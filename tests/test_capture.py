"""What is captured, what is passed over, and with which parameters, duration and error."""

from __future__ import annotations

import logging
import time

import pytest
import sqlalchemy as sa
from sqlalchemy import func

from flask_planwatch.capture import hooks, sampling
from flask_planwatch.signals import statement_inspected

from .models import WRITES_WHILE_PLANNED, Badge, User

pytestmark = pytest.mark.versions

LOGIN = sa.select(User.id).where(func.lower(User.email) == "x")


@pytest.fixture(params=["psycopg2", "psycopg"])
def watched(request, story, watch):
    return watch(story.url_for(request.param))


@pytest.fixture
def inspections(watched):
    """The inspections of a test, complete once the worker was flushed."""
    received = []

    def receive(sender, inspection):
        received.append(inspection)

    def complete():
        assert watched.planwatch.flush(120)
        return received

    with statement_inspected.connected_to(receive, watched.app):
        yield complete


def run(watched, *statements, **options):
    with watched.app.app_context(), watched.db.engine.connect() as connection:
        connection = connection.execution_options(**options)
        for statement in statements:
            if isinstance(statement, str):
                connection.exec_driver_sql(statement)
            else:
                connection.execute(statement)


CAPTURED = {
    "core select": LOGIN,
    "insert": sa.insert(Badge).values(id=1000, owner="x"),
    "update": sa.update(User).values(first="x").where(User.id == 1),
    "delete": sa.delete(User).where(User.id == 1),
    "text": sa.text("SELECT * FROM badge WHERE id = :id").bindparams(id=1),
    "driver-level": "SELECT 1 FROM badge WHERE owner LIKE 'a%%'",
    "comment first": "/* hello */ -- there\n ( SELECT 1 )",
    "with": "WITH x AS (SELECT 1 AS a) SELECT a FROM x",
    "for update": sa.select(Badge).with_for_update(),
    "no parameters": sa.select(func.count()).select_from(Badge),
}


@pytest.mark.parametrize("name", CAPTURED)
def test_captured_and_explained(watched, inspections, name):
    run(watched, CAPTURED[name])
    (inspection,) = inspections()
    assert inspection.skip is None
    assert inspection.plan.total_cost > 0


PASSED_OVER = {
    "ddl": "CREATE TABLE t_passed (id int)",
    "ddl construct": sa.schema.CreateTable(sa.Table("t_p", sa.MetaData(), sa.Column("a", sa.Text))),
    "explain": "EXPLAIN SELECT 1",
    "set": "SET LOCAL statement_timeout = 0",
    "savepoint": "SAVEPOINT a",
    "call": "DO $$ BEGIN END $$",
    "show": "SHOW server_version",
}


@pytest.mark.parametrize("name", PASSED_OVER)
def test_passed_over(watched, inspections, name):
    run(watched, PASSED_OVER[name])
    assert inspections() == []
    assert watched.planwatch.stats()["captured"] == 0
    assert watched.planwatch.stats()["skipped"] == {}


def test_many_parameter_sets_are_passed_over(watched, inspections):
    rows = [{"id": 2000 + number, "owner": "x"} for number in range(3)]
    with watched.app.app_context():
        session = watched.db.session
        session.execute(sa.insert(Badge), rows)
        session.execute(
            sa.insert(Badge).returning(Badge.id), [{**r, "id": r["id"] + 9} for r in rows]
        )
        session.rollback()
    assert inspections() == []


def test_one_statement_opts_out(watched, inspections):
    run(watched, LOGIN.execution_options(planwatch=False))
    run(watched, LOGIN, planwatch=False)
    with pytest.raises(sa.exc.DataError):
        run(watched, "SELECT 1 / (SELECT 0)", planwatch=False)
    assert inspections() == []
    stats = watched.planwatch.stats()
    assert (stats["captured"], stats["opted_out"]) == (0, 3)
    run(watched, LOGIN, planwatch=True)
    assert len(inspections()) == 1


def test_literals_in_driver_level_sql_share_one_fingerprint(watched, inspections):
    run(watched, *(f"SELECT 1 FROM badge WHERE id = {id_} AND owner <> 'o{id_}'" for id_ in (1, 2)))
    first, second = inspections()
    assert first.statement == second.statement
    assert first.statement.text == "SELECT ? FROM badge WHERE id = ? AND owner <> ?"


def test_same_text_with_other_literals_is_sampled_once(story, watch):
    watched = watch(story.url)
    watched.app.config["PLANWATCH_SAMPLE_INTERVAL"] = 300
    run(watched, *(f"SELECT 1 FROM badge WHERE id = {id_}" for id_ in range(5)))
    assert watched.planwatch.flush(120)
    stats = watched.planwatch.stats()
    assert (stats["inspected"], stats["skipped"]) == (1, {"recently-inspected": 4})


@pytest.mark.parametrize(("wait", "inspected"), [(300, 1), (0, 3)])
def test_a_statement_that_is_always_slow_waits(story, watch, monkeypatch, wait, inspected):
    monkeypatch.setattr(sampling, "SLOW_WAIT", wait)
    watched = watch(story.url, PLANWATCH_SAMPLE_INTERVAL=300, PLANWATCH_SLOW_STATEMENT_MS=0)
    for _ in range(3):
        run(watched, LOGIN)
        assert watched.planwatch.flush(120, watched.app)
    assert watched.planwatch.stats(watched.app)["inspected"] == inspected


def test_fingerprint_ignores_values_and_length_of_lists(watched, inspections):
    run(
        watched, sa.select(User).where(User.id.in_([1])), sa.select(User).where(User.id.in_([2, 3]))
    )
    first, second = inspections()
    assert first.statement == second.statement
    assert "IN (...)" in first.statement.text


def test_duration_is_that_of_the_statement(watched, inspections, processor_time):
    processor_time.count_waiting()
    run(watched, sa.select(func.pg_sleep(0.1)))
    (inspection,) = inspections()
    assert inspection.duration_ms >= 100


def test_failed_statement_keeps_its_error(watched, inspections):
    with pytest.raises(sa.exc.DBAPIError):
        run(watched, "SET LOCAL statement_timeout = 10", sa.select(func.pg_sleep(1), User.id))
    (inspection,) = inspections()
    assert inspection.error.sqlstate == "57014"
    assert inspection.plan is not None


def test_failed_login_scan_is_critical(watched):
    slow = LOGIN.where(func.pg_sleep(0.01).is_not(None))
    with pytest.raises(sa.exc.DBAPIError):
        run(watched, "SET LOCAL statement_timeout = 1", slow)
    findings = watched.findings()
    assert {one.rule for one in findings} == {"functional-predicate", "statement-failed"}
    assert {one.severity for one in findings} == {"critical"}
    assert {one.error.sqlstate for one in findings} == {"57014"}


def test_wrong_sql_is_a_named_skip(watched, inspections):
    with pytest.raises(sa.exc.DBAPIError):
        run(watched, "SELECT nonsense FROM badge")
    (inspection,) = inspections()
    assert inspection.skip.reason == "statement-invalid"


def test_values_of_a_dict_that_the_app_reuses(watched, inspections, held):
    parameters = {"id": 1}
    with watched.app.app_context(), watched.db.engine.connect() as connection:
        connection.exec_driver_sql("SELECT * FROM badge WHERE id = %(id)s", parameters)
        parameters["id"] = object()
        parameters.clear()
    held.set()
    (inspection,) = inspections()
    assert inspection.skip is None


def test_listeners_and_handlers_that_use_the_database_cause_no_loop(watched):
    def receive(sender, inspection):
        watched.db.session.execute(LOGIN).all()

    class Asks(logging.Handler):
        def emit(self, record):
            with watched.app.app_context():
                watched.db.session.execute(LOGIN).all()

    handler = Asks()
    logging.getLogger("flask_planwatch").addHandler(handler)
    try:
        with statement_inspected.connected_to(receive, watched.app):
            run(watched, LOGIN)
            assert watched.planwatch.flush(120)
    finally:
        logging.getLogger("flask_planwatch").removeHandler(handler)
    assert watched.planwatch.stats()["captured"] == 1
    assert watched.planwatch.stats()["errors"] == 0


def test_an_autocommit_engine_makes_no_transaction_of_planwatch_writable(fresh_story, watch):
    fresh_story.execute(*WRITES_WHILE_PLANNED)
    watched = watch(fresh_story.url, SQLALCHEMY_ENGINE_OPTIONS={"isolation_level": "AUTOCOMMIT"})
    run(watched, "SELECT * FROM badge WHERE owner = claims()")
    written = fresh_story.scalar("SELECT count(*) FROM trace")
    assert watched.planwatch.flush(120)
    assert watched.planwatch.stats()["skipped"] == {"explain-failed": 1}
    assert fresh_story.scalar("SELECT count(*) FROM trace") == written


def test_server_side_cursor(watched, inspections):
    with watched.app.app_context(), watched.db.engine.connect() as connection:
        result = connection.execution_options(stream_results=True).execute(LOGIN)
        result.fetchmany(1)
        result.close()
    (inspection,) = inspections()
    assert inspection.skip is None


def test_a_text_of_comments_takes_no_time(watched):
    started = time.perf_counter()
    run(watched, "/* c */ " * 60 + "SET LOCAL work_mem = '4MB'")
    # The naive expression takes years, so that no machine is too slow for this bound.
    assert time.perf_counter() - started < 60
    assert watched.planwatch.stats()["captured"] == 0


@pytest.mark.parametrize(("length", "known_by_text"), [(9_000, True), (20_000, False)])
def test_a_long_text_is_counted_by_its_hash(story, watch, length, known_by_text):
    watched = watch(story.url, PLANWATCH_SAMPLE_INTERVAL=300)
    text = f"SELECT 1 FROM badge WHERE owner <> '{'x' * length}'"
    for _ in range(5):
        # As a driver-level text is: another object each time.
        run(watched, "".join(text))
    (engine,) = watched.app.extensions["planwatch"]._engines.values()
    ((identity, statistics),) = engine.watch._statistics.recent.items()
    assert (identity == text) is known_by_text
    assert statistics.calls == 5
    assert watched.planwatch.flush(120)
    assert watched.planwatch.stats()["inspected"] == 1


def test_a_text_that_is_too_long_is_read_once(story, watch, monkeypatch):
    """It takes some ms to see that it changes no setting."""
    read = []
    monkeypatch.setattr(hooks, "may_change_state", lambda text: read.append(text) or True)
    watched = watch(story.url)
    text = f"SELECT 1 FROM badge WHERE owner <> '{'x' * 30_000}'"
    run(watched, text)
    seen = len(read)
    run(watched, text, "".join(text))
    assert len(read) == seen


def test_a_capture_says_what_it_takes(watched, monkeypatch):
    captures = []
    (engine,) = watched.app.extensions["planwatch"]._engines.values()
    submit = engine.submit
    monkeypatch.setattr(
        engine.watch._sink(), "submit", lambda one: captures.append(one) or submit(one)
    )
    run(
        watched,
        sa.text("SELECT 1 FROM badge WHERE owner = :a").bindparams(a="x"),
        sa.text("SELECT 1 FROM badge WHERE owner = :a").bindparams(a="x" * 500_000),
        sa.text("SELECT 1 FROM badge WHERE owner = :a").bindparams(a="x" * 5_000_000),
    )
    small, large, left_out = captures
    assert 100 < small.size < 1000
    assert 500_000 < large.size < 501_000
    assert left_out.size < 1000
    assert left_out.parameters is None


def test_a_translated_schema_is_shown_by_its_name(watched, inspections):
    table = sa.Table("badge", sa.MetaData(), sa.Column("id", sa.Integer), schema="tenant")
    run(watched, sa.select(table.c.id), schema_translate_map={"tenant": "public"})
    (inspection,) = inspections()
    assert inspection.skip is None
    assert inspection.statement.text == "SELECT tenant.badge.id FROM tenant.badge"


def test_each_bind_is_inspected_in_a_request(story, watch):
    watched = watch(story.url, SQLALCHEMY_BINDS={"second": story.url})

    def view():
        for engine in watched.db.engines.values():
            with engine.connect() as connection:
                connection.execute(LOGIN)
        return ""

    watched.app.add_url_rule("/", view_func=view)
    watched.app.test_client().get("/")
    assert {finding.statement.bind for finding in watched.findings()} == {None, "second"}

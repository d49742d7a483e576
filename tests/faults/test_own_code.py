"""Code that raises: the app's handlers and receivers, and PlanWatch's own."""

from __future__ import annotations

import logging
from functools import reduce

import pytest
import sqlalchemy as sa

from flask_planwatch.finding import SkipReason
from flask_planwatch.inspection import inspector
from flask_planwatch.signals import statement_inspected

from ..models import Badge
from .comparing import LOGIN, compare, run, skipped

pytestmark = [pytest.mark.slow, pytest.mark.versions]


@pytest.mark.parametrize(
    "hook", ["_statistics_of", "_look", "_capturing._capture", "_capturing.find_origin"]
)
def test_a_hook_that_raises_is_counted_and_breaks_nothing(watched, monkeypatch, caplog, hook):
    def broken(*args, **kwargs):
        raise RuntimeError("boom: a compared value")

    with watched.app.app_context():
        engine = watched.db.engine
    watch = watched.app.extensions["planwatch"]._engines[engine].watch
    *owners, name = hook.split(".")
    monkeypatch.setattr(reduce(getattr, owners, watch), name, broken)
    for _ in range(3):
        assert run(watched, sa.select(Badge.id).limit(1)) == [(1,)]
    assert watched.planwatch.stats()["errors"] == 3
    (record,) = caplog.records
    assert "RuntimeError" in record.getMessage()
    assert "compared value" not in caplog.text


def test_a_clock_that_raises_breaks_nothing(watched, monkeypatch):
    def broken():
        raise OSError

    monkeypatch.setattr("flask_planwatch.capture.hooks.now", broken)
    assert run(watched, sa.select(Badge.id).limit(1)) == [(1,)]
    # At the connection's checkout, and before and after the statement.
    assert watched.planwatch.stats()["errors"] == 3


def test_an_inspection_that_raises_is_a_named_skip(watched, monkeypatch):
    def broken(self, capture):
        raise ZeroDivisionError

    monkeypatch.setattr(inspector.Inspector, "_inspect", broken)
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
    # The receiver, and the handler twice: for the finding, and for the line about the receiver.
    assert watched.planwatch.stats()["errors"] == 3


def test_connect_listeners_of_the_app_that_raise(fresh_story, watch):
    """They run on PlanWatch's connection as well, without a request there."""
    watched = watch(fresh_story.url)
    with watched.app.app_context():
        engine = watched.db.engine

    @sa.event.listens_for(engine, "connect")
    def needs_a_request(connection, record):
        from flask import request

        connection.cursor().execute("SELECT set_config('app.path', %s, false)", (request.path,))

    watched.app.add_url_rule("/", view_func=lambda: str(watched.db.session.execute(LOGIN).all()))
    assert watched.app.test_client().get("/").status_code == 200
    assert skipped(watched) == {"pool-listener-failed": 1}


def test_a_creator_that_hands_out_one_connection(fresh_story, watch):
    """As test suites do: PlanWatch must not roll the app's own transaction back, or close it."""
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


def test_every_reason_has_an_explanation():
    assert all(reason.explanation for reason in SkipReason)


def test_a_receiver_that_wants_to_end_the_program_ends_nothing(watched):
    def ends(sender, inspection):
        raise SystemExit

    with statement_inspected.connected_to(ends, watched.app):
        run(watched, LOGIN)
        assert watched.planwatch.flush(120)
    run(watched, sa.select(Badge.id))
    assert watched.planwatch.flush(120)
    assert watched.planwatch.stats()["inspected"] == 2


def test_what_comes_after_init_app_breaks_no_request(fresh_story, watch):
    watched = watch(fresh_story.url)
    watched.app.config["PLANWATCH_SAMPLE_INTERVAL"] = "often"
    watched.app.add_url_rule("/", view_func=lambda: str(watched.db.session.execute(LOGIN).all()))
    assert watched.app.test_client().get("/").status_code == 200
    assert watched.planwatch.flush(120)
    assert watched.planwatch.stats()["captured"] == 1
    assert watched.planwatch.stats()["errors"] == 0


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
        assert first.planwatch.flush(120, first.app)
        assert second.planwatch.flush(120, second.app)
    assert first.planwatch.stats(first.app)["captured"] == 1
    assert second.planwatch.stats(second.app)["captured"] == 1
    second.planwatch.unwatch(engine, second.app)


class Raises(logging.Handler):
    """A handler of the app's that is broken."""

    def emit(self, record):
        raise RuntimeError


@pytest.fixture
def broken_log():
    """The log of PlanWatch, with a handler that raises."""
    logger = logging.getLogger("flask_planwatch")
    handler = Raises()
    logger.addHandler(handler)
    yield logger
    logger.removeHandler(handler)


def test_an_app_whose_log_and_receivers_raise(small_server, watch, driver, broken_log):
    def raises(sender, **_):
        raise RuntimeError

    def scenario(visits):
        with statement_inspected.connected_to(raises, visits.watched.app):
            answers = [visits(LOGIN), visits(LOGIN)]
            visits.watched.planwatch.flush(120)
            return answers

    visits = compare(watch, small_server.url(driver), scenario)
    assert len(visits.watched.findings()) == 1
    stats = visits.watched.planwatch.stats()
    assert (stats["inspected"], stats["skipped"], stats["waiting"]) == (2, {}, 0)
    # The log of the finding, which is told once, and the receiver.
    assert stats["errors"] >= 2


def test_a_log_that_raises_while_the_app_starts(small_server, watch, broken_log):
    broken_log.setLevel(logging.INFO)
    try:
        watched = watch(small_server.url(), SQLALCHEMY_BINDS={"other": "sqlite://"})
        assert watched.planwatch.stats()["errors"] == 1
    finally:
        broken_log.setLevel(logging.NOTSET)

"""PlanWatch and the app: factories, several apps, either order, binds, plain engines, switches."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref

import flask
import pytest
import sqlalchemy as sa
from blinker import NamedSignal
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import func

from flask_planwatch import PlanWatch, SettingError
from flask_planwatch.statement.fingerprint import fingerprint
from flask_planwatch.worker import POLL_SECONDS

from .conditions import becomes
from .models import User, metadata

pytestmark = pytest.mark.versions

LOGIN = sa.select(User.id).where(func.lower(User.email) == "x")


def make_app(url, **config):
    app = Flask("tests.app")
    app.config.update(SQLALCHEMY_DATABASE_URI=url, PLANWATCH_SAMPLE_INTERVAL=0, **config)
    return app


def ask(app, db, statement=LOGIN, bind=None):
    with app.app_context():
        with db.engines[bind].connect() as connection:
            connection.execute(statement).all()
        engine = db.engines[bind]
    return engine


@pytest.fixture(params=["before", "after", "inside a context"])
def app_and_db(request, story):
    app, db, planwatch = make_app(story.url), SQLAlchemy(metadata=metadata), PlanWatch()
    if request.param == "before":
        planwatch.init_app(app)
        db.init_app(app)
    elif request.param == "after":
        db.init_app(app)
        planwatch.init_app(app)
    else:
        with app.app_context():
            planwatch.init_app(app)
            db.init_app(app)
    yield app, db, planwatch
    with app.app_context():
        db.engine.dispose()


def test_either_order_of_initialisation(app_and_db):
    app, db, planwatch = app_and_db
    ask(app, db)
    assert planwatch.flush(120, app)
    assert len(planwatch.findings(app)) == 1


def test_database_that_comes_after_a_context_was_pushed_is_found_by_a_request(story):
    app, db = make_app(story.url), SQLAlchemy(metadata=metadata)
    planwatch = PlanWatch(app)
    app.add_url_rule("/", view_func=lambda: str(db.session.execute(LOGIN).all()))
    with app.app_context():
        db.init_app(app)
        app.test_client().get("/")
        assert planwatch.flush(120)
        assert len(planwatch.findings()) == 1
        db.session.remove()
        db.engine.dispose()


def test_two_apps_know_only_their_own(story):
    planwatch = PlanWatch()
    apps = [make_app(story.url, NAME=str(number)) for number in range(2)]
    other = make_app(story.url)
    dbs = [SQLAlchemy(app, metadata=metadata) for app in (*apps, other)]
    for app in apps:
        planwatch.init_app(app)
    ask(apps[0], dbs[0])
    ask(other, dbs[2])
    assert all(planwatch.flush(120, app) for app in apps)
    assert len(planwatch.findings(apps[0])) == 1
    assert planwatch.findings(apps[1]) == ()
    assert "planwatch" not in other.extensions
    with pytest.raises(RuntimeError, match="2 apps"):
        planwatch.findings()
    with apps[0].app_context():
        assert len(planwatch.findings()) == 1
    with pytest.raises(RuntimeError, match="was not initialised for the app"):
        planwatch.findings(other)
    for app, db in zip((*apps, other), dbs, strict=True):
        with app.app_context():
            db.engine.dispose()


def test_the_only_app_needs_no_context(story):
    app = make_app(story.url)
    planwatch = PlanWatch(app)
    assert planwatch.findings() == ()
    assert planwatch.flush(0)
    with pytest.raises(RuntimeError, match="0 apps"):
        PlanWatch().findings()


def test_initialised_twice_is_refused(story):
    app = make_app(story.url)
    PlanWatch(app)
    with pytest.raises(RuntimeError, match="already"):
        PlanWatch(app)


def test_several_binds(story, caplog):
    app = make_app(story.url, SQLALCHEMY_BINDS={"second": story.url, "lite": "sqlite://"})
    db, planwatch = SQLAlchemy(app, metadata=metadata), PlanWatch(app)
    caplog.set_level(logging.INFO, "flask_planwatch")
    engines = [ask(app, db), ask(app, db, bind="second")]
    engines.append(ask(app, db, sa.text("SELECT 1"), bind="lite"))
    assert planwatch.flush(120)
    findings = planwatch.findings()
    assert {finding.statement.bind for finding in findings} == {None, "second"}
    assert len({finding.id for finding in findings}) == 2
    for engine in engines:
        engine.dispose()


def test_engines_that_are_not_postgresql_are_left_alone_and_said_once(caplog):
    caplog.set_level(logging.INFO, "flask_planwatch")
    app = make_app("sqlite://")
    db, planwatch = SQLAlchemy(app), PlanWatch(app)
    for _ in range(3):
        engine = ask(app, db, sa.text("SELECT 1"))
    engine.dispose()
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "sqlite+pysqlite" in record.getMessage()
    assert planwatch.stats()["captured"] == 0


def test_watch_takes_engines_only(story):
    app = make_app(story.url)
    planwatch = PlanWatch(app)
    with pytest.raises(TypeError, match="not str"):
        planwatch.watch(story.url)


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_watch_and_unwatch_a_plain_engine(fresh_story, driver):
    app = make_app(fresh_story.url)
    planwatch = PlanWatch(app)
    engine = sa.create_engine(fresh_story.url_for(driver))
    planwatch.watch(engine)
    planwatch.watch(engine)
    with engine.connect() as connection:
        connection.execute(LOGIN).all()
    assert planwatch.flush(120)
    assert len(planwatch.findings()) == 1
    assert planwatch.stats()["captured"] == 1
    planwatch.unwatch(engine)
    planwatch.unwatch(engine)
    with engine.connect() as connection:
        connection.execute(LOGIN).all()
    assert planwatch.stats()["captured"] == 1
    assert connections_become(fresh_story, 1), "only the app's pool is left"
    planwatch.watch(engine)
    with engine.connect() as connection:
        connection.execute(LOGIN).all()
    assert planwatch.flush(120)
    assert planwatch.stats()["inspected"] == 2
    planwatch.unwatch(engine)
    engine.dispose()


def connections_become(database, number):
    """Whether there are soon that many: a backend takes a moment to end."""
    return becomes(lambda: len(database.clients()) == number)


def test_an_engine_that_is_not_watched_any_more_can_be_collected(story):
    app = make_app(story.url)
    planwatch = PlanWatch(app)
    engine = sa.create_engine(story.url)
    planwatch.watch(engine)
    with engine.connect() as connection:
        connection.execute(LOGIN).all()
    assert planwatch.flush(120)
    planwatch.unwatch(engine)
    engine.dispose()
    gone = weakref.ref(engine)
    del engine, connection
    deadline = time.monotonic() + 60
    while gone() is not None and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.02)
    assert gone() is None


def test_plain_engines_are_told_apart_and_keep_their_fingerprints(story):
    app = make_app(story.url)
    planwatch = PlanWatch(app)
    engines = [sa.create_engine(story.url) for _ in range(2)]
    for engine in engines:
        planwatch.watch(engine)
        with engine.connect() as connection:
            connection.execute(LOGIN).all()
    assert planwatch.flush(120)
    first, second = planwatch.findings()
    assert first.fingerprint != second.fingerprint
    expected = fingerprint(str(LOGIN.compile(engines[0])), None)
    assert expected in {first.fingerprint, second.fingerprint}
    for engine in engines:
        planwatch.unwatch(engine)
        engine.dispose()


def test_switched_off_attaches_nothing(story):
    app = make_app(story.url, PLANWATCH_ENABLED=False)
    db, planwatch = SQLAlchemy(app, metadata=metadata), PlanWatch(app)
    engine = ask(app, db)
    planwatch.watch(engine)
    for name in ("before_cursor_execute", "after_cursor_execute", "engine_disposed"):
        assert not getattr(engine.dispatch, name)
    assert not engine.dialect.dispatch.handle_error
    assert not [
        receiver
        for name, signal in vars(flask.signals).items()
        if isinstance(signal, NamedSignal)
        for receiver in signal.receivers_for(app)
        if receiver.__module__.startswith("flask_planwatch")
    ]
    assert planwatch.findings() == ()
    assert planwatch.flush(0)
    assert planwatch.stats()["captured"] == 0
    engine.dispose()


def test_a_wrong_setting_is_refused_at_once(story):
    app = make_app(story.url)
    app.config["PLANWATCH_SAMPLE_INTERVAL"] = "often"
    with pytest.raises(SettingError, match="PLANWATCH_SAMPLE_INTERVAL"):
        PlanWatch(app)


def test_debug_may_come_after_init_app(story):
    app = make_app(story.url)
    del app.config["PLANWATCH_SAMPLE_INTERVAL"]
    db, planwatch = SQLAlchemy(app, metadata=metadata), PlanWatch(app)
    app.debug = True
    for _ in range(2):
        engine = ask(app, db)
    assert planwatch.flush(120)
    assert planwatch.stats()["inspected"] == 2
    engine.dispose()


def test_clear_forgets_and_finds_again(story):
    app = make_app(story.url)
    db, planwatch = SQLAlchemy(app, metadata=metadata), PlanWatch(app)
    ask(app, db)
    assert planwatch.flush(120)
    planwatch.clear()
    assert planwatch.findings() == ()
    engine = ask(app, db)
    assert planwatch.flush(120)
    assert len(planwatch.findings()) == 1
    engine.dispose()


def test_what_waits_when_an_engine_is_disposed_of_connects_no_more(fresh_story):
    app = make_app(fresh_story.url)
    db, planwatch = SQLAlchemy(app, metadata=metadata), PlanWatch(app)
    for number in (1, 2):
        engine = ask(app, db)
        engine.dispose()
        assert planwatch.flush(120)
        stats = planwatch.stats()
        assert stats["inspected"] + stats["skipped"].get("unwatched", 0) == number
        # The server takes a moment to end one, and longer than a nap no other one may come.
        assert connections_become(fresh_story, 0)
        time.sleep(POLL_SECONDS + 0.1)
        assert fresh_story.clients() == set()


def test_an_engine_that_is_let_go_stays_so_in_the_next_app_context(fresh_story):
    app = make_app(fresh_story.url)
    db, planwatch = SQLAlchemy(app, metadata=metadata), PlanWatch(app)
    with app.app_context():
        planwatch.unwatch(db.engine)
    engine = ask(app, db)
    assert planwatch.stats()["captured"] == 0
    planwatch.watch(engine, app)
    ask(app, db)
    assert planwatch.flush(120)
    assert planwatch.stats()["inspected"] == 1
    engine.dispose()


def test_an_app_that_nobody_needs_is_collected_with_its_connection(fresh_story):
    app = make_app(fresh_story.url)
    db, planwatch = SQLAlchemy(app), PlanWatch(app)
    app_gone = weakref.ref(app)
    ask(app, db, sa.text("SELECT 1"))
    assert planwatch.flush(120)
    del app, db, planwatch
    deadline = time.monotonic() + 60
    while app_gone() is not None and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.05)
    assert app_gone() is None

    def is_unconnected():
        # What held the connection may be part of another cycle.
        gc.collect()
        return not fresh_story.clients()

    assert becomes(is_unconnected)


@pytest.mark.slow
def test_the_thread_ends_when_idle_and_gives_its_connection_up(fresh_story, monkeypatch):
    others = threading.enumerate()
    app = make_app(fresh_story.url)
    db, planwatch = SQLAlchemy(app, metadata=metadata), PlanWatch(app)
    for _ in range(2):
        monkeypatch.setattr("flask_planwatch.worker.IDLE_SECONDS", 600)
        engine = ask(app, db)
        assert planwatch.flush(120)
        assert len(fresh_story.clients()) == 2
        monkeypatch.setattr("flask_planwatch.worker.IDLE_SECONDS", 1)
        assert connections_become(fresh_story, 1)
        assert becomes(lambda: not planwatch.stats()["worker_alive"])
        started = [thread for thread in threading.enumerate() if thread not in others]
        assert not [thread for thread in started if thread.name == "flask-planwatch"]
    engine.dispose()


def test_dispose_closes_the_connection_so_that_a_database_can_be_dropped(fresh_story):
    app = make_app(fresh_story.url)
    db, planwatch = SQLAlchemy(app, metadata=metadata), PlanWatch(app)
    engine = ask(app, db)
    assert planwatch.flush(120)
    assert len(fresh_story.clients()) == 2
    engine.dispose()
    assert connections_become(fresh_story, 0)
    ask(app, db)
    assert planwatch.flush(120)
    assert planwatch.stats()["inspected"] == 2
    engine.dispose()

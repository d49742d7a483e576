"""Settings that can have no effect are named at the start, and stop nothing."""

from __future__ import annotations

import logging

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import func

from flask_planwatch import PlanWatch
from flask_planwatch.settings import read_settings
from flask_planwatch.start import idle_ignores, unused_urls

from .conditions import becomes
from .models import User

LOGIN = sa.select(User.id).where(func.lower(User.email) == "x")

MEANT = (
    "PLANWATCH_MIN_ROW is unknown: did you mean PLANWATCH_MIN_ROWS? It was set after init_app and "
    "has no effect."
)


@pytest.fixture
def warnings(caplog):
    """Return what is warned of, but for findings."""
    return lambda: [
        record.getMessage()
        for record in caplog.records
        if record.levelno == logging.WARNING and not hasattr(record, "planwatch_id")
    ]


def test_a_key_set_after_init_app_is_named_and_stops_nothing(story, watch, warnings):
    watched = watch(story.url)
    watched.app.config["PLANWATCH_MIN_ROW"] = 5
    watched.app.config["PLANWATCH_VERIFY"] = "maybe"
    watched.app.config["PLANWATCH_LOG_INTERVAL"] = 5
    watched.app.config["PLANWATCH_SLOW_STATEMENT_MS"] = 7
    for _ in range(2):
        (finding,) = watched.ask(LOGIN)
    assert finding.rule == "functional-predicate"
    assert watched.planwatch.stats()["captured"] == 2
    assert watched.planwatch.stats()["errors"] == 0
    assert warnings() == [
        MEANT,
        'PLANWATCH_VERIFY is \'maybe\': it must be "auto", "build" or "off". It was set after '
        "init_app and has no effect.",
        "PLANWATCH_LOG_INTERVAL was set too late to have an effect: set it before init_app.",
    ]


def test_a_key_set_after_the_first_statement_is_named(story, watch, warnings):
    watched = watch(story.url)
    watched.ask(LOGIN)
    assert warnings() == []
    watched.app.config["PLANWATCH_MIN_ROW"] = 5
    watched.app.config["PLANWATCH_SLOW_STATEMENT_MS"] = 7
    watched.ask(LOGIN)
    assert warnings() == [
        MEANT,
        "PLANWATCH_SLOW_STATEMENT_MS was set too late to have an effect: set it before init_app.",
    ]
    assert watched.app.extensions["planwatch"].problems == tuple(warnings())


def test_a_request_without_a_statement_is_enough(warnings):
    app = Flask("tests.app")
    planwatch = PlanWatch(app)
    app.config["PLANWATCH_MIN_ROW"] = 5
    app.add_url_rule("/", view_func=lambda: "x")
    assert app.test_client().get("/").status_code == 200
    assert becomes(lambda: warnings() == [MEANT])
    assert planwatch.stats(app)["sampled"] == 0


def test_settings_in_time_are_not_warned_of(story, watch, warnings):
    watched = watch(
        story.url, PLANWATCH_MIN_ROWS="5", PLANWATCH_INSPECTIONS_PER_MINUTE=None, PLANWATCH_GROWTH=1
    )
    watched.app.testing = True
    watched.ask(LOGIN)
    watched.app.debug = True
    watched.ask(LOGIN)
    assert warnings() == []


def test_entries_that_match_nothing_are_named(story, watch, warnings):
    idle = [
        "missing-index:userz",
        "missing-index:no_schema.no_table",
        "functional-predicate:lower(emial)",
        "row-misestimate:nothing",
    ]
    used = [
        "missing-index:user",
        'missing-index:"user"',
        "missing-index:public.user",
        "missing-index:email",
        "pattern-match",
        "bitmap-overread:user_email_key",
        "functional-predicate:lower((first)::text)",
        "functional-predicate:date_trunc('no_name', local_at)",
        "repeated-subplan:SubPlan 1",
        "row-misestimate:Hash Join",
        "statement-failed:statement",
        "0123456789ab",
    ]
    story.execute("CREATE TABLE IF NOT EXISTS event (local_at timestamp)")
    watch(story.url, PLANWATCH_IGNORE=[*idle, *used]).ask(LOGIN)
    assert warnings() == [
        f"PLANWATCH_IGNORE has {entry!r}, which matches nothing: no watched database has a table, "
        "index or column of that name."
        for entry in idle
    ]


def test_a_database_that_does_not_answer_may_have_what_is_named(watch):
    settings = read_settings(
        {"PLANWATCH_IGNORE": "missing-index:nothing"}, debug=False, testing=False
    )
    watched = watch("postgresql+psycopg2://nobody@127.0.0.1:9/nothing")
    with watched.app.app_context():
        assert watched.db.engine
    (engine,) = watched.app.extensions["planwatch"]._watched()
    assert idle_ignores(settings, [engine.session]) == []


def test_binds_that_do_not_exist_are_named(story, watch, warnings):
    urls = {None: story.url, "archive": story.url, "archve": story.url, "elsewhere": story.url}
    binds = {"archive": story.url_for("psycopg")}
    watched = watch(story.url, PLANWATCH_DATABASE_URL=urls, SQLALCHEMY_BINDS=binds)
    watched.ask(LOGIN)
    assert warnings() == [
        "PLANWATCH_DATABASE_URL has a URL for the bind 'archve', which there is not: did you mean "
        "'archive'?",
        "PLANWATCH_DATABASE_URL has a URL for the bind 'elsewhere', which there is not.",
    ]


def test_a_bind_that_is_left_alone_exists():
    given = {"PLANWATCH_DATABASE_URL": "postgresql://h/d"}
    settings = read_settings(given, debug=False, testing=False)
    assert unused_urls(settings, [None], []) == []
    assert unused_urls(settings, [], [settings.database_url]) == []
    (problem,) = unused_urls(settings, ["archive"], [])
    assert problem.endswith("a URL for the default engine, which there is not.")


def test_a_url_that_an_engine_of_its_own_uses_has_one(story, warnings):
    app = Flask("tests.app")
    app.config["PLANWATCH_DATABASE_URL"] = {"any": story.url}
    planwatch = PlanWatch(app)
    engine = sa.create_engine(story.url)
    planwatch.watch(engine, app)
    with engine.connect() as connection:
        connection.execute(LOGIN).all()
    assert planwatch.flush(120, app)
    planwatch.unwatch(engine, app)
    engine.dispose()
    assert warnings() == []


def test_it_is_said_in_production_at_the_first_request(story, warnings):
    app = Flask("tests.app")
    app.config["SQLALCHEMY_DATABASE_URI"] = story.url
    app.config["PLANWATCH_IGNORE"] = "missing-index:nothing"
    planwatch, db = PlanWatch(app), SQLAlchemy(app)
    app.add_url_rule("/", view_func=lambda: "x")
    assert app.test_client().get("/").status_code == 200
    assert becomes(lambda: len(warnings()) == 1)
    with app.app_context():
        planwatch.unwatch(db.engine)
        db.engine.dispose()

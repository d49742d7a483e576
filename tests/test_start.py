"""Settings that can have no effect are named at the start, and stop nothing."""

from __future__ import annotations

import asyncio
import logging
import os
import socket

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from flask_planwatch import PlanWatch
from flask_planwatch.failure import ServerError
from flask_planwatch.finding import SkipReason
from flask_planwatch.report.idle_ignores import idle_ignores
from flask_planwatch.report.start import Server, introduction, other_databases, unused_urls
from flask_planwatch.server.description import Description
from flask_planwatch.server.errors import why_not_connected
from flask_planwatch.server.session import Session
from flask_planwatch.settings import read_settings

from .conditions import becomes
from .databases import Database
from .distance import far
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
        "functional-predicate:lower(first)",
        "functional-predicate:date_trunc('no_name'::text, local_at)",
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


@pytest.mark.parametrize("table", ["user", '"user"', "public.user", 'public."user"'])
def test_a_table_that_the_search_path_finds_is_ignored_with_its_schema_too(story, watch, table):
    assert watch(story.url, PLANWATCH_IGNORE=[f"functional-predicate:{table}"]).ask(LOGIN) == []


def test_entries_of_no_form_that_matches_are_named(story, watch, warnings):
    dotted = (
        "names with a dot are those of a schema and its table, and no watched database has these."
    )
    unnamed = "it is neither a name nor an expression. There are no wildcards."
    unknown = "no watched database has a table, index or column of that name."
    idle = {
        "functional-predicate:user.email": dotted,
        'functional-predicate:"user"."email"': dotted,
        "missing-index:nosuchschema.user": dotted,
        f"missing-index:{story.name}.public.user": dotted,
        "bitmap-overread:public.user_email_key": dotted,
        "missing-index:*": unnamed,
        "row-misestimate:*": unnamed,
        "missing-index:user*": unnamed,
        "missing-index:public.user*": unnamed,
        "row-misestimate:user*": unnamed,
        "missing-index:points%": unnamed,
        "functional-predicate:lower(email": unnamed,
        "functional-predicate:lower(user)": "no watched database has a column of that name.",
        "row-misestimate:Seq Scan on nosuch": unknown,
        "row-misestimate:Index Scan using user_pkey on nosuch": unknown,
    }
    used = [
        "missing-index:public.user",
        'missing-index:"public"."user"',
        "row-misestimate:Seq Scan on user",
        "row-misestimate:Hash Join",
        "missing-index:a.dotted",
    ]
    story.execute('CREATE TABLE IF NOT EXISTS "a.dotted" (dotted int)')
    watch(story.url, PLANWATCH_IGNORE=[*idle, *used]).ask(LOGIN)
    story.execute('DROP TABLE "a.dotted"')
    assert warnings() == [
        f"PLANWATCH_IGNORE has {entry!r}, which matches nothing: {why}"
        for entry, why in idle.items()
    ]


def test_entries_with_a_name_that_the_rule_never_has_are_named(story, watch, warnings):
    table, expressions = "has findings on a table,", "has findings on a table or a column,"
    unknown = "no watched database has a table, index or column of that name."
    idle = {
        "missing-index:user_pkey": f"missing-index {expressions} not on an index.",
        'limit-trap:"user_pkey"': f"limit-trap {expressions} not on an index.",
        "generic-plan:user_pkey": f"generic-plan {expressions} not on an index.",
        "missing-index:seen": f"missing-index {expressions} not on a view.",
        "missing-index:public.seen": f"missing-index {expressions} not on a view.",
        "cost-mismatch:email": f"cost-mismatch {table} not on a column.",
        "cost-mismatch:user_pkey": f"cost-mismatch {table} not on an index.",
        "cost-mismatch:lower(email)": unknown,
        "statement-failed:Seq Scan on user": unknown,
        "row-misestimate:email": f"row-misestimate {table} not on a column.",
        "repeated-subplan:email": f"repeated-subplan {table} not on a column.",
        "bitmap-overread:email": (
            "bitmap-overread has findings on a table or an index, not on a column."
        ),
        "row-misestimate:mixed": f"row-misestimate {table} not on a column or an index.",
    }
    used = [
        "cost-mismatch:user",
        "cost-mismatch:public.user",
        "cost-mismatch:a table (of mine)",
        "cost-mismatch:elapsed time",
        "cost-mismatch:elapsedtime",
        "generic-plan:flag",
        "generic-plan:generic-plan",
        "index-only-blocked:user_pkey",
        "index-only-blocked:email",
        "row-misestimate:Sort",
        "missing-index:mixed",
    ]
    story.execute(
        'CREATE TABLE "a table (of mine)" (flag bool, "elapsed time" int, "Sort" int, mixed int)',
        'CREATE INDEX mixed ON "a table (of mine)" (mixed)',
        "CREATE VIEW seen AS SELECT 1",
    )
    watch(story.url, PLANWATCH_IGNORE=[*idle, *used]).ask(sa.text("SELECT 1"))
    story.execute('DROP TABLE "a table (of mine)"', "DROP VIEW seen")
    assert warnings() == [
        f"PLANWATCH_IGNORE has {entry!r}, which matches nothing: {why}"
        for entry, why in idle.items()
    ]


def test_an_expression_that_postgresql_prints_in_another_way_is_named(story, watch, warnings):
    idle = {
        "functional-predicate:lower(email)": "lower((email)::text)",
        "implicit-cast:cast(points as numeric)": "(points)::numeric",
        "index-only-blocked:lower(email) and first": "lower((email)::text) and first",
        "limit-trap:state, lower(email)": "state, lower((email)::text)",
        "missing-index:left(email, 3), points": '"left"((email)::text, 3), points',
        "pattern-match:email LIKE prefix%": "(email)::text LIKE prefix%",
        "pattern-match:lower(email) ~*": "lower((email)::text) ~*",
        "pattern-match:= ANY (string_to_array(email, ','))": (
            "= ANY (string_to_array((email)::text, ','::text))"
        ),
    }
    used = [
        "implicit-cast:(points)::numeric",
        "implicit-cast:points::numeric",
        "missing-index:state,points",
        "functional-predicate:lower( (email)::text )",
        "functional-predicate:lower(first) || lower(last)",
        "index-only-blocked:lower(first) and last",
        "limit-trap:state, points",
        "missing-index:state, points",
        "missing-index:mod(points, 10), state",
        "pattern-match:(email)::text ILIKE",
        "pattern-match:first LIKE %part%",
        "pattern-match:data @>",
        "functional-predicate:lower((email)::text)",
        "functional-predicate:lower(first)",
        "functional-predicate:no_function(email)",
        "functional-predicate:(lower(first) || lower(last))",
        "missing-index:points",
        "pattern-match:lower(email)",
    ]
    watched = watch(story.url, PLANWATCH_IGNORE=[*idle, *used])
    watched.ask(sa.text("SELECT 1"))
    assert warnings() == [
        f"PLANWATCH_IGNORE has {entry!r}, which matches nothing: PostgreSQL prints this as {form}."
        for entry, form in idle.items()
    ]
    # What it names is what findings have, and what is not named matches them.
    assert watch(story.url, PLANWATCH_IGNORE=used).ask(LOGIN) == []
    (finding,) = watch(story.url, PLANWATCH_IGNORE=list(idle)).ask(LOGIN)
    assert finding.subject in idle.values()


def test_of_a_partitioned_table_the_columns_are_printed_without_its_name(story, watch, warnings):
    for sql in (
        "DROP TABLE IF EXISTS parcel",
        "CREATE TABLE parcel (city varchar, year int) PARTITION BY LIST (year)",
        "CREATE TABLE parcel_2024 PARTITION OF parcel FOR VALUES IN (2024)",
    ):
        story.execute(sql)
    entry = "functional-predicate:lower(city)"
    watch(story.url, PLANWATCH_IGNORE=[entry]).ask(sa.text("SELECT 1"))
    (warning,) = warnings()
    assert warning.endswith("matches nothing: PostgreSQL prints this as lower((city)::text).")
    story.execute("DROP TABLE parcel")


def test_a_later_engine_may_have_what_is_named(story, database, watch, warnings):
    """The panel says no longer that it matches nothing."""
    watched = watch(database.url, PLANWATCH_IGNORE="functional-predicate:lower(first)")
    watched.ask(sa.text("SELECT 1"))
    watcher = watched.app.extensions["planwatch"]
    assert list(watcher.problems) == warnings()
    assert len(watcher.problems) == 1
    engine = sa.create_engine(story.url)
    watched.planwatch.watch(engine)
    watched.ask(sa.text("SELECT 2"))
    assert watcher.problems == ()
    assert len(warnings()) == 1
    watched.planwatch.unwatch(engine)
    engine.dispose()


def test_a_key_that_is_put_right_is_no_problem_any_more(story, watch, warnings):
    watched = watch(story.url)
    watched.app.config["PLANWATCH_MIN_ROW"] = 5
    watched.ask(sa.text("SELECT 1"))
    watcher = watched.app.extensions["planwatch"]
    assert list(watcher.problems) == warnings()
    assert len(watcher.problems) == 1
    del watched.app.config["PLANWATCH_MIN_ROW"]
    watched.ask(sa.text("SELECT 2"))
    assert watcher.problems == ()


def test_nothing_is_said_of_what_is_named_before_an_engine_is_watched():
    settings = read_settings(
        {"PLANWATCH_IGNORE": "missing-index:nothing"}, debug=False, testing=False
    )
    assert idle_ignores(settings, []) == []


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
        "PLANWATCH_DATABASE_URL has a URL for the bind 'archve', which does not exist: did you "
        "mean 'archive'?",
        "PLANWATCH_DATABASE_URL has a URL for the bind 'elsewhere', which does not exist.",
    ]


class Lite:
    """The engines of an app by their names, as Flask-SQLAlchemy-Lite has them."""

    def __init__(self, app: Flask, **engines: sa.Engine | AsyncEngine) -> None:
        self._engines = engines
        app.extensions["sqlalchemy"] = self

    @property
    def engines(self) -> dict[str, sa.Engine]:
        return self._of(sa.Engine)

    @property
    def async_engines(self) -> dict[str, AsyncEngine]:
        return self._of(AsyncEngine)

    def _of(self, kind):
        return {
            key.removeprefix("async_"): engine
            for key, engine in self._engines.items()
            if isinstance(engine, kind)
        }


@pytest.mark.parametrize("keys", [(), (None, "archive"), ("default", "archive")], ids=str)
def test_the_default_engine_of_flask_sqlalchemy_lite(story, warnings, keys):
    url = sa.make_url(story.url)
    app = Flask("tests.app")
    app.config.update(
        PLANWATCH_DATABASE_URL=dict.fromkeys(keys, url) if keys else url,
        PLANWATCH_SAMPLE_INTERVAL=0,
        PLANWATCH_STATEMENT_TIMEOUT_MS=30_000,
    )
    engines = {
        "archive": sa.create_engine(story.url_for("psycopg2")),
        "default": sa.create_engine(story.url_for("psycopg")),
    }
    Lite(app, **engines)
    planwatch = PlanWatch(app)
    for engine in engines.values():
        with engine.connect() as connection:
            connection.execute(LOGIN).all()
    assert planwatch.flush(120, app)
    binds = {finding.statement.bind for finding in planwatch.findings(app)}
    assert binds == {None, "archive"}
    assert warnings() == []
    first, second = app.extensions["planwatch"]._watched()
    assert (first.name, first.url) == ("default", url)
    assert (second.name, second.url) == ("archive", url if keys else None)
    for engine in engines.values():
        planwatch.unwatch(engine, app)
        engine.dispose()


@pytest.mark.parametrize("keys", [("default",), ("default", "async_default")], ids=str)
def test_async_engines_of_flask_sqlalchemy_lite_are_watched(story, warnings, keys):
    """One may have the key of an engine that is not async."""
    url = sa.make_url(story.url)
    app = Flask("tests.app")
    app.config.update(PLANWATCH_DATABASE_URL=url, PLANWATCH_STATEMENT_TIMEOUT_MS=30_000)
    engine = create_async_engine(story.url_for("asyncpg"), poolclass=sa.NullPool)
    others = [sa.create_engine(story.url_for("psycopg"))] * (len(keys) - 1)
    Lite(app, **dict(zip(keys, [*others, engine], strict=True)))
    planwatch = PlanWatch(app)

    async def ask():
        async with engine.connect() as connection:
            (await connection.execute(LOGIN)).all()

    asyncio.run(ask())
    assert planwatch.flush(120, app)
    (finding,) = planwatch.findings(app)
    assert finding.statement.bind is None
    watched = app.extensions["planwatch"]._watched()
    names = [("default", url)] if not others else [("default", url), ("async default", url)]
    assert [(one.name, one.url) for one in watched] == names
    assert warnings() == []
    for one in [engine, *others]:
        planwatch.unwatch(one, app)
    for one in others:
        one.dispose()


def test_engines_that_are_called_default_are_told_apart(story, watch):
    binds = {"default": story.url_for("psycopg"), "archive": "sqlite://"}
    watched = watch(story.url, SQLALCHEMY_BINDS=binds)
    engines = [
        sa.create_engine(f"postgresql+psycopg2://h/{name}") for name in ("default", "archive")
    ]
    for engine in engines:
        watched.planwatch.watch(engine, watched.app)
    line = watched.app.extensions["planwatch"].introduction
    assert line == (
        "PlanWatch watches 4 engines: default (psycopg2), bind default (psycopg), "
        "database default (psycopg2), database archive (psycopg2). "
        "Not watched: archive (sqlite+pysqlite)."
    )


def test_engines_with_databases_of_one_name_are_told_apart():
    app = Flask("tests.app")
    planwatch = PlanWatch(app)
    places = ("db1", "db2:5433", "", "?host=/a&port=1", "?host=a:1&host=b:2", "db1", "db2:5433")
    urls = [
        f"postgresql+psycopg2://{place}/shop"
        if "?" not in place
        else f"postgresql+psycopg2:///shop{place}"
        for place in places
    ]
    engines = [sa.create_engine(url) for url in urls]
    for engine in engines:
        planwatch.watch(engine, app)
    assert app.extensions["planwatch"].introduction == (
        "PlanWatch watches 7 engines: shop (psycopg2), shop at db2:5433 (psycopg2), "
        "shop at the default host (psycopg2), shop at /a:1 (psycopg2), "
        "shop at a:1,b:2 (psycopg2), shop (psycopg2), shop at db2:5433 (psycopg2)."
    )


@pytest.mark.parametrize("left_alone", ["default", "bind default"])
def test_a_url_for_an_engine_that_is_called_default_and_is_left_alone(left_alone):
    url = "postgresql://h/d"
    given = {"PLANWATCH_DATABASE_URL": {None: url, "default": url}}
    settings = read_settings(given, debug=False, testing=False)
    named = {"default": "the default engine", "bind default": "the bind 'default'"}[left_alone]
    (problem,) = unused_urls(settings, [None, "default"], [], {left_alone: "sqlite+pysqlite"})
    assert f"applies to nothing: {named} (sqlite+pysqlite)" in problem


def test_a_bind_that_is_left_alone_exists():
    given = {"PLANWATCH_DATABASE_URL": "postgresql://h/d"}
    settings = read_settings(given, debug=False, testing=False)
    assert unused_urls(settings, [None], [], {}) == []
    assert unused_urls(settings, [], [settings.database_url_for(None)], {}) == []
    (problem,) = unused_urls(settings, ["archive"], [], {})
    assert problem.endswith("a URL for the default engine, which does not exist.")


def test_a_url_for_engines_that_are_left_alone_applies_to_nothing(story, warnings):
    app = Flask("tests.app")
    urls = {None: story.url, "archive": story.url}
    app.config.update(
        SQLALCHEMY_DATABASE_URI="sqlite://",
        SQLALCHEMY_BINDS={"archive": "sqlite://"},
        PLANWATCH_DATABASE_URL=urls,
    )
    PlanWatch(app)
    SQLAlchemy(app)
    app.add_url_rule("/", view_func=lambda: "x")
    assert app.test_client().get("/").status_code == 200
    needed = "(sqlite+pysqlite) is not PostgreSQL through psycopg2, psycopg or asyncpg."
    assert becomes(
        lambda: (
            warnings()
            == [
                f"PLANWATCH_DATABASE_URL applies to nothing: the default engine {needed}",
                f"PLANWATCH_DATABASE_URL applies to nothing: the bind 'archive' {needed}",
            ]
        )
    )


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_a_url_of_another_database_is_named(any_story, watch, warnings, driver):
    other = sa.make_url(any_story.url).set(database="postgres")
    urls = {None: other, "archive": any_story.url}
    binds = {"archive": any_story.url_for(driver)}
    watched = watch(any_story.url_for(driver), PLANWATCH_DATABASE_URL=urls, SQLALCHEMY_BINDS=binds)
    watched.ask(sa.text("SELECT 1"))
    assert warnings() == [
        "PLANWATCH_DATABASE_URL leads to the database 'postgres', but the default engine is "
        f"connected to {any_story.name!r}. PlanWatch would inspect other tables: use a URL of that "
        "database."
    ]
    watcher = watched.app.extensions["planwatch"]
    assert list(watcher.problems) == warnings()
    # A connection pooler may know the database by another name.
    (_, archive) = watcher._watched()
    pooled = sa.make_url(any_story.url).set(database="a_name_of_the_pooler")
    assert other_databases([("default", pooled, archive.session)]) == []


@pytest.fixture
def namesake(story, hypopg_server):
    """A database of the same name on another server, with a role that may not do much."""
    there = Database(hypopg_server, story.name)
    maintenance = Database(hypopg_server, "postgres")
    if there.server.url == story.server.url:
        pytest.skip("there is only one server")
    maintenance.execute(f'CREATE DATABASE "{there.name}"', "CREATE ROLE planwatch_namesake LOGIN")
    yield there
    maintenance.execute(
        f'DROP DATABASE "{there.name}" WITH (FORCE)', "DROP ROLE planwatch_namesake"
    )


ANOTHER = (
    "PLANWATCH_DATABASE_URL leads to another server than that of the default engine: their system "
    "identifiers differ. PlanWatch would inspect other tables: use a URL of that server, or of a "
    "replica of it."
)


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
@pytest.mark.parametrize("role", ["postgres", "planwatch_namesake"])
def test_a_database_of_the_same_name_on_another_server_is_named(
    story, namesake, watch, warnings, driver, role
):
    watched = watch(
        story.url_for(driver), PLANWATCH_DATABASE_URL=namesake.url_for(driver, username=role)
    )
    watched.ask(sa.text("SELECT 1"))
    assert warnings() == [ANOTHER]
    watcher = watched.app.extensions["planwatch"]
    assert watcher.problems == (ANOTHER,)
    # The application's own connection is the only one on its server.
    assert becomes(lambda: len(story.clients()) == 1)
    assert watched.planwatch.stats()["errors"] == 0


def test_a_server_that_does_not_tell_may_be_the_same(story, namesake, watch, warnings):
    namesake.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    url = namesake.url_for("psycopg2", username="planwatch_namesake")
    watch(story.url, PLANWATCH_DATABASE_URL=url).ask(sa.text("SELECT 1"))
    assert warnings() == []


def test_the_same_server_by_another_address_is_no_other_one(story, watch, warnings):
    """As through a pooler, or with an address that is translated."""
    with far(story.url, 0.0) as url:
        watched = watch(story.url, PLANWATCH_DATABASE_URL=url)
        watched.ask(LOGIN)
        (engine,) = watched.app.extensions["planwatch"]._watched()
        assert engine.session.elsewhere
        assert watched.planwatch.stats()["inspected"] == 1
        assert warnings() == []
        assert becomes(lambda: len(story.clients()) == 2)
        watched.planwatch.unwatch(engine._engine())


#: What is wrong with a URL, and what is said of it; a password is never.
UNREACHABLE = {
    "nobody listens": ({"host": "127.0.0.1", "port": 9, "query": {}}, "Connection refused"),
    "no socket": ({"host": None, "query": {"host": "/nowhere"}}, "No such file or directory"),
    "no database": ({"database": "nowhere"}, 'database "nowhere" does not exist'),
    "no role": ({"username": "nobody"}, 'role "nobody" does not exist'),
    "no host": ({"host": "s3cr3t.invalid", "query": {}}, "the name of its host is not known"),
}


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
@pytest.mark.parametrize("wrong", UNREACHABLE)
def test_a_url_that_does_not_connect_is_named_with_the_servers_reason(
    story, watch, caplog, driver, wrong
):
    changes, why = UNREACHABLE[wrong]
    url = sa.make_url(story.url).set(password="s3cr3t").set(**changes)
    given = url.render_as_string(hide_password=False)
    watched = watch(story.url_for(driver), PLANWATCH_DATABASE_URL=given)
    watched.ask(LOGIN)
    assert watched.planwatch.stats()["skipped"] == {"server-unavailable": 1}
    assert f"(server-unavailable: PLANWATCH_DATABASE_URL does not connect: {why})" in caplog.text
    assert "s3cr3t" not in caplog.text
    engine = watched.app.extensions["planwatch"]._watched()[0]
    engine.introduce()
    assert f"PLANWATCH_DATABASE_URL does not connect: {why}" in engine.server.answer("auto")


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_of_several_addresses_the_last_one_tells_why(story, driver):
    url = sa.make_url(story.url_for(driver))
    host, port = url.host or url.query["host"], url.port or 5432
    hosts = ("127.0.0.1:9", f"{host}:{port}")
    several = url.set(host=None, port=None, database="nowhere", query={"host": hosts})
    with pytest.raises(sa.exc.OperationalError) as caught:
        sa.create_engine(several).connect()
    assert why_not_connected(caught.value.orig, None) == 'database "nowhere" does not exist'


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_a_server_that_does_not_answer_in_time_is_told_alike(driver):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        url = f"postgresql+{driver}://nobody@127.0.0.1:{port}/nothing?connect_timeout=2"
        with pytest.raises(sa.exc.OperationalError) as caught:
            sa.create_engine(url).connect()
    assert why_not_connected(caught.value.orig, None) == "timeout expired"


def test_asyncio_tells_of_several_addresses_by_their_numbers():
    # As asyncio writes it if "localhost" has two addresses.
    said = (
        "Multiple exceptions: [Errno 111] Connect call failed ('::1', 5432, 0, 0), "
        "[Errno 111] Connect call failed ('127.0.0.1', 5432)"
    )
    assert why_not_connected(OSError(said), None) == os.strerror(111)


@pytest.mark.parametrize("number", [-2, -3, -5])
def test_any_error_of_a_resolver_is_about_the_name(number):
    error = socket.gaierror(number, "whatever the system says of s3cr3t.invalid")
    assert why_not_connected(error, "s3cr3t") == "the name of its host is not known"


@pytest.mark.parametrize("wrong", UNREACHABLE)
def test_asyncpg_tells_the_same_reasons(story, wrong):
    changes, why = UNREACHABLE[wrong]
    url = sa.make_url(story.url_for("asyncpg")).set(password="s3cr3t").set(**changes)
    session = Session(
        create_async_engine(story.url_for("asyncpg")).sync_engine,
        url=url,
        statement_timeout_ms=30_000,
        lock_timeout_ms=30_000,
    )
    with pytest.raises(ServerError) as caught, session.transaction(own_state=True):
        pass
    assert caught.value.reason is SkipReason.SERVER_UNAVAILABLE
    assert caught.value.detail == f"PLANWATCH_DATABASE_URL does not connect: {why}"
    session.close()


def test_in_production_an_engine_of_another_database_is_named_once(caplog):
    caplog.set_level(logging.INFO, "flask_planwatch")
    app = Flask("tests.app")
    app.config.update(SQLALCHEMY_DATABASE_URI="sqlite://", SQLALCHEMY_BINDS={"cache": "sqlite://"})
    PlanWatch(app)
    SQLAlchemy(app)
    for _ in range(2):
        assert app.test_client().get("/").status_code == 404
    needed = "(sqlite+pysqlite) is left alone: it is not PostgreSQL through psycopg2, psycopg or "
    assert sorted(caplog.messages) == [
        f"An engine {needed}asyncpg.",
        f"The engine of bind 'cache' {needed}asyncpg.",
    ]


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


@pytest.mark.parametrize(
    ("left_alone", "said"),
    [
        ({"default": "mysql+pymysql"}, "default (mysql+pymysql) is not PostgreSQL through "),
        (
            {"reports": "sqlite+pysqlite", "default": "mysql+pymysql"},
            "default (mysql+pymysql), reports (sqlite+pysqlite) are not PostgreSQL through ",
        ),
    ],
)
def test_engines_of_other_databases_are_named_the_default_one_first(left_alone, said):
    line = introduction([], left_alone, "auto")
    assert line == f"PlanWatch watches nothing: {said}psycopg2, psycopg or asyncpg."


def test_a_reason_is_given_once_however_many_engines_have_it(story, watch):
    binds = {"archive": story.url_for("psycopg"), "reports": story.url_for("psycopg2")}
    watched = watch(story.url, SQLALCHEMY_BINDS=binds, PLANWATCH_VERIFY="off")
    with watched.app.app_context():
        assert watched.db.engine
    watcher = watched.app.extensions["planwatch"]
    for one in watcher._watched():
        one.introduce()
    version = str(story.scalar("SHOW server_version")).split(" ")[0]
    assert watcher.introduction == (
        f"PlanWatch watches 3 engines: default (psycopg2, PostgreSQL {version}, no proof: "
        f'PLANWATCH_VERIFY is "off"), archive (psycopg, PostgreSQL {version}, no proof, as for '
        f"default), reports (psycopg2, PostgreSQL {version}, no proof, as for default)."
    )


def test_of_another_reason_each_engine_has_its_own():
    def server(name, missing):
        return Server(name, "psycopg", Description("18.1", None if missing else "1.4", missing))

    servers = [
        server("a", "x: y"),
        server("b", "z"),
        server("c", "z"),
        server("d", ""),
        server("e", ""),
    ]
    assert introduction(servers, {}, "auto") == (
        "PlanWatch watches 5 engines: a (psycopg, PostgreSQL 18.1, no proof: x: y), "
        "b (psycopg, PostgreSQL 18.1, no proof: z), c (psycopg, PostgreSQL 18.1, no proof, as for "
        "b), d (psycopg, PostgreSQL 18.1, proof by HypoPG 1.4), e (psycopg, PostgreSQL 18.1, proof "
        "by HypoPG 1.4)."
    )


def test_a_server_that_the_app_left_before_it_was_asked(story, watch):
    watched = watch(story.url)
    with watched.app.app_context():
        assert watched.db.engine
    (engine,) = watched.app.extensions["planwatch"]._watched()
    engine.disposed()
    engine.introduce()
    assert watched.app.extensions["planwatch"].introduction == (
        "PlanWatch watches 1 engine: default (psycopg2, the app closed its connections before "
        "PlanWatch could ask the server)."
    )


def test_an_engine_of_another_database_is_named_beside_one_that_is_watched(story):
    app = Flask("tests.app")
    app.config.update(SQLALCHEMY_DATABASE_URI="sqlite://", SQLALCHEMY_BINDS={"story": story.url})
    db = SQLAlchemy(app)
    planwatch = PlanWatch(app)
    with app.app_context():
        db.session.execute(sa.text("SELECT 1"))
        db.session.execute(LOGIN, bind_arguments={"bind": db.engines["story"]})
    assert planwatch.flush(30, app)
    line = app.extensions["planwatch"].introduction
    assert line == (
        "PlanWatch watches 1 engine: story (psycopg2). Not watched: default (sqlite+pysqlite)."
    )
    assert planwatch.stats(app)["captured"] == 1
    with app.app_context():
        for engine in db.engines.values():
            engine.dispose()

"""SQL that is copied from the panel runs in psql, with the values that the application sent."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import html
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_debugtoolbar import DebugToolbarExtension
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA, ENUM, JSON, JSONB, UUID
from sqlalchemy.ext.asyncio import create_async_engine

from flask_planwatch import PlanWatch
from flask_planwatch.capture.numbered import Numbered
from flask_planwatch.capture.written import written
from flask_planwatch.inspection import inspector
from flask_planwatch.inspection.detail import Preparable
from flask_planwatch.report import panel
from flask_planwatch.report import psql as report_psql
from flask_planwatch.report.psql import Sql, prepared, runnable, sql_of

from .cases import first
from .conftest import Watched
from .databases import Database
from .models import User
from .servers import missing
from .test_panel import PAGE, open_panel

pytestmark = [pytest.mark.slow, pytest.mark.versions]

DRIVERS = ("psycopg2", "psycopg", "asyncpg")

MOOD = ENUM("happy", "sad", name="mood", create_type=False)

#: A value of each kind, with what tells SQLAlchemy its type.
VALUES: dict[str, tuple[object, sa.types.TypeEngine]] = {
    "quotes": ("it's \"so\" ''", sa.Text()),
    "backslashes": ("a\\b \\' \\\\ \\n", sa.Text()),
    "what psql and drivers read": ("%s %% :name :'x' $1 $$ ; -- /* ? \\d", sa.Text()),
    "a statement": ("x FROM y WHERE 1 = 1", sa.Text()),
    "lines": ("  one\n    two\tthree\n", sa.Text()),
    "letters": ("größer ☃ 😀", sa.Text()),
    "empty": ("", sa.Text()),
    "number": (-7, sa.Integer()),
    "lowest numbers": (-(2**15), sa.SmallInteger()),
    "lowest integer": (-(2**31), sa.Integer()),
    "lowest bigint": (-(2**63), sa.BigInteger()),
    "large number": (2**40, sa.BigInteger()),
    "float": (1.5e-7, sa.Float()),
    "decimal": (decimal.Decimal("-12345.678900"), sa.Numeric(20, 6)),
    "flag": (True, sa.Boolean()),
    "date": (datetime.date(2024, 2, 29), sa.Date()),
    "time": (
        datetime.datetime(2024, 2, 29, 12, 30, 1, 5, tzinfo=datetime.UTC),
        sa.DateTime(timezone=True),
    ),
    "interval": (datetime.timedelta(days=-1, seconds=7), sa.Interval()),
    "uuid": (uuid.UUID("12345678-1234-5678-1234-567812345678"), UUID(as_uuid=True)),
    "bytes": (b"\x00\x01'\\\xff", BYTEA()),
    "a part of bytes": (memoryview(b"hello world")[:5], BYTEA()),
    "jsonb": ({"a": ["it's", None, 'q"', "\\"], "b": 1.5}, JSONB()),
    "json": ({"a": "it's"}, JSON()),
    "array": (["a", "it's", 'q"x', "b,c", "\\", "{}", ""], ARRAY(sa.Text())),
    "array of numbers": ([1, -2, 3], ARRAY(sa.Integer())),
    "enum": ("happy", MOOD),
}


#: Statements that return rows, with text and literals of the application's own.
STATEMENTS = {
    "ORM": sa.select(User.id).where(sa.func.lower(User.email) == "user7@example.com"),
    "IN": sa.select(User.id).where(User.points.in_([5, 7, 9])).order_by(User.id),
    "text": sa.text('SELECT id FROM "user" WHERE nick = :nick AND points % 7 = 0').bindparams(
        nick="Nick7"
    ),
    "text with lines": sa.text(
        "\n  SELECT id, 'a\n  b' -- FROM nothing\n  FROM \"user\"\n"
        "  WHERE nick = :nick -- the end\n"
    ).bindparams(nick="Nick8"),
    "literals": sa.text(
        "SELECT count(*), extract(day FROM interval '1 day') FROM \"user\" "
        "WHERE data ? 'type' AND points IN (1, 2, 3)"
    ),
    "LIMIT": sa.select(User.id).order_by(User.id).limit(3).offset(2),
    "JSON": sa.select(User.id).where(User.data["type"].astext == "T7"),
    "contains": sa.select(User.id).where(User.data.contains({"n": 7})),
    "like": sa.select(User.id).where(User.nickname.like("Nick77%")).order_by(User.id).limit(2),
    "date": sa.select(User.id)
    .where(User.local_at == datetime.datetime(2020, 1, 1, 0, 10))
    .order_by(User.id),
    "array": sa.select(User.id).where(User.points == sa.any_(sa.cast([7, 8], ARRAY(sa.Integer)))),
    "enum": sa.select(User.id).where(User.mood == "sad").order_by(User.id).limit(2),
    "no parameters": sa.text("SELECT count(*) FROM badge"),
    "WITH": sa.select(sa.select(User.points).where(User.nickname == "Nick9").cte("found").c.points),
}

#: Statements that are copied without their values, each with a part of what is copied of it for
#: all drivers. Literals of the application's own text are syntax, or may be.
PREPARED = {
    "type modifier": (
        sa.select(User.id).where(
            sa.cast(User.points, sa.Numeric(10, 2)) == sa.bindparam("p", decimal.Decimal("1.5"))
        ),
        "AS NUMERIC(10, 2)) = $1",
    ),
    "positions": (
        sa.text(
            'SELECT state, count(*) FROM "user" WHERE nick <> :nick GROUP BY 1 ORDER BY 2 DESC'
        ).bindparams(nick="x"),
        "GROUP BY 1\nORDER BY 2 DESC;",
    ),
    "operators of jsonb": (
        sa.text(
            """SELECT id FROM "user" WHERE data @? '$.k ? (@ == 7)' AND data ?| array['k'] """
            "AND nick = :nick"
        ).bindparams(nick="x"),
        "data @? '$.k ? (@ == 7)' AND data ?| array['k'] AND nick = $1",
    ),
    "words that take a literal": (
        sa.text(
            """SELECT trim(both 'x' FROM nick) FROM "user" WHERE nick = :nick """
            "FETCH FIRST 5 ROWS ONLY"
        ).bindparams(nick="x"),
        "FETCH FIRST 5 ROWS ONLY;",
    ),
    "calls": (
        sa.select(sa.func.concat("x", "-", "y"), sa.func.json_build_object("a", 1)).where(
            sa.func.lower(User.nickname) == "x"
        ),
        'lower("user".nick) = $',
    ),
    "rows of VALUES": (
        sa.text(
            """SELECT count(*) FROM "user" JOIN (VALUES (1, 'a'), (2, 'b')) v (a, b) """
            "ON v.a = id WHERE nick = :nick"
        ).bindparams(nick="x"),
        "(VALUES (1, 'a'), (2, 'b'))",
    ),
    "arithmetic": (
        sa.select(User.id).where(
            User.created_at > sa.func.now() - datetime.timedelta(days=1),
            sa.literal(5) - sa.literal(-5) == User.points,
        ),
        "> now() - $1",
    ),
    "a function of any type": (
        sa.text("SELECT sum(g) FROM generate_series(:a, :b) g").bindparams(a=1, b=3),
        "generate_series($1",
    ),
    "CASE": (
        sa.select(sa.func.sum(sa.case((User.state == "x", 1), else_=0))),
        'sum(CASE WHEN ("user".state = $1',
    ),
    "one name twice": (
        sa.text('SELECT id FROM "user" WHERE nick = :nick OR email = :nick').bindparams(nick="x"),
        "nick = $1",
    ),
    "lists": (
        sa.select(User.id).where(
            User.points.in_([5, 7]), User.mood.not_in(["sad", "happy"]), User.id.in_([1])
        ),
        "= ANY ($1",
    ),
    "a list of rows": (
        sa.select(User.id).where(
            sa.tuple_(User.id, User.nickname).in_([(1, "Nick1"), (2, "Nick2")])
        ),
        "IN (($1",
    ),
    "a comment and quotes": (
        sa.text(
            "SELECT 'no $1, 100%' -- nor :nick\n"
            'FROM "user" /* :nick $1 */ WHERE nick = :nick AND nick <> $a$ $1 $a$'
        ).bindparams(nick="x"),
        "AND nick <> $a$ $1 $a$",
    ),
}


def psql(database: Database, sql: str) -> str:
    """Run SQL as it is pasted into psql; return what it prints."""
    program = shutil.which("psql")
    if program is None:
        missing("psql is not installed")
    url = sa.make_url(database.url).set(drivername="postgresql")
    done = subprocess.run(
        [
            *(program, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"),
            *("-d", url.render_as_string(hide_password=False)),
        ],
        input=sql,
        capture_output=True,
        text=True,
        env=os.environ | {"PGCLIENTENCODING": "utf-8", "PGTZ": "UTC"},
        check=False,
    )
    assert done.returncode == 0, f"{sql}\n{done.stderr}"
    return done.stdout


def copied(shown: str) -> list[str]:
    """What the panel's buttons copy of statements."""
    found = re.findall(
        r'title="Copy the statement">Copy</button><pre>(.*?)</pre>', shown, re.DOTALL
    )
    return [html.unescape(one) for one in found]


class Ran(NamedTuple):
    """What came of a statement: the panel's HTML, the rows, and the app."""

    shown: str
    rows: list[Any]
    app: Flask


@pytest.fixture
def run(story: Database, watch: Callable[..., Watched]) -> Iterator[Callable[..., Ran]]:
    """Return a function that runs a statement in a request.

    Its engine is let go at the end of the test: what still waits then would wait no more.
    """
    engines: list[tuple[PlanWatch, sa.Engine]] = []

    def make(
        driver: str,
        statement: sa.Executable,
        waits: bool = False,
        before: Sequence[str] = (),
        path: str = "",
        **config: object,
    ) -> Ran:
        watched = watch(story.url, SECRET_KEY="secret", PLANWATCH_VERIFY="off", **config)
        watched.app.debug = True
        DebugToolbarExtension(watched.app)
        rows: list[Any] = []
        given: dict[str, Any] = {"options": f"-c search_path={path}"} if path else {}
        if path and driver == "asyncpg":
            given = {"server_settings": {"search_path": path}}
        options: dict[str, Any] = {"poolclass": sa.NullPool, "connect_args": given}

        def watch_engine(engine: sa.Engine) -> None:
            watched.planwatch.watch(engine, watched.app)
            engines.append((watched.planwatch, engine))

        async def asynchronous() -> None:
            engine = create_async_engine(story.url_for(driver), **options)
            watch_engine(engine.sync_engine)
            async with engine.connect() as connection:
                for command in before:
                    await connection.exec_driver_sql(command)
                rows.extend((await connection.execute(statement)).all())
            assert waits or watched.planwatch.flush(120)

        def page() -> str:
            if driver == "asyncpg":
                asyncio.run(asynchronous())
                return PAGE
            engine = sa.create_engine(story.url_for(driver), **options)
            watch_engine(engine)
            with engine.connect() as connection:
                for command in before:
                    connection.exec_driver_sql(command)
                rows.extend(connection.execute(statement).all())
            assert waits or watched.planwatch.flush(120)
            return PAGE

        watched.app.add_url_rule("/", "page", page)
        watched.app.add_url_rule("/next", "next", lambda: PAGE)
        return Ran(open_panel(watched.app).html, rows, watched.app)

    yield make
    for planwatch, engine in engines:
        planwatch.unwatch(engine)


def of_all_kinds() -> list[sa.ColumnElement]:
    """A value of each kind, as the text that the server makes of it, and one that is none."""
    columns = [
        sa.cast(sa.bindparam(f"p{place}", value, type_), sa.Text).label(f"c{place}")
        for place, (value, type_) in enumerate(VALUES.values())
    ]
    return [*columns, sa.cast(sa.bindparam("nothing", None, sa.Date()), sa.Text).is_(None)]


def assert_psql_prints_the_row(story: Database, sql: str, ran: Ran) -> None:
    """Fail unless psql prints the one row that the driver got."""
    expected = ["t" if one is True else str(one) for one in ran.rows[0]]
    assert psql(story, f"SET timezone = 'UTC';\n{sql}").rstrip("\n") == "|".join(expected)


@pytest.mark.parametrize("driver", DRIVERS)
def test_copied_sql_has_the_values_of_the_driver(story, run, driver):
    """One statement with all kinds: psql prints what the driver got."""
    statement = sa.select(*of_all_kinds(), sa.bindparam("last", "it's", sa.Text()))
    ran = run(driver, statement)
    (sql,) = copied(ran.shown)
    assert not sql.startswith("PREPARE")
    assert_psql_prints_the_row(story, sql, ran)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", first(3, STATEMENTS))
def test_copied_sql_finds_the_same_rows(story, run, driver, name):
    ran = run(driver, STATEMENTS[name])
    # Each finding of a statement offers it.
    (sql,) = set(copied(ran.shown))
    expected = ["|".join(map(str, row)) for row in ran.rows]
    assert expected
    assert psql(story, sql) == "".join(f"{line}\n" for line in expected)


@pytest.fixture
def waiting(held, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave all statements waiting, and let the panel not wait for them."""
    monkeypatch.setattr(panel, "PATIENCE", 0.0)


@pytest.mark.parametrize("driver", DRIVERS)
def test_statement_that_waits_has_its_values_too(story, run, waiting, driver):
    ran = run(driver, sa.select(*of_all_kinds()), waits=True)
    assert '<span class="badge waiting">' in ran.shown
    (sql,) = copied(ran.shown)
    assert not sql.startswith("PREPARE")
    assert_psql_prints_the_row(story, sql, ran)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", first(2, STATEMENTS))
def test_statement_that_waits_finds_the_same_rows(story, run, waiting, driver, name):
    ran = run(driver, STATEMENTS[name], waits=True)
    assert '<span class="badge waiting">' in ran.shown
    (sql,) = copied(ran.shown)
    assert not sql.startswith("PREPARE")
    expected = ["|".join(map(str, row)) for row in ran.rows]
    assert psql(story, sql) == "".join(f"{line}\n" for line in expected)


def test_tuple_that_psycopg2_takes_for_a_list_is_copied_as_one(story, run, waiting):
    statement = sa.text('SELECT id FROM "user" WHERE points IN :points ORDER BY id')
    ran = run("psycopg2", statement.bindparams(points=(5, 7)), waits=True)
    (sql,) = copied(ran.shown)
    assert not sql.startswith("PREPARE")
    assert ran.rows
    assert psql(story, sql) == "".join(f"{row.id}\n" for row in ran.rows)


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_tuple_that_may_be_a_row_is_not_written(driver):
    assert written("SELECT $1", ((1, 2),), driver) == ""
    assert written("SELECT $1", ([(1, 2)],), driver) == ""


def test_statement_that_is_never_due_has_the_values_of_its_first_execution(story, watch):
    watched = watch(story.url, SECRET_KEY="secret", PLANWATCH_INSPECTIONS_PER_MINUTE=0)
    watched.app.debug = True
    DebugToolbarExtension(watched.app)

    def page() -> str:
        for points in (7, 8):
            watched.db.session.execute(sa.select(User.id).where(User.points == points)).all()
        return PAGE

    watched.app.add_url_rule("/", "page", page)
    shown = open_panel(watched.app).html
    assert '<span class="badge not-sampled">' in shown
    (sql,) = copied(shown)
    assert psql(story, sql) == "7\n"


@pytest.mark.parametrize(
    "value", [object(), "x" * 20_000, [object()], b"x" * 20_000, {"a": object()}, float, "\0"]
)
def test_what_has_no_plain_form_is_not_written(value):
    assert written("SELECT %(a)s", {"a": value}, "psycopg2") == ""


def test_parameters_that_do_not_fit_the_text_are_not_written():
    assert written("SELECT %(a)s, %(b)s", {"a": 1}, "psycopg2") == ""


@pytest.fixture
def without_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the panel show all statements as if their values were too long."""

    def without(complete: str, *given: Any, **named: Any) -> Sql:
        return sql_of("", *given, **named)

    monkeypatch.setattr(inspector, "MAX_WRITTEN", 0)
    monkeypatch.setattr(panel, "sql_of", without)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", first(4, PREPARED))
def test_without_values_it_is_a_prepared_statement(story, run, without_values, driver, name):
    statement, part = PREPARED[name]
    ran = run(driver, statement)
    (sql,) = set(copied(ran.shown))
    assert re.search(r"^PREPARE planwatch_\w{6} \((?:[\w \[\]]+(?:, )?)+\) AS\n", sql, re.MULTILINE)
    assert "unknown" not in sql
    assert re.search(r"^-- EXECUTE planwatch_\w{6} \([\w{}', .]+\);$", sql, re.MULTILINE)
    assert part in sql
    psql(story, sql)


def test_a_prepared_statement_can_be_pasted_again_and_beside_another_of_its_name(
    story, monkeypatch
):
    """PREPARE refuses a name that the session has."""
    monkeypatch.setattr(report_psql, "_name", lambda sql: "planwatch_same")
    one = prepared(Preparable("SELECT $1", ("integer",), ("one",)))
    other = prepared(Preparable("SELECT $1, $2", ("integer", "text"), ("one", "two")))
    executed = "EXECUTE planwatch_same (1);"
    assert psql(story, "\n".join([one, one, executed, other, one, executed])) == "1\n1\n"


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", first(2, STATEMENTS))
def test_every_statement_is_prepared_without_values(story, run, without_values, driver, name):
    (sql,) = set(copied(run(driver, STATEMENTS[name]).shown))
    psql(story, sql)


def test_values_that_psycopg2_writes_twice_get_one_number(story, run, without_values):
    """GROUP BY knows the expression of the SELECT list only by that."""

    def hour() -> sa.ColumnElement:
        return sa.func.date_trunc("hour", User.created_at)

    def tens() -> sa.ColumnElement:
        return User.points + sa.bindparam(None, 10)

    statement = sa.select(hour(), tens()).group_by(hour(), tens()).limit(1)
    (sql,) = copied(run("psycopg2", statement).shown)
    assert sql.count("date_trunc($1, ") == 2
    assert sql.count("points + $2") == 2
    psql(story, sql)


@pytest.mark.parametrize(
    ("condition", "value", "parts", "declared"),
    [
        (
            "created_at = :q OR local_at = :q OR created_at < :q",
            "2020-01-01",
            "created_at = $1 OR local_at = $2 OR created_at < $1",
            "(timestamp with time zone, timestamp without time zone)",
        ),
        ("mood = :q OR nick = :q", "sad", "mood = $1 OR nick = $2", "(mood, text)"),
        (
            ":q IS NULL OR local_at = :q",
            "2020-01-01",
            "$1 IS NULL OR local_at = $1",
            "(timestamp without time zone)",
        ),
        (
            "local_at = :q AND (:q IS NULL OR created_at = :q)",
            "2020-01-01",
            "local_at = $1 AND ($2 IS NULL OR created_at = $2)",
            "(timestamp without time zone, timestamp with time zone)",
        ),
    ],
)
def test_value_that_psycopg2_writes_into_places_of_several_types(
    story, run, without_values, condition, value, parts, declared
):
    """The server gives each constant the type of its place."""
    statement = sa.text(f'SELECT id FROM "user" WHERE {condition}').bindparams(q=value)
    (sql,) = copied(run("psycopg2", statement).shown)
    assert parts in sql
    assert f"{declared} AS\n" in sql
    psql(story, sql)


@pytest.mark.parametrize("driver", DRIVERS)
def test_list_of_any_length_is_executed(story, run, without_values, driver):
    statement = sa.select(sa.func.count(User.id)).where(
        User.points.in_([5, 7]), User.nickname.not_in(["Nick7", "x"])
    )
    (sql,) = copied(run(driver, statement).shown)
    executed = sql.replace("-- EXECUTE", "EXECUTE")
    for given, count in (("1,2,3", "2"), ("1,2", "1"), ("", "0")):
        filled = re.sub(r"'{points[^}]*}', '{nick[^}]*}'", f"'{{{given}}}', '{{Nick1}}'", executed)
        assert filled != executed
        assert psql(story, filled).strip() == count


def test_tuple_after_in_is_a_list_for_psycopg2(story, run, without_values):
    statement = sa.text('SELECT id FROM "user" WHERE points IN :points').bindparams(points=(5, 7))
    (sql,) = copied(run("psycopg2", statement).shown)
    assert "points = ANY ($1);" in sql
    psql(story, sql)


@pytest.mark.parametrize("driver", DRIVERS)
def test_statement_with_too_long_values_is_prepared(story, run, driver):
    statement = sa.select(User.id).where(User.id.in_(range(5000)), sa.cast(1, sa.Numeric(3, 1)) > 0)
    (sql,) = copied(run(driver, statement).shown)
    assert "AS NUMERIC(3, 1))" in sql
    assert "'{id_1, ...}'" in sql
    psql(story, sql)


def test_five_hundred_numbers_keep_their_values_with_asyncpg(story, run):
    """The type that the server names is left out where the text has a cast."""
    ran = run("asyncpg", sa.select(User.id).where(User.id.in_(range(500))).order_by(User.id))
    (sql,) = copied(ran.shown)
    assert "'499'::BIGINT)" in sql
    assert psql(story, sql) == "".join(f"{row.id}\n" for row in ran.rows)


@pytest.mark.parametrize("driver", DRIVERS)
def test_finding_of_an_earlier_request_is_prepared(story, run, driver):
    """Its values went with the request; what the application wrote into its text stays."""
    statement = sa.text(
        """SELECT id, cast(nick AS varchar(9)) FROM "user" """
        "WHERE lower(email) = :email AND initcap(nick) = 'Nick7'"
    ).bindparams(email="user7")
    ran = run(driver, statement)
    assert all("= 'user7'" in now for now in copied(ran.shown))
    (later,) = set(copied(open_panel(ran.app, "/next").html))
    assert re.search(
        r"\nPREPARE planwatch_\w{6} \((?:text|character varying)\) AS\nSELECT id, ", later
    )
    assert "SELECT id, cast(nick AS varchar(9))\n" in later
    assert re.search(
        r"AND initcap\(nick\) = 'Nick7';\n-- EXECUTE planwatch_\w{6} \(email\);$", later
    )
    psql(story, later)


@pytest.fixture
def shop(story: Database) -> Iterator[None]:
    """A schema with another table `badge`, and a part of that table's rows."""
    rows = "SELECT g, 'Owner' || g FROM generate_series(1, 20000) g"
    story.execute(
        "CREATE SCHEMA shop",
        f"CREATE TABLE shop.badge (id, owner) AS {rows}",
        "ANALYZE shop.badge",
    )
    yield
    story.execute("DROP SCHEMA shop CASCADE")


#: How an application finds the tables of a schema: by the options of its connections, or by SET.
PATHS = {
    "options": {"path": "shop,public"},
    "SET": {"before": ["SET search_path TO shop, public"]},
    "SET LOCAL": {"before": ['SET LOCAL search_path TO "shop", public']},
}


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("by", PATHS)
def test_copied_sql_and_index_are_about_the_tables_of_the_application(story, run, driver, by):
    statement = sa.text("SELECT id FROM badge WHERE lower(owner) = :owner")
    ran = run(driver, statement.bindparams(owner="owner12345"), **PATHS[by])
    assert [row.id for row in ran.rows] == [12345]
    (now,) = copied(ran.shown)
    assert psql(story, now) == "12345\n"
    (later,) = set(copied(open_panel(ran.app, "/next").html))
    executed = later.rpartition("-- ")[2].replace("(owner)", "('owner12345')")
    assert psql(story, f"{later}\n{executed}") == "12345\n"
    (finding,) = ran.app.extensions["planwatch"].store.findings()
    psql(story, finding.advice[0].ddl[0])
    found = psql(story, "SELECT schemaname FROM pg_indexes WHERE indexdef LIKE '%lower(owner)%'")
    assert found == "shop\n"


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize("driver", DRIVERS)
def test_copied_sql_has_the_settings_of_the_application(story, run, driver):
    statement = sa.text("SELECT current_setting('shop.owner'), current_setting('enable_seqscan')")
    commands = ["SET enable_seqscan = off", "SET shop.owner TO 'it''s'", "SET statement_timeout=9"]
    ran = run(driver, statement, before=commands)
    (now,) = copied(ran.shown)
    assert psql(story, now) == "it's|off\n"
    assert "statement_timeout" not in now
    assert "search_path" not in now


@pytest.mark.parametrize("driver", DRIVERS)
def test_quote_in_the_name_of_a_column(story, run, driver):
    """SQLAlchemy names the parameter after the column."""
    column = sa.column("it's", sa.Integer)
    rows = sa.text("""(SELECT 7 AS "it's") AS few""")
    ran = run(driver, sa.select(column).select_from(rows).where(column.in_([7, 8])))
    (now,) = copied(ran.shown)
    assert psql(story, now) == "7\n"
    assert '<span class="badge inspected">' in ran.shown


def test_statement_on_a_temporary_table_is_not_offered(run):
    ran = run("psycopg", sa.text("SELECT id FROM here"), before=["CREATE TEMP TABLE here (id int)"])
    assert not copied(ran.shown)
    refusal = "It cannot be copied for psql: only the application's own session sees what it names."
    assert refusal in html.unescape(ran.shown)


def test_statement_that_has_no_prepared_form_is_not_offered(story, run):
    """psycopg2 writes values also into quotes, where PREPARE knows no parameter."""
    statement = sa.text(
        """SELECT id, now() - interval ':days days' FROM "user" WHERE lower(email) = 'x'"""
    ).bindparams(days=7)
    ran = run("psycopg2", statement)
    for now in copied(ran.shown):
        assert "interval '7 days'" in now
        psql(story, now)
    later = open_panel(ran.app, "/next")
    assert not copied(later.html)
    assert "It cannot be copied for psql: a placeholder stands in quotes." in later.text


def test_position_that_psycopg2_writes_is_not_prepared(story, run, without_values):
    """As a parameter it would be a constant, and sort nothing."""
    statement = sa.text("SELECT id, owner FROM badge ORDER BY :position").bindparams(position=2)
    ran = run("psycopg2", statement)
    assert not copied(ran.shown)
    assert "a placeholder may be the position of a column." in ran.shown


def test_statement_that_was_not_inspected_is_offered_with_its_values_only(story, run, waiting):
    ran = run("psycopg2", sa.select(User.id).where(User.id.in_(range(5000))), waits=True)
    assert not copied(ran.shown)
    assert "It cannot be copied for psql: it is not inspected yet." in ran.shown


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(
    ("condition", "why"),
    [
        (
            sa.text(" OR ".join(f"points + {number} > 5" for number in range(2500))),
            "its plan has more conditions, or values in them, than PlanWatch reads",
        ),
        (
            sa.case(*((User.points == at, f"{at} points") for at in range(700)), else_="") == "7",
            "its text, or a condition in its plan, is longer than PlanWatch reads",
        ),
    ],
)
def test_of_a_statement_that_is_too_large_it_is_said_that_it_is(story, run, driver, condition, why):
    """Not that the types of its parameters are not known."""
    ran = run(driver, sa.select(User.id).where(condition))
    assert not copied(ran.shown)
    assert f"It cannot be copied for psql: it was not inspected: {why}." in ran.shown


def test_of_a_statement_that_is_not_sampled_it_is_said_that_it_was_not_inspected(story, run):
    values = sa.select(User.id).where(User.id.in_(range(5000)))
    ran = run("psycopg2", values.execution_options(planwatch=False))
    assert "types of its parameters" not in ran.shown


@pytest.mark.parametrize("debug", [False, True])
def test_outside_debug_mode_nothing_is_kept_to_be_copied(story, watch, debug):
    """What the application wrote into its text may be a value."""
    watched = watch(story.url, SECRET_KEY="secret", PLANWATCH_VERIFY="off")
    watched.app.debug = debug
    DebugToolbarExtension(watched.app)
    with watched.app.app_context():
        watched.db.session.execute(
            sa.text("""SELECT id FROM "user" WHERE lower(email) = 'secret'""")
        ).all()
        (finding,) = watched.findings()
    kept = watched.app.extensions["planwatch"].preparable(finding.fingerprint)
    assert (kept is not None and "'secret'" in kept.text) == debug
    assert "secret" not in f"{finding.as_dict() if hasattr(finding, 'as_dict') else finding!r}"
    watched.planwatch.clear(watched.app)


#: Texts with placeholders in quotes and comments, and the value that is given for each.
HIDDEN = (
    ("""SELECT count(*) FROM "user" WHERE nick <> '{0} off' AND nick = {0}""", "Nick7"),
    ('SELECT count(*) FROM "user" WHERE nick = {0} -- costs {0}', "Nick7\n) OR true"),
    ('SELECT count(*) FROM "user" WHERE nick = {0} /* {0} /* */ {0} */ AND id < 9', "Nick7 */"),
    ("SELECT count(*) FROM \"user\" WHERE nick = {0} AND nick <> E'\\\\' || '{0}'", "Nick7"),
    ('SELECT count(*) FROM "user" AS "{0}" WHERE nick = {0} AND nick <> $a$ {0} $a$', "Nick7"),
)


@pytest.mark.parametrize("place", range(len(HIDDEN)))
@pytest.mark.parametrize("waits", [False, True])
def test_what_is_in_quotes_or_comments_is_no_placeholder_of_asyncpg(
    story, run, request, place, waits
):
    if waits:
        request.getfixturevalue("waiting")
    text, value = HIDDEN[place]
    statement = sa.text(re.sub(r"(?<!nick = ):nick", "$1", text.format(":nick"))).bindparams(
        nick=value
    )
    ran = run("asyncpg", statement, waits=waits)
    sql = copied(ran.shown)[0]
    assert sql.count(value.partition(chr(10))[0]) == 1
    assert psql(story, sql) == f"{ran.rows[0][0]}\n"


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
@pytest.mark.parametrize("waits", [False, True])
def test_value_is_never_written_into_a_comment(story, run, request, driver, waits):
    if waits:
        request.getfixturevalue("waiting")
    statement = sa.text('SELECT count(*) FROM "user" WHERE nick = :nick -- costs :nick')
    ran = run(driver, statement.bindparams(nick="Nick7 OR true"), waits=waits)
    sql = copied(ran.shown)[0]
    assert re.search(r"-- costs \$1(?:::VARCHAR)?\n;\Z", sql)
    assert psql(story, sql) == "0\n"


def test_what_is_in_quotes_is_filled_in_only_by_the_driver_that_does_so():
    numbered = Numbered("SELECT '%(a)s', %(a)s::int, 'it''s' -- %(a)s", {"a": 1})
    assert numbered.with_literals({0: "-1"}) == "SELECT '$1', (-1)::int, 'it''s' -- $1"
    assert numbered.with_literals({0: "1"}, in_quotes=True) == ("SELECT '1', 1::int, 'it''s' -- $1")


def test_hstore_of_a_statement_that_waits_is_one(fresh_story, watch, held, monkeypatch):
    """psycopg2 has no class for it: it is a dict, as JSON may be."""
    engine = sa.create_engine(fresh_story.url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE EXTENSION hstore")
    engine.dispose()
    monkeypatch.setattr(panel, "PATIENCE", 0.0)
    watched = watch(fresh_story.url, SECRET_KEY="secret")
    watched.app.debug = True
    DebugToolbarExtension(watched.app)
    value = {"a": "b\"'\\", "c": None, "": "{}"}
    statement = sa.select(sa.cast(sa.bindparam("v", value, postgresql.HSTORE), sa.Text))
    rows = []

    def page() -> str:
        rows.extend(watched.db.session.execute(statement).all())
        return PAGE

    watched.app.add_url_rule("/", "page", page)
    (sql,) = copied(open_panel(watched.app).html)
    assert psql(fresh_story, sql) == f"{rows[0][0]}\n"


@pytest.mark.parametrize(
    ("statement", "sql"),
    [
        ("SELECT 1", "SELECT 1;"),
        ("SELECT 1; ", "SELECT 1;"),
        ("SELECT 1 -- one", "SELECT 1 -- one\n;"),
        ("SELECT 'a FROM b' FROM t", "SELECT 'a FROM b'\nFROM t;"),
        ("SELECT $$a FROM b$$ FROM t", "SELECT $$a FROM b$$ FROM t;"),
        ("SELECT E'\\' FROM ' FROM t", "SELECT E'\\' FROM ' FROM t;"),
        ("\n  SELECT '\n    x'\n  FROM t\n", "SELECT '\n    x'\n  FROM t;"),
    ],
)
def test_layout_leaves_what_is_in_quotes(statement, sql):
    assert runnable(statement) == sql

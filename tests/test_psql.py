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
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_debugtoolbar import DebugToolbarExtension
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA, ENUM, JSON, JSONB, UUID
from sqlalchemy.ext.asyncio import create_async_engine

from flask_planwatch.fingerprint import normalise
from flask_planwatch.report.psql import prepared, runnable

from .conftest import Database, Watched
from .models import User
from .servers import missing
from .test_panel import PAGE, open_panel

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

#: Statements without values, with what is copied of them.
PREPARED = {
    'SELECT id FROM "user" WHERE nick = %(nick)s OR email = %(nick)s LIMIT ?': (
        'PREPARE planwatch AS\nSELECT id\nFROM "user"\nWHERE nick = $1 OR email = $1\nLIMIT $2;\n'
        "-- EXECUTE planwatch (nick, value_2);"
    ),
    'SELECT id FROM "user" WHERE data ? ? AND points IN (...)': (
        'PREPARE planwatch AS\nSELECT id\nFROM "user"\nWHERE data ? $1 AND points IN ($2);\n'
        "-- EXECUTE planwatch (value_1, value_2);"
    ),
    "SELECT interval ?, ?::date, $1::text": (
        "PREPARE planwatch AS\nSELECT $2::interval, $3::date, $1::text;\n"
        "-- EXECUTE planwatch (value_1, value_2, value_3);"
    ),
    "SELECT count(*) FROM badge": "SELECT count(*)\nFROM badge;",
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
def run(story: Database, watch: Callable[..., Watched]) -> Callable[..., Ran]:
    """Return a function that runs a statement in a request."""

    def make(driver: str, statement: sa.Executable, **config: object) -> Ran:
        watched = watch(story.url, SECRET_KEY="secret", PLANWATCH_VERIFY="off", **config)
        watched.app.debug = True
        DebugToolbarExtension(watched.app)
        rows: list[Any] = []

        async def asynchronous() -> None:
            engine = create_async_engine(story.url_for(driver))
            watched.planwatch.watch(engine.sync_engine, watched.app)
            async with engine.connect() as connection:
                rows.extend((await connection.execute(statement)).all())
            watched.planwatch.flush(120)
            await engine.dispose()

        def page() -> str:
            if driver == "asyncpg":
                asyncio.run(asynchronous())
                return PAGE
            engine = sa.create_engine(story.url_for(driver))
            watched.planwatch.watch(engine, watched.app)
            with engine.connect() as connection:
                rows.extend(connection.execute(statement).all())
            watched.planwatch.flush(120)
            engine.dispose()
            return PAGE

        watched.app.add_url_rule("/", "page", page)
        watched.app.add_url_rule("/next", "next", lambda: PAGE)
        return Ran(open_panel(watched.app).html, rows, watched.app)

    return make


@pytest.mark.parametrize("driver", DRIVERS)
def test_copied_sql_has_the_values_of_the_driver(story, run, driver):
    """One statement with all kinds: psql prints what the driver got."""
    columns = [
        sa.cast(sa.bindparam(f"p{place}", value, type_), sa.Text).label(f"c{place}")
        for place, (value, type_) in enumerate(VALUES.values())
    ]
    nothing = sa.cast(sa.bindparam("nothing", None, sa.Date()), sa.Text).is_(None)
    statement = sa.select(*columns, nothing, sa.bindparam("last", "it's", sa.Text()))
    ran = run(driver, statement)
    (sql,) = copied(ran.shown)
    assert not sql.startswith("PREPARE")
    expected = ["t" if one is True else str(one) for one in ran.rows[0]]
    assert psql(story, f"SET timezone = 'UTC';\n{sql}").rstrip("\n") == "|".join(expected)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", STATEMENTS)
def test_copied_sql_finds_the_same_rows(story, run, driver, name):
    ran = run(driver, STATEMENTS[name])
    # Each finding of a statement offers it.
    (sql,) = set(copied(ran.shown))
    expected = ["|".join(map(str, row)) for row in ran.rows]
    assert expected
    assert psql(story, sql) == "".join(f"{line}\n" for line in expected)


@pytest.mark.parametrize("name", STATEMENTS)
def test_without_values_it_is_a_prepared_statement(story, name):
    """As a statement is known once its request has gone: for psycopg, in PlanWatch's own form."""
    for paramstyle in ("pyformat", "numeric_dollar"):
        dialect = postgresql.dialect(paramstyle=paramstyle)
        text = str(STATEMENTS[name].compile(dialect=dialect))
        for known in (text, normalise(text)):
            sql = prepared(known)
            if "$1" in sql:
                assert re.match(r"PREPARE planwatch AS\n", sql)
                assert re.search(r"^-- EXECUTE planwatch \(\w+(, \w+)*\);$", sql, re.MULTILINE)
            psql(story, f"{sql}\nDEALLOCATE ALL;")


@pytest.mark.parametrize("text", PREPARED)
def test_prepared_text(story, text):
    sql = prepared(text)
    assert sql == PREPARED[text]
    psql(story, f"{sql}\n")


def test_statement_with_too_long_values_is_prepared(story, run):
    (sql,) = copied(run("psycopg2", sa.select(User.id).where(User.id.in_(range(5000)))).shown)
    assert sql.endswith("IN ($1);\n-- EXECUTE planwatch (value_1);")
    psql(story, sql)


def test_finding_of_an_earlier_request_is_prepared(story, run):
    """Its values went with the request."""
    ran = run("psycopg2", sa.select(User.id).where(sa.func.lower(User.email) == "user7"))
    (now,) = copied(ran.shown)
    assert "= 'user7'" in now
    (later,) = copied(open_panel(ran.app, "/next").html)
    assert later.startswith("PREPARE planwatch AS\nSELECT ")
    assert later.endswith("= $1;\n-- EXECUTE planwatch (lower_1);")
    assert "user7" not in later
    psql(story, later)


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

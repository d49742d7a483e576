"""With psycopg2, the plan of a statement with parameters is that of the text with its values."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from random import Random
from uuid import UUID

import psycopg2.extensions
import pytest
import sqlalchemy as sa

from flask_planwatch.failure import ServerError
from flask_planwatch.server.explain import Query, explain
from flask_planwatch.server.session import Session

from .any_statement import FILL, AnyStatement, metadata
from .databases import make_database

pytestmark = pytest.mark.slow

#: Statements of any_statement.py that are compared on each server.
STATEMENTS = 150

#: Shapes of which the rules read the constants, with their values as psycopg2 gets them.
SHAPES = {
    "function": ("SELECT id FROM sample WHERE lower(name) = %s", ("x",)),
    "function of the value": ("SELECT id FROM sample WHERE lower(name) = lower(%s)", ("X",)),
    "varchar": ('SELECT id FROM sample WHERE "Odd Näme" = %s', ("x",)),
    "char": ("SELECT id FROM sample WHERE code = %s", ("x",)),
    "enum": ("SELECT id FROM sample WHERE mood = %s", ("bright",)),
    "whole": ("SELECT id FROM sample WHERE number = %s", (5,)),
    "negative": ("SELECT id FROM sample WHERE number > %s", (-5,)),
    "least integer": ("SELECT id FROM sample WHERE number > %s", (-(2**31),)),
    "big": ("SELECT id FROM sample WHERE number = %s", (2**40,)),
    "huge": ("SELECT id FROM sample WHERE number < %s", (2**70,)),
    "decimal against integer": ("SELECT id FROM sample WHERE number = %s", (Decimal("5.0"),)),
    "float against integer": ("SELECT id FROM sample WHERE number = %s", (5.5,)),
    "not a number": ("SELECT id FROM sample WHERE ratio < %s", (float("inf"),)),
    "null": ("SELECT id FROM sample WHERE number = %s", (None,)),
    "boolean": ("SELECT id FROM sample WHERE (number > 5) = %s", (True,)),
    "date": ("SELECT id FROM sample WHERE day < %s", (datetime.date(2020, 1, 1),)),
    "date against timestamptz": ("SELECT id FROM sample WHERE made < %s", (datetime.date.max,)),
    "timestamp": ("SELECT id FROM sample WHERE local < %s", (datetime.datetime(2020, 1, 1),)),
    "time zone": (
        "SELECT id FROM sample WHERE made < %s",
        (datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),),
    ),
    "time": ("SELECT id FROM sample WHERE at < %s", (datetime.time(12),)),
    "interval": ("SELECT id FROM sample WHERE span < %s", (datetime.timedelta(3, 4, 5),)),
    "bytes": ("SELECT id FROM sample WHERE raw = %s", (b"a\x00'\\",)),
    "uuid": ("SELECT id FROM sample WHERE key = %s", (str(UUID(int=7)),)),
    "quotes": ("SELECT id FROM sample WHERE name = %s", ("a'b\\c;d\"$$e%s\n",)),
    "like": ("SELECT id FROM sample WHERE name LIKE %s", ("abc%",)),
    "like inside": ("SELECT id FROM sample WHERE name LIKE '%%' || %s || '%%'", ("b",)),
    "in": ("SELECT id FROM sample WHERE number IN (%s, %s, %s)", (1, 2, 3)),
    "in, of names": ("SELECT id FROM sample WHERE name IN (%s, %s)", ("a", "b")),
    "tuple": ("SELECT id FROM sample WHERE number IN %s", ((1, 2),)),
    "array": ("SELECT id FROM sample WHERE number = ANY (%s)", ([1, 2**40, None],)),
    "array of names": ("SELECT id FROM sample WHERE name = ANY (%s)", (["a'", 'b\\"', "c;"],)),
    "array of dates": ("SELECT id FROM sample WHERE day = ANY (%s)", ([datetime.date.min],)),
    "empty array": ("SELECT id FROM sample WHERE number = ANY (%s)", ([],)),
    "array column": ("SELECT id FROM sample WHERE tags @> %s", (["a"],)),
    "json key": ("SELECT id FROM sample WHERE data ->> %s = %s", ("type", "a")),
    "json place": ("SELECT id FROM sample WHERE data -> %s IS NULL", (1,)),
    "limit": ("SELECT id FROM sample ORDER BY id LIMIT %s OFFSET %s", (10, 20)),
    "order": ("SELECT name, id FROM sample ORDER BY %s", (2,)),
    "group": ("SELECT name, count(*) FROM sample GROUP BY %s", (1,)),
    "distinct on": ("SELECT DISTINCT ON (%s) name, id FROM sample", (1,)),
    "group by one name": (
        "SELECT date_trunc(%(unit)s, made) FROM sample GROUP BY date_trunc(%(unit)s, made)",
        {"unit": "day"},
    ),
    "group by two names": (
        "SELECT date_trunc(%(a)s, made) FROM sample GROUP BY date_trunc(%(b)s, made)",
        {"a": "day", "b": "day"},
    ),
    "in quotes": ("SELECT id FROM sample WHERE name = '%s'", (5,)),
    "in quotes after a name": ("SELECT \"a'b\" FROM (SELECT '%s' AS \"a'b\") x", (5,)),
    "in a comment": ("SELECT id -- 'no %s\nFROM sample WHERE number = %s", (1, 2)),
    "in dollars": ("SELECT id FROM sample WHERE name = $$%s$$ AND number = %s", (1, 2)),
    "an interval's": ("SELECT id FROM sample WHERE made < now() - interval '%s days'", (7,)),
    "interval, cast": ("SELECT id FROM sample WHERE made < now() - %s::interval", ("7 days",)),
    "cast": ("SELECT id FROM sample WHERE day = CAST(%s AS date)", ("2020-01-01",)),
    "one name, two types": (
        "SELECT id FROM sample WHERE name = %(v)s OR number = %(v)s",
        {"v": "5"},
    ),
    "one name, char and varchar": (
        "SELECT id FROM sample WHERE code = %(v)s UNION "
        'SELECT id FROM sample WHERE "Odd Näme" = %(v)s',
        {"v": "x"},
    ),
    "one name, date and timestamp": (
        "SELECT id FROM sample WHERE day = %(v)s OR local = %(v)s OR made = %(v)s",
        {"v": "2020-01-01"},
    ),
    "one name, with a function and a cast": (
        "SELECT id FROM sample WHERE mood = %(v)s OR name = lower(%(v)s) OR mood::text = %(v)s",
        {"v": "bright"},
    ),
    "one name or NULL": (
        "SELECT id FROM sample WHERE (%(v)s IS NULL OR name = %(v)s) "
        "AND (%(w)s IS NOT NULL OR number = %(w)s)",
        {"v": "x", "w": 5},
    ),
    "NULL after an operator": (
        "SELECT id FROM sample WHERE name = 'x' AND (tags || %(v)s IS NULL OR name = %(v)s)",
        {"v": "{a}"},
    ),
    "one name, a key of an object": (
        "SELECT jsonb_build_object(%(v)s, number), name || %(v)s FROM sample",
        {"v": "x"},
    ),
    "order by an expression": (
        "SELECT coalesce(name, %s) FROM sample WHERE mood = %s ORDER BY coalesce(name, %s)",
        ("bright", "bright", "bright"),
    ),
    "order by an expression of a number": (
        "SELECT number + %s FROM sample ORDER BY number + %s, id LIMIT %s",
        (1, 1, 1),
    ),
    "group by a number's": (
        "SELECT number + %s, count(*) FROM sample GROUP BY number + %s ORDER BY number + %s",
        (1, 1, 1),
    ),
    "partition": (
        "SELECT coalesce(name, %s), row_number() OVER (PARTITION BY coalesce(name, %s) ORDER BY id)"
        " FROM sample ORDER BY coalesce(name, %s)",
        ("x", "x", "x"),
    ),
    "array of an enum": (
        "SELECT id FROM sample WHERE mood = ANY (%s::sample_mood[])",
        (["bright"],),
    ),
    "array of an enum, cast": (
        "SELECT id FROM sample WHERE ARRAY[mood] && CAST(%s AS sample_mood[])",
        (["bright", None],),
    ),
    "array, cast to a length": (
        "SELECT id FROM sample WHERE name = ANY (%s::character varying(2)[])",
        (["abc", "d"],),
    ),
    "array, cast to text": ("SELECT id FROM sample WHERE name = %s::text", (["abc", "d"],)),
    "array, under another name": ("SELECT %s AS x, id FROM sample", (["abc", "d"],)),
    "case": ("SELECT CASE WHEN number > %s THEN %s ELSE %s END FROM sample", (1, "a", None)),
    "coalesce": ("SELECT id FROM sample WHERE coalesce(number, %s) = %s", (0, 0)),
    "insert": ("INSERT INTO sample (id, name) VALUES (%s, %s)", (99_999_999, "x")),
    "update": ("UPDATE sample SET name = %s WHERE lower(name) = %s", ("a", "b")),
    "delete": ("DELETE FROM sample WHERE number = %s", (1,)),
    "with": ("WITH a AS (SELECT %s AS x) SELECT id FROM sample, a WHERE name = x", ("b",)),
    "write in with": (
        "WITH d AS (DELETE FROM sample WHERE id = %s RETURNING 1) SELECT * FROM d",
        (1,),
    ),
    "values": ("VALUES (%s, %s)", (1, "a")),
    "row": ("SELECT id FROM sample WHERE (number, name) > (%s, %s)", (1, "a")),
    "between": ("SELECT id FROM sample WHERE number BETWEEN %s AND %s", (1, 2)),
    "union": ("SELECT %s UNION SELECT name FROM sample WHERE number = %s", ("a", 1)),
    "a semicolon": ("SELECT id FROM sample WHERE name = 'a;b' AND number = %s", (1,)),
    "a semicolon at the end": ("SELECT id FROM sample WHERE number = %s; -- the end;", (1,)),
    "a write with a semicolon": ("UPDATE sample SET name = 'a;b' WHERE number = %s", (1,)),
    "a bound adapter": (
        "SELECT id FROM sample WHERE number = %s",
        (psycopg2.extensions.AsIs("1 + 1"),),
    ),
    "percent": ("SELECT id FROM sample WHERE number %% %s = 0", (7,)),
}

#: Those whose values psycopg2 itself has to write into the text.
LITERAL = {
    *("tuple", "order", "group", "distinct on", "group by one name", "group by two names"),
    *("in quotes", "in quotes after a name", "in a comment", "in dollars", "an interval's"),
    *("one name, a key of an object", "a bound adapter"),
}


@pytest.fixture(scope="module")
def samples(any_server):
    for database in make_database(any_server, None):
        engine = sa.create_engine(database.url)
        metadata.create_all(engine)
        database.execute(*FILL)
        database.execute("VACUUM ANALYZE")
        yield database
        engine.dispose()


@pytest.fixture(scope="module")
def engine(samples):
    engine = sa.create_engine(samples.url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def session(engine):
    session = Session(engine, url=None, statement_timeout_ms=30_000, lock_timeout_ms=5000)
    yield session
    session.close()


def literally(engine, text, parameters):
    """Return the plan that PostgreSQL makes of the text with the values in it."""
    with engine.connect() as connection:
        cursor = connection.connection.cursor()
        cursor.execute(f"EXPLAIN (FORMAT JSON, VERBOSE) {text}", parameters)
        return told(cursor.fetchone()[0])


def told(document):
    """Return a plan as text, without what belongs to the command around it."""
    for one in document:
        for name in ("Query Identifier", "Settings", "Planning Time"):
            one.pop(name, None)
    return json.dumps(document, indent=1)


class Seen:
    """What a session sends, and the plans that come back."""

    def __init__(self, monkeypatch):
        from flask_planwatch.server import client_side, transaction

        self.plans, self.sent = [], []
        read = transaction.Plan.from_json
        monkeypatch.setattr(
            transaction.Plan,
            "from_json",
            lambda document: (self.plans.append(document), read(document))[1],
        )
        ask = client_side.Psycopg2Transaction._ask

        def note(transaction, send, sql, *arguments):
            self.sent.append(sql)
            return ask(transaction, send, sql, *arguments)

        monkeypatch.setattr(client_side.Psycopg2Transaction, "_ask", note)


@pytest.mark.parametrize("name", SHAPES)
def test_each_shape(engine, session, monkeypatch, name):
    text, parameters = SHAPES[name]
    seen = Seen(monkeypatch)
    explain(session, Query(text, parameters))
    assert told(seen.plans[-1]) == literally(engine, text, parameters)
    assert any("set_config('planwatch" in sql for sql in seen.sent) == (
        name not in LITERAL and parameters not in [(None,), [None]]
    )


def test_what_the_server_refused_is_not_sent_again_on_another_connection(
    engine, session, monkeypatch
):
    query, seen = Query(*SHAPES["group by two names"]), Seen(monkeypatch)

    def parametrised():
        """Plan the statement, and return what is sent with parameters in it."""
        seen.sent.clear()
        session.close()
        explain(session, query)
        return [sql for sql in seen.sent if "$1" in sql]

    session.literal_only.clear()
    assert parametrised()
    assert not parametrised()
    session.literal_only.clear()
    assert parametrised()


def test_any_statement(engine, session, monkeypatch):
    captured = []
    sa.event.listen(engine, "before_cursor_execute", lambda *given: captured.append(given[2:]))
    compared = parameters_of_the_server = 0
    for seed in range(STATEMENTS):
        captured.clear()
        with sa.orm.Session(engine) as orm:
            try:
                AnyStatement(Random(seed)).step().run(orm)
            except sa.exc.SQLAlchemyError:
                continue
        for text, parameters, context, many in captured:
            if many or not text.lstrip().upper().startswith(("SELECT", "INSERT", "UPDATE", "WITH")):
                continue
            escaped = not context.execution_options.get("no_parameters", False)
            parameters = parameters if escaped else None
            seen = Seen(monkeypatch)
            try:
                explain(session, Query(text, parameters, escaped))
            except ServerError as error:
                with pytest.raises(sa.exc.DBAPIError, match=error.sqlstate):
                    literally(engine, text, parameters)
                continue
            assert told(seen.plans[-1]) == literally(engine, text, parameters), text
            compared += 1
            parameters_of_the_server += any("set_config('planwatch" in sql for sql in seen.sent)
    assert compared > STATEMENTS / 2
    assert parameters_of_the_server > compared / 2


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
@pytest.mark.parametrize("parameters", [{"name": "x"}, {}])
def test_the_identifier_is_that_of_the_applications_statement(samples, driver, parameters):
    """psycopg2's constants are parameters to PlanWatch, which makes another statement of it."""
    value = "%(name)s" if parameters else "'x'"
    text = f"SELECT id FROM sample WHERE name = {value}"
    engine = sa.create_engine(
        samples.url_for(driver), connect_args={"options": "-c compute_query_id=on"}
    )
    session = Session(engine, url=None, statement_timeout_ms=30_000, lock_timeout_ms=5000)
    with engine.connect() as connection:
        connection.exec_driver_sql(text, parameters)
        process = connection.connection.driver_connection.info.backend_pid
        identifier = samples.scalar(f"SELECT query_id FROM pg_stat_activity WHERE pid = {process}")
    plan = explain(session, Query(text, parameters)).as_text()
    session.close()
    engine.dispose()
    assert identifier
    said = [line for line in plan.splitlines() if line.startswith("Query Identifier")]
    known = not parameters or driver == "psycopg"
    assert said == ([f"Query Identifier: {identifier}"] if known else [])

"""A statement keeps one identity, whatever its values, and its text holds none of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import sqlalchemy as sa
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy.dialects.postgresql import asyncpg, psycopg, psycopg2

from flask_planwatch.fingerprint import fingerprint, normalise
from flask_planwatch.plan.scrub import UNREADABLE

THOUSAND = ", ".join(str(number) for number in range(1000))
PLACEHOLDERS = ", ".join(f"%(x_{number})s" for number in range(1000))
DOLLARS = ", ".join(f"${number}::INTEGER" for number in range(1, 1001))
ROWS = ", ".join("(1, 'a')" for _ in range(1000))

#: Texts of one statement, each line of them with one fingerprint.
SAME = {
    "numbers": ["SELECT * FROM t WHERE a = 1", "SELECT * FROM t WHERE a = 1234.5e6"],
    "negative numbers": ["SELECT * FROM t WHERE a = 1", "SELECT * FROM t WHERE a = -1"],
    "strings": [
        "SELECT * FROM t WHERE a = 'x'",
        "SELECT * FROM t WHERE a = ''",
        "SELECT * FROM t WHERE a = 'it''s; -- /* $1 ?'",
        r"SELECT * FROM t WHERE a = 'x\'",
        r"SELECT * FROM t WHERE a = E'x\'y'",
        "SELECT * FROM t WHERE a = $$x'y$$",
        "SELECT * FROM t WHERE a = $tag$x'$$y$tag$",
    ],
    "per cent signs": ["SELECT * FROM t WHERE a LIKE '%%x'", "SELECT * FROM t WHERE a LIKE 'y%'"],
    "limits": ["SELECT * FROM t LIMIT 5 OFFSET 10", "SELECT * FROM t LIMIT 50 OFFSET 0"],
    "intervals": ["SELECT now() - interval '1 day'", "SELECT now() - interval '2 h'"],
    "lists of numbers": [
        "SELECT * FROM t WHERE a IN (1)",
        "SELECT * FROM t WHERE a IN (1,2)",
        f"SELECT * FROM t WHERE a IN ({THOUSAND})",
    ],
    "lists of negative numbers": [
        "SELECT * FROM t WHERE a IN (-1)",
        "SELECT * FROM t WHERE a IN (1, -2, -3)",
    ],
    "lists of strings": [
        "SELECT * FROM t WHERE a NOT IN ('x')",
        "SELECT * FROM t WHERE a NOT IN ('x', 'y), (', '''')",
    ],
    "lists of psycopg2's parameters": [
        "SELECT * FROM t WHERE a IN (%(a_1)s)",
        "SELECT * FROM t WHERE a IN (%(a_1)s, %(a_2)s)",
        f"SELECT * FROM t WHERE a IN ({PLACEHOLDERS})",
    ],
    "lists of psycopg's parameters": [
        "SELECT * FROM t WHERE a IN (%(a_1)s::VARCHAR)",
        "SELECT * FROM t WHERE a IN (%(a_1)s::VARCHAR, %(a_2)s::VARCHAR)",
    ],
    "lists of parameters with a length": [
        "SELECT * FROM t WHERE a IN (%(a_1)s::NUMERIC(10, 2))",
        "SELECT * FROM t WHERE a IN (%(a_1)s::NUMERIC(10, 2), %(a_2)s::NUMERIC(10, 2))",
    ],
    "lists of asyncpg's parameters": [
        "SELECT * FROM t WHERE a IN ($1::INTEGER)",
        f"SELECT * FROM t WHERE a IN ({DOLLARS})",
    ],
    "a parameter after a list": [
        "SELECT * FROM t WHERE a IN ($1) AND b = $2",
        "SELECT * FROM t WHERE a IN ($1, $2, $3) AND b = $4",
    ],
    "lists of rows": [
        "SELECT * FROM t WHERE (a, b) IN ((1, 'x'))",
        "SELECT * FROM t WHERE (a, b) IN ((1, 'x'), (2, 'y'))",
    ],
    "rows to insert": [
        "INSERT INTO t (a, b) VALUES (1, 'a'), (2, 'b')",
        f"INSERT INTO t (a, b) VALUES {ROWS}",
    ],
    "rows to insert and more": [
        "INSERT INTO t (a) VALUES (%(a_m0)s), (%(a_m1)s) ON CONFLICT DO NOTHING",
        "INSERT INTO t (a) VALUES (%(a_m0)s), (%(a_m1)s), (%(a_m2)s) ON CONFLICT DO NOTHING",
    ],
    "comments": [
        "SELECT * FROM t WHERE a = 1",
        "SELECT * FROM t WHERE a = 2 /*traceparent='00-5bd6-01',route='%%2Fusers'*/",
        "SELECT * FROM t WHERE a = 2 /*traceparent='00-77aa-01',route='%%2Fusers'*/;",
        "SELECT * FROM t WHERE a = 2; /*traceparent='00-77aa-01'*/",
        "/* request 4711 */ SELECT * FROM t WHERE a = 3",
        "SELECT * FROM t -- it's user 7's\nWHERE a = 4",
        "SELECT * FROM t /* one /* in */ another */ WHERE a = 5",
    ],
    "white space": [
        "SELECT * FROM t WHERE a = 1",
        "\n  SELECT *\n\tFROM t\r\n WHERE   a = 2\n",
    ],
    "semicolons": ["SELECT * FROM t", "SELECT * FROM t;", "SELECT * FROM t ;\n"],
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_same(name):
    assert {fingerprint(text, None) for text in SAME[name]} == {fingerprint(SAME[name][0], None)}


#: Texts of different statements, none of them with the fingerprint of another.
DIFFERENT = {
    "tables": ["SELECT * FROM t", "SELECT * FROM u", "SELECT * FROM s.t"],
    "columns": ["SELECT a FROM t", "SELECT b FROM t", "SELECT a, b FROM t"],
    "quoted names": ['SELECT "A" FROM t', 'SELECT "a" FROM t', 'SELECT "a b" FROM t'],
    "numbers in names": ["SELECT a1 FROM t2", "SELECT a2 FROM t2", "SELECT a1 FROM t1"],
    "operators": ["SELECT a < 1", "SELECT a <= 1", "SELECT a << 1", "SELECT a < ALL (b)"],
    "list and value": ["SELECT a IN (1)", "SELECT a = 1", "SELECT a NOT IN (1)"],
    "list and sub-query": ["SELECT a IN (1)", "SELECT a IN (SELECT 1)", "SELECT a IN (b)"],
    "literal and null": ["SELECT a IS NULL", "SELECT a IS NOT NULL", "SELECT a IS TRUE"],
    "casts": ["SELECT '1'::int", "SELECT '1'::bigint"],
    "columns of rows": ["INSERT INTO t VALUES (1), (2)", "INSERT INTO t VALUES (1, 1), (2, 2)"],
    "names of parameters": ["SELECT a = %(a_1)s", "SELECT a = %(b_1)s"],
    "unreadable texts": ["SELECT 'a", "SELECT 'b", 'SELECT "a', "SELECT $$a"],
    "procedures": ["CALL f(1)", "CALL g(1)"],
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_different(name):
    assert len({fingerprint(text, None) for text in DIFFERENT[name]}) == len(DIFFERENT[name])


def test_binds_are_told_apart():
    assert len({fingerprint("SELECT 1", bind) for bind in (None, "a", "b")}) == 3


TABLE = sa.table("t", sa.column("a", sa.Integer), sa.column("b", sa.String(50)))
DIALECTS = [psycopg2.dialect(), psycopg.dialect(), asyncpg.dialect()]


def compiled(statement, dialect) -> str:
    """Return the text as SQLAlchemy keeps it in its cache: one text for all lengths of a list."""
    return statement.compile(dialect=dialect).string


def executed(statement, dialect) -> str:
    """Return the text as the driver gets it."""
    return statement.compile(dialect=dialect, compile_kwargs={"render_postcompile": True}).string


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.driver)
@pytest.mark.parametrize("column", ["a", "b"])
def test_lists_that_sqlalchemy_expands(dialect, column):
    ask = [
        sa.select(TABLE).where(TABLE.c[column].in_(range(1, 1 + length)), TABLE.c.a != 1)
        for length in (1, 2, 1000)
    ]
    assert "POSTCOMPILE" in compiled(ask[0], dialect)
    assert "POSTCOMPILE" not in normalise(compiled(ask[0], dialect))
    assert len({fingerprint(compiled(each, dialect), None) for each in ask}) == 1
    assert len({fingerprint(executed(each, dialect), None) for each in ask}) == 1


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.driver)
def test_rows_that_sqlalchemy_expands(dialect):
    pair = sa.tuple_(TABLE.c.a, TABLE.c.b)
    ask = [sa.select(TABLE).where(pair.in_([(1, "x")] * length)) for length in (1, 2, 100)]
    assert "POSTCOMPILE" not in normalise(compiled(ask[0], dialect))
    assert len({fingerprint(compiled(each, dialect), None) for each in ask}) == 1


def test_form():
    assert re.fullmatch("[0-9a-f]{16}", fingerprint("SELECT 1", None))


def test_stable_across_processes():
    text, unreadable = "SELECT * FROM t WHERE a IN (1, 2) AND b = 'x'", "SELECT 'a"
    program = (
        "from flask_planwatch.fingerprint import fingerprint;"
        f"print(fingerprint({text!r}, 'bind'), fingerprint({unreadable!r}, None))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "4711"}
    output = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert output.split() == [fingerprint(text, "bind"), fingerprint(unreadable, None)]


#: What the statements of users look like in logs: worth to be read.
NORMALISED = {
    "SELECT a FROM t WHERE a = 5 AND b = 'x'": "SELECT a FROM t WHERE a = ? AND b = ?",
    "SELECT a FROM t WHERE a IN (1, 2)": "SELECT a FROM t WHERE a IN (...)",
    "SELECT a FROM t WHERE a = %(a_1)s": "SELECT a FROM t WHERE a = %(a_1)s",
    "SELECT a FROM t WHERE a = $1": "SELECT a FROM t WHERE a = $1",
    "SELECT a\n  FROM t -- x\n;": "SELECT a FROM t",
    "SELECT a %% 2 FROM t": "SELECT a % ? FROM t",
    "SELECT a FROM t WHERE d @> '{}'::jsonb": "SELECT a FROM t WHERE d @> ?::jsonb",
    "INSERT INTO t VALUES (1, 'a'), (2, 'b')": "INSERT INTO t VALUES (?, ?), ...",
    "UPDATE t SET a = a + 1": "UPDATE t SET a = a + ?",
}


@pytest.mark.parametrize("text", NORMALISED)
def test_normalised_text(text):
    assert normalise(text) == NORMALISED[text]


@pytest.mark.parametrize("text", ["SELECT 'a", 'SELECT "a', "SELECT $x$a"])
def test_unreadable_text_is_not_shown(text):
    assert normalise(text) == UNREADABLE


MARK = "SECRET"

#: How each kind of literal is written, with `{}` for a text of letters.
STRINGS = ["'{}'", "E'\\'{}'", "'it''s {}'", "$${}$$", "$t${}$t$", "U&'{}'", "N'{}'", "'a' '{}'"]

#: Numbers as PostgreSQL 18 reads them; the digits 8675309 are in each.
NUMBERS = [
    "8675309", "-8675309", "8675309.5", "0.8675309", ".8675309", "8675309e5", "1e-8675309",
    "8_675_309", "0x8675309", "0o23456",
]  # fmt: skip

CONTEXTS = [
    "SELECT {} FROM t", "SELECT * FROM t WHERE a = {}", "SELECT * FROM t WHERE {}=a",
    "SELECT * FROM t WHERE a IN ({}, {})", "INSERT INTO t VALUES ({}, %(b)s), ({}, NULL)",
    "UPDATE t SET a={} WHERE b={}", "DELETE FROM t WHERE a BETWEEN {} AND {}",
    "WITH x AS (SELECT {}) SELECT * FROM x", "SELECT f({}, $1)", "SELECT ARRAY[{}, {}]",
    "SELECT CASE WHEN a={} THEN {} END", "CALL f({}::text, 1)", "EXECUTE f({}, {})",
    "MERGE INTO t USING u ON t.a = {} WHEN MATCHED THEN UPDATE SET a = {}",
    "SELECT * FROM call WHERE call.a = {}::text", "SELECT 1; SELECT {}::text",
]  # fmt: skip


WRITTEN = st.sampled_from(STRINGS)
NASTY = st.text('ab ,()[]{}?%:;-/*"\né', max_size=8)


@pytest.mark.parametrize("context", CONTEXTS)
@given(written=WRITTEN, before=NASTY, after=NASTY)
@example(written="'{}'", before="", after="")
@example(written="'{}'", before="--", after="\\")
@example(written="$${}$$", before="/*", after="'")
def test_no_string_survives(context, written, before, after):
    literal = written.replace("{}", f"{before}{MARK}{after}")
    assert MARK not in normalise(context.replace("{}", literal))


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("number", NUMBERS)
def test_no_number_survives(context, number):
    normalised = normalise(context.replace("{}", number))
    digits = re.sub(r"\$\d", "", normalised)
    assert not re.search(r"[2-9]", digits)


def test_statements_without_literals_are_shown_as_they_are():
    text = 'SELECT t1.x2, "Odd 3" FROM t1 JOIN u_5 ON u_5.a = t1.a WHERE t1.b = %(b_1)s'
    assert normalise(text) == text

"""A statement keeps one identity, whatever its values, and its text holds none of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from time import thread_time

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects.postgresql import array, asyncpg, psycopg, psycopg2
from sqlglot.errors import SqlglotError

from flask_planwatch.plan.dialect import tokenizer
from flask_planwatch.plan.scrub import LITERALS, UNREADABLE
from flask_planwatch.statement import folding, shortening
from flask_planwatch.statement.fingerprint import _pieces, _plain, fingerprint, normalise
from flask_planwatch.statement.folding import fold
from flask_planwatch.statement.shortening import shortened

from .cases import first

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
    "names of parameters": ["SELECT a = %(a_1)s", "SELECT a = %(b_1)s", "SELECT a = $7"],
    "arrays": [
        "SELECT * FROM t WHERE a = ANY (ARRAY[1])",
        "SELECT * FROM t WHERE a = ANY (ARRAY[1, 2])",
        f"SELECT * FROM t WHERE a = ANY (ARRAY[{THOUSAND}])",
    ],
    "arrays of numbered parameters": [
        "SELECT * FROM t WHERE a = ANY (ARRAY[$1::int])",
        "SELECT * FROM t WHERE a = ANY (ARRAY[$1::int,$2::int,$3::int])",
    ],
    "lists with a null": [
        "SELECT * FROM t WHERE a IN (1, 2)",
        "SELECT * FROM t WHERE a IN (NULL, 1, TRUE)",
    ],
    "arguments": [
        "SELECT greatest(1, a), concat(1)",
        "SELECT greatest(2, a), concat(1, 'x', NULL)",
    ],
    "arguments of types": [
        "SELECT * FROM t WHERE a = greatest($1::TIMESTAMP WITH TIME ZONE)",
        "SELECT * FROM t WHERE a = greatest("
        "$1::TIMESTAMP WITH TIME ZONE, $2::TIMESTAMP WITH TIME ZONE)",
    ],
    "arrays of times": [
        "SELECT * FROM t WHERE a = ANY (ARRAY[$1::TIME WITH TIME ZONE])",
        "SELECT * FROM t WHERE a = ANY (ARRAY["
        "$1::TIME WITH TIME ZONE, $2::TIME WITH TIME ZONE, $3::TIME WITH TIME ZONE])",
    ],
    "lists of times": [
        "SELECT * FROM t WHERE a IN ($1::TIMESTAMP(0) WITH TIME ZONE)",
        "SELECT * FROM t WHERE a IN ("
        "$1::TIMESTAMP(0) WITH TIME ZONE, $2::TIMESTAMP(0) WITH TIME ZONE)",
    ],
    "times by OR": [
        "SELECT * FROM t WHERE a = $1::TIMESTAMP WITH TIME ZONE",
        "SELECT * FROM t WHERE a = $1::TIMESTAMP WITH TIME ZONE "
        "OR a = $2::TIMESTAMP WITH TIME ZONE",
    ],
    "distinctions by OR": [
        "SELECT * FROM t WHERE a IS NOT DISTINCT FROM 1",
        "SELECT * FROM t WHERE a IS NOT DISTINCT FROM 1 OR a IS NOT DISTINCT FROM 2",
    ],
    "functions named like clauses": [
        "SELECT * FROM t WHERE left(a, 1) = 'x'",
        "SELECT * FROM t WHERE left(a, 1) = 'x' OR left(a, 2) = 'yz'",
    ],
    "cases": [
        "UPDATE t SET b = CASE WHEN a = 1 THEN 'x' ELSE b END",
        "UPDATE t SET b = CASE WHEN a = 1 THEN 'x' WHEN a = 2 THEN 'y' ELSE b END",
    ],
    "cases of a value": [
        "UPDATE t SET b = CASE a WHEN $1::INTEGER THEN $2::VARCHAR END",
        "UPDATE t SET b = CASE a WHEN $1::INTEGER THEN $2::VARCHAR "
        "WHEN $3::INTEGER THEN $4::VARCHAR END",
    ],
    "rows with a null": [
        "INSERT INTO t (a, b) VALUES (1, NULL)",
        "INSERT INTO t (a, b) VALUES (NULL, 'x'), (TRUE, 2)",
    ],
    "rows of two kinds by turns": [
        "INSERT INTO t (a, b) VALUES (1, 'x'), (2, lower('y'))",
        "INSERT INTO t (a, b) VALUES (1, 'x'), (2, lower('y')), (3, NULL), (4, lower('z'))",
    ],
    "rows that are joined": [
        "SELECT * FROM t JOIN (VALUES (1, 'a')) AS v_1(x, y) ON v_1.x = t.a",
        "SELECT * FROM t JOIN (VALUES (1, 'a'), (2, NULL)) AS v_2(x, y) ON v_2.x = t.a",
    ],
    "tests by OR": [
        "SELECT * FROM t WHERE a = 1",
        "SELECT * FROM t WHERE a = 1 OR a = 2",
        "SELECT * FROM t WHERE " + " OR ".join(f"a = {number}" for number in range(500)),
        "SELECT * FROM t WHERE (a = 1)",
        "SELECT * FROM t WHERE (a = 1) OR (a = 2)",
        "SELECT * FROM t WHERE (a = 1 OR a = 2) OR a = 3",
    ],
    "tests by OR beside others": [
        "SELECT * FROM t WHERE b > 1 AND a = 1",
        "SELECT * FROM t WHERE b > 1 AND (a = 1 OR a = 2)",
        "SELECT * FROM t WHERE b > 1 AND ((a = 1) OR (a = 2))",
        "SELECT * FROM t WHERE b > 1 AND ((a = 1))",
    ],
    "pairs by OR": [
        "SELECT * FROM t WHERE a = 1 AND b = 2",
        "SELECT * FROM t WHERE a = 1 AND b = 2 OR a = 3 AND b = 4",
        "SELECT * FROM t WHERE (a = 1 AND b = 2) OR (a = 3 AND b = 4)",
    ],
    "words in two columns": [
        "SELECT * FROM t WHERE a LIKE 'x' OR b LIKE 'x'",
        "SELECT * FROM t WHERE a LIKE 'x' OR b LIKE 'x' OR a LIKE 'y' OR b LIKE 'y'",
    ],
    "tests by AND": [
        "SELECT * FROM t WHERE a ILIKE '%x%'",
        "SELECT * FROM t WHERE a ILIKE '%x%' AND a ILIKE '%y%'",
    ],
    "ranges": [
        "SELECT * FROM t WHERE a BETWEEN 1 AND 2",
        "SELECT * FROM t WHERE a BETWEEN 1 AND 2 OR a BETWEEN 5 AND 6",
    ],
    "branches": [
        "SELECT a FROM t WHERE b = 1",
        "SELECT a FROM t WHERE b = 1 UNION ALL SELECT a FROM t WHERE b = 2",
        "SELECT a FROM t WHERE b = 1 UNION ALL SELECT a FROM t WHERE b = 2 "
        "UNION ALL SELECT a FROM t WHERE b = 3",
    ],
    **{
        f"branches of {operator}": [
            f" {operator} ".join(f"SELECT a FROM t WHERE b = {n}" for n in range(number))
            for number in (2, 3, 9)
        ]
        for operator in ("UNION", "INTERSECT", "EXCEPT", "INTERSECT ALL", "EXCEPT ALL")
    },
    "branches by turns": [
        "SELECT a FROM t UNION SELECT a FROM u",
        "SELECT a FROM t UNION SELECT a FROM u UNION SELECT a FROM t UNION SELECT a FROM u",
    ],
    "branches in parentheses": [
        "(SELECT a FROM t WHERE b = 1) UNION ALL (SELECT a FROM t WHERE b = 2)",
        "(SELECT a FROM t WHERE b = 1) UNION ALL (SELECT a FROM t WHERE b = 2) "
        "UNION ALL (SELECT a FROM t WHERE b = 3)",
    ],
    "branches of which one is taken away": [
        "SELECT a FROM u EXCEPT SELECT a FROM t WHERE b = 1",
        "SELECT a FROM u EXCEPT SELECT a FROM t WHERE b = 1 EXCEPT SELECT a FROM t WHERE b = 2",
    ],
    "branches of two unions": [
        "SELECT a FROM t UNION SELECT a FROM u UNION ALL SELECT a FROM u",
        "SELECT a FROM t UNION SELECT a FROM u UNION SELECT a FROM u "
        "UNION ALL SELECT a FROM u UNION ALL SELECT a FROM u",
    ],
    "branches with an order": [
        "WITH w AS (SELECT 1) SELECT a FROM t WHERE b = 1 ORDER BY a LIMIT 5",
        "WITH w AS (SELECT 1) SELECT a FROM t WHERE b = 1 "
        "UNION ALL SELECT a FROM t WHERE b = 2 ORDER BY a LIMIT 5",
    ],
    "branches with aliases": [
        "SELECT t_1.a FROM t AS t_1 WHERE t_1.b = 1",
        "SELECT t_1.a FROM t AS t_1 WHERE t_1.b = 1 "
        "UNION ALL SELECT t_2.a FROM t AS t_2 WHERE t_2.b = 2",
    ],
    "digits of aliases": [
        "SELECT count(*) AS n_17 FROM t ORDER BY n_17",
        "SELECT count(*) AS n_1 FROM t ORDER BY n_1",
    ],
    "digits of a table's alias": [
        "SELECT t_1.a FROM t AS t_1 WHERE t_1.b = 1",
        "SELECT t_99.a FROM t AS t_99 WHERE t_99.b = 2",
    ],
    "digits of aliases without AS": [
        'SELECT u1.a x1, f(b) y1, \'c\' z1 FROM "user" u1',
        'SELECT u2.a x2, f(b) y2, \'c\' z2 FROM "user" u2',
    ],
    "digits of a quoted alias": ['SELECT "u 1".a FROM t "u 1"', 'SELECT "u 2".a FROM t "u 2"'],
    "digits of an alias of each kind of value": [
        f"SELECT 1 a{n}, $1 b{n}, %s c{n}, NULL d{n}, x[1] e{n}, CASE x WHEN 1 THEN 2 END f{n}, "
        f"current_date g{n}, count(*) OVER (w) h{n}, x IS NULL i{n}, x ISNULL j{n}, x::int k{n} "
        f"FROM t"
        for n in (1, 2)
    ],
    "digits of an alias of each kind of table": [
        f"SELECT 1 FROM ONLY s.t a{n}, comment b{n}, f(1) c{n}, (VALUES (1)) d{n}(x) "
        f"JOIN LATERAL (SELECT a{n}.x) e{n} ON true LEFT JOIN index g{n} USING (x)"
        for n in (1, 2)
    ],
    "digits of an alias of what changes": ["UPDATE t x1 SET a = 1", "UPDATE t x2 SET a = 1"],
    "digits of an alias of what goes": [
        "DELETE FROM t x1 USING u y1 WHERE x1.a = y1.a",
        "DELETE FROM t x2 USING u y2 WHERE x2.a = y2.a",
    ],
    "digits of aliases that are locked": [
        "SELECT 1 FROM t AS t_1, u u1 FOR UPDATE OF t_1, u1 NOWAIT",
        "SELECT 1 FROM t AS t_2, u u2 FOR UPDATE OF t_2, u2 NOWAIT",
    ],
    "digits of aliases that are sorted by": [
        "SELECT lower(a) x1, sum(b) AS y1 FROM t GROUP BY x1 ORDER BY y1 DESC, x1",
        "SELECT lower(a) x2, sum(b) AS y2 FROM t GROUP BY x2 ORDER BY y2 DESC, x2",
    ],
    "branches with aliases without AS": [
        "SELECT u1.a FROM t u1 UNION ALL SELECT u2.a FROM t u2",
        "SELECT u1.a FROM t u1 UNION ALL SELECT u2.a FROM t u2 UNION ALL SELECT u3.a FROM t u3",
    ],
    "digits of a WITH query": [
        "WITH anon_1 AS (SELECT 1 AS a) SELECT anon_1.a FROM anon_1",
        "WITH anon_2 AS (SELECT 1 AS a) SELECT anon_2.a FROM anon_2",
    ],
    "digits of a recursive WITH query": [
        "WITH RECURSIVE w_1 AS (SELECT 1 UNION ALL SELECT a FROM w_1) SELECT * FROM w_1",
        "WITH RECURSIVE w_2 AS (SELECT 1 UNION ALL SELECT a FROM w_2) SELECT * FROM w_2",
    ],
    "digits of a WITH query that another one reads": [
        "WITH w_1 AS NOT MATERIALIZED (SELECT 1), w AS (SELECT * FROM w_1) SELECT * FROM w",
        "WITH w_2 AS NOT MATERIALIZED (SELECT 1), w AS (SELECT * FROM w_2) SELECT * FROM w",
    ],
    "items with numbered aliases": [
        "SELECT a, sum(b) FILTER (WHERE c = 'x') AS x0 FROM t GROUP BY a",
        "SELECT a, sum(b) FILTER (WHERE c = 'x') AS x0, sum(b) FILTER (WHERE c = 'y') AS x1 "
        "FROM t GROUP BY a",
    ],
    "items by turns": [
        "SELECT sum(b + 1) AS s0, avg(b + 1) AS a0 FROM t",
        "SELECT sum(b + 1) AS s0, avg(b + 1) AS a0, sum(b + 2) AS s1, avg(b + 2) AS a1 FROM t",
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
    "literal and parameter": ["SELECT a = 1", "SELECT a = %(a_1)s"],
    "tests": [
        "SELECT * FROM t WHERE a = 1",
        "SELECT * FROM t WHERE b = 1",
        "SELECT * FROM t WHERE a = 1 OR b = 1",
        "SELECT * FROM t WHERE a = 1 AND b = 1",
        "SELECT * FROM t WHERE NOT (a = 1 OR b = 1)",
        "SELECT * FROM t WHERE a = 1 OR a IS NULL",
        "SELECT * FROM t WHERE a > 1 OR a < 1",
    ],
    "parentheses": [
        "SELECT * FROM t WHERE (a = 1 OR b = 2) AND c = 3",
        "SELECT * FROM t WHERE a = 1 OR b = 2 AND c = 3",
        "SELECT * FROM t WHERE (a = 1 OR b = 2) AND (a = 1 OR c = 2)",
    ],
    "sums": ["SELECT (a + b) * c", "SELECT a + b * c", "SELECT a + (b * c)"],
    "nulls of parameters": [
        "SELECT * FROM t WHERE $1::int IS NULL",
        "SELECT * FROM t WHERE $1::int IS NULL OR $2::int IS NOT NULL",
    ],
    "columns to insert": [
        "INSERT INTO t (a) VALUES (1)",
        "INSERT INTO t (b) VALUES (1)",
        "INSERT INTO t (a1) VALUES (1)",
        "INSERT INTO t (a2) VALUES (1)",
        "INSERT INTO t (a, b) VALUES (1, 2)",
    ],
    "columns to set": ["UPDATE t SET a = 1", "UPDATE t SET b = 1", "UPDATE t SET a = 1, b = 2"],
    "aliases": ["SELECT a AS x", "SELECT a AS y", "SELECT a AS x1", "SELECT b AS x", "SELECT a"],
    "aliases of columns": [
        "SELECT a1 AS a1 FROM t",
        "SELECT a2 AS a2 FROM t",
        "SELECT t.a1 AS a1 FROM t",
        "SELECT t.a2 AS a2 FROM t",
    ],
    "aliases of tables": [
        "SELECT * FROM t1 AS t1",
        "SELECT * FROM t2 AS t2",
        "SELECT * FROM s1.t AS s1 WHERE s1.a = 1",
        "SELECT * FROM s2.t AS s2 WHERE s2.a = 1",
    ],
    "exchanged aliases": [
        "SELECT t_1.a, t_2.a FROM t AS t_1 JOIN t AS t_2 ON t_1.a = t_2.b",
        "SELECT t_1.a, t_2.a FROM t AS t_1 JOIN t AS t_2 ON t_2.a = t_1.b",
        "SELECT t_1.a FROM t AS t_1 JOIN t AS t_2 ON t_1.a = t_2.b",
        "SELECT t_1.a, t_1.b FROM t AS t_1 JOIN t AS t_2 ON t_1.a = t_2.b",
    ],
    "exchanged aliases without AS": [
        "SELECT t_1.a, t_2.a FROM t t_1 JOIN t t_2 ON t_1.a = t_2.b",
        "SELECT t_1.a, t_2.a FROM t t_1 JOIN t t_2 ON t_2.a = t_1.b",
        "SELECT t_1.a FROM t t_1 JOIN t t_2 ON t_1.a = t_2.b",
    ],
    **{
        f"digits in {words}": [words.format(1), words.format(2)]
        for words in (
            "SELECT DISTINCT ON (a) b{} FROM t",
            "SELECT 1 FROM ONLY t{}",
            "SELECT a OPERATOR(pg_catalog.+) b{} FROM t",
            "SELECT a IS NOT DISTINCT FROM b{} FROM t",
            "SELECT a COLLATE c{} FROM t",
            "SELECT a AT TIME ZONE b{} FROM t",
            "SELECT JSON_VALUE(a, '$x' PASSING b{} AS x) FROM t",
            "SELECT a LIKE b{} FROM t",
            "SELECT a BETWEEN SYMMETRIC b{} AND c FROM t",
            "SELECT a LIKE b ESCAPE c{} FROM t",
            "SELECT data ? k{} FROM t",
            "SELECT a OR b{} FROM t",
            "SELECT count(*) OVER w{} FROM t",
            "SELECT * FROM t JOIN t{} ON true",
            "SELECT * FROM jsonb_to_recordset($1) AS x(a int{0}, b int{0})",
            "INSERT INTO t VALUES (1) ON CONFLICT ON CONSTRAINT c{} DO NOTHING",
            "UPDATE t SET a{} = 1",
            "SAVEPOINT s{}",
        )
    },
    "aliases of columns that are used": [
        "SELECT f(a1) a1 FROM t",
        "SELECT f(a2) a2 FROM t",
        "SELECT f(t.a1) a1 FROM t",
        "SELECT f(t.a2) a2 FROM t",
        "SELECT a x1 FROM t WHERE x1 > 0",
        "SELECT a x2 FROM t WHERE x2 > 0",
    ],
    "aliases inside": [
        "SELECT u.x1 FROM (SELECT a AS x1, b AS x2 FROM t) u",
        "SELECT u.x1 FROM (SELECT a AS x2, b AS x1 FROM t) u",
    ],
    "types with digits": ["SELECT CAST(a AS int4)", "SELECT CAST(a AS int8)"],
    "set operators": [
        "SELECT a FROM t",
        "SELECT a FROM t EXCEPT SELECT a FROM t",
        "SELECT a FROM t UNION SELECT b FROM t",
        "SELECT b FROM t UNION SELECT a FROM t",
        "SELECT a FROM t UNION SELECT a FROM u",
        "SELECT a FROM t UNION ALL SELECT a FROM u",
        "SELECT a FROM u UNION SELECT a FROM t",
        "SELECT a FROM t INTERSECT SELECT a FROM u",
        "SELECT a FROM t INTERSECT ALL SELECT a FROM u",
        "SELECT a FROM t EXCEPT SELECT a FROM u",
        "SELECT a FROM u EXCEPT SELECT a FROM t",
        "SELECT a FROM t UNION SELECT a FROM t",
        "SELECT a FROM t INTERSECT SELECT a FROM t",
        "SELECT a FROM t INTERSECT ALL SELECT a FROM t",
        "SELECT a FROM t EXCEPT ALL SELECT a FROM t",
        "SELECT a FROM t UNION SELECT a FROM t UNION ALL SELECT a FROM t",
        "SELECT a FROM t UNION ALL SELECT a FROM t UNION SELECT a FROM t",
        "SELECT a FROM t UNION SELECT a FROM t EXCEPT SELECT a FROM t",
        "SELECT a FROM t EXCEPT SELECT a FROM t UNION SELECT a FROM t",
    ],
    "arguments": [
        "SELECT substr(a, 1)",
        "SELECT substr(a, 1, 2)",
        "SELECT f(a)",
        "SELECT f(a, b)",
        "SELECT f(a, a)",
        "SELECT f(NULL)",
        "SELECT f(1)",
        "SELECT f(1, 2)",
        "SELECT f(1, 2, 3)",
        "SELECT f(g(1))",
        "SELECT f(g(1), g(2))",
        "SELECT s.concat(1)",
        "SELECT s.concat(1, 2)",
        "SELECT ROW(1, 2)",
        "SELECT ROW(1, 2, 3)",
    ],
    "columns of rows with functions": [
        "INSERT INTO t VALUES (f(1))",
        "INSERT INTO t VALUES (f(1), f(2))",
    ],
    "tables with digits in a WITH query of their name": [
        "WITH t_1 AS (SELECT * FROM t_1) SELECT * FROM t_1",
        "WITH t_2 AS (SELECT * FROM t_2) SELECT * FROM t_2",
        "WITH t_1 AS (SELECT t_1.a FROM t_1) SELECT t_1.a FROM t_1",
        "WITH t_2 AS (SELECT t_2.a FROM t_2) SELECT t_2.a FROM t_2",
    ],
    "tables with digits beside a WITH query": [
        "SELECT * FROM (WITH t_1 AS (SELECT 1) SELECT * FROM t_1) q JOIN t_1 ON true",
        "SELECT * FROM (WITH t_2 AS (SELECT 1) SELECT * FROM t_2) q JOIN t_2 ON true",
        "WITH t_1 AS (SELECT 1) SELECT * FROM t_1; SELECT * FROM t_1",
        "WITH t_2 AS (SELECT 1) SELECT * FROM t_2; SELECT * FROM t_2",
        "WITH t_1 AS (SELECT 1) SELECT * FROM t_1.u",
        "WITH t_2 AS (SELECT 1) SELECT * FROM t_2.u",
    ],
    "columns with digits in the order of a sub-query": [
        "SELECT a AS c_1 FROM t WHERE EXISTS (SELECT 1 FROM u ORDER BY c_1)",
        "SELECT a AS c_2 FROM t WHERE EXISTS (SELECT 1 FROM u ORDER BY c_2)",
    ],
    "positions": [
        "SELECT a, b FROM t ORDER BY 1",
        "SELECT a, b FROM t ORDER BY 2",
        "SELECT a, b FROM t ORDER BY 1 DESC",
        "SELECT a, b FROM t ORDER BY 1 DESC, 2 DESC",
        "SELECT a, b FROM t ORDER BY 1, 2",
        "SELECT a, b FROM t GROUP BY 1",
        "SELECT a, b FROM t GROUP BY 2",
    ],
    "tables joined": ["SELECT * FROM t", "SELECT * FROM t, t", "SELECT * FROM t CROSS JOIN t"],
    "pairs": ["SELECT (a, b) = (1, 2)", "SELECT (a, b, c) = (1, 2, 3)", "SELECT (a, b) > (1, 2)"],
    "cases": [
        "SELECT CASE WHEN a = 1 THEN b END",
        "SELECT CASE WHEN a = 1 THEN b ELSE c END",
        "SELECT CASE WHEN a = 1 THEN b WHEN c = 1 THEN b END",
        "SELECT CASE WHEN a = 1 THEN b WHEN a = 2 THEN c END",
        "SELECT CASE WHEN a = 1 THEN c WHEN a = 2 THEN b END",
        "SELECT CASE a WHEN 1 THEN b END",
    ],
    "unreadable texts": ["SELECT 'a", "SELECT 'b", 'SELECT "a', "SELECT $$a"],
    "procedures": ["CALL f(1)", "CALL g(1)"],
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_different(name):
    assert len({fingerprint(text, None) for text in DIFFERENT[name]}) == len(DIFFERENT[name])


#: Of the words that no name follows, those that an expression may end in.
ENDS = {"asc", "default", "desc", "end", "isnull", "notnull"}


def test_the_words_before_a_name_are_those_of_postgresql(database):
    """After each of its words that cannot be a name themselves."""
    places = (
        'EXPLAIN SELECT * FROM (SELECT {0} x1 FROM (SELECT 1 AS "{0}") t) u',
        'EXPLAIN WITH "{0}" AS (SELECT 1) SELECT x1 FROM {0} x1',
    )
    refused = set()
    with sa.create_engine(database.url, isolation_level="AUTOCOMMIT").connect() as connection:
        for word in connection.execute(sa.text("SELECT word FROM pg_get_keywords()")).scalars():
            for place in places:
                with suppress(sa.exc.ProgrammingError):
                    connection.exec_driver_sql(place.format(word))
                    break
            else:
                refused.add(word)
    assert refused > ENDS
    for word in refused - ENDS - {"as"}:
        texts = (f"SELECT a {word} x{number} FROM t" for number in (1, 2))
        assert len({fingerprint(text, None) for text in texts}) == 2, word


@pytest.mark.slow
@given(
    data=st.data(),
    numbers=st.lists(st.integers(1, 999), min_size=3, max_size=3, unique=True),
    as_=st.sampled_from([" ", " AS "]),
)
def test_digits_of_aliases_do_not_matter_wherever_they_are(data, numbers, as_):
    items = st.sampled_from(
        [
            *("u{0}.a", "u{1}.b", "u{0}.a + u{1}.b", "f(u{0}.a)", "'x'", "$1", "NULL", "count(*)"),
            *("CASE u{0}.a WHEN 1 THEN 2 END", "u{0}.c[1]", "u{0}.a::numeric(3, 2)"),
        ]
    )
    tables = st.sampled_from(["t", '"user"', "s.t", "(SELECT 1)", "f(1)", "comment", "ONLY t"])
    conditions = st.sampled_from(["u{0}.a = u{1}.b", "u{0}.a IS DISTINCT FROM u{1}.a", "true"])
    chosen = data.draw(st.lists(items, min_size=1, max_size=4))
    listed = ", ".join(f"{item}{as_}x{{2}}_{n}" for n, item in enumerate(chosen))
    text = (
        f"SELECT {listed} FROM {data.draw(tables)}{as_}u{{0}} JOIN {data.draw(tables)}{as_}u{{1}} "
        f"ON {data.draw(conditions)} ORDER BY x{{2}}_0, u{{1}}.a FOR UPDATE OF u{{0}}"
    )
    assert fingerprint(text.format(*numbers), None) == fingerprint(text.format(1, 2, 3), None)
    exchanged = text.format(2, 1, 3)
    # It is the same with other numbers, too, and another with them exchanged in one place.
    assert fingerprint(exchanged, None) == fingerprint(text.format(1, 2, 3), None)
    other = exchanged.replace("OF u2", "OF u1")
    assert fingerprint(other, None) != fingerprint(exchanged, None)


def test_binds_are_told_apart():
    assert len({fingerprint("SELECT 1", bind) for bind in (None, "a", "b")}) == 3


TIME = sa.DateTime(timezone=True)
NOON = datetime(2020, 1, 1, 12, tzinfo=UTC)
TABLE = sa.table("t", sa.column("a", sa.Integer), sa.column("b", sa.String(50)))
TIMES = sa.table("times", sa.column("at", TIME))
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


LENGTHS = (1, 2, 3, 45)

#: Statements as SQLAlchemy writes them, by the length of what they hold.
BUILT = {
    "array": lambda n: sa.select(TABLE).where(TABLE.c.a == sa.any_(array(range(n)))),
    "tests by OR": lambda n: sa.select(TABLE).where(sa.or_(*(TABLE.c.a == i for i in range(n)))),
    "tests by OR beside another": lambda n: sa.select(TABLE).where(
        sa.or_(*(TABLE.c.a == i for i in range(n))), TABLE.c.b > "x"
    ),
    "pairs by OR": lambda n: sa.select(TABLE).where(
        sa.or_(*(sa.and_(TABLE.c.a == i, TABLE.c.b == str(i)) for i in range(n)))
    ),
    "tests by AND": lambda n: sa.select(TABLE).where(*(TABLE.c.b.ilike(f"%{i}") for i in range(n))),
    "rows": lambda n: sa.insert(TABLE).values([{"a": i, "b": "x"} for i in range(n)]),
    "branches": lambda n: sa.union_all(
        *(sa.select(TABLE.c.b).where(TABLE.c.a == i) for i in range(n))
    ),
    "branches of UNION": lambda n: sa.union(
        *(sa.select(TABLE.c.b).where(TABLE.c.a == i) for i in range(n + 1))
    ),
    "branches of INTERSECT": lambda n: sa.intersect(
        *(sa.select(TABLE.c.a).where(TABLE.c.b == str(i)) for i in range(n + 1))
    ),
    "branches with aliases": lambda n: sa.union_all(
        *(sa.select(one.c.b).where(one.c.a == 1) for one in (TABLE.alias() for _ in range(n)))
    ),
    "arguments": lambda n: sa.select(TABLE).where(sa.func.greatest(*range(n)) == TABLE.c.a),
    "items": lambda n: sa.select(
        TABLE.c.b,
        *(sa.func.sum(TABLE.c.a).filter(TABLE.c.b == str(i)).label(f"x{i}") for i in range(n)),
    ).group_by(TABLE.c.b),
    "digits of an alias": lambda n: sa.select(sa.func.count().label(f"n_{n}")).select_from(TABLE),
    "cases": lambda n: sa.update(TABLE).values(
        b=sa.case({i: str(i) for i in range(n)}, value=TABLE.c.a, else_=TABLE.c.b)
    ),
    "array of times": lambda n: sa.select(TIMES).where(
        TIMES.c.at == sa.any_(array([sa.literal(NOON, TIME) for _ in range(n)]))
    ),
    "times by OR": lambda n: sa.select(TIMES).where(
        sa.or_(*(TIMES.c.at == sa.literal(NOON, TIME) for _ in range(n)))
    ),
    "comments": lambda n: sa.select(TABLE).prefix_with(f"/* request {n} */"),
}


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.driver)
@pytest.mark.parametrize("name", BUILT)
def test_lengths_of_what_sqlalchemy_writes(dialect, name):
    texts = [executed(BUILT[name](length), dialect) for length in LENGTHS]
    assert len(set(texts)) == len(LENGTHS)
    assert len({fingerprint(text, None) for text in texts}) == 1


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.driver)
def test_statements_that_sqlalchemy_writes_are_told_apart(dialect):
    texts = [executed(build(3), dialect) for build in BUILT.values()]
    assert len({fingerprint(text, None) for text in texts}) == len(BUILT)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.driver)
def test_rows_that_sqlalchemy_expands(dialect):
    pair = sa.tuple_(TABLE.c.a, TABLE.c.b)
    ask = [sa.select(TABLE).where(pair.in_([(1, "x")] * length)) for length in (1, 2, 100)]
    assert "POSTCOMPILE" not in normalise(compiled(ask[0], dialect))
    assert len({fingerprint(compiled(each, dialect), None) for each in ask}) == 1


def test_form():
    assert re.fullmatch("[0-9a-f]{16}", fingerprint("SELECT 1", None))


@pytest.mark.slow
def test_stable_across_processes():
    text, unreadable = "SELECT * FROM t WHERE a IN (1, 2) AND b = 'x'", "SELECT 'a"
    program = (
        "from flask_planwatch.statement.fingerprint import fingerprint;"
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
    "SELECT a FROM t WHERE a = ANY (ARRAY[1, 2])": "SELECT a FROM t WHERE a = ANY (ARRAY[?, ...])",
    "SELECT a FROM t WHERE a = 1 OR a = 2 OR b = 3": "SELECT a FROM t WHERE a = ? OR ... OR b = ?",
    "SELECT a FROM t UNION ALL SELECT a FROM t": "SELECT a FROM t UNION ALL ...",
    "SELECT CASE WHEN a = 1 THEN 2 WHEN a = 3 THEN 4 END": (
        "SELECT CASE WHEN a = ? THEN ? ... END"
    ),
    "SELECT a FROM t ORDER BY 1": "SELECT a FROM t ORDER BY ?",
    "SELECT a + 1 AS x1, a + 2 AS x2, b FROM t": "SELECT a + ? AS x1, ..., b FROM t",
    "SELECT a FROM t WHERE a = $1 OR a = $2": "SELECT a FROM t WHERE a = $1 OR ...",
    "SELECT a::numeric(10, 2), $1::int FROM t": "SELECT a::numeric(?, ?), $1::int FROM t",
    "SELECT substr(a, -1, 2) - 1 FROM t": "SELECT substr(a, ?, ?) - ? FROM t",
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


@pytest.mark.parametrize("context", first(2, CONTEXTS))
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


# Structures of any kind, each as a text with its lists in a length of their own.
VALUES = st.sampled_from(["1", "-2.5", "'it''s'", "NULL", "%(a_1)s", "$3", "$1::int", "U&'x'"])
COLUMNS = st.sampled_from(["a", "b", "c"])


@st.composite
def conditions(draw, depth=2):
    """Draw a condition, as a function that writes it with lists of random lengths."""
    column = draw(COLUMNS)
    kind = draw(st.sampled_from(["=", "IN", "ARRAY", "OR", "AND", "NOT"] if depth else ["=", "IN"]))
    if kind == "=":
        return ("=", column), lambda random: f"{column} = {random.value()}"
    if kind == "IN":
        return ("IN", column), lambda random: f"{column} IN ({random.values()})"
    if kind == "ARRAY":
        return ("ARRAY", column), lambda random: f"{column} = ANY (ARRAY[{random.values()}])"
    first, write = draw(conditions(depth - 1))
    if kind == "NOT":
        return ("NOT", first), lambda random: f"NOT ({write(random)})"
    second, write_second = draw(conditions(depth - 1).filter(lambda one: one[0] != first))

    def repeated(random):
        tests = [f"({write(random)})" for _ in range(random.length())]
        return f" {kind} ".join([*tests, f"({write_second(random)})"])

    return (kind, first, second), repeated


class Random:
    """Lists and values of random lengths, drawn by Hypothesis."""

    def __init__(self, data):
        self._data = data

    def length(self):
        return self._data.draw(st.integers(1, 4))

    def value(self):
        return self._data.draw(VALUES.filter(lambda value: not value.startswith(("$1", "NULL"))))

    def values(self):
        values = self._data.draw(st.lists(VALUES, min_size=1, max_size=6))
        # A null alone is no list of values.
        return ", ".join(["0", *values])


def without_parameters(text):
    """Return a text with all parameters as literals: which of both it is, is told apart."""
    return re.sub(r"%\(a_1\)s|\$\d(?:::int)?", "7", text)


@pytest.mark.slow
@given(condition=conditions(), data=st.data())
def test_one_structure_has_one_fingerprint(condition, data):
    _, write = condition
    texts = [without_parameters(f"SELECT * FROM t WHERE {write(Random(data))}") for _ in range(2)]
    assert fingerprint(texts[0], None) == fingerprint(texts[1], None)


def plain(structure):
    """Return a structure as logic sees it, with its tests in their order."""
    kind, *parts = structure
    if kind not in ("OR", "AND"):
        return (kind, *(plain(part) if isinstance(part, tuple) else part for part in parts))
    flat = []
    for part in map(plain, parts):
        flat += part[1:] if part[0] == kind else [part]
    flat = list(dict.fromkeys(flat))
    return (kind, *flat) if len(flat) > 1 else flat[0]


@pytest.mark.slow
@given(one=conditions(), other=conditions(), data=st.data())
def test_two_structures_have_two_fingerprints(one, other, data):
    texts = [
        without_parameters(f"SELECT * FROM t WHERE {write(Random(data))}")
        for _, write in (one, other)
    ]
    same = fingerprint(texts[0], None) == fingerprint(texts[1], None)
    assert same == (plain(one[0]) == plain(other[0]))


#: What texts are made of that a quick reading may take for something else.
FRAGMENTS = st.sampled_from(
    [
        *("1", "-2", "1e-5", "8_6", "0x1F", ".5", "1.", "e", "'a'", "'it''s'", "E'x'", r"E'\''"),
        *("'\\'", "$$a'$$", "$t$ ' $t$", "$1", "%(a)s", "%s", "?", "NULL", "true", "N'", "U&'a'"),
        *("a", "t1", '"q"', '"', "'", "--x\n", "--'\r", "/* ' */", "/*+ ' */", "/* /* */ */"),
        *("{#", "#}", "{", "(", ")", "[", "]", ",", " , ", ", ", " ", " OR ", " AND ", "\\", "`"),
        *(" UNION ALL ", " IN (", "ARRAY[", " VALUES ", "SELECT ", " AS x1", " FROM ", "::int"),
        *("::numeric(1,2)", "=", "-", "+", ";", " BETWEEN ", "CASE ", "END ", "f(", "\r", "\n"),
        *(" WHEN ", " THEN ", " ORDER BY ", "greatest(", "left(", " IS DISTINCT FROM "),
        *("1,2,3,4,5,6", "(1,2),(3,4),(5,6),(7,8),(9,1)", "'a', 'b', 'c', 'd', 'e', NULL, 'f'"),
    ]
)


#: Lists, and what stands around them without a doubt how to read it.
LISTS = st.sampled_from(
    [
        *("1, 2, 3, 4, 5", "'a', 'b', 'c', NULL, -1", "(1, 'x'), (2, NULL), (3, ''), (4, '')"),
        *("ARRAY[1, 2, 3, 4]", "a IN (1, 2, 3, 4)", "%(a)s, %(b)s, %s, %s", "$1::int, $2::int, $3"),
    ]
)
CLEAR = st.sampled_from(
    [
        *("SELECT ", " FROM t", " AS x1", ", ", " + ", " OR ", " AND ", " UNION ALL ", " VALUES "),
        *("(", ")", "f(", "[", "]", "a", '"q, 1"', " /* ' 1, 2, */ ", " -- '\n", "''", " = ", "1"),
        *(" WHEN ", " THEN ", "CASE ", " END", "(SELECT ", " ORDER BY ", "greatest("),
    ]
)
MIXED = st.lists(st.one_of(CLEAR, LISTS, LISTS), max_size=12).map("".join)
DOUBTFUL = st.lists(st.one_of(FRAGMENTS, LISTS), max_size=20).map("".join)


@pytest.fixture
def eager(monkeypatch):
    """Shorten every list, however short."""
    monkeypatch.setattr(folding, "MAX_SIDE_BY_SIDE", 3)
    monkeypatch.setattr(shortening, "_READING", shortening.reading(3))
    monkeypatch.setattr(shortening, "MIN_LENGTH", 0)
    monkeypatch.setattr(shortening, "PART", 3)


LONG_LISTS = [
    "SELECT a FROM t WHERE a IN ({})", "SELECT a FROM t WHERE a = ANY (ARRAY[{}])",
    "SELECT f({})", "SELECT f(a, {}, b)", "SELECT {} AS x", "SELECT {}, NULL AS x",
    "INSERT INTO t VALUES ({})",
    "SELECT a FROM t WHERE a IN ({}", "SELECT '(', \"(\", ({}), -- '\n ({})", "SELECT a + {} + b",
]  # fmt: skip


@pytest.mark.parametrize("context", first(1, LONG_LISTS))
@pytest.mark.parametrize("member", ["1234", "'x, ''y'", "$1::int", "(1, 'a')", "NULL, -1"])
def test_a_long_list_is_read_as_it_would_be_in_full(context, member):
    text = _plain(context.replace("{}", ", ".join([member] * 400)))
    assert sum(map(len, shortened(text))) < len(text) / 2
    assert fold(_pieces(shortened(text))).identity == fold(_pieces([text])).identity


@pytest.mark.usefixtures("eager")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.one_of(MIXED, MIXED, DOUBTFUL))
def test_a_shortened_text_is_read_as_it_would_be_in_full(text):
    text = _plain(text)
    try:
        whole = fold(_pieces([text]))
    except SqlglotError:
        with pytest.raises(SqlglotError):
            fold(_pieces(shortened(text)))
        return
    assert fold(_pieces(shortened(text))).identity == whole.identity


@pytest.mark.usefixtures("eager")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=st.lists(FRAGMENTS, max_size=8).map("".join), written=st.lists(WRITTEN, min_size=4))
def test_no_string_of_a_shortened_list_survives(before, written):
    values = ", ".join(each.replace("{}", MARK) for each in written)
    for text in (f"SELECT a IN ({values})", f"SELECT {before} a IN ({values})"):
        try:
            literals = [one for one in tokenizer().tokenize(_plain(text)) if MARK in one.text]
        except SqlglotError:
            continue
        if all(one.token_type in LITERALS for one in literals):
            assert MARK not in normalise(text)


#: Texts that take a careless reading longer and longer; `{}` is as often in them as fits.
HOSTILE = [
    "1, ", "1 ", "'a', ", "''", "'", "(", "(1, ", "(1), ", "((1, 2), ", "a = 1 OR ", "a OR (",
    "f(a, 1, (", "CASE ", "END ", "/*", "/**/", "--\n", "$a$", "$1,", "$$", '"', "{#", "IN (1, ",
    "ARRAY[", "a AS x1, ", "SELECT 1 UNION ", "BETWEEN 1 AND ", "%(a)s, ", "%(", "::int",
    "1::int::int", "__[POSTCOMPILE_a~~", "__[SCHEMA_a", "\\", "WITH a1 AS (", "a1.", "NOT ",
]  # fmt: skip


#: What is nested in itself, with aliases that a careless reading compares at each level.
NESTED = [
    "x = (n_1.a = 1 OR n_1.a = 2 OR n_1.b = 3 OR ",
    "(SELECT a AS n_1 FROM t UNION SELECT a AS n_2 FROM t UNION ",
    "(SELECT n_1.a AS n_2, n_1.a AS n_3, ", "CASE WHEN n_1.a = 1 THEN 2 WHEN n_1.a = 3 THEN ",
    "greatest(n_1.a + 1, n_1.a + 2, ", "WITH n_1 AS (SELECT * FROM n_1), n_2 AS (",
]  # fmt: skip


def took(start, fragment, length):
    """Return the seconds that it takes to read a text of this length."""
    text = start + fragment * (length // len(fragment))
    best = float("inf")
    for number in range(2):
        started = thread_time()
        normalise(f"{text} {number} {length}")
        best = min(best, thread_time() - started)
    return best


@pytest.mark.slow
@pytest.mark.parametrize("fragment", HOSTILE)
def test_the_time_that_a_text_takes_grows_with_its_length(fragment):
    # Four times the length: a quadratic reading takes sixteen times as long.
    assert took("SELECT ", fragment, 8_000) < 9 * took("SELECT ", fragment, 2_000) + 0.002


@pytest.mark.slow
@pytest.mark.parametrize("fragment", NESTED)
def test_the_time_that_nested_aliases_take_grows_with_their_length(fragment):
    start = "SELECT 1 AS n_1 WHERE "
    # Eight times the length: a quadratic reading takes 64 times as long, for its longer part.
    assert took(start, fragment, 24_000) < 16 * took(start, fragment, 3_000) + 0.002

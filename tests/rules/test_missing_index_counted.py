"""missing-index where rows are sorted only to be counted: the order has no effect."""

from __future__ import annotations

import re

import pytest
import sqlalchemy as sa

from flask_planwatch.fixes import counted_order

from ..databases import Database
from .case import Case, Rule, Tables, followed, rows, silent, speaks, with_settings


def fill(database: Database) -> None:
    database.execute(
        "CREATE TABLE entry (id int PRIMARY KEY, kind int, made timestamp, title text)",
        "INSERT INTO entry SELECT g, g % 300, timestamp '2024-01-01' + g * 7919 % 40009 * "
        "interval '1 minute', repeat('x', 60) FROM generate_series(1, 40000) g",
        "VACUUM (FREEZE, ANALYZE) entry",
    )


RULE = Rule("missing-index", Tables("entries", fill), settings={"PLANWATCH_VERIFY": "build"})


def counted(query: str, count: str = "count(*)") -> sa.TextClause:
    """Return what SQLAlchemy's Query.count() makes of a query."""
    return sa.text(f"SELECT {count} AS count_1 FROM ({query}) AS anon_1")


def without_order(name: str, query: str, count: str = "count(*)") -> Case:
    """Say that the order is to be left out of what is counted, and that no index is advised."""
    return speaks(
        name,
        counted(query, count),
        about="ORDER BY made on entry",
        problem="the statement sorts about 40,000 rows by made, and then does nothing but count "
        "rows: the order has no effect.",
        fix="leave ORDER BY out of what is counted: order_by(None)",
        proof="the Sort is gone",
        rewritten=counted(re.sub(r" ORDER BY made( DESC)?", "", query), count),
    )


BY_MADE = "SELECT id, title FROM entry ORDER BY made"

NO_INDEX = [
    without_order("its order", "SELECT id, title FROM entry ORDER BY made DESC"),
    without_order("a column of it", "SELECT id, made FROM entry ORDER BY made", "count(made)"),
    # A LIMIT or OFFSET leaves as many rows in any order; SQLAlchemy writes offset() as the first.
    without_order("no offset", f"{BY_MADE} LIMIT ALL OFFSET 0"),
    without_order("an offset", f"{BY_MADE} LIMIT ALL OFFSET 7"),
    without_order("a limit", f"{BY_MADE} LIMIT 700"),
    without_order("a limit and an offset", f"{BY_MADE} LIMIT 700 OFFSET 7"),
    without_order("FETCH", f"{BY_MADE} OFFSET 7 ROWS FETCH FIRST 700 ROWS ONLY"),
    silent("EXISTS", sa.text("SELECT EXISTS (SELECT 1 FROM entry ORDER BY made)")),
    silent("few rows", counted("SELECT id FROM entry WHERE id < 900 ORDER BY made")),
]

INDEXES = [
    speaks(
        "only the condition is served",
        counted("SELECT id, title FROM entry WHERE kind = 7 ORDER BY made"),
        about="kind on entry",
        fix="CREATE INDEX CONCURRENTLY ix_entry_kind ON entry (kind)",
    ),
    speaks(
        "only the condition is served below a LIMIT",
        counted("SELECT id, title FROM entry WHERE kind = 7 ORDER BY made LIMIT 90"),
        about="kind on entry",
        fix="CREATE INDEX CONCURRENTLY ix_entry_kind ON entry (kind)",
    ),
    speaks(
        "the order of what is in an array has an effect",
        sa.text("SELECT array_agg(id) FROM (SELECT id FROM entry ORDER BY made) AS anon_1"),
        about="made on entry",
        fix="CREATE INDEX CONCURRENTLY ix_entry_made… ON entry (made)…",
    ),
    speaks(
        "the order of a LIMIT counts",
        counted("SELECT id, title FROM entry ORDER BY made LIMIT 7", "max(id)"),
        about="made on entry",
        fix="CREATE INDEX CONCURRENTLY ix_entry_made ON entry (made)",
    ),
    speaks(
        "a LIMIT decides which values are counted",
        counted("SELECT id, title FROM entry ORDER BY made LIMIT 7", "count(title)"),
        about="made on entry",
        fix="CREATE INDEX CONCURRENTLY ix_entry_made ON entry (made)",
    ),
    speaks(
        "a LIMIT decides which rows are tested",
        sa.text(f"SELECT count(*) FROM ({BY_MADE} LIMIT 7) AS anon_1 WHERE title LIKE '%x'"),
        about="made on entry",
        fix="CREATE INDEX CONCURRENTLY ix_entry_made ON entry (made)",
    ),
]


#: Statements, with what is left out between two `-`; of those without, nothing is.
TEXTS = [
    "SELECT count(*) AS count_1 FROM (SELECT a FROM t -ORDER BY b -LIMIT ALL OFFSET $1::int) AS x",
    "select count(*) from (select a from t -order by b desc, c -offset :o)",
    "SELECT count(*) FROM (SELECT a FROM t -ORDER BY (b, lower(c)) -FETCH NEXT ROW ONLY) x;",
    "SELECT z FROM u WHERE 9 < (SELECT count(*) FROM (SELECT a FROM t -ORDER BY b -LIMIT 5) x)",
    "SELECT count(*) FROM (SELECT a FROM t WHERE a IN (SELECT a FROM u ORDER BY b LIMIT 5) "
    "-ORDER BY b -LIMIT 9) x",
    "SELECT count(a) FROM (SELECT a FROM t -ORDER BY b-) x WHERE a = 7",
    "SELECT count(a) FROM (SELECT a FROM t ORDER BY b OFFSET $1) x",
    "SELECT count(*), max(a) FROM (SELECT a FROM t ORDER BY b OFFSET $1) x",
    "SELECT count(*) FILTER (WHERE a = 7) FROM (SELECT a FROM t ORDER BY b OFFSET $1) x",
    "SELECT count(*) FROM (SELECT a FROM t ORDER BY b OFFSET $1) x WHERE a = 7",
    "SELECT count(*) FROM (SELECT a FROM t ORDER BY b OFFSET $1) x JOIN u ON u.a = x.a",
    "SELECT count(*) FROM (SELECT a FROM t ORDER BY b OFFSET $1) AS x, u",
    "SELECT count(*) FROM (SELECT a FROM t ORDER BY b OFFSET $1) GROUP BY a",
    "SELECT count(*) FROM (SELECT a FROM t ORDER BY b FETCH FIRST 5 ROWS WITH TIES) x",
    "SELECT count(*) FROM (SELECT a FROM t ORDER BY b FOR UPDATE) x",
    "SELECT count(*) FROM (SELECT a FROM t ORDER BY b LIMIT 5 FOR UPDATE) x",
    "SELECT count(*) FROM u WHERE a IN (SELECT a FROM t ORDER BY b LIMIT 5)",
]


@pytest.mark.parametrize("text", TEXTS)
def test_leaves_out_the_order_that_has_no_effect(text):
    before, *rest = text.split("-")
    expected = before + rest[-1] if rest else None
    assert counted_order.without_order(text.replace("-", "")) == expected


@rows([*NO_INDEX, *INDEXES])
def test_no_index_for_an_order_that_has_no_effect(rule, case):
    rule.check(case)


@rows(followed(NO_INDEX), quick=1)
def test_falls_silent_once_the_order_is_left_out(rule, case):
    rule.check_fix(case)


@rows(with_settings([*NO_INDEX, INDEXES[0], INDEXES[3]], PLANWATCH_VERIFY="auto"), quick=0)
def test_without_building(rule, case):
    rule.check(case)

"""missing-index where a LIMIT stops a join, and each row until then is looked up in a table."""

from __future__ import annotations

import sqlalchemy as sa

from ..databases import Database
from .case import Rule, Tables, rows, silent, speaks


def fill(database: Database) -> None:
    """A table of 5000 pages that is looked up, of which one row in thirty passes."""
    database.execute(
        "CREATE TABLE task (id int PRIMARY KEY, project int, data text)",
        "INSERT INTO task SELECT g, g * 7919 % 31, repeat('x', 700) "
        "FROM generate_series(1, 50000) g ORDER BY md5(g::text)",
        "CREATE TABLE remark (id int PRIMARY KEY, task int, at timestamp, note text)",
        "INSERT INTO remark SELECT g, 1 + g * 613 % 50000, "
        "timestamp '2024-01-01' + g * interval '1 min', repeat('y', 150) "
        "FROM generate_series(1, 200000) g",
        "CREATE INDEX ON task (project)",
        "CREATE INDEX ON remark (task)",
        "VACUUM (FREEZE, ANALYZE)",
    )


RULE = Rule("missing-index", Tables("pages", fill), settings={"PLANWATCH_VERIFY": "build"})


def page(offset: int) -> sa.TextClause:
    return sa.text(
        "SELECT r.* FROM remark r JOIN task t ON t.id = r.task WHERE t.project IN (7, 8) "
        f"ORDER BY r.at DESC LIMIT 100 OFFSET {offset}"
    )


FIRST_PAGE = speaks(
    "the first page",
    page(0),
    about="at on remark",
    fix="CREATE INDEX CONCURRENTLY ix_remark_at ON remark (at)",
    proof="untested: …depends on where in its order the … of the rows are that pass",
)

LATE_PAGE = silent(
    "a late page",
    page(900),
    reason="…until the LIMIT has its rows, about … rows of task are looked up one by one…",
)


@rows([FIRST_PAGE])
def test_speaks_where_few_rows_are_looked_up(rule, case):
    rule.check(case)


@rows([LATE_PAGE])
def test_is_silent_where_most_pages_of_a_table_are_looked_up(rule, case):
    rule.check(case)

"""missing-index in an UPDATE: what it writes costs as much with an index, or more."""

from __future__ import annotations

import sqlalchemy as sa

from ..databases import Database
from .case import Rule, Tables, rows, silent, speaks, with_settings


def fill(database: Database) -> None:
    """Make `job`: a tenth of it is open, and each thousandth is stuck."""
    database.execute(
        "CREATE TABLE job (id int PRIMARY KEY, status text, tries int, pad text)",
        "INSERT INTO job SELECT g, CASE WHEN g % 10 = 0 THEN 'open' WHEN g % 1000 = 1 THEN 'stuck' "
        "ELSE 'done' END, 0, repeat('x', 100) FROM generate_series(1, 60000) g",
        "VACUUM (FREEZE, ANALYZE) job",
    )


RULE = Rule("missing-index", Tables("jobs", fill), settings={"PLANWATCH_VERIFY": "build"})

INDEX = "CREATE INDEX CONCURRENTLY ix_job_status ON job (status)"

#: Most of it is spent on the rows, and an index gets as many entries.
MANY = [
    silent(
        "it would have to write an entry of each row",
        sa.text("UPDATE job SET status = 'done' WHERE status = 'open'"),
        reason="…counting what the statement…writes…",
    ),
    silent(
        "it writes each row, which no index spares",
        sa.text("UPDATE job SET tries = tries + 1 WHERE status = 'open'"),
        reason="…counting what the statement…writes…",
    ),
]

FEW = [
    speaks(
        "an UPDATE of few rows",
        sa.text("UPDATE job SET status = 'open' WHERE status = 'stuck'"),
        about="status on job",
        fix=INDEX,
        saves=5,
    ),
    speaks(
        "a SELECT of as many rows",
        sa.text("SELECT * FROM job WHERE status = 'open'"),
        about="status on job",
        fix=INDEX,
    ),
    speaks(
        "a DELETE of as many rows, which leaves the entries to VACUUM",
        sa.text("DELETE FROM job WHERE status = 'open'"),
        about="status on job",
        fix=INDEX,
    ),
]


@rows([*MANY, *FEW])
def test_writes_against_what_is_saved(rule, case):
    rule.check(case)


@rows(with_settings([MANY[0], *FEW], PLANWATCH_VERIFY="auto"), quick=2)
def test_without_building(rule, case):
    rule.check(case)

"""missing-index in a parallel plan: how many rows pass is the number of all workers together."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from ..databases import Database
from .case import Case, Rule, Tables, rows, set_for_all, silent, speaks

#: Rows of the table. ANALYZE takes a sample of as many, so that its figures are exact.
GAUGES = 30_000


def fill(database: Database) -> None:
    database.execute(
        "CREATE TABLE gauge (id int PRIMARY KEY, kind text, state int, value float8, pad text)",
        "INSERT INTO gauge SELECT g, CASE WHEN g % 3 = 0 THEN 'gas' ELSE 'power' END, g % 100, g, "
        f"repeat('x', 100) FROM generate_series(1, {GAUGES}) g",
        "VACUUM ANALYZE gauge",
    )


RULE = Rule(
    "missing-index", Tables("gauges", fill), settings={"PLANWATCH_VERIFY": "off"}, driver="psycopg"
)

#: What else makes a plan parallel.
CHEAP = (
    set_for_all("parallel_setup_cost", 0),
    set_for_all("parallel_tuple_cost", 0),
    set_for_all("min_parallel_table_scan_size", 0),
)


def planned(workers: int, leader: str = "on") -> tuple[str, ...]:
    return (
        *CHEAP,
        set_for_all("max_parallel_workers_per_gather", workers),
        set_for_all("parallel_leader_participation", leader),
    )


TWO_THIRDS = sa.text("SELECT sum(value) FROM gauge WHERE kind = 'power'")


def below(percent: int) -> sa.TextClause:
    return sa.text(f"SELECT count(*), sum(value) FROM gauge WHERE state < {percent}")


def passing(name: str, statement: sa.TextClause, percent: int, setup: tuple[str, ...]) -> Case:
    return silent(
        name, statement, setup=setup, reason=f"{percent}% of the rows are expected to pass"
    )


def few(name: str, percent: int, node: str, setup: tuple[str, ...]) -> Case:
    return speaks(
        name,
        below(percent),
        setup=setup,
        about="state on gauge",
        problem="the statement reads all of gauge, about 30,000 rows, and tests state on each of "
        "them: no index on state.",
        evidence={
            "node": node,
            "table_rows": GAUGES,
            "expected_rows": pytest.approx(GAUGES * percent / 100, rel=0.02),
        },
        fix="CREATE INDEX CONCURRENTLY ix_gauge_state ON gauge (state)",
        proof="untested…",
    )


SHARES = [
    passing("two thirds, found by two workers", TWO_THIRDS, 67, planned(2)),
    few("a hundredth, found by two workers", 1, "Parallel Seq Scan on gauge", planned(2)),
    passing("half of the rows, found by four workers", below(50), 50, planned(4)),
    passing("half of the rows, and the leader only collects", below(50), 50, planned(2, "off")),
    few("a fourth, found by one worker", 25, "Parallel Seq Scan on gauge", planned(1)),
    few("a fourth, and the leader only collects", 25, "Parallel Seq Scan…", planned(3, "off")),
    passing("two thirds, without workers", TWO_THIRDS, 67, planned(0)),
    few("a hundredth, without workers", 1, "Seq Scan on gauge", planned(0)),
]


@rows(SHARES, quick=5)
def test_share_that_passes(rule, case):
    rule.check(case)

"""missing-index: an index exists, or most rows pass, and another one would leave far fewer rows.

Nothing is built, and HypoPG is not there: the plan alone has to show it.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import sqlalchemy as sa

from flask_planwatch import VerdictStatus
from flask_planwatch.plan.tree import Plan
from flask_planwatch.rules.fewer_rows import MIN_FACTOR

from .case import Rule, Tables, rows, silent, speaks


def fill(database):
    """Make `bill`: 30 tenants, 300 kinds and 3 colours all over the table, a fifth of it open."""
    database.execute(
        "CREATE TABLE bill (id int PRIMARY KEY, tenant int, kind int, colour int, state text, "
        "at int, total int, note text)",
        "INSERT INTO bill SELECT g, g % 30, g * 7919 % 307, g % 3, "
        "CASE WHEN g * 31 % 101 < 20 THEN 'open' ELSE 'done' END, g * 7 % 60013, "
        "CASE WHEN g % 7 > 0 THEN g * 13 % 60007 END, repeat(md5(g::text), 4) "
        "FROM generate_series(1, 60000) g",
        "CREATE INDEX by_tenant ON bill (tenant)",
        "CREATE INDEX by_at ON bill (at)",
        "CREATE INDEX by_state ON bill (state)",
        "CREATE INDEX by_total ON bill (total)",
        "CREATE INDEX by_colour ON bill (colour)",
        "VACUUM ANALYZE bill",
    )


RULE = Rule("missing-index", Tables("bill", fill), settings={"PLANWATCH_VERIFY": "auto"})


def bills(condition: str) -> sa.TextClause:
    return sa.text(f"SELECT * FROM bill WHERE {condition}")


UNTESTED = "untested: HypoPG is not …"

SPEAKS = [
    speaks(
        "NULLs in another place, of few columns",
        sa.text("SELECT id, total FROM bill ORDER BY total DESC NULLS LAST LIMIT 20"),
        problem="by_total has another order.",
        fix="CREATE INDEX CONCURRENTLY ix_bill_total_desc_nulls_last ON bill "
        "(total DESC NULLS LAST)",
        proof=UNTESTED,
    ),
    speaks(
        "NULLs in another place than the index has them",
        bills("true ORDER BY total DESC NULLS LAST LIMIT 20"),
        about="total on bill",
        problem="by_total has another order. By PostgreSQL's estimates, an index with this order "
        "leaves about 20 rows to read.",
        fix="CREATE INDEX CONCURRENTLY ix_bill_total_desc_nulls_last ON bill "
        "(total DESC NULLS LAST)",
        proof=UNTESTED,
    ),
    speaks(
        "the same, after an OFFSET",
        bills("true ORDER BY total DESC NULLS LAST LIMIT 20 OFFSET 40"),
        fix="CREATE INDEX CONCURRENTLY ix_bill_total_desc_nulls_last ON bill "
        "(total DESC NULLS LAST)",
        proof=UNTESTED,
    ),
    speaks(
        "the order of what an index finds",
        bills("tenant = 7 ORDER BY total DESC NULLS LAST LIMIT 20"),
        about="total on bill",
        problem="by_tenant lacks total. By PostgreSQL's estimates, an index with this order leaves "
        "about 20 rows to read.",
        fix="CREATE INDEX CONCURRENTLY ix_bill_tenant_total_desc_nulls_last ON bill "
        "(tenant, total DESC NULLS LAST)",
        proof=UNTESTED,
    ),
    speaks(
        "two values, an index on one of them",
        bills("state = 'done' AND kind = 9"),
        about="state, kind on bill | kind, state on bill",
        problem="by_state lacks kind. By PostgreSQL's estimates, an index on all of these leaves "
        "about … rows to read.",
        fix="CREATE INDEX CONCURRENTLY ix_bill_kind_state ON bill (kind, state)",
        proof=UNTESTED,
    ),
    speaks(
        "a value and a range, an index on the value",
        bills("state = 'done' AND kind < 2"),
        problem="by_state lacks kind.",
        fix="CREATE INDEX CONCURRENTLY ix_bill_state_kind ON bill (state, kind)",
        proof=UNTESTED,
    ),
    speaks(
        "beside a condition that no index answers",
        bills("state = 'done' AND kind = 9 AND total <> 5"),
        fix="CREATE INDEX CONCURRENTLY ix_bill_kind_state ON bill (kind, state)",
        proof=UNTESTED,
    ),
    speaks(
        "alternatives that nearly all rows meet, in an order",
        bills("(at > 100 OR kind = 5) ORDER BY kind LIMIT 20"),
        about="kind on bill",
        problem="no index ordered by kind.",
        fix="CREATE INDEX CONCURRENTLY ix_bill_kind ON bill (kind)",
        proof=UNTESTED,
    ),
    speaks(
        "a range that most rows pass, in an order",
        bills("at > 20000 ORDER BY kind LIMIT 20"),
        about="kind on bill",
        problem="no index ordered by kind. By PostgreSQL's estimates, an index with this order "
        "leaves about 30 rows to read.",
        fix="CREATE INDEX CONCURRENTLY ix_bill_kind ON bill (kind)",
        proof=UNTESTED,
    ),
    speaks(
        "an order of most rows",
        bills("state = 'done' ORDER BY kind LIMIT 20"),
        problem="by_state lacks kind.",
        fix="CREATE INDEX CONCURRENTLY ix_bill_state_kind ON bill (state, kind)",
        proof=UNTESTED,
    ),
]

BEGINS = "the index … begins with a column that is compared or sorted by"
OR = "OR combines conditions that each need an index of their own"

SILENT = [
    silent("the order of the index", bills("true ORDER BY total DESC LIMIT 20")),
    silent(
        "another order, of too many rows",
        bills("true ORDER BY total DESC NULLS LAST LIMIT 3000"),
        reason=BEGINS,
    ),
    silent(
        "another order, past too many rows",
        bills("true ORDER BY total DESC NULLS LAST LIMIT 20 OFFSET 3000"),
        reason=BEGINS,
    ),
    silent("another order without a limit", bills("true ORDER BY total DESC NULLS LAST")),
    silent("what an index serves", bills("state = 'open'")),
    silent("what the planner does not want an index for", bills("state = 'done'")),
    silent(
        "two values that many rows have",
        bills("state = 'open' AND colour = 1"),
    ),
    silent(
        "values that many rows have, and a condition that no index answers",
        bills("state = 'done' AND colour = 1 AND kind = tenant"),
        reason="…",
    ),
    silent(
        "alternatives that some rows meet, in an order",
        bills("(at > 48000 OR kind = 5) ORDER BY kind LIMIT 20"),
        reason=OR,
    ),
    silent(
        "the order of few rows",
        bills("tenant = 7 AND at < 9000 ORDER BY total DESC NULLS LAST LIMIT 20"),
        reason=BEGINS,
    ),
]


#: Most rows are needed, in an order: an index saves less than half of the cost.
LATEST = (
    speaks(
        "most rows in an order that an index has by itself",
        sa.text(
            "SELECT bill.* FROM bill JOIN (SELECT id, row_number() OVER "
            "(PARTITION BY tenant ORDER BY total DESC) n FROM bill WHERE state = 'done') latest "
            "ON latest.id = bill.id AND n = 1"
        ),
        about="state, tenant, total on bill",
        fix="CREATE INDEX CONCURRENTLY ix_bill_state_tenant_total_desc_with_id ON bill "
        "(state, tenant, total DESC) INCLUDE (id)",
        PLANWATCH_VERIFY="build",
    ),
    silent(
        "most rows in an order, each looked up in the table",
        sa.text(
            "SELECT DISTINCT ON (tenant) * FROM bill WHERE state = 'done' "
            "ORDER BY tenant, total DESC"
        ),
        reason="CREATE INDEX … (state, tenant, total DESC): it lowers the cost of the statement by "
        "…%, less than 50%",
        PLANWATCH_VERIFY="build",
    ),
)


@rows(SPEAKS, quick=4)
def test_speaks(rule, case):
    rule.check(case)


@rows(SPEAKS, quick=1)
def test_the_planner_confirms_it_where_it_can_be_asked(rule, case):
    rule.check_hypopg(case)


@rows(SILENT, quick=4)
def test_stays_silent(rule, case):
    rule.check(case)


@dataclass(frozen=True)
class Executed:
    """What EXPLAIN (ANALYZE, BUFFERS) counted of a statement."""

    rows: float
    buffers: int
    steps: frozenset[str]


def executed(database, statement: sa.TextClause) -> Executed:
    """Execute a statement, and return how many rows its scans read, and how many buffers."""
    explained = f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {statement}"
    plan = Plan.from_json(database.scalar(explained))
    # A step of the plan that several processes run counts once for each of them.
    read = sum(scan.read_rows for scan in plan.scans)
    top = plan.document["Plan"]
    buffers = top["Shared Hit Blocks"] + top["Shared Read Blocks"]
    return Executed(read, buffers, frozenset(node.type for node in plan.nodes))


@pytest.mark.slow
@rows(SPEAKS)
def test_the_index_leaves_as_few_rows_as_is_said(rule, case):
    """It is silent then, and a tenth of the rows at most are read, from fewer pages."""
    database = rule.copy()
    app = rule.app(database)
    before = executed(database, case.statement)
    (finding,) = rule.ask(app, case.statement)
    (advice,) = finding.advice
    assert advice.verdict.status is VerdictStatus.UNTESTED
    database.execute(*advice.ddl)
    after = executed(database, case.statement)
    assert after.rows * MIN_FACTOR <= before.rows, (before, after)
    assert after.buffers < before.buffers, (before, after)
    assert not after.steps & {"Sort", "Seq Scan"}, after
    assert rule.ask(app, case.statement) == []


@rows(LATEST)
def test_most_rows_in_an_order(rule, case):
    rule.check(case)


@pytest.mark.slow
@rows(LATEST[:1])
def test_an_index_that_has_the_order_by_itself_spares_the_table(rule, case):
    database = rule.copy()
    app = rule.app(database, **case.settings)
    before = executed(database, case.statement)
    (finding,) = rule.ask(app, case.statement)
    (advice,) = finding.advice
    assert advice.verdict.cost_after > advice.verdict.cost_before / 2
    database.execute(*advice.ddl)
    after = executed(database, case.statement)
    assert after.buffers < before.buffers / 2, (before, after)
    assert not after.steps & {"Sort", "Seq Scan"}, after
    assert rule.ask(app, case.statement) == []


@pytest.mark.slow
def test_a_look_up_of_each_row_reads_more_than_it_spares(rule):
    """That an index with this order saves a third of the cost is not worth it."""
    case = LATEST[1]
    database = rule.copy()
    before = executed(database, case.statement)
    database.execute("CREATE INDEX ON bill (state, tenant, total DESC)")
    after = executed(database, case.statement)
    assert "Sort" not in after.steps
    assert after.buffers > before.buffers * 10, (before, after)


@pytest.mark.slow
@rows([case for case in SILENT if case.reason == BEGINS])
def test_what_is_not_said_would_not_be_worth_it(rule, case):
    """Even the index in the very order spares less than it takes to be said."""
    database = rule.copy()
    app = rule.app(database, PLANWATCH_VERIFY="build")
    before = executed(database, case.statement)
    for finding in rule.ask(app, case.statement):
        database.execute(*finding.advice[0].ddl)
        after = executed(database, case.statement)
        fewer = after.rows * MIN_FACTOR <= before.rows and after.buffers < before.buffers
        assert not fewer or before.rows < 1000, (before, after)

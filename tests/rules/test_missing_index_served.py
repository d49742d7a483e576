"""missing-index: indexes that exist, or that other statements are advised, serve a statement."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from ..distance import far
from .case import Case, Rule, Tables, on_first_server, rows, silenced, speaks
from .rule_in_app import run

pytestmark = on_first_server


def fill(database):
    """Make `served`, and `entry`: 200 values of `a` on each page, 100 of `c` one after another."""
    database.execute(
        "CREATE TABLE served (a int, b int, c int, d int, t text)",
        "INSERT INTO served SELECT g % 5000, g % 4000, g % 3000, g, 't' || g % 5000 "
        "FROM generate_series(1, 60000) g",
        "CREATE TABLE entry (a int, b int, c int, note text)",
        "INSERT INTO entry SELECT g % 200, g, g / 601, repeat('x', 50) "
        "FROM generate_series(1, 60000) g",
        "VACUUM ANALYZE served, entry",
    )


RULE = Rule("missing-index", Tables("served", fill))


def served(name: str, condition: str, index: str) -> Case:
    """Say that an index serves a condition, of which the rule speaks without it."""
    return silenced(
        name,
        sa.text(f"SELECT * FROM served WHERE {condition}"),
        by=f"CREATE INDEX ON served {index}",
    )


SERVED = [
    served("plain", "a = 7", "(a)"),
    served("prefix of a longer one", "a = 7", "(a, b)"),
    served("prefix, with a range on the next column", "a = 7 AND b > 100", "(a, b)"),
    served("columns in another order", "a = 7 AND b = 7", "(b, a)"),
    served("backward", "a = 7", "(a DESC)"),
    served("with INCLUDE", "a = 7", "(a) INCLUDE (b)"),
    served("hash", "a = 7", "USING hash (a)"),
    served("block ranges", "d BETWEEN 100 AND 200", "USING brin (d)"),
    served("partial", "a = 7 AND d > 10", "(a) WHERE d > 10"),
    served("partial, with a narrower condition", "a = 7 AND d > 20", "(a) WHERE d > 10"),
    served("partial, not null", "a = 7", "(a) WHERE a IS NOT NULL"),
    served("another column leaves a few rows", "b = 7 AND a = 7", "(b)"),
    served("order", "a = 7 ORDER BY d LIMIT 3", "(a, d)"),
    served("order backward", "true ORDER BY c DESC NULLS LAST LIMIT 3", "(c DESC NULLS LAST)"),
    served("order read backward", "true ORDER BY c DESC LIMIT 3", "(c)"),
    served("text", "t = 't7'", "(t)"),
    served("text for patterns", "t = 't7'", "(t text_pattern_ops)"),
]

SPEAKS = [
    speaks(
        # It ends another scan.
        "a limit in a sub-query",
        sa.text("SELECT * FROM served WHERE a = (SELECT b FROM entry LIMIT 1)"),
        fix="CREATE INDEX CONCURRENTLY ix_served_a ON served (a)",
    ),
    speaks(
        # The planner expects to stop after a few pages, whatever it took.
        "a limit that is reached at the end of the table",
        sa.text("SELECT * FROM entry WHERE c = 99 LIMIT 1"),
        fix="CREATE INDEX CONCURRENTLY ix_entry_c ON entry (c)",
        proof=(
            "c was tested row by row and is now an index condition",
            "Seq Scan on entry became Index Scan using ix_entry_c on entry",
        ),
    ),
]


@rows(SERVED, quick=3)
def test_is_silent_where_an_index_serves(rule, case):
    rule.check(case)


@rows(SPEAKS)
def test_falls_silent_after_the_fix(rule, case):
    rule.check_fix(case)


@pytest.mark.slow
@pytest.mark.parametrize("round_trip_ms", [1, 3, 30])
def test_an_index_that_a_limit_passes_over(rule, processor_time, round_trip_ms):
    """PostgreSQL finds sixty of every sixth row without it, wherever the server is."""
    processor_time.count_waiting()
    database = rule.copy()
    database.execute(
        "ALTER TABLE entry ADD kind int GENERATED ALWAYS AS (b % 6) STORED",
        "CREATE INDEX ON entry (kind)",
        "VACUUM ANALYZE entry",
    )
    with far(database.url_for(rule.driver), round_trip_ms) as url:
        app = rule.watch(url)
        for _ in range(5):
            assert rule.ask(app, sa.text("SELECT b FROM entry WHERE kind = 1 LIMIT 60")) == []


@pytest.mark.slow
def test_an_index_on_an_expression_serves(rule):
    """Without it, the expression is the matter of another rule."""
    database = rule.copy()
    app = rule.app(database)
    statement = sa.text("SELECT * FROM served WHERE a + b = 14")
    run(app, statement)
    assert app.findings()
    database.execute("CREATE INDEX ON served ((a + b))", "ANALYZE served")
    assert rule.ask(app, statement) == []


def test_a_partial_index_serves_rows_that_are_locked(rule):
    """PostgreSQL tests them once more, as they may have changed until they were locked."""
    database = rule.copy()
    database.execute(
        "CREATE TABLE job (id int PRIMARY KEY, done boolean)",
        "INSERT INTO job SELECT g, g <= 49900 FROM generate_series(1, 50000) g",
        "VACUUM ANALYZE job",
    )
    app = rule.app(database, PLANWATCH_VERIFY="build")
    statement = sa.text(
        "SELECT id FROM job WHERE NOT done ORDER BY id LIMIT 10 FOR UPDATE SKIP LOCKED"
    )
    run(app, statement)
    (finding,) = app.findings()
    database.execute(*finding.advice[0].ddl, "ANALYZE job")
    plan = database.scalar(f"EXPLAIN (FORMAT JSON) {statement}")
    assert "(NOT done)" in str(plan)
    assert rule.ask(app, statement) == []


@pytest.mark.slow
def test_an_invalid_index_is_proved_by_itself(rule):
    """What is measured is what REINDEX gives, not an index that carries what is read."""
    database = rule.copy()
    statement = "SELECT b FROM entry WHERE a = 7"
    app = rule.app(database, PLANWATCH_VERIFY="build")
    (finding,) = rule.ask(app, sa.text(statement))
    assert finding.advice[0].summary.endswith("(a) INCLUDE (b)")
    database.execute(
        "CREATE INDEX broken ON entry (a)",
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'broken'::regclass",
    )
    (finding,) = rule.ask(app, sa.text(statement))
    advice = finding.advice[0]
    assert advice.ddl == ("REINDEX INDEX CONCURRENTLY broken",)
    database.execute(*advice.ddl)
    cost = database.scalar(f"EXPLAIN (FORMAT JSON) {statement}")[0]["Plan"]["Total Cost"]
    assert advice.verdict.cost_after == pytest.approx(cost, rel=0.05)


def test_an_index_for_two_statements(rule):
    """The second statement is content with what the first one was advised."""
    app = rule.app(PLANWATCH_VERIFY="build")
    (first,) = rule.ask(app, sa.text("SELECT * FROM entry WHERE a = 7 ORDER BY b LIMIT 5"))
    second = next(
        finding
        for finding in rule.ask(app, sa.text("SELECT * FROM entry WHERE a = 7"))
        if finding.fingerprint != first.fingerprint
    )
    assert first.advice[0].summary.endswith("(a, b)")
    assert second.advice[0].summary == first.advice[0].summary


def test_an_index_that_another_statement_is_advised_later(rule):
    """Inspected again, the first statement is content with what the second one was advised."""
    app = rule.app(PLANWATCH_VERIFY="build")
    alone = sa.text("SELECT * FROM entry WHERE a = 7")
    (first,) = rule.ask(app, alone)
    assert first.advice[0].summary.endswith("(a)")
    rule.ask(app, sa.text("SELECT * FROM entry WHERE a = 7 ORDER BY b LIMIT 5"))
    summaries = {finding.advice[0].summary for finding in rule.ask(app, alone)}
    assert len(summaries) == 1, summaries

"""missing-index for min() and max() of a whole table, which an index has at its ends."""

from __future__ import annotations

import sqlalchemy as sa

from ..databases import Database
from .case import Rule, Tables, rows, silent, speaks, with_settings
from .rule_in_app import run


def fill(database: Database) -> None:
    database.execute(
        "CREATE TABLE sale (id int PRIMARY KEY, total numeric, at timestamptz, place int)",
        "INSERT INTO sale SELECT g, g * 7 % 10000, "
        "timestamptz '2024-01-01' + (g * 7919 % 50000) * interval '1 minute', g % 50 "
        "FROM generate_series(1, 50000) g",
        "VACUUM ANALYZE sale",
    )
    database.install_hypopg()


RULE = Rule("missing-index", Tables("sale", fill), settings={"PLANWATCH_VERIFY": "build"})

SPEAKS = [
    speaks(
        "both of one column",
        sa.text("SELECT min(at), max(at) FROM sale"),
        about="at on sale",
        problem="looks for the least or greatest at in them: no index ordered by at.",
        fix="CREATE INDEX CONCURRENTLY ix_sale_at ON sale (at)",
        saves=100,
    ),
    speaks(
        "one",
        sa.text("SELECT max(at) FROM sale"),
        about="at on sale",
        fix="CREATE INDEX CONCURRENTLY ix_sale_at ON sale (at)",
        saves=100,
    ),
]

SILENT = [
    silent("rows are counted, too", sa.text("SELECT count(*), max(at) FROM sale")),
    silent(
        "of a join, all are needed",
        sa.text("SELECT max(a.at) FROM sale a JOIN sale b ON a.id = b.id + 1"),
    ),
    silent("the column is the key", sa.text("SELECT min(id), max(id) FROM sale")),
]

#: Nothing can be tried where there is no HypoPG.
AUTO = {"PLANWATCH_VERIFY": "auto"}

TWO_COLUMNS = (
    "SELECT min(total), max(at) FROM sale",
    "SELECT (SELECT min(total) FROM sale), (SELECT max(at) FROM sale)",
)


@rows(SPEAKS)
def test_falls_silent_after_the_fix(rule, case):
    rule.check_fix(case)


@rows(with_settings(SPEAKS, **AUTO), quick=1)
def test_speaks_where_nothing_is_built(rule, case):
    rule.check(case)


@rows([*SILENT, *with_settings(SILENT, **AUTO)], quick=3)
def test_stays_silent(rule, case):
    rule.check(case)


def test_two_columns_need_an_index_each(rule):
    app = rule.app()
    for statement in TWO_COLUMNS:
        app.planwatch.clear()
        run(app, sa.text(statement))
        found = rule.of_rule(app.findings())
        assert sorted(finding.about for finding in found) == ["at on sale", "total on sale"]
        assert sorted(advice.ddl for finding in found for advice in finding.advice) == [
            ("CREATE INDEX CONCURRENTLY ix_sale_at ON sale (at)",),
            ("CREATE INDEX CONCURRENTLY ix_sale_total ON sale (total)",),
        ]
        for finding in found:
            verdict = finding.advice[0].verdict
            assert verdict.cost_after * 100 < verdict.cost_before

"""missing-index where an index has the order that a LIMIT stops, and few of its rows pass."""

from __future__ import annotations

import sqlalchemy as sa

from ..databases import Database
from .case import Rule, Tables, rows, set_for_all, silent, speaks


def fill(database: Database) -> None:
    database.execute(
        "CREATE TABLE guest (id int PRIMARY KEY, tier text)",
        "INSERT INTO guest SELECT g, CASE WHEN g <= 200 THEN 'gold' ELSE 'plain' END "
        "FROM generate_series(1, 2000) g",
        "CREATE TABLE stay (id int PRIMARY KEY, guest int, room int, state text, "
        "at timestamp, note text)",
        "INSERT INTO stay SELECT g, 1 + g / 25, g * 7919 % 10, "
        "CASE WHEN g <= 25000 THEN 'done' ELSE 'open' END, "
        "timestamp '2024-01-01' + g * interval '1 min', repeat('x', 60) "
        "FROM generate_series(1, 49999) g ORDER BY md5(g::text)",
        "CREATE INDEX ON stay (guest)",
        "CREATE INDEX ON stay (room)",
        "VACUUM (FREEZE, ANALYZE)",
    )


RULE = Rule("missing-index", Tables("stays", fill), settings={"PLANWATCH_VERIFY": "build"})

SPEAKS = [
    speaks(
        "a join discards nine of ten",
        sa.text(
            "SELECT s.* FROM stay s JOIN guest g ON g.id = s.guest "
            "WHERE g.tier = 'gold' ORDER BY s.at DESC LIMIT 20"
        ),
        about="at on stay",
        fix="CREATE INDEX CONCURRENTLY ix_stay_at ON stay (at)",
        proof="untested: …depends on where in its order the 10% of the rows are that pass",
        setup=(set_for_all("max_parallel_workers_per_gather", 0),),
    ),
    speaks(
        "the index may hold what discards half of them",
        sa.text("SELECT * FROM stay WHERE state = 'done' ORDER BY at DESC LIMIT 20"),
        about="state, at on stay",
        fix="CREATE INDEX CONCURRENTLY ix_stay_state_at ON stay (state, at)",
    ),
]


#: Where nothing can be tried.
SILENT = [
    silent(
        "the rows of several values",
        sa.text("SELECT * FROM stay WHERE room IN (3, 4) ORDER BY at DESC LIMIT 10"),
        PLANWATCH_VERIFY="off",
    ),
    silent(
        "nearly all rows of one",
        sa.text("SELECT * FROM stay WHERE room = 3 ORDER BY at LIMIT 10 OFFSET 4500"),
        PLANWATCH_VERIFY="off",
    ),
]


@rows(SPEAKS)
def test_promises_nothing_that_depends_on_chance(rule, case):
    rule.check(case)


@rows(SILENT)
def test_is_silent_where_the_rows_are_sorted_all_the_same(rule, case):
    rule.check(case)

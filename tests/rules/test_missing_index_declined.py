"""missing-index where one index of a set is declined: the others promise no more than they save."""

from __future__ import annotations

import sqlalchemy as sa

from ..databases import Database
from .case import Rule, Tables, rows, set_for_all, silent


def fill(database: Database) -> None:
    database.execute(
        "CREATE TABLE task (id int PRIMARY KEY, kind int, name text)",
        "INSERT INTO task SELECT g, g % 10, repeat('x', 200) FROM generate_series(1, 40000) g",
        "CREATE TABLE news (id int PRIMARY KEY, change boolean, task_id int, body text)",
        "INSERT INTO news SELECT g, g % 2 = 0, 1 + (g * 31) % 40000, repeat('x', 200) "
        "FROM generate_series(1, 40000) g",
        "CREATE INDEX ON news (task_id)",
        "VACUUM (FREEZE, ANALYZE)",
    )


RULE = Rule("missing-index", Tables("news", fill), settings={"PLANWATCH_VERIFY": "build"})


@rows(
    [
        silent(
            "half of the rows pass, and the index that carries the group saves little alone",
            sa.text(
                "SELECT t.kind, count(*) FROM news n JOIN task t ON t.id = n.task_id "
                "WHERE n.change GROUP BY t.kind"
            ),
            setup=(set_for_all("max_parallel_workers_per_gather", 0),),
        )
    ]
)
def test_is_silent_where_what_is_left_saves_too_little(rule, case):
    rule.check(case)

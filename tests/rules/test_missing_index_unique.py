"""missing-index where a unique index finds the one row: a second index on its keys is no use."""

from __future__ import annotations

import sqlalchemy as sa

from ..databases import Database
from .case import Rule, Tables, rows, silent, speaks, with_settings


def fill(database: Database) -> None:
    database.install_hypopg()
    database.execute(
        "CREATE TABLE task (id int PRIMARY KEY, project_id int, code text UNIQUE, name text)",
        "INSERT INTO task SELECT g, 1 + g % 12, 'c' || g, repeat('x', 150) "
        "FROM generate_series(1, 40000) g",
        "CREATE TABLE subscription (id serial PRIMARY KEY, person_id int, task_id int)",
        "INSERT INTO subscription (person_id, task_id) "
        "SELECT 1 + g % 50, 1 + (g * 7919) % 39999 FROM generate_series(1, 3000) g",
        "CREATE INDEX ON subscription (person_id)",
        "CREATE TABLE visit (task_id int, place text)",
        "INSERT INTO visit SELECT 1 + g % 40000, 'p' || g % 7 FROM generate_series(1, 40000) g",
        "CREATE TABLE item (task_id int, line int, hours int, note text, "
        "PRIMARY KEY (task_id, line))",
        "INSERT INTO item SELECT 1 + g % 15000, g / 15000, g % 9, repeat('x', 500) "
        "FROM generate_series(1, 60000) g",
        "VACUUM (FREEZE, ANALYZE)",
    )


RULE = Rule("missing-index", Tables("tasks", fill), settings={"PLANWATCH_VERIFY": "build"}, runs=3)

UNIQUE = [
    silent(
        "the primary key is looked up for each row, and one more column tested",
        sa.text(
            "SELECT s.id FROM subscription s JOIN task t ON t.id = s.task_id "
            "WHERE s.person_id = 7 AND t.project_id = 5"
        ),
    ),
    silent(
        "a unique column is looked up, and one more column tested",
        sa.text("SELECT * FROM task WHERE code = 'c77' AND project_id = 5"),
    ),
    speaks(
        "only the other side of the join lacks an index",
        sa.text(
            "SELECT t.*, v.place FROM task t LEFT JOIN visit v ON v.task_id = t.id "
            "WHERE t.code = 'c77'"
        ),
        about="task_id on visit",
        fix="CREATE INDEX CONCURRENTLY ix_visit_task_id ON visit (task_id)",
        problem="the statement reads all of visit, about 40,000 rows, and joins them by task_id: "
        "no index on task_id for the join.",
    ),
]

FIRST_KEY = [
    speaks(
        "totals by the first column of a unique index, which does not hold what is added up",
        sa.text("SELECT task_id FROM item GROUP BY task_id HAVING sum(hours) > 20"),
        about="task_id on item",
        fix="CREATE INDEX CONCURRENTLY ix_item_task_id_with_hours ON item (task_id) "
        "INCLUDE (hours)",
        problem="the statement reads all of item, about 60,000 rows, and sorts or groups them by "
        "task_id: item_pkey lacks hours.",
    ),
]


@rows(UNIQUE)
def test_advises_no_second_index(rule, case):
    rule.check(case)


@rows(with_settings(UNIQUE, PLANWATCH_VERIFY="auto"), quick=0)
def test_advises_no_second_index_by_hypopg(rule, case):
    rule.check(case)


@rows(FIRST_KEY)
def test_an_index_may_carry_more_than_the_first_key_of_a_unique_one(rule, case):
    rule.check(case)


@rows(FIRST_KEY)
def test_an_index_may_carry_more_by_hypopg(rule, case):
    rule.check_hypopg(case)

"""What a statement writes: rows, and the entries of new indexes."""

from __future__ import annotations

import pytest

from flask_planwatch.indexes.writing import COST_PER_WRITE, cost_of_writes, updated_columns
from flask_planwatch.plan.tree import Plan

from .data import candidate

#: Statements, and the columns that they set.
COLUMNS = {
    "UPDATE deed SET state = %(state)s WHERE deed.state = %(state_1)s": {"state"},
    'UPDATE ONLY "deed" AS d SET "Odd One" = 1, State = \'a, b = c\' FROM town t WHERE t.id = 7': {
        "Odd One",
        "state",
    },
    "UPDATE deed SET points=(deed.points + %s), at=coalesce(at, note, now())": {"points", "at"},
    "UPDATE deed SET (town, at) = (SELECT name, opened FROM town WHERE id = 1) RETURNING id": {
        "town",
        "at",
    },
    "UPDATE deed SET state = CASE WHEN done THEN 'x' ELSE 'y' END": {"state"},
    "WITH old AS (SELECT id FROM deed) UPDATE deed SET done = $1 FROM old WHERE old.id = deed.id": {
        "done"
    },
    "DELETE FROM deed WHERE state = 'x'": set(),
    "SELECT state, town FROM deed": set(),
    "SELECT 'not closed": set(),
}


@pytest.mark.parametrize("text", COLUMNS)
def test_the_columns_that_an_update_sets(text):
    assert updated_columns(text) == COLUMNS[text]


def changing(operation: str, rows: float) -> Plan:
    scan = {"Node Type": "Seq Scan", "Schema": "public", "Relation Name": "deed", "Alias": "deed"}
    return Plan.from_json(
        {
            "Node Type": "ModifyTable",
            "Operation": operation,
            "Schema": "public",
            "Relation Name": "deed",
            "Alias": "deed",
            "Plan Rows": 0,
            "Plans": [{**scan, "Plan Rows": rows, "Total Cost": 3000.0}],
        }
    )


#: A statement, what it does with 1000 rows, an index, and how many entries and rows it writes.
WRITES = {
    "its own column": ("UPDATE deed SET state = 'x'", "Update", candidate("state"), 2000),
    "the second key": ("UPDATE deed SET state = 'x'", "Update", candidate("town", "state"), 2000),
    "another column": ("UPDATE deed SET state = 'x'", "Update", candidate("town"), 1000),
    "all columns": ("INSERT INTO deed SELECT * FROM deed", "Insert", candidate("town"), 2000),
    "what goes away": ("DELETE FROM deed", "Delete", candidate("state"), 0),
}


@pytest.mark.parametrize("name", WRITES)
def test_what_is_written_costs(name):
    text, operation, index, writes = WRITES[name]
    assert cost_of_writes(text, changing(operation, 1000.0), [index]) == writes * COST_PER_WRITE


def test_a_statement_that_only_reads_writes_nothing():
    plan = Plan.from_json({"Node Type": "Seq Scan", "Plan Rows": 1000.0})
    assert cost_of_writes("SELECT state FROM deed", plan, [candidate("state")]) == 0.0

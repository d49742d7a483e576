"""A finding that only some values raise stays active until something has changed."""

from __future__ import annotations

import logging

import pytest
import sqlalchemy as sa

pytestmark = pytest.mark.slow

#: A tenth of the parts is of each kind but one, which has five. Only for that one the planner takes
#: the index on kind; for the others it looks up each part of a list by its primary key.
TABLES = (
    "CREATE TABLE part (id int PRIMARY KEY, kind int NOT NULL, note text)",
    "INSERT INTO part SELECT g, CASE WHEN g <= 5 THEN 99 ELSE g % 10 END, repeat('x', 150) "
    "FROM generate_series(1, 50000) g",
    "CREATE INDEX part_kind ON part (kind)",
    "CREATE TABLE wish (id int PRIMARY KEY, part_id int NOT NULL, list_id int NOT NULL)",
    "INSERT INTO wish SELECT g, 1 + g * 31 % 49999, g % 20 FROM generate_series(1, 2000) g",
    "CREATE INDEX wish_list ON wish (list_id)",
    "CREATE INDEX wish_part ON wish (part_id)",
    "VACUUM (FREEZE, ANALYZE)",
)

COMMON, RARE = 1, 99

STATEMENT = sa.text(
    "SELECT w.id FROM wish w JOIN part p ON p.id = w.part_id WHERE w.list_id = 3 AND p.kind = :kind"
)


def subjects(watched, kind):
    """Return the subjects of the active findings after a query for one kind."""
    return [finding.subject for finding in watched.ask(STATEMENT, kind=kind)]


def test_other_values_do_not_resolve_a_finding(any_story, watch, caplog):
    caplog.set_level(logging.INFO, logger="flask_planwatch")
    any_story.execute(*TABLES)
    watched = watch(any_story.url, PLANWATCH_VERIFY="build")
    found = subjects(watched, COMMON)
    for kind in (RARE, COMMON, RARE, COMMON):
        assert subjects(watched, kind) == found
    said = [record.getMessage() for record in caplog.records if hasattr(record, "planwatch_id")]
    assert len(said) == len(found), said
    any_story.execute("CREATE INDEX better ON part (kind, id)", "ANALYZE part")
    assert subjects(watched, RARE) == []

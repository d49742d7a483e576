"""The rows of a parallel plan are those that the same server expects without workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from flask_planwatch.plan.parallel import GATHERS
from flask_planwatch.plan.tree import Plan
from flask_planwatch.server.transaction import EXPLAIN

from .databases import Database, make_database
from .servers import Server

TABLES = (
    "CREATE TABLE reading (id int PRIMARY KEY, kind int, meter_id int, pad text)",
    "INSERT INTO reading SELECT g, g % 10, g % 4000, repeat('x', 60) "
    "FROM generate_series(1, 30000) g",
    "CREATE TABLE meter (id int, label int, pad text)",
    "INSERT INTO meter SELECT g, g % 10, repeat('x', 60) FROM generate_series(1, 4000) g",
    "CREATE INDEX ON meter (id)",
    "CREATE TABLE part (id int, region int, v int, pad text) PARTITION BY LIST (region)",
    *(f"CREATE TABLE part_{n} PARTITION OF part FOR VALUES IN ({n})" for n in (1, 2, 3)),
    "INSERT INTO part SELECT g, CASE WHEN g <= 20000 THEN 1 WHEN g <= 23000 THEN 2 ELSE 3 END, "
    "g % 10, repeat('x', 60) FROM generate_series(1, 23100) g",
    # Both sides of a join get as many workers.
    *(f"ALTER TABLE {name} SET (parallel_workers = 8)" for name in ("reading", "meter")),
    "ANALYZE",
)

#: Statements, and what else is set for them.
STATEMENTS = {
    "a scan": ("SELECT id FROM reading WHERE kind < 7", ()),
    "in order": ("SELECT id FROM reading WHERE kind < 7 ORDER BY kind, id", ()),
    "groups": ("SELECT kind, count(*) FROM reading WHERE kind < 7 GROUP BY kind", ()),
    "an index": (
        "SELECT count(*) FROM reading WHERE id < 15000 AND kind < 7",
        ("enable_seqscan", "enable_bitmapscan"),
    ),
    "a bitmap": (
        "SELECT count(*) FROM reading WHERE id < 15000 AND kind < 7",
        ("enable_seqscan", "enable_indexscan"),
    ),
    "a parallel hash": (
        "SELECT count(*) FROM reading r JOIN meter m ON m.id = r.meter_id "
        "WHERE m.label < 5 AND r.kind < 3",
        ("enable_nestloop", "enable_mergejoin"),
    ),
    "a hash for each process": (
        "SELECT count(*) FROM reading r JOIN meter m ON m.id = r.meter_id "
        "WHERE m.label < 5 AND r.kind < 3",
        ("enable_nestloop", "enable_mergejoin", "enable_parallel_hash"),
    ),
    "partitions": ("SELECT count(*) FROM part WHERE v < 3", ()),
    "partitions one by one": (
        "SELECT count(*) FROM part WHERE v < 3",
        ("enable_parallel_append",),
    ),
}

#: Unless it reads partitions at the same time, the server itself takes no notice of those that are
#: planned with fewer workers.
ROUGHLY = {"partitions one by one": 0.1}

CHEAP = ("parallel_setup_cost = 0", "parallel_tuple_cost = 0", "min_parallel_table_scan_size = 0")
CHEAP += ("min_parallel_index_scan_size = 0",)


@pytest.fixture(scope="module")
def readings(any_server: Server) -> Iterator[Database]:
    for database in make_database(any_server, None):
        database.execute(*TABLES)
        yield database


def explained(connection: sa.Connection, statement: str, *settings: str) -> Plan:
    for setting in settings:
        connection.exec_driver_sql(f"SET LOCAL {setting}")
    document: Any = connection.exec_driver_sql(EXPLAIN + statement).scalar()
    return Plan.from_json(document)


def rows_by_table(plan: Plan) -> Counter[str]:
    """Return the rows that all scans of each table return, its partitions together."""
    rows: Counter[str] = Counter()
    for scan in plan.scans:
        rows[(scan.relation or "").partition("_")[0]] += scan.rows
    return rows


# One worker without the leader is no better than the leader alone.
@pytest.mark.parametrize(
    ("workers", "leader"), [(1, "on"), (2, "on"), (2, "off"), (3, "on"), (6, "off")]
)
def test_workers_change_nothing_about_the_rows(readings, workers, leader):
    engine = sa.create_engine(readings.url, poolclass=sa.NullPool)
    for name, (statement, off) in STATEMENTS.items():
        with engine.begin() as connection:
            switches = [f"{setting} = off" for setting in off]
            alone = explained(
                connection, statement, *switches, "max_parallel_workers_per_gather = 0"
            )
            parallel = explained(
                connection,
                statement,
                *CHEAP,
                f"max_parallel_workers_per_gather = {workers}",
                f"parallel_leader_participation = {leader}",
            )
        (gather,) = [node for node in parallel.nodes if node.type in GATHERS]
        if gather is parallel.root:
            assert gather.rows == pytest.approx(alone.root.rows, abs=workers * 3), name
        expected = rows_by_table(alone)
        found = rows_by_table(parallel)
        assert set(found) == set(expected), name
        for table, rows in expected.items():
            # The server rounds the rows of a worker, of each partition.
            near = pytest.approx(rows, abs=workers * 3, rel=ROUGHLY.get(name, 0.0))
            assert found[table] == near, (name, table)

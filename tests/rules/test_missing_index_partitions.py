"""missing-index where some partitions of a table have the index already."""

from __future__ import annotations

import sqlalchemy as sa

from ..databases import Database
from .case import Rule, Tables, rows, speaks


def fill(database: Database) -> None:
    database.execute(
        "CREATE TABLE ride (id int, place int, at date) PARTITION BY RANGE (at)",
        "CREATE TABLE ride_1 PARTITION OF ride FOR VALUES FROM ('2024-01-01') TO ('2024-06-01')",
        "CREATE TABLE ride_2 PARTITION OF ride FOR VALUES FROM ('2024-06-01') TO ('2025-01-01')",
        "INSERT INTO ride SELECT g, g % 3000, date '2024-01-01' + g % 300 "
        "FROM generate_series(1, 40000) g",
        'CREATE INDEX "Ride 1" ON ride_1 (place)',
        "ANALYZE ride",
    )


RULE = Rule("missing-index", Tables("ride", fill))

#: All that is read is in the result: no step above the partitions says so.
SPEAKS = [
    speaks(
        "one has it",
        sa.text("SELECT * FROM ride WHERE place = 7"),
        about="place on ride",
        fix=(
            "CREATE INDEX ix_ride_place ON ONLY ride (place); "
            'ALTER INDEX ix_ride_place ATTACH PARTITION "Ride 1"; '
            "CREATE INDEX CONCURRENTLY ix_ride_2_place ON ride_2 (place); "
            "ALTER INDEX ix_ride_place ATTACH PARTITION ix_ride_2_place"
        ),
    ),
    speaks(
        "one has another order of it",
        sa.text("SELECT * FROM ride WHERE place = 7"),
        setup=('DROP INDEX "Ride 1"', "CREATE INDEX ON ride_1 (place DESC)"),
        fix=(
            "CREATE INDEX ix_ride_place ON ONLY ride (place); "
            "CREATE INDEX CONCURRENTLY ix_ride_1_place ON ride_1 (place); "
            "ALTER INDEX ix_ride_place ATTACH PARTITION ix_ride_1_place; "
            "CREATE INDEX CONCURRENTLY ix_ride_2_place ON ride_2 (place); "
            "ALTER INDEX ix_ride_place ATTACH PARTITION ix_ride_2_place"
        ),
    ),
]


@rows(SPEAKS)
def test_attaches_what_there_is(rule, case):
    rule.check_fix(case)

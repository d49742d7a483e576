"""missing-index where some partitions of a table have the index already."""

from __future__ import annotations

import sqlalchemy as sa

from ..databases import Database
from .case import Rule, Tables, followed, rows, silent, speaks


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
        problem=(
            "reads 1 of the 2 partitions of ride, about 19,684 rows",
            "no index on place in ride_2.",
        ),
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
        problem="no index on place in ride_2.",
        fix=(
            "CREATE INDEX ix_ride_place ON ONLY ride (place); "
            "CREATE INDEX CONCURRENTLY ix_ride_1_place ON ride_1 (place); "
            "ALTER INDEX ix_ride_place ATTACH PARTITION ix_ride_1_place; "
            "CREATE INDEX CONCURRENTLY ix_ride_2_place ON ride_2 (place); "
            "ALTER INDEX ix_ride_place ATTACH PARTITION ix_ride_2_place"
        ),
    ),
    speaks(
        "a foreign key, and one has it",
        sa.text("DELETE FROM place WHERE id = 2950"),
        setup=(
            "CREATE TABLE place (id int PRIMARY KEY)",
            "INSERT INTO place SELECT generate_series(0, 3000)",
            "ALTER TABLE ride ADD FOREIGN KEY (place) REFERENCES place ON DELETE CASCADE",
            "ANALYZE place",
        ),
        about="place on ride",
        problem=(
            "PostgreSQL reads all of ride_2, about 19,684 rows, to check",
            "no index in ride_2 begins with place.",
        ),
        fix=(
            "CREATE INDEX ix_ride_place ON ONLY ride (place); "
            'ALTER INDEX ix_ride_place ATTACH PARTITION "Ride 1"; '
            "CREATE INDEX CONCURRENTLY ix_ride_2_place ON ride_2 (place); "
            "ALTER INDEX ix_ride_place ATTACH PARTITION ix_ride_2_place"
        ),
    ),
    speaks(
        "an order, and one has it",
        sa.text("SELECT * FROM ride ORDER BY place LIMIT 5"),
        about="place on ride",
        problem="no index in ride_2 ordered by place.",
    ),
    # ride_1 would be read by its index alone, were its pages visible; ride_2 has no such index.
    speaks(
        "all that is read is in the index that one has",
        sa.text("SELECT count(*) FROM ride WHERE place = 7"),
        about="place on ride",
    ),
]

#: Each partition has an index of its own, and the whole table has none.
SILENT = [
    silent(
        "a foreign key, and all have it",
        sa.text("DELETE FROM place WHERE id = 2950"),
        setup=(*SPEAKS[2].setup, "CREATE INDEX ON ride_2 (place)"),
    ),
]


@rows(SPEAKS)
def test_names_the_partitions_that_lack_it(rule, case):
    rule.check(case)


@rows(followed(SPEAKS))
def test_attaches_what_there_is(rule, case):
    rule.check_fix(case)


@rows(SILENT)
def test_stays_silent(rule, case):
    rule.check(case)

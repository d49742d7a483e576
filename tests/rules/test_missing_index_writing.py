"""missing-index for the sub-queries of a step that writes, which are not in the cost of a plan."""

from __future__ import annotations

import sqlalchemy as sa

from ..databases import Database
from .case import Rule, Tables, rows, silent, speaks, with_settings


def fill(database: Database) -> None:
    database.execute(
        "CREATE TABLE client (id int PRIMARY KEY, last text)",
        "INSERT INTO client SELECT generate_series(1, 1000)",
        "CREATE TABLE event (id int PRIMARY KEY, client int, kind text)",
        "INSERT INTO event SELECT g, g % 5000, md5(g::text) FROM generate_series(1, 60000) g",
        "VACUUM ANALYZE client, event",
    )
    database.install_hypopg()


RULE = Rule("missing-index", Tables("clients", fill), settings={"PLANWATCH_VERIFY": "build"})

INDEX = "CREATE INDEX CONCURRENTLY ix_event_client ON event (client)"

SPEAKS = [
    speaks(
        "ON CONFLICT",
        sa.text(
            "INSERT INTO client (id) VALUES (7) ON CONFLICT (id) DO UPDATE "
            "SET last = (SELECT count(*) FROM event WHERE client = excluded.id)"
        ),
        about="client on event",
        fix=INDEX,
        saves=5,
    ),
    speaks(
        "RETURNING",
        sa.text(
            "UPDATE client SET last = 'x' WHERE id = 7 "
            "RETURNING (SELECT count(*) FROM event e WHERE e.client = client.id)"
        ),
        about="client on event",
        fix=INDEX,
        saves=5,
    ),
    speaks(
        "MERGE",
        sa.text(
            "MERGE INTO client USING (VALUES (7)) v (i) ON client.id = v.i WHEN MATCHED THEN "
            "UPDATE SET last = (SELECT count(*) FROM event e WHERE e.client = client.id)"
        ),
        about="client on event",
        fix=INDEX,
        saves=5,
    ),
]

SILENT = [
    silent(
        "an index serves it",
        SPEAKS[0].statement,
        setup="CREATE INDEX ON event (client)",
    ),
    silent("there is no sub-query", sa.text("UPDATE client SET last = 'x' WHERE id = 7")),
]


@rows(SPEAKS)
def test_falls_silent_after_the_fix(rule, case):
    rule.check_fix(case)


@rows(with_settings(SPEAKS, PLANWATCH_VERIFY="auto"), quick=1)
def test_speaks_where_nothing_is_built(rule, case):
    rule.check(case)


@rows([*SILENT, *with_settings(SILENT, PLANWATCH_VERIFY="auto")], quick=2)
def test_stays_silent(rule, case):
    rule.check(case)

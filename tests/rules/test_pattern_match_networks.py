"""pattern-match for what is in a network, and for networks that hold something."""

from __future__ import annotations

import sqlalchemy as sa

from ..databases import Database
from .case import Rule, Tables, rows, silent, speaks, with_settings


def fill(database: Database) -> None:
    database.execute(
        "CREATE TABLE visit (id int PRIMARY KEY, ip inet, net cidr, pad text)",
        "INSERT INTO visit SELECT g, ('10.' || g % 250 || '.' || g / 250 || '.1')::inet, "
        "('10.' || g % 250 || '.' || g / 250 || '.0/24')::cidr, repeat('x', 60) "
        "FROM generate_series(1, 40000) g",
        "VACUUM ANALYZE visit",
    )
    database.install_hypopg()


RULE = Rule("pattern-match", Tables("visit", fill), settings={"PLANWATCH_VERIFY": "build"})


def where(condition: str) -> sa.TextClause:
    return sa.text(f"SELECT * FROM visit WHERE {condition}")


BTREE = "CREATE INDEX CONCURRENTLY ix_visit_ip ON visit (ip)"

#: A btree index has these between the first and the last address.
IN_A_NETWORK = [
    speaks(
        "in a network",
        where("ip << '10.7.0.0/16'"),
        about="ip << on visit",
        problem="no index on ip finds such networks",
        fix=BTREE,
        saves=2,
    ),
    speaks(
        "or the network itself", where("ip <<= '10.7.0.0/16'"), about="ip <<= on visit", fix=BTREE
    ),
    speaks("the sides exchanged", where("'10.7.0.0/16' >> ip"), about="ip << on visit", fix=BTREE),
    speaks(
        "a cidr",
        where("net << '10.7.0.0/16'"),
        fix="CREATE INDEX CONCURRENTLY ix_visit_net ON visit (net)",
    ),
]

OTHERS = [
    speaks(
        "the network of an address",
        where("net >>= '10.7.9.1'"),
        about="(net)::inet >>= on visit",
        fix="CREATE INDEX CONCURRENTLY ix_visit_net_gist ON visit USING gist (net inet_ops)",
        saves=10,
    ),
    speaks(
        "networks that overlap",
        where("ip && '10.7.9.0/24'"),
        fix="CREATE INDEX CONCURRENTLY ix_visit_ip_gist ON visit USING gist (ip inet_ops)",
    ),
]

SILENT = [
    silent("an index has it", where("ip << '10.7.0.0/16'"), setup="CREATE INDEX ON visit (ip)"),
    silent("most are in it", where("ip << '10.0.0.0/8'")),
]


@rows([*IN_A_NETWORK, *OTHERS])
def test_falls_silent_after_the_fix(rule, case):
    rule.check_fix(case)


@rows(IN_A_NETWORK, quick=1)
def test_hypopg_tries_the_btree(rule, case):
    rule.check_hypopg(case)


@rows([*SILENT, *with_settings(SILENT, PLANWATCH_VERIFY="auto")], quick=2)
def test_stays_silent(rule, case):
    rule.check(case)

"""missing-index where no row has the values of the execution: the index is one for usual values."""

from __future__ import annotations

import sqlalchemy as sa

from ..databases import Database
from .case import Rule, Tables, rows, speaks


def fill(database: Database) -> None:
    database.execute(
        "CREATE TABLE member (id int PRIMARY KEY, person int, role int, since timestamp, a text)",
        "INSERT INTO member SELECT g, g * 7919 % 2000, g % 4, "
        "timestamp '2024-01-01' + g * interval '1 min', repeat('x', 30) "
        "FROM generate_series(1, 60000) g",
        "VACUUM (FREEZE, ANALYZE)",
    )


RULE = Rule("missing-index", Tables("member", fill))

#: A role has 15,000 members, a person is 30 of them.
SPEAKS = [
    speaks(
        "a role that nobody has",
        sa.text("SELECT * FROM member WHERE person = 7 AND role = 9"),
        fix="CREATE INDEX CONCURRENTLY ix_member_person_role ON member (person, role)",
    ),
    speaks(
        "a role that nobody has, to delete",
        sa.text("DELETE FROM member WHERE person = 7 AND role = 9"),
        fix="CREATE INDEX CONCURRENTLY ix_member_person_role ON member (person, role)",
    ),
    speaks(
        "a time to come",
        sa.text("SELECT * FROM member WHERE person = 7 AND since >= '2030-01-01'"),
        fix="CREATE INDEX CONCURRENTLY ix_member_person_since ON member (person, since)",
    ),
]


@rows(SPEAKS)
def test_advises_what_serves_usual_values(rule, case):
    rule.check_fix(case)

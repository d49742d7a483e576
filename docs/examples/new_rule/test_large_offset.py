"""large-offset: a LIMIT that begins far down reads all the rows before OFFSET."""

from __future__ import annotations

import sqlalchemy as sa

from ..any_statement import WORD
from ..models import User
from ..stories import Address
from .case import USERS, Example, Rule, followed, rows, silent, speaks

RULE = Rule("large-offset", USERS)

EXAMPLE = Example("select(User.id).order_by(User.id).limit(10).offset(50_000)", gone="Limit")

MARKED = (sa.select(Address.id).where(Address.city != WORD).order_by(Address.id).offset(20_000),)

by_id = sa.select(User.id).order_by(User.id)

SPEAKS = [
    speaks(
        "a late page",
        by_id.limit(10).offset(50_000),
        about='OFFSET on "user"',
        problem="skips about 50,000 rows before the first that it returns",
        fix=(),
        rewritten=by_id.where(User.id > 50_000).limit(10),
    ),
    speaks(
        "all but the first rows",
        by_id.offset(50_000),
        about='OFFSET on "user"',
        problem="skips about 50,000 rows before the first that it returns",
        fix=(),
    ),
]

#: Statements that look alike and have no problem.
SILENT = [
    silent("the first page", by_id.limit(10)),
    silent("the second page", by_id.limit(10).offset(10), reason="it skips few rows"),
    silent("all rows", by_id),
]


@rows(SPEAKS)
def test_speaks(rule, case):
    rule.check(case)


@rows(SILENT)
def test_stays_silent(rule, case):
    rule.check(case)


@rows(followed(SPEAKS))
def test_falls_silent_after_the_fix(rule, case):
    rule.check_fix(case)

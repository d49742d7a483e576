"""Each column of a row can fail."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sqlalchemy as sa

from ..models import User
from .case import USERS, Rule, followed, on_first_server, rows, silenced, silent, speaks

RULE = Rule("missing-index", USERS, settings={"PLANWATCH_VERIFY": "build"})

by_name = sa.select(User).where(User.first == "First7")
by_key = sa.select(User).where(User.id == 7)
of_most = sa.select(User.id, User.first).where(User.state == "Active")

RIGHT = speaks(
    "right",
    by_name,
    about='first on "user"',
    severity="warning",
    problem=("reads all of", "about 100,000 rows"),
    evidence={"columns": ["first"]},
    fix='CREATE INDEX CONCURRENTLY ix_user_first ON "user" (first)',
    code='Index("ix_user_first", User.first)',
    proof=("first was tested row by row…", 'Seq Scan on "user" became …'),
    saves=100,
)

#: A column that is not right, and what is said of it.
WRONG = {
    "about": ({"about": 'last on "user"'}, "about: "),
    "severity": ({"severity": "critical"}, "severity: "),
    "problem": ({"problem": ("reads nothing",)}, "problem: "),
    "evidence": ({"evidence": {"columns": ["last"]}}, "columns: "),
    "fix": ({"fix": ("VACUUM",)}, "instead of"),
    "one fix more": ({"fix": (*RIGHT.fix, "VACUUM")}, "instead of"),
    "code": ({"code": ("Index(User.last)",)}, "code: "),
    "why": ({"why": ("it is Monday",)}, "why: "),
    "proof": ({"proof": ("untested: …",)}, "instead of"),
    "saves": ({"saves": 1e6}, "cost"),
    "found": ({"found": False}, "reads all of"),
}


@on_first_server
@rows([RIGHT])
def test_a_right_row(rule, case):
    assert rule.check(case).subject == "first"


@on_first_server
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_column(rule, name):
    columns, message = WRONG[name]
    with pytest.raises(AssertionError, match=message):
        rule.check(replace(RIGHT, **columns))


@on_first_server
def test_a_row_of_which_nothing_is_found(rule):
    with pytest.raises(AssertionError, match="missing-index finds no problem in 'by the key'"):
        rule.check(speaks("by the key", by_key))


@on_first_server
def test_another_reason(rule):
    rule.check(silent("most rows", of_most, reason="…of the rows pass…"))
    with pytest.raises(AssertionError, match="of the rows pass"):
        rule.check(silent("most rows", of_most, reason="it is Monday"))


@on_first_server
def test_another_rule_that_speaks_as_well(rule):
    function = sa.select(User).where(sa.func.lower(User.last) == "last7")
    with pytest.raises(AssertionError, match="functional-predicate"):
        rule.check(silent("a function", function))
    rule.check(silent("a function", function, beside="functional-predicate"))


@on_first_server
def test_what_does_not_end_the_problem(rule):
    with pytest.raises(AssertionError):
        rule.check(silenced("no index", by_name, by='ANALYZE "user"'))
    with pytest.raises(AssertionError):
        rule.check_fix(replace(RIGHT, rewritten=by_name))
    rule.check_fix(replace(RIGHT, rewritten=by_key))


def test_which_rows_have_a_fix_to_follow():
    advised = replace(RIGHT, fix=("pass an int, not a Decimal",))
    none = replace(RIGHT, fix=None)
    assert followed([RIGHT, advised, none]) == [RIGHT]
    assert replace(advised, rewritten=by_key).can_be_followed


@on_first_server
def test_words_that_stand_for_others(rule):
    rule.check(replace(RIGHT, about='…on "user"', fix=("CREATE … (last) | CREATE … (first)",)))

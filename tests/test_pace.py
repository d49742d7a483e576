"""What a unit of cost normally takes is the median of the process, and robust."""

from __future__ import annotations

import pytest

from flask_planwatch.pace import MAX_STATEMENTS, USUAL_MS_PER_COST, USUAL_WEIGHT, Pace


def test_without_statements_it_is_the_usual():
    assert Pace().normal("x") == USUAL_MS_PER_COST


def test_few_statements_do_not_move_it():
    pace = Pace()
    for number in range(4):
        pace.record(f"s{number}", 5.0)
    assert pace.normal("x") == USUAL_MS_PER_COST


def test_many_statements_are_believed():
    pace = Pace()
    for number in range(20):
        pace.record(f"s{number}", 0.2)
    assert pace.normal("x") == 0.2


def test_a_few_bad_ones_do_not_move_it():
    pace = Pace()
    for number in range(30):
        pace.record(f"s{number}", 0.2 if number % 3 else 100.0)
    assert pace.normal("x") == 0.2


def test_a_statement_is_not_compared_with_itself():
    pace = Pace()
    for number in range(USUAL_WEIGHT):
        pace.record(f"s{number}", 0.3)
    for _ in range(30):
        pace.record("x", 100.0)
    assert pace.normal("x") == pytest.approx((USUAL_MS_PER_COST + 0.3) / 2)
    assert pace.normal("y") == 0.3, "one statement counts once"


def test_what_is_kept_is_bounded():
    pace = Pace()
    for number in range(MAX_STATEMENTS):
        pace.record(f"old{number}", 9.0)
    for number in range(MAX_STATEMENTS):
        pace.record(f"new{number}", 0.5)
    assert pace.normal("x") == pytest.approx(0.5)

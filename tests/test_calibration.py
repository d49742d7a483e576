"""What a unit of cost normally takes is the median of the process, and robust."""

from __future__ import annotations

import pytest

from flask_planwatch.inspection.calibration import MAX_CALIBRATED, USUAL_WEIGHT, CostCalibration
from flask_planwatch.plan.figures import MIN_MS_PER_COST, USUAL_MS_PER_COST


def test_without_statements_it_is_the_usual():
    assert CostCalibration().normal("x") == USUAL_MS_PER_COST


def test_few_statements_do_not_move_it():
    calibration = CostCalibration()
    for number in range(4):
        calibration.record(f"s{number}", 5.0)
    assert calibration.normal("x") == USUAL_MS_PER_COST


def test_many_statements_are_believed():
    calibration = CostCalibration()
    for number in range(20):
        calibration.record(f"s{number}", 0.2)
    assert calibration.normal("x") == 0.2


def test_statements_that_take_no_longer_than_the_round_trip_do_not_make_it_nothing():
    """Otherwise every other statement would be infinitely slow, and rules divide by it."""
    calibration = CostCalibration()
    for number in range(20):
        calibration.record(f"s{number}", 0.0)
    assert calibration.normal("x") == MIN_MS_PER_COST


def test_a_few_bad_ones_do_not_move_it():
    calibration = CostCalibration()
    for number in range(30):
        calibration.record(f"s{number}", 0.2 if number % 3 else 100.0)
    assert calibration.normal("x") == 0.2


def test_a_statement_is_not_compared_with_itself():
    calibration = CostCalibration()
    for number in range(USUAL_WEIGHT):
        calibration.record(f"s{number}", 0.3)
    for _ in range(30):
        calibration.record("x", 100.0)
    assert calibration.normal("x") == pytest.approx((USUAL_MS_PER_COST + 0.3) / 2)
    assert calibration.normal("y") == 0.3, "one statement counts once"


def test_what_is_kept_is_bounded():
    calibration = CostCalibration()
    for number in range(MAX_CALIBRATED):
        calibration.record(f"old{number}", 9.0)
    for number in range(MAX_CALIBRATED):
        calibration.record(f"new{number}", 0.5)
    assert calibration.normal("x") == pytest.approx(0.5)

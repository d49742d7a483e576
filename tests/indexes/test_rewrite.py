"""Rewrites in the words of the app, whatever its columns are called."""

from __future__ import annotations

import pytest

from flask_planwatch.fixes.rewrite import _half_open_range

RANGES = {
    "=": ("{0} >= start AND {0} < end", "{1} >= start, {1} < end"),
    ">=": ("{0} >= start", "{1} >= start"),
    "<": ("{0} < start", "{1} < start"),
    ">": ("{0} >= end", "{1} >= end"),
    "<=": ("{0} < end", "{1} < end"),
}


@pytest.mark.parametrize("column", ["opened_at", "art", "start", "end", "t"])
@pytest.mark.parametrize("comparison", RANGES)
def test_a_half_open_range(column, comparison):
    """The name of a column may stand in the other words as well, or be one of them."""
    said = _half_open_range(column, "Shop.opened", "month", comparison)
    condition, python = (text.format(column, "Shop.opened") for text in RANGES[comparison])
    assert said == {"condition": condition, "code": f".where({python})", "period": "month"}


def test_a_range_for_each_value():
    said = _half_open_range("start", "Shop.start", "day", "= ANY")
    assert said["condition"] == "(start >= start AND start < end) OR …, a range for each value"
    assert said["code"] == (
        ".where(or_(*(and_(Shop.start >= start, Shop.start < end) for start, end in …)))"
    )

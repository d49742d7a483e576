"""What an index costs, said in a sentence."""

from __future__ import annotations

import pytest

from flask_planwatch.indexes.cost import cost_of
from flask_planwatch.plan.schema import Activity

from .data import candidate, table


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (0, "about 8 kB"),
        (8192, "about 8 kB"),
        (712_704, "about 713 kB"),
        (2_260_000, "about 2.3 MB"),
        (12_345_000_000, "about 12,345.0 MB"),
    ],
)
def test_says_the_size(size, said):
    assert f"The index takes {said} and" in cost_of(candidate("town"), size)


def test_says_no_size_that_is_not_known():
    assert "takes" not in cost_of(candidate("town"), None)


def test_says_how_much_is_written():
    activity = Activity(inserted=120_000, updated=4_500, deleted=12, scans=3_000)
    said = cost_of(candidate("town", relation=table(activity=activity)), 8192)
    assert "the table has had 120,000 rows inserted, 4,500 updated and 12 deleted" in said
    assert "and 3,000 scans" in said


@pytest.mark.parametrize(
    ("activity", "written"),
    [
        (Activity(inserted=1), "1 row inserted, 0 updated and 0 deleted, and 0 scans"),
        (Activity(updated=1), "0 rows inserted, 1 updated and 0 deleted, and 0 scans"),
        (Activity(deleted=1), "0 rows inserted, 0 updated and 1 deleted, and 0 scans"),
    ],
    ids=["inserted", "updated", "deleted"],
)
def test_any_row_is_a_write(activity, written):
    assert written in cost_of(candidate("town", relation=table(activity=activity)), None)


def test_a_table_that_is_only_read():
    relation = table(activity=Activity(scans=5))
    said = cost_of(candidate("town", relation=relation), None)
    assert said == (
        "The index has to be kept up to date. "
        "No row of the table has been written since its statistics were reset."
    )

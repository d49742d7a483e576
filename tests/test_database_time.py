"""What a share of the database time says, and once how much of it was seen."""

from __future__ import annotations

import pytest

from flask_planwatch.capture.database_time import saves_little, saves_much, share_of

#: The time of all statements and that of some, in ms, and the share of these.
SHARES = [(0.0, 0.0, None), (999.0, 999.0, None), (1000.0, 250.0, 0.25), (1000.0, 1000.5, 1.0)]


@pytest.mark.parametrize(("total_ms", "some_ms", "share"), SHARES)
def test_a_share_of_the_time_is_told_once_that_says_something(total_ms, some_ms, share):
    assert share_of(some_ms, total_ms) == share


#: What a fix saves and the time of all statements, in ms; whether that is much, and whether little.
SAVINGS = {
    "all of a developer's first request": (90.0, 90.0, False, False),
    "before a minute, one percent of a minute": (600.0, 1000.0, True, False),
    "before a minute, less": (599.0, 59_999.0, False, False),
    "one percent of a minute": (600.0, 60_000.0, True, False),
    "less than one percent of a minute": (599.0, 60_000.0, False, True),
    "the same in an hour": (600.0, 3_600_000.0, False, True),
}


@pytest.mark.parametrize("name", SAVINGS)
def test_a_fix_saves_much_or_little_by_its_share_of_at_least_a_minute(name):
    saves_ms, total_ms, much, little = SAVINGS[name]
    assert saves_much(saves_ms, total_ms) is much
    assert saves_little(saves_ms, total_ms) is little

"""What was read of a text is remembered, within a bound."""

from __future__ import annotations

from sys import getsizeof

import pytest
from sqlglot.errors import SqlglotError

from flask_planwatch.plan.memory import remembered
from flask_planwatch.plan.predicate import MAX_READ_SIZE, conjuncts, tokenize
from flask_planwatch.runtime.bounded import ENTRY_SIZE

#: What a text of five characters counts for, with what was read of it.
SIZE = getsizeof("12345") + 5 * 100 + ENTRY_SIZE


@pytest.fixture
def reading():
    """A function with room for four texts of five characters, and the texts that it has read."""
    read = []

    @remembered(4 * SIZE, 100)
    def length(text: str) -> int:
        read.append(text)
        return len(text)

    return length, read


def test_the_same_text_is_read_once(reading):
    length, read = reading
    assert [length("abc"), length("abc"), length("ab")] == [3, 3, 2]
    assert read == ["abc", "ab"]


def test_what_was_asked_for_least_recently_is_forgotten_first(reading):
    length, read = reading
    for text in ("kept!", "one!!", "kept!", "two!!", "kept!", "three", "kept!", "four!"):
        length(text)
    read.clear()
    length("kept!")
    length("one!!")
    assert read == ["one!!"]


def test_it_holds_no_more_bytes_than_it_may(reading):
    length, _ = reading
    for number in range(100):
        length(f"text {number}")
        assert 0 < length.held <= 4 * SIZE


def test_wide_characters_count_for_what_they_take(reading):
    length, _ = reading
    length("\U0001f600" * 5)
    assert length.held >= SIZE + 20


def test_a_text_that_does_not_fit_is_read_each_time(reading):
    length, read = reading
    length("x" * 30)
    length("x" * 30)
    assert len(read) == 2
    assert length.held == 0


def test_what_raises_is_not_remembered():
    with pytest.raises(SqlglotError):
        tokenize("'no end")
    with pytest.raises(SqlglotError):
        tokenize("'no end")


def test_a_long_condition_is_read_once_however_many_values_came_before():
    condition = " OR ".join(f"(u.points = {number})" for number in range(300))
    assert conjuncts(condition) is conjuncts(condition)
    for number in range(10_000):
        conjuncts(f"(u.id = {number})")
    assert conjuncts.held <= MAX_READ_SIZE

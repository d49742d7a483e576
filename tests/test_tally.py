"""What is counted of each statement, and how many statements are known."""

from __future__ import annotations

import sys
import threading

import pytest

from flask_planwatch import tally as module
from flask_planwatch.tally import MAX_RECENT, Tallies, Tally


def new(*durations: float) -> Tally:
    """Return a tally of such executions, as the hooks count them."""
    tally = Tally(explainable=True)
    for duration in durations:
        tally.durations[tally.succeeded % MAX_RECENT] = duration
        tally.succeeded += 1
        tally.total_ms += duration
    return tally


@pytest.mark.parametrize("count", [0, 1, MAX_RECENT - 1, MAX_RECENT, MAX_RECENT + 1, 25])
def test_the_latest_executions_are_kept_in_their_order(count):
    durations = tuple(map(float, range(count)))
    assert new(*durations).recent == durations[-MAX_RECENT:]


def test_what_another_thread_adds_is_in_its_place():
    done = threading.Event()
    tallies = [new()]

    def run() -> None:
        while not done.is_set():
            tallies[0] = new()
            for _ in range(MAX_RECENT):
                tallies[0].durations[tallies[0].succeeded % MAX_RECENT] = 1.0
                tallies[0].succeeded += 1

    thread, interval = threading.Thread(target=run), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        assert all(0.0 not in tallies[0].recent for _ in range(100_000))
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(interval)


def test_one_that_failed_tells_nothing_of_the_times():
    tally = new(1.0)
    tally.failed(99.0)
    assert tally.recent == (1.0,)
    assert (tally.calls, tally.total_ms) == (2, 100.0)


def test_they_are_kept_by_text():
    tallies = Tallies()
    one = tallies.add("SELECT 1", new())
    other = tallies.add("COMMIT", Tally(explainable=False))
    assert tallies.recent == {"SELECT 1": one, "COMMIT": other}
    assert len(tallies) == 2


def test_none_is_started_anew():
    tallies = Tallies()
    one = tallies.add("SELECT 1", new(1.0))
    assert tallies.add("SELECT 1", new()) is one


@pytest.fixture
def few(monkeypatch):
    """Let three statements be as many as are kept."""
    monkeypatch.setattr(module, "MAX_STATEMENTS", 3)
    return Tallies()


def test_they_are_bounded_and_those_that_did_not_run_go(few):
    kept = few.add("often", new())
    for number in range(20):
        few.add(number, new())
        if "often" not in few.recent:
            few.add("often", new())
        assert len(few) <= 6
    assert few.add(19, new(7.0)).calls == 0
    assert few.add("often", new()) is kept
    assert few.add(0, new(7.0)).calls == 1


def test_plain_are_some_of_the_recent_ones(few):
    tally = few.add("a", new())
    few.add_plain("a", tally)
    few.add_plain("unknown", new())
    assert few.plain == {"a": tally}
    for number in range(3):
        few.add(number, new())
    assert few.plain == {}
    few.add_plain("a", tally)
    assert few.plain == {}
    assert few.add("a", new()) is tally


def test_without_plain_ones_each_is_looked_at():
    tallies = Tallies()
    tally = tallies.add("a", new())
    tallies.add_plain("a", tally)
    tallies.allow_plain(allowed=False)
    assert tallies.plain == {}
    tallies.add_plain("a", tally)
    assert tallies.plain == {}
    tallies.allow_plain(allowed=True)
    tallies.add_plain("a", tally)
    assert tallies.plain == {"a": tally}

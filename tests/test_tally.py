"""What is counted of each statement, and how many statements are known."""

from __future__ import annotations

import sys
import threading

import pytest

from flask_planwatch import tally as module
from flask_planwatch.tally import MAX_RECENT, Tallies, Tally


def ran(tally: Tally, *durations: float) -> Tally:
    """Count executions as the hooks do."""
    for duration in durations:
        tally.durations[tally.succeeded % MAX_RECENT] = duration
        tally.succeeded += 1
        tally.total_ms += duration
    return tally


def new(*durations: float) -> Tally:
    return ran(Tally(explainable=True), *durations)


def test_the_latest_executions_are_kept_in_their_order():
    tally = new(*map(float, range(25)))
    assert tally.recent == tuple(map(float, range(15, 25)))
    tally.failed(99.0)
    assert 99.0 not in tally.recent
    assert (tally.calls, tally.total_ms) == (26, sum(range(25)) + 99)


@pytest.mark.parametrize("count", [0, 1, MAX_RECENT - 1, MAX_RECENT, MAX_RECENT + 1, 1000])
def test_each_execution_counts_once(count):
    durations = tuple(map(float, range(1, count + 1)))
    tally = new(*durations)
    assert (tally.calls, tally.total_ms) == (count, sum(durations))
    assert len(tally.durations) == MAX_RECENT
    assert tally.recent == durations[-MAX_RECENT:]


def test_several_threads_count_no_execution_twice():
    tally = Tally(explainable=True)
    together = threading.Barrier(4)

    def run() -> None:
        together.wait()
        ran(tally, *[1.0] * 5000)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tally.durations) == MAX_RECENT
    assert tally.calls == tally.total_ms <= 20_000


def test_what_another_thread_adds_is_in_its_place():
    done = threading.Event()
    tallies = [new()]

    def run() -> None:
        while not done.is_set():
            tallies[0] = new()
            ran(tallies[0], *[1.0] * MAX_RECENT)

    thread, interval = threading.Thread(target=run), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        assert all(0.0 not in tallies[0].recent for _ in range(100_000))
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(interval)


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


@pytest.fixture
def little_room(monkeypatch):
    """Let some twenty tallies with short texts be as many as have place in a generation."""
    monkeypatch.setattr(module, "MAX_SIZE", 2 * 20 * 1000)
    monkeypatch.setattr(module, "_taken", module._Taken())


def test_they_are_bounded_by_bytes(little_room):
    tallies = Tallies()
    for number in range(1000):
        tallies.add(f"SELECT {number}", new())
        assert len(tallies.recent) <= 20
    assert 20 < len(tallies) <= 40
    for number in range(100):
        tallies.add(f"SELECT {number} " + "x" * 10_000, new())
    assert len(tallies) <= 4


def test_those_of_all_engines_are(little_room):
    one, other = Tallies(), Tallies(repeat=True)
    for number in range(1000):
        one.add(f"SELECT {number}", new())
        other.add(f"SELECT {number}", new())
        assert len(one.recent) + len(other.recent) <= 20
    idle = Tallies()
    idle.add("SELECT 1", new())
    for number in range(100):
        one.add(f"SELECT 2, {number}", new())
    assert len(idle) == 0


def test_one_that_runs_again_does_not_count_twice(little_room):
    tallies = Tallies()
    for _ in range(1000):
        tallies.add("SELECT 1", new())
    tallies.add("SELECT 2", new())
    assert set(tallies.recent) == {"SELECT 1", "SELECT 2"}


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

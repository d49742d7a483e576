"""What is counted of each statement, and how many statements are known."""

from __future__ import annotations

import sys
import threading

import pytest

from flask_planwatch.capture import statistics as module
from flask_planwatch.capture.statistics import MAX_RECENT, AllStatistics, StatementStatistics


def ran(statistics: StatementStatistics, *durations: float) -> StatementStatistics:
    """Count executions as the hooks do."""
    for duration in durations:
        statistics.durations[statistics.succeeded % MAX_RECENT] = duration
        statistics.succeeded += 1
        statistics.total_ms += duration
    return statistics


def new(*durations: float) -> StatementStatistics:
    return ran(StatementStatistics(explainable=True), *durations)


def test_the_latest_executions_are_kept_in_their_order():
    statistics = new(*map(float, range(25)))
    assert statistics.recent == tuple(map(float, range(15, 25)))
    statistics.failed(99.0)
    assert 99.0 not in statistics.recent
    assert (statistics.calls, statistics.total_ms) == (26, sum(range(25)) + 99)


@pytest.mark.parametrize("count", [0, 1, MAX_RECENT - 1, MAX_RECENT, MAX_RECENT + 1, 1000])
def test_each_execution_counts_once(count):
    durations = tuple(map(float, range(1, count + 1)))
    statistics = new(*durations)
    assert (statistics.calls, statistics.total_ms) == (count, sum(durations))
    assert len(statistics.durations) == MAX_RECENT
    assert statistics.recent == durations[-MAX_RECENT:]


def test_several_threads_count_no_execution_twice():
    statistics = StatementStatistics(explainable=True)
    together = threading.Barrier(4)

    def run() -> None:
        together.wait()
        ran(statistics, *[1.0] * 5000)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(statistics.durations) == MAX_RECENT
    assert statistics.calls == statistics.total_ms <= 20_000


def test_what_another_thread_adds_is_in_its_place():
    done = threading.Event()
    all_statistics = [new()]

    def run() -> None:
        while not done.is_set():
            all_statistics[0] = new()
            ran(all_statistics[0], *[1.0] * MAX_RECENT)

    thread, interval = threading.Thread(target=run), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        assert all(0.0 not in all_statistics[0].recent for _ in range(100_000))
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(interval)


def test_they_are_kept_by_text():
    all_statistics = AllStatistics()
    one = all_statistics.add("SELECT 1", new())
    other = all_statistics.add("COMMIT", StatementStatistics(explainable=False))
    assert all_statistics.recent == {"SELECT 1": one, "COMMIT": other}
    assert len(all_statistics) == 2


def test_none_is_started_anew():
    all_statistics = AllStatistics()
    one = all_statistics.add("SELECT 1", new(1.0))
    assert all_statistics.add("SELECT 1", new()) is one


@pytest.fixture
def few(monkeypatch):
    """Let three statements be as many as are kept."""
    monkeypatch.setattr(module, "MAX_STATEMENTS", 3)
    return AllStatistics()


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
    statistics = few.add("a", new())
    few.add_plain("a", statistics)
    few.add_plain("unknown", new())
    assert few.plain == {"a": statistics}
    for number in range(3):
        few.add(number, new())
    assert few.plain == {}
    few.add_plain("a", statistics)
    assert few.plain == {}
    assert few.add("a", new()) is statistics


@pytest.fixture
def little_room(monkeypatch):
    """Let some twenty all_statistics with short texts be as many as have place in a generation."""
    monkeypatch.setattr(module, "MAX_SIZE", 2 * 20 * 1000)
    monkeypatch.setattr(module, "_taken", module._Taken())


def test_they_are_bounded_by_bytes(little_room):
    all_statistics = AllStatistics()
    for number in range(1000):
        all_statistics.add(f"SELECT {number}", new())
        assert len(all_statistics.recent) <= 20
    assert 20 < len(all_statistics) <= 40
    for number in range(100):
        all_statistics.add(f"SELECT {number} " + "x" * 10_000, new())
    assert len(all_statistics) <= 4


def test_those_of_all_engines_are(little_room):
    one, other = AllStatistics(), AllStatistics(repeat=True)
    for number in range(1000):
        one.add(f"SELECT {number}", new())
        other.add(f"SELECT {number}", new())
        assert len(one.recent) + len(other.recent) <= 20
    idle = AllStatistics()
    idle.add("SELECT 1", new())
    for number in range(100):
        one.add(f"SELECT 2, {number}", new())
    assert len(idle) == 0


def test_one_that_runs_again_does_not_count_twice(little_room):
    all_statistics = AllStatistics()
    for _ in range(1000):
        all_statistics.add("SELECT 1", new())
    all_statistics.add("SELECT 2", new())
    assert set(all_statistics.recent) == {"SELECT 1", "SELECT 2"}


def test_without_plain_ones_each_is_looked_at():
    all_statistics = AllStatistics()
    statistics = all_statistics.add("a", new())
    all_statistics.add_plain("a", statistics)
    all_statistics.allow_plain(allowed=False)
    assert all_statistics.plain == {}
    all_statistics.add_plain("a", statistics)
    assert all_statistics.plain == {}
    all_statistics.allow_plain(allowed=True)
    all_statistics.add_plain("a", statistics)
    assert all_statistics.plain == {"a": statistics}

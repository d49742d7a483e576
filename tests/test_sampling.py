"""Which executions are inspected: by interval, duration, urgency and budget."""

from __future__ import annotations

import sys
import threading
from itertools import pairwise

import pytest

from flask_planwatch.capture.sampling import Budget, Sampler
from flask_planwatch.capture.statistics import StatementStatistics
from flask_planwatch.runtime.clock import now
from flask_planwatch.settings import read_settings


class Clock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make(clock: Clock, **config: object) -> Sampler:
    named = {f"PLANWATCH_{name}": value for name, value in config.items()}
    settings = read_settings(named, debug=False, testing=False)
    return Sampler(settings, lambda name, per_minute: Budget(per_minute, clock))


def statistics() -> StatementStatistics:
    return StatementStatistics(explainable=True)


def allowed(sampler: Sampler, clock: Clock, tries: int = 1000) -> int:
    """Return how many inspections the budget allows now."""
    return sum(sampler.spend(statistics(), clock.now) for _ in range(tries))


def test_a_new_statement_is_due(clock):
    sampler = make(clock)
    assert sampler.is_due(statistics(), clock.now)


@pytest.mark.parametrize(
    ("seconds", "due"), [(0, False), (1, False), (299.9, False), (300, True), (1e6, True)]
)
def test_an_inspected_statement_is_due_after_the_interval(clock, seconds, due):
    sampler, one = make(clock, SAMPLE_INTERVAL=300), statistics()
    sampler.spend(one, clock.now)
    clock.now += seconds
    assert sampler.is_due(one, clock.now) is due


def test_an_interval_of_one_statement_is_not_that_of_another(clock):
    sampler, one, other = make(clock), statistics(), statistics()
    sampler.spend(one, clock.now)
    assert not sampler.is_due(one, clock.now)
    assert sampler.is_due(other, clock.now)


def test_without_an_interval_a_statement_is_always_due(clock):
    sampler, one = make(clock, SAMPLE_INTERVAL=0), statistics()
    sampler.spend(one, clock.now)
    assert sampler.is_due(one, clock.now)
    # Another thread's execution, which ended earlier but is looked at later.
    clock.now -= 0.001
    assert sampler.is_due(one, clock.now)


def test_the_budget_of_a_minute(clock):
    sampler = make(clock, INSPECTIONS_PER_MINUTE=60)
    assert allowed(sampler, clock) == 60
    assert sampler.over_budget == 940


@pytest.mark.parametrize(
    ("seconds", "inspections"), [(0.5, 0), (1, 1), (10, 10), (60, 60), (61, 60), (86_400, 60)]
)
def test_the_budget_returns_with_time_and_never_exceeds_a_minutes(clock, seconds, inspections):
    sampler = make(clock, INSPECTIONS_PER_MINUTE=60)
    allowed(sampler, clock)
    clock.now += seconds
    assert allowed(sampler, clock) == inspections


def test_the_budget_returns_in_small_steps_too(clock):
    sampler = make(clock, INSPECTIONS_PER_MINUTE=60)
    allowed(sampler, clock)
    done = 0
    for _ in range(100):
        clock.now += 0.1
        done += allowed(sampler, clock, tries=1)
    assert done in {9, 10}


def test_a_budget_below_one_is_one_inspection_in_more_minutes(clock):
    sampler = make(clock, INSPECTIONS_PER_MINUTE=0.5)
    done = 0
    for _ in range(60):
        clock.now += 60
        done += allowed(sampler, clock, tries=3)
    assert done in {29, 30, 31}


def test_a_budget_of_nothing(clock):
    sampler = make(clock, INSPECTIONS_PER_MINUTE=0)
    clock.now += 3600
    assert allowed(sampler, clock) == 0


def test_without_a_budget_all_is_inspected(clock):
    sampler = make(clock, INSPECTIONS_PER_MINUTE=None)
    assert allowed(sampler, clock) == 1000
    assert sampler.over_budget == 0


def test_a_statement_over_budget_stays_due(clock):
    sampler, one = make(clock, INSPECTIONS_PER_MINUTE=1), statistics()
    assert sampler.spend(statistics(), clock.now)
    assert not sampler.spend(one, clock.now)
    assert sampler.is_due(one, clock.now)


def slow_samples(
    clock: Clock, sampler: Sampler, one: StatementStatistics, seconds: int
) -> list[float]:
    """Return when a statement is sampled that is slow eight times in each second."""
    sampled = []
    for eighth in range(8 * seconds):
        if not sampler.waits(one, clock.now) and sampler.spend(one, clock.now, slow=True):
            sampled.append(eighth / 8)
        clock.now += 1 / 8
    return sampled


def test_a_statement_that_is_always_slow_is_inspected_less_and_less(clock):
    sampler, one = make(clock), statistics()
    assert slow_samples(clock, sampler, one, 60) == [0, 1, 3, 7, 15, 31]


def test_the_first_slow_execution_does_not_wait(clock):
    sampler, one = make(clock), statistics()
    assert sampler.spend(one, clock.now)
    assert not sampler.is_due(one, clock.now)
    assert not sampler.waits(one, clock.now)


def test_a_slow_statement_waits_no_longer_than_the_interval(clock):
    sampler, one = make(clock, SAMPLE_INTERVAL=10), statistics()
    sampled = slow_samples(clock, sampler, one, 100)
    assert sampled[:4] == [0, 1, 3, 7]
    assert max(after - before for before, after in pairwise(sampled)) <= 10


def test_without_an_interval_a_slow_statement_does_not_wait(clock):
    sampler, one = make(clock, SAMPLE_INTERVAL=0), statistics()
    assert sampler.spend(one, clock.now, slow=True)
    assert not sampler.waits(one, clock.now)


def test_a_slow_statement_does_not_wait_for_a_clock_that_was_set_back(clock):
    sampler, one = make(clock), statistics()
    assert sampler.spend(one, clock.now, slow=True)
    assert sampler.waits(one, clock.now)
    clock.now -= 3600
    assert not sampler.waits(one, clock.now)


def test_slow_and_urgent_executions_are_within_the_budget(clock):
    sampler = make(clock, INSPECTIONS_PER_MINUTE=1)
    sampler.spend(statistics(), clock.now)
    assert not sampler.spend(statistics(), clock.now)


def test_a_clock_that_jumps_back_takes_no_budget_away(clock):
    sampler = make(clock, INSPECTIONS_PER_MINUTE=60)
    allowed(sampler, clock, tries=10)
    clock.now -= 3600
    assert allowed(sampler, clock) == 50
    clock.now += 60
    assert allowed(sampler, clock) == 60


def test_a_clock_that_jumps_back_stops_no_sampling(clock):
    sampler, one = make(clock, SAMPLE_INTERVAL=300), statistics()
    sampler.spend(one, clock.now)
    clock.now -= 3600
    assert sampler.is_due(one, clock.now)


def test_apps_share_the_budget_of_their_process():
    settings = read_settings({"PLANWATCH_INSPECTIONS_PER_MINUTE": 77}, debug=False, testing=False)
    samplers = [Sampler(settings) for _ in range(5)]
    moment = now()
    assert sum(one.spend(statistics(), moment) for one in samplers for _ in range(50)) == 77


def test_a_clock_that_jumps_ahead_gives_one_minutes_budget(clock):
    sampler, one = make(clock, INSPECTIONS_PER_MINUTE=60), statistics()
    sampler.spend(one, clock.now)
    clock.now += 1e9
    assert sampler.is_due(one, clock.now)
    assert allowed(sampler, clock) == 60


def test_threads_share_the_budget(clock):
    sampler = make(clock, INSPECTIONS_PER_MINUTE=20_000)
    counts: list[int] = []
    together = threading.Barrier(8)

    def spend() -> None:
        together.wait()
        counts.append(allowed(sampler, clock, tries=5_000))

    threads = [threading.Thread(target=spend) for _ in range(8)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)
    assert sum(counts) == sampler.over_budget == 20_000


@pytest.mark.parametrize(
    ("length", "inspections"), [(0, 60), (25_000, 60), (49_999, 60), (50_000, 30), (100_000, 15)]
)
def test_a_long_statement_takes_several_inspections(clock, length, inspections):
    sampler = make(clock, INSPECTIONS_PER_MINUTE=60)

    def spend() -> bool:
        return sampler.spend(statistics(), clock.now, length=length)

    assert sum(spend() for _ in range(100)) == inspections
    assert not spend()
    sampler.give_back(length=length)
    assert spend()
    assert not spend()


def test_a_long_statement_takes_all_of_a_small_budget(clock):
    sampler = make(clock, INSPECTIONS_PER_MINUTE=2)
    assert sampler.spend(statistics(), clock.now, length=100_000)
    assert not sampler.spend(statistics(), clock.now)


@pytest.mark.parametrize(("length", "texts"), [(1, 300), (2_000, 300), (20_000, 30), (25_000, 24)])
def test_what_is_read_and_not_inspected_is_counted_in_characters(clock, length, texts):
    """As many as 60 inspections take at most; a short text takes a while, too."""
    sampler = make(clock, INSPECTIONS_PER_MINUTE=60)
    assert sum(sampler.may_read("x" * length) for _ in range(1000)) == texts
    clock.now += 30
    assert sum(sampler.may_read("x" * length) for _ in range(1000)) == texts // 2

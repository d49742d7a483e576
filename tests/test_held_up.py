"""What an execution took on the application's thread is not what the server took for it."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import sqlalchemy as sa

from flask_planwatch.plan.evidence import Timings
from flask_planwatch.plan.figures import USUAL_MS_PER_COST
from flask_planwatch.plan.tree import Plan
from flask_planwatch.runtime.clock import crowding

from .distance import far
from .models import Badge, User


class Clocks:
    """The clocks of the hooks: `now`, and what the process has computed, in seconds."""

    def __init__(self) -> None:
        self.now = self.computed = 1000.0
        self.asked = 0

    def ask(self) -> float:
        self.asked += 1
        return self.computed

    def work(self, ms: float, *, computed: float = 0.0) -> None:
        """Let so many ms go by, of which the process computes some."""
        self.now += ms / 1000
        self.computed += computed / 1000


@pytest.fixture
def clocks(monkeypatch):
    clocks = Clocks()
    monkeypatch.setattr("flask_planwatch.capture.hooks.now", lambda: clocks.now)
    monkeypatch.setattr("flask_planwatch.capture.hooks.processor_seconds", clocks.ask)
    return clocks


class App:
    """An app whose statements take what they are told to."""

    def __init__(self, watched, clocks: Clocks) -> None:
        self.watched, self.clocks = watched, clocks
        self.took = (0.0, 0.0)
        with watched.app.app_context():
            self.engine = watched.db.engine
        sa.event.listen(self.engine, "do_execute", self._work)

    def _work(self, *_: object) -> None:
        ms, computed = self.took
        self.clocks.work(ms, computed=computed)

    def run(self, ms: float, *, computed: float = 0.0) -> None:
        """Run a statement that takes so many ms, while the process computes for some of them."""
        self.took = (ms, computed)
        with self.watched.app.app_context():
            self.watched.db.session.execute(sa.select(Badge.id).where(Badge.id == 7)).all()
            self.watched.db.session.remove()
        self.took = (0.0, 0.0)

    @property
    def durations(self) -> list[float]:
        """What is remembered of the executions."""
        watch = self.watched.app.extensions["planwatch"]._engines[self.engine].watch
        (statistics,) = watch._statistics.recent.values()
        assert statistics.total_ms >= sum(statistics.recent) - 0.001
        return [round(ms, 3) for ms in statistics.recent]


@pytest.fixture
def app(each_story, watch, clocks):
    return App(watch(each_story.url, PLANWATCH_SAMPLE_INTERVAL=300), clocks)


def test_what_the_process_computes_is_no_time_of_the_server(app):
    app.run(50, computed=45)
    app.run(50)
    app.run(50, computed=90)
    assert app.durations == [5, 50, 0], "several threads compute without the interpreter's lock"


def test_nothing_is_taken_off_where_no_other_thread_had_its_turn(app):
    app.run(4, computed=3)
    assert app.durations == [4]


def test_what_was_computed_before_counts_only_for_a_moment(app, clocks):
    for _ in range(2):
        app.run(1)
        clocks.work(1000, computed=1000)
    app.run(1)
    clocks.work(3, computed=3)
    app.run(50)
    # It may be wrong by some ms.
    assert app.durations == [1, 1, 1, 47]


def test_the_clock_of_the_process_is_rarely_asked(app, clocks):
    app.run(1)
    clocks.asked = 0
    for _ in range(100):
        app.run(0.1)
    assert clocks.asked <= 3, "once in 5 ms, of the 10 ms that they took"


def test_what_an_inspection_computes_holds_up_no_later_execution(app, clocks):
    """Each sampled execution is followed by an inspection, in which a stopped clock may stand."""
    app.run(1)
    clocks.computed += 0.5
    app.run(50)
    assert app.durations == [1, 50]


def test_a_clock_that_is_set_back(app, clocks):
    app.run(1)
    clocks.now -= 100
    clocks.computed += 1
    app.run(50)
    assert app.durations == [1, 50]


def test_what_is_no_work_on_the_plan():
    plan = Plan.from_json({"Plan": {"Node Type": "Result", "Plan Width": 146}, "Planning Time": 7})
    timings = Timings((), overhead_ms=30)
    assert timings.outside_ms(plan, None) == 7 + 90
    # 1000 rows of 146 bytes take ten further round trips, and 5 µs each.
    assert timings.outside_ms(plan, 1000) == pytest.approx(7 + 90 + 300 + 5)


def test_what_many_programs_share_takes_longer():
    """Twenty programs on each processor make a second of 50 ms."""
    plan = Plan.from_json({"Plan": {"Node Type": "Result", "Total Cost": 9.0}})
    crowded = Timings((1060.0, 1040.0, 1050.0), overhead_ms=40 / 3, crowding=20.0)
    assert crowded.spent_ms(plan, None) == 50
    assert replace(crowded, crowding=1.0).spent_ms(plan, None) == 1000


@pytest.mark.parametrize(
    ("running", "processors", "times"), [(40.0, 2, 20.0), (1.0, 2, 1.0), (3.0, None, 3.0)]
)
def test_how_many_programs_share_a_processor(monkeypatch, running, processors, times):
    monkeypatch.setattr("os.getloadavg", lambda: (running, 0.0, 0.0))
    monkeypatch.setattr("os.cpu_count", lambda: processors)
    assert crowding() == times


def test_where_nobody_counts_programs(monkeypatch):
    monkeypatch.delattr("os.getloadavg")
    assert crowding() == 1


#: Healthy statements, of which one has a LIMIT that is reached early.
HEALTHY = [
    sa.select(User.id).where(User.id == 7),
    sa.select(User.email).where(User.id.between(1000, 1200)),
    sa.select(User.id).where(User.id > 5).limit(40),
]


@pytest.mark.slow
@pytest.mark.parametrize("round_trip_ms", [3, 10, 30])
@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_a_server_that_is_far_away(each_story, watch, processor_time, driver, round_trip_ms):
    processor_time.count_waiting()
    processor_time.see_others()
    with far(each_story.url_for(driver), round_trip_ms) as url:
        watched = watch(url)
        for statement in HEALTHY:
            for _ in range(5):
                assert watched.ask(statement) == []
        # Nothing is learnt from what was on its way: it would make each other statement look slow.
        calibration = watched.app.extensions["planwatch"].calibration
        assert calibration.normal("another") == USUAL_MS_PER_COST


@pytest.mark.slow
@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_a_process_that_computes(each_story, watch, processor_time, driver):
    processor_time.count_waiting()
    processor_time.see_others()
    watched, stop = watch(each_story.url_for(driver)), threading.Event()

    def compute() -> None:
        while not stop.is_set():
            sum(range(1000))

    threads = [threading.Thread(target=compute) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for statement in HEALTHY:
            for _ in range(5):
                assert watched.ask(statement) == []
    finally:
        stop.set()
        for thread in threads:
            thread.join()

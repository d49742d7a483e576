"""Part B: what a busy application feels of inspections, and how soon it hears of a bad statement.

One thread looks rows up as fast as it can. Another executes statements that are worth a look, ten
in a second, in windows in which they are inspected and windows in which they are not; both windows
come in turn, so that the machine's own unrest is in both. The busy thread shares a processor with
its server process, and all else has the others.
"""

from __future__ import annotations

import itertools
import logging
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from time import perf_counter, thread_time
from typing import Any

import sqlalchemy as sa
from flask import Flask
from sqlalchemy import Engine, func

from flask_planwatch import PlanWatch
from flask_planwatch.signals import statement_inspected

from .estimate import Estimate, Goal, median_of, quantile
from .server import PEOPLE, Person, join, leave, one_processor, url_for
from .variants import planwatch
from .workload import orm_new

#: Statements in a second that are inspected, and the budget that allows it.
RATE = 10
_PER_MINUTE = 60 * RATE

#: Share of its throughput that the busy thread may lose.
MAX_LOSS = 0.02

#: ms that may come on top of the busy thread's slowest statement in a thousand.
MAX_SLOWER = 2.0
_SLOWEST = 0.999

#: Seconds from the first execution of a bad statement to its log line.
MAX_SECONDS = 1.0

#: Executions after which nothing new is learnt of a statement: the second shows which values vary,
#: and from the third on its time is believed.
_LEARNT = 5

#: Seconds before a log line is given up.
_PATIENCE = 30.0

_OTHER = sa.orm.aliased(Person)

#: Bad ones and good ones; each takes its number.
STATEMENTS: list[Callable[[int], Any]] = [
    lambda n: sa.select(Person).where(Person.city == f"City {n % 5000}"),
    lambda n: sa.select(Person).where(func.lower(Person.email) == f"person{n}@example.org"),
    lambda n: sa.select(Person).where(Person.email.like(f"%rson{n}@%")),
    lambda n: sa.select(Person.id).where(sa.cast(Person.points, sa.Text) == str(n % 997)),
    lambda n: sa.select(Person.id).order_by(Person.points, Person.city).limit(5).offset(n % 10),
    lambda n: sa.select(Person).where(Person.email == f"Person{n}@example.org"),
    lambda n: sa.select(Person).where(Person.id.between(n, n + 20)),
    lambda n: (
        sa.select(Person.email, _OTHER.email)
        .join(_OTHER, _OTHER.id == Person.id + 1)
        .where(Person.id == n)
    ),
    lambda n: (
        sa.select(Person.id)
        .join(_OTHER, _OTHER.city == Person.city)
        .where(Person.id == n, _OTHER.points == n % 997)
    ),
    lambda n: sa.select(func.count()).select_from(Person).where(Person.id < n % 500),
]


@dataclass(frozen=True)
class Interference:
    """What one kind of statements did to the busy thread.

    `rate` are inspections in a second, `per_second` the busy thread's statements without them,
    `loss` the share of these that is lost in a window beside one without inspections; `slowest_ms`
    is what the slowest statement in a thousand takes without and with them. `own_ms` is what
    PlanWatch's thread takes for an inspection, and `processor_ms` how much of it it computes.
    """

    driver: str
    kind: str
    rate: float
    per_second: float
    loss: Estimate
    slowest_ms: tuple[float, float]
    own_ms: float
    processor_ms: float

    def goals(self) -> Iterator[Goal]:
        """Compare it with what it may be."""
        where = f"{self.driver}, {self.rate:.0f} inspections/s of {self.kind}"
        yield Goal(f"throughput lost: {where}", 100 * self.loss.value, 100 * MAX_LOSS, "%")
        without, with_them = self.slowest_ms
        yield Goal(f"p99.9 slower: {where}", with_them - without, MAX_SLOWER, "ms")

    def __str__(self) -> str:
        low, high = 100 * self.loss.low, 100 * self.loss.high
        without, with_them = self.slowest_ms
        return (
            f"{self.driver}, {self.kind}: {self.rate:.1f} inspections/s of {self.own_ms:.1f} ms, "
            f"{self.processor_ms:.1f} ms of them computing; "
            f"{self.per_second:.0f} lookups/s, {100 * self.loss.value:+.1f}% lost "
            f"({low:+.1f} … {high:+.1f}); p99.9 {without:.2f} ms without, {with_them:.2f} ms with"
        )


def measure(url: sa.URL, driver: str, *, pairs: int, seconds: float) -> Iterator[Interference]:
    """Measure with statements that come again and again, and with ones that never came before.

    `seconds` is the length of a window, and `pairs` how many there are with and without.
    """
    url = url_for(url, driver)
    processor: list[float] = []

    def count(*_: Any, **__: Any) -> None:
        processor.append(thread_time() * 1000)

    for kind, fresh in (("known statements", False), ("new statements", True)):
        with one_processor(), _watched(url) as (feeder, watch, app), _busy(url) as look_up:
            statements = _statements(fresh=fresh)
            if not fresh:
                known = itertools.islice(statements, _LEARNT * len(STATEMENTS))
                first = threading.Thread(
                    target=_feed, args=(feeder, known), kwargs={"inspected": True}
                )
                first.start()
                first.join()
                watch.flush(_PATIENCE, app)
            statement_inspected.connect(count, app)
            feed = partial(_feed, feeder, finish=partial(watch.flush, _PATIENCE, app))
            before = watch.stats(app)
            processor.clear()
            times: dict[bool, list[float]] = {False: [], True: []}
            losses = []
            for pair in range(pairs):
                rates = {}
                # Neither is always the first.
                for inspected in (False, True) if pair % 2 else (True, False):
                    window = _window(look_up, feed, statements, seconds, inspected=inspected)
                    times[inspected] += window
                    rates[inspected] = len(window) / sum(window)
                losses.append(1 - rates[True] / rates[False])
            after = watch.stats(app)
            inspections = after["inspected"] - before["inspected"]
            yield Interference(
                driver=driver,
                kind=kind,
                rate=1000 * inspections / sum(times[True]),
                per_second=1000 * len(times[False]) / sum(times[False]),
                loss=median_of(losses),
                slowest_ms=(
                    quantile(sorted(times[False]), _SLOWEST),
                    quantile(sorted(times[True]), _SLOWEST),
                ),
                own_ms=(after["own_ms"] - before["own_ms"]) / max(1, inspections),
                # A receiver runs on PlanWatch's thread.
                processor_ms=(processor[-1] - processor[0]) / max(1, len(processor) - 1),
            )


def seconds_to_log(url: sa.URL, driver: str, times: int) -> list[float]:
    """Return the seconds from the first executions of bad statements to their log lines.

    PlanWatch has its default settings, and the busy thread is busy.
    """
    url = url_for(url, driver)
    logged = threading.Event()

    class Listen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if hasattr(record, "planwatch_rule"):
                logged.set()

    logger, handler = logging.getLogger("flask_planwatch"), Listen()
    app = Flask("log")
    watch = PlanWatch(app)
    engine = sa.create_engine(url)
    watch.watch(engine, app)
    stop = threading.Event()
    taken = []
    with _busy(url) as look_up, _only_handler(logger, handler):
        busy = threading.Thread(target=lambda: all(look_up() for _ in iter(stop.is_set, True)))
        busy.start()
        try:
            for number in range(times):
                logged.clear()
                statement = _renamed(STATEMENTS[number % 2](number), number)
                started = perf_counter()
                with engine.connect() as connection:
                    connection.execute(statement).all()
                if not logged.wait(_PATIENCE):
                    raise RuntimeError(f"PlanWatch did not report a bad statement: {statement}")
                taken.append(perf_counter() - started)
                watch.flush(_PATIENCE, app)
        finally:
            stop.set()
            busy.join()
            watch.unwatch(engine, app)
            engine.dispose()
    return taken


def log_goal(driver: str, taken: list[float]) -> Goal:
    """Compare the longest of them with what it may be."""
    return Goal(f"a bad statement's log line: {driver}, slowest", max(taken), MAX_SECONDS, "s")


@contextmanager
def _watched(url: sa.URL) -> Iterator[tuple[Engine, PlanWatch, Flask]]:
    """Give an engine of which each execution is inspected."""
    app = Flask("feeder")
    app.config.update(PLANWATCH_SAMPLE_INTERVAL=1e-9, PLANWATCH_INSPECTIONS_PER_MINUTE=_PER_MINUTE)
    watch, engine = PlanWatch(app), sa.create_engine(url)
    watch.watch(engine, app)
    with _only_handler(logging.getLogger("flask_planwatch"), logging.NullHandler()):
        yield engine, watch, app
    watch.unwatch(engine, app)
    engine.dispose()


@contextmanager
def _busy(url: sa.URL) -> Iterator[Callable[[], object]]:
    """Give a lookup through a watched engine that is not sampled."""
    engine = planwatch(Flask("busy"), url).engine
    join(engine)
    numbers = itertools.cycle(range(1, PEOPLE + 1))
    with orm_new(engine) as run:
        yield lambda: run(next(numbers))
    engine.dispose()


@contextmanager
def _only_handler(logger: logging.Logger, handler: logging.Handler) -> Iterator[None]:
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def _statements(*, fresh: bool) -> Iterator[Any]:
    for number in itertools.count():
        statement = STATEMENTS[number % len(STATEMENTS)](number)
        yield _renamed(statement, number) if fresh else statement


def _renamed(statement: Any, number: int) -> Any:
    """Return the statement with a text that did not come before."""
    return statement.add_columns(sa.literal_column("1").label(f"column_{number}"))


def _window(
    look_up: Callable[[], object],
    feed: Callable[..., None],
    statements: Iterator[Any],
    seconds: float,
    *,
    inspected: bool,
) -> list[float]:
    """Return the ms of each lookup while statements are executed by another thread.

    It goes on until what was captured in `seconds` is inspected.
    """
    stop = threading.Event()
    feeder = threading.Thread(target=feed, args=(statements, stop), kwargs={"inspected": inspected})
    feeder.start()
    taken = []
    started = ended = perf_counter()
    while feeder.is_alive():
        before = ended
        look_up()
        ended = perf_counter()
        taken.append((ended - before) * 1000)
        if ended - started >= seconds:
            stop.set()
    feeder.join()
    return taken


def _feed(
    engine: Engine,
    statements: Iterator[Any],
    stop: threading.Event | None = None,
    *,
    inspected: bool,
    finish: Callable[[], object] = lambda: None,
) -> None:
    """Execute statements at their rate until told to stop, then finish."""
    leave()
    stop = stop or threading.Event()
    # Else each window would begin with one.
    due = perf_counter() + random.random() / RATE
    stop.wait(due - perf_counter())
    for statement in statements:
        with engine.connect().execution_options(planwatch=inspected) as connection:
            connection.execute(statement).all()
        due += 1 / RATE
        if stop.wait(max(0.0, due - perf_counter())):
            break
    finish()

"""What is executed: four ways in which an application runs one cheap statement."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from statistics import median
from time import perf_counter_ns, thread_time_ns
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from flask_planwatch.worker import QUEUE_LIMIT

from .server import Person

#: Statements before the clock starts in each block: another process has used the processor and its
#: caches, and psycopg 3 prepares a statement at its sixth execution.
WARM_UP = 50

#: Statements of a block that are measured, at most: none of those that are sampled may be dropped,
#: and one more is held by PlanWatch's thread.
MAX_STATEMENTS = QUEUE_LIMIT - 1 - WARM_UP

_BY_KEY = sa.select(Person.__table__).where(Person.__table__.c.id == sa.bindparam("number"))

Runner = Callable[[int], object]
Workload = Callable[[Engine], AbstractContextManager[Runner]]


class Timing(NamedTuple):
    """µs for one statement: on the clock, and of processor time of the application's thread.

    What a server does is on the clock only. Other programs disturb the processor time less.
    """

    elapsed: float
    thread: float


@contextmanager
def orm_new(engine: Engine) -> Iterator[Runner]:
    """A lookup by primary key in a Session of its own."""

    def run(number: int) -> object:
        with Session(engine) as session:
            return session.get(Person, number)

    yield run


@contextmanager
def orm_open(engine: Engine) -> Iterator[Runner]:
    """A lookup by primary key in a Session that is open."""
    with Session(engine) as session:
        yield lambda number: session.get(Person, number, populate_existing=True)


@contextmanager
def core_new(engine: Engine) -> Iterator[Runner]:
    """A SELECT of one row on a Connection of its own."""

    def run(number: int) -> object:
        with engine.connect() as connection:
            return connection.execute(_BY_KEY, {"number": number}).one()

    yield run


@contextmanager
def core_open(engine: Engine) -> Iterator[Runner]:
    """A SELECT of one row on a Connection that is open."""
    with engine.connect() as connection:
        yield lambda number: connection.execute(_BY_KEY, {"number": number}).one()


WORKLOADS: dict[str, Workload] = {
    "ORM, new Session": orm_new,
    "ORM, open Session": orm_open,
    "Core, new Connection": core_new,
    "Core, open Connection": core_open,
}


def run_block(engine: Engine, workload: str, statements: int) -> Timing:
    """Run some statements, and return the medians of what they took."""
    elapsed, thread = [], []
    with WORKLOADS[workload](engine) as run:
        for number in range(1, WARM_UP + 1):
            run(number)
        for number in range(1, statements + 1):
            thread_started, started = thread_time_ns(), perf_counter_ns()
            run(number)
            ended, thread_ended = perf_counter_ns(), thread_time_ns()
            elapsed.append((ended - started) / 1000)
            thread.append((thread_ended - thread_started) / 1000)
    return Timing(median(elapsed), median(thread))

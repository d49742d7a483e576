"""Whatever a statement compares, no value of it is in a log record, signal, counter or error."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Iterator
from enum import Enum
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flask_planwatch.finding import Advice, AdviceKind
from flask_planwatch.signals import finding_detected, finding_resolved, statement_inspected

from .any_statement import FILL, MARKS, VALUES, AnyStatement, metadata, sample
from .cases import first

pytestmark = pytest.mark.slow

#: The ways to run the statements, with the settings that bear on what is found and said.
VARIANTS = {
    "defaults, psycopg2": ("psycopg2", False, {}),
    "defaults, psycopg": ("psycopg", False, {}),
    "debug and build, psycopg": ("psycopg", True, {"PLANWATCH_VERIFY": "build"}),
    "analyze, psycopg2": ("psycopg2", False, {"PLANWATCH_ANALYZE": True, "PLANWATCH_GROWTH": True}),
}

#: So that each statement is inspected and all is said of it; no value is shown for any of these.
TALKATIVE = {"PLANWATCH_INSPECTIONS_PER_MINUTE": 1e9, "PLANWATCH_LOG_INTERVAL": 0}


@pytest.fixture(scope="module")
def samples(each_story):
    """The story's database, with a table that has a column of each type."""
    engine = sa.create_engine(each_story.url, poolclass=sa.NullPool)
    metadata.create_all(engine)
    each_story.execute(*FILL)
    return each_story


class Everything(logging.Handler):
    """Collects what leaves an app: log records, signals, counters and findings."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        # With its logger at DEBUG, SQLAlchemy logs the values that the app runs.
        if record.name.startswith("sqlalchemy") and record.threadName != "flask-planwatch":
            return
        self.said += [record.getMessage(), logging.Formatter().format(record)]
        self.said += texts(record.__dict__)

    def receive(self, sender: Any, **what: Any) -> None:
        self.said += [*texts(what), repr(what)]


def texts(what: Any) -> Iterator[str]:
    """Yield all that can be read in an object, to its last field."""
    waiting = [what]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Advice):
            waiting += [one.as_dict(), repr(one), *public_parts(one)]
        elif dataclasses.is_dataclass(one):
            waiting += [getattr(one, field.name) for field in dataclasses.fields(one)]
            waiting += [one.as_text()] if hasattr(one, "as_text") else []
            if type(one).__module__ == Advice.__module__:
                waiting += [getattr(one, name) for name in properties(type(one))]
        elif isinstance(one, dict):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple | set | frozenset):
            waiting += one
        elif isinstance(one, Enum):
            yield str(one)
        else:
            yield str(one)
            yield repr(one)


def properties(kind: type) -> Iterator[str]:
    """Yield the names of what a class makes of its fields, so that a new one is not forgotten."""
    for name, value in vars(kind).items():
        if isinstance(value, property | functools.cached_property):
            yield name


def public_parts(advice: Advice) -> Iterator[Any]:
    """Yield the fields of an advice, but not the DDL of a partial index, which needs its value."""
    real = {"ddl", "sqlalchemy", "alembic", "migration", "public"}
    partial = advice.kind is AdviceKind.CREATE_INDEX and advice.public is not None
    for field in dataclasses.fields(advice):
        if not (partial and field.name in real):
            yield getattr(advice, field.name)


def marks_in(said: list[str]) -> list[str]:
    """Return where a mark stands, with what is around it."""
    found = []
    for text in dict.fromkeys(said):
        low = text.lower()
        for mark in MARKS:
            if mark in low:
                at = low.index(mark)
                found.append(f"{mark!r} in {text[max(0, at - 300) : at + 100]!r}")
    return found


def run(watch: Any, url: str, seed: int, *, debug: bool, **config: Any) -> tuple[list[str], Any]:
    """Run both forms of a statement on one line, and return what left the app, and its findings."""
    everything = Everything()
    root = logging.getLogger()
    level = root.level
    root.addHandler(everything)
    root.setLevel(logging.DEBUG)
    watched = watch(url, **TALKATIVE | config)
    watched.app.debug = debug
    try:
        for signal in (finding_detected, finding_resolved, statement_inspected):
            signal.connect(everything.receive, watched.app)
        for second in (False, True):
            step = AnyStatement(Random(seed), second=second).step()
            with watched.app.app_context():
                try:
                    step.run(watched.db.session)
                    everything.said += ["ran"]
                except sa.exc.SQLAlchemyError as error:
                    everything.said += [type(error).__name__]
                watched.db.session.rollback()
            assert watched.planwatch.flush(120)
        everything.said += [*texts(watched.planwatch.stats()), repr(watched.planwatch.findings())]
        everything.said += texts(watched.planwatch.findings())
    finally:
        root.removeHandler(everything)
        root.setLevel(level)
        with watched.app.app_context():
            watched.db.session.remove()
            for engine in watched.db.engines.values():
                watched.planwatch.unwatch(engine)
                engine.dispose()
    return everything.said, watched.planwatch


@pytest.mark.parametrize("variant", first(1, VARIANTS))
@given(seed=st.integers(0, 2**32))
@settings(
    deadline=None,
    max_examples=15,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_no_compared_value_leaves(variant: str, samples: Any, watch: Any, seed: int) -> None:
    driver, debug, config = VARIANTS[variant]
    said, planwatch = run(watch, samples.url_for(driver), seed, debug=debug, **config)
    assert planwatch.stats()["errors"] == 0
    assert not marks_in(said), str(AnyStatement(Random(seed)).step().statement)


def test_the_statements_are_worth_it(samples, watch):
    """Their marks would be found, and they are of all kinds."""
    shown, rules, skips = 0, set(), set()
    for seed in range(30):
        said, planwatch = run(watch, samples.url, seed, debug=False, PLANWATCH_SHOW_PARAMETERS=True)
        shown += bool(marks_in(said))
        rules |= {finding.rule for finding in planwatch.findings()}
        skips |= set(planwatch.stats()["skipped"])
    assert shown > 15
    assert len(rules) >= 3
    assert skips


@pytest.mark.parametrize("name", VALUES)
def test_the_value_of_each_column_bears_a_mark(samples, name):
    """Both in the app and as the server prints it."""
    engine = sa.create_engine(samples.url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        for seed in range(20):
            value, column = VALUES[name](Random(seed)), sample.c[name]
            typed = sa.cast(sa.literal(value, column.type), sa.Text)
            printed = connection.execute(sa.select(typed)).scalar()
            assert marks_in([repr(value)]), value
            assert marks_in([printed]), printed

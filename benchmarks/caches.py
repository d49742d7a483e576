"""What does each cache save of an inspection?

Inspects a statement whose plan is good and one whose plan is bad: with all caches, without each
one in turn, and without any. Each figure is ms of processor time of PlanWatch's thread, the
server's work not counted: the least of several rounds, in which all variants take turns.

`first` is the first inspection of all. `again` is one with other values, for which an earlier
result holds. `anew` is one for which none holds, as after the time that a result is kept.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import cached_property, lru_cache
from statistics import median
from time import thread_time
from typing import Any, NamedTuple
from unittest.mock import patch

import sqlalchemy as sa
from flask import Flask

from flask_planwatch import PlanWatch
from flask_planwatch.capture.execution import Capture
from flask_planwatch.inspection import known
from flask_planwatch.inspection.cache import ResultCache
from flask_planwatch.inspection.calibration import CostCalibration
from flask_planwatch.inspection.inspector import Inspector
from flask_planwatch.plan import memory, predicate, schema, tree
from flask_planwatch.runtime import pause
from flask_planwatch.runtime.bounded import LEARNT, RecentlyUsed
from flask_planwatch.server.catalog import Catalog
from flask_planwatch.server.connecting import bytecode
from flask_planwatch.server.session import Session
from flask_planwatch.settings import read_settings
from flask_planwatch.statement import fingerprint

from .report import table
from .server import Person, database, url_for

#: Inspections before those that are measured: a value is known by the second one, and a time is
#: believed from the third one on.
_KNOWN_AFTER = 3

#: How each statement is inspected: at each execution, and never for a single slow one.
_CONFIG = {
    "PLANWATCH_SAMPLE_INTERVAL": 0,
    "PLANWATCH_SLOW_STATEMENT_MS": 1e9,
    "PLANWATCH_INSPECTIONS_PER_MINUTE": None,
    "PLANWATCH_STATEMENT_TIMEOUT_MS": 60_000,
    "PLANWATCH_LOCK_TIMEOUT_MS": 60_000,
}


def good(number: int) -> sa.Executable:
    """One row by the key."""
    return sa.select(Person.id, Person.email).where(Person.id == number + 1)


def bad(number: int) -> sa.Executable:
    """One row by an expression that has no index."""
    email = f"person{number + 1}@example.org"
    return sa.select(Person.id).where(sa.func.lower(Person.email) == email)


STATEMENTS = {"good": good, "bad": bad}


class Times(NamedTuple):
    """The ms of an inspection: the first, one for which a result holds, and one judged anew."""

    first: float
    again: float
    anew: float


class _Forgetful(RecentlyUsed[Any, Any]):
    """Keeps nothing."""

    def keep(self, key: Any, value: Any, size: int | None = None) -> None:
        """Drop the value."""


class _Nothing(dict[Any, Any]):
    """Keeps nothing that `setdefault` would."""

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """Return the default."""
        return default


#: Makes an inspection go without a cache, which belongs to the package or to the inspector.
Without = Callable[[ExitStack, Inspector], None]


def _function(*functions: Any) -> Without:
    """Call functions that remember their results as if they did not, wherever they are imported."""

    def without(stack: ExitStack, inspector: Inspector) -> None:
        for module in _modules():
            for name, value in list(vars(module).items()):
                if any(value is function for function in functions):
                    stack.enter_context(patch.object(module, name, value.__wrapped__))

    return without


def _functions_of_plans(stack: ExitStack, inspector: Inspector) -> None:
    """Call what is kept for a plan as if it were not."""
    kept = [forget.__self__ for forget in memory._FORGET]  # type: ignore[attr-defined]
    _function(*kept)(stack, inspector)


def _properties(stack: ExitStack, inspector: Inspector) -> None:
    """Work out the derived values of plans, conditions and tables each time."""
    for module in (tree, predicate, schema):
        for kind in vars(module).values():
            if isinstance(kind, type):
                for name, value in list(vars(kind).items()):
                    if isinstance(value, cached_property):
                        stack.enter_context(patch.object(kind, name, property(value.func)))


def _mapping(owner: Callable[[Inspector], Any], name: str) -> Without:
    """Keep nothing in a mapping of the inspector."""

    def without(stack: ExitStack, inspector: Inspector) -> None:
        stack.enter_context(patch.object(owner(inspector), name, _Forgetful(LEARNT)))

    return without


def _module_mapping(module: Any, name: str) -> Without:
    """Keep nothing in a mapping of a module."""

    def without(stack: ExitStack, inspector: Inspector) -> None:
        stack.enter_context(patch.object(module, name, _Nothing()))

    return without


def _results(stack: ExitStack, inspector: Inspector) -> None:
    """Make no key, under which a result would be kept."""
    stack.enter_context(patch.object(known, "result_key", lambda *_: None))


def _connection(stack: ExitStack, inspector: Inspector) -> None:
    """Close PlanWatch's connection after each inspection."""
    inspect = inspector.inspect

    def inspect_and_close(capture: Capture) -> Any:
        try:
            return inspect(capture)
        finally:
            inspector.session.close()

    stack.enter_context(patch.object(inspector, "inspect", inspect_and_close))


#: A function that remembers its results.
_Remembering = type(lru_cache(lambda: None))


def _beyond_an_inspection(*functions: Any) -> Without:
    """Forget the results of functions after each inspection."""

    def without(stack: ExitStack, inspector: Inspector) -> None:
        inspect = inspector.inspect

        def inspect_and_forget(capture: Capture) -> Any:
            try:
                return inspect(capture)
            finally:
                for function in functions:
                    _forget(function)

        stack.enter_context(patch.object(inspector, "inspect", inspect_and_forget))

    return without


def _catalog(inspector: Inspector) -> Catalog:
    return inspector.knowledge.catalog


#: What is remembered, and how to do without it.
CACHES: Mapping[str, Without] = {
    "PlanWatch's connection (server/session)": _connection,
    "results of inspections (inspection/cache)": _results,
    "advice on a plan (fixes/answers)": _mapping(lambda one: one.answers, "_known"),
    "relations of a plan, for a minute (server/catalog)": _mapping(_catalog, "_schemas"),
    "columns and indexes (server/catalog)": _mapping(_catalog, "_known"),
    "names of tables (server/agreement)": _mapping(lambda one: one.planner.agreement, "_names"),
    "what listeners do (server/connecting/bytecode)": _module_mapping(bytecode, "_found"),
    "texts of statements (statement/fingerprint)": _function(fingerprint._read),
    "conditions (plan/predicate.conjuncts)": _function(predicate.conjuncts),
    "tokens (plan/predicate.tokenize)": _function(predicate.tokenize),
    "structures (plan/predicate.parse)": _function(predicate.parse),
    "all three, beyond one inspection": _beyond_an_inspection(
        predicate.conjuncts, predicate.tokenize, predicate.parse
    ),
    "functions of a plan (plan/memory)": _functions_of_plans,
    "derived values of a plan (cached_property)": _properties,
}

ALL, NONE = "all", "none"


def _modules() -> list[Any]:
    return [module for name, module in sys.modules.items() if name.startswith("flask_planwatch.")]


def forget_all() -> None:
    """Forget what is remembered for the whole process, as if it had just begun."""
    for module in _modules():
        for value in list(vars(module).values()):
            if isinstance(value, memory.Memory):
                _forget(value)
            # One without a bound is not of statements, but of the process, as is its version.
            elif isinstance(value, _Remembering) and value.cache_parameters()["maxsize"]:
                value.cache_clear()
    bytecode._found.clear()


def _forget(function: memory.Memory[Any]) -> None:
    for kept in vars(function).values():
        if hasattr(kept, "clear"):
            kept.clear()


def _count(connection: Any, cursor: Any, statement: str, *others: Any) -> None:
    """Count statements as a listener of the application's does."""
    connection.info["statements"] = connection.info.get("statements", 0) + 1


class Measured:
    """Captures of each statement, and the ms that an inspection of them takes."""

    def __init__(self, url: sa.URL, repeated: int) -> None:
        self._app = Flask(__name__)
        self._app.config.update(_CONFIG)
        self._engine = sa.create_engine(url)
        # Most applications have a listener, of which PlanWatch reads what it does.
        sa.event.listen(self._engine, "before_cursor_execute", _count)
        planwatch = PlanWatch(self._app)
        planwatch.watch(self._engine)
        self._watcher = self._app.extensions["planwatch"]
        self._captures = {name: self._run(name, _KNOWN_AFTER + repeated) for name in STATEMENTS}

    def _run(self, name: str, count: int) -> list[Capture]:
        """Execute a statement so often, and return the captures without inspecting them."""
        captures: list[Capture] = []
        watched = self._watcher._engines[self._engine]
        with patch.object(watched, "submit", captures.append), self._engine.connect() as connection:
            for number in range(count):
                connection.execute(STATEMENTS[name](number)).all()
        # By the times of the first one, all of them are alike, whatever else the machine did.
        took = median(capture.duration_ms for capture in captures)
        return [capture._replace(duration_ms=took, urgent=False) for capture in captures]

    def ms(self, name: str, caches: Sequence[str]) -> Times:
        """Return the ms of each kind of inspection, without some caches."""
        with self._inspector(caches, interval=1e-9) as inspector:
            again = [_ms(inspector, capture) for capture in self._captures[name]]
        with self._inspector(caches, interval=0) as inspector, _nothing_holds():
            anew = [_ms(inspector, capture) for capture in self._captures[name]]
        return Times(min(again[0], anew[0]), min(again[_KNOWN_AFTER:]), min(anew[_KNOWN_AFTER:]))

    @contextmanager
    def _inspector(self, without: Sequence[str], interval: float) -> Iterator[Inspector]:
        """Yield an inspector that knows nothing yet, without some caches."""
        forget_all()
        config = {**self._app.config, "PLANWATCH_SAMPLE_INTERVAL": interval}
        settings = read_settings(config, debug=False, testing=False)
        session = Session(
            self._engine,
            url=None,
            statement_timeout_ms=settings.statement_timeout_ms,
            lock_timeout_ms=settings.lock_timeout_ms,
        )
        mapped = self._watcher.mapped_table
        inspector = Inspector(settings, session, CostCalibration(), mapped, lambda: True)
        with ExitStack() as stack:
            # Pauses would have it share the processor's caches with whatever else runs.
            stack.enter_context(patch.object(pause, "rest", lambda seconds: None))
            for cache in without:
                CACHES[cache](stack, inspector)
            try:
                yield inspector
            finally:
                session.close()


def _ms(inspector: Inspector, capture: Capture) -> float:
    started = thread_time()
    outcome = inspector.inspect(capture)
    taken = (thread_time() - started) * 1000
    assert outcome.inspection.skip is None, outcome.inspection.skip
    return taken


def _nothing_holds() -> AbstractContextManager[Any]:
    """Let no earlier result hold, though it is remembered."""
    return patch.object(ResultCache, "find", lambda *_: None)


#: The times by the statement, and by what is missing.
Figures = dict[str, dict[str, Times]]


def measure(url: sa.URL, *, rounds: int, repeated: int) -> Figures:
    """Return the least time of each kind of inspection.

    An interrupt ends the rounds, and what was measured by then is returned.
    """
    measured = Measured(url, repeated)
    variants: dict[str, Sequence[str]] = {ALL: (), **{one: (one,) for one in CACHES}}
    variants[NONE] = tuple(CACHES)
    least: Figures = {name: {} for name in STATEMENTS}
    for name in STATEMENTS:
        # What the process imports for its first inspection is not counted.
        measured.ms(name, ())
    with suppress(KeyboardInterrupt):
        for _ in range(rounds):
            for variant, without in variants.items():
                for name, found in least.items():
                    taken = measured.ms(name, without)
                    found[variant] = Times(*map(min, taken, found.get(variant, taken)))
    return least


def shown(least: Figures) -> Iterator[str]:
    """Yield a table: the ms with all caches, what each one saves, and the ms without any."""
    rows = [["ms", *(f"{name}, {time}" for name in STATEMENTS for time in Times._fields)]]
    for variant in (ALL, *CACHES, NONE):
        cells = []
        for found in least.values():
            for with_all, taken in zip(found[ALL], found[variant], strict=True):
                saved = taken - with_all
                share = f"{saved:+.2f} {saved / with_all:+5.0%}"
                cells.append(share if variant in CACHES else f"{taken:.2f}")
        rows.append([variant if variant in CACHES else f"{variant} of them", *cells])
    return iter(table(rows))


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--driver", choices=("psycopg2", "psycopg"), default="psycopg2")
    parser.add_argument("--rounds", type=int, default=8, help="the least of them counts")
    parser.add_argument("--repeated", type=int, default=20, help="inspections in each round")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    given = parser.parse_args()
    with database() as url:
        _install_hypopg(url)
        least = measure(url_for(url, given.driver), rounds=given.rounds, repeated=given.repeated)
    print(json.dumps(least) if given.json else "\n".join(shown(least)))


def _install_hypopg(url: sa.URL) -> None:
    """Let advice be tried, where the server has the extension: that is most of what it takes."""
    engine = sa.create_engine(url_for(url, "psycopg"), poolclass=sa.NullPool)
    with engine.begin() as connection:
        query = "SELECT 1 FROM pg_available_extensions WHERE name = 'hypopg'"
        if connection.exec_driver_sql(query).scalar():
            connection.exec_driver_sql("CREATE EXTENSION hypopg")


if __name__ == "__main__":
    main()

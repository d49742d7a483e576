"""What exists once for each app: its watched engines, its worker and its reporters."""

from __future__ import annotations

import logging
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from flask import Flask, current_app, has_app_context
from sqlalchemy.engine import Engine

from . import signals
from .capture.execution import Capture
from .capture.location import raised_at
from .capture.sampling import Sampler, renew_budgets
from .failure import ServerError
from .finding import Inspection, SkipReason
from .indexes.mapped import MappedTable
from .inspection.calibration import CostCalibration
from .inspection.mapping import Mappings
from .loading import load
from .plan.wording import Template, say
from .report.log import LogReporter
from .report.start import (
    DEFAULT,
    NEEDED,
    Server,
    engine_name,
    introduction,
    late_settings,
    other_databases,
    other_servers,
    place_of,
    unused_urls,
)
from .report.store import Store
from .report.telemetry import SpanReporter
from .report.toolbar import add_panel
from .runtime.interruption import DRIVERS
from .runtime.pause import give_way
from .settings import Settings, given_in, read_usable
from .watched_engine import WatchedEngine
from .worker import Ticket, Worker, threads_run

if TYPE_CHECKING:
    from .capture.statistics import StatementStatistics
    from .inspection.detail import Preparable
    from .plan.schema import Relation
    from .server.session import Session

EXTENSION = "planwatch"

#: The line at the start of an app that its settings exclude.
OFF = "PlanWatch is off: PLANWATCH_ENABLED is False."

#: Disposals of engines that each came before an inspection, with none between them, until the
#: developer is told: one or two may be a reload or the end of a script.
MAX_DISPOSALS = 3

#: What a developer reads whose application disposes of an engine before each inspection.
DISPOSED = (
    "PlanWatch could not inspect the latest statements: each time, the app disposed of the engine "
    "{name} first. Call dispose() only when the app ends; if each request has an event loop of its "
    "own, create the engine with poolclass=NullPool."
)

#: What a developer reads at the end of a process that left statements uninspected.
_LEFT = (
    "PlanWatch did not inspect {count} {statements}: {why} first. Call planwatch.flush(10) before "
    "that to wait for the inspection."
)
_ENDED = "the process ended"
_GONE = "the engine was disposed of"
_GONE_OR_ENDED = f"{_GONE} or {_ENDED}"

_CAUGHT = "PlanWatch caught {error} at {place}. Others are only counted, in PlanWatch.stats()."

_LEFT_ALONE = "{engine} ({kind}) is left alone: it is not {needed}."
_AN_ENGINE, _ENGINE_OF_BIND = Template("An engine"), Template("The engine of bind {bind}")

#: What an engine is called without a bind and a database, and one that is called as a bind is.
_NAMELESS, _NAMED_AS_BIND, _AT = "engine {number}", "database {name}", "{name} at {place}"

#: Skips that are not logged.
_EXPECTED = frozenset({SkipReason.RECENTLY_INSPECTED, SkipReason.UNWATCHED})


class Watcher:
    """The state of PlanWatch in one app, in `app.extensions["planwatch"]`.

    It keeps neither the app nor an engine alive.
    """

    def __init__(self, app: Flask, settings: Settings) -> None:
        self.store = Store(database_ms=self._database_ms)
        self.calibration = CostCalibration()
        self.worker = Worker(
            close_unused=self._close_unused,
            after_fork=self._after_fork,
            at_exit=self._tell_left,
            is_patient=self._is_developed,
            hold=lambda: (self._app(), list(self._engines)),
        )
        self.has_panel = False
        self._app = weakref.ref(app)
        #: The modes of the app when it was last looked at: one made by a factory may be gone before
        #: its last statements are inspected.
        self._debug, self._testing = app.debug, app.testing
        self._settings_at_start = settings
        self._log = LogReporter(
            settings.log_interval,
            self._is_debugged,
            active=self.store.__len__,
            saves_much=self.store.saves_much,
        )
        self._spans = SpanReporter(settings.log_interval)
        self._mappings = Mappings()
        #: Also those that are not watched any more: their hooks stay attached.
        self._engines: WeakKeyDictionary[Engine, WatchedEngine] = WeakKeyDictionary()
        self._lock = threading.RLock()
        self._settings: Settings | None = None
        self._sampler: Sampler | None = None
        #: The disposals that came before an inspection, since the latest one that did not.
        self._too_late: set[int] = set()
        #: The dialects of the engines that are not watched, by the engine's name.
        self._left_alone: dict[str, str] = {}
        #: The bind keys of Flask-SQLAlchemy, watched or not.
        self._binds: set[str | None] = set()
        #: Whether there are engines that the line at the start has not named yet.
        self._has_new_engines = True
        #: Whether there ever was one: all may be gone when a short script is inspected.
        self._had_engines = False
        #: The settings that were checked last.
        self._given = given_in(app.config)
        #: What is wrong with the settings, a sentence each, by the function that looked for it.
        self._problems: dict[Callable[..., list[str]], list[str]] = {}
        self._start_counting()

    def _start_counting(self) -> None:
        self._inspected = 0
        self._errors = self._log.errors = 0
        #: The statements since the latest inspection whose engine was gone before theirs.
        self.missed = 0
        self._own_ms = 0.0
        self._skipped: Counter[SkipReason] = Counter()

    @property
    def name(self) -> str:
        """The name of the app, empty once it is gone."""
        app = self._app()
        return "" if app is None else app.name

    @property
    def is_enabled(self) -> bool:
        """Whether PlanWatch does anything: PLANWATCH_ENABLED at init_app."""
        return self._settings_at_start.enabled

    @property
    def settings(self) -> Settings:
        """The settings, resolved at first use: the debug mode may come after init_app."""
        if self._settings is None:
            app = self._app()
            if app is None:
                return self._settings_at_start
            # PlanWatch's thread warns of those that came after init_app.
            self._settings, _ = read_usable(app.config, debug=app.debug, testing=app.testing)
        return self._settings

    @property
    def sampler(self) -> Sampler:
        """The sampler of all engines of the app."""
        if self._sampler is None:
            with self._lock:
                self._look_at_modes()
                self._sampler = self._sampler or Sampler(self.settings)
        return self._sampler

    def attach(self) -> None:
        """Join the toolbar, and listen to the engines that Flask-SQLAlchemy or its Lite has by now.

        If PlanWatch is off, its panel says so.
        """
        app = self._app()
        if app is None:
            return
        self.has_panel = self.has_panel or add_panel(app)
        if not self.is_enabled:
            return
        for watched in list(self._engines.values()):
            watched.watch.has_panel = self.has_panel
        database = app.extensions.get("sqlalchemy")
        if database is None or not hasattr(type(database), "engines"):
            return
        if has_app_context() and current_app == app:
            engines = list(_engines_of(database))
        else:
            with app.app_context():
                engines = list(_engines_of(database))
        known = getattr(getattr(database, "Model", None), "registry", None)
        if known is not None:
            metadatas = getattr(database, "metadatas", {})
            self._mappings.learn_registry(known, metadatas.get(None))
        # Flask-SQLAlchemy-Lite, which has no metadata, gives the default engine a key.
        is_lite = not hasattr(database, "metadatas")
        for key, engine, prefix in engines:
            bind = None if is_lite and key == DEFAULT else key
            self._binds.update((key, bind))
            # An engine that was unwatched stays so until watch() is called for it.
            if engine not in self._engines:
                given = self._settings_at_start
                url = given.database_url_for(bind) or given.database_url_for(key)
                self._watch(engine, f"{prefix}{engine_name(bind)}", bind, url)

    @property
    def introduction(self) -> str:
        """What is watched, in one line, as far as it is known."""
        if not self.is_enabled:
            return OFF
        servers = [
            watched.server or Server(watched.name, watched.driver, None)
            for watched in self._watched()
        ]
        return introduction(
            servers,
            dict(self._left_alone),
            self.settings.verify,
        )

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with the settings, a sentence each."""
        return tuple(problem for found in list(self._problems.values()) for problem in found)

    @property
    def watches_nothing(self) -> bool:
        """Whether no engine is watched."""
        return not self._watched()

    def _watched(self) -> list[WatchedEngine]:
        """Return the engines that are watched, the default one first."""
        active = [watched for watched in list(self._engines.values()) if watched.watch.active]
        return sorted(active, key=lambda watched: watched.name != DEFAULT)

    def begin(self) -> None:
        """Log what is watched, and which settings have no effect, once; on PlanWatch's thread."""
        try:
            # Without an engine nothing is inspected, and a short process has no time to lose.
            if self._had_engines:
                load()
            self._tell_settings()
            if self._has_new_engines:
                self._has_new_engines = False
                self._introduce()
        except Exception as error:  # noqa: BLE001 - it must not keep a statement from inspection
            self.failed(error)

    def begin_soon(self) -> None:
        """Have `begin` run by PlanWatch's thread, unless there is nothing to log."""
        given = self._settings_at_start
        checked = self.is_enabled and (given.ignore or given.database_url)
        if self._is_debugged() or checked or self._settings_changed():
            self.worker.run(self._begin)

    def say_off(self) -> None:
        """Log that PlanWatch is off, at once: it does not listen to any request."""
        self._log.log_once(logging.INFO, OFF)

    def begin_without_request(self) -> None:
        """Have `begin` run once a server that Werkzeug reloads is up, before any request."""

        self.worker.run(self._begin_later)

    def _begin(self, ticket: Ticket, last_try: bool) -> bool:
        self.begin()
        return True

    def _begin_later(self, ticket: Ticket, last_try: bool) -> bool:
        # The first try is at once, and the second when the app has been set up.
        if last_try and self._is_debugged():
            with suppress(Exception):
                self.attach()
            self.begin()
        return last_try

    def _is_debugged(self) -> bool:
        self._look_at_modes()
        return self._debug

    def _is_developed(self) -> bool:
        """Whether a person sees how the process ends; a test suite has its own ways to wait."""
        self._look_at_modes()
        return self._debug and not self._testing

    def _look_at_modes(self) -> None:
        app = self._app()
        if app is not None:
            self._debug, self._testing = app.debug, app.testing

    def _tell_left(self, waiting: int) -> None:
        """Tell a developer, as the process ends, what was not inspected."""
        count = waiting + self.missed
        if count and self._is_developed():
            why = _ENDED if not self.missed else _GONE_OR_ENDED if waiting else _GONE
            statements = "statement" if count == 1 else "statements"
            message = say(_LEFT, count=count, statements=statements, why=why)
            self._log.log_once(logging.WARNING, message)

    def _settings_changed(self) -> bool:
        app = self._app()
        return app is not None and given_in(app.config) != self._given

    def _tell_settings(self) -> None:
        """Warn of wrong settings that came after init_app."""
        app = self._app()
        if app is None or not self._settings_changed():
            return
        self._given = given_in(app.config)
        self._warn(late_settings, app.config, self._settings_at_start, self.settings)

    def _introduce(self) -> None:
        engines = self._watched()
        if self._is_debugged():
            for watched in engines:
                watched.introduce()
            if engines or not self._had_engines:
                self._log.log_once(logging.INFO, self.introduction)
        if not self.is_enabled:
            return
        given, urls = self._settings_at_start, [watched.url for watched in engines]
        self._warn(unused_urls, given, self._binds, urls, self._left_alone)
        own = [watched for watched in engines if watched.url is not None]
        asked = [(watched.name, watched.app_url, watched.session) for watched in own]
        self._warn(other_databases, asked)
        self._warn(other_servers, self._asked_twice(own))
        # It reads expressions by sqlglot, which the application's thread never loads.
        from .report.idle_ignores import idle_ignores

        self._warn(idle_ignores, self.settings, [watched.session for watched in engines])
        for watched in engines:
            watched.close_if_without_pool()

    def _asked_twice(self, engines: list[WatchedEngine]) -> Iterator[tuple[str, Session, Session]]:
        """Yield each engine whose own URL for PlanWatch may lead to another server; see start."""
        for watched in engines:
            try:
                session = watched.connect_as_application()
            except ServerError:
                continue
            if session is not None:
                yield watched.name, watched.session, session
                watched.applications_session = None

    def _warn(self, look: Callable[..., list[str]], *arguments: Any) -> None:
        """Log what a check of the settings found, and keep it until the next such check."""
        self._problems[look] = problems = look(*arguments)
        for problem in problems:
            self._log.log_once(logging.WARNING, problem)

    def watch(self, engine: Any) -> None:
        """Listen to an engine that is not Flask-SQLAlchemy's."""
        nameless = sum(watched.watch.bind is None for watched in self._engines.values())
        # Not the URL: a fingerprint is the same on every machine.
        database = say(_NAMELESS, number=nameless + 1) if nameless else ""
        name = engine.url.database or database or "an engine"
        if name in {DEFAULT, *self._binds}:
            name = say(_NAMED_AS_BIND, name=name)
        place = place_of(engine.url)
        alike = [watched for watched in list(self._engines.values()) if watched.name == name]
        urls = [watched.app_url for watched in alike if watched.app_url is not None]
        if any(place_of(url) != place for url in urls):
            name = say(_AT, name=name, place=place)
        url = self._settings_at_start.database_url_of(engine.url)
        self._watch(engine, name, None, url, database)

    def _watch(
        self, engine: Any, name: str, bind: str | None, url: Any, database: str = ""
    ) -> None:
        """Listen to an engine, unless that happens already or PlanWatch cannot use it.

        `name` is what people call it.
        """
        if not self.is_enabled:
            return
        if not threads_run():
            self._log.log_once(
                logging.WARNING,
                "PlanWatch watches nothing, because uWSGI runs without threads: set its option "
                "enable-threads.",
            )
            return
        # The events of an async engine are those of the engine that it wraps.
        engine = getattr(engine, "sync_engine", engine)
        dialect = engine.dialect
        if dialect.name != "postgresql" or dialect.driver not in DRIVERS:
            kind = f"{dialect.name}+{dialect.driver}"
            self._has_new_engines |= name not in self._left_alone
            self._left_alone[name] = kind
            if not self._is_debugged():
                self._leave_alone(bind, kind)
            return
        with self._lock:
            watched = self._engines.get(engine)
            self._had_engines = True
            if watched is None:
                # An app may make an engine for each request; the line names it once.
                named = {known.name for known in list(self._engines.values())}
                self._has_new_engines |= name not in named
                watched = WatchedEngine(self, engine, name, bind, url, database)
                self._engines[engine] = watched
            if not watched.watch.active:
                watched.start()

    def _leave_alone(self, bind: str | None, kind: str) -> None:
        """Say of an engine that it is not watched; in debug mode the line at the start does."""
        engine = _AN_ENGINE if bind is None else _ENGINE_OF_BIND
        message = say(_LEFT_ALONE, engine=engine, bind=repr(bind), kind=kind, needed=NEEDED)
        self._log.log_once(logging.INFO, message)

    def unwatch(self, engine: Any) -> None:
        """Stop to listen to an engine and close the connection to its database."""
        engine = getattr(engine, "sync_engine", engine)
        watched = self._engines.get(engine)
        if watched is not None:
            watched.stop()

    def clear(self) -> None:
        """Forget the active findings, and what was tried for them."""
        self.store.clear()
        for watched in list(self._engines.values()):
            watched.forget()

    def stats(self) -> dict[str, Any]:
        """Return the counters; PlanWatch.stats describes them."""
        sampler = self._sampler
        return {
            "captured": sampler.captured if sampler else 0,
            "opted_out": sampler.opted_out if sampler else 0,
            "sampled": self.worker.accepted,
            "inspected": self._inspected,
            "dropped": self.worker.dropped,
            "over_budget": sampler.over_budget if sampler else 0,
            "skipped": {str(reason): count for reason, count in self._skipped.items()},
            "errors": self._errors + self._log.errors,
            "findings": len(self.store),
            "waiting": self.worker.waiting,
            "own_ms": round(self._own_ms, 3),
            "worker_alive": self.worker.alive,
        }

    def failed(self, error: BaseException) -> None:
        """Count an exception of PlanWatch's own, or of a receiver, and log it once.

        Only the kind is logged: the message of an exception may hold a value.
        """
        self._errors += 1
        message = say(_CAUGHT, error=type(error).__name__, place=raised_at(error))
        self._log.log_once(logging.WARNING, message)

    def mapped_table(self, capture: Capture, relation: Relation) -> MappedTable | None:
        """Return how the app's code names a relation."""
        engine = (capture.bind, capture.database)
        return self._mappings.find(relation, engine, capture.entities)

    def preparable(self, fingerprint: str) -> Preparable | None:
        """Return how a statement is copied without its values, None if that is not known."""
        forms = [watched.preparable(fingerprint) for watched in list(self._engines.values())]
        return next(filter(None, forms), None)

    def _database_ms(self) -> float:
        """Return the database time that PlanWatch saw in this process, in ms."""
        sampler = self._sampler
        return 0.0 if sampler is None else sampler.total_ms

    def count_skip(self, reason: SkipReason) -> None:
        """Count a capture, or a further plan of one, that could not be obtained."""
        self._skipped[reason] += 1

    def came_in_time(self) -> None:
        """Note that a statement was inspected."""
        self._too_late.clear()
        self.missed = 0

    def came_too_late(self, disposal: int, name: str) -> None:
        """Note that an engine was disposed of before an inspection.

        In debug mode, say so if that happens again and again, or at the end of the process.
        """
        self._too_late.add(disposal)
        if len(self._too_late) >= MAX_DISPOSALS:
            self._too_late.clear()
            self.missed = 0
            if self._is_debugged():
                self._log.log_once(logging.WARNING, DISPOSED.format(name=name))

    def publish(
        self,
        inspection: Inspection,
        span: Any = None,
        statistics: StatementStatistics | None = None,
    ) -> None:
        """Report an inspection to the store, the statement's span, the log and the signals."""
        self._inspected += inspection.skip is None
        skips = [skip for skip in (inspection.skip, *inspection.unanswered) if skip is not None]
        for skip in skips:
            self.count_skip(skip.reason)
        give_way()
        changes = self.store.record(inspection, statistics)
        give_way()
        try:
            # First, as the span may end at any moment.
            self._spans.report(span, changes)
        except Exception as error:  # noqa: BLE001 - an exporter of the app's may raise
            self.failed(error)
        try:
            for skip in skips:
                if skip.reason not in _EXPECTED:
                    self._log.report_skip(skip, inspection.statement.text)
            self._log.report(changes)
        except Exception as error:  # noqa: BLE001 - the signals are sent whatever fails here
            self.failed(error)
        self._send(signals.statement_inspected, inspection=inspection)
        for finding in changes.detected:
            self._send(signals.finding_detected, finding=finding)
        for finding in changes.resolved:
            self._send(signals.finding_resolved, finding=finding)

    def _send(self, signal: Any, **what: Any) -> None:
        """Call the receivers of a signal inside the app's context, which is made only for them."""
        app = self._app()
        if app is None:
            return
        for receiver in signal.receivers_for(app):
            try:
                with app.app_context():
                    receiver(app, **what)
            except BaseException as error:  # noqa: BLE001 - on PlanWatch's thread it ends nothing
                self.failed(error)

    def _close_unused(self, since: float) -> None:
        """Close connections that were not used since then."""
        for watched in list(self._engines.values()):
            if watched.session.held and watched.session.used <= since:
                watched.session.close()

    def _after_fork(self) -> None:
        """Forget, in a forked child, the parent's connections, counters and locks."""
        self._lock = threading.RLock()
        self._sampler = None
        self.store.forget_times()
        self._has_new_engines = True
        self._start_counting()
        self._mappings.renew_lock()
        renew_budgets()
        for watched in list(self._engines.values()):
            watched.after_fork()


def _engines_of(database: Any) -> Iterator[tuple[str | None, Engine, str]]:
    """Yield the engines of Flask-SQLAlchemy or its Lite with their keys.

    Lite may have an async engine of the same key, whose name then has a prefix.
    """
    engines = dict(database.engines)
    for key, engine in engines.items():
        yield key, engine, ""
    for key, engine in dict(getattr(database, "async_engines", {})).items():
        yield key, engine.sync_engine, "async " if key in engines else ""

"""What PlanWatch keeps for one app: the engines it listens to, the worker and the reporters."""

from __future__ import annotations

import logging
import threading
import weakref
from collections import Counter
from contextlib import suppress
from functools import cached_property, partial
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from flask import Flask, current_app, has_app_context
from sqlalchemy.engine import Engine
from sqlalchemy.pool import NullPool

from . import signals
from .advice.mapped import MappedTable
from .advice.proposal import Proposals
from .capture import Capture
from .clock import now
from .describing import inspection_of, statement_of
from .finding import Inspection, Skip, SkipReason
from .hooks import Watch
from .inspection import Inspector, Outcome
from .mapping import Mappings
from .pace import Pace
from .pause import give_way
from .plan.schema import Relation
from .report.log import LogReporter
from .report.store import Store
from .report.telemetry import SpanReporter
from .report.toolbar import add_panel
from .room import LEARNT, Latest
from .sampling import Sampler, renew_budgets
from .server.catalog import Catalog
from .server.refusals import Refusals
from .server.session import DISPOSE_PATIENCE, OwnSession
from .settings import Settings, given_in, read_usable
from .standing import Conclusions
from .start import (
    DEFAULT,
    DRIVERS,
    Server,
    idle_ignores,
    introduce,
    introduction,
    late_settings,
    unused_urls,
)
from .worker import Ticket, Worker, threads_run

EXTENSION = "planwatch"

#: Skips that are no news to anybody.
_EXPECTED = frozenset({SkipReason.RECENTLY_INSPECTED, SkipReason.UNWATCHED})

#: Seconds that a statement that failed is kept for, if the server does not answer: a server that
#: crashed or was failed over is back within minutes.
KEEP_FAILED_SECONDS = 900.0

#: Fingerprints that are remembered between inspections, at so many bytes each.
MAX_FINGERPRINTS = 10_000
INSPECTED_SIZE = 200


class Watcher:
    """The state of PlanWatch in one app, in `app.extensions["planwatch"]`.

    It keeps neither the app nor an engine alive.
    """

    def __init__(self, app: Flask, settings: Settings) -> None:
        self.store = Store()
        self.pace = Pace()
        self.worker = Worker(let_go=self._let_go, abandon=self._abandon)
        self.has_panel = False
        self._app = weakref.ref(app)
        self._settings_at_start = settings
        self._log = LogReporter(settings.log_interval, self.store.statements, self._is_debugged)
        self._spans = SpanReporter(settings.log_interval)
        self._mappings = Mappings()
        #: Also those that are not watched any more: their hooks stay attached.
        self._engines: WeakKeyDictionary[Engine, _WatchedEngine] = WeakKeyDictionary()
        self._lock = threading.RLock()
        self._settings: Settings | None = None
        self._sampler: Sampler | None = None
        #: The dialects of the engines that are not watched, by the engine's name.
        self._left_alone: dict[str, str] = {}
        #: The bind keys of Flask-SQLAlchemy, watched or not.
        self._binds: set[str | None] = set()
        #: Whether the line at the start does not tell of all engines yet.
        self._is_unsaid = True
        #: The settings that were looked at last.
        self._given = given_in(app.config)
        #: What is wrong with the settings, a sentence each.
        self.problems: tuple[str, ...] = ()
        self._start_counting()

    def _start_counting(self) -> None:
        self._inspected = 0
        self._errors = 0
        self._own_ms = 0.0
        self._skipped: Counter[SkipReason] = Counter()

    @property
    def name(self) -> str:
        """The name of the app, empty once it is gone."""
        app = self._app()
        return "" if app is None else app.name

    @property
    def settings(self) -> Settings:
        """The settings, resolved at first use: the debug mode may come after init_app."""
        if self._settings is None:
            app = self._app()
            if app is None:
                return self._settings_at_start
            # What is wrong with those that came after init_app is told on PlanWatch's thread.
            self._settings, _ = read_usable(app.config, debug=app.debug, testing=app.testing)
        return self._settings

    @property
    def sampler(self) -> Sampler:
        """The sampler of all engines of the app."""
        if self._sampler is None:
            with self._lock:
                self._sampler = self._sampler or Sampler(self.settings)
        return self._sampler

    def attach(self) -> None:
        """Listen to the engines that Flask-SQLAlchemy has by now, and join the toolbar."""
        app = self._app()
        if app is None:
            return
        self.has_panel = self.has_panel or add_panel(app)
        for watched in list(self._engines.values()):
            watched.watch.has_panel = self.has_panel
        database = app.extensions.get("sqlalchemy")
        if database is None or not hasattr(type(database), "engines"):
            return
        if has_app_context() and current_app == app:
            engines = dict(database.engines)
        else:
            with app.app_context():
                engines = dict(database.engines)
        known = getattr(getattr(database, "Model", None), "registry", None)
        if known is not None:
            self._mappings.learn_registry(known)
        for bind, engine in engines.items():
            # One that the application does not want watched stays so until it says otherwise.
            self._binds.add(bind)
            if engine not in self._engines:
                name = DEFAULT if bind is None else bind
                url = self._settings_at_start.database_url_for(bind)
                self._watch(engine, name, bind, url)

    @property
    def introduction(self) -> str:
        """What is watched, in one line, as far as it is known."""
        servers = [one.server or Server(one.name, one.driver, None) for one in self._watched()]
        return introduction(
            servers,
            dict(self._left_alone),
            self.settings.verify,
        )

    @property
    def watches_nothing(self) -> bool:
        """Whether no engine is watched."""
        return not self._watched()

    def _watched(self) -> list[_WatchedEngine]:
        """Return the engines that are watched, the default one first."""
        watched = [one for one in list(self._engines.values()) if one.watch.active]
        return sorted(watched, key=lambda one: one.name != DEFAULT)

    def begin(self) -> None:
        """Say what is watched, and which settings have no effect, unless that was said.

        On PlanWatch's thread.
        """
        try:
            self._tell_settings()
            if self._is_unsaid:
                self._is_unsaid = False
                self._introduce()
        except Exception as error:  # noqa: BLE001 - it must not keep a statement from inspection
            self.failed(error)

    def begin_soon(self) -> None:
        """Have `begin` run by PlanWatch's thread, unless there is nothing to say."""
        given = self._settings_at_start
        if self._is_debugged() or given.ignore or given.database_url or self._settings_changed():
            self.worker.run(self._begin)

    def begin_served(self) -> None:
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
        app = self._app()
        return app is not None and app.debug

    def _settings_changed(self) -> bool:
        app = self._app()
        return app is not None and given_in(app.config) != self._given

    def _tell_settings(self) -> None:
        """Say what is wrong with settings that came after init_app, whenever they came."""
        app = self._app()
        if app is None or not self._settings_changed():
            return
        self._given = given_in(app.config)
        self._warn(late_settings(app.config, self._settings_at_start, self.settings))

    def _introduce(self) -> None:
        watched = self._watched()
        if self._is_debugged():
            for one in watched:
                one.introduce()
            self._log.tell_once(logging.INFO, self.introduction)
        urls = [one.url for one in watched]
        self._warn(unused_urls(self._settings_at_start, self._binds, urls))
        self._warn(idle_ignores(self.settings, [one.session for one in watched]))
        for one in watched:
            one.let_go()

    def _warn(self, problems: list[str]) -> None:
        self.problems = tuple(dict.fromkeys([*self.problems, *problems]))
        for problem in problems:
            self._log.tell_once(logging.WARNING, problem)

    def watch(self, engine: Any) -> None:
        """Listen to an engine that is not Flask-SQLAlchemy's."""
        nameless = sum(watched.watch.bind is None for watched in self._engines.values())
        # Not the URL: a fingerprint is the same on every machine.
        database = f"engine {nameless + 1}" if nameless else ""
        name = engine.url.database or database or "an engine"
        url = self._settings_at_start.database_url_of(engine.url)
        self._watch(engine, name, None, url, database)

    def _watch(
        self, engine: Any, name: str, bind: str | None, url: Any, database: str = ""
    ) -> None:
        """Listen to an engine, unless that happens already or PlanWatch cannot use it.

        `name` is what people call it.
        """
        if not self._settings_at_start.enabled:
            return
        if not threads_run():
            self._log.tell_once(
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
            self._is_unsaid |= name not in self._left_alone
            self._left_alone[name] = kind
            if not self._is_debugged():
                self._leave_alone(bind, kind)
            return
        with self._lock:
            watched = self._engines.get(engine)
            if watched is None:
                watched = _WatchedEngine(self, engine, name, bind, url, database)
                self._engines[engine] = watched
                self._is_unsaid = True
            if not watched.watch.active:
                watched.start()

    def _leave_alone(self, bind: str | None, kind: str) -> None:
        """Say of an engine that it is not watched; in debug mode the line at the start does."""
        name = f"The engine of bind {bind!r}" if bind is not None else "An engine"
        try:
            self._log.tell_once(
                logging.INFO,
                f"{name} ({kind}) is left alone: PlanWatch watches PostgreSQL through "
                f"{', '.join(DRIVERS[:-1])} and {DRIVERS[-1]}.",
            )
        except Exception as error:  # noqa: BLE001 - a handler of the app's may raise
            self.failed(error)

    def unwatch(self, engine: Any) -> None:
        """Stop to listen to an engine and close the connection to its database."""
        engine = getattr(engine, "sync_engine", engine)
        watched = self._engines.get(engine)
        if watched is not None:
            watched.stop()

    def clear(self) -> None:
        """Forget the active findings, and what they propose."""
        self.store.clear()
        for watched in list(self._engines.values()):
            watched.proposals.clear()
            watched.forget()

    def stats(self) -> dict[str, Any]:
        """Return the counters; PlanWatch.stats describes them."""
        sampler = self._sampler
        return {
            "captured": sampler.captured if sampler else 0,
            "sampled": self.worker.accepted,
            "inspected": self._inspected,
            "dropped": self.worker.dropped,
            "over_budget": sampler.over_budget if sampler else 0,
            "skipped": {str(reason): count for reason, count in self._skipped.items()},
            "errors": self._errors,
            "findings": len(self.store.findings()),
            "waiting": self.worker.waiting,
            "own_ms": round(self._own_ms, 3),
            "worker_alive": self.worker.alive,
        }

    def failed(self, error: BaseException) -> None:
        """Count an exception of PlanWatch's own, or of a receiver, and say it once.

        Only the kind is logged: the message of an exception may hold a value.
        """
        self._errors += 1
        step = error.__traceback__
        while step is not None and step.tb_next is not None:
            step = step.tb_next
        place = (
            f"{step.tb_frame.f_code.co_filename}:{step.tb_lineno}" if step else "an unknown line"
        )
        # What failed may be a handler of the log itself.
        with suppress(Exception):
            self._log.tell_once(
                logging.WARNING,
                f"PlanWatch went on after {type(error).__name__} at {place}; others of this kind "
                "are only counted, in PlanWatch.stats().",
            )

    def mapped_table(self, capture: Capture, relation: Relation) -> MappedTable | None:
        """Return how the app's code names a relation."""
        return self._mappings.find(relation, capture.entities)

    def count_skip(self, reason: SkipReason) -> None:
        """Count a capture, or a further plan of one, that could not be had."""
        self._skipped[reason] += 1

    def publish(self, inspection: Inspection, span: Any = None) -> None:
        """Tell an inspection to the store, the statement's span, the log and the signals."""
        if inspection.skip is None:
            self._inspected += 1
        else:
            self.count_skip(inspection.skip.reason)
        for unanswered in inspection.unanswered:
            self.count_skip(unanswered.reason)
        give_way()
        changes = self.store.record(inspection)
        give_way()
        try:
            # First, as the span may end any moment.
            self._spans.report(span, changes)
        except Exception as error:  # noqa: BLE001 - an exporter of the app's may raise
            self.failed(error)
        try:
            if inspection.skip is not None and inspection.skip.reason not in _EXPECTED:
                self._log.report_skip(inspection.skip, inspection.statement.text)
            for unanswered in inspection.unanswered:
                self._log.report_unanswered(unanswered, inspection.statement.text)
            self._log.report(changes)
        except Exception as error:  # noqa: BLE001 - a handler of the app's may raise
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

    def _let_go(self, since: float) -> None:
        """Close connections that were not used since then."""
        for watched in list(self._engines.values()):
            if watched.session.held and watched.session.used <= since:
                watched.session.close()

    def _abandon(self) -> None:
        """Forget, in a forked child, the parent's connections, counters and locks."""
        self._lock = threading.RLock()
        self._sampler = None
        self._is_unsaid = True
        self._start_counting()
        for part in (self.store, self._log, self._mappings):
            part.renew_lock()
        renew_budgets()
        for watched in list(self._engines.values()):
            watched.after_fork()


class _WatchedEngine:
    """One engine of one app: its hooks, PlanWatch's connection, and the sink of its captures.

    It does not keep the engine alive.
    """

    def __init__(
        self,
        watcher: Watcher,
        engine: Engine,
        name: str,
        bind: str | None,
        url: Any,
        database: str,
    ) -> None:
        settings = watcher._settings_at_start
        app = watcher._app()
        assert app is not None
        self.session = OwnSession(
            engine,
            url=url,
            statement_timeout_ms=settings.statement_timeout_ms,
            lock_timeout_ms=settings.lock_timeout_ms,
        )
        self.watch = Watch(app, engine, bind, database, sink=self)
        self.name, self.driver, self.url = name, engine.dialect.driver, url
        #: What its server is, once that was asked.
        self.server: Server | None = None
        #: What is proposed for the statements of this engine.
        self.proposals = Proposals()
        self.catalog = Catalog(self.session)
        self.conclusions = Conclusions()
        self.refusals = Refusals()
        self._engine = weakref.ref(engine)
        self._watcher = watcher
        self._worker = watcher.worker
        self._inspected_at: Latest[int, tuple[float, int]] = Latest(LEARNT, MAX_FINGERPRINTS)
        #: The statements that failed and wait for the server, by their text as compiled.
        self._kept: dict[str, Ticket] = {}
        #: The places in the pool that hold a connection of the application's.
        self._records: WeakSet[Any] = WeakSet()
        self.session.is_applications = partial(_holds, self._records)
        #: Whether PlanWatch holds no connection because the application has none.
        self._alone = False
        #: How often the engine was disposed of: what was captured before is not inspected.
        self._disposals = 0

    @property
    def sampler(self) -> Sampler:
        """The sampler of the app."""
        return self._watcher.sampler

    @cached_property
    def _inspector(self) -> Inspector:
        watcher = self._watcher
        return Inspector(
            settings=watcher.settings,
            session=self.session,
            mapped_table=watcher.mapped_table,
            proposals=self.proposals,
            pace=watcher.pace,
            may_analyse=watcher.sampler.analyses.take,
            catalog=self.catalog,
            conclusions=self.conclusions,
            refusals=self.refusals,
        )

    def submit(self, capture: Capture) -> Ticket | None:
        """Hand a capture to the worker.

        One that failed goes ahead of all others, and is kept until the server answers; in an outage
        the first of its statement stands for all.
        """
        job = partial(self._inspect, capture, self._disposals)
        # The first saves a call for nearly all of them.
        if capture.error is None or not capture.failed:
            return self._worker.submit(job, size=capture.size)
        kept = self._kept.get(capture.key)
        if kept is None or kept.done:
            kept = self._worker.submit(
                job, size=capture.size, first=True, patience=KEEP_FAILED_SECONDS
            )
            if kept is not None:
                waiting = {key: one for key, one in list(self._kept.items()) if not one.done}
                self._kept = waiting | {capture.key: kept}
        return kept

    def connected(self, record: Any) -> None:
        """Connect again from now on: the application does."""
        self._records.add(record)
        self._alone = False
        if self.watch.active:
            self.session.resume()

    def disconnected(self, record: Any) -> None:
        """Hold no connection where the application has none left.

        Its pool may have been disposed of by itself, of which no event tells. An application
        without a pool closes each connection, and PlanWatch its own after each inspection.
        """
        if record not in self._records:
            return
        self._records.discard(record)
        if not self._records and not self._without_pool:
            self._alone = True
            self.session.cut()

    def lost(self, record: Any) -> None:
        """Go on without it: whatever broke with it shall be explained."""
        self._records.discard(record)

    def disposed(self) -> None:
        """Give the connection up, and what waits: the database may be dropped next."""
        self._records.clear()
        self._alone = False
        self._disposals += 1
        self.session.cut(DISPOSE_PATIENCE)

    @property
    def _without_pool(self) -> bool:
        engine = self._engine()
        return engine is not None and isinstance(engine.pool, NullPool)

    def failed(self, error: Exception) -> None:
        """Count an exception in a hook."""
        self._watcher.failed(error)

    def start(self) -> None:
        """Listen, unless that happens already."""
        self.watch.has_panel = self._watcher.has_panel
        self.session.resume()
        self.watch.listen()

    def introduce(self) -> None:
        """Ask the server what it is, unless that is known; on PlanWatch's thread."""
        if self.server is None or self.server.problem:
            self.server = introduce(self.name, self.driver, self.session)

    def let_go(self) -> None:
        """Close the connection if the application does not expect one to stay."""
        if self._without_pool:
            self.session.close()

    def stop(self) -> None:
        """Stop to listen, and close the connection."""
        self.watch.unlisten()
        self.session.cut(DISPOSE_PATIENCE)

    def forget(self) -> None:
        """Forget what was found out: the next inspection looks at everything anew."""
        self.conclusions.forget()
        self.catalog.forget()
        self.refusals.forget()
        self.session.literal_only.clear()
        # Not made before the first inspection: it knows the settings that depend on the debug mode.
        if (inspector := self.__dict__.get("_inspector")) is not None:
            inspector.forget()

    def after_fork(self) -> None:
        """Forget what belongs to the parent process."""
        self.session.abandon()
        self.watch.after_fork()
        self.forget()
        self._kept = {}

    def _inspect(self, capture: Capture, disposals: int, ticket: Ticket, last_try: bool) -> bool:
        """Inspect one capture on the worker's thread; see worker.Job.

        `disposals` are those of the engine when it was captured.
        """
        started = now()
        outcome = None
        self._watcher.begin()
        try:
            outcome = self._outcome(capture, last_try) if self._is_wanted(disposals) else None
            # It may have been disposed of meanwhile, and its connection cut.
            if outcome is None or not self._is_wanted(disposals):
                outcome = Outcome(inspection_of(capture, skip=Skip(SkipReason.UNWATCHED)))
            kept = (outcome.no_server or self._alone) and capture.failed and self.watch.active
            ticket.detail = outcome.detail
            if (outcome.blocked or kept) and not last_try:
                ticket.inspection = outcome.inspection
                return False
            self._kept.pop(capture.key, None)
            try:
                self._watcher.publish(outcome.inspection, capture.span)
            finally:
                # At last, as the panel does not wait for more.
                ticket.inspection = outcome.inspection
        except BaseException as error:  # noqa: BLE001 - the worker must live on
            if outcome is None:
                self._watcher.count_skip(SkipReason.INTERNAL_ERROR)
            self._watcher.failed(error)
        finally:
            self.let_go()
            self._watcher._own_ms += (now() - started) * 1000
        return True

    def _is_wanted(self, disposals: int) -> bool:
        """Whether the engine that a statement ran on is still watched, and is not disposed of."""
        return self.watch.active and disposals == self._disposals and self._engine() is not None

    def _outcome(self, capture: Capture, last_try: bool) -> Outcome:
        try:
            if not (capture.urgent or last_try) and self._was_inspected(capture):
                # An app that writes its literals into the text has a new one each time.
                if self.sampler.may_read(capture.key):
                    self.sampler.give_back()
                return Outcome(inspection_of(capture, skip=Skip(SkipReason.RECENTLY_INSPECTED)))
            if capture.connection is not None:
                self.session.app_connection = capture.connection
            return self._inspector.inspect(capture)
        except Exception as error:  # noqa: BLE001 - one statement must not end the watching
            self._watcher.failed(error)
            skip = Skip(SkipReason.INTERNAL_ERROR, type(error).__name__)
            return Outcome(inspection_of(capture, skip=skip))

    def _was_inspected(self, capture: Capture) -> bool:
        """Whether the statement was inspected in the interval with other literals or lengths in it.

        The app's thread tells statements apart by their text; the fingerprint is worked out here.
        """
        if self.sampler.interval == 0:
            return False
        # By their hashes, as texts and search paths may be long.
        identity = hash((statement_of(capture).fingerprint, capture.state.place))
        moment, text = now(), hash(capture.key)
        inspected_at, key = self._inspected_at.get(identity, (float("-inf"), text))
        # The sampler has judged the same text already.
        if key != text and abs(moment - inspected_at) < self.sampler.interval:
            return True
        self._inspected_at.keep(identity, (moment, text), INSPECTED_SIZE)
        return False


def _holds(records: WeakSet[Any], driver: Any) -> bool:
    """Whether one of the places in a pool holds a connection of the driver's."""
    return any(record.driver_connection is driver for record in list(records))

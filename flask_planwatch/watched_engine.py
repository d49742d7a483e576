"""What exists once for each engine of an app: hooks, PlanWatch's connection, an inspector."""

from __future__ import annotations

import weakref
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from sqlalchemy.engine import URL, Engine
from sqlalchemy.pool import NullPool

from .capture.execution import Capture
from .capture.hooks import Watch
from .capture.sampling import Sampler
from .finding import Skip, SkipReason
from .report.start import Server, introduce
from .runtime.bounded import LEARNT, RecentlyUsed
from .runtime.clock import now
from .server.session import DISPOSE_PATIENCE, Session
from .worker import Ticket

if TYPE_CHECKING:
    from .inspection.detail import Preparable
    from .inspection.inspector import Inspector, Outcome
    from .watcher import Watcher

#: Seconds that a statement that failed is kept for, if the server does not answer: a server that
#: crashed or was failed over is back within minutes.
KEEP_FAILED_SECONDS = 900.0

#: Fingerprints whose latest inspection is remembered, and the bytes that each of them takes.
MAX_FINGERPRINTS = 10_000
INSPECTED_SIZE = 200

#: Numbers for the times between disposals, of all engines.
_NUMBERS = count()


class WatchedEngine:
    """One engine of one app: its hooks, PlanWatch's connection, and where its captures go.

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
        app = watcher._app()
        assert app is not None
        self._watcher = watcher
        #: The pool's records that hold a connection of the application's.
        self._records: WeakSet[Any] = WeakSet()
        self.session = self._session(engine, url)
        #: One that connects as the application does, where PlanWatch's own does not.
        self.applications_session: Session | None = None
        self.watch = Watch(app, engine, bind, database, sink=self)
        self.name, self.driver, self.url = name, engine.dialect.driver, url
        #: Its server, once it was asked.
        self.server: Server | None = None
        self._engine = weakref.ref(engine)
        self._worker = watcher.worker
        self._inspected_at: RecentlyUsed[int, tuple[float, int]] = RecentlyUsed(
            LEARNT, MAX_FINGERPRINTS
        )
        #: The statements that failed and wait for the server, by their text as compiled.
        self._kept: dict[str, Ticket] = {}
        #: Whether PlanWatch holds no connection because the application has none.
        self._alone = False
        # No cached_property: Python 3.11 locks it, and a child forked meanwhile would wait for it.
        self._made_inspector: Inspector | None = None
        #: A number that changes when the engine is disposed of: what was captured before is not
        #: inspected.
        self._disposal = next(_NUMBERS)

    @property
    def sampler(self) -> Sampler:
        """The sampler of the app."""
        return self._watcher.sampler

    @property
    def _inspector(self) -> Inspector:
        """What inspects the captures; made at the first, as it knows the debug mode."""
        if self._made_inspector is None:
            # It brings sqlglot and all rules, which the application's thread never loads.
            from .inspection.inspector import Inspector

            watcher = self._watcher
            self._made_inspector = Inspector(
                watcher.settings,
                self.session,
                watcher.calibration,
                watcher.mapped_table,
                watcher.sampler.analyses.take,
                watcher.store.saved_ms,
            )
        return self._made_inspector

    def submit(self, capture: Capture) -> Ticket | None:
        """Hand a capture to the worker.

        One that failed goes ahead of all others, and is kept until the server answers; in an outage
        the first of its statement stands for all.
        """
        job = partial(self._inspect, capture, self._disposal)
        # The first saves a call for nearly all of them.
        if capture.error is None or not capture.failed:
            return self._worker.submit(job, size=capture.size)
        kept = self._kept.get(capture.key)
        if kept is None or kept.done:
            kept = self._worker.submit(
                job, size=capture.size, first=True, patience=KEEP_FAILED_SECONDS
            )
            if kept is not None:
                waiting = {
                    key: ticket for key, ticket in list(self._kept.items()) if not ticket.done
                }
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
        """Forget a lost connection, and keep PlanWatch's: what broke it is inspected."""
        self._records.discard(record)

    def disposed(self) -> None:
        """Give the connection up, and what waits: the database may be dropped next."""
        self._records.clear()
        self._alone = False
        self._disposal = next(_NUMBERS)
        self._cut()

    def _cut(self) -> None:
        if (applications := self.applications_session) is not None:
            applications.cut()
        self.session.cut(DISPOSE_PATIENCE)

    def _session(self, engine: Engine, url: Any) -> Session:
        settings = self._watcher._settings_at_start
        session = Session(
            engine,
            url=url,
            statement_timeout_ms=settings.statement_timeout_ms,
            lock_timeout_ms=settings.lock_timeout_ms,
        )
        session.is_applications = partial(_holds, self._records)
        return session

    def connect_as_application(self) -> Session | None:
        """Return `applications_session`, None if PlanWatch's URL names the application's server.

        Raises ServerError if the engine is gone.
        """
        engine = self._engine()
        if engine is None or not self.session.elsewhere:
            return None
        self.applications_session = self._session(engine, None)
        return self.applications_session

    @property
    def app_url(self) -> URL | None:
        """The application's URL, None once the engine is gone."""
        engine = self._engine()
        return None if engine is None else engine.url

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

    def close_if_without_pool(self) -> None:
        """Close the connection if the application has no pool: it expects none to stay open."""
        if self._without_pool:
            self.session.close()

    def stop(self) -> None:
        """Stop to listen, and close the connection."""
        self.watch.unlisten()
        self._cut()

    def preparable(self, fingerprint: str) -> Preparable | None:
        """Return how a statement is copied without its values, None if that is not known."""
        inspector = self._made_inspector
        return None if inspector is None else inspector.preparable(fingerprint)

    def forget(self) -> None:
        """Forget what was learnt: the next inspection looks at everything anew."""
        if self._made_inspector is not None:
            self._made_inspector.forget()

    def after_fork(self) -> None:
        """Forget what belongs to the parent process."""
        self.session.abandon()
        if self.applications_session is not None:
            self.applications_session.abandon()
        self.watch.after_fork()
        self.forget()
        self._kept = {}

    def _inspect(self, capture: Capture, disposal: int, ticket: Ticket, last_try: bool) -> bool:
        """Inspect one capture on the worker's thread; see worker.Job.

        `disposal` is the number of the engine's when it was captured.
        """
        started = now()
        outcome = None
        self._watcher.begin()
        try:
            outcome = self._outcome(capture, last_try) if self._is_wanted(disposal) else None
            # The engine may have been disposed of meanwhile, and the connection closed.
            if outcome is None or not self._is_wanted(disposal):
                outcome = self._inspector.skip(capture, Skip(SkipReason.UNWATCHED))
            self._note_disposal(disposal, outcome)
            kept = (outcome.no_server or self._alone) and capture.failed and self.watch.active
            ticket.detail = outcome.detail
            if (outcome.blocked or kept) and not last_try:
                ticket.inspection = outcome.inspection
                return False
            self._kept.pop(capture.key, None)
            try:
                self._watcher.publish(outcome.inspection, capture.span, capture.statistics)
            finally:
                # Last, as the panel then stops waiting.
                ticket.inspection = outcome.inspection
        except BaseException as error:  # noqa: BLE001 - the worker must live on
            if outcome is None:
                self._watcher.count_skip(SkipReason.INTERNAL_ERROR)
            self._watcher.failed(error)
        finally:
            self.close_if_without_pool()
            self._watcher._own_ms += (now() - started) * 1000
        return True

    def _is_wanted(self, disposal: int) -> bool:
        """Whether the engine that a statement ran on is still watched, and is not disposed of."""
        return self.watch.active and disposal == self._disposal and self._engine() is not None

    def _note_disposal(self, disposal: int, outcome: Outcome) -> None:
        """Note whether the engine was disposed of, or was gone, before an inspection."""
        if outcome.inspection.skip is None:
            self._watcher.came_in_time()
        elif self.watch.active and not self._is_wanted(disposal):
            self._watcher.missed += 1
            if disposal != self._disposal:
                self._watcher.came_too_late(disposal, self.name)

    def _outcome(self, capture: Capture, last_try: bool) -> Outcome:
        try:
            if not (capture.urgent or last_try) and self._was_inspected(capture):
                # An app that writes its literals into the text has a new one each time.
                if self.sampler.may_read(capture.key):
                    self.sampler.give_back(length=len(capture.key))
                return self._inspector.skip(capture, Skip(SkipReason.RECENTLY_INSPECTED))
            if capture.connection is not None:
                self.session.app_connection = capture.connection
            return self._inspector.inspect(capture)
        except Exception as error:  # noqa: BLE001 - one statement must not end the watching
            self._watcher.failed(error)
            skip = Skip(SkipReason.INTERNAL_ERROR, type(error).__name__)
            return self._inspector.skip(capture, skip)

    def _was_inspected(self, capture: Capture) -> bool:
        """Whether the statement was inspected in the interval with other literals or lengths in it.

        The app's thread tells statements apart by their text; the fingerprint is worked out here.
        """
        if self.sampler.interval == 0:
            return False
        # By their hashes, as texts and search paths may be long.
        identity = hash((self._inspector.fingerprint(capture), capture.state.path_and_role))
        moment, text = now(), hash(capture.key)
        inspected_at, key = self._inspected_at.get(identity, (float("-inf"), text))
        # The sampler has judged the same text already.
        if key != text and abs(moment - inspected_at) < self.sampler.interval:
            return True
        self._inspected_at.keep(identity, (moment, text), INSPECTED_SIZE)
        return False


def _holds(records: WeakSet[Any], driver: Any) -> bool:
    """Whether one of the pool's records holds this driver's connection."""
    return any(record.driver_connection is driver for record in list(records))

"""The listeners on an engine's events: the only code on the application's hot path.

No statement waits for them: nothing here reads or writes anything outside the process. Only
`dispose()` of an engine waits, up to DISPOSE_PATIENCE, until PlanWatch's connection has ended. No
error of PlanWatch's own leaves a listener: `let_through` raises again what others raised while one
ran.
"""

from __future__ import annotations

import re
import threading
import weakref
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any

from flask import Flask
from sqlalchemy import event
from sqlalchemy.engine import Engine, ExceptionContext
from sqlalchemy.engine.interfaces import ExecuteStyle

from ..failure import StatementError
from ..runtime.clock import now, processor_seconds
from ..runtime.interruption import let_through
from ..worker import OWN_THREADS
from .capturing import Capturing, Sink
from .connection_info import info_of
from .driver import in_transaction, sqlstate_of
from .engine_connections import TRANSLATED, EngineConnections
from .location import origin_finder
from .preparation import ASYNCPG, PSYCOPG, Repetition, Repetitions
from .sampling import Sampler
from .sql_text import COMMENT, words
from .state_change import may_change_state
from .statistics import MAX_RECENT, NEVER, AllStatistics, StatementStatistics

_COMMENTS = re.compile(rf"(?:\s++|{COMMENT})*+;?+\s*+")

_NOWAIT = re.compile(r"\bNOWAIT\b", re.IGNORECASE)

#: Neither `executemany` nor what SQLAlchemy makes of many INSERTs.
_ONE = ExecuteStyle.EXECUTE

#: What is listened to, by the methods of these names.
_EVENTS = words(
    "before_cursor_execute after_cursor_execute handle_error commit commit_twophase "
    "prepare_twophase rollback rollback_twophase savepoint rollback_savepoint release_savepoint "
    "checkout engine_connect checkin invalidate close engine_disposed"
)

#: The maximum age, in s, of the processor time that is read when a statement starts. To read it at
#: each statement would cost more than all else that is done before it.
_MAX_AGE_SECONDS = 0.005

#: How long, in ms, another thread that computes holds the interpreter's lock: the default of
#: sys.setswitchinterval(). A shorter statement was not held up by one.
_SWITCH_MS = 5.0

#: Key of a connection's information: whether the engine uses the connection, so that the hooks see
#: what is done with it.
_SEEN = "seen"


def _ends(conn: Any) -> bool:
    """Whether the driver's commit() and rollback() end the transaction that is open.

    In AUTOCOMMIT, only those of psycopg end one that a statement began.
    """
    driver = conn.connection.dbapi_connection
    return not driver.autocommit or hasattr(driver, "pgconn") or not in_transaction(driver)


def _key_of_rewritten(key: str, sent: str, made: str) -> str:
    """Return the key of a statement that a listener rewrote after SQLAlchemy had compiled it.

    If it only added a comment, such as a trace's identifier, that is `key`.
    """
    before, found, after = sent.partition(made)
    return key if found and _COMMENTS.fullmatch(before) and _COMMENTS.fullmatch(after) else sent


class Watch:
    """Listens to one engine for one app.

    `database` tells apart engines without a bind key, and is empty for those of Flask-SQLAlchemy.
    `sink` gets the captures; its sampler is asked for at the first statement, because the settings
    depend on the debug mode. SQLAlchemy keeps the hooks as long as anything that it has compiled
    for the engine, so they hold app, engine and sink by weak references.
    """

    def __init__(
        self,
        app: Flask,
        engine: Engine,
        bind: str | None,
        database: str,
        sink: Sink,
    ) -> None:
        self._engine = weakref.ref(engine)
        self.bind = bind
        #: Whether there is a panel; in debug mode it lists each statement of a request.
        self.has_panel = False
        self._sink = weakref.ref(sink, self._released)
        driver = engine.dialect.driver
        self._prepares = driver in {PSYCOPG, ASYNCPG}
        self._statistics = AllStatistics(repeat=self._prepares)
        self._sampler: Sampler | None = None
        self.active = self._attached = False
        #: The processor time of the process, and when it was read, in s.
        self._processor_seconds, self._read_at = 0.0, NEVER
        self._connections = EngineConnections(self._allow_plain)
        self._repetitions = Repetitions()
        self._capturing = Capturing(
            weakref.ref(app),
            self._sink,
            driver,
            bind,
            database,
            self._statistics,
            self._connections,
            origin_finder(app.root_path),
        )

    def listen(self) -> None:
        """Attach the hooks, or wake them up again."""
        self.active = True
        self._allow_plain()
        engine = self._engine()
        if not self._attached and engine is not None:
            self._attached = True
            for name in _EVENTS:
                # A hook that returns what the event may change needs no wrapper of SQLAlchemy's.
                returns = name == "before_cursor_execute"
                event.listen(engine, name, getattr(self, f"_{name}"), retval=returns)

    def unlisten(self) -> None:
        """Put the hooks to sleep.

        They stay attached: SQLAlchemy cannot take one off while another thread is calling it.
        """
        self.active = False
        self._allow_plain()

    def _allow_plain(self) -> None:
        """Pass over plain statements, unless asleep or while a connection's state is changed."""
        self._statistics.allow_plain(allowed=self.active and not self._connections.changed)

    def _released(self, _: object) -> None:
        """Forget all once the sink is gone: nobody takes captures any more."""
        self.unlisten()
        self._statistics.clear()
        self._sampler = None

    def after_fork(self) -> None:
        """Begin to count anew in a forked child: it has findings of its own."""
        self._statistics.clear()
        self._connections.renew_lock()
        self._sampler = None
        # A child has computed nothing so far.
        self._read_at = NEVER

    def _before_cursor_execute(
        self, conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> tuple[str, Any]:
        try:
            # By its module: gevent may replace it later.
            if threading.get_ident() not in OWN_THREADS:
                started = now()
                # Also if the clock was set back.
                if not 0.0 <= started - self._read_at < _MAX_AGE_SECONDS:
                    # In this order: another thread may read them in between.
                    self._read_at, self._processor_seconds = started, processor_seconds()
                context._planwatch_processor_seconds = self._processor_seconds
                context._planwatch_started = started
        except Exception as error:  # noqa: BLE001 - see let_through
            self._failed(error)
        return statement, parameters

    def _after_cursor_execute(
        self, conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> None:
        try:
            ended = now()
            try:
                started = context._planwatch_started
            except AttributeError:
                # PlanWatch's own thread, or the statement started before the hooks were attached.
                return
            if context.execute_style is not _ONE:
                self._see_many(conn, statement, context)
                return
            compiled = context.compiled
            key = statement if compiled is None else compiled.string
            if statement is not context.statement:
                key = _key_of_rewritten(key, statement, context.statement)
            statistics = self._statistics.plain.get(key)
            if statistics is None:
                found = self._look(conn, key, statement, parameters, context)
                if found is None:
                    return
                statistics, key = found
            if context.execution_options.get("planwatch", True) is False:
                self._count_opted_out()
                return
            duration_ms = waited_ms = (ended - started) * 1000
            if duration_ms > _SWITCH_MS:
                # What the process computed meanwhile, in whichever thread, may have held it up.
                held_up_ms = (processor_seconds() - context._planwatch_processor_seconds) * 1000
                waited_ms = max(duration_ms - held_up_ms, 0.0)
            sampler = self._sampler or self._find_sampler()
            if sampler is None:
                return
            sampler.captured += 1
            sampler.total_ms += duration_ms
            statistics.durations[statistics.succeeded % MAX_RECENT] = waited_ms
            statistics.succeeded += 1
            statistics.total_ms += duration_ms
            due = (
                # Also if the clock was set back.
                abs(ended - statistics.sampled) >= sampler.interval or duration_ms > sampler.slow_ms
            )
            if due or self.has_panel:
                # What is computed for this one holds up none of the next.
                self._read_at = NEVER
                ran = (cursor, statement, parameters, context, key, duration_ms, waited_ms, None)
                self._capturing.consider(
                    ran, statistics, sampler, ended, due=due, has_panel=self.has_panel
                )
        except Exception as error:  # noqa: BLE001 - see let_through
            self._failed(error)

    def _handle_error(self, exception: ExceptionContext) -> None:
        try:
            ended = now()
            context: Any = exception.execution_context
            statement = exception.statement
            conn: Any = exception.connection
            if state := self._connections.state(conn):
                open_now = in_transaction(conn.connection.dbapi_connection)
                state.failed(in_commit=not statement, in_transaction=open_now)
            started = getattr(context, "_planwatch_started", None)
            if started is None or context.execute_style is not _ONE or not self.active:
                return
            if not statement or exception.sqlalchemy_exception is None:
                return
            key = statement if context.compiled is None else context.compiled.string
            if statement is not context.statement:
                key = _key_of_rewritten(key, statement, context.statement)
            statistics, key = self._statistics_of(context.root_connection, key, context)
            if not statistics.explainable:
                return
            if context.execution_options.get("planwatch", True) is False:
                self._count_opted_out()
                return
            original = exception.original_exception
            error = StatementError(
                type(original).__name__,
                sqlstate_of(original),
                disconnected=exception.is_disconnect,
                nowait=_NOWAIT.search(statement) is not None,
            )
            duration_ms = (ended - started) * 1000
            sampler = self._sampler or self._find_sampler()
            if sampler is None:
                return
            sampler.captured += 1
            sampler.total_ms += duration_ms
            statistics.failed(duration_ms)
            due = (
                error.means_load
                or sampler.is_due(statistics, ended)
                or duration_ms > sampler.slow_ms
            )
            parameters = exception.parameters
            ran = (None, statement, parameters, context, key, duration_ms, duration_ms, error)
            self._capturing.consider(
                ran, statistics, sampler, ended, due=due, has_panel=self.has_panel
            )
        except Exception as error:  # noqa: BLE001 - see let_through
            self._failed(error)

    # Each has its own try: one that they shared would be one more call in nearly each request.

    def _commit(self, conn: Any, *_: Any) -> None:
        try:
            if self._repetitions.running:
                self._repetitions.committed(conn)
            if (
                self._connections.changed
                and (state := self._connections.state(conn))
                and _ends(conn)
            ):
                state.committed()
        except Exception as error:  # noqa: BLE001 - see let_through
            self._failed(error)

    # What a transaction set for the session stays when it is prepared.
    _commit_twophase = _prepare_twophase = _commit

    def _rollback(self, conn: Any, *_: Any) -> None:
        try:
            if self._repetitions.running:
                self._repetitions.rolled_back(conn)
            if (
                self._connections.changed
                and (state := self._connections.state(conn))
                and _ends(conn)
            ):
                state.rolled_back()
        except Exception as error:  # noqa: BLE001 - see let_through
            self._failed(error)

    _rollback_twophase = _rollback

    def _savepoint(self, conn: Any, name: str, *_: Any) -> None:
        try:
            if self._connections.changed and (state := self._connections.state(conn)):
                state.savepoint(name)
        except Exception as error:  # noqa: BLE001 - see let_through
            self._failed(error)

    def _rollback_savepoint(self, conn: Any, name: str, *_: Any) -> None:
        try:
            if self._repetitions.running:
                self._repetitions.rolled_back(conn)
            if self._connections.changed and (state := self._connections.state(conn)):
                state.rolled_back(name)
        except Exception as error:  # noqa: BLE001 - see let_through
            self._failed(error)

    def _release_savepoint(self, conn: Any, name: str, *_: Any) -> None:
        try:
            if self._connections.changed and (state := self._connections.state(conn)):
                state.released(name)
        except Exception as error:  # noqa: BLE001 - see let_through
            self._failed(error)

    def _checkout(self, dbapi_connection: Any, record: Any, proxy: Any) -> None:
        try:
            info = info_of(record)
            info[_SEEN] = False
            if self._connections not in info:
                # It is new, or older than the hooks.
                info[self._connections] = now()
                if (sink := self._sink()) is not None:
                    sink.connected(record)
        except Exception as error:  # noqa: BLE001 - see let_through
            self._failed(error)

    def _engine_connect(self, conn: Any) -> None:
        try:
            info_of(conn.connection)[_SEEN] = True
        except Exception as error:  # noqa: BLE001 - see let_through
            self._failed(error)

    def _checkin(self, dbapi_connection: Any, record: Any) -> None:
        try:
            if dbapi_connection is None:
                # The connection is closed, with all that was set on it.
                return
            info = info_of(record)
            # The engine had no Connection: the application used the driver's, by raw_connection().
            raw = info.get(_SEEN) is False and self.active
            if raw or self._connections.changed:
                self._connections.returned(info, dbapi_connection, raw=raw)
        except Exception as error:  # noqa: BLE001 - see let_through
            self._failed(error)

    # The following are called once for each connection of the application, or less often.

    def _invalidate(self, connection: Any, record: Any, exception: Any) -> None:
        self._tell(lambda sink: sink.lost(record))

    def _close(self, connection: Any, record: Any) -> None:
        self._tell(lambda sink: sink.disconnected(record))

    def _engine_disposed(self, engine: Engine) -> None:
        self._tell(lambda sink: sink.disposed())

    def _tell(self, tell: Callable[[Sink], None]) -> None:
        try:
            if (sink := self._sink()) is not None:
                tell(sink)
        except Exception as error:  # noqa: BLE001 - see let_through
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        let_through(error)
        # Not even the counting may break the query.
        with suppress(Exception):
            if (sink := self._sink()) is not None:
                sink.failed(error)

    def _find_sampler(self) -> Sampler | None:
        sink = self._sink()
        self._sampler = None if sink is None else sink.sampler
        return self._sampler

    def _count_opted_out(self) -> None:
        sampler = self._sampler or self._find_sampler()
        if sampler is not None and self.active:
            sampler.opted_out += 1

    def _look(
        self, conn: Any, key: str, statement: str, parameters: Any, context: Any
    ) -> tuple[StatementStatistics, str] | None:
        """Take in an execution for which its duration is not enough.

        Return its statistics and the text that it is known by, None if EXPLAIN does not take it.
        """
        if not self.active:
            return None
        statistics, known_by = self._statistics_of(conn, key, context)
        if statistics.changes_state:
            self._connections.apply(conn, statement, parameters, context)
        if not statistics.explainable:
            return None
        plain = not (self._connections.changed or statistics.changes_state or TRANSLATED in key)
        plain &= known_by is key
        if self._prepares and parameters:
            repetition = statistics.repetition
            if context.execution_options.get("planwatch", True) is not False:
                if repetition is None:
                    repetition = statistics.repetition = Repetition()
                if self._repetitions.follow(conn, key, statement, parameters, repetition):
                    statistics.sampled = NEVER
            plain &= repetition is not None and repetition.followed_enough
        elif self._prepares:
            # An empty IN list has no parameters, and the next one may have some.
            plain &= statement == key and statistics.repetition is None
        if plain:
            self._statistics.add_plain(key, statistics)
        return statistics, known_by

    def _see_many(self, conn: Any, statement: str, context: Any) -> None:
        """Take in a statement that ran by executemany, if it may change the state."""
        writes = context.isinsert or context.isupdate or context.isdelete
        if self.active and not writes and may_change_state(statement):
            self._connections.apply(conn, statement, None, context)

    def _statistics_of(self, conn: Any, key: str, context: Any) -> tuple[StatementStatistics, str]:
        """Return the statistics of a statement, and the text that it is known by."""
        identity: Hashable = key
        if self._connections.changed or TRANSLATED in key:
            path_and_role = self._connections.path_and_role(conn, key, context)
            if path_and_role:
                # In another schema it is another statement.
                identity = (key, path_and_role)
        statistics = self._statistics.recent.get(identity)
        if statistics is not None:
            return statistics, key
        return self._statistics.first_seen(identity, key, is_ddl=context.isddl)

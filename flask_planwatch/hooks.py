"""Engine events -> Capture: the only code on the application's hot path.

Nothing here waits, reads or writes anything outside the process, and no exception leaves a hook.
"""

from __future__ import annotations

import re
import threading
import weakref
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import replace
from functools import wraps
from time import perf_counter
from typing import Any, NamedTuple, Protocol

from flask import Flask, has_request_context, request
from sqlalchemy import event
from sqlalchemy.engine import Engine, ExceptionContext
from sqlalchemy.engine.interfaces import ExecuteStyle

from .capture import Capture, copied, is_large
from .finding import SkipReason, StatementError
from .location import location_finder
from .repetition import (
    ASYNCPG,
    CUSTOM_PLANS,
    MAX_LOOKS,
    PSYCOPG,
    Preparation,
    Repetition,
    committed,
    count,
    rolled_back,
)
from .request_record import MAX_STATEMENTS_SHOWN, Seen, request_record
from .sampling import Sampler, Tallies, Tally
from .server.drivers import known_of, search_path_of, sqlstate_of
from .server.prepared import plans_made
from .session_state import NOTHING_SET, ConnectionState, SessionState, may_change_state
from .spans import current_span
from .worker import OWN_THREADS, Ticket

#: Statements that EXPLAIN takes, as the first word after comments and parentheses. Each comment
#: can be read in one way only, so that a text of nothing but comments takes no longer and longer.
_EXPLAINABLE = re.compile(
    r"\s*(?:(?:\(|--[^\n]*\n|/\*(?:[^*]|\*(?!/))*\*/)\s*)*"
    r"(?:select|insert|update|delete|merge|with|values|table)\b",
    re.IGNORECASE,
)

#: Parameters with more bytes or characters are not sent to the server again: planning with them
#: costs what they cost, and the plan repeats them.
MAX_PARAMETER_SIZE = 1_000_000

#: Of a statement that may be prepared, several sets of parameters are kept, but no larger ones.
MAX_SET_SIZE = 10_000

#: Statements of more characters are not read: a tokenizer holds the GIL for some µs for each.
MAX_STATEMENT_SIZE = 25_000

_NOWAIT = re.compile(r"\bNOWAIT\b", re.IGNORECASE)

#: Characters that stand for a longer statement.
_SHOWN_OF_LARGE = 1000

#: Neither `executemany` nor what SQLAlchemy makes of many INSERTs.
_ONE = ExecuteStyle.EXECUTE

_DROPPED = "dropped, as too many others were waiting"

#: Where the state of a connection is kept, as long as the driver's connection lives.
_STATE = "flask_planwatch.state"

#: Where is kept what a connection knows of itself.
_KNOWN = "flask_planwatch.known"


class Sink(Protocol):
    """Where the captures of one engine go."""

    @property
    def sampler(self) -> Sampler:
        """The sampler of the app."""

    def submit(self, capture: Capture) -> Ticket | None:
        """Accept a capture without waiting, or drop it, count that, and return None."""

    def failed(self, error: Exception) -> None:
        """Count an exception that was raised in a hook."""


class _Execution(NamedTuple):
    """What the hooks know of one execution that may be sampled."""

    cursor: Any
    statement: str
    parameters: Any
    context: Any
    key: str
    duration_ms: float
    urgent: bool
    error: StatementError | None = None
    threshold: int | None = None


def _guarded(hook: Callable[..., None]) -> Callable[..., None]:
    """Let nothing leave a hook; those of each execution do that themselves, which is faster."""

    @wraps(hook)
    def guarded(watch: Watch, *arguments: Any) -> None:
        try:
            hook(watch, *arguments)
        except Exception as error:  # noqa: BLE001 - nothing may leave a hook
            watch._failed(error)

    return guarded


class Watch:
    """Listens to one engine for one app.

    `database` tells apart engines without a bind key, and is empty for those of Flask-SQLAlchemy.
    `sink` gives the Sink of the app, resolved at the first statement because its settings depend
    on the debug mode. `keep_seen` tells whether a panel wants to list each statement.
    """

    def __init__(
        self,
        app: Flask,
        engine: Engine,
        bind: str | None,
        database: str,
        sink: Callable[[], Sink],
        keep_seen: Callable[[], bool],
    ) -> None:
        self.engine = engine
        self.bind = bind
        self.database = database
        self._app = app
        self._sink = sink
        self._keep_seen = keep_seen
        self._tallies = Tallies()
        self._sampler: Sampler | None = None
        self._find_location = location_finder(app.root_path)
        self.active = self._attached = False
        #: Whether a statement was seen that changed what a connection would plan.
        self._stateful = False
        self._prepares = engine.dialect.driver in {PSYCOPG, ASYNCPG}
        self._forgets = engine.dialect.driver == PSYCOPG
        self._listeners: dict[str, Callable[..., None]] = {
            "before_cursor_execute": self._before,
            "after_cursor_execute": self._after,
            "handle_error": self._error,
            "commit": self._commit,
            "commit_twophase": self._commit,
            "rollback": self._rollback,
            "rollback_twophase": self._rollback,
            "savepoint": self._savepoint,
            "rollback_savepoint": self._rollback_savepoint,
            "release_savepoint": self._release_savepoint,
        }

    def listen(self) -> None:
        """Attach the hooks, or wake them up again."""
        self.active = True
        if not self._attached:
            self._attached = True
            for name, hook in self._listeners.items():
                event.listen(self.engine, name, hook)

    def unlisten(self) -> None:
        """Put the hooks to sleep.

        They stay attached: SQLAlchemy cannot take one off while another thread is calling it.
        """
        self.active = False

    def after_fork(self) -> None:
        """Begin to count anew in a forked child: it has findings of its own."""
        self._tallies = Tallies()
        self._sampler = None

    def _before(
        self, conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> None:
        try:
            # By its module: gevent may replace it later.
            if threading.get_ident() not in OWN_THREADS:
                context._planwatch_started = perf_counter()
        except Exception as error:  # noqa: BLE001 - nothing may leave a hook
            self._failed(error)

    def _after(
        self, conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> None:
        try:
            # It is not there on PlanWatch's own thread, or if the hooks are younger.
            started = getattr(context, "_planwatch_started", None)
            if started is None or context.execute_style is not _ONE or not self.active:
                return
            ended = perf_counter()
            duration_ms = (ended - started) * 1000
            compiled = context.compiled
            key = statement if compiled is None else compiled.string
            tally = self._tallies.recent.get(key)
            if tally is None or self._stateful or not tally.plain:
                tally, key = self._tally(conn, key, context)
                if tally.changes_state:
                    self._note(conn, statement, parameters, context)
                if not tally.explainable:
                    return
            if context.execution_options.get("planwatch", True) is False:
                return
            sampler = self._sampler or self._find_sampler()
            sampler.count(tally, duration_ms)
            threshold = None
            if self._prepares and parameters:
                repetition = tally.repetition
                if repetition is not None and repetition.settled:
                    threshold = repetition.threshold
                else:
                    threshold = self._repeat(tally, key, statement, parameters, conn)
            due = ended >= tally.next_sample or duration_ms > sampler.slow_ms
            if due or self._keep_seen():
                urgent = sampler.is_slow(duration_ms)
                execution = _Execution(
                    cursor,
                    statement,
                    parameters,
                    context,
                    key,
                    duration_ms,
                    urgent,
                    None,
                    threshold,
                )
                self._sample(execution, tally, due=due)
        except Exception as error:  # noqa: BLE001 - nothing may leave a hook
            self._failed(error)

    def _error(self, exception: ExceptionContext) -> None:
        try:
            context: Any = exception.execution_context
            statement = exception.statement
            started = getattr(context, "_planwatch_started", None)
            one = context is not None and context.execute_style is _ONE
            if started is None or not statement or not one or not self.active:
                return
            if exception.sqlalchemy_exception is None:
                return
            key = statement if context.compiled is None else context.compiled.string
            tally, key = self._tally(context.root_connection, key, context)
            if not tally.explainable or context.execution_options.get("planwatch", True) is False:
                return
            duration_ms = (perf_counter() - started) * 1000
            original = exception.original_exception
            error = StatementError(
                type(original).__name__,
                sqlstate_of(original),
                disconnected=exception.is_disconnect,
                nowait=_NOWAIT.search(statement) is not None,
            )
            sampler = self._sampler or self._find_sampler()
            sampler.count(tally, duration_ms, failed=True)
            urgent = error.means_load or sampler.is_slow(duration_ms)
            due = sampler.is_due(tally, duration_ms, urgent=urgent)
            if due or self._keep_seen():
                parameters = exception.parameters
                execution = _Execution(
                    None, statement, parameters, context, key, duration_ms, urgent, error
                )
                self._sample(execution, tally, due=due)
        except Exception as error:  # noqa: BLE001 - nothing may leave a hook
            self._failed(error)

    @_guarded
    def _commit(self, conn: Any, *_: Any) -> None:
        if self._prepares:
            for repetition in committed(conn):
                repetition.due = True
        if self._stateful and (state := self._state(conn)):
            state.committed()

    @_guarded
    def _rollback(self, conn: Any, *_: Any) -> None:
        if self._forgets:
            rolled_back(conn)
        if self._stateful and (state := self._state(conn)):
            state.rolled_back()

    @_guarded
    def _savepoint(self, conn: Any, name: str, *_: Any) -> None:
        if self._stateful and (state := self._state(conn)):
            state.savepoint(name)

    @_guarded
    def _rollback_savepoint(self, conn: Any, name: str, *_: Any) -> None:
        if self._forgets:
            rolled_back(conn)
        if self._stateful and (state := self._state(conn)):
            state.rolled_back(name)

    @_guarded
    def _release_savepoint(self, conn: Any, name: str, *_: Any) -> None:
        if self._stateful and (state := self._state(conn)):
            state.released(name)

    def _failed(self, error: Exception) -> None:
        # Not even the counting may break the query.
        with suppress(Exception):
            self._sink().failed(error)

    def _find_sampler(self) -> Sampler:
        self._sampler = self._sink().sampler
        return self._sampler

    def _tally(self, conn: Any, key: str, context: Any) -> tuple[Tally, str]:
        """Return what is counted of a statement, and the text that it is known by."""
        identity: Hashable = key
        if self._stateful and (place := self._place(conn)):
            # In another schema it is another statement.
            identity = (key, place)
        tally = self._tallies.recent.get(identity)
        return (tally, key) if tally is not None else self._first_seen(identity, key, context)

    def _first_seen(self, identity: Hashable, key: str, context: Any) -> tuple[Tally, str]:
        if len(key) > MAX_STATEMENT_SIZE:
            identity = key = f"{key[:_SHOWN_OF_LARGE]} … ({len(key)} characters)"
        explainable = not context.isddl and _EXPLAINABLE.match(key) is not None
        new = Tally(explainable, may_change_state(key))
        return self._tallies.add(identity, new), key

    def _state(self, conn: Any) -> ConnectionState | None:
        """Return what is set on a connection, None if nothing ever was."""
        if conn.closed or conn.invalidated:
            return None
        state: ConnectionState | None = conn.info.get(_STATE)
        return state

    def _place(self, conn: Any) -> Hashable:
        state = self._state(conn) if self._stateful else None
        return None if state is None else state.place

    def _note(self, conn: Any, statement: str, parameters: Any, context: Any) -> None:
        """Remember what a statement has changed for those that follow on its connection."""
        if conn.closed or conn.invalidated:
            return
        state = conn.info.setdefault(_STATE, ConnectionState())
        given = None if context.no_parameters and not parameters else copied(parameters)
        state.note(statement, given, autocommit=bool(conn.connection.dbapi_connection.autocommit))
        self._stateful = True

    def _repeat(
        self, tally: Tally, key: str, statement: str, parameters: Any, conn: Any
    ) -> int | None:
        """Count a repetition; return the driver's threshold, None if it prepares nothing.

        The statement is due when it is clear that it may be prepared, when PostgreSQL chooses, and
        with values that were not seen before.
        """
        repetition = tally.repetition
        if repetition is None:
            repetition = tally.repetition = Repetition()
        threshold = count(conn, key, repetition)
        if threshold is None:
            return None
        # The text of an IN list is another one each time.
        looks = repetition.looks < MAX_LOOKS or statement is not repetition.text
        if looks and not is_large(parameters, MAX_SET_SIZE):
            new = repetition.keep(statement, copied(parameters))
            repetition.due |= new and repetition.commits > 0
        chosen = repetition.most == threshold + CUSTOM_PLANS + 1
        if repetition.due or (chosen and not repetition.chosen):
            repetition.due, repetition.chosen = False, chosen
            tally.next_sample = float("-inf")
        if repetition.most > threshold + CUSTOM_PLANS + 1 and repetition.looks >= MAX_LOOKS:
            repetition.settled, repetition.threshold = True, threshold
        return threshold

    def _sample(self, execution: _Execution, tally: Tally, *, due: bool) -> None:
        """Submit an execution if it is due and the request and the budget allow it."""
        sink, keep_seen = self._sink(), self._keep_seen()
        sampler = sink.sampler
        once = sampler.interval == 0
        record = request_record(self._app) if keep_seen or once else None
        identity = None
        if once and record is not None:
            place = self._place(execution.context.root_connection)
            identity = (id(self.engine), execution.key, place)
        ticket, note = None, ""
        if execution.error is not None and execution.error.means_load:
            ticket = sink.submit(self._capture(execution, tally, sampler))
            note = "" if ticket else _DROPPED
        elif not due:
            note = "inspected less than PLANWATCH_SAMPLE_INTERVAL ago"
        elif record is not None and identity is not None and record.was_sampled(identity):
            note = "inspected once in this request"
        elif not sampler.spend(tally):
            note = "over the budget of PLANWATCH_INSPECTIONS_PER_MINUTE"
        else:
            if record is not None and identity is not None:
                record.sample(identity)
            ticket = sink.submit(self._capture(execution, tally, sampler))
            if ticket is None:
                sampler.give_back(tally)
                note = _DROPPED
        if record is not None and keep_seen and len(record.seen) < MAX_STATEMENTS_SHOWN:
            execution_ms = execution.duration_ms
            record.seen.append(
                Seen(execution.key, execution.parameters, execution_ms, ticket, note)
            )

    def _capture(self, execution: _Execution, tally: Tally, sampler: Sampler) -> Capture:
        context, parameters = execution.context, execution.parameters
        too_large = None
        compiled = execution.statement if context.compiled is None else context.compiled.string
        if len(compiled) > MAX_STATEMENT_SIZE or len(execution.statement) > MAX_PARAMETER_SIZE:
            too_large = SkipReason.STATEMENT_TOO_LARGE
        elif is_large(parameters, MAX_PARAMETER_SIZE):
            too_large = SkipReason.PARAMETERS_TOO_LARGE
        rows = getattr(execution.cursor, "rowcount", -1)
        root = context.root_connection
        connection = None if root.invalidated or root.closed else root.connection
        return Capture(
            text=execution.key if too_large else execution.statement,
            parameters=None if too_large else copied(parameters),
            key=execution.key,
            escaped=bool(parameters) or not context.no_parameters,
            bind=self.bind,
            database=self.database,
            duration_ms=execution.duration_ms,
            returned_rows=rows if isinstance(rows, int) and rows >= 0 else None,
            location=self._find_location(),
            endpoint=request.endpoint if has_request_context() else None,
            calls=tally.calls,
            total_ms=tally.total_ms,
            all_total_ms=sampler.total_ms,
            recent_ms=tuple(tally.recent),
            error=execution.error,
            urgent=execution.urgent,
            too_large=too_large,
            client_side=getattr(execution.cursor, "name", None) is None,
            preparation=self._preparation(execution, tally),
            construct=None if context.compiled is None else context.compiled.statement,
            connection=None if connection is None else weakref.ref(connection.driver_connection),
            state=NOTHING_SET if connection is None else self._session_state(connection),
            span=current_span(),
        )

    def _session_state(self, connection: Any) -> SessionState:
        """Return what has to be true on PlanWatch's connection before it plans the statement."""
        info = connection.info
        known: SessionState | None = info.get(_KNOWN)
        if known is None:
            known = info[_KNOWN] = SessionState(**known_of(connection.dbapi_connection))
        if known.search_path is not None:
            path = search_path_of(connection.dbapi_connection)
            if path != known.search_path:
                known = info[_KNOWN] = replace(known, search_path=path)
        state: ConnectionState | None = info.get(_STATE) if self._stateful else None
        return known if state is None else known.changed(state.current())

    def _preparation(self, execution: _Execution, tally: Tally) -> Preparation | None:
        if execution.threshold is None or tally.repetition is None:
            return None
        happened = None
        if self._app.debug:
            happened = plans_made(
                execution.context.root_connection, execution.statement, execution.parameters
            )
        names = getattr(execution.context.compiled, "positiontup", None)
        return tally.repetition.preparation(
            self.engine.dialect.driver, execution.threshold, happened, names
        )

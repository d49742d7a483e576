"""Engine events -> Capture: the only code on the application's hot path.

Nothing here waits, reads or writes anything outside the process, and no exception leaves a hook.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple, Protocol

from flask import Flask, has_request_context, request
from sqlalchemy import event
from sqlalchemy.engine import Engine, ExceptionContext

from .finding import Location, SkipReason, StatementError
from .location import location_finder
from .repetition import (
    CUSTOM_PLANS,
    MAX_ORDER,
    Preparation,
    Repetition,
    committed,
    count,
    rolled_back,
)
from .request_record import MAX_STATEMENTS_SHOWN, Seen, request_record
from .sampling import Sampler, Tallies, Tally
from .server.prepared import plans_made
from .server.session import sqlstate_of
from .spans import current_span
from .worker import Ticket, on_own_thread

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

#: What any value counts for at least, in bytes.
_VALUE_SIZE = 8


@dataclass(frozen=True, slots=True)
class Capture:
    """One execution, with its values: it never leaves capture, worker and inspection.

    `text` and `parameters` are what the driver got; `escaped` is False if the driver did not look
    for placeholders. `key` is the statement as compiled, the same object for each execution.
    `returned_rows` is None where the driver does not know. `calls`, `total_ms` and `all_total_ms`
    say how often the statement ran so far, how long that took, and how long all statements took.
    `recent_ms` are the latest executions that succeeded. `urgent` executions were too slow, or
    failed, to wait for the interval. `too_large` is the reason why text and parameters were left
    out. `client_side` is False for a cursor on the server, from which rows may still come.
    `preparation` is None where the driver prepares nothing.
    `construct` is the SQLAlchemy statement, `connection` a weak reference to the driver's, `span`
    the span of OpenTelemetry in which it ran, None if its trace is not kept.
    """

    text: str
    parameters: Any
    key: str
    escaped: bool
    bind: str | None
    database: str
    duration_ms: float
    returned_rows: int | None
    location: Location | None
    endpoint: str | None
    calls: int
    total_ms: float
    all_total_ms: float
    recent_ms: tuple[float, ...] = ()
    error: StatementError | None = None
    urgent: bool = False
    too_large: SkipReason | None = None
    client_side: bool = True
    preparation: Preparation | None = None
    construct: Any = None
    connection: Any = None
    span: Any = None

    @property
    def failed(self) -> bool:
        """Whether it failed for a reason that means load."""
        return self.error is not None and self.error.means_load


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
    too_long: bool
    duration_ms: float
    error: StatementError | None
    urgent: bool
    threshold: int | None = None


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
        self._find_location = location_finder(app.root_path)
        self.active = self._attached = False
        self._listeners: list[tuple[str, Callable[..., None]]] = [
            ("before_cursor_execute", self._before),
            ("after_cursor_execute", self._after),
            ("handle_error", self._error),
        ]
        # Only this driver prepares statements on the server by itself.
        self._prepares = engine.dialect.driver == "psycopg"
        if self._prepares:
            self._listeners += [
                ("commit", self._commit),
                ("rollback", self._rollback),
                ("rollback_savepoint", self._rollback),
            ]

    def listen(self) -> None:
        """Attach the hooks, or wake them up again."""
        self.active = True
        if not self._attached:
            self._attached = True
            for name, hook in self._listeners:
                event.listen(self.engine, name, hook)

    def unlisten(self) -> None:
        """Put the hooks to sleep.

        They stay attached: SQLAlchemy cannot take one off while another thread is calling it.
        """
        self.active = False

    def after_fork(self) -> None:
        """Renew, in a forked child, what another thread of the parent may have held."""
        self._tallies.renew_lock()

    def _before(
        self, conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> None:
        try:
            context._planwatch_started = perf_counter()
        except Exception as error:  # noqa: BLE001 - nothing may leave a hook
            self._failed(error)

    def _after(
        self, conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> None:
        try:
            # A statement may have started before the hooks were there.
            started = getattr(context, "_planwatch_started", None)
            if started is not None and self.active and not (many or context.executemany):
                duration_ms = (perf_counter() - started) * 1000
                self._observe(cursor, statement, parameters, context, duration_ms, None)
        except Exception as error:  # noqa: BLE001 - nothing may leave a hook
            self._failed(error)

    def _error(self, exception: ExceptionContext) -> None:
        try:
            context: Any = exception.execution_context
            started = getattr(context, "_planwatch_started", None)
            if started is None or not self.active or context.executemany:
                return
            if exception.sqlalchemy_exception is None:
                return
            original = exception.original_exception
            error = StatementError(
                type(original).__name__,
                sqlstate_of(original),
                disconnected=exception.is_disconnect,
                nowait=_NOWAIT.search(exception.statement or "") is not None,
            )
            duration_ms = (perf_counter() - started) * 1000
            self._observe(
                None, exception.statement, exception.parameters, context, duration_ms, error
            )
        except Exception as error:  # noqa: BLE001 - nothing may leave a hook
            self._failed(error)

    def _commit(self, conn: Any) -> None:
        try:
            for repetition in committed(conn):
                repetition.due = True
        except Exception as error:  # noqa: BLE001 - nothing may leave a hook
            self._failed(error)

    def _rollback(self, conn: Any, *_: Any) -> None:
        try:
            rolled_back(conn)
        except Exception as error:  # noqa: BLE001 - nothing may leave a hook
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        # Not even the counting may break the query.
        with suppress(Exception):
            self._sink().failed(error)

    def _observe(
        self,
        cursor: Any,
        statement: str | None,
        parameters: Any,
        context: Any,
        duration_ms: float,
        error: StatementError | None,
    ) -> None:
        """Count an execution, and go on only if it is due or a panel wants to list it."""
        compiled = context.compiled
        key = statement if compiled is None else compiled.string
        if not key or not statement:
            return
        too_long = len(key) > MAX_STATEMENT_SIZE
        if too_long:
            key = f"{key[:_SHOWN_OF_LARGE]} … ({len(key)} characters)"
        tally = self._tallies.get(key)
        if tally is None:
            explainable = not context.isddl and _EXPLAINABLE.match(key) is not None
            tally = self._tallies.add(key, explainable=explainable)
        if not tally.explainable or on_own_thread():
            return
        if context.execution_options.get("planwatch", True) is False:
            return
        sampler = self._sink().sampler
        sampler.count(tally, duration_ms, failed=error is not None)
        failed = error is not None and error.means_load
        urgent = failed or sampler.is_slow(duration_ms)
        threshold = None
        if self._prepares and parameters and error is None:
            threshold = self._repeat(tally, key, statement, parameters, context.root_connection)
        due = sampler.is_due(tally, duration_ms, urgent=urgent)
        if due or self._keep_seen():
            execution = _Execution(
                cursor,
                statement,
                parameters,
                context,
                key,
                too_long,
                duration_ms,
                error,
                urgent,
                threshold,
            )
            self._sample(execution, tally, due=due)

    def _repeat(
        self, tally: Tally, key: str, statement: str, parameters: Any, connection: Any
    ) -> int | None:
        """Count a repetition; return the driver's threshold, None if it prepares nothing.

        The statement is due when it is clear that it may be prepared, when PostgreSQL chooses, and
        with values that were not seen before.
        """
        repetition = tally.repetition
        if repetition is None:
            repetition = tally.repetition = Repetition()
        threshold = count(connection, key, repetition)
        if threshold is None:
            return None
        if len(repetition.order) < MAX_ORDER and not is_large(parameters, MAX_SET_SIZE):
            new = repetition.keep(statement, _copied(parameters))
            repetition.due |= new and repetition.commits > 0
        chosen = repetition.most == threshold + CUSTOM_PLANS + 1
        if repetition.due or (chosen and not repetition.chosen):
            repetition.due, repetition.chosen = False, chosen
            tally.next_sample = float("-inf")
        return threshold

    def _sample(self, execution: _Execution, tally: Tally, *, due: bool) -> None:
        """Submit an execution if it is due and the request and the budget allow it."""
        sink, keep_seen = self._sink(), self._keep_seen()
        sampler = sink.sampler
        once = sampler.interval == 0
        record = request_record(self._app) if keep_seen or once else None
        seen = Seen(execution.key, execution.parameters, execution.duration_ms)
        identity = (id(self.engine), execution.key)
        failed = execution.error is not None and execution.error.means_load
        if failed:
            seen.ticket = sink.submit(self._capture(execution, tally, sampler))
            if seen.ticket is None:
                seen.note = "dropped, as too many others were waiting"
        elif not due:
            seen.note = "inspected less than PLANWATCH_SAMPLE_INTERVAL ago"
        elif once and record is not None and identity in record.sampled:
            seen.note = "inspected once in this request"
        elif not sampler.spend(tally):
            seen.note = "over the budget of PLANWATCH_INSPECTIONS_PER_MINUTE"
        else:
            if record is not None:
                record.sampled.add(identity)
            seen.ticket = sink.submit(self._capture(execution, tally, sampler))
            if seen.ticket is None:
                sampler.give_back(tally)
                seen.note = "dropped, as too many others were waiting"
        if record is not None and keep_seen and len(record.seen) < MAX_STATEMENTS_SHOWN:
            record.seen.append(seen)

    def _capture(self, execution: _Execution, tally: Tally, sampler: Sampler) -> Capture:
        context, parameters = execution.context, execution.parameters
        too_large = None
        if execution.too_long or len(execution.statement) > MAX_PARAMETER_SIZE:
            too_large = SkipReason.STATEMENT_TOO_LARGE
        elif is_large(parameters, MAX_PARAMETER_SIZE):
            too_large = SkipReason.PARAMETERS_TOO_LARGE
        rows = getattr(execution.cursor, "rowcount", -1)
        return Capture(
            text=execution.key if too_large else execution.statement,
            parameters=None if too_large else _copied(parameters),
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
            connection=_weak_reference(context.root_connection),
            span=current_span(),
        )

    def _preparation(self, execution: _Execution, tally: Tally) -> Preparation | None:
        if execution.threshold is None or tally.repetition is None:
            return None
        happened = None
        if self._app.debug:
            happened = plans_made(
                execution.context.root_connection, execution.statement, execution.parameters
            )
        return tally.repetition.preparation(execution.threshold, happened)


def is_large(parameters: Any, limit: int) -> bool:
    """Whether the parameters take more bytes or characters than this, looking no further."""
    size, waiting = 0, [parameters]
    while waiting and size <= limit:
        value = waiting.pop()
        # The drivers wrap JSON in an object that holds the document.
        value = getattr(value, "obj", getattr(value, "adapted", value))
        if isinstance(value, str | bytes | bytearray | memoryview):
            size += len(value)
        elif isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list | tuple):
            waiting.extend(value)
        size += _VALUE_SIZE
    return size > limit


def _weak_reference(connection: Any) -> Any:
    if connection.invalidated or connection.closed:
        return None
    return weakref.ref(connection.connection.dbapi_connection)


def _copied(parameters: Any) -> Any:
    """Return the parameters in a container of PlanWatch's own: the app may reuse its dict."""
    if isinstance(parameters, dict):
        return dict(parameters)
    return tuple(parameters) if isinstance(parameters, list) else parameters

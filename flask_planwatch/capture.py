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
from typing import Any, Protocol

from flask import Flask, current_app, has_request_context, request
from sqlalchemy import event
from sqlalchemy.engine import Engine, ExceptionContext

from .finding import Location, SkipReason, StatementError
from .location import location_finder
from .sampling import Sampler, Tallies, Tally
from .server.session import sqlstate_of
from .worker import Ticket, on_own_thread

#: Statements that EXPLAIN takes, as the first word after comments and parentheses.
_EXPLAINABLE = re.compile(
    # Possessive and atomic: a text of nothing but comments must not take longer and longer.
    r"(?>\s+|\(|--[^\n]*\n|/\*(?:[^*]|\*(?!/))*+\*/)*+(?:select|insert|update|delete|merge|with|values|table)\b",
    re.IGNORECASE | re.DOTALL,
)

#: Parameters with more bytes or characters are not sent to the server again: planning with them
#: costs what they cost, and the plan repeats them.
MAX_PARAMETER_SIZE = 1_000_000

#: Statements of more characters are not read: a tokenizer holds the GIL for some µs for each.
MAX_STATEMENT_SIZE = 25_000

#: Characters that stand for a longer statement.
_SHOWN_OF_LARGE = 1000

#: What any value counts for at least, in bytes.
_VALUE_SIZE = 8

#: Statements of one request that the panel lists.
MAX_STATEMENTS_SHOWN = 1000

_RECORD = "flask_planwatch.record"

#: Classes of SQLSTATE that say nothing of load: bad data, a broken constraint, wrong SQL.
_PROGRAMMING_ERRORS = ("22", "23", "42")


@dataclass(frozen=True, slots=True)
class Capture:
    """One execution, with its values: it never leaves capture, worker and inspection.

    `text` and `parameters` are what the driver got; `escaped` is False if the driver did not look
    for placeholders. `key` is the statement as compiled, the same object for each execution.
    `returned_rows` is None where the driver does not know. `calls`, `total_ms` and `all_total_ms`
    say how often the statement ran so far, how long that took, and how long all statements took.
    `urgent` executions were too slow, or failed, to wait for the interval. `too_large` is the
    reason why text and parameters were left out. `construct` is the SQLAlchemy statement,
    `connection` a weak reference to the driver's.
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
    error: StatementError | None = None
    urgent: bool = False
    too_large: SkipReason | None = None
    construct: Any = None
    connection: Any = None


class Sink(Protocol):
    """Where the captures of one engine go."""

    @property
    def sampler(self) -> Sampler:
        """The sampler of the app."""

    def submit(self, capture: Capture) -> Ticket | None:
        """Accept a capture without waiting, or drop it, count that, and return None."""

    def failed(self, error: Exception) -> None:
        """Count an exception that was raised in a hook."""


@dataclass(slots=True)
class Seen:
    """A statement of the current request, for the panel."""

    key: str
    parameters: Any
    duration_ms: float
    ticket: Ticket | None = None
    note: str = ""


class RequestRecord:
    """What PlanWatch knows of one request; it lives in the request's WSGI environment.

    `flask.g` would be the wrong place: in a test-suite it may outlive many requests.
    """

    def __init__(self) -> None:
        self.sampled: set[tuple[int, str]] = set()
        self.seen: list[Seen] = []


def request_record(app: Flask) -> RequestRecord | None:
    """Return the record of the app's current request, or None if it has none now."""
    if not has_request_context() or current_app != app:
        return None
    record: RequestRecord = request.environ.setdefault(_RECORD, RequestRecord())
    return record


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
        self._active = self._attached = False
        self._listeners: list[tuple[str, Callable[..., None]]] = [
            ("before_cursor_execute", self._before),
            ("after_cursor_execute", self._after),
            ("handle_error", self._error),
        ]

    def listen(self) -> None:
        """Attach the hooks, or wake them up again."""
        self._active = True
        if not self._attached:
            self._attached = True
            for name, hook in self._listeners:
                event.listen(self.engine, name, hook)

    def unlisten(self) -> None:
        """Put the hooks to sleep.

        They stay attached: SQLAlchemy cannot take one off while another thread is calling it.
        """
        self._active = False

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
            if started is not None and self._active and not (many or context.executemany):
                duration_ms = (perf_counter() - started) * 1000
                self._observe(cursor, statement, parameters, context, duration_ms, None)
        except Exception as error:  # noqa: BLE001 - nothing may leave a hook
            self._failed(error)

    def _error(self, exception: ExceptionContext) -> None:
        try:
            context: Any = exception.execution_context
            started = getattr(context, "_planwatch_started", None)
            if started is None or not self._active or context.executemany:
                return
            if exception.sqlalchemy_exception is None:
                return
            original = exception.original_exception
            error = StatementError(type(original).__name__, sqlstate_of(original))
            duration_ms = (perf_counter() - started) * 1000
            self._observe(
                None, exception.statement, exception.parameters, context, duration_ms, error
            )
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
        compiled = context.compiled
        key = statement if compiled is None else compiled.string
        if not key or not statement:
            return
        if len(key) > MAX_STATEMENT_SIZE:
            key = f"{key[:_SHOWN_OF_LARGE]} … ({len(key)} characters)"
        tally = self._tallies.get(key)
        if tally is None:
            explainable = not context.isddl and _EXPLAINABLE.match(key) is not None
            tally = self._tallies.add(key, explainable=explainable)
        if not tally.explainable:
            return
        sink = self._sink()
        if on_own_thread():
            return
        if context.execution_options.get("planwatch", True) is False:
            return
        sampler = sink.sampler
        sampler.captured += 1
        tally.calls += 1
        tally.total_ms += duration_ms
        sampler.total_ms += duration_ms
        urgent = error is not None and (error.sqlstate or "")[:2] not in _PROGRAMMING_ERRORS
        urgent = urgent or sampler.is_slow(duration_ms)
        due = sampler.is_due(tally, duration_ms, urgent=urgent)
        keep_seen = self._keep_seen()
        if not due and not keep_seen:
            return
        record = request_record(self._app) if keep_seen or sampler.interval == 0 else None
        seen = Seen(key, parameters, duration_ms)
        once = (id(self.engine), key)
        if not due:
            seen.note = "inspected less than PLANWATCH_SAMPLE_INTERVAL ago"
        elif record is not None and sampler.interval == 0 and once in record.sampled:
            seen.note = "inspected once in this request"
        elif not sampler.spend(tally):
            seen.note = "over the budget of PLANWATCH_INSPECTIONS_PER_MINUTE"
        else:
            if record is not None:
                record.sampled.add(once)
            capture = self._capture(
                cursor, statement, parameters, context, key, tally, duration_ms, error, urgent
            )
            seen.ticket = sink.submit(capture)
            if seen.ticket is None:
                sampler.give_back(tally)
                seen.note = "dropped, as too many others were waiting"
        if record is not None and keep_seen and len(record.seen) < MAX_STATEMENTS_SHOWN:
            record.seen.append(seen)

    def _capture(
        self,
        cursor: Any,
        statement: str,
        parameters: Any,
        context: Any,
        key: str,
        tally: Tally,
        duration_ms: float,
        error: StatementError | None,
        urgent: bool,
    ) -> Capture:
        too_large = None
        if len(statement) > MAX_PARAMETER_SIZE or len(key) < len(statement) > MAX_STATEMENT_SIZE:
            too_large = SkipReason.STATEMENT_TOO_LARGE
        elif _is_too_large(parameters):
            too_large = SkipReason.PARAMETERS_TOO_LARGE
        rows = getattr(cursor, "rowcount", -1)
        return Capture(
            text=key if too_large else statement,
            parameters=None if too_large else _copied(parameters),
            key=key,
            escaped=bool(parameters) or not context.no_parameters,
            bind=self.bind,
            database=self.database,
            duration_ms=duration_ms,
            returned_rows=rows if isinstance(rows, int) and rows >= 0 else None,
            location=self._find_location(),
            endpoint=request.endpoint if has_request_context() else None,
            calls=tally.calls,
            total_ms=tally.total_ms,
            all_total_ms=self._sink().sampler.total_ms,
            error=error,
            urgent=urgent,
            too_large=too_large,
            construct=None if context.compiled is None else context.compiled.statement,
            connection=_weak_reference(context.root_connection),
        )


def _is_too_large(parameters: Any) -> bool:
    """Whether the parameters take more than MAX_PARAMETER_SIZE, looking no further than that."""
    size, waiting = 0, [parameters]
    while waiting and size <= MAX_PARAMETER_SIZE:
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
    return size > MAX_PARAMETER_SIZE


def _weak_reference(connection: Any) -> Any:
    if connection.invalidated or connection.closed:
        return None
    return weakref.ref(connection.connection.dbapi_connection)


def _copied(parameters: Any) -> Any:
    """Return the parameters in a container of PlanWatch's own: the app may reuse its dict."""
    if isinstance(parameters, dict):
        return dict(parameters)
    return tuple(parameters) if isinstance(parameters, list) else parameters

"""Decides which executions are worth an inspection, and makes a Capture of each of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from flask import Flask, has_request_context, request

from ..failure import StatementError
from ..finding import SkipReason
from ..runtime.interruption import let_through
from ..worker import Ticket
from .connection_state import NOTHING_SET
from .driver import tables_of
from .engine_connections import EngineConnections
from .execution import Capture, constructs_of
from .location import Origin
from .parameters import MAX_PARAMETER_SIZE, NotCopied, copied, text_size
from .preparation import ASYNCPG, parameter_names
from .request_record import request_record
from .sampling import Sampler
from .statistics import MAX_STATEMENT_SIZE, AllStatistics, StatementStatistics
from .written import written

_DROPPED = "dropped: too many others were waiting"
_INSPECTED = "inspected less than PLANWATCH_SAMPLE_INTERVAL ago"
_SLOW_AGAIN = "slow, but a slow execution was inspected moments ago"
_IN_THIS_REQUEST = "already inspected in this request"
_OVER_BUDGET = "over the budget of PLANWATCH_INSPECTIONS_PER_MINUTE"


class Sink(Protocol):
    """Where the captures of one engine go, and what becomes of its connections."""

    @property
    def sampler(self) -> Sampler:
        """The sampler of the app."""

    def submit(self, capture: Capture) -> Ticket | None:
        """Accept a capture without waiting, or drop it, count that, and return None."""

    def connected(self, record: Any) -> None:
        """Learn that the application has a connection, by its record in the pool."""

    def disconnected(self, record: Any) -> None:
        """Learn that the application has closed one."""

    def lost(self, record: Any) -> None:
        """Learn that the application has lost one, and will connect again."""

    def disposed(self) -> None:
        """Give PlanWatch's connection up before the engine's dispose() returns."""

    def failed(self, error: Exception) -> None:
        """Count an exception that was raised in a hook."""


#: One execution as the hooks see it: cursor, statement, parameters, context, key, duration and
#: wait in ms, and how it failed. No class of its own, as to make one takes longer.
Execution = tuple[Any, str, Any, Any, str, float, float, StatementError | None]


@dataclass
class Capturing:
    """Decides which executions of one engine are captured. The names are those of `Watch`."""

    app: Callable[[], Flask | None]
    sink: Callable[[], Sink | None]
    driver: str
    bind: str | None
    database: str
    statistics: AllStatistics
    connections: EngineConnections
    find_origin: Callable[[Origin | None], Origin | None]

    def consider(
        self,
        ran: Execution,
        statistics: StatementStatistics,
        sampler: Sampler,
        now: float,
        *,
        due: bool,
        has_panel: bool,
    ) -> None:
        """Submit an execution if it is due and the request and the budget allow it."""
        _, _, parameters, context, key, duration_ms, _, error = ran
        app, sink = self.app(), self.sink()
        if app is None or sink is None:
            return
        # Outside debug mode the panel shows nothing, so that no values are kept for it.
        shown, once = has_panel and app.debug, sampler.interval == 0
        record = request_record(app) if shown or once else None
        identity = None
        if once and record is not None:
            path_and_role = self.connections.path_and_role(context.root_connection, key, context)
            identity = (id(self), hash(key), path_and_role)
        detailed = record is not None and shown and record.has_room
        ticket, reason = None, ""
        if error is not None and error.means_load:
            ticket = sink.submit(self._capture(ran, statistics, sampler, detailed, shown))
            reason = "" if ticket else _DROPPED
        elif not due:
            reason = _INSPECTED
        elif sampler.waits(statistics, now):
            reason = _SLOW_AGAIN
        elif record is not None and identity is not None and record.was_sampled(identity):
            reason = _IN_THIS_REQUEST
        elif not sampler.spend(
            statistics, now, slow=duration_ms > sampler.slow_ms, length=len(key)
        ):
            reason = _OVER_BUDGET
        else:
            if record is not None and identity is not None:
                record.sample(identity)
            if statistics.repetition is not None and not statistics.repetition.settled:
                statistics.repetition.followed = 0
                self.statistics.plain.pop(key, None)
            ticket = sink.submit(self._capture(ran, statistics, sampler, detailed, shown))
            if ticket is None:
                sampler.give_back(statistics, length=len(key))
                reason = _DROPPED
        if record is not None and shown and record.complete:
            # Of the executions of one statement, the panel shows the first, and those inspected.
            wanted = ticket is not None or record.is_first(key)
            sql = _with_values(ran) if wanted else ""
            record.see(key, sql, parameters, duration_ms, ticket, reason)

    def _capture(
        self,
        ran: Execution,
        statistics: StatementStatistics,
        sampler: Sampler,
        shown: bool,
        listed: bool,
    ) -> Capture:
        cursor, statement, parameters, context, key, duration_ms, waited_ms, error = ran
        left_out, given, size = None, None, 0
        compiled = context.compiled
        made = statement if compiled is None else compiled.string
        if len(made) > MAX_STATEMENT_SIZE or len(statement) > MAX_PARAMETER_SIZE:
            left_out = SkipReason.STATEMENT_TOO_LARGE
        else:
            try:
                given, size = copied(parameters, MAX_PARAMETER_SIZE)
            except NotCopied as refused:
                left_out = refused.reason
        text = key if left_out else statement
        root = context.root_connection
        lost = error is not None and (root.invalidated or root.closed)
        known = None if lost else self.connections.known(root.connection)
        origin = statistics.origin = self.find_origin(statistics.origin)
        preparation, repeated = None, 0
        repetition = statistics.repetition
        if repetition is not None:
            repeated = repetition.size
            if error is None:
                names = parameter_names(context, parameters) if self.driver == ASYNCPG else None
                preparation = repetition.preparation(self.driver, statement, names)
        # Positional arguments take half the time.
        return Capture(
            text,
            given,
            key,
            bool(parameters) or not context.no_parameters,
            self.bind,
            self.database,
            duration_ms,
            waited_ms,
            getattr(cursor, "rowcount", -1),
            origin,
            _endpoint(),
            statistics,
            sampler,
            error,
            duration_ms > sampler.slow_ms or (error is not None and error.means_load),
            left_out,
            size + text_size(text) + text_size(key) + repeated,
            getattr(cursor, "name", None) is None,
            preparation,
            constructs_of(context),
            None if known is None else known.connection,
            NOTHING_SET if known is None else known.state,
            _current_span(),
            shown,
            listed,
            () if cursor is None else tables_of(cursor),
        )


def _with_values(ran: Execution) -> str:
    """Return a statement with its values for the panel; empty if one has no plain form."""
    _, statement, parameters, context, *_ = ran
    if not parameters and context.no_parameters:
        return statement
    try:
        return written(statement, parameters or (), context.dialect.driver)
    except Exception as error:  # noqa: BLE001 - a value may refuse to be shown
        let_through(error)
        return ""


def _endpoint() -> str | None:
    """Return the endpoint of the current request, in a third of what request.endpoint takes."""
    if not has_request_context():
        return None
    endpoint: str | None = request._get_current_object().endpoint  # type: ignore[attr-defined]
    return endpoint


def _current_span() -> Any:
    """Return the current span of OpenTelemetry if its trace is kept, else None.

    It imports nothing: while nobody in this process uses OpenTelemetry's traces, there is no span.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    try:
        span = trace.get_current_span()
        return span if span.get_span_context().trace_flags.sampled else None
    except Exception as error:  # noqa: BLE001 - no statement is lost for a span
        let_through(error)
        return None

"""One execution of a statement with its values, as it travels from the hooks to the inspection."""

from __future__ import annotations

from typing import Any, NamedTuple

from .finding import Location, SkipReason, StatementError
from .location import Origin
from .repetition import Preparation
from .sampling import Sampler
from .session_state import SessionState
from .tally import Tally

#: What any value counts for at least, in bytes.
_VALUE_SIZE = 8


class Capture(NamedTuple):
    """One execution, with its values: it never leaves capture, worker and inspection.

    It is made on the application's thread, so it holds things as they were found there; what can be
    worked out of them later is.

    `text` and `parameters` are what the driver got; `escaped` is False if the driver did not look
    for placeholders. `key` is the statement as compiled, the same object for each execution.
    `rowcount` is the cursor's. `tally` is what is counted of the statement by now, `sampler` what
    is counted of all. `urgent` executions were too slow, or failed, to wait for the interval.
    `too_large` is the reason why text and parameters were left out. `client_side` is False for a
    cursor on the server, from which rows may still come. `preparation` is None where the driver
    prepares nothing. `compiled` is SQLAlchemy's, `connection` a weak reference to the driver's,
    `state` what the application had set on it, `span` the span of OpenTelemetry in which the
    statement ran, None if its trace is not kept.
    """

    text: str
    parameters: Any
    key: str
    escaped: bool
    bind: str | None
    database: str
    duration_ms: float
    rowcount: Any
    origin: Origin | None
    endpoint: str | None
    tally: Tally
    sampler: Sampler
    error: StatementError | None
    urgent: bool
    too_large: SkipReason | None
    client_side: bool
    preparation: Preparation | None
    compiled: Any
    connection: Any
    state: SessionState
    span: Any

    @property
    def returned_rows(self) -> int | None:
        """How many rows it returned or changed, None where the driver does not know."""
        return self.rowcount if isinstance(self.rowcount, int) and self.rowcount >= 0 else None

    @property
    def location(self) -> Location | None:
        """The line of code that ran it."""
        return None if self.origin is None else self.origin.location

    @property
    def construct(self) -> Any:
        """The SQLAlchemy statement, None for driver-level SQL."""
        return None if self.compiled is None else self.compiled.statement

    @property
    def failed(self) -> bool:
        """Whether it failed for a reason that means load."""
        return self.error is not None and self.error.means_load


def is_large(parameters: Any, limit: int) -> bool:
    """Whether the parameters take more bytes or characters than this, looking no further."""
    values = parameters.values() if isinstance(parameters, dict) else parameters or ()
    size = 0
    for value in values:
        kind = type(value)
        if kind is str:
            size += len(value)
        elif kind not in _SMALL:
            return _is_large(parameters, limit)
        size += _VALUE_SIZE
    return size > limit


#: Types whose values are small. One with others, or with lists of them, takes a closer look.
_SMALL = frozenset({int, float, bool, type(None)})


def _is_large(parameters: Any, limit: int) -> bool:
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


def copied(parameters: Any) -> Any:
    """Return the parameters in a container of PlanWatch's own: the app may reuse its dict."""
    if isinstance(parameters, dict):
        return dict(parameters)
    return tuple(parameters) if isinstance(parameters, list) else parameters

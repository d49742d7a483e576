"""One execution of a statement with its values, as it travels from the hooks to the inspection."""

from __future__ import annotations

from typing import Any, NamedTuple

from .finding import Location, SkipReason, StatementError
from .repetition import Preparation
from .session_state import NOTHING_SET, SessionState

#: What any value counts for at least, in bytes.
_VALUE_SIZE = 8


class Capture(NamedTuple):
    """One execution, with its values: it never leaves capture, worker and inspection.

    `text` and `parameters` are what the driver got; `escaped` is False if the driver did not look
    for placeholders. `key` is the statement as compiled, the same object for each execution.
    `returned_rows` is None where the driver does not know. `calls`, `total_ms` and `all_total_ms`
    say how often the statement ran so far, how long that took, and how long all statements took.
    `recent_ms` are the latest executions that succeeded. `urgent` executions were too slow, or
    failed, to wait for the interval. `too_large` is the reason why text and parameters were left
    out. `client_side` is False for a cursor on the server, from which rows may still come.
    `preparation` is None where the driver prepares nothing.
    `construct` is the SQLAlchemy statement, `connection` a weak reference to the driver's, `state`
    what the application had set on it, `span` the span of OpenTelemetry in which the statement ran,
    None if its trace is not kept.
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
    state: SessionState = NOTHING_SET
    span: Any = None

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

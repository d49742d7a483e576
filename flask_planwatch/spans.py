"""The OpenTelemetry span of the statement's request, for findings to join its trace."""

from __future__ import annotations

import sys
from typing import Any

from .interruption import let_through


def current_span() -> Any:
    """Return the current span if its trace is kept, else None.

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

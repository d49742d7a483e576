"""Keeps PlanWatch's statements out of the traces of OpenTelemetry and Sentry."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any


@contextmanager
def unobserved() -> Iterator[None]:
    """Keep OpenTelemetry and Sentry from recording what this thread does in the block.

    They are asked by their public functions, and only if the application has loaded them.
    """
    telemetry: Any = sys.modules.get("opentelemetry.instrumentation.utils")
    sentry: Any = sys.modules.get("sentry_sdk")
    with ExitStack() as stack:
        if hasattr(telemetry, "suppress_instrumentation"):
            stack.enter_context(telemetry.suppress_instrumentation())
        if hasattr(sentry, "new_scope"):
            stack.enter_context(sentry.new_scope()).set_client(_silent_client(sentry))
        yield


# It takes 1 ms to make one.
@cache
def _silent_client(sentry: Any) -> Any:
    # Without a DSN, nothing is sent; without integrations, nothing is recorded.
    return sentry.Client(
        dsn=None, default_integrations=False, auto_enabling_integrations=False, debug=False
    )

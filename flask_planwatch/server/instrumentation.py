"""Keeps what PlanWatch sends out of the traces that other packages make of the drivers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from typing import Any


@contextmanager
def unobserved() -> Iterator[None]:
    """Keep OpenTelemetry and Sentry from recording what this thread does in the block.

    Only what the application has loaded is asked, by its public means.
    """
    managers = [one for one in (_without_spans(), _without_client()) if one is not None]
    if not managers:
        yield
        return
    with ExitStack() as stack:
        for manager in managers:
            stack.enter_context(manager)
        yield


def _without_spans() -> AbstractContextManager[Any] | None:
    """Return OpenTelemetry's own way to suppress its instrumentation, None where it has none."""
    utils = sys.modules.get("opentelemetry.instrumentation.utils")
    suppress: Callable[[], AbstractContextManager[Any]] | None
    suppress = getattr(utils, "suppress_instrumentation", None)
    return None if suppress is None else suppress()


@contextmanager
def _quiet_scope(sentry: Any) -> Iterator[None]:
    with sentry.new_scope() as scope:
        scope.set_client(_quiet_client(sentry))
        yield


def _without_client() -> AbstractContextManager[Any] | None:
    """Return a scope of Sentry's with a client that records nothing, None without Sentry."""
    sentry = sys.modules.get("sentry_sdk")
    return None if not hasattr(sentry, "new_scope") else _quiet_scope(sentry)


@cache
def _quiet_client(sentry: Any) -> Any:
    # Without a DSN nothing is sent, and without integrations the drivers' own record nothing.
    return sentry.Client(
        dsn=None, default_integrations=False, auto_enabling_integrations=False, debug=False
    )

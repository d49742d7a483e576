"""The counters as OpenTelemetry metrics, and findings as events in the trace of their request.

OpenTelemetry's API does nothing until the application sets up an SDK, before or after `init_app`.
Where the API is not installed, or cannot be imported, nothing happens here.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol

from ..finding import Finding
from ..runtime.bounded import LEARNT, RecentlyUsed
from ..runtime.clock import now
from ..runtime.weak import members
from .log import extra
from .store import Changes

if TYPE_CHECKING:
    from opentelemetry.metrics import Observation

#: The name of PlanWatch's meter and tracer.
SCOPE = "flask_planwatch"

#: The name of an event on a request's span, and of the span that stands for it.
FINDING = "planwatch.finding"

#: Findings whose latest span of their own is remembered.
MAX_MADE = 1000

#: Fields of a log record that an attribute cannot hold, or that belong to the log only.
_NO_ATTRIBUTES = frozenset(
    {
        "planwatch_evidence",
        "planwatch_advice_data",
        "planwatch_statements",
        "planwatch_time_share",
    }
)


class Source(Protocol):
    """What has counters: a Watcher."""

    @property
    def name(self) -> str:
        """The name of the app."""

    def stats(self) -> dict[str, Any]:
        """Return the counters."""


@dataclass(frozen=True)
class _Metric:
    """One instrument, and the counter that it reads: `key` times `scale`.

    `kind` ends the name of the meter's method that makes it.
    """

    name: str
    key: str
    description: str
    unit: str = "{statement}"
    kind: str = "counter"
    scale: float = 1

    def values(self, stats: dict[str, Any]) -> dict[str | None, float]:
        """Return the number for each reason, or the only number under None."""
        value = stats[self.key]
        return value if isinstance(value, dict) else {None: value * self.scale}


_RISES_AND_FALLS = "up_down_counter"

_METRICS = (
    _Metric("planwatch.captured", "captured", "Executions of statements that PlanWatch saw."),
    _Metric("planwatch.sampled", "sampled", "Executions that were taken to be inspected."),
    _Metric("planwatch.inspected", "inspected", "Executions whose plan was inspected."),
    _Metric(
        "planwatch.skipped",
        "skipped",
        "Executions that could not be inspected, or not completely, by reason.",
    ),
    _Metric(
        "planwatch.dropped",
        "dropped",
        "Executions that were not taken because too many others were waiting.",
    ),
    _Metric(
        "planwatch.over_budget",
        "over_budget",
        "Executions that were not taken because the budget of the minute was used up.",
    ),
    _Metric(
        "planwatch.errors",
        "errors",
        "Exceptions of PlanWatch itself, or of receivers of its signals and its log.",
        "{error}",
    ),
    _Metric(
        "planwatch.own_time", "own_ms", "Time that PlanWatch's thread worked.", "s", scale=0.001
    ),
    _Metric(
        "planwatch.waiting",
        "waiting",
        "Executions that wait to be inspected.",
        kind=_RISES_AND_FALLS,
    ),
    _Metric("planwatch.findings", "findings", "Active findings.", "{finding}", _RISES_AND_FALLS),
    _Metric(
        "planwatch.worker.alive",
        "worker_alive",
        "Threads of PlanWatch that run; without work they end.",
        "{thread}",
        _RISES_AND_FALLS,
    ),
)

_sources: weakref.WeakSet[Source] = weakref.WeakSet()


def observe(source: Source) -> None:
    """Have the counters of an app read whenever metrics are collected, as long as it exists."""
    _sources.add(source)
    _make_instruments()


@cache
def _make_instruments() -> None:
    """Make the instruments, which all apps of the process share, once."""
    try:
        from opentelemetry.metrics import get_meter

        meter = get_meter(SCOPE, _version())
        for metric in _METRICS:
            make = getattr(meter, f"create_observable_{metric.kind}")
            make(metric.name, [_callback(metric)], metric.unit, metric.description)
    except Exception:  # noqa: BLE001 - what is not installed, or broken, is not the app's concern
        return


def _callback(metric: _Metric) -> Callable[[Any], Iterable[Observation]]:
    def read(options: Any) -> Iterator[Observation]:
        from opentelemetry.metrics import Observation

        attributes: dict[str, str | int]
        # A child that was forked has counters of its own, and the same resource as its parent.
        process = os.getpid()
        for source in members(_sources):
            for reason, number in metric.values(source.stats()).items():
                attributes = {"planwatch.app": source.name, "process.pid": process}
                if reason is not None:
                    attributes["planwatch.reason"] = reason
                yield Observation(number, attributes)

    return read


class SpanReporter:
    """Adds findings to the spans in which their statements ran.

    A span that has ended, as the request's often has by then, takes no events: then a short span
    of its own, with a link to the request's, stands for the finding. Each finding has one such span
    in `interval` seconds, but an event each time.
    """

    def __init__(self, interval: float, clock: Callable[[], float] = now) -> None:
        self._interval = interval
        self._clock = clock
        self._made: RecentlyUsed[str, float] = RecentlyUsed(LEARNT, MAX_MADE)

    def report(self, span: Any, changes: Changes) -> None:
        """Add the findings of an inspection to a span. May raise what an exporter raises."""
        for finding in changes.resolved:
            self._made.pop(finding.id)
        if span is None:
            return
        new = {finding.id for finding in changes.detected}
        for finding in (*changes.detected, *changes.repeated):
            if span.is_recording():
                span.add_event(FINDING, span_attributes(finding))
            elif finding.id in new or self._is_due(finding):
                self._made.keep(finding.id, self._clock())
                _make_span(span, finding)

    def _is_due(self, finding: Finding) -> bool:
        made = self._made.get(finding.id)
        return made is None or abs(self._clock() - made) >= self._interval


def _make_span(span: Any, finding: Finding) -> None:
    """Make a span that stands for a finding of a span that has ended."""
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, get_tracer

    attributes, links = span_attributes(finding), [Link(span.get_span_context())]
    tracer = get_tracer(SCOPE, _version())
    tracer.start_span(FINDING, Context(), attributes=attributes, links=links).end()


def span_attributes(finding: Finding) -> dict[str, Any]:
    """Return a finding as attributes: the fields of its log record, and the message."""
    fields = {
        name.replace("planwatch_", "planwatch."): value
        for name, value in extra(finding).items()
        if name not in _NO_ATTRIBUTES and value is not None
    }
    return {**fields, "planwatch.message": finding.message}


# Each finding asks for it; it takes 0.4 ms to look it up.
@cache
def _version() -> str:
    try:
        return metadata.version("flask-planwatch")
    except metadata.PackageNotFoundError:
        return ""

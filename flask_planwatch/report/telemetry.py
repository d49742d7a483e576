"""The counters as OpenTelemetry metrics, and findings as events in the trace of their request.

All is done by OpenTelemetry's API, which does nothing until the application sets up an SDK, before
or after `init_app`. Where the API is not installed, or cannot be imported, nothing happens here.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol

from ..clock import now
from ..finding import Finding
from ..room import LEARNT, Latest
from .log import extra
from .store import Changes

if TYPE_CHECKING:
    from opentelemetry.metrics import Observation

#: The name of PlanWatch's meter and tracer.
SCOPE = "flask_planwatch"

#: The name of an event on a request's span, and of the span that stands for it.
FINDING = "planwatch.finding"

#: Findings whose latest span is remembered; the one that was made longest ago goes first.
MAX_MADE = 1000

#: Fields of a log record that no attribute can hold, or that only the log counts.
_NO_ATTRIBUTES = frozenset({"planwatch_evidence", "planwatch_advice_data", "planwatch_statements"})


class Source(Protocol):
    """Whose counters are told: a Watcher."""

    @property
    def name(self) -> str:
        """The name of the app."""

    def stats(self) -> dict[str, Any]:
        """Return the counters."""


@dataclass(frozen=True)
class _Metric:
    """One instrument. `kind` ends the name of the meter's method; `read` picks from the counters.

    `read` gives the value for each value of the further attribute `by`, or the one for None.
    """

    name: str
    kind: str
    unit: str
    description: str
    read: Callable[[dict[str, Any]], dict[str | None, float]]
    by: str = ""


def _of(key: str, scale: float = 1) -> Callable[[dict[str, Any]], dict[str | None, float]]:
    return lambda stats: {None: stats[key] * scale if scale != 1 else int(stats[key])}


_METRICS = (
    _Metric(
        "planwatch.captured",
        "counter",
        "{statement}",
        "Executions of statements that PlanWatch saw.",
        _of("captured"),
    ),
    _Metric(
        "planwatch.sampled",
        "counter",
        "{statement}",
        "Executions that were taken to be inspected.",
        _of("sampled"),
    ),
    _Metric(
        "planwatch.inspected",
        "counter",
        "{statement}",
        "Executions whose plan was inspected.",
        _of("inspected"),
    ),
    _Metric(
        "planwatch.skipped",
        "counter",
        "{statement}",
        "Executions that could not be inspected, or not completely, by reason.",
        lambda stats: dict(stats["skipped"]),
        by="planwatch.reason",
    ),
    _Metric(
        "planwatch.dropped",
        "counter",
        "{statement}",
        "Executions that were not taken because too many others were waiting.",
        _of("dropped"),
    ),
    _Metric(
        "planwatch.over_budget",
        "counter",
        "{statement}",
        "Executions that were not taken because the budget of the minute was used up.",
        _of("over_budget"),
    ),
    _Metric(
        "planwatch.errors",
        "counter",
        "{error}",
        "Exceptions of PlanWatch itself, or of receivers of its signals and its log.",
        _of("errors"),
    ),
    _Metric(
        "planwatch.own_time",
        "counter",
        "s",
        "Time that PlanWatch's thread worked.",
        _of("own_ms", 0.001),
    ),
    _Metric(
        "planwatch.waiting",
        "up_down_counter",
        "{statement}",
        "Executions that wait to be inspected.",
        _of("waiting"),
    ),
    _Metric(
        "planwatch.findings",
        "up_down_counter",
        "{finding}",
        "Active findings.",
        _of("findings"),
    ),
    _Metric(
        "planwatch.worker.alive",
        "up_down_counter",
        "{thread}",
        "Threads of PlanWatch that run; without work they end.",
        _of("worker_alive"),
    ),
)

_sources: weakref.WeakSet[Source] = weakref.WeakSet()


def observe(source: Source) -> None:
    """Tell the counters of an app whenever metrics are collected, as long as it exists."""
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
        for source in list(_sources):
            for value, number in metric.read(source.stats()).items():
                attributes = {"planwatch.app": source.name, "process.pid": process}
                if value is not None:
                    attributes[metric.by] = value
                yield Observation(number, attributes)

    return read


class SpanReporter:
    """Adds findings to the spans in which their statements ran.

    An event cannot be added to a span that has ended, as the request often has by then: a short
    span of its own, with a link to the request's, stands for it. Each finding has one such span in
    an `interval`, in seconds; an event it is each time.
    """

    def __init__(self, interval: float, clock: Callable[[], float] = now) -> None:
        self._interval = interval
        self._clock = clock
        self._made: Latest[str, float] = Latest(LEARNT, MAX_MADE)

    def report(self, span: Any, changes: Changes) -> None:
        """Tell a span what is found now. May raise what an exporter raises."""
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


@cache
def _version() -> str:
    try:
        return metadata.version("flask-planwatch")
    except metadata.PackageNotFoundError:
        return ""

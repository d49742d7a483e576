"""PlanWatch's panel in Flask-DebugToolbar: the findings of a request, and its other statements.

The toolbar imports this module by its dotted name, see toolbar.py. The panel is for debugging, so
it shows the values of parameters, and shows nothing outside debug mode: the toolbar can be switched
on there, and would show them to every visitor. All it shows is escaped by the templates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

from flask import Flask, current_app
from flask_debugtoolbar.panels import DebugPanel
from flask_debugtoolbar.utils import format_fname
from jinja2 import Environment, PackageLoader, StrictUndefined
from werkzeug import Request, Response

from ..detail import Detail
from ..finding import Advice, AdviceKind, Finding, Inspection, SkipReason
from ..interruption import let_through
from ..request_record import Seen, request_record
from ..watcher import EXTENSION, Watcher
from .psql import MAX_TEXT_SHOWN, prepared, runnable

#: Seconds that a response waits for its findings: an inspection takes some ms, and a page that
#: comes later than this feels slow.
PATIENCE = 0.5

_FAILED = (
    "<p>PlanWatch could not fill its panel. The error was counted, and the log says where it came "
    "from; the response is not affected.</p>"
)


class PlanWatchPanel(DebugPanel):
    """Shows what PlanWatch found in the statements of the request, most severe first.

    It waits up to half a second for them, and never raises: an error is counted in
    `PlanWatch.stats()`. Outside debug mode it only says why it is empty.
    """

    name = "PlanWatch"
    has_content = True

    def __init__(self, jinja_env: Environment, context: dict[str, Any] | None = None) -> None:
        super().__init__(jinja_env, context)
        self._subtitle = ""
        self._content = ""

    def nav_title(self) -> str:
        """The name in the toolbar."""
        return "PlanWatch"

    def nav_subtitle(self) -> str:
        """How many findings there are."""
        return self._subtitle

    def title(self) -> str:
        """The heading of the panel."""
        return "PlanWatch"

    def url(self) -> str:
        """Nowhere: the content is part of the page."""
        return ""

    def content(self) -> str:
        """The HTML, as process_response has made it."""
        return self._content

    def process_response(self, request: Request, response: Response) -> None:
        """Collect and render what the panel shows, once for each response."""
        watcher = None
        try:
            app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
            watcher = app.extensions.get(EXTENSION)
            report = None
            if app.debug and isinstance(watcher, Watcher) and watcher.settings.enabled:
                report = collect(app, watcher)
            self._subtitle = report.summary if report else "off"
            template = _environment().get_template("panel.html")
            content = template.render(report=report, debug=app.debug)
            # The toolbar encodes the page strictly; a statement or path may hold a lone surrogate.
            self._content = content.encode("utf-8", "backslashreplace").decode()
        except Exception as error:  # noqa: BLE001 - a page must not break for its panel
            let_through(error)
            self._subtitle, self._content = "failed", _FAILED
            if isinstance(watcher, Watcher):
                with suppress(Exception):
                    watcher.failed(error)


@dataclass(frozen=True)
class Execution:
    """One execution, with the inspection that it had by the time the panel was made."""

    seen: Seen
    inspection: Inspection | None
    detail: Detail | None = None

    @classmethod
    def of(cls, seen: Seen) -> Execution:
        """Take the inspection off the ticket once: the worker may replace it meanwhile."""
        if seen.ticket is None:
            return cls(seen, None)
        return cls(seen, seen.ticket.inspection, seen.ticket.detail)


@dataclass(frozen=True)
class Statement:
    """All executions of one statement in the request."""

    executions: tuple[Execution, ...]

    @property
    def calls(self) -> int:
        """How often it ran."""
        return len(self.executions)

    @property
    def total_ms(self) -> float:
        """How long all executions took."""
        return sum(execution.seen.duration_ms for execution in self.executions)

    @property
    def shown(self) -> Execution:
        """The execution that tells most: the latest with a plan, else with a Skip, else the first.

        Its parameters are shown, as the plan was made with them.
        """
        inspected = [one for one in self.executions if one.inspection]
        planned = [one for one in inspected if one.inspection and one.inspection.plan]
        return (planned or inspected or self.executions[:1])[-1]

    @property
    def inspection(self) -> Inspection | None:
        """The latest inspection with a plan, else one with a Skip, if there was any."""
        return self.shown.inspection

    @property
    def findings(self) -> list[Finding]:
        """What its inspections found; the worst is not always the latest."""
        return [
            finding
            for execution in self.executions
            if execution.inspection
            for finding in execution.inspection.findings
        ]

    @property
    def text(self) -> str:
        """The statement, without its literals if it was inspected."""
        return self.inspection.statement.text if self.inspection else self.shown.seen.key

    @property
    def detail(self) -> Detail | None:
        """The statement and its plan with their values, as far as they are known."""
        return self.shown.detail

    @property
    def sql(self) -> str:
        """The statement as psql takes it: with its values, or prepared if they are too long."""
        complete = self.detail.statement if self.detail else ""
        return runnable(complete) if 0 < len(complete) <= MAX_TEXT_SHOWN else prepared(self.text)

    @property
    def state(self) -> str:
        """What became of its plan: `inspected`, `skipped`, `waiting` or `not sampled`."""
        if self.inspection:
            return "skipped" if self.inspection.skip else "inspected"
        return "waiting" if self.shown.seen.ticket else "not sampled"


@dataclass(frozen=True)
class Report:
    """What the panel shows. `found` and `others` are of this request, `earlier` of former ones."""

    found: tuple[tuple[Finding, Statement], ...]
    others: tuple[Statement, ...]
    earlier: tuple[Finding, ...]
    stats: Mapping[str, Any]
    complete: bool
    #: What is watched, in one line, and whether that is nothing.
    introduction: str = ""
    watches_nothing: bool = False
    #: What is wrong with the settings.
    problems: tuple[str, ...] = ()

    @property
    def cards(self) -> list[tuple[Finding, Statement, bool]]:
        """What was found in this request, and whether the statement is shown further up already."""
        shown: set[int] = set()
        cards = []
        for finding, statement in self.found:
            cards.append((finding, statement, id(statement) in shown))
            shown.add(id(statement))
        return cards

    @property
    def waiting(self) -> bool:
        """Whether an inspection was not done in time."""
        return any(statement.state == "waiting" for statement in self.others)

    @property
    def skipped(self) -> dict[str, int]:
        """How many captures were skipped, by reason."""
        return self._skips(partial=False)

    @property
    def missing(self) -> dict[str, int]:
        """How many inspected statements lack a further plan, by reason."""
        return self._skips(partial=True)

    def _skips(self, *, partial: bool) -> dict[str, int]:
        skipped: Mapping[str, int] = self.stats["skipped"]
        return {
            reason: count
            for reason, count in skipped.items()
            if SkipReason(reason).is_partial == partial
        }

    @property
    def worker(self) -> str:
        """What PlanWatch's thread does; without work it ends by itself."""
        if not self.stats["waiting"]:
            return "idle"
        return "busy" if self.stats["worker_alive"] else "gone"

    @property
    def summary(self) -> str:
        """A few words for the toolbar."""
        if self.found:
            return plural(len(self.found), "finding")
        if self.watches_nothing:
            return "watches nothing"
        here = "waiting" if self.waiting else "no findings"
        return f"{here}, {len(self.earlier)} earlier" if self.earlier else here


def collect(app: Flask, watcher: Watcher) -> Report:
    """Wait for the findings of the current request, and return what there is to show."""
    record = request_record(app)
    seen = record.seen if record else []
    watcher.worker.wait([one.ticket for one in seen if one.ticket], PATIENCE, interim=True)
    statements = _statements(Execution.of(one) for one in seen)
    found = {
        finding.id: (finding, statement)
        for statement in statements
        for finding in statement.findings
    }
    by_weight = sorted(found.values(), key=lambda one: (one[0].severity.rank, -one[1].total_ms))
    return Report(
        found=tuple(by_weight),
        others=tuple(statement for statement in statements if not statement.findings),
        earlier=tuple(one for one in watcher.store.findings() if one.id not in found),
        stats=watcher.stats(),
        complete=record is None or record.complete,
        introduction=watcher.introduction,
        watches_nothing=watcher.watches_nothing,
        problems=watcher.problems,
    )


def _statements(executions: Iterable[Execution]) -> list[Statement]:
    """Group executions by fingerprint; those not inspected follow others of the same text."""
    executions = list(executions)
    fingerprints = {
        one.seen.key: one.inspection.statement.fingerprint for one in executions if one.inspection
    }
    groups: dict[str, list[Execution]] = {}
    for one in executions:
        groups.setdefault(fingerprints.get(one.seen.key, one.seen.key), []).append(one)
    return [Statement(tuple(group)) for group in groups.values()]


@cache
def _environment() -> Environment:
    """The panel's own Jinja: the app's and the toolbar's may have other filters and undefineds."""
    environment = Environment(
        autoescape=True,
        loader=PackageLoader("flask_planwatch.report"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        counts=counts,
        number=number,
        place=place,
        prepared=prepared,
        plural=plural,
        sentence=sentence,
        size=size,
        together=together,
    )
    return environment


def plural(count: int, noun: str) -> str:
    """Return `1 finding` or `2 findings`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def counts(by_reason: Mapping[str, int], what: str) -> str:
    """Return `0 skipped`, `3 skipped (lock-timeout)`, or with the number of each of several."""
    total = f"{sum(by_reason.values()):,} {what}"
    if len(by_reason) > 1:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in by_reason.items())
    else:
        reasons = "".join(by_reason)
    return f"{total} ({reasons})" if reasons else total


def number(value: float) -> str:
    """Return a cost or a duration with the three digits that a person compares."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def sentence(text: str) -> str:
    """Return a reason or a problem as a sentence of its own."""
    text = text.strip()
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith((".", "!", "?")) else ".")


def size(count: int) -> str:
    """Return a number of bytes as people say it."""
    if count < 1_000_000:
        return f"{count / 1000:,.0f} kB"
    return f"{count / 1_000_000:,.1f} MB"


def together(advice: Iterable[Advice]) -> list[tuple[Advice, ...]]:
    """Return each advice on its own, but the indexes that were tried together as one."""

    def trial(numbered: tuple[int, Advice]) -> object:
        number, one = numbered
        return one.verdict if one.kind is AdviceKind.CREATE_INDEX else number

    return [tuple(one for _, one in group) for _, group in groupby(enumerate(advice), trial)]


def place(path: str) -> str:
    """Return a path relative to the app or to where Python found the module."""
    # A virtual environment inside the app's folder would make a library look like the app.
    installed = path.replace("\\", "/").rpartition("/site-packages/")[2]
    if installed != path:
        return installed
    short: str = format_fname(path)
    return short if path.startswith("<") else short.strip("<>")

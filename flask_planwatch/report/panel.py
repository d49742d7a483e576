"""PlanWatch's panel in Flask-DebugToolbar: the findings of a request, and its other statements.

The toolbar imports this module by its dotted name, see toolbar.py. The panel is for debugging, so
it shows the values of parameters, and shows nothing outside debug mode: the toolbar can be switched
on there, and would show them to every visitor. All it shows is escaped by the templates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from typing import Any

from flask import Flask, current_app
from flask_debugtoolbar.panels import DebugPanel
from jinja2 import Environment, PackageLoader, StrictUndefined
from werkzeug import Request, Response

from ..capture.request_record import Seen, request_record
from ..finding import (
    DEFAULT_GUESS,
    UNKNOWN_LINE,
    Advice,
    AdviceKind,
    Finding,
    Inspection,
    SkipReason,
    names_table,
)
from ..inspection.detail import Detail, Preparable
from ..plan.wording import FORMS, say
from ..runtime.interruption import let_through
from ..watcher import EXTENSION, Watcher
from .psql import NOT_INSPECTED, NOT_KNOWN, NOT_VISIBLE, NOT_YET, Sql, lay_out, sql_of
from .store import by_fix

#: Seconds that a response waits for its findings: an inspection takes some ms, and a page that
#: comes later than this feels slow.
PATIENCE = 0.5

_NOT_INITIALISED = "PlanWatch does not watch this app: PlanWatch(app) was never called."

_ONE, _SEVERAL = "{count:,} {noun}", "{count:,} {noun}s"

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
            report, off = None, _NOT_INITIALISED
            if app.debug and isinstance(watcher, Watcher):
                if watcher.is_enabled:
                    report = collect(app, watcher)
                else:
                    # No request starts it where nothing listens.
                    watcher.begin_soon()
                    off = " ".join((watcher.introduction, *watcher.problems))
            self._subtitle = report.summary if report else "off"
            template = _environment().get_template("panel.html")
            content = template.render(report=report, debug=app.debug, off=off)
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
    #: How it is copied without its values, None if that is not known.
    form: Preparable | None = None

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
        inspected = [execution for execution in self.executions if execution.inspection]
        planned = [
            execution
            for execution in inspected
            if execution.inspection and execution.inspection.plan
        ]
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
    def sql(self) -> Sql:
        """The statement as psql takes it: with its values, or prepared if they are too long."""
        skip = self.inspection.skip if self.inspection else None
        if skip is not None and skip.reason is SkipReason.NOT_VISIBLE:
            return Sql(lay_out(self.text), NOT_VISIBLE)
        complete = self.detail.statement if self.detail else ""
        known = self.detail or self.form
        return sql_of(
            complete or self.shown.seen.sql,
            self.form,
            self.text,
            settings=known.settings if known else (),
            why_no_form=self._why_no_form,
        )

    @property
    def _why_no_form(self) -> str:
        """Why it is not known how the statement is copied without its values."""
        if self.inspection is None:
            return NOT_YET if self.state == "waiting" else NOT_INSPECTED
        skip = self.inspection.skip
        return f"{NOT_INSPECTED}: {skip.reason.explanation}" if skip else NOT_KNOWN

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
    #: How the statements of `earlier` are copied, by their fingerprints.
    forms: Mapping[str, Preparable | None] = field(default_factory=dict)

    def sql_of(self, finding: Finding) -> Sql:
        """Return the statement of a former request, whose values are not known any more."""
        return sql_of("", self.forms.get(finding.fingerprint), finding.statement.text)

    @property
    def cards(self) -> list[tuple[Finding, Statement, bool, bool]]:
        """What was found in this request, by fix.

        With whether the statement, and whether the fix, is shown further up already.
        """
        statements = {finding.id: statement for finding, statement in self.found}
        shown: set[int] = set()
        cards = []
        for group in by_fix(finding for finding, _ in self.found):
            for finding in group:
                statement = statements[finding.id]
                cards.append((finding, statement, id(statement) in shown, finding is not group[0]))
                shown.add(id(statement))
        return cards

    @property
    def fixes(self) -> list[tuple[Finding, ...]]:
        """What was found earlier, by fix."""
        return by_fix(self.earlier)

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
    tickets = [execution.ticket for execution in seen if execution.ticket]
    watcher.worker.wait(tickets, PATIENCE, interim=True)
    statements = _statements(map(Execution.of, seen), watcher.preparable)
    found = {
        finding.id: (finding, statement)
        for statement in statements
        for finding in statement.findings
    }
    described = watcher.store.described(finding for finding, _ in found.values())
    found = {finding.id: (finding, found[finding.id][1]) for finding in described}
    by_weight = sorted(found.values(), key=lambda pair: (pair[0].severity.rank, -pair[1].total_ms))
    earlier = tuple(finding for finding in watcher.store.findings() if finding.id not in found)
    return Report(
        found=tuple(by_weight),
        others=tuple(statement for statement in statements if not statement.findings),
        earlier=earlier,
        stats=watcher.stats(),
        complete=record is None or record.complete,
        introduction=watcher.introduction,
        watches_nothing=watcher.watches_nothing,
        problems=watcher.problems,
        forms={finding.fingerprint: watcher.preparable(finding.fingerprint) for finding in earlier},
    )


def _statements(
    executions: Iterable[Execution], form_of: Callable[[str], Preparable | None]
) -> list[Statement]:
    """Group executions by fingerprint; those not inspected follow others of the same text."""
    executions = list(executions)
    fingerprints = {
        execution.seen.key: execution.inspection.statement.fingerprint
        for execution in executions
        if execution.inspection
    }
    groups: dict[str, list[Execution]] = {}
    for execution in executions:
        key = execution.seen.key
        groups.setdefault(fingerprints.get(key, key), []).append(execution)
    return [Statement(tuple(group), form_of(fingerprint)) for fingerprint, group in groups.items()]


# It keeps the templates, which take 50 ms to compile.
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
    environment.globals.update(default_guess=DEFAULT_GUESS, unknown_line=UNKNOWN_LINE)
    environment.filters.update(
        cost=FORMS["cost"],
        counts=counts,
        names_table=names_table,
        number=number,
        plural=plural,
        sentence=sentence,
        size=FORMS["size"],
        together=together,
    )
    return environment


def plural(count: int, noun: str) -> str:
    """Return `1 finding` or `2 findings`."""
    return say(_ONE if count == 1 else _SEVERAL, count=count, noun=noun)


def counts(by_reason: Mapping[str, int], what: str) -> str:
    """Return `0 skipped`, `3 skipped (lock-timeout)`, or with the number of each of several."""
    total = f"{sum(by_reason.values()):,} {what}"
    if len(by_reason) > 1:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in by_reason.items())
    else:
        reasons = "".join(by_reason)
    return f"{total} ({reasons})" if reasons else total


def number(value: float) -> str:
    """Return a duration with the three digits that a person compares."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def sentence(text: str) -> str:
    """Return a reason or a problem as a sentence of its own."""
    text = text.strip()
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith((".", "!", "?")) else ".")


def together(advice: Iterable[Advice]) -> list[tuple[Advice, ...]]:
    """Return each advice on its own, but the indexes that were tried together as one."""

    def trial(numbered: tuple[int, Advice]) -> object:
        number, change = numbered
        return change.verdict if change.kind is AdviceKind.CREATE_INDEX else number

    return [tuple(change for _, change in group) for _, group in groupby(enumerate(advice), trial)]

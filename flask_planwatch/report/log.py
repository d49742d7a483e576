"""Findings as structured log records, the same advice at most once in an interval.

Logger `flask_planwatch`; a message of two lines tells a person what, where and what to do, and
`extra` holds all of it as flat data for structlog, python-json-logger and log collectors.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from ..clock import now
from ..finding import Advice, Finding, Severity, Skip, VerdictStatus, shorten
from . import terminal
from .store import Changes

logger = logging.getLogger("flask_planwatch")

#: Matters whose time of logging is remembered; the one logged longest ago goes first.
MAX_MATTERS = 1000

#: Findings of one matter that are remembered as logged: what was not logged is not resolved aloud.
MAX_LOGGED = 10

#: Messages that are said once and remembered by their hash; the one that came up longest ago goes
#: first.
MAX_TOLD = 1000

#: Characters of a title, an advice or a statement in a message: the record has them in full.
MAX_TITLE, MAX_FIX, MAX_TEXT = 200, 240, 120

#: Words of a title, and of an advice that is no DDL, so that a message has about 35.
MAX_TITLE_WORDS, MAX_FIX_WORDS = 18, 12


@dataclass
class _Matter:
    """What was logged of one advice, or of one finding without advice, in the current interval."""

    #: When the interval began.
    began: float
    critical: bool = False
    verdicts: set[VerdictStatus | None] = field(default_factory=set)
    #: The ids of the findings that stood for it, in this interval and before.
    logged: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_LOGGED))

    def is_news(self, finding: Finding) -> bool:
        """Whether a finding says more than what was logged: it is worse, or proven otherwise.

        What another statement's finding says of the same advice is news only if it proves it.
        """
        if finding.severity is Severity.CRITICAL and not self.critical:
            return True
        verdict = _verdict(finding)
        own = bool(self.logged) and self.logged[-1] == finding.id
        return verdict not in self.verdicts and (own or verdict is VerdictStatus.VERIFIED)


class LogReporter:
    """Writes findings to the log. `interval` is in seconds.

    `statements` tells how many statements a matter concerns. `debug` tells whether the application
    is being developed: what its log would not show is printed then.
    """

    def __init__(
        self,
        interval: float,
        statements: Callable[[Hashable], int],
        debug: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = now,
    ) -> None:
        self._interval = interval
        self._statements = statements
        self._debug = debug
        self._clock = clock
        self._matters: OrderedDict[Hashable, _Matter] = OrderedDict()
        self._told: OrderedDict[int, None] = OrderedDict()
        self._lock = threading.Lock()

    def report(self, changes: Changes) -> None:
        """Log what is new, what is due again, and what is gone."""
        for finding in (*changes.detected, *changes.repeated):
            if self._is_due(finding):
                level = logging.INFO if finding.severity is Severity.INFO else logging.WARNING
                statements = self._statements(finding.matter)
                self._log(level, lines(finding, statements), extra(finding, statements))
        for finding in changes.resolved:
            if self._was_logged(finding):
                subject = shorten(finding.subject, MAX_TITLE)
                message = (
                    f"resolved: the latest plan no longer shows {subject} on {finding.relation}. "
                    f"{_origin(finding)}\n  {_named(finding)}"
                )
                statements = self._statements(finding.matter)
                self._log(logging.INFO, message, extra(finding, statements))

    def report_skip(self, skip: Skip, text: str) -> None:
        """Say once for each reason that a statement could not be inspected."""
        if self._is_first(skip.reason):
            self._log(
                logging.WARNING,
                f"PlanWatch could not inspect a statement ({skip.brief}). {_FURTHER}\n"
                f"  {shorten(text, MAX_TEXT)}",
                {"db.query.text": text},
            )

    def report_unanswered(self, skip: Skip, text: str) -> None:
        """Say once for each reason that a question about a statement has no answer."""
        if self._is_first(skip.reason):
            self._log(
                logging.INFO,
                f"PlanWatch inspected a statement only partly ({skip.brief}). {_FURTHER}\n"
                f"  {shorten(text, MAX_TEXT)}",
                {"db.query.text": text},
            )

    def tell_once(self, level: int, message: str) -> None:
        """Log a message unless the same was logged before."""
        if self._is_first(message):
            self._log(level, message)

    def renew_lock(self) -> None:
        """Replace, in a forked child, a lock that a thread of the parent may hold."""
        self._lock = threading.Lock()

    def _is_first(self, what: str) -> bool:
        known_by = hash(what)
        with self._lock:
            first = known_by not in self._told
            self._told[known_by] = None
            self._told.move_to_end(known_by)
            while len(self._told) > MAX_TOLD:
                self._told.popitem(last=False)
            return first

    def _is_due(self, finding: Finding) -> bool:
        with self._lock:
            moment = self._clock()
            matter = self._matters.get(finding.matter)
            running = matter is not None and abs(moment - matter.began) < self._interval
            if matter is not None and running and not matter.is_news(finding):
                return False
            if matter is None or not running:
                logged = matter.logged if matter is not None else ()
                matter = _Matter(moment)
                matter.logged.extend(logged)
            matter.critical = matter.critical or finding.severity is Severity.CRITICAL
            matter.verdicts.add(_verdict(finding))
            matter.logged.append(finding.id)
            self._matters[finding.matter] = matter
            self._matters.move_to_end(finding.matter)
            while len(self._matters) > MAX_MATTERS:
                self._matters.popitem(last=False)
            return True

    def _was_logged(self, finding: Finding) -> bool:
        """Whether a finding that is gone was logged; if it comes again, it is logged at once."""
        with self._lock:
            matter = self._matters.get(finding.matter)
            if matter is None or finding.id not in matter.logged:
                return False
            matter.began = float("-inf")
            matter.logged = deque(
                (one for one in matter.logged if one != finding.id), maxlen=MAX_LOGGED
            )
            return True

    def _log(self, level: int, message: str, data: dict[str, Any] | None = None) -> None:
        # `logging.config` disables each logger that its configuration does not name. The way to
        # silence this one is its level.
        logger.disabled = False
        if self._debug():
            terminal.log(logger, level, message, data)
        else:
            logger.log(level, "%s", message, extra=data)


#: What follows the first of a kind.
_FURTHER = "Others are only counted."


def _verdict(finding: Finding) -> VerdictStatus | None:
    return finding.advice[0].verdict.status if finding.advice else None


def lines(finding: Finding, statements: int = 1) -> str:
    """Return what a person reads of a finding: what, how much and where; what to do, and its name.

    `statements` have the same advice.
    """
    title = shorten(finding.title or finding.problem, MAX_TITLE, MAX_TITLE_WORDS)
    first = f"{finding.severity}: {title}. {_origin(finding)}"
    serves = f" for {statements} statements" if statements > 1 else ""
    fix = f"{_fix(finding.advice)}{serves}  " if finding.advice else ""
    return f"{first}\n  {fix}{_named(finding)}"


def _fix(advice: tuple[Advice, ...]) -> str:
    verdict = advice[0].verdict
    others = sum(one.verdict == verdict for one in advice) - 1
    more = f" and {others} more" if others else ""
    label = "Tried" if verdict.status is VerdictStatus.REJECTED else "Fix"
    # DDL is there to be copied.
    summary = shorten(advice[0].summary, MAX_FIX, None if advice[0].ddl else MAX_FIX_WORDS)
    return f"{label}: {summary}{more} [{verdict.brief}]"


def _named(finding: Finding) -> str:
    return f"id {finding.id} ({finding.rule})"


def _origin(finding: Finding) -> str:
    """Return where a statement came from, with its file as seen from the current directory."""
    location, said = finding.location, []
    if location is not None:
        library = "library code at " if location.library else ""
        said.append(f"{library}{_seen_from_here(location.path)}:{location.line}")
    if finding.endpoint is not None:
        said.append(f"endpoint {finding.endpoint}")
    if location is not None and location.library:
        said.reverse()
    return ", ".join(said) or "from an unknown line"


def _seen_from_here(path: str) -> str:
    try:
        here = os.path.join(os.getcwd(), "")
    except OSError:
        return path
    return path.removeprefix(here)


def extra(finding: Finding, statements: int = 1) -> dict[str, Any]:
    """Return a finding as the flat fields of a log record; `statements` have the same advice."""
    advice = finding.advice[0] if finding.advice else None
    location = finding.location
    return {
        "planwatch_id": finding.id,
        "planwatch_rule": finding.rule,
        "planwatch_severity": str(finding.severity),
        "planwatch_problem": finding.problem,
        "planwatch_fingerprint": finding.fingerprint,
        "planwatch_tables": [finding.relation] if finding.relation else [],
        "planwatch_expression": finding.subject,
        "planwatch_evidence": dict(finding.evidence),
        "planwatch_advice": advice.summary if advice else None,
        "planwatch_advice_kind": str(advice.kind) if advice else None,
        "planwatch_advice_data": [each.as_dict() for each in finding.advice],
        "planwatch_verdict": str(advice.verdict.status) if advice else None,
        "planwatch_cost_before": advice.verdict.cost_before if advice else None,
        "planwatch_cost_after": advice.verdict.cost_after if advice else None,
        "planwatch_duration_ms": finding.duration_ms,
        "planwatch_calls": finding.calls,
        "planwatch_statements": statements,
        "planwatch_endpoint": finding.endpoint,
        "planwatch_bind": finding.statement.bind,
        "db.system.name": "postgresql",
        "db.query.text": finding.statement.text,
        "code.file.path": location.path if location else None,
        "code.line.number": location.line if location else None,
        "code.function.name": location.function if location else None,
    }

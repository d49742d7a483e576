"""Findings as structured log records, each at most once in an interval.

Logger `flask_planwatch`; the message alone tells a person what, where and what to do, and `extra`
holds the same as flat data for structlog, python-json-logger and log collectors.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from ..clock import now
from ..finding import Finding, Severity, Skip
from .store import MAX_FINDINGS, Changes

logger = logging.getLogger("flask_planwatch")

#: Messages that are said once and remembered by their hash; the one that came up longest ago goes
#: first.
MAX_TOLD = 1000


class LogReporter:
    """Writes findings to the log. `interval` is in seconds."""

    def __init__(self, interval: float, clock: Callable[[], float] = now) -> None:
        self._interval = interval
        self._clock = clock
        self._logged: OrderedDict[str, float] = OrderedDict()
        self._told: OrderedDict[int, None] = OrderedDict()
        self._lock = threading.Lock()

    def report(self, changes: Changes) -> None:
        """Log what is new, what is due again, and what is gone."""
        for finding in (*changes.detected, *changes.repeated):
            if self._is_due(finding.id):
                level = logging.INFO if finding.severity is Severity.INFO else logging.WARNING
                logger.log(level, "%s", finding.message, extra=extra(finding))
        for finding in changes.resolved:
            self._logged.pop(finding.id, None)
            logger.info(
                "%s resolved: %s on %s is no problem in the plan any more. From %s.",
                finding.rule,
                finding.subject,
                finding.relation,
                finding.origin,
                extra=extra(finding),
            )

    def report_skip(self, skip: Skip, text: str) -> None:
        """Say once for each reason that a statement could not be inspected."""
        if self._is_first(skip.reason):
            logger.warning(
                "PlanWatch could not inspect a statement, and counts the others silently. %s. "
                "The statement: %s",
                skip,
                text,
            )

    def report_unanswered(self, skip: Skip, text: str) -> None:
        """Say once for each reason that a question about a statement has no answer."""
        if self._is_first(skip.reason):
            logger.info(
                "PlanWatch could not tell all of a statement, and counts the others silently. %s. "
                "The statement: %s",
                skip,
                text,
            )

    def tell_once(self, level: int, message: str) -> None:
        """Log a message unless the same was logged before."""
        if self._is_first(message):
            logger.log(level, "%s", message)

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

    def _is_due(self, finding_id: str) -> bool:
        with self._lock:
            moment = self._clock()
            if abs(moment - self._logged.get(finding_id, float("-inf"))) < self._interval:
                return False
            self._logged[finding_id] = moment
            self._logged.move_to_end(finding_id)
            while len(self._logged) > MAX_FINDINGS:
                self._logged.popitem(last=False)
            return True


def extra(finding: Finding) -> dict[str, Any]:
    """Return a finding as the flat fields of a log record."""
    advice = finding.advice[0] if finding.advice else None
    location = finding.location
    return {
        "planwatch_id": finding.id,
        "planwatch_rule": finding.rule,
        "planwatch_severity": str(finding.severity),
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
        "planwatch_endpoint": finding.endpoint,
        "planwatch_bind": finding.statement.bind,
        "db.system.name": "postgresql",
        "db.query.text": finding.statement.text,
        "code.file.path": location.path if location else None,
        "code.line.number": location.line if location else None,
        "code.function.name": location.function if location else None,
    }

"""Findings as structured log records, the same advice at most once in an interval.

Logger `flask_planwatch`; a message of two lines tells a person what, where and what to do, and
`extra` holds all of it as flat data for structlog, python-json-logger and log collectors.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..capture.location import raised_at
from ..finding import (
    LINE_OF_LIBRARY,
    UNKNOWN_LINE,
    Advice,
    Finding,
    Location,
    Severity,
    Skip,
    VerdictStatus,
    label_of,
    on_one_line,
    shorten,
)
from ..plan.wording import Template, say
from ..runtime.bounded import LEARNT, RecentlyUsed
from ..runtime.clock import now
from . import terminal
from .store import Changes

logger = logging.getLogger("flask_planwatch")

#: What a record names as its file if it is about no line of code: "WARNING in flask_planwatch".
_PACKAGE = os.path.dirname(os.path.dirname(__file__))

#: Groups of findings whose time of logging is remembered; the one seen longest ago goes first.
MAX_GROUPS = 1000

#: Findings that are logged at one level in an interval: a screen. The last of them are kept for
#: what is critical, and a third of the other ones for fixes that save much, which may come late.
#: Once MAX_AGAIN were logged, none is that was logged before, so that in one interval or another
#: each has its turn.
MAX_ENTRIES, MAX_WARNINGS, MAX_LITTLE, MAX_AGAIN = 24, 16, 11, 8

#: Seconds that this interval has at most in debug mode: a developer clicks through more pages than
#: a screen holds, and sees on the next one what was left out.
DEBUG_SECONDS = 60.0

#: The first line of a finding, its second one without a fix, and what is said once it is gone.
_FOUND = "{severity}: {said} {origin}"
_NEXT = "[Next: {hint}  ]{named}"
_RESOLVED = "resolved: the latest execution no longer shows this: {said} {origin}\n  {named}"
_NAMED = "id {id}"

#: A fix: what it serves, and what it replaces.
_FIX = "{label}: {what}[ (put the value for {hidden:and})][ and {others} more]{verdict}"
_VERDICT = Template(" [[{brief}]]")
_USE = "[ for {serves}][, replaces {first}][ and {others} more]"
_COMMANDS = "{first}[; … (and {others} more)]"

#: Where a statement came from.
_LINE = "{path}:{line}"
_ENDPOINT = "endpoint {endpoint}"
_FROM = "from {line}"

#: What is said of a statement that was not inspected, or only partly.
_SKIPPED = "PlanWatch could not inspect a statement ({reason}). {further}\n  {text}"
_PARTLY = "PlanWatch inspected a statement only partly ({reason}). {further}\n  {text}"
_FURTHER = Template("Further statements with this reason are only counted, in PlanWatch.stats().")

#: What is printed of what the application's logging did.
_NOT_LOGGED = (
    "PlanWatch {what}. [{where} ]PlanWatch.findings() has what it found. Others are only counted, "
    "in PlanWatch.stats()."
)
_RAISED = Template(
    "could not log a message: the application's logging raised {error} at {raised_at}"
)
_LEFT_OUT = Template("left out a handler of the application's log: {error}")
_OUTSIDE = "PlanWatch logs outside of Flask's contexts;"

#: What is said in an interval in place of all others.
MORE = (
    "PlanWatch has {active} findings, more than it logs in {span}. Others are only counted: "
    "PlanWatch.findings() and the panel list all of them, those that save most first."
)
_INTERVAL, _MINUTE = Template("PLANWATCH_LOG_INTERVAL"), Template("a minute")

#: Findings of one group that are remembered as logged: what was not logged is not resolved aloud.
MAX_LOGGED = 10

#: Messages that are said once and remembered by their hash; the one that came up longest ago goes
#: first.
MAX_LOGGED_ONCE = 1000

#: Characters of a title, an advice or a statement in a message: the record has them in full.
MAX_TITLE, MAX_FIX, MAX_TEXT = 200, 240, 120

#: Words of a title, and of a message: most have about 30, and SQL is never cut to fit.
MAX_TITLE_WORDS, MAX_WORDS = 18, 40

#: So many words more are not worth a cut.
SPARE_WORDS = 2

#: Where the details of a sentence begin, so that it can end there.
_DETAILS = re.compile(r"[:;] |, (?:and|in|so)\b|, which\b(?=[^,]*$)")

#: What stands for a value that is not shown. Two colons are a cast.
_PLACEHOLDER = re.compile(r"(?<![:\w]):[a-z_]\w*")


@dataclass
class _Group:
    """What was logged of one advice, or of one finding without advice, in the current interval."""

    #: When the interval began.
    began: float
    #: The rank of the most severe one.
    rank: int = Severity.INFO.rank
    verdicts: set[VerdictStatus | None] = field(default_factory=set)
    #: The ids of the findings that stood for it, in this interval and before.
    logged: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_LOGGED))

    def says_more(self, finding: Finding) -> bool:
        """Whether a finding says more than what was logged: it is worse, or proven otherwise.

        What another statement's finding says of the same advice says more only if it proves it.
        """
        if finding.severity.rank < self.rank:
            return True
        verdict = _verdict(finding)
        own = bool(self.logged) and self.logged[-1] == finding.id
        return verdict not in self.verdicts and (own or verdict is VerdictStatus.VERIFIED)


@dataclass
class _Screen:
    """How much was logged of findings in the current interval, by level."""

    began: float = float("-inf")
    entries: Counter[int] = field(default_factory=Counter)
    #: The levels of which it was said that there is more.
    full: set[int] = field(default_factory=set)

    def take(self, finding: Finding, *, again: bool, saves_much: bool) -> bool:
        """Count a finding as logged, or return False: there is no room. `again`: it was before."""
        level, limit = _level(finding), MAX_ENTRIES
        if finding.severity is not Severity.CRITICAL and again:
            limit = MAX_AGAIN
        elif finding.severity is Severity.WARNING:
            limit = MAX_WARNINGS if saves_much else MAX_LITTLE
        if self.entries[level] >= limit:
            return False
        self.entries[level] += 1
        return True


class LogReporter:
    """Writes findings to the log. `interval` is in seconds.

    `debug` tells whether the application is being developed: what its log would not show is printed
    then. `active` tells how many findings there are, `saves_much` whether the fix of one saves much
    of the database time. `errors` counts what the application's logging raised.
    """

    def __init__(
        self,
        interval: float,
        debug: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = now,
        active: Callable[[], int] = lambda: 0,
        saves_much: Callable[[Finding], bool] = lambda finding: True,
    ) -> None:
        self._interval = interval
        self._debug = debug
        self._clock = clock
        self._active = active
        self._saves_much = saves_much
        self._screen = _Screen()
        self._groups: RecentlyUsed[Hashable, _Group] = RecentlyUsed(LEARNT, MAX_GROUPS)
        self._logged_once: RecentlyUsed[int, None] = RecentlyUsed(LEARNT, MAX_LOGGED_ONCE)
        self.errors = 0

    def report(self, changes: Changes) -> None:
        """Log what is new, what is due again, and what is gone."""
        for finding in (*changes.detected, *changes.repeated):
            if self._is_due(finding):
                self._log(_level(finding), lines(finding), extra(finding), finding.location)
        for finding in changes.resolved:
            if self._was_logged(finding):
                message = say(
                    _RESOLVED, said=_said(finding), origin=_origin(finding), named=_named(finding)
                )
                self._log(logging.INFO, message, extra(finding), finding.location)

    def report_skip(self, skip: Skip, text: str) -> None:
        """Say once for each reason that a statement was not inspected, or only partly."""
        if not self._is_first(skip.reason):
            return
        level, template = logging.WARNING, _SKIPPED
        if skip.reason.is_partial:
            level, template = logging.INFO, _PARTLY
        message = say(template, reason=skip.brief, further=_FURTHER, text=shorten(text, MAX_TEXT))
        self._log(level, message, {"db.query.text": text})

    def log_once(self, level: int, message: str) -> None:
        """Log a message unless the same was logged before."""
        if self._is_first(message):
            self._log(level, message)

    def _is_first(self, what: str) -> bool:
        known_by = hash(what)
        first = known_by not in self._logged_once
        self._logged_once.keep(known_by, None, 0)
        return first

    def _is_due(self, finding: Finding) -> bool:
        moment = self._clock()
        group = self._groups.get(finding.group)
        running = group is not None and abs(moment - group.began) < self._interval
        if group is not None and running and not group.says_more(finding):
            return False
        again = group is not None and bool(group.logged) and not running
        if not self._has_room(finding, moment, again=again):
            return False
        if group is None or not running:
            logged = group.logged if group is not None else ()
            group = _Group(moment)
            group.logged.extend(logged)
        group.rank = min(group.rank, finding.severity.rank)
        group.verdicts.add(_verdict(finding))
        group.logged.append(finding.id)
        self._groups.keep(finding.group, group)
        return True

    def _has_room(self, finding: Finding, moment: float, *, again: bool) -> bool:
        """Whether a finding may be logged in this interval; if not, say once that there is more."""
        often = self._debug() and self._interval > DEBUG_SECONDS
        interval, span = (DEBUG_SECONDS, _MINUTE) if often else (self._interval, _INTERVAL)
        if abs(moment - self._screen.began) >= interval:
            self._screen = _Screen(moment)
        if self._screen.take(finding, again=again, saves_much=self._saves_much(finding)):
            return True
        level = _level(finding)
        if level not in self._screen.full:
            self._screen.full.add(level)
            self._log(level, say(MORE, active=self._active(), span=span))
        return False

    def _was_logged(self, finding: Finding) -> bool:
        """Whether a finding that is gone was logged; if it comes again, it is logged at once."""
        group = self._groups.get(finding.group)
        if group is None or finding.id not in group.logged:
            return False
        group.began = float("-inf")
        group.logged = deque(
            (known for known in group.logged if known != finding.id), maxlen=MAX_LOGGED
        )
        return True

    def _log(
        self,
        level: int,
        message: str,
        data: dict[str, Any] | None = None,
        location: Location | None = None,
    ) -> None:
        """Log a message about this line of code; what the application's logging raises is said."""
        # `logging.config` disables each logger that its configuration does not name. The way to
        # silence this one is its level.
        logger.disabled = False
        path, line, function = _PACKAGE, 0, None
        if location is not None:
            path, line, function = location.path, location.line, location.function

        def make() -> logging.LogRecord:
            arguments = (message,)
            return logger.makeRecord(
                logger.name, level, path, line, "%s", arguments, None, function, data
            )

        try:
            if self._debug():
                terminal.log(logger, level, message, make)
            elif logger.isEnabledFor(level):
                logger.handle(make())
        except BaseException as error:
            # A filter or handler of the app's may raise anything.
            if not terminal.is_caught(error):
                raise
            self.errors += 1
            failure = _failure(error)
            if self._is_first(failure):
                terminal.write(failure)


def _failure(error: BaseException) -> str:
    """Return what is printed of an error that the application's logging raised."""
    where = None if isinstance(error, terminal.EncodingError) else _OUTSIDE
    if isinstance(error, terminal.HandlerError):
        return say(_NOT_LOGGED, what=_LEFT_OUT, error=error, where=where)
    place, name = raised_at(error), type(error).__name__
    return say(_NOT_LOGGED, what=_RAISED, error=name, raised_at=place, where=where)


def _level(finding: Finding) -> int:
    return logging.INFO if finding.severity is Severity.INFO else logging.WARNING


def _verdict(finding: Finding) -> VerdictStatus | None:
    return finding.advice[0].verdict.status if finding.advice else None


def lines(finding: Finding) -> str:
    """Return what a person reads of a finding: what, how much and where; what to do, and its name.

    Of the fix it says what it serves, which indexes it replaces, and where it belongs.
    """
    advice, named = finding.advice, _named(finding)
    first = say(_FOUND, severity=finding.severity, said=_said(finding), origin=_origin(finding))
    last = f"{_use(advice)}{_belongs_in(advice)}  {named}" if advice else named
    words = MAX_WORDS - len(f"{first} {last}".split())
    if advice:
        return f"{first}\n  {_fix(advice, words)}{last}"
    hint = shorten(finding.hint, MAX_FIX, words - 1) if finding.hint else None
    return f"{first}\n  {say(_NEXT, hint=hint, named=named)}"


def _said(finding: Finding) -> str:
    """Return what is wrong and how much it is, as a sentence."""
    whole = on_one_line(finding.title or finding.problem)
    title = _shortened(whole, MAX_TITLE, MAX_TITLE_WORDS)
    if not title.endswith("…"):
        return f"{title}."
    for expression in (finding.subject, *finding.keys):
        start = whole.find(expression)
        end = start + len(expression)
        # A part of an expression may be another one, of which there is an index.
        if expression and 0 <= start < len(title) - 1 < end <= MAX_TITLE:
            title = f"{whole[:end]}." if whole[end:] in {"", "."} else f"{whole[:end]}…"
    return title


def _fix(advice: tuple[Advice, ...], words: int) -> str:
    verdict = advice[0].verdict
    # An advice that nothing can try: `not-applicable` would read as if the advice were wrong.
    untried = verdict.status is VerdictStatus.NOT_APPLICABLE
    others = sum(
        change.verdict.status is not VerdictStatus.REJECTED
        if untried
        else change.verdict == verdict
        for change in advice[1:]
    )
    fix = partial(
        say,
        _FIX,
        label=label_of(verdict),
        hidden=None,
        others=others or None,
        verdict="" if untried else _VERDICT,
        brief=verdict.brief,
    )
    if advice[0].ddl:
        # It is there to be copied.
        return fix(what=_commands(advice[0]), hidden=_hidden(advice[0]))
    words -= len(fix(what="").split())
    return fix(what=_whole(advice[0].summary, MAX_FIX, words))


def _commands(advice: Advice) -> str:
    """Return what to run; if that is too long, the first command as a whole."""
    if len(advice.summary) <= MAX_FIX:
        return on_one_line(advice.summary)
    first, *others = (advice.public or advice).ddl
    return say(_COMMANDS, first=shorten(first, MAX_FIX), others=len(others) or None)


def _hidden(advice: Advice) -> list[str]:
    """Return which placeholders a reader has to replace by values before the SQL can be run."""
    if advice.public is None:
        return []
    given = "; ".join(advice.ddl)
    hidden = dict.fromkeys(_PLACEHOLDER.findall("; ".join(advice.public.ddl)))
    return [name for name in hidden if name not in given]


def _whole(text: str, length: int, words: int) -> str:
    """Return a sentence, without its details if it is too long with them, else cut."""
    short = _shortened(text, length, words)
    if not short.endswith("…"):
        return short
    ends = [match.start() for match in _DETAILS.finditer(text)]
    sentences = [text[:end] for end in ends if text.count("(", 0, end) == text.count(")", 0, end)]
    fitting = [whole for whole in sentences if shorten(whole, length, words) == whole]
    return fitting[-1] if fitting else short


def _shortened(text: str, length: int, words: int) -> str:
    """Return a text cut to this many words, unless it has one or two more."""
    whole = shorten(text, length, words + SPARE_WORDS)
    return shorten(text, length, words) if whole.endswith("…") else whole


def _use(advice: tuple[Advice, ...]) -> str:
    """Return what a fix serves, and which indexes it replaces."""
    rejected = advice[0].verdict.status is VerdictStatus.REJECTED
    first, *others = advice[0].replaces if advice[0].replaces and not rejected else (None,)
    return say(_USE, serves=advice[0].serves, first=first, others=len(others) or None)


def _belongs_in(advice: tuple[Advice, ...]) -> str:
    """Return where an index belongs: in the model and a migration, or in a migration only."""
    if not advice[0].migration or advice[0].verdict.status is VerdictStatus.REJECTED:
        return ""
    return ", in model+migration" if advice[0].sqlalchemy else ", in a migration"


def _named(finding: Finding) -> str:
    return say(_NAMED, id=finding.id)


def _origin(finding: Finding) -> str:
    """Return where a statement came from, with its file as seen from the current directory."""
    location, said = finding.location, []
    if location is not None:
        line = say(_LINE, path=location.shown_path, line=location.line)
        said.append(say(LINE_OF_LIBRARY, location=line) if location.library else line)
    if finding.endpoint is not None:
        said.append(say(_ENDPOINT, endpoint=finding.endpoint))
    if location is not None and location.library:
        said.reverse()
    origin = ", ".join(said) or say(_FROM, line=UNKNOWN_LINE)
    # It follows a full stop; a path is not changed.
    begins_with_path = location is not None and not location.library
    return origin if begins_with_path else f"{origin[0].upper()}{origin[1:]}"


def extra(finding: Finding) -> dict[str, Any]:
    """Return a finding as the flat fields of a log record."""
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
        "planwatch_statements": finding.statements,
        "planwatch_time_share": finding.time_share,
        "planwatch_endpoint": finding.endpoint,
        "planwatch_bind": finding.statement.bind,
        "db.system.name": "postgresql",
        "db.query.text": finding.statement.text,
        "code.file.path": location.path if location else None,
        "code.line.number": location.line if location else None,
        "code.function.name": location.function if location else None,
    }

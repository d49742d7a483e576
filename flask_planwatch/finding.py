"""What reporters receive: the outcome of inspecting one statement.

Nothing here holds a compared value, a connection or a plan node of the driver; everything is
frozen and safe to keep, to log and to send to a signal.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Hashable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .failure import StatementError as StatementError
from .plan.wording import Template, say

if TYPE_CHECKING:
    from .plan.tree import Plan

#: Characters that repr() shows of a finding or an advice: with its frame, a line of a terminal.
MAX_REPR = 90

_PLACE = "{path}:{line} in {function}"

#: How a subject ends that is a step of a plan with its table, or that gets its table.
_ON_TABLE = " on {table}"


class Severity(StrEnum):
    """How much a finding costs today."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for the most severe, so that sorting puts it first."""
        return ("critical", "warning", "info").index(self)


class AdviceKind(StrEnum):
    """What sort of change an advice asks for."""

    CREATE_INDEX = "create-index"
    REWRITE = "rewrite"
    ANALYZE = "analyze"
    VACUUM = "vacuum"
    SETTING = "setting"


class VerdictStatus(StrEnum):
    """What the planner did with an advice."""

    VERIFIED = "verified"
    REJECTED = "rejected"
    UNTESTED = "untested"
    NOT_APPLICABLE = "not-applicable"


class SkipReason(StrEnum):
    """Why a captured statement has no plan: the closed list that counters and pages use.

    GENERIC_PLAN_UNKNOWN and NOT_ANALYSED tell why one of its further plans is missing.
    """

    explanation: str

    PERMISSION_DENIED = (
        "permission-denied",
        "PlanWatch's database role may not read one of its tables",
    )
    NOT_VISIBLE = (
        "not-visible",
        "it names something that only the application's own session sees, such as a temporary "
        "table, an uncommitted table or a schema of its search_path",
    )
    SESSION_STATE_UNKNOWN = (
        "session-state-unknown",
        "PlanWatch cannot reproduce the settings, the role or the search_path of the "
        "application's connection",
    )
    STATEMENT_INVALID = "statement-invalid", "the server refused the statement itself"
    STATEMENT_TIMEOUT = (
        "statement-timeout",
        "planning took longer than PLANWATCH_STATEMENT_TIMEOUT_MS",
    )
    LOCK_TIMEOUT = "lock-timeout", "a relation stayed locked longer than PLANWATCH_LOCK_TIMEOUT_MS"
    SERVER_UNAVAILABLE = "server-unavailable", "PlanWatch could not connect to the server"
    CONNECTION_LOST = "connection-lost", "PlanWatch's connection was lost during the inspection"
    POOL_LISTENER_FAILED = (
        "pool-listener-failed",
        "the application's own listener or creator failed on PlanWatch's connection",
    )
    SHARED_CONNECTION = (
        "shared-connection",
        "PlanWatch cannot open a connection as the application does",
    )
    MULTIPLE_STATEMENTS = (
        "multiple-statements",
        "its text holds several statements, or cannot be read",
    )
    PARAMETERS_TOO_LARGE = (
        "parameters-too-large",
        "its parameters are larger than PlanWatch keeps",
    )
    PARAMETERS_NOT_COPIED = (
        "parameters-not-copied",
        "its parameters hold an object that PlanWatch cannot copy",
    )
    STATEMENT_TOO_LARGE = (
        "statement-too-large",
        "its text, or a condition in its plan, is longer than PlanWatch reads",
    )
    RECENTLY_INSPECTED = (
        "recently-inspected",
        "the same statement with other literals was inspected within PLANWATCH_SAMPLE_INTERVAL",
    )
    UNREADABLE_PLAN = "unreadable-plan", "the server's plan has a form that PlanWatch cannot read"
    PLAN_TOO_LARGE = (
        "plan-too-large",
        "its plan has more conditions, or values in them, than PlanWatch reads",
    )
    GENERIC_PLAN_UNKNOWN = "generic-plan-unknown", "its generic plan could not be obtained"
    NOT_ANALYSED = "not-analysed", "it was not run once more with EXPLAIN ANALYZE"
    EXPLAIN_FAILED = "explain-failed", "the server could not explain it"
    UNWATCHED = "unwatched", "its engine was unwatched or disposed of first"
    INTERNAL_ERROR = "internal-error", "PlanWatch itself failed on it"

    def __new__(cls, value: str, explanation: str = "") -> SkipReason:
        """Make a reason with its explanation, part of a sentence for a person."""
        reason = str.__new__(cls, value)
        reason._value_, reason.explanation = value, explanation
        return reason

    @property
    def is_partial(self) -> bool:
        """Whether only a further plan is missing: the statement was inspected all the same."""
        return self in {SkipReason.GENERIC_PLAN_UNKNOWN, SkipReason.NOT_ANALYSED}


@dataclass(frozen=True)
class Location:
    """The line of code that ran a statement.

    `library` is True if no frame of the application's own code was on the stack, so that the
    line belongs to a library that the application called.
    """

    path: str
    line: int
    function: str
    library: bool = False

    def __str__(self) -> str:
        return say(_PLACE, path=self.shown_path, line=self.line, function=self.function)

    @property
    def shown_path(self) -> str:
        """The path as seen from the current directory, as it is wherever people read it."""
        try:
            here = os.path.join(os.getcwd(), "")
        except OSError:
            return self.path
        return self.path.removeprefix(here)


@dataclass(frozen=True)
class Statement:
    """A statement without its values.

    `text` keeps the placeholders of the driver; literals that were written into it are `?`.
    `bind` is Flask-SQLAlchemy's bind key, None for the default engine and for plain engines.
    """

    fingerprint: str
    text: str
    bind: str | None = None


#: Characters and words of a reason in a line of the log.
MAX_REASON, MAX_REASON_WORDS = 70, 8

#: Where a reason goes on to details.
_CLAUSE = re.compile(r"[:;] | \(|, (?:and|or|as|because|so|which)\b")


#: What is printed of a verdict: in a line of the log, and in full.
_BRIEF = "{status}[, {costs}][: {reason}]"
_IN_FULL = "{status}[: {reason}][, {costs}]"
_COSTS = Template("cost {before:cost} -> {after:cost}")
_BRIEF_GUESS = Template("cost {before:cost} -> about {after:cost}")
#: What a new cost is while an expression has no statistics.
DEFAULT_GUESS = "the planner's default guess, because there are no statistics for it yet"
_GUESS = Template(f"cost {{before:cost}} -> {{after:cost}} by {DEFAULT_GUESS}")


@dataclass(frozen=True)
class Verdict:
    """What the planner did with an advice, and how that was found out.

    Costs are the planner's own units, of the whole statement. `guess` is True if `cost_after`
    rests on the planner's default guess because the expression has no statistics yet. `proof`
    lists what changed in the plan. `method` says how it was tried: `hypopg` or `build`.
    """

    status: VerdictStatus
    reason: str = ""
    cost_before: float | None = None
    cost_after: float | None = None
    guess: bool = False
    method: str | None = None
    proof: tuple[str, ...] = ()

    @property
    def brief(self) -> str:
        """The status with the costs, or with why it is not verified, in a few words."""
        reason = None
        if not self._has_costs and self.status is not VerdictStatus.VERIFIED:
            first = _CLAUSE.split(self.reason, maxsplit=1)[0]
            reason = shorten(first, MAX_REASON, MAX_REASON_WORDS)
        return self._said(_BRIEF, reason, _BRIEF_GUESS if self.guess else _COSTS)

    def __str__(self) -> str:
        return self._said(_IN_FULL, self.reason, _GUESS if self.guess else _COSTS)

    @property
    def _has_costs(self) -> bool:
        return self.cost_before is not None and self.cost_after is not None

    def _said(self, template: str, reason: str | None, costs: Template) -> str:
        return say(
            template,
            status=self.status,
            reason=reason,
            costs=costs if self._has_costs else None,
            before=self.cost_before,
            after=self.cost_after,
        )


#: A smaller share of the database time is not shown: it would read as 0%.
MIN_SHOWN_SHARE = 0.005

_SERVES_SEVERAL = "{statements} statements[, {share:percent} of database time]"
_SERVES_ONE = "[{share:percent} of database time]"


@dataclass(frozen=True)
class Advice:
    """One change that would help, in every form that the application's team may want it.

    `summary` is one line: the DDL of an index, or what to write instead. `ddl` holds SQL
    statements, to run one by one outside a transaction. `sqlalchemy` is Python for the model, and
    `alembic` for a migration. `migration` is one text with both, because Alembic compares the
    models with the database; if the models declare the index already, it has the migration only.
    A form that this kind of advice does not have is empty.

    `explanation` says what else to know. `index` is the name of the index, empty if there is none,
    and `index_bytes` its size in bytes, measured or estimated, or None. `replaces` names indexes
    that are not needed beside it: existing ones, and ones that were advised before. `plan` is the
    plan of the rewritten statement as text, if PlanWatch could get it.

    `statements` is how many statements with an active finding have this advice. `time_share` is
    their share of the database time that PlanWatch saw in this process, from 0 to 1, or None until
    that is a second.

    `summary` never contains a compared value. If another form does, `public` is the same advice
    with placeholders. `repr()` and `as_dict` leave the values out.
    """

    kind: AdviceKind
    summary: str
    verdict: Verdict
    ddl: tuple[str, ...] = ()
    sqlalchemy: str = ""
    alembic: str = ""
    migration: str = ""
    explanation: str = ""
    index: str = ""
    index_bytes: int | None = None
    replaces: tuple[str, ...] = ()
    plan: str = ""
    public: Advice | None = None
    statements: int = field(default=1, compare=False)
    time_share: float | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        return f"<Advice {self.kind}: {shorten(self.summary, MAX_REPR)} [{self.verdict.brief}]>"

    @property
    def serves(self) -> str:
        """How many statements and which share of the time it serves; empty if that says nothing."""
        share = self.time_share if self.time_share is not None else 0.0
        return say(
            _SERVES_SEVERAL if self.statements > 1 else _SERVES_ONE,
            statements=self.statements,
            share=share if share >= MIN_SHOWN_SHARE else None,
        )

    def as_dict(self) -> dict[str, Any]:
        """The advice as JSON-ready data without compared values, for `planwatch_advice_data`."""
        if self.public is not None:
            served = {"statements": self.statements, "time_share": self.time_share}
            return self.public.as_dict() | served
        return {
            "kind": str(self.kind),
            "summary": self.summary,
            "ddl": list(self.ddl),
            "sqlalchemy": self.sqlalchemy,
            "alembic": self.alembic,
            "migration": self.migration,
            "explanation": self.explanation,
            "index": self.index,
            "index_bytes": self.index_bytes,
            "replaces": list(self.replaces),
            "statements": self.statements,
            "time_share": self.time_share,
            "plan": self.plan,
            "verdict": str(self.verdict.status),
            "reason": self.verdict.reason,
            "cost_before": self.verdict.cost_before,
            "cost_after": self.verdict.cost_after,
            "cost_after_is_a_guess": self.verdict.guess,
            "proof": list(self.verdict.proof),
        }


_TO_DO, _TRIED = "Fix", "Tried"


def label_of(verdict: Verdict) -> str:
    """Return what stands before a change: whether it is one to make, or was only tried."""
    return _TRIED if verdict.status is VerdictStatus.REJECTED else _TO_DO


#: What is printed of a finding as one paragraph, and of where it came from.
_MESSAGE = "{rule}: {problem} From {origin}.[ {fix}]"
_FIX = Template("{label}: {changes:together_with} [[{verdict}]]")
_ORIGIN = "[endpoint {first_endpoint}, ]{line}[ (endpoint {endpoint})]"
_LINE = Template("{location}")
LINE_OF_LIBRARY = Template("library code at {location}")
UNKNOWN_LINE = Template("an unknown line")


#: A word. What SQL has in quotes is part of one; an apostrophe follows a letter.
_WORD = re.compile(r"""(?:(?<!\w)(?:[eE]?'[^']*+'|"[^"]*+")|\S)++""")

#: A literal with the end of a line in it.
_LINES = re.compile(r"(?<!\w)([eE]?)'([^'\n]*+\n[^']*+)'")


def shorten(text: str, length: int, words: int | None = None) -> str:
    """Return a text on one line, cut to this many characters, and to this many words.

    White space in the quotes of SQL stays as it is: other white space would be another index.
    """
    all_words = _words(text)
    line = " ".join(all_words[:words])
    if len(line) <= length:
        return line if words is None or len(all_words) <= words else f"{line}…"
    return f"{line[: length - 1].rstrip()}…"


def on_one_line(text: str) -> str:
    """Return a text on one line, with the white space that is in the quotes of SQL."""
    return " ".join(_words(text))


def _words(text: str) -> list[str]:
    return [_without_lines(word) for word in _WORD.findall(text)]


def _without_lines(word: str) -> str:
    def escaped(literal: re.Match[str]) -> str:
        body = literal[2] if literal[1] else literal[2].replace("\\", r"\\")
        return "E'" + body.replace("\n", r"\n").replace("\r", r"\r") + "'"

    return " ".join(_LINES.sub(escaped, word).splitlines())


def names_table(subject: str, relation: str) -> bool:
    """Whether a subject is a step of a plan with its table, as `Seq Scan on run`."""
    tables = relation, relation.rpartition(".")[2]
    return any(subject.endswith(say(_ON_TABLE, table=table)) for table in tables)


def finding_id(fingerprint: str, rule: str, relation: str, subject: str) -> str:
    """Return the 12 hex digits that name a finding wherever it is seen."""
    identity = "\0".join((fingerprint, rule, relation, subject))
    return hashlib.sha256(identity.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Finding:
    """A problem in the plan of one statement.

    `title` says in a few words what is wrong and how much it is, `problem` in full, and `hint`
    what to look at next where there is no advice.
    `relation` is the schema-qualified table, quoted where PostgreSQL would quote it; `subject` is
    the normalised expression, column list or node that the finding is about, and `keys` are the
    columns and expressions of it, one by one. `evidence` holds
    JSON-ready facts (rows, costs, the plan node) without compared values. `scanned` are the
    relations that the plan reads for it, as `schema.name`, with `table_rows` rows in all.
    `relation` is empty if the statement reads no table. Durations are in ms. `saves_ms` is what the
    advice would have saved at most of the time that the statement has taken so far. `indexes` is a
    mark of the indexes that the tables of the statement have, empty if they have none. `statements`
    and `time_share` are those of the first advice; without advice, they are of the statement alone.
    """

    rule: str
    severity: Severity
    statement: Statement
    relation: str
    subject: str
    problem: str
    evidence: dict[str, Any] = field(default_factory=dict, hash=False)
    keys: tuple[str, ...] = ()
    scanned: tuple[str, ...] = ()
    table_rows: float = 0.0
    advice: tuple[Advice, ...] = ()
    location: Location | None = None
    endpoint: str | None = None
    duration_ms: float | None = None
    calls: int = 1
    error: StatementError | None = None
    title: str = ""
    hint: str = ""
    saves_ms: float = field(default=0.0, compare=False)
    indexes: str = field(default="", compare=False)
    statements: int = field(default=1, compare=False)
    time_share: float | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        first = f" [{self.advice[0].verdict.status}]" if self.advice else ""
        shown = shorten(f"{self.severity} {self.rule}: {self.about}", MAX_REPR)
        return f"<Finding {self.id} {shown}{first}>"

    @property
    def about(self) -> str:
        """The subject, with its table unless that is named in it or the statement reads none."""
        if not self.relation or names_table(self.subject, self.relation):
            return self.subject
        return self.subject + say(_ON_TABLE, table=self.relation)

    @cached_property
    def id(self) -> str:
        """Twelve hex digits that stay the same for the same problem."""
        return finding_id(self.statement.fingerprint, self.rule, self.relation, self.subject)

    @cached_property
    def group(self) -> Hashable:
        """The table and the advice, which findings may share; without advice, the finding's id.

        Of a group, one finding is logged in an interval. It is kept, as `id` and `changes` are: an
        inspection asks all active findings for them, which without would take 1 ms for 1 000.
        """
        if not self.advice:
            return self.id
        return (self.statement.bind, self.relation, tuple(map(_asked, self.advice)))

    @cached_property
    def changes(self) -> tuple[Hashable, ...]:
        """What each advice asks for, the same for all findings that it helps; else the id."""
        if not self.advice:
            return (self.id,)
        bind, relation = self.statement.bind, self.relation
        return tuple((bind, relation, _asked(advice)) for advice in self.advice)

    def is_cured_by(self, kinds: Collection[AdviceKind]) -> bool:
        """Whether one of the advised changes is of these kinds."""
        return any(advice.kind in kinds for advice in self.advice)

    @property
    def fingerprint(self) -> str:
        """The statement's fingerprint."""
        return self.statement.fingerprint

    @property
    def origin(self) -> str:
        """Where the statement came from; a library's line is led by the endpoint."""
        line = UNKNOWN_LINE
        if self.location:
            line = LINE_OF_LIBRARY if self.location.library else _LINE
        return say(
            _ORIGIN,
            line=line,
            location=self.location,
            first_endpoint=None if line is _LINE else self.endpoint,
            endpoint=self.endpoint if line is _LINE else None,
        )

    @property
    def message(self) -> str:
        """What, where and what to do, in one paragraph."""
        first = self.advice[0].verdict if self.advice else None
        return say(
            _MESSAGE,
            rule=self.rule,
            problem=self.problem,
            origin=self.origin,
            fix=_FIX if first else None,
            label=label_of(first) if first else None,
            changes=[advice.summary for advice in self.advice if advice.verdict == first],
            verdict=first,
        )


def _asked(advice: Advice) -> Hashable:
    """Return what an advice asks for, without values."""
    return (advice.kind, advice.summary, (advice.public or advice).ddl)


@dataclass(frozen=True)
class Skip:
    """Why a statement could not be inspected. `detail` never holds a compared value."""

    reason: SkipReason
    detail: str = ""

    @property
    def brief(self) -> str:
        """The reason with its detail, or else with what it means."""
        return f"{self.reason}: {self.detail or self.reason.explanation}"

    def __str__(self) -> str:
        return f"{self.reason}: {self.reason.explanation}" + (
            f" ({self.detail})" if self.detail else ""
        )


@dataclass(frozen=True)
class Dismissal:
    """Something that looked wrong and, on evidence, is not.

    `by_parameters` is True if other parameters could have turned it into a finding. `rejected` is
    the best advice that was tried, if the planner would not follow it.
    """

    rule: str
    relation: str
    subject: str
    reason: str
    by_parameters: bool = False
    rejected: Advice | None = None


#: Changes that leave the indexes of a table as they are.
_WITHOUT_INDEX = frozenset({AdviceKind.ANALYZE, AdviceKind.VACUUM, AdviceKind.SETTING})


@dataclass(frozen=True)
class Inspection:
    """The outcome for one captured statement: a plan with its findings, or a Skip.

    `served` has the table and the column or expression of each condition that an index answers in
    this plan. `judged` has the rules that judged the statement as a whole, with a result that does
    not depend on its values. `unanswered` says why a rule did not get an additional plan. `indexes`
    is a mark of the indexes that the tables have.
    """

    statement: Statement
    duration_ms: float
    plan: Plan | None = None
    findings: tuple[Finding, ...] = ()
    dismissals: tuple[Dismissal, ...] = ()
    served: frozenset[tuple[str, str]] = frozenset()
    judged: frozenset[str] = frozenset()
    unanswered: tuple[Skip, ...] = ()
    skip: Skip | None = None
    location: Location | None = None
    endpoint: str | None = None
    error: StatementError | None = None
    indexes: str = field(default="", compare=False)

    def settles(self, finding: Finding, *, stale: bool = False) -> bool:
        """Whether this inspection shows that an earlier finding of the statement is gone.

        It does if the finding was not raised although these parameters would have raised it: an
        index answers the expression now, or evidence that holds for all values dismissed it. If the
        tables have the same indexes as before, it was the values that made the planner choose
        another one: that settles only a `stale` finding, which was not raised for long, and one
        whose advice is to change something else. Without a plan that a rule asked for, nothing is
        dismissed for good: with it, the rule might have raised the finding.
        """
        if self.plan is None or finding.fingerprint != self.statement.fingerprint:
            return False
        if any(current.id == finding.id for current in self.findings):
            return False
        if finding.rule in self.judged:
            reads = {scan.qualified_relation for scan in self.plan.scans}
            if finding.scanned and reads.isdisjoint(finding.scanned):
                # With another search path it is about another schema's tables.
                return False
            if self.unanswered:
                return False
            return all(current.rule != finding.rule for current in self.findings)
        for dismissal in self.dismissals:
            subject = (dismissal.rule, dismissal.relation, dismissal.subject)
            if subject == (finding.rule, finding.relation, finding.subject):
                return not dismissal.by_parameters and not self.unanswered
        unchanged = finding.indexes and finding.indexes == self.indexes
        if unchanged and not stale and not finding.is_cured_by(_WITHOUT_INDEX):
            return False
        # They read expressions by sqlglot, which the application's thread never loads.
        from .plan.index_use import is_gone
        from .plan.pattern import is_subject

        # An index that holds the key of a pattern need not answer it.
        keys = () if is_subject(finding.subject) else finding.keys
        return any(
            (finding.relation, key) in self.served or is_gone(self.plan, set(finding.scanned), key)
            for key in keys or (finding.subject,)
        )

    def replaces(self, finding: Finding) -> bool:
        """Whether one of the findings is an earlier one under another name.

        A constant in an expression turned out to be a value, so that it is masked from now on; or a
        rule that judges the whole statement found another step of the plan to blame.
        """
        from .plan.scrub import mask

        return any(
            current.rule == finding.rule
            and current.fingerprint == finding.fingerprint
            and current.id != finding.id
            and (
                current.rule in self.judged
                or (
                    current.relation == finding.relation
                    and current.subject == mask(finding.subject)
                )
            )
            for current in self.findings
        )

"""What reporters receive: the outcome of inspecting one statement.

Nothing here holds a compared value, a connection or a plan node of the driver; everything is
frozen and safe to keep, to log and to send to a signal.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

from .plan.failure import StatementError as StatementError
from .plan.pattern import is_subject
from .plan.scrub import mask
from .plan.tree import Plan
from .plan.usage import is_gone

#: Characters that repr() shows of a finding or an advice: with its frame, a line of a terminal.
MAX_REPR = 90


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
    """What the planner said of an advice."""

    VERIFIED = "verified"
    REJECTED = "rejected"
    UNTESTED = "untested"
    NOT_APPLICABLE = "not-applicable"


class SkipReason(StrEnum):
    """Why a captured statement has no plan: the closed list that counters and pages use.

    GENERIC_PLAN_UNKNOWN and NOT_ANALYSED tell why one of its further plans is missing.
    """

    PERMISSION_DENIED = "permission-denied"
    NOT_VISIBLE = "not-visible"
    SESSION_STATE_UNKNOWN = "session-state-unknown"
    STATEMENT_INVALID = "statement-invalid"
    STATEMENT_TIMEOUT = "statement-timeout"
    LOCK_TIMEOUT = "lock-timeout"
    SERVER_UNAVAILABLE = "server-unavailable"
    CONNECTION_LOST = "connection-lost"
    POOL_LISTENER_FAILED = "pool-listener-failed"
    SHARED_CONNECTION = "shared-connection"
    MULTIPLE_STATEMENTS = "multiple-statements"
    PARAMETERS_TOO_LARGE = "parameters-too-large"
    PARAMETERS_NOT_COPIED = "parameters-not-copied"
    STATEMENT_TOO_LARGE = "statement-too-large"
    RECENTLY_INSPECTED = "recently-inspected"
    UNREADABLE_PLAN = "unreadable-plan"
    PLAN_TOO_LARGE = "plan-too-large"
    GENERIC_PLAN_UNKNOWN = "generic-plan-unknown"
    NOT_ANALYSED = "not-analysed"
    EXPLAIN_FAILED = "explain-failed"
    UNWATCHED = "unwatched"
    INTERNAL_ERROR = "internal-error"

    @property
    def explanation(self) -> str:
        """One sentence for a person."""
        return _EXPLANATIONS[self]

    @property
    def is_partial(self) -> bool:
        """Whether only a further plan is missing: the statement was inspected all the same."""
        return self in {SkipReason.GENERIC_PLAN_UNKNOWN, SkipReason.NOT_ANALYSED}


_EXPLANATIONS = {
    SkipReason.PERMISSION_DENIED: "PlanWatch's database role may not read a relation of it",
    SkipReason.NOT_VISIBLE: (
        "it names something that only the application's own session sees, such as a temporary "
        "table, an uncommitted table or a schema of its search_path"
    ),
    SkipReason.SESSION_STATE_UNKNOWN: (
        "the settings, the role or the search path of the application's connection cannot be had "
        "on PlanWatch's"
    ),
    SkipReason.STATEMENT_INVALID: "the server refused the statement itself",
    SkipReason.STATEMENT_TIMEOUT: "planning took longer than PLANWATCH_STATEMENT_TIMEOUT_MS",
    SkipReason.LOCK_TIMEOUT: "a relation stayed locked longer than PLANWATCH_LOCK_TIMEOUT_MS",
    SkipReason.SERVER_UNAVAILABLE: "PlanWatch could not connect to the server",
    SkipReason.CONNECTION_LOST: "PlanWatch's connection broke meanwhile",
    SkipReason.POOL_LISTENER_FAILED: (
        "the application's own listener or creator failed on PlanWatch's connection"
    ),
    SkipReason.SHARED_CONNECTION: (
        "the application's engine has one connection for all, and that is not PlanWatch's to use"
    ),
    SkipReason.MULTIPLE_STATEMENTS: "its text holds several statements, or cannot be read",
    SkipReason.PARAMETERS_TOO_LARGE: "its parameters are larger than PlanWatch sends again",
    SkipReason.PARAMETERS_NOT_COPIED: (
        "its parameters hold an object that may change, that lends its memory or that holds more "
        "than can be seen, which PlanWatch must not keep"
    ),
    SkipReason.STATEMENT_TOO_LARGE: (
        "its text, or a condition in its plan, is longer than PlanWatch reads"
    ),
    SkipReason.RECENTLY_INSPECTED: (
        "the same statement with other literals was inspected within PLANWATCH_SAMPLE_INTERVAL"
    ),
    SkipReason.UNREADABLE_PLAN: "the server's plan has a form that PlanWatch cannot read",
    SkipReason.PLAN_TOO_LARGE: "its plan has more conditions than PlanWatch reads",
    SkipReason.GENERIC_PLAN_UNKNOWN: (
        "what the server would do with it once it is prepared cannot be told"
    ),
    SkipReason.NOT_ANALYSED: "it was not run once more with EXPLAIN ANALYZE",
    SkipReason.EXPLAIN_FAILED: "the server could not explain it",
    SkipReason.UNWATCHED: "its engine was let go before it could be inspected",
    SkipReason.INTERNAL_ERROR: "PlanWatch itself failed on it",
}


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
        return f"{self.path}:{self.line} in {self.function}"


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
_CLAUSE = re.compile(r"[:;] | \(|, (?:and|or|as|because|which)\b")


def _cost(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


@dataclass(frozen=True)
class Verdict:
    """What the planner said of an advice, and what the saying rests on.

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
        if self.cost_before is not None and self.cost_after is not None:
            about = "about " if self.guess else ""
            return (
                f"{self.status}, cost {_cost(self.cost_before)} -> {about}{_cost(self.cost_after)}"
            )
        first = _CLAUSE.split(self.reason, maxsplit=1)[0]
        if self.status is VerdictStatus.VERIFIED or not first:
            return str(self.status)
        return f"{self.status}: {shorten(first, MAX_REASON, MAX_REASON_WORDS)}"

    def __str__(self) -> str:
        if self.cost_before is None or self.cost_after is None:
            return f"{self.status}: {self.reason}" if self.reason else str(self.status)
        costs = f"cost {self.cost_before:g} -> {self.cost_after:g}"
        if self.guess:
            costs += " by the planner's default guess, as there are no statistics for it yet"
        return (
            f"{self.status}: {self.reason}, {costs}" if self.reason else f"{self.status}, {costs}"
        )


@dataclass(frozen=True)
class Advice:
    """One change that would help, in every form that the application's team may want it.

    `summary` is one line: the DDL of an index, or what to write instead. `ddl` holds SQL
    statements to run one by one outside a transaction; `sqlalchemy` and `alembic` hold Python, and
    `migration` both as one piece, as neither is enough where Alembic compares models and database.
    An empty rendering means that this kind of advice has no such form. `index_bytes` is the
    estimated size of the index. `plan` is the plan that a rewritten statement gets, as text, where
    it can be derived. `summary` never holds a compared value; if the other renderings do, `public`
    is the same advice with placeholders. What is printed of an advice leaves those out.
    """

    kind: AdviceKind
    summary: str
    verdict: Verdict
    ddl: tuple[str, ...] = ()
    sqlalchemy: str = ""
    alembic: str = ""
    migration: str = ""
    explanation: str = ""
    index_bytes: int | None = None
    plan: str = ""
    public: Advice | None = None

    def __repr__(self) -> str:
        return f"<Advice {self.kind}: {shorten(self.summary, MAX_REPR)} [{self.verdict.brief}]>"

    def as_dict(self) -> dict[str, Any]:
        """The advice as JSON-ready data without compared values, for `planwatch_advice_data`."""
        if self.public is not None:
            return self.public.as_dict()
        return {
            "kind": str(self.kind),
            "summary": self.summary,
            "ddl": list(self.ddl),
            "sqlalchemy": self.sqlalchemy,
            "alembic": self.alembic,
            "migration": self.migration,
            "explanation": self.explanation,
            "index_bytes": self.index_bytes,
            "plan": self.plan,
            "verdict": str(self.verdict.status),
            "reason": self.verdict.reason,
            "cost_before": self.verdict.cost_before,
            "cost_after": self.verdict.cost_after,
            "cost_after_is_a_guess": self.verdict.guess,
            "proof": list(self.verdict.proof),
        }


def shorten(text: str, length: int, words: int | None = None) -> str:
    """Return a text on one line, cut to this many characters, and to this many words."""
    said = text.split()
    line = " ".join(said[:words])
    if len(line) <= length:
        return line if words is None or len(said) <= words else f"{line}…"
    return f"{line[: length - 1].rstrip()}…"


def finding_id(fingerprint: str, rule: str, relation: str, subject: str) -> str:
    """Return the 12 hex digits that name a finding wherever it is seen."""
    identity = "\0".join((fingerprint, rule, relation, subject))
    return hashlib.sha256(identity.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Finding:
    """A problem in the plan of one statement.

    `title` says in a few words what is wrong and how much it is, `problem` in full.
    `relation` is the schema-qualified table, quoted where PostgreSQL would quote it; `subject` is
    the normalised expression, column list or node that the finding is about, and `keys` are the
    columns and expressions of it, one by one. `evidence` holds
    JSON-ready facts (rows, costs, the plan node) without compared values. `scanned` are the
    relations that the plan reads for it, as `schema.name`, with `table_rows` rows in all.
    `relation` is empty if the statement reads no table. Durations are in ms.
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

    def __repr__(self) -> str:
        of_what = f"{self.subject} on {self.relation}" if self.relation else self.subject
        first = f" [{self.advice[0].verdict.status}]" if self.advice else ""
        shown = shorten(f"{self.severity} {self.rule}: {of_what}", MAX_REPR)
        return f"<Finding {self.id} {shown}{first}>"

    @cached_property
    def id(self) -> str:
        """Twelve hex digits that stay the same for the same problem."""
        return finding_id(self.statement.fingerprint, self.rule, self.relation, self.subject)

    @cached_property
    def matter(self) -> Hashable:
        """What is to be done where: the same for all findings with the same advice.

        Without advice, each finding is a matter of its own.
        """
        if not self.advice:
            return self.id
        changes = ((one.kind, one.summary, one.public or one) for one in self.advice)
        asked = tuple((kind, summary, public.ddl) for kind, summary, public in changes)
        return (self.statement.bind, self.relation, asked)

    @property
    def fingerprint(self) -> str:
        """The statement's fingerprint."""
        return self.statement.fingerprint

    @property
    def origin(self) -> str:
        """Where the statement came from; a library's line is led by the endpoint."""
        place = str(self.location) if self.location else "an unknown line"
        if self.location and self.location.library:
            place = f"library code at {place}"
        if self.endpoint is None:
            return place
        if self.location and not self.location.library:
            return f"{place} (endpoint {self.endpoint})"
        return f"endpoint {self.endpoint}, {place}"

    @property
    def message(self) -> str:
        """What, where and what to do, in one paragraph."""
        lead = f"{self.rule}: {self.problem} From {self.origin}."
        if not self.advice:
            return lead
        first = self.advice[0]
        rejected = first.verdict.status is VerdictStatus.REJECTED
        label = "Tried" if rejected else "Fix"
        together = [one.summary for one in self.advice if one.verdict == first.verdict]
        return f"{lead} {label}: {' together with '.join(together)} [{first.verdict}]"


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


@dataclass(frozen=True)
class Inspection:
    """The outcome for one captured statement: a plan with its findings, or a Skip.

    `served` are the table and the key of all that indexes served in the plan; `judged` the rules
    that judged the statement as a whole, on evidence that holds for all values. `unanswered` tells
    which questions of a rule have no answer.
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

    def settles(self, finding: Finding) -> bool:
        """Whether this inspection shows that an earlier finding of the statement is gone.

        It does if the finding was not raised although these parameters would have raised it: an
        index answers the expression now, or evidence that holds for all values dismissed it.
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
            return all(current.rule != finding.rule for current in self.findings)
        for dismissal in self.dismissals:
            subject = (dismissal.rule, dismissal.relation, dismissal.subject)
            if subject == (finding.rule, finding.relation, finding.subject):
                return not dismissal.by_parameters
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

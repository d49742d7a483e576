"""What a rule suspects, what it asks for, and what it is given to judge by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from .comparison import Comparison
from .failure import StatementError
from .predicate import Operand
from .schema import Relation, Schema, Structural
from .scrub import mask
from .tree import Node, Plan

#: Executions that it takes before a time is believed: one alone may have waited for a lock, or for
#: a busy process.
MIN_EXECUTIONS = 3

#: Plans of a lower cost take no time but that of the way to the server.
MIN_COST = 1.0

#: What the driver takes for each row that it fetches, in ms: psycopg2 and psycopg 3 fetch 100 000
#: rows of some columns in half a second.
MS_PER_ROW = 0.005


class Need(StrEnum):
    """A further plan that a rule may ask for."""

    #: The same statement with sequential scans switched off.
    SEQSCAN_OFF = "seqscan-off"
    #: The suspicious predicate alone on its relation, with sequential scans switched off.
    PREDICATE_ALONE = "predicate-alone"
    #: The same with the bare column in place of its cast.
    OWN_TYPE = "own-type"
    #: What the server would do with the statement once it is prepared.
    PREPARED = "prepared"
    #: The statement run once more with EXPLAIN ANALYZE, where PLANWATCH_ANALYZE allows it.
    ANALYSED = "analysed"


class Remedy(StrEnum):
    """What sort of advice a hit asks for."""

    #: An index that holds the suspicion's keys.
    INDEX = "index"
    #: A comparison in the column's own type.
    OWN_TYPE = "own-type"
    #: `@>` instead of a value that is looked for in an array.
    CONTAINMENT = "containment"
    #: Values that reach the planner although the statement is prepared.
    PREPARED = "prepared"
    #: A join in place of a sub-query that runs for each row.
    JOIN = "join"
    #: Better knowledge of the rows: ANALYZE, or statistics of several columns together.
    STATISTICS = "statistics"
    #: VACUUM of a table.
    VACUUM = "vacuum"
    #: One index in place of several that are read to an overlap.
    COMBINED_INDEX = "combined-index"
    #: A partial index from which alone the statement can be answered.
    COVERING_INDEX = "covering-index"
    #: An index that finds the rows of a LIMIT in their order.
    ORDERED_INDEX = "ordered-index"
    #: Nothing: what to do is said by other findings, or by a person who looks.
    NONE = "none"


@dataclass(frozen=True)
class Suspicion:
    """Something in a plan that looks wrong, before any evidence.

    `relation` is the table that a person would name (a partitioned table for its partitions);
    `subject` is the normalised expression or column list in the server's words; `keys` are the
    expressions and columns that an index would have to hold, to be used as SQL. `scans` are the
    nodes that read the relation, and `comparisons` the predicates that are tested row by row; both
    are empty if the plan does not show them. `other_rows` is the number of rows that the other side
    of a join is expected to deliver, None for a predicate of one relation. `holds_value` tells that
    a constant in the subject is no part of the structure. `method` is the index's access method,
    with the operator class if it is not the default one, and the extension that this one needs.

    `whole` marks a suspicion of the statement as a whole: a rule has one at most, whose Hit may
    name what it found; it claims no predicate, and if it is not a Hit, earlier findings of the rule
    on this statement are gone. `node` is the step of the plan that it is about. `exclusive` tells
    that no rule further down the list may report the same scans once this is a Hit.
    """

    rule: str
    relation: Relation
    subject: str
    keys: tuple[str, ...]
    scans: tuple[Node, ...]
    comparisons: tuple[Comparison, ...]
    needs: frozenset[Need] = frozenset()
    other_rows: float | None = None
    holds_value: bool = False
    method: str = "btree"
    operator_class: str = ""
    extension: str = ""
    whole: bool = False
    node: Node | None = None
    exclusive: bool = False

    @classmethod
    def of_statement(
        cls, rule: str, relation: Relation, subject: str, needs: Iterable[Need] = ()
    ) -> Suspicion:
        """Return a suspicion of the statement as a whole."""
        return cls(rule, relation, subject, (), (), (), needs=frozenset(needs), whole=True)

    @property
    def identity(self) -> tuple[str, str, str]:
        """What makes two suspicions of one plan the same."""
        return (self.rule, self.relation.key, self.subject)

    @property
    def predicate(self) -> tuple[str, str]:
        """What only one rule may report."""
        return (self.relation.key, self.subject)

    @property
    def scanned(self) -> tuple[str, ...]:
        """The relations that the scans read, as `schema.name`, each once."""
        if not self.scans:
            return (self.relation.key,)
        return tuple(sorted({scan.qualified_relation or "" for scan in self.scans}))

    @property
    def comparison(self) -> Comparison:
        """The first comparison; a rule that reports without one must not ask for it."""
        return self.comparisons[0]

    @property
    def operand(self) -> Operand:
        """The side of the first comparison that the suspicion is about."""
        return self.comparison.operand

    @property
    def other(self) -> Operand:
        """The opposite side."""
        return self.comparison.other

    @property
    def shown(self) -> str:
        """The subject as people may see it: a value inside it is masked."""
        return self._shown(self.subject)

    @property
    def shown_keys(self) -> tuple[Structural, ...]:
        """The keys as people may see them."""
        return tuple(map(self._shown, self.keys))

    def _shown(self, text: str) -> Structural:
        return Structural(mask(text, keep_names=not self.holds_value))


@dataclass(frozen=True)
class Timings:
    """How long a statement took, in ms, against what is normal for the application's process.

    `recent` are its latest executions. `overhead_ms` is what the way to the server and back takes;
    `ms_per_cost` what a unit of estimated cost normally takes, None while too few statements are
    known.
    """

    recent: tuple[float, ...] = ()
    overhead_ms: float = 0.0
    ms_per_cost: float | None = None

    @property
    def fastest_ms(self) -> float:
        """The fastest of the latest executions: locks and a busy process only add to it."""
        return min(self.recent, default=0.0)

    def spent_ms(self, plan: Plan, returned_rows: int | None) -> float | None:
        """Return what the fastest execution spent in the plan, without the way and the rows.

        None if too few executions or too cheap a plan are known to say so.
        """
        if len(self.recent) < MIN_EXECUTIONS or plan.total_cost < MIN_COST:
            return None
        rows_ms = (returned_rows or 0) * MS_PER_ROW
        return max(self.fastest_ms - self.overhead_ms - rows_ms, 0.0)


@dataclass(frozen=True)
class Custom:
    """A plan for the parameters of one execution.

    `parameters` are never shown. `forced_cost` is what the generic plan's way would cost with
    these, None if the server could not be led to it.
    """

    plan: Plan
    forced_cost: float | None = None
    parameters: Any = field(default=None, repr=False)

    @property
    def factor(self) -> float:
        """How many times as much the generic plan costs with these parameters."""
        if self.forced_cost is None:
            return 1.0
        return self.forced_cost / max(self.plan.total_cost, 0.01)


@dataclass(frozen=True)
class Prepared:
    """What the server does with a statement once its driver has prepared it there.

    `driver` is its name, `names` are those of the parameters if its text has numbers for them.
    `threshold` is the number of executions after which it prepares. `generic` is the plan for all
    values, `customs` those for the parameters that were seen, each set once, and
    `order` which of them came one after the other; `planning_cost` is what PostgreSQL adds to a
    custom plan's cost, `mode` its setting plan_cache_mode. `reached` tells that the
    statement was executed often enough, in `why`'s words.
    """

    threshold: int
    generic: Plan
    customs: tuple[Custom, ...]
    order: tuple[int, ...]
    planning_cost: float
    reached: bool
    why: str
    mode: str = "auto"
    driver: str = "psycopg"
    names: tuple[str, ...] | None = None

    @property
    def most_generic_cost(self) -> float:
        """What the generic plan's way costs with the parameters for which it costs most."""
        return max(self.generic.total_cost, *(one.forced_cost or 0.0 for one in self.customs))


@dataclass(frozen=True)
class Evidence:
    """All that a rule may judge by. Durations are in ms; plans are None if not asked for.

    `parameter_types` names the Python classes of the statement's parameters. `show_values` tells
    whether a Hit may repeat compared values; for `varying` see scrub_plan. `client_side` tells that
    the elapsed time includes all rows, as it does without a cursor on the server. `error` is how
    this execution failed, None if it did not. `not_analysed` is why the statement was not run once
    more although PLANWATCH_ANALYZE is on, empty if it was or need not be; `analysable_ms` is how
    long it may take for that. `executions` are the most on one connection so far, 0 if the driver
    does not prepare the statement.
    """

    plan: Plan
    schema: Schema
    statement: str
    min_rows: int
    growth: bool
    duration_ms: float
    returned_rows: int | None
    parameter_types: frozenset[str] = frozenset()
    show_values: bool = False
    varying: frozenset[str] = frozenset()
    seqscan_off: Plan | None = None
    alone: Plan | None = None
    own_type: Plan | None = None
    analysed: Plan | None = None
    not_analysed: str = ""
    analysable_ms: float = float("inf")
    prepared: Prepared | None = None
    executions: int = 0
    timings: Timings = Timings()
    client_side: bool = True
    error: StatementError | None = None


@dataclass(frozen=True)
class Hit:
    """A suspicion that evidence confirmed, on relations with `rows` rows in all.

    `small` marks what costs nothing yet. `remedy` is what the advice is about. `doubt` is what to
    say instead unless the planner confirms that an index helps: from the plan alone it is not
    certain. `most_pass` tells that much of the table is needed anyway. `what` and `why`
    say the problem in a few words: the step of the plan, and what is wrong with it.
    """

    suspicion: Suspicion
    problem: str
    rows: float = 0.0
    evidence: dict[str, Any] = field(default_factory=dict)
    small: bool = False
    remedy: Remedy = Remedy.INDEX
    doubt: Miss | None = None
    most_pass: bool = False
    what: str = field(kw_only=True)
    why: str = field(kw_only=True)


@dataclass(frozen=True)
class Miss:
    """A suspicion that evidence refuted, with the reason in a few words.

    `by_parameters` is True if the same plan with other values could be a hit. `foreign` marks what
    is no matter of this rule: the next one that suspects the same predicate may have it. `quiet`
    marks what goes without saying.
    """

    suspicion: Suspicion
    reason: str
    by_parameters: bool = False
    foreign: bool = False
    quiet: bool = False

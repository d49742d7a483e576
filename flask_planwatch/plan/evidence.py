"""What a rule suspects, what it asks for, and what it is given to judge by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ..failure import StatementError
from .comparison import Comparison
from .figures import (
    BYTES_PER_ROUND_TRIP,
    LEAST_COST,
    MIN_COST,
    MIN_EXECUTIONS,
    MS_PER_FETCHED_ROW,
    ROUND_TRIPS,
)
from .predicate import Operand
from .schema import Relation, Schema, Structural
from .scrub import mask
from .step_cost import cost_of_runs
from .tree import Node, Plan


class Need(StrEnum):
    """A further plan that a rule may ask for."""

    #: The same statement with sequential scans switched off.
    SEQSCAN_OFF = "seqscan-off"
    #: The suspicious predicate alone on its relation, with sequential scans switched off.
    PREDICATE_ALONE = "predicate-alone"
    #: The same with the bare column in place of its cast.
    OWN_TYPE = "own-type"
    #: The check of a foreign key for one row, with sequential scans switched off.
    REFERENCE = "reference"
    #: What the server would do with the statement once it is prepared.
    PREPARED = "prepared"
    #: The statement run once more with EXPLAIN ANALYZE, where PLANWATCH_ANALYZE allows it.
    ANALYSED = "analysed"
    #: The same, but only if its cost does not explain how long it takes.
    ANALYSED_IF_SLOW = "analysed-if-slow"


@dataclass(frozen=True)
class Suspicion:
    """Something in a plan that looks wrong, before any evidence.

    `relation` is the table that a person would name (a partitioned table for its partitions).
    `subject` is the expression or the list of columns as the server prints it. `keys` are the
    expressions and columns that an index would have to hold, as SQL. `scans` are the nodes that
    read the relation, `comparisons` the predicates that are tested row by row; both are empty if
    the plan does not show them. `other_rows` is the number of rows that the other side of a join is
    expected to return, None for a predicate of one relation. `holds_value`: a constant in the
    subject is a value, and no part of the structure. `method` is the access method of the index,
    with the `operator_class` if it is not the default one, and the `extension` that provides that.

    `whole`: the suspicion is about the statement, not one predicate. A rule yields at most one. Its
    Hit may name what it found; if it is not a Hit, earlier findings of the rule on this statement
    are gone. `node` is the step of the plan that it is about. `exclusive`: once this is a Hit, no
    rule further down the list may report the same scans.
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
        """What is the same for equal suspicions of one plan."""
        return (self.rule, self.relation.key, self.subject)

    @property
    def predicate(self) -> tuple[str, str]:
        """The predicate, which only one rule may report."""
        return (self.relation.key, self.subject)

    @property
    def scanned(self) -> tuple[str, ...]:
        """The relations that the scans read, as `schema.name`, each once."""
        if not self.scans:
            return (self.relation.key,) if self.relation.key else ()
        return tuple(sorted({scan.qualified_relation or "" for scan in self.scans}))

    @property
    def by_relation(self) -> Mapping[str, tuple[Node, ...]]:
        """The scans of each relation, by its `schema.name`."""
        return {
            key: tuple(scan for scan in self.scans if (scan.qualified_relation or "") == key)
            for key in self.scanned
        }

    def share(self, plan: Plan) -> float:
        """Return which part of a plan's estimated cost is that of what it is about, up to 1.

        That is a scan with all its runs, or the step above it that joins, sorts or groups. What is
        about the whole statement, or about a step whose estimate is wrong, has all of it.
        """
        if self.whole or self.node is not None or not self.scans or plan.total_cost <= 0:
            return 1.0
        steps = [*self.scans, *(comparison.node for comparison in self.comparisons)]
        if len(self.keys) > len(self.comparisons):
            steps += [step for scan in self.scans if (step := plan.ordering(scan)) is not None]
        spent = max(cost_of_runs(plan, step) for step in steps)
        return min(spent / plan.total_cost, 1.0)

    @property
    def comparison(self) -> Comparison:
        """The first comparison. Raises IndexError if there is none."""
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

    `recent` are its latest executions, without what the process computed meanwhile: that may have
    held them up. `overhead_ms` is the longest of PlanWatch's own latest round trips, and
    `ms_per_cost` what a unit of estimated cost normally takes, None while too few statements are
    known. `crowding` is how many programs share a processor of this machine, at least 1: as many
    times as long may all take that is computed.
    """

    recent: tuple[float, ...] = ()
    overhead_ms: float = 0.0
    ms_per_cost: float | None = None
    crowding: float = 1.0

    @property
    def fastest_ms(self) -> float:
        """The fastest of the latest executions: locks and a busy process only add to it."""
        return min(self.recent, default=0.0)

    def outside_ms(self, plan: Plan, returned_rows: int | None) -> float:
        """Return what an execution takes outside its plan: planning, round trips and fetching."""
        rows = returned_rows or 0
        round_trips = ROUND_TRIPS + rows * plan.root.width / BYTES_PER_ROUND_TRIP
        outside_plan_ms = self.overhead_ms * round_trips + rows * MS_PER_FETCHED_ROW
        return plan.planning_ms + outside_plan_ms

    def spent_ms(self, plan: Plan, returned_rows: int | None) -> float | None:
        """Return what the fastest execution spent in the plan itself, at least.

        None after too few executions, or if the plan is too cheap to say so.
        """
        if len(self.recent) < MIN_EXECUTIONS or plan.total_cost < MIN_COST:
            return None
        return self.computed_ms(self.fastest_ms, plan, returned_rows)

    def computed_ms(self, took_ms: float, plan: Plan, returned_rows: int | None) -> float:
        """Return what an execution that took so long spent in the plan itself, at least."""
        return max(took_ms - self.outside_ms(plan, returned_rows), 0.0) / self.crowding


@dataclass(frozen=True)
class Custom:
    """A plan for the parameters of one execution.

    `parameters` are never shown. `forced_cost` is what the generic plan would cost with these
    parameters, None if the server could not be made to choose it.
    """

    plan: Plan
    forced_cost: float | None = None
    parameters: Any = field(default=None, repr=False)

    @property
    def factor(self) -> float:
        """How many times as much the generic plan costs with these parameters."""
        if self.forced_cost is None:
            return 1.0
        return self.forced_cost / max(self.plan.total_cost, LEAST_COST)


@dataclass(frozen=True)
class Prepared:
    """What the server does with a statement once its driver has prepared it there.

    `driver` is the driver's name, and `threshold` the number of executions after which it prepares.
    `reached`: the statement was executed so often; `why` says it in words. `generic` is the plan
    for all values, `customs` has a plan for each set of parameters that was seen, and `order` is
    the order in which these sets came, by their places in `customs`. `planning_cost` is what
    PostgreSQL adds to the cost of a custom plan, `mode` its setting plan_cache_mode. `names` are
    those of the parameters if the text has numbers for them.
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
        """What the generic plan costs with the parameters for which it costs most."""
        return max(self.generic.total_cost, *(custom.forced_cost or 0.0 for custom in self.customs))


@dataclass(frozen=True)
class Evidence:
    """All that a rule may judge by. Durations are in ms; plans are None if not asked for.

    `parameter_types` are the names of the Python classes of the parameters. `show_values`: a Hit
    may repeat compared values; for `varying` see scrub_plan. `client_side`: the elapsed time
    includes fetching all rows, as it does without a cursor on the server. `error` is how this
    execution failed, None if it did not. `not_analysed` is why the statement was not run again
    although PLANWATCH_ANALYZE is on, empty if it was or need not be. A statement that takes more
    than `analysable_ms` is never run again. `waited_ms` is what is left of `duration_ms` without
    what the process computed meanwhile, None if that is not known. `executions` are the most on one
    connection so far, 0 if the driver does not prepare the statement.
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
    waited_ms: float | None = None

    @property
    def in_plan_ms(self) -> float:
        """What this execution spent in the plan itself, at least."""
        waited = self.duration_ms if self.waited_ms is None else self.waited_ms
        return self.timings.computed_ms(waited, self.plan, self.returned_rows)


@dataclass(frozen=True)
class Hit:
    """A suspicion that evidence confirmed, on relations with `rows` rows in all.

    `small`: the tables are so small that it costs nothing yet. `fix` is the name of what to do
    about it. `doubt` is what to say instead unless the planner confirms that an index helps: the
    plan alone does not prove it. `most_pass`: much of the table is needed anyway. `what` and `why`
    say the problem in a few words: the step of the plan, and what is wrong with it. `hint` is what
    to look at next where nothing can be advised. `executed`: that step is one of the plan that was
    executed, so that the execution's time is its own. `share` is which part of the statement's cost
    is that of what was found, `few_rows` whether the tables have fewer than are worth a warning.
    `reads_all`: `rows` are how many are read.
    """

    suspicion: Suspicion
    problem: str
    rows: float = 0.0
    evidence: dict[str, Any] = field(default_factory=dict)
    small: bool = False
    fix: str = "index"
    doubt: Miss | None = None
    most_pass: bool = False
    what: str = field(kw_only=True)
    why: str = field(kw_only=True)
    hint: str = ""
    executed: bool = True
    share: float = 1.0
    few_rows: bool = False
    reads_all: bool = True


@dataclass(frozen=True)
class Miss:
    """A suspicion that evidence refuted, with the reason in a few words.

    `by_parameters`: the same plan with other values could be a hit. `foreign`: it is a matter of
    another rule, so that the next one that suspects the same predicate may have it. `quiet`: nobody
    is told, as it is the normal case.
    """

    suspicion: Suspicion
    reason: str
    by_parameters: bool = False
    foreign: bool = False
    quiet: bool = False

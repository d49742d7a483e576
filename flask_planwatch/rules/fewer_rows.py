"""What an index would spare a statement, as far as the plan tells without a trial.

An index on what is compared finds about the rows that the plan expects to pass. One that has the
order of a LIMIT as well is read until the LIMIT has its rows. If it also meets rows that fail other
conditions, the planner takes them for evenly spread. That is accepted if as many rows pass as in
what `limit-trap` calls no trap; if fewer pass, all that fail may come first.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import prod

from ..plan.access import EQUAL, ONE_VALUE, RANGES, Access
from ..plan.comparison import Comparison, comparisons
from ..plan.evidence import Evidence, Suspicion
from ..plan.figures import (
    MAX_USEFUL_SHARE,
    MIN_SAVING,
    RANDOM_PAGE_COST,
)
from ..plan.index_use import bitmap_scans
from ..plan.predicate import conjuncts, predicates
from ..plan.schema import Column, Relation, Schema
from ..plan.tree import Node, Plan
from . import worth

#: An index must leave so many times fewer rows to read. Estimates assume that columns are
#: independent; of those for a single table, 95% were wrong by a factor of 6 at most
#: (Leis et al., How Good Are Query Optimizers, Really?, VLDB 2015, table 1).
MIN_FACTOR = 10.0

#: Steps that may stand between a scan and a LIMIT that gets its rows.
_BELOW_LIMIT = frozenset({"Sort", "Gather", "Gather Merge", "LockRows", "Result"})


@dataclass(frozen=True)
class FewerRows:
    """The rows that a statement reads of a relation: at least so many now, and with an index.

    `cost` is what it costs to read and to sort them now. The index answers `fixed`, and then has
    the keys in `order`, which is empty if it only finds the rows.
    """

    read: float
    left: float
    cost: float
    fixed: tuple[Comparison, ...]
    order: tuple[str, ...] = ()

    @property
    def least_saving(self) -> float:
        """The cost that is saved even if each row that is left is on a page of its own."""
        return self.cost - self.left * RANDOM_PAGE_COST


def fewer_rows(suspicion: Suspicion, evidence: Evidence) -> FewerRows | None:
    """Return what one index on all that is compared or sorted by would spare, if it is enough.

    It is enough if a tenth of the rows is left at most, and a fifth of the statement's cost is
    saved at least. PLANWATCH_MIN_ROWS holds for the rows that are spared as for those of a table.
    """
    plan = evidence.plan
    access = worth.access_of(suspicion, evidence)
    if access is None or any(_is_partial(scan, evidence.schema) for scan in suspicion.scans):
        # The plan does not show what the condition of a partial index answers.
        return None
    find = _in_order if access.limited else _by_condition
    found = find(suspicion, access, evidence)
    if found is None or found.read - found.left < evidence.min_rows:
        return None
    enough = found.least_saving >= max(plan.total_cost, found.cost) * MIN_SAVING
    return found if enough and found.read >= found.left * MIN_FACTOR else None


def _in_order(suspicion: Suspicion, access: Access, evidence: Evidence) -> FewerRows | None:
    """Return what is spared if the rows of a LIMIT come in their order, without a sort."""
    plan, scan = evidence.plan, suspicion.scans[0]
    limit = limit_of_sort(plan, scan)
    if limit is None or len(suspicion.scans) > 1 or access.listed:
        return None
    reading = _Reading.of(scan, evidence, ONE_VALUE)
    left = asked_rows(limit)
    if reading.others:
        returned = evidence.returned_rows
        if limit is plan.root and returned is not None and returned < limit.rows:
            # So few rows pass that it would go through all of the index.
            return None
        met = reading.most_matching
        evenly = scan.rows > met * MAX_USEFUL_SHARE
        left = left * met / scan.rows if evenly else left + met - scan.rows
    order = tuple(term.key_on(access.relation) for term in access.sorted_by)
    cost = limit.total_cost * plan.loops[id(limit)]
    return FewerRows(reading.rows, left, cost, reading.fixed, order)


def _by_condition(suspicion: Suspicion, access: Access, evidence: Evidence) -> FewerRows | None:
    """Return what is spared if an index finds all that is compared by equality, and one range."""
    plan, tested = evidence.plan, suspicion.comparisons
    if not tested or any(test.joins or test.repeated for test in tested):
        return None
    ranged = access.ranged[0].column if access.ranged else None
    read = left = cost = 0.0
    fixed = dict[Comparison, None]()
    for scan in suspicion.scans:
        reading, runs = _Reading.of(scan, evidence, EQUAL, ranged), plan.loops[id(scan)]
        if reading.is_held:
            return None
        read += reading.rows * runs
        left += max(scan.rows, 1.0, reading.expected if reading.others else 0.0) * runs
        cost += scan.total_cost * runs
        fixed |= dict.fromkeys(reading.fixed)
    if evidence.returned_rows is not None and worth.counts_its_rows(plan):
        left = max(left, evidence.returned_rows)
    return FewerRows(read, left, cost, tuple(fixed))


@dataclass(frozen=True)
class _Reading:
    """How a scan reads a relation.

    `fixed` are the conditions that one index could answer. `others` tells whether there are more.
    """

    scan: Node
    relation: Relation
    fixed: tuple[Comparison, ...]
    others: bool

    @classmethod
    def of(
        cls, scan: Node, evidence: Evidence, operators: Collection[str], ranged: str | None = None
    ) -> _Reading:
        """Return it for an index that answers these operators, and ranges of one column."""
        plan, schema = evidence.plan, evidence.schema
        own = [test for test in comparisons(plan, schema) if test.node is test.scan is scan]
        fixed = tuple(
            test
            for test in own
            if test.column is not None and not test.other.columns
            if test.operator in operators or (test.operator in RANGES and test.column == ranged)
        )
        answered = {test.conjunct for test in fixed}
        joined = [tests for _, tests in predicates(plan)[id(scan)]]
        return cls(
            scan,
            schema.relations[scan.qualified_relation or ""],
            fixed,
            # What is too long to be read is one more.
            others=not all(tests and answered.issuperset(tests) for tests in joined),
        )

    @property
    def rows(self) -> float:
        """The rows that the scan reads now, at least."""
        scan, every = self.scan, self.relation.rows
        if scan.reads_all_rows:
            return every
        if any(bitmap_scans(scan)):
            return scan.children[0].rows
        # A row costs a page at most.
        return min(scan.total_cost / RANDOM_PAGE_COST, every)

    @property
    def expected(self) -> float:
        """The rows that match what is compared by equality, whatever the values are."""
        columns = {test.column for test in self.fixed if test.operator == "="}
        found = [self.relation.column(name) for name in columns if name is not None]
        every = self.relation.rows
        return every * prod(_largest_share(column, every) for column in found if column is not None)

    @property
    def most_matching(self) -> float:
        """The rows that match what an index could answer, at most."""
        finds = {*conjuncts(self.scan.condition("Recheck Cond") or "")}
        known = any(bitmap_scans(self.scan)) and finds <= {test.conjunct for test in self.fixed}
        return self.rows if known else self.relation.rows

    @property
    def is_held(self) -> bool:
        """Whether an index exists that the planner could have used for all of it."""
        names = {test.column for test in self.fixed}
        return any(
            index.valid and index.predicate is None and names <= {*index.keys[: len(names)]}
            for index in self.relation.indexes
        )


def _largest_share(column: Column, rows: float) -> float:
    """Return which share of the rows have the same value at most, 1 if that is not known."""
    values = column.values_in(rows)
    return max(column.frequency, 1 / values) if values >= 1 else 1.0


def _is_partial(scan: Node, schema: Schema) -> bool:
    """Whether a scan uses a partial index."""
    relation = schema.get(scan.qualified_relation)
    used = {scan.index, *(bitmap.index for bitmap in bitmap_scans(scan))}
    indexes = relation.indexes if relation is not None else ()
    return any(index.name in used and index.predicate is not None for index in indexes)


def limit_of_sort(plan: Plan, scan: Node) -> Node | None:
    """Return the LIMIT that gets all rows of a scan, sorted, from nothing but that scan."""
    steps = plan.steps_above(scan)
    above = next((step for step in steps if step.type not in _BELOW_LIMIT), None)
    return above if above is not None and above.type == "Limit" else None


def asked_rows(limit: Node) -> float:
    """Return how many rows a LIMIT gets from the step below it, those of its OFFSET included."""
    source = limit.children[0]
    whole = source.total_cost - source.startup_cost
    part = limit.total_cost - source.startup_cost
    return max(limit.rows, source.rows * part / whole if whole > 0 else 0.0, 1.0)

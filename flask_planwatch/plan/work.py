"""How often the steps of a plan run, and how many rows all their runs read together.

A plan shows the rows of one run only. The inner side of a nested loop runs for each row of the
outer one, a sub-query for each row that is tested or returned, and a LIMIT lets the steps below it
end early, once they have passed over the rows of an OFFSET. Where EXPLAIN ANALYZE ran the
statement, its counts are taken instead. The driver, too, knows how many rows came.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from .figures import LEAST_COST, ROWS_PER_LOOKUP
from .predicate import conjuncts
from .schema import Relation, Schema
from .sub_plan import SubPlan, names_in, sub_plans_of
from .tree import READ_FIRST, Node, Plan, runs_by_each_process

#: More runs than any statement makes: products of estimates stay finite.
_MOST_RUNS = 1e15

#: Conditions that are worked out once in each run of their step, not for each row.
_ONCE = frozenset({"Index Cond", "Recheck Cond", "TID Cond", "One-Time Filter"})

#: The share of the rows that PostgreSQL expects to pass a comparison with a sub-query's result:
#: DEFAULT_EQ_SEL and DEFAULT_INEQ_SEL of src/include/utils/selfuncs.h; half for a boolean.
_EXPECTED_TO_PASS = {"=": 0.005, "<": 1 / 3, "<=": 1 / 3, ">": 1 / 3, ">=": 1 / 3, "<>": 0.995}
_HALF = 0.5

#: Steps that return each row of the step below them, unless they have a condition.
_EACH_ROW = frozenset(
    {"Sort", "Incremental Sort", "Materialize", "Gather", "Gather Merge", "Result"}
    | {"Subquery Scan", "LockRows"}
)

#: A call around a sub-query; these are no aggregates.
_CALL = re.compile(r"\A\(*+(\w++)\(")
_NO_AGGREGATES = frozenset({"COALESCE", "GREATEST", "LEAST", "NULLIF", "EXISTS", "ANY", "ALL"})


@dataclass(frozen=True)
class Work:
    """The work of a plan on these tables. All mappings are by the id() of a node.

    They are asked for each step, and kept: for 200 steps, each of them takes 0.1 to 0.4 ms.

    `returned_rows` is how many rows the statement returned, None if the driver does not know.
    """

    plan: Plan
    schema: Schema
    returned_rows: int | None = None

    @cached_property
    def sub_plans(self) -> tuple[SubPlan, ...]:
        """All sub-queries that may run more than once."""
        return tuple(found for node in self.plan.nodes for found in sub_plans_of(node))

    @cached_property
    def expected_runs(self) -> Mapping[int, float]:
        """How often the planner expects each step to run."""
        return self._expected({})[0]

    @cached_property
    def runs(self) -> Mapping[int, float]:
        """How often each step ran, or is expected to run."""
        if not self.plan.analysed:
            return self._worked_out[0]
        return {id(node): node.loops for node in self.plan.nodes}

    @cached_property
    def counted(self) -> Mapping[int, float]:
        """How often each sub-query ran whose result stands in each row that was returned."""
        if self.returned_rows is None or self.plan.analysed:
            return {}
        return {
            id(sub_plan.node): float(self.returned_rows)
            for sub_plan in self.sub_plans
            if sub_plan.is_output and self._is_returned(sub_plan.holder)
        }

    @cached_property
    def read(self) -> Mapping[int, float]:
        """The rows that all runs of each step and of those below it read, with lookups as rows."""
        runs, shares = self.runs, self._worked_out[1]
        nodes = [sub_plan.node for sub_plan in self.sub_plans]
        # EXISTS stops at the first row.
        stops = {id(node): 1 / max(node.rows, 1) for node in nodes if node.type != "Materialize"}
        found: dict[int, float] = {}
        for node in reversed(self.plan.nodes):
            share = 1.0 if self.plan.analysed else shares[id(node)]
            below = sum(found[id(child)] for child in node.children)
            rows = runs[id(node)] * (_lookup(node) + self._rows(node) * share)
            stop = 1.0 if self.plan.analysed else stops.get(id(node), 1.0)
            found[id(node)] = (rows + below) * stop
        return found

    @cached_property
    def once(self) -> Mapping[int, float]:
        """The rows of all tables that each step and those below it read."""
        found: dict[int, float] = {}
        for node in reversed(self.plan.nodes):
            relation = self.relation(node)
            own = relation.rows if relation else 0.0 if node.children else node.rows
            found[id(node)] = own + sum(found[id(child)] for child in node.children)
        return found

    def relation(self, node: Node) -> Relation | None:
        """Return what the catalog says of the relation that a step reads."""
        return None if node.type == "ModifyTable" else self.schema.get(node.qualified_relation)

    def largest(self, node: Node) -> Relation | None:
        """Return the largest relation below a step, as a person would name it."""
        read = [found for below in node.walk() if (found := self.relation(below)) is not None]
        largest = max(read, key=lambda relation: relation.rows, default=None)
        return None if largest is None else self.schema.root(largest)

    @cached_property
    def _worked_out(self) -> tuple[dict[int, float], dict[int, float]]:
        """What `_expected` returns, with the runs that are known."""
        return self._expected(self.counted)

    def _expected(self, counted: Mapping[int, float]) -> tuple[dict[int, float], dict[int, float]]:
        """Return how often each step should run, and the share of its rows that a LIMIT leaves.

        `counted` are the sub-queries of which that is known.
        """
        held = {id(sub_plan.node): sub_plan for sub_plan in self.sub_plans}
        runs, shares = {id(self.plan.root): 1.0}, {id(self.plan.root): 1.0}
        for node in self.plan.nodes:
            outer, inputs = node.outer, node.inputs
            for child in node.children:
                times, share = runs[id(node)], shares[id(node)]
                if (sub_plan := held.get(id(child))) is not None:
                    if sub_plan.hashed:
                        times = 1.0
                    elif id(child) in counted:
                        times = counted[id(child)]
                    else:
                        times *= self._tested(sub_plan, inputs) * share
                    share = 1.0
                elif child.relationship == "Inner":
                    if node.type == "Nested Loop" and outer is not None:
                        times *= max(outer.rows * share, 1.0)
                    else:
                        times *= runs_by_each_process(node, child)
                    share = 1.0
                elif node.type == "Materialize":
                    times = min(times, node.share.processes)
                elif node.type == "Limit":
                    share *= _share_read(node, child)
                elif node.type in READ_FIRST or child.relationship == "InitPlan":
                    share = 1.0
                runs[id(child)], shares[id(child)] = min(times, _MOST_RUNS), share
        return runs, shares

    def _tested(self, sub_plan: SubPlan, inputs: Sequence[Node]) -> float:
        """Return for how many rows its holder is expected to ask a sub-query, in each run.

        `inputs` are the steps whose rows the holder takes.
        """
        holder = sub_plan.holder
        below = inputs[0].rows if inputs else 0.0
        relation = self.relation(holder)
        if sub_plan.is_output:
            return max(holder.rows, below) if _is_aggregated(sub_plan) else holder.rows
        if sub_plan.kind in _ONCE:
            return 1.0
        if holder.type == "Seq Scan" and relation is not None:
            tested = relation.rows
        elif len(inputs) > 1:
            # A plan does not say how many rows the join's own condition leaves.
            pairs = below * inputs[1].rows if holder.type == "Nested Loop" else below
            tested = min(max(holder.rows, pairs), _left_by_others(sub_plan))
        else:
            # The planner charges a step for each row that it tests.
            own_cost = holder.total_cost - sum(step.total_cost for step in inputs)
            own_cost *= holder.share.divisor
            most = below or (relation.rows if relation else 0.0)
            tested = max(
                holder.rows, min(most, own_cost / max(sub_plan.node.total_cost, LEAST_COST))
            )
        return min(tested, _left_by_others(sub_plan)) if sub_plan.kind == "Filter" else tested

    def _is_returned(self, node: Node) -> bool:
        """Whether each row of a step is a row of the result, and the other way round."""
        above = self.plan.parents.get(id(node))
        while above is not None and above.type in _EACH_ROW and not above.conditions:
            if node.relationship != "Outer" and above.type != "Subquery Scan":
                return False
            node, above = above, self.plan.parents.get(id(above))
        return above is None

    def _rows(self, node: Node) -> float:
        """Return the rows that a step reads in one run, not those that others hand to it."""
        scans = node.relation is not None or node.type in {"Bitmap Index Scan", "Materialize"}
        if node.type == "ModifyTable" or (node.children and not scans):
            return 0.0
        if self.plan.analysed:
            return (node.actual_rows or 0.0) + (node.removed_rows or 0.0)
        relation = self.relation(node)
        return relation.rows if relation and node.type == "Seq Scan" else node.rows


def _share_read(limit: Node, below: Node) -> float:
    """Return the share of the step below a LIMIT that is read, with what OFFSET passes over.

    The planner charges a LIMIT for just that share of what the rows below it cost.
    """
    cost = below.total_cost - below.startup_cost
    charged = (limit.total_cost - below.startup_cost) / cost if cost > 0 else 0.0
    return min(max(limit.rows / max(below.rows, 1.0), charged), 1.0)


def _left_by_others(sub_plan: SubPlan) -> float:
    """Return how many rows are left when a sub-query is asked: cheaper conditions come first."""
    predicates = conjuncts(sub_plan.text)
    own = [test for test in predicates if sub_plan.name in names_in(test.text)]
    alone = len(own) == len(predicates) and sub_plan.kind == "Filter"
    if not own or alone:
        return float("inf")
    rows = sub_plan.holder.rows
    # An estimate of one row stands for any fewer.
    return rows / _EXPECTED_TO_PASS.get(own[0].operator, _HALF) if rows > 1 else rows


def _is_aggregated(sub_plan: SubPlan) -> bool:
    """Whether an aggregate takes the sub-query's result, so that it runs for each row below."""
    call = _CALL.match(sub_plan.text) if sub_plan.holder.type == "Aggregate" else None
    return call is not None and call[1] not in _NO_AGGREGATES


def _lookup(node: Node) -> float:
    """Return what a step takes in each run to find its first row, in rows."""
    finds = node.type == "Bitmap Heap Scan" or node.condition("Index Cond") is not None
    return ROWS_PER_LOOKUP if finds and node.relation is not None else 0.0

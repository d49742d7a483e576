"""Adds to a plan what it costs to go down the b-trees that it searches.

PostgreSQL charges each search of a b-tree for the pages from its root to an entry: btcostestimate()
in src/backend/utils/adt/selfuncs.c. HypoPG knows no height of its indexes, so that nothing is
charged there, and a hypothetical copy of an index looks cheaper than the index.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..plan.figures import SUB_QUERIES
from ..plan.text import nodes_below
from ..plan.tree import Node, Plan
from .btree import PAGE, Size

#: What a page of an index costs the processor, in units of cpu_operator_cost:
#: DEFAULT_PAGE_CPU_MULTIPLIER of selfuncs.c.
_OPERATORS_FOR_A_PAGE = 50

#: Steps that read what is below once, however often they are read themselves: cost_rescan() in
#: src/backend/optimizer/path/costsize.c.
_KEPT = frozenset({"CTE Scan", "Hash", "Materialize", "Sort", "WorkTable Scan"})

#: Steps that read all that is below before they return a row.
_READ_FIRST = frozenset(
    {"Aggregate", "Bitmap Heap Scan", "BitmapAnd", "BitmapOr", "Hash", "SetOp", "Sort"}
)

#: The rounds of a recursive query that the planner expects: cost_recursive_union().
_ROUNDS = 10

#: A list of values, each of which is searched for: its constants, if it has constants only.
_LIST = re.compile(r"= ANY \((?:'((?:[^'\\]|''|\\.)*+)')?")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*+"')

#: The values that the planner expects in another list: estimate_array_length() of selfuncs.c.
_USUAL_VALUES = 10

#: The planner expects at most so many searches for each page of an index.
_SEARCHES_FOR_A_PAGE = 1 / 3


class _Added(NamedTuple):
    """What is added to the cost of a node until its first row, and until its last."""

    startup: float = 0.0
    total: float = 0.0


def with_descents(plan: Plan, sizes: Mapping[str, Size], operator_cost: float) -> Plan:
    """Return a plan with the costs that it has if the searches of these indexes are charged for.

    `sizes` are those of b-trees by the names that the plan has for them, `operator_cost` is the
    server's cpu_operator_cost. The plan is returned as it is if it uses none of them.
    """
    if not any(node.index in sizes for node in plan.nodes):
        return plan
    added: dict[int, _Added] = {}
    documents: dict[int, Mapping[str, Any]] = {}
    for node, document in reversed(list(zip(plan.nodes, plan.documents, strict=True))):
        own = _own(node, sizes, operator_cost)
        below = _below(node, [added[id(child)] for child in node.children])
        total = _Added(own.startup + below.startup, own.total + below.total)
        added[id(node)] = total
        documents[id(document)] = {
            **document,
            "Startup Cost": node.startup_cost + total.startup,
            "Total Cost": node.total_cost + total.total,
            "Plans": [documents[id(child)] for child in nodes_below(document)],
        }
    root = documents[id(plan.documents[0])]
    return Plan.from_json({**plan.document, "Plan": root})


def _own(node: Node, sizes: Mapping[str, Size], operator_cost: float) -> _Added:
    """Return what the searches of a node's own index add."""
    size = sizes.get(node.index or "")
    if size is None:
        return _Added()
    descent = (size.height + 1) * _OPERATORS_FOR_A_PAGE * operator_cost
    most = max(size.bytes / PAGE * _SEARCHES_FOR_A_PAGE, 1.0)
    searches = min(_searches(node.condition("Index Cond") or ""), most)
    # A Bitmap Index Scan shows no cost before its end.
    first = 0.0 if node.type == "Bitmap Index Scan" else descent
    return _Added(first, descent * searches)


def _searches(condition: str) -> int:
    """Return how many combinations of values an index is searched for."""
    searches = 1
    for values in _LIST.findall(condition):
        searches *= _QUOTED.sub("", values).count(",") + 1 if values else _USUAL_VALUES
    return searches


def _below(node: Node, added: Sequence[_Added]) -> _Added:
    """Return what the nodes below add to a node."""
    startup = total = 0.0
    for child, more in zip(node.children, added, strict=True):
        if more.total == 0.0:
            continue
        if child.relationship in SUB_QUERIES:
            once, each = _of_sub_query(node, child, more)
            startup += once
            total += once + each
        elif node.type == "Limit":
            startup += more.startup + (more.total - more.startup) * _share(node.startup_cost, child)
            total += more.startup + (more.total - more.startup) * _share(node.total_cost, child)
        else:
            first = node.type in _READ_FIRST and node.startup_cost >= child.total_cost
            startup += more.total if first else more.startup
            total += more.total * _times(node, child)
    return _Added(startup, total)


def _share(cost: float, child: Node) -> float:
    """Return the share of a node's rows that have been read at this cost."""
    whole = child.total_cost - child.startup_cost
    return min(max((cost - child.startup_cost) / whole, 0.0), 1.0) if whole > 0 else 1.0


def _times(node: Node, child: Node) -> float:
    """Return how often a child is read while a node is read once."""
    if child.relationship != "Inner":
        return 1.0
    if node.type == "Recursive Union":
        return _ROUNDS
    if node.type != "Nested Loop" or child.type in _KEPT:
        return 1.0
    outer = next((side for side in node.children if side.relationship == "Outer"), None)
    if outer is None:
        return 1.0
    times = max(outer.rows, 1.0)
    if child.type == "Memoize" and child.total_cost > 0:
        # The plan does not say how often it finds a row in its memory. The costs do.
        spent = (node.total_cost - outer.total_cost) / child.total_cost
        times = min(times, max(spent, 1.0))
    return times


def _of_sub_query(node: Node, child: Node, more: _Added) -> tuple[float, float]:
    """Return what a sub-query adds to a node at once, and what for its rows."""
    texts = [*node.output, *(condition for _, condition in node.conditions)]
    if child.relationship == "InitPlan" or any(f"hashed {child.subplan}" in text for text in texts):
        return more.total, 0.0
    if any(f"{child.subplan})" in text for text in node.output):
        return 0.0, max(node.rows, 1.0) * more.total
    # The rows that are tested are not in the plan. The costs are.
    others = sum(
        side.total_cost
        for side in node.children
        if side.relationship not in {"InitPlan", "SubPlan"}
    )
    spent = max(node.total_cost - node.startup_cost - others, 0.0)
    exists = any(f"EXISTS({child.subplan})" in text for text in texts)
    share = 1 / max(child.rows, 1.0) if exists else 1.0
    once = child.startup_cost + (child.total_cost - child.startup_cost) * share
    runs = max(spent / once if once > 0 else node.rows, 1.0)
    return 0.0, runs * (more.startup + (more.total - more.startup) * share)

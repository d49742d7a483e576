"""Gives a plan with hypothetical b-trees the costs that it has once they are built.

PostgreSQL charges each search of a b-tree for the pages from its root to an entry: btcostestimate()
in src/backend/utils/adt/selfuncs.c. HypoPG knows no height of its indexes, so that nothing is
charged there, and a hypothetical copy of an index looks cheaper than the index. It also takes an
index for larger than it is, so that more is charged for the pages with the entries.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..plan.figures import SUB_QUERIES
from ..plan.sub_plan import SubPlan, sub_plans_of
from ..plan.text import nodes_below
from ..plan.tree import READ_FIRST, Node, Plan
from .btree import PAGE, Size

#: What a page of an index costs the processor, in units of cpu_operator_cost:
#: DEFAULT_PAGE_CPU_MULTIPLIER of selfuncs.c.
_OPERATORS_FOR_A_PAGE = 50

#: Steps that read what is below once, however often they are read themselves: cost_rescan() in
#: src/backend/optimizer/path/costsize.c.
_KEPT = frozenset({"CTE Scan", "Hash", "Materialize", "Sort", "WorkTable Scan"})

#: The rounds of a recursive query that the planner expects: cost_recursive_union().
_ROUNDS = 10

#: A list of values, each of which is searched for: its constants, if it has constants only.
_LIST = re.compile(r"= ANY \((?:'((?:[^'\\]|''|\\.)*+)')?")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*+"?+')

#: The values that the planner expects in another list: estimate_array_length() of selfuncs.c.
_USUAL_VALUES = 10

#: The planner expects at most so many searches for each page of an index.
_SEARCHES_FOR_A_PAGE = 1 / 3


class _Added(NamedTuple):
    """What is added to the cost of a node until its first row, and until its last."""

    startup: float = 0.0
    total: float = 0.0


@dataclass(frozen=True)
class Hypothetical:
    """A hypothetical b-tree of so many rows.

    `pages` is what HypoPG takes it for, `size` what it will have.
    """

    rows: float
    pages: float
    size: Size


@dataclass(frozen=True)
class Prices:
    """What the server is set to charge: its cpu_operator_cost and its random_page_cost."""

    operator: float
    page: float


def as_built(plan: Plan, indexes: Mapping[str, Hypothetical], prices: Prices) -> Plan:
    """Return a plan with the costs that it has once these indexes are built.

    `indexes` are by the names that the plan has for them. The plan is returned as it is if it uses
    none of them.
    """
    if not any(node.index in indexes for node in plan.nodes):
        return plan
    loops = _loops(plan)
    added: dict[int, _Added] = {}
    documents: dict[int, Mapping[str, Any]] = {}
    for node, document in reversed(list(zip(plan.nodes, plan.documents, strict=True))):
        index = indexes.get(node.index or "")
        own = _own(node, index, prices, loops[id(node)]) if index else _Added()
        below = _below(node, [added[id(child)] for child in node.children])
        total = _Added(own.startup + below.startup, own.total + below.total)
        added[id(node)] = total
        documents[id(document)] = {
            **document,
            "Startup Cost": node.startup_cost + total.startup,
            "Total Cost": node.total_cost + total.total,
            "Plans": [documents[id(child)] for child in nodes_below(document)],
        }
    root = documents[id(plan.document["Plan"])]
    return Plan.from_json({**plan.document, "Plan": root})


def _own(node: Node, index: Hypothetical, prices: Prices, loops: float) -> _Added:
    """Return what is added to a node that searches a hypothetical index, each time it runs."""
    pages = index.size.bytes / PAGE
    descent = (index.size.height + 1) * _OPERATORS_FOR_A_PAGE * prices.operator
    condition = node.condition("Index Cond")
    searches = min(_searches(condition or ""), max(pages * _SEARCHES_FOR_A_PAGE, 1.0))
    # A condition may leave out rows that were found: they are not in the plan.
    share = min(node.rows / max(index.rows, 1.0), 1.0) if condition else 1.0
    read, charged = (
        _pages_read(size, share, searches, loops) if loops else 0.0 for size in (pages, index.pages)
    )
    # A Bitmap Index Scan shows no cost before its end.
    first = 0.0 if node.type == "Bitmap Index Scan" else descent
    return _Added(first, descent * searches + (read - charged) * prices.page)


def _pages_read(pages: float, share: float, searches: float, loops: float) -> float:
    """Return how many pages of an index are read from disk each time: index_pages_fetched().

    What was read before is taken to be in memory, which holds the whole index.
    """
    asked = max(math.ceil(share * pages / searches), 1) * searches * loops
    if searches * loops <= 1:
        return asked
    return min(math.ceil(2 * pages * asked / (2 * pages + asked)), max(pages, 1.0)) / loops


def _searches(condition: str) -> int:
    """Return how many combinations of values an index is searched for."""
    searches = 1
    for values in _LIST.findall(condition):
        searches *= _QUOTED.sub("", values).count(",") + 1 if values else _USUAL_VALUES
    return searches


def _below(node: Node, added: Sequence[_Added]) -> _Added:
    """Return what the nodes below add to a node."""
    startup = total = 0.0
    sub_plans = {id(sub_plan.node): sub_plan for sub_plan in sub_plans_of(node)}
    for child, more in zip(node.children, added, strict=True):
        if more == _Added():
            continue
        if child.relationship in SUB_QUERIES:
            once, each = _of_sub_query(sub_plans.get(id(child)), more)
            startup += once
            total += once + each
        elif node.type == "Limit":
            startup += more.startup + (more.total - more.startup) * _share(node.startup_cost, child)
            total += more.startup + (more.total - more.startup) * _share(node.total_cost, child)
        else:
            first = node.type in READ_FIRST and node.startup_cost >= child.total_cost
            startup += more.total if first else more.startup
            total += more.total * _times(node, child)
    return _Added(startup, total)


def _loops(plan: Plan) -> Mapping[int, float]:
    """Return for how many rows each node is searched, by its id(), 0 if that is not known.

    The planner counts those of the relation that the values come from: get_loop_count() in
    src/backend/optimizer/path/indxpath.c. Only where that is read as a whole are they in the plan.
    """
    loops = {id(plan.root): 1.0}
    for node in plan.nodes:
        outer = node.outer
        for child in node.children:
            times = loops[id(node)]
            if child.type in _KEPT or child.relationship in SUB_QUERIES:
                times = 1.0
            elif node.type == "Nested Loop" and child.relationship == "Inner":
                known = outer is not None and outer.relation is not None and not outer.parallel
                times = outer.rows if outer is not None and known and times == 1.0 else 0.0
            loops[id(child)] = times
    return loops


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
    times = max(node.outer.rows, 1.0) if node.outer else 1.0
    if child.type == "Memoize" and child.total_cost > 0:
        # The plan does not say how often it finds a row in its memory. The costs do.
        others = sum(side.total_cost for side in node.children if side is not child)
        times = min(times, max((node.total_cost - others) / child.total_cost, 1.0))
    return times


def _of_sub_query(sub_plan: SubPlan | None, more: _Added) -> tuple[float, float]:
    """Return what a sub-query adds to its node at once, and what for the node's rows.

    `sub_plan` is None for one that does not belong to rows.
    """
    if sub_plan is None or sub_plan.hashed:
        return more.total, 0.0
    node, child = sub_plan.holder, sub_plan.node
    if sub_plan.is_output and sub_plan.text:
        return 0.0, max(node.rows, 1.0) * more.total
    # The rows that are tested are not in the plan. The costs are.
    others = sum(side.total_cost for side in node.inputs)
    spent = max(node.total_cost - node.startup_cost - others, 0.0)
    exists = f"EXISTS({sub_plan.name})" in sub_plan.text
    share = 1 / max(child.rows, 1.0) if exists else 1.0
    once = child.startup_cost + (child.total_cost - child.startup_cost) * share
    runs = max(spent / once if once > 0 else node.rows, 1.0)
    return 0.0, runs * (more.startup + (more.total - more.startup) * share)

"""How far the planner's estimates of rows were from what EXPLAIN ANALYZE saw."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from .figures import SUB_QUERIES
from .tree import Node, Plan

#: How many times more or fewer rows than expected are too many: pgMustard flags a factor of ten
#: (https://medium.com/pgmustard/row-count-estimates-in-postgres-8540087a826e).
MIN_MISESTIMATE = 10.0

#: Steps that may let the step below them stop before its end.
_STOPS = frozenset({"Limit", "Merge Join"})

#: Steps that read what is below them to its end, whatever happens above.
_READS_ALL = frozenset({"Sort", "Hash", "Bitmap Heap Scan", "BitmapAnd", "BitmapOr"})


@dataclass(frozen=True)
class Estimates:
    """The rows that the planner expected of the steps of an analysed plan, and those that came.

    What is asked of each step is kept: for 200 steps, each of these takes 0.1 to 0.2 ms.
    """

    plan: Plan

    def expected(self, node: Node) -> float:
        """Return how many rows all runs of a step were expected to return, at least one."""
        return max(self.plan.expected_rows(node), 1.0)

    def runs(self, node: Node) -> float:
        """Return how often a step ran, where all workers together run it once; at least one."""
        return max(self.plan.runs[id(node)], 1.0)

    def actual(self, node: Node) -> float:
        """Return how many rows all its runs returned, at least one."""
        # Up to 17 the rows of a run are rounded.
        rounded_off = node.loops > 1 and not node.actual_rows
        return max(node.loops / 2 if rounded_off else node.returned_rows, 1.0)

    @cached_property
    def grown(self) -> Mapping[int, Node]:
        """The lowest step that had too many rows, by the id() of each step that it led to that."""
        return self._lowest(lambda node: self.actual(node) / self.expected(node))

    @cached_property
    def shrunk(self) -> Mapping[int, Node]:
        """The same for too few rows; one that was stopped before its end does not count."""
        return self._lowest(
            lambda node: self.expected(node) / self.actual(node) if id(node) in self._ended else 1.0
        )

    def _lowest(self, wrong_by: Callable[[Node], float]) -> Mapping[int, Node]:
        factors = {id(node): wrong_by(node) for node in self.plan.nodes}
        found: dict[int, Node] = {}
        for node in reversed(self._from_above):
            if factors[id(node)] >= MIN_MISESTIMATE:
                below = [step for step in self._inputs(node) if id(step) in found]
                worst = max(below, key=lambda step: factors[id(step)], default=node)
                found[id(node)] = found.get(id(worst), node)
        return found

    @cached_property
    def _from_above(self) -> Sequence[Node]:
        """All steps, each of them before those whose rows it takes, by a CTE Scan as well."""
        order: list[Node] = []
        waiting, met = [(self.plan.root, False)], set[int]()
        while waiting:
            node, is_left = waiting.pop()
            if is_left:
                order.append(node)
            elif id(node) not in met:
                met.add(id(node))
                query = self.plan.ctes.get(id(node))
                below = node.children if query is None else (*node.children, query)
                waiting += [(node, True), *((step, False) for step in below)]
        return order[::-1]

    def _inputs(self, node: Node) -> Iterator[Node]:
        """Yield the steps whose rows a step takes, but for those that it reads again and again.

        What is below a Bitmap Heap Scan counts index entries, and belongs to the same condition.
        """
        if id(node) in self.plan.ctes:
            yield self.plan.ctes[id(node)]
        for child in node.children:
            reread = node.type == "Merge Join" and child.relationship == "Inner"
            taken = child.relationship not in SUB_QUERIES and not reread
            if taken and node.type != "Bitmap Heap Scan":
                yield child

    @cached_property
    def _ended(self) -> frozenset[int]:
        """The steps that returned all of their rows in each run."""
        ended = {id(self.plan.root)}
        for node in self._from_above:
            empty = any(
                step.relationship == "Inner" and not step.actual_rows for step in node.children
            )
            if id(node) in ended and id(node) in self.plan.ctes:
                ended.add(id(self.plan.ctes[id(node)]))
            for child in node.children:
                inner = child.relationship == "Inner"
                if child.relationship in SUB_QUERIES or node.type in _STOPS:
                    continue
                # A join reads no further than the first match, and not if there can be none.
                first = node.type == "Nested Loop" and node.join_type in {"Semi", "Anti"}
                stopped = first if inner else empty
                reads_all = node.type in _READS_ALL or (
                    node.type == "Aggregate" and not node.group_keys
                )
                if reads_all or (id(node) in ended and not stopped):
                    ended.add(id(child))
        return frozenset(ended)

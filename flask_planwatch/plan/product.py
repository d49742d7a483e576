"""A join without a condition, whose rows a sub-query runs for although it needs one side only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .sub_plan import SubPlan
from .text import quoted_identifier
from .tree import Node
from .work import Work

#: Rows of the side that a sub-query does not need, from which on the join is what makes its runs so
#: many: about as much as is gained where a join takes the place of a sub-query.
MIN_PRODUCT = 10.0

#: Joins that return each pair of rows unless a condition says which.
_PAIRS = frozenset({"Inner", "Left", "Right", "Full"})

#: Steps that return other rows than those that they take.
_MAKES_ROWS = frozenset({"Aggregate", "Group", "Limit", "SetOp", "Unique", "WindowAgg"})


@dataclass(frozen=True)
class Product:
    """The two sides of a join without a condition, with their rows.

    A sub-query depends on `needed`, and runs for each row of `needless` as well.
    """

    needed: str
    needless: str
    needed_rows: float
    needless_rows: float


def product_of(work: Work, sub_plan: SubPlan) -> Product | None:
    """Return the join without a condition that multiplies the runs of a sub-query, if there is one.

    It need not lack one in the statement: where both sides are compared with the same value, no
    condition is left between them.
    """
    texts = list(_texts(sub_plan.node))
    for join in _joins(sub_plan.holder):
        sides = {step.relationship: step for step in join.children}
        outer, inner = sides.get("Outer"), sides.get("Inner")
        if outer is None or inner is None or not _lacks_condition(join, outer, inner):
            continue
        for needed, needless in ((outer, inner), (inner, outer)):
            rows = _rows(needless)
            if _names(texts, needed) and not _names(texts, needless) and rows >= MIN_PRODUCT:
                return Product(_name(work, needed), _name(work, needless), _rows(needed), rows)
    return None


def _joins(holder: Node) -> Iterator[Node]:
    """Yield the joins whose rows come to a step, as far as they are the same rows."""
    waiting = [holder]
    while waiting:
        node = waiting.pop()
        if node.join_type is not None:
            yield node
        if node is holder or node.type not in _MAKES_ROWS:
            waiting += node.inputs


def _lacks_condition(join: Node, outer: Node, inner: Node) -> bool:
    """Whether a join returns each row of one side with each of the other."""
    plain = join.type == "Nested Loop" and join.join_type in _PAIRS and not join.conditions
    return plain and not _names(list(_texts(inner)), outer)


def _texts(top: Node) -> Iterator[str]:
    """Yield what a step and those below it compare, sort, group and return, as printed."""
    for node in top.walk():
        yield from (text for _, text in node.conditions)
        yield from (*node.output, *node.sort_keys, *node.group_keys)


def _names(texts: list[str], side: Node) -> bool:
    """Whether one of the texts names a column of a side of a join."""
    aliases = [f"{quoted_identifier(node.alias)}." for node in side.walk() if node.alias]
    return any(alias in text for text in texts for alias in aliases)


def _rows(side: Node) -> float:
    return side.rows if side.actual_rows is None else side.actual_rows


def _name(work: Work, side: Node) -> str:
    """Return the largest table of a side, as a person would name it."""
    relation = work.largest(side)
    return relation.display if relation is not None else side.title

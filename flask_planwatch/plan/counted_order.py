"""Sorts of rows that are only counted: an ORDER BY in a sub-query whose order has no effect."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from .tree import Node, Plan

#: An aggregate that is the same in any order of its rows.
_COUNT = re.compile(r"\A(?:PARTIAL )?count\((?!DISTINCT )(?:(?! ORDER BY )[^()])+\)\Z")

#: Steps that return rows of the step below them, and no others.
_PASSES_ON = frozenset({"Gather", "Gather Merge", "Limit", "Subquery Scan"})

_SORTS = frozenset({"Sort", "Incremental Sort"})


def counted_sorts(plan: Plan) -> Iterator[tuple[Node, ...]]:
    """Yield each step that sorts rows for one that does nothing but count them.

    It comes last, after the steps between them. PostgreSQL leaves the order of EXISTS out by
    itself, but not that of count(). With DISTINCT between them, and with groups, the order has an
    effect. With a LIMIT it has none on how many rows there are, but on which.
    """
    for node in plan.nodes:
        if node.type == "Aggregate" and not node.group_keys and _only_counts(node):
            steps = tuple(_steps_below(node))
            if steps and steps[-1].type in _SORTS and not _depends_on_limited(node, steps):
                yield steps


def _depends_on_limited(node: Node, steps: Sequence[Node]) -> bool:
    """Whether a count depends on which rows a LIMIT leaves of those that are sorted."""
    limits = [number for number, step in enumerate(steps) if step.type == "Limit"]
    if not limits:
        return False
    tested = any(step.condition("Filter") is not None for step in steps[: limits[-1]])
    return tested or set(node.output) != {"count(*)"}


def _steps_below(node: Node) -> Iterator[Node]:
    """Yield the steps that pass on the rows of the one below them, and the step that has them."""
    below = _below(node)
    while below is not None:
        yield below
        below = _below(below) if below.type in _PASSES_ON else None


def _only_counts(node: Node) -> bool:
    return bool(node.output) and all(map(_COUNT.match, node.output))


def _below(node: Node) -> Node | None:
    """Return the step whose rows a step gets, sub-queries aside; None if there are several."""
    below = [child for child in node.children if child.subplan is None]
    return below[0] if len(below) == 1 else None

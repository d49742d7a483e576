"""Indexes that are walked in their order until a LIMIT has its rows, and what is thrown away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .comparison import Comparison, comparisons, key_of
from .predicate import Operand
from .schema import Index, Relation, Schema
from .tree import Node, Plan

#: Steps that hand on what is below them in its order, row by row as it is asked for.
_HANDS_ON = frozenset(
    {"Result", "LockRows", "Subquery Scan", "ProjectSet", "Incremental Sort", "Gather Merge"}
    | {"Append", "Merge Append", "Unique", "WindowAgg"}
)

#: Joins that deliver in the order of their outer side, from one row to the next.
_JOINS = frozenset({"Nested Loop", "Merge Join"})

_WALKS = frozenset({"Index Scan", "Index Only Scan"})


@dataclass(frozen=True)
class Walk:
    """A LIMIT whose rows come from walking an index.

    `scans` walk it, one for each partition; `relation` is the table that a person would name.
    `order` are the keys by which the rows come, as SQL, and `descending` tells which of them go
    backward. `filtered` are the predicates that are tested on each row of the walk, `equal` those
    that the index itself answers by equality; `joins` are the steps above that may drop rows.
    """

    limit: Node
    scans: tuple[Node, ...]
    relation: Relation
    index: Index
    order: tuple[str, ...]
    filtered: tuple[Comparison, ...]
    equal: tuple[Comparison, ...]
    joins: tuple[Node, ...]
    entries: float

    @property
    def source(self) -> Node:
        """The step that the LIMIT stops."""
        return self.limit.children[0]

    @property
    def share(self) -> float:
        """Which part of the walk the planner expects: it takes the rows for evenly spread."""
        whole = self.source.total_cost - self.source.startup_cost
        part = self.limit.total_cost - self.source.startup_cost
        return min(max(part / whole, 0.0), 1.0) if whole > 0 else 1.0

    @property
    def passing(self) -> float:
        """Which part of the index's entries is expected to end up as a row of the result."""
        return self.source.rows / self.entries if self.entries > 0 else 1.0

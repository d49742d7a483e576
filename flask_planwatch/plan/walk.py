"""Indexes that are walked in their order until a LIMIT has its rows, and what is thrown away."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlglot.errors import SqlglotError

from .access import EQUAL
from .comparison import Comparison, comparisons, key_of
from .predicate import bare, operand
from .schema import Index, Relation, Schema
from .tree import Node, Plan
from .usage import MAX_USEFUL_SHARE

#: Steps that hand on the rows of the one step below them in its order, as they are asked for.
_HANDS_ON = frozenset({"Result", "LockRows", "Subquery Scan", "ProjectSet", "Unique"})
_HANDS_ON |= {"Incremental Sort", "Gather Merge"}

#: Steps that do so with the parts of a partitioned table.
_PARTS = frozenset({"Append", "Merge Append"})

#: Joins that deliver in the order of their outer side, as they are asked for.
_JOINS = frozenset({"Nested Loop", "Merge Join"})

_WALKS = frozenset({"Index Scan", "Index Only Scan"})

_NULLS = re.compile(r" (?:NULLS|COLLATE|USING) ")


@dataclass(frozen=True)
class Walk:
    """A LIMIT whose rows come from walking an index of a table with `entries` rows.

    `scans` walk it, one for each partition; `relation` is the table that a person would name.
    `order` are the columns and expressions by which the rows are asked for, as SQL. `equal` are the
    predicates that the index answers by one value, `filtered` those that are tested on each entry
    of the walk, and `joins` are the joins above it, which may throw rows away as well.
    """

    limit: Node
    scans: tuple[Node, ...]
    relation: Relation
    index: Index
    entries: float
    order: tuple[str, ...]
    equal: tuple[Comparison, ...]
    filtered: tuple[Comparison, ...]
    joins: tuple[Node, ...]

    @property
    def source(self) -> Node:
        """The step that the LIMIT stops."""
        return self.limit.children[0]

    @property
    def share(self) -> float:
        """Which part of the walk PostgreSQL expects: it takes the rows for evenly spread."""
        whole = self.source.total_cost - self.source.startup_cost
        part = self.limit.total_cost - self.source.startup_cost
        return min(max(part / whole, 0.0), 1.0) if whole > 0 else 1.0

    @property
    def passing(self) -> float:
        """How many of the entries are expected to become a row of the result, as a share."""
        return self.source.rows / self.entries if self.entries > 0 else 1.0

    @property
    def join_drops(self) -> bool:
        """Whether it is a join, more than a condition on the walked table, that drops rows."""
        found = sum(scan.rows for scan in self.scans)
        return bool(self.joins) and self.source.rows <= found * MAX_USEFUL_SHARE


def walks(plan: Plan, schema: Schema) -> list[Walk]:
    """Return the walks of a plan in which a condition or a join may throw rows away."""
    limits = [node for node in plan.nodes if node.type == "Limit" and node.children]
    if not limits:
        return []
    compared: dict[int, list[Comparison]] = {}
    for one in comparisons(plan, schema):
        if one.node is one.scan:
            compared.setdefault(id(one.scan), []).append(one)
    found = (_walk(limit, schema, compared) for limit in limits)
    return [one for one in found if one is not None and (one.joins or _filters(one.scans))]


def _walk(limit: Node, schema: Schema, compared: Mapping[int, list[Comparison]]) -> Walk | None:
    node, joins, wanted = limit.children[0], list[Node](), tuple[str, ...]()
    while node.children and (node.type in _HANDS_ON or node.type in _JOINS):
        if node.type in _JOINS:
            joins.append(node)
        elif node.type == "Incremental Sort":
            wanted = wanted or _plain_order(node.sort_keys)
        node = node.children[0]
    scans = node.children if node.type in _PARTS else (node,)
    relations = [schema.get(scan.qualified_relation) for scan in scans]
    first = relations[0] if relations else None
    if first is None or any(scan.type not in _WALKS for scan in scans):
        return None
    if any(relation is None or relation.root != first.root for relation in relations):
        return None
    index = next((one for one in first.indexes if one.name == scans[0].index), None)
    if index is None or index.method != "btree":
        return None
    own = [one for scan in scans for one in compared.get(id(scan), ())]
    equal = [one for one in own if one.kind == "Index Cond" and one.operator in EQUAL]
    fixed = {key_of(one.operand, first) for one in equal}
    order = tuple(key for key in wanted or _keys(index, first) if key not in fixed)
    if not order:
        return None
    return Walk(
        limit,
        tuple(scans),
        schema.root(first),
        index,
        sum(relation.rows for relation in relations if relation is not None),
        order,
        _once(equal),
        _once(one for one in own if one.kind == "Filter"),
        tuple(joins),
    )


def _keys(index: Index, relation: Relation) -> tuple[str, ...]:
    """Return the keys of an index as SQL, nothing if one cannot be read."""
    try:
        return tuple(
            relation.quoted_column(key) if relation.column(key) else bare(key) for key in index.keys
        )
    except SqlglotError:
        return ()


def _plain_order(sort_keys: tuple[str, ...]) -> tuple[str, ...]:
    """Return what rows are sorted by if an index without directions has that order, else nothing.

    Such an index can be read backward as a whole.
    """
    keys = [key.removesuffix(" DESC") for key in sort_keys]
    backward = sum(key != printed for key, printed in zip(keys, sort_keys, strict=True))
    if backward not in {0, len(keys)} or any(_NULLS.search(key) for key in keys):
        return ()
    try:
        return tuple(operand(bare(key)).without_alias() for key in keys)
    except SqlglotError:
        return ()


def _filters(scans: Iterable[Node]) -> bool:
    return any(scan.condition("Filter") is not None for scan in scans)


def _once(found: Iterable[Comparison]) -> tuple[Comparison, ...]:
    """Return each predicate once, whichever partition it was tested on."""
    return tuple({one.condition: one for one in found}.values())

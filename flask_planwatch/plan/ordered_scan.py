"""Indexes that are read in their order until a LIMIT has its rows, and what is discarded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .access import EQUAL, sort_terms
from .comparison import Comparison, comparisons, key_of
from .figures import MAX_EXPECTED_SHARE, MAX_USEFUL_SHARE, RANDOM_PAGE_COST
from .parallel import APPENDS
from .predicate import bare
from .schema import Index, Relation, Schema
from .tree import Node, Plan

#: Steps that return the rows of the step below them in its order, as they are asked for.
_KEEPS_ORDER = frozenset({"Result", "LockRows", "Subquery Scan", "ProjectSet", "Unique"})
_KEEPS_ORDER |= {"Incremental Sort", "Gather Merge"}

#: Joins that return rows in the order of their outer side, as they are asked for.
_JOINS = frozenset({"Nested Loop", "Merge Join"})

_INDEX_SCANS = frozenset({"Index Scan", "Index Only Scan"})


@dataclass(frozen=True)
class OrderedScan:
    """A LIMIT whose rows come from an ordered index scan of a table with `entries` rows.

    `scans` are its nodes, one for each partition; `relation` is the table that a person would name.
    `order` are the columns and expressions by which the rows are asked for, as SQL. `equal` are the
    predicates that the index answers by one value, `filtered` those that are tested on each entry
    that is read. `joins` are the joins above the scan, which may discard rows as well.
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
        """Which part of the index PostgreSQL expects to read, as if rows were evenly spread."""
        return share_read(self.limit)

    @property
    def passing(self) -> float:
        """How many of the entries are expected to become a row of the result, as a share."""
        return self.source.rows / self.entries if self.entries > 0 else 1.0

    @property
    def join_drops(self) -> bool:
        """Whether a join, more than a condition on the table itself, discards rows."""
        found = sum(scan.rows for scan in self.scans)
        return bool(self.joins) and self.source.rows <= found * MAX_USEFUL_SHARE


@dataclass(frozen=True)
class LookUps:
    """What the inner side of a join reads until a LIMIT has its rows.

    `runs` are the look-ups in `relation`, and `hidden_cost` is what they cost beyond the plan's.
    """

    relation: Relation
    runs: float
    hidden_cost: float


def ordered_scans(plan: Plan, schema: Schema) -> list[OrderedScan]:
    """Return the ordered index scans in which a condition or a join may discard rows."""
    limits = [node for node in plan.nodes if node.type == "Limit" and node.children]
    if not limits:
        return []
    compared: dict[int, list[Comparison]] = {}
    for comparison in comparisons(plan, schema):
        if comparison.node is comparison.scan:
            compared.setdefault(id(comparison.scan), []).append(comparison)
    found = filter(None, (_ordered_scan(limit, schema, compared) for limit in limits))
    return [
        ordered
        for ordered in found
        if ordered.joins or any(scan.condition("Filter") is not None for scan in ordered.scans)
    ]


def passing_in_order(plan: Plan, schema: Schema) -> float:
    """Return which share of an index is expected to pass that is read until a LIMIT has its rows.

    1 if no index is read so, or if most of it is expected to be read anyway. Of several, it is the
    smallest share.
    """
    found = [1.0]
    for limit in plan.nodes:
        if limit.type != "Limit" or not limit.children:
            continue
        scans, joins, _ = _scans_in_order(limit)
        if not joins and not any(scan.condition("Filter") for scan in scans):
            continue
        relations = schema.of(scan.qualified_relation for scan in scans)
        in_order = all(scan.type in _INDEX_SCANS and scan.reads_all_rows for scan in scans)
        entries = sum(relation.rows for relation in relations)
        if in_order and entries > 0 and share_read(limit) <= MAX_EXPECTED_SHARE:
            found.append(limit.children[0].rows / entries)
    return min(found)


def hidden_look_ups(plan: Plan, schema: Schema) -> list[LookUps]:
    """Return the look-ups below a LIMIT that cost more than the plan says.

    PostgreSQL spreads the price of a table's pages, and what Memoize remembers, over the look-ups
    for all rows of an ordered index scan. Those until the LIMIT read most pages all the same if
    they are many: by index_pages_fetched() in src/backend/optimizer/path/costsize.c.
    """
    found = []
    for limit in plan.nodes:
        if limit.type != "Limit" or not limit.children:
            continue
        scans, joins, _ = _scans_in_order(limit)
        if any(scan.type not in _INDEX_SCANS for scan in scans):
            continue
        share = share_read(limit)
        for join in joins:
            outer, scan = join.inputs if len(join.inputs) == 2 else (join, join)
            if scan.type == "Memoize" and scan.children:
                scan = scan.children[0]
            relation = schema.get(scan.qualified_relation)
            if scan.type == "Index Scan" and relation is not None:
                runs, pages = plan.loops[id(scan)] * share, relation.pages
                read = min(2 * pages * runs / (2 * pages + runs), pages)
                charged = (join.total_cost - outer.total_cost) * join.share.divisor * share
                found.append(LookUps(relation, runs, read * RANDOM_PAGE_COST - charged))
    return [look_ups for look_ups in found if look_ups.hidden_cost > 0]


def share_read(limit: Node) -> float:
    """Return which part of the step below a LIMIT is expected to run, as if rows came evenly."""
    source = limit.children[0]
    whole, part = source.total_cost - source.startup_cost, limit.total_cost - source.startup_cost
    return min(max(part / whole, 0.0), 1.0) if whole > 0 else 1.0


def _scans_in_order(limit: Node) -> tuple[tuple[Node, ...], list[Node], tuple[str, ...]]:
    """Return the steps whose order the rows of a LIMIT have, the joins above, and what is sorted.

    The steps are one for each partition.
    """
    node, joins, wanted = limit.children[0], list[Node](), tuple[str, ...]()
    while node.children and (node.type in _KEEPS_ORDER or node.type in _JOINS):
        if node.type in _JOINS:
            joins.append(node)
        elif node.type == "Incremental Sort":
            wanted = wanted or _plain_order(node)
        node = node.children[0]
    return (node.children if node.type in APPENDS else (node,)), joins, wanted


def _ordered_scan(
    limit: Node, schema: Schema, compared: Mapping[int, list[Comparison]]
) -> OrderedScan | None:
    scans, joins, wanted = _scans_in_order(limit)
    relations = [schema.get(scan.qualified_relation) for scan in scans]
    first = relations[0] if relations else None
    if first is None or any(scan.type not in _INDEX_SCANS for scan in scans):
        return None
    if any(relation is None or relation.root != first.root for relation in relations):
        return None
    index = first.index(scans[0].index)
    if index is None or index.method != "btree":
        return None
    own = [comparison for scan in scans for comparison in compared.get(id(scan), ())]
    equal = [test for test in own if test.kind == "Index Cond" and test.operator in EQUAL]
    fixed = {key_of(test.operand, first) for test in equal}
    keys = wanted or [bare(first.quoted_column(key)) for key in index.keys]
    order = tuple(key for key in keys if key not in fixed)
    if not order:
        return None
    return OrderedScan(
        limit,
        tuple(scans),
        schema.root(first),
        index,
        sum(relation.rows for relation in relations if relation is not None),
        order,
        _once(equal),
        _once(test for test in own if test.kind == "Filter"),
        tuple(joins),
    )


def _plain_order(node: Node) -> tuple[str, ...]:
    """Return what rows are sorted by if an index without directions has that order, else nothing.

    Such an index can be read backward as a whole.
    """
    terms = sort_terms(node)
    if any(term.collation for term in terms):
        return ()
    # PostgreSQL puts NULLs last, and first in descending order.
    directions = {(term.descending, term.nulls_first) for term in terms}
    plain = directions in ({(False, False)}, {(True, True)})
    return tuple(term.operand.without_alias() for term in terms) if plain else ()


def _once(found: Iterable[Comparison]) -> tuple[Comparison, ...]:
    """Return each predicate once, whichever partition it was tested on."""
    return tuple({comparison.condition: comparison for comparison in found}.values())

"""How much of a statement its findings name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .adviser import Found

Node = Mapping[str, Any]


def named_share(plan: Node | None, findings: Iterable[Found]) -> float:
    """Return the share of a statement's time that the steps take which its findings name.

    A step is named if it reads a table that a finding is about, or belongs to the sub-query that it
    is about. The whole statement is named by a finding without either, if its plan is unknown, and
    if it changes rows: what foreign keys search for is not in the plan. Times are those of all
    processes together.
    """
    found = list(findings)
    if plan is None or plan["Node Type"] == "ModifyTable" or not found:
        return 1.0
    if any(not one.scanned and one.sub_query is None for one in found):
        return 1.0
    tables = {table for one in found if one.sub_query is None for table in one.scanned}
    sub_queries = {one.sub_query for one in found if one.sub_query is not None}
    total = named = 0.0
    for node, is_named in _nodes(plan, tables, sub_queries, inside=False):
        own = max(0.0, _time(node) - sum(map(_time, _children(node))))
        total += own
        named += own if is_named else 0.0
    return named / total if total and named else 1.0


def _nodes(
    node: Node, tables: set[str], sub_queries: set[str], *, inside: bool
) -> Iterator[tuple[Node, bool]]:
    inside = inside or node.get("Subplan Name", "") in sub_queries
    reads = _table(node) in tables
    yield node, inside or reads
    for child in _children(node):
        # The table of a Bitmap Index Scan is that of the node above it.
        bitmap = reads and node["Node Type"] == "Bitmap Heap Scan"
        yield from _nodes(child, tables, sub_queries, inside=inside or bitmap)


def _children(node: Node) -> list[Node]:
    return list(node.get("Plans", ()))


def _time(node: Node) -> float:
    """Return the ms of a node with all below it, in all its executions."""
    return float(node["Actual Total Time"]) * float(node["Actual Loops"])


def _table(node: Node) -> str | None:
    return f"{node['Schema']}.{node['Relation Name']}" if "Relation Name" in node else None

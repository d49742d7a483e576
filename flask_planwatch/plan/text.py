"""Prints a plan as `EXPLAIN (VERBOSE)` does: ExplainNode() of src/backend/commands/explain.c.

PostgreSQL writes the JSON from the same properties in the same order, so all but the first line of
a node is printed as it comes. What EXPLAIN ANALYZE measures of memory, of input and output, and of
each worker is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from math import isfinite
from typing import Any, TypeVar

Item = TypeVar("Item")

#: Columns that a line is indented by at most. A plan of thousands of levels would be mostly white
#: space.
MAX_INDENT = 240

#: A larger figure of a plan is cut to this, so that products of figures are finite. PostgreSQL
#: itself cuts estimates to 1e100 rows.
MAX_FIGURE = 1e60

#: What a node's first line is made of, and what the text format never prints.
_FIRST_LINE = frozenset(
    {"Node Type", "Strategy", "Partial Mode", "Operation", "Command", "Join Type", "Scan Direction"}
    | {"Parallel Aware", "Async Capable", "Custom Plan Provider", "Index Name", "Subplan Name"}
    | {"Schema", "Relation Name", "Function Name", "Table Function Name", "CTE Name"}
    | {"Tuplestore Name", "Alias", "Startup Cost", "Total Cost", "Plan Rows", "Plan Width"}
    | {"Parent Relationship", "Plans"}
)

#: What the text format prints only if it is more than nothing.
_IF_ANY = frozenset(
    {"Subplans Removed", "Planned Partitions", "Rows Removed by Filter"}
    | {"Rows Removed by Join Filter", "Rows Removed by Index Recheck"}
    | {"Rows Removed by Conflict Filter"}
)

#: What EXPLAIN ANALYZE measures. It is left out: the text format has its own lines for it.
_MEASURED = re.compile(
    r"Actual |Sort (?:Method|Space)|Full-sort |Pre-sorted |Hash (?:Buckets|Batches)|HashAgg |"
    r"Original Hash |Peak Memory|Disk Usage|Exact Heap|Lossy Heap|Cache (?:Hits|Misses|Ev|Ov)|"
    r"Shared |Local |Temp |I/O |WAL |Workers$|Storage$|Maximum Storage$|Sampling |Repeatable Seed$"
)

#: The names of the join types that are part of a node's name.
_JOINS = {"Nested Loop": "Nested Loop", "Hash Join": "Hash", "Merge Join": "Merge"}

_AGGREGATES = {"Sorted": "GroupAggregate", "Hashed": "HashAggregate", "Mixed": "MixedAggregate"}

#: What names the relation that a node reads; the first that is there.
_RELATIONS = (
    "Relation Name",
    "Function Name",
    "Table Function Name",
    "CTE Name",
    "Tuplestore Name",
)

#: Words that quote_identifier() puts in quotes: those of pg_get_keywords() that PostgreSQL 18 does
#: not call unreserved. Earlier versions have fewer of them: on 15, no `json…` and `merge_action`.
_KEYWORDS = frozenset(
    (  # noqa: SIM905 - a line for each would take two pages
        "all analyse analyze and any array as asc asymmetric authorization between bigint binary "
        "bit boolean both case cast char character check coalesce collate collation column "
        "concurrently constraint create cross current_catalog current_date current_role "
        "current_schema current_time current_timestamp current_user dec decimal default "
        "deferrable desc distinct do else end except exists extract false fetch float for foreign "
        "freeze from full grant greatest group grouping having ilike in initially inner inout int "
        "integer intersect interval into is isnull join json json_array json_arrayagg json_exists "
        "json_object json_objectagg json_query json_scalar json_serialize json_table json_value "
        "lateral leading least left like limit localtime localtimestamp merge_action national "
        "natural nchar none normalize not notnull null nullif numeric offset on only or order out "
        "outer overlaps overlay placing position precision primary real references returning "
        "right row select session_user setof similar smallint some substring symmetric "
        "system_user table tablesample then time timestamp to trailing treat trim true union "
        "unique user using values varchar variadic verbose when where window with xmlattributes "
        "xmlconcat xmlelement xmlexists xmlforest xmlnamespaces xmlparse xmlpi xmlroot "
        "xmlserialize xmltable"
    ).split()
)

_PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_]*")


def explain_text(document: Mapping[str, Any]) -> str:
    """Return the JSON of an EXPLAIN as the server's text; what it does not know is left out."""
    lines: list[str] = []
    plan = document.get("Plan")
    waiting = [(plan, 0)] if isinstance(plan, Mapping) else []
    while waiting:
        node, level = waiting.pop()
        if name := text_of(node, "Subplan Name"):
            lines.append(_indented(level, name))
            level += 1
        lines.append(_indented(level, "->  " * (level > 0) + _first_line(node)))
        level += 1 if level == 0 else 3
        lines.extend(_indented(level, line) for line in _details(node))
        waiting.extend((child, level) for child in reversed(nodes_below(node)))
    lines.extend(_summary(document))
    return "\n".join(lines)


def nodes_below(node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the nodes of a plan's JSON right below this one."""
    return [child for child in items(node.get("Plans"), dict) if "Node Type" in child]


def quoted_identifier(name: str) -> str:
    """Return a name as PostgreSQL prints it: in quotes only where it needs them."""
    if _PLAIN_NAME.fullmatch(name) and name not in _KEYWORDS:
        return name
    return '"' + name.replace('"', '""') + '"'


def quoted_literal(text: str) -> str:
    """Return a text as a constant of SQL, as PostgreSQL prints it in a plan."""
    return "'" + text.replace("'", "''") + "'"


def _indented(level: int, line: str) -> str:
    return " " * min(2 * level, MAX_INDENT) + line


def _first_line(node: Mapping[str, Any]) -> str:
    """Return what a node is and reads, with its costs."""
    parallel = "Parallel " if node.get("Parallel Aware") is True else ""
    ahead = "Async " if node.get("Async Capable") is True else ""
    figures = (
        f"(cost={number(node, 'Startup Cost'):.2f}..{number(node, 'Total Cost'):.2f} "
        f"rows={number(node, 'Plan Rows'):.0f} width={number(node, 'Plan Width'):.0f})"
    )
    return f"{parallel}{ahead}{_name(node)}{_target(node)}  {figures}{_actual(node)}"


def _name(node: Mapping[str, Any]) -> str:
    kind = str(node["Node Type"])
    strategy, operation = text_of(node, "Strategy"), text_of(node, "Operation")
    if kind in _JOINS:
        join = text_of(node, "Join Type")
        if join not in {"", "Inner"}:
            return f"{_JOINS[kind]} {join} Join"
        return kind
    if kind == "Aggregate":
        partial = text_of(node, "Partial Mode")
        name = _AGGREGATES.get(strategy, kind)
        return f"{partial} {name}" if partial in {"Partial", "Finalize"} else name
    if kind == "SetOp":
        return f"{'Hash' * (strategy == 'Hashed')}SetOp {text_of(node, 'Command')}".rstrip()
    if kind == "ModifyTable":
        return operation or kind
    if kind == "Foreign Scan" and operation not in {"", "Select"}:
        return f"Foreign {operation}"
    if kind == "Custom Scan":
        return f"{kind} ({text_of(node, 'Custom Plan Provider')})"
    return kind


def _target(node: Mapping[str, Any]) -> str:
    """Return the index and the relation that a node reads or changes."""
    index, target = text_of(node, "Index Name"), ""
    if index and node["Node Type"] == "Bitmap Index Scan":
        return f" on {quoted_identifier(index)}"
    if index:
        backward = " Backward" if text_of(node, "Scan Direction") == "Backward" else ""
        target = f"{backward} using {quoted_identifier(index)}"
    schema, alias = text_of(node, "Schema"), text_of(node, "Alias")
    relation = next(filter(None, (text_of(node, key) for key in _RELATIONS)), "")
    if relation or alias:
        target += " on"
    if relation:
        target += f" {quoted_identifier(schema)}." if schema else " "
        target += quoted_identifier(relation)
    if alias and alias != relation:
        target += f" {quoted_identifier(alias)}"
    return target


def _actual(node: Mapping[str, Any]) -> str:
    """Return what EXPLAIN ANALYZE adds to the first line, nothing in other plans."""
    if "Actual Loops" not in node:
        return ""
    if not number(node, "Actual Loops"):
        return " (never executed)"
    time = ""
    if "Actual Total Time" in node:
        first, last = number(node, "Actual Startup Time"), number(node, "Actual Total Time")
        time = f"time={first:.3f}..{last:.3f} "
    # From 18 on, the server counts rows of a loop with two decimals.
    decimals = 0 if isinstance(node.get("Actual Rows"), int) else 2
    rows = f"{number(node, 'Actual Rows'):.{decimals}f}"
    return f" (actual {time}rows={rows} loops={number(node, 'Actual Loops'):.0f})"


def _details(node: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines below a node's first one, without their indentation."""
    for key, value in node.items():
        if key in _FIRST_LINE:
            continue
        if key == "Sampling Method":
            yield _sampling(node)
        elif key == "Grouping Sets":
            yield from _grouping_sets(value)
        elif key == "Target Tables":
            operation = text_of(node, "Operation")
            targets = items(value, dict)
            yield from (operation + _target({**target, "Node Type": ""}) for target in targets)
        elif not _MEASURED.match(key) and not (key in _IF_ANY and not value):
            yield from _property(key, value)


def _property(key: str, value: object) -> Iterator[str]:
    """Yield the line of one property; a flag has one only if it is set."""
    if value is True:
        yield f"{key}: true"
    elif isinstance(value, str) or (isinstance(value, int | float) and value is not False):
        yield f"{key}: {value}"
    elif isinstance(value, list) and all(isinstance(item, str) for item in value):
        yield f"{key}: {', '.join(value)}"


def _sampling(node: Mapping[str, Any]) -> str:
    parameters = ", ".join(items(node.get("Sampling Parameters"), str))
    seed = text_of(node, "Repeatable Seed")
    repeatable = f" REPEATABLE ({seed})" if seed else ""
    return f"Sampling: {text_of(node, 'Sampling Method')} ({parameters}){repeatable}"


def _grouping_sets(sets: object) -> Iterator[str]:
    for grouping in items(sets, dict):
        indent = ""
        if "Sort Key" in grouping:
            yield f"Sort Key: {', '.join(items(grouping['Sort Key'], str))}"
            indent = "  "
        for key in ("Hash Key", "Group Key"):
            for each in items(grouping.get(f"{key}s"), list):
                yield f"{indent}{key}: {', '.join(items(each, str)) or '()'}"


def _summary(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield what follows the plan: the identifier of the query, and what would be compiled."""
    identifier = document.get("Query Identifier")
    if isinstance(identifier, int):
        yield f"Query Identifier: {identifier}"
    jit = document.get("JIT")
    if isinstance(jit, Mapping) and isinstance(options := jit.get("Options"), Mapping):
        said = ", ".join(f"{name} {str(value).lower()}" for name, value in options.items())
        yield from ("JIT:", f"  Functions: {jit.get('Functions')}", f"  Options: {said}")


def text_of(node: Mapping[str, Any], key: str) -> str:
    """Return a text of a plan's JSON, empty if it is none."""
    value = node.get(key)
    return value if isinstance(value, str) else ""


def items(values: object, kind: type[Item]) -> list[Item]:
    """Return those items of a list in a plan's JSON that are of this type."""
    return [item for item in values if isinstance(item, kind)] if isinstance(values, list) else []


def number(node: Mapping[str, Any], key: str) -> float:
    """Return a figure of a plan's JSON, 0 if it is none."""
    value = node.get(key)
    try:
        figure = float(value) if isinstance(value, int | float | Decimal) else 0.0
    except OverflowError:
        return 0.0
    return max(-MAX_FIGURE, min(figure, MAX_FIGURE)) if isfinite(figure) else 0.0

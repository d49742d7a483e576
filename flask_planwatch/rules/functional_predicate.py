"""
functional-predicate
====================

What it finds
-------------

A comparison whose one side is an expression around a column, such as ``lower(email) = ?``,
``data ->> 'type' = ?``, ``date_trunc('day', created_at) = ?`` or ``price * 2 > ?``, on a table that
has no index on that very expression. The plan then reads the table, or all rows that another
condition left over, and computes the expression for each of them: a Seq Scan with a Filter, an
index scan that only filters, or a join that compares the expression with the other side.

Why it hurts
------------

An index on the bare column cannot serve: it is sorted by ``email``, not by ``lower(email)``. The
statement gets slower with each row that the table gains, and it is easy to miss because the index
on the column exists and the development database is small.

How to fix it
-------------

If the expression is IMMUTABLE, create an index on it. PlanWatch cuts the expression from the
server's own text, so that the planner recognises it, and lets the planner confirm that it would use
the index. PostgreSQL refuses an index on a STABLE or VOLATILE expression, such as
``date_trunc('day', …)`` of a ``timestamptz``, ``to_char`` or an enum cast to text: there the advice
is another way to write the condition, mostly a half-open range on the bare column.

When it stays silent
--------------------

- A bare column is compared, or a column in a cast that only relabels its type.
- An index on the expression exists, even if the planner preferred not to use it this time.
- The table has fewer rows than ``PLANWATCH_MIN_ROWS``, unless ``PLANWATCH_GROWTH`` asks to hear
  of it as ``info``.
- An index scan tests the expression on only a few rows that another condition found.
- A large part of the rows passed, or the column has only a few different values, so that an index
  would not help.
- A LIMIT was reached before much of the table was read.
- A join compares the expression with a column that has an index of its own, or needs so many rows
  that looking each one up would be slower, or each row, as the outer side of an outer join.
- The comparison is one that no btree index answers (``<>``, ``LIKE``, ``@>``), or the expression
  stands alone as a condition, or under OR: nothing tells how many rows that is worth.
- A cast that the type of a parameter forced on the column, as in ``id = 5.0``.
- The table is one of PostgreSQL's own, or a foreign one.
- PostgreSQL says, with an index to choose, that it would rather not use it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from ..plan.evidence import Evidence, Hit, Miss, Need, Suspicion
from ..plan.predicate import BTREE_OPERATORS, Conjunct, Operand, conjuncts, parse
from ..plan.schema import Relation, Schema
from ..plan.scrub import scrub_condition
from ..plan.tree import JOIN_CONDITIONS, Node, Plan
from ..plan.usage import (
    cast_in_statement,
    indexed_in,
    reads_whole_relation,
)

NAME = "functional-predicate"

#: An index scan that costs less finds few rows, so what it filters afterwards is cheap.
#: dexter (https://github.com/ankane/dexter) leaves statements below this cost alone.
MIN_INDEX_SCAN_COST = 100.0

#: Above this share of the rows PostgreSQL prefers a Seq Scan to an index, whatever the index:
#: with the default costs a Bitmap Heap Scan breaks even between a fifth and a half.
MAX_USEFUL_SHARE = 0.3

#: A join that looks up more than this share of a table's rows is faster by hashing it whole:
#: an index lookup costs about `random_page_cost` (4) against 0.01 for a row of a Seq Scan, and
#: tables with wide rows shift that by a factor of ten.
MAX_LOOKUP_SHARE = 0.02

#: A scan takes 0.001 to 0.025 ms for each unit of estimated cost. One that took less cannot have
#: read the whole table, so a LIMIT stopped it.
MIN_MS_PER_COST = 0.0005

#: Casts that change a type's label and nothing else: an index on the column still serves.
RELABELLED = frozenset({("character varying", "text"), ("cidr", "inet")})

#: Scans that an index could replace.
SCANS = frozenset({"Seq Scan", "Index Scan", "Index Only Scan", "Bitmap Heap Scan"})

#: Nobody creates indexes on these.
SYSTEM_SCHEMAS = frozenset({"pg_catalog", "information_schema", "pg_toast"})

_SUBQUERY = re.compile(r"\$\d|\b(?:InitPlan|SubPlan)\b")


def suspect(plan: Plan, schema: Schema) -> list[Suspicion]:
    """Return each expression around a column that the plan computes row by row."""
    found: dict[tuple[str, str, str], tuple[Suspicion, list[Node]]] = {}
    for suspicion in _suspicions(plan, schema):
        first, scans = found.setdefault(suspicion.identity, (suspicion, []))
        if (first.other_rows is None and suspicion.other_rows is None) or first is suspicion:
            scans += suspicion.scans
    return [replace(first, scans=tuple(dict.fromkeys(scans))) for first, scans in found.values()]


def judge(suspicion: Suspicion, evidence: Evidence) -> Hit | Miss:
    """Return a Hit if no index can serve the expression and an index would be worth having."""
    schema = evidence.schema
    cast = suspicion.operand.cast_column
    if cast and not cast_in_statement(cast[0], evidence.statement):
        return Miss(suspicion, "the cast comes from a parameter's type, not from the statement")
    if any(indexed_in(plan, suspicion) for plan in (evidence.seqscan_off, evidence.alone)):
        return Miss(suspicion, "an index on the expression exists")
    rows = sum(relation.rows for relation in _scanned(suspicion, schema))
    small = rows < evidence.min_rows
    if small and not evidence.growth:
        return Miss(suspicion, f"only {rows:.0f} rows are read")
    if small and not any(reads_whole_relation(scan) for scan in suspicion.scans):
        return Miss(suspicion, "an index leaves only a few rows to test")
    if suspicion.other_rows is not None and _other_side_is_indexed(suspicion, evidence):
        return Miss(suspicion, "the other side of the join has an index")
    if not small:
        needless = _needs_much_anyway(suspicion, evidence, rows)
        if needless:
            return Miss(suspicion, needless, by_parameters=True)
    facts = _facts(suspicion, evidence, rows)
    return Hit(suspicion, _problem(suspicion, schema, rows), rows, facts, small)


def _needs_much_anyway(suspicion: Suspicion, evidence: Evidence, rows: float) -> str:
    """Return why reading much of the table is right for these values, or nothing."""
    if suspicion.other_rows is not None:
        too_many = suspicion.other_rows > rows * MAX_LOOKUP_SHARE
        return "the join needs too large a part of the table" if too_many else ""
    if evidence.returned_rows is not None and _counts_its_rows(evidence.plan):
        share = evidence.returned_rows / max(rows, 1)
        if share > MAX_USEFUL_SHARE:
            return f"{share:.0%} of the rows pass"
    elif 0 < (distinct := _distinct_values(suspicion)) < 1 / MAX_USEFUL_SHARE:
        return f"the column has only {distinct:.0f} values"
    full_cost = sum(scan.total_cost for scan in suspicion.scans)
    limited = any(node.type == "Limit" for node in evidence.plan.nodes)
    if limited and evidence.duration_ms < full_cost * MIN_MS_PER_COST:
        return "a LIMIT was reached early"
    return ""


def _suspicions(plan: Plan, schema: Schema) -> Iterator[Suspicion]:
    scans = {scan.alias: scan for scan in plan.scans if scan.alias and scan.type in SCANS}
    for node, joins, conjunct in _tested_conjuncts(plan):
        for operand, other in conjunct.sides:
            scan = _scan_of(operand, other, scans)
            relation = schema.get(scan.qualified_relation) if scan else None
            if scan is None or relation is None or not _is_expression(operand, relation):
                continue
            if joins:
                if not reads_whole_relation(scan) or _keeps_every_row(node, scan):
                    continue
            elif node is not scan or not _is_costly(scan):
                continue
            yield Suspicion(
                rule=NAME,
                relation=schema.root(relation),
                subject=operand.without_alias(),
                scans=(scan,),
                conjunct=conjunct,
                operand=operand,
                other=other,
                needs=frozenset({Need.SEQSCAN_OFF, Need.PREDICATE_ALONE}),
                other_rows=_other_side(node, scan).rows if joins else None,
            )


def _tested_conjuncts(plan: Plan) -> Iterator[tuple[Node, bool, Conjunct]]:
    """Yield what is tested row by row: the node, whether it is a join, and the comparison."""
    for node in plan.nodes:
        for kind, condition in node.conditions:
            joins = kind in JOIN_CONDITIONS and len(node.children) >= 2
            if joins or kind == "Filter":
                for conjunct in conjuncts(condition):
                    if conjunct.operator in BTREE_OPERATORS:
                        yield node, joins, conjunct


def _scan_of(operand: Operand, other: Operand, scans: dict[str, Node]) -> Node | None:
    """Return the scan whose relation alone the operand reads, and the other side does not."""
    if len(operand.aliases) != 1 or operand.aliases & other.aliases:
        return None
    return scans.get(next(iter(operand.aliases)))


def _is_expression(operand: Operand, relation: Relation) -> bool:
    """Whether an operand is an expression around columns that an index might hold."""
    columns = [relation.column(name) for name in operand.column_names]
    if not relation.indexable or relation.schema in SYSTEM_SCHEMAS or None in columns:
        return False
    if operand.column is not None or operand.text.startswith("ROW("):
        return False
    if operand.cast_column is not None:
        column = columns[0]
        target = operand.cast_column[1].partition("(")[0]
        relabels = column is not None and (column.base_type, target) in RELABELLED
        return column is not None and column.base_type != target and not relabels
    # A sub-query's result is not known when an index is built.
    return not _SUBQUERY.search(operand.text) and parse(operand.text) is not None


def _is_costly(scan: Node) -> bool:
    return reads_whole_relation(scan) or scan.total_cost >= MIN_INDEX_SCAN_COST


def _other_side(join: Node, scan: Node) -> Node:
    """Return the side of a join that the scan is not on."""
    outer, inner = join.children[:2]
    return inner if any(node is scan for node in outer.walk()) else outer


def _keeps_every_row(join: Node, scan: Node) -> bool:
    """Whether the join needs each row of the scan, whether it has a match or not."""
    outer = _other_side(join, scan) is join.children[1]
    kept = {"Left", "Anti", "Full"} if outer else {"Right", "Right Anti", "Full"}
    return join.join_type in kept


def _scanned(suspicion: Suspicion, schema: Schema) -> list[Relation]:
    return [relation for key in suspicion.scanned if (relation := schema.get(key))]


def _distinct_values(suspicion: Suspicion) -> float:
    """Return how many values the expression can have at most, 0 if that is not known.

    A function of one column has no more values than the column.
    """
    names = suspicion.operand.column_names
    column = suspicion.relation.column(names[0]) if len(names) == 1 else None
    if column is None or suspicion.conjunct.operator != "=":
        return 0.0
    return max(column.distinct, 0.0)


def _other_side_is_indexed(suspicion: Suspicion, evidence: Evidence) -> bool:
    column = suspicion.other.column
    scan = next((s for s in evidence.plan.scans if s.alias in suspicion.other.aliases), None)
    relation = evidence.schema.get(scan.qualified_relation) if scan else None
    if column is None or relation is None:
        return False
    return any(index.valid and index.keys[:1] == (column,) for index in relation.indexes)


def _counts_its_rows(plan: Plan) -> bool:
    """Whether the driver's row count is the number of rows that the scan lets pass."""
    return len(plan.scans) == 1 and not any(
        node.type in {"Aggregate", "Unique", "Limit", "Group"} for node in plan.nodes
    )


def _problem(suspicion: Suspicion, schema: Schema, rows: float) -> str:
    scan, table = suspicion.scans[0], suspicion.relation.display
    scanned, leaves = len(suspicion.scanned), len(schema.leaves(suspicion.relation))
    if not reads_whole_relation(scan):
        does = f"reads a large part of {table} by {scan.index or scan.type}"
    elif scanned < leaves:
        does = f"reads {scanned} of the {leaves} partitions of {table}, about {rows:,.0f} rows"
    else:
        does = f"reads all of {table}, about {rows:,.0f} rows"
    why = "no index holds that expression"
    useless = _indexes_on_column(suspicion)
    if useless:
        why += f"; {' and '.join(useless)} on the bare column cannot serve it"
    return f"the statement {does}, and computes {suspicion.shown} for each of them: {why}."


def _indexes_on_column(suspicion: Suspicion) -> list[str]:
    columns = suspicion.operand.column_names
    return [
        index.name
        for index in suspicion.relation.indexes
        if index.valid and index.keys[:1] and index.keys[0] in columns
    ]


def _facts(suspicion: Suspicion, evidence: Evidence, rows: float) -> dict[str, object]:
    condition = suspicion.conjunct.text
    return {
        "scanned": list(suspicion.scanned),
        "node": suspicion.scans[0].title,
        "condition": (
            condition if evidence.show_values else scrub_condition(condition, evidence.varying)
        ),
        "table_rows": round(rows),
        "expected_rows": round(sum(scan.rows for scan in suspicion.scans)),
        "total_cost": evidence.plan.total_cost,
        "indexes_on_column": _indexes_on_column(suspicion),
    }

"""
missing-index
=============

What it finds
-------------

Plain columns that a statement compares, joins or sorts by, and that no index serves: in WHERE, in
joins, in EXISTS and IN sub-queries, in UPDATE and DELETE, and for ORDER BY with LIMIT. PostgreSQL
then reads the whole table, or all that another index left over, and tests each row. It also finds
what no plan shows: a DELETE checks each foreign key that refers to the table, and reads the whole
referring table for each deleted row if the key has no index.

Why it hurts
------------

The work grows with the table instead of with the result. PostgreSQL creates indexes for primary
keys and unique constraints only, never for foreign keys, so lazy loading, ``back_populates`` and
``ON DELETE CASCADE`` are slow from the first day and nobody notices before the table has grown.

How to fix it
-------------

Create the index that PlanWatch proposes. It tries several: one or more columns, those compared by
equality first, then a range or the order of the result, with direction and NULLS where they matter;
with ``INCLUDE`` where the table need not be read at all, or with a ``WHERE`` where a condition is
one that no index finds. What is proposed is the smallest set with which the planner's cost is
nearly the lowest, and the cost before and after is said. If the index is declared in the model and
the database does not have it, a migration was not run. If it exists but is invalid, a
``CREATE INDEX CONCURRENTLY`` has failed, and ``REINDEX`` mends it.

When it stays silent
--------------------

- An index exists that begins with the columns, even if the planner preferred not to use it.
- The table has fewer rows than ``PLANWATCH_MIN_ROWS``, unless ``PLANWATCH_GROWTH`` asks to hear
  of it as ``info``.
- A large part of the rows passes, so that no index would help, unless the planner confirms one.
- An index scan tests the columns on only a few rows that another condition found.
- A LIMIT was reached before much of the table was read.
- No index lowers the cost of the statement by a fifth; the best one that was tried is named.
- A sort without LIMIT, groups, DISTINCT, and OR across columns, unless the planner confirms that
  an index helps.
- The table is one of PostgreSQL's own, a foreign or a temporary one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..plan.access import EQUAL, RANGES, Access, accesses
from ..plan.comparison import MIN_INDEX_SCAN_COST, Comparison, key_of
from ..plan.evidence import Evidence, Hit, Miss, Need, Suspicion
from ..plan.schema import Schema
from ..plan.scrub import structural
from ..plan.tree import Plan
from ..plan.usage import MAX_USEFUL_SHARE
from . import worth
from .worth import MAX_LOOKUP_SHARE

NAME = "missing-index"


def suspect(plan: Plan, schema: Schema) -> list[Suspicion]:
    """Return each set of columns that the plan tests or sorts without the help of an index."""
    found = [one for access in accesses(plan, schema) if (one := _suspicion(access))]
    return worth.merged([*found, *_unchecked_references(schema)])


def judge(suspicion: Suspicion, evidence: Evidence) -> Hit | Miss:
    """Return a Hit if no index serves the columns and one would be worth having."""
    keys = tuple(key for key in suspicion.keys if structural(key, evidence.varying) is not None)
    if not keys:
        return Miss(suspicion, "the order changes with a value", by_parameters=True)
    if keys != suspicion.keys:
        suspicion = replace(suspicion, subject=", ".join(keys), keys=keys, holds_value=False)
    rows = worth.rows_read(suspicion, evidence.schema)
    small = rows < evidence.min_rows
    if small and not evidence.growth:
        return Miss(suspicion, f"only {rows:.0f} rows are read")
    if not suspicion.scans:
        return _judge_reference(suspicion, evidence.schema, rows, small=small)
    if small and not any(scan.reads_all_rows for scan in suspicion.scans):
        return Miss(suspicion, "an index leaves only a few rows to test")
    if worth.limit_reached_early(suspicion, evidence) and not _sorts(suspicion):
        return Miss(suspicion, "a LIMIT was reached early", by_parameters=True)
    doubt = _doubt(suspicion, evidence, rows, small=small)
    if small and doubt is not None:
        return doubt
    facts = worth.facts(suspicion, evidence, rows)
    facts["columns"] = list(suspicion.shown_keys)
    most = bool(_passing(suspicion, evidence, rows)) and not small
    does, why = _does(suspicion), _lacks(suspicion)
    if most and any(scan.reads_all_rows for scan in suspicion.scans):
        why = f"an index on {_named(suspicion)} could spare reading the table"
        does = does.partition(":")[0] + ": an index could spare reading the table, not the rows"
    problem = f"{worth.reading(suspicion, evidence.schema, rows)}, and {does}."
    return Hit(
        suspicion,
        problem,
        rows,
        facts,
        small=small,
        doubt=doubt,
        most_pass=most,
        what=worth.step(suspicion),
        why=why,
    )


def _suspicion(access: Access) -> Suspicion | None:
    tested = [one for one in access.untold if one.column or one.conjunct.alternatives]
    tested = [one for one in tested if _columns(one, access) and not _is_looked_up(one)]
    keys = [name for one in sorted(tested, key=_place) for name in _columns(one, access)]
    reads_much = any(
        scan.reads_all_rows or scan.total_cost >= MIN_INDEX_SCAN_COST for scan in access.scans
    )
    if reads_much:
        keys += [key_of(term.operand, access.relation) for term in access.sorted_by]
        if not keys:
            # Rows that all have the same value are in any order.
            bound = {one.without_alias() for one in access.equal}
            grouped = [one for one in access.grouped_by if one.without_alias() not in bound]
            keys = [key_of(one, access.relation) for one in grouped]
    if not keys:
        return None
    keys = list(dict.fromkeys(keys))
    joins = bool(tested) and all(one.joins for one in tested)
    return Suspicion(
        rule=NAME,
        relation=access.relation,
        subject=", ".join(keys),
        keys=tuple(keys),
        scans=access.scans,
        comparisons=tuple(tested),
        needs=frozenset({Need.SEQSCAN_OFF}),
        other_rows=worth.other_rows(tested[0]) if joins else None,
    )


def _is_looked_up(comparison: Comparison) -> bool:
    """Whether a join could look its rows up by an index, and the planner preferred not to."""
    column = comparison.column
    return comparison.joins and column is not None and comparison.relation.has_index_for([column])


def _columns(comparison: Comparison, access: Access) -> list[str]:
    """Return the plain columns that an index would have to hold for a comparison, as SQL."""
    if comparison.operator in EQUAL | RANGES:
        compared = [comparison]
    else:
        branches = comparison.conjunct.alternatives
        compared = [one for branch in branches for part in branch for one in comparison.of(part)]
        compared = [one for one in compared if one.operator in EQUAL | RANGES]
    names = [one.column for one in compared]
    return [access.relation.quoted_column(name) for name in names if name is not None]


def _on_one_column(comparison: Comparison) -> bool:
    """Whether all that OR joins compares the same column, so that one index serves."""
    columns = {
        one.column
        for branch in comparison.conjunct.alternatives
        for part in branch
        for one in comparison.of(part)
    }
    return len(columns) == 1 and None not in columns


def _place(comparison: Comparison) -> int:
    """Equality first, then joins, then ranges."""
    if comparison.operator not in EQUAL:
        return 2
    return 1 if comparison.other.columns else 0


def _sorts(suspicion: Suspicion) -> bool:
    if any(one.conjunct.alternatives for one in suspicion.comparisons):
        return False
    tested = {key_of(one.operand, suspicion.relation) for one in suspicion.comparisons}
    return any(key not in tested for key in suspicion.keys)


def _doubt(suspicion: Suspicion, evidence: Evidence, rows: float, *, small: bool) -> Miss | None:
    """Return why, but for the planner's word, an index would not be worth having."""
    if any(one.conjunct.alternatives and not _on_one_column(one) for one in suspicion.comparisons):
        return Miss(suspicion, "OR joins conditions that need an index each", by_parameters=True)
    if not suspicion.comparisons and not evidence.plan.limited:
        return Miss(suspicion, "all rows are sorted or grouped", by_parameters=True)
    if any(one.repeated for one in suspicion.comparisons):
        return Miss(suspicion, "an index finds each row that is tested", by_parameters=True)
    existing = _usable_index(suspicion)
    if existing:
        return Miss(suspicion, f"the index {existing} begins with a column that is compared")
    # What found few rows on the other side was narrower than the index of the join.
    many = suspicion.other_rows is not None and suspicion.other_rows > rows * MAX_LOOKUP_SHARE
    if many and worth.other_side_is_indexed(suspicion, evidence):
        return Miss(suspicion, "the other side of the join has an index")
    if small or not suspicion.comparisons:
        return None
    reason = _passing(suspicion, evidence, rows)
    if suspicion.other_rows is not None:
        reason = worth.share_that_passes(suspicion, evidence, rows)
    return Miss(suspicion, reason, by_parameters=True) if reason else None


def _passing(suspicion: Suspicion, evidence: Evidence, rows: float) -> str:
    """Return that most rows pass, as far as the driver or the planner knows, or nothing."""
    if suspicion.other_rows is not None or not suspicion.comparisons:
        return ""
    if evidence.returned_rows is not None and worth.counts_its_rows(evidence.plan):
        return worth.share_that_passes(suspicion, evidence, rows)
    # Of plain columns the planner has statistics.
    expected = sum(scan.rows for scan in suspicion.scans) / max(rows, 1)
    return f"{expected:.0%} of the rows are expected to pass" if expected > MAX_USEFUL_SHARE else ""


def _usable_index(suspicion: Suspicion) -> str:
    """Return the name of an index that begins with one of the columns, or nothing."""
    names = [one.column for one in suspicion.comparisons if not one.joins]
    if not suspicion.comparisons:
        names = [
            column.name
            for column in suspicion.relation.columns
            if column.quoted_name in suspicion.keys[:1]
        ]
    indexes = worth.indexes_on(suspicion.relation, [name for name in names if name])
    return next((index.name for index in indexes if index.predicate is None), "")


def _named(suspicion: Suspicion) -> str:
    return " and ".join(suspicion.shown_keys)


def _lacks(suspicion: Suspicion) -> str:
    """Return which index there is not, in a few words."""
    columns = _named(suspicion)
    if not suspicion.comparisons:
        existing = _usable_index(suspicion)
        return f"{existing} holds too little" if existing else f"no index ordered by {columns}"
    if _sorts(suspicion):
        return f"no index on {columns}, in that order"
    return f"no index on {columns}" + ("" if suspicion.other_rows is None else " for the join")


def _does(suspicion: Suspicion) -> str:
    columns = _named(suspicion)
    if not suspicion.comparisons:
        if existing := _usable_index(suspicion):
            return f"sorts or groups them by {columns}: the index {existing} holds too little"
        return f"sorts or groups them by {columns}: no index has that order"
    if _sorts(suspicion):
        return f"tests and sorts them by {columns}: no index finds them in that order"
    if suspicion.other_rows is not None:
        return f"joins them by {columns}: no index finds those that match"
    return f"tests {columns} on each of them: no index finds the few that match"


def _unchecked_references(schema: Schema) -> Iterator[Suspicion]:
    """Yield each foreign key that a DELETE checks without an index."""
    for reference in schema.references:
        child = schema.get(reference.child)
        if child is None or not child.indexable:
            continue
        if not child.has_index_for(reference.columns):
            keys = tuple(child.quoted_column(name) for name in reference.columns)
            yield Suspicion(
                rule=NAME,
                relation=schema.root(child),
                subject=", ".join(keys),
                keys=keys,
                scans=(),
                comparisons=(),
            )


def _judge_reference(
    suspicion: Suspicion, schema: Schema, rows: float, *, small: bool
) -> Hit | Miss:
    # A foreign key may be a partition's own, while the suspicion names the whole table.
    reference = next(
        one
        for one in schema.references
        if (child := schema.get(one.child)) is not None
        and schema.root(child).key == suspicion.relation.key
        and tuple(map(child.quoted_column, one.columns)) == suspicion.keys
    )
    parent = schema.get(reference.parent)
    table = suspicion.relation.display
    problem = (
        f"for each row that is deleted from {parent.display if parent else reference.parent}, "
        f"PostgreSQL reads all of {table}, about {rows:,.0f} rows, to check the foreign key "
        f"{reference.name}: no index begins with {suspicion.subject}."
    )
    facts = {
        "scanned": list(suspicion.scanned),
        "foreign_key": reference.name,
        "columns": list(suspicion.keys),
        "table_rows": round(rows),
    }
    return Hit(
        suspicion,
        problem,
        rows,
        facts,
        small=small,
        what=f"Each DELETE reads all of {table}",
        why=f"no index on {suspicion.subject} for the foreign key {reference.name}",
    )

"""
missing-index
=============

What it finds
-------------

Plain columns that a statement compares, joins or sorts by, and that no index serves: in WHERE, in
joins, in EXISTS and IN sub-queries, in UPDATE and DELETE, for ORDER BY with LIMIT, and for min()
and max(). PostgreSQL then reads the whole table, or all that another index left over, and tests
each row. It also finds what no plan shows: a DELETE checks each foreign key that refers to the
table, and reads the whole referring table for each deleted row if the key has no index. And it
finds an ORDER BY of rows that ``count()`` only counts, as ``query.count()`` writes it.

Why it hurts
------------

The work grows with the table instead of with the result. PostgreSQL creates indexes for primary
keys and unique constraints only, never for foreign keys, so lazy loading, ``back_populates`` and
``ON DELETE CASCADE`` are slow from the first day and nobody notices before the table has grown.

How to fix it
-------------

Create the index that PlanWatch proposes. It tries several: one or more columns, those compared by
equality first, then a range or the order of the result, with direction and NULLS where they matter;
with ``INCLUDE`` where the table need not be read at all, or with a ``WHERE`` for a condition that
no index can answer. It proposes the smallest set of indexes with which the estimated cost is nearly
the lowest, and shows the cost before and after. If the index is declared in the model and the
database does not have it, a migration was not run. If it exists but is invalid, a
``CREATE INDEX CONCURRENTLY`` has failed, and ``REINDEX`` repairs it.

An order that is only counted needs no index, LIMIT or not: leave it out, by ``order_by(None)``.

When it stays silent
--------------------

- An index exists that begins with the columns, even if the planner preferred not to use it, unless
  another one leaves far fewer rows. For a foreign key, another one will do if PostgreSQL 18 skips
  over its first columns.
- The table has fewer rows than ``PLANWATCH_MIN_ROWS``, unless ``PLANWATCH_GROWTH`` asks for it as
  ``info``.
- A large part of the rows passes, so that no index would help, unless the planner confirms one, or
  a LIMIT stops after far fewer rows.
- An index scan tests the columns on only a few rows that another condition found, or on the one row
  that a unique index finds.
- A LIMIT was reached before much of the table was read.
- An index has the order of a LIMIT, but a join looks up so many rows until the LIMIT has its own,
  as with a large OFFSET, that their pages cost what the index saves.
- No index lowers the cost of the statement by a fifth, or by half where most rows pass and are not
  returned in order by the index alone; the best one that was tried is named. The cost of an
  UPDATE includes what it writes: each row, and its entry in the index if that has a column that is
  set.
- A sort without LIMIT, groups, DISTINCT, and OR across columns, unless the planner confirms that
  an index helps.
- The table is one of PostgreSQL's own, a foreign or a temporary one.

If no index can be tried, the plan alone decides what *far fewer* rows are: an index with the order
of a LIMIT, or on more of the columns, leaves a tenth of the rows that are read, and
``PLANWATCH_MIN_ROWS`` fewer. The statement has to cost a fifth less even with each of these rows on
a page of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

from ..plan.access import EQUAL, RANGES, Access, accesses, texts
from ..plan.comparison import Comparison, key_of
from ..plan.evidence import Evidence, Hit, Miss, Need, Suspicion
from ..plan.figures import (
    INDEX_TUPLE_COST,
    MAX_INDEX_COLUMNS,
    MAX_USEFUL_SHARE,
    MIN_INDEX_SCAN_COST,
)
from ..plan.parallel import APPENDS
from ..plan.schema import ForeignKey, Index, Relation, Schema, Structural
from ..plan.scrub import structural
from ..plan.tree import INDEX_CONDITIONS, Plan
from ..plan.wording import Template, Words, say
from . import counted_order, worth
from .fewer_rows import FewerRows, asked_rows, fewer_rows, limit_of_sort
from .worth import MAX_LOOKUP_SHARE

NAME = "missing-index"

WORDS = Words(
    what=worth.STEP,
    why="{lacks}",
    problem="the statement {reads}, and {does:and}: {lacks}.[ {spares}.]",
)

OF_FOREIGN_KEY = Words(
    what="Each DELETE reads {whole}",
    why="no index on {columns:list}[ in {partitions}] for the foreign key {foreign_key}",
    problem=(
        "for each row that is deleted from {parent}, PostgreSQL reads {whole}, about "
        "{table_rows:rows}, to check the foreign key {foreign_key}: no index[ in {partitions}] "
        "begins with {columns:list}."
    ),
)
_ALL = Template("all of {table}")
_ALL_IN = Template("all of {partitions}")

#: What is done with the rows. Without a condition they may be sorted for groups as well.
_TESTS = "tests {tested:and} on each of them"
_JOINS = "joins them by {joined:and}"
_SORTS = "sorts them by {sorted:and}"
_SORTS_OR_GROUPS = "sorts or groups them by {sorted:and}"
_LOOKS_FOR_EXTREME = "looks for the least or greatest {sorted:and} in them"

#: What would serve it, and is not there.
_NO_INDEX = Template("no index on {columns:and}[ in {partitions}]")
_NO_INDEX_FOR_THE_JOIN = Template("no index on {columns:and}[ in {partitions}] for the join")
_NO_ORDER = Template("no index[ in {partitions}] ordered by {sorted:and}")
_NOT_BOTH = Template("no index[ in {partitions}] to find {searched:and} and sort by {sorted:and}")
_BEGINS_OTHERWISE = Template("no index[ in {partitions}] begins with {columns:or}")
_PARTIAL = Template("{existing} holds only a part of the rows")
_SHORTER = Template("{existing} lacks {missing:and}")
_NOT_USED = Template("{existing} is not used for that")
_OTHER_ORDER = Template("{existing} has another order")

#: What an index would leave to read, where that is the reason for it.
_LEAVES = Template(
    "By PostgreSQL's estimates, an index on all of these leaves about {left_rows:rows} to read"
)
_LEAVES_IN_ORDER = Template(
    "By PostgreSQL's estimates, an index with this order leaves about {left_rows:rows} to read"
)

#: Why an index helps although most rows are needed.
_SPARED = Template("an index on {columns:and} could spare reading the table")

_ORDER_VARIES = "the order changes with a value"
_OR = "OR combines conditions that each need an index of their own"
_ALL_ROWS = "all rows are sorted or grouped"
_ORDERED = "with an index, the rows of several values, or most of the rows, are sorted all the same"
_LOOKED_UP = "an index finds each row that is tested"
_BEGINS = "the index {existing} begins with a column that is compared or sorted by"
_SKIPS = (
    "an index that begins with other columns is searched for each of their few values (skip scan)"
)

#: Steps that return the rows of the steps below them.
_SAME_ROWS = APPENDS | {"Gather", "Gather Merge"}

#: What the relation is called in the check of a foreign key, and each of its partitions.
REFERRING = re.compile(r"x(_\d+)?\Z")


def suspect(plan: Plan, schema: Schema) -> list[Suspicion]:
    """Return each set of columns that the plan tests or sorts without the help of an index."""
    found = [known for access in accesses(plan, schema) for known in _suspicions(access)]
    counted = counted_order.suspicions(NAME, plan, schema)
    return worth.merged([*found, *counted, *_unchecked_references(schema)])


def judge(suspicion: Suspicion, evidence: Evidence) -> Hit | Miss:
    """Return a Hit if no index serves the columns and one would be worth having."""
    if counted_order.is_about(suspicion):
        return counted_order.judge(suspicion, evidence)
    keys = tuple(key for key in suspicion.keys if structural(key, evidence.varying) is not None)
    if not keys:
        return Miss(suspicion, _ORDER_VARIES, by_parameters=True)
    if keys != suspicion.keys:
        suspicion = replace(suspicion, subject=", ".join(keys), keys=keys, holds_value=False)
    rows = worth.rows_read(suspicion, evidence.schema)
    small = rows < evidence.min_rows
    if (miss := worth.too_small(suspicion, evidence, rows)) is not None:
        return miss
    if not suspicion.scans:
        if not small and _is_looked_up_all_the_same(evidence.alone, rows):
            return Miss(suspicion, _SKIPS)
        return _judge_reference(suspicion, evidence.schema, rows, small=small)
    reached = worth.spared_by_limit(suspicion, evidence)
    if reached and not _sorts(suspicion):
        return Miss(suspicion, reached, by_parameters=True)
    if worth.passed_over_for_limit(suspicion, evidence):
        return Miss(suspicion, worth.INDEXED)
    doubt = _doubt(suspicion, evidence, rows, small=small)
    if small and doubt is not None:
        return doubt
    joins = suspicion.other_rows is not None
    most = not small and not joins and bool(_too_many_pass(suspicion, evidence, rows))
    fewer = fewer_rows(suspicion, evidence) if doubt is not None else None
    if fewer is not None:
        doubt, most = None, False
    said = {"does": _purposes(suspicion, evidence), **_left(fewer)}
    # What leaves fewer rows need not hold all that is read.
    read = _columns_read(suspicion, evidence) if fewer is None else []
    said |= _lack(_needed(suspicion, fewer), read)
    if fewer is not None and fewer.order and said["lacks"] is _NOT_USED:
        said["lacks"] = _OTHER_ORDER
    if most and any(scan.reads_all_rows for scan in suspicion.scans):
        said["lacks"] = _SPARED
    if fewer is not None and fewer.order:
        suspicion = _without_others(suspicion, fewer)
    found = {"columns": list(suspicion.shown_keys)}
    hit = worth.hit(suspicion, evidence, WORDS, found, said)
    return replace(hit, doubt=doubt, most_pass=most)


def _suspicions(access: Access) -> Iterator[Suspicion]:
    tested = [
        comparison
        for comparison in access.unanswered
        if (comparison.column or comparison.conjunct.alternatives)
        and _columns(comparison, access.relation)
        and not _is_looked_up(comparison, access)
        and not _is_tested_once(comparison, access)
    ]
    in_order = sorted(tested, key=_rank)
    keys = [name for comparison in in_order for name in _columns(comparison, access.relation)]
    reads_much = any(
        scan.reads_all_rows or scan.total_cost >= MIN_INDEX_SCAN_COST for scan in access.scans
    )
    if reads_much:
        keys += [term.key_on(access.relation) for term in access.sorted_by]
        if not keys:
            # Rows that all have the same value are in any order.
            bound = texts(access.equal)
            grouped = [key for key in access.grouped_by if key.without_alias() not in bound]
            keys = [key_of(operand, access.relation) for operand in grouped]
        if not keys:
            # Each needs an index of its own.
            for operand in access.extremes:
                yield _suspicion(access, [key_of(operand, access.relation)], [])
    if keys:
        yield _suspicion(access, list(dict.fromkeys(keys)), tested)


def _suspicion(access: Access, keys: list[str], tested: list[Comparison]) -> Suspicion:
    joins = bool(tested) and all(comparison.joins for comparison in tested)
    return Suspicion(
        rule=NAME,
        relation=access.relation,
        subject=", ".join(keys),
        keys=tuple(keys),
        scans=access.scans,
        comparisons=tuple(tested),
        needs=frozenset({Need.SEQSCAN_OFF}),
        other_rows=other.rows if joins and (other := tested[0].other_side) else None,
    )


def _is_looked_up(comparison: Comparison, access: Access) -> bool:
    """Whether a join could look its rows up by an index, and the planner preferred not to."""
    column = comparison.column
    if not comparison.joins or column is None:
        return False
    of_key = any(column in keys for keys in access.unique)
    return of_key or comparison.relation.has_index_for([column])


def _is_tested_once(comparison: Comparison, access: Access) -> bool:
    """Whether a unique index finds the row that is tested, which is all that an index can do."""
    index = comparison.relation.index(comparison.scan.index)
    return comparison.repeated and index is not None and index.keys in access.unique


def _columns(comparison: Comparison, relation: Relation) -> list[str]:
    """Return the plain columns that an index would have to hold for a comparison, as SQL."""
    return [
        relation.quoted_column(compared.column)
        for compared in (comparison, *chain.from_iterable(comparison.alternatives))
        if compared.operator in EQUAL | RANGES and compared.column is not None
    ]


def _on_one_column(comparison: Comparison) -> bool:
    """Whether all that OR joins compares the same column, so that one index serves."""
    columns = {test.column for test in chain.from_iterable(comparison.alternatives)}
    return not comparison.conjunct.alternatives or (len(columns) == 1 and None not in columns)


def _rank(comparison: Comparison) -> int:
    """Equality first, then joins, then ranges."""
    if comparison.operator not in EQUAL:
        return 2
    return 1 if comparison.other.columns else 0


def _sorts(suspicion: Suspicion) -> bool:
    if any(comparison.conjunct.alternatives for comparison in suspicion.comparisons):
        return False
    return any(key not in _tested(suspicion) for key in suspicion.keys)


def _tested(suspicion: Suspicion) -> set[str]:
    """Return the keys that are compared, not only sorted by."""
    return {key_of(comparison.operand, suspicion.relation) for comparison in suspicion.comparisons}


def _columns_by_use(suspicion: Suspicion) -> dict[str, list[Structural]]:
    """Return the columns by what they are for: those of the conditions are `searched`."""
    tested, joined = set[str](), set[str]()
    for comparison in suspicion.comparisons:
        compared = joined if comparison.joins else tested
        compared.update(_columns(comparison, suspicion.relation))
    pairs = list(zip(suspicion.keys, suspicion.shown_keys, strict=True))
    return {
        "tested": [name for key, name in pairs if key in tested],
        "joined": [name for key, name in pairs if key in joined - tested],
        "searched": [name for key, name in pairs if key in joined | tested],
        "sorted": [name for key, name in pairs if key not in joined | tested],
    }


def _doubt(suspicion: Suspicion, evidence: Evidence, rows: float, *, small: bool) -> Miss | None:
    """Return why an index would not be worth having, unless the planner confirms that it helps."""
    if not all(map(_on_one_column, suspicion.comparisons)):
        return Miss(suspicion, _OR, by_parameters=True)
    whole = not suspicion.comparisons and not evidence.plan.limits(suspicion.scans)
    if whole and not _is_first_or_last(suspicion, evidence):
        return Miss(suspicion, _ALL_ROWS, by_parameters=True)
    if any(comparison.repeated for comparison in suspicion.comparisons):
        return Miss(suspicion, _LOOKED_UP, by_parameters=True)
    if (existing := _usable_index(suspicion)) is not None:
        # Whether another index leaves far fewer rows depends on the values.
        lacks = not _answers(existing, suspicion)
        return Miss(suspicion, say(_BEGINS, existing=existing.name), by_parameters=lacks)
    # What found few rows on the other side was narrower than the index of the join.
    many = suspicion.other_rows is not None and suspicion.other_rows > rows * MAX_LOOKUP_SHARE
    if many and worth.other_side_is_indexed(suspicion, evidence):
        return Miss(suspicion, worth.OTHER_SIDE)
    if not suspicion.comparisons and _stays_unordered(suspicion, evidence):
        return Miss(suspicion, _ORDERED, by_parameters=True)
    if small or not suspicion.comparisons:
        return None
    reason = _too_many_pass(suspicion, evidence, rows)
    return Miss(suspicion, reason, by_parameters=True) if reason else None


def _is_extreme(suspicion: Suspicion, evidence: Evidence) -> bool:
    """Whether it is about the column of a min() or max()."""
    access = worth.access_of(suspicion, evidence)
    if access is None or access.grouped_by or access.sorted_by or suspicion.comparisons:
        return False
    return suspicion.keys[0] in {key_of(operand, access.relation) for operand in access.extremes}


def _is_first_or_last(suspicion: Suspicion, evidence: Evidence) -> bool:
    """Whether an index has the min() or max() of a whole table as its first or last entry."""
    parents = evidence.plan.parents
    for scan in suspicion.scans:
        above = parents.get(id(scan))
        while above is not None and above.type in _SAME_ROWS:
            above = parents.get(id(above))
        if scan.condition("Filter") is not None or above is None or above.type != "Aggregate":
            return False
    return _is_extreme(suspicion, evidence)


def _stays_unordered(suspicion: Suspicion, evidence: Evidence) -> bool:
    """Whether rows would be sorted with an index as well: those of several values, or most rows."""
    access, plan = worth.access_of(suspicion, evidence), evidence.plan
    limits = (limit_of_sort(plan, scan) for scan in suspicion.scans)
    rows = sum(scan.rows for scan in suspicion.scans)
    many = any(limit and asked_rows(limit) > rows * MAX_USEFUL_SHARE for limit in limits)
    return many or (access is not None and bool(access.listed))


def _too_many_pass(suspicion: Suspicion, evidence: Evidence, rows: float) -> str:
    """Return that too many rows pass, as far as driver and planner know, or nothing."""
    if not suspicion.comparisons:
        return ""
    counted = evidence.returned_rows is not None and worth.counts_its_rows(evidence.plan)
    if counted or suspicion.other_rows is not None:
        return worth.share_that_passes(suspicion, evidence, rows)
    # Of plain columns the planner has statistics.
    expected = sum(scan.rows for scan in suspicion.scans) / max(rows, 1)
    return say(worth.MOST_PASS, share=expected) if expected > MAX_USEFUL_SHARE else ""


def _usable_index(suspicion: Suspicion) -> Index | None:
    """Return an index that begins with one of the columns, None if there is none."""
    names = {comparison.column for comparison in suspicion.comparisons if not comparison.joins}
    if not suspicion.comparisons:
        columns = suspicion.relation.columns
        names = {column.name for column in columns if column.quoted_name == suspicion.keys[0]}
    indexes = worth.indexes_on(suspicion.relation, names)
    return next((index for index in indexes if index.predicate is None), None)


def _answers(index: Index, suspicion: Suspicion) -> bool:
    """Whether an index begins with all columns, which are compared and not only sorted by."""
    keys = suspicion.keys
    begins = {suspicion.relation.quoted_column(key) for key in index.keys[: len(keys)]}
    return begins.issuperset(keys) and not _sorts(suspicion)


def _purposes(suspicion: Suspicion, evidence: Evidence) -> list[str]:
    """Return what is done with the rows."""
    used = _columns_by_use(suspicion)
    sorts = _SORTS if suspicion.comparisons else _SORTS_OR_GROUPS
    sorts = _LOOKS_FOR_EXTREME if _is_extreme(suspicion, evidence) else sorts
    parts = (("tested", _TESTS), ("joined", _JOINS), ("sorted", sorts))
    return [say(template, **used) for use, template in parts if used[use]]


def _needed(suspicion: Suspicion, fewer: FewerRows | None) -> Suspicion:
    """Return a suspicion of all that an index has to hold, answered by another one or not."""
    if fewer is None:
        return suspicion
    needed = replace(suspicion, comparisons=fewer.fixed)
    searched = (key_of(test.operand, suspicion.relation) for test in fewer.fixed)
    return replace(needed, keys=tuple(dict.fromkeys((*searched, *fewer.order))))


def _without_others(suspicion: Suspicion, fewer: FewerRows) -> Suspicion:
    """Leave out the columns that an index with this order would still test row by row."""
    held = _needed(suspicion, fewer).keys
    keys = tuple(key for key in suspicion.keys if key in held)
    return replace(suspicion, subject=", ".join(keys), keys=keys)


def _left(fewer: FewerRows | None) -> dict[str, object]:
    """Return what an index leaves to read, if anything is known of it."""
    if fewer is None:
        return {"spares": None}
    spares = _LEAVES_IN_ORDER if fewer.order else _LEAVES
    return {"spares": spares, "left_rows": fewer.left}


def _columns_read(suspicion: Suspicion, evidence: Evidence) -> list[Structural]:
    """Return the columns that the statement reads where it scans the relation, if they are few."""
    access = worth.access_of(suspicion, evidence)
    names = (access and access.read) or ()
    return (
        list(map(suspicion.relation.quoted_column, names))
        if len(names) <= MAX_INDEX_COLUMNS
        else []
    )


def _lack(suspicion: Suspicion, read: Sequence[Structural]) -> dict[str, object]:
    """Return what is missing: another index, or something in the one that comes nearest.

    The facts are of the columns that an index would have to hold. `read` are all those that the
    statement reads, if one index might hold them.
    """
    relation, shown, used = suspicion.relation, suspicion.shown_keys, _columns_by_use(suspicion)
    facts: dict[str, object] = {"columns": list(shown), **used}
    held = {
        index: [relation.quoted_column(key) for key in index.keys]
        for index in relation.indexes
        if index.valid and index.keys
    }
    # An order is of use from its first column on.
    first = used["searched"] or shown[:1]
    beginning = [index for index, keys in held.items() if keys[0] in first]
    whole = [index for index in beginning if index.predicate is None]
    nearest = max(whole, key=lambda index: len(set(shown) & set(held[index])), default=None)
    if nearest is not None:
        missing = [key for key in shown if key not in held[nearest]]
        there = {*held[nearest], *map(relation.quoted_column, nearest.included)}
        missing = missing or [name for name in read if name not in there]
        lacks = _SHORTER if missing else _NOT_USED
        return {**facts, "lacks": lacks, "existing": nearest.name, "missing": missing}
    if beginning:
        return {**facts, "lacks": _PARTIAL, "existing": beginning[0].name}
    if used["sorted"]:
        return {**facts, "lacks": _NOT_BOTH if used["searched"] else _NO_ORDER}
    if any(set(shown).intersection(keys) for keys in held.values()):
        return {**facts, "lacks": _BEGINS_OTHERWISE}
    return {**facts, "lacks": _NO_INDEX if used["tested"] else _NO_INDEX_FOR_THE_JOIN}


def _unchecked_references(schema: Schema) -> Iterator[Suspicion]:
    """Yield each foreign key that a DELETE checks without an index."""
    for reference in schema.references:
        child = schema.get(reference.child)
        if child is not None and child.indexable and _unindexed(child, reference, schema):
            keys = tuple(child.quoted_column(name) for name in reference.columns)
            yield Suspicion(
                rule=NAME,
                relation=schema.root(child),
                subject=", ".join(keys),
                keys=keys,
                scans=(),
                comparisons=(),
                needs=frozenset({Need.REFERENCE}),
            )


def _unindexed(child: Relation, reference: ForeignKey, schema: Schema) -> list[Relation]:
    """Return the table that refers, or its partitions, as far as no index finds a key's rows."""
    leaves = schema.leaves(child)
    return [leaf for leaf in leaves if leaf.indexable and not leaf.has_index_for(reference.columns)]


def _is_looked_up_all_the_same(check: Plan | None, rows: float) -> bool:
    """Whether an index that begins with other columns finds what a foreign key's check asks for.

    Since PostgreSQL 18, an index is searched once for each value of columns that are not compared,
    if these have few values (a skip scan). To read all of its entries would cost more.
    """
    if check is None or check.total_cost >= min(MIN_INDEX_SCAN_COST, rows * INDEX_TUPLE_COST):
        return False
    asked = [scan for scan in check.scans if scan.alias and REFERRING.match(scan.alias)]
    return bool(asked) and all(
        scan.condition("Filter") is None
        and any(kind in INDEX_CONDITIONS for kind, _ in scan.conditions)
        for scan in asked
    )


def _judge_reference(
    suspicion: Suspicion, schema: Schema, rows: float, *, small: bool
) -> Hit | Miss:
    # A foreign key may be a partition's own, while the suspicion names the whole table.
    foreign_key, child = next(
        (reference, child)
        for reference in schema.references
        if (child := schema.get(reference.child)) is not None
        and schema.root(child).key == suspicion.relation.key
        and tuple(map(child.quoted_column, reference.columns)) == suspicion.keys
    )
    parent = schema.get(foreign_key.parent)
    unindexed = _unindexed(child, foreign_key, schema)
    partitions = worth.without_index(
        schema.leaves(child), schema, lambda leaf: leaf not in unindexed
    )
    if partitions is not None:
        rows = sum(leaf.rows for leaf in unindexed)
    facts = {
        "scanned": list(suspicion.scanned),
        "foreign_key": foreign_key.name,
        "columns": list(suspicion.keys),
        "table_rows": round(rows),
    }
    return Hit(
        suspicion,
        rows=rows,
        evidence=facts,
        small=small,
        **OF_FOREIGN_KEY.of(
            **facts,
            whole=_ALL if partitions is None else _ALL_IN,
            partitions=partitions,
            table=suspicion.relation.display,
            parent=parent.display if parent else foreign_key.parent,
        ),
    )

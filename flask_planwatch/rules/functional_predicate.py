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
- The type of a parameter forces a cast on the column, as in ``id = 5.0``: that is
  ``implicit-cast``.
- The table is one of PostgreSQL's own, or a foreign one.
- PostgreSQL says, with an index to choose, that it would rather not use it.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..plan.comparison import comparisons, plain_column
from ..plan.evidence import Evidence, Hit, Miss, Need, Suspicion
from ..plan.predicate import BTREE_OPERATORS, Operand, parse, waits_for_a_value
from ..plan.schema import Relation, Schema
from ..plan.tree import Plan
from . import worth

NAME = "functional-predicate"


def suspect(plan: Plan, schema: Schema) -> list[Suspicion]:
    """Return each expression around a column that the plan computes row by row."""
    return worth.merged(_suspicions(plan, schema))


def judge(suspicion: Suspicion, evidence: Evidence) -> Hit | Miss:
    """Return a Hit if no index can serve the expression and an index would be worth having."""
    rows = worth.rows_read(suspicion, evidence.schema)
    if (reason := worth.needless(suspicion, evidence, rows)) is not None:
        return Miss(suspicion, *reason)
    facts = worth.facts(suspicion, evidence, rows)
    useless = _indexes_on_column(suspicion)
    facts["indexes_on_column"] = useless
    why = "no index holds that expression"
    if useless:
        why += f"; {' and '.join(useless)} on the bare column cannot serve it"
    problem = (
        f"{worth.reading(suspicion, evidence.schema, rows)}, and computes {suspicion.shown} for "
        f"each of them: {why}."
    )
    return Hit(
        suspicion,
        problem,
        rows,
        facts,
        small=rows < evidence.min_rows,
        what=worth.step(suspicion),
        why=f"no index on {suspicion.shown}",
    )


def _suspicions(plan: Plan, schema: Schema) -> Iterator[Suspicion]:
    for comparison in comparisons(plan, schema):
        operand, relation = comparison.operand, comparison.relation
        tested = comparison.costly and comparison.operator in BTREE_OPERATORS
        if tested and _is_expression(operand, relation):
            subject = operand.without_alias()
            yield Suspicion(
                rule=NAME,
                relation=schema.root(relation),
                subject=subject,
                keys=(subject,),
                scans=(comparison.scan,),
                comparisons=(comparison,),
                needs=frozenset({Need.SEQSCAN_OFF, Need.PREDICATE_ALONE}),
                other_rows=worth.other_rows(comparison),
            )


def _is_expression(operand: Operand, relation: Relation) -> bool:
    """Whether an operand is an expression around columns that an index might hold."""
    columns = [relation.column(name) for name in operand.column_names]
    if None in columns or operand.text.startswith("ROW("):
        return False
    if plain_column(operand, relation) is not None:
        return False
    if operand.cast_column is not None:
        return True
    # A sub-query's result is not known when an index is built.
    return not waits_for_a_value(operand.text) and parse(operand.without_alias()) is not None


def _indexes_on_column(suspicion: Suspicion) -> list[str]:
    columns = suspicion.operand.column_names
    return [index.name for index in worth.indexes_on(suspicion.relation, columns)]

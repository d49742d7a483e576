"""
functional-predicate
====================

What it finds
-------------

A comparison whose one side is an expression around a column, such as ``lower(email) = ?``,
``data ->> 'type' = ?``, ``date_trunc('day', created_at) = ?`` or ``price * 2 > ?``, on a table that
has no index on that very expression. The plan then reads the table, or all rows that another
condition found, and computes the expression for each of them: a Seq Scan with a Filter, an
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
the index.

If an index on the bare column can serve the same condition in another form, that comes first:
``at::date = x``, ``date_trunc('day', at) = x`` or the year, the month and the day of ``at`` are a
half-open range of ``at``, which also leaves out partitions. The server checks both ends of the
range. It is ``verified`` only if the planner chooses that index for it, which has to save a fifth
of the statement's cost; if no index begins with the column, the advice has one as well. In a time
zone whose clocks are put back, a day may begin twice; there the range is wider, and stands beside
the condition.

PostgreSQL refuses an index on a STABLE or VOLATILE expression, such as ``date_trunc('day', …)`` of
a ``timestamptz``, ``to_char`` or an enum cast to text: there another form of the condition is the
only advice. PlanWatch advises one only if it finds the same rows for all values, and says so if it
knows none.

When it stays silent
--------------------

- A bare column is compared, or a column in a cast that only relabels its type.
- An index on the expression exists, even if the planner preferred not to use it this time.
- The table has fewer rows than ``PLANWATCH_MIN_ROWS``, unless ``PLANWATCH_GROWTH`` asks for it
  as ``info``.
- An index scan tests the expression on only a few rows that another condition found.
- A large part of the rows passed, or the column has only a few different values, so that an index
  would not help.
- A LIMIT was reached before much of the table was read.
- A join compares the expression with a column that has an index of its own, or needs so many rows
  that looking each one up would be slower. The outer side of an outer join needs all of them.
- The comparison is one that no btree index answers (``<>``, ``LIKE``, ``@>``), or the expression
  stands alone as a condition, or under OR: nothing tells how many rows that is worth.
- It compares with a sub-query that runs again for each row: no index can know its result.
- The type of a parameter forces a cast on the column, as in ``id = 5.0``: that is
  ``implicit-cast``.
- The table is one of PostgreSQL's own, or a foreign one.
- The planner does not use the index even when it exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import takewhile

from ..plan.comparison import Comparison, plain_column
from ..plan.evidence import Evidence, Hit, Miss, Suspicion
from ..plan.moment import CALENDAR, calendar_field
from ..plan.predicate import BTREE_OPERATORS, parse, waits_for_a_value
from ..plan.schema import Schema
from ..plan.tree import Plan
from ..plan.wording import Words
from . import worth

NAME = "functional-predicate"

WORDS = Words(
    what=worth.STEP,
    why="no index on {expression}[ in {partitions}]",
    problem="the statement {reads}, and computes {expression} for each of them: no index"
    "[ in {partitions}] holds that expression[; {indexes_on_column:and} on the bare column cannot "
    "serve it].",
)


def suspect(plan: Plan, schema: Schema) -> list[Suspicion]:
    """Return each expression around a column that the plan computes row by row."""
    return list(_joined(worth.suspicions(NAME, plan, schema, _expression)))


def judge(suspicion: Suspicion, evidence: Evidence) -> Hit | Miss:
    """Return a Hit if no index can serve the expression and an index would be worth having."""
    if (miss := worth.needless(suspicion, evidence)) is not None:
        return miss
    columns = suspicion.operand.column_names
    useless = [index.name for index in worth.indexes_on(suspicion.relation, columns)]
    found = {"indexes_on_column": useless}
    return worth.hit(suspicion, evidence, WORDS, found, {"expression": suspicion.shown})


def _joined(suspicions: list[Suspicion]) -> Iterator[Suspicion]:
    """Yield the suspicions, but those of year, month and day as one: together they are a range."""
    fields: dict[tuple[str, ...], dict[str, Suspicion]] = {}
    for suspicion in suspicions:
        if field := _calendar_field(suspicion):
            position = (
                suspicion.relation.key,
                suspicion.operand.column_names[0],
                *suspicion.scanned,
            )
            fields.setdefault(position, {})[field] = suspicion
    joined: dict[int, Suspicion] = {}
    further: set[int] = set()
    for found in fields.values():
        named = list(takewhile(found.__contains__, CALENDAR))
        if len(named) > 1:
            parts = [found[field] for field in named]
            comparisons = tuple(test for part in parts for test in part.comparisons)
            joined[id(parts[0])] = replace(parts[0], comparisons=comparisons)
            further |= {id(part) for part in parts[1:]}
    for suspicion in suspicions:
        if id(suspicion) not in further:
            yield joined.get(id(suspicion), suspicion)


def _calendar_field(suspicion: Suspicion) -> str:
    """Return which number of a date is compared with one number, or nothing."""
    if {comparison.operator for comparison in suspicion.comparisons} != {"="}:
        return ""
    return calendar_field(suspicion.comparison, suspicion.relation)


def _expression(comparison: Comparison) -> str:
    """Return the expression around columns that an index might hold, empty if there is none."""
    operand, relation = comparison.operand, comparison.relation
    columns = [relation.column(name) for name in operand.column_names]
    plain = plain_column(operand, relation) is not None or operand.text.startswith("ROW(")
    if comparison.operator not in BTREE_OPERATORS or plain or None in columns:
        return ""
    if comparison.depends_on_row:
        return ""
    expression = operand.without_alias()
    # A sub-query's result is not known when an index is built.
    readable = not waits_for_a_value(operand.text) and parse(expression) is not None
    return expression if readable or operand.cast_column is not None else ""

"""
large-offset
============

What it finds
-------------

A LIMIT that begins far down: PostgreSQL reads all the rows before OFFSET and discards them.

Why it hurts
------------

Each page costs as much as all pages before it, and the last one reads the whole table.

How to fix it
-------------

Go on from the last row of the page before: ``WHERE id > :last ORDER BY id LIMIT 10``. With an index
on what is sorted by, each page then costs the same.

When it stays silent
--------------------

- Fewer rows are skipped than ``PLANWATCH_MIN_ROWS``.
- The LIMIT is inside a sub-query, of which PlanWatch does not know who asks for its pages.
"""

from __future__ import annotations

from ..plan.evidence import Evidence, Hit, Miss, Suspicion
from ..plan.schema import Schema
from ..plan.tree import Plan
from ..plan.wording import Words

NAME = "large-offset"

WORDS = Words(
    what="Limit on {table}",
    why="about {skipped:number} rows are read to be skipped",
    problem="the statement skips about {skipped:number} rows before the first that it returns.",
    hint="go on from the last row of the page before, in place of OFFSET",
)

_FEW = "it skips few rows"


def suspect(plan: Plan, schema: Schema) -> list[Suspicion]:
    """Return the statement if it ends in a LIMIT that skips rows."""
    return [Suspicion.of_statement(NAME, schema.largest, "OFFSET")] if _skipped(plan) else []


def judge(suspicion: Suspicion, evidence: Evidence) -> Hit | Miss:
    """Return a Hit if as many rows are skipped as a table has that is worth a warning."""
    skipped = _skipped(evidence.plan)
    if skipped < evidence.min_rows:
        return Miss(suspicion, _FEW, by_parameters=True)
    table = suspicion.relation
    return Hit(
        suspicion,
        rows=table.rows,
        evidence={"skipped_rows": round(skipped)},
        fix="none",
        **WORDS.of(table=table.display, skipped=skipped),
    )


def _skipped(plan: Plan) -> float:
    """Return how many rows the planner expects to skip: OFFSET itself is not in the plan.

    The cost before the first row is, by adjust_limit_rows_costs() in
    src/backend/optimizer/util/pathnode.c, the share of its input's that skipping them takes.
    """
    limit = plan.root
    if limit.type != "Limit" or not limit.children:
        return 0.0
    source = limit.children[0]
    if source.total_cost <= source.startup_cost:
        return 0.0
    share = (limit.startup_cost - source.startup_cost) / (source.total_cost - source.startup_cost)
    return share * source.rows

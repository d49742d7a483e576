"""
limit-trap
==========

What it finds
-------------

``ORDER BY id LIMIT 100`` with a condition that few rows meet. PostgreSQL walks the index on ``id``
in its order, tests each row, and stops at the hundredth that passes. It takes the rows that pass
for evenly spread; if they sit at the far end, it reads the whole index and the whole table first.
The rows may be thrown away by a condition on the table itself, by a join, or by EXISTS.

Why it hurts
------------

The plan looks cheap, as its cost is that of a small part of the walk, and in development it is. A
feed that is read in batches gets slower and slower and then times out, with a LIMIT of ten just as
with one of a hundred. ``.first()`` is such a LIMIT. No comparison of costs shows it, so PlanWatch
goes by structure, and by the elapsed time: a statement that takes as long as the whole walk has
walked it.

How to fix it
-------------

If the condition compares columns of the same table by equality, create an index that begins with
them and goes on with the order. PostgreSQL then finds the rows that pass one after the other. A
partial index with the condition serves where it is not an equality. If the condition is in another
table, or its value cannot stand in an index, ask for a bounded range in place of a LIMIT, such as
``Product.id >= start, Product.id < start + 100``: a batch may have fewer rows, even none, but it
reads no more than its range.

When it stays silent
--------------------

- No condition and no join throws rows away, or a third of the rows pass.
- An index finds the rows in the order that is asked for.
- The condition is on an expression or a pattern: ``functional-predicate`` and ``pattern-match``
  propose the index for these, in the order that is asked for.
- It took no longer than the expected part of the walk explains. Where ``PLANWATCH_ANALYZE`` is on,
  the rows that were read decide, otherwise several executions, or a single one that took very long.
- PostgreSQL expects to walk most of the index anyway: its cost then tells the truth.
- The table has fewer rows than ``PLANWATCH_MIN_ROWS``.
"""

from __future__ import annotations

from ..plan.access import EQUAL
from ..plan.comparison import MIN_INDEX_SCAN_COST, key_of
from ..plan.evidence import MIN_EXECUTIONS, Evidence, Hit, Miss, Need, Remedy, Suspicion
from ..plan.pattern import read
from ..plan.schema import Schema
from ..plan.scrub import shown
from ..plan.tree import Plan
from ..plan.usage import MAX_USEFUL_SHARE
from ..plan.walk import Walk, walks
from .worth import MIN_MS_PER_COST

NAME = "limit-trap"

#: Above this share of the walk the cost hides at most a factor of five.
MAX_EXPECTED_SHARE = 0.2

#: A LIMIT that is a smaller part of the statement's cost does not explain the elapsed time.
MIN_COST_SHARE = 0.5

#: How many times as many entries as expected must have been read, where they were counted.
MIN_FACTOR = 3.0

#: What a unit of cost takes, in ms, where nothing else is known: 0.001 to 0.025 are normal.
USUAL_MS_PER_COST = 0.025

#: How many times as long as normal a unit of the statement's cost must have taken.
MIN_PACE_FACTOR = 2.0

#: What several executions must have taken at least, in ms, and what a single one must: a busy
#: process holds one up for some ten ms.
MIN_MS = 5.0
MIN_SINGLE_MS = 20.0

#: Of the latest executions so many must have been slow, as other values may find their rows early.
MIN_SLOW_SHARE = 0.3


def suspect(plan: Plan, schema: Schema) -> list[Suspicion]:
    """Return the walk of an index that a LIMIT stops, if something throws rows away on it.

    Of several, it is the longest that could explain the elapsed time.
    """
    own = [walk for walk in walks(plan, schema) if not _is_anothers(walk)]
    longest = max(own, key=lambda walk: walk.source.total_cost, default=None)
    return [] if longest is None else [_suspicion(longest)]


def judge(suspicion: Suspicion, evidence: Evidence) -> Hit | Miss:
    """Return a Hit if far more of the index was read than expected."""
    walk = walk_of(suspicion, evidence.plan, evidence.schema)
    if walk.entries < evidence.min_rows:
        return Miss(suspicion, f"the index has only {walk.entries:.0f} entries")
    if walk.source.total_cost < MIN_INDEX_SCAN_COST:
        return Miss(suspicion, "reading all of it costs little", by_parameters=True)
    if walk.passing > MAX_USEFUL_SHARE:
        reason = f"{walk.passing:.0%} of the rows are expected to pass"
        return Miss(suspicion, reason, by_parameters=True)
    if walk.share > MAX_EXPECTED_SHARE:
        reason = f"PostgreSQL expects to read {walk.share:.0%} of the index"
        return Miss(suspicion, reason, by_parameters=True)
    expected = walk.share * walk.entries
    read = _entries_read(walk, evidence.analysed)
    if read is not None:
        confirmed = read >= max(expected * MIN_FACTOR, evidence.min_rows)
        seen = f"It read {read:,.0f} of them"
    else:
        confirmed = _took_the_whole_walk(walk, evidence)
        seen = (
            f"It took {evidence.duration_ms:,.0f} ms, as long as reading far more of it takes, at "
            f"an estimated cost of {evidence.plan.total_cost:,.0f}"
        )
    if not confirmed:
        reason = "it took no longer than the expected part of the walk"
        return Miss(suspicion, reason, by_parameters=True)
    wanted = f"{walk.limit.rows:,.0f} {'row' if walk.limit.rows == 1 else 'rows'}"
    order = [shown(key, evidence.varying) for key in walk.order]
    problem = (
        f"to find {wanted} in the order of {', '.join(order)}, PostgreSQL walks the index "
        f"{walk.index.name} of {walk.relation.display} and throws away what {_thrower(walk)}. It "
        f"expects to read {walk.share:.1%} of the index, about {expected:,.0f} of "
        f"{walk.entries:,.0f} entries, as if the rows that pass were evenly spread; if they sit at "
        f"the end, it reads all. {seen}."
    )
    facts = {
        "scanned": list(suspicion.scanned),
        "node": walk.scans[0].title,
        "index": walk.index.name,
        "order": order,
        "limit_rows": round(walk.limit.rows),
        "table_rows": round(walk.entries),
        "expected_share": float(f"{walk.share:.3g}"),
        "expected_entries": round(expected),
        "entries_read": None if read is None else round(read),
        "limit_cost": walk.limit.total_cost,
        "whole_walk_cost": walk.source.total_cost,
        "total_cost": evidence.plan.total_cost,
        "fastest_ms": round(min(_recent(evidence)), 3),
        "executions": len(_recent(evidence)),
    }
    much = "far more of it than expected" if read is None else f"{read:,.0f} entries"
    return Hit(
        suspicion,
        problem,
        walk.entries,
        facts,
        remedy=Remedy.ORDERED_INDEX,
        what=f"Walk of {walk.index.name} on {walk.relation.display}",
        why=f"reads {much} to find {wanted}",
    )


def walk_of(suspicion: Suspicion, plan: Plan, schema: Schema) -> Walk:
    """Return the walk that a suspicion of this rule is about."""
    return next(one for one in walks(plan, schema) if one.limit is suspicion.node)


def _is_anothers(walk: Walk) -> bool:
    """Whether rows are tested by what another rule explains: an expression or a pattern."""
    tested = [one for one in walk.filtered if one.operator and not one.other.columns]
    return any(one.column is None or read(one) is not None for one in tested)


def _suspicion(walk: Walk) -> Suspicion:
    tested = [one for one in walk.filtered if not one.other.columns]
    compared = [key_of(one.operand, walk.relation) for one in tested if one.operator in EQUAL]
    keys = tuple(dict.fromkeys(compared))
    return Suspicion(
        rule=NAME,
        relation=walk.relation,
        subject=", ".join((*keys, *walk.order)),
        keys=keys,
        scans=walk.scans,
        comparisons=tuple(tested),
        needs=frozenset({Need.ANALYSED}),
        node=walk.limit,
        exclusive=True,
    )


def _thrower(walk: Walk) -> str:
    """Return what throws rows away, as the end of a sentence."""
    names = dict.fromkeys(name for one in walk.filtered for name in one.operand.column_names)
    tested = " and ".join(map(walk.relation.quoted_column, names))
    joined = dict.fromkeys(
        scan.relation
        for join in walk.joins
        for scan in join.children[-1].walk()
        if scan.relation is not None
    )
    others = " and ".join(name for name in joined if name)
    said = [f"a test of {tested} does not let pass" if tested else ""]
    said.append(f"has no match in {others}" if others else "")
    return " or ".join(filter(None, said)) or "its condition does not let pass"


def _entries_read(walk: Walk, analysed: Plan | None) -> float | None:
    """Return how many entries were read when the statement ran again, None if that is not known."""
    if analysed is None:
        return None
    names = {(scan.alias, scan.index) for scan in walk.scans}
    ran = [
        node
        for node in analysed.nodes
        if (node.alias, node.index) in names and node.actual_loops is not None
    ]
    if not ran:
        return None
    return sum(
        ((node.actual_rows or 0.0) + (node.removed_rows or 0.0)) * (node.actual_loops or 0.0)
        for node in ran
    )


def _took_the_whole_walk(walk: Walk, evidence: Evidence) -> bool:
    """Whether the elapsed time can only be explained by reading far more than expected.

    The cost of the whole walk says what that takes at least, the cost of the statement what it
    should have taken at most.
    """
    if walk.limit.total_cost < evidence.plan.total_cost * MIN_COST_SHARE:
        return False
    timings, plan = evidence.timings, evidence.plan
    normal = timings.ms_per_cost or USUAL_MS_PER_COST
    slow_ms = max(
        MIN_MS,
        walk.source.total_cost * MIN_MS_PER_COST,
        plan.total_cost * normal * MIN_PACE_FACTOR,
    )
    recent = _recent(evidence)
    way_ms = min(timings.overhead_ms, *recent)
    if evidence.duration_ms - way_ms < slow_ms:
        return False
    slow = [took for took in recent if took - way_ms >= slow_ms]
    if len(recent) < MIN_EXECUTIONS:
        return len(slow) == len(recent) and min(recent) >= MIN_SINGLE_MS
    return len(slow) >= max(MIN_EXECUTIONS, len(recent) * MIN_SLOW_SHARE)


def _recent(evidence: Evidence) -> tuple[float, ...]:
    """Return the latest executions, in ms; one that failed is not among those that are kept."""
    recent = evidence.timings.recent
    return recent if recent and evidence.error is None else (evidence.duration_ms,)

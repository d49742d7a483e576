"""
limit-trap
==========

What it finds
-------------

``ORDER BY id LIMIT 100`` with a condition that few rows meet. PostgreSQL reads the index on ``id``
in its order, tests each row, and stops at the hundredth that passes. It assumes that the rows that
pass are evenly spread; if they sit at the far end, it reads the whole index and the whole table
first. A condition on the table itself, a join, or EXISTS may discard the rows.

Why it hurts
------------

The plan looks cheap, as its cost is that of a small part of the index, and in development it is. A
feed that is read in batches gets slower and slower and then times out, with a LIMIT of ten just as
with one of a hundred. ``.first()`` is such a LIMIT. No comparison of costs shows it, so PlanWatch
looks at the structure of the plan and at the elapsed time: a statement that takes as long as
reading the whole index has read it.

How to fix it
-------------

If the condition compares columns of the same table by equality, create an index that begins with
them and goes on with the order. PostgreSQL then finds the rows that pass one after the other. A
partial index with the condition serves where it is not an equality. If the condition is in another
table, or an index cannot hold its value, ask for a bounded range in place of a LIMIT, such as
``Product.id >= start, Product.id < start + 100``: a batch may have fewer rows, even none, but it
reads no more than its range.

When it stays silent
--------------------

- No condition and no join discards rows, or a third of the rows pass.
- An index finds the rows in the order that is asked for.
- The condition is on an expression or a pattern: ``functional-predicate`` and ``pattern-match``
  propose the index for these, in the order that is asked for.
- It took no longer than the expected part of the index explains. Where ``PLANWATCH_ANALYZE`` is on,
  the rows that were read decide, otherwise several executions, or a single one that took very long.
- PostgreSQL expects to read most of the index anyway: its cost is then right.
- The table has fewer rows than ``PLANWATCH_MIN_ROWS``.
"""

from __future__ import annotations

from ..plan import figures
from ..plan.access import EQUAL
from ..plan.comparison import key_of
from ..plan.evidence import Evidence, Hit, Miss, Need, Suspicion
from ..plan.ordered_scan import OrderedScan, ordered_scans
from ..plan.pattern import read
from ..plan.schema import Schema
from ..plan.scrub import shown
from ..plan.tree import Plan
from ..plan.wording import Template, Words, say
from .worth import MOST_PASS

NAME = "limit-trap"

WORDS = Words(
    what="Ordered scan of {index} on {table}",
    why="reads {much} for {limit_rows:rows}",
    problem="to find {limit_rows:rows} in the order of {order:list}, PostgreSQL reads the index "
    "{index} of {table} in its order and discards rows that {discarded}. It expects to read "
    "{share:.1%} of the index, about {expected_entries:number} of {table_rows:number} entries, as "
    "if the rows that pass were evenly spread; if they are at the end, it reads all. {seen}.",
)

_COUNTED = Template("It read {entries_read:number} of them")
_TIMED = Template(
    "It took {took:ms}, far more than the expected part of the index "
    "(estimated cost {total_cost:number}) explains"
)
_READ = Template("{entries_read:number} entries")
_FAR_MORE = Template("far more than expected")

#: Which rows are discarded.
_FILTERED = "fail the filter on {tested:and}"
_UNMATCHED = "have no match in {others:and}"
_UNKNOWN = "fail its condition"

_FEW_ENTRIES = "the index has few entries ({entries:number})"
_CHEAP = "reading all of it costs little"
_LARGE_PART = "PostgreSQL expects to read {share:percent} of the index"
_AS_EXPECTED = "it took no longer than the expected part of the index explains"

#: A LIMIT that is a smaller part of the statement's cost does not explain the elapsed time.
MIN_LIMIT_COST_SHARE = 0.5

#: How many times as many entries as expected must have been read, where they were counted.
MIN_ENTRIES_FACTOR = 3.0

#: How many times as long as normal a unit of the statement's cost must have taken.
MIN_MS_PER_COST_FACTOR = 2.0

#: What a single execution must have taken, in ms: half more than a busy machine explains. What the
#: process itself computed is taken off before.
MIN_SINGLE_MS = 1.5 * figures.BUSY_PROCESS_MS

#: Of the latest executions so many must have been slow, as other values may find their rows early.
MIN_SLOW_SHARE = 0.3


def suspect(plan: Plan, schema: Schema) -> list[Suspicion]:
    """Return the ordered index scan that a LIMIT stops, if something discards rows of it.

    Of several, it is the one that costs most.
    """
    own = [scan for scan in ordered_scans(plan, schema) if not _belongs_to_other_rule(scan)]
    costliest = max(own, key=lambda ordered: ordered.source.total_cost, default=None)
    return [] if costliest is None else [_suspicion(costliest)]


def judge(suspicion: Suspicion, evidence: Evidence) -> Hit | Miss:
    """Return a Hit if far more of the index was read than expected."""
    ordered = ordered_scan_of(suspicion, evidence.plan, evidence.schema)
    if ordered.entries < evidence.min_rows:
        return Miss(suspicion, say(_FEW_ENTRIES, entries=ordered.entries))
    if ordered.source.total_cost < figures.MIN_INDEX_SCAN_COST:
        return Miss(suspicion, _CHEAP, by_parameters=True)
    if ordered.passing > figures.MAX_USEFUL_SHARE:
        return Miss(suspicion, say(MOST_PASS, share=ordered.passing), by_parameters=True)
    if ordered.share > figures.MAX_EXPECTED_SHARE:
        return Miss(suspicion, say(_LARGE_PART, share=ordered.share), by_parameters=True)
    expected = ordered.share * ordered.entries
    read = _entries_read(ordered, evidence.analysed)
    if read is not None:
        confirmed = read >= max(expected * MIN_ENTRIES_FACTOR, evidence.min_rows)
    else:
        confirmed = _took_the_whole_scan(ordered, evidence)
    if not confirmed:
        return Miss(suspicion, _AS_EXPECTED, by_parameters=True)
    recent = _recent(evidence)
    facts = {
        "scanned": list(suspicion.scanned),
        "node": ordered.scans[0].title,
        "index": ordered.index.name,
        "order": [shown(key, evidence.varying) for key in ordered.order],
        "limit_rows": round(ordered.limit.rows),
        "table_rows": round(ordered.entries),
        "expected_share": float(f"{ordered.share:.3g}"),
        "expected_entries": round(expected),
        "entries_read": None if read is None else round(read),
        "limit_cost": ordered.limit.total_cost,
        "whole_walk_cost": ordered.source.total_cost,
        "total_cost": evidence.plan.total_cost,
        "fastest_ms": round(min(recent), 3),
        "executions": len(recent),
    }
    return Hit(
        suspicion,
        rows=ordered.entries,
        evidence=facts,
        fix="ordered-index",
        **WORDS.of(
            **facts,
            table=ordered.relation.display,
            share=ordered.share,
            much=_FAR_MORE if read is None else _READ,
            seen=_TIMED if read is None else _COUNTED,
            took=evidence.duration_ms,
            discarded=_discarded(ordered),
        ),
    )


def ordered_scan_of(suspicion: Suspicion, plan: Plan, schema: Schema) -> OrderedScan:
    """Return the ordered index scan that a suspicion of this rule is about."""
    return next(
        ordered for ordered in ordered_scans(plan, schema) if ordered.limit is suspicion.node
    )


def _belongs_to_other_rule(ordered: OrderedScan) -> bool:
    """Whether rows are tested by what another rule explains: an expression or a pattern."""
    tested = [
        comparison
        for comparison in ordered.filtered
        if comparison.operator and not comparison.other.columns
    ]
    return any(comparison.column is None or read(comparison) is not None for comparison in tested)


def _suspicion(ordered: OrderedScan) -> Suspicion:
    tested = [comparison for comparison in ordered.filtered if not comparison.other.columns]
    compared = [
        key_of(comparison.operand, ordered.relation)
        for comparison in tested
        if comparison.operator in EQUAL
    ]
    keys = tuple(dict.fromkeys(compared))
    return Suspicion(
        rule=NAME,
        relation=ordered.relation,
        subject=", ".join((*keys, *ordered.order)),
        keys=keys,
        scans=ordered.scans,
        comparisons=tuple(tested),
        needs=frozenset({Need.ANALYSED}),
        node=ordered.limit,
        exclusive=True,
    )


def _discarded(ordered: OrderedScan) -> str:
    """Return which rows are discarded."""
    names = dict.fromkeys(
        name for comparison in ordered.filtered for name in comparison.operand.column_names
    )
    tested = list(map(ordered.relation.quoted_column, names))
    joined = (scan.relation for join in ordered.joins for scan in join.children[-1].walk())
    others = [name for name in dict.fromkeys(joined) if name]
    filtered = say(_FILTERED, tested=tested) if tested else ""
    unmatched = say(_UNMATCHED, others=others) if others else ""
    return " or ".join(filter(None, (filtered, unmatched))) or _UNKNOWN


def _entries_read(ordered: OrderedScan, analysed: Plan | None) -> float | None:
    """Return how many entries were read when the statement ran again, None if that is not known."""
    if analysed is None:
        return None
    names = {(scan.alias, scan.index) for scan in ordered.scans}
    ran = [node for node in analysed.nodes if (node.alias, node.index) in names]
    return sum(node.read_rows for node in ran) if ran and analysed.analysed else None


def _took_the_whole_scan(ordered: OrderedScan, evidence: Evidence) -> bool:
    """Whether the elapsed time can only be explained by reading far more than expected.

    The cost of the whole scan says what reading all of the index takes at least, the cost of the
    statement what it should have taken at most.
    """
    if ordered.limit.total_cost < evidence.plan.total_cost * MIN_LIMIT_COST_SHARE:
        return False
    timings, plan = evidence.timings, evidence.plan
    normal = timings.ms_per_cost or figures.USUAL_MS_PER_COST
    slow_ms = max(
        figures.MIN_MS,
        ordered.source.total_cost * figures.MIN_MS_PER_COST,
        plan.total_cost * normal * MIN_MS_PER_COST_FACTOR,
    )
    if evidence.in_plan_ms < slow_ms:
        return False
    recent = _recent(evidence)
    spent = [timings.computed_ms(took, plan, evidence.returned_rows) for took in recent]
    slow = [ms for ms in spent if ms >= slow_ms]
    if len(recent) < figures.MIN_EXECUTIONS:
        return len(slow) == len(recent) and min(recent) >= MIN_SINGLE_MS
    return len(slow) >= max(figures.MIN_EXECUTIONS, len(recent) * MIN_SLOW_SHARE)


def _recent(evidence: Evidence) -> tuple[float, ...]:
    """Return the latest executions, in ms; one that failed is not among those that are kept."""
    recent = evidence.timings.recent
    return recent if recent and evidence.error is None else (evidence.duration_ms,)

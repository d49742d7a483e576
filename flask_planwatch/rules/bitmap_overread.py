"""
bitmap-overread
===============

What it finds
-------------

A Bitmap Heap Scan whose indexes read ten times as many entries as rows come out of it. Either two
indexes are read and only their overlap is wanted (a BitmapAnd), or most of the entries belong to
rows that were deleted or replaced long ago. It is worked out from the plan, and counted where
``PLANWATCH_ANALYZE`` lets PlanWatch run the statement once more: only then dead entries show for
sure.

Why it hurts
------------

To find the few rows that two conditions have in common, PostgreSQL reads all entries of the first
and all of the second. In a sub-query or a nested loop it does so again and again: eight hundred
million entries for forty-two rows. Dead entries are worse, as the planner does not expect them: for
each of them it looks into the table, and finds nothing.

How to fix it
-------------

One index on the columns of both conditions, those compared by equality first, finds the overlap
at once. PlanWatch has the planner confirm that the BitmapAnd is gone. Where dead entries are the
cause, ``VACUUM`` removes them, and autovacuum should come by more often; where the number of
entries was unexpected and the statistics are old, ``ANALYZE``.

When it stays silent
--------------------

- The entries are few, or most of them lead to a row.
- Rows that are found and then fail a condition: that is ``missing-index``, if an index would help.
- Bitmaps that are joined by OR: each entry counts.
- The statement took next to no time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..plan.evidence import Evidence, Hit, Miss, Need, Remedy, Suspicion
from ..plan.schema import Relation, Schema
from ..plan.tree import Node, Plan
from ..plan.usage import bitmap_scans
from .loops import MIN_MS, MIN_READ, Work

NAME = "bitmap-overread"

#: Entries read for each row that comes out: BitmapAnd is the planner's choice up to about five.
FACTOR = 10.0

#: Dead rows for each that lives, from which on they explain what is read: autovacuum comes at 0.2.
DEAD_SHARE = 1.0

#: Rows written since the last ANALYZE, for each there is, at which autovacuum would run it.
STALE_SHARE = 0.1


@dataclass(frozen=True)
class _Overread:
    """A Bitmap Heap Scan with the entries that are read and the rows that lead to, in all its runs.

    There are too many entries if they are `factor` times as many as the rows. `surprise` is by
    which factor they were more than expected.
    """

    heap: Node
    relation: Relation
    indexes: tuple[Node, ...]
    entries: float
    rows: float
    runs: float
    factor: float = FACTOR
    surprise: float = 1.0

    @property
    def anded(self) -> bool:
        """Whether the overlap of several indexes is wanted."""
        return any(child.type == "BitmapAnd" for child in self.heap.children)

    @property
    def names(self) -> str:
        """The names of the indexes, each once."""
        return ", ".join(dict.fromkeys(node.index or "?" for node in self.indexes))

    @property
    def needless(self) -> float:
        """The entries that led to no row, 0 if that is no problem."""
        many = self.entries >= max(self.rows, 1.0) * self.factor
        return self.entries - self.rows if many and self.entries - self.rows >= MIN_READ else 0.0


def suspect(plan: Plan, schema: Schema) -> list[Suspicion]:
    """Return the statement; only one with a bitmap has to be run once more."""
    if not plan.scans:
        return []
    bitmap = any(node.type == "Bitmap Heap Scan" for node in plan.nodes)
    needs = {Need.ANALYSED} if bitmap else ()
    return [Suspicion.of_statement(NAME, schema.largest, "bitmap", needs)]


def judge(suspicion: Suspicion, evidence: Evidence) -> Hit | Miss:
    """Return a Hit on the bitmap that reads the most for nothing."""
    work = Work(evidence.analysed or evidence.plan, evidence.schema)
    worst = max(_overreads(work), key=lambda one: one.needless, default=None)
    if worst is None or not worst.needless:
        return Miss(suspicion, "no bitmap reads much more than it finds", quiet=True)
    expected = evidence.analysed is None and evidence.client_side
    if expected and evidence.duration_ms < MIN_MS:
        reason = f"the whole statement took {evidence.duration_ms:,.1f} ms"
        return Miss(suspicion, reason, by_parameters=True)
    return _hit(suspicion, work, worst)


def _overreads(work: Work) -> Iterator[_Overread]:
    for heap in work.plan.nodes:
        relation = work.relation(heap) if heap.type == "Bitmap Heap Scan" else None
        if relation is not None and heap.children:
            counted = _counted if work.plan.analysed else _expected
            yield counted(work, heap, relation)


def _counted(work: Work, heap: Node, relation: Relation) -> _Overread:
    """Return what EXPLAIN ANALYZE counted."""
    indexes, loops = _indexes(heap), heap.actual_loops or 0.0
    entries = sum((one.actual_rows or 0.0) * (one.actual_loops or 0.0) for one in indexes)
    thought = sum(one.rows * (one.actual_loops or 0.0) for one in indexes)
    rows = ((heap.actual_rows or 0.0) + (heap.removed_rows or 0.0)) * loops
    surprise = entries / max(thought, 1.0)
    return _Overread(heap, relation, indexes, entries, rows, loops, surprise=surprise)


def _expected(work: Work, heap: Node, relation: Relation) -> _Overread:
    """Return what the planner expects, with the dead rows that it does not reckon with."""
    indexes, runs = _indexes(heap), work.runs[id(heap)]
    rows = heap.children[0].rows * runs
    entries = sum(one.rows for one in indexes) * runs
    dead = _dead_share(relation)
    if dead < DEAD_SHARE:
        return _Overread(heap, relation, indexes, entries, rows, runs)
    return _Overread(heap, relation, indexes, entries * (1 + dead), rows, runs, 1 + DEAD_SHARE)


def _dead_share(relation: Relation) -> float:
    return relation.activity.dead / max(relation.rows, 1.0)


def _indexes(heap: Node) -> tuple[Node, ...]:
    """Return the Bitmap Index Scans of a heap scan."""
    return tuple(bitmap_scans(heap))


def _hit(suspicion: Suspicion, work: Work, found: _Overread) -> Hit:
    relation = work.schema.root(found.relation)
    remedy, why = _cause(found)
    runs = f" in {found.runs:,.0f} runs" if found.runs > 1.5 else ""
    read = "read" if work.plan.analysed else "is expected to read"
    problem = (
        f"{found.heap.title} {read} {found.entries:,.0f} entries of {found.names}{runs} for "
        f"{found.rows:,.0f} rows: {why}."
    )
    facts = {
        "node": found.heap.title,
        "indexes": [node.index for node in found.indexes],
        "entries": round(found.entries),
        "rows": round(found.rows),
        "runs": round(found.runs),
        "dead_rows": found.relation.activity.dead,
        "table_rows": round(found.relation.rows),
        "total_cost": work.plan.total_cost,
    }
    refined = replace(
        suspicion,
        relation=relation,
        subject=found.names,
        scans=(found.heap,),
        node=found.heap,
    )
    return Hit(
        refined,
        problem,
        found.relation.rows,
        facts,
        remedy=remedy,
        what=found.heap.title,
        why=f"{read} {found.entries:,.0f} entries of {found.names} for {found.rows:,.0f} rows",
    )


def _cause(found: _Overread) -> tuple[Remedy, str]:
    """Return what would help, and why so many entries are read, for people."""
    activity, rows = found.relation.activity, found.relation.rows
    if not found.anded or _dead_share(found.relation) >= DEAD_SHARE:
        said = "the others belong to rows that were deleted or replaced"
        known = f", of which the table has about {activity.dead:,}" if activity.dead else ""
        return Remedy.VACUUM, said + known
    if found.surprise >= FACTOR and activity.changed >= rows * STALE_SHARE:
        said = f"that is {found.surprise:,.0f} times what was expected, and the statistics are old"
        return Remedy.STATISTICS, said
    return Remedy.COMBINED_INDEX, "only the overlap of the indexes is wanted, and no index holds it"

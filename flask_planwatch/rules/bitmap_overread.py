"""
bitmap-overread
===============

What it finds
-------------

A Bitmap Heap Scan whose indexes read ten times as many entries as rows come out of it. Either two
indexes are read and only their overlap is wanted (a BitmapAnd), or most of the entries belong to
rows that were deleted or replaced long ago. PlanWatch works this out from the plan. With
``PLANWATCH_ANALYZE`` it runs the statement once more and counts: only then are dead entries
certain.

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
cause, ``VACUUM`` removes them, and autovacuum should run more often; where the number of
entries was unexpected and the statistics are old, ``ANALYZE``.

When it stays silent
--------------------

- The entries are few, or most of them lead to a row.
- Rows that are found and then fail a condition: that is ``missing-index``, if an index would help.
- A BitmapOr, because each of its entries leads to a wanted row.
- The entries are less than a fifth of the cost of the statement, and one index would not save more.
- The statement took next to no time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..plan.evidence import Evidence, Hit, Miss, Need, Suspicion
from ..plan.figures import MIN_ROWS_READ
from ..plan.index_use import bitmap_scans
from ..plan.schema import Relation, Schema
from ..plan.tree import Node, Plan
from ..plan.wording import Template, Words
from ..plan.work import Work
from .worth import MIN_RUNS, took_little

NAME = "bitmap-overread"

WORDS = Words(
    what="{node}",
    why="{does} {entries:number} entries of {indexes:list} for {rows:rows}",
    problem="{node} {does} {entries:number} entries of {indexes:list}[ in {runs:number} runs] for "
    "{rows:rows}: {cause}.",
)

_READ = Template("read")
_EXPECTED = Template("expects to read")

#: Why so many entries are read, by the fix that helps against it.
_CAUSES = {
    "vacuum": Template(
        "the others belong to rows that were deleted or replaced"
        "[, of which the table has about {dead_rows:number}]"
    ),
    "statistics": Template(
        "that is {surprise:number} times what was expected, and the statistics are old"
    ),
    "combined-index": Template(
        "only rows that all of these indexes find are wanted, and no single index finds them"
    ),
}

_NO_OVERREAD = "no bitmap reads much more than it finds"

#: Entries read for each row that comes out: BitmapAnd is the planner's choice up to about five.
MIN_OVERREAD = 10.0

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
    factor: float = MIN_OVERREAD
    surprise: float = 1.0

    @property
    def needless(self) -> float:
        """The entries that led to no row, 0 if that is no problem."""
        many = self.entries >= max(self.rows, 1.0) * self.factor
        needless = self.entries - self.rows
        return needless if many and needless >= MIN_ROWS_READ else 0.0


def suspect(plan: Plan, schema: Schema) -> list[Suspicion]:
    """Return the statement; only one with a bitmap has to be run once more."""
    if not plan.scans:
        return []
    bitmap = any(node.type == "Bitmap Heap Scan" for node in plan.nodes)
    needs = {Need.ANALYSED} if bitmap else ()
    return [Suspicion.of_statement(NAME, schema.largest, "bitmap", needs)]


def judge(suspicion: Suspicion, evidence: Evidence) -> Hit | Miss:
    """Return a Hit on the bitmap that reads the most entries needlessly."""
    work = Work(evidence.analysed or evidence.plan, evidence.schema)
    worst = max(_overreads(work), key=lambda overread: overread.needless, default=None)
    if worst is None or not worst.needless:
        return Miss(suspicion, _NO_OVERREAD, quiet=True)
    if evidence.analysed is None and (miss := took_little(suspicion, evidence)) is not None:
        return miss
    return _hit(suspicion, work, worst)


def _overreads(work: Work) -> Iterator[_Overread]:
    for heap in work.plan.nodes:
        relation = work.relation(heap) if heap.type == "Bitmap Heap Scan" else None
        if relation is not None and heap.children:
            counted = _counted if work.plan.analysed else _expected
            yield counted(work, heap, relation)


def _counted(work: Work, heap: Node, relation: Relation) -> _Overread:
    """Return what EXPLAIN ANALYZE counted."""
    indexes = tuple(bitmap_scans(heap))
    entries = sum(index.returned_rows for index in indexes)
    surprise = entries / max(sum(index.rows * index.loops for index in indexes), 1.0)
    rows, runs = heap.read_rows, heap.loops
    return _Overread(heap, relation, indexes, entries, rows, runs, surprise=surprise)


def _expected(work: Work, heap: Node, relation: Relation) -> _Overread:
    """Return what the planner expects, and add the dead rows, which it does not expect."""
    indexes, runs = tuple(bitmap_scans(heap)), work.runs[id(heap)]
    rows = heap.children[0].rows * runs
    entries = sum(index.rows for index in indexes) * runs
    dead = _dead_share(relation)
    if dead < DEAD_SHARE:
        return _Overread(heap, relation, indexes, entries, rows, runs)
    return _Overread(heap, relation, indexes, entries * (1 + dead), rows, runs, 1 + DEAD_SHARE)


def _dead_share(relation: Relation) -> float:
    return relation.activity.dead / max(relation.rows, 1.0)


def _hit(suspicion: Suspicion, work: Work, found: _Overread) -> Hit:
    relation = work.schema.root(found.relation)
    fix = _fix(found)
    facts: dict[str, object] = {
        "node": found.heap.title,
        "indexes": [node.index for node in found.indexes],
        "entries": round(found.entries),
        "rows": round(found.rows),
        "runs": round(found.runs),
        "dead_rows": found.relation.activity.dead,
        "table_rows": round(found.relation.rows),
        "total_cost": work.plan.total_cost,
    }
    names = tuple(dict.fromkeys(node.index or "?" for node in found.indexes))
    said: dict[str, object] = {
        "does": _READ if work.plan.analysed else _EXPECTED,
        "indexes": names,
        "runs": found.runs if found.runs >= MIN_RUNS else None,
        "cause": _CAUSES[fix],
        "dead_rows": found.relation.activity.dead or None,
        "surprise": found.surprise,
    }
    heap, subject = found.heap, ", ".join(names)
    return Hit(
        replace(suspicion, relation=relation, subject=subject, scans=(heap,), node=heap),
        rows=found.relation.rows,
        evidence=facts,
        fix=fix,
        **WORDS.of(**facts | said),
    )


def _fix(found: _Overread) -> str:
    """Return what helps against the cause of so many entries."""
    activity, rows = found.relation.activity, found.relation.rows
    combined = any(child.type == "BitmapAnd" for child in found.heap.children)
    if not combined or _dead_share(found.relation) >= DEAD_SHARE:
        return "vacuum"
    if found.surprise >= MIN_OVERREAD and activity.changed >= rows * STALE_SHARE:
        return "statistics"
    return "combined-index"

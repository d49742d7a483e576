"""
index-only-blocked
==================

What it finds
-------------

A statement for which an index holds everything, and whose table is read all the same. The index has
an expression among its keys, such as ``data ->> 'type'``, and the statement uses the column
``data`` inside this very expression only; but PostgreSQL looks at columns, finds that ``data`` is
not in the index, and rules out an Index Only Scan. The other reason for which a table is read
although an index holds everything is that few of its pages are marked all-visible.

Why it hurts
------------

For each row that the index finds, the table is read as well, mostly on another page each time: ten
to twenty times the work of reading the index alone, and those pages take the place of others in the
cache. Neither the plan nor the definition of the index shows that anything is wrong.

How to fix it
-------------

Create a partial index whose ``WHERE`` is the statement's own condition on the expression, with the
other columns that the statement needs. PostgreSQL then sees that the condition holds for each row
of the index, and no longer asks for the column. PlanWatch has the planner confirm that it reads the
index only. Where the expression is needed in another place, or its value changes, store it in a
generated column, and use that in the index and in the statement. If the pages are not marked
all-visible, ``VACUUM`` marks them. Where both is the matter, only both helps.

When it stays silent
--------------------

- The statement needs the column itself, such as with ``select(Event)``, or another one that the
  index does not have.
- An Index Only Scan is used already, and most pages are all-visible. The rows that a statement
  finds may be on the others, such as those of an import; these are few pages, and soon in memory.
- A partial index exists for more values of the same expression: one for each list of values would
  be too much.
- The index finds only a few rows, so that reading the table costs next to nothing. For ``VACUUM``
  that means fewer than 250 rows in all loops of a scan.
- The table has fewer rows than ``PLANWATCH_MIN_ROWS``.
- The planner does not read the index alone even when the partial index exists.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

from ..plan.comparison import Comparison, comparisons
from ..plan.evidence import Evidence, Hit, Miss, Need, Suspicion
from ..plan.figures import MAX_USEFUL_SHARE, MIN_INDEX_SCAN_COST, RANDOM_PAGE_COST
from ..plan.index_only import Coverage, coverages, is_for_more
from ..plan.index_use import bitmap_scans
from ..plan.predicate import BTREE_OPERATORS
from ..plan.schema import Schema
from ..plan.tree import Node, Plan
from ..plan.wording import Template, Words, say
from . import worth

NAME = "index-only-blocked"

WORDS = Words(
    what=worth.STEP,
    why="{short_cause}",
    problem="the statement reads the table {table} ({step}) although the index {covering} holds "
    "all that it needs: {cause}.[ Besides, {besides}.]",
)

_BLOCKED = Template(
    "for {expression}, PostgreSQL believes that it needs {blocking:and} as well, which the index "
    "does not have"
)
_BLOCKED_SHORT = Template("{covering} holds all it needs but {blocking:and}")
_NOT_VISIBLE = Template(
    "only {visible:percent} of the table's pages are marked all-visible, and for a row on any "
    "other page PostgreSQL reads the table to see whether the row is visible; VACUUM marks the "
    "pages"
)
_NOT_VISIBLE_SHORT = Template("{visible:percent} of its pages are all-visible")

#: The same where the statement ran: then the rows are known, and not their pages.
_LOOKED_UP = Template(
    "{looked_up:rows} that the index finds, {hidden:percent} of them, are on pages that are not "
    "marked all-visible, so PostgreSQL reads the table to see whether the row is visible; VACUUM "
    "marks the pages"
)
_LOOKED_UP_SHORT = Template("{hidden:percent} of its rows are not on all-visible pages")

_MOST_VISIBLE = "most pages of the table are all-visible"
_WIDER = "the partial index {wider} covers more values than the statement asks for"
_CHEAP = "reading the table costs little"
_FEW_FETCHED = "it looks up at most {rows:rows} in the table"

#: Below this share of visible pages an Index Only Scan reads the table for most rows. Measured on
#: 15 and 18 with rows that lie scattered: PostgreSQL gives it up for a Seq Scan below 90%, and for
#: a Bitmap Heap Scan at 50 to 70%, which also a table that is written a lot reaches between one
#: autovacuum and the next.
MIN_VISIBLE_SHARE = 0.5

#: VACUUM spares nothing that counts where fewer rows are looked up in the table. Measured on 18: 50
#: to 150 in a loop took 0.05 ms of 0.35, and 480 that lie scattered 2 ms.
MIN_LOOKED_UP = 250

#: A scan that costs less of the statement's cost is not what makes it slow.
MIN_SCAN_COST_SHARE = 0.2

#: So many scans can have that share.
MAX_SUSPICIONS = 5


def suspect(plan: Plan, schema: Schema) -> list[Suspicion]:
    """Return each relation that is read although an index holds all that is needed of it."""
    if not any(_may_be_blocked(scan, schema) for scan in plan.scans):
        return []
    compared: dict[int, list[Comparison]] = {}
    for comparison in comparisons(plan, schema):
        compared.setdefault(id(comparison.scan), []).append(comparison)
    found = []
    for _, group in groupby(coverages(plan, schema), key=lambda coverage: coverage.access):
        coverage = _sparing_index(list(group), schema, compared)
        if coverage is not None:
            found.append(_suspicion(coverage, schema, compared))
    found.sort(key=lambda suspicion: suspicion.scans[0].total_cost, reverse=True)
    return worth.merged(found[:MAX_SUSPICIONS])


def judge(suspicion: Suspicion, evidence: Evidence) -> Hit | Miss:
    """Return a Hit if the table is read needlessly, and that costs something."""
    schema, plan = evidence.schema, evidence.plan
    coverage = coverage_of(suspicion, plan, schema)
    rows = worth.rows_read(suspicion, schema)
    if rows < evidence.min_rows:
        return Miss(suspicion, say(worth.FEW_ROWS, rows=rows))
    fetches, share = _fetched(suspicion, evidence.analysed)
    visible = _visible_share(suspicion, schema) if share is None else 1 - share
    if not coverage.blocking:
        if max(visible, _still_visible(suspicion, schema)) >= MIN_VISIBLE_SHARE:
            return Miss(suspicion, _MOST_VISIBLE, quiet=True)
        looked_up = _looked_up(suspicion, evidence)
        if looked_up < MIN_LOOKED_UP:
            return Miss(suspicion, say(_FEW_FETCHED, rows=looked_up), by_parameters=True)
    for index in suspicion.relation.indexes:
        if index.valid and any(is_for_more(index, asked) for asked in coverage.conditions):
            return Miss(suspicion, say(_WIDER, wider=index.name))
    cost = sum(scan.total_cost * plan.loops[id(scan)] for scan in suspicion.scans)
    cost = max(min(cost, plan.total_cost), fetches * RANDOM_PAGE_COST)
    if cost < max(MIN_INDEX_SCAN_COST, plan.total_cost * MIN_SCAN_COST_SHARE):
        return Miss(suspicion, _CHEAP, by_parameters=True)
    found = {
        "index": coverage.index.name,
        "visible_share": round(visible, 3),
        "blocking": list(coverage.blocking),
    }
    hidden = visible < MIN_VISIBLE_SHARE
    not_visible, not_visible_short = (
        (_NOT_VISIBLE, _NOT_VISIBLE_SHORT) if share is None else (_LOOKED_UP, _LOOKED_UP_SHORT)
    )
    said = {
        "covering": coverage.index.name,
        "short_cause": _BLOCKED_SHORT if coverage.blocking else not_visible_short,
        "cause": _BLOCKED if coverage.blocking else not_visible,
        "besides": not_visible if coverage.blocking and hidden else None,
        "blocking": list(map(suspicion.relation.quoted_column, coverage.blocking)),
        "expression": suspicion.shown,
        "visible": visible,
        "hidden": share,
        "looked_up": fetches,
    }
    # VACUUM by itself spares nothing while a column is in the way.
    fix = "vacuum" if hidden and not coverage.blocking else "covering-index"
    return worth.hit(suspicion, evidence, WORDS, found, said, fix)


def coverage_of(suspicion: Suspicion, plan: Plan, schema: Schema) -> Coverage:
    """Return the index that a suspicion of this rule is about, and why the table is read."""
    return next(
        coverage
        for coverage in coverages(plan, schema)
        if set(coverage.access.scans) <= set(suspicion.scans)
        and suspicion.subject == _subject(coverage)
    )


def _may_be_blocked(scan: Node, schema: Schema) -> bool:
    """Whether a closer look at a scan may tell something: most plans need none."""
    relation = schema.get(scan.qualified_relation)
    if relation is None:
        return False
    keys = [key for index in relation.indexes for key in index.keys]
    expressions = any(relation.column(key) is None for key in keys)
    cold = relation.visible_pages < relation.pages * MIN_VISIBLE_SHARE
    return expressions or cold or scan.type == "Index Only Scan"


def _sparing_index(
    covering: list[Coverage], schema: Schema, compared: Mapping[int, list[Comparison]]
) -> Coverage | None:
    """Return the index that could spare reading the table, None if that is not certain."""
    free = [coverage for coverage in covering if not coverage.blocking]
    if not free:
        # An Index Only Scan reads no table; the index that PostgreSQL uses is the one to name.
        return min(
            covering,
            key=lambda coverage: (not coverage.used, len(coverage.index.keys)),
            default=None,
        )
    searched = (
        coverage for coverage in free if coverage.used or _is_searched(coverage, schema, compared)
    )
    return next(searched, None)


def _is_searched(
    coverage: Coverage, schema: Schema, compared: Mapping[int, list[Comparison]]
) -> bool:
    """Whether the index would find a small part of a table that is read as a whole."""
    scans = coverage.access.scans
    rows = sum(relation.rows for relation in schema.of(scan.qualified_relation for scan in scans))
    if any(scan.type != "Seq Scan" for scan in scans):
        return False
    few = sum(scan.rows for scan in scans) <= rows * MAX_USEFUL_SHARE
    return few and any(
        comparison.node is scan
        and comparison.operator in BTREE_OPERATORS
        and comparison.column in coverage.index.keys[:1]
        for scan in scans
        for comparison in compared.get(id(scan), ())
    )


def _suspicion(
    coverage: Coverage, schema: Schema, compared: Mapping[int, list[Comparison]]
) -> Suspicion:
    access, relation = coverage.access, coverage.access.relation
    blocked = coverage.blocking or [name for name in coverage.index.keys if relation.column(name)]
    return Suspicion(
        rule=NAME,
        relation=access.relation,
        subject=_subject(coverage),
        keys=tuple(map(relation.quoted_column, blocked)),
        scans=access.scans,
        comparisons=tuple(
            comparison
            for scan in access.scans
            for comparison in compared.get(id(scan), ())
            if comparison.operand.without_alias() in coverage.expressions
        ),
        # Only a run tells how many rows an Index Only Scan has looked up in the table.
        needs=frozenset({Need.ANALYSED} if coverage.used and not coverage.blocking else ()),
        exclusive=True,
    )


def _subject(coverage: Coverage) -> str:
    return " and ".join(coverage.expressions) or coverage.index.name


def _fetched(suspicion: Suspicion, analysed: Plan | None) -> tuple[float, float | None]:
    """Return the rows that an Index Only Scan looked up in the table, and which part that is.

    The part is None if the scan did not run.
    """
    ran = [node for node in _ran(suspicion, analysed) if node.heap_fetches is not None]
    fetches = sum(node.heap_fetches or 0.0 for node in ran)
    rows = sum(node.returned_rows for node in ran)
    return fetches, min(fetches / rows, 1.0) if rows else None


def _ran(suspicion: Suspicion, analysed: Plan | None) -> list[Node]:
    """Return the scans of a suspicion as EXPLAIN ANALYZE saw them run."""
    names = {(scan.alias, scan.index) for scan in suspicion.scans}
    scans = analysed.scans if analysed else ()
    return [node for node in scans if node.loops and (node.alias, node.index) in names]


def _looked_up(suspicion: Suspicion, evidence: Evidence) -> float:
    """Return how many rows the scans look up in the table at most, in all loops."""
    ran = _ran(suspicion, evidence.analysed)
    if any(scan.reads_all_rows for scan in suspicion.scans):
        return worth.rows_read(suspicion, evidence.schema)
    if ran:
        return sum(_looked_up_by(node) for node in ran)
    return sum(_expected_of(scan) * evidence.plan.loops[id(scan)] for scan in suspicion.scans)


def _expected_of(scan: Node) -> float:
    """Return how many rows a scan is expected to look up in the table at most, in one loop."""
    if scan.condition("Filter") is None and scan.type != "Bitmap Heap Scan":
        return scan.rows
    # Dead rows and those that a Filter discards are looked up as well: only the cost shows them.
    return max(scan.rows, scan.total_cost / RANDOM_PAGE_COST)


def _looked_up_by(node: Node) -> float:
    """Return how many rows a scan that ran has looked up in the table."""
    if node.heap_fetches is not None:
        return node.heap_fetches
    # The entries of dead rows lead to the table as well.
    entries = sum(scan.actual_rows or 0.0 for scan in bitmap_scans(node))
    return max(node.read_rows, entries * node.loops)


def _still_visible(suspicion: Suspicion, schema: Schema) -> float:
    """Return which part of the pages is likely to be all-visible after what was written.

    VACUUM and ANALYZE count these pages. Since then, a row that was updated or deleted may have
    hidden a page of its own; those that were inserted share their pages.
    """
    read = schema.of(suspicion.scanned)
    pages = sum(relation.pages for relation in read)
    hidden = 0.0
    for relation in read:
        activity = relation.activity
        scattered = min(activity.changed, activity.updated + activity.deleted)
        inserted = (activity.changed - scattered) / max(relation.rows, 1.0)
        hidden += scattered + inserted * relation.pages
    return _visible_share(suspicion, schema) - hidden / max(pages, 1)


def _visible_share(suspicion: Suspicion, schema: Schema) -> float:
    """Return which part of the pages an Index Only Scan need not look at, as the catalog has it."""
    read = schema.of(suspicion.scanned)
    pages = sum(relation.pages for relation in read)
    visible = sum(min(relation.visible_pages, relation.pages) for relation in read)
    return visible / pages if pages else 1.0

"""Whether an index for what a plan tests row by row would be worth having.

What the rules that end in an index ask in common, so that all keep silent in the same cases.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from ..plan.comparison import Comparison
from ..plan.evidence import Evidence, Suspicion
from ..plan.schema import Index, Relation, Schema
from ..plan.scrub import scrub_conjuncts
from ..plan.tree import Plan
from ..plan.usage import MAX_USEFUL_SHARE, indexed_in

#: A join that looks up more than this share of a table's rows is faster by hashing it whole:
#: an index lookup costs about `random_page_cost` (4) against 0.01 for a row of a Seq Scan, and
#: tables with wide rows shift that by a factor of ten.
MAX_LOOKUP_SHARE = 0.02

#: A scan takes 0.001 to 0.025 ms for each unit of estimated cost. One that took less cannot have
#: read the whole table, so a LIMIT stopped it.
MIN_MS_PER_COST = 0.0005


def merged(suspicions: Iterable[Suspicion]) -> list[Suspicion]:
    """Return each suspicion once, with the scans of all partitions and aliases that share it."""
    found: dict[tuple[str, str, str], list[Suspicion]] = {}
    for suspicion in suspicions:
        found.setdefault(suspicion.identity, []).append(suspicion)
    return [_merged(same) for same in found.values()]


def other_rows(comparison: Comparison) -> float | None:
    """Return how many rows the other side of a join delivers, None if there is no join."""
    return comparison.other_side.rows if comparison.other_side is not None else None


def rows_read(suspicion: Suspicion, schema: Schema) -> float:
    """Return the rows of all relations that the suspicious scans read."""
    return sum(relation.rows for key in suspicion.scanned if (relation := schema.get(key)))


def needless(
    suspicion: Suspicion, evidence: Evidence, rows: float, *, has_index: bool = False
) -> tuple[str, bool] | None:
    """Return why an index is not worth having, and whether that holds for these values only.

    `rows` is what `rows_read` returned. `has_index` tells that the column has an index that only
    its cast keeps from being used. None if nothing speaks against an index.
    """
    if any(indexed_in(plan, suspicion) for plan in (evidence.seqscan_off, evidence.alone)):
        return "an index on it exists", False
    small = rows < evidence.min_rows
    if small and not evidence.growth:
        return f"only {rows:.0f} rows are read", False
    if small and not any(scan.reads_all_rows for scan in suspicion.scans):
        return "an index leaves only a few rows to test", False
    lookup = suspicion.other_rows is not None and (small or not has_index)
    if lookup and other_side_is_indexed(suspicion, evidence):
        return "the other side of the join has an index", False
    reason = "" if small else share_that_passes(suspicion, evidence, rows)
    if not small and not reason and suspicion.other_rows is None:
        reason = "a LIMIT was reached early" if limit_reached_early(suspicion, evidence) else ""
    return (reason, True) if reason else None


def reading(suspicion: Suspicion, schema: Schema, rows: float) -> str:
    """Return what the scans do to the table, as the beginning of a sentence."""
    scan, table = suspicion.scans[0], suspicion.relation.display
    scanned, leaves = len(suspicion.scanned), len(schema.leaves(suspicion.relation))
    if not scan.reads_all_rows:
        return f"the statement reads a large part of {table} by {scan.index or scan.type}"
    if scanned < leaves:
        return (
            f"the statement reads {scanned} of the {leaves} partitions of {table}, "
            f"about {rows:,.0f} rows"
        )
    return f"the statement reads all of {table}, about {rows:,.0f} rows"


def step(suspicion: Suspicion) -> str:
    """Return the step of the plan that reads the table, in a few words."""
    scan = suspicion.scans[0]
    by = f" using {scan.index}" if scan.index else ""
    return f"{scan.type}{by} on {suspicion.relation.display}"


def facts(suspicion: Suspicion, evidence: Evidence, rows: float) -> dict[str, object]:
    """Return what a finding is based on, JSON-ready and without compared values."""
    # Each partition says the same under an alias of its own.
    predicates = {
        (one.operand.without_alias(), one.operator, one.other.text): one.conjunct
        for one in reversed(suspicion.comparisons)
    }
    conditions = list(dict.fromkeys(reversed(predicates.values())))
    if evidence.show_values:
        condition = " AND ".join(one.text for one in conditions)
    else:
        condition = scrub_conjuncts(conditions, evidence.varying)
    return {
        "scanned": list(suspicion.scanned),
        "node": suspicion.scans[0].title,
        "condition": condition,
        "table_rows": round(rows),
        "expected_rows": round(sum(scan.rows for scan in suspicion.scans)),
        "total_cost": evidence.plan.total_cost,
    }


def indexes_on(relation: Relation, columns: Iterable[str]) -> Iterator[Index]:
    """Yield the valid indexes whose first key is one of the columns."""
    names = set(columns)
    return (index for index in relation.indexes if index.valid and set(index.keys[:1]) & names)


def _merged(same: list[Suspicion]) -> Suspicion:
    first = same[0]
    # The rows of another join are not those of this one.
    alike = [one for one in same if one is first or one.other_rows is first.other_rows is None]
    scans = dict.fromkeys(scan for one in alike for scan in one.scans)
    comparisons = dict.fromkeys(comparison for one in alike for comparison in one.comparisons)
    return replace(first, scans=tuple(scans), comparisons=tuple(comparisons))


def share_that_passes(suspicion: Suspicion, evidence: Evidence, rows: float) -> str:
    """Return why reading much of the table is right for these values, or nothing.

    `rows` is what `rows_read` returned.
    """
    if suspicion.other_rows is not None:
        too_many = suspicion.other_rows > rows * MAX_LOOKUP_SHARE
        return "the join needs too large a part of the table" if too_many else ""
    if evidence.returned_rows is not None and counts_its_rows(evidence.plan):
        share = evidence.returned_rows / max(rows, 1)
        if share > MAX_USEFUL_SHARE:
            return f"{share:.0%} of the rows pass"
    elif 0 < (distinct := _distinct_values(suspicion)) < 1 / MAX_USEFUL_SHARE:
        return f"the column has only {distinct:.0f} values"
    return ""


def limit_reached_early(suspicion: Suspicion, evidence: Evidence) -> bool:
    """Whether the elapsed time shows that a LIMIT spared most of the scan."""
    full_cost = sum(scan.total_cost for scan in suspicion.scans)
    # What makes one execution slow, such as a busy process, spares no other.
    fastest = min(evidence.duration_ms, *evidence.timings.recent, evidence.duration_ms)
    return evidence.plan.limited and fastest < full_cost * MIN_MS_PER_COST


def other_side_is_indexed(suspicion: Suspicion, evidence: Evidence) -> bool:
    """Whether a join compares with a column that has an index of its own."""
    column, aliases = suspicion.other.column, suspicion.other.aliases
    scan = next((scan for scan in evidence.plan.scans if scan.alias in aliases), None)
    relation = evidence.schema.get(scan.qualified_relation) if scan else None
    if column is None or relation is None:
        return False
    return any(True for _ in indexes_on(relation, [column]))


def _distinct_values(suspicion: Suspicion) -> float:
    """Return how many values the compared expressions can have at most, 0 if that is not known.

    A function of one column has no more values than the column. Of several comparisons, the one
    with the most values leaves the fewest rows.
    """
    counts = [
        _values(one, suspicion.relation) for one in suspicion.comparisons if not one.other.columns
    ]
    return max(counts) if counts and all(counts) else 0.0


def _values(comparison: Comparison, relation: Relation) -> float:
    names = comparison.operand.column_names
    column = relation.column(names[0]) if len(names) == 1 else None
    if column is None or comparison.operator != "=":
        return 0.0
    return max(column.distinct, 0.0)


def counts_its_rows(plan: Plan) -> bool:
    """Whether the driver's row count is the number of rows that the scan lets pass."""
    return len(plan.scans) == 1 and not any(
        node.type in {"Aggregate", "Unique", "Limit", "Group"} for node in plan.nodes
    )

"""Whether an index for what a plan tests row by row would be worth having.

The rules that advise an index share this, so that all of them keep silent in the same cases.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from itertools import takewhile
from math import inf

from ..plan.access import Access, accesses
from ..plan.comparison import Comparison, comparisons
from ..plan.evidence import Evidence, Hit, Miss, Need, Suspicion
from ..plan.figures import MAX_USEFUL_SHARE, MIN_MS, MIN_MS_PER_COST
from ..plan.index_use import bitmap_scans, indexed_in, is_gone
from ..plan.predicate import Operand
from ..plan.schema import Column, Index, Relation, Schema
from ..plan.scrub import scrub_conjuncts
from ..plan.tree import READ_FIRST, Node, Plan
from ..plan.wording import Template, Words, say

#: A join that looks up more than this share of a table's rows is faster by hashing it whole:
#: an index lookup costs about `random_page_cost` (4) against 0.01 for a row of a Seq Scan, and
#: tables with wide rows shift that by a factor of ten.
MAX_LOOKUP_SHARE = 0.02

#: Fewer runs than this are one, as far as a sentence says.
MIN_RUNS = 1.5

#: A table with so many times fewer rows than the others of a statement stays small, as a list of
#: types does. If it grew as they do, they would have millions of rows before it has thousands.
OUTGROWN_FACTOR = 1000.0

#: Reasons that several rules give.
FEW_ROWS = "it has only {rows:rows} to read"
_OUTGROWN = "it has only {rows:rows}, and did not grow with the {others:rows} beside it"
FEW_LEFT = "an index leaves only a few rows to test"
LIMITED = "a LIMIT was reached early"
UNCLEAR = "a LIMIT may have ended the scan early: most of the time may be the round trip"
MOST_PASS = "{share:percent} of the rows are expected to pass"
OTHER_SIDE = "the other side of the join has an index"

_TOOK_LITTLE = "the whole statement took {took:exact_ms}"
INDEXED = "an index on it exists"
_TOO_MANY = "the other side of the join has {other_rows:rows}, too many to look each of them up"
_MANY_PASS = "{share:percent} of the rows pass"
_FEW_VALUES = "the column has few distinct values ({values:.0f})"

#: The step of the plan that reads a table, in a few words.
STEP = "{step}[ using {index}] on {table}"

#: What the statement does to the table, by the same facts. How many rows an index finds is known of
#: a bitmap only: of an Index Scan, the plan has those that its Filter left.
_READS_PARTITIONS = Template(
    "reads {scanned} of the {leaves} partitions of {table}, about {rows:rows}"
)
_READS_ALL = Template("reads all of {table}, about {rows:rows}")
_READS_UNTIL = Template("reads {table}, about {rows:rows}, to its end or until a LIMIT is reached")
_FINDS = Template(
    "finds about {found_rows:number} of the {rows:rows} of {table} by {read_by:and}"
    "[ in each of about {runs:number} runs]"
)
_READS_SOME = Template(
    "reads rows of {table} by {read_by:and}[ in each of about {runs:number} runs]"
    "[ at an estimated cost of {scan_cost:cost}]"
)

#: The partitions without an index that others have: by name, or their number if they are more.
_SOME_PARTITIONS = Template("{count} partitions of {table}")
MAX_NAMED_PARTITIONS = 3

#: What the evidence of a finding has of it, as far as it is known.
_COUNTED = ("found_rows", "runs", "scan_cost")


def merged(suspicions: Iterable[Suspicion]) -> list[Suspicion]:
    """Return each suspicion once, with the scans of all partitions and aliases that share it."""
    found: dict[tuple[str, str, str], list[Suspicion]] = {}
    for suspicion in suspicions:
        found.setdefault(suspicion.identity, []).append(suspicion)
    return [_merged(same) for same in found.values()]


def rows_read(suspicion: Suspicion, schema: Schema) -> float:
    """Return the rows of all relations that the suspicious scans read."""
    return sum(relation.rows for relation in schema.of(suspicion.scanned))


def access_of(suspicion: Suspicion, evidence: Evidence) -> Access | None:
    """Return what the statement asks of the relation where it is scanned, if it is one access."""
    scans = {*map(id, suspicion.scans)}
    asked = accesses(evidence.plan, evidence.schema)
    return next((access for access in asked if scans <= {*map(id, access.scans)}), None)


def suspicions(
    rule: str, plan: Plan, schema: Schema, subject: Callable[[Comparison], str], *further: Need
) -> list[Suspicion]:
    """Return the comparisons that are tested row by row, as no index on their subject exists.

    `subject` names the expression that an index would hold; it is empty for a comparison that is
    not the rule's. Besides two plans without sequential scans, the rule needs `further` ones.
    """
    needs = (Need.SEQSCAN_OFF, Need.PREDICATE_ALONE, *further)
    return merged(
        suspicion_of(rule, comparison, schema, named, needs)
        for comparison in comparisons(plan, schema)
        if comparison.costly and (named := subject(comparison))
    )


def suspicion_of(
    rule: str, comparison: Comparison, schema: Schema, subject: str, needs: Iterable[Need]
) -> Suspicion:
    """Return the suspicion that a comparison is tested row by row, as no index exists."""
    return Suspicion(
        rule=rule,
        relation=schema.root(comparison.relation),
        subject=subject,
        keys=(subject,),
        scans=(comparison.scan,),
        comparisons=(comparison,),
        needs=frozenset(needs),
        other_rows=comparison.other_side.rows if comparison.other_side is not None else None,
    )


def too_small(suspicion: Suspicion, evidence: Evidence, rows: float) -> Miss | None:
    """Return that the table is too small for an index to matter, None if it is not.

    `rows` is what `rows_read` returned. Where PLANWATCH_GROWTH asks for them, small tables count if
    they are read as a whole.
    """
    if rows >= evidence.min_rows:
        return None
    if (miss := stays_small(suspicion, evidence, rows)) is not None:
        return miss
    whole = not suspicion.scans or any(scan.reads_all_rows for scan in suspicion.scans)
    return None if whole else Miss(suspicion, FEW_LEFT)


def stays_small(suspicion: Suspicion, evidence: Evidence, rows: float) -> Miss | None:
    """Return that a small table is not asked about, or will not grow; None if it may."""
    if not evidence.growth:
        return Miss(suspicion, say(FEW_ROWS, rows=rows))
    read = {scan.qualified_relation for scan in evidence.plan.scans} - {*suspicion.scanned}
    others = sum(relation.rows for relation in evidence.schema.of(read))
    # One that is empty was not filled yet.
    if not 0 < rows * OUTGROWN_FACTOR <= others:
        return None
    return Miss(suspicion, say(_OUTGROWN, rows=rows, others=others))


def needless(suspicion: Suspicion, evidence: Evidence, *, has_index: bool = False) -> Miss | None:
    """Return why an index is not worth having, None if it may be.

    `has_index` tells that the column has an index that only its cast keeps from being used.
    """
    if any(_is_indexed(plan, suspicion) for plan in (evidence.seqscan_off, evidence.alone)):
        return Miss(suspicion, INDEXED)
    rows = rows_read(suspicion, evidence.schema)
    if (miss := too_small(suspicion, evidence, rows)) is not None:
        return miss
    small, joins = rows < evidence.min_rows, suspicion.other_rows is not None
    if joins and (small or not has_index) and other_side_is_indexed(suspicion, evidence):
        return Miss(suspicion, OTHER_SIDE)
    reason = "" if small else share_that_passes(suspicion, evidence, rows)
    if not small and not reason and not joins:
        reason = spared_by_limit(suspicion, evidence)
    return Miss(suspicion, reason, by_parameters=True) if reason else None


def _is_indexed(plan: Plan | None, suspicion: Suspicion) -> bool:
    """Whether an index answers one of the keys on each of the relations."""
    return all(
        indexed_in(plan, replace(suspicion, scans=scans))
        for scans in suspicion.by_relation.values()
    )


def without_index(
    relations: Iterable[Relation], schema: Schema, has_index: Callable[[Relation], bool]
) -> str | None:
    """Return which partitions have no index, None if that is true of all or of none.

    Where some have it, "no index" alone would be false.
    """
    there = {relation.key: has_index(relation) for relation in relations}
    lacking = [key for key, has in there.items() if not has]
    if len(lacking) in {0, len(there)}:
        return None
    if len(lacking) > MAX_NAMED_PARTITIONS:
        whole = schema.root(schema.relations[lacking[0]])
        return say(_SOME_PARTITIONS, count=len(lacking), table=whole.display)
    return " and ".join(relation.display for relation in schema.of(lacking))


def took_little(suspicion: Suspicion, evidence: Evidence, least_ms: float = MIN_MS) -> Miss | None:
    """Return that the statement took too little time to be reported, None if it did not.

    One that was cancelled would have taken longer, nobody knows by how much.
    """
    cut_short = evidence.error is not None and evidence.error.means_load
    if cut_short or not evidence.client_side or evidence.duration_ms >= least_ms:
        return None
    reason = say(_TOOK_LITTLE, took=evidence.duration_ms)
    return Miss(suspicion, reason, by_parameters=True)


def hit(
    suspicion: Suspicion,
    evidence: Evidence,
    words: Words,
    found: Mapping[str, object],
    said: Mapping[str, object],
    fix: str = "index",
) -> Hit:
    """Return the Hit of a rule that advises an index.

    `found` is what it is based on, besides what all of them are. The templates are filled in from
    that, from `said`, and from the facts of the scan, such as `reads`: what it reads of the table.
    """
    rows = rows_read(suspicion, evidence.schema)
    reading = _reading(suspicion, evidence, rows)
    counted = {key: reading[key] for key in _COUNTED if reading[key] is not None}
    return Hit(
        suspicion,
        rows=rows,
        evidence={**_facts(suspicion, evidence, rows), **counted, **found},
        small=rows < evidence.min_rows,
        fix=fix,
        reads_all=_step(suspicion).reads_all_rows,
        **words.of(**{**found, **said, **reading}),
    )


def _step(suspicion: Suspicion) -> Node:
    """Return the step that a finding names: one that reads all rows, if there is one."""
    whole = (scan for scan in suspicion.scans if scan.reads_all_rows)
    return next(whole, suspicion.scans[0])


def _reading(suspicion: Suspicion, evidence: Evidence, rows: float) -> dict[str, object]:
    """Return what is read of the table, and how, as far as the plan tells."""
    scan, plan, schema = _step(suspicion), evidence.plan, evidence.schema
    bitmaps = list(bitmap_scans(scan))
    runs = plan.loops[id(scan)]
    facts: dict[str, object] = {
        "reads": _FINDS if bitmaps else _READS_SOME,
        "step": scan.type,
        "index": scan.index,
        "table": suspicion.relation.display,
        "read_by": [node.index or scan.type for node in bitmaps or [scan]],
        "rows": rows,
        "found_rows": round(scan.children[0].rows) if bitmaps else None,
        "runs": round(runs) if runs >= MIN_RUNS else None,
        # A LIMIT stops a scan before it has cost that.
        "scan_cost": None if runs >= MIN_RUNS or plan.limits([scan]) else scan.total_cost,
        "partitions": _without_index(suspicion, evidence),
    }
    if scan.reads_all_rows:
        # Other partitions may be read by an index.
        whole = {scan.qualified_relation for scan in suspicion.scans if scan.reads_all_rows}
        leaves = len(schema.leaves(suspicion.relation))
        facts |= {
            "reads": _READS_PARTITIONS if len(whole) < leaves else _READS_ALL,
            "scanned": len(whole),
            "leaves": leaves,
            "rows": sum(relation.rows for relation in schema.of(whole)),
            "scan_cost": None,
        }
        if _may_stop(scan, evidence):
            facts["reads"] = _READS_UNTIL
    return facts


def _without_index(suspicion: Suspicion, evidence: Evidence) -> str | None:
    """Return which partitions that the statement reads have no index on a key, if others have."""
    schema, whole = evidence.schema, suspicion.relation
    if not whole.partitioned:
        return None
    read = [
        scan
        for scan in evidence.plan.scans
        if (of := schema.get(scan.qualified_relation)) and schema.root(of) is whole
    ]
    asked = replace(suspicion, scans=tuple(read))
    plans = (evidence.plan, evidence.seqscan_off)

    def has_index(partition: Relation) -> bool:
        own = replace(asked, scans=asked.by_relation[partition.key])
        begun = {
            partition.quoted_column(i.keys[0]) for i in partition.indexes if i.valid and i.keys
        }
        return not begun.isdisjoint(suspicion.keys) or any(indexed_in(plan, own) for plan in plans)

    return without_index(schema.of(asked.by_relation), schema, has_index)


def _may_stop(scan: Node, evidence: Evidence) -> bool:
    """Whether a LIMIT may have stopped a scan before its end, as far as plan and driver know."""
    plan, returned = evidence.plan, evidence.returned_rows
    running = takewhile(lambda step: step.type not in READ_FIRST, plan.steps_above(scan))
    limit = next((step for step in running if step.type == "Limit"), None)
    if limit is plan.root and returned is not None:
        # It was not reached if even fewer rows came.
        return returned >= plan.root.rows
    return limit is not None


def _facts(suspicion: Suspicion, evidence: Evidence, rows: float) -> dict[str, object]:
    """Return what a finding is based on, JSON-ready and without compared values."""
    # Each partition says the same under an alias of its own.
    predicates = {
        (tested.operand.without_alias(), tested.operator, tested.other.text): tested.conjunct
        for tested in reversed(suspicion.comparisons)
    }
    conditions = list(dict.fromkeys(reversed(predicates.values())))
    condition = " AND ".join(predicate.text for predicate in conditions)
    if not evidence.show_values:
        condition = scrub_conjuncts(conditions, evidence.varying)
    return {
        "scanned": list(suspicion.scanned),
        "node": _step(suspicion).title,
        "condition": condition,
        "table_rows": round(rows),
        "expected_rows": round(sum(scan.rows for scan in suspicion.scans)),
        "total_cost": evidence.plan.total_cost,
    }


def indexes_on(relation: Relation, columns: Collection[str | None]) -> list[Index]:
    """Return the valid indexes whose first key is one of the columns."""
    return [i for i in relation.indexes if i.valid and i.keys[:1] and i.keys[0] in columns]


def other_column(
    other: Operand, evidence: Evidence, name: str | None
) -> tuple[Relation, Column] | None:
    """Return the relation that the opposite side of a comparison reads, and its column `name`."""
    scan = next((scan for scan in evidence.plan.scans if scan.alias in other.aliases), None)
    relation = evidence.schema.get(scan.qualified_relation) if scan else None
    column = relation.column(name) if relation and name else None
    return (relation, column) if relation and column else None


def _merged(same: list[Suspicion]) -> Suspicion:
    first = same[0]
    # The rows of another join are not those of this one.
    alike = [first, *(each for each in same[1:] if each.other_rows is first.other_rows is None)]
    scans = dict.fromkeys(scan for suspicion in alike for scan in suspicion.scans)
    comparisons = dict.fromkeys(tested for suspicion in alike for tested in suspicion.comparisons)
    return replace(first, scans=tuple(scans), comparisons=tuple(comparisons))


def share_that_passes(suspicion: Suspicion, evidence: Evidence, rows: float) -> str:
    """Return why reading much of the table is right for these values, or nothing.

    `rows` is what `rows_read` returned.
    """
    if suspicion.other_rows is not None:
        too_many = suspicion.other_rows > rows * MAX_LOOKUP_SHARE
        return say(_TOO_MANY, other_rows=suspicion.other_rows) if too_many else ""
    if evidence.returned_rows is not None and counts_its_rows(evidence.plan):
        share = evidence.returned_rows / max(rows, 1)
        if share > MAX_USEFUL_SHARE:
            return say(_MANY_PASS, share=share)
    elif 0 < (distinct := _distinct_values(suspicion)) < 1 / MAX_USEFUL_SHARE:
        return say(_FEW_VALUES, values=distinct)
    return ""


def spared_by_limit(suspicion: Suspicion, evidence: Evidence) -> str:
    """Return why the elapsed time shows no scan to its end below a LIMIT, or nothing if it does."""
    if not evidence.plan.limits(suspicion.scans):
        return ""
    least_ms = sum(scan.total_cost for scan in suspicion.scans) * MIN_MS_PER_COST
    # What makes one execution slow, such as a busy process, spares no other. One that failed ended
    # before the LIMIT was reached.
    this = () if evidence.error is not None else (evidence.duration_ms,)
    fastest = min((*this, *evidence.timings.recent), default=inf)
    if fastest < least_ms:
        return LIMITED
    spent = evidence.timings.computed_ms(fastest, evidence.plan, evidence.returned_rows)
    return UNCLEAR if spent < least_ms else ""


def passed_over_for_limit(suspicion: Suspicion, evidence: Evidence) -> bool:
    """Whether indexes answer all keys, and are not used as a LIMIT is expected to stop the scan."""
    plan, scanned = evidence.seqscan_off, suspicion.scanned
    if plan is None or not evidence.plan.limits(suspicion.scans):
        return False
    return all(is_gone(plan, scanned, key) for key in suspicion.keys)


def other_side_is_indexed(suspicion: Suspicion, evidence: Evidence) -> bool:
    """Whether a join compares with a column that has an index of its own."""
    found = other_column(suspicion.other, evidence, suspicion.other.column)
    return found is not None and bool(indexes_on(found[0], {found[1].name}))


def _distinct_values(suspicion: Suspicion) -> float:
    """Return how many values the compared expressions can have at most, 0 if that is not known.

    A function of one column has no more values than the column. Of several comparisons, the one
    with the most values leaves the fewest rows.
    """
    counts = list[float]()
    for comparison in suspicion.comparisons:
        names = comparison.operand.column_names
        column = suspicion.relation.column(names[0]) if len(names) == 1 else None
        known = column.distinct if column and comparison.operator == "=" else 0.0
        if not comparison.other.columns:
            counts.append(max(known, 0.0))
    return max(counts) if counts and all(counts) else 0.0


def counts_its_rows(plan: Plan) -> bool:
    """Whether the driver's row count is the number of rows that the scan lets pass."""
    return len(plan.scans) == 1 and not any(
        node.type in {"Aggregate", "Unique", "Limit", "Group"} for node in plan.nodes
    )

"""One index in place of several whose results a BitmapAnd intersects."""

from __future__ import annotations

from ..indexes.candidate import Candidate
from ..indexes.search import Attempt
from ..indexes.shapes import Shape
from ..indexes.verdict import Advised, Answer, Declined
from ..plan.access import EQUAL, RANGES
from ..plan.comparison import comparisons, key_of
from ..plan.evidence import Hit
from ..plan.figures import INDEX_ENTRY_COST, MIN_SAVING
from ..plan.index_use import bitmap_scans
from ..plan.tree import Node
from ..plan.wording import say
from .case import Case
from .drafts import Drafts
from .trial import if_worth_it, try_index

_NO_INDEX = (
    "No single index answers all of these conditions: some are no comparisons that a btree can "
    "answer, or contain an expression with a value."
)
_COMPARE = "compare the columns with =, <, <=, > or >=, or store the expression in a column"

_FEW_ENTRIES = (
    "reading the entries that lead to no row takes less than {wanted:percent} of the cost of the "
    "statement"
)

_GONE = "the BitmapAnd of {names:and} is gone"
_ALONE = "one index, {index}, answers {keys:and}"


def advise(case: Case, hit: Hit) -> Answer:
    """Return the index that holds the columns of all conditions, as the planner takes it.

    Declined if it is not worth that. Raises ServerError if the connection fails.
    """
    heap, index = hit.suspicion.scans[0], _candidate(case, hit)
    if index is None:
        return Advised((), remark=_NO_INDEX, hint=_COMPARE)
    answer = try_index(case, hit, index, lambda _, attempt: _proof(heap, index, attempt))
    if isinstance(answer, Declined) or _entries(hit) >= case.plan.total_cost * MIN_SAVING:
        return answer
    if answer.advice[0].verdict.cost_after is None:
        return Declined(say(_FEW_ENTRIES, wanted=MIN_SAVING))
    return if_worth_it(answer)


def _entries(hit: Hit) -> float:
    """Return what the entries cost that lead to no row.

    That is more than the whole statement where its cost does not show them: a LIMIT leaves out a
    part of it, and more runs may be counted than were expected.
    """
    return float(hit.evidence["entries"] - hit.evidence["rows"]) * INDEX_ENTRY_COST


def _candidate(case: Case, hit: Hit) -> Candidate | None:
    """Return an index on what the bitmaps compare: equality first, then at most one range."""
    heap, relation = hit.suspicion.scans[0], hit.suspicion.relation
    plan = case.evidence.analysed or case.plan
    inside = {id(node) for node in bitmap_scans(heap)}
    compared = [
        comparison
        for comparison in comparisons(plan, case.schema)
        if id(comparison.node) in inside and comparison.scan.alias == heap.alias
    ]
    if not all(comparison.operator in EQUAL | RANGES for comparison in compared):
        return None
    compared.sort(key=lambda comparison: comparison.operator in RANGES)
    drafts = Drafts(case)
    texts = dict.fromkeys(key_of(comparison.operand, relation) for comparison in compared)
    equal = {key_of(test.operand, relation) for test in compared if test.operator in EQUAL}
    keys = tuple(key for text in texts if (key := drafts.key(relation, text)) is not None)
    if not equal or len(keys) < max(len(texts), 2):
        return None
    return drafts.candidate(relation, Shape(keys, equal_keys=len(equal)))


def _proof(heap: Node, index: Candidate, attempt: Attempt) -> tuple[str, ...]:
    """Return how the rows are found now, nothing if bitmaps are still combined."""
    scans = [scan for scan in attempt.plan.scans if scan.alias == heap.alias]
    if not scans or any(node.type == "BitmapAnd" for scan in scans for node in scan.walk()):
        return ()
    names = dict.fromkeys(node.index for node in bitmap_scans(heap))
    (taken,) = attempt.used
    return say(_GONE, names=names), say(_ALONE, keys=index.expressions, index=taken.name)

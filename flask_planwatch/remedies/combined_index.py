"""One index in place of several of which only the overlap is wanted."""

from __future__ import annotations

from ..advice.candidates import Shape
from ..advice.index import Candidate, Key, column_key
from ..advice.search import Attempt
from ..advice.verdict import Advised, Answer
from ..drafting import Drafts
from ..plan.access import EQUAL, RANGES
from ..plan.comparison import Comparison, comparisons, key_of
from ..plan.evidence import Hit
from ..plan.schema import Relation
from ..plan.tree import Node, Plan
from .case import Case
from .trial import try_index

_NO_INDEX = (
    "No single index answers all of these conditions: they are not comparisons that a btree knows, "
    "or an expression in them holds a value."
)


def advise(case: Case, hit: Hit) -> Answer:
    """Return the index that holds the columns of all conditions, as the planner takes it.

    Raises ServerError if the connection fails.
    """
    index = _candidate(case, hit)
    if index is None:
        return Advised((), remark=_NO_INDEX)
    heap = hit.suspicion.scans[0]

    def proof(before: Plan, attempt: Attempt) -> tuple[str, ...]:
        return _proof(heap, index, attempt)

    return try_index(case, index, proof)


def _candidate(case: Case, hit: Hit) -> Candidate | None:
    """Return an index on what the bitmaps compare: equality first, then at most one range."""
    heap, relation = hit.suspicion.scans[0], hit.suspicion.relation
    plan = case.evidence.analysed or case.plan
    inside = {id(node) for node in heap.walk() if node.type == "Bitmap Index Scan"}
    compared = [
        one
        for one in comparisons(plan, case.schema)
        if id(one.node) in inside and one.scan.alias == heap.alias
    ]
    equal = [one for one in compared if one.operator in EQUAL]
    ranges = [one for one in compared if one.operator in RANGES]
    if len(equal) + len(ranges) < len(compared) or not equal:
        return None
    found = dict.fromkeys(_key(case, one, relation) for one in [*equal, *ranges])
    keys = tuple(key for key in found if key is not None)
    if len(keys) < len(found) or len(keys) < 2:
        return None
    return Drafts(case.session, case.schema, case.mapped).candidate(relation, Shape(keys))


def _key(case: Case, comparison: Comparison, relation: Relation) -> Key | None:
    """Return what is compared as a key, None if it holds a value."""
    name = comparison.column
    if name is not None:
        return column_key(relation, name)
    expression = case.structural(key_of(comparison.operand, relation))
    return None if expression is None else Key(expression)


def _proof(heap: Node, index: Candidate, attempt: Attempt) -> tuple[str, ...]:
    """Return how the rows are found now, nothing if bitmaps are still laid over each other."""
    scans = [scan for scan in attempt.plan.scans if scan.alias == heap.alias]
    if not scans or any(node.type == "BitmapAnd" for scan in scans for node in scan.walk()):
        return ()
    keys = " and ".join(key.expression for key in index.keys)
    names = " and ".join(
        dict.fromkeys(node.index or "" for node in heap.walk() if node.type == "Bitmap Index Scan")
    )
    return (f"the BitmapAnd of {names} is gone", f"{keys} are conditions of {index.name} alone")

"""A predicate planned alone in its new form, which shows whether an index answers it."""

from __future__ import annotations

from collections.abc import Sequence

from ..finding import Verdict, VerdictStatus
from ..plan.evidence import Hit
from ..plan.index_use import searched_index
from ..plan.schema import Column
from ..plan.tree import Plan
from ..plan.wording import Template, say
from ..rules.worth import indexes_on
from ..server.explain import Query, explain, qualified
from ..server.transaction import may_be_refused
from .case import Case

_USED = "planned for this predicate alone, {key} is an index condition of {index}"
_PRUNED = "planned for this predicate alone, the planner reads {read} of {all} partitions"
_FORCED = "{used}, with sequential scans off"
_PREFERS = (
    "for these values the planner prefers to read the table; with sequential scans off: {used}"
)
_NOT_USED = "the planner did not use {indexes:or} for the new condition either"
_NO_INDEX = (
    "there is no index on {column}, so the gain cannot be shown; once the condition is changed, "
    "missing-index checks whether one would help"
)
_WAS_COMPUTED = "{expression} was computed row by row, and {is_now}"
_CONDITION = Template("{key} alone was an index condition of {index}")
_PARTITIONS = Template("{column} alone left {read} of {all} partitions to read")


def verdict_alone(
    case: Case, hit: Hit, column: Column, condition: str, key: str = ""
) -> Verdict | None:
    """Return what the planner does with a condition on one column, None if it is refused.

    The condition is SQL over the columns of the hit's relation; `key` is what it compares, if that
    is not the bare column. Raises ServerError if the
    connection fails.
    """
    relation, scanned = hit.suspicion.relation, len(hit.suspicion.scanned)
    facts: dict[str, object] = {
        "key": key or column.quoted_name,
        "column": column.quoted_name,
        "expression": hit.suspicion.shown,
    }
    for seqscan in (True, False):
        plan = plan_alone(case, hit, condition, seqscan=seqscan)
        if plan is None:
            return None
        read, index = len(plan.scans), searched_index(plan)
        pruned = relation.partitioned and read < scanned
        facts |= {"index": index, "read": read, "all": len(case.schema.leaves(relation))}
        if not index and not pruned:
            continue
        used = say(_USED if index else _PRUNED, **facts)
        if not seqscan and not hit.small and hit.suspicion.other_rows is None:
            return Verdict(VerdictStatus.NOT_APPLICABLE, say(_PREFERS, used=used))
        proof = say(_WAS_COMPUTED, is_now=_CONDITION if index else _PARTITIONS, **facts)
        reason = used if seqscan else say(_FORCED, used=used)
        return Verdict(VerdictStatus.VERIFIED, reason, proof=(proof,))
    there = [index.name for index in indexes_on(relation, {column.name})]
    return not_shown(column.quoted_name, there)


def not_shown(column: str, indexes: Sequence[str]) -> Verdict:
    """Return the verdict on a new condition on a column that no index is used for.

    `indexes` are the names of those that begin with the column.
    """
    reason = say(_NOT_USED if indexes else _NO_INDEX, column=column, indexes=indexes)
    return Verdict(VerdictStatus.NOT_APPLICABLE, reason)


def plan_alone(case: Case, hit: Hit, condition: str, *, seqscan: bool = True) -> Plan | None:
    """Return the plan of a condition alone on the hit's relation, None if the server refuses it.

    Raises ServerError if the connection fails.
    """
    relation = hit.suspicion.relation
    table = qualified(relation.schema, relation.name)
    query = Query(f"SELECT 1 FROM {table} WHERE {condition}", None, escaped=False)
    with may_be_refused():
        return explain(case.session, query, seqscan=seqscan)
    return None

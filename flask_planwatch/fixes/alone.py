"""A predicate planned alone in its new form, which shows whether an index answers it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..finding import Advice, Verdict, VerdictStatus
from ..indexes.candidate import Key
from ..indexes.verdict import full_cost, saving, too_little
from ..plan.access import accesses
from ..plan.evidence import Hit
from ..plan.figures import LEAST_COST, MIN_SAVING
from ..plan.index_use import entered_index, searched_index
from ..plan.schema import Column
from ..plan.step_cost import cost_of_runs
from ..plan.tree import Plan
from ..plan.wording import Template, say
from ..rules.worth import indexes_on
from ..server.explain import Query, explain, qualified, quoted
from ..server.transaction import may_be_refused
from .case import Case

_USED = "planned for this predicate alone, {key} is an index condition of {index}"
_PRUNED = "planned for this predicate alone, the planner reads {read} of {all} partitions"
_FORCED = "{used}, with sequential scans off"
_PREFERS = (
    "for these values the planner prefers to read the table; with sequential scans off: {used}"
)
_TOO_LITTLE = "{used}, but {reason}"
_NOT_USED = "the planner did not use {indexes:or} for the new condition either"
_NO_INDEX = (
    "no index begins with {column}, so the gain cannot be shown; once the condition is changed, "
    "missing-index checks whether one would help"
)
_WAS_COMPUTED = "{expression} was computed row by row, and {is_now}"
_CONDITION = Template("{key} alone was an index condition of {index}")
_PARTITIONS = Template("{column} alone left {read} of {all} partitions to read")


@dataclass(frozen=True)
class NewForm:
    """The advice to write a condition in another form.

    `condition` is that form as SQL over the columns of the hit's relation, and `key` what an index
    for it has to hold; None if no index would serve, or if one that is there is the reason for it.
    """

    advice: Advice
    condition: str = ""
    key: Key | None = None

    @property
    def is_verified(self) -> bool:
        """Whether an index that is there, or a partition, serves the new form."""
        return self.advice.verdict.status is VerdictStatus.VERIFIED


def verdict_alone(
    case: Case, hit: Hit, column: Column, condition: str, key: str = ""
) -> Verdict | None:
    """Return what the planner does with a condition on one column, None if it is refused.

    The condition is SQL over the columns of the hit's relation; `key` is what it compares, if that
    is not the bare column. It is verified if the planner then reads a fifth less by an index, or of
    the partitions. Raises ServerError if the connection fails.
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
        # With sequential scans off, the planner reads any index that holds the column from end to
        # end, or skips through it.
        index = searched_index(plan) if seqscan else entered_index(plan, case.schema)
        read = len(plan.scans)
        pruned = relation.partitioned and read < scanned
        facts |= {"index": index, "read": read, "all": len(case.schema.leaves(relation))}
        if not index and not pruned:
            continue
        used = say(_USED if index else _PRUNED, **facts)
        if not seqscan and not hit.small and hit.suspicion.other_rows is None:
            return Verdict(VerdictStatus.NOT_APPLICABLE, say(_PREFERS, used=used))
        if (reason := _saves_too_little(case, hit, plan)) is not None:
            reason = say(_TOO_LITTLE, used=used, reason=reason)
            return Verdict(VerdictStatus.NOT_APPLICABLE, reason)
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
    with may_be_refused():
        return explain(case.session, query_alone(case, hit, condition), seqscan=seqscan)
    return None


def query_alone(case: Case, hit: Hit, condition: str) -> Query:
    """Return a query that reads what the statement reads of the hit's relation, by one condition.

    An index that does not hold all of that leads to the table, as it does in the statement.
    """
    relation, scans = hit.suspicion.relation, {id(scan) for scan in hit.suspicion.scans}
    wanted = [
        access.read
        for access in accesses(case.plan, case.schema)
        if not scans.isdisjoint(map(id, access.scans))
    ]
    names = dict.fromkeys(name for read in wanted for name in read or ())
    # What is written or locked is found in the table itself.
    whole = not wanted or None in wanted or not case.plan.only_reads
    columns = "*" if whole else ", ".join(map(quoted, names)) or "1"
    table = qualified(relation.schema, relation.name)
    return Query(f"SELECT {columns} FROM {table} WHERE {condition}", None, escaped=False)


def _saves_too_little(case: Case, hit: Hit, alone: Plan) -> str | None:
    """Return why the new condition is not worth it, None if it is.

    Nothing tells how often a join would look for it, and the costs of a small table tell nothing.
    """
    if hit.small or hit.suspicion.other_rows is not None:
        return None
    scans = hit.suspicion.scans
    once = sum(scan.total_cost for scan in scans)
    spent = sum(cost_of_runs(case.plan, scan) for scan in scans)
    before = max(full_cost(case.plan, [hit]), spent)
    after = before - spent + alone.total_cost * spent / max(once, LEAST_COST)
    if saving(before, after) >= MIN_SAVING:
        return None
    return too_little(before, after, MIN_SAVING, method="", guess=False).reason

"""Better knowledge of the rows: ANALYZE, or statistics of several columns together."""

from __future__ import annotations

from dataclasses import dataclass

from ..advice.statistics import Conditions, analyse, conditions_of, create_statistics, extended
from ..advice.verdict import Advised, Answer
from ..finding import Verdict, VerdictStatus
from ..plan.evidence import Hit
from ..plan.schema import Relation
from ..plan.tree import Node, Plan
from ..rules.row_misestimate import FACTOR, Estimates
from ..server import enabling, whatif
from ..server.explain import Query, quoted
from ..server.transaction import NO_SERVER, ServerError
from ..settings import VERIFY_OFF
from .case import Case

_LATER = (
    "What {terms} has to match is known only while the statement runs, so that PostgreSQL expects "
    "as many rows as there are for an average value, and this one is none. No statistics tell it "
    "more: look the value up first, and pass it as a parameter."
)
_NO_TABLE = (
    "PostgreSQL works that out from each table by itself; there are no statistics across tables, "
    "so that only another way to write the statement helps."
)
_NOTHING_MORE = (
    "Hardly anything was written since the last ANALYZE: a larger sample, by ALTER TABLE … ALTER "
    "COLUMN … SET STATISTICS, may tell more of values that are rare."
)

_FOR_ONE_VALUE = (
    "It compares an expression that holds a value, so that statistics of it would serve only "
    "that value: compare the columns in another way, or store the expression in a column."
)


@dataclass(frozen=True)
class _Wrong:
    """A scan whose rows were not as expected: `expected` and `actual` are those of one run."""

    scan: Node
    relation: Relation
    conditions: Conditions
    expected: float
    actual: float

    @property
    def stale(self) -> bool:
        """Whether the rows that came unexpected may have been written since the last ANALYZE."""
        unexpected = abs(self.actual - self.expected)
        return not self.relation.has_statistics or self.relation.activity.changed >= unexpected / 2

    def is_right(self, rows: float) -> bool:
        """Whether an estimate is near enough to what came."""
        rows, actual = max(rows, 1.0), max(self.actual, 1.0)
        return max(rows / actual, actual / rows) < FACTOR

    def alone(self) -> Query:
        """Return a query that finds nothing but these rows, for its plan."""
        table = f"ONLY {quoted(self.scan.schema)}.{quoted(self.scan.relation)}"
        where = " AND ".join(f"({text})" for text in self.conditions.texts)
        sql = f"SELECT 1 FROM {table} AS {quoted(self.scan.alias)} WHERE {where}"
        return Query(sql, None, escaped=False)


def advise(case: Case, hit: Hit) -> Answer:
    """Return what would make the planner expect the rows that came.

    Raises ServerError if the connection fails.
    """
    wrong = _wrong(case, hit)
    if wrong is None:
        return Advised((), remark=_NO_TABLE)
    reason, blocked = _no_trial(case, wrong.relation), False
    fit = wrong.stale or wrong.conditions.may_go_together
    # Another trial that was rolled back may have reset the count of what was written since.
    if not fit and (reason or wrong.conditions.later):
        return Advised((), remark=_remark(wrong))
    if not reason:
        try:
            with whatif.on_statistics(case.session) as fresh:
                return _tried(case, wrong, fresh)
        except whatif.Untestable as untestable:
            reason = str(untestable)
        except whatif.Blocked:
            reason, blocked = "the table was locked, most likely by the request itself", True
    verdict = Verdict(VerdictStatus.UNTESTED, reason)
    advice = (
        analyse(wrong.relation, verdict)
        if wrong.stale
        else extended(wrong.relation, wrong.conditions.terms, verdict)
    )
    return Advised((advice,), blocked=blocked)


def _wrong(case: Case, hit: Hit) -> _Wrong | None:
    """Return the scan that a hit is about, None if it is about another step."""
    plan, node = case.evidence.analysed, hit.suspicion.node
    relation = case.schema.get(node.qualified_relation) if node is not None else None
    if plan is None or node is None or relation is None or not relation.indexable:
        return None
    estimates, loops = Estimates(plan), max(node.actual_loops or 0.0, 1.0)
    return _Wrong(
        node,
        relation,
        conditions_of(node, relation, case.varying),
        estimates.expected(node) / loops,
        estimates.actual(node) / loops,
    )


def _remark(wrong: _Wrong) -> str:
    """Return why nothing can be done about the statistics."""
    if wrong.conditions.later:
        return _LATER.format(terms=" and ".join(wrong.conditions.terms) or "it")
    return _FOR_ONE_VALUE if wrong.conditions.holds_value else _NOTHING_MORE


def _no_trial(case: Case, relation: Relation) -> str:
    """Return why statistics cannot be tried, and how they could, or nothing."""
    if case.verify == VERIFY_OFF:
        return 'PLANWATCH_VERIFY is "off"'
    if not case.builds:
        with case.session.transaction() as transaction:
            options = enabling.options(transaction, [relation])
        building = options.building if options is not None else ""
        reason = "statistics have to be collected to be tried"
        return f"{reason}: {building}" if building else reason
    if not relation.has_statistics:
        return (
            "the table has no statistics yet, and a trial that is rolled back would leave it "
            "marked as analysed; run it, and look again"
        )
    return ""


def _tried(case: Case, wrong: _Wrong, fresh: whatif.FreshStatistics) -> Advised:
    """Return the advice that brings the estimate near, ANALYZE alone before more statistics."""
    relation, terms = wrong.relation, wrong.conditions.terms
    fresh.collect(relation)
    verdict = _verdict(case, wrong, fresh)
    if verdict.status is VerdictStatus.VERIFIED:
        return Advised((analyse(relation, verdict),))
    if not wrong.conditions.may_go_together:
        return Advised((analyse(relation, verdict),), remark=_remark(wrong))
    fresh.collect(relation, create_statistics(relation, terms))
    verdict = _verdict(case, wrong, fresh)
    return Advised((extended(relation, terms, verdict),))


def _verdict(case: Case, wrong: _Wrong, fresh: whatif.FreshStatistics) -> Verdict:
    """Return whether the planner now expects the rows that came."""
    try:
        after = fresh.explain(case.query)
        rows = _rows(case, wrong, fresh, after)
    except ServerError as error:
        if error.reason in NO_SERVER:
            raise
        raise whatif.Untestable("the conditions of the step could not be planned alone") from error
    if rows is None:
        return Verdict(
            VerdictStatus.UNTESTED,
            "with new statistics the planner goes another way, on which this step cannot be seen",
            method=whatif.BUILD,
        )
    estimate = f"estimate {wrong.expected:,.0f} -> {rows:,.0f}, actual {wrong.actual:,.0f}"
    if not wrong.is_right(rows):
        return Verdict(
            VerdictStatus.REJECTED, f"{estimate}: still wrong by far", method=whatif.BUILD
        )
    return Verdict(
        VerdictStatus.VERIFIED,
        "with new statistics the planner expects the rows that there are",
        method=whatif.BUILD,
        proof=(estimate, *_other_way(case.plan, after)),
    )


def _rows(case: Case, wrong: _Wrong, fresh: whatif.FreshStatistics, after: Plan) -> float | None:
    """Return how many rows the planner expects now, None if that cannot be seen."""
    if not wrong.conditions.later:
        return fresh.explain(wrong.alone()).root.rows
    for scan in after.scans:
        if scan.alias == wrong.scan.alias:
            found = conditions_of(scan, wrong.relation, case.varying).texts
            return scan.rows if set(found) == set(wrong.conditions.texts) else None
    return None


def _other_way(before: Plan, after: Plan) -> list[str]:
    """Return how the plan joins now, a line, if it does so in another way."""
    was, now = ([node.type for node in plan.nodes if _joins(node)] for plan in (before, after))
    return [f"{' and '.join(was)} became {' and '.join(now)}"] if was != now and was and now else []


def _joins(node: Node) -> bool:
    return node.join_type is not None

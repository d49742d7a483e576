"""Better estimates of rows: ANALYZE, or statistics of several columns together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..failure import ServerError
from ..finding import Advice, AdviceKind, Verdict, VerdictStatus
from ..indexes.candidate import index_name, quote
from ..indexes.render import alembic_execute
from ..indexes.verdict import Advised, Answer
from ..plan.comparison import plain_column
from ..plan.estimates import MIN_MISESTIMATE, Estimates
from ..plan.evidence import Hit
from ..plan.predicate import Conjunct, conjuncts, waits_for_a_value
from ..plan.schema import Relation, Structural
from ..plan.scrub import structural
from ..plan.tree import Node, Plan
from ..plan.wording import Template, say
from ..server import enabling, whatif
from ..server.builds import FreshStatistics, on_statistics
from ..server.explain import Query, qualified, quoted
from ..server.transaction import NO_SERVER
from ..settings import VERIFY_IS_OFF, VERIFY_OFF
from . import foreign_key, recursion
from .case import Case
from .estimate import ESTIMATE, STILL_WRONG, other_joins
from .trial import why_untested

_WRITTEN = (
    "[Rows written since the last ANALYZE: about {changed:number}. ]Autovacuum runs ANALYZE by "
    "itself once a tenth of the rows has changed (autovacuum_analyze_scale_factor), which a large "
    "table reaches late: run it after a large import or deletion, or lower the share for this "
    "table with ALTER TABLE … SET (autovacuum_analyze_scale_factor = …)."
)
_NO_STATISTICS = "PostgreSQL has no statistics of the table, so it can only guess."
_HIDDEN = (
    "PlanWatch's role cannot see whether the table has statistics, and the server has no record of "
    "an ANALYZE of it."
)

_KEPT = "ANALYZE then also keeps statistics of {terms}, which takes it a little longer."
_TOGETHER = Template("these columns together")
_EXPRESSION = Template("this expression")

#: Why nothing can be done about the statistics.
_LATER = (
    "What {terms:and} must match is known only while the statement runs, so PostgreSQL assumes an "
    "average value; this one is not average. No statistics help here: look the value up first, and "
    "pass it as a parameter."
)
_NO_TABLE = (
    "PostgreSQL estimates that from the statistics of each table and keeps none across tables: "
    "only another way to write the statement helps."
)
_NOTHING_MORE = (
    "Hardly anything was written since the last ANALYZE: a larger sample, by ALTER TABLE … ALTER "
    "COLUMN … SET STATISTICS, may cover rare values."
)
_FOR_ONE_VALUE = (
    "It compares an expression that holds a value, so statistics of it would serve only that "
    "value: compare the columns in another way, or store the expression in a column."
)

#: What to do instead, in a few words.
_LOOK_UP_FIRST = "look up what {terms:and} must match first, and pass it as a parameter"
_REWRITE = "put the rows of {node} into a temporary table, and ANALYZE it"
_LARGER_SAMPLE = (
    "raise the statistics target of the columns it tests (SET STATISTICS), then ANALYZE"
)
_NO_VALUE = "compare the columns in another way, or store the expression in a column"

#: Why no statistics were tried.
_NOT_BUILT = "statistics have to be collected to be tried[: {building}]"
_MARKED = (
    "the table has no statistics yet, and even a rolled-back ANALYZE would mark it as analysed; "
    "run ANALYZE, then run the statement again"
)
_MAY_BE_MARKED = (
    "PlanWatch's role cannot see whether the table has statistics, and even a rolled-back ANALYZE "
    "could mark it as analysed; run ANALYZE, then run the statement again"
)
_NOT_ALONE = "the conditions of the step could not be planned alone"

_OTHER_PLAN = "with new statistics the planner chooses another plan, which does not have this step"
_RIGHT = "with new statistics the estimate is close to the actual number of rows"

#: Columns and expressions that CREATE STATISTICS takes (STATS_MAX_DIMENSIONS).
MAX_TERMS = 8


@dataclass(frozen=True)
class Conditions:
    """What a scan tests on the rows of its relation.

    `texts` are the conditions as printed. `terms` are the columns and expressions in them, as SQL
    for CREATE STATISTICS. `later` tells that a value is known only while the statement runs,
    `holds_value` that an expression which is none of the terms holds one.
    """

    texts: tuple[str, ...]
    terms: tuple[Structural, ...]
    later: bool
    holds_value: bool = False

    @property
    def may_go_together(self) -> bool:
        """Whether statistics that ANALYZE does not collect by itself would tell more of them."""
        known = not self.later and not self.holds_value
        return known and (len(self.terms) > 1 or any(term[:1] == "(" for term in self.terms))


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
        return max(rows / actual, actual / rows) < MIN_MISESTIMATE

    def alone(self) -> Query:
        """Return a query that finds nothing but these rows, for its plan."""
        table = f"ONLY {qualified(self.scan.schema, self.scan.relation)}"
        where = " AND ".join(f"({text})" for text in self.conditions.texts)
        sql = f"SELECT 1 FROM {table} AS {quoted(self.scan.alias)} WHERE {where}"
        return Query(sql, None, escaped=False)

    @property
    def remark(self) -> str:
        """Why nothing can be done about the statistics."""
        if self.conditions.later:
            return say(_LATER, terms=self.conditions.terms or ["it"])
        return _FOR_ONE_VALUE if self.conditions.holds_value else _NOTHING_MORE

    @property
    def hint(self) -> str:
        """What to do instead."""
        if self.conditions.later:
            return say(_LOOK_UP_FIRST, terms=self.conditions.terms or ["it"])
        return _NO_VALUE if self.conditions.holds_value else _LARGER_SAMPLE


def advise(case: Case, hit: Hit) -> Answer:
    """Return what would make the planner expect the rows that came.

    Raises ServerError if the connection fails.
    """
    wrong, analysed = _wrong(case, hit), case.evidence.analysed
    union = recursion.union_above(analysed, hit.suspicion.node) if analysed else None
    if analysed and union and (wrong is None or wrong.conditions.later):
        return recursion.advise(case, analysed, union)
    if wrong is None:
        node = hit.suspicion.node
        rewrite = say(_REWRITE, node=node.title if node is not None else hit.suspicion.subject)
        return _of_join(case, hit) or Advised((), remark=_NO_TABLE, hint=rewrite)
    reason, blocked = _no_trial(case, wrong.relation), False
    fit = wrong.stale or wrong.conditions.may_go_together
    # Another trial that was rolled back may have reset the count of what was written since.
    if not fit and (reason or wrong.conditions.later):
        return Advised((), remark=wrong.remark, hint=wrong.hint)
    if not reason:
        try:
            with on_statistics(case.session) as fresh:
                return _tried(case, wrong, fresh)
        except (whatif.Untestable, whatif.Blocked) as error:
            reason, blocked = why_untested(error)
    verdict = Verdict(VerdictStatus.UNTESTED, reason)
    terms = () if wrong.stale else wrong.conditions.terms
    return Advised((_analyse(wrong.relation, verdict, terms),), blocked=blocked)


def _of_join(case: Case, hit: Hit) -> Advised | None:
    """Return what corrects the estimate of a join, None if the hit is about another step."""
    plan, node = case.evidence.analysed, hit.suspicion.node
    if plan is None or node is None or node.join_type is None:
        return None
    return foreign_key.advise(case, plan, node)


def _wrong(case: Case, hit: Hit) -> _Wrong | None:
    """Return the scan that a hit is about, None if it is about another step."""
    plan, node = case.evidence.analysed, hit.suspicion.node
    relation = case.schema.get(node.qualified_relation) if node is not None else None
    if plan is None or node is None or relation is None or not relation.indexable:
        return None
    estimates, conditions = Estimates(plan), conditions_of(node, relation, case.varying)
    runs = estimates.runs(node)
    expected, actual = estimates.expected(node) / runs, estimates.actual(node) / runs
    return _Wrong(node, relation, conditions, expected, actual)


def _no_trial(case: Case, relation: Relation) -> str:
    """Return why statistics cannot be tried, and how they could, or nothing."""
    if case.verify == VERIFY_OFF:
        return VERIFY_IS_OFF
    if not case.builds:
        with case.session.transaction() as transaction:
            options = enabling.options(transaction, [relation])
        return say(_NOT_BUILT, building=options and options.building)
    if relation.has_statistics:
        return ""
    return _MARKED if relation.lacks_statistics else _MAY_BE_MARKED


def _tried(case: Case, wrong: _Wrong, fresh: FreshStatistics) -> Advised:
    """Return the advice that corrects the estimate: ANALYZE alone, or else with statistics."""
    relation, terms = wrong.relation, wrong.conditions.terms
    fresh.collect(relation)
    verdict = _verdict(case, wrong, fresh)
    if verdict.status is VerdictStatus.VERIFIED:
        return Advised((_analyse(relation, verdict),))
    if not wrong.conditions.may_go_together:
        return Advised((_analyse(relation, verdict),), remark=wrong.remark)
    fresh.collect(relation, create_statistics(relation, terms))
    return Advised((_analyse(relation, _verdict(case, wrong, fresh), terms),))


def _verdict(case: Case, wrong: _Wrong, fresh: FreshStatistics) -> Verdict:
    """Return whether the planner now expects the rows that came."""
    try:
        after = fresh.explain(case.query)
        rows = _rows(case, wrong, fresh, after)
    except ServerError as error:
        if error.reason in NO_SERVER:
            raise
        raise whatif.Untestable(_NOT_ALONE) from error
    if rows is None:
        return Verdict(VerdictStatus.UNTESTED, _OTHER_PLAN, method=whatif.BUILD)
    estimates = {"before": wrong.expected, "after": rows, "actual": wrong.actual}
    if not wrong.is_right(rows):
        reason = say(STILL_WRONG, **estimates)
        return Verdict(VerdictStatus.REJECTED, reason, method=whatif.BUILD)
    proof = (say(ESTIMATE, **estimates), *other_joins(case.plan, after))
    return Verdict(VerdictStatus.VERIFIED, _RIGHT, method=whatif.BUILD, proof=proof)


def _rows(case: Case, wrong: _Wrong, fresh: FreshStatistics, after: Plan) -> float | None:
    """Return how many rows the planner expects now, None if that cannot be seen."""
    if not wrong.conditions.later:
        return fresh.explain(wrong.alone()).root.rows
    for scan in after.scans:
        if scan.alias == wrong.scan.alias:
            found = conditions_of(scan, wrong.relation, case.varying).texts
            return scan.rows if set(found) == set(wrong.conditions.texts) else None
    return None


def conditions_of(scan: Node, relation: Relation, varying: frozenset[str]) -> Conditions:
    """Return what a scan tests, in its index or on each row; for `varying` see scrub_plan."""
    parts = {part.text: part for _, condition in scan.conditions for part in conjuncts(condition)}
    sides = [side for part in parts.values() for side in (part.left, part.right)]
    aliases = {alias for side in sides for alias in side.aliases}
    later = any(map(waits_for_a_value, parts)) or aliases != {scan.alias}
    found = dict.fromkeys(
        term for part in parts.values() for term in _terms(part, scan, relation, varying)
    )
    terms = tuple(term for term in found if term is not None)[:MAX_TERMS]
    return Conditions(tuple(parts), terms, later, holds_value=None in found)


def _terms(
    part: Conjunct, scan: Node, relation: Relation, varying: frozenset[str]
) -> Iterator[Structural | None]:
    """Yield the columns and expressions of the scan that a condition is about, as SQL.

    None stands for an expression that holds a value.
    """
    for side in (part.left, part.right):
        if side.aliases != {scan.alias}:
            continue
        name = plain_column(side, relation)
        if name is not None or not (side.columns and part.operator):
            names = side.column_names if name is None else [name]
            yield from map(relation.quoted_column, names)
        else:
            term = structural(side.without_alias(), varying)
            yield None if term is None else Structural(f"({term})")


def _analyse(relation: Relation, verdict: Verdict, terms: Sequence[Structural] = ()) -> Advice:
    """Return the advice to ANALYZE a table, with statistics of these terms if there are any."""
    ddl: tuple[str, ...] = (f"ANALYZE {relation.display}",)
    known = _WRITTEN if relation.has_statistics else _HIDDEN
    reason = _NO_STATISTICS if relation.lacks_statistics else known
    explanation = say(reason, changed=relation.activity.changed or None)
    if terms:
        ddl = (create_statistics(relation, terms), *ddl)
        explanation = say(_KEPT, terms=_TOGETHER if len(terms) > 1 else _EXPRESSION)
    return Advice(
        AdviceKind.ANALYZE,
        "; ".join(ddl),
        verdict,
        ddl=ddl,
        alembic=alembic_execute(ddl),
        explanation=explanation,
    )


def create_statistics(relation: Relation, terms: Sequence[Structural]) -> str:
    """Return the statement that has ANALYZE collect statistics of these columns and expressions."""
    words = ", ".join(term.removeprefix("(").removesuffix(")") for term in terms)
    name = index_name(relation, words, frozenset()).replace("ix_", "st_", 1)
    # Of a single expression ANALYZE keeps what it keeps of a column.
    kinds = "(dependencies, mcv) " if len(terms) > 1 else ""
    return (
        f"CREATE STATISTICS {relation.schema_prefix}{quote(name)} {kinds}ON {', '.join(terms)} "
        f"FROM {relation.display}"
    )

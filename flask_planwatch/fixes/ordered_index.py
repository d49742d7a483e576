"""An index that finds the rows of a LIMIT in their order, or a range in place of the LIMIT."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sqlglot.errors import SqlglotError
from sqlglot.tokens import TokenType

from ..finding import Advice, Verdict, VerdictStatus
from ..indexes.candidate import Candidate, column_of, mentions
from ..indexes.search import Attempt
from ..indexes.shapes import Shape
from ..indexes.verdict import Advised, Answer
from ..plan.access import ONE_VALUE, RANGES
from ..plan.comparison import Comparison, comparisons, key_of
from ..plan.evidence import Hit
from ..plan.index_only import conjunction
from ..plan.moment import MOMENTS
from ..plan.ordered_scan import OrderedScan
from ..plan.predicate import conjuncts, tokenize, waits_for_a_value
from ..plan.schema import INTEGERS, Column
from ..plan.scrub import mask, scrub_plan
from ..plan.tree import Node, Plan
from ..plan.wording import say
from ..rules.limit_trap import ordered_scan_of
from ..server.explain import quoted
from .case import Case
from .drafts import Drafts
from .form import Form, attribute_of
from .trial import Proof, try_index

_FILTER_OF_INDEX = "the Filter is gone: its condition is that of the index"
_FILTER_ANSWERED = "the Filter on {tested:and} became an Index Cond"
_IN_ORDER = "the rows come from the index in the order of {order:list}, without a Sort"

_RANGE = Form(
    "ask for a bounded range in place of LIMIT: {column} >= start AND {column} < end, and go on "
    "from end; a batch may be short or empty, but it reads no more than its range",
    "The scan then ends at the end of its range, whether it has found rows or not. Keyset "
    "pagination alone (the last key of the page before in place of OFFSET) does not help: it "
    "bounds where the scan begins, not where it ends.",
    "# in place of .limit(…); the next batch starts at start + {step}, until the largest {column} "
    "is passed\n"
    ".where({attribute} >= start, {attribute} < start + {step}).order_by({attribute})",
)
_NOT_DERIVED = "PlanWatch could not derive the statement with a range, so it was not planned"
_NOT_USED = "on a range of unknown width the planner does not use an index on {column}"
_ONLY_RANGE = "the planner reads only the range"
_BOTH_ENDS = "both ends of the range on {column} are an Index Cond, and there is no LIMIT"

#: What a statement may not have after WHERE for its range to be written into it.
_CLAUSES = (
    *(TokenType.GROUP_BY, TokenType.HAVING, TokenType.WINDOW, TokenType.FOR, TokenType.FETCH),
    *(TokenType.UNION, TokenType.EXCEPT, TokenType.INTERSECT, TokenType.WITH),
)


def advise(case: Case, hit: Hit) -> Answer:
    """Return the index that finds the rows in their order, or the statement over a bounded range.

    The range is advised where a join discards the rows, or the planner would not use the index.
    """
    ordered = ordered_scan_of(hit.suspicion, case.plan, case.schema)
    index = None if hit.suspicion.holds_value else _index(case, ordered)
    if index is not None:
        answer = try_index(case, hit, index, _proof(case, ordered, index))
        if isinstance(answer, Advised):
            return answer
    return Advised((_bounded_range(case, ordered),))


def _index(case: Case, ordered: OrderedScan) -> Candidate | None:
    """Return the index on what is compared and the order, None if none would help."""
    if ordered.join_drops or not ordered.index.plain:
        return None
    drafts, relation = Drafts(case), ordered.relation
    tested = [comparison for comparison in ordered.filtered if not comparison.other.columns]
    equal = [comparison for comparison in tested if comparison.operator in ONE_VALUE]
    texts = {key_of(comparison.operand, relation): None for comparison in (*ordered.equal, *equal)}
    keys = [drafts.key(relation, text) for text in texts | dict.fromkeys(ordered.order)]
    conditions = () if equal else _conditions(case, tested)
    if None in keys or not (equal or conditions):
        return None
    held = tuple(key for key in keys if key is not None)
    shape = Shape(held, predicate=conjunction(conditions), equal_keys=len(texts))
    return drafts.candidate(relation, shape)


def _conditions(case: Case, tested: list[Comparison]) -> tuple[str, ...]:
    """Return the predicates that a partial index can hold: those whose values stay the same."""
    found = [
        comparison.condition
        for comparison in tested
        if comparison.operator not in RANGES and not waits_for_a_value(comparison.condition)
    ]
    return tuple(text for text in dict.fromkeys(found) if mask(text) not in case.varying)


def _proof(case: Case, ordered: OrderedScan, index: Candidate) -> Proof:
    """Return what proves that the index leaves out what was discarded, and has the order."""
    aliases = {scan.alias for scan in ordered.scans}
    wanted = {
        key_of(comparison.operand, ordered.relation)
        for comparison in ordered.filtered
        if comparison.operator in ONE_VALUE
    }

    def proof(before: Plan, attempt: Attempt) -> tuple[str, ...]:
        scans = [scan for scan in attempt.plan.scans if scan.alias in aliases]
        if not scans or any(scan.index not in attempt.names for scan in scans):
            return ()
        if any(node.type == "Sort" for node in attempt.plan.nodes):
            return ()
        compared = comparisons(attempt.plan, case.schema)
        tested = [comparison for comparison in compared if comparison.scan in scans]
        answered = {
            key_of(comparison.operand, ordered.relation)
            for comparison in tested
            if comparison.answered
        }
        left = {comparison.condition for comparison in tested if comparison.kind == "Filter"}
        if index.predicate:
            if any(mentions(index.predicate, condition) for condition in left):
                return ()
            became = _FILTER_OF_INDEX
        elif wanted <= answered:
            became = say(_FILTER_ANSWERED, tested=list(map(case.shown, sorted(wanted))))
        else:
            return ()
        return became, say(_IN_ORDER, order=list(map(case.shown, ordered.order)))

    return proof


def _bounded_range(case: Case, ordered: OrderedScan) -> Advice:
    """Return the advice to ask for a range of the order in place of a LIMIT."""
    relation, first = ordered.relation, case.shown(ordered.order[0])
    column = column_of(relation, ordered.order[0])
    attribute, step, plan = str(first), "…", None
    if column is not None:
        attribute = attribute_of(column.name, relation.name, case.mapped(relation))
        step, plan = _step(column, ordered), _plan_of_range(case, ordered, column)
    verdict = _verdict(ordered, plan, first)
    advice = _RANGE.advice(verdict, column=first, attribute=attribute, step=step)
    return replace(advice, plan=scrub_plan(plan, case.varying).as_text()) if plan else advice


def _step(column: Column, ordered: OrderedScan) -> str:
    if column.base_type in INTEGERS:
        return f"{max(ordered.limit.rows, 1):.0f}"
    return "timedelta(days=1)" if column.base_type in MOMENTS else "…"


def _verdict(ordered: OrderedScan, plan: Plan | None, first: str) -> Verdict:
    """Return what the plan over a range shows: that the scan ends with it."""
    if plan is None:
        return Verdict(VerdictStatus.UNTESTED, _NOT_DERIVED)
    aliases = {scan.alias for scan in ordered.scans}
    scans = [scan for scan in plan.scans if scan.alias in aliases]
    if not scans or not all({"<", ">="} <= set(_bounds(scan)) for scan in scans):
        return Verdict(VerdictStatus.UNTESTED, say(_NOT_USED, column=first))
    return Verdict(VerdictStatus.VERIFIED, _ONLY_RANGE, proof=(say(_BOTH_ENDS, column=first),))


def _bounds(scan: Node) -> Iterator[str]:
    """Yield the operators of the first Index Cond by which a scan finds its rows."""
    found = (node.condition("Index Cond") for node in scan.walk())
    return (part.operator for part in conjuncts(next(filter(None, found), "")))


def _plan_of_range(case: Case, ordered: OrderedScan, column: Column) -> Plan | None:
    """Return the plan of the statement over a range, None if that cannot be derived from its text.

    The ends of the range are sub-queries, so that the plan is that for any range.
    """
    if column.base_type not in INTEGERS or len(ordered.scans) != 1:
        return None
    name = f"{quoted(ordered.scans[0].alias)}.{column.quoted_name}"
    condition = f"{name} >= (SELECT 0) AND {name} < (SELECT {max(ordered.limit.rows, 1):.0f})"
    text = over_range(case.query.text, condition)
    return None if text is None else case.plan_of(text)


def over_range(text: str, condition: str) -> str | None:
    """Return a SELECT with a further condition in place of its LIMIT, None if that is not simple.

    Its placeholders stay as they are.
    """
    try:
        reading = tokenize(text)
    except SqlglotError:
        return None
    limits = reading.at_top_level(TokenType.LIMIT)
    orders = reading.at_top_level(TokenType.ORDER_BY)
    wheres = reading.at_top_level(TokenType.WHERE)
    if any(map(reading.at_top_level, _CLAUSES)) or len(wheres) > 1:
        return None
    if len(limits) != 1 or len(orders) != 1 or orders[0].start > limits[0].start:
        return None
    before, order = text[: orders[0].start], text[orders[0].start : limits[0].start]
    if not wheres:
        return f"{before} WHERE {condition} {order}"
    end = wheres[0].end + 1
    return f"{before[:end]} ({before[end:]}) AND {condition} {order}"

"""An index that finds the rows of a LIMIT in their order, or a range in place of the LIMIT."""

from __future__ import annotations

from sqlglot.errors import SqlglotError
from sqlglot.tokens import TokenType

from ..advice.candidates import Shape
from ..advice.index import Candidate, Key, column_key, mentions
from ..advice.rewrite import attribute_of, is_refused
from ..advice.search import Attempt
from ..advice.verdict import Advised, Answer
from ..drafting import Drafts
from ..finding import Advice, AdviceKind, Verdict, VerdictStatus
from ..plan.access import RANGES
from ..plan.comparison import Comparison, comparisons, key_of
from ..plan.coverage import conjunction
from ..plan.evidence import Hit
from ..plan.predicate import conjuncts, tokenize, waits_for_a_value
from ..plan.schema import Column
from ..plan.scrub import mask, scrub_plan
from ..plan.tree import Plan
from ..plan.walk import Walk
from ..rules.limit_trap import walk_of
from ..server.explain import Query, explain, quoted
from ..server.transaction import NO_SERVER, ServerError
from .case import Case
from .trial import Proof, try_index

#: Comparisons that leave the rows in the order of the index's next key.
_ONE_VALUE = frozenset({"=", "IS NULL"})

_NUMBERS = frozenset({"smallint", "integer", "bigint"})
_MOMENTS = ("timestamp", "date")

#: What a statement may not have after WHERE for its range to be written into it.
_CLAUSES = (TokenType.GROUP_BY, TokenType.HAVING, TokenType.WINDOW, TokenType.FOR, TokenType.FETCH)
_SETS = (TokenType.UNION, TokenType.EXCEPT, TokenType.INTERSECT, TokenType.WITH)


def advise(case: Case, hit: Hit) -> Answer:
    """Return the index that finds the rows in their order, or the statement over a bounded range.

    The range is advised where a join throws the rows away, or the planner would not use the index.
    """
    walk = walk_of(hit.suspicion, case.plan, case.schema)
    index = None if hit.suspicion.holds_value else _index(case, walk)
    if index is not None:
        answer = try_index(case, index, _proof(case, walk, index))
        if isinstance(answer, Advised):
            return answer
    return Advised((_bounded_range(case, walk),))


def _index(case: Case, walk: Walk) -> Candidate | None:
    """Return the index on what is compared and the order, None if none would help."""
    if walk.join_drops or not walk.index.plain:
        return None
    drafts = Drafts(case.session, case.schema, case.mapped)
    tested = [one for one in walk.filtered if not one.other.columns]
    equal = [one for one in tested if one.operator in _ONE_VALUE]
    texts = [key_of(one.operand, walk.relation) for one in (*walk.equal, *equal)]
    keys = [_key(case, drafts, walk, text) for text in dict.fromkeys((*texts, *walk.order))]
    conditions = () if equal else _conditions(case, tested)
    if None in keys or not (equal or conditions):
        return None
    shape = Shape(tuple(key for key in keys if key is not None), predicate=conjunction(conditions))
    return drafts.candidate(walk.relation, shape)


def _key(case: Case, drafts: Drafts, walk: Walk, text: str) -> Key | None:
    """Return a key as the server spells it, None if it holds a value or cannot be indexed."""
    for column in walk.relation.columns:
        if column.quoted_name == text:
            return column_key(walk.relation, column.name)
    key = case.structural(text)
    if key is None or is_refused(drafts.describe(walk.relation, text)):
        return None
    return Key(drafts.spelled(walk.relation, key))


def _conditions(case: Case, tested: list[Comparison]) -> tuple[str, ...]:
    """Return the predicates that a partial index can hold: those whose values stay the same."""
    found = [
        one.condition
        for one in tested
        if one.operator not in RANGES and not waits_for_a_value(one.condition)
    ]
    return tuple(text for text in dict.fromkeys(found) if mask(text) not in case.varying)


def _proof(case: Case, walk: Walk, index: Candidate) -> Proof:
    """Return what proves that the index leaves out what was thrown away, and has the order."""
    aliases = {scan.alias for scan in walk.scans}
    wanted = {
        key_of(one.operand, walk.relation) for one in walk.filtered if one.operator in _ONE_VALUE
    }

    def proof(before: Plan, attempt: Attempt) -> tuple[str, ...]:
        scans = [scan for scan in attempt.plan.scans if scan.alias in aliases]
        if not scans or any(scan.index not in attempt.names for scan in scans):
            return ()
        if any(node.type == "Sort" for node in attempt.plan.nodes):
            return ()
        tested = [one for one in comparisons(attempt.plan, case.schema) if one.scan in scans]
        answered = {key_of(one.operand, walk.relation) for one in tested if one.answered}
        filtered = {one.condition for one in tested if one.kind == "Filter"}
        if index.predicate:
            if any(mentions(index.predicate, condition) for condition in filtered):
                return ()
            became = "the Filter is gone: its condition is that of the index"
        elif wanted <= answered:
            tested_before = " and ".join(map(case.shown, sorted(wanted)))
            became = f"the Filter on {tested_before} became an Index Cond"
        else:
            return ()
        order = ", ".join(map(case.shown, walk.order))
        return (became, f"the rows come from the index in the order of {order}, without a Sort")

    return proof


def _bounded_range(case: Case, walk: Walk) -> Advice:
    """Return the advice to ask for a range of the order in place of a LIMIT."""
    relation, mapped = walk.relation, case.mapped(walk.relation)
    column = next((one for one in relation.columns if one.quoted_name == walk.order[0]), None)
    first = case.shown(walk.order[0])
    attribute, step = str(first), "…"
    if column is not None:
        attribute, step = attribute_of(column.name, relation.name, mapped), _step(column, walk)
    code = (
        f"# in place of .limit(…); the next batch starts at start + {step}, until the largest "
        f"{first} is passed\n"
        f".where({attribute} >= start, {attribute} < start + {step}).order_by({attribute})"
    )
    plan = None if column is None else _plan_of_range(case, walk, column)
    return Advice(
        kind=AdviceKind.REWRITE,
        summary=f"ask for a bounded range in place of LIMIT: {first} >= start AND {first} < end, "
        "and go on from end; a batch may be short or empty, but it reads no more than its range",
        verdict=_verdict(walk, plan, first),
        sqlalchemy=code,
        explanation="The walk then ends at the end of its range, whether it has found rows or "
        "not. Keyset pagination alone (the last key of the page before in place of OFFSET) does "
        "not help: it bounds where the walk begins, not where it ends.",
        plan="" if plan is None else scrub_plan(plan, case.varying).as_text(),
    )


def _step(column: Column, walk: Walk) -> str:
    if column.base_type in _NUMBERS:
        return f"{max(walk.limit.rows, 1):.0f}"
    return "timedelta(days=1)" if column.base_type.startswith(_MOMENTS) else "…"


def _verdict(walk: Walk, plan: Plan | None, first: str) -> Verdict:
    """Return what the plan over a range shows: that the walk ends with it, and nothing is left."""
    if plan is None:
        return Verdict(
            VerdictStatus.UNTESTED,
            "the statement over a range could not be derived from its text, so that the planner "
            "was not asked",
        )
    aliases = {scan.alias for scan in walk.scans}
    scans = [scan for scan in plan.scans if scan.alias in aliases]
    bounded = bool(scans) and all(
        {"<", ">="} <= {one.operator for one in conjuncts(_index_condition(plan, scan.alias))}
        for scan in scans
    )
    if not bounded:
        return Verdict(
            VerdictStatus.UNTESTED,
            f"on a range of unknown width the planner does not use an index on {first}",
        )
    return Verdict(
        VerdictStatus.VERIFIED,
        "the planner reads only the range",
        proof=(f"both ends of the range on {first} are an Index Cond, and there is no LIMIT",),
    )


def _index_condition(plan: Plan, alias: str | None) -> str:
    """Return the Index Cond by which a scan finds its rows, or nothing."""
    scan = next(one for one in plan.scans if one.alias == alias)
    found = [node.condition("Index Cond") for node in scan.walk()]
    return next((text for text in found if text), "")


def _plan_of_range(case: Case, walk: Walk, column: Column) -> Plan | None:
    """Return the plan of the statement over a range, None if its text does not lend itself to it.

    The ends of the range are sub-queries, so that the plan is that for any range.
    """
    if column.base_type not in _NUMBERS or len(walk.scans) != 1:
        return None
    name = f"{quoted(walk.scans[0].alias)}.{column.quoted_name}"
    condition = f"{name} >= (SELECT 0) AND {name} < (SELECT {max(walk.limit.rows, 1):.0f})"
    text = over_range(case.query.text, condition)
    if text is None:
        return None
    try:
        query = Query(text, case.query.parameters, case.query.escaped)
        return explain(case.session, query)
    except ServerError as error:
        if error.reason in NO_SERVER:
            raise
        return None


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
    others = [token for kind in (*_CLAUSES, *_SETS) for token in reading.at_top_level(kind)]
    if others or len(limits) != 1 or len(orders) != 1 or len(wheres) > 1:
        return None
    if orders[0].start > limits[0].start:
        return None
    order = text[orders[0].start : limits[0].start]
    if not wheres:
        return f"{text[: orders[0].start]} WHERE {condition} {order}"
    before, tested = text[: wheres[0].end + 1], text[wheres[0].end + 1 : orders[0].start]
    return f"{before} ({tested}) AND {condition} {order}"

"""Advice on a condition that no code has: the policy of a table with row-level security adds it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from ..finding import Advice, AdviceKind, Verdict, VerdictStatus
from ..indexes.candidate import column_key
from ..indexes.proposal import is_covered
from ..indexes.render import alembic_execute
from ..indexes.shapes import Shape
from ..indexes.verdict import Advised, Answer, Declined
from ..plan.comparison import Comparison
from ..plan.evidence import Hit
from ..plan.index_use import indexed_in
from ..plan.predicate import Conjunct, bare, conjuncts, waits_for_a_value
from ..plan.schema import TEXT_TYPES, Relation, Structural, base_type
from ..plan.wording import say, sentences
from ..rules.worth import indexes_on
from ..server.expressions import leaking_part
from ..settings import VERIFY_IS_OFF, VERIFY_OFF
from .alone import not_shown, plan_alone
from .case import Case
from .drafts import Drafts
from .form import Form

_POLICIES = """
SELECT quote_ident(p.polname), pg_get_expr(p.polqual, p.polrelid)
FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s AND row_security_active(c.oid) AND p.polqual IS NOT NULL
ORDER BY p.polname
"""

_COMES_FROM = (
    "The condition comes from the policy {policy} of {table}, which PostgreSQL adds to each "
    "statement on it; the code of the application does not have it."
)
_IN_POLICY = "in the policy {policy} of {table}: {summary}"

#: The other side of a comparison is cast in place of the column.
_OTHER_SIDE = Form(
    "in the policy {policy} of {table}, compare {column} as {type}: {condition}",
    "Each statement on {table} then finds its rows by {column}. The cast raises an error where the "
    "other side is not a valid {type}, and treats different spellings of a value as equal.",
)
_USED = "for this condition alone, with sequential scans off, the planner used an index on {column}"
_REFUSED = "the server could not plan the condition as PlanWatch derived it"
_BECAME = "{expression} was computed row by row, and {column} alone is an index condition"

_REWRITTEN_ONLY = "an index can answer only the changed policy"
_LEAKS = (
    "PostgreSQL tests the policies of {table} first, and {part} is not LEAKPROOF, so no index "
    "answers {expression}"
)
_INDEX_THE_POLICY = "look whether an index finds the rows that the policies of {table} let pass"


class Policy(NamedTuple):
    """A policy of a table, with its USING as PostgreSQL prints it."""

    name: str
    using: str


class _Found(NamedTuple):
    """A policy, and which of its conditions a comparison of the plan is."""

    policy: Policy
    condition: Conjunct


def behind_policies(case: Case, hits: Sequence[Hit]) -> dict[int, Answer]:
    """Return the answers to hits that no index can answer because of policies, by their id().

    What is not LEAKPROOF is tested on the rows that the policies let pass. Raises ServerError if
    the connection fails.
    """
    parts = {id(hit): _leaking_part(case, hit) for hit in hits}
    certain = (hit for hit in hits if hit.doubt is None and not parts[id(hit)])
    served = {hit.suspicion.relation.key for hit in certain}
    answers: dict[int, Answer] = {}
    for hit in hits:
        if not (part := parts[id(hit)]):
            continue
        said = {"table": hit.suspicion.relation.display, "expression": hit.suspicion.shown}
        reason = say(_LEAKS, part=part, **said)
        answers[id(hit)] = Declined(reason)
        if hit.reads_all and hit.suspicion.relation.key not in served:
            hint = say(_INDEX_THE_POLICY, **said)
            answers[id(hit)] = Advised((), remark=f"{reason}.", hint=hint)
    return answers


def _leaking_part(case: Case, hit: Hit) -> str:
    """Return what keeps an index from answering any of the comparisons, "" if nothing does."""
    relation, part = hit.suspicion.relation, ""
    policies = _policies(case, relation) if hit.suspicion.comparisons else []
    for test in hit.suspicion.comparisons if policies else ():
        own = _policy_of(policies, test) is None
        texts = (test.operand.without_alias(), test.operator, test.other.text)
        part = leaking_part(case.session, relation, *texts) if own else ""
        if not part:
            return ""
    return part


def in_policies(case: Case, hit: Hit, answer: Answer) -> Answer:
    """Return the answer to a hit in the words of the policy that the condition comes from.

    Raises ServerError if the connection fails.
    """
    suspicion = hit.suspicion
    if not isinstance(answer, Advised) or not suspicion.comparisons:
        return answer
    relation, comparison = suspicion.relation, suspicion.comparison
    found = _policy_of(_policies(case, relation), comparison)
    if found is None:
        return answer
    said = {"policy": found.policy.name, "table": relation.display}
    changed = _other_side(case, hit, found)
    comes_from = say(_COMES_FROM, **said)
    if changed is not None:
        # An index on the expression would not serve the changed policy.
        return Advised((changed, *_index_on_column(case, hit)), remark=comes_from)
    advice = tuple(_on_policy(advice, said) for advice in answer.advice)
    return replace(answer, advice=advice, remark=sentences(answer.remark, comes_from))


def _index_on_column(case: Case, hit: Hit) -> list[Advice]:
    """Return the index that the changed policy needs, nothing if there is one."""
    relation = hit.suspicion.relation
    key = column_key(relation, hit.suspicion.operand.column_names[0])
    index = Drafts(case).candidate(relation, Shape((key,)))
    verdict = Verdict(VerdictStatus.UNTESTED, _REWRITTEN_ONLY)
    return [] if is_covered(index) else [case.index_advice(index, verdict, None)]


def _policies(case: Case, relation: Relation) -> list[Policy]:
    """Return the policies of a table that apply to the role."""
    rows = case.session.fetch(_POLICIES, (relation.schema, relation.name))
    return [Policy(*row) for row in rows]


def _policy_of(policies: Iterable[Policy], comparison: Comparison) -> _Found | None:
    """Return the policy that a comparison comes from, None if it is the statement's own."""
    for policy in policies:
        for condition in conjuncts(policy.using):
            if _is_same(comparison.conjunct, condition):
                return _Found(policy, condition)
    return None


def _is_same(tested: Conjunct, written: Conjunct) -> bool:
    """Whether a plan tests a condition of a policy, which may ask a sub-query for its value."""
    if bare(tested.condition) == bare(written.text):
        return True
    left = bare(tested.left.without_alias()) == bare(written.left.text)
    same = left and tested.operator == written.operator != ""
    return same and waits_for_a_value(tested.right.text)


def _on_policy(advice: Advice, said: dict[str, str]) -> Advice:
    """Return advice that changes the code as advice that changes a policy."""
    if advice.kind is not AdviceKind.REWRITE:
        return advice
    summary = say(_IN_POLICY, summary=advice.summary, **said)
    return replace(advice, summary=summary, sqlalchemy="")


def _other_side(case: Case, hit: Hit, found: _Found) -> Advice | None:
    """Return the policy with the other side cast in place of a column, None if it has no cast.

    Only an equality is the same for a text and for the value that it stands for.
    """
    relation, comparison = hit.suspicion.relation, hit.suspicion.comparison
    cast = comparison.operand.cast_column
    column = relation.column(cast[0]) if cast is not None else None
    if cast is None or column is None or comparison.operator != "=":
        return None
    # A cast of anything else to a text is how policies are mostly written.
    if base_type(cast[1]) not in TEXT_TYPES or column.base_type in TEXT_TYPES:
        return None
    sides = (found.condition.left.text, found.condition.right.text)
    if bare(sides[0]) != bare(comparison.operand.without_alias()):
        return None
    condition = Structural(f"{column.quoted_name} = ({bare(sides[1])})::{column.base_type}")
    using = found.policy.using.replace(found.condition.text, condition, 1)
    ddl = f"ALTER POLICY {found.policy.name} ON {relation.display} USING ({bare(using)})"
    advice = _OTHER_SIDE.advice(
        _verdict(case, hit, condition, column.name),
        policy=found.policy.name,
        table=relation.display,
        column=column.quoted_name,
        type=column.base_type,
        condition=condition,
    )
    return replace(advice, ddl=(ddl,), alembic=alembic_execute((ddl,)))


def _verdict(case: Case, hit: Hit, condition: str, column: str) -> Verdict:
    """Return whether an index on the bare column finds the rows of the condition."""
    relation = hit.suspicion.relation
    said = {"column": column, "expression": hit.suspicion.shown}
    if case.verify == VERIFY_OFF:
        return Verdict(VerdictStatus.UNTESTED, VERIFY_IS_OFF)
    indexes = [index.name for index in indexes_on(relation, {column})]
    if not indexes:
        return not_shown(column, indexes)
    plan = plan_alone(case, hit, condition, seqscan=False)
    if plan is None:
        return Verdict(VerdictStatus.UNTESTED, _REFUSED)
    asked = replace(hit.suspicion, subject=column, keys=(relation.quoted_column(column),))
    if not indexed_in(plan, asked):
        return not_shown(column, indexes)
    return Verdict(VerdictStatus.VERIFIED, say(_USED, **said), proof=(say(_BECAME, **said),))

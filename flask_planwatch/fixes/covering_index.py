"""A partial index for an Index Only Scan, or a generated column in place of an expression."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace

from ..finding import Advice, Verdict, VerdictStatus
from ..indexes.candidate import column_key
from ..indexes.search import Attempt
from ..indexes.shapes import Shape
from ..indexes.verdict import Advised, Answer
from ..plan.comparison import plain_column
from ..plan.evidence import Hit
from ..plan.index_only import Coverage, conjunction
from ..plan.predicate import Operand
from ..plan.schema import Relation
from ..plan.scrub import mask
from ..plan.tree import Plan
from ..plan.wording import say
from ..rules.index_only_blocked import MIN_VISIBLE_SHARE, coverage_of
from .case import Case
from .drafts import Drafts
from .form import Form
from .trial import Proof, if_worth_it, try_index, untested
from .vacuum import vacuum

_NOT_READ = "{before} became {after}: the table itself is not read"
_NOT_COMPUTED = "{expression} is not computed: its condition is that of the index"

_GENERATED = Form(
    "index a generated column {column} with {expression}, and use that column",
    "An index on a plain column can be read alone whatever value is asked for. ALTER TABLE … ADD "
    "COLUMN … GENERATED ALWAYS AS (…) STORED writes the whole table anew and locks it meanwhile, "
    "and each row gets longer.",
    """\
from sqlalchemy import Computed

{definition}

# in the statement, {attribute} in place of {expression}""",
)
_HIDDEN = "what it saves shows once VACUUM has marked the pages"
_NOT_TRIED = "it changes the table and the statement, so PlanWatch cannot try it"


def advise(case: Case, hit: Hit) -> Answer:
    """Return the partial index with its verdict, and the generated column as second choice.

    VACUUM comes with it where few pages are all-visible. Declined if the planner would still read
    the table, or if that hardly costs anything.
    """
    coverage = coverage_of(hit.suspicion, case.plan, case.schema)
    drafts = Drafts(case)
    generated = _generated(case, hit, coverage, drafts)
    varies = any(mask(condition) in case.varying for condition in coverage.conditions)
    relation = coverage.access.relation
    hidden = hit.evidence["visible_share"] < MIN_VISIBLE_SHARE
    marking = (vacuum(case, relation),) if hidden else ()
    if coverage.elsewhere or varies:
        return Advised((generated, *marking))
    index = drafts.candidate(relation, shape(coverage))
    if hidden:
        untried = untested(case, index, Verdict(VerdictStatus.UNTESTED, _HIDDEN))
        return replace(untried, advice=(*untried.advice, *marking, generated))
    answer = try_index(case, hit, index, _proof(hit))
    if not case.plan.limits(hit.suspicion.scans):
        # The cost of a LIMIT is a guess of how much of the scan it leaves out.
        answer = if_worth_it(answer)
    if isinstance(answer, Advised):
        return replace(answer, advice=(*answer.advice, generated))
    return answer


def shape(coverage: Coverage) -> Shape:
    """Return the partial index: what is compared or sorted by first, and the rest included.

    The columns keep the order in which the index that there is has them.
    """
    access, relation = coverage.access, coverage.access.relation
    needed = [name for name in access.read or () if name not in coverage.blocking]
    equal = _names(relation, (*access.equal, *access.listed, *access.joined))
    ordered = (term.operand for term in access.sorted_by)
    ranged = (comparison.operand for comparison in access.ranged)
    sought = _names(relation, (*ranged, *ordered, *access.grouped_by, *access.extremes)) - equal
    order = [*coverage.index.keys, *coverage.index.included]
    needed.sort(key=lambda name: order.index(name) if name in order else len(order))
    compared = [name for name in needed if name in equal]
    keys = compared + [name for name in needed if name in sought]
    keys = keys or needed[:1] or [_key_of_rows(relation)]
    return Shape(
        tuple(column_key(relation, name) for name in keys),
        include=tuple(name for name in needed if name not in keys),
        predicate=conjunction(coverage.conditions),
        equal_keys=len(compared),
    )


def _names(relation: Relation, operands: Iterable[Operand]) -> set[str]:
    """Return the plain columns among what is compared or sorted by."""
    names = (plain_column(operand, relation) for operand in operands)
    return {name for name in names if name is not None}


def _key_of_rows(relation: Relation) -> str:
    """Return the column to index if the statement needs none: the first of a unique key."""
    keys = [index.keys[0] for index in relation.indexes if index.unique and index.keys]
    names = [column.name for column in relation.columns]
    return next((key for key in keys if key in names), names[0])


def _proof(hit: Hit) -> Proof:
    """Return what proves that the table is not read any more."""
    aliases = {scan.alias for scan in hit.suspicion.scans}

    def proof(before: Plan, attempt: Attempt) -> tuple[str, ...]:
        scans = [scan for scan in attempt.plan.scans if scan.alias in aliases]
        if not scans or any(
            scan.type != "Index Only Scan" or scan.index not in attempt.names for scan in scans
        ):
            return ()
        was, now = hit.suspicion.scans[0], scans[0]
        now = replace(now, index=attempt.names[now.index or ""])
        return (
            say(_NOT_READ, before=was.title, after=now.title),
            say(_NOT_COMPUTED, expression=hit.suspicion.shown),
        )

    return proof


def _generated(case: Case, hit: Hit, coverage: Coverage, drafts: Drafts) -> Advice:
    """Return the advice to store the expression in a column of its own, for the index to hold."""
    relation, mapped = coverage.access.relation, case.mapped(coverage.access.relation)
    text = coverage.expressions[0]
    structure = not hit.suspicion.holds_value and mask(text) not in case.varying
    expression = mask(drafts.describe(relation, text).text, keep_names=structure)
    name = column_name(relation, expression)
    computed = f"Computed({json.dumps(expression, ensure_ascii=False)}, persisted=True)"
    if mapped is not None and mapped.attributes:
        definition = f"class {mapped.class_name}:\n    {name} = mapped_column(…, {computed})"
        attribute = f"{mapped.class_name}.{name}"
    else:
        definition = f'Column("{name}", …, {computed})'
        attribute = f"{relation.name}.c.{name}"
    return _GENERATED.advice(
        Verdict(VerdictStatus.UNTESTED, _NOT_TRIED),
        expression=expression,
        column=name,
        definition=definition,
        attribute=attribute,
    )


def column_name(relation: Relation, expression: str) -> str:
    """Return a free name for a generated column, made of the words of the expression."""
    words = re.findall(r"[^\W\d]\w*", re.sub(r"::[\w ]+", "", expression).lower())
    name = "_".join(dict.fromkeys(words)) or "computed"
    while relation.column(name) is not None:
        name += "_"
    return name

"""Another way to look for an element of an array: by an operator that an index can answer."""

from __future__ import annotations

from ..finding import Verdict, VerdictStatus
from ..indexes.candidate import Key
from ..plan.evidence import Hit
from .alone import NewForm, verdict_alone
from .case import Case
from .form import Form, attribute_of
from .rewrite import NO_INDEX_TO_TRY

_CONTAINS = Form(
    "say {key} @> ARRAY[[value]] instead of value = ANY ({key})[, in SQLAlchemy {code}]",
    "Both find the rows whose array holds the value, but an index can answer only @>. In "
    "SQLAlchemy, contains() is a method of the ARRAY in sqlalchemy.dialects.postgresql, not of the "
    "general ARRAY. The rewritten statement needs a GIN index on {key}.",
    "{code}",
)


def containment(case: Case, hit: Hit) -> NewForm:
    """Return the advice to say `tags @> ARRAY[value]` instead of `value = ANY (tags)`.

    It is verified if an index answers that already. Raises ServerError if the connection fails.
    """
    suspicion = hit.suspicion
    column = suspicion.comparison.column
    mapped = case.mapped(suspicion.relation)
    attribute = attribute_of(column or "", suspicion.relation.name, mapped)
    verdict, known, contains = None, suspicion.relation.column(column or ""), ""
    if known is not None:
        contains = f"{known.quoted_name} @> ARRAY[{suspicion.other.text}]"
        verdict = verdict_alone(case, hit, known, contains)
    if verdict is None or verdict.status is not VerdictStatus.VERIFIED:
        verdict = Verdict(VerdictStatus.NOT_APPLICABLE, NO_INDEX_TO_TRY)
    code = f".where({attribute}.contains([value]))" if column else ""
    # One whose key holds a value does not come here.
    key = Key(suspicion.shown_keys[0], column, suspicion.operator_class)
    advice = _CONTAINS.advice(verdict, key=key.expression, code=code)
    return NewForm(advice, contains, key)

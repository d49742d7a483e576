"""Another way to look for an element of an array: by an operator that an index can answer."""

from __future__ import annotations

from ..finding import Advice, Verdict, VerdictStatus
from ..indexes.mapped import MappedTable
from ..plan.evidence import Hit
from .form import Form, attribute_of
from .rewrite import NO_INDEX_TO_TRY

_CONTAINS = Form(
    "say {key} @> ARRAY[[value]] instead of value = ANY ({key})[, in SQLAlchemy {code}]",
    "Both find the rows whose array holds the value, but an index can answer only @>. In "
    "SQLAlchemy, contains() is a method of the ARRAY in sqlalchemy.dialects.postgresql, not of the "
    "general ARRAY. The rewritten statement needs a GIN index on {key}.",
    "{code}",
)


def containment(hit: Hit, mapped: MappedTable | None) -> Advice:
    """Return the advice to say `tags @> ARRAY[value]` instead of `value = ANY (tags)`."""
    column = hit.suspicion.comparison.column
    attribute = attribute_of(column or "", hit.suspicion.relation.name, mapped)
    return _CONTAINS.advice(
        Verdict(VerdictStatus.NOT_APPLICABLE, NO_INDEX_TO_TRY),
        key=hit.suspicion.shown_keys[0],
        code=f".where({attribute}.contains([value]))" if column else "",
    )

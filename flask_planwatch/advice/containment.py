"""Another way to look for an element of an array: by an operator that an index can answer."""

from __future__ import annotations

from ..finding import Advice, AdviceKind, Verdict, VerdictStatus
from ..plan.evidence import Hit
from .mapped import MappedTable
from .rewrite import attribute_of


def containment(hit: Hit, mapped: MappedTable | None) -> Advice:
    """Return the advice to say `tags @> ARRAY[value]` instead of `value = ANY (tags)`."""
    suspicion = hit.suspicion
    names = suspicion.operand.column_names
    code = ""
    if suspicion.comparison.column is not None:
        attribute = attribute_of(names[0], suspicion.relation.name, mapped)
        code = f".where({attribute}.contains([value]))"
    (key,) = suspicion.shown_keys
    return Advice(
        kind=AdviceKind.REWRITE,
        summary=f"say {key} @> ARRAY[value] instead of value = ANY ({key})"
        + (f", in SQLAlchemy {code}" if code else ""),
        verdict=Verdict(
            VerdictStatus.NOT_APPLICABLE,
            "a rewrite changes the statement, so there is no index for the planner to try",
        ),
        sqlalchemy=code,
        explanation="Both find the rows whose array holds the value, but an index can answer only "
        "@>. In SQLAlchemy, contains() is a method of the ARRAY in sqlalchemy.dialects.postgresql, "
        f"not of the general ARRAY. The rewritten statement needs a GIN index on {key}.",
    )

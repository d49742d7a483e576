"""VACUUM, where dead rows are read again and again, or pages only to see whether their rows are."""

from __future__ import annotations

from ..advice.verdict import Advised, Answer
from ..finding import Advice, AdviceKind, Verdict, VerdictStatus
from ..plan.evidence import Hit
from ..plan.schema import Relation, Schema
from .case import Case


def advise(case: Case, hit: Hit) -> Answer:
    """Return VACUUM of the table that a hit is about."""
    return Advised((vacuum(hit.suspicion.relation, case.schema),))


def vacuum(relation: Relation, schema: Schema) -> Advice:
    """Return the advice to VACUUM a table, with what it would clear up."""
    summary = f"VACUUM (ANALYZE) {relation.display}"
    return Advice(
        kind=AdviceKind.VACUUM,
        summary=summary,
        verdict=Verdict(
            VerdictStatus.NOT_APPLICABLE,
            "VACUUM runs outside transactions, so that it cannot be tried and rolled back",
        ),
        ddl=(summary,),
        explanation=f"{_state(schema.leaves(relation))} {_BY_ITSELF}",
    )


_BY_ITSELF = (
    "Autovacuum does this by itself once a fifth of the rows has changed "
    "(autovacuum_vacuum_scale_factor, autovacuum_vacuum_insert_scale_factor), which a large table "
    "reaches late: a lower share can be set for it with ALTER TABLE … SET (…). If VACUUM changes "
    "nothing, an old transaction, a prepared one or a replication slot keeps it from doing so."
)


def _state(leaves: list[Relation]) -> str:
    """Return how much of a table a VACUUM has not seen, as a sentence."""
    dead = sum(leaf.activity.dead for leaf in leaves)
    pages = sum(leaf.pages for leaf in leaves)
    hidden = pages - sum(min(leaf.visible_pages, leaf.pages) for leaf in leaves)
    return (
        f"About {dead:,} rows were deleted or replaced and are still there, and {hidden:,} of "
        f"{pages:,} pages are not marked as visible to all."
    )

"""VACUUM, where dead rows are read, or pages only to see whether their rows are visible."""

from __future__ import annotations

from ..finding import Advice, AdviceKind, Verdict, VerdictStatus
from ..indexes.verdict import Advised, Answer
from ..plan.evidence import Hit
from ..plan.schema import Relation
from ..plan.wording import say
from .case import Case

_NOT_TRIED = "VACUUM runs outside transactions, so it cannot be tried and rolled back"

_EXPLANATION = (
    "Pages not marked all-visible: {hidden:number} of {pages:number}[; dead rows, deleted or "
    "replaced: about {dead:number}]. Autovacuum runs VACUUM by itself once a fifth of the rows has "
    "changed (autovacuum_vacuum_scale_factor, autovacuum_vacuum_insert_scale_factor), which a "
    "large table reaches late: a lower share can be set for it with ALTER TABLE … SET (…). If "
    "VACUUM changes nothing, an old transaction, a prepared one or a replication slot holds it "
    "back."
)


def advise(case: Case, hit: Hit) -> Answer:
    """Return VACUUM of the table that a hit is about, with what it would clear up."""
    return Advised((vacuum(case, hit.suspicion.relation),))


def vacuum(case: Case, relation: Relation) -> Advice:
    """Return VACUUM of a table, with what it would clear up."""
    ddl = f"VACUUM (ANALYZE) {relation.display}"
    leaves = case.schema.leaves(relation)
    explanation = say(
        _EXPLANATION,
        dead=sum(leaf.activity.dead for leaf in leaves) or None,
        hidden=sum(max(leaf.pages - leaf.visible_pages, 0) for leaf in leaves),
        pages=sum(leaf.pages for leaf in leaves),
    )
    verdict = Verdict(VerdictStatus.NOT_APPLICABLE, _NOT_TRIED)
    return Advice(AdviceKind.VACUUM, ddl, verdict, ddl=(ddl,), explanation=explanation)

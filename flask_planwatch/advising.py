"""What to do about a hit, and what the planner says to that."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from .advice.index import Candidate, Key
from .advice.mapped import MappedTable
from .advice.render import alembic_operation, sqlalchemy_index
from .advice.rewrite import is_refused, rewrite, rewrite_with_value
from .advice.verdict import Declined, verdict
from .finding import Advice, AdviceKind, Verdict, VerdictStatus
from .plan.evidence import Hit
from .plan.schema import ExpressionFacts, Schema, Volatility
from .plan.tree import Plan
from .server import catalog, expressions, whatif
from .server.explain import Query
from .server.session import Session
from .settings import VERIFY_BUILD, VERIFY_OFF

_COLLATE = re.compile(r"\bCOLLATE\b", re.IGNORECASE)


@dataclass(frozen=True)
class Advised:
    """The advice on a hit; `blocked` if a lock kept the index from being tried this time."""

    advice: tuple[Advice, ...]
    blocked: bool = False


@dataclass(frozen=True)
class Adviser:
    """Advises on the hits of one statement.

    `query` is planned again with a candidate index in place, and compared with `plan`. `verify`
    is the setting PLANWATCH_VERIFY.
    """

    session: Session
    verify: str
    query: Query
    plan: Plan
    schema: Schema

    def advise(self, hit: Hit, mapped: MappedTable | None) -> Advised | Declined:
        """Return the advice on a hit, or Declined if the planner prefers the plan as it is.

        `mapped` tells how the app's code names the hit's table. Raises ServerError if the
        connection fails.
        """
        if hit.suspicion.holds_value:
            return Advised((rewrite_with_value(hit),))
        relation, expression = hit.suspicion.relation, hit.suspicion.keys[0]
        facts = expressions.describe(self.session, relation, expression)
        if is_refused(facts):
            return Advised((rewrite(hit, facts, mapped),))
        taken = catalog.index_names(self.session, relation.schema)
        index = Candidate(relation, (Key(facts.text),), self.schema, taken)
        try:
            proved = self._prove(hit, index, facts)
        except whatif.NotImmutable:
            reason = "the server says that it is not IMMUTABLE"
            facts = replace(facts, volatility=Volatility.STABLE, reason=reason)
            return Advised((rewrite(hit, facts, mapped),))
        except whatif.Blocked:
            reason = "the table was locked, most likely by the request's own transaction"
            return Advised((_create_index(index, mapped, _untested(reason)),), blocked=True)
        if isinstance(proved, Declined):
            return proved
        return Advised((_create_index(index, mapped, proved),))

    def _prove(self, hit: Hit, index: Candidate, facts: ExpressionFacts) -> Verdict | Declined:
        if self.verify == VERIFY_OFF:
            return _untested('PLANWATCH_VERIFY is "off"; "auto" or "build" would try the index')
        try_index = (
            whatif.try_by_building if self.verify == VERIFY_BUILD else whatif.try_with_hypopg
        )
        try:
            trial = try_index(self.session, self.query, index, hit.suspicion)
        except whatif.Untestable as untestable:
            reason = str(untestable)
            if _COLLATE.search(self.query.text):
                reason = (
                    "the statement has a COLLATE, which EXPLAIN does not print and the index may "
                    f"need, and {reason}"
                )
            if facts.volatility is Volatility.UNKNOWN:
                reason = f"whether it may be indexed is not known ({facts.reason}), and {reason}"
            return _untested(reason)
        return verdict(trial, hit.suspicion, self.plan, small=hit.small)


def _create_index(index: Candidate, mapped: MappedTable | None, proved: Verdict) -> Advice:
    return Advice(
        kind=AdviceKind.CREATE_INDEX,
        summary="; ".join(index.ddl),
        verdict=proved,
        ddl=index.ddl,
        sqlalchemy=sqlalchemy_index(index, mapped),
        alembic=alembic_operation(index),
        explanation="Run ANALYZE on the table afterwards: an expression has no statistics before.",
    )


def _untested(reason: str) -> Verdict:
    return Verdict(VerdictStatus.UNTESTED, reason)

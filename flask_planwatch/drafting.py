"""Drafts the indexes that might serve a statement: what `advice` thinks of, in the server's words.

The server knows which names are taken, how an expression is spelled and whether it can be indexed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

from .advice.candidates import Shape, Shapes, Spelling
from .advice.index import Candidate, mentions
from .advice.mapped import MappedTable
from .advice.proposal import declared_candidates, is_covered
from .advice.rewrite import is_refused
from .pause import give_way
from .plan.access import Access
from .plan.evidence import Hit
from .plan.predicate import Operand
from .plan.schema import ExpressionFacts, Relation, Schema, Structural, Volatility
from .plan.scrub import structural
from .server import catalog, expressions
from .server.extensions import Availability, availability
from .server.session import Session

#: How many candidates are tried for one statement. Each takes some 30 ms to build on 100 000 rows,
#: and writers wait meanwhile.
MAX_CANDIDATES = 40


@dataclass
class Drafts:
    """The candidates for one statement; what the server said is asked once.

    `mapped` tells how the app's code names a table; `proposed` are the indexes that are proposed
    for other statements already: their names are taken. Methods raise ServerError if the
    connection fails.
    """

    session: Session
    schema: Schema
    mapped: Callable[[Relation], MappedTable | None]
    proposed: Sequence[Candidate] = ()
    _facts: dict[tuple[str, str], ExpressionFacts] = field(default_factory=dict)
    _taken: dict[str, frozenset[str]] = field(default_factory=dict)
    _extensions: dict[str, Availability] = field(default_factory=dict)

    def candidates(self, accesses: Sequence[Access], hits: Sequence[Hit]) -> list[Candidate]:
        """Return what is worth asking the planner about, the most promising of each table first."""
        spelling = self._spelling(hits)
        shapes = [
            [(access.relation, shape) for shape in Shapes(access, spelling).all()]
            for access in accesses
        ]
        in_turn = [one for row in zip_longest(*shapes) for one in row if one is not None]
        found = (self.candidate(relation, shape) for relation, shape in in_turn)
        return list(dict.fromkeys(one for one in found if not is_covered(one)))[:MAX_CANDIDATES]

    def best_guess(
        self, hit: Hit, accesses: Sequence[Access], hits: Sequence[Hit]
    ) -> Candidate | None:
        """Return the index for one hit that the shape of the statement speaks for."""
        wanted = self._wanted(hit)
        relation = hit.suspicion.relation
        for declared in declared_candidates(relation, self.schema, self.mapped(relation)):
            if declared.keys[0].expression in wanted:
                return declared
        for access in accesses:
            if access.relation.key == hit.suspicion.relation.key:
                shape = Shapes(access, self._spelling(hits)).best_guess(wanted=wanted)
                if shape is not None:
                    return self.candidate(access.relation, shape)
        return None

    def candidate(self, relation: Relation, shape: Shape) -> Candidate:
        """Return an index of this shape under a name that is free."""
        give_way()
        if relation.schema not in self._taken:
            self._taken[relation.schema] = catalog.index_names(self.session, relation.schema)
        keys = shape.keys
        extension = ""
        if shape.extension:
            found = self.extension(shape.extension)
            extension = "" if found.installed else shape.extension
            keys = tuple(
                replace(key, operator_class=found.qualified(key.operator_class)) for key in keys
            )
        made = Candidate(
            relation,
            keys,
            self.schema,
            self._taken[relation.schema],
            method=shape.method,
            include=shape.include,
            predicate=self.describe(relation, shape.predicate).text if shape.predicate else "",
            extension=extension,
        )
        others = (one for one in self.proposed if one.relation.schema == relation.schema)
        return replace(made, taken=made.taken | {one.name for one in others if one != made})

    def serves(self, index: Candidate, hit: Hit) -> bool:
        """Whether an index holds something of what a hit is about."""
        if index.relation.key != hit.suspicion.relation.key:
            return False
        wanted = self._wanted(hit)
        held = {key.expression for key in index.keys}
        return bool(held & wanted) or any(mentions(index.predicate, key) for key in wanted)

    def _wanted(self, hit: Hit) -> set[str]:
        """Return the keys of a hit as an index spells them."""
        relation = hit.suspicion.relation
        return {self.describe(relation, key).text for key in hit.suspicion.keys}

    def _spelling(self, hits: Sequence[Hit]) -> Spelling:
        """Return how to write an expression that a hit or an order asks for, None for others."""
        wanted = {
            (hit.suspicion.relation.key, key)
            for hit in hits
            if not hit.suspicion.holds_value
            for key in hit.suspicion.keys
        }

        def spelling(relation: Relation, operand: Operand) -> Structural | None:
            text = operand.without_alias()
            if (relation.key, text) not in wanted:
                return None
            key = structural(text, frozenset())
            facts = self.describe(relation, text)
            return None if key is None or is_refused(facts) else self.spelled(relation, key)

        return spelling

    def describe(self, relation: Relation, key: str) -> ExpressionFacts:
        """Return what the server says of a key; nothing has to be asked of a plain column."""
        if any(column.quoted_name == key for column in relation.columns):
            return ExpressionFacts(key, Volatility.IMMUTABLE)
        place = (relation.key, key)
        if place not in self._facts:
            self._facts[place] = expressions.describe(self.session, relation, key)
        return self._facts[place]

    def spelled(self, relation: Relation, key: Structural) -> Structural:
        """Return a key in the shortest spelling that the server reads as the same."""
        return Structural(self.describe(relation, key).text)

    def extension(self, name: str) -> Availability:
        """Return what the server has of an extension."""
        if name not in self._extensions:
            self._extensions[name] = availability(self.session, name)
        return self._extensions[name]

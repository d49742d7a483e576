"""Drafts the indexes that might serve a statement.

The server knows which names are taken, how an expression is spelled and whether it can be indexed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

from ..indexes.candidate import Candidate, Key, column_key, column_of, mentions
from ..indexes.proposal import as_declared, declared_candidates, is_covered
from ..indexes.shapes import Shape, Shapes, Spelling
from ..plan.access import Access
from ..plan.evidence import Hit, Suspicion
from ..plan.predicate import Operand
from ..plan.schema import ExpressionFacts, Relation, Structural, Volatility
from ..plan.scrub import structural
from ..runtime.pause import give_way
from ..server import catalog, expressions
from ..server.enabling import Availability, availability
from .case import Case

#: How many candidates are tried for one statement. Each takes some 30 ms to build on 100 000 rows,
#: and writers wait meanwhile.
MAX_TRIED = 40


@dataclass
class Drafts:
    """The candidates for one statement; what the server said is asked once.

    The names of the indexes that are proposed already are taken. Methods raise ServerError if the
    connection fails.
    """

    case: Case
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
        in_turn = [shape for row in zip_longest(*shapes) for shape in row if shape is not None]
        found = (self.candidate(relation, shape) for relation, shape in in_turn)
        different = dict.fromkeys(index for index in found if not is_covered(index))
        return list(different)[:MAX_TRIED]

    def best_guess(
        self, hit: Hit, accesses: Sequence[Access], hits: Sequence[Hit]
    ) -> Candidate | None:
        """Return the index for one hit that the conditions and the statistics suggest."""
        wanted = self._wanted(hit)
        relation = hit.suspicion.relation
        for declared in declared_candidates(relation, self.case.schema, self.case.mapped(relation)):
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
            self._taken[relation.schema] = catalog.index_names(self.case.session, relation.schema)
        made = Candidate(
            relation,
            shape.keys,
            self.case.schema,
            self._taken[relation.schema],
            method=shape.method,
            include=shape.include,
            predicate=self.describe(relation, shape.predicate).text if shape.predicate else "",
            equal_keys=shape.equal_keys,
        )
        if shape.extension:
            found = self.extension(shape.extension)
            keys = (
                replace(key, operator_class=found.qualified(key.operator_class))
                for key in shape.keys
            )
            extension = "" if found.installed else shape.extension
            made = replace(made, keys=tuple(keys), extension=extension)
        made = as_declared(made, self.case.mapped(relation))
        others = (index for index in self.case.proposed if index.relation.schema == relation.schema)
        return replace(made, taken=made.taken | {index.name for index in others if index != made})

    def serves(self, index: Candidate, hit: Hit) -> bool:
        """Whether an index holds something of what a hit is about, and can answer that."""
        wanted = self._wanted(hit)
        if not _can_answer(index, hit.suspicion):
            return False
        return index.relation.key == hit.suspicion.relation.key and any(
            key in index.expressions or mentions(index.predicate, key) for key in wanted
        )

    def key(self, relation: Relation, text: str) -> Key | None:
        """Return a key of an index in the shortest spelling that the server reads as the same.

        None if it holds a value, or if PostgreSQL would refuse an index on it.
        """
        if structural(text, self.case.varying) is None:
            return None
        column = column_of(relation, text)
        if column is not None:
            return column_key(relation, column.name)
        facts = self.describe(relation, text)
        return None if is_refused(facts) else Key(Structural(facts.text))

    def describe(self, relation: Relation, key: str) -> ExpressionFacts:
        """Return what the server says of a key; nothing has to be asked of a plain column."""
        if column_of(relation, key) is not None:
            return ExpressionFacts(key, Volatility.IMMUTABLE)
        place = (relation.key, key)
        if place not in self._facts:
            self._facts[place] = expressions.describe(self.case.session, relation, key)
        return self._facts[place]

    def extension(self, name: str) -> Availability:
        """Return what the server has of an extension."""
        if name not in self._extensions:
            self._extensions[name] = availability(self.case.session, name)
        return self._extensions[name]

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
            key = self.key(relation, text) if (relation.key, text) in wanted else None
            return None if key is None else key.expression

        return spelling


def _can_answer(index: Candidate, suspicion: Suspicion) -> bool:
    """Whether an index is of the kind that answers the operator of a suspicion.

    A scan of an index that holds the column may cost less than one of the table, and still tests
    each entry.
    """
    wanted = suspicion.operator_class
    classes = {key.operator_class.rpartition(".")[2] for key in index.keys}
    return index.method == suspicion.method and (not wanted or wanted in classes)


def is_refused(facts: ExpressionFacts) -> bool:
    """Whether PostgreSQL would refuse an index on the expression."""
    return facts.volatility in {Volatility.STABLE, Volatility.VOLATILE}

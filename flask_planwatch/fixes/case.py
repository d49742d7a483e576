"""What a fix is given: the statement with its plan, and how the planner may be asked about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace

from ..finding import Advice, Verdict
from ..indexes.candidate import Candidate
from ..indexes.mapped import MappedTable
from ..indexes.proposal import create_index, declared_candidates, is_covered
from ..plan.evidence import Evidence
from ..plan.schema import Relation, Schema, Structural
from ..plan.scrub import shown
from ..plan.tree import Plan
from ..server import whatif
from ..server.builds import on_builds
from ..server.explain import Query, explain
from ..server.hypopg import on_hypopg
from ..server.session import Session
from ..server.sizes import Sizes
from ..server.transaction import Transaction, may_be_refused
from ..settings import VERIFY_BUILD, VERIFY_IS_OFF, VERIFY_OFF


@dataclass(frozen=True)
class Case:
    """One statement, and how the planner may be asked about it.

    `query` is planned again with candidate indexes in place. `verify` is the setting
    PLANWATCH_VERIFY, `show_values` PLANWATCH_SHOW_PARAMETERS. `mapped` tells how the app's code
    names a table, None if it does not; for `varying` see Structure. `proposed` are the indexes that
    are proposed already, for other statements or for another hit of this one.
    """

    session: Session
    verify: str
    show_values: bool
    query: Query
    evidence: Evidence
    mapped: Callable[[Relation], MappedTable | None]
    varying: frozenset[str] = frozenset()
    proposed: Sequence[Candidate] = ()
    #: The transaction of the trials that are going on.
    _open: list[Transaction] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def plan(self) -> Plan:
        """The plan of the statement with the parameters that were captured."""
        return self.evidence.plan

    @property
    def schema(self) -> Schema:
        """The relations of the plan."""
        return self.evidence.schema

    @property
    def builds(self) -> bool:
        """Whether indexes and statistics may be made for real, and rolled back."""
        return self.verify == VERIFY_BUILD

    @property
    def is_trying(self) -> bool:
        """Whether trials are going on, so that none can begin."""
        return bool(self._open)

    def known(self, relations: Sequence[Relation]) -> list[Candidate]:
        """Return what is proposed on these tables, or declared by the models, and missing."""
        keys = {relation.key for relation in relations}
        found = [
            # What mattered to the order of its keys there does not hold here.
            replace(index, relation=self.schema.relations[index.relation.key], equal_keys=0)
            for index in self.proposed
            if index.relation.key in keys
        ]
        for relation in relations:
            found += declared_candidates(relation, self.schema, self.mapped(relation))
        return [index for index in dict.fromkeys(found) if not is_covered(index)]

    def shown(self, expression: str) -> Structural:
        """Return an expression as people may see it."""
        return shown(expression, self.varying)

    def plan_of(self, text: str) -> Plan | None:
        """Return the plan of another text of the statement, None if the server refuses it.

        Raises ServerError if the connection fails.
        """
        with may_be_refused():
            return explain(self.session, Query(text, self.query.parameters, self.query.escaped))
        return None

    @contextmanager
    def trials(self, query: Query, candidates: Iterable[Candidate]) -> Iterator[whatif.Trials]:
        """Yield where candidates are tried for a query: hypothetical, or built and rolled back.

        Raises Untestable if PLANWATCH_VERIFY is "off".
        """
        with self._trials(query, list(candidates)) as trials:
            self._open.append(trials.transaction)
            try:
                yield trials
            finally:
                self._open.pop()

    def _trials(
        self, query: Query, candidates: Sequence[Candidate]
    ) -> AbstractContextManager[whatif.Trials]:
        if self.verify == VERIFY_OFF:
            raise whatif.Untestable(VERIFY_IS_OFF)
        if not self.builds:
            relations = [candidate.relation for candidate in candidates]
            return on_hypopg(self.session, query, relations)
        texts = [
            (candidate.relation, key.expression)
            for candidate in candidates
            for key in candidate.keys
            if key.column is None and candidate.method == "btree"
        ]
        extensions = {candidate.extension for candidate in candidates} - {""}
        return on_builds(self.session, query, self.schema, texts, sorted(extensions))

    def index_advice(
        self, index: Candidate, verdict: Verdict, trials: whatif.Trials | None
    ) -> Advice:
        """Return an index as advice, with its size as the trials know it, or as an estimate.

        The trials also know how the server prints its keys.

        Raises ServerError if the connection fails.
        """
        size = trials.size(index) if trials is not None else None
        if size is None and index.method == "btree":
            size = self._estimated_size(index)
        defined = trials.defined(index) if trials is not None else index
        return create_index(
            defined, self.mapped(index.relation), verdict, size=size, show_values=self.show_values
        )

    def _estimated_size(self, index: Candidate) -> int:
        """Return the bytes that a b-tree will have, by the statistics of the server."""
        if self._open:
            # The session has one transaction at a time.
            return Sizes(self._open[-1]).of(index).bytes
        with self.session.transaction() as transaction:
            return Sizes(transaction).of(index).bytes

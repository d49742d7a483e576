"""All that advice on the hits of one statement is made from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from ..advice.index import Candidate
from ..advice.mapped import MappedTable
from ..advice.price import estimated_size
from ..advice.proposal import create_index
from ..finding import Advice, Verdict
from ..plan.evidence import Evidence
from ..plan.schema import Relation, Schema, Structural
from ..plan.scrub import shown, structural
from ..plan.tree import Plan
from ..server import whatif
from ..server.explain import Query
from ..server.session import Session
from ..settings import VERIFY_BUILD


@dataclass(frozen=True)
class Case:
    """One statement, and how the planner may be asked about it.

    `query` is planned again with candidate indexes in place. `verify` is the setting
    PLANWATCH_VERIFY, `show_values` PLANWATCH_SHOW_PARAMETERS. `mapped` tells how the app's code
    names a table, None if it does not; for `varying` see Structure.
    """

    session: Session
    verify: str
    show_values: bool
    query: Query
    evidence: Evidence
    mapped: Callable[[Relation], MappedTable | None]
    varying: frozenset[str] = frozenset()

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

    def structural(self, expression: str) -> Structural | None:
        """Return an expression as an index may hold it, None if a constant in it is a value."""
        return structural(expression, self.varying)

    def shown(self, expression: str) -> Structural:
        """Return an expression as people may see it."""
        return shown(expression, self.varying)

    def bench(
        self, query: Query, candidates: Iterable[Candidate]
    ) -> AbstractContextManager[whatif.Bench]:
        """Return where candidates are tried for a query: hypothetical, or built and rolled back."""
        candidates = list(candidates)
        if not self.builds:
            relations = [one.relation for one in candidates]
            return whatif.on_hypopg(self.session, query, relations)
        texts = [
            (one.relation, key.expression)
            for one in candidates
            for key in one.keys
            if key.column is None and one.method == "btree"
        ]
        extensions = {one.extension for one in candidates} - {""}
        return whatif.on_builds(self.session, query, self.schema, texts, sorted(extensions))

    def index_advice(
        self, index: Candidate, verdict: Verdict, bench: whatif.Bench | None
    ) -> Advice:
        """Return an index as advice, with its size as the bench knows it, or as an estimate."""
        size = bench.sizes.get(index) if bench is not None else None
        if size is None and index.method == "btree":
            rows = sum(leaf.rows for leaf in self.schema.leaves(index.relation))
            size = estimated_size(index, rows)
        return create_index(
            index, self.mapped(index.relation), verdict, size=size, show_values=self.show_values
        )

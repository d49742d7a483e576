"""What an inspection starts from: the evidence that no rule asks for, and earlier results."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any
from weakref import ref

from ..capture.execution import Capture
from ..capture.statistics import NEVER, StatementStatistics
from ..indexes.candidate import Candidate
from ..indexes.proposal import Proposals
from ..plan.constants import SeenConstants
from ..plan.evidence import Evidence, Timings
from ..plan.schema import Schema
from ..plan.tree import Plan
from ..runtime.clock import crowding
from ..runtime.pause import give_way
from ..server.catalog import Catalog
from ..server.connecting.adoption import refuse_row_security
from ..server.session import Session
from ..settings import Settings
from .cache import ResultCache, result_key
from .calibration import CostCalibration
from .findings import statement_of
from .planning import read_conditions
from .result import Result


@dataclass(frozen=True)
class Known:
    """The evidence so far. `result` is that of an earlier inspection, None if none holds.

    `origin` is the identity of the statement and of the line of code that it came from. `proposed`
    are the indexes that are proposed for other statements. `key` is what a new result rests on,
    None if it must not be remembered.
    """

    evidence: Evidence
    origin: str
    proposed: tuple[Candidate, ...]
    key: Hashable
    result: Result | None


class Knowledge:
    """What is known of the statements and the tables of one app and engine."""

    def __init__(
        self,
        settings: Settings,
        session: Session,
        calibration: CostCalibration,
        constants: SeenConstants,
    ) -> None:
        self.settings = settings
        self.session = session
        self.calibration = calibration
        self.catalog = Catalog(session)
        self.constants = constants
        self.results = ResultCache()
        self.proposals = Proposals()

    def look_up(self, capture: Capture, plan: Plan) -> Known:
        """Return what is known of a capture and its plan.

        Raises ServerError if PlanWatch must not read the plan.
        """
        origin = f"{statement_of(capture).fingerprint} {capture.location}"
        proposed = self.proposals.others(origin)
        schemas = self._schemas(capture, plan)
        # Before anything is learnt of the plan: it may be refused.
        first = next(schemas)
        read_conditions(plan)
        varying = self.constants.varying(origin, plan)
        timings = self._timings(capture, plan)
        for schema in chain((first,), schemas):
            give_way()
            evidence = self._evidence(capture, plan, schema, varying, timings)
            key = result_key(origin, capture, evidence, proposed)
            give_way()
            result = self.results.find(key)
            if result is not None:
                break
        return Known(evidence, origin, proposed, key, result)

    def keep(self, capture: Capture, known: Known, result: Result) -> None:
        """Remember the result on a capture, and the indexes that it proposes."""
        if result is not known.result:
            self.results.keep(known.key, result)
        give_way()
        again = partial(_make_due, ref(capture.statistics))
        self.proposals.keep(known.origin, result.chosen, known.proposed, again)

    def _evidence(
        self,
        capture: Capture,
        plan: Plan,
        schema: Schema,
        varying: frozenset[str],
        timings: Timings,
    ) -> Evidence:
        preparation = capture.preparation
        return Evidence(
            plan=plan,
            schema=schema,
            statement=capture.key,
            min_rows=self.settings.min_rows,
            growth=self.settings.growth,
            duration_ms=capture.duration_ms,
            waited_ms=capture.waited_ms,
            returned_rows=capture.returned_rows,
            parameter_types=_types(capture.parameters),
            timings=timings,
            client_side=capture.client_side,
            error=capture.error,
            show_values=self.settings.show_parameters,
            varying=varying,
            # A statement that took longer cannot be run again by EXPLAIN ANALYZE.
            analysable_ms=self.session.statement_timeout_ms,
            # No generic plan can be made of a statement without parameters.
            executions=preparation.most if preparation and capture.parameters else 0,
        )

    def _schemas(self, capture: Capture, plan: Plan) -> Iterator[Schema]:
        """Yield what a plan's relations are: as they were a moment ago, then as they are now.

        An earlier result may rest on the first. The server is asked at once where no earlier result
        can hold, and without a sampling interval: then somebody waits to see what a change did.
        """
        may_hold = not capture.urgent and capture.error is None
        if may_hold and self.settings.sample_interval > 0:
            earlier = self.catalog.remembered(plan)
            if earlier is not None:
                yield self._readable(earlier)
        yield self._readable(self.catalog.schema(plan))

    def _readable(self, schema: Schema) -> Schema:
        """Return a schema; raises ServerError if rows of it are hidden from PlanWatch's role."""
        if self.session.other_role:
            refuse_row_security(self.session, schema.relations)
        return schema

    def _timings(self, capture: Capture, plan: Plan) -> Timings:
        """Return how long the statement took, and learn from it what is normal."""
        identity = statement_of(capture).fingerprint
        normal = self.calibration.normal(identity)
        recent = _recent_ms(capture)
        timings = Timings(recent, self.session.round_trip_ms, normal, crowding())
        spent = timings.spent_ms(plan, capture.returned_rows)
        if spent is None or not capture.client_side or not plan.only_reads:
            return timings
        # Time that is mostly round trip does not show what a unit of cost takes.
        if spent > timings.outside_ms(plan, capture.returned_rows):
            self.calibration.record(identity, spent / plan.total_cost)
        return timings


def _make_due(known: ref[StatementStatistics]) -> None:
    """Have the next execution of a statement inspected, whatever is left of its interval."""
    statistics = known()
    if statistics is not None:
        statistics.sampled = NEVER


def _recent_ms(capture: Capture) -> tuple[float, ...]:
    """Return the waits of the latest executions, in ms, and of the captured one, an earlier one.

    The captured one is always there: with other parameters, an execution may have another plan.
    """
    recent = capture.statistics.recent
    known = capture.error is not None or capture.waited_ms in recent
    return recent if known else (capture.waited_ms, *recent)


def _types(parameters: Any) -> frozenset[str]:
    """Return the names of the parameters' classes; of a list, those of its items."""
    values = parameters.values() if isinstance(parameters, Mapping) else parameters or ()
    items = [
        item for value in values for item in (value if isinstance(value, list | tuple) else [value])
    ]
    return frozenset(type(item).__name__ for item in items)

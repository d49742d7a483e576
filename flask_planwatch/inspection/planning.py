"""The plan of a captured statement, as the application's own connection gets it."""

from __future__ import annotations

from collections.abc import Iterable

from ..capture.execution import Capture
from ..failure import ServerError
from ..finding import SkipReason
from ..plan.predicate import conjuncts, is_too_long, without_literals
from ..plan.tree import Plan
from ..runtime.pause import give_way
from ..server.agreement import Agreement
from ..server.connecting.adoption import refuse_hidden
from ..server.explain import Query, explain
from ..server.refusals import Refusals
from ..server.session import Session

#: The most words in all different conditions of a plan. To read one takes some 0.1 ms, and about a
#: kB for as long as the inspection takes.
MAX_WORDS = 12_000


def query_of(capture: Capture) -> Query:
    """Return what to explain; raises ServerError for what must not be sent again."""
    if capture.left_out is not None:
        raise ServerError(capture.left_out)
    if capture.error and (capture.error.sqlstate or "")[:2] == "42":
        raise ServerError(SkipReason.STATEMENT_INVALID, capture.error.name)
    accepted = capture.error is None
    return Query(capture.text, capture.parameters, capture.escaped, accepted)


class Planner:
    """Asks the server for plans on PlanWatch's connection, with the state of the application's.

    `refusals` keep what the server refused from being sent again; `agreement` tells whether a plan
    reads the tables that the statement read.
    """

    def __init__(self, session: Session) -> None:
        self.refusals = Refusals()
        self.agreement = Agreement(session)
        self._session = session

    def plan(self, capture: Capture, query: Query) -> Plan:
        """Return the plan of a capture's query.

        Raises ServerError if the server refuses it, if PlanWatch cannot reproduce the connection's
        state, or if the plan is longer than PlanWatch reads.
        """
        refuse_hidden(query.text, capture.state)
        self._session.plan_like(capture.state)
        with self.refusals.unless_refused(query.text, capture.state):
            plan = explain(self._session, query)
        self.agreement.require(query.text, capture.tables, plan)
        _refuse_long(plan)
        return plan


def _refuse_long(plan: Plan) -> None:
    """Raise ServerError if the conditions of a plan have more words than PlanWatch reads."""
    conditions = {text for node in plan.nodes for _, text in node.conditions}
    # A list of texts is one literal, whatever blanks they have.
    if _words(conditions) > MAX_WORDS and _words(map(without_literals, conditions)) > MAX_WORDS:
        raise ServerError(SkipReason.PLAN_TOO_LARGE)


def _words(conditions: Iterable[str]) -> int:
    return sum(text.count(" ") + 1 for text in conditions)


def read_conditions(plan: Plan) -> None:
    """Read all conditions of a plan. What was read is remembered for the rest of the inspection.

    Raises ServerError if one is too long to be read.
    """
    for node in plan.nodes:
        for _, condition in node.conditions:
            if is_too_long(condition):
                raise ServerError(SkipReason.STATEMENT_TOO_LARGE)
            conjuncts(condition)
            give_way()

"""For each statement, the smallest set of indexes that the planner uses is proposed.

The statements are in `conditions.py` and its neighbours. What an index is worth is not taken from
PlanWatch: `exhaustive.py` builds all that could help.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import sqlalchemy as sa

from flask_planwatch import Advice, AdviceKind, Inspection, VerdictStatus
from flask_planwatch.indexes.search import MIN_MEMBER_SAVING
from flask_planwatch.plan.figures import MIN_SAVING
from flask_planwatch.signals import statement_inspected

from . import conditions, expressions, joins, objects, ordering, writing
from .case import Case, spellings, split_keys
from .conftest import Place
from .exhaustive import Definition, Laboratory, display, equalities, tables

pytestmark = pytest.mark.slow

#: How much more than the best set the proposed one may cost, as a share of the cost before: in the
#: best set there may be an index that does not pay for itself.
TOLERANCE = 0.05

#: And how many times as much, where little is left of the cost.
MAX_FACTOR = 1.25

CASES = [
    replace(case, heading=heading)
    for module in (conditions, ordering, joins, expressions, objects, writing)
    for heading, cases in module.HEADINGS.items()
    for case in cases
]

#: HypoPG knows plain columns of ordinary tables.
FOR_HYPOPG = [case for case in CASES if case.hypopg and not case.keys and not case.also]

_NAME = r'(?:"(?:[^"]|"")+"|\w+)'
_CREATE_INDEX = re.compile(
    rf"CREATE INDEX (?:CONCURRENTLY )?{_NAME} ON (?:ONLY )?({_NAME}(?:\.{_NAME})?) (.+)", re.DOTALL
)


@dataclass(frozen=True)
class Answer:
    """What PlanWatch says of one statement."""

    inspection: Inspection

    @property
    def advice(self) -> list[Advice]:
        """All advice, each once: one index may be the advice of two findings."""
        said = [one for finding in self.inspection.findings for one in finding.advice]
        return list({one.summary: one for one in said}.values())

    @property
    def indexes(self) -> list[Advice]:
        """The indexes that are proposed for the statement as it is.

        One that was tried and rejected is not sold as a fix, and one that needs a rewrite comes
        after that.
        """
        proposed = [
            one
            for finding in self.inspection.findings
            if finding.advice[0].kind is AdviceKind.CREATE_INDEX
            for one in finding.advice
            if one.verdict.status is not VerdictStatus.REJECTED
        ]
        return list({one.summary: one for one in proposed}.values())

    @property
    def ddl(self) -> list[str]:
        """What creates the proposed set within a transaction."""
        return self.ddl_without(None)

    def ddl_without(self, left_out: Advice | None) -> list[str]:
        """What creates all of the proposed set but one index."""
        created = [one for one in self.indexes if one is not left_out]
        statements = [statement for one in created for statement in one.ddl]
        return [text.replace(" CONCURRENTLY ", " ") for text in dict.fromkeys(statements)]

    @property
    def definitions(self) -> list[Definition]:
        """The proposed set, as table and the rest."""
        found = []
        for one in self.indexes:
            texts = one.ddl[:1] if any("ATTACH PARTITION" in text for text in one.ddl) else one.ddl
            for text in texts:
                match = _CREATE_INDEX.fullmatch(text)
                assert match, text
                found.append(match.groups())
        return list(dict.fromkeys(found))

    @property
    def reasons(self) -> list[str]:
        """Why something was dismissed, or the statement skipped."""
        skip = self.inspection.skip
        said = [dismissal.reason for dismissal in self.inspection.dismissals]
        return [*said, str(skip)] if skip else said


def assert_index(laboratory: Laboratory, answer: Answer, case: Case) -> None:
    """Fail unless exactly the expected indexes are proposed, each one proved."""
    wanted = [_accepted(laboratory, case, text) for text in case.expected]
    proposed = laboratory.canonical(answer.definitions)
    missing = [good for good in wanted if not good & set(proposed)]
    surplus = [one for one in proposed if not any(one in good for good in wanted)]
    if missing or surplus or len(proposed) != len(wanted):
        pytest.fail(f"{answer.definitions} instead of {case.expected}; {answer.reasons}")
    verdicts = [(one.summary, one.verdict) for one in answer.indexes]
    # A falling cost is no proof: what changed in the plan is.
    unproved = [
        (summary, str(verdict))
        for summary, verdict in verdicts
        if verdict.status is not VerdictStatus.VERIFIED or not verdict.proof
    ]
    assert not unproved, unproved


def assert_each_pays(laboratory: Laboratory, answer: Answer, case: Case, before: float) -> None:
    """Fail if the statement would cost hardly more without one of the indexes, or one is a prefix.

    `before` is the cost without any of them.
    """
    cost = laboratory.measure(case.statement, answer.ddl, case.setup).cost
    for one in answer.indexes if len(answer.indexes) > 1 else ():
        without = laboratory.measure(case.statement, answer.ddl_without(one), case.setup).cost
        assert without - cost >= before * MIN_MEMBER_SAVING, (one.summary, cost, without, before)
    keys = [(table, split_keys(rest)) for table, rest in answer.definitions]
    for table, (short, tail) in keys:
        begin_alike = [
            long
            for other, (long, end) in keys
            if other == table
            and long[: len(short)] == short
            and (end == tail or not (tail or "WHERE" in end))
        ]
        assert begin_alike == [short], answer.definitions


def assert_no_index(answer: Answer, case: Case) -> None:
    """Fail if an index is proposed, or if the reason is another one."""
    assert not answer.definitions, [(one.summary, str(one.verdict)) for one in answer.indexes]
    if case.rewrite:
        assert answer.advice[0].kind is AdviceKind.REWRITE
        assert case.reason in " ".join(one.explanation for one in answer.advice)
    elif answer.reasons:
        assert any(case.reason in reason for reason in answer.reasons), answer.reasons


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_the_best_set_is_proposed(case: Case, place: Place, watch: Callable) -> None:
    answer = ask(watch(place.database.url, PLANWATCH_VERIFY="build"), case, place)
    best = place.laboratory.search(case.statement, case.keys, case.also, case.setup)
    proposed = place.laboratory.measure(case.statement, answer.ddl, case.setup)
    print(f"best: {best}", f"proposed: {proposed}", sep="\n")
    if case.expected:
        assert_index(place.laboratory, answer, case)
        before = place.laboratory.measure(case.statement, (), case.setup).cost
        assert proposed.cost <= best.cost + min(before * TOLERANCE, best.cost * (MAX_FACTOR - 1))
        assert_each_pays(place.laboratory, answer, case, before)
    else:
        assert_no_index(answer, case)
        assert case.unseen or best.cost >= proposed.cost * (1 - MIN_SAVING)


@pytest.mark.parametrize("case", FOR_HYPOPG, ids=lambda case: case.title)
def test_hypopg_proves_the_same_set(case: Case, hypopg_place: Place, watch: Callable) -> None:
    answer = ask(watch(hypopg_place.database.url), case, hypopg_place)
    if case.expected:
        assert_index(hypopg_place.laboratory, answer, case)
    else:
        assert_no_index(answer, case)


def ask(watched, case: Case, place: Place) -> Answer:
    """Run a statement, take back what it did, and return what PlanWatch says of it."""
    inspections: list[Inspection] = []

    def receive(sender: object, inspection: Inspection) -> None:
        inspections.append(inspection)

    with watched.app.app_context(), statement_inspected.connected_to(receive):
        session = watched.db.session
        for text in case.setup:
            session.execute(sa.text(text).execution_options(planwatch=False))
        # The rows need not be made into objects.
        session.execute(case.statement).close()
        session.rollback()
        watched.findings()
    if case.statement.is_dml:
        # What was rolled back left dead rows, and pages that an index-only scan must look at.
        place.database.execute(f"VACUUM {display(case.statement.table)}")
    (inspection,) = inspections
    return Answer(inspection)


def _accepted(laboratory: Laboratory, case: Case, expected: str) -> set[Definition]:
    """Return all indexes that are as good as an expected one, in the server's words."""
    good: list[Definition] = []
    for text in expected.split(" | "):
        if text.startswith(("(", "USING ")):
            ((table,), rest) = tables(case.statement, case.keys, case.also), text
        else:
            table, rest = text.split(" ", 1)
        equal = {name for of, name in equalities(case.statement) if of == table}
        equal |= {key for texts in case.keys.values() for key in texts}
        good += [(table, one) for one in spellings(rest, equal, in_order=case.in_order)]
    return set(laboratory.canonical(good))

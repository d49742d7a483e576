"""What is said of indexes when the time for trying them by building is over."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from flask_planwatch import VerdictStatus
from flask_planwatch.fixes.case import Case
from flask_planwatch.indexes.candidate import Candidate
from flask_planwatch.server import builds
from flask_planwatch.signals import statement_inspected

pytestmark = pytest.mark.slow

#: The best index on each table serves its own condition, and the planner uses both.
BOTH = sa.text(
    "SELECT l.note, r.note FROM heap l JOIN pile r ON r.id = l.id WHERE l.a = 7 AND r.b = 7 "
    "UNION ALL SELECT note, note FROM pile WHERE b = 8"
)

ONE = sa.text("SELECT * FROM heap WHERE a = 7 AND b = 3")

#: A quarter of the rows, some on each page: an index would save little.
SPREAD = sa.text("SELECT * FROM heap WHERE c = 1 ORDER BY a")


@pytest.fixture
def tables(any_story):
    any_story.execute(
        *(
            f"CREATE TABLE {name} AS SELECT g AS id, g % 2000 AS a, g * 7 % 1999 AS b, g % 4 AS c, "
            "repeat('x', 60) AS note FROM generate_series(1, 40000) g"
            for name in ("heap", "pile")
        ),
        "VACUUM ANALYZE",
    )
    return any_story


class Clock:
    """Lets so many builds begin in the first trial, and so many after it.

    Unless `keeps`, each attempt builds its indexes anew, as for a role that cannot hide them.
    """

    def __init__(self, monkeypatch, first: int, later: int, *, keeps: bool = False) -> None:
        #: What was built, by trial.
        self.built: list[tuple[object, Candidate]] = []
        left = {True: first, False: later}
        begin, build = builds._BuildTrials.__init__, builds._BuildTrials._build

        def begun(trials, *arguments):
            begin(trials, *arguments)
            trials._keeps = keeps

        def has_time(trials, candidate, *, spare):
            if candidate in trials._kept:
                return True
            left[spare] -= 1
            return left[spare] >= 0

        def built(trials, candidate, name):
            self.built.append((trials, candidate))
            return build(trials, candidate, name)

        monkeypatch.setattr(builds._BuildTrials, "__init__", begun)
        monkeypatch.setattr(builds._BuildTrials, "has_time", has_time)
        monkeypatch.setattr(builds._BuildTrials, "_build", built)


def verdicts(watched, statement):
    findings = watched.ask(statement)
    return {one.summary: one.verdict for finding in findings for one in finding.advice}


@pytest.mark.parametrize("keeps", [True, False], ids=["hidden", "built anew"])
def test_all_are_tried(tables, watch, monkeypatch, keeps):
    clock = Clock(monkeypatch, 1000, 1000, keeps=keeps)
    found = verdicts(watch(tables.url, PLANWATCH_VERIFY="build"), BOTH)
    assert {verdict.status for verdict in found.values()} == {VerdictStatus.VERIFIED}
    assert not any("candidates" in verdict.reason for verdict in found.values())
    # Where an index can be hidden from the planner, each is built once.
    assert (len(set(clock.built)) == len(clock.built)) is keeps


def test_what_was_tried_before_time_was_over(tables, watch, monkeypatch):
    Clock(monkeypatch, 1, 0)
    ((summary, verdict),) = verdicts(watch(tables.url, PLANWATCH_VERIFY="build"), ONE).items()
    assert verdict.status is VerdictStatus.VERIFIED
    assert "; there was time to try 1 of " in verdict.reason
    assert verdict.reason.endswith(" candidates")
    assert "(b, a)" in summary or "(a, b)" in summary


def test_nothing_was_tried(tables, watch, monkeypatch):
    Clock(monkeypatch, 0, 0)
    (verdict,) = verdicts(watch(tables.url, PLANWATCH_VERIFY="build"), ONE).values()
    assert verdict.status is VerdictStatus.UNTESTED
    assert verdict.reason.startswith("there was time to try 0 of ")
    assert verdict.reason.endswith(" candidates")


def test_the_same_plan_is_not_tried_again(tables, watch, monkeypatch):
    """There would be no more time, and writers would wait again."""
    Clock(monkeypatch, 0, 0)
    monkeypatch.setattr("flask_planwatch.inspection.cache.HIT_SECONDS", 0.0)
    tried, original = [], Case.trials

    def trials(case, query, candidates):
        tried.append(query)
        return original(case, query, candidates)

    monkeypatch.setattr(Case, "trials", trials)
    watched = watch(tables.url, PLANWATCH_VERIFY="build")
    for _ in range(2):
        (verdict,) = verdicts(watched, ONE).values()
        assert verdict.reason.startswith("there was time to try 0 of ")
    assert len(tried) == 1


def test_no_time_to_leave_one_out(tables, watch, monkeypatch):
    """The planner uses both, but nobody knows whether it needs them."""
    Clock(monkeypatch, 1000, 0)
    found = verdicts(watch(tables.url, PLANWATCH_VERIFY="build"), BOTH)
    assert len(found) == 2
    assert {verdict.status for verdict in found.values()} == {VerdictStatus.UNTESTED}
    assert all("no time to see" in verdict.reason for verdict in found.values())


def test_time_to_leave_out_one_of_two(tables, watch, monkeypatch):
    Clock(monkeypatch, 1000, 1)
    found = verdicts(watch(tables.url, PLANWATCH_VERIFY="build"), BOTH)
    assert [verdict.status for verdict in found.values()].count(VerdictStatus.VERIFIED) == 1
    for verdict in found.values():
        # The cost that is known is the one with both.
        assert verdict.cost_after is None


def test_no_reason_that_was_not_tested(tables, watch, monkeypatch):
    """The first index saves too little; those after it were not tried."""
    Clock(monkeypatch, 1, 0)
    watched = watch(tables.url, PLANWATCH_VERIFY="build")
    seen = []

    def keep(sender, inspection):
        seen.append(inspection)

    with statement_inspected.connected_to(keep):
        found = verdicts(watched, SPREAD)
    said = [verdict.reason for verdict in found.values()]
    said += [one.reason for one in seen[0].dismissals if one.rule == "missing-index"]
    assert said
    assert all("1 of " in reason for reason in said), said


def test_the_size_is_that_of_the_index(tables, watch, monkeypatch):
    Clock(monkeypatch, 1000, 0)
    findings = watch(tables.url, PLANWATCH_VERIFY="build").ask(BOTH)
    sizes = {one.summary: one.index_bytes for finding in findings for one in finding.advice}
    # An entry of 40 000 takes 16 bytes at least, or its share of a list of duplicates 6.
    assert all(size > 40_000 * 6 for size in sizes.values()), sizes

"""Severity follows what a finding costs today."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from sqlalchemy import func

from flask_planwatch import Severity
from flask_planwatch.capture import database_time
from flask_planwatch.finding import Advice, AdviceKind, Verdict, VerdictStatus
from flask_planwatch.indexes.verdict import Advised
from flask_planwatch.inspection import findings
from flask_planwatch.plan.comparison import comparisons
from flask_planwatch.plan.evidence import Hit, Suspicion
from flask_planwatch.plan.schema import Schema
from flask_planwatch.plan.tree import Plan

from .indexes.data import table
from .models import Badge, User

LOGIN = sa.select(User.id).where(func.lower(User.email) == "x")

#: Works out far more, and on one processor.
OTHER = sa.text("SELECT count(*) FROM generate_series(1, 1000000) AS g WHERE md5(g::text) = 'x'")


def test_warning(story, watch, processor_time):
    (finding,) = watch(story.url).ask(LOGIN)
    assert finding.severity is Severity.WARNING


def test_critical_if_it_took_a_second(story, watch, processor_time):
    processor_time.count_waiting()
    # An InitPlan runs once.
    wait = sa.select(func.pg_sleep(1.0)).scalar_subquery()
    (finding,) = watch(story.url).ask(LOGIN.where(wait.is_not(None)))
    assert finding.duration_ms >= 1000
    assert finding.severity is Severity.CRITICAL


def test_what_waits_for_something_else_is_no_time_of_a_finding(story, watch, processor_time):
    """To find six of 3000 rows never took a second."""
    processor_time.count_waiting()
    statement = sa.text("SELECT id, (SELECT pg_sleep(1.0)) IS NULL FROM waiting WHERE state = 7")
    watched = watch(story.url, PLANWATCH_VERIFY="build")
    story.execute(
        "CREATE TABLE waiting AS SELECT g AS id, g % 500 AS state FROM generate_series(1, 3000) g",
        "ANALYZE waiting",
    )
    (finding,) = watched.ask(statement)
    assert finding.duration_ms >= 1000
    assert finding.severity is Severity.WARNING


def test_a_small_table_is_never_critical(story, watch, processor_time):
    processor_time.count_waiting()
    wait = sa.select(func.pg_sleep(1.0)).scalar_subquery()
    statement = sa.select(Badge.id).where(Badge.owner == "x", wait.is_not(None))
    (finding,) = watch(story.url, PLANWATCH_GROWTH=True).ask(statement)
    assert finding.duration_ms >= 1000
    assert finding.severity is Severity.INFO


def test_a_finding_is_as_grave_as_its_share_of_the_statement(story, watch, processor_time):
    """The second that is waited for belongs to another step, which has the cost as well."""
    processor_time.count_waiting()
    dear = "SELECT count(*) FROM generate_series(1, 3000000) AS g WHERE g > 7"
    wait = sa.text(f"(SELECT pg_sleep(1)) IS NOT NULL AND ({dear}) > 7")
    (finding,) = watch(story.url).ask(LOGIN.where(wait))
    assert finding.duration_ms >= 1000
    assert finding.severity is Severity.WARNING


def seq_scan(name, cost, **more):
    return {
        "Node Type": "Seq Scan",
        "Relation Name": name,
        "Schema": "public",
        "Alias": name,
        "Total Cost": cost,
        **more,
    }


def share(scan, *, keys, plans=(), **root):
    """Return the share of what is said of the table `few`, whose scan costs 20 of 1000."""
    document = {"Total Cost": 1000.0, "Plans": [seq_scan("many", 900.0), *plans, scan], **root}
    plan = Plan.from_json({"Node Type": "Hash Join", **document})
    few = table(name="few")
    schema = Schema({one.key: one for one in (few, table(name="many"))})
    (node,) = (one for one in plan.scans if one.alias == "few")
    tested = tuple(one for one in comparisons(plan, schema) if one.scan is node)
    return Suspicion("missing-index", few, "", keys, (node,), tested).share(plan)


def test_the_share_of_a_scan():
    assert share(seq_scan("few", 20.0, Filter="(few.town = 't'::text)"), keys=("town",)) == 0.02


def test_what_is_sorted_counts_where_an_index_would_sort():
    scan = seq_scan("few", 20.0)
    sort = {"Node Type": "Sort", "Sort Key": ["few.at"], "Total Cost": 300.0, "Plans": [scan]}
    assert share(sort, keys=("at",)) == 0.3


def with_sub_plan(*, output=(), condition="", name="SubPlan 1"):
    """Return a plan that runs a scan of `few`, at a cost of 9, for each of 100 rows of `many`."""
    sub_plan = seq_scan("few", 9.0, **{"Parent Relationship": "SubPlan", "Subplan Name": name})
    more = {"Filter": condition} if condition else {}
    return Plan.from_json(
        seq_scan(
            "many",
            1000.0,
            **{"Plan Rows": 100.0, "Output": list(output), "Plans": [sub_plan]},
            **more,
        )
    )


def shares(plan):
    """Return the shares of both scans."""
    relations = {one.alias: table(name=one.alias) for one in plan.scans}
    return {
        node.alias: Suspicion("r", relations[node.alias], "", (), (node,), ()).share(plan)
        for node in plan.scans
    }


def test_a_sub_query_in_the_output_has_the_cost_of_all_its_runs():
    assert shares(with_sub_plan(output=["(SubPlan 1)"])) == {"many": 0.1, "few": 0.9}


def test_a_sub_query_in_a_condition_has_the_cost_that_it_adds():
    plan = with_sub_plan(condition="(many.id = (SubPlan 1))")
    assert shares(plan) == {"many": 1.0, "few": 1.0}


def test_a_sub_query_that_returns_a_parameter_is_the_same():
    """Up to 17, EXPLAIN calls some by what they return."""
    plan = with_sub_plan(condition="(many.id = (SubPlan 1))", name="SubPlan 1 (returns $1)")
    assert shares(plan) == {"many": 1.0, "few": 1.0}


def test_a_hashed_sub_query_runs_once():
    plan = with_sub_plan(condition="(NOT (ANY (many.id = (hashed SubPlan 1).col1)))")
    assert shares(plan) == {"many": 1.0, "few": 0.009}


def test_a_scan_that_a_limit_stops_has_no_more_than_all():
    assert share(seq_scan("few", 5000.0), keys=()) == 1.0


def test_critical_if_it_takes_a_fifth_of_the_time(story, watch, processor_time, monkeypatch):
    watched = watch(story.url)
    (finding,) = watched.ask(LOGIN)
    assert finding.severity is Severity.WARNING, "too little time was seen to speak of a share"
    monkeypatch.setattr(database_time, "MEANINGFUL_TOTAL_MS", finding.duration_ms * 2)
    for _ in range(3):
        (finding,) = watched.ask(LOGIN)
    assert finding.severity is Severity.CRITICAL
    assert finding.calls == 4


def test_warning_if_others_take_the_time(story, watch, processor_time, monkeypatch):
    monkeypatch.setattr(database_time, "MEANINGFUL_TOTAL_MS", 0.0)
    watched = watch(story.url)
    watched.ask(OTHER)
    (finding,) = watched.ask(LOGIN)
    assert finding.severity is Severity.WARNING


INFO, WARNING, CRITICAL = Severity.INFO, Severity.WARNING, Severity.CRITICAL

#: What this execution took in ms, what all of the statement did, what other statements save by the
#: same advice, the database time, the part of the statement that is saved, and how grave that is.
SAVINGS = {
    "a developer's first request": (90, 90, 0, 90, 1.0, WARNING),
    "another page took long before it": (90, 90, 0, 59_000, 1.0, WARNING),
    "a minute, in which it ran once": (90, 90, 0, 60_000, 1.0, INFO),
    "just worth a ticket": (90, 600, 0, 60_000, 1.0, WARNING),
    "just not": (90, 599, 0, 60_000, 1.0, INFO),
    "the advice leaves nine tenths of it": (90, 3000, 0, 60_000, 0.1, INFO),
    "the advice leaves half of it": (90, 3000, 0, 60_000, 0.5, WARNING),
    "others save by the same advice": (90, 300, 300, 60_000, 1.0, WARNING),
    "with others it is a fifth of the time": (90, 300, 11_700, 60_000, 1.0, CRITICAL),
    "a second, once in an hour of database time": (1200, 1200, 0, 3_600_000, 1.0, INFO),
    "a second each time": (1200, 36_000, 0, 3_600_000, 1.0, CRITICAL),
    "under a millisecond": (0.9, 0.9, 0, 90, 1.0, INFO),
    "a fix that saves less than that": (9, 9, 0, 90, 0.1, INFO),
    "under a millisecond, rarely": (0.9, 9, 0, 10_000, 1.0, INFO),
    "under a millisecond, again and again": (0.9, 100, 0, 10_000, 1.0, WARNING),
}


def capture(took_ms, total_ms, all_total_ms, *, failed=False):
    return SimpleNamespace(
        waited_ms=took_ms,
        statistics=SimpleNamespace(total_ms=total_ms),
        sampler=SimpleNamespace(total_ms=all_total_ms),
        failed=failed,
    )


def hit_of(rule="missing-index", scans=(), **more):
    few = table(name="few")
    suspicion = Suspicion(rule, few, "town", ("town",), scans, ())
    return Hit(suspicion, "It is slow.", what="Seq Scan", why="no index", **more)


@pytest.mark.parametrize("name", SAVINGS)
def test_a_finding_is_as_grave_as_what_its_fix_saves(name):
    took_ms, total_ms, others_ms, all_total_ms, saved, severity = SAVINGS[name]
    taken = capture(took_ms, total_ms, all_total_ms)
    assert findings._severity(taken, hit_of(), saved, others_ms) is severity


def test_what_failed_is_critical_however_rare():
    taken = capture(90, 90, 3_600_000, failed=True)
    assert findings._severity(taken, hit_of("statement-failed"), 1.0) is CRITICAL
    assert findings._severity(taken, hit_of(), 1.0) is CRITICAL, "it is the cure"


ONE_SCAN = Plan.from_json(seq_scan("few", 100.0))
LIMITED = Plan.from_json({"Node Type": "Limit", "Total Cost": 3.0, "Plans": [seq_scan("few", 9.0)]})

#: What the statement took: less than its cost explains.
TOOK_MS = 50.0

#: The part that the finding has of the statement, the verdict on its advice, and what is saved.
PARTS = {
    "all but a tenth": (1.0, ("verified", 100.0, 10.0), {}, 0.9),
    "the statement has more, the finding has not": (0.4, ("verified", 100.0, 10.0), {}, 0.4),
    "a guess": (1.0, ("verified", 100.0, 50.0), {"guess": True}, 1.0),
    "nothing was tried": (1.0, ("untested", None, None), {}, 1.0),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_fix_saves_what_the_planner_says_and_no_more_than_the_finding(name):
    share, (status, before, after), more, saved = PARTS[name]
    verdict = Verdict(VerdictStatus(status), cost_before=before, cost_after=after, **more)
    advised = Advised((Advice(AdviceKind.CREATE_INDEX, "CREATE INDEX", verdict),))
    part = findings._saved_share(hit_of(share=share), advised, ONE_SCAN, TOOK_MS)
    assert part == pytest.approx(saved)
    # Its cost is that of the part that is read if all goes well.
    stopped = hit_of(share=share, scans=LIMITED.scans)
    assert findings._saved_share(stopped, advised, LIMITED, TOOK_MS) == share
    # Nor does the cost show what a sub-query for each row takes.
    assert (
        findings._saved_share(hit_of(share=share, fix="join"), advised, ONE_SCAN, TOOK_MS) == share
    )


def test_info_if_others_take_nearly_all_of_the_time(story, watch):
    watched = watch(story.url)
    sampler = watched.app.extensions["planwatch"].sampler
    sampler.total_ms = 3_600_000.0
    (finding,) = watched.ask(LOGIN)
    assert finding.severity is Severity.INFO
    sampler.total_ms = finding.duration_ms * 2
    (finding,) = watched.ask(LOGIN)
    assert finding.severity is not Severity.INFO


def test_a_warning_becomes_an_info_once_others_took_nearly_all_of_the_time(story, watch):
    watched = watch(story.url)
    (finding,) = watched.ask(LOGIN)
    assert finding.severity is not Severity.INFO
    watched.app.extensions["planwatch"].sampler.total_ms = 3_600_000.0
    (later,) = watched.findings()
    assert later.severity is (
        Severity.CRITICAL if finding.severity is Severity.CRITICAL else Severity.INFO
    )


def test_what_other_statements_save_by_the_same_fix_counts(story, watch, monkeypatch):
    monkeypatch.setattr(database_time, "MEANINGFUL_TOTAL_MS", 0.0)
    monkeypatch.setattr(database_time, "LONG_TOTAL_MS", 0.0)
    # No statement has more than all of the time.
    monkeypatch.setattr(database_time, "MIN_SHARE", 1.001)
    watched = watch(story.url)
    sampler = watched.app.extensions["planwatch"].sampler
    (first,) = watched.ask(LOGIN)
    assert first.severity is Severity.INFO
    assert 0 < first.saves_ms <= first.duration_ms
    sampler.total_ms = 0.0
    both = watched.ask(sa.select(User.last).where(func.lower(User.email) == "x"))
    (second,) = (finding for finding in both if finding.id != first.id)
    assert second.group == first.group
    assert second.severity is Severity.CRITICAL

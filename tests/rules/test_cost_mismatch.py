"""cost-mismatch tells a statement whose time its cost does not explain from one whose cost does."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest
import sqlalchemy as sa

from flask_planwatch.finding import StatementError
from flask_planwatch.plan.evidence import Custom, Evidence, Hit, Miss, Prepared, Timings
from flask_planwatch.plan.schema import Schema
from flask_planwatch.plan.tree import Plan
from flask_planwatch.rules import cost_mismatch
from flask_planwatch.signals import statement_inspected

from ..stories import GENERIC_PLAN, LIMIT, SUB_QUERY, Product
from .test_generic_plan import run

SPEAKS = {"sub-query": SUB_QUERY["slow"], "LIMIT": LIMIT["slow"]}

TWINS = {
    "sub-query, rewritten": SUB_QUERY["fast"],
    "InitPlan": SUB_QUERY["InitPlan"],
    "hashed SubPlan": SUB_QUERY["hashed SubPlan"],
    "SubPlan with few loops": SUB_QUERY["few loops"],
    "LIMIT without a filter": LIMIT["no filter"],
    "LIMIT, a third passes": LIMIT["a third passes"],
}


@pytest.fixture(params=["psycopg2", "psycopg"])
def watched(request, each_stories, watch):
    return watch(each_stories.url_for(request.param))


def ask(watched, statement, times=4):
    for _ in range(times):
        watched.ask(statement)
    return found(watched)


def found(watched):
    return [one for one in watched.findings() if one.rule == "cost-mismatch"]


@pytest.mark.parametrize("name", SPEAKS)
def test_speaks(watched, name):
    (finding,) = ask(watched, SPEAKS[name].statement)
    assert finding.evidence["executions"] >= 3
    assert finding.evidence["ms_per_cost"] > finding.evidence["normal_ms_per_cost"] * 10
    assert finding.subject == "elapsed time"
    assert "PLANWATCH_ANALYZE would show which step" in finding.problem
    assert watched.planwatch.stats()["errors"] == 0


@pytest.mark.parametrize("name", TWINS)
def test_is_silent_on_twins(watched, name):
    assert ask(watched, TWINS[name].statement) == []


@pytest.mark.parametrize("name", SPEAKS)
def test_one_execution_proves_nothing(watched, name):
    assert ask(watched, SPEAKS[name].statement, times=2) == []


def test_is_silent_after_the_fix(fresh_stories, watch):
    case = LIMIT["fast"]
    watched = watch(fresh_stories.url)
    assert ask(watched, case.statement)
    fresh_stories.execute(*case.setup, "ANALYZE")
    # One fast execution is enough.
    assert ask(watched, case.statement, times=1) == []


def test_the_step_is_named_where_it_is_known(each_stories, watch):
    watched = watch(each_stories.url, PLANWATCH_ANALYZE=True, PLANWATCH_STATEMENT_TIMEOUT_MS=10_000)
    (finding,) = ask(watched, LIMIT["slow"].statement)
    assert "product" in finding.problem.partition("normal here.")[2]


def test_a_refused_analysis_is_not_said_to_help(each_stories, watch):
    """With PLANWATCH_ANALYZE, but for a statement that takes longer than PlanWatch's own limit."""
    watched = watch(each_stories.url, PLANWATCH_ANALYZE=True, PLANWATCH_STATEMENT_TIMEOUT_MS=500)

    def compute(*_):
        """What a listener does meanwhile counts as time of the statement."""
        end = time.thread_time() + 0.6
        while time.thread_time() < end:
            pass

    with watched.app.app_context():
        sa.event.listen(watched.db.engine, "do_execute", compute)
    (finding,) = ask(watched, LIMIT["slow"].statement)
    assert finding.evidence["fastest_ms"] > 500
    said = finding.problem.partition("normal here.")[2]
    assert "PLANWATCH_ANALYZE would show" not in said
    assert "it took longer than PLANWATCH_STATEMENT_TIMEOUT_MS" in said


def test_a_generic_plan_explains_the_time(each_stories, watch):
    """The executions take the generic plan, and the plan of their own costs next to nothing."""
    watched = watch(each_stories.url_for("psycopg"))
    # Once as the story goes, then again on the connection that has the generic plan.
    for times in (14, 4):
        run(watched, GENERIC_PLAN["JSON key"], times=times)
        assert "generic-plan" in {one.rule for one in watched.findings()}
        assert found(watched) == []


def test_an_execution_is_not_judged_by_slower_ones_with_other_values(each_stories, watch):
    """They come while PlanWatch is busy, and push the fast one out of the latest ten."""
    watched, case = watch(each_stories.url_for("psycopg2")), GENERIC_PLAN["JSON key"]
    busy, go_on, said = threading.Event(), threading.Event(), []

    def wait(sender, inspection):
        said.extend(finding.rule for finding in inspection.findings)
        busy.set()
        go_on.wait(60)

    with watched.app.app_context():
        with statement_inspected.connected_to(wait, watched.app):
            watched.db.session.execute(sa.select(Product.id).where(Product.id == 1))
            assert busy.wait(60)
            for value in [case.then] + [case.first] * 10:
                watched.db.session.execute(case.build(value)).all()
            go_on.set()
            assert watched.planwatch.flush(120)
        watched.db.session.remove()
    assert "cost-mismatch" not in said


def test_a_prepared_statement_that_keeps_its_plan_is_found(each_stories, watch):
    """Its generic plan is made for a tenth of all rows, so PostgreSQL does not choose it."""
    watched = watch(each_stories.url_for("psycopg"))
    with watched.app.app_context():
        for _ in range(13):
            watched.db.session.execute(LIMIT["slow"].statement).all()
            watched.db.session.commit()
    assert len(found(watched)) == 1


def test_a_cursor_on_the_server_returns_too_early_to_tell(each_stories, watch):
    watched = watch(each_stories.url)
    with watched.app.app_context(), watched.db.engine.connect() as connection:
        streaming = connection.execution_options(stream_results=True)
        for _ in range(5):
            list(streaming.execute(LIMIT["slow"].statement))
    assert found(watched) == []


def test_waiting_for_a_lock_is_another_matter(each_stories, watch, processor_time):
    """FOR UPDATE waits for others: its time says nothing of its plan."""
    processor_time.count_waiting()
    watched = watch(each_stories.url)
    waits = sa.select(Product.id).where(Product.id == 1, sa.func.pg_sleep(0.1).is_not(None))
    assert ask(watched, waits.with_for_update()) == []


def plan(cost, node="Seq Scan"):
    return Plan.from_json(
        {"Node Type": node, "Relation Name": "t", "Schema": "public", "Total Cost": cost}
    )


def judged(*recent, cost=10.0, overhead=0.1, normal=0.025, **changes):
    timings = Timings(recent, overhead, normal)
    evidence = Evidence(plan(cost), Schema(), "", 0, True, recent[-1], 1, timings=timings)
    (suspicion,) = cost_mismatch.suspect(evidence.plan, evidence.schema)
    return cost_mismatch.judge(suspicion, replace(evidence, **changes))


def test_the_fastest_execution_counts():
    assert isinstance(judged(500, 500, 500), Hit)
    assert isinstance(judged(500, 500, 1), Miss)
    assert isinstance(judged(500, 500), Miss), "two may both have waited"


def test_it_is_compared_with_what_is_normal():
    assert isinstance(judged(100, 100, 100, normal=0.9), Hit)
    assert isinstance(judged(100, 100, 100, normal=1.1), Miss)
    assert isinstance(judged(100, 100, 100, cost=1000.0), Miss)


def test_rows_and_the_way_to_the_server_are_taken_off():
    assert isinstance(judged(100, 100, 100, overhead=99.0), Miss)
    assert isinstance(judged(100, 100, 100, returned_rows=19_500), Miss)
    assert isinstance(judged(100, 100, 100, returned_rows=1_000), Hit)


def test_what_is_not_the_time_of_the_whole_statement():
    assert isinstance(judged(100, 100, 100, client_side=False), Miss)
    error = StatementError("QueryCanceled", "57014")
    assert isinstance(judged(100, 100, 100, error=error), Miss)


def prepared(*customs, generic):
    plans = tuple(Custom(plan(cost), forced_cost=generic) for cost in customs)
    order = tuple(range(len(customs)))
    return Prepared(5, plan(generic), plans, order, 0.0, reached=True, why="")


def test_the_dearer_plan_counts_once_the_generic_one_may_be_in_use():
    chosen = prepared(10.0, 2000.0, generic=900.0)
    assert isinstance(judged(100, 100, 100, prepared=chosen, executions=10), Hit)
    assert isinstance(judged(100, 100, 100, prepared=chosen, executions=11), Miss)
    hit = judged(300, 300, 300, prepared=chosen, executions=11)
    assert isinstance(hit, Hit)
    assert hit.evidence["total_cost"] == 900
    assert "at an estimated cost of 900: 0.33 ms for each unit" in hit.problem
    never = prepared(10.0, 10.0, generic=900.0)
    assert isinstance(judged(100, 100, 100, prepared=never, executions=11), Hit)


def test_nothing_is_said_of_a_generic_plan_that_is_not_known():
    assert isinstance(judged(100, 100, 100, executions=6), Miss)
    assert isinstance(judged(100, 100, 100, executions=5), Hit)


def two_steps():
    scan = {"Node Type": "Seq Scan", "Relation Name": "t", "Schema": "public", "Total Cost": 9.0}
    return Plan.from_json({"Node Type": "Limit", "Total Cost": 10.0, "Plans": [scan]})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "PLANWATCH_ANALYZE would show which step."),
        (
            {"analysable_ms": 100},
            "PLANWATCH_ANALYZE would show in which step, with a longer "
            "PLANWATCH_STATEMENT_TIMEOUT_MS.",
        ),
        (
            {"analysable_ms": 100, "not_analysed": "it took too long"},
            "EXPLAIN ANALYZE to see in which step: it took too long.",
        ),
    ],
)
def test_analyze_is_only_advised_where_it_would_show_more(changes, said):
    hit = judged(100, 100, 100, plan=two_steps(), **changes)
    assert isinstance(hit, Hit)
    assert hit.problem.endswith(said)


def test_analyze_shows_nothing_more_of_a_single_step():
    hit = judged(100, 100, 100)
    assert isinstance(hit, Hit)
    assert hit.problem.endswith("than what happens in the only step, Seq Scan on t.")


def test_analyze_is_not_advised_once_it_has_run():
    ran = {"Actual Rows": 1, "Actual Loops": 1, "Plan Rows": 1}
    scan = {"Node Type": "Seq Scan", "Relation Name": "t", "Schema": "public", **ran}
    analysed = Plan.from_json({"Node Type": "Limit", "Plans": [scan], **ran})
    hit = judged(100, 100, 100, plan=two_steps(), analysed=analysed)
    assert isinstance(hit, Hit)
    assert "PLANWATCH_ANALYZE" not in hit.problem
    assert "No step has more rows than expected" in hit.problem


def test_nobody_waits_for_some_ms():
    assert isinstance(judged(9, 9, 9, cost=1.0), Miss)


@pytest.mark.parametrize("node", ["ModifyTable", "LockRows", "Foreign Scan", "Custom Scan"])
def test_what_waits_for_others_is_not_suspected(node):
    assert cost_mismatch.suspect(plan(10.0, node), Schema()) == []


def test_a_statement_without_a_table_is_not_suspected():
    assert cost_mismatch.suspect(Plan.from_json({"Node Type": "Result"}), Schema()) == []

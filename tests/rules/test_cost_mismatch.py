"""cost-mismatch: a statement takes far longer than its cost explains."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest
import sqlalchemy as sa

from flask_planwatch.failure import StatementError
from flask_planwatch.plan.evidence import Custom, Evidence, Hit, Miss, Prepared, Timings
from flask_planwatch.plan.schema import Schema
from flask_planwatch.plan.tree import Plan
from flask_planwatch.rules import cost_mismatch
from flask_planwatch.server.explain import Query
from flask_planwatch.server.transaction import EXPLAIN
from flask_planwatch.signals import statement_inspected

from ..stories import GENERIC_PLAN, LIMIT, SUB_QUERY, Product
from .case import STORIES, Example, Rule, rows, silent, speaks, through
from .rule_in_app import run

# What makes the statements slow is said by the rules on it.
RULE = Rule(
    "cost-mismatch",
    STORIES,
    runs=4,
    beside=["bitmap-overread", "generic-plan", "limit-trap", "repeated-subplan"],
)

#: The statement on the page of the rule.
EXAMPLE = Example(
    'select(Product.id).where(Product.state == "active").order_by(Product.id).limit(100)',
    gone="Filter: ",
    of_stories=True,
    values=(None, None, None),
)

active_feed = LIMIT["slow"].statement

SPEAKS = [
    speaks(
        "a sub-query that runs more often than expected",
        SUB_QUERY["slow"].statement,
        about="elapsed time on run",
        problem="PLANWATCH_ANALYZE would show which step",
        evidence={"executions": 4},
    ),
    speaks(
        "a LIMIT that is reached late",
        active_feed,
        about="elapsed time on product",
        problem="PLANWATCH_ANALYZE would show which step",
        evidence={"executions": 4},
    ),
]

#: Takes some 30 ms of the server's time.
HEAVY = (
    "CREATE FUNCTION heavy(x int) RETURNS int LANGUAGE plpgsql IMMUTABLE COST 1 AS $$ "
    "DECLARE s int := x; "
    "BEGIN FOR i IN 1..300000 LOOP s := (s * 31 + 7) % 1000003; END LOOP; RETURN s; END $$"
)

ANALYSED = [
    speaks(
        "a function whose COST is too low",
        sa.text("SELECT heavy(1 + id % 2) FROM product WHERE id = 7 LIMIT 5"),
        about="elapsed time on product",
        problem="No step has more rows than expected, so the time goes into something else",
        setup=HEAVY,
        PLANWATCH_ANALYZE=True,
        PLANWATCH_STATEMENT_TIMEOUT_MS=30_000,
    ),
]

SILENT = [
    silent("a join in place of the sub-query", SUB_QUERY["fast"].statement),
    silent("an InitPlan", SUB_QUERY["InitPlan"].statement),
    silent("a hashed SubPlan", SUB_QUERY["hashed SubPlan"].statement),
    silent("a SubPlan with few loops", SUB_QUERY["few loops"].statement),
    silent("LIMIT without a filter", LIMIT["no filter"].statement),
    silent("LIMIT, and a third passes", LIMIT["a third passes"].statement),
]

#: Two executions may both have waited.
TWICE = [silent(case.name, case.statement, runs=2) for case in SPEAKS]


@rows(SPEAKS, each_driver=True)
def test_speaks(rule, case):
    facts = rule.check(case).evidence
    assert facts["ms_per_cost"] > facts["normal_ms_per_cost"] * 10


@rows(ANALYSED, quick=0)
def test_names_the_cause_where_it_may_run_the_statement_again(rule, case):
    """No other rule asks for that."""
    rule.check(case)


@rows(SILENT, each_driver=True)
def test_stays_silent(rule, case):
    rule.check(case)


@rows(TWICE, quick=0, each_driver=True)
def test_two_executions_prove_nothing(rule, case):
    rule.check(case)


def test_falls_silent_after_the_fix(rule):
    database = rule.copy()
    app = rule.app(database)
    assert rule.ask(app, active_feed)
    database.execute(*LIMIT["fast"].setup, "ANALYZE")
    # One fast execution is enough.
    assert rule.ask(app, active_feed, runs=1) == []


def test_the_step_is_named_where_it_is_known(rule):
    app = rule.app(PLANWATCH_ANALYZE=True, PLANWATCH_STATEMENT_TIMEOUT_MS=10_000)
    (finding,) = rule.ask(app, active_feed)
    assert "product" in finding.problem.partition("normal here.")[2]


#: Takes 0.6 s, whatever the machine does, at next to no cost.
WAITS = sa.select(Product.id).where(
    Product.id == 1, sa.select(sa.func.pg_sleep(0.6)).scalar_subquery().is_not(None)
)


@pytest.mark.slow
def test_a_refused_analysis_is_not_said_to_help(rule, processor_time, monkeypatch):
    """With PLANWATCH_ANALYZE, but for a statement that takes longer than PlanWatch's own limit."""
    processor_time.count_waiting()
    monkeypatch.setattr("flask_planwatch.server.session.now", lambda: 0.0)
    app = rule.app(PLANWATCH_ANALYZE=True, PLANWATCH_STATEMENT_TIMEOUT_MS=500)
    for _ in range(4):
        run(app, WAITS)
    (finding,) = rule.of_rule(app.findings())
    assert finding.evidence["fastest_ms"] > 500
    said = finding.problem.partition("normal here.")[2]
    assert "PLANWATCH_ANALYZE would show" not in said
    assert "it took longer than PLANWATCH_STATEMENT_TIMEOUT_MS" in said


@pytest.mark.slow
def test_what_a_listener_computes_is_no_time_of_the_server(rule):
    app = rule.app()

    def compute(*_):
        end = time.thread_time() + 0.1
        while time.thread_time() < end:
            pass

    with app.app.app_context():
        sa.event.listen(app.db.engine, "do_execute", compute)
    assert rule.ask(app, sa.select(Product.id).where(Product.id == 1)) == []


@pytest.mark.slow
def test_the_statement_runs_once_more_only_if_it_is_slow(rule):
    """Otherwise each statement of an app with PLANWATCH_ANALYZE would run once more."""
    app = rule.app(PLANWATCH_ANALYZE=True, PLANWATCH_STATEMENT_TIMEOUT_MS=10_000)
    asked, explain = [], Query.explain

    def noted(query, transaction, form=EXPLAIN):
        asked.append("ANALYZE" in form)
        return explain(query, transaction, form)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Query, "explain", noted)
        # No other rule asks for it.
        assert rule.ask(app, sa.select(Product.state).where(Product.id == 1)) == []
        assert asked
        assert not any(asked)


def run_each(app, build, values, *, end="rollback"):
    """Run a statement for each value in turn, each in a transaction that ends like this."""
    with app.app.app_context():
        for value in values:
            app.db.session.execute(build(value)).all()
            getattr(app.db.session, end)()
        app.db.session.remove()


@pytest.mark.slow
@through("psycopg")
def test_a_generic_plan_explains_the_time(rule):
    """The executions take the generic plan, and the plan of their own costs next to nothing."""
    app, case = rule.app(), GENERIC_PLAN["JSON key"]
    # Once as the story goes, then again on the connection that has the generic plan.
    for times in (10, 0):
        run_each(app, case.build, [case.first] * times + [case.then] * 4, end="commit")
        findings = app.findings()
        assert "generic-plan" in {finding.rule for finding in findings}
        assert rule.of_rule(findings, beside=["functional-predicate"]) == []


@through("psycopg2")
def test_an_execution_is_not_judged_by_slower_ones_with_other_values(rule):
    """They come while PlanWatch is busy, and push the fast one out of the latest ten."""
    app, case = rule.app(), GENERIC_PLAN["JSON key"]
    busy, go_on, said = threading.Event(), threading.Event(), []

    def wait(sender, inspection):
        said.extend(finding.rule for finding in inspection.findings)
        busy.set()
        go_on.wait(60)

    with app.app.app_context():
        with statement_inspected.connected_to(wait, app.app):
            app.db.session.execute(sa.select(Product.id).where(Product.id == 1))
            assert busy.wait(60)
            for value in [case.then] + [case.first] * 10:
                app.db.session.execute(case.build(value)).all()
            go_on.set()
            assert app.planwatch.flush(120)
        app.db.session.remove()
    assert "cost-mismatch" not in said


@pytest.mark.slow
@through("psycopg")
def test_a_prepared_statement_that_keeps_its_plan_is_found(rule):
    """Its generic plan is made for a tenth of all rows, so PostgreSQL does not choose it."""
    app = rule.app()
    run_each(app, lambda _: active_feed, range(13), end="commit")
    assert len(rule.of_rule(app.findings())) == 1


def test_a_cursor_on_the_server_returns_too_early_to_tell(rule):
    app = rule.app()
    with app.app.app_context(), app.db.engine.connect() as connection:
        streaming = connection.execution_options(stream_results=True)
        for _ in range(5):
            list(streaming.execute(active_feed))
    assert rule.of_rule(app.findings()) == []


def test_waiting_for_a_lock_is_another_matter(rule, processor_time):
    """FOR UPDATE waits for others: its time says nothing of its plan."""
    processor_time.count_waiting()
    waits = sa.select(Product.id).where(Product.id == 1, sa.func.pg_sleep(0.1).is_not(None))
    assert rule.ask(rule.app(), waits.with_for_update()) == []


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
    # Where most statements take little, some healthy ones take a hundred times as long.
    assert isinstance(judged(100, 100, 100, cost=1000.0, normal=0.001), Miss)
    assert isinstance(judged(100, 100, 100, cost=900.0, normal=0.001), Hit)


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


def test_planning_is_taken_off():
    document = {"Plan": plan(10.0).document["Plan"], "Planning Time": 95.0}
    planned = Plan.from_json(document)
    assert isinstance(judged(100, 100, 100, plan=planned), Miss)
    assert isinstance(judged(200, 200, 200, plan=planned), Hit)


def test_what_the_server_has_measured_counts():
    ran = {"Node Type": "Seq Scan", "Actual Rows": 1, "Actual Loops": 1, "Plan Rows": 1}
    calm = Plan.from_json({"Plan": ran, "Execution Time": 2.0})
    assert isinstance(judged(100, 100, 100, analysed=calm), Miss)
    slow = Plan.from_json({"Plan": ran, "Execution Time": 98.0})
    assert isinstance(judged(100, 100, 100, analysed=slow), Hit)


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
    assert hit.problem.endswith("what was executed in the only step, Seq Scan on t.")


def test_analyze_is_not_advised_once_it_has_run():
    ran = {"Actual Rows": 1, "Actual Loops": 1, "Plan Rows": 1}
    scan = {"Node Type": "Seq Scan", "Relation Name": "t", "Schema": "public", **ran}
    analysed = Plan.from_json({"Node Type": "Limit", "Plans": [scan], **ran})
    hit = judged(100, 100, 100, plan=two_steps(), analysed=analysed)
    assert isinstance(hit, Hit)
    assert "PLANWATCH_ANALYZE" not in hit.problem
    assert "No step has more rows than expected" in hit.problem
    assert hit.hint.startswith("look at the functions that it calls")
    scan["Actual Rows"] = 100
    analysed = Plan.from_json({"Node Type": "Limit", "Plans": [scan], **ran})
    hit = judged(100, 100, 100, plan=two_steps(), analysed=analysed)
    assert hit.hint == "look at Seq Scan on t, which has more rows than expected"


def step(table, expected, rows, loops=1, removed=0):
    return {
        "Node Type": "Seq Scan",
        "Relation Name": table,
        "Schema": "public",
        "Plan Rows": expected,
        "Actual Rows": rows,
        "Actual Loops": loops,
        "Rows Removed by Filter": removed,
    }


def hint(*steps):
    root = {"Node Type": "Nested Loop", "Plan Rows": 10, "Actual Rows": 10, "Actual Loops": 1}
    analysed = Plan.from_json({**root, "Plans": list(steps)})
    hit = judged(100, 100, 100, plan=two_steps(), analysed=analysed)
    assert isinstance(hit, Hit)
    return hit.hint


def test_the_step_is_chosen_by_the_rows_of_one_loop():
    many_loops = step("a", 10, 12.94, loops=16_500)
    discards = step("b", 10_000, 20, removed=1_176_000)
    said = "look at Seq Scan on b, which discards far more than it returns"
    assert hint(many_loops, discards) == hint(discards, many_loops) == said
    assert hint(many_loops) == "look at Seq Scan on a, which has more rows than expected"


def test_rows_of_workers_are_compared_with_those_of_workers():
    # 240 rows were expected: 100 of each of two workers, and of the leader what is left to it.
    scan = {**step("a", 100, 80, loops=3), "Parallel Aware": True, "Parent Relationship": "Outer"}
    gathered = {
        "Node Type": "Gather",
        "Workers Planned": 2,
        "Plan Rows": 240,
        "Actual Rows": 240,
        "Actual Loops": 1,
        "Plans": [scan],
    }
    assert hint(gathered).startswith("look at the functions")
    scan["Actual Rows"] = 800
    assert hint(gathered) == "look at Parallel Seq Scan on a, which has more rows than expected"


def limited(*, rows, removed=0):
    """A LIMIT that is expected to stop a scan, which costs 1000, after a hundredth of its rows."""
    scan = step("a", 10_000, rows, removed=removed)
    scan |= {"Startup Cost": 0.0, "Total Cost": 1000.0}
    root = {"Node Type": "Limit", "Total Cost": 10.0, "Plan Rows": 100, "Actual Rows": 100}
    analysed = Plan.from_json({**root, "Actual Loops": 1, "Plans": [scan]})
    hit = judged(100, 100, 100, plan=two_steps(), analysed=analysed)
    assert isinstance(hit, Hit)
    return hit


def test_under_a_limit_a_step_is_expected_to_return_a_part_of_its_rows():
    assert "No step has more rows than expected" in limited(rows=100).problem
    said = "Seq Scan on a returned 900 rows, where the planner expected 100 in all."
    assert limited(rows=900).problem.endswith(said)


def test_a_step_may_read_as_many_rows_as_its_cost_allows():
    # A hundredth of 1000 units, with 100 rows for each; and three times as much without workers.
    assert "No step has more rows than expected" in limited(rows=100, removed=2800).problem
    said = "Seq Scan on a discarded 90,000 rows and returned 100."
    assert limited(rows=100, removed=90_000).problem.endswith(said)


def test_a_step_is_said_to_do_what_it_does():
    assert hint(step("a", 10, 40, removed=100)) == (
        "look at Seq Scan on a, which discards more than it returns"
    )
    assert hint(step("a", 10, 40, removed=39)) == (
        "look at Seq Scan on a, which has more rows than expected"
    )
    # What is discarded beside as many rows as expected is nothing to look at.
    assert hint(step("a", 100, 90, loops=50, removed=80)).startswith("look at the functions")


def test_nobody_waits_for_some_ms():
    assert isinstance(judged(9, 9, 9, cost=1.0), Miss)


@pytest.mark.parametrize("node", ["ModifyTable", "LockRows", "Foreign Scan", "Custom Scan"])
def test_what_waits_for_others_is_not_suspected(node):
    assert cost_mismatch.suspect(plan(10.0, node), Schema()) == []


def test_a_statement_without_a_table_is_not_suspected():
    assert cost_mismatch.suspect(Plan.from_json({"Node Type": "Result"}), Schema()) == []

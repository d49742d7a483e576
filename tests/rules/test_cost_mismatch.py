"""cost-mismatch tells a statement whose time its cost does not explain from one whose cost does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sqlalchemy as sa

from flask_planwatch.finding import StatementError
from flask_planwatch.plan.evidence import Evidence, Hit, Miss, Timings
from flask_planwatch.plan.schema import Schema
from flask_planwatch.plan.tree import Plan
from flask_planwatch.rules import cost_mismatch

from ..stories import LIMIT, SUB_QUERY, Product

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


def test_nobody_waits_for_some_ms():
    assert isinstance(judged(9, 9, 9, cost=1.0), Miss)


@pytest.mark.parametrize("node", ["ModifyTable", "LockRows", "Foreign Scan", "Custom Scan"])
def test_what_waits_for_others_is_not_suspected(node):
    assert cost_mismatch.suspect(plan(10.0, node), Schema()) == []


def test_a_statement_without_a_table_is_not_suspected():
    assert cost_mismatch.suspect(Plan.from_json({"Node Type": "Result"}), Schema()) == []

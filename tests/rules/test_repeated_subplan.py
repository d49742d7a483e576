"""repeated-subplan: a sub-query runs again for each of many rows."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import sqlalchemy as sa
from sqlalchemy import func, select
from sqlalchemy.orm import aliased

from flask_planwatch import AdviceKind, VerdictStatus
from flask_planwatch.failure import StatementError
from flask_planwatch.fixes.join import verdict_on
from flask_planwatch.fixes.unnest import joined
from flask_planwatch.plan.evidence import Hit, Miss, Timings
from flask_planwatch.plan.schema import Schema
from flask_planwatch.plan.tree import Plan
from flask_planwatch.plan.work import Work
from flask_planwatch.rules import repeated_subplan

from ..indexes.data import table
from ..plan import SERVERS
from ..stories import (
    SUB_QUERY,
    Account,
    Job,
    Queue,
    Run,
    Stack,
    WorkerPool,
    pending_runs,
    pending_runs_joined,
)
from .case import (
    STORIES,
    Example,
    Rule,
    each_driver,
    followed,
    rows,
    set_for_all,
    silenced,
    silent,
    speaks,
    with_settings,
)
from .without_server import judged_by, recorded

RULE = Rule(
    "repeated-subplan",
    STORIES,
    beside=["bitmap-overread", "cost-mismatch", "missing-index", "row-misestimate"],
)

#: The statement on the page of the rule.
EXAMPLE = Example(
    "select(Stack.id, select(func.max(Run.created_at)).where(Run.stack_id == Stack.id)"
    ".scalar_subquery())",
    rewritten="select(Stack.id, func.max(Run.created_at))"
    ".outerjoin(Run, Run.stack_id == Stack.id).group_by(Stack.id)",
    gone="SubPlan 1",
    new="Join",
    config={"PLANWATCH_ANALYZE": True},
    of_stories=True,
)

COUNTED = {"PLANWATCH_ANALYZE": True}

other = aliased(Run, name="other")

_latest = select(func.max(Run.created_at)).where(Run.stack_id == Stack.id).scalar_subquery()
_beyond = sa.exists().where(Run.stack_id == other.stack_id, Run.state > other.type + 5)
_known = select(Run.type).where(Run.stack_id == other.stack_id, Run.state > other.type + 5)
_some = select(other.id).where(other.id < 5000)
_least = select(func.min(other.type)).where(other.stack_id == Stack.id).scalar_subquery()
_waiting = select(func.count()).where(Job.state == "waiting", Job.queue_id == Queue.id)

LATE = sa.text("timestamptz '2024-01-01'")

#: Hardly anything fits into a hash table.
SHORT_OF_MEMORY = set_for_all("work_mem", "64kB")

SPEAKS = [
    speaks(
        # 5 is the estimate of the step whose rows are tested.
        "the runs were counted",
        pending_runs,
        about="SubPlan 1 on run",
        problem=(
            "runs again for each row that Hash Join tests: that is 1,000 times",
            "where the planner expected 5 times",
        ),
        evidence={"expected_runs": 5, "actual_runs": 1000},
        fix="join a sub-query that is grouped by worker_pool_id and account_id, in place "
        "of one that runs for each row",
        code=(
            'func.count().label("value")',
            "Stack.account_id",
            "Stack.worker_pool_id",
            "grouped.c.account_id == Account.id",
            "grouped.c.worker_pool_id == WorkerPool.id",
            "func.coalesce(grouped.c.value, 0)",
        ),
        proof=(
            "SubPlan 1, which ran 1,000 times, is gone",
            "run and stack are read once, for a Hash Join (…)",
        ),
        rewritten=pending_runs_joined,
        **COUNTED,
    ),
    speaks(
        # For each of a hundred queues.
        "a sub-query that finds nothing but dead rows",
        select(Queue.name, _waiting.scalar_subquery()),
        evidence={"actual_runs": 100},
        **COUNTED,
    ),
    speaks(
        # Each row is compared with all values.
        "NOT IN that is not hashed",
        select(Account.id).where(Account.id.not_in(select(Run.id).where(Run.id > 20_000))),
        setup=SHORT_OF_MEMORY,
        evidence={"expected_runs": 260},
        fix="…NOT EXISTS…",
        proof=(
            "SubPlan 1 is gone",
            "run is read once, for a … Join (…Anti)",
        ),
        rewritten=select(Account.id).where(
            ~sa.exists().where(Run.id == Account.id, Run.id > 20_000)
        ),
    ),
    speaks(
        # Half of the 50,000 runs are on these stacks.
        "in the filter of a join, for each row that its own condition leaves",
        select(func.count())
        .select_from(Run)
        .join(Stack, Stack.id == Run.stack_id)
        .where(Stack.account_id > 130, Run.type < _least),
        about="SubPlan 1 on run",
        problem="runs again for each row that Hash Join tests",
        evidence={"expected_runs": "2…"},
    ),
    speaks(
        # The pools have nothing to do with the stacks.
        "a join without a condition is the cause",
        select(Stack.id, _latest).join(WorkerPool, sa.true()).where(Stack.id <= 50),
        about="SubPlan 1 on run",
        problem=(
            "No condition compares a row of stack with a row of worker_pool",
            "so each of the 50 rows is combined with each of the 200",
        ),
        fix="write the condition that joins stack and worker_pool, or leave worker_pool out",
        proof="not-applicable: only the author of the statement …",
    ),
    speaks(
        # The column has no NULL, but it may.
        "NOT IN of a column that may be NULL",
        select(Account.id).where(Account.id.not_in(select(Run.id).where(Run.id > 20_000))),
        setup=(
            SHORT_OF_MEMORY,
            "ALTER TABLE run DROP CONSTRAINT run_pkey CASCADE",
            "ALTER TABLE run ALTER id DROP NOT NULL",
        ),
        fix="write NOT EXISTS in place of NOT IN: …",
        proof="untested: id may be NULL, and then NOT EXISTS finds other rows; declare what never "
        "is NOT NULL",
    ),
    speaks(
        "nothing is tried if that is off",
        pending_runs,
        proof='untested: …PLANWATCH_VERIFY is "off"…',
        PLANWATCH_VERIFY="off",
        **COUNTED,
    ),
    speaks(
        # The planner expects five runs, and both forms cost the same to it.
        "only the time tells",
        pending_runs,
        about="SubPlan 1 on run",
        problem="the planner expects that to be 5 times, but even the fastest",
        evidence={"actual_runs": None},
        runs=3,
        each_driver=True,
    ),
]

#: Where a sub-query may stand; of the last two statements, no join can be derived.
PLACES = [
    speaks(
        "SELECT list",
        select(Stack.id, _latest),
        proof=(
            "SubPlan 1, which ran 1,040 times, is gone",
            "run is read once, for a Hash Join (…)",
        ),
    ),
    speaks(
        "the first of several",
        select(
            Stack.id,
            select(Run.state)
            .where(Run.stack_id == Stack.id)
            .order_by(Run.created_at.desc(), Run.id)
            .limit(1)
            .scalar_subquery(),
        ),
        fix="join a sub-query with DISTINCT ON (stack_id) in place of one that runs for each row",
        code=(".distinct(Run.stack_id)", ".order_by(Run.stack_id, …)", "first.c.stack_id == "),
        why="a plain join would multiply the rows",
        proof=(
            "SubPlan 1, which ran 1,040 times, is gone",
            "run is read once, for a … Join (…)",
        ),
    ),
    speaks(
        "argument of an aggregate",
        select(func.max(_latest)).select_from(Stack),
        proof=(
            "SubPlan 1, which ran 1,040 times, is gone",
            "run is read once, for a Hash Join (…)",
        ),
    ),
    speaks(
        "WHERE",
        select(Stack.id).where(_latest > LATE),
        proof=(
            "SubPlan 1, which ran 1,040 times, is gone",
            "run is read once, for a Hash Join (…)",
        ),
    ),
    speaks(
        "ORDER BY",
        select(Stack.id).order_by(_latest).limit(3),
        proof=(
            "SubPlan 1, which ran 1,040 times, is gone",
            "run is read once, for a Hash Join (…)",
        ),
    ),
    speaks(
        "in a sub-query",
        select(Account.id).where(
            select(func.count())
            .where(Stack.account_id == Account.id, _latest > LATE)
            .scalar_subquery()
            > 0
        ),
        proof=(
            "SubPlan 2, which ran 260 times, is gone",
            "run and stack are read once, for a Hash Join (…)",
        ),
    ),
    speaks(
        "beside OR",
        _some.where(sa.or_(other.type < 0, _beyond)),
        proof="untested: PlanWatch cannot derive the rewritten statement; run EXPLAIN on it, "
        "and look whether SubPlan 1 is gone",
    ),
    speaks(
        "correlated IN",
        _some.where(sa.or_(other.type < 0, other.type.in_(_known))),
        proof="untested: PlanWatch cannot derive the rewritten statement; run EXPLAIN on it, "
        "and look whether SubPlan 1 is gone",
    ),
]

SILENT = [
    silent("a join in its place", SUB_QUERY["fast"].statement, runs=3),
    silent("an InitPlan", SUB_QUERY["InitPlan"].statement, runs=3),
    silent("a hashed SubPlan", SUB_QUERY["hashed SubPlan"].statement, runs=3),
    silent("few loops", SUB_QUERY["few loops"].statement, runs=3),
]

DISMISSED = [
    silent(
        "a page with a sub-query for each row",
        select(Stack.id, _latest).order_by(Stack.id).limit(50),
        reason="the sub-query runs 50 times",
        **COUNTED,
    ),
    silent(
        # The plan is that of NOT IN above; that the first values match, only the time tells.
        "NOT IN whose values are found at once",
        select(Account.id).where(Account.id.not_in(select(Run.id))),
        setup=SHORT_OF_MEMORY,
        reason="the whole statement took …",
    ),
]

#: With an index for what each run looks for, a join would be no faster.
SILENCED = [
    silenced(
        "an index for what each run looks for",
        pending_runs,
        by=(*SUB_QUERY["indexed"].setup, "VACUUM run"),
        runs=3,
    ),
]


@rows(SPEAKS, quick=4)
def test_speaks(rule, case):
    rule.check(case)


@rows(followed(SPEAKS), quick=2)
def test_falls_silent_after_the_fix(rule, case):
    rule.check_fix(case)


@rows(with_settings(PLACES, **COUNTED), quick=2)
def test_speaks_wherever_the_sub_query_stands(rule, case):
    finding = rule.check(case)
    assert finding.relation == "run"
    assert finding.evidence["actual_runs"] >= 260


@rows(SILENT, quick=2)
def test_stays_silent(rule, case):
    rule.check(case)


@rows(with_settings(SILENT, **COUNTED), quick=2)
def test_stays_silent_when_the_runs_are_counted(rule, case):
    rule.check(case)


@rows(DISMISSED)
def test_says_why_it_is_silent(rule, case):
    rule.check(case)


@rows(SILENCED)
def test_falls_silent_with_an_index(rule, case):
    rule.check(case)


@rows(with_settings(SILENCED, **COUNTED), quick=0)
def test_falls_silent_with_an_index_when_the_runs_are_counted(rule, case):
    rule.check(case)


@pytest.mark.slow
@each_driver
def test_speaks_through_each_driver(rule):
    rule.check(SPEAKS[0])


@pytest.mark.slow
@each_driver
def test_a_single_execution_proves_nothing(rule):
    assert rule.ask(rule.app(), pending_runs) == []


def test_the_costs_of_the_join_say_nothing(rule):
    """They are not even told; the sketch of the join is Python."""
    (finding,) = rule.ask(rule.app(**COUNTED), pending_runs)
    (advice,) = finding.advice
    assert (advice.kind, advice.verdict.status) == (AdviceKind.REWRITE, VerdictStatus.VERIFIED)
    assert (advice.verdict.cost_before, advice.verdict.cost_after) == (None, None)
    lines = [line for line in advice.sqlalchemy.splitlines() if "…" not in line]
    compile("\n".join(lines), "sketch", "exec")


def test_the_derived_statement_says_the_same(rule):
    """What the proof rests on is planned only, but it must be the statement's own question."""
    engine = sa.create_engine(rule.database.url, poolclass=sa.NullPool)
    compiled = pending_runs.compile(engine, compile_kwargs={"render_postcompile": True})
    derived = joined(str(compiled))
    assert derived is not None
    assert "(SELECT" in derived
    with engine.connect() as connection:
        results = [
            connection.execute(pending_runs).all(),
            connection.execute(pending_runs_joined).all(),
            connection.exec_driver_sql(derived, compiled.params).all(),
        ]
    assert results[0] == results[1] == results[2]
    assert results[0][0][0] > 0


# Without a server

ROWS = {"run": 50_000, "stack": 1040, "account": 260, "worker_pool": 200}

TABLES = Schema({f"public.{name}": table(name=name, rows=rows) for name, rows in ROWS.items()})


def judged(plan: Plan, *, schema=TABLES, **known) -> Hit | Miss:
    return judged_by(repeated_subplan, plan, schema, **known)


@pytest.mark.parametrize("server", SERVERS)
def test_recorded_plans_of_the_story(server):
    slow, ran = (recorded(f"story-3-{name}-{server}") for name in ("slow", "slow-analysed"))
    hit = judged(slow, analysed=ran)
    assert isinstance(hit, Hit)
    assert hit.evidence["actual_runs"] == 1000
    assert judged(slow).reason == "the sub-query runs 5 times"
    slowly = Timings((250.0, 260.0, 255.0), 0.3, 0.02)
    assert isinstance(judged(slow, timings=slowly), Hit)
    assert isinstance(judged(slow, timings=replace(slowly, recent=(250.0, 260.0))), Miss)
    assert isinstance(judged(slow, timings=replace(slowly, recent=(250.0, 260.0, 2.0))), Miss)
    assert isinstance(judged(slow, timings=slowly, client_side=False), Miss)


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize(
    ("name", "took"), [("hashed", 2500.0), ("indexed", 30.0), ("few-loops", 15.0)]
)
def test_recorded_plans_that_the_time_does_not_speak_against(server, name, took):
    """Another cause, or no more time than reading the tables takes."""
    timings = Timings((took, took + 1, took + 2), 0.3, 0.02)
    assert isinstance(judged(recorded(f"story-3-{name}-{server}"), timings=timings), Miss)


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("name", ["hashed", "few-loops"])
def test_recorded_plans_of_its_twins(server, name):
    plan = recorded(f"story-3-{name}-{server}")
    assert isinstance(judged(plan), Miss)
    ran = recorded(f"story-3-{name}-analysed-{server}")
    assert isinstance(judged(plan, analysed=ran), Miss)


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("name", ["init-plan", "fast"])
def test_a_plan_without_such_a_sub_query_is_not_suspected(server, name):
    assert repeated_subplan.suspect(recorded(f"story-3-{name}-{server}"), TABLES) == []


def sub_plan(name="SubPlan 1", *, rows=1, cost=60.0, below=(), **changes):
    """Return a sub-query that finds 50 rows of `run` by an index and aggregates them."""
    scan = {
        "Node Type": "Index Scan",
        "Parent Relationship": "Outer",
        "Schema": "public",
        "Relation Name": "run",
        "Alias": "r",
        "Index Name": "run_stack",
        "Index Cond": "(r.stack_id = s.id)",
        "Plan Rows": 50,
        "Total Cost": cost - 1,
        "Plans": list(below),
        **changes,
    }
    return {
        "Node Type": "Aggregate",
        "Parent Relationship": "SubPlan",
        "Subplan Name": name,
        "Plan Rows": rows,
        "Total Cost": cost,
        "Plans": [scan],
    }


def holder(*sub_plans, rows=1040, cost=70_000.0, **changes):
    """Return a Seq Scan of `stack` that holds sub-queries."""
    return {
        "Node Type": "Seq Scan",
        "Schema": "public",
        "Relation Name": "stack",
        "Alias": "s",
        "Plan Rows": rows,
        "Total Cost": cost,
        "Plans": list(sub_plans),
        **changes,
    }


def join(sub_plan, kind="Hash Join", *, rows, test):
    """Return a join of 1,040 rows with 2,000 whose own filter holds a sub-query."""
    other = {**SCAN, "Plan Rows": 2000, "Parent Relationship": "Inner"}
    return {
        "Node Type": kind,
        "Join Type": "Inner",
        "Plan Rows": rows,
        "Total Cost": 70_000.0,
        "Join Filter": test,
        "Plans": [holder(**OUTER), other, sub_plan],
    }


def runs_of(document, name="SubPlan 1", schema=TABLES) -> float:
    work = Work(Plan.from_json({"Plan": document}), schema)
    (found,) = [one for one in work.sub_plans if one.name == name]
    return work.runs[id(found.node)]


SCAN = {
    "Node Type": "Seq Scan",
    "Schema": "public",
    "Relation Name": "run",
    "Alias": "r",
    "Plan Rows": 50_000,
}
LIMIT = {"Node Type": "Limit", "Plan Rows": 20}
SORT = {
    "Node Type": "Sort",
    "Plan Rows": 1040,
    "Sort Key": ["s.id"],
    "Parent Relationship": "Outer",
}
OUTER = {"Parent Relationship": "Outer"}
SHOWN = {"Output": ["s.id", "(SubPlan 1)"]}

#: A plan, and how often its first sub-query is expected to run.
RUNS = {
    "in a filter, for each row of the table": (
        holder(sub_plan(), rows=347, Filter="((SubPlan 1) > 3)"),
        1040,
    ),
    "in a filter, after a cheaper condition": (
        holder(sub_plan(), rows=20, Filter="((s.worker_pool_id = 7) AND ((SubPlan 1) > 3))"),
        60,
    ),
    "in a filter, after one that leaves nearly nothing": (
        holder(sub_plan(), rows=1, Filter="((s.worker_pool_id = 7) AND ((SubPlan 1) > 3))"),
        1,
    ),
    "in a filter of what an index finds": (
        holder(
            sub_plan(),
            rows=3,
            cost=608.0,
            Filter="((SubPlan 1) > 3)",
            **{"Node Type": "Index Scan", "Index Cond": "(s.id < 10)"},
        ),
        608 / 60,
    ),
    "for each row that is handed on": (holder(sub_plan(), rows=77, **SHOWN), 77),
    "under a limit": (
        {**LIMIT, "Plans": [holder(sub_plan(), **OUTER, **SHOWN)]},
        20,
    ),
    "under a limit, past the rows of an offset": (
        {
            **LIMIT,
            "Startup Cost": 33_654.0,
            "Total Cost": 35_000.0,
            "Plans": [holder(sub_plan(), **OUTER, **SHOWN)],
        },
        520,
    ),
    "below a sort, which reads all": (
        {**LIMIT, "Plans": [{**SORT, "Plans": [holder(sub_plan(), **OUTER, **SHOWN)]}]},
        1040,
    ),
    "above a sort": (
        {
            "Node Type": "Result",
            "Plan Rows": 20,
            **SHOWN,
            "Plans": [{**SORT, "Plans": []}, sub_plan()],
        },
        20,
    ),
    "on the inner side of a loop": (
        {
            "Node Type": "Nested Loop",
            "Plan Rows": 100,
            "Plans": [
                {"Node Type": "InitPlan", "Parent Relationship": "InitPlan", "Plan Rows": 9},
                {"Node Type": "Function Scan", "Plan Rows": 30, **OUTER},
                holder(sub_plan(), rows=4, **SHOWN, **{"Parent Relationship": "Inner"}),
            ],
        },
        120,
    ),
    "inside another one": (
        holder(
            sub_plan(
                "SubPlan 2",
                Filter="((SubPlan 1) > 3)",
                cost=6000.0,
                below=[sub_plan()],
            ),
            cost=6_240_000.0,
            Filter="((SubPlan 2) > 3)",
        ),
        1040 * 5999 / 60,
    ),
    "hashed": (holder(sub_plan(), Filter="(hashed SubPlan 1)"), 1),
    "hashed, as 18 has it": (
        holder(sub_plan(), Filter="(ANY (s.id = (hashed SubPlan 1).col1))"),
        1,
    ),
    "in an index condition": (
        holder(sub_plan(), **{"Node Type": "Index Scan", "Index Cond": "(s.id = (SubPlan 1))"}),
        1,
    ),
    "in an argument of an aggregate": (
        {
            "Node Type": "Aggregate",
            "Plan Rows": 1,
            "Output": ["sum((SubPlan 1))"],
            "Plans": [holder(**OUTER), sub_plan()],
        },
        1040,
    ),
    "beside an aggregate": (
        {
            "Node Type": "Aggregate",
            "Plan Rows": 5,
            "Output": ["s.worker_pool_id", "COALESCE((SubPlan 1), 0)"],
            "Plans": [holder(**OUTER), sub_plan()],
        },
        5,
    ),
    "in a join, for each row that its own condition leaves": (
        join(sub_plan(), rows=333, test="(r.type < (SubPlan 1))"),
        1000,
    ),
    "in a join that is expected to leave nearly nothing": (
        join(sub_plan(), rows=1, test="(r.type < (SubPlan 1))"),
        1,
    ),
    "in a loop, for each pair of rows": (
        join(sub_plan(), "Nested Loop", rows=693_333, test="(r.type < (SubPlan 1))"),
        2_080_000,
    ),
    "where the plan does not show it": (holder(sub_plan(), rows=9), 9),
    "in a name of up to 17": (
        holder(sub_plan("SubPlan 1 (returns $1)"), rows=9, Output=["$1"]),
        9,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_how_often_it_is_expected_to_run(name):
    document, runs = RUNS[name]
    assert runs_of(document) == pytest.approx(runs, rel=0.02)


def test_exists_reads_until_the_first_row_only():
    plan = Plan.from_json({"Plan": holder(sub_plan(rows=50), Filter="EXISTS(SubPlan 1)")})
    scalar = Plan.from_json({"Plan": holder(sub_plan(), Filter="((SubPlan 1) > 3)")})
    work, whole = Work(plan, TABLES), Work(scalar, TABLES)
    assert work.read[id(plan.nodes[1])] == whole.read[id(scalar.nodes[1])] / 50


MANY = holder(sub_plan(**{"Plan Rows": 100}), **SHOWN)

#: A plan of a thousand rows, how many came, and how often its sub-query ran by that.
RETURNED = {
    "nothing": (MANY, 0, 0),
    "more than expected": (MANY, 9600, 9600),
    "above a sort": ({**SORT, "Plans": [{**MANY, **OUTER}]}, 9600, 9600),
    "in workers": ({"Node Type": "Gather", "Plans": [{**MANY, **OUTER}]}, 9600, 9600),
    "below a limit": ({**LIMIT, "Plans": [{**MANY, **OUTER}]}, 7, 20),
    "below an aggregate": ({"Node Type": "Aggregate", "Plans": [{**MANY, **OUTER}]}, 1, 1040),
    "below a step with a condition": (
        {"Node Type": "Result", "One-Time Filter": "$1", "Plans": [{**MANY, **OUTER}]},
        0,
        1040,
    ),
    "in a filter": (holder(sub_plan(), rows=347, Filter="((SubPlan 1) > 3)"), 0, 1040),
    "unknown": (MANY, None, 1040),
}


@pytest.mark.parametrize("name", RETURNED)
def test_the_rows_that_came_tell_how_often_it_ran(name):
    document, returned, runs = RETURNED[name]
    plan = Plan.from_json({"Plan": document})
    work = Work(plan, TABLES, returned)
    (found,) = work.sub_plans
    assert work.runs[id(found.node)] == pytest.approx(runs)
    assert work.expected_runs[id(found.node)] == Work(plan, TABLES).runs[id(found.node)]


def test_a_sub_query_did_not_run_if_no_row_came():
    plan = Plan.from_json({"Plan": MANY})
    miss = judged(plan, returned_rows=0)
    assert isinstance(miss, Miss)
    assert miss.reason == "the sub-query runs 0 times"
    assert miss.by_parameters, "with other values, rows may come"
    slowly = Timings((2500.0, 2600.0, 2550.0), 0.3, 0.0001)
    assert isinstance(judged(plan, returned_rows=0, timings=slowly), Miss)


def values(rows):
    """Return the sub-query of a NOT IN that is not hashed."""
    scan = {**SCAN, "Plan Rows": rows, **OUTER}
    return {
        "Node Type": "Materialize",
        "Parent Relationship": "SubPlan",
        "Subplan Name": "SubPlan 1",
        "Plan Rows": rows,
        "Plans": [scan],
    }


@pytest.mark.parametrize(("runs", "found"), [(20, True), (2, True), (1, False)])
def test_a_few_runs_over_all_values_read_a_lot(runs, found):
    """Twenty times 50,000 values are a million; a join reads them once."""
    test = "(NOT (ANY (s.id = (SubPlan 1).col1)))"
    below = holder(values(50_000), rows=520, cost=70_000.0, Filter=test, **OUTER)
    limit = {"Node Type": "Limit", "Plan Rows": runs / 2, "Total Cost": 70_000 * runs / 1040}
    result = judged(Plan.from_json({"Plan": {**limit, "Plans": [below]}}))
    assert isinstance(result, Hit) is found, result


PAIRS = {
    "Node Type": "Nested Loop",
    "Join Type": "Inner",
    "Plan Rows": 208_000,
    "Total Cost": 70_000.0,
    "Output": ["s.id", "(SubPlan 1)"],
}
POOLS = {
    "Node Type": "Seq Scan",
    "Schema": "public",
    "Relation Name": "worker_pool",
    "Alias": "w",
    "Plan Rows": 200,
    "Parent Relationship": "Inner",
}


def pairs(inner=POOLS, sub_query=None, **changes):
    """Return the join of each stack with each pool, and a sub-query for each pair."""
    return {**PAIRS, **changes, "Plans": [holder(**OUTER), inner, sub_query or sub_plan()]}


#: A join, and whether it lacks a condition for which a sub-query runs more often.
JOINS = {
    "each with each": (pairs(), True),
    "kept": (
        pairs({"Node Type": "Materialize", "Plans": [{**POOLS, **OUTER}], **POOLS, "Alias": None}),
        True,
    ),
    "a condition of the join": (pairs(**{"Join Filter": "(s.id = w.id)"}), False),
    "a condition of the inner side": (
        pairs({**POOLS, "Node Type": "Index Scan", "Index Cond": "(w.id = s.worker_pool_id)"}),
        False,
    ),
    "a condition of a hash join": (
        pairs(**{"Node Type": "Hash Join", "Hash Cond": "(s.id = w.id)"}),
        False,
    ),
    "a few rows": (pairs({**POOLS, "Plan Rows": 9}), False),
    "both sides are needed": (
        pairs(sub_query=sub_plan(**{"Index Cond": "((r.stack_id = s.id) AND (r.type = w.id))"})),
        False,
    ),
    "neither side is needed": (pairs(sub_query=sub_plan(**{"Index Cond": "(r.type = 7)"})), False),
    "EXISTS": (pairs(**{"Join Type": "Semi"}), False),
}


@pytest.mark.parametrize("name", JOINS)
def test_a_join_without_a_condition_is_the_cause(name):
    document, lacks = JOINS[name]
    hit = judged(Plan.from_json({"Plan": document}), duration_ms=10_000.0)
    assert isinstance(hit, Hit)
    assert hit.fix == ("join-condition" if lacks else "join")
    if lacks:
        assert hit.evidence["joined_without_condition"] == ["stack", "worker_pool"]
        assert "each of the 1,040 rows is combined with each of the 200" in hit.problem


#: What is known, and whether that is a finding.
JUDGED = {
    "many runs that read a lot": (MANY, {}, True),
    "which took no time": (MANY, {"duration_ms": 4.0}, False),
    "which was cancelled before it took long": (
        MANY,
        {"duration_ms": 4.0, "error": StatementError("QueryCanceled", "57014")},
        True,
    ),
    "which failed by its own fault before it took long": (
        MANY,
        {"duration_ms": 4.0, "error": StatementError("DivisionByZero", "22012")},
        False,
    ),
    "which took less than reading that would": (
        holder(sub_plan(**{"Plan Rows": 1_000_000}), **SHOWN),
        {},
        False,
    ),
    "which took no time, as rows come later": (
        MANY,
        {"duration_ms": 4.0, "client_side": False},
        True,
    ),
    "each run finds one row": (holder(sub_plan(**{"Plan Rows": 1}), **SHOWN), {}, False),
    "many runs, but the outer rows are many as well": (
        holder(sub_plan(**{"Plan Rows": 1}), rows=18_000, **SHOWN),
        {},
        False,
    ),
    "many runs, and more than the outer rows": (
        holder(sub_plan(**{"Plan Rows": 1}), rows=25_000, **SHOWN),
        {},
        True,
    ),
    "99 runs that read a lot": (
        holder(sub_plan(**{"Plan Rows": 5000}), rows=99, **SHOWN),
        {},
        False,
    ),
    "100 runs that read a lot": (
        holder(sub_plan(**{"Plan Rows": 5000}), rows=100, **SHOWN),
        {},
        True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", JUDGED)
def test_judges(name):
    document, known, found = JUDGED[name]
    result = judged(Plan.from_json({"Plan": document}), **known)
    assert isinstance(result, Hit) is found, result


def test_names_the_sub_query_that_reads_the_most():
    second = sub_plan("SubPlan 2", **{"Plan Rows": 500})
    shown = {"Output": ["(SubPlan 1)", "(SubPlan 2)"]}
    hit = judged(Plan.from_json({"Plan": holder(sub_plan(), second, **shown)}))
    assert isinstance(hit, Hit)
    assert hit.suspicion.subject == "SubPlan 2"


def test_counts_the_other_sub_queries():
    """Each reads less than is worth reporting; three of them do not."""
    each = {"Plan Rows": 4}
    shown = {"Output": ["(SubPlan 1)", "(SubPlan 2)", "(SubPlan 3)"]}
    three = [sub_plan(f"SubPlan {number}", **each) for number in (1, 2, 3)]
    small = TABLES.relations["public.run"]
    schema = Schema({**TABLES.relations, small.key: replace(small, rows=2000.0)})
    one = judged(Plan.from_json({"Plan": holder(three[0], **SHOWN)}), schema=schema)
    assert isinstance(one, Miss)
    hit = judged(Plan.from_json({"Plan": holder(*three, **shown)}), schema=schema)
    assert isinstance(hit, Hit)
    assert hit.evidence["other_sub_queries"] == 2
    assert hit.evidence["rows_read_by_all"] == 3 * 1040 * (4 + 4)
    assert "So do 2 other sub-queries: together they read as much as 24,960 rows" in hit.problem


def test_what_is_inside_a_sub_query_is_not_counted_again():
    inner = sub_plan(**{"Plan Rows": 100})
    outer = sub_plan("SubPlan 2", below=[inner], Output=["(SubPlan 1)"])
    hit = judged(Plan.from_json({"Plan": holder(outer, Output=["(SubPlan 2)"])}))
    assert isinstance(hit, Hit)
    assert "other_sub_queries" not in hit.evidence


@pytest.mark.parametrize(
    "text",
    ["((SubPlan 1) > ", "'SubPlan 1", "SubPlan", "hashed SubPlan", "((((", "(SubPlan 99) > 1", ""],
)
def test_nothing_in_a_plan_can_break_it(text):
    document = holder(sub_plan(cost=0.0, rows=0), rows=0, cost=0, Filter=text, Output=[text])
    assert isinstance(judged(Plan.from_json({"Plan": document})), Hit | Miss)
    assert isinstance(judged(Plan.from_json({"Plan": document}), schema=Schema()), Hit | Miss)


def test_deep_plans_take_no_time():
    """Sub-queries in each other: the products of their runs stay finite."""
    inner = sub_plan("SubPlan 0")
    for number in range(1, 2500):
        shown = {"Plan Rows": 1e9, "Output": [f"(SubPlan {number - 1})"]}
        inner = sub_plan(f"SubPlan {number}", below=[inner], **shown)
    plan = Plan.from_json({"Plan": holder(inner, Output=["(SubPlan 2499)"])})
    started = time.thread_time()
    assert isinstance(judged(plan, client_side=False), Hit)
    assert time.thread_time() - started < 5


GROUPS = {"Node Type": "Aggregate", "Group Key": ["r.stack_id"], "Plans": [{**SCAN, **OUTER}]}


def after(inner, kind="Hash Join", **changes):
    """Return a join of `stack` with something else on its inner side."""
    return {
        "Node Type": kind,
        "Join Type": "Left",
        "Plans": [holder(**OUTER), {**inner, "Parent Relationship": "Inner"}],
        **changes,
    }


#: The plan of a statement that was rewritten, and what it proves.
PROOFS = {
    "hashed": (
        after({"Node Type": "Hash", "Plans": [{**GROUPS, **OUTER}]}),
        "run is read once, for a Hash Join (Left)",
    ),
    "kept": (
        after({"Node Type": "Materialize", "Plans": [{**GROUPS, **OUTER}]}, "Nested Loop"),
        "run is read once, for a Nested Loop (Left)",
    ),
    "a hash table to look into": (
        holder({**SCAN, "Parent Relationship": "SubPlan", "Subplan Name": "SubPlan 1"})
        | {"Filter": "(ANY (s.id = (hashed SubPlan 1).col1))"},
        "run is read once, for a hash table",
    ),
    "run again by a loop": (after(GROUPS, "Nested Loop"), None),
    "looked up by a loop": (after({**SCAN, "Node Type": "Index Scan"}, "Nested Loop"), None),
    "still a sub-query": (MANY, None),
    "nowhere to be seen": (after({"Node Type": "Hash"}), None),
}  # fmt: skip


@pytest.mark.parametrize("name", PROOFS)
def test_the_plan_of_the_join_is_the_proof(name):
    document, line = PROOFS[name]
    (repeated,) = Work(Plan.from_json({"Plan": MANY}), TABLES).sub_plans
    verdict = verdict_on(repeated, Plan.from_json({"Plan": document}), TABLES)
    if line is None:
        assert verdict.status is VerdictStatus.UNTESTED
        assert "it would still run once for each row" in verdict.reason
    else:
        assert verdict.status is VerdictStatus.VERIFIED
        assert verdict.proof == ("SubPlan 1 is gone", line)


#: A statement, and what must be in what is derived of it, or None.
DERIVED = {
    "count": (
        "SELECT a.id, (SELECT count(*) FROM s WHERE s.a = a.id) FROM a",
        "COALESCE(planwatch_1.value, 0)",
    ),
    "sum": ("SELECT (SELECT sum(s.x) FROM s WHERE a.id = s.a) FROM a", "GROUP BY s.a"),
    "one value": ("SELECT (SELECT s.x FROM s WHERE s.a = a.id) FROM a", "LEFT JOIN (SELECT s.a"),
    "comma": ("SELECT (SELECT s.x FROM s WHERE s.a = a.id) FROM a, b", "CROSS JOIN b LEFT JOIN"),
    "EXISTS": (
        "SELECT 1 FROM a WHERE a.x OR EXISTS (SELECT 1 FROM s WHERE s.a = a.id AND s.y = %(y)s)",
        "a.id IN (SELECT s.a FROM s WHERE s.y = %(y)s)",
    ),
    "NOT IN": (
        "SELECT 1 FROM a WHERE a.id NOT IN (SELECT s.a FROM s)",
        "NOT EXISTS(SELECT 1 FROM s WHERE s.a = a.id)",
    ),
    "LIMIT": (
        "SELECT (SELECT s.x FROM s WHERE s.a = a.id ORDER BY s.y DESC LIMIT %(n)s) FROM a",
        "DISTINCT ON (s.a) s.a AS key_0, s.x AS value FROM s ORDER BY s.a, s.y DESC",
    ),
    "no row": ("SELECT (SELECT s.x FROM s WHERE s.a = a.id LIMIT 0) FROM a", None),
    "a page": ("SELECT (SELECT s.x FROM s WHERE s.a = a.id LIMIT 1 OFFSET 1) FROM a", None),
    "an order by place": (
        "SELECT (SELECT s.x FROM s WHERE s.a = a.id ORDER BY 1 LIMIT 1) FROM a",
        None,
    ),
    "a default for no rows": (
        "SELECT 2 * (SELECT coalesce(sum(s.x), 0) + 1 FROM s WHERE s.a = a.id) FROM a",
        "2 * (coalesce(planwatch_1.value, 0) + 1)",
    ),
    "an aggregate with a filter": (
        "SELECT (SELECT count(*) FILTER (WHERE s.x) FROM s WHERE s.a = a.id) FROM a",
        "COALESCE(planwatch_1.value, 0)",
    ),
    "NOT EXISTS": ("SELECT 1 FROM a WHERE NOT EXISTS (SELECT 1 FROM s WHERE s.a = a.id)", None),
    "EXISTS in the result": ("SELECT EXISTS (SELECT 1 FROM s WHERE s.a = a.id) FROM a", None),
    "a range": ("SELECT (SELECT max(s.x) FROM s WHERE s.a < a.id) FROM a", None),
    "two ties, one of them a range": (
        "SELECT (SELECT max(s.x) FROM s WHERE s.a = a.id AND s.b < a.c) FROM a",
        None,
    ),
    "outer column in the result": (
        "SELECT (SELECT s.x + a.y FROM s WHERE s.a = a.id) FROM a",
        None,
    ),
    "columns without tables": ("SELECT (SELECT max(x) FROM s WHERE s.a = a.id) FROM a", None),
    "an update": ("UPDATE a SET x = (SELECT max(s.x) FROM s WHERE s.a = a.id)", None),
    "a comment at the end": (
        "SELECT (SELECT max(s.x) FROM s WHERE s.a = a.id) FROM a; /* of the tracer */",
        "LEFT JOIN",
    ),
    "two statements": ("SELECT (SELECT max(s.x) FROM s WHERE s.a = a.id) FROM a; SELECT 1", None),
    "no sub-query": ("SELECT 1 FROM a", None),
    "no SQL": ("SELECT ((", None),
}  # fmt: skip


@pytest.mark.parametrize("name", DERIVED)
def test_derives_a_join(name):
    statement, part = DERIVED[name]
    derived = joined(statement)
    if part is None:
        assert derived is None
    else:
        assert part in (derived or "")

"""row-misestimate speaks where a wrong estimate did harm, and is silent on its twins."""

from __future__ import annotations

import time

import pytest
import sqlalchemy as sa
from sqlalchemy import func, select

from flask_planwatch import AdviceKind, VerdictStatus
from flask_planwatch.advice.statistics import conditions_of, create_statistics
from flask_planwatch.plan.evidence import Evidence, Hit, Miss
from flask_planwatch.plan.schema import Schema
from flask_planwatch.plan.tree import Plan
from flask_planwatch.rules.row_misestimate import NAME, judge, suspect

from ..advice.data import index, table
from ..plan import SERVERS, read
from ..stories import (
    Address,
    Delivery,
    Task,
    heavy_for_city,
    heavy_for_open_tasks,
    pending_runs,
    pending_runs_joined,
)

DRIVERS = ["psycopg2", "psycopg"]


def of_rule(findings):
    return [finding for finding in findings if finding.rule == NAME]


@pytest.fixture(params=DRIVERS)
def analysing(each_stories, watch, request):
    """An app whose statements are run once more, on each server through each driver."""
    return watch(each_stories.url_for(request.param), PLANWATCH_ANALYZE=True)


#: A statement, the step that went wrong, its rows, and what is advised.
SPEAKS = {
    "correlated columns": (
        heavy_for_city,
        ("address", "Bitmap Heap Scan on address", 1, 200),
        "CREATE STATISTICS st_address_city_zip (dependencies, mcv) ON city, zip FROM address; "
        "ANALYZE address",
    ),
    "stale statistics": (
        heavy_for_open_tasks,
        ("task", "Index Scan using task_state on task", 1, 300),
        "ANALYZE task",
    ),
}


@pytest.mark.parametrize("name", SPEAKS)
def test_speaks(analysing, name):
    statement, (relation, node, expected, actual), advised = SPEAKS[name]
    (finding,) = of_rule(analysing.ask(statement))
    assert (finding.relation, finding.subject) == (relation, node)
    facts = finding.evidence
    assert (facts["expected_rows"], facts["actual_rows"], facts["factor"]) == (
        expected,
        actual,
        actual,
    )
    assert f"expected 1 row of {node} and got {actual}" in finding.problem
    assert f"the inner side of a Nested Loop ran {actual} times" in finding.problem
    (advice,) = finding.advice
    assert (advice.kind, advice.summary) == (AdviceKind.ANALYZE, advised)
    assert advice.verdict.status is VerdictStatus.UNTESTED
    assert 'set PLANWATCH_VERIFY = "build"' in advice.verdict.reason
    assert all(f'op.execute("{ddl}")' in advice.alembic for ddl in advice.ddl)


def test_is_silent_unless_it_may_run_the_statement(each_stories, watch):
    watched = watch(each_stories.url)
    for statement, *_ in SPEAKS.values():
        assert of_rule(watched.ask(statement)) == []


@pytest.mark.parametrize("name", SPEAKS)
def test_is_verified_by_the_new_estimate(fresh_stories, watch, name):
    statement, (_, _, _, actual), advised = SPEAKS[name]
    watched = watch(fresh_stories.url, PLANWATCH_ANALYZE=True, PLANWATCH_VERIFY="build")
    (finding,) = of_rule(watched.ask(statement))
    (advice,) = finding.advice
    assert (advice.summary, advice.verdict.status) == (advised, VerdictStatus.VERIFIED)
    estimate, joins = advice.verdict.proof
    assert estimate.startswith("estimate 1 -> ")
    assert estimate.endswith(f", actual {actual}")
    assert actual / 10 < float(estimate.split(" -> ")[1].split(",")[0]) < actual * 10
    assert joins == "Nested Loop became Merge Join"
    assert advice.verdict.cost_after is None
    assert fresh_stories.scalar("SELECT count(*) FROM pg_statistic_ext") == 0
    # What was rolled back counts as the last ANALYZE, so that a later look must not rest on it.
    watched.planwatch.clear()
    (again,) = of_rule(watched.ask(statement))
    assert again.advice[0].verdict.status is VerdictStatus.VERIFIED


@pytest.mark.parametrize("name", SPEAKS)
def test_is_silent_after_the_fix(fresh_stories, watch, name):
    watched = watch(fresh_stories.url_for("psycopg"), PLANWATCH_ANALYZE=True)
    statement, *_ = SPEAKS[name]
    (finding,) = of_rule(watched.ask(statement))
    fresh_stories.execute(*finding.advice[0].ddl)
    assert of_rule(watched.ask(statement)) == []
    assert of_rule(watch(fresh_stories.url, PLANWATCH_ANALYZE=True).ask(statement)) == []


#: A connection of two tables that costs next to nothing if the first one has a single row.
JOINED_WITH_DELIVERY = (
    "SELECT count(*) FROM {table} JOIN delivery USING (depot_id) "
    "WHERE {condition} AND delivery.weight = 99"
)


def test_statistics_that_do_not_help_are_no_fix(fresh_stories, watch):
    """Of ranges that go together, with each value once, no statistics tell."""
    fresh_stories.execute(
        "CREATE TABLE pair (a int, b int, depot_id int) WITH (parallel_workers = 0)",
        "INSERT INTO pair SELECT g, 40000 - g, g % 8 FROM generate_series(1, 40000) g",
        "CREATE INDEX ON pair (a)",
        "VACUUM ANALYZE pair",
    )
    condition = "pair.a < 100 AND pair.b > 39900"
    statement = sa.text(JOINED_WITH_DELIVERY.format(table="pair", condition=condition))
    watched = watch(fresh_stories.url, PLANWATCH_ANALYZE=True, PLANWATCH_VERIFY="build")
    (finding,) = of_rule(watched.ask(statement))
    (advice,) = finding.advice
    assert advice.verdict.status is VerdictStatus.REJECTED
    assert advice.verdict.reason == "estimate 1 -> 1, actual 99: still wrong by far"
    assert "Tried: CREATE STATISTICS" in finding.message
    assert "Fix:" not in finding.message


def test_an_expression_gets_statistics(fresh_stories, watch):
    """Of an expression, PostgreSQL expects half a percent of the rows."""
    fresh_stories.execute(
        "CREATE TABLE parcel (code text, depot_id int) WITH (parallel_workers = 0)",
        "INSERT INTO parcel SELECT 'X', g % 8 FROM generate_series(1, 200) g",
        "VACUUM ANALYZE parcel",
    )
    condition = "lower(parcel.code) = 'x'"
    statement = sa.text(JOINED_WITH_DELIVERY.format(table="parcel", condition=condition))
    watched = watch(fresh_stories.url, PLANWATCH_ANALYZE=True, PLANWATCH_VERIFY="build")
    (finding,) = of_rule(watched.ask(statement))
    (advice,) = finding.advice
    assert advice.ddl[0].endswith("ON (lower(code)) FROM parcel")
    assert advice.verdict.status is VerdictStatus.VERIFIED
    fresh_stories.execute(*advice.ddl)
    assert of_rule(watched.ask(statement)) == []


def test_a_table_without_statistics_is_not_analysed_in_a_trial(fresh_stories, watch):
    fresh_stories.execute(
        "CREATE TABLE fresh (kind int, state text, depot_id int) "
        "WITH (autovacuum_enabled = off, parallel_workers = 0)",
        "INSERT INTO fresh SELECT 1, 'open', g % 8 FROM generate_series(1, 300) g",
    )
    condition = "fresh.kind = 1 AND fresh.state = 'open'"
    statement = sa.text(JOINED_WITH_DELIVERY.format(table="fresh", condition=condition))
    watched = watch(fresh_stories.url, PLANWATCH_ANALYZE=True, PLANWATCH_VERIFY="build")
    (finding,) = of_rule(watched.ask(statement))
    (advice,) = finding.advice
    assert advice.ddl == ("ANALYZE fresh",)
    assert advice.verdict.status is VerdictStatus.UNTESTED
    assert "the table has no statistics yet" in advice.verdict.reason
    counter = "SELECT analyze_count FROM pg_stat_user_tables WHERE relname = 'fresh'"
    assert fresh_stories.scalar(counter) == 0
    fresh_stories.execute(*advice.ddl)
    assert of_rule(watched.ask(statement)) == []


def test_a_value_that_is_known_later_is_named_and_nothing_is_sold(analysing):
    """Nearly all stacks are on one pool, and PostgreSQL does not know that it is this one."""
    (finding,) = of_rule(analysing.ask(pending_runs))
    assert finding.subject == "Index Scan using stack_pool on stack"
    assert (finding.evidence["expected_rows"], finding.evidence["actual_rows"]) == (25, 1000)
    assert finding.advice == ()
    assert "What worker_pool_id has to match is known only while" in finding.problem


#: Statements whose estimates are right, or wrong without harm.
TWINS = {
    "right": select(func.count()).select_from(Address).where(Address.city == "City 5"),
    "wrong, but alone": select(Address.id).where(Address.city == "City 0", Address.zip == "10000"),
    "wrong, and joined with a few rows only": select(func.count())
    .select_from(Address)
    .join(Task, Task.id == Address.id)
    .where(Address.city == "City 0", Address.zip == "10000"),
    "wrong, but each table is read once": pending_runs_joined,
    "stopped by LIMIT": select(Delivery.id).where(Delivery.weight == 99).limit(3),
    "stopped by EXISTS": select(Address.id).where(
        sa.exists().where(Delivery.depot_id == Address.depot_id)
    ),
    "never executed": select(Address.id)
    .join(Delivery, Delivery.depot_id == Address.depot_id)
    .where(Address.city == "nowhere"),
}  # fmt: skip


@pytest.mark.parametrize("name", TWINS)
def test_is_silent_on_twins(analysing, name):
    assert of_rule(analysing.ask(TWINS[name])) == []
    assert analysing.planwatch.stats()["errors"] == 0


def test_is_silent_where_workers_share_the_rows(fresh_stories, watch):
    """Each of three processes hands on a third."""
    fresh_stories.execute(
        "ALTER TABLE delivery RESET (parallel_workers)",
        "ALTER TABLE address RESET (parallel_workers)",
        *(
            f"ALTER DATABASE {fresh_stories.name} SET {setting}"
            for setting in (
                "min_parallel_table_scan_size = 0",
                "parallel_setup_cost = 0",
                "parallel_tuple_cost = 0",
                "max_parallel_workers_per_gather = 4",
            )
        ),
    )
    statement = (
        select(func.count())
        .select_from(Address)
        .join(Delivery, Delivery.depot_id == Address.depot_id)
        .where(Address.id < 2000)
    )
    watched = watch(fresh_stories.url, PLANWATCH_ANALYZE=True)
    assert of_rule(watched.ask(statement)) == []


# Without a server

ROWS = {"run": 50_000, "stack": 1040, "account": 260, "worker_pool": 200, "address": 40_000}
ROWS |= {"delivery": 40_000, "task": 10_300, "big": 100_000}

TABLES = Schema(
    {
        f"public.{name}": table(name=name, rows=rows, indexes=[index("by_id", "id")])
        for name, rows in ROWS.items()
    }
)


def judged(ran: Plan, *, duration_ms=250.0, schema=TABLES) -> Hit | Miss:
    given = Evidence(
        plan=ran,
        schema=schema,
        statement="SELECT",
        min_rows=1000,
        growth=False,
        duration_ms=duration_ms,
        returned_rows=None,
        analysed=ran,
    )
    (suspicion,) = suspect(ran, schema)
    return judge(suspicion, given)


def recorded(name: str) -> Plan:
    return Plan.from_json(read(name)["plan"])


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("name", ["correlated", "stale", "slow"])
def test_recorded_plans_of_the_story(server, name):
    hit = judged(recorded(f"story-3-{name}-analysed-{server}"))
    assert isinstance(hit, Hit)
    assert hit.suspicion.node.title in {
        "Bitmap Heap Scan on address",
        "Index Scan using task_state on task",
        "Index Scan using stack_pool on stack",
    }


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("name", ["correlated-mended", "stale-mended", "fast"])
def test_recorded_plans_of_its_twins(server, name):
    assert isinstance(judged(recorded(f"story-3-{name}-analysed-{server}")), Miss)


def step(kind, rows, actual, *children, loops=1, **changes):
    """Return a step that was expected to have `rows` rows in each run, and had `actual`."""
    return {
        "Node Type": kind,
        "Plan Rows": rows,
        "Plan Width": 40,
        "Total Cost": 100.0,
        "Actual Rows": actual,
        "Actual Loops": loops,
        "Plans": list(children),
        **changes,
    }


def scan(rows, actual, *, relation="address", kind="Seq Scan", loops=1, **changes):
    named = {"Schema": "public", "Relation Name": relation, "Alias": relation[0]}
    return step(kind, rows, actual, loops=loops, **named, **changes)


def as_outer(document):
    return {**document, "Parent Relationship": "Outer"}


def as_inner(document):
    return {**document, "Parent Relationship": "Inner"}


def loop(outer, *, runs, rows=4000, **changes):
    """Return a nested loop whose inner side reads `rows` of `delivery` in each of its runs."""
    inner = scan(rows, rows, relation="delivery", kind="Index Scan", loops=runs)
    inner["Index Cond"] = "(d.id = a.id)"
    return step("Nested Loop", 10, 10, as_outer(outer), as_inner(inner), **changes)


def hashed(outer, inner, **changes):
    inner = step("Hash", inner["Plan Rows"], inner["Actual Rows"], as_outer(inner))
    return step("Hash Join", 10, 10, as_outer(outer), as_inner(inner), **changes)


def gather(below, **changes):
    return step("Gather", below["Plan Rows"] * 2.4, 240, as_outer(below), **changes)


JOINED = {"Hash Cond": "(b.id = a.id)", "Join Type": "Inner"}
FEW = scan(100_000, 10)
BIG = scan(100_000, 100_000, relation="big")

#: A plan that was run, and the relation of the step that is to blame, or None.
JUDGED = {
    "more rows drive a loop": (loop(scan(10, 200), runs=200), "address"),
    "nine times as many": (loop(scan(22, 200), runs=200), None),
    "ten times as many": (loop(scan(20, 200), runs=200), "address"),
    "the loop does next to nothing": (loop(scan(1, 200), runs=200, rows=10), None),
    "the loop reads each row once": (loop(scan(1, 200), runs=200, rows=200), None),
    "the lowest is to blame": (
        loop(step("Sort", 10, 200, as_outer(scan(10, 200))), runs=200),
        "address",
    ),
    "a join is to blame": (
        loop(
            hashed(scan(200, 200), scan(200, 200), **{"Plan Rows": 1, "Actual Rows": 500}),
            runs=500,
        ),
        "address",
    ),
    "never executed": (loop(scan(10, 0, loops=0), runs=0), None),
    "workers that share the rows, but did not come": (
        gather(loop(scan(12, 240, **{"Parallel Aware": True}), runs=240, **{"Plan Rows": 12})),
        None,
    ),
    "more than workers explain": (
        gather(loop(scan(9, 240, **{"Parallel Aware": True}), runs=240, **{"Plan Rows": 9})),
        "address",
    ),
    "more on the inner side, which no workers share": (
        gather(loop(loop(scan(5, 5), runs=5, rows=12), runs=240)),
        None,
    ),
    "a sort that outgrows the memory": (
        step("Sort", 100, 200_000, as_outer(scan(100, 200_000))),
        "address",
    ),
    "a sort that was expected to": (
        step("Sort", 150_000, 2_000_000, as_outer(scan(150_000, 2_000_000))),
        None,
    ),
    "a sort that fits": (step("Sort", 100, 20_000, as_outer(scan(100, 20_000))), None),
    "fewer rows, and a table read for them": (hashed(FEW, BIG, **JOINED), "address"),
    "fewer rows on the other side": (hashed(BIG, FEW, **JOINED), "address"),
    "fewer rows, which are hashed to know whether there is one": (
        hashed(BIG, FEW, **{**JOINED, "Join Type": "Semi"}),
        "address",
    ),
    "fewer rows, but all of the table is wanted": (
        hashed(BIG, FEW, **{**JOINED, "Join Type": "Left"}),
        None,
    ),
    "fewer rows, and no index that would find the others": (
        hashed(FEW, BIG, **{**JOINED, "Hash Cond": "(b.points = a.id)"}),
        None,
    ),
    "fewer rows, and groups of the table": (
        hashed(FEW, step("Aggregate", 9, 9, as_outer(BIG), **{"Group Key": ["b.id"]}), **JOINED),
        None,
    ),
    "fewer rows, as a LIMIT stopped it": (
        step("Limit", 10, 10, as_outer(hashed(FEW, BIG, **JOINED))),
        None,
    ),
    "fewer rows, as nothing was on the other side": (
        hashed(FEW, scan(9, 0, relation="big", **{"Rows Removed by Filter": 100_000}), **JOINED),
        None,
    ),
    "fewer rows of a merge join, which ends early": (
        step("Merge Join", 10, 10, as_outer(FEW), as_inner(BIG), **{"Merge Cond": "(b.id = a.id)"}),
        None,
    ),
    "fewer rows of each run, as far as whole numbers tell": (
        hashed(scan(4, 0, loops=4000), BIG, **JOINED),
        None,
    ),
    "fewer rows of each run": (hashed(scan(20, 0, loops=4000), BIG, **JOINED), "address"),
    "rows that a merge join reads again": (
        loop(
            step(
                "Merge Join",
                200,
                2000,
                as_outer(scan(200, 200)),
                as_inner(step("Sort", 320, 8000, as_outer(scan(320, 320)))),
            ),
            runs=2000,
        ),
        "address",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", JUDGED)
def test_judges(name):
    document, relation = JUDGED[name]
    result = judged(Plan.from_json({"Plan": document}))
    found = result.suspicion.relation.name if isinstance(result, Hit) else None
    assert found == relation, result


HEAP = {"Schema": "public", "Relation Name": "address", "Alias": "a"}

#: A plan that was run, and the step that is to blame.
BLAMED = {
    "a join, not what it reads again": (
        JUDGED["rows that a merge join reads again"][0],
        "Merge Join",
    ),
    "the table, not the entries of its index": (
        loop(
            step(
                "Bitmap Heap Scan",
                1,
                200,
                as_outer(step("Bitmap Index Scan", 1, 30_000, **{"Index Name": "i"})),
                **HEAP,
            ),
            runs=200,
        ),
        "Bitmap Heap Scan on address",
    ),
    "a join, not the side where it stops at the first match": (
        hashed(
            step(
                "Nested Loop",
                100_000,
                10,
                as_outer(scan(10, 10)),
                as_inner(scan(1000, 1, loops=10, relation="task")),
                **{"Join Type": "Semi"},
            ),
            BIG,
            **JOINED,
        ),
        "Nested Loop",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BLAMED)
def test_blames_the_lowest_step_that_can_be_told(name):
    document, title = BLAMED[name]
    assert judged(Plan.from_json({"Plan": document})).suspicion.subject == title


def test_a_statement_that_took_no_time_is_no_matter():
    document, _ = JUDGED["more rows drive a loop"]
    assert isinstance(judged(Plan.from_json({"Plan": document}), duration_ms=4.9), Miss)


@pytest.mark.parametrize(
    "changes",
    [
        {"Actual Rows": None},
        {"Actual Loops": 1e300},
        {"Plan Rows": 0},
        {"Filter": "((("},
        {"Parallel Aware": True},
        {"Node Type": "Gather"},
        {"Node Type": "Odd"},
    ],
)
def test_nothing_in_a_plan_can_break_it(changes):
    document = loop(scan(1, 200) | changes, runs=200)
    assert isinstance(judged(Plan.from_json({"Plan": document})), Hit | Miss)
    assert isinstance(judged(Plan.from_json({"Plan": document}), schema=Schema()), Hit | Miss)


def test_deep_plans_take_no_time():
    document = scan(1, 200)
    for _ in range(1600):
        document = loop(step("Sort", 1, 200, as_outer(document)), runs=200)
    plan = Plan.from_json({"Plan": document})
    started = time.thread_time()
    assert isinstance(judged(plan), Hit)
    assert time.thread_time() - started < 5


#: The conditions of a scan, the terms that statistics would have, and whether a value comes later.
CONDITIONS = {
    "two columns": ("((a.town = 't'::text) AND (a.state = 's'::text))", ["town", "state"], False),
    "a column twice": ("((a.points > 5) AND (a.points < 9))", ["points"], False),
    "an expression": ("(lower(a.town) = 't'::text)", ["(lower(town))"], False),
    "a name in quotes": ('(a."Odd One" = 7)', ['"Odd One"'], False),
    "a boolean": ("(a.done AND (a.points = 7))", ["done", "points"], False),
    "NULL": ("((a.town IS NULL) AND (a.points = 7))", ["town", "points"], False),
    "a join": ("((a.town = o.name) AND (a.points = 7))", ["town", "points"], True),
    "a sub-query": ("(a.points = (InitPlan 1).col1)", ["points"], True),
    "a parameter": ("(a.points = $1)", ["points"], True),
    "a price in dollars": ("(a.town = '$1 off'::text)", ["town"], False),
}  # fmt: skip


@pytest.mark.parametrize("name", CONDITIONS)
def test_reads_what_statistics_would_be_about(name):
    text, terms, later = CONDITIONS[name]
    node = Plan.from_json({"Plan": {"Node Type": "Seq Scan", "Alias": "a", "Filter": text}}).root
    conditions = conditions_of(node, table(), frozenset())
    assert list(conditions.terms) == terms
    assert conditions.later is later
    together = not later and (len(terms) > 1 or terms[0].startswith("("))
    assert conditions.may_go_together is together


def test_an_expression_with_a_value_is_no_term():
    """Statistics of it would serve that value only, and show it."""
    text = "(((a.town || ' of 4 Secret Lane'::text) = 'x'::text) AND (a.points = 7))"
    node = Plan.from_json({"Plan": {"Node Type": "Seq Scan", "Alias": "a", "Filter": text}}).root
    conditions = conditions_of(node, table(), frozenset())
    assert conditions.terms == ("points",)
    assert conditions.holds_value
    assert not conditions.may_go_together


def test_statistics_of_one_expression_have_no_kinds():
    assert create_statistics(table(), ["(lower(town))"]) == (
        "CREATE STATISTICS st_deed_lower_town ON (lower(town)) FROM deed"
    )

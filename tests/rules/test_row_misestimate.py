"""row-misestimate: far more or fewer rows than expected, and the plan suffers from it."""

from __future__ import annotations

import re
import time

import pytest
import sqlalchemy as sa
from sqlalchemy import func, select

from flask_planwatch import AdviceKind, VerdictStatus
from flask_planwatch.fixes.statistics import conditions_of, create_statistics
from flask_planwatch.plan.evidence import Hit, Miss
from flask_planwatch.plan.schema import Schema
from flask_planwatch.plan.tree import Plan
from flask_planwatch.rules import row_misestimate

from ..indexes.data import index, table
from ..plan import SERVERS
from ..stories import (
    Address,
    Delivery,
    Task,
    heavy_for_city,
    heavy_for_open_tasks,
    pending_runs,
    pending_runs_joined,
)
from .case import STORIES, Example, Rule, followed, rows, set_for_all, silent, speaks
from .without_server import judged_by, recorded

RULE = Rule(
    "row-misestimate",
    STORIES,
    beside=["bitmap-overread", "missing-index", "repeated-subplan"],
    settings={"PLANWATCH_ANALYZE": True},
)

#: The statement on the page of the rule.
EXAMPLE = Example(
    "select(func.count()).select_from(Task)"
    '.join(Delivery, Delivery.depot_id == Task.depot_id).where(Task.state == "open")',
    gone="Nested Loop",
    new="Join",
    config={"PLANWATCH_ANALYZE": True},
    of_stories=True,
)


def joined_with_delivery(table: str, condition: str) -> sa.TextClause:
    """Return a join of two tables that costs next to nothing if the first has a single row."""
    return sa.text(
        f"SELECT count(*) FROM {table} JOIN delivery USING (depot_id) "
        f"WHERE {condition} AND delivery.weight = 99"
    )


SPEAKS = [
    speaks(
        "columns that go together",
        heavy_for_city,
        about="Bitmap Heap Scan on address",
        problem=(
            "expected 1 row of Bitmap Heap Scan on address and got 200",
            "the inner side of a Nested Loop ran 200 times",
        ),
        evidence={"expected_rows": 1, "actual_rows": 200, "factor": 200},
        fix="CREATE STATISTICS st_address_city_zip (dependencies, mcv) ON city, zip FROM address; "
        "ANALYZE address",
        proof=("estimate 1 -> …, actual 200", "Nested Loop became Merge Join"),
        each_driver=True,
    ),
    speaks(
        # PostgreSQL plans a WITH query that is used twice by itself: what is wrong is inside it.
        "columns that go together, in a WITH query",
        sa.text(
            "WITH near AS (SELECT id FROM address WHERE city = 'City 0' AND zip = '10000') "
            "SELECT count(*) FROM near a JOIN near b ON md5(a.id::text) = md5((b.id + 1)::text)"
        ),
        about="Bitmap Heap Scan on address",
        problem="the inner side of a Nested Loop ran 200 times",
        evidence={"expected_rows": 1, "actual_rows": 200, "factor": 200},
        fix="CREATE STATISTICS st_address_city_zip (dependencies, mcv) ON city, zip FROM address; "
        "ANALYZE address",
        proof=("estimate 1 -> …, actual 200", "Nested Loop became … Join"),
    ),
    speaks(
        "rows that came after the last ANALYZE",
        heavy_for_open_tasks,
        about="Index Scan using task_state on task",
        problem=(
            "expected 1 row of Index Scan using task_state on task and got 300",
            "the inner side of a Nested Loop ran 300 times",
        ),
        evidence={"expected_rows": 1, "actual_rows": 300, "factor": 300},
        fix="ANALYZE task",
        proof=("estimate 1 -> …, actual 300", "Nested Loop became Merge Join"),
        each_driver=True,
    ),
    speaks(
        # Of an expression, PostgreSQL expects half a percent of the rows.
        "an expression",
        joined_with_delivery("parcel", "lower(parcel.code) = 'x'"),
        setup=(
            "CREATE TABLE parcel (code text, depot_id int) WITH (parallel_workers = 0)",
            "INSERT INTO parcel SELECT 'X', g % 8 FROM generate_series(1, 200) g",
            # What is counted after ANALYZE counts as a change since then.
            "SELECT pg_stat_force_next_flush()",
            "VACUUM ANALYZE parcel",
        ),
        fix="CREATE STATISTICS st_parcel_lower_code ON (lower(code)) FROM parcel; ANALYZE parcel",
        proof=(
            "estimate 1 -> …, actual 200",
            "Nested Loop became … Join",
        ),
    ),
]

#: 300 entries in a book of 20,000: two columns tell the same, and PostgreSQL multiplies.
ENTRIES = (
    "CREATE TABLE book (a int, b int, PRIMARY KEY (a, b)) WITH (parallel_workers = 0)",
    "CREATE TABLE entry (a int, b int, depot_id int) WITH (parallel_workers = 0)",
    "INSERT INTO book SELECT g, g FROM generate_series(1, 20000) g",
    "INSERT INTO entry SELECT g, g, g % 8 FROM generate_series(1, 300) g",
    "SELECT pg_stat_force_next_flush()",
    "VACUUM ANALYZE book, entry",
)

SPEAKS_OF_A_JOIN = [
    speaks(
        "columns that refer to a row together",
        joined_with_delivery("entry JOIN book USING (a, b)", "a > 0"),
        setup=ENTRIES,
        problem="the inner side of a Nested Loop ran 300 times",
        evidence={"expected_rows": 1, "actual_rows": 300},
        fix="ALTER TABLE entry ADD FOREIGN KEY (a, b) REFERENCES book (a, b)",
        proof=("estimate 1 -> …, actual 300",),
        PLANWATCH_VERIFY="build",
    ),
]

#: Each row of a chain names the one before it.
CHAIN = (
    "CREATE TABLE chain (id int PRIMARY KEY, prev int, note text) WITH (parallel_workers = 0)",
    "INSERT INTO chain SELECT g, g - 1, repeat('x', 100) FROM generate_series(1, 20000) g",
    "VACUUM ANALYZE chain",
)
CHAINED = """
    WITH RECURSIVE q AS (
        SELECT id, prev FROM chain WHERE id = 20000
        UNION ALL SELECT c.id, c.prev FROM chain c JOIN q ON c.id = q.prev
    ) SELECT count(chain.note) FROM q JOIN chain ON chain.id = q.id
"""

SPEAKS_OF_A_RECURSION = [
    speaks(
        "a recursive query of more than ten rounds",
        sa.text(CHAINED),
        setup=CHAIN,
        about="Recursive Union on chain",
        evidence={"expected_rows": 101, "actual_rows": 20_000},
        fix="SET LOCAL recursive_worktable_factor = 2000 before the statement",
        code='session.execute(text("SET LOCAL recursive_worktable_factor = 2000"))',
        proof=("estimate 101 -> 20,001, actual 20,000", "…Nested Loop became …Hash Join…"),
    ),
]

SPEAKS_WITHOUT_A_FIX = [
    speaks(
        "columns that refer to a row together, but are no key",
        joined_with_delivery("entry JOIN book USING (a, b)", "a > 0"),
        setup=(
            *ENTRIES,
            "ALTER TABLE book DROP CONSTRAINT book_pkey",
            "CREATE INDEX ON book (a, b)",
        ),
        problem="keeps none across tables",
        evidence={"expected_rows": 1, "actual_rows": 300},
        fix=(),
    ),
    speaks(
        # Each condition on a result of a group is assumed to keep a third.
        "groups, of which more remain than expected",
        sa.text(
            "SELECT count(t.note) FROM (SELECT kind, min(id) AS low FROM grouped GROUP BY kind "
            "HAVING min(id) + 1 > 1 AND min(id) + 2 > 2 AND min(id) + 3 > 3 AND min(id) + 4 > 4 "
            "AND min(id) + 5 > 5 AND min(id) + 6 > 6) lowest JOIN grouped t ON t.id = lowest.low"
        ),
        setup=(
            "CREATE TABLE grouped (id int PRIMARY KEY, kind int, note text) "
            "WITH (parallel_workers = 0)",
            "INSERT INTO grouped SELECT g, g, repeat('x', 300) FROM generate_series(1, 20000) g",
            "VACUUM ANALYZE grouped",
        ),
        about="Aggregate on grouped",
        problem="keeps none across tables",
        evidence={"expected_rows": 27, "actual_rows": 20_000},
        fix=(),
    ),
    speaks(
        # Nearly all stacks are on one pool, and PostgreSQL does not know that it is this one.
        "a value that is known later",
        pending_runs,
        about="Index Scan using stack_pool on stack",
        problem="What worker_pool_id must match is known only while",
        evidence={"expected_rows": 25, "actual_rows": 1000},
        fix=(),
    ),
]

#: Statements whose estimates are right, or wrong without harm.
SILENT = [
    silent("right", select(func.count()).select_from(Address).where(Address.city == "City 5")),
    silent(
        "wrong, but alone",
        select(Address.id).where(Address.city == "City 0", Address.zip == "10000"),
    ),
    silent(
        "wrong, and joined with a few rows only",
        select(func.count())
        .select_from(Address)
        .join(Task, Task.id == Address.id)
        .where(Address.city == "City 0", Address.zip == "10000"),
    ),
    silent("wrong, but each table is read once", pending_runs_joined),
    silent("stopped by LIMIT", select(Delivery.id).where(Delivery.weight == 99).limit(3)),
    silent(
        "stopped by EXISTS",
        select(Address.id).where(sa.exists().where(Delivery.depot_id == Address.depot_id)),
    ),
    silent(
        "never executed",
        select(Address.id)
        .join(Delivery, Delivery.depot_id == Address.depot_id)
        .where(Address.city == "nowhere"),
    ),
]

#: Without leave to run the statement once more, nobody knows how many rows there are.
NOT_RUN = [
    silent(case.name, case.statement, PLANWATCH_ANALYZE=False) for case in SPEAKS if not case.setup
]

#: Each of three processes hands on a third.
PARALLEL = silent(
    "workers share the rows",
    select(func.count())
    .select_from(Address)
    .join(Delivery, Delivery.depot_id == Address.depot_id)
    .where(Address.id < 2000),
    setup=(
        "ALTER TABLE delivery RESET (parallel_workers)",
        "ALTER TABLE address RESET (parallel_workers)",
        set_for_all("min_parallel_table_scan_size", 0),
        set_for_all("parallel_setup_cost", 0),
        set_for_all("parallel_tuple_cost", 0),
        set_for_all("max_parallel_workers_per_gather", 4),
    ),
)


@rows(SPEAKS)
def test_speaks(rule, case):
    rule.check(case)


@rows(SPEAKS_OF_A_JOIN)
def test_speaks_of_a_join(rule, case):
    rule.check(case)


@rows(SPEAKS_OF_A_JOIN)
def test_falls_silent_with_the_foreign_key(rule, case):
    rule.check_fix(case)


@rows(SPEAKS_OF_A_RECURSION)
def test_speaks_of_a_recursion(rule, case):
    rule.check(case)


@rows(SPEAKS_WITHOUT_A_FIX, quick=0, each_driver=True)
def test_speaks_and_sells_nothing(rule, case):
    rule.check(case)


@rows(SILENT, quick=6, each_driver=True)
def test_stays_silent(rule, case):
    rule.check(case)


@rows(NOT_RUN)
def test_is_silent_unless_it_may_run_the_statement(rule, case):
    rule.check(case)


@rows([PARALLEL], quick=0)
def test_is_silent_where_workers_share_the_rows(rule, case):
    rule.check(case)


@rows(followed(SPEAKS))
def test_falls_silent_after_the_fix(rule, case):
    rule.check_fix(case)


@pytest.mark.parametrize("statement", [heavy_for_city, heavy_for_open_tasks], ids=["city", "task"])
def test_without_a_trial_it_says_how_to_have_one(rule, statement):
    (finding,) = rule.ask(rule.app(), statement)
    (advice,) = finding.advice
    assert (advice.kind, advice.verdict.status) == (AdviceKind.ANALYZE, VerdictStatus.UNTESTED)
    assert 'set PLANWATCH_VERIFY = "build"' in advice.verdict.reason
    assert all(f'op.execute("{ddl}")' in advice.alembic for ddl in advice.ddl)


def test_a_trial_leaves_nothing_behind(rule):
    """What was rolled back counts as the last ANALYZE, so that a later look must not rest on it."""
    database = rule.copy()
    app = rule.app(database, PLANWATCH_VERIFY="build")
    for _ in range(2):
        (finding,) = rule.ask(app, heavy_for_city)
        (advice,) = finding.advice
        assert advice.verdict.status is VerdictStatus.VERIFIED
        assert advice.verdict.cost_after is None
        estimate = float(
            re.match(r"estimate 1 -> ([\d.]+), actual 200", advice.verdict.proof[0])[1]
        )
        assert 20 < estimate < 2000
        assert database.scalar("SELECT count(*) FROM pg_statistic_ext") == 0
        app.planwatch.clear()


def test_statistics_that_do_not_help_are_no_fix(rule):
    """Of ranges that go together, with each value once, no statistics tell."""
    database = rule.copy()
    database.execute(
        "CREATE TABLE pair (a int, b int, depot_id int) WITH (parallel_workers = 0)",
        "INSERT INTO pair SELECT g, 40000 - g, g % 8 FROM generate_series(1, 40000) g",
        "CREATE INDEX ON pair (a)",
        "VACUUM ANALYZE pair",
    )
    statement = joined_with_delivery("pair", "pair.a < 100 AND pair.b > 39900")
    (finding,) = rule.ask(rule.app(database, PLANWATCH_VERIFY="build"), statement)
    (advice,) = finding.advice
    assert advice.verdict.status is VerdictStatus.REJECTED
    assert advice.verdict.reason == "estimate 1 -> 1, actual 99: still wrong by far"
    assert "Tried: CREATE STATISTICS" in finding.message
    assert "Fix:" not in finding.message


@pytest.mark.slow
def test_a_table_without_statistics_is_not_analysed_in_a_trial(rule):
    database = rule.copy()
    database.execute(
        "CREATE TABLE fresh (kind int, state text, depot_id int) "
        "WITH (autovacuum_enabled = off, parallel_workers = 0)",
        "INSERT INTO fresh SELECT 1, 'open', g % 8 FROM generate_series(1, 300) g",
    )
    statement = joined_with_delivery("fresh", "fresh.kind = 1 AND fresh.state = 'open'")
    app = rule.app(database, PLANWATCH_VERIFY="build")
    (finding,) = rule.ask(app, statement)
    (advice,) = finding.advice
    assert advice.ddl == ("ANALYZE fresh",)
    assert advice.verdict.status is VerdictStatus.UNTESTED
    assert "the table has no statistics yet" in advice.verdict.reason
    counter = "SELECT analyze_count FROM pg_stat_user_tables WHERE relname = 'fresh'"
    assert database.scalar(counter) == 0
    database.execute(*advice.ddl)
    assert rule.ask(app, statement) == []


# Without a server

ROWS = {"run": 50_000, "stack": 1040, "account": 260, "worker_pool": 200, "address": 40_000}
ROWS |= {"delivery": 40_000, "task": 10_300, "big": 100_000}

TABLES = Schema(
    {
        f"public.{name}": table(name=name, rows=rows, indexes=[index("by_id", "id")])
        for name, rows in ROWS.items()
    }
)


def judged(ran: Plan, *, schema=TABLES, **known) -> Hit | Miss:
    return judged_by(row_misestimate, ran, schema, analysed=ran, **known)


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
    planned = {"Workers Planned": 2, **changes}
    return step("Gather", below["Plan Rows"] * 2.4, 240, as_outer(below), **planned)


def reading(query, loops=1, **changes):
    """Return a scan of a WITH query's rows, as many in each run."""
    read = step("CTE Scan", query["Plan Rows"], query["Actual Rows"], loops=loops)
    return {**read, "CTE Name": "q", "Alias": "q", **changes}


def with_query(query, below):
    """Return a plan that reads a WITH query's rows below it."""
    made = {**query, "Parent Relationship": "InitPlan", "Subplan Name": "CTE q"}
    return {**below, "Plans": [made, *below["Plans"]]}


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
    "what is inside a WITH query": (
        with_query(scan(1, 200), loop(reading(scan(1, 200)), runs=200)),
        "Seq Scan on address",
    ),
    "a WITH query whose own steps are right": (
        with_query(
            step("Recursive Union", 1, 200, as_outer(scan(1, 1))),
            loop(reading(scan(1, 200)), runs=200),
        ),
        "Recursive Union",
    ),
    "fewer rows inside a WITH query that is read to its end": (
        with_query(FEW, hashed(reading(FEW, Alias="a"), BIG, **JOINED)),
        "Seq Scan on address",
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

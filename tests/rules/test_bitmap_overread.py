"""bitmap-overread: a bitmap of indexes holds far more entries than rows that are wanted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sqlalchemy as sa
from sqlalchemy import func, select

from flask_planwatch.plan.evidence import Hit, Miss
from flask_planwatch.plan.schema import Activity, Schema
from flask_planwatch.plan.tree import Plan
from flask_planwatch.rules import bitmap_overread

from ..indexes.data import table
from ..plan import SERVERS
from ..stories import Job, Run, Stack, pending_runs, pending_runs_joined, waiting_jobs
from ..stories import waiting_jobs_by_queue as waiting_by_queue
from .case import STORIES, Example, Rule, followed, rows, silent, speaks, with_settings
from .without_server import judged_by, recorded

RULE = Rule(
    "bitmap-overread",
    STORIES,
    beside=["index-only-blocked", "missing-index", "repeated-subplan", "row-misestimate"],
)

#: The statement on the page of the rule.
EXAMPLE = Example(
    "select(Account.id, select(func.count()).select_from(Stack)"
    ".join(Run, Run.stack_id == Stack.id)"
    ".where(Stack.account_id == Account.id, Run.worker_id.is_not(None)).scalar_subquery())",
    gone="BitmapAnd",
    new="Index Only Scan using ix_run_stack_id_worker_id",
    of_stories=True,
)

COUNTED = {"PLANWATCH_ANALYZE": True}

OVERLAP = "CREATE INDEX CONCURRENTLY ix_run_stack_id_worker_id ON run (stack_id, worker_id)"

SPEAKS = [
    speaks(
        "an overlap of two indexes",
        pending_runs,
        about="run_stack, run_worker on run",
        problem=("expects to read", "only rows that all of these indexes find are wanted"),
        evidence={"runs": 5, "entries": 25240, "rows": 25},
        fix=OVERLAP,
        code='Index("ix_run_stack_id_worker_id", Run.stack_id, Run.worker_id)',
        proof=(
            "the BitmapAnd of run_stack and run_worker is gone",
            "one index, ix_run_stack_id_worker_id, answers stack_id and worker_id",
        ),
        each_driver=True,
    ),
    speaks(
        "an overlap that was counted",
        pending_runs,
        about="run_stack, run_worker on run",
        problem="only rows that all of these indexes find are wanted",
        evidence={"runs": 4000, "entries": 20180000, "rows": 0},
        fix=OVERLAP,
        code='Index("ix_run_stack_id_worker_id", Run.stack_id, Run.worker_id)',
        proof=(
            "the BitmapAnd of run_stack and run_worker is gone",
            "one index, ix_run_stack_id_worker_id, answers stack_id and worker_id",
        ),
        each_driver=True,
        **COUNTED,
    ),
    speaks(
        "dead entries that were counted",
        waiting_jobs,
        about="job_state on job",
        problem="the others belong to rows that were deleted or replaced",
        evidence={"entries": 30_000, "rows": 150},
        fix="VACUUM (ANALYZE) job",
        each_driver=True,
        **COUNTED,
    ),
    speaks(
        # More rows are dead than alive, and the index is read again and again.
        "dead entries that are likely",
        waiting_by_queue,
        about="job_state on job",
        fix="VACUUM (ANALYZE) job",
        each_driver=True,
    ),
    speaks(
        "dead entries, again and again, that were counted",
        waiting_by_queue,
        about="job_state on job",
        fix="VACUUM (ANALYZE) job",
        **COUNTED,
    ),
    speaks(
        # No index is made up for conditions that a B-tree does not know.
        "conditions of which no single index knows all",
        sa.text("SELECT count(*) FROM noted WHERE tags @> ARRAY[1] AND words @@ 'w1'"),
        setup=(
            "CREATE TABLE noted (tags int[], words tsvector) WITH (parallel_workers = 0)",
            "INSERT INTO noted SELECT ARRAY[g % 16], to_tsvector('simple', 'w' || (g + 1) % 16) "
            "FROM generate_series(1, 240000) g",
            "CREATE INDEX noted_tags ON noted USING gin (tags)",
            "CREATE INDEX noted_words ON noted USING gin (words)",
            "VACUUM ANALYZE noted",
        ),
        problem="No single index answers all of these conditions",
        fix=(),
        **COUNTED,
    ),
]

#: Statements with a bitmap that reads what it needs, and some without.
SILENT = [
    silent(
        "each entry is a row",
        select(func.count()).select_from(Run).where(Run.worker_id.is_not(None)),
    ),
    silent(
        "an overlap of few entries",
        select(Run.id).where(Run.stack_id == 1001, Run.worker_id.between(1, 5)),
    ),
    silent(
        "alternatives",
        select(Run.id).where(sa.or_(Run.stack_id == 1001, Run.worker_id == 7)),
    ),
    silent(
        "rows that fail a condition",
        select(func.count()).select_from(Run).where(Run.worker_id.is_not(None), Run.state == 7),
    ),
    silent("no bitmap", pending_runs_joined),
    silent(
        # The overlap is a twentieth of the cost: the rest is spent on its rows.
        "an overlap that hardly matters",
        sa.text(
            "SELECT count(*) FROM item n JOIN chore t ON t.id = n.chore_id "
            "WHERE t.project_id = 2 AND t.kind = 3"
        ),
        setup=(
            "CREATE TABLE chore WITH (parallel_workers = 0) AS SELECT i AS id, 1 + i % 6 AS "
            "project_id, 1 + (i * 17 + i / 13) % 13 AS kind, repeat('x', 200) AS name "
            "FROM generate_series(1, 100000) i",
            "ALTER TABLE chore ADD PRIMARY KEY (id)",
            "CREATE INDEX chore_project ON chore (project_id)",
            "CREATE INDEX chore_kind ON chore (kind)",
            "CREATE TABLE item WITH (parallel_workers = 0) AS SELECT i AS id, "
            "1 + i * 31 % 99999 AS chore_id, repeat('x', 100) AS body "
            "FROM generate_series(1, 60000) i",
            "CREATE INDEX item_chore ON item (chore_id)",
            "VACUUM ANALYZE",
        ),
        reason="reading the entries that lead to no row takes less than 20% of the cost…",
        beside=["missing-index"],
        **COUNTED,
    ),
    silent("no table", select(sa.literal(1))),
    silent("an index scan over dead rows", select(Job.id).where(Job.id == 2)),
    silent("a lookup", select(Stack.id).where(Stack.id == 7)),
]


@rows(SPEAKS)
def test_speaks(rule, case):
    rule.check(case)


@rows(followed(SPEAKS))
def test_falls_silent_after_the_fix(rule, case):
    rule.check_fix(case)


@rows(SILENT, quick=4)
def test_stays_silent(rule, case):
    rule.check(case)


@rows(with_settings(SILENT, **COUNTED), quick=4)
def test_stays_silent_when_the_rows_are_counted(rule, case):
    rule.check(case)


def test_once_through_dead_entries_hardly_matter(rule):
    assert rule.ask(rule.app(), waiting_jobs) == []


def test_an_overlap_that_hardly_matters_is_rejected(rule):
    (case,) = (case for case in SILENT if "hardly matters" in case.name)
    settings = {**COUNTED, "PLANWATCH_VERIFY": "build"}
    reason = "CREATE INDEX … ON chore …: it lowers the cost of the statement by …%, less than 20%"
    rule.check(replace(case, settings=settings, reason=reason))


def test_no_falling_cost_proves_the_index(rule):
    (finding,) = rule.ask(rule.app(PLANWATCH_VERIFY="build"), pending_runs)
    verdict = finding.advice[0].verdict
    assert verdict.cost_after == pytest.approx(verdict.cost_before, rel=0.01)


# Without a server

JOB = replace(table(name="job", rows=15_000), activity=Activity(dead=30_000))
RUN = table(name="run", rows=50_000)
TABLES = Schema({one.key: one for one in (RUN, JOB, table(name="stack", rows=1040))})


def judged(plan: Plan, *, schema=TABLES, **known) -> Hit | Miss:
    return judged_by(bitmap_overread, plan, schema, **known)


@pytest.mark.parametrize("server", SERVERS)
def test_recorded_plans_of_the_story(server):
    slow, ran = (recorded(f"story-3-{name}-{server}") for name in ("slow", "slow-analysed"))
    for hit in (judged(slow), judged(slow, analysed=ran)):
        assert isinstance(hit, Hit)
        assert hit.fix == "combined-index"
    dead = judged(recorded(f"story-3-dead-{server}"))
    assert isinstance(dead, Miss)
    ran = recorded(f"story-3-dead-analysed-{server}")
    assert judged(ran, analysed=ran).fix == "vacuum"


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("name", ["fast", "hashed", "dead-mended", "correlated"])
def test_recorded_plans_of_its_twins(server, name):
    ran = recorded(f"story-3-{name}-analysed-{server}")
    vacuumed = Schema({**TABLES.relations, JOB.key: replace(JOB, activity=Activity())})
    assert isinstance(judged(recorded(f"story-3-{name}-{server}"), schema=vacuumed), Miss)
    assert isinstance(judged(ran, analysed=ran, schema=vacuumed), Miss)


def bitmap(*entries, rows, found=None, removed=0, loops=1, relation="run"):
    """Return a bitmap of indexes with so many entries each, of which `rows` are expected to match.

    `found` are the rows that really came, and `removed` those that then failed a condition.
    """
    below = [
        {
            "Node Type": "Bitmap Index Scan",
            "Parent Relationship": "Member",
            "Index Name": f"by_{number}",
            "Plan Rows": one,
            "Actual Rows": one,
            "Actual Loops": loops,
        }
        for number, one in enumerate(entries)
    ]
    several = [
        {
            "Node Type": "BitmapAnd",
            "Parent Relationship": "Outer",
            "Plan Rows": rows,
            "Plans": below,
        }
    ]
    document = {
        "Node Type": "Bitmap Heap Scan",
        "Schema": "public",
        "Relation Name": relation,
        "Alias": "r",
        "Plan Rows": rows,
        "Plans": several if len(below) > 1 else below,
        "Actual Rows": rows if found is None else found,
        "Actual Loops": loops,
        "Rows Removed by Filter": removed,
    }
    return Plan.from_json({"Plan": document})


def unrun(plan: Plan) -> Plan:
    """Return the plan as plain EXPLAIN prints it."""
    nodes = {}
    for node in reversed(plan.nodes):
        children = tuple(nodes[id(child)] for child in node.children)
        nodes[id(node)] = replace(node, children=children, actual_rows=None, actual_loops=None)
    return Plan(nodes[id(plan.root)])


#: A plan, whether it was run, what is known, and what would help.
JUDGED = {
    "an overlap": (bitmap(20_000, 20_000, rows=10), False, {}, "combined-index"),
    "an overlap that was counted": (
        bitmap(20_000, 20_000, rows=10),
        True,
        {},
        "combined-index",
    ),
    "an overlap of a tenth": (bitmap(20_000, 20_000, rows=4000), False, {}, "combined-index"),
    "an overlap of more": (bitmap(20_000, 20_000, rows=4001), False, {}, None),
    "few entries": (bitmap(9000, 9000, rows=10), False, {}, None),
    "few entries, many times": (
        bitmap(9000, 9000, rows=10, loops=5),
        True,
        {},
        "combined-index",
    ),
    "no time": (bitmap(20_000, 20_000, rows=10), False, {"duration_ms": 4.0}, None),
    "no time, as the rows come later": (
        bitmap(20_000, 20_000, rows=10),
        False,
        {"duration_ms": 4.0, "client_side": False},
        "combined-index",
    ),
    "no time, but counted": (
        bitmap(20_000, 20_000, rows=10),
        True,
        {"duration_ms": 4.0},
        "combined-index",
    ),
    "entries without rows": (bitmap(30_000, rows=30_000, found=10), True, {}, "vacuum"),
    "entries whose rows failed a condition": (
        bitmap(30_000, rows=30_000, found=10, removed=29_990),
        True,
        {},
        None,
    ),
    "an overlap on a table of dead rows": (
        bitmap(20_000, 20_000, rows=10, relation="job"),
        True,
        {},
        "vacuum",
    ),
    "a table of dead rows": (bitmap(15_000, rows=15_000, relation="job"), False, {}, "vacuum"),
    "few entries of a table of dead rows": (bitmap(100, rows=100, relation="job"), False, {}, None),
    "a table that is not known": (
        bitmap(20_000, 20_000, rows=10),
        True,
        {"schema": Schema({RUN.key + "x": RUN})},
        None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", JUDGED)
def test_judges(name):
    plan, ran, known, fix = JUDGED[name]
    result = judged(unrun(plan), analysed=plan if ran else None, **known)
    assert (result.fix if isinstance(result, Hit) else None) == fix, result


def test_old_statistics_come_first():
    """There are more entries than were expected, and the table has changed since."""
    changed = replace(RUN, activity=Activity(changed=5000))
    plan = bitmap(20_000, 20_000, rows=10)
    root = plan.root
    lower = replace(
        root.children[0],
        children=tuple(replace(one, rows=100.0) for one in root.children[0].children),
    )
    unexpected = Plan(replace(root, children=(lower,)))
    for relation, fix in ((changed, "statistics"), (RUN, "combined-index")):
        hit = judged(unexpected, analysed=unexpected, schema=Schema({relation.key: relation}))
        assert hit.fix == fix


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 0.0},
        {"actual_loops": 1e300},
        {"children": ()},
        {"index": None},
        {"actual_rows": None},
    ],
)
def test_nothing_in_a_plan_can_break_it(changes):
    plan = bitmap(20_000, 20_000, rows=10)
    odd = Plan(replace(plan.root, **changes))
    assert isinstance(judged(unrun(odd)), Hit | Miss)
    assert isinstance(judged(odd, analysed=odd), Hit | Miss)
    assert isinstance(judged(odd, schema=Schema()), Hit | Miss)

"""bitmap-overread speaks where indexes are read for nothing, and is silent on its twins."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sqlalchemy as sa
from sqlalchemy import func, select

from flask_planwatch import AdviceKind, VerdictStatus
from flask_planwatch.plan.evidence import Evidence, Hit, Miss, Remedy
from flask_planwatch.plan.schema import Activity, Schema
from flask_planwatch.plan.tree import Plan
from flask_planwatch.rules.bitmap_overread import NAME, judge, suspect

from ..advice.data import table
from ..plan import SERVERS, read
from ..stories import Job, Run, Stack, pending_runs, pending_runs_joined, waiting_jobs
from ..stories import waiting_jobs_by_queue as waiting_by_queue

DRIVERS = ["psycopg2", "psycopg"]


def of_rule(findings):
    return [finding for finding in findings if finding.rule == NAME]


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("analyse", [False, True])
def test_speaks_on_an_overlap(each_stories, watch, driver, analyse):
    watched = watch(each_stories.url_for(driver), PLANWATCH_ANALYZE=analyse)
    (finding,) = of_rule(watched.ask(pending_runs))
    assert (finding.relation, finding.subject) == ("run", "run_stack, run_worker")
    facts = finding.evidence
    assert facts["entries"] > 20_000
    assert facts["entries"] >= facts["rows"] * 10
    assert facts["runs"] == (4000 if analyse else 5)
    assert "only the overlap of the indexes is wanted" in finding.problem
    assert ("is expected to read" in finding.problem) is not analyse
    (advice,) = finding.advice
    assert advice.ddl == (
        "CREATE INDEX CONCURRENTLY ix_run_stack_id_worker_id ON run (stack_id, worker_id)",
    )
    assert 'Index("ix_run_stack_id_worker_id", Run.stack_id, Run.worker_id)' in advice.sqlalchemy


def test_one_index_is_verified_by_structure(each_stories, watch):
    """The cost of the statement stays what it was."""
    watched = watch(each_stories.url, PLANWATCH_VERIFY="build")
    (finding,) = of_rule(watched.ask(pending_runs))
    verdict = finding.advice[0].verdict
    assert verdict.status is VerdictStatus.VERIFIED
    assert verdict.cost_after == pytest.approx(verdict.cost_before, rel=0.01)
    assert verdict.proof == (
        "the BitmapAnd of run_stack and run_worker is gone",
        "stack_id and worker_id are conditions of ix_run_stack_id_worker_id alone",
    )


@pytest.mark.parametrize("analyse", [False, True])
def test_is_silent_after_the_index(fresh_stories, watch, analyse):
    watched = watch(fresh_stories.url_for("psycopg"), PLANWATCH_ANALYZE=analyse)
    (finding,) = of_rule(watched.ask(pending_runs))
    fresh_stories.execute(*finding.advice[0].ddl, "VACUUM ANALYZE run")
    assert of_rule(watched.ask(pending_runs)) == []


@pytest.mark.parametrize("driver", DRIVERS)
def test_speaks_on_dead_entries_that_were_counted(each_stories, watch, driver):
    watched = watch(each_stories.url_for(driver), PLANWATCH_ANALYZE=True)
    (finding,) = of_rule(watched.ask(waiting_jobs))
    assert (finding.relation, finding.subject) == ("job", "job_state")
    facts = finding.evidence
    assert (facts["entries"], facts["rows"]) == (30_000, 150)
    assert "the others belong to rows that were deleted or replaced" in finding.problem
    (advice,) = finding.advice
    assert (advice.kind, advice.ddl) == (AdviceKind.VACUUM, ("VACUUM (ANALYZE) job",))


@pytest.mark.parametrize("driver", DRIVERS)
def test_speaks_on_dead_entries_that_are_likely(each_stories, watch, driver):
    """More rows are dead than alive, and the index is read again and again."""
    watched = watch(each_stories.url_for(driver))
    (finding,) = of_rule(watched.ask(waiting_by_queue))
    assert finding.subject == "job_state"
    assert finding.advice[0].kind is AdviceKind.VACUUM
    # Once through, it could hardly matter.
    assert of_rule(watch(each_stories.url_for(driver)).ask(waiting_jobs)) == []


@pytest.mark.parametrize("statement", [waiting_jobs, waiting_by_queue], ids=["once", "repeated"])
def test_is_silent_after_vacuum(fresh_stories, watch, statement):
    watched = watch(fresh_stories.url, PLANWATCH_ANALYZE=True)
    (finding,) = of_rule(watched.ask(statement))
    fresh_stories.execute(*finding.advice[0].ddl)
    assert of_rule(watched.ask(statement)) == []


#: Statements with a bitmap that reads what it needs, and some without.
TWINS = {
    "each entry is a row": select(func.count()).select_from(Run).where(Run.worker_id.is_not(None)),
    "an overlap of few entries": select(Run.id).where(
        Run.stack_id == 1001, Run.worker_id.between(1, 5)
    ),
    "alternatives": select(Run.id).where(sa.or_(Run.stack_id == 1001, Run.worker_id == 7)),
    "rows that fail a condition": select(func.count())
    .select_from(Run)
    .where(Run.worker_id.is_not(None), Run.state == 7),
    "no bitmap": pending_runs_joined,
    "no table": select(sa.literal(1)),
    "an index scan over dead rows": select(Job.id).where(Job.id == 2),
    "a lookup": select(Stack.id).where(Stack.id == 7),
}  # fmt: skip


@pytest.mark.parametrize("analyse", [False, True])
@pytest.mark.parametrize("name", TWINS)
def test_is_silent_on_twins(each_stories, watch, name, analyse):
    watched = watch(each_stories.url_for("psycopg"), PLANWATCH_ANALYZE=analyse)
    assert of_rule(watched.ask(TWINS[name])) == []
    assert watched.planwatch.stats()["errors"] == 0


def test_conditions_of_which_a_btree_knows_nothing(fresh_stories, watch):
    """No index is made up for them."""
    fresh_stories.execute(
        "CREATE TABLE noted (tags int[], words tsvector) WITH (parallel_workers = 0)",
        "INSERT INTO noted SELECT ARRAY[g % 16], to_tsvector('simple', 'w' || (g + 1) % 16) "
        "FROM generate_series(1, 240000) g",
        "CREATE INDEX noted_tags ON noted USING gin (tags)",
        "CREATE INDEX noted_words ON noted USING gin (words)",
        "VACUUM ANALYZE noted",
    )
    statement = sa.text("SELECT count(*) FROM noted WHERE tags @> ARRAY[1] AND words @@ 'w1'")
    (finding,) = of_rule(watch(fresh_stories.url, PLANWATCH_ANALYZE=True).ask(statement))
    assert finding.advice == ()
    assert "No single index answers all of these conditions" in finding.problem


# Without a server

JOB = replace(table(name="job", rows=15_000), activity=Activity(dead=30_000))
RUN = table(name="run", rows=50_000)
TABLES = Schema({one.key: one for one in (RUN, JOB, table(name="stack", rows=1040))})


def judged(plan: Plan, *, analysed=None, schema=TABLES, duration_ms=250.0, client_side=True):
    given = Evidence(
        plan=plan,
        schema=schema,
        statement="SELECT",
        min_rows=1000,
        growth=False,
        duration_ms=duration_ms,
        returned_rows=None,
        analysed=analysed,
        client_side=client_side,
    )
    (suspicion,) = suspect(plan, schema)
    return judge(suspicion, given)


def recorded(name: str) -> Plan:
    return Plan.from_json(read(name)["plan"])


@pytest.mark.parametrize("server", SERVERS)
def test_recorded_plans_of_the_story(server):
    slow, ran = (recorded(f"story-3-{name}-{server}") for name in ("slow", "slow-analysed"))
    for hit in (judged(slow), judged(slow, analysed=ran)):
        assert isinstance(hit, Hit)
        assert hit.remedy is Remedy.COMBINED_INDEX
    dead = judged(recorded(f"story-3-dead-{server}"))
    assert isinstance(dead, Miss)
    ran = recorded(f"story-3-dead-analysed-{server}")
    assert judged(ran, analysed=ran).remedy is Remedy.VACUUM


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
    "an overlap": (bitmap(20_000, 20_000, rows=10), False, {}, Remedy.COMBINED_INDEX),
    "an overlap that was counted": (
        bitmap(20_000, 20_000, rows=10),
        True,
        {},
        Remedy.COMBINED_INDEX,
    ),
    "an overlap of a tenth": (bitmap(20_000, 20_000, rows=4000), False, {}, Remedy.COMBINED_INDEX),
    "an overlap of more": (bitmap(20_000, 20_000, rows=4001), False, {}, None),
    "few entries": (bitmap(9000, 9000, rows=10), False, {}, None),
    "few entries, many times": (
        bitmap(9000, 9000, rows=10, loops=5),
        True,
        {},
        Remedy.COMBINED_INDEX,
    ),
    "no time": (bitmap(20_000, 20_000, rows=10), False, {"duration_ms": 4.0}, None),
    "no time, as the rows come later": (
        bitmap(20_000, 20_000, rows=10),
        False,
        {"duration_ms": 4.0, "client_side": False},
        Remedy.COMBINED_INDEX,
    ),
    "no time, but counted": (
        bitmap(20_000, 20_000, rows=10),
        True,
        {"duration_ms": 4.0},
        Remedy.COMBINED_INDEX,
    ),
    "entries without rows": (bitmap(30_000, rows=30_000, found=10), True, {}, Remedy.VACUUM),
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
        Remedy.VACUUM,
    ),
    "a table of dead rows": (bitmap(15_000, rows=15_000, relation="job"), False, {}, Remedy.VACUUM),
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
    plan, ran, known, remedy = JUDGED[name]
    result = judged(unrun(plan), analysed=plan if ran else None, **known)
    assert (result.remedy if isinstance(result, Hit) else None) == remedy, result


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
    for relation, remedy in ((changed, Remedy.STATISTICS), (RUN, Remedy.COMBINED_INDEX)):
        hit = judged(unexpected, analysed=unexpected, schema=Schema({relation.key: relation}))
        assert hit.remedy is remedy


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

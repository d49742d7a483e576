"""index-only-blocked: an index holds all that is read, and its table is read as well."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from sqlalchemy import func, select

from flask_planwatch import AdviceKind, VerdictStatus
from flask_planwatch.fixes import vacuum
from flask_planwatch.plan.schema import Activity, Schema

from ..indexes.data import table
from ..stories import INDEX_ONLY, Event, effort
from .case import STORIES, Example, Rule, each_driver, followed, rows, silent, speaks

RULE = Rule("index-only-blocked", STORIES, settings={"PLANWATCH_VERIFY": "build"})

#: The statement on the page of the rule.
EXAMPLE = Example(
    "select(Event.user_id, Event.time).where("
    'Event.data["type"].astext.in_(["click", "change", "touch"]))',
    new="Index Only Scan",
    of_stories=True,
)

kind = Event.data["type"].astext

by_user = select(Event.user_id, Event.time).where(Event.user_id < 500)

GENERATED = "index a generated column data_type with data ->> 'type'…"

TOUCH_EACH_PAGE = "UPDATE event SET user_id = user_id WHERE id % 10 = 0"

SPEAKS = [
    speaks(
        "PostgreSQL believes that an expression needs its column",
        effort,
        about="data ->> 'type'::text on event",
        problem=(
            "the index event_funnel holds all that it needs",
            "PostgreSQL believes that it needs data as well",
        ),
        evidence={"blocking": ["data"]},
        fix=(
            "CREATE INDEX CONCURRENTLY ix_event_user_id_partial_e2d015_with_time ON event "
            "(user_id) INCLUDE (\"time\") WHERE (data ->> 'type') = ANY "
            "('{click,change,touch}'::text[])",
            GENERATED,
        ),
        proof=(
            "Seq Scan on event became Index Only Scan using "
            "ix_event_user_id_partial_e2d015_with_time on event: the table itself is not "
            "read",
            "data ->> 'type'::text is not computed: its condition is that of the index",
        ),
        saves=10,
        each_driver=True,
    ),
    speaks(
        "compared and sorted columns first",
        select(Event.time).where(kind == "click", Event.user_id < 900).order_by(Event.time),
        fix=(
            "CREATE INDEX CONCURRENTLY ix_event_user_id_time_partial_b1a403 ON event "
            "(user_id, \"time\") WHERE (data ->> 'type') = 'click'",
            GENERATED,
        ),
        proof=(
            "Bitmap Heap Scan on event became Index Only Scan using "
            "ix_event_user_id_time_partial_b1a403 on event: the table itself is not read",
            "data ->> 'type'::text is not computed: its condition is that of the index",
        ),
    ),
    speaks(
        "equality first",
        select(Event.user_id).where(kind == "click", Event.time > sa.text("'2024-01-02'")),
        fix=(
            "CREATE INDEX CONCURRENTLY ix_event_time_partial_b1a403_with_user_id ON event "
            "(\"time\") INCLUDE (user_id) WHERE (data ->> 'type') = 'click'",
            GENERATED,
        ),
        proof=(
            "Bitmap Heap Scan on event became Index Only Scan using "
            "ix_event_time_partial_b1a403_with_user_id on event: the table itself is not "
            "read",
            "data ->> 'type'::text is not computed: its condition is that of the index",
        ),
    ),
    speaks(
        "no column at all",
        select(func.count()).select_from(Event).where(kind.in_(["click", "touch"])),
        fix=(
            "CREATE INDEX CONCURRENTLY ix_event_id_partial_e2d015 ON event (id) WHERE "
            "(data ->> 'type') = ANY ('{click,touch}'::text[])",
            GENERATED,
        ),
        proof=(
            "… on event became Index Only Scan using "
            "ix_event_id_partial_e2d015 on event: the table itself is not read",
            "data ->> 'type'::text is not computed: its condition is that of the index",
        ),
    ),
    speaks(
        "groups",
        select(Event.user_id, func.max(Event.time)).where(kind != "view").group_by(Event.user_id),
        fix=(
            "CREATE INDEX CONCURRENTLY ix_event_user_id_partial_8177f8_with_time ON event "
            "(user_id) INCLUDE (\"time\") WHERE (data ->> 'type') <> 'view'",
            GENERATED,
        ),
        proof=(
            "Seq Scan on event became Index Only Scan using "
            "ix_event_user_id_partial_8177f8_with_time on event: the table itself is not "
            "read",
            "data ->> 'type'::text is not computed: its condition is that of the index",
        ),
    ),
]

#: No partial index helps here: only the generated column is advised.
NO_INDEX = [
    speaks(
        "the expression is selected",
        select(Event.user_id, kind).where(Event.user_id < 500),
        fix=GENERATED,
        proof="untested: …",
    ),
    speaks(
        "the expression is grouped by",
        select(kind, func.count()).where(Event.user_id < 500).group_by(kind),
        fix=GENERATED,
        proof="untested: …",
    ),
    speaks(
        "a range moves",
        select(Event.time).where(kind > "a", Event.user_id < 500),
        fix=GENERATED,
        proof="untested: …",
    ),
]

#: The rows are looked up, because too little of the table is marked as visible to all.
COLD = [
    speaks(
        "the planner knows",
        effort,
        setup=INDEX_ONLY["cold, and the planner knows"].setup,
        problem="0% of the table's pages are marked all-visible",
        fix="VACUUM (ANALYZE) event",
        why="dead rows, deleted or replaced: about 2,400",
        proof="not-applicable: …",
        each_driver=True,
    ),
    speaks(
        "no expression is in the way",
        by_user,
        setup=(TOUCH_EACH_PAGE, "ANALYZE event"),
        about="event_funnel on event",
        fix="VACUUM (ANALYZE) event",
    ),
    speaks(
        "the planner does not know, and only a run shows it",
        effort,
        setup=INDEX_ONLY["cold"].setup,
        problem="of them, are on pages that are not marked all-visible",
        evidence={"node": "Index Only Scan…"},
        fix="VACUUM (ANALYZE) event",
        each_driver=True,
        PLANWATCH_ANALYZE=True,
    ),
]

SILENT = [
    silent("the index is there", effort, setup=INDEX_ONLY["fast"].setup),
    silent(
        "the column is selected too",
        INDEX_ONLY["selects the column too"].statement,
        setup=INDEX_ONLY["selects the column too"].setup,
    ),
    silent("the whole row", select(Event).where(kind == "click", Event.user_id < 500)),
    silent("another column", select(Event.id).where(kind == "click", Event.user_id < 500)),
    silent(
        "the column besides the expression",
        select(Event.time).where(
            kind == "click", Event.user_id < 500, Event.data["path"].astext != "/"
        ),
    ),
    silent("few rows", select(Event.time).where(kind == "click", Event.user_id == 7)),
    silent(
        "locked rows",
        select(Event.time).where(kind == "click", Event.user_id < 500).with_for_update(),
    ),
    silent("an index without expressions", select(Event.id).where(Event.id < 5000)),
    silent("an index that need not read the table", by_user),
    silent("a small table", effort, PLANWATCH_MIN_ROWS=30_000),
    silent(
        "an index on more values than are looked for",
        INDEX_ONLY["subset of the list"].statement,
        setup=INDEX_ONLY["subset of the list"].setup,
    ),
    silent(
        "the table was vacuumed",
        effort,
        setup=INDEX_ONLY["cold, mended"].setup,
    ),
    silent(
        # All 700 rows are looked up, on a few of 1,000 pages.
        "the rows of an import, before autovacuum comes",
        select(Event.user_id, Event.time).where(Event.user_id > 100_000),
        setup=(
            "INSERT INTO event SELECT 1000000 + g, 100000 + g, now(), '{}' "
            "FROM generate_series(1, 700) g",
        ),
        PLANWATCH_ANALYZE=True,
    ),
    silent(
        "the planner does not know that each row is looked up",
        effort,
        setup=INDEX_ONLY["cold"].setup,
    ),
]


@rows(SPEAKS, quick=1)
def test_speaks(rule, case):
    rule.check(case)


@rows(followed(SPEAKS), quick=2)
def test_falls_silent_after_the_fix(rule, case):
    rule.check_fix(case)


@rows(NO_INDEX, each_driver=True)
def test_advises_a_generated_column(rule, case):
    rule.check(case)


@rows(COLD, quick=0)
def test_speaks_of_a_cold_visibility_map(rule, case):
    rule.check(case)


@rows(followed(COLD), quick=2)
def test_falls_silent_after_vacuum(rule, case):
    rule.check_fix(case)


@rows(SILENT, quick=10, each_driver=True)
def test_stays_silent(rule, case):
    rule.check(case)


@rows(SPEAKS[:1])
def test_hypopg_shows_it_as_well(rule, case):
    rule.check_hypopg(case)


@each_driver
def test_the_generated_column_in_the_words_of_the_app(rule):
    (finding,) = rule.ask(rule.app(PLANWATCH_VERIFY="auto"), effort)
    _, generated = finding.advice
    assert (generated.kind, generated.verdict.status) == (
        AdviceKind.REWRITE,
        VerdictStatus.UNTESTED,
    )
    assert "Computed(\"data ->> 'type'\", persisted=True)" in generated.sqlalchemy
    assert "class Event:\n    data_type = mapped_column(" in generated.sqlalchemy


def test_a_generated_column_is_read_alone(rule):
    """What is not verified for a statement is true of the server."""
    database = rule.copy()
    database.execute(
        "ALTER TABLE event ADD data_type text GENERATED ALWAYS AS (data ->> 'type') STORED",
        "CREATE INDEX event_read ON event (user_id, time, data_type)",
        "VACUUM (FREEZE, ANALYZE) event",
    )
    statement = "SELECT user_id, data_type FROM event WHERE user_id < 500"
    plan = database.scalar(f"EXPLAIN (FORMAT JSON) {statement}")[0]["Plan"]
    assert plan["Node Type"] == "Index Only Scan"
    assert rule.ask(rule.app(database), sa.text(statement)) == []


@pytest.mark.parametrize(
    ("dead", "said"),
    [(0, "0 of 0. Autovacuum"), (7, "0 of 0; dead rows, deleted or replaced: about 7. Autovacuum")],
)
def test_vacuum_names_dead_rows_if_there_are_some(dead, said):
    relation = table(activity=Activity(dead=dead))
    case = SimpleNamespace(schema=Schema({relation.key: relation}))
    hit = SimpleNamespace(suspicion=SimpleNamespace(relation=relation))
    (advice,) = vacuum.advise(case, hit).advice
    assert advice.explanation.startswith(f"Pages not marked all-visible: {said}")


@pytest.mark.slow
@each_driver
def test_both_the_index_and_vacuum_are_needed(rule):
    database = rule.copy()
    database.execute(*INDEX_ONLY["cold, without the index"].setup)
    (finding,) = rule.ask(rule.app(database), effort)
    assert "0% of the table's pages are marked all-visible" in finding.problem
    index, vacuum, _ = finding.advice
    assert (index.kind, index.verdict.status) == (
        AdviceKind.CREATE_INDEX,
        VerdictStatus.UNTESTED,
    )
    assert index.verdict.reason == "what it saves shows once VACUUM has marked the pages"
    assert (vacuum.kind, vacuum.verdict.status) == (
        AdviceKind.VACUUM,
        VerdictStatus.NOT_APPLICABLE,
    )
    assert "dead rows, deleted or replaced: about 2,400" in vacuum.explanation
    database.execute(*vacuum.ddl)
    # VACUUM alone changes nothing.
    (finding,) = rule.ask(rule.app(database), effort)
    assert finding.advice[0].ddl == index.ddl
    database.execute(*index.ddl)
    assert rule.ask(rule.app(database), effort) == []


@pytest.mark.parametrize("analyze", [True, False])
def test_few_rows_of_a_scan_in_a_loop(rule, analyze):
    """Nothing is gained by VACUUM, although the planner reckons with many loops."""
    database = rule.copy()
    database.execute("UPDATE event SET user_id = user_id WHERE id % 2 = 0", "ANALYZE event")
    statement = """
        SELECT count(*) FROM event WHERE id IN (
            SELECT unnest(ARRAY[id, id + 1, id + 2]) FROM event WHERE id < {}
        )
    """
    app = rule.app(database, PLANWATCH_ANALYZE=analyze)
    others = ["row-misestimate", "missing-index", "cost-mismatch"]
    assert rule.ask(app, sa.text(statement.format(50)), beside=others) == []
    plan = database.scalar(f"EXPLAIN (FORMAT JSON) {statement.format(50)}")[0]["Plan"]
    assert "Index Only Scan" in str(plan)
    if analyze:
        (finding,) = rule.ask(app, sa.text(statement.format(5000)), beside=others)
        assert finding.title.endswith("% of its rows are not on all-visible pages")


@each_driver
def test_compared_values_stay_in_the_process(rule, caplog):
    (finding,) = rule.ask(rule.app(), effort)
    partial = finding.advice[0]
    assert "'{click,change,touch}'" in partial.ddl[0]
    shown = [finding.message, str(partial.as_dict()), str(finding.evidence), caplog.text]
    assert not [text for text in shown if "click" in text or "touch" in text]


def test_no_verdict_without_the_planner(rule):
    (finding,) = rule.ask(rule.app(PLANWATCH_VERIFY="off"), effort)
    assert finding.advice[0].verdict.status is VerdictStatus.UNTESTED

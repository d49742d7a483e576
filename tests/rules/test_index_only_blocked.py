"""index-only-blocked speaks on story 4, tells a cold visibility map apart, and is silent else."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy import func, select

from flask_planwatch import AdviceKind, VerdictStatus

from ..stories import INDEX_ONLY, Case, Event, effort

RULE = "index-only-blocked"

kind = Event.data["type"].astext


@pytest.fixture(params=["psycopg2", "psycopg"])
def driver(request):
    return request.param


@pytest.fixture
def watched(each_stories, watch, driver):
    """An app on each server in turn, through each driver, on tables that nobody changes."""
    return watch(each_stories.url_for(driver), PLANWATCH_VERIFY="build")


def found(findings):
    """Return the findings of this rule; it leaves nothing to others on the same scan."""
    assert {finding.rule for finding in findings} <= {RULE}, findings
    return findings


def prepared(database, watch, case: Case, driver: str = "psycopg2", **config: object):
    """Return an app on a database that was prepared for a case."""
    database.execute(*case.setup)
    return watch(database.url_for(driver), PLANWATCH_VERIFY="build", **config)


def test_speaks(watched):
    (finding,) = found(watched.ask(INDEX_ONLY["slow"].statement))
    assert (finding.relation, finding.subject) == ("event", "data ->> 'type'::text")
    assert "the index event_funnel holds all that it needs" in finding.problem
    assert "PostgreSQL believes that it needs data as well" in finding.problem
    assert finding.evidence["blocking"] == ["data"]
    partial, generated = finding.advice
    assert partial.kind is AdviceKind.CREATE_INDEX
    assert partial.verdict.status is VerdictStatus.VERIFIED
    assert partial.verdict.cost_after < partial.verdict.cost_before / 10
    (read, condition) = partial.verdict.proof
    assert read.startswith("Seq Scan on event became Index Only Scan using ix_event_")
    assert "is not computed" in condition
    assert generated.kind is AdviceKind.REWRITE
    assert generated.verdict.status is VerdictStatus.UNTESTED
    assert "Computed(\"data ->> 'type'\", persisted=True)" in generated.sqlalchemy
    assert "class Event:\n    data_type = mapped_column(" in generated.sqlalchemy


def test_hypopg_shows_it_as_well(hypopg_server, each_stories, watch):
    if each_stories.server.name != hypopg_server.name:
        pytest.skip("HypoPG is installed on the other server")
    each_stories.execute("CREATE EXTENSION IF NOT EXISTS hypopg")
    watched = watch(each_stories.url, PLANWATCH_VERIFY="auto")
    (finding,) = found(watched.ask(effort))
    verdict = finding.advice[0].verdict
    assert (verdict.status, verdict.method) == (VerdictStatus.VERIFIED, "hypopg")


#: A statement, and the partial index that it is advised, as CREATE INDEX would have it.
SHAPES = {
    "compared and sorted columns first": (
        select(Event.time).where(kind == "click", Event.user_id < 900).order_by(Event.time),
        "(user_id, \"time\") WHERE (data ->> 'type') = 'click'",
    ),
    "equality first": (
        select(Event.user_id).where(kind == "click", Event.time > sa.text("'2024-01-02'")),
        "(\"time\") INCLUDE (user_id) WHERE (data ->> 'type') = 'click'",
    ),
    "no column at all": (
        select(func.count()).select_from(Event).where(kind.in_(["click", "touch"])),
        "(id) WHERE (data ->> 'type') = ANY ('{click,touch}'::text[])",
    ),
    "groups": (
        select(Event.user_id, func.max(Event.time))
        .where(kind != "view")
        .group_by(Event.user_id),
        "(user_id) INCLUDE (\"time\") WHERE (data ->> 'type') <> 'view'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_the_partial_index(fresh_stories, watch, name):
    statement, index = SHAPES[name]
    watched = watch(fresh_stories.url, PLANWATCH_VERIFY="build")
    (finding,) = found(watched.ask(statement))
    advice = finding.advice[0]
    assert advice.verdict.status is VerdictStatus.VERIFIED
    assert advice.ddl[0].endswith(f" ON event {index}"), advice.ddl
    fresh_stories.execute(*advice.ddl, "VACUUM ANALYZE event")
    assert watched.ask(statement) == []


def test_is_silent_after_the_fix(fresh_stories, watch, driver):
    """Following the advice makes the very finding go away, and raises no other one."""
    watched = watch(fresh_stories.url_for(driver), PLANWATCH_VERIFY="build")
    (finding,) = found(watched.ask(effort))
    fresh_stories.execute(*finding.advice[0].ddl, "ANALYZE event")
    assert watched.ask(effort) == []


#: The twins of the story: nothing is said.
TWINS = ["fast", "selects the column too", "subset of the list", "cold, mended"]


@pytest.mark.parametrize("name", TWINS)
def test_is_silent_on_twins(fresh_stories, watch, driver, name):
    watched = prepared(fresh_stories, watch, INDEX_ONLY[name], driver)
    assert watched.ask(INDEX_ONLY[name].statement) == []
    assert watched.planwatch.stats()["inspected"] == 1


#: Statements on the same tables that no partial index would answer from itself alone.
SILENT = {
    "the whole row": select(Event).where(kind == "click", Event.user_id < 500),
    "another column": select(Event.id).where(kind == "click", Event.user_id < 500),
    "the column besides the expression": select(Event.time).where(
        kind == "click", Event.user_id < 500, Event.data["path"].astext != "/"
    ),
    "few rows": select(Event.time).where(kind == "click", Event.user_id == 7),
    "locked rows": select(Event.time)
    .where(kind == "click", Event.user_id < 500)
    .with_for_update(),
    "an index without expressions": select(Event.id).where(Event.id < 5000),
}  # fmt: skip


@pytest.mark.parametrize("name", SILENT)
def test_is_silent(watched, name):
    findings = watched.ask(SILENT[name])
    assert [finding for finding in findings if finding.rule == RULE] == []
    assert watched.planwatch.stats()["errors"] == 0


#: Where no partial index helps, though the column blocks: only the generated column is advised.
GENERATED = {
    "the expression is selected": select(Event.user_id, kind).where(Event.user_id < 500),
    "the expression is grouped by": select(kind, func.count())
    .where(Event.user_id < 500)
    .group_by(kind),
    "a range moves": select(Event.time).where(kind > "a", Event.user_id < 500),
}  # fmt: skip


@pytest.mark.parametrize("name", GENERATED)
def test_advises_a_generated_column(watched, name):
    (finding,) = found(watched.ask(GENERATED[name]))
    (advice,) = finding.advice
    assert (advice.kind, advice.verdict.status) == (AdviceKind.REWRITE, VerdictStatus.UNTESTED)
    assert advice.summary.startswith("store data ->> 'type' in a generated column data_type")


def test_a_generated_column_is_read_alone(fresh_stories, watch):
    """What is not verified for a statement is true of the server."""
    fresh_stories.execute(
        "ALTER TABLE event ADD data_type text GENERATED ALWAYS AS (data ->> 'type') STORED",
        "CREATE INDEX event_read ON event (user_id, time, data_type)",
        "VACUUM (FREEZE, ANALYZE) event",
    )
    statement = "SELECT user_id, data_type FROM event WHERE user_id < 500"
    plan = fresh_stories.scalar(f"EXPLAIN (FORMAT JSON) {statement}")[0]["Plan"]
    assert plan["Node Type"] == "Index Only Scan"
    assert watch(fresh_stories.url).ask(sa.text(statement)) == []


@pytest.mark.parametrize("name", ["cold, and the planner knows", "cold, without the index"])
def test_a_cold_visibility_map(fresh_stories, watch, driver, name):
    watched = prepared(fresh_stories, watch, INDEX_ONLY[name], driver)
    (finding,) = found(watched.ask(effort))
    assert "0% of the table is marked as visible to all" in finding.problem
    (advice,) = finding.advice
    assert advice.kind is AdviceKind.VACUUM
    assert advice.verdict.status is VerdictStatus.NOT_APPLICABLE
    assert "About 2,400 rows were deleted or replaced" in advice.explanation
    fresh_stories.execute(*advice.ddl)
    # Without the partial index, that is what is to be done next.
    after = found(prepared(fresh_stories, watch, Case(effort), driver).ask(effort))
    kinds = [finding.advice[0].kind for finding in after]
    assert kinds == ([] if name.endswith("knows") else [AdviceKind.CREATE_INDEX])
    if name.endswith("knows"):
        assert watched.ask(effort) == []


def test_a_cold_visibility_map_that_the_planner_does_not_know(fresh_stories, watch, driver):
    """Only a run shows that an Index Only Scan looks up each row."""
    case = INDEX_ONLY["cold"]
    assert prepared(fresh_stories, watch, case, driver).ask(case.statement) == []
    watched = watch(fresh_stories.url_for(driver), PLANWATCH_ANALYZE=True)
    (finding,) = found(watched.ask(case.statement))
    assert finding.evidence["node"].startswith("Index Only Scan")
    assert finding.advice[0].kind is AdviceKind.VACUUM
    fresh_stories.execute(*finding.advice[0].ddl)
    assert watched.ask(case.statement) == []


def test_a_table_that_an_index_need_not_read(fresh_stories, watch):
    """No expression is in the way: PostgreSQL goes by the visibility map alone."""
    statement = select(Event.user_id, Event.time).where(Event.user_id < 500)
    watched = watch(fresh_stories.url)
    assert watched.ask(statement) == []
    fresh_stories.execute("UPDATE event SET user_id = user_id WHERE id % 10 = 0", "ANALYZE event")
    (finding,) = found(watched.ask(statement))
    assert (finding.subject, finding.advice[0].kind) == ("event_funnel", AdviceKind.VACUUM)
    fresh_stories.execute(*finding.advice[0].ddl)
    assert watched.ask(statement) == []


def test_compared_values_stay_in_the_process(watched, caplog):
    (finding,) = found(watched.ask(effort))
    partial = finding.advice[0]
    assert "'{click,change,touch}'" in partial.ddl[0]
    shown = [finding.message, str(partial.as_dict()), str(finding.evidence), caplog.text]
    assert not [text for text in shown if "click" in text or "touch" in text]


def test_a_small_table_is_not_worth_it(each_stories, watch):
    watched = watch(each_stories.url, PLANWATCH_MIN_ROWS=30_000)
    assert [one for one in watched.ask(effort) if one.rule == RULE] == []


def test_no_verdict_without_the_planner(each_stories, watch):
    watched = watch(each_stories.url, PLANWATCH_VERIFY="off")
    (finding,) = found(watched.ask(effort))
    assert finding.advice[0].verdict.status is VerdictStatus.UNTESTED

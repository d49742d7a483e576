"""Much of everything, and what cannot be read."""

from __future__ import annotations

import time

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from flask_planwatch.capture.sampling import CHARACTERS_PER_INSPECTION, MIN_CHARACTERS
from flask_planwatch.capture.statistics import MAX_STATEMENT_SIZE
from flask_planwatch.failure import ServerError
from flask_planwatch.finding import SkipReason
from flask_planwatch.inspection import planning

from ..models import Badge, User
from .comparing import LOGIN, Answer, Visits, accounts, compare, run, skipped

pytestmark = pytest.mark.slow


def test_several_statements_in_one_text(fresh_story, watch):
    watched = watch(fresh_story.url)
    run(watched, "SELECT 1; INSERT INTO badge VALUES (5000, 'twice')")
    assert skipped(watched) == {"multiple-statements": 1}
    assert fresh_story.scalar("SELECT count(*) FROM badge WHERE id = 5000") == 1


def test_a_semicolon_in_a_literal_is_no_second_statement(watched):
    run(watched, "SELECT * FROM badge WHERE owner = 'a; b';")
    run(watched, "SELECT * FROM badge; -- by id; or not")
    assert skipped(watched) == {}


def test_large_parameters_are_not_sent_again(watched):
    run(watched, sa.select(Badge.id).where(Badge.owner == "x" * 10_000_000))
    run(watched, sa.text("SELECT :a").bindparams(a=["x" * 600_000] * 2))
    document = {"many": [{"x": "y" * 1000}] * 2000}
    run(watched, sa.select(User.id).where(User.data == document))
    assert skipped(watched) == {"parameters-too-large": 3}


def test_planning_that_takes_too_long(fresh_story, watch):
    fresh_story.execute(
        "CREATE FUNCTION slow() RETURNS text LANGUAGE plpgsql IMMUTABLE AS "
        "$$ BEGIN PERFORM pg_sleep(0.3); RETURN 'x'; END $$"
    )
    watched = watch(fresh_story.url, PLANWATCH_STATEMENT_TIMEOUT_MS=100)
    run(watched, "SELECT * FROM badge WHERE owner = slow()")
    assert skipped(watched) == {"statement-timeout": 1}


def test_a_plan_that_cannot_be_read(watched, monkeypatch):
    def broken(document):
        raise ServerError(SkipReason.UNREADABLE_PLAN)

    monkeypatch.setattr("flask_planwatch.server.transaction.Plan.from_json", broken)
    run(watched, LOGIN)
    assert skipped(watched) == {"unreadable-plan": 1}


def test_unknown_nodes_are_passed_over(watched, monkeypatch):
    from flask_planwatch.server import transaction

    read = transaction.Transaction._document

    def strange(self, *arguments, **options):
        (top, *_) = read(self, *arguments, **options)
        return [{"Plan": {"Node Type": "Teleport", "Plans": [top["Plan"], None, {"x": 1}]}}]

    monkeypatch.setattr(transaction.Transaction, "_document", strange)
    run(watched, LOGIN)
    assert len(watched.findings()) == 1


def test_a_full_queue_drops_and_counts(watched, limit_queue, held):
    """The app does not wait for the worker: all five run while the first is held up."""
    limit_queue(2)
    for _ in range(5):
        run(watched, sa.select(Badge.id).limit(1))
    assert watched.planwatch.stats()["dropped"] == 3
    assert not watched.planwatch.flush(0.1)
    held.set()
    assert watched.planwatch.flush(120)
    assert watched.planwatch.stats()["inspected"] == 2


def test_a_text_that_is_too_long_is_not_read(watched, caplog):
    """Each with other literals, as a bulk load of hand-made SQL sends them."""
    for start in range(3):
        values = ", ".join(f"({start}{number}, 's3cr3t')" for number in range(10_000))
        run(watched, f"SELECT count(*) FROM (VALUES {values}) AS v (a, b)")
    assert skipped(watched) == {"statement-too-large": 3}
    assert len(caplog.text) < 5_000


def test_a_select_of_many_entities_is_read(watched):
    """SQLAlchemy writes nearly 50,000 characters for eight entities with forty columns each."""
    columns = [
        sa.Column(f"a_rather_long_column_name_number_{number}", sa.Text) for number in range(40)
    ]
    wide = sa.Table("wide", sa.MetaData(), sa.Column("id", sa.Integer), *columns)
    with watched.app.app_context(), watched.db.engine.begin() as connection:
        wide.create(connection)
    entities = [wide.alias(f"some_relationship_of_the_model_{number}") for number in range(8)]
    joined = entities[0]
    for entity in entities[1:]:
        joined = joined.outerjoin(entity, entity.c.id == entities[0].c.id)
    statement = sa.select(*entities).set_label_style(sa.LABEL_STYLE_TABLENAME_PLUS_COL)
    statement = statement.select_from(joined)
    assert 40_000 < len(str(statement)) < MAX_STATEMENT_SIZE / 2
    run(watched, statement)
    assert skipped(watched) == {}


def test_a_condition_that_is_too_long_is_not_read(watched):
    """An OR of hundreds of tests takes a second to read and to judge."""

    def ask(number: int) -> None:
        tests = [
            sa.and_(Badge.id == one, Badge.owner == f"{one} owner of (it)") for one in range(number)
        ]
        run(watched, sa.select(Badge.id).where(sa.or_(*tests)))

    ask(20)
    assert skipped(watched) == {}
    ask(400)
    assert skipped(watched) == {"statement-too-large": 1}
    names = ", ".join(f"'{number}'" for number in range(3000))
    run(watched, f"SELECT id FROM badge WHERE owner IN ({names})")
    assert skipped(watched) == {"statement-too-large": 1}


def test_statements_of_other_lengths_are_one_in_the_interval(fresh_story, watch):
    watched = watch(fresh_story.url, PLANWATCH_SAMPLE_INTERVAL=300)
    for number in range(1, 6):
        names = sa.or_(*(Badge.owner == str(one) for one in range(number)))
        run(watched, sa.select(Badge.id).where(names))
    assert skipped(watched) == {"recently-inspected": 4}
    assert watched.planwatch.stats()["inspected"] == 1


def test_a_slow_text_statement_does_not_wait(fresh_story, watch, processor_time, monkeypatch):
    processor_time.count_waiting()
    monkeypatch.setattr("flask_planwatch.capture.sampling.SLOW_WAIT", 0)
    watched = watch(fresh_story.url, PLANWATCH_SAMPLE_INTERVAL=300, PLANWATCH_SLOW_STATEMENT_MS=50)
    for _ in range(2):
        run(watched, sa.text("SELECT pg_sleep(0.1)"))
    assert skipped(watched) == {}
    assert watched.planwatch.stats()["inspected"] == 2


#: More than PlanWatch counts the executions of, so that it forgets some.
TEXTS = 30_000


def test_very_many_different_texts(small_server, watch):
    """An app that writes literals into its text, with the settings of production."""
    defaults = {"PLANWATCH_SAMPLE_INTERVAL": 300, "PLANWATCH_INSPECTIONS_PER_MINUTE": 60}
    texts = [[f"SELECT {number}" for number in range(start, TEXTS, 5)] for start in range(5)]
    watched = watch(small_server.url(), **defaults)
    visits = Visits(watched)
    began = time.monotonic()
    answers = [visits(*each) for each in texts]
    minutes = (time.monotonic() - began) / 60
    assert answers == [Answer(200, f"[[{TEXTS - 5 + start}]]") for start in range(5)]
    stats = accounts(visits)
    assert stats["captured"] == TEXTS
    # Of all these texts, few are read: what is read takes time from the app.
    assert set(stats["skipped"]) == {"recently-inspected"}
    # Those of the minute before were saved up.
    most = 60 * CHARACTERS_PER_INSPECTION / MIN_CHARACTERS * (minutes + 2)
    assert stats["skipped"]["recently-inspected"] + stats["inspected"] < most
    assert stats["over_budget"] > TEXTS - most


#: Queries that the planner does not pull up, so that each is a Limit over a scan.
QUERIES, PARTS = 60, 45


def test_a_plan_of_5_000_nodes(small_server, watch, driver):
    one = "(SELECT a FROM tiny WHERE a = 5 LIMIT 1)"
    small_server.execute(
        "CREATE TABLE IF NOT EXISTS tiny AS SELECT n AS a FROM generate_series(1, 2000) n",
        f"CREATE OR REPLACE VIEW wide AS {' UNION ALL '.join([one] * QUERIES)}",
        "ANALYZE tiny",
    )
    wide = sa.text(" UNION ALL ".join(["(TABLE wide LIMIT 100)"] * PARTS))
    visits = compare(watch, small_server.url(driver), lambda visits: [visits(wide), visits(LOGIN)])
    stats = accounts(visits)
    assert (stats["inspected"], stats["skipped"]) == (2, {})
    assert max(len(one.plan.nodes) for one in visits.heard) > 5_000


def test_a_plan_with_too_many_conditions_is_a_named_skip(watched, monkeypatch):
    monkeypatch.setattr(planning, "MAX_WORDS", 100)
    wide = " OR ".join(f"owner = 'x{number}' AND id > {number}" for number in range(100))
    run(watched, f"SELECT 1 FROM badge WHERE {wide}")
    run(watched, "SELECT 1 FROM badge WHERE owner = 'x'")
    assert skipped(watched) == {"plan-too-large": 1}
    assert watched.planwatch.stats()["inspected"] == 1


def test_texts_with_blanks_in_a_long_list_are_no_conditions(watched, monkeypatch):
    monkeypatch.setattr(planning, "MAX_WORDS", 100)
    run(watched, f"SELECT 1 FROM badge WHERE owner IN {tuple(f'x of {n}' for n in range(100))}")
    assert skipped(watched) == {}
    assert watched.planwatch.stats()["inspected"] == 1


@pytest.mark.parametrize("kind", ["str", "bytes", "json"])
def test_a_parameter_of_10_mb(small_server, watch, driver, kind):
    large = {
        "str": sa.select(sa.func.length(sa.literal("x" * 10_000_000))),
        "bytes": sa.select(sa.func.length(sa.literal(b"x" * 10_000_000))),
        "json": sa.select(sa.func.jsonb_array_length(sa.literal(["x" * 1000] * 10_000, JSONB))),
    }[kind]
    visits = compare(watch, small_server.url(driver), lambda visits: [visits(large), visits(LOGIN)])
    stats = accounts(visits)
    assert (stats["inspected"], stats["skipped"]) == (1, {"parameters-too-large": 1})

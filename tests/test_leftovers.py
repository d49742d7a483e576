"""What a build leaves behind in a database, as docs/build-trial.rst says it."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

pytestmark = pytest.mark.slow

#: What a build may not change.
LEFT = {
    "relations": "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class",
    "extensions": "SELECT string_agg(extname, ' ' ORDER BY extname) FROM pg_extension",
    "extended statistics": "SELECT count(*) FROM pg_statistic_ext",
    "statistics": "SELECT md5(string_agg(s::text, '' ORDER BY tablename, attname)) "
    "FROM pg_stats s WHERE schemaname = 'public'",
    "rows": "SELECT count(*) FROM trace",
}

COUNTERS = (
    "SELECT n_mod_since_analyze || ' ' || analyze_count FROM pg_stat_user_tables "
    "WHERE relname = '{}'"
)
SIZE = "SELECT reltuples || ' ' || relpages FROM pg_class WHERE relname = '{}'"


#: Autovacuum is on, and never comes.
NEVER = (
    "autovacuum_vacuum_threshold = 1000000000, autovacuum_analyze_threshold = 1000000000, "
    "autovacuum_vacuum_insert_threshold = -1"
)


@pytest.fixture
def place(any_story):
    """A table with statistics and 100 changes since, one without, and a trigger that writes."""
    any_story.execute(
        "CREATE TABLE known (name text) WITH (autovacuum_enabled = off)",
        "INSERT INTO known SELECT 'A' || g FROM generate_series(1, 3000) g",
        # ANALYZE starts the counter afresh, but not what this connection has yet to report.
        "SELECT pg_stat_force_next_flush()",
        "ANALYZE known",
        "UPDATE known SET name = name WHERE ctid IN (SELECT ctid FROM known LIMIT 100)",
        # Where autovacuum is off for the table, 18 leaves its size in the catalog alone.
        f"CREATE TABLE fresh (name text) WITH ({NEVER})",
        "INSERT INTO fresh SELECT 'A' || g FROM generate_series(1, 3000) g",
        "CREATE TABLE trace (a text)",
        "CREATE SEQUENCE fired",
        "CREATE FUNCTION leave() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO trace VALUES (tg_tag); PERFORM nextval('fired'); END $$",
        "CREATE EVENT TRIGGER leave ON ddl_command_end WHEN tag IN ('CREATE INDEX') "
        "EXECUTE FUNCTION leave()",
        "SELECT pg_stat_force_next_flush()",
    )
    return any_story


def counters(place, table):
    return place.scalar(COUNTERS.format(table))


def test_a_build_leaves_what_the_page_says_and_nothing_else(place, watch):
    kept = {name: place.scalar(question) for name, question in LEFT.items()}
    assert counters(place, "known") == "100 1"
    assert place.scalar(SIZE.format("fresh")) == "-1 0"
    watched = watch(place.url, PLANWATCH_VERIFY="build")
    for table in ("known", "fresh"):
        (finding,) = watched.ask(sa.text(f"SELECT * FROM {table} WHERE lower(name) = 'a7'"))
        assert finding.advice[0].verdict.method == "build", finding.advice[0].verdict
        watched.planwatch.clear()
    with watched.app.app_context():
        watched.db.engine.dispose()
    assert {name: place.scalar(question) for name, question in LEFT.items()} == kept
    # What is left, in spite of the rollback.
    assert counters(place, "known") == "0 2"
    assert counters(place, "fresh").endswith(" 0")
    assert place.scalar(SIZE.format("fresh")) == "3000 14"
    assert place.scalar("SELECT is_called FROM fired")


def test_a_trigger_that_refuses_the_index_leaves_the_advice_untested(any_story, watch):
    any_story.execute(
        "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE 'no indexes here'; END $$",
        "CREATE EVENT TRIGGER refuse ON ddl_command_start WHEN tag IN ('CREATE INDEX') "
        "EXECUTE FUNCTION refuse()",
    )
    watched = watch(any_story.url, PLANWATCH_VERIFY="build")
    (finding,) = watched.ask(sa.text("SELECT id FROM \"user\" WHERE lower(email) = 'x'"))
    assert finding.advice[0].verdict.status == "untested"
    assert "P0001" in finding.advice[0].verdict.reason


def test_without_build_nothing_is_left(place, watch):
    """Neither by EXPLAIN, nor by HypoPG, nor by ANALYZE of a statement."""
    questions = {
        **LEFT,
        "counters": COUNTERS.format("known"),
        "size": SIZE.format("fresh"),
        "fired": "SELECT is_called FROM fired",
    }
    kept = {name: place.scalar(question) for name, question in questions.items()}
    watched = watch(place.url, PLANWATCH_ANALYZE=True)
    for table in ("known", "fresh"):
        watched.ask(sa.text(f"SELECT * FROM {table} WHERE lower(name) = 'a7'"))
    with watched.app.app_context():
        watched.db.engine.dispose()
    assert len(watched.planwatch.findings()) == 2
    assert {name: place.scalar(question) for name, question in questions.items()} == kept

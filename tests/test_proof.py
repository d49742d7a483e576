"""The verdict on an index: by HypoPG, by building it, and where neither is possible."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy import func

from flask_planwatch import VerdictStatus

from .models import User

LOGIN = sa.select(User).where(func.lower(User.email) == "user7@example.com")


def only_advice(findings):
    (finding,) = findings
    return finding.advice[0]


def cost_of_login(database):
    plan = database.scalar(
        "EXPLAIN (FORMAT JSON) SELECT * FROM \"user\" WHERE lower(email) = 'user7@example.com'"
    )
    return plan[0]["Plan"]["Total Cost"]


@pytest.fixture
def on_hypopg(hypopg_server, templates):
    from .conftest import _database

    yield from _database(hypopg_server, templates(hypopg_server))


def test_untested_where_hypopg_is_missing(fresh_story, watch):
    fresh_story.execute("DROP EXTENSION IF EXISTS hypopg")
    verdict = only_advice(watch(fresh_story.url).ask(LOGIN)).verdict
    assert verdict.status is VerdictStatus.UNTESTED
    assert "CREATE EXTENSION hypopg" in verdict.reason
    assert 'PLANWATCH_VERIFY = "build"' in verdict.reason


def test_off_tries_nothing(any_story, watch):
    verdict = only_advice(watch(any_story.url, PLANWATCH_VERIFY="off").ask(LOGIN)).verdict
    assert verdict.status is VerdictStatus.UNTESTED
    assert '"off"' in verdict.reason


def test_hypopg_proves_by_structure(on_hypopg, watch):
    before = cost_of_login(on_hypopg)
    advice = only_advice(watch(on_hypopg.url).ask(LOGIN))
    verdict = advice.verdict
    assert verdict.status is VerdictStatus.VERIFIED
    assert verdict.method == "hypopg"
    assert verdict.guess, "an expression has no statistics before its index is analysed"
    assert "default guess" in str(verdict)
    assert verdict.cost_before == before
    on_hypopg.execute(*advice.ddl)
    # HypoPG estimates the size of the index, so its cost is near that of the real one.
    assert verdict.cost_after == pytest.approx(cost_of_login(on_hypopg), rel=0.05)
    assert "index condition" in verdict.proof[0]


def test_hypopg_is_found_in_another_schema(on_hypopg, watch):
    on_hypopg.execute(
        "DROP EXTENSION hypopg",
        'CREATE SCHEMA "Odd One"',
        'CREATE EXTENSION hypopg SCHEMA "Odd One"',
    )
    verdict = only_advice(watch(on_hypopg.url).ask(LOGIN)).verdict
    assert verdict.status is VerdictStatus.VERIFIED


def test_hypothetical_indexes_are_reset(on_hypopg, watch):
    """A second inspection on the same connection sees no index of the first."""
    watched = watch(on_hypopg.url)
    watched.ask(LOGIN)
    findings = watched.ask(sa.select(User.id).where(func.lower(User.email) == "b"))
    assert len(findings) == 2


def test_build_measures_and_leaves_no_index(any_story, watch):
    before = cost_of_login(any_story)
    advice = only_advice(watch(any_story.url, PLANWATCH_VERIFY="build").ask(LOGIN))
    verdict = advice.verdict
    assert (verdict.status, verdict.method) == (VerdictStatus.VERIFIED, "build")
    assert verdict.cost_before == before == cost_of_login(any_story)
    assert not verdict.guess
    any_story.execute(*advice.ddl, 'ANALYZE "user"')
    assert verdict.cost_after == pytest.approx(cost_of_login(any_story), rel=0.01)


def test_build_does_not_analyse_a_table_without_statistics(fresh_story, watch):
    fresh_story.execute(
        "CREATE TABLE fresh (name text) WITH (autovacuum_enabled = off)",
        "INSERT INTO fresh SELECT 'A' || g FROM generate_series(1, 50000) g",
    )
    watched = watch(fresh_story.url, PLANWATCH_VERIFY="build")
    verdict = only_advice(
        watched.ask(sa.text("SELECT * FROM fresh WHERE lower(name) = 'a7'"))
    ).verdict
    assert (verdict.status, verdict.guess) == (VerdictStatus.VERIFIED, True)
    assert fresh_story.scalar("SELECT count(*) FROM pg_stats WHERE tablename = 'fresh'") == 0
    counter = "SELECT analyze_count FROM pg_stat_user_tables WHERE relname = 'fresh'"
    assert fresh_story.scalar(counter) == 0


def test_build_proves_for_a_partitioned_table(any_story, watch):
    watched = watch(any_story.url, PLANWATCH_VERIFY="build")
    statement = sa.text("""SELECT * FROM "Shop"."Order" WHERE lower("Order Code") = 'c7'""")
    assert only_advice(watched.ask(statement)).verdict.status is VerdictStatus.VERIFIED


def test_hypopg_cannot_tell_for_a_partitioned_table(on_hypopg, watch):
    statement = sa.text("""SELECT * FROM "Shop"."Order" WHERE lower("Order Code") = 'c7'""")
    verdict = only_advice(watch(on_hypopg.url).ask(statement)).verdict
    assert verdict.status is VerdictStatus.UNTESTED
    assert "does not plan with indexes on partitions" in verdict.reason


def test_measured_statistics_can_dismiss(any_story, watch):
    """Nearly all rows match: with an index to choose, the planner still reads the table."""
    any_story.execute("UPDATE \"user\" SET first = 'Same' WHERE id % 30 <> 0", "VACUUM ANALYZE")
    statement = sa.select(func.count()).where(func.lower(User.first) == "same")
    watched = watch(any_story.url, PLANWATCH_VERIFY="build")
    assert watched.ask(statement) == []
    watched = watch(any_story.url, PLANWATCH_VERIFY="off")
    assert len(watched.ask(statement)) == 1


def test_an_index_that_cannot_serve_is_rejected(any_story, watch):
    """EXPLAIN does not print COLLATE, so the index has the wrong collation."""
    statement = sa.select(User).where(sa.collate(func.lower(User.first), "POSIX") == "first7")
    verdict = only_advice(watch(any_story.url, PLANWATCH_VERIFY="build").ask(statement)).verdict
    assert verdict.status is VerdictStatus.REJECTED
    assert "collation" in verdict.reason


def test_a_function_that_only_the_server_knows_is_refused_by_it(any_story, watch):
    """row_to_json takes any record, so the catalog does not tell which one is meant."""
    any_story.execute(
        "CREATE FUNCTION shout(text) RETURNS text LANGUAGE sql STABLE AS 'SELECT upper($1)'",
        "CREATE FUNCTION shout(varchar) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT upper($1)'",
    )
    statement = sa.text("SELECT * FROM \"user\" WHERE jsonb_build_object('a', first)::text = 'x'")
    advice = only_advice(watch(any_story.url, PLANWATCH_VERIFY="build").ask(statement))
    assert advice.kind == "rewrite"


def test_growth_is_proved_with_sequential_scans_off(any_story, watch):
    watched = watch(any_story.url, PLANWATCH_GROWTH=True, PLANWATCH_VERIFY="build")
    statement = sa.text("SELECT * FROM badge WHERE lower(owner) = 'owner7'")
    verdict = only_advice(watched.ask(statement)).verdict
    assert verdict.status is VerdictStatus.VERIFIED
    assert "sequential scans were off" in verdict.reason


def test_a_second_try_follows_a_lock_of_the_request_itself(fresh_story, watch, monkeypatch):
    monkeypatch.setattr("flask_planwatch.worker.RETRY_SECONDS", 5)
    watched = watch(fresh_story.url, PLANWATCH_VERIFY="build")
    with watched.app.app_context():
        session = watched.db.session
        session.execute(sa.update(User).values(first="x").where(User.id == 7))
        session.execute(LOGIN).all()
        # The lock of the UPDATE is in the way of CREATE INDEX until the transaction ends.
        assert not watched.planwatch.flush(0.6)
        assert watched.planwatch.findings() == ()
        session.rollback()
    verdict = next(f for f in watched.findings() if "lower" in f.subject).advice[0].verdict
    assert verdict.status is VerdictStatus.VERIFIED


def test_a_lock_that_stays_leaves_the_advice_untested(fresh_story, watch):
    watched = watch(fresh_story.url, PLANWATCH_VERIFY="build")
    with watched.app.app_context():
        session = watched.db.session
        session.execute(sa.update(User).values(first="x").where(User.id == 7))
        session.execute(LOGIN).all()
        findings = watched.findings()
        session.rollback()
    verdict = next(f for f in findings if "lower" in f.subject).advice[0].verdict
    assert verdict.status is VerdictStatus.UNTESTED
    assert "locked" in verdict.reason

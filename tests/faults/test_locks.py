"""Locks that are in the way, and privileges that are missing."""

from __future__ import annotations

import logging

import pytest
import sqlalchemy as sa

from ..models import Badge
from .comparing import LOGIN, accounts, compare, run, skipped

pytestmark = pytest.mark.slow


def test_a_role_without_privileges(fresh_story, watch, caplog):
    fresh_story.execute(
        f"DROP ROLE IF EXISTS pw_{fresh_story.name}", f"CREATE ROLE pw_{fresh_story.name} LOGIN"
    )
    url = fresh_story.url_for("psycopg2", username=f"pw_{fresh_story.name}")
    watched = watch(fresh_story.url, PLANWATCH_DATABASE_URL=url)
    for _ in range(3):
        run(watched, LOGIN)
    assert skipped(watched) == {"permission-denied": 3}
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "permission denied for table user" in record.getMessage()
    fresh_story.execute(f'GRANT SELECT ON "user" TO pw_{fresh_story.name}')
    # What was refused is not sent again for a while.
    watched.planwatch.clear()
    run(watched, LOGIN)
    assert len(watched.findings()) == 1
    fresh_story.execute(f"DROP OWNED BY pw_{fresh_story.name}", f"DROP ROLE pw_{fresh_story.name}")


def test_a_locked_table(watched, fresh_story):
    locker = sa.create_engine(fresh_story.url, poolclass=sa.NullPool)
    run(watched, LOGIN)
    watched.findings()
    with locker.begin() as connection:
        # The table is locked between the app's statement and PlanWatch's EXPLAIN of it.
        connection.exec_driver_sql("LOCK TABLE badge IN ACCESS EXCLUSIVE MODE")
        with watched.app.app_context(), watched.db.engine.connect() as app_connection:
            app_connection.exec_driver_sql("SET lock_timeout = 10")
            with pytest.raises(sa.exc.OperationalError):
                app_connection.execute(sa.select(Badge.id))
        assert skipped(watched) == {"lock-timeout": 1}


@pytest.mark.parametrize("held_by", ["another program", "the app itself"])
def test_an_access_exclusive_lock_that_is_held(small_server, watch, driver, held_by):
    """Who waits for it waits as without PlanWatch, and the other tables are inspected meanwhile."""
    seven = sa.select(Badge.id).where(Badge.id == 7)
    lock = "LOCK TABLE badge IN ACCESS EXCLUSIVE MODE"

    def scenario(visits):
        if held_by == "the app itself":
            answers = [visits(lock, seven, LOGIN)]
            # Its transaction is over before the next one begins.
            return [*answers, visits(seven)]
        locker = sa.create_engine(small_server.url(), poolclass=sa.NullPool)
        with locker.begin() as connection:
            connection.exec_driver_sql(lock)
            answers = [visits(LOGIN), visits("SET LOCAL lock_timeout = 100", seven), visits(LOGIN)]
            assert visits.watched.planwatch.flush(120)
        assert [one.status for one in answers] == [200, 500, 200]
        return [*answers, visits(seven)]

    stats = accounts(compare(watch, small_server.url(driver), scenario))
    if held_by == "another program":
        assert (stats["inspected"], stats["skipped"]) == (3, {"lock-timeout": 1})
    else:
        assert set(stats["skipped"]) <= {"lock-timeout"}


@pytest.fixture
def role(small_server):
    """A role that may log in, and nothing else."""
    small_server.execute("CREATE ROLE watcher LOGIN")
    yield "watcher"
    small_server.execute(
        "GRANT CONNECT ON DATABASE postgres TO PUBLIC", "DROP OWNED BY watcher", "DROP ROLE watcher"
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("SELECT 1", "permission-denied"),
        # EXPLAIN needs the privilege of what it explains.
        ("GRANT INSERT ON badge TO watcher", "permission-denied"),
        ("REVOKE CONNECT ON DATABASE postgres FROM PUBLIC", "server-unavailable"),
        ("ALTER ROLE watcher NOLOGIN", "server-unavailable"),
    ],
)
def test_a_role_of_planwatch_that_may_not(
    small_server, role, watch, driver, change, reason, caplog
):
    small_server.execute(change)
    statements = [
        sa.select(Badge.id).where(Badge.id == 7),
        sa.update(Badge).values(owner="s3cr3t").where(Badge.id == 7),
    ]
    stats = accounts(
        compare(
            watch,
            small_server.url(driver),
            lambda visits: [visits(one) for one in statements],
            PLANWATCH_DATABASE_URL=small_server.url(driver, user=role),
        )
    )
    assert (stats["inspected"], stats["skipped"]) == (0, {reason: 2})
    # Said once.
    assert caplog.text.count("could not inspect") == 1
    assert "s3cr3t" not in caplog.text


def test_a_role_of_the_app_that_may_not(small_server, role, watch, driver):
    """What the app itself may not read it could not either without PlanWatch."""
    small_server.execute(f'GRANT SELECT ON "user" TO {role}')

    def scenario(visits):
        return [visits(sa.select(Badge.id)), visits(LOGIN)]

    visits = compare(watch, small_server.url(driver, user=role), scenario)
    stats = accounts(visits)
    assert (stats["inspected"], stats["skipped"]) == (1, {"statement-invalid": 1})
    assert [one.rule for one in visits.watched.findings()] == ["functional-predicate"]

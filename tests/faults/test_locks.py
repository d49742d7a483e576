"""Locks that are in the way, and privileges that are missing."""

from __future__ import annotations

import logging

import pytest
import sqlalchemy as sa

from ..models import Badge
from .comparing import LOGIN, run, skipped


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

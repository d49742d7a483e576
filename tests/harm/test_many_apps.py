"""An app for each test: made by the hundred and dropped, never disposed of."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import weakref

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from flask_planwatch import PlanWatch, worker

from ..conditions import becomes

pytestmark = [pytest.mark.slow, pytest.mark.versions]

#: What a process does that makes an app for each test; it prints what it has taken.
PROCESS = """
import gc, json, resource, sys, threading, time
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy

url, number, watched, kind = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "watched", sys.argv[4]
if watched:
    import logging
    from flask_planwatch import PlanWatch
    logging.getLogger("flask_planwatch").setLevel(logging.CRITICAL)

common = SQLAlchemy()
class Common(common.Model):
    id = sa.Column(sa.Integer, primary_key=True)

def map_tables(db):
    for table in range(30):
        columns = {f"c{n}": sa.Column(sa.Text) for n in range(5)}
        columns["id"] = sa.Column(sa.Integer, primary_key=True)
        type(f"Model{table}", (db.Model,), {"__tablename__": f"table_{table}", **columns})

def make():
    app = Flask("app")
    app.config.update(SQLALCHEMY_DATABASE_URI=url, TESTING=True)
    if kind == "own":
        db = SQLAlchemy(app)
        map_tables(db)
    else:
        db = common
        db.init_app(app)
    if watched:
        PlanWatch(app)
    rows = []
    with app.app_context():
        for column in range(5):
            query = sa.text(f"SELECT count(*) AS c{column} FROM pg_class WHERE relpages = :pages")
            rows.append(db.session.execute(query, {"pages": 1}).scalar())
        db.session.remove()
    return rows

def memory():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6

for _ in range(10):
    make()
gc.collect()
before, started, threads, results = memory(), time.process_time(), 0, set()
for _ in range(number):
    results.add(tuple(map(bool, make())))
    threads = max(threads, threading.active_count())
seconds = time.process_time() - started
gc.collect()
apps = sum(type(one) is Flask for one in gc.get_objects())
engines = sum(type(one) is sa.Engine for one in gc.get_objects())
with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
    others = connection.execute(sa.text(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )).scalar()
print(json.dumps(dict(
    memory=memory() - before, seconds=seconds, threads=threads, apps=apps, engines=engines,
    connections=others, results=len(results),
)))
"""


def run(database, number, watched, kind):
    done = subprocess.run(
        [sys.executable, "-c", PROCESS, database.url, str(number), watched, kind],
        capture_output=True,
        text=True,
        timeout=1500,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["own", "common"])
def test_a_hundred_apps_take_what_one_takes(database, kind):
    """Each with a database object of its own, or all with one that is global."""
    without = run(database, 100, "bare", kind)
    watched = run(database, 100, "watched", kind)
    assert watched["results"] == without["results"] == 1
    assert watched["apps"] <= without["apps"] + 1
    assert watched["engines"] <= without["engines"] + 1
    assert watched["threads"] <= without["threads"] + 1
    assert watched["connections"] <= without["connections"] + 2
    assert watched["memory"] < without["memory"] + 64


def make_app(url, **config):
    app = Flask("tests.app")
    app.config.update(SQLALCHEMY_DATABASE_URI=url, PLANWATCH_SAMPLE_INTERVAL=0, **config)
    return app, SQLAlchemy(app), PlanWatch(app)


def test_all_apps_share_one_thread_and_two_connections(database):
    made, seen = [make_app(database.url) for _ in range(6)], set()
    for round_ in range(2):
        for number, (app, db, planwatch) in enumerate(made):
            with app.app_context():
                db.session.execute(sa.text(f"SELECT {number} AS c{round_}")).all()
                db.session.remove()
            assert planwatch.flush(120)
            assert planwatch.stats()["inspected"] == round_ + 1
            seen |= {one.name for one in threading.enumerate() if "planwatch" in one.name}
            held = [
                watched.session.held
                for app, _, _ in made
                for watched in app.extensions["planwatch"]._engines.values()
            ]
            assert sum(held) <= 2
    assert seen == {"flask-planwatch"}
    for app, db, _ in made:
        with app.app_context():
            db.engine.dispose()


def test_an_engine_given_to_watch_can_be_collected_while_its_app_lives(database):
    app, _db, planwatch = make_app(database.url)
    engine = sa.create_engine(database.url)
    planwatch.watch(engine, app)
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT 1")).all()
    assert planwatch.flush(120, app)
    gone = weakref.ref(engine)
    del engine, connection
    assert becomes(lambda: gc.collect() is None or gone() is None)
    assert becomes(lambda: not database.clients())
    assert len(app.extensions["planwatch"]._engines) == 1


def test_a_capture_that_waits_keeps_no_app_alive(database, monkeypatch):
    monkeypatch.setattr(worker, "POLL_SECONDS", 600)
    # Its thread naps by then.
    first_app, first_db, first_planwatch = make_app(database.url)
    with first_app.app_context():
        first_db.session.execute(sa.text("SELECT 1")).all()
        first_db.session.remove()
    assert first_planwatch.flush(120)
    app, db, planwatch = make_app(database.url)
    with app.app_context():
        db.session.execute(sa.text("SELECT 2")).all()
        db.session.remove()
        engine = weakref.ref(db.engine)
    assert planwatch.stats()["waiting"] == 1
    gone = weakref.ref(app)
    del app, db, planwatch
    assert becomes(lambda: gc.collect() is None or gone() is None)
    assert engine() is None
    assert first_planwatch.flush(120)
    with first_app.app_context():
        first_db.engine.dispose()


@pytest.mark.parametrize("cached", [True, False])
def test_a_statement_that_failed_keeps_no_app_alive(database, cached):
    """Its classes refer to the app, and PlanWatch waits for a server that is not there."""
    database.execute("CREATE TABLE thing AS SELECT 1 AS id")
    app, db, planwatch = make_app(
        database.url,
        PLANWATCH_DATABASE_URL="postgresql://postgres@127.0.0.1:1/none",
        SQLALCHEMY_ENGINE_OPTIONS={} if cached else {"query_cache_size": 0},
    )
    _fail(app, db)
    assert planwatch.stats(app)["sampled"] == 1
    gone = weakref.ref(app)
    del app, db, planwatch
    assert becomes(lambda: gc.collect() is None or gone() is None)


def _fail(app, db):
    class Thing(db.Model):
        id = sa.Column(sa.Integer, primary_key=True)

        @property
        def url(self):
            return app.url_for("thing")

    with app.app_context():
        db.session.execute(sa.text("SET LOCAL statement_timeout = 20"))
        with pytest.raises(sa.exc.DBAPIError):
            db.session.execute(sa.select(Thing, sa.func.pg_sleep(1))).all()
        db.session.remove()

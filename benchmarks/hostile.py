"""How much memory does PlanWatch take of a process that gives it a hard time?

Runs one scenario in a process of its own, with PlanWatch or without, and prints by how much the
process grew at most, as JSON. What PlanWatch takes is the difference.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import MappingProxyType

import sqlalchemy as sa
from flask import Flask
from flask_debugtoolbar import DebugToolbarExtension
from flask_sqlalchemy import SQLAlchemy

from flask_planwatch import PlanWatch

#: Seconds that PlanWatch gets for what it has accepted.
_PATIENCE = 100

#: Far more than it inspects by default: each of these is more work, and more to remember.
_SETTINGS = {
    "PLANWATCH_SAMPLE_INTERVAL": 1,
    "PLANWATCH_INSPECTIONS_PER_MINUTE": 3000,
    "PLANWATCH_STATEMENT_TIMEOUT_MS": 30_000,
}


def long_texts(app: Flask, db: SQLAlchemy) -> None:
    """Thousands of statements of 20 kB, each with another literal in its text."""
    with app.app_context(), db.engine.connect() as connection:
        for number in range(5000):
            connection.exec_driver_sql(f"SELECT {number} /* {'x' * 20_000} */").all()


def medium_texts(app: Flask, db: SQLAlchemy) -> None:
    """Many different statements of 9 kB, as a hand-written report may have them."""
    with app.app_context(), db.engine.connect() as connection:
        for number in range(9_000):
            connection.exec_driver_sql(f"SELECT {number}, '{'x' * 9000}{number}'").all()


def prepared_sets(app: Flask, db: SQLAlchemy) -> None:
    """Statements that psycopg 3 may prepare, each with eight sets of parameters of 8 kB."""
    with app.app_context(), db.engine.connect() as connection:
        for turn in range(9):
            for number in range(1000):
                text = sa.text(f"SELECT 1 WHERE :x <> '{number}'")
                connection.execute(text, {"x": f"{turn}{number}" + "y" * 8000}).all()
            connection.commit()


def large_parameters(app: Flask, db: SQLAlchemy) -> None:
    """Different statements with parameters of nearly a megabyte, faster than they are inspected."""
    with app.app_context(), db.engine.connect() as connection:
        for number in range(300):
            text = sa.text(f"SELECT {number} WHERE :x <> ''")
            connection.execute(text, {"x": str(number) * (900_000 // len(str(number)))}).all()


def blobs_for_the_panel(app: Flask, db: SQLAlchemy) -> None:
    """Requests in debug mode, with the toolbar, that store many files."""
    app.debug, app.config["SECRET_KEY"] = True, "a key of this benchmark"
    DebugToolbarExtension(app)

    @app.get("/")
    def store() -> str:
        for _ in range(40):
            db.session.execute(sa.text("SELECT length(:data)"), {"data": os.urandom(2_000_000)})
        return "<html><body></body></html>"

    assert app.test_client().get("/").status_code == 200


def long_lists(app: Flask, db: SQLAlchemy) -> None:
    """Thousands of statements of an ORM's kind with IN lists of different lengths."""
    table = sa.table("pg_class", sa.column("relname"), sa.column("oid"))
    with app.app_context(), db.engine.connect() as connection:
        for number in range(1000):
            many = [f"name {number} {each}" for each in range(20 + number % 300)]
            query = sa.select(table.c.oid, sa.literal_column(str(number)))
            connection.execute(query.where(table.c.relname.in_(many)).limit(0)).all()


def huge_plans(app: Flask, db: SQLAlchemy) -> None:
    """Statements with plans of hundreds and thousands of steps, up to 3 MB as they are sent."""
    one = "(SELECT 1 FROM information_schema.columns WHERE table_name = 'x{}' LIMIT 1)"
    with app.app_context(), db.engine.connect() as connection:
        for number in range(12):
            count = 250 if number % 3 == 0 else 8 + number
            parts = [one.format(number * 1000 + each) for each in range(count)]
            connection.exec_driver_sql(" UNION ALL ".join(parts)).all()
            connection.rollback()


Scenario = Callable[[Flask, SQLAlchemy], None]

#: Each with the driver that it is about.
SCENARIOS: MappingProxyType[str, tuple[str, Scenario]] = MappingProxyType(
    {
        "long-texts": ("psycopg2", long_texts),
        "medium-texts": ("psycopg2", medium_texts),
        "prepared-sets": ("psycopg", prepared_sets),
        "large-parameters": ("psycopg2", large_parameters),
        "large-parameters-psycopg": ("psycopg", large_parameters),
        "blobs-for-the-panel": ("psycopg2", blobs_for_the_panel),
        "long-lists": ("psycopg", long_lists),
        "huge-plans": ("psycopg2", huge_plans),
    }
)


def grown(scenario: Scenario, url: str, *, watched: bool) -> int:
    """Run a scenario; return by how many bytes this process grew at most."""
    app = Flask(__name__)
    app.config.update(SQLALCHEMY_DATABASE_URI=url)
    if watched:
        app.config.update(_SETTINGS)
    db = SQLAlchemy(app)
    planwatch = PlanWatch(app) if watched else None
    with app.app_context(), db.engine.connect() as connection:
        connection.execute(sa.text("SELECT 1 FROM pg_class WHERE oid = :oid"), {"oid": 1}).all()
    if planwatch is not None:
        # What is imported at the first inspection is no matter of the scenario.
        planwatch.flush(_PATIENCE, app)
    before = _resident("VmRSS")
    # The peak counts from here on.
    Path("/proc/self/clear_refs").write_text("5")
    working = threading.Thread(target=partial(scenario, app, db))
    working.start()
    working.join()
    if planwatch is not None:
        planwatch.flush(_PATIENCE, app)
        stats = planwatch.stats(app)
        assert stats["errors"] == 0, stats
    return _resident("VmHWM") - before


def _resident(name: str) -> int:
    """Return the bytes of a line of the process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024


def main() -> None:
    """Print what was measured as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("url", help="SQLAlchemy's URL of a database; nothing is written to it")
    parser.add_argument("--without", action="store_true", help="without PlanWatch")
    given = parser.parse_args()
    driver, scenario = SCENARIOS[given.scenario]
    url = sa.make_url(given.url).set(drivername=f"postgresql+{driver}")
    taken = grown(scenario, url.render_as_string(hide_password=False), watched=not given.without)
    print(json.dumps({"scenario": given.scenario, "grown_bytes": taken}))


if __name__ == "__main__":
    main()

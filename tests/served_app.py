"""An app as in production, for the tests that start a real server: `tests.served_app:app`.

It writes one line of JSON for each record of PlanWatch's log and each connection that is opened.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from functools import partial

import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import func

from flask_planwatch import PlanWatch

from .models import User, metadata


def write(**line: object) -> None:
    with open(os.environ["SERVED_LOG"], "a") as log:
        log.write(json.dumps({"pid": os.getpid(), **line}) + "\n")


class Log(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        rule = getattr(record, "planwatch_rule", None)
        expression = getattr(record, "planwatch_expression", None)
        write(rule=rule, expression=expression, message=record.getMessage())


logging.getLogger("flask_planwatch").addHandler(Log())

app = Flask(__name__)
app.config.update(
    SQLALCHEMY_DATABASE_URI=os.environ["SERVED_DATABASE_URL"],
    PLANWATCH_ENABLED=os.environ.get("SERVED_PLANWATCH") != "off",
    # A busy machine must not turn a plan into a Skip.
    PLANWATCH_STATEMENT_TIMEOUT_MS=30_000,
)
db = SQLAlchemy(app, metadata=metadata)
planwatch = PlanWatch(app)


def ask(statement: sa.Select) -> list[int]:
    """Return what a statement selects, and give the connection back."""
    with app.app_context():
        found = list(db.session.scalars(statement))
        db.session.remove()
    return found


@app.get("/user/<int:number>")
def user(number: int) -> dict:
    return {"found": ask(sa.select(User.id).where(User.id == number))}


@app.get("/email/<int:number>")
def email(number: int) -> dict:
    """Run a bad statement."""
    address = f"user{number}@example.com"
    return {"found": ask(sa.select(User.id).where(func.lower(User.email) == address))}


@app.get("/process")
def process() -> dict:
    names = [thread.name for thread in threading.enumerate()]
    has_threads = bool(getattr(sys.modules.get("uwsgi"), "has_threads", True))
    return {"threads": names, "has_threads": has_threads, "stats": planwatch.stats()}


with app.app_context():

    @sa.event.listens_for(db.engine, "connect")
    def connected(connection: object, record: object) -> None:
        own = threading.current_thread().name == "flask-planwatch"
        write(backend=connection.info.backend_pid, own=own)
        if own and "SERVED_HOLD" in os.environ:
            time.sleep(60)

    # What SQLAlchemy asks of an app that connects before the fork.
    dispose = partial(db.engine.dispose, close=False)
    os.register_at_fork(after_in_child=dispose)
    if "uwsgi" in sys.modules:
        # uWSGI does not call Python's own.
        sys.modules["uwsgi"].post_fork_hook = dispose

if os.environ.get("SERVED_ASK_AT_IMPORT"):
    # Where the app is loaded before the fork, PlanWatch works in the parent process.
    ask(sa.select(User.id).where(func.upper(User.nickname) == "X"))

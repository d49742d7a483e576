"""A small app for the tests that start a real server or interpreter: `tests.prefork_app:app`."""

from __future__ import annotations

import json
import os

import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import func

from flask_planwatch import PlanWatch

from .models import User, metadata

app = Flask(__name__)
app.config.update(
    SQLALCHEMY_DATABASE_URI=os.environ["PREFORK_DATABASE_URL"], PLANWATCH_SAMPLE_INTERVAL=0
)
db = SQLAlchemy(app, metadata=metadata)
planwatch = PlanWatch(app)


def ask() -> None:
    db.session.execute(sa.select(User.id).where(func.lower(User.email) == "x")).all()


@app.get("/")
def index() -> str:
    ask()
    assert planwatch.flush(10)
    return json.dumps({"pid": os.getpid(), **planwatch.stats()})


@app.cli.command("report")
def report() -> None:
    ask()


if os.environ.get("PREFORK_ASK_AT_IMPORT"):
    # With --preload this starts PlanWatch's thread and connection in the parent process.
    with app.app_context():
        ask()
        assert planwatch.flush(10)

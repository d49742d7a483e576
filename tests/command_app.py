"""A small app for the test of a command: `tests.command_app:app`."""

from __future__ import annotations

import os

import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import func

from flask_planwatch import PlanWatch, worker

from .models import User, metadata

# What a command leaves takes longer than half a second where many others compute.
worker.EXIT_PATIENCE = 30.0

app = Flask(__name__)
app.config.update(
    SQLALCHEMY_DATABASE_URI=os.environ["COMMAND_DATABASE_URL"], PLANWATCH_SAMPLE_INTERVAL=0
)
db = SQLAlchemy(app, metadata=metadata)
planwatch = PlanWatch(app)


@app.cli.command("report")
def report() -> None:
    db.session.execute(sa.select(User.id).where(func.lower(User.email) == "x")).all()

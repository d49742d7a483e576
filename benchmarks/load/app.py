"""The example's login as in production, for Gunicorn: with PlanWatch, and without it.

Both are served at the same time on the same database, and people log in to one after the other.
"""

from __future__ import annotations

import json
import os
from typing import Any

from flask import Flask

from example_app import create_login
from example_app.fixes import advised_ddl
from flask_planwatch import Finding, PlanWatch
from flask_planwatch.signals import finding_detected, statement_inspected

#: Names the database, and the file that gets a line for each finding and each inspection.
DATABASE_VARIABLE, LINES_VARIABLE = "PLANWATCH_LOAD_DATABASE_URL", "PLANWATCH_LOAD_LINES"


def without_planwatch() -> Flask:
    """Return the app in which PlanWatch is not there at all."""
    return create_login(
        os.environ[DATABASE_VARIABLE],
        DEBUG=False,
        # Its token would need a page before each login.
        WTF_CSRF_ENABLED=False,
    )


def with_planwatch() -> Flask:
    """Return the same app with PlanWatch, whose settings are all at their defaults."""
    app = without_planwatch()
    PlanWatch(app)
    finding_detected.connect(_write_finding, app)
    statement_inspected.connect(_write_inspection, app)
    return app


def _write_finding(app: Flask, finding: Finding) -> None:
    _write(rule=finding.rule, message=finding.message, ddl=advised_ddl([finding]))


def _write_inspection(app: Flask, **_: Any) -> None:
    _write(inspection=True)


def _write(**line: object) -> None:
    with open(os.environ[LINES_VARIABLE], "a") as lines:
        lines.write(json.dumps(line) + "\n")

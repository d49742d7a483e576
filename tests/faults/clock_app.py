"""An app in a process whose wall clock is set by somebody else; see test_clock.py.

Gets the URL, the file that sets the clock, and a time to jump to. Prints what happened as JSON.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path

from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from flask_planwatch import PlanWatch

from .comparing import LOGIN


class Messages(logging.Handler):
    """Keeps the rules of the findings that are logged."""

    def __init__(self) -> None:
        super().__init__()
        self.rules: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.rules.append(getattr(record, "planwatch_rule", record.getMessage()))


def main(url: str, file: str, jump: str, enabled: str) -> None:
    messages = Messages()
    logging.getLogger("flask_planwatch").addHandler(messages)
    app = Flask(__name__)
    app.config.update(
        SQLALCHEMY_DATABASE_URI=url,
        PLANWATCH_ENABLED=enabled,
        PLANWATCH_SAMPLE_INTERVAL=600,
        PLANWATCH_SLOW_STATEMENT_MS=100_000,
    )
    db = SQLAlchemy(app)
    planwatch = PlanWatch(app)
    questions = {"login": LOGIN, "one": db.text("SELECT 1")}
    app.add_url_rule("/<name>", "ask", lambda name: str(db.session.execute(questions[name]).all()))
    client = app.test_client()

    answers = [client.get("/login").text]
    flushed = [planwatch.flush(120)]
    before = time.time()
    Path(file).write_text(jump)
    jumped = time.time() - before
    # Whatever waits now must not wait for the hour that passed, or came back.
    answers += [client.get("/login").text, client.get("/one").text, client.get("/login").text]
    flushed.append(planwatch.flush(120))
    stats = planwatch.stats()
    report = {"answers": answers, "flushed": flushed, "jumped": jumped, "rules": messages.rules}
    print(json.dumps(report | {"stats": stats}))


if __name__ == "__main__":
    main(*sys.argv[1:])

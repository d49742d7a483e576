"""Five stories of slow queries in one app, and PlanWatch, which says what is wrong with each.

`python -m example_app` starts it. Each story has a file in `stories/`.
"""

from __future__ import annotations

from typing import Any

from flask import Flask
from flask_security import SQLAlchemyUserDatastore, uia_email_mapper
from sqlalchemy import URL, make_url

from .extensions import PSYCOPG, csrf, db, planwatch, security, toolbar
from .stories.login import Role, User
from .views import pages


def create_app(database_url: str | URL, **settings: Any) -> Flask:
    """Return the example on a PostgreSQL database whose tables `seeding.prepare` has made."""
    defaults = {
        "DEBUG": True,
        "SECURITY_LOGIN_USER_TEMPLATE": "login.html",
        "SECURITY_POST_LOGOUT_VIEW": "/login",
        "SECURITY_POST_LOGIN_VIEW": "/stories/login",
        # The database is the example's own, so PlanWatch may build an index there as a trial, and
        # run a SELECT once more to count the rows of each step.
        "PLANWATCH_VERIFY": "build",
        "PLANWATCH_ANALYZE": True,
        # A slow computer takes more than the usual second for a query, or for an index.
        "PLANWATCH_STATEMENT_TIMEOUT_MS": 30_000,
        "DEBUG_TB_ENABLED": True,
        "DEBUG_TB_PANELS": (
            "flask_debugtoolbar.panels.timer.TimerDebugPanel",
            "flask_debugtoolbar.panels.request_vars.RequestVarsDebugPanel",
            "flask_debugtoolbar.panels.sqlalchemy.SQLAlchemyDebugPanel",
            "flask_debugtoolbar.panels.logger.LoggingPanel",
        ),
        "SQLALCHEMY_RECORD_QUERIES": True,
        # `views.hold_login_redirect` does for the login what this would do for each redirect.
        "DEBUG_TB_INTERCEPT_REDIRECTS": False,
    }
    app = create_login(database_url, **{**defaults, **settings})
    # Before Flask-Security, which loads the user at the beginning of each request.
    app.url_value_preprocessor(_look_away_from_static_files)
    toolbar.init_app(app)
    planwatch.init_app(app)
    app.register_blueprint(pages)
    return app


def create_login(database_url: str | URL, **settings: Any) -> Flask:
    """Return the login alone: what the example has in common with an app in production."""
    app = Flask(__name__)
    address = make_url(database_url).update_query_dict(
        # So that plans and times are the same on any number of cores.
        {"options": "-c max_parallel_workers_per_gather=0"}
    )
    app.config.update(
        # For this demonstration only: an app of yours keeps its own two secret.
        SECRET_KEY="planwatch-example-secret-key",
        SECURITY_PASSWORD_SALT="planwatch-example-salt",
        # One round hashes in no time, so that what a login waits for is its query.
        SECURITY_PASSWORD_HASH="pbkdf2_sha512",
        SECURITY_PASSWORD_HASH_PASSLIB_OPTIONS={"pbkdf2_sha512__rounds": 1},
        # The reason for lower("user".email) = lower(…); Flask-Security's default says the same.
        SECURITY_USER_IDENTITY_ATTRIBUTES=[
            {"email": {"mapper": uia_email_mapper, "case_insensitive": True}}
        ],
        # One database by two drivers, as one of them prepares statements on the server.
        SQLALCHEMY_DATABASE_URI=address.set(drivername="postgresql+psycopg2"),
        SQLALCHEMY_BINDS={PSYCOPG: address.set(drivername="postgresql+psycopg")},
    )
    app.config.update(settings)
    db.init_app(app)
    csrf.init_app(app)
    security.init_app(app, SQLAlchemyUserDatastore(db, User, Role))
    return app


def _look_away_from_static_files(endpoint: str | None, _: Any) -> None:
    """Leave out what a request for a style sheet or a picture asks the database.

    The user is loaded for each of them, and the toolbar has more than a dozen: they would keep
    PlanWatch busy with a query that each page runs as well.
    """
    if (endpoint or "").endswith("static"):
        db.session.connection(execution_options={"planwatch": False})

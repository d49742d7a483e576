"""The Flask extensions of the example, made here and attached to the app in `create_app`."""

from __future__ import annotations

from flask_debugtoolbar import DebugToolbarExtension
from flask_security import Security
from flask_sqlalchemy import SQLAlchemy
from flask_wtf import CSRFProtect  # type: ignore[import-untyped]
from sqlalchemy.orm import DeclarativeBase

from flask_planwatch import PlanWatch


class Base(DeclarativeBase):
    """The base of the models: what `db.Model` is, in a form that type checkers understand."""


# The bind key of the engine that reaches the same database through psycopg 3.
PSYCOPG = "psycopg"

db = SQLAlchemy(model_class=Base)
planwatch = PlanWatch()
toolbar = DebugToolbarExtension()
security = Security()
csrf = CSRFProtect()

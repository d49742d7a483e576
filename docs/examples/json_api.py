import os

from flask import Flask, abort, jsonify
from flask.typing import ResponseReturnValue
from flask_debugtoolbar import DebugToolbarExtension
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flask_planwatch import PlanWatch


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(model_class=Base)
planwatch = PlanWatch()
toolbar = DebugToolbarExtension()


class User(Base):
    __tablename__ = "user"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)


def create_app(**config: object) -> Flask:
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["DATABASE_URL"]
    app.config["SECRET_KEY"] = "for development only"
    app.config.update(config)
    db.init_app(app)
    toolbar.init_app(app)
    planwatch.init_app(app)

    @app.get("/users/<email>")
    def find_user(email: str) -> ResponseReturnValue:
        query = select(User.id).where(func.lower(User.email) == email.lower())
        return jsonify(id=db.session.execute(query).scalar_one_or_none())

    @app.get("/findings")
    def findings() -> ResponseReturnValue:
        if not app.debug:
            abort(404)
        planwatch.flush(5)
        return jsonify(
            [
                {
                    "id": finding.id,
                    "severity": finding.severity,
                    "problem": finding.problem,
                    "origin": finding.origin,
                    "fix": [advice.summary for advice in finding.advice],
                    "verdict": [advice.verdict.status for advice in finding.advice],
                }
                for finding in planwatch.findings()
            ]
        )

    @app.get("/")
    def page_with_toolbar() -> str:
        return "<!doctype html><title>API</title><body>The panel is on the right.</body>"

    return app

import os

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flask_planwatch import PlanWatch


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(model_class=Base)
planwatch = PlanWatch()


class User(Base):
    __tablename__ = "user"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)


def create_app() -> Flask:
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["DATABASE_URL"]
    db.init_app(app)
    planwatch.init_app(app)

    @app.get("/users/<email>")
    def find_user(email: str) -> str:
        query = select(User.id).where(func.lower(User.email) == email.lower())
        return f"User {db.session.execute(query).scalar_one()}\n"

    return app

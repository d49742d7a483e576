from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import func, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flask_planwatch import PlanWatch

USERS, BATCH = 200_000, 20_000


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(model_class=Base)
planwatch = PlanWatch()


class User(Base):
    __tablename__ = "user"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)


def make_users() -> None:
    db.create_all()
    made = db.session.execute(select(func.count(User.id))).scalar_one()
    rows = text(
        """INSERT INTO "user" (email) SELECT 'user' || n || '@example.com'
           FROM generate_series(CAST(:first AS int), CAST(:last AS int)) n"""
    )
    for first in range(made + 1, USERS + 1, BATCH):
        last = min(first + BATCH - 1, USERS)
        db.session.execute(rows, {"first": first, "last": last})
        db.session.commit()
        print(f"\rMaking users: {last:,} of {USERS:,}", end="\n" * (last == USERS), flush=True)
    db.session.execute(text('ANALYZE "user"'))
    db.session.commit()


def create_app() -> Flask:
    app = Flask(__name__)
    app.config.from_prefixed_env()  # FLASK_SQLALCHEMY_DATABASE_URI, FLASK_PLANWATCH_VERIFY
    db.init_app(app)
    with app.app_context():
        make_users()
    planwatch.init_app(app)  # before or after db.init_app(app)

    @app.get("/login/<email>")
    def login(email: str) -> str:
        query = select(User.id).where(func.lower(User.email) == email.lower())
        return f"You are user {db.session.execute(query).scalar_one()}.\n"

    return app

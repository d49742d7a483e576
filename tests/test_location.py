"""Which line a finding names: in a view, a template, a command, a test, and in a library."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from flask import render_template_string
from sqlalchemy import func

from flask_planwatch.capture.location import origin_finder
from flask_planwatch.signals import statement_inspected

from .models import User

LOGIN = sa.select(User.id).where(func.lower(User.email) == "x")

HERE = __file__


def line_of(mark):
    with open(HERE, encoding="utf-8") as source:
        return next(
            n for n, line in enumerate(source, 1) if f"# {mark}" in line and "line_of" not in line
        )


@pytest.fixture
def watched(story, watch):
    return watch(story.url, SECRET_KEY="test")


def test_in_a_view(watched):
    def view():
        return str(watched.db.session.execute(LOGIN).all())  # in the view

    watched.app.add_url_rule("/", "users.list", view)
    watched.app.test_client().get("/")
    (finding,) = watched.findings()
    assert (finding.location.path, finding.location.line) == (HERE, line_of("in the view"))
    assert finding.location.function.endswith("view")
    assert finding.endpoint == "users.list"
    assert not finding.location.library
    assert f"{Path(HERE).name}:{finding.location.line}" in finding.message
    assert "endpoint users.list" in finding.message


def test_in_a_helper_of_the_view(watched):
    def helper():
        return watched.db.session.execute(LOGIN).all()  # in the helper

    watched.app.add_url_rule("/", "index", lambda: str(helper()))
    watched.app.test_client().get("/")
    (finding,) = watched.findings()
    assert finding.location.line == line_of("in the helper")


def test_before_request(watched):
    @watched.app.before_request
    def load():
        watched.db.session.execute(LOGIN).all()  # before the request

    watched.app.add_url_rule("/", "index", lambda: "")
    watched.app.test_client().get("/")
    (finding,) = watched.findings()
    assert finding.location.line == line_of("before the request")


def test_in_a_template(watched, tmp_path):
    (tmp_path / "page.html").write_text("<ul>\n{% for row in rows() %}\n<li>\n{% endfor %}\n</ul>")
    watched.app.jinja_loader.searchpath[:] = [str(tmp_path)]

    def view():
        from flask import render_template

        session = watched.db.session
        return render_template("page.html", rows=iter_lazily(session))

    watched.app.add_url_rule("/", "index", view)
    watched.app.test_client().get("/")
    (finding,) = watched.findings()
    assert finding.location.line == line_of("lazily")


def iter_lazily(session):
    return lambda: session.execute(LOGIN).all()  # lazily


def test_line_of_a_template_itself(watched, tmp_path):
    """A statement that a template causes by itself: its own line, not that of generated code."""
    (tmp_path / "page.html").write_text("<p>\n<p>\n{{ session.execute(statement).all() }}\n")
    watched.app.jinja_loader.searchpath[:] = [str(tmp_path)]

    def view():
        from flask import render_template

        return render_template("page.html", session=watched.db.session, statement=LOGIN)

    watched.app.add_url_rule("/", "index", view)
    watched.app.test_client().get("/")
    (finding,) = watched.findings()
    assert finding.location.path == str(tmp_path / "page.html")
    assert finding.location.line == 3


def test_in_a_command(watched):
    @watched.app.cli.command("report")
    def report():
        watched.db.session.execute(LOGIN).all()  # in the command

    result = watched.app.test_cli_runner().invoke(args=["report"])
    assert result.exit_code == 0, result.output
    (finding,) = watched.findings()
    assert finding.location.line == line_of("in the command")
    assert finding.endpoint is None


def test_in_a_test(watched):
    with watched.app.app_context():
        watched.db.session.execute(LOGIN).all()  # in the test
    (finding,) = watched.findings()
    assert finding.location.line == line_of("in the test")


def test_at_the_login_of_flask_security(story, watch):
    """No frame of the app's own is on the stack: the line is the library's, the endpoint leads."""
    from flask_security import RoleMixin, Security, SQLAlchemyUserDatastore, UserMixin
    from flask_sqlalchemy import SQLAlchemy

    from flask_planwatch import PlanWatch

    watched = watch(story.url)
    app = type(watched.app)("login")
    app.config.update(
        SQLALCHEMY_DATABASE_URI=story.url, SECRET_KEY="k", SECURITY_PASSWORD_SALT="s",
        SECURITY_PASSWORD_HASH="plaintext", WTF_CSRF_ENABLED=False, PLANWATCH_SAMPLE_INTERVAL=0,
        SECURITY_PASSWORD_SCHEMES=["plaintext"],
    )  # fmt: skip
    db = SQLAlchemy(app)
    links = db.Table(
        "member_roles",
        sa.Column("member_id", sa.ForeignKey("member.id")),
        sa.Column("role_id", sa.ForeignKey("role.id")),
    )

    class Role(db.Model, RoleMixin):
        id = sa.Column(sa.Integer, primary_key=True)
        name = sa.Column(sa.String(80), unique=True)

    class Member(db.Model, UserMixin):
        id = sa.Column(sa.Integer, primary_key=True)
        email = sa.Column(sa.String(255), unique=True)
        password = sa.Column(sa.String(255))
        active = sa.Column(sa.Boolean)
        fs_uniquifier = sa.Column(sa.String(64), unique=True)
        roles = db.relationship("Role", secondary=links)

    Security(app, SQLAlchemyUserDatastore(db, Member, Role))
    planwatch = PlanWatch(app)
    with app.app_context():
        db.create_all()
        db.session.execute(
            sa.text(
                "INSERT INTO member (email, active, fs_uniquifier) "
                "SELECT 'U' || g || '@x.org', true, g FROM generate_series(1, 5000) g"
            )
        )
        db.session.commit()
        db.session.execute(sa.text("ANALYZE member").execution_options(planwatch=False))
        db.session.commit()
    planwatch.flush(120, app)
    app.test_client().post("/login", data={"email": "u7@x.org", "password": "wrong"})
    assert planwatch.flush(120, app)
    (finding,) = [f for f in planwatch.findings(app) if f.relation == "member"]
    assert finding.location.library
    assert "flask_security" in finding.location.path
    assert finding.endpoint == "security.login"
    assert "From endpoint security.login, library code at " in finding.message
    assert HERE not in finding.message
    with app.app_context():
        db.session.remove()
        db.drop_all()
        db.engine.dispose()


def test_an_app_that_is_installed_is_its_own_code(tmp_path):
    """An app deployed into site-packages is still the app; what lies beside it is a library."""
    package = tmp_path / "site-packages" / "shop"
    asked = compile("def ask(find):\n    return find()", str(package / "views.py"), "exec")
    names: dict[str, object] = {"__name__": "shop.views"}
    exec(asked, names)

    def location(root):
        find = origin_finder(str(root))
        return names["ask"](partial(find, None)).location

    assert location(package).path == str(package / "views.py")
    assert not location(package).library
    assert location(tmp_path / "elsewhere").path == HERE


def test_text_without_a_template_file(watched):
    def view():
        return render_template_string(
            "{{ session.execute(statement).all() }}", session=watched.db.session, statement=LOGIN
        )

    watched.app.add_url_rule("/", "index", view)
    watched.app.test_client().get("/")
    (finding,) = watched.findings()
    assert finding.location.path == HERE


def test_the_same_way_is_not_walked_again():
    names: dict[str, object] = {"__name__": "sqlalchemy.way"}
    exec(compile("def call(find):\n    return find()", sa.__file__, "exec"), names)
    find, call = origin_finder(os.path.dirname(__file__)), names["call"]
    first = None
    for _ in range(2):
        earlier, first = first, call(partial(find, first))  # the same way
    assert first is earlier
    other = call(partial(find, first))  # another line
    assert first.location.line == line_of("the same way")
    assert other.location.line == line_of("another line")
    assert other == first._replace(line=other.line, instruction=other.instruction)
    deeper = (lambda: call(partial(find, first)))()
    assert deeper.code is not first.code


@pytest.fixture
def every(story, watch):
    """An app whose statements run outside of requests, where each execution is inspected."""
    watched = watch(story.url, PLANWATCH_SAMPLE_INTERVAL=0)
    lines = []
    statement_inspected.connect(
        lambda sender, inspection: lines.append(inspection.location.line), watched.app, weak=False
    )
    with watched.app.app_context():
        yield watched, lines


def test_the_same_statement_from_several_lines(every):
    watched, lines = every

    def ask():
        return watched.db.session.execute(LOGIN).all()  # a shared helper

    def ask_again(depth=0):
        if depth:
            return ask_again(depth - 1)
        return watched.db.session.execute(LOGIN).all()  # at several depths

    for _ in range(2):
        ask()
        watched.db.session.execute(LOGIN).all()  # here
        watched.db.session.execute(LOGIN).all()  # and there
        watched.db.session.scalars(LOGIN).all()  # through another method
        ask_again()
        ask_again(1)
        ask_again(2)
        [watched.db.session.execute(LOGIN) for _ in range(2)]  # in a comprehension
    assert watched.planwatch.flush(120)
    deep = line_of("at several depths")
    marks = ["a shared helper", "here", "and there", "through another method"]
    once = [*map(line_of, marks), deep, deep, deep, *[line_of("in a comprehension")] * 2]
    assert lines == once * 2

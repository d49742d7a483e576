"""The panel in Flask-DebugToolbar, as its HTML."""

from __future__ import annotations

import ast
import html
import os
import re
import sysconfig
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

# A panel of the toolbar that has routes must be imported before the first app has the toolbar.
import flask_debugtoolbar.panels.sqlalchemy
import flask_debugtoolbar.panels.template  # noqa: F401
import pytest
import sqlalchemy as sa
from flask import Flask, redirect
from flask_debugtoolbar import DebugToolbarExtension
from psycopg.types.json import Json

from flask_planwatch import Finding, PlanWatch, Severity, Statement, Verdict, VerdictStatus
from flask_planwatch.capture.request_record import MAX_SHOWN_SIZE, RequestRecord, shown
from flask_planwatch.finding import Advice, AdviceKind
from flask_planwatch.inspection.inspector import Inspector
from flask_planwatch.report import panel
from flask_planwatch.report.psql import MAX_TEXT_SHOWN, lay_out
from flask_planwatch.report.toolbar import PANEL

from . import stories
from .conditions import becomes
from .conftest import Watched
from .models import Badge, User

pytestmark = pytest.mark.versions

PAGE = "<!doctype html><html><head><title>page</title></head><body>the page</body></html>"

PATIENCE = panel.PATIENCE

Visit = Callable[..., "Shown"]


def login(email: str) -> sa.Select:
    return sa.select(User.id).where(sa.func.lower(User.email) == email)


@dataclass(frozen=True)
class Shown:
    """The panel of one response."""

    subtitle: str
    html: str

    @property
    def text(self) -> str:
        """What a person reads, without tags, white space folded."""
        visible = re.sub(r"<(style|script)>.*?</\1>|<[^>]+>", " ", self.html, flags=re.DOTALL)
        return " ".join(html.unescape(visible).split())

    def section(self, title: str) -> Shown:
        """The section with this heading."""
        sections = re.findall(r"^<section>.*?^</section>", self.html, re.DOTALL | re.MULTILINE)
        (found,) = (one for one in sections if f"<h2>{title}" in one)
        return Shown(self.subtitle, found)


def open_panel(app: Flask, path: str = "/") -> Shown:
    response = app.test_client().get(path)
    assert response.status_code == 200
    assert "the page" in response.text
    item = re.search(r'<li id="flDebugPlanWatchPanel">(.*?)</li>', response.text, re.DOTALL)
    assert item, "the toolbar has no panel of PlanWatch"
    subtitle = re.search(r"<small>(.*?)</small>", item[1])
    content = re.search(
        r'<div id="flDebugPlanWatchPanel-content".*?<div class="flDebugScroll">(.*?)'
        r'</div>\s*</div>\s*</div>\s*(?=<div id="flDebugW)',
        response.text,
        re.DOTALL,
    )
    assert content
    return Shown(html.unescape(subtitle[1]) if subtitle else "", content[1])


@pytest.fixture
def toolbar_app(watch: Callable[..., Watched]) -> Callable[..., Watched]:
    """Return a function that makes a watched app with a toolbar."""

    def make(url: str, **config: object) -> Watched:
        # What is said of small tables in debug mode is not what most tests are about.
        watched = watch(url, **{"SECRET_KEY": "secret", "PLANWATCH_GROWTH": False, **config})
        watched.app.debug = True
        DebugToolbarExtension(watched.app)
        return watched

    return make


@pytest.fixture
def visit(toolbar_app: Callable[..., Watched]) -> Visit:
    """Return a function that runs statements in one request, and returns the panel."""

    def run(url: str, *statements: sa.Executable, **config: object) -> Shown:
        watched = toolbar_app(url, **config)
        watched.app.add_url_rule("/", "page", running(watched, *statements))
        return open_panel(watched.app)

    return run


def running(watched: Watched, *statements: sa.Executable) -> Callable[[], str]:
    """Return a view that runs statements; what the server refuses is rolled back."""

    def view() -> str:
        for statement in statements:
            try:
                watched.db.session.execute(statement)
            except sa.exc.DBAPIError:
                watched.db.session.rollback()
        return PAGE

    return view


def bare_app(*extensions: Callable[[Flask], object], **config: object) -> Flask:
    app = Flask("tests.app")
    app.config.update(SECRET_KEY="secret", DEBUG=True, **config)
    for extension in extensions:
        extension(app)
    app.add_url_rule("/", view_func=lambda: PAGE)
    return app


BOTH_ORDERS = pytest.mark.parametrize(
    "extensions",
    [(PlanWatch, DebugToolbarExtension), (DebugToolbarExtension, PlanWatch)],
    ids=["planwatch first", "toolbar first"],
)


@BOTH_ORDERS
def test_panel_joins_the_default_panels_in_either_order(extensions):
    app = bare_app(*extensions)
    assert open_panel(app).subtitle == "watches nothing"
    defaults = bare_app(DebugToolbarExtension).config["DEBUG_TB_PANELS"]
    assert len(defaults) > 5
    assert app.config["DEBUG_TB_PANELS"] == (*defaults, PANEL)


@BOTH_ORDERS
@pytest.mark.parametrize("kind", [list, tuple])
def test_panel_joins_the_users_own_panels_in_either_order(extensions, kind):
    own = "flask_debugtoolbar.panels.timer.TimerDebugPanel"
    app = bare_app(*extensions, DEBUG_TB_PANELS=kind([own]))
    assert open_panel(app).subtitle == "watches nothing"
    assert app.config["DEBUG_TB_PANELS"] == kind([own, PANEL])


@BOTH_ORDERS
def test_panel_that_the_user_named_is_not_added_again(extensions):
    app = bare_app(*extensions, DEBUG_TB_PANELS=[PANEL])
    open_panel(app)
    assert app.config["DEBUG_TB_PANELS"] == [PANEL]


def test_no_panel_without_a_toolbar():
    app = Flask("tests.app")
    PlanWatch(app)
    app.add_url_rule("/", view_func=lambda: PAGE)
    assert app.test_client().get("/").text == PAGE
    assert "DEBUG_TB_PANELS" not in app.config


def test_findings_come_most_severe_first(story, visit):
    shown = visit(
        story.url,
        sa.select(Badge.id).where(sa.func.lower(Badge.owner) == "x"),
        login("user7@example.com"),
        sa.text("SET LOCAL statement_timeout = 1"),
        sa.text("SELECT 1 FROM \"user\" WHERE lower(nick) = 'nick7'"),
        PLANWATCH_GROWTH=True,
    )
    found = shown.section("Found in this request")
    assert re.findall(r'<article class="(\w+)">', found.html) == [
        "critical",
        "critical",
        "warning",
        "info",
    ]
    assert "failed with QueryCanceled (57014)" in found.text
    assert shown.subtitle == "4 findings"


def test_finding_says_what_where_and_what_to_do(story, visit):
    shown = visit(
        story.url,
        login("user7@example.com"),
        login("user8@example.com"),
        PLANWATCH_VERIFY="build",
    )
    text = shown.section("Found in this request").text
    assert "functional-predicate" in text
    assert 'The statement reads all of "user"' in text
    # As in the log.
    assert f" {os.path.join('tests', 'test_panel.py')}:" in text
    assert "in running.<locals>.view" in text
    assert "endpoint page" in text
    assert "library code" not in text
    assert "2 calls, " in text
    assert 'SELECT "user".id FROM "user" WHERE lower("user".email) = \'user7@example.com\';' in text
    assert "lower_1 'user7@example.com'" in text
    assert re.search(
        r"Create index verified cost 3,6\d\d → [\d,.]+ about \d\.\d MB "
        r"The planner used the index\.",
        text,
    )
    assert "lower((email)::text) was tested row by row and is now an index condition" in text
    for code in (
        'CREATE INDEX CONCURRENTLY ix_user_lower_email ON "user" (lower(email));',
        'Index("ix_user_lower_email", func.lower(User.email))',
        "with op.get_context().autocommit_block():",
    ):
        assert code in text
    assert 'Plan Copy Seq Scan on public."user" (cost=0.00..' in text
    assert "Use both the SQLAlchemy and the Alembic code" in text
    assert "Model and migration Copy # The two parts belong together." in text


def view_in_file(watched: Watched, path: str) -> Callable[[], str]:
    """Return a view with a finding whose code claims to be in this file."""
    source = "def find():\n    session.execute(statement)\n    return page"
    names = {
        "session": watched.db.session,
        "statement": login("user7@example.com"),
        "page": PAGE,
        "__name__": "some_library.queries",
    }
    exec(compile(source, path, "exec"), names)
    return names["find"]


def test_library_code_is_marked(story, toolbar_app):
    watched = toolbar_app(story.url)
    path = Path(sysconfig.get_path("purelib"), "some_library", "queries.py")
    watched.app.add_url_rule("/", "page", view_in_file(watched, str(path)))
    text = open_panel(watched.app).text
    # A virtual environment may be inside the current directory.
    seen = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    assert f"library code {seen}:2 in find endpoint page" in text


def test_panel_waits_for_the_findings(story, visit, monkeypatch):
    inspect = Inspector.inspect

    def slowly(inspector, capture):
        threading.Event().wait(0.2)
        return inspect(inspector, capture)

    monkeypatch.setattr(Inspector, "inspect", slowly)
    assert visit(story.url, login("user7@example.com")).subtitle == "1 finding"


def test_panel_does_not_wait_for_ever(story, toolbar_app, monkeypatch):
    assert PATIENCE == 0.5
    monkeypatch.setattr(panel, "PATIENCE", 0.05)
    released = threading.Event()
    inspect = Inspector.inspect

    def blocked(inspector, capture):
        assert released.wait(240)
        return inspect(inspector, capture)

    monkeypatch.setattr(Inspector, "inspect", blocked)
    watched = toolbar_app(story.url)
    watched.app.add_url_rule("/", "page", running(watched, login("user7@example.com")))
    watched.app.add_url_rule("/next", "next", running(watched))
    try:
        shown = open_panel(watched.app)
    finally:
        released.set()
    assert shown.subtitle == "waiting"
    assert "Nothing yet: some statements still wait" in shown.section("Found in this request").text
    assert re.search(r" 1 [\d.]+ waiting$", shown.section("Other statements").text)
    assert watched.findings()
    assert open_panel(watched.app, "/next").subtitle == "no findings, 1 earlier"


@pytest.mark.slow
def test_proof_that_a_lock_of_the_request_holds_up_comes_later(fresh_story, toolbar_app):
    watched = toolbar_app(fresh_story.url, PLANWATCH_VERIFY="build")
    lock = sa.text('LOCK TABLE "user" IN ROW EXCLUSIVE MODE')
    watched.app.add_url_rule("/", "page", running(watched, lock, login("user7@example.com")))
    watched.app.add_url_rule("/next", "next", running(watched))
    found = open_panel(watched.app).section("Found in this request").text
    assert re.search(
        r"Create index untested about \d\.\d MB The table was locked, most likely by the request's",
        found,
    )
    assert watched.findings()
    assert "Create index verified" in open_panel(watched.app, "/next").section("Found earlier").text


def test_other_statements_say_what_became_of_their_plan(story, visit):
    by_id = sa.select(User.id).where(User.id == 7)
    shown = visit(
        story.url,
        by_id,
        by_id,
        by_id,
        sa.text("CREATE TEMPORARY TABLE own (a int)"),
        sa.text("SELECT a FROM own"),
        sa.text("SELECT id FROM \"user\" WHERE email = 'literal'"),
        PLANWATCH_INSPECTIONS_PER_MINUTE=2,
    )
    assert shown.subtitle == "no findings"
    rows = [
        Shown("", row).text
        for row in re.findall(r"<tr>(.*?)</tr>", shown.section("Other statements").html, re.DOTALL)
    ]
    assert len(rows) == 4
    assert re.fullmatch(
        r'Copy SELECT "user"\.id FROM "user" WHERE "user"\.id = 7; id_1 7 '
        r'Plan Copy Index Only Scan using user_pkey on public\."user" .* '
        r"3 [\d.]+ inspected cost [\d.]+",
        rows[1],
    )
    assert re.search(
        "^SELECT a FROM own It cannot be copied for psql: only the application's own session sees "
        r"what it names\. 1 [\d.]+ skipped not-visible : it names",
        rows[2],
    )
    assert re.search(
        r"'literal'; 1 [\d.]+ not sampled over the budget of PLANWATCH_INSPECTIONS_PER_MINUTE$",
        rows[3],
    )


def test_statements_that_differ_in_literals_only_are_one(story, visit):
    shown = visit(
        story.url,
        sa.text("SELECT id FROM \"user\" WHERE lower(email) = 'a'"),
        sa.text("SELECT id FROM \"user\" WHERE lower(email) = 'b'"),
    )
    assert shown.subtitle == "1 finding"
    assert "2 calls, " in shown.text
    assert "Other statements" not in shown.text


def test_dismissals_are_shown_with_their_reason(story, visit):
    small = sa.select(Badge.id).where(sa.func.lower(Badge.owner) == "x")
    text = visit(story.url, small).section("Other statements").text
    assert (
        "1 dismissed functional-predicate: lower(owner) on badge , because "
        "it has only 40 rows to read" in text
    )


def test_questions_without_an_answer_are_shown(story, visit):
    joined = sa.select(User.id, sa.func.random()).join(Badge, Badge.id == User.id)
    shown = visit(story.url, joined, PLANWATCH_ANALYZE=True)
    assert (
        "not-analysed : it was not run once more with EXPLAIN ANALYZE (the function random is "
        "volatile)" in shown.text
    )


@pytest.mark.slow
def test_both_plans_of_a_prepared_statement_are_shown(each_stories, toolbar_app):
    watched = toolbar_app(each_stories.url_for("psycopg"), PLANWATCH_GROWTH=True)
    case = stories.GENERIC_PLAN["JSON key"]

    @watched.app.get("/")
    def page():
        for pair in [case.first] * 9 + [case.then]:
            watched.db.session.execute(case.build(pair))
            watched.db.session.commit()
        return PAGE

    open_panel(watched.app)
    assert watched.findings()
    shown = open_panel(watched.app)
    text = shown.section("Found").text
    assert "Plan for all values Copy Seq Scan on public.event" in text
    assert "Plan for these values Copy Index Scan using event_session on public.event" in text
    assert (
        "Plan of the rewritten statement Copy Index Scan using event_session on public.event"
        in text
    )
    assert 'bindparam("data_1", …, literal_execute=True)' in text


def test_best_index_that_was_rejected_is_shown_with_its_costs(story, visit):
    costly = sa.text(
        'SELECT (SELECT count(*) FROM "user" b, badge), a.first FROM "user" a '
        "WHERE a.nick = 'Nick7'"
    )
    shown = visit(story.url, costly, PLANWATCH_VERIFY="build").section("Other statements")
    assert re.search(
        r'1 dismissed missing-index: nick on "user" , because no index saves '
        r"enough\. The best one that was tried: "
        r'CREATE INDEX CONCURRENTLY ix_user_nick ON "user" \(nick\) '
        r"rejected cost [\d,]+ → [\d,]+ about \d\.\d MB "
        r"It lowers the cost of the statement by \d+%, less than 20%\.",
        shown.text,
    )
    assert 'title="Copy the SQL"' not in shown.html


def test_indexes_that_were_tried_together_have_one_verdict(story, visit):
    either = sa.text("SELECT id FROM \"user\" WHERE nick = 'Nick7' OR last = 'Last7'")
    text = visit(story.url, either, PLANWATCH_VERIFY="build").section("Found in this request").text
    assert re.search(
        r"Create 2 indexes verified cost 3,618 → \d\d about \d\.\d MB "
        r"They were tried together\. The new cost is that with all of them\.",
        text,
    )
    assert text.count("verified") == 1
    for name in ("nick", "last"):
        assert f'CREATE INDEX CONCURRENTLY ix_user_{name} ON "user" ({name});' in text
    assert text.count("The index takes about ") == 2


@pytest.mark.slow
def test_statement_with_several_findings_is_shown_in_full_once(story, visit):
    joined = sa.text(
        'SELECT label FROM "user" JOIN roles_users ON user_id = id WHERE lower(email) = :email'
    ).bindparams(email="user7@example.com")
    shown = visit(story.url, joined, PLANWATCH_VERIFY="build").section("Found in this request")
    first, *others = re.findall(r"<article.*?</article>", shown.html, re.DOTALL)
    assert set(re.findall(r'class="rule">([^<]+)<', shown.html)) == {
        "functional-predicate",
        "missing-index",
    }
    for shown_once in ('<dl class="parameters">', "<summary>Plan</summary>"):
        assert shown_once in first
        assert shown_once not in "".join(others)
    assert "The same statement as above" not in first
    for card in others:
        assert "The same statement as above Copy SELECT label" in Shown("", card).text


def test_panel_shows_the_statement_to_run_with_its_value(fresh_story, visit):
    fresh_story.execute(
        # Autovacuum would hold a lock that no index can be built beside.
        "CREATE TABLE post (id int, state text, created_at timestamptz) "
        "WITH (autovacuum_enabled = false)",
        "INSERT INTO post SELECT g, CASE WHEN g % 100 = 0 THEN 'draft' ELSE 'published' END, "
        "now() - g * interval '1 minute' FROM generate_series(1, 100000) g",
        "ANALYZE post",
    )
    drafts = sa.text(
        "SELECT id FROM post WHERE state <> :state ORDER BY created_at LIMIT 10"
    ).bindparams(state="published")
    text = visit(fresh_story.url, drafts, PLANWATCH_VERIFY="build").text
    assert "ON post (created_at) WHERE state <> 'published'; SQLAlchemy" in text
    assert ":state_1" not in text


def test_findings_of_a_request_that_redirected_are_shown_as_earlier(story, toolbar_app):
    watched = toolbar_app(story.url, DEBUG_TB_INTERCEPT_REDIRECTS=False)

    @watched.app.post("/login")
    def log_in():
        watched.db.session.execute(login("user7@example.com"))
        return redirect("/")

    watched.app.add_url_rule("/", "page", running(watched, login("user8@example.com")))
    watched.app.add_url_rule("/other", "other", running(watched, sa.select(Badge.id)))
    assert watched.app.test_client().post("/login").status_code == 302
    assert watched.findings()
    shown = open_panel(watched.app, "/other")
    assert shown.subtitle == "no findings, 1 earlier"
    earlier = shown.section("Found earlier")
    assert "endpoint log_in" in earlier.text
    assert "CREATE INDEX CONCURRENTLY ix_user_lower_email" in earlier.text
    assert "user7@example.com" not in shown.html
    assert "Found earlier" not in open_panel(watched.app).text


def test_a_fix_of_several_findings_is_shown_once(story, toolbar_app):
    watched = toolbar_app(story.url)
    others = [
        sa.select(column).where(sa.func.lower(User.email) == "x")
        for column in (User.last, User.first)
    ]
    watched.app.add_url_rule("/", "page", running(watched, login("x"), *others))
    watched.app.add_url_rule("/other", "other", running(watched, sa.select(Badge.id)))
    here = open_panel(watched.app).section("Found in this request")
    assert here.text.count("SQLAlchemy Copy") == 1
    assert here.text.count("The same fix as above.") == 2
    earlier = open_panel(watched.app, "/other").section("Found earlier")
    assert "and 2 findings with the same fix" in earlier.text
    assert earlier.text.count("SQLAlchemy Copy") == 1


def test_health_of_planwatch_is_shown(story, visit):
    text = visit(
        story.url,
        sa.select(Badge.id),
        sa.text("CREATE TEMPORARY TABLE own (a int)"),
        sa.text("SELECT a FROM own"),
        sa.select(User.id).limit(1),
        PLANWATCH_INSPECTIONS_PER_MINUTE=2,
    ).text
    assert re.search(
        r"PlanWatch in this process: 3 statements captured, 1 inspected, "
        r"1 skipped \(not-visible\), 0 waiting, 1 over budget ; [\d.]+ ms elapsed in its thread, "
        r"worker idle\.",
        text,
    )


def test_every_value_is_escaped(story, toolbar_app):
    story.execute(
        'CREATE TABLE "<b>table</b>" (name text)',
        "INSERT INTO \"<b>table</b>\" SELECT '<b>row</b>' || g FROM generate_series(1, 2000) g",
        'ANALYZE "<b>table</b>"',
    )
    watched = toolbar_app(story.url, PLANWATCH_INSPECTIONS_PER_MINUTE=2)
    view = running(
        watched,
        sa.text('SELECT 1 FROM "<b>table</b>" WHERE lower(name) = :value').bindparams(
            value="<b>parameter</b>"
        ),
        sa.text("SELECT 1 FROM \"user\" WHERE data ->> '<b>key</b>' = 'x'"),
        sa.text("SELECT '<b>literal</b>'"),
    )
    watched.app.add_url_rule("/", "<b>endpoint</b>", view)
    shown = open_panel(watched.app)
    assert shown.subtitle == "2 findings"
    for value in ("table", "parameter", "key", "literal", "endpoint"):
        assert f"<b>{value}</b>" in shown.text
    assert "<b>" not in shown.html


def test_path_that_utf8_cannot_hold_does_not_break_the_page(story, toolbar_app):
    watched = toolbar_app(story.url)
    watched.app.add_url_rule("/", "page", view_in_file(watched, "/srv/\udc80.py"))
    assert "/srv/\\udc80.py:2 in find" in open_panel(watched.app).text


def test_panel_says_that_planwatch_was_not_initialised():
    shown = open_panel(bare_app(DebugToolbarExtension, DEBUG_TB_PANELS=[PANEL]))
    assert shown.subtitle == "off"
    assert "does not watch this app: PlanWatch(app) was never called." in shown.text


@BOTH_ORDERS
def test_panel_says_that_planwatch_is_off_and_why(extensions, monkeypatch):
    """Also where the toolbar comes later, under a server that Werkzeug reloads."""
    monkeypatch.setenv("WERKZEUG_RUN_MAIN", "true")
    app = bare_app(*extensions, PLANWATCH_ENABLED=False)
    assert becomes(lambda: PANEL in app.config["DEBUG_TB_PANELS"])
    app.config["PLANWATCH_ENABLE"] = True
    shown = open_panel(app)
    assert shown.subtitle == "off"
    assert "PlanWatch is off: PLANWATCH_ENABLED is False." in shown.text
    meant = "PLANWATCH_ENABLE is unknown: did you mean PLANWATCH_ENABLED? It was set after init_app"
    assert becomes(lambda: meant in open_panel(app).text)


def test_panel_is_not_off_because_a_setting_came_too_late(story, toolbar_app):
    watched = toolbar_app(story.url)
    watched.app.config["PLANWATCH_ENABLED"] = False
    watched.app.add_url_rule("/", view_func=running(watched, login("x")))
    assert open_panel(watched.app).subtitle == "1 finding"


def test_failing_panel_leaves_the_page_alone(monkeypatch, caplog):
    def fail(*_: object) -> None:
        raise ZeroDivisionError("with a value")

    monkeypatch.setattr(panel, "collect", fail)
    planwatch = PlanWatch()
    app = bare_app(planwatch.init_app, DebugToolbarExtension)
    shown = open_panel(app)
    assert shown.subtitle == "failed"
    assert shown.text.startswith("PlanWatch could not fill its panel.")
    assert planwatch.stats(app)["errors"] == 1
    assert "ZeroDivisionError" in caplog.text
    assert "with a value" not in caplog.text

    monkeypatch.setattr("flask_planwatch.watcher.Watcher.failed", fail)
    assert open_panel(app).subtitle == "failed"


def rendered(*advice: Advice) -> str:
    statement = Statement("fingerprint", 'SELECT 1 FROM "user"', bind="reports")
    finding = Finding(
        "some-rule",
        Severity.WARNING,
        statement,
        '"user"',
        "subject",
        "a problem.",
        advice=advice,
    )
    app = Flask("tests.app")
    report = panel.Report(
        found=(),
        others=(),
        earlier=(finding,),
        stats=PlanWatch(app).stats(),
        complete=False,
    )
    with app.app_context():
        content = panel._environment().get_template("panel.html").render(report=report, debug=True)
    return Shown("", content).text


def test_rejected_advice_is_not_sold_as_a_fix():
    verdict = Verdict(VerdictStatus.REJECTED, "the planner cannot use it")
    advice = Advice(AdviceKind.CREATE_INDEX, "x", verdict, ("CREATE INDEX",), explanation="Then.")
    text = rendered(advice)
    assert "Create index rejected The planner cannot use it. What was tried SQL" in text
    assert "Then." not in text


def test_rewrite_is_shown_as_a_sentence_with_its_code():
    verdict = Verdict(VerdictStatus.NOT_APPLICABLE)
    advice = Advice(AdviceKind.REWRITE, "compare a range", verdict, sqlalchemy=".where(a < b)")
    assert "Rewrite not applicable Compare a range. SQLAlchemy Copy .where(a < b)" in rendered(
        advice
    )


def test_what_the_model_declares_is_shown_as_a_migration_only():
    verdict = Verdict(VerdictStatus.VERIFIED)
    forms = {"ddl": ("CREATE INDEX",), "alembic": "op.create", "migration": "# both"}
    text = rendered(Advice(AdviceKind.CREATE_INDEX, "x", verdict, **forms))
    assert "SQL Copy CREATE INDEX; Migration Copy # both" in text
    assert "Alembic" not in text
    assert "Use both the SQLAlchemy" not in text


def _texts(node: ast.AST) -> Iterator[str]:
    """Yield the strings of a module, but for its docstrings."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            continue
        if isinstance(child, ast.Constant) and isinstance(child.value, str):
            yield child.value
        yield from _texts(child)


def test_no_sentence_has_the_marks_of_a_markup_that_nothing_renders():
    """The help of the settings is a page of the documentation."""
    package = Path(panel.__file__).parent.parent
    modules = [path for path in package.rglob("*.py") if path.name != "settings.py"]
    found = [text for path in modules for text in _texts(ast.parse(path.read_text("utf-8")))]
    assert len(found) > 1000
    assert [text for text in found if re.search(r"`\w", text)] == []


def test_rewrites_are_not_taken_for_one_trial():
    verdict = Verdict(VerdictStatus.NOT_APPLICABLE)
    ways = [Advice(AdviceKind.REWRITE, way, verdict) for way in ("one way", "another way")]
    text = rendered(*ways)
    assert text.count("Rewrite not applicable") == 2
    assert "tried together" not in text


@pytest.mark.parametrize(
    ("count", "said"), [(8192, "8 kB"), (999_999, "1,000 kB"), (3_210_000, "3.2 MB")]
)
def test_size_of_an_index_is_readable(count, said):
    verdict = Verdict(VerdictStatus.VERIFIED)
    advice = Advice(AdviceKind.CREATE_INDEX, "x", verdict, ("CREATE INDEX",), index_bytes=count)
    assert f"Create index verified about {said} SQL" in rendered(advice)


def test_an_advice_says_what_it_serves():
    def advice(**served: object) -> Advice:
        verdict = Verdict(VerdictStatus.VERIFIED)
        return Advice(AdviceKind.CREATE_INDEX, "x", verdict, ("CREATE INDEX",), **served)

    said = "It serves 3 statements, 42% of database time that PlanWatch saw in this process."
    assert said in rendered(advice(statements=3, time_share=0.42))
    assert "It serves 42% of database time that" in rendered(advice(time_share=0.42))
    assert "It serves 2 statements that" in rendered(advice(statements=2))
    assert "It serves" not in rendered(advice())
    assert "It serves" not in rendered(advice(time_share=0.004))


def test_guessed_cost_and_bind_are_marked():
    verdict = Verdict(VerdictStatus.VERIFIED, "", 1234.5, 8.314, guess=True)
    text = rendered(Advice(AdviceKind.CREATE_INDEX, "x", verdict, ("CREATE INDEX",)))
    assert "cost 1,234 → 8.3 The new cost is the planner's default guess" in text
    assert "bind reports" in text
    assert "The request ran more statements than are listed here." in text


def test_clauses_of_a_statement_get_lines_of_their_own():
    text = (
        'SELECT "a from b", EXTRACT(year FROM t) FROM "x where" LEFT OUTER JOIN y ON x.a IS '
        "DISTINCT FROM y.a WHERE x.b IN (SELECT b FROM z WHERE c = 'order by') ORDER BY t LIMIT %s"
    )
    assert lay_out(text).splitlines() == [
        'SELECT "a from b", EXTRACT(year FROM t)',
        'FROM "x where"',
        "LEFT OUTER JOIN y ON x.a IS DISTINCT FROM y.a",
        "WHERE x.b IN (SELECT b",
        "  FROM z",
        "  WHERE c = 'order by')",
        "ORDER BY t",
        "LIMIT %s",
    ]


def test_statement_with_lines_keeps_them():
    assert lay_out("\n  SELECT 1\n    FROM x WHERE y\n") == "SELECT 1\n  FROM x WHERE y"


def test_long_values_are_shortened():
    shown = lay_out("x" * (MAX_TEXT_SHOWN + 2))
    assert shown == "x" * MAX_TEXT_SHOWN + "… (2 more characters)"


def test_parameters_are_shown_and_not_kept():
    ((name, value),), more = shown(("y" * 10_000,))
    assert (name, more) == ("1", 0)
    assert len(value) <= 120
    assert shown(None) == ((), 0)
    large = (b"z" * 10_000_000, memoryview(b"z" * 10_000_000), Json({"a": "z" * 10_000_000}))
    for _, value in shown(large).pairs:
        assert len(value) <= 240
        assert "z" in value
    pairs, more = shown({f"p{number}": number for number in range(1000)})
    assert (pairs[0], len(pairs), more) == (("p0", "0"), 50, 950)


def test_a_request_keeps_so_many_bytes_for_the_panel():
    record = RequestRecord()
    for number in range(500):
        record.see(f"SELECT {number} " + "x" * 20_000, "", {"a": 1}, 1.0, None, "")
    assert 100 < len(record.seen) < MAX_SHOWN_SIZE / 20_000
    assert not record.complete


@BOTH_ORDERS
def test_panel_says_that_nothing_is_watched(extensions):
    shown = open_panel(bare_app(*extensions))
    assert shown.subtitle == "watches nothing"
    # Not in the footer as well.
    assert shown.text.count("PlanWatch watches nothing: the app has no engine of Flask-SQLA") == 1
    assert "ran no statement" not in shown.text


def test_panel_says_which_other_database_it_is(toolbar_app):
    watched = toolbar_app("sqlite://")
    watched.app.add_url_rule("/", view_func=lambda: PAGE)
    said = "PlanWatch watches nothing: default (sqlite+pysqlite) is not PostgreSQL through psycopg2"
    assert said in open_panel(watched.app).section("Found in this request").text


def test_panel_says_what_is_watched_and_which_settings_have_no_effect(story, toolbar_app):
    watched = toolbar_app(story.url)
    watched.app.config["PLANWATCH_MIN_ROW"] = 5
    watched.app.add_url_rule("/", view_func=running(watched, login("x")))
    text = open_panel(watched.app).text
    assert "PLANWATCH_MIN_ROW is unknown: did you mean PLANWATCH_MIN_ROWS?" in text
    version = str(story.scalar("SHOW server_version")).split(" ")[0]
    assert f"PlanWatch watches 1 engine: default (psycopg2, PostgreSQL {version}, " in text

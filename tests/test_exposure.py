"""What visitors of the site can see of PlanWatch: nothing, unless the app is in debug mode."""

from __future__ import annotations

# A panel of the toolbar that has routes must be imported before the first app has the toolbar.
import flask_debugtoolbar.panels.template  # noqa: F401
import pytest
import sqlalchemy as sa
from flask import Flask
from flask_debugtoolbar import DebugToolbarExtension

from flask_planwatch import PlanWatch
from flask_planwatch.capture.request_record import request_record
from flask_planwatch.report.toolbar import PANEL

from .models import User
from .test_panel import PAGE, open_panel

pytestmark = [pytest.mark.slow, pytest.mark.versions]

LOGIN = sa.select(User.id).where(sa.func.lower(User.email) == "user7@example.com")


def routes(app: Flask) -> list[str]:
    return sorted(f"{rule!r} {sorted(rule.methods or ())}" for rule in app.url_map.iter_rules())


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("toolbar", [False, True])
def test_planwatch_serves_no_address_of_its_own(story, debug, toolbar):
    served = []
    for extensions in ((), (PlanWatch,)):
        app = Flask("tests.app")
        app.config.update(SECRET_KEY="secret", DEBUG=debug, DEBUG_TB_ENABLED=toolbar)
        for extension in (*extensions, DebugToolbarExtension):
            extension(app)
        app.add_url_rule("/", "page", lambda: PAGE)
        assert app.test_client().get("/").status_code == 200
        served.append((routes(app), sorted(app.blueprints), sorted(app.view_functions)))
    without, with_planwatch = served
    assert with_planwatch == without


@pytest.fixture
def production(story, watch):
    """Return a function that makes an app outside debug mode with a toolbar and a finding."""

    def make(**config):
        watched = watch(story.url, SECRET_KEY="secret", **config)
        assert not watched.app.debug
        DebugToolbarExtension(watched.app)

        @watched.app.get("/")
        def page():
            watched.db.session.execute(LOGIN).all()
            record = request_record(watched.app)
            watched.app.extensions["tests.seen"] = len(record.seen) if record else 0
            return PAGE

        return watched

    return make


def test_outside_debug_mode_there_is_no_panel(production):
    watched = production()
    assert watched.app.test_client().get("/").text == PAGE
    assert PANEL not in watched.app.config["DEBUG_TB_PANELS"]
    assert watched.findings()


def test_a_toolbar_that_is_switched_on_outside_debug_mode_shows_nothing(production):
    watched = production(DEBUG_TB_ENABLED=True)
    open_panel(watched.app)
    assert watched.findings()
    shown = open_panel(watched.app)
    assert shown.subtitle == "off"
    assert shown.text == (
        "PlanWatch shows nothing here, because this app is not in debug mode: everybody who sees "
        "this toolbar would see the values of your statements. Findings are in the log."
    )
    for secret in ("user7@example.com", "lower", "functional-predicate", "captured"):
        assert secret not in shown.html, secret


def test_outside_debug_mode_no_values_are_kept_for_the_panel(production):
    watched = production(DEBUG_TB_ENABLED=True)
    client = watched.app.test_client()
    client.get("/")
    assert watched.app.extensions["tests.seen"] == 0
    watched.app.debug = True
    client.get("/")
    assert watched.app.extensions["tests.seen"] == 1


def test_debug_mode_that_comes_late_shows_the_panel_and_its_end_hides_it(production):
    """`app.run(debug=True)` switches it on long after `init_app`."""
    watched = production(DEBUG_TB_ENABLED=True)
    watched.app.debug = True
    assert open_panel(watched.app).subtitle == "1 finding"
    watched.app.debug = False
    assert open_panel(watched.app).subtitle == "off"


MARKUP = "<script>alert(1)</script>"


def test_no_name_in_the_schema_or_in_sql_becomes_markup(fresh_story, watch):
    """A table, a column, an alias and a comment that would run in the panel of a colleague."""
    fresh_story.execute(
        f'CREATE TABLE "{MARKUP}" ("{MARKUP}" text, note text)',
        f"""INSERT INTO "{MARKUP}" SELECT 'x' || g, 'y' FROM generate_series(1, 5000) g""",
        f"""COMMENT ON TABLE "{MARKUP}" IS '{MARKUP}'""",
        f'ANALYZE "{MARKUP}"',
    )
    watched = watch(fresh_story.url, SECRET_KEY="secret", PLANWATCH_VERIFY="build")
    watched.app.debug = True
    DebugToolbarExtension(watched.app)

    @watched.app.get("/")
    def page():
        for text in (
            f'SELECT a."{MARKUP}" AS "{MARKUP}" FROM "{MARKUP}" a WHERE lower("{MARKUP}") = :value',
            f'/* {MARKUP} */ SELECT note AS "{MARKUP}" FROM "{MARKUP}" WHERE note = \'y\'',
            f'SELECT "{MARKUP}", :value FROM "no {MARKUP}"',
        ):
            try:
                watched.db.session.execute(sa.text(text), {"value": MARKUP} if ":" in text else {})
            except sa.exc.DBAPIError:
                watched.db.session.rollback()
        return PAGE

    shown = open_panel(watched.app)
    assert shown.subtitle == "1 finding"
    assert "lower" in shown.text
    assert "skipped statement-invalid" in shown.text
    assert "CREATE INDEX CONCURRENTLY" in shown.text
    assert shown.text.count(MARKUP) > 10
    # The panel's own script is the only one.
    assert shown.html.count("<script") == 1
    assert "<script>alert" not in watched.app.test_client().get("/").text

"""The documentation's pictures of the panel: they are taken here, of a real one in Chromium.

"How a page gets its picture" in docs/contributing.rst tells how the files are written. Each test
fails if what the page says of its picture is not in it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

# A panel of the toolbar that has routes must be imported before the first app has the toolbar.
import flask_debugtoolbar.panels.template  # noqa: F401
import pytest
from flask_debugtoolbar import DebugToolbarExtension
from playwright.sync_api import Browser, Page

from flask_planwatch.report import panel

from . import servers
from .browser import chromium, serve
from .conditions import PATIENCE
from .conftest import Watched
from .databases import Database, make_database
from .test_docs import DOCS

pytestmark = pytest.mark.slow

WRITE = "PLANWATCH_TEST_WRITE_SCREENSHOTS"

#: Pixels. Without the toolbar the panel is then about as wide as the documentation's text.
WIDTH, HEIGHT = 1000, 840

#: Pixels around what is shown.
EDGE = 8

#: The others of the toolbar are of no use in a picture.
PANELS = ("timer.TimerDebugPanel", "request_vars.RequestVarsDebugPanel", "logger.LoggingPanel")

#: What the pictures show as the application's own code.
VIEWS = """
from flask import jsonify
from sqlalchemy import func, select, text


@app.get("/users/<email>")
def find_user(email):
    query = select(User).where(func.lower(User.email) == email.lower())
    return jsonify(id=db.session.execute(query).scalar_one().id)


@app.get("/")
def home():
    return PAGE


@app.get("/login")
def log_in():
    query = select(User).where(func.lower(User.email) == "user7@example.com")
    db.session.execute(query).all()
    return PAGE


@app.get("/badges")
def show_badges():
    db.session.execute(select(Badge.id).where(func.lower(Badge.owner) == "owner7")).all()
    return PAGE


@app.get("/report")
def make_report():
    db.session.execute(text("CREATE TEMPORARY TABLE report (total integer)"))
    db.session.execute(text("SELECT total FROM report")).all()
    return PAGE
"""

PAGE = """<!doctype html><html><head><title>Shop</title><link rel="icon" href="data:,"></head>
<body></body></html>"""


#: Selects all that is in the window.
WINDOW = ("body",)

#: Selects the plan of a finding.
PLAN = "#planwatch article details:has(> summary:text-is('Plan'))"


@dataclass(frozen=True)
class Shot:
    """A picture of what `selectors` match on a page, which has the words in `says`.

    `first` are paths that are called before; what is in `opens` is unfolded.
    """

    path: str
    selectors: tuple[str, ...]
    says: tuple[str, ...]
    first: tuple[str, ...] = ()
    opens: str = ""
    config: dict[str, Any] = field(default_factory=dict)


SHOTS = {
    "panel": Shot("/login", WINDOW, ("functional-predicate", "1 finding", "SQLAlchemy")),
    "panel-finding": Shot(
        "/login",
        ("#planwatch article",),
        (
            "warning",
            "functional-predicate",
            'reads all of "user"',
            "verified",
            "/srv/shop/views.py",
        ),
    ),
    "panel-parameters": Shot(
        "/login",
        ("#planwatch article > .code", "#planwatch article > .parameters"),
        ('WHERE lower("user".email) = ', "'user7@example.com'"),
    ),
    "panel-plan": Shot(
        "/login",
        (PLAN,),
        ('Seq Scan on public."user"', "Output: ", "Filter: ", "'user7@example.com'"),
        opens=PLAN,
    ),
    "panel-skipped": Shot(
        "/report", ("#planwatch tr:has(.skipped)",), ("SELECT total", "skipped", "not-visible")
    ),
    "panel-dismissed": Shot(
        "/badges",
        ("#planwatch tr:has(.inspected)",),
        ("1 dismissed", "it has only 40 rows to read"),
        opens="#planwatch details:has-text('1 dismissed')",
        config={"PLANWATCH_GROWTH": False},
    ),
    "panel-counters": Shot(
        "/login", ("#planwatch footer",), ("captured", "inspected", "skipped", "waiting")
    ),
    "panel-earlier": Shot(
        "/",
        ("#planwatch section", "#planwatch section:last-of-type"),
        ("this request ran no statement", "Found earlier", "find_user"),
        first=("/users/user7@example.com",),
    ),
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def shop(hypopg_server: servers.Server, templates: Callable[..., str]) -> Iterator[Database]:
    yield from make_database(hypopg_server, templates(hypopg_server))


def make_app(shop: Database, watch: Callable[..., Watched], **config: Any) -> Watched:
    """Make an app in debug mode whose views are in a file of their own."""
    panels = tuple(f"flask_debugtoolbar.panels.{name}" for name in PANELS)
    config = {"SECRET_KEY": "secret", "DEBUG": True, "DEBUG_TB_PANELS": panels, **config}
    watched = watch(shop.url, **config)
    watched.app.name = "shop"
    DebugToolbarExtension(watched.app)
    from . import models

    names = {"app": watched.app, "db": watched.db, "PAGE": PAGE, **vars(models)}
    exec(compile(VIEWS, "/srv/shop/views.py", "exec"), names)
    return watched


def area(page: Page, selectors: tuple[str, ...]) -> dict[str, float]:
    """Return the rectangle around the first match of each selector."""
    boxes = []
    for selector in selectors:
        box = page.locator(selector).first.bounding_box()
        assert box, selector
        boxes.append(box)
    left, top = (max(0, min(box[side] for box in boxes) - EDGE) for side in ("x", "y"))
    right = max(box["x"] + box["width"] for box in boxes) + EDGE
    bottom = max(box["y"] + box["height"] for box in boxes) + EDGE
    return {"x": left, "y": top, "width": right - left, "height": bottom - top}


@pytest.mark.parametrize("name", SHOTS)
def test_the_picture_shows_what_the_page_says(
    name: str,
    browser: Browser,
    shop: Database,
    watch: Callable[..., Watched],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shot = SHOTS[name]
    # What the panel shows must not depend on how busy this computer is.
    monkeypatch.setattr(panel, "PATIENCE", 30)
    watched = make_app(shop, watch, **shot.config)
    with serve(watched.app) as url:
        context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT})
        context.set_default_timeout(PATIENCE * 1000)
        page = context.new_page()
        for path in shot.first:
            page.request.get(f"{url}{path}")
            assert watched.planwatch.flush(120)
        page.goto(f"{url}{shot.path}")
        page.click("a.flDebugPlanWatchPanel")
        page.wait_for_selector("#planwatch", state="visible")
        if shot.opens:
            page.locator(shot.opens).first.locator("summary").click()
        texts = " ".join(page.locator(one).first.inner_text() for one in shot.selectors)
        said = " ".join(texts.split())
        missing = [words for words in shot.says if words not in said]
        assert not missing, (missing, said)
        if os.environ.get(WRITE, "") not in {"", "0"}:
            path = DOCS / "images" / f"{name}.png"
            page.locator(shot.selectors[0]).first.scroll_into_view_if_needed()
            # The toolbar is fixed to the window, and the page's own body is empty.
            clip = None if shot.selectors == WINDOW else area(page, shot.selectors)
            page.screenshot(path=path, clip=clip)
        context.close()


def test_each_picture_of_the_panel_is_taken_here() -> None:
    assert {path.stem for path in (DOCS / "images").glob("*.png")} == set(SHOTS)

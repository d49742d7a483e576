"""The panel as somebody sees it in Chromium."""

from __future__ import annotations

from collections.abc import Callable, Iterator

# A panel of the toolbar that has routes must be imported before the first app has the toolbar.
import flask_debugtoolbar.panels.template  # noqa: F401
import pytest
import sqlalchemy as sa
from flask_debugtoolbar import DebugToolbarExtension
from playwright.sync_api import Browser, BrowserContext, Locator, Page

from flask_planwatch.report import panel

from .browser import LOW_CONTRAST, chromium, serve
from .conditions import PATIENCE
from .conftest import Watched
from .databases import Database
from .models import Badge, User

pytestmark = pytest.mark.slow

#: An app with a style of its own for about everything.
APP_STYLE = """
* { letter-spacing: 3px }
body { font: 30px/3 fantasy; color: #ccc; text-align: right }
h2, h3, pre, td, button, label, summary, code { color: #fefefe; text-transform: uppercase }
table, tr, td, pre, button, input, details { width: 3000px; display: block; background: #fff }
section, article, header, footer { position: fixed; float: right }
"""

PAGE = """<!doctype html>
<html><head><title>page</title><link rel="icon" href="data:,"><style>STYLE</style></head>
<body><pre id="own">own</pre></body></html>"""

DDL = 'CREATE INDEX CONCURRENTLY ix_user_lower_email ON "user" (lower(email));'

#: The elements that are wider than the panel.
OVERFLOWING = """
root => [...root.querySelectorAll("*")]
  .filter(e => e.checkVisibility() && e.getBoundingClientRect().right >
    root.getBoundingClientRect().right)
  .map(e => e.outerHTML.slice(0, 200))
"""

#: What the panel's elements look like; the times and costs in them vary.
STYLES = """
root => [root, ...root.querySelectorAll("*")].map(element => {
  const { color, backgroundColor, display, position, float, font, letterSpacing, textAlign,
    textTransform, paddingLeft, marginTop, borderTopWidth } = getComputedStyle(element);
  return [element.tagName, color, backgroundColor, display, position, float, font, letterSpacing,
    textAlign, textTransform, paddingLeft, marginTop, borderTopWidth].join(" ");
})
"""

OWN_STYLE = """
own => [own.innerText, getComputedStyle(own).color, getComputedStyle(own).backgroundColor]
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def url(
    story: Database, watch: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The address of a watched app with something of everything in its panel."""
    # What the panel shows must not depend on how busy this computer is.
    monkeypatch.setattr(panel, "PATIENCE", 30)
    watched = watch(
        story.url, SECRET_KEY="secret", PLANWATCH_VERIFY="build", PLANWATCH_GROWTH=False
    )
    watched.app.debug = True
    DebugToolbarExtension(watched.app)
    execute = watched.db.session.execute

    @watched.app.get("/", defaults={"style": APP_STYLE})
    @watched.app.get("/plain", defaults={"style": ""})
    def page(style: str) -> str:
        execute(sa.select(User).where(sa.func.lower(User.email) == "user7@example.com"))
        execute(sa.select(User.id).where(sa.cast(User.mood, sa.Text) == "sad"))
        execute(sa.select(Badge).where(sa.func.lower(Badge.owner) == "x"))
        execute(sa.select(User).where(User.id.in_(range(200))))
        execute(sa.text("CREATE TEMPORARY TABLE own (a int) ON COMMIT DROP"))
        execute(sa.text("SELECT a FROM own"))
        return PAGE.replace("STYLE", style)

    @watched.app.get("/quirks")
    def quirks() -> str:
        return page("").removeprefix("<!doctype html>")

    @watched.app.get("/earlier")
    def earlier() -> str:
        execute(sa.select(User.id).where(sa.func.upper(User.nickname) == "NICK7"))
        return PAGE

    with serve(watched.app) as address:
        watched.app.test_client().get("/earlier")
        assert watched.findings()
        yield address


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context()
    context.set_default_timeout(PATIENCE * 1000)
    yield context
    context.close()


def open_panel(context: BrowserContext, url: str) -> Page:
    page = context.new_page()
    page.goto(url)
    page.click("a.flDebugPlanWatchPanel")
    assert page.is_visible("#planwatch")
    return page


def login_finding(page: Page) -> Locator:
    return page.locator("#planwatch article", has_text="computes lower((email)::text)")


def open_all(page: Page) -> None:
    page.eval_on_selector_all("#planwatch details", "all => all.forEach(one => one.open = true)")


def test_finding_is_seen_and_its_ddl_copied(context, url):
    complaints: list[str] = []
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    context.on(
        "console",
        lambda message: complaints.append(message.text) if message.type == "error" else None,
    )
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = open_panel(context, url)
    finding = login_finding(page)
    assert 'The statement reads all of "user"' in finding.inner_text()
    button = finding.locator(".tabs button:visible")
    button.click()
    page.wait_for_function("button => button.textContent === 'Copied'", arg=button.element_handle())
    assert page.evaluate("navigator.clipboard.readText()") == DDL
    assert complaints == []


def test_copying_works_where_the_clipboard_is_not_offered(context, url):
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.goto(url)
    page.click("a.flDebugPlanWatchPanel")
    login_finding(page).locator(".tabs button:visible").click()
    page.wait_for_selector("#planwatch button:text('Copied')")
    assert page.evaluate("getSelection().toString()") == DDL
    reader = context.new_page()
    reader.goto(url)
    assert reader.evaluate("navigator.clipboard.readText()") == DDL


def test_tabs_show_one_form_of_the_advice(context, url):
    finding = login_finding(open_panel(context, url))
    assert finding.locator(".tabs pre:visible").all_inner_texts() == [DDL]
    finding.get_by_text("Alembic", exact=True).click()
    (shown,) = finding.locator(".tabs pre:visible").all_inner_texts()
    assert "op.create_index(" in shown


@pytest.mark.parametrize("path", ["", "/quirks"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(context, url, scheme, path):
    page = open_panel(context, url + path)
    assert page.evaluate("document.compatMode") == ("BackCompat" if path else "CSS1Compat")
    page.emulate_media(color_scheme=scheme)
    open_all(page)
    seen, low = page.eval_on_selector("#flDebugPlanWatchPanel-content", LOW_CONTRAST)
    assert seen > 100
    assert low == []
    background = page.eval_on_selector("#planwatch", "e => getComputedStyle(e).backgroundColor")
    red = int(background.split("(")[1].split(",")[0])
    assert red < 60 if scheme == "dark" else red > 200


@pytest.mark.parametrize("width", [1280, 700])
def test_nothing_is_wider_than_the_panel(context, url, width):
    page = open_panel(context, url)
    page.set_viewport_size({"width": width, "height": 900})
    open_all(page)
    assert page.eval_on_selector("#planwatch", OVERFLOWING) == []


def test_styles_of_the_app_and_of_the_panel_stay_apart(context, url):
    # Sorted, because findings of the same severity come in the order of their time.
    plain, loud = (
        sorted(page.eval_on_selector("#planwatch", STYLES))
        for page in (open_panel(context, f"{url}/plain"), open_panel(context, url))
    )
    assert loud == plain
    own = context.pages[1].eval_on_selector("#own", OWN_STYLE)
    assert own == ["OWN", "rgb(254, 254, 254)", "rgb(255, 255, 255)"]

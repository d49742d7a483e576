"""The panel and the example app as somebody sees them in Chromium."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

# A panel of the toolbar that has routes must be imported before the first app has the toolbar.
import flask_debugtoolbar.panels.template  # noqa: F401
import pytest
import sqlalchemy as sa
from flask_debugtoolbar import DebugToolbarExtension
from playwright.sync_api import Browser, BrowserContext, Locator, Page

from example_app import create_app
from example_app.extensions import db as example_db
from example_app.seeding import prepare
from flask_planwatch.report import panel

from .browser import chromium, serve
from .conftest import Database, Watched
from .models import Badge, User

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

#: WCAG's contrast of each visible text with what is behind it; returns those that are below 4.5.
LOW_CONTRAST = """
root => {
  const parse = color => color.match(/[\\d.]+/g).map(Number);
  const over = (top, below) => {
    const alpha = top[3] ?? 1;
    return [0, 1, 2].map(i => top[i] * alpha + below[i] * (1 - alpha));
  };
  const luminance = color => {
    const [r, g, b] = color.map(c => c / 255)
      .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const background = element => element
    ? over(parse(getComputedStyle(element).backgroundColor), background(element.parentElement))
    : [255, 255, 255];
  const low = [];
  let seen = 0;
  for (const element of root.querySelectorAll("*")) {
    const text = [...element.childNodes].filter(n => n.nodeType === 3).map(n => n.data).join("");
    const hidden = element.matches(".flDebugClose") || !element.checkVisibility();
    if (!text.trim() || hidden) continue;
    seen += 1;
    const below = background(element);
    const [a, b] = [over(parse(getComputedStyle(element).color), below), below].map(luminance);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push(`${ratio.toFixed(2)} ${text.trim()}`);
  }
  return [seen, low];
}
"""

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
    watched = watch(story.url, SECRET_KEY="secret", DEBUG_TB_ENABLED=True, PLANWATCH_VERIFY="build")
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


@pytest.fixture
def example(database: Database) -> Iterator[str]:
    """The address of the example app, with enough users to make its login slow."""
    app = create_app(database.url, PLANWATCH_STATEMENT_TIMEOUT_MS=30_000)
    with app.app_context():
        prepare(20_000)
    with serve(app) as address:
        yield address
    with app.app_context():
        example_db.engine.dispose()


class Guest:
    """Somebody who follows the steps of the example's page."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.address = address

    def log_in(self) -> None:
        self.page.goto(f"{self.address}/login")
        self.page.fill("#email", "User000007@Example.com")
        self.page.click("form.card button")
        assert self.page.inner_text("h1") == "You are logged in"

    def in_the_panel(self) -> set[tuple[str, str]]:
        """The rule of each finding of the login in the toolbar, and what it advises to run."""
        self.page.click("a.flDebugPlanWatchPanel")
        cards = self.page.locator("#planwatch article:visible").all()
        return {
            (card.locator(".rule").inner_text(), card.locator(".tabs pre:visible").inner_text())
            for card in cards
        }

    def on_the_page(self) -> list[str]:
        """The rule and the table of each active finding."""
        section = self.page.locator("section", has=self.page.locator("h2", has_text="active"))
        return section.locator("h3").all_inner_texts()

    def open(self) -> None:
        self.page.goto(self.address)

    def press(self, label: str) -> bool:
        """Press the first button with this label, if there is one."""
        button = self.page.locator("main button:enabled", has_text=label).first
        if not button.is_visible():
            return False
        button.click()
        return True

    def times(self) -> list[float]:
        """The times of the login's query that the page shows, those of now last."""
        cells = self.page.locator("main tbody strong").all_inner_texts()
        assert self.page.locator("main tbody tr.now .badge").count() == 1
        return [float(text.removesuffix(" ms")) for text in cells]


def test_the_example_is_walked_through(context: BrowserContext, example: str) -> None:
    guest = Guest(context.new_page(), example)
    guest.log_in()
    found = guest.in_the_panel()
    assert {rule for rule, _ in found} == {"functional-predicate", "missing-index"}
    assert any(' ON "user" (lower(email));' in ddl for _, ddl in found)
    assert any(" ON roles_users (user_id" in ddl for _, ddl in found)

    guest.open()
    both = {'functional-predicate on "user"', "missing-index on roles_users"}
    assert set(guest.on_the_page()) == both
    (before,) = guest.times()
    created = 0
    while guest.press("Create this index"):
        assert guest.page.is_visible("text=The index is created and analysed")
        created += 1
    assert created == 2
    after = guest.times()[-1]
    assert after < before / 5
    said = guest.page.locator("p", has_text="the query takes").inner_text()
    assert re.findall(r"[\d.]+ ms", said) == [f"{after:.2f} ms", f"{before:.2f} ms"]

    assert guest.press("Log out, then log in again")
    guest.log_in()
    assert guest.page.inner_text("#flDebugPlanWatchPanel small") == "no findings"
    guest.open()
    assert guest.on_the_page() == []
    assert guest.page.is_visible("text=Resolved: the login finds its user")

    for _ in range(created):
        assert guest.press("Drop it")
    assert guest.times()[0] > after * 5
    assert guest.page.locator("main tbody tr").first.get_attribute("class") == "now"
    guest.page.click("header button")
    guest.log_in()
    assert {rule for rule, _ in guest.in_the_panel()} == {"functional-predicate", "missing-index"}

"""The panel as somebody sees it in Chromium."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from flask_debugtoolbar import DebugToolbarExtension
from playwright.sync_api import Browser, BrowserContext, Page

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

PAGE = f"""<!doctype html>
<html><head><title>page</title><link rel="icon" href="data:,"><style>{APP_STYLE}</style></head>
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
    if (!text.trim() || !element.checkVisibility()) continue;
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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def url(story: Database, watch: Callable[..., Watched]) -> Iterator[str]:
    """The address of a watched app with something of everything in its panel."""
    watched = watch(
        story.url, SECRET_KEY="secret", DEBUG_TB_ENABLED=True, PLANWATCH_VERIFY="build"
    )
    DebugToolbarExtension(watched.app)
    execute = watched.db.session.execute

    @watched.app.get("/")
    def page() -> str:
        execute(sa.select(User).where(sa.func.lower(User.email) == "user7@example.com"))
        execute(sa.select(User.id).where(sa.cast(User.mood, sa.Text) == "sad"))
        execute(sa.select(Badge).where(sa.func.lower(Badge.owner) == "x"))
        execute(sa.select(User).where(User.id.in_(range(200))))
        execute(sa.text("CREATE TEMPORARY TABLE own (a int) ON COMMIT DROP"))
        execute(sa.text("SELECT a FROM own"))
        return PAGE

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
    first = page.locator("#planwatch article").first
    assert 'The statement reads all of "user"' in first.inner_text()
    button = first.locator(".tabs button:visible")
    button.click()
    page.wait_for_function("button => button.textContent === 'Copied'", arg=button.element_handle())
    assert page.evaluate("navigator.clipboard.readText()") == DDL
    assert complaints == []

"""The five stories from end to end: somebody clicks through the example app in Chromium."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from playwright.sync_api import Browser, BrowserContext, Locator, Page

from example_app import create_app
from example_app.extensions import db
from example_app.seeding import prepare
from example_app.stories import STORIES
from example_app.story import Story

from .browser import LOW_CONTRAST, chromium, serve
from .conditions import PATIENCE
from .databases import Database, make_database
from .servers import Server

pytestmark = pytest.mark.slow

#: How often a page is loaded until PlanWatch says what is expected: some rules judge a statement by
#: its ten latest executions, and a page makes three.
LOADS = 5

#: What a fix must gain at least; it is ten times and more on an idle computer.
GAIN = 5

#: What stands for a time that was not measured.
NONE = "\N{EN DASH}"

#: What a page shows while it is filled, and what one has that is complete.
FILLING, FILLED = "#filling", "main:not([data-next])"

#: The elements that reach beyond the right edge of the window, other than the toolbar's.
OVERFLOWING = """
() => [...document.querySelectorAll("header *, main *")]
  .filter(e => e.checkVisibility() && !e.closest(".scroll *, pre *") &&
    e.getBoundingClientRect().right > document.documentElement.clientWidth)
  .map(e => e.outerHTML.slice(0, 200))
"""


#: The elements that the toolbar covers when the page is scrolled to them.
COVERED = """
() => [...document.querySelectorAll("main :is(p, pre, h1, h2, dd, td, button, a)")]
  .filter(e => e.checkVisibility())
  .filter(e => {
    e.scrollIntoView({ block: "center" });
    const toolbar = document.querySelector("#flDebugToolbar").getBoundingClientRect();
    const { left, right, top, bottom } = e.getBoundingClientRect();
    return right > toolbar.left && left < toolbar.right &&
      bottom > toolbar.top && top < toolbar.bottom;
  })
  .map(e => e.outerHTML.slice(0, 200))
"""


@pytest.fixture(scope="module")
def database(server: Server) -> Iterator[Database]:
    yield from make_database(server, None)


@pytest.fixture(scope="module")
def address(database: Database) -> Iterator[str]:
    """The address of the example with all its data."""
    app = create_app(database.url)
    with app.app_context():
        prepare()
    with serve(app) as address:
        yield address
    with app.app_context():
        for engine in db.engines.values():
            engine.dispose()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context()
    context.set_default_timeout(PATIENCE * 1000)
    yield context
    context.close()


class Guest:
    """Somebody who reads the page of one story and presses its buttons."""

    def __init__(self, page: Page, address: str, story: Story) -> None:
        self.page = page
        self.address = address
        self.story = story

    def open(self) -> None:
        self.page.goto(f"{self.address}/stories/{self.story.name}")
        self.until_filled()

    def press(self, label: str) -> None:
        # What fixes a story may build an index first.
        with self.page.expect_navigation(timeout=600_000):
            self.page.click(f"main button:text-is('{label}')")
        self.until_filled()

    def until_filled(self) -> None:
        self.page.wait_for_selector(FILLED, timeout=600_000)

    def can_press(self, label: str) -> bool:
        return self.page.locator(f"main button:text-is('{label}'):enabled").count() == 1

    def state(self) -> str:
        return self.page.locator("#state").get_attribute("class") or ""

    def times(self) -> list[str]:
        """The times before and after, where a dash stands for none."""
        return self.page.locator("#state .time").all_inner_texts()[:2]

    def found(self) -> set[str]:
        """The rules that PlanWatch names at the top of the page, and on a card each."""
        named = set(self.page.locator("#state .rule").all_inner_texts())
        cards = self.page.locator("#findings article")
        assert named == set(cards.locator("h3 .rule").all_inner_texts())
        assert all(text.strip() for text in cards.locator(".problem").all_inner_texts())
        return named

    def advice(self) -> Locator:
        return self.page.locator("#findings .advice")

    def row(self, label: str) -> Locator:
        return self.page.locator("tbody tr", has=self.page.get_by_role("rowheader", name=label))

    def found_in_the_toolbar(self) -> set[str]:
        """The rules that PlanWatch names in its panel, of the statements of this request."""
        until_toolbar_is_ready(self.page)
        self.page.click("a.flDebugPlanWatchPanel")
        self.page.wait_for_selector("#planwatch")
        rules = self.page.locator("#planwatch article:visible .rule").all_inner_texts()
        self.page.click("#flDebugPlanWatchPanel-content a.flDebugClose")
        return set(rules)

    def until_found(self, rules: set[str]) -> None:
        """Load the page again until PlanWatch names these rules, or nothing if there are none."""
        for _ in range(LOADS):
            if self.names(rules):
                break
            self.open()
        assert self.names(rules), self.found()

    def names(self, rules: set[str]) -> bool:
        """Whether PlanWatch names these rules, or nothing if there are none."""
        return self.found() >= rules if rules else not self.found()

    def log_in(self) -> None:
        """Log in, and stay on the page that shows what the login itself asked."""
        self.open()
        again = self.page.locator("main button", has_text="Log out, then log in again")
        if again.is_visible():
            again.click()
        else:
            self.page.click("#log-in a.button")
        self.page.fill("#email", "User000042@Example.com")
        self.page.click("form.card button")
        assert self.page.inner_text("h1") == "You are logged in"


def until_toolbar_is_ready(page: Page) -> None:
    """Wait for the toolbar's script, and for the style that it fetches, which hides the panels."""
    page.wait_for_selector("#flDebugToolbar")
    page.wait_for_selector("#flDebugPlanWatchPanel-content", state="hidden")


def milliseconds(text: str) -> float:
    return float(text.removesuffix(" ms").replace(",", ""))


@pytest.mark.parametrize("name", STORIES)
def test_a_story_is_clicked_through(context: BrowserContext, address: str, name: str) -> None:
    story = STORIES[name]
    rules = set(story.rules)
    guest = Guest(context.new_page(), address, story)

    # It is slow, and PlanWatch says why.
    if story.sent_by:
        guest.log_in()
        assert guest.found_in_the_toolbar() == rules
        guest.page.click("main a.button:text('Continue')")
        guest.until_filled()
    else:
        guest.open()
    assert guest.page.inner_text("h1") == story.title
    assert story.slow.source.strip() in guest.page.locator("#query pre").first.inner_text()
    guest.until_found(rules)
    assert guest.state() == "slow"
    assert guest.times()[1] == NONE
    before = milliseconds(guest.times()[0])
    assert rules <= set(guest.row("Before").locator(".rule").all_inner_texts())
    assert guest.row("Twin").locator(".rule").count() == 0
    assert milliseconds(guest.row("Twin").locator("strong").inner_text()) < before / GAIN
    assert guest.advice().count() > 0
    assert not guest.can_press("Undo")

    # A click applies the fix, and PlanWatch is silent.
    guest.press("Apply the fix")
    assert guest.page.is_visible("text=The fix is applied.")
    if story.sent_by:
        guest.log_in()
        assert guest.found_in_the_toolbar() == set()
        guest.open()
    guest.until_found(set())
    assert guest.state() == "fixed"
    assert guest.found_in_the_toolbar() == set()
    shown, after = map(milliseconds, guest.times())
    assert shown == before
    assert after < before / GAIN
    assert guest.row("After").locator("strong").inner_text() == guest.times()[1]
    # What PlanWatch said of the slow form stays beside its time.
    assert rules <= set(guest.row("Before").locator(".rule").all_inner_texts())
    assert guest.row("After").locator(".rule").count() == 0
    assert guest.row("Twin").locator(".rule").count() == 0
    assert not guest.can_press("Apply the fix")

    # Another undoes it, and what was wrong is wrong again.
    guest.press("Undo")
    assert guest.page.is_visible("text=The fix is undone.")
    if story.sent_by:
        guest.log_in()
        guest.open()
    guest.until_found(rules)
    assert guest.state() == "slow"
    guest.press("Measure again")
    assert milliseconds(guest.times()[0]) > after * GAIN
    assert guest.times()[1] == NONE


def test_the_first_page_leads_to_each_story(context: BrowserContext, address: str) -> None:
    page = context.new_page()
    for story in STORIES.values():
        page.goto(address)
        page.click(f"main >> text={story.title}")
        assert page.inner_text("h1") == story.title
        page.wait_for_selector(FILLED, timeout=600_000)
    page.goto(address)
    assert page.locator("main .badge").all_inner_texts() == ["slow"] * len(STORIES)
    for numbers in page.locator(".stories .numbers").all():
        assert numbers.locator(".time").first.inner_text().endswith(" ms")


@pytest.mark.parametrize("path", ["", "login", *(f"stories/{name}" for name in STORIES)])
def test_pages_can_be_read(context: BrowserContext, address: str, path: str) -> None:
    page = context.new_page()
    page.goto(f"{address}/{path}")
    page.wait_for_selector(FILLED, timeout=600_000)
    page.eval_on_selector_all("main details", "all => all.forEach(one => one.open = true)")
    page.emulate_media(color_scheme="light")
    light = page.eval_on_selector("body", "e => getComputedStyle(e).backgroundColor")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for part in ("header", "main"):
            seen, low = page.eval_on_selector(part, LOW_CONTRAST)
            assert seen > 5
            assert low == []
    assert page.eval_on_selector("body", "e => getComputedStyle(e).backgroundColor") != light
    for width in (1280, 700, 390):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(OVERFLOWING) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [390, 700, 1000, 1280])
def test_the_toolbar_covers_nothing(context: BrowserContext, address: str, width: int) -> None:
    page = context.new_page()
    page.set_viewport_size({"width": width, "height": 844})
    page.goto(f"{address}/stories/feed")
    page.wait_for_selector(FILLED, timeout=600_000)
    until_toolbar_is_ready(page)
    assert page.evaluate(COVERED) == []
    for label in ("Apply the fix", "Measure again"):
        page.click(f"main button:text-is('{label}')", trial=True, timeout=5000)
    page.click("a.flDebugPlanWatchPanel")
    panel = page.locator("#flDebugPlanWatchPanel-content").bounding_box()
    assert panel
    assert panel["width"] >= 390
    page.click("#flDebugPlanWatchPanel-content a.flDebugClose")


def test_a_page_is_read_while_its_query_waits(
    context: BrowserContext, address: str, database: Database
) -> None:
    page = context.new_page()
    engine = sa.create_engine(database.url)
    with engine.connect() as connection:
        connection.execute(sa.text("LOCK TABLE product"))
        page.goto(f"{address}/stories/feed")
        assert page.inner_text("h1") == STORIES["feed"].title
        assert page.is_visible(FILLING)
        assert not page.locator(FILLED).count()
        page.evaluate("scrollTo(0, 100)")
        connection.rollback()
        page.wait_for_selector(FILLED, timeout=600_000)
    engine.dispose()
    assert not page.locator(FILLING).count()
    assert page.url.endswith("/stories/feed")
    # Whoever reads is not sent back to the top.
    assert page.evaluate("scrollY") == 100

"""The index, the page of each story, and the buttons on it.

The page of a story answers at once, and fills in: each of its `Step`s is an address of its own that
answers with the page as it is then, and the page's script asks for one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from flask import (
    Blueprint,
    Response,
    abort,
    current_app,
    flash,
    redirect,
    render_template,
    request,
    url_for,
)
from flask.typing import ResponseReturnValue
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from flask_planwatch import Finding
from flask_planwatch.statement.fingerprint import fingerprint

from . import fixes
from .extensions import db, planwatch
from .measuring import RUNS, SERVER_RUNS, Measurement, ask, measure
from .stories import STORIES
from .stories.login import DEMO_EMAIL, DEMO_PASSWORD
from .story import Form, Story

# A page asks a few times, as the visitors of an app would: one execution alone proves little.
TIMES_ASKED = 3

# Seconds that an answer waits for PlanWatch, which may build an index as a trial.
PATIENCE = 10

pages = Blueprint("pages", __name__)

_SIZES = text("""
    SELECT relname AS table, reltuples::bigint AS about FROM pg_class
    WHERE relname = ANY(:tables) AND pg_table_is_visible(oid)
""")


class Which(StrEnum):
    """What is compared on a page: the query without and with the fix, and its twin."""

    BEFORE = "before"
    AFTER = "after"
    TWIN = "twin"


class Step(StrEnum):
    """What fills a page, one after the other."""

    #: Send what the page sends, and wait for PlanWatch. A page ends with this step, so that the
    #: toolbar is that of the request that sent the query.
    ASK = "ask"
    #: Measure the first that was not measured yet.
    MEASURE = "measure"


@dataclass
class Known:
    """What is known of one form of a story's query by now.

    `text` is the statement as compiled, None until it was sent. `rules` are those that spoke when
    PlanWatch saw it last, none of them if it was silent, and None until one or the other is known.
    `is_sent` says whether it was sent since the fix was applied or undone.
    """

    text: str | None = None
    measurement: Measurement | None = None
    rules: tuple[str, ...] | None = None
    is_sent: bool = False

    def note_sent(self) -> None:
        """Note that the form was sent: PlanWatch is not silent before it has looked once more."""
        self.is_sent = True
        self.rules = self.rules or None

    def forget_rules(self) -> None:
        """Forget what PlanWatch said: the form was not sent since the fix was undone."""
        self.is_sent = False
        self.rules = None


@dataclass(frozen=True)
class State:
    """Where a story stands.

    `findings` are those of the form in use, none as long as PlanWatch did not see it. `step` is
    what the page waits for, None if it is complete.
    """

    applied: bool
    known: Mapping[Which, Known]
    findings: list[Finding] = field(default_factory=list)
    step: Step | None = None

    @property
    def name(self) -> str:
        """Where the story stands, in a word or two."""
        if self.now.measurement is None:
            return "not opened yet"
        if not self.applied:
            return "slow"
        # Until PlanWatch has looked, nobody knows.
        return "fix applied" if self.now.rules is None else "fixed"

    @property
    def now(self) -> Known:
        """What is known of the form in use."""
        return self.known[Which.AFTER if self.applied else Which.BEFORE]

    @property
    def before(self) -> Measurement | None:
        """The query without the fix."""
        return self.known[Which.BEFORE].measurement

    @property
    def after(self) -> Measurement | None:
        """The query with the fix."""
        return self.known[Which.AFTER].measurement

    @property
    def server_gain(self) -> float | None:
        """How many times faster the server is with the fix."""
        if self.before is None or self.after is None:
            return None
        return self.before.server_ms / self.after.server_ms

    @property
    def client_gain(self) -> float | None:
        """How many times sooner the app has its answer, with the way to the server in it."""
        if self.before is None or self.after is None:
            return None
        return self.before.client_ms / self.after.client_ms


@pages.app_context_processor
def _for_all_templates() -> dict[str, object]:
    return {"stories": STORIES, "demo_email": DEMO_EMAIL, "demo_password": DEMO_PASSWORD}


@pages.get("/")
def index() -> ResponseReturnValue:
    """List the stories, with what is known of each."""
    return render_template(
        "index.html", states={name: _state(story) for name, story in STORIES.items()}
    )


@pages.get("/stories/<name>")
def story(name: str) -> ResponseReturnValue:
    """Show at once what is known of a story."""
    return _page(_story(name), Step.ASK)


@pages.get("/stories/<name>/ask")
def ask_story(name: str) -> ResponseReturnValue:
    """Send what the page of a story sends, and show how PlanWatch sees that."""
    story = _story(name)
    for which, form in _forms(story).items():
        # What a login sends is not sent by the page.
        if which is Which.TWIN or not story.sent_by:
            known = _known(story)[which]
            known.text = ask(db.engines[form.bind], form, TIMES_ASKED)
            known.note_sent()
    _hear(story)
    return _page(story, Step.MEASURE if _unmeasured(story) else None)


@pages.get("/stories/<name>/measure")
def measure_story(name: str) -> ResponseReturnValue:
    """Measure one form of a story's query, and show how PostgreSQL runs it."""
    story = _story(name)
    for which in _unmeasured(story)[:1]:
        form, known = _forms(story)[which], _known(story)[which]
        known.measurement = measure(db.engines[form.bind], form)
        known.text = known.measurement.text
    # PlanWatch looks at a statement once in each request, and what it says of one that it saw for
    # the first time is not all that there is to say: ask once more.
    return _page(story, Step.MEASURE if _unmeasured(story) else Step.ASK)


@pages.post("/stories/<name>/fix")
def apply(name: str) -> ResponseReturnValue:
    """Apply the fix of a story: what PlanWatch advises now, or the repaired form, and no other."""
    story = _story(name)
    findings = _state(story).findings
    if fixes.is_applied(story) or not (story.repaired or fixes.advised_ddl(findings)):
        abort(404)
    try:
        fixes.apply(story, findings)
    except DBAPIError as error:
        flash(f"PostgreSQL refused: {error.orig}")
    else:
        _known(story)[Which.AFTER] = Known()
        flash("The fix is applied.")
    return redirect(url_for(".story", name=name))


@pages.post("/stories/<name>/undo")
def undo(name: str) -> ResponseReturnValue:
    """Take the fix of a story back."""
    story = _story(name)
    if not fixes.is_applied(story):
        abort(404)
    fixes.undo(story)
    _known(story)[Which.BEFORE].forget_rules()
    flash("The fix is undone.")
    return redirect(url_for(".story", name=name))


@pages.post("/stories/<name>/measure-again")
def measure_again(name: str) -> ResponseReturnValue:
    """Forget the times that were measured."""
    for known in _known(_story(name)).values():
        known.measurement = None
    return redirect(url_for(".story", name=name))


@pages.after_app_request
def hold_login_redirect(response: Response) -> Response:
    """Answer a login with a page instead of a redirect.

    The toolbar shows what happened in the request that made the page it is on. After a redirect
    that would be the first page's request, and the login's own query would be nowhere to be seen.
    """
    if request.endpoint == "security.login" and request.method == "POST" and response.location:
        page = render_template("logged_in.html", target=response.location)
        # The panel itself waits half a second, and indexes that are built as a trial take longer.
        for story in STORIES.values():
            if story.sent_by == request.endpoint:
                _state(story).now.note_sent()
                _hear(story)
        del response.headers["Location"]
        response.status_code = 200
        response.set_data(page)
    return response


def _page(story: Story, step: Step | None) -> str:
    """Return the page of a story, which goes on with a step unless it is complete."""
    state = _state(story, step)
    names = list(STORIES)
    place = names.index(story.name)
    return render_template(
        "story.html",
        story=story,
        number=place + 1,
        following=STORIES[names[place + 1]] if place + 1 < len(names) else None,
        state=state,
        next_step=url_for(f".{step}_story", name=story.name) if step else None,
        advised=fixes.advised_ddl(state.findings),
        added=fixes.added_indexes(story),
        sizes=_sizes(story),
        times_asked=TIMES_ASKED,
        runs=RUNS,
        server_runs=SERVER_RUNS,
    )


def _story(name: str) -> Story:
    if name not in STORIES:
        abort(404)
    return STORIES[name]


def _forms(story: Story) -> dict[Which, Form]:
    """Return the form of the query that is in use, and its twin."""
    in_use = Which.AFTER if fixes.is_applied(story) else Which.BEFORE
    return {in_use: fixes.form_in_use(story), Which.TWIN: story.twin}


def _unmeasured(story: Story) -> list[Which]:
    known = _known(story)
    return [which for which in _forms(story) if known[which].measurement is None]


def _state(story: Story, step: Step | None = None) -> State:
    state = State(applied=fixes.is_applied(story), known=_known(story), step=step)
    if state.now.rules is None:
        return state
    findings = _findings(fixes.form_in_use(story), state.now)
    return State(state.applied, state.known, findings, step)


def _findings(form: Form, known: Known) -> list[Finding]:
    """Return the active findings of a form, once its statement is known."""
    if known.text is None:
        return []
    identity = fingerprint(known.text, form.bind)
    return [finding for finding in planwatch.findings() if finding.fingerprint == identity]


def _hear(story: Story) -> None:
    """Wait for PlanWatch, and remember what it says of the forms that were sent.

    Before it is done, and before the page is complete, it may still say more: that it says nothing
    does not count until then.
    """
    if not planwatch.flush(PATIENCE):
        return
    silence = None if _unmeasured(story) else ()
    for which, form in _forms(story).items():
        known = _known(story)[which]
        if known.is_sent:
            named = dict.fromkeys(finding.rule for finding in _findings(form, known))
            known.rules = tuple(named) or silence


def _known(story: Story) -> dict[Which, Known]:
    """Return what is known of each form of a story's query."""
    stories: dict[str, dict[Which, Known]]
    stories = current_app.extensions.setdefault("example_known", {})
    return stories.setdefault(story.name, {which: Known() for which in Which})


def _sizes(story: Story) -> dict[str, int]:
    """Return about how many rows each of the story's tables has."""
    with db.engine.connect().execution_options(planwatch=False) as connection:
        rows = connection.execute(_SIZES, {"tables": list(story.tables)})
        return {row.table: row.about for row in rows}

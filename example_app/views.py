"""The index, the page of each story, and the buttons on it."""

from __future__ import annotations

from dataclasses import dataclass

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
from sqlalchemy.orm import Session

from flask_planwatch import Finding
from flask_planwatch.fingerprint import fingerprint

from . import fixes
from .extensions import db, planwatch
from .measuring import RUNS, Measurement, measure
from .stories import STORIES
from .stories.login import DEMO_EMAIL, DEMO_PASSWORD
from .story import Form, Story

# A page asks a few times, as the visitors of an app would: one execution alone proves little.
TIMES_ASKED = 3

# Seconds that a page waits for PlanWatch, which may build an index as a trial.
PATIENCE = 10

pages = Blueprint("pages", __name__)

_SIZES = text("""
    SELECT relname AS table, reltuples::bigint AS about FROM pg_class
    WHERE relname = ANY(:tables) AND pg_table_is_visible(oid)
""")


@dataclass(frozen=True)
class State:
    """What is known of a story by now.

    `before`, `after` and `twin` are the latest measurements: of the query without and with the
    fix, and of its twin; None if there was none yet. `findings` and `findings_of_twin` are those
    of the form that is in use.
    """

    applied: bool
    before: Measurement | None
    after: Measurement | None
    twin: Measurement | None
    findings: list[Finding]
    findings_of_twin: list[Finding]

    @property
    def name(self) -> str:
        """Where the story stands, in a word or two."""
        if self.now is None:
            return "not opened yet"
        return "fixed" if self.applied else "slow"

    @property
    def now(self) -> Measurement | None:
        """The measurement of what is in use."""
        return self.after if self.applied else self.before

    @property
    def gain(self) -> float | None:
        """How many times faster the query is with the fix."""
        return self.before.median_ms / self.after.median_ms if self.before and self.after else None


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
    """Send what the page of a story sends, and show how PostgreSQL and PlanWatch see that."""
    story = _story(name)
    in_use = fixes.form_in_use(story)
    for form in (story.twin,) if story.sent_by else (in_use, story.twin):
        _ask(form)
    planwatch.flush(PATIENCE)
    measured = [
        _measure(story, "after" if fixes.is_applied(story) else "before", in_use),
        _measure(story, "twin", story.twin),
    ]
    if any(measured):
        # PlanWatch looks at a statement once in each request, and what it says of one that it saw
        # for the first time is not all that there is to say: ask once more.
        return redirect(url_for(".story", name=name))
    state = _state(story)
    names = list(STORIES)
    place = names.index(name)
    return render_template(
        "story.html",
        story=story,
        number=place + 1,
        following=STORIES[names[place + 1]] if place + 1 < len(names) else None,
        state=state,
        advised=fixes.advised_ddl(state.findings),
        added=fixes.added_indexes(story),
        sizes=_sizes(story),
        runs=RUNS,
    )


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
        _measurements().pop((name, "after"), None)
        flash("The fix is applied.")
    return redirect(url_for(".story", name=name))


@pages.post("/stories/<name>/undo")
def undo(name: str) -> ResponseReturnValue:
    """Take the fix of a story back."""
    story = _story(name)
    if not fixes.is_applied(story):
        abort(404)
    fixes.undo(story)
    flash("The fix is undone.")
    return redirect(url_for(".story", name=name))


@pages.post("/stories/<name>/measure")
def measure_again(name: str) -> ResponseReturnValue:
    """Forget the times that were measured."""
    story = _story(name)
    for which in ("before", "after", "twin"):
        _measurements().pop((story.name, which), None)
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
        planwatch.flush(PATIENCE)
        del response.headers["Location"]
        response.status_code = 200
        response.set_data(page)
    return response


def _story(name: str) -> Story:
    if name not in STORIES:
        abort(404)
    return STORIES[name]


def _ask(form: Form) -> None:
    """Send a form of a query as the app does, watched by PlanWatch."""
    with Session(db.engines[form.bind]) as session:
        form.ask_earlier(session)
        for _ in range(TIMES_ASKED):
            form.ask(session)


def _measure(story: Story, which: str, form: Form) -> bool:
    """Measure a form; False if that was done already."""
    if (story.name, which) in _measurements():
        return False
    _measurements()[story.name, which] = measure(db.engines[form.bind], form)
    return True


def _state(story: Story) -> State:
    before, after, twin = (
        _measurements().get((story.name, which)) for which in ("before", "after", "twin")
    )
    applied = fixes.is_applied(story)
    return State(
        applied=applied,
        before=before,
        after=after,
        twin=twin,
        findings=_findings(fixes.form_in_use(story), after if applied else before),
        findings_of_twin=_findings(story.twin, twin),
    )


def _findings(form: Form, measurement: Measurement | None) -> list[Finding]:
    """Return the active findings of a form, once its statement is known."""
    if measurement is None:
        return []
    identity = fingerprint(measurement.text, form.bind)
    return [finding for finding in planwatch.findings() if finding.fingerprint == identity]


def _measurements() -> dict[tuple[str, str], Measurement]:
    """Return what was measured so far, by the story and what of it."""
    measurements: dict[tuple[str, str], Measurement]
    measurements = current_app.extensions.setdefault("example_measurements", {})
    return measurements


def _sizes(story: Story) -> dict[str, int]:
    """Return about how many rows each of the story's tables has."""
    with db.engine.connect().execution_options(planwatch=False) as connection:
        rows = connection.execute(_SIZES, {"tables": list(story.tables)})
        return {row.table: row.about for row in rows}

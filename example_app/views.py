"""The page that tells the story, and the buttons on it."""

from __future__ import annotations

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
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError

from flask_planwatch import Finding

from .extensions import db, planwatch
from .indexes import AdvisedIndex, added_indexes, advised_indexes, create_index, drop_index
from .login_query import RUNS, Measurement, login_query, measure
from .models import User
from .seeding import DEMO_EMAIL, DEMO_PASSWORD

pages = Blueprint("pages", __name__)


@pages.app_context_processor
def _demo_account() -> dict[str, str]:
    return {"demo_email": DEMO_EMAIL, "demo_password": DEMO_PASSWORD}


@pages.get("/")
def index() -> ResponseReturnValue:
    """Say what to do next, and show the login's query as PostgreSQL runs it now."""
    planwatch.flush(5)
    findings = planwatch.findings()
    # Not `db.session`, and not watched: the page must not talk about its own queries.
    with db.engine.connect().execution_options(planwatch=False) as connection:
        sql, parameters = login_query(DEMO_EMAIL, connection.dialect)
        users = connection.scalar(select(func.count()).select_from(User))
        added = added_indexes(connection)
        now = tuple(index.name for index in added)
        measurements = _measurements()
        if now not in measurements:
            measurements[now] = measure(connection, DEMO_EMAIL)
    advised = [index for index in advised_indexes(findings) if not index.is_among(added)]
    return render_template(
        "index.html",
        step=_step(findings, advised, measurements[now]),
        users=users,
        sql=sql,
        parameters=parameters,
        measurements=sorted(measurements.items(), key=lambda item: len(item[0])),
        without=measurements.get(()),
        now=now,
        runs=RUNS,
        findings=findings,
        advised=advised,
        added=added,
    )


@pages.post("/indexes")
def create() -> ResponseReturnValue:
    """Create an index that PlanWatch advises, and no other."""
    for advised in advised_indexes(planwatch.findings()):
        if advised.key == request.form.get("index"):
            try:
                create_index(advised)
            except DBAPIError as error:
                flash(f"PostgreSQL refused: {error.orig}")
            else:
                flash("The index is created and analysed. PlanWatch sees it at the next login.")
            return redirect(url_for(".index"))
    abort(404)


@pages.post("/indexes/<name>/drop")
def drop(name: str) -> ResponseReturnValue:
    """Drop an index that was created here."""
    with db.engine.connect().execution_options(planwatch=False) as connection:
        found = next((index for index in added_indexes(connection) if index.name == name), None)
    if found is None:
        abort(404)
    drop_index(found)
    flash(f"{name} is dropped. Log in again, and PlanWatch will miss it.")
    return redirect(url_for(".index"))


@pages.post("/measure")
def measure_again() -> ResponseReturnValue:
    """Forget the times that were measured."""
    _measurements().clear()
    return redirect(url_for(".index"))


@pages.after_app_request
def hold_login_redirect(response: Response) -> Response:
    """Answer a login with a page instead of a redirect.

    The toolbar shows what happened in the request that made the page it is on. After a redirect
    that would be the first page's request, and the login's own query would be nowhere to be seen.
    """
    if request.endpoint == "security.login" and request.method == "POST" and response.location:
        page = render_template("logged_in.html", target=response.location)
        # The panel itself waits half a second, and indexes that are built as a trial take longer.
        planwatch.flush(5)
        del response.headers["Location"]
        response.status_code = 200
        response.set_data(page)
    return response


def _step(findings: tuple[Finding, ...], advised: list[AdvisedIndex], now: Measurement) -> int:
    """Return the step that comes next: log in, (read and) create, log in again, or 5: all done."""
    if advised:
        return 3
    if any(scan.whole_table for scan in now.scans):
        return 3 if findings else 1
    return 4 if findings else 5


def _measurements() -> dict[tuple[str, ...], Measurement]:
    """Return what was measured so far, by the names of the indexes that existed then."""
    measurements: dict[tuple[str, ...], Measurement]
    measurements = current_app.extensions.setdefault("example_measurements", {})
    return measurements

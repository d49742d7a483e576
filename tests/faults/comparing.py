"""The same requests to the same small app, without PlanWatch and with it."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import sqlalchemy as sa
from werkzeug.serving import make_server

from flask_planwatch.capture.driver import sqlstate_of
from flask_planwatch.signals import statement_inspected

from ..conftest import Watched
from ..models import User


class Answer(NamedTuple):
    """What a request was answered: the status, and the rows or the error."""

    status: int
    body: str


class Visits:
    """Requests to one app, each of which runs some statements in one transaction.

    A statement is a construct of SQLAlchemy, or a text for the driver.
    """

    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        self.heard: list[Any] = []
        self._jobs: list[tuple[Any, ...]] = []
        watched.app.add_url_rule("/<int:number>", view_func=self._view)
        watched.app.config["PROPAGATE_EXCEPTIONS"] = True
        watched.app.register_error_handler(sa.exc.SQLAlchemyError, _failed)
        statement_inspected.connect(self._hear, watched.app)

    def __call__(self, *statements: Any) -> Answer:
        """Make a request in this thread."""
        response = self.watched.app.test_client().get(self.path(*statements))
        return Answer(response.status_code, response.text)

    def path(self, *statements: Any) -> str:
        """Return the path of the request that runs these statements."""
        self._jobs.append(statements)
        return f"/{len(self._jobs) - 1}"

    @contextmanager
    def served(self) -> Iterator[Load]:
        """Serve the app on a port, a thread for each request."""
        server = make_server("127.0.0.1", 0, self.watched.app, threaded=True)
        server.daemon_threads = False
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            with ThreadPoolExecutor(8) as clients:
                yield Load(self, f"http://127.0.0.1:{server.server_port}", clients)
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def _view(self, number: int) -> str:
        rows: list[Any] = []
        session = self.watched.db.session
        for statement in self._jobs[number]:
            if isinstance(statement, str):
                result: Any = session.connection().exec_driver_sql(statement)
            else:
                result = session.execute(statement)
            has_rows = getattr(result, "returns_rows", True)
            rows = [list(row) for row in result] if has_rows else [result.rowcount]
        session.commit()
        return json.dumps(rows, default=str)

    def _hear(self, sender: Any, inspection: Any) -> None:
        self.heard.append(inspection)


def _failed(error: sa.exc.SQLAlchemyError) -> tuple[str, int]:
    """Answer an error as the app's users would see it."""
    return f"{type(error).__name__} {sqlstate_of(getattr(error, 'orig', error))}", 500


class Load:
    """Eight clients of an app that is served."""

    def __init__(self, visits: Visits, url: str, clients: ThreadPoolExecutor) -> None:
        self._visits = visits
        self._url = url
        self._clients = clients

    def start(self, *statements: Any, times: int) -> list[Future[Answer]]:
        """Send so many requests at once."""
        path = self._visits.path(*statements)
        return [self._clients.submit(self._get, path) for _ in range(times)]

    def __call__(self, *statements: Any, times: int) -> Counter[Answer]:
        """Send so many requests, and return how many got which answer."""
        return Counter(one.result(60) for one in self.start(*statements, times=times))

    def _get(self, path: str) -> Answer:
        try:
            with urllib.request.urlopen(self._url + path, timeout=300) as response:
                return Answer(response.status, response.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.read().decode())


Scenario = Callable[[Visits], Any]
Both = Callable[..., Visits]


def compare(watch: Callable[..., Watched], url: str, scenario: Scenario, **config: Any) -> Visits:
    """Run a scenario on an app without PlanWatch, and on one with it; return the latter's visits.

    The scenario returns the answers that it got, which must be the same.
    """
    config.setdefault("PLANWATCH_INSPECTIONS_PER_MINUTE", None)
    answers = []
    for enabled in (False, True):
        visits = Visits(watch(url, PLANWATCH_ENABLED=enabled, **config))
        answers.append(scenario(visits))
        if not enabled:
            # What it holds on the server must not be in the other's way.
            with visits.watched.app.app_context():
                visits.watched.db.engine.dispose()
    assert answers[1] == answers[0]
    return visits


def accounts(visits: Visits, *, stood_for: int = 0) -> dict[str, Any]:
    """Return the counters, once each statement that was taken in ended somewhere.

    `stood_for` executions failed while another one of the same statement waited for the server.
    """
    planwatch = visits.watched.planwatch
    assert planwatch.flush(120), planwatch.stats()
    stats = planwatch.stats()
    skips = Counter(str(one.skip.reason) for one in visits.heard if one.skip)
    assert stats["inspected"] == sum(one.skip is None for one in visits.heard)
    assert stats["skipped"] == skips
    ended = stats["inspected"] + skips.total() + stats["dropped"] + stats["over_budget"]
    assert stats["captured"] == ended + stood_for, stats
    assert (stats["waiting"], stats["errors"]) == (0, 0)
    return stats


LOGIN = sa.select(User.id).where(sa.func.lower(User.email) == "x")


def run(watched: Watched, *statements: Any) -> Any:
    """Run the statements in one transaction, outside a request; return the last one's rows."""
    with watched.app.app_context(), watched.db.engine.begin() as connection:
        for statement in statements:
            if isinstance(statement, str):
                result = connection.exec_driver_sql(statement)
            else:
                result = connection.execute(statement)
        return result.all() if result.returns_rows else None


def skipped(watched: Watched) -> dict[str, int]:
    """Return the skips once all is inspected."""
    assert watched.planwatch.flush(120)
    return watched.planwatch.stats()["skipped"]

"""The class that applications use."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from click import get_current_context
from flask import Flask, appcontext_pushed, current_app, has_app_context, request_started
from flask.cli import ScriptInfo, run_command
from flask.helpers import get_debug_flag
from sqlalchemy.engine import Engine
from werkzeug.serving import is_running_from_reloader

from .finding import Finding
from .loading import load, threads_are_greenlets
from .report.telemetry import observe
from .runtime.interruption import let_through
from .runtime.weak import members
from .settings import read_settings
from .watcher import EXTENSION, Watcher


class PlanWatch:
    """Watches the plans of a Flask app's statements on PostgreSQL.

    Give it the app, or call `init_app` later; it may watch several apps. It listens to all engines
    of Flask-SQLAlchemy and Flask-SQLAlchemy-Lite, whether `db.init_app(app)` is called before or
    after, and to those given to `watch`. State is kept per app, in `app.extensions["planwatch"]`.

    Raises SettingError for a wrong `PLANWATCH_` key in `app.config`, and RuntimeError if the app
    has a PlanWatch already.
    """

    def __init__(self, app: Flask | None = None) -> None:
        self._apps: weakref.WeakSet[Flask] = weakref.WeakSet()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Start to watch an app; see the class for what it raises."""
        if EXTENSION in app.extensions:
            raise RuntimeError("A PlanWatch was initialised for this app already.")
        settings = read_settings(app.config, debug=app.debug, testing=app.testing)
        watcher = app.extensions[EXTENSION] = Watcher(app, settings)
        self._apps.add(app)
        if _is_served():
            watcher.begin_without_request()
        elif app.debug and not settings.enabled and not _is_command():
            watcher.say_off()
        if settings.enabled:
            if threads_are_greenlets():
                load()
            observe(watcher)
            # db.init_app(app) and the toolbar may come later; a request ends the app's setup.
            appcontext_pushed.connect(_attach, app)
            request_started.connect(_attach_at_first_request, app)
        watcher.attach()

    def watch(self, engine: Any, app: Flask | None = None) -> None:
        """Listen to an engine that Flask-SQLAlchemy does not own.

        It may be an async engine. Engines that are not on PostgreSQL by psycopg2, psycopg or
        asyncpg are left alone; that is said once, in the log. Raises TypeError for anything else.
        """
        if not isinstance(engine, Engine) and not hasattr(engine, "sync_engine"):
            raise TypeError(f"watch() takes a SQLAlchemy engine, not {type(engine).__name__}.")
        self._watcher(app).watch(engine)

    def unwatch(self, engine: Any, app: Flask | None = None) -> None:
        """Stop to listen to an engine, and close PlanWatch's connection to its database."""
        self._watcher(app).unwatch(engine)

    def flush(self, timeout: float, app: Flask | None = None) -> bool:
        """Wait up to `timeout` seconds for the statements captured so far.

        Returns True only if each of them ended in an Inspection or a named Skip.
        """
        return self._watcher(app).worker.flush(timeout)

    def findings(self, app: Flask | None = None) -> tuple[Finding, ...]:
        """Return the active findings of this process, most severe first.

        A warning is an info once its fix saves less than 1% of a minute or more of database time.
        Of the same severity, those come first whose fix saves most of the database time. Findings
        with the same fix are together, and count together.
        """
        return self._watcher(app).store.findings()

    def clear(self, app: Flask | None = None) -> None:
        """Forget the active findings, and the results of earlier inspections and trials.

        What is still wrong is found again by the next inspection of its statement, and logged again
        after PLANWATCH_LOG_INTERVAL.
        """
        self._watcher(app).clear()

    def stats(self, app: Flask | None = None) -> dict[str, Any]:
        """Return the counters of this process.

        `captured` is how many executions PlanWatch saw, without those that are `opted_out` by
        `execution_options(planwatch=False)`; `sampled` how many of them it took to inspect.
        Those were `inspected`, `skipped`, or are `waiting`; `skipped` maps each SkipReason
        that occurred to its number. `dropped` found the queue full, `over_budget` the minute's
        budget used up. `errors` counts PlanWatch's own exceptions, and those of receivers and of
        the application's logging, `findings` the active ones; `own_ms` is the time that PlanWatch's
        thread worked, `worker_alive` whether it is running: without work it ends after five
        seconds.

        Once `flush` has returned True, `sampled` is `inspected` plus the skips, without those of
        SkipReasons that are `is_partial`. Before that, a capture whose receivers are just being
        called counts both as done and as `waiting`.
        """
        return self._watcher(app).stats()

    def _watcher(self, app: Flask | None) -> Watcher:
        if app is None:
            app = self._only_app()
        watcher = app.extensions.get(EXTENSION)
        if not isinstance(watcher, Watcher):
            raise RuntimeError(f"PlanWatch was not initialised for the app {app.name!r}.")
        return watcher

    def _only_app(self) -> Flask:
        if has_app_context():
            return current_app._get_current_object()  # type: ignore[attr-defined, no-any-return]
        apps = members(self._apps)
        if len(apps) == 1:
            return apps[0]
        raise RuntimeError(
            "PlanWatch does not know which app is meant: it was initialised with "
            f"{len(apps)} apps. Push an app context, or pass app=…."
        )


def _is_served() -> bool:
    """Whether this process answers the requests of a development server.

    The reloader has another process, which loads the app as well but only watches the files.
    """
    if is_running_from_reloader():
        return True
    context = get_current_context(silent=True)
    if context is None or context.command is not run_command or not get_debug_flag():
        return False
    return context.params.get("reload") is False


def _is_command() -> bool:
    """Whether a command of Flask's runs: with a reloader, two processes load the app."""
    context = get_current_context(silent=True)
    return context is not None and context.find_object(ScriptInfo) is not None


def _attach(app: Flask, **_: Any) -> None:
    """Attach to engines and the toolbar if they were made since."""
    _call(app, Watcher.attach)


def _call(app: Flask, method: Callable[[Watcher], None]) -> None:
    """Call a method of the app's watcher; if that fails, count it and break no request."""
    watcher: Watcher = app.extensions[EXTENSION]
    try:
        method(watcher)
    except Exception as error:  # noqa: BLE001 - an extension of the app's may raise anything
        let_through(error)
        watcher.failed(error)


def _attach_at_first_request(app: Flask, **_: Any) -> None:
    _attach(app)
    _call(app, Watcher.begin_soon)
    appcontext_pushed.disconnect(_attach, app)
    request_started.disconnect(_attach_at_first_request, app)

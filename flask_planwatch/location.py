"""Which line of code ran a statement."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from collections.abc import Callable, Iterator
from functools import lru_cache
from types import FrameType
from typing import Any

import click
from flask import Flask

from .finding import Location

#: Top-level packages that are never the origin of a statement, only the way of it.
_MACHINERY = frozenset({"sqlalchemy", "flask", "werkzeug", "flask_planwatch"})

#: Frames at which the current request or command begins; what is further out is a server's entry
#: point, a test client's call or `app.run()`.
_BEGINNINGS = (Flask.wsgi_app.__code__, click.Context.invoke.__code__)

#: By their identity, as to hash a code object takes time for each of its instructions.
_BEGINNING_IDS = frozenset(map(id, _BEGINNINGS))

#: Frames looked at before giving up: Flask's default recursion limit allows no deeper stack.
_MAX_FRAMES = 1000

#: Files of which it is known whether they are the app's own; the one needed longest ago goes first.
MAX_FILES = 4096


def _folders(paths: list[str | None]) -> tuple[str, ...]:
    return tuple({os.path.join(os.path.realpath(path), "") for path in paths if path})


_INSTALLED = _folders(
    [
        sysconfig.get_path("purelib"),
        sysconfig.get_path("platlib"),
        site.getusersitepackages() if site.ENABLE_USER_SITE else None,
        *site.getsitepackages(),
    ]
)
_STANDARD_LIBRARY = _folders([sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")])
_SCRIPTS = _folders([sysconfig.get_path("scripts")])
_PLANWATCH = os.path.join(os.path.realpath(os.path.dirname(__file__)), "")


def location_finder(app_root: str) -> Callable[[], Location | None]:
    """Return a function that tells which line of an app's code is running right now.

    `app_root` is `app.root_path`: what lies in it is the app's own code even if the app was
    installed into site-packages.
    """
    root = os.path.join(os.path.realpath(app_root), "")
    if root in _INSTALLED:
        root = ""

    @lru_cache(maxsize=MAX_FILES)
    def is_own(filename: str) -> bool:
        return _is_own(filename, root)

    def find() -> Location | None:
        fallback: FrameType | None = None
        for frame in _current_frames():
            if is_own(frame.f_code.co_filename):
                return _location(frame, library=False)
            if fallback is None and _could_be_origin(
                frame.f_code.co_filename, frame.f_globals.get("__name__")
            ):
                fallback = frame
        return _location(fallback, library=True) if fallback else None

    return find


def _current_frames() -> Iterator[FrameType]:
    """Yield the frames of the current request or command, innermost first."""
    frame: FrameType | None = sys._getframe(2)
    greenlet = _async_greenlet()
    for _ in range(_MAX_FRAMES):
        if frame is None or id(frame.f_code) in _BEGINNING_IDS:
            return
        yield frame
        frame = frame.f_back
        if frame is None and greenlet is not None:
            # What awaits the statement goes on in the greenlet that this one came from.
            frame, greenlet = greenlet.parent.gr_frame, None


def _async_greenlet() -> Any:
    """Return the greenlet in which SQLAlchemy runs a statement of an async engine, or None."""
    library = sys.modules.get("greenlet")
    current = library.getcurrent() if library else None
    return current if type(current).__module__.startswith("sqlalchemy.") else None


def _is_own(filename: str, app_root: str) -> bool:
    if filename.startswith("<"):
        return False
    path = os.path.realpath(filename)
    if path.startswith((_PLANWATCH, *_SCRIPTS)):
        return False
    if app_root and path.startswith(app_root):
        return not _is_installed(path.removeprefix(app_root))
    return not path.startswith((*_STANDARD_LIBRARY, *_INSTALLED)) and not _is_installed(path)


def _is_installed(path: str) -> bool:
    parts = path.split(os.sep)
    return "site-packages" in parts or "dist-packages" in parts


@lru_cache(maxsize=MAX_FILES)
def _could_be_origin(filename: str, module: object) -> bool:
    # site-packages lie inside the standard library's folder.
    nameless = filename.startswith(("<", *_STANDARD_LIBRARY, *_SCRIPTS))
    if nameless and not _is_installed(filename):
        return False
    return str(module or "").partition(".")[0] not in _MACHINERY


def _location(frame: FrameType, *, library: bool) -> Location:
    line = frame.f_lineno
    template = frame.f_globals.get("__jinja_template__")
    if template is not None:
        # A template runs as Python code with lines of its own.
        line = template.get_corresponding_lineno(line)
    return Location(frame.f_code.co_filename, line, frame.f_code.co_qualname, library)

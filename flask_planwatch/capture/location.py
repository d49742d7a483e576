"""Which line of code ran a statement."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from collections.abc import Callable
from enum import IntEnum
from traceback import walk_tb
from types import CodeType, FrameType
from typing import Any, NamedTuple

import click
from flask import Flask

from ..finding import UNKNOWN_LINE, Location

#: Top-level packages through which a statement passes, but which are never its origin.
_MACHINERY = frozenset({"sqlalchemy", "flask", "werkzeug", "flask_planwatch"})

#: Frames at which the current request or command begins; outside of them is a server's entry
#: point, a test client's call or `app.run()`.
_BEGINNINGS = (Flask.wsgi_app.__code__, click.Context.invoke.__code__)

#: By their identity, as to hash a code object takes time for each of its instructions.
_BEGINNING_IDS = frozenset(map(id, _BEGINNINGS))

#: Frames that are read before giving up: Flask's default recursion limit allows no deeper stack.
_MAX_FRAMES = 1000

#: Files of which it is remembered whether they are the app's own; when there are more, all are
#: forgotten. It takes 25 µs to look at a file, and there may be some dozen on a way.
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


class Origin(NamedTuple):
    """Where a statement came from, as it is found while it runs.

    `line` is that of the code's file, looked up once as long as the `instruction` stays the same.
    `template` is that of Jinja that the code was made of. `library` tells that the app's own code
    has no part in it. `depth` is how many calls lie between, and `inner` the code of the first of
    them; without an app's code, or with a greenlet between, there is no depth.
    """

    code: CodeType
    line: int | None
    instruction: int
    template: Any
    library: bool
    depth: int = 0
    inner: CodeType | None = None

    @property
    def location(self) -> Location:
        """The line of code."""
        line = self.line or self.code.co_firstlineno
        if self.template is not None:
            # A template runs as Python code with lines of its own.
            line = self.template.get_corresponding_lineno(line)
        return Location(self.code.co_filename, line, self.code.co_qualname, self.library)


class _Kind(IntEnum):
    """What the code of a file may be to a statement; 0 would look like a file that is not known."""

    PASSED = 1
    BEGINNING = 2
    LIBRARY = 3
    OWN = 4


_PASSED, _LIBRARY, _OWN = _Kind.PASSED, _Kind.LIBRARY, _Kind.OWN


def origin_finder(app_root: str) -> Callable[[Origin | None], Origin | None]:
    """Return a function that tells which line of an app's code is running right now.

    It is given where the same statement came from the last time, and looks there first. `app_root`
    is `app.root_path`: what lies in it is the app's own code even if the app was installed into
    site-packages.
    """
    root = os.path.join(os.path.realpath(app_root), "")
    if root in _INSTALLED:
        root = ""
    kinds: dict[str, _Kind] = {}

    def judge(frame: FrameType) -> _Kind:
        filename = frame.f_code.co_filename
        if len(kinds) >= MAX_FILES:
            kinds.clear()
        kind = kinds[filename] = _kind(filename, frame.f_globals.get("__name__"), root)
        return kind

    def find(earlier: Origin | None) -> Origin | None:
        if earlier is not None and (same := _same_path(earlier)) is not None:
            return same
        library: FrameType | None = None
        inner: FrameType | None = None
        frame: FrameType | None = sys._getframe(1)
        greenlet = _async_greenlet()
        switched = False
        for depth in range(1, _MAX_FRAMES):
            if frame is None:
                if greenlet is None:
                    break
                # What awaits the statement goes on in the greenlet that this one came from.
                frame, greenlet, switched = greenlet.parent.gr_frame, None, True
                continue
            kind = kinds.get(frame.f_code.co_filename) or judge(frame)
            if kind is not _PASSED:
                if kind is _OWN:
                    if switched or inner is None:
                        return _origin(frame, library=False)
                    return _origin(frame, library=False, depth=depth, inner=inner.f_code)
                if id(frame.f_code) in _BEGINNING_IDS:
                    break
                if library is None and kind is _LIBRARY:
                    library = frame
            inner, frame = frame, frame.f_back
        return None if library is None else _origin(library, library=True)

    return find


def _async_greenlet() -> Any:
    """Return the greenlet in which SQLAlchemy runs a statement of an async engine, or None."""
    library = sys.modules.get("greenlet")
    current = library.getcurrent() if library else None
    return current if type(current).__module__.startswith("sqlalchemy.") else None


def is_own(filename: str, app_root: str = "") -> bool:
    """Whether a file is code of the app's own: neither installed nor Python's nor PlanWatch's."""
    if filename.startswith("<"):
        return False
    path = os.path.realpath(filename)
    if path.startswith((_PLANWATCH, *_SCRIPTS)):
        return False
    if app_root and path.startswith(app_root):
        return not _is_installed(path.removeprefix(app_root))
    return not path.startswith((*_STANDARD_LIBRARY, *_INSTALLED)) and not _is_installed(path)


def raised_at(error: BaseException) -> str:
    """Return where an exception was raised, in the app's own code if it passed through any."""
    steps = [(frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__)]
    own = [step for step in steps if is_own(step[0])]
    return ":".join(map(str, (own or steps)[-1])) if steps else UNKNOWN_LINE


def _is_installed(path: str) -> bool:
    parts = path.split(os.sep)
    return "site-packages" in parts or "dist-packages" in parts


def _kind(filename: str, module: object, app_root: str) -> _Kind:
    if is_own(filename, app_root):
        return _Kind.OWN
    if filename == Flask.wsgi_app.__code__.co_filename:
        return _Kind.BEGINNING
    # site-packages lie inside the standard library's folder.
    nameless = filename.startswith(("<", *_STANDARD_LIBRARY, *_SCRIPTS))
    if nameless and not _is_installed(filename):
        return _Kind.PASSED
    machinery = str(module or "").partition(".")[0] in _MACHINERY
    return _Kind.PASSED if machinery else _Kind.LIBRARY


def _same_path(earlier: Origin) -> Origin | None:
    """Return the origin if the call path is the same as before; the line may be another.

    It is the same if the same code is at the same depth, with the same code below it. To go through
    all frames would make an object of each: for 27 of them it takes 6 µs, this 0.5.
    """
    if not earlier.depth:
        return None
    try:
        frame, inner = sys._getframe(earlier.depth + 1), sys._getframe(earlier.depth)
    except ValueError:
        return None
    if frame.f_code is not earlier.code or inner.f_code is not earlier.inner:
        return None
    if frame.f_lasti == earlier.instruction:
        return earlier
    return earlier._replace(line=frame.f_lineno, instruction=frame.f_lasti)


def _origin(
    frame: FrameType, *, library: bool, depth: int = 0, inner: CodeType | None = None
) -> Origin:
    template = frame.f_globals.get("__jinja_template__")
    code, line, instruction = frame.f_code, frame.f_lineno, frame.f_lasti
    return Origin(code, line, instruction, template, library, depth, inner)

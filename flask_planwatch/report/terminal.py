"""Whether the log reaches the terminal, and a way there for what does not.

Without any set-up Python prints warnings only, and not even those once an extension has given the
root logger a handler of its own, as Flask-DebugToolbar does. `logging.config` is the application's
own choice, and what it prints is not printed twice.
"""

from __future__ import annotations

import logging
import logging.handlers
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from ..location import is_own


def log(logger: logging.Logger, level: int, message: str, data: dict[str, Any] | None) -> None:
    """Log a message, and print it unless a handler does or the application has silenced it."""
    if not _misses(logger, level):
        logger.log(level, "%s", message, extra=data)
        return
    record = logger.makeRecord(logger.name, level, __file__, 0, "%s", (message,), None, extra=data)
    # A filter is asked once, and may put another record in the place of this one.
    kept: Any = logger.filter(record)
    if not kept:
        return
    record = kept if isinstance(kept, logging.LogRecord) else record
    if logger.isEnabledFor(level):
        logger.callHandlers(record)
    _print(record)


def _print(record: logging.LogRecord) -> None:
    """Write a message alone to what is the standard error output by now.

    It is no handler: at the end of the interpreter, gevent cannot take one out of the log any more.
    """
    with suppress(Exception):
        sys.stderr.write(f"{record.getMessage()}\n")
        sys.stderr.flush()


def _misses(logger: logging.Logger, level: int) -> bool:
    """Whether no handler would print a record that the application has not silenced."""
    if logger.level > level or logger.manager.disable >= level:
        return False
    if logger.level and logger.handlers:
        # This logger was set up by its name.
        return False
    if not logger.isEnabledFor(level):
        return True
    return not any(handler.level <= level and _prints(handler) for handler in _handlers(logger))


def _handlers(logger: logging.Logger) -> Iterator[logging.Handler]:
    """Yield the handlers of a logger and those above it, else Python's last resort."""
    if not logger.hasHandlers() and logging.lastResort is not None:
        yield logging.lastResort
    current: logging.Logger | None = logger
    while current is not None:
        yield from current.handlers
        current = current.parent if current.propagate else None


def _prints(handler: logging.Handler) -> bool:
    """Whether a handler writes to the terminal, as far as that can be seen.

    A handler of the application's own class, or a queue, leads to where the application wants its
    log. One that a library has attached is believed to do so only if its stream is the terminal's.
    """
    if isinstance(handler, logging.handlers.MemoryHandler):
        return handler.target is not None and _prints(handler.target)
    if isinstance(handler, logging.handlers.QueueHandler):
        return True
    stream = getattr(handler, "stream", None)
    if stream is None:
        # Rich writes to a console.
        stream = getattr(getattr(handler, "console", None), "file", None)
    if stream is None:
        module = sys.modules.get(type(handler).__module__)
        return is_own(getattr(module, "__file__", None) or "")
    return _is_terminal(stream)


def _is_terminal(stream: Any) -> bool:
    if any(stream is one for one in (sys.stderr, sys.stdout, sys.__stderr__, sys.__stdout__)):
        return True
    # It may be wrapped, as Flask's is, or have been opened anew.
    with suppress(Exception):
        if stream.fileno() in {1, 2}:
            return True
    with suppress(Exception):
        return bool(stream.isatty())
    return False

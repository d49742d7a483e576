"""Prints, in debug mode, what no handler of the log prints on the terminal.

Without any set-up, Python prints only warnings, and not even these if an extension has given the
root logger a handler, as Flask-DebugToolbar does. What a handler of the application's prints is not
printed twice.
"""

from __future__ import annotations

import copy
import io
import logging
import logging.handlers
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from traceback import walk_tb
from types import BuiltinMethodType, MethodType
from typing import Any

from ..capture.location import is_own
from ..plan.wording import say
from ..worker import on_own_thread

#: How deep streams in streams are looked at, and how many values of each.
_MAX_DEPTH, _MAX_HELD = 4, 100


class HandlerError(Exception):
    """A handler of the application's cannot take a message; says why, and holds no value of it."""


class EncodingError(HandlerError):
    """Its stream cannot encode the message."""


#: Why a handler cannot take a message.
_RAISED = "the formatter {formatter} of a {handler} raised {type}"
_NO_TEXT = "the formatter {formatter} of a {handler} returned {type}"
_NOT_ENCODED = "the stream of a {handler} cannot encode a message in {encoding}"

#: How handlers write that can write nothing but a text.
_WRITES_TEXT = frozenset(
    {
        logging.StreamHandler.emit,
        logging.FileHandler.emit,
        logging.handlers.BaseRotatingHandler.emit,
        logging.handlers.WatchedFileHandler.emit,
    }
)


def log(
    logger: logging.Logger, level: int, message: str, make: Callable[[], logging.LogRecord]
) -> None:
    """Log a record, and print it unless a handler does or the application has silenced it.

    `message` is printed if the application's logging raises, which is then raised again. A handler
    whose formatter fails, or whose stream cannot encode the message, is left out, as Python would
    only print a traceback in the place of the message: raises HandlerError.
    """
    if logger.level > level or logger.manager.disable >= level:
        return
    enabled = logger.isEnabledFor(level)
    handlers = list(_handlers(logger)) if enabled else []
    printing: list[logging.Handler] = []
    passed: list[logging.Handler] = []
    broken: dict[logging.Handler, HandlerError] = {}

    def printed(handlers: list[logging.Handler]) -> bool:
        return any(
            handler in passed or not (handler.filters or handler in broken)
            for handler in printing
            if handler in handlers
        )

    try:
        printing += (handler for handler in handlers if handler.level <= level and _prints(handler))
        # Whoever has set up this logger by its name has chosen what is printed.
        chosen = bool(logger.level) and any(map(_prints, logger.handlers))
        record = make()
        # A filter is asked once, and may put another record in the place of this one.
        kept: Any = logger.filter(record)
        if not kept:
            return
        record = kept if isinstance(kept, logging.LogRecord) else record
        message = record.getMessage()
        if enabled:
            with _noted(handlers, passed, broken):
                logger.callHandlers(record)
    except BaseException as error:
        if not printed(_done_before(error, handlers)):
            write(message)
        raise
    if not printed(handlers) and (not chosen or any(handler in broken for handler in printing)):
        write(message)
    if broken:
        kinds = {type(error) for error in broken.values()}
        kind = kinds.pop() if len(kinds) == 1 else HandlerError
        raise kind("; ".join(dict.fromkeys(map(str, broken.values()))))


def is_caught(error: BaseException) -> bool:
    """Whether what the application's logging raised is only told of.

    SystemExit would end nothing on PlanWatch's thread; elsewhere a signal may have raised it.
    """
    return isinstance(error, Exception) or on_own_thread()


def _done_before(error: BaseException, handlers: list[logging.Handler]) -> list[logging.Handler]:
    """Return the handlers that had their turn before one of them raised this."""
    active = [frame.f_locals.get("self") for frame, _ in walk_tb(error.__traceback__)]
    for position, handler in enumerate(handlers):
        if any(owner is handler for owner in active):
            return handlers[:position]
    return []


@contextmanager
def _noted(
    handlers: Sequence[logging.Handler],
    passed: list[logging.Handler],
    broken: dict[logging.Handler, HandlerError],
) -> Iterator[None]:
    """Note which handlers take a record of this thread, as the last of each one's filters.

    One that cannot write it does not take it, and `broken` says why.
    """
    thread = threading.get_ident()
    notes = []
    for handler in handlers:
        if not isinstance(handler, logging.Handler):
            continue

        def note(record: logging.LogRecord, handler: logging.Handler = handler) -> bool:
            if threading.get_ident() == thread:
                if problem := _problem(handler, record):
                    broken[handler] = problem
                    return False
                passed.append(handler)
            return True

        handler.addFilter(note)
        notes.append((handler, note))
    try:
        yield
    finally:
        for handler, note in notes:
            handler.removeFilter(note)


def _problem(handler: logging.Handler, record: logging.LogRecord) -> HandlerError | None:
    """Return why a handler cannot write a record, None if it can.

    Its formatter raises or returns no text, or its stream cannot encode the text. A handler that
    handles such errors in a way of its own is left to it, and so is one that does not format the
    record itself, or not yet.
    """
    own = getattr(type(handler), "handleError", None) is not logging.Handler.handleError
    later = (logging.handlers.BufferingHandler, logging.handlers.QueueHandler)
    formatter, kind = handler.formatter, type(handler)
    writes_text = kind.emit in _WRITES_TEXT
    if own or isinstance(handler, later) or not (formatter or writes_text):
        return None
    try:
        # A formatter writes into the record.
        text = handler.format(copy.copy(record))
    except BaseException as error:
        if not is_caught(error):
            raise
        why, cause = _RAISED, type(error)
    else:
        if not writes_text:
            return None
        if isinstance(text, str):
            if not (encoding := _unfit_encoding(handler, text)):
                return None
            return EncodingError(say(_NOT_ENCODED, handler=kind.__name__, encoding=encoding))
        why, cause = _NO_TEXT, type(text)
    writer = type(formatter)
    name = f"{writer.__module__}.{writer.__qualname__}({getattr(formatter, '_fmt', None)!r})"
    return HandlerError(say(why, formatter=name, handler=kind.__name__, type=cause.__name__))


def _unfit_encoding(handler: Any, text: str) -> str:
    """Return the encoding of a handler's stream if that has no bytes for a text, else nothing."""
    # A file that is not open yet will have what its handler says.
    writer = handler if handler.stream is None else handler.stream
    encoding = getattr(writer, "encoding", None)
    if not isinstance(encoding, str):
        return ""
    try:
        text.encode(encoding, getattr(writer, "errors", None) or "strict")
    except UnicodeEncodeError:
        return encoding
    except LookupError:
        pass
    return ""


def write(message: str) -> None:
    """Write a message alone to what is the standard error output by now, as far as that encodes it.

    It is no handler: at the end of the interpreter, gevent cannot take one out of the log any more.
    """
    with suppress(Exception):
        encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
        try:
            message.encode(encoding, getattr(sys.stderr, "errors", None) or "strict")
        except UnicodeEncodeError:
            message = message.encode(encoding, "backslashreplace").decode(encoding)
        sys.stderr.write(f"{message}\n")
        sys.stderr.flush()


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

    A handler of the application's own class, or a queue whose listener is not known, leads to where
    the application wants its log. One that a library has attached is believed to do so only if its
    stream is the terminal's.
    """
    if isinstance(handler, logging.handlers.MemoryHandler):
        return handler.target is not None and _prints(handler.target)
    if isinstance(handler, logging.handlers.QueueHandler):
        # Python 3.12's dictConfig tells the listener.
        listener = getattr(handler, "listener", None)
        return listener is None or any(map(_prints, listener.handlers))
    stream = getattr(handler, "stream", None)
    if stream is None:
        # Rich writes to a console.
        stream = getattr(getattr(handler, "console", None), "file", None)
    if stream is not None:
        return _leads_to_terminal(stream)
    # A class of the application's may leave it to one of Python's, as to a file not yet open.
    writer = next(base for base in type(handler).__mro__ if {"emit", "handle"} & vars(base).keys())
    return _is_of_the_application(writer)


def _is_of_the_application(kind: type) -> bool:
    """Whether a class is written in the application's own code."""
    return is_own(getattr(sys.modules.get(kind.__module__), "__file__", None) or "")


def _leads_to_terminal(stream: Any) -> bool:
    """Whether a stream, or one that it passes the text on to, is the terminal's.

    One of the application's own class that holds no other is believed to lead there.
    """
    held: dict[int, Any] = {}
    # It may be of any kind.
    with suppress(Exception):
        _collect(stream, held, _MAX_DEPTH)
    if any(map(_is_terminal, held.values())):
        return True
    told = len(held) > 1 or isinstance(stream, io.IOBase)
    return not told and _is_of_the_application(type(stream))


def _collect(value: Any, held: dict[int, Any], depth: int) -> None:
    """Add a stream, and those that it holds, by what tells them apart."""
    if isinstance(value, list | tuple | set | dict):
        for item in list(value.values() if isinstance(value, dict) else value)[:_MAX_HELD]:
            _collect(item, held, depth)
        return
    # A method of a stream stands for it.
    value = value.__self__ if isinstance(value, MethodType | BuiltinMethodType) else value
    if depth == 0 or id(value) in held or not hasattr(value, "write"):
        return
    held[id(value)] = value
    for part in list(getattr(value, "__dict__", {}).values())[:_MAX_HELD]:
        _collect(part, held, depth - 1)
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            _collect(getattr(value, name, None), held, depth - 1)


def _is_terminal(stream: Any) -> bool:
    if any(stream is known for known in (sys.stderr, sys.stdout, sys.__stderr__, sys.__stdout__)):
        return True
    # It may be wrapped, as Flask's is, or have been opened anew.
    with suppress(Exception):
        if stream.fileno() in {1, 2}:
            return True
    with suppress(Exception):
        return bool(stream.isatty())
    return False

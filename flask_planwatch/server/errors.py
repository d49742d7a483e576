"""What an error of the server's, or of a driver, means: for a statement, or for a connection."""

from __future__ import annotations

import os
import re
import socket

from ..capture.driver import sqlstate_of
from ..failure import ServerError
from ..finding import SkipReason
from ..plan.index_use import names_in
from ..plan.scrub import mask
from ..plan.wording import say

_REASONS = {
    "42501": SkipReason.PERMISSION_DENIED,
    "42P01": SkipReason.NOT_VISIBLE,
    "42703": SkipReason.NOT_VISIBLE,
    "42704": SkipReason.NOT_VISIBLE,
    "42883": SkipReason.NOT_VISIBLE,
    "3F000": SkipReason.NOT_VISIBLE,
    "57014": SkipReason.STATEMENT_TIMEOUT,
    "55P03": SkipReason.LOCK_TIMEOUT,
}

#: SQLSTATEs whose messages name a relation or a schema, which is worth showing.
_STATES_WITH_NAMES = frozenset({"42501", "42P01", "3F000"})

#: Those messages. A function of the application's may raise any state with any other message.
_NAMING = re.compile(
    r"(?:permission denied (?:for [a-z ]+|to create extension)|must be owner of [a-z]+) "
    r'"?(?P<denied>[^\s"]+)"?|'
    r'(?:relation|schema) "(?P<missing>[^"]+)" does not exist'
)

_REFUSED = "{error}, SQLSTATE {state}"
#: The error is not the server's.
_NOT_SENT = "{driver} itself could not send it: {error}"

#: "syntax error", also for several statements where one is expected.
SYNTAX_ERROR = "42601"

#: The beginning of the server's messages, in any language: "FATAL:  ".
_LEVEL_OF_MESSAGE = re.compile(r"\A[^\W\d_]+:\s\s?")

_NO_HOST = re.compile(r"host name|resolve host|name or service|getaddrinfo", re.IGNORECASE)

#: asyncio puts one in its message for each address of a host.
_ERROR_NUMBER = re.compile(r"\[Errno (\d+)\]")

_INVALID_OPTION = re.compile(r'invalid connection option "\w+"')


def refusal(error: Exception, driver: str, sql: str, explained: str) -> ServerError:
    """Return what an exception of a driver means, if the connection is still there.

    `sql` is what was sent, `explained` the statement that it was about. A message is shown only if
    it contains nothing but names that stand in either.
    """
    state = sqlstate_of(error)
    reason = _REASONS.get(state or "", SkipReason.EXPLAIN_FAILED)
    if state == SYNTAX_ERROR and ";" in sql:
        reason = SkipReason.MULTIPLE_STATEMENTS
    template = _NOT_SENT if state is None else _REFUSED
    detail = say(template, driver=driver, error=type(error).__name__, state=state)
    if state in _STATES_WITH_NAMES:
        message = str(error).partition("\n")[0]
        if "row-level security" in message:
            reason = SkipReason.SESSION_STATE_UNKNOWN
        if _names_what_is_read(message, f"{sql}\n{explained}"):
            detail = message
    return ServerError(reason, detail, state)


def _names_what_is_read(message: str, sql: str) -> bool:
    """Whether a message contains nothing but a name that stands in the SQL, and not as a value."""
    found = _NAMING.fullmatch(message)
    if found is None:
        return False
    return names_in(mask(sql), (found["denied"] or found["missing"]).split("."))


def why_not_connected(error: BaseException, secret: str | None) -> str:
    """Return why a driver could not connect.

    If the message contains `secret`, the password, only the name of the exception is returned: a
    message about a malformed URL may quote a part of it.
    """
    said = _reason(error)
    return type(error).__name__ if not said or (secret and secret in said) else said


def _reason(error: BaseException) -> str:
    message = str(error).strip()
    if isinstance(error, socket.gaierror) or _NO_HOST.search(message):
        return "the name of its host is not known"
    # The exception of psycopg 3 is no TimeoutError.
    if isinstance(error, TimeoutError) or type(error).__name__ == "ConnectionTimeout":
        return "timeout expired"
    if isinstance(error, OSError):
        # asyncio adds an address to `strerror`.
        numbers = [error.errno or 0, *map(int, _ERROR_NUMBER.findall(message))]
        return os.strerror(number) if (number := numbers[0] or numbers[-1]) else ""
    if option := _INVALID_OPTION.search(message):
        return option[0]
    kind = type(error)
    if kind.__name__ != "OperationalError" and "asyncpg" not in kind.__module__:
        return ""
    # libpq has a line for each address, with the reason at its end. The last one decides.
    lines = message.split("\n")
    tried = [line for line in lines if " failed: " in line] or lines[:1]
    reason = tried[-1].rpartition(" failed: ")[2]
    # psycopg 3.1 puts this in front.
    return _LEVEL_OF_MESSAGE.sub("", reason.removeprefix("connection is bad: "))

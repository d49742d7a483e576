"""Remembers what the server refused: each further refusal would be a line in its log."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..capture.connection_state import SessionState
from ..failure import ServerError
from ..runtime.bounded import LEARNT, RecentlyUsed
from ..runtime.clock import now
from ..statement.fingerprint import fingerprint

#: Seconds after the first refusal for which the same text is not sent again: enough for a page that
#: is reloaded a few times. Each further refusal doubles them.
FIRST_PAUSE = 10.0

#: The longest pause in seconds: a new table or privilege is noticed within the hour.
LONGEST_PAUSE = 3600.0

#: Refusals that are remembered, of some 500 bytes each. The least recently used one goes first.
#: Each of them saves the server an EXPLAIN that fails, and its log an error, at each inspection.
MAX_REFUSALS = 1000

#: Characters of the reason's detail that are kept.
_MAX_DETAIL = 200

#: Classes of SQLSTATEs with which the server would refuse the same again: they are about the
#: statement, its values, a privilege, a limit or a defect of the server. Load, locks and lost
#: connections pass.
_LASTING = frozenset(
    {"0A", "21", "22", "23", "25", "2F", "38", "39", "3F", "42", "44", "54", "P0", "XX"}
)

#: SQLSTATEs that do not depend on the values: what the statement names is missing, ambiguous, or
#: forbidden for this role or in a READ ONLY transaction.
_WHATEVER_VALUES = frozenset(
    {"25006", "3F000", "42501", "42702", "42703", "42704", "42725", "42883", "42P01"}
)


@dataclass
class _Refusal:
    """An error, the time until which the text is not sent again, and those seconds."""

    error: ServerError
    until: float
    pause: float


class Refusals:
    """The refusals of one engine's statements, by text and session state.

    Those that do not depend on the values count for all texts of one fingerprint, and for all
    values of the application's own settings.
    """

    def __init__(self) -> None:
        self._known: RecentlyUsed[bytes, _Refusal] = RecentlyUsed(LEARNT, MAX_REFUSALS)

    @contextmanager
    def unless_refused(self, text: str, state: SessionState) -> Iterator[None]:
        """Run the block; raise the ServerError of a recent refusal instead if there is one."""
        keys = _key(text, state), _key(fingerprint(text, None), state.rights)
        for key in keys:
            known = self._known.get(key)
            if known is not None and now() < known.until:
                # A new exception each time: its traceback grows with each raise.
                error = known.error
                raise ServerError(error.reason, error.detail, error.sqlstate)
        try:
            yield
        except ServerError as error:
            if (error.sqlstate or "")[:2] in _LASTING:
                self._remember(keys[error.sqlstate in _WHATEVER_VALUES], error)
            raise
        for key in keys:
            self._known.pop(key)

    def _remember(self, key: bytes, error: ServerError) -> None:
        known = self._known.get(key)
        pause = FIRST_PAUSE if known is None else min(known.pause * 2, LONGEST_PAUSE)
        bare = ServerError(error.reason, error.detail[:_MAX_DETAIL], error.sqlstate)
        self._known.keep(key, _Refusal(bare, now() + pause, pause))


def _key(text: str, state: Hashable) -> bytes:
    """Return a hash of a text and a state, which may be long and contain values."""
    content = f"{text}\0{state}".encode("utf-8", "backslashreplace")
    return hashlib.blake2b(content, digest_size=16).digest()

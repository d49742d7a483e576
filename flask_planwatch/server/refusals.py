"""What the server refused is not sent again at once: each refusal is a line in its log."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..clock import now
from ..fingerprint import fingerprint
from ..session_state import SessionState
from .transaction import ServerError

#: Seconds until the same text is sent again after its first refusal: enough for a page that is
#: loaded again and again. Each further refusal doubles them.
FIRST_PAUSE = 10.0

#: The longest pause in seconds: a table or a privilege that was missing is noticed within the hour.
LONGEST_PAUSE = 3600.0

#: Refusals that are remembered, of some 500 bytes each; the oldest goes first.
MAX_REFUSALS = 1000

#: Characters of the reason's detail that are kept.
_MAX_DETAIL = 200

#: Classes of SQLSTATEs that will come again: the statement, its values, a privilege, a limit or the
#: server's own fault. Load, locks and lost connections pass.
_LASTING = frozenset(
    {"0A", "21", "22", "23", "25", "2F", "38", "39", "3F", "42", "44", "54", "P0", "XX"}
)

#: Those that come whatever the values are: what the statement names is missing, ambiguous, or not
#: for this role or a transaction that only reads.
_WHATEVER_VALUES = frozenset(
    {"25006", "3F000", "42501", "42702", "42703", "42704", "42725", "42883", "42P01"}
)


@dataclass
class _Refusal:
    """An error, the time until which it stands, and the seconds from when it came to then."""

    error: ServerError
    until: float
    pause: float


class Refusals:
    """The refusals of one engine's statements, by their text and what was set for them.

    Those that come whatever the values are count for all texts of one fingerprint.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, _Refusal] = OrderedDict()

    @contextmanager
    def heeded(self, text: str, state: SessionState) -> Iterator[None]:
        """Ask the server in this block, unless it refused the same a while ago.

        Raises the ServerError of then, or what the block raises.
        """
        keys = _key(text, state), _key(fingerprint(text, None), state)
        for key in keys:
            known = self._known.get(key)
            if known is not None and now() < known.until:
                # A new one each time: an exception collects the frames that it passes.
                error = known.error
                raise ServerError(error.reason, error.detail, error.sqlstate)
        try:
            yield
        except ServerError as error:
            if (error.sqlstate or "")[:2] in _LASTING:
                self._remember(keys[error.sqlstate in _WHATEVER_VALUES], error)
            raise
        for key in keys:
            self._known.pop(key, None)

    def forget(self) -> None:
        """Let everything be asked again."""
        self._known.clear()

    def _remember(self, key: bytes, error: ServerError) -> None:
        known = self._known.get(key)
        pause = FIRST_PAUSE if known is None else min(known.pause * 2, LONGEST_PAUSE)
        bare = ServerError(error.reason, error.detail[:_MAX_DETAIL], error.sqlstate)
        self._known[key] = _Refusal(bare, now() + pause, pause)
        self._known.move_to_end(key)
        while len(self._known) > MAX_REFUSALS:
            self._known.popitem(last=False)


def _key(text: str, state: SessionState) -> bytes:
    """Return what stands for a text and a state: both may be long, and hold values."""
    told = f"{text}\0{state}".encode("utf-8", "backslashreplace")
    return hashlib.blake2b(told, digest_size=16).digest()

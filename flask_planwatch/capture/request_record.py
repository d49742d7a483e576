"""What PlanWatch knows of one request: what it inspected in it, and what a panel may show."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from reprlib import Repr
from sys import getsizeof
from typing import Any, NamedTuple

from flask import Flask, current_app, has_request_context, request

from ..runtime.interruption import let_through
from ..worker import Ticket

#: Statements of one request that the panel lists.
MAX_STATEMENTS_SHOWN = 1000

#: Bytes of the texts and parameters of these.
MAX_SHOWN_SIZE = 4_000_000

#: Statements of one request whose plan and SQL are shown with their values.
MAX_DETAILED = 50

#: Parameters of a statement that are shown: a bulk insert has thousands.
MAX_PARAMETERS_SHOWN = 50

#: Characters, or bytes, of a value that are shown.
MAX_VALUE_SHOWN = 120

#: Statements of one request that are known to be inspected; the one that ran longest ago is
#: forgotten first.
MAX_SAMPLED = 1000

_RECORD = "flask_planwatch.record"


class Shown(NamedTuple):
    """Parameters as people see them: names, or numbers from 1, with shortened values, and the rest.

    `more` are those that are left out.
    """

    pairs: tuple[tuple[str, str], ...]
    more: int


@dataclass(slots=True)
class Seen:
    """A statement of the current request, for the panel.

    `sql` is the statement with its values, or nothing if they have no plain form, or if another
    execution of the request has them.
    """

    key: str
    sql: str
    parameters: Shown
    duration_ms: float
    ticket: Ticket | None = None
    note: str = ""


class RequestRecord:
    """What PlanWatch knows of one request; it lives in the request's WSGI environment.

    Not in `flask.g`: in a test suite that may outlive many requests.
    """

    def __init__(self) -> None:
        self._sampled: OrderedDict[Hashable, None] = OrderedDict()
        self.seen: list[Seen] = []
        #: Whether all statements of the request are in `seen`.
        self.complete = True
        self._keys: set[int] = set()
        self._size = 0
        self._detailed = 0

    @property
    def has_room(self) -> bool:
        """Whether one more statement may keep its plan and its SQL with their values."""
        return self.complete and self._detailed < MAX_DETAILED

    def is_first(self, key: str) -> bool:
        """Whether this text is asked for the first time; it is remembered by its hash."""
        known = len(self._keys)
        self._keys.add(hash(key))
        return len(self._keys) > known

    def see(
        self,
        key: str,
        sql: str,
        parameters: Any,
        duration_ms: float,
        ticket: Ticket | None,
        note: str,
    ) -> None:
        """Add a statement to the list, unless that is full."""
        if self.complete:
            self._detailed += ticket is not None
            seen = Seen(key, sql, shown(parameters), duration_ms, ticket, note)
            self._size += sum(map(getsizeof, chain([key, sql], *seen.parameters.pairs)))
            self.complete = len(self.seen) < MAX_STATEMENTS_SHOWN and self._size <= MAX_SHOWN_SIZE
        if self.complete:
            self.seen.append(seen)

    def was_sampled(self, identity: Hashable) -> bool:
        """Whether a statement was inspected in this request; one forgotten is inspected again."""
        known = identity in self._sampled
        if known:
            self._sampled.move_to_end(identity)
        return known

    def sample(self, identity: Hashable) -> None:
        """Remember that a statement is inspected in this request."""
        self._sampled[identity] = None
        while len(self._sampled) > MAX_SAMPLED:
            self._sampled.popitem(last=False)


_repr = Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = MAX_VALUE_SHOWN


def shown(parameters: Any) -> Shown:
    """Return a driver's parameters as they are shown: nothing of the application's is kept."""
    values = parameters or ()
    items = values.items() if isinstance(values, Mapping) else enumerate(values, start=1)
    pairs = tuple((str(name), _shown(value)) for name, value in islice(items, MAX_PARAMETERS_SHOWN))
    return Shown(pairs, max(0, len(values) - MAX_PARAMETERS_SHOWN))


def _shown(value: Any) -> str:
    try:
        # The drivers wrap bytes and documents in an object that holds them.
        value = getattr(value, "adapted", value)
        if isinstance(value, bytes | bytearray | memoryview):
            value = bytes(value[:MAX_VALUE_SHOWN])
        value = getattr(value, "obj", value)
        return _repr.repr(value)[: 2 * MAX_VALUE_SHOWN]
    except Exception as error:  # noqa: BLE001 - a value may refuse to be shown
        let_through(error)
        return f"<{type(value).__name__}>"


def request_record(app: Flask) -> RequestRecord | None:
    """Return the record of the app's current request, or None if it has none now."""
    if not has_request_context() or current_app != app:
        return None
    record: RequestRecord = request.environ.setdefault(_RECORD, RequestRecord())
    return record

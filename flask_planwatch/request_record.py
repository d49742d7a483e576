"""What PlanWatch knows of one request: what it inspected in it, and what a panel may show."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from flask import Flask, current_app, has_request_context, request

from .worker import Ticket

#: Statements of one request that the panel lists.
MAX_STATEMENTS_SHOWN = 1000

#: Statements of one request that are known to be inspected; that which ran longest ago goes first.
MAX_SAMPLED = 1000

_RECORD = "flask_planwatch.record"


@dataclass(slots=True)
class Seen:
    """A statement of the current request, for the panel."""

    key: str
    parameters: Any
    duration_ms: float
    ticket: Ticket | None = None
    note: str = ""


class RequestRecord:
    """What PlanWatch knows of one request; it lives in the request's WSGI environment.

    `flask.g` would be the wrong place: in a test-suite it may outlive many requests.
    """

    def __init__(self) -> None:
        self._sampled: OrderedDict[Hashable, None] = OrderedDict()
        self.seen: list[Seen] = []

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


def request_record(app: Flask) -> RequestRecord | None:
    """Return the record of the app's current request, or None if it has none now."""
    if not has_request_context() or current_app != app:
        return None
    record: RequestRecord = request.environ.setdefault(_RECORD, RequestRecord())
    return record

"""What a story is made of; the stories themselves are in `stories/`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.orm import Session


@dataclass(frozen=True)
class Seed:
    """The rows of one table, numbered from 1, and the statements that insert some of them.

    The statements know the parameters :first and :last, which are row numbers, and :rows, which is
    how many there will be in all, and those that `values` returns. `effort` is how many rows of the
    simplest table take as long to insert as one of this, as measured.
    """

    table: str
    rows: int
    statements: tuple[str, ...]
    values: Callable[[], dict[str, object]] = dict
    effort: int = 1


@dataclass(frozen=True)
class Form:
    """One form of a query: the function that sends it, and how the app calls that.

    `bind` is the key of the engine. `earlier` are the arguments that the function had before, on
    the same connection.
    """

    query: Callable[..., object]
    arguments: tuple[object, ...] = ()
    earlier: tuple[tuple[object, ...], ...] = ()
    bind: str | None = None

    def ask_earlier(self, session: Session) -> None:
        """Send what the connection was asked before.

        It is committed, because psycopg forgets what it prepared when it sends a ROLLBACK.
        """
        for arguments in self.earlier:
            self.query(session, *arguments)
            session.commit()

    def ask(self, session: Session) -> None:
        """Send the query once."""
        self.query(session, *self.arguments)
        session.commit()

    @property
    def source(self) -> str:
        """The code of the function, as it is in the story's file."""
        return inspect.getsource(self.query)


@dataclass(frozen=True)
class Story:
    """A query that is slow for no reason that its code shows, and what mends it.

    `slow` is that query, `twin` one beside it that is fine. It is mended by the indexes that
    PlanWatch advises, or by asking in the form `repaired` instead. `rules` are those that speak.
    `sent_by` is the endpoint whose request sends the query, if that is not the story's own page.
    """

    name: str
    title: str
    told: str
    rules: tuple[str, ...]
    tables: tuple[str, ...]
    seeds: tuple[Seed, ...]
    slow: Form
    twin: Form
    repaired: Form | None = None
    sent_by: str | None = None

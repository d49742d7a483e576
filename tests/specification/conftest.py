"""One database on each server, filled once: each test rolls back what it does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from .. import servers
from ..databases import Database, make_database, template
from .exhaustive import Laboratory
from .tables import fill


@dataclass(frozen=True)
class Place:
    """A filled database, and the laboratory in it."""

    database: Database
    laboratory: Laboratory


def _place(server: servers.Server) -> Iterator[Place]:
    for database in make_database(server, template(server, "specification", fill)):
        yield Place(database, Laboratory(database.url))


@pytest.fixture(scope="session")
def place(server: servers.Server) -> Iterator[Place]:
    """The tables of the specification on the first server."""
    yield from _place(server)


@pytest.fixture(scope="session")
def hypopg_place(hypopg_server: servers.Server) -> Iterator[Place]:
    """The tables of the specification on the server with HypoPG."""
    for place in _place(hypopg_server):
        place.database.execute("CREATE EXTENSION hypopg")
        yield place

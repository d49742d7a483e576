"""One database on each server, filled once: each test rolls back what it does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from .. import servers
from ..conftest import Database, _janitor
from .exhaustive import Laboratory
from .tables import fill


@dataclass(frozen=True)
class Place:
    """A filled database, and the laboratory in it."""

    database: Database
    laboratory: Laboratory


def _place(server: servers.Server) -> Iterator[Place]:
    janitor = _janitor(server, f"planwatch_specification_{os.getpid()}")
    janitor.init()
    database = Database(server, janitor.dbname)
    fill(database.url)
    yield Place(database, Laboratory(database.url))
    janitor.drop()


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

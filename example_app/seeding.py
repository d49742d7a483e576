"""Makes the tables of all stories, and the rows in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import click
from sqlalchemy import Connection, inspect, text

from .extensions import db
from .stories import STORIES
from .story import Seed, Story

_BATCH = 20_000
# Any number that is always the same, for PostgreSQL's advisory locks.
_SEEDING_LOCK = 20_230_225


def prepare(scale: float = 1, stories: Iterable[Story] = tuple(STORIES.values())) -> None:
    """Make the tables, and those rows of these stories that are still missing.

    Needs an app context. Each batch is committed on its own, so that an interrupted start goes on
    where it stopped. `scale` is the share of each story's rows that is wanted.
    """
    with db.engine.connect().execution_options(planwatch=False) as connection:
        _refuse_foreign(connection)
        with _alone(connection):
            db.metadata.create_all(connection)
            connection.commit()
            _fill(connection, scale, stories)
    click.echo("Vacuuming and analysing the tables …")
    with db.engine.connect().execution_options(
        isolation_level="AUTOCOMMIT", planwatch=False
    ) as connection:
        # At each start: cheap, and right even if an earlier one was interrupted before this line.
        tables = ", ".join(map(_quoted, db.metadata.tables))
        connection.execute(text(f"VACUUM ANALYZE {tables}"))


def _fill(connection: Connection, scale: float, stories: Iterable[Story]) -> None:
    seeds = [seed for story in stories for seed in story.seeds]
    wanted = {seed: int(seed.rows * scale) for seed in seeds}
    made = {seed: _count(connection, seed) for seed in seeds}
    missing = {seed: max(0, wanted[seed] - made[seed]) for seed in seeds}
    rows = sum(missing.values())
    if not rows:
        return
    # The bar goes by the time that rows take, so that the time that it tells is right from the
    # beginning: those of the first story take longest.
    length = sum(count * seed.effort for seed, count in missing.items())
    with click.progressbar(length=length, label=f"Making {rows:,} rows") as bar:
        for seed in seeds:
            for inserted in _insert(connection, seed, made[seed], wanted[seed]):
                bar.update(inserted * seed.effort)


def _insert(connection: Connection, seed: Seed, made: int, wanted: int) -> Iterator[int]:
    """Insert the rows of one table after those that are made; yield the size of each batch."""
    values = seed.values() if made < wanted else {}
    for first in range(made + 1, wanted + 1, _BATCH):
        last = min(first + _BATCH - 1, wanted)
        for statement in seed.statements:
            numbers = {"first": first, "last": last, "rows": wanted}
            connection.execute(text(statement), {**numbers, **values})
        connection.commit()
        yield last - first + 1


def _count(connection: Connection, seed: Seed) -> int:
    made: int = connection.scalar(text(f"SELECT count(*) FROM {_quoted(seed.table)}")) or 0
    return made


def _quoted(table: str) -> str:
    return db.engine.dialect.identifier_preparer.quote(table)


def _refuse_foreign(connection: Connection) -> None:
    """Stop before a million made-up rows end up among somebody's real ones."""
    foreign = set(inspect(connection).get_table_names()) - set(db.metadata.tables)
    if foreign:
        raise click.ClickException(
            "DATABASE_URL names a database with other tables in it "
            f"({', '.join(sorted(foreign))}). The example needs an empty database."
        )


@contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    """Keep another process that seeds the same database waiting."""
    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _SEEDING_LOCK})
    try:
        yield
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _SEEDING_LOCK})
        connection.rollback()

"""missing-index for ORDER BY with LIMIT in a collation that is not the one of the database."""

from __future__ import annotations

import sqlalchemy as sa

from ..databases import Database
from .case import Rule, Tables, rows, silent, speaks, with_settings


def fill(database: Database) -> None:
    database.execute(
        "CREATE COLLATION \"Byte\" (provider = libc, locale = 'POSIX')",
        'CREATE TABLE word (id int PRIMARY KEY, c text COLLATE "C", d text COLLATE "Byte", e text, '
        "pad text)",
        "INSERT INTO word SELECT g, md5(g::text), md5(g::text), md5(g::text), repeat('x', 60) "
        "FROM generate_series(1, 40000) g",
        "VACUUM ANALYZE word",
    )
    database.install_hypopg()


RULE = Rule("missing-index", Tables("word", fill), settings={"PLANWATCH_VERIFY": "build"})


def first(order: str, where: str = "") -> sa.TextClause:
    return sa.text(f"SELECT * FROM word {where} ORDER BY {order} LIMIT 5")


SPEAKS = [
    speaks(
        "the column's own",
        first("c"),
        about="c on word",
        problem="no index ordered by c.",
        fix="CREATE INDEX CONCURRENTLY ix_word_c ON word (c)",
        saves=100,
    ),
    speaks(
        "one that the statement names",
        first('e COLLATE "C" DESC'),
        about='e COLLATE "C" on word',
        problem='no index ordered by e COLLATE "C".',
        fix='CREATE INDEX CONCURRENTLY ix_word_e_… ON word (e COLLATE "C")',
        code='text("e COLLATE \\"C\\"")',
        saves=100,
    ),
    speaks(
        "beside an index in the database's own",
        first('e COLLATE "Byte"'),
        setup="CREATE INDEX word_e ON word (e)",
        fix='CREATE INDEX CONCURRENTLY ix_word_e_… ON word (e COLLATE "Byte")',
        saves=100,
    ),
    speaks("a name that needs quotes", first("d"), fix="CREATE INDEX CONCURRENTLY ix_word_d ON …"),
    speaks(
        "the database's own, on a column with another",
        first('c COLLATE "default"'),
        fix='CREATE INDEX CONCURRENTLY ix_word_c_… ON word (c COLLATE "default")',
    ),
    speaks(
        "two directions",
        first('e COLLATE "C" DESC, id'),
        fix='CREATE INDEX CONCURRENTLY ix_word_e_… ON word (e COLLATE "C" DESC, id)'
        ' | CREATE INDEX CONCURRENTLY ix_word_e_… ON word (e COLLATE "C")',
    ),
]

SILENT = [
    silent("an index has it", first("c"), setup="CREATE INDEX ON word (c)"),
    silent(
        "an index has the one that is named",
        first('e COLLATE "C"'),
        setup='CREATE INDEX ON word (e COLLATE "C")',
    ),
]

#: Nothing can be tried where there is no HypoPG.
AUTO = {"PLANWATCH_VERIFY": "auto"}


@rows(SPEAKS)
def test_falls_silent_after_the_fix(rule, case):
    rule.check_fix(case)


@rows(with_settings(SPEAKS, **AUTO), quick=2)
def test_speaks_where_nothing_is_built(rule, case):
    rule.check(case)


@rows([*SILENT, *with_settings(SILENT, **AUTO)], quick=2)
def test_stays_silent(rule, case):
    rule.check(case)

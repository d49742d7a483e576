"""What HypoPG was reported to end the server's process with is not tried."""

from __future__ import annotations

import pytest

from flask_planwatch.server.hypopg import unsafe

from .indexes.data import candidate

#: Versions of PostgreSQL before the first and after the last report.
BEFORE, SINCE = 160_009, (170_000, 180_004)

TRIED = {
    "columns": candidate("town", "at"),
    "an expression": candidate("lower(town)"),
    "a condition": candidate("town", predicate="done"),
    "a NULL": candidate("town", predicate="at IS NOT NULL"),
    "another value": candidate("town", predicate="state <> 'a > b'"),
    "a list": candidate("town", predicate="state <> ALL ('{a,b}'::text[])"),
    "a key of JSON": candidate("town", predicate="(note ->> 'kind') = 'x'"),
    "a name": candidate("town", predicate='"a<b" IS NULL'),
}

NOT_TRIED = {
    "INCLUDE": candidate("town", include=("at",)),
    "a range": candidate("town", predicate="points > 0"),
    "a range of an expression": candidate("town", predicate="(points + 1) <= 7"),
    "a range beside another value": candidate("town", predicate="state <> 'a' AND points < 7"),
    "a pattern": candidate("town", predicate="note ~~ 'a%'"),
    "a beginning": candidate("town", predicate="note ^@ 'a'"),
    "a beginning by a function": candidate("town", predicate="starts_with(note, 'a')"),
}


@pytest.mark.parametrize("name", NOT_TRIED)
def test_not_tried_where_the_server_might_stop(name):
    for version in SINCE:
        assert unsafe(NOT_TRIED[name], version).startswith("HypoPG may end the server's process")
    assert unsafe(NOT_TRIED[name], BEFORE) == ""


@pytest.mark.parametrize("name", TRIED)
def test_all_else_is_tried(name):
    assert all(unsafe(TRIED[name], version) == "" for version in (BEFORE, *SINCE))

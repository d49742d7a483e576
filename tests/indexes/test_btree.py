"""The size of a b-tree, computed: the expected pages are those of indexes that PostgreSQL built."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flask_planwatch.indexes.btree import PAGE, Stored, btree_size

ROWS = 100_000

INTEGER = Stored({4: 1.0}, alignment=4, distinct=ROWS)
BIGINT = Stored({8: 1.0}, alignment=8, distinct=ROWS)
UUID = Stored({16: 1.0}, distinct=ROWS)
#: md5(), of 32 letters.
DIGEST = Stored({33: 1.0}, distinct=ROWS)

#: What an index on 100,000 rows holds, and the pages that it has on PostgreSQL 15 and 18, with the
#: levels of those above the entries.
PAGES = {
    "integer": ([INTEGER], [], 276, 1),
    "bigint": ([BIGINT], [], 276, 1),
    "uuid": ([UUID], [], 388, 2),
    "text": ([DIGEST], [], 724, 2),
    "1,000 values": ([replace(INTEGER, distinct=1000)], [], 86, 1),
    "10 values": ([replace(INTEGER, distinct=10)], [], 87, 1),
    "no values": ([replace(INTEGER, nulls=1.0)], [], 87, 1),
    "half without a value": ([replace(INTEGER, nulls=0.5, distinct=50_000)], [], 181, 1),
    "half with the same value": (
        [replace(INTEGER, frequent=0.5, frequent_values=1, distinct=50_001)],
        [],
        181,
        1,
    ),
    "10 values, then others": ([replace(INTEGER, distinct=10), INTEGER], [], 276, 1),
    "1,000 values, then others": ([replace(INTEGER, distinct=1000), UUID], [], 499, 2),
    "bigint and text": ([BIGINT, DIGEST], [], 825, 2),
    "four times the same": ([UUID] * 4, [], 1050, 2),
    "includes an integer": ([replace(INTEGER, distinct=1000)], [INTEGER], 278, 2),
    "includes a text": ([replace(INTEGER, distinct=1000)], [DIGEST], 721, 2),
}

#: How far the pages may be from those of PostgreSQL, as a share of them.
NEAR = 0.02


@pytest.mark.parametrize("name", PAGES)
def test_pages_of_100_000_rows(name):
    keys, included, pages, height = PAGES[name]
    size = btree_size(keys, included, ROWS)
    assert size.bytes / PAGE == pytest.approx(pages, rel=NEAR)
    assert size.height == height


@pytest.mark.parametrize(("rows", "pages"), [(0, 1), (1, 2), (1000, 5)])
def test_pages_of_few_rows(rows, pages):
    assert btree_size([INTEGER], [], rows).bytes == pages * PAGE


@pytest.mark.parametrize(
    ("rows", "height"), [(0, 0), (300, 0), (1000, 1), (100_000, 1), (1_000_000, 2), (1e8, 3)]
)
def test_levels_above_the_entries(rows, height):
    """A page has 366 integers, or refers to 285 pages."""
    assert btree_size([INTEGER], [], rows).height == height


def test_values_that_cannot_be_merged_take_an_entry_each():
    numeric = Stored({8: 1.0}, distinct=10, mergeable=False)
    assert btree_size([numeric], [], ROWS).bytes / PAGE == pytest.approx(276, rel=NEAR)


def test_each_value_takes_whole_words():
    """An entry is as long as a number of 8 bytes."""
    short, long = (btree_size([Stored({size: 1.0})], [], ROWS).bytes for size in (8, 9))
    mixed = btree_size([Stored({8: 0.5, 9: 0.5})], [], ROWS).bytes
    assert short < long
    assert mixed == pytest.approx((short + long) / 2, rel=NEAR)
    assert btree_size([Stored({16: 1.0})], [], ROWS).bytes == long


def test_a_short_text_needs_no_alignment_and_a_long_one_does():
    flag, short, long = Stored({1: 1.0}), Stored({7: 1.0}), Stored({204: 1.0})
    assert btree_size([flag, short], [], ROWS).bytes == btree_size([BIGINT], [], ROWS).bytes
    aligned = btree_size([replace(flag, sizes={4: 1.0}), long], [], ROWS)
    assert btree_size([flag, long], [], ROWS) == aligned

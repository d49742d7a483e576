"""The size of a b-tree that CREATE INDEX builds, from statistics of what its entries hold.

It follows src/backend/access/nbtree/nbtsort.c of PostgreSQL, for pages of 8 kB.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

PAGE = 8192

#: What a page has room for beside its header (24 bytes) and the links to its neighbours (16).
#: https://www.postgresql.org/docs/current/storage-page-layout.html
_ROOM = PAGE - 24 - 16

#: CREATE INDEX fills the pages of entries, and those above them, to these shares.
#: https://www.postgresql.org/docs/current/sql-createindex.html#INDEX-RELOPTION-FILLFACTOR
_LEAF_ROOM = _ROOM - PAGE * 0.1
_INNER_ROOM = _ROOM - PAGE * 0.3

#: The bytes of an entry beside its values: the line pointer, and the header, which is longer if a
#: value is NULL (src/include/access/itup.h).
_POINTER = 4
_HEADER, _HEADER_WITH_NULLS = 8, 16

#: Entries with equal keys are merged until they are as long as this: a tenth of a page, without
#: the line pointer. Each row of a merged entry takes the bytes of a row's address.
_MAX_MERGED = PAGE // 10 // 8 * 8 - 8
_ADDRESS, _ALIGNED_ADDRESS = 6, 8

#: Values of variable length up to this size have a header of one byte and are not aligned, longer
#: ones have one of four.
_MAX_SHORT = 127
_LONG_ALIGNMENT = 4

#: Columns of which NULLs are told apart; each doubles the number of kinds of entries.
_MAX_WITH_NULLS = 6


@dataclass(frozen=True)
class Stored:
    """What an index holds of one column or expression.

    `sizes` are the bytes of a value, with the shares of the rows that have them, as a value of
    variable length is stored in the index. `alignment` is that of the type in bytes, 1 if its
    length varies. `nulls` is the share of the rows that have no value, `frequent` that of the rows
    that have one of the `frequent_values` most frequent values, and `distinct` the number of
    different values. `mergeable` tells whether equal values can be merged into one entry.
    """

    sizes: Mapping[int, float]
    alignment: int = 1
    nulls: float = 0.0
    distinct: float = math.inf
    frequent: float = 0.0
    frequent_values: int = 0
    mergeable: bool = True


@dataclass(frozen=True)
class Size:
    """The size of an index in bytes, and the levels of pages above those with the entries."""

    bytes: int
    height: int


def btree_size(keys: Sequence[Stored], included: Sequence[Stored], rows: float) -> Size:
    """Return the size of a b-tree on `rows` rows with these keys and columns of INCLUDE."""
    if rows < 1:
        return Size(PAGE, 0)
    groups = list(_groups(keys, rows))
    # INCLUDE rules out merging: _bt_allequalimage() in nbtutils.c.
    if included or not all(key.mergeable for key in keys):
        used = rows * (_average_entry([*keys, *included]) + _POINTER)
    else:
        used = sum(_group_size(keys, *group) for group in groups)
    level = max(math.ceil(used / _LEAF_ROOM), 1)
    # Above the entries, an address tells alike keys apart.
    alike = sum(values for _, _, values in groups) < rows / 2
    pointer = _average_entry(keys) + _POINTER + (_ALIGNED_ADDRESS if alike else 0)
    fanout = max(_INNER_ROOM / pointer, 2.0)
    # The first page describes the index.
    pages, height = 1 + level, 0
    while level > 1:
        level = math.ceil(level / fanout)
        height += 1
        pages += level
    return Size(pages * PAGE, height)


def _average_entry(columns: Sequence[Stored]) -> float:
    """Return the average bytes of an entry."""
    return sum(share * _entry_size(columns, nulls) for nulls, share in _kinds(columns))


def _kinds(columns: Sequence[Stored]) -> Iterator[tuple[tuple[bool, ...], float]]:
    """Yield which columns are NULL in an entry, with the share of such entries."""
    choices = []
    for number, column in enumerate(columns):
        nulls = column.nulls if number < _MAX_WITH_NULLS else 0.0
        shares = [(False, 1 - nulls), (True, nulls)]
        choices.append([(null, share) for null, share in shares if share > 0])
    for kind in product(*choices):
        yield tuple(null for null, _ in kind), math.prod(share for _, share in kind)


def _entry_size(columns: Sequence[Stored], nulls: Sequence[bool]) -> float:
    """Return the average bytes of an entry in which these columns are NULL."""
    ends = {_HEADER_WITH_NULLS if any(nulls) else _HEADER: 1.0}
    for column, null in zip(columns, nulls, strict=True):
        if not null:
            ends = _appended(ends, column)
    return sum(share * _aligned(end, 8) for end, share in ends.items())


def _appended(ends: Mapping[int, float], column: Stored) -> dict[int, float]:
    """Return where entries end, with the shares of those, after another value."""
    longer: dict[int, float] = {}
    for end, share in ends.items():
        for size, of_rows in column.sizes.items():
            position = _aligned(end, column.alignment if size <= _MAX_SHORT else _LONG_ALIGNMENT)
            position += size
            longer[position] = longer.get(position, 0.0) + share * of_rows
    return longer


def _groups(keys: Sequence[Stored], rows: float) -> Iterator[tuple[tuple[bool, ...], float, float]]:
    """Yield groups of alike keys: which are NULL, the number of rows, and that of values.

    The columns are taken for independent, as the planner does.
    """
    for parts in product(*(_parts(key, rows) for key in keys)):
        found = rows * math.prod(share for _, share, _ in parts)
        if found <= 0:
            continue
        possible = math.prod(values for _, _, values in parts)
        values = possible
        if len(parts) > 1:
            # So many of the possible combinations occur among the rows.
            values = possible * -math.expm1(-found / possible)
            values = max(values, *(number for _, _, number in parts))
        yield tuple(null for null, _, _ in parts), found, max(min(values, found), 1.0)


def _parts(key: Stored, rows: float) -> Iterator[tuple[bool, float, float]]:
    """Yield the rows of a key without a value, with a frequent one, and with another.

    Each with whether it is NULL, the share of the rows, and the number of values.
    """
    rest = max(1 - key.nulls - key.frequent, 0.0)
    if key.nulls > 0:
        yield True, key.nulls, 1.0
    if key.frequent > 0:
        yield False, key.frequent, max(float(key.frequent_values), 1.0)
    others = max(min(key.distinct, rows) - key.frequent_values, 1.0)
    if rest > 0:
        yield False, rest, min(others, max(rest * rows, 1.0))


def _group_size(
    keys: Sequence[Stored], nulls: tuple[bool, ...], rows: float, values: float
) -> float:
    """Return the bytes of the entries of rows that have so many different values."""
    entry, each = _entry_size(keys, nulls), rows / values
    low = math.floor(each)
    between = each - low
    size = _merged_size(entry, low)
    if between:
        size += between * (_merged_size(entry, low + 1) - size)
    return values * size


def _merged_size(entry: float, rows: int) -> float:
    """Return the bytes that the entries of a single value take."""
    most = max(int((_MAX_MERGED - entry) // _ADDRESS), 1)
    full, rest = divmod(rows, most)
    size = full * (_merged(entry, most) + _POINTER)
    return size + (_merged(entry, rest) + _POINTER if rest else 0.0)


def _merged(entry: float, rows: int) -> float:
    return entry if rows == 1 else _aligned(math.ceil(entry) + rows * _ADDRESS, 8)


def _aligned(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment

"""Which indexes could serve what a statement asks of one relation. Pure.

Columns compared by equality come first, in any order the same; then one or two ranges, or the order
of the result: the rules of https://www.postgresql.org/docs/current/indexes-multicolumn.html and
https://www.postgresql.org/docs/current/indexes-ordering.html. The most promising come first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, combinations, permutations

from ..plan.access import EQUAL, RANGES, Access
from ..plan.comparison import Comparison, plain_column
from ..plan.figures import MAX_INDEX_COLUMNS
from ..plan.pattern import access_method
from ..plan.predicate import Operand
from ..plan.schema import Relation, Structural
from .candidate import Key, column_key, column_of, mentions

#: More keys make an index larger, and it rarely finds fewer rows.
MAX_KEYS = 4

#: How many candidates the planner is asked about at once for one relation. A build takes some
#: 30 ms for 100 000 rows.
MAX_CANDIDATES = 30

#: How many keys of one sort are combined with each other: that makes more than MAX_CANDIDATES.
MAX_COMBINED = 8

#: An index with included columns that are wider than this, in bytes, is a second copy of the table.
MAX_INCLUDED_WIDTH = 64

#: An index that finds about this many rows needs no further column.
FEW_ROWS = 10

#: Returns the expression of an operand as an index would have it, None if it cannot be indexed.
Spelling = Callable[[Relation, Operand], Structural | None]


@dataclass(frozen=True)
class Shape:
    """An index before it has a name; the order of its first `equal_keys` does not matter."""

    keys: tuple[Key, ...]
    method: str = "btree"
    include: tuple[str, ...] = ()
    predicate: str = ""
    extension: str = ""
    equal_keys: int = field(default=0, compare=False)


class Shapes:
    """The indexes that could serve one access. `spelling` says how to write an expression."""

    def __init__(self, access: Access, spelling: Spelling) -> None:
        self._access = access
        self._relation = access.relation
        self._spelling = spelling
        # One value leaves the rows in the order of the next key, a list only in newer versions.
        self._constants = [
            key
            for operands in (access.equal, access.listed)
            for key in sorted(self._keys(operands), key=self._distinct, reverse=True)
        ]
        self._joins = self._keys(access.joined)
        self._ranges = [
            keys for operand in access.ranged if (keys := self._range_keys(operand)) is not None
        ]
        self._order = self._order_keys()
        self._groups = tuple(self._keys(access.grouped_by))
        self._extremes = self._keys(access.extremes)

    def all(self) -> list[Shape]:
        """Return what is worth asking the planner about, the most promising first."""
        plain = _first(MAX_CANDIDATES, self._plain())
        found = chain(
            self._other_methods(),
            plain[:4],
            self._covering(plain[:4]),
            self._partial(plain[:3]),
            self._alternatives(),
            plain[4:],
        )
        return _first(MAX_CANDIDATES, (shape for shape in found if not self._is_second(shape)))

    def best_guess(self, *, wanted: Iterable[str]) -> Shape | None:
        """Return the index to propose where the planner cannot be asked.

        `wanted` are the keys that it must hold one of.
        """
        others = [shape for shape in self._other_methods() if _holds(shape, wanted)]
        if others:
            return others[0]
        unique = set(chain.from_iterable(self._access.unique))
        joins = (key for key in self._joins if key.column not in unique)
        head = tuple(self._few((*self._constants, *joins)))
        rows = self._relation.rows
        for key in head:
            rows /= max(self._distinct(key), 1)
        tail: tuple[Key, ...] = ()
        if rows > FEW_ROWS or not head:
            tail = self._order if self._access.limited and self._order else ()
            tail = tail or (self._ranges[0] if self._ranges else ()) or self._order
        keys = _unique((*head, *tail))
        shape = Shape(keys[:MAX_KEYS])
        if keys and _holds(shape, wanted):
            return shape
        if keys and all(column_of(self._relation, key) for key in wanted):
            # Statistics say that the other columns leave few rows.
            return None
        held = [shape for shape in self.all() if _holds(shape, wanted)]
        return min(held, key=lambda shape: len(shape.keys), default=None)

    def _is_second(self, shape: Shape) -> bool:
        """Whether a unique index finds the rows already: no further key leaves fewer than one.

        HypoPG charges nothing for the way down a hypothetical index, so that it would seem cheaper.
        """
        columns = [key.column for key in shape.keys]
        return any(
            {*columns[: max(shape.equal_keys, len(keys))]} >= {*keys}
            for keys in self._access.unique
        )

    def _plain(self) -> Iterator[Shape]:
        """Yield the btree indexes over whole rows."""
        ranges = self._ranges[:MAX_COMBINED]
        tails = [
            *([self._order] if self._order else []),
            *self._ranges,
            *((*first, *second) for first, second in permutations(ranges, 2)),
            *([(*self._order, *keys) for keys in ranges] if self._order else []),
            *([self._groups] if self._groups else []),
            *((key,) for key in self._extremes),
        ]
        equal = [*self._constants, *self._joins]
        heads = [tuple(equal[:size]) for size in range(min(len(equal), MAX_KEYS), 1, -1)]
        heads += [(key,) for key in equal]
        heads += [head for size in (2, 3) for head in combinations(equal[:MAX_COMBINED], size)]
        for tail in [*tails, ()]:
            yield from self._joined(heads[:1], tail)
        for tail in [(), *tails]:
            yield from self._joined([()], tail)
        yield from self._joined(heads, ())
        for tail in tails:
            yield from self._joined(heads, tail)

    def _joined(self, heads: Sequence[tuple[Key, ...]], tail: tuple[Key, ...]) -> Iterator[Shape]:
        for head in heads:
            keys = _unique((*head, *tail))
            if 0 < len(keys) <= MAX_KEYS:
                yield Shape(keys, equal_keys=max(len(keys) - len(tail), 0))

    def _covering(self, shapes: Iterable[Shape]) -> Iterator[Shape]:
        """Yield the indexes that hold all that the statement needs of the relation."""
        read = self._access.read
        if read is None:
            return
        for shape in shapes:
            missing = tuple(name for name in read if name not in {key.column for key in shape.keys})
            # To find many rows in order pays only if the table need not be read for each.
            one_more = len(missing) == 1 and bool(self._order) and {*self._order} <= {*shape.keys}
            most = MAX_INDEX_COLUMNS + one_more
            if missing and is_narrow(self._relation, missing, beside=len(shape.keys), most=most):
                yield replace(shape, include=missing)

    def _partial(self, shapes: Sequence[Shape]) -> Iterator[Shape]:
        """Yield partial indexes, of the rows that meet a condition."""
        for condition in self._access.conditions:
            for shape in shapes:
                keys = tuple(key for key in shape.keys if not mentions(condition, key.expression))
                if keys:
                    yield Shape(keys, predicate=condition)
            if shapes:
                continue
            columns = [
                column
                for column in self._relation.columns
                if mentions(condition, column.quoted_name)
            ]
            if len(columns) == 1:
                yield Shape((column_key(self._relation, columns[0].name),), predicate=condition)

    def _alternatives(self) -> Iterator[Shape]:
        """Yield an index for each branch of an OR."""
        for branch in self._access.alternatives:
            equal, ranges = (
                self._keys(test.operand for test in branch if test.operator in operators)
                for operators in (EQUAL, RANGES)
            )
            keys = _unique((*equal, *ranges[:1]))
            if keys:
                yield Shape(keys[:MAX_KEYS])

    def _other_methods(self) -> Iterator[Shape]:
        for comparison in self._access.matched:
            method = access_method(comparison)
            key = self._key(comparison.operand, method.operator_class if method else "")
            if method is not None and key is not None:
                yield Shape((key,), method.method, extension=method.extension)

    def _keys(self, operands: Iterable[Operand]) -> list[Key]:
        return [key for operand in operands if (key := self._key(operand)) is not None]

    def _key(self, operand: Operand, operator_class: str = "") -> Key | None:
        name = plain_column(operand, self._relation)
        column = self._relation.column(name) if name is not None else None
        text = column.quoted_name if column is not None else None
        if name is None:
            text = self._spelling(self._relation, operand)
        return Key(text, name, operator_class) if text is not None else None

    def _range_keys(self, comparison: Comparison) -> tuple[Key, ...] | None:
        """Return the keys for a range; those of a row of columns in their order."""
        operand = comparison.operand
        if operand.text.startswith("ROW("):
            return tuple(column_key(self._relation, name) for name in operand.column_names)
        method = access_method(comparison)
        key = self._key(operand, method.operator_class if method else "")
        return (key,) if key is not None else None

    def _order_keys(self) -> tuple[Key, ...]:
        """Return the keys that deliver the rows in the order of the result.

        An index can be read backward, so all that matters is which terms differ in direction.
        """
        terms = self._access.sorted_by or self._access.index_order
        plain = all(term.descending == terms[0].descending for term in terms)
        usual = all(term.nulls_first == term.descending for term in terms)
        keys = []
        for term in terms:
            key = self._key(term.operand)
            if key is None:
                return ()
            if collation := term.collation_on(self._relation):
                key = Key(Structural(term.key_on(self._relation)), key.column, collation=collation)
            if not (plain and usual):
                nulls = "" if term.nulls_first == term.descending else "LAST"
                nulls = "FIRST" if nulls and term.nulls_first else nulls
                key = replace(key, descending=term.descending, nulls=nulls)
            keys.append(key)
        return tuple(keys)

    def _distinct(self, key: Key) -> float:
        """Return the number of values of a key, as far as statistics tell."""
        column = self._relation.column(key.column) if key.column else None
        if column is None:
            # Most expressions that are compared have another value in nearly every row.
            return self._relation.rows
        return column.values_in(self._relation.rows)

    def _few(self, keys: Iterable[Key]) -> Iterator[Key]:
        """Yield keys until few rows are left."""
        rows = self._relation.rows
        for number, key in enumerate(keys):
            if number and rows <= FEW_ROWS:
                return
            rows /= max(self._distinct(key), 1)
            yield key


def is_narrow(
    relation: Relation, names: Collection[str], *, beside: int = 0, most: int = MAX_INDEX_COLUMNS
) -> bool:
    """Whether an index may hold these columns as well, `beside` so many: it is no second table.

    `most` are the columns that it may hold in all.
    """
    columns = [column for column in relation.columns if column.name in names]
    held = beside + len(names)
    return (
        # A longer value than a page has room for would make every later INSERT fail.
        all(column.bounded for column in columns)
        and sum(column.width for column in columns) <= MAX_INCLUDED_WIDTH
        and held <= most
        and held < len(relation.columns)
    )


def _first(count: int, shapes: Iterable[Shape]) -> list[Shape]:
    """Return the first different ones."""
    found: dict[Shape, None] = {}
    for shape in shapes:
        found[shape] = None
        if len(found) == count:
            break
    return list(found)


def _unique(keys: Iterable[Key]) -> tuple[Key, ...]:
    """Return the keys with each expression once."""
    return tuple({key.expression: key for key in reversed(list(keys))}.values())[::-1]


def _holds(shape: Shape, wanted: Iterable[str]) -> bool:
    return bool({key.expression for key in shape.keys} & set(wanted))

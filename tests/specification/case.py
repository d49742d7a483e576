"""What one line of the specification says."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import sqlalchemy as sa

#: What a case adds for some of the tables: the classes, and texts for each.
PerTable = Mapping[Any, Sequence[str]]

_ENDS = re.compile(r"\) (?=INCLUDE|WHERE)")


@dataclass(frozen=True)
class Case:
    """A statement, and the indexes that must be proposed for it; none if `expected` is empty.

    `expected` holds what follows the table's name in CREATE INDEX, led by the table where the
    statement has several; ` | ` separates indexes that are equally good. `reason` is part of what
    PlanWatch says when it dismisses an index or skips the statement; where it does not even suspect
    that an index could help, it says nothing.

    `keys` and `also` add to what the exhaustive search tries: keys, and whole definitions. `setup`
    is what the session runs before the statement. `rewrite` tells that another way to write the
    statement is advised instead of an index. `unseen` tells that an index would help, but that
    PlanWatch cannot know. `in_order` tells that the order of the columns that are compared with
    one value matters. `hypopg` tells whether HypoPG can prove the index, and 15 plans alike.
    """

    name: str
    statement: Any
    expected: tuple[str, ...] = ()
    reason: str = ""
    keys: PerTable = field(default_factory=dict)
    also: PerTable = field(default_factory=dict)
    setup: Sequence[str] = ()
    rewrite: bool = False
    unseen: bool = False
    in_order: bool = False
    hypopg: bool = True
    heading: str = ""

    @property
    def title(self) -> str:
        """The name among all cases."""
        return f"{self.heading}: {self.name}"


def index(name: str, statement: sa.Executable, *expected: str, **options: Any) -> Case:
    """Say which indexes must be proposed for a statement."""
    return Case(name, statement, expected, **options)


def no_index(name: str, statement: sa.Executable, *, reason: str, **options: Any) -> Case:
    """Say that no index may be proposed for a statement, and why."""
    return Case(name, statement, reason=reason, **options)


def spellings(expected: str, equal: set[str], *, in_order: bool = False) -> Iterator[str]:
    """Yield all indexes that are as good as an expected one, without the table's name.

    Columns that are compared with one value each, `equal`, lead in any order; an index can be read
    backwards; an included column may as well be the last key.
    """
    keys, tail = split_keys(expected)
    if not keys:
        yield expected
        return
    lead = 0
    while lead < len(keys) and keys[lead] in equal:
        lead += 1
    leading = [tuple(keys[:lead])] if in_order else permutations(keys[:lead])
    for first in leading:
        for rest in (keys[lead:], [_reversed(key) for key in keys[lead:]]):
            yield f"({', '.join([*first, *rest])}){tail}"
            included = re.fullmatch(r" INCLUDE \((.+)\)", tail)
            if included:
                yield f"({', '.join([*first, *rest, included[1]])})"


def split_keys(definition: str) -> tuple[list[str], str]:
    """Return the keys of a btree index, and what follows them: INCLUDE or WHERE."""
    if not definition.startswith("("):
        return [], definition
    inside = _ENDS.split(definition, maxsplit=1)[0].removeprefix("(")
    tail = definition[1 + len(inside) :]
    if not tail:
        inside = inside.removesuffix(")")
    keys, depth, quoted, start = [], 0, False, 0
    for position, letter in enumerate(inside):
        quoted ^= letter in "\"'"
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth and not quoted:
            keys.append(inside[start:position].strip())
            start = position + 1
    return [*keys, inside[start:].strip()], tail.removeprefix(")")


def _reversed(key: str) -> str:
    """Return a key as it reads from the other end of the index."""
    for ending, other in (
        (" DESC NULLS LAST", " NULLS FIRST"),
        (" NULLS FIRST", " DESC NULLS LAST"),
        (" DESC", ""),
    ):
        if key.endswith(ending):
            return key.removesuffix(ending) + other
    return f"{key} DESC"

"""The sub-queries that a step of a plan holds, and runs for its rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .tree import Node

#: The kind of a sub-query whose result is returned.
_OUTPUT = "Output"

_NAMED = re.compile(r"\b(hashed )?(SubPlan \d+)\b")


@dataclass(frozen=True, eq=False)
class SubPlan:
    """A sub-query that belongs to a step of a plan, its `holder`.

    `name` is PostgreSQL's, such as `SubPlan 1`. `kind` is the condition of the holder that it
    belongs to, `Output` if its result is returned, and `text` that condition or output. `hashed`
    tells that it runs once, for a hash table that is looked into.
    """

    node: Node
    holder: Node
    name: str
    kind: str
    text: str
    hashed: bool

    @property
    def is_output(self) -> bool:
        """Whether its result is returned, not tested."""
        return self.kind == _OUTPUT

    @property
    def keeps_values(self) -> bool:
        """Whether it depends on no row, so that each run reads the same values from memory."""
        return self.node.type == "Materialize" and not self.hashed


def sub_plans_of(holder: Node) -> Iterator[SubPlan]:
    """Yield the sub-queries of a step."""
    children = [step for step in holder.children if step.relationship == "SubPlan" and step.subplan]
    if not children:
        return
    texts = [*holder.conditions, *((_OUTPUT, text) for text in holder.output)]
    mentions = {
        found[2]: (kind, text, found[1] is not None)
        for kind, text in texts
        for found in _NAMED.finditer(text)
    }
    for child in children:
        # Up to 17 some are called `SubPlan 1 (returns $1)`.
        name = " ".join((child.subplan or "").split()[:2])
        yield SubPlan(child, holder, name, *mentions.get(name, (_OUTPUT, "", False)))


def names_in(text: str) -> set[str]:
    """Return the names of the sub-queries in a text."""
    return {found[2] for found in _NAMED.finditer(text)}

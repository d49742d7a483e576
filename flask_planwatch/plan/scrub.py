"""Takes values out of what may leave the process.

A constant inside an expression around a column (a JSON key, `date_trunc`'s field) is part of the
structure and stays, unless it is too long to be a name. Every other constant becomes `?`.
"""

from __future__ import annotations

from dataclasses import replace

from sqlglot.errors import SqlglotError
from sqlglot.tokens import TokenType

from .predicate import Operand, conjuncts, tokenize
from .tree import Node, Plan

#: A structural constant is a name of something; PostgreSQL's own names end at 63 bytes.
MAX_STRUCTURAL_LENGTH = 63

#: What stands for a value, and for a condition that could not be read.
MASK = "?"
UNREADABLE = "(not shown: it could not be read)"

LITERALS = frozenset(
    kind for kind in TokenType if kind.name.endswith("_STRING") or kind.name in {"STRING", "NUMBER"}
)


def scrub_plan(plan: Plan, varying: frozenset[str] = frozenset()) -> Plan:
    """Return the plan without compared values, built anew from the leaves up.

    `varying` are the masked expressions whose constants are known to be values, too.
    """
    scrubbed: dict[int, Node] = {}
    for node in reversed(plan.nodes):
        scrubbed[id(node)] = replace(
            node,
            conditions=tuple(
                (kind, scrub_condition(text, varying)) for kind, text in node.conditions
            ),
            children=tuple(scrubbed[id(child)] for child in node.children),
        )
    return Plan(scrubbed[id(plan.root)])


def scrub_condition(condition: str, varying: frozenset[str] = frozenset()) -> str:
    """Return a condition of a plan without compared values; for `varying` see scrub_plan."""
    parts = []
    for conjunct in conjuncts(condition):
        if conjunct.operator:
            left = scrub_operand(conjunct.left, varying)
            right = scrub_operand(conjunct.right, varying)
            if conjunct.operator == "= ANY":
                right = f"({right})"
            parts.append(f"{left} {conjunct.operator} {right}")
        else:
            parts.append(mask(conjunct.text))
    return " AND ".join(f"({part})" for part in parts) or UNREADABLE


def scrub_operand(operand: Operand, varying: frozenset[str]) -> str:
    """Return one side of a comparison; the constants around a column are structure."""
    masked = mask(operand.text)
    if not operand.columns or masked in varying:
        return masked
    return mask(operand.text, keep_names=True)


def mask(text: str, *, keep_names: bool = False) -> str:
    """Return `text` with each literal replaced; `keep_names` leaves the short ones."""
    try:
        tokens = tokenize(text).tokens
    except SqlglotError:
        return UNREADABLE
    pieces, position = [], 0
    for index, token in enumerate(tokens):
        if token.token_type not in LITERALS or _counts_something(index, text):
            continue
        if keep_names and len(token.text) <= MAX_STRUCTURAL_LENGTH:
            continue
        pieces += [text[position : token.start], MASK]
        position = token.end + 1
    return "".join([*pieces, text[position:]])


def _counts_something(index: int, text: str) -> bool:
    """Whether the number is a name of the plan's own, as in `SubPlan 2` or `$0`."""
    if index == 0:
        return False
    before = tokenize(text).tokens[index - 1]
    return before.token_type is TokenType.PARAMETER or before.text in {"SubPlan", "InitPlan", "CTE"}

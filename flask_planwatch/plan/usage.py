"""Questions that several parts ask of a plan."""

from __future__ import annotations

from collections.abc import Iterator

from sqlglot.errors import SqlglotError
from sqlglot.tokens import TokenType

from .evidence import Suspicion
from .predicate import Operand, conjuncts, tokenize
from .scrub import mask
from .tree import INDEX_CONDITIONS, Plan


def indexed_in(plan: Plan | None, suspicion: Suspicion) -> bool:
    """Whether an index answers the suspicious expression on its relation in this plan."""
    relations = set(suspicion.scanned)
    return plan is not None and any(
        kind in INDEX_CONDITIONS for kind in _tests(plan, relations, suspicion.subject)
    )


def is_gone(plan: Plan, relations: set[str], subject: str) -> bool:
    """Whether a plan shows that an index answers an expression wherever it is tested.

    A plan without the expression proves nothing: the values may have folded the predicate away.
    """
    kinds = set(_tests(plan, relations, subject))
    return bool(kinds) and kinds <= set(INDEX_CONDITIONS)


def _tests(plan: Plan, relations: set[str], subject: str) -> Iterator[str]:
    """Yield the kind of each condition that tests the expression on one of the relations."""
    aliases = {scan.alias for scan in plan.scans if scan.qualified_relation in relations}
    for node in plan.nodes:
        for kind, condition in node.conditions:
            for conjunct in conjuncts(condition):
                for operand in (conjunct.left, conjunct.right):
                    alias = next(iter(operand.aliases), None)
                    indexed = kind not in INDEX_CONDITIONS or node.alias == alias
                    if alias in aliases and indexed and _is(operand, subject):
                        yield kind


def _is(operand: Operand, subject: str) -> bool:
    """Whether an operand is the subject of a finding, in which values may be masked."""
    text = operand.without_alias()
    return subject in (text, mask(text))


def cast_in_statement(column: str, statement: str) -> bool:
    """Whether the statement's own text casts this column, by CAST or by `::`."""
    try:
        tokens = tokenize(statement).tokens
    except SqlglotError:
        return False
    kinds = [token.token_type for token in tokens]
    for index, token in enumerate(tokens):
        if token.text != column:
            continue
        after = index + 1
        while after < len(tokens) and kinds[after] is TokenType.R_PAREN:
            after += 1
        if after < len(tokens) and kinds[after] is TokenType.DCOLON:
            return True
        before = index - 1
        while before > 0 and kinds[before - 1] is not TokenType.L_PAREN:
            if kinds[before] is not TokenType.DOT:
                break
            before -= 2
        opened = before >= 1 and kinds[before] is TokenType.L_PAREN
        if opened and tokens[before - 1].text.upper() == "CAST":
            return True
    return False

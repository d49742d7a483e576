"""Questions that several rules ask of a plan."""

from __future__ import annotations

from sqlglot.errors import SqlglotError
from sqlglot.tokens import TokenType

from .evidence import Suspicion
from .predicate import conjuncts, tokenize
from .tree import INDEX_CONDITIONS, Node, Plan


def reads_whole_relation(scan: Node) -> bool:
    """Whether a scan reads each row of its relation: no condition tells it where to look."""
    if scan.type == "Seq Scan":
        return True
    if scan.type in {"Index Scan", "Index Only Scan"}:
        return scan.condition("Index Cond") is None
    return False


def indexed_in(plan: Plan | None, suspicion: Suspicion) -> bool:
    """Whether an index answers the suspicious expression on its relation in this plan."""
    if plan is None:
        return False
    relations = {scan.qualified_relation for scan in suspicion.scans}
    return any(
        operand.without_alias() == suspicion.subject and operand.aliases == {scan.alias}
        for scan in plan.scans
        if scan.qualified_relation in relations
        for kind, condition in scan.conditions
        if kind in INDEX_CONDITIONS
        for conjunct in conjuncts(condition)
        for operand in (conjunct.left, conjunct.right)
    )


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

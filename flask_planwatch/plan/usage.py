"""Questions that several parts ask of a plan."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sqlglot.errors import SqlglotError
from sqlglot.tokens import Token, TokenType

from . import pattern
from .comparison import key_of
from .evidence import Suspicion
from .predicate import Operand, bare, conjuncts, tokenize
from .schema import Relation, Schema
from .scrub import mask
from .tree import INDEX_CONDITIONS, Node, Plan

#: Above this share of the rows PostgreSQL prefers a Seq Scan to an index, whatever the index:
#: with the default costs a Bitmap Heap Scan breaks even between a fifth and a half.
MAX_USEFUL_SHARE = 0.3


def indexed_in(plan: Plan | None, suspicion: Suspicion) -> bool:
    """Whether an index answers one of the suspicious keys on its relation in this plan."""
    if plan is None:
        return False
    relations = set(suspicion.scanned)
    found = pattern.read(suspicion.comparison) if suspicion.comparisons else None
    if found is not None and found.subject == suspicion.subject:
        kinds = _pattern_tests(plan, relations, found.subject)
        return any(kind in INDEX_CONDITIONS for kind in kinds)
    return any(
        kind in INDEX_CONDITIONS
        for key in suspicion.keys
        for kind in _tests(plan, relations, key, suspicion.relation)
    )


def is_gone(plan: Plan, relations: set[str], key: str) -> bool:
    """Whether a plan shows that an index answers a key wherever it is tested.

    A plan without the key proves nothing: the values may have folded the predicate away.
    """
    if pattern.is_subject(key):
        kinds = set(_pattern_tests(plan, relations, key))
    else:
        kinds = set(_tests(plan, relations, key, None))
    return bool(kinds) and kinds <= set(INDEX_CONDITIONS)


def _pattern_tests(plan: Plan, relations: set[str], subject: str) -> Iterator[str]:
    """Yield the kind of each condition that tests a pattern on one of the relations.

    Another comparison of the same key does not count. The Filter that stays beside the range of
    texts that begin alike does not count either.
    """
    aliases = {scan.alias for scan in plan.scans if scan.qualified_relation in relations}
    narrowed = {
        alias
        for node in plan.nodes
        if (alias := _alias(plan, node)) in aliases
        and pattern.is_prefix_range(subject, conjuncts(node.condition("Index Cond") or ""))
    }
    yield from ("Index Cond" for _ in narrowed)
    for node in plan.nodes:
        for kind, condition in node.conditions:
            for conjunct in conjuncts(condition):
                for operand in (conjunct.left, conjunct.right):
                    alias = next(iter(operand.aliases), None)
                    if alias in aliases and pattern.is_tested(subject, conjunct, operand):
                        answered = kind in INDEX_CONDITIONS and _alias(plan, node) == alias
                        if answered or (kind not in INDEX_CONDITIONS and alias not in narrowed):
                            yield kind


def _alias(plan: Plan, node: Node) -> str | None:
    """Return the alias of the relation whose rows a node finds, all of them by its condition."""
    while node.type in {"Bitmap Index Scan", "BitmapAnd"}:
        node = plan.parents[id(node)]
    return node.alias


def served(plan: Plan, schema: Schema) -> frozenset[tuple[str, str]]:
    """Return the table and the key of all that the indexes in a plan serve.

    Keys that an index answers, those of an index that is only walked in its order, and the columns
    in the condition of a partial index, which the plan no longer shows.
    """
    used = {node.index for node in plan.nodes if node.index}
    found = set()
    for relation in schema.relations.values():
        table = schema.root(relation).display
        for index in relation.indexes:
            if index.name in used:
                words = {token.text for token in _tokens(index.predicate or "")}
                names = {*index.keys, *words}
                found |= {(table, bare(key)) for key in index.keys}
                found |= {(table, c.quoted_name) for c in relation.columns if c.name in names}
    for reference in schema.references:
        child = schema.get(reference.child)
        if child is not None and child.has_index_for(reference.columns):
            table = schema.root(child).display
            found |= {(table, child.quoted_column(name)) for name in reference.columns}
    return frozenset(found)


def _tokens(text: str) -> tuple[Token, ...]:
    try:
        return tokenize(text).tokens
    except SqlglotError:
        return ()


def _tests(plan: Plan, relations: set[str], key: str, relation: Relation | None) -> Iterator[str]:
    """Yield the kind of each condition that tests the key on one of the relations."""
    aliases = {scan.alias for scan in plan.scans if scan.qualified_relation in relations}
    for node in plan.nodes:
        for kind, condition in node.conditions:
            for conjunct in conjuncts(condition):
                for operand in (conjunct.left, conjunct.right):
                    alias = next(iter(operand.aliases), None)
                    indexed = kind not in INDEX_CONDITIONS or node.alias == alias
                    if alias in aliases and indexed and _is(operand, key, relation):
                        yield kind


def _is(operand: Operand, key: str, relation: Relation | None) -> bool:
    """Whether an operand is the key of a finding, in which values may be masked."""
    text = operand.without_alias()
    return key in (text, mask(text)) or (relation is not None and key == key_of(operand, relation))


def names_in(statement: str, names: Iterable[str]) -> bool:
    """Whether the statement's own text has all of these names in it."""
    return {_name(token) for token in _tokens(statement)} >= set(names)


def cast_in_statement(column: str, types: Iterable[str], statement: str) -> bool:
    """Whether the statement's own text casts this column to one of the types."""
    # The name of any other type is a word to the tokenizer, and may mean the same.
    kinds = {TokenType.VAR, TokenType.IDENTIFIER}
    kinds |= {token.token_type for name in types for token in _tokens(name)[:1]}
    tokens = _tokens(statement)
    for index, token in enumerate(tokens):
        written = _cast_type(tokens, index) if _name(token) == column else None
        if written is not None and written.token_type in kinds:
            return True
    return False


def _cast_type(tokens: tuple[Token, ...], index: int) -> Token | None:
    """Return the first word of the type that the name at this place is cast to, or None."""
    kinds = [token.token_type for token in tokens]
    before, after = index - 1, index + 1
    while before > 0 and kinds[before] is TokenType.DOT:
        before -= 2
    called = before > 0 and kinds[before] is TokenType.L_PAREN
    if called and tokens[before - 1].text.upper() == "CAST":
        follows = TokenType.ALIAS
    else:
        follows = TokenType.DCOLON
        while kinds[after : after + 1] == [TokenType.R_PAREN]:
            after += 1
    return tokens[after + 1] if kinds[after:-1][:1] == [follows] else None


def _name(token: Token) -> str:
    """Return what a word names: PostgreSQL reads it in lower case unless it is in quotes."""
    quoted = token.token_type is TokenType.IDENTIFIER
    return str(token.text if quoted else token.text.lower())

"""Which keys the indexes in a plan answer."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product

from sqlglot.tokens import Token, TokenType

from . import pattern
from .comparison import key_of
from .evidence import Suspicion
from .memory import kept_for_plans
from .predicate import Operand, bare, predicates, tokens_in
from .schema import Relation, Schema
from .scrub import mask
from .tree import INDEX_CONDITIONS, Node, Plan

#: A column in the definition of an index with a collation that is not its own.
_NAME = r'(?:(?<![\w"])\w++|(?<!")"(?:[^"]++|"")++")'
_COLLATED = re.compile(f"{_NAME} COLLATE {_NAME}")


def indexed_in(plan: Plan | None, suspicion: Suspicion) -> bool:
    """Whether an index answers one of the suspicious keys on its relation in this plan."""
    is_pattern = pattern.is_subject(suspicion.subject)
    return plan is not None and any(
        kind in INDEX_CONDITIONS
        for key in ([suspicion.subject] if is_pattern else suspicion.keys)
        for kind in _kinds(plan, suspicion.scanned, key, suspicion.relation)
    )


def searched_index(plan: Plan) -> str:
    """Return the first index in which a plan looks for rows by a condition, "" if there is none."""
    for node in plan.nodes:
        if node.index and any(kind in INDEX_CONDITIONS for kind, _ in node.conditions):
            return node.index
    return ""


def entered_index(plan: Plan, schema: Schema) -> str:
    """Return the first index that a plan enters at a condition, "" if there is none.

    A btree is entered at a condition on its first key. With one on a later key alone, it is read
    from end to end, or skipped through.
    """
    for node in plan.nodes:
        if node.index and _is_entered(plan, schema, node):
            return node.index
    return ""


def _is_entered(plan: Plan, schema: Schema, node: Node) -> bool:
    """Whether the conditions of a node that reads an index test the first key of that."""
    scan = node
    # A step that reads the index for a bitmap does not name the table.
    while scan.relation is None and (above := plan.parents.get(id(scan))) is not None:
        scan = above
    relation = schema.get(scan.qualified_relation)
    index = relation.index(node.index) if relation is not None else None
    tests = [
        operand
        for kind, joined in predicates(plan)[id(node)]
        for conjunct in joined
        if kind in INDEX_CONDITIONS
        for operand in (conjunct.left, conjunct.right)
    ]
    if index is None or index.method != "btree" or not index.keys:
        return bool(tests)
    first = bare(index.keys[0])
    return any(
        first in {operand.column, (operand.casts or ("",))[0], bare(operand.without_alias())}
        for operand in tests
    )


def is_gone(plan: Plan, relations: Iterable[str], key: str) -> bool:
    """Whether a plan shows that an index answers a key wherever it is tested.

    A plan without the key proves nothing: the values may have folded the predicate away.
    """
    kinds = set(_kinds(plan, relations, key))
    return bool(kinds) and kinds <= set(INDEX_CONDITIONS)


def _kinds(
    plan: Plan, relations: Iterable[str], key: str, relation: Relation | None = None
) -> Iterator[str]:
    """Yield the kind of each condition that tests a key, or a Pattern's subject, on the relations.

    The Filter that stays beside the range of texts that begin alike does not count.
    """
    tested = _tested(plan)
    for table in relations:
        narrowed = tested.narrowed.get((table, key), set())
        yield from ("Index Cond" for _ in narrowed)
        # A column may be tested in a cast that its key does not have.
        for name in {key, key.strip('"').replace('""', '"')}:
            for test in tested.tests.get((table, name), ()):
                stays = test.kind not in INDEX_CONDITIONS and test.alias in narrowed
                if not stays and test.reads(key, relation):
                    yield test.kind


@dataclass(frozen=True)
class _Test:
    """One side of a predicate that reads the relation of an alias, and where it is tested.

    `names` are its text and the subjects of Patterns, in which values may be masked.
    """

    kind: str
    alias: str
    operand: Operand
    names: frozenset[str]

    def reads(self, key: str, relation: Relation | None) -> bool:
        """Whether it is the key of a finding on this relation."""
        return key in self.names or (relation is not None and key == key_of(self.operand, relation))


@dataclass(frozen=True)
class _Tested:
    """What a plan tests, by the relation and by a name that the test may be looked for by.

    `narrowed` are the aliases of which an index finds a range of texts that begin alike, by the
    relation and the subject of such a Pattern.
    """

    tests: Mapping[tuple[str, str], list[_Test]]
    narrowed: Mapping[tuple[str, str], set[str]]


# Each suspicion of a plan asks for it, and asks the same few plans: 0.4 ms.
@kept_for_plans(4)
def _tested(plan: Plan) -> _Tested:
    """Return what a plan tests of its relations; an index condition counts for its own one only."""
    relations: defaultdict[str | None, set[str]] = defaultdict(set)
    for scan in plan.scans:
        relations[scan.alias].add(scan.qualified_relation or "")
    tests: defaultdict[tuple[str, str], list[_Test]] = defaultdict(list)
    narrowed: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    # The alias of the relation whose rows each node finds, all of them by its condition.
    finds: dict[int, str | None] = {}
    for node in plan.nodes:
        bitmap = node.type in {"Bitmap Index Scan", "BitmapAnd"}
        above = plan.parents.get(id(node)) if bitmap else None
        found = finds[id(node)] = finds[id(above)] if above is not None else node.alias
        conditions = predicates(plan)[id(node)]
        prefixes = pattern.prefix_subjects(dict(conditions).get("Index Cond", ()))
        for position in product(relations[found], prefixes):
            narrowed[position].add(found or "")
        for kind, conjunct in ((kind, test) for kind, joined in conditions for test in joined):
            for operand in (conjunct.left, conjunct.right):
                alias = next(iter(operand.aliases), None)
                elsewhere = kind in INDEX_CONDITIONS and alias != found
                if alias is None or elsewhere or len(operand.aliases) > 1:
                    continue
                text = operand.without_alias()
                names = frozenset({text, mask(text), *pattern.subjects(conjunct, operand)})
                column = {operand.cast_column[0]} if operand.cast_column else set()
                for position in product(relations[alias], names | column):
                    tests[position].append(_Test(kind, alias, operand, names))
    return _Tested(tests, narrowed)


def bitmap_scans(heap: Node) -> Iterator[Node]:
    """Yield the Bitmap Index Scans that find the rows of a heap scan, not those of sub-queries."""
    waiting = list(reversed(heap.children))
    while waiting:
        node = waiting.pop()
        if node.type == "Bitmap Index Scan":
            yield node
        elif node.type in {"BitmapAnd", "BitmapOr"}:
            waiting.extend(reversed(node.children))


def served(plan: Plan, schema: Schema) -> frozenset[tuple[str, str]]:
    """Return the table and the key of all that the indexes in a plan serve.

    Those are the keys of each index that the plan uses, also if it only reads it in its order, and
    the columns in the condition of a partial index, which the plan no longer shows. The check of a
    foreign key needs an index, too.
    """
    used = {node.index for node in plan.nodes if node.index}
    found = set()
    for relation in schema.relations.values():
        table = schema.root(relation).display
        for index in relation.indexes:
            if index.name in used:
                words = {token.text for token in tokens_in(index.predicate or "")}
                names = {*index.keys, *words}
                found |= {(table, bare(key)) for key in index.keys}
                found |= {(table, key) for key in _COLLATED.findall(index.definition)}
                found |= {(table, c.quoted_name) for c in relation.columns if c.name in names}
    for reference in schema.references:
        child = schema.get(reference.child)
        if child is not None and child.has_index_for(reference.columns):
            table = schema.root(child).display
            found |= {(table, child.quoted_column(name)) for name in reference.columns}
    return frozenset(found)


def names_in(statement: str, names: Iterable[str]) -> bool:
    """Whether the statement's own text has all of these names in it."""
    return {_name(token) for token in tokens_in(statement)} >= set(names)


def cast_in_statement(column: str, types: Iterable[str], statement: str) -> bool:
    """Whether the statement's own text casts this column to one of the types."""
    # The name of any other type is a word to the tokenizer, and may mean the same.
    kinds = {TokenType.VAR, TokenType.IDENTIFIER}
    kinds |= {token.token_type for name in types for token in tokens_in(name)[:1]}
    tokens = tokens_in(statement)
    for index, token in enumerate(tokens):
        written = _cast_type(tokens, index) if _name(token) == column else None
        if written is not None and written.token_type in kinds:
            return True
    return False


def _cast_type(tokens: tuple[Token, ...], index: int) -> Token | None:
    """Return the first word of the type that the name at this position is cast to, or None."""
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

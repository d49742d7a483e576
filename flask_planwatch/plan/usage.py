"""Questions that several parts ask of a plan."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product

from sqlglot.errors import SqlglotError
from sqlglot.tokens import Token, TokenType

from . import pattern
from .comparison import key_of
from .evidence import Suspicion
from .memory import kept_for_plans
from .predicate import Conjunct, Operand, bare, predicates, tokenize
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


@dataclass(frozen=True)
class _Test:
    """One side of a predicate that reads the relation of an alias, and where it is tested."""

    kind: str
    alias: str
    conjunct: Conjunct
    operand: Operand

    @property
    def names(self) -> set[str]:
        """What it may be looked for by: its text, its column, or a Pattern's subject."""
        text = self.operand.without_alias()
        names = {text, mask(text), *pattern.subjects(self.conjunct, self.operand)}
        return names | {self.operand.cast_column[0]} if self.operand.cast_column else names


@dataclass(frozen=True)
class _Tested:
    """What a plan tests, by the relation and a name of the test.

    `narrowed` are the aliases of which an index finds a range of texts that begin alike, by the
    relation and the subject of such a Pattern.
    """

    tests: Mapping[tuple[str, str], list[_Test]]
    narrowed: Mapping[tuple[str, str], set[str]]


# Each suspicion of a plan asks for it, and asks the same few plans.
@kept_for_plans(4)
def _tested(plan: Plan) -> _Tested:
    """Return what a plan tests of its relations; an index condition counts for its own one only."""
    relations: defaultdict[str | None, set[str]] = defaultdict(set)
    for scan in plan.scans:
        relations[scan.alias].add(scan.qualified_relation or "")
    tests: defaultdict[tuple[str, str], list[_Test]] = defaultdict(list)
    narrowed: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    finds = _finds(plan)
    for node in plan.nodes:
        found, conditions = finds[id(node)], predicates(plan)[id(node)]
        for subject in pattern.prefix_subjects(dict(conditions).get("Index Cond", ())):
            for relation in relations[found]:
                narrowed[relation, subject].add(found or "")
        for kind, conjuncts in conditions:
            for conjunct in conjuncts:
                for operand in (conjunct.left, conjunct.right):
                    alias = next(iter(operand.aliases), None)
                    elsewhere = kind in INDEX_CONDITIONS and alias != found
                    if alias is None or elsewhere or len(operand.aliases) > 1:
                        continue
                    test = _Test(kind, alias, conjunct, operand)
                    for place in product(relations[alias], test.names):
                        tests[place].append(test)
    return _Tested(tests, narrowed)


def _finds(plan: Plan) -> Mapping[int, str | None]:
    """Return the alias of the relation whose rows each node finds, all of them by its condition."""
    aliases: dict[int, str | None] = {}
    for node in plan.nodes:
        bitmap = node.type in {"Bitmap Index Scan", "BitmapAnd"}
        above = plan.parents.get(id(node)) if bitmap else None
        aliases[id(node)] = aliases[id(above)] if above is not None else node.alias
    return aliases


def _pattern_tests(plan: Plan, relations: set[str], subject: str) -> Iterator[str]:
    """Yield the kind of each condition that tests a pattern on one of the relations.

    Another comparison of the same key does not count. The Filter that stays beside the range of
    texts that begin alike does not count either.
    """
    tested = _tested(plan)
    for relation in relations:
        narrowed = tested.narrowed.get((relation, subject), set())
        yield from ("Index Cond" for _ in narrowed)
        for test in tested.tests.get((relation, subject), ()):
            stays = test.kind not in INDEX_CONDITIONS and test.alias in narrowed
            if not stays and pattern.is_tested(subject, test.conjunct, test.operand):
                yield test.kind


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
    tests = _tested(plan).tests
    # A column may be tested in a cast that its key does not have.
    names = {key, key.strip('"').replace('""', '"')}
    for place in product(relations, names):
        for test in tests.get(place, ()):
            if _is(test.operand, key, relation):
                yield test.kind


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

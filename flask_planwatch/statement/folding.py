"""Folds what a statement repeats, so that its identity does not depend on how often.

A list of values, an OR of the same test, the rows of VALUES, the equal branches of a UNION: an
application writes as many of them as it has values. Of those that are equal but for values, one is
kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import compress, pairwise

from sqlglot.tokens import TokenType

from ..runtime.pause import give_way
from .aliases import Aliases
from .pieces import CLAUSES, POSITIONS, STEP, Piece, item_at, unmark_expressions
from .terms import LITERAL, PARAMETER, Term, Terms, Words

#: Values side by side that are kept where their number may matter, as in `substr(a, 1, 2)` or in a
#: row to insert, which seldom has more columns.
MAX_SIDE_BY_SIDE = 100

#: What is shown instead of what was folded.
MORE = "..."

#: The most terms of a condition that are taken out of parentheses that change nothing. Without a
#: limit, a condition in many parentheses would be copied once for each pair.
MAX_TAKEN_OUT = 8

#: What belongs to a whole UNION, not to its last branch.
_AFTER_UNION = frozenset(
    {TokenType.ORDER_BY, TokenType.LIMIT, TokenType.OFFSET, TokenType.FETCH, TokenType.FOR}
)

#: Where the members of a list are tables: two of one table are a join.
_TABLES = frozenset(
    {TokenType.FROM, TokenType.JOIN, TokenType.USING, TokenType.INTO, TokenType.UPDATE}
    | {TokenType.LATERAL, TokenType.CROSS, TokenType.WITH}
)

#: Functions, and IN, that take any number of values. The number of another function's arguments may
#: tell it from another one of the same name.
_LISTED = frozenset(
    {"in", "greatest", "least", "coalesce", "concat", "concat_ws", "format", "num_nulls"}
    | {"num_nonnulls", "json_array", "json_build_array", "jsonb_build_array", "json_build_object"}
    | {"jsonb_build_object", "json_extract_path", "json_extract_path_text", "jsonb_extract_path"}
    | {"jsonb_extract_path_text"}
)

#: What else the name of a type may consist of, as in `timestamp(3) with time zone`.
_IN_TYPES = frozenset({"::", ".", "(", "varying", "precision", "with", "without", "time", "zone"})

_SET_OPERATORS = frozenset({TokenType.UNION, TokenType.EXCEPT, TokenType.INTERSECT})
_VALUES = frozenset({TokenType.STRING, TokenType.PLACEHOLDER})
_CONSTANTS = _VALUES | {TokenType.NULL, TokenType.TRUE, TokenType.FALSE, TokenType.DEFAULT}
_NO_NAMES = CLAUSES | _VALUES | {TokenType.AND, TokenType.OR, TokenType.NOT}
_OPENING = {TokenType.L_PAREN: ")", TokenType.L_BRACKET: "]", TokenType.CASE: "END"}
_CLOSING = {TokenType.R_PAREN: ")", TokenType.R_BRACKET: "]", TokenType.END: "END"}


@dataclass(frozen=True)
class Folded:
    """A statement as it is shown, and what identifies it, both without what it repeats."""

    text: str
    identity: str


def fold(pieces: Sequence[Piece]) -> Folded:
    """Return a statement, given by its pieces, without what it repeats."""
    return _Folder(pieces).folded()


@dataclass(slots=True)
class _Group:
    """What is in brackets: its first and last piece, and its term."""

    start: int
    end: int
    term: Term


@dataclass(slots=True)
class _Frame:
    """Brackets that are open: what was read in them so far.

    `called`: a name, IN or ARRAY is before them. `listed`: that takes any number of values.
    """

    start: int
    closing: str
    called: bool = False
    listed: bool = False
    items: list[int | _Group] = field(default_factory=list)


class _Folder:
    """Reads the pieces of one statement once, from the innermost brackets outwards."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        unmark_expressions(pieces)
        self._pieces = pieces
        self._terms = Terms(Aliases(pieces).names())
        self._read = 0
        #: What is not shown: the first piece, and the piece that is shown after it.
        self._left_out: dict[int, int] = {}

    def folded(self) -> Folded:
        """Return the statement."""
        stack = [_Frame(-1, "")]
        opened: Counter[str] = Counter()
        for position, piece in enumerate(self._pieces):
            if position % STEP == 0:
                give_way()
            if piece.type in _OPENING:
                stack.append(self._opened(stack[-1].items, position))
                opened[stack[-1].closing] += 1
            elif opened[closing := _CLOSING.get(piece.type, "")] > 0:
                # What was opened in between has no end.
                while stack[-1].closing != closing:
                    opened[stack[-1].closing] -= 1
                    self._close(stack, position - 1, "")
                opened[closing] -= 1
                self._close(stack, position, closing)
            else:
                stack[-1].items.append(position)
        while len(stack) > 1:
            self._close(stack, len(self._pieces) - 1, "")
        whole = self._content(stack[0])
        return Folded(self._shown(), self._terms.identity(whole))

    def _opened(self, items: list[int | _Group], position: int) -> _Frame:
        """Return the brackets that open at a position, after these items."""
        opening = self._pieces[position]
        closing = _OPENING[opening.type]
        if opening.type is TokenType.L_BRACKET:
            return _Frame(position, closing, called=True, listed=True)
        before, earlier = item_at(items, -1), self._type(item_at(items, -2))
        # That of a type does not count.
        if not isinstance(before, int) or earlier in (TokenType.DCOLON, TokenType.ALIAS):
            return _Frame(position, closing)
        name = self._pieces[before]
        is_name = name.text[-1].isalnum() or name.text[-1] in '_"'
        called = is_name and name.type not in _NO_NAMES
        listed = called and earlier is not TokenType.DOT and name.text.lower() in _LISTED
        return _Frame(position, closing, called, listed)

    def _close(self, stack: list[_Frame], end: int, closing: str) -> None:
        """Make a group of the brackets opened last; `closing` is empty if they have no end."""
        frame = stack.pop()
        if len(stack) % STEP == 0:
            give_way()
        inside = self._content(frame)
        bare = frame.closing == ")" and not frame.called
        stack[-1].items.append(
            _Group(
                frame.start,
                end,
                Term(
                    [self._pieces[frame.start].text.upper(), inside.words, closing],
                    self._terms.key((frame.closing, inside.key)),
                    has_value=inside.has_value,
                    aliased=inside.aliased,
                    is_row=bare and (inside.is_row or inside.is_value),
                    alternatives=inside.alternatives if bare else (),
                ),
            )
        )

    def _content(self, frame: _Frame) -> Term:
        """Return what is in brackets, or in none, as one term."""
        types = {self._type(item) for item in frame.items}
        if types.isdisjoint(_SET_OPERATORS):
            if frame.closing == "END":
                return self._case(frame)
            return self._clauses(frame.items, frame)
        return self._union(frame)

    def _union(self, frame: _Frame) -> Term:
        """Return SELECTs with set operators between them, without equal ones."""
        items = frame.items
        cuts = self._places(items, _SET_OPERATORS)
        first = min(min(self._places(items, {TokenType.SELECT}), default=0), cuts[0])
        last = min(self._places(items, _AFTER_UNION, cuts[-1]), default=len(items))
        head = self._clauses(items[:first], frame)
        tail = self._clauses(items[last:], frame)
        branches: list[tuple[list[Words], list[int | _Group], Term]] = []
        for at, end in zip([None, *cuts], [*cuts, last], strict=True):
            start, joins = (first, []) if at is None else (at + 1, [items[at]])
            while at is not None and self._type(item_at(items, start)) in (
                TokenType.ALL,
                TokenType.DISTINCT,
            ):
                joins.append(items[start])
                start += 1
            part = items[start:end]
            branches.append((self._words(joins), part, self._clauses(part, frame)))
        kept = self._kept_branches(
            [" ".join(self._terms.flat(operator)).upper() for operator, _, _ in branches[1:]],
            [branch for _, _, branch in branches],
        )
        self._leave_out([part for _, part, _ in branches], kept)
        words: list[Words] = [head.words]
        keys = [head.key]
        remaining = list(compress(branches, kept))
        for number, (operator, _, branch) in enumerate(remaining):
            if number:
                words += operator
                keys.append(self._terms.key(str(operator)))
            words.append(branch.words)
            keys.append(branch.key)
        terms = [head, tail, *(branch for _, _, branch in remaining)]
        return self._terms.joined([*words, tail.words], [*keys, tail.key], terms)

    def _kept_branches(self, operators: Sequence[str], branches: Sequence[Term]) -> list[bool]:
        """Return which branches stay: one of equal ones that the same operator joins.

        SELECTs that UNION ALL joins become one. With another operator two stay at least: without
        the operator, it would be another statement.
        """
        kinds = set(operators)
        if kinds == {"UNION ALL"}:
            return self._terms.firsts(branches)
        if kinds in ({"UNION"}, {"INTERSECT"}):
            kept = self._terms.firsts(branches)
            return kept if sum(kept) > 1 else [True, True, *kept[2:]]
        if len(kinds) > 1 and not all(kind.startswith("UNION") for kind in kinds):
            # Which branches belong together depends on the precedence of the operators.
            return [True] * len(branches)
        joined = [
            self._terms.sequence([self._terms.word(operator), branch])
            for operator, branch in zip(operators, branches[1:], strict=True)
        ]
        return [True, *self._terms.firsts(joined)]

    def _case(self, frame: _Frame) -> Term:
        """Return what is between CASE and END, equal branches once."""
        items = frame.items
        starts = self._places(items, {TokenType.WHEN})
        if not starts:
            return self._clauses(items, frame)
        otherwise = min(self._places(items, {TokenType.ELSE}, starts[-1]), default=len(items))
        parts = [items[start:end] for start, end in pairwise([*starts, otherwise])]
        branches = [self._clauses(part, frame) for part in parts]
        kept = self._terms.firsts(branches)
        self._leave_out(parts, kept)
        terms = [
            self._clauses(items[: starts[0]], frame),
            *compress(branches, kept),
            self._clauses(items[otherwise:], frame),
        ]
        return self._terms.sequence(terms)

    def _clauses(self, items: list[int | _Group], frame: _Frame) -> Term:
        """Return what has no set operator: one clause after the other."""
        terms: list[Term] = []
        start, clause = 0, None
        for at in range(len(items) + 1):
            kind = self._type(items[at]) if at < len(items) else None
            if at < len(items) and kind not in CLAUSES:
                continue
            if at > start or (not terms and at == len(items)):
                terms.append(self._list(items[start:at], clause, frame))
            if at < len(items):
                terms.append(self._word(items[at]))
                start, clause = at + 1, kind
        if len(terms) == 1:
            return terms[0]
        return self._terms.sequence(terms)

    def _list(self, items: list[int | _Group], clause: TokenType | None, frame: _Frame) -> Term:
        """Return what commas separate."""
        parts = self._split(items, TokenType.COMMA)
        terms = [self._expression(part) for part in parts]
        if clause in POSITIONS:
            terms = [self._positioned(*each) for each in zip(parts, terms, strict=True)]
        in_brackets = clause is None and frame.closing in (")", "]")
        all_values = in_brackets and all(term.is_value or term.is_row for term in terms)
        if len(terms) == 1 and not (all_values and frame.listed):
            return terms[0]
        if all_values and frame.listed:
            return self._values(parts, terms, frame)
        kept = self._kept(terms, clause, frame if in_brackets else None)
        self._leave_out(parts, kept)
        remaining = list(compress(terms, kept))
        words: list[Words] = []
        for term in remaining:
            # In a row, NULL or DEFAULT is a value like any other.
            words += [",", [LITERAL] if all_values and _is_constant(term) else term.words]
        keys = [
            self._terms.key(LITERAL) if all_values and term.is_value else term.key
            for term in remaining
        ]
        term = self._terms.joined(words[1:], [self._terms.key(","), *keys], remaining)
        term.is_row = all_values
        return term

    def _positioned(self, part: list[int | _Group], term: Term) -> Term:
        """Return a member of ORDER BY or GROUP BY, with the position that it begins with."""
        first = item_at(part, 0)
        if not isinstance(first, int) or not (position := self._pieces[first].position):
            return term
        return replace(
            term, words=[position, term.words], key=self._terms.key((position, term.key))
        )

    def _values(self, parts: list[list[int | _Group]], terms: list[Term], frame: _Frame) -> Term:
        """Return a list that has only values as one value."""
        first = terms[0]
        before = self._pieces[frame.start - 1].type if frame.start > 0 else None
        if before is TokenType.IN:
            self._left_out[_start(parts[0])] = _end(parts[-1])
        else:
            self._leave_out(parts, [True] + [False] * (len(parts) - 1))
        if len(terms) > 1 and _is_constant(first):
            first = Term([LITERAL], self._terms.key(LITERAL))
        return Term(first.words, first.key, has_value=True)

    def _kept(
        self, terms: list[Term], clause: TokenType | None, brackets: _Frame | None
    ) -> list[bool]:
        """Return which members of a list stay: one of its rows, one of equal expressions.

        All tables stay. In brackets, the number of members may tell functions or rows apart. Where
        it does not, members are folded only if all of them are equal but for their values.
        """
        kept = [True] * len(terms)
        if brackets is not None:
            alike = len({term.key for term in terms}) == 1
            folds = brackets.listed and alike and terms[0].has_value and not terms[0].is_value
        else:
            folds = clause not in _TABLES
        if folds:
            kept = self._terms.firsts(terms)
        values = rows = 0
        for position, term in enumerate(terms):
            values = values + 1 if term.is_value else 0
            rows = rows + 1 if term.is_row else 0
            if term.is_value:
                kept[position] = values <= MAX_SIDE_BY_SIDE
            elif term.is_row:
                kept[position] = rows == 1 and (clause is not TokenType.VALUES or kept[position])
        return kept

    def _expression(self, items: list[int | _Group]) -> Term:
        """Return what OR and AND join, each of the equal tests once."""
        if not items:
            return Term([], self._terms.key(()))
        parts = self._split(items, TokenType.OR)
        joined = [self._conjunction(part) for part in parts]
        if len(joined) == 1:
            alternatives = joined
        else:
            whole = [self._terms.either([terms]) for terms in joined]
            self._leave_out(parts, self._terms.firsts(whole))
            alternatives = []
            for terms in joined:
                # A OR (B OR C) is A OR B OR C.
                inner = terms[0].alternatives if len(terms) == 1 else ()
                alternatives += inner if 0 < len(inner) <= MAX_TAKEN_OUT else [terms]
            whole = [self._terms.either([terms]) for terms in alternatives]
            alternatives = list(compress(alternatives, self._terms.firsts(whole)))
        return self._terms.either(alternatives)

    def _conjunction(self, items: list[int | _Group]) -> tuple[Term, ...]:
        """Return the terms that AND joins."""
        parts = self._split(items, TokenType.AND)
        terms = [self._term(part) for part in parts]
        if len(terms) == 1 and (terms[0].is_row or not terms[0].alternatives):
            return (terms[0],)
        if len(terms) > 1:
            self._leave_out(parts, self._terms.firsts(terms))
        flat: list[Term] = []
        for term in terms:
            # A AND (B AND C) is A AND B AND C.
            inner = term.alternatives[0] if len(term.alternatives) == 1 else ()
            flat += inner if 0 < len(inner) <= MAX_TAKEN_OUT else [term]
        return tuple(compress(flat, self._terms.firsts(flat)))

    def _term(self, items: list[int | _Group]) -> Term:
        """Return what no comma, OR or AND divides."""
        self._read += 1
        if self._read % STEP == 0:
            give_way()
        if len(items) == 1 and isinstance(items[0], _Group):
            return items[0].term
        terms = [self._word(item) for item in items]
        term = self._terms.sequence(terms)
        term.is_value = self._is_value(items)
        if term.is_value:
            term.key = self._terms.key(LITERAL)
        return term

    def _is_value(self, items: list[int | _Group]) -> bool:
        """Whether it is one value, perhaps with a sign and with types that it is cast to."""
        signed = self._type(items[0]) in (TokenType.DASH, TokenType.PLUS) if items else False
        value = item_at(items, 1 if signed else 0)
        if not isinstance(value, int) or self._pieces[value].type not in _CONSTANTS:
            return False
        rest = items[2 if signed else 1 :]
        if not rest:
            return True
        if self._type(rest[0]) is not TokenType.DCOLON:
            return False
        for before, item in pairwise(rest):
            word = self._pieces[item].text.lower() if isinstance(item, int) else "("
            begins = self._type(before) in (TokenType.DCOLON, TokenType.DOT)
            if not begins and word not in _IN_TYPES:
                return False
        return True

    def _word(self, item: int | _Group) -> Term:
        """Return a single piece, or what is in brackets, as a term."""
        if isinstance(item, _Group):
            return item.term
        piece = self._pieces[item]
        if piece.type in _VALUES:
            word = LITERAL if piece.type is TokenType.STRING else PARAMETER
            return Term([word], self._terms.key(LITERAL), has_value=True)
        return self._terms.word(piece.text)

    def _words(self, items: Iterable[int | _Group]) -> list[Words]:
        return [self._word(item).words for item in items]

    def _split(self, items: list[int | _Group], kind: TokenType) -> list[list[int | _Group]]:
        """Return what is between the tokens of a kind; the AND of BETWEEN does not count."""
        parts: list[list[int | _Group]] = [[]]
        between = False
        for item in items:
            found = self._type(item)
            if found is kind and not (between and kind is TokenType.AND):
                parts.append([])
                continue
            between = found is TokenType.BETWEEN or (between and found is not TokenType.AND)
            parts[-1].append(item)
        return parts

    def _places(
        self, items: list[int | _Group], kinds: Set[TokenType], start: int = 0
    ) -> list[int]:
        """Return where the tokens of some kinds are, from a position on."""
        return [at for at in range(start, len(items)) if self._type(items[at]) in kinds]

    def _type(self, item: int | _Group | None) -> TokenType | None:
        if not isinstance(item, int):
            return None
        return self._pieces[item].type

    def _leave_out(self, parts: Sequence[list[int | _Group]], kept: Sequence[bool]) -> None:
        """Leave members of a list out of the shown text; one mark is shown for neighbours."""
        begun: int | None = None
        for part, keep in zip(parts, kept, strict=True):
            if keep or not part:
                begun = None
                continue
            begun = _start(part) if begun is None else begun
            self._left_out[begun] = _end(part)

    def _shown(self) -> str:
        shown: list[str] = []
        position = 0
        while position < len(self._pieces):
            if len(shown) % STEP == 0:
                give_way()
            piece = self._pieces[position]
            shown.append(" " if piece.spaced and position else "")
            if position in self._left_out:
                shown.append(MORE)
                position = max(self._left_out[position], position + 1)
            else:
                shown.append(piece.text)
                position += 1
        return "".join(shown)


def _start(part: list[int | _Group]) -> int:
    """Return the first piece of a part."""
    return part[0] if isinstance(part[0], int) else part[0].start


def _end(part: list[int | _Group]) -> int:
    """Return the piece after a part."""
    return 1 + (part[-1] if isinstance(part[-1], int) else part[-1].end)


def _is_constant(term: Term) -> bool:
    """Whether it is NULL, TRUE, FALSE or DEFAULT, which are values in a list of them."""
    return term.is_value and not term.has_value

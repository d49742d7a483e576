"""Folds what a statement repeats, so that its length is no part of its identity.

A list of values, an OR of the same test, the rows of VALUES, the equal branches of a UNION: an
application writes as many of them as it has values. Of equal neighbours one stays. What differs in
more than its values stays apart.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TypeVar

from sqlglot.tokens import TokenType

from ..pause import give_way

#: Values side by side that are kept where their number may matter, as in `substr(a, 1, 2)` or in a
#: row to insert, which seldom has more columns.
MAX_SIDE_BY_SIDE = 100

#: What stands in the shown text for what was folded.
MORE = "..."

#: Terms of a condition in parentheses that are taken out of them where that changes nothing: so a
#: condition in many parentheses is not copied once for each of them.
MAX_TAKEN_OUT = 8

#: Pieces, and terms, that are read between two pauses: some 0.5 ms.
_STEP = 100

#: Where a clause begins: what is before it and after it are no parts of one list.
_CLAUSES = frozenset(
    {TokenType.SELECT, TokenType.DISTINCT, TokenType.FROM, TokenType.WHERE, TokenType.GROUP_BY}
    | {TokenType.HAVING, TokenType.ORDER_BY, TokenType.LIMIT, TokenType.OFFSET, TokenType.FETCH}
    | {TokenType.VALUES, TokenType.SET, TokenType.ON, TokenType.USING, TokenType.RETURNING}
    | {TokenType.WHEN, TokenType.THEN, TokenType.ELSE, TokenType.WINDOW, TokenType.INTO}
    | {TokenType.WITH, TokenType.PARTITION_BY, TokenType.INSERT, TokenType.UPDATE, TokenType.FOR}
    | {TokenType.JOIN, TokenType.LEFT, TokenType.RIGHT, TokenType.FULL, TokenType.INNER}
    | {TokenType.OUTER, TokenType.CROSS, TokenType.NATURAL, TokenType.LATERAL}
)

#: What belongs to a whole UNION, not to its last branch.
_AFTER_UNION = frozenset(
    {TokenType.ORDER_BY, TokenType.LIMIT, TokenType.OFFSET, TokenType.FETCH, TokenType.FOR}
)

#: Where the members of a list are tables: two of one table are a join.
_TABLES = frozenset(
    {TokenType.FROM, TokenType.JOIN, TokenType.USING, TokenType.INTO, TokenType.UPDATE}
    | {TokenType.LATERAL, TokenType.CROSS, TokenType.WITH}
)

#: Where a number alone is the position of a column: the order by one is not that by another.
_POSITIONS = frozenset({TokenType.ORDER_BY, TokenType.GROUP_BY})

#: What takes any number of values, before brackets. Of another function, their number may tell one
#: from another of the same name.
_LISTED = frozenset(
    {"in", "greatest", "least", "coalesce", "concat", "concat_ws", "format", "num_nulls"}
    | {"num_nonnulls", "json_array", "json_build_array", "jsonb_build_array", "json_build_object"}
    | {"jsonb_build_object", "json_extract_path", "json_extract_path_text", "jsonb_extract_path"}
    | {"jsonb_extract_path_text"}
)

#: What else the name of a type may consist of, as in `timestamp(3) with time zone`.
_IN_TYPES = frozenset({"::", ".", "(", "varying", "precision", "with", "without", "time", "zone"})

#: What may be between the AS of a WITH query and its text.
_BEFORE_BODY = frozenset({"NOT", "MATERIALIZED"})

_SET_OPERATORS = frozenset({TokenType.UNION, TokenType.EXCEPT, TokenType.INTERSECT})
_VALUES = frozenset({TokenType.STRING, TokenType.PLACEHOLDER})
_CONSTANTS = _VALUES | {TokenType.NULL, TokenType.TRUE, TokenType.FALSE, TokenType.DEFAULT}
_NO_NAMES = _CLAUSES | _VALUES | {TokenType.AND, TokenType.OR, TokenType.NOT}
_OPENING = {TokenType.L_PAREN: ")", TokenType.L_BRACKET: "]", TokenType.CASE: "END"}
_CLOSING = {TokenType.R_PAREN: ")", TokenType.R_BRACKET: "]", TokenType.END: "END"}

_DIGITS = re.compile(r"\d+")

Item = TypeVar("Item")


#: How the identity has a literal, and a value that is sent beside the text.
_LITERAL = "?"
_PARAMETER = "$"


@dataclass(slots=True)
class Piece:
    """A token of a statement as it is shown. `spaced`: white space or a comment is before it.

    The type of all masked literals is STRING, that of all parameters PLACEHOLDER. `position` is the
    number that a masked literal is, if it may be the position of a column.
    """

    text: str
    spaced: bool
    type: TokenType
    position: str = ""


@dataclass(frozen=True)
class Folded:
    """A statement as it is shown, and what identifies it, which counts no repetition."""

    text: str
    identity: str


def fold(pieces: Sequence[Piece]) -> Folded:
    """Return a statement, given by its pieces, with each list of the same as one."""
    return _Folder(pieces).folded()


#: A place in the identity: a word, or several of them.
_Words = str | list["_Words"]


@dataclass(slots=True)
class _Term:
    """An expression: its words, and a key that equal ones share.

    `aliased`: equal keys may hide other aliases. `alternatives` are what an expression in
    parentheses joins by OR, each what it joins by AND.
    """

    words: list[_Words]
    key: int
    has_value: bool = False
    aliased: bool = False
    is_value: bool = False
    is_row: bool = False
    alternatives: tuple[tuple[_Term, ...], ...] = ()


@dataclass(slots=True)
class _Group:
    """What stands in brackets, from one piece up to another."""

    start: int
    end: int
    term: _Term


@dataclass(slots=True)
class _Frame:
    """Brackets that are open: what was read in them so far.

    `called`: a name is before them. `listed`: any number of values may stand in them.
    """

    start: int
    closing: str
    called: bool
    listed: bool
    items: list[int | _Group]


class _Folder:
    """Reads the pieces of one statement once, from the innermost brackets outwards."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        _unmark_expressions(pieces)
        self._pieces = pieces
        self._keys: dict[Hashable, int] = {}
        self._aliases = _Aliases(pieces).names()
        self._bases = {name: _DIGITS.sub("", name) for name in self._aliases}
        self._terms = 0
        #: What is not shown: from one piece up to another.
        self._left_out: dict[int, int] = {}

    def folded(self) -> Folded:
        """Return the statement."""
        stack = [_Frame(-1, "", False, False, [])]
        opened: Counter[str] = Counter()
        for place, piece in enumerate(self._pieces):
            if place % _STEP == 0:
                give_way()
            if piece.type in _OPENING:
                closing = _OPENING[piece.type]
                called = self._calls(stack[-1].items, piece)
                listed = called and self._is_listed(stack[-1].items, piece)
                stack.append(_Frame(place, closing, called, listed, []))
                opened[closing] += 1
            elif opened[closing := _CLOSING.get(piece.type, "")] > 0:
                # What was opened in between has no end.
                while stack[-1].closing != closing:
                    opened[stack[-1].closing] -= 1
                    self._close(stack, place - 1, "")
                opened[closing] -= 1
                self._close(stack, place, closing)
            else:
                stack[-1].items.append(place)
        while len(stack) > 1:
            self._close(stack, len(self._pieces) - 1, "")
        whole = self._content(stack[0])
        words = self._flat(whole.words)
        return Folded(self._shown(), " ".join(self._numbered(words, set(self._aliases))))

    def _calls(self, items: list[int | _Group], opening: Piece) -> bool:
        """Whether a name, IN or ARRAY is before these brackets; that of a type does not count."""
        if opening.type is TokenType.L_BRACKET:
            return True
        before = _at(items, -1)
        if not isinstance(before, int):
            return False
        if self._type(_at(items, -2)) in (TokenType.DCOLON, TokenType.ALIAS):
            return False
        name = self._pieces[before]
        is_name = name.text[-1].isalnum() or name.text[-1] in '_"'
        return is_name and name.type not in _NO_NAMES

    def _is_listed(self, items: list[int | _Group], opening: Piece) -> bool:
        """Whether the name before these brackets takes any number of values."""
        if opening.type is TokenType.L_BRACKET:
            return True
        name = _at(items, -1)
        if not isinstance(name, int) or self._type(_at(items, -2)) is TokenType.DOT:
            return False
        return self._pieces[name].text.lower() in _LISTED

    def _close(self, stack: list[_Frame], end: int, closing: str) -> None:
        """Make a group of the brackets opened last; `closing` is empty if they have no end."""
        frame = stack.pop()
        if len(stack) % _STEP == 0:
            give_way()
        inside = self._content(frame)
        bare = frame.closing == ")" and not frame.called
        stack[-1].items.append(
            _Group(
                frame.start,
                end,
                _Term(
                    [self._pieces[frame.start].text.upper(), inside.words, closing],
                    self._key((frame.closing, inside.key)),
                    has_value=inside.has_value,
                    aliased=inside.aliased,
                    is_row=bare and (inside.is_row or inside.is_value),
                    alternatives=inside.alternatives if bare else (),
                ),
            )
        )

    def _content(self, frame: _Frame) -> _Term:
        """Return what stands in brackets, or in no brackets, as one term."""
        types = {self._type(item) for item in frame.items}
        if types.isdisjoint(_SET_OPERATORS):
            if frame.closing == "END":
                return self._case(frame)
            return self._clauses(frame.items, frame)
        return self._union(frame, only_unions=types.isdisjoint(_SET_OPERATORS - {TokenType.UNION}))

    def _union(self, frame: _Frame, *, only_unions: bool) -> _Term:
        """Return SELECTs with set operators between them, the equal branches of a UNION once."""
        items = frame.items
        first = next((at for at, one in enumerate(items) if self._type(one) is TokenType.SELECT), 0)
        cuts = [at for at, one in enumerate(items) if self._type(one) in _SET_OPERATORS]
        last = next(
            (at for at in range(cuts[-1], len(items)) if self._type(items[at]) in _AFTER_UNION),
            len(items),
        )
        head = self._clauses(items[: min(first, cuts[0])], frame)
        tail = self._clauses(items[last:], frame)
        branches: list[tuple[list[_Words], list[int | _Group], _Term]] = []
        for at, end in zip([None, *cuts], [*cuts, last], strict=True):
            start, operator = (min(first, cuts[0]), []) if at is None else (at + 1, [items[at]])
            while at is not None and self._type(_at(items, start)) in (
                TokenType.ALL,
                TokenType.DISTINCT,
            ):
                operator.append(items[start])
                start += 1
            part = items[start:end]
            branches.append((self._words(operator), part, self._clauses(part, frame)))
        kept = [True] * len(branches)
        if only_unions:
            kept = self._firsts([branch for _, _, branch in branches])
            self._leave_out([part for _, part, _ in branches], kept)
        words: list[_Words] = [head.words]
        keys = [head.key]
        remaining = [one for one, keep in zip(branches, kept, strict=True) if keep]
        for number, (operator_words, _, branch) in enumerate(remaining):
            words += [*(operator_words if number else []), branch.words]
            keys += [*(self._key(str(operator_words)) for _ in range(bool(number))), branch.key]
        terms = [head, tail, *(branch for _, _, branch in remaining)]
        return self._joined([*words, tail.words], [*keys, tail.key], terms)

    def _case(self, frame: _Frame) -> _Term:
        """Return what stands between CASE and END, the equal branches once."""
        items = frame.items
        starts = [at for at, one in enumerate(items) if self._type(one) is TokenType.WHEN]
        if not starts:
            return self._clauses(items, frame)
        otherwise = next(
            (at for at in range(starts[-1], len(items)) if self._type(items[at]) is TokenType.ELSE),
            len(items),
        )
        parts = [items[start:end] for start, end in pairwise([*starts, otherwise])]
        branches = [self._clauses(part, frame) for part in parts]
        kept = self._firsts(branches)
        self._leave_out(parts, kept)
        terms = [
            self._clauses(items[: starts[0]], frame),
            *(one for one, keep in zip(branches, kept, strict=True) if keep),
            self._clauses(items[otherwise:], frame),
        ]
        return self._joined([one.words for one in terms], [one.key for one in terms], terms)

    def _clauses(self, items: list[int | _Group], frame: _Frame) -> _Term:
        """Return what has no set operator: one clause after the other."""
        terms: list[_Term] = []
        start, clause = 0, None
        for at in range(len(items) + 1):
            kind = self._type(items[at]) if at < len(items) else None
            if at < len(items) and kind not in _CLAUSES:
                continue
            if at > start or (not terms and at == len(items)):
                terms.append(self._list(items[start:at], clause, frame))
            if at < len(items):
                terms.append(self._word(items[at]))
                start, clause = at + 1, kind
        if len(terms) == 1:
            return terms[0]
        return self._joined([one.words for one in terms], [one.key for one in terms], terms)

    def _list(self, items: list[int | _Group], clause: TokenType | None, frame: _Frame) -> _Term:
        """Return what commas separate."""
        parts = self._split(items, TokenType.COMMA)
        terms = [self._expression(part) for part in parts]
        if clause in _POSITIONS:
            terms = [self._positioned(*each) for each in zip(parts, terms, strict=True)]
        in_brackets = clause is None and frame.closing in (")", "]")
        all_values = in_brackets and all(one.is_value or one.is_row for one in terms)
        if len(terms) == 1 and not (all_values and frame.listed):
            return terms[0]
        if all_values and frame.listed:
            return self._values(parts, terms, frame)
        kept = self._kept(terms, clause, frame if in_brackets else None)
        self._leave_out(parts, kept)
        remaining = [one for one, keep in zip(terms, kept, strict=True) if keep]
        words: list[_Words] = []
        for term in remaining:
            # In a row, nothing is a value like any other.
            words += [",", [_LITERAL] if all_values and _is_constant(term) else term.words]
        keys = [
            self._key(_LITERAL) if all_values and one.is_value else one.key for one in remaining
        ]
        term = self._joined(words[1:], [self._key(","), *keys], remaining)
        term.is_row = all_values
        return term

    def _positioned(self, part: list[int | _Group], term: _Term) -> _Term:
        """Return a member of ORDER BY or GROUP BY, with the position that it begins with."""
        first = _at(part, 0)
        if not isinstance(first, int) or not (position := self._pieces[first].position):
            return term
        return replace(term, words=[position, term.words], key=self._key((position, term.key)))

    def _values(self, parts: list[list[int | _Group]], terms: list[_Term], frame: _Frame) -> _Term:
        """Return a list of nothing but values, however many there are, as one."""
        first = terms[0]
        before = self._pieces[frame.start - 1].type if frame.start > 0 else None
        if before is TokenType.IN:
            self._left_out[_start(parts[0])] = _end(parts[-1])
        else:
            self._leave_out(parts, [True] + [False] * (len(parts) - 1))
        if len(terms) > 1 and _is_constant(first):
            first = _Term([_LITERAL], self._key(_LITERAL))
        return _Term(first.words, first.key, has_value=True)

    def _kept(
        self, terms: list[_Term], clause: TokenType | None, brackets: _Frame | None
    ) -> list[bool]:
        """Return which members of a list stay: of rows one, of equal expressions one.

        All tables stay. In brackets, the number of members may tell one function, or one row, from
        another; where it does not, they are a list if they are all the same with other values.
        """
        kept = [True] * len(terms)
        if brackets is not None:
            alike = len({one.key for one in terms}) == 1
            folds = brackets.listed and alike and terms[0].has_value and not terms[0].is_value
        else:
            folds = clause not in _TABLES
        if folds:
            kept = self._firsts(terms)
        values = rows = 0
        for place, term in enumerate(terms):
            values = values + 1 if term.is_value else 0
            rows = rows + 1 if term.is_row else 0
            if term.is_value:
                kept[place] = values <= MAX_SIDE_BY_SIDE
            elif term.is_row:
                kept[place] = rows == 1
        return kept

    def _expression(self, items: list[int | _Group]) -> _Term:
        """Return what OR and AND join, each of the equal tests once."""
        if not items:
            return _Term([], self._key(()))
        parts = self._split(items, TokenType.OR)
        joined = [self._conjunction(part) for part in parts]
        if len(joined) == 1:
            alternatives = joined
        else:
            whole = [self._either([one]) for one in joined]
            self._leave_out(parts, self._firsts(whole))
            alternatives = []
            for terms in joined:
                # A OR (B OR C) is A OR B OR C.
                inner = terms[0].alternatives if len(terms) == 1 else ()
                alternatives += inner if 0 < len(inner) <= MAX_TAKEN_OUT else [terms]
            whole = [self._either([one]) for one in alternatives]
            kept = self._firsts(whole)
            alternatives = [one for one, keep in zip(alternatives, kept, strict=True) if keep]
        return self._either(alternatives)

    def _conjunction(self, items: list[int | _Group]) -> tuple[_Term, ...]:
        """Return the terms that AND joins."""
        parts = self._split(items, TokenType.AND)
        terms = [self._term(part) for part in parts]
        if len(terms) == 1 and (terms[0].is_row or not terms[0].alternatives):
            return (terms[0],)
        if len(terms) > 1:
            self._leave_out(parts, self._firsts(terms))
        flat: list[_Term] = []
        for term in terms:
            # A AND (B AND C) is A AND B AND C.
            inner = term.alternatives[0] if len(term.alternatives) == 1 else ()
            flat += inner if 0 < len(inner) <= MAX_TAKEN_OUT else [term]
        kept = self._firsts(flat)
        return tuple(one for one, keep in zip(flat, kept, strict=True) if keep)

    def _either(self, alternatives: Sequence[tuple[_Term, ...]]) -> _Term:
        """Return terms joined by AND, and these by OR, as one."""
        if len(alternatives) == 1 and len(alternatives[0]) == 1:
            term = alternatives[0][0]
            return term if term.alternatives else replace(term, alternatives=(alternatives[0],))
        words: list[_Words] = []
        keys: list[Hashable] = []
        for terms in alternatives:
            words.append("OR")
            keys.append("OR")
            for number, term in enumerate(terms):
                words += ["AND"] if number else []
                words.append(term.words)
                keys.append(term.key)
        joined = self._joined(words[1:], keys, [one for terms in alternatives for one in terms])
        joined.alternatives = tuple(alternatives)
        return joined

    def _term(self, items: list[int | _Group]) -> _Term:
        """Return what no comma, OR or AND divides."""
        self._terms += 1
        if self._terms % _STEP == 0:
            give_way()
        if len(items) == 1 and isinstance(items[0], _Group):
            return items[0].term
        terms = [self._word(item) for item in items]
        term = self._joined([one.words for one in terms], [one.key for one in terms], terms)
        term.is_value = self._is_value(items)
        if term.is_value:
            term.key = self._key(_LITERAL)
        return term

    def _is_value(self, items: list[int | _Group]) -> bool:
        """Whether it is one value, perhaps with a sign and with types that it is cast to."""
        signed = self._type(items[0]) in (TokenType.DASH, TokenType.PLUS) if items else False
        value = _at(items, 1 if signed else 0)
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

    def _word(self, item: int | _Group) -> _Term:
        """Return a single piece, or what is in brackets, as a term."""
        if isinstance(item, _Group):
            return item.term
        piece = self._pieces[item]
        if piece.type in _VALUES:
            word = _LITERAL if piece.type is TokenType.STRING else _PARAMETER
            return _Term([word], self._key(_LITERAL), has_value=True)
        base = self._bases.get(piece.text)
        return _Term([piece.text], self._key(base or piece.text), aliased=base is not None)

    def _words(self, items: Iterable[int | _Group]) -> list[_Words]:
        return [self._word(item).words for item in items]

    def _joined(
        self, words: list[_Words], keys: Sequence[Hashable], terms: Iterable[_Term]
    ) -> _Term:
        terms = list(terms)
        return _Term(
            words,
            self._key(tuple(keys)),
            has_value=any(one.has_value for one in terms),
            aliased=any(one.aliased for one in terms),
        )

    def _key(self, what: Hashable) -> int:
        return self._keys.setdefault(what, len(self._keys))

    def _firsts(self, terms: Sequence[_Term]) -> list[bool]:
        """Return which terms are the first of their kind."""
        if len(terms) == 1:
            return [True]
        number = Counter(one.key for one in terms)
        if len(number) == len(terms):
            return [True] * len(terms)
        seen: set[Hashable] = set()
        kept = []
        for term in terms:
            own: Hashable = term.key
            # Each level of equal terms doubles the text: so few levels are read again.
            if term.aliased and number[term.key] > 1:
                words = self._flat(term.words)
                own = tuple(self._numbered(words, self._defined_in(words)))
            kept.append(own not in seen)
            seen.add(own)
        return kept

    def _defined_in(self, words: list[str]) -> set[str]:
        """Return the aliases that a term defines itself."""
        pairs = zip(["", *words], words, strict=False)
        return {
            word
            for place, (before, word) in enumerate(pairs)
            if word in self._aliases
            and (before.upper() == "AS" or (_at(words, place + 1) or "").upper() == "AS")
        }

    def _numbered(self, words: list[str], names: set[str]) -> Iterator[str]:
        """Yield the words with these aliases numbered as they come."""
        numbers: dict[str, str] = {}
        for word in words:
            if word in names:
                numbers.setdefault(word, f"{self._bases[word]}#{len(numbers)}")
            yield numbers.get(word, word)

    def _flat(self, words: list[_Words]) -> list[str]:
        flat, waiting = list[str](), [iter(words)]
        while waiting:
            for word in waiting[-1]:
                if isinstance(word, list):
                    waiting.append(iter(word))
                    break
                if word:
                    flat.append(word)
                if len(flat) % _STEP == 0:
                    give_way()
            else:
                waiting.pop()
        return flat

    def _split(self, items: list[int | _Group], kind: TokenType) -> list[list[int | _Group]]:
        """Return what stands between the tokens of a kind; BETWEEN has its own AND."""
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

    def _type(self, item: int | _Group | None) -> TokenType | None:
        if not isinstance(item, int):
            return None
        return self._pieces[item].type

    def _leave_out(self, parts: Sequence[list[int | _Group]], kept: Sequence[bool]) -> None:
        """Leave members of a list out of the shown text; neighbours become one mark."""
        begun: int | None = None
        for part, keep in zip(parts, kept, strict=True):
            if keep or not part:
                begun = None
                continue
            begun = _start(part) if begun is None else begun
            self._left_out[begun] = _end(part)

    def _shown(self) -> str:
        shown: list[str] = []
        place = 0
        while place < len(self._pieces):
            if len(shown) % _STEP == 0:
                give_way()
            piece = self._pieces[place]
            shown.append(" " if piece.spaced and place else "")
            if place in self._left_out:
                shown.append(MORE)
                place = max(self._left_out[place], place + 1)
            else:
                shown.append(piece.text)
                place += 1
        return "".join(shown)


def _unmark_expressions(pieces: Sequence[Piece]) -> None:
    """Make plain words of those that begin a clause elsewhere.

    They are in `IS DISTINCT FROM`, in `timestamp with time zone` and in the function `left()`.
    """
    for place, piece in enumerate(pieces):
        if place % _STEP == 0:
            give_way()
        kind, following = piece.type, _at(pieces, place + 1)
        if following is None or kind not in _CLAUSES:
            continue
        if kind is TokenType.DISTINCT and following.type is TokenType.FROM:
            before = pieces[place - 1].type if place else None
            words = [piece, following] if before in (TokenType.IS, TokenType.NOT) else []
        elif (kind is TokenType.WITH and following.text.lower() == "time") or (
            kind in (TokenType.LEFT, TokenType.RIGHT) and following.type is TokenType.L_PAREN
        ):
            words = [piece]
        else:
            continue
        for word in words:
            word.type = TokenType.VAR


@dataclass(slots=True)
class _Scope:
    """Parentheses that are open, in which a name may be defined."""

    start: int
    cast: bool = False
    recursive: bool = False
    queries: list[str] = field(default_factory=list)
    #: The WITH query whose text stands in them.
    defines: str = ""


class _Aliases:
    """Finds the aliases of a statement whose digits do not matter: `n_17`, `anon_1`.

    Such a name stands after AS, before a dot, or after ORDER BY beside its definition; one that
    begins a WITH query, after FROM or JOIN too, as long as that query is meant by it. Elsewhere it
    may be a column or a table that happens to have that name.
    """

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = pieces
        self._defined: set[str] = set()
        #: Names with the parentheses in which they are after ORDER BY, and after AS.
        self._ordered: set[tuple[str, int]] = set()
        self._aliased_in: set[tuple[str, int]] = set()
        #: Names that mean something else somewhere.
        self._others: set[str] = set()
        #: How many WITH queries of a name can be read here.
        self._visible: Counter[str] = Counter()
        #: The names of WITH queries, by where their texts begin.
        self._bodies: dict[int, str] = {}

    def names(self) -> frozenset[str]:
        """Return them."""
        scopes = [_Scope(-1)]
        for place, piece in enumerate(self._pieces):
            if place % _STEP == 0:
                give_way()
            if piece.type is TokenType.L_PAREN:
                self._open(scopes, place)
            elif piece.type is TokenType.R_PAREN and len(scopes) > 1:
                self._leave(scopes)
            elif piece.type is TokenType.SEMICOLON:
                self._visible.clear()
            elif piece.type is TokenType.WITH:
                following = _at(self._pieces, place + 1)
                scopes[-1].recursive = (
                    following is not None and following.type is TokenType.RECURSIVE
                )
            elif piece.type is TokenType.ALIAS and not scopes[-1].cast:
                self._define(place, scopes[-1])
            if _DIGITS.search(piece.text):
                self._use(place, scopes[-1])
        others = self._others | {name for name, _ in self._ordered - self._aliased_in}
        return frozenset(
            name for name in self._defined if name not in others and _DIGITS.search(name)
        )

    def _open(self, scopes: list[_Scope], place: int) -> None:
        before = self._pieces[place - 1].text.upper() if place else ""
        name = self._bodies.get(place, "")
        scopes.append(_Scope(place, cast=before in ("CAST", "TRY_CAST"), defines=name))
        if name and scopes[-2].recursive:
            self._visible[name] += 1
            scopes[-2].queries.append(name)

    def _leave(self, scopes: list[_Scope]) -> None:
        scope = scopes.pop()
        self._visible.subtract(scope.queries)
        if scope.defines and not scopes[-1].recursive:
            # Without RECURSIVE, a query cannot mean itself.
            self._visible[scope.defines] += 1
            scopes[-1].queries.append(scope.defines)

    def _define(self, place: int, scope: _Scope) -> None:
        """Take the name before or after an AS."""
        body = self._body(place)
        following = _at(self._pieces, place + 1)
        if body is not None and place:
            name = self._bodies[body] = self._pieces[place - 1].text
            self._defined.add(name)
        elif body is None and following is not None:
            self._defined.add(following.text)
            self._aliased_in.add((following.text, scope.start))

    def _body(self, place: int) -> int | None:
        """Return where the WITH query that follows an AS begins, if one does."""
        place += 1
        while (piece := _at(self._pieces, place)) and piece.text.upper() in _BEFORE_BODY:
            place += 1
        return place if piece is not None and piece.type is TokenType.L_PAREN else None

    def _use(self, place: int, scope: _Scope) -> None:
        """Take a name where it is used, if that is no use of an alias."""
        name = self._pieces[place].text
        before = self._pieces[place - 1].type if place else None
        following = _at(self._pieces, place + 1)
        after = following.type if following is not None else None
        if before is TokenType.ORDER_BY:
            self._ordered.add((name, scope.start))
        elif before in (TokenType.FROM, TokenType.JOIN):
            if after is TokenType.DOT or self._visible[name] <= 0:
                self._others.add(name)
        elif before is TokenType.DOT or after is not TokenType.DOT:
            begins_query = after is TokenType.ALIAS and self._body(place + 1) is not None
            if scope.cast or not (before is TokenType.ALIAS or begins_query):
                self._others.add(name)


def _at(items: Sequence[Item], place: int) -> Item | None:
    """Return an item, None if there is none at this place; -1 is the last one."""
    return items[place] if -len(items) <= place < len(items) else None


def _start(part: list[int | _Group]) -> int:
    """Return the first piece of a part."""
    return part[0] if isinstance(part[0], int) else part[0].start


def _end(part: list[int | _Group]) -> int:
    """Return the piece after a part."""
    return 1 + (part[-1] if isinstance(part[-1], int) else part[-1].end)


def _is_constant(term: _Term) -> bool:
    """Whether it is NULL, TRUE, FALSE or DEFAULT, which stand for values in a list of them."""
    return term.is_value and not term.has_value

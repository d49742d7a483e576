"""Terms, the expressions of a statement, and which of them are equal but for their values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from ..runtime.pause import give_way
from .pieces import DIGITS, STEP, ends_operand, item_at

#: A literal in the identity, and a value that is sent beside the text.
LITERAL = "?"
PARAMETER = "$"

#: A part of the identity: a word, or a list of parts.
Words = str | list["Words"]


@dataclass(slots=True)
class Term:
    """An expression: its words, and a key that is the same for equal expressions.

    `aliased`: it has an alias whose digits are not in its key. `alternatives` are the terms that an
    expression in parentheses joins by OR, each of them the terms that it joins by AND.
    """

    words: list[Words]
    key: int
    has_value: bool = False
    aliased: bool = False
    is_value: bool = False
    is_row: bool = False
    alternatives: tuple[tuple[Term, ...], ...] = ()


class Terms:
    """Makes and compares the terms of one statement.

    `aliases` are the names whose digits do not matter.
    """

    def __init__(self, aliases: frozenset[str]) -> None:
        self._keys: dict[Hashable, int] = {}
        self._aliases = aliases
        self._bases = {name: DIGITS.sub("", name) for name in aliases}

    def word(self, text: str) -> Term:
        """Return a word that is no value as a term."""
        base = self._bases.get(text)
        return Term([text], self.key(base or text), aliased=base is not None)

    def identity(self, term: Term) -> str:
        """Return the words of a term, its aliases numbered as they come."""
        return " ".join(self._numbered(self.flat(term.words), set(self._aliases)))

    def sequence(self, terms: Sequence[Term]) -> Term:
        """Return terms that follow each other as one."""
        return self.joined([term.words for term in terms], [term.key for term in terms], terms)

    def joined(self, words: list[Words], keys: Sequence[Hashable], terms: Sequence[Term]) -> Term:
        """Return terms as one that has these words, and is equal to what has these keys."""
        return Term(
            words,
            self.key(tuple(keys)),
            has_value=any(term.has_value for term in terms),
            aliased=any(term.aliased for term in terms),
        )

    def key(self, what: Hashable) -> int:
        """Return a number that stands for this, and for whatever equals it."""
        return self._keys.setdefault(what, len(self._keys))

    def firsts(self, terms: Sequence[Term]) -> list[bool]:
        """Return which terms are the first of their kind."""
        if len(terms) == 1:
            return [True]
        number = Counter(term.key for term in terms)
        if len(number) == len(terms):
            return [True] * len(terms)
        seen: set[Hashable] = set()
        kept = []
        for term in terms:
            own: Hashable = term.key
            # Nested equal terms double the text each time, so few of them are read again.
            if term.aliased and number[term.key] > 1:
                words = self.flat(term.words)
                own = tuple(self._numbered(words, self._defined_in(words)))
            kept.append(own not in seen)
            seen.add(own)
        return kept

    def _defined_in(self, words: list[str]) -> set[str]:
        """Return the aliases that a term defines itself."""
        pairs = zip(["", *words], words, strict=False)
        return {
            word
            for position, (before, word) in enumerate(pairs)
            if word in self._aliases
            and (
                before.upper() == "AS"
                or (item_at(words, position + 1) or "").upper() == "AS"
                or (before and ends_operand(before))
            )
        }

    def _numbered(self, words: list[str], names: set[str]) -> Iterator[str]:
        """Yield the words with these aliases numbered as they come."""
        numbers: dict[str, str] = {}
        for word in words:
            if word in names:
                numbers.setdefault(word, f"{self._bases[word]}#{len(numbers)}")
            yield numbers.get(word, word)

    def flat(self, words: list[Words]) -> list[str]:
        """Return the single words."""
        flat, waiting = list[str](), [iter(words)]
        while waiting:
            for word in waiting[-1]:
                if isinstance(word, list):
                    waiting.append(iter(word))
                    break
                if word:
                    flat.append(word)
                if len(flat) % STEP == 0:
                    give_way()
            else:
                waiting.pop()
        return flat

    def either(self, alternatives: Sequence[tuple[Term, ...]]) -> Term:
        """Return alternatives, each of terms that AND joins, as one term with OR between them."""
        if len(alternatives) == 1 and len(alternatives[0]) == 1:
            term = alternatives[0][0]
            return term if term.alternatives else replace(term, alternatives=(alternatives[0],))
        words: list[Words] = []
        keys: list[Hashable] = []
        for terms in alternatives:
            words.append("OR")
            keys.append("OR")
            for number, term in enumerate(terms):
                words += ["AND"] if number else []
                words.append(term.words)
                keys.append(term.key)
        joined = self.joined(words[1:], keys, list(chain.from_iterable(alternatives)))
        joined.alternatives = tuple(alternatives)
        return joined

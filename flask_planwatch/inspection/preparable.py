"""Statements without values, for people who copy them into psql.

Only a panel shows them: the constants that the application wrote into its text stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from itertools import count
from typing import Any

from ..capture.literals import UNTYPED
from ..capture.numbered import CAST_PATTERN, Numbered, may_be_position
from ..capture.sql_text import HIDDEN, PIECE_FLAGS, end_of_hidden
from ..capture.written import MAX_WRITTEN, type_of
from ..failure import ServerError
from ..runtime.pause import give_way
from ..server.explain import Query
from ..server.session import Session
from ..server.transaction import UntypedParameter
from .detail import Preparable

_ITEM = rf"\$\d++(?:{CAST_PATTERN})?+"

#: A parameter after the type of a constant, a list of parameters, a single one, or what stands in
#: quotes or comments.
_PART = re.compile(
    rf"""\b(?P<typed>interval|date|time|timestamp|timestamptz)\s++\$(?P<typed_number>\d++)
    |   \b(?P<negated>NOT\s++)?IN\s*+(?:
            \(\s*+(?P<items>{_ITEM}(?:\s*+,\s*+{_ITEM})*+)\s*+\) | (?P<tuple>\$\d++)
        )
    |   ['"$/-](?:(?<=\$)(?<![\w$]\$)(?P<number>\d++)|{HIDDEN})""",
    PIECE_FLAGS,
)
_ONE = re.compile(rf"\$(?P<number>\d++)(?P<cast>{CAST_PATTERN})?+", PIECE_FLAGS)

_NAME = re.compile(r"[^\W\d]\w*+")
_LAST_NUMBER = re.compile(r"_\d++\Z")

#: Parameters that are read, some 20 µs each: those of an IN list become one.
_MAX_PARAMETERS = 10_000

#: Parameters that are declared as text one after the other; then all others are, too.
_MAX_GUESSES = 5

#: The driver that writes values into the text.
_CLIENT_SIDE = "psycopg2"

#: Values that may be the same in two parameters.
_COMPARED = (str, int, float, Decimal, timedelta)

#: The class of the SQLSTATEs for what the server cannot understand.
_ABOUT_THE_TEXT = "42"

#: Why there is no form that psql takes.
TOO_LONG = f"it has more than {MAX_WRITTEN:,} characters, even without its values"
TOO_MANY = f"it has more than {_MAX_PARAMETERS:,} parameters"
IN_QUOTES = "a placeholder stands in quotes"
POSITION = "a placeholder may be the position of a column"
REFUSED = "PostgreSQL does not accept parameters in place of its values"


def preparable(
    session: Session, query: Query, driver: str, names: Sequence[str] | None
) -> Preparable:
    """Return a query as PREPARE takes it on the server; raises ServerError if that is not known.

    `driver` is its name in SQLAlchemy. `names` are those of the parameters if the text has numbers
    for them.
    """
    last = None
    for number, draft in enumerate(drafts(query, driver, names)):
        if not draft.types or draft.refusal:
            return draft
        try:
            form = _by_place(session, query) if number == 0 and driver == _CLIENT_SIDE else None
            return form or _declared(session, draft)
        except ServerError as error:
            if (error.sqlstate or "")[:2] != _ABOUT_THE_TEXT:
                raise
            last = error
        give_way()
    state = f" ({last.detail})" if last else ""
    return Preparable(refusal=REFUSED + state)


def _by_place(session: Session, query: Query) -> Preparable | None:
    """Return a form with a number for each type that a parameter of psycopg2's has.

    None if each has one type only, as the server takes the value in all its places, or if that is
    not known.
    """
    numbered = Numbered(query.text, query.parameters)
    if not any(times > 1 for times in numbered.uses.values()):
        return None
    apart = _Draft(numbered, _CLIENT_SIDE, lists=True, same=False, marks=map(str, count()))
    try:
        types, guesses = _types(session, apart.preparable)
    except ServerError as error:
        if (error.sqlstate or "")[:2] != _ABOUT_THE_TEXT:
            raise
        return None
    found = list(zip(apart.sources, types, strict=True))
    known = dict(pair for place, pair in enumerate(found) if place not in guesses)
    # What is only compared with NULL has the type of another place.
    for place in guesses:
        types[place] = known.get(apart.sources[place], types[place])
    draft = _Draft(numbered, _CLIENT_SIDE, lists=True, same=False, marks=iter(types))
    if not guesses and len(draft.sources) == len(set(draft.sources)):
        return None
    # With its types, as the server would not know that of a parameter at IS NULL.
    return _declared(session, _checked(replace(draft.preparable, types=tuple(draft.marked))))


def _declared(session: Session, draft: Preparable) -> Preparable:
    """Return a draft with the types of its parameters; raises ServerError if it is refused."""
    if draft.refusal:
        return draft
    return replace(draft, types=tuple(_types(session, draft)[0]))


def _types(session: Session, draft: Preparable) -> tuple[list[str], set[int]]:
    """Return the types of a draft's parameters, and the places of those that are guessed.

    Raises ServerError if the draft is refused.
    """
    types, guesses = list(draft.types), set[int]()
    while True:
        try:
            with session.transaction() as transaction:
                return transaction.types_of_parameters(draft.text, types), guesses
        except UntypedParameter as error:
            position = error.position - 1
            known_already = position not in range(len(types)) or types[position] != UNTYPED
            if known_already or len(guesses) == _MAX_GUESSES:
                raise
            # A string in the place of such a parameter is text.
            types[position] = _text_type(draft, error.position)
            guesses.add(position)


def drafts(query: Query, driver: str, names: Sequence[str] | None) -> Iterator[Preparable]:
    """Yield the forms of a statement that the server may take, the best first.

    The last one is a refusal, if it is clear that it takes none.
    """
    parameters = query.parameters if query.escaped else None
    if not query.escaped or (driver == "asyncpg" and not parameters):
        yield _checked(Preparable(query.text))
        return
    if len(parameters or ()) > _MAX_PARAMETERS:
        yield Preparable(refusal=TOO_MANY)
        return
    if driver == "asyncpg" and names is None:
        names = [""] * len(parameters or ())
    numbered = Numbered(query.text, parameters, names)
    if driver == _CLIENT_SIDE and numbered.has_quoted:
        yield Preparable(refusal=IN_QUOTES)
        return
    if driver == _CLIENT_SIDE and may_be_position(query.text):
        yield Preparable(refusal=POSITION)
        return
    seen = set()
    for same in (False, True) if driver == _CLIENT_SIDE else (False,):
        for lists in (True, False):
            draft = _Draft(numbered, driver, lists=lists, same=same).preparable
            as_text = tuple(
                _text_type(draft, number) if kind == UNTYPED else kind
                for number, kind in enumerate(draft.types, start=1)
            )
            for types in (draft.types, as_text):
                form = _checked(replace(draft, types=types))
                if form not in seen:
                    seen.add(form)
                    yield form


def _text_type(form: Preparable, number: int) -> str:
    return "text[]" if number in form.arrays else "text"


def _checked(form: Preparable) -> Preparable:
    return form if len(form.text) <= MAX_WRITTEN else Preparable(refusal=TOO_LONG)


class _Draft:
    """Writes one form of a statement.

    `lists`: the values of an IN list become an array. `same`: equal values get one number, so that
    GROUP BY knows an expression of the SELECT list. `marks`: something for each place; a parameter
    gets another number where it is another.
    """

    def __init__(
        self,
        numbered: Numbered,
        driver: str,
        *,
        lists: bool,
        same: bool,
        marks: Iterator[str] | None = None,
    ) -> None:
        self._driver = driver
        self._names, self._values = numbered.names, numbered.values
        self._lists, self._same, self._marks = lists, same, marks
        #: What each number stands for, and its mark.
        self.sources: list[object] = []
        self.marked: list[str] = []
        self._numbers: dict[object, int] = {}
        self._types: list[str] = []
        self._given_names: list[str] = []
        self._arrays: set[int] = set()
        text, uses = numbered.text, numbered.uses
        self._once = {position for position, times in uses.items() if times == 1}
        pieces, position = [], 0
        while match := _PART.search(text, position):
            pieces.append(text[position : match.start()])
            position = end_of_hidden(match)
            pieces.append(self._piece(match) or text[match.start() : position])
        pieces.append(text[position:])
        self.preparable = Preparable(
            "".join(pieces), tuple(self._types), tuple(self._given_names), frozenset(self._arrays)
        )

    def _piece(self, match: re.Match[str]) -> str:
        """Return what stands for some parameters, nothing if there are none."""
        if match["number"]:
            return self._single(int(match["number"]) - 1)
        if match["typed"]:
            return f"{self._single(int(match['typed_number']) - 1)}::{match['typed']}"
        items = match["items"] or match["tuple"]
        if not items:
            return ""
        found = list(_ONE.finditer(items))
        array = self._array(found, is_tuple=bool(match["tuple"]))
        if array is None:
            return _ONE.sub(self._item, match[0])
        cast = found[0]["cast"]
        return f"{'<> ALL' if match['negated'] else '= ANY'} ({array}{f'{cast}[]' if cast else ''})"

    def _item(self, match: re.Match[str]) -> str:
        return self._single(int(match["number"]) - 1) + (match["cast"] or "")

    def _single(self, position: int) -> str:
        value = self._values[position]
        kind = type_of(value, self._driver)
        same = self._same and isinstance(value, _COMPARED)
        return self._numbered((kind, value) if same else position, kind, self._names[position])

    def _array(self, items: Sequence[re.Match[str]], *, is_tuple: bool) -> str | None:
        """Return the number of a parameter that has all values of a list, None if none can."""
        positions = [int(item["number"]) - 1 for item in items]
        values: Sequence[Any] = [self._values[position] for position in positions]
        if is_tuple:
            values = values[0] if isinstance(values[0], tuple) else ()
        same_cast = len({item["cast"] for item in items}) == 1
        # One that stands alone may be no list of SQLAlchemy's.
        alone = len(items) == 1 and not is_tuple
        if (
            not (self._lists and values and same_cast)
            or alone
            or not self._once.issuperset(positions)
        ):
            return None
        kinds = {type_of(value, self._driver) for value in values if value is not None}
        kind = type_of(list(values), self._driver)
        if any(isinstance(value, list | tuple | Mapping) for value in values):
            return None
        if kind == UNTYPED and len(kinds) > 1:
            return None
        number = self._numbered(
            tuple(positions), kind, _LAST_NUMBER.sub("", self._names[positions[0]])
        )
        self._arrays.add(int(number[1:]))
        return number

    def _numbered(self, key: object, kind: str, name: str) -> str:
        mark = "" if self._marks is None else next(self._marks)
        number = self._numbers.get((key, mark))
        if number is None:
            number = self._numbers[key, mark] = len(self._types) + 1
            self.sources.append(key)
            self.marked.append(mark)
            self._types.append(kind)
            self._given_names.append(name if _NAME.fullmatch(name) else f"value_{number}")
        return f"${number}"

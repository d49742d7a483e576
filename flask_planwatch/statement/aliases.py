"""The aliases of a statement whose digits do not matter, such as those that SQLAlchemy makes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlglot.tokens import TokenType

from ..runtime.pause import give_way
from .pieces import CLAUSES, DIGITS, POSITIONS, STEP, Piece, ends_operand, item_at

#: Before parentheses that are no operand: DISTINCT ON (a), OPERATOR(s.+).
_BEFORE_OPERANDS = frozenset({"ON", "OPERATOR"})

#: The kinds of names, and the clauses in which tables are locked: FOR UPDATE OF a, b.
_NAMES = frozenset({TokenType.VAR, TokenType.IDENTIFIER})
_LOCKING = frozenset({TokenType.FOR, TokenType.UPDATE})

#: What may be between the AS of a WITH query and its text.
_BEFORE_BODY = frozenset({"NOT", "MATERIALIZED"})


@dataclass(slots=True)
class _Scope:
    """Parentheses that are open, in which a name may be defined.

    `before` is the word before them, `clause` what began the latest clause in them.
    """

    start: int
    before: str = ""
    clause: TokenType | None = None
    recursive: bool = False
    queries: list[str] = field(default_factory=list)
    #: The WITH query whose text is in them.
    defines: str = ""

    @property
    def cast(self) -> bool:
        """Whether AS is before a type in them."""
        return self.before in ("CAST", "TRY_CAST")


class Aliases:
    """Finds the aliases of a statement whose digits do not matter: `n_17`, `anon_1`.

    Such a name is defined after AS, or right after an operand: `count(*) n_17`, `"user" u1`. It is
    used before a dot, after FOR UPDATE OF, or in GROUP BY and ORDER BY beside its definition. The
    name of a WITH query is used after FROM or JOIN, too, where that query is visible. Anywhere
    else, it may be a column or a table that happens to have that name.
    """

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = pieces
        self._defined: set[str] = set()
        #: Names with where the parentheses begin in which rows are sorted by them, and in which
        #: they are defined.
        self._sorted_by: set[tuple[str, int]] = set()
        self._aliased_in: set[tuple[str, int]] = set()
        #: Names that may be those of a column or a table somewhere.
        self._no_aliases: set[str] = set()
        #: How many WITH queries of a name are visible here.
        self._visible: Counter[str] = Counter()
        #: The names of WITH queries, by where their texts begin.
        self._bodies: dict[int, str] = {}
        #: What was before the parentheses that were closed last.
        self._left = ""

    def names(self) -> frozenset[str]:
        """Return the aliases."""
        scopes = [_Scope(-1)]
        for position, piece in enumerate(self._pieces):
            if position % STEP == 0:
                give_way()
            if piece.type is TokenType.L_PAREN:
                self._open(scopes, position)
            elif piece.type is TokenType.R_PAREN and len(scopes) > 1:
                self._leave(scopes)
            elif piece.type is TokenType.SEMICOLON:
                self._visible.clear()
            elif piece.type is TokenType.WITH:
                following = item_at(self._pieces, position + 1)
                scopes[-1].recursive = (
                    following is not None and following.type is TokenType.RECURSIVE
                )
            elif piece.type is TokenType.ALIAS and not scopes[-1].cast:
                self._define(position, scopes[-1])
            if piece.type in CLAUSES:
                scopes[-1].clause = piece.type
            if DIGITS.search(piece.text):
                if self._follows_operand(position):
                    self._add(piece.text, scopes[-1])
                else:
                    self._use(position, scopes[-1])
        no_aliases = self._no_aliases | {name for name, _ in self._sorted_by - self._aliased_in}
        return frozenset(
            name for name in self._defined if name not in no_aliases and DIGITS.search(name)
        )

    def _open(self, scopes: list[_Scope], position: int) -> None:
        before = self._pieces[position - 1].text.upper() if position else ""
        name = self._bodies.get(position, "")
        scopes.append(_Scope(position, before, defines=name))
        if name and scopes[-2].recursive:
            self._visible[name] += 1
            scopes[-2].queries.append(name)

    def _leave(self, scopes: list[_Scope]) -> None:
        scope = scopes.pop()
        self._left = scope.before
        self._visible.subtract(scope.queries)
        if scope.defines and not scopes[-1].recursive:
            # Without RECURSIVE, a query cannot mean itself.
            self._visible[scope.defines] += 1
            scopes[-1].queries.append(scope.defines)

    def _define(self, position: int, scope: _Scope) -> None:
        """Take the name before or after an AS."""
        body = self._body(position)
        following = item_at(self._pieces, position + 1)
        if body is not None and position:
            name = self._bodies[body] = self._pieces[position - 1].text
            self._defined.add(name)
        elif body is None and following is not None:
            self._add(following.text, scope)

    def _add(self, name: str, scope: _Scope) -> None:
        self._defined.add(name)
        self._aliased_in.add((name, scope.start))

    def _follows_operand(self, position: int) -> bool:
        """Whether a name, or a value, or an expression in brackets is right before this name."""
        if not position or self._pieces[position].type not in _NAMES:
            return False
        before = self._pieces[position - 1]
        if before.type is TokenType.R_PAREN:
            return self._left not in _BEFORE_OPERANDS
        if before.type is TokenType.PLACEHOLDER and before.text == "?":
            # More likely the operator of jsonb.
            return False
        return ends_operand(before.text)

    def _body(self, position: int) -> int | None:
        """Return where the WITH query that follows an AS begins, if one does."""
        position += 1
        while (piece := item_at(self._pieces, position)) and piece.text.upper() in _BEFORE_BODY:
            position += 1
        return position if piece is not None and piece.type is TokenType.L_PAREN else None

    def _use(self, position: int, scope: _Scope) -> None:
        """Take a name where it is used, if that is no use of an alias."""
        name = self._pieces[position].text
        before = self._pieces[position - 1].type if position else None
        following = item_at(self._pieces, position + 1)
        after = following.type if following is not None else None
        listed = scope.clause if before is TokenType.COMMA else None
        if before in POSITIONS or listed in POSITIONS:
            self._sorted_by.add((name, scope.start))
        elif listed in _LOCKING or (position and self._pieces[position - 1].text.upper() == "OF"):
            # What is locked is in FROM, too.
            pass
        elif before in (TokenType.FROM, TokenType.JOIN):
            if after is TokenType.DOT or self._visible[name] <= 0:
                self._no_aliases.add(name)
        elif before is TokenType.DOT or after is not TokenType.DOT:
            begins_query = after is TokenType.ALIAS and self._body(position + 1) is not None
            if scope.cast or not (before is TokenType.ALIAS or begins_query):
                self._no_aliases.add(name)

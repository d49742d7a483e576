"""Removes values from what may leave the process.

A constant in an expression around a column is part of the structure if it names a part of the
column's value: a JSON key, the field of `date_trunc`, the position of `substr`. Only the cases in
the lists below count, and only short constants. Every other constant becomes `?`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sqlglot.errors import SqlglotError
from sqlglot.tokens import Token, TokenType

from .figures import MAX_NAME_BYTES
from .predicate import Conjunct, Tokens, conjuncts, predicates, tokenize
from .schema import Structural
from .text import items
from .tree import Plan

#: Operators that a path into a JSON document or an array follows.
_PATHS = frozenset(
    {TokenType.ARROW, TokenType.DARROW, TokenType.HASH_ARROW, TokenType.DHASH_ARROW}
    | {TokenType.L_BRACKET}
)

#: Functions with a field, format, path or configuration among their arguments.
_CALLS_WITH_NAMES = frozenset(
    {"date_trunc", "date_part", "date_bin", "to_char", "to_date", "to_timestamp", "timezone"}
    | {"to_tsvector", "setweight", "encode", "decode", "json_extract_path", "jsonb_extract_path"}
    | {"json_extract_path_text", "jsonb_extract_path_text"}
)

#: Functions with positions, lengths or precisions among their arguments.
_CALLS_WITH_POSITIONS = frozenset(
    {"substr", "substring", "left", "right", "split_part", "round", "trunc", "mod", "div"}
    | {"overlay", "lpad", "rpad", "regexp_replace", "array_length", "width_bucket"}
)

_ARITHMETIC = frozenset({"+", "-", "*", "/", "%"})

#: Constants that mean "nothing", as in `coalesce(name, '')`, unless a column is compared with them.
_NEUTRAL = frozenset({"", "0", "1"})

#: Operators that make a value of two. All others compare, except those of paths.
_MAKE_A_VALUE = _ARITHMETIC | {"||", "&", "|", "#", "^"}

_OPERATOR = re.compile(r"[-+*/<>=~!@#%^&|?]+")
_COMPARING = frozenset({TokenType.IS, TokenType.LIKE, TokenType.ILIKE, TokenType.WHEN})

#: What separates expressions in the same parentheses, or closes them.
_APART = frozenset(
    {TokenType.COMMA, TokenType.AND, TokenType.OR, TokenType.WHEN, TokenType.THEN, TokenType.ELSE}
    | {TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.END}
)

#: What compares everything in its parentheses with something.
_COMPARING_CALLS = frozenset({"any", "all", "some", "in", "nullif", "row"})

#: Properties of a node that are names and figures. Only these are kept as they are. What else a
#: node has, such as its output, is not needed to understand the plan.
WITHOUT_VALUES = (
    *("Node Type", "Strategy", "Partial Mode", "Parent Relationship", "Operation", "Command"),
    *("Schema", "Relation Name", "Alias", "Index Name", "Scan Direction", "Join Type"),
    *("Subplan Name", "CTE Name", "Tuplestore Name", "Function Name", "Table Function Name"),
    *("Custom Plan Provider", "Parallel Aware", "Async Capable", "Single Copy", "Inner Unique"),
    *("Disabled", "Startup Cost", "Total Cost", "Plan Rows", "Plan Width", "Workers Planned"),
    *("Subplans Removed", "Planned Partitions", "Cache Mode", "Sampling Method"),
    *("Conflict Resolution", "Actual Rows", "Actual Loops", "Heap Fetches"),
    *("Rows Removed by Filter", "Rows Removed by Join Filter", "Rows Removed by Index Recheck"),
)

#: A property that lists names.
_NAMES = "Conflict Arbiter Indexes"

#: Properties that list expressions around columns.
_KEYS = ("Sort Key", "Presorted Key", "Group Key")

#: Properties that are expressions of any kind: each constant in them may be a value.
_EXPRESSIONS = ("Order By", "Run Condition", "Window", "Cache Key", "Function Call")

#: What is shown instead of a value, and instead of a condition that could not be read.
MASK = "?"
UNREADABLE = "(not shown: it could not be read)"

#: How a literal begins, or a name in quotes, which may lack its end.
_LITERAL = re.compile(r"""['"$]|(?<!\w)\d""")

LITERALS = frozenset(
    kind for kind in TokenType if kind.name.endswith("_STRING") or kind.name in {"STRING", "NUMBER"}
)


def scrub_plan(plan: Plan, varying: frozenset[str] = frozenset()) -> Plan:
    """Return the plan without compared values, built anew from the leaves up.

    `varying` are the masked expressions whose constants are known to be values, too.
    """
    read = predicates(plan)
    scrubbed: dict[int, dict[str, Any]] = {}
    for node, document in zip(reversed(plan.nodes), reversed(plan.documents), strict=True):
        conditions = {
            kind: scrub_conjuncts(conjuncts, varying) or UNREADABLE
            for kind, conjuncts in read[id(node)]
        }
        below = [scrubbed.pop(id(child)) for child in node.children]
        scrubbed[id(node)] = _scrubbed(document, conditions, varying) | {"Plans": below}
    return Plan.from_json({"Plan": scrubbed[id(plan.root)]})


def _scrubbed(
    document: Mapping[str, Any], conditions: Mapping[str, str], varying: frozenset[str]
) -> dict[str, Any]:
    """Return the properties of a node without compared values, in their order."""
    kept: dict[str, Any] = {"Node Type": str(document["Node Type"])}
    for key, value in document.items():
        if key in conditions:
            kept[key] = conditions[key]
        elif key in WITHOUT_VALUES and isinstance(value, str | int | float):
            kept[key] = value
        elif key == _NAMES and isinstance(value, list):
            kept[key] = items(value, str)
        elif key in _KEYS and isinstance(value, list):
            kept[key] = [shown(text, varying) for text in items(value, str)]
        elif key in _EXPRESSIONS and isinstance(value, str):
            kept[key] = mask(value)
    return kept


def scrub_condition(condition: str, varying: frozenset[str] = frozenset()) -> str:
    """Return a condition of a plan without compared values; for `varying` see scrub_plan."""
    return scrub_conjuncts(conjuncts(condition), varying) or UNREADABLE


def scrub_conjuncts(conjuncts: Iterable[Conjunct], varying: frozenset[str]) -> str:
    """Return predicates, joined by AND, without compared values."""
    parts = []
    for conjunct in conjuncts:
        # The constants around a column are structure.
        left, right = (
            shown(side.text, varying) if side.columns else mask(side.text)
            for side in (conjunct.left, conjunct.right)
        )
        if conjunct.operator == "= ANY":
            right = f"({right})"
        whole = f"{left} {conjunct.operator} {right}"
        parts.append(whole if conjunct.operator else mask(conjunct.text))
    return " AND ".join(f"({part})" for part in parts)


def shown(expression: str, varying: frozenset[str]) -> Structural:
    """Return an expression around a column without its values; for `varying` see scrub_plan."""
    masked = mask(expression)
    return Structural(masked if masked in varying else mask(expression, keep_names=True))


def structural(expression: str, varying: frozenset[str]) -> Structural | None:
    """Return an expression around a column as it is, None if a constant in it is a value."""
    return Structural(expression) if shown(expression, varying) == expression else None


def mask(text: str, *, keep_names: bool = False) -> str:
    """Return `text` with each literal replaced; `keep_names` leaves the structural ones."""
    if not _LITERAL.search(text):
        return text
    try:
        reading = tokenize(text)
    except SqlglotError:
        return UNREADABLE
    pieces, position = [], 0
    for index, token in enumerate(reading.tokens):
        if token.start < position or token.token_type not in LITERALS:
            continue
        if _counts_something(reading, index) or (keep_names and is_structural(reading, index)):
            continue
        pieces += [text[position : token.start], MASK]
        position = literal_end(text, token)
    return "".join([*pieces, text[position:]])


def literal_end(text: str, token: Token) -> int:
    """Return where a token ends, with the digits that sqlglot leaves over of `8_675_309`."""
    end: int = token.end + 1
    if token.token_type is TokenType.NUMBER:
        while end < len(text) and (text[end].isalnum() or text[end] == "_"):
            end += 1
    return end


def holds_value(expression: str) -> bool:
    """Whether an expression around a column has a constant that is no part of the structure."""
    return mask(expression, keep_names=True) != expression


def is_structural(reading: Tokens, index: int) -> bool:
    """Whether the literal at this token names a part of the value beside it."""
    tokens = reading.tokens
    literal, before = tokens[index], tokens[index - 1] if index else None
    after = tokens[index + 1] if index + 1 < len(tokens) else None
    # A structural constant names something.
    if len(literal.text) > MAX_NAME_BYTES:
        return False
    neutral = literal.text in _NEUTRAL or not any(map(str.isalnum, literal.text))
    if neutral and not _is_compared(reading, index):
        return True
    if before is not None and before.token_type in _PATHS:
        # An array that is spelled out holds values.
        return index < 2 or tokens[index - 2].token_type is not TokenType.ARRAY
    if before is not None and before.text.upper() == "ZONE":
        return True
    if literal.token_type is TokenType.NUMBER:
        beside = {token.text for token in (before, after) if token is not None}
        if beside & _ARITHMETIC:
            return True
    if after is not None and before is not None and before.text in _ARITHMETIC:
        following = reading.text[after.end : after.end + 10]
        return after.token_type is TokenType.DCOLON and "interval" in following
    return _enclosing_call(reading, index) in (
        _CALLS_WITH_NAMES
        if literal.token_type is TokenType.STRING
        else _CALLS_WITH_NAMES | _CALLS_WITH_POSITIONS
    )


def _is_compared(reading: Tokens, index: int) -> bool:
    """Whether what begins at this token, a literal or a parenthesis, is compared with something."""
    tokens, opening = reading.tokens, reading.around[index]
    before = tokens[opening - 1].text.upper() if opening > 0 else ""
    if before == "ARRAY" or _enclosing_call(reading, index) in _COMPARING_CALLS:
        return True
    operators = [token for token in _beside(reading, index) if _is_operator(token)]
    if operators or opening < 0:
        return not all(
            operator.text in _MAKE_A_VALUE or operator.token_type in _PATHS
            for operator in operators
        )
    # A literal alone in its parentheses is compared if these are.
    return index == opening + 1 and not before.isidentifier() and _is_compared(reading, opening)


def _beside(reading: Tokens, index: int) -> Iterator[Token]:
    """Yield the tokens around this one, as far as they belong to the same expression.

    The WHEN that it may begin with is one of them.
    """
    tokens, around = reading.tokens, reading.around
    for step in (-1, 1):
        position = index + step
        while 0 <= position < len(tokens) and position != around[index]:
            if around[position] == around[index]:
                if step < 0 and tokens[position].token_type is TokenType.WHEN:
                    yield tokens[position]
                if tokens[position].token_type in _APART:
                    break
                yield tokens[position]
            position += step


def _is_operator(token: Token) -> bool:
    if token.token_type in LITERALS:
        return False
    return bool(_OPERATOR.fullmatch(token.text)) or token.token_type in _COMPARING


def _enclosing_call(reading: Tokens, index: int) -> str:
    """Return the name of the function whose arguments hold this token, or nothing."""
    name = _before_opening(reading, index)
    return reading.tokens[name].text.lower() if name >= 0 else ""


def _before_opening(reading: Tokens, index: int) -> int:
    """Return the position of the token before the parenthesis around this one, or -1."""
    position = reading.around[index]
    while position >= 0 and reading.tokens[position].token_type is not TokenType.L_PAREN:
        position = reading.around[position]
    return max(position - 1, -1)


def _counts_something(reading: Tokens, index: int) -> bool:
    """Whether the number is a name or a size, as in `SubPlan 2`, `$0` or `numeric(10,2)`."""
    if index == 0:
        return False
    before = reading.tokens[index - 1]
    if before.token_type is TokenType.PARAMETER or before.text in {"SubPlan", "InitPlan", "CTE"}:
        return True
    name = _before_opening(reading, index)
    return name >= 1 and reading.tokens[name - 1].token_type is TokenType.DCOLON

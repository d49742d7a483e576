"""No regular expression of PlanWatch's is slow on any text: its time grows like the text."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from re import _parser
from time import thread_time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import flask_planwatch
from flask_planwatch.capture.state_change import MAX_LENGTH, changes, may_change_state

pytestmark = pytest.mark.slow

#: Each is four times as long as the one before, at the end; an exponential one is caught early.
LENGTHS = (12, 16, 20, 24, 28, 32, 48, 64, 96, 160, 390, 1562, 6250)
LONGEST = 100_000
FIRST_COMPARED = 390

#: Seconds that nothing short may take, and in which no growth can be measured.
SHORT = 0.02
MEASURABLE = 0.002

#: How much longer a text four times as long may take: it would be 16 times if it were quadratic.
GROWTH = 9

#: How often it must have grown like this in a row: the garbage of other tests is collected, too.
ATTEMPTS = 4

#: Pieces of texts that make expressions go back.
PIECES = [
    *"'\"\\()[]{}<>;:,.%$?!=+-*/|&^~@#_ \t\n0aAéß\0",
    *("''", '""', "\\'", "/*", "*/", "--", "--\n", "$$", "$a$", "%s", "%%", "%(a)s", "$1", "::"),
    *("set ", "SELECT ", " IN (", "?, ", "a.b", "ab ", "1, ", "a(", "')", "('", "::text", "__["),
]


def modules():
    """Return all modules of the package that can be imported."""
    yield flask_planwatch
    for info in pkgutil.walk_packages(flask_planwatch.__path__, "flask_planwatch."):
        yield importlib.import_module(info.name)


def within(value, seen):
    """Yield the compiled patterns in a value, its attributes and its items."""
    if isinstance(value, re.Pattern):
        yield value
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, dict):
        for item in (*value.keys(), *value.values()):
            yield from within(item, seen)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from within(item, seen)
    elif str(getattr(value, "__module__", "")).startswith("flask_planwatch"):
        if inspect.isclass(value):
            for item in vars(value).values():
                yield from within(item, seen)
        elif inspect.isfunction(value):
            yield from within(value.__defaults__, seen)
            yield from within(value.__kwdefaults__, seen)
            contents = inspect.getclosurevars(value).nonlocals.values()
            yield from within(list(contents), seen)


def in_source(module):
    """Yield the patterns that functions give to `re`, with `name` for what they put in."""
    source = Path(module.__file__).read_text()
    # Most modules have none, and to parse them takes a second at the start of each run.
    if not re.search(r"\bre\.", source):
        return
    for node in ast.walk(ast.parse(source)):
        is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if not is_call or getattr(node.func.value, "id", "") != "re" or not node.args:
            continue
        if isinstance(node.args[0], ast.JoinedStr):
            pieces = node.args[0].values
            text = "".join(
                getattr(piece, "value", "") if isinstance(piece, ast.Constant) else "name"
                for piece in pieces
            )
            yield re.compile(text, flags_of(node, module))
        elif isinstance(node.args[0], ast.Constant) and node.func.attr != "compile":
            yield re.compile(node.args[0].value)


def flags_of(call, module):
    """Return the flags in a call of a function of `re`, by the names that the module knows."""
    named = {word.arg: word.value for word in call.keywords}
    signature = inspect.signature(getattr(re, call.func.attr))
    flags = signature.bind(*call.args, **named).arguments.get("flags")
    return eval(ast.unparse(flags), vars(module)) if flags else 0


def found():
    """Return all patterns, by where they are."""
    patterns = {}
    for module in modules():
        seen = set()
        for name, value in vars(module).items():
            for pattern in within(value, seen):
                patterns.setdefault(pattern, f"{module.__name__.partition('.')[2]}.{name}")
        for pattern in in_source(module):
            patterns.setdefault(pattern, f"{module.__name__.partition('.')[2]}: {pattern.pattern}")
    return {place: pattern for pattern, place in patterns.items()}


PATTERNS = found()


def uses_of(pattern):
    """Return what uses a pattern; `sub` searches from each place, as all else does."""
    return lambda text: (pattern.fullmatch(text), pattern.sub("", text))


def seconds(use, text):
    """Return what a use takes of the processor."""
    started = thread_time()
    use(text)
    return thread_time() - started


def refuse_slow(use, start, pump, end, lengths=LENGTHS):
    """Raise AssertionError if a use takes ever longer on ever longer texts."""

    def text(length):
        return (start + pump * (length // len(pump)))[:length] + end

    def least(length):
        return min(seconds(use, text(length)) for _ in range(3))

    def grows_faster(shorter, longer):
        return least(longer) > GROWTH * max(least(shorter), MEASURABLE / 4)

    before = MEASURABLE / 4
    for shorter, longer in pairwise(lengths):
        taken = seconds(use, text(longer))
        if longer < FIRST_COMPARED:
            slow = taken > SHORT and least(longer) > SHORT
        else:
            # Most are known to be linear by one measurement; only a suspicion is worth more.
            slow = taken > max(2 * MEASURABLE, GROWTH * before) and all(
                grows_faster(shorter, longer) for _ in range(ATTEMPTS)
            )
            before = max(before, taken)
        assert not slow, (
            f"{taken * 1000:.1f} ms for {longer} characters of {start!r} + {pump!r}… + {end!r}"
        )


def own_pieces(pattern):
    """Return what a text that matches begins with, as far as that goes: it makes a pattern hope."""
    pieces = set()
    for choice in range(4):
        text = sample(_parser.parse(pattern.pattern, pattern.flags), choice)
        pieces |= {text[:length] for length in range(2, min(len(text), 40) + 1)}
    return sorted(pieces)


#: Characters of each kind.
KINDS = {
    "CATEGORY_DIGIT": "1",
    "CATEGORY_NOT_DIGIT": "a",
    "CATEGORY_SPACE": " ",
    "CATEGORY_NOT_SPACE": "a",
    "CATEGORY_WORD": "a",
    "CATEGORY_NOT_WORD": "-",
}


def sample(nodes, choice):
    """Return a text that a parsed pattern matches; `choice` tells which of several ways."""
    text = ""
    for kind, what in nodes:
        match str(kind):
            case "LITERAL":
                text += chr(what)
            case "NOT_LITERAL" | "ANY":
                text += "x"
            case "IN":
                text += one_of(what, choice)
            case "BRANCH":
                text += sample(what[1][choice % len(what[1])], choice)
            case "SUBPATTERN":
                text += sample(what[3], choice)
            case "ATOMIC_GROUP":
                text += sample(what, choice)
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                text += sample(what[2], choice) * max(what[0], 1)
            case _:
                assert str(kind) in {"AT", "ASSERT", "ASSERT_NOT", "GROUPREF"}
    return text


def one_of(members, choice):
    """Return a character of a class."""
    if str(members[0][0]) == "NEGATE":
        left_out = {chr(what) for kind, what in members[1:] if str(kind) == "LITERAL"}
        left_out |= {KINDS[str(what)] for kind, what in members[1:] if str(kind) == "CATEGORY"}
        return next(one for one in "xa 1-_(" if one not in left_out)
    kind, what = members[choice % len(members)]
    if str(kind) == "CATEGORY":
        return KINDS[str(what)]
    return chr(what[0] if str(kind) == "RANGE" else what)


@pytest.mark.parametrize("place", PATTERNS)
def test_each_expression_is_linear(place):
    pattern = PATTERNS[place]
    for piece in [*PIECES, *own_pieces(pattern)]:
        for start, end in (("", ""), ("('", "\0")):
            refuse_slow(uses_of(pattern), start, piece, end)
    for character in filter(lambda piece: len(piece) == 1, PIECES):
        refuse_slow(uses_of(pattern), "", character, "", (LENGTHS[-1], LONGEST // 4, LONGEST))


@pytest.mark.parametrize("place", PATTERNS)
def test_each_expression_is_linear_on_mixtures(place):
    pattern = PATTERNS[place]
    pieces = st.sampled_from([*PIECES, *own_pieces(pattern)])

    @settings(
        max_examples=30,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.lists(pieces, max_size=2).map("".join),
        st.lists(pieces, min_size=2, max_size=4).map("".join),
        st.lists(pieces, max_size=2).map("".join),
    )
    def is_linear(start, pump, end):
        refuse_slow(uses_of(pattern), start, pump, end)

    is_linear()


def read_changes(text):
    """Read what a statement changes, as the application's thread does."""
    may_change_state(text)
    with suppress(LookupError):
        list(changes(text, ("x",) * len(text)))


@pytest.mark.parametrize(
    "start",
    ["SET a.b TO ", "SELECT set_config(", "SELECT f(", "CREATE TABLE ", "SELECT 1; "],
)
def test_to_read_a_change_is_linear(start):
    pieces = [
        "set_config('a.b', %s, true), ",
        "(%s)::text",
        "CAST(",
        "a.",
        "x, ",
        "'a' ",
        "into temp ",
    ]
    for piece in [*PIECES, *pieces]:
        refuse_slow(read_changes, start, piece, "", (MAX_LENGTH // 4, MAX_LENGTH))


def test_the_expressions_are_found():
    """So that none is forgotten: in modules, classes, containers, and written where it is used."""
    assert len(PATTERNS) > 60
    assert {"capture.statistics._EXPLAINABLE", "capture.sql_text._PIECE"} <= set(PATTERNS)
    assert re.compile(r"(?:a|b)") in within({"key": [(re.compile(r"(?:a|b)"),)]}, set())


@pytest.mark.parametrize(
    ("pattern", "piece"),
    [(r"'(?:[^']|'')*'(?:[^']|'')*;$", "'"), (r"(?:a+)+;", "a"), (r"\w+\s*\(", "a")],
)
def test_what_is_slow_is_found(pattern, piece):
    with pytest.raises(AssertionError, match="ms for"):
        refuse_slow(uses_of(re.compile(pattern)), "", piece, "")

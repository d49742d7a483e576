"""Makes all that people read of a finding: other modules declare templates and hand over facts.

In a template,

- `{name}` is a fact as it is, `{name:form}` a fact in one of FORMS, or in a format of Python's;
- `[, of which {dead:number} are dead]` is left out if one of its facts is None or empty;
- `[[` and `]]` are brackets.

A fact may be a `Template` itself, which is filled in from the same facts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict


class Template(str):
    """A part of a sentence that is chosen by a rule, and filled in from the sentence's facts."""

    __slots__ = ()


class Said(TypedDict):
    """What a finding says, as keyword arguments of a Hit."""

    what: str
    why: str
    problem: str
    hint: str


@dataclass(frozen=True)
class Words:
    """The templates of what a rule says of a hit; for `what`, `why` and `hint` see Hit."""

    what: str
    why: str
    problem: str
    hint: str = ""

    def of(self, **facts: object) -> Said:
        """Return them with the facts filled in."""
        return Said(
            what=say(self.what, **facts),
            why=say(self.why, **facts),
            problem=say(self.problem, **facts),
            hint=say(self.hint, **facts),
        )


def say(template: str, /, **facts: object) -> str:
    """Return a template with the facts filled in."""
    return _filled(template, facts)


def sentences(*parts: str) -> str:
    """Return sentences one after the other, without those that are empty."""
    return " ".join(filter(None, parts))


def _counted(count: float, one: str, many: str) -> str:
    return f"{count:,.0f} {one if round(count) == 1 else many}"


def _duration(ms: float) -> str:
    return f"{ms:,.{0 if ms >= 10 else 1}f} ms"


def _cost(cost: float) -> str:
    return f"{cost:,.0f}" if cost >= 10 else f"{cost:.2g}"


def _with_article(name: str) -> str:
    # A capital U is that of UUID and Unique.
    return f"{'an' if name[:1] in 'aeiouAEIO' else 'a'} {name}"


def _size(of_bytes: int) -> str:
    if of_bytes < 1_000_000:
        # A page is the least.
        return f"{max(of_bytes, 8192) / 1000:,.0f} kB"
    return f"{of_bytes / 1_000_000:,.1f} MB"


#: How a fact is written, by the name that templates give it.
FORMS: Mapping[str, Callable[[Any], str]] = {
    "number": lambda number: f"{number:,.0f}",
    "percent": lambda share: f"{share:.0%}",
    # Of whole milliseconds, of tenths, and of tenths where that matters.
    "ms": lambda ms: f"{ms:,.0f} ms",
    "exact_ms": lambda ms: f"{ms:,.1f} ms",
    "short_ms": _duration,
    "cost": _cost,
    "rows": lambda count: _counted(count, "row", "rows"),
    "scans": lambda count: _counted(count, "scan", "scans"),
    "sets": lambda count: _counted(count, "set", "sets"),
    "size": _size,
    "times": lambda count: "once" if round(count) == 1 else f"{count:,.0f} times",
    "list": ", ".join,
    "semicolon": "; ".join,
    "and": " and ".join,
    "comma_and": ", and ".join,
    "together_with": " together with ".join,
    "or": " or ".join,
    "an": _with_article,
    "or_an": lambda names: " or ".join(map(_with_article, names)),
}

_PART = re.compile(
    r"""\[\[ | \]\]
    | \[(?P<optional>[^\[\]]*)\]
    | \{(?P<name>\w+)(?::(?P<form>[^{}]*))?\}""",
    re.VERBOSE,
)
_NAME = re.compile(r"\{(\w+)")


def _filled(template: str, facts: Mapping[str, object]) -> str:
    def fill(part: re.Match[str]) -> str:
        optional, name = part["optional"], part["name"]
        if name is not None:
            return _formed(facts[name], part["form"] or "", facts)
        if optional is None:
            return part[0][0]
        there = all(_is_there(facts[fact]) for fact in _NAME.findall(optional))
        return _filled(optional, facts) if there else ""

    return _PART.sub(fill, template)


def _formed(fact: object, form: str, facts: Mapping[str, object]) -> str:
    if isinstance(fact, Template):
        return _filled(fact, facts)
    return FORMS[form](fact) if form in FORMS else format(fact, form)


def _is_there(fact: object) -> bool:
    return fact is not None and (isinstance(fact, int | float) or bool(fact))

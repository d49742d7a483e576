"""What the documentation takes from the code and from real plans, as reStructuredText."""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pictures import plans_picture

from flask_planwatch import SkipReason
from flask_planwatch.rules import Rule, modules
from flask_planwatch.settings import SETTINGS, Setting

#: Real plans, a file for each rule, which tests/test_docs_plans.py writes.
PLANS = Path(__file__).parent / "plans"

#: What to do about each reason for a skip.
SKIPS = Path(__file__).parent / "skips.toml"


def shown(value: Any) -> str:
    """Return a default as somebody would write it in `app.config`."""
    if value == float("inf"):
        return "None"
    if isinstance(value, float) and value == int(value):
        value = int(value)
    return f'"{value}"' if isinstance(value, str) else repr(value)


def defaults(setting: Setting) -> tuple[str, str, str]:
    """Return the default, the one in debug mode, and the one in an app under test."""
    debug, testing = setting.debug_default, setting.testing_default
    return (
        shown(setting.default),
        shown(setting.default if debug is None else debug),
        shown(setting.default if testing is None else testing),
    )


def settings_source(settings: Iterable[Setting] = SETTINGS) -> list[str]:
    """Return a table of the settings, then an entry for each of them."""
    lines = [
        ".. list-table::",
        "   :header-rows: 1",
        "   :widths: 52 16 16 16",
        "",
        "   * - Key",
        "     - Default",
        "     - In debug mode",
        "     - In tests",
    ]
    entries = []
    for setting in settings:
        default, debug, testing = defaults(setting)
        lines += [f"   * - :confval:`{setting.key}`"]
        lines += [f"     - ``{value}``" for value in (default, debug, testing)]
        described = f"``{default}``"
        if debug != default:
            described += f"; in debug mode ``{debug}``"
        if testing != default:
            described += f"; in tests ``{testing}``"
        entries += [
            "",
            f".. confval:: {setting.key}",
            f"   :type: {setting.kind.expects}",
            f"   :default: {described}",
            "",
            f"   {setting.help}",
        ]
    return lines + entries


def rule_pages(rules: Iterable[Rule] | None = None) -> dict[str, str]:
    """Return each rule's page, the docstring of its module, in order of precedence."""
    return {rule.NAME: f"{inspect.getdoc(rule) or ''}\n" for rule in rules or modules()}


def pages_with_examples() -> dict[str, str]:
    """Return each rule's page with its example at the end."""
    return {
        name: "\n".join([text, *example_source(read_example(name), f"{name}.svg"), ""])
        for name, text in rule_pages().items()
    }


def rule_pictures() -> dict[str, str]:
    """Return each rule's picture of the plans in its example, as SVG."""
    return {name: plans_picture(read_example(name)) for name in rule_pages()}


def read_example(name: str) -> dict[str, str]:
    """Return what a rule's example consists of, in the order of its file."""
    example = tomllib.loads((PLANS / f"{name}.toml").read_text(encoding="utf-8"))
    return {key: value.removesuffix("\n") for key, value in example.items()}


def example_source(example: dict[str, str], picture: str) -> list[str]:
    """Return the section that shows a statement's plan before and after its advice was followed."""
    lines = ["Example", "-------", ""]
    lines += [
        "PlanWatch's tests ran this statement on a PostgreSQL server, which printed these plans."
    ]
    lines += ["", f".. image:: {picture}", "   :alt: The plans below as trees of steps"]
    lines += code_block("python", "Statement", example["sqlalchemy"])
    lines += code_block("postgresql", "Statement as SQL", example["sql"])
    lines += code_block("text", "Plan before", example["before"])
    if "finding" in example:
        return [*lines, "", "Finding", f"   {prose(example['finding'])}"]
    if "ddl" in example:
        lines += code_block("postgresql", "Advice", example["ddl"])
    else:
        lines += ["", "Advice", f"   {prose(example['rewrite'])}"]
    lines += ["", "Verdict", f"   {prose(example['verdict'])}"]
    if "rewritten_sql" in example:
        lines += code_block("python", "Statement rewritten", example["rewritten_sqlalchemy"])
        lines += code_block("postgresql", "Rewritten as SQL", example["rewritten_sql"])
    return lines + code_block("text", "Plan after", example["after"])


def code_block(language: str, caption: str, text: str) -> list[str]:
    """Return a block of code with a caption."""
    lines = [f"   {line}".rstrip() for line in text.splitlines()]
    return ["", f".. code-block:: {language}", f"   :caption: {caption}", "", *lines]


def prose(text: str) -> str:
    """Return a text in which no character means anything to reStructuredText."""
    return re.sub(r"([\\`*_|])", r"\\\1", text)


def rules_source() -> list[str]:
    """Return the list of the rules' pages."""
    return [".. toctree::", "   :maxdepth: 1", "", *(f"   {name}" for name in rule_pages())]


def skips_source() -> list[str]:
    """Return the reasons for a skip, each with its sentence and what to do about it."""
    what_to_do = tomllib.loads(SKIPS.read_text(encoding="utf-8"))
    lines = []
    for reason in SkipReason:
        lines += [f"``{reason}``", f"   {reason.explanation[:1].upper()}{reason.explanation[1:]}."]
        advice = f"*What to do:* {what_to_do[reason]}"
        lines += ["", *(f"   {line}" for line in advice.splitlines()), ""]
    return lines


def plan_source(name: str, which: str) -> list[str]:
    """Return a plan of a rule's example, `before` or `after`, as a block of code."""
    lines = [f"   {line}".rstrip() for line in read_example(name)[which].splitlines()]
    return [".. code-block:: text", "", *lines]

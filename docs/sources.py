"""What the documentation takes from the code, as reStructuredText: settings, rules, skips."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from flask_planwatch import SkipReason
from flask_planwatch.rules import RULES, Rule
from flask_planwatch.settings import SETTINGS, Setting


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
            f"   :type: {setting.expects}",
            f"   :default: {described}",
            "",
            f"   {setting.help}",
        ]
    return lines + entries


def rule_pages(rules: Iterable[Rule] = RULES) -> dict[str, str]:
    """Return each rule's page, the docstring of its module, in order of precedence."""
    return {rule.NAME: f"{inspect.getdoc(rule) or ''}\n" for rule in rules}


def rules_source() -> list[str]:
    """Return the list of the rules' pages."""
    return [".. toctree::", "   :maxdepth: 1", "", *(f"   {name}" for name in rule_pages())]


def skips_source() -> list[str]:
    """Return the reasons for a skip, each with its sentence."""
    lines = []
    for reason in SkipReason:
        lines += [f"``{reason}``", f"   {reason.explanation[:1].upper()}{reason.explanation[1:]}."]
    return lines

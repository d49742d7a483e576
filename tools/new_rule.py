"""Begins a new rule: its file, its place in the list of rules, and its tests.

    python -m tools.new_rule large-offset

Raises SystemExit with the reason if the name is no rule's name, or is taken.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from string import Template

ROOT = Path(__file__).parent.parent
TEMPLATES = Path(__file__).parent / "templates"

#: Names are in kebab case, as in settings and logs.
_NAME = re.compile(r"[a-z]+(?:-[a-z]+)+")

#: The last entry of the list of rules.
_LAST_ENTRY = re.compile(r'(RULES: tuple\[str, \.\.\.\] = \(\n(?: {4}"[a-z-]+",\n)*)(?=\)\n)')


def create(name: str, root: Path = ROOT) -> list[Path]:
    """Write the stubs of a rule below `root`, and return the files that were made or changed."""
    if not _NAME.fullmatch(name):
        raise SystemExit(f"{name!r} is no name for a rule: use words joined by hyphens.")
    module = name.replace("-", "_")
    rule = root / "flask_planwatch" / "rules" / f"{module}.py"
    test = root / "tests" / "rules" / f"test_{module}.py"
    if rule.exists() or test.exists():
        raise SystemExit(f"There is a rule {name!r} already.")
    for path, template in ((rule, "rule.txt"), (test, "test.txt")):
        text = Template((TEMPLATES / template).read_text("utf-8"))
        path.write_text(text.substitute(name=name, line="=" * len(name)), "utf-8")
    rules = rule.parent / "__init__.py"
    text, count = _LAST_ENTRY.subn(
        lambda found: f'{found[1]}    "{name}",\n', rules.read_text("utf-8")
    )
    if count != 1:
        raise SystemExit(f"{rules.name} has no list of rules to add a line to.")
    rules.write_text(text, "utf-8")
    return [rule, rules, test]


def main() -> None:
    """Create the rule that the command line names, and say which files there are to fill in."""
    parser = argparse.ArgumentParser(prog="python -m tools.new_rule")
    parser.add_argument("name", help="in kebab case, as in large-offset")
    for path in create(parser.parse_args().name):
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()

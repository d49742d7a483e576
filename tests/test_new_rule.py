"""A rule is begun by one command, and the one that the documentation shows works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools import new_rule

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "docs" / "examples" / "new_rule"


@pytest.fixture
def copy(tmp_path):
    """A copy of the project with the stubs of a rule in it."""
    for name in ("docs", "flask_planwatch", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "recorded", "_build")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    for name in ("README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def run(copy, *arguments, **variables):
    """Run pytest on the copy's own package; return what became of it."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *arguments,
        ],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy), **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )


def test_the_example_of_the_documentation_works(copy):
    written = new_rule.create("large-offset", copy)
    rule, rules, test = (path.relative_to(copy) for path in written)
    assert rules == Path("flask_planwatch/rules/__init__.py")
    on_first = ("-k", "first", str(test))
    begun = run(copy, *on_first)
    # What is not written yet fails, and says so.
    assert "large-offset finds no problem in 'TODO: name a statement with" in begun.stdout
    assert "2 failed, 1 passed" in begun.stdout, begun.stdout
    shutil.copy(EXAMPLE / rule.name, copy / rule)
    shutil.copy(EXAMPLE / test.name, copy / test)
    done = run(copy, *on_first)
    assert done.returncode == 0, done.stdout


#: The tests that ask of each rule for more than its own tests.
OF_EACH_RULE = [f"tests/test_{name}.py" for name in ("docs", "docs_plans", "values", "words")]


@pytest.mark.slow
def test_what_is_asked_of_each_rule_needs_nothing_but_its_file_and_its_tests(copy):
    for path in new_rule.create("large-offset", copy):
        if (EXAMPLE / path.name).exists():
            shutil.copy(EXAMPLE / path.name, path)
    chosen = (*OF_EACH_RULE, "-k", "large-offset or each_rule or of_the_rules")
    assert "no file in docs/plans" in run(copy, *chosen).stdout
    writing = {"PLANWATCH_TEST_WRITE_PLANS": "1", "PLANWATCH_TEST_WRITE_SNAPSHOTS": "1"}
    run(copy, *chosen, **writing)
    for arguments in (chosen, ["tests/test_values.py"]):
        done = run(copy, *arguments)
        assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing-index", "There is a rule 'missing-index' already."),
        ("Large_Offset", "'Large_Offset' is no name for a rule: use words joined by hyphens."),
    ],
)
def test_a_name_that_cannot_be_a_rules_is_refused(copy, name, reason):
    with pytest.raises(SystemExit, match=reason):
        new_rule.create(name, copy)

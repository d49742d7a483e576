"""Settings of Sphinx for the documentation of Flask-PlanWatch."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "Flask-PlanWatch"
author = "The Flask-PlanWatch contributors"
project_copyright = f"2026, {author}"
version = release = installed_version("flask-planwatch")

extensions = ["sphinx.ext.autodoc", "generated"]
exclude_patterns = ["_build", "examples"]
default_role = "py:obj"

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": True}
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100

html_theme = "furo"
html_title = f"Flask-PlanWatch {version}"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["pages.css"]

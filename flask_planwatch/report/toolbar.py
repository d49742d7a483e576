"""Joins Flask-DebugToolbar where the app has it; imports nothing of it."""

from __future__ import annotations

from flask import Flask

PANEL = "flask_planwatch.report.panel.PlanWatchPanel"

_PANELS = "DEBUG_TB_PANELS"


def add_panel(app: Flask) -> bool:
    """Append PlanWatch's panel to those of the toolbar; False if the app has no toolbar (yet).

    The list is only extended, never made: the toolbar would take one that it finds at its own
    initialisation for the user's choice, and drop its default panels.
    """
    # A toolbar that is switched off leaves its list in the config, too.
    if _PANELS not in app.config or not app.config.get("DEBUG_TB_ENABLED"):
        return False
    panels = app.config[_PANELS]
    if PANEL not in panels:
        app.config[_PANELS] = type(panels)([*panels, PANEL])
    return True

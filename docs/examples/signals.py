from typing import Any

from flask import Flask

from flask_planwatch import Finding, Severity
from flask_planwatch.signals import finding_detected


@finding_detected.connect
def tell_the_team(app: Flask, finding: Finding, **more: Any) -> None:
    if finding.severity is not Severity.INFO:
        print(f"{app.name} has a new finding {finding.id}: {finding.message}")

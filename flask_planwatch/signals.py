"""The signals that PlanWatch sends. The sender is the app, inside its app context.

Receivers run on PlanWatch's own thread. What they raise is counted and logged once, and what they
ask of the database is not captured.
"""

from __future__ import annotations

from blinker import Namespace

_namespace = Namespace()

#: A finding became active. Keyword argument: `finding`, a Finding.
finding_detected = _namespace.signal("planwatch-finding-detected")

#: An active finding is gone: the statement was inspected again without it. Keyword argument:
#: `finding`, the Finding as it was last seen.
finding_resolved = _namespace.signal("planwatch-finding-resolved")

#: A captured statement ended in an Inspection or a Skip. Keyword argument: `inspection`.
statement_inspected = _namespace.signal("planwatch-statement-inspected")

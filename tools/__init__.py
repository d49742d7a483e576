"""Helps those who work on PlanWatch; not part of the package."""

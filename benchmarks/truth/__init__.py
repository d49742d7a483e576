"""Follows PlanWatch's advice for real, and measures what became of each statement."""

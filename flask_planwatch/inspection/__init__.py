"""All that runs on PlanWatch's thread."""

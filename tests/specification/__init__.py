"""A table of statements, and the indexes that PlanWatch must propose for each of them."""

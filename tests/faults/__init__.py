"""A bad world: the app answers as without PlanWatch, and nothing that was taken in is lost."""

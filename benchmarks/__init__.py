"""What PlanWatch costs the application that it watches."""

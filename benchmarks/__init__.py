"""What PlanWatch costs: `python -m benchmarks`."""

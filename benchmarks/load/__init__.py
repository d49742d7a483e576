"""The morning peak: many people log in at once. `python -m benchmarks.load`."""

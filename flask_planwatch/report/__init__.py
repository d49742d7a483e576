"""Where inspections go: the store, the log, the signals and the toolbar's panel."""

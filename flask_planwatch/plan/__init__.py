"""PostgreSQL's plans as data: read once, never changed, never connected to anything."""

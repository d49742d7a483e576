"""All that talks to PostgreSQL."""

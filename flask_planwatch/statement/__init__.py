"""Reads the text of a statement: pure."""

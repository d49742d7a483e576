"""What to do about a hit: candidate indexes and rewrites, rendered for people. Pure."""

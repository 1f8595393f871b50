"""A copy of vessels' tables, kept equal by their topics and catch-ups."""

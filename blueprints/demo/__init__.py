"""Demo data: a realistic ship."""

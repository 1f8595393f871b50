"""A believable ship, for trying out."""

"""A small application of another kind than the vessel app."""

"""A fishing vessel's catch log."""

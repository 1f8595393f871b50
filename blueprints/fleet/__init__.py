"""Ashore: the fleet, and each vessel's copy."""

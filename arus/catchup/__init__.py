"""Catch-ups: requests, planning and sending."""

"""The API's documentation for people."""

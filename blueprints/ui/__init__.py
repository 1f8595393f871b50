"""The vessel's web pages."""

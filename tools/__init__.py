"""Developers' tools for this repository: the trial ship of `make run`, checks of the documentation, translations."""

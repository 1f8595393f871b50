"""What a person at this repository runs: the trial ship of `make run`, checks of the docs."""

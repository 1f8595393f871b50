"""Benchmarks: one module a question, each answered by ratios measured in one run."""

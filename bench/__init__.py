"""Benchmarks: one module for each question, answered by ratios measured in one run."""

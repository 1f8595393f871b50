"""Digests of the tables at one number of the log, by which a follower checks that its copy is equal."""

"""A follower whose vessels are divided into partitions, which any number of processes share.

Each partition has a session of its own at the broker, and an advisory lock of PostgreSQL that is held by the
connection on which the partition's work is done: whoever has lost the lock can write nothing.
"""

"""The owner: leadership, the loop that drives log and socket, and the changes in flight."""

"""The protocol between a vessel and its followers: topics, messages, digests of rows, conflict rules. No I/O."""

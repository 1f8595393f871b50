"""The change log: its tables, what writes to it, what its owner reads and journals, and read-only views."""

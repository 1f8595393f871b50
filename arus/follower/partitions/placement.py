"""Which partition a vessel is in, and how many partitions a process takes."""

from __future__ import annotations

import hashlib

#: The largest number of partitions.
MAX_PARTITIONS = 1024


def partition_of(vessel_id: str, partitions: int) -> int:
    """Return the partition of a vessel that is new: the same for each process and each release."""
    digest = hashlib.sha256(vessel_id.encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % partitions


def share_of(place: int, workers: int, partitions: int) -> int:
    """Return how many partitions a process takes: the shares of all differ by one at most, and leave none over.

    :param place: the process's place among all that are running, from 0.
    """
    return partitions // workers + (place < partitions % workers)

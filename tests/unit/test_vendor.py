"""What the tests carry of others is as it was published."""

from __future__ import annotations

import hashlib

from tests.support.vendored import AXE, VENDOR


def test_every_file_of_others_is_as_published() -> None:
    sums = dict(line.split()[::-1] for line in (VENDOR / "SHA256SUMS").read_text().splitlines())
    assert set(sums) == {path.name for path in VENDOR.iterdir()} - {"SHA256SUMS"}
    for name, digest in sums.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest, name
    assert AXE.name in sums

"""Namespaces of the kernel: a network or a disk of a test's own, which ends with it."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.support.broker import find_program


def unshare(*kinds: str) -> list[str]:
    """The words before a command that is to have namespaces of its own, such as `--net`.

    Skips the test where the kernel lets nobody make them, as in most containers: nothing else can stand in for them.
    """
    words = [find_program("unshare"), *kinds]
    if os.geteuid() != 0:
        words += ["--user", "--map-root-user"]
    tried = subprocess.run([*words, "true"], capture_output=True, text=True, timeout=20)
    if tried.returncode:
        pytest.skip(f"no namespaces on this machine: {tried.stderr.strip()}")
    return words

"""The package's description on an index, and its addresses.

The description is the README. `PROJECT_URL` in the environment is where the source code is published, on a host with
GitHub's paths: the package names its pages, and the README's links lead there. Without it they are plain text.
Everything else is in pyproject.toml.
"""

import os
import re
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
URL = os.environ.get("PROJECT_URL", "").rstrip("/")

#: A picture on a line of its own, and a link; group 1 is its text, group 2 where it leads.
_PICTURE = re.compile(r"^!\[[^\]]*\]\((?!https?:)[^)]*\)\n\n?", re.MULTILINE)
_LINK = re.compile(r"\[([^\]]*)\]\((?!https?:)([^)]*)\)")
_TELLS = "\nThe pages that this text names are in the source code of the package.\n"


def file_url(path: str) -> str:
    """Return where a file of this version is published."""
    version = re.search(r'__version__ = "(.*)"', (HERE / "arus/__init__.py").read_text("utf-8"))
    return f"{URL}/blob/v{version[1]}/{path}"


def description() -> str:
    """Return the README, its relative links absolute or, without an address, as plain text."""
    text = _PICTURE.sub("", (HERE / "README.md").read_text("utf-8"))
    if URL:
        return _LINK.sub(lambda link: f"[{link[1]}]({file_url(link[2])})", text)
    return _LINK.sub(r"\1 (`\2`)", text) + _TELLS


def urls() -> dict[str, str]:
    """Return the addresses that an index shows."""
    if not URL:
        return {}
    return {
        "Source": URL,
        "Documentation": file_url("docs/plugin.md"),
        "Changelog": file_url("CHANGELOG.md"),
        "Issues": f"{URL}/issues",
    }


setup(
    long_description=description(),
    long_description_content_type="text/markdown",
    project_urls=urls(),
)

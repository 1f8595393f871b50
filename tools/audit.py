"""`make audit`: compares the locked packages with the database of known vulnerabilities, by pip-audit.

Exits 0 if none is known, 1 if some are, and 2 if nothing, or not everything, could be compared: without the internet, or
behind an index that has no such database, pip-audit itself would report success.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
#: pip-audit's own packages must not be among those that are compared, nor in the application's environment.
ENVIRONMENT = ROOT / ".venv-audit"
LOCK = ROOT / "requirements.lock"
UNREACHABLE = (
    "audit: nothing was compared: the database of vulnerabilities can't be reached; run `make audit` where the"
    " internet is"
)


def main() -> int:
    """Compare, print the result, and return the exit code."""
    audit = _program()
    if audit is None:
        print(UNREACHABLE)
        return 2
    command: list[str | Path] = [
        audit,
        "--disable-pip",
        "--require-hashes",
        "--format",
        "json",
        "-r",
        LOCK,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        report = json.loads(done.stdout)
    except json.JSONDecodeError:
        print(UNREACHABLE)
        return 2
    lines, code = verdict(report)
    print("\n".join(lines))
    return code


def verdict(report: dict[str, Any]) -> tuple[list[str], int]:
    """Return what a report of pip-audit says, in lines, and the exit code.

    :param report: its JSON document.
    """
    packages = report["dependencies"]
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    if len(skipped) == len(packages):
        return [UNREACHABLE], 2
    lines = []
    for package in packages:
        for found in package.get("vulns", []):
            fixed = ", ".join(found["fix_versions"]) or "no version yet"
            names = " ".join([found["id"], *found.get("aliases", [])])
            lines.append(f"{package['name']} {package['version']}: {names}; fixed in {fixed}")
    code = 1 if lines else 0
    compared = len(packages) - len(skipped)
    if not lines:
        lines.append(f"audit: no vulnerability is known in {compared} packages")
    if skipped:
        lines.append(f"audit: not compared: {', '.join(skipped)}")
        code = code or 2
    return lines, code


def _program() -> Path | None:
    """Return pip-audit, installed in an environment of its own; None if it can't be installed."""
    program = ENVIRONMENT / "bin" / "pip-audit"
    if not program.exists():
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        install: list[str | Path] = [ENVIRONMENT / "bin" / "python", "-m", "pip"]
        install += ["--disable-pip-version-check", "install", "--quiet", "--no-input", "pip-audit"]
        if subprocess.run(install, capture_output=True, check=False).returncode != 0:
            return None
    return program


if __name__ == "__main__":
    sys.exit(main())

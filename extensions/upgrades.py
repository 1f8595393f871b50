"""What the application itself does once its database was migrated: what needs its models and rules, not only SQL."""

from __future__ import annotations

from collections.abc import Callable

#: Called in the application's context, in this order, by each `flask db upgrade` to the last revision.
_steps: list[Callable[[], object]] = []


def after_upgrade(step: Callable[[], object]) -> None:
    """Add a step; it must do nothing where everything is done already."""
    _steps.append(step)


def finish_upgrade() -> None:
    """Carry out all steps."""
    for step in _steps:
        step()

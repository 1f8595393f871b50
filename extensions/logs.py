"""Log lines: a text for people, followed by its fields for programs."""

from __future__ import annotations

import json
import logging

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class FieldsFormatter(logging.Formatter):
    """Appends what `extra=` gave as `key=value`, in the order given."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        # Before the base class adds attributes of its own to the record.
        fields = {name: value for name, value in vars(record).items() if name not in _PLAIN}
        text = super().format(record)
        if not fields:
            return text
        first, newline, traceback = text.partition("\n")
        pairs = " ".join(
            f"{name}={json.dumps(value, default=str)}" for name, value in fields.items()
        )
        return f"{first} {pairs}{newline}{traceback}"


def configure_logging() -> None:
    """Send what the product logs to standard error, unless the process has its own handlers."""
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(
        FieldsFormatter(
            "[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s", "%Y-%m-%d %H:%M:%S %z"
        )
    )
    root.addHandler(handler)
    logging.getLogger("arus").setLevel(logging.INFO)

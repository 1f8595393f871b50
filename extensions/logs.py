"""Log lines: a text for people, followed by fields for programs."""

from __future__ import annotations

import json
import logging

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class FieldsFormatter(logging.Formatter):
    """Appends the values of `extra=` as `key=value`, in their order."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the log line."""
        # Collected before the base class adds its own attributes to the record.
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
    """Log to standard error, unless the process has its own handlers."""
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

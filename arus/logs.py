"""The loggers of the package: no control character of a message reaches a log line."""

from __future__ import annotations

import logging
import traceback

from .escapes import escaped

#: What each record has; other attributes are fields of `extra`.
_OWN = frozenset(vars(logging.makeLogRecord({})))


class Escaping(logging.Filter):
    """Escapes control characters in a record: in its message, its fields, and the text of its exception."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True; a record that needs no escaping stays as it is."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            return True  # a mistake in a log call: logging reports it
        safe = escaped(message)
        if safe != message:
            record.msg, record.args = safe, None
        for name, value in vars(record).items():
            if name not in _OWN and isinstance(value, str):
                setattr(record, name, escaped(value))
        if record.exc_info and record.exc_info[1] is not None and not record.exc_text:
            record.exc_text = _traceback(record.exc_info[1])
        return True


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module, with the filter: a logger's filters do not apply to the loggers below it."""
    logger = logging.getLogger(name)
    if not any(isinstance(one, Escaping) for one in logger.filters):
        logger.addFilter(Escaping())
    return logger


def _traceback(error: BaseException) -> str | None:
    """Return a traceback in which each exception's text has one line; None if the usual one is like that."""
    usual = "".join(traceback.format_exception(error))
    texts = [str(one) for one in _chain(error)]
    if all(text == escaped(text) for text in texts):
        return None
    for text in texts:
        usual = usual.replace(text, escaped(text))
    return "\n".join(escaped(line) for line in usual.rstrip("\n").split("\n"))


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    while error not in found and len(found) < 100:
        found.append(error)
        following = error.__cause__ or error.__context__
        if following is None:
            break
        error = following
    return found

"""Texts from outside as a log line or a terminal may show them: control characters are escaped.

A topic, a name or a reason may come from a message that anybody has published. Its control characters could move a
terminal's cursor, begin a log line of their own, or show a text in another order than it has.
"""

from __future__ import annotations

import re

#: C0, DEL and C1 controls; line and paragraph separators; invisible formats, those that change the direction of writing
#: among them; lone surrogates, which no output can encode. Joiners are left: words of some scripts need them.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def escaped(text: str) -> str:
    r"""Return a text in one line, with its control characters as `\x1b` or `\u2028`."""
    return _UNSAFE.sub(_as_python, text)


def escaped_json(document: str) -> str:
    r"""Return a JSON document with the control characters in its texts as `\u2028`; its line breaks are kept."""
    return _UNSAFE.sub(_as_json, document)


def _as_python(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _as_json(found: re.Match[str]) -> str:
    if found[0] == "\n":
        return "\n"
    units = found[0].encode("utf-16-be", errors="surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))

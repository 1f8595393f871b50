"""Texts as people compare them: without regard to case and Unicode form, and numbers by their value.

The same rules hold on every database, because the databases compare only what these functions return.
"""

from __future__ import annotations

import re
import unicodedata
from hashlib import blake2b
from itertools import groupby

#: Maximum length of a sort key in characters: an entry of a PostgreSQL index has up to 2,704 bytes.
MAX_KEY = 500
#: Characters without a width that a reader can't see: soft hyphen, zero-width space, word joiner, byte order mark.
_INVISIBLE = dict.fromkeys((0x00AD, 0x200B, 0x2060, 0xFEFF))
_CONTROL = re.compile("[\0-\x08\x0e-\x1b]")
#: The dotted and the dotless i of Turkish have one upper case form each, which other languages share.
_DOTLESS = str.maketrans({"\N{LATIN SMALL LETTER DOTLESS I}": "i"})
_DOTTED = "i\N{COMBINING DOT ABOVE}"
#: Letters that sort and are found with another one but do not decompose, as in the Unicode collation's root order.
_BASES = str.maketrans({"æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "ħ": "h"})
_MARKS = range(0x0300, 0x0370)
_DIGITS = re.compile(r"[0-9]+")
_GREEK = re.compile("[\u0370-\u03ff\u1f00-\u1fff]")
#: Digits of a number that is compared by its value; a longer one is compared as text.
_MAX_DIGITS = 40
#: Lower than all characters of a folded text.
_TIE = "\x01"


def fold(text: str) -> str:
    """Return `text` in the form in which it is compared: two texts that people take for the same have one form.

    Case is folded and compatibility forms are composed (Unicode 3.13, NFKC_Casefold), Greek accents are dropped,
    because capitals are written without them, and each run of white space becomes one space. So a folded text has
    no control characters.
    """
    if text.isascii():
        folded = text.lower()
    else:
        folded = unicodedata.normalize("NFKC", text).translate(_INVISIBLE).casefold()
        folded = folded.replace(_DOTTED, "i").translate(_DOTLESS)
        if _GREEK.search(folded):
            folded = _without_greek_marks(folded)
        folded = unicodedata.normalize("NFKC", folded)
    return " ".join(_CONTROL.sub("", folded).split())


def search_form(text: str) -> str:
    """Return `text` in the form in which a part of it is searched: folded, and each letter with marks as its base letter.

    So "cafe" finds "Café", for people without that key on their keyboard, and "CAFÉ" finds "cafe".
    """
    folded = fold(text)
    return folded if folded.isascii() else unicodedata.normalize("NFC", _base(folded))


def sort_key(text: str) -> str:
    """Return the key by whose code points texts are sorted; equal for two texts if their folded forms are equal.

    Letters with marks come with their base letter, and numbers are in order: "Pump 2" before "Pump 10".
    """
    folded = fold(text)
    base = folded if folded.isascii() else _base(folded)
    primary = _DIGITS.sub(_number, base)
    key = f"{primary}{_TIE}{'' if primary == folded else folded}"
    if len(key) > MAX_KEY:
        digest = blake2b(folded.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        key = f"{primary[: MAX_KEY - 40]}{_TIE}{digest}"
    return key


def _number(match: re.Match[str]) -> str:
    """Return digits so that their order as text is that of the numbers: the count of digits comes first."""
    digits = match[0].lstrip("0") or "0"
    return match[0] if len(digits) > _MAX_DIGITS else f"{chr(0x30 + len(digits))}{digits}"


def _base(folded: str) -> str:
    # The Cyrillic short i is a letter of its own.
    decomposed = unicodedata.normalize("NFD", folded).replace("и\N{COMBINING BREVE}", "й")
    return "".join(each for each in decomposed if ord(each) not in _MARKS).translate(_BASES)


def _without_greek_marks(text: str) -> str:
    """Return a text without the marks on its Greek letters."""
    kept = []
    is_greek = False
    for is_mark, group in groupby(unicodedata.normalize("NFD", text), _is_mark):
        run = "".join(group)
        if not is_mark or not is_greek:
            kept.append(run)
        if not is_mark:
            is_greek = bool(_GREEK.match(run[-1]))
    return "".join(kept)


def _is_mark(character: str) -> bool:
    return ord(character) in _MARKS

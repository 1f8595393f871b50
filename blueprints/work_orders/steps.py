"""The steps of a work order: a list of texts to tick off, and how the edits of two people become one list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from typing import Any

Step = dict[str, Any]
#: What a step is known by: its text, and how many with the same text stand before it.
Key = tuple[str, int]


def keyed(steps: Sequence[Step]) -> dict[Key, Step]:
    """Return the steps by what they are known by, in order."""
    seen: Counter[str] = Counter()
    found: dict[Key, Step] = {}
    for step in steps:
        text = step["text"]
        found[text, seen[text]] = step
        seen[text] += 1
    return found


def listed(texts: Iterable[str], before: Sequence[Step]) -> list[Step]:
    """Return the steps with these texts; those that were there before stay ticked."""
    known = keyed(before)
    steps = keyed([{"text": text, "done": False} for text in texts])
    return [{**step, "done": known.get(key, step)["done"]} for key, step in steps.items()]


def ticked(steps: Sequence[Step], key: Key, *, done: bool) -> list[Step] | None:
    """Return the steps with one of them ticked or not; None if it is not among them."""
    known = keyed(steps)
    if key not in known:
        return None
    return [{**step, "done": done if each == key else step["done"]} for each, step in known.items()]


def merged(base: Sequence[str], mine: Sequence[str], theirs: Sequence[str]) -> list[str]:
    """Return the texts of a list that two people have edited, each beginning with `base`.

    What either of them has removed is gone, and what either has added stands where they put it: theirs first where both
    added at the same place. A text that both have changed is there in both forms, so that nothing is lost.
    """
    removed, added = _edits(base, mine)
    removed_too, added_too = _edits(base, theirs)
    result: list[str] = []
    for place in range(len(base) + 1):
        ours = list(added.get(place, ()))
        for text in added_too.get(place, ()):
            result.append(text)
            if text in ours:
                ours.remove(text)  # both added the same
        result += ours
        if place < len(base) and place not in removed | removed_too:
            result.append(base[place])
    return result


def _edits(base: Sequence[str], now: Sequence[str]) -> tuple[set[int], dict[int, Sequence[str]]]:
    """Return the places of `base` that are gone, and what was added before each place."""
    removed: set[int] = set()
    added: dict[int, Sequence[str]] = {}
    matcher = SequenceMatcher(None, base, now, autojunk=False)
    for tag, start, end, now_start, now_end in matcher.get_opcodes():
        if tag != "equal":
            removed.update(range(start, end))
            if now_end > now_start:
                added[start] = now[now_start:now_end]
    return removed, added

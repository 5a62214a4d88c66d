"""Words that users type: the seams' names, and what they may have meant by a word that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

SEAMS = ("scheduler", "cache", "prefetch", "predictor", "router")  # what a configuration names


def closest(word: str, allowed: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the allowed name most like a word, whatever its case and dashes; None if none is like it."""
    names = {_folded(name): name for name in allowed}
    found = difflib.get_close_matches(_folded(word), names, n=1, cutoff=cutoff)
    return names[found[0]] if found else None


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """Return the end of an error: " - did you mean 'lru'?", or "; allowed: ..." where nothing is close.

    It begins with its own separator and is empty if nothing is allowed, so it can follow any sentence.
    """
    names = sorted(allowed)
    match = closest(word, names)
    if match is not None:
        return f" - did you mean {match!r}?"
    return f"; allowed: {', '.join(names)}" if names else ""


def _folded(name: str) -> str:
    return name.casefold().replace("-", "_")

"""Text files that appear whole: readers see the old one or the new one, never a half."""

from __future__ import annotations

from pathlib import Path

from sim.files.output import drafted


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all; see `drafted`."""
    with drafted(path) as draft:
        draft.write_text(text, encoding="utf-8")

"""The laws, which of them each seam is held to, and the error that says which one is broken."""

from __future__ import annotations

from typing import Never

LAWS: dict[str, str] = {
    "documented": "its docstring says what every keyword is",
    "runs": "no hook fails, and it asks nothing of the engine that is not allowed",
    "answers": "its answers are of the right kind",
    "given": "it leaves as it was what it is given",
    "own": "what it learns lies in the instance, not in its class or module",
    "pure": "asked twice in the same state, it answers the same",
    "timers": "the time that it declares moves on once it has come",
    "in use": "nothing in use or on its way is evicted",
    "books": "bytes, requests and adapters add up at every step",
    "ends": "every request that fits is served, and the run comes to an end",
    "repeats": "a fresh instance decides the same again",
    "fast": "asked at every step, it decides as it does where steps are skipped",
}
OF_SEAM: dict[str, tuple[str, ...]] = {
    "scheduler": tuple(law for law in LAWS if law != "in use"),
    "cache": tuple(law for law in LAWS if law != "timers"),
    "prefetch": tuple(law for law in LAWS if law != "in use"),
    "predictor": ("documented", "runs", "answers", "own", "pure", "repeats"),
    "router": ("documented", "runs", "answers", "given", "own", "books", "ends", "repeats", "fast"),
}

Broken = dict[str, str]  # law -> what went wrong; empty if nothing did


class BrokenLawError(RuntimeError):
    """A policy has broken a law; `args` are the law's key and a sentence on what it did."""

    @property
    def law(self) -> str:
        """Return the key of the law."""
        return str(self.args[0])


def broken(law: str, why: str) -> Never:
    """Say that a law is broken.

    Raises:
        BrokenLawError: always.
    """
    raise BrokenLawError(law, why)

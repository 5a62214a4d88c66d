"""Objects of JSON traces brought into shape: turns with a delay, chains of calls, texts. What is done is counted.

Keys are in lower case. Nothing is written in the objects themselves: a changed one is a new one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from sim.readers.cells import Problems

TextTokens = Literal["words", "characters"]
CHARACTERS_PER_TOKEN = 4
Object = dict[str, object]
Line = tuple[int, Object]


@dataclass(frozen=True)
class Room:
    """What preparing may look at and write to.

    Attributes:
        passed_over: rows to which something was done, by what it was.
        problems: what is wrong.
        text_tokens: how tokens of a text are estimated; None refuses texts.
    """

    passed_over: Counter[str]
    problems: Problems
    text_tokens: TextTokens | None


Prepare = Callable[[Iterator[Line], Room], Iterator[Line]]

_PLACED = "rows with a delay placed that long after the arrival of the turn before, whose answer they would wait for"
_CHAINS = "rows with sub_requests dropped, because when those start depends on how fast the ones before are served"


def delays_placed(lines: Iterator[Line], room: Room) -> Iterator[Line]:
    """Give later turns of a session, which have a delay in place of a stamp, the stamp of the turn before plus that."""
    latest: dict[str, float] = {}
    for line, each in lines:
        if each.get("delay") is not None and each.get("timestamp") is None:
            placed = _placed(line, each, latest, room)
            if placed is None:
                continue
            each = placed  # noqa: PLW2901 - the object as it goes on
        _remember(each, latest)
        yield line, {key: value for key, value in each.items() if key != "delay"}


def _placed(line: int, each: Object, latest: dict[str, float], room: Room) -> Object | None:
    before, delay = latest.get(str(each.get("session_id"))), _number(each["delay"])
    if before is None or delay is None:
        text = f"delay is {each['delay']!r} and session_id is {each.get('session_id')!r}"
        room.problems.add(line, f"{text}; a number, and the session of a row above that has a timestamp, are allowed")
        return None
    room.passed_over[_PLACED] += 1
    return {**each, "timestamp": before + delay}


def _remember(each: Object, latest: dict[str, float]) -> None:
    stamp = _number(each.get("timestamp"))
    if stamp is not None and each.get("session_id") is not None:
        latest[str(each["session_id"])] = stamp


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def without_chains(lines: Iterator[Line], room: Room) -> Iterator[Line]:
    """Leave out agents' chains of calls, which have no stamps of their own."""
    for line, each in lines:
        if each.get("sub_requests"):
            room.passed_over[_CHAINS] += 1
        else:
            yield line, {key: value for key, value in each.items() if key != "sub_requests"}


def delays_and_texts(lines: Iterator[Line], room: Room) -> Iterator[Line]:
    """Place delays, and count the tokens of texts where a row has no input_length."""
    for line, each in delays_placed(lines, room):
        text = each.get("text_input", each.get("text"))
        if each.get("input_length") is None and isinstance(text, str):
            room.passed_over[_estimated(room)] += 1
            yield line, {**_without_texts(each), "input_length": _counted(line, text, room)}
        else:
            yield line, each


def _without_texts(each: Object) -> Object:
    return {key: value for key, value in each.items() if key not in ("text", "text_input")}


def texts_counted(lines: Iterator[Line], room: Room) -> Iterator[Line]:
    """Turn prompts and conversations into prompt_tokens and output_tokens; output_len is taken where it is given."""
    for line, each in lines:
        turns = _turns(each)
        given = each.get("output_len", each.get("output_tokens"))
        if not turns or (given is None and len(turns) < 2):
            text = f"the object has {', '.join(each)}"
            need = "a prompt with output_len, or conversations of two turns with a content or value each, are allowed"
            room.problems.add(line, f"{text}; {need}")
            continue
        if len(turns) > 2:
            room.passed_over["rows whose turns after the first answer are not used"] += 1
        room.passed_over[_estimated(room)] += 1
        output = _counted(line, turns[1], room) if given is None else given
        rest = {key: value for key, value in each.items() if key not in _TEXT_KEYS}
        yield line, {**rest, "prompt_tokens": _counted(line, turns[0], room), "output_tokens": output}


_TEXT_KEYS = ("prompt", "conversations", "output_len", "output_tokens")


def _turns(each: Object) -> list[str]:
    """Return the texts of a prompt or a conversation; none if one of them is no text."""
    talk = each.get("conversations")
    if isinstance(talk, list):
        found = [turn.get("content", turn.get("value")) if isinstance(turn, dict) else None for turn in talk]
    else:
        found = [each.get("prompt")]
    return [text for text in found if isinstance(text, str)] if all(isinstance(text, str) for text in found) else []


def _estimated(room: Room) -> str:
    return f"rows whose tokens are estimated from the {room.text_tokens} of a text"


def _counted(line: int, text: str, room: Room) -> int:
    """Return the tokens of a text by the estimate asked for; raises TraceError where none is."""
    if room.text_tokens is None:
        options = f"words, or characters (one token for {CHARACTERS_PER_TOKEN})"
        room.problems.fail(line, f"the file holds texts and no token counts; an estimate must be named: {options}")
    return len(text.split()) if room.text_tokens == "words" else -(-len(text) // CHARACTERS_PER_TOKEN)

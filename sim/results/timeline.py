"""A run as a timeline that ui.perfetto.dev opens: Chrome trace events, times in µs, one process per replica.

Slices on the tracks of the engine and of the channels, counters at every change, requests as nested asynchronous
slices, and an arrow from each transfer that a request waited for to the iteration that it then joined.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.base import IntArray
from sim.files.output import drafted
from sim.results.metrics import REJECTED, Offered, latencies_s
from sim.results.timeline_tracks import Event, Tracks, counters, event, slices_of_channels, slices_of_engine, waited_for
from sim.serving.records import NEVER, Records

if TYPE_CHECKING:
    from sim.results.result import Run

FILE = "timeline.json.gz"
MOST_REQUESTS = 5_000  # that are drawn one by one; of more, those with the longest TTFT
PHASES = ("arrival", "admitted", "ready", "prefill_start", "first_token", "finish")
WORDS = ("queue", "adapter wait", "overhead", "prefill", "decode")


def write_timeline(run: Run, path: Path) -> None:
    """Write a run's timeline, gzipped, whole or not at all; the same run gives the same bytes."""
    with (
        drafted(path) as draft,
        draft.open("wb") as raw,
        gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as text,
    ):
        text.writelines(_document(run))


def _document(run: Run) -> Iterator[str]:
    about = {"simulated": True, "system": run.system, "workload": run.trace.name, "seed": run.seed}
    about |= {"hardware": run.hardware, "model": run.model}
    yield f'{{"displayTimeUnit":"ms","otherData":{json.dumps(about)},"traceEvents":[\n'
    separator = ""
    for one in timeline_events(run):
        yield f"{separator}{json.dumps(one, separators=(',', ':'))}"
        separator = ",\n"
    yield "\n]}\n"


def timeline_events(run: Run) -> Iterator[Event]:
    """Yield the events of a run, replica by replica and track by track."""
    shown = _shown(run)
    for place, one in enumerate(run.records):
        tracks = Tracks(place, f"replica {place}" if len(run.records) > 1 else run.system)
        yield from slices_of_engine(one, tracks)
        yield from slices_of_channels(run.trace, one, tracks)
        yield from waited_for(run.trace, one, tracks)
        yield from counters(run.trace, one, place)
        yield from _requests(run, one, place, shown)
        yield from tracks.names()


def _shown(run: Run) -> frozenset[int] | None:
    """Return the ids of the requests to draw; None: all."""
    if len(run.trace) <= MOST_REQUESTS:
        return None
    ttft_s = np.nan_to_num(latencies_s(Offered(run.trace, run.records))["ttft_s"], nan=-1.0)
    return frozenset(np.argsort(-ttft_s, kind="stable")[:MOST_REQUESTS].tolist())


def _requests(run: Run, one: Records, place: int, shown: frozenset[int] | None) -> Iterator[Event]:
    table, palette = one.requests, run.trace.palette
    ids, status = table["request"].tolist(), table["status"].tolist()
    rows = np.column_stack([table[name] for name in PHASES])
    for request, state, instants in zip(ids, status, rows, strict=True):
        if state == REJECTED or not (shown is None or request in shown):
            continue
        spec = palette[int(run.trace.adapter[request])]
        about = {
            "request": request,
            "adapter": None if spec is None else spec.id,
            "prompt_tokens": int(run.trace.prompt_tokens[request]),
            "output_tokens": int(run.trace.output_tokens[request]),
        }
        yield from _nested(place, request, instants, about)


def _nested(place: int, request: int, instants: IntArray, about: dict[str, Any]) -> Iterator[Event]:
    reached = instants[instants != NEVER].tolist()
    if len(reached) < len(PHASES):
        return  # it was not completed
    same: dict[str, Any] = {"cat": "request", "id": request}
    yield event("b", "request", place, reached[0], **same, args=about)
    for word, start, stop in zip(WORDS, reached[:-1], reached[1:], strict=True):
        if stop > start:
            yield event("b", word, place, start, **same)
            yield event("e", word, place, stop, **same)
    yield event("e", "request", place, reached[-1], **same)

"""The tracks of a timeline: what the engine and its channels did, as slices that never overlap, and counters."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from policies.base import IntArray
from sim.results.instants import kv_tokens_at
from sim.results.metrics import REJECTED
from sim.results.prefetching import PREFETCH
from sim.serving.records import NEVER, Records
from sim.trace import Trace

Event = dict[str, Any]
ENGINE, LINK = "engine", "link"
TICKS_PER_NS = 1000


class Slice(NamedTuple):
    """Something that lasted: `start` and `end` in ticks."""

    start: int
    end: int
    name: str
    args: dict[str, Any]


def event(phase: str, name: str, pid: int, ticks: int, **more: Any) -> Event:
    """Return one trace event at a tick, its time in µs rounded to ns."""
    return {"ph": phase, "name": name, "pid": pid, "ts": _ns(ticks) / 1e3, **more}


def _ns(ticks: int) -> int:
    return (ticks + TICKS_PER_NS // 2) // TICKS_PER_NS


class Tracks:
    """Gives each track of a replica a number, and each slice a track on which it overlaps no other.

    Attributes:
        pid: number of the replica.
        of_transfer: the track of each transfer over the link, by its start in ticks and its name.
    """

    def __init__(self, pid: int, process: str) -> None:
        self.pid = pid
        self.of_transfer: dict[tuple[int, str], int] = {}
        self._process = process
        self._ids: dict[str, int] = {}

    def id(self, name: str) -> int:
        """Return the number of a track, which it keeps."""
        return self._ids.setdefault(name, len(self._ids) + 1)

    def lay(self, name: str, slices: Iterable[Slice]) -> Iterator[Event]:
        """Yield slices, given by start; those at the same time as others go to further tracks of that name."""
        ends: list[int] = []
        for one in slices:
            lane = next((lane for lane, end in enumerate(ends) if end <= one.start), len(ends))
            ends[lane:] = [one.end, *ends[lane + 1 :]]
            track = self.id(name if lane == 0 else f"{name} {lane + 1}")
            if name == LINK:
                self.of_transfer[one.start, one.name] = track
            width_us = (_ns(one.end) - _ns(one.start)) / 1e3
            yield event("X", one.name, self.pid, one.start, tid=track, dur=width_us, args=one.args)

    def names(self) -> Iterator[Event]:
        """Yield what Perfetto calls the process and its tracks, in their order."""
        yield event("M", "process_name", self.pid, 0, args={"name": self._process})
        for name, track in self._ids.items():
            yield event("M", "thread_name", self.pid, 0, tid=track, args={"name": name})
            yield event("M", "thread_sort_index", self.pid, 0, tid=track, args={"sort_index": track})


def slices_of_engine(one: Records, tracks: Tracks) -> Iterator[Event]:
    """Yield the iterations: prefill, decode (a run of steps over one batch), both at once, and waits for loads."""
    both = set(one.mixed["start"].tolist())
    slices = [*_prefills(one, both), *_decodes(one, both), *_stalls(one)]
    yield from tracks.lay(ENGINE, sorted(slices, key=lambda slice_: slice_[:2]))


def _rows(one: Any, *names: str) -> Iterator[tuple[int, ...]]:
    return zip(*(one[name].tolist() for name in names), strict=True)


def _prefills(one: Records, both: set[int]) -> Iterator[Slice]:
    batch = dict(zip(one.segments["start"].tolist(), one.segments["batch"].tolist(), strict=True)) if both else {}
    for start, ticks, prompts, tokens in _rows(one.prefills, "start", "ticks", "requests", "tokens"):
        args = {"prompts": prompts, "prompt_tokens": tokens}
        if start in both:
            yield Slice(start, start + ticks, "prefill and decode", {**args, "batch": batch[start]})
        else:
            yield Slice(start, start + ticks, "prefill", args)


def _decodes(one: Records, both: set[int]) -> Iterator[Slice]:
    names = ("start", "first", "growth", "count", "batch", "context")
    for start, first, growth, count, batch, context in _rows(one.segments, *names):
        if start not in both:
            ticks = count * first + growth * (count * (count - 1) // 2)
            args = {"steps": count, "batch": batch, "context_tokens": context, "first_step_us": _ns(first) / 1e3}
            yield Slice(start, start + ticks, "decode", args)


def _stalls(one: Records) -> Iterator[Slice]:
    for start, ticks in _rows(one.stalls, "start", "ticks"):
        yield Slice(start, start + ticks, "waits for adapters", {})


def slices_of_channels(trace: Trace, one: Records, tracks: Tracks) -> Iterator[Event]:
    """Yield transfers over the link, reads from disk, and KV on its way to the host."""
    channels = {
        LINK: [*_transfers(trace, one), *_swaps(one, way=0)],
        "disk": list(_reads(trace, one)),
        "KV to the host": list(_swaps(one, way=1)),
    }
    for name, slices in channels.items():
        yield from tracks.lay(name, sorted(slices, key=lambda slice_: slice_[:2]))


def _transfers(trace: Trace, one: Records) -> Iterator[Slice]:
    names = ("queued", "start", "end", "adapter", "bytes", "kind")
    for queued, start, end, index, size, kind in _rows(one.transfers, *names):
        args = {"kind": "prefetch" if kind == PREFETCH else "demand", **_moved(size, start - queued)}
        yield Slice(start, end, _adapter(trace, index), args)


def _swaps(one: Records, *, way: int) -> Iterator[Slice]:
    names = ("queued", "start", "end", "request", "bytes", "way")
    for queued, start, end, request, size, taken in _rows(one.swaps, *names):
        if taken == way:
            yield Slice(start, end, f"KV of request {request}", _moved(size, start - queued))


def _reads(trace: Trace, one: Records) -> Iterator[Slice]:
    for queued, start, end, index, size in _rows(one.reads, "queued", "start", "end", "adapter", "bytes"):
        yield Slice(start, end, _adapter(trace, index), _moved(size, start - queued))


def _adapter(trace: Trace, index: int) -> str:
    spec = trace.palette[index]
    return "base model" if spec is None else spec.id


def _moved(size: int, waited: int) -> dict[str, Any]:
    return {"bytes": size, "queued_us": _ns(waited) / 1e3}


def waited_for(trace: Trace, one: Records, tracks: Tracks) -> Iterator[Event]:
    """Yield an arrow from each transfer to the prefill of each request that waited for it after its admission."""
    starts = _starts_by_adapter(one)
    names = ("request", "admitted", "ready", "prefill_start", "first_token")
    for request, admitted, ready, began, first in _rows(one.requests, *names):
        index = int(trace.adapter[request])
        if first == NEVER or not admitted < ready or index not in starts:
            continue
        place = bisect_left(starts[index], first) - 1  # the last that began before its first token
        if place >= 0:
            start = starts[index][place]
            track = tracks.of_transfer[start, _adapter(trace, index)]
            same = {"cat": "load", "id": request}
            yield event("s", "load", tracks.pid, start, tid=track, **same)
            yield event("f", "load", tracks.pid, began, tid=tracks.id(ENGINE), bp="e", **same)


def _starts_by_adapter(one: Records) -> dict[int, list[int]]:
    starts: dict[int, list[int]] = {}
    for start, index in sorted(_rows(one.transfers, "start", "adapter")):
        starts.setdefault(index, []).append(start)
    return starts


def counters(trace: Trace, one: Records, pid: int) -> Iterator[Event]:
    """Yield requests running and waiting, adapter bytes and KV tokens, each at every instant at which it changes."""
    requests = one.requests
    taken = requests["status"] != REJECTED
    came, admitted, left = (requests[name][taken] for name in ("arrival", "admitted", "finish"))
    at = np.unique(np.concatenate([one.segments["start"], one.prefills["start"], left[left != NEVER]]))
    yield from _counter("running", pid, *_level(admitted, left))
    yield from _counter("waiting", pid, *_level(came, admitted))
    yield from _counter("adapter bytes", pid, one.memory["time"], one.memory["resident_bytes"])
    yield from _counter("adapter bytes in use", pid, one.memory["time"], one.memory["in_use_bytes"])
    yield from _counter("KV tokens", pid, at, kv_tokens_at(trace, one, at))


def _level(up: IntArray, down: IntArray) -> tuple[IntArray, IntArray]:
    """Return the instants at which a number goes up or down, and the number from there on."""
    up, down = (np.sort(ticks[ticks != NEVER]) for ticks in (up, down))
    at = np.unique(np.concatenate([up, down]))
    level: IntArray = np.searchsorted(up, at, side="right") - np.searchsorted(down, at, side="right")
    return at, level


def _counter(name: str, pid: int, at: IntArray, values: IntArray) -> Iterator[Event]:
    last = None
    for ticks, value in zip(at.tolist(), values.tolist(), strict=True):
        if value != last:
            yield event("C", name, pid, ticks, args={"value": value})
        last = value

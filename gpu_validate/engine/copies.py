"""Who carries copies and says when work is done: CUDA streams and events, or nobody, where a copy is over at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch

from sim.serving.ticks import TICKS_PER_S

NS = TICKS_PER_S // 10**9
TICKS_PER_MS = TICKS_PER_S // 1000


class Mark(Protocol):
    """A point in a stream of work."""

    def query(self) -> bool:
        """Whether all work before it is complete."""


class CopyEngine(Protocol):
    """One transfer at a time, beside the computation."""

    def mark(self) -> Mark:
        """Mark the end of the computation issued so far."""

    def recorded(self) -> AbstractContextManager[None]:
        """Take copies issued inside as the transfer that is under way."""

    def exclusive(self) -> AbstractContextManager[None]:
        """Have later computation wait for the copies issued inside."""

    def is_done(self) -> bool:
        """Whether the transfer is complete."""

    def took_ticks(self) -> int:
        """Return how long the complete transfer took."""


class _Over:
    @staticmethod
    def query() -> bool:
        return True


class HostCopies:
    """Copies on a CPU: over when the call returns."""

    def __init__(self) -> None:
        self._took = 0

    def mark(self) -> Mark:
        """Return a mark that is over."""
        return _Over()

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Time the copies inside."""
        start = time.perf_counter_ns()
        yield
        self._took = (time.perf_counter_ns() - start) * NS

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Do nothing: nothing runs beside."""
        yield

    def is_done(self) -> bool:
        """Return True."""
        return True

    def took_ticks(self) -> int:
        """Return how long the last copies took."""
        return self._took


class CudaCopies:
    """Copies on a stream of their own, timed by events."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._begin, self._end = _timed_event(), _timed_event()

    def mark(self) -> Mark:
        """Record an event behind the computation issued so far."""
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Put the copies inside between two events."""
        with torch.cuda.stream(self._stream):
            self._begin.record()
            yield
            self._end.record()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Have the computation's stream wait for the copies inside."""
        with torch.cuda.stream(self._stream):
            yield
        torch.cuda.current_stream(self._device).wait_stream(self._stream)

    def is_done(self) -> bool:
        """Whether the last copy is complete."""
        return bool(self._end.query())  # type: ignore[no-untyped-call]

    def took_ticks(self) -> int:
        """Return the ticks between the two events."""
        milliseconds: float = self._begin.elapsed_time(self._end)
        return round(milliseconds * TICKS_PER_MS)


def _timed_event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def copy_engine(device: torch.device) -> CopyEngine:
    """Return what carries copies to a device."""
    return CudaCopies(device) if device.type == "cuda" else HostCopies()

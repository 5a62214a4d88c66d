"""A CUDA device that is not there: tensors lie in host memory, but say where they would be, and keep CUDA's rules.

What it can show: tensors on the wrong side, work that a graph's capture forbids, values that a graph has kept from its
capture, and plain mistakes in code that only runs on CUDA. What it cannot: anything about time, races between streams,
memory that is freed too early, and compiled kernels, whose place `dry_kernels` takes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from time import perf_counter
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

from tests.dry_kernels import KERNELS
from tests.dry_mode import DryCuda, DryGraph, tensors_of

NAME = "NVIDIA H100 80GB HBM3"


class DryStream:
    def __init__(self, *_: Any) -> None:
        self.waits = 0

    def wait_stream(self, _: DryStream) -> None:
        self.waits += 1

    def synchronize(self) -> None:
        self.waits += 1


class DryEvent:
    """Over when it is asked for the second time, so that whoever polls must ask again."""

    def __init__(self, *, enable_timing: bool = False) -> None:
        self._is_timed, self._at, self._asked = enable_timing, 0.0, 0

    def record(self, _: DryStream | None = None) -> None:
        self._at, self._asked = perf_counter(), 0

    def query(self) -> bool:
        self._asked += 1
        return self._asked > 1

    def synchronize(self) -> None:
        self._asked += 1

    def elapsed_time(self, end: DryEvent) -> float:
        if not self._at or not self._is_timed or not end._is_timed:
            msg = "Both events must be recorded with timing before calculating elapsed time"
            raise RuntimeError(msg)
        return max(end._at - self._at, 1e-6) * 1e3


class DryLaunch:
    """A kernel, launched as Triton's are.

    Args:
        kernel: does its work on host memory.
        mode: of the device.
    """

    def __init__(self, kernel: Callable[..., None], mode: DryCuda) -> None:
        self._kernel, self._mode = kernel, mode

    def __getitem__(self, grid: Sequence[int]) -> Callable[..., None]:
        if min(grid) < 1:
            msg = f"a grid must have whole positive sizes, got {grid}"
            raise ValueError(msg)
        return self._launch

    def _launch(self, *args: Any, **_: Any) -> None:
        wrong = [tuple(one.shape) for one in tensors_of(args) if not self._mode.on_device.has(one)]
        if wrong:
            msg = f"Pointer argument cannot be accessed from Triton (cpu tensor?): shapes {wrong}"
            raise ValueError(msg)
        self._mode.launches += 1
        if self._mode.capture is None:
            self._run(args)
        else:
            self._mode.capture.launch(partial(self._run, args))

    def _run(self, args: Any) -> None:
        with torch._C.DisableTorchFunction(), torch.inference_mode():
            self._kernel(*args)


class _Streams:
    """The current stream."""

    def __init__(self) -> None:
        self.current = DryStream()

    @contextmanager
    def inside(self, stream: DryStream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before


class _Capture:
    """`torch.cuda.graph`; as there, a capture that fails leaves its stream the current one."""

    def __init__(self, mode: DryCuda, streams: _Streams, graph: DryGraph) -> None:
        self._mode, self._streams, self._graph = mode, streams, graph
        self.capture_stream = DryStream()
        self._before = streams.current

    def __enter__(self) -> None:
        self._before, self._streams.current = self._streams.current, self.capture_stream
        self._mode.capture = self._graph

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._mode.capture = None
        if kind is not None:
            msg = "CUDA error: operation failed due to a previous error during capture"
            raise RuntimeError(msg)
        self._mode.captures += 1
        self._streams.current = self._before


class _Generator(torch.Generator):
    def __new__(cls, device: Any = None) -> torch.Generator:  # type: ignore[misc]
        del device
        return super().__new__(cls)


def _properties(*_: Any) -> Any:
    return SimpleNamespace(
        name=NAME, major=9, minor=0, multi_processor_count=132, total_memory=85 * 10**9, L2_cache_size=64, uuid="0"
    )


def _replacements(mode: DryCuda, memory_bytes: int) -> dict[str, Any]:
    streams = _Streams()
    return {
        "is_available": lambda: True,
        "current_device": lambda: 0,
        "set_device": lambda _: None,
        "get_device_properties": _properties,
        "get_device_capability": lambda *_: (9, 0),
        "mem_get_info": lambda *_: (memory_bytes, memory_bytes),
        "synchronize": lambda *_: None,
        "empty_cache": lambda: None,
        "Stream": DryStream,
        "Event": DryEvent,
        "CUDAGraph": type("CUDAGraph", (DryGraph,), {"mode": mode}),
        "graph": lambda graph, pool=None: _Capture(mode, streams, graph),
        "stream": streams.inside,
        "current_stream": lambda *_: streams.current,
    }


@contextmanager
def _imported(modules: dict[str, Any]) -> Iterator[None]:
    """Have these modules imported; mock.patch.dict would forget every other that is imported meanwhile."""
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


@contextmanager
def dry_cuda(memory_bytes: int = 80 * 10**9) -> Iterator[DryCuda]:
    """Have torch find a CUDA device.

    Args:
        memory_bytes: that it says are free.
    """
    mode = DryCuda()
    with ExitStack() as stack:
        for name, replacement in _replacements(mode, memory_bytes).items():
            stack.enter_context(mock.patch.object(torch.cuda, name, replacement))
        stack.enter_context(mock.patch.object(torch, "Generator", _Generator))
        modules = {
            name: SimpleNamespace(**{kernel: DryLaunch(work, mode) for kernel, work in kernels.items()})
            for name, kernels in KERNELS.items()
        }
        stack.enter_context(_imported(modules))
        stack.enter_context(mock.patch("gpu_validate.engine.paged.has_triton", return_value=True))
        stack.enter_context(mock.patch("gpu_validate.lora.backends._reason_against_triton", return_value=None))
        # A graph's operations run outside of the mode, in which torch has no such kernel for host memory.
        stack.enter_context(mock.patch("gpu_validate.engine.attention.varlen_kernel", return_value=None))
        stack.enter_context(mode)
        yield mode

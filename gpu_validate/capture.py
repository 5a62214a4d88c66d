"""Captures work as a CUDA graph, and leaves the current stream as it was even if that fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import torch


def capture(
    work: Callable[[], object], *, device: torch.device | str, pool: Any = None, warm_ups: int = 1
) -> torch.cuda.CUDAGraph:
    """Return a graph of everything that `work` issues.

    Args:
        work: issues to the current stream, and waits for nothing; it runs `warm_ups` times before it is captured, since
            a capture must neither compile kernels nor make a library's first call.
        device: a CUDA device.
        pool: of an earlier graph, to share its memory: the two must not be replayed at once.
        warm_ups: runs before the capture.

    Raises:
        RuntimeError: if something in it cannot be captured.
    """
    import torch  # noqa: PLC0415 - slow to import, and optional

    graph = torch.cuda.CUDAGraph()
    capturing = torch.cuda.graph(graph, pool=pool)
    # Every stream costs a matrix library's workspace, so the warm-up uses the one that all captures share.
    current, side = torch.cuda.current_stream(device), cast("torch.cuda.Stream", capturing.capture_stream)
    side.wait_stream(current)
    with torch.cuda.stream(side):
        for _ in range(warm_ups):
            work()
    current.wait_stream(side)
    # A capture that fails leaves its own stream the current one; the outer context does not.
    with torch.cuda.stream(current), capturing:
        work()
    return graph

"""CUDA graphs of decode steps, one per padded shape. Without CUDA nothing here is used."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch

from gpu_validate.capture import capture
from gpu_validate.engine.padding import COLUMNS
from gpu_validate.lora.plan import LoraPlan

StepBody = Callable[[torch.Tensor, int, LoraPlan | None], None]


class Captured(NamedTuple):
    """A graph and the tensors that it reads."""

    graph: torch.cuda.CUDAGraph
    metadata: torch.Tensor
    plan: LoraPlan | None


class DecodeGraphs:
    """Replays decode steps, each shape captured when it is first met.

    Args:
        body: the step: device metadata, number of requests, plan; it must only read and write fixed tensors.
        max_rank: largest rank that plans will have.
        is_aligned: whether all their ranks allow wide loads.
    """

    def __init__(self, body: StepBody, max_rank: int, *, is_aligned: bool) -> None:
        self._is_aligned = is_aligned
        self._body = body
        self._max_rank = max_rank
        self._pool: Any = None
        self._captured: dict[tuple[int, int, bool], Captured] = {}
        self._filled: dict[tuple[int, int, bool], LoraPlan] = {}  # whose work the tables of each hold

    def __len__(self) -> int:
        return len(self._captured)

    def replay(self, metadata: torch.Tensor, requests: int, plan: LoraPlan | None) -> None:
        """Run one step.

        Args:
            metadata: on the host, pinned.
            requests: a bucket.
            plan: of so many tokens, best on the host, and never changed afterwards; None if no request has an adapter.
        """
        key = (requests, len(metadata), plan is not None)
        if key not in self._captured:
            self._captured[key] = self._capture(*key[:2], plan)
        captured = self._captured[key]
        captured.metadata.copy_(metadata, non_blocking=True)
        if captured.plan is not None and plan is not None and self._filled.get(key) is not plan:
            captured.plan.copy_from(self._fixed(plan, requests))
            self._filled[key] = plan
        captured.graph.replay()

    def _capture(self, requests: int, size: int, plan: LoraPlan | None) -> Captured:
        device = torch.device("cuda")
        metadata = idle_metadata(requests, size).to(device)
        plan = None if plan is None else self._fixed(plan, requests, device)
        graph = capture(partial(self._body, metadata, requests, plan), device=device, pool=self._pool)
        self._pool = graph.pool()  # graphs run one after another, so they may share their intermediates
        return Captured(graph, metadata, plan)

    def _fixed(self, plan: LoraPlan, requests: int, device: torch.device | None = None) -> LoraPlan:
        return plan.padded(requests, max_rank=self._max_rank, aligned=self._is_aligned, device=device)


def idle_metadata(requests: int, size: int) -> torch.Tensor:
    """Return the metadata of a decode step in which every row is padding; it works on scratch memory alone."""
    metadata = torch.zeros(size, dtype=torch.int64)
    metadata[3 * requests : COLUMNS * requests] = 1  # a length of 0 would leave attention nothing to weigh
    return metadata

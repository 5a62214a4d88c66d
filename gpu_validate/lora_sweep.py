"""LoRA of one projection through each backend, over tokens, distinct adapters and ranks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from gpu_validate.layers import Layers, rotation
from gpu_validate.lora.backends import available, backend
from gpu_validate.lora.layout import Layout
from gpu_validate.lora.plan import LoraPlan, make_plan
from gpu_validate.shapes import KERNELS, Shape
from gpu_validate.timing import Measured

BACKENDS = {"grouped_mm": "grouped"}  # where a row's name of a kernel is not the backend's
MODULE = "q"
MOST_GROUPS = 64  # distinct adapters over all sets: each is launched apart by a loop, and planned by the host
ALIGNMENT = 256  # elements between the starts of adapters: 512 bytes, as the engine's arena keeps


def kernels_here() -> tuple[str, ...]:
    """Return the kernels of the sweep whose backends this machine can run."""
    reasons = available()
    return tuple(kernel for kernel in KERNELS if reasons.get(BACKENDS.get(kernel, kernel), "unknown") is None)


def kernels_missing() -> dict[str, str]:
    """Return why each other kernel of the sweep cannot be run here."""
    reasons = {kernel: available().get(BACKENDS.get(kernel, kernel), "unknown") for kernel in KERNELS}
    return {kernel: reason for kernel, reason in reasons.items() if reason is not None}


def token_adapters(phase: str, tokens: int, distinct: int) -> list[int]:
    """Return each token's adapter: dealt out in turn in decode, where a token is a request; in prefill one run each.

    Either way the first adapters get one token more where it does not come out even.
    """
    dealt = [token % distinct for token in range(tokens)]
    return sorted(dealt) if phase == "prefill" else dealt


class LoraSweep:
    """Measures shapes of `lora`.

    Args:
        layers: gives random data and times replays.
        device: where to.
    """

    def __init__(self, layers: Layers, device: torch.device) -> None:
        self._layers, self._device = layers, device

    def __call__(self, shape: Shape, budget_s: float) -> Measured:
        """Return how long the adapters' part of one projection takes.

        Raises:
            RuntimeError: if the backend cannot be used here.
        """
        config = shape.config
        run, repeats, capturable = self.work(config)
        if capturable:
            return self._layers.replayed(run, repeats, budget_s)
        return self._layers.launched(run, repeats, budget_s)

    def work(self, config: dict[str, Any]) -> tuple[Callable[[], None], int, bool]:
        """Return the work on several distinct sets of adapters, how many they are, and whether a graph can hold it."""
        chosen = backend(BACKENDS.get(config["kernel"], config["kernel"]))
        layout = Layout(1, [(MODULE, config["in_features"], config["out_features"])])
        ranks = config["ranks"]
        starts, total = _places([layout.elements(rank) for rank in ranks])
        probe = self._layers.random(1)
        repeats = rotation(total * probe.element_size(), self._device, most=max(1, MOST_GROUPS // len(ranks)))
        arena = self._layers.random(total * repeats, scale=config["in_features"] ** -0.5)
        plans = [self._plan(config, [start + turn * total for start in starts]) for turn in range(repeats)]
        x = self._layers.random(config["tokens"], config["in_features"])
        y = self._layers.random(config["tokens"], config["out_features"])

        def run() -> None:
            for plan in plans:
                chosen.apply(y, x, arena, layout, 0, MODULE, plan)

        return run, repeats, chosen.capturable

    def _plan(self, config: dict[str, Any], bases: list[int]) -> LoraPlan:
        ranks = config["ranks"]
        adapters = token_adapters(config["phase"], config["tokens"], config["distinct"])
        return make_plan(adapters, ranks, bases, [1.0] * len(ranks), device=self._device)


def _places(sizes: list[int]) -> tuple[list[int], int]:
    """Return where adapters of these sizes begin, aligned, and the size of all."""
    starts, total = [], 0
    for size in sizes:
        starts.append(total)
        total += math.ceil(size / ALIGNMENT) * ALIGNMENT
    return starts, total

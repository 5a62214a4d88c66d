"""The base model's parts, each alone: linear layers, LM head, attention, launches. Weights are random, shapes real."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from gpu_validate.engine.attention import Packed, TokenAttention, prompt_attention
from gpu_validate.engine.dims import BLOCK_TOKENS
from gpu_validate.shapes import Shape
from gpu_validate.timing import Measured, Work, captured, measure

ROTATION = 4  # weights are this many times the L2 cache, so that none is found there
SMALL_CACHE_BYTES = 2**11  # stands for the cache of a device that does not tell
NORM_EPSILON = 1e-5


def l2_bytes(device: torch.device) -> int:
    """Return the size of the device's L2 cache."""
    if device.type != "cuda":
        return SMALL_CACHE_BYTES
    return int(getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0)) or 64 * 2**20


def rotation(item_bytes: int, device: torch.device, *, most: int = 64) -> int:
    """Return how many distinct copies of something outgrow the cache fourfold, or `most`, which are each used once.

    The cache is also flushed before each run, so fewer copies are cold, too; more would only take longer to set up.
    """
    return max(1, min(most, math.ceil(ROTATION * l2_bytes(device) / item_bytes)))


def floats(device: torch.device) -> torch.dtype:
    """Return bfloat16; on GPUs before Ampere, which lack it, float16, and on a CPU float32."""
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


class Layers:
    """Measures shapes of `dense`, `lm_head`, `attention_...` and `launch`.

    Attention in prefill and decode is torch's, over packed prompts where it can be, and `attention_paged` the engine's
    own. Device times come from graph replays over enough distinct weights, so they hold neither launches nor cache
    hits; a time is that of one layer.

    Args:
        device: where to.
        seed: of the random data.
    """

    def __init__(self, device: torch.device, seed: int) -> None:
        self._device, self._seed = device, seed
        self._kind = floats(device)
        self._generator = torch.Generator(device).manual_seed(seed)

    def __call__(self, shape: Shape, budget_s: float) -> Measured:
        """Return how long one layer's worth of a shape takes.

        Raises:
            ValueError: if the shape is of another kind.
        """
        if shape.kind == "launch":
            return self._launch(shape.config, budget_s)
        builders: dict[str, Callable[[dict[str, Any]], tuple[Work, int]]] = {
            "dense": self._dense,
            "lm_head": self._lm_head,
            "attention_prefill": self._prefill,
            "attention_decode": self._decode,
            "attention_paged": self._paged,
        }
        if shape.kind not in builders:
            msg = f"{shape.kind} is not a part of the base model; {', '.join([*builders, 'launch'])} are"
            raise ValueError(msg)
        return self.replayed(*builders[shape.kind](shape.config), budget_s)

    def replayed(self, work: Work, repeats: int, budget_s: float) -> Measured:
        """Return the time of one of the repeats in `work`, without launches if it can be captured."""
        note = ""
        try:
            run = captured(work, device=self._device)
        except RuntimeError as error:
            torch.cuda.synchronize(self._device)
            run, note = work, f"not captured, launches included: {str(error).splitlines()[0]}"
        timing = measure(run, device=self._device, budget_s=budget_s).per(repeats)
        return Measured(replace(timing, note="; ".join(filter(None, (timing.note, note)))))

    def launched(self, work: Work, repeats: int, budget_s: float) -> Measured:
        """Return the wall time of one of the repeats in `work`, with its launches."""
        timing = measure(work, device=self._device, budget_s=budget_s, clock="host").per(repeats)
        return Measured(replace(timing, note="; ".join(filter(None, (timing.note, "launches included")))))

    def random(self, *sizes: int, scale: float = 1.0) -> torch.Tensor:
        """Return normal random numbers (zeros would let the GPU run faster than it can)."""
        return torch.randn(*sizes, device=self._device, dtype=self._kind, generator=self._generator) * scale

    def _dense(self, config: dict[str, Any]) -> tuple[Work, int]:
        hidden, ffn, qkv_out = config["hidden"], config["ffn"], config["qkv_out"]
        shapes = ((qkv_out, hidden), (hidden, hidden), (2 * ffn, hidden), (hidden, ffn))
        item_bytes = sum(n * k for n, k in shapes) * self._kind.itemsize
        repeats = rotation(item_bytes, self._device)
        weights = [[self.random(n, k, scale=k**-0.5) for n, k in shapes] for _ in range(repeats)]
        return partial(_stack, self.random(config["tokens"], hidden), weights), repeats

    def _lm_head(self, config: dict[str, Any]) -> tuple[Work, int]:
        sizes = config["vocab"], config["hidden"]
        repeats = rotation(math.prod(sizes) * self._kind.itemsize, self._device)
        heads = [self.random(*sizes, scale=sizes[1] ** -0.5) for _ in range(repeats)]
        x = self.random(config["sequences"], config["hidden"])
        return lambda: [F.linear(x, head) for head in heads], repeats

    def _prefill(self, config: dict[str, Any]) -> tuple[Work, int]:
        """Return what engines do with a chunk of one prompt: as the mini engine, which calls torch here."""
        chunk, total = config["chunk"], config["chunk"] + config["cached"]
        q = self.random(chunk, config["heads"], config["head_dim"])
        k, v = (self.random(total, config["kv_heads"], config["head_dim"]) for _ in range(2))
        queries, keys = (
            Packed(torch.tensor([0, tokens], dtype=torch.int32, device=self._device), (tokens,))
            for tokens in (chunk, total)
        )
        return partial(prompt_attention, q, k, v, queries, keys), 1

    def _decode(self, config: dict[str, Any]) -> tuple[Work, int]:
        requests = config["requests"]
        sizes = requests, config["kv_heads"], config["context_tokens"] // requests, config["head_dim"]
        repeats = rotation(2 * math.prod(sizes) * self._kind.itemsize, self._device)
        q = self.random(requests, config["heads"], 1, config["head_dim"])
        pairs = [(self.random(*sizes), self.random(*sizes)) for _ in range(repeats)]
        grouped = config["heads"] != config["kv_heads"]
        return lambda: [F.scaled_dot_product_attention(q, k, v, enable_gqa=grouped) for k, v in pairs], repeats

    def _paged(self, config: dict[str, Any]) -> tuple[Work, int]:
        """Return what the mini engine does in a decode step, on blocks that lie anywhere, as they do in a long run."""
        requests, each = config["requests"], config["context_tokens"] // config["requests"]
        blocks = -(-each // BLOCK_TOKENS)
        rows = (1 + requests * blocks) * BLOCK_TOKENS
        sizes = 2, rows, config["kv_heads"], config["head_dim"]
        repeats = rotation(math.prod(sizes) * self._kind.itemsize, self._device)
        order = np.random.default_rng(self._seed).permutation(requests * blocks) + 1
        tables = torch.from_numpy(order.reshape(requests, blocks)).to(self._device)
        lengths = torch.full((requests,), each, dtype=torch.int64, device=self._device)
        q = self.random(requests, config["heads"], config["head_dim"])
        caches = [self.random(*sizes) for _ in range(repeats)]

        def work() -> list[torch.Tensor]:
            attention = TokenAttention(tables, lengths)
            return [attention(q, cache) for cache in caches]

        return work, repeats

    def _launch(self, config: dict[str, Any], budget_s: float) -> Measured:
        """Return wall time from the first launch to the last kernel's end, for kernels that do next to nothing."""
        x = self.random(32)

        def work() -> None:
            for _ in range(config["kernels"]):
                x.neg_()

        run = captured(work, device=self._device) if config["graph"] else work
        timing = measure(run, device=self._device, budget_s=budget_s, flush_l2=False, clock="host")
        return Measured(timing, {"issue_s": timing.issue_s})


def _stack(x: torch.Tensor, weights: list[list[torch.Tensor]]) -> torch.Tensor:
    """Run linear layers one after another, with the norms, the gate and the residual sums between them."""
    hidden = (x.shape[1],)
    for qkv, out, gate_up, down in weights:
        mixed = F.linear(F.rms_norm(x, hidden, eps=NORM_EPSILON), qkv)
        x = x + F.linear(mixed[:, : out.shape[1]], out)  # attention itself is measured apart
        gate, up = F.linear(F.rms_norm(x, hidden, eps=NORM_EPSILON), gate_up).chunk(2, dim=1)
        x = x + F.linear(F.silu(gate) * up, down)
    return x


def busy(like: str, device: torch.device, *, tiny: bool = False) -> Work:
    """Return matrix products like decode (few rows, all weights read) or like prefill (many rows).

    Args:
        like: `decode` or `prefill`.
        device: where they run.
        tiny: small enough for a CPU.
    """
    width, matrices = (64, 2) if tiny else (4096, 8)
    rows = {"decode": 32, "prefill": 2048}[like] // (16 if tiny else 1)
    kind = floats(device)
    weights = [torch.randn(width, width, device=device, dtype=kind) * width**-0.5 for _ in range(matrices)]
    x = torch.randn(rows, width, device=device, dtype=kind)
    out = torch.empty_like(x)

    def compute() -> None:
        for weight in weights:
            torch.mm(x, weight, out=out)

    return compute

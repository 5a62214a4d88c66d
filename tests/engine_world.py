"""A tiny torch engine built by hand, and an independent dense decoder in float64 to hold it against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from gpu_validate.engine.adapters import DeviceAdapters, HostStore
from gpu_validate.engine.arena import Arena, aligned
from gpu_validate.engine.decoder import Decoder
from gpu_validate.engine.kv import PagedKV
from gpu_validate.engine.worker import Worker, prompt_tokens
from gpu_validate.lora.backends import backend
from gpu_validate.lora.layout import Layout
from policies.base import Adapter, Request
from sim.models import ALL_MODULES, DEFAULT_MODULES, Model
from sim.serving.job import AdapterSlot, Job

torch.set_num_threads(1)

Floats = npt.NDArray[np.float64]
CPU = torch.device("cpu")
MODEL = Model(
    name="by-hand", layers=3, hidden=48, heads=6, kv_heads=2, head_dim=8, ffn=80, vocab=211, context_window=256
)
RANKS = (None, 1, 4, 2, 8)  # by palette index
STRONG = 0.2  # deviation of adapter weights with which they change what is said


class Loud(Decoder):
    """Remembers the logits of every iteration."""

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        logits = super()._logits(x)
        self.__dict__.setdefault("heard", []).append(logits)
        return logits


def store_of(model: Model = MODEL, modules: Sequence[str] = DEFAULT_MODULES) -> HostStore:
    return HostStore(Layout.of(model, modules), RANKS, dtype=torch.float32, deviation=STRONG, seed=5)


def slots_of(store: HostStore) -> list[AdapterSlot | None]:
    """Return the palette's slots, all held."""
    slots = []
    for index, rank in enumerate(store.ranks):
        slot = AdapterSlot(Adapter(f"a{index}", rank, 1000 * rank), index) if rank else None
        if slot is not None:
            slot.held = True
        slots.append(slot)
    return slots


def arena_for(store: HostStore, device: torch.device = CPU) -> Arena:
    size = sum(aligned(store.layout.elements(rank), 4) for rank in store.ranks)
    return Arena(size, dtype=torch.float32, device=device)


def worker_of(
    model: Model = MODEL,
    *,
    modules: Sequence[str] = ALL_MODULES,
    kernel: str = "torch_loop",
    device: torch.device = CPU,
    uses_graphs: bool = False,
) -> Worker:
    """Return a worker with every adapter on the device, in float32."""
    store = store_of(model, modules)
    adapters = DeviceAdapters(store, arena_for(store, device))
    for slot in slots_of(store):
        if slot is not None:
            adapters.place(slot)
            adapters.copy_in(slot)
    kv = PagedKV(model, 40, dtype=torch.float32, device=device)
    cls = Decoder if uses_graphs else Loud
    decoder = cls(model, max_positions=256, dtype=torch.float32, device=device, seed=3)
    return Worker(decoder, kv, adapters, backend(kernel), seats=16, uses_graphs=uses_graphs, keeps_tokens=True)


def job_of(worker: Worker, id_: int, prompt: int, index: int) -> Job:
    """Return a request for the adapter at a palette index; 0 is the base model."""
    slot = slots_of(worker.adapters.store)[index]
    return Job(Request(id_, 0.0, prompt, 1, None if slot is None else slot.adapter), 0, 1, 1, slot)


def said(worker: Worker) -> dict[int, list[int]]:
    assert worker.emitted is not None
    return worker.emitted


def prompt_of(job: Job, model: Model = MODEL) -> list[int]:
    return [int(token) for token in prompt_tokens(job.request.id, job.prompt_tokens, model.vocab)]


def dense_logits(worker: Worker, tokens: Sequence[int], index: int) -> Floats:
    """Return logits at every position, shape (tokens, vocab), without a cache; LoRA is merged into the weights."""
    decoder, model = worker.decoder, worker.decoder.model
    x = _numbers(decoder.embedding)[list(tokens)]
    for place in range(model.layers):
        weights = _merged(worker, place, index)
        n = _normed(x)
        heads = _attended(n @ weights["q"].T, n @ weights["k"].T, n @ weights["v"].T, model)
        x = x + heads @ weights["o"].T
        n = _normed(x)
        gate = n @ weights["gate"].T
        x = x + (gate / (1 + np.exp(-gate)) * (n @ weights["up"].T)) @ weights["down"].T
    return _normed(x) @ _numbers(decoder.head).T


def _merged(worker: Worker, layer: int, index: int) -> dict[str, Floats]:
    model, fused = worker.decoder.model, worker.decoder.layers[layer]
    q, kv = model.heads * model.head_dim, model.kv_heads * model.head_dim
    qkv, gate_up = _numbers(fused.qkv), _numbers(fused.gate_up)
    weights = {
        "q": qkv[:q],
        "k": qkv[q : q + kv],
        "v": qkv[q + kv :],
        "o": _numbers(fused.o),
        "gate": gate_up[: model.ffn],
        "up": gate_up[model.ffn :],
        "down": _numbers(fused.down),
    }
    store = worker.adapters.store
    rank = store.ranks[index]
    if not rank:
        return weights
    views = {tuple(place): _numbers(view) for place, view in store.layout.views(store.adapter(index), rank).items()}
    for module in store.layout.modules:
        a, b = views[layer, module.name, "A"], views[layer, module.name, "B"]
        weights[module.name] = weights[module.name] + store.scales[index] * b @ a
    return weights


def _attended(q: Floats, k: Floats, v: Floats, model: Model) -> Floats:
    count, dim = len(q), model.head_dim
    out = np.zeros((count, model.heads * dim))
    for head in range(model.heads):
        shared = head * model.kv_heads // model.heads
        of_q, of_kv = slice(head * dim, (head + 1) * dim), slice(shared * dim, (shared + 1) * dim)
        scores = _turned(q[:, of_q]) @ _turned(k[:, of_kv]).T / np.sqrt(dim)
        scores[np.triu_indices(count, 1)] = -np.inf
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        out[:, of_q] = weights / weights.sum(axis=1, keepdims=True) @ v[:, of_kv]
    return out


def _turned(x: Floats) -> Floats:
    """Return rows turned by their position: (x_j, x_(j + half)) is a complex number with its own frequency."""
    half = x.shape[1] // 2
    angle = np.arange(len(x))[:, None] / 10_000.0 ** (np.arange(half) / half)
    turned = (x[:, :half] + 1j * x[:, half:]) * np.exp(1j * angle)
    return np.concatenate([turned.real, turned.imag], axis=1)


def _normed(x: Floats) -> Floats:
    normed: Floats = x / np.sqrt((x * x).mean(axis=1, keepdims=True) + 1e-5)
    return normed


def _numbers(tensor: torch.Tensor) -> Floats:
    numbers: Floats = np.array(tensor.tolist(), np.float64)
    return numbers

"""A Llama decoder with random weights over a paged KV cache; LoRA is added behind each projection of the base model."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch.nn.functional import linear, rms_norm, silu

from gpu_validate.engine.attention import Packed, TokenAttention, prompt_attention
from gpu_validate.engine.kv import PagedKV
from gpu_validate.engine.rotary import Rotation
from sim.models import Model

EPS = 1e-5
ROPE_BASE = 10_000.0
Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Lora(Protocol):
    """The adapters of one iteration."""

    def add(self, y: torch.Tensor, x: torch.Tensor, layer: int, module: str) -> None:
        """Add each token's scale * B A x to y, in place; nothing for a module without adapters."""


class Earlier(NamedTuple):
    """What packed prompts attend to where parts of them were processed before: each one's keys so far."""

    rows: torch.Tensor  # (keys,) rows of the KV cache
    packed: Packed


class Prompts(NamedTuple):
    """Packed prompts, or next parts of them: int64 tensors on the device."""

    tokens: torch.Tensor  # (tokens,)
    positions: torch.Tensor  # (tokens,)
    rows: torch.Tensor  # (tokens,) rows of the KV cache
    last: torch.Tensor  # (complete prompts,) place of the last token of each that is complete with this
    packed: Packed
    earlier: Earlier | None = None  # None: all are whole


class NextTokens(NamedTuple):
    """One token of each running request: int64 tensors on the device."""

    tokens: torch.Tensor  # (requests,)
    positions: torch.Tensor  # (requests,)
    rows: torch.Tensor  # (requests,) row of the KV cache that the token's K and V get
    lengths: torch.Tensor  # (requests,) tokens in the cache, this one included
    tables: torch.Tensor  # (requests, blocks)


class _Tokens(NamedTuple):
    """Whatever goes through the layers together."""

    tokens: torch.Tensor
    positions: torch.Tensor
    rows: torch.Tensor


class Layer(NamedTuple):
    """Weights of one layer, each (outputs, inputs)."""

    qkv: torch.Tensor
    o: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor
    attention_norm: torch.Tensor
    mlp_norm: torch.Tensor


class Decoder:
    """Weights and the kinds of iteration; each returns greedy token ids, which nobody waits for.

    Args:
        model: dimensions.
        max_positions: longest sequence.
        dtype, device: of weights and activations.
        seed: of the weights.
    """

    def __init__(
        self, model: Model, *, max_positions: int, dtype: torch.dtype, device: torch.device, seed: int = 0
    ) -> None:
        self.model = model
        self.max_positions = max_positions
        self._dice = torch.Generator(device=device).manual_seed(seed)
        self._dtype, self._device = dtype, device
        self.embedding = self._random(model.vocab, model.hidden)
        self.layers = [self._layer() for _ in range(model.layers)]
        self.norm = torch.ones(model.hidden, dtype=dtype, device=device)
        self.head = self.embedding if model.tied_embeddings else self._random(model.vocab, model.hidden)
        half = model.head_dim // 2
        frequencies = ROPE_BASE ** (-torch.arange(half, device=device, dtype=torch.float32) / half)
        angles = torch.arange(max_positions, device=device, dtype=torch.float32)[:, None] * frequencies
        self._cos, self._sin = angles.cos().to(dtype), angles.sin().to(dtype)

    def weight(self, layer: int, module: str) -> torch.Tensor:
        """Return the weights that an adapter's module adds to, shape (outputs, inputs), as a view."""
        fused, model = self.layers[layer], self.model
        heads, kv = model.heads * model.head_dim, model.kv_heads * model.head_dim
        if module in {"q", "k", "v"}:
            return dict(zip("qkv", torch.split(fused.qkv, [heads, kv, kv]), strict=True))[module]
        if module in {"gate", "up"}:
            return fused.gate_up.chunk(2)[module == "up"]
        return fused.o if module == "o" else fused.down

    @torch.inference_mode()
    def prefill(self, batch: Prompts, kv: PagedKV, lora: Lora | None) -> torch.Tensor:
        """Return the next token of each prompt that is complete, shape (complete prompts,), and fill the cache."""
        x = self._forward(batch, kv, _over_prompts(batch, kv), lora)
        return self._greedy(x[batch.last])

    @torch.inference_mode()
    def mixed(self, batch: NextTokens, prompts: Prompts, kv: PagedKV, lora: Lora | None) -> torch.Tensor:
        """Do both in one pass, the batch first; shape (requests + complete prompts,)."""
        requests = len(batch.tokens)
        attention, over_prompts = TokenAttention(batch.tables, batch.lengths), _over_prompts(prompts, kv)

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            of_batch = attention(q[:requests], kv.cache[layer])
            return torch.cat((of_batch, over_prompts(layer, q[requests:], k[requests:], v[requests:])))

        both = _Tokens(*(torch.cat((getattr(batch, name), getattr(prompts, name))) for name in _Tokens._fields))
        x = self._forward(both, kv, attend, lora)
        return self._greedy(torch.cat((x[:requests], x[requests + prompts.last])))

    @torch.inference_mode()
    def decode(self, batch: NextTokens, kv: PagedKV, lora: Lora | None) -> torch.Tensor:
        """Return the next token of each request, shape (requests,), and add this one to the cache."""
        attention = TokenAttention(batch.tables, batch.lengths)

        def attend(layer: int, q: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
            return attention(q, kv.cache[layer])

        return self._greedy(self._forward(batch, kv, attend, lora))

    def _forward(
        self, batch: Prompts | NextTokens | _Tokens, kv: PagedKV, attend: Attend, lora: Lora | None
    ) -> torch.Tensor:
        x = self.embedding[batch.tokens]
        rotation = Rotation(self._cos, self._sin, batch.positions, batch.rows)
        for index, layer in enumerate(self.layers):
            qkv = self._qkv(index, rms_norm(x, x.shape[1:], layer.attention_norm, EPS), lora)
            attended = attend(index, *rotation(qkv, kv.cache[index], self.model.heads)).flatten(1)
            y = linear(attended, layer.o)
            _add(lora, y, attended, index, "o")
            x = x + y
            x = x + self._mlp(index, rms_norm(x, x.shape[1:], layer.mlp_norm, EPS), lora)
        return x

    def _qkv(self, index: int, x: torch.Tensor, lora: Lora | None) -> torch.Tensor:
        heads, kv_heads, head_dim = self.model.heads, self.model.kv_heads, self.model.head_dim
        qkv = linear(x, self.layers[index].qkv)
        widths = [heads * head_dim] + [kv_heads * head_dim] * 2
        for module, part in zip("qkv", torch.split(qkv, widths, dim=1), strict=True):
            _add(lora, part, x, index, module)
        return qkv

    def _mlp(self, index: int, x: torch.Tensor, lora: Lora | None) -> torch.Tensor:
        layer = self.layers[index]
        gate, up = linear(x, layer.gate_up).chunk(2, dim=1)
        _add(lora, gate, x, index, "gate")
        _add(lora, up, x, index, "up")
        inner = silu(gate) * up
        y = linear(inner, layer.down)
        _add(lora, y, inner, index, "down")
        return y

    def _greedy(self, x: torch.Tensor) -> torch.Tensor:
        return self._logits(x).argmax(dim=1)

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        return linear(rms_norm(x, x.shape[1:], self.norm, EPS), self.head)

    def _layer(self) -> Layer:
        weights = {name: self._random(*shape) for name, shape in self.model.gemms.items()}
        ones = torch.ones(self.model.hidden, dtype=self._dtype, device=self._device)
        return Layer(**weights, attention_norm=ones, mlp_norm=ones.clone())

    def _random(self, outputs: int, inputs: int) -> torch.Tensor:
        drawn = torch.randn(outputs, inputs, generator=self._dice, dtype=self._dtype, device=self._device)
        return drawn.mul_(inputs**-0.5)


def _over_prompts(batch: Prompts, kv: PagedKV) -> Attend:
    """Return the attention of packed prompts: over what they bring, or over all that the cache has of them."""
    earlier = batch.earlier

    def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        if earlier is None:
            return prompt_attention(q, k, v, batch.packed, batch.packed)
        k, v = (kv.cache[layer, part][earlier.rows] for part in (0, 1))
        return prompt_attention(q, k, v, batch.packed, earlier.packed)

    return attend


def _add(lora: Lora | None, y: torch.Tensor, x: torch.Tensor, layer: int, module: str) -> None:
    if lora is not None:
        lora.add(y, x, layer, module)

"""Which shapes a sweep measures, split before anything is measured. No torch here.

`fit` is a grid; `test` are random points inside it, from a seed of their own; `extrapolation` lies outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from gpu_validate.rows import Kind, key_of
from sim.models import Model, load_model

Split = Literal["fit", "test", "extrapolation"]
KERNELS = ("segmented", "bgmv", "grouped_mm", "torch_loop")
MODES = ("flat", "per_layer", "per_tensor", "slora_double", "vllm_slots", "pageable")
RANKS = (8, 16, 32, 64, 128)
MIXES: tuple[tuple[int, ...], ...] = ((8,), (32,), (128,), RANKS)
KV_LIMIT_BYTES = 4 * 2**30  # of one layer
TEST_STREAM = 0x7E57  # separates the draws of test shapes from every other use of a seed
COPIES = {"slora_double": 2}  # times that a byte of an adapter crosses the link; others: once
PARAMETER_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
TINY = Model(name="tiny", layers=2, hidden=64, heads=4, kv_heads=2, head_dim=16, ffn=128, vocab=256, context_window=256)


@dataclass(frozen=True)
class Shape:
    """One thing to measure: a kind, its config (with the split), and an id that does not depend on the split."""

    kind: Kind
    config: dict[str, Any]

    @property
    def id(self) -> str:
        """Return a short stable name."""
        return key_of(self.kind, self.config)

    @property
    def split(self) -> str:
        """Return whether it is for fitting, for testing the fit, or beyond it."""
        return str(self.config["split"])


def find_model(name: str) -> Model:
    """Return a packaged model, or `tiny`, which only tests the harness.

    Raises:
        ValueError: if the name is unknown.
    """
    return TINY if name == TINY.name else load_model(name)


def kernel_shapes(
    model: Model, seed: int, kernels: Iterable[str] = KERNELS, *, dtype: str = "bfloat16", tiny: bool = False
) -> list[Shape]:
    """Return the shapes of `kernels` in the order in which a short budget should have them.

    Args:
        model: gives the dimensions.
        seed: of the random interior points.
        kernels: LoRA backends that this machine has.
        dtype: what it computes in.
        tiny: small shapes, which a CPU can do, and no more than every fit needs.

    Raises:
        ValueError: if the model's output projection is not square, which a `dense` row cannot say.
    """
    if model.heads * model.head_dim != model.hidden:
        msg = f"{model.name}: heads * head_dim must be the hidden size, got {model.heads * model.head_dim}"
        raise ValueError(msg)
    rng, top = np.random.default_rng([seed, TEST_STREAM]), 256 if tiny else 4096
    families: list[Iterable[Shape]] = [
        _along("dense", partial(_dense, model, dtype), _edges(top), top, 3 if tiny else 12, (2 * top,), rng),
        _along("lm_head", partial(_lm_head, model), _powers(top // 16, 4), top // 16, 4, (top // 4,), rng),
        _prefills(model, top, rng),
        _decodes(model, top, rng),
        _paged(model, top, np.random.default_rng([seed, TEST_STREAM, 2])),
        _launches(tiny=tiny),
        *(_loras(model, kernel, rng, tiny=tiny) for kernel in kernels),
    ]
    return _unique(shape for family in families for shape in family)


def _powers(top: int, base: int = 2) -> list[int]:
    return [base**exponent for exponent in range(int(math.log(max(top, 1), base) + 1e-9) + 1)]


def _edges(top: int) -> list[int]:
    """Return a geometric grid and the first token of a new tile after each of its points from 64 up."""
    grid = _powers(top)
    return sorted({*grid, *(tokens + 1 for tokens in grid if 64 <= tokens < top)})


def _inside(rng: np.random.Generator, low: int, high: int) -> int:
    """Return a whole number between two, every octave alike."""
    return round(math.exp(rng.uniform(math.log(low), math.log(high))))


def _along(
    kind: Kind,
    config: Callable[[int], dict[str, Any]],
    grid: list[int],
    top: int,
    tests: int,
    beyond: Iterable[int],
    rng: np.random.Generator,
) -> Iterator[Shape]:
    """Yield the shapes of a family with one dimension."""
    for size in grid:
        yield _shape(kind, config(size), "fit")
    for _ in range(tests):
        yield _shape(kind, config(_inside(rng, 1, top)), "test")
    for size in beyond:
        yield _shape(kind, config(size), "extrapolation")


def _shape(kind: Kind, config: dict[str, Any], split: Split) -> Shape:
    return Shape(kind, {**config, "split": split})


def _dense(model: Model, dtype: str, tokens: int) -> dict[str, Any]:
    dims = {"hidden": model.hidden, "ffn": model.ffn, "qkv_out": model.gemms["qkv"][0]}
    return {"layers": 1, "tokens": tokens, **dims, "dtype": dtype}


def _lm_head(model: Model, sequences: int) -> dict[str, Any]:
    return {"sequences": sequences, "hidden": model.hidden, "vocab": model.vocab}


def _heads(model: Model) -> dict[str, Any]:
    return {"heads": model.heads, "kv_heads": model.kv_heads, "head_dim": model.head_dim}


def _prefills(model: Model, top: int, rng: np.random.Generator) -> Iterator[Shape]:
    def config(chunk: int, cached: int) -> dict[str, Any]:
        return {"layers": 1, **_heads(model), "chunk": chunk, "cached": cached}

    for chunk in (top // 64 or 1, top // 16, top // 4, top):
        for cached in (0, top // 4, top):
            yield _shape("attention_prefill", config(chunk, cached), "fit")
    for _ in range(6):
        drawn = config(_inside(rng, max(top // 64, 1), top), _inside(rng, 1, top))
        yield _shape("attention_prefill", drawn, "test")
    yield _shape("attention_prefill", config(2 * top, 0), "extrapolation")


def _decodes(model: Model, top: int, rng: np.random.Generator) -> Iterator[Shape]:
    shape = partial(_decode, "attention_decode", model)
    most, longest, step = max(top // 16, 2), max(top // 2, 2), 4 if top > 1024 else 2
    fit = [shape(requests, each, "fit") for requests in _powers(most, step) for each in (longest // 16 or 1, longest)]
    test = [shape(_inside(rng, 1, most), _inside(rng, longest // 16 or 1, longest), "test") for _ in range(8)]
    beyond = [shape(2 * most, longest // 4 or 1, "extrapolation"), shape(1, 4 * longest, "extrapolation")]
    yield from _within_limit(model, (*fit, *test, *beyond))


def _paged(model: Model, top: int, rng: np.random.Generator) -> Iterator[Shape]:
    """Yield what the engine's own kernel is asked for: few shapes, since a check waits for them."""
    shape = partial(_decode, "attention_paged", model)
    most, longest, shortest = max(top // 16, 2), max(top // 2, 2), top // 16 or 1
    batches = (1, max(most // 32, 2), most // 4, most)
    fit = [shape(requests, each, "fit") for requests in batches for each in (shortest, longest)]
    test = [shape(_inside(rng, 1, most), _inside(rng, shortest, longest), "test") for _ in range(4)]
    yield from _within_limit(model, (*fit, *test, shape(1, 4 * longest, "extrapolation")))


def _decode(kind: Kind, model: Model, requests: int, each: int, split: Split) -> Shape:
    config = {"layers": 1, "requests": requests, "context_tokens": requests * each, **_heads(model)}
    return _shape(kind, config, split)


def _within_limit(model: Model, shapes: Iterable[Shape]) -> Iterator[Shape]:
    token_bytes = model.kv_token_bytes // model.layers
    yield from (one for one in shapes if one.config["context_tokens"] * token_bytes <= KV_LIMIT_BYTES)


def _launches(*, tiny: bool) -> Iterator[Shape]:
    for graph in (False, True):
        for kernels in (1, 2, 4, 8, 16) if tiny else (1, 10, 100, 640):
            yield _shape("launch", {"kernels": kernels, "graph": graph}, "fit")
        yield _shape("launch", {"kernels": 3 if tiny else 320, "graph": graph}, "test")


def _loras(model: Model, kernel: str, rng: np.random.Generator, *, tiny: bool) -> Iterator[Shape]:
    def config(phase: str, tokens: int, distinct: int, ranks: tuple[int, ...]) -> dict[str, Any]:
        size = {"tokens": tokens, "distinct": distinct, "ranks": [ranks[at % len(ranks)] for at in range(distinct)]}
        features = {"in_features": model.hidden, "out_features": model.hidden, "projections": 1}
        return {"kernel": kernel, "phase": phase, **size, **features}

    decode: tuple[tuple[int, int], ...] = ((1, 1), (8, 1), (8, 8), (32, 1), (32, 8), (32, 32), (128, 16), (128, 64))
    decode = ((1, 1), (2, 1), (4, 2), (8, 4), (8, 8)) if tiny else decode
    prefill = ((8, 2),) if tiny else ((256, 1), (1024, 1), (1024, 4), (4096, 8))
    for phase, sizes in (("decode", decode), ("prefill", prefill)):
        for ranks in ((4,), (4, 8)) if tiny else MIXES:
            for tokens, distinct in sizes:
                yield _shape("lora", config(phase, tokens, distinct, ranks), "fit")
        for _ in range(2 if tiny else 6):
            tokens = _inside(rng, sizes[0][0], sizes[-1][0])
            distinct = _inside(rng, 1, min(tokens, max(one for _, one in sizes)))
            drawn = tuple(int(rank) for rank in rng.choice((4, 8) if tiny else RANKS, size=distinct))
            yield _shape("lora", config(phase, tokens, distinct, drawn), "test")
    if not tiny:
        yield _shape("lora", config("decode", 256, 128, RANKS), "extrapolation")
        yield _shape("lora", config("prefill", 8192, 16, RANKS), "extrapolation")


def _unique(shapes: Iterable[Shape]) -> list[Shape]:
    """Drop what came before: a random point that fell on the grid must not be in two splits."""
    kept: dict[str, Shape] = {}
    for shape in shapes:
        kept.setdefault(shape.id, shape)
    return list(kept.values())


def load_shapes(
    models: Iterable[Model], seed: int, ops_of: Callable[[str, Model], int], *, pinned: bool, tiny: bool = False
) -> list[Shape]:
    """Return the copies that `load` makes.

    Args:
        models: whose adapters are moved.
        seed: of the random interior points.
        ops_of: gives the operations that a mode issues for an adapter of a model.
        pinned: whether the host can pin memory.
        tiny: small copies, which a CPU can do.
    """

    def shape(mode: str, size: int, split: Split, *, model: Model | None = None, rank: int = 0, **other: Any) -> Shape:
        ops = ops_of(mode, model) if model else 1
        alone = {"concurrent": 1, "beside": "idle", "pinned": pinned and mode != "pageable"}
        who = {"rank": rank, "model": model.name if model else ""}
        return _shape("load", {"mode": mode, "bytes": size, "ops": ops, **who, **alone, **other}, split)

    rng, (low, high) = np.random.default_rng([seed, TEST_STREAM, 1]), (2**10, 2**14) if tiny else (2**16, 2**28)
    sizes = [low * 4**step for step in range(int(math.log(high / low, 4)) + 1)]
    shapes = [shape(mode, size, "fit") for mode in ("flat", "pageable") for size in sizes]
    shapes += [shape("flat", _inside(rng, low // 256, high // 256) * 256, "test") for _ in range(4)]
    for model in models:
        shapes += _adapters(shape, model, rng, tiny=tiny)
    big, small = (high, 4 * low) if tiny else (2**26, 2**23)
    shapes += [shape("flat", big, "fit", concurrent=together) for together in (2, 4)]
    # One after another: the time of all, so `bytes` and `ops` are of all too.
    shapes += [shape("flat", small * queued, "fit", queued=queued, ops=queued) for queued in (2, 4, 8)]
    shapes += [shape("flat", big, "fit", beside=beside) for beside in ("decode", "prefill")]
    shapes += [shape("flat", 4 * high, "extrapolation")]
    return _unique(shapes)


def _adapters(shape: Callable[..., Shape], model: Model, rng: np.random.Generator, *, tiny: bool) -> Iterator[Shape]:
    ranks = (2, 4) if tiny else RANKS
    for mode in MODES:
        for rank in ranks:
            yield shape(mode, model.adapter_bytes(rank), "fit", model=model, rank=rank)
        inside = int(rng.integers(ranks[0] + 1, ranks[-1]))
        yield shape(mode, model.adapter_bytes(inside), "test", model=model, rank=inside)
    for mode in ("per_layer", "slora_double"):
        rank = ranks[-1]
        for beside in ("decode", "prefill"):
            yield shape(mode, model.adapter_bytes(rank), "fit", model=model, rank=rank, beside=beside)

"""Tables of per-layer kernel times, such as LLMServingSim's profiles of vLLM: what rows hold, and how they are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from sim.fidelity.tables import read_rows
from sim.files.yamltext import ConfigError

FloatArray = npt.NDArray[np.float64]

PREFIX = "rtx4090_llama31_8b"
# Kernels of one decoder layer, and how often each runs in it.
LAYER_KERNELS: Mapping[str, int] = {
    "layernorm": 2,
    "qkv_proj": 1,
    "rotary_emb": 1,
    "o_proj": 1,
    "gate_up_proj": 1,
    "act_fn": 1,
    "down_proj": 1,
}
US = 1e-6
LEAST_ROWS = 8  # of a kind: half of them have to bear three coefficients

Microseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Size = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class DenseRow(BaseModel):
    """One kernel of a decoder layer (or the embedding, or the last norm) at one number of tokens."""

    layer: Literal[
        "embedding",
        "layernorm",
        "qkv_proj",
        "rotary_emb",
        "o_proj",
        "gate_up_proj",
        "act_fn",
        "down_proj",
        "final_layernorm",
    ]
    tokens: Count
    time_us: Microseconds


class AttentionRow(BaseModel):
    """One layer's attention over a chunk of one prompt, a decode batch of equal contexts, or both; 0 is absent."""

    prefill_chunk: Size
    kv_prefill: Size
    n_decode: Size
    kv_decode: Size
    time_us: Microseconds


class SequenceRow(BaseModel):
    """A kernel that runs once per step, at one number of sequences."""

    layer: Literal["lm_head", "sampler"]
    sequences: Count
    time_us: Microseconds


class LayerTables(NamedTuple):
    """The three tables as columns.

    Attributes:
        tokens: of the rows of `dense_s`, ascending.
        dense_s: seconds of one decoder layer without attention.
        attention: columns as in `AttentionRow`, seconds as `seconds`.
        lm_head: sequences and seconds.
    """

    tokens: FloatArray
    dense_s: FloatArray
    attention: Mapping[str, FloatArray]
    lm_head: tuple[FloatArray, FloatArray]


def read_tables(data: Path, prefix: str = PREFIX) -> LayerTables:
    """Read PREFIX_dense.csv, PREFIX_attention.csv and PREFIX_per_sequence.csv of a folder.

    Raises:
        ConfigError: with the line and column of every wrong cell, the token counts at which a kernel is missing, or the
            kind of rows of which there are too few.
        FileNotFoundError: if a table is missing.
    """
    dense = data / f"{prefix}_dense.csv"
    tokens, dense_s = _layers_s(dense, read_rows(dense, DenseRow))
    path = data / f"{prefix}_attention.csv"
    attention = _columns(read_rows(path, AttentionRow))
    _check_kinds(path, attention)
    heads = [row for row in read_rows(data / f"{prefix}_per_sequence.csv", SequenceRow) if row.layer == "lm_head"]
    sequences = np.array([row.sequences for row in heads], dtype=float)
    return LayerTables(tokens, dense_s, attention, (sequences, np.array([row.time_us * US for row in heads])))


def _layers_s(path: Path, rows: Iterable[DenseRow]) -> tuple[FloatArray, FloatArray]:
    """Return token counts and the seconds of one layer: the sum over its kernels."""
    times_us: dict[int, dict[str, float]] = {}
    for row in rows:
        times_us.setdefault(row.tokens, {})[row.layer] = row.time_us
    problems = [
        f"{path}: {tokens} tokens: there is no row of {', '.join(missing)}"
        for tokens, times in sorted(times_us.items())
        if (missing := sorted(LAYER_KERNELS.keys() - times))
    ]
    if problems:
        raise ConfigError(problems)
    tokens = sorted(times_us)
    layers_s = [US * sum(count * times_us[one][kernel] for kernel, count in LAYER_KERNELS.items()) for one in tokens]
    return np.array(tokens, dtype=float), np.array(layers_s)


def _check_kinds(path: Path, columns: Mapping[str, FloatArray]) -> None:
    counts = {
        "decode (prefill_chunk 0)": int((columns["prefill_chunk"] == 0).sum()),
        "prefill (n_decode 0)": int((columns["n_decode"] == 0).sum()),
    }
    problems = [
        f"{path}: need at least {LEAST_ROWS} rows of pure {kind}, got {count}"
        for kind, count in counts.items()
        if count < LEAST_ROWS
    ]
    if problems:
        raise ConfigError(problems)


def _columns(rows: Iterable[AttentionRow]) -> dict[str, FloatArray]:
    kept = list(rows)
    names = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")
    columns = {name: np.array([getattr(row, name) for row in kept], dtype=float) for name in names}
    return {**columns, "seconds": np.array([row.time_us * US for row in kept])}

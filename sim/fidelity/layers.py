"""A hardware profile from tables of per-layer kernel times, with its errors on rows that the fit has not seen.

The laws are those of docs/costs.md, and nothing else: rates, floors and costs per sequence, no coefficient per row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sim.fidelity.layer_tables import PREFIX, FloatArray, LayerTables, read_tables
from sim.hardware import Attention, Dense, Hardware, load_hardware
from sim.models import Model, load_model

TILE_TOKENS = 128  # without tiles of this size the law cannot have the steps of the tables
KERNELS_PER_LAYER = 10  # as in the other fitted profiles; only the sum of the floors is found
OUTLIER = 0.01  # relative error from which a row counts linearly and no longer squared
DIGITS = 4  # of a coefficient
TICK_DIGITS = 12  # the simulator counts picoseconds

BoolArray = npt.NDArray[np.bool_]
SOURCE = (
    "casys-kaist/LLMServingSim (MIT), per-layer times of vLLM 0.19 with Llama-3.1-8B on this GPU: relative error, "
    "rates up to the peaks, rows of even index"
)


class GroupError(NamedTuple):
    """How the profile meets one kind of rows.

    Attributes:
        group: which rows.
        fit_mape: mean absolute relative error over the rows that were fitted; None: none of them was.
        held_out_mape: the same over rows that the fit did not see.
        held_out_bias: mean signed relative error over those.
        rows: fitted and held out.
    """

    group: str
    fit_mape: float | None
    held_out_mape: float
    held_out_bias: float
    rows: tuple[int, int]

    def __str__(self) -> str:
        """Return one line of words."""
        fitted = "not fitted" if self.fit_mape is None else f"{self.fit_mape:.1%} on {self.rows[0]} fitted rows"
        held = f"{self.held_out_mape:.1%} (bias {self.held_out_bias:+.1%}) on {self.rows[1]} held-out rows"
        return f"{self.group}: {fitted}, {held}"


@dataclass(frozen=True)
class LayersFit:
    """A fitted profile and how well it fits.

    Attributes:
        profile: the base profile with fitted linear layers and attention.
        errors: by kind of rows.
    """

    profile: Hardware
    errors: tuple[GroupError, ...]

    @property
    def tree(self) -> dict[str, Any]:
        """Return what a profile's file holds."""
        tree: dict[str, Any] = self.profile.model_dump(mode="json", exclude_none=True)
        return tree

    @property
    def lines(self) -> list[str]:
        """Return the errors in words."""
        return [str(one) for one in self.errors]


def fit_layers(data: Path, prefix: str = PREFIX, hardware: str = "rtx-4090", model: str = "llama-3.1-8b") -> LayersFit:
    """Fit the laws of linear layers and attention to the three tables of a folder.

    Rows of even index are fitted and the others held out: of the dense table by ascending tokens, of the attention
    table by their order in the file among rows of the same kind. Linear layers weigh every octave of tokens alike.
    Of attention pure decode, pure prefill and then the KV rate of both at once are fitted; the LM head tests the law.

    Args:
        data: folder of the tables.
        prefix: of their names.
        hardware: profile, packaged or a path, that gives peaks, memory and what the tables do not hold.
        model: whose layers were timed.

    Raises:
        ConfigError: with the line and column of every wrong cell.
        FileNotFoundError: if a table is missing.
        ValueError: if the profile or the model is unknown.
    """
    tables, base, dims = read_tables(data, prefix), load_hardware(hardware), load_model(model)
    dense, dense_error = _fit_dense(tables, base, dims)
    attention, attention_errors = _fit_attention(tables.attention, base, dims)
    profile = base.model_copy(update={"dense": dense, "attention": attention})
    errors = (dense_error, *attention_errors, _lm_head_error(tables.lm_head, dense, dims))
    return LayersFit(Hardware.model_validate(profile.model_dump()), tuple(one for one in errors if sum(one.rows)))


def _least(
    residuals: Callable[[FloatArray], FloatArray], starts: list[FloatArray], bounds: tuple[Any, Any]
) -> FloatArray:
    """Return the arguments of the least loss, from several starts; outliers count linearly."""
    from scipy.optimize import least_squares  # noqa: PLC0415 - takes half a second to import

    runs = [least_squares(residuals, one, bounds=bounds, loss="soft_l1", f_scale=OUTLIER) for one in starts]
    best: FloatArray = min(runs, key=lambda run: float(run.cost)).x
    return best


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _error(group: str, law_s: FloatArray, seconds: FloatArray, fitted: BoolArray) -> GroupError:
    error = law_s / seconds - 1
    held, kept = error[~fitted], error[fitted]
    fit_mape = float(np.abs(kept).mean()) if len(kept) else None
    held_mape, held_bias = (float(np.abs(held).mean()), float(held.mean())) if len(held) else (0.0, 0.0)
    return GroupError(group, fit_mape, held_mape, held_bias, (len(kept), len(held)))


# --- linear layers ---

DENSE_UNITS = np.array([1e12, 1e9, 1e-6, 1e-6, 1])  # FLOP/s, bytes/s, seconds of floors and per token, a share


def dense_layer_s(coefficients: FloatArray, tokens: FloatArray, model: Model) -> FloatArray:
    """Return the seconds of one layer's matrices and small kernels.

    Args:
        coefficients: FLOP/s, bytes/s, seconds of all floors, seconds per token, unhidden share.
        tokens: of the iterations.
        model: the dimensions.
    """
    flops_per_s, bytes_per_s, floors_s, token_s, unhidden = coefficients
    parameters = np.array([n * k for n, k in model.gemms.values()], dtype=float)
    tiles = np.ceil(tokens / TILE_TOKENS) * TILE_TOKENS
    reads_s = model.dtype_bytes * parameters / bytes_per_s + unhidden * 2 * np.outer(tokens, parameters) / flops_per_s
    products_s = np.maximum(2 * np.outer(tiles, parameters) / flops_per_s, reads_s)
    seconds: FloatArray = products_s.sum(axis=1) + floors_s + tokens * token_s
    return seconds


def _fit_dense(tables: LayerTables, base: Hardware, model: Model) -> tuple[Dense, GroupError]:
    tokens, seconds = tables.tokens, tables.dense_s
    fitted = np.arange(len(tokens)) % 2 == 0
    octave = np.log2(tokens).astype(int)
    weight = 1 / np.bincount(octave)[octave]  # few rows are small, but decode lives there: every octave counts the same
    weight = np.sqrt(weight / weight.mean())
    upper = np.array([base.peak_flops, base.peak_hbm_bytes_per_s, 1e-3, 1e-5, 1]) / DENSE_UNITS

    def residuals(x: FloatArray) -> FloatArray:
        return np.asarray((weight * (dense_layer_s(x * DENSE_UNITS, tokens, model) / seconds - 1))[fitted])

    starts = [upper * [f, b, k, 0.02, 0.3] for f in (0.6, 0.95) for b in (0.7, 0.95) for k in (0.01, 0.06)]
    best = np.array([_rounded(value) for value in _least(residuals, starts, (0, upper)) * DENSE_UNITS])
    error = _error("linear layers", dense_layer_s(best, tokens, model), seconds, fitted)
    group = Dense(
        origin="fitted",
        source=f"{SOURCE} by ascending tokens, every octave of tokens weighted alike. The five numbers describe the "
        "curve together",
        valid_tokens=(int(tokens[0]), int(tokens[-1])),
        flops_per_s=float(best[0]),
        weight_bytes_per_s=float(best[1]),
        tile_tokens=TILE_TOKENS,
        kernel_floor_s=round(float(best[2]) / KERNELS_PER_LAYER, TICK_DIGITS),
        kernels_per_layer=KERNELS_PER_LAYER,
        elementwise_s_per_token=_rounded(float(best[3]) * 4096 / model.hidden),
        unhidden_share=float(best[4]),
        fit_mape=round(error.fit_mape or 0.0, 4),
        held_out_mape=round(error.held_out_mape, 4),
    )
    return group, error


def _lm_head_error(lm_head: tuple[FloatArray, FloatArray], dense: Dense, model: Model) -> GroupError:
    sequences, seconds = lm_head
    parameters = model.vocab * model.hidden
    tiles = np.ceil(sequences / dense.tile_tokens) * dense.tile_tokens
    streamed_s = model.dtype_bytes * parameters / dense.weight_bytes_per_s
    read_s = streamed_s + dense.unhidden_share * 2 * sequences * parameters / dense.flops_per_s
    law_s = np.maximum(2 * tiles * parameters / dense.flops_per_s, read_s) + dense.kernel_floor_s
    return _error("LM head", law_s, seconds, np.zeros(len(seconds), dtype=bool))


# --- attention ---

DECODE_UNITS = np.array([1e-6, 1e-6, 1e-12])  # seconds of the floor, per sequence, per byte


def attention_layer_s(columns: Mapping[str, FloatArray], attention: Attention, model: Model) -> FloatArray:
    """Return the seconds of one layer's attention, of decode and prefill together.

    Args:
        columns: as in `LayerTables.attention`.
        attention: the coefficients.
        model: the dimensions.
    """
    sequences, kv_bytes, flops = _features(columns, model)
    fixed_s = attention.floor_s + sequences * attention.sequence_s
    mixed_rate = attention.mixed_kv_bytes_per_s or attention.kv_bytes_per_s
    rate = np.where(flops > 0, mixed_rate, attention.kv_bytes_per_s)
    seconds: FloatArray = fixed_s + kv_bytes / rate + flops / attention.prefill_flops_per_s
    return seconds


def _features(columns: Mapping[str, FloatArray], model: Model) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return sequences, bytes of KV that decode reads, and operations of prefill, of one layer."""
    chunk, before, decodes = columns["prefill_chunk"], columns["kv_prefill"], columns["n_decode"]
    kv_bytes = decodes * columns["kv_decode"] * (model.kv_token_bytes / model.layers)
    return decodes + (chunk > 0), kv_bytes, 2.0 * model.heads * model.head_dim * chunk * (2 * before + chunk)


def _fit_attention(
    columns: Mapping[str, FloatArray], base: Hardware, model: Model
) -> tuple[Attention, list[GroupError]]:
    is_decode, is_prefill = columns["prefill_chunk"] == 0, columns["n_decode"] == 0
    floor_s, sequence_s, byte_s = _fit_decode(_rows(columns, is_decode), base, model)
    flops_per_s = _fit_prefill(_rows(columns, is_prefill), floor_s + sequence_s, base, model)
    attention = Attention(
        origin="fitted",
        source=f"{SOURCE} among rows of pure decode (floor, sequence, KV), of pure prefill (FLOP/s), and of both at "
        "once (mixed KV, all else as found)",
        kv_bytes_per_s=_rounded(1 / byte_s),
        prefill_flops_per_s=_rounded(flops_per_s),
        floor_s=_rounded(floor_s),
        sequence_s=_rounded(sequence_s),
    )
    mixed = _rows(columns, ~is_decode & ~is_prefill)
    attention = attention.model_copy(update={"mixed_kv_bytes_per_s": _fit_mixed(mixed, attention, model)})
    error = partial(_attention_error, attention=attention, model=model)
    return attention, [
        error("attention, decode", _rows(columns, is_decode), is_fitted=True),
        error("attention, prefill", _rows(columns, is_prefill), is_fitted=True),
        error("attention, decode beside prefill", mixed, is_fitted=True),
    ]


def _rows(columns: Mapping[str, FloatArray], chosen: BoolArray) -> dict[str, FloatArray]:
    return {name: values[chosen] for name, values in columns.items()}


def _attention_error(
    group: str, columns: Mapping[str, FloatArray], *, is_fitted: bool, attention: Attention, model: Model
) -> GroupError:
    fitted = (np.arange(len(columns["seconds"])) % 2 == 0) & is_fitted
    return _error(group, attention_layer_s(columns, attention, model), columns["seconds"], fitted)


def _fit_decode(columns: Mapping[str, FloatArray], base: Hardware, model: Model) -> FloatArray:
    """Return seconds of the floor, per sequence and per byte of KV."""
    sequences, kv_bytes, _ = _features(columns, model)
    terms = np.column_stack([np.ones(len(sequences)), sequences, kv_bytes])[::2] * DECODE_UNITS
    seconds = columns["seconds"][::2]
    least = np.array([0, 0, 1 / base.peak_hbm_bytes_per_s]) / DECODE_UNITS
    start = np.array([5.0, 0.3, 1.2 * least[2]])
    best = _least(lambda x: np.asarray(terms @ x / seconds - 1), [start], (least, np.inf))
    return np.asarray(best * DECODE_UNITS)


def _fit_mixed(columns: Mapping[str, FloatArray], attention: Attention, model: Model) -> float | None:
    """Return bytes of KV per second where a prefill runs beside, at most as in decode; None without such rows."""
    fitted = {name: values[::2] for name, values in columns.items()}
    seconds = fitted["seconds"]
    if not len(seconds):
        return None
    _, kv_bytes, _ = _features(fitted, model)
    rest_s = attention_layer_s(fitted, attention, model) - kv_bytes / attention.kv_bytes_per_s
    least = 1e12 / attention.kv_bytes_per_s
    best = _least(
        lambda x: np.asarray((rest_s + kv_bytes * x[0] / 1e12) / seconds - 1), [np.array([2 * least])], (least, np.inf)
    )
    return _rounded(1e12 / float(best[0]))


def _fit_prefill(columns: Mapping[str, FloatArray], fixed_s: float, base: Hardware, model: Model) -> float:
    """Return FLOP/s beside what one sequence costs anyway."""
    _, _, flops = _features(columns, model)
    flops, seconds = flops[::2], columns["seconds"][::2]
    least = 1e12 / base.peak_flops
    best = _least(
        lambda x: np.asarray((fixed_s + flops * x[0] / 1e12) / seconds - 1), [np.array([1.5 * least])], (least, np.inf)
    )
    return float(1e12 / best[0])

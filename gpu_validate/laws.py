"""The laws behind the groups of a hardware profile, term by term as in docs/costs.md: dense, attention, link."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpu_validate.shapes import COPIES, PARAMETER_BYTES
from gpu_validate.solvers import Law, Values, bounded_l1, robust, seconds_of
from gpu_validate.sweep_rows import Row, kv_bytes, matrices, squares_flop, tokens_of
from policies.base import FloatArray
from sim.costs import REFERENCE_HIDDEN
from sim.hardware import Hardware

TILES = (1, 64, 128, 256)
HIGHEST_SHARES = np.array([0.9, 0.95])  # of peak FLOP/s and bytes/s: whole layers never come nearer (docs/costs.md)
LONGEST_FLOOR_S, LONGEST_ELEMENTWISE_S = 1e-3, 1e-5  # per layer, and per token and layer
LINK_MODES = ("flat", "per_layer", "per_tensor")  # the copies that the four coefficients describe
MANY_OPERATIONS = 16  # over which what a first one takes is spread
IDLE = (None, "", "none", "idle")
ENGINE_ATTENTION = "engine attention"  # the mini engine's, which need not be as quick as the card's best


@dataclass(frozen=True)
class _Dense:
    """Columns of dense and LM head rows, shape (rows,); `parameters` is (rows, 4), zero where there is no matrix."""

    tokens: FloatArray
    parameters: FloatArray
    parameter_bytes: FloatArray
    layers: FloatArray
    kernels: FloatArray
    elementwise: FloatArray

    def seconds(self, coefficients: FloatArray, tile: int) -> FloatArray:
        flops_per_s, bytes_per_s, floor_s, token_s = coefficients
        tiles = np.ceil(self.tokens / tile) * tile
        compute = 2 * tiles[:, None] * self.parameters / flops_per_s
        gemms = np.maximum(compute, self.parameter_bytes[:, None] * self.parameters / bytes_per_s).sum(axis=1)
        found: FloatArray = self.layers * (gemms + self.kernels * floor_s + self.elementwise * token_s)
        return found


def _dense_columns(rows: Sequence[Row], kernels_per_layer: int) -> _Dense:
    is_layer = np.array([row.kind == "dense" for row in rows])
    parameters = np.zeros((len(rows), 4))
    for at, row in enumerate(rows):
        sizes = matrices(row)
        parameters[at, : len(sizes)] = sizes
    tokens = np.array([tokens_of(row) for row in rows])
    hidden = np.array([row.number("hidden") for row in rows])
    layers = np.array([row.number("layers") if row.kind == "dense" else 1.0 for row in rows])
    elementwise = np.where(is_layer, tokens * hidden / REFERENCE_HIDDEN, 0.0)
    each = np.array([float(PARAMETER_BYTES[str(row.config.get("dtype", "bfloat16"))]) for row in rows])
    kernels = np.where(is_layer, float(kernels_per_layer), 1.0)
    return _Dense(tokens, parameters, each, layers, kernels, elementwise)


def octave_weights(tokens: FloatArray) -> FloatArray:
    """Return weights, 1 on average, that make every octave of tokens count alike: few rows are small, decode is."""
    octave = np.log2(tokens).astype(int)
    weights: FloatArray = 1 / np.bincount(octave)[octave]
    weights /= weights.mean()
    return weights


def dense_law(hardware: Hardware) -> Law:
    """Return the law of linear layers and the LM head; the tile is the one that fits best of `TILES`.

    Coefficients: flops_per_s, weight_bytes_per_s, kernel_floor_s, elementwise_s_per_token, tile_tokens.
    """
    kernels = max(1, hardware.dense.kernels_per_layer)
    peaks = np.array([hardware.peak_flops, hardware.peak_hbm_bytes_per_s])
    upper = np.array([*(HIGHEST_SHARES * peaks), LONGEST_FLOOR_S / kernels, LONGEST_ELEMENTWISE_S])
    shares = itertools.product((0.6, 0.9), (0.7, 0.95), (0.01, 0.06))
    grid = [np.array([flops, memory, floor, 0.005]) for flops, memory, floor in shares]

    def solve(rows: Sequence[Row], start: Values | None) -> Values:
        columns, seconds = _dense_columns(rows, kernels), seconds_of(rows)
        root = np.sqrt(octave_weights(columns.tokens))
        tiles = TILES if start is None else (int(start["tile_tokens"]),)
        starts = grid if start is None else [_ordered(start) / upper]
        runs = []
        for tile in tiles:

            def errors(shares: FloatArray, tile: int = tile) -> FloatArray:
                weighted: FloatArray = root * (columns.seconds(shares * upper, tile) / seconds - 1)
                return weighted

            runs.append((*robust(errors, starts, upper), tile))
        found, _, tile = min(runs, key=lambda run: run[1])
        return dict(zip(_DENSE_NAMES, (float(value) for value in found), strict=True)) | {"tile_tokens": float(tile)}

    def predict(values: Values, rows: Sequence[Row]) -> FloatArray:
        return _dense_columns(rows, kernels).seconds(_ordered(values), int(values["tile_tokens"]))

    return Law("dense", {"dense": 8}, solve, predict)


_DENSE_NAMES = ("flops_per_s", "weight_bytes_per_s", "kernel_floor_s", "elementwise_s_per_token")


def _ordered(values: Values) -> FloatArray:
    return np.array([values[name] for name in _DENSE_NAMES])


def attention_law(hardware: Hardware) -> Law:
    """Return the law of attention, linear in a floor, sequences, KV bytes and operations.

    Coefficients: floor_s, sequence_s, kv_bytes_per_s, prefill_flops_per_s.
    """
    lower = np.array([0.0, 0.0, 1 / hardware.peak_hbm_bytes_per_s, 1 / hardware.peak_flops])

    def solve(rows: Sequence[Row], start: Values | None) -> Values:
        del start
        floor, sequence, byte, flop = bounded_l1(_attention_terms(rows), seconds_of(rows), lower).tolist()
        return {
            "floor_s": floor,
            "sequence_s": sequence,
            "kv_bytes_per_s": 1 / byte,
            "prefill_flops_per_s": 1 / flop,
        }

    def predict(values: Values, rows: Sequence[Row]) -> FloatArray:
        rates = [values["floor_s"], values["sequence_s"], 1 / values["kv_bytes_per_s"]]
        found: FloatArray = _attention_terms(rows) @ np.array([*rates, 1 / values["prefill_flops_per_s"]])
        return found

    return Law("attention", {"attention_prefill": 4, "attention_decode": 4}, solve, predict)


def paged_law(hardware: Hardware) -> Law:
    """Return the law of the engine's own attention in decode, the same but for operations of prefill.

    Coefficients: floor_s, sequence_s, kv_bytes_per_s.
    """
    lower = np.array([0.0, 0.0, 1 / hardware.peak_hbm_bytes_per_s])

    def solve(rows: Sequence[Row], start: Values | None) -> Values:
        del start
        floor, sequence, byte = bounded_l1(_attention_terms(rows)[:, :3], seconds_of(rows), lower).tolist()
        return {"floor_s": floor, "sequence_s": sequence, "kv_bytes_per_s": 1 / byte}

    def predict(values: Values, rows: Sequence[Row]) -> FloatArray:
        rates = [values["floor_s"], values["sequence_s"], 1 / values["kv_bytes_per_s"]]
        found: FloatArray = _attention_terms(rows)[:, :3] @ np.array(rates)
        return found

    return Law(ENGINE_ATTENTION, {"attention_paged": 4}, solve, predict)


def _attention_terms(rows: Sequence[Row]) -> FloatArray:
    terms = []
    for row in rows:
        layers = row.number("layers")
        if row.kind == "attention_prefill":
            terms.append([layers, layers, 0.0, squares_flop(row)])
        else:
            read = row.number("context_tokens") * kv_bytes(row)
            terms.append([layers, layers * row.number("requests"), read, 0.0])
    return np.array(terms)


def link_law(hardware: Hardware) -> Law:
    """Return the law of one copy from pinned memory.

    latency + max(operations x issue, bytes / bandwidth + operations x gap). Where rows say how long the host took to
    issue them, that is the issue: what is waited for seldom tells of it.

    Coefficients: h2d_bytes_per_s, h2d_latency_s, copy_issue_s, copy_gap_s.
    """

    def solve(rows: Sequence[Row], start: Values | None) -> Values:
        columns, seconds = _copies(rows), seconds_of(rows)
        # Nothing can take longer than the quickest row, nor a copy longer to issue than the whole row that holds it.
        most = (seconds / columns[1]).max()
        upper = np.array([hardware.peak_pcie_bytes_per_s, seconds.min(), most, most])
        issue = _measured_issue_s(rows)

        def coefficients(shares: FloatArray) -> FloatArray:
            found: FloatArray = shares * upper
            return found if issue is None else np.where(np.arange(4) == LINK_NAMES.index("copy_issue_s"), issue, found)

        def errors(shares: FloatArray) -> FloatArray:
            found: FloatArray = _copy_seconds(coefficients(shares), *columns) / seconds - 1
            return found

        shares = itertools.product((0.3, 0.6, 0.95), (0.05, 0.5), (0.05, 0.3), (0.0, 0.1))
        starts = [np.array(one) for one in shares] if start is None else [_link_values(start) / upper]
        found, _ = robust(errors, starts, upper)
        return dict(zip(LINK_NAMES, (float(value) for value in coefficients(found / upper)), strict=True))

    def predict(values: Values, rows: Sequence[Row]) -> FloatArray:
        return _copy_seconds(_link_values(values), *_copies(rows))

    return Law("link", {"load": 6}, solve, predict)


LINK_NAMES = ("h2d_bytes_per_s", "h2d_latency_s", "copy_issue_s", "copy_gap_s")


def _measured_issue_s(rows: Sequence[Row]) -> float | None:
    """Return the host's median time to issue one of many operations; None if the rows do not have it."""
    told = [(row.number("ops"), (row.extra or {}).get("issue_s")) for row in rows]
    each = [float(issue_s) / operations for operations, issue_s in told if issue_s and operations >= MANY_OPERATIONS]
    return float(np.median(each)) if each else None


def _link_values(values: Values) -> FloatArray:
    return np.array([values[name] for name in LINK_NAMES])


def _copy_seconds(coefficients: FloatArray, moved: FloatArray, operations: FloatArray) -> FloatArray:
    rate, latency, issue, gap = coefficients
    found: FloatArray = latency + np.maximum(operations * issue, moved / rate + operations * gap)
    return found


def _copies(rows: Sequence[Row]) -> tuple[FloatArray, FloatArray]:
    moved = np.array([row.number("bytes") * COPIES.get(str(row["mode"]), 1) for row in rows])
    return moved, np.array([max(1.0, row.number("ops")) for row in rows])


def is_quiet(row: Row) -> bool:
    """Whether a load row was one copy from pinned memory that had the link and the GPU to itself."""
    config = row.config
    is_single = max(float(config.get("concurrent") or 1), float(config.get("queued") or 1)) <= 1
    is_alone = is_single and config.get("beside") in IDLE
    return row.kind == "load" and is_alone and bool(config.get("pinned", True))


def is_plain_copy(row: Row) -> bool:
    """Whether the link's four coefficients describe a load row: quiet, and copies only."""
    return is_quiet(row) and row.config.get("mode") in LINK_MODES

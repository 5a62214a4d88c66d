"""The laws behind `sim.costs.EngineCosts`, term by term as in docs/costs.md: LoRA kernels, launches, host time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpu_validate.shapes import find_model
from gpu_validate.solvers import Law, Values, bounded_l1, robust, seconds_of
from gpu_validate.sweep_rows import DTYPE_BYTES, Row, rank_sums
from policies.base import FloatArray
from sim.costs import REFERENCE_LAYERS, REFERENCE_PROJECTIONS, CostModel
from sim.engine_costs import KERNEL_DEFAULTS, MATRIX_KERNELS, PER_TOKEN_KERNELS, EngineCosts
from sim.hardware import Hardware

LONGEST_HOST_S = 0.1
LEAST_SERVED = 3  # rows of each phase, for the two numbers that each is fitted with
LAUNCHES = {"launch_s", "prefill_launch_s"}
ADAPTED = PER_TOKEN_KERNELS | MATRIX_KERNELS
# LoRA rows time one projection; EngineCosts counts an iteration of this many.
PER_ITERATION = ("active_s", "lora_token_s", "distinct_s")


def lora_law(kernel: str, hardware: Hardware, flops_per_s: float, *, name: str = "") -> Law:
    """Return the law of one LoRA kernel, found on single projections and counted for 128 of them.

    Coefficients: active_s, lora_token_s, distinct_s, padded_share, weight_bytes_per_s and, where every token re-reads
    its adapter, l2_bytes_per_s.

    Args:
        kernel: one that works on adapters.
        hardware: gives the peak.
        flops_per_s: effective rate of matrix products, for kernels that use them.
        name: of the fit; by default from the kernel.

    Raises:
        ValueError: if the kernel does no LoRA work that the cost model knows.
    """
    if kernel not in ADAPTED:
        msg = f"no LoRA law for kernel {kernel!r}; one of {', '.join(sorted(ADAPTED))} is allowed"
        raise ValueError(msg)
    rank_s = None if kernel in PER_TOKEN_KERNELS else 1 / flops_per_s
    slowest = 1 / hardware.peak_hbm_bytes_per_s

    def solve(rows: Sequence[Row], start: Values | None) -> Values:
        del start
        terms, own, padded = _lora_terms(rows, kernel)
        lower = [0.0, 0.0, 0.0, slowest]
        if rank_s is None:
            found, extra = _with_re_reads(terms, own, padded, seconds_of(rows), lower)
        else:
            found, share = _with_padding(terms, own * rank_s, padded * rank_s, seconds_of(rows), lower)
            extra = {"padded_share": share}
        scaled = (found[:3] * REFERENCE_PROJECTIONS).tolist()
        return {**dict(zip(PER_ITERATION, scaled, strict=True)), "weight_bytes_per_s": 1 / float(found[3]), **extra}

    def predict(values: Values, rows: Sequence[Row]) -> FloatArray:
        terms, own, padded = _lora_terms(rows, kernel)
        rate = 1 / values["l2_bytes_per_s"] if rank_s is None else rank_s
        share = values["padded_share"]
        single = [values[name] / REFERENCE_PROJECTIONS for name in PER_ITERATION]
        linear = terms @ np.array([*single, 1 / values["weight_bytes_per_s"]])
        found: FloatArray = linear + rate * (own * (1 - share) + padded * share)
        return found

    return Law(name or f"lora {kernel}", {"lora": 8}, solve, predict)


def _with_re_reads(
    terms: FloatArray, own: FloatArray, padded: FloatArray, seconds: FloatArray, lower: Sequence[float]
) -> tuple[FloatArray, Values]:
    """Fit with an unknown rate of rank work, at own and at the largest rank: linear in the two parts of the rate."""
    found = bounded_l1(np.column_stack([terms, own, padded]), seconds, [*lower, 1e-15, 0.0])
    rate = float(found[4] + found[5])
    return found, {"padded_share": float(found[5]) / rate, "l2_bytes_per_s": 1 / rate}


def _with_padding(
    terms: FloatArray, own: FloatArray, padded: FloatArray, seconds: FloatArray, lower: Sequence[float]
) -> tuple[FloatArray, float]:
    """Fit with a known rate of rank work, of which an unknown share is padded.

    Returns the coefficients and the smallest share that is as good as the best: one that nothing speaks for is 0.
    """
    tried = []
    for share in np.linspace(0, 1, 11).tolist():
        # The known part is a term whose coefficient is held at 1.
        features = np.column_stack([terms, own * (1 - share) + padded * share])
        found = bounded_l1(features, seconds, [*lower, 1.0], [*([np.inf] * terms.shape[1]), 1.0 + 1e-9])
        tried.append((float(np.abs(features @ found / seconds - 1).mean()), found, share))
    least = min(error for error, _, _ in tried)
    return next((found, share) for error, found, share in tried if error <= 1.02 * least)


def _lora_terms(rows: Sequence[Row], kernel: str) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return terms (rows, 4): one, tokens, distinct, bytes first read; and bytes of own and of padded rank work."""
    terms, own, padded = [], [], []
    for row in rows:
        projections, tokens = row.number("projections"), row.number("tokens")
        token_rank, distinct_rank, max_rank = rank_sums(row)
        unit = DTYPE_BYTES * projections * (row.number("in_features") + row.number("out_features"))
        # Per-token kernels: the rate of re-reads was defined on whole prefills, first reads included.
        is_read = kernel in MATRIX_KERNELS or row.config.get("phase") != "prefill"
        distinct = projections * row.number("distinct")
        terms.append([projections, projections * tokens, distinct, distinct_rank * unit * is_read])
        own.append(token_rank * unit)
        padded.append(max_rank * tokens * unit)
    return np.array(terms), np.array(own), np.array(padded)


def launch_law(way: str) -> Law:
    """Return the law of issuing kernels from the CPU, `eager` or by `graph`: fixed_s + kernels x kernel_s."""

    def solve(rows: Sequence[Row], start: Values | None) -> Values:
        del start
        fixed, each = bounded_l1(_launches(rows), seconds_of(rows)).tolist()
        return {"fixed_s": fixed, "kernel_s": each}

    def predict(values: Values, rows: Sequence[Row]) -> FloatArray:
        found: FloatArray = _launches(rows) @ np.array([values["fixed_s"], values["kernel_s"]])
        return found

    return Law(f"launch {way}", {"launch": 3}, solve, predict)


def _launches(rows: Sequence[Row]) -> FloatArray:
    return np.array([[1.0, row.number("kernels")] for row in rows])


def iteration_law(name: str, hardware: Hardware, kernel_costs: Mapping[str, Any], *, has_graph: bool) -> Law:
    """Return the law of whole iterations, whose GPU time is predicted and not fitted: host time and launches are left.

    Coefficients: host_s, host_per_running_s, prefill_host_s (where there are prefills) and, without graphs, launch_s;
    with graphs prefill_launch_s, since prefills are launched one kernel after the other all the same. A launch time
    that no fitted row is bound by is 0: the rows only say that it is not longer than they are. Rows of kind `service`
    alone are fitted where there are at least three of each phase: a burst's host has less to do.

    Args:
        name: of the fit.
        hardware: the fitted profile.
        kernel_costs: fields of `EngineCosts` about the LoRA kernel.
        has_graph: whether decode (not prefill) runs from CUDA graphs, which launch in no time.
    """

    def solve(rows: Sequence[Row], start: Values | None) -> Values:
        rows = _told_by(rows)
        gpu, layers = _gpu_seconds(rows, hardware, kernel_costs)
        seconds = seconds_of(rows)
        names = _host_names(rows, has_graph=has_graph)
        upper = np.full(len(names), LONGEST_HOST_S)

        def errors(shares: FloatArray) -> FloatArray:
            values = dict(zip(names, (shares * upper).tolist(), strict=True))
            found: FloatArray = _iteration_seconds(values, rows, gpu, layers) / seconds - 1
            return found

        # Launches below the GPU's time change nothing, so a search must also begin where they do.
        quickest = float(seconds.min())
        starts = [_host_start(names, launch * quickest) / upper for launch in (0.0, 0.5, 0.9, 1.5)]
        if start is not None:
            starts = [np.array([start.get(one, 0.0) for one in names]) / upper]
        found, _ = robust(errors, starts, upper)
        values = {**(start or {}), **dict(zip(names, (float(value) for value in found), strict=True))}
        return values | {one: 0.0 for one in LAUNCHES & set(names) if not _binds(one, values, rows, gpu, layers)}

    def predict(values: Values, rows: Sequence[Row]) -> FloatArray:
        return _iteration_seconds(values, rows, *_gpu_seconds(rows, hardware, kernel_costs))

    return Law(name, {"iteration": 6}, solve, predict)


def _told_by(rows: Sequence[Row]) -> Sequence[Row]:
    """Return the rows that tell of the host: those in service, if there are enough of every phase."""
    served = [row for row in rows if row.kind == "service"]
    found = Counter(row["phase"] for row in served)
    return served if all(found[row["phase"]] >= LEAST_SERVED for row in rows) else rows


def _host_start(names: Sequence[str], launch_s: float) -> FloatArray:
    return np.array([launch_s if name in LAUNCHES else 1e-4 for name in names])


def _binds(name: str, values: Values, rows: Sequence[Row], gpu: FloatArray, layers: FloatArray) -> bool:
    """Whether some row lasts as long as its launches and not as long as its work on the GPU."""
    is_meant = np.array([name == "launch_s" or row["phase"] == "prefill" for row in rows])
    return bool((is_meant & (values[name] * layers / REFERENCE_LAYERS > gpu)).any())


def _host_names(rows: Sequence[Row], *, has_graph: bool) -> list[str]:
    phases = {str(row["phase"]) for row in rows}
    names = ["host_s", "host_per_running_s"] if "decode" in phases else []
    names += ["prefill_host_s"] if "prefill" in phases else []
    if not has_graph:
        return [*names, "launch_s"]
    return [*names, "prefill_launch_s"] if "prefill" in phases else names


def _iteration_seconds(values: Values, rows: Sequence[Row], gpu: FloatArray, layers: FloatArray) -> FloatArray:
    is_decode = np.array([row["phase"] == "decode" for row in rows])
    requests = np.array([row.number("requests") for row in rows])
    decode_host = values.get("host_s", 0.0) + values.get("host_per_running_s", 0.0) * requests
    launch_s = values.get("launch_s", 0.0)
    launch = np.where(is_decode, launch_s, values.get("prefill_launch_s", launch_s)) * layers / REFERENCE_LAYERS
    found: FloatArray = np.where(is_decode, decode_host, values.get("prefill_host_s", 0.0)) + np.maximum(gpu, launch)
    return found


def _gpu_seconds(
    rows: Sequence[Row], hardware: Hardware, kernel_costs: Mapping[str, Any]
) -> tuple[FloatArray, FloatArray]:
    engine = EngineCosts.model_validate(dict(kernel_costs))
    models = {str(row["model"]): find_model(str(row["model"])) for row in rows}
    costs = {name: CostModel(hardware, model, engine) for name, model in models.items()}
    gpu = [gpu_second(row, costs[str(row["model"])]) for row in rows]
    return np.array(gpu), np.array([float(models[str(row["model"])].layers) for row in rows])


def gpu_second(row: Row, costs: CostModel) -> float:
    """Return the predicted GPU seconds of one iteration row.

    Raises:
        ValueError: if its phase is neither decode nor prefill.
    """
    counts = {name: int(row.number(name)) for name in ("requests", "distinct", "distinct_rank", "max_rank")}
    if row["phase"] == "decode":
        terms = costs.explain_decode(
            context_tokens=int(row.number("context_tokens")), sum_rank=int(row.number("sum_rank")), **counts
        )
    elif row["phase"] == "prefill":
        sums = {name: int(row.number(name)) for name in ("tokens", "squared_tokens", "token_rank")}
        terms = costs.explain_prefill(**counts, **sums)
    else:
        msg = f"line {row.line}: phase is {row['phase']!r}; 'decode' and 'prefill' are allowed"
        raise ValueError(msg)
    return sum(seconds for term, seconds in terms.items() if term not in {"host", "launch_wait"})


def kernel_fields(kernel: str, values: Mapping[str, float] | None) -> dict[str, Any]:
    """Return the fields of `EngineCosts` about a kernel: fitted ones, or the defaults where nothing was fitted."""
    if values is None:
        return {"kernel": kernel}
    unfitted = {name: 0.0 for name in KERNEL_DEFAULTS.get(kernel, {}) if name not in values}
    fitted = {name: value for name, value in values.items() if name != "weight_bytes_per_s"}
    return {"kernel": kernel, **unfitted, **fitted}

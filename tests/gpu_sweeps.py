"""Synthetic sweeps: rows that a GPU with known coefficients would give, with a little noise."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpu_validate.engine_laws import launch_law, lora_law
from gpu_validate.laws import ENGINE_ATTENTION, attention_law, dense_law, link_law, paged_law
from gpu_validate.rows import Row as SweepRow
from gpu_validate.shapes import kernel_shapes, load_shapes
from gpu_validate.solvers import Law, Values
from gpu_validate.sweep_rows import Row
from sim.hardware import load_hardware
from sim.models import load_model

HARDWARE, MODEL = load_hardware("h200"), load_model("llama-7b")
OPERATIONS = {"flat": 1, "per_layer": 64, "per_tensor": 256, "slora_double": 128, "vllm_slots": 512, "pageable": 1}
TRUTH: dict[str, Values] = {
    "dense": {
        "flops_per_s": 7e14,
        "weight_bytes_per_s": 4e12,
        "kernel_floor_s": 4e-6,
        "elementwise_s_per_token": 5e-8,
        "tile_tokens": 128.0,
    },
    "attention": {"floor_s": 9e-6, "sequence_s": 4e-7, "kv_bytes_per_s": 3.5e12, "prefill_flops_per_s": 4e14},
    ENGINE_ATTENTION: {"floor_s": 2e-5, "sequence_s": 9e-7, "kv_bytes_per_s": 2.2e12},
    "link": {"h2d_bytes_per_s": 5e10, "h2d_latency_s": 1e-5, "copy_issue_s": 5e-6, "copy_gap_s": 2e-6},
    "lora bgmv": {
        "active_s": 1e-3,
        "lora_token_s": 30e-6,
        "distinct_s": 1e-4,
        "padded_share": 0.25,
        "l2_bytes_per_s": 5e12,
        "weight_bytes_per_s": 3e12,
    },
    "lora segmented": {
        "active_s": 1.2e-3,
        "lora_token_s": 1e-6,
        "distinct_s": 3e-4,
        "padded_share": 0.0,
        "weight_bytes_per_s": 3e12,
    },
    "launch": {"fixed_s": 1e-5, "kernel_s": 5e-6},
}


def row(kind: Any, config: dict[str, Any], seconds: float, **other: Any) -> SweepRow:
    """One valid row that took this long."""
    stamp = {"device": "NVIDIA H200", "driver": "570.1", "torch": "2.11.0", "date": "2026-01-02", "seed": 0}
    return SweepRow(
        kind=kind,
        config=config,
        p20=0.99 * seconds,
        p50=seconds,
        p80=1.01 * seconds,
        n=20,
        clock="device",
        **{**stamp, **other},
    )


def write(path: Path, rows: Iterable[SweepRow]) -> Path:
    path.write_text("".join(one.to_json() + "\n" for one in rows), encoding="utf-8")
    return path


def sweep(noise: float = 0.01, kernels: Sequence[str] = ("bgmv", "segmented")) -> list[SweepRow]:
    """Every row of the real sweep's shapes, lasting what the laws say for `TRUTH`."""
    rngs = {"attention_paged": np.random.default_rng(2)}  # which came later: the noise of the others stayed
    rng = np.random.default_rng(1)
    shapes = kernel_shapes(MODEL, 0, kernels)
    shapes += load_shapes([MODEL], 0, lambda mode, _: OPERATIONS[mode], pinned=True)
    quiet = (one for one in shapes if one.config.get("concurrent", 1) == 1)
    return [
        row(
            one.kind,
            one.config,
            seconds(one.kind, one.config) * float(np.exp(rngs.get(one.kind, rng).normal(0, noise))),
        )
        for one in quiet
    ]


def seconds(kind: str, config: dict[str, Any]) -> float:
    law, name = law_of(kind, config)
    return float(law.predict(TRUTH[name], [Row(1, kind, config, "fit", 1.0)])[0])


def law_of(kind: str, config: dict[str, Any]) -> tuple[Law, str]:
    if kind == "lora":
        kernel = str(config["kernel"])
        return lora_law(kernel, HARDWARE, TRUTH["dense"]["flops_per_s"]), f"lora {kernel}"
    return {
        "dense": (dense_law(HARDWARE), "dense"),
        "lm_head": (dense_law(HARDWARE), "dense"),
        "attention_prefill": (attention_law(HARDWARE), "attention"),
        "attention_decode": (attention_law(HARDWARE), "attention"),
        "attention_paged": (paged_law(HARDWARE), ENGINE_ATTENTION),
        "load": (link_law(HARDWARE), "link"),
        "launch": (launch_law("eager"), "launch"),
    }[kind]


def report_of(profile: Path) -> dict[str, Any]:
    return dict(json.loads((profile.parent / "fit.json").read_text(encoding="utf-8")))

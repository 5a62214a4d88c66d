"""Rows of a sweep as the fit needs them: with their lines, the impossible ones told apart from the usable.

A row is usable if its harness called it valid and the rates that it implies are below the hardware's peaks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_validate.amounts import amount_of
from gpu_validate.rows import Amount, Peaks, too_fast
from gpu_validate.rows import read_rows as read_sheet
from gpu_validate.shapes import find_model
from sim.hardware import Hardware

SPLITS = ("fit", "test", "extrapolation")
DTYPE_BYTES = 2


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        line: where it stood in the file, from 1.
        kind: what was measured, as in `gpu_validate.rows`.
        config: its shape.
        split: "fit", "test" or "extrapolation".
        seconds: the median.
        is_valid: whether the harness accepted it.
        why: the reason if not.
        labels: what it says about the machine: device, driver, torch, date.
        extra: further numbers of the row.
    """

    line: int
    kind: str
    config: Mapping[str, Any]
    split: str
    seconds: float
    is_valid: bool = True
    why: str = ""
    labels: Mapping[str, str] | None = None
    extra: Mapping[str, Any] | None = None

    def __getitem__(self, key: str) -> Any:
        if self.kind == "service" and self.extra is not None and key in self.extra:
            return self.extra[key]  # what was served is only known afterwards
        if key not in self.config:
            msg = f"line {self.line}: a {self.kind} row needs {key!r} in its config, got {', '.join(self.config)}"
            raise ValueError(msg)
        return self.config[key]

    def number(self, key: str) -> float:
        """Return one number of the config.

        Raises:
            ValueError: if it is missing or no number.
        """
        value = self[key]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            msg = f"line {self.line}: {key} of a {self.kind} row is {value!r}; a number is allowed"
            raise ValueError(msg)
        return float(value)


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a sweep file; what was only probed is left out.

    Raises:
        ValueError: with file and line, if a line is not a row, its unit is not seconds or its split is unknown.
    """
    rows = []
    for line, row in enumerate(read_sheet(path), 1):
        split = str(row.config.get("split", "fit"))
        if row.unit != "s" or split not in SPLITS:
            msg = f"{path}:{line}: unit 's' and a split of {', '.join(SPLITS)} are allowed, got {row.unit!r}, {split!r}"
            raise ValueError(msg)
        labels = {"device": row.device, "driver": row.driver, "torch": row.torch, "date": row.date}
        is_valid = row.valid and row.n > 0 and row.p50 > 0
        why = row.why or ("" if is_valid else "the harness called it invalid")
        rows.append(Row(line, row.kind, row.config, split, row.p50, is_valid, why, labels, row.extra))
    kept = [row for row in rows if row.kind != "probe"]
    if not kept:
        msg = f"{path}: no measurement in {len(rows)} rows"
        raise ValueError(msg)
    return kept


def refusal(row: Row, hardware: Hardware) -> str | None:
    """Return why a row cannot be true on this hardware, with the implied rate; None if it can.

    Raises:
        ValueError: if its config lacks what the kind needs.
    """
    peaks = Peaks(hardware.peak_flops, hardware.peak_hbm_bytes_per_s, hardware.peak_pcie_bytes_per_s)
    try:
        amount = _iteration(row) if row.kind in {"iteration", "service"} else amount_of(row.kind, row.config)
    except KeyError as error:
        msg = f"line {row.line}: a {row.kind} row needs {error} in its config, got {', '.join(row.config)}"
        raise ValueError(msg) from None
    reason = too_fast(amount, row.seconds, peaks)
    return f"line {row.line}: {row.kind} {json.dumps(dict(row.config))}: {reason}" if reason else None


def _iteration(row: Row) -> Amount:
    model = find_model(str(row["model"]))
    parameters = model.layers * sum(n * k for n, k in model.gemms.values())
    return Amount(2 * row.number("tokens") * parameters, DTYPE_BYTES * parameters)


def tokens_of(row: Row) -> float:
    """Return tokens of an iteration that a row is about: what the valid range of a profile counts."""
    return row.number(TOKENS.get(row.kind, "tokens"))


TOKENS = {
    "lm_head": "sequences",
    "attention_prefill": "chunk",
    "attention_decode": "requests",
    "attention_paged": "requests",
}


def matrices(row: Row) -> list[float]:
    """Return the parameters of each matrix that a dense or LM head row multiplies with, one layer."""
    hidden = row.number("hidden")
    if row.kind == "lm_head":
        return [row.number("vocab") * hidden]
    ffn = row.number("ffn")
    # The output projection is taken as square: so it is in every model of the packaged table.
    return [row.number("qkv_out") * hidden, hidden * hidden, 2 * ffn * hidden, hidden * ffn]


def squares_flop(row: Row) -> float:
    """Return operations of causal attention of one chunk after its cached prefix, all layers of the row."""
    chunk, cached = row.number("chunk"), row.number("cached")
    width = 2 * row.number("heads") * row.number("head_dim") * row.number("layers")
    return width * chunk * (2 * cached + chunk)


def kv_bytes(row: Row) -> float:
    """Return bytes of K and V of one token, all layers of the row."""
    return 2 * row.number("kv_heads") * row.number("head_dim") * DTYPE_BYTES * row.number("layers")


def rank_sums(row: Row) -> tuple[float, float, float]:
    """Return tokens x own rank, the sum over distinct adapters, and the largest rank of a LoRA row.

    Tokens are dealt in turn to `distinct` adapters whose ranks repeat the list `ranks`, unless the row has its sums.
    """
    if {"token_rank", "distinct_rank", "max_rank"} <= set(row.config):
        return row.number("token_rank"), row.number("distinct_rank"), row.number("max_rank")
    tokens, distinct, given = int(row.number("tokens")), int(row.number("distinct")), row["ranks"]
    mix = list(given) if isinstance(given, (list, tuple)) else [given]
    ranks = [float(mix[at % len(mix)]) for at in range(distinct)]
    each, left = divmod(tokens, distinct)
    return sum(rank * (each + (at < left)) for at, rank in enumerate(ranks)), sum(ranks), max(ranks)

"""Whether one factor would mend the cost model where it is used: a diagnosis beside a check, applied to nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

FIT_SHARE = 0.5  # of a run's iterations, the first ones
LEAST_ROWS = 20  # of a kind, in either part


def in_situ(pairs: pd.DataFrame | None) -> dict[str, Any] | None:
    """Return by kind the median of measured over predicted in a run's first part, and what it does to the rest.

    Args:
        pairs: measured iterations in order of time with `measured_s`, `kind` and the model's `predicted_s` for each.

    Returns:
        By kind `n_fit`, `n_test` and, with enough of both, `scale` and, over the rest of the run only, `mape` and
        `bias` without the factor and `mape_scaled` and `bias_scaled` with it; None without predictions.
    """
    if pairs is None or "predicted_s" not in pairs:
        return None
    known = pairs[(pairs["predicted_s"] > 0) & (pairs["measured_s"] > 0)]
    is_first = np.arange(len(known)) < FIT_SHARE * len(known)
    kinds = sorted(set(known["kind"]))
    of_kind = {kind: (known["kind"] == kind).to_numpy() for kind in kinds}
    return {kind: _scaled(known[mask & is_first], known[mask & ~is_first]) for kind, mask in of_kind.items()}


def behind_copies(pairs: pd.DataFrame | None) -> dict[str, Any] | None:
    """Return how late iterations were whose inputs were sent while a copy was under way, and all others.

    Args:
        pairs: as `in_situ`, with `copy_left_s`.

    Returns:
        `n`, `mean_left_s` (of the copy) and `mean_late_s` (measured less predicted) of those, and `n_others` and
        `mean_late_others_s`; None if it is not known, or there was none.
    """
    if pairs is None or not {"predicted_s", "copy_left_s"} <= set(pairs):
        return None
    known = pairs[pairs["predicted_s"].notna()]
    is_behind = known["copy_left_s"] > 0
    if not is_behind.any() or is_behind.all():
        return None
    late = known["measured_s"] - known["predicted_s"]
    return {
        "n": int(is_behind.sum()),
        "mean_left_s": float(known["copy_left_s"][is_behind].mean()),
        "mean_late_s": float(late[is_behind].mean()),
        "n_others": int((~is_behind).sum()),
        "mean_late_others_s": float(late[~is_behind].mean()),
    }


def _scaled(first: pd.DataFrame, rest: pd.DataFrame) -> dict[str, Any]:
    told: dict[str, Any] = {"n_fit": len(first), "n_test": len(rest)}
    if min(len(first), len(rest)) < LEAST_ROWS:
        return told
    scale = float((first["measured_s"] / first["predicted_s"]).median())
    ratio = (rest["predicted_s"] / rest["measured_s"]).to_numpy(dtype=np.float64)
    return told | {
        "scale": scale,
        "mape": float(np.abs(ratio - 1).mean()),
        "bias": float(ratio.mean() - 1),
        "mape_scaled": float(np.abs(scale * ratio - 1).mean()),
        "bias_scaled": float(scale * ratio.mean() - 1),
    }

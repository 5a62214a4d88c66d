"""Diagnoses beside a check, applied to nothing: one factor that would mend the cost model, waits, the host's speed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

FIT_SHARE = 0.5  # of a run's iterations, the first ones
LEAST_ROWS = 20  # of a kind, in either part
LEAST_LEFT_S = 3e-3  # of a copy, so that waiting for it stands out


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


def waiting_inputs(pairs: pd.DataFrame | None) -> dict[str, Any] | None:
    """Return the size of inputs that best tells apart decode steps that waited for a copy from those that did not.

    Of steps that began with at least 3 ms of a copy left, those waited that came later by more than half of that than
    they should have without a wait.

    Args:
        pairs: as for `behind_copies`, with `input_bytes`.

    Returns:
        Of sizes up to `free_bytes` and from `waiting_bytes` on, how many steps there were (`n_free`, `n_waiting`) and
        which share of them waited (`share_free`, `share_waiting`); None if that is not known, or one side is empty.
    """
    if pairs is None or not {"predicted_s", "copy_left_s", "input_bytes"} <= set(pairs):
        return None
    is_known = pairs[["predicted_s", "input_bytes"]].notna().all(axis=1)
    steps = pairs[is_known & (pairs["kind"] == "decode") & (pairs["copy_left_s"] >= LEAST_LEFT_S)]
    late_s = steps["measured_s"] - steps["predicted_s"] + steps.get("wait_s", 0.0)
    waited = (late_s > steps["copy_left_s"] / 2).to_numpy()
    sizes = steps["input_bytes"].to_numpy()
    cuts = np.unique(sizes)[1:]
    if not len(cuts):
        return None
    cut = min(cuts, key=lambda one: int(((sizes >= one) != waited).sum()))
    is_large = sizes >= cut
    return {
        "free_bytes": int(sizes[~is_large].max()),
        "n_free": int((~is_large).sum()),
        "share_free": float(waited[~is_large].mean()),
        "waiting_bytes": int(cut),
        "n_waiting": int(is_large.sum()),
        "share_waiting": float(waited[is_large].mean()),
    }


def host_speed(pairs: pd.DataFrame | None) -> dict[str, Any] | None:
    """Return how late decode steps were that the host issued quickly, and those that it issued slowly.

    Steps that began behind a copy are left out where that is known.

    Args:
        pairs: as `in_situ`, with `issue_s`.

    Returns:
        `n`, and of the quarter of steps with the shortest and with the longest `issue_s` the means `quick_issue_s`,
        `quick_late_s`, `slow_issue_s` and `slow_late_s` (measured less predicted); None if there are too few.
    """
    if pairs is None or not {"predicted_s", "issue_s"} <= set(pairs):
        return None
    steps = pairs[(pairs["kind"] == "decode") & pairs["predicted_s"].notna()]
    if "copy_left_s" in steps:
        steps = steps[steps["copy_left_s"] == 0]
    if len(steps) < 4 * LEAST_ROWS:
        return None
    issue = steps["issue_s"]
    low, high = issue.quantile([0.25, 0.75])
    told: dict[str, Any] = {"n": len(steps)}
    for name, part in (("quick", steps[issue <= low]), ("slow", steps[issue >= high])):
        late_s = part["measured_s"] - part["predicted_s"]
        told |= {f"{name}_issue_s": float(part["issue_s"].mean()), f"{name}_late_s": float(late_s.mean())}
    return told


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

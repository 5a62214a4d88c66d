"""How a law is fitted: least absolute relative error within bounds, resampled for intervals, judged on unseen rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from gpu_validate.sweep_rows import SPLITS, Row, tokens_of
from policies.base import FloatArray

Values = dict[str, float]
ROUNDS = 30  # of reweighting; the coefficients settle after about ten
SMALLEST_ERROR = 1e-4  # errors below are all alike, so that no row gets an infinite weight
ROBUST_SCALE = 0.01  # relative errors above count linearly instead of squared
DRAWS = 60


@dataclass(frozen=True)
class Law:
    """Seconds as a function of coefficients.

    Attributes:
        name: the group of coefficients.
        needs: rows to fit that there must be, by kind.
        solve: rows (and coefficients to start from, or None) to coefficients.
        predict: coefficients and rows to seconds, shape (rows,).
    """

    name: str
    needs: Mapping[str, int]
    solve: Callable[[Sequence[Row], Values | None], Values]
    predict: Callable[[Values, Sequence[Row]], FloatArray]


@dataclass(frozen=True)
class Fit:
    """What was found.

    Attributes:
        name: the group of coefficients.
        values: coefficients.
        intervals: 95 % bounds of each coefficient over resampled rows.
        errors: by split, and by split and kind (and phase): `mape`, `bias`, `p90`, `n`.
        tokens: smallest and largest number of tokens of the fitted rows; None for rows without tokens.
    """

    name: str
    values: Values
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    errors: dict[str, Any] = field(default_factory=dict)
    tokens: tuple[int, int] | None = None


def seconds_of(rows: Sequence[Row]) -> FloatArray:
    """Return the measured medians."""
    return np.array([row.seconds for row in rows])


def fit_law(law: Law, rows: Sequence[Row], *, draws: int = DRAWS, seed: int = 0) -> Fit | str:
    """Return the fit of a law to its rows, or the reason why there are too few.

    Args:
        law: what to fit.
        rows: usable rows of all splits; only those of split "fit" are fitted.
        draws: resamples of the fitted rows for the intervals; 0 leaves them out.
        seed: of the resampling.
    """
    fitted = [row for row in rows if row.split == "fit"]
    for kind, least in law.needs.items():
        found = sum(row.kind == kind for row in fitted)
        if found < least:
            return f"{law.name}: {found} usable {kind} rows to fit, at least {least} are needed"
    values = law.solve(fitted, None)
    return Fit(
        law.name, values, _intervals(law, fitted, values, draws, seed), _errors(law, values, rows), _tokens(fitted)
    )


def _tokens(rows: Sequence[Row]) -> tuple[int, int] | None:
    counted = [int(tokens_of(row)) for row in rows if row.kind not in {"load", "launch"}]
    return (max(1, min(counted)), max(counted)) if counted else None


def _intervals(law: Law, rows: Sequence[Row], values: Values, draws: int, seed: int) -> dict[str, tuple[float, float]]:
    rng = np.random.default_rng(seed)
    drawn = [law.solve(_resampled(rows, rng), values) for _ in range(draws)]
    bounds = {}
    for name in values if drawn else ():
        low, high = np.percentile([one[name] for one in drawn], [2.5, 97.5])
        bounds[name] = (float(low), float(high))
    return bounds


def _resampled(rows: Sequence[Row], rng: np.random.Generator) -> list[Row]:
    """Draw as many rows of each kind as there are, so that no resample lacks a kind that the law needs."""
    kinds = sorted({row.kind for row in rows})
    groups = [[row for row in rows if row.kind == kind] for kind in kinds]
    return [group[at] for group in groups for at in rng.integers(0, len(group), len(group))]


def _errors(law: Law, values: Values, rows: Sequence[Row]) -> dict[str, Any]:
    errors: dict[str, Any] = {}
    for split in SPLITS:
        chosen = [row for row in rows if row.split == split]
        if chosen:
            relative = law.predict(values, chosen) / seconds_of(chosen) - 1
            kinds = np.array([_label(row) for row in chosen])
            by_kind = {str(kind): error_of(relative[kinds == kind]) for kind in np.unique(kinds)}
            errors[split] = error_of(relative) | ({"by_kind": by_kind} if len(by_kind) > 1 else {})
    return errors


def _label(row: Row) -> str:
    return f"{row.kind} {row.config['phase']}" if "phase" in row.config else row.kind


def error_of(relative: FloatArray) -> dict[str, Any]:
    """Return mean absolute, mean signed and 90th percentile absolute relative error, and n."""
    size = np.abs(relative)
    return {
        "mape": float(size.mean()),
        "bias": float(relative.mean()),
        "p90": float(np.percentile(size, 90)),
        "n": len(relative),
    }


def bounded_l1(
    features: FloatArray,
    seconds: FloatArray,
    lower: npt.ArrayLike = 0.0,
    upper: npt.ArrayLike = np.inf,
    weights: npt.ArrayLike = 1.0,
) -> FloatArray:
    """Return coefficients within bounds that make the sum of absolute relative errors least, by reweighted squares.

    Args:
        features: shape (rows, terms).
        seconds: shape (rows,), above 0.
        lower: shape (terms,) or one bound for all; at least 0.
        upper: the same.
        weights: of the rows, shape (rows,) or one for all.
    """
    from scipy.optimize import lsq_linear  # noqa: PLC0415 - takes a second to import

    relative = features / seconds[:, None]
    scale = np.linalg.norm(relative, axis=0)
    scale[scale == 0] = 1.0
    terms = features.shape[1]
    bounds = tuple(np.broadcast_to(np.asarray(bound, dtype=np.float64), terms) * scale for bound in (lower, upper))
    given = np.broadcast_to(np.asarray(weights, dtype=np.float64), len(seconds))
    found, root = np.zeros(terms), np.sqrt(given)
    for _ in range(ROUNDS):
        found = lsq_linear(relative / scale * root[:, None], root, bounds=bounds, method="bvls").x
        size = np.abs(relative / scale @ found - 1)
        root = np.sqrt(given / np.maximum(size, SMALLEST_ERROR))
    coefficients: FloatArray = np.clip(found, *bounds) / scale
    return coefficients


def robust(
    residuals: Callable[[FloatArray], FloatArray], starts: Sequence[FloatArray], upper: FloatArray
) -> tuple[FloatArray, float]:
    """Return the best coefficients from 0 to `upper` over all starts, and their cost.

    Args:
        residuals: coefficients as shares of `upper` to weighted relative errors.
        starts: shares of `upper`, from 0 to 1.
        upper: shape (terms,), above 0.
    """
    from scipy.optimize import least_squares  # noqa: PLC0415 - takes a second to import

    runs = [
        least_squares(residuals, np.clip(start, 1e-9, 1.0), bounds=(1e-12, 1.0), loss="soft_l1", f_scale=ROBUST_SCALE)
        for start in starts
    ]
    best = min(runs, key=lambda run: float(run.cost))
    return np.asarray(best.x, dtype=np.float64) * upper, float(best.cost)

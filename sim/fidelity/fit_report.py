"""What fits leave behind: errors of what they have seen and not, coefficients beside the shipped ones, and fit.json."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sim.fidelity.fitting import Outcome, Values
from sim.fidelity.measures import Measure, errors
from sim.fidelity.report import Grid
from sim.fidelity.vllm_fit import VllmFit
from sim.fidelity.vllm_steps_fit import shipped

COMES_OUT = 0.01  # a shipped coefficient that a fit meets within this has come out


def values_grid(outcomes: Sequence[Outcome]) -> Grid:
    """Return one line a coefficient: fitted, shipped, the difference, and what each half found."""
    fitted = outcomes[0].values
    beside = shipped(*fitted)
    rows = [
        [key, f"{value:.4g}", f"{beside[key]:.4g}", _percent(value, beside[key]), *_others(key, outcomes[1:])]
        for key, value in fitted.items()
    ]
    return ["coefficient", "all rows", "shipped", "difference", "one half", "other half"], rows


def _others(key: str, outcomes: Sequence[Outcome]) -> Iterator[str]:
    yield from (f"{one.values[key]:.4g}" for one in outcomes)


def _percent(value: float, beside: float) -> str:
    return f"{100 * (value / beside - 1):+.1f} %" if beside else "-"


def errors_grid(groups: dict[str, Sequence[Measure]]) -> Grid:
    """Return one line for each metric of each group."""
    rows = []
    for name, measures in groups.items():
        for metric in dict.fromkeys(one.metric for one in measures):
            own = [one for one in measures if one.metric == metric]
            found = errors(own)
            told = (found.mean_abs, found.max_abs)
            rows.append(
                [
                    f"{metric}, {name}",
                    str(found.pairs),
                    *(f"{100 * one:.1f} %" for one in told),
                    f"{100 * found.bias:+.1f} %",
                ]
            )
    return ["relative errors", "rows", "mean size", "largest", "bias"], rows


def steps_groups(fit: VllmFit) -> dict[str, Sequence[Measure]]:
    """Return the errors of the steps by what the fit has seen."""
    whole, *halves = fit.steps
    return {"fitted, all": whole.fitted, "unseen halves": unseen(halves), "unseen, the other model": whole.unseen}


def servers_groups(fit: VllmFit) -> dict[str, Sequence[Measure]]:
    """Return the errors of the calibration runs by what the fit has seen."""
    whole, *halves = fit.servers
    return {"fitted, all": whole.fitted, "unseen halves": unseen(halves), "as shipped": fit.packaged}


def unseen(halves: Sequence[Outcome]) -> tuple[Measure, ...]:
    """Return how each half is predicted by the fit of the other."""
    return tuple(one for half in halves for one in half.unseen)


def verdict(values: Values) -> str:
    """Return whether the shipped coefficients have come out, in a sentence."""
    beside = shipped(*values)
    off = {key: abs(value / beside[key] - 1) for key, value in values.items() if beside[key]}
    others = [key for key, error in off.items() if error > COMES_OUT]
    if not others:
        return f"The shipped values come out: none is off by more than {100 * max(off.values()):.1f} %."
    return f"The shipped values of {', '.join(others)} do not come out; they stay as they are."


def as_dicts(fit: VllmFit) -> list[dict[str, Any]]:
    """Return what fit.json holds: steps, then servers."""
    return [_as_dict("vllm-h100-microbench", fit.steps), _as_dict("vllm-lora-h100-8b", fit.servers)]


def _as_dict(name: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "target": "vllm, h100-64",
        "set": name,
        "beside": "shipped",
        "priors": shipped(*outcomes[0].values),
        "values": [one.values for one in outcomes],
        "fitted": [one.as_dict() for one in outcomes[0].fitted],
        "unseen": [one.as_dict() for one in unseen(outcomes[1:])],
    }

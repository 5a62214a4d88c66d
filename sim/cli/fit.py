"""`chameleon fit`: coefficients from published measurements, and how they do on those that the fit has not seen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli import options
from sim.cli.tables import table

if TYPE_CHECKING:
    from sim.fidelity.measures import Measure
    from sim.fidelity.slora_fit import Outcome, Plan, Run, Split

app = typer.Typer(help="Fit coefficients to published measurements.", no_args_is_help=True, rich_markup_mode=None)
Data = Annotated[Path, typer.Option("--data", help="Folder of the published tables; see `chameleon data list`.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder to write the profiles to.")]


@app.callback()
def root() -> None:
    """Fit coefficients to published measurements."""


@app.command("slora")
def slora(data: Data, out: Out = None, jobs: options.Jobs = -1) -> None:
    """Fit S-LoRA's host times to its runs on an H100, then an A10G and an A100 to its own runs on them.

    Every fit is made three times: of all runs, and of each half, which then predicts the other half.
    """
    from sim.fidelity.published import Asked, cases_of  # noqa: PLC0415 - numpy and pydantic are slow to import
    from sim.fidelity.slora_fit import card_plans, engine_plan, runs_to_fit  # noqa: PLC0415

    runs = runs_to_fit(cases_of(Asked("slora", data)))
    engine = engine_plan()
    found = _fitted([engine], runs, jobs)
    found += _fitted(list(card_plans(found[0][1][0].values)), runs, jobs)
    for plan, outcomes in found:
        typer.echo("\n".join(_told(plan, outcomes)))
    if out is not None:
        _write(found, out)


@app.command("layers")
def layers(data: Data, out: Out = None) -> None:
    """Fit an RTX 4090 to published times of single layers, half of the rows, and test it on the other half."""
    from sim.fidelity.layers import fit_layers  # noqa: PLC0415 - numpy and pydantic are slow to import

    fit = fit_layers(data)
    typer.echo("\n".join([fit.profile.name, *fit.lines]))
    if out is not None:
        from sim.hardware_file import write_profile  # noqa: PLC0415

        _say(write_profile(fit.profile, out, "chameleon fit layers"))


def _fitted(plans: list[Plan], runs: list[Run], jobs: int) -> list[tuple[Plan, list[Outcome]]]:
    from sim.fidelity.slora_fit import splits  # noqa: PLC0415
    from sim.progress import progress  # noqa: PLC0415

    plan_splits = [(plan, split) for plan in plans for split in splits(plan, runs)]
    outcomes: list[Outcome] = []
    with progress(len(plan_splits), " and ".join(plan.target for plan in plans)) as bar:
        for outcome in _carried_out([split for _, split in plan_splits], jobs):
            outcomes += [outcome]  # as they come, so that the bar moves
            bar.advance()
    return [(plan, [one for (own, _), one in zip(plan_splits, outcomes, strict=True) if own is plan]) for plan in plans]


def _carried_out(splits: list[Split], jobs: int) -> Iterator[Outcome]:
    from joblib import Parallel, delayed  # noqa: PLC0415 - takes a second to import

    from sim.fidelity.slora_fit import carry_out  # noqa: PLC0415

    runs = Parallel(n_jobs=jobs, return_as="generator", inner_max_num_threads=1)
    yield from runs(delayed(carry_out)(split) for split in splits)


def _told(plan: Plan, outcomes: list[Outcome]) -> list[str]:
    values = [
        [one.key, f"{one.prior:.4g}", *(f"{outcome.values[one.key]:.4g}" for outcome in outcomes)]
        for one in plan.coefficients
    ]
    header = ["coefficient", "prior", "all runs", "one half", "other half"]
    title = f"{plan.target}: {plan.set}"
    return [title, "=" * len(title), "", table(header, values), "", _errors_table(outcomes), ""]


def _errors_table(outcomes: list[Outcome]) -> str:
    """Return errors of the runs that were fitted, and of each half by the fit of the other."""
    groups = {
        "fitted, all": list(outcomes[0].fitted),
        "unseen halves": [one for outcome in outcomes[1:] for one in outcome.unseen],
    }
    return table(*_errors_grid(groups))


def _errors_grid(groups: dict[str, list[Measure]]) -> tuple[list[str], list[list[str]]]:
    from sim.fidelity.measures import errors  # noqa: PLC0415
    from sim.fidelity.slora_fit import counts  # noqa: PLC0415

    rows = []
    for name, measures in groups.items():
        for metric in dict.fromkeys(one.metric for one in measures):
            own = [one for one in measures if one.metric == metric and counts(one)]
            if own:
                found = errors(own)
                told = (found.mean_abs, found.max_abs, found.bias)
                rows.append([f"{metric}, {name}", str(found.pairs), *(f"{100 * one:.1f} %" for one in told)])
    return ["relative errors", "runs", "mean", "largest", "bias"], rows


def _write(found: list[tuple[Plan, list[Outcome]]], out: Path) -> None:
    from sim.fidelity.slora_fit import is_of_an_engine  # noqa: PLC0415
    from sim.fidelity.slora_profiles import profile, system_text  # noqa: PLC0415
    from sim.hardware_file import write_profile  # noqa: PLC0415
    from sim.textfile import write_text  # noqa: PLC0415

    report = out / "fit.json"
    write_text(report, json.dumps([_as_dict(plan, outcomes) for plan, outcomes in found], indent=1) + "\n")
    _say(report)
    for plan, outcomes in found:
        if is_of_an_engine(plan):
            path = out / f"{plan.target}.yaml"
            write_text(path, system_text(outcomes[0].values))
            _say(path)
        else:
            _say(write_profile(profile(plan, outcomes), out, "chameleon fit slora"))


def _as_dict(plan: Plan, outcomes: list[Outcome]) -> dict[str, Any]:
    from sim.fidelity.slora_fit import counts  # noqa: PLC0415

    unseen = [one for outcome in outcomes[1:] for one in outcome.unseen]
    return {
        "target": plan.target,
        "set": plan.set,
        "priors": {one.key: one.prior for one in plan.coefficients},
        "values": [outcome.values for outcome in outcomes],
        "fitted": [one.as_dict() for one in outcomes[0].fitted if counts(one)],
        "unseen": [one.as_dict() for one in unseen if counts(one)],
    }


def _say(path: Path) -> None:
    typer.echo(f"written to {path}", err=True)

"""`chameleon fit`: coefficients from published measurements, and how they do on those that the fit has not seen."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli import options
from sim.texttable import table

if TYPE_CHECKING:
    from sim.fidelity.fitting import Outcome
    from sim.fidelity.measures import Measure
    from sim.fidelity.plans import Plan, Split
    from sim.fidelity.vllm_fit import ServerRun, VllmFit

app = typer.Typer(help="Fit coefficients to published measurements.", no_args_is_help=True, rich_markup_mode=None)
Data = Annotated[Path, typer.Option("--data", help="Folder of the published tables; see `chameleon data list`.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder to write the profiles to.")]
Keep = Annotated[
    Path | None,
    typer.Option(
        "--keep",
        help="Keep every finished simulation in this folder, and go on from there. [default: kept/ in that of --out]",
    ),
]
Advance = Callable[[float], None]
KEPT = "kept"


@app.callback()
def root() -> None:
    """Fit coefficients to published measurements."""


@app.command("slora")
def slora(data: Data, out: Out = None, keep: Keep = None, jobs: options.Jobs = -1) -> None:
    """Fit S-LoRA's host times to its runs on an H100, then an A10G and an A100 to its own runs on them.

    Every fit is made three times: of all runs, and of each half, which then predicts the other half. It takes four
    minutes on two cores.
    """
    from sim.fidelity.plans import splits  # noqa: PLC0415 - numpy and pydantic are slow to import
    from sim.fidelity.published import Asked, cases_of  # noqa: PLC0415
    from sim.fidelity.slora_fit import card_plans, engine_plan, runs_to_fit  # noqa: PLC0415
    from sim.progress import progress  # noqa: PLC0415

    runs, folder = runs_to_fit(cases_of(Asked("slora", data))), _folder(keep, out)
    own = list(splits(engine_plan(), runs))
    # How long the cards' fits take does not depend on the engine's values, which come first.
    work = sum(split.work for split in own) + sum(one.work for plan in card_plans({}) for one in splits(plan, runs))
    with progress(work, "fits of S-LoRA") as bar:
        found = _fitted(own, jobs, folder, bar.advance)
        cards = card_plans(found[0][1][0].values)
        found += _fitted([split for plan in cards for split in splits(plan, runs)], jobs, folder, bar.advance)
    _finish(found, out, "fit.json")


@app.command("vllm-v0")
def vllm_v0(data: Data, out: Out = None, keep: Keep = None, jobs: options.Jobs = -1) -> None:
    """Fit vLLM's V0 engine to runs of Llama-2-7B's servers on an H100 that kept up: three numbers.

    The fit is made three times: of all runs, and of each half, which then predicts the other half. It takes five
    minutes on two cores. What is shipped comes from the first half.
    """
    from sim.fidelity.plans import splits  # noqa: PLC0415 - numpy and pydantic are slow to import
    from sim.fidelity.published import VLLM_RUNS  # noqa: PLC0415
    from sim.fidelity.vllm_rows import rated_rows  # noqa: PLC0415
    from sim.fidelity.vllm_v0_fit import v0_plan, v0_runs  # noqa: PLC0415
    from sim.progress import progress  # noqa: PLC0415

    own = splits(v0_plan(), v0_runs(rated_rows(data / VLLM_RUNS)))
    with progress(sum(split.work for split in own), "fits of V0") as bar:
        found = _fitted(own, jobs, _folder(keep, out), bar.advance)
    _finish(found, out, "fit_v0.json")


@app.command("vllm")
def vllm(data: Data, out: Out = None, keep: Keep = None, jobs: options.Jobs = -1) -> None:
    """Fit vLLM with LoRA on an H100 again: to published decode steps, and one number to server runs.

    Fitted values stand beside the shipped ones, which stay as they are. Every fit is made three times: of all rows, and
    of each half, which then predicts the other half. It takes six minutes on one core.
    """
    from sim.fidelity.vllm_fit import fit_vllm, read, work  # noqa: PLC0415 - numpy and pydantic are slow to import
    from sim.progress import progress  # noqa: PLC0415

    tables, folder = read(data), _folder(keep, out)
    with progress(work(tables), "calibration runs") as bar:
        fit = fit_vllm(tables, lambda runs: _simulated(runs, jobs, folder, bar.advance))
    typer.echo("\n".join(_vllm_told(fit)))
    if out is not None:
        _write_vllm(fit, out)


@app.command("layers")
def layers(data: Data, out: Out = None) -> None:
    """Fit an RTX 4090 to published times of single layers, half of the rows, and test it on the other half."""
    from sim.fidelity.layers import fit_layers  # noqa: PLC0415 - numpy and pydantic are slow to import

    fit = fit_layers(data)
    typer.echo("\n".join([fit.profile.name, *fit.lines]))
    if out is not None:
        from sim.hardware_file import write_profile  # noqa: PLC0415

        _say(write_profile(fit.profile, out, "chameleon fit layers"))


def _folder(keep: Path | None, out: Path | None) -> Path | None:
    """Return where finished simulations are kept.

    Raises:
        ValueError: if nobody may write there, or to the folder of the profiles.
    """
    from sim.files.output import check_folder  # noqa: PLC0415

    for folder in (keep, out):
        if folder is not None:
            check_folder(folder, folder)
    return out / KEPT if keep is None and out is not None else keep


def _fitted(
    splits: Sequence[Split], jobs: int, keep: Path | None, advance: Advance
) -> list[tuple[Plan, list[Outcome]]]:
    from sim.fidelity.plans import carried_out  # noqa: PLC0415

    found: dict[str, tuple[Plan, list[Outcome]]] = {}
    for split, outcome in zip(splits, carried_out(splits, jobs, keep, advance), strict=True):
        found.setdefault(split.plan.target, (split.plan, []))[1].append(outcome)
    return list(found.values())


def _simulated(runs: Sequence[ServerRun], jobs: int, keep: Path | None, advance: Advance) -> list[list[Measure]]:
    from sim.fidelity.cases import perform  # noqa: PLC0415

    found: list[list[Measure]] = [[] for _ in runs]
    for place, measures in perform(runs, jobs, keep):
        found[place] = measures
        advance(runs[place].requests)
    return found


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
    from sim.fidelity.fit_report import errors_grid, unseen  # noqa: PLC0415
    from sim.fidelity.fitting import counts  # noqa: PLC0415

    groups = {"fitted, all": outcomes[0].fitted, "unseen halves": unseen(outcomes[1:])}
    return table(*errors_grid({name: [one for one in own if counts(one)] for name, own in groups.items()}))


def _vllm_told(fit: VllmFit) -> list[str]:
    from sim.fidelity import fit_report  # noqa: PLC0415

    told = (
        ("steps of Llama-3.1-8B", fit.steps, fit_report.steps_groups(fit)),
        ("steps, and servers with a slot for every adapter", fit.servers, fit_report.servers_groups(fit)),
    )
    lines: list[str] = []
    for what, outcomes, groups in told:
        title = f"vllm and h100-64: {what}"
        lines += [title, "=" * len(title), "", table(*fit_report.values_grid(outcomes)), ""]
        lines += [table(*fit_report.errors_grid(groups)), "", fit_report.verdict(outcomes[0].values), ""]
    return lines


def _finish(found: list[tuple[Plan, list[Outcome]]], out: Path | None, name: str) -> None:
    """Tell what was found, and leave it in a folder if one is given."""
    for plan, outcomes in found:
        typer.echo("\n".join(_told(plan, outcomes)))
    if out is not None:
        _write(found, out, name)


def _write(found: list[tuple[Plan, list[Outcome]]], out: Path, name: str) -> None:
    from sim.fidelity.slora_profiles import profile, system_text  # noqa: PLC0415
    from sim.files.textfile import write_text  # noqa: PLC0415
    from sim.hardware_file import write_profile  # noqa: PLC0415

    report = out / name
    write_text(report, json.dumps([_as_dict(plan, outcomes) for plan, outcomes in found], indent=1) + "\n")
    _say(report)
    for plan, outcomes in found:
        if plan.is_of_an_engine:
            path = out / f"{plan.target}.yaml"
            write_text(path, system_text(outcomes[0].values, plan.target))
            _say(path)
        else:
            _say(write_profile(profile(plan, outcomes), out, "chameleon fit slora"))


def _write_vllm(fit: VllmFit, out: Path) -> None:
    from sim.fidelity.fit_report import as_dicts  # noqa: PLC0415
    from sim.fidelity.slora_profiles import system_text  # noqa: PLC0415
    from sim.fidelity.vllm_profiles import profile  # noqa: PLC0415
    from sim.fidelity.vllm_server import SYSTEM  # noqa: PLC0415
    from sim.files.textfile import write_text  # noqa: PLC0415
    from sim.hardware_file import write_profile  # noqa: PLC0415

    report, system = out / "fit_vllm.json", out / f"{SYSTEM}.yaml"
    write_text(report, json.dumps(as_dicts(fit), indent=1) + "\n")
    write_text(system, system_text(fit.servers[0].values, SYSTEM))
    for path in (report, system, write_profile(profile(fit), out, "chameleon fit vllm")):
        _say(path)


def _as_dict(plan: Plan, outcomes: list[Outcome]) -> dict[str, Any]:
    from sim.fidelity.fitting import counts  # noqa: PLC0415

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

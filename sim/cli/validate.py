"""`chameleon validate`: runs that others measured, rebuilt, simulated and set side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli import options
from sim.texttable import table

if TYPE_CHECKING:
    from sim.fidelity.cases import Case
    from sim.fidelity.measures import Measure

SETS = ("slora", "vllm", "requests", "all")


def _what(given: str) -> str:
    from sim.names import did_you_mean  # noqa: PLC0415

    if given not in SETS:
        msg = f"no set is named {given!r}{did_you_mean(given, SETS)} (the sets: {', '.join(SETS)})"
        raise typer.BadParameter(msg)
    return given


def validate(
    what: Annotated[
        str,
        typer.Argument(
            parser=_what,
            metavar="SET",
            help="slora: its own runs on an A10G and an A100, and others' on an H100; vllm: with LoRA on an H100; "
            "requests: a log of vLLM 0.19 without LoRA, Llama-3.1-8B on an RTX 4090 (others: "
            "`chameleon gpu compare`); all.",
        ),
    ],
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of the published tables; see `chameleon data list`.")
    ] = None,
    rows: Annotated[
        Path | None, typer.Option("--rows", help="Another table with the same columns, or another log.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write every number to this file.")] = None,
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds",
            parser=options.whole_number(1),
            metavar="N",
            help="Draws of each of vLLM's workloads with LoRA.",
        ),
    ] = 1,
    jobs: options.Jobs = -1,
    keep: Annotated[
        Path | None,
        typer.Option("--keep", help="Keep every finished run in this folder, and go on from there."),
    ] = None,
    *,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Nearly every run: half an hour. [default: a selection of vllm's]")
    ] = False,
    errors_only: Annotated[bool, typer.Option("--errors-only", help="Leave out the lines of single runs.")] = False,
) -> None:
    """Compare the simulator with published measurements, run by run and by load region.

    Load is the offered rate over the capacity of the simulated engine; above 0.95 is also where a published vLLM server
    itself fell behind. Errors are (simulated - measured) / measured.
    """
    from sim.fidelity.published import Asked, cases_of  # noqa: PLC0415 - numpy and pydantic are slow to import
    from sim.fidelity.report import sets_of  # noqa: PLC0415
    from sim.files.output import check_file, check_folder  # noqa: PLC0415

    if json_file is not None:
        check_file(json_file)
    if keep is not None:
        check_folder(keep, keep)
    measures = _performed(cases_of(Asked(what, data, rows, seeds, thorough)), jobs, keep)
    for name, own in sets_of(measures).items():
        typer.echo(_told(name, own, errors_only=errors_only))
    if what in {"vllm", "all"} and rows is None and not thorough:
        typer.echo(
            "vLLM's runs with LoRA are a selection; over all of them errors are larger: --thorough, docs/fidelity.md"
        )
    typer.echo(f"* no aim was set. vLLM's workloads with LoRA: {_seeds(seeds)}; every other run: one.")
    if json_file is not None:
        _write(measures, json_file)


def _performed(cases: list[Case], jobs: int, keep: Path | None) -> list[Measure]:
    from sim.fidelity.cases import perform  # noqa: PLC0415
    from sim.progress import progress  # noqa: PLC0415

    found: list[list[Measure]] = [[] for _ in cases]
    with progress(sum(case.requests for case in cases), "published runs") as bar:
        for place, measures in perform(cases, jobs, keep):
            found[place] = measures
            bar.advance(cases[place].requests)
    return [one for measures in found for one in measures]


def _told(name: str, measures: list[Measure], *, errors_only: bool) -> str:
    from sim.fidelity.report import SHOWN_ROWS, errors_grid, rows_grid  # noqa: PLC0415

    header, rows = rows_grid(measures)
    parts = [name, "=" * len(name), ""]
    if not errors_only:
        parts.append(table(header, rows[:SHOWN_ROWS]))
        if len(rows) > SHOWN_ROWS:
            parts.append(f"... and {len(rows) - SHOWN_ROWS} more runs (--json has all)")
        parts.append("")
    return "\n".join([*parts, table(*errors_grid(measures)), ""])


def _seeds(seeds: int) -> str:
    return "1 seed" if seeds == 1 else f"means over {seeds} seeds"


def _write(measures: list[Measure], path: Path) -> None:
    import json  # noqa: PLC0415

    from sim.files.textfile import write_text  # noqa: PLC0415

    write_text(path, json.dumps([one.as_dict() for one in measures], indent=1) + "\n")
    typer.echo(f"written to {path}", err=True)

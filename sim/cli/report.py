"""`chameleon report`: one HTML file about finished runs; `chameleon timeline`: one of them as a trace for Perfetto."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    directories: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run directories; the first is the baseline.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE.html", help="File to write. [default: report.html in the first RUN]"),
    ] = None,
) -> None:
    """Write one self-contained HTML file about runs: numbers, tails, parts, memory and link over time, warnings."""
    from sim.report.page import write_report  # noqa: PLC0415 - pandas and matplotlib are slow to import

    typer.echo(f"written to {write_report(directories, out)}")


def timeline(
    directory: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory; of replications, the first seed.")],
) -> None:
    """Simulate a finished run again and write timeline.json.gz beside its files, for ui.perfetto.dev."""
    from sim.experiments.again import add_timeline  # noqa: PLC0415 - pandas is slow to import
    from sim.files.output import check_file  # noqa: PLC0415
    from sim.results.timeline import FILE  # noqa: PLC0415

    directory = _first_seed(directory)
    check_file(directory / FILE)
    typer.echo(f"written to {add_timeline(directory)}; open it at https://ui.perfetto.dev")


def _first_seed(directory: Path) -> Path:
    """Return the run that a directory is, or the first of the replications below it."""
    from sim.experiments.comparison import read_side  # noqa: PLC0415

    if (directory / "DONE").exists() or not any(directory.glob("*/DONE")):
        return directory
    side = read_side(directory)
    return side.runs[min(side.runs)].directory

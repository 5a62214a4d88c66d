"""The pictures of `chameleon sweep`: curves against load, and a heat map over two axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import typer

from sim.experiments.axes import Axis
from sim.experiments.sweep import Row

RATE = "rate"


def check_pictures(
    figure: Path | None, heat_map: Path | None, rates: Sequence[float | None], axes: Sequence[Axis]
) -> None:
    """See to it, before anything is simulated, that the pictures can be drawn and written.

    Raises:
        ValueError: if a name does not end in a format that is known, a file cannot be written there, or a heat map has
            not two axes.
    """
    from sim.files.output import check_file  # noqa: PLC0415
    from sim.plots import check_picture  # noqa: PLC0415

    for path in (figure, heat_map):
        if path is not None:
            check_picture(path)
            check_file(path)
    wide = [*([RATE] if len(rates) > 1 else []), *(axis.key for axis in axes if len(axis.values) > 1)]
    if heat_map is not None and len(wide) != 2:
        msg = f"a heat map needs two axes of several values (--rates, --vary); there {_count(wide)}"
        raise ValueError(msg)


def _count(wide: Sequence[str]) -> str:
    return f"{'is' if len(wide) == 1 else 'are'} {len(wide)}" + (f": {', '.join(wide)}" if wide else "")


def draw(found: Sequence[Row], figure: Path | None, heat_map: Path | None, title: str | None, note: str) -> None:
    """Draw the pictures that were asked for."""
    if figure is not None:
        _curves(found, figure, title or "Time to first token against load", note)
    if heat_map is not None:
        _heat_map(found, heat_map, title or "P99 time to first token", note)


def _curves(found: Sequence[Row], figure: Path, title: str, note: str) -> None:
    from sim.plots import save, ttft_vs_load  # noqa: PLC0415 - matplotlib is slow to import

    slos = {row.slo_s for row in found if row.slo_s is not None}
    named = [replace(row, system=" ".join([row.system, *(value for _, value in row.settings)])) for row in found]
    picture = ttft_vs_load(named, slo_s=slos.pop() if len(slos) == 1 else None, title=title, note=note)
    save(picture, figure)
    typer.echo(f"drawn in {figure}", err=True)


def _heat_map(found: Sequence[Row], path: Path, title: str, note: str) -> None:
    from sim.plots import save, ttft_heat_map  # noqa: PLC0415

    save(ttft_heat_map(found, title=title, note=note), path)
    typer.echo(f"drawn in {path}", err=True)

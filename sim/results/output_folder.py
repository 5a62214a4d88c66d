"""Where runs go: whether they could be written there at all."""

from __future__ import annotations

from pathlib import Path

from sim.files.output import check_folder, place_of
from sim.results.rundir import OPTIONAL, WRITTEN

AGGREGATE = "replications.json"
REPORT = "report.html"  # `chameleon report` puts it there


def check_out(out: Path, reps: int, *, is_complete: bool = False) -> None:
    """Raise ValueError if runs cannot be written there: before anything is simulated in vain.

    Args:
        out: directory of one run, or of one run a seed.
        reps: how many seeds.
        is_complete: whether all runs are there already, so that none will be written.

    Raises:
        ValueError: if it is a file, nobody may write there, or it holds anything but runs of this kind.
    """
    if not is_complete:
        place = place_of(out)  # a run that is there is replaced by a rename
        check_folder(place.parent if reps == 1 and place.is_dir() else place, out)
    if not out.is_dir():
        return
    names = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    strange = [name for name in names if not _belongs(name, reps)]
    if strange:
        wanted = "a run" if reps == 1 else "replications"
        msg = f"{out} does not hold {wanted} and is left alone: {', '.join(strange[:5])}"
        raise ValueError(msg)


def _belongs(name: str, reps: int) -> bool:
    if reps == 1:
        return name in {*WRITTEN, *OPTIONAL}
    return name in {AGGREGATE, REPORT} or (name.startswith("seed-") and name.removeprefix("seed-").isdecimal())

"""Where runs go: whether they could be written there at all."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from sim.results.rundir import OPTIONAL, WRITTEN

AGGREGATE = "replications.json"
REPORT = "report.html"  # `chameleon report` puts it there


def check_out(out: Path, reps: int) -> None:
    """Raise ValueError if runs cannot be written there: before anything is simulated in vain.

    Args:
        out: directory of one run, or of one run a seed.
        reps: how many seeds.

    Raises:
        ValueError: if it is a file, nobody may write there, or it holds anything but runs of this kind.
    """
    nearest = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not nearest.is_dir():
        msg = f"{nearest} is a file; a directory is needed for {out}"
        raise ValueError(msg)
    _check_writable(nearest if nearest != out or reps > 1 else out.absolute().parent, out)
    if nearest != out:
        return
    names = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    strange = [name for name in names if not _belongs(name, reps)]
    if strange:
        wanted = "a run" if reps == 1 else "replications"
        msg = f"{out} does not hold {wanted} and is left alone: {', '.join(strange[:5])}"
        raise ValueError(msg)


def _check_writable(folder: Path, out: Path) -> None:
    try:
        TemporaryDirectory(prefix=f".{out.name}.", dir=folder).cleanup()
    except OSError as error:
        msg = f"{out} cannot be written: {folder}: {error.strerror}"
        raise ValueError(msg) from error


def _belongs(name: str, reps: int) -> bool:
    if reps == 1:
        return name in {*WRITTEN, *OPTIONAL}
    return name in {AGGREGATE, REPORT} or (name.startswith("seed-") and name.removeprefix("seed-").isdecimal())

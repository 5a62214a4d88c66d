"""The runs behind docs/paper.md: what is simulated, under which command it can be repeated, and what is kept of it."""  # noqa: INP001

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

from paper_measures import PROBES, Numbers

import sim
from sim.config import Loaded, load_config
from sim.experiments.capacity import Search, highest_rate
from sim.experiments.run import execute
from sim.progress import progress

Probe = Literal["run", "knee", "slowdown", "memory", "predictor"]
Runs = dict[str, dict[str, Any]]  # by `key`: numbers, and the version of the source that made them


class Cell(NamedTuple):
    """One setting, simulated with several seeds.

    Attributes:
        system: packaged system.
        rate_per_s: requests per second; of no meaning to a knee.
        requests: drawn in each run.
        changes: keys of the configuration that differ from the system's.
        hardware: GPU profile.
        model: base model.
        seeds: how many, counted up from 0.
        probe: what is measured: a run, or the highest rate within the objective, ...
        rates_per_s: lowest, highest and grid of the search for a knee.
    """

    system: str
    rate_per_s: float = 9.0
    requests: int = 3000
    changes: tuple[str, ...] = ()
    hardware: str = "a40"
    model: str = "llama-7b"
    seeds: int = 5
    probe: Probe = "run"
    rates_per_s: tuple[float, float, float] = (4.0, 20.0, 0.25)

    def under(self, changes: Sequence[str]) -> Cell:
        """Return the cell with the changes of a scenario before its own."""
        return self._replace(changes=(*changes, *self.changes))

    @property
    def command(self) -> str:
        """The command that repeats it; of a knee, the sweep in which it can be read off."""
        words = ["chameleon", "sweep" if self.probe == "knee" else "run", "--system", self.system]
        low, high, step = self.rates_per_s
        words += (
            ["--rates", f"{low:g}:{high:g}:{step:g}"] if self.probe == "knee" else ["--rate", f"{self.rate_per_s:g}"]
        )
        words += ["--requests", str(self.requests), "--reps", str(self.seeds)]
        words += ["--hardware", self.hardware] if self.hardware != "a40" else []
        words += ["--model", self.model] if self.model != "llama-7b" else []
        return shlex.join([*words, *(word for change in self.changes for word in ("--set", change))])

    def key(self, seed: int) -> str:
        """Return the name under which one run is kept."""
        return f"{self.probe} {self._replace(seeds=1).command} --seed {seed}"


def loaded(cell: Cell, seed: int, **workload: float) -> Loaded:
    """Return the configuration of one run.

    Raises:
        ConfigError: if there is no such configuration.
    """
    rate_per_s = cell.rates_per_s[0] if cell.probe == "knee" else cell.rate_per_s
    drawn = {"preset": "paper", "rate_per_s": rate_per_s, "requests": cell.requests, **workload}
    extra = {"workload": drawn, "seed": seed, "hardware": cell.hardware, "model": cell.model}
    return load_config(cell.system, cell.changes, extra)


def measure(cell: Cell, seed: int) -> Numbers:
    """Simulate one seed of a cell; one that fails leaves its error, which no row takes for a number."""
    try:
        known = loaded(cell, seed)
        if cell.probe == "knee":
            return {"knee_per_s": highest_rate(Search(known, *cell.rates_per_s))}
        alone = execute(loaded(cell, seed, rate_per_s=0.02)) if cell.probe == "slowdown" else None
        return PROBES[cell.probe](execute(known), alone)
    except (RuntimeError, ValueError) as error:
        return {"error": str(error)}


@lru_cache(maxsize=1)
def version() -> str:
    """Return the hash of what a run depends on: simulator and policies, without what no row of the page uses."""
    root = Path(sim.__file__).resolve().parents[1]
    files = (
        path for name in ("sim", "policies") for path in (root / name).rglob("*") if path.suffix in {".py", ".yaml"}
    )
    digest = sha256()
    for path in sorted(path for path in files if not _is_unused(path.relative_to(root))):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _is_unused(path: Path) -> bool:
    """Whether it is of the command line, of validation, or reads files of traces."""
    return bool({"cli", "fidelity"} & set(path.parts)) or path.name.startswith(("readers", "fetch"))


def read(store: Path, *, any_version: bool) -> Runs:
    """Return the runs that are kept, the latest of each."""
    if not store.exists():
        return {}
    rows = [json.loads(line) for line in store.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    return {row["key"]: row for row in rows if any_version or row["version"] == version()}


def complete(cells: Sequence[Cell], store: Path, jobs: int, *, any_version: bool) -> Runs:
    """Return every run of the cells, making those that are not kept; each is kept as soon as it is there."""
    runs = read(store, any_version=any_version)
    wanted = {cell.key(seed): (cell, seed) for cell in cells for seed in range(cell.seeds)}
    missing = {key: task for key, task in wanted.items() if key not in runs}
    store.parent.mkdir(parents=True, exist_ok=True)
    with store.open("a", encoding="utf-8") as file, progress(len(missing), "runs") as bar:
        for key, found in _performed(missing, jobs):
            row = {"key": key, "version": version(), **found}
            file.write(json.dumps(row) + "\n")
            file.flush()
            runs[key] = row
            bar.advance()
    return {key: runs[key] for key in wanted}


def _performed(tasks: dict[str, tuple[Cell, int]], jobs: int) -> Iterator[tuple[str, Numbers]]:
    if jobs == 1:
        yield from ((key, measure(*task)) for key, task in tasks.items())
        return
    from joblib import Parallel, delayed  # noqa: PLC0415 - takes a second to import

    work = (delayed(_named)(key, *task) for key, task in tasks.items())
    yield from Parallel(n_jobs=jobs, return_as="generator_unordered", inner_max_num_threads=1)(work)


def _named(key: str, cell: Cell, seed: int) -> tuple[str, Numbers]:
    return key, measure(cell, seed)

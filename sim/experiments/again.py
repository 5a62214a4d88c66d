"""A finished run simulated again, for what its files do not hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sim.config import load_config
from sim.experiments.run import execute
from sim.results.identity import source_sha256
from sim.results.rundir import read_run
from sim.results.timeline import FILE, write_timeline


def add_timeline(directory: Path) -> Path:
    """Simulate the configuration of a finished run again, write the timeline beside its files, return its path.

    A run's files do not hold what a timeline needs, but the same configuration gives the same run.

    Raises:
        ConfigError: if the configuration is no longer one that can run.
        ValueError: if the directory is not a finished simulated run, or simulating it again gives other requests,
            because the code or a file that it names is not the same.
    """
    stored = read_run(directory)
    if not stored.summary["simulated"]:
        msg = f"{directory} was served by a real engine; a timeline needs a simulated run"
        raise ValueError(msg)
    result = execute(load_config(directory / "config.yaml"))
    if not result.requests.equals(stored.requests):
        msg = f"{directory}: simulating its config.yaml again gives other requests: {_why(stored.env)}; run it anew"
        raise ValueError(msg)
    write_timeline(result.run, directory / FILE)
    return directory / FILE


def _why(env: dict[str, Any]) -> str:
    if env.get("source_sha256") != source_sha256():
        return "it was made by another version of the simulator"
    return "a trace or a policy was given to it in Python, or a file that it names has changed"

"""Real runs on disk: each is written when it ends and found again by what was asked, so that a killed check goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gpu_validate.observed import Observed, from_directory
from sim.files.textfile import write_text

if TYPE_CHECKING:
    from gpu_validate.live import Served


SERVED = ("name", "model", "workload", "seed")  # keys of a configuration that say what was served, and to whom


class Kept(NamedTuple):
    """A real run, and how long it took with everything around it."""

    observed: Observed
    wall_s: float


class Shelf:
    """The finished runs of a check.

    A run named NAME is NAME/ (a run directory), NAME.iterations.parquet and, last, NAME.json: without that it is none.

    Args:
        out: the folder; it is there.
    """

    def __init__(self, out: Path) -> None:
        self._out = out

    def find(self, name: str, label: str, asked: Mapping[str, Any]) -> Kept | None:
        """Return a finished run; None if there is none yet.

        Raises:
            ValueError: if a run of this name answers another question.
        """
        note = self._out / f"{name}.json"
        if not note.exists():
            return None
        told = json.loads(note.read_text(encoding="utf-8"))
        if told["asked_sha256"] != digest(asked):
            msg = f"{self._out / name} is of another profile, configuration, engine or device; give another --out"
            raise ValueError(msg)
        import pandas as pd  # noqa: PLC0415 - takes seconds to import

        iterations = pd.read_parquet(self._iterations(name))
        return Kept(from_directory(self._out / name, label, iterations), told["wall_s"])

    def read(self, name: str, label: str, asked: Mapping[str, Any]) -> Kept | None:
        """Return a finished run of the same requests, whatever is predicted of it now; None if there is none.

        What was predicted of its iterations when it was served is left out if that was with other costs.

        Raises:
            ValueError: if a run of this name served other requests.
        """
        note = self._out / f"{name}.json"
        if not note.exists():
            return None
        told = json.loads(note.read_text(encoding="utf-8"))
        for key in SERVED:
            if told["config"][key] != asked["config"][key]:
                served, wanted = told["config"][key], asked["config"][key]
                msg = f"{self._out / name} was served with {key} {served!r}, asked is {wanted!r}"
                raise ValueError(msg)
        import pandas as pd  # noqa: PLC0415 - takes seconds to import

        iterations = pd.read_parquet(self._iterations(name))
        if told["profile_sha256"] != asked["profile_sha256"]:
            iterations = iterations.drop(columns="predicted_s", errors="ignore")
        return Kept(from_directory(self._out / name, label, iterations), told["wall_s"])

    def keep(self, name: str, asked: Mapping[str, Any], served: Served, wall_s: float) -> None:
        """Write a run, so that `find` will find it."""
        iterations = served.observed.iterations
        if iterations is not None:
            iterations.to_parquet(self._iterations(name), index=False)
        served.result.save(self._out / name)
        told = {"asked_sha256": digest(asked), "wall_s": wall_s, **asked}
        write_text(self._out / f"{name}.json", json.dumps(told, indent=1, allow_nan=False) + "\n")

    def _iterations(self, name: str) -> Path:
        return self._out / f"{name}.iterations.parquet"


def digest(asked: Mapping[str, Any]) -> str:
    """Return a hash that does not depend on the order of keys."""
    return sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()

"""Real runs on disk: each is written when it ends and found again by what was asked, so that a killed check goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gpu_validate.live import Served, can_predict_anew, predicted_anew, with_waits
from gpu_validate.observed import Observed, from_directory
from sim.build import Deployment
from sim.config import RunConfig
from sim.files.textfile import write_text
from sim.hardware import Attention, Hardware

if TYPE_CHECKING:
    import pandas as pd


FROZEN = "profile.frozen.json"  # the profile under test, written before anything is measured
RETIRED = ("step_inputs",)  # keys of `loading` that a run may have been served with: nothing real looked at them
SERVED = (
    "name",
    "model",
    "workload",
    "client",
    "seed",
)  # keys of a configuration that say what was served, and to whom


class Kept(NamedTuple):
    """A real run, and how long it took with everything around it."""

    observed: Observed
    wall_s: float
    changed: tuple[str, ...] = ()  # what was served in another way than is asked now


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
        told = _content(note)
        if told["asked_sha256"] != digest(asked):
            msg = f"{self._out / name} is of another profile, configuration, engine or device; give another --out"
            raise ValueError(msg)
        import pandas as pd  # noqa: PLC0415 - takes seconds to import

        iterations = pd.read_parquet(self._iterations(name))
        return Kept(from_directory(self._out / name, label, iterations), told["wall_s"])

    def read(self, name: str, label: str, asked: Mapping[str, Any], deployment: Deployment) -> Kept | None:
        """Return a finished run of the same requests, whatever is predicted of it now; None if there is none.

        Its iterations are predicted anew. Where it does not say what was asked about them, they keep what was predicted
        of them when they were served; if that was with another profile or configuration, they are left out.

        Args:
            name: of the run.
            label: for the report.
            asked: profile, engine and configuration of now.
            deployment: of now, whose costs and link predict.

        Raises:
            ValueError: if a run of this name served other requests, or with another engine.
        """
        note, iterations_path = self._out / f"{name}.json", self._iterations(name)
        if not note.exists() and not iterations_path.exists():
            return None
        if missing := [path for path in (note, iterations_path) if not path.exists()]:
            msg = f"{missing[0]} is missing, a part of the run {name}"
            raise ValueError(msg)
        told = _as_of_now(_content(note))
        _check_served(self._out / name, told, asked)
        import pandas as pd  # noqa: PLC0415 - takes seconds to import

        iterations: pd.DataFrame | None = pd.read_parquet(iterations_path)
        changed = tuple(_differences("", *(_without_place(one["config"]) for one in (told, asked))))
        if iterations is not None and can_predict_anew(iterations):
            iterations = iterations.assign(predicted_s=predicted_anew(iterations, deployment.costs))
            iterations = with_waits(iterations, deployment.options.inline_bytes)
        elif changed or not self._is_of_profile(told, asked):
            iterations = None
        return Kept(from_directory(self._out / name, label, iterations), told["wall_s"], changed)

    def names(self) -> list[str]:
        """Return the runs of which at least a part is here."""
        whole = {path.name.removesuffix(".iterations.parquet") for path in self._out.glob("*.iterations.parquet")}
        notes = (path.stem for kind in ("measured", "repeated") for path in self._out.glob(f"*-{kind}.json"))
        return sorted(whole | set(notes))

    def keep(self, name: str, asked: Mapping[str, Any], served: Served, wall_s: float) -> None:
        """Write a run, so that `find` will find it."""
        iterations = served.observed.iterations
        if iterations is not None:
            iterations.to_parquet(self._iterations(name), index=False)
        served.result.save(self._out / name)
        told = {"asked_sha256": digest(asked), "wall_s": wall_s, **asked}
        write_text(self._out / f"{name}.json", json.dumps(told, indent=1, allow_nan=False) + "\n")

    def _is_of_profile(self, told: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
        """Whether a run was served with the profile of now; keys that are newer than it count as is the default."""
        if told["profile_sha256"] == asked["profile_sha256"]:
            return True
        frozen = self._out / FROZEN
        if not frozen.exists():
            return False
        content = _content(frozen)
        return bool(content["sha256"] == told["profile_sha256"] and profile_digest(content) == asked["profile_sha256"])

    def _iterations(self, name: str) -> Path:
        return self._out / f"{name}.iterations.parquet"


def require_runs(runs: Path, out: Path, wanted: Sequence[str]) -> None:
    """Raise ValueError if a folder has none of the runs that are wanted, or reports would go there, too."""
    if runs.resolve() == out.resolve():
        msg = f"--runs and --out are both {out}: reports as they came would be lost; give another --out"
        raise ValueError(msg)
    if not runs.is_dir():
        msg = f"{runs}: there is no such folder"
        raise ValueError(msg)
    there = Shelf(runs).names()
    if not set(wanted) & set(there):
        msg = f"{runs} has none of {', '.join(wanted)}; it has {', '.join(there) or 'no runs of a check'}"
        raise ValueError(msg)


def profile_digest(frozen: Mapping[str, Any]) -> str:
    """Return a hash of a frozen profile, and of the engine's costs and attention, with the keys of now."""
    attention = frozen["engine_attention"]
    return digest(
        {
            "profile": Hardware.model_validate(frozen["profile"]).model_dump(mode="json"),
            "costs": frozen["engine_costs"],
            "attention": None if attention is None else Attention.model_validate(attention).model_dump(mode="json"),
        }
    )


def digest(asked: Mapping[str, Any]) -> str:
    """Return a hash that does not depend on the order of keys."""
    return sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _content(note: Path) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads(note.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        msg = f"{note}:{error.lineno}: {error.msg}; it is not as a check wrote it"
        raise ValueError(msg) from None
    return told


def _as_of_now(told: dict[str, Any]) -> dict[str, Any]:
    """Return a note whose configuration has the keys of now: those that it lacks as is the default."""
    loading = {key: value for key, value in told["config"]["loading"].items() if key not in RETIRED}
    config = RunConfig.model_validate({**told["config"], "loading": loading})
    return {**told, "config": config.model_dump(mode="json")}


def _check_served(run: Path, told: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise ValueError with every difference between what was served and what is asked."""
    pairs = {"setup": (told["setup"], asked["setup"])}
    pairs |= {key: (told["config"][key], asked["config"][key]) for key in SERVED}
    found = [text for key, (served, wanted) in pairs.items() for text in _differences(key, served, wanted)]
    if found:
        msg = f"{run} was served with {'; '.join(found)}"
        raise ValueError(msg)


def _without_place(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without the path of its profile, which is compared by what it says."""
    return {key: value for key, value in config.items() if key != "hardware"}


def _differences(key: str, served: Any, wanted: Any) -> Iterator[str]:
    if isinstance(served, dict) and isinstance(wanted, dict):
        for name in {**served, **wanted}:
            yield from _differences(f"{key}.{name}".removeprefix("."), served.get(name), wanted.get(name))
    elif served != wanted:
        yield f"{key} {served!r}, asked is {wanted!r}"

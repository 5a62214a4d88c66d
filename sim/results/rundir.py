"""A run's directory: written whole or not at all, read back piece by piece. What the files say is decided elsewhere."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.files.output import draft_of, make_folder, place_of, told_of
from sim.results.identity import files_sha256, source_sha256
from sim.results.requests import PART_ROWS

if TYPE_CHECKING:
    import pandas as pd

TABLES = ("requests", "adapters", "timeseries")
WRITTEN = (
    "config.yaml",
    "summary.json",
    *(f"{name}.parquet" for name in TABLES),
    "vllm_bench.json",
    "env.json",
    "DONE",
)
OPTIONAL = ("timeline.json.gz", "report.html")
PARQUET = b"PAR1"  # how such a file begins and ends
DISTRIBUTION = "chameleon-sim"
PACKAGES = ("numpy", "pandas", "pyarrow", "scipy", "simpy", "pydantic", "pyyaml", "torch")


def write_run(
    directory: str | os.PathLike[str],
    config: Mapping[str, Any],
    summary: Mapping[str, Any],
    frames: Mapping[str, pd.DataFrame | Iterable[pd.DataFrame]],
    bench: Mapping[str, Any],
    env: Mapping[str, Any],
    extras: Mapping[str, Callable[[Path], None]] | None = None,
) -> Path:
    """Write a run directory and return its path; it appears complete, by one rename, or not at all.

    An earlier run there is moved aside first and removed last. Only `vllm_bench.json` and `env.json` may differ between
    two runs of the same configuration and versions.

    Args:
        directory: the target; its parents are created.
        config: the resolved configuration.
        summary: see `sim.results.summary.summarise`.
        frames: the tables `requests`, `adapters` and `timeseries`, each whole or in parts that are written one by one.
        bench: see `sim.results.vllm_bench.vllm_bench`.
        env: see `environment`.
        extras: what writes a file of `OPTIONAL` to a path, by the file's name.

    Raises:
        ValueError: if the target holds anything but a run, a table is missing or unknown, an extra is unknown, or a
            number is not finite.
        OSError: about the target or a file in it, if it cannot be written.
    """
    target = Path(directory)
    _check_target(target)
    if set(frames) != set(TABLES):
        msg = f"a run has the tables {', '.join(TABLES)}, got {', '.join(frames) or 'none'}"
        raise ValueError(msg)
    unknown = sorted(set(extras or {}) - set(OPTIONAL))
    if unknown:
        msg = f"a run may also hold {', '.join(OPTIONAL)}, got {', '.join(unknown)}"
        raise ValueError(msg)
    place = place_of(target)
    make_folder(place.parent, target)
    draft = draft_of(place)
    try:
        with told_of(target, draft):
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            _fill(draft, config, summary, frames, bench, env)
            for name, write in (extras or {}).items():
                write(draft / name)
            (draft / "DONE").write_text("", encoding="utf-8")
            _put_in_place(draft, place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target.absolute()


def _check_target(target: Path) -> None:
    if target.exists() and not target.is_dir():
        msg = f"{target} is a file, not a run directory"
        raise ValueError(msg)
    if target.is_dir():
        strange = sorted(path.name for path in target.iterdir() if path.name not in (*WRITTEN, *OPTIONAL))
        if strange:
            msg = f"{target} is not a run directory and is left alone: it holds {', '.join(strange[:5])}"
            raise ValueError(msg)


def _fill(
    draft: Path,
    config: Mapping[str, Any],
    summary: Mapping[str, Any],
    frames: Mapping[str, pd.DataFrame | Iterable[pd.DataFrame]],
    bench: Mapping[str, Any],
    env: Mapping[str, Any],
) -> None:
    import yaml  # noqa: PLC0415

    text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    (draft / "config.yaml").write_text(text, encoding="utf-8")
    for name, content in (("summary", summary), ("vllm_bench", bench), ("env", env)):
        _write_json(content, draft / f"{name}.json")
    for name in TABLES:
        _write_parquet(frames[name], draft / f"{name}.parquet")


def _write_json(content: Mapping[str, Any], path: Path) -> None:
    # Piece by piece: the pieces of a million names are a hundred times their text.
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.JSONEncoder(indent=1, allow_nan=False, ensure_ascii=False).iterencode(content))
        file.write("\n")


def _write_parquet(table: pd.DataFrame | Iterable[pd.DataFrame], path: Path) -> None:
    import pandas as pd  # noqa: PLC0415
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    parts = iter([table] if isinstance(table, pd.DataFrame) else table)
    first = pa.Table.from_pandas(next(parts), preserve_index=False)
    # An open file, for pyarrow takes no path that is not UTF-8.
    with path.open("wb") as file, pq.ParquetWriter(file, first.schema, compression="zstd") as writer:
        writer.write_table(first, row_group_size=PART_ROWS)
        del first
        for part in parts:
            rows = pa.Table.from_pandas(part, schema=writer.schema, preserve_index=False)
            writer.write_table(rows, row_group_size=PART_ROWS)


def _put_in_place(draft: Path, target: Path) -> None:
    if not target.exists():
        draft.rename(target)
        return
    # A directory with files cannot be replaced in one step: between the two renames readers see no run, never a half.
    old = draft.with_suffix(".old")
    shutil.rmtree(old, ignore_errors=True)
    target.rename(old)
    try:
        draft.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old)


def environment(config: Mapping[str, Any], *, seed: int, hardware: str) -> dict[str, Any]:
    """Return what a run was made with: seed, hardware profile, code, named files, Python, packages, platform."""
    return {
        "seed": seed,
        "hardware": hardware,
        "code_version": _version(DISTRIBUTION),
        "source_sha256": source_sha256(),
        "files_sha256": files_sha256(config),
        "git_sha": _git_sha(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_sha() -> str | None:
    root, git = Path(__file__).resolve().parents[2], shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None  # an installed copy, perhaps inside somebody else's checkout
    found = subprocess.run(  # noqa: S603 - a fixed command
        [git, "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or None


class RunData:
    """A finished run on disk; `summary` is read at once, everything else when it is asked for.

    Attributes:
        directory: where it lies.
        summary: the numbers.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.summary: dict[str, Any] = self._json("summary")

    @cached_property
    def requests(self) -> pd.DataFrame:
        """One row per offered request."""
        return self._table("requests")

    @cached_property
    def adapters(self) -> pd.DataFrame:
        """One row per adapter."""
        return self._table("adapters")

    @cached_property
    def timeseries(self) -> pd.DataFrame:
        """The state at regular instants."""
        return self._table("timeseries")

    @cached_property
    def bench(self) -> dict[str, Any]:
        """The run in the words of `vllm bench serve`."""
        return self._json("vllm_bench")

    @cached_property
    def env(self) -> dict[str, Any]:
        """What the run was made with."""
        return self._json("env")

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        import yaml  # noqa: PLC0415

        return dict(yaml.safe_load((self.directory / "config.yaml").read_text(encoding="utf-8")))

    def columns(self, table: str, names: Sequence[str]) -> pd.DataFrame:
        """Return some columns of a table, without reading the others or keeping them."""
        import pandas as pd  # noqa: PLC0415

        return pd.read_parquet(self.directory / f"{table}.parquet", columns=list(names))

    def __repr__(self) -> str:
        return f"<RunData {self.directory}: {self.summary['system']} on {self.summary['workload']}>"

    def _json(self, name: str) -> dict[str, Any]:
        path = self.directory / f"{name}.json"
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(_damaged(path)) from error

    def _table(self, name: str) -> pd.DataFrame:
        import pandas as pd  # noqa: PLC0415

        return pd.read_parquet(self.directory / f"{name}.parquet")


def read_run(directory: str | os.PathLike[str]) -> RunData:
    """Return a finished run.

    Raises:
        ValueError: if the directory is not a finished run, or a file of it is cut off; names what is wrong.
    """
    path = Path(directory)
    if not path.is_dir():
        msg = f"{path} is not a directory"
        raise ValueError(msg)
    missing = [name for name in WRITTEN if not (path / name).exists()]
    if missing:
        msg = f"{path} is not a finished run: it lacks {', '.join(missing)}"
        raise ValueError(msg)
    for name in TABLES:
        if not _is_whole(path / f"{name}.parquet"):
            raise ValueError(_damaged(path / f"{name}.parquet"))
    return RunData(path)


def _is_whole(table: Path) -> bool:
    """Whether a Parquet file ends as it begins; the footer, which is written last, holds all that finds its content."""
    if table.stat().st_size <= 2 * len(PARQUET):
        return False
    with table.open("rb") as file:
        start = file.read(len(PARQUET))
        file.seek(-len(PARQUET), os.SEEK_END)
        return start == file.read() == PARQUET


def _damaged(path: Path) -> str:
    return f"{path} is damaged: remove {path.parent} and run it again"

"""What makes two runs the same run: the simulator's own source, and the files that a configuration names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from policies.builtin import BUILTIN
from sim.files.yamltext import ConfigError
from sim.names import SEAMS
from sim.plugins.named import class_of
from sim.plugins.provenance import users_files
from sim.readers.reading import files_of

SUFFIXES = {".py", ".yaml"}


@lru_cache(maxsize=1)
def source_sha256() -> str:
    """Return the hash of the packages `sim` and `policies` as they lie on disk; an edit in a checkout changes it."""
    root = Path(__file__).resolve().parents[2]
    files = (path for name in ("sim", "policies") for path in (root / name).rglob("*") if path.suffix in SUFFIXES)
    digest = sha256()
    for path in sorted(files):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def files_sha256(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the hash of each file that a resolved configuration names: trace, hardware profile, model, policies.

    Of a policy these are its own files and those of the user's that they import; of an installed one, its own.
    """
    return {str(path): sha256(path.read_bytes()).hexdigest() for path in _named(config) if path.is_file()}


def _named(config: Mapping[str, Any]) -> Iterator[Path]:
    trace = config.get("workload", {}).get("trace")
    if trace is not None:
        yield from files_of(trace, config["workload"].get("format"))
    yield Path(str(config.get("hardware", "")))
    yield Path(str(config.get("model", "")))
    for seam in SEAMS:
        yield from _policy_files(str(config.get(seam, {}).get("kind", "")), seam)


def _policy_files(kind: str, seam: str) -> Iterator[Path]:
    if not kind or kind in BUILTIN[seam]:
        return
    try:
        yield from sorted(users_files(class_of(kind, seam)))
    except ConfigError:  # it cannot be imported, and whoever runs it will be told so
        if ".py:" in kind:
            yield Path(kind.rpartition(":")[0])

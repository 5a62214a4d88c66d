"""Public data sets by name: who publishes them, at which commit, under which licence, and the digest of every file."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from sim.files.yamlfile import validate
from sim.files.yamltext import ConfigError, parse
from sim.names import did_you_mean

SOURCE = "SOURCE.txt"  # says beside the files where they come from
Text = Annotated[str, Field(min_length=1)]
_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)


class DataFile(BaseModel):
    """One file of a set; exactly one of `path`, `whereabouts` and `made_from` says where it comes from.

    Attributes:
        name: what it is called in the set's folder.
        what: its content, in words.
        path: its exact path in the repository; such a file can be fetched.
        whereabouts: what is known of the path of a file that is in the repository byte by byte.
        made_from: the files of the repository that a table or an archive was made from.
        columns: those that a table must have when it was made anew.
        bytes: its size.
        sha256: its digest, in hexadecimal digits.
    """

    model_config = _STRICT

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$")]
    what: Text
    path: Text | None = None
    whereabouts: Text | None = None
    made_from: Text | None = None
    columns: list[Text] = []
    bytes: Annotated[int, Field(gt=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    @field_validator("path")
    @classmethod
    def _inside_the_repository(cls, path: str | None) -> str | None:
        if path is not None and any(part in {"", ".", ".."} for part in path.split("/")):
            msg = "a path leads from the repository's root to a file, without '.' and '..'"
            raise ValueError(msg)
        return path

    @model_validator(mode="after")
    def _from_one_place(self) -> DataFile:
        if sum(place is not None for place in (self.path, self.whereabouts, self.made_from)) != 1:
            msg = f"{self.name}: exactly one of path, whereabouts and made_from is needed"
            raise ValueError(msg)
        if self.columns and self.made_from is None:
            msg = f"{self.name}: columns are for made_from; other files are checked by sha256"
            raise ValueError(msg)
        return self


class DataSet(BaseModel):
    """One public data set.

    Attributes:
        name: the key in the catalogue.
        what: its content, in words.
        folder: where its files lie under the folder of all data; None: named as the set. Sets of measured tables
            share one, which a command can be given whole.
        repository: "owner/name" at GitHub.
        commit: all 40 digits, or as many as are known.
        licence: in words, SPDX where it has one.
        citation: what to cite.
        terms: what somebody must know before they fetch it; None where the licence says it all.
        files: in the order in which they are fetched.
    """

    model_config = _STRICT

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    what: Text
    folder: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")] | None = None
    repository: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*/[A-Za-z0-9_-][A-Za-z0-9._-]*$")]
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{7,40}$")]
    licence: Text
    citation: Text
    terms: Text | None = None
    files: Annotated[list[DataFile], Field(min_length=1)]

    @field_validator("files")
    @classmethod
    def _each_name_once(cls, files: list[DataFile]) -> list[DataFile]:
        names = [file.name for file in files]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None or SOURCE in names:
            msg = f"{twice or SOURCE} is named twice; every file needs a name of its own, and {SOURCE} is taken"
            raise ValueError(msg)
        return files

    @property
    def fetched(self) -> list[DataFile]:
        """Return the files whose place is known exactly."""
        return [file for file in self.files if file.path is not None]

    @property
    def by_hand(self) -> list[DataFile]:
        """Return the files that cannot be fetched."""
        return [file for file in self.files if file.path is None]

    @property
    def source(self) -> str:
        """Return "owner/name @ commit"."""
        return f"{self.repository} @ {self.commit}"

    def place(self, root: Path) -> Path:
        """Return the folder of this set under the folder of all data."""
        return root / (self.folder or self.name)

    def url(self, file: DataFile, base_url: str) -> str:
        """Return where a file that can be fetched lies under a base URL."""
        return f"{base_url.rstrip('/')}/{self.repository}/{self.commit}/{quote(file.path or '')}"


def load_sets(catalogue: Path | None = None) -> dict[str, DataSet]:
    """Return all data sets of a catalogue by name, in its order.

    Args:
        catalogue: a YAML file; None: the packaged one.

    Raises:
        ConfigError: with one located line for every key that is wrong.
        OSError: if the file cannot be read.
    """
    path = catalogue or Path(str(files("sim").joinpath("data", "datasets.yaml")))
    tree, marks = parse(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(tree, dict) or not all(isinstance(entry, dict) for entry in tree.values()):
        raise ConfigError([f"{path}: expected a mapping from names of data sets to what they are"])
    return {str(name): validate(DataSet, {"name": name, **entry}, _below(marks, name)) for name, entry in tree.items()}


def find_set(name: str, sets: dict[str, DataSet]) -> DataSet:
    """Return the data set of that name.

    Raises:
        ValueError: if there is none; the message names the closest, or all.
    """
    if name not in sets:
        msg = f"unknown data set {name!r}{did_you_mean(name, sets)}"
        raise ValueError(msg)
    return sets[name]


def _below(marks: dict[tuple[Any, ...], Any], name: str) -> dict[tuple[Any, ...], Any]:
    """Return the marks of what lies under a key, as seen from there."""
    return {path[1:]: mark for path, mark in marks.items() if path[:1] == (name,)}

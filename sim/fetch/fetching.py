"""Public data sets into a folder, every file as its digest says or not at all; and checks of files placed by hand.

`sim.fetch.sets` knows the sets, `sim.fetch.http` the network, `sim.fetch.words` what is said about both.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from sim.fetch.http import RefusedError, UnreachableError, WrongContentError, check_url, download
from sim.fetch.sets import SOURCE, DataFile, DataSet
from sim.fetch.words import cannot_be_fetched, placing, source_text
from sim.files.textfile import write_text
from sim.progress import progress

BASE_URL = "https://raw.githubusercontent.com"
BASE_URL_VARIABLE = "CHAMELEON_DATA_URL"
KIB = 1024


class FetchError(ValueError):
    """A set could not be fetched, or what is there is not the set."""


class Fetched(NamedTuple):
    """What became of the files of a set, in the catalogue's order.

    Attributes:
        folder: where they are.
        kept: names of those that were there and right.
        new: names of those that were fetched.
    """

    folder: Path
    kept: list[str]
    new: list[str]


class Checked(NamedTuple):
    """What is said of a file that was looked at.

    Attributes:
        name: the file's.
        verdict: "ok", "absent", "wrong" or "made anew" (a table that is not the one known, but has its columns).
        told: the rest of the sentence.
        is_fault: whether the set is not usable because of it.
    """

    name: str
    verdict: str
    told: str
    is_fault: bool


def base_url(given: str | None) -> str:
    """Return the URL below which repositories lie: the given one, else the environment's, else GitHub's.

    Raises:
        ValueError: if it is neither https nor http on this machine.
    """
    return check_url(given or os.environ.get(BASE_URL_VARIABLE) or BASE_URL)


def fetch(wanted: DataSet, root: Path, base: str, *, force: bool = False) -> Fetched:
    """Fetch every file of a set whose place is known, unless it is there already.

    Args:
        wanted: the set.
        root: the folder of all data; a folder below it takes the files.
        base: see `base_url`.
        force: replace files that are there and wrong.

    Raises:
        FetchError: if nothing of the set can be fetched, a file that is there is wrong, the network fails, or what
            came is not what was expected. Files that were fetched before that stay; no half file does.
        OSError: if a file cannot be written.
    """
    if not wanted.fetched:
        raise FetchError(cannot_be_fetched(wanted, root))
    folder = wanted.place(root)
    kept = [file for file in wanted.fetched if digest_of(folder / file.name) == file.sha256]
    pending = [file for file in wanted.fetched if file not in kept]
    if not force:
        _refuse_to_replace(folder, pending)
    with _folder(folder):
        _download_all(wanted, pending, root, base)
        _write_source(wanted, folder)
    return Fetched(folder, [file.name for file in kept], [file.name for file in pending])


def check(wanted: DataSet, root: Path) -> list[Checked]:
    """Compare the files of a set with what is known of them.

    A file that cannot be fetched may be absent where the others can.
    """
    folder = wanted.place(root)
    return [_checked(file, folder / file.name, may_be_absent=_is_extra(wanted, file)) for file in wanted.files]


def digest_of(path: Path) -> str | None:
    """Return the sha256 of a file in hexadecimal digits, None if there is nothing.

    Raises:
        OSError: if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def _refuse_to_replace(folder: Path, pending: Sequence[DataFile]) -> None:
    found = [(file, digest_of(folder / file.name)) for file in pending]
    wrong = [
        f"{folder / file.name}: expected sha256 {file.sha256}, got {digest}"
        for file, digest in found
        if digest is not None
    ]
    if wrong:
        raise FetchError(
            "\n".join([*wrong, "nothing was fetched; move what is there away, or replace it with --force"])
        )


@contextmanager
def _folder(folder: Path) -> Iterator[None]:
    """Make a folder, which goes again, with those above it, if a failure leaves it empty."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # it holds something
            for path in made:
                path.rmdir()
        raise


def _download_all(wanted: DataSet, pending: Sequence[DataFile], root: Path, base: str) -> None:
    kib = max(1, sum(file.bytes for file in pending) // KIB)
    with progress(kib, f"{wanted.name} (KiB)") as bar:
        for place, file in enumerate(pending):
            url = wanted.url(file, base)
            target = wanted.place(root) / file.name
            try:
                download(url, target, file.bytes, file.sha256, lambda size: bar.advance(size / KIB))
            except WrongContentError as error:
                msg = f"{url} is not the file that it should be: {error}; nothing of it was kept"
                raise FetchError(msg) from None
            except (RefusedError, UnreachableError) as error:
                told = f"{wanted.name}: {url}: {error}\n{placing(wanted, pending[place:], root, base)}"
                raise FetchError(told) from None


def _write_source(wanted: DataSet, folder: Path) -> None:
    here = [file for file in wanted.files if digest_of(folder / file.name) == file.sha256]
    write_text(folder / SOURCE, source_text(wanted, here))


def _is_extra(wanted: DataSet, file: DataFile) -> bool:
    return file.path is None and bool(wanted.fetched)


def _checked(file: DataFile, path: Path, *, may_be_absent: bool) -> Checked:
    digest = digest_of(path)
    if digest is None:
        told = f"{path} is not there" + ("; it is placed by hand, if at all" if may_be_absent else "")
        return Checked(file.name, "absent", told, not may_be_absent)
    if digest == file.sha256:
        return Checked(file.name, "ok", f"{file.bytes} bytes, sha256 as expected", is_fault=False)
    differs = f"expected sha256 {file.sha256}, got {digest}"
    if file.made_from is None:
        return Checked(file.name, "wrong", differs, is_fault=True)
    missing = _missing_columns(file, path)
    if missing:
        return Checked(file.name, "wrong", f"{differs}; columns are missing: {', '.join(missing)}", is_fault=True)
    has = "its columns are all there, its rows were" if file.columns else "its content was"
    return Checked(file.name, "made anew", f"{differs}; {has} not compared", is_fault=False)


def _missing_columns(file: DataFile, path: Path) -> list[str]:
    if not file.columns:
        return []
    with path.open(encoding="utf-8-sig", errors="replace") as text:
        header = [name.strip().strip('"') for name in text.readline().split(",")]
    return [name for name in file.columns if name not in header]

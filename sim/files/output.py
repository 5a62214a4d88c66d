"""Files and folders that are written: whole or not at all, where they were asked for, with errors that name them."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

MOST_LINKS = 40  # as the system's own
OPEN_FILES = {"/proc/self/fd", "/dev/fd"}
MOST_LETTERS = 60  # of a name in that of its draft, which has a limit of its own: 255 bytes


@contextmanager
def drafted(target: Path) -> Iterator[Path]:
    """Yield a path to write a file to; it is put in place by one rename, or removed if writing it fails.

    The target's folder is made, and a symbolic link is followed. A pipe or a device cannot appear whole: it is written
    itself. What is open already, such as /dev/stdout, gets the whole at once, behind what it has.

    Raises:
        OSError: about the target, never about its draft; IsADirectoryError if it is a folder.
    """
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    place = place_of(target)
    if target.is_file() and (number := _descriptor(target)) is not None:
        with _draft_of_open(number, target) as draft:
            yield draft
        return
    if not _appears(place, target):
        with told_of(target, target):
            yield target
        return
    make_folder(place.parent, target)
    draft = draft_of(place)
    try:
        with told_of(target, draft):
            yield draft
            if place.exists():
                draft.chmod(place.stat().st_mode & 0o777)  # what others may not read stays so
            draft.replace(place)
    finally:
        draft.unlink(missing_ok=True)


def place_of(target: Path) -> Path:
    """Return the absolute path that a file or folder is put at: where the target leads if it is a symbolic link."""
    return Path(os.path.realpath(target)) if target.is_symlink() else target.absolute()


def draft_of(place: Path) -> Path:
    """Return where a file or folder grows until it is whole: beside its place, another one for each process."""
    return place.with_name(f".{place.name[:MOST_LETTERS]}.{os.getpid()}.draft")


def make_folder(folder: Path, target: Path) -> None:
    """Make the folder of a target, with those above it, unless it is there.

    Raises:
        OSError: about the target.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(target)) from None
    except OSError as error:
        raise _about(error, target) from error


@contextmanager
def told_of(target: Path, draft: Path) -> Iterator[None]:
    """Turn an error of the system that names the draft, or no file at all, into one about its target.

    Args:
        target: as the user gave it.
        draft: a file, or a folder, whose files are named by where they would be.

    Raises:
        OSError: of the same kind.
    """
    try:
        yield
    except OSError as error:
        named = draft if error.filename is None else Path(os.fsdecode(error.filename))
        if error.errno is None or not named.is_relative_to(draft):
            raise
        raise _about(error, target / named.relative_to(draft)) from error


def check_file(target: Path) -> None:
    """See to it, before anything is done in vain, that a file can be written.

    Raises:
        ValueError: if it is a folder, or nobody may write there.
    """
    if target.is_dir():
        msg = f"{target} is a directory; a file is needed"
        raise ValueError(msg)
    place = place_of(target)
    if _appears(place, target) and _descriptor(target) is None:
        check_folder(place.parent, target)
    elif not os.access(target, os.W_OK):
        msg = f"{target} cannot be written: {os.strerror(errno.EACCES)}"
        raise ValueError(msg)


def check_folder(folder: Path, target: Path) -> None:
    """See to it, before anything is done in vain, that something can be made in a folder.

    Args:
        folder: it is made later if it is not there.
        target: what is to be written there, as the user gave it.

    Raises:
        ValueError: if it is no folder, or nobody may write there.
    """
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        msg = f"{nearest} is a file; a directory is needed for {target}"
        raise ValueError(msg)
    try:
        TemporaryDirectory(prefix=f".{target.name}.", dir=nearest).cleanup()
    except OSError as error:
        msg = f"{target} cannot be written: {nearest}: {error.strerror}"
        raise ValueError(msg) from error


@contextmanager
def _draft_of_open(number: int, target: Path) -> Iterator[Path]:
    """Yield a path whose content is then written to an open file, at the place where its owner goes on."""
    with TemporaryDirectory() as folder:
        draft = Path(folder) / target.name
        with told_of(target, draft):
            yield draft
            sys.stdout.flush()
            with draft.open("rb") as whole, os.fdopen(os.dup(number), "wb") as out:
                shutil.copyfileobj(whole, out)


def _descriptor(target: Path) -> int | None:
    """Return the number of the open file that a path such as /dev/stdout leads to; None if it is none of ours."""
    numbers = (link.name for link in _links(target) if str(link.parent) in OPEN_FILES and link.name.isdigit())
    return next(map(int, numbers), None)


def _appears(place: Path, target: Path) -> bool:
    """Whether a file that is put in place is then what the target leads to."""
    return not target.exists() or (place.is_file() and place.samefile(target))


def _links(target: Path) -> Iterator[Path]:
    """Yield a path, and each that it leads to by symbolic links of its last part."""
    here = target.absolute()
    for _ in range(MOST_LINKS):
        yield here
        if not here.is_symlink():
            return
        here = here.parent / here.readlink()


def _about(error: OSError, name: Path) -> OSError:
    """Return the same error about another name, in the system's words: a library's may hold the old one."""
    return OSError(error.errno, os.strerror(error.errno or 0), str(name))

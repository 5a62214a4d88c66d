"""What is said about public data sets: where a file comes from, how to place it by hand, what to cite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from sim.fetch.sets import DataFile, DataSet


def account(entry: DataSet, root: Path, base_url: str) -> str:
    """Return everything that is known of a set: source, licence, terms, and each file with how to get it."""
    lines = [f"{entry.name}: {entry.what}", *_credits(entry), "files:"]
    for file in entry.files:
        lines += _of_file(entry, file, root, base_url)
    if entry.fetched:
        lines.append(f"`chameleon data fetch {entry.name}` fetches {_those_with_urls(entry)} into {entry.place(root)}.")
    if entry.by_hand:
        lines += _how_to_place(entry, root)
    return "\n".join(lines)


def cannot_be_fetched(entry: DataSet, root: Path) -> str:
    """Return why no file of a set is fetched, where it comes from and how to place it."""
    lines = [f"{entry.name} cannot be fetched as is: {_why(entry.by_hand)}.", *_credits(entry), "files:"]
    for file in entry.by_hand:
        lines += _of_file(entry, file, root, "")
    return "\n".join([*lines, *_how_to_place(entry, root)])


def not_fetched(entry: DataSet) -> list[str]:
    """Return a sentence for each file that is left out when the others of its set are fetched."""
    return [
        f"{file.name} is not fetched: {_why([file])} ({_origin(entry, file)}); "
        f"`chameleon data list {entry.name}` says how to place it"
        for file in entry.by_hand
    ]


def placing(entry: DataSet, files: Sequence[DataFile], root: Path, base_url: str) -> str:
    """Return how files that could not be fetched are placed by hand."""
    lines = ["To place by hand what is still missing, put"]
    for file in files:
        lines += [
            f"  {entry.url(file, base_url)}",
            f"    at {entry.place(root) / file.name} ({_size_and_digest(file)})",
        ]
    return "\n".join([*lines, f"and compare it by `{_check_command(entry, root)}`. A mirror is given by --from URL."])


def source_text(entry: DataSet, files: Sequence[DataFile]) -> str:
    """Return the text of SOURCE.txt for the files that are there."""
    lines = [entry.what, *_credits(entry), "files, with their sha256 and their path in the repository:"]
    lines += [f"  {file.name}  {file.sha256}  {file.path or file.whereabouts or file.made_from}" for file in files]
    return "\n".join(lines) + "\n"


def how_much(entry: DataSet) -> str:
    """Return "fetched", "in part" or "by hand"."""
    if not entry.by_hand:
        return "fetched"
    return "in part" if entry.fetched else "by hand"


def size_text(size_bytes: int) -> str:
    """Return bytes as kB or MB."""
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:.1f} kB"


def _credits(entry: DataSet) -> list[str]:
    lines = [
        f"repository: https://github.com/{entry.repository}",
        f"commit: {entry.commit}",
        f"licence: {entry.licence}",
        f"cite: {entry.citation}",
    ]
    return [*lines, f"terms: {entry.terms}"] if entry.terms else lines


def _of_file(entry: DataSet, file: DataFile, root: Path, base_url: str) -> Iterator[str]:
    yield f"  {entry.place(root) / file.name} ({_size_and_digest(file)})"
    yield f"    {file.what}"
    if file.path is not None:
        yield f"    from {entry.url(file, base_url)}"
    else:
        yield f"    not fetched: {_origin(entry, file)}"
    if file.columns:
        yield f"    columns needed: {', '.join(file.columns)}"


def _why(files: Sequence[DataFile]) -> str:
    made = [file for file in files if file.made_from is not None]
    if len(made) == len(files):
        return "it was made from files of its repository, which has it in another form"
    return "its repository has it, but the path is not recorded"


def _origin(entry: DataSet, file: DataFile) -> str:
    if file.made_from is not None:
        return f"made from {entry.source}: {file.made_from}"
    return f"byte by byte from {entry.source}: {file.whereabouts}"


def _how_to_place(entry: DataSet, root: Path) -> list[str]:
    folder = entry.place(root)
    lines = [
        f"What is not fetched is put into {folder} by hand, under the names above.",
        f"Compare it by `{_check_command(entry, root)}`.",
    ]
    return [*lines, f"Commands that read such tables take the folder as --data {folder}."] if entry.folder else lines


def _those_with_urls(entry: DataSet) -> str:
    return "it" if len(entry.fetched) == 1 else f"{len(entry.fetched)} files" if entry.by_hand else "them"


def _check_command(entry: DataSet, root: Path) -> str:
    return f"chameleon data check {entry.name} --to {root}"


def _size_and_digest(file: DataFile) -> str:
    return f"{file.bytes} bytes, sha256 {file.sha256}"

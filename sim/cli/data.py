"""`chameleon data`: what public data sets there are, fetch one, check one that was placed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sim.fetch.sets import DataSet

app = typer.Typer(help="Public data sets, from their publishers.", no_args_is_help=True, rich_markup_mode=None)
Name = Annotated[str, typer.Argument(help="Data set; `chameleon data list` names them.")]
Root = Annotated[Path, typer.Option("--to", help="Folder of all data; the set gets a folder in it.")]
Mirror = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="URL",
        help="Mirror, which has files at URL/OWNER/REPOSITORY/COMMIT/PATH: https, or http on this machine. "
        "[default: $CHAMELEON_DATA_URL, or raw.githubusercontent.com]",
    ),
]
Catalogue = Annotated[
    Path | None, typer.Option("--catalogue", help="YAML file of data sets in place of the packaged one.")
]
DATA = Path("data")


@app.command("list")
def list_all(
    name: Annotated[str | None, typer.Argument(help="Tell everything of this one. [default: all, a line each]")] = None,
    to: Root = DATA,
    mirror: Mirror = None,
    catalogue: Catalogue = None,
) -> None:
    """List the public data sets, or tell where one comes from, what it holds and how to get it."""
    from sim.fetch.fetching import base_url  # noqa: PLC0415 - pydantic is slow to import
    from sim.fetch.sets import load_sets  # noqa: PLC0415
    from sim.fetch.words import account  # noqa: PLC0415

    if name is not None:
        typer.echo(account(_find(name, catalogue), to, base_url(mirror)))
        return
    _list(list(load_sets(catalogue).values()))


@app.command("fetch")
def fetch(
    name: Name,
    to: Root = DATA,
    mirror: Mirror = None,
    catalogue: Catalogue = None,
    *,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there and wrong.")] = False,
) -> None:
    """Fetch a data set at its pinned commit; files that are there and right are kept, every digest is compared."""
    from sim.fetch.fetching import base_url  # noqa: PLC0415
    from sim.fetch.fetching import fetch as perform  # noqa: PLC0415
    from sim.fetch.words import not_fetched  # noqa: PLC0415

    wanted = _find(name, catalogue)
    if wanted.fetched:
        _tell_terms(wanted)
    done = perform(wanted, to, base_url(mirror), force=force)
    for told in not_fetched(wanted):
        typer.echo(f"note: {told}", err=True)
    typer.echo(f"fetched: {len(done.new)}, kept: {len(done.kept)}", err=True)
    for one in wanted.fetched:
        typer.echo(done.folder / one.name)


@app.command("check")
def check(name: Name, to: Root = DATA, catalogue: Catalogue = None) -> None:
    """Compare the files of a data set, fetched or placed by hand, with their digests."""
    from sim.fetch.fetching import FetchError  # noqa: PLC0415
    from sim.fetch.fetching import check as perform  # noqa: PLC0415

    wanted = _find(name, catalogue)
    found = perform(wanted, to)
    for one in found:
        typer.echo(f"{one.name}: {one.verdict}: {one.told}")
    faults = [one.name for one in found if one.is_fault]
    if faults:
        msg = f"{name}: absent or wrong in {wanted.place(to)}: {', '.join(faults)}"
        raise FetchError(msg)


def _find(name: str, catalogue: Path | None) -> DataSet:
    from sim.fetch.sets import find_set, load_sets  # noqa: PLC0415

    return find_set(name, load_sets(catalogue))


def _tell_terms(wanted: DataSet) -> None:
    typer.echo(f"{wanted.source}; licence: {wanted.licence}; cite: {wanted.citation}", err=True)
    if wanted.terms is not None:
        typer.echo(f"terms: {wanted.terms}", err=True)


def _list(entries: list[DataSet]) -> None:
    from sim.fetch.words import how_much, size_text  # noqa: PLC0415

    width = max((len(entry.name) for entry in entries), default=0)
    for entry in entries:
        size = size_text(sum(file.bytes for file in entry.files))
        start = f"{entry.name.ljust(width)}  {how_much(entry):<7}  {size:>8}"
        typer.echo(f"{start}  {entry.what} [{entry.source}; {entry.licence}]")
    typer.echo(
        "fetched: by `chameleon data fetch NAME`. by hand: cannot be fetched as is; `chameleon data list NAME` says "
        "where it comes from, which columns it needs and where to put it. in part: some files of either kind.",
        err=True,
    )

"""What the seconds of a run rest on, told by every command that simulates."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from sim.results.summary import Summary


def tell_origins(summaries: Iterable[Summary]) -> None:
    """Say on standard error where costs come from, where they were used beyond that, and which settings are idle."""
    from sim.results.remarks import remarks  # noqa: PLC0415 - numpy is slow to import

    for remark in remarks(summaries):
        typer.echo(remark, err=True)

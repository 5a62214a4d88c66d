"""A progress bar with the time left, on standard error and only where somebody watches: results own standard output."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Generic, TypeVar, overload

Item = TypeVar("Item")


class Steps(Generic[Item]):
    """Work in progress: iterate over it, or report steps by `advance`."""

    def __init__(self, items: Iterable[Item], report: Callable[[float], None]) -> None:
        self._items = items
        self._report = report

    def advance(self, steps: float = 1) -> None:
        """Report that so many more steps are done."""
        self._report(steps)

    def __iter__(self) -> Iterator[Item]:
        for item in self._items:
            yield item
            self.advance()


@overload
def progress(work: int, description: str) -> AbstractContextManager[Steps[int]]: ...
@overload
def progress(work: Iterable[Item], description: str) -> AbstractContextManager[Steps[Item]]: ...
def progress(work: int | Iterable[Any], description: str) -> AbstractContextManager[Steps[Any]]:
    """Return a context that shows how far some work has come; iterate over what it gives, or call its `advance`.

    Args:
        work: what to iterate over, or a number of steps.
        description: the words before the bar.
    """
    items = range(work) if isinstance(work, int) else work
    if sys.stderr.isatty():
        return _shown(items, description)
    return nullcontext(Steps(items, lambda _: None))


@contextmanager
def _shown(items: Iterable[Item], description: str) -> Iterator[Steps[Item]]:
    from rich.console import Console  # noqa: PLC0415 - slow to import, and mostly not needed
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    total = operator.length_hint(items) or None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # rich would print to standard error what others print to standard output while the bar is up.
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as bar:
        task = bar.add_task(description, total=total)
        yield Steps(items, lambda steps: bar.advance(task, steps))
